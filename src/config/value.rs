//! The kinds of values and their check.

use super::compressor::Compressor;
use super::cpus::CpuDemand;
use super::limits::{Rlimit, is_allowance, is_resource};
use super::size::{parse_part, parse_size};
use super::{Error, MAX_VALUE};
use super::{
    names_of, pgp_key, raw_idmap, raw_lxc, raw_seccomp, roles, schedule, server_volume, snapshot_pattern, syscalls,
};
use crate::names::{is_interface, is_mac, shortened, without_user};
use std::net::IpAddr;

/// What a value must look like. An empty value unsets its key and always fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A boolean word.
    Bool,
    /// A whole number in this range.
    Int(i64, i64),
    /// A value of an environment variable: one line.
    Line,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Bytes, with a unit.
    Size,
    /// Bytes, or a part of the host's memory in per cent.
    Part,
    /// A number of processors, or a set of them.
    Cpus,
    /// Processor time: `N%` or `Xms/Yms`.
    Allowance,
    /// `SOFT:HARD` of a kernel resource, which the key names.
    Rlimit,
    /// One line, for a file below /proc/sys that the key names.
    Sysctl,
    /// Lines of ids: [`raw_idmap`].
    Idmap,
    /// Lines of lxc.container.conf(5): [`raw_lxc`].
    RawLxc,
    /// A policy in liblxc's format: [`raw_seccomp`].
    RawSeccomp,
    /// Lines of system calls: [`syscalls`].
    Syscalls,
    /// Names of kernel modules, with commas.
    Modules,
    /// When snapshots are made: [`schedule`].
    Schedule,
    /// How long snapshots are kept: [`schedule`].
    Expiry,
    /// IP addresses, with commas.
    Addresses,
    /// A custom volume of the default project: `<pool>/<volume>`.
    Volume,
    /// How snapshots are named: [`snapshot_pattern`].
    SnapshotPattern,
    /// A program that compresses, perhaps with arguments.
    Compressor,
    /// The address of a proxy: `http://[user:password@]host[:port]`, the scheme may lack.
    Proxy,
    /// Hosts that are reached without a proxy, with commas: names, addresses, networks, `*`.
    Hosts,
    /// The value of a header of HTTP.
    Header,
    /// Names of methods or headers of HTTP, with commas, or `*`.
    Tokens,
    /// Armored public keys: [`pgp_key`].
    PgpKey,
    /// A UUID.
    Uuid,
    /// What the daemon remembers of a device; the end of the key says what.
    OfDevice,
    /// Names of file systems, with commas.
    FileSystems,
    /// Pairs of a file system and a program, with commas: `ext4=fuse2fs`.
    FusePrograms,
    /// Ids of the host and ranges of them, with commas.
    Ids,
    /// Absolute paths, with commas.
    Paths,
    /// Groups of the host and their roles, with commas: [`roles`].
    Roles,
    /// Subnets with the network that they are reached by, with commas: `uplink:192.0.2.0/24`.
    Subnets,
}

/// The words that LXD 5.0.2 has for architectures, as it tells them in its refusal of others.
pub(super) const ARCHITECTURES: &[&str] = &[
    "i686", "x86_64", "armv6l", "armv7l", "armv8l", "aarch64", "ppc", "ppc64", "ppc64le", "s390x", "mips", "mips64",
    "riscv32", "riscv64",
];

/// Reads a boolean in any of the words that LXD takes, in any case.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// Reads a whole number.
pub fn parse_int(text: &str) -> Option<i64> {
    text.trim().parse().ok()
}

/// Names of directories and a file, and nothing that leads out of them: liblxc makes a path of it.
fn is_sysctl(key: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/');
    let parts =
        |name: &str| !name.is_empty() && name.split('.').all(|part| !part.is_empty() && part.chars().all(plain));
    key.strip_prefix("linux.sysctl.").is_some_and(parts)
}

