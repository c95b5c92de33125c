//! Creating instances and changing their state.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::connection::Connection;
use super::{Error, output};
use crate::api::wire::{Config, Devices};
use crate::names::InstanceName;

/// A new instance.
#[derive(Debug, Args)]
pub(super) struct Create {
    /// Image: alias or fingerprint
    image: String,
    /// Name; none: one is made
    name: Option<String>,
    /// Profile to apply (repeat for more)
    #[arg(short, long = "profile")]
    profiles: Vec<String>,
    /// Configuration key=value
    #[arg(short, long = "config", value_parser = pair)]
    config: Vec<(String, String)>,
    /// Device: name,key=value[,key=value]
    #[arg(short, long = "device", value_parser = device)]
    devices: Vec<(String, Config)>,
    /// Storage pool of the root disk
    #[arg(short, long)]
    storage: Option<String>,
    /// Managed network of eth0
    #[arg(short, long)]
    network: Option<String>,
    /// Delete it when it stops
    #[arg(short, long)]
    ephemeral: bool,
    /// Wait until it has an address
    #[arg(long)]
    wait: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not key=value"))?;
    Ok((key.to_owned(), value.to_owned()))
}

fn device(text: &str) -> Result<(String, Config), String> {
    let mut parts = text.split(',');
    let name = parts.next().unwrap_or_default().to_owned();
    Ok((name, parts.map(pair).collect::<Result<_, _>>()?))
}

/// The path of an instance.
pub(super) fn path(name: &str) -> Result<String, Error> {
    let name = InstanceName::new(name).map_err(|e| Error::Usage(e.to_string()))?;
    Ok(format!("/1.0/instances/{name}"))
}

