//! What can go wrong with pools and volumes.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::image;
use crate::names::PoolName;

/// The errors of this room.
#[derive(Debug)]
#[expect(missing_docs, reason = "Display says what each one means; fields are named after what they hold")]
pub enum Error {
    NoSuchPool { pool: PoolName },
    Exists { pool: PoolName },
    Unavailable { pool: PoolName, reason: String },
    UnknownDriver { driver: String },
    DriverUnavailable { driver: &'static str, reason: String },
    NoIdMappedMounts { reason: String },
    ShiftRefused,
    Shifted { pool: PoolName },
    UnknownKey { driver: &'static str, key: String },
    Value { key: &'static str, value: String, expected: &'static str },
    NotEmpty { path: PathBuf },
    InUse { pool: PoolName, by: String },
    VolumeExists { volume: String },
    NoSuchVolume { volume: String },
    Hold { error: io::Error },
    NoSpace { path: PathBuf },
    Image(image::Error),
    Damaged { path: PathBuf, reason: String },
    Io { doing: &'static str, path: PathBuf, error: io::Error },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchPool { pool } => write!(f, "Storage pool {:?} not found", pool.as_str()),
            Self::Exists { pool } => write!(f, "Storage pool {:?} already exists", pool.as_str()),
            Self::Unavailable { pool, reason } => {
                write!(f, "Storage pool {:?} is not available: {reason}", pool.as_str())
            }
            Self::UnknownDriver { driver } => {
                write!(f, "Unknown storage driver {driver:?} in field \"driver\"; this version has dir and overlay")
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
            Self::UnknownKey { driver, key } => {
                write!(f, "Unknown configuration key {key:?} of a {driver} storage pool; it takes source and user.*")
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
            Self::Hold { error } => write!(f, "The processes of the instance cannot be held for its snapshot: {error}"),
            Self::NoSpace { path } => {
                write!(f, "No space left on the disk of {}: free some and try again", path.display())
            }
            Self::Image(error) => error.fmt(f),
            Self::Damaged { path, reason } => write!(f, "The volume file {} is damaged: {reason}", path.display()),
            Self::Io { doing, path, error } => write!(f, "Cannot {doing} {}: {error}", path.display()),
        }
    }
}

impl std::error::Error for Error {}

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
