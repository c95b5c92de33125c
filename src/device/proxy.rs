//! `proxy`: connections and datagrams from one side of an instance's border to the other.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{Error, Properties};

/// The longest path of a unix socket (`sun_path` in unix(7), less the NUL).
const MAX_PATH: usize = 107;

/// The most ports that a process listens to.
const MAX_PORTS: usize = 4096;

/// What ports of an IP address speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the protocols'")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// Where is listened, or where to is connected: `tcp:<address>:<ports>`, `udp:…`, `unix:<path>`, `unix:@<name>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Ports of an IP address; at least one.
    Ip {
        /// TCP or UDP.
        protocol: Protocol,
        /// The address.
        ip: IpAddr,
        /// In the order in which they are written, ranges spread out.
        ports: Vec<u16>,
    },
    /// A socket by its path, or, after an `@`, by a name in the network namespace.
    Unix(String),
}

/// A proxy as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Where is listened.
    pub listen: Address,
    /// Where to is connected: as many ports as those listened to, or one.
    pub connect: Address,
    /// It listens inside and connects on the host; else the other way round.
    pub inside: bool,
    /// By rules of the firewall instead of a process.
    pub nat: bool,
    /// Each connection begins with the line that tells who the client is.
    pub header: bool,
    /// Owner, group and permission bits of the socket that is listened to.
    pub owner: (u32, u32, u32),
    /// What the process that connects is, where it connects.
    pub security: (u32, u32),
}

/// Reads ports: numbers and ranges, separated by commas.
fn ports(text: &str) -> Result<Vec<u16>, &'static str> {
    let number = |text: &str| match text.parse::<u16>() {
        Ok(port @ 1..) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        Ok(_) | Err(_) => Err("ports are numbers from 1 to 65535, ranges of them, or a list, as 80-90,443"),
    };
    let mut ports = Vec::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return Err("a range of ports begins with the lower one");
        }
        for port in first..=last {
            ports.push(port);
        }
        if ports.len() > usize::from(u16::MAX) {
            return Err("more ports than there are");
        }
    }
    Ok(ports)
}

impl Address {
    /// Reads an address.
    ///
    /// # Errors
    /// What would fit.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let usage = "it must be tcp:<address>:<ports>, udp:<address>:<ports>, unix:<path> or unix:@<name>";
        let (kind, rest) = text.split_once(':').ok_or(usage)?;
        let protocol = match kind {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "unix" => {
                if rest.len() > MAX_PATH || rest.contains('\0') {
                    return Err("a unix socket's path or name has at most 107 bytes, and no NUL");
                }
                return match rest.strip_prefix('@') {
                    Some("") => Err("an abstract unix socket has a name after the '@'"),
                    Some(_) => Ok(Self::Unix(rest.to_owned())),
                    None if rest.starts_with('/') && !rest.ends_with('/') => Ok(Self::Unix(rest.to_owned())),
                    None => Err("a unix socket has an absolute path, or an '@' before its name"),
                };
            }
            _ => return Err(usage),
        };
        let (host, list) = rest.rsplit_once(':').ok_or(usage)?;
        let ip = if host.is_empty() {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        } else if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            IpAddr::V6(inner.parse().map_err(|_| "within brackets stands an IPv6 address")?)
        } else {
            let address = host.parse().map_err(|_| "before the ports stands an IP address, an IPv6 one in brackets");
            match address? {
                IpAddr::V4(address) => IpAddr::V4(address),
                IpAddr::V6(_) => return Err("an IPv6 address stands in brackets"),
            }
        };
        Ok(Self::Ip { protocol, ip, ports: ports(list)? })
    }

    /// How many sockets it is.
    pub fn count(&self) -> usize {
        match self {
            Self::Ip { ports, .. } => ports.len(),
            Self::Unix(_) => 1,
        }
    }

    /// Its IP addresses with ports.
    pub fn sockets(&self) -> impl Iterator<Item = SocketAddr> {
        let (ip, ports): (Option<IpAddr>, &[u16]) = match self {
            Self::Ip { ip, ports, .. } => (Some(*ip), ports),
            Self::Unix(_) => (None, &[]),
        };
        ports.iter().filter_map(move |port| ip.map(|ip| SocketAddr::new(ip, *port)))
    }

    fn is_path(&self) -> bool {
        matches!(self, Self::Unix(path) if path.starts_with('/'))
    }
}

