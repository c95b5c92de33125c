//! What can be wrong with images.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::names::{Fingerprint, shown_path};

/// The errors of this room.
#[derive(Debug)]
#[expect(missing_docs, reason = "Display says what each one means; fields are named after what they hold")]
pub enum Error {
    BadArchive {
        reason: String,
    },
    Hostile {
        path: String,
        reason: &'static str,
    },
    Metadata {
        field: String,
        reason: String,
    },
    Fingerprint {
        expected: Fingerprint,
        found: Fingerprint,
    },
    Empty,
    Limit {
        what: &'static str,
        limit: u64,
    },
    NoSpace {
        path: PathBuf,
    },
    NotFound {
        fingerprint: Fingerprint,
    },
    /// The store is a link to what is not there.
    Away,
    Tool {
        tool: &'static str,
        reason: String,
    },
    Pack {
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
            Self::BadArchive { reason } => write!(f, "The image is not usable: {reason}"),
            Self::Hostile { path, reason } => {
                write!(f, "The image is refused because of its entry {:?}: {reason}", shown_path(path))
            }
            Self::Metadata { field, reason } => write!(f, "The image's metadata.yaml, field {field:?}: {reason}"),
            Self::Fingerprint { expected, found } => write!(
                f,
                "The image has the fingerprint {found}, not {expected} as announced: it was damaged on the way, send it again"
            ),
            Self::Empty => f.write_str("The request has no image in its body"),
            Self::Limit { what, limit } => write!(f, "The image is refused: it has more than {limit} {what}"),
            Self::NoSpace { path } => {
                write!(f, "No space left on the disk of {}: free some and try again", shown_path(path))
            }
            Self::NotFound { fingerprint } => {
                write!(f, "The files of image {fingerprint} are missing: import it again")
            }
            // Where that is, is nothing for those who are limited to projects.
            Self::Away => f.write_str(
                "The files of images lie on the volume of storage.images_volume, which is not there: bring its storage pool back",
            ),
            Self::Pack { reason } => write!(f, "The image cannot be packed: {reason}"),
            Self::Tool { tool, reason } => write!(f, "{tool} failed: {reason}"),
            Self::Io { doing, path, error } => write!(f, "Cannot {doing} {}: {error}", shown_path(path)),
        }
    }
}

impl std::error::Error for Error {}

/// Names what was done to which path; a full disk has a word of its own.
pub(super) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::NoSpace { path },
        _ => Error::Io { doing, path, error },
    }
}
