//! Disks and device nodes: from the start, into and out of running containers, refused, and nothing of them left.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use support::{Daemon, Said, eventually};

/// A directory of the host with a file `who` that says `name`.
fn source(daemon: &Daemon, name: &str) -> PathBuf {
    let dir = daemon.root.join("sources").join(name);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("who"), name).unwrap();
    dir
}

fn sh(daemon: &Daemon, name: &str, script: &str) -> Said {
    daemon.lxc(&["exec", name, "--", "sh", "-c", script])
}

fn add(daemon: &Daemon, name: &str, device: &str, kind: &str, properties: &[&str]) -> Said {
    daemon.lxc(&[&["config", "device", "add", name, device, kind], properties].concat())
}

fn disk(daemon: &Daemon, name: &str, device: &str, from: &str, path: &str, more: &[&str]) -> Said {
    let (from, path) = (format!("source={}", source(daemon, from).display()), format!("path={path}"));
    add(daemon, name, device, "disk", &[&[from.as_str(), path.as_str()], more].concat())
}

fn devices_dir(daemon: &Daemon, name: &str) -> Vec<String> {
    let entries = fs::read_dir(daemon.state().join("devices").join(name)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Mounts of the host below the directory of devices.
fn host_mounts(daemon: &Daemon) -> usize {
    let place = daemon.state().join("devices");
    fs::read_to_string("/proc/self/mountinfo").unwrap().matches(place.to_str().unwrap()).count()
}

#[test]
fn disks_are_there_from_the_start() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    disk(&daemon, "c1", "data", "data", "/mnt/da ta", &[]).ok();
    // A mount point on another disk is the host's to make: the container's root may not write there.
    fs::create_dir(source(&daemon, "data").join("below")).unwrap();
    disk(&daemon, "c1", "below", "below", "/mnt/da ta/below", &[]).ok();
    disk(&daemon, "c1", "ro", "ro", "/ro", &["readonly=true"]).ok();
    disk(&daemon, "c1", "mine", "mine", "/mine", &["shift=true"]).ok();
    disk(&daemon, "c1", "opts", "opts", "/opts", &["raw.mount.options=noexec,nosuid", "propagation=rslave"]).ok();
    let file = source(&daemon, "file").join("who");
    add(&daemon, "c1", "file", "disk", &[&format!("source={}", file.display()), "path=/etc/one-file"]).ok();
    add(&daemon, "c1", "none", "disk", &["source=/nowhere/at/all", "path=/none", "required=false"]).ok();
    daemon.lxc(&["start", "c1"]).ok();
    let all = "cat '/mnt/da ta/who' '/mnt/da ta/below/who' /ro/who /mine/who /etc/one-file; ls /none";
    let said = sh(&daemon, "c1", all);
    assert_eq!(said.out, "databelowrominefile", "{}", said.err);
    // Read-only for good, also for root inside.
    let said = sh(&daemon, "c1", "echo x > /ro/x; mount -o remount,bind,rw /ro; echo x > /ro/x");
    assert_ne!(said.code, 0);
    assert!(!source(&daemon, "ro").join("x").exists());
    // Ids are those of the host, but where they are shifted.
    sh(&daemon, "c1", "echo x > /mine/new && ls -ln /mine/new | grep -q ' 0        0 '").ok();
    assert_eq!(fs::metadata(source(&daemon, "mine").join("new")).unwrap().uid(), 0);
    assert_ne!(sh(&daemon, "c1", "echo x > '/mnt/da ta/new'").code, 0);
    let mounts = sh(&daemon, "c1", "cat /proc/self/mountinfo").ok();
    let opts = mounts.lines().find(|line| line.contains(" /opts ")).unwrap();
    assert!(opts.contains("noexec") && opts.contains("nosuid"), "{opts}");
    assert_eq!(host_mounts(&daemon), 0);
    assert_eq!(devices_dir(&daemon, "c1"), ["plugged.json"]);
    daemon.lxc(&["restart", "--force", "c1"]).ok();
    assert_eq!(sh(&daemon, "c1", all).out, "databelowrominefile");
    daemon.lxc(&["stop", "--force", "c1"]).ok();
    assert!(!daemon.state().join("devices/c1").exists());
    // A source that must be there is not.
    add(&daemon, "c1", "no", "disk", &["source=/nowhere", "path=/no"]).refused("Device \"no\": the host has no");
    fs::remove_dir_all(source(&daemon, "data")).unwrap();
    daemon.lxc(&["start", "c1"]).refused("Device \"data\": the host has no");
    assert!(!daemon.state().join("devices/c1").exists());
    assert_eq!(host_mounts(&daemon), 0);
}

#[test]
fn disks_come_and_go_while_it_runs() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    disk(&daemon, "c1", "data", "data", "/mnt/deep/er", &[]).ok();
    assert_eq!(sh(&daemon, "c1", "cat /mnt/deep/er/who").ok(), "data");
    disk(&daemon, "c1", "ro", "ro", "/ro", &["readonly=true"]).ok();
    let said = sh(&daemon, "c1", "echo x > /ro/x; mount -o remount,bind,rw /ro; echo x > /ro/x");
    assert_ne!(said.code, 0);
    assert!(!source(&daemon, "ro").join("x").exists());
    disk(&daemon, "c1", "mine", "mine", "/mine", &["shift=true"]).ok();
    sh(&daemon, "c1", "echo x > /mine/new").ok();
    assert_eq!(fs::metadata(source(&daemon, "mine").join("new")).unwrap().uid(), 0);
    let file = source(&daemon, "file").join("who");
    add(&daemon, "c1", "file", "disk", &[&format!("source={}", file.display()), "path=/etc/one-file"]).ok();
    assert_eq!(sh(&daemon, "c1", "cat /etc/one-file").ok(), "file");
    // Changed: taken out and put in.
    let other = format!("source={}", source(&daemon, "other").display());
    daemon.lxc(&["config", "device", "set", "c1", "data", &other]).ok();
    assert_eq!(sh(&daemon, "c1", "cat /mnt/deep/er/who").ok(), "other");
    // They are there again when it reboots itself.
    let pid = daemon.instance_pid("c1");
    // It may end before its exit is told.
    let _ = sh(&daemon, "c1", "reboot");
    eventually("it has rebooted", || {
        ![0, pid].contains(&daemon.instance_pid("c1")) && daemon.status("c1") == "Running"
    });
    // What was there from the start goes, too.
    assert_eq!(sh(&daemon, "c1", "cat /mnt/deep/er/who /ro/who /mine/who").ok(), "otherromine");
    for device in ["data", "ro", "file"] {
        daemon.lxc(&["config", "device", "remove", "c1", device]).ok();
    }
    assert_eq!(sh(&daemon, "c1", "ls /mnt/deep/er /ro; cat /etc/one-file").out, "/mnt/deep/er:\n\n/ro:\n");
    assert_eq!(sh(&daemon, "c1", "cat /mine/who").ok(), "mine");
    assert!(daemon.lxc(&["config", "device", "remove", "c1", "mine"]).ok().contains("mine"));
    assert!(!daemon.state().join("devices/c1").exists());
    assert_eq!(host_mounts(&daemon), 0);
    // All or nothing: the second of two cannot be had.
    let body = format!(
        r#"{{"config":{{"user.a":"b"}},"devices":{{"a":{{"type":"disk","path":"/a","source":"{}"}},"b":{{"type":"disk","path":"/bb","source":"/nowhere"}}}}}}"#,
        source(&daemon, "a").display()
    );
    let (status, answer) = daemon.api("PATCH", "/1.0/instances/c1", &body);
    assert_eq!(status, 400, "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("Device \"b\": the host has no \"/nowhere\""), "{answer}");
    assert_ne!(sh(&daemon, "c1", "cat /a/who").code, 0);
    assert!(!daemon.state().join("devices/c1").exists());
    let (_, answer) = daemon.api("GET", "/1.0/instances/c1", "");
    assert_eq!(answer["metadata"]["devices"], serde_json::json!({}));
}

