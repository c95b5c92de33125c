//! `warren network forward`.

use clap::Subcommand;
use serde_json::{Value, json};

use super::Error;
use super::client::Client;
use super::network::{pairs_only, post};
use super::network_acl::remove;
use super::object::{self, FORWARD, Object, checked, count, map, pairs, path, text};
use super::table::Format;

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a forward
    Create {
        /// The network
        network: String,
        /// The address that is listened at
        listen: String,
        /// key=value
        #[arg(value_name = "KEY=VALUE")]
        pairs: Vec<String>,
    },
    /// Delete a forward
    #[command(visible_alias = "rm")]
    Delete {
        /// The network
        network: String,
        /// The address that is listened at
        listen: String,
    },
    /// Edit a forward as YAML
    Edit {
        /// The network
        network: String,
        /// The address that is listened at
        listen: String,
    },
    /// Show a value
    Get {
        /// The network
        network: String,
        /// The address that is listened at
        listen: String,
        /// The key
        key: String,
    },
    /// List forwards
    #[command(visible_alias = "ls")]
    List {
        /// The network
        network: String,
        /// Format
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Manage ports
    Port {
        #[command(subcommand)]
        command: Port,
    },
    /// Set values
    Set {
        /// The network
        network: String,
        /// The address that is listened at
        listen: String,
        /// key=value, or key and value
        #[arg(required = true, allow_hyphen_values = true, value_name = "KEY=VALUE")]
        pairs: Vec<String>,
    },
    /// Show a forward
    Show {
        /// The network
        network: String,
        /// The address that is listened at
        listen: String,
    },
    /// Remove a value
    Unset {
        /// The network
        network: String,
        /// The address that is listened at
        listen: String,
        /// The key
        key: String,
    },
}

/// Verbs for ports.
#[derive(Debug, Subcommand)]
pub(super) enum Port {
    /// Add ports
    Add {
        /// The network
        network: String,
        /// The address that is listened at
        listen: String,
        /// tcp or udp
        protocol: String,
        /// Ports that are listened at
        ports: String,
        /// Where to
        target: String,
        /// Ports there
        target_ports: Option<String>,
    },
    /// Remove ports
    #[command(visible_alias = "rm")]
    Remove {
        /// The network
        network: String,
        /// The address that is listened at
        listen: String,
        /// tcp or udp
        protocol: Option<String>,
        /// Ports that are listened at
        ports: Option<String>,
        /// All that fit
        #[arg(long)]
        force: bool,
    },
}

/// Runs one of them.
pub(super) async fn run(client: &Client, command: Command) -> Result<(), Error> {
    let none = String::new();
    let (network, listen) = match &command {
        Command::List { network, .. } => (network, &none),
        Command::Create { network, listen, .. }
        | Command::Delete { network, listen }
        | Command::Edit { network, listen }
        | Command::Get { network, listen, .. }
        | Command::Port { command: Port::Add { network, listen, .. } | Port::Remove { network, listen, .. } }
        | Command::Set { network, listen, .. }
        | Command::Show { network, listen }
        | Command::Unset { network, listen, .. } => (network, listen),
    };
    let listen = listen.clone();
    let (at, name) = client.named(network)?;
    checked("network", &name)?;
    let all = path(&["networks", &name, "forwards"]);
    let what = format!("network forward {listen}");
    let object =
        Object { at: &at, path: path(&["networks", &name, "forwards", &listen]), what: what.clone(), kind: &FORWARD };
    match command {
        Command::List { format, .. } => {
            let headers = ["LISTEN ADDRESS", "DESCRIPTION", "DEFAULT TARGET ADDRESS", "PORTS"];
            object::list(&at, &format!("{all}?recursion=1"), format, &headers, FORWARD.order, |forward| {
                let target = text(&forward["config"], "target_address");
                vec![text(forward, "listen_address"), text(forward, "description"), target, count(forward, "ports")]
            })
            .await
        }
        Command::Create { pairs: words, .. } => {
            let body = json!({"listen_address": listen, "config": map(pairs_only(&words)?)});
            post(&at, &all, &what, &body).await?;
            client.say(&format!("Network forward {listen} created"))
        }
        Command::Delete { .. } => {
            object.delete().await?;
            client.say(&format!("Network forward {listen} deleted"))
        }
        Command::Port { command: Port::Add { protocol, ports, target, target_ports, .. } } => {
            let port = json!({
                "protocol": protocol, "listen_port": ports, "target_address": target,
                "target_port": target_ports.unwrap_or_default(), "description": "",
            });
            object
                .update(|value| {
                    let mut ports = value["ports"].as_array().cloned().unwrap_or_default();
                    ports.push(port);
                    value["ports"] = Value::Array(ports);
                    Ok(())
                })
                .await
        }
        Command::Port { command: Port::Remove { protocol, ports, force, .. } } => {
            let mut wanted = json!({});
            for (key, value) in [("protocol", protocol), ("listen_port", ports)] {
                if let Some(value) = value {
                    wanted[key] = json!(value);
                }
            }
            object.update(|value| remove(&mut value["ports"], &wanted, force, "port")).await
        }
        Command::Edit { .. } => object.edit().await,
        Command::Get { key, .. } => object.get_known(&key).await,
        Command::Set { pairs: words, .. } => object.set(pairs(&words)?).await,
        Command::Show { .. } => object.show().await,
        Command::Unset { key, .. } => object.unset(&key).await,
    }
}
