//! Interfaces of the host that are ports of a bridge (`bridge.external_interfaces`).
//!
//! Which ones the daemon has put in stands in the file `external` of the network, written before they are: so they are taken
//! out when the configuration no longer names them, also after a crash.

use std::fs;
use std::path::Path;

use super::host::fail;
use super::{BridgeSpec, Error, dnsmasq};
use crate::names::NetworkName;
use crate::sys::netlink::{Link, Scope, Socket};

/// Name of the file.
pub(super) const FILE: &str = "external";

fn refuse(network: &NetworkName, interface: &str, why: &str) -> Error {
    Error::Invalid {
        reason: format!(
            "Invalid value for network \"{network}\" option \"bridge.external_interfaces\": the interface {interface:?} {why}"
        ),
    }
}

/// Whether `link` may become a port of `spec`'s bridge, whose number is `bridge` where it exists.
fn fits(socket: &mut Socket, spec: &BridgeSpec, link: &Link, bridge: Option<u32>) -> Result<(), Error> {
    let refuse = |why: &str| Err(refuse(&spec.name, &link.name, why));
    if link.master.is_some() && link.master == bridge {
        return Ok(());
    }
    if link.master.is_some() {
        return refuse("is a port of another bridge or bond: take it out there, or leave it out here");
    }
    if link.is_loopback() || link.kind == "bridge" {
        return refuse("cannot be a port of a bridge");
    }
    let addresses = socket.addresses().map_err(fail(spec.name.as_str()))?;
    if addresses.iter().any(|address| address.index == link.index && address.scope == Scope::Global) {
        return refuse("has addresses, which it would lose: only unconfigured interfaces can be bridged");
    }
    Ok(())
}

/// Checks that all interfaces named are there and can be ports. Blocking.
///
/// # Errors
/// [`Error::Invalid`], the kernel's.
pub fn check_external(spec: &BridgeSpec) -> Result<(), Error> {
    if spec.external.is_empty() {
        return Ok(());
    }
    let fail = fail(spec.name.as_str());
    let mut socket = Socket::open().map_err(&fail)?;
    let bridge = socket.link(spec.name.as_str()).map_err(&fail)?.map(|link| link.index);
    for name in &spec.external {
        let link = socket.link(name).map_err(&fail)?;
        let link = link.ok_or_else(|| refuse(&spec.name, name, "is not there: create it first, or leave it out"))?;
        fits(&mut socket, spec, &link, bridge)?;
    }
    Ok(())
}

/// Puts the interfaces into the bridge with the number `bridge`, and takes those out that are no longer named. Returns those
/// that are not there.
pub(super) fn apply(socket: &mut Socket, spec: &BridgeSpec, bridge: u32, dir: &Path) -> Result<Vec<String>, Error> {
    let fail = fail(spec.name.as_str());
    let file = dir.join(FILE);
    let old = fs::read_to_string(&file).unwrap_or_default();
    let old: Vec<&str> = old.lines().collect();
    if old.is_empty() && spec.external.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = |name: &&str| spec.external.iter().any(|own| own == name);
    let mut all: Vec<&str> = spec.external.iter().map(String::as_str).collect();
    all.extend(old.iter().copied().filter(|name| !wanted(name)));
    dnsmasq::write(&file, &all.join("\n"))?;
    let mut missing = Vec::new();
    for name in &spec.external {
        let Some(link) = socket.link(name).map_err(&fail)? else {
            missing.push(name.clone());
            continue;
        };
        fits(socket, spec, &link, Some(bridge))?;
        if link.master != Some(bridge) {
            socket.set_master(link.index, Some(bridge)).map_err(&fail)?;
        }
        if !link.is_up() {
            socket.set_up(link.index, true).map_err(&fail)?;
        }
    }
    for name in old.iter().filter(|name| !wanted(name)) {
        if let Some(link) = socket.link(name).map_err(&fail)?.filter(|link| link.master == Some(bridge)) {
            socket.set_master(link.index, None).map_err(&fail)?;
        }
    }
    if spec.external.is_empty() {
        dnsmasq::remove(&file)?
    } else {
        dnsmasq::write(&file, &spec.external.join("\n"))?
    }
    Ok(missing)
}
