//! The live state: read from cgroups and the network namespace at the moment it is asked for. Blocking, no fork.

use super::state::Snapshot;
use crate::api::wire::InstanceState;
use crate::network;
use crate::sys::cgroup::{Hierarchies, InstanceUsage};

/// Reads the state of an instance; one that ends meanwhile is shown without figures.
pub fn state(snapshot: Snapshot) -> InstanceState {
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
    state.network = network::state::of_netns(snapshot.pid).ok();
    state
}
