//! `usb`, `gpu`, `unix-hotplug` and processors that come and go: the kernel's messages are real, the hardware is made up,
//! as files below a root that stands for the host's.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;
use support::namespaces::isolated;
use support::{Daemon, Said, eventually};
use warren::sys::uevent::{Uevent, inject};

/// A host's hardware.
struct Hardware(tempfile::TempDir);

impl Hardware {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn daemon(&self) -> Daemon {
        let daemon = Daemon::with_env(&[("WARREN_TEST_HARDWARE", self.0.path().to_str().unwrap())]);
        daemon.set_up("overlay");
        daemon
    }

    fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
        self
    }

    fn link(&self, path: &str, target: &str) -> &Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(self.0.path().join(target), path).unwrap();
        self
    }

    /// Connects a USB device as number `devnum` of bus 1; `dev`: its numbers.
    fn connect(&self, port: &str, (vendor, product): (&str, &str), class: &str, devnum: u32, dev: &str) -> &Self {
        let dir = format!("sys/devices/usb/{port}");
        self.file(&format!("{dir}/idVendor"), vendor).file(&format!("{dir}/idProduct"), product);
        self.file(&format!("{dir}/busnum"), "1").file(&format!("{dir}/devnum"), &devnum.to_string());
        self.file(&format!("{dir}/bDeviceClass"), class).file(&format!("{dir}/dev"), dev);
        self.link(&format!("sys/bus/usb/devices/{port}"), &dir)
    }

    fn disconnect(&self, port: &str) -> &Self {
        fs::remove_file(self.0.path().join("sys/bus/usb/devices").join(port)).unwrap();
        fs::remove_dir_all(self.0.path().join("sys/devices/usb").join(port)).unwrap();
        self
    }

    /// A driver makes a node for what is connected at `port`.
    fn drive(&self, port: &str, kind: &str, numbers: &str, name: &str) -> &Self {
        let dir = format!("sys/devices/usb/{port}/{port}:1.0/class/{name}");
        self.file(&format!("{dir}/uevent"), &format!("DEVNAME={name}"));
        fs::create_dir_all(self.0.path().join("sys/class/driven")).unwrap();
        self.link(&format!("{dir}/subsystem"), "sys/class/driven").link(&format!("sys/dev/{kind}/{numbers}"), &dir)
    }

    /// A graphics card at this address of the PCI bus.
    fn card(&self, pci: &str, (vendor, product): (&str, &str), number: u32, dev: [&str; 2]) -> &Self {
        let dir = format!("sys/devices/pci0000:00/{pci}");
        self.file(&format!("{dir}/class"), "0x030000").file(&format!("{dir}/vendor"), &format!("0x{vendor}"));
        self.file(&format!("{dir}/device"), &format!("0x{product}"));
        self.file(&format!("{dir}/drm/card{number}/dev"), dev[0]);
        self.file(&format!("{dir}/drm/renderD{}/dev", 128 + number), dev[1]);
        self.link(&format!("sys/bus/pci/devices/{pci}"), &dir)
    }
}

/// Makes the kernel tell of a device, as it does of any that comes or goes.
fn uevent(of: &str) {
    fs::write(Path::new("/sys/devices").join(of).join("uevent"), "change").unwrap();
}

fn tell() {
    uevent("virtual/mem/null");
}

fn add(daemon: &Daemon, name: &str, kind: &str, properties: &[&str]) -> Said {
    daemon.lxc(&[&["config", "device", "add", "c1", name, kind], properties].concat())
}

fn node(daemon: &Daemon, path: &str) -> String {
    daemon.lxc(&["exec", "c1", "--", "busybox", "stat", "-c", "%F %t:%T %u:%g %a", path]).out.trim().to_owned()
}

/// Whether it may be opened: its control group says so.
fn opens(daemon: &Daemon, path: &str) -> bool {
    daemon.lxc(&["exec", "c1", "--", "sh", "-c", &format!(": < {path}")]).code == 0
}

