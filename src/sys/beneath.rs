//! Opening what lies below a directory and nowhere else (openat2(2)).

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

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
