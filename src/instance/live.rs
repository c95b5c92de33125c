//! The live state: read from cgroups and the network namespace at the moment it is asked for. Blocking, no fork.

use std::sync::OnceLock;

use super::state::Snapshot;
use crate::api::wire::InstanceState;
use crate::network;
use crate::sys::cgroup::{Hierarchies, InstanceUsage};

/// The hierarchies do not change while the daemon runs.
static HIERARCHIES: OnceLock<Option<Hierarchies>> = OnceLock::new();

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
    let hierarchies = HIERARCHIES.get_or_init(|| {
        Hierarchies::detect().inspect_err(|error| tracing::warn!(%error, "no control groups found")).ok()
    });
    if let Some(usage) = hierarchies.as_ref().and_then(|h| InstanceUsage::read(h, snapshot.pid).ok()) {
        state.memory = usage.memory_state();
        state.cpu = usage.cpu_state();
        state.processes = i64::try_from(usage.processes.unwrap_or(0)).unwrap_or(i64::MAX);
    }
    state.network = network::state::of_netns(snapshot.pid).ok();
    state
}
