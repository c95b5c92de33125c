//! Network interfaces, addresses and routes by rtnetlink, over a plain blocking socket.
//!
//! A request takes some microseconds, so a socket is opened where it is needed. It keeps the network namespace it was
//! opened in, whoever uses it later: a [`Visitor`] looks into containers without moving the caller.
//! Source of the constants: `rtnetlink(7)`, `<linux/if_link.h>`, `<linux/if_addr.h>`.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::str::FromStr;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

mod nics;

pub use nics::{Path, Upper};

use super::netlink_wire::{Attributes, Messages, Request, i32_at, text, u32_at, u64_at};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_PID: u16 = 19;
const IFLA_STATS64: u16 = 23;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_PARENT_DEV_NAME: u16 = 56;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VLAN_ID: u16 = 1;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BR_BRIDGE_ID: u16 = 11;
const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_TABLE: u16 = 15;
const RT_TABLE_MAIN: u8 = 254;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const RTPROT_STATIC: u8 = 4;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const IFF_UP: u32 = 1;
const IFF_BROADCAST: u32 = 2;
const IFF_LOOPBACK: u32 = 8;
const IFF_POINTOPOINT: u32 = 0x10;

/// Dumps the kernel says were interrupted by a change are repeated this often before the last one is taken.
const DUMP_RETRIES: usize = 5;

/// Why the kernel refused, or could not be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The kernel's answer to a request.
    Kernel {
        /// What was asked, e.g. "create bridge".
        operation: &'static str,
        /// The interface or address it was asked for.
        object: String,
        /// The kernel's reason.
        errno: Errno,
    },
    /// A reply that is cut short or without its end.
    Malformed {
        /// What was asked.
        operation: &'static str,
    },
}

impl Error {
    /// The kernel's reason, if it gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel { errno, .. } => Some(*errno),
            Self::Malformed { .. } => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel { operation, object, errno } => write!(f, "Failed to {operation} {object:?}: {errno}"),
            Self::Malformed { operation } => {
                write!(f, "Failed to {operation}: the kernel's netlink reply is incomplete")
            }
        }
    }
}

impl std::error::Error for Error {}

/// A hardware address of Ethernet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for MacAddr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for MacAddr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(deserializer)?;
        text.parse().map_err(|_| serde::de::Error::custom("not a hardware address"))
    }
}

/// A text that is not six pairs of hexadecimal digits with colons between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAMac;

impl FromStr for MacAddr {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<Self, NotAMac> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = u8::from_str_radix(part.ok_or(NotAMac)?, 16).map_err(|_| NotAMac)?;
        }
        if parts.next().is_some() { Err(NotAMac) } else { Ok(Self(bytes)) }
    }
}

/// Counters of an interface since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the kernel's struct rtnl_link_stats64")]
pub struct Counters {
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub rx_errors: u64,
    pub tx_errors: u64,
    pub rx_dropped: u64,
    pub tx_dropped: u64,
}

/// What only a bridge has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BridgeData {
    /// Priority and MAC address, as `8000.00163e0f3275`.
    pub id: String,
    /// Whether it speaks the spanning tree protocol.
    pub stp: bool,
    /// In hundredths of a second.
    pub forward_delay: u32,
    /// Whether it filters by VLAN.
    pub vlan_filtering: bool,
    /// VLAN of untagged frames.
    pub vlan_default: u16,
}

/// An interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number within its network namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `IFF_*`.
    pub flags: u32,
    /// Bytes.
    pub mtu: u32,
    /// Its hardware address, if it has one of six bytes that are not all zero.
    pub mac: Option<MacAddr>,
    /// The driver's kind (`bridge`, `veth`, `vlan`, …); empty for hardware.
    pub kind: String,
    /// Index of the bridge or bond it is a port of.
    pub master: Option<u32>,
    /// Index of the other end (veth) or of the interface below (vlan).
    pub peer: Option<u32>,
    /// Whether `peer` counts in another network namespace.
    pub peer_elsewhere: bool,
    /// Whether a device of a bus is behind it.
    pub hardware: bool,
    /// VLAN number of a vlan interface.
    pub vlan_id: Option<u16>,
    /// What only a bridge has.
    pub bridge: Option<BridgeData>,
    /// Its counters.
    pub counters: Counters,
}

impl Link {
    /// Whether it is administratively up.
    pub fn is_up(&self) -> bool {
        self.flags & IFF_UP != 0
    }

