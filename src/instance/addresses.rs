//! Addresses on managed networks: each nic's own among those that are set and those that run, and leases given back by those
//! that are gone.
//!
//! A copy has the fixed addresses of its source, as with LXD, and so has what is restored or moved. They may lie there
//! together; they do not run together.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::error::Error;
use super::{Context, stop};
use crate::api::wire::Config;
use crate::db::{Instance, Model};
use crate::device::{Nic, NicType, Set};
use crate::names::{DeviceName, InstanceKey, NetworkName, ProjectName};
use crate::profile::{self, Expanded};
use crate::sys::netlink::MacAddr;

/// An address of `nic` that a nic of `other` on the same network has.
fn shared(model: &Model, other: &Instance, nic: &Nic, addresses: &[IpAddr]) -> Option<IpAddr> {
    let theirs = Set::parse(&profile::expand_instance(model, other).devices).ok()?;
    let mut theirs = theirs.nics.values().filter(|theirs| theirs.kind == nic.kind);
    theirs.find_map(|theirs| theirs.addresses.iter().find(|address| addresses.contains(address)).copied())
}

/// How one is called before those who may know `project` alone: what others are called is none of their business.
fn named(instance: &Instance, project: &ProjectName) -> String {
    if instance.key.project == *project {
        return format!("instance {}", instance.key.name);
    }
    "an instance of another project".to_owned()
}

/// The nics that have fixed addresses on managed networks.
fn fixed(devices: &Set) -> impl Iterator<Item = (&DeviceName, &Nic)> {
    let is_fixed = |nic: &Nic| matches!(nic.kind, NicType::Network(_)) && !nic.addresses.is_empty();
    devices.nics.iter().filter(move |(_, nic)| is_fixed(nic))
}

/// Refuses fixed addresses that another instance has. What was so `before` is no matter; nor is what `twin` has, the identity
/// of the instance whose configuration this is: the stock client's `copy --refresh` writes it into the copy.
///
/// # Errors
/// [`Error::Plug`].
pub(super) fn check_set(
    model: &Model,
    key: &InstanceKey,
    devices: &Set,
    before: Option<&Set>,
    twin: Option<&str>,
) -> Result<(), Error> {
    for (device, nic) in fixed(devices) {
        let old = before.and_then(|before| before.nics.get(device)).filter(|old| old.kind == nic.kind);
        let is_new = |address: &&IpAddr| !old.is_some_and(|old| old.addresses.contains(address));
        let new: Vec<IpAddr> = nic.addresses.iter().filter(is_new).copied().collect();
        if new.is_empty() {
            continue;
        }
        let is_twin = |other: &Instance| twin.is_some() && other.config.get(UUID).map(String::as_str) == twin;
        for other in model.instances.values().filter(|other| other.key != *key && !is_twin(other)) {
            if let Some(address) = shared(model, other, nic, &new) {
                let whose = named(other, &key.project);
                let reason = format!("address {address} is {whose}'s already: give each its own");
                return Err(Error::Plug { device: device.to_string(), reason });
            }
        }
    }
    Ok(())
}

/// Refuses to start with an address that an instance has which runs.
///
/// # Errors
/// [`Error::Plug`].
pub(super) fn check_start(model: &Model, record: &Instance) -> Result<(), Error> {
    let devices = Set::parse(&profile::expand_instance(model, record).devices)?;
    let runs = |other: &Instance| other.config.get(stop::POWER).is_some_and(|power| power == "RUNNING");
    for (device, nic) in fixed(&devices) {
        for other in model.instances.values().filter(|other| other.key != record.key && runs(other)) {
            if let Some(address) = shared(model, other, nic, &nic.addresses) {
                let (whose, own) = (named(other, &record.key.project), record.key.name.as_str());
                let reason = format!(
                    "address {address} is in use by {whose}, which runs: stop that, or give this one another \
                     (lxc config device set {own} {device} ...)"
                );
                return Err(Error::Plug { device: device.to_string(), reason });
            }
        }
    }
    Ok(())
}

/// Its identity, made when it was.
pub(super) const UUID: &str = "volatile.uuid";

