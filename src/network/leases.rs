//! Who has which address: the gateway, the registered static addresses, and dnsmasq's lease file.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::dnsmasq::{self, Files, Process};
use super::{BridgeSpec, DnsMode};
use crate::sys::netlink::MacAddr;

/// Where a lease comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaseKind {
    /// The bridge itself.
    Gateway,
    /// Given to a device by its configuration.
    Static,
    /// Given by DHCP.
    Dynamic,
}

/// An address in use (`GET /1.0/networks/<name>/leases`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lease {
    /// Name of the host; empty if it has none.
    pub hostname: String,
    /// MAC address; empty for the gateway.
    pub hwaddr: String,
    /// The address.
    pub address: String,
    /// Where it comes from.
    #[serde(rename = "type")]
    pub kind: LeaseKind,
    /// `none` for what belongs to this server, else empty.
    pub location: String,
    /// The instance that registered the hardware address, as in [`Host::instance`](super::Host::instance).
    #[serde(skip)]
    pub instance: Option<String>,
}

/// A line of the hosts directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Name of its file: `<instance>.<device>`.
    pub(super) file: String,
    pub(super) mac: MacAddr,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) hostname: String,
}

impl Entry {
    /// The file's text. With `named` false (`dns.mode` is dynamic) the name is only a comment.
    ///
    /// So it is where the name has a domain, or there is none: dnsmasq would leave the domain out, and give the name of an
    /// instance of another project to this one.
    pub(super) fn render(&self, named: bool) -> String {
        let mut line = self.mac.to_string();
        for address in &self.addresses {
            match address {
                IpAddr::V4(v4) => line.push_str(&format!(",{v4}")),
                IpAddr::V6(v6) => line.push_str(&format!(",[{v6}]")),
            }
        }
        let named = named && self.is_plain();
        if named { format!("{line},{}\n", self.hostname) } else { format!("#{}\n{line}\n", self.hostname) }
    }

    /// Whether dnsmasq itself can give the name: it is one label.
    fn is_plain(&self) -> bool {
        !self.hostname.is_empty() && !self.hostname.contains('.')
    }

    fn parse(file: &str, text: &str) -> Option<Self> {
        let mut hostname = String::new();
        let mut line = "";
        for each in text.lines() {
            match each.strip_prefix('#') {
                Some(comment) => hostname = comment.trim().to_owned(),
                None => line = each,
            }
        }
        let mut words = line.trim().split(',');
        let mac = words.next()?.parse().ok()?;
        let mut addresses = Vec::new();
        for word in words {
            match word.trim_start_matches('[').trim_end_matches(']').parse() {
                Ok(address) => addresses.push(address),
                Err(_) => hostname = word.to_owned(),
            }
        }
        Some(Self { file: file.to_owned(), mac, addresses, hostname })
    }

    /// The instance, as far as the file's name tells: all before the device.
    fn instance(&self) -> String {
        self.file.split('.').next().unwrap_or_default().replace('=', ".")
    }
}

/// The names that dnsmasq cannot give by DHCP, for its hosts files (hosts(5)): of instances outside `default`, with the
/// addresses that they have or are to have. Only with the network's domain: a project may be called `com`.
pub(super) fn hosts_file(domain: &str, entries: &[Entry], leases: &str) -> String {
    let lines = parse_leases(leases, now());
    let mut text = String::new();
    for entry in entries.iter().filter(|entry| entry.hostname.contains('.')) {
        let leased = lines.iter().filter(|line| line.mac == Some(entry.mac)).map(|line| line.address);
        let addresses: BTreeSet<IpAddr> = entry.addresses.iter().copied().chain(leased).collect();
        for address in addresses {
            text.push_str(&format!("{address} {}.{domain}\n", entry.hostname));
        }
    }
    text
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

/// What is registered, in the order of the files' names.
pub(super) fn entries(directory: &Path) -> Vec<Entry> {
    let mut entries: Vec<Entry> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Entry::parse(&name, &fs::read_to_string(entry.path()).ok()?)
        })
        .collect();
    entries.sort_by(|a, b| a.file.cmp(&b.file));
    entries
}

/// A line of dnsmasq's lease file.
pub(super) struct Line {
    pub(super) mac: Option<MacAddr>,
    pub(super) address: IpAddr,
    hostname: String,
    /// The second word: the association (IAID) of a DHCPv6 lease, with a `T` before it where the address is a temporary one.
    pub(super) id: String,
    /// Client id or DUID, bytes in hexadecimal with colons between; `*` for none.
    pub(super) client: String,
}

