//! `sql`: a window on the database for support. LXD has two databases, `local` and `global`; Warren's one answers to
//! both names.

use std::io::Read;

use clap::{Args, ValueEnum};
use http::Method;
use serde_json::json;

use super::admin::print;
use super::local::{self, request};
use crate::cli::table;
use crate::db::sql::{self, Answer};
use crate::state_dir::StateDir;

/// What to ask.
#[derive(Debug, Args)]
pub(super) struct SqlArguments {
    /// Both are the same database
    database: Which,
    /// SQL; "-" reads it from standard input; ".schema" and ".dump" print the database as SQL
    #[arg(allow_hyphen_values = true)]
    query: String,
    /// Let statements change the database
    #[arg(long = "unsafe")]
    change: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Which {
    Local,
    Global,
}

pub(super) async fn run(arguments: SqlArguments, dir: &StateDir) -> Result<(), String> {
    let database = dir.database();
    let said = |error: crate::db::Error| error.to_string();
    match arguments.query.as_str() {
        ".dump" => print(&sql::dump(&database, true).map_err(said)?),
        ".schema" => print(&sql::dump(&database, false).map_err(said)?),
        query => {
            let mut script = query.to_owned();
            if query == "-" {
                script.clear();
                std::io::stdin().read_to_string(&mut script).map_err(|e| format!("cannot read the query: {e}"))?;
            }
            let answers = if arguments.change {
                change(dir, &script).await?
            } else {
                sql::read(&database, &script).map_err(said)?
            };
            print(&shown(&answers))
        }
    }
}

/// By the daemon's own writer where one runs, else on the file.
async fn change(dir: &StateDir, script: &str) -> Result<Vec<Answer>, String> {
    match request(&dir.socket(), Method::POST, "/internal/sql", Some(&json!({"query": script}))).await {
        Ok(answers) => serde_json::from_value(answers).map_err(|e| e.to_string()),
        Err(local::Error::Connect { .. }) => sql::write(&dir.database(), script).map_err(|e| e.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn shown(answers: &[Answer]) -> String {
    let shown = answers.iter().enumerate().map(|(index, answer)| {
        let answer = match answer {
            Answer::Affected(count) => format!("Rows affected: {count}\n"),
            Answer::Rows { columns, rows } => {
                let headers: Vec<&str> = columns.iter().map(String::as_str).collect();
                let cell = |cell: &Option<String>| cell.clone().unwrap_or_else(|| "<nil>".to_owned());
                let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(cell).collect()).collect();
                table::draw(&headers, &rows, false)
            }
        };
        if answers.len() > 1 { format!("=> Query {index}:\n\n{answer}\n") } else { answer }
    });
    shown.collect()
}