#[test]
fn usb_devices_come_and_go() {
    let hardware = Hardware::new();
    let mut daemon = hardware.daemon();
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    add(&daemon, "stick", "usb", &["vendorid=046d", "productid=c52b", "uid=5", "gid=6", "mode=0640"]).ok();
    let (first, second) = ("/dev/bus/usb/001/004", "/dev/bus/usb/001/005");
    assert_eq!(node(&daemon, first), "");
    // Real numbers, so that it can be opened: those of /dev/loop-control.
    hardware.connect("1-1", ("046d", "c52b"), "00", 4, "10:237").connect("1-2", ("046d", "1111"), "00", 9, "10:200");
    tell();
    let is = |daemon: &Daemon, path: &str| node(daemon, path) == "character special file a:ed 5:6 640";
    eventually("it has come", || is(&daemon, first));
    assert!(opens(&daemon, first));
    assert_eq!(node(&daemon, "/dev/bus/usb/001/009"), "");
    // Pulled and plugged: it has another number then.
    hardware.disconnect("1-1").connect("1-1", ("046d", "c52b"), "00", 5, "10:237");
    tell();
    eventually("it is another", || is(&daemon, second) && node(&daemon, first).is_empty());
    assert!(opens(&daemon, second));
    // While there is no daemon.
    daemon.kill();
    hardware.disconnect("1-1");
    daemon.start();
    eventually("it has gone", || node(&daemon, second).is_empty());
    hardware.connect("1-1", ("046d", "c52b"), "00", 4, "10:237");
    tell();
    eventually("it has come again", || is(&daemon, first));
    daemon.lxc(&["config", "device", "set", "c1", "stick", "mode=0600"]).ok();
    assert!(node(&daemon, first).ends_with(" 600"));
    // Two that want the same: one place.
    add(&daemon, "also", "usb", &["vendorid=046d"]).ok();
    assert!(!node(&daemon, first).is_empty() && !node(&daemon, "/dev/bus/usb/001/009").is_empty());
    daemon.lxc(&["config", "device", "remove", "c1", "also"]).ok();
    daemon.lxc(&["config", "device", "remove", "c1", "stick"]).ok();
    assert_eq!(node(&daemon, first), "");
    assert!(!daemon.state().join("devices/c1").exists());
    daemon.lxc(&["stop", "--force", "c1"]).ok();
}

#[test]
fn usb_without_identifiers_is_all_but_hubs() {
    let hardware = Hardware::new();
    hardware.connect("usb1", ("1d6b", "0002"), "09", 1, "10:237").connect("1-2", ("046d", "1111"), "00", 9, "10:237");
    let daemon = hardware.daemon();
    daemon.lxc(&["init", "bb", "c1"]).ok();
    add(&daemon, "all", "usb", &["required=true"]).ok();
    daemon.lxc(&["start", "c1"]).ok();
    let said = daemon.lxc(&["exec", "c1", "--", "ls", "/dev/bus/usb/001"]).ok();
    assert_eq!(said, "009\n");
    assert!(opens(&daemon, "/dev/bus/usb/001/009"));
    add(&daemon, "hub", "usb", &["vendorid=1d6b"]).ok();
    assert_eq!(daemon.lxc(&["exec", "c1", "--", "ls", "/dev/bus/usb/001"]).ok(), "001\n009\n");
    daemon.lxc(&["stop", "--force", "c1"]).ok();
}

#[test]
fn what_is_required_and_absent_refuses_by_name() {
    let hardware = Hardware::new();
    let daemon = hardware.daemon();
    daemon.lxc(&["init", "bb", "c1"]).ok();
    for (kind, properties, words) in [
        ("usb", vec!["vendorid=046d", "productid=c52b", "required=true"], "vendorid=046d productid=c52b"),
        ("unix-hotplug", vec!["vendorid=046d", "required=true"], "vendorid=046d"),
        ("gpu", vec!["pci=01:00.0"], "pci=0000:01:00.0"),
        ("gpu", vec!["id=3", "gputype=physical"], "id=3"),
        ("gpu", vec!["vendorid=10de"], "vendorid=10de"),
    ] {
        add(&daemon, "dev", kind, &properties).ok();
        let said = daemon.lxc(&["start", "c1"]);
        assert!(said.code != 0, "{kind} {properties:?}");
        let log = daemon.lxc(&["info", "c1", "--show-log"]);
        let all = format!("{} {} {}", said.err, log.out, log.err);
        assert!(all.contains("\"dev\"") && all.contains(words), "{all}");
        assert!(!daemon.state().join("devices/c1").exists());
        daemon.lxc(&["config", "device", "remove", "c1", "dev"]).ok();
    }
    daemon.lxc(&["start", "c1"]).ok();
    // On a running one the change is refused.
    add(&daemon, "dev", "usb", &["vendorid=046d", "required=true"]).refused("set required=false");
    add(&daemon, "dev", "gpu", &[]).refused("graphics card");
    add(&daemon, "dev", "gpu", &["gputype=mdev"]).refused("\"gputype\"");
    assert_eq!(daemon.lxc(&["config", "device", "list", "c1"]).ok().trim(), "");
    daemon.lxc(&["stop", "--force", "c1"]).ok();
}

