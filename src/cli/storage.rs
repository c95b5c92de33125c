//! `warren storage`: pools.

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::Client;
use super::connection::Connection;
use super::network::{pairs_only, post};
use super::object::{self, Object, POOL, checked, count, map, pairs, path, text};
use super::table::Format;
use super::{Error, output, volume};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a pool
    Create {
        /// The pool
        pool: String,
        /// Its driver
        driver: String,
        /// key=value
        #[arg(value_name = "KEY=VALUE")]
        pairs: Vec<String>,
    },
    /// Delete a pool
    #[command(visible_alias = "rm")]
    Delete {
        /// The pool
        pool: String,
    },
    /// Edit a pool as YAML
    Edit {
        /// The pool
        pool: String,
    },
    /// Show a value
    Get {
        /// The pool
        pool: String,
        /// The key
        key: String,
    },
    /// Show what is used of a pool, and by whom
    Info {
        /// The pool
        pool: String,
        /// Space in bytes
        #[arg(long)]
        bytes: bool,
    },
    /// List pools
    #[command(visible_alias = "ls")]
    List {
        /// [remote:]
        remote: Option<String>,
        /// Format
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Set values
    Set {
        /// The pool
        pool: String,
        /// key=value, or key and value
        #[arg(required = true, allow_hyphen_values = true, value_name = "KEY=VALUE")]
        pairs: Vec<String>,
    },
    /// Show a pool
    Show {
        /// The pool
        pool: String,
        /// What it has room for
        #[arg(long)]
        resources: bool,
    },
    /// Remove a value
    Unset {
        /// The pool
        pool: String,
        /// The key
        key: String,
    },
    /// Manage volumes
    Volume {
        #[command(subcommand)]
        command: volume::Command,
    },
}

/// Runs one of them.
pub(super) async fn run(client: &Client, command: Command) -> Result<(), Error> {
    let word = match command {
        Command::Volume { command } => return volume::run(client, command).await,
        Command::List { remote, format } => return list(&*client.remote(remote.as_deref())?, format).await,
        Command::Create { ref pool, .. }
        | Command::Delete { ref pool }
        | Command::Edit { ref pool }
        | Command::Get { ref pool, .. }
        | Command::Info { ref pool, .. }
        | Command::Set { ref pool, .. }
        | Command::Show { ref pool, .. }
        | Command::Unset { ref pool, .. } => pool,
    };
    let (at, name) = client.named(word)?;
    checked("storage pool", &name)?;
    let what = format!("storage pool {name}");
    let object = Object { at: &at, path: path(&["storage-pools", &name]), what: what.clone(), kind: &POOL };
    match command {
        Command::Create { driver, pairs: words, .. } => {
            let body = json!({"name": name, "driver": driver, "config": map(pairs_only(&words)?)});
            post(&at, "/1.0/storage-pools", &what, &body).await?;
            client.say(&format!("Storage pool {name} created"))
        }
        Command::Delete { .. } => {
            object.delete().await?;
            client.say(&format!("Storage pool {name} deleted"))
        }
        Command::Edit { .. } => object.edit().await,
        Command::Get { key, .. } => object.get_known(&key).await,
        Command::Set { pairs: words, .. } => object.set(pairs(&words)?).await,
        Command::Show { resources: true, .. } => {
            let path = format!("{}/resources", object.path);
            output::yaml(
                &at.get(&path).await.map_err(|e| e.doing(format!("Cannot show {what}")))?,
                &["space", "inodes"],
            )
        }
        Command::Show { .. } => object.show().await,
        Command::Unset { key, .. } => object.unset(&key).await,
        Command::Info { bytes, .. } => info(&object, bytes).await,
        Command::List { .. } | Command::Volume { .. } => Ok(()),
    }
}

async fn list(at: &Connection, format: Format) -> Result<(), Error> {
    let headers = ["NAME", "DRIVER", "SOURCE", "DESCRIPTION", "USED BY", "STATE"];
    object::list(at, "/1.0/storage-pools?recursion=1", format, &headers, POOL.order, |pool| {
        vec![
            text(pool, "name"),
            text(pool, "driver"),
            text(&pool["config"], "source"),
            text(pool, "description"),
            count(pool, "used_by"),
            text(pool, "status").to_uppercase(),
        ]
    })
    .await
}

async fn info(object: &Object<'_>, bytes: bool) -> Result<(), Error> {
    let pool = object.value().await?;
    let resources = object.at.get(&format!("{}/resources", object.path)).await?;
    let space = |key: &str| {
        let amount = resources["space"][key].as_u64().unwrap_or_default();
        if bytes { amount.to_string() } else { output::bytes_as_text(amount) }
    };
    let mut users = json!({});
    for url in pool["used_by"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let (path, project) = url.split_once('?').unwrap_or((url, ""));
        let parts: Vec<&str> = path.trim_start_matches("/1.0/").split('/').collect();
        let (kind, name) = match parts.as_slice() {
            ["storage-pools", _, "volumes", _, name, ..] => ("volumes", *name),
            [kind, name, ..] => (*kind, *name),
            _ => continue,
        };
        let decoded = percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned();
        let shown = match project.strip_prefix("project=") {
            Some(project) if project != "default" => format!("{decoded} (project \"{project}\")"),
            _ => decoded,
        };
        match users[kind].as_array_mut() {
            Some(list) => list.push(json!(shown)),
            None => users[kind] = json!([shown]),
        }
    }
    let info = json!({
        "info": {
            "description": pool["description"], "driver": pool["driver"], "name": pool["name"],
            "space used": space("used"), "total space": space("total"),
        },
        "used by": users,
    });
    // By the alphabet, as everything in it.
    output::print(&super::yaml::by_name(&info))
}
