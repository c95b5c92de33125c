//! Without id-mapped mounts: the ids of files are shifted on disk, and shifted back when the mounts are there again.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::Daemon;

const OFF: &str = "WARREN_IDMAPPED_MOUNTS_DISABLE";

fn without() -> Daemon {
    let daemon = Daemon::with_env(&[(OFF, "1")]);
    daemon.set_up("dir");
    daemon
}

fn rootfs(daemon: &Daemon, name: &str) -> PathBuf {
    daemon.state().join("storage-pools/p/containers").join(name).join("rootfs")
}

fn get(daemon: &Daemon, name: &str, key: &str) -> String {
    daemon.lxc(&["config", "get", name, key]).ok().trim().to_owned()
}

/// Where the map begins that this key tells; `None`: it has no rows.
fn base(daemon: &Daemon, name: &str, key: &str) -> Option<u32> {
    let rows: Value = serde_json::from_str(&get(daemon, name, key)).unwrap();
    Some(u32::try_from(rows.as_array().unwrap().first()?["Hostid"].as_u64().unwrap()).unwrap())
}

fn stored(daemon: &Daemon, name: &str) -> Option<u32> {
    base(daemon, name, "volatile.last_state.idmap")
}

fn owner(path: &Path) -> (u32, u32) {
    let found = path.symlink_metadata().unwrap();
    (found.uid(), found.gid())
}

/// Changed by any shift, also by one that changes nothing else.
fn touched(path: &Path) -> (i64, i64) {
    let found = path.symlink_metadata().unwrap();
    (found.ctime(), found.ctime_nsec())
}

fn inside(daemon: &Daemon, name: &str, path: &str) -> String {
    daemon.lxc(&["exec", name, "--", "busybox", "stat", "-c", "%u:%g %a", path]).ok().trim().to_owned()
}

#[test]
fn files_are_shifted_at_a_start_and_only_when_they_must_be() {
    let mut daemon = without();
    daemon.lxc(&["init", "bb", "c"]).ok();
    let file = rootfs(&daemon, "c").join("root/f");
    std::fs::write(&file, "x").unwrap();
    chown(&file, Some(5), Some(6)).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o4755)).unwrap();
    let start = || daemon.lxc(&["start", "c"]);
    let set = |text: &str| daemon.lxc(&["config", "set", "c", text]).ok();
    let stop = || daemon.lxc(&["stop", "--force", "c"]).ok();

    // Not what is protected.
    set("security.protection.shift=true");
    start().refused("\"security.protection.shift\" forbids");
    assert_eq!((owner(&file), daemon.status("c")), ((5, 6), "Stopped".to_owned()));
    set("security.protection.shift=");

    start().ok();
    let host = base(&daemon, "c", "volatile.idmap.current").unwrap();
    assert_eq!((owner(&file), stored(&daemon, "c")), ((host + 5, host + 6), Some(host)));
    assert_eq!(base(&daemon, "c", "volatile.idmap.next"), Some(host));
    assert_eq!(inside(&daemon, "c", "/root/f"), "5:6 4755");
    daemon.lxc(&["exec", "c", "--", "sh", "-c", "echo y > /root/g; chmod 600 /root/g"]).ok();
    // What is where it belongs costs nothing, also under protection.
    let before = touched(&file);
    daemon.lxc(&["restart", "--force", "c"]).ok();
    set("security.protection.shift=true");
    stop();
    start().ok();
    set("security.protection.shift=");
    stop();
    assert_eq!((touched(&file), stored(&daemon, "c")), (before, Some(host)));
    // Its files while it is down.
    assert_eq!(daemon.lxc(&["file", "pull", "c/root/g", "-"]).ok(), "y\n");
    daemon.lxc_with_input(&["file", "push", "-", "c/root/h", "--uid", "7", "--gid", "8"], b"pushed").ok();
    assert_eq!(owner(&rootfs(&daemon, "c").join("root/h")), (host + 7, host + 8));

    // A range of its own, which it has again, and nobody else gets.
    set("security.idmap.isolated=true");
    start().ok();
    let own = base(&daemon, "c", "volatile.idmap.current").unwrap();
    assert!(own != host && owner(&file) == (own + 5, own + 6) && stored(&daemon, "c") == Some(own));
    stop();
    daemon.lxc(&["launch", "bb", "other", "-c", "security.idmap.isolated=true"]).ok();
    assert_ne!(stored(&daemon, "other"), Some(own));
    let before = touched(&file);
    start().ok();
    assert_eq!((touched(&file), base(&daemon, "c", "volatile.idmap.current")), (before, Some(own)));
    assert_eq!(inside(&daemon, "c", "/root/f"), "5:6 4755");
    stop();

    // Privileged, and back.
    set("security.privileged=true");
    start().ok();
    assert_eq!((owner(&file), stored(&daemon, "c")), ((5, 6), None));
    assert_eq!(inside(&daemon, "c", "/root/g"), "0:0 600");
    stop();
    set("security.privileged=");
    set("security.idmap.isolated=");
    start().ok();
    assert_eq!(owner(&file), (host + 5, host + 6));
    stop();

    // With id-mapped mounts again nothing needs to be shifted, once it is back.
    daemon.terminate();
    daemon.set_env(OFF, "0");
    daemon.start();
    daemon.lxc(&["start", "c"]).ok();
    let file = rootfs(&daemon, "c").join("root/f");
    assert_eq!((inside(&daemon, "c", "/root/f"), stored(&daemon, "c")), ("5:6 4755".to_owned(), None));
    daemon.lxc(&["stop", "--force", "c"]).ok();
    assert_eq!(owner(&file), (5, 6));
    daemon.lxc(&["config", "set", "c", "security.protection.shift=true", "security.privileged=true"]).ok();
    daemon.lxc(&["start", "c"]).ok();
    assert_eq!(daemon.status("c"), "Running");
}

