//! The live state: read from cgroups and the network namespace at the moment it is asked for. Blocking, no fork.

use std::path::Path;

use super::nics;
use super::state::Snapshot;
use crate::api::wire::InstanceState;
use crate::network;
use crate::sys::cgroup::{Hierarchies, InstanceUsage};
use crate::sys::netlink::Visitor;

/// Reads the states of instances (with the file of their nics), in their order; one that ends meanwhile is shown without figures.
pub fn states(snapshots: &[(Snapshot, &Path)]) -> Vec<InstanceState> {
    let without = || snapshots.iter().map(|(snapshot, nics)| state(*snapshot, nics, None)).collect();
    if !snapshots.iter().any(|(snapshot, _)| snapshot.status.is_up()) {
        return without();
    }
    // One thread for all: starting one for each takes longer than the reading.
    let visit = |visitor: &mut Visitor| {
        snapshots.iter().map(|(snapshot, nics)| state(*snapshot, nics, Some(&mut *visitor))).collect()
    };
    Visitor::run(visit).unwrap_or_else(|error| {
        tracing::warn!(%error, "states are shown without their networks");
        without()
    })
}

fn state(snapshot: Snapshot, nics: &Path, visitor: Option<&mut Visitor>) -> InstanceState {
    let mut state = InstanceState {
        status: snapshot.status.word().to_owned(),
        status_code: snapshot.status.code(),
        pid: snapshot.pid.into(),
        ..InstanceState::default()
    };
    if !snapshot.status.is_up() {
        return state;
    }
    if let Some(usage) = Hierarchies::of_host().and_then(|found| InstanceUsage::read(found, snapshot.pid).ok()) {
        state.memory = usage.memory_state();
        state.cpu = usage.cpu_state();
        state.processes = i64::try_from(usage.processes.unwrap_or(0)).unwrap_or(i64::MAX);
    }
    state.network = visitor.and_then(|visitor| network::state::of_netns(visitor, snapshot.pid).ok());
    // The kernel tells only where the other end of a pair is.
    for (name, interface) in state.network.iter_mut().flatten().filter(|(name, _)| *name != "lo") {
        if interface.host_name.is_empty() {
            interface.host_name = nics::host_name(nics, name).unwrap_or_default();
        }
    }
    state
}
