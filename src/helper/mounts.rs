//! Mounts inside a running container.
//!
//! ```text
//!  daemon                                     helper
//!    │ ── Mount(Attach) + tree, mount ns, ────> a mount namespace of its own
//!    │    root [, user ns]                      └ tree attached there; the whole copied for the user namespace: what
//!    │                                            was read-only is so for good (mount_namespaces(7))
//!    │                                          enters the container, resolves the path below its root, makes what
//!    │ <── Done | Failed ─────────────────────┤ is missing, attaches the copy to what it has opened
//!    │ ── Mount(Detach) + mount ns, root, ────> enters, resolves, unmounts
//!    │    [user ns]
//! ```
//! From the moment it enters it is the container's root and nobody outside. A path is only ever resolved by
//! [`super::files::root`]: whatever links a process inside puts on the way, and whenever, they lead nowhere but inside.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::child::{answer, fail};
use super::files::root::{Root, kind};
use super::files::{Ownership, Refusal};
use super::protocol::{Inbox, Reply};
use crate::sys::{mount, userns};

/// What to do; the fds that come along are, in this order, the detached mount (not for `Detach`), the container's mount
/// namespace, its root directory, and its user namespace if it has one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountRequest {
    /// Attach the mount at this path inside.
    Attach {
        /// Absolute.
        path: String,
        /// Of a directory; else of a file.
        directory: bool,
        /// It must not be bound elsewhere, once it is there.
        unbindable: bool,
    },
    /// Put the mount of a file in the place of others.
    Replace {
        /// Absolute. The file below the mounts must be there.
        path: String,
        /// So many mounts lie there; they may not answer any more.
        layers: u32,
    },
    /// Take away what is mounted at this path inside; nothing is fine.
    Detach {
        /// Absolute.
        path: String,
        /// Remove the empty file that it was mounted on.
        remove: bool,
    },
}

/// Where the tree lies in the helper's own namespace. Every host has the directory.
const SCRATCH: &str = "/sys";
/// The mount point for it.
const PLACE: &str = "/sys/tree";
/// Modes of mount points that are made.
const DIRECTORY_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;
/// A process inside that takes away what is made gets this many chances.
const TRIES: u32 = 16;

pub(super) fn serve(socket: &OwnedFd, mut inbox: Inbox, request: MountRequest) -> io::Result<()> {
    let fds = std::mem::take(&mut inbox.fds);
    match run(socket, request, fds) {
        Ok(()) => answer(socket, &Reply::Done, &[]),
        Err(reason) => fail(socket, &reason),
    }
}

/// Fails when the daemon has gone: the next one finds out what is inside, and must not be overtaken.
fn wanted(socket: &OwnedFd) -> Result<(), String> {
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    match rustix::event::poll(&mut fds, Some(&Timespec::default())) {
        Ok(0) => Ok(()),
        Ok(_) | Err(_) => Err("nobody waits for it any more".to_owned()),
    }
}

fn run(socket: &OwnedFd, request: MountRequest, fds: Vec<OwnedFd>) -> Result<(), String> {
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(|| "a file descriptor is missing".to_owned());
    rustix::process::umask(Mode::empty());
    match request {
        MountRequest::Attach { path, directory, unbindable } => {
            let (tree, namespace, root) = (next()?, next()?, Root::new(next()?));
            let tree = match fds.next() {
                Some(users) => locked(&tree, directory, &users).map_err(|error| format!("the mount: {error}"))?,
                None => tree,
            };
            mount::enter_namespace(namespace).map_err(|error| format!("its mount namespace: {error}"))?;
            wanted(socket)?;
            attach(&tree, &root, path.as_bytes(), directory).map_err(|error| format!("{path:?} inside: {error}"))?;
            // Only now: an unbindable one cannot be attached where mounts are shared (sharedsubtree.rst, 5c).
            if unbindable && let Err(error) = mount::set_propagation(&tree, mount::Propagation::Unbindable, true) {
                let _ = detach(&root, path.as_bytes(), false);
                return Err(format!("making the mount unbindable: {error}"));
            }
            Ok(())
        }
        MountRequest::Replace { path, layers } => {
            let (tree, namespace, root) = (next()?, next()?, Root::new(next()?));
            let tree = match fds.next() {
                Some(users) => locked(&tree, false, &users).map_err(|error| format!("the mount: {error}"))?,
                None => tree,
            };
            mount::enter_namespace(namespace).map_err(|error| format!("its mount namespace: {error}"))?;
            wanted(socket)?;
            replace(&tree, &root, path.as_bytes(), layers).map_err(|error| format!("{path:?} inside: {error}"))
        }
        MountRequest::Detach { path, remove } => {
            let (namespace, root) = (next()?, Root::new(next()?));
            if let Some(users) = fds.next() {
                userns::enter(users).map_err(|error| format!("its user namespace: {error}"))?;
            }
            mount::enter_namespace(namespace).map_err(|error| format!("its mount namespace: {error}"))?;
            wanted(socket)?;
            detach(&root, path.as_bytes(), remove).map_err(|error| format!("{path:?} inside: {error}"))
        }
    }
}