#[test]
fn mounts_below_others_stay_with_what_happens_above_them() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    fs::create_dir(source(&daemon, "top").join("q")).unwrap();
    disk(&daemon, "c1", "top", "top", "/srv/p", &[]).ok();
    disk(&daemon, "c1", "deep", "deep", "/srv/p/q", &[]).ok();
    assert_eq!(sh(&daemon, "c1", "cat /srv/p/who /srv/p/q/who").ok(), "topdeep");
    daemon.lxc(&["config", "device", "set", "c1", "top", "readonly=true"]).ok();
    assert_eq!(sh(&daemon, "c1", "cat /srv/p/who /srv/p/q/who").ok(), "topdeep");
    assert_ne!(sh(&daemon, "c1", "echo x > /srv/p/x").code, 0);
    daemon.lxc(&["config", "device", "remove", "c1", "top"]).ok();
    assert_eq!(sh(&daemon, "c1", "cat /srv/p/q/who; ls /srv/p").ok(), "deepq\n");
    // One that comes lies below what was there.
    disk(&daemon, "c1", "top", "top", "/srv/p", &[]).ok();
    assert_eq!(sh(&daemon, "c1", "cat /srv/p/who /srv/p/q/who").ok(), "topdeep");
    daemon.lxc(&["restart", "--force", "c1"]).ok();
    assert_eq!(sh(&daemon, "c1", "cat /srv/p/who /srv/p/q/who").ok(), "topdeep");

    for propagation in ["unbindable", "runbindable"] {
        disk(&daemon, "c1", "un", "un", "/un", &[&format!("propagation={propagation}")]).ok();
        assert_eq!(sh(&daemon, "c1", "cat /un/who; busybox mkdir /el; busybox mount -o bind /un /el").out, "un");
        assert_ne!(sh(&daemon, "c1", "busybox mount -o bind /un /el").code, 0);
        daemon.lxc(&["config", "device", "set", "c1", "un", "readonly=true"]).ok();
        daemon.lxc(&["config", "device", "remove", "c1", "un"]).ok();
    }
}

