//! Pseudo terminals inside a container's own devpts.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

/// Both ends of a pseudo terminal.
pub struct Pair {
    /// The daemon's end.
    pub ptx: OwnedFd,
    /// The program's end.
    pub pts: OwnedFd,
}

/// Opens a pair in the devpts instance at `devpts` and gives it to `uid`:`gid` (in this process's numbering), so that
/// it is `/dev/pts/<n>` of its user inside. Source: ioctl_tty(2), `TIOCGPTPEER`.
///
/// # Errors
/// Of the kernel.
pub fn open(devpts: impl AsFd, uid: u32, gid: u32) -> io::Result<Pair> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let ptx = rustix::fs::openat(devpts, "ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&ptx)?;
    let pts = rustix::pty::ioctl_tiocgptpeer(&ptx, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::fs::fchown(&pts, Some(rustix::fs::Uid::from_raw(uid)), Some(rustix::fs::Gid::from_raw(gid)))?;
    Ok(Pair { ptx, pts })
}

/// Sets the size of a terminal; zero means 80 × 24.
///
/// # Errors
/// Of the kernel.
pub fn resize(fd: impl AsFd, columns: u16, rows: u16) -> io::Result<()> {
    let or = |value: u16, default: u16| if value == 0 { default } else { value };
    let size = Winsize { ws_row: or(rows, 24), ws_col: or(columns, 80), ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(fd, size)?)
}
