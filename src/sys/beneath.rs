//! Opening what lies below a directory and nowhere else (openat2(2)).

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Paths are opened in pieces of at most this many bytes; the kernel takes 4096 at once, a tree may be deeper.
const PIECE: usize = 2048;

/// No way out: neither `..`, nor a symbolic link, nor a mount point.
pub const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

/// Opens a directory below `root`, for reading; the empty path is `root` itself.
///
/// # Errors
/// Of openat2(2); `ELOOP` and `EXDEV` for what leads out.
pub fn open_below(root: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let open = |from: std::os::fd::BorrowedFd<'_>, piece: &Path, flags| {
        rustix::fs::openat2(from, piece, flags | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), RESOLVE)
    };
    let (mut at, mut piece) = (None::<OwnedFd>, PathBuf::new());
    for name in path {
        if piece.as_os_str().len() + name.len() > PIECE {
            at = Some(open(at.as_ref().map_or(root.as_fd(), |fd| fd.as_fd()), &piece, OFlags::PATH)?);
            piece = PathBuf::new();
        }
        piece.push(name);
    }
    if piece.as_os_str().is_empty() {
        piece.push(".");
    }
    open(at.as_ref().map_or(root.as_fd(), |fd| fd.as_fd()), &piece, OFlags::RDONLY | OFlags::NOATIME)
}

/// So far from the nearest directory that is held, bytes of a path, another one is held…
const STRIDE: usize = 256;
/// …and so many at most: a walk of the newest first needs those of one branch.
const HELD: usize = 32;

/// A directory below which many are opened, one after the other, as a walk does: some on the way are held, so that what lies
/// deep is not looked for from the root each time. Who walks by it does not put other directories in the place of those that
/// it has opened.
pub struct Tree<'a> {
    root: BorrowedFd<'a>,
    held: Mutex<VecDeque<(PathBuf, Arc<OwnedFd>)>>,
}

impl<'a> Tree<'a> {
    /// Below `root`.
    pub fn new(root: &'a impl AsFd) -> Self {
        Self { root: root.as_fd(), held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, VecDeque<(PathBuf, Arc<OwnedFd>)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`open_below`] of the root.
    ///
    /// # Errors
    /// As of [`open_below`].
    pub fn open(&self, path: &Path) -> Result<OwnedFd, Errno> {
        if path.as_os_str().len() <= STRIDE {
            return open_below(self.root, path);
        }
        let near = self.nearest(path);
        let opened = match &near {
            Some((rest, from)) => open_below(&**from, rest)?,
            None => open_below(self.root, path)?,
        };
        if near.is_none_or(|(rest, _)| rest.as_os_str().len() > STRIDE) {
            // One more only saves time.
            if let Ok(copy) = rustix::io::fcntl_dupfd_cloexec(&opened, 0) {
                let mut held = self.held();
                held.truncate(HELD - 1);
                held.push_front((path.to_owned(), Arc::new(copy)));
            }
        }
        Ok(opened)
    }

    /// The deepest directory that is held on the way to `path`, and what of that remains.
    fn nearest<'p>(&self, path: &'p Path) -> Option<(&'p Path, Arc<OwnedFd>)> {
        let whole = path.as_os_str().as_bytes();
        let below = |(above, fd): &(PathBuf, Arc<OwnedFd>)| {
            let rest = whole.strip_prefix(above.as_os_str().as_bytes())?;
            let rest = if rest.is_empty() { rest } else { rest.strip_prefix(b"/")? };
            Some((rest, Arc::clone(fd)))
        };
        let found = self.held().iter().filter_map(below).min_by_key(|(rest, _)| rest.len())?;
        Some((Path::new(OsStr::from_bytes(found.0)), found.1))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_tree_opens_what_it_opens_from_its_root() {
        let dir = tempfile::tempdir().unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(dir.path(), flags, Mode::empty()).unwrap();
        let tree = Tree::new(&root);
        let same = |path: &Path| {
            let (one, other) = (tree.open(path).unwrap(), open_below(&root, path).unwrap());
            let number = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
            assert_eq!(number(&one), number(&other), "{}", path.as_os_str().len());
            one
        };
        // Two branches, each deeper than one path can say, with names that begin alike.
        for branch in ["a", "ab"] {
            let mut path = PathBuf::from(branch);
            let mut above = tree.open(Path::new("")).unwrap();
            for step in 0..60 {
                rustix::fs::mkdirat(&above, path.file_name().unwrap(), Mode::RWXU).unwrap();
                above = same(&path);
                path.push(format!("{step:090}"));
            }
            assert!(path.as_os_str().len() > 4096);
            assert!(tree.open(&path).is_err());
            // And back.
            while path.pop() {
                drop(same(&path));
            }
            assert!(tree.held().len() <= HELD);
        }
        // No way out, from wherever it is opened.
        let deep = PathBuf::from("ab").join((0..20).map(|step| format!("{step:090}")).collect::<PathBuf>());
        let place = dir.path().join(&deep);
        symlink(dir.path(), place.join("link")).unwrap();
        drop(same(&deep));
        assert!(tree.open(&deep.join("link")).is_err());
    }
}
