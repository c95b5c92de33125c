//! The configuration of a bridge, checked and typed.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Error;
use super::acl::{self, Acls};
use super::forwards::PortForward;
use super::net::{Net4, Net6};
use crate::api::wire::Config;
use crate::names::{NetworkName, is_interface, is_mac};
use crate::sys::netlink::MacAddr;

/// A key of a bridge's configuration.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What holds when it is not set.
    pub default: &'static str,
    /// What it takes; completes "… is not".
    pub rule: &'static str,
    /// What it does.
    pub doc: &'static str,
    pub(super) check: fn(&str) -> bool,
}

pub(super) const BOOLEAN: &str = "a boolean: true or false";

pub(super) const fn key(
    name: &'static str,
    default: &'static str,
    rule: &'static str,
    check: fn(&str) -> bool,
    doc: &'static str,
) -> Key {
    Key { name, default, rule, doc, check }
}

/// Every key of a bridge, besides `user.*`.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("bridge.driver", "native", "native, the only driver of bridges here", |v| v == "native", "Driver of the bridge"),
    key("bridge.external_interfaces", "none", "a list of names of interfaces with commas between", |v| list(v).all(is_interface), "Interfaces of the host without addresses that become ports of the bridge"),
    key("bridge.hwaddr", "made from the name", "a unicast MAC address such as 00:16:3e:01:02:03", is_mac, "Hardware address of the bridge"),
    key("bridge.mode", "standard", "standard, the only mode here", |v| v == "standard", "Mode of the bridge"),
    key("bridge.mtu", "1500", "a number of bytes from 1280 to 16384", is_mtu, "Largest packet"),
    key("dns.domain", "lxd", "a domain name", is_domain, "Domain of the names that DHCP gives and DNS answers"),
    key("dns.mode", "managed", "managed, dynamic or none", |v| dns_mode(v).is_some(), "Names from instances (managed), from clients (dynamic), or no DNS"),
    key("dns.search", "the domain", "a list of domain names with commas between", |v| list(v).all(is_domain), "Domains that clients search"),
    key("firewall.assist", "false", BOOLEAN, is_bool, "Ours: whether to let this network's packets pass what else filters on the host (Docker, ufw, firewalld, a FORWARD policy of drop), by marked rules that go with the network"),
    key("ipv4.address", "auto when created", "auto, none, or a host's address with its network's bits such as 10.0.0.1/24", is_ipv4_address, "Address of the bridge"),
    key("ipv4.dhcp", "true", BOOLEAN, is_bool, "Whether to give addresses by DHCP"),
    key("ipv4.dhcp.expiry", "1h", EXPIRY, is_expiry, "How long a lease holds"),
    key("ipv4.dhcp.gateway", "the bridge's address", "an IPv4 address", |v| v.parse::<Ipv4Addr>().is_ok(), "Gateway that clients are told"),
    key("ipv4.dhcp.ranges", "all of the subnet", "a list of ranges FIRST-LAST of IPv4 addresses with commas between", |v| ranges::<Ipv4Addr>(v).is_some(), "Addresses for DHCP"),
    key("ipv4.firewall", "true", BOOLEAN, is_bool, "Whether to make firewall rules for this network"),
    key("ipv4.nat", "false; true when made with ipv4.address auto", BOOLEAN, is_bool, "Whether to hide the network behind the host's address"),
    key("ipv4.nat.address", "that of the outgoing interface", "an IPv4 address", |v| v.parse::<Ipv4Addr>().is_ok(), "Source address of what leaves the network"),
    key("ipv4.nat.order", "before", "before or after", is_order, "Whether the NAT rule counts before or after those of others"),
    key("ipv4.routes", "none", "a list of IPv4 networks such as 10.1.0.0/16 with commas between", |v| list(v).all(|n| Net4::parse(n).is_some()), "Further networks that are reached through the bridge"),
    key("ipv4.routing", "true", BOOLEAN, is_bool, "Whether to route into and out of the network"),
    key("ipv6.address", "auto when created", "auto, none, or a host's address with its network's bits such as fd42::1/64", is_ipv6_address, "Address of the bridge"),
    key("ipv6.dhcp", "true", BOOLEAN, is_bool, "Whether to give information by DHCPv6"),
    key("ipv6.dhcp.expiry", "1h", EXPIRY, is_expiry, "How long a lease holds"),
    key("ipv6.dhcp.ranges", "all of the subnet", "a list of ranges FIRST-LAST of IPv6 addresses with commas between", |v| ranges::<Ipv6Addr>(v).is_some(), "Addresses for stateful DHCPv6"),
    key("ipv6.dhcp.stateful", "false", BOOLEAN, is_bool, "Whether DHCPv6 gives the addresses too"),
    key("ipv6.firewall", "true", BOOLEAN, is_bool, "Whether to make firewall rules for this network"),
    key("ipv6.nat", "false; true when made with ipv6.address auto", BOOLEAN, is_bool, "Whether to hide the network behind the host's address"),
    key("ipv6.nat.address", "that of the outgoing interface", "an IPv6 address", |v| v.parse::<Ipv6Addr>().is_ok(), "Source address of what leaves the network"),
    key("ipv6.nat.order", "before", "before or after", is_order, "Whether the NAT rule counts before or after those of others"),
    key("ipv6.routes", "none", "a list of IPv6 networks such as fd00::/48 with commas between", |v| list(v).all(|n| Net6::parse(n).is_some()), "Further networks that are reached through the bridge"),
    key("ipv6.routing", "true", BOOLEAN, is_bool, "Whether to route into and out of the network"),
    key("raw.dnsmasq", "", "text without NUL", |v| !v.contains('\0'), "Lines for dnsmasq's configuration"),
    key("security.acls", "none", "a list of names of network ACLs with commas between", |v| list(v).all(|n| crate::names::AclName::new(n).is_ok()), "Network ACLs that hold for instances on this network"),
    key("security.acls.default.egress.action", "reject", acl::ACTIONS, acl::is_action, "What becomes of packets from instances that no rule takes, where there are ACLs"),
    key("security.acls.default.egress.logged", "false", BOOLEAN, is_bool, "Whether those are logged"),
    key("security.acls.default.ingress.action", "reject", acl::ACTIONS, acl::is_action, "What becomes of packets to instances that no rule takes, where there are ACLs"),
    key("security.acls.default.ingress.logged", "false", BOOLEAN, is_bool, "Whether those are logged"),
    key("volatile.bridge.hwaddr", "", "a unicast MAC address such as 00:16:3e:01:02:03", is_mac, "Hardware address that was made for the bridge"),
];

