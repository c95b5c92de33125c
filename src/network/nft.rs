//! The firewall and NAT rules of networks: own chains per network in an own nftables table, nobody else's touched.
//!
//! Each change is one script and so one transaction of the kernel: there is no moment without rules.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};

use super::tool::{self, Failure};
use super::{BridgeSpec, Error};
use crate::names::NetworkName;

/// The table of all networks, of the family `inet`.
pub(super) const TABLE: &str = "warren";
/// Chain, and the hook it hangs on.
const CHAINS: &[(&str, &str)] = &[
    ("pstrt", "type nat hook postrouting priority 100; policy accept;"),
    ("fwd", "type filter hook forward priority 0; policy accept;"),
    ("in", "type filter hook input priority 0; policy accept;"),
    ("out", "type filter hook output priority 0; policy accept;"),
];

/// Puts the rules of `spec` in place of those it had.
pub(super) fn apply(spec: &BridgeSpec) -> Result<(), Error> {
    let rules = rules(spec);
    let mut script = clear(&spec.name);
    for (chain, hook) in CHAINS {
        let Some((_, lines)) = rules.iter().find(|(name, lines)| name == chain && !lines.is_empty()) else { continue };
        // A name is letters, digits and "-_."; with the prefix it is an identifier of nft's language.
        let _ = writeln!(script, "add chain inet {TABLE} {chain}.{} {{ {hook} }}", spec.name);
        for line in lines {
            let _ = writeln!(script, "add rule inet {TABLE} {chain}.{} {line}", spec.name);
        }
    }
    let nothing = rules.iter().all(|(_, lines)| lines.is_empty());
    let _lock = lock();
    match run(&spec.name, &script) {
        // Nothing is wanted, and without the program nothing can be there.
        Err(Error::Missing { .. }) if nothing => Ok(()),
        Ok(()) if nothing => drop_empty_table(&spec.name),
        done => done,
    }
}

/// Takes away the rules of `network`, and the table with the last of them.
pub(super) fn remove(network: &NetworkName) -> Result<(), Error> {
    let _lock = lock();
    match run(network, &clear(network)) {
        Err(Error::Missing { .. }) => return Ok(()),
        other => other?,
    }
    drop_empty_table(network)
}

/// Excludes other daemons in this network namespace, who share the table: "delete it if it is empty" must not race with
/// their "add". The namespace itself carries the lock, so that no file is left behind.
pub(super) fn lock() -> Option<File> {
    // Without the lock a second daemon's network may need a second `up`; that is no reason to refuse this one.
    let file = File::open("/proc/thread-self/ns/net").ok()?;
    flock(&file, FlockOperation::LockExclusive).ok()?;
    Some(file)
}

/// The beginning of every script: afterwards no chain of the network exists, whatever was there before.
fn clear(network: &NetworkName) -> String {
    let mut script = format!("add table inet {TABLE}\n");
    for (chain, hook) in CHAINS {
        let _ = writeln!(script, "add chain inet {TABLE} {chain}.{network} {{ {hook} }}");
        let _ = writeln!(script, "flush chain inet {TABLE} {chain}.{network}");
        let _ = writeln!(script, "delete chain inet {TABLE} {chain}.{network}");
    }
    script
}

