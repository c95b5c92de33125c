//! Custom storage volumes: made, changed, renamed, copied, moved, snapshotted, deleted.
//!
//! ```text
//!  create    row "creating" ──directory──> "ready"                                         crash: undone
//!  copy      rows "creating", of volume and snapshots ──directories──> "ready"             crash: undone
//!  move      the same in the other pool ──> new rows "ready", the old one "deleting", disks
//!            of instances and profiles name the new one (one transaction) ──> no old row   crash: undone; then finished
//!  rename    row "new" with renamed_from, disks name it ──directories──> no renamed_from   crash: finished
//!  delete    row "deleting" ──directories──> no row                                        crash: finished
//!  server    see [`server`]
//!  restore   a copy of the snapshot and the volume change places in one step               crash: before it or after it
//! ```
//! Verbs of one volume wait for each other ([`crate::storage::VolumeLocks`]). What replaces or renames a volume needs
//! that no instance which is up has it as a disk; who is just putting it in is waited for.

mod copies;
mod error;
mod schedule;
mod server;
mod settle;
mod snapshots;
mod users;

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::api::wire::Config;
use crate::config;
use crate::db::{self, Model, Phase, Volume};
use crate::events::lifecycle::{Lifecycle, Requestor};
use crate::instance::{Context, Manager};
use crate::names::{VolumeKey, VolumeSnapshotKey};
use crate::project;
use crate::storage::{self, Pool, VolumeId};

pub use copies::{CopyOf, copy, move_to, refresh};
pub use error::Error;
pub use schedule::{follow_schedules, has_schedule, round};
pub use server::{Moves, Unfit, settle as settle_server};
pub use settle::settle;
pub use snapshots::update as update_snapshot;
pub use snapshots::{NewSnapshot, SnapshotChange, find as find_snapshot, restore};
pub use snapshots::{create as create_snapshot, delete as delete_snapshot, rename as rename_snapshot};
pub use users::{User, Users};

/// What of a volume can be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Free text.
    pub description: String,
    /// Configuration.
    pub config: Config,
}

/// A volume that is whole.
///
/// # Errors
/// [`Error::NotFound`].
pub fn find<'a>(model: &'a Model, key: &VolumeKey) -> Result<&'a Arc<Volume>, Error> {
    model.volumes.get(key).filter(|record| record.phase == Phase::Ready).ok_or(Error::NotFound)
}

/// Refuses a name that a volume has, or whose files one has that is just renamed.
fn check_free(model: &Model, key: &VolumeKey) -> Result<(), Error> {
    if !model.pools.get(&key.pool).is_some_and(|record| record.phase == Phase::Ready) {
        return Err(Error::NoSuchPool { pool: key.pool.clone() });
    }
    let renamed = |other: &&Arc<Volume>| {
        other.key.pool == key.pool && other.key.project == key.project && other.renamed_from.as_ref() == Some(&key.name)
    };
    if model.volumes.contains_key(key) || model.volumes.values().any(|other| renamed(&other)) {
        return Err(Error::Exists { name: key.name.clone() });
    }
    Ok(())
}

/// Refuses what pools that are away could not take back, before anything is written down.
fn are_there(context: &Context, pools: &[&crate::names::PoolName]) -> Result<(), Error> {
    Ok(pools.iter().try_for_each(|pool| context.pools.get(pool).map(drop))?)
}

fn row(key: &VolumeKey, definition: Definition) -> Volume {
    Volume {
        key: key.clone(),
        phase: Phase::Creating,
        description: definition.description,
        config: definition.config,
        created_at: db::now(),
        renamed_from: None,
    }
}

/// What a new volume is, with what its pool says of new volumes.
fn with_defaults(model: &Model, key: &VolumeKey, definition: Definition) -> Result<Definition, Error> {
    let pool = model.pools.get(&key.pool).ok_or_else(|| Error::NoSuchPool { pool: key.pool.clone() })?;
    let config = config::with_volume_defaults(&pool.config, definition.config);
    config::validate_volume(&config)?;
    Ok(Definition { config, ..definition })
}

