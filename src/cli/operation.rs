//! `warren operation`.

use clap::Subcommand;
use serde_json::Value;

use super::Error;
use super::client::Client;
use super::object::{OPERATION, Object, checked, path, text, yes_no};
use super::output::time_as_text;
use super::table::{Format, show, sort};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Cancel an operation
    #[command(visible_aliases = ["cancel", "rm"])]
    Delete {
        /// [remote:]operation
        operation: String,
    },
    /// List operations
    #[command(visible_alias = "ls")]
    List {
        /// [remote:]
        remote: Option<String>,
        /// Of all projects
        #[arg(long)]
        all_projects: bool,
        /// Format
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Show an operation
    Show {
        /// [remote:]operation
        operation: String,
    },
}

/// Runs one of them.
pub(super) async fn run(client: &Client, command: Command) -> Result<(), Error> {
    let word = match &command {
        Command::List { remote, all_projects, format } => {
            let at = client.remote(remote.as_deref())?;
            let more = if *all_projects { "&all-projects=true" } else { "" };
            let value = at.get(&format!("/1.0/operations?recursion=1{more}")).await?;
            let lists = value.as_object().into_iter().flatten();
            let objects: Vec<Value> =
                lists.flat_map(|(_, list)| list.as_array().cloned().unwrap_or_default()).collect();
            let row = |operation: &Value| {
                vec![
                    text(operation, "id"),
                    text(operation, "class").to_uppercase(),
                    text(operation, "description"),
                    text(operation, "status").to_uppercase(),
                    yes_no(operation["may_cancel"] == true),
                    time_as_text(&text(operation, "created_at")),
                ]
            };
            let mut rows: Vec<Vec<String>> = objects.iter().map(row).collect();
            sort(&mut rows);
            let headers = ["ID", "TYPE", "DESCRIPTION", "STATUS", "CANCELABLE", "CREATED"];
            return show(*format, &headers, &rows, &objects, OPERATION.order);
        }
        Command::Delete { operation } | Command::Show { operation } => operation,
    };
    let (at, name) = client.named(word)?;
    checked("operation", &name)?;
    let what = format!("operation {name}");
    let object = Object { at: &at, path: path(&["operations", &name]), what, kind: &OPERATION };
    if matches!(command, Command::Show { .. }) {
        return object.show().await;
    }
    object.delete().await?;
    client.say(&format!("Operation {name} deleted"))
}
