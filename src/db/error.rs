//! What can go wrong in the database.

use std::fmt;

/// A failure of the database itself. Refusals ("already exists") are the business of the closure that writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The file cannot be opened or created.
    Open {
        /// Its path.
        path: String,
        /// SQLite's words.
        reason: String,
    },
    /// The schema could not be brought up to date; the old file is untouched.
    Migrate {
        /// Version that was to be reached.
        version: i64,
        /// SQLite's words.
        reason: String,
    },
    /// There is no database.
    Missing {
        /// Where it should be.
        path: String,
    },
    /// A statement that changes something, where only reading is allowed.
    ReadOnly {
        /// Its first word.
        statement: String,
    },
    /// A statement that cannot be part of a change.
    Forbidden {
        /// Its first word.
        statement: String,
    },
    /// The file was written by a newer Warren.
    TooNew {
        /// Version in the file.
        found: i64,
        /// Highest version this program knows.
        known: i64,
    },
    /// No room to write; reading goes on, and writing recovers when there is room.
    Full,
    /// A row that does not parse; the object is left out and named in the log.
    Row {
        /// Table and key.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A statement failed.
    Statement {
        /// SQLite's words.
        reason: String,
    },
    /// The change was not made because its transaction failed for another reason.
    Lost,
    /// The writer is gone: the daemon is shutting down.
    Closed,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { path, reason } => write!(f, "Cannot open the database {path}: {reason}"),
            Self::Migrate { version, reason } => {
                write!(f, "Cannot bring the database to schema version {version}: {reason}; the old file is unchanged")
            }
            Self::Missing { path } => write!(f, "There is no database {path}: no daemon has run in this directory yet"),
            Self::ReadOnly { statement } => {
                write!(f, "{statement} changes the database: add --unsafe if you know what the daemon makes of it")
            }
            Self::Forbidden { statement } => {
                write!(
                    f,
                    "{statement} cannot be part of a change: all statements are one transaction, which is kept if all succeed"
                )
            }
            Self::TooNew { found, known } => write!(
                f,
                "The database has schema version {found}, this program knows up to {known}: install the newer version again"
            ),
            Self::Full => {
                f.write_str("The database cannot be written: no space left on its disk; free some and try again")
            }
            Self::Row { what, reason } => write!(f, "Damaged database row {what}: {reason}"),
            Self::Statement { reason } => write!(f, "Database error: {reason}"),
            Self::Lost => f.write_str("The database transaction failed, nothing was changed; try again"),
            Self::Closed => f.write_str("The daemon is shutting down"),
        }
    }
}

impl std::error::Error for Error {}

impl From<diesel::result::Error> for Error {
    fn from(error: diesel::result::Error) -> Self {
        if let diesel::result::Error::DatabaseError(_, info) = &error
            && info.message().contains("disk is full")
        {
            // SQLITE_FULL reaches diesel only as this fixed text of sqlite3_errstr().
            return Self::Full;
        }
        Self::Statement { reason: error.to_string() }
    }
}
