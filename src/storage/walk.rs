//! A walk over a tree of files by several threads, each file once by each of its names.
//!
//! A directory that waits is a path below the root, opened by `openat2` beneath it, so that no more descriptors are open
//! than threads need; files are mere places (`O_PATH`). No symbolic link is followed, no mount point crossed.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::error::{Error, io};
use crate::sys::beneath::RESOLVE;
pub(super) use crate::sys::beneath::{Tree, open_below};
use crate::sys::btrfs;

/// Threads at a time, at most.
const THREADS: usize = 8;

/// A file of the tree.
pub(super) struct Entry<'a> {
    place: OwnedFd,
    pub(super) stat: Stat,
    top: &'a Path,
    below: PathBuf,
}

impl<'a> Entry<'a> {
    /// The file at `path`, outside of a walk.
    pub(super) fn of(path: &'a Path) -> Result<Self, Errno> {
        let place = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let stat = rustix::fs::statat(&place, "", AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Self { place, stat, top: path, below: PathBuf::new() })
    }

    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Whether it is the directory of a btrfs subvolume.
    pub(super) fn is_subvolume(&self) -> bool {
        // Of others the number alone tells, and costs nothing.
        self.stat.st_ino == 256 && btrfs::is_subvolume(&self.place).unwrap_or(false)
    }

    /// Where it lies below the root; `.` is the root itself.
    pub(super) fn below(&self) -> &Path {
        &self.below
    }

    /// Its name in its directory.
    pub(super) fn name(&self) -> &OsStr {
        self.below.file_name().unwrap_or(OsStr::new("."))
    }

    /// Where a symbolic link leads.
    pub(super) fn target(&self) -> Result<std::ffi::CString, Errno> {
        rustix::fs::readlinkat(&self.place, "", Vec::new())
    }

    /// The place as a path, for what takes no `O_PATH` descriptor.
    pub(super) fn link(&self) -> String {
        format!("/proc/self/fd/{}", self.place.as_raw_fd())
    }

    pub(super) fn failed(&self, doing: &'static str) -> impl FnOnce(Errno) -> Error {
        let path = self.top.join(&self.below);
        move |errno| io(doing, path)(errno.into())
    }

    pub(super) fn set_owner(&self, uid: u32, gid: u32) -> Result<(), Error> {
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(&self.place, "", Some(uid), Some(gid), flags).map_err(self.failed("set the owner of"))
    }

    pub(super) fn mode(&self) -> Result<u32, Error> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statat(&self.place, "", flags).map_err(self.failed("look at"))?;
        Ok(stat.st_mode & 0o7777)
    }

    pub(super) fn set_mode(&self, mode: u32) -> Result<(), Error> {
        rustix::fs::chmod(self.link(), Mode::from_raw_mode(mode)).map_err(self.failed("set the mode of"))
    }

    /// Whether it has any extended attribute.
    pub(super) fn has_attributes(&self) -> Result<bool, Error> {
        match rustix::fs::listxattr_query(self.link()) {
            Ok(size) => Ok(size > 0),
            Err(Errno::NOTSUP) => Ok(false),
            Err(error) => Err(self.failed("list the attributes of")(error)),
        }
    }

    pub(super) fn attribute(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let mut value = vec![0; 65536];
        match rustix::fs::getxattr(self.link(), name, &mut value[..]) {
            Ok(size) => {
                value.truncate(size);
                Ok(Some(value))
            }
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
            Err(error) => Err(self.failed("read an attribute of")(error)),
        }
    }

    pub(super) fn set_attribute(&self, name: &str, value: &[u8]) -> Result<(), Error> {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(self.link(), name, value, flags).map_err(self.failed("set an attribute of"))
    }
}

struct Queue {
    waiting: VecDeque<PathBuf>,
    busy: usize,
    failed: Option<Error>,
}

/// What is done with the files of a tree.
pub(super) trait Visit: Sync {
    /// What the visits of one directory's files share.
    type Place;
    /// Some may vanish meanwhile: others work on the tree.
    const LIVE: bool = false;

    /// The directory at `below` has been visited itself, and is about to be read.
    fn enter(&self, below: &Path) -> Result<Self::Place, Error>;

    /// Whether [`Self::is_known`] may know any file.
    fn knows_some(&self) -> bool {
        false
    }

