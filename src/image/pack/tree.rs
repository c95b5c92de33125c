//! A look at a tree of files in an order that only depends on what they are called: each directory, then what else is in
//! it, then the directories in it, by the bytes of the names. Nobody changes the tree meanwhile.
//!
//! Directories are opened beneath the root, files in their directory by name: no link is followed, and few descriptors are
//! open at a time, however deep it is.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::header::Attribute;
use super::{Failure, Source, failed};
use crate::sys::beneath::Tree;

/// A file of the tree.
pub(super) struct Found<'a> {
    /// Where it lies below the root; empty for the root itself.
    pub(super) below: &'a Path,
    pub(super) stat: Stat,
    place: Place<'a>,
}

enum Place<'a> {
    /// It is this directory.
    Directory(&'a OwnedFd),
    /// It lies in one.
    In(&'a OwnedFd, &'a OsStr),
}

impl Found<'_> {
    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Bytes of a regular file, holes included.
    pub(super) fn size(&self) -> u64 {
        match self.kind() {
            FileType::RegularFile => u64::try_from(self.stat.st_size).unwrap_or(0),
            _ => 0,
        }
    }

    /// Opens a regular file; looking at it leaves no trace.
    pub(super) fn open(&self) -> Result<File, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOATIME | OFlags::CLOEXEC;
        match &self.place {
            Place::Directory(fd) => Ok(rustix::io::fcntl_dupfd_cloexec(fd, 0)?.into()),
            Place::In(directory, name) => Ok(rustix::fs::openat(directory, *name, flags, Mode::empty())?.into()),
        }
    }

    /// Where a symbolic link leads.
    pub(super) fn target(&self) -> Result<Vec<u8>, Errno> {
        match &self.place {
            Place::Directory(_) => Ok(Vec::new()),
            Place::In(directory, name) => Ok(rustix::fs::readlinkat(directory, *name, Vec::new())?.into_bytes()),
        }
    }

    /// The extended attributes that `wanted` names, in order of their names.
    pub(super) fn attributes(&self, wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<Attribute>, Errno> {
        let opened;
        let fd = match &self.place {
            Place::Directory(fd) => *fd,
            Place::In(directory, name) => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                opened = rustix::fs::openat(directory, *name, flags, Mode::empty())?;
                &opened
            }
        };
        // What is opened as a mere place has them only by its path.
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let size = match rustix::fs::listxattr_query(path.as_str()) {
            Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
            result => result?,
        };
        let mut names = vec![0; size];
        let length = rustix::fs::listxattr(path.as_str(), &mut names[..])?;
        names.truncate(length);
        let mut names: Vec<&[u8]> = names.split(|byte| *byte == 0).filter(|name| wanted(name)).collect();
        names.sort_unstable();
        let mut found = Vec::new();
        for name in names {
            let key = OsStr::from_bytes(name);
            let mut value = vec![0; rustix::fs::getxattr_query(path.as_str(), key)?];
            let length = rustix::fs::getxattr(path.as_str(), key, &mut value[..])?;
            value.truncate(length);
            found.push((name.to_vec(), value));
        }
        Ok(found)
    }
}

/// A directory that waits.
struct Waiting {
    /// In which of the trees.
    tree: usize,
    /// Where in that.
    path: PathBuf,
    /// Where it is to lie below the root.
    below: PathBuf,
}

fn open_root(path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(failed("open", path))
}

/// Calls `visit` with everything of a source's root.
pub(super) fn walk(source: &Source, visit: &mut dyn FnMut(&Found<'_>) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut roots = vec![open_root(&source.rootfs)?];
    let mut elsewhere = Vec::new();
    for (below, path) in &source.elsewhere {
        elsewhere.push((below, roots.len()));
        roots.push(open_root(path)?);
    }
    let trees: Vec<_> = roots.iter().map(Tree::new).collect();
    let mut waiting = vec![Waiting { tree: 0, path: PathBuf::new(), below: PathBuf::new() }];
    while let Some(mut next) = waiting.pop() {
        if let Some((_, tree)) = elsewhere.iter().find(|(below, _)| next.tree == 0 && **below == next.below) {
            next = Waiting { tree: *tree, path: PathBuf::new(), ..next };
        }
        let place = |below: &Path| source.rootfs.join(below);
        let Some(tree) = trees.get(next.tree) else { continue };
        let directory = tree.open(&next.path).map_err(failed("open", place(&next.below)))?;
        let stat = rustix::fs::fstat(&directory).map_err(failed("look at", place(&next.below)))?;
        visit(&Found { below: &next.below, stat, place: Place::Directory(&directory) })?;
        let names = names(&directory).map_err(failed("read", place(&next.below)))?;
        let mut directories = Vec::new();
        for name in names {
            let below = next.below.join(&name);
            let stat = rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed("look at", place(&below)))?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                directories.push(Waiting { tree: next.tree, path: next.path.join(&name), below });
            } else {
                visit(&Found { below: &below, stat, place: Place::In(&directory, &name) })?;
            }
        }
        waiting.extend(directories.into_iter().rev());
    }
    Ok(())
}

fn names(directory: &OwnedFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(&*name, b"." | b"..") {
            names.push(OsString::from_vec(name));
        }
    }
    names.sort_unstable();
    Ok(names)
}
