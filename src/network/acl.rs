//! Access control lists: their rules, checked and as rules of nft. They hold between the instances of a bridge and all that is
//! beyond it, the host included; what stays within the bridge does not pass here.

use std::net::IpAddr;

use super::Error;
use super::net::{Net4, Net6};
use super::spec::{Values, list};
use crate::api::wire::AclRule;

pub(super) const ACTIONS: &str = "allow, reject or drop";

pub(super) fn is_action(text: &str) -> bool {
    Action::parse(text).is_some()
}

/// What becomes of a packet. In the order in which rules count: of all lists, those that drop come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Action {
    Drop,
    Reject,
    Allow,
}

impl Action {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "drop" => Some(Self::Drop),
            "reject" => Some(Self::Reject),
            "allow" => Some(Self::Allow),
            _ => None,
        }
    }

    fn verdict(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Reject => "reject",
            Self::Allow => "accept",
        }
    }
}

/// What becomes of what no rule takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fallback {
    action: Action,
    logged: bool,
}

impl Fallback {
    pub(super) fn of(values: &Values<'_>, direction: &str) -> Self {
        let action = values.get(&format!("security.acls.default.{direction}.action")).and_then(Action::parse);
        let logged = values.flag(&format!("security.acls.default.{direction}.logged"), false);
        Self { action: action.unwrap_or(Action::Reject), logged }
    }
}

/// Which way packets go, seen from the instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From instances.
    Egress,
    /// To instances.
    Ingress,
}

impl Direction {
    fn word(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }

    /// How the host sees the bridge's side.
    fn side(self) -> &'static str {
        match self {
            Self::Egress => "iifname",
            Self::Ingress => "oifname",
        }
    }
}

/// A rule that counts, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    direction: Direction,
    action: Action,
    logged: bool,
    /// What has to hold, in nft's language, once for each family of addresses.
    matches: Vec<String>,
    /// The list that it is of.
    list: String,
}

/// The lists of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acls {
    /// For what instances send.
    pub egress: Fallback,
    /// For what they are sent.
    pub ingress: Fallback,
    /// Of all lists.
    pub rules: Vec<Rule>,
}

impl Acls {
    /// The lines of the chain that decides. Pure.
    pub(super) fn lines(&self, bridge: &str) -> Vec<String> {
        let mut rules: Vec<&Rule> = self.rules.iter().collect();
        // A stable sort: within an action the order is the administrator's.
        rules.sort_by_key(|rule| rule.action);
        let log = |list: &str| format!("log prefix \"warren {list} \" ");
        let mut lines = vec!["ct state established,related accept".to_owned()];
        for rule in rules {
            let log = if rule.logged { log(&rule.list) } else { String::new() };
            for test in &rule.matches {
                let space = if test.is_empty() { "" } else { " " };
                let (side, verdict) = (rule.direction.side(), rule.action.verdict());
                lines.push(format!("{side} {bridge} {test}{space}{log}{verdict}"));
            }
        }
        for (direction, default) in [(Direction::Egress, self.egress), (Direction::Ingress, self.ingress)] {
            let log = if default.logged { log(direction.word()) } else { String::new() };
            lines.push(format!("{} {bridge} {log}{}", direction.side(), default.action.verdict()));
        }
        lines
    }
}

/// Which addresses: those of IPv4 and of IPv6, as nft writes them.
#[derive(Debug, Default)]
struct Subject {
    v4: Vec<String>,
    v6: Vec<String>,
}

fn subject(text: &str) -> Result<Option<Subject>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let mut subject = Subject::default();
    for item in list(text) {
        let of = |address: IpAddr| address.is_ipv4();
        let v4 = if let Ok(address) = item.parse::<IpAddr>() {
            of(address)
        } else if Net4::parse(item).is_some() {
            true
        } else if Net6::parse(item).is_some() {
            false
        } else if let Some((first, last)) = item.split_once('-')
            && let (Ok(first), Ok(last)) = (first.parse::<IpAddr>(), last.parse::<IpAddr>())
            && of(first) == of(last)
            && first <= last
        {
            of(first)
        } else if item.starts_with('@') || crate::names::AclName::new(item).is_ok() {
            return Err(format!("{item:?}: networks of type bridge have no groups: write addresses"));
        } else {
            return Err(format!("{item:?} is not an address, a network such as 10.0.0.0/8 or a range FIRST-LAST"));
        };
        if v4 { subject.v4.push(item.to_owned()) } else { subject.v6.push(item.to_owned()) }
    }
    Ok(Some(subject))
}

