//! Project quotas of ext4 and xfs: all files of a directory tree count together. Layouts: linux/fs.h (`struct fsxattr`),
//! linux/quota.h (`struct if_dqblk`); quotactl_fd(2), kernel 5.14.
#![allow(unsafe_code, reason = "quotactl_fd(2) has no safe interface")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::ioctl::{Argument, Direction, number, on_bytes};

const ATTRIBUTES: usize = 28;
const GET: u32 = number(Direction::Read, b'X', 31, ATTRIBUTES);
const SET: u32 = number(Direction::Write, b'X', 32, ATTRIBUTES);
/// Where the number lies; flags are first.
const NUMBER_AT: usize = 12;
/// `FS_XFLAG_PROJINHERIT`.
const INHERIT: u32 = 0x200;
/// `Q_GETQUOTA` and `Q_SETQUOTA` for `PRJQUOTA` (`QCMD`).
const GET_QUOTA: u32 = (0x80_0007 << 8) | 2;
const SET_QUOTA: u32 = (0x80_0008 << 8) | 2;
const QUOTA: usize = 72;
/// `QIF_BLIMITS`: only the limits of blocks are meant, which count by 1024 bytes.
const BLOCK_LIMITS: u32 = 1;
const VALID_AT: usize = 64;
const BLOCK: u64 = 1024;
/// Numbers below are left to the administrator.
const FIRST: u32 = 1 << 20;

/// What a project has and may have, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// On the disk.
    pub used: u64,
    /// At most.
    pub limit: Option<u64>,
}

fn attributes(file: impl AsFd) -> io::Result<Argument<ATTRIBUTES>> {
    let mut found = Argument::new();
    on_bytes(file, GET, &mut found.0)?;
    Ok(found)
}

/// The project of a file; 0: none.
///
/// # Errors
/// That of the kernel: `Unsupported` where there are no projects.
pub fn of(file: impl AsFd) -> io::Result<u32> {
    Ok(attributes(file)?.word_at(NUMBER_AT))
}

/// The number for a directory's own project: from its inode, so that no two of a file system are alike.
///
/// # Errors
/// Of fstat(2).
pub fn number_for(directory: impl AsFd) -> io::Result<u32> {
    let inode = rustix::fs::fstat(directory)?.st_ino;
    let part = u32::try_from(inode & 0x3fff_ffff).unwrap_or_default();
    Ok(FIRST.saturating_add(part))
}

/// Gives a file to a project; what is made in a directory from now on belongs to it, too.
///
/// # Errors
/// That of the kernel.
pub fn assign(file: impl AsFd, project: u32) -> io::Result<()> {
    let is_directory = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode).is_dir();
    let old = attributes(&file)?;
    let flags = if is_directory { old.word_at(0) | INHERIT } else { old.word_at(0) };
    on_bytes(file, SET, &mut old.word(0, flags).word(NUMBER_AT, project).0).map(drop)
}

fn quota(file: impl AsFd, command: u32, project: u32, argument: &mut [u8; QUOTA]) -> io::Result<()> {
    // SAFETY: the structure is as long as the kernel takes it to be, and lives over the call.
    let result = unsafe {
        libc::syscall(libc::SYS_quotactl_fd, file.as_fd().as_raw_fd(), command, project, argument.as_mut_ptr())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What a project of the file system of `file` has.
///
/// # Errors
/// That of the kernel: without quotas `ENOSYS`, `ESRCH` or `ENOTSUP`.
pub fn usage(file: impl AsFd, project: u32) -> io::Result<Usage> {
    let mut found = Argument::<QUOTA>::new();
    quota(file, GET_QUOTA, project, &mut found.0)?;
    // struct if_dqblk: the hard limit, the soft one, bytes in use.
    let limit = found.long_at(0).saturating_mul(BLOCK);
    Ok(Usage { used: found.long_at(16), limit: (limit > 0).then_some(limit) })
}

/// What is written for a limit, bytes.
fn wanted(bytes: Option<u64>) -> Argument<QUOTA> {
    let blocks = bytes.map_or(0, |bytes| bytes.div_ceil(BLOCK));
    Argument::new().long(0, blocks).long(8, blocks).word(VALID_AT, BLOCK_LIMITS)
}

/// Limits a project of the file system of `file`; `None`: as much as there is.
///
/// # Errors
/// As of [`usage`].
pub fn limit(file: impl AsFd, project: u32, bytes: Option<u64>) -> io::Result<()> {
    quota(file, SET_QUOTA, project, &mut wanted(bytes).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_in_blocks_and_says_what_it_means() {
        let set = wanted(Some(10_241));
        assert_eq!((set.long_at(0), set.long_at(8), set.word_at(VALID_AT)), (11, 11, 1));
        let none = wanted(None);
        assert_eq!((none.long_at(0), none.long_at(8), none.word_at(VALID_AT)), (0, 0, 1));
        // linux/quota.h, linux/fs.h.
        assert_eq!((GET_QUOTA, SET_QUOTA), (0x8000_0702, 0x8000_0802));
        assert_eq!((GET, SET), (0x801c_581f, 0x401c_5820));
    }

    #[test]
    fn directories_have_numbers_of_their_own() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let number = |name: &str| {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            number_for(std::fs::File::open(dir.path().join(name)).unwrap()).unwrap()
        };
        let (a, b) = (number("a"), number("b"));
        assert!(a != b && a >= FIRST && b >= FIRST);
        let file = std::fs::File::open(dir.path()).unwrap();
        // Without quotas of projects, a refusal; with them, what there is.
        if let Err(error) = limit(&file, a, Some(1 << 20)) {
            assert!(matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::ESRCH | libc::EOPNOTSUPP)), "{error}");
        }
    }
}
