//! Namespaces of processes, held open.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use rustix::event::{PollFd, PollFlags, Timespec};

/// Which namespace: device and inode of its file (namespaces(7)). It means no other one as long as somebody holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamespaceId(u64, u64);

/// A namespace that is held: its number is not given to another one meanwhile.
#[derive(Debug)]
pub struct Namespace {
    id: NamespaceId,
    _file: OwnedFd,
}

impl Namespace {
    /// Which one it is.
    pub fn id(&self) -> NamespaceId {
        self.id
    }

    fn open(path: &str) -> io::Result<Self> {
        let file = File::open(path)?;
        let meta = file.metadata()?;
        Ok(Self { id: NamespaceId(meta.dev(), meta.ino()), _file: file.into() })
    }

    /// The pid namespace of this process.
    ///
    /// # Errors
    /// When /proc is not there.
    pub fn own_pids() -> io::Result<Self> {
        Self::open("/proc/self/ns/pid")
    }

    /// The pid namespace of the process that `pidfd` stands for, whose number is `pid`.
    ///
    /// # Errors
    /// When it has ended: then the number may be another's.
    pub fn pids_of(pid: i32, pidfd: impl AsFd) -> io::Result<Self> {
        let found = Self::open(&format!("/proc/{pid}/ns/pid"))?;
        if is_alive(pidfd)? { Ok(found) } else { Err(io::ErrorKind::NotFound.into()) }
    }
}

/// Whether the process of a pidfd has not ended (pidfd_open(2): then it is readable).
///
/// # Errors
/// Of poll(2).
pub fn is_alive(pidfd: impl AsFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    Ok(rustix::event::poll(&mut fds, Some(&Timespec::default()))? == 0)
}

/// The user that is root in the user namespace of a process, in this process's numbering; none when it has no root.
///
/// # Errors
/// When it has ended.
pub fn root_of(pid: i32, pidfd: impl AsFd) -> io::Result<Option<u32>> {
    let map = std::fs::read_to_string(format!("/proc/{pid}/uid_map"))?;
    if !is_alive(pidfd)? {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(map.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        (fields.next() == Some("0")).then(|| fields.next()?.parse().ok()).flatten()
    }))
}

#[cfg(test)]
mod tests {
    use super::super::process;
    use super::*;

    #[test]
    fn a_process_that_has_ended_is_in_no_namespace() {
        let own = Namespace::own_pids().unwrap();
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let pidfd = process::pidfd_open(pid).unwrap();
        assert_eq!(Namespace::pids_of(pid, &pidfd).unwrap().id(), own.id());
        child.kill().unwrap();
        child.wait().unwrap();
        // Its number as another process would have it by now: ours.
        let reused = i32::try_from(std::process::id()).unwrap();
        assert!(Namespace::pids_of(reused, &pidfd).is_err());
        assert!(root_of(reused, &pidfd).is_err());
    }
}
