//! Network cards: interfaces of `/sys/class/net` that have a device, and PCI devices of class 02 without one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::gpu::{gather, virtual_functions};
use super::names::Names;
use super::tree::Tree;
use super::{ethtool, pci};
use crate::api::wire::resources::{Network, NetworkCard, NetworkPort};

/// Base class of network controllers (PCI Code and ID Assignment Specification).
const NETWORK: u64 = 0x02;
const INTERFACES: &str = "sys/class/net";

fn port(tree: &Tree, id: String) -> NetworkPort {
    let dir = Path::new(INTERFACES).join(&id);
    // Hardware types of <linux/if_arp.h>.
    let protocol = match tree.text(dir.join("type")).as_str() {
        "1" => "ethernet",
        "32" => "infiniband",
        "24" => "ieee1394",
        _ => "",
    };
    let link = if tree.is_live() { ethtool::link(&id) } else { None }.unwrap_or_default();
    let speed = tree.number::<i64>(dir.join("speed")).and_then(|speed| u64::try_from(speed).ok()).unwrap_or(0);
    let up = tree.flag(dir.join("carrier"));
    NetworkPort {
        address: tree.text(dir.join("address")),
        port: tree.number(dir.join("dev_port")).unwrap_or(0),
        protocol: protocol.to_owned(),
        supported_modes: link.modes,
        supported_ports: link.ports,
        port_type: link.port.to_owned(),
        transceiver_type: link.transceiver.to_owned(),
        auto_negotiation: link.auto_negotiation,
        link_detected: up,
        // Both mean something only while there is another end.
        link_speed: if up { speed } else { 0 },
        link_duplex: if up { link.duplex.to_owned() } else { String::new() },
        id,
    }
}

fn card(tree: &Tree, device: &Path, names: &Names) -> NetworkCard {
    let place = tree.place(device);
    let (vendor, product) = names.of(&place.vendor_id, &place.product_id);
    NetworkCard {
        driver: place.driver,
        driver_version: place.driver_version,
        numa_node: place.numa_node,
        pci_address: place.pci_address,
        vendor,
        vendor_id: place.vendor_id,
        product,
        product_id: place.product_id,
        usb_address: place.usb_address,
        ..NetworkCard::default()
    }
}

pub(super) fn read(tree: &Tree, names: &Names) -> Network {
    let mut devices: BTreeMap<PathBuf, NetworkCard> = BTreeMap::new();
    for name in tree.entries(INTERFACES) {
        let dir = Path::new(INTERFACES).join(&name).join("device");
        let Some(real) = tree.real(&dir) else { continue };
        let card = devices.entry(real).or_insert_with(|| card(tree, &dir, names));
        if card.firmware_version.is_empty() && tree.is_live() {
            card.firmware_version = ethtool::firmware(&name).unwrap_or_default();
        }
        card.ports.push(port(tree, name));
    }
    let known: Vec<String> = devices.values().map(|card| card.pci_address.clone()).collect();
    for (address, dir) in pci::devices(tree) {
        if pci::class(tree, &dir) >> 8 == NETWORK
            && !known.contains(&address)
            && let Some(real) = tree.real(&dir)
        {
            devices.insert(real, card(tree, &dir, names));
        }
    }
    let total = u64::try_from(devices.len()).unwrap_or(0);
    let functions = virtual_functions(tree, devices.keys());
    let cards = gather(devices, &functions, |card, sriov| card.sriov = Some(sriov));
    Network { cards, total }
}
