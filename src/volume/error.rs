//! What can go wrong with custom volumes.

use std::fmt;

use super::server::Unfit;
use super::users::User;
use crate::config::ServerVolume;
use crate::names::{InstanceKey, NameError, PoolName, Projects, SnapshotName, VolumeName};
use crate::{config, db, project, storage};

/// The errors of this room.
#[derive(Debug)]
#[expect(missing_docs, reason = "Display says what each one means; fields are named after what they hold")]
pub enum Error {
    NotFound,
    NoSuchPool {
        pool: PoolName,
    },
    Exists {
        name: VolumeName,
    },
    NoSnapshot {
        name: SnapshotName,
    },
    SnapshotExists {
        name: SnapshotName,
    },
    /// `hidden`: how many more there are, of whom nothing is told.
    InUse {
        by: Vec<User>,
        hidden: usize,
    },
    /// The same.
    Running {
        doing: &'static str,
        by: Vec<InstanceKey>,
        hidden: usize,
    },
    /// Of a volume that the daemon itself is to use.
    Server {
        what: ServerVolume,
        reason: Unfit,
    },
    Changed {
        etag: String,
    },
    Name(NameError),
    Config(config::Error),
    Pattern {
        pattern: String,
        reason: String,
    },
    Storage(storage::Error),
    /// A deletion in a pool that is away.
    Away {
        cause: storage::Error,
    },
    Project(project::Error),
    Db(db::Error),
    Undo {
        cause: Box<Error>,
        failure: Box<Error>,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Words of LXD's, which programs look for.
            Self::NotFound => f.write_str("Storage pool volume not found"),
            Self::NoSuchPool { pool } => write!(f, "Storage pool not found: there is no {:?}", pool.as_str()),
            Self::Exists { name } => write!(f, "Volume by that name already exists: {:?}", name.as_str()),
            Self::NoSnapshot { name } => write!(f, "Storage volume snapshot {:?} not found", name.as_str()),
            Self::SnapshotExists { name } => write!(f, "Snapshot {:?} already in use", name.as_str()),
            Self::InUse { by, hidden } => {
                let mut by: Vec<String> = by.iter().map(ToString::to_string).collect();
                by.extend((*hidden > 0).then(|| format!("{hidden} in other projects")));
                write!(f, "The storage volume is still in use by {}: detach it there first", by.join(", "))
            }
            Self::Running { doing, by, hidden } => {
                let mut by: Vec<String> = by.iter().map(|key| key.name.to_string()).collect();
                by.extend((*hidden > 0).then(|| format!("{hidden} in other projects")));
                write!(
                    f,
                    "Cannot {doing} custom volume used by running instances ({}): stop them, or detach it there first",
                    by.join(", ")
                )
            }
            Self::Server { what, reason } => write!(f, "Configuration key {:?}: {reason}", what.key()),
            Self::Changed { etag } => {
                write!(f, "The object was changed meanwhile (its ETag is {etag}): read it again and repeat the change")
            }
            Self::Name(error) => error.fmt(f),
            Self::Config(error) => error.fmt(f),
            Self::Pattern { pattern, reason } => {
                write!(f, "Configuration key \"snapshots.pattern\": {pattern:?} makes no name: {reason}")
            }
            Self::Storage(error) => error.fmt(f),
            Self::Away { cause } => {
                write!(f, "{cause}. If it is lost: \"DELETE …?forget=1\" leaves alone what lies there")
            }
            Self::Project(error) => error.fmt(f),
            Self::Db(error) => error.fmt(f),
            Self::Undo { cause, failure } => write!(f, "{cause}; and cleaning up after that: {failure}"),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// The same as it is told to somebody who may see `projects`: of what uses a volume in others, only how much there is.
    pub fn seen_by(self, projects: &Projects) -> Self {
        match self {
            Self::InUse { mut by, hidden } => {
                let all = by.len();
                by.retain(|user| projects.holds(user.project()));
                let hidden = hidden + all - by.len();
                Self::InUse { by, hidden }
            }
            Self::Running { doing, mut by, hidden } => {
                let all = by.len();
                by.retain(|key| projects.holds(&key.project));
                let hidden = hidden + all - by.len();
                Self::Running { doing, by, hidden }
            }
            Self::Undo { cause, failure } => {
                Self::Undo { cause: Box::new(cause.seen_by(projects)), failure: Box::new(failure.seen_by(projects)) }
            }
            other => other,
        }
    }
}

from!(
    Name NameError,
    Config config::Error,
    Storage storage::Error,
    Project project::Error,
    Db db::Error,
);
