//! An address together with its network.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// An IPv4 address and the bits of its network, as `10.0.0.1/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Net4 {
    /// The address itself.
    pub address: Ipv4Addr,
    /// 0 to 32.
    pub prefix: u8,
}

/// An IPv6 address and the bits of its network, as `fd42::1/64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Net6 {
    /// The address itself.
    pub address: Ipv6Addr,
    /// 0 to 128.
    pub prefix: u8,
}

fn split(text: &str, most: u8) -> Option<(&str, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let digits = !prefix.is_empty() && prefix.len() <= 3 && prefix.bytes().all(|b| b.is_ascii_digit());
    let prefix = prefix.parse().ok().filter(|p| digits && *p <= most)?;
    Some((address, prefix))
}

impl Net4 {
    /// Reads `address/bits`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = split(text, 32)?;
        Some(Self { address: address.parse().ok()?, prefix })
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    /// The lowest address.
    pub fn first(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) & self.mask())
    }

    /// The highest address: the broadcast address of a network of more than two.
    pub fn last(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) | !self.mask())
    }

    /// The network, with all host bits zero.
    pub fn network(self) -> Self {
        Self { address: self.first(), prefix: self.prefix }
    }

    /// Whether `address` is in the network.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (self.first()..=self.last()).contains(&address)
    }

    /// Whether the networks have an address in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.first()) || other.contains(self.first())
    }
}

impl Net6 {
    /// Reads `address/bits`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = split(text, 128)?;
        Some(Self { address: address.parse().ok()?, prefix })
    }

    fn mask(self) -> u128 {
        u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0)
    }

    /// The lowest address.
    pub fn first(self) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.address) & self.mask())
    }

    /// The highest address.
    pub fn last(self) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.address) | !self.mask())
    }

    /// The network, with all host bits zero.
    pub fn network(self) -> Self {
        Self { address: self.first(), prefix: self.prefix }
    }

    /// Whether `address` is in the network.
    pub fn contains(self, address: Ipv6Addr) -> bool {
        (self.first()..=self.last()).contains(&address)
    }
}

impl fmt::Display for Net4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl fmt::Display for Net6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_networks() {
        let net = Net4::parse("10.1.2.3/24").unwrap();
        assert_eq!((net.first().to_string(), net.last().to_string()), ("10.1.2.0".into(), "10.1.2.255".into()));
        assert_eq!(net.network().to_string(), "10.1.2.0/24");
        let all = Net4::parse("1.2.3.4/0").unwrap();
        assert_eq!((all.first(), all.last()), (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST));
        let one = Net4::parse("1.2.3.4/32").unwrap();
        assert_eq!((one.first(), one.last()), (one.address, one.address));
        assert!(all.overlaps(one) && one.overlaps(all) && !one.overlaps(net));
        let six = Net6::parse("fd42::1/64").unwrap();
        assert_eq!(six.network().to_string(), "fd42::/64");
        assert_eq!(six.last().to_string(), "fd42::ffff:ffff:ffff:ffff");
    }

    #[test]
    fn only_an_address_with_bits_is_a_network() {
        for bad in ["", "10.0.0.1", "10.0.0.1/", "10.0.0.1/33", "10.0.0.1/+8", "10.0.0/8", "fd42::1/64", "/8"] {
            assert_eq!(Net4::parse(bad), None, "{bad}");
        }
        for bad in ["fd42::1", "fd42::1/129", "10.0.0.1/24", "fd42::1/ 4"] {
            assert_eq!(Net6::parse(bad), None, "{bad}");
        }
    }
}
