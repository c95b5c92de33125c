//! `init`: sets a daemon up, by itself or from a preseed; `--dump` prints what a preseed would need.

use std::io::Read;
use std::path::Path;

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::admin::InitArguments;
use super::local::{self, request};
use crate::state_dir::StateDir;

/// The network that `init --auto` makes.
const BRIDGE: &str = "warrenbr0";

/// Fields of the items of a preseed: those that count, and those that dumps of others have, too.
const ITEM: &[&str] = &[
    "name",
    "description",
    "config",
    "type",
    "driver",
    "devices",
    "project",
    "used_by",
    "status",
    "locations",
    "managed",
];

/// A preseed: what to create or change, in LXD's words.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Preseed {
    config: Map<String, Value>,
    networks: Vec<Map<String, Value>>,
    storage_pools: Vec<Map<String, Value>>,
    profiles: Vec<Map<String, Value>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    projects: Vec<Map<String, Value>>,
}

/// One thing that was done, and how to take it back.
enum Undo {
    Delete(String),
    Restore(String, Value),
}

pub(super) async fn run(arguments: &InitArguments, dir: &StateDir) -> Result<(), String> {
    let socket = dir.socket();
    if arguments.dump {
        return dump(&socket).await;
    }
    let preseed = if arguments.preseed {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(|e| format!("cannot read the preseed: {e}"))?;
        parse(&text)?
    } else if arguments.auto {
        automatic(arguments, &socket).await?
    } else {
        return Err(
            "the dialogue is not in this version: use --auto, or --preseed with YAML on standard input".to_owned()
        );
    };
    apply(&socket, preseed).await
}

/// YAML knows numbers and booleans where the API wants texts.
fn as_text(value: &mut Value) {
    match value {
        Value::Object(map) => map.values_mut().for_each(as_text),
        Value::Array(list) => list.iter_mut().for_each(as_text),
        Value::Bool(_) | Value::Number(_) => *value = Value::String(value.to_string()),
        Value::Null => *value = Value::String(String::new()),
        Value::String(_) => {}
    }
}

fn parse(text: &str) -> Result<Preseed, String> {
    if text.trim().is_empty() {
        return Ok(Preseed::default());
    }
    let mut preseed: Preseed = serde_norway::from_str(text).map_err(|e| format!("the preseed is not usable: {e}"))?;
    preseed.config.values_mut().for_each(as_text);
    for list in [&mut preseed.networks, &mut preseed.storage_pools, &mut preseed.profiles] {
        for object in list {
            for key in ["config", "devices"] {
                if let Some(value) = object.get_mut(key) {
                    as_text(value);
                }
            }
        }
    }
    Ok(preseed)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}

async fn automatic(arguments: &InitArguments, socket: &Path) -> Result<Preseed, String> {
    let get = async |path: &str| request(socket, Method::GET, path, None).await.map_err(|e| e.to_string());
    let server = get("/1.0").await?;
    let mut preseed = Preseed::default();
    if let Some(address) = &arguments.network_address {
        let host =
            if address.contains(':') && !address.starts_with('[') { format!("[{address}]") } else { address.clone() };
        preseed.config.insert("core.https_address".to_owned(), format!("{host}:{}", arguments.network_port).into());
    }
    if server.pointer("/config/core.idmap_isolated").is_none() {
        preseed.config.insert("core.idmap_isolated".to_owned(), "true".into());
    }
    if let Some(password) = &arguments.trust_password {
        preseed.config.insert("core.trust_password".to_owned(), password.clone().into());
    }
    let drivers = server.pointer("/environment/storage_supported_drivers").and_then(Value::as_array).cloned();
    let works = |name: &str| drivers.iter().flatten().any(|driver| driver["Name"] == name);
    let driver = match &arguments.storage_backend {
        Some(driver) => driver.clone(),
        None if works("overlay") => "overlay".to_owned(),
        None => "dir".to_owned(),
    };
    let pools = get("/1.0/storage-pools").await?;
    let pool_url = format!("/1.0/storage-pools/{}", arguments.storage_pool);
    if !pools.as_array().is_some_and(|pools| pools.contains(&Value::from(pool_url))) {
        preseed.storage_pools.push(object(json!({"name": arguments.storage_pool, "driver": driver})));
    }
    let networks = get("/1.0/networks?recursion=1").await?;
    let managed = networks.as_array().and_then(|networks| {
        networks.iter().find(|network| network["managed"] == true)?.get("name")?.as_str().map(str::to_owned)
    });
    let network = match managed {
        Some(name) => name,
        None => {
            preseed.networks.push(object(json!({"name": BRIDGE, "type": "bridge"})));
            BRIDGE.to_owned()
        }
    };
    let profile = get("/1.0/profiles/default").await?;
    let mut devices = object(profile["devices"].clone());
    let has = |devices: &Map<String, Value>, kind: &str| devices.values().any(|device| device["type"] == kind);
    if !has(&devices, "disk") {
        devices.insert("root".to_owned(), json!({"type": "disk", "path": "/", "pool": arguments.storage_pool}));
    }
    if !has(&devices, "nic") {
        devices.insert("eth0".to_owned(), json!({"type": "nic", "network": network, "name": "eth0"}));
    }
    preseed.profiles.push(object(json!({"name": "default", "config": profile["config"], "devices": devices})));
    Ok(preseed)
}