#[test]
fn unix_hotplug_follows_what_drivers_make() {
    let hardware = Hardware::new();
    let daemon = hardware.daemon();
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    add(&daemon, "modem", "unix-hotplug", &["vendorid=2341", "uid=7", "required=false"]).ok();
    hardware.connect("1-1", ("2341", "0043"), "02", 4, "10:237").drive("1-1", "char", "10:237", "ttyACM7");
    hardware.drive("1-1", "block", "7:250", "sdx");
    hardware.connect("1-2", ("9999", "0043"), "02", 5, "10:237").drive("1-2", "char", "10:200", "ttyACM8");
    tell();
    eventually("both have come", || {
        node(&daemon, "/dev/ttyACM7") == "character special file a:ed 7:0 660"
            && node(&daemon, "/dev/sdx") == "block special file 7:fa 7:0 660"
    });
    assert!(opens(&daemon, "/dev/ttyACM7"));
    assert_eq!((node(&daemon, "/dev/ttyACM8"), node(&daemon, "/dev/bus/usb/001/004")), Default::default());
    hardware.disconnect("1-1");
    tell();
    eventually("both have gone", || node(&daemon, "/dev/ttyACM7").is_empty() && node(&daemon, "/dev/sdx").is_empty());
    daemon.lxc(&["stop", "--force", "c1"]).ok();
}

#[test]
fn gpu_nodes_are_those_of_the_card() {
    let hardware = Hardware::new();
    hardware.card("0000:01:00.0", ("8086", "1912"), 0, ["10:237", "226:128"]);
    hardware.card("0000:02:00.0", ("1002", "73bf"), 1, ["226:1", "226:129"]);
    let daemon = hardware.daemon();
    daemon.lxc(&["init", "bb", "c1"]).ok();
    add(&daemon, "card", "gpu", &["pci=01:00.0", "gid=44", "mode=0666"]).ok();
    daemon.lxc(&["start", "c1"]).ok();
    let list = |daemon: &Daemon| daemon.lxc(&["exec", "c1", "--", "ls", "/dev/dri"]).out;
    assert_eq!(list(&daemon), "card0\nrenderD128\n");
    assert_eq!(node(&daemon, "/dev/dri/card0"), "character special file a:ed 0:44 666");
    assert!(opens(&daemon, "/dev/dri/card0"));
    // Live, by number, by identifiers, all of them; with a profile.
    daemon.lxc(&["config", "device", "remove", "c1", "card"]).ok();
    assert_eq!(list(&daemon), "");
    for (properties, wanted) in [
        (vec!["id=1"], "card1\nrenderD129\n"),
        (vec!["vendorid=8086", "productid=1912"], "card0\nrenderD128\n"),
        (vec![], "card0\ncard1\nrenderD128\nrenderD129\n"),
    ] {
        add(&daemon, "card", "gpu", &properties).ok();
        assert_eq!(list(&daemon), wanted, "{properties:?}");
        daemon.lxc(&["config", "device", "remove", "c1", "card"]).ok();
    }
    daemon.lxc(&["profile", "device", "add", "default", "card", "gpu", "uid=3"]).ok();
    assert!(node(&daemon, "/dev/dri/card1").ends_with(" 3:0 660"));
    daemon.lxc(&["profile", "device", "remove", "default", "card"]).ok();
    assert_eq!(list(&daemon), "");
    daemon.lxc(&["stop", "--force", "c1"]).ok();
}