/// A copy of `tree` whose options root of the user namespace `users`, who this process becomes, cannot loosen.
fn locked(tree: &OwnedFd, directory: bool, users: &OwnedFd) -> io::Result<OwnedFd> {
    mount::leave_namespace()?;
    mount::scratch(Path::new(SCRATCH))?;
    if directory {
        std::fs::create_dir(PLACE)?;
    } else {
        std::fs::write(PLACE, "")?;
    }
    mount::attach(tree, Path::new(PLACE))?;
    userns::enter(users)?;
    // The owner of this one is the user namespace: copies that cross that line are locked.
    mount::leave_namespace()?;
    let place = rustix::fs::open(PLACE, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    mount::clone_at(place, true)
}

/// The mount point at `path`, made if it is not there.
fn target(root: &Root, path: &[u8], directory: bool) -> Result<OwnedFd, Refusal> {
    let parents = path.iter().enumerate().filter(|(at, byte)| *at > 0 && **byte == b'/').map(|(at, _)| &path[..at]);
    let parents: Vec<&[u8]> = parents.collect();
    for _ in 0..TRIES {
        match root.look(path, true) {
            Ok((found, stat)) => {
                return match (kind(&stat) == FileType::Directory, directory) {
                    (true, false) => Err(Refusal::IsADirectory),
                    (false, true) => Err(Refusal::NotADirectory),
                    (true, true) | (false, false) => Ok(found),
                };
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        for parent in &parents {
            root.make_directory(parent, Ownership::default(), DIRECTORY_MODE)?;
        }
        let made = if directory {
            root.make_directory(path, Ownership::default(), DIRECTORY_MODE).map(drop)
        } else {
            root.entry(path).and_then(|(parent, name)| {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(&parent, name.as_slice(), flags, Mode::from_raw_mode(FILE_MODE))?;
                Ok(())
            })
        };
        match made {
            Ok(()) | Err(Refusal::Exists | Refusal::NoParent | Refusal::NotFound) => {}
            Err(refusal) => return Err(refusal),
        }
    }
    // A link to nothing, or somebody inside who is faster.
    Err(Refusal::NotFound)
}

fn attach(tree: &OwnedFd, root: &Root, path: &[u8], directory: bool) -> Result<(), Refusal> {
    for _ in 0..TRIES {
        let place = target(root, path, directory)?;
        match mount::attach_at(tree, place.as_fd()) {
            // It was removed meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            done => return done.map_err(Refusal::from),
        }
    }
    Err(Refusal::NotFound)
}

/// Nothing is asked of what lies there: a file system whose server is gone fails every question.
fn replace(tree: &OwnedFd, root: &Root, path: &[u8], layers: u32) -> Result<(), Refusal> {
    let (directory, name) = root.entry(path)?;
    for _ in 0..layers {
        match mount::detach_in(&directory, &name) {
            // Somebody inside was faster.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => break,
            done => done?,
        }
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::openat(&directory, name.as_slice(), flags, Mode::empty())?;
    Ok(mount::attach_at(tree, place.as_fd())?)
}

fn detach(root: &Root, path: &[u8], remove: bool) -> Result<(), Refusal> {
    let place = match root.place(path) {
        Err(Refusal::NotFound | Refusal::NoParent | Refusal::NotADirectory) => return Ok(()),
        place => place?,
    };
    let Some((found, _)) = &place.found else { return Ok(()) };
    let stat = rustix::fs::statx(found, "", AtFlags::EMPTY_PATH, rustix::fs::StatxFlags::empty())?;
    if stat.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT) {
        match mount::detach_in(&place.directory, &place.name) {
            // Somebody inside was faster.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => {}
            done => done?,
        }
    }
    if !remove {
        return Ok(());
    }
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    if let Ok(stat) = rustix::fs::statat(&place.directory, place.name.as_slice(), flags)
        && kind(&stat) == FileType::RegularFile
        && stat.st_size == 0
    {
        // It may be in use by now; it is empty and the container's own.
        let _ = rustix::fs::unlinkat(&place.directory, place.name.as_slice(), AtFlags::empty());
    }
    Ok(())
}
