//! What else filters on this host and would silently keep a network's packets from passing: Docker, ufw, firewalld, a chain
//! whose policy is to drop, forwarding switched off. An accept in the own table does not help there, since a packet has to
//! pass every table.
//!
//! ```text
//!   nft -j list ruleset ─┐
//!   iptables-legacy -S  ─┴─> Ruleset ──of one network──> obstacles ── told with the fix
//!                                                               └──── firewall.assist: marked rules, taken back by their mark
//! ```
//! A rule of ours in a foreign chain bears the comment `warren:<network>`, by which it is found again, also after a crash.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::process::{Command, Stdio};

use super::ruleset::{Chain, Family, Hook, Ruleset};
use super::{BridgeSpec, Error, nft, sysctl};
use crate::names::NetworkName;

/// What an administrator, or the assistance, does against an obstacle.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Remedy {
    /// At the head of a foreign chain of nft's: what a packet has to be to be accepted.
    Nft { family: &'static str, table: String, chain: String, test: String },
    /// The same by the old iptables: its program, and the words of the test.
    Legacy { program: &'static str, chain: String, test: Vec<String> },
    /// The interface belongs into firewalld's zone `trusted`.
    Zone,
    /// A switch of the kernel's, below `/proc/sys/net`.
    Switch { key: &'static str },
}

/// Something that keeps packets from passing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Obstacle {
    /// What is wrong.
    what: String,
    /// The commands that mend it.
    fix: String,
    remedies: Vec<Remedy>,
}

/// The mark of a network's rules in others' chains.
fn mark(network: &NetworkName) -> String {
    format!("warren:{network}")
}

/// Who makes chains of this kind, for the words.
fn owner(rules: &Ruleset, chain: &Chain) -> &'static str {
    let beside = |name: &str| {
        rules.chains.iter().any(|other| other.same_table(chain) && (other.name == name || other.name.starts_with(name)))
    };
    if beside("ufw-") || beside("ufw6-") {
        "ufw"
    } else if beside("DOCKER") {
        "Docker"
    } else {
        "another firewall"
    }
}

/// What instances need of the host itself.
const SERVICES: &[(&str, &str)] = &[("udp", "53"), ("udp", "67"), ("tcp", "53")];
const SERVICES_6: &[(&str, &str)] = &[("udp", "53"), ("udp", "547"), ("tcp", "53")];

/// What stands in the way of a network, by the rules as they are. Pure.
fn find(spec: &BridgeSpec, rules: &Ruleset) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let uses = |chain: &Chain| {
        (chain.family.covers_ipv4() && spec.ipv4.is_some()) || (chain.family.covers_ipv6() && spec.ipv6.is_some())
    };
    let foreign = |chain: &&Chain| !(chain.family == Family::Inet && chain.table == nft::TABLE);
    for chain in rules.chains.iter().filter(foreign).filter(|chain| uses(chain)) {
        match chain.hook {
            Some(Hook::Forward) => found.extend(forward(spec, rules, chain)),
            Some(Hook::Input) => found.extend(input(spec, rules, chain)),
            None => {}
        }
    }
    found
}

fn forward(spec: &BridgeSpec, rules: &Ruleset, chain: &Chain) -> Option<Obstacle> {
    let routed = spec.ipv4.as_ref().is_some_and(|own| own.routing) || spec.ipv6.as_ref().is_some_and(|own| own.routing);
    let bridge = spec.name.as_str();
    if !routed {
        return None;
    }
    let reached = rules.reached_from(chain);
    if chain.table == "firewalld" {
        return firewalld(spec, rules, chain, &reached);
    }
    let passes = |out: bool| {
        rules.rules.iter().filter(|rule| reached.contains(&rule.place)).any(|rule| {
            let side = if out { &rule.out } else { &rule.into };
            rule.accepts && rule.is_whole && side.as_deref() == Some(bridge)
        })
    };
    let missing: Vec<bool> = [false, true].into_iter().filter(|out| !passes(*out)).collect();
    if !chain.drops || missing.is_empty() {
        return None;
    }
    let owner = owner(rules, chain);
    // Docker leaves this chain to the administrator, and looks there first.
    let user = rules.chains.iter().find(|other| other.same_table(chain) && other.name == "DOCKER-USER");
    let place = user.filter(|_| owner == "Docker").unwrap_or(chain);
    let remedies: Vec<Remedy> = missing.iter().map(|out| accept(place, bridge, *out, &[])).collect();
    let fix = match owner {
        "ufw" => format!("ufw route allow in on {bridge}; ufw route allow out on {bridge}"),
        _ => commands(&remedies),
    };
    let what = format!(
        "{owner} drops what instances send and are sent: the chain {} of the table {} {} has the policy drop",
        chain.name,
        chain.family.word(),
        chain.table
    );
    Some(Obstacle { what, fix, remedies })
}

