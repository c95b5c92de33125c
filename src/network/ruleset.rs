//! The packet filter of the host, as far as it says who passes: chains with their hooks, rules by interface and port. Read from
//! what `nft -j list ruleset` (libnftables-json(5)) and `iptables-legacy -S` (iptables(8)) write.

use std::collections::BTreeSet;

use serde_json::Value;

/// Which packets a table sees, and whose it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Family {
    Ip,
    Ip6,
    #[default]
    Inet,
    /// Of the old iptables.
    Legacy4,
    /// Of the old ip6tables.
    Legacy6,
}

impl Family {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "ip" => Some(Self::Ip),
            "ip6" => Some(Self::Ip6),
            "inet" => Some(Self::Inet),
            _ => None,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ip | Self::Legacy4 => "ip",
            Self::Ip6 | Self::Legacy6 => "ip6",
            Self::Inet => "inet",
        }
    }

    pub(super) fn covers_ipv4(self) -> bool {
        matches!(self, Self::Ip | Self::Inet | Self::Legacy4)
    }

    pub(super) fn covers_ipv6(self) -> bool {
        matches!(self, Self::Ip6 | Self::Inet | Self::Legacy6)
    }

    /// The program that alone changes it, if it is not nft.
    pub(super) fn legacy_program(self) -> Option<&'static str> {
        match self {
            Self::Legacy4 => Some("iptables-legacy"),
            Self::Legacy6 => Some("ip6tables-legacy"),
            Self::Ip | Self::Ip6 | Self::Inet => None,
        }
    }
}

/// Where packets come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Forward,
    Input,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) family: Family,
    pub(super) table: String,
    pub(super) name: String,
    pub(super) hook: Option<Hook>,
    /// Its policy is to drop.
    pub(super) drops: bool,
}

impl Chain {
    fn place(&self) -> String {
        format!("{} {} {}", self.family.word(), self.table, self.name)
    }