/// The rules of each chain. Pure.
fn rules(spec: &BridgeSpec) -> [(&'static str, Vec<String>); 4] {
    let bridge = format!("\"{}\"", spec.name);
    let (mut nat, mut forward, mut input, mut output) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    if let Some(ipv4) = &spec.ipv4 {
        if ipv4.nat {
            let net = ipv4.address.network();
            let target = ipv4.nat_address.map_or_else(|| "masquerade".to_owned(), |to| format!("snat ip to {to}"));
            nat.push(format!("ip saddr {net} ip daddr != {net} {target}"));
        }
        if ipv4.firewall {
            forward_rules(&mut forward, "ipv4", &bridge, ipv4.routing);
            if ipv4.dhcp {
                input.push(format!("iifname {bridge} udp dport 67 accept"));
                output.push(format!("oifname {bridge} udp sport 67 accept"));
            }
            let errors = "icmp type { destination-unreachable, time-exceeded, parameter-problem } accept";
            input.push(format!("iifname {bridge} {errors}"));
            output.push(format!("oifname {bridge} {errors}"));
        }
    }
    if let Some(ipv6) = &spec.ipv6 {
        if ipv6.nat {
            let net = ipv6.address.network();
            let target = ipv6.nat_address.map_or_else(|| "masquerade".to_owned(), |to| format!("snat ip6 to {to}"));
            nat.push(format!("ip6 saddr {net} ip6 daddr != {net} {target}"));
        }
        if ipv6.firewall {
            forward_rules(&mut forward, "ipv6", &bridge, ipv6.routing);
            if ipv6.dhcp {
                input.push(format!("iifname {bridge} udp dport 547 accept"));
                output.push(format!("oifname {bridge} udp sport 547 accept"));
            }
            // Neighbours and routers find each other by these; without them IPv6 does not work at all.
            input.push(format!(
                "iifname {bridge} icmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded, \
                 parameter-problem, nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report }} accept"
            ));
            output.push(format!(
                "oifname {bridge} icmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded, \
                 parameter-problem, echo-request, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, \
                 mld2-listener-report }} accept"
            ));
        }
    }
    if spec.has_dns() && !input.is_empty() {
        for protocol in ["tcp", "udp"] {
            input.push(format!("iifname {bridge} {protocol} dport 53 accept"));
            output.push(format!("oifname {bridge} {protocol} sport 53 accept"));
        }
    }
    [("pstrt", nat), ("fwd", forward), ("in", input), ("out", output)]
}

fn forward_rules(rules: &mut Vec<String>, family: &str, bridge: &str, routing: bool) {
    let verdict = if routing { "accept" } else { "reject" };
    // Where bridged packets pass the IP hooks (br_netfilter), a network without routing still talks within itself.
    rules.push(format!("meta nfproto {family} iifname {bridge} oifname {bridge} accept"));
    rules.push(format!("meta nfproto {family} oifname {bridge} {verdict}"));
    rules.push(format!("meta nfproto {family} iifname {bridge} {verdict}"));
}

fn drop_empty_table(network: &NetworkName) -> Result<(), Error> {
    let mut command = Command::new("nft");
    command.args(["-j", "list", "table", "inet", TABLE]);
    let output = spawned(network, command.stdin(Stdio::null()).output())?;
    if !output.status.success() {
        return Ok(());
    }
    let listing: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let items = listing.get("nftables").and_then(serde_json::Value::as_array);
    let empty =
        items.is_some_and(|items| items.iter().all(|i| i.get("metainfo").is_some() || i.get("table").is_some()));
    if empty { run(network, &format!("delete table inet {TABLE}\n")) } else { Ok(()) }
}

fn spawned<T>(network: &NetworkName, result: io::Result<T>) -> Result<T, Error> {
    result.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::Missing { program: "nft", package: "nftables", network: network.clone() },
        _ => Error::Spawn { program: "nft", network: network.clone(), source },
    })
}

fn run(network: &NetworkName, script: &str) -> Result<(), Error> {
    tool::run("nft", &["-f", "-"], script).or_else(|failure| match failure {
        Failure::Spawn(error) => spawned(network, Err(error)),
        Failure::Refused(message) => Err(Error::Nft { network: network.clone(), message }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::wire::Config;

    fn rules_of(pairs: &[(&str, &str)]) -> [(&'static str, Vec<String>); 4] {
        let config: Config = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        rules(&BridgeSpec::parse(&NetworkName::new("br-0.a").unwrap(), &config).unwrap())
    }

    #[test]
    fn nat_leaves_the_own_network_alone() {
        let [(_, nat), (_, forward), ..] = rules_of(&[("ipv4.address", "10.1.2.1/24"), ("ipv4.nat", "true")]);
        assert_eq!(nat, ["ip saddr 10.1.2.0/24 ip daddr != 10.1.2.0/24 masquerade"]);
        assert_eq!(forward.last().unwrap(), "meta nfproto ipv4 iifname \"br-0.a\" accept");
    }

    #[test]
    fn switches_are_obeyed() {
        let all = rules_of(&[("ipv4.address", "10.1.2.1/24"), ("ipv4.firewall", "false")]);
        assert!(all.iter().all(|(_, lines)| lines.is_empty()));
        let [_, (_, forward), (_, input), _] =
            rules_of(&[("ipv4.address", "10.1.2.1/24"), ("ipv4.routing", "false"), ("dns.mode", "none")]);
        assert!(forward[1].ends_with("reject") && forward[0].ends_with("accept"));
        assert!(!input.iter().any(|line| line.contains("dport 53")));
        let [(_, nat), ..] =
            rules_of(&[("ipv4.address", "10.1.2.1/24"), ("ipv4.nat", "1"), ("ipv4.nat.address", "192.0.2.7")]);
        assert!(nat[0].ends_with("snat ip to 192.0.2.7"));
    }
}