/// firewalld refuses what comes from an interface of no zone at the end of its chain; the policy says accept.
fn firewalld(spec: &BridgeSpec, rules: &Ruleset, chain: &Chain, reached: &BTreeSet<String>) -> Option<Obstacle> {
    let bridge = spec.name.as_str();
    let own = |rule: &&super::ruleset::Rule| reached.contains(&rule.place);
    let refuses = rules.rules.iter().filter(own).any(|rule| rule.refuses);
    let zoned = rules
        .rules
        .iter()
        .filter(|rule| rule.is_of_table(chain))
        .any(|rule| rule.into.as_deref() == Some(bridge) || rule.out.as_deref() == Some(bridge));
    (refuses && !zoned).then(|| Obstacle {
        what: "firewalld refuses what instances send and are sent: the bridge is in none of its zones".to_owned(),
        fix: format!("firewall-cmd --permanent --zone=trusted --add-interface={bridge} && firewall-cmd --reload"),
        remedies: vec![Remedy::Zone],
    })
}

fn input(spec: &BridgeSpec, rules: &Ruleset, chain: &Chain) -> Option<Obstacle> {
    if !chain.drops || chain.table == "firewalld" || !spec.has_service() {
        return None;
    }
    let bridge = spec.name.as_str();
    let reached = rules.reached_from(chain);
    let six_only = !chain.family.covers_ipv4();
    let services = if six_only { SERVICES_6 } else { SERVICES };
    let missing: Vec<(&str, &str)> = services
        .iter()
        .copied()
        .filter(|(protocol, port)| {
            !rules.rules.iter().filter(|rule| reached.contains(&rule.place)).any(|rule| {
                let here = rule.into.as_deref().is_none_or(|name| name == bridge);
                let all = rule.is_whole && rule.into.is_some();
                rule.accepts && here && (all || rule.takes(protocol, port))
            })
        })
        .collect();
    if missing.is_empty() {
        return None;
    }
    let remedies: Vec<Remedy> = missing.iter().map(|service| accept(chain, bridge, false, &[*service])).collect();
    let owner = owner(rules, chain);
    let fix = match owner {
        "ufw" => missing
            .iter()
            .map(|(protocol, port)| format!("ufw allow in on {bridge} to any port {port} proto {protocol}"))
            .collect::<Vec<_>>()
            .join("; "),
        _ => commands(&remedies),
    };
    let what = format!(
        "{owner} drops what instances ask DHCP and DNS of this host: the chain {} of the table {} {} has the policy drop",
        chain.name,
        chain.family.word(),
        chain.table
    );
    Some(Obstacle { what, fix, remedies })
}

/// A rule at the head of `chain` that lets pass what comes from the bridge, or goes there.
fn accept(chain: &Chain, bridge: &str, out: bool, service: &[(&str, &str)]) -> Remedy {
    match chain.family.legacy_program() {
        Some(program) => {
            let mut test = vec![if out { "-o" } else { "-i" }.to_owned(), bridge.to_owned()];
            for (protocol, port) in service {
                test.extend(["-p", protocol, "--dport", port].map(str::to_owned));
            }
            Remedy::Legacy { program, chain: chain.name.clone(), test }
        }
        None => {
            let side = if out { "oifname" } else { "iifname" };
            let mut test = format!("{side} \"{bridge}\"");
            for (protocol, port) in service {
                test.push_str(&format!(" {protocol} dport {port}"));
            }
            let (family, table) = (chain.family.word(), chain.table.clone());
            Remedy::Nft { family, table, chain: chain.name.clone(), test }
        }
    }
}

