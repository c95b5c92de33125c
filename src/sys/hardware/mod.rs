//! The hardware of the host, as the kernel tells it in /sys and /proc.
//!
//! ```text
//!   Tree (root of /sys, /proc, /dev, /run)
//!     cpu  memory  disks  network ── ethtool(ioctl)  gpu  pci ── vpd, names  usb  system
//! ```
//! Everything is read below a [`Tree`], so that a copy of another machine's files can be read as well. What a file does
//! not tell is left empty: nothing here fails. Source of the file names: the kernel's `Documentation/ABI`.

mod cpu;
mod disks;
mod ethtool;
mod gpu;
mod memory;
mod names;
mod network;
pub mod nodes;
mod pci;
mod system;
mod tree;
mod usb;

/// For [`crate::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    cpu::fuzz(&text);
    memory::fuzz(&text);
    tree::fuzz(&text);
    pci::fuzz(bytes);
}

#[cfg(test)]
mod tests;

use crate::api::wire::resources::Resources;
use tree::Tree;

/// Reads all of it. Blocking: some hundred small files, and devices that are asked.
pub fn resources(architecture: &str) -> Resources {
    read(&Tree::host(), architecture)
}

/// The processors that are there, and those set aside from the scheduler, both as the kernel lists them
/// (`Documentation/admin-guide/cputopology.rst`).
pub fn processors() -> (String, String) {
    let tree = Tree::host();
    (tree.text("sys/devices/system/cpu/online"), tree.text("sys/devices/system/cpu/isolated"))
}

fn read(tree: &Tree, architecture: &str) -> Resources {
    let names = names::Names::pci(tree);
    Resources {
        cpu: cpu::read(tree, architecture),
        memory: memory::read(tree),
        gpu: gpu::read(tree, &names),
        network: network::read(tree, &names),
        storage: disks::read(tree),
        usb: usb::read(tree),
        pci: pci::read(tree, &names),
        system: system::read(tree),
    }
}
