//! What an entry of an archive may be. The same rules when an image arrives and when it is unpacked: the first time by
//! names alone, so that a bad image never becomes one, the second time on the file system, which has the last word.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use tar::{Entry, EntryType};

use super::error::Error;
use super::sparse::Sparse;
use crate::names::shown_path;

/// The longest name that file systems take, bytes (`NAME_MAX`, <linux/limits.h>).
const MAX_NAME: usize = 255;

/// The longest path that the kernel takes, bytes without the NUL at its end (`PATH_MAX`, <linux/limits.h>): a deeper file
/// nobody inside could name.
pub(super) const MAX_PATH: usize = 4095;

/// What an image may unpack to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in all, holes included.
    pub max_bytes: u64,
    /// Entries in all.
    pub max_entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 64 << 30, max_entries: 4_000_000 }
    }
}

impl Limits {
    /// The error of an archive whose reading failed: too long, or damaged.
    pub(super) fn unreadable(&self, error: &io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::FileTooLarge => Error::Limit { what: "bytes", limit: self.max_bytes },
            // What the reader of tarballs says itself repeats what it has read, whatever that is.
            io::ErrorKind::Other => {
                Error::BadArchive { reason: "what should be its tarball is none, or is damaged".to_owned() }
            }
            _ => Error::BadArchive { reason: format!("its tarball breaks off or is damaged ({error})") },
        }
    }
}

/// Which part of an image a tarball is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tarball {
    /// The only one.
    Unified,
    /// Metadata and templates of a split image.
    Metadata,
    /// The root of a split image.
    Root,
}

/// Whose an entry is, and its permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Without the type.
    pub(super) mode: u32,
}

impl Owner {
    /// As the header says; the number that chown(2) takes for "as it is" is nobody's.
    fn of<R: Read>(entry: &Entry<'_, R>, name: &Path) -> Result<Self, Error> {
        let header = entry.header();
        let id =
            |number: io::Result<u64>| number.ok().and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX);
        match (id(header.uid()), id(header.gid()), header.mode()) {
            (Some(uid), Some(gid), Ok(mode)) => Ok(Self { uid, gid, mode: mode & 0o7777 }),
            (_, _, _) => {
                Err(Error::BadArchive { reason: format!("the entry {} has a damaged header", shown_path(name)) })
            }
        }
    }
}

/// One entry that has passed.
pub(super) struct Passed {
    /// Whose it is.
    pub(super) owner: Owner,
    /// Its place below the destination: `rootfs/…`, `templates/…` or `metadata.yaml`.
    pub(super) name: PathBuf,
    /// How it is read, when it is a sparse file whose map lies in its data.
    pub(super) sparse: Option<Sparse>,
}

/// The rules, with what has been counted so far.
pub(super) struct Rules<'a> {
    limits: &'a Limits,
    tarball: Tarball,
    bytes: u64,
    entries: u64,
}

impl<'a> Rules<'a> {
    pub(super) fn new(tarball: Tarball, limits: &'a Limits) -> Self {
        Self { limits, tarball, bytes: 0, entries: 0 }
    }

    /// Judges the next entry; `None` for one that is not an image's business.
    pub(super) fn pass<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<Option<Passed>, Error> {
        let sparse = Sparse::of(entry)?;
        let path = sparse.as_ref().map_or_else(|| entry.path_bytes().into_owned(), |sparse| sparse.name.clone());
        let Some(name) = self.place(&path)? else { return Ok(None) };
        // A sparse entry's own word, its holes included, before anything of it is read.
        self.bytes = self.bytes.saturating_add(sparse.as_ref().map_or(entry.size(), |sparse| sparse.size));
        if self.bytes > self.limits.max_bytes {
            return Err(Error::Limit { what: "bytes", limit: self.limits.max_bytes });
        }
        self.entries += 1;
        if self.entries > self.limits.max_entries {
            return Err(Error::Limit { what: "entries", limit: self.limits.max_entries });
        }
        if !self.wanted(&name) {
            return Ok(None);
        }
        if self.tarball != Tarball::Root {
            plain(&name, entry.header().entry_type())?;
        }
        if entry.header().entry_type() == EntryType::Symlink {
            let target = entry.link_name_bytes().unwrap_or_default();
            if target.is_empty() || target.len() > MAX_PATH || target.contains(&0) {
                let path = name.to_string_lossy().into_owned();
                return Err(Error::Hostile { path, reason: "a link must lead to 1 to 4095 bytes without a NUL" });
            }
        }
        let owner = Owner::of(entry, &name)?;
        Ok(Some(Passed { owner, name, sparse }))
    }

