//! `/1.0/networks`: managed bridges, macvlan and physical networks, and the host's own interfaces read-only.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::call::{Call, blocking};
use super::error::{Error, Users};
use super::response::{self, Response};
use super::wire;
use crate::db::{Feature, Model, Network, Phase};
use crate::device::{Device, NicType};
use crate::instance::{Context, check_network_config, network_config, network_spec};
use crate::names::{DeviceName, NetworkName, ProjectName, Projects};
use crate::network::{self, BridgeSpec, HostInterface, NetworkKind, Overlap, Spec, UplinkSpec};
use crate::profile::expand_instance;
use crate::project;

type Result<T> = std::result::Result<T, Error>;

/// Whether some of `devices` of `project` is connected to the interface `name`.
fn uses(model: &Model, project: &ProjectName, devices: &wire::Devices, name: &str) -> bool {
    devices.iter().any(|(device, properties)| {
        let Ok(device) = DeviceName::new(device.clone()) else { return false };
        match Device::parse(&device, properties) {
            // All managed networks lie in `default`.
            Ok(Device::Nic(nic)) if matches!(nic.kind, NicType::Network(_)) => {
                nic.kind.parent() == Some(name) && model.holder(project, Feature::Networks).is_default()
            }
            Ok(Device::Nic(nic)) => nic.kind.parent() == Some(name),
            Ok(
                Device::Root(_)
                | Device::Disk(_)
                | Device::Node(_)
                | Device::Matched(_)
                | Device::Proxy(_)
                | Device::None,
            )
            | Err(_) => false,
        }
    })
}

fn used_by(model: &Model, name: &str) -> Vec<String> {
    // With what their profiles give them, as it is then that instance which loses its network.
    let uses = |project, devices: &wire::Devices| uses(model, project, devices, name);
    let instances = model.instances.values().filter(|i| uses(&i.key.project, &expand_instance(model, i).devices));
    let profiles = model.profiles.values().filter(|p| uses(&p.project, &p.devices));
    profiles
        .map(|p| p.project.url(format_args!("/1.0/profiles/{}", p.name.in_url())))
        .chain(instances.map(|i| i.key.url()))
        .collect()
}

fn managed(call: &Call, model: &Model, network: &Network) -> wire::Network {
    wire::Network {
        config: network_config(network),
        description: network.description.clone(),
        name: network.name.to_string(),
        kind: network.kind.clone(),
        used_by: call.visible(used_by(model, network.name.as_str())),
        managed: true,
        status: if network.phase == Phase::Ready { "Created" } else { "Errored" }.to_owned(),
        locations: Some(vec!["none".to_owned()]),
    }
}

fn unmanaged(call: &Call, model: &Model, interface: &HostInterface) -> wire::Network {
    wire::Network {
        name: interface.name.clone(),
        kind: interface.kind.to_owned(),
        used_by: call.visible(used_by(model, &interface.name)),
        ..wire::Network::default()
    }
}

/// `GET /1.0/networks`.
pub async fn list(call: Call) -> Result<Response> {
    let (model, project) = (call.app.db.model(), call.scope_of(Feature::Networks)?);
    let mut all: BTreeMap<String, wire::Network> = BTreeMap::new();
    // The host's own are seen where those of `default` are.
    if project.holds(&ProjectName::default()) {
        for interface in blocking(network::host_interfaces).await? {
            all.insert(interface.name.clone(), unmanaged(&call, &model, &interface));
        }
    }
    for network in model.networks.values().filter(|network| project.holds(&network.project)) {
        all.insert(network.name.to_string(), managed(&call, &model, network));
    }
    if let Projects::Only(these) = call.scope()? {
        all.retain(|name, _| these.iter().any(|project| project::sees_network(&model, project, name)));
    }
    call.list(all.values(), |network| format!("/1.0/networks/{}", network.name), |network| (*network).clone())
}

/// The project of a call that is about a network which that project sees.
pub(super) fn seen(call: &Call, name: &str) -> Result<ProjectName> {
    let project = call.project()?;
    let seen = project::sees_network(&call.app.db.model(), &project, name);
    if seen { Ok(project) } else { Err(Error::NotFound("Network")) }
}

/// The same about an interface of the host, which those see who see the networks of `default`.
fn interface_seen(call: &Call, name: &str) -> Result<()> {
    let project = seen(call, name)?;
    let seen = call.app.db.model().holder(&project, Feature::Networks).is_default();
    if seen { Ok(()) } else { Err(Error::NotFound("Network")) }
}