const EXPIRY: &str = "infinite, or a number of at least two minutes with the unit s, m, h, d or w";

/// Where DNS has its names from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsMode {
    /// From the names of instances.
    Managed,
    /// From what clients call themselves.
    Dynamic,
    /// There is no DNS.
    None,
}

/// DNS of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Domain of the names.
    pub domain: String,
    /// Where the names come from.
    pub mode: DnsMode,
    /// Domains that clients search; empty: the domain.
    pub search: Vec<String>,
}

/// IPv4 of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipv4 {
    /// Address of the bridge.
    pub address: Net4,
    /// Whether what leaves gets the host's address.
    pub nat: bool,
    /// That address, if it is a given one.
    pub nat_address: Option<Ipv4Addr>,
    /// Whether others' rules come first.
    pub nat_after: bool,
    /// Whether there is DHCP.
    pub dhcp: bool,
    /// Addresses for DHCP; empty: all.
    pub ranges: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// As dnsmasq writes it: `1h`, `infinite`.
    pub expiry: String,
    /// What clients are told instead of `address`.
    pub gateway: Option<Ipv4Addr>,
    /// Whether to make filter rules.
    pub firewall: bool,
    /// Whether the host forwards.
    pub routing: bool,
    /// Networks behind the bridge.
    pub routes: Vec<Net4>,
}

