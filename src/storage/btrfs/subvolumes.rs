//! Subvolumes with those below them: a snapshot has only empty directories where others lay, and one with others below it
//! cannot be deleted. Containers make them: Docker's driver does, or anybody who may write a directory.
//!
//! Those who use a volume go on meanwhile. Every directory is opened from the volume's own one, following no link, and
//! what a child is taken for is compared with its number: nobody inside can lead this elsewhere.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Timespec, Timestamps};

use super::super::error::{Error, io};
use super::super::files::remove_plain;
use super::super::walk;
use crate::sys::btrfs::{self, Child};
use crate::sys::mount;

/// A subvolume may lie in another one so often, for us: who nests deeper is not followed.
const DEEPEST: usize = 64;

/// Makes an empty one.
pub(in crate::storage) fn create(new: &Path) -> Result<(), Error> {
    let (parent, name) = place(new)?;
    btrfs::create(&parent, name).map_err(io("create the subvolume", new))
}

/// The directory that `path` lies in, and its name there.
fn place(path: &Path) -> Result<(OwnedFd, &std::ffi::OsStr), Error> {
    let name = path.file_name().unwrap_or_default();
    let parent = path.parent().unwrap_or(Path::new("/"));
    Ok((btrfs::open(parent).map_err(io("open", parent))?, name))
}

/// Makes `new` a copy of the subvolume `of`, with those below it, each as it is at that moment. `new` can be written;
/// those below it can if theirs could.
pub(super) fn copy(of: &Path, new: &Path) -> Result<(), Error> {
    let failed = || io("make a snapshot of", of);
    // A running container's root is mounted over the volume's own directory: here the volume is seen without that.
    let bare = mount::clone_of(of).map_err(failed())?;
    let source = btrfs::open_in(&bare, Path::new(".")).map_err(failed())?;
    let (parent, name) = place(new)?;
    btrfs::snapshot(&source, &parent, name).map_err(failed())?;
    let made = btrfs::open(new).map_err(failed())?;
    below(&source, &made, 0).map_err(|error| io("make a snapshot of what lies below", of)(error))
}

/// Makes `new` a read-only copy of the subvolume `of`, unless there are others below it: whether it did.
pub(super) fn copy_sealed(of: &Path, new: &Path) -> Result<bool, Error> {
    let failed = || io("make a snapshot of", of);
    let source = btrfs::open(of).map_err(failed())?;
    if !btrfs::children(&source).map_err(failed())?.is_empty() {
        return Ok(false);
    }
    let (parent, name) = place(new)?;
    btrfs::snapshot_sealed(&source, &parent, name).map_err(failed())?;
    Ok(true)
}

/// Removes a subvolume, unless there are others below it: whether it did.
pub(super) fn remove_single(path: &Path) -> Result<bool, Error> {
    let failed = || io("remove", path);
    let directory = btrfs::open(path).map_err(failed())?;
    if !btrfs::is_subvolume(&directory).map_err(failed())? || !btrfs::children(&directory).map_err(failed())?.is_empty()
    {
        return Ok(false);
    }
    let id = btrfs::id(&directory).map_err(failed())?;
    let (parent, _) = place(path)?;
    drop(directory);
    match btrfs::destroy(&parent, id) {
        // One was made just now, or it cannot be removed so: the long way says why.
        Err(_) => Ok(false),
        Ok(()) => Ok(true),
    }
}

fn is_gone(error: &std::io::Error) -> bool {
    let gone = [libc::ENOENT, libc::ENOTDIR, libc::ELOOP, libc::ESTALE];
    error.raw_os_error().is_some_and(|errno| gone.contains(&errno))
}

/// Fills the empty directories that stand for the subvolumes below `source` in `made`, its snapshot.
fn below(source: &OwnedFd, made: &OwnedFd, depth: usize) -> std::io::Result<()> {
    if depth > DEEPEST {
        return Err(std::io::Error::other("subvolumes lie in each other too deeply"));
    }
    for child in btrfs::children(source)? {
        match one(source, made, &child, depth) {
            // It came, went or was moved since the snapshot was made: then it is not part of it.
            Err(error) if is_gone(&error) => {
                tracing::debug!(name = ?child.name, %error, "a subvolume is not part of a snapshot");
            }
            result => result?,
        }
    }
    Ok(())
}

