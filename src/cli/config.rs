//! `warren config`: of an instance, or of the server where none is named.

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::Client;
use super::object::{INSTANCE, METADATA, Object, SERVER, SNAPSHOT, checked, pairs, path};
use super::{Error, device, output, template, trust};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Manage devices
    Device {
        #[command(subcommand)]
        command: device::Command,
    },
    /// Edit an instance or the server's configuration as YAML
    Edit {
        /// [remote:][instance[/snapshot]]
        place: Option<String>,
    },
    /// Show a value
    Get {
        /// [remote:][instance], then the key
        #[arg(required = true, num_args = 1..=2)]
        words: Vec<String>,
        /// With what comes from profiles
        #[arg(short, long)]
        expanded: bool,
    },
    /// Manage metadata files of instances
    Metadata {
        #[command(subcommand)]
        command: Metadata,
    },
    /// Set values
    Set {
        /// [remote:][instance], then key=value, or key and value
        #[arg(required = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Show an instance or the server's configuration
    Show {
        /// [remote:][instance[/snapshot]]
        place: Option<String>,
        /// With what comes from profiles
        #[arg(short, long)]
        expanded: bool,
    },
    /// Manage templates of files in instances
    Template {
        #[command(subcommand)]
        command: template::Command,
    },
    /// Manage who is trusted
    Trust {
        #[command(subcommand)]
        command: trust::Command,
    },
    /// Remove a value
    Unset {
        /// [remote:][instance], then the key
        #[arg(required = true, num_args = 1..=2)]
        words: Vec<String>,
    },
}

/// Verbs for metadata.
#[derive(Debug, Subcommand)]
pub(super) enum Metadata {
    /// Edit the metadata as YAML
    Edit {
        /// The instance
        instance: String,
    },
    /// Show the metadata
    Show {
        /// The instance
        instance: String,
    },
}

/// Tells the name of an instance from what comes after it. Without one the words are about the server: a key has a dot
/// in its name, an instance has none.
fn place(words: &[String]) -> (Option<&String>, &[String]) {
    let Some((first, rest)) = words.split_first() else { return (None, words) };
    let key = first.contains('=') || (!first.contains(':') && first.contains('.'));
    if rest.is_empty() || key { (None, words) } else { (Some(first), rest) }
}

/// Runs one of them.
pub(super) async fn run(client: &Client, command: Command) -> Result<(), Error> {
    match command {
        Command::Device { command } => device::run(client, command, false).await,
        Command::Template { command } => template::run(client, command).await,
        Command::Trust { command } => trust::run(client, command).await,
        Command::Metadata { command } => {
            let (Metadata::Edit { instance } | Metadata::Show { instance }) = &command;
            let (at, name) = client.named(instance)?;
            checked("instance", &name)?;
            let what = format!("metadata of {name}");
            let object = Object { at: &at, path: path(&["instances", &name, "metadata"]), what, kind: &METADATA };
            if matches!(command, Metadata::Edit { .. }) { object.edit().await } else { object.show().await }
        }
        Command::Get { words, expanded } => {
            let (word, rest) = place(&words);
            let [key] = rest else { return Err(Error::Usage(format!("{rest:?} is not one key"))) };
            let (at, name) = client.at(word.map_or("", String::as_str))?;
            let object = object(&at, &name)?;
            if !expanded {
                return object.get(key).await;
            }
            let value = object.value().await?;
            let text = value["expanded_config"][key].as_str().unwrap_or_default();
            output::print(&format!("{text}\n"))
        }
        Command::Set { words } => {
            let (word, rest) = place(&words);
            let (at, name) = client.at(word.map_or("", String::as_str))?;
            object(&at, &name)?.set(pairs(rest)?).await
        }
        Command::Unset { words } => {
            let (word, rest) = place(&words);
            let [key] = rest else { return Err(Error::Usage(format!("{rest:?} is not one key"))) };
            let (at, name) = client.at(word.map_or("", String::as_str))?;
            object(&at, &name)?.unset_known(key).await
        }
        Command::Edit { place } => {
            let (at, name) = client.at(place.as_deref().unwrap_or_default())?;
            object(&at, &name)?.edit().await
        }
        Command::Show { place, expanded } => {
            let (at, name) = client.at(place.as_deref().unwrap_or_default())?;
            show(&object(&at, &name)?, expanded).await
        }
    }
}

/// The instance, its snapshot, or the server.
fn object<'a>(at: &'a super::connection::Connection, name: &str) -> Result<Object<'a>, Error> {
    if name.is_empty() {
        return Ok(Object {
            at,
            path: "/1.0".to_owned(),
            what: "the server's configuration".to_owned(),
            kind: &SERVER,
        });
    }
    let what = format!("instance {name}");
    if let Some((instance, snapshot)) = name.split_once('/') {
        checked("instance", instance)?;
        checked("snapshot", snapshot)?;
        let path = path(&["instances", instance, "snapshots", snapshot]);
        return Ok(Object { at, path, what, kind: &SNAPSHOT });
    }
    super::instance::path(name)?;
    Ok(Object { at, path: path(&["instances", name]), what, kind: &INSTANCE })
}

async fn show(object: &Object<'_>, expanded: bool) -> Result<(), Error> {
    let value = object.value().await?;
    if object.path.contains("/snapshots/") {
        return output::yaml(&value, object.kind.order);
    }
    let mut shown = json!({});
    for field in object.kind.writable {
        let source = match *field {
            "config" | "devices" if expanded => format!("expanded_{field}"),
            field => field.to_owned(),
        };
        shown[*field] = value[&source].clone();
    }
    if object.path == "/1.0" && shown["config"] == Value::Null {
        shown["config"] = json!({});
    }
    output::yaml(&shown, object.kind.order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_told_from_a_key() {
        let of = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            let (place, rest) = place(&words);
            (place.cloned().unwrap_or_default(), rest.len())
        };
        assert_eq!(of(&["c1", "limits.cpu=2"]), ("c1".to_owned(), 1));
        assert_eq!(of(&["c1", "limits.cpu", "2"]), ("c1".to_owned(), 2));
        assert_eq!(of(&["far:c1", "limits.cpu"]), ("far:c1".to_owned(), 1));
        assert_eq!(of(&["far:", "core.https_address"]), ("far:".to_owned(), 1));
        assert_eq!(of(&["core.https_address", "[::]:1"]), (String::new(), 2));
        assert_eq!(of(&["core.https_address=[::]", "user.a=b"]), (String::new(), 2));
        assert_eq!(of(&["core.https_address"]), (String::new(), 1));
    }
}
