//! `restricted.*` of projects: what instances and profiles may not have.
//!
//! A device or a key that no row here knows is refused: what is added to the daemon is not open to restricted projects until
//! somebody has thought about it.

use super::limits::is_root;
use super::{Error, Subject};
use crate::api::wire::{Config, Devices};
use crate::config::{bool_of, instance_row, names_of, parse_bool, project_row, raw_idmap};
use crate::db::{Instance, Model, Profile, Project};
use crate::names::{InstanceKey, ProjectName};
use crate::profile::{Expanded, expand_instance};

/// Keys that reach below what the daemon promises, as LXD 5.0 has them.
const LOW_LEVEL: &[&str] = &[
    "boot.host_shutdown_timeout",
    "linux.kernel_modules",
    "security.devlxd.images",
    "security.idmap.base",
    "security.idmap.size",
];

/// System calls that are done for a container with more than its own rights.
const FULL_INTERCEPTION: &[&str] = &[
    "security.syscalls.intercept.mount.allowed",
    "security.syscalls.intercept.mount.shift",
    "security.syscalls.intercept.sched_setscheduler",
];

/// Types of devices that one key blocks or allows, and what LXD calls them.
const DEVICES: &[(&str, &str, &str)] = &[
    ("gpu", "restricted.devices.gpu", "GPU devices"),
    ("infiniband", "restricted.devices.infiniband", "Infiniband devices"),
    ("pci", "restricted.devices.pci", "PCI devices"),
    ("proxy", "restricted.devices.proxy", "Proxy devices"),
    ("unix-block", "restricted.devices.unix-block", "Unix block devices"),
    ("unix-char", "restricted.devices.unix-char", "Unix character devices"),
    ("unix-hotplug", "restricted.devices.unix-hotplug", "Unix hotplug devices"),
    ("usb", "restricted.devices.usb", "USB devices"),
];

pub(super) fn is_restricted(project: &Project) -> bool {
    project.config.get("restricted").and_then(|text| parse_bool(text)) == Some(true)
}

/// The value of a key, with the default of its row.
fn word<'a>(project: &'a Project, key: &str) -> &'a str {
    let set = project.config.get(key).map(String::as_str).filter(|text| !text.is_empty());
    set.unwrap_or_else(|| project_row(key).map_or("", |row| row.default))
}

fn is_allowed(project: &Project, key: &str) -> bool {
    word(project, key) == "allow"
}

/// What a restricted project says of an instance with all that its profiles give it.
pub(super) fn instance(model: &Model, project: &Project, record: &Instance) -> Result<(), Error> {
    if !is_restricted(project) {
        return Ok(());
    }
    let subject = Subject::Instance(record.key.clone());
    let Expanded { config, devices } = expand_instance(model, record);
    check_config(project, &subject, &config)?;
    check_isolated(model, project, &subject, &config)?;
    check_devices(project, &subject, &devices)
}

/// What it says of a profile on its own.
pub(super) fn profile(project: &Project, profile: &Profile) -> Result<(), Error> {
    if !is_restricted(project) {
        return Ok(());
    }
    let subject = Subject::Profile(project.name.clone(), profile.name.clone());
    check_config(project, &subject, &profile.config)?;
    check_devices(project, &subject, &profile.devices)
}

