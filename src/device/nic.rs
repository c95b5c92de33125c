//! `nic`: what each kind of network interface takes, and which name and address it gets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Error, Properties};
use crate::api::wire::Config;
use crate::names::{DeviceName, NetworkName, is_interface, is_mac};

/// How an instance is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NicType {
    /// A veth pair, the host's end in this bridge of the host.
    Bridged {
        /// The bridge's interface.
        parent: String,
    },
    /// A veth pair, the host's end in this managed network.
    Network(NetworkName),
    /// A veth pair, the host's end left to the administrator.
    P2p,
    /// An own hardware address on an interface of the host.
    Macvlan {
        /// The host's interface.
        parent: String,
    },
    /// An interface of the host itself, for as long as the instance runs.
    Physical {
        /// The host's interface.
        parent: String,
    },
    /// A veth pair; the host routes to it, and answers for its addresses on the parent.
    Routed {
        /// The host's interface towards the others, if any.
        parent: Option<String>,
    },
    /// Own addresses, but the hardware address of an interface of the host.
    Ipvlan {
        /// The host's interface.
        parent: String,
        /// `IPVLAN_MODE_*` of `<linux/if_link.h>`: 0 is l2, 2 is l3s.
        mode: u16,
    },
}

impl NicType {
    /// The interface of the host that it needs; a managed network's is named like it.
    pub fn parent(&self) -> Option<&str> {
        match self {
            Self::Bridged { parent }
            | Self::Macvlan { parent }
            | Self::Physical { parent }
            | Self::Ipvlan { parent, .. } => Some(parent),
            Self::Network(network) => Some(network.as_str()),
            Self::Routed { parent } => parent.as_deref(),
            Self::P2p => None,
        }
    }

    /// Of a routed or ipvlan nic: the instance gets its addresses from the daemon.
    fn gives_addresses(&self) -> bool {
        matches!(self, Self::Routed { .. } | Self::Ipvlan { .. })
    }
}

/// One address family of a routed or ipvlan nic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FamilyRouting {
    /// Whether the instance gets a default route.
    pub gateway: bool,
    /// The host's own address on its end.
    pub host_address: IpAddr,
    /// Another table that is to know the routes, too.
    pub host_table: Option<u32>,
}

/// What of a nic can be changed without taking it out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bits a second to the instance.
    pub ingress: Option<u64>,
    /// Bits a second from the instance.
    pub egress: Option<u64>,
    /// The priority that the kernel gives packets from the instance.
    pub priority: Option<u32>,
    /// Only frames with the nic's own hardware address pass.
    pub mac_filtering: bool,
    /// Only IPv4 and ARP from its own address.
    pub ipv4_filtering: bool,
    /// Only IPv6 from its own address.
    pub ipv6_filtering: bool,
    /// Does not talk to other isolated ports of its bridge.
    pub isolated: bool,
    /// What else the host routes to it.
    pub routes: Vec<(IpAddr, u8)>,
}

/// A nic as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// How it is connected.
    pub kind: NicType,
    /// Name inside, else the next free `ethN`.
    pub name: Option<String>,
    /// MAC address, else one that is made once and remembered (of a physical nic: as it is).
    pub hwaddr: Option<String>,
    /// Bytes, else that of the parent.
    pub mtu: Option<u32>,
    /// Name of the host's end, else a random one at each start.
    pub host_name: Option<String>,
    /// The VLAN of the parent.
    pub vlan: Option<u16>,
    /// Its addresses: on a bridge one of each family at most, which DHCP gives it.
    pub addresses: Vec<IpAddr>,
    /// `ipv4.address=none` or `ipv6.address=none`: with filtering, nothing of that family passes.
    pub no_ipv4: bool,
    /// The same for IPv6.
    pub no_ipv6: bool,
    /// IPv4 of a routed or ipvlan nic.
    pub ipv4: FamilyRouting,
    /// IPv6 of the same.
    pub ipv6: FamilyRouting,
    /// Limits, filters and routes.
    pub traffic: Traffic,
}

