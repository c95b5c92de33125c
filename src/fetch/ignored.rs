//! Hosts that are reached without a proxy, as `NO_PROXY` and `core.proxy_ignore_hosts` name them.
//!
//! The forms are those of curl(1) and of Go's programs, which LXD's users know: `*`, names with all below them, addresses,
//! networks, and each of the latter with a port.

use std::net::IpAddr;

use super::Url;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// `*`.
    All,
    /// `a.b` and `.a.b`: itself, and what is below it; `*.a.b`: only what is below it.
    Name { name: String, itself: bool },
    /// An address, or a network with so many bits.
    Network(IpAddr, u32),
}

/// All of them, each with the only port that is meant.
#[derive(Debug, Clone, Default)]
pub(super) struct Ignored(Vec<(What, Option<u16>)>);

impl Ignored {
    /// Reads a list with commas, or white space as some write it. What is none of the forms matches nothing.
    pub(super) fn parse(list: &str) -> Self {
        let words = list.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
        Self(words.filter_map(one).collect())
    }

    /// Whether a server is reached without a proxy.
    pub(super) fn has(&self, url: &Url) -> bool {
        let (host, address) = (url.host(), url.host().parse().ok());
        self.0.iter().any(|(what, port)| {
            port.is_none_or(|port| port == url.port())
                && match (what, address) {
                    (What::All, _) => true,
                    (What::Network(network, bits), Some(address)) => is_in(address, *network, *bits),
                    (What::Name { name, itself }, None) => match host.strip_suffix(name.as_str()) {
                        Some("") => *itself,
                        Some(before) => before.ends_with('.'),
                        None => false,
                    },
                    (What::Network(..), None) | (What::Name { .. }, Some(_)) => false,
                }
        })
    }
}

fn one(word: &str) -> Option<(What, Option<u16>)> {
    if let Some(network) = network(word) {
        return Some((network, None));
    }
    let (host, port) = match word.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, behind)) => (host, Some(behind.strip_prefix(':')?)),
        None => match word.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (word, None),
        },
    };
    let port = port.map(str::parse).transpose().ok()?;
    if let Some(network) = network(host) {
        return Some((network, port));
    }
    let (below, itself) = match host.strip_prefix("*.") {
        Some(below) => (below, false),
        None => (host.strip_prefix('.').unwrap_or(host), true),
    };
    let name = below.strip_suffix('.').unwrap_or(below).to_ascii_lowercase();
    let what = if name == "*" { What::All } else { What::Name { name, itself } };
    (!below.is_empty() && !host.contains('/')).then_some((what, port))
}

fn network(word: &str) -> Option<What> {
    let (address, bits) = match word.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse().ok()?)),
        None => (word, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    bits.is_none_or(|bits| bits <= most).then(|| What::Network(address, bits.unwrap_or(most)))
}

fn is_in(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let (address, network, width) = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => (u32::from(address).into(), u32::from(network).into(), 32),
        (IpAddr::V6(address), IpAddr::V6(network)) => (u128::from(address), u128::from(network), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    };
    // A shift by all 128 bits leaves nothing to compare.
    (address ^ network).checked_shr(width - bits).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_known_by_every_form() {
        for (list, without, through) in [
            ("*", &["https://a.b", "https://127.0.0.1", "https://[::1]:8443"][..], &[][..]),
            (
                "a.b",
                &["https://a.b", "https://x.a.b:1", "https://A.B."],
                &["https://xa.b", "https://b", "https://1.2.3.4"],
            ),
            (".A.b.", &["https://a.b", "https://x.a.b"], &["https://b"]),
            ("*.a.b", &["https://x.a.b", "https://y.x.a.b"], &["https://a.b", "https://xa.b"]),
            ("a.b:8443", &["https://a.b:8443", "https://x.a.b:8443"], &["https://a.b", "https://a.b:84"]),
            ("a:443", &["https://a"], &["http://a"]),
            ("10.0.0.0/8, x", &["https://10.9.8.7", "https://x"], &["https://11.0.0.1", "https://[::a00:1]"]),
            ("1.2.3.4:80", &["http://1.2.3.4"], &["https://1.2.3.4"]),
            ("::1", &["https://[::1]", "https://[0:0::1]:9"], &["https://[::2]"]),
            ("[::1]", &["https://[::1]:9"], &["https://[::2]"]),
            ("[fd00::]:9 y", &["https://[fd00::]:9", "https://y"], &["https://[fd00::]"]),
            ("fd00::/16,0.0.0.0/0", &["https://[fd00:1::2]", "https://9.9.9.9"], &["https://[fd01::1]"]),
            ("::/0", &["https://[fd00:1::2]"], &["https://9.9.9.9"]),
            ("", &[], &["https://a"]),
            (",[::1,1.2.3.4/33,a:b,/,:,*.,10.0.0.0/x", &[], &["https://a", "https://1.2.3.4", "https://[::1]"]),
        ] {
            let ignored = Ignored::parse(list);
            for url in without {
                assert!(ignored.has(&Url::parse(url).unwrap()), "{list:?}: {url}");
            }
            for url in through {
                assert!(!ignored.has(&Url::parse(url).unwrap()), "{list:?}: {url}");
            }
        }
    }
}
