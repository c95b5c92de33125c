//! A made-up machine with what this one lacks, and this one.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::read;
use super::tree::Tree;
use crate::api::wire::resources::Resources;

struct Machine(tempfile::TempDir);

impl Machine {
    fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
        self
    }

    /// A link as in /sys: to another path of the tree.
    fn link(&self, path: &str, target: &str) -> &Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::create_dir_all(self.0.path().join(target)).unwrap();
        symlink(self.0.path().join(target), path).unwrap();
        self
    }

    fn read(&self) -> Resources {
        read(&Tree::copy(self.0.path(), "6.1.0"), "x86_64")
    }
}

fn machine() -> Machine {
    Machine(tempfile::tempdir().unwrap())
}

#[test]
fn two_sockets_with_threads_nodes_and_frequencies() {
    let m = machine();
    let cpus = "sys/devices/system/cpu";
    for id in 0..8u32 {
        let cpu = format!("{cpus}/cpu{id}");
        let (socket, core) = (id / 4, id % 2);
        m.file(&format!("{cpu}/topology/physical_package_id"), &socket.to_string());
        m.file(&format!("{cpu}/topology/core_id"), &core.to_string());
        m.file(&format!("{cpu}/topology/die_id"), "-1");
        m.file(&format!("{cpu}/cpufreq/cpuinfo_max_freq"), "3700000");
        m.file(&format!("{cpu}/cpufreq/cpuinfo_min_freq"), "1000000");
        m.file(&format!("{cpu}/cpufreq/scaling_cur_freq"), &(2_000_000 + core * 1_000_000).to_string());
        m.file(&format!("{cpu}/node{socket}/cpulist"), "");
    }
    // Switched off: no topology.
    m.file(&format!("{cpus}/cpu8/online"), "0").file(&format!("{cpus}/isolated"), "5,7");
    m.file(&format!("{cpus}/cpu0/cache/index0/level"), "1");
    m.file(&format!("{cpus}/cpu0/cache/index0/type"), "Data").file(&format!("{cpus}/cpu0/cache/index0/size"), "48K");
    m.file("proc/cpuinfo", "processor : 0\nvendor_id : GenuineIntel\nmodel name : Xeon\n");
    let cpu = m.read().cpu;
    assert_eq!((cpu.total, cpu.sockets.len()), (8, 2));
    let first = &cpu.sockets[0];
    assert_eq!((first.name.as_str(), first.vendor.as_str()), ("Xeon", "GenuineIntel"));
    assert_eq!((first.frequency, first.frequency_minimum, first.frequency_turbo), (2500, 1000, 3700));
    assert_eq!((first.cache[0].size, first.cache[0].kind.as_str()), (48 * 1024, "Data"));
    assert_eq!(first.cores.len(), 2);
    let threads = &cpu.sockets[1].cores[1].threads;
    assert_eq!(threads.iter().map(|t| (t.id, t.thread, t.numa_node)).collect::<Vec<_>>(), [(5, 0, 1), (7, 1, 1)]);
    assert!(threads.iter().all(|thread| thread.online && thread.isolated));
}

#[test]
fn memory_counts_blocks_nodes_and_huge_pages() {
    let m = machine();
    m.file("sys/devices/system/memory/block_size_bytes", "8000000");
    for block in 0..3 {
        m.file(&format!("sys/devices/system/memory/memory{block}/online"), if block < 2 { "1" } else { "0" });
    }
    let meminfo =
        "MemTotal: 200000 kB\nMemAvailable: 100000 kB\nHugePages_Total: 10\nHugePages_Free: 4\nHugepagesize: 2048 kB\n";
    m.file("proc/meminfo", meminfo);
    let node = "Node 0 MemTotal: 1000 kB\nNode 0 MemFree: 300 kB\nNode 0 FilePages: 200 kB\nNode 0 Shmem: 50 kB\nNode 0 HugePages_Total: 10\nNode 0 HugePages_Free: 4\n";
    m.file("sys/devices/system/node/node0/meminfo", node);
    let memory = m.read().memory;
    assert_eq!(memory.total, 2 * 0x800_0000);
    assert_eq!(memory.used, memory.total - 100_000 * 1024);
    assert_eq!((memory.hugepages_total, memory.hugepages_used), (10 * 2048 * 1024, 6 * 2048 * 1024));
    assert_eq!((memory.nodes[0].total, memory.nodes[0].used), (1000 * 1024, 550 * 1024));
    assert_eq!(memory.nodes[0].hugepages_used, 6 * 2048 * 1024);
}

