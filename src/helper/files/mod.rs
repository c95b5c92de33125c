//! Files of an instance: what is asked of the helper, and what it answers.
//!
//! The helper enters the instance's user namespace, so that it is that container's root and nobody outside, and resolves
//! every path below the root that it was given (see [`root`]). It alone touches the instance's files: a file system that
//! a hostile container serves itself (FUSE) can hang its helper, never the daemon.
//!
//! ```text
//!  daemon                                     helper
//!    │ ── Files(request) + root, userns, pipe ─> enters the user namespace, opens
//!    │ <── File(what it is) | Refused ──────────┤
//!    │ <══ content, or names each with a NUL ═══┤ (Read)  pipe, then the helper ends
//!    │ ══ content ═════════════════════════════>│ (Write) pipe, into a nameless file
//!    │ ── Commit ───────────────────────────────>│ gives it the name, or copies it into the file that is there
//!    │ <── Done | Refused ──────────────────────┘
//!    │ <══ SFTP both ways ══════════════════════> (Sftp)  the socket itself, until either end closes
//! ```
//! A writer that vanishes before `Commit` has changed nothing.

mod child;
pub(super) mod root;
mod session;

use std::fmt;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub(super) use child::{Writing, serve};
pub use session::{Keeper, Session};

/// The longest path, bytes (`PATH_MAX` in path_resolution(7), less the NUL).
const MAX_PATH: usize = 4095;

/// A path inside an instance: any bytes but NUL, not empty. A relative one counts from the root, as LXD's own client
/// sends them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FilePath(Vec<u8>);

impl FilePath {
    /// Checks `bytes` and makes them a path.
    ///
    /// # Errors
    /// With the rule that they break.
    pub fn new(bytes: Vec<u8>) -> Result<Self, &'static str> {
        if bytes.is_empty() {
            return Err("it is empty: name a file or directory");
        }
        if bytes.contains(&0) {
            return Err("it contains a NUL byte");
        }
        if bytes.len() > MAX_PATH {
            return Err("it is longer than 4095 bytes");
        }
        Ok(Self(bytes))
    }

    /// Its bytes, as they came.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The last component; empty for the root.
    pub fn file_name(&self) -> &[u8] {
        let trimmed = self.0.trim_ascii_end_matches(b'/');
        trimmed.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }
}

/// As an absolute path, for people.
impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.starts_with(b"/") {
            f.write_str("/")?;
        }
        f.write_str(&crate::names::both_ends(&String::from_utf8_lossy(&self.0)))
    }
}

trait TrimEnd {
    fn trim_ascii_end_matches(&self, byte: u8) -> &[u8];
}

impl TrimEnd for [u8] {
    fn trim_ascii_end_matches(&self, byte: u8) -> &[u8] {
        let end = self.iter().rposition(|other| *other != byte).map_or(0, |last| last + 1);
        &self[..end]
    }
}

/// Owner and mode of what is made, in the container's own numbers. `None` leaves what the kernel gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ownership {
    /// User id.
    pub uid: Option<u32>,
    /// Group id.
    pub gid: Option<u32>,
    /// Permission bits, 0 to 0o7777.
    pub mode: Option<u32>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FilesRequest {
    /// Tell what it is.
    Look(FilePath),
    /// Tell what it is and send what it holds: a file's content, a directory's names.
    Read(FilePath),
    /// Take the content of a file.
    Write {
        /// Where.
        path: FilePath,
        /// To its end; it must be there.
        append: bool,
        /// Of a file that is new.
        new: Ownership,
        /// Of a file that is there already.
        existing: Ownership,
    },
    /// Make a directory, if it is not there.
    MakeDirectory {
        /// Where.
        path: FilePath,
        /// Of one that is new.
        new: Ownership,
    },
    /// Make a symbolic link, if it is not there with this very target.
    MakeLink {
        /// Where.
        path: FilePath,
        /// What it points to.
        target: FilePath,
        /// Of one that is new; a link has no mode.
        new: Ownership,
    },
    /// Remove a file, a link, or an empty directory.
    Delete(FilePath),
    /// Serve SFTP on the socket from here on.
    Sftp,
}

