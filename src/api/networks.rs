//! `/1.0/networks`: managed bridges, and the host's own interfaces read-only.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::call::{Call, blocking};
use super::error::Error;
use super::response::{self, Response};
use super::wire;
use crate::db::{Model, Network, Phase};
use crate::device::Device;
use crate::names::{DeviceName, NetworkName, ProjectName};
use crate::network::{self, BridgeSpec, HostInterface};
use crate::profile::expand_instance;

type Result<T> = std::result::Result<T, Error>;

/// Whether some of `devices` is connected to the interface `name`.
fn uses(devices: &wire::Devices, name: &str) -> bool {
    devices.iter().any(|(device, properties)| {
        let Ok(device) = DeviceName::new(device.clone()) else { return false };
        match Device::parse(&device, properties) {
            Ok(Device::Nic(nic)) => nic.kind.parent() == Some(name),
            Ok(
                Device::Root(_)
                | Device::Disk(_)
                | Device::Node(_)
                | Device::Hotplug(_)
                | Device::Proxy(_)
                | Device::None,
            )
            | Err(_) => false,
        }
    })
}

fn used_by(model: &Model, name: &str) -> Vec<String> {
    // With what their profiles give them, as it is then that instance which loses its network.
    let instances = model.instances.values().filter(|i| uses(&expand_instance(model, i).devices, name));
    let profiles = model.profiles.values().filter(|p| uses(&p.devices, name));
    profiles
        .map(|p| format!("/1.0/profiles/{}", p.name.in_url()))
        .chain(instances.map(|i| format!("/1.0/instances/{}", i.key.name)))
        .collect()
}

fn managed(model: &Model, network: &Network) -> wire::Network {
    wire::Network {
        config: network.config.clone(),
        description: network.description.clone(),
        name: network.name.to_string(),
        kind: network.kind.clone(),
        used_by: used_by(model, network.name.as_str()),
        managed: true,
        status: if network.phase == Phase::Ready { "Created" } else { "Errored" }.to_owned(),
        locations: Some(vec!["none".to_owned()]),
    }
}

fn unmanaged(model: &Model, interface: &HostInterface) -> wire::Network {
    wire::Network {
        name: interface.name.clone(),
        kind: interface.kind.to_owned(),
        used_by: used_by(model, &interface.name),
        ..wire::Network::default()
    }
}

/// `GET /1.0/networks`.
pub async fn list(call: Call) -> Result<Response> {
    let model = call.app.db.model();
    let mut all: BTreeMap<String, wire::Network> = BTreeMap::new();
    for interface in blocking(network::host_interfaces).await? {
        all.insert(interface.name.clone(), unmanaged(&model, &interface));
    }
    for network in model.networks.values() {
        all.insert(network.name.to_string(), managed(&model, network));
    }
    call.list(all.values(), |network| format!("/1.0/networks/{}", network.name), |network| (*network).clone())
}

fn find(call: &Call) -> Result<(Arc<Model>, Arc<Network>)> {
    let model = call.app.db.model();
    let name = call.named("name", "Network", NetworkName::new)?;
    let network = model.network(&ProjectName::default(), &name).cloned().ok_or(Error::NotFound("Network"))?;
    Ok((model, network))
}

/// The modifiable part, for the ETag.
fn modifiable(network: &Network) -> (&NetworkName, &String, &String, &wire::Config) {
    (&network.name, &network.kind, &network.description, &network.config)
}

/// `GET /1.0/networks/<name>`.
pub async fn get(call: Call) -> Result<Response> {
    match find(&call) {
        Ok((model, network)) => {
            let etag = response::etag(modifiable(&network));
            Ok(response::tagged(managed(&model, &network), &etag))
        }
        Err(Error::NotFound(_)) => {
            let name = call.param("name").to_owned();
            let interface =
                blocking(move || network::host_interface(&name)).await?.ok_or(Error::NotFound("Network"))?;
            let etag = response::etag((&interface.name, interface.kind));
            Ok(response::tagged(unmanaged(&call.app.db.model(), &interface), &etag))
        }
        Err(error) => Err(error),
    }
}

