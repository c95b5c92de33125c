//! The database: one writer thread over SQLite and the immutable in-memory model that everybody reads.
//!
//! ```text
//!  write(closure) ──> queue ──> writer thread: BEGIN
//!                                 a savepoint for each waiting closure
//!                               COMMIT ──> publish the new model ──> answer each writer
//! ```
//! Readers take [`Database::model`], an `Arc` that never changes. A closure sees the model as the closures before it
//! left it, so checks ("does this name exist?") inside a closure are free of races. No connection leaves this room.

mod connection;
mod error;
mod model;
mod peek;
mod projects;
mod reserve;
mod schema;
pub mod sql;
mod tables;
mod tx;
mod warnings;
mod writer;

pub use error::Error;
pub use model::{
    Acl, Alias, Certificate, CertificateKind, Feature, Forward, ForwardKey, Image, Instance, InstanceSnapshot, Model,
    Network, Phase, Pool, Profile, Project, TrustToken, Volume, VolumeSnapshot,
};
pub use peek::{Peek, peek};
pub use tx::Tx;
pub use warnings::{Severity, Warning, WarningKind, WarningStatus};
pub use writer::Database;

/// Name of the file in the database's directory.
const FILE: &str = "db.sqlite";

/// Seconds since 1970, the time unit of every record.
pub type Seconds = i64;

/// Now, in [`Seconds`].
pub fn now() -> Seconds {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

/// RFC 3339 text of a record's time, as the API shows it.
pub fn rfc3339(at: Seconds) -> String {
    time::OffsetDateTime::from_unix_timestamp(at)
        .ok()
        .and_then(|t| t.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_else(|| crate::api::wire::NEVER.to_owned())
}

/// A record's time from RFC 3339 text.
pub fn seconds(text: &str) -> Option<Seconds> {
    let at = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
    Some(at.unix_timestamp())
}

#[cfg(test)]
mod tests;
