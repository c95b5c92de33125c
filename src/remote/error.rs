//! What can be wrong with image servers and what comes from them.

use std::fmt;
use std::sync::Arc;

use crate::names::{Fingerprint, NameError, ProjectName, shown_path};
use crate::{db, fetch, image, project, storage};

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
            Self::NoImage { server, what } => {
                write!(f, "The image server {server} has no image {what:?} that is for everybody")
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
            Self::Index { .. } | Self::Answer { .. } => false,
            _ => !self.is_missing(),
        }
    }

    /// The limits of another project are reached: a download that it began, and others waited for.
    pub(super) fn is_of_another(&self, than: &ProjectName) -> bool {
        match self {
            Self::Shared(error) => error.is_of_another(than),
            Self::Project(project::Error::Reached { project, .. }) => project != than,
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
