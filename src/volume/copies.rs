//! Copies of custom volumes, within a pool and across pools; moves; copies brought up to date.

use std::sync::Arc;

use super::error::Error;
use super::snapshots::{alone, delete_held, find as find_snapshot};
use super::{
    Definition, are_there, check_free, find, not_running, on_pool, purge_behind, ready, remove, row, set_ready, told,
    told_of_snapshot, undone, users, with_defaults,
};
use crate::db::{Model, Phase, Tx, Volume, VolumeSnapshot};
use crate::events::lifecycle::Requestor;
use crate::instance::{Context, Manager};
use crate::names::{SnapshotName, VolumeKey, VolumeSnapshotKey};
use crate::project;
use crate::storage::VolumeId;

/// What a copy is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOf {
    /// The volume.
    pub volume: VolumeKey,
    /// As it was then; `None`: as it is.
    pub snapshot: Option<SnapshotName>,
    /// Its snapshots are copied, too.
    pub snapshots: bool,
}

/// Writes the rows of a copy: of the volume, and of the snapshots that come along.
fn write_rows(tx: &mut Tx<'_>, of: &CopyOf, record: Volume) -> Result<(), Error> {
    check_free(tx.model(), &record.key)?;
    let key = record.key.clone();
    tx.put_volume(record)?;
    if of.snapshots && of.snapshot.is_none() {
        for snapshot in whole(tx.model(), &of.volume) {
            tx.put_volume_snapshot(of_copy(&snapshot, &key, snapshot.number))?;
        }
    }
    Ok(())
}

fn whole(model: &Model, volume: &VolumeKey) -> Vec<Arc<VolumeSnapshot>> {
    let all = model.snapshots_of_volume(volume).into_iter();
    all.filter(|record| record.phase == Phase::Ready).cloned().collect()
}

fn of_copy(snapshot: &VolumeSnapshot, volume: &VolumeKey, number: i64) -> VolumeSnapshot {
    let key = VolumeSnapshotKey { volume: volume.clone(), name: snapshot.key.name.clone() };
    VolumeSnapshot { key, number, phase: Phase::Creating, renamed_from: None, ..snapshot.clone() }
}

/// What a copy takes over of its source: what the request does not say itself.
fn definition(model: &Model, of: &CopyOf, asked: Definition) -> Result<Definition, Error> {
    let (description, mut config) = match &of.snapshot {
        None => {
            let record = find(model, &of.volume)?;
            (&record.description, record.config.clone())
        }
        Some(name) => {
            let record = find_snapshot(model, &of.volume, name)?;
            (&record.description, record.config.clone())
        }
    };
    config.extend(asked.config);
    let description = if asked.description.is_empty() { description.clone() } else { asked.description };
    Ok(Definition { description, config })
}

/// Makes the files for the rows of a copy. How many of the snapshots of `to` are still to be made, their phase says.
async fn fill(context: &Context, of: &CopyOf, to: &VolumeKey, live: bool) -> Result<(), Error> {
    let model = context.db.model();
    let to_make = |record: &&Arc<VolumeSnapshot>| record.phase == Phase::Creating;
    let names: Vec<_> = model.snapshots_of_volume(to).into_iter().filter(to_make).map(|r| r.key.name.clone()).collect();
    let (from, source) = (context.pools.get(&of.volume.pool)?, VolumeId::custom(&of.volume));
    let snapshot = of.snapshot.clone();
    on_pool(context, to, move |pool, volume| {
        for name in names {
            pool.copy_custom(&volume.at(&name), &from, &source.at(&name), false)?;
        }
        match snapshot {
            Some(name) => pool.copy_custom(&volume, &from, &source.at(&name), false)?,
            None => pool.copy_custom(&volume, &from, &source, live)?,
        }
        Ok(())
    })
    .await
}