fn check_config(project: &Project, subject: &Subject, config: &Config) -> Result<(), Error> {
    for (key, value) in config.iter().filter(|(_, value)| !value.is_empty()) {
        let is_bool = instance_row(key).is_some_and(|row| row.kind == crate::config::Kind::Bool);
        if is_bool && parse_bool(value) != Some(true) {
            continue;
        }
        let refuse = |why: &'static str, by: &'static str| {
            Err(Error::Key { key: key.clone(), value: value.clone(), subject: Box::new(subject.clone()), why, by })
        };
        let low_level =
            |by: &'static str| Err(Error::LowLevel { key: key.clone(), subject: Box::new(subject.clone()), by });
        match key.as_str() {
            "security.nesting" if !is_allowed(project, "restricted.containers.nesting") => {
                return refuse("Container nesting is forbidden", "restricted.containers.nesting");
            }
            "security.privileged" if !is_allowed(project, "restricted.containers.privilege") => {
                return refuse("Privileged containers are forbidden", "restricted.containers.privilege");
            }
            "raw.idmap" => check_raw_idmap(project, subject, value)?,
            key if key.starts_with("security.syscalls.intercept.") => {
                let granted = word(project, "restricted.containers.interception");
                let full = granted == "full" || is_allowed(project, "restricted.containers.lowlevel");
                if FULL_INTERCEPTION.contains(&key) && !full {
                    return low_level("restricted.containers.interception=full allows it");
                }
                if granted == "block" && !FULL_INTERCEPTION.contains(&key) {
                    return refuse("Container syscall interception is forbidden", "restricted.containers.interception");
                }
            }
            key if (key.starts_with("raw.") || LOW_LEVEL.contains(&key))
                && !is_allowed(project, "restricted.containers.lowlevel") =>
            {
                return low_level("restricted.containers.lowlevel");
            }
            _ => {}
        }
    }
    Ok(())
}

/// Ids of the host by `raw.idmap`: those that the project names, or any with low-level keys.
fn check_raw_idmap(project: &Project, subject: &Subject, value: &str) -> Result<(), Error> {
    if is_allowed(project, "restricted.containers.lowlevel") {
        return Ok(());
    }
    let holds = |key: &str, row: &raw_idmap::IdRow| {
        let last = u64::from(row.outside) + u64::from(row.size) - 1;
        names_of(word(project, key))
            .filter_map(raw_idmap::range)
            .any(|(first, size)| first <= row.outside && last < u64::from(first) + u64::from(size))
    };
    let fits = |row: &raw_idmap::IdRow| {
        (!row.uid || holds("restricted.idmap.uid", row)) && (!row.gid || holds("restricted.idmap.gid", row))
    };
    // What cannot be read is refused elsewhere.
    if raw_idmap::parse(value).unwrap_or_default().iter().all(fits) {
        return Ok(());
    }
    let by = "restricted.idmap.uid and restricted.idmap.gid do not hold all its ids";
    Err(Error::LowLevel { key: "raw.idmap".to_owned(), subject: Box::new(subject.clone()), by })
}

/// LXD 5.0 only refuses who says no; ours keeps what the key promises.
fn check_isolated(model: &Model, project: &Project, subject: &Subject, config: &Config) -> Result<(), Error> {
    let key = "security.idmap.isolated";
    let own = config.get(key).and_then(|text| parse_bool(text));
    let isolated = own.unwrap_or_else(|| bool_of(&model.config, "core.idmap_isolated"));
    if word(project, "restricted.containers.privilege") != "isolated" || isolated {
        return Ok(());
    }
    Err(Error::Key {
        key: key.to_owned(),
        value: config.get(key).cloned().unwrap_or_default(),
        subject: Box::new(subject.clone()),
        why: "Non-isolated containers are forbidden",
        by: "restricted.containers.privilege",
    })
}

