//! What of an LXD fits here: each object is held against the rules that our own of its kind have.

use crate::api::wire::{Config, Devices};
use crate::config::{self, Scope};
use crate::device::{self, Device};
use crate::names::{AclName, DeviceName, NetworkName};
use crate::network::{self, BridgeSpec, Direction, NetworkKind, PortForward, Spec};
use crate::storage::DriverKind;

use super::found::{Acl, Forward, Found, Image, Instance, Network, Pool, Profile, Project, Volume, Zone};

/// What would become of an object.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Why it could not be taken over at all.
    pub(super) refused: Option<String>,
    /// What of it would be otherwise.
    pub(super) differences: Vec<String>,
}

impl Verdict {
    fn refused(reason: impl Into<String>) -> Self {
        Self { refused: Some(reason.into()), differences: Vec::new() }
    }

    fn differing(differences: Vec<String>) -> Self {
        Self { refused: None, differences }
    }
}

/// The key that a configuration is refused for.
fn key_of(error: &config::Error) -> &str {
    match error {
        config::Error::UnknownKey { key, .. }
        | config::Error::WrongScope { key, .. }
        | config::Error::Value { key, .. }
        | config::Error::Exclusive { key, .. } => key,
    }
}

/// Every key that `check` refuses, one after another, without the refused ones before.
fn keys(config: &Config, check: impl Fn(&Config) -> Result<(), config::Error>) -> Vec<String> {
    // What LXD notes for itself is made anew.
    let mut left: Config = config.clone();
    left.retain(|key, _| !key.starts_with("volatile."));
    let mut differences = Vec::new();
    while let Err(error) = check(&left) {
        let reason = match &error {
            config::Error::UnknownKey { key, .. } => format!("the key {key} is not known here: left out"),
            error => format!("left out: {error}"),
        };
        differences.push(reason);
        if left.remove(key_of(&error)).is_none() {
            break;
        }
    }
    differences
}

/// Every device that is refused.
fn devices(devices: &Devices) -> Vec<String> {
    let one = |(name, properties): (&String, &Config)| -> Option<String> {
        let reason = match DeviceName::new(name.clone()) {
            Err(error) => error.to_string(),
            Ok(known) => Device::parse(&known, properties).err()?.to_string(),
        };
        Some(format!("the device {name} is left out: {reason}"))
    };
    let mut differences: Vec<String> = devices.iter().filter_map(one).collect();
    if differences.is_empty()
        && let Err(error) = device::validate(devices)
    {
        differences.push(format!("its devices do not go together: {error}"));
    }
    differences
}

pub(super) fn server(config: &Config) -> Vec<String> {
    keys(config, config::validate_server)
}

pub(super) fn project(project: &Project) -> Verdict {
    Verdict::differing(keys(&project.config, config::validate_project))
}

pub(super) fn pool(pool: &Pool) -> Verdict {
    match DriverKind::parse(&pool.driver) {
        Err(_) => Verdict::refused(format!(
            "there is no driver {} here: copy what it holds to a pool of driver btrfs or dir first",
            pool.driver
        )),
        Ok(driver) => Verdict::differing(keys(&pool.config, |config| config::validate_pool(driver.as_str(), config))),
    }
}

pub(super) fn network(network: &Network) -> Verdict {
    let kind = match NetworkKind::parse(&network.kind) {
        Ok(kind) => kind,
        Err(error) => return Verdict::refused(error.to_string()),
    };
    if network.project != "default" {
        return Verdict::refused("networks lie in the project default here");
    }
    let name = match NetworkName::new(network.name.clone()) {
        Ok(name) => name,
        Err(error) => return Verdict::refused(error.to_string()),
    };
    let mut left = network.config.clone();
    left.retain(|key, _| !key.starts_with("volatile."));
    let mut differences = Vec::new();
    loop {
        let error = match Spec::parse(kind, &name, &left) {
            Ok(_) => return Verdict::differing(differences),
            Err(error) => error,
        };
        let key = match &error {
            network::Error::UnknownKey { key, .. } => key.clone(),
            network::Error::Value { key, .. } => (*key).to_owned(),
            // Something that is needed, or that does not go together.
            other => return Verdict::refused(other.to_string()),
        };
        if left.remove(&key).is_none() {
            return Verdict::refused(error.to_string());
        }
        differences.push(match error {
            network::Error::UnknownKey { key, .. } => format!("the key {key} is not known here: left out"),
            error => format!("left out: {error}"),
        });
    }
}