/// `count` files of user 5 in `directories` directories.
fn fill(top: &Path, directories: usize, count: usize) {
    for directory in 0..directories {
        let directory = top.join(format!("d{directory}"));
        std::fs::create_dir(&directory).unwrap();
        for file in 0..count {
            let file = directory.join(file.to_string());
            std::fs::write(&file, "").unwrap();
            chown(&file, Some(5), Some(5)).unwrap();
        }
    }
}

fn owners(top: &Path, directories: usize) -> Vec<u32> {
    let all = (0..directories).flat_map(|number| std::fs::read_dir(top.join(format!("d{number}"))).unwrap());
    all.map(|entry| entry.unwrap().metadata().unwrap().uid()).collect()
}

#[test]
fn a_shift_that_was_killed_is_finished_by_the_next_start() {
    const DIRECTORIES: usize = 30;
    let mut daemon = without();
    for name in ["c", "gone"] {
        daemon.lxc(&["init", "bb", name]).ok();
        let top = rootfs(&daemon, name).join("many");
        std::fs::create_dir(&top).unwrap();
        fill(&top, DIRECTORIES, 1000);
        let (status, answer) = daemon.api("PUT", &format!("/1.0/instances/{name}/state"), r#"{"action":"start"}"#);
        assert_eq!(status, 202, "{answer}");
        // In the middle, as seen on the disk.
        let shifted = || owners(&top, DIRECTORIES).iter().any(|uid| *uid != 5);
        let begun = Instant::now();
        let journal = top.parent().unwrap().parent().unwrap().join("shift.json");
        while !journal.exists() || !shifted() {
            assert!(begun.elapsed() < Duration::from_secs(20), "no shift");
        }
        daemon.kill();
        let left = owners(&top, DIRECTORIES).iter().filter(|uid| **uid == 5).count();
        assert!(journal.exists() && left > 0, "the shift was too quick for this test: {left} left");
        daemon.start();
        // Deleted as it is, or taken up again.
        if name == "gone" {
            daemon.lxc(&["delete", "--force", "gone"]).ok();
            assert!(!journal.exists());
            continue;
        }
        if daemon.status("c") != "Running" {
            daemon.lxc(&["start", "c"]).ok();
        }
        let host = base(&daemon, "c", "volatile.idmap.current").unwrap();
        let owners = owners(&top, DIRECTORIES);
        assert!(owners.len() == DIRECTORIES * 1000 && owners.iter().all(|uid| *uid == host + 5));
        assert!(!journal.exists() && stored(&daemon, "c") == Some(host));
        assert_eq!(inside(&daemon, "c", "/many/d0/0"), "5:5 644");
    }
}

#[test]
fn the_operation_tells_how_far_it_is() {
    let daemon = without();
    daemon.lxc(&["init", "bb", "c"]).ok();
    fill(&rootfs(&daemon, "c"), 60, 1000);
    let (code, error, metadata) = daemon.operation("PUT", "/1.0/instances/c/state", r#"{"action":"start"}"#);
    assert_eq!((code, error.as_str()), (200, ""));
    let told = metadata["shift_progress"].as_str().unwrap().to_owned();
    assert!(told.starts_with("Shift: ") && told.ends_with(" files)"), "{told}");
}
