//! Addresses of HTTP and HTTPS.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use http::Uri;

use super::Error;
use crate::names::{shortened, without_user};

/// What cannot stand in a path as it is (RFC 3986, 3.3), beside what is not ASCII.
const NO_PATH: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Longer ones nobody needs, bytes.
const MAX: usize = 4096;

const SCHEMES: &str = "it must begin with https:// or http://";

/// An address of HTTP or HTTPS: it has a host, and no user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    https: bool,
    /// As in a certificate: without brackets.
    host: String,
    port: u16,
    /// Path and query.
    target: String,
}

impl Url {
    /// Reads one.
    ///
    /// # Errors
    /// [`Error::Url`] that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let shown = || shortened(&without_user(text));
        let wrong = |reason: &str| Error::Url { url: shown(), reason: reason.to_owned() };
        if text.len() > MAX {
            return Err(wrong("it is longer than 4096 bytes"));
        }
        if text.split_once(':').is_some_and(|(_, rest)| rest.trim_matches('/').is_empty()) {
            return Err(wrong("it names no host"));
        }
        // What is no address of HTTP need not have a host (`file:///etc`).
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        if scheme.is_some_and(|scheme| !matches!(scheme.as_str(), "https" | "http")) {
            return Err(wrong(SCHEMES));
        }
        let uri: Uri = text.parse().map_err(|e: http::uri::InvalidUri| wrong(&e.to_string()))?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => return Err(wrong(SCHEMES)),
        };
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("it may not have a user or a password"));
        }
        let host = plain_host(authority.host()).ok_or_else(|| wrong("what stands in its [] is no address of IPv6"))?;
        if host.is_empty() {
            return Err(wrong("it names no host"));
        }
        let port = match authority.port() {
            Some(port) => port.as_str().parse().map_err(|_| wrong("its port is no number up to 65535"))?,
            None if authority.as_str().ends_with(':') || !has_port(authority.as_str()) => {
                if https {
                    443
                } else {
                    80
                }
            }
            None => return Err(wrong("its port is no number up to 65535")),
        };
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        Ok(Self { https, host, port, target })
    }

    /// What `reference` means here (RFC 3986, without dot segments).
    ///
    /// # Errors
    /// [`Error::Url`].
    pub fn join(&self, reference: &str) -> Result<Self, Error> {
        let reference = reference.split('#').next().unwrap_or_default();
        if reference.contains("://") && !reference.starts_with(['/', '?', '.']) {
            return Self::parse(reference);
        }
        let origin = self.origin();
        if let Some(rest) = reference.strip_prefix("//") {
            return Self::parse(&format!("{}://{rest}", self.scheme()));
        }
        if reference.starts_with('/') {
            return Self::parse(&format!("{origin}{reference}"));
        }
        let path = self.target.split('?').next().unwrap_or_default();
        if reference.starts_with('?') {
            return Self::parse(&format!("{origin}{path}{reference}"));
        }
        // `mailto:x`, `file:/etc`: a scheme of its own, before any slash.
        if reference.split(['/', '?']).next().is_some_and(|first| first.contains(':')) {
            return Self::parse(reference);
        }
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        Self::parse(&format!("{origin}{directory}/{reference}"))
    }

    /// A path below this address as below a directory, with or without a slash at its end.
    ///
    /// # Errors
    /// [`Error::Url`].
    pub fn below(&self, path: &str) -> Result<Self, Error> {
        let base = self.target.split('?').next().unwrap_or_default().trim_end_matches('/');
        Self::parse(&format!("{}{base}/{}", self.origin(), path.trim_start_matches('/')))
    }

    /// A file below this address as below a directory, by its plain path.
    ///
    /// # Errors
    /// [`Error::Url`].
    pub fn file_below(&self, path: &str) -> Result<Self, Error> {
        self.below(&percent_encoding::utf8_percent_encode(path, NO_PATH).to_string())
    }

    fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    fn origin(&self) -> String {
        format!("{}://{}", self.scheme(), self.authority())
    }

    /// Whether it is HTTPS.
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// Host and, if it is not the usual one, port.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.https, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// All of it, with secrets.
    pub fn full(&self) -> String {
        format!("{}{}", self.origin(), self.target)
    }

    /// Path and query.
    pub fn target(&self) -> &str {
        &self.target
    }
}

