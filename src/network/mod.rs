//! Managed bridges: addresses, DHCP and DNS by dnsmasq, NAT and filtering by nftables, leases; and what the network of
//! a running instance or of the host looks like now.
//!
//! A bridge outlives the daemon, and so does its dnsmasq: [`Manager::up`] finds what is there and changes only what
//! differs. Everything a network made on the host goes with [`Manager::down`].

mod acl;
mod auto;
mod dnsmasq;
mod error;
mod external;
mod firewall;
mod follow;
mod forward;
mod forwards;
mod host;
mod leases;
mod manager;
mod net;
mod nft;
pub mod nic;
mod overlap;
mod random;
mod reference;
mod release;
mod ruleset;
mod spec;
pub mod state;
mod sysctl;
mod tool;
mod traffic;
mod uplink;

pub use acl::{Direction, check_rules};
pub use auto::{fill_auto, fill_new};
pub use error::Error;
pub use external::check_external;
pub use forward::{Forward, apply_forward, remove_forward};
pub use forwards::{PortForward, listen_address};
pub use host::{HostInterface, host_interface, host_interfaces, interface_exists};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use leases::fuzz as fuzz_leases;
pub use leases::{Lease, LeaseKind};
pub use manager::{Host, Manager, Up};
pub use net::{Net4, Net6};
pub use overlap::{Overlap, overlaps};
pub use random::{random_mac, random_veth};
pub use reference::keys_json;
pub use spec::{BridgeSpec, Dns, DnsMode, Ipv4, Ipv6, KEYS, Key, acl_names};
pub use uplink::{NetworkKind, Spec, UPLINK_KEYS, UplinkSpec};