#[test]
fn privileged_ones_and_a_plain_directory_have_them_too() {
    let daemon = Daemon::ready("dir");
    daemon.lxc(&["init", "bb", "c1", "-c", "security.privileged=true"]).ok();
    daemon.lxc(&["init", "bb", "c2"]).ok();
    for name in ["c1", "c2"] {
        disk(&daemon, name, "start", "start", "/start", &[]).ok();
        daemon.lxc(&["start", name]).ok();
        disk(&daemon, name, "live", "live", "/live/x", &["readonly=true"]).ok();
        add(&daemon, name, "null", "unix-char", &["path=/dev/mynull", "source=/dev/null"]).ok();
        let said = sh(&daemon, name, "cat /start/who /live/x/who; echo x > /dev/mynull && echo ok");
        assert_eq!(said.out, "startliveok\n", "{}", said.err);
        for device in ["start", "live", "null"] {
            daemon.lxc(&["config", "device", "remove", name, device]).ok();
        }
        assert_eq!(sh(&daemon, name, "ls /start /live/x /dev/mynull").out, "/live/x:\n\n/start:\n");
        // What everybody has is not taken away with it.
        sh(&daemon, name, "echo x > /dev/null").ok();
    }
}

#[test]
fn nodes_from_the_start_and_while_it_runs() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    // A device that no container has by itself.
    add(&daemon, "c1", "log", "unix-char", &["path=/dev/my-log", "source=/dev/loop-control", "uid=5", "mode=0604"])
        .ok();
    let node = daemon.state().join("devices/c1/unix.log.dev-my--log");
    let host = fs::metadata(&node).unwrap();
    assert!(host.file_type().is_char_device() && host.permissions().mode() & 0o777 == 0o604);
    assert_ne!(host.uid(), 5, "shifted");
    let look = "ls -ln /dev/my-log; (: < /dev/my-log) && echo readable";
    let said = sh(&daemon, "c1", look).ok();
    assert!(said.starts_with("crw----r--    1 5        0          10, 237 ") && said.ends_with("readable\n"), "{said}");
    daemon.lxc(&["config", "device", "set", "c1", "log", "uid=7"]).ok();
    assert!(sh(&daemon, "c1", look).ok().contains(" 1 7 "));
    daemon.lxc(&["restart", "--force", "c1"]).ok();
    assert!(sh(&daemon, "c1", look).ok().ends_with("readable\n"));
    // Gone, and an opened name of it is of no use: the control group says no.
    sh(&daemon, "c1", "mkdir -p /keep; : > /keep/log; mount --bind /dev/my-log /keep/log").ok();
    daemon.lxc(&["config", "device", "remove", "c1", "log"]).ok();
    assert_ne!(sh(&daemon, "c1", "ls /dev/my-log").code, 0);
    assert_ne!(sh(&daemon, "c1", "(: < /keep/log)").code, 0);
    // Of two with the same numbers the other stays.
    for device in ["one", "two"] {
        let path = format!("path=/dev/{device}");
        add(&daemon, "c1", device, "unix-char", &[&path, "source=/dev/loop-control"]).ok();
    }
    daemon.lxc(&["config", "device", "remove", "c1", "one"]).ok();
    sh(&daemon, "c1", "(: < /dev/two)").ok();
    daemon.lxc(&["config", "device", "remove", "c1", "two"]).ok();
    assert!(!daemon.state().join("devices/c1").exists());
    // By numbers, without any source on the host; a block device.
    add(&daemon, "c1", "blk", "unix-block", &["path=/dev/blk", "major=7", "minor=250"]).ok();
    let said = sh(&daemon, "c1", "ls -ln /dev/blk").ok();
    assert!(said.starts_with("brw-rw----    1 0        0 ") && said.contains(" 7, 250 "), "{said}");
    add(&daemon, "c1", "usb", "unix-hotplug", &["vendorid=1234"]).ok();
    daemon.lxc(&["stop", "--force", "c1"]).ok();
    assert!(!daemon.state().join("devices/c1").exists());
    daemon.lxc(&["start", "c1"]).ok();
    assert_eq!(devices_dir(&daemon, "c1"), ["plugged.json", "unix.blk.dev-blk"]);
    add(&daemon, "c1", "no", "unix-char", &["path=/dev/none"]).refused("Device \"no\": the host has no \"/dev/none\"");
    add(&daemon, "c1", "no", "unix-block", &["path=/dev/null"]).refused("is no block device");
    add(&daemon, "c1", "no", "unix-char", &["path=/dev/none", "required=false"]).ok();
}

