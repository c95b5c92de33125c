//! `warren network`.

use std::fmt::Write;

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::client::Client;
use super::connection::Connection;
use super::later::Anything;
use super::object::{self, INSTANCE, NETWORK, Object, PROFILE, checked, count, map, pairs, path, text, yes_no};
use super::table::Format;
use super::{Error, network_acl, network_forward, output};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Manage access control lists
    Acl {
        #[command(subcommand)]
        command: network_acl::Command,
    },
    /// Attach instances to a network
    Attach(Attach),
    /// Attach profiles to a network
    AttachProfile(Attach),
    /// Create a network
    Create {
        /// The network
        network: String,
        /// key=value
        #[arg(value_name = "KEY=VALUE")]
        pairs: Vec<String>,
        /// Its type
        #[arg(short = 't', long = "type")]
        kind: Option<String>,
    },
    /// Delete a network
    #[command(visible_alias = "rm")]
    Delete {
        /// The network
        network: String,
    },
    /// Detach instances from a network
    Detach(Attach),
    /// Detach profiles from a network
    DetachProfile(Attach),
    /// Edit a network as YAML
    Edit {
        /// The network
        network: String,
    },
    /// Manage forwards
    Forward {
        #[command(subcommand)]
        command: network_forward::Command,
    },
    /// Show a value
    Get {
        /// The network
        network: String,
        /// The key
        key: String,
    },
    /// Show how a network is now
    Info {
        /// The network
        network: String,
    },
    /// List networks
    #[command(visible_alias = "ls")]
    List {
        /// [remote:]
        remote: Option<String>,
        /// Format
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// List DHCP leases
    ListLeases {
        /// The network
        network: String,
        /// Format
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Peerings: there are none here
    #[command(hide = true)]
    Peer(Anything),
    /// Rename a network
    #[command(visible_alias = "mv")]
    Rename {
        /// The network
        network: String,
        /// Its new name
        name: String,
    },
    /// Set values
    Set {
        /// The network
        network: String,
        /// key=value, or key and value
        #[arg(required = true, allow_hyphen_values = true, value_name = "KEY=VALUE")]
        pairs: Vec<String>,
    },
    /// Show a network
    Show {
        /// The network
        network: String,
    },
    /// Remove a value
    Unset {
        /// The network
        network: String,
        /// The key
        key: String,
    },
    /// DNS zones: there are none here
    #[command(hide = true)]
    Zone(Anything),
}

/// What is attached where.
#[derive(Debug, clap::Args)]
pub(super) struct Attach {
    /// The network
    network: String,
    /// The instance or profile
    owner: String,
    /// Name of the device [default: that of the network]
    device: Option<String>,
    /// Name of the interface inside
    interface: Option<String>,
}

/// Runs one of them.
pub(super) async fn run(client: &Client, command: Command) -> Result<(), Error> {
    let word = match &command {
        Command::Acl { .. } => "",
        Command::Attach(words)
        | Command::AttachProfile(words)
        | Command::Detach(words)
        | Command::DetachProfile(words) => &words.network,
        Command::Create { network, .. }
        | Command::Delete { network }
        | Command::Edit { network }
        | Command::Get { network, .. }
        | Command::Info { network }
        | Command::ListLeases { network, .. }
        | Command::Rename { network, .. }
        | Command::Set { network, .. }
        | Command::Show { network }
        | Command::Unset { network, .. } => network,
        Command::Peer { .. } => {
            return Err(Error::absent(
                "peerings of networks",
                "They join virtual networks of OVN, which there are none of",
            ));
        }
        Command::Zone { .. } => {
            return Err(Error::absent(
                "DNS zones",
                "The names of instances are answered by the DNS server of each network",
            ));
        }
        Command::Forward { .. } | Command::List { .. } => "",
    };
    let (at, name) = match command {
        Command::Acl { command } => return network_acl::run(client, command).await,
        Command::Forward { command } => return network_forward::run(client, command).await,
        Command::List { remote, format } => return list(&*client.remote(remote.as_deref())?, format).await,
        _ => client.named(word)?,
    };
    checked("network", &name)?;
    let what = format!("network {name}");
    let object = Object { at: &at, path: path(&["networks", &name]), what: what.clone(), kind: &NETWORK };
    match command {
        Command::Create { pairs: words, kind, .. } => {
            let mut body = json!({"name": name, "config": map(pairs_only(&words)?)});
            if let Some(kind) = kind {
                body["type"] = json!(kind);
            }
            object::create(&at, "/1.0/networks", &what, body).await?;
            client.say(&format!("Network {name} created"))
        }
        Command::Delete { .. } => {
            object.delete().await?;
            client.say(&format!("Network {name} deleted"))
        }
        Command::Rename { name: new, .. } => {
            object.rename(&new).await?;
            client.say(&format!("Network {name} renamed to {new}"))
        }
        Command::Edit { .. } => object.edit().await,
        Command::Get { key, .. } => object.get_known(&key).await,
        Command::Set { pairs: words, .. } => object.set(pairs(&words)?).await,
        Command::Show { .. } => object.show().await,
        Command::Unset { key, .. } => object.unset(&key).await,
        Command::Info { .. } => info(&object).await,
        Command::ListLeases { format, .. } => leases(&object, format).await,
        Command::Attach(words) => attach(&object, &name, words, false).await,
        Command::AttachProfile(words) => attach(&object, &name, words, true).await,
        Command::Detach(words) => detach(&at, &name, &words, false).await,
        Command::DetachProfile(words) => detach(&at, &name, &words, true).await,
        Command::Acl { .. }
        | Command::Forward { .. }
        | Command::List { .. }
        | Command::Peer { .. }
        | Command::Zone { .. } => Ok(()),
    }
}

/// Only words with `=`: with two words more than one thing is meant here.
pub(super) fn pairs_only(words: &[String]) -> Result<Vec<(String, String)>, Error> {
    match object::unguarded(words).iter().find(|word| !word.contains('=')) {
        Some(word) => Err(Error::Usage(format!("{word:?} is not <key>=<value>"))),
        None => pairs(words),
    }
}

async fn list(at: &Connection, format: Format) -> Result<(), Error> {
    let headers = ["NAME", "TYPE", "MANAGED", "IPV4", "IPV6", "DESCRIPTION", "USED BY", "STATE"];
    // Of the host's own interfaces those that nothing can be attached to are left out.
    let wanted = |network: &Value| !matches!(network["type"].as_str(), Some("loopback" | "unknown"));
    object::list_of(at, "/1.0/networks?recursion=1", format, &headers, NETWORK.order, wanted, |network| {
        vec![
            text(network, "name"),
            text(network, "type"),
            yes_no(network["managed"] == true),
            text(&network["config"], "ipv4.address"),
            text(&network["config"], "ipv6.address"),
            text(network, "description"),
            count(network, "used_by"),
            text(network, "status").to_uppercase(),
        ]
    })
    .await
}

async fn leases(object: &Object<'_>, format: Format) -> Result<(), Error> {
    let headers = ["HOSTNAME", "MAC ADDRESS", "IP ADDRESS", "TYPE"];
    let path = format!("{}/leases", object.path);
    object::list(object.at, &path, format, &headers, &["hostname", "hwaddr", "address", "type", "location"], |lease| {
        vec![text(lease, "hostname"), text(lease, "hwaddr"), text(lease, "address"), text(lease, "type").to_uppercase()]
    })
    .await
    .map_err(|e| e.doing(format!("Cannot list the leases of {}", object.what)))
}

/// Writing to a `String` cannot fail, so what `write!` returns says nothing.
async fn info(object: &Object<'_>) -> Result<(), Error> {
    let state = object.at.get(&format!("{}/state", object.path)).await;
    let state = state.map_err(|e| e.doing(format!("Cannot show {}", object.what)))?;
    let name = object.what.trim_start_matches("network ");
    let mut out = format!(
        "Name: {name}\nMAC address: {}\nMTU: {}\nState: {}\nType: {}\n",
        text(&state, "hwaddr"),
        text(&state, "mtu"),
        text(&state, "state"),
        text(&state, "type"),
    );
    let addresses = state["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !addresses.is_empty() {
        out.push_str("\nIP addresses:\n");
    }
    for address in addresses {
        let [family, place, netmask, scope] = ["family", "address", "netmask", "scope"].map(|key| text(address, key));
        let _ = writeln!(out, "  {family}\t{place}/{netmask} ({scope})");
    }
    let counters = &state["counters"];
    if counters.is_object() {
        let number = |key: &str| counters[key].as_u64().unwrap_or_default();
        let _ = write!(
            out,
            "\nNetwork usage:\n  Bytes received: {}\n  Bytes sent: {}\n  Packets received: {}\n  Packets sent: {}\n",
            output::traffic(number("bytes_received")),
            output::traffic(number("bytes_sent")),
            number("packets_received"),
            number("packets_sent"),
        );
    }
    let bridge = &state["bridge"];
    if bridge.is_object() {
        let upper = bridge["upper_devices"].as_array().cloned().unwrap_or_default();
        let upper: Vec<&str> = upper.iter().filter_map(Value::as_str).collect();
        let [id, stp, delay, vlan, filtering] =
            ["id", "stp", "forward_delay", "vlan_default", "vlan_filtering"].map(|key| text(bridge, key));
        let _ = write!(
            out,
            "\nBridge:\n  ID: {id}\n  STP: {stp}\n  Forward delay: {delay}\n  Default VLAN ID: {vlan}\n  VLAN filtering: {filtering}\n  Upper devices: {}\n",
            upper.join(", ")
        );
    }
    output::print(&output::harmless(&out))
}

fn owner<'a>(at: &'a Connection, name: &str, of_profile: bool) -> Result<Object<'a>, Error> {
    let (word, collection, kind) =
        if of_profile { ("profile", "profiles", &PROFILE) } else { ("instance", "instances", &INSTANCE) };
    checked(word, name)?;
    Ok(Object { at, path: path(&[collection, name]), what: format!("{word} {name}"), kind })
}