/// IPv6 of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipv6 {
    /// Address of the bridge.
    pub address: Net6,
    /// Whether what leaves gets the host's address.
    pub nat: bool,
    /// That address, if it is a given one.
    pub nat_address: Option<Ipv6Addr>,
    /// Whether others' rules come first.
    pub nat_after: bool,
    /// Whether there is DHCPv6.
    pub dhcp: bool,
    /// Whether DHCPv6 gives addresses (otherwise clients make their own from the advertised network).
    pub stateful: bool,
    /// Addresses for DHCPv6; empty: all.
    pub ranges: Vec<(Ipv6Addr, Ipv6Addr)>,
    /// As dnsmasq writes it.
    pub expiry: String,
    /// Whether to make filter rules.
    pub firewall: bool,
    /// Whether the host forwards.
    pub routing: bool,
    /// Networks behind the bridge.
    pub routes: Vec<Net6>,
}

/// A managed bridge as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeSpec {
    /// The network, and its interface.
    pub name: NetworkName,
    /// Bytes.
    pub mtu: u32,
    /// `None`: made from the name, always the same.
    pub hwaddr: Option<MacAddr>,
    /// `None`: no IPv4.
    pub ipv4: Option<Ipv4>,
    /// `None`: no IPv6.
    pub ipv6: Option<Ipv6>,
    /// Names.
    pub dns: Dns,
    /// Lines for dnsmasq.
    pub raw_dnsmasq: String,
    /// Interfaces of the host that are its ports.
    pub external: Vec<String>,
    /// Whether others' firewalls are told to let it pass.
    pub assist: bool,
    /// What filters between it and the rest; none where no access control list is named.
    pub acls: Option<Acls>,
    /// What is handed on into it.
    pub forwards: Vec<PortForward>,
}

/// The values of a configuration; an empty one counts as not set.
pub(super) struct Values<'a> {
    pub(super) network: &'a NetworkName,
    pub(super) config: &'a Config,
}

impl<'a> Values<'a> {
    pub(super) fn get(&self, key: &str) -> Option<&'a str> {
        self.config.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> bool {
        self.get(key).and_then(parse_bool).unwrap_or(default)
    }