#[test]
fn a_profile_gives_them_to_all_and_none_masks_one() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["profile", "create", "more"]).ok();
    for name in ["a", "b", "down"] {
        daemon.lxc(&["init", "bb", name, "-p", "default", "-p", "more"]).ok();
    }
    for name in ["a", "b"] {
        daemon.lxc(&["start", name]).ok();
    }
    let from = format!("source={}", source(&daemon, "data").display());
    daemon.lxc(&["profile", "device", "add", "more", "data", "disk", &from, "path=/data"]).ok();
    let who = |name: &str| sh(&daemon, name, "cat /data/who 2>/dev/null").out;
    assert_eq!([who("a"), who("b")], ["data", "data"]);
    // Masked: gone at once, from this one.
    add(&daemon, "b", "data", "none", &[]).ok();
    assert_eq!([who("a"), who("b")], ["data", ""]);
    daemon.lxc(&["config", "device", "remove", "b", "data"]).ok();
    assert_eq!(who("b"), "data");
    // One that cannot follow keeps all as they are.
    sh(&daemon, "b", "echo x > /file").ok();
    let refused = daemon.lxc(&["profile", "device", "set", "more", "data", "path=/file"]);
    refused.refused("; b: Device \"data\":");
    assert_eq!([who("a"), who("b")], ["data", "data"]);
    assert_ne!(sh(&daemon, "a", "cat /file/who").code, 0);
    daemon.lxc(&["profile", "device", "remove", "more", "data"]).ok();
    assert_eq!([who("a"), who("b")], ["", ""]);
    daemon.lxc(&["start", "down"]).ok();
    assert_eq!(who("down"), "");
}

#[test]
fn links_inside_lead_nowhere_but_inside() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    let outside = daemon.root.join("sources/outside");
    fs::create_dir_all(&outside).unwrap();
    let up = format!("../../../../../../../../../..{}", outside.display());
    sh(&daemon, "c1", &format!("ln -s {up} /up; ln -s {} /abs; mkdir -p /in; ln -s /in /good", outside.display())).ok();
    // They count from the container's root, where that does not exist: nothing is made of it on the host.
    disk(&daemon, "c1", "d", "d", "/up/x", &[]).refused("Device \"d\"");
    disk(&daemon, "c1", "d", "d", "/abs", &[]).refused("Device \"d\"");
    disk(&daemon, "c1", "d", "d", "/good/x", &[]).ok();
    assert_eq!(sh(&daemon, "c1", "cat /in/x/who").ok(), "d");
    daemon.lxc(&["config", "device", "remove", "c1", "d"]).ok();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    // One that changes under the hands of the one who mounts.
    let race = format!(
        "mkdir -p /race/dir{0}; cd /race; while :; do mv dir old; ln -s {up} dir; mv dir gone; mv old dir; rm -f gone; done",
        outside.display()
    );
    let body = serde_json::json!({"command": ["sh", "-c", race], "environment": {}, "interactive": false}).to_string();
    let (status, answer) = daemon.api("POST", "/1.0/instances/c1/exec", &body);
    assert_eq!(status, 202, "{answer}");
    let mut attached = 0;
    for round in 0..40 {
        let said = disk(&daemon, "c1", "d", "d", "/race/dir/x", &[]);
        if said.code == 0 {
            attached += 1;
            daemon.lxc(&["config", "device", "remove", "c1", "d"]).ok();
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "round {round}");
        assert_eq!(host_mounts(&daemon), 0, "round {round}");
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(outside.to_str().unwrap()));
    // The link was in the way some times, the directory others.
    println!("{attached} of 40 were attached, inside");
    assert!(attached > 0);
    // Before a start, too: nothing runs that could race, but the link is there.
    sh(&daemon, "c1", "rm -f /up; ln -s /in /late").ok();
    daemon.lxc(&["stop", "--force", "c1"]).ok();
    disk(&daemon, "c1", "d", "d", "/late/y", &[]).ok();
    daemon.lxc(&["start", "c1"]).ok();
    assert_eq!(sh(&daemon, "c1", "cat /in/y/who").ok(), "d");
}