/// How often a lease file is looked at again that may be half written, and how soon.
const TRIES: (u32, Duration) = (200, Duration::from_millis(5));

/// The text of dnsmasq's lease file, empty when there is none.
///
/// dnsmasq empties the file and writes it anew in its place, which takes as long as the disk has others to serve. So a text
/// counts that was read while dnsmasq waited for messages. Blocking, for a second at most: then it counts as it is.
pub(super) fn read(files: &Files) -> String {
    let path = files.leases();
    let changed = || fs::metadata(&path).and_then(|file| Ok((file.len(), file.modified()?))).ok();
    let waits = |dnsmasq: &Option<Process>| dnsmasq.as_ref().is_none_or(Process::waits_for_messages);
    let mut text = String::new();
    for _ in 0..TRIES.0 {
        let dnsmasq = dnsmasq::running(files);
        let before = changed();
        let waited = waits(&dnsmasq);
        text = fs::read_to_string(&path).unwrap_or_default();
        if waited && waits(&dnsmasq) && before == changed() {
            break;
        }
        std::thread::sleep(TRIES.1);
    }
    text
}

/// Reads dnsmasq's lease file; leases that ended before `now` (seconds since 1970) are left out.
pub(super) fn parse_leases(text: &str, now: u64) -> Vec<Line> {
    text.lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let &[expiry, id, address, hostname, client, ..] = &words[..] else { return None };
            let expiry: u64 = expiry.parse().ok()?;
            if expiry != 0 && expiry < now {
                return None;
            }
            let address: IpAddr = address.parse().ok()?;
            // DHCPv6 lines have an association id where DHCPv4 has the hardware address; that is within the DUID.
            let mac = if address.is_ipv4() { id.parse().ok() } else { mac_of_duid(client) };
            let hostname = if hostname == "*" { String::new() } else { hostname.to_owned() };
            Some(Line { mac, address, hostname, id: id.to_owned(), client: client.to_owned() })
        })
        .collect()
}

/// The text without the lines of these addresses.
pub(super) fn without(text: &str, gone: &[IpAddr]) -> String {
    let is_gone =
        |line: &str| line.split(' ').nth(2).and_then(|word| word.parse().ok()).is_some_and(|a| gone.contains(&a));
    text.lines().filter(|line| !is_gone(line)).map(|line| format!("{line}\n")).collect()
}

/// The hardware address in a DUID of type 1 (with time) or 3 (without), hardware type 1 (RFC 8415, 11.2 and 11.4).
fn mac_of_duid(text: &str) -> Option<MacAddr> {
    let bytes = bytes(text)?;
    let mac = match bytes.get(..4)? {
        [0, 1, 0, 1] => bytes.get(8..)?,
        [0, 3, 0, 1] => bytes.get(4..)?,
        _ => return None,
    };
    mac.try_into().ok().map(MacAddr)
}

/// Bytes in hexadecimal with colons between.
pub(super) fn bytes(text: &str) -> Option<Vec<u8>> {
    text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect()
}

/// All addresses in use on the network of `spec`.
pub(super) fn collect(spec: &BridgeSpec, files: &Files) -> Vec<Lease> {
    let mut leases = Vec::new();
    let ipv4 = spec.ipv4.as_ref().map(|ipv4| IpAddr::V4(ipv4.address.address));
    let ipv6 = spec.ipv6.as_ref().map(|ipv6| IpAddr::V6(ipv6.address.address));
    for address in ipv4.into_iter().chain(ipv6) {
        leases.push(Lease {
            hostname: format!("{}.gw", spec.name),
            hwaddr: String::new(),
            address: address.to_string(),
            kind: LeaseKind::Gateway,
            location: String::new(),
            instance: None,
        });
    }
    let entries = entries(&files.hosts());
    for entry in &entries {
        for address in &entry.addresses {
            leases.push(Lease {
                hostname: entry.hostname.clone(),
                hwaddr: entry.mac.to_string(),
                address: address.to_string(),
                kind: LeaseKind::Static,
                location: "none".to_owned(),
                instance: Some(entry.instance()),
            });
        }
    }
    for line in parse_leases(&read(files), now()) {
        let address = line.address.to_string();
        if leases.iter().any(|lease| lease.address == address) {
            continue;
        }
        let entry = entries.iter().find(|entry| Some(entry.mac) == line.mac);
        leases.push(Lease {
            hostname: match entry.map(|entry| entry.hostname.clone()) {
                // dnsmasq notes what a client calls itself also where that is no name of its own.
                Some(own) if own.contains('.') && spec.dns.mode != DnsMode::Dynamic => own,
                Some(own) if line.hostname.is_empty() => own,
                _ => line.hostname,
            },
            hwaddr: line.mac.map(|mac| mac.to_string()).unwrap_or_default(),
            address,
            kind: LeaseKind::Dynamic,
            location: "none".to_owned(),
            instance: entry.map(Entry::instance),
        });
    }
    leases
}

