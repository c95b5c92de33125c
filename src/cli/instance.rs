//! Creating instances and changing their state.

use std::time::Duration;

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::client::Client;
use super::connection::Connection;
use super::{Error, ask, console, editor, image_source, object, yaml};
use crate::api::wire::{Config, Devices};
use crate::names::InstanceName;

/// A new instance.
#[derive(Debug, Args)]
pub(super) struct Create {
    /// Image: [remote:]alias or fingerprint; with --empty the name
    #[arg(required_unless_present = "empty")]
    image: Option<String>,
    /// Name, as [remote:]name; none: one is made
    name: Option<String>,
    /// Profile to apply (repeat for more)
    #[arg(short, long = "profile")]
    profiles: Vec<String>,
    /// No profiles at all
    #[arg(long, conflicts_with = "profiles")]
    no_profiles: bool,
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
    /// Without an image
    #[arg(long)]
    empty: bool,
    /// A virtual machine: there are none here
    #[arg(long)]
    vm: bool,
    /// Instance type, e.g. c2-m4
    #[arg(short = 't', long = "type")]
    instance_type: Option<String>,
    /// Attach to its console (launch)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "console")]
    console: Option<String>,
    /// Wait until it has an address (launch)
    #[arg(long)]
    wait: bool,
}

pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not key=value"))?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) fn device(text: &str) -> Result<(String, Config), String> {
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

/// A device without a type changes the one of that name that the profiles give.
pub(super) async fn completed(
    at: &Connection,
    devices: Vec<(String, Config)>,
    profiles: &[String],
) -> Result<Devices, Error> {
    let mut all = Devices::new();
    for (name, given) in devices {
        let entry = all.entry(name.clone()).or_default();
        if !given.contains_key("type") && !entry.contains_key("type") {
            for profile in profiles {
                let profile = at.get(&object::path(&["profiles", profile])).await?;
                let known = serde_json::from_value::<Config>(profile["devices"][&name].clone()).unwrap_or_default();
                entry.extend(known);
            }
        }
        entry.extend(given);
    }
    Ok(all)
}

