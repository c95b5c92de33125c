//! The files of an instance: a lease of its root, and a helper that works on it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Context;
use super::error::Error;
use super::lease::Lease;
use crate::helper::files::{FilesRequest, Session};
use crate::names::InstanceKey;

/// Requests about files at a time; more wait.
const REQUESTS: usize = 32;
/// SFTP sessions at a time; more are refused, for they last.
const SESSIONS: usize = 64;

/// How many work on files at a time. Each is a process.
pub(super) struct Limits {
    requests: Arc<Semaphore>,
    sessions: Arc<Semaphore>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { requests: Arc::new(Semaphore::new(REQUESTS)), sessions: Arc::new(Semaphore::new(SESSIONS)) }
    }
}

impl Limits {
    /// Waits for the turn of `request`.
    ///
    /// # Errors
    /// [`Error::TooManySessions`] instead of a long wait.
    pub(super) async fn turn(&self, request: &FilesRequest) -> Result<OwnedSemaphorePermit, Error> {
        match request {
            FilesRequest::Sftp => Arc::clone(&self.sessions).try_acquire_owned().map_err(|_| Error::TooManySessions),
            FilesRequest::Look(_)
            | FilesRequest::Read(_)
            | FilesRequest::Write { .. }
            | FilesRequest::MakeDirectory { .. }
            | FilesRequest::MakeLink { .. }
            | FilesRequest::Delete(_) => {
                // Never closed.
                Arc::clone(&self.requests).acquire_owned().await.map_err(|_| Error::ShuttingDown)
            }
        }
    }
}

/// Begins `request`. Turn and lease are given back when its helper is gone.
pub(super) async fn begin(
    context: &Context,
    key: &InstanceKey,
    turn: OwnedSemaphorePermit,
    lease: Lease,
    request: FilesRequest,
) -> Result<Session, Error> {
    let container = context.container(key);
    let (session, keeper) = context.launcher.files(&container, lease.root(), lease.namespace(), request).await?;
    tokio::spawn(async move {
        keeper.ended(lease.cut()).await;
        drop((lease, turn));
    });
    Ok(session)
}
