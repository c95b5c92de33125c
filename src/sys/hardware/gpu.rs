//! Graphics cards: PCI devices of class 03, and whatever else has a card in `/sys/class/drm`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::names::Names;
use super::pci;
use super::tree::Tree;
use crate::api::wire::resources::{Gpu, GpuCard, GpuDrm, Sriov};

/// Base class of display controllers (PCI Code and ID Assignment Specification).
const DISPLAY: u64 = 0x03;
const DRM: &str = "sys/class/drm";

fn drm(tree: &Tree, device: &Path) -> Option<GpuDrm> {
    let mut found = GpuDrm::default();
    let mut any = false;
    for name in tree.entries(device.join("drm")) {
        let number = tree.text(device.join("drm").join(&name).join("dev"));
        if let Some(id) = name.strip_prefix("card").and_then(|id| id.parse().ok()) {
            any = true;
            found.id = id;
            (found.card_name, found.card_device) = (name, number);
        } else if name.starts_with("controlD") {
            (found.control_name, found.control_device) = (name, number);
        } else if name.starts_with("renderD") {
            (found.render_name, found.render_device) = (name, number);
        }
    }
    any.then_some(found)
}

fn card(tree: &Tree, device: &Path, names: &Names) -> GpuCard {
    let place = tree.place(device);
    let (vendor, product) = names.of(&place.vendor_id, &place.product_id);
    GpuCard {
        driver: place.driver,
        driver_version: place.driver_version,
        drm: drm(tree, device),
        sriov: None,
        numa_node: place.numa_node,
        pci_address: place.pci_address,
        vendor,
        vendor_id: place.vendor_id,
        product,
        product_id: place.product_id,
        usb_address: place.usb_address,
    }
}

/// The directories of all cards, each once: without links, and as it was found.
pub(super) fn directories(tree: &Tree) -> BTreeMap<PathBuf, PathBuf> {
    let of_class = pci::devices(tree).into_iter().filter(|(_, dir)| pci::class(tree, dir) >> 8 == DISPLAY);
    // Names with a dash are connectors of a card.
    let of_drm = tree.entries(DRM).into_iter().filter(|name| name.starts_with("card") && !name.contains('-'));
    let of_drm = of_drm.map(|name| Path::new(DRM).join(name).join("device"));
    // Of two the last stays: that by class.
    let all = of_drm.chain(of_class.map(|(_, dir)| dir));
    all.filter_map(|dir| Some((tree.real(&dir)?, dir))).collect()
}

pub(super) fn read(tree: &Tree, names: &Names) -> Gpu {
    let devices: BTreeMap<PathBuf, GpuCard> =
        directories(tree).into_iter().map(|(real, dir)| (real, card(tree, &dir, names))).collect();
    let total = u64::try_from(devices.len()).unwrap_or(0);
    let functions = virtual_functions(tree, devices.keys());
    let cards = gather(devices, &functions, |card, sriov| card.sriov = Some(sriov));
    Gpu { cards, total }
}

/// Which devices are virtual functions of which other, and how many that one can have.
pub(super) struct Functions {
    parents: BTreeMap<PathBuf, PathBuf>,
    maximum: BTreeMap<PathBuf, (u64, u64)>,
}

pub(super) fn virtual_functions<'a>(tree: &Tree, devices: impl Iterator<Item = &'a PathBuf>) -> Functions {
    let mut found = Functions { parents: BTreeMap::new(), maximum: BTreeMap::new() };
    for device in devices {
        if let Some(parent) = tree.real(device.join("physfn")) {
            found.parents.insert(device.clone(), parent);
        }
        if let Some(maximum) = tree.number::<u64>(device.join("sriov_totalvfs")) {
            let current = tree.number(device.join("sriov_numvfs")).unwrap_or(0);
            found.maximum.insert(device.clone(), (current, maximum));
        }
    }
    found
}

/// Puts virtual functions below their card.
pub(super) fn gather<C>(
    mut devices: BTreeMap<PathBuf, C>,
    functions: &Functions,
    set: impl Fn(&mut C, Sriov<C>),
) -> Vec<C> {
    let mut below: BTreeMap<&PathBuf, Vec<C>> = BTreeMap::new();
    for (device, parent) in &functions.parents {
        if devices.contains_key(parent)
            && let Some(card) = devices.remove(device)
        {
            below.entry(parent).or_default().push(card);
        }
    }
    for (device, (current_vfs, maximum_vfs)) in &functions.maximum {
        if let Some(card) = devices.get_mut(device) {
            let vfs = below.remove(device).unwrap_or_default();
            set(card, Sriov { current_vfs: *current_vfs, maximum_vfs: *maximum_vfs, vfs });
        }
    }
    devices.into_values().collect()
}
