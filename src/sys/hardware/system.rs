//! The machine as a whole: `/sys/class/dmi/id`.

use super::tree::Tree;
use crate::api::wire::resources::{Chassis, Firmware, Motherboard, System};

const DMI: &str = "sys/class/dmi/id";

/// Kinds of cases (DMTF DSP0134, System Enclosure or Chassis Types).
fn chassis_type(number: u64) -> &'static str {
    match number {
        1 => "Other",
        3 => "Desktop",
        4 => "Low Profile Desktop",
        5 => "Pizza Box",
        6 => "Mini Tower",
        7 => "Tower",
        8 => "Portable",
        9 => "Laptop",
        10 => "Notebook",
        11 => "Hand Held",
        12 => "Docking Station",
        13 => "All in One",
        14 => "Sub Notebook",
        15 => "Space-saving",
        16 => "Lunch Box",
        17 => "Main Server Chassis",
        18 => "Expansion Chassis",
        19 => "SubChassis",
        20 => "Bus Expansion Chassis",
        21 => "Peripheral Chassis",
        22 => "RAID Chassis",
        23 => "Rack Mount Chassis",
        24 => "Sealed-case PC",
        25 => "Multi-system chassis",
        26 => "Compact PCI",
        27 => "Advanced TCA",
        28 => "Blade",
        29 => "Blade Enclosure",
        30 => "Tablet",
        31 => "Convertible",
        32 => "Detachable",
        33 => "IoT Gateway",
        34 => "Embedded PC",
        35 => "Mini PC",
        36 => "Stick PC",
        _ => "Unknown",
    }
}

/// What the host itself runs in. Container managers leave these marks; hypervisors show themselves to the processor.
fn kind(tree: &Tree) -> &'static str {
    let marks = ["run/systemd/container", ".dockerenv", "run/.containerenv"];
    let told = std::fs::read(tree.path("proc/1/environ")).unwrap_or_default();
    let told = told.split(|byte| *byte == 0).any(|variable| variable.starts_with(b"container="));
    if told || marks.iter().any(|mark| tree.exists(mark)) {
        return "container";
    }
    let flags = tree.text("proc/cpuinfo");
    let mut words = flags.lines().filter_map(|line| line.strip_prefix("flags")).flat_map(str::split_whitespace);
    let guest = words.any(|flag| flag == "hypervisor") || tree.exists("sys/hypervisor/type");
    if guest { "virtual-machine" } else { "physical" }
}

pub(super) fn read(tree: &Tree) -> System {
    let get = |file: &str| tree.text(format!("{DMI}/{file}"));
    let known = tree.exists(DMI);
    System {
        uuid: get("product_uuid"),
        vendor: get("sys_vendor"),
        product: get("product_name"),
        family: get("product_family"),
        version: get("product_version"),
        sku: get("product_sku"),
        serial: get("product_serial"),
        kind: kind(tree).to_owned(),
        firmware: known.then(|| Firmware {
            vendor: get("bios_vendor"),
            date: get("bios_date"),
            version: get("bios_version"),
        }),
        chassis: known.then(|| Chassis {
            vendor: get("chassis_vendor"),
            kind: chassis_type(tree.number(format!("{DMI}/chassis_type")).unwrap_or(0)).to_owned(),
            serial: get("chassis_serial"),
            version: get("chassis_version"),
        }),
        motherboard: known.then(|| Motherboard {
            vendor: get("board_vendor"),
            product: get("board_name"),
            serial: get("board_serial"),
            version: get("board_version"),
        }),
    }
}