/// The kinds of file that the API knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

/// What was found at a path. Ids are the container's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Its kind.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last modification, seconds since 1970.
    pub modified: i64,
    /// Bytes of content; unknown for a file of the kernel's that tells none.
    pub size: Option<u64>,
    /// What a link points to.
    pub target: Vec<u8>,
}

/// Why the instance's files did not allow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Nothing is there.
    NotFound,
    /// The directory that it should lie in is not there.
    NoParent,
    /// A part of the path is no directory.
    NotADirectory,
    /// A directory, where a file is needed.
    IsADirectory,
    /// A directory that is not empty.
    NotEmpty,
    /// Something else is there.
    Exists,
    /// A device, pipe or socket.
    Special,
    /// In use: a mount point, a program that runs.
    Busy,
    /// On a read-only file system.
    ReadOnly,
    /// The disk is full, or a quota is.
    NoSpace,
    /// The container's root may not.
    Denied,
    /// Too many links, or one of /proc's that lead elsewhere.
    Loop,
    /// A component is too long.
    TooLong,
    /// The root itself, or `.` or `..`, which cannot be made or removed.
    NoEntry,
    /// An owner that the instance's id map does not have.
    NoSuchId,
    /// The kernel's number of another error (errno(3)).
    Errno(i32),
}

impl From<Errno> for Refusal {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOENT => Self::NotFound,
            Errno::NOTDIR => Self::NotADirectory,
            Errno::ISDIR => Self::IsADirectory,
            Errno::NOTEMPTY => Self::NotEmpty,
            Errno::EXIST => Self::Exists,
            Errno::NXIO | Errno::NODEV => Self::Special,
            Errno::BUSY | Errno::TXTBSY => Self::Busy,
            Errno::ROFS => Self::ReadOnly,
            Errno::NOSPC | Errno::DQUOT => Self::NoSpace,
            Errno::ACCESS | Errno::PERM => Self::Denied,
            Errno::LOOP => Self::Loop,
            Errno::NAMETOOLONG => Self::TooLong,
            other => Self::Errno(other.raw_os_error()),
        }
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Errno::from_io_error(&error).map_or(Self::Errno(Errno::IO.raw_os_error()), Self::from)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "Not Found: there is no such file or directory",
            Self::NoParent => "Not Found: the directory that it should lie in does not exist",
            Self::NotADirectory => "a part of the path is not a directory",
            Self::IsADirectory => "it is a directory",
            Self::NotEmpty => "the directory is not empty",
            Self::Exists => "something else is there already",
            Self::Special => "it is a device, pipe or socket, and only files, directories and links are served",
            Self::Busy => "it is in use, as a mount point or a running program",
            Self::ReadOnly => "it lies on a read-only file system",
            Self::NoSpace => "no space left on its disk",
            Self::Denied => "the instance's own root has no permission",
            Self::Loop => "too many symbolic links on the way, or a link of /proc that leads elsewhere",
            Self::TooLong => "a component of the path is longer than 255 bytes",
            Self::NoEntry => "the root directory, \".\" and \"..\" can be neither made nor removed",
            Self::NoSuchId => "the uid or gid does not exist in the instance's id map",
            Self::Errno(number) => return std::io::Error::from_raw_os_error(*number).fmt(f),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_bytes_without_nul() {
        assert_eq!(FilePath::new(b"root/\xff".to_vec()).unwrap().to_string(), "/root/\u{fffd}");
        assert_eq!(FilePath::new(b"/a/b//".to_vec()).unwrap().file_name(), b"b");
        assert_eq!(FilePath::new(b"/".to_vec()).unwrap().file_name(), b"");
        assert!(FilePath::new(vec![b'a'; 4095]).is_ok());
        for bad in [Vec::new(), b"/a\0b".to_vec(), vec![b'a'; 4096]] {
            assert!(FilePath::new(bad).is_err());
        }
    }
}
