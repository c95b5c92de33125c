//! Looking at the files of an instance, or of a snapshot of it, to make an image of them.
//!
//! ```text
//!  down            it stays down, and everything else waits, until the look is over
//!  in use          what it has now is kept out of sight, and looked at; it goes on
//!  a snapshot      nobody changes it; whoever would delete, rename or move it waits (`Looks`), the instance goes on
//! ```
//! Where the file system makes a snapshot in one step, that is done with one that is down, too.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, oneshot};

use super::actor::Actor;
use super::blocking;
use super::error::Error;
use super::manager::Manager;
use super::request::Request;
use super::snapshots::{self, Use};
use crate::image::Source;
use crate::names::{InstanceKey, SnapshotName};
use crate::storage::{Frozen, Pool, VolumeId};

/// Whose snapshots are looked at: none of them is taken away meanwhile, and each has its name.
#[derive(Default)]
pub(super) struct Looks(Mutex<BTreeMap<InstanceKey, Arc<RwLock<()>>>>);

impl Looks {
    fn of(&self, key: &InstanceKey) -> Arc<RwLock<()>> {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        looks.retain(|_, look| Arc::strong_count(look) > 1);
        Arc::clone(looks.entry(key.clone()).or_default())
    }

    /// A look at a snapshot of an instance begins.
    async fn begin(&self, key: &InstanceKey) -> OwnedRwLockReadGuard<()> {
        self.of(key).read_owned().await
    }

    /// Waits for those who look at snapshots of an instance; others wait for as long as the answer is held.
    pub(super) async fn wait(&self, key: &InstanceKey) -> OwnedRwLockWriteGuard<()> {
        self.of(key).write_owned().await
    }
}

impl Actor {
    /// Keeps what the instance has now; `None`: it stays down until `done` is dropped.
    pub(super) async fn be_looked_at(
        &mut self,
        ready: oneshot::Sender<Result<Option<Frozen>, Error>>,
        done: oneshot::Receiver<()>,
    ) {
        let kept = self.keep_files().await;
        let wait = matches!(kept, Ok(None));
        // Whoever asked may have given up: then `done` says so, and what was kept goes.
        let _ = ready.send(kept);
        if wait {
            let _ = done.await;
        }
    }

    async fn keep_files(&mut self) -> Result<Option<Frozen>, Error> {
        let used = self.used().await?;
        let (pool, volume) = snapshots::place(&self.context, &self.key)?;
        if matches!(used, Use::None) && pool.driver().holds() {
            return Ok(None);
        }
        snapshots::freeze(&self.context, &self.key, used, pool, volume).await.map(Some)
    }
}

impl Manager {
    /// Lets `look` see the files of an instance as they are now, or as they were: blocking work.
    ///
    /// # Errors
    /// Of `look`; [`Error::NotFound`], [`Error::NoSnapshot`], or what stands in the way.
    pub async fn look<T, E>(
        &self,
        of: &InstanceKey,
        snapshot: Option<&SnapshotName>,
        look: impl FnOnce(Source) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + From<crate::storage::Error> + Send + 'static,
    {
        let (pool, volume) = snapshots::place(self.context(), of)?;
        if let Some(name) = snapshot {
            return self.look_at_snapshot(of, name, pool, volume, look).await;
        }
        let (ready, kept) = oneshot::channel();
        let (end, done) = oneshot::channel::<()>();
        if !self.send(of, Request::BeLookedAt { ready, done }) {
            return Err(Error::NotFound.into());
        }
        let kept = kept.await.map_err(|_| Error::NotFound)??;
        blocking(move || {
            let seen = match kept {
                Some(frozen) => frozen.view(look),
                None => pool.view(&volume, look),
            };
            drop(end);
            seen
        })
        .await
    }

    async fn look_at_snapshot<T, E>(
        &self,
        of: &InstanceKey,
        name: &SnapshotName,
        pool: Arc<Pool>,
        volume: VolumeId,
        look: impl FnOnce(Source) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + From<crate::storage::Error> + Send + 'static,
    {
        let looking = self.looks().begin(of).await;
        let find = || snapshots::find(&self.context().db.model(), of, name).map(drop);
        find()?;
        let volume = volume.at(name);
        let seen = blocking(move || {
            let seen = pool.view(&volume, look);
            drop(looking);
            seen
        });
        match seen.await {
            // An ephemeral instance that ends waits for nobody.
            Err(error) => Err(find().err().map_or(error, E::from)),
            seen => seen,
        }
    }
}
