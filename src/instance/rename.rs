//! Rename, also into another project: the row first, then the files. A crash in between is finished at the next start.
//!
//! ```text
//!  row "old" ──commit──> row "new" + volatile.renamed_from=old ──volume, link, logs──> marker removed
//! ```
//! Each step with the files is done only if it is still to do, so that all of them can be repeated. The files of a project's
//! instance bear its name, too: to move one there is to give its files another name.

use std::path::Path;
use std::sync::Arc;

use super::error::Error;
use super::{Context, apparmor, blocking, confine, create, guests, marks, templates};
use crate::config;
use crate::db::{Instance, Model};
use crate::device::Set;
use crate::events::lifecycle::Requestor;
use crate::names::{InstanceKey, SnapshotKey, SnapshotName};
use crate::profile;
use crate::project;
use crate::storage::{self, VolumeId};

/// Says, while a rename is under way, which container name the files still have.
pub(super) const MARKER: &str = "volatile.renamed_from";

/// Gives a stopped instance another name, or another project, which must take it as it is.
pub(super) async fn rename(
    context: &Arc<Context>,
    from: &InstanceKey,
    to: &InstanceKey,
    requestor: Option<&Requestor>,
) -> Result<(), Error> {
    let model = context.db.model();
    // Before anything is written down: it could not be taken back.
    context.pools.get(&model.instances.get(from).ok_or(Error::NotFound)?.pool)?;
    let snapshots: Vec<SnapshotName> =
        model.snapshots_of(from).into_iter().map(|snapshot| snapshot.key.name.clone()).collect();
    let record = swap_row(context, from, to, true).await?;
    if let Err(cause) = move_files(context, &record, &from.container()).await {
        let back = async {
            move_files(context, &Instance { key: from.clone(), ..record.clone() }, &to.container()).await?;
            swap_row(context, to, from, false).await?;
            marks::set(context, from, MARKER, None).await
        };
        return Err(match back.await {
            Ok(()) => cause,
            Err(failure) => Error::Undo { cause: Box::new(cause), failures: vec![failure] },
        });
    }
    marks::set(context, to, MARKER, None).await?;
    if from.project == to.project {
        context.renamed(from, to, requestor);
    } else {
        moved(context, &record, from, snapshots, requestor);
    }
    Ok(())
}

/// Tells each of the projects what happened there, as LXD does.
fn moved(
    context: &Context,
    record: &Instance,
    from: &InstanceKey,
    snapshots: Vec<SnapshotName>,
    requestor: Option<&Requestor>,
) {
    let tell = |action, instance: &InstanceKey, name: &SnapshotName| {
        let key = SnapshotKey { instance: instance.clone(), name: name.clone() };
        context.snapshot_lifecycle(action, &key, &[], requestor);
    };
    context.created(record, requestor);
    snapshots.iter().for_each(|name| tell("instance-snapshot-created", &record.key, name));
    snapshots.iter().for_each(|name| tell("instance-snapshot-deleted", from, name));
    context.lifecycle("instance-deleted", from, requestor);
}

/// Finishes a rename that a crash interrupted; none is fine.
pub(super) async fn finish(context: &Arc<Context>, record: &Instance) -> Result<(), Error> {
    let Some(old) = record.config.get(MARKER) else { return Ok(()) };
    move_files(context, record, old).await?;
    marks::set(context, &record.key, MARKER, None).await?;
    tracing::info!(instance = %record.key, from = %old, "finished an interrupted rename");
    Ok(())
}

/// Whether the files of an instance that is being renamed, other than `except`, still have this name: whoever took it
/// would take them.
pub(super) fn still_named(model: &Model, key: &InstanceKey, except: Option<&InstanceKey>) -> bool {
    let container = key.container();
    let others = model.instances.values().filter(|record| Some(&record.key) != except);
    others.into_iter().any(|record| record.config.get(MARKER) == Some(&container))
}

/// Whether the project that `record` has now takes it as it is. Where the profiles there have no root disk, it gets its own.
fn settle_in(context: &Context, model: &Model, record: &mut Instance) -> Result<(), Error> {
    let project = &record.key.project;
    project::require(model, project)?;
    create::give_root(model, project, &record.profiles, &mut record.devices, &record.pool)?;
    let expanded = profile::expand(model, project, &record.profiles, &record.config, &record.devices)?;
    context.check_privilege(&expanded.config)?;
    config::check_together(&expanded.config)?;
    let devices = Set::parse(&expanded.devices)?;
    create::check_networks(model, &record.key, &devices)?;
    let pool = devices.root()?.pool.clone();
    if pool != record.pool {
        return Err(Error::PoolChange { from: record.pool.clone(), to: pool });
    }
    create::give_addresses(&devices, &mut record.config)?;
    Ok(project::check_instance(model, record)?)
}

/// `checked`: what moves to another project must fit there.
async fn swap_row(
    context: &Arc<Context>,
    from: &InstanceKey,
    to: &InstanceKey,
    checked: bool,
) -> Result<Instance, Error> {
    let (from, to, checking) = (from.clone(), to.clone(), Arc::clone(context));
    context
        .db
        .write(move |tx| {
            if tx.model().instances.contains_key(&to) || still_named(tx.model(), &to, Some(&from)) {
                return Err(Error::Exists { key: to });
            }
            let mut record = tx.model().instances.get(&from).map(|r| (**r).clone()).ok_or(Error::NotFound)?;
            record.config.insert(MARKER.to_owned(), from.container());
            guests::renew_identity(&mut record.config);
            record.key = to;
            if checked {
                templates::renamed(&mut record.config, record.key.project != from.project);
            }
            if checked && record.key.project != from.project {
                settle_in(&checking, tx.model(), &mut record)?;
            }
            let snapshots: Vec<_> = tx.model().snapshots_of(&from).into_iter().cloned().collect();
            tx.delete_instance(&from)?;
            tx.put_instance(record.clone())?;
            for snapshot in snapshots {
                let mut snapshot = (*snapshot).clone();
                snapshot.key.instance = record.key.clone();
                tx.put_snapshot(snapshot)?;
            }
            Ok(record)
        })
        .await
}

/// Moves everything that is named `old` to the name that `record` has now.
async fn move_files(context: &Context, record: &Instance, old: &str) -> Result<(), Error> {
    let pool = context.pools.get(&record.pool)?;
    let (old, new) = (old.to_owned(), record.key.container());
    let root = context.dir.root().to_owned();
    let dir = context.dir.clone();
    let (old_logs, new_logs) = (context.dir.logs(&old), context.dir.logs(&new));
    blocking(move || {
        let volume = VolumeId::container(&new);
        pool.rename_volume(&VolumeId::container(&old), &volume)?;
        confine::remove_policy(&dir.seccomp(&old))?;
        apparmor::remove(&dir, &old)?;
        storage::link_instance(&root, &new, &pool.path(&volume))?;
        storage::unlink_instance(&root, &old)?;
        if pool.snapshots_of(&volume).exists() {
            storage::link_snapshots(&root, &new, &pool.snapshots_of(&volume))?;
        }
        storage::unlink_snapshots(&root, &old)?;
        move_logs(&old_logs, &new_logs)
    })
    .await
}

fn move_logs(from: &Path, to: &Path) -> Result<(), Error> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Io { doing: "rename", path: from.to_owned(), error })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
