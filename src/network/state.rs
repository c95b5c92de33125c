//! What the network of a running instance, or an interface of the host, looks like now.
//!
//! No fork and no agent: a thread visits the instances' network namespaces and reads there.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;

use serde::Serialize;

use super::Error;
use super::host::fail;
use crate::api::wire::{Address as WireAddress, NetworkCounters, NetworkState};
use crate::sys::netlink::{Address, Link, Scope, Socket, Visitor};

/// The interfaces inside the network namespace of the process `pid`, by name.
///
/// # Errors
/// [`Error::NoProcess`] when it is gone; the kernel's.
pub fn of_netns(visitor: &mut Visitor, pid: i32) -> Result<BTreeMap<String, NetworkState>, Error> {
    let name = || format!("of process {pid}");
    let path = format!("/proc/{pid}/ns/net");
    let namespace = File::open(&path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::NoProcess { pid },
        _ => Error::File { operation: "open", path: path.into(), source },
    })?;
    let mut socket = visitor.open_in(namespace.as_fd()).map_err(fail(&name()))?;
    let links = socket.links().map_err(fail(&name()))?;
    let addresses = socket.addresses().map_err(fail(&name()))?;
    let mut found = BTreeMap::new();
    for link in &links {
        let host_name = host_end(visitor.host(), link).map_err(fail(&name()))?;
        found.insert(link.name.clone(), describe(link, &addresses, host_name));
    }
    Ok(found)
}

/// The name of the host's end of a veth pair.
fn host_end(host: &mut Socket, link: &Link) -> Result<String, crate::sys::netlink::Error> {
    let Some(peer) = link.peer.filter(|_| link.kind == "veth" && link.peer_elsewhere) else {
        return Ok(String::new());
    };
    // The number may be that of an interface in a third namespace: the host's end points back.
    let end = host.link_by_index(peer)?;
    let points_back = |end: &Link| end.kind == "veth" && end.peer == Some(link.index) && end.peer_elsewhere;
    Ok(end.filter(points_back).map(|end| end.name).unwrap_or_default())
}

fn describe(link: &Link, addresses: &[Address], host_name: String) -> NetworkState {
    let figure = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let counters = &link.counters;
    NetworkState {
        addresses: addresses.iter().filter(|address| address.index == link.index).map(wire_address).collect(),
        counters: NetworkCounters {
            bytes_received: figure(counters.rx_bytes),
            bytes_sent: figure(counters.tx_bytes),
            packets_received: figure(counters.rx_packets),
            packets_sent: figure(counters.tx_packets),
            errors_received: figure(counters.rx_errors),
            errors_sent: figure(counters.tx_errors),
            packets_dropped_outbound: figure(counters.tx_dropped),
            packets_dropped_inbound: figure(counters.rx_dropped),
        },
        hwaddr: link.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        host_name,
        mtu: i64::from(link.mtu),
        state: if link.is_up() { "up" } else { "down" }.to_owned(),
        kind: link.medium().to_owned(),
    }
}

fn wire_address(address: &Address) -> WireAddress {
    WireAddress {
        family: if address.address.is_ipv4() { "inet" } else { "inet6" }.to_owned(),
        address: address.address.to_string(),
        netmask: address.prefix.to_string(),
        scope: match address.scope {
            Scope::Global => "global",
            Scope::Link => "link",
            Scope::Host => "local",
        }
        .to_owned(),
    }
}

/// An interface of the host (`GET /1.0/networks/<name>/state`).
#[derive(Debug, Clone, Serialize)]
pub struct HostState {
    /// Addresses, counters and so on.
    #[serde(flatten)]
    pub common: NetworkState,
    /// Of a bridge.
    pub bridge: Option<BridgeState>,
    /// Of a VLAN.
    pub vlan: Option<VlanState>,
    /// Details of a bond are not told.
    pub bond: Option<()>,
    /// There is no OVN here.
    pub ovn: Option<()>,
}

/// What only a bridge has.
#[derive(Debug, Clone, Serialize)]
pub struct BridgeState {
    /// Priority and MAC address.
    pub id: String,
    /// Spanning tree.
    pub stp: bool,
    /// Hundredths of a second.
    pub forward_delay: u32,
    /// VLAN of untagged frames; 0 without filtering.
    pub vlan_default: u16,
    /// Whether it filters by VLAN.
    pub vlan_filtering: bool,
    /// Its ports.
    pub upper_devices: Vec<String>,
}

/// What only a VLAN has.
#[derive(Debug, Clone, Serialize)]
pub struct VlanState {
    /// The interface below.
    pub lower_device: String,
    /// Its number.
    pub vid: u16,
}

/// An interface of the host as it is now.
///
/// # Errors
/// [`Error::NoInterface`]; the kernel's.
pub fn of_host(name: &str) -> Result<HostState, Error> {
    let mut socket = Socket::open().map_err(fail(name))?;
    let links = socket.links().map_err(fail(name))?;
    let addresses = socket.addresses().map_err(fail(name))?;
    let link = links.iter().find(|link| link.name == name);
    let link = link.ok_or_else(|| Error::NoInterface { name: name.to_owned() })?;
    let ports = || links.iter().filter(|port| port.master == Some(link.index)).map(|port| port.name.clone());
    let lower = || links.iter().find(|lower| Some(lower.index) == link.peer).map(|lower| lower.name.clone());
    Ok(HostState {
        common: describe(link, &addresses, String::new()),
        bridge: link.bridge.as_ref().map(|bridge| BridgeState {
            id: bridge.id.clone(),
            stp: bridge.stp,
            forward_delay: bridge.forward_delay,
            vlan_default: if bridge.vlan_filtering { bridge.vlan_default } else { 0 },
            vlan_filtering: bridge.vlan_filtering,
            upper_devices: ports().collect(),
        }),
        vlan: link.vlan_id.map(|vid| VlanState { lower_device: lower().unwrap_or_default(), vid }),
        bond: None,
        ovn: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_has_a_loopback() {
        let own = i32::try_from(std::process::id()).unwrap();
        let visit = |pid| Visitor::run(|visitor| of_netns(visitor, pid)).unwrap();
        let own = visit(own).unwrap();
        let lo = &own["lo"];
        assert_eq!((lo.kind.as_str(), lo.hwaddr.as_str(), lo.host_name.as_str()), ("loopback", "", ""));
        assert!(lo.addresses.iter().all(|address| address.scope == "local"));
        assert!(matches!(visit(i32::MAX), Err(Error::NoProcess { .. })));
    }

    #[test]
    fn an_unknown_interface_is_named() {
        assert_eq!(of_host("nonex").unwrap_err().to_string(), "Network interface \"nonex\" not found");
        let state = serde_json::to_value(of_host("lo").unwrap()).unwrap();
        assert_eq!((&state["type"], &state["bridge"]), (&"loopback".into(), &serde_json::Value::Null));
    }
}
