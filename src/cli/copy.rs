//! `warren copy` and `warren move`.

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::client::Client;
use super::connection::Connection;
use super::instance::{completed, device, pair};
use super::object::{self, map, path, with_maps};
use super::{Error, image_source, instance, snapshot};
use crate::api::wire::Config;

/// What becomes of which instance.
#[derive(Debug, Args)]
pub(super) struct Copy {
    /// [remote:]instance[/snapshot]
    source: String,
    /// [remote:][instance]
    target: Option<String>,
    /// Configuration key=value of the new one
    #[arg(short, long = "config", value_parser = pair)]
    config: Vec<(String, String)>,
    /// Device of the new one: name,key=value[,key=value]
    #[arg(short, long = "device", value_parser = device)]
    devices: Vec<(String, Config)>,
    /// Profile of the new one (repeat for more)
    #[arg(short, long = "profile")]
    profiles: Vec<String>,
    /// The new one has no profiles
    #[arg(long, conflicts_with = "profiles")]
    no_profiles: bool,
    /// The new one is deleted when it stops
    #[arg(short, long)]
    ephemeral: bool,
    /// Without its snapshots
    #[arg(long, alias = "container-only")]
    instance_only: bool,
    /// pull, push or relay
    #[arg(long, default_value = "pull")]
    mode: String,
    /// Only what has changed
    #[arg(long)]
    refresh: bool,
    /// Without its running state
    #[arg(long)]
    stateless: bool,
    /// Pool of the new one
    #[arg(short, long)]
    storage: Option<String>,
    /// Project of the new one
    #[arg(long)]
    target_project: Option<String>,
    /// Files that change meanwhile are no error
    #[arg(long)]
    allow_inconsistent: bool,
}

/// `move`: a rename where it stays, else a copy that replaces it.
pub(super) async fn moved(client: &Client, words: Copy) -> Result<(), Error> {
    let (from, name) = client.named(&words.source)?;
    let target = words.target.clone().unwrap_or_default();
    let (to, new) = client.at(&target)?;
    let new = if new.is_empty() { name.clone() } else { new };
    let changed =
        !words.config.is_empty() || !words.devices.is_empty() || !words.profiles.is_empty() || words.no_profiles;
    if from.remote == to.remote && !changed {
        if words.storage.is_none() && words.target_project.is_none() {
            return snapshot::rename(client, &words.source, &new_word(&words.source, &new)).await;
        }
        let mut body = json!({"name": new, "migration": true, "live": false, "instance_only": words.instance_only});
        for (key, value) in [("pool", &words.storage), ("project", &words.target_project)] {
            if let Some(value) = value {
                body[key] = json!(value);
            }
        }
        let done = from.run(Method::POST, &instance::path(&name)?, Some(&body)).await;
        return done.map(drop).map_err(|e| e.doing(format!("Cannot move {name}")));
    }
    if from.remote == to.remote && name == new && words.target_project.is_none() {
        return Err(Error::Usage(
            "An instance that stays where it is under its name is not moved: change it by \"warren config\"".to_owned(),
        ));
    }
    copy_to(client, &from, &name, &to, &new, &words, true).await?;
    let deleted = from.run(Method::DELETE, &instance::path(&name)?, None).await;
    deleted.map(drop).map_err(|e| e.doing(format!("The copy is there, but {name} cannot be deleted")))
}

/// The new name with the remote of the old one.
fn new_word(old: &str, new: &str) -> String {
    match old.split_once(':') {
        Some((remote, _)) => format!("{remote}:{new}"),
        None => new.to_owned(),
    }
}

/// `copy`.
pub(super) async fn copy(client: &Client, words: Copy) -> Result<(), Error> {
    let (from, name) = client.named(&words.source)?;
    let target = words.target.clone().unwrap_or_default();
    let (to, new) = client.at(&target)?;
    let same = from.remote == to.remote && words.target_project.is_none();
    // On another server it keeps its name.
    let new = if new.is_empty() && !same { name.rsplit('/').next().unwrap_or_default().to_owned() } else { new };
    let made = copy_to(client, &from, &name, &to, &new, &words, false).await?;
    if new.is_empty() { client.say(&format!("Instance name is: {made}")) } else { Ok(()) }
}

