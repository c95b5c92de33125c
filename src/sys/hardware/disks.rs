//! Disks: `/sys/block`, what udev found out in `/run/udev/data`, links below `/dev/disk`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::tree::Tree;
use crate::api::wire::resources::{Disk, Partition, Storage};

/// Sizes in /sys are in sectors of this many bytes, whatever the disk's own are.
const SECTOR: u64 = 512;

/// Lines `E:KEY=value` of udev's database.
fn udev(tree: &Tree, device: &str) -> BTreeMap<String, String> {
    let text = tree.text(format!("run/udev/data/b{device}"));
    let pairs = text.lines().filter_map(|line| line.strip_prefix("E:")?.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The first name in a directory of links that leads to `disk`.
fn link_to(tree: &Tree, dir: &str, disk: &str) -> String {
    let names = tree.entries(dir);
    names.into_iter().find(|name| tree.link(Path::new(dir).join(name)) == disk).unwrap_or_default()
}

fn kind(tree: &Tree, device: &Path) -> String {
    let bus = tree.link(device.join("subsystem"));
    if bus != "scsi" {
        return bus;
    }
    // SATA and USB disks look like SCSI ones; the way to them tells.
    let path = tree.real(device).unwrap_or_default();
    let through = |prefix: &str| {
        path.components().any(|part| {
            let part = part.as_os_str().to_string_lossy();
            part.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
    };
    match () {
        () if through("usb") => "usb".to_owned(),
        () if through("ata") => "sata".to_owned(),
        () => bus,
    }
}

fn partitions(tree: &Tree, disk: &str) -> Vec<Partition> {
    let dir = format!("sys/block/{disk}");
    let partition = |id: String| {
        let dir = format!("{dir}/{id}");
        let number = tree.number(format!("{dir}/partition"))?;
        Some(Partition {
            device: tree.text(format!("{dir}/dev")),
            read_only: tree.flag(format!("{dir}/ro")),
            size: tree.number::<u64>(format!("{dir}/size")).unwrap_or(0) * SECTOR,
            partition: number,
            id,
        })
    };
    tree.entries(&dir).into_iter().filter(|id| id.starts_with(disk)).filter_map(partition).collect()
}

fn disk(tree: &Tree, id: String) -> Option<Disk> {
    let dir = PathBuf::from(format!("sys/block/{id}"));
    let device = dir.join("device");
    // Those without one are no hardware: loop, ram, zram, device-mapper, RAID.
    if !tree.exists(&device) {
        return None;
    }
    let number = tree.text(dir.join("dev"));
    let udev = udev(tree, &number);
    let first = |files: &[PathBuf], key: &str| {
        let found = files.iter().map(|file| tree.text(file)).find(|text| !text.is_empty());
        found.or_else(|| udev.get(key).cloned()).unwrap_or_default()
    };
    let turns = tree.flag(dir.join("queue/rotational"));
    let place = tree.place(&device);
    Some(Disk {
        model: first(&[device.join("model")], "ID_MODEL"),
        kind: kind(tree, &device),
        read_only: tree.flag(dir.join("ro")),
        size: tree.number::<u64>(dir.join("size")).unwrap_or(0) * SECTOR,
        removable: tree.flag(dir.join("removable")),
        wwn: first(&[dir.join("wwid"), device.join("wwid")], "ID_WWN"),
        numa_node: place.numa_node,
        device_path: link_to(tree, "dev/disk/by-path", &id),
        block_size: tree.number(dir.join("queue/logical_block_size")).unwrap_or(0),
        firmware_version: first(&[device.join("firmware_rev"), device.join("rev")], "ID_REVISION"),
        rpm: udev.get("ID_ATA_ROTATION_RATE_RPM").and_then(|t| t.parse().ok()).unwrap_or(u64::from(turns)),
        serial: first(&[dir.join("serial"), device.join("serial")], "ID_SERIAL_SHORT"),
        device_id: link_to(tree, "dev/disk/by-id", &id),
        partitions: partitions(tree, &id),
        pci_address: place.pci_address,
        usb_address: place.usb_address,
        device: number,
        id,
    })
}

pub(super) fn read(tree: &Tree) -> Storage {
    let disks: Vec<Disk> = tree.entries("sys/block").into_iter().filter_map(|id| disk(tree, id)).collect();
    Storage { total: u64::try_from(disks.len()).unwrap_or(0), disks }
}
