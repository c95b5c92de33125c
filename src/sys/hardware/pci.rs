//! PCI devices: `/sys/bus/pci/devices`, their vital product data.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use super::names::Names;
use super::tree::Tree;
use crate::api::wire::resources::{Pci, PciDevice, Vpd};

const DEVICES: &str = "sys/bus/pci/devices";
/// Vital product data is at most this long, bytes (PCI Local Bus Specification 3.0, appendix I: 15 address bits).
const MAX_VPD: u64 = 32 * 1024;

/// The directories of all PCI devices, by address.
pub(super) fn devices(tree: &Tree) -> Vec<(String, PathBuf)> {
    tree.entries(DEVICES).into_iter().map(|address| (address.clone(), PathBuf::from(DEVICES).join(address))).collect()
}

/// Class and subclass of a device, e.g. `0x0200` for Ethernet.
pub(super) fn class(tree: &Tree, device: &std::path::Path) -> u64 {
    tree.hexadecimal(device.join("class")).unwrap_or(0) >> 8
}

/// Reads the tags of vital product data: a large tag has bit 7 and two bytes of length, a small one three bits.
fn parse_vpd(mut bytes: &[u8]) -> Vpd {
    let mut vpd = Vpd::default();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_matches(['\0', ' ']).to_owned();
    while let [tag, rest @ ..] = bytes {
        let (name, length, body) = if tag & 0x80 != 0 {
            let [low, high, body @ ..] = rest else { break };
            (tag & 0x7f, usize::from(u16::from_le_bytes([*low, *high])), body)
        } else {
            (tag >> 3, usize::from(tag & 7), rest)
        };
        let (content, after) = body.split_at(length.min(body.len()));
        match name {
            0x02 => vpd.product_name = text(content),
            // Read-only and writable fields: two letters, a length, the value.
            0x10 | 0x11 => {
                let mut fields = content;
                while let [first, second, length, rest @ ..] = fields {
                    let (value, next) = rest.split_at(usize::from(*length).min(rest.len()));
                    // RV is a checksum, RW free room: both are bytes, no text.
                    if !matches!([*first, *second], [b'R', b'V' | b'W']) {
                        vpd.entries.insert(text(&[*first, *second]), text(value));
                    }
                    fields = next;
                }
            }
            // The end.
            0x0f => break,
            _ => {}
        }
        bytes = after;
    }
    vpd
}

fn vpd(tree: &Tree, device: &std::path::Path) -> Vpd {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(tree.path(device.join("vpd")));
    // A device may stop answering in the middle: what came before counts.
    let _ = file.and_then(|file| file.take(MAX_VPD).read_to_end(&mut bytes));
    if bytes.is_empty() { Vpd { product_name: String::new(), entries: BTreeMap::new() } } else { parse_vpd(&bytes) }
}

pub(super) fn read(tree: &Tree, names: &Names) -> Pci {
    let device = |(address, dir): (String, PathBuf)| {
        let place = tree.place(&dir);
        let (vendor, product) = names.of(&place.vendor_id, &place.product_id);
        PciDevice {
            driver: place.driver,
            driver_version: place.driver_version,
            numa_node: place.numa_node,
            pci_address: address,
            vendor,
            vendor_id: place.vendor_id,
            product,
            product_id: place.product_id,
            iommu_group: tree.link(dir.join("iommu_group")).parse().unwrap_or(0),
            vpd: vpd(tree, &dir),
        }
    };
    let devices: Vec<PciDevice> = devices(tree).into_iter().map(device).collect();
    Pci { total: u64::try_from(devices.len()).unwrap_or(0), devices }
}

/// For [`crate::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz(bytes: &[u8]) {
    parse_vpd(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn vital_product_data_is_read() {
        let mut bytes = vec![0x82, 4, 0];
        bytes.extend(b"Card");
        bytes.extend([0x90, 13, 0]);
        bytes.extend(b"PN\x033-4SN\x011RV\x00");
        bytes.push(0x78);
        bytes.extend([0xff; 8]);
        let vpd = parse_vpd(&bytes);
        assert_eq!(vpd.product_name, "Card");
        assert_eq!(vpd.entries, [("PN".to_owned(), "3-4".to_owned()), ("SN".to_owned(), "1".to_owned())].into());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_vpd(&bytes);
        }
    }
}