/// What a configuration has beside keys of the user's own.
fn but_own(config: &Config, known: &[&str]) -> (Config, Vec<String>) {
    let (kept, left): (Config, Config) =
        config.clone().into_iter().partition(|(key, _)| key.starts_with("user.") || known.contains(&key.as_str()));
    (kept, left.keys().map(|key| format!("the key {key} is not known here: left out")).collect())
}

pub(super) fn acl(acl: &Acl) -> Verdict {
    if acl.project != "default" {
        return Verdict::refused("the ACLs of networks lie in the project default here");
    }
    if let Err(error) = AclName::new(acl.name.clone()) {
        return Verdict::refused(error.to_string());
    }
    let (_, mut differences) = but_own(&acl.config, &[]);
    for (direction, word, rules) in
        [(Direction::Ingress, "ingress", &acl.ingress), (Direction::Egress, "egress", &acl.egress)]
    {
        for (number, rule) in rules.iter().enumerate() {
            if let Err(error) = network::check_rules(direction, &acl.name, std::slice::from_ref(rule)) {
                differences.push(format!("{word} rule {number} (of those from 0) is left out: {error}"));
            }
        }
    }
    Verdict::differing(differences)
}

pub(super) fn forward(found: &Found, forward: &Forward) -> Verdict {
    let its = |network: &&Network| (&network.project, &network.name) == (&forward.project, &forward.network);
    let Some(network) = found.networks.iter().find(its) else { return Verdict::refused("its network is not there") };
    if self::network(network).refused.is_some() {
        return Verdict::refused(format!("it is of the network {}, which is not taken over", network.name));
    }
    // Without what is left out of its network.
    let spec = NetworkName::new(network.name.clone()).ok().and_then(|name| {
        let known = |key: &&String| network::KEYS.iter().any(|row| row.name == key.as_str());
        let kept = network.config.iter().filter(|(key, _)| known(key));
        BridgeSpec::parse(&name, &kept.map(|(key, value)| (key.clone(), value.clone())).collect()).ok()
    });
    let Some(spec) = spec else {
        return Verdict::refused(format!("the network {} is to be looked at first", network.name));
    };
    let (config, mut differences) = but_own(&forward.config, &["target_address"]);
    let listen = match network::listen_address(&forward.listen) {
        Ok(listen) => listen,
        Err(error) => return Verdict::refused(error.to_string()),
    };
    match PortForward::parse(&spec, listen, &config, &forward.ports) {
        Ok(_) => Verdict::differing(differences),
        Err(error) => {
            differences.push(error.to_string());
            Verdict::refused(differences.join("; "))
        }
    }
}

pub(super) fn zone(_: &Zone) -> Verdict {
    Verdict::refused("no zones are served by DNS here: a server of its own has to")
}

pub(super) fn profile(profile: &Profile) -> Verdict {
    let mut differences = keys(&profile.config, |config| config::validate_instance(config, Scope::Profile));
    differences.extend(devices(&profile.devices));
    Verdict::differing(differences)
}

pub(super) fn image(image: &Image) -> Verdict {
    if image.is_machine { Verdict::refused(MACHINE) } else { Verdict::default() }
}

const MACHINE: &str = "it is of a virtual machine: only containers run here";

/// Why a pool cannot hold something.
fn pool_refused(found: &Found, name: &str) -> Option<String> {
    let pool = found.pools.iter().find(|pool| pool.name == name)?;
    self::pool(pool).refused.map(|_| format!("it lies in the pool {name} of driver {}", pool.driver))
}

