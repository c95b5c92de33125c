//! What metrics tell of running instances: read in one pass over their control groups and network namespaces. Blocking,
//! no fork, and nothing inside an instance is asked.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::db::Model;
use crate::device::{Disk, Plug, Set, Source};
use crate::names::{InstanceKey, PoolName};
use crate::profile;
use crate::storage::Registry;
use crate::sys::cgroup::figures::Figures;
use crate::sys::cgroup::{Groups, Hierarchies};
use crate::sys::netlink::{Counters, Visitor};
use crate::sys::space::{self, Space};

/// Whoever is root inside can make any number of interfaces: so many are told of.
const MAX_INTERFACES: usize = 128;

/// A running instance, as it was.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Which.
    pub key: InstanceKey,
    /// Of its control group.
    pub figures: Figures,
    /// Of its interfaces, by their names inside.
    pub network: Vec<(String, Counters)>,
}

/// What a disk of an instance lies on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// The file system of a pool.
    Pool(PoolName),
    /// A path of the host.
    Host(PathBuf),
}

/// A file system that an instance has as a disk.
#[derive(Debug, Clone)]
pub struct FileSystem {
    /// Which instance.
    pub key: InstanceKey,
    /// Its source as the device names it, empty for the root disk: a volume's name, or a path of the host.
    pub source: String,
    /// Where it is mounted inside.
    pub path: String,
    /// Its room, on the host: what others have of the same file system counts.
    pub space: Space,
}

/// The disks of an instance: source, path inside, place.
fn disks(model: &Model, key: &InstanceKey) -> Vec<(String, String, Place)> {
    let record = model.instances.get(key);
    let Some(set) = record.and_then(|record| Set::parse(&profile::expand_instance(model, record).devices).ok()) else {
        return Vec::new();
    };
    let root = set.root.map(|(_, root)| (String::new(), "/".to_owned(), Place::Pool(root.pool)));
    let others = set.plugs.into_values().filter_map(|plug| match plug {
        Plug::Disk(Disk { path, source: Source::Host(source), .. }) => {
            Some((source.clone(), path, Place::Host(source.into())))
        }
        Plug::Disk(Disk { path, source: Source::Volume { pool, volume, .. }, .. }) => {
            Some((volume.to_string(), path, Place::Pool(pool)))
        }
        Plug::Node(_) => None,
    });
    root.into_iter().chain(others).collect()
}

/// Looks at the file systems of the disks of these instances, each once. Blocking, and for as long as a file system of the
/// host does not answer. What cannot be looked at is left out, and so are disks that are block devices.
pub fn file_systems(model: &Model, pools: &Registry, running: &[InstanceKey]) -> Vec<FileSystem> {
    let look = |path: &Path| {
        let is_device = path.metadata().is_ok_and(|found| found.file_type().is_block_device());
        space::of(path).ok().filter(|_| !is_device)
    };
    let mut known: BTreeMap<Place, Option<Space>> = BTreeMap::new();
    let mut found = Vec::new();
    for key in running {
        for (source, path, place) in disks(model, key) {
            let space = known.entry(place).or_insert_with_key(|place| match place {
                Place::Pool(name) => pools.get(name).ok().and_then(|pool| look(pool.root())),
                Place::Host(path) => look(path),
            });
            found.extend(space.clone().map(|space| FileSystem { key: key.clone(), source, path, space }));
        }
    }
    found
}

/// Reads these instances, known by their init. One that ends meanwhile is left out.
pub fn readings(running: &[(InstanceKey, i32)]) -> Vec<Reading> {
    if running.is_empty() {
        return Vec::new();
    }
    let read = |mut visitor: Option<&mut Visitor>| {
        let one = |(key, pid): &(InstanceKey, i32)| {
            let hierarchies = Hierarchies::of_host()?;
            let groups = Groups::of_instance(*pid).ok()?;
            let figures = Figures::of_groups(hierarchies, &groups);
            let network = visitor.as_deref_mut().and_then(|visitor| counters(visitor, *pid)).unwrap_or_default();
            Some(Reading { key: key.clone(), figures, network })
        };
        running.iter().filter_map(one).collect::<Vec<_>>()
    };
    // One thread for all: starting one for each takes longer than the reading.
    Visitor::run(|visitor| read(Some(visitor))).unwrap_or_else(|error| {
        tracing::warn!(%error, "metrics are told without networks");
        read(None)
    })
}

fn counters(visitor: &mut Visitor, pid: i32) -> Option<Vec<(String, Counters)>> {
    let namespace = File::open(format!("/proc/{pid}/ns/net")).ok()?;
    let links = visitor.open_in(namespace.as_fd()).ok()?.links().ok()?;
    // By name, each once: names that are no text may look alike.
    let by_name: BTreeMap<String, Counters> =
        links.into_iter().take(MAX_INTERFACES).map(|link| (link.name, link.counters)).collect();
    Some(by_name.into_iter().collect())
}