#[test]
fn a_source_that_is_swapped_later_changes_nothing() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    let (one, two) = (source(&daemon, "one"), source(&daemon, "two"));
    let link = daemon.root.join("sources/link");
    symlink(&one, &link).unwrap();
    add(&daemon, "c1", "d", "disk", &[&format!("source={}", link.display()), "path=/d"]).ok();
    fs::remove_file(&link).unwrap();
    symlink(&two, &link).unwrap();
    assert_eq!(sh(&daemon, "c1", "cat /d/who").ok(), "one");
    daemon.lxc(&["config", "device", "remove", "c1", "d"]).ok();
    assert_eq!(sh(&daemon, "c1", "ls /d").ok(), "");
}

/// The physical disk that holds `path`, if one does.
fn physical(path: &std::path::Path) -> Option<String> {
    let number = fs::metadata(path).unwrap().dev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let place = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    if place.join("partition").exists() {
        let disk = fs::canonicalize(place).unwrap().join("../dev");
        return Some(fs::read_to_string(disk).unwrap().trim().to_owned());
    }
    (major != 0).then(|| format!("{major}:{minor}"))
}

#[test]
fn disks_are_held_to_their_speed() {
    let mut daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    let Some(number) = physical(&source(&daemon, "a")) else {
        println!("the tests lie on no physical disk");
        return;
    };
    let limits = |daemon: &Daemon| {
        let pid = daemon.instance_pid("c1");
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let of = |wanted: &str| {
            let mut lines = groups.lines().map(|line| line.splitn(3, ':').skip(1).collect::<Vec<_>>());
            lines.find(|fields| fields[0] == wanted).map(|fields| fields[1].trim_start_matches('/').to_owned())
        };
        let Some(group) = of("blkio") else {
            return fs::read_to_string(PathBuf::from("/sys/fs/cgroup").join(of("").unwrap()).join("io.max")).unwrap();
        };
        let dir = PathBuf::from("/sys/fs/cgroup/blkio").join(group);
        let names = [("rbps", "read_bps"), ("riops", "read_iops"), ("wbps", "write_bps"), ("wiops", "write_iops")];
        let mut text = String::new();
        for (word, file) in names {
            let lines = fs::read_to_string(dir.join(format!("blkio.throttle.{file}_device"))).unwrap();
            if let Some(value) = lines.lines().find_map(|line| line.strip_prefix(&format!("{number} "))) {
                text.push_str(&format!("{word}={value} "));
            }
        }
        text
    };
    disk(&daemon, "c1", "a", "a", "/a", &["limits.read=10MB"]).ok();
    daemon.lxc(&["start", "c1"]).ok();
    assert!(limits(&daemon).contains("rbps=10000000"), "{}", limits(&daemon));
    // Another on the same disk: the mean. Its mount is not touched by a change of its limits.
    disk(&daemon, "c1", "b", "b", "/b", &["limits.max=20MB"]).ok();
    assert!(limits(&daemon).contains("rbps=15000000") && limits(&daemon).contains("wbps=20000000"));
    let mounts = sh(&daemon, "c1", "cat /proc/self/mountinfo").ok();
    daemon.lxc(&["config", "device", "set", "c1", "b", "limits.max=300iops"]).ok();
    let now = limits(&daemon);
    assert!(now.contains("rbps=10000000") && now.contains("riops=300") && now.contains("wiops=300"), "{now}");
    assert!(!now.contains("wbps=2"), "{now}");
    assert_eq!(sh(&daemon, "c1", "cat /proc/self/mountinfo").ok(), mounts);
    daemon.kill();
    daemon.start();
    daemon.lxc(&["config", "device", "remove", "c1", "b"]).ok();
    assert!(limits(&daemon).contains("rbps=10000000") && !limits(&daemon).contains("riops=3"));
    // What is on no disk is not limited, and says so.
    let refused = add(&daemon, "c1", "v", "disk", &["source=/proc", "path=/v", "limits.max=1MB"]);
    refused.refused("Device \"v\": limits.read");
    assert!(limits(&daemon).contains("rbps=10000000"));
    assert_ne!(sh(&daemon, "c1", "ls /v/self").code, 0);
    daemon.lxc(&["config", "device", "remove", "c1", "a"]).ok();
    assert!(!limits(&daemon).contains("rbps=1"), "{}", limits(&daemon));
}

