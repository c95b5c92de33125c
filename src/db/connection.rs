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
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let found = diesel::sql_query("PRAGMA user_version")
        .get_result::<Version>(&mut connection)
        .map_err(|e| fail(e.to_string()))?
        .user_version;
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