/// Adds a device that is not there yet.
pub(super) async fn add_device(
    at: &Connection,
    name: &str,
    of_profile: bool,
    device: &str,
    new: Value,
) -> Result<(), Error> {
    owner(at, name, of_profile)?
        .update(|value| {
            if value["devices"].get(device).is_some() {
                return Err(Error::Usage(format!("Device already exists: {device}")));
            }
            value["devices"][device] = new;
            Ok(())
        })
        .await
}

/// Removes the device of this name, or the only one that fits.
pub(super) async fn remove_device(
    at: &Connection,
    name: &str,
    of_profile: bool,
    device: Option<&str>,
    fits: impl Fn(&Value) -> bool,
) -> Result<(), Error> {
    owner(at, name, of_profile)?
        .update(|value| {
            let devices = value["devices"].as_object_mut();
            let Some(devices) = devices else { return Err(Error::Broken("It has no devices".to_owned())) };
            let device = match device {
                Some(device) => device.to_owned(),
                None => {
                    let mut fitting = devices.iter().filter(|(_, device)| fits(device)).map(|(name, _)| name.clone());
                    match (fitting.next(), fitting.next()) {
                        (Some(only), None) => only,
                        (Some(_), Some(_)) => {
                            return Err(Error::Usage(
                                "More than one device matches, specify the device name".to_owned(),
                            ));
                        }
                        (None, _) => return Err(Error::Usage("No device found for this".to_owned())),
                    }
                }
            };
            match devices.get(&device) {
                None => Err(Error::Usage("The specified device doesn't exist".to_owned())),
                Some(found) if !fits(found) => Err(Error::Usage("The specified device is another's".to_owned())),
                Some(_) => {
                    devices.remove(&device);
                    Ok(())
                }
            }
        })
        .await
}