    /// `broadcast`, `point-to-point`, `loopback` or `unknown`: LXD's word for the interface's flags.
    pub fn medium(&self) -> &'static str {
        match self.flags {
            f if f & IFF_BROADCAST != 0 => "broadcast",
            f if f & IFF_POINTOPOINT != 0 => "point-to-point",
            f if f & IFF_LOOPBACK != 0 => "loopback",
            _ => "unknown",
        }
    }

    /// Whether it is the loopback interface.
    pub fn is_loopback(&self) -> bool {
        self.flags & IFF_LOOPBACK != 0
    }
}

/// How far an address is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everywhere.
    Global,
    /// On its link.
    Link,
    /// On this host.
    Host,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
    /// How far it is valid.
    pub scope: Scope,
}

/// A route of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination; the unspecified address with prefix 0 for the default route.
    pub destination: IpAddr,
    /// Bits of `destination`.
    pub prefix: u8,
    /// Interface.
    pub index: Option<u32>,
    /// Who made it (`RTPROT_*`).
    pub protocol: u8,
}

impl Route {
    /// Whether an administrator or this daemon made it, not the kernel or a routing daemon.
    pub fn is_static(&self) -> bool {
        self.protocol == RTPROT_STATIC
    }
}

/// A thread that looks into network namespaces, one after another. It is never in the host's again, and ends.
pub struct Visitor {
    host: Socket,
    /// It is the thread that moves: this must stay on it.
    stays: PhantomData<*const ()>,
}

impl Visitor {
    /// Does `work` on a thread of its own; no thread of the caller is ever in a foreign namespace. Blocks.
    ///
    /// # Errors
    /// The kernel's: no thread or file descriptor left.
    pub fn run<T: Send>(work: impl FnOnce(&mut Self) -> T + Send) -> Result<T, Error> {
        let fail = |errno| Error::Kernel { operation: "start", object: "a thread".to_owned(), errno };
        std::thread::scope(|scope| {
            let visit = || Ok(work(&mut Self { host: Socket::open()?, stays: PhantomData }));
            match std::thread::Builder::new().name("netns".to_owned()).stack_size(256 * 1024).spawn_scoped(scope, visit)
            {
                Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err(error) => Err(fail(Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))),
            }
        })
    }

    /// A socket of the host.
    pub fn host(&mut self) -> &mut Socket {
        &mut self.host
    }

    /// Opens a socket in the network namespace `namespace` (an open `/proc/<pid>/ns/net`).
    ///
    /// # Errors
    /// The kernel's: not a network namespace, not permitted, no file descriptor left.
    pub fn open_in(&self, namespace: BorrowedFd<'_>) -> Result<Socket, Error> {
        let fail = |errno| Error::Kernel { operation: "enter", object: "network namespace".to_owned(), errno };
        move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network)).map_err(fail)?;
        Socket::open()
    }
}