/// `launch` and `init`.
pub(super) async fn create(client: &Client, new: Create, start: bool) -> Result<(), Error> {
    let (image, target) = match (new.empty, &new.image, &new.name) {
        (true, _, Some(_)) => {
            return Err(Error::Usage("--empty can't be combined with an image name".to_owned()));
        }
        (true, name, None) => (None, name.clone().unwrap_or_default()),
        (false, None, _) => {
            return Err(Error::Usage("Which image? E.g. \"warren launch ubuntu:24.04 web\"".to_owned()));
        }
        (false, Some(image), name) => (Some(image), name.clone().unwrap_or_default()),
    };
    let (at, name) = client.at(&target)?;
    let at = &*at;
    // Nothing at all is no name; a remote alone leaves it to the server.
    if !name.is_empty() || new.name.as_deref() == Some("") {
        path(&name)?;
    }
    let given = editor::piped().await?.map(|text| yaml::parse(&text)).transpose()?;
    let source = match image {
        None => json!({"type": "none"}),
        Some(image) => image_source::of(client, image, at).await?,
    };
    let profiles = if new.profiles.is_empty() { vec!["default".to_owned()] } else { new.profiles.clone() };
    let mut devices = completed(at, new.devices, if new.no_profiles { &[] } else { &profiles }).await?;
    if let Some(pool) = &new.storage {
        let root = devices.entry("root".to_owned()).or_default();
        root.extend(config(&[("type", "disk"), ("path", "/"), ("pool", pool)]));
    }
    if let Some(network) = &new.network {
        let managed = at.get(&object::path(&["networks", network])).await.map_err(|e| {
            e.doing(format!("Cannot use the network {network}"))
                .hint("\"warren network list\" shows those that there are")
        })?["managed"]
            == true;
        let nic = if managed {
            config(&[("type", "nic"), ("network", network), ("name", "eth0")])
        } else {
            config(&[("type", "nic"), ("nictype", "bridged"), ("parent", network), ("name", "eth0")])
        };
        devices.insert("eth0".to_owned(), nic);
    }
    let mut body = json!({
        "name": name, "config": new.config.into_iter().collect::<Config>(), "devices": devices, "source": source,
    });
    if new.ephemeral {
        body["ephemeral"] = json!(true);
    }
    if new.no_profiles || !new.profiles.is_empty() {
        body["profiles"] = json!(new.profiles);
    }
    if new.vm {
        body["type"] = json!("virtual-machine");
    }
    if let Some(kind) = new.instance_type {
        body["instance_type"] = json!(kind);
    }
    if let Some(Value::Object(given)) = given {
        object::merge(&mut body, given);
    }
    let failed = |e: Error| e.doing(format!("Cannot create {}", if name.is_empty() { "the instance" } else { &name }));
    let answer = at.request(Method::POST, "/1.0/instances", Some(&body)).await;
    // Nobody creates anything where no server answers.
    if !matches!(answer, Err(Error::Connect { .. } | Error::Unreachable { .. })) {
        client.say(&if name.is_empty() { "Creating the instance".to_owned() } else { format!("Creating {name}") })?;
    }
    let answer = answer.map_err(failed)?;
    let resources = &answer.metadata["resources"];
    let url = resources["instances"][0].as_str().or(resources["containers"][0].as_str()).unwrap_or_default();
    let made = url.split('?').next().and_then(|url| url.rsplit('/').next()).unwrap_or_default().to_owned();
    at.wait(&answer.operation).await.map_err(failed)?;
    if name.is_empty() {
        // The name that was made is what a script needs to know, however quiet it wants it.
        super::output::print(&format!("Instance name is: {}\n", super::output::harmless(&made)))?;
    }
    if start {
        client.say(&format!("Starting {made}"))?;
        let started = change(at, &made, "start", false, None, false).await;
        let stays = format!("It was created: mend it and \"warren start {made}\", or \"warren delete {made}\"");
        started.map_err(|e| e.hint(stays))?;
        if new.wait {
            wait_for_address(at, &made).await?;
        }
        if let Some(kind) = new.console {
            console::attach(at, &made, &kind).await?;
        }
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

/// Which instances, and how their state changes.
#[derive(Debug, Args)]
pub(super) struct Names {
    /// The instances
    #[arg(required_unless_present = "all")]
    instances: Vec<String>,
    /// All instances that it can be done with
    #[arg(long, conflicts_with = "instances")]
    all: bool,
    /// Forget a stored state
    #[arg(long)]
    stateless: bool,
    /// Attach to the console
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "console")]
    console: Option<String>,
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
    /// Store the running state
    #[arg(long)]
    stateful: bool,
    /// Seconds to wait for a clean shutdown
    #[arg(long, allow_hyphen_values = true)]
    timeout: Option<i64>,
    /// All running instances
    #[arg(long, conflicts_with = "instances")]
    all: bool,
    /// Attach to the console (restart)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "console")]
    console: Option<String>,
}

/// How to delete instances.
#[derive(Debug, Args)]
pub(super) struct Delete {
    /// The instances, or snapshots as instance/snapshot
    #[arg(required = true)]
    instances: Vec<String>,
    /// Stop them first
    #[arg(short, long)]
    force: bool,
    /// Ask before each
    #[arg(short, long)]
    interactive: bool,
}

