//! Networks of the kinds `macvlan` and `physical`: an interface of the host that nics lie on, or are. Nothing of them is on
//! the host until a nic is.

use super::spec::{BOOLEAN, Key, Values, is_bool, is_mtu, key};
use super::{BridgeSpec, Error};
use crate::api::wire::Config;
use crate::names::NetworkName;
use crate::names::is_interface;

/// Every key of these, besides `user.*`.
#[rustfmt::skip]
pub const UPLINK_KEYS: &[Key] = &[
    key("gvrp", "false", "false, as GVRP is not spoken by this version", |v| is_bool(v) && super::spec::parse_bool(v) == Some(false), "Whether to register the VLAN by GVRP; not spoken"),
    key("mtu", "that of the parent", "a number of bytes from 1280 to 16384", is_mtu, "Largest packet of the nics"),
    key("parent", "none; has to be set", "the name of an interface of the host", is_interface, "Interface of the host that nics lie on (macvlan) or are (physical)"),
    key("vlan", "none", "a number from 1 to 4094", |v| v.parse().is_ok_and(|id: u16| (1..=4094).contains(&id)), "VLAN of the parent"),
    key("volatile.last_state.created", "", BOOLEAN, is_bool, "Whether the parent was made by the daemon"),
];

/// What managed networks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkKind {
    /// A bridge of ours.
    Bridge,
    /// An interface of the host that nics lie on.
    Macvlan,
    /// An interface of the host that a nic becomes.
    Physical,
}

impl NetworkKind {
    /// From the word of the API; an empty one is a bridge.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        match text {
            "" | "bridge" => Ok(Self::Bridge),
            "macvlan" => Ok(Self::Macvlan),
            "physical" => Ok(Self::Physical),
            other => Err(Error::Invalid {
                reason: format!(
                    "The network type {other:?} is not supported by this version: use bridge, macvlan or physical"
                ),
            }),
        }
    }

    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Macvlan => "macvlan",
            Self::Physical => "physical",
        }
    }
}

/// A network on an interface of the host, as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkSpec {
    /// The network.
    pub name: NetworkName,
    /// `true`: nics are the interface itself.
    pub physical: bool,
    /// The interface.
    pub parent: String,
    /// Its VLAN.
    pub vlan: Option<u16>,
    /// Bytes; none: as the parent.
    pub mtu: Option<u32>,
}

/// A managed network of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// A bridge.
    Bridge(Box<BridgeSpec>),
    /// Macvlan and physical.
    Uplink(UplinkSpec),
}

impl Spec {
    /// Checks `config` and gives it types.
    ///
    /// # Errors
    /// [`Error::UnknownKey`], [`Error::Value`], [`Error::Invalid`].
    pub fn parse(kind: NetworkKind, name: &NetworkName, config: &Config) -> Result<Self, Error> {
        if kind == NetworkKind::Bridge {
            return Ok(Self::Bridge(Box::new(BridgeSpec::parse(name, config)?)));
        }
        let values = Values { network: name, config };
        values.check(UPLINK_KEYS)?;
        let parent = values.get("parent").ok_or_else(|| Error::Invalid {
            reason: format!(
                "Invalid value for network \"{name}\" option \"parent\": required value: name an interface of the host"
            ),
        })?;
        Ok(Self::Uplink(UplinkSpec {
            name: name.clone(),
            physical: kind == NetworkKind::Physical,
            parent: parent.to_owned(),
            vlan: values.parsed("vlan"),
            mtu: values.parsed("mtu"),
        }))
    }

    /// It, if it is a bridge.
    pub fn bridge(&self) -> Option<&BridgeSpec> {
        match self {
            Self::Bridge(spec) => Some(spec),
            Self::Uplink(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: &str, pairs: &[(&str, &str)]) -> Result<Spec, Error> {
        let config = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Spec::parse(NetworkKind::parse(kind)?, &NetworkName::new("up0").unwrap(), &config)
    }

    #[test]
    fn uplinks_need_a_parent_and_take_no_keys_of_bridges() {
        let spec = parse("macvlan", &[("parent", "eth0"), ("vlan", "7"), ("mtu", "1400"), ("user.x", "y")]).unwrap();
        let wanted = UplinkSpec {
            name: NetworkName::new("up0").unwrap(),
            physical: false,
            parent: "eth0".to_owned(),
            vlan: Some(7),
            mtu: Some(1400),
        };
        assert_eq!(spec, Spec::Uplink(wanted));
        for (kind, pairs, wanted) in [
            ("physical", &[][..], "option \"parent\": required"),
            ("physical", &[("parent", "a/b")], "option \"parent\""),
            ("macvlan", &[("parent", "eth0"), ("ipv4.address", "10.0.0.1/24")], "option \"ipv4.address\""),
            ("macvlan", &[("parent", "eth0"), ("vlan", "4095")], "option \"vlan\""),
            ("macvlan", &[("parent", "eth0"), ("gvrp", "true")], "GVRP"),
            ("ovn", &[("parent", "eth0")], "\"ovn\" is not supported"),
        ] {
            let text = parse(kind, pairs).unwrap_err().to_string();
            assert!(text.contains(wanted), "{text}");
        }
        assert!(UPLINK_KEYS.is_sorted_by_key(|key| key.name));
    }
}
