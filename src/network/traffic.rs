//! What passes a nic, and how fast: filters, priority and the limit of what an instance sends by nftables at the ingress
//! of the host's end; the limit of what it gets by tc's `htb` there.
//!
//! The ingress hook comes before bridge and routing, so one chain serves all kinds of nics. Each has its own, in a table
//! of the family `netdev` that all nics share. The chain does not go with its interface by itself.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::Error;
use super::nft;
use super::nic::{Traffic, refused};
use super::tool::{self, Failure};
use crate::sys::netlink::MacAddr;

/// The table of all nics, of the family `netdev`.
const TABLE: &str = "warren";

/// A packet that was put together from several has up to 64 KiB; a bucket smaller than that lets it never pass.
const SMALLEST_BURST: u64 = 128 * 1024;

fn failed(program: &'static str, package: &'static str) -> impl Fn(Failure) -> Error {
    move |failure| match failure {
        Failure::Spawn(error) if error.kind() == std::io::ErrorKind::NotFound => {
            refused(format!("its limits and filters need the program {program:?}: install the package {package:?}"))
        }
        Failure::Spawn(error) => refused(format!("{program} cannot be run: {error}")),
        Failure::Refused(message) => refused(format!("{program} refuses: {message}")),
    }
}

/// The address that an interface gives itself from its hardware address (RFC 4291, appendix A).
fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// The rules for what comes from the instance. Pure.
fn rules(traffic: &Traffic) -> Vec<String> {
    let mut rules = Vec::new();
    if let Some(mac) = traffic.mac {
        rules.push(format!("ether saddr != {mac} drop"));
        rules.push(format!("arp saddr ether != {mac} drop"));
        // An advertisement may carry another's address: the option behind the target, when it comes first.
        let number = hex::encode(mac.0);
        rules.push(format!("icmpv6 type nd-neighbor-advert @nh,528,48 != 0x{number} drop"));
    }
    if traffic.ipv4.is_some() || traffic.ipv6.is_some() {
        // Within a VLAN's tag the rules below would see nothing.
        rules.push("ether type { 8021q, 8021ad } drop".to_owned());
    }
    match &traffic.ipv4 {
        None => {}
        Some(None) => rules.push("ether type { ip, arp } drop".to_owned()),
        Some(Some(address)) => {
            // Asking for an address and whether one is free, without having it.
            rules.push(format!("arp saddr ip != {{ {address}, {} }} drop", Ipv4Addr::UNSPECIFIED));
            rules.push("ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept".to_owned());
            rules.push(format!("ip saddr != {address} drop"));
        }
    }
    match &traffic.ipv6 {
        None => {}
        Some(None) => rules.push("ether type ip6 drop".to_owned()),
        Some(Some(address)) => {
            let mut own = vec![*address];
            own.extend(traffic.mac.map(link_local));
            let words: Vec<String> = own.iter().map(ToString::to_string).collect();
            rules.push("icmpv6 type nd-router-advert drop".to_owned());
            rules.push("udp sport 547 udp dport 546 drop".to_owned());
            // Duplicate address detection comes from the unspecified address.
            rules.push(format!("ip6 saddr != {{ {}, :: }} drop", words.join(", ")));
            let differs = |own: &Ipv6Addr| format!("@nh,384,128 != 0x{}", hex::encode(own.octets()));
            let targets: Vec<String> = own.iter().map(differs).collect();
            rules.push(format!("icmpv6 type nd-neighbor-advert {} drop", targets.join(" ")));
        }
    }
    if let Some(priority) = traffic.priority {
        rules.push(format!("meta priority set {:x}:{:x}", priority >> 16, priority & 0xffff));
    }
    if let Some(bits) = traffic.egress {
        let bytes = bits / 8;
        let burst = (bytes / 10).max(SMALLEST_BURST);
        rules.push(format!("limit rate over {bytes} bytes/second burst {burst} bytes drop"));
    }
    // The bucket is filled by what passes the filters, and DHCP is little: its early end does not matter.
    rules
}

/// Puts the rules of `traffic` in place of `old` at the host's end `interface`, in one transaction.
fn filter(interface: &str, old: Option<&Traffic>, traffic: Option<&Traffic>) -> Result<(), Error> {
    let (old, new) = (old.map(rules).unwrap_or_default(), traffic.map(rules).unwrap_or_default());
    if old == new {
        return Ok(());
    }
    let chain = format!("nic.{interface}");
    let mut script = format!("add table netdev {TABLE}\nadd chain netdev {TABLE} {chain}\n");
    let _ = writeln!(script, "delete chain netdev {TABLE} {chain}");
    if !new.is_empty() {
        let hook = format!("type filter hook ingress device \"{interface}\" priority 0; policy accept;");
        let _ = writeln!(script, "add chain netdev {TABLE} {chain} {{ {hook} }}");
        for rule in new {
            let _ = writeln!(script, "add rule netdev {TABLE} {chain} {rule}");
        }
    }
    let _lock = nft::lock();
    tool::run("nft", &["-f", "-"], &script).map_err(failed("nft", "nftables"))
}

/// Shapes what goes to the instance.
fn shape(interface: &str, old: Option<u64>, rate: Option<u64>) -> Result<(), Error> {
    let script = match (old, rate) {
        (old, rate) if old == rate => return Ok(()),
        (_, None) => format!("qdisc del dev {interface} root\n"),
        (old, Some(bits)) => {
            let root = format!("qdisc replace dev {interface} root handle 1: htb default 10\n");
            let class = format!("class replace dev {interface} parent 1: classid 1:10 htb rate {bits}bit\n");
            if old.is_none() { root + &class } else { class }
        }
    };
    tool::run("tc", &["-batch", "-"], &script).map_err(failed("tc", "iproute2"))
}

/// Brings the host's end `interface` from `old` to `traffic`: filters, priority, rates.
pub(super) fn set(interface: &str, old: Option<&Traffic>, traffic: &Traffic) -> Result<(), Error> {
    filter(interface, old, Some(traffic))?;
    shape(interface, old.and_then(|old| old.ingress), traffic.ingress)
}

/// The interface goes: its chain does, too. What tc had goes with the interface.
pub(super) fn forget(interface: &str, traffic: &Traffic) -> Result<(), Error> {
    filter(interface, Some(traffic), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_nic_has_no_rules() {
        assert!(rules(&Traffic::default()).is_empty());
    }

    #[test]
    fn filters_let_pass_what_is_its_own() {
        let traffic = Traffic {
            mac: Some(MacAddr([0, 0x16, 0x3e, 1, 2, 3])),
            ipv4: Some(Some(Ipv4Addr::new(10, 0, 0, 5))),
            ipv6: Some(None),
            egress: Some(8_000_000),
            priority: Some(3),
            ..Traffic::default()
        };
        let all = rules(&traffic).join("\n");
        for wanted in [
            "ether saddr != 00:16:3e:01:02:03 drop",
            "ip saddr != 10.0.0.5 drop",
            "ether type ip6 drop",
            "limit rate over 1000000 bytes/second burst 131072 bytes drop",
            "meta priority set 0:3",
        ] {
            assert!(all.contains(wanted), "{wanted}: {all}");
        }
    }

    #[test]
    fn the_own_link_local_address_is_known() {
        assert_eq!(link_local(MacAddr([0, 0x16, 0x3e, 1, 2, 3])).to_string(), "fe80::216:3eff:fe01:203");
    }
}