#[test]
fn disks_tell_their_bus_and_have_partitions() {
    let m = machine();
    let sata = "sys/devices/pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0";
    m.link("sys/block/sda/device", sata).link(&format!("{sata}/subsystem"), "sys/bus/scsi");
    m.file(&format!("{sata}/model"), "WDC  ").file(&format!("{sata}/rev"), "1A01");
    m.file("sys/devices/pci0000:00/0000:00:1f.2/numa_node", "1");
    m.file("sys/block/sda/dev", "8:0").file("sys/block/sda/size", "2048").file("sys/block/sda/queue/rotational", "1");
    m.file("sys/block/sda/queue/logical_block_size", "512");
    for (name, number) in [("sda1", 1), ("sda10", 10), ("sda2", 2)] {
        m.file(&format!("sys/block/sda/{name}/partition"), &number.to_string());
        m.file(&format!("sys/block/sda/{name}/size"), "8");
    }
    m.file("run/udev/data/b8:0", "E:ID_SERIAL_SHORT=W1\nE:ID_ATA_ROTATION_RATE_RPM=7200\nE:ID_WWN=0x5000");
    m.file("dev/sda", "").link("dev/disk/by-id/ata-WDC", "dev/x");
    fs::remove_file(m.0.path().join("dev/disk/by-id/ata-WDC")).unwrap();
    symlink("../../sda", m.0.path().join("dev/disk/by-id/ata-WDC")).unwrap();
    let usb = "sys/devices/pci0000:00/0000:00:14.0/usb2/2-3/2-3:1.0/host6/target6:0:0/6:0:0:0";
    m.link("sys/block/sdb/device", usb).link(&format!("{usb}/subsystem"), "sys/bus/scsi");
    m.file("sys/devices/pci0000:00/0000:00:14.0/usb2/2-3/busnum", "2");
    m.file("sys/devices/pci0000:00/0000:00:14.0/usb2/2-3/devnum", "7");
    m.file("sys/block/sdb/removable", "1").file("sys/block/loop0/size", "9");
    let storage = m.read().storage;
    assert_eq!(storage.total, 2);
    let [sda, sdb] = &storage.disks[..] else { panic!("{storage:?}") };
    assert_eq!((sda.kind.as_str(), sda.model.as_str(), sda.serial.as_str()), ("sata", "WDC", "W1"));
    assert_eq!((sda.rpm, sda.size, sda.numa_node, sda.block_size), (7200, 2048 * 512, 1, 512));
    assert_eq!((sda.device_id.as_str(), sda.wwn.as_str()), ("ata-WDC", "0x5000"));
    assert_eq!((sda.pci_address.as_str(), sda.firmware_version.as_str()), ("0000:00:1f.2", "1A01"));
    let partitions: Vec<_> = sda.partitions.iter().map(|p| (p.id.as_str(), p.partition)).collect();
    assert_eq!(partitions, [("sda1", 1), ("sda2", 2), ("sda10", 10)]);
    assert_eq!((sdb.kind.as_str(), sdb.usb_address.as_str(), sdb.removable), ("usb", "2:7", true));
}

