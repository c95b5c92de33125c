//! `warren warning`.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::Error;
use super::client::Client;
use super::connection::Connection;
use super::object::{Object, WARNING, checked, path, text};
use super::output::day_as_text;
use super::table::{Format, show, sort};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say that a warning was seen
    #[command(visible_alias = "ack")]
    Acknowledge {
        /// [remote:]warning
        warning: String,
    },
    /// Delete a warning
    #[command(visible_alias = "rm")]
    Delete {
        /// [remote:]warning; [remote:] with --all
        warning: Option<String>,
        /// All of them
        #[arg(short, long)]
        all: bool,
    },
    /// List warnings
    #[command(visible_alias = "ls")]
    List {
        /// [remote:]
        remote: Option<String>,
        /// Also those that were seen or have been resolved
        #[arg(short, long)]
        all: bool,
        /// Columns: u UUID, t type, s severity, S status, c count, p project, L last seen, f first seen, m message, l location
        #[arg(short, long, default_value = "utSscpLl")]
        columns: String,
        /// Format
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Show a warning
    Show {
        /// [remote:]warning
        warning: String,
    },
}

/// Runs one of them.
pub(super) async fn run(client: &Client, command: Command) -> Result<(), Error> {
    let word = match &command {
        Command::List { remote, all, columns, format } => {
            return list(&*client.remote(remote.as_deref())?, *all, columns, *format).await;
        }
        Command::Delete { warning, all: true } => {
            let at = client.remote(warning.as_deref())?;
            let all = at.get("/1.0/warnings").await?;
            for url in all.as_array().into_iter().flatten().filter_map(Value::as_str) {
                at.request(Method::DELETE, url, None).await?;
            }
            return Ok(());
        }
        Command::Delete { warning: None, .. } => {
            return Err(Error::Usage("Specify a warning UUID or use --all".to_owned()));
        }
        Command::Acknowledge { warning }
        | Command::Delete { warning: Some(warning), .. }
        | Command::Show { warning } => warning,
    };
    let (at, name) = client.named(word)?;
    checked("warning", &name)?;
    let what = format!("warning {name}");
    let object = Object { at: &at, path: path(&["warnings", &name]), what, kind: &WARNING };
    match command {
        Command::Show { .. } => object.show().await,
        Command::Delete { .. } => object.delete().await,
        _ => {
            let body = json!({"status": "acknowledged"});
            at.put(&object.path, &body, "").await.map_err(|e| e.doing(format!("Cannot acknowledge {}", object.what)))
        }
    }
}

async fn list(at: &Connection, all: bool, columns: &str, format: Format) -> Result<(), Error> {
    let value = at.get("/1.0/warnings?recursion=1").await?;
    let mut objects = value.as_array().cloned().unwrap_or_default();
    objects.retain(|warning| all || warning["status"] == "new");
    let default = columns == "utSscpLl";
    let shown: Vec<char> = columns.chars().filter(|c| *c != ',' && !(default && *c == 'l')).collect();
    let mut headers = Vec::new();
    let mut cells: Vec<fn(&Value) -> String> = Vec::new();
    for column in shown {
        let (header, cell): (_, fn(&Value) -> String) = match column {
            'u' => ("UUID", |w| text(w, "uuid")),
            't' => ("TYPE", |w| text(w, "type")),
            'S' => ("STATUS", |w| text(w, "status").to_uppercase()),
            's' => ("SEVERITY", |w| text(w, "severity").to_uppercase()),
            'c' => ("COUNT", |w| text(w, "count")),
            'p' => ("PROJECT", |w| text(w, "project")),
            'L' => ("LAST SEEN", |w| day_as_text(&text(w, "last_seen_at"))),
            'f' => ("FIRST SEEN", |w| day_as_text(&text(w, "first_seen_at"))),
            'm' => ("LAST MESSAGE", |w| text(w, "last_message")),
            'l' => ("LOCATION", |w| text(w, "location")),
            other => return Err(Error::Usage(format!("Unknown column shorthand char '{other}' in '{columns}'"))),
        };
        headers.push(header);
        cells.push(cell);
    }
    let mut rows: Vec<Vec<String>> =
        objects.iter().map(|warning| cells.iter().map(|cell| cell(warning)).collect()).collect();
    sort(&mut rows);
    show(format, &headers, &rows, &objects, WARNING.order)
}