fn check_devices(project: &Project, subject: &Subject, devices: &Devices) -> Result<(), Error> {
    for (name, device) in devices.iter().filter(|(_, device)| !is_root(device)) {
        let refuse = |why: String, by: &str| {
            Err(Error::Device { device: name.clone(), subject: Box::new(subject.clone()), why, by: by.to_owned() })
        };
        let text = |key: &str| device.get(key).map(String::as_str).unwrap_or_default();
        match text("type") {
            "none" => {}
            "disk" => {
                let key = "restricted.devices.disk";
                match word(project, key) {
                    "block" => return refuse("Disk devices are forbidden".to_owned(), key),
                    _ if !text("pool").is_empty() => {}
                    "allow" if is_below(project, text("source")) => {}
                    "allow" => {
                        let why = format!("Disk source path {:?} not allowed", text("source"));
                        return refuse(why, "restricted.devices.disk.paths");
                    }
                    _ => return refuse("Attaching disks not backed by a pool is forbidden".to_owned(), key),
                }
            }
            "nic" => {
                let key = "restricted.devices.nic";
                let (network, parent) = (text("network"), text("parent"));
                match word(project, key) {
                    "block" => return refuse("Network devices are forbidden".to_owned(), key),
                    "managed" if network.is_empty() => {
                        return refuse("Only managed network devices are allowed".to_owned(), key);
                    }
                    _ => {}
                }
                let interface = if network.is_empty() { parent } else { network };
                if !interface.is_empty() && !sees(project, interface) {
                    return refuse("Network not allowed in project".to_owned(), "restricted.networks.access");
                }
            }
            kind => match DEVICES.iter().find(|(name, _, _)| *name == kind) {
                Some((_, key, _)) if is_allowed(project, key) => {}
                Some((_, key, what)) => return refuse(format!("{what} are forbidden"), key),
                None => return refuse(format!("devices of the type {kind:?} are forbidden"), "restricted"),
            },
        }
    }
    Ok(())
}

/// Whether a source lies below one of the paths that the project names, by its text: no `..` leads out.
fn is_below(project: &Project, source: &str) -> bool {
    let paths = word(project, "restricted.devices.disk.paths");
    if paths.is_empty() {
        return true;
    }
    let source = std::path::Path::new(source);
    let plain = source.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    plain && names_of(paths).any(|path| source.starts_with(path))
}

/// The paths below which a restricted project may have the sources of its disks; none: anywhere.
pub fn disk_paths(model: &Model, project: &ProjectName) -> Option<Vec<String>> {
    let record = model.projects.get(project).filter(|record| is_restricted(record))?;
    let paths: Vec<String> = names_of(word(record, "restricted.devices.disk.paths")).map(str::to_owned).collect();
    Some(paths).filter(|paths| !paths.is_empty())
}

/// Whether the project may use this network or interface of the host.
fn sees(project: &Project, network: &str) -> bool {
    let named = word(project, "restricted.networks.access");
    !is_restricted(project) || named.is_empty() || names_of(named).any(|name| name == network)
}

/// Whether a project sees a network: `restricted.networks.access` may keep it away.
pub fn sees_network(model: &Model, project: &ProjectName, network: &str) -> bool {
    model.projects.get(project).is_none_or(|record| sees(record, network))
}

/// Whether snapshots can be made in a project, of instances and of volumes.
///
/// # Errors
/// [`Error::Snapshots`].
pub fn may_make_snapshots(model: &Model, project: &ProjectName) -> Result<(), Error> {
    match model.projects.get(project) {
        Some(record) if is_restricted(record) && !is_allowed(record, "restricted.snapshots") => {
            Err(Error::Snapshots { project: project.clone() })
        }
        Some(_) | None => Ok(()),
    }
}