/// Copies a volume, or a snapshot of one, within its pool or to another one.
///
/// # Errors
/// Then nothing of the copy stays.
pub async fn copy(
    manager: &Manager,
    of: &CopyOf,
    to: &VolumeKey,
    asked: Definition,
    requestor: Option<&Requestor>,
) -> Result<(), Error> {
    let _verbs = manager.context().pools.locks().verbs(&of.volume, to).await;
    are_there(manager.context(), &[&of.volume.pool, &to.pool])?;
    copy_held(manager, of, to, asked, requestor).await
}

async fn copy_held(
    manager: &Manager,
    of: &CopyOf,
    to: &VolumeKey,
    asked: Definition,
    requestor: Option<&Requestor>,
) -> Result<(), Error> {
    let context = manager.context();
    let (source, key) = (of.clone(), to.clone());
    context
        .db
        .write(move |tx| {
            let definition = with_defaults(tx.model(), &key, definition(tx.model(), &source, asked)?)?;
            let project = key.project.clone();
            write_rows(tx, &source, row(&key, definition))?;
            Ok::<_, Error>(project::check_volumes(tx.model(), &project)?)
        })
        .await?;
    let live = !manager.running_with(&of.volume).is_empty();
    let made = match fill(context, of, to, live).await {
        Ok(()) => set_ready(context, to).await,
        Err(error) => Err(error),
    };
    undone(context, to, made).await?;
    told(context, "storage-volume-created", to, &[("type", "custom".into())], requestor);
    Ok(())
}

/// Brings an earlier copy up to date: its files become those of the source, snapshots come and go as the source's did. Its
/// description and configuration stay. Where there is no copy yet, it is made. A daemon that dies in between leaves each
/// of the snapshots and the files whole, old or new; doing it again goes on.
///
/// # Errors
/// [`Error::Running`] when an instance that is up has the copy, or what stands in the way.
pub async fn refresh(
    manager: &Arc<Manager>,
    of: &CopyOf,
    to: &VolumeKey,
    asked: Definition,
    requestor: Option<&Requestor>,
) -> Result<(), Error> {
    let context = manager.context();
    let _verbs = context.pools.locks().verbs(&of.volume, to).await;
    are_there(context, &[&of.volume.pool, &to.pool])?;
    let model = context.db.model();
    if find(&model, to).is_err() {
        return copy_held(manager, of, to, asked, requestor).await;
    }
    find(&model, &of.volume)?;
    if of.volume == *to {
        return Err(Error::Exists { name: to.name.clone() });
    }
    users::not_the_servers(&model, to)?;
    not_running(manager, to, "refresh")?;
    if of.snapshots && of.snapshot.is_none() {
        follow_snapshots(context, &of.volume, to, requestor).await?;
    }
    let (from, mut source) = (context.pools.get(&of.volume.pool)?, VolumeId::custom(&of.volume));
    let mut live = !manager.running_with(&of.volume).is_empty();
    if let Some(name) = &of.snapshot {
        find_snapshot(&model, &of.volume, name)?;
        (source, live) = (source.at(name), false);
    }
    let alone = alone(manager, to, "refresh");
    on_pool(context, to, move |pool, volume| {
        let old = pool.replace_custom(&volume, &from, &source, live, alone)?;
        purge_behind(&pool, vec![old]);
        Ok(())
    })
    .await?;
    told(context, "storage-volume-created", to, &[("type", "custom".into())], requestor);
    Ok(())
}