impl Nic {
    /// The nic with nothing set.
    fn new(kind: NicType) -> Self {
        let family = |host_address| FamilyRouting { gateway: true, host_address, host_table: None };
        Self {
            kind,
            name: None,
            hwaddr: None,
            mtu: None,
            host_name: None,
            vlan: None,
            addresses: Vec::new(),
            no_ipv4: false,
            no_ipv6: false,
            // LXD's: documented for its nics of type "routed".
            ipv4: family(IpAddr::V4(Ipv4Addr::new(169, 254, 0, 1))),
            ipv6: family(IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1))),
            traffic: Traffic::default(),
        }
    }

    /// Its fixed IPv4 address.
    pub fn ipv4_address(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
    }

    /// Its fixed IPv6 address.
    pub fn ipv6_address(&self) -> Option<Ipv6Addr> {
        self.addresses.iter().find_map(|address| match address {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        })
    }
}

/// Reads a MAC address; gives it back in lower case. Not that of a group: no interface takes one.
fn mac(text: &str) -> Option<String> {
    is_mac(text).then(|| text.to_ascii_lowercase())
}

/// A rate as LXD writes it, in bits a second: `kbit` and so on count by 1000, `Kibit` by 1024.
fn bits(text: &str) -> Option<u64> {
    const UNITS: &[(&str, u64, u32)] = &[
        ("kibit", 1024, 1),
        ("mibit", 1024, 2),
        ("gibit", 1024, 3),
        ("tibit", 1024, 4),
        ("kbit", 1000, 1),
        ("mbit", 1000, 2),
        ("gbit", 1000, 3),
        ("tbit", 1000, 4),
        ("bit", 1, 0),
    ];
    let text = text.trim().to_ascii_lowercase();
    let (number, factor) = UNITS
        .iter()
        .find_map(|(unit, base, power)| Some((text.strip_suffix(unit)?, base.pow(*power))))
        .unwrap_or((&text, 1));
    let number: u64 = number.trim().parse().ok()?;
    // The kernel counts bytes.
    number.checked_mul(factor).filter(|bits| *bits >= 8)
}

fn list<T>(text: &str, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    text.split(',').map(|word| read(word.trim())).collect()
}

fn route(text: &str, v4: bool) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
    let address: IpAddr = address.parse().ok().filter(|address: &IpAddr| address.is_ipv4() == v4)?;
    let most = if v4 { 32 } else { 128 };
    let prefix = prefix.map_or(Some(most), |prefix| prefix.parse().ok()).filter(|prefix| *prefix <= most)?;
    let (bits, all) = match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), u128::from(u32::MAX)),
        IpAddr::V6(address) => (u128::from(address), u128::MAX),
    };
    // A network, not an address within one.
    let host = all.checked_shr(u32::from(prefix)).unwrap_or(0);
    (bits & host == 0).then_some((address, prefix))
}

/// Takes properties and turns what does not fit into an error that names it.
struct Reader<'a> {
    properties: Properties<'a>,
}

