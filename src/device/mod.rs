//! Devices: a file per kind. A device returns a plan; it never calls back.
//!
//! [`Device::parse`] turns an expanded device's properties into a typed value, once; the kinds then give their plans for
//! the start. What a plan needs to be remembered (addresses, names) comes back as `volatile.*` pairs.

mod disk;
mod matched;
mod nic;
mod proxy;
mod unix;

use std::collections::BTreeMap;
use std::fmt;

use crate::api::wire::{Config, Devices};
use crate::names::{DeviceName, NameError, PoolName, VolumeName, shortened};

pub use disk::{Disk, Propagation, Rate, RootDisk, Source};
pub use matched::{Candidate, Class, Matched};
pub use nic::{FamilyRouting, Nic, NicPlan, NicType, Traffic, plan_nics};
pub use proxy::{Address, Protocol, Proxy};
pub use unix::Node;

/// Every type of device that [`Device::parse`] reads.
const TYPES: &str = "disk, gpu, nic, none, proxy, unix-block, unix-char, unix-hotplug, usb";

/// Why devices are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The device's name is no name.
    Name(NameError),
    /// No or unknown type.
    Type {
        /// The device.
        device: String,
        /// What `type` says.
        found: String,
    },
    /// A property that this kind does not have.
    UnknownProperty {
        /// The device.
        device: String,
        /// Its kind.
        kind: &'static str,
        /// The property.
        property: String,
    },
    /// A property that this kind needs.
    MissingProperty {
        /// The device.
        device: String,
        /// The property.
        property: &'static str,
        /// How to mend it.
        hint: &'static str,
    },
    /// A value that does not fit.
    Value {
        /// The device.
        device: String,
        /// The property.
        property: &'static str,
        /// The value.
        value: String,
        /// What would fit.
        expected: &'static str,
    },
    /// An instance without a root disk.
    NoRoot,
    /// Two root disks.
    TwoRoots {
        /// The first.
        first: String,
        /// The second.
        second: String,
    },
    /// Two devices at one path inside.
    SamePath {
        /// The path.
        path: String,
        /// The first.
        first: String,
        /// The second.
        second: String,
    },
    /// Two nics that would have the same name inside.
    SameInterface {
        /// The name.
        name: String,
        /// The second device.
        device: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => error.fmt(f),
            Self::Type { device, found } if found.is_empty() => {
                write!(f, "Device {device:?} has no \"type\"; known types: {TYPES}")
            }
            Self::Type { device, found } => {
                write!(f, "Device {device:?} has the unsupported type {:?}; known types: {TYPES}", shortened(found))
            }
            Self::UnknownProperty { device, kind, property } => {
                write!(f, "Device {device:?}: a {kind} has no property {:?}", shortened(property))
            }
            Self::MissingProperty { device, property, hint } => {
                write!(f, "Device {device:?} lacks the property {property:?}: {hint}")
            }
            Self::Value { device, property, value, expected } => {
                write!(f, "Device {device:?}: invalid value {:?} for {property:?}: {expected}", shortened(value))
            }
            Self::NoRoot => f.write_str(
                "No root device: the instance and its profiles have no disk with path=/; add one to a profile, e.g. \
                 \"lxc profile device add default root disk path=/ pool=<pool>\"",
            ),
            Self::TwoRoots { first, second } => {
                write!(f, "Devices {first:?} and {second:?} both have path=/; an instance has one root disk")
            }
            Self::SamePath { path, first, second } => {
                write!(
                    f,
                    "Devices {first:?} and {second:?} both have the path {:?}: give one of them another path=",
                    shortened(path)
                )
            }
            Self::SameInterface { name, device } => {
                write!(
                    f,
                    "Device {device:?} would be called {name:?} inside, which another nic has already; set its name="
                )
            }
        }
    }
}

impl std::error::Error for Error {}

