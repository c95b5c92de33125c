//! Forwards of a network: what comes for an address that is routed to this host is handed on to addresses within the network.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::spec::list;
use super::{BridgeSpec, Error};
use crate::api::wire::{Config, ForwardPort};

/// A forward, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForward {
    /// The address that is handed on.
    pub listen: IpAddr,
    /// Where all goes that no port says otherwise of.
    target: Option<IpAddr>,
    ports: Vec<Ports>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Ports {
    protocol: &'static str,
    listen: Vec<u16>,
    target: IpAddr,
    /// None: the same ones.
    to: Option<Vec<u16>>,
}

fn invalid(reason: String) -> Error {
    Error::Invalid { reason }
}

/// Reads an address that can be listened on.
///
/// # Errors
/// [`Error::Invalid`].
pub fn listen_address(text: &str) -> Result<IpAddr, Error> {
    let usable = |address: &IpAddr| !address.is_unspecified() && !address.is_multicast();
    let found = text.parse().ok().filter(usable);
    found.ok_or_else(|| invalid(format!("Failed parsing forward listen address {text:?}: it is not an IP address")))
}

fn numbers(text: &str) -> Option<Vec<u16>> {
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
    let mut all = Vec::new();
    for item in list(text) {
        match item.split_once('-') {
            None => all.push(port(item)?),
            Some((first, last)) => {
                let (first, last) = (port(first)?, port(last)?);
                if first > last {
                    return None;
                }
                all.extend(first..=last);
            }
        }
    }
    (!all.is_empty()).then_some(all)
}

/// The lists of ports in nft's language: as few ranges as there are.
fn ranges(ports: &[u16]) -> Vec<String> {
    let sorted: Vec<u16> = ports.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let runs = sorted.chunk_by(|one, next| one.checked_add(1) == Some(*next));
    runs.filter_map(|run| match run {
        [] => None,
        [only] => Some(only.to_string()),
        [first, .., last] => Some(format!("{first}-{last}")),
    })
    .collect()
}

/// Whether the network of `spec` has the address, of the family of `listen`.
fn within(spec: &BridgeSpec, listen: IpAddr, target: IpAddr) -> bool {
    match (listen, target) {
        (IpAddr::V4(_), IpAddr::V4(target)) => spec.ipv4.as_ref().is_some_and(|own| own.address.contains(target)),
        (IpAddr::V6(_), IpAddr::V6(target)) => spec.ipv6.as_ref().is_some_and(|own| own.address.contains(target)),
        _ => false,
    }
}

impl PortForward {
    /// Checks a forward of the network of `spec`.
    ///
    /// # Errors
    /// [`Error::Invalid`], which names the port specification by its number, from 0.
    pub fn parse(spec: &BridgeSpec, listen: IpAddr, config: &Config, ports: &[ForwardPort]) -> Result<Self, Error> {
        let mut target = None;
        for (key, value) in config {
            if key == "target_address" {
                if value.is_empty() {
                    continue;
                }
                let bad = || invalid(format!("Invalid option \"target_address\": {value:?} is not an IP address"));
                let address = value.parse().map_err(|_| bad())?;
                if !within(spec, listen, address) {
                    let name = &spec.name;
                    return Err(invalid(format!(
                        "Target address is not within the network subnet: {address} is not of network \"{name}\""
                    )));
                }
                target = Some(address);
            } else if !key.starts_with("user.") {
                return Err(invalid(format!("Invalid option {key:?} of a forward: use target_address, or user.*")));
            }
        }
        let mut checked: Vec<Ports> = Vec::with_capacity(ports.len());
        for (number, one) in ports.iter().enumerate() {
            let of = |reason: String| invalid(format!("{reason} in port specification {number}"));
            let next = Ports::parse(spec, listen, one).map_err(of)?;
            let twice = |port: &&u16| checked.iter().any(|o| o.protocol == next.protocol && o.listen.contains(port));
            let mut own = BTreeSet::new();
            if let Some(port) = next.listen.iter().find(|port| !own.insert(**port) || twice(port)) {
                return Err(of(format!("Duplicate listen port {port} for protocol {:?}", next.protocol)));
            }
            checked.push(next);
        }
        Ok(Self { listen, target, ports: checked })
    }

    /// The rules that hand on, for incoming packets and for the host's own. Pure.
    pub(super) fn dnat(&self) -> Vec<String> {
        let family = if self.listen.is_ipv4() { "ip" } else { "ip6" };
        let mut lines = Vec::new();
        for Ports { protocol, listen, target, to } in &self.ports {
            let head = format!("{family} daddr {} {protocol} dport", self.listen);
            match to {
                None => {
                    let listen = ranges(listen).join(", ");
                    lines.push(format!("{head} {{ {listen} }} dnat {family} to {target}"));
                }
                Some(to) => {
                    // One port for many, or as many.
                    for (port, to) in listen.iter().zip(to.iter().cycle()) {
                        let place = std::net::SocketAddr::new(*target, *to);
                        lines.push(format!("{head} {port} dnat {family} to {place}"));
                    }
                }
            }
        }
        lines.extend(self.target.map(|target| format!("{family} daddr {} dnat {family} to {target}", self.listen)));
        lines
    }

    /// The rules for those within the network who ask by the outer address: the answer has to come back by the host. Pure.
    pub(super) fn hairpin(&self, spec: &BridgeSpec) -> Option<String> {
        let net = match self.listen {
            IpAddr::V4(_) => spec.ipv4.as_ref().map(|own| format!("ip saddr {0} ip daddr {0}", own.address.network())),
            IpAddr::V6(_) => {
                spec.ipv6.as_ref().map(|own| format!("ip6 saddr {0} ip6 daddr {0}", own.address.network()))
            }
        };
        net.map(|net| format!("{net} ct status dnat masquerade"))
    }
}

