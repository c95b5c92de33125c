//! The live state: read from cgroups and the network namespace at the moment it is asked for. Blocking, no fork.

use super::state::Snapshot;
use crate::api::wire::InstanceState;
use crate::network;
use crate::sys::cgroup::{Hierarchies, InstanceUsage};
use crate::sys::netlink::Visitor;

/// Reads the states of instances, in their order; one that ends meanwhile is shown without figures.
pub fn states(snapshots: &[Snapshot]) -> Vec<InstanceState> {
    if !snapshots.iter().any(|snapshot| snapshot.status.is_up()) {
        return snapshots.iter().map(|snapshot| state(*snapshot, None)).collect();
    }
    // One thread for all: starting one for each takes longer than the reading.
    let visit =
        |visitor: &mut Visitor| snapshots.iter().map(|snapshot| state(*snapshot, Some(&mut *visitor))).collect();
    Visitor::run(visit).unwrap_or_else(|error| {
        tracing::warn!(%error, "states are shown without their networks");
        snapshots.iter().map(|snapshot| state(*snapshot, None)).collect()
    })
}

fn state(snapshot: Snapshot, visitor: Option<&mut Visitor>) -> InstanceState {
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
    state
}
