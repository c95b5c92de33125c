//! What can go wrong with pools and volumes.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::config;
use crate::image;
use crate::names::{PoolName, shown_path};
use crate::sys::freezer::is_gone;
use crate::sys::holders::Holder;

/// The errors of this room.
#[derive(Debug)]
#[expect(missing_docs, reason = "Display says what each one means; fields are named after what they hold")]
pub enum Error {
    NoSuchPool {
        pool: PoolName,
    },
    Exists {
        pool: PoolName,
    },
    Unavailable {
        pool: PoolName,
        reason: String,
    },
    /// No pool is used any more.
    ShuttingDown,
    UnknownDriver {
        driver: String,
    },
    DriverUnavailable {
        driver: &'static str,
        reason: String,
    },
    NoIdMappedMounts {
        reason: String,
    },
    ShiftRefused,
    Shifted {
        pool: PoolName,
    },
    Key(config::Error),
    Source {
        source: String,
        reason: String,
    },
    Absent {
        source: String,
        reason: String,
    },
    Format {
        path: PathBuf,
        said: String,
    },
    Mount {
        device: PathBuf,
        place: PathBuf,
        options: String,
        error: io::Error,
    },
    QuotaTooSmall {
        path: PathBuf,
        used: u64,
        asked: u64,
    },
    NoQuotas {
        path: PathBuf,
        reason: String,
    },
    Busy {
        pool: PoolName,
        holders: Vec<Holder>,
    },
    Value {
        key: &'static str,
        value: String,
        expected: &'static str,
    },
    NotEmpty {
        path: PathBuf,
    },
    InUse {
        pool: PoolName,
        by: String,
    },
    VolumeExists {
        volume: String,
    },
    NoSuchVolume {
        volume: String,
    },
    Hold {
        error: io::Error,
    },
    NoSpace {
        path: PathBuf,
    },
    Full {
        pool: PoolName,
        path: PathBuf,
    },
    ReadOnly {
        pool: PoolName,
        path: PathBuf,
    },
    Failing {
        pool: PoolName,
        doing: &'static str,
        path: PathBuf,
        error: io::Error,
    },
    Image(image::Error),
    Damaged {
        path: PathBuf,
        reason: String,
    },
    Io {
        doing: &'static str,
        path: PathBuf,
        error: io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchPool { pool } => write!(f, "Storage pool {:?} not found", pool.as_str()),
            Self::Exists { pool } => write!(f, "Storage pool {:?} already exists", pool.as_str()),
            Self::Unavailable { pool, reason } => {
                write!(f, "Storage pool {:?} is not available: {reason}", pool.as_str())
            }
            Self::ShuttingDown => f.write_str("The daemon is shutting down"),
            Self::UnknownDriver { driver } => {
                write!(
                    f,
                    "Unknown storage driver {driver:?} in field \"driver\"; this version has btrfs, dir and overlay"
                )
            }
            Self::DriverUnavailable { driver, reason } => {
                write!(f, "The storage driver {driver:?} does not work on this host: {reason}; use \"dir\"")
            }
            Self::NoIdMappedMounts { reason } => write!(
                f,
                "Unprivileged containers of an overlay pool need id-mapped mounts, which do not work on this host: \
                 {reason}; use a pool of driver dir; \"warrend doctor\" says more"
            ),
            Self::ShiftRefused => write!(
                f,
                "The ids of its files would have to be shifted, which \"security.protection.shift\" forbids: unset it, \
                 or give the instance back the id map of \"volatile.last_state.idmap\""
            ),
            Self::Shifted { pool } => write!(
                f,
                "The files of the instance are stored with ids of the host, which only pools of driver dir take: {:?} is \
                 none; start it once as a privileged one, or name another pool",
                pool.as_str()
            ),
            Self::Key(error) => error.fmt(f),
            Self::Source { source, reason } => write!(f, "The source {source} cannot be a storage pool: {reason}"),
            Self::Absent { source, reason } => {
                write!(f, "{source} {reason}; the pool works again, by itself, when it is back")
            }
            Self::Format { path, said } => write!(f, "Cannot make a file system on {}: {said}", path.display()),
            Self::Mount { device, place, options, error } => {
                let (device, place) = (device.display(), place.display());
                write!(f, "Cannot mount {device} at {place} with the options {options:?}: {error}")
            }
            Self::QuotaTooSmall { path, used, asked } => write!(
                f,
                "The volume {} has {used} bytes already, more than the size of {asked}: name a larger one, or delete \
                 files first",
                path.display()
            ),
            Self::NoQuotas { path, reason } => write!(
                f,
                "The size of the volume {} cannot be limited: {reason}; leave \"size\" out, or use a pool of driver \
                 btrfs",
                path.display()
            ),
            Self::Busy { pool, holders } if holders.is_empty() => {
                write!(f, "Storage pool {:?} is busy, though no process is seen to use it: try again", pool.as_str())
            }
            Self::Busy { pool, holders } => {
                let holders: Vec<String> = holders.iter().map(ToString::to_string).collect();
                write!(f, "Storage pool {:?} is busy: {}; end that and try again", pool.as_str(), holders.join(", "))
            }
            Self::Value { key, value, expected } => {
                write!(f, "Invalid value {value:?} for storage pool key {key:?}: {expected}")
            }
            Self::NotEmpty { path } => {
                write!(f, "The source {} is not empty: name an empty directory or leave \"source\" out", path.display())
            }
            Self::InUse { pool, by } => {
                write!(f, "Storage pool {:?} is in use by {by}: delete that first", pool.as_str())
            }
            Self::VolumeExists { volume } => write!(f, "The storage volume {volume:?} already exists"),
            Self::NoSuchVolume { volume } => write!(f, "The storage volume {volume:?} is not there"),
            Self::Hold { error } if is_gone(error) => {
                f.write_str("The instance ended or restarted while its files were copied; nothing is kept: try again")
            }
            Self::Hold { error } => write!(f, "The processes of the instance cannot be held for its snapshot: {error}"),
            Self::NoSpace { path } => {
                write!(f, "No space left on the disk of {}: free some and try again", shown_path(path))
            }
            Self::Full { pool, path } => write!(
                f,
                "Storage pool {:?} is full: No space left for {}; delete what nobody needs, or make the pool larger",
                pool.as_str(),
                shown_path(path)
            ),
            Self::ReadOnly { pool, path } => write!(
                f,
                "Storage pool {:?} is read-only, so {} cannot be written: an error of its disk may be why (see the \
                 kernel's log); mount it writable again, or stop its instances, and it is mounted anew",
                pool.as_str(),
                shown_path(path)
            ),
            Self::Failing { pool, doing, path, error } => write!(
                f,
                "What storage pool {:?} lies on fails: cannot {doing} {}: {error}; see the kernel's log, and bring its \
                 disk back",
                pool.as_str(),
                shown_path(path)
            ),
            Self::Image(error) => error.fmt(f),
            Self::Damaged { path, reason } => write!(f, "The volume file {} is damaged: {reason}", shown_path(path)),
            Self::Io { doing, path, error } => write!(f, "Cannot {doing} {}: {error}", shown_path(path)),
        }
    }
}

impl std::error::Error for Error {}

impl From<config::Error> for Error {
    fn from(error: config::Error) -> Self {
        Self::Key(error)
    }
}

impl From<image::Error> for Error {
    fn from(error: image::Error) -> Self {
        Self::Image(error)
    }
}

/// Turns an I/O error into one that names what was done to which path; a full disk has a word of its own.
pub(super) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::NoSpace { path },
        _ => Error::Io { doing, path, error },
    }
}