/// A device, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// The root disk.
    Root(RootDisk),
    /// Another disk.
    Disk(Disk),
    /// A device node.
    Node(Node),
    /// Hardware that is known by what it is.
    Matched(Matched),
    /// A network interface.
    Nic(Nic),
    /// A proxy.
    Proxy(Box<Proxy>),
    /// Masks a device of a profile.
    None,
}

/// What is put into a container at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plug {
    /// Something of the host's files.
    Disk(Disk),
    /// A device node.
    Node(Node),
}

impl Plug {
    /// Where it lies inside.
    pub fn path(&self) -> &str {
        match self {
            Self::Disk(disk) => &disk.path,
            Self::Node(node) => &node.path,
        }
    }

    /// Whether the two differ in nothing but how fast they may be used, which can be changed in its place.
    pub fn same_mount(&self, other: &Self) -> bool {
        let without = |plug: &Self| match plug {
            Self::Disk(disk) => Self::Disk(Disk { read: None, write: None, ..disk.clone() }),
            Self::Node(node) => Self::Node(node.clone()),
        };
        without(self) == without(other)
    }
}

/// The properties of a device, taken out one by one; what is left over is unknown.
struct Properties<'a> {
    device: &'a DeviceName,
    kind: &'static str,
    left: BTreeMap<&'a str, &'a str>,
}

impl<'a> Properties<'a> {
    fn take(&mut self, property: &str) -> Option<&'a str> {
        self.left.remove(property).filter(|value| !value.is_empty())
    }

    /// A boolean, as LXD reads them.
    fn flag(&mut self, property: &'static str) -> Result<Option<bool>, Error> {
        let Some(text) = self.take(property) else { return Ok(None) };
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(Some(true)),
            "false" | "0" | "no" | "off" => Ok(Some(false)),
            _ => Err(Error::Value {
                device: self.device.to_string(),
                property,
                value: text.to_owned(),
                expected: "true or false",
            }),
        }
    }

    fn end(self) -> Result<(), Error> {
        match self.left.into_keys().next() {
            None => Ok(()),
            Some(property) => Err(Error::UnknownProperty {
                device: self.device.to_string(),
                kind: self.kind,
                property: property.to_owned(),
            }),
        }
    }
}

impl Device {
    /// Reads the properties of the device called `name`.
    ///
    /// # Errors
    /// With the first property that is unknown, missing or does not fit.
    pub fn parse(name: &DeviceName, properties: &Config) -> Result<Self, Error> {
        let mut left: BTreeMap<&str, &str> = properties.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        // Any device carries values of its owner's own; an empty property is none.
        left.retain(|property, value| !value.is_empty() && !property.starts_with("user."));
        let kind = left.remove("type").unwrap_or_default();
        let reader = |kind| Properties { device: name, kind, left };
        match kind {
            "disk" => disk::parse(reader("disk")).map(|disk| match disk {
                disk::AnyDisk::Root(root) => Self::Root(root),
                disk::AnyDisk::Other(disk) => Self::Disk(disk),
            }),
            "unix-char" => unix::parse(reader("unix-char"), false).map(Self::Node),
            "unix-block" => unix::parse(reader("unix-block"), true).map(Self::Node),
            "unix-hotplug" => matched::parse_hotplug(reader("unix-hotplug")).map(Self::Matched),
            "usb" => matched::parse_usb(reader("usb")).map(Self::Matched),
            "gpu" => matched::parse_gpu(reader("gpu")).map(Self::Matched),
            "nic" => nic::parse(reader("nic")).map(Self::Nic),
            "proxy" => proxy::parse(reader("proxy")).map(|proxy| Self::Proxy(Box::new(proxy))),
            "none" => reader("none").end().map(|()| Self::None),
            other => Err(Error::Type { device: name.to_string(), found: other.to_owned() }),
        }
    }
}

