//! Snapshots of an instance: its root and its definition as they were.
//!
//! ```text
//!  create   row "creating" ──volume──link──> "ready"        crash: undone
//!  copy     volumes for the rows of another instance       crash: undone with those rows
//!  hold     mark volatile.held ──volume──> no mark         crash: goes on
//!  delete   row "deleting" ──volume──> no row               crash: finished
//!  rename   row "new" + volatile.renamed_from ──volume──> marker removed      crash: finished
//!  restore  see [`restore`]
//! ```
//! The task of the instance does all of it, so that nothing else happens to the volume meanwhile. The first snapshot's
//! directory brings the link `<state>/snapshots/<container>`, the last one's takes it away.

mod act;
mod copies;
mod pause;
pub(super) mod restore;
mod schedule;

use std::sync::Arc;

use super::create::CopyOf;
use super::error::Error;
use super::{Context, blocking, marks, rename, update};
use crate::config::{schedule as times, snapshot_pattern};
use crate::db::{self, InstanceSnapshot, Model, Phase, Seconds};
use crate::events::lifecycle::Requestor;
use crate::names::{InstanceKey, PoolName, SnapshotKey, SnapshotName};
use crate::profile;
use crate::project;
use crate::storage::{self, Frozen, Pause, Pool, VolumeId};
use pause::Held;

/// In an instance's row while its processes may be held.
pub(super) const HELD: &str = "volatile.held";

/// A new snapshot.
#[derive(Debug, Clone, Default)]
pub struct NewSnapshot {
    /// `None`: by the pattern of the instance.
    pub name: Option<SnapshotName>,
    /// When it is to be deleted. `None`: as the instance says; 0 is never.
    pub expires_at: Option<Seconds>,
}

/// What is done with the snapshots of an instance.
#[derive(Debug, Clone)]
pub enum Verb {
    /// Makes one.
    Create(NewSnapshot),
    /// Removes one.
    Delete(SnapshotName),
    /// Gives one another name.
    Rename {
        /// Its name.
        from: SnapshotName,
        /// Its new name.
        to: SnapshotName,
    },
    /// Makes the volumes of a copy of the instance, or of a snapshot of it, and of the snapshots that come along.
    Copy {
        /// What it is of: this instance.
        of: CopyOf,
        /// The copy, whose rows are there.
        to: InstanceKey,
    },
    /// Brings a copy of the instance, or of a snapshot of it, up to date: its files, and the snapshots that the copy's rows
    /// name and that are still to be made.
    Refresh {
        /// `None`: as it is now.
        snapshot: Option<SnapshotName>,
        /// The copy, of which nobody else changes anything.
        to: InstanceKey,
    },
    /// Moves the instance to another pool.
    Move {
        /// The pool.
        pool: PoolName,
        /// Its snapshots come along; else they are deleted.
        snapshots: bool,
    },
    /// Brings the instance back to one.
    Restore(SnapshotName),
}

impl Verb {
    /// Whether a snapshot is afterwards not where it was.
    pub(super) fn takes_away(&self) -> bool {
        match self {
            Self::Delete(_) | Self::Rename { .. } | Self::Move { .. } => true,
            Self::Create(_) | Self::Copy { .. } | Self::Refresh { .. } | Self::Restore(_) => false,
        }
    }
}

/// The volume of an instance while a snapshot of it is made.
pub(super) enum Use {
    /// Nobody's: it is not mounted.
    None,
    /// Somebody works on its files.
    Files,
    /// A running container's.
    Running {
        /// Its processes are held already.
        frozen: bool,
        /// Its init.
        pid: i32,
    },
}

pub(super) fn key(instance: &InstanceKey, name: &SnapshotName) -> SnapshotKey {
    SnapshotKey { instance: instance.clone(), name: name.clone() }
}

