//! `limits.*` of projects: how many of something, and how much of something all instances together.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Error;
use crate::api::wire::{Config, Devices};
use crate::config::{parse_int, parse_size};
use crate::db::{Instance, Model, Phase, Project, Volume};
use crate::profile::expand_instance;

/// What `GET …/state` says of a resource; -1 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource {
    /// The most there may be.
    pub limit: i64,
    /// How much there is, as far as instances say.
    pub usage: i64,
}

/// A sum over all instances.
struct Sum {
    key: &'static str,
    is_size: bool,
}

const DISK: &str = "limits.disk";
const SUMS: [Sum; 4] = [
    Sum { key: "limits.cpu", is_size: false },
    Sum { key: DISK, is_size: true },
    Sum { key: "limits.memory", is_size: true },
    Sum { key: "limits.processes", is_size: false },
];

/// Numbers of objects: what they are called, and the key.
const COUNTS: [(&str, &str); 3] = [
    ("instances", "limits.instances"),
    ("instances of type \"container\"", "limits.containers"),
    ("networks", "limits.networks"),
];

fn number(text: &str, is_size: bool) -> Option<u64> {
    if is_size { parse_size(text) } else { parse_int(text).and_then(|number| u64::try_from(number).ok()) }
}

fn limit(config: &Config, key: &str, is_size: bool) -> Option<u64> {
    config.get(key).filter(|text| !text.is_empty()).and_then(|text| number(text, is_size))
}

/// Whether a project has any limit.
pub(super) fn any(project: &Project) -> bool {
    project.config.iter().any(|(key, value)| key.starts_with("limits.") && !value.is_empty())
}

/// Whether a device is a root disk.
pub(super) fn is_root(device: &Config) -> bool {
    let says = |key: &str, value: &str| device.get(key).is_some_and(|found| found == value);
    says("type", "disk") && says("path", "/")
}

fn volumes<'a>(model: &'a Model, project: &'a Project) -> impl Iterator<Item = &'a Arc<Volume>> {
    let counts = |volume: &&Arc<Volume>| volume.key.project == project.name && volume.phase != Phase::Deleting;
    model.volumes.values().filter(counts)
}

/// Bytes of the images that lie in a project; one that is being removed counts no more.
fn images_size(model: &Model, project: &Project) -> u64 {
    let own = model.images.values().filter(|image| image.project == project.name && image.phase != Phase::Deleting);
    own.map(|image| u64::try_from(image.size).unwrap_or(0)).fold(0, u64::saturating_add)
}

fn volume_size(volume: &Volume) -> Option<u64> {
    volume.config.get("size").and_then(|text| parse_size(text))
}

fn root_size(devices: &Devices) -> Option<&String> {
    devices.values().find(|device| is_root(device)).and_then(|device| device.get("size"))
}

impl Sum {
    /// What an instance adds: `Ok(None)` when it does not say.
    fn of(&self, model: &Model, record: &Instance) -> Result<Option<u64>, Error> {
        let expanded = expand_instance(model, record);
        let text = if self.key == DISK { root_size(&expanded.devices) } else { expanded.config.get(self.key) };
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
        let unusable = || Error::Unusable { key: self.key, value: text.clone(), instance: record.key.clone() };
        number(text, self.is_size).map(Some).ok_or_else(unusable)
    }

    fn check(&self, model: &Model, project: &Project, lowered: bool) -> Result<(), Error> {
        let Some(limit) = limit(&project.config, self.key, self.is_size) else { return Ok(()) };
        let mut total: u64 = 0;
        for record in super::instances(model, &project.name) {
            let instance = || record.key.clone();
            let unset = || match self.key {
                DISK => Error::NoSize { instance: instance() },
                key => Error::Unset { key, instance: instance() },
            };
            total = total.saturating_add(self.of(model, record)?.ok_or_else(unset)?);
        }
        for volume in volumes(model, project).filter(|_| self.key == DISK) {
            let unset = || Error::NoVolumeSize { volume: volume.key.clone() };
            total = total.saturating_add(volume_size(volume).ok_or_else(unset)?);
        }
        if self.key == DISK {
            total = total.saturating_add(images_size(model, project));
        }
        if total <= limit {
            return Ok(());
        }
        let shown = if self.is_size { size_text(total) } else { total.to_string() };
        let (key, name) = (self.key, project.name.clone());
        Err(if lowered {
            Error::BelowTotal { key, total: shown, project: name }
        } else {
            let limit = project.config.get(key).cloned().unwrap_or_default();
            Error::Reached { key, limit, total: shown, project: name }
        })
    }
}