/// Makes an empty volume; what its definition leaves open, its pool says (`volume.*`).
///
/// # Errors
/// Then nothing of it stays.
pub async fn create(
    manager: &Manager,
    key: &VolumeKey,
    definition: Definition,
    requestor: Option<&Requestor>,
) -> Result<(), Error> {
    config::validate_volume(&definition.config)?;
    let context = manager.context();
    let _verb = context.pools.locks().verb(key).await;
    are_there(context, &[&key.pool])?;
    let key_of_row = key.clone();
    context
        .db
        .write(move |tx| {
            check_free(tx.model(), &key_of_row)?;
            let record = row(&key_of_row, with_defaults(tx.model(), &key_of_row, definition)?);
            let project = record.key.project.clone();
            tx.put_volume(record)?;
            Ok::<_, Error>(project::check_volumes(tx.model(), &project)?)
        })
        .await?;
    let made = on_pool(context, key, |pool, volume| Ok(pool.create_custom(&volume)?)).await;
    let made = match made {
        Ok(()) => set_ready(context, key).await,
        Err(error) => Err(error),
    };
    undone(context, key, made).await?;
    told(context, "storage-volume-created", key, &[("type", "custom".into())], requestor);
    Ok(())
}

/// What failed is taken back.
async fn undone(context: &Arc<Context>, key: &VolumeKey, made: Result<(), Error>) -> Result<(), Error> {
    let Err(cause) = made else { return Ok(()) };
    Err(match remove(context, key).await {
        Ok(()) => cause,
        Err(failure) => Error::Undo { cause: Box::new(cause), failure: Box::new(failure) },
    })
}

/// The volume and its snapshots are whole.
async fn set_ready(context: &Arc<Context>, key: &VolumeKey) -> Result<(), Error> {
    let size = context.db.model().volumes.get(key).and_then(|record| size_of(&record.config));
    if size.is_some() {
        limit(context, key, size).await?;
    }
    let key = key.clone();
    context.db.write(move |tx| ready(tx, &key)).await
}

/// Bytes that a volume may have; as with root disks, 0 is no limit.
fn size_of(config: &Config) -> Option<u64> {
    config.get("size").and_then(|text| config::parse_size(text)).filter(|bytes| *bytes > 0)
}

/// Limits what a volume may have. Where the pool cannot, the size is only what projects count, as with LXD.
async fn limit(context: &Arc<Context>, key: &VolumeKey, size: Option<u64>) -> Result<(), Error> {
    on_pool(context, key, move |pool, volume| match pool.set_quota(&volume, size) {
        Err(error @ storage::Error::NoQuotas { .. }) => {
            tracing::warn!(%volume, %error, "its size is not held");
            Ok(())
        }
        limited => Ok(limited?),
    })
    .await
}

fn ready(tx: &mut db::Tx<'_>, key: &VolumeKey) -> Result<(), Error> {
    let record = tx.model().volumes.get(key).cloned().ok_or(Error::NotFound)?;
    tx.put_volume(Volume { phase: Phase::Ready, ..(*record).clone() })?;
    let snapshots: Vec<_> = tx.model().snapshots_of_volume(key).into_iter().cloned().collect();
    for snapshot in snapshots.into_iter().filter(|snapshot| snapshot.phase == Phase::Creating) {
        tx.put_volume_snapshot(db::VolumeSnapshot { phase: Phase::Ready, ..(*snapshot).clone() })?;
    }
    Ok(())
}

/// Changes description and configuration to what `change` makes of them.
///
/// # Errors
/// Of the change, or when what it makes does not fit; then all is as it was.
pub async fn update(
    manager: &Manager,
    key: &VolumeKey,
    change: impl FnOnce(&Volume) -> Result<Definition, Error> + Send + 'static,
    requestor: Option<&Requestor>,
) -> Result<(), Error> {
    let context = manager.context();
    let _verb = context.pools.locks().verb(key).await;
    // Whoever is just putting it in, does it as it was.
    let _alone = context.pools.locks().replacing(key).await;
    let (of, running) = (key.clone(), manager.running_with(key));
    let (old, new) = context
        .db
        .write(move |tx| {
            let old = find(tx.model(), &of)?.clone();
            let Definition { description, config } = change(&old)?;
            config::validate_volume(&config)?;
            if config::is_unmapped(&config) != config::is_unmapped(&old.config) && !running.is_empty() {
                return Err(Error::Running { doing: "change security.unmapped of", by: running, hidden: 0 });
            }
            let new = Volume { description, config, ..(*old).clone() };
            tx.put_volume(new.clone())?;
            project::check_volumes(tx.model(), &of.project)?;
            Ok::<_, Error>((old, new))
        })
        .await?;
    let sizes = (size_of(&old.config), size_of(&new.config));
    if sizes.0 != sizes.1
        && let Err(error) = limit(context, key, sizes.1).await
    {
        context.db.write(move |tx| Ok::<_, Error>(tx.put_volume((*old).clone())?)).await?;
        return Err(error);
    }
    told(context, "storage-volume-updated", key, &[], requestor);
    Ok(())
}

