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
/// Chain, and the hook it hangs on; without one others jump there. Priority 100 is where others do their NAT.
const CHAINS: &[(&str, &str)] = &[
    ("acl", ""),
    ("aclin", "type filter hook input priority 0; policy accept;"),
    ("aclout", "type filter hook output priority 0; policy accept;"),
    ("aclfwd", "type filter hook forward priority 0; policy accept;"),
    ("fwdprert", "type nat hook prerouting priority -100; policy accept;"),
    ("fwdout", "type nat hook output priority -100; policy accept;"),
    ("fwdpstrt", "type nat hook postrouting priority 99; policy accept;"),
    ("pstrt", "type nat hook postrouting priority 99; policy accept;"),
    ("pstrtafter", "type nat hook postrouting priority 101; policy accept;"),
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
        let hook = if hook.is_empty() { String::new() } else { format!("{{ {hook} }}") };
        let _ = writeln!(script, "add chain inet {TABLE} {chain}.{} {hook}", spec.name);
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

/// Whether the rules of `spec` that must be there are: the kernel's chains are asked, not their contents.
pub(super) fn is_applied(spec: &BridgeSpec) -> bool {
    let wanted: Vec<&str> =
        rules(spec).into_iter().filter(|(_, lines)| !lines.is_empty()).map(|(chain, _)| chain).collect();
    if wanted.is_empty() {
        return true;
    }
    let mut command = Command::new("nft");
    command.args(["-t", "list", "table", "inet", TABLE]).stdin(Stdio::null()).stderr(Stdio::null());
    command.output().is_ok_and(|output| {
        let text = String::from_utf8_lossy(&output.stdout);
        wanted.iter().all(|chain| text.contains(&format!("chain {chain}.{} {{", spec.name)))
    })
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
    for (chain, _) in CHAINS {
        let _ = writeln!(script, "add chain inet {TABLE} {chain}.{network}");
        let _ = writeln!(script, "flush chain inet {TABLE} {chain}.{network}");
    }
    // Then none jumps to another any more.
    for (chain, _) in CHAINS {
        let _ = writeln!(script, "delete chain inet {TABLE} {chain}.{network}");
    }
    script
}

/// The rules of each chain. Pure.
fn rules(spec: &BridgeSpec) -> Vec<(&'static str, Vec<String>)> {
    let mut all = filters(spec);
    all.extend(nat(spec));
    all.extend(forwards(spec));
    all.extend(acls(spec));
    all
}

fn nat(spec: &BridgeSpec) -> [(&'static str, Vec<String>); 2] {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    if let Some(ipv4) = spec.ipv4.as_ref().filter(|ipv4| ipv4.nat) {
        let net = ipv4.address.network();
        let target = ipv4.nat_address.map_or_else(|| "masquerade".to_owned(), |to| format!("snat ip to {to}"));
        let rules = if ipv4.nat_after { &mut after } else { &mut before };
        rules.push(format!("ip saddr {net} ip daddr != {net} {target}"));
    }
    if let Some(ipv6) = spec.ipv6.as_ref().filter(|ipv6| ipv6.nat) {
        let net = ipv6.address.network();
        let target = ipv6.nat_address.map_or_else(|| "masquerade".to_owned(), |to| format!("snat ip6 to {to}"));
        let rules = if ipv6.nat_after { &mut after } else { &mut before };
        rules.push(format!("ip6 saddr {net} ip6 daddr != {net} {target}"));
    }
    [("pstrt", before), ("pstrtafter", after)]
}

fn forwards(spec: &BridgeSpec) -> [(&'static str, Vec<String>); 3] {
    let dnat: Vec<String> = spec.forwards.iter().flat_map(super::forwards::PortForward::dnat).collect();
    let mut hairpin: Vec<String> = spec.forwards.iter().filter_map(|forward| forward.hairpin(spec)).collect();
    hairpin.sort();
    hairpin.dedup();
    [("fwdprert", dnat.clone()), ("fwdout", dnat), ("fwdpstrt", hairpin)]
}

/// What a network cannot do without: addresses, names, errors, neighbours.
const VITAL_INPUT: &[&str] = &[
    "tcp dport 53 accept",
    "udp dport { 53, 67, 547 } accept",
    "icmp type { destination-unreachable, time-exceeded, parameter-problem } accept",
    "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem, nd-router-solicit, \
     nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report } accept",
];
const VITAL_OUTPUT: &[&str] = &[
    "udp sport { 67, 547 } accept",
    "icmp type { destination-unreachable, time-exceeded, parameter-problem } accept",
    "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem, echo-request, \
     nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report } accept",
];

fn acls(spec: &BridgeSpec) -> Vec<(&'static str, Vec<String>)> {
    let Some(acls) = &spec.acls else { return Vec::new() };
    let (bridge, chain) = (format!("\"{}\"", spec.name), format!("acl.{}", spec.name));
    let with = |side: &str, vital: &[&str]| {
        let mut lines: Vec<String> = vital.iter().map(|rule| format!("{side} {bridge} {rule}")).collect();
        lines.push(format!("{side} {bridge} jump {chain}"));
        lines
    };
    // Where bridged packets pass the IP hooks (br_netfilter), what stays within the network is not the lists' concern.
    let within = format!("iifname {bridge} oifname {bridge} accept");
    let forward = vec![within, format!("iifname {bridge} jump {chain}"), format!("oifname {bridge} jump {chain}")];
    vec![
        ("acl", acls.lines(&bridge)),
        ("aclin", with("iifname", VITAL_INPUT)),
        ("aclout", with("oifname", VITAL_OUTPUT)),
        ("aclfwd", forward),
    ]
}

fn filters(spec: &BridgeSpec) -> Vec<(&'static str, Vec<String>)> {
    let bridge = format!("\"{}\"", spec.name);
    let (mut forward, mut input, mut output) = (Vec::new(), Vec::new(), Vec::new());
    if let Some(ipv4) = spec.ipv4.as_ref().filter(|ipv4| ipv4.firewall) {
        forward_rules(&mut forward, "ipv4", &bridge, ipv4.routing);
        if ipv4.dhcp {
            input.push(format!("iifname {bridge} udp dport 67 accept"));
            output.push(format!("oifname {bridge} udp sport 67 accept"));
        }
        let errors = "icmp type { destination-unreachable, time-exceeded, parameter-problem } accept";
        input.push(format!("iifname {bridge} {errors}"));
        output.push(format!("oifname {bridge} {errors}"));
    }
    if let Some(ipv6) = spec.ipv6.as_ref().filter(|ipv6| ipv6.firewall) {
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
    if spec.has_dns() && !input.is_empty() {
        for protocol in ["tcp", "udp"] {
            input.push(format!("iifname {bridge} {protocol} dport 53 accept"));
            output.push(format!("oifname {bridge} {protocol} sport 53 accept"));
        }
    }
    vec![("fwd", forward), ("in", input), ("out", output)]
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

pub(super) fn run(network: &NetworkName, script: &str) -> Result<(), Error> {
    tool::run("nft", &["-f", "-"], script).or_else(|failure| match failure {
        Failure::Spawn(error) => spawned(network, Err(error)),
        Failure::Refused(message) => Err(Error::Nft { network: network.clone(), message }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::wire::Config;

    fn rules_of(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<&'static str, Vec<String>> {
        let config: Config = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        rules(&BridgeSpec::parse(&NetworkName::new("br-0.a").unwrap(), &config).unwrap()).into_iter().collect()
    }

    #[test]
    fn nat_leaves_the_own_network_alone() {
        let rules = rules_of(&[("ipv4.address", "10.1.2.1/24"), ("ipv4.nat", "true")]);
        assert_eq!(rules["pstrt"], ["ip saddr 10.1.2.0/24 ip daddr != 10.1.2.0/24 masquerade"]);
        assert_eq!(rules["fwd"].last().unwrap(), "meta nfproto ipv4 iifname \"br-0.a\" accept");
    }

    #[test]
    fn switches_are_obeyed() {
        let all = rules_of(&[("ipv4.address", "10.1.2.1/24"), ("ipv4.firewall", "false")]);
        assert!(all.values().all(Vec::is_empty));
        let rules = rules_of(&[("ipv4.address", "10.1.2.1/24"), ("ipv4.routing", "false"), ("dns.mode", "none")]);
        assert!(rules["fwd"][1].ends_with("reject") && rules["fwd"][0].ends_with("accept"));
        assert!(!rules["in"].iter().any(|line| line.contains("dport 53")));
        let rules = rules_of(&[
            ("ipv4.address", "10.1.2.1/24"),
            ("ipv4.nat", "1"),
            ("ipv4.nat.address", "192.0.2.7"),
            ("ipv4.nat.order", "after"),
        ]);
        assert!(rules["pstrtafter"][0].ends_with("snat ip to 192.0.2.7") && rules["pstrt"].is_empty());
    }
}