/// The row of a new snapshot.
///
/// # Errors
/// With everything that can be checked before anything is made.
fn row(model: &Model, instance: &InstanceKey, new: &NewSnapshot) -> Result<InstanceSnapshot, Error> {
    let record = model.instances.get(instance).ok_or(Error::NotFound)?;
    let expanded = profile::expand_instance(model, record).config;
    let others = model.snapshots_of(instance);
    let now = db::now();
    let name = match &new.name {
        Some(name) => name.clone(),
        None => {
            let pattern = expanded.get("snapshots.pattern").map_or("snap%d", String::as_str);
            let names: Vec<&str> = others.iter().map(|other| other.key.name.as_str()).collect();
            snapshot_pattern::next(pattern, &names, now)
                .map_err(|reason| Error::Pattern { pattern: pattern.to_owned(), reason })?
        }
    };
    let key = key(instance, &name);
    let renamed =
        |other: &&Arc<InstanceSnapshot>| other.config.get(rename::MARKER).is_some_and(|old| *old == *name.as_str());
    if model.snapshots.contains_key(&key) || others.iter().any(renamed) {
        return Err(Error::SnapshotExists { name });
    }
    let expires_at = match new.expires_at {
        Some(at) => at,
        None => expanded
            .get("snapshots.expiry")
            .and_then(|text| times::parse_expiry(text).ok())
            .map_or(0, |expiry| times::expires(&expiry, now)),
    };
    let mut config = record.config.clone();
    config.retain(|key, _| !update::is_own(key));
    Ok(InstanceSnapshot {
        key,
        number: others.last().map_or(0, |last| last.number + 1),
        phase: Phase::Creating,
        description: record.description.clone(),
        architecture: record.architecture.clone(),
        ephemeral: record.ephemeral,
        profiles: record.profiles.clone(),
        config,
        devices: record.devices.clone(),
        created_at: now,
        expires_at,
        last_used_at: record.last_used_at,
    })
}

/// The pool of an instance, and its volume there.
pub(super) fn place(context: &Context, instance: &InstanceKey) -> Result<(Arc<Pool>, VolumeId), Error> {
    let record = context.db.model().instances.get(instance).cloned().ok_or(Error::NotFound)?;
    Ok((context.pools.get(&record.pool)?, VolumeId::of(instance)))
}

/// Makes a snapshot; its name, and how long the processes were held for it, milliseconds.
pub(super) async fn create(
    context: &Arc<Context>,
    instance: &InstanceKey,
    new: NewSnapshot,
    used: Use,
    requestor: Option<&Requestor>,
) -> Result<(SnapshotName, Option<f64>), Error> {
    let (pool, volume) = place(context, instance)?;
    let of = instance.clone();
    let record = context
        .db
        .write(move |tx| {
            project::may_make_snapshots(tx.model(), &of.project)?;
            let record = row(tx.model(), &of, &new)?;
            tx.put_snapshot(record.clone())?;
            Ok::<_, Error>(record)
        })
        .await?;
    let name = record.key.name.clone();
    let (state, container, snapshot) = (context.dir.root().to_owned(), instance.container(), name.clone());
    let made = holding(context, instance, used, move |pause| {
        pool.snapshot(&volume, &snapshot, pause)?;
        Ok(storage::link_snapshots(&state, &container, &pool.snapshots_of(&volume))?)
    });
    let made = match made.await {
        Ok(milliseconds) => set_ready(context, &record.key).await.map(|()| milliseconds),
        Err(error) => Err(error),
    };
    match made {
        Ok(milliseconds) => {
            context.snapshot_lifecycle("instance-snapshot-created", &record.key, &[], requestor);
            Ok((name, milliseconds))
        }
        Err(cause) => Err(match remove(context, &record).await {
            Ok(()) => cause,
            Err(failure) => Error::Undo { cause: Box::new(cause), failures: vec![failure] },
        }),
    }
}

/// Does `work` on the volume of an instance, with what holds those who use it; how long they were held, milliseconds. A
/// daemon that dies meanwhile leaves a mark, by which the next one lets them go on.
async fn holding(
    context: &Arc<Context>,
    instance: &InstanceKey,
    used: Use,
    work: impl FnOnce(Option<&dyn Pause>) -> Result<(), Error> + Send + 'static,
) -> Result<Option<f64>, Error> {
    let (pool, _) = place(context, instance)?;
    let held = match used {
        Use::None => None,
        Use::Files | Use::Running { frozen: true, .. } => Some(Held::nobody()),
        // The file system makes the snapshot in one step.
        Use::Running { .. } if !pool.driver().holds() => Some(Held::nobody()),
        Use::Running { frozen: false, pid } => Some(Held::of_init(pid)),
    };
    let marks = held.as_ref().is_some_and(Held::is_of_somebody);
    if marks {
        marks::set(context, instance, HELD, Some("true".to_owned())).await?;
    }
    let done = blocking(move || {
        work(held.as_ref().map(|held| held as &dyn Pause))?;
        Ok(held.and_then(|held| held.milliseconds()))
    })
    .await;
    if marks {
        marks::set(context, instance, HELD, None).await?;
    }
    done
}