/// All devices of an expanded instance, parsed, those of type `none` left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// The root disk and its name. An instance can lose it for a while, as when its profiles are exchanged.
    pub root: Option<(DeviceName, RootDisk)>,
    /// The nics by name.
    pub nics: BTreeMap<DeviceName, Nic>,
    /// Disks and device nodes by name; no two at one path.
    pub plugs: BTreeMap<DeviceName, Plug>,
    /// Hardware that is known by what it is, by name.
    pub matched: BTreeMap<DeviceName, Matched>,
    /// Proxies by name.
    pub proxies: BTreeMap<DeviceName, Proxy>,
}

impl Set {
    /// Parses the devices of an instance.
    ///
    /// # Errors
    /// With the first device that does not fit, or when there is a second root disk.
    pub fn parse(devices: &Devices) -> Result<Self, Error> {
        let mut root: Option<(DeviceName, RootDisk)> = None;
        let mut nics = BTreeMap::new();
        let mut plugs: BTreeMap<DeviceName, Plug> = BTreeMap::new();
        let mut matched = BTreeMap::new();
        let mut proxies = BTreeMap::new();
        for (name, properties) in devices {
            let name = DeviceName::new(name.clone()).map_err(Error::Name)?;
            let plug = match Device::parse(&name, properties)? {
                Device::Disk(disk) => Plug::Disk(disk),
                Device::Node(node) => Plug::Node(node),
                Device::Root(disk) => {
                    if let Some((first, _)) = &root {
                        return Err(Error::TwoRoots { first: first.to_string(), second: name.to_string() });
                    }
                    root = Some((name, disk));
                    continue;
                }
                Device::Nic(nic) => {
                    nics.insert(name, nic);
                    continue;
                }
                Device::Matched(hardware) => {
                    matched.insert(name, hardware);
                    continue;
                }
                Device::Proxy(proxy) => {
                    proxies.insert(name, *proxy);
                    continue;
                }
                Device::None => continue,
            };
            if let Some((first, _)) = plugs.iter().find(|(_, other)| other.path() == plug.path()) {
                return Err(Error::SamePath {
                    path: plug.path().to_owned(),
                    first: first.to_string(),
                    second: name.to_string(),
                });
            }
            plugs.insert(name, plug);
        }
        Ok(Self { root, nics, plugs, matched, proxies })
    }

    /// The root disk, without which an instance can neither be made nor started.
    ///
    /// # Errors
    /// [`Error::NoRoot`].
    pub fn root(&self) -> Result<&RootDisk, Error> {
        self.root.as_ref().map(|(_, disk)| disk).ok_or(Error::NoRoot)
    }
}

/// Checks the devices of a profile or of an instance on their own: each must parse, but a root disk may be missing.
///
/// # Errors
/// As [`Set::parse`].
pub fn validate(devices: &Devices) -> Result<(), Error> {
    Set::parse(devices).map(drop)
}

/// Whether a device can be put into a running container, taken out of it, and changed there.
pub fn is_live(properties: &Config) -> bool {
    match properties.get("type").map(String::as_str) {
        Some("disk") => properties.get("path").is_some_and(|path| path != "/"),
        Some("nic" | "unix-char" | "unix-block" | "proxy" | "none") => true,
        Some(_) | None => is_matched(properties),
    }
}

/// Whether a device stands for hardware that is known by what it is.
pub fn is_matched(properties: &Config) -> bool {
    matches!(properties.get("type").map(String::as_str), Some("usb" | "gpu" | "unix-hotplug"))
}

/// The custom volumes that the disks among `devices` name, with their pools.
pub fn volumes(devices: &Devices) -> impl Iterator<Item = (PoolName, VolumeName)> {
    devices.values().filter_map(volume_of)
}

/// The custom volume that a disk names, with its pool.
pub fn volume_of(device: &Config) -> Option<(PoolName, VolumeName)> {
    if device.get("type").is_none_or(|kind| kind != "disk") || device.get("path").is_some_and(|path| path == "/") {
        return None;
    }
    let name = device.get("source")?.split('/').next().unwrap_or_default();
    Some((PoolName::new(device.get("pool")?.clone()).ok()?, VolumeName::new(name).ok()?))
}

