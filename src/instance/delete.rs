//! Delete: phase `deleting`, then the files, then the row. A crash in between is finished at the next start.

use std::path::PathBuf;
use std::sync::Arc;

use super::actor::Actor;
use super::error::Error;
use super::snapshots::purge_behind;
use super::{Context, apparmor, blocking, confine, devices};
use crate::config;
use crate::db::{self, Phase};
use crate::events::lifecycle::Requestor;
use crate::helper::hook;
use crate::names::InstanceKey;
use crate::profile;
use crate::storage::{self, Pool, VolumeId};

/// Removes a stopped instance with all it has; with `forget` even when its pool is away, where its files stay then.
pub(super) async fn delete(
    context: &Arc<Context>,
    key: &InstanceKey,
    forget: bool,
    requestor: Option<&Requestor>,
) -> Result<(), Error> {
    // Before anything is written down: what lies in a pool that is away cannot go, and must not be forgotten unasked.
    let pool = match context.pools.get(&context.db.model().instances.get(key).ok_or(Error::NotFound)?.pool) {
        Ok(pool) => Some(pool),
        Err(cause @ storage::Error::Unavailable { .. }) if !forget => return Err(Error::Away { cause }),
        Err(storage::Error::Unavailable { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let marked = key.clone();
    let record = context
        .db
        .write(move |tx| {
            let mut record = tx.model().instances.get(&marked).map(|r| (**r).clone()).ok_or(Error::NotFound)?;
            record.phase = Phase::Deleting;
            tx.put_instance(record.clone())?;
            Ok::<_, Error>(record)
        })
        .await?;
    let model = context.db.model();
    remove(context, &record, pool).await?;
    // As LXD tells it: the newest first.
    for snapshot in model.snapshots_of(key).into_iter().rev() {
        context.snapshot_lifecycle("instance-snapshot-deleted", &snapshot.key, &[], requestor);
    }
    context.lifecycle("instance-deleted", key, requestor);
    Ok(())
}

/// Finishes the deletion of an instance in phase `deleting`.
pub(super) async fn finish(context: &Arc<Context>, record: &db::Instance) -> Result<(), Error> {
    let pool = context.pools.get(&record.pool)?;
    remove(context, record, Some(pool)).await
}

async fn remove(context: &Arc<Context>, record: &db::Instance, pool: Option<Arc<Pool>>) -> Result<(), Error> {
    remove_files(context, record, pool).await?;
    context.give_back_all(record).await;
    let key = record.key.clone();
    context.db.write(move |tx| Ok::<(), Error>(tx.delete_instance(&key)?)).await
}

/// Removes volume (without a pool: not that), link and logs; what is not there is fine.
pub(super) async fn remove_files(
    context: &Arc<Context>,
    record: &db::Instance,
    pool: Option<Arc<Pool>>,
) -> Result<(), Error> {
    let container = record.key.container();
    devices::forget(context, &container).await?;
    let (root, logs) = (context.dir.root().to_owned(), context.dir.logs(&container));
    let (spool, lxc_path) = (context.dir.spool(), context.dir.lxc_path());
    let policy = context.dir.seccomp(&container);
    let model = context.db.model();
    let snapshots: Vec<_> = model.snapshots_of(&record.key).iter().map(|record| record.key.name.clone()).collect();
    let volume = VolumeId::container(&container);
    let dir = context.dir.clone();
    blocking(move || {
        if let Some(pool) = pool {
            pool.unmount(&volume)?;
            for id in std::iter::once(volume.clone()).chain(snapshots.iter().map(|name| volume.at(name))) {
                if let Some(trash) = pool.delete_volume(&id)? {
                    purge_behind(&pool, trash);
                }
            }
        }
        storage::unlink_instance(&root, &container)?;
        storage::unlink_snapshots(&root, &container)?;
        confine::remove_policy(&policy)?;
        apparmor::remove(&dir, &container)?;
        // Another container of this name must not find the last word of this one.
        hook::take_word(&spool, &container).map_err(|error| Error::Io { doing: "remove", path: spool, error })?;
        remove_dir(lxc_path.join(&container))?;
        remove_dir(logs)
    })
    .await
}

fn remove_dir(path: PathBuf) -> Result<(), Error> {
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::Io { doing: "remove", path, error }),
        Ok(()) | Err(_) => Ok(()),
    }
}

impl Actor {
    /// Whether its configuration, or a profile's, keeps it from being deleted on request.
    pub(super) fn check_protection(&self) -> Result<(), Error> {
        let model = self.context.db.model();
        let record = model.instances.get(&self.key).ok_or(Error::NotFound)?;
        let config = profile::expand_instance(&model, record).config;
        if config::bool_of(&config, "security.protection.delete") { Err(Error::Protected) } else { Ok(()) }
    }
}