fn one(source: &OwnedFd, made: &OwnedFd, child: &Child, depth: usize) -> std::io::Result<()> {
    // The same inode in both trees; where it lay when the snapshot was made.
    let directory = btrfs::path_of(made, child.directory)?;
    let original = walk::open_below(source, &directory.join(&child.name))?;
    if btrfs::id(&original)? != child.id || !btrfs::is_subvolume(&original)? {
        return Err(std::io::Error::from_raw_os_error(libc::ENOENT));
    }
    let place = walk::open_below(made, &directory)?;
    let before = rustix::fs::fstat(&place)?;
    rustix::fs::unlinkat(&place, &child.name, AtFlags::REMOVEDIR)?;
    btrfs::snapshot(&original, &place, &child.name)?;
    let copied = walk::open_below(&place, Path::new(&child.name))?;
    below(&original, &copied, depth + 1)?;
    if btrfs::is_read_only(&original)? {
        btrfs::set_read_only(&copied, true)?;
    }
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanoseconds).unwrap_or(0) };
    let times = Timestamps {
        last_access: time(before.st_atime, before.st_atime_nsec),
        last_modification: time(before.st_mtime, before.st_mtime_nsec),
    };
    Ok(rustix::fs::futimens(&place, &times)?)
}

/// Removes a volume that was moved out of the way, or anything else: subvolumes as such, the rest file by file. Nobody
/// uses it. None is fine.
pub(in crate::storage) fn remove(path: &Path) -> Result<(), Error> {
    let failed = || io("remove", path);
    let directory = match btrfs::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) if is_gone(&error) => return std::fs::remove_file(path).map_err(failed()),
        result => result.map_err(failed())?,
    };
    if btrfs::is_subvolume(&directory).map_err(failed())? {
        let id = btrfs::id(&directory).map_err(failed())?;
        clear(&directory, 0).map_err(failed())?;
        btrfs::set_read_only(&directory, false).map_err(failed())?;
        let (parent, _) = place(path)?;
        drop(directory);
        return btrfs::destroy(&parent, id).map_err(failed());
    }
    // A plain directory: those somewhere in it are known by the subvolume that it lies in itself.
    let top = id_and_inodes(&directory, path).map_err(failed())?;
    for below in top {
        remove(&below)?;
    }
    drop(directory);
    remove_plain(path)
}

/// The subvolumes in a plain directory, or in plain directories of it.
fn id_and_inodes(directory: &OwnedFd, path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !btrfs::is_here(path) {
        return Ok(Vec::new());
    }
    let own = btrfs::path_of(directory, rustix::fs::fstat(directory)?.st_ino)?;
    let mut found = Vec::new();
    for child in btrfs::children(directory)? {
        let lies = match btrfs::path_of(directory, child.directory) {
            Err(error) if is_gone(&error) => continue,
            result => result?,
        };
        if let Ok(rest) = lies.strip_prefix(&own) {
            found.push(path.join(rest).join(&child.name));
        }
    }
    Ok(found)
}

/// Deletes all subvolumes below one, the deepest first.
fn clear(directory: &OwnedFd, depth: usize) -> std::io::Result<()> {
    if depth > DEEPEST {
        return Err(std::io::Error::other("subvolumes lie in each other too deeply"));
    }
    let children = btrfs::children(directory)?;
    if !children.is_empty() {
        // Its entries are about to go.
        btrfs::set_read_only(directory, false)?;
    }
    for child in children {
        let lies = btrfs::path_of(directory, child.directory)?;
        let below = walk::open_below(directory.as_fd(), &lies.join(&child.name))?;
        clear(&below, depth + 1)?;
        drop(below);
        btrfs::destroy(directory, child.id)?;
    }
    Ok(())
}
