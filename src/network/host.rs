//! The interfaces of this host, managed or not.

use std::path::Path;

use super::Error;
use crate::sys::netlink::{Link, Socket};

/// An interface of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostInterface {
    /// Its name.
    pub name: String,
    /// LXD's word: `loopback`, `bridge`, `vlan`, `bond`, `physical` or `unknown`.
    pub kind: &'static str,
}

fn kind(link: &Link) -> &'static str {
    match link.kind.as_str() {
        _ if link.is_loopback() => "loopback",
        "bridge" | "openvswitch" => "bridge",
        "vlan" => "vlan",
        "bond" => "bond",
        // Kernels before 5.14 do not tell the device by netlink.
        "" if link.hardware || Path::new("/sys/class/net").join(&link.name).join("device").exists() => "physical",
        _ if link.hardware => "physical",
        _ => "unknown",
    }
}

pub(super) fn fail(name: &str) -> impl Fn(crate::sys::netlink::Error) -> Error {
    move |source| Error::Netlink { network: name.to_owned(), source }
}

/// The interfaces of this host in the kernel's order, without the instances' ends (`veth…`).
///
/// # Errors
/// The kernel's.
pub fn host_interfaces() -> Result<Vec<HostInterface>, Error> {
    let links = Socket::open().and_then(|mut socket| socket.links()).map_err(fail("host"))?;
    let shown = links.into_iter().filter(|link| !(link.kind == "veth" && link.name.starts_with("veth")));
    Ok(shown.map(|link| HostInterface { kind: kind(&link), name: link.name }).collect())
}

/// One interface of this host.
///
/// # Errors
/// The kernel's.
pub fn host_interface(name: &str) -> Result<Option<HostInterface>, Error> {
    let link = find(name)?;
    Ok(link.map(|link| HostInterface { kind: kind(&link), name: link.name }))
}

/// Whether the host has an interface of this name: a new network must not take it over.
///
/// # Errors
/// The kernel's.
pub fn interface_exists(name: &str) -> Result<bool, Error> {
    Ok(find(name)?.is_some())
}

fn find(name: &str) -> Result<Option<Link>, Error> {
    // The kernel refuses longer names as malformed, not as unknown.
    if name.is_empty() || name.len() > 15 {
        return Ok(None);
    }
    Socket::open().and_then(|mut socket| socket.link(name)).map_err(fail(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_there() {
        let lo = HostInterface { name: "lo".to_owned(), kind: "loopback" };
        assert!(host_interfaces().unwrap().contains(&lo));
        assert_eq!(host_interface("lo").unwrap(), Some(lo));
        assert!(!interface_exists("no-such-link").unwrap());
        assert!(!interface_exists("a-name-that-is-too-long").unwrap());
    }
}