/// A netlink socket of one network namespace.
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the caller's network namespace.
    ///
    /// # Errors
    /// The kernel's, e.g. no file descriptors left.
    pub fn open() -> Result<Self, Error> {
        let fail = |errno| Error::Kernel { operation: "open a socket for", object: "rtnetlink".to_owned(), errno };
        // Protocol 0 of this family is NETLINK_ROUTE.
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).map_err(fail)?;
        bind(&fd, &SocketAddrNetlink::new(0, 0)).map_err(fail)?;
        Ok(Self { fd, sequence: 0, buffer: vec![0; 32 * 1024] })
    }

    fn receive(&mut self, operation: &'static str, object: &str) -> Result<usize, Error> {
        loop {
            match recv(self.fd.as_fd(), &mut self.buffer[..], RecvFlags::TRUNC) {
                Ok((_, length)) if length > self.buffer.len() => return Err(Error::Malformed { operation }),
                Ok((_, length)) => return Ok(length),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::Kernel { operation, object: object.to_owned(), errno }),
            }
        }
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn transmit(&self, bytes: &[u8], operation: &'static str, object: &str) -> Result<(), Error> {
        loop {
            match send(&self.fd, bytes, SendFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::Kernel { operation, object: object.to_owned(), errno }),
            }
        }
    }

    /// Sends a request and reads until its acknowledgement; `take` gets the messages before it.
    fn exchange(
        &mut self,
        request: Request,
        operation: &'static str,
        object: &str,
        mut take: impl FnMut(&[u8]),
    ) -> Result<bool, Error> {
        let sequence = self.sequence;
        self.transmit(&request.finish(), operation, object)?;
        let mut interrupted = false;
        loop {
            let length = self.receive(operation, object)?;
            let mut any = false;
            for message in Messages(&self.buffer[..length]) {
                any = true;
                if message.sequence != sequence {
                    continue;
                }
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE => return Ok(interrupted),
                    NLMSG_ERROR => {
                        let code = i32_at(message.body, 0).ok_or(Error::Malformed { operation })?;
                        return match code {
                            0 => Ok(interrupted),
                            code => Err(Error::Kernel {
                                operation,
                                object: object.to_owned(),
                                errno: Errno::from_raw_os_error(code.saturating_neg()),
                            }),
                        };
                    }
                    _ => take(message.body),
                }
            }
            if !any {
                return Err(Error::Malformed { operation });
            }
        }
    }

    fn dump<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        operation: &'static str,
        parse: fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let mut attempt = 0;
        loop {
            let sequence = self.next_sequence();
            let mut found = Vec::new();
            let request = Request::new(kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, body);
            let interrupted = self.exchange(request, operation, "all", |body| found.extend(parse(body)))?;
            attempt += 1;
            if !interrupted || attempt == DUMP_RETRIES {
                return Ok(found);
            }
        }
    }

    /// All interfaces, in the kernel's order.
    ///
    /// # Errors
    /// The kernel's.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        self.dump(RTM_GETLINK, &interface_header(0, 0, 0), "list interfaces", parse_link)
    }

    /// All addresses.
    ///
    /// # Errors
    /// The kernel's.
    pub fn addresses(&mut self) -> Result<Vec<Address>, Error> {
        self.dump(RTM_GETADDR, &[0; 8], "list addresses", parse_address)
    }

    /// The unicast routes of the main table, both families.
    ///
    /// # Errors
    /// The kernel's.
    pub fn routes(&mut self) -> Result<Vec<Route>, Error> {
        self.dump(RTM_GETROUTE, &[0; 12], "list routes", parse_route)
    }

    fn get_link(&mut self, index: u32, name: Option<&str>) -> Result<Option<Link>, Error> {
        let sequence = self.next_sequence();
        let mut request =
            Request::new(RTM_GETLINK, NLM_F_REQUEST | NLM_F_ACK, sequence, &interface_header(index, 0, 0));
        if let Some(name) = name {
            request.text(IFLA_IFNAME, name);
        }
        let mut found = None;
        let object = name.map_or_else(|| index.to_string(), str::to_owned);
        match self.exchange(request, "look up interface", &object, |body| found = parse_link(body)) {
            Ok(_) => Ok(found),
            Err(Error::Kernel { errno: Errno::NODEV | Errno::NXIO, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The interface with this name, `None` when there is none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, Error> {
        self.get_link(0, Some(name))
    }

    /// The interface with this number, `None` when there is none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, Error> {
        self.get_link(index, None)
    }

    fn change(&mut self, request: Request, operation: &'static str, object: &str) -> Result<(), Error> {
        self.exchange(request, operation, object, |_| {}).map(drop)
    }

    /// Makes a bridge, down, without spanning tree.
    ///
    /// # Errors
    /// The kernel's; `EEXIST` when the name is taken.
    pub fn add_bridge(&mut self, name: &str, mac: MacAddr) -> Result<(), Error> {
        let sequence = self.next_sequence();
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let mut request = Request::new(RTM_NEWLINK, flags, sequence, &interface_header(0, 0, 0));
        request.text(IFLA_IFNAME, name);
        request.attribute(IFLA_ADDRESS, &mac.0);
        request.nested(IFLA_LINKINFO, |r| r.text(IFLA_INFO_KIND, "bridge"));
        self.change(request, "create bridge", name)
    }

    /// Whether the kernel knows interfaces of this kind, which may make it load a module.
    ///
    /// One with a multicast address is asked for: the kernel refuses that address only when it knows the kind, and
    /// nothing is ever made.
    ///
    /// # Errors
    /// The kernel's, when it refuses for another reason.
    pub fn supports(&mut self, kind: &str) -> Result<bool, Error> {
        let sequence = self.next_sequence();
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let mut request = Request::new(RTM_NEWLINK, flags, sequence, &interface_header(0, 0, 0));
        request.attribute(IFLA_ADDRESS, &[1, 0, 0, 0, 0, 0]);
        request.nested(IFLA_LINKINFO, |r| r.text(IFLA_INFO_KIND, kind));
        match self.change(request, "ask for interfaces of kind", kind) {
            // Or, for kinds that take any address, when it misses the interface below.
            Ok(()) | Err(Error::Kernel { errno: Errno::ADDRNOTAVAIL | Errno::INVAL, .. }) => Ok(true),
            Err(Error::Kernel { errno: Errno::OPNOTSUPP, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes a pair of veth interfaces, both down; the peer goes to the network namespace of `peer_pid` if given.
    ///
    /// # Errors
    /// The kernel's; `EEXIST` when a name is taken.
    pub fn add_veth(&mut self, name: &str, peer: &str, peer_pid: Option<u32>) -> Result<(), Error> {
        let sequence = self.next_sequence();
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let mut request = Request::new(RTM_NEWLINK, flags, sequence, &interface_header(0, 0, 0));
        request.text(IFLA_IFNAME, name);
        request.nested(IFLA_LINKINFO, |r| {
            r.text(IFLA_INFO_KIND, "veth");
            r.nested(IFLA_INFO_DATA, |r| {
                r.nested(VETH_INFO_PEER, |r| {
                    r.raw(&interface_header(0, 0, 0));
                    r.text(IFLA_IFNAME, peer);
                    if let Some(pid) = peer_pid {
                        r.attribute(IFLA_NET_NS_PID, &pid.to_ne_bytes());
                    }
                });
            });
        });
        self.change(request, "create veth pair", name)
    }

    fn set_link(
        &mut self,
        index: u32,
        flags: u32,
        mask: u32,
        attribute: Option<(u16, &[u8])>,
        operation: &'static str,
    ) -> Result<(), Error> {
        let sequence = self.next_sequence();
        let header = interface_header(index, flags, mask);
        let mut request = Request::new(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, sequence, &header);
        if let Some((kind, value)) = attribute {
            request.attribute(kind, value);
        }
        self.change(request, operation, &format!("interface {index}"))
    }

    /// Sets an interface up or down.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<(), Error> {
        self.set_link(index, if up { IFF_UP } else { 0 }, IFF_UP, None, "set the state of")
    }

    /// Sets the largest packet, bytes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), Error> {
        self.set_link(index, 0, 0, Some((IFLA_MTU, &mtu.to_ne_bytes())), "set the MTU of")
    }

    /// Sets the hardware address.
    ///
    /// # Errors
    /// The kernel's; `EADDRNOTAVAIL` for a multicast address.
    pub fn set_mac(&mut self, index: u32, mac: MacAddr) -> Result<(), Error> {
        self.set_link(index, 0, 0, Some((IFLA_ADDRESS, &mac.0)), "set the hardware address of")
    }

    /// Makes an interface a port of the bridge `master`, or frees it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_master(&mut self, index: u32, master: Option<u32>) -> Result<(), Error> {
        let master = master.unwrap_or(0).to_ne_bytes();
        self.set_link(index, 0, 0, Some((IFLA_MASTER, &master)), "set the bridge of")
    }

    /// Deletes an interface; no error when it is gone.
    ///
    /// # Errors
    /// The kernel's; `EOPNOTSUPP` for hardware.
    pub fn delete(&mut self, name: &str) -> Result<(), Error> {
        let sequence = self.next_sequence();
        let header = interface_header(0, 0, 0);
        let mut request = Request::new(RTM_DELLINK, NLM_F_REQUEST | NLM_F_ACK, sequence, &header);
        request.text(IFLA_IFNAME, name);
        match self.change(request, "delete interface", name) {
            Err(Error::Kernel { errno: Errno::NODEV | Errno::NXIO, .. }) => Ok(()),
            other => other,
        }
    }

    fn address_request(&mut self, kind: u16, flags: u16, index: u32, address: IpAddr, prefix: u8) -> Request {
        let mut header = vec![family(address), prefix, 0, 0];
        header.extend_from_slice(&index.to_ne_bytes());
        let sequence = self.next_sequence();
        let mut request = Request::new(kind, NLM_F_REQUEST | NLM_F_ACK | flags, sequence, &header);
        request.attribute(IFA_LOCAL, &octets(address));
        request.attribute(IFA_ADDRESS, &octets(address));
        request
    }

    /// Gives an interface an address, usable at once (no duplicate address detection); no error when it has it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_address(&mut self, index: u32, address: IpAddr, prefix: u8) -> Result<(), Error> {
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        let mut request = self.address_request(RTM_NEWADDR, flags, index, address, prefix);
        match address {
            IpAddr::V4(v4) => {
                let broadcast = u32::from(v4) | u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
                request.attribute(IFA_BROADCAST, &broadcast.to_be_bytes());
            }
            IpAddr::V6(_) => request.attribute(IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes()),
        }
        self.change(request, "add address", &format!("{address}/{prefix}"))
    }

    /// Takes an address from an interface; no error when it is gone.
    ///
    /// # Errors
    /// The kernel's.
    pub fn delete_address(&mut self, index: u32, address: IpAddr, prefix: u8) -> Result<(), Error> {
        let request = self.address_request(RTM_DELADDR, 0, index, address, prefix);
        match self.change(request, "delete address", &format!("{address}/{prefix}")) {
            Err(Error::Kernel { errno: Errno::ADDRNOTAVAIL, .. }) => Ok(()),
            other => other,
        }
    }

    fn route_request(&mut self, kind: u16, flags: u16, index: u32, destination: IpAddr, prefix: u8) -> Request {
        let scope = if destination.is_ipv4() { RT_SCOPE_LINK } else { 0 };
        let mut header =
            vec![family(destination), prefix, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST, 0, 0, 0, 0];
        header.truncate(12);
        let sequence = self.next_sequence();
        let mut request = Request::new(kind, NLM_F_REQUEST | NLM_F_ACK | flags, sequence, &header);
        request.attribute(RTA_DST, &octets(destination));
        request.attribute(RTA_OIF, &index.to_ne_bytes());
        request
    }

    /// Routes `destination` to the interface; no error when it is so already.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_route(&mut self, index: u32, destination: IpAddr, prefix: u8) -> Result<(), Error> {
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        let request = self.route_request(RTM_NEWROUTE, flags, index, destination, prefix);
        self.change(request, "add route", &format!("{destination}/{prefix}"))
    }

    /// Removes a route of [`Socket::add_route`]; no error when it is gone.
    ///
    /// # Errors
    /// The kernel's.
    pub fn delete_route(&mut self, index: u32, destination: IpAddr, prefix: u8) -> Result<(), Error> {
        let request = self.route_request(RTM_DELROUTE, 0, index, destination, prefix);
        match self.change(request, "delete route", &format!("{destination}/{prefix}")) {
            Err(Error::Kernel { errno: Errno::SRCH, .. }) => Ok(()),
            other => other,
        }
    }
}

fn interface_header(index: u32, flags: u32, mask: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&mask.to_ne_bytes());
    header
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::V4(Ipv4Addr::from(v4)));
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| IpAddr::V6(Ipv6Addr::from(v6)))
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let mut link = Link { index: u32_at(body, 4)?, flags: u32_at(body, 8)?, ..Link::default() };
    for (kind, value) in Attributes(body.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = u32_at(value, 0)?,
            IFLA_ADDRESS => link.mac = value.try_into().ok().filter(|m| *m != [0; 6]).map(MacAddr),
            IFLA_MASTER => link.master = u32_at(value, 0),
            IFLA_LINK => link.peer = u32_at(value, 0),
            IFLA_LINK_NETNSID => link.peer_elsewhere = true,
            IFLA_PARENT_DEV_NAME => link.hardware = true,
            IFLA_STATS64 => link.counters = parse_counters(value)?,
            IFLA_LINKINFO => parse_link_info(value, &mut link),
            _ => {}
        }
    }
    Some(link)
}