/// Who may have leases, and where.
pub(super) type Leased = BTreeSet<(NetworkName, MacAddr)>;

/// The hardware addresses of an instance on managed networks. `config`: its own.
pub(super) fn leased(model: &Model, expanded: &Expanded, config: &Config) -> Leased {
    let Ok(devices) = Set::parse(&expanded.devices) else { return Leased::new() };
    let of = |(device, nic): (&DeviceName, &Nic)| {
        if !matches!(nic.kind, NicType::Network(_) | NicType::Bridged { .. }) {
            return None;
        }
        let network = NetworkName::new(nic.kind.parent()?.to_owned()).ok()?;
        model.network(&ProjectName::default(), &network)?;
        let volatile = || config.get(&format!("volatile.{device}.hwaddr"));
        let text = nic.hwaddr.as_ref().or_else(volatile)?;
        Some((network, text.parse().ok()?))
    };
    devices.nics.iter().filter_map(of).collect()
}

/// Whether any other instance has this hardware address: one that was set is copied, too.
fn is_anothers(model: &Model, mac: MacAddr, except: &[&InstanceKey]) -> bool {
    let is = |text: &String| text.parse() == Ok(mac);
    model.instances.values().filter(|record| !except.contains(&&record.key)).any(|record| {
        let volatile = record.config.iter().filter(|(key, _)| key.ends_with(".hwaddr"));
        volatile
            .map(|(_, value)| value)
            .chain(record.devices.values().filter_map(|device| device.get("hwaddr")))
            .any(is)
    })
}

impl Context {
    /// Leases that an instance which is being deleted has.
    pub(super) async fn give_back_all(&self, record: &Instance) {
        let model = self.db.model();
        let held = leased(&model, &profile::expand_instance(&model, record), &record.config);
        self.release(held, &[&record.key]).await;
    }

    /// Leases of nics that are not there any more, of those that were `held` by these instances.
    pub(super) async fn give_back_gone(&self, mut held: Leased, keys: &[&InstanceKey]) {
        let model = self.db.model();
        for record in keys.iter().filter_map(|key| model.instances.get(*key)) {
            for present in leased(&model, &profile::expand_instance(&model, record), &record.config) {
                held.remove(&present);
            }
        }
        self.release(held, keys).await;
    }

    /// Notes what a change is going to make go, so that it is given back also by the daemon after this one. With `false`, the
    /// change has not come.
    pub(super) async fn promise(&self, going: &Leased, is_to_be: bool) {
        for (network, mac) in going {
            // The lease ends by itself: nothing fails for it.
            if let Err(error) = self.networks.promise(network, *mac, is_to_be).await {
                tracing::warn!(%network, %mac, %error, "noting what DHCP has leased");
            }
        }
    }

    /// At the daemon's start, with networks and instances there: gives back what a crash left to be.
    pub async fn keep_promises(&self) {
        let model = self.db.model();
        let of = |network: &NetworkName| {
            self.networks.promised(network).into_iter().map(|mac| (network.clone(), mac)).collect()
        };
        let promised: Vec<Leased> = model.networks.values().map(|record| of(&record.name)).collect();
        let promised: Leased = promised.into_iter().flatten().collect();
        if promised.is_empty() {
            return;
        }
        let of = |record: &std::sync::Arc<Instance>| {
            leased(&model, &profile::expand_instance(&model, record), &record.config)
        };
        let present: Leased = model.instances.values().flat_map(of).collect();
        for (network, mac) in promised.difference(&present) {
            if let Err(error) = self.networks.release(network, *mac).await {
                tracing::warn!(%network, %mac, %error, "giving back what DHCP had leased");
            }
        }
        self.promise(&promised.intersection(&present).cloned().collect(), false).await;
    }

    async fn release(&self, held: Leased, except: &[&InstanceKey]) {
        for (network, mac) in held {
            if is_anothers(&self.db.model(), mac, except) {
                self.promise(&Leased::from([(network, mac)]), false).await;
                continue;
            }
            // The lease ends by itself: nothing fails for it.
            if let Err(error) = self.networks.release(&network, mac).await {
                tracing::warn!(%network, %mac, %error, "giving back what DHCP had leased");
            }
        }
    }
}