#[test]
fn cards_have_ports_names_and_virtual_functions() {
    let m = machine();
    m.file("usr/share/misc/pci.ids", "8086  Intel Corporation\n\t1572  X710");
    for (address, function) in [("0000:3b:00.0", "eth0"), ("0000:3b:02.0", "vf0")] {
        let device = format!("sys/devices/pci0000:3a/{address}");
        m.link(&format!("sys/bus/pci/devices/{address}"), &device);
        m.link(&format!("sys/class/net/{function}/device"), &device);
        m.link(&format!("{device}/driver"), "sys/bus/pci/drivers/i40e");
        m.file(&format!("{device}/vendor"), "0x8086").file(&format!("{device}/device"), "0x1572");
        m.file(&format!("{device}/class"), "0x020000");
        m.file(&format!("sys/class/net/{function}/type"), "1").file(&format!("sys/class/net/{function}/carrier"), "1");
        m.file(&format!("sys/class/net/{function}/speed"), "10000");
    }
    m.link("sys/bus/pci/drivers/i40e/module", "sys/module/i40e").file("sys/module/i40e/version", "2.8");
    m.link("sys/devices/pci0000:3a/0000:3b:00.0/iommu_group", "sys/kernel/iommu_groups/35");
    m.file("sys/devices/pci0000:3a/0000:3b:00.0/sriov_totalvfs", "64");
    m.file("sys/devices/pci0000:3a/0000:3b:00.0/sriov_numvfs", "1");
    m.link("sys/devices/pci0000:3a/0000:3b:02.0/physfn", "sys/devices/pci0000:3a/0000:3b:00.0");
    // One that nobody drives, and a graphics card.
    m.link("sys/bus/pci/devices/0000:3c:00.0", "sys/devices/pci0000:3a/0000:3c:00.0");
    m.file("sys/devices/pci0000:3a/0000:3c:00.0/class", "0x028000");
    let gpu = "sys/devices/pci0000:3a/0000:3d:00.0";
    m.link("sys/bus/pci/devices/0000:3d:00.0", gpu).file(&format!("{gpu}/class"), "0x030000");
    m.file(&format!("{gpu}/drm/card1/dev"), "226:1").file(&format!("{gpu}/drm/renderD129/dev"), "226:129");
    m.link("sys/class/drm/card1/device", gpu).link("sys/class/drm/card1-DP-1/device", "sys/devices/none");
    let found = m.read();
    let cards = &found.network.cards;
    assert_eq!((found.network.total, cards.len()), (3, 2), "{cards:#?}");
    assert_eq!((cards[0].vendor.as_str(), cards[0].product.as_str()), ("Intel Corporation", "X710"));
    assert_eq!((cards[0].driver.as_str(), cards[0].driver_version.as_str()), ("i40e", "2.8"));
    assert_eq!((cards[0].ports[0].id.as_str(), cards[0].ports[0].link_speed), ("eth0", 10000));
    let sriov = cards[0].sriov.as_ref().unwrap();
    assert_eq!((sriov.current_vfs, sriov.maximum_vfs), (1, 64));
    assert_eq!(sriov.vfs[0].ports[0].id, "vf0");
    assert!(cards[1].driver.is_empty() && cards[1].ports.is_empty());
    assert_eq!(found.pci.total, 4);
    assert_eq!(found.pci.devices[0].iommu_group, 35);
    assert_eq!(found.gpu.total, 1);
    let drm = found.gpu.cards[0].drm.as_ref().unwrap();
    assert_eq!((drm.id, drm.card_device.as_str(), drm.render_name.as_str()), (1, "226:1", "renderD129"));
}

