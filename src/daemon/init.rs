//! `init`: sets a daemon up, by itself or from a preseed; `--dump` prints what a preseed would need.

use std::io::{BufRead, Read, Write};
use std::path::Path;

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::admin::{InitArguments, print};
use super::dialogue::{Dialogue, some};
use super::local::{self, request};
use crate::names::ProjectName;
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
        let mut dialogue = Dialogue::new(std::io::stdin().lock(), std::io::stderr());
        asked(&mut dialogue, &socket).await?
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
    for list in [&mut preseed.networks, &mut preseed.storage_pools, &mut preseed.profiles, &mut preseed.projects] {
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

/// What a daemon has already, before it is set up.
struct Found {
    server: Value,
    /// Names of its pools.
    pools: Vec<String>,
    /// Its first managed network.
    network: Option<String>,
    profile: Value,
}

impl Found {
    async fn at(socket: &Path) -> Result<Self, String> {
        let get = async |path: &str| request(socket, Method::GET, path, None).await.map_err(|e| e.to_string());
        let pools = get("/1.0/storage-pools?recursion=1").await?;
        let networks = get("/1.0/networks?recursion=1").await?;
        let names = |list: &Value, fits: fn(&Value) -> bool| -> Vec<String> {
            let fitting = list.as_array().into_iter().flatten().filter(|object| fits(object));
            fitting.filter_map(|object| object["name"].as_str().map(str::to_owned)).collect()
        };
        Ok(Self {
            server: get("/1.0").await?,
            pools: names(&pools, |_| true),
            network: names(&networks, |network| network["managed"] == true).into_iter().next(),
            profile: get("/1.0/profiles/default").await?,
        })
    }

    /// The storage drivers that work here, the best one first.
    fn drivers(&self) -> Vec<String> {
        let all = self.server.pointer("/environment/storage_supported_drivers").and_then(Value::as_array);
        let mut names: Vec<String> =
            all.into_iter().flatten().filter_map(|driver| driver["Name"].as_str().map(str::to_owned)).collect();
        names.sort_by_key(|name| name != "overlay");
        names
    }

    /// The default profile, with a root and a nic where it has none.
    fn profile(&self, pool: Option<&str>, network: Option<&str>) -> Map<String, Value> {
        let mut devices = object(self.profile["devices"].clone());
        let has = |devices: &Map<String, Value>, kind: &str| devices.values().any(|device| device["type"] == kind);
        if let Some(pool) = pool.filter(|_| !has(&devices, "disk")) {
            devices.insert("root".to_owned(), json!({"type": "disk", "path": "/", "pool": pool}));
        }
        if let Some(network) = network.filter(|_| !has(&devices, "nic")) {
            devices.insert("eth0".to_owned(), json!({"type": "nic", "network": network, "name": "eth0"}));
        }
        object(json!({"name": "default", "config": self.profile["config"], "devices": devices}))
    }
}

/// An address and a port as one text.
fn listener(address: &str, port: u16) -> String {
    let bare = address.contains(':') && !address.starts_with('[');
    if bare { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// What somebody answers.
async fn asked<I: BufRead, O: Write>(dialogue: &mut Dialogue<I, O>, socket: &Path) -> Result<Preseed, String> {
    let found = Found::at(socket).await?;
    let mut preseed = Preseed::default();
    let mut pool = found.pools.first().cloned();
    if dialogue.yes("Make a storage pool?", pool.is_none())? {
        let name = dialogue.ask("Name of the pool", "default", some)?;
        let drivers = found.drivers();
        let best = drivers.first().cloned().unwrap_or_default();
        let driver = dialogue.one_of("What it lies on", &drivers, &best)?;
        preseed.storage_pools.push(object(json!({"name": name, "driver": driver})));
        pool = Some(name);
    }
    let mut network = found.network.clone();
    if dialogue.yes("Make a bridge for the instances' network?", network.is_none())? {
        let name = dialogue.ask("Name of the bridge", BRIDGE, some)?;
        let mut config = Map::new();
        for (key, family) in [("ipv4.address", "IPv4"), ("ipv6.address", "IPv6")] {
            let question = format!("Its {family} address and prefix, or auto, or none");
            config.insert(key.to_owned(), dialogue.ask(&question, "auto", some)?.into());
        }
        preseed.networks.push(object(json!({"name": name, "type": "bridge", "config": config})));
        network = Some(name);
    }
    let isolated = dialogue.yes("Give each instance user ids of its own, which no other one has?", true)?;
    preseed.config.insert("core.idmap_isolated".to_owned(), isolated.to_string().into());
    if dialogue.yes("Let clients on other hosts in, over HTTPS?", false)? {
        let address = dialogue.ask("Address to listen on", "[::]", some)?;
        let port = dialogue.ask("Port", "8443", |port| {
            port.parse().map_err(|_| "Please answer with a port, 1 to 65535.".to_owned())
        })?;
        preseed.config.insert("core.https_address".to_owned(), listener(&address, port).into());
        if dialogue.yes("Set a password by which clients can be added? It is shown while it is typed", false)? {
            let password = dialogue.ask("Password", "", some)?;
            preseed.config.insert("core.trust_password".to_owned(), password.into());
        }
    }
    preseed.profiles.push(found.profile(pool.as_deref(), network.as_deref()));
    Ok(preseed)
}

async fn automatic(arguments: &InitArguments, socket: &Path) -> Result<Preseed, String> {
    let found = Found::at(socket).await?;
    let server = &found.server;
    let mut preseed = Preseed::default();
    if let Some(address) = &arguments.network_address {
        let https = listener(address, arguments.network_port);
        preseed.config.insert("core.https_address".to_owned(), https.into());
    }
    if server.pointer("/config/core.idmap_isolated").is_none() {
        preseed.config.insert("core.idmap_isolated".to_owned(), "true".into());
    }
    if let Some(password) = &arguments.trust_password {
        preseed.config.insert("core.trust_password".to_owned(), password.clone().into());
    }
    let device = arguments.storage_create_device.as_ref();
    let usual = || if device.is_some() { Some("btrfs".to_owned()) } else { found.drivers().into_iter().next() };
    let driver = arguments.storage_backend.clone().or_else(usual);
    if !found.pools.contains(&arguments.storage_pool) {
        let driver = driver.unwrap_or_else(|| "dir".to_owned());
        let mut pool = json!({"name": arguments.storage_pool, "driver": driver});
        if let Some(device) = device {
            pool["config"] = json!({"source": device});
        }
        if let Some(size) = arguments.storage_create_loop {
            pool["config"] = json!({"size": format!("{size}GiB")});
        }
        preseed.storage_pools.push(object(pool));
    }
    let network = found.network.clone().unwrap_or_else(|| {
        preseed.networks.push(object(json!({"name": BRIDGE, "type": "bridge"})));
        BRIDGE.to_owned()
    });
    preseed.profiles.push(found.profile(Some(&arguments.storage_pool), Some(&network)));
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
    if !preseed.config.is_empty() {
        let old = request(socket, Method::GET, "/1.0", None).await?;
        done.push(Undo::Restore("/1.0".to_owned(), json!({"config": old["config"]})));
        request(socket, Method::PATCH, "/1.0", Some(&json!({"config": preseed.config}))).await?;
    }
    // Projects first: the others may name one.
    for (kind, list) in [
        ("projects", preseed.projects),
        ("networks", preseed.networks),
        ("storage-pools", preseed.storage_pools),
        ("profiles", preseed.profiles),
    ] {
        for object in list {
            create_or_change(socket, kind, object, done).await?;
        }
    }
    Ok(())
}

async fn create_or_change(
    socket: &Path,
    kind: &str,
    mut object: Map<String, Value>,
    done: &mut Vec<Undo>,
) -> Result<(), local::Error> {
    if let Some(key) = object.keys().find(|key| !ITEM.contains(&key.as_str())) {
        let message = format!("{kind}: the field {key:?} is not known; an item has {}", ITEM[..6].join(", "));
        return Err(local::Error::Refused { status: 400, message });
    }
    let name = object.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let project = object.remove("project").and_then(|project| project.as_str().map(str::to_owned)).unwrap_or_default();
    let project = match project.as_str() {
        "" => ProjectName::default(),
        name => ProjectName::new(name)
            .map_err(|error| local::Error::Refused { status: 400, message: format!("{kind}: {error}") })?,
    };
    let url = project.url(format_args!("/1.0/{kind}/{name}"));
    let old = match request(socket, Method::GET, &url, None).await {
        Ok(old) if !name.is_empty() => old,
        Ok(_) | Err(local::Error::Refused { status: 404, .. }) => {
            let list = project.url(format_args!("/1.0/{kind}"));
            request(socket, Method::POST, &list, Some(&Value::Object(object))).await?;
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
        projects: list(get("/1.0/projects?recursion=1").await?, &["name", "description", "config"]),
    };
    print(&format!("{}\n", serde_norway::to_string(&preseed).map_err(|e| e.to_string())?.trim_end()))?;
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