    pub(super) fn same_table(&self, other: &Self) -> bool {
        self.family == other.family && self.table == other.table
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rule {
    /// Family, table and chain, as nft takes them.
    pub(super) place: String,
    pub(super) family: Family,
    /// nft's number of it.
    pub(super) handle: u64,
    /// Its comment.
    pub(super) comment: Option<String>,
    /// The interface that it asks for.
    pub(super) into: Option<String>,
    /// The interface that it asks for on the way out.
    pub(super) out: Option<String>,
    pub(super) accepts: bool,
    /// It drops or rejects.
    pub(super) refuses: bool,
    /// It asks for nothing but interfaces.
    pub(super) is_whole: bool,
    /// Protocols and ports that it asks for.
    ports: Vec<(String, String)>,
    /// The chain that it hands on to.
    jump: Option<String>,
    /// The rule as iptables takes it, after `-A`.
    pub(super) words: Vec<String>,
}

impl Rule {
    /// Whether it asks for this port of this protocol, and for nothing but it and interfaces.
    pub(super) fn takes(&self, protocol: &str, port: &str) -> bool {
        self.ports.iter().any(|(own, number)| own == protocol && number == port)
    }

    pub(super) fn is_of_table(&self, chain: &Chain) -> bool {
        self.place.starts_with(&format!("{} {} ", chain.family.word(), chain.table)) && self.family == chain.family
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Ruleset {
    pub(super) chains: Vec<Chain>,
    pub(super) rules: Vec<Rule>,
}

impl Ruleset {
    /// Reads nft's list. What is not understood is left out.
    pub(super) fn of_nft(text: &str) -> Self {
        let mut all = Self::default();
        let listing: Value = serde_json::from_str(text).unwrap_or_default();
        for item in listing["nftables"].as_array().into_iter().flatten() {
            let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
            if let Some(chain) = item.get("chain")
                && let Some(family) = Family::parse(&text(chain, "family"))
            {
                let hook = match chain["hook"].as_str() {
                    Some("forward") => Some(Hook::Forward),
                    Some("input") => Some(Hook::Input),
                    _ => None,
                };
                let (table, name) = (text(chain, "table"), text(chain, "name"));
                all.chains.push(Chain { family, table, name, hook, drops: chain["policy"] == "drop" });
            }
            if let Some(rule) = item.get("rule")
                && let Some(family) = Family::parse(&text(rule, "family"))
            {
                let place = format!("{} {} {}", family.word(), text(rule, "table"), text(rule, "chain"));
                all.rules.push(nft_rule(family, place, rule));
            }
        }
        all
    }

    /// Reads `iptables-legacy -S`.
    pub(super) fn add_legacy(&mut self, family: Family, text: &str) {
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let table = "filter".to_owned();
            match words.as_slice() {
                ["-P", name, policy] => {
                    let hook = match *name {
                        "FORWARD" => Some(Hook::Forward),
                        "INPUT" => Some(Hook::Input),
                        _ => None,
                    };
                    let (name, drops) = ((*name).to_owned(), *policy == "DROP");
                    self.chains.push(Chain { family, table, name, hook, drops });
                }
                ["-N", name] => {
                    let name = (*name).to_owned();
                    self.chains.push(Chain { family, table, name, hook: None, drops: false });
                }
                ["-A", chain, rest @ ..] => self.rules.push(legacy_rule(family, chain, rest)),
                _ => {}
            }
        }
    }

    /// The chains that a packet may come by from here, as rules name their places.
    pub(super) fn reached_from(&self, chain: &Chain) -> BTreeSet<String> {
        let mut reached = BTreeSet::from([chain.place()]);
        loop {
            let next: Vec<String> = self
                .rules
                .iter()
                .filter(|rule| rule.family == chain.family && reached.contains(&rule.place))
                .filter_map(|rule| rule.jump.as_ref())
                .map(|target| format!("{} {} {target}", chain.family.word(), chain.table))
                .filter(|place| !reached.contains(place))
                .collect();
            if next.is_empty() {
                return reached;
            }
            reached.extend(next);
        }
    }
}

fn nft_rule(family: Family, place: String, rule: &Value) -> Rule {
    let mut found = Rule { place, family, is_whole: true, ..Rule::default() };
    found.handle = rule["handle"].as_u64().unwrap_or_default();
    found.comment = rule["comment"].as_str().map(str::to_owned);
    let mut others = false;
    for part in rule["expr"].as_array().into_iter().flatten() {
        let Some((word, about)) = part.as_object().and_then(|part| part.iter().next()) else { continue };
        match word.as_str() {
            "accept" => found.accepts = true,
            "drop" | "reject" => found.refuses = true,
            "jump" | "goto" => found.jump = about["target"].as_str().map(str::to_owned),
            "counter" | "log" | "comment" => {}
            // iptables' comments.
            "xt" if about["name"] == "comment" || about["type"] == "target" => {}
            "match" => {
                let key = about["left"]["meta"]["key"].as_str().unwrap_or_default();
                let name = about["right"].as_str().map(str::to_owned);
                let payload = &about["left"]["payload"];
                match key {
                    _ if about["op"] != "==" => others = true,
                    "iifname" => found.into = name,
                    "oifname" => found.out = name,
                    // Said again by the port.
                    "l4proto" if matches!(name.as_deref(), Some("tcp" | "udp")) => found.is_whole = false,
                    _ if payload["field"] == "dport" => {
                        found.is_whole = false;
                        let protocol = payload["protocol"].as_str().unwrap_or_default();
                        found.ports.extend(numbers(&about["right"]).into_iter().map(|n| (protocol.to_owned(), n)));
                    }
                    _ => others = true,
                }
            }
            _ => others = true,
        }
    }
    if others {
        found.is_whole = false;
        found.ports.clear();
    }
    found
}

/// The single ports of a match: a number or a set of them.
fn numbers(right: &Value) -> Vec<String> {
    match right {
        Value::Number(number) => vec![number.to_string()],
        Value::Object(set) => {
            let all = set.get("set").and_then(Value::as_array);
            all.into_iter().flatten().filter_map(Value::as_u64).map(|number| number.to_string()).collect()
        }
        _ => Vec::new(),
    }
}

fn legacy_rule(family: Family, chain: &str, rest: &[&str]) -> Rule {
    let place = format!("{} filter {chain}", family.word());
    let mut found = Rule { place, family, is_whole: true, ..Rule::default() };
    let unquoted = |word: &str| word.trim_matches('"').to_owned();
    found.words = std::iter::once(chain).chain(rest.iter().copied()).map(unquoted).collect();
    let (mut words, mut others, mut protocol) = (rest.iter().copied(), false, String::new());
    while let Some(word) = words.next() {
        let mut next = || words.next().unwrap_or_default().to_owned();
        match word {
            "-i" => found.into = Some(next()),
            "-o" => found.out = Some(next()),
            "-j" | "-g" => match next().as_str() {
                "ACCEPT" => found.accepts = true,
                "DROP" | "REJECT" => found.refuses = true,
                target => found.jump = Some(target.to_owned()),
            },
            "--comment" => found.comment = Some(unquoted(&next())),
            "-m" => others |= !matches!(next().as_str(), "comment" | "tcp" | "udp" | "multiport"),
            "-p" => {
                found.is_whole = false;
                protocol = next();
            }
            "--dport" | "--dports" => {
                found.ports.extend(next().split(',').map(|port| (protocol.clone(), port.to_owned())));
            }
            _ => others = true,
        }
    }
    if others {
        found.is_whole = false;
        found.ports.clear();
    }
    found
}