/// `POST /1.0/networks`.
pub async fn create(mut call: Call) -> Result<Response> {
    let body: wire::Network = call.json().await?;
    let name = NetworkName::new(body.name)?;
    if !matches!(body.kind.as_str(), "" | "bridge") {
        let reason = format!("{:?} is not supported by this version; use \"bridge\"", body.kind);
        return Err(Error::Field { name: "type", reason });
    }
    let mut config = body.config;
    let model = call.app.db.model();
    if model.networks.contains_key(&(ProjectName::default(), name.clone())) {
        return Err(Error::Exists { what: "Network", name: name.to_string() });
    }
    let taken = name.clone();
    if blocking(move || network::interface_exists(taken.as_str())).await? {
        return Err(Error::Exists { what: "Network interface", name: name.to_string() });
    }
    network::fill_new(&mut config, model.networks.values().map(|network| &network.config))?;
    let spec = BridgeSpec::parse(&name, &config)?;
    let mut record = Network {
        project: ProjectName::default(),
        name: name.clone(),
        phase: Phase::Creating,
        kind: "bridge".to_owned(),
        description: body.description,
        config,
    };
    let row = record.clone();
    let db = &call.app.db;
    db.write(move |tx| {
        if tx.model().network(&row.project, &row.name).is_some() {
            return Err(Error::Exists { what: "Network", name: row.name.to_string() });
        }
        Ok(tx.put_network(row)?)
    })
    .await?;
    if let Err(error) = call.app.instances.context().networks.up(&spec).await {
        db.write(move |tx| Ok::<_, Error>(tx.delete_network(&record.project, &record.name)?)).await?;
        return Err(error.into());
    }
    record.phase = Phase::Ready;
    db.write(move |tx| Ok::<_, Error>(tx.put_network(record)?)).await?;
    let url = format!("/1.0/networks/{name}");
    call.lifecycle("network-created", &url);
    Ok(response::created(&url))
}

/// Changes a network on the host and then in the database. When it cannot be brought up as wanted it goes back to what it
/// was; so it does at the next start, should the daemon end in between.
async fn update(call: Call, change: impl FnOnce(&Network) -> Network) -> Result<Response> {
    // One change at a time: going back must not bring a network back that was deleted meanwhile.
    let _guard = call.app.config_lock.lock().await;
    let (model, old) = find(&call)?;
    call.if_match().check(modifiable(&old))?;
    let mut new = change(&old);
    let others = model.networks.values().filter(|network| network.name != old.name).map(|network| &network.config);
    network::fill_auto(&mut new.config, others)?;
    let (was, wanted) = (BridgeSpec::parse(&old.name, &old.config)?, BridgeSpec::parse(&new.name, &new.config)?);
    let networks = &call.app.instances.context().networks;
    let changed = async {
        networks.up(&wanted).await?;
        call.app
            .db
            .write(move |tx| {
                if tx.model().network(&new.project, &new.name).is_none() {
                    return Err(Error::NotFound("Network"));
                }
                Ok(tx.put_network(new)?)
            })
            .await
    };
    if let Err(error) = changed.await {
        if let Err(error) = networks.up(&was).await {
            tracing::error!(network = %old.name, %error, "going back to the old configuration");
        }
        return Err(error);
    }
    call.lifecycle("network-updated", &format!("/1.0/networks/{}", old.name));
    Ok(response::empty())
}

/// `PUT /1.0/networks/<name>`: replaces configuration and description.
pub async fn put(mut call: Call) -> Result<Response> {
    let body: wire::Network = call.json().await?;
    update(call, |old| Network { description: body.description, config: body.config, ..old.clone() }).await
}

/// `PATCH /1.0/networks/<name>`: only what the body names.
pub async fn patch(mut call: Call) -> Result<Response> {
    let (part, named): (wire::Network, _) = call.json_part().await?;
    update(call, |old| {
        let mut new = old.clone();
        new.config.extend(part.config);
        if named.has("description") {
            new.description = part.description;
        }
        new
    })
    .await
}

/// `DELETE /1.0/networks/<name>`.
pub async fn delete(call: Call) -> Result<Response> {
    let _guard = call.app.config_lock.lock().await;
    let (_, network) = find(&call)?;
    let mut record = (*network).clone();
    record.phase = Phase::Deleting;
    let db = &call.app.db;
    db.write(move |tx| {
        if let Some(by) = used_by(tx.model(), record.name.as_str()).into_iter().next() {
            return Err(Error::InUse { what: "Network", name: record.name.to_string(), by });
        }
        Ok(tx.put_network(record)?)
    })
    .await?;
    call.app.instances.context().networks.remove(&network.name).await?;
    let (project, name) = (network.project.clone(), network.name.clone());
    db.write(move |tx| Ok::<_, Error>(tx.delete_network(&project, &name)?)).await?;
    call.lifecycle("network-deleted", &format!("/1.0/networks/{}", network.name));
    Ok(response::empty())
}

/// `GET /1.0/networks/<name>/leases`.
pub async fn leases(call: Call) -> Result<Response> {
    let (_, network) = find(&call)?;
    let spec = BridgeSpec::parse(&network.name, &network.config)?;
    Ok(response::sync(call.app.instances.context().networks.leases(&spec).await?))
}

/// `GET /1.0/networks/<name>/state`.
pub async fn state(call: Call) -> Result<Response> {
    let name = call.param("name").to_owned();
    let checked = name.clone();
    if !blocking(move || network::interface_exists(&checked)).await? {
        return Err(Error::NotFound("Network"));
    }
    Ok(response::sync(blocking(move || network::state::of_host(&name)).await?))
}