fn find(call: &Call) -> Result<(Arc<Model>, Arc<Network>)> {
    let model = call.app.db.model();
    let name = call.named("name", "Network", NetworkName::new)?;
    let project = seen(call, name.as_str())?;
    let network = model.network(&project, &name).cloned().ok_or(Error::NotFound("Network"))?;
    Ok((model, network))
}

/// The modifiable part, for the ETag.
fn modifiable(network: &Network) -> (&NetworkName, &String, &String, wire::Config) {
    (&network.name, &network.kind, &network.description, network_config(network))
}

/// `GET /1.0/networks/<name>`.
pub async fn get(call: Call) -> Result<Response> {
    match find(&call) {
        Ok((model, network)) => {
            let etag = response::etag(modifiable(&network));
            Ok(response::tagged(managed(&call, &model, &network), &etag))
        }
        Err(Error::NotFound(_)) => {
            let name = call.param("name").to_owned();
            interface_seen(&call, &name)?;
            let interface =
                blocking(move || network::host_interface(&name)).await?.ok_or(Error::NotFound("Network"))?;
            let etag = response::etag((&interface.name, interface.kind));
            Ok(response::tagged(unmanaged(&call, &call.app.db.model(), &interface), &etag))
        }
        Err(error) => Err(error),
    }
}

/// Refuses what of a network's configuration does not fit this host or the other networks. Blocking parts run aside.
async fn check_host(model: &Model, spec: &Spec, old: Option<&Spec>) -> Result<()> {
    match spec {
        Spec::Bridge(spec) => {
            let old = old.and_then(Spec::bridge);
            let address = |spec: &BridgeSpec| {
                (spec.ipv4.as_ref().map(|own| own.address), spec.ipv6.as_ref().map(|own| own.address))
            };
            let moved = old.is_none_or(|old| address(old) != address(spec));
            let asked = (**spec).clone();
            blocking(move || {
                network::check_external(&asked)?;
                let overlaps = if moved { network::overlaps(&asked)? } else { Vec::new() };
                match overlaps.into_iter().find(|overlap| overlap.is_certain) {
                    None => Ok(()),
                    Some(Overlap { key, what, .. }) => Err(network::Error::Invalid {
                        reason: format!("Invalid value for network \"{}\" option \"{key}\": {what}", asked.name),
                    }),
                }
            })
            .await
        }
        // While a nic is the parent, the host does not have it.
        Spec::Uplink(spec) if old.is_some_and(|old| matches!(old, Spec::Uplink(old) if old.parent == spec.parent)) => {
            Ok(())
        }
        Spec::Uplink(spec) => {
            let parent = spec.parent.clone();
            if !blocking(move || network::interface_exists(&parent)).await? {
                let reason = format!("Parent interface {:?} not found on this host", spec.parent);
                return Err(network::Error::Invalid { reason }.into());
            }
            let same = |other: &UplinkSpec| {
                other.physical && spec.physical && (&other.parent, other.vlan) == (&spec.parent, spec.vlan)
            };
            for other in model.networks.values().filter(|other| other.name != spec.name) {
                if let Ok(Spec::Uplink(other)) = network_spec(model, other)
                    && same(&other)
                {
                    let reason =
                        format!("Parent interface {:?} in use by another network: {}", spec.parent, other.name);
                    return Err(network::Error::Invalid { reason }.into());
                }
            }
            Ok(())
        }
    }
}

/// Puts into a new configuration what is chosen by the daemon.
fn fill(kind: NetworkKind, config: &mut wire::Config, model: &Model) -> Result<()> {
    match kind {
        NetworkKind::Bridge => {
            network::fill_new(config, model.networks.values().map(|network| &network.config))?;
        }
        NetworkKind::Physical => {
            // Nothing is made for it before a nic is: as LXD says it of an interface that was there.
            config.entry("volatile.last_state.created".to_owned()).or_insert_with(|| "false".to_owned());
        }
        NetworkKind::Macvlan => {}
    }
    Ok(())
}

/// A network of this name is there: with LXD's status, 400.
fn exists(name: &NetworkName) -> Error {
    network::Error::Invalid { reason: format!("The network \"{name}\" already exists: choose another name") }.into()
}

