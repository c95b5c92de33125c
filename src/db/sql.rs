//! SQL from people, for support: reading beside the daemon, changing by the daemon's own writer.
//!
//! Reading opens the file itself, read-only: the same way whether a daemon runs or not, and it cannot disturb one. A
//! change must reach the model that everybody reads, so it goes through the writer thread while a daemon runs, as one
//! savepoint, and the whole model is read again.

use std::path::Path;

use diesel::connection::{LoadConnection, SimpleConnection};
use diesel::deserialize::FromSql;
use diesel::prelude::*;
use diesel::row::{Field, Row};
use diesel::sql_types::{Binary, Text};
use diesel::sqlite::{Sqlite, SqliteType};
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::{FILE, connection, tables, tx::Tx};

/// The answer to one statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Of a query.
    Rows {
        /// Names of the columns; none when an empty answer does not tell them.
        columns: Vec<String>,
        /// Values as text, blobs as `x'…'`; `None` is NULL.
        rows: Vec<Vec<Option<String>>>,
    },
    /// Of a change: so many rows.
    Affected(usize),
}

/// Splits a script at its semicolons, those in quotes and comments excepted (<https://sqlite.org/lang.html>).
fn statements(script: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let (mut start, mut rest) = (0, script);
    let at = |rest: &str| script.len() - rest.len();
    // Behind the next `end`, or at the end of the script.
    let behind = |rest: &'_ str, skip: usize, end: &str| {
        rest.get(skip..).and_then(|tail| tail.find(end)).map_or(rest.len(), |found| skip + found + end.len())
    };
    while let Some(c) = rest.chars().next() {
        let step = match c {
            '\'' => behind(rest, 1, "'"),
            '"' => behind(rest, 1, "\""),
            '`' => behind(rest, 1, "`"),
            '[' => behind(rest, 1, "]"),
            '-' if rest.starts_with("--") => behind(rest, 2, "\n"),
            '/' if rest.starts_with("/*") => behind(rest, 2, "*/"),
            ';' => {
                found.push(&script[start..at(rest)]);
                start = at(rest) + 1;
                1
            }
            c => c.len_utf8(),
        };
        rest = &rest[step..];
    }
    found.push(&script[start..]);
    found.into_iter().map(str::trim).filter(|statement| !first_word(statement).is_empty()).collect()
}

/// The first word of a statement in capitals, behind comments; empty when there is none.
fn first_word(statement: &str) -> String {
    let mut rest = statement.trim_start();
    loop {
        let end = match rest {
            text if text.starts_with("--") => text.find('\n').map(|at| at + 1),
            text if text.starts_with("/*") => text.find("*/").map(|at| at + 2),
            _ => break,
        };
        rest = rest[end.unwrap_or(rest.len())..].trim_start();
    }
    let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    // Something that is no word is for SQLite to refuse.
    let word = if end == 0 { rest.chars().take(1).collect() } else { rest[..end].to_owned() };
    word.to_ascii_uppercase()
}

fn is_query(statement: &str) -> bool {
    matches!(first_word(statement).as_str(), "SELECT" | "WITH" | "VALUES" | "EXPLAIN" | "PRAGMA")
}

fn value<'a>(field: &impl Field<'a, Sqlite>) -> Result<Option<String>, Error> {
    let fail = |e: Box<dyn std::error::Error + Send + Sync>| Error::Statement { reason: e.to_string() };
    let Some(value) = field.value() else { return Ok(None) };
    match value.value_type() {
        None => Ok(None),
        Some(SqliteType::Binary) => {
            let bytes = <Vec<u8> as FromSql<Binary, Sqlite>>::from_sql(value).map_err(fail)?;
            Ok(Some(format!("x'{}'", hex::encode(bytes))))
        }
        // SQLite turns numbers into text by itself.
        Some(_) => <String as FromSql<Text, Sqlite>>::from_sql(value).map(Some).map_err(fail),
    }
}

fn query(connection: &mut SqliteConnection, statement: &str) -> Result<Answer, Error> {
    let (mut columns, mut rows) = (Vec::new(), Vec::new());
    for row in connection.load(diesel::sql_query(statement))? {
        let row = row?;
        let mut values = Vec::with_capacity(row.field_count());
        let mut names = Vec::with_capacity(row.field_count());
        for index in 0..row.field_count() {
            let Some(field) = row.get(index) else { continue };
            names.push(field.field_name().unwrap_or_default().to_owned());
            values.push(value(&field)?);
        }
        columns = names;
        rows.push(values);
    }
    if rows.is_empty() && matches!(first_word(statement).as_str(), "SELECT" | "WITH" | "VALUES") {
        // diesel tells the names of columns only with a row: here is one, of nothing.
        let padded = format!("SELECT q.* FROM (SELECT 1) LEFT JOIN ({statement}) AS q");
        if let Ok(Answer::Rows { columns: names, rows: padded }) = query(connection, &padded)
            && !padded.is_empty()
        {
            columns = names;
        }
    }
    Ok(Answer::Rows { columns, rows })
}

