//! Device nodes of hardware that containers may be given: USB devices, what drivers made of them, graphics cards.

use std::path::{Component, Path};

use rustix::fs::FileType;

use super::gpu;
use super::tree::Tree;

const USB: &str = "sys/bus/usb/devices";
/// Class of hubs (USB-IF, "Defined Class Codes").
const HUB: u64 = 0x09;

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// On the USB, by its node there.
    Usb {
        /// It is a hub.
        hub: bool,
    },
    /// A node that a driver made for a USB device.
    UsbNode,
    /// A graphics card.
    Gpu {
        /// Its number.
        card: Option<u32>,
    },
}

/// A device node, as the kernel names and numbers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// A block device; else a character device.
    pub block: bool,
    /// Below `/dev`.
    pub path: String,
    /// Major and minor.
    pub numbers: (u32, u32),
}

/// A device with at least one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// What it is.
    pub class: Class,
    /// Vendor, hexadecimal digits.
    pub vendor: String,
    /// Product, hexadecimal digits.
    pub product: String,
    /// Its address on the PCI bus; empty: none.
    pub pci: String,
    /// Its nodes.
    pub nodes: Vec<Node>,
}

/// `189:5`.
fn numbers(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn character(tree: &Tree, dir: &Path, path: String) -> Option<Node> {
    Some(Node { block: false, path, numbers: numbers(&tree.text(dir.join("dev")))? })
}

fn usb(tree: &Tree) -> Vec<Device> {
    let read = |name: String| {
        let dir = Path::new(USB).join(name);
        let (bus, number) = (tree.number::<u32>(dir.join("busnum"))?, tree.number::<u32>(dir.join("devnum"))?);
        let node = character(tree, &dir, format!("/dev/bus/usb/{bus:03}/{number:03}"))?;
        Some(Device {
            class: Class::Usb { hub: tree.hexadecimal(dir.join("bDeviceClass")) == Some(HUB) },
            vendor: tree.text(dir.join("idVendor")),
            product: tree.text(dir.join("idProduct")),
            pci: String::new(),
            nodes: vec![node],
        })
    };
    // `1-2:1.0` is an interface of `1-2`.
    tree.entries(USB).into_iter().filter(|name| !name.contains(':')).filter_map(read).collect()
}

/// The path of the node of the device at `dir`, as devtmpfs has it.
fn node_path(tree: &Tree, dir: &Path) -> Option<String> {
    let text = tree.text(dir.join("uevent"));
    let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
    let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    (plain && !name.is_empty()).then(|| format!("/dev/{name}"))
}

fn usb_nodes(tree: &Tree, block: bool) -> Vec<Device> {
    let all = Path::new("sys/dev").join(if block { "block" } else { "char" });
    let read = |name: String| {
        let dir = tree.real(all.join(&name))?;
        // The device itself is found on its bus.
        if tree.link(dir.join("subsystem")) == "usb" {
            return None;
        }
        let device = dir.ancestors().find(|above| tree.exists(above.join("idVendor")))?;
        let node = Node { block, path: node_path(tree, &dir)?, numbers: numbers(&name)? };
        Some(Device {
            class: Class::UsbNode,
            vendor: tree.text(device.join("idVendor")),
            product: tree.text(device.join("idProduct")),
            pci: String::new(),
            nodes: vec![node],
        })
    };
    tree.entries(&all).into_iter().filter_map(read).collect()
}

/// Nodes that NVIDIA's driver makes by itself: that of the card, and those that all cards share.
fn nvidia(tree: &Tree, pci: &str) -> Vec<Node> {
    let text = tree.text(Path::new("proc/driver/nvidia/gpus").join(pci).join("information"));
    let minor = text.lines().find_map(|line| line.strip_prefix("Device Minor:")).map(str::trim);
    let Some(minor) = minor.and_then(|minor| minor.parse::<u32>().ok()) else { return Vec::new() };
    let shared = ["nvidiactl", "nvidia-modeset", "nvidia-uvm", "nvidia-uvm-tools"].map(str::to_owned);
    let node = |name: String| {
        let stat = rustix::fs::stat(tree.path(Path::new("dev").join(&name))).ok()?;
        let fits = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
        let numbers = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        fits.then(|| Node { block: false, path: format!("/dev/{name}"), numbers })
    };
    std::iter::once(format!("nvidia{minor}")).chain(shared).filter_map(node).collect()
}

fn gpus(tree: &Tree) -> Vec<Device> {
    let read = |dir: &Path| {
        let place = tree.place(dir);
        let (mut nodes, mut card) = (Vec::new(), None);
        for name in tree.entries(dir.join("drm")) {
            let number = name.strip_prefix("card").and_then(|number| number.parse().ok());
            card = card.or(number);
            if number.is_some() || name.starts_with("renderD") || name.starts_with("controlD") {
                nodes.extend(character(tree, &dir.join("drm").join(&name), format!("/dev/dri/{name}")));
            }
        }
        if place.driver == "nvidia" {
            nodes.extend(nvidia(tree, &place.pci_address));
        }
        let (vendor, product, pci) = (place.vendor_id, place.product_id, place.pci_address);
        Device { class: Class::Gpu { card }, vendor, product, pci, nodes }
    };
    let cards = gpu::directories(tree);
    cards.values().map(|dir| read(dir)).filter(|card| !card.nodes.is_empty()).collect()
}

/// What this host has now. Reads some small files.
pub fn devices() -> Vec<Device> {
    read(&Tree::host())
}

pub(super) fn read(tree: &Tree) -> Vec<Device> {
    [usb(tree), gpus(tree), usb_nodes(tree, false), usb_nodes(tree, true)].concat()
}
