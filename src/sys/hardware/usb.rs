//! USB devices: `/sys/bus/usb/devices`.

use std::path::Path;

use super::names::Names;
use super::tree::Tree;
use crate::api::wire::resources::{Usb, UsbDevice, UsbInterface};

const DEVICES: &str = "sys/bus/usb/devices";
/// Class of hubs.
const HUB: u64 = 0x09;

/// Defined classes (USB-IF, "Defined Class Codes").
fn class_name(class: u64) -> &'static str {
    match class {
        0x00 => "(Defined at Interface level)",
        0x01 => "Audio",
        0x02 => "Communications",
        0x03 => "Human Interface Device",
        0x05 => "Physical Interface Device",
        0x06 => "Imaging",
        0x07 => "Printer",
        0x08 => "Mass Storage",
        HUB => "Hub",
        0x0a => "CDC Data",
        0x0b => "Chip/SmartCard",
        0x0d => "Content Security",
        0x0e => "Video",
        0x0f => "Personal Healthcare",
        0x10 => "Audio/Video",
        0x11 => "Billboard",
        0x12 => "Type-C Bridge",
        0xdc => "Diagnostic",
        0xe0 => "Wireless",
        0xef => "Miscellaneous Device",
        0xfe => "Application Specific Interface",
        0xff => "Vendor Specific Class",
        _ => "",
    }
}

fn interface(tree: &Tree, dir: &Path) -> UsbInterface {
    let number = |file: &str| tree.hexadecimal(dir.join(file)).unwrap_or(0);
    let place = tree.place(dir);
    UsbInterface {
        class: class_name(number("bInterfaceClass")).to_owned(),
        class_id: number("bInterfaceClass"),
        driver: place.driver,
        driver_version: place.driver_version,
        number: number("bInterfaceNumber"),
        // Subclasses have no names of their own.
        subclass: String::new(),
        subclass_id: number("bInterfaceSubClass"),
    }
}

pub(super) fn read(tree: &Tree) -> Usb {
    let names = Names::usb(tree);
    let entries = tree.entries(DEVICES);
    let device = |name: &String| {
        let dir = Path::new(DEVICES).join(name);
        if tree.hexadecimal(dir.join("bDeviceClass"))? == HUB {
            return None;
        }
        let (vendor_id, product_id) = (tree.text(dir.join("idVendor")), tree.text(dir.join("idProduct")));
        let (vendor, product) = names.of(&vendor_id, &product_id);
        // The device's own words stand in for a list that does not know it.
        let or = |name: String, file: &str| if name.is_empty() { tree.text(dir.join(file)) } else { name };
        // `1-2:1.0` is an interface of `1-2`.
        let prefix = format!("{name}:");
        let interfaces = tree.entries(&dir).into_iter().filter(|entry| entry.starts_with(&prefix));
        Some(UsbDevice {
            bus_address: tree.number(dir.join("busnum")).unwrap_or(0),
            device_address: tree.number(dir.join("devnum")).unwrap_or(0),
            interfaces: interfaces.map(|entry| interface(tree, &dir.join(entry))).collect(),
            vendor: or(vendor, "manufacturer"),
            vendor_id,
            product: or(product, "product"),
            product_id,
            speed: tree.number(dir.join("speed")).unwrap_or(0.0),
        })
    };
    let devices: Vec<UsbDevice> = entries.iter().filter(|name| !name.contains(':')).filter_map(device).collect();
    Usb { total: u64::try_from(devices.len()).unwrap_or(0), devices }
}
