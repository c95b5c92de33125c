//! Paths that may come and go: told when something happens to them, wherever on the way to them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

/// What happened since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Happened {
    /// Something came or went under these paths.
    pub paths: BTreeSet<PathBuf>,
    /// More may have happened than could be kept, or a watched directory itself went.
    pub anything: bool,
}

impl Happened {
    /// Whether `path` may have come or gone.
    pub fn concerns(&self, path: &Path) -> bool {
        self.anything || path.ancestors().any(|part| self.paths.contains(part))
    }
}

/// Watches of directories (inotify(7)).
#[derive(Debug)]
pub struct Paths {
    fd: OwnedFd,
    flags: WatchFlags,
    watches: BTreeMap<PathBuf, i32>,
}

/// The directory to watch for `path`: its parent, or of that the nearest part that exists.
fn nearest(path: &Path) -> Option<&Path> {
    path.ancestors().skip(1).find(|part| part.is_dir())
}

impl Paths {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// Of inotify_init1(2).
    pub fn new() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        Ok(Self { fd, flags, watches: BTreeMap::new() })
    }

    /// As [`Paths::new`]; it also counts as happening to a file when somebody writes into it.
    ///
    /// # Errors
    /// Of inotify_init1(2).
    pub fn of_contents() -> io::Result<Self> {
        let paths = Self::new()?;
        Ok(Self { flags: paths.flags | WatchFlags::MODIFY, ..paths })
    }

    /// Readable when something happened: a descriptor of its own.
    ///
    /// # Errors
    /// Of fcntl(2).
    pub fn readable(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// Watches for these paths and no others. What exists when this returns, or comes later, is not missed by one who
    /// looks at the paths afterwards and then waits.
    ///
    /// # Errors
    /// Of inotify_add_watch(2), as when there are too many (`fs.inotify.max_user_watches`).
    pub fn set<'a>(&mut self, paths: impl Iterator<Item = &'a Path>) -> io::Result<()> {
        let mut watches = BTreeMap::new();
        for path in paths {
            // A directory on the way may be made just now: then one further down is the nearest.
            while let Some(dir) = nearest(path) {
                match inotify::add_watch(&self.fd, dir, self.flags) {
                    Ok(watch) => drop(watches.insert(dir.to_owned(), watch)),
                    Err(Errno::NOENT | Errno::NOTDIR) => continue,
                    Err(error) => return Err(error.into()),
                }
                if nearest(path) == Some(dir) {
                    break;
                }
            }
        }
        let kept: BTreeSet<i32> = watches.values().copied().collect();
        for watch in self.watches.values().filter(|watch| !kept.contains(watch)) {
            // That of a directory that is gone has gone with it.
            let _ = inotify::remove_watch(&self.fd, *watch);
        }
        self.watches = watches;
        Ok(())
    }

    /// Takes what happened; does not wait.
    ///
    /// # Errors
    /// Of read(2).
    pub fn take(&self) -> io::Result<Happened> {
        let mut happened = Happened::default();
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.fd, &mut space);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return Ok(happened),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let Some(name) = event.file_name() else {
                // Of a watch that was taken away nobody wants to know.
                happened.anything |= event.events() != ReadFlags::IGNORED;
                continue;
            };
            let name = OsStr::from_bytes(name.to_bytes());
            let watched = self.watches.iter().filter(|(_, watch)| **watch == event.wd());
            happened.paths.extend(watched.map(|(dir, _)| dir.join(name)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_path_is_followed_through_missing_directories() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/c");
        let mut paths = Paths::new().unwrap();
        paths.set([path.as_path()].into_iter()).unwrap();
        assert_eq!(paths.take().unwrap(), Happened::default());
        fs::create_dir(root.path().join("a")).unwrap();
        assert!(paths.take().unwrap().concerns(&path));
        paths.set([path.as_path()].into_iter()).unwrap();
        fs::create_dir(root.path().join("a/b")).unwrap();
        assert!(paths.take().unwrap().concerns(&path));
        paths.set([path.as_path()].into_iter()).unwrap();
        fs::write(root.path().join("a/b/other"), "").unwrap();
        assert!(!paths.take().unwrap().concerns(&path));
        fs::write(&path, "").unwrap();
        assert!(paths.take().unwrap().concerns(&path));
        fs::remove_dir_all(root.path().join("a")).unwrap();
        assert!(paths.take().unwrap().concerns(&path));
        paths.set(std::iter::empty()).unwrap();
        paths.take().unwrap();
        fs::write(root.path().join("a"), "").unwrap();
        assert_eq!(paths.take().unwrap(), Happened::default());
    }
}