fn run(connection: &mut SqliteConnection, statement: &str) -> Result<Answer, Error> {
    if is_query(statement) {
        return query(connection, statement);
    }
    Ok(Answer::Affected(diesel::sql_query(statement).execute(connection)?))
}

fn open(dir: &Path) -> Result<SqliteConnection, Error> {
    let path = dir.join(FILE);
    let opened = connection::open_read_only(&path)?;
    opened.map(|(connection, _)| connection).ok_or_else(|| Error::Missing { path: path.display().to_string() })
}

/// Runs queries on the file in `dir`, read-only.
///
/// # Errors
/// [`Error::Missing`]; [`Error::ReadOnly`] for the first statement that would change something; what SQLite says.
pub fn read(dir: &Path, script: &str) -> Result<Vec<Answer>, Error> {
    let statements = statements(script);
    if let Some(statement) = statements.iter().find(|statement| !is_query(statement)) {
        return Err(Error::ReadOnly { statement: first_word(statement) });
    }
    let mut connection = open(dir)?;
    statements.into_iter().map(|statement| query(&mut connection, statement)).collect()
}

/// Changes the file in `dir` as one transaction, where no daemon runs.
///
/// # Errors
/// Then nothing is changed: [`Error::Missing`], [`Error::Forbidden`], or what SQLite says.
pub fn write(dir: &Path, script: &str) -> Result<Vec<Answer>, Error> {
    let path = dir.join(FILE);
    if !path.exists() {
        return Err(Error::Missing { path: path.display().to_string() });
    }
    let mut connection = connection::open(&path)?;
    let answers = connection.immediate_transaction(|connection| all(connection, script));
    // No log stays beside the file.
    connection.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)")?;
    answers
}

fn all(connection: &mut SqliteConnection, script: &str) -> Result<Vec<Answer>, Error> {
    let statements = statements(script);
    let inside = ["BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE", "ATTACH", "DETACH", "VACUUM", "PRAGMA"];
    if let Some(word) = statements.iter().map(|s| first_word(s)).find(|word| inside.contains(&word.as_str())) {
        return Err(Error::Forbidden { statement: word });
    }
    let before = tables::load(connection)?.1.len();
    let answers = statements.into_iter().map(|statement| run(connection, statement)).collect::<Result<_, _>>()?;
    let damaged = tables::load(connection)?.1;
    match damaged.into_iter().nth(before) {
        // A row that the daemon could not read any more.
        Some(error) => Err(error),
        None => Ok(answers),
    }
}

impl Tx<'_> {
    /// Runs a script on the daemon's own connection and reads the whole model again.
    ///
    /// # Errors
    /// Then nothing is changed: [`Error::Forbidden`], what SQLite says, or the row that would be damaged.
    pub fn sql(&mut self, script: &str) -> Result<Vec<Answer>, Error> {
        let answers = all(self.connection, script)?;
        let generation = self.model.generation;
        self.model = tables::load(self.connection)?.0;
        self.model.generation = generation;
        Ok(answers)
    }
}

/// The schema as SQL, with `data` all rows as well; sqlite3(1) makes the same database of it.
///
/// # Errors
/// [`Error::Missing`], or what SQLite says.
pub fn dump(dir: &Path, data: bool) -> Result<String, Error> {
    let mut connection = open(dir)?;
    let mut text = "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n".to_owned();
    let objects = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type = 'table' DESC, rowid";
    for object in cells(&mut connection, objects)? {
        text.push_str(&format!("{};\n", object[1]));
    }
    if data {
        let tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY rowid";
        for table in cells(&mut connection, tables)? {
            let name = table[0].replace('"', "\"\"");
            let columns = cells(
                &mut connection,
                &format!("SELECT name FROM pragma_table_info('{}')", table[0].replace('\'', "''")),
            )?;
            let quoted: Vec<String> =
                columns.iter().map(|column| format!("quote(\"{}\")", column[0].replace('"', "\"\""))).collect();
            let rows = format!("SELECT {} FROM \"{name}\"", quoted.join(" || ',' || "));
            for row in cells(&mut connection, &rows)? {
                text.push_str(&format!("INSERT INTO {name} VALUES({});\n", row[0]));
            }
        }
    }
    let version = cells(&mut connection, "PRAGMA user_version")?;
    let version = version.first().and_then(|row| row.first()).cloned().unwrap_or_default();
    text.push_str(&format!("PRAGMA user_version={version};\nCOMMIT;\n"));
    Ok(text)
}