/// Keeps what an instance has now, out of sight.
pub(super) async fn freeze(
    context: &Arc<Context>,
    instance: &InstanceKey,
    used: Use,
    pool: Arc<Pool>,
    volume: VolumeId,
) -> Result<Frozen, Error> {
    let (give, take) = std::sync::mpsc::channel();
    let frozen = holding(context, instance, used, move |pause| {
        let frozen = pool.freeze(&volume, pause)?;
        // The receiver lives until this is done.
        let _ = give.send(frozen);
        Ok(())
    });
    frozen.await?;
    take.try_recv().map_err(|_| Error::NotFound)
}

async fn change(
    context: &Context,
    key: &SnapshotKey,
    change: impl Fn(&mut InstanceSnapshot) + Send + 'static,
) -> Result<InstanceSnapshot, Error> {
    let key = key.clone();
    context
        .db
        .write(move |tx| {
            let found = tx.model().snapshots.get(&key).cloned();
            let mut record = (*found.ok_or_else(|| Error::NoSnapshot { key: key.clone() })?).clone();
            change(&mut record);
            tx.put_snapshot(record.clone())?;
            Ok(record)
        })
        .await
}

pub(super) async fn set_ready(context: &Context, key: &SnapshotKey) -> Result<(), Error> {
    change(context, key, |record| record.phase = Phase::Ready).await.map(drop)
}

/// Removes a snapshot's volume and row; what is not there is fine.
async fn remove(context: &Arc<Context>, record: &InstanceSnapshot) -> Result<(), Error> {
    let (pool, volume) = place(context, &record.key.instance)?;
    let (state, container, name) =
        (context.dir.root().to_owned(), record.key.instance.container(), record.key.name.clone());
    blocking(move || {
        if let Some(trash) = pool.delete_volume(&volume.at(&name))? {
            purge_behind(&pool, trash);
        }
        if !pool.snapshots_of(&volume).exists() {
            storage::unlink_snapshots(&state, &container)?;
        }
        Ok::<_, Error>(())
    })
    .await?;
    let key = record.key.clone();
    context.db.write(move |tx| Ok::<(), Error>(tx.delete_snapshot(&key)?)).await
}

/// Removes what waits for it behind the answer; what a crash leaves of it, the pool's next opening removes.
pub(super) fn purge_behind(pool: &Arc<Pool>, trash: std::path::PathBuf) {
    let pool = Arc::clone(pool);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = pool.purge(&trash) {
            tracing::warn!(%error, "removing a deleted volume");
        }
    });
}

/// Deletes a snapshot.
pub(super) async fn delete(
    context: &Arc<Context>,
    instance: &InstanceKey,
    name: &SnapshotName,
    requestor: Option<&Requestor>,
) -> Result<(), Error> {
    let record = change(context, &key(instance, name), |record| record.phase = Phase::Deleting).await?;
    remove(context, &record).await?;
    context.snapshot_lifecycle("instance-snapshot-deleted", &record.key, &[], requestor);
    Ok(())
}

/// Gives a snapshot another name.
pub(super) async fn rename(
    context: &Arc<Context>,
    instance: &InstanceKey,
    from: &SnapshotName,
    to: &SnapshotName,
    requestor: Option<&Requestor>,
) -> Result<(), Error> {
    let record = swap_row(context, key(instance, from), to.clone()).await?;
    if let Err(cause) = finish_rename(context, &record).await {
        let back = async {
            let record = swap_row(context, key(instance, to), from.clone()).await?;
            finish_rename(context, &record).await
        };
        return Err(match back.await {
            Ok(()) => cause,
            Err(failure) => Error::Undo { cause: Box::new(cause), failures: vec![failure] },
        });
    }
    let old_name = [("old_name".to_owned(), format!("{}/{from}", instance.name).into())];
    context.snapshot_lifecycle("instance-snapshot-renamed", &record.key, &old_name, requestor);
    Ok(())
}

