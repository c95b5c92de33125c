//! Opening the file: pragmas, schema version, a copy before every change of the schema.

use std::path::Path;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::BigInt;

use super::error::Error;
use super::schema::MIGRATIONS;

#[derive(QueryableByName)]
struct Version {
    #[diesel(sql_type = BigInt)]
    user_version: i64,
}

fn version(connection: &mut SqliteConnection) -> diesel::QueryResult<i64> {
    Ok(diesel::sql_query("PRAGMA user_version").get_result::<Version>(connection)?.user_version)
}

/// The schema version that this program writes.
pub(super) fn known_version() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// Opens `path` for reading beside a daemon that may be running, with the version of its schema; `None` when there is
/// no such file. Nothing is created, changed or migrated.
///
/// A daemon that ended cleanly leaves no write-ahead log. Then the file is opened as one that cannot change
/// (`immutable`, <https://sqlite.org/uri.html>), else SQLite would make a log beside it.
pub(super) fn open_read_only(path: &Path) -> Result<Option<(SqliteConnection, i64)>, Error> {
    use std::os::unix::ffi::OsStrExt;
    let shown = path.display().to_string();
    let fail = |reason: String| Error::Open { path: shown.clone(), reason };
    match path.try_exists() {
        Ok(true) => {}
        Ok(false) => return Ok(None),
        Err(error) => return Err(fail(error.to_string())),
    }
    let log = path.with_file_name(format!("{}-wal", path.file_name().unwrap_or_default().to_string_lossy()));
    let still = std::fs::metadata(log).map_or(true, |log| log.len() == 0);
    let name = percent_encoding::percent_encode(path.as_os_str().as_bytes(), URI);
    let url = format!("file:{name}?mode=ro{}", if still { "&immutable=1" } else { "" });
    let mut connection = SqliteConnection::establish(&url).map_err(|e| fail(e.to_string()))?;
    connection.batch_execute("PRAGMA busy_timeout = 5000").map_err(|e| fail(e.to_string()))?;
    let found = version(&mut connection).map_err(|e| fail(e.to_string()))?;
    Ok(Some((connection, found)))
}

/// Bytes of a path that mean something in a URI.
const URI: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_');

/// Opens `path`, creates or upgrades its schema. Before an upgrade the file is copied beside itself
/// (`<file>.v<version>`); a failed upgrade leaves the old file as it was.
pub(super) fn open(path: &Path) -> Result<SqliteConnection, Error> {
    let shown = path.display().to_string();
    let fail = |reason: String| Error::Open { path: shown.clone(), reason };
    let mut connection = SqliteConnection::establish(&shown).map_err(|e| fail(e.to_string()))?;
    connection
        .batch_execute(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 5000;
             PRAGMA foreign_keys = ON; PRAGMA cache_size = -512; PRAGMA temp_store = MEMORY;",
        )
        .map_err(|e| fail(e.to_string()))?;
    let known = known_version();
    let found = version(&mut connection).map_err(|e| fail(e.to_string()))?;
    if found > known {
        return Err(Error::TooNew { found, known });
    }
    if found == known {
        return Ok(connection);
    }
    if found > 0 {
        let copy = format!("{shown}.v{found}");
        if !Path::new(&copy).exists() {
            // `VACUUM INTO` writes a whole, consistent copy even while the file is in WAL mode.
            diesel::sql_query("VACUUM INTO ?")
                .bind::<diesel::sql_types::Text, _>(copy)
                .execute(&mut connection)
                .map_err(|e| Error::Migrate { version: known, reason: e.to_string() })?;
        }
    }
    connection
        .transaction(|connection| {
            for (index, sql) in (0i64..).zip(MIGRATIONS) {
                if index >= found {
                    connection.batch_execute(sql)?;
                }
            }
            connection.batch_execute(&format!("PRAGMA user_version = {known}"))
        })
        .map_err(|e: diesel::result::Error| Error::Migrate { version: known, reason: e.to_string() })?;
    Ok(connection)
}