/// A host as it is compared with others: in small letters, without brackets or the dot of a whole name, an address of IPv6 in its
/// shortest form. `None`: there is none such in the brackets.
fn plain_host(host: &str) -> Option<String> {
    match host.strip_prefix('[') {
        Some(rest) => Some(rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?.to_string()),
        None => Some(host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()),
    }
}

/// Whether something stands behind the host's colon.
fn has_port(authority: &str) -> bool {
    let behind = authority.rsplit_once(']').map_or(authority, |(_, behind)| behind);
    behind.contains(':')
}

impl fmt::Display for Url {
    /// Without the secret of a private image: errors show addresses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = match self.target.split_once("secret=") {
            None => self.target.clone(),
            Some((before, secret)) => {
                let after = secret.split_once('&').map_or(String::new(), |(_, after)| format!("&{after}"));
                format!("{before}secret=…{after}")
            }
        };
        write!(f, "{}{shown}", self.origin())
    }
}

/// Whether an address leads to this host itself or to what only hangs on the same wire: services there believe whoever
/// reaches them, such as the metadata services of clouds.
pub(super) fn is_near(address: IpAddr) -> bool {
    let here = match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified(),
    };
    here || is_on_wire(address)
}

/// Whether an address leads to what only hangs on the same wire.
pub(super) fn is_on_wire(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.is_multicast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for (text, shown) in [
            ("https://a.b", "https://a.b/"),
            ("https://A.b:443/x?y=1", "https://a.b/x?y=1"),
            ("https://[::1]:8443/x", "https://[::1]:8443/x"),
            ("http://a:8080?q", "http://a:8080/?q"),
            ("https://A.B./x", "https://a.b/x"),
            ("https://[0:0::0001]/x", "https://[::1]/x"),
        ] {
            assert_eq!(Url::parse(text).unwrap().to_string(), shown, "{text}");
        }
        let long = format!("https://a/{}", "x".repeat(MAX));
        for text in [
            "",
            "a.b",
            "ftp://a/b",
            "file:///etc/passwd",
            "https://",
            "https://u:p@a/",
            "https://a:99999/",
            "https://a b/",
            "https://[v1.x]/",
            "https://[1.2.3.4]/",
            "https://./",
            &long,
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn references_are_joined() {
        let base = Url::parse("https://a/b/c?d").unwrap();
        for (reference, shown) in [
            ("x", "https://a/b/x"),
            ("/x", "https://a/x"),
            ("?x", "https://a/b/c?x"),
            ("//e/x#f", "https://e/x"),
            ("http://e/x", "http://e/x"),
        ] {
            assert_eq!(base.join(reference).unwrap().to_string(), shown, "{reference}");
        }
        for reference in ["file:/etc/passwd", "javascript:x", "gopher://a"] {
            assert!(base.join(reference).is_err(), "{reference}");
        }
        let file = Url::parse("https://a/b").unwrap().file_below("é x/a%2f+?#:").unwrap();
        assert_eq!(file.to_string(), "https://a/b/%C3%A9%20x/a%252f+%3F%23:");
        assert_eq!(Url::parse("https://a/b/").unwrap().below("/1.0").unwrap().to_string(), "https://a/b/1.0");
    }

    #[test]
    fn near_addresses_are_known() {
        for near in ["127.0.0.1", "127.9.9.9", "169.254.169.254", "0.0.0.0", "::1", "::", "fe80::1", "::ffff:127.0.0.1"]
        {
            assert!(is_near(near.parse().unwrap()), "{near}");
        }
        for far in ["10.0.0.1", "192.0.2.1", "2001:db8::1", "fd00::1"] {
            assert!(!is_near(far.parse().unwrap()), "{far}");
        }
        for (address, wire) in [
            ("127.0.0.1", false),
            ("::1", false),
            ("169.254.1.1", true),
            ("::ffff:169.254.1.1", true),
            ("fe80::1", true),
        ] {
            assert_eq!(is_on_wire(address.parse().unwrap()), wire, "{address}");
        }
    }
}