/// `POST /1.0/networks`.
pub async fn create(mut call: Call) -> Result<Response> {
    let body: wire::Network = call.json().await?;
    let name = NetworkName::new(body.name)?;
    let kind = NetworkKind::parse(&body.kind)?;
    if !call.holder(Feature::Networks)?.is_default() {
        return Err(project::Error::NoNetworks.into());
    }
    seen(&call, name.as_str()).map_err(|_| project::Error::NetworkForbidden)?;
    check_network_config(&name, &body.config)?;
    let context = Arc::clone(call.app.instances.context());
    let _turn = context.networks.turn().await;
    let model = call.app.db.model();
    if model.networks.contains_key(&(ProjectName::default(), name.clone())) {
        return Err(exists(&name));
    }
    let taken = name.clone();
    if kind == NetworkKind::Bridge && blocking(move || network::interface_exists(taken.as_str())).await? {
        return Err(Error::Exists { what: "Network interface", name: name.to_string() });
    }
    let mut record = Network {
        project: ProjectName::default(),
        name: name.clone(),
        phase: Phase::Creating,
        kind: kind.as_str().to_owned(),
        description: body.description,
        config: body.config,
    };
    fill(kind, &mut record.config, &model)?;
    // Its forwards come later.
    let spec = network_spec(&model, &record)?;
    check_host(&model, &spec, None).await?;
    let row = record.clone();
    let db = &call.app.db;
    db.write(move |tx| {
        if tx.model().network(&row.project, &row.name).is_some() {
            return Err(exists(&row.name));
        }
        network_spec(tx.model(), &row)?;
        project::check_new_network(tx.model(), &row.project)?;
        Ok(tx.put_network(row)?)
    })
    .await?;
    if let Err(error) = context.network_up(&spec).await {
        if let Err(undo) = context.networks.remove(&name).await {
            // The row stays as it is: the next start of the daemon tries again.
            tracing::error!(network = %name, error = %undo, "taking away a half-made network");
            return Err(error.into());
        }
        db.write(move |tx| Ok::<_, Error>(tx.delete_network(&record.project, &record.name)?)).await?;
        return Err(error.into());
    }
    record.phase = Phase::Ready;
    db.write(move |tx| Ok::<_, Error>(tx.put_network(record)?)).await?;
    let url = format!("/1.0/networks/{name}");
    call.lifecycle("network-created", &url);
    watch(&context, spec);
    Ok(response::created(&url))
}

/// What obstructs a network is looked for when it was changed; nobody waits for that.
fn watch(context: &Arc<Context>, spec: Spec) {
    let context = Arc::clone(context);
    if let Spec::Bridge(spec) = spec {
        tokio::spawn(async move {
            let _turn = context.networks.turn().await;
            let model = context.db.model();
            // Deleted meanwhile, there is nothing to say of it.
            if model.networks.values().any(|network| network.name == spec.name) {
                context.watch_network(&spec).await;
            }
        });
    }
}

/// Changes a network on the host and then in the database. When it cannot be brought up as wanted it goes back to what it
/// was; so it does at the next start, should the daemon end in between.
async fn update(call: Call, change: impl FnOnce(&Network) -> Network) -> Result<Response> {
    let context = Arc::clone(call.app.instances.context());
    // One change at a time: going back must not bring a network back that was deleted meanwhile.
    let _turn = context.networks.turn().await;
    let (model, old) = find(&call)?;
    call.if_match().check(modifiable(&old))?;
    let mut new = change(&old);
    check_network_config(&old.name, &new.config)?;
    let others = model.networks.values().filter(|network| network.name != old.name).map(|network| &network.config);
    let kind = NetworkKind::parse(&old.kind)?;
    match kind {
        NetworkKind::Bridge => network::fill_auto(&mut new.config, others)?,
        NetworkKind::Macvlan | NetworkKind::Physical => fill(kind, &mut new.config, &model)?,
    }
    // What it was may no longer fit: then there is nothing to go back to.
    let was = network_spec(&model, &old);
    let wanted = network_spec(&model, &new)?;
    if let (Ok(Spec::Uplink(was)), Spec::Uplink(wanted)) = (&was, &wanted)
        && (&was.parent, was.vlan) != (&wanted.parent, wanted.vlan)
        && let Some(by) = Users::of(used_by(&model, old.name.as_str()))
    {
        return Err(Error::InUse { what: "Network", name: old.name.to_string(), by });
    }
    check_host(&model, &wanted, was.as_ref().ok()).await?;
    let changed = async {
        context.network_up(&wanted).await?;
        call.app
            .db
            .write(move |tx| {
                if tx.model().network(&new.project, &new.name).is_none() {
                    return Err(Error::NotFound("Network"));
                }
                network_spec(tx.model(), &new)?;
                Ok(tx.put_network(new)?)
            })
            .await
    };
    if let Err(error) = changed.await {
        if let Ok(was) = was
            && let Err(error) = context.network_up(&was).await
        {
            tracing::error!(network = %old.name, %error, "going back to the old configuration");
        }
        return Err(error);
    }
    call.lifecycle("network-updated", &format!("/1.0/networks/{}", old.name));
    watch(&context, wanted);
    Ok(response::empty())
}

