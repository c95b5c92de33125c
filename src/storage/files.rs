//! Small file work that the drivers share.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::error::{Error, io};
use crate::sys::{btrfs, remove};

/// Makes a directory of this mode, whatever the umask; one that is there keeps its content.
pub(super) fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(io("create", path))?;
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(io("set the mode of", path))
}

/// A new name for what is to be renamed into a pool when it is whole; after a crash the next opening removes it.
pub(super) fn scratch(pool: &Path) -> PathBuf {
    pool.join(".new").join(uuid::Uuid::new_v4().to_string())
}

/// A place in a pool for something to wait for its removal.
pub(super) fn trash(pool: &Path) -> PathBuf {
    pool.join(".trash").join(uuid::Uuid::new_v4().to_string())
}

/// Begins the names of custom volumes that are half made or half deleted: nothing in them is the daemon's own, whatever
/// it is called.
const CUSTOM: &str = "custom.";

/// As [`scratch`], for a custom volume.
pub(super) fn custom_scratch(pool: &Path) -> PathBuf {
    pool.join(".new").join(format!("{CUSTOM}{}", uuid::Uuid::new_v4()))
}

/// As [`trash`], for a custom volume.
pub(super) fn custom_trash(pool: &Path) -> PathBuf {
    pool.join(".trash").join(format!("{CUSTOM}{}", uuid::Uuid::new_v4()))
}

/// Whether what waits at `path` is a custom volume.
pub(super) fn is_custom(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(CUSTOM.as_bytes()))
}

/// Removes a directory with all it has; none is fine. Never crosses into what a symlink names.
pub(super) fn remove_dir(path: &Path) -> Result<(), Error> {
    match remove::tree(path) {
        // Of subvolumes in it some cannot be removed file by file.
        Err(error) if error.kind() != io::ErrorKind::NotFound && btrfs::is_here(path) => super::btrfs::remove(path),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The same of a directory in which there are no subvolumes.
pub(super) fn remove_plain(path: &Path) -> Result<(), Error> {
    match remove::tree(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// `<state>/containers/<container>`: a link to where its volume lies, for tools that look there.
///
/// # Errors
/// When it cannot be made.
pub fn link_instance(state: &Path, container: &str, volume: &Path) -> Result<(), Error> {
    link(&state.join("containers").join(container), volume)
}

fn link(link: &Path, to: &Path) -> Result<(), Error> {
    match std::os::unix::fs::symlink(to, link) {
        // Who looks meanwhile finds it.
        Err(_) if std::fs::read_link(link).is_ok_and(|now| now == to) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(link).map_err(io("remove", link))?;
            std::os::unix::fs::symlink(to, link).map_err(io("create", link))
        }
        result => result.map_err(io("create", link)),
    }
}

/// `<state>/snapshots/<container>`: a link to where its snapshots lie, for tools that look there.
///
/// # Errors
/// When it cannot be made.
pub fn link_snapshots(state: &Path, container: &str, snapshots: &Path) -> Result<(), Error> {
    link(&state.join("snapshots").join(container), snapshots)
}

/// Removes that link; none is fine.
///
/// # Errors
/// When it cannot be removed.
pub fn unlink_snapshots(state: &Path, container: &str) -> Result<(), Error> {
    unlink(state.join("snapshots").join(container))
}

/// Removes the link of [`link_instance`]; none is fine.
///
/// # Errors
/// When it cannot be removed.
pub fn unlink_instance(state: &Path, container: &str) -> Result<(), Error> {
    unlink(state.join("containers").join(container))
}

fn unlink(link: PathBuf) -> Result<(), Error> {
    match std::fs::remove_file(&link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io("remove", link)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}