/// Rows of texts; NULL is empty.
fn cells(connection: &mut SqliteConnection, statement: &str) -> Result<Vec<Vec<String>>, Error> {
    match query(connection, statement)? {
        Answer::Rows { rows, .. } => {
            Ok(rows.into_iter().map(|row| row.into_iter().map(Option::unwrap_or_default).collect()).collect())
        }
        Answer::Affected(_) => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::db::{Database, Peek, peek};

    fn database() -> tempfile::TempDir {
        let dir = tempfile::Builder::new().prefix("a b?#%").tempdir().unwrap();
        drop(Database::open(dir.path()).unwrap());
        dir
    }

    fn text(cell: &str) -> Option<String> {
        Some(cell.to_owned())
    }

    #[test]
    fn a_script_is_split_outside_quotes_and_comments() {
        assert_eq!(statements("select ';'; select \";\" -- ;\n; /* ; */ ;;"), ["select ';'", "select \";\" -- ;"]);
        assert_eq!(statements("select 1 /* ;"), ["select 1 /* ;"]);
        assert_eq!(first_word("-- x\n /* y */ sElect(1)"), "SELECT");
    }

    #[test]
    fn reading_leaves_no_file_and_knows_columns_of_nothing() {
        let dir = database();
        let files = || std::fs::read_dir(dir.path()).unwrap().count();
        let before = files();
        let answers =
            read(dir.path(), "select name, null as n, x'ff' as b, 1.5 as d from projects; select * from pools")
                .unwrap();
        let row = vec![text("default"), None, text("x'ff'"), text("1.5")];
        let columns = ["name", "n", "b", "d"].map(str::to_owned).to_vec();
        assert_eq!(answers[0], Answer::Rows { columns, rows: vec![row] });
        let Answer::Rows { columns, rows } = &answers[1] else { panic!() };
        assert!(rows.is_empty());
        assert_eq!(columns[0], "name");
        assert_eq!(files(), before, "nothing beside the file");
        assert!(matches!(peek(dir.path()), Ok(Peek::Known(model)) if model.projects.len() == 1));
        assert_eq!(files(), before);
    }

    #[test]
    fn reading_refuses_changes_in_every_disguise() {
        let dir = database();
        let error = read(dir.path(), "select 1; delete from profiles").unwrap_err();
        assert_eq!(error, Error::ReadOnly { statement: "DELETE".to_owned() });
        for script in
            ["with x as (select 1) delete from profiles", "pragma user_version = 9", "nonsense", "select * from nosuch"]
        {
            assert!(read(dir.path(), script).is_err(), "{script}");
        }
        let Ok(Peek::Known(model)) = peek(dir.path()) else { panic!("the version was changed") };
        assert_eq!(model.profiles.len(), 2);
        let missing = tempfile::tempdir().unwrap();
        assert!(matches!(read(missing.path(), "select 1"), Err(Error::Missing { .. })));
        assert!(matches!(peek(missing.path()), Ok(Peek::Nothing)));
        assert_eq!(std::fs::read_dir(missing.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_change_is_one_transaction_and_damages_no_row() {
        let dir = database();
        let insert = "insert into server_config values ('user.a', 'b')";
        assert_eq!(write(dir.path(), insert).unwrap(), [Answer::Affected(1)]);
        assert!(write(dir.path(), &format!("{}; nonsense", insert.replace("user.a", "user.b"))).is_err());
        assert!(matches!(write(dir.path(), "commit"), Err(Error::Forbidden { .. })));
        let damage = "insert into projects values ('x', '', 'no json')";
        assert!(matches!(write(dir.path(), damage), Err(Error::Row { .. })));
        let Ok(Peek::Known(model)) = peek(dir.path()) else { panic!() };
        assert_eq!((model.config.len(), model.projects.len()), (1, 1));
    }

    #[test]
    fn the_running_daemon_sees_a_change_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (db, _) = Database::open(dir.path()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let run = |script: &'static str| runtime.block_on(db.write(move |tx| tx.sql(script)));
        let generation = db.model().generation;
        assert_eq!(run("update profiles set description = 'new'; select 1 as a").unwrap().len(), 2);
        assert_eq!(db.model().profiles.values().next().unwrap().description, "new");
        assert!(db.model().generation > generation);
        assert!(run("delete from projects").is_err(), "foreign keys hold");
        assert_eq!(db.model().projects.len(), 1);
        let seen = read(dir.path(), "select description from profiles").unwrap();
        assert!(matches!(&seen[0], Answer::Rows { rows, .. } if rows[0][0] == text("new")));
    }

    #[test]
    fn a_dump_makes_the_same_database() {
        let dir = database();
        write(dir.path(), "insert into server_config values ('user.a', 'it''s')").unwrap();
        let dump = super::dump(dir.path(), true).unwrap();
        let copy = tempfile::tempdir().unwrap();
        let mut made = SqliteConnection::establish(copy.path().join(FILE).to_str().unwrap()).unwrap();
        made.batch_execute(&dump).unwrap();
        drop(made);
        assert_eq!(super::dump(copy.path(), true).unwrap(), dump);
        let schema = super::dump(dir.path(), false).unwrap();
        assert!(schema.contains("CREATE TABLE instances") && !schema.contains("INSERT"));
    }

    proptest! {
        #[test]
        fn no_script_makes_the_splitting_panic(script in ".{0,200}") {
            let _ = statements(&script);
        }
    }
}