impl Reader<'_> {
    fn refuse(&self, property: &'static str, value: &str, expected: &'static str) -> Error {
        Error::Value { device: self.properties.device.to_string(), property, value: value.to_owned(), expected }
    }

    fn read<T>(
        &mut self,
        property: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
        expected: &'static str,
    ) -> Result<Option<T>, Error> {
        match self.properties.take(property) {
            None => Ok(None),
            Some(text) => read(text).map(Some).ok_or_else(|| self.refuse(property, text, expected)),
        }
    }

    fn name(&mut self, property: &'static str) -> Result<Option<String>, Error> {
        let expected =
            "an interface's name has 1 to 15 letters, digits, '-', '_' or '.', and is neither all nor default";
        // Below /proc/sys/net two directories are called so that are no interface's.
        let fits = |text: &str| is_interface(text) && !matches!(text, "all" | "default");
        self.read(property, |text| fits(text).then(|| text.to_owned()), expected)
    }

    fn flag(&mut self, property: &'static str) -> Result<bool, Error> {
        Ok(self.properties.flag(property)?.unwrap_or(false))
    }

    fn number<T: std::str::FromStr>(
        &mut self,
        property: &'static str,
        expected: &'static str,
    ) -> Result<Option<T>, Error> {
        self.read(property, |text| text.parse().ok(), expected)
    }

    /// What this nic has no use for, with the reason.
    fn never(&mut self, properties: &[&'static str], reason: &'static str) -> Result<(), Error> {
        for property in properties {
            if let Some(text) = self.properties.take(property) {
                return Err(self.refuse(property, text, reason));
            }
        }
        Ok(())
    }

    fn needed_parent(&mut self, parent: Option<String>, hint: &'static str) -> Result<String, Error> {
        let device = self.properties.device.to_string();
        parent.ok_or(Error::MissingProperty { device, property: "parent", hint })
    }

    fn kind(&mut self) -> Result<NicType, Error> {
        let (nictype, network) = (self.properties.take("nictype"), self.properties.take("network"));
        let parent = self.name("parent")?;
        if let Some(network) = network {
            match nictype {
                None | Some("bridged") => {}
                Some("p2p") => return Err(self.refuse("network", network, "a p2p nic has no network")),
                Some("macvlan" | "physical" | "routed" | "ipvlan") => {
                    return Err(self.refuse("network", network, "managed networks are bridges: set nictype=bridged"));
                }
                Some(_) => return Err(self.refuse("network", network, "unknown nictype")),
            }
            if let Some(parent) = parent {
                return Err(self.refuse("parent", &parent, "it cannot be set together with network="));
            }
            return match NetworkName::new(network) {
                Ok(network) => Ok(NicType::Network(network)),
                Err(_) => Err(self.refuse("network", network, "it must be the name of a managed network")),
            };
        }
        let below = "name the interface of the host that it lies on";
        match nictype {
            Some("bridged") => {
                let hint = "name the bridge of the host, or use network= with a managed network";
                Ok(NicType::Bridged { parent: self.needed_parent(parent, hint)? })
            }
            Some("p2p") => match parent {
                None => Ok(NicType::P2p),
                Some(parent) => Err(self.refuse("parent", &parent, "a p2p nic has no parent")),
            },
            Some("macvlan") => Ok(NicType::Macvlan { parent: self.needed_parent(parent, below)? }),
            Some("physical") => {
                let hint = "name the interface of the host that the instance gets";
                Ok(NicType::Physical { parent: self.needed_parent(parent, hint)? })
            }
            Some("routed") => Ok(NicType::Routed { parent }),
            Some("ipvlan") => {
                let mode = |text: &str| match text {
                    "l2" => Some(0),
                    "l3s" => Some(2),
                    _ => None,
                };
                let mode = self.read("mode", mode, "l3s or l2")?.unwrap_or(2);
                Ok(NicType::Ipvlan { parent: self.needed_parent(parent, below)?, mode })
            }
            Some(other) => {
                let known = "supported by this version: bridged, ipvlan, macvlan, p2p, physical, routed";
                Err(self.refuse("nictype", other, known))
            }
            None => Err(Error::MissingProperty {
                device: self.properties.device.to_string(),
                property: "nictype",
                hint: "set nictype= (bridged, ipvlan, macvlan, p2p, physical or routed), or network= with a managed network",
            }),
        }
    }

    fn addresses(&mut self, nic: &mut Nic) -> Result<(), Error> {
        let v4 = |text: &str| text.parse().ok().map(IpAddr::V4);
        let v6 = |text: &str| text.parse().ok().map(IpAddr::V6);
        if nic.kind.gives_addresses() {
            let four = self.read("ipv4.address", |text| list(text, v4), "IPv4 addresses, separated by commas")?;
            let six = self.read("ipv6.address", |text| list(text, v6), "IPv6 addresses, separated by commas")?;
            nic.addresses = four.into_iter().chain(six).flatten().collect();
            return Ok(());
        }
        let one = |text: &str, read: &dyn Fn(&str) -> Option<IpAddr>| match text {
            "none" => Some(None),
            text => read(text).map(Some),
        };
        let four = self.read("ipv4.address", |text| one(text, &v4), "an IPv4 address, or none")?;
        let six = self.read("ipv6.address", |text| one(text, &v6), "an IPv6 address, or none")?;
        (nic.no_ipv4, nic.no_ipv6) = (four == Some(None), six == Some(None));
        nic.addresses = four.into_iter().chain(six).flatten().collect();
        Ok(())
    }

    fn routing(&mut self, nic: &mut Nic) -> Result<(), Error> {
        let gateway = |text: &str| match text {
            "auto" => Some(true),
            "none" => Some(false),
            _ => None,
        };
        nic.ipv4.gateway = self.read("ipv4.gateway", gateway, "auto or none")?.unwrap_or(true);
        nic.ipv6.gateway = self.read("ipv6.gateway", gateway, "auto or none")?.unwrap_or(true);
        nic.ipv4.host_table = self.number("ipv4.host_table", "the number of a routing table")?;
        nic.ipv6.host_table = self.number("ipv6.host_table", "the number of a routing table")?;
        if matches!(nic.kind, NicType::Routed { .. }) {
            let v4 = self.number::<Ipv4Addr>("ipv4.host_address", "an IPv4 address")?;
            let v6 = self.number::<Ipv6Addr>("ipv6.host_address", "an IPv6 address")?;
            if let Some(address) = v4 {
                nic.ipv4.host_address = address.into();
            }
            if let Some(address) = v6 {
                nic.ipv6.host_address = address.into();
            }
            // Nobody is asked whether an address is in use: it is the administrator's word.
            self.properties.flag("ipv4.neighbor_probe")?;
            self.properties.flag("ipv6.neighbor_probe")?;
        }
        Ok(())
    }

    fn routes(&mut self, nic: &mut Nic) -> Result<(), Error> {
        let four = |text: &str| list(text, |word| route(word, true));
        let six = |text: &str| list(text, |word| route(word, false));
        let four = self.read("ipv4.routes", four, "IPv4 networks such as 192.0.2.0/24, separated by commas")?;
        let six = self.read("ipv6.routes", six, "IPv6 networks such as 2001:db8::/64, separated by commas")?;
        nic.traffic.routes = four.into_iter().chain(six).flatten().collect();
        Ok(())
    }

    fn limits(&mut self, nic: &mut Nic) -> Result<(), Error> {
        let rate = "bits a second, such as 10Mbit";
        let (ingress, egress) = (self.read("limits.ingress", bits, rate)?, self.read("limits.egress", bits, rate)?);
        let most = self.read("limits.max", bits, rate)?;
        if most.is_some() && (ingress.is_some() || egress.is_some()) {
            let reason = "it stands for both limits.ingress and limits.egress: set it, or those";
            return Err(self.refuse("limits.max", "", reason));
        }
        (nic.traffic.ingress, nic.traffic.egress) = (ingress.or(most), egress.or(most));
        nic.traffic.priority = self.number("limits.priority", "a number from 0 to 4294967295")?;
        Ok(())
    }
}

