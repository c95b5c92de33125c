//! `nic`: `bridged` and `p2p`, each a veth pair that liblxc makes.

use std::collections::{BTreeMap, BTreeSet};

use super::{Error, Properties};
use crate::api::wire::Config;
use crate::names::{DeviceName, NetworkName};

/// How the host's end of the pair is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NicType {
    /// Into this bridge of the host.
    Bridged {
        /// The bridge's interface.
        parent: String,
    },
    /// Into this managed network.
    Network(NetworkName),
    /// Nowhere: the host's end is left to the administrator.
    P2p,
}

/// A nic as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// How it is connected.
    pub kind: NicType,
    /// Name inside, else the next free `ethN`.
    pub name: Option<String>,
    /// MAC address, else one that is made once and remembered.
    pub hwaddr: Option<String>,
    /// Bytes, else that of the bridge.
    pub mtu: Option<u32>,
    /// Name of the host's end, else a random one at each start.
    pub host_name: Option<String>,
}

fn interface_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Reads a MAC address; gives it back in lower case.
fn mac(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.split(':').collect();
    let hex = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    (parts.len() == 6 && parts.iter().all(hex)).then(|| text.to_ascii_lowercase())
}

pub(super) fn parse(mut properties: Properties<'_>) -> Result<Nic, Error> {
    let device = properties.device.to_string();
    let refuse = |property, value: &str, expected| Error::Value {
        device: device.clone(),
        property,
        value: value.to_owned(),
        expected,
    };
    let checked_name = |property, value: Option<&str>| match value {
        Some(text) if !interface_name(text) => {
            Err(refuse(property, text, "an interface's name has 1 to 15 letters, digits, '-', '_' or '.'"))
        }
        other => Ok(other.map(str::to_owned)),
    };
    let nictype = properties.take("nictype");
    let network = properties.take("network");
    let parent = checked_name("parent", properties.take("parent"))?;
    let kind = match (nictype, network) {
        (None | Some("bridged"), Some(network)) => {
            if let Some(parent) = parent {
                return Err(refuse("parent", &parent, "it cannot be set together with network="));
            }
            NicType::Network(
                NetworkName::new(network)
                    .map_err(|_| refuse("network", network, "it must be the name of a managed network"))?,
            )
        }
        (Some(other), Some(network)) => {
            return Err(refuse(
                "network",
                network,
                if other == "p2p" { "a p2p nic has no network" } else { "unknown nictype" },
            ));
        }
        (Some("bridged"), None) => NicType::Bridged {
            parent: parent.ok_or(Error::MissingProperty {
                device: device.clone(),
                property: "parent",
                hint: "name the bridge of the host, or use network= with a managed network",
            })?,
        },
        (Some("p2p"), None) => match parent {
            None => NicType::P2p,
            Some(parent) => return Err(refuse("parent", &parent, "a p2p nic has no parent")),
        },
        (Some(other), None) => {
            return Err(refuse("nictype", other, "supported by this version: bridged, p2p"));
        }
        (None, None) => {
            return Err(Error::MissingProperty {
                device: device.clone(),
                property: "nictype",
                hint: "set nictype= (bridged or p2p), or network= with a managed network",
            });
        }
    };
    let name = checked_name("name", properties.take("name"))?;
    let host_name = checked_name("host_name", properties.take("host_name"))?;
    let hwaddr = match properties.take("hwaddr") {
        None => None,
        Some(text) => {
            Some(mac(text).ok_or_else(|| refuse("hwaddr", text, "six pairs of hexadecimal digits and colons"))?)
        }
    };
    let mtu = match properties.take("mtu") {
        None => None,
        Some(text) => match text.parse() {
            Ok(mtu @ 68..=65535) => Some(mtu),
            Ok(_) | Err(_) => return Err(refuse("mtu", text, "a number of bytes from 68 to 65535")),
        },
    };
    properties.end()?;
    Ok(Nic { kind, name, hwaddr, mtu, host_name })
}

/// What is done for one nic at a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicPlan {
    /// The device.
    pub device: DeviceName,
    /// The bridge, if any.
    pub link: Option<String>,
    /// The managed network, if any.
    pub network: Option<NetworkName>,
    /// Name inside.
    pub name: String,
    /// MAC address.
    pub hwaddr: String,
    /// Name of the host's end.
    pub host_name: String,
    /// Bytes.
    pub mtu: Option<u32>,
}

impl NicPlan {
    /// The lines of lxc.conf, as the `index`th interface (lxc.container.conf(5), NETWORK).
    pub fn lxc_lines(&self, index: usize) -> Vec<(String, String)> {
        let line = |key: &str, value: &str| (format!("lxc.net.{index}.{key}"), value.to_owned());
        let mut lines = vec![line("type", "veth"), line("flags", "up"), line("name", &self.name)];
        if let Some(link) = &self.link {
            lines.push(line("link", link));
        }
        lines.push(line("hwaddr", &self.hwaddr));
        lines.push(line("veth.pair", &self.host_name));
        if let Some(mtu) = self.mtu {
            lines.push(line("mtu", &mtu.to_string()));
        }
        lines
    }

