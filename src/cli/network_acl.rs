//! `warren network acl`.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::client::Client;
use super::connection::Answer;
use super::network::{pairs_only, post};
use super::object::{self, ACL, Object, checked, count, map, pairs, path, text};
use super::table::Format;
use super::{Error, output};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create an ACL
    Create {
        /// The ACL
        acl: String,
        /// key=value
        #[arg(value_name = "KEY=VALUE")]
        pairs: Vec<String>,
    },
    /// Delete an ACL
    #[command(visible_alias = "rm")]
    Delete {
        /// The ACL
        acl: String,
    },
    /// Edit an ACL as YAML
    Edit {
        /// The ACL
        acl: String,
    },
    /// Show a value
    Get {
        /// The ACL
        acl: String,
        /// The key
        key: String,
    },
    /// List ACLs
    #[command(visible_alias = "ls")]
    List {
        /// [remote:]
        remote: Option<String>,
        /// Format
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Rename an ACL
    #[command(visible_alias = "mv")]
    Rename {
        /// The ACL
        acl: String,
        /// Its new name
        name: String,
    },
    /// Manage rules
    Rule {
        #[command(subcommand)]
        command: Rule,
    },
    /// Set values
    Set {
        /// The ACL
        acl: String,
        /// key=value, or key and value
        #[arg(required = true, allow_hyphen_values = true, value_name = "KEY=VALUE")]
        pairs: Vec<String>,
    },
    /// Show an ACL
    Show {
        /// The ACL
        acl: String,
    },
    /// Show what it logged
    ShowLog {
        /// The ACL
        acl: String,
    },
    /// Remove a value
    Unset {
        /// The ACL
        acl: String,
        /// The key
        key: String,
    },
}

/// Verbs for rules.
#[derive(Debug, Subcommand)]
pub(super) enum Rule {
    /// Add a rule
    Add {
        /// The ACL
        acl: String,
        /// ingress or egress
        #[arg(value_parser = ["ingress", "egress"])]
        direction: String,
        /// key=value
        #[arg(required = true, value_name = "KEY=VALUE")]
        pairs: Vec<String>,
    },
    /// Remove a rule
    #[command(visible_alias = "rm")]
    Remove {
        /// The ACL
        acl: String,
        /// ingress or egress
        #[arg(value_parser = ["ingress", "egress"])]
        direction: String,
        /// key=value
        #[arg(value_name = "KEY=VALUE")]
        pairs: Vec<String>,
        /// All that fit
        #[arg(long)]
        force: bool,
    },
}

/// Runs one of them.
pub(super) async fn run(client: &Client, command: Command) -> Result<(), Error> {
    let word = match &command {
        Command::List { remote, format } => {
            let at = client.remote(remote.as_deref())?;
            let headers = ["NAME", "DESCRIPTION", "USED BY"];
            return object::list(&at, "/1.0/network-acls?recursion=1", *format, &headers, ACL.order, |acl| {
                vec![text(acl, "name"), text(acl, "description"), count(acl, "used_by")]
            })
            .await;
        }
        Command::Create { acl, .. }
        | Command::Delete { acl }
        | Command::Edit { acl }
        | Command::Get { acl, .. }
        | Command::Rename { acl, .. }
        | Command::Rule { command: Rule::Add { acl, .. } | Rule::Remove { acl, .. } }
        | Command::Set { acl, .. }
        | Command::Show { acl }
        | Command::ShowLog { acl }
        | Command::Unset { acl, .. } => acl,
    };
    let (at, name) = client.named(word)?;
    checked("network ACL", &name)?;
    let what = format!("network ACL {name}");
    let object = Object { at: &at, path: path(&["network-acls", &name]), what: what.clone(), kind: &ACL };
    match command {
        Command::Create { pairs: words, .. } => {
            let body = json!({"name": name, "config": map(pairs_only(&words)?)});
            post(&at, "/1.0/network-acls", &what, &body).await?;
            client.say(&format!("Network ACL {name} created"))
        }
        Command::Delete { .. } => {
            object.delete().await?;
            client.say(&format!("Network ACL {name} deleted"))
        }
        Command::Rename { name: new, .. } => {
            object.rename(&new).await?;
            client.say(&format!("Network ACL {name} renamed to {new}"))
        }
        Command::Rule { command: Rule::Add { direction, pairs: words, .. } } => {
            let mut rule = map(pairs_only(&words)?);
            if rule["state"] == Value::Null {
                rule["state"] = json!("enabled");
            }
            object
                .update(|value| {
                    let mut rules = value[&direction].as_array().cloned().unwrap_or_default();
                    rules.push(rule);
                    value[&direction] = Value::Array(rules);
                    Ok(())
                })
                .await
        }
        Command::Rule { command: Rule::Remove { direction, pairs: words, force, .. } } => {
            let wanted = map(pairs_only(&words)?);
            object.update(|value| remove(&mut value[&direction], &wanted, force, "rule")).await
        }
        Command::ShowLog { .. } => {
            let failed = |e: Error| e.doing(format!("Cannot read the log of {what}"));
            match at.ask(Method::GET, &format!("{}/log", object.path), None).await.map_err(failed)? {
                Answer::Other(bytes) => output::log(&bytes),
                Answer::Json(_) => Err(Error::Broken("It is no log".to_owned())),
            }
        }
        Command::Edit { .. } => object.edit().await,
        Command::Get { key, .. } => object.get_known(&key).await,
        Command::Set { pairs: words, .. } => object.set(pairs(&words)?).await,
        Command::Show { .. } => object.show().await,
        Command::Unset { key, .. } => object.unset(&key).await,
        Command::List { .. } => Ok(()),
    }
}

/// Removes from a list what has these values: one, or with force all.
pub(super) fn remove(list: &mut Value, wanted: &Value, force: bool, what: &str) -> Result<(), Error> {
    let mut entries = list.as_array().cloned().unwrap_or_default();
    let fits = |entry: &Value| wanted.as_object().into_iter().flatten().all(|(key, value)| entry[key] == *value);
    let number = entries.iter().filter(|entry| fits(entry)).count();
    match number {
        0 => return Err(Error::Usage(format!("No matching {what}(s) found"))),
        1 => {}
        _ if force => {}
        _ => {
            return Err(Error::Usage(format!("Multiple {what}s match. Use --force to remove them all")));
        }
    }
    entries.retain(|entry| !fits(entry));
    *list = Value::Array(entries);
    Ok(())
}
