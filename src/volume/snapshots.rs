//! Snapshots of custom volumes.

use std::sync::Arc;

use super::error::Error;
use super::{are_there, find as find_volume, not_running, on_pool, purge_behind, told, told_of_snapshot, users};
use crate::config::{schedule, snapshot_pattern};
use crate::db::{self, Model, Phase, Seconds, VolumeSnapshot};
use crate::events::lifecycle::Requestor;
use crate::instance::{Context, Manager};
use crate::names::{SnapshotName, VolumeKey, VolumeSnapshotKey};
use crate::project;

/// A new snapshot.
#[derive(Debug, Clone, Default)]
pub struct NewSnapshot {
    /// `None`: by the pattern of the volume.
    pub name: Option<SnapshotName>,
    /// Free text; empty: the volume's.
    pub description: String,
    /// When it is to be deleted. `None`: as the volume says; 0 is never.
    pub expires_at: Option<Seconds>,
}

/// What of a snapshot is to be changed.
#[derive(Debug, Clone, Default)]
pub struct SnapshotChange {
    /// Free text.
    pub description: Option<String>,
    /// When it is to be deleted; 0 is never.
    pub expires_at: Option<Seconds>,
}

/// A snapshot that is whole.
///
/// # Errors
/// [`Error::NoSnapshot`].
pub fn find<'a>(model: &'a Model, volume: &VolumeKey, name: &SnapshotName) -> Result<&'a Arc<VolumeSnapshot>, Error> {
    let found = model.volume_snapshots.get(&key(volume, name)).filter(|record| record.phase == Phase::Ready);
    found.ok_or_else(|| Error::NoSnapshot { name: name.clone() })
}

fn key(volume: &VolumeKey, name: &SnapshotName) -> VolumeSnapshotKey {
    VolumeSnapshotKey { volume: volume.clone(), name: name.clone() }
}

fn row(model: &Model, volume: &VolumeKey, new: &NewSnapshot) -> Result<VolumeSnapshot, Error> {
    let record = find_volume(model, volume)?;
    let others = model.snapshots_of_volume(volume);
    let now = db::now();
    let name = match &new.name {
        Some(name) => name.clone(),
        None => {
            let pattern = record.config.get("snapshots.pattern").map_or("snap%d", String::as_str);
            let names: Vec<&str> = others.iter().map(|other| other.key.name.as_str()).collect();
            let refuse = |reason| Error::Pattern { pattern: pattern.to_owned(), reason };
            snapshot_pattern::next(pattern, &names, now).map_err(refuse)?
        }
    };
    if others.iter().any(|other| other.key.name == name || other.renamed_from.as_ref() == Some(&name)) {
        return Err(Error::SnapshotExists { name });
    }
    let expiry = record.config.get("snapshots.expiry").and_then(|text| schedule::parse_expiry(text).ok());
    let usual = expiry.map_or(0, |expiry| schedule::expires(&expiry, now));
    Ok(VolumeSnapshot {
        key: key(volume, &name),
        number: others.last().map_or(0, |last| last.number + 1),
        phase: Phase::Creating,
        description: if new.description.is_empty() { &record.description } else { &new.description }.clone(),
        config: record.config.clone(),
        created_at: now,
        expires_at: new.expires_at.unwrap_or(usual),
        renamed_from: None,
    })
}

/// Makes a snapshot; its name. Instances that have the volume go on, and on drivers that copy, each file is what it was at
/// some moment of the copy.
///
/// # Errors
/// Then nothing of it stays.
pub async fn create(
    manager: &Manager,
    volume: &VolumeKey,
    new: NewSnapshot,
    requestor: Option<&Requestor>,
) -> Result<SnapshotName, Error> {
    let context = manager.context();
    let _verb = context.pools.locks().verb(volume).await;
    are_there(context, &[&volume.pool])?;
    let of = volume.clone();
    let record = context
        .db
        .write(move |tx| {
            users::not_the_servers(tx.model(), &of)?;
            project::may_make_snapshots(tx.model(), &of.project)?;
            let record = row(tx.model(), &of, &new)?;
            tx.put_volume_snapshot(record.clone())?;
            Ok::<_, Error>(record)
        })
        .await?;
    let (name, live) = (record.key.name.clone(), !manager.running_with(volume).is_empty());
    let made = on_pool(context, volume, move |pool, volume| Ok(pool.snapshot_custom(&volume, &name, live)?)).await;
    let made = match made {
        Ok(()) => change(context, &record.key, |record| record.phase = Phase::Ready).await,
        Err(error) => Err(error),
    };
    if let Err(cause) = made {
        return Err(match remove(context, &record.key).await {
            Ok(()) => cause,
            Err(failure) => Error::Undo { cause: Box::new(cause), failure: Box::new(failure) },
        });
    }
    let details = [("type", "custom".into())];
    told_of_snapshot(context, "storage-volume-snapshot-created", &record.key, &details, requestor);
    Ok(record.key.name)
}