fn refuse(properties: &Properties<'_>, property: &'static str, value: &str, expected: &'static str) -> Error {
    Error::Value { device: properties.device.to_string(), property, value: value.to_owned(), expected }
}

fn address(properties: &mut Properties<'_>, property: &'static str) -> Result<Address, Error> {
    let hint = "set it, as tcp:127.0.0.1:80 or unix:/run/socket";
    let missing = Error::MissingProperty { device: properties.device.to_string(), property, hint };
    let text = properties.take(property).ok_or(missing)?;
    Address::parse(text).map_err(|expected| refuse(properties, property, text, expected))
}

pub(super) fn parse(mut properties: Properties<'_>) -> Result<Proxy, Error> {
    let (listen, connect) = (address(&mut properties, "listen")?, address(&mut properties, "connect")?);
    let shown = |properties: &Properties<'_>, count: usize| {
        let expected = "it has as many ports as \"listen\", or one";
        refuse(properties, "connect", &format!("{count} ports"), expected)
    };
    if connect.count() != 1 && connect.count() != listen.count() {
        return Err(shown(&properties, connect.count()));
    }
    let inside = match properties.take("bind") {
        None | Some("host") => false,
        // `guest` and `container` are older words for it.
        Some("instance" | "guest" | "container") => true,
        Some(other) => return Err(refuse(&properties, "bind", other, "host or instance")),
    };
    let nat = properties.flag("nat")?.unwrap_or(false);
    if listen.count() > MAX_PORTS && !nat {
        let expected =
            "at most 4096 ports, as each is a socket of the proxy's process; with nat=true as many as there are";
        return Err(refuse(&properties, "listen", &format!("{} ports", listen.count()), expected));
    }
    let header = properties.flag("proxy_protocol")?.unwrap_or(false);
    if header && (nat || !matches!(connect, Address::Ip { protocol: Protocol::Tcp, .. })) {
        let expected = "the header can only be sent to a tcp address, without nat";
        return Err(refuse(&properties, "proxy_protocol", "true", expected));
    }
    for property in ["uid", "gid", "mode"] {
        if let Some(value) = properties.left.get(property).copied()
            && !listen.is_path()
        {
            let expected = "only a unix socket with a path that is listened to has an owner and a mode";
            return Err(refuse(&properties, property, value, expected));
        }
    }
    let owner = super::unix::owner(&mut properties, 0o644)?;
    let security = (
        super::unix::number(&mut properties, "security.uid")?.unwrap_or(0),
        super::unix::number(&mut properties, "security.gid")?.unwrap_or(0),
    );
    if nat {
        check_nat(&properties, &listen, &connect, inside)?;
    }
    properties.end()?;
    Ok(Proxy { listen, connect, inside, nat, header, owner, security })
}

