//! OPEN of SFTP: flags to flags; regular files, and directories to look at.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::wire::{Attributes, Failure};
use super::{FILE_MODE, permissions};
use crate::helper::files::Refusal;
use crate::helper::files::root::{Root, kind, reopen};

// Bits of `pflags` (draft-ietf-secsh-filexfer-02, 6.3).
const READ: u32 = 1;
const WRITE: u32 = 2;
const APPEND: u32 = 4;
const CREATE: u32 = 8;
const TRUNCATE: u32 = 16;
const EXCLUSIVE: u32 = 32;

/// Opens a file; true when it is written at its end.
pub(super) fn open(root: &Root, path: &[u8], pflags: u32, attributes: &Attributes) -> Result<(OwnedFd, bool), Failure> {
    let has = |bit| pflags & bit != 0;
    let mut flags = match (has(READ), has(WRITE) || has(APPEND)) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        // Go's client opens for nothing at all what it then only looks at.
        (true | false, false) => OFlags::RDONLY,
    };
    if has(APPEND) {
        flags |= OFlags::APPEND;
    }
    let mode = permissions(attributes.mode.unwrap_or(FILE_MODE));
    if has(CREATE) && has(EXCLUSIVE) {
        let fd = root.open(path, flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOCTTY, mode)?;
        return Ok((fd, has(APPEND)));
    }
    // Looked at first: opening a device or a pipe would have effects.
    match root.look(path, true) {
        // Incus's client opens what it pulls before it asks what that is. Reading from a directory fails, by the kernel.
        Ok((place, stat)) if kind(&stat) == FileType::Directory && pflags & !READ == 0 => {
            Ok((reopen(place, OFlags::RDONLY | OFlags::DIRECTORY)?, false))
        }
        Ok((place, stat)) => {
            regular(kind(&stat))?;
            if has(TRUNCATE) {
                flags |= OFlags::TRUNC;
            }
            Ok((reopen(place, flags)?, has(APPEND)))
        }
        Err(Errno::NOENT) if has(CREATE) => {
            let fd = root.open(path, flags | OFlags::CREATE | OFlags::NOCTTY | OFlags::NONBLOCK, mode)?;
            regular(kind(&rustix::fs::fstat(&fd)?))?;
            Ok((fd, has(APPEND)))
        }
        Err(error) => Err(error.into()),
    }
}

fn regular(kind: FileType) -> Result<(), Refusal> {
    match kind {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(Refusal::IsADirectory),
        FileType::Symlink
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => Err(Refusal::Special),
    }
}