async fn copy_to(
    client: &Client,
    from: &Connection,
    name: &str,
    to: &Connection,
    new: &str,
    words: &Copy,
    moves: bool,
) -> Result<String, Error> {
    let failed = |e: Error| e.doing(format!("Cannot {} {name}", if moves { "move" } else { "copy" }));
    let (source, snapshot) =
        name.split_once('/').map_or((name, None), |(instance, snapshot)| (instance, Some(snapshot)));
    instance::path(source)?;
    let place = match snapshot {
        Some(snapshot) => path(&["instances", source, "snapshots", snapshot]),
        None => path(&["instances", source]),
    };
    let was = with_maps(from.get(&place).await.map_err(failed)?).map_err(Error::Broken)?;
    let mut body = json!({
        "name": new, "architecture": was["architecture"], "config": was["config"], "devices": was["devices"],
        "profiles": was["profiles"], "ephemeral": words.ephemeral || (moves && was["ephemeral"] == true),
        "description": was["description"], "type": if was["type"] == Value::Null { json!("container") } else { was["type"].clone() },
    });
    if words.no_profiles || !words.profiles.is_empty() {
        body["profiles"] = json!(words.profiles);
    }
    // What belongs to the old one alone.
    if let Some(config) = body["config"].as_object_mut() {
        let kept = |key: &str| {
            !key.starts_with("volatile.") || matches!(key, "volatile.base_image" | "volatile.last_state.idmap")
        };
        config.retain(|key, _| kept(key) || (moves && from.remote != to.remote));
    }
    for (key, value) in map(words.config.clone()).as_object().into_iter().flatten() {
        body["config"][key] = value.clone();
    }
    for (device, given) in &words.devices {
        let own = body["devices"].get(device).cloned();
        let known = own.or_else(|| was["expanded_devices"].get(device).cloned());
        let base = if given.contains_key("type") { None } else { known };
        let mut entry = base.unwrap_or_else(|| json!({}));
        for (key, value) in
            completed(to, vec![(device.clone(), given.clone())], &[]).await?.remove(device).unwrap_or_default()
        {
            entry[key] = json!(value);
        }
        body["devices"][device] = entry;
    }
    if let Some(pool) = &words.storage {
        let roots = was["expanded_devices"].as_object().into_iter().flatten();
        let root = roots.into_iter().find(|(_, device)| device["type"] == "disk" && device["path"] == "/");
        let (device, mut disk) = root.map_or_else(
            || ("root".to_owned(), json!({"type": "disk", "path": "/"})),
            |(device, disk)| (device.clone(), disk.clone()),
        );
        disk["pool"] = json!(pool);
        body["devices"][&device] = disk;
    }
    body["source"] = if from.remote == to.remote {
        let mut source = json!({
            "type": "copy", "source": name, "instance_only": words.instance_only, "refresh": words.refresh,
        });
        if words.target_project.is_some() {
            source["project"] = json!(if from.project.is_empty() { "default" } else { &from.project });
        }
        source
    } else {
        pulled(client, from, source, name, words).await.map_err(failed)?
    };
    body["source"]["allow_inconsistent"] = json!(words.allow_inconsistent);
    let project = words.target_project.as_ref().map(|project| format!("?project={project}")).unwrap_or_default();
    let answer = to.request(Method::POST, &format!("/1.0/instances{project}"), Some(&body)).await.map_err(failed)?;
    to.wait(&answer.operation).await.map_err(failed)?;
    let url = object::text(&answer.metadata["resources"]["instances"], "0");
    let url = answer.metadata["resources"]["instances"][0].as_str().map_or(url, str::to_owned);
    Ok(url.split('?').next().and_then(|url| url.rsplit('/').next()).unwrap_or_default().to_owned())
}

/// Another server fetches the instance from where it is.
async fn pulled(client: &Client, from: &Connection, source: &str, name: &str, words: &Copy) -> Result<Value, Error> {
    if words.mode != "pull" {
        return Err(Error::absent(
            &format!("transfers by {}", words.mode),
            "Between servers of LXD and Incus the target fetches from the source: --mode pull (Warren does not send instances yet)",
        ));
    }
    let (instance, snapshot) =
        name.split_once('/').map_or((source, None), |(instance, snapshot)| (instance, Some(snapshot)));
    let place = match snapshot {
        Some(snapshot) => path(&["instances", instance, "snapshots", snapshot]),
        None => path(&["instances", instance]),
    };
    let body = json!({"migration": true, "live": false, "instance_only": words.instance_only, "container_only": words.instance_only});
    let answer = from.request(Method::POST, &place, Some(&body)).await?;
    let away = image_source::away(client, from).await?;
    Ok(json!({
        "type": "migration", "mode": "pull", "operation": format!("{}{}", object::text(&away, "server"), answer.operation),
        "certificate": away["certificate"], "secrets": answer.metadata["metadata"], "base-image": "",
        "instance_only": words.instance_only, "refresh": words.refresh,
    }))
}