pub(super) fn parse(properties: Properties<'_>) -> Result<Nic, Error> {
    let mut reader = Reader { properties };
    let mut nic = Nic::new(reader.kind()?);
    nic.name = reader.name("name")?;
    let mtu = |text: &str| text.parse().ok().filter(|mtu| (68..=65535).contains(mtu));
    nic.mtu = reader.read("mtu", mtu, "a number of bytes from 68 to 65535")?;
    // Machines boot from nics; containers do not.
    reader.number::<u32>("boot.priority", "a number from 0 to 4294967295")?;
    reader.never(&["maas.subnet.ipv4", "maas.subnet.ipv6"], "this server is not connected to a MAAS: leave it out")?;
    if !matches!(nic.kind, NicType::Ipvlan { .. }) {
        let six = "the hardware address of one interface: six pairs of hexadecimal digits and colons";
        nic.hwaddr = reader.read("hwaddr", mac, six)?;
    }
    let pair =
        matches!(nic.kind, NicType::Bridged { .. } | NicType::Network(_) | NicType::P2p | NicType::Routed { .. });
    if pair || matches!(nic.kind, NicType::Macvlan { .. }) {
        nic.host_name = reader.name("host_name")?;
    }
    if pair {
        reader.limits(&mut nic)?;
        reader.routes(&mut nic)?;
    }
    match nic.kind {
        NicType::Bridged { .. } | NicType::Network(_) => {
            reader.addresses(&mut nic)?;
            nic.traffic.mac_filtering = reader.flag("security.mac_filtering")?;
            nic.traffic.ipv4_filtering = reader.flag("security.ipv4_filtering")?;
            nic.traffic.ipv6_filtering = reader.flag("security.ipv6_filtering")?;
            nic.traffic.isolated = reader.flag("security.port_isolation")?;
            reader.never(&["vlan", "vlan.tagged"], "bridges that filter by VLAN are not supported by this version")?;
        }
        NicType::Macvlan { .. } | NicType::Physical { .. } => {
            let vlan = |text: &str| text.parse().ok().filter(|id| (1..=4094).contains(id));
            nic.vlan = reader.read("vlan", vlan, "a number from 1 to 4094")?;
            if reader.flag("gvrp")? {
                return Err(reader.refuse("gvrp", "true", "GVRP is not spoken by this version"));
            }
            if matches!(nic.kind, NicType::Macvlan { .. }) {
                reader.read("mode", |mode| (mode == "bridge").then_some(()), "bridge, the only mode")?;
            }
        }
        NicType::Routed { .. } | NicType::Ipvlan { .. } => {
            reader.addresses(&mut nic)?;
            reader.routing(&mut nic)?;
            reader.never(&["vlan"], "make the VLAN's interface on the host, and name it as parent=")?;
        }
        NicType::P2p => {}
    }
    let (four, six) = (nic.ipv4_address(), nic.ipv6_address());
    if nic.traffic.ipv4_filtering && four.is_none() && !nic.no_ipv4 {
        let reason = "set ipv4.address= to the address that the instance may use (or to none)";
        return Err(reader.refuse("security.ipv4_filtering", "true", reason));
    }
    if nic.traffic.ipv6_filtering && six.is_none() && !nic.no_ipv6 {
        let reason = "set ipv6.address= to the address that the instance may use (or to none)";
        return Err(reader.refuse("security.ipv6_filtering", "true", reason));
    }
    reader.properties.end()?;
    Ok(nic)
}