/// A list of ports as nft writes it.
fn ports(text: &str) -> Result<Option<String>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    for item in list(text) {
        let fits = match item.split_once('-') {
            Some((first, last)) => port(first).zip(port(last)).is_some_and(|(first, last)| first <= last),
            None => port(item).is_some(),
        };
        if !fits {
            return Err(format!("{item:?} is not a port (1-65535) or a range FIRST-LAST"));
        }
    }
    Ok(Some(list(text).collect::<Vec<_>>().join(", ")))
}

/// What a rule asks of the protocol, and the family that this settles (`true`: IPv4).
fn protocol(rule: &AclRule) -> Result<(Vec<String>, Option<bool>), String> {
    let none = |value: &str, field: &str, needs: &str| {
        if value.is_empty() { Ok(()) } else { Err(format!("{field} needs {needs}")) }
    };
    let mut tests = Vec::new();
    let icmp = matches!(rule.protocol.as_str(), "icmp4" | "icmp6");
    if !icmp {
        none(&rule.icmp_type, "icmp_type", "the protocol icmp4 or icmp6")?;
        none(&rule.icmp_code, "icmp_code", "the protocol icmp4 or icmp6")?;
    }
    match rule.protocol.as_str() {
        "tcp" | "udp" => {
            let protocol = &rule.protocol;
            let source = ports(&rule.source_port).map_err(|error| format!("source_port: {error}"))?;
            let destination = ports(&rule.destination_port).map_err(|error| format!("destination_port: {error}"))?;
            if source.is_none() && destination.is_none() {
                tests.push(format!("meta l4proto {protocol}"));
            }
            tests.extend(source.map(|ports| format!("{protocol} sport {{ {ports} }}")));
            tests.extend(destination.map(|ports| format!("{protocol} dport {{ {ports} }}")));
            Ok((tests, None))
        }
        "" | "icmp4" | "icmp6" => {
            none(&rule.source_port, "source_port", "the protocol tcp or udp")?;
            none(&rule.destination_port, "destination_port", "the protocol tcp or udp")?;
            if !icmp {
                return Ok((tests, None));
            }
            let word = if rule.protocol == "icmp4" { "icmp" } else { "icmpv6" };
            for (field, value) in [("type", &rule.icmp_type), ("code", &rule.icmp_code)] {
                if !value.is_empty() {
                    let number: u8 = value.parse().map_err(|_| format!("icmp_{field}: {value:?} is not a number"))?;
                    tests.push(format!("{word} {field} {number}"));
                }
            }
            if tests.is_empty() {
                tests.push(format!("meta l4proto {}", if word == "icmp" { "icmp" } else { "ipv6-icmp" }));
            }
            Ok((tests, Some(word == "icmp")))
        }
        other => Err(format!("protocol {other:?} is not one of icmp4, icmp6, tcp, udp")),
    }
}

/// Checks one rule; none when it is switched off.
fn rule(direction: Direction, list: &str, rule: &AclRule) -> Result<Option<Rule>, String> {
    let action = Action::parse(&rule.action).ok_or("action must be one of: allow, drop, reject")?;
    let state = match rule.state.as_str() {
        "enabled" => Some(false),
        "logged" => Some(true),
        "disabled" => None,
        _ => return Err("state must be one of: enabled, disabled, logged".to_owned()),
    };
    let (tests, family) = protocol(rule)?;
    let source = subject(&rule.source).map_err(|error| format!("source: {error}"))?;
    let destination = subject(&rule.destination).map_err(|error| format!("destination: {error}"))?;
    let mut matches = Vec::new();
    if source.is_none() && destination.is_none() {
        let nfproto = match family {
            Some(v4) => format!("meta nfproto {} ", if v4 { "ipv4" } else { "ipv6" }),
            None => String::new(),
        };
        matches.push(format!("{nfproto}{}", tests.join(" ")).trim().to_owned());
    } else {
        for (v4, word) in [(true, "ip"), (false, "ip6")] {
            let of = |subject: &Option<Subject>| match subject {
                None => Some(None),
                Some(subject) => {
                    let all = if v4 { &subject.v4 } else { &subject.v6 };
                    (!all.is_empty()).then(|| Some(all.join(", ")))
                }
            };
            let (Some(from), Some(to)) = (of(&source), of(&destination)) else { continue };
            if family.is_some_and(|family| family != v4) {
                continue;
            }
            let mut all = Vec::new();
            all.extend(from.map(|from| format!("{word} saddr {{ {from} }}")));
            all.extend(to.map(|to| format!("{word} daddr {{ {to} }}")));
            all.extend(tests.iter().cloned());
            matches.push(all.join(" "));
        }
        if matches.is_empty() {
            return Err("source, destination and protocol have no family of addresses in common".to_owned());
        }
    }
    Ok(state.map(|logged| Rule { direction, action, logged, matches, list: list.to_owned() }))
}