/// Nothing that modprobe(8) would take for an option or a path.
fn is_module(name: &str) -> bool {
    !name.starts_with('-') && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

/// A file system, and a program by its name or its whole path.
fn is_fuse_pair(pair: &str) -> bool {
    let is_program = |program: &str| {
        let plain = !program.is_empty() && !program.contains(char::is_whitespace) && !program.contains(['=', '\0']);
        plain && !program.starts_with('-') && (program.starts_with('/') || !program.contains('/'))
    };
    pair.split_once('=').is_some_and(|(name, program)| {
        let name = name.trim();
        !name.is_empty() && is_module(name) && is_program(program.trim())
    })
}

/// What nics read back when they start: a wrong value would keep the instance down.
fn of_device(key: &str, value: &str) -> Result<(), &'static str> {
    let fits = |fits: bool, expected| if fits { Ok(()) } else { Err(expected) };
    match key.rsplit('.').next().unwrap_or_default() {
        "hwaddr" => fits(is_mac(value), "it must be a hardware address such as 00:16:3e:01:02:03"),
        "name" | "host_name" => {
            fits(is_interface(value), "it must be the name of an interface: 1 to 15 letters, digits, '-', '_' or '.'")
        }
        "mtu" => fits(value.parse::<u32>().is_ok(), "it must be a number of bytes"),
        "created" => fits(parse_bool(value).is_some(), "it must be true or false"),
        _ => Ok(()),
    }
}

/// A proxy as the client of image servers can use it (hyper-util takes what it cannot read for none).
fn check_proxy(text: &str) -> Result<(), &'static str> {
    const WRONG: &str = "it must be http://[user:password@]host[:port]";
    let uri: http::Uri = text.parse().map_err(|_| WRONG)?;
    if !matches!(uri.scheme_str(), None | Some("http")) {
        return Err("only proxies of http:// are known, for https: too: http://[user:password@]host[:port]");
    }
    let authority = uri.authority().ok_or(WRONG)?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let behind = authority.as_str().rsplit(['@', ']']).next().unwrap_or_default();
    let port = behind.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_ok());
    if !host.is_empty() && port && matches!(uri.path(), "" | "/") { Ok(()) } else { Err(WRONG) }
}

/// The name of a server, perhaps with a port: what stands between `https://` and the path of its address.
fn is_server(text: &str) -> bool {
    let uri: Option<http::Uri> = format!("https://{text}").parse().ok();
    uri.as_ref().and_then(http::Uri::authority).is_some_and(|authority| {
        let port = authority.as_str().strip_prefix(authority.host()).and_then(|port| port.strip_prefix(':'));
        authority.as_str() == text && !text.contains('@') && port.is_none_or(|port| port.parse::<u16>().is_ok())
    })
}

/// What may stand in `NO_PROXY`.
fn is_host_pattern(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.*:/[]%".contains(&byte))
}

/// A token (RFC 9110, 5.6.2); `*` is one.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn is_subnet(text: &str) -> bool {
    text.split_once(':').is_some_and(|(uplink, subnet)| {
        let address = |(address, bits): (&str, &str)| {
            let most = match address.parse::<std::net::IpAddr>() {
                Ok(std::net::IpAddr::V4(_)) => 32,
                Ok(std::net::IpAddr::V6(_)) => 128,
                Err(_) => return false,
            };
            bits.parse::<u8>().is_ok_and(|bits| bits <= most)
        };
        !uplink.is_empty() && subnet.split_once('/').is_some_and(address)
    })
}

impl Kind {
    /// Whether a value may have several lines.
    fn has_lines(self) -> bool {
        matches!(self, Self::Text | Self::Idmap | Self::RawLxc | Self::RawSeccomp | Self::Syscalls | Self::PgpKey)
    }