/// Whether a client may set the daemon's own keys of an instance as in `new`: in a restricted project only those by which
/// an instance is moved. `old`: what they are.
///
/// # Errors
/// [`Error::Volatile`].
pub fn check_own_keys(model: &Model, instance: &InstanceKey, old: &Config, new: &Config) -> Result<(), Error> {
    if !model.projects.get(&instance.project).is_some_and(|record| is_restricted(record)) {
        return Ok(());
    }
    let free = |rest: &str| {
        matches!(rest, "base_image" | "last_state.power" | "apply_template")
            || rest.strip_suffix(".hwaddr").is_some_and(|device| !device.is_empty() && !device.contains('.'))
    };
    let set = new.iter().find(|(key, value)| {
        let rest = key.strip_prefix("volatile.");
        rest.is_some_and(|rest| !free(rest)) && !value.is_empty() && old.get(*key) != Some(value)
    });
    match set {
        Some((key, _)) => Err(Error::Volatile { key: key.clone(), instance: instance.clone() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn project(pairs: &[(&str, &str)]) -> Project {
        let mut config = map(pairs);
        config.insert("restricted".to_owned(), "true".to_owned());
        Project { name: ProjectName::new("r").unwrap(), description: String::new(), config }
    }

    fn subject() -> Subject {
        Subject::Profile(ProjectName::new("r").unwrap(), crate::names::ProfileName::new("p").unwrap())
    }

    fn keys(project: &Project, key: &str, value: &str) -> bool {
        check_config(project, &subject(), &map(&[(key, value)])).is_ok()
    }

    fn device(project: &Project, device: &[(&str, &str)]) -> bool {
        check_devices(project, &subject(), &[("d".to_owned(), map(device))].into()).is_ok()
    }

    #[test]
    fn what_is_not_named_is_blocked() {
        let strict = project(&[]);
        for key in LOW_LEVEL {
            assert!(!keys(&strict, key, "1"), "{key}");
        }
        for (key, value) in [
            ("raw.lxc", "x"),
            ("raw.idmap", "both 1000 1000"),
            ("security.nesting", "true"),
            ("security.privileged", "true"),
            ("security.syscalls.intercept.mknod", "true"),
            ("security.syscalls.intercept.mount.fuse", "ext4=fuse2fs"),
            ("security.syscalls.intercept.mount.allowed", "ext4"),
        ] {
            assert!(!keys(&strict, key, value), "{key}");
        }
        for (key, value) in [("security.nesting", "false"), ("limits.memory", "1MB"), ("user.x", "y")] {
            assert!(keys(&strict, key, value), "{key}");
        }
        assert!(!device(&strict, &[("type", "tpm")]), "of a type that nobody thought of");
        assert!(device(&strict, &[("type", "none")]));
        assert!(device(&strict, &[("type", "disk"), ("path", "/"), ("pool", "p")]));
    }

    #[test]
    fn interception_comes_in_three_steps() {
        let (some, full) = ("security.syscalls.intercept.mknod", "security.syscalls.intercept.mount.allowed");
        for (granted, expected) in [("block", [false, false]), ("allow", [true, false]), ("full", [true, true])] {
            let project = project(&[("restricted.containers.interception", granted)]);
            assert_eq!([keys(&project, some, "true"), keys(&project, full, "ext4")], expected, "{granted}");
        }
    }

    #[test]
    fn sources_of_disks_lie_below_what_is_named() {
        let project =
            project(&[("restricted.devices.disk", "allow"), ("restricted.devices.disk.paths", "/srv/a, /srv/b")]);
        let disk = |source: &str| device(&project, &[("type", "disk"), ("path", "/m"), ("source", source)]);
        assert!(disk("/srv/a") && disk("/srv/b/c"));
        assert!(!disk("/srv/ab") && !disk("/srv/a/../c") && !disk("/srv"));
    }

    #[test]
    fn ids_of_the_host_are_those_that_are_named() {
        let project = project(&[("restricted.idmap.uid", "1000-1009,5"), ("restricted.idmap.gid", "1000")]);
        assert!(keys(&project, "raw.idmap", "both 1000 1000\nuid 1001-1009 1-9"));
        assert!(!keys(&project, "raw.idmap", "both 1001 1000"));
        assert!(!keys(&project, "raw.idmap", "uid 1005-1010 5-10"));
    }

    #[test]
    fn networks_are_those_that_are_named() {
        let project = project(&[("restricted.devices.nic", "allow"), ("restricted.networks.access", "n1")]);
        assert!(device(&project, &[("type", "nic"), ("network", "n1")]));
        assert!(!device(&project, &[("type", "nic"), ("network", "n2")]));
        assert!(!device(&project, &[("type", "nic"), ("nictype", "bridged"), ("parent", "br0")]));
        assert!(device(&project, &[("type", "nic"), ("nictype", "p2p")]));
    }
}
