//! Nics of a container: at its start, while it runs, and what is left of them.
//!
//! ```text
//!  start    made on the host ── liblxc moves them in
//!  running  made on the host ── moved in, set up                    (in both: run/nics/<instance>.json)
//!  down     the host's ends deleted, physical interfaces given back
//! ```
//! The file knows each nic wholly, and whether it is inside or just being put in or taken out. It is written before
//! anything is done: a daemon that finds it after a crash takes the doubtful out and brings the container to what the
//! database says. The network namespace of a container that has an interface of the host is held by a mount, so that the
//! interface does not go with it.

mod running;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::inside::or_ended;
use super::plug::refuse;
use super::{Context, blocking, networks};
use crate::api::wire::Config;
use crate::config;
use crate::device::{Nic, NicPlan, NicType, Set, plan_nics};
use crate::names::{DeviceName, InstanceKey, NetworkName};
use crate::network;
use crate::network::nic::{self, Interface, Kind, Origin, Traffic};
use crate::state_dir::StateDir;
use crate::sys::mount;
pub(super) use running::{Changed, adopted, change};

/// One nic of a running container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// What it is, wholly.
    pub(super) interface: Interface,
    /// What its parent was before.
    origin: Origin,
    /// The managed network it is registered in.
    network: Option<String>,
    /// Its number inside.
    index: Option<u32>,
    /// It is inside, or is not: it is just being put in or taken out.
    doubtful: bool,
}

type Entries = BTreeMap<String, Entry>;

/// The files of one container.
#[derive(Debug, Clone)]
struct Files {
    journal: PathBuf,
    namespace: PathBuf,
}

impl Files {
    fn of(context: &Context, container: &str) -> Self {
        let journal = context.dir.nics(container);
        Self { namespace: journal.with_extension("netns"), journal }
    }