fn check_nat(properties: &Properties<'_>, listen: &Address, connect: &Address, inside: bool) -> Result<(), Error> {
    let no = |expected| Err(refuse(properties, "nat", "true", expected));
    if inside {
        return no("only what listens on the host (bind=host) can use nat");
    }
    match (listen, connect) {
        (Address::Ip { protocol: from, ip: listen, .. }, Address::Ip { protocol: to, ip: connect, .. })
            if from == to =>
        {
            if listen.is_unspecified() {
                return no("\"listen\" must name one address of the host, not all of them");
            }
            if listen.is_ipv4() != connect.is_ipv4() {
                return no("\"listen\" and \"connect\" must be of one family of addresses");
            }
            Ok(())
        }
        _ => no("\"listen\" and \"connect\" must both be tcp or both be udp"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::wire::Config;
    use crate::device::Device;
    use crate::names::DeviceName;

    fn proxy(pairs: &[(&str, &str)]) -> Result<Proxy, Error> {
        let mut config: Config = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        config.insert("type".to_owned(), "proxy".to_owned());
        Device::parse(&DeviceName::new("dev").unwrap(), &config).map(|device| match device {
            Device::Proxy(proxy) => *proxy,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn addresses_are_read() {
        let Address::Ip { ports, ip, .. } = Address::parse("tcp:0.0.0.0:80-82,443").unwrap() else { panic!() };
        assert_eq!((ports.as_slice(), ip.to_string().as_str()), ([80, 81, 82, 443].as_slice(), "0.0.0.0"));
        let six = Address::parse("udp:[::1]:53").unwrap();
        assert_eq!(six.sockets().next().unwrap().to_string(), "[::1]:53");
        assert_eq!(Address::parse("unix:@x").unwrap(), Address::Unix("@x".to_owned()));
        // As LXD reads it: all addresses.
        assert!(Address::parse("tcp::80").unwrap().sockets().next().unwrap().ip().is_unspecified());
        for wrong in [
            "",
            "tcp",
            "tcp:80",
            "tcp:localhost:80",
            "tcp:::1:80",
            "tcp:[1.2.3.4]:80",
            "tcp:1.2.3.4:0",
            "tcp:1.2.3.4:",
            "tcp:1.2.3.4:9-5",
            "tcp:1.2.3.4:+5",
            "tcp:1.2.3.4:70000",
            "tcp:1.2.3.4:1,,2",
            "unix:",
            "unix:@",
            "unix:x",
            "unix:/x/",
            "sctp:1.2.3.4:5",
            "tcp:1.2.3.4:1-65535,1-65535",
        ] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let listen = ("listen", "tcp:1.2.3.4:80-81");
        assert!(proxy(&[listen, ("connect", "tcp:127.0.0.1:80")]).is_ok());
        assert!(proxy(&[listen, ("connect", "unix:/x"), ("bind", "guest")]).unwrap().inside);
        assert!(proxy(&[listen, ("connect", "tcp:0.0.0.0:80"), ("nat", "true")]).unwrap().nat);
        let unix = ("listen", "unix:/a");
        let ok = proxy(&[unix, ("connect", "tcp:[::1]:1"), ("mode", "0600"), ("uid", "7")]).unwrap();
        assert_eq!((ok.owner, ok.security), ((7, 0, 0o600), (0, 0)));
        for (pairs, wanted) in [
            (vec![listen], "\"connect\""),
            (vec![("connect", "unix:/x")], "\"listen\""),
            (vec![listen, ("connect", "tcp:127.0.0.1:80-82")], "3 ports"),
            (vec![("listen", "tcp:1.2.3.4:1-4097"), ("connect", "tcp:127.0.0.1:80")], "4097 ports"),
            (vec![listen, ("connect", "unix:/x"), ("bind", "bogus")], "\"bind\""),
            (vec![listen, ("connect", "unix:/x"), ("nat", "true")], "\"nat\""),
            (vec![listen, ("connect", "udp:1.2.3.4:5"), ("nat", "true")], "\"nat\""),
            (vec![listen, ("connect", "tcp:[::1]:5"), ("nat", "true")], "\"nat\""),
            (vec![listen, ("connect", "tcp:1.2.3.5:5"), ("nat", "true"), ("bind", "instance")], "\"nat\""),
            (vec![("listen", "tcp:0.0.0.0:1"), ("connect", "tcp:1.2.3.5:5"), ("nat", "true")], "\"nat\""),
            (vec![listen, ("connect", "unix:/x"), ("proxy_protocol", "true")], "\"proxy_protocol\""),
            (vec![listen, ("connect", "unix:/x"), ("uid", "5")], "\"uid\""),
            (vec![("listen", "unix:@x"), ("connect", "unix:/x"), ("mode", "0600")], "\"mode\""),
            (vec![unix, ("connect", "unix:/x"), ("mode", "999")], "\"mode\""),
            (vec![unix, ("connect", "unix:/x"), ("security.uid", "-1")], "\"security.uid\""),
            (vec![unix, ("connect", "unix:/x"), ("colour", "red")], "\"colour\""),
        ] {
            let error = proxy(&pairs).unwrap_err().to_string();
            assert!(error.contains("\"dev\"") && error.contains(wanted), "{error}");
        }
    }
}