/// Checks the rules of a list of one direction. The switched off are checked and left out.
///
/// # Errors
/// [`Error::Invalid`], which names the rule by its number, from 0.
pub fn check_rules(direction: Direction, list: &str, rules: &[AclRule]) -> Result<Vec<Rule>, Error> {
    let mut checked = Vec::new();
    for (number, one) in rules.iter().enumerate() {
        let found = rule(direction, list, one).map_err(|reason| Error::Invalid {
            reason: format!("Invalid {} rule {number}: {reason}", direction.word()),
        })?;
        checked.extend(found);
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(set: impl FnOnce(&mut AclRule)) -> AclRule {
        let mut rule = AclRule { action: "allow".to_owned(), state: "enabled".to_owned(), ..AclRule::default() };
        set(&mut rule);
        rule
    }

    #[test]
    fn rules_become_nft_by_family() {
        let rules = [
            of(|r| r.source = "10.0.0.0/8, fd00::1".to_owned()),
            of(|r| {
                r.protocol = "tcp".to_owned();
                r.destination_port = "80,90-99".to_owned();
                r.action = "drop".to_owned();
                r.state = "logged".to_owned();
            }),
            of(|r| r.state = "disabled".to_owned()),
            of(|r| {
                r.protocol = "icmp6".to_owned();
                r.icmp_type = "128".to_owned();
            }),
        ];
        let rules = check_rules(Direction::Ingress, "web", &rules).unwrap();
        let default = Fallback { action: Action::Reject, logged: false };
        let acls = Acls { egress: Fallback { action: Action::Allow, logged: true }, ingress: default, rules };
        let wanted = [
            "ct state established,related accept",
            "oifname \"br0\" tcp dport { 80, 90-99 } log prefix \"warren web \" drop",
            "oifname \"br0\" ip saddr { 10.0.0.0/8 } accept",
            "oifname \"br0\" ip6 saddr { fd00::1 } accept",
            "oifname \"br0\" meta nfproto ipv6 icmpv6 type 128 accept",
            "iifname \"br0\" log prefix \"warren egress \" accept",
            "oifname \"br0\" reject",
        ];
        assert_eq!(acls.lines("\"br0\""), wanted);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (rule, wanted) in [
            (of(|r| r.action = "maybe".to_owned()), "action must be one of"),
            (of(|r| r.state = String::new()), "state must be one of"),
            (of(|r| r.protocol = "sctp".to_owned()), "protocol \"sctp\""),
            (of(|r| r.destination_port = "80".to_owned()), "destination_port needs"),
            (of(|r| r.icmp_type = "8".to_owned()), "icmp_type needs"),
            (of(|r| r.source = "bo_gus".to_owned()), "source: \"bo_gus\" is not an address"),
            (of(|r| r.source = "@internal".to_owned()), "have no groups"),
            (of(|r| r.source = "10.0.0.9-10.0.0.1".to_owned()), "is not an address"),
            (
                of(|r| {
                    r.source = "10.0.0.1".to_owned();
                    r.destination = "fd00::1".to_owned();
                }),
                "no family",
            ),
            (
                of(|r| {
                    r.protocol = "udp".to_owned();
                    r.source_port = "0".to_owned();
                }),
                "source_port: \"0\"",
            ),
        ] {
            let text = check_rules(Direction::Egress, "a", &[of(|_| ()), rule]).unwrap_err().to_string();
            assert!(text.starts_with("Invalid egress rule 1: ") && text.contains(wanted), "{text}");
        }
    }
}