pub(super) fn volume(found: &Found, volume: &Volume) -> Verdict {
    if volume.is_block {
        return Verdict::refused("it is a block device of virtual machines");
    }
    match pool_refused(found, &volume.pool) {
        Some(reason) => Verdict::refused(reason),
        None => Verdict::differing(keys(&volume.config, config::validate_volume)),
    }
}

pub(super) fn instance(found: &Found, instance: &Instance) -> Verdict {
    if instance.is_machine {
        return Verdict::refused("it is a virtual machine: only containers run here");
    }
    let root = instance.expanded_devices.values().find(|device| {
        let is = |key: &str, value: &str| device.get(key).is_some_and(|found| found == value);
        is("type", "disk") && is("path", "/")
    });
    let Some(pool) = root.and_then(|root| root.get("pool")) else {
        return Verdict::refused("it has no root disk");
    };
    if let Some(reason) = pool_refused(found, pool) {
        return Verdict::refused(reason);
    }
    let mut differences = keys(&instance.config, |config| config::validate_instance(config, Scope::Instance));
    differences.extend(devices(&instance.devices));
    if instance.is_stateful {
        differences.push("the saved state of its processes is dropped: it starts afresh".to_owned());
    }
    // With mounts that map ids LXD writes an empty list: files lie as they are seen inside.
    if instance.config.get("volatile.last_state.idmap").is_some_and(|map| !matches!(map.as_str(), "" | "[]")) {
        differences.push("its files have shifted owners on disk: they are shifted back once".to_owned());
    }
    Verdict::differing(differences)
}

#[cfg(test)]
mod tests {
    use super::super::found::Source;
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_refused_key_is_told_and_what_lxd_notes_is_not() {
        let found = keys(
            &config(&[
                ("limits.cpu", "2"),
                ("future.a", "1"),
                ("future.b", "1"),
                ("volatile.uuid", "x"),
                ("user.a", "1"),
            ]),
            |config| config::validate_instance(config, Scope::Instance),
        );
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("future.a") && found[1].contains("future.b"));
    }

    #[test]
    fn networks_of_other_types_and_pools_of_other_drivers_are_refused() {
        let named = |kind: &str, config: Config| Network {
            project: "default".to_owned(),
            name: "br0".to_owned(),
            kind: kind.to_owned(),
            config,
        };
        assert!(network(&named("ovn", Config::new())).refused.is_some());
        assert!(network(&named("macvlan", Config::new())).refused.unwrap().contains("parent"));
        let differing = network(&named("bridge", config(&[("ipv4.address", "10.1.1.1/24"), ("fan.type", "vxlan")])));
        assert_eq!((differing.refused, differing.differences.len()), (None, 1));
        let zfs = Pool { name: "z".to_owned(), driver: "zfs".to_owned(), config: Config::new() };
        assert!(pool(&zfs).refused.unwrap().contains("zfs"));
    }

    #[test]
    fn an_instance_goes_with_its_pool() {
        let mut found = Found::new(Source::Api);
        found.pools.push(Pool { name: "z".to_owned(), driver: "zfs".to_owned(), config: Config::new() });
        found.pools.push(Pool { name: "d".to_owned(), driver: "dir".to_owned(), config: Config::new() });
        let on = |pool: &str| Instance {
            project: "default".to_owned(),
            name: "c1".to_owned(),
            is_machine: false,
            is_stateful: false,
            is_running: false,
            config: config(&[("volatile.last_state.idmap", "[]")]),
            devices: Devices::new(),
            expanded_devices: [("root".to_owned(), config(&[("type", "disk"), ("path", "/"), ("pool", pool)]))].into(),
            snapshots: 0,
        };
        assert!(instance(&found, &on("z")).refused.unwrap().contains("zfs"));
        assert_eq!(instance(&found, &on("d")), Verdict::default());
    }
}
