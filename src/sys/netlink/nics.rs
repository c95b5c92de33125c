//! What instances' interfaces need of rtnetlink besides bridges and veth pairs.
//!
//! Source of the constants: `rtnetlink(7)`, `<linux/if_link.h>`, `<linux/neighbour.h>`, `<linux/rtnetlink.h>`.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::super::netlink_wire::Request;
use super::{
    Error, IFLA_ADDRESS, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINK, IFLA_LINKINFO, IFLA_VLAN_ID, MacAddr,
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, RT_SCOPE_LINK, RT_TABLE_MAIN, RTA_DST, RTA_OIF,
    RTA_TABLE, RTM_DELROUTE, RTM_NEWLINK, RTM_NEWROUTE, RTN_UNICAST, Socket, family, interface_header, octets,
};

const RTM_SETLINK: u16 = 19;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const IFLA_PROTINFO: u16 = 12;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_MACVLAN_MODE: u16 = 1;
const MACVLAN_MODE_BRIDGE: u32 = 4;
const IFLA_IPVLAN_MODE: u16 = 1;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const NLA_F_NESTED: u16 = 0x8000;
const AF_BRIDGE: u8 = 7;
const NDA_DST: u16 = 1;
const NUD_PERMANENT: u16 = 0x80;
const NTF_PROXY: u8 = 8;
const RTA_GATEWAY: u16 = 5;
const RTPROT_BOOT: u8 = 3;
const RTNH_F_ONLINK: u32 = 4;

/// A kind of interface that lies on another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upper {
    /// Its own hardware address, all of one parent talk among themselves.
    Macvlan,
    /// The parent's hardware address; the mode's number (`IPVLAN_MODE_*`).
    Ipvlan(u16),
    /// Frames of one VLAN.
    Vlan(u16),
}

/// A route through one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// Destination.
    pub destination: IpAddr,
    /// Bits of `destination`.
    pub prefix: u8,
    /// The interface.
    pub index: u32,
    /// The next router, if the destination is not on the link.
    pub via: Option<IpAddr>,
    /// Number of the table; none: the main one.
    pub table: Option<u32>,
}

impl Socket {
    /// Makes an interface on the one with the number `parent`, down.
    ///
    /// # Errors
    /// The kernel's; `EOPNOTSUPP` when it does not know the kind.
    pub fn add_upper(&mut self, name: &str, parent: u32, kind: Upper, mac: Option<MacAddr>) -> Result<(), Error> {
        let sequence = self.next_sequence();
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let mut request = Request::new(RTM_NEWLINK, flags, sequence, &interface_header(0, 0, 0));
        request.text(IFLA_IFNAME, name);
        request.attribute(IFLA_LINK, &parent.to_ne_bytes());
        if let Some(mac) = mac {
            request.attribute(IFLA_ADDRESS, &mac.0);
        }
        request.nested(IFLA_LINKINFO, |r| match kind {
            Upper::Macvlan => {
                r.text(IFLA_INFO_KIND, "macvlan");
                r.nested(IFLA_INFO_DATA, |r| r.attribute(IFLA_MACVLAN_MODE, &MACVLAN_MODE_BRIDGE.to_ne_bytes()));
            }
            Upper::Ipvlan(mode) => {
                r.text(IFLA_INFO_KIND, "ipvlan");
                r.nested(IFLA_INFO_DATA, |r| r.attribute(IFLA_IPVLAN_MODE, &mode.to_ne_bytes()));
            }
            Upper::Vlan(id) => {
                r.text(IFLA_INFO_KIND, "vlan");
                r.nested(IFLA_INFO_DATA, |r| r.attribute(IFLA_VLAN_ID, &id.to_ne_bytes()));
            }
        });
        self.change(request, "create interface", name)
    }

