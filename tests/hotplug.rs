//! Device nodes with `required=false`: they come into a running container with their source, and go with it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use support::{Daemon, eventually};

fn make(path: &Path, kind: FileType, (major, minor): (u32, u32)) {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), makedev(major, minor)).unwrap();
}

fn numbers(daemon: &Daemon, name: &str, path: &str) -> String {
    daemon.lxc(&["exec", name, "--", "busybox", "stat", "-c", "%F %t:%T %u", path]).out.trim().to_owned()
}

#[test]
fn nodes_come_and_go_with_their_source() {
    let mut daemon = Daemon::ready("overlay");
    let dir = daemon.root.join("later");
    let source = dir.join("deep/char");
    let from = format!("source={}", source.display());
    daemon.lxc(&["init", "bb", "c1"]).ok();
    let node = |more: &[&str]| {
        let base = ["config", "device", "add", "c1"];
        daemon.lxc(&[&base, more].concat())
    };
    node(&["later", "unix-char", &from, "path=/dev/later", "uid=5", "required=false"]).ok();
    daemon.lxc(&["start", "c1"]).ok();
    assert_eq!(numbers(&daemon, "c1", "/dev/later"), "");
    // Its directories come first.
    fs::create_dir_all(dir.join("deep")).unwrap();
    make(&source, FileType::CharacterDevice, (10, 237));
    let there = |daemon: &Daemon| numbers(daemon, "c1", "/dev/later") == "character special file a:ed 5";
    eventually("it has come", || there(&daemon));
    daemon.lxc(&["exec", "c1", "--", "sh", "-c", ": < /dev/later"]).ok();
    // Another device by the same name.
    make(&dir.join("other"), FileType::CharacterDevice, (10, 200));
    fs::rename(dir.join("other"), &source).unwrap();
    eventually("it is the other", || numbers(&daemon, "c1", "/dev/later") == "character special file a:c8 5");
    fs::remove_file(&source).unwrap();
    eventually("it has gone", || numbers(&daemon, "c1", "/dev/later").is_empty());
    // What is no such device is none.
    make(&source, FileType::BlockDevice, (7, 250));
    // Added while it runs; also a block device.
    let block = format!("source={}", dir.join("block").display());
    node(&["blk", "unix-block", &block, "path=/dev/blk", "required=false"]).ok();
    make(&dir.join("block"), FileType::BlockDevice, (7, 250));
    eventually("the block device has come", || numbers(&daemon, "c1", "/dev/blk") == "block special file 7:fa 0");
    assert_eq!(numbers(&daemon, "c1", "/dev/later"), "");
    // While there was no daemon, one went and one came.
    daemon.kill();
    fs::remove_file(dir.join("block")).unwrap();
    fs::remove_file(&source).unwrap();
    make(&source, FileType::CharacterDevice, (10, 237));
    daemon.start();
    eventually("it has come meanwhile", || there(&daemon));
    eventually("the block device has gone", || numbers(&daemon, "c1", "/dev/blk").is_empty());
    // Removed: its source is of no interest any more.
    daemon.lxc(&["config", "device", "remove", "c1", "later"]).ok();
    assert_eq!(numbers(&daemon, "c1", "/dev/later"), "");
    daemon.lxc(&["stop", "--force", "c1"]).ok();
    assert!(!daemon.state().join("devices/c1").exists());
}
