//! What lives: the state of an instance, of interfaces, of what is used.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The live state of an instance (`/1.0/instances/<name>/state`).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceState {
    /// Text of `status_code`.
    pub status: String,
    /// As [`super::Instance::status_code`].
    pub status_code: u16,
    /// Root disk device to usage, as far as it is known.
    #[serde(deserialize_with = "super::null_default")]
    pub disk: BTreeMap<String, DiskState>,
    /// Memory use.
    pub memory: MemoryState,
    /// Interface to state; `null` when stopped.
    pub network: Option<BTreeMap<String, NetworkState>>,
    /// Of its init, in the host's numbering; 0 when stopped.
    pub pid: i64,
    /// Number of processes; 0 (LXD answers -1 when unknown).
    pub processes: i64,
    /// Processor use.
    pub cpu: CpuState,
}

/// Use of a disk, bytes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskState {
    /// Bytes that nothing else has.
    pub usage: i64,
}

/// Use of memory, bytes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryState {
    /// Bytes in use.
    pub usage: i64,
    /// Highest use since the start.
    pub usage_peak: i64,
    /// Bytes swapped out.
    pub swap_usage: i64,
    /// Highest since the start.
    pub swap_usage_peak: i64,
    /// Limit or size of the host's memory.
    pub total: i64,
}

/// Use of processors.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuState {
    /// Nanoseconds since the start.
    pub usage: i64,
}

/// One interface inside an instance (or, in `/1.0/networks/<n>/state`, of the host).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkState {
    /// Its addresses.
    pub addresses: Vec<Address>,
    /// Its counters.
    pub counters: NetworkCounters,
    /// MAC address.
    pub hwaddr: String,
    /// The other end on the host; empty when there is none.
    pub host_name: String,
    /// Bytes.
    pub mtu: i64,
    /// `up` or `down`.
    pub state: String,
    /// `broadcast`, `loopback`, `point-to-point` or `unknown`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// An address of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Address {
    /// `inet` or `inet6`.
    pub family: String,
    /// Without the prefix length.
    pub address: String,
    /// The prefix length, as text.
    pub netmask: String,
    /// `local`, `link` or `global`.
    pub scope: String,
}

/// Counters of an interface.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are the kernel's own counters")]
pub struct NetworkCounters {
    pub bytes_received: i64,
    pub bytes_sent: i64,
    pub packets_received: i64,
    pub packets_sent: i64,
    pub errors_received: i64,
    pub errors_sent: i64,
    pub packets_dropped_outbound: i64,
    pub packets_dropped_inbound: i64,
}
