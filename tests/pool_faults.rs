//! Storage pools in trouble: really full, read-only, on a disk that fails while containers run.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::{Daemon, eventually};

fn place(daemon: &Daemon, name: &str) -> PathBuf {
    daemon.state().join("storage-pools").join(name)
}

fn pool(daemon: &Daemon, name: &str) -> Value {
    daemon.api("GET", &format!("/1.0/storage-pools/{name}"), "").1["metadata"].clone()
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Writes until nothing more can be written: the content of one file, and then many small ones.
fn fill(directory: &Path) {
    std::fs::create_dir_all(directory).unwrap();
    let mut large = std::fs::File::create(directory.join("large")).unwrap();
    for size in [1 << 20, 1 << 16, 1 << 12] {
        let block = vec![7; size];
        while large.write_all(&block).is_ok() {}
    }
    let _ = large.sync_all();
    for number in 0..200_000 {
        // Of such a length that btrfs keeps them among its metadata.
        if std::fs::write(directory.join(format!("{number:0100}")), vec![7; 1500]).is_err() {
            break;
        }
    }
    run("sync", &["-f", directory.to_str().unwrap()]);
}

/// What instances and snapshots have in the pool, and what is half made.
fn content(daemon: &Daemon) -> Vec<PathBuf> {
    let place = place(daemon, "p");
    let list = |directory: &str| {
        let entries = std::fs::read_dir(place.join(directory)).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let mut found: Vec<PathBuf> =
        [".new", "containers", "containers-snapshots", "layers", "images"].iter().flat_map(|dir| list(dir)).collect();
    found.extend(
        list("containers-snapshots").iter().flat_map(|of| std::fs::read_dir(of).unwrap().flatten().map(|e| e.path())),
    );
    found.sort();
    found
}

/// The requests succeed, or say that the pool is full and leave nothing.
fn is_full(driver: &str, size: &str) {
    let daemon = Daemon::bare();
    daemon.lxc(&["storage", "create", "p", driver, &format!("size={size}")]).ok();
    daemon.lxc(&["profile", "device", "add", "default", "root", "disk", "path=/", "pool=p"]).ok();
    let (meta, root) = daemon.busybox();
    daemon.lxc(&["image", "import", meta.to_str().unwrap(), root.to_str().unwrap(), "--alias", "bb"]).ok();
    let unified = daemon.busybox_unified();
    daemon.lxc(&["image", "import", unified.to_str().unwrap(), "--alias", "other"]).ok();
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    daemon.lxc(&["exec", "c1", "--", "sh", "-c", "head -c 3000000 /dev/zero > /root/f"]).ok();
    let filled = daemon.state().join("storage-pools/p/filled");
    fill(&filled);
    let mut refused = 0;
    for (what, arguments) in [
        ("an image is unpacked", vec!["init", "other", "c2"]),
        ("an instance is made", vec!["init", "bb", "c2"]),
        ("a snapshot is made", vec!["snapshot", "c1", "s"]),
        ("an instance is copied", vec!["copy", "c1", "c2"]),
    ] {
        let before = content(&daemon);
        let said = daemon.lxc(&arguments);
        if said.code == 0 {
            // Enough is left for that: it goes again.
            let made = if what.contains("snapshot") { "c1/s" } else { "c2" };
            daemon.lxc(&["delete", made]).ok();
            continue;
        }
        refused += 1;
        assert!(said.err.contains("Storage pool \"p\" is full"), "{what}: {}", said.err);
        assert_eq!(daemon.status("c2"), "none", "{what}");
        eventually("nothing stays", || {
            let after = content(&daemon);
            // An image that was unpacked for it may stay, whole.
            after.iter().all(|path| before.contains(path) || path.parent().unwrap().ends_with("images"))
        });
    }
    assert!(refused > 0, "it was not full");
    // The way out.
    let grown = if driver == "btrfs" { "size=400MiB" } else { "size=600MiB" };
    daemon.lxc(&["storage", "set", "p", grown]).ok();
    daemon.lxc(&["copy", "c1", "c2"]).ok();
    std::fs::remove_dir_all(&filled).unwrap();
    daemon.lxc(&["delete", "c1", "c2", "--force"]).ok();
}

#[test]
fn a_full_btrfs_pool_says_so_and_keeps_nothing_half_made() {
    is_full("btrfs", "120MiB");
}

#[test]
fn a_full_overlay_pool_says_so_and_keeps_nothing_half_made() {
    is_full("overlay", "300MiB");
}

fn warnings(daemon: &Daemon, kind: &str, status: &str) -> usize {
    let (_, list) = daemon.api("GET", "/1.0/warnings?recursion=1", "");
    let list = list["metadata"].as_array().unwrap().clone();
    list.iter().filter(|one| one["type"] == kind && one["status"] == status).count()
}

fn with_container(daemon: &Daemon) {
    daemon.lxc(&["profile", "device", "add", "default", "root", "disk", "path=/", "pool=p"]).ok();
    let (meta, root) = daemon.busybox();
    daemon.lxc(&["image", "import", meta.to_str().unwrap(), root.to_str().unwrap(), "--alias", "bb"]).ok();
    daemon.lxc(&["launch", "bb", "c1"]).ok();
}

#[test]
fn a_read_only_pool_is_named_and_mounted_anew_when_nobody_uses_it() {
    let daemon = Daemon::bare();
    daemon.lxc(&["storage", "create", "p", "btrfs", "size=200MiB"]).ok();
    with_container(&daemon);
    run("mount", &["-o", "remount,ro", place(&daemon, "p").to_str().unwrap()]);
    for arguments in [vec!["init", "bb", "c2"], vec!["snapshot", "c1", "s"], vec!["copy", "c1", "c3"]] {
        daemon.lxc(&arguments).refused("Storage pool \"p\" is read-only");
    }
    assert_eq!(daemon.api("GET", "/1.0/instances", "").1["metadata"], json!(["/1.0/instances/c1"]));
    let kind = "Storage pool read-only";
    eventually("there is a warning", || warnings(&daemon, kind, "new") == 1);
    assert_eq!(daemon.status("c1"), "Running");
    daemon.lxc(&["stop", "c1", "--force"]).ok();
    // Nobody uses it any more; the next touch has it mounted anew.
    let mut said = String::new();
    eventually("it works again", || {
        let start = daemon.lxc(&["start", "c1"]);
        said = start.err;
        start.code == 0
    });
    eventually("the warning is over", || warnings(&daemon, kind, "resolved") == 1);
    daemon.lxc(&["delete", "c1", "--force"]).ok();
}

/// The disk below the device fails, as when it is pulled out, and comes back.
#[test]
fn a_device_that_goes_while_containers_run() {
    let daemon = Daemon::bare();
    // A file system whose shutdown fails everything on it.
    let (outer, mnt) = (daemon.root.join("outer"), daemon.root.join("mnt"));
    std::fs::File::create(&outer).unwrap().set_len(400 << 20).unwrap();
    std::fs::create_dir(&mnt).unwrap();
    run("mkfs.ext4", &["-q", outer.to_str().unwrap()]);
    run("mount", &["-o", "loop", outer.to_str().unwrap(), mnt.to_str().unwrap()]);
    let disk = mnt.join("disk");
    std::fs::File::create(&disk).unwrap().set_len(300 << 20).unwrap();
    let attach = || {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(&disk).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let device = attach();
    daemon.lxc(&["storage", "create", "p", "btrfs", &format!("source={device}")]).ok();
    daemon.lxc(&["storage", "create", "other", "dir"]).ok();
    with_container(&daemon);
    run("sync", &["-f", place(&daemon, "p").to_str().unwrap()]);

    run("xfs_io", &["-x", "-c", "shutdown", mnt.to_str().unwrap()]);
    // The next write tells.
    daemon.lxc(&["exec", "c1", "--", "sh", "-c", "echo x > /root/x"]);
    let _ = Command::new("sync").arg("-f").arg(place(&daemon, "p")).output();
    let said = daemon.lxc(&["snapshot", "c1", "s"]);
    assert!(said.code != 0 && said.err.contains("torage pool \"p\""), "{}", said.err);
    // The rest goes on.
    daemon.lxc(&["launch", "bb", "c2", "-s", "other"]).ok();
    daemon.lxc(&["stop", "c1", "--force"]).ok();
    let said = daemon.lxc(&["start", "c1"]);
    assert!(said.code != 0 && said.err.contains("torage pool \"p\""), "{}", said.err);
    eventually("it is known to be away", || {
        daemon.lxc(&["start", "c1"]);
        pool(&daemon, "p")["status"] == "Unavailable"
    });
    eventually("there is a warning", || warnings(&daemon, "Storage pool unavailable", "new") == 1);

    run("losetup", &["-d", &device]);
    // The kernel lets a device go when its last user has closed it: whoever looks for the pool's has it open for a moment.
    let unmounted = || Command::new("umount").arg(&mnt).status().unwrap().success();
    eventually("nobody uses the disk", unmounted);
    // A mount namespace that another test made meanwhile keeps the file system for as long as it lives, and one that was
    // shut down stays so until it is mounted from anew.
    let is_gone = || Command::new("losetup").arg("-j").arg(&outer).output().unwrap().stdout.is_empty();
    eventually("no namespace keeps the file system of the disk", is_gone);
    run("mount", &["-o", "loop", outer.to_str().unwrap(), mnt.to_str().unwrap()]);
    let device = attach();
    eventually("it is back", || pool(&daemon, "p")["status"] == "Created");
    daemon.lxc(&["start", "c1"]).ok();
    daemon.lxc(&["delete", "c1", "c2", "--force"]).ok();
    daemon.lxc(&["profile", "device", "remove", "default", "root"]).ok();
    daemon.lxc(&["storage", "delete", "p"]).ok();
    run("losetup", &["-d", &device]);
    eventually("nobody uses the disk at the end", unmounted);
}

/// Whoever else has a pool's file system mounted keeps its loop device: the next daemon must use that one, since two would
/// be two disks with the same blocks.
fn another_namespace_keeps(driver: &str, size: &str) {
    let mut daemon = Daemon::ready("dir");
    daemon.lxc(&["storage", "create", "q", driver, &format!("size={size}")]).ok();
    daemon.lxc(&["launch", "bb", "c1", "-s", "q"]).ok();
    let mut other = std::process::Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", "echo; exec sleep 300"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(other.stdout.take().unwrap()), &mut String::new())
        .unwrap();
    daemon.lxc(&["exec", "c1", "--", "sh", "-c", "echo precious > /root/important"]).ok();
    daemon.lxc(&["stop", "c1", "--force"]).ok();
    daemon.lxc(&["storage", "volume", "create", "q", "v"]).ok();
    daemon.terminate();
    daemon.start();
    daemon.lxc(&["start", "c1"]).ok();
    assert_eq!(daemon.lxc(&["exec", "c1", "--", "cat", "/root/important"]).ok(), "precious\n");
    assert!(daemon.state().join("storage-pools/q/custom/default_v").is_dir());
    other.kill().unwrap();
    other.wait().unwrap();
    daemon.lxc(&["delete", "c1", "--force"]).ok();
    daemon.lxc(&["storage", "volume", "delete", "q", "v"]).ok();
    daemon.lxc(&["storage", "delete", "q"]).ok();
}

#[test]
fn another_namespace_keeps_a_btrfs_pool() {
    another_namespace_keeps("btrfs", "300MiB");
}

#[test]
fn another_namespace_keeps_an_overlay_pool() {
    another_namespace_keeps("overlay", "400MiB");
}

/// What a pool lies on goes while the daemon runs: nothing is taken for deleted or made, and all is there when it is back.
#[test]
fn a_disk_that_is_unmounted_meanwhile() {
    let daemon = Daemon::ready("dir");
    let (disk, back) = (daemon.root.join("disk"), daemon.root.join("back"));
    std::fs::create_dir(&disk).unwrap();
    daemon.lxc(&["storage", "create", "q", "dir", &format!("source={}", disk.display())]).ok();
    daemon.lxc(&["init", "bb", "c1", "-s", "q"]).ok();
    daemon.lxc(&["storage", "volume", "create", "q", "v"]).ok();
    let inside = daemon.state().join("storage-pools/q/custom");
    daemon.lxc(&["storage", "create", "r", "dir", &format!("source={}", inside.display())]).refused("storage pool");
    // As after an unmount: the mount point, empty.
    std::fs::rename(&disk, &back).unwrap();
    std::fs::create_dir(&disk).unwrap();
    let away = "is not available";
    for words in [
        &["delete", "c1"][..],
        &["start", "c1"],
        &["snapshot", "c1"],
        &["rename", "c1", "c2"],
        &["copy", "c1", "c2"],
        &["init", "bb", "c2", "-s", "q"],
        &["storage", "volume", "delete", "q", "v"],
        &["storage", "volume", "create", "q", "w"],
        &["storage", "volume", "copy", "q/v", "q/w"],
        &["storage", "volume", "rename", "q", "v", "w"],
        &["storage", "volume", "snapshot", "q", "v"],
    ] {
        daemon.lxc(words).refused(away);
    }
    let names = |url: &str| daemon.api("GET", url, "").1["metadata"].clone();
    assert_eq!(names("/1.0/instances"), serde_json::json!(["/1.0/instances/c1"]));
    assert_eq!(names("/1.0/storage-pools/q")["status"], "Unavailable");
    std::fs::remove_dir(&disk).unwrap();
    std::fs::rename(&back, &disk).unwrap();
    eventually("it is back", || names("/1.0/storage-pools/q")["status"] == "Created");
    daemon.lxc(&["start", "c1"]).ok();
    daemon.lxc(&["storage", "volume", "show", "q", "v"]).ok();
    daemon.lxc(&["delete", "c1", "--force"]).ok();
    daemon.lxc(&["storage", "volume", "delete", "q", "v"]).ok();
    daemon.lxc(&["storage", "delete", "q"]).ok();
}

#[test]
fn what_is_in_a_pool_that_is_lost_can_be_forgotten() {
    let mut daemon = Daemon::ready("dir");
    daemon.lxc(&["storage", "create", "q", "btrfs", "size=200MiB"]).ok();
    daemon.lxc(&["init", "bb", "c1", "-s", "q"]).ok();
    daemon.lxc(&["snapshot", "c1"]).ok();
    daemon.lxc(&["storage", "volume", "create", "q", "v"]).ok();
    daemon.lxc(&["storage", "volume", "snapshot", "q", "v"]).ok();
    daemon.terminate();
    std::fs::remove_file(daemon.state().join("disks/q.img")).unwrap();
    daemon.start();
    daemon.lxc(&["delete", "c1"]).refused("forget=1");
    daemon.lxc(&["storage", "volume", "delete", "q", "v"]).refused("forget=1");
    daemon.lxc(&["query", "--wait", "-X", "DELETE", "/1.0/instances/c1?forget=1"]).ok();
    daemon.lxc(&["query", "-X", "DELETE", "/1.0/storage-pools/q/volumes/custom/v?forget=1"]).ok();
    assert_eq!(daemon.api("GET", "/1.0/instances", "").1["metadata"], json!([]));
    daemon.lxc(&["storage", "delete", "q"]).ok();
}