    pub(super) fn parsed<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.get(key)?.parse().ok()
    }

    pub(super) fn refuse(&self, key: &'static str, rule: &'static str) -> Error {
        let value = self.get(key).unwrap_or_default().to_owned();
        Error::Value { network: self.network.clone(), key, value, rule }
    }

    pub(super) fn check(&self, keys: &[Key]) -> Result<(), Error> {
        for (name, value) in self.config {
            if name.starts_with("user.") && name.len() > "user.".len() {
                continue;
            }
            let Some(key) = keys.iter().find(|key| key.name == name) else {
                return Err(Error::UnknownKey { network: self.network.clone(), key: name.clone() });
            };
            if !value.is_empty() && !(key.check)(value) {
                return Err(self.refuse(key.name, key.rule));
            }
        }
        Ok(())
    }

    fn ipv4(&self) -> Result<Option<Ipv4>, Error> {
        let Some(text) = self.get("ipv4.address").filter(|text| *text != "none") else { return Ok(None) };
        let unfilled = || self.refuse("ipv4.address", "an address: automatic ones are chosen before this point");
        let address = Net4::parse(text).ok_or_else(unfilled)?;
        let dhcp = self.flag("ipv4.dhcp", true);
        let ranges = self.get("ipv4.dhcp.ranges").and_then(ranges).unwrap_or_default();
        if dhcp && !ranges.iter().all(|(first, last)| address.contains(*first) && address.contains(*last)) {
            return Err(self.refuse("ipv4.dhcp.ranges", "within the subnet of ipv4.address"));
        }
        Ok(Some(Ipv4 {
            address,
            nat: self.flag("ipv4.nat", false),
            nat_address: self.parsed("ipv4.nat.address"),
            nat_after: self.get("ipv4.nat.order") == Some("after"),
            dhcp,
            ranges,
            expiry: self.get("ipv4.dhcp.expiry").unwrap_or("1h").to_owned(),
            gateway: self.parsed("ipv4.dhcp.gateway"),
            firewall: self.flag("ipv4.firewall", true),
            routing: self.flag("ipv4.routing", true),
            routes: list(self.get("ipv4.routes").unwrap_or_default()).filter_map(Net4::parse).collect(),
        }))
    }

    fn ipv6(&self) -> Result<Option<Ipv6>, Error> {
        let Some(text) = self.get("ipv6.address").filter(|text| *text != "none") else { return Ok(None) };
        let unfilled = || self.refuse("ipv6.address", "an address: automatic ones are chosen before this point");
        let address = Net6::parse(text).ok_or_else(unfilled)?;
        let dhcp = self.flag("ipv6.dhcp", true);
        let stateful = self.flag("ipv6.dhcp.stateful", false);
        if dhcp && address.prefix < 64 {
            return Err(self.refuse(
                "ipv6.address",
                "a network of 64 or more bits, as DHCPv6 needs (else set ipv6.dhcp to false)",
            ));
        }
        let ranges = self.get("ipv6.dhcp.ranges").and_then(ranges).unwrap_or_default();
        let within = ranges.iter().all(|(first, last)| address.contains(*first) && address.contains(*last));
        if dhcp && stateful && !within {
            return Err(self.refuse("ipv6.dhcp.ranges", "within the subnet of ipv6.address"));
        }
        Ok(Some(Ipv6 {
            address,
            nat: self.flag("ipv6.nat", false),
            nat_address: self.parsed("ipv6.nat.address"),
            nat_after: self.get("ipv6.nat.order") == Some("after"),
            dhcp,
            stateful,
            ranges,
            expiry: self.get("ipv6.dhcp.expiry").unwrap_or("1h").to_owned(),
            firewall: self.flag("ipv6.firewall", true),
            routing: self.flag("ipv6.routing", true),
            routes: list(self.get("ipv6.routes").unwrap_or_default()).filter_map(Net6::parse).collect(),
        }))
    }
}

impl BridgeSpec {
    /// Checks `config` and gives it types. An absent or empty `ipv4.address` or `ipv6.address` means none: what a new
    /// network gets, [`fill_new`](super::fill_new) has put there; `auto` is an error for the same reason.
    ///
    /// # Errors
    /// [`Error::UnknownKey`] and [`Error::Value`], for the first offending key in alphabetical order.
    pub fn parse(name: &NetworkName, config: &Config) -> Result<Self, Error> {
        let values = Values { network: name, config };
        values.check(KEYS)?;
        let hwaddr = values.parsed("bridge.hwaddr").or_else(|| values.parsed("volatile.bridge.hwaddr"));
        let mut raw_dnsmasq = values.get("raw.dnsmasq").unwrap_or_default().trim_end().to_owned();
        if !raw_dnsmasq.is_empty() {
            raw_dnsmasq.push('\n');
        }
        Ok(Self {
            name: name.clone(),
            mtu: values.parsed("bridge.mtu").unwrap_or(1500),
            hwaddr,
            ipv4: values.ipv4()?,
            ipv6: values.ipv6()?,
            dns: Dns {
                domain: values.get("dns.domain").unwrap_or("lxd").to_owned(),
                mode: values.get("dns.mode").and_then(dns_mode).unwrap_or(DnsMode::Managed),
                search: list(values.get("dns.search").unwrap_or_default()).map(str::to_owned).collect(),
            },
            raw_dnsmasq,
            external: list(values.get("bridge.external_interfaces").unwrap_or_default()).map(str::to_owned).collect(),
            assist: values.flag("firewall.assist", false),
            acls: values.get("security.acls").map(|_| Acls {
                egress: acl::Fallback::of(&values, "egress"),
                ingress: acl::Fallback::of(&values, "ingress"),
                rules: Vec::new(),
            }),
            forwards: Vec::new(),
        })
    }
}