fn commands(remedies: &[Remedy]) -> String {
    let all: Vec<String> = remedies
        .iter()
        .map(|remedy| match remedy {
            Remedy::Nft { family, table, chain, test } => {
                format!("nft insert rule {family} {table} {chain} {} accept", test.replace('"', ""))
            }
            Remedy::Legacy { program, chain, test } => format!("{program} -I {chain} {} -j ACCEPT", test.join(" ")),
            Remedy::Zone => "firewall-cmd --zone=trusted --add-interface=…".to_owned(),
            Remedy::Switch { key } => format!("sysctl -w net.{}=1", key.replace('/', ".")),
        })
        .collect();
    all.join("; ")
}

/// Forwarding that something has switched off since the network was brought up.
fn switches(spec: &BridgeSpec) -> Vec<Obstacle> {
    let off = |key: &str| sysctl::get(key).ok().flatten().is_some_and(|value| value == "0");
    let needed = [
        ("ipv4/ip_forward", spec.ipv4.as_ref().is_some_and(|own| own.routing)),
        ("ipv6/conf/all/forwarding", spec.ipv6.as_ref().is_some_and(|own| own.routing)),
    ];
    needed
        .into_iter()
        .filter(|(key, needed)| *needed && off(key))
        .map(|(key, _)| Obstacle {
            what: format!("the host does not forward packets: net.{} is 0", key.replace('/', ".")),
            fix: commands(&[Remedy::Switch { key }]),
            remedies: vec![Remedy::Switch { key }],
        })
        .collect()
}

fn output(program: &str, args: &[&str]) -> io::Result<Option<String>> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// The host's rules as they are. What cannot be asked has none.
fn ruleset() -> Ruleset {
    let mut rules = output("nft", &["-j", "list", "ruleset"]).ok().flatten().map(|text| Ruleset::of_nft(&text));
    let rules = rules.get_or_insert_default();
    for (names, family) in [("ip_tables_names", Family::Legacy4), ("ip6_tables_names", Family::Legacy6)] {
        // Asked first: the program would load the tables that it lists.
        let present = fs::read_to_string(format!("/proc/net/{names}")).unwrap_or_default();
        if !present.lines().any(|table| table == "filter") {
            continue;
        }
        if let Some(program) = family.legacy_program()
            && let Ok(Some(text)) = output(program, &["-S"])
        {
            rules.add_legacy(family, &text);
        }
    }
    std::mem::take(rules)
}

/// What stands in the way of the network now, each with the commands that mend it. Blocking.
pub(super) fn obstacles(spec: &BridgeSpec) -> Vec<String> {
    let mut all = switches(spec);
    all.extend(find(spec, &ruleset()));
    all.into_iter().map(|obstacle| format!("{}. To mend it: {}", obstacle.what, obstacle.fix)).collect()
}

/// Does what mends all obstacles of the network. What it makes in others' chains bears the network's mark.
pub(super) fn assist(spec: &BridgeSpec) -> Result<(), Error> {
    let mut all = switches(spec);
    all.extend(find(spec, &ruleset()));
    all.iter().flat_map(|obstacle| &obstacle.remedies).try_for_each(|remedy| apply(spec, remedy))
}

fn apply(spec: &BridgeSpec, remedy: &Remedy) -> Result<(), Error> {
    let (name, mark) = (&spec.name, mark(&spec.name));
    match remedy {
        Remedy::Nft { family, table, chain, test } => {
            nft::run(name, &format!("insert rule {family} {table} {chain} {test} counter accept comment \"{mark}\"\n"))
        }
        Remedy::Legacy { program, chain, test } => {
            let mut words = vec!["-w", "-I", chain.as_str()];
            words.extend(test.iter().map(String::as_str));
            words.extend(["-m", "comment", "--comment", &mark, "-j", "ACCEPT"]);
            refused(name, program, output(program, &words))
        }
        Remedy::Zone => {
            let words = ["--zone=trusted", &format!("--add-interface={name}")];
            refused(name, "firewall-cmd", output("firewall-cmd", &words))
        }
        Remedy::Switch { key } => sysctl::set(key, "1"),
    }
}