    /// Checks `value`.
    ///
    /// # Errors
    /// [`Error::Value`], which says what would fit; a hidden value is not repeated.
    pub fn check(self, key: &str, value: &str, hidden: bool) -> Result<(), Error> {
        let refuse = |expected: String| {
            // An address may have a password.
            let value = if matches!(self, Self::Proxy) { without_user(value) } else { value.to_owned() };
            let value = if hidden { String::new() } else { shortened(&value) };
            Err(Error::Value { key: key.to_owned(), value, expected })
        };
        if value.len() > MAX_VALUE {
            return refuse(format!("a value has at most {MAX_VALUE} bytes, this one has {}", value.len()));
        }
        if value.contains('\0') {
            return refuse("NUL characters are not allowed".to_owned());
        }
        if value.is_empty() {
            return Ok(());
        }
        if !self.has_lines() && value.contains(['\n', '\r']) {
            return refuse("line breaks are not allowed".to_owned());
        }
        match self {
            Self::Text => Ok(()),
            Self::Bool if parse_bool(value).is_some() => Ok(()),
            Self::Bool => refuse("it must be true or false".to_owned()),
            Self::Int(low, high) => match parse_int(value) {
                Some(number) if (low..=high).contains(&number) => Ok(()),
                Some(_) | None => refuse(format!("it must be a whole number from {low} to {high}")),
            },
            Self::Line => Ok(()),
            Self::Word(words) if words.contains(&value) => Ok(()),
            Self::Word(words) => refuse(format!("it must be one of {}", words.join(", "))),
            Self::Size if parse_size(value).is_some() => Ok(()),
            Self::Size => refuse("it must be a size such as 64KiB or 2GB".to_owned()),
            Self::Part if parse_part(value, u64::MAX).is_some() => Ok(()),
            Self::Part => refuse("it must be a size such as 512MiB or 2GB, or a part such as 10%".to_owned()),
            Self::Cpus if CpuDemand::parse(value).is_some() => Ok(()),
            Self::Cpus => {
                refuse("it must be a number of processors such as 2, or a set of them such as 0-1,3".to_owned())
            }
            Self::Allowance if is_allowance(value) => Ok(()),
            Self::Allowance => refuse(
                "it must be a share such as 50%, or a time in a period such as 25ms/100ms (a period has 1 to 1000 ms)"
                    .to_owned(),
            ),
            Self::Rlimit if !key.rsplit('.').next().is_some_and(is_resource) => {
                refuse("there is no such resource: see getrlimit(2) for those there are".to_owned())
            }
            Self::Rlimit if key.ends_with(".nofile") && value.contains("unlimited") => refuse(
                "the kernel has no unlimited number of open files: at most what fs.nr_open says, such as 1048576"
                    .to_owned(),
            ),
            Self::Rlimit if Rlimit::parse(value).is_some() => Ok(()),
            Self::Rlimit => {
                refuse("it must be SOFT:HARD, numbers or \"unlimited\", the first not above the second".to_owned())
            }
            Self::Sysctl if !is_sysctl(key) => {
                refuse("the key must be the name of a file below /proc/sys with dots".to_owned())
            }
            Self::Sysctl => Ok(()),
            Self::Idmap => raw_idmap::parse(value).map(drop).or_else(refuse),
            Self::RawLxc => raw_lxc::parse(value).map(drop).or_else(refuse),
            Self::RawSeccomp => raw_seccomp::check(value).or_else(refuse),
            Self::Syscalls => syscalls::check_value(key, value).or_else(refuse),
            Self::Roles => roles::parse(value).map(drop).or_else(refuse),
            Self::Schedule => schedule::parse_schedule(value).map(drop).or_else(refuse),
            Self::Expiry => schedule::parse_expiry(value).map(drop).or_else(refuse),
            Self::Addresses => match value.split(',').map(str::trim).find(|one| one.parse::<IpAddr>().is_err()) {
                None => Ok(()),
                Some(other) => refuse(format!("{other:?} is no IP address; several are separated by commas")),
            },
            Self::Volume => server_volume::parse(value).map(drop).or_else(refuse),
            Self::SnapshotPattern => snapshot_pattern::check(value).or_else(refuse),
            Self::Compressor => Compressor::parse(value).map(drop).or_else(|unknown| refuse(unknown.to_string())),
            Self::Proxy => check_proxy(value).or_else(|expected| refuse(expected.to_owned())),
            // What else is no value of a header, or of none of these, would be left out of answers without a word.
            Self::Header if value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) => Ok(()),
            Self::Header => refuse("it must be plain characters of ASCII".to_owned()),
            Self::Tokens => match names_of(value).find(|name| !is_token(name)) {
                Some(name) => {
                    refuse(format!("{:?} is no name of HTTP; names are separated by commas", shortened(name)))
                }
                None => Ok(()),
            },
            Self::Hosts => match names_of(value).find(|name| !is_host_pattern(name)) {
                Some(name) => refuse(format!(
                    "{:?} is no host, address, network or *; several are separated by commas",
                    shortened(name)
                )),
                None => Ok(()),
            },
            Self::PgpKey if !is_server(key.rsplit("streams_key.").next().unwrap_or_default()) => {
                refuse("the key must end with the server's name, as HOST or HOST:PORT".to_owned())
            }
            Self::PgpKey => pgp_key::parse(value).map(drop).or_else(refuse),
            Self::Uuid if uuid::Uuid::parse_str(value).is_ok() => Ok(()),
            Self::Uuid => refuse("it must be a UUID".to_owned()),
            Self::OfDevice => of_device(key, value).or_else(|expected| refuse(expected.to_owned())),
            Self::Modules => match names_of(value).find(|name| !is_module(name)) {
                Some(name) => refuse(format!("{name:?} is no name of a kernel module; names are separated by commas")),
                None => Ok(()),
            },
            Self::FileSystems => match names_of(value).find(|name| !is_module(name)) {
                Some(name) => refuse(format!("{name:?} is no name of a file system; names are separated by commas")),
                None => Ok(()),
            },
            Self::FusePrograms => match names_of(value).find(|pair| !is_fuse_pair(pair)) {
                Some(pair) => refuse(format!(
                    "{pair:?} is no file system with its program, such as ext4=fuse2fs; pairs are separated by commas"
                )),
                None => Ok(()),
            },
            Self::Ids => match names_of(value).find(|part| raw_idmap::range(part).is_none()) {
                Some(part) => {
                    refuse(format!("{:?} is neither an id nor a range of ids such as 1000-1999", shortened(part)))
                }
                None => Ok(()),
            },
            Self::Paths => match names_of(value).find(|path| !path.starts_with('/')) {
                Some(path) => refuse(format!("{:?} must be an absolute path", shortened(path))),
                None => Ok(()),
            },
            Self::Subnets => match names_of(value).find(|part| !is_subnet(part)) {
                Some(part) => {
                    let part = shortened(part);
                    refuse(format!("{part:?} must be a network and a subnet, such as uplink:192.0.2.0/24"))
                }
                None => Ok(()),
            },
        }
    }

    /// As the documentation names it.
    pub fn shown(self) -> &'static str {
        match self {
            Self::Text
            | Self::Line
            | Self::Word(_)
            | Self::Allowance
            | Self::Rlimit
            | Self::Sysctl
            | Self::SnapshotPattern
            | Self::Uuid
            | Self::Compressor
            | Self::Proxy
            | Self::Header
            | Self::OfDevice => "string",
            Self::Idmap | Self::RawLxc | Self::RawSeccomp | Self::Syscalls | Self::PgpKey => "lines",
            Self::Schedule => "schedule",
            Self::Expiry => "lengths of time",
            Self::Modules | Self::FileSystems | Self::FusePrograms | Self::Addresses => "list",
            Self::Ids | Self::Paths | Self::Subnets | Self::Roles | Self::Hosts | Self::Tokens => "list",
            Self::Volume => "<pool>/<volume>",
            Self::Size => "size",
            Self::Part => "size or per cent",
            Self::Cpus => "number or set of processors",
            Self::Bool => "bool",
            Self::Int(..) => "integer",
        }
    }
}