/// Removes a volume that nobody has as a disk, with its snapshots; with `forget` even when its pool is away, where its files
/// stay then.
///
/// # Errors
/// [`Error::InUse`], or when it cannot be moved away: the next start of the daemon finishes it.
pub async fn delete(
    manager: &Manager,
    key: &VolumeKey,
    forget: bool,
    requestor: Option<&Requestor>,
) -> Result<(), Error> {
    let context = manager.context();
    let _verb = context.pools.locks().verb(key).await;
    let is_away = match context.pools.get(&key.pool) {
        Ok(_) => false,
        Err(cause) if !forget => return Err(Error::Away { cause }),
        Err(storage::Error::Unavailable { .. }) => true,
        Err(error) => return Err(error.into()),
    };
    let alone = context.pools.locks().replacing(key).await;
    let of = key.clone();
    let snapshots = context
        .db
        .write(move |tx| {
            let record = find(tx.model(), &of)?.clone();
            let mut by = Users::of_one(tx.model(), &of);
            // What is lost with its pool, the daemon need not keep either.
            by.retain(|user| !(is_away && matches!(user, User::Server(..))));
            if !by.is_empty() {
                return Err(Error::InUse { by, hidden: 0 });
            }
            server::forget(tx, &of)?;
            tx.put_volume(Volume { phase: Phase::Deleting, ..(*record).clone() })?;
            let snapshots = tx.model().snapshots_of_volume(&of);
            Ok::<Vec<_>, Error>(snapshots.into_iter().map(|snapshot| snapshot.key.clone()).collect())
        })
        .await?;
    drop(alone);
    if is_away {
        let key = key.clone();
        context.db.write(move |tx| Ok::<_, Error>(tx.delete_volume(&key)?)).await?;
        server::begin_anew(context).await;
    } else {
        remove(context, key).await?;
    }
    for snapshot in &snapshots {
        told_of_snapshot(context, "storage-volume-snapshot-deleted", snapshot, &[], requestor);
    }
    told(context, "storage-volume-deleted", key, &[], requestor);
    Ok(())
}

/// Removes what there is of a volume and its snapshots, then its row.
async fn remove(context: &Arc<Context>, key: &VolumeKey) -> Result<(), Error> {
    let model = context.db.model();
    let snapshots: Vec<_> = model.snapshots_of_volume(key).iter().map(|record| record.key.name.clone()).collect();
    on_pool(context, key, move |pool, volume| {
        let mut trash: Vec<_> = pool.delete_custom(&volume)?.into_iter().collect();
        for name in snapshots {
            trash.extend(pool.delete_custom(&volume.at(&name))?);
        }
        purge_behind(&pool, trash);
        Ok(())
    })
    .await?;
    let key = key.clone();
    context.db.write(move |tx| Ok::<_, Error>(tx.delete_volume(&key)?)).await
}

/// Removes what waits for it behind the answer; what a crash leaves of it, the pool's next opening removes.
fn purge_behind(pool: &Arc<Pool>, trash: Vec<std::path::PathBuf>) {
    let pool = Arc::clone(pool);
    tokio::task::spawn_blocking(move || {
        for path in trash {
            if let Err(error) = pool.purge(&path) {
                tracing::warn!(%error, "removing a deleted volume");
            }
        }
    });
}

/// Gives a volume another name, also in the disks of instances and profiles. None of these instances is up.
///
/// # Errors
/// [`Error::Exists`], [`Error::Running`], or what stands in the way: then it has its old name.
pub async fn rename(
    manager: &Manager,
    from: &VolumeKey,
    to: &VolumeKey,
    requestor: Option<&Requestor>,
) -> Result<(), Error> {
    let context = manager.context();
    let _verbs = context.pools.locks().verbs(from, to).await;
    are_there(context, &[&from.pool])?;
    let _alone = context.pools.locks().replacing(from).await;
    not_running(manager, from, "rename")?;
    swap_rows(context, from, to).await?;
    if let Err(cause) = finish_rename(context, to).await {
        let back = async {
            swap_rows(context, to, from).await?;
            finish_rename(context, from).await
        };
        return Err(match back.await {
            Ok(()) => cause,
            Err(failure) => Error::Undo { cause: Box::new(cause), failure: Box::new(failure) },
        });
    }
    told(context, "storage-volume-renamed", to, &[("old_name", from.name.as_str().into())], requestor);
    Ok(())
}

