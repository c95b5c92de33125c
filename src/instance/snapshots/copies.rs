//! The volumes of a copy, made by the task of its source, and copies brought up to date. See [`super::super::create`] for
//! the rows of a new one.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::super::create::{self, CopyOf, RootSource};
use super::super::error::Error;
use super::super::manager::Manager;
use super::super::request::Request;
use super::super::{Context, Stages, blocking};
use super::{Use, Verb, delete, find, holding, place, purge_behind, remove, set_ready};
use crate::db::{self, Phase};
use crate::events::lifecycle::Requestor;
use crate::names::{InstanceKey, SnapshotKey, SnapshotName};
use crate::storage;

/// Makes the volumes of the copy `to`, and of the snapshots of it that are still to be made; how long the processes were
/// held for it, milliseconds. With `refresh` the copy is there, and nobody uses it: its files change places with new ones.
pub(super) async fn copy(
    context: &Arc<Context>,
    instance: &InstanceKey,
    snapshot: Option<SnapshotName>,
    to: &InstanceKey,
    refresh: bool,
    used: Use,
) -> Result<Option<f64>, Error> {
    let ((pool, volume), (target, new)) = (place(context, instance)?, place(context, to)?);
    if let Some(name) = &snapshot {
        find(&context.db.model(), instance, name)?;
    }
    if refresh {
        forget_gone(context, instance, to).await?;
    }
    let model = context.db.model();
    let to_make = |record: &&&Arc<db::InstanceSnapshot>| record.phase == Phase::Creating;
    let snapshots = model.snapshots_of(to);
    let names: Vec<SnapshotName> = snapshots.iter().filter(to_make).map(|record| record.key.name.clone()).collect();
    holding(context, instance, used, move |pause| {
        for name in names {
            target.copy_from(&new.at(&name), &pool, &volume.at(&name), None)?;
        }
        let (of, pause) = match &snapshot {
            Some(name) => (volume.at(name), None),
            None => (volume, pause),
        };
        if refresh {
            let old = target.refresh_from(&new, &pool, &of, pause)?;
            purge_behind(&target, old);
            return Ok(());
        }
        Ok(target.copy_from(&new, &pool, &of, pause)?)
    })
    .await
}

/// In the turn of the source's task: what was to be copied and has been deleted since is not.
async fn forget_gone(context: &Context, from: &InstanceKey, to: &InstanceKey) -> Result<(), Error> {
    let (from, to) = (from.clone(), to.clone());
    context
        .db
        .write(move |tx| {
            let model = tx.model().clone();
            let to_make = model.snapshots_of(&to).into_iter().filter(|record| record.phase == Phase::Creating);
            for record in to_make.filter(|record| find(&model, &from, &record.key.name).is_err()) {
                tx.delete_snapshot(&record.key)?;
            }
            Ok::<_, Error>(())
        })
        .await
}

impl Manager {
    /// Has the task of its source make the volumes of a copy; anything else is no copy.
    pub(in super::super) async fn copied(&self, record: &db::Instance, source: &RootSource) -> Result<(), Error> {
        let RootSource::Copy(copy) = source else { return Ok(()) };
        let verb = Verb::Copy { of: copy.clone(), to: record.key.clone() };
        self.on_snapshots(&copy.instance, verb, None).await.map(drop)
    }

    /// Brings an earlier copy up to date: its files become those of the source, snapshots come and go as the source's did.
    /// Its definition stays. A daemon that dies in between leaves its files and each snapshot whole, old or new; doing it
    /// again goes on.
    ///
    /// # Errors
    /// [`Error::Running`], or what stands in the way.
    pub async fn refresh(&self, of: &CopyOf, to: &InstanceKey, requestor: Option<&Requestor>) -> Result<Stages, Error> {
        if of.instance == *to {
            return Err(Error::Exists { key: to.clone() });
        }
        // One at a time: two that wait for each other's instances would wait for ever.
        let _alone = self.refreshes().lock().await;
        let (ready, answer) = oneshot::channel();
        // Dropped at the end: then the copy goes on.
        let (_done, wait) = oneshot::channel::<()>();
        if !self.send(to, Request::Still { ready, done: wait }) {
            return Err(Error::NotFound);
        }
        answer.await.map_err(|_| Error::NotFound)??;
        let context = self.context();
        let unseen = self.looks().wait(to).await;
        let new = follow_rows(context, of, to, requestor).await?;
        drop(unseen);
        let verb = Verb::Refresh { snapshot: of.snapshot.clone(), to: to.clone() };
        let made = self.on_snapshots(&of.instance, verb, None).await;
        let (pool, volume) = place(context, to)?;
        let (state, container) = (context.dir.root().to_owned(), to.container());
        blocking(move || {
            let snapshots = pool.snapshots_of(&volume);
            if snapshots.exists() { storage::link_snapshots(&state, &container, &snapshots) } else { Ok(()) }
                .map_err(Error::from)
        })
        .await?;
        match made {
            Ok(stages) => {
                let model = context.db.model();
                for key in new.iter().filter(|key| model.snapshots.contains_key(*key)) {
                    set_ready(context, key).await?;
                    context.snapshot_lifecycle("instance-snapshot-created", key, &[], requestor);
                }
                Ok(stages)
            }
            Err(cause) => {
                let mut failures = Vec::new();
                for key in new {
                    let record = context.db.model().snapshots.get(&key).cloned();
                    if let Some(record) = record
                        && let Err(failure) = remove(context, &record).await
                    {
                        failures.push(failure);
                    }
                }
                Err(if failures.is_empty() { cause } else { Error::Undo { cause: Box::new(cause), failures } })
            }
        }
    }
}

/// Deletes the snapshots of a copy that its source does not have, and writes the rows of those that it lacks.
async fn follow_rows(
    context: &Arc<Context>,
    of: &CopyOf,
    to: &InstanceKey,
    requestor: Option<&Requestor>,
) -> Result<Vec<SnapshotKey>, Error> {
    if of.snapshot.is_some() || !of.snapshots {
        return Ok(Vec::new());
    }
    let model = context.db.model();
    let whole = |key: &InstanceKey| -> Vec<Arc<db::InstanceSnapshot>> {
        model.snapshots_of(key).into_iter().filter(|record| record.phase == Phase::Ready).cloned().collect()
    };
    let (theirs, mine) = (whole(&of.instance), whole(to));
    let same = |one: &db::InstanceSnapshot, other: &db::InstanceSnapshot| {
        one.key.name == other.key.name && one.created_at == other.created_at
    };
    for gone in mine.iter().filter(|one| !theirs.iter().any(|other| same(one, other))) {
        delete(context, to, &gone.key.name, requestor).await?;
    }
    let new: Vec<_> = theirs.into_iter().filter(|one| !mine.iter().any(|other| same(one, other))).collect();
    let next = mine.last().map_or(0, |last| last.number + 1);
    let to = to.clone();
    context
        .db
        .write(move |tx| {
            let record = tx.model().instances.get(&to).cloned().ok_or(Error::NotFound)?;
            let mut keys = Vec::new();
            for (number, snapshot) in (next..).zip(new) {
                let row = create::row_of_snapshot(tx.model(), &record, &snapshot);
                keys.push(row.key.clone());
                tx.put_snapshot(db::InstanceSnapshot { number, ..row })?;
            }
            Ok::<_, Error>(keys)
        })
        .await
}