    /// What the instance remembers of it: `volatile.<device>.*` pairs.
    pub fn volatile(&self, nic: &Nic) -> Vec<(String, String)> {
        let pair = |key: &str, value: &str| (format!("volatile.{}.{key}", self.device), value.to_owned());
        let mut pairs = vec![pair("host_name", &self.host_name)];
        if nic.hwaddr.is_none() {
            pairs.push(pair("hwaddr", &self.hwaddr));
        }
        if nic.name.is_none() {
            pairs.push(pair("name", &self.name));
        }
        pairs
    }
}

/// Plans all nics of an instance. `random_mac` and `random_host_name` are asked only where nothing is configured or
/// remembered in `config` (`volatile.<device>.hwaddr`, `.name`).
///
/// # Errors
/// [`Error::SameInterface`] when two nics would have one name inside.
pub fn plan_nics(
    nics: &BTreeMap<DeviceName, Nic>,
    config: &Config,
    mut random_mac: impl FnMut() -> String,
    mut random_host_name: impl FnMut() -> String,
) -> Result<Vec<NicPlan>, Error> {
    let remembered = |device: &DeviceName, key: &str| config.get(&format!("volatile.{device}.{key}")).cloned();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for (device, nic) in nics {
        if let Some(name) = &nic.name
            && !taken.insert(name.clone())
        {
            return Err(Error::SameInterface { name: name.clone(), device: device.to_string() });
        }
    }
    let mut plans = Vec::with_capacity(nics.len());
    for (device, nic) in nics {
        let name = match &nic.name {
            Some(name) => name.clone(),
            None => remembered(device, "name").filter(|name| !taken.contains(name)).unwrap_or_else(|| {
                let free = (0..=nics.len()).map(|n| format!("eth{n}")).find(|name| !taken.contains(name));
                free.unwrap_or_else(|| device.to_string())
            }),
        };
        taken.insert(name.clone());
        let (link, network) = match &nic.kind {
            NicType::Bridged { parent } => (Some(parent.clone()), None),
            NicType::Network(network) => (Some(network.to_string()), Some(network.clone())),
            NicType::P2p => (None, None),
        };
        plans.push(NicPlan {
            device: device.clone(),
            link,
            network,
            name,
            hwaddr: nic.hwaddr.clone().or_else(|| remembered(device, "hwaddr")).unwrap_or_else(&mut random_mac),
            host_name: nic.host_name.clone().unwrap_or_else(&mut random_host_name),
            mtu: nic.mtu,
        });
    }
    Ok(plans)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(name: Option<&str>) -> Nic {
        Nic { kind: NicType::P2p, name: name.map(str::to_owned), hwaddr: None, mtu: None, host_name: None }
    }

    fn plan(nics: &[(&str, Nic)], config: &Config) -> Result<Vec<NicPlan>, Error> {
        let nics = nics.iter().map(|(n, nic)| (DeviceName::new(*n).unwrap(), nic.clone())).collect();
        plan_nics(&nics, config, || "00:16:3e:00:00:01".to_owned(), || "veth1".to_owned())
    }

    #[test]
    fn names_inside_are_the_next_free_ones() {
        let plans = plan(&[("a", nic(None)), ("b", nic(Some("eth0"))), ("c", nic(None))], &Config::new()).unwrap();
        let names: Vec<&str> = plans.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["eth1", "eth0", "eth2"]);
    }

    #[test]
    fn two_nics_of_one_name_are_refused() {
        let error = plan(&[("a", nic(Some("eth0"))), ("b", nic(Some("eth0")))], &Config::new()).unwrap_err();
        assert_eq!(error, Error::SameInterface { name: "eth0".to_owned(), device: "b".to_owned() });
    }

    #[test]
    fn what_is_remembered_is_used_again() {
        let config = [
            ("volatile.a.hwaddr".to_owned(), "00:16:3e:aa:bb:cc".to_owned()),
            ("volatile.a.name".to_owned(), "eth5".to_owned()),
        ]
        .into();
        let plans = plan(&[("a", nic(None))], &config).unwrap();
        assert_eq!((plans[0].hwaddr.as_str(), plans[0].name.as_str()), ("00:16:3e:aa:bb:cc", "eth5"));
    }

    #[test]
    fn lines_are_those_of_a_veth() {
        let plans = plan(&[("a", nic(None))], &Config::new()).unwrap();
        let lines = plans[0].lxc_lines(3);
        assert!(lines.contains(&("lxc.net.3.type".to_owned(), "veth".to_owned())));
        assert!(!lines.iter().any(|(key, _)| key.ends_with(".link")));
    }
}