impl Ports {
    fn parse(spec: &BridgeSpec, listen: IpAddr, port: &ForwardPort) -> Result<Self, String> {
        let protocol = match port.protocol.as_str() {
            "tcp" => "tcp",
            "udp" => "udp",
            _ => return Err("Invalid port protocol (it must be one of: tcp, udp)".to_owned()),
        };
        let target: IpAddr =
            port.target_address.parse().map_err(|_| format!("Invalid target address {:?}", port.target_address))?;
        if !within(spec, listen, target) {
            return Err("Target address is not within the network subnet".to_owned());
        }
        let read = |what: &str, text: &str| {
            numbers(text).ok_or_else(|| format!("Invalid {what} {text:?} (ports from 1 to 65535 such as 80,90-99)"))
        };
        let own = read("listen port(s)", &port.listen_port)?;
        let to = if port.target_port.is_empty() { None } else { Some(read("target port(s)", &port.target_port)?) };
        if to.as_ref().is_some_and(|to| to.len() != 1 && to.len() != own.len()) {
            return Err("Mismatch of listen port(s) and target port(s) count".to_owned());
        }
        let to = to.filter(|to| *to != own);
        Ok(Self { protocol, listen: own, target, to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::NetworkName;

    fn spec() -> BridgeSpec {
        let config: Config = [("ipv4.address", "10.1.2.1/24"), ("ipv6.address", "fd42::1/64")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        BridgeSpec::parse(&NetworkName::new("br0").unwrap(), &config).unwrap()
    }

    fn port(protocol: &str, listen: &str, target: &str, to: &str) -> ForwardPort {
        ForwardPort {
            protocol: protocol.to_owned(),
            listen_port: listen.to_owned(),
            target_address: target.to_owned(),
            target_port: to.to_owned(),
            description: String::new(),
        }
    }

    #[test]
    fn ports_are_handed_on_one_by_one_or_as_they_are() {
        let config = [("target_address".to_owned(), "10.1.2.9".to_owned())].into();
        let ports = [
            port("tcp", "80,90-92", "10.1.2.3", ""),
            port("udp", "53-54", "10.1.2.3", "5353,5454"),
            port("tcp", "443-444", "10.1.2.4", "8443"),
        ];
        let forward = PortForward::parse(&spec(), "192.0.2.1".parse().unwrap(), &config, &ports).unwrap();
        let wanted = [
            "ip daddr 192.0.2.1 tcp dport { 80, 90-92 } dnat ip to 10.1.2.3",
            "ip daddr 192.0.2.1 udp dport 53 dnat ip to 10.1.2.3:5353",
            "ip daddr 192.0.2.1 udp dport 54 dnat ip to 10.1.2.3:5454",
            "ip daddr 192.0.2.1 tcp dport 443 dnat ip to 10.1.2.4:8443",
            "ip daddr 192.0.2.1 tcp dport 444 dnat ip to 10.1.2.4:8443",
            "ip daddr 192.0.2.1 dnat ip to 10.1.2.9",
        ];
        assert_eq!(forward.dnat(), wanted);
        let hairpin = forward.hairpin(&spec()).unwrap();
        assert_eq!(hairpin, "ip saddr 10.1.2.0/24 ip daddr 10.1.2.0/24 ct status dnat masquerade");
        let six = [port("tcp", "80", "fd42::3", "8080")];
        let forward = PortForward::parse(&spec(), "2001:db8::1".parse().unwrap(), &Config::new(), &six).unwrap();
        assert_eq!(forward.dnat(), ["ip6 daddr 2001:db8::1 tcp dport 80 dnat ip6 to [fd42::3]:8080"]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let listen = "192.0.2.1".parse().unwrap();
        for (ports, wanted) in [
            (vec![port("icmp", "1", "10.1.2.3", "")], "Invalid port protocol"),
            (vec![port("tcp", "80", "10.9.2.3", "")], "not within the network subnet in port specification 0"),
            (vec![port("tcp", "80", "fd42::3", "")], "not within the network subnet"),
            (vec![port("tcp", "0", "10.1.2.3", "")], "Invalid listen port(s) \"0\""),
            (vec![port("tcp", "", "10.1.2.3", "")], "Invalid listen port(s)"),
            (vec![port("tcp", "9-1", "10.1.2.3", "")], "Invalid listen port(s)"),
            (vec![port("tcp", "1-2", "10.1.2.3", "5-9")], "Mismatch of listen port(s) and target port(s) count"),
            (
                vec![port("tcp", "80", "10.1.2.3", ""), port("tcp", "70-90", "10.1.2.3", "")],
                "Duplicate listen port 80 for protocol \"tcp\" in port specification 1",
            ),
            (vec![port("tcp", "80", "x", "")], "Invalid target address \"x\""),
        ] {
            let text = PortForward::parse(&spec(), listen, &Config::new(), &ports).unwrap_err().to_string();
            assert!(text.contains(wanted), "{text}");
        }
        for (key, value, wanted) in [
            ("target_address", "10.9.9.9", "not within"),
            ("target_address", "x", "not an IP"),
            ("foo", "x", "\"foo\""),
        ] {
            let config = [(key.to_owned(), value.to_owned())].into();
            let text = PortForward::parse(&spec(), listen, &config, &[]).unwrap_err().to_string();
            assert!(text.contains(wanted), "{text}");
        }
        assert!(listen_address("0.0.0.0").is_err() && listen_address("x").is_err());
    }
}