/// Bytes with a binary unit and two digits.
fn size_text(bytes: u64) -> String {
    let mut whole = u128::from(bytes) * 100;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if whole < 102_400 {
            return format!("{}.{:02}{unit}", whole / 100, whole % 100);
        }
        whole /= 1024;
    }
    format!("{}.{:02}PiB", whole / 100, whole % 100)
}

fn counted(model: &Model, project: &Project, key: &str) -> u64 {
    let count = match key {
        "limits.networks" => model.networks.keys().filter(|(of, _)| *of == project.name).count(),
        _ => super::instances(model, &project.name).count(),
    };
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Checks all limits of a project against what lies in it by `model`. `lowered`: it is they that change.
pub(super) fn check(model: &Model, project: &Project, lowered: bool) -> Result<(), Error> {
    for (what, key) in COUNTS {
        let Some(limit) = limit(&project.config, key, false) else { continue };
        let (found, project) = (counted(model, project, key), project.name.clone());
        if found > limit {
            return Err(if lowered {
                Error::TooLow { what, key, found, project }
            } else {
                Error::TooMany { what, key, limit, project }
            });
        }
    }
    SUMS.iter().try_for_each(|sum| sum.check(model, project, lowered))
}

/// Whether one network more may be there.
pub(super) fn one_network_more(model: &Model, project: &Project) -> Result<(), Error> {
    let key = "limits.networks";
    match limit(&project.config, key, false) {
        Some(limit) if counted(model, project, key) >= limit => {
            Err(Error::TooMany { what: "networks", key, limit, project: project.name.clone() })
        }
        Some(_) | None => Ok(()),
    }
}

/// What root disks have, and volumes and images beside them.
fn disk_known(model: &Model, project: &Project, of_instances: u64) -> u64 {
    let volumes = volumes(model, project).filter_map(|volume| volume_size(volume));
    volumes.fold(of_instances, u64::saturating_add).saturating_add(images_size(model, project))
}

/// Whether `limits.disk` of a project lets so many bytes more be there.
pub(super) fn more_on_disk(model: &Model, project: &Project, bytes: u64) -> Result<(), Error> {
    let Some(left) = disk_left(model, project).filter(|left| *left < bytes) else { return Ok(()) };
    let limit = project.config.get(DISK).cloned().unwrap_or_default();
    let used = number(&limit, true).unwrap_or(0).saturating_sub(left);
    let total = size_text(used.saturating_add(bytes));
    Err(Error::Reached { key: DISK, limit, total, project: project.name.clone() })
}

/// What `limits.disk` leaves of a project, bytes; `None` when it is not limited. What does not say its part is left out.
pub fn disk_left(model: &Model, project: &Project) -> Option<u64> {
    let limit = limit(&project.config, DISK, true)?;
    let used = resources(model, project).get("disk").map_or(0, |disk| u64::try_from(disk.usage).unwrap_or(0));
    Some(limit.saturating_sub(used))
}

/// The resources of a project by name.
pub fn resources(model: &Model, project: &Project) -> BTreeMap<&'static str, Resource> {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let of = |key: &str, is_size: bool, usage: u64| Resource {
        limit: limit(&project.config, key, is_size).map_or(-1, signed),
        usage: signed(usage),
    };
    let name = |key: &'static str| key.strip_prefix("limits.").unwrap_or(key);
    let mut all: BTreeMap<_, _> =
        COUNTS.iter().map(|(_, key)| (name(key), of(key, false, counted(model, project, key)))).collect();
    all.insert("virtual-machines", of("limits.virtual-machines", false, 0));
    for sum in &SUMS {
        // What an instance does not say, or says in parts, is not known.
        let known = super::instances(model, &project.name).filter_map(|record| sum.of(model, record).ok().flatten());
        let mut known = known.fold(0, u64::saturating_add);
        if sum.key == DISK {
            known = disk_known(model, project, known);
        }
        all.insert(name(sum.key), of(sum.key, sum.is_size, known));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{InstanceKey, InstanceName, PoolName, ProjectName};

    fn map(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn project(config: &[(&str, &str)]) -> Project {
        Project { name: ProjectName::new("p").unwrap(), description: String::new(), config: map(config) }
    }

    /// Instances `a`, `b`… with root disks of these sizes.
    fn model(sizes: &[&str]) -> Model {
        let mut model = Model::default();
        for (letter, size) in ('a'..).zip(sizes) {
            let key = InstanceKey {
                project: ProjectName::new("p").unwrap(),
                name: InstanceName::new(letter.to_string()).unwrap(),
            };
            let root = map(&[("type", "disk"), ("path", "/"), ("pool", "pool"), ("size", size)]);
            let record = Instance {
                key: key.clone(),
                phase: Phase::Ready,
                description: String::new(),
                architecture: "x86_64".to_owned(),
                ephemeral: false,
                profiles: Vec::new(),
                config: Config::new(),
                devices: [("root".to_owned(), root)].into(),
                created_at: 0,
                last_used_at: 0,
                pool: PoolName::new("pool").unwrap(),
            };
            Arc::make_mut(&mut model.instances).insert(key, Arc::new(record));
        }
        model
    }

    #[test]
    fn root_disks_are_added_up() {
        let limited = project(&[("limits.disk", "1GB")]);
        check(&model(&["400MB", "600MB"]), &limited, false).unwrap();
        let over = check(&model(&["400MB", "601MB"]), &limited, false).unwrap_err().to_string();
        assert!(over.contains("\"1GB\" for \"limits.disk\" in project \"p\": it would be 954.62MiB"), "{over}");
        let lowered = check(&model(&["400MB", "601MB"]), &limited, true).unwrap_err().to_string();
        assert!(lowered.contains("\"limits.disk\" is too low: current total is \"954.62MiB\""), "{lowered}");
        let unset = check(&model(&["400MB", ""]), &limited, false).unwrap_err().to_string();
        assert!(
            unset.starts_with("Instance \"b\" in project \"p\" has no \"size\" config set on the root device"),
            "{unset}"
        );
        let part = check(&model(&["10%"]), &limited, false).unwrap_err().to_string();
        assert!(part.contains("Failed parsing \"limits.disk\" for instance \"a\""), "{part}");
        let shown = resources(&model(&["400MB", "", "10%"]), &limited);
        assert_eq!(shown["disk"], Resource { limit: 1_000_000_000, usage: 400_000_000 });
    }

    #[test]
    fn no_sum_overflows() {
        let huge = model(&["8000PB", "8000PB", "8000PB"]);
        assert!(check(&huge, &project(&[("limits.disk", "9000PB")]), false).is_err());
        assert!(resources(&huge, &project(&[]))["disk"].usage > 0);
    }

    #[test]
    fn what_is_not_limited_is_not_asked() {
        let unset = model(&["", ""]);
        assert!(!any(&project(&[("limits.disk", ""), ("user.x", "y")])) && any(&project(&[("limits.cpu", "0")])));
        check(&unset, &project(&[("limits.disk", "")]), false).unwrap();
        assert_eq!(resources(&unset, &project(&[]))["disk"], Resource { limit: -1, usage: 0 });
    }

    #[test]
    fn sizes_are_shown_with_two_digits() {
        for (bytes, text) in [(0, "0.00B"), (1023, "1023.00B"), (1024, "1.00KiB"), (512_000_000, "488.28MiB")] {
            assert_eq!(size_text(bytes), text);
        }
    }
}