fn config(pairs: &[(&str, &str)]) -> Config {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// `launch` and `init`.
pub(super) async fn create(connection: &Connection, new: Create, start: bool) -> Result<(), Error> {
    let given = new.name;
    if let Some(name) = &given {
        path(name)?;
    }
    let image = new.image.strip_prefix("local:").unwrap_or(&new.image);
    if image.contains(':') {
        let text = format!("{image:?}: image servers are not in this version; import the image first");
        return Err(Error::Usage(text));
    }
    let mut devices: Devices = new.devices.into_iter().collect();
    if let Some(pool) = &new.storage {
        devices.insert("root".to_owned(), config(&[("type", "disk"), ("path", "/"), ("pool", pool)]));
    }
    if let Some(network) = &new.network {
        devices.insert("eth0".to_owned(), config(&[("type", "nic"), ("network", network), ("name", "eth0")]));
    }
    let mut body = json!({
        "name": given.as_deref().unwrap_or_default(), "config": new.config.into_iter().collect::<Config>(), "devices": devices,
        "ephemeral": new.ephemeral, "source": {"type": "image", "alias": image},
    });
    if !new.profiles.is_empty() {
        body["profiles"] = json!(new.profiles);
    }
    let failed = |e: Error| e.doing(format!("Cannot create {}", given.as_deref().unwrap_or("the instance")));
    let answer = connection.request(Method::POST, "/1.0/instances", Some(&body)).await.map_err(failed)?;
    let url = answer.metadata["resources"]["instances"][0].as_str().unwrap_or_default().to_owned();
    let name = url.rsplit('/').next().unwrap_or_default().to_owned();
    output::progress(&format!("Creating {name}"));
    connection.wait(&answer.operation).await.map_err(failed)?;
    if given.is_none() && !std::io::stdout().is_terminal() {
        // The name that was made is what a script needs to know.
        output::print(&format!("{name}\n"))?;
    }
    if start {
        output::progress(&format!("Starting {name}"));
        let started = change(connection, &name, "start", false, None).await;
        let stays = format!("It was created: mend it and \"warren start {name}\", or \"warren delete {name}\"");
        started.map_err(|e| e.hint(stays))?;
    }
    if start && new.wait {
        wait_for_address(connection, &name).await?;
    }
    Ok(())
}

/// There is no event for an address: it is asked for, often at first.
async fn wait_for_address(connection: &Connection, name: &str) -> Result<(), Error> {
    let refuse = |reason: &str| Error::refused(reason).doing(format!("{name} was started but has no IPv4 address"));
    let instance = connection.get(&path(name)?).await?;
    let mut devices = instance["expanded_devices"].as_object().into_iter().flatten();
    if !devices.any(|(_, device)| device["type"] == "nic") {
        return Err(refuse("It has no network device").hint("Give it one with --network, or do without --wait"));
    }
    for _ in 0..600 {
        let state = connection.get(&format!("{}/state", path(name)?)).await?;
        if state["status"] == "Stopped" {
            return Err(refuse("It has stopped again"));
        }
        let networks = state["network"].as_object().into_iter().flatten().filter(|(interface, _)| *interface != "lo");
        let addresses: Vec<&Value> =
            networks.flat_map(|(_, network)| network["addresses"].as_array().into_iter().flatten()).collect();
        if addresses.iter().any(|address| address["scope"] == "global" && address["family"] == "inet") {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(refuse("It got none within a minute").hint("Does it ask for one by DHCP, and does anybody answer?"))
}

/// Instances by name.
#[derive(Debug, Args)]
pub(super) struct Names {
    /// The instances
    #[arg(required = true)]
    instances: Vec<String>,
}

/// How to stop instances.
#[derive(Debug, Args)]
pub(super) struct Stop {
    /// The instances
    #[arg(required_unless_present = "all")]
    instances: Vec<String>,
    /// Kill instead of asking
    #[arg(short, long)]
    force: bool,
    /// Seconds to wait for a clean shutdown
    #[arg(long)]
    timeout: Option<i64>,
    /// All running instances
    #[arg(long, conflicts_with = "instances")]
    all: bool,
}

/// How to delete instances.
#[derive(Debug, Args)]
pub(super) struct Delete {
    /// The instances
    #[arg(required = true)]
    instances: Vec<String>,
    /// Stop them first
    #[arg(short, long)]
    force: bool,
}

async fn change(
    connection: &Connection,
    name: &str,
    action: &str,
    force: bool,
    timeout: Option<i64>,
) -> Result<(), Error> {
    let body = json!({"action": action, "force": force, "timeout": timeout.unwrap_or(-1)});
    let done = connection.run(Method::PUT, &format!("{}/state", path(name)?), Some(&body)).await;
    done.map(drop).map_err(|e| e.doing(format!("Cannot {action} {name}")))
}

/// Does the same with each of several instances at once. One that makes trouble does not hold up the others.
async fn each<F>(names: &[String], action: impl Fn(String) -> F) -> Result<(), Error>
where
    F: Future<Output = Result<(), Error>>,
{
    let results = futures_util::future::join_all(names.iter().cloned().map(action)).await;
    let mut errors: Vec<Error> = results.into_iter().filter_map(Result::err).collect();
    match (errors.pop(), errors.is_empty()) {
        (None, _) => Ok(()),
        (Some(only), true) => Err(only),
        (Some(last), false) => {
            errors.push(last);
            Err(Error::Several(errors))
        }
    }
}

/// `start`; one that is frozen goes on.
pub(super) async fn start(connection: &Connection, names: &Names) -> Result<(), Error> {
    each(&names.instances, async |name| {
        let instance = connection.get(&path(&name)?).await.map_err(|e| e.doing(format!("Cannot start {name}")))?;
        let action = if instance["status"] == "Frozen" { "unfreeze" } else { "start" };
        change(connection, &name, action, false, None).await
    })
    .await
}

/// `stop` and `restart`.
pub(super) async fn stop(connection: &Connection, stop: &Stop, action: &str) -> Result<(), Error> {
    let mut names = stop.instances.clone();
    if stop.all {
        let list = connection.get("/1.0/instances?recursion=1").await?;
        let running = list.as_array().into_iter().flatten().filter(|instance| instance["status"] == "Running");
        names.extend(running.filter_map(|instance| instance["name"].as_str().map(str::to_owned)));
    }
    each(&names, async |name| change(connection, &name, action, stop.force, stop.timeout).await).await
}

/// `pause`.
pub(super) async fn pause(connection: &Connection, names: &Names) -> Result<(), Error> {
    each(&names.instances, async |name| change(connection, &name, "freeze", false, None).await).await
}

/// `delete`.
pub(super) async fn delete(connection: &Connection, delete: &Delete) -> Result<(), Error> {
    each(&delete.instances, async |name| {
        let path = path(&name)?;
        let failed = |e: Error| e.doing(format!("Cannot delete {name}"));
        let instance = connection.get(&path).await.map_err(failed)?;
        let up = instance["status"] != "Stopped";
        if delete.force && up {
            change(connection, &name, "stop", true, None).await?;
            // That was the end of it.
            if instance["ephemeral"] == true {
                return Ok(());
            }
        }
        let deleted = connection.run(Method::DELETE, &path, None).await.map_err(failed);
        deleted.map(drop).map_err(|e| if up { e.hint("Stop it first, or add --force") } else { e })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_from_the_command_line() {
        let (name, properties) = device("eth0,type=nic,nictype=p2p").unwrap();
        assert_eq!((name.as_str(), properties["nictype"].as_str()), ("eth0", "p2p"));
        assert!(device("eth0,type").is_err() && pair("x").is_err());
    }
}