/// What one nic is called, and its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicPlan {
    /// The device.
    pub device: DeviceName,
    /// Name inside.
    pub name: String,
    /// MAC address; none: as it is (physical), or the parent's (ipvlan).
    pub hwaddr: Option<String>,
    /// Name of the host's end.
    pub host_name: String,
}

/// Names all nics of an instance. `random_mac` and `random_host_name` are asked only where nothing is configured or
/// remembered in `config` (`volatile.<device>.hwaddr`, `.name`).
///
/// # Errors
/// [`Error::SameInterface`] when two nics would have one name inside.
pub fn plan_nics(
    nics: &BTreeMap<DeviceName, Nic>,
    config: &Config,
    mut random_mac: impl FnMut() -> String,
    mut random_host_name: impl FnMut() -> String,
) -> Result<Vec<NicPlan>, Error> {
    let remembered = |device: &DeviceName, key: &str| config.get(&format!("volatile.{device}.{key}")).cloned();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for (device, nic) in nics {
        if let Some(name) = &nic.name
            && !taken.insert(name.clone())
        {
            return Err(Error::SameInterface { name: name.clone(), device: device.to_string() });
        }
    }
    // What has a name already keeps it, whoever comes.
    let mut names: BTreeMap<&DeviceName, String> = BTreeMap::new();
    for (device, nic) in nics {
        let name = match &nic.name {
            Some(name) => Some(name.clone()),
            None => remembered(device, "name").filter(|name| !name.is_empty() && taken.insert(name.clone())),
        };
        names.extend(name.map(|name| (device, name)));
    }
    let mut plans = Vec::with_capacity(nics.len());
    for (device, nic) in nics {
        let name = names.remove(device).unwrap_or_else(|| {
            let free = (0..=nics.len()).map(|n| format!("eth{n}")).find(|name| !taken.contains(name));
            free.unwrap_or_else(|| device.to_string())
        });
        taken.insert(name.clone());
        let remembered = || remembered(device, "hwaddr").filter(|mac| !mac.is_empty());
        plans.push(NicPlan {
            device: device.clone(),
            name,
            hwaddr: match nic.kind {
                NicType::Physical { .. } | NicType::Ipvlan { .. } => nic.hwaddr.clone(),
                _ => Some(nic.hwaddr.clone().or_else(remembered).unwrap_or_else(&mut random_mac)),
            },
            host_name: nic.host_name.clone().unwrap_or_else(&mut random_host_name),
        });
    }
    Ok(plans)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(name: Option<&str>) -> Nic {
        Nic { name: name.map(str::to_owned), ..Nic::new(NicType::P2p) }
    }

    fn plan(nics: &[(&str, Nic)], config: &Config) -> Result<Vec<NicPlan>, Error> {
        let nics = nics.iter().map(|(n, nic)| (DeviceName::new(*n).unwrap(), nic.clone())).collect();
        plan_nics(&nics, config, || "00:16:3e:00:00:01".to_owned(), || "veth1".to_owned())
    }

    #[test]
    fn names_inside_are_the_next_free_ones() {
        let plans = plan(&[("a", nic(None)), ("b", nic(Some("eth0"))), ("c", nic(None))], &Config::new()).unwrap();
        let names: Vec<&str> = plans.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["eth1", "eth0", "eth2"]);
    }

    #[test]
    fn two_nics_of_one_name_are_refused() {
        let error = plan(&[("a", nic(Some("eth0"))), ("b", nic(Some("eth0")))], &Config::new()).unwrap_err();
        assert_eq!(error, Error::SameInterface { name: "eth0".to_owned(), device: "b".to_owned() });
    }

    #[test]
    fn what_is_remembered_is_used_again() {
        let config = [
            ("volatile.b.hwaddr".to_owned(), "00:16:3e:aa:bb:cc".to_owned()),
            ("volatile.b.name".to_owned(), "eth0".to_owned()),
        ]
        .into();
        // Also by one that stands behind a newcomer.
        let plans = plan(&[("a", nic(None)), ("b", nic(None))], &config).unwrap();
        assert_eq!((plans[1].hwaddr.as_deref(), plans[1].name.as_str()), (Some("00:16:3e:aa:bb:cc"), "eth0"));
        assert_eq!(plans[0].name, "eth1");
    }

    #[test]
    fn rates_are_bits() {
        assert_eq!(bits("10Mbit"), Some(10_000_000));
        assert_eq!(bits("1kibit"), Some(1024));
        assert_eq!(bits("8"), Some(8));
        assert_eq!(bits("64bit"), Some(64));
        for bad in ["", "1", "0Mbit", "fast", "-1bit", "10MB", "99999999999Tbit"] {
            assert_eq!(bits(bad), None, "{bad}");
        }
    }

    #[test]
    fn routes_are_networks() {
        assert_eq!(route("192.0.2.0/24", true), Some((IpAddr::V4(Ipv4Addr::new(192, 0, 2, 0)), 24)));
        assert!(route("2001:db8::/32", false).is_some() && route("192.0.2.1", true).is_some());
        for bad in ["192.0.2.1/24", "192.0.2.0/33", "2001:db8::/32", "x"] {
            assert_eq!(route(bad, true), None, "{bad}");
        }
    }
}