fn refused(network: &NetworkName, program: &str, done: io::Result<Option<String>>) -> Result<(), Error> {
    let reason = match done {
        Ok(Some(_)) => return Ok(()),
        Ok(None) => "refuses".to_owned(),
        Err(error) => format!("cannot be run: {error}"),
    };
    Err(Error::Invalid {
        reason: format!(
            "firewall.assist of network \"{network}\": {program} {reason}; unset firewall.assist, and see the warnings"
        ),
    })
}

/// Takes back all that [`assist`] made for the network, wherever it is.
pub(super) fn withdraw(network: &NetworkName) -> Result<(), Error> {
    let (rules, mark) = (ruleset(), mark(network));
    let mut first = Ok(());
    for rule in rules.rules.iter().filter(|rule| rule.comment.as_deref() == Some(mark.as_str())) {
        let done = match rule.family.legacy_program() {
            None => nft::run(network, &format!("delete rule {} handle {}\n", rule.place, rule.handle)),
            Some(program) => {
                let mut words = vec!["-w", "-D"];
                words.extend(rule.words.iter().map(String::as_str));
                refused(network, program, output(program, &words))
            }
        };
        first = first.and(done);
    }
    if rules.chains.iter().any(|chain| chain.table == "firewalld") {
        // In no zone at all is as good; so it may refuse.
        let _ = output("firewall-cmd", &["--zone=trusted", &format!("--remove-interface={network}")]);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::wire::Config;

    fn spec() -> BridgeSpec {
        let config: Config = [("ipv4.address".to_owned(), "10.1.2.1/24".to_owned())].into();
        BridgeSpec::parse(&NetworkName::new("br0").unwrap(), &config).unwrap()
    }

    /// What `nft -j list ruleset` shows: chains with hook and policy, and rules as they are written there.
    fn nft(table: &str, chains: &[(&str, Option<(&str, &str)>)], rules: &[(&str, &str)]) -> Ruleset {
        let mut items = vec![];
        for (name, base) in chains {
            let base = base.map(|(hook, policy)| format!(r#","hook":"{hook}","policy":"{policy}","prio":0"#));
            let base = base.unwrap_or_default();
            items.push(format!(r#"{{"chain":{{"family":"ip","table":"{table}","name":"{name}"{base}}}}}"#));
        }
        for (chain, expr) in rules {
            items.push(format!(
                r#"{{"rule":{{"family":"ip","table":"{table}","chain":"{chain}","handle":7,"expr":[{expr}]}}}}"#
            ));
        }
        Ruleset::of_nft(&format!(r#"{{"nftables":[{}]}}"#, items.join(",")))
    }

    const COUNTER: &str = r#"{"counter":{"packets":1,"bytes":2}}"#;

    fn interface(key: &str, name: &str) -> String {
        format!(r#"{{"match":{{"op":"==","left":{{"meta":{{"key":"{key}"}}}},"right":"{name}"}}}},{COUNTER}"#)
    }

    #[test]
    fn docker_is_seen_and_its_own_chain_named() {
        let chains = [("FORWARD", Some(("forward", "drop"))), ("DOCKER-USER", None), ("DOCKER", None)];
        let jump = format!(r#"{COUNTER},{{"jump":{{"target":"DOCKER-USER"}}}}"#);
        let found = find(&spec(), &nft("filter", &chains, &[("FORWARD", &jump)]));
        assert_eq!(found.len(), 1);
        assert!(found[0].what.starts_with("Docker drops"), "{}", found[0].what);
        let fix = "nft insert rule ip filter DOCKER-USER iifname br0 accept; \
                   nft insert rule ip filter DOCKER-USER oifname br0 accept";
        assert_eq!(found[0].fix, fix);
        let (into, out) = (interface("iifname", "br0"), interface("oifname", "br0"));
        let (into, out) = (format!(r#"{into},{{"accept":null}}"#), format!(r#"{out},{{"accept":null}}"#));
        let mended = [("FORWARD", jump.as_str()), ("DOCKER-USER", &into), ("DOCKER-USER", &out)];
        assert!(find(&spec(), &nft("filter", &chains, &mended)).is_empty());
        // Where nothing jumps, nothing is accepted; one of two is not enough.
        assert_eq!(find(&spec(), &nft("filter", &chains, &mended[1..])).len(), 1);
        assert_eq!(find(&spec(), &nft("filter", &chains, &mended[..2]))[0].remedies.len(), 1);
        // What is accepted of only some of them does not count.
        let tcp = r#"{"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":80}}"#;
        let some = format!(r#"{tcp},{into}"#);
        assert_eq!(find(&spec(), &nft("filter", &chains, &[("FORWARD", &some)]))[0].remedies.len(), 2);
    }

    #[test]
    fn ufw_is_told_in_its_own_words() {
        let chains =
            [("FORWARD", Some(("forward", "drop"))), ("INPUT", Some(("input", "drop"))), ("ufw-user-forward", None)];
        let found = find(&spec(), &nft("filter", &chains, &[]));
        assert_eq!(found[0].fix, "ufw route allow in on br0; ufw route allow out on br0");
        assert!(found[1].fix.starts_with("ufw allow in on br0 to any port 53 proto udp; "), "{}", found[1].fix);
        assert_eq!(found[1].remedies.len(), 3);
        let port = |protocol: &str, port: &str| {
            let left = format!(r#"{{"payload":{{"protocol":"{protocol}","field":"dport"}}}}"#);
            format!(r#"{{"match":{{"op":"==","left":{left},"right":{port}}}}},{COUNTER},{{"accept":null}}"#)
        };
        let (udp, tcp) = (port("udp", r#"{"set":[53,67]}"#), port("tcp", "53"));
        let open = [("INPUT", udp.as_str()), ("INPUT", &tcp)];
        assert_eq!(find(&spec(), &nft("filter", &chains, &open)).len(), 1);
    }

    #[test]
    fn firewalld_wants_a_zone() {
        let chains = [("filter_FORWARD", Some(("forward", "accept"))), ("zones", None)];
        let refuse = r#"{"reject":{"type":"icmpx","expr":"admin-prohibited"}}"#;
        let found = find(&spec(), &nft("firewalld", &chains, &[("filter_FORWARD", refuse)]));
        assert!(found[0].fix.contains("--zone=trusted --add-interface=br0"), "{}", found[0].fix);
        let zone = format!(r#"{},{{"goto":{{"target":"x"}}}}"#, interface("iifname", "br0"));
        let rules = [("filter_FORWARD", refuse), ("zones", zone.as_str())];
        assert!(find(&spec(), &nft("firewalld", &chains, &rules)).is_empty());
    }

    #[test]
    fn the_old_tables_are_read() {
        let text = "-P INPUT ACCEPT\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n-A FORWARD -i br0 -j ACCEPT\n";
        let mut rules = Ruleset::default();
        rules.add_legacy(Family::Legacy4, text);
        let found = find(&spec(), &rules);
        assert_eq!(found[0].fix, "iptables-legacy -I FORWARD -o br0 -j ACCEPT");
        rules.add_legacy(Family::Legacy4, "-A FORWARD -o br0 -m comment --comment \"warren:br0\" -j ACCEPT\n");
        assert!(find(&spec(), &rules).is_empty());
        assert_eq!(rules.rules.last().unwrap().comment.as_deref(), Some("warren:br0"));
    }

    #[test]
    fn an_open_host_has_no_obstacles() {
        let chains = [("FORWARD", Some(("forward", "accept"))), ("INPUT", Some(("input", "accept")))];
        assert!(find(&spec(), &nft("filter", &chains, &[])).is_empty());
        assert!(find(&spec(), &Ruleset::of_nft("not json")).is_empty());
    }
}