#[test]
fn processors_are_given_out_anew_when_some_come_or_go() {
    let online = |hardware: &Hardware, cpus: &str| {
        hardware.file("sys/devices/system/cpu/online", cpus);
        // The message alone: no processor is touched.
        uevent("system/cpu/cpu0");
    };
    let hardware = Hardware::new();
    hardware.file("sys/devices/system/cpu/online", "0-1");
    let daemon = hardware.daemon();
    daemon.lxc(&["launch", "bb", "c1", "-c", "limits.cpu=2"]).ok();
    let path = daemon.cgroup_file("c1", "cpuset", "cpuset.cpus", "cpuset.cpus");
    let given = || fs::read_to_string(&path).unwrap().trim().to_owned();
    assert_eq!(given(), "0-1");
    online(&hardware, "0");
    eventually("one is gone", || given() == "0");
    // The kernel takes processors from groups of version 1 by itself, and gives none back.
    fs::write(&path, "1").unwrap();
    online(&hardware, "0");
    eventually("written again", || given() == "0");
    online(&hardware, "0-1");
    eventually("it is back", || given() == "0-1");
    // The group above them and one without a limit lose it, too, from the leaves up, as the kernel does it.
    daemon.lxc(&["launch", "bb", "c2"]).ok();
    let other = daemon.cgroup_file("c2", "cpuset", "cpuset.cpus", "cpuset.cpus");
    let parent = other.parent().and_then(Path::parent).unwrap();
    assert!(parent.to_string_lossy().contains("/warren."), "{}", parent.display());
    for group in fs::read_dir(parent).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        fs::write(group.path().join("cpuset.cpus"), "0").unwrap();
    }
    fs::write(parent.join("cpuset.cpus"), "0").unwrap();
    online(&hardware, "0-1");
    let has = |path: &Path| fs::read_to_string(path).unwrap().trim() == "0-1";
    eventually("it is back everywhere", || has(&path) && has(&other) && has(&parent.join("cpuset.cpus")));
    daemon.lxc(&["delete", "--force", "c2"]).ok();
    let (status, _) = daemon.api("PATCH", "/1.0/instances/c1", &json!({"config": {"limits.cpu": "1"}}).to_string());
    assert_eq!((status, given().len()), (200, 1));
    daemon.lxc(&["stop", "--force", "c1"]).ok();
}

/// What udev inside would hear. Numbers of the made-up hardware are in the message that is sent as the kernel's.
#[test]
fn what_the_kernel_tells_of_its_nodes_is_told_inside() {
    isolated("what_the_kernel_tells_of_its_nodes_is_told_inside", || {
        let hardware = Hardware::new();
        let daemon = hardware.daemon();
        daemon.lxc(&["launch", "bb", "c1"]).ok();
        add(&daemon, "stick", "usb", &["vendorid=1234"]).ok();
        add(&daemon, "disk", "unix-hotplug", &["vendorid=1234"]).ok();
        // At the word the node can be used.
        let script = "#!/bin/sh\n[ \"$MAJOR\" ] || exit 0\ntest -e /dev/$DEVNAME && there=there || there=gone\n\
                      echo $ACTION $SUBSYSTEM $DEVNAME $there >> /tmp/heard\n";
        let from = daemon.root.join("heard.sh");
        fs::write(&from, script).unwrap();
        daemon.lxc(&["file", "push", "--mode=0755", from.to_str().unwrap(), "c1/tmp/heard.sh"]).ok();
        let listen = "(busybox uevent /tmp/heard.sh > /dev/null 2>&1 < /dev/null &); : > /tmp/heard";
        daemon.lxc(&["exec", "c1", "--", "sh", "-c", listen]).ok();
        // Group 1 of protocol 15, NETLINK_KOBJECT_UEVENT.
        let listens = "grep -q ' 15 .* 00000001 ' /proc/net/netlink";
        eventually("it listens", || daemon.lxc(&["exec", "c1", "--", "sh", "-c", listens]).code == 0);
        let heard = || daemon.lxc(&["exec", "c1", "--", "cat", "/tmp/heard"]).ok();
        let kernel = |action: &str, subsystem: &str, (major, minor): (&str, &str), name: &str| {
            let text = format!(
                "{action}@/devices/x\0ACTION={action}\0DEVPATH=/devices/x\0SUBSYSTEM={subsystem}\0MAJOR={major}\0\
                 MINOR={minor}\0DEVNAME={name}\0"
            );
            inject(&Uevent::parse(text.as_bytes()).unwrap()).unwrap();
        };
        hardware.connect("1-1", ("1234", "5678"), "00", 4, "10:237").drive("1-1", "block", "7:250", "sdx");
        kernel("add", "usb", ("10", "237"), "bus/usb/001/004");
        // None of its business; and a character device with the disk's numbers.
        kernel("add", "usb", ("10", "1"), "bus/usb/001/001");
        kernel("add", "tty", ("7", "250"), "sdx");
        kernel("add", "block", ("7", "250"), "sdx");
        let added = "add usb bus/usb/001/004 there\nadd block sdx there\n";
        eventually("both are heard of", || heard().lines().count() >= 2);
        assert_eq!(heard(), added);
        hardware.disconnect("1-1");
        // At the first word both are taken out; the second is told all the same.
        kernel("remove", "block", ("7", "250"), "sdx");
        eventually("one is heard of", || heard().lines().count() >= 3);
        kernel("remove", "usb", ("10", "237"), "bus/usb/001/004");
        eventually("both are heard of", || heard().lines().count() >= 4);
        assert_eq!(heard(), format!("{added}remove block sdx gone\nremove usb bus/usb/001/004 gone\n"));
        daemon.lxc(&["stop", "--force", "c1"]).ok();
    });
}
