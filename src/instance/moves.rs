//! Moving an instance that is down to another pool.
//!
//! ```text
//!  mark volatile.moving=<new> ──volumes──> row "new pool" + volatile.moved_from=<old> ──old volumes go──> no mark
//! ```
//! A crash before the row says the new pool is undone, one after that is finished.

use std::sync::Arc;

use super::error::Error;
use super::snapshots::{place, purge_behind};
use super::{Context, blocking, create, marks, quota};
use crate::db::{self, Instance, Phase};
use crate::events::lifecycle::Requestor;
use crate::names::{InstanceKey, PoolName, SnapshotName};
use crate::profile;
use crate::storage::{self, Pool, VolumeId};

/// The pool in which volumes are being made.
pub(super) const MOVING: &str = "volatile.moving";
/// The pool whose volumes are to go.
pub(super) const MOVED_FROM: &str = "volatile.moved_from";

/// Moves the instance, with its `snapshots` or without.
pub(super) async fn move_to(
    context: &Arc<Context>,
    key: &InstanceKey,
    to: PoolName,
    snapshots: bool,
    requestor: Option<&Requestor>,
) -> Result<(), Error> {
    let (old, volume) = place(context, key)?;
    let model = context.db.model();
    let record = model.instances.get(key).cloned().ok_or(Error::NotFound)?;
    if record.pool == to {
        return Ok(());
    }
    if !model.pools.get(&to).is_some_and(|pool| pool.phase == Phase::Ready) {
        return Err(Error::NoSuchPool(to));
    }
    let (new, size) = (context.pools.get(&to)?, quota::asked(&model, &record)?);
    if size.is_some() {
        let target = Arc::clone(&new);
        blocking(move || Ok::<_, Error>(target.check_limits()?)).await?;
    }
    let whole = model.snapshots_of(key).into_iter().filter(|one| snapshots && one.phase == Phase::Ready);
    let names: Vec<SnapshotName> = whole.map(|one| one.key.name.clone()).collect();
    marks::set(context, key, MOVING, Some(to.to_string())).await?;
    let (target, source, id) = (Arc::clone(&new), Arc::clone(&old), volume.clone());
    let copied = blocking(move || {
        for name in names {
            target.copy_from(&id.at(&name), &source, &id.at(&name), None)?;
        }
        target.copy_from(&id, &source, &id, None)?;
        if size.is_some() {
            target.set_quota(&id, size)?;
        }
        Ok::<_, Error>(())
    });
    let moved = match copied.await {
        Ok(()) => commit(context, key, &to, snapshots).await,
        Err(error) => Err(error),
    };
    if let Err(cause) = moved {
        let undone = async {
            remove(new, volume).await?;
            marks::set(context, key, MOVING, None).await
        };
        return Err(match undone.await {
            Ok(()) => cause,
            Err(failure) => Error::Undo { cause: Box::new(cause), failures: vec![failure] },
        });
    }
    let details = [("storage-pool".to_owned(), to.as_str().into())];
    context.lifecycle_with("instance-updated", key, &details, requestor);
    finish(context, key).await
}

/// From here on it lies in the new pool.
async fn commit(context: &Context, key: &InstanceKey, to: &PoolName, snapshots: bool) -> Result<(), Error> {
    let (key, to) = (key.clone(), to.clone());
    context
        .db
        .write(move |tx| {
            let old = tx.model().instances.get(&key).cloned().ok_or(Error::NotFound)?;
            let expanded = profile::expand_instance(tx.model(), &old).devices;
            let mut record = Instance { pool: to.clone(), ..(*old).clone() };
            record.devices = create::root_in(record.devices, &expanded, &to);
            record.config.remove(MOVING);
            record.config.insert(MOVED_FROM.to_owned(), old.pool.to_string());
            tx.put_instance(record)?;
            let all: Vec<_> = tx.model().snapshots_of(&key).into_iter().cloned().collect();
            for snapshot in all {
                if snapshots {
                    let devices = create::with_root_in(tx.model(), &snapshot, &to);
                    tx.put_snapshot(db::InstanceSnapshot { devices, ..(*snapshot).clone() })?;
                } else {
                    tx.delete_snapshot(&snapshot.key)?;
                }
            }
            Ok::<_, Error>(())
        })
        .await
}

/// Removes what there is of an instance in a pool.
async fn remove(pool: Arc<Pool>, volume: VolumeId) -> Result<(), Error> {
    blocking(move || {
        pool.unmount(&volume)?;
        let snapshots = pool.snapshot_names(&volume)?;
        for id in snapshots.iter().map(|name| volume.at(name)).chain([volume.clone()]) {
            if let Some(trash) = pool.delete_volume(&id)? {
                purge_behind(&pool, trash);
            }
        }
        Ok(())
    })
    .await
}

/// The links lead to the new pool, and what lies in the old one goes; nothing to do is fine.
async fn finish(context: &Arc<Context>, key: &InstanceKey) -> Result<(), Error> {
    let record = context.db.model().instances.get(key).cloned().ok_or(Error::NotFound)?;
    let Some(old) = record.config.get(MOVED_FROM) else { return Ok(()) };
    let (pool, volume) = place(context, key)?;
    let (state, container, id) = (context.dir.root().to_owned(), key.container(), volume.clone());
    blocking(move || {
        storage::link_instance(&state, &container, &pool.path(&id))?;
        match pool.snapshots_of(&id) {
            there if there.exists() => storage::link_snapshots(&state, &container, &there)?,
            _ => storage::unlink_snapshots(&state, &container)?,
        }
        Ok::<_, Error>(())
    })
    .await?;
    remove(context.pools.get(&PoolName::new(old.clone())?)?, volume).await?;
    marks::set(context, key, MOVED_FROM, None).await
}

/// At the daemon's start: undoes or finishes a move that a crash broke off.
pub(super) async fn settle(context: &Arc<Context>, key: &InstanceKey) -> Result<(), Error> {
    let record = context.db.model().instances.get(key).cloned().ok_or(Error::NotFound)?;
    if let Some(new) = record.config.get(MOVING) {
        remove(context.pools.get(&PoolName::new(new.clone())?)?, VolumeId::of(key)).await?;
        marks::set(context, key, MOVING, None).await?;
        tracing::info!(instance = %key, "undid an interrupted move to another pool");
    }
    if record.config.contains_key(MOVED_FROM) {
        finish(context, key).await?;
        tracing::info!(instance = %key, "finished an interrupted move to another pool");
    }
    Ok(())
}