/// Deletes the snapshots of `to` that `from` does not have, and copies those that `to` lacks.
async fn follow_snapshots(
    context: &Arc<Context>,
    from: &VolumeKey,
    to: &VolumeKey,
    requestor: Option<&Requestor>,
) -> Result<(), Error> {
    let model = context.db.model();
    let (theirs, mine) = (whole(&model, from), whole(&model, to));
    let same = |one: &VolumeSnapshot, other: &VolumeSnapshot| {
        one.key.name == other.key.name && one.created_at == other.created_at
    };
    for gone in mine.iter().filter(|one| !theirs.iter().any(|other| same(one, other))) {
        delete_held(context, to, &gone.key.name, requestor).await?;
    }
    let next = mine.last().map_or(0, |last| last.number + 1);
    for (number, new) in (next..).zip(theirs.iter().filter(|one| !mine.iter().any(|other| same(one, other)))) {
        let record = of_copy(new, to, number);
        let key = record.key.clone();
        context.db.write(move |tx| Ok::<_, Error>(tx.put_volume_snapshot(record)?)).await?;
        let (pool, source, name) = (context.pools.get(&from.pool)?, VolumeId::custom(from), key.name.clone());
        let made = on_pool(context, to, move |own, volume| {
            Ok(own.copy_custom(&volume.at(&name), &pool, &source.at(&name), false)?)
        });
        let made = match made.await {
            Ok(()) => set_ready(context, to).await,
            Err(error) => Err(error),
        };
        if let Err(cause) = made {
            return Err(match super::snapshots::remove(context, &key).await {
                Ok(()) => cause,
                Err(failure) => Error::Undo { cause: Box::new(cause), failure: Box::new(failure) },
            });
        }
        told_of_snapshot(context, "storage-volume-snapshot-created", &key, &[("type", "custom".into())], requestor);
    }
    Ok(())
}

/// Moves a volume with its snapshots to another pool, or another project, perhaps by another name; the disks of instances
/// and profiles follow. None of these instances is up.
///
/// # Errors
/// [`Error::Running`], [`Error::Exists`], or what stands in the way: then it is where it was.
pub async fn move_to(
    manager: &Arc<Manager>,
    from: &VolumeKey,
    to: &VolumeKey,
    requestor: Option<&Requestor>,
) -> Result<(), Error> {
    let context = manager.context();
    let _verbs = context.pools.locks().verbs(from, to).await;
    are_there(context, &[&from.pool, &to.pool])?;
    not_running(manager, from, "move")?;
    let of = CopyOf { volume: from.clone(), snapshot: None, snapshots: true };
    let (source, key) = (of.clone(), to.clone());
    context
        .db
        .write(move |tx| {
            let old = find(tx.model(), &source.volume)?.clone();
            check_users(tx.model(), &source.volume, &key)?;
            let project = key.project.clone();
            write_rows(tx, &source, Volume { key, phase: Phase::Creating, ..(*old).clone() })?;
            // Within a project there is not more of it for long.
            if project != source.volume.project {
                project::check_volumes(tx.model(), &project)?;
            }
            Ok::<_, Error>(())
        })
        .await?;
    // One that was stopped may have started meanwhile: it is looked for again, when nobody can open it any more.
    let made = match fill(context, &of, to, true).await {
        Ok(()) => swap(manager, from, to).await,
        Err(error) => Err(error),
    };
    undone(context, to, made).await?;
    told(context, "storage-volume-created", to, &[("type", "custom".into())], requestor);
    remove(context, from).await?;
    told(context, "storage-volume-deleted", from, &[], requestor);
    Ok(())
}

/// From here on the new one is it, and the old one goes.
async fn swap(manager: &Arc<Manager>, from: &VolumeKey, to: &VolumeKey) -> Result<(), Error> {
    let context = manager.context();
    let _alone = context.pools.locks().replacing(from).await;
    not_running(manager, from, "move")?;
    let (from, to) = (from.clone(), to.clone());
    context
        .db
        .write(move |tx| {
            ready(tx, &to)?;
            check_users(tx.model(), &from, &to)?;
            users::follow(tx, &from, &to)?;
            let old = find(tx.model(), &from)?.clone();
            Ok(tx.put_volume(Volume { phase: Phase::Deleting, ..(*old).clone() })?)
        })
        .await
}

/// In another project its users would not find it.
fn check_users(model: &Model, from: &VolumeKey, to: &VolumeKey) -> Result<(), Error> {
    users::not_the_servers(model, from)?;
    if from.project == to.project {
        return Ok(());
    }
    let by = users::Users::of_one(model, from);
    if by.is_empty() { Ok(()) } else { Err(Error::InUse { by, hidden: 0 }) }
}