impl BridgeSpec {
    /// Whether a dnsmasq serves the network: there is an address to serve from.
    pub fn has_service(&self) -> bool {
        self.ipv4.is_some() || self.ipv6.is_some()
    }

    /// Whether names are answered.
    pub fn has_dns(&self) -> bool {
        self.has_service() && self.dns.mode != DnsMode::None
    }
}

/// The boolean words of LXD's configuration, in any case.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// The names in `security.acls` of a configuration that was parsed.
pub fn acl_names(config: &Config) -> Vec<String> {
    list(config.get("security.acls").map_or("", String::as_str)).map(str::to_owned).collect()
}

pub(super) fn is_bool(text: &str) -> bool {
    parse_bool(text).is_some()
}

fn is_order(text: &str) -> bool {
    matches!(text, "before" | "after")
}

pub(super) fn is_mtu(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse().is_ok_and(|mtu: u32| (1280..=16384).contains(&mtu))
}

fn dns_mode(text: &str) -> Option<DnsMode> {
    match text {
        "managed" => Some(DnsMode::Managed),
        "dynamic" => Some(DnsMode::Dynamic),
        "none" => Some(DnsMode::None),
        _ => None,
    }
}

fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

fn is_expiry(text: &str) -> bool {
    if text == "infinite" {
        return true;
    }
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit: u64 = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        "w" => 604_800,
        _ => return false,
    };
    let seconds = digits.parse::<u32>().ok().and_then(|n| u64::from(n).checked_mul(unit));
    digits.bytes().all(|b| b.is_ascii_digit()) && seconds.is_some_and(|s| (120..u64::from(u32::MAX)).contains(&s))
}

fn is_ipv4_address(text: &str) -> bool {
    matches!(text, "auto" | "none")
        || Net4::parse(text).is_some_and(|net| {
            // Both addresses of a network of two are hosts' (RFC 3021).
            let host = net.prefix == 31 || (net.address != net.first() && net.address != net.last());
            let usable = !net.address.is_loopback() && !net.address.is_multicast() && !net.address.is_unspecified();
            (1..=31).contains(&net.prefix) && host && usable
        })
}

fn is_ipv6_address(text: &str) -> bool {
    matches!(text, "auto" | "none")
        || Net6::parse(text).is_some_and(|net| {
            let usable = !net.address.is_loopback() && !net.address.is_multicast() && !net.address.is_unspecified();
            (1..=126).contains(&net.prefix) && net.address != net.first() && usable
        })
}

/// The items of a list with commas between them, without the spaces around.
pub(super) fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(move |item| !(item.is_empty() && text.trim().is_empty()))
}