#[test]
fn usb_devices_and_the_machine_have_their_own_words() {
    let m = machine();
    let dir = "sys/bus/usb/devices";
    m.file(&format!("{dir}/usb1/bDeviceClass"), "09");
    for (file, text) in [
        ("bDeviceClass", "00"),
        ("busnum", "1"),
        ("devnum", "3"),
        ("idVendor", "046d"),
        ("idProduct", "c52b"),
        ("manufacturer", "Logitech"),
        ("product", "Receiver"),
        ("speed", "12"),
        ("1-1:1.0/bInterfaceClass", "03"),
        ("1-1:1.0/bInterfaceNumber", "00"),
        ("1-1:1.0/bInterfaceSubClass", "01"),
    ] {
        m.file(&format!("{dir}/1-1/{file}"), text);
    }
    for (file, text) in [("product_name", "T490"), ("chassis_type", "10"), ("bios_version", "N2"), ("board_name", "B")]
    {
        m.file(&format!("sys/class/dmi/id/{file}"), text);
    }
    m.file("proc/cpuinfo", "flags : fpu hypervisor lm");
    let found = m.read();
    let device = &found.usb.devices[0];
    assert_eq!(found.usb.total, 1, "hubs are left out");
    assert_eq!((device.bus_address, device.device_address, device.speed), (1, 3, 12.0));
    assert_eq!((device.vendor.as_str(), device.product_id.as_str()), ("Logitech", "c52b"));
    assert_eq!((device.interfaces[0].class.as_str(), device.interfaces[0].subclass_id), ("Human Interface Device", 1));
    assert_eq!((found.system.kind.as_str(), found.system.product.as_str()), ("virtual-machine", "T490"));
    assert_eq!(found.system.chassis.unwrap().kind, "Notebook");
    assert_eq!(found.system.firmware.unwrap().version, "N2");
}

#[test]
fn a_machine_without_any_files_is_empty_and_this_one_is_not() {
    let empty = machine().read();
    assert_eq!((empty.cpu.total, empty.memory.total, empty.pci.total), (0, 0, 0));
    assert!(empty.system.firmware.is_none());
    let here = super::resources("x86_64");
    let cpus = std::thread::available_parallelism().unwrap().get() as u64;
    assert!(here.cpu.total >= cpus.min(1) && here.memory.total > here.memory.used && here.memory.used > 0);
    let known = |disk: &str| Path::new("/sys/block").join(disk).exists();
    assert!(here.storage.disks.iter().all(|disk| known(&disk.id) && disk.size > 0));
    for card in &here.network.cards {
        assert!(card.ports.iter().all(|port| Path::new("/sys/class/net").join(&port.id).exists()));
    }
}

#[test]
fn nodes_of_nvidia_cards_are_those_of_its_driver() {
    let m = machine();
    let dir = "sys/devices/pci0000:00/0000:01:00.0";
    m.file(&format!("{dir}/class"), "0x030200").file(&format!("{dir}/vendor"), "0x10de");
    m.file(&format!("{dir}/device"), "0x1eb8").file(&format!("{dir}/drm/renderD128/dev"), "226:128");
    m.link(&format!("{dir}/driver"), "sys/bus/pci/drivers/nvidia").link("sys/bus/pci/devices/0000:01:00.0", dir);
    m.file("proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: T4\nDevice Minor: \t 2");
    // A text is no node.
    m.file("dev/nvidia2", "").file("dev/null", "");
    for (name, minor) in [("nvidiactl", 255), ("nvidia-uvm", 0)] {
        let path = m.0.path().join("dev").join(name);
        let kind = rustix::fs::FileType::CharacterDevice;
        let numbers = rustix::fs::makedev(195, minor);
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, rustix::fs::Mode::empty(), numbers).unwrap();
    }
    let found = super::nodes::read(&Tree::copy(m.0.path(), "6.1.0"));
    let [card] = &found[..] else { panic!("{found:?}") };
    let paths: Vec<&str> = card.nodes.iter().map(|node| node.path.as_str()).collect();
    assert_eq!(paths, ["/dev/dri/renderD128", "/dev/nvidiactl", "/dev/nvidia-uvm"]);
    assert_eq!((card.vendor.as_str(), card.pci.as_str(), card.nodes[1].numbers), ("10de", "0000:01:00.0", (195, 255)));
}