/// The pools that the root disks among `devices` name.
pub fn pools(devices: &Devices) -> Vec<PoolName> {
    devices
        .values()
        .filter(|device| device.get("type").is_some_and(|t| t == "disk") && volume_of(device).is_none())
        .filter_map(|device| device.get("pool").and_then(|pool| PoolName::new(pool.clone()).ok()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn devices(list: &[(&str, &[(&str, &str)])]) -> Devices {
        list.iter().map(|(name, pairs)| ((*name).to_owned(), device(pairs))).collect()
    }

    const ROOT: (&str, &[(&str, &str)]) = ("root", &[("type", "disk"), ("path", "/"), ("pool", "default")]);

    #[test]
    fn an_instance_has_at_most_one_root() {
        assert_eq!(Set::parse(&Devices::new()).unwrap().root(), Err(Error::NoRoot));
        assert!(Set::parse(&devices(&[ROOT])).is_ok());
        let two = devices(&[ROOT, ("zoot", ROOT.1)]);
        assert!(matches!(Set::parse(&two), Err(Error::TwoRoots { .. })));
        assert!(validate(&Devices::new()).is_ok());
    }

    #[test]
    fn a_masked_device_is_gone() {
        let set = Set::parse(&devices(&[ROOT, ("eth0", &[("type", "none")])])).unwrap();
        assert!(set.nics.is_empty());
    }

    #[test]
    fn a_path_is_used_once() {
        let disk = [("type", "disk"), ("path", "/a/"), ("source", "/x")];
        let node = [("type", "unix-char"), ("path", "//a"), ("source", "/dev/null")];
        let error = Set::parse(&devices(&[("one", &disk), ("two", &node)])).unwrap_err();
        assert!(matches!(&error, Error::SamePath { path, .. } if path == "/a"), "{error}");
    }

    #[test]
    fn optional_is_the_inverse_of_required() {
        let required = |pairs: &[(&str, &str)]| {
            let mut all = vec![("type", "disk"), ("path", "/a"), ("source", "/x")];
            all.extend(pairs);
            match Device::parse(&DeviceName::new("dev").unwrap(), &device(&all)) {
                Ok(Device::Disk(disk)) => Some(disk.required),
                _ => None,
            }
        };
        assert_eq!(required(&[]), Some(true));
        assert_eq!(required(&[("optional", "true")]), Some(false));
        assert_eq!(required(&[("required", "no")]), Some(false));
        assert_eq!(required(&[("required", "no"), ("optional", "true")]), None);
    }

    #[test]
    fn refusals_name_device_and_property() {
        for (pairs, wanted) in [
            (vec![("type", "nic"), ("nictype", "bridged"), ("parent", "br0"), ("colour", "red")], "\"colour\""),
            (vec![("type", "nic"), ("nictype", "bridged")], "\"parent\""),
            (vec![("type", "nic")], "\"nictype\""),
            (vec![("type", "nic"), ("nictype", "token-ring")], "\"token-ring\""),
            (vec![("type", "nic"), ("nictype", "p2p"), ("mtu", "big")], "\"mtu\""),
            (vec![("type", "nic"), ("nictype", "p2p"), ("hwaddr", "zz")], "\"hwaddr\""),
            (vec![("type", "nic"), ("nictype", "p2p"), ("name", "a/b")], "\"name\""),
            (vec![("type", "tpm")], "\"tpm\""),
            (vec![("type", "usb"), ("vendorid", "12g4")], "\"vendorid\""),
            (vec![("type", "usb"), ("vendorid", "12AB")], "\"vendorid\""),
            (vec![("type", "usb"), ("productid", "0x12")], "\"productid\""),
            (vec![("type", "usb"), ("required", "so")], "\"required\""),
            (vec![("type", "usb"), ("pci", "0000:01:00.0")], "\"pci\""),
            (vec![("type", "gpu"), ("gputype", "mdev")], "\"gputype\""),
            (vec![("type", "gpu"), ("gputype", "mig")], "\"gputype\""),
            (vec![("type", "gpu"), ("gputype", "sriov")], "\"gputype\""),
            (vec![("type", "gpu"), ("pci", "1:2")], "\"pci\""),
            (vec![("type", "gpu"), ("pci", "01:00.0"), ("id", "0")], "\"pci\""),
            (vec![("type", "gpu"), ("id", "0"), ("vendorid", "10de")], "\"id\""),
            (vec![("type", "gpu"), ("id", "-1")], "\"id\""),
            (vec![("type", "gpu"), ("mode", "8")], "\"mode\""),
            (vec![("type", "gpu"), ("required", "false")], "\"required\""),
            (vec![("type", "unix-hotplug"), ("vendorid", "1234"), ("uid", "x")], "\"uid\""),
            (vec![], "\"type\""),
            (vec![("type", "disk")], "\"path\""),
            (vec![("type", "disk"), ("path", "/"), ("pool", "")], "\"pool\""),
            (vec![("type", "disk"), ("path", "/a")], "\"source\""),
            (vec![("type", "disk"), ("path", "/a"), ("source", "x")], "\"source\""),
            (vec![("type", "disk"), ("path", "/a/../b"), ("source", "/x")], "\"path\""),
            (vec![("type", "disk"), ("path", "/a"), ("source", "/x"), ("readonly", "so")], "\"readonly\""),
            (vec![("type", "disk"), ("path", "/a"), ("source", "/x"), ("propagation", "x")], "\"propagation\""),
            (vec![("type", "disk"), ("path", "/a"), ("source", "v"), ("pool", "p/q")], "\"pool\""),
            (vec![("type", "disk"), ("path", "/a"), ("source", "/v"), ("pool", "p")], "\"source\""),
            (vec![("type", "disk"), ("path", "/a"), ("source", "v/../w"), ("pool", "p")], "\"source\""),
            (vec![("type", "disk"), ("path", "/a"), ("pool", "p")], "\"source\""),
            (vec![("type", "disk"), ("path", "/a"), ("source", "v"), ("pool", "p"), ("shift", "true")], "\"shift\""),
            (vec![("type", "disk"), ("source", "v"), ("pool", "p")], "\"path\""),
            (vec![("type", "disk"), ("path", "/a"), ("source", "/x"), ("size", "1GB")], "\"size\""),
            (vec![("type", "disk"), ("path", "/"), ("pool", "p"), ("size", "much")], "\"size\""),
            (vec![("type", "disk"), ("path", "/"), ("pool", "p"), ("size.state", "abc")], "\"size.state\""),
            (vec![("type", "disk"), ("path", "/a"), ("source", "/x"), ("limits.read", "fast")], "\"limits.read\""),
            (vec![("type", "disk"), ("path", "/a"), ("source", "/x"), ("color", "red")], "\"color\""),
            (vec![("type", "unix-char")], "\"path\""),
            (vec![("type", "unix-char"), ("path", "/dev/x"), ("major", "1")], "\"minor\""),
            (vec![("type", "unix-char"), ("path", "/dev/x"), ("mode", "999")], "\"mode\""),
            (vec![("type", "unix-block"), ("path", "/dev/x"), ("uid", "-1")], "\"uid\""),
            (vec![("type", "unix-block"), ("path", "/dev/x"), ("readonly", "true")], "\"readonly\""),
            (vec![("type", "unix-hotplug")], "\"vendorid\""),
            (vec![("type", "unix-hotplug"), ("vendorid", "12345")], "\"vendorid\""),
        ] {
            let name = DeviceName::new("dev").unwrap();
            let error = Device::parse(&name, &device(&pairs)).unwrap_err().to_string();
            assert!(error.contains("\"dev\"") && error.contains(wanted), "{error}");
        }
    }
}
