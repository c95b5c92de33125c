//! Whether the addresses of a bridge are those of something else on this host, too.

use std::net::IpAddr;

use super::host::fail;
use super::{BridgeSpec, Error, Net4, Net6};
use crate::sys::netlink::Socket;

/// Two that claim the same addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// The key of the network.
    pub key: &'static str,
    /// What else has them, with the way out.
    pub what: String,
    /// One of the two cannot work: both are directly at this host.
    pub is_certain: bool,
}

fn overlapping(spec: &BridgeSpec, address: IpAddr, prefix: u8) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => {
            let own = spec.ipv4.as_ref()?.address;
            Net4 { address, prefix }.overlaps(own).then_some("ipv4.address")
        }
        IpAddr::V6(address) => {
            let own = spec.ipv6.as_ref()?.address;
            let other = Net6 { address, prefix };
            let overlaps = other.contains(own.first()) || own.contains(other.first());
            overlaps.then_some("ipv6.address")
        }
    }
}

fn own_address(spec: &BridgeSpec, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => spec.ipv4.as_ref().is_some_and(|own| own.address.address == address),
        IpAddr::V6(address) => spec.ipv6.as_ref().is_some_and(|own| own.address.address == address),
    }
}

/// What on this host overlaps the network: addresses of other interfaces, and routes but the default one. Blocking.
///
/// # Errors
/// The kernel's.
pub fn overlaps(spec: &BridgeSpec) -> Result<Vec<Overlap>, Error> {
    let fail = fail(spec.name.as_str());
    let mut socket = Socket::open().map_err(&fail)?;
    let links = socket.links().map_err(&fail)?;
    let name_of = |index: u32| links.iter().find(|link| link.index == index).map(|link| link.name.clone());
    let bridge = links.iter().find(|link| link.name == spec.name.as_str()).map(|link| link.index);
    let mut found = Vec::new();
    for address in socket.addresses().map_err(&fail)?.iter().filter(|address| Some(address.index) != bridge) {
        let Some(key) = overlapping(spec, address.address, address.prefix) else { continue };
        let name = name_of(address.index).unwrap_or_default();
        let same = own_address(spec, address.address);
        // One alone in its network is reached by a route of its own.
        let alone = address.prefix == if address.address.is_ipv4() { 32 } else { 128 };
        let what = if same {
            format!("the interface {name:?} has the address {} already: choose another one", address.address)
        } else {
            let (address, prefix) = (address.address, address.prefix);
            format!("it overlaps the network {address}/{prefix} of the interface {name:?}: choose a free subnet")
        };
        found.push(Overlap { key, what, is_certain: same || !alone });
    }
    for route in socket.routes().map_err(&fail)?.iter().filter(|route| route.prefix > 0) {
        if route.index == bridge && bridge.is_some() {
            continue;
        }
        let Some(key) = overlapping(spec, route.destination, route.prefix) else { continue };
        let by = route.index.and_then(name_of).unwrap_or_default();
        let (to, prefix) = (route.destination, route.prefix);
        let what = format!(
            "the host routes {to}/{prefix} to {by:?}: what is there cannot be reached from here, or the instances cannot"
        );
        // A network directly at an interface was found by its address.
        if !found.iter().any(|overlap| overlap.key == key && overlap.is_certain) {
            found.push(Overlap { key, what, is_certain: false });
        }
    }
    Ok(found)
}