    /// The place below the destination of a name in the archive; `None` for the archive's own top.
    pub(super) fn place(&self, name: &[u8]) -> Result<Option<PathBuf>, Error> {
        let hostile = |reason| Error::Hostile { path: String::from_utf8_lossy(name).into_owned(), reason };
        if name.contains(&0) {
            return Err(hostile("a name with a NUL"));
        }
        let mut clean = PathBuf::from(if self.tarball == Tarball::Root { "rootfs" } else { "" });
        let mut depth = 0u32;
        for component in Path::new(std::ffi::OsStr::from_bytes(name)).components() {
            match component {
                Component::CurDir => {}
                Component::Normal(part) if part.len() > MAX_NAME => {
                    return Err(hostile("a name of more than 255 bytes"));
                }
                Component::Normal(part) => {
                    clean.push(part);
                    depth += 1;
                }
                Component::RootDir | Component::Prefix(_) => return Err(hostile("an absolute path")),
                Component::ParentDir => return Err(hostile("a path with \"..\"")),
            }
        }
        if clean.as_os_str().len() > MAX_PATH {
            return Err(hostile("a path of more than 4095 bytes"));
        }
        Ok((depth > 0).then_some(clean))
    }

    /// Only these names are an image's business.
    fn wanted(&self, name: &Path) -> bool {
        let metadata = name.starts_with("templates") || name == Path::new("metadata.yaml");
        match self.tarball {
            Tarball::Root => true,
            Tarball::Metadata => metadata,
            Tarball::Unified => metadata || name.starts_with("rootfs"),
        }
    }

    /// The place of a hard link's target: in the root, as the link is. What lies beside it is not the container's to change.
    pub(super) fn link_target<R: Read>(&self, entry: &Entry<'_, R>) -> Result<PathBuf, Error> {
        let target = entry.link_name_bytes().unwrap_or_default();
        let place = self.place(&target).ok().flatten().filter(|place| place.starts_with("rootfs"));
        place.ok_or_else(|| link_out(&target))
    }
}

/// The error of a hard link to what is not in the image.
pub(super) fn link_out(target: &[u8]) -> Error {
    Error::Hostile { path: String::from_utf8_lossy(target).into_owned(), reason: "a hard link out of the image's root" }
}

/// The error of a path with a link or a file in its middle.
pub(super) fn through_link(name: &Path) -> Error {
    Error::Hostile { path: name.display().to_string(), reason: "its path leads through a link or a file" }
}

/// The error of something else by the name of a directory that is there.
fn replaced(name: &Path) -> Error {
    Error::Hostile { path: name.display().to_string(), reason: "a directory of this name is there already" }
}

/// The root is a directory, never a link to one: that would be a directory of the host. What lies beside it is read by
/// the daemon itself, as root of the host: it must be what its name says, too.
fn plain(name: &Path, kind: EntryType) -> Result<(), Error> {
    let file = matches!(kind, EntryType::Regular | EntryType::Continuous);
    let fits = match name.components().count() {
        1 if name == Path::new("templates") || name == Path::new("rootfs") => kind == EntryType::Directory,
        1 => file,
        _ if name.starts_with("rootfs") => true,
        _ => file || kind == EntryType::Directory,
    };
    let path = || name.to_string_lossy().into_owned();
    if fits { Ok(()) } else { Err(Error::Hostile { path: path(), reason: "no plain file or directory" }) }
}

/// What an archive has placed so far, by a hash of each name: 16 bytes an entry, however long the names are. What is there
/// as a directory stays one, and what is none never becomes one: so the nearest name that is known tells of all above it.
#[derive(Default)]
pub(super) struct Placed {
    hasher: RandomState,
    directories: HashMap<u64, bool>,
}

impl Placed {
    /// Takes an entry in: nothing may lie below what is no directory, and a hard link needs its target.
    pub(super) fn take<R: Read>(&mut self, rules: &Rules<'_>, entry: &Entry<'_, R>, name: &Path) -> Result<(), Error> {
        let kind = entry.header().entry_type();
        for above in name.ancestors().skip(1) {
            match self.directories.insert(self.number(above), true) {
                Some(true) => break,
                Some(false) => return Err(through_link(name)),
                None => {}
            }
        }
        if kind == EntryType::Link {
            let target = rules.link_target(entry)?;
            if self.directories.get(&self.number(&target)) != Some(&false) {
                return Err(link_out(target.as_os_str().as_bytes()));
            }
        }
        let is_directory = kind == EntryType::Directory;
        match self.directories.insert(self.number(name), is_directory) {
            Some(true) if !is_directory => Err(replaced(name)),
            Some(false) if is_directory => Err(through_link(name)),
            Some(_) | None => Ok(()),
        }
    }

    fn number(&self, name: &Path) -> u64 {
        self.hasher.hash_one(name.as_os_str().as_bytes())
    }
}
