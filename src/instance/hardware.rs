//! Hardware that is known by what it is (`usb`, `gpu`, `unix-hotplug`): as the device nodes that stand for it now.
//!
//! ```text
//!   declared devices ── resolve, with what the host has ──> device nodes by their numbers ── as any other ──> container
//! ```

use std::collections::BTreeSet;

use super::blocking;
use super::error::Error;
use super::plug::refuse;
use crate::api::wire::{Config, Devices};
use crate::config;
use crate::device::{Candidate, Class, Set};
use crate::names::DeviceName;
use crate::sys::hardware::nodes;

/// The property of a node that says which device it stands for. Not ours to check: parsers leave `user.*` alone.
const OF: &str = "user.of";

/// Devices, and what could not be found for them.
pub(super) struct Resolved {
    /// All of them, hardware as nodes.
    pub(super) devices: Devices,
    /// Those that must be there and are not, with the reason.
    missing: Vec<(DeviceName, String)>,
}

impl Resolved {
    /// Refuses what is missing, if it concerns one of those.
    ///
    /// # Errors
    /// [`Error::Plug`].
    pub(super) fn complete(&self, concerns: impl Fn(&str) -> bool) -> Result<(), Error> {
        match self.missing.iter().find(|(device, _)| concerns(device.as_str())) {
            Some((device, reason)) => Err(refuse(device, reason.clone())),
            None => Ok(()),
        }
    }
}

/// Whether a node stands for hardware.
pub(super) fn is_of_hardware(node: &Config) -> bool {
    node.contains_key(OF)
}

/// Whether a node stands for the device.
pub(super) fn stands_for(node: &Config, device: &DeviceName) -> bool {
    node.get(OF).is_some_and(|of| of == device.as_str())
}

/// A name for a node: that of its device, as far as it fits, and the numbers.
fn node_name(device: &DeviceName, node: &nodes::Node) -> String {
    let mut whole = device.to_string();
    // With 16 more characters at most it is still a name.
    while whole.len() > 48 {
        whole.pop();
    }
    let letter = if node.block { 'b' } else { 'c' };
    format!("{whole}.{letter}{}-{}", node.numbers.0, node.numbers.1)
}

fn class(class: nodes::Class) -> Class {
    match class {
        nodes::Class::Usb { hub } => Class::Usb { hub },
        nodes::Class::UsbNode => Class::UsbNode,
        nodes::Class::Gpu { card } => Class::Gpu { card },
    }
}

/// Whether all cards of NVIDIA's driver share this node: `/dev/nvidia0` is a card's own.
fn is_of_driver(node: &nodes::Node) -> bool {
    node.path.strip_prefix("/dev/nvidia").is_some_and(|rest| rest.contains(|c: char| !c.is_ascii_digit()))
}

fn resolve_with(declared: &Devices, found: &[nodes::Device], driver_inside: bool) -> Result<Resolved, Error> {
    let set = Set::parse(declared)?;
    let mut devices = declared.clone();
    let mut missing = Vec::new();
    // One node is one place: who asks by its path has it before who asks for a kind.
    let mut taken: BTreeSet<String> = set.plugs.values().map(|plug| plug.path().to_owned()).collect();
    for name in set.matched.keys() {
        devices.remove(name.as_str());
    }
    for (name, matched) in &set.matched {
        let fits = found.iter().filter(|device| {
            matched.fits(&Candidate {
                class: class(device.class),
                vendor: &device.vendor,
                product: &device.product,
                pci: &device.pci,
            })
        });
        let mut any = false;
        for node in fits.flat_map(|device| &device.nodes) {
            any = true;
            let key = node_name(name, node);
            if (driver_inside && is_of_driver(node)) || devices.contains_key(&key) || !taken.insert(node.path.clone()) {
                continue;
            }
            let mut properties = matched.node(node.block, &node.path, node.numbers);
            properties.insert(OF.to_owned(), name.to_string());
            devices.insert(key, properties);
        }
        if !any && matched.required {
            missing.push((name.clone(), matched.absent()));
        }
    }
    Ok(Resolved { devices, missing })
}

/// Replaces hardware among `declared`, devices of an instance with this configuration, by the nodes that stand for it now.
///
/// # Errors
/// With the first device that does not parse.
pub(super) async fn resolve(declared: &Devices, config: &Config) -> Result<Resolved, Error> {
    let declared = declared.clone();
    // liblxc's hook mounts what the driver has for all cards by itself.
    let driver_inside = config::bool_of(config, "nvidia.runtime");
    blocking(move || {
        let any = declared.values().any(crate::device::is_matched);
        resolve_with(&declared, &if any { nodes::devices() } else { Vec::new() }, driver_inside)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_driver_shares_is_left_to_the_hook_that_mounts_it() {
        let node =
            |minor: u32, name: &str| nodes::Node { block: false, path: format!("/dev/{name}"), numbers: (195, minor) };
        let card = nodes::Device {
            class: nodes::Class::Gpu { card: Some(0) },
            vendor: "10de".to_owned(),
            product: "1db4".to_owned(),
            pci: "0000:01:00.0".to_owned(),
            nodes: vec![node(0, "nvidia0"), node(255, "nvidiactl"), node(254, "nvidia-modeset")],
        };
        let declared: Devices = [("g".to_owned(), [("type".to_owned(), "gpu".to_owned())].into())].into();
        let paths = |inside| -> Vec<String> {
            let resolved = resolve_with(&declared, std::slice::from_ref(&card), inside).unwrap();
            resolved.devices.values().map(|device| device["path"].clone()).collect()
        };
        assert_eq!(paths(true), ["/dev/nvidia0"]);
        assert_eq!(paths(false).len(), 3);
    }
}