async fn change(
    context: &Context,
    key: &VolumeSnapshotKey,
    change: impl FnOnce(&mut VolumeSnapshot) + Send + 'static,
) -> Result<(), Error> {
    let key = key.clone();
    context
        .db
        .write(move |tx| {
            let found = tx.model().volume_snapshots.get(&key).cloned();
            let mut record = (*found.ok_or_else(|| Error::NoSnapshot { name: key.name.clone() })?).clone();
            change(&mut record);
            Ok::<_, Error>(tx.put_volume_snapshot(record)?)
        })
        .await
}

/// Removes what there is of a snapshot, then its row.
pub(super) async fn remove(context: &Arc<Context>, key: &VolumeSnapshotKey) -> Result<(), Error> {
    let name = key.name.clone();
    on_pool(context, &key.volume, move |pool, volume| {
        let trash = pool.delete_custom(&volume.at(&name))?;
        purge_behind(&pool, trash.into_iter().collect());
        Ok(())
    })
    .await?;
    let key = key.clone();
    context.db.write(move |tx| Ok::<_, Error>(tx.delete_volume_snapshot(&key)?)).await
}

/// Deletes a snapshot.
///
/// # Errors
/// [`Error::NoSnapshot`], or when it cannot be moved away: the next start of the daemon finishes it.
pub async fn delete(
    manager: &Manager,
    volume: &VolumeKey,
    name: &SnapshotName,
    requestor: Option<&Requestor>,
) -> Result<(), Error> {
    let context = manager.context();
    let _verb = context.pools.locks().verb(volume).await;
    are_there(context, &[&volume.pool])?;
    delete_held(context, volume, name, requestor).await
}

/// The same where no other verb works on the volume.
pub(super) async fn delete_held(
    context: &Arc<Context>,
    volume: &VolumeKey,
    name: &SnapshotName,
    requestor: Option<&Requestor>,
) -> Result<(), Error> {
    let key = key(volume, name);
    change(context, &key, |record| record.phase = Phase::Deleting).await?;
    remove(context, &key).await?;
    told_of_snapshot(context, "storage-volume-snapshot-deleted", &key, &[], requestor);
    Ok(())
}

/// Gives a snapshot another name.
///
/// # Errors
/// [`Error::SnapshotExists`], or what stands in the way: then it has its old name.
pub async fn rename(
    manager: &Manager,
    volume: &VolumeKey,
    from: &SnapshotName,
    to: &SnapshotName,
    requestor: Option<&Requestor>,
) -> Result<(), Error> {
    let context = manager.context();
    let _verb = context.pools.locks().verb(volume).await;
    are_there(context, &[&volume.pool])?;
    let (old, new) = (key(volume, from), key(volume, to));
    swap_row(context, &old, &new).await?;
    if let Err(cause) = finish_rename(context, &new).await {
        let back = async {
            swap_row(context, &new, &old).await?;
            finish_rename(context, &old).await
        };
        return Err(match back.await {
            Ok(()) => cause,
            Err(failure) => Error::Undo { cause: Box::new(cause), failure: Box::new(failure) },
        });
    }
    let old_name = [("old_name", from.as_str().into())];
    told_of_snapshot(context, "storage-volume-snapshot-renamed", &new, &old_name, requestor);
    Ok(())
}

