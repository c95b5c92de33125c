//! The daemon's end of the socket to one helper.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::Child;

use super::Error;
use super::protocol::{Inbox, Reply, Request, encode};
use crate::sys::socket;

/// A helper that was taken for an operation.
pub(super) struct Line {
    /// Waited for by somebody else, when it is none.
    pub(super) child: Option<Child>,
    pub(super) socket: UnixStream,
    pub(super) inbox: Inbox,
    pub(super) action: &'static str,
    pub(super) container: String,
}

impl Line {
    /// The line alone, and the process at its end.
    pub(super) fn split(mut self) -> Result<(Self, Child), Error> {
        let child = self.child.take().ok_or_else(|| self.broken("is not there"))?;
        Ok((self, child))
    }

    /// The bare socket, with what has been received of it and not been read as messages.
    pub(super) fn into_stream(self) -> (UnixStream, Vec<u8>) {
        (self.socket, self.inbox.into_bytes())
    }

    pub(super) fn broken(&self, reason: &str) -> Error {
        Error::Broken { action: self.action, container: self.container.clone(), reason: reason.to_owned() }
    }

    pub(super) fn timeout(&self, after: Duration) -> Error {
        Error::Timeout { action: self.action, container: self.container.clone(), after }
    }

    pub(super) fn refused(&self, reason: String, log: Vec<String>) -> Error {
        Error::Lxc { action: self.action, container: self.container.clone(), reason, log }
    }

    pub(super) async fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let bytes = encode(request).map_err(Error::Spawn)?;
        let mut sent = 0;
        while sent < bytes.len() {
            let rights = if sent == 0 { fds } else { &[] };
            let write = || socket::send(&self.socket, &bytes[sent..], rights);
            sent += self
                .socket
                .async_io(Interest::WRITABLE, write)
                .await
                .map_err(|e| self.broken(&format!("does not listen: {e}")))?;
        }
        Ok(())
    }

    pub(super) async fn reply(&mut self) -> Result<Reply, Error> {
        loop {
            match self.inbox.take() {
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) => {}
                Err(error) => return Err(self.broken(&format!("answered nonsense: {error}"))),
            }
            let (socket, inbox) = (&self.socket, &mut self.inbox);
            let mut received: io::Result<bool> = Ok(false);
            let read = socket
                .async_io(Interest::READABLE, || {
                    received = Ok(inbox.fill(socket)?);
                    Ok(())
                })
                .await;
            match read.and(received) {
                Ok(true) => {}
                Ok(false) => {
                    let status = match &mut self.child {
                        Some(child) => child.wait().await.map(|s| format!(" ({s})")).unwrap_or_default(),
                        None => String::new(),
                    };
                    return Err(self.broken(&format!("ended without an answer{status}")));
                }
                Err(error) => return Err(self.broken(&format!("cannot be heard: {error}"))),
            }
        }
    }

    pub(super) async fn reply_within(&mut self, limit: Duration) -> Result<Reply, Error> {
        match tokio::time::timeout(limit, self.reply()).await {
            Ok(reply) => reply,
            Err(_) => {
                // Killing the helper of a start that hangs also ends what it forked: liblxc ties them by their socket.
                if let Some(child) = &mut self.child {
                    let _ = child.start_kill();
                }
                Err(self.timeout(limit))
            }
        }
    }

    /// The helper has answered and ends by itself; tokio reaps it.
    pub(super) fn finish(self) {
        drop(self);
    }
}