#[test]
fn the_file_system_of_a_block_device() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    let image = daemon.root.join("disk.img");
    support::run(std::process::Command::new("truncate").args(["-s", "16M"]).arg(&image));
    let tree = source(&daemon, "fs");
    support::run(std::process::Command::new("mkfs.ext4").args(["-q", "-d"]).arg(&tree).arg(&image));
    let output = std::process::Command::new("losetup").args(["--find", "--show"]).arg(&image).output().unwrap();
    let device = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(device.starts_with("/dev/loop"), "{}", String::from_utf8_lossy(&output.stderr));
    let from = format!("source={device}");
    let said = add(&daemon, "c1", "d", "disk", &[&from, "path=/d", "raw.mount.options=noatime"]);
    let inside = sh(&daemon, "c1", "cat /d/who; grep ' /d ' /proc/self/mountinfo");
    let again = daemon.lxc(&["restart", "--force", "c1"]);
    let later = sh(&daemon, "c1", "cat /d/who");
    let removed = daemon.lxc(&["config", "device", "remove", "c1", "d"]);
    let after = sh(&daemon, "c1", "ls /d");
    support::run(std::process::Command::new("losetup").args(["--detach", &device]));
    eventually("nobody holds the device", || {
        let name = device.trim_start_matches("/dev/");
        !std::path::Path::new(&format!("/sys/block/{name}/loop/backing_file")).exists()
    });
    said.ok();
    again.ok();
    removed.ok();
    assert!(inside.out.starts_with("fs") && inside.out.contains("noatime"), "{} {}", inside.out, inside.err);
    assert_eq!((later.out.as_str(), after.out.as_str()), ("fs", ""));
    // No file system: mount's own words.
    add(&daemon, "c1", "d", "disk", &["source=/dev/zram0x", "path=/d"]).refused("\"/dev/zram0x\"");
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    let from = format!("source={}", source(&daemon, "d").display());
    for (kind, properties, words) in [
        ("disk", vec![from.as_str(), "path=/d", "color=red"], ["\"dev\"", "\"color\""]),
        ("disk", vec![from.as_str(), "path=/../d"], ["\"dev\"", "\"path\""]),
        ("disk", vec!["path=/d"], ["\"dev\"", "\"source\""]),
        ("disk", vec!["source=vol", "pool=nosuch", "path=/d"], ["\"dev\"", "Storage pool \"nosuch\""]),
        ("disk", vec![from.as_str(), "path=/d", "size=1GB"], ["\"dev\"", "\"size\""]),
        ("disk", vec![from.as_str(), "path=/d", "readonly=maybe"], ["\"dev\"", "\"readonly\""]),
        ("disk", vec![from.as_str(), "path=/d", "limits.read=fast"], ["\"dev\"", "\"limits.read\""]),
        ("disk", vec![from.as_str(), "path=/d", "raw.mount.options=data=x"], ["\"dev\"", "raw.mount.options"]),
        ("disk", vec!["source=/proc", "path=/d", "shift=true"], ["\"dev\"", "shift"]),
        ("unix-char", vec!["path=/dev/x", "major=1"], ["\"dev\"", "\"minor\""]),
        ("unix-char", vec!["path=/dev/x", "mode=abc"], ["\"dev\"", "\"mode\""]),
        ("unix-hotplug", vec!["path=/dev/x"], ["\"dev\"", "\"vendorid\""]),
        ("unix-mouse", vec!["path=/dev/x"], ["\"dev\"", "\"unix-mouse\""]),
    ] {
        let said = add(&daemon, "c1", "dev", kind, &properties);
        for word in words {
            assert!(said.code != 0 && said.err.contains(word), "{kind} {properties:?}: {} {}", said.out, said.err);
        }
    }
    disk(&daemon, "c1", "one", "d", "/d", &[]).ok();
    disk(&daemon, "c1", "two", "d", "/d/", &[]).refused("\"one\" and \"two\" both have the path \"/d\"");
    assert_eq!(daemon.lxc(&["config", "device", "list", "c1"]).ok().trim(), "one");
}