fn parse_counters(value: &[u8]) -> Option<Counters> {
    Some(Counters {
        rx_packets: u64_at(value, 0)?,
        tx_packets: u64_at(value, 8)?,
        rx_bytes: u64_at(value, 16)?,
        tx_bytes: u64_at(value, 24)?,
        rx_errors: u64_at(value, 32)?,
        tx_errors: u64_at(value, 40)?,
        rx_dropped: u64_at(value, 48)?,
        tx_dropped: u64_at(value, 56)?,
    })
}

fn parse_link_info(value: &[u8], link: &mut Link) {
    let mut data = &[][..];
    for (kind, value) in Attributes(value) {
        match kind {
            IFLA_INFO_KIND => link.kind = text(value),
            IFLA_INFO_DATA => data = value,
            _ => {}
        }
    }
    match link.kind.as_str() {
        "bridge" => link.bridge = Some(parse_bridge(data)),
        "vlan" => {
            link.vlan_id = Attributes(data)
                .find(|(kind, _)| *kind == IFLA_VLAN_ID)
                .and_then(|(_, value)| super::netlink_wire::u16_at(value, 0));
        }
        _ => {}
    }
}

fn parse_bridge(data: &[u8]) -> BridgeData {
    let mut bridge = BridgeData::default();
    for (kind, value) in Attributes(data) {
        match kind {
            IFLA_BR_FORWARD_DELAY => bridge.forward_delay = u32_at(value, 0).unwrap_or_default(),
            IFLA_BR_STP_STATE => bridge.stp = u32_at(value, 0).unwrap_or_default() != 0,
            IFLA_BR_VLAN_FILTERING => bridge.vlan_filtering = value.first().is_some_and(|v| *v != 0),
            IFLA_BR_VLAN_DEFAULT_PVID => {
                bridge.vlan_default = super::netlink_wire::u16_at(value, 0).unwrap_or_default();
            }
            IFLA_BR_BRIDGE_ID if value.len() == 8 => {
                bridge.id = format!("{}.{}", hex::encode(&value[..2]), hex::encode(&value[2..]));
            }
            _ => {}
        }
    }
    bridge
}

