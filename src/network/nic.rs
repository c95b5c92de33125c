//! The interfaces of instances, one by one: made on the host, moved in, taken out, given back.
//!
//! ```text
//!   create ── both ends on the host ── liblxc moves one in at the start, or enter() while it runs
//!   leave  ── whatever of it is where: nothing of it stays on the host; a physical interface is as it was
//! ```
//! [`leave`] may be asked after a crash anywhere in between. Everything here blocks.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Error, sysctl, traffic};
use crate::sys::netlink::{self, Link, MacAddr, Path, Socket, Upper, Visitor};

/// What an interface is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A veth pair, perhaps in the bridge that is its parent.
    Veth,
    /// A veth pair that the host routes to.
    Routed,
    /// On its parent.
    Macvlan,
    /// Its parent itself.
    Physical,
    /// On its parent; the mode's number.
    Ipvlan(u16),
}

/// What passes, and how fast.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Bits a second to the instance.
    pub ingress: Option<u64>,
    /// Bits a second from the instance.
    pub egress: Option<u64>,
    /// Priority of packets from the instance.
    pub priority: Option<u32>,
    /// The only source that passes.
    pub mac: Option<MacAddr>,
    /// Filtered by IPv4 address: that which passes, if any does.
    pub ipv4: Option<Option<Ipv4Addr>>,
    /// Filtered by IPv6 address.
    pub ipv6: Option<Option<Ipv6Addr>>,
    /// Isolated in its bridge.
    pub isolated: bool,
    /// What the host routes to it: network, and the router in it if that is known.
    pub routes: Vec<(IpAddr, u8, Option<IpAddr>)>,
}

/// One nic, resolved: nothing of it is left to chance or to a later look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// What it is.
    pub kind: Kind,
    /// The bridge, or the interface that it lies on or is.
    pub parent: Option<String>,
    /// The VLAN of the parent.
    pub vlan: Option<u16>,
    /// Name inside.
    pub name: String,
    /// Name of what stays on the host; of what goes in, where nothing stays.
    pub host_name: String,
    /// Name of what goes in, before it does.
    pub guest: String,
    /// Hardware address inside; none: as it is.
    pub mac: Option<MacAddr>,
    /// Bytes; none: the parent's.
    pub mtu: Option<u32>,
    /// Addresses that it gets inside, each alone in its network.
    pub addresses: Vec<IpAddr>,
    /// Routers of the default routes inside.
    pub gateways: Vec<IpAddr>,
    /// Addresses of the host's end.
    pub host_addresses: Vec<IpAddr>,
    /// Further tables for the routes of IPv4 and of IPv6.
    pub tables: (Option<u32>, Option<u32>),
    /// What can be changed in its place.
    pub traffic: Traffic,
}

/// How a physical interface was before, to be so again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Bytes.
    pub mtu: u32,
    /// Its hardware address.
    pub mac: Option<MacAddr>,
    /// The VLAN's interface was made for it.
    pub created: bool,
}

pub(super) fn refused(reason: String) -> Error {
    Error::Nic { reason }
}

fn kernel(error: netlink::Error) -> Error {
    refused(error.to_string())
}

fn taken(name: &str) -> Error {
    refused(format!("the host has an interface {name:?} already: set another host_name="))
}

impl Interface {
    /// The host's interface that it lies on: the parent, or its VLAN's.
    fn lower(&self) -> Option<String> {
        let parent = self.parent.as_ref()?;
        Some(self.vlan.map_or_else(|| parent.clone(), |vlan| format!("{parent}.{vlan}")))
    }

    /// The name of the interface that goes in, while it is on the host.
    pub fn on_host(&self) -> String {
        match self.kind {
            Kind::Physical => self.lower().unwrap_or_default(),
            _ => self.guest.clone(),
        }
    }

    fn is_pair(&self) -> bool {
        matches!(self.kind, Kind::Veth | Kind::Routed)
    }

    /// Whether `other` is the same but for its traffic, so that it can become it in its place.
    pub fn same_place(&self, other: &Self) -> bool {
        let without = |one: &Self| Self { traffic: Traffic::default(), ..one.clone() };
        without(self) == without(other)
    }