async fn attach(network: &Object<'_>, name: &str, words: Attach, of_profile: bool) -> Result<(), Error> {
    let managed = network.value().await?["managed"] == true;
    let mut nic = if managed {
        json!({"type": "nic", "network": name})
    } else {
        let bridge = network.value().await?["type"] == "bridge";
        json!({"type": "nic", "nictype": if bridge { "bridged" } else { "macvlan" }, "parent": name})
    };
    // The device's name does not say how the interface is called inside.
    if let Some(interface) = &words.interface {
        nic["name"] = json!(interface);
    }
    let device = words.device.as_deref().unwrap_or(name);
    add_device(network.at, &words.owner, of_profile, device, nic).await
}

async fn detach(at: &Connection, name: &str, words: &Attach, of_profile: bool) -> Result<(), Error> {
    let fits = |device: &Value| device["type"] == "nic" && (device["network"] == name || device["parent"] == name);
    remove_device(at, &words.owner, of_profile, words.device.as_deref(), fits).await
}

/// What a user wrote of a rule: `key=value` words; lists by commas.
pub(super) async fn post(at: &Connection, path: &str, what: &str, body: &Value) -> Result<(), Error> {
    at.run(Method::POST, path, Some(body)).await.map(drop).map_err(|e| e.doing(format!("Cannot create {what}")))
}
