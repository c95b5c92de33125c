//! A look at the database without the daemon.

use std::path::Path;

use super::error::Error;
use super::model::Model;
use super::{FILE, connection, tables};

/// What lies in a database directory.
#[derive(Debug)]
pub enum Peek {
    /// No daemon ever ran here.
    Nothing,
    /// A database of another version of the schema, which only a daemon can bring up to date.
    OtherVersion(i64),
    /// What it holds. Damaged rows are left out.
    Known(Box<Model>),
}

/// Reads `<dir>/db.sqlite` without creating, changing or migrating anything, beside a running daemon or without one.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn peek(dir: &Path) -> Result<Peek, Error> {
    match connection::open_read_only(&dir.join(FILE))? {
        None => Ok(Peek::Nothing),
        Some((_, version)) if version != connection::known_version() => Ok(Peek::OtherVersion(version)),
        Some((mut connection, _)) => Ok(Peek::Known(Box::new(tables::load(&mut connection)?.0))),
    }
}
