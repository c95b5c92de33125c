//! `/1.0/resources`: the hardware of the host.
//!
//! Source: the public API description of LXD 5.0.2 and answers of its server. Fields that it leaves out when they are
//! empty are left out here, too. Sizes are bytes, frequencies MHz, speeds Mbit/s.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

fn zero(number: &u64) -> bool {
    *number == 0
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "each field is named by what it holds")]
pub struct Resources {
    pub cpu: Cpu,
    pub memory: Memory,
    pub gpu: Gpu,
    pub network: Network,
    pub storage: Storage,
    pub usb: Usb,
    pub pci: Pci,
    pub system: System,
}

/// Processors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// Kernel architecture, in LXD's words.
    pub architecture: String,
    /// By number.
    pub sockets: Vec<Socket>,
    /// Threads in all.
    pub total: u64,
}

/// A package of cores.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Socket {
    /// As the processor calls itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// E.g. `GenuineIntel`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub vendor: String,
    /// Its number.
    pub socket: u64,
    /// Of its first thread.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cache: Vec<Cache>,
    /// By die and number.
    pub cores: Vec<Core>,
    /// Mean of its cores now.
    #[serde(skip_serializing_if = "zero")]
    pub frequency: u64,
    /// Lowest.
    #[serde(skip_serializing_if = "zero")]
    pub frequency_minimum: u64,
    /// Highest.
    #[serde(skip_serializing_if = "zero")]
    pub frequency_turbo: u64,
}

/// A cache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cache {
    /// 1, 2, 3…
    pub level: u64,
    /// `Data`, `Instruction` or `Unified`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Bytes.
    pub size: u64,
}

/// A core.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Core {
    /// Its number in the socket.
    pub core: u64,
    /// The die it lies on.
    pub die: u64,
    /// In order.
    pub threads: Vec<Thread>,
    /// Now.
    #[serde(skip_serializing_if = "zero")]
    pub frequency: u64,
}

/// A thread: what the kernel calls a CPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Thread {
    /// The kernel's number.
    pub id: u64,
    /// Its memory node.
    pub numa_node: u64,
    /// Its number in the core.
    pub thread: u64,
    /// The kernel uses it.
    pub online: bool,
    /// The scheduler leaves it alone (`isolcpus`).
    pub isolated: bool,
}

/// Memory, bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "bytes of what each field is named by")]
pub struct Memory {
    pub nodes: Vec<MemoryNode>,
    pub hugepages_total: u64,
    pub hugepages_used: u64,
    /// Of one page.
    pub hugepages_size: u64,
    pub used: u64,
    pub total: u64,
}

/// A memory node, bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "bytes of what each field is named by")]
pub struct MemoryNode {
    /// Its number.
    pub numa_node: u64,
    pub hugepages_used: u64,
    pub hugepages_total: u64,
    pub used: u64,
    pub total: u64,
}

/// Graphics cards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "each field is named by what it holds")]
pub struct Gpu {
    pub cards: Vec<GpuCard>,
    pub total: u64,
}

/// A graphics card.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GpuCard {
    /// Kernel module; empty when none drives it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub driver: String,
    /// Of the module, or the kernel's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub driver_version: String,
    /// Its devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drm: Option<GpuDrm>,
    /// Virtual functions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sriov: Option<Sriov<GpuCard>>,
    /// Memory node.
    pub numa_node: u64,
    /// E.g. `0000:07:03.0`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pci_address: String,
    /// Name by the host's `pci.ids`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub vendor: String,
    /// Four hexadecimal digits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub vendor_id: String,
    /// Name by the host's `pci.ids`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub product: String,
    /// Four hexadecimal digits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub product_id: String,
    /// Bus and device, e.g. `2:7`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub usb_address: String,
}

/// Devices of a graphics card: names below `/dev/dri`, and `major:minor`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "each field is named by what it holds")]
pub struct GpuDrm {
    /// Number of the card.
    pub id: u64,
    pub card_name: String,
    pub card_device: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub control_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub control_device: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub render_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub render_device: String,
}

/// Virtual functions of a card.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[serde(bound(deserialize = "C: Deserialize<'de> + Default"))]
pub struct Sriov<C> {
    /// Made.
    pub current_vfs: u64,
    /// Possible.
    pub maximum_vfs: u64,
    /// Those that are made.
    pub vfs: Vec<C>,
}

/// Network cards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "each field is named by what it holds")]
pub struct Network {
    pub cards: Vec<NetworkCard>,
    pub total: u64,
}

/// A network card.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkCard {
    /// Kernel module; empty when none drives it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub driver: String,
    /// Of the module, or the kernel's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub driver_version: String,
    /// Its interfaces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<NetworkPort>,
    /// Virtual functions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sriov: Option<Sriov<NetworkCard>>,
    /// Memory node.
    pub numa_node: u64,
    /// E.g. `0000:00:03.0`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pci_address: String,
    /// Name by the host's `pci.ids`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub vendor: String,
    /// Four hexadecimal digits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub vendor_id: String,
    /// Name by the host's `pci.ids`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub product: String,
    /// Four hexadecimal digits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub product_id: String,
    /// As its driver tells it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub firmware_version: String,
    /// Bus and device, e.g. `2:7`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub usb_address: String,
}