    fn read(&self) -> Entries {
        // Nothing was plugged in where there is none.
        fs::read(&self.journal).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    fn write(&self, entries: &Entries) -> Result<(), Error> {
        let failed = |error| Error::Io { doing: "write", path: self.journal.clone(), error };
        if entries.is_empty() {
            return remove(&self.journal);
        }
        let new = self.journal.with_extension("new");
        let text = serde_json::to_vec(entries).unwrap_or_default();
        fs::write(&new, text).and_then(|()| fs::rename(&new, &self.journal)).map_err(failed)
    }

    /// Holds the network namespace of the container, that of an earlier life no more.
    fn hold(&self, namespace: &File) -> Result<(), Error> {
        let failed = |error| Error::Io { doing: "hold a network namespace at", path: self.namespace.clone(), error };
        self.release()?;
        fs::write(&self.namespace, "").map_err(failed)?;
        mount::clone_at(namespace, false).and_then(|tree| mount::attach(&tree, &self.namespace)).map_err(failed)
    }

    fn held(&self) -> Option<File> {
        mount::is_mounted(&self.namespace).unwrap_or(false).then(|| File::open(&self.namespace).ok()).flatten()
    }

    fn release(&self) -> Result<(), Error> {
        let failed = |error| Error::Io { doing: "unmount", path: self.namespace.clone(), error };
        if !self.namespace.exists() {
            return Ok(());
        }
        mount::unmount(&self.namespace).map_err(failed)?;
        remove(&self.namespace)
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::Io { doing: "remove", path: path.to_owned(), error })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The nics of a container that is about to start: named, not yet made.
///
/// # Errors
/// [`Error::Plug`] with the nic whose parent is missing.
pub(super) async fn plan(context: &Context, devices: &Set, config: &Config) -> Result<Vec<(DeviceName, Entry)>, Error> {
    resolve(context, devices, config, Entries::new()).await
}

/// What each nic comes to be. Those in `present` keep what was drawn by lot.
async fn resolve(
    context: &Context,
    devices: &Set,
    config: &Config,
    present: Entries,
) -> Result<Vec<(DeviceName, Entry)>, Error> {
    context.touch_networks(devices).await?;
    let devices = networks::linked(&context.db.model(), devices)?;
    let mut random = Vec::with_capacity(devices.nics.len());
    for _ in 0..devices.nics.len() {
        random.push((network::random_mac()?.to_string(), network::random_veth()?, network::random_veth()?));
    }
    let (mut macs, mut names) = (random.iter().map(|r| r.0.clone()), random.iter().map(|r| r.1.clone()));
    let plans = plan_nics(
        &devices.nics,
        config,
        // Asked for before: the planning itself is pure.
        || macs.next().unwrap_or_default(),
        || names.next().unwrap_or_default(),
    )?;
    let priority = config::int_of(config, "limits.network.priority");
    let priority = u32::try_from(priority).ok().filter(|priority| *priority > 0);
    blocking(move || {
        let mut found = Vec::with_capacity(plans.len());
        for (plan, (_, _, guest)) in plans.into_iter().zip(random) {
            let Some(nic) = devices.nics.get(&plan.device) else { continue };
            let device = plan.device.clone();
            let entry = entry(&plan, nic, guest, priority, present.get(device.as_str()))?;
            found.push((device, entry));
        }
        Ok(found)
    })
    .await
}

fn entry(
    plan: &NicPlan,
    nic: &Nic,
    guest: String,
    priority: Option<u32>,
    present: Option<&Entry>,
) -> Result<Entry, Error> {
    let kind = match &nic.kind {
        NicType::Bridged { .. } | NicType::Network(_) | NicType::P2p => Kind::Veth,
        NicType::Macvlan { .. } => Kind::Macvlan,
        NicType::Physical { .. } => Kind::Physical,
        NicType::Routed { .. } => Kind::Routed,
        NicType::Ipvlan { mode, .. } => Kind::Ipvlan(*mode),
    };
    let drawn = || plan.host_name.replacen("veth", "mac", 1);
    let present = present.filter(|present| present.interface.kind == kind);
    let same_host = present.filter(|_| nic.host_name.is_none()).map(|present| present.interface.host_name.clone());
    let parent = nic.kind.parent().map(str::to_owned);
    let host_name = match (&kind, same_host) {
        (Kind::Physical, _) => match nic.vlan {
            Some(vlan) => format!("{}.{vlan}", parent.clone().unwrap_or_default()),
            None => parent.clone().unwrap_or_default(),
        },
        (_, Some(host_name)) => host_name,
        (Kind::Macvlan | Kind::Ipvlan(_), None) => nic.host_name.clone().unwrap_or_else(drawn),
        (Kind::Veth | Kind::Routed, None) => plan.host_name.clone(),
    };
    let guest = match kind {
        Kind::Veth | Kind::Routed => present.map_or(guest, |present| present.interface.guest.clone()),
        Kind::Macvlan | Kind::Ipvlan(_) | Kind::Physical => host_name.clone(),
    };
    let mac = match &plan.hwaddr {
        Some(text) => Some(text.parse().map_err(|_| refuse(&plan.device, "its hwaddr is no hardware address"))?),
        None => None,
    };
    let gives = matches!(kind, Kind::Routed | Kind::Ipvlan(_));
    let family = |v4: bool| if v4 { &nic.ipv4 } else { &nic.ipv6 };
    let has = |v4: bool| gives && nic.addresses.iter().any(|address| address.is_ipv4() == v4);
    let used: Vec<bool> = [true, false].into_iter().filter(|v4| has(*v4)).collect();
    let routed = kind == Kind::Routed;
    let interface = Interface {
        traffic: traffic(nic, mac, priority),
        parent,
        vlan: nic.vlan,
        name: plan.name.clone(),
        host_name,
        guest,
        mac,
        mtu: nic.mtu,
        addresses: if gives { nic.addresses.clone() } else { Vec::new() },
        gateways: used.iter().filter(|v4| routed && family(**v4).gateway).map(|v4| family(*v4).host_address).collect(),
        host_addresses: used.iter().filter(|_| routed).map(|v4| family(*v4).host_address).collect(),
        tables: (nic.ipv4.host_table, nic.ipv6.host_table),
        kind,
    };
    let origin = match present {
        Some(present) if present.interface.same_place(&interface) => present.origin.clone(),
        // It is not on the host now.
        Some(present) if kind_is_physical(&interface) && present.interface.host_name == interface.host_name => {
            present.origin.clone()
        }
        present => {
            let own = present.map(|present| present.interface.host_name.as_str());
            nic::origin(&interface, own).map_err(|error| refuse(&plan.device, error.to_string()))?
        }
    };
    let network = match &nic.kind {
        NicType::Network(network) => Some(network.to_string()),
        _ => None,
    };
    Ok(Entry { interface, origin, network, index: None, doubtful: false })
}

fn kind_is_physical(interface: &Interface) -> bool {
    interface.kind == Kind::Physical
}

fn traffic(nic: &Nic, mac: Option<crate::sys::netlink::MacAddr>, priority: Option<u32>) -> Traffic {
    let set = &nic.traffic;
    let filtered = set.mac_filtering || set.ipv4_filtering || set.ipv6_filtering;
    let at_bridge = matches!(nic.kind, NicType::Bridged { .. } | NicType::Network(_));
    let pair = at_bridge || matches!(nic.kind, NicType::P2p | NicType::Routed { .. });
    // On a bridge and from the host itself the way leads through the nic's own address, where that is known.
    let via = |destination: &IpAddr| {
        let known = nic.addresses.iter().find(|own| own.is_ipv4() == destination.is_ipv4());
        known.copied().filter(|_| at_bridge || matches!(nic.kind, NicType::Routed { .. }))
    };
    Traffic {
        ingress: set.ingress,
        egress: set.egress,
        priority: set.priority.or(priority).filter(|_| pair),
        mac: mac.filter(|_| filtered),
        ipv4: set.ipv4_filtering.then(|| nic.ipv4_address()),
        ipv6: set.ipv6_filtering.then(|| nic.ipv6_address()),
        isolated: set.isolated,
        routes: set.routes.iter().map(|(to, prefix)| (*to, *prefix, via(to))).collect(),
    }
}

/// The lines of lxc.conf of one nic, as the `index`th interface (lxc.container.conf(5), NETWORK). Whatever it is, it lies
/// ready on the host, and liblxc moves it in.
pub(super) fn lxc_lines(entry: &Entry, index: usize) -> Vec<(String, String)> {
    let interface = &entry.interface;
    let line = |key: &str, value: &str| (format!("lxc.net.{index}.{key}"), value.to_owned());
    let mut lines = vec![
        line("type", "phys"),
        line("link", &interface.on_host()),
        line("name", &interface.name),
        line("flags", "up"),
    ];
    for address in &interface.addresses {
        lines.push(match address {
            IpAddr::V4(address) => line("ipv4.address", &format!("{address}/32")),
            IpAddr::V6(address) => line("ipv6.address", &format!("{address}/128")),
        });
    }
    for gateway in &interface.gateways {
        let key = if gateway.is_ipv4() { "ipv4.gateway" } else { "ipv6.gateway" };
        lines.push(line(key, &gateway.to_string()));
    }
    lines
}

/// What the instance remembers: `volatile.<device>.*` pairs.
fn pairs(entries: &Entries, devices: &Set) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for (device, Entry { interface, origin, .. }) in entries {
        let mut pair = |key: &str, value: String| pairs.push((format!("volatile.{device}.{key}"), value));
        pair("host_name", interface.host_name.clone());
        let nic = devices.nics.iter().find(|(name, _)| name.as_str() == device).map(|(_, nic)| nic);
        if nic.is_none_or(|nic| nic.name.is_none()) {
            pair("name", interface.name.clone());
        }
        if let Some(mac) = interface.mac.filter(|_| nic.is_none_or(|nic| nic.hwaddr.is_none())) {
            pair("hwaddr", mac.to_string());
        }
        if interface.kind == Kind::Physical {
            pair("last_state.created", origin.created.to_string());
            pair("last_state.mtu", origin.mtu.to_string());
            pair("last_state.hwaddr", origin.mac.map(|mac| mac.to_string()).unwrap_or_default());
        }
    }
    pairs
}

/// The pairs of nics that are planned.
pub(super) fn volatile(nics: &[(DeviceName, Entry)], devices: &Set) -> Vec<(String, String)> {
    let entries: Entries = nics.iter().map(|(device, entry)| (device.to_string(), entry.clone())).collect();
    pairs(&entries, devices)
}

/// The name on the host of the nic that is called `name` inside, by the file of its container.
pub(super) fn host_name(file: &Path, name: &str) -> Option<String> {
    let entries: Entries = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    let entry = entries.into_values().find(|entry| entry.interface.name == name)?;
    Some(entry.interface.host_name)
}

/// Whether a key is true only while the instance runs.
pub(super) fn is_live_key(key: &str) -> bool {
    let ends = [".host_name", ".last_state.created", ".last_state.mtu", ".last_state.hwaddr"];
    key.starts_with("volatile.") && ends.iter().any(|end| key.ends_with(end))
}

/// Makes the nics of a container that is about to start. Whatever comes of it, [`forget`] clears it.
///
/// # Errors
/// [`Error::Plug`] with the nic that cannot be had.
pub(super) async fn prepare(
    context: &Arc<Context>,
    key: &InstanceKey,
    devices: &Set,
    nics: &[(DeviceName, Entry)],
) -> Result<(), Error> {
    if nics.is_empty() {
        return Ok(());
    }
    for (device, entry) in nics {
        register(context, key, device, entry, devices.nics.get(device)).await?;
    }
    let (files, nics) = (Files::of(context, &key.container()), nics.to_vec());
    blocking(move || {
        let entries = nics.iter().map(|(device, entry)| (device.to_string(), entry.clone())).collect();
        files.write(&entries)?;
        for (device, entry) in &nics {
            nic::create(&entry.interface, &entry.origin).map_err(|error| refuse(device, error.to_string()))?;
        }
        Ok(())
    })
    .await
}

/// The nics of all containers that run, by the files that remember them.
fn remembered(dir: &StateDir) -> Vec<(PathBuf, Entries)> {
    let journals = dir.nics("x");
    let places = journals.parent().and_then(|place| fs::read_dir(place).ok()).into_iter().flatten().flatten();
    let places = places.map(|place| place.path()).filter(|path| path.extension().is_some_and(|end| end == "json"));
    let read =
        |path: &Path| fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    places.map(|path| (path.clone(), read(&path))).collect()
}

/// The interfaces that nics of running containers lie on.
pub(super) fn parents(dir: &StateDir) -> BTreeSet<String> {
    let entries = remembered(dir).into_iter().flat_map(|(_, entries)| entries);
    entries.filter_map(|(_, entry)| entry.interface.parent).collect()
}

/// Connects running instances again to a bridge that was made anew. What fails is logged: the others are to be, too.
pub(super) fn reconnect(dir: &StateDir, network: &NetworkName) {
    for (journal, entries) in remembered(dir) {
        for (device, entry) in entries {
            let here = entry.interface.parent.as_deref() == Some(network.as_str());
            if here && let Err(error) = nic::reconnect(&entry.interface) {
                tracing::error!(journal = %journal.display(), %device, %error, "connecting a nic again");
            }
        }
    }
}

async fn register(
    context: &Context,
    key: &InstanceKey,
    device: &DeviceName,
    entry: &Entry,
    nic: Option<&Nic>,
) -> Result<(), Error> {
    let (Some(network), Some(mac)) = (network_of(entry), entry.interface.mac) else { return Ok(()) };
    let host = network::Host {
        instance: key.container(),
        hostname: key.hostname(),
        device: device.clone(),
        mac,
        ipv4: nic.and_then(Nic::ipv4_address),
        ipv6: nic.and_then(Nic::ipv6_address),
    };
    Ok(context.networks.add_host(&network, host).await?)
}

fn network_of(entry: &Entry) -> Option<NetworkName> {
    entry.network.as_ref().and_then(|network| NetworkName::new(network.clone()).ok())
}

/// The container runs: what an interface of the host needs to come back is noted.
pub(super) async fn started(context: &Context, container: &str, pid: i32) -> Result<(), Error> {
    let files = Files::of(context, container);
    blocking(move || {
        let mut entries = files.read();
        if !entries.values().any(|entry| matches!(entry.interface.kind, Kind::Physical)) {
            return Ok(());
        }
        let namespace = namespace_of(pid)?;
        files.hold(&namespace)?;
        for entry in entries.values_mut() {
            let number = nic::inside(&entry.interface, namespace.as_fd(), None)?;
            entry.index = number;
        }
        files.write(&entries)
    })
    .await
}

fn namespace_of(pid: i32) -> Result<File, Error> {
    let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
    File::open(&path).map_err(|error| or_ended(Error::Io { doing: "open", path, error }, pid))
}

/// The container is down, or has never come up: nothing of its nics stays.
///
/// # Errors
/// Of the first that cannot be taken away; all are tried.
pub(super) async fn forget(context: &Context, container: &str) -> Result<(), Error> {
    let files = Files::of(context, container);
    let asked = files.clone();
    let entries = blocking(move || Ok::<_, Error>(asked.read())).await?;
    for (device, entry) in &entries {
        if let (Some(network), Ok(device)) = (network_of(entry), DeviceName::new(device.clone())) {
            context.networks.remove_host(&network, container, &device).await?;
        }
    }
    blocking(move || {
        let held = files.held();
        let mut first = Ok(());
        for (device, entry) in entries {
            let left = nic::leave(&entry.interface, &entry.origin, held.as_ref().map(AsFd::as_fd), entry.index);
            if let Err(error) = left {
                first = first.and(Err(Error::Plug { device, reason: error.to_string() }));
            }
        }
        drop(held);
        first.and(files.release()).and(remove(&files.journal))
    })
    .await
}