/// What `POST /1.0/networks/<name>` takes.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Rename {
    #[serde(deserialize_with = "wire::null_default")]
    name: String,
}

/// `POST /1.0/networks/<name>`: another name.
pub async fn rename(mut call: Call) -> Result<Response> {
    let body: Rename = call.json().await?;
    let context = Arc::clone(call.app.instances.context());
    let _turn = context.networks.turn().await;
    let (_, network) = find(&call)?;
    seen(&call, &body.name).map_err(|_| project::Error::NetworkForbidden)?;
    if body.name.is_empty() {
        return Err(Error::Field { name: "name", reason: "New network name not provided".to_owned() });
    }
    let name = NetworkName::new(body.name)?;
    let taken = name.clone();
    let free = |model: &Model| match model.network(&ProjectName::default(), &taken) {
        Some(_) => Err(Error::Exists { what: "Network", name: taken.to_string() }),
        None => Ok(()),
    };
    free(&call.app.db.model())?;
    let interface = name.clone();
    let bridge = network.kind == NetworkKind::Bridge.as_str();
    if bridge && blocking(move || network::interface_exists(interface.as_str())).await? {
        return Err(Error::Exists { what: "Network interface", name: name.to_string() });
    }
    let old = network.name.clone();
    context
        .rename_network(&network, &name, move |model| {
            if let Some(by) = Users::of(used_by(model, old.as_str())) {
                return Err(Error::InUse { what: "Network", name: old.to_string(), by });
            }
            Ok::<_, Error>(())
        })
        .await?;
    let url = format!("/1.0/networks/{name}");
    call.lifecycle_with("network-renamed", &url, &[("old_name", network.name.as_str().into())]);
    Ok(response::created(&url))
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
    let context = Arc::clone(call.app.instances.context());
    let _turn = context.networks.turn().await;
    let (_, network) = find(&call)?;
    let mut record = (*network).clone();
    record.phase = Phase::Deleting;
    let db = &call.app.db;
    db.write(move |tx| {
        if let Some(by) = Users::of(used_by(tx.model(), record.name.as_str())) {
            return Err(Error::InUse { what: "Network", name: record.name.to_string(), by });
        }
        Ok(tx.put_network(record)?)
    })
    .await?;
    context.networks.remove(&network.name).await?;
    let (project, name) = (network.project.clone(), network.name.clone());
    db.write(move |tx| Ok::<_, Error>(tx.delete_network(&project, &name)?)).await?;
    let url = format!("/1.0/networks/{}", network.name);
    db.forget_warnings(Some(&url)).await;
    call.lifecycle("network-deleted", &url);
    Ok(response::empty())
}

/// `GET /1.0/networks/<name>/leases`.
pub async fn leases(call: Call) -> Result<Response> {
    let (_, network) = find(&call)?;
    if network.kind != NetworkKind::Bridge.as_str() {
        let what =
            format!("leases of a network of the type {}: who gives its addresses is not known here", network.kind);
        return Err(Error::Unsupported { what });
    }
    let spec = BridgeSpec::parse(&network.name, &network_config(&network))?;
    let leases = call.app.instances.context().networks.leases(&spec).await?;
    Ok(response::sync(of_project(leases, &call.project()?)))
}

/// The leases that a project sees: those of its instances, and in `default` those of nobody.
fn of_project(mut leases: Vec<network::Lease>, project: &ProjectName) -> Vec<network::Lease> {
    let of = |lease: &network::Lease| match lease.instance.as_deref().and_then(|key| key.split_once('_')) {
        None => project.is_default(),
        Some((name, _)) => name == project.as_str(),
    };
    leases.retain(of);
    for lease in &mut leases {
        // As in LXD, without the project that DNS adds.
        if lease.instance.is_some()
            && let Some(name) = lease.hostname.strip_suffix(&format!(".{project}"))
        {
            lease.hostname = name.to_owned();
        }
    }
    leases
}

/// `GET /1.0/networks/<name>/state`.
pub async fn state(call: Call) -> Result<Response> {
    let name = call.param("name").to_owned();
    interface_seen(&call, &name)?;
    let checked = name.clone();
    if !blocking(move || network::interface_exists(&checked)).await? {
        return Err(Error::NotFound("Network"));
    }
    Ok(response::sync(blocking(move || network::state::of_host(&name)).await?))
}