#[test]
fn a_crash_while_devices_come_and_go_leaves_nothing() {
    let mut daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    disk(&daemon, "c1", "steady", "steady", "/steady", &[]).ok();
    let pid = daemon.instance_pid("c1");
    let both = serde_json::json!({
        "d": {"type": "disk", "path": "/d", "source": source(&daemon, "d")},
        "n": {"type": "unix-char", "path": "/dev/n", "source": "/dev/loop-control"},
    });
    let steady = serde_json::json!({
        "steady": {"type": "disk", "path": "/steady", "source": source(&daemon, "steady")},
    });
    for round in 0..12u64 {
        // Either they come, or they go.
        let coming = round % 2 == 0;
        let (method, body) = if coming {
            ("PATCH", serde_json::json!({"devices": both}))
        } else {
            assert_eq!(
                daemon.api("PATCH", "/1.0/instances/c1", &serde_json::json!({"devices": both}).to_string()).0,
                200
            );
            assert_eq!(sh(&daemon, "c1", "cat /d/who; ls /dev/n").ok(), "d/dev/n\n");
            ("PUT", serde_json::json!({"devices": steady, "profiles": ["default"]}))
        };
        let socket = daemon.socket();
        let asking = std::thread::spawn(move || {
            use std::io::{Read, Write};
            let Ok(mut stream) = std::os::unix::net::UnixStream::connect(socket) else { return };
            let body = body.to_string();
            let head = "/1.0/instances/c1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
            let _ = write!(
                stream,
                "{method} {head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.read_to_end(&mut Vec::new());
        });
        std::thread::sleep(std::time::Duration::from_millis(round * 3));
        daemon.kill();
        asking.join().unwrap();
        daemon.start();
        assert_eq!(daemon.instance_pid("c1"), pid);
        // What is inside is what the definition says, whichever that is.
        let (_, answer) = daemon.api("GET", "/1.0/instances/c1", "");
        let defined = answer["metadata"]["devices"]["d"].is_object();
        let said = sh(&daemon, "c1", "cat /steady/who /d/who; ls /dev/n").out;
        let wanted = if defined { "steadyd/dev/n\n" } else { "steady" };
        assert_eq!(said, wanted, "round {round}");
        let mut files = vec!["plugged.json"];
        files.extend(defined.then_some("unix.n.dev-n"));
        assert_eq!(devices_dir(&daemon, "c1"), files, "round {round}");
        assert_eq!(host_mounts(&daemon), 0);
        if defined {
            for device in ["d", "n"] {
                daemon.lxc(&["config", "device", "remove", "c1", device]).ok();
            }
        }
    }
    // Planted: what a start that was cut off leaves, and a container that went down with nobody there.
    daemon.lxc(&["init", "bb", "c2"]).ok();
    daemon.kill();
    let stage = daemon.state().join("devices/c2/disk.d.d");
    fs::create_dir_all(&stage).unwrap();
    support::run(std::process::Command::new("mount").arg("--bind").arg(source(&daemon, "d")).arg(&stage));
    let init = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(init, rustix::process::Signal::KILL).unwrap();
    eventually("init is gone", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    daemon.start();
    assert!(source(&daemon, "d").join("who").exists());
    assert!(!daemon.state().join("devices/c2").exists());
    assert_eq!(host_mounts(&daemon), 0);
    assert_eq!(daemon.status("c1"), "Stopped");
    assert!(!daemon.state().join("devices/c1").exists());
    daemon.lxc(&["start", "c1"]).ok();
    assert_eq!(sh(&daemon, "c1", "cat /steady/who").ok(), "steady");
}