async fn swap_row(context: &Context, from: SnapshotKey, to: SnapshotName) -> Result<InstanceSnapshot, Error> {
    context
        .db
        .write(move |tx| {
            let found = tx.model().snapshots.get(&from).cloned();
            let mut record = (*found.ok_or_else(|| Error::NoSnapshot { key: from.clone() })?).clone();
            record.key.name = to.clone();
            if tx.model().snapshots.contains_key(&record.key) {
                return Err(Error::SnapshotExists { name: to.clone() });
            }
            record.config.insert(rename::MARKER.to_owned(), from.name.to_string());
            tx.delete_snapshot(&from)?;
            tx.put_snapshot(record.clone())?;
            Ok(record)
        })
        .await
}

async fn finish_rename(context: &Context, record: &InstanceSnapshot) -> Result<(), Error> {
    let Some(old) = record.config.get(rename::MARKER) else { return Ok(()) };
    let old = SnapshotName::new(old.clone())?;
    let (pool, volume) = place(context, &record.key.instance)?;
    let (from, to) = (volume.at(&old), volume.at(&record.key.name));
    blocking(move || pool.rename_volume(&from, &to).map_err(Error::from)).await?;
    let forget = |record: &mut InstanceSnapshot| drop(record.config.remove(rename::MARKER));
    change(context, &record.key, forget).await.map(drop)
}

/// At the daemon's start: finishes or undoes what a crash left of the snapshots of an instance.
pub(super) async fn settle(context: &Arc<Context>, instance: &InstanceKey) -> Result<(), Error> {
    let model = context.db.model();
    if model.instances.get(instance).is_some_and(|record| record.config.contains_key(HELD)) {
        let (parent, container) = (context.dir.cgroup(), instance.container());
        blocking(move || pause::let_go(&parent, &container).map_err(Error::from)).await?;
        marks::set(context, instance, HELD, None).await?;
        tracing::info!(%instance, "what was held when the daemon died goes on");
    }
    for record in model.snapshots_of(instance) {
        match record.phase {
            Phase::Creating => {
                remove(context, record).await?;
                tracing::info!(snapshot = %record.key, "undid an interrupted snapshot");
            }
            Phase::Deleting => {
                remove(context, record).await?;
                tracing::info!(snapshot = %record.key, "finished an interrupted deletion");
            }
            Phase::Ready => finish_rename(context, record).await?,
        }
    }
    restore::settle(context, instance).await
}

/// A snapshot that is whole.
///
/// # Errors
/// [`Error::NoSnapshot`].
pub fn find<'a>(
    model: &'a Model,
    instance: &InstanceKey,
    name: &SnapshotName,
) -> Result<&'a Arc<InstanceSnapshot>, Error> {
    let key = key(instance, name);
    model.snapshots.get(&key).filter(|record| record.phase == Phase::Ready).ok_or(Error::NoSnapshot { key })
}

/// Changes when a snapshot expires, if `fits` what it is.
///
/// # Errors
/// [`Error::NoSnapshot`], or of `fits`.
pub(super) async fn expire(
    context: &Context,
    instance: &InstanceKey,
    name: &SnapshotName,
    expires_at: Seconds,
    fits: impl Fn(&InstanceSnapshot) -> Result<(), Error> + Send + 'static,
    requestor: Option<&Requestor>,
) -> Result<(), Error> {
    let (instance, name) = (instance.clone(), name.clone());
    let changed = key(&instance, &name);
    context
        .db
        .write(move |tx| {
            let mut record = (**find(tx.model(), &instance, &name)?).clone();
            fits(&record)?;
            record.expires_at = expires_at;
            Ok::<_, Error>(tx.put_snapshot(record)?)
        })
        .await?;
    context.snapshot_lifecycle("instance-snapshot-updated", &changed, &[], requestor);
    Ok(())
}