/// Refuses what needs that no instance which is up has the volume.
fn not_running(manager: &Manager, key: &VolumeKey, doing: &'static str) -> Result<(), Error> {
    let by = manager.running_with(key);
    if by.is_empty() { Ok(()) } else { Err(Error::Running { doing, by, hidden: 0 }) }
}

async fn swap_rows(context: &Context, from: &VolumeKey, to: &VolumeKey) -> Result<(), Error> {
    let (from, to) = (from.clone(), to.clone());
    context
        .db
        .write(move |tx| {
            let mut record = (*tx.model().volumes.get(&from).cloned().ok_or(Error::NotFound)?).clone();
            users::not_the_servers(tx.model(), &from)?;
            // Back to the name that its files may still have.
            if record.renamed_from.as_ref() != Some(&to.name) {
                check_free(tx.model(), &to)?;
            }
            record.key = to.clone();
            record.renamed_from = Some(from.name.clone());
            let snapshots: Vec<_> = tx.model().snapshots_of_volume(&from).into_iter().cloned().collect();
            tx.delete_volume(&from)?;
            tx.put_volume(record)?;
            for snapshot in snapshots {
                let key = VolumeSnapshotKey { volume: to.clone(), name: snapshot.key.name.clone() };
                tx.put_volume_snapshot(db::VolumeSnapshot { key, ..(*snapshot).clone() })?;
            }
            users::follow(tx, &from, &to)
        })
        .await
}

/// Brings the files to the name of the row; what is done already is fine.
async fn finish_rename(context: &Arc<Context>, key: &VolumeKey) -> Result<(), Error> {
    let record = context.db.model().volumes.get(key).cloned().ok_or(Error::NotFound)?;
    let Some(old) = &record.renamed_from else { return Ok(()) };
    let old = VolumeId::custom(&VolumeKey { name: old.clone(), ..key.clone() });
    on_pool(context, key, move |pool, volume| Ok(pool.rename_volume(&old, &volume)?)).await?;
    context
        .db
        .write(move |tx| {
            let record = tx.model().volumes.get(&record.key).cloned().ok_or(Error::NotFound)?;
            Ok::<_, Error>(tx.put_volume(Volume { renamed_from: None, ..(*record).clone() })?)
        })
        .await
}

/// Does blocking work on the pool of a volume.
async fn on_pool<T: Send + 'static>(
    context: &Context,
    key: &VolumeKey,
    work: impl FnOnce(Arc<Pool>, VolumeId) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let (pool, volume) = (context.pools.get(&key.pool)?, VolumeId::custom(key));
    blocking(move || work(pool, volume)).await
}

/// Runs blocking work on the runtime's pool for it. A panic of it goes on here.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Cancelled: only when the runtime ends.
            Err(_) => Err(Error::Db(db::Error::Closed)),
        },
    }
}

/// Tells everyone what became of a volume. As with LXD, the source names it with its project.
fn told(
    context: &Context,
    action: &'static str,
    key: &VolumeKey,
    details: &[(&str, Value)],
    requestor: Option<&Requestor>,
) {
    tell(context, action, key, String::new(), details, requestor);
}

fn told_of_snapshot(
    context: &Context,
    action: &'static str,
    key: &VolumeSnapshotKey,
    details: &[(&str, Value)],
    requestor: Option<&Requestor>,
) {
    tell(context, action, &key.volume, format!("/snapshots/{}", key.name.in_url()), details, requestor);
}

fn tell(
    context: &Context,
    action: &'static str,
    key: &VolumeKey,
    below: String,
    details: &[(&str, Value)],
    requestor: Option<&Requestor>,
) {
    let (pool, project, name) = (key.pool.in_url(), key.project.in_url(), key.name.in_url());
    context.bus.lifecycle(Lifecycle {
        action,
        source: format!("/1.0/storage-pools/{pool}/volumes/custom/{project}_{name}{below}"),
        project: &key.project,
        context: details.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<Map<_, _>>(),
        requestor,
    });
}