    /// Whether a file of `place` needs no visit: then it is not even opened, and nothing below it is visited.
    fn is_known(&self, _place: &Self::Place, _name: &OsStr, _stat: &Stat) -> bool {
        false
    }

    /// Visits a file; the root itself lies in no place.
    fn visit(&self, place: Option<&Self::Place>, entry: &Entry<'_>) -> Result<(), Error>;
}

impl<F: Fn(&Entry<'_>) -> Result<(), Error> + Sync> Visit for F {
    type Place = ();

    fn enter(&self, _below: &Path) -> Result<(), Error> {
        Ok(())
    }

    fn visit(&self, _place: Option<&()>, entry: &Entry<'_>) -> Result<(), Error> {
        self(entry)
    }
}

struct Walk<'a, V> {
    tree: Tree<'a>,
    top: &'a Path,
    queue: Mutex<Queue>,
    changed: Condvar,
    visit: &'a V,
}

/// Opens the root of a tree.
pub(super) fn open(top: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(top, flags, Mode::empty()).map_err(|errno| io("open", top)(errno.into()))
}

/// Calls `visit` with `root`, which lies at `top`, and with everything below it, in no order. The first error ends it.
pub(super) fn walk<V: Visit>(root: &OwnedFd, top: &Path, visit: &V) -> Result<(), Error> {
    let queue = Queue { waiting: VecDeque::from([PathBuf::new()]), busy: 0, failed: None };
    let walk = Walk { tree: Tree::new(root), top, queue: Mutex::new(queue), changed: Condvar::new(), visit };
    walk.enter(root, None, Path::new(""), OsStr::new("."))?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, THREADS);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // With fewer it takes longer.
            let _ = std::thread::Builder::new().name("files".to_owned()).spawn_scoped(scope, || walk.work());
        }
        walk.work();
    });
    walk.queue.into_inner().unwrap_or_else(PoisonError::into_inner).failed.map_or(Ok(()), Err)
}

impl<V: Visit> Walk<'_, V> {
    fn work(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if queue.failed.is_some() {
                return;
            }
            // The newest first: that bounds how many wait.
            let Some(path) = queue.waiting.pop_back() else {
                if queue.busy == 0 {
                    return;
                }
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            queue.busy += 1;
            drop(queue);
            let done = self.directory(&path);
            queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.busy -= 1;
            if let Err(error) = done {
                queue.failed.get_or_insert(error);
            }
            self.changed.notify_all();
        }
    }

    fn directory(&self, path: &Path) -> Result<(), Error> {
        let failed = |errno: Errno| io("read", self.top.join(path))(errno.into());
        let fd = match self.tree.open(path) {
            Err(Errno::NOENT) if V::LIVE => return Ok(()),
            result => result.map_err(failed)?,
        };
        let place = self.visit.enter(path)?;
        for entry in Dir::read_from(&fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if matches!(name.as_bytes(), b"." | b"..") {
                continue;
            }
            if self.enter(&fd, Some(&place), path, name)? {
                let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                if queue.failed.is_some() {
                    return Ok(());
                }
                queue.waiting.push_back(path.join(name));
                drop(queue);
                self.changed.notify_one();
            }
        }
        Ok(())
    }

    /// Visits one file; whether it is a directory.
    fn enter(&self, directory: &OwnedFd, shared: Option<&V::Place>, path: &Path, name: &OsStr) -> Result<bool, Error> {
        let below = if path.as_os_str().is_empty() { PathBuf::from(name) } else { path.join(name) };
        let failed = |errno: Errno| io("open", self.top.join(&below))(errno.into());
        if let Some(shared) = shared.filter(|_| self.visit.knows_some()) {
            let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
            if self.visit.is_known(shared, name, &stat) {
                return Ok(false);
            }
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = match rustix::fs::openat2(directory, name, flags, Mode::empty(), RESOLVE) {
            Err(Errno::NOENT) if V::LIVE => return Ok(false),
            result => result.map_err(&failed)?,
        };
        let stat = rustix::fs::statat(&place, "", AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
        let entry = Entry { place, stat, top: self.top, below };
        self.visit.visit(shared, &entry)?;
        Ok(entry.kind() == FileType::Directory)
    }
}
