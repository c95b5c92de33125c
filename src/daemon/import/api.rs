//! A running LXD, asked by its API. Questions only.

use std::path::Path;

use http::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::local::{self, request};
use super::found::{Acl, Forward, Found, Image, Instance, Network, Pool, Profile, Project, Source, Volume, Zone};
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
        of_networks(socket, &name, &server["api_extensions"], &mut found).await?;
        of_project(socket, &name, &mut found).await?;
    }
    Ok(found)
}

fn has_own(found: &Found, project: &str, feature: &str) -> bool {
    let config = found.projects.iter().find(|other| other.name == project).map(|found| &found.config);
    let value = config.and_then(|config| config.get(feature));
    project == "default" || value.is_some_and(|value| crate::config::parse_bool(value) == Some(true))
}

/// The networks of one project, and what belongs to them, as far as that LXD knows such things (`extensions`).
async fn of_networks(socket: &Path, project: &str, extensions: &Value, found: &mut Found) -> Result<(), String> {
    if !has_own(found, project, "features.networks") {
        return Ok(());
    }
    let knows = |name: &str| extensions.as_array().is_some_and(|all| all.iter().any(|one| one == name));
    let ask = async |path: &str| list(socket, &format!("/1.0/{path}?recursion=1&project={}", escaped(project))).await;
    for network in ask("networks").await?.into_iter().filter(|network| network["managed"] == true) {
        let (name, kind) = (text(&network["name"]), text(&network["type"]));
        // Others have none, and refuse the question.
        if knows("network_forward") && matches!(kind.as_str(), "bridge" | "ovn") {
            for forward in ask(&format!("networks/{}/forwards", escaped(&name))).await? {
                found.forwards.push(Forward {
                    project: project.to_owned(),
                    network: name.clone(),
                    listen: text(&forward["listen_address"]),
                    config: config(&forward["config"]),
                    ports: parsed(&forward["ports"], "ports of a forward")?,
                });
            }
        }
        found.networks.push(Network { project: project.to_owned(), name, kind, config: config(&network["config"]) });
    }
    let acls = if knows("network_acl") { ask("network-acls").await? } else { Vec::new() };
    for acl in acls {
        found.acls.push(Acl {
            project: project.to_owned(),
            name: text(&acl["name"]),
            config: config(&acl["config"]),
            ingress: parsed(&acl["ingress"], "rules of an ACL")?,
            egress: parsed(&acl["egress"], "rules of an ACL")?,
        });
    }
    let zones = if knows("network_dns") { ask("network-zones").await? } else { Vec::new() };
    found.zones.extend(zones.iter().map(|zone| Zone { project: project.to_owned(), name: text(&zone["name"]) }));
    Ok(())
}

/// A list of what the API has types for; nothing is an empty one.
pub(super) fn parsed<T: DeserializeOwned>(value: &Value, what: &str) -> Result<Vec<T>, String> {
    let list: Option<Vec<T>> = serde_json::from_value(value.clone()).map_err(|e| format!("{what}: {e}"))?;
    Ok(list.unwrap_or_default())
}

/// What lies in one project. One that shares with `default` is shown what that has, which is told once.
async fn of_project(socket: &Path, project: &str, found: &mut Found) -> Result<(), String> {
    let ask = async |path: &str| {
        let mark = if path.contains('?') { '&' } else { '?' };
        list(socket, &format!("{path}{mark}project={}", escaped(project))).await
    };
    if has_own(found, project, "features.profiles") {
        for profile in ask("/1.0/profiles?recursion=1").await? {
            found.profiles.push(self::profile(project, &profile));
        }
    }
    if has_own(found, project, "features.images") {
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
    if has_own(found, project, "features.storage.volumes") {
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
