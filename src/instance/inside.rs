//! The ways into a running container.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::devices::failed;
use super::error::Error;
use crate::sys::cgroup;
use crate::sys::{process, userns};

/// What a failure of something that was done with the processes of a container means, whose init is, or was, `pid`.
pub(super) fn or_ended(error: Error, pid: i32) -> Error {
    // One that has ended is in no namespace any more, also while it waits to be reaped.
    let place = fs::metadata(format!("/proc/{pid}/ns/mnt"));
    if place.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) { Error::Ended } else { error }
}

/// The ways into a running container.
pub(super) struct Inside {
    /// A pidfd of the process by which it was entered.
    pub(super) process: OwnedFd,
    pub(super) mounts: OwnedFd,
    pub(super) root: OwnedFd,
    pub(super) network: OwnedFd,
    /// None when it is the host's.
    pub(super) users: Option<OwnedFd>,
}

impl Inside {
    /// Opens those of the process `pid`, if it belongs to the container.
    pub(super) fn open(pid: i32, container: &str) -> Result<Self, Error> {
        let place = PathBuf::from(format!("/proc/{pid}"));
        let gone = || {
            |error: io::Error| match Errno::from_io_error(&error) {
                Some(Errno::SRCH | Errno::NOENT) => Error::Ended,
                _ => failed("enter", &place)(error),
            }
        };
        let process = process::pidfd_open(pid).map_err(gone())?;
        let open = |name: &str, flags: OFlags| {
            rustix::fs::open(place.join(name), flags | OFlags::CLOEXEC, Mode::empty())
                .map_err(|error| gone()(error.into()))
        };
        let inside = Self {
            mounts: open("ns/mnt", OFlags::RDONLY)?,
            network: open("ns/net", OFlags::RDONLY)?,
            root: open("root", OFlags::PATH | OFlags::DIRECTORY)?,
            users: userns::of_process(pid).map_err(gone())?,
            process,
        };
        // The number may be another process's by now; if one of the same container, that will do.
        let groups = fs::read_to_string(place.join("cgroup")).map_err(gone())?;
        if !cgroup::is_of_container(&groups, container) {
            return Err(Error::Ended);
        }
        process::pidfd_signal(&inside.process, 0).map_err(gone())?;
        Ok(inside)
    }

    /// Mounts, root and users, as helpers take them.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [self.mounts.as_fd(), self.root.as_fd()].into_iter().chain(self.users.as_ref().map(AsFd::as_fd))
    }

    /// Whether its network is this process's, or cannot be told from it.
    pub(super) fn shares_network(&self) -> bool {
        let own = rustix::fs::stat("/proc/self/ns/net").map(|stat| (stat.st_dev, stat.st_ino));
        let theirs = rustix::fs::fstat(&self.network).map(|stat| (stat.st_dev, stat.st_ino));
        own.is_err() || own == theirs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn what_has_ended_is_no_error_of_the_kernel() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(matches!(or_ended(Error::EmptyCommand, own), Error::EmptyCommand));
        let mut child = Command::new("true").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), options).unwrap();
        let pid = pid.as_raw_nonzero().get();
        for _ in ["not yet reaped", "gone"] {
            assert!(matches!(or_ended(Error::EmptyCommand, pid), Error::Ended));
            assert!(matches!(Inside::open(pid, "c1"), Err(Error::Ended)));
            child.wait().unwrap();
        }
    }
}