    fn paths(&self, socket: &mut Socket) -> Result<Vec<Path>, Error> {
        // A port of a bridge has no routes of its own.
        let at = match (&self.kind, &self.parent) {
            (Kind::Veth, Some(bridge)) => bridge,
            _ => &self.host_name,
        };
        let Some(link) = socket.link(at).map_err(kernel)? else { return Ok(Vec::new()) };
        let index = link.index;
        let mut paths = Vec::new();
        let routed = self.kind == Kind::Routed;
        if routed {
            let own = self.addresses.iter();
            paths.extend(own.map(|own| Path { destination: *own, prefix: whole(*own), index, via: None, table: None }));
        }
        let more = self.traffic.routes.iter();
        paths.extend(more.map(|(to, prefix, via)| Path {
            destination: *to,
            prefix: *prefix,
            index,
            via: *via,
            table: None,
        }));
        let table = |path: &Path| if path.destination.is_ipv4() { self.tables.0 } else { self.tables.1 };
        let others: Vec<Path> = paths
            .iter()
            .filter_map(|path| table(path).map(|table| Path { table: Some(table), ..path.clone() }))
            .collect();
        paths.extend(others);
        Ok(paths)
    }
}

fn whole(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn found(socket: &mut Socket, name: &str) -> Result<Link, Error> {
    let missing = || refused(format!("the host has no network interface {name:?}; create it or set another parent="));
    socket.link(name).map_err(kernel)?.ok_or_else(missing)
}

/// How the parent of a physical nic is now; for the others, whether the VLAN's interface has to be made. `own`: the name
/// of the host's end that it has already.
///
/// # Errors
/// [`Error::Nic`]: there is no such parent, or it is not what the nic needs.
pub fn origin(interface: &Interface, own: Option<&str>) -> Result<Origin, Error> {
    let mut socket = Socket::open().map_err(kernel)?;
    let name = &interface.host_name;
    if interface.kind != Kind::Physical && own != Some(name) && socket.link(name).map_err(kernel)?.is_some() {
        return Err(taken(name));
    }
    let Some(parent) = &interface.parent else { return Ok(Origin::default()) };
    let mut link = found(&mut socket, parent)?;
    if interface.kind == Kind::Veth && link.kind != "bridge" {
        return Err(refused(format!("{parent:?} is not a bridge: a bridged nic needs one as its parent=")));
    }
    if link.is_loopback() {
        return Err(refused(format!("{parent:?} is the loopback interface, which serves nobody else")));
    }
    let mut created = false;
    if let Some(lower) = interface.lower().filter(|lower| lower != parent) {
        match socket.link(&lower).map_err(kernel)? {
            Some(present) => link = present,
            None if !socket.supports("vlan").map_err(kernel)? => {
                return Err(refused("vlan: this kernel has no VLAN interfaces (8021q)".to_owned()));
            }
            None => created = true,
        }
    }
    if interface.kind == Kind::Physical && link.kind == "bridge" {
        return Err(refused(format!("{parent:?} is a bridge, which cannot leave the host: set nictype=bridged")));
    }
    Ok(Origin { mtu: link.mtu, mac: link.mac, created })
}

/// Makes what it needs on the host, up to the interface that is to go in. When it fails nothing of it stays.
///
/// # Errors
/// [`Error::Nic`].
pub fn create(interface: &Interface, origin: &Origin) -> Result<(), Error> {
    let mut socket = Socket::open().map_err(kernel)?;
    // Another's, which must not be taken for what is to be taken back.
    if interface.kind != Kind::Physical && socket.link(&interface.host_name).map_err(kernel)?.is_some() {
        return Err(taken(&interface.host_name));
    }
    made(&mut socket, interface, origin).inspect_err(|_| {
        // Its routes are not there, and may be another's.
        let mut rest = interface.clone();
        rest.traffic.routes.clear();
        if let Err(error) = leave(&rest, origin, None, None) {
            tracing::error!(interface = %interface.host_name, %error, "taking back what was made for a nic");
        }
    })
}

fn made(socket: &mut Socket, interface: &Interface, origin: &Origin) -> Result<(), Error> {
    let parent = interface.parent.as_deref().map(|parent| found(socket, parent)).transpose()?;
    let mut lower = parent.clone();
    if let (Some(name), Some(vlan), Some(parent)) = (interface.lower(), interface.vlan, &parent) {
        if origin.created {
            socket.add_upper(&name, parent.index, Upper::Vlan(vlan), None).map_err(kernel)?;
        }
        let link = found(socket, &name)?;
        socket.set_up(link.index, true).map_err(kernel)?;
        lower = Some(link);
    }
    let missing = || refused("a nic of this kind needs a parent=".to_owned());
    match interface.kind {
        Kind::Veth | Kind::Routed => pair(socket, interface, parent.as_ref()),
        Kind::Macvlan => {
            let lower = lower.ok_or_else(missing)?;
            upper(socket, interface, &lower, Upper::Macvlan)
        }
        Kind::Ipvlan(mode) => {
            let lower = lower.ok_or_else(missing)?;
            if !socket.supports("ipvlan").map_err(kernel)? {
                return Err(refused("this kernel has no ipvlan interfaces: use nictype=macvlan or routed".to_owned()));
            }
            upper(socket, interface, &lower, Upper::Ipvlan(mode))
        }
        Kind::Physical => {
            let lower = lower.ok_or_else(missing)?;
            socket.set_up(lower.index, false).map_err(kernel)?;
            dress(socket, &lower, interface.mac, interface.mtu)
        }
    }
}

fn upper(socket: &mut Socket, interface: &Interface, lower: &Link, kind: Upper) -> Result<(), Error> {
    socket.add_upper(&interface.guest, lower.index, kind, interface.mac).map_err(kernel)?;
    let link = found(socket, &interface.guest)?;
    dress(socket, &link, None, interface.mtu)
}

/// Gives an interface its hardware address and largest packet, where they differ.
fn dress(socket: &mut Socket, link: &Link, mac: Option<MacAddr>, mtu: Option<u32>) -> Result<(), Error> {
    if let Some(mac) = mac.filter(|mac| link.mac != Some(*mac)) {
        socket.set_mac(link.index, mac).map_err(kernel)?;
    }
    if let Some(mtu) = mtu.filter(|mtu| link.mtu != *mtu) {
        socket.set_mtu(link.index, mtu).map_err(kernel)?;
    }
    Ok(())
}

fn pair(socket: &mut Socket, interface: &Interface, parent: Option<&Link>) -> Result<(), Error> {
    let (host_name, guest) = (&interface.host_name, &interface.guest);
    if interface.kind == Kind::Routed {
        check_forwarding(interface)?;
    }
    socket.add_veth(host_name, guest, None).map_err(kernel)?;
    let mtu = interface.mtu.or(parent.map(|parent| parent.mtu));
    let (host, end) = (found(socket, host_name)?, found(socket, guest)?);
    dress(socket, &host, None, mtu)?;
    dress(socket, &end, interface.mac, mtu)?;
    match (&interface.kind, parent) {
        (Kind::Veth, Some(bridge)) => {
            // The bridge speaks for the host, its ports do not.
            sysctl::set(&format!("ipv6/conf/{host_name}/disable_ipv6"), "1")?;
            socket.set_master(host.index, Some(bridge.index)).map_err(kernel)?;
        }
        (Kind::Routed, _) => {
            for family in ["ipv4", "ipv6"] {
                sysctl::set(&format!("{family}/conf/{host_name}/forwarding"), "1")?;
            }
            for address in &interface.host_addresses {
                socket.add_address(host.index, *address, whole(*address)).map_err(kernel)?;
            }
        }
        _ => {}
    }
    if interface.traffic.isolated {
        socket.set_isolated(host.index, true).map_err(kernel)?;
    }
    socket.set_up(host.index, true).map_err(kernel)?;
    traffic::set(host_name, None, &interface.traffic)?;
    if let Some(parent) = parent.filter(|_| interface.kind == Kind::Routed) {
        for address in &interface.addresses {
            socket.set_proxy(parent.index, *address, true).map_err(kernel)?;
        }
    }
    // Last: what was made before goes with the pair.
    add_paths(socket, interface)
}

/// Adds all routes of a nic, or none.
fn add_paths(socket: &mut Socket, interface: &Interface) -> Result<(), Error> {
    let paths = interface.paths(socket)?;
    for (done, path) in paths.iter().enumerate() {
        let Err(error) = socket.add_path(path) else { continue };
        for path in &paths[..done] {
            // What was just added can be deleted; the first error is the one to tell.
            let _ = socket.delete_path(path);
        }
        return Err(match error.errno() {
            Some(Errno::EXIST) => {
                refused(format!("the host routes {}/{} elsewhere already", path.destination, path.prefix))
            }
            _ => kernel(error),
        });
    }
    Ok(())
}

/// Whether the host passes packets on between a routed nic and its parent. That is the administrator's to allow.
fn check_forwarding(interface: &Interface) -> Result<(), Error> {
    let Some(parent) = &interface.parent else { return Ok(()) };
    let mut needed = Vec::new();
    if interface.addresses.iter().any(IpAddr::is_ipv4) {
        needed.push(format!("ipv4/conf/{parent}/forwarding"));
    }
    if interface.addresses.iter().any(IpAddr::is_ipv6) {
        needed.push("ipv6/conf/all/forwarding".to_owned());
        needed.push(format!("ipv6/conf/{parent}/forwarding"));
        needed.push(format!("ipv6/conf/{parent}/proxy_ndp"));
    }
    for key in needed {
        if sysctl::get(&key)?.is_none_or(|value| value == "0") {
            return Err(refused(format!("a routed nic needs the host to forward: sysctl -w net/{key}=1")));
        }
    }
    Ok(())
}

/// Puts the host's end of a pair that is there into its bridge again, after that was made anew, with the routes that went with
/// it.
///
/// # Errors
/// [`Error::Nic`].
pub fn reconnect(interface: &Interface) -> Result<(), Error> {
    let (Kind::Veth, Some(bridge)) = (&interface.kind, &interface.parent) else { return Ok(()) };
    let mut socket = Socket::open().map_err(kernel)?;
    let Some(end) = socket.link(&interface.host_name).map_err(kernel)? else { return Ok(()) };
    let bridge = found(&mut socket, bridge)?;
    if end.master != Some(bridge.index) {
        socket.set_master(end.index, Some(bridge.index)).map_err(kernel)?;
    }
    if interface.traffic.isolated {
        socket.set_isolated(end.index, true).map_err(kernel)?;
    }
    for path in interface.paths(&mut socket)? {
        match socket.add_path(&path) {
            Err(error) if error.errno() == Some(Errno::EXIST) => {}
            other => other.map_err(kernel)?,
        }
    }
    Ok(())
}

/// Moves what [`create`] made into the network namespace of a running instance and sets it up there. Returns its number
/// inside. When it fails, [`leave`] is due.
///
/// # Errors
/// [`Error::Nic`].
pub fn enter(interface: &Interface, namespace: BorrowedFd<'_>) -> Result<u32, Error> {
    Visitor::run(|visitor| {
        let mut inside = visitor.open_in(namespace).map_err(kernel)?;
        let name = &interface.name;
        if inside.link(name).map_err(kernel)?.is_some() {
            return Err(refused(format!("there is an interface {name:?} inside already: set another name=")));
        }
        let end = found(visitor.host(), &interface.on_host())?;
        visitor.host().move_to(end.index, namespace, name).map_err(kernel)?;
        let index = found(&mut inside, name)?.index;
        inside.set_up(index, true).map_err(kernel)?;
        for address in &interface.addresses {
            if matches!(interface.kind, Kind::Routed | Kind::Ipvlan(_)) {
                inside.add_address(index, *address, whole(*address)).map_err(kernel)?;
            }
        }
        for gateway in &interface.gateways {
            let destination = match gateway {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            let path = Path { destination, prefix: 0, index, via: Some(*gateway), table: None };
            inside.add_path(&path).map_err(kernel)?;
        }
        Ok(index)
    })
    .map_err(kernel)?
}

/// Its number inside, if it is there: by name, or by the number it had.
///
/// # Errors
/// [`Error::Nic`].
pub fn inside(interface: &Interface, namespace: BorrowedFd<'_>, index: Option<u32>) -> Result<Option<u32>, Error> {
    Visitor::run(|visitor| {
        let mut inside = visitor.open_in(namespace).map_err(kernel)?;
        Ok(look_inside(&mut inside, interface, index)?.map(|link| link.index))
    })
    .map_err(kernel)?
}

fn look_inside(inside: &mut Socket, interface: &Interface, index: Option<u32>) -> Result<Option<Link>, Error> {
    let kind = match interface.kind {
        Kind::Veth | Kind::Routed => Some("veth"),
        Kind::Macvlan => Some("macvlan"),
        Kind::Ipvlan(_) => Some("ipvlan"),
        Kind::Physical => None,
    };
    // Root inside may give interfaces other names, but not other numbers.
    let link = match index {
        Some(index) => inside.link_by_index(index).map_err(kernel)?,
        None => inside.link(&interface.name).map_err(kernel)?,
    };
    Ok(link.filter(|link| kind.is_none_or(|kind| link.kind == kind)))
}

/// Takes it out, wherever it is by now: in `namespace` (of the instance, if that is still there), or on the host. What is
/// gone already is no error; a physical interface gets its name, hardware address and MTU back.
///
/// # Errors
/// [`Error::Nic`]; as much as can be is done.
pub fn leave(
    interface: &Interface,
    origin: &Origin,
    namespace: Option<BorrowedFd<'_>>,
    index: Option<u32>,
) -> Result<(), Error> {
    let left = Visitor::run(|visitor| {
        if interface.is_pair() {
            return leave_pair(visitor.host(), interface);
        }
        // Opened before the thread moves.
        let host = File::open("/proc/self/ns/net").map_err(|error| refused(format!("/proc/self/ns/net: {error}")))?;
        let name = interface.on_host();
        if let Some(namespace) = namespace {
            let mut inside = visitor.open_in(namespace).map_err(kernel)?;
            if let Some(link) = look_inside(&mut inside, interface, index)? {
                if interface.kind == Kind::Physical {
                    inside.set_up(link.index, false).map_err(kernel)?;
                    inside.move_to(link.index, host.as_fd(), &name).map_err(kernel)?;
                } else {
                    inside.delete(&link.name).map_err(kernel)?;
                }
            }
        }
        if interface.kind == Kind::Physical {
            return give_back(visitor.host(), interface, origin, &name);
        }
        match visitor.host().link(&name).map_err(kernel)? {
            Some(link) if matches!(link.kind.as_str(), "macvlan" | "ipvlan") => {
                visitor.host().delete(&name).map_err(kernel)
            }
            Some(_) | None => Ok(()),
        }
    });
    let left = left.map_err(kernel).and_then(|left| left);
    if origin.created
        && let Some(lower) = interface.lower()
    {
        Socket::open().and_then(|mut socket| socket.delete(&lower)).map_err(kernel)?;
    }
    left
}

fn leave_pair(host: &mut Socket, interface: &Interface) -> Result<(), Error> {
    let rules = traffic::forget(&interface.host_name, &interface.traffic);
    let mut routes = Ok(());
    for path in interface.paths(host)? {
        routes = routes.and(host.delete_path(&path).map_err(kernel));
    }
    if interface.kind == Kind::Routed
        && let Some(parent) = &interface.parent
        && let Some(parent) = host.link(parent).map_err(kernel)?
    {
        for address in &interface.addresses {
            routes = routes.and(host.set_proxy(parent.index, *address, false).map_err(kernel));
        }
    }
    let deleted = match host.link(&interface.host_name).map_err(kernel)? {
        Some(link) if link.kind == "veth" => host.delete(&interface.host_name).map_err(kernel),
        Some(_) | None => Ok(()),
    };
    rules.and(routes).and(deleted)
}

/// A physical interface that is on the host again becomes what it was.
fn give_back(host: &mut Socket, interface: &Interface, origin: &Origin, name: &str) -> Result<(), Error> {
    let mut link = host.link(name).map_err(kernel)?;
    if link.is_none() {
        // The kernel gives hardware back when a namespace ends, but under the name it had there.
        let macs = [interface.mac, origin.mac];
        let links = host.links().map_err(kernel)?;
        let own = |link: &&Link| link.mac.is_some() && macs.contains(&link.mac) && link.kind != "macvlan";
        if let Some(stray) = links.iter().filter(own).find(|link| link.hardware || link.name == interface.name) {
            host.set_up(stray.index, false).map_err(kernel)?;
            host.rename(stray.index, name).map_err(kernel)?;
            link = Some(stray.clone());
        }
    }
    let Some(link) = link else {
        tracing::error!(interface = %name, "a physical nic is gone: it went with the instance's network namespace");
        return Ok(());
    };
    dress(host, &link, origin.mac, Some(origin.mtu).filter(|mtu| *mtu > 0))
}

/// Brings an interface that stays from `old` to the traffic of `new`, or leaves it as it was.
///
/// # Errors
/// [`Error::Nic`].
pub fn change_traffic(old: &Interface, new: &Interface) -> Result<(), Error> {
    let mut socket = Socket::open().map_err(kernel)?;
    let host = found(&mut socket, &new.host_name)?;
    let isolated = |socket: &mut Socket, from: &Interface, to: &Interface| {
        if from.traffic.isolated == to.traffic.isolated {
            return Ok(());
        }
        socket.set_isolated(host.index, to.traffic.isolated).map_err(kernel)
    };
    let routed = |socket: &mut Socket| {
        if old.traffic.routes == new.traffic.routes {
            return Ok(());
        }
        for path in old.paths(socket)? {
            socket.delete_path(&path).map_err(kernel)?;
        }
        add_paths(socket, new).inspect_err(|_| {
            if let Err(error) = add_paths(socket, old) {
                tracing::error!(interface = %old.host_name, %error, "giving a nic its routes back");
            }
        })
    };
    traffic::set(&new.host_name, Some(&old.traffic), &new.traffic)
        .and_then(|()| isolated(&mut socket, old, new))
        .and_then(|()| routed(&mut socket))
        .inspect_err(|_| {
            let back = traffic::set(&new.host_name, Some(&new.traffic), &old.traffic)
                .and_then(|()| isolated(&mut socket, new, old));
            if let Err(error) = back {
                tracing::error!(interface = %old.host_name, %error, "taking a change of a nic back");
            }
        })
}
