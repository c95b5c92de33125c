//! What metrics tell of running instances: read in one pass over their control groups and network namespaces. Blocking,
//! no fork, and nothing inside an instance is asked.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;

use crate::names::InstanceKey;
use crate::sys::cgroup::figures::Figures;
use crate::sys::cgroup::{Groups, Hierarchies};
use crate::sys::netlink::{Counters, Visitor};

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