fn ranges<T: std::str::FromStr + Ord>(text: &str) -> Option<Vec<(T, T)>> {
    list(text)
        .map(|range| {
            let (first, last) = range.split_once('-')?;
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (first <= last).then_some((first, last))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<BridgeSpec, Error> {
        let config = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        BridgeSpec::parse(&NetworkName::new("br0").unwrap(), &config)
    }

    #[test]
    fn defaults() {
        let spec = parse(&[("ipv4.address", "10.1.2.1/24"), ("ipv6.address", "fd42::1/64")]).unwrap();
        let ipv4 = spec.ipv4.unwrap();
        assert!(!ipv4.nat && ipv4.dhcp && ipv4.firewall && ipv4.routing && ipv4.expiry == "1h");
        let ipv6 = spec.ipv6.unwrap();
        assert!(!ipv6.nat && ipv6.dhcp && !ipv6.stateful && ipv6.firewall && ipv6.routing);
        assert_eq!((spec.mtu, spec.hwaddr, spec.dns.mode), (1500, None, DnsMode::Managed));
        assert_eq!(spec.dns.domain, "lxd");
        let none = parse(&[("ipv4.address", "none")]).unwrap();
        assert!(none.ipv4.is_none() && none.ipv6.is_none());
    }

    #[test]
    fn values_are_taken() {
        let spec = parse(&[
            ("ipv4.address", "10.1.2.1/24"),
            ("ipv4.nat", "YES"),
            ("ipv4.dhcp.ranges", "10.1.2.5-10.1.2.9, 10.1.2.20-10.1.2.20"),
            ("ipv4.dhcp.expiry", "2d"),
            ("ipv4.routes", "10.9.0.0/16,10.8.0.0/16"),
            ("dns.search", "a.example,b.example"),
            ("dns.mode", ""),
            ("bridge.hwaddr", "00:16:3e:01:02:03"),
            ("bridge.mtu", "9000"),
            ("raw.dnsmasq", "cache-size=10"),
            ("user.note", "anything"),
        ])
        .unwrap();
        let ipv4 = spec.ipv4.unwrap();
        assert!(ipv4.nat && ipv4.ranges.len() == 2 && ipv4.routes.len() == 2 && ipv4.expiry == "2d");
        assert_eq!(spec.dns.search, ["a.example", "b.example"]);
        assert_eq!((spec.mtu, spec.raw_dnsmasq.as_str()), (9000, "cache-size=10\n"));
        assert_eq!(spec.hwaddr.map(|mac| mac.to_string()), Some("00:16:3e:01:02:03".to_owned()));
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        for bad in ["foo.bar", "user.", "volatile.foo", "ipv4.addres"] {
            let text = parse(&[(bad, "1")]).unwrap_err().to_string();
            assert_eq!(text, format!("Invalid option for network \"br0\" option \"{bad}\""));
        }
    }

    #[test]
    fn wrong_values_are_refused_with_the_rule() {
        for (key, value) in [
            ("ipv4.address", "10.0.0.1"),
            ("ipv4.address", "10.0.0.0/24"),
            ("ipv4.address", "10.0.0.255/24"),
            ("ipv4.address", "10.0.0.1/32"),
            ("ipv4.address", "127.0.0.1/8"),
            ("ipv4.address", "fd42::1/64"),
            ("ipv6.address", "10.0.0.1/24"),
            ("ipv6.address", "fd42::/64"),
            ("ipv6.address", "fd42::1/48"),
            ("ipv4.nat", "maybe"),
            ("ipv4.dhcp.ranges", "10.0.0.1"),
            ("ipv4.dhcp.ranges", "10.0.0.9-10.0.0.1"),
            ("ipv4.dhcp.ranges", ","),
            ("ipv4.dhcp.expiry", "foo"),
            ("ipv4.dhcp.expiry", "1s"),
            ("ipv4.dhcp.expiry", "1x"),
            ("ipv4.dhcp.expiry", "99999999999w"),
            ("ipv4.dhcp.gateway", "abc"),
            ("ipv4.routes", "10.0.0.0"),
            ("bridge.mtu", "+1500"),
            ("bridge.mtu", "70000"),
            ("bridge.hwaddr", "01:16:3e:11:22:33"),
            ("bridge.driver", "openvswitch"),
            ("dns.mode", "zz"),
            ("dns.domain", "a b"),
            ("dns.domain", "a/b"),
            ("dns.search", "good,x y"),
            ("raw.dnsmasq", "a\0b"),
        ] {
            let text = parse(&[(key, value)]).unwrap_err().to_string();
            let start = format!("Invalid value for network \"br0\" option \"{key}\": {value:?} is not ");
            assert!(text.starts_with(&start), "{key}={value}: {text}");
        }
        let outside = parse(&[("ipv4.address", "10.0.0.1/24"), ("ipv4.dhcp.ranges", "10.0.1.1-10.0.1.2")]);
        assert!(outside.unwrap_err().to_string().contains("within the subnet"));
        assert!(parse(&[("ipv4.address", "auto")]).is_err());
    }

    #[test]
    fn every_default_boolean_is_a_row() {
        assert!(KEYS.is_sorted_by_key(|key| key.name));
    }
}