/// For [`crate::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(text: &str) {
    parse_leases(text, 0);
    if let Some(entry) = Entry::parse("c1.eth0", text) {
        entry.render(true);
        entry.instance();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_files_are_read() {
        let text = "100 00:16:3e:00:00:01 10.0.0.5 c1 ff:01\n\
                    0 00:16:3e:00:00:02 10.0.0.6 * *\n\
                    1 00:16:3e:00:00:03 10.0.0.7 gone *\n\
                    duid 00:01:00:01:26:aa:bb:cc:00:16:3e:00:00:09\n\
                    100 12345 fd42::5 c1 00:01:00:01:26:aa:bb:cc:00:16:3e:00:00:01\n\
                    rubbish\n";
        let lines = parse_leases(text, 50);
        let shown: Vec<_> = lines
            .iter()
            .map(|l| format!("{} {} {}", l.address, l.mac.map(|m| m.to_string()).unwrap_or_default(), l.hostname))
            .collect();
        assert_eq!(
            shown,
            ["10.0.0.5 00:16:3e:00:00:01 c1", "10.0.0.6 00:16:3e:00:00:02 ", "fd42::5 00:16:3e:00:00:01 c1"]
        );
    }

    #[test]
    fn entries_read_back_in_both_modes() {
        let entry = Entry {
            file: "p_c1.eth0".to_owned(),
            mac: MacAddr([0, 0x16, 0x3e, 1, 2, 3]),
            addresses: vec!["10.0.0.5".parse().unwrap(), "fd42::5".parse().unwrap()],
            hostname: "c1".to_owned(),
        };
        assert_eq!(entry.render(true), "00:16:3e:01:02:03,10.0.0.5,[fd42::5],c1\n");
        for named in [true, false] {
            assert_eq!(Entry::parse("p_c1.eth0", &entry.render(named)).as_ref(), Some(&entry));
        }
        assert_eq!(entry.instance(), "p_c1");
        let outside = Entry { hostname: "c1.p.q".to_owned(), ..entry };
        assert_eq!(outside.render(true), "#c1.p.q\n00:16:3e:01:02:03,10.0.0.5,[fd42::5]\n");
        for named in [true, false] {
            assert_eq!(Entry::parse("p_c1.eth0", &outside.render(named)).as_ref(), Some(&outside));
        }
        assert_eq!(Entry::parse("x", "rubbish"), None);
    }

    #[test]
    fn names_with_a_project_follow_the_leases() {
        let entry = |file: &str, last: u8, addresses: &[&str], hostname: &str| Entry {
            file: file.to_owned(),
            mac: MacAddr([0, 0x16, 0x3e, 0, 0, last]),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            hostname: hostname.to_owned(),
        };
        let entries = [
            entry("c1.eth0", 1, &["10.0.0.9"], "c1"),
            entry("p_c1.eth0", 2, &[], "c1.p"),
            entry("q_c1.eth0", 3, &["10.0.0.8"], "c1.q"),
            entry("=_c1.eth0", 4, &["10.0.0.7"], ""),
        ];
        let leases = "0 00:16:3e:00:00:02 10.0.0.6 * *\n0 00:16:3e:00:00:03 10.0.0.8 * *\n\
                      1 00:16:3e:00:00:02 10.0.0.5 * *\n";
        assert_eq!(hosts_file("lxd", &entries, leases), "10.0.0.6 c1.p.lxd\n10.0.0.8 c1.q.lxd\n");
        let ten: IpAddr = "10.0.0.6".parse().unwrap();
        assert_eq!(without(leases, &[ten]).lines().count(), 2);
    }

    #[test]
    fn a_lease_is_shown_as_the_api_has_it() {
        let lease = Lease {
            hostname: "c1".to_owned(),
            hwaddr: "00:16:3e:01:02:03".to_owned(),
            address: "10.0.0.5".to_owned(),
            kind: LeaseKind::Static,
            location: "none".to_owned(),
            instance: Some("c1".to_owned()),
        };
        let expected = serde_json::json!({"hostname": "c1", "hwaddr": "00:16:3e:01:02:03", "address": "10.0.0.5",
            "type": "static", "location": "none"});
        assert_eq!(serde_json::to_value(lease).unwrap(), expected);
    }
}