async fn change(
    connection: &Connection,
    name: &str,
    action: &str,
    force: bool,
    timeout: Option<i64>,
    stateful: bool,
) -> Result<(), Error> {
    let body = json!({"action": action, "force": force, "timeout": timeout.unwrap_or(-1), "stateful": stateful});
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

/// The names, or those of all instances of these states.
async fn wanted(client: &Client, names: &[String], all: bool, states: &[&str]) -> Result<Vec<String>, Error> {
    if !all {
        return Ok(names.to_vec());
    }
    let list = client.remote(None)?.get("/1.0/instances?recursion=1").await?;
    let fitting =
        list.as_array().into_iter().flatten().filter(|i| states.contains(&i["status"].as_str().unwrap_or_default()));
    Ok(fitting.filter_map(|instance| instance["name"].as_str().map(str::to_owned)).collect())
}

/// `start`; one that is frozen goes on.
pub(super) async fn start(client: &Client, names: &Names) -> Result<(), Error> {
    let all = wanted(client, &names.instances, names.all, &["Stopped", "Frozen"]).await?;
    each(&all, async |word| {
        let (at, name) = client.named(&word)?;
        let instance = at.get(&path(&name)?).await.map_err(|e| e.doing(format!("Cannot start {name}")))?;
        let action = if instance["status"] == "Frozen" { "unfreeze" } else { "start" };
        let stateful = instance["stateful"] == true && !names.stateless;
        change(&at, &name, action, false, None, stateful).await
    })
    .await?;
    match (&names.console, all.as_slice()) {
        (None, _) => Ok(()),
        (Some(kind), [only]) => {
            let (at, name) = client.named(only)?;
            console::attach(&at, &name, kind).await
        }
        (Some(_), _) => Err(Error::Usage("--console can't be used with several instances".to_owned())),
    }
}

/// `stop` and `restart`.
pub(super) async fn stop(client: &Client, stop: &Stop, action: &str) -> Result<(), Error> {
    let all = wanted(client, &stop.instances, stop.all, &["Running"]).await?;
    each(&all, async |word| {
        let (at, name) = client.named(&word)?;
        change(&at, &name, action, stop.force, stop.timeout, stop.stateful).await
    })
    .await?;
    match (&stop.console, all.as_slice()) {
        (Some(kind), [only]) => {
            let (at, name) = client.named(only)?;
            console::attach(&at, &name, kind).await
        }
        _ => Ok(()),
    }
}

/// `pause`.
pub(super) async fn pause(client: &Client, names: &Names) -> Result<(), Error> {
    let all = wanted(client, &names.instances, names.all, &["Running"]).await?;
    each(&all, async |word| {
        let (at, name) = client.named(&word)?;
        change(&at, &name, "freeze", false, None, false).await
    })
    .await
}

/// `delete`.
pub(super) async fn delete(client: &Client, delete: &Delete) -> Result<(), Error> {
    if delete.interactive {
        // Nobody is asked about what there is not.
        for word in &delete.instances {
            let (at, name) = client.named(word)?;
            let known = match name.split_once('/') {
                None => path(&name)?,
                Some((instance, snapshot)) => {
                    path(instance)?;
                    object::checked("snapshot", snapshot)?;
                    object::path(&["instances", instance, "snapshots", snapshot])
                }
            };
            at.get(&known).await.map_err(|e| e.doing(format!("Cannot delete {name}")))?;
        }
        // One after the other: a no ends it, and what was agreed to before is done.
        for word in &delete.instances {
            if !ask::yes(&format!("Remove {word} (yes/no): ")).await? {
                return Err(Error::Usage("User aborted delete operation".to_owned()));
            }
            unmake(client, delete, std::slice::from_ref(word)).await?;
        }
        return Ok(());
    }
    unmake(client, delete, &delete.instances).await
}

/// Deletes these without a question.
async fn unmake(client: &Client, delete: &Delete, names: &[String]) -> Result<(), Error> {
    each(names, async |word| {
        let (at, name) = client.named(&word)?;
        let failed = |e: Error| e.doing(format!("Cannot delete {name}"));
        if let Some((instance, snapshot)) = name.split_once('/') {
            path(instance)?;
            object::checked("snapshot", snapshot)?;
            let path = object::path(&["instances", instance, "snapshots", snapshot]);
            return at.run(Method::DELETE, &path, None).await.map(drop).map_err(failed);
        }
        let path = path(&name)?;
        let instance = at.get(&path).await.map_err(failed)?;
        let up = instance["status"] != "Stopped";
        if delete.force && up {
            change(&at, &name, "stop", true, None, false).await?;
            // That was the end of it.
            if instance["ephemeral"] == true {
                return Ok(());
            }
        }
        let deleted = at.run(Method::DELETE, &path, None).await.map_err(failed);
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
