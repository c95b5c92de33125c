//! The console of a running container: who has it, taking it over, its size.
//!
//! ```text
//!   free ── attach ──> taken ── Console dropped, or the container's end ──> free
//!                        │
//!                        └── attach by force: the holder is asked to leave, and is waited for ──> taken by another
//! ```
//! liblxc gives the console to one client at a time. Here is known which of the daemon's clients that is.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::Context;
use super::error::Error;
use crate::helper;
use crate::names::InstanceKey;
use crate::sys::watch::watch as watch_fd;
use crate::sys::{process, pty};

/// A holder that is asked to leave takes leave of its client first.
const LEAVE: Duration = Duration::from_secs(5);

/// The holders, by instance.
#[derive(Default)]
pub(super) struct Consoles {
    holders: Arc<Mutex<BTreeMap<InstanceKey, Holder>>>,
    count: AtomicU64,
}

struct Holder {
    number: u64,
    /// Asks it to leave; closed when it has.
    leave: Arc<watch::Sender<Option<Leave>>>,
}

/// Why a holder is to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// Another client takes the console over.
    Taken,
    /// The daemon and its containers end; an attached console must not hold that up.
    Shutdown,
}

type Holders = Mutex<BTreeMap<InstanceKey, Holder>>;

fn lock(holders: &Holders) -> MutexGuard<'_, BTreeMap<InstanceKey, Holder>> {
    holders.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The place of a holder; dropped, it is free, unless another has taken it.
struct Place {
    holders: Arc<Holders>,
    key: InstanceKey,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut holders = lock(&self.holders);
        if holders.get(&self.key).is_some_and(|holder| holder.number == self.number) {
            holders.remove(&self.key);
        }
    }
}

/// A place that was just taken.
struct Claim {
    place: Place,
    leave: watch::Receiver<Option<Leave>>,
    /// Of the earlier holder: to ask it to leave.
    earlier: Option<Arc<watch::Sender<Option<Leave>>>>,
}

/// An attached console. Dropped, it is given back; the container does not notice.
pub struct Console {
    ptx: AsyncFd<OwnedFd>,
    monitor: OwnedFd,
    // These fields are dropped in this order: the terminal is given back before the next holder hears of it.
    _helper: helper::Console,
    leave: watch::Receiver<Option<Leave>>,
    _place: Place,
}

impl Consoles {
    /// Whether a client of the daemon has the console.
    pub(super) fn is_taken(&self, key: &InstanceKey) -> bool {
        lock(&self.holders).contains_key(key)
    }

    /// Asks all holders to leave: the daemon ends.
    pub(super) fn close(&self) {
        for holder in lock(&self.holders).values() {
            holder.leave.send_replace(Some(Leave::Shutdown));
        }
    }

    /// Takes the place, also from an earlier holder, which is not told yet.
    fn take(&self, key: &InstanceKey, force: bool) -> Result<Claim, Error> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let sender = Arc::new(watch::Sender::new(None));
        let leave = sender.subscribe();
        let mut holders = lock(&self.holders);
        if !force && holders.contains_key(key) {
            return Err(Error::ConsoleInUse);
        }
        let earlier = holders.insert(key.clone(), Holder { number, leave: sender }).map(|holder| holder.leave);
        drop(holders);
        let place = Place { holders: Arc::clone(&self.holders), key: key.clone(), number };
        Ok(Claim { place, leave, earlier })
    }

    pub(super) async fn attach(
        &self,
        context: &Context,
        key: &InstanceKey,
        init: i32,
        force: bool,
    ) -> Result<Console, Error> {
        let Claim { place, leave, earlier } = self.take(key, force)?;
        if let Some(earlier) = earlier {
            earlier.send_replace(Some(Leave::Taken));
            if tokio::time::timeout(LEAVE, earlier.closed()).await.is_err() {
                tracing::warn!(instance = %key, "the holder of the console does not leave");
            }
        }
        let failed = |doing, error: io::Error| Error::Io { doing, path: format!("/proc/{init}").into(), error };
        let monitor = process::parent_of(init)
            .and_then(process::pidfd_open)
            .map_err(|error| failed("find the monitor of", error))?;
        let mut helper = context.launcher.console(&context.container(key)).await?;
        let ptx = helper.take_ptx().ok_or(Error::ConsoleInUse)?;
        rustix::io::ioctl_fionbio(&ptx, true).map_err(|error| failed("watch the console of", error.into()))?;
        let ptx = watch_fd(ptx, Interest::READABLE | Interest::WRITABLE)
            .map_err(|error| failed("watch the console of", error))?;
        Ok(Console { ptx, monitor, _helper: helper, leave, _place: place })
    }
}

impl Console {
    /// Reads what the container writes; zero bytes when it has ended. It must be read all the time: liblxc's monitor
    /// waits while nobody does.
    pub async fn read(&self, buffer: &mut [u8]) -> usize {
        let read = self.ptx.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut *buffer)?)).await;
        // EIO: the monitor has closed its end.
        read.unwrap_or(0)
    }

    /// Writes all of `bytes` to the container.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = self.ptx.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, rest)?)).await?;
            rest = &rest[count..];
        }
        Ok(())
    }

    /// Sets its size in characters; zero means 80 × 24. The monitor copies it to /dev/console when it hears SIGWINCH
    /// (tried with liblxc 5.0.2); a monitor that does not listen to it ignores it, as signal(7) says.
    ///
    /// # Errors
    /// When the container has ended.
    pub fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        pty::resize(&self.ptx, columns, rows)?;
        process::pidfd_signal(&self.monitor, libc::SIGWINCH)
    }

    /// Resolves when this client is to leave.
    pub async fn leave(&self) -> Leave {
        let mut leave = self.leave.clone();
        match leave.wait_for(Option::is_some).await.map(|leave| *leave) {
            Ok(Some(leave)) => leave,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{InstanceName, ProjectName};

    #[tokio::test]
    async fn a_console_has_one_holder_and_force_takes_it_over() {
        let consoles = Consoles::default();
        let key = InstanceKey { project: ProjectName::default(), name: InstanceName::new("c1").unwrap() };
        let Claim { place, mut leave, earlier } = consoles.take(&key, false).unwrap();
        assert!(earlier.is_none() && consoles.is_taken(&key));
        assert!(matches!(consoles.take(&key, false), Err(Error::ConsoleInUse)));
        let Claim { place: second, leave: _leave, earlier } = consoles.take(&key, true).unwrap();
        let earlier = earlier.unwrap();
        earlier.send_replace(Some(Leave::Taken));
        leave.wait_for(Option::is_some).await.unwrap();
        drop(leave);
        earlier.closed().await;
        drop(place);
        assert!(consoles.is_taken(&key), "the first holder's leaving does not free the second's place");
        drop(second);
        assert!(!consoles.is_taken(&key));
    }
}