    /// Moves an interface to another network namespace, there called `name`. It is down afterwards.
    ///
    /// # Errors
    /// The kernel's; `EEXIST` when the name is taken there.
    pub fn move_to(&mut self, index: u32, namespace: BorrowedFd<'_>, name: &str) -> Result<(), Error> {
        let sequence = self.next_sequence();
        let header = interface_header(index, 0, 0);
        let mut request = Request::new(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, sequence, &header);
        request.attribute(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
        request.text(IFLA_IFNAME, name);
        self.change(request, "move to another network namespace the interface", name)
    }

    /// Gives an interface, which must be down, another name.
    ///
    /// # Errors
    /// The kernel's.
    pub fn rename(&mut self, index: u32, name: &str) -> Result<(), Error> {
        let mut text = name.as_bytes().to_vec();
        text.push(0);
        self.set_link(index, 0, 0, Some((IFLA_IFNAME, &text)), "rename")
    }

    /// Whether a port of a bridge may only talk to ports that are not isolated.
    ///
    /// # Errors
    /// The kernel's; `EOPNOTSUPP` when it is no port of a bridge.
    pub fn set_isolated(&mut self, index: u32, isolated: bool) -> Result<(), Error> {
        let sequence = self.next_sequence();
        let mut header = interface_header(index, 0, 0);
        header[0] = AF_BRIDGE;
        let mut request = Request::new(RTM_SETLINK, NLM_F_REQUEST | NLM_F_ACK, sequence, &header);
        request.nested(IFLA_PROTINFO | NLA_F_NESTED, |r| r.attribute(IFLA_BRPORT_ISOLATED, &[u8::from(isolated)]));
        self.change(request, "isolate the port", &format!("interface {index}"))
    }

    fn path_request(&mut self, kind: u16, flags: u16, path: &Path) -> Request {
        let small = path.table.map_or(Some(RT_TABLE_MAIN), |table| u8::try_from(table).ok());
        let scope = if path.destination.is_ipv4() && path.via.is_none() { RT_SCOPE_LINK } else { 0 };
        let mut header = vec![family(path.destination), path.prefix, 0, 0];
        header.extend_from_slice(&[small.unwrap_or(0), RTPROT_BOOT, scope, RTN_UNICAST]);
        // The router need not be on a network of the interface's own addresses.
        let onlink = if path.via.is_some() { RTNH_F_ONLINK } else { 0 };
        header.extend_from_slice(&onlink.to_ne_bytes());
        let sequence = self.next_sequence();
        let mut request = Request::new(kind, NLM_F_REQUEST | NLM_F_ACK | flags, sequence, &header);
        if path.prefix > 0 {
            request.attribute(RTA_DST, &octets(path.destination));
        }
        request.attribute(RTA_OIF, &path.index.to_ne_bytes());
        if let Some(via) = path.via {
            request.attribute(RTA_GATEWAY, &octets(via));
        }
        if let Some(table) = path.table {
            request.attribute(RTA_TABLE, &table.to_ne_bytes());
        }
        request
    }

    /// Adds a route; an equal one of another interface is not replaced.
    ///
    /// # Errors
    /// The kernel's; `EEXIST` when the destination is routed already.
    pub fn add_path(&mut self, path: &Path) -> Result<(), Error> {
        let request = self.path_request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, path);
        self.change(request, "add route", &format!("{}/{}", path.destination, path.prefix))
    }

    /// Removes a route of [`Socket::add_path`]; no error when it is gone.
    ///
    /// # Errors
    /// The kernel's.
    pub fn delete_path(&mut self, path: &Path) -> Result<(), Error> {
        let request = self.path_request(RTM_DELROUTE, 0, path);
        match self.change(request, "delete route", &format!("{}/{}", path.destination, path.prefix)) {
            Err(Error::Kernel { errno: Errno::SRCH | Errno::NODEV | Errno::NOENT, .. }) => Ok(()),
            other => other,
        }
    }

    fn neighbour_request(&mut self, kind: u16, flags: u16, index: u32, address: IpAddr) -> Request {
        let mut header = vec![family(address), 0, 0, 0];
        header.extend_from_slice(&index.to_ne_bytes());
        header.extend_from_slice(&NUD_PERMANENT.to_ne_bytes());
        header.extend_from_slice(&[NTF_PROXY, 0]);
        let sequence = self.next_sequence();
        let mut request = Request::new(kind, NLM_F_REQUEST | NLM_F_ACK | flags, sequence, &header);
        request.attribute(NDA_DST, &octets(address));
        request
    }

    /// Has the host answer for `address` on an interface, or no more; no error when it is so already.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_proxy(&mut self, index: u32, address: IpAddr, on: bool) -> Result<(), Error> {
        let request = if on {
            self.neighbour_request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, index, address)
        } else {
            self.neighbour_request(RTM_DELNEIGH, 0, index, address)
        };
        match self.change(request, "set the proxy entry of", &address.to_string()) {
            Err(Error::Kernel { errno: Errno::NOENT, .. }) if !on => Ok(()),
            other => other,
        }
    }
}
