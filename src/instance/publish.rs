//! Looking at the files of an instance, or of a snapshot of it, to make an image of them.
//!
//! ```text
//!  down            it stays down, and everything else waits, until the look is over
//!  in use          what it has now is kept out of sight, and looked at; it goes on
//!  a snapshot      nobody changes it; one that was deleted or renamed by the end was not seen whole
//! ```
//! Where the file system makes a snapshot in one step, that is done with one that is down, too.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::actor::Actor;
use super::blocking;
use super::error::Error;
use super::manager::Manager;
use super::request::Request;
use super::snapshots::{self, Use};
use crate::image::Source;
use crate::names::{InstanceKey, SnapshotName};
use crate::storage::{Frozen, Pool, VolumeId};

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
        let status = self.status();
        if matches!(status, super::Status::Starting | super::Status::Stopping) {
            return Err(Error::Busy { status });
        }
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
        let find = || Ok::<_, Error>(snapshots::find(&self.context().db.model(), of, name)?.created_at);
        let (before, volume) = (find()?, volume.at(name));
        let seen = blocking(move || pool.view(&volume, look)).await?;
        match find() {
            Ok(after) if after == before => Ok(seen),
            Ok(_) | Err(_) => Err(Error::NoSnapshot { key: snapshots::key(of, name) }.into()),
        }
    }
}
