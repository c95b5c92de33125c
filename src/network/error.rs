//! What can go wrong with a network.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::names::{NameError, NetworkName};
use crate::sys::netlink;

/// Why something about a network failed. Every text names the network and what to do.
#[derive(Debug)]
pub enum Error {
    /// A key that no bridge has.
    UnknownKey {
        /// The network.
        network: NetworkName,
        /// The key.
        key: String,
    },
    /// A value that its key does not take.
    Value {
        /// The network.
        network: NetworkName,
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// What is right.
        rule: &'static str,
    },
    /// Something else about a network, a forward or an access control list is not as it has to be.
    Invalid {
        /// What, why, and the way out.
        reason: String,
    },
    /// Every private IPv4 network that was tried is in use.
    NoFreeSubnet,
    /// An interface of this name is not a bridge.
    NotABridge {
        /// The network.
        network: NetworkName,
        /// What the interface is.
        kind: String,
    },
    /// There is no interface of this name.
    NoInterface {
        /// The name.
        name: String,
    },
    /// The name of a host or its device is not fit for a file.
    Name(NameError),
    /// A program that is needed is not installed.
    Missing {
        /// The program.
        program: &'static str,
        /// The package that has it.
        package: &'static str,
        /// What it was needed for.
        network: NetworkName,
    },
    /// A program could not be run.
    Spawn {
        /// The program.
        program: &'static str,
        /// The network.
        network: NetworkName,
        /// Why.
        source: io::Error,
    },
    /// dnsmasq refused its configuration or could not start.
    Dnsmasq {
        /// The network.
        network: NetworkName,
        /// Its exit status; `None` when a signal ended it.
        status: Option<i32>,
        /// What it said.
        message: String,
    },
    /// A dnsmasq of ours does not end.
    DnsmasqStuck {
        /// The network.
        network: NetworkName,
        /// Its process.
        pid: i32,
    },
    /// nft refused the rules.
    Nft {
        /// The network.
        network: NetworkName,
        /// What it said.
        message: String,
    },
    /// The kernel refused a change of interfaces or addresses.
    Netlink {
        /// The network or interface.
        network: String,
        /// Why.
        source: netlink::Error,
    },
    /// A file could not be read or written.
    File {
        /// What was done: "read", "write", …
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The process whose network was asked for is gone.
    NoProcess {
        /// The process.
        pid: i32,
    },
    /// A nic cannot be had as it is configured; the reason names what is in the way.
    Nic {
        /// Why, with the way out.
        reason: String,
    },
    /// The system gave no random numbers.
    Random,
    /// The daemon is ending.
    Interrupted,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nic { reason } | Self::Invalid { reason } => f.write_str(reason),
            // The beginnings of these two are LXD's own words.
            Self::UnknownKey { network, key } => {
                write!(f, "Invalid option for network \"{network}\" option \"{key}\"")
            }
            Self::Value { network, key, value, rule } => {
                write!(f, "Invalid value for network \"{network}\" option \"{key}\": {value:?} is not {rule}")
            }
            Self::NoFreeSubnet => {
                write!(
                    f,
                    "No unused private IPv4 subnet found on this host: set ipv4.address to a free one, or to none"
                )
            }
            Self::NotABridge { network, kind } => write!(
                f,
                "Network \"{network}\" cannot use the interface of its name: it is a {kind}, not a bridge; choose another name"
            ),
            Self::NoInterface { name } => write!(f, "Network interface \"{name}\" not found"),
            Self::Name(error) => error.fmt(f),
            Self::Missing { program, package, network } => write!(
                f,
                "Network \"{network}\" needs the program {program}, which is not installed: install the package {package}"
            ),
            Self::Spawn { program, network, source } => {
                write!(f, "Failed to run {program} for network \"{network}\": {source}")
            }
            Self::Dnsmasq { network, status, message } => {
                write!(f, "The DNS and DHCP service of network \"{network}\" did not start: ")?;
                match status {
                    Some(status) => write!(f, "exit status {status} ({message:?})"),
                    None => write!(f, "ended by a signal ({message:?})"),
                }?;
                if message.contains("Address already in use") {
                    f.write_str(
                        ": another program answers there, or on all addresses of the host (named, unbound, dnsmasq); \
                         `ss -lnup sport = :53` names it: bind that to its own addresses, or choose another address here",
                    )?;
                }
                Ok(())
            }
            Self::DnsmasqStuck { network, pid } => write!(
                f,
                "The DNS and DHCP service of network \"{network}\" (process {pid}) does not end even when killed; see its kernel stack in /proc/{pid}/stack"
            ),
            Self::Nft { network, message } => write!(
                f,
                "Failed to set the firewall rules of network \"{network}\": nft says {message:?}; set ipv4.firewall, ipv6.firewall, ipv4.nat and ipv6.nat to false to do without"
            ),
            Self::Netlink { network, source } => write!(f, "Network \"{network}\": {source}"),
            Self::File { operation, path, source } => write!(f, "Failed to {operation} {}: {source}", path.display()),
            Self::NoProcess { pid } => write!(f, "Process {pid} is gone"),
            Self::Random => write!(f, "The system's random number generator failed"),
            Self::Interrupted => write!(f, "The work on the network was cut off by the end of the daemon"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Spawn { source, .. } | Self::File { source, .. } => Some(source),
            Self::Netlink { source, .. } => Some(source),
            Self::Name(source) => Some(source),
            Self::UnknownKey { .. }
            | Self::Value { .. }
            | Self::Invalid { .. }
            | Self::NoFreeSubnet
            | Self::NotABridge { .. }
            | Self::NoInterface { .. }
            | Self::Missing { .. }
            | Self::Dnsmasq { .. }
            | Self::DnsmasqStuck { .. }
            | Self::Nft { .. }
            | Self::NoProcess { .. }
            | Self::Nic { .. }
            | Self::Random
            | Self::Interrupted => None,
        }
    }
}

impl From<NameError> for Error {
    fn from(error: NameError) -> Self {
        Self::Name(error)
    }
}