/// Applies all of it, or takes everything back and tells the first error.
async fn apply(socket: &Path, preseed: Preseed) -> Result<(), String> {
    let mut done = Vec::new();
    let result = steps(socket, preseed, &mut done).await;
    let Err(cause) = result else { return Ok(()) };
    let mut message = cause.to_string();
    for undo in done.into_iter().rev() {
        let undone = match undo {
            Undo::Delete(url) => request(socket, Method::DELETE, &url, None).await,
            Undo::Restore(url, old) => request(socket, Method::PUT, &url, Some(&old)).await,
        };
        if let Err(error) = undone {
            message.push_str(&format!("; and going back failed: {error}"));
        }
    }
    Err(message)
}

async fn steps(socket: &Path, preseed: Preseed, done: &mut Vec<Undo>) -> Result<(), local::Error> {
    if !preseed.projects.is_empty() {
        let message = "projects are not supported by this version: leave \"projects\" out".to_owned();
        return Err(local::Error::Refused { status: 400, message });
    }
    if !preseed.config.is_empty() {
        let old = request(socket, Method::GET, "/1.0", None).await?;
        done.push(Undo::Restore("/1.0".to_owned(), json!({"config": old["config"]})));
        request(socket, Method::PATCH, "/1.0", Some(&json!({"config": preseed.config}))).await?;
    }
    for (kind, list) in
        [("networks", preseed.networks), ("storage-pools", preseed.storage_pools), ("profiles", preseed.profiles)]
    {
        for object in list {
            create_or_change(socket, kind, object, done).await?;
        }
    }
    Ok(())
}

async fn create_or_change(
    socket: &Path,
    kind: &str,
    object: Map<String, Value>,
    done: &mut Vec<Undo>,
) -> Result<(), local::Error> {
    if let Some(key) = object.keys().find(|key| !ITEM.contains(&key.as_str())) {
        let message = format!("{kind}: the field {key:?} is not known; an item has {}", ITEM[..6].join(", "));
        return Err(local::Error::Refused { status: 400, message });
    }
    let name = object.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let url = format!("/1.0/{kind}/{name}");
    let old = match request(socket, Method::GET, &url, None).await {
        Ok(old) if !name.is_empty() => old,
        Ok(_) | Err(local::Error::Refused { status: 404, .. }) => {
            request(socket, Method::POST, &format!("/1.0/{kind}"), Some(&Value::Object(object))).await?;
            done.push(Undo::Delete(url));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    for fixed in ["driver", "type"] {
        let word = |object: &Map<String, Value>| object.get(fixed).and_then(Value::as_str).map(str::to_owned);
        let (wanted, found) = (word(&object), old.as_object().and_then(word));
        if let (Some(wanted), Some(found)) = (wanted, found)
            && wanted != found
        {
            let message =
                format!("{kind}: {name:?} is there with the {fixed} {found:?}, not {wanted:?}: give it another name");
            return Err(local::Error::Refused { status: 400, message });
        }
    }
    let mut new = old.clone();
    if let Some(new) = new.as_object_mut() {
        for (key, value) in object {
            let merged = match (new.get_mut(&key), value) {
                (Some(Value::Object(map)), Value::Object(changes)) => {
                    map.extend(changes);
                    continue;
                }
                (_, value) => value,
            };
            new.insert(key, merged);
        }
    }
    if new != old {
        request(socket, Method::PUT, &url, Some(&new)).await?;
        done.push(Undo::Restore(url, old));
    }
    Ok(())
}

async fn dump(socket: &Path) -> Result<(), String> {
    let get = async |path: &str| request(socket, Method::GET, path, None).await.map_err(|e| e.to_string());
    let list = |value: Value, keys: &[&str]| -> Vec<Map<String, Value>> {
        let objects = value.as_array().cloned().unwrap_or_default().into_iter();
        objects
            .map(object)
            .filter(|object| object.get("managed").is_none_or(|managed| managed == true))
            .map(|object| object.into_iter().filter(|(key, _)| keys.contains(&key.as_str())).collect())
            .collect()
    };
    let mut config = object(get("/1.0").await?["config"].clone());
    // Its value is not known, only that there is one.
    config.remove("core.trust_password");
    let preseed = Preseed {
        config,
        networks: list(get("/1.0/networks?recursion=1").await?, &["name", "type", "description", "config"]),
        storage_pools: list(get("/1.0/storage-pools?recursion=1").await?, &["name", "driver", "description", "config"]),
        profiles: list(get("/1.0/profiles?recursion=1").await?, &["name", "description", "config", "devices"]),
        projects: Vec::new(),
    };
    println!("{}", serde_norway::to_string(&preseed).map_err(|e| e.to_string())?.trim_end());
    Ok(())
}

/// For [`crate::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(text: &str) {
    let _ = parse(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_of_a_preseed_become_texts() {
        let preseed = parse("config:\n  core.https_address: 1.2.3.4\n  core.shutdown_timeout: 3\nprofiles:\n- name: p\n  config:\n    security.nesting: true\n").unwrap();
        assert_eq!(preseed.config["core.shutdown_timeout"], "3");
        assert_eq!(preseed.profiles[0]["config"]["security.nesting"], "true");
    }

    #[test]
    fn an_unknown_section_is_named() {
        assert!(parse("clusters: []").unwrap_err().contains("clusters"));
        assert!(parse("").is_ok());
    }
}