fn parse_address(body: &[u8]) -> Option<Address> {
    let scope = match *body.get(3)? {
        253 => Scope::Link,
        254 => Scope::Host,
        _ => Scope::Global,
    };
    let (mut address, mut local) = (None, None);
    for (kind, value) in Attributes(body.get(8..)?) {
        match kind {
            IFA_ADDRESS => address = ip(value),
            // On a point-to-point link IFA_ADDRESS is the other end's; the own one is always in IFA_LOCAL.
            IFA_LOCAL => local = ip(value),
            _ => {}
        }
    }
    Some(Address { index: u32_at(body, 4)?, address: local.or(address)?, prefix: *body.get(1)?, scope })
}

fn parse_route(body: &[u8]) -> Option<Route> {
    let family = *body.first()?;
    let mut destination = match family {
        AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut table = u32::from(*body.get(4)?);
    let mut index = None;
    for (kind, value) in Attributes(body.get(12..)?) {
        match kind {
            RTA_DST => destination = ip(value)?,
            RTA_OIF => index = u32_at(value, 0),
            RTA_TABLE => table = u32_at(value, 0)?,
            _ => {}
        }
    }
    let unicast = *body.get(7)? == RTN_UNICAST;
    (unicast && table == u32::from(RT_TABLE_MAIN)).then_some(Route {
        destination,
        prefix: *body.get(1)?,
        index,
        protocol: *body.get(5)?,
    })
}

/// For [`crate::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    for message in Messages(bytes) {
        parse_link(message.body);
        parse_address(message.body);
        parse_route(message.body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_parse_and_print() {
        let mac: MacAddr = "00:16:3E:0f:32:75".parse().unwrap();
        assert_eq!(mac.to_string(), "00:16:3e:0f:32:75");
        for bad in ["", "00:16:3e:0f:32", "00:16:3e:0f:32:75:00", "0:16:3e:0f:32:75", "00:16:3e:0f:32:+5", "zz"] {
            assert_eq!(bad.parse::<MacAddr>(), Err(NotAMac), "{bad}");
        }
    }

    #[test]
    fn the_loopback_interface_is_listed() {
        let mut socket = Socket::open().unwrap();
        let lo = socket.link("lo").unwrap().unwrap();
        assert!(lo.is_loopback() && lo.mac.is_none() && lo.medium() == "loopback");
        assert_eq!(socket.link_by_index(lo.index).unwrap().map(|l| l.name), Some("lo".to_owned()));
        assert!(socket.links().unwrap().iter().any(|l| l.name == "lo"));
        assert!(socket.link("no-such-link").unwrap().is_none());
        assert!(socket.link_by_index(1_000_000).unwrap().is_none());
        assert!(socket.delete("no-such-link").is_ok());
    }

    #[test]
    fn a_refusal_names_the_operation_and_the_interface() {
        let error = Socket::open().unwrap().add_bridge("lo", MacAddr([2, 0, 0, 0, 0, 1])).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EXIST));
        assert!(error.to_string().starts_with("Failed to create bridge \"lo\": "), "{error}");
    }
}