async fn swap_row(context: &Context, from: &VolumeSnapshotKey, to: &VolumeSnapshotKey) -> Result<(), Error> {
    let (from, to) = (from.clone(), to.clone());
    context
        .db
        .write(move |tx| {
            let found = tx.model().volume_snapshots.get(&from).cloned();
            let mut record = (*found.ok_or_else(|| Error::NoSnapshot { name: from.name.clone() })?).clone();
            if tx.model().volume_snapshots.contains_key(&to) {
                return Err(Error::SnapshotExists { name: to.name.clone() });
            }
            record.key = to;
            record.renamed_from = Some(from.name.clone());
            tx.delete_volume_snapshot(&from)?;
            Ok(tx.put_volume_snapshot(record)?)
        })
        .await
}

/// Brings the files to the name of the row; what is done already is fine.
pub(super) async fn finish_rename(context: &Arc<Context>, key: &VolumeSnapshotKey) -> Result<(), Error> {
    let record = context.db.model().volume_snapshots.get(key).cloned();
    let record = record.ok_or_else(|| Error::NoSnapshot { name: key.name.clone() })?;
    let (Some(old), new) = (record.renamed_from.clone(), key.name.clone()) else { return Ok(()) };
    let renamed =
        on_pool(context, &key.volume, move |pool, volume| Ok(pool.rename_volume(&volume.at(&old), &volume.at(&new))?));
    renamed.await?;
    change(context, key, |record| record.renamed_from = None).await
}

/// Changes description and expiry of a snapshot, if it `fits`.
///
/// # Errors
/// [`Error::NoSnapshot`], or of `fits`.
pub async fn update(
    manager: &Manager,
    volume: &VolumeKey,
    name: &SnapshotName,
    wanted: SnapshotChange,
    fits: impl FnOnce(&VolumeSnapshot) -> Result<(), Error> + Send + 'static,
    requestor: Option<&Requestor>,
) -> Result<(), Error> {
    let context = manager.context();
    let (of, called) = (volume.clone(), name.clone());
    context
        .db
        .write(move |tx| {
            let mut record = (**find(tx.model(), &of, &called)?).clone();
            fits(&record)?;
            record.description = wanted.description.unwrap_or(record.description);
            record.expires_at = wanted.expires_at.unwrap_or(record.expires_at);
            Ok::<_, Error>(tx.put_volume_snapshot(record)?)
        })
        .await?;
    told_of_snapshot(context, "storage-volume-snapshot-updated", &key(volume, name), &[], requestor);
    Ok(())
}

/// Brings the files of a volume back to those of a snapshot. No instance that is up has it.
///
/// # Errors
/// [`Error::Running`], [`Error::NoSnapshot`], or what stands in the way: then it is what it was.
pub async fn restore(
    manager: &Arc<Manager>,
    volume: &VolumeKey,
    name: &SnapshotName,
    requestor: Option<&Requestor>,
) -> Result<(), Error> {
    let context = manager.context();
    let _verb = context.pools.locks().verb(volume).await;
    are_there(context, &[&volume.pool])?;
    find_volume(&context.db.model(), volume)?;
    not_running(manager, volume, "restore")?;
    find(&context.db.model(), volume, name)?;
    let (snapshot, alone) = (name.clone(), alone(manager, volume, "restore"));
    on_pool(context, volume, move |pool, volume| {
        let old = pool.replace_custom(&volume, &pool, &volume.at(&snapshot), false, alone)?;
        purge_behind(&pool, vec![old]);
        Ok(())
    })
    .await?;
    told(context, "storage-volume-restored", volume, &[("snapshot", name.as_str().into())], requestor);
    Ok(())
}

/// For the moment in which something takes a volume's place: nobody opens it, and no instance that is up has it. For
/// blocking work.
pub(super) fn alone(
    manager: &Arc<Manager>,
    volume: &VolumeKey,
    doing: &'static str,
) -> impl FnOnce() -> Result<tokio::sync::OwnedRwLockWriteGuard<()>, Error> + Send + 'static {
    let (manager, volume, runtime) = (Arc::clone(manager), volume.clone(), tokio::runtime::Handle::current());
    move || {
        let guard = runtime.block_on(manager.context().pools.locks().replacing(&volume));
        not_running(&manager, &volume, doing)?;
        Ok(guard)
    }
}
