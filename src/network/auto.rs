//! Choosing addresses where the configuration says `auto`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::net::Net4;
use super::{Error, random, sysctl};
use crate::api::wire::Config;
use crate::sys::netlink::Socket;

/// The private networks, in the order in which they are tried, and how many random tries each gets.
const PRIVATE: &[(Ipv4Addr, u8, usize)] = &[
    (Ipv4Addr::new(10, 0, 0, 0), 8, 200),
    (Ipv4Addr::new(172, 16, 0, 0), 12, 100),
    (Ipv4Addr::new(192, 168, 0, 0), 16, 100),
];

/// Completes the configuration of a network that is being made: without an address it gets `auto`, and with `auto`
/// it gets NAT, unless that is set. Then as [`fill_auto`].
///
/// # Errors
/// As [`fill_auto`].
pub fn fill_new<'a>(config: &mut Config, others: impl IntoIterator<Item = &'a Config>) -> Result<(), Error> {
    let unset = |config: &Config, key: &str| config.get(key).is_none_or(String::is_empty);
    if unset(config, "ipv4.address") {
        config.insert("ipv4.address".to_owned(), "auto".to_owned());
    }
    // A host without IPv6, or with IPv6 off for new interfaces, gets none.
    let off = sysctl::get("ipv6/conf/default/disable_ipv6")?.is_none_or(|value| value != "0");
    if unset(config, "ipv6.address") && !off {
        config.insert("ipv6.address".to_owned(), "auto".to_owned());
    }
    for (address, nat) in [("ipv4.address", "ipv4.nat"), ("ipv6.address", "ipv6.nat")] {
        if config.get(address).is_some_and(|value| value == "auto") && unset(config, nat) {
            config.insert(nat.to_owned(), "true".to_owned());
        }
    }
    fill_auto(config, others)
}

/// Replaces `auto` in `ipv4.address` by a random private /24 that no address, no route of this host and none of the
/// `others` (configurations of this daemon's networks) overlaps, and in `ipv6.address` by a random unique local /64.
///
/// # Errors
/// [`Error::NoFreeSubnet`], or the kernel's when its routes cannot be read.
pub fn fill_auto<'a>(config: &mut Config, others: impl IntoIterator<Item = &'a Config>) -> Result<(), Error> {
    if let Some(value) = config.get_mut("ipv4.address").filter(|value| *value == "auto") {
        let mut taken = taken()?;
        taken.extend(others.into_iter().filter_map(|other| Net4::parse(other.get("ipv4.address")?)));
        *value = free_subnet(&taken)?.to_string();
    }
    if let Some(value) = config.get_mut("ipv6.address").filter(|value| *value == "auto") {
        *value = format!("{}/64", unique_local()?);
    }
    Ok(())
}

/// What this host has and reaches, but for its default route.
fn taken() -> Result<Vec<Net4>, Error> {
    let fail = |source| Error::Netlink { network: "auto".to_owned(), source };
    let mut socket = Socket::open().map_err(fail)?;
    let mut taken = Vec::new();
    for address in socket.addresses().map_err(fail)? {
        if let IpAddr::V4(v4) = address.address {
            taken.push(Net4 { address: v4, prefix: address.prefix });
        }
    }
    for route in socket.routes().map_err(fail)? {
        if let (IpAddr::V4(v4), 1..) = (route.destination, route.prefix) {
            taken.push(Net4 { address: v4, prefix: route.prefix });
        }
    }
    Ok(taken)
}

fn free_subnet(taken: &[Net4]) -> Result<Net4, Error> {
    for (base, prefix, tries) in PRIVATE {
        for _ in 0..*tries {
            let mut bytes = [0; 4];
            random::fill(&mut bytes)?;
            let host_bits = u32::MAX >> prefix;
            let subnet = u32::from(*base) | (u32::from_be_bytes(bytes) & host_bits & !0xff);
            let net = Net4 { address: Ipv4Addr::from(subnet | 1), prefix: 24 };
            // The edges 10.0.0.0/24 and 10.255.255.0/24 are what people and appliances use first.
            let edge = subnet & host_bits == 0 || subnet & host_bits == host_bits & !0xff;
            if !edge && !taken.iter().any(|other| other.overlaps(net)) {
                return Ok(net);
            }
        }
    }
    Err(Error::NoFreeSubnet)
}

/// The first address of a random network of RFC 4193.
fn unique_local() -> Result<Ipv6Addr, Error> {
    let mut bytes = [0; 6];
    random::fill(&mut bytes)?;
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    Ok(Ipv6Addr::new(0xfd42, word(0), word(2), word(4), 0, 0, 0, 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::NetworkName;
    use crate::network::BridgeSpec;

    #[test]
    fn a_new_network_gets_addresses_and_nat() {
        let mut config = Config::from([("ipv6.address".to_owned(), "auto".to_owned())]);
        fill_new(&mut config, []).unwrap();
        let spec = BridgeSpec::parse(&NetworkName::new("br0").unwrap(), &config).unwrap();
        let ipv4 = spec.ipv4.unwrap();
        assert!(ipv4.nat && ipv4.address.prefix == 24 && ipv4.address.address.octets()[3] == 1);
        let ipv6 = spec.ipv6.unwrap();
        assert!(ipv6.nat && ipv6.address.to_string().starts_with("fd42:"));
    }

    #[test]
    fn what_is_set_stays() {
        let mut config = Config::from([
            ("ipv4.address".to_owned(), "none".to_owned()),
            ("ipv6.address".to_owned(), "auto".to_owned()),
            ("ipv6.nat".to_owned(), "false".to_owned()),
        ]);
        fill_new(&mut config, []).unwrap();
        assert_eq!(config["ipv4.address"], "none");
        assert!(!config.contains_key("ipv4.nat") && config["ipv6.nat"] == "false");
    }

    #[test]
    fn taken_networks_are_avoided() {
        let ten = Net4::parse("10.0.0.0/8").unwrap();
        assert!(Net4::parse("172.16.0.0/12").unwrap().contains(free_subnet(&[ten]).unwrap().address));
        let all = Net4::parse("0.0.0.0/1").unwrap();
        let rest = Net4::parse("128.0.0.0/1").unwrap();
        assert!(matches!(free_subnet(&[all, rest]), Err(Error::NoFreeSubnet)));
        let free = free_subnet(&[]).unwrap();
        assert!(ten.contains(free.address));
    }
}
