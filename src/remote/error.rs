//! What can be wrong with image servers and what comes from them.

use std::fmt;
use std::sync::Arc;

use crate::names::{Fingerprint, NameError, ProjectName, shown_path};
use crate::{db, fetch, image, project, storage};

/// How a server is asked for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    /// By the lists of what it has.
    Listed,
    /// As anybody.
    Public,
    /// With a secret.
    Secret,
}

/// The errors of this room.
#[derive(Debug)]
#[expect(missing_docs, reason = "Display says what each one means; fields are named after what they hold")]
pub enum Error {
    Field {
        name: &'static str,
        reason: String,
    },
    NoImage {
        server: String,
        what: String,
        asked: Asking,
    },
    /// It stands in a list, in words that cannot be used.
    Skipped {
        server: String,
        what: String,
        product: String,
        reason: String,
    },
    /// Not what was announced came.
    Damaged {
        server: String,
        expected: Fingerprint,
        found: Fingerprint,
    },
    /// One of its files is another one than the list says.
    File {
        server: String,
        path: String,
        product: String,
        expected: String,
        found: String,
    },
    /// There is no byte in it.
    Nothing {
        server: String,
    },
    Ambiguous {
        server: String,
        what: String,
    },
    Architecture {
        server: String,
        what: String,
        has: String,
        host: String,
    },
    NotAContainer {
        server: String,
        what: String,
        kind: String,
    },
    Index {
        url: String,
        reason: String,
    },
    Answer {
        url: String,
        reason: String,
    },
    NoOrigin {
        fingerprint: Fingerprint,
    },
    /// Who asked for a newer one has no old one any more.
    Deleted {
        fingerprint: Fingerprint,
    },
    NotFound,
    Ended,
    Exists {
        fingerprint: Fingerprint,
    },
    /// The download that several waited for.
    Shared(Arc<Error>),
    Fetch(fetch::Error),
    Image(image::Error),
    Storage(storage::Error),
    Project(project::Error),
    Name(NameError),
    Db(db::Error),
    Io {
        doing: &'static str,
        path: std::path::PathBuf,
        error: std::io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field { name, reason } => write!(f, "The field {name:?}: {reason}"),
            Self::NoImage { server, what, asked } => {
                write!(f, "The image server {server} has no image {what:?}")?;
                f.write_str(match asked {
                    Asking::Listed => " in its lists: check the name, and whether it is there for this architecture",
                    Asking::Public => " that is for everybody: check the name; one that is not public needs a secret",
                    Asking::Secret => ", or not for this secret, which is good for one use: ask for a new one there",
                })
            }
            Self::Skipped { server, what, product, reason } => write!(
                f,
                "The image {what:?} of {server} is not usable, for its product {product:?} stands wrong in the list: {reason}. \
                 Whoever runs the server must mend that; its other images can be used"
            ),
            Self::Damaged { server, expected, found } => write!(
                f,
                "What {server} sends for the image {expected} has the fingerprint {found}: it was damaged on the way, or lies \
                 wrong there; try again, or another server"
            ),
            Self::File { server, path, product, expected, found } => write!(
                f,
                "The file {path:?} of the product {product:?} comes damaged from {server}: its SHA-256 is {found}, not {expected} \
                 as listed; try again, or another server"
            ),
            Self::Nothing { server } => {
                write!(f, "{server} sends an empty file for the image; try again, or another server")
            }
            Self::Ambiguous { server, what } => {
                write!(f, "More than one image of {server} begins with {what:?}: give more of the fingerprint")
            }
            Self::Architecture { server, what, has, host } => {
                write!(f, "The image {what:?} of {server} is for {has}; this host runs {host}")
            }
            Self::NotAContainer { server, what, kind } => {
                write!(f, "The image {what:?} of {server} is a {kind}: Warren runs containers")
            }
            Self::Index { url, reason } => write!(f, "The list of images {url} is not usable: {reason}"),
            Self::Answer { url, reason } => write!(f, "The answer of {url} is not usable: {reason}"),
            Self::NoOrigin { fingerprint } => write!(
                f,
                "Image source not found: the image {fingerprint} came from no server by a name, so there is nothing newer of \
                 it; copy it from a server by an alias"
            ),
            Self::Deleted { fingerprint } => {
                write!(f, "The image {fingerprint} was deleted while it was refreshed: nothing came in its place")
            }
            Self::NotFound => f.write_str("Image not found"),
            Self::Ended => f.write_str("The download ended without a result; see the log"),
            Self::Exists { fingerprint } => write!(f, "Image with fingerprint \"{fingerprint}\" already exists"),
            Self::Shared(error) => error.fmt(f),
            Self::Fetch(error) => error.fmt(f),
            Self::Image(error) => error.fmt(f),
            Self::Storage(error) => error.fmt(f),
            Self::Project(error) => error.fmt(f),
            Self::Name(error) => error.fmt(f),
            Self::Db(error) => error.fmt(f),
            Self::Io { doing, path, error } => write!(f, "Cannot {doing} {}: {error}", shown_path(path)),
        }
    }
}

impl std::error::Error for Error {}

from!(
    Fetch fetch::Error,
    Image image::Error,
    Storage storage::Error,
    Project project::Error,
    Name NameError,
    Db db::Error,
);

/// Names what was done to which path.
pub(super) fn io(doing: &'static str, path: impl Into<std::path::PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.into();
    move |error| Error::Io { doing, path, error }
}

impl Error {
    /// The server cannot be asked now; not: it has no such image, or what it says is not to be believed.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Shared(error) => error.is_away(),
            Self::Index { .. } | Self::Answer { .. } | Self::Skipped { .. } => false,
            _ => !self.is_missing(),
        }
    }

    /// What ends only the download of whoever began it, not that of others who waited for it: the limits of another project
    /// than `project`, or a refresh of what is deleted other than `refreshes`.
    pub(super) fn is_of_another(&self, than: &ProjectName, refreshes: Option<&Fingerprint>) -> bool {
        match self {
            Self::Shared(error) => error.is_of_another(than, refreshes),
            Self::Deleted { fingerprint } => refreshes != Some(fingerprint),
            Self::Project(project::Error::Reached { project, .. }) => project != than,
            _ => false,
        }
    }

    /// Its list is of no use for it; a newer one may be.
    pub(super) fn is_skipped(&self) -> bool {
        match self {
            Self::Skipped { .. } => true,
            Self::Shared(error) => error.is_skipped(),
            _ => false,
        }
    }

    /// The server says that it does not have it.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::NoImage { .. } => true,
            Self::Fetch(error) => error.is_missing(),
            Self::Shared(error) => error.is_missing(),
            _ => false,
        }
    }
}