/// A port of a network card.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkPort {
    /// Name of the interface.
    pub id: String,
    /// Hardware address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Its number on the card.
    pub port: u64,
    /// `ethernet`, `infiniband`, or empty.
    pub protocol: String,
    /// E.g. `1000baseT/Full`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub supported_modes: Vec<String>,
    /// E.g. `twisted pair`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub supported_ports: Vec<String>,
    /// The one in use.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub port_type: String,
    /// `internal` or `external`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub transceiver_type: String,
    /// Speed and duplex are agreed upon by the two ends.
    pub auto_negotiation: bool,
    /// There is another end.
    pub link_detected: bool,
    /// Mbit/s.
    #[serde(skip_serializing_if = "zero")]
    pub link_speed: u64,
    /// `half` or `full`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub link_duplex: String,
}

/// Disks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "each field is named by what it holds")]
pub struct Storage {
    pub disks: Vec<Disk>,
    pub total: u64,
}

/// A disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disk {
    /// Name below `/dev`.
    pub id: String,
    /// `major:minor`.
    pub device: String,
    /// As it calls itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// `nvme`, `sata`, `scsi`, `usb`, `virtio`…
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// It cannot be written.
    pub read_only: bool,
    /// Bytes.
    pub size: u64,
    /// Its medium can be taken out.
    pub removable: bool,
    /// World-wide name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub wwn: String,
    /// Memory node.
    pub numa_node: u64,
    /// Name below `/dev/disk/by-path`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device_path: String,
    /// Bytes.
    pub block_size: u64,
    /// As it tells it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub firmware_version: String,
    /// Rounds per minute; 0 for one that does not turn, 1 for one whose speed is not known.
    pub rpm: u64,
    /// As it tells it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// Name below `/dev/disk/by-id`.
    pub device_id: String,
    /// By number.
    pub partitions: Vec<Partition>,
    /// E.g. `0000:00:02.0`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pci_address: String,
    /// Bus and device, e.g. `3:5`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub usb_address: String,
}

/// A partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Partition {
    /// Name below `/dev`.
    pub id: String,
    /// `major:minor`.
    pub device: String,
    /// It cannot be written.
    pub read_only: bool,
    /// Bytes.
    pub size: u64,
    /// Its number.
    pub partition: u64,
}

/// USB devices.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "each field is named by what it holds")]
pub struct Usb {
    pub devices: Vec<UsbDevice>,
    pub total: u64,
}

/// A USB device that is no hub.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "each field is named by what it holds")]
pub struct UsbDevice {
    pub bus_address: u64,
    pub device_address: u64,
    pub interfaces: Vec<UsbInterface>,
    pub vendor: String,
    pub vendor_id: String,
    pub product: String,
    pub product_id: String,
    /// Mbit/s.
    pub speed: f64,
}

/// An interface of a USB device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "each field is named by what it holds")]
pub struct UsbInterface {
    pub class: String,
    pub class_id: u64,
    pub driver: String,
    pub driver_version: String,
    pub number: u64,
    pub subclass: String,
    pub subclass_id: u64,
}

/// PCI devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "each field is named by what it holds")]
pub struct Pci {
    pub devices: Vec<PciDevice>,
    pub total: u64,
}

/// A PCI device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "each field is named by what it holds")]
pub struct PciDevice {
    pub driver: String,
    pub driver_version: String,
    pub numa_node: u64,
    pub pci_address: String,
    pub vendor: String,
    pub vendor_id: String,
    pub product: String,
    pub product_id: String,
    pub iommu_group: u64,
    /// Vital product data.
    pub vpd: Vpd,
}

/// What a PCI device tells about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Vpd {
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub product_name: String,
    /// Keywords of two letters.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub entries: BTreeMap<String, String>,
}

/// The machine as a whole, by its firmware.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "each field is named by what it holds")]
pub struct System {
    pub uuid: String,
    pub vendor: String,
    pub product: String,
    pub family: String,
    pub version: String,
    pub sku: String,
    pub serial: String,
    /// `physical`, `virtual-machine` or `container`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `null` when the firmware tells nothing.
    pub firmware: Option<Firmware>,
    /// `null` when the firmware tells nothing.
    pub chassis: Option<Chassis>,
    /// `null` when the firmware tells nothing.
    pub motherboard: Option<Motherboard>,
}

/// The firmware.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "each field is named by what it holds")]
pub struct Firmware {
    pub vendor: String,
    pub date: String,
    pub version: String,
}

/// The case.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "each field is named by what it holds")]
pub struct Chassis {
    pub vendor: String,
    /// E.g. `Notebook`.
    #[serde(rename = "type")]
    pub kind: String,
    pub serial: String,
    pub version: String,
}

/// The main board.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "each field is named by what it holds")]
pub struct Motherboard {
    pub vendor: String,
    pub product: String,
    pub serial: String,
    pub version: String,
}
