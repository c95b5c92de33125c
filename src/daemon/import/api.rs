//! A running LXD, asked by its API. Questions only.

use std::path::Path;

use http::Method;
use serde_json::Value;

use super::super::local::{self, request};
use super::found::{Found, Image, Instance, Network, Pool, Profile, Project, Source, Volume};
use crate::api::wire::{Config, Devices};

pub(super) async fn read(socket: &Path) -> Result<Found, String> {
    let mut found = Found::new(Source::Api);
    let server = get(socket, "/1.0").await?;
    found.config = config(&server["config"]);
    if server.pointer("/environment/server_clustered") == Some(&Value::Bool(true)) {
        found.members = list(socket, "/1.0/cluster/members").await?.len();
    }
    found.certificates = list(socket, "/1.0/certificates").await?.len();
    for project in list(socket, "/1.0/projects?recursion=1").await? {
        found.projects.push(Project { name: text(&project["name"]), config: config(&project["config"]) });
    }
    for pool in list(socket, "/1.0/storage-pools?recursion=1").await? {
        found.pools.push(self::pool(&pool));
    }
    let names: Vec<String> = found.projects.iter().map(|project| project.name.clone()).collect();
    for name in names {
        of_project(socket, &name, &mut found).await?;
    }
    Ok(found)
}

/// What lies in one project. One that shares with `default` is shown what that has, which is told once.
async fn of_project(socket: &Path, project: &str, found: &mut Found) -> Result<(), String> {
    let ask = async |path: &str| {
        let mark = if path.contains('?') { '&' } else { '?' };
        list(socket, &format!("{path}{mark}project={}", escaped(project))).await
    };
    let features = found.projects.iter().find(|other| other.name == project).map(|found| found.config.clone());
    let owns = |feature: &str| {
        let value = features.as_ref().and_then(|config| config.get(feature));
        project == "default" || value.is_some_and(|value| crate::config::parse_bool(value) == Some(true))
    };
    if owns("features.networks") {
        for network in ask("/1.0/networks?recursion=1").await?.into_iter().filter(|network| network["managed"] == true)
        {
            found.networks.push(Network {
                project: project.to_owned(),
                name: text(&network["name"]),
                kind: text(&network["type"]),
                config: config(&network["config"]),
            });
        }
    }
    if owns("features.profiles") {
        for profile in ask("/1.0/profiles?recursion=1").await? {
            found.profiles.push(self::profile(project, &profile));
        }
    }
    if owns("features.images") {
        for image in ask("/1.0/images?recursion=1").await? {
            let aliases = image["aliases"].as_array().into_iter().flatten().map(|alias| text(&alias["name"])).collect();
            found.images.push(Image {
                project: project.to_owned(),
                fingerprint: text(&image["fingerprint"]),
                aliases,
                is_machine: image["type"] == "virtual-machine",
            });
        }
    }
    if owns("features.storage.volumes") {
        let pools: Vec<String> = found.pools.iter().map(|pool| pool.name.clone()).collect();
        for pool in pools {
            for volume in ask(&format!("/1.0/storage-pools/{}/volumes/custom?recursion=1", escaped(&pool))).await? {
                // Snapshots are listed beside their volumes.
                let name = text(&volume["name"]);
                if !name.contains('/') {
                    let (is_block, config) = (volume["content_type"] == "block", config(&volume["config"]));
                    found.volumes.push(Volume {
                        project: project.to_owned(),
                        pool: pool.clone(),
                        name,
                        is_block,
                        config,
                    });
                }
            }
        }
    }
    for instance in ask("/1.0/instances?recursion=1").await? {
        let name = text(&instance["name"]);
        let snapshots = ask(&format!("/1.0/instances/{}/snapshots", escaped(&name))).await?.len();
        found.instances.push(self::instance(project, &instance, snapshots));
    }
    Ok(())
}

/// An instance as the API shows it.
pub(super) fn instance(project: &str, shown: &Value, snapshots: usize) -> Instance {
    Instance {
        project: project.to_owned(),
        name: text(&shown["name"]),
        is_machine: shown["type"] == "virtual-machine",
        is_stateful: shown["stateful"] == true,
        is_running: shown["status"] != "Stopped",
        config: config(&shown["config"]),
        devices: devices(&shown["devices"]),
        expanded_devices: devices(&shown["expanded_devices"]),
        snapshots,
    }
}

/// A profile as the API shows it.
pub(super) fn profile(project: &str, shown: &Value) -> Profile {
    Profile {
        project: project.to_owned(),
        name: text(&shown["name"]),
        config: config(&shown["config"]),
        devices: devices(&shown["devices"]),
    }
}

/// A pool as the API shows it.
pub(super) fn pool(shown: &Value) -> Pool {
    Pool { name: text(&shown["name"]), driver: text(&shown["driver"]), config: config(&shown["config"]) }
}

fn escaped(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
}

async fn get(socket: &Path, path: &str) -> Result<Value, String> {
    request(socket, Method::GET, path, None).await.map_err(|error| match error {
        local::Error::Refused { message, .. } => format!("LXD does not answer {path}: {message}"),
        error => format!("LXD runs, but cannot be asked: {error}"),
    })
}

async fn list(socket: &Path, path: &str) -> Result<Vec<Value>, String> {
    match get(socket, path).await? {
        Value::Array(list) => Ok(list),
        _ => Ok(Vec::new()),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn config(value: &Value) -> Config {
    let pairs = value.as_object().into_iter().flatten();
    // The server's own has a boolean for a password that is set.
    pairs.map(|(key, value)| (key.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned))).collect()
}

fn devices(value: &Value) -> Devices {
    value.as_object().into_iter().flatten().map(|(name, device)| (name.clone(), config(device))).collect()
}
