//! Storage pools: what they lie on, how that grows, is missing, comes back, fills up and goes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::namespaces::isolated;
use support::{Daemon, eventually};

fn pool(daemon: &Daemon, name: &str) -> Value {
    daemon.api("GET", &format!("/1.0/storage-pools/{name}"), "").1["metadata"].clone()
}

fn total(daemon: &Daemon, name: &str) -> u64 {
    let (code, answer) = daemon.api("GET", &format!("/1.0/storage-pools/{name}/resources"), "");
    assert_eq!(code, 200, "{answer}");
    answer["metadata"]["space"]["total"].as_u64().unwrap()
}

fn place(daemon: &Daemon, name: &str) -> PathBuf {
    daemon.state().join("storage-pools").join(name)
}

fn file(daemon: &Daemon, name: &str) -> PathBuf {
    daemon.state().join("disks").join(format!("{name}.img"))
}

/// Kind of file system, device and options of what is mounted there.
fn mounted(place: &Path) -> Option<(String, String, String)> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().find_map(|line| {
        let (mount, of) = line.split_once(" - ")?;
        let fields: Vec<&str> = mount.split(' ').collect();
        let mut of = of.split(' ');
        let found = (of.next()?.to_owned(), of.next()?.to_owned(), format!("{},{}", fields[5], of.next()?));
        (Path::new(fields[4]) == place).then_some(found)
    })
}

/// Loop devices of files in the daemon's directory.
fn loops(daemon: &Daemon) -> Vec<String> {
    let devices = std::fs::read_dir("/sys/class/block").unwrap().flatten();
    let files = devices.filter_map(|device| std::fs::read_to_string(device.path().join("loop/backing_file")).ok());
    files.filter(|file| file.contains(daemon.root.to_str().unwrap())).collect()
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

/// A block device of a file, for as long as it is held.
struct Device(PathBuf);

impl Device {
    fn new(daemon: &Daemon, name: &str) -> Self {
        let file = daemon.root.join(name);
        std::fs::File::create(&file).unwrap().set_len(300 << 20).unwrap();
        Self::of(&file)
    }

    fn of(file: &Path) -> Self {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output().unwrap();
        Self(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()))
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

fn is_on_a_file(driver: &str, kind: &str) {
    let daemon = Daemon::bare();
    daemon.lxc(&["storage", "create", "p", driver, "size=400MiB", "volume.size="]).ok();
    let (place, file) = (place(&daemon, "p"), file(&daemon, "p"));
    let shown = pool(&daemon, "p");
    assert_eq!(shown["config"], json!({"size": "400MiB", "source": file}), "{shown}");
    assert_eq!(file.metadata().unwrap().len(), 400 << 20);
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&file.metadata().unwrap()) & 0o777, 0o600);
    assert_eq!(mounted(&place).unwrap().0, kind);
    let before = total(&daemon, "p");
    assert!(before > 300 << 20 && before <= 400 << 20, "{before}");

    // It grows while it is in use; it never shrinks.
    daemon.lxc(&["profile", "device", "add", "default", "root", "disk", "path=/", "pool=p"]).ok();
    let (meta, root) = daemon.busybox();
    daemon.lxc(&["image", "import", meta.to_str().unwrap(), root.to_str().unwrap(), "--alias", "bb"]).ok();
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    daemon.lxc(&["storage", "set", "p", "size=600MiB"]).ok();
    assert!(total(&daemon, "p") > 500 << 20);
    assert_eq!(file.metadata().unwrap().len(), 600 << 20);
    daemon.lxc(&["storage", "set", "p", "size=500MiB"]).refused("not shrink");
    daemon.lxc(&["storage", "set", "p", "source=/srv"]).refused("source");
    // A whole new configuration need not name what cannot change.
    let (code, said) = daemon.api("PUT", "/1.0/storage-pools/p", r#"{"config":{"user.a":"b"},"description":"d"}"#);
    assert_eq!(code, 200, "{said}");
    let shown = pool(&daemon, "p");
    assert_eq!(shown["config"], json!({"size": "600MiB", "source": file, "user.a": "b"}));
    assert_eq!(shown["used_by"], json!(["/1.0/instances/c1", "/1.0/profiles/default"]));
    daemon.lxc(&["storage", "delete", "p"]).refused("/1.0/instances/c1");

    daemon.lxc(&["exec", "c1", "--", "cat", "/proc/mounts"]).ok();
    daemon.lxc(&["delete", "c1", "--force"]).ok();
    daemon.lxc(&["profile", "device", "remove", "default", "root"]).ok();
    daemon.lxc(&["storage", "delete", "p"]).ok();
    assert!(!file.exists() && !place.exists() && mounted(&place).is_none());
    eventually("its loop device goes", || loops(&daemon).is_empty());
}

#[test]
fn a_btrfs_pool_on_a_file_grows_and_goes() {
    is_on_a_file("btrfs", "btrfs");
}

#[test]
fn an_overlay_pool_on_a_file_grows_and_goes() {
    is_on_a_file("overlay", "xfs");
}

/// Too small for xfs.
#[test]
fn a_small_overlay_pool_is_btrfs() {
    let daemon = Daemon::bare();
    daemon.lxc(&["storage", "create", "p", "overlay", "size=200MiB"]).ok();
    assert_eq!(mounted(&place(&daemon, "p")).unwrap().0, "btrfs");
    daemon.lxc(&["storage", "delete", "p"]).ok();
}

/// The daemon's end takes the mount away, its start brings it back; while a container runs it stays.
#[test]
fn its_file_system_comes_with_the_daemon() {
    let mut daemon = Daemon::bare();
    daemon.lxc(&["storage", "create", "p", "btrfs", "size=200MiB"]).ok();
    let place = place(&daemon, "p");
    daemon.terminate();
    assert!(mounted(&place).is_none());
    daemon.start();
    assert!(mounted(&place).is_some());
    daemon.kill();
    assert!(mounted(&place).is_some());
    daemon.start();
    let count = std::fs::read_to_string("/proc/self/mountinfo").unwrap().matches(place.to_str().unwrap()).count();
    assert_eq!((count, loops(&daemon).len()), (1, 1));
    daemon.lxc(&["storage", "delete", "p"]).ok();
}

#[test]
fn a_pool_on_a_block_device() {
    let daemon = Daemon::bare();
    let device = Device::new(&daemon, "disk");
    let source = format!("source={}", device.path());
    daemon.lxc(&["storage", "create", "p", "btrfs", &source, "size=1GiB"]).refused("leave one of the two out");
    daemon.lxc(&["storage", "create", "p", "btrfs", &source]).ok();
    let shown = pool(&daemon, "p");
    assert_eq!(shown["config"]["volatile.initial_source"], device.path());
    let uuid = shown["config"]["source"].as_str().unwrap().to_owned();
    assert_eq!((uuid.len(), mounted(&place(&daemon, "p")).unwrap().1.as_str()), (36, device.path()));
    // It has a file system now.
    daemon.lxc(&["storage", "create", "q", "btrfs", &source]).refused("wipefs -a");
    assert_eq!(pool(&daemon, "q"), Value::Null);
    assert!(mounted(&place(&daemon, "q")).is_none() && !place(&daemon, "q").exists());
    daemon.lxc(&["storage", "delete", "p"]).ok();
    assert!(!place(&daemon, "p").exists());
    daemon.lxc(&["storage", "create", "q", "btrfs", &source]).ok();
    daemon.lxc(&["storage", "delete", "q"]).ok();
    run("mkfs.ext4", &["-q", device.path()]);
    daemon.lxc(&["storage", "create", "q", "btrfs", &source]).refused("ext4");
    daemon.lxc(&["storage", "create", "q", "dir", &source]).refused("source");
    run("blkid", &[device.path()]);
}

#[test]
fn a_pool_on_a_path_of_btrfs() {
    let daemon = Daemon::bare();
    let device = Device::new(&daemon, "disk");
    run("mkfs.btrfs", &["-q", device.path()]);
    let mount = daemon.root.join("mnt");
    std::fs::create_dir(&mount).unwrap();
    run("mount", &[device.path(), mount.to_str().unwrap()]);
    let source = mount.join("sub");
    let argument = format!("source={}", source.display());
    daemon.lxc(&["storage", "create", "p", "btrfs", &argument]).ok();
    assert_eq!(pool(&daemon, "p")["config"]["source"], source.to_str().unwrap());
    assert_eq!(std::os::unix::fs::MetadataExt::ino(&source.metadata().unwrap()), 256);
    daemon.lxc(&["storage", "create", "q", "btrfs", &argument]).refused("storage pool \"p\"");
    daemon.lxc(&["storage", "delete", "p"]).ok();
    assert!(source.is_dir() && source.read_dir().unwrap().next().is_none());
    for (path, word) in [("/nosuch/dir", "neither"), ("/var/tmp", "btrfs"), ("relative", "absolute")] {
        daemon.lxc(&["storage", "create", "q", "btrfs", &format!("source={path}")]).refused(word);
    }
    let own = daemon.state().join("images");
    daemon.lxc(&["storage", "create", "q", "dir", &format!("source={}", own.display())]).refused("own directory");
    assert!(!Path::new("/nosuch").exists() && own.is_dir());
    run("umount", &[mount.to_str().unwrap()]);
}

#[test]
fn what_is_wrong_is_refused_and_nothing_stays() {
    let daemon = Daemon::bare();
    for (driver, config, word) in [
        ("btrfs", json!({"size": "10MiB"}), "109MiB"),
        ("overlay", json!({"size": "10MiB"}), "109MiB"),
        ("btrfs", json!({"size": "much"}), "size"),
        ("btrfs", json!({"nosuch": "1"}), "nosuch"),
        ("btrfs", json!({"size": "200MiB", "btrfs.mount_options": "nosuchoption"}), "nosuchoption"),
        ("dir", json!({"size": "1GiB"}), "btrfs and overlay"),
        ("dir", json!({"btrfs.mount_options": "noatime"}), "driver btrfs"),
        ("dir", json!({"rsync.bwlimit": "abc"}), "rsync.bwlimit"),
        ("dir", json!({"rsync.compression": "maybe"}), "rsync.compression"),
        ("dir", json!({"volume.nosuch": "1"}), "volume.nosuch"),
        ("dir", json!({"volume.size": "abc"}), "volume.size"),
        ("dir", json!({"source": "/nosuch"}), "/nosuch"),
        ("nosuch", json!({}), "nosuch"),
    ] {
        let body = json!({"name": "x", "driver": driver, "config": config}).to_string();
        let (code, said) = daemon.api("POST", "/1.0/storage-pools", &body);
        assert_eq!(code, 400, "{body}: {said}");
        assert!(said["error"].as_str().unwrap().contains(word), "{body}: {said}");
        assert!(!place(&daemon, "x").exists() && !file(&daemon, "x").exists(), "{body}");
    }
    assert!(loops(&daemon).is_empty());
    assert_eq!(daemon.api("GET", "/1.0/storage-pools", "").1["metadata"], json!([]));
    for key in ["rsync.bwlimit=10MB", "rsync.compression=false", "volume.size=1GiB", "volume.snapshots.expiry=1d"] {
        for driver in ["dir", "overlay"] {
            daemon.lxc(&["storage", "create", "x", driver, key]).ok();
            daemon.lxc(&["storage", "delete", "x"]).ok();
        }
    }
}

#[test]
fn options_of_the_mount_change_while_it_is_in_use() {
    let daemon = Daemon::bare();
    daemon.lxc(&["storage", "create", "p", "btrfs", "size=200MiB"]).ok();
    let options = || mounted(&place(&daemon, "p")).unwrap().2;
    assert!(options().contains("user_subvol_rm_allowed") && !options().contains("noatime"), "{}", options());
    daemon.lxc(&["storage", "set", "p", "btrfs.mount_options=noatime,compress=zstd"]).ok();
    assert!(options().contains("noatime") && options().contains("compress=zstd"), "{}", options());
    daemon.lxc(&["storage", "set", "p", "btrfs.mount_options=nosuchoption"]).refused("nosuchoption");
    assert_eq!(pool(&daemon, "p")["config"]["btrfs.mount_options"], "noatime,compress=zstd");
    assert!(options().contains("noatime"));
    daemon.lxc(&["storage", "delete", "p"]).ok();
}

/// Those that it was made with count from the first moment, and again by the next daemon; without any, it has the usual.
#[test]
fn options_of_the_mount_are_those_that_it_was_made_with() {
    let mut daemon = Daemon::bare();
    daemon.lxc(&["storage", "create", "p", "btrfs", "size=200MiB", "btrfs.mount_options=noatime,compress=zstd"]).ok();
    let options = |daemon: &Daemon| mounted(&place(daemon, "p")).unwrap().2;
    let asked = |options: String| options.contains("noatime") && options.contains("compress=zstd");
    assert!(asked(options(&daemon)), "{}", options(&daemon));
    daemon.terminate();
    if mounted(&place(&daemon, "p")).is_some() {
        run("umount", &[place(&daemon, "p").to_str().unwrap()]);
    }
    daemon.start();
    assert!(asked(options(&daemon)), "{}", options(&daemon));
    daemon.lxc(&["storage", "unset", "p", "btrfs.mount_options"]).ok();
    assert!(options(&daemon).contains("user_subvol_rm_allowed"), "{}", options(&daemon));
    daemon.lxc(&["storage", "delete", "p"]).ok();
}

fn warnings(daemon: &Daemon, kind: &str, status: &str) -> Vec<String> {
    let (_, list) = daemon.api("GET", "/1.0/warnings?recursion=1", "");
    let list = list["metadata"].as_array().unwrap().clone();
    let those = list.iter().filter(|one| one["type"] == kind && one["status"] == status);
    those.map(|one| one["last_message"].as_str().unwrap().to_owned()).collect()
}

/// Without what it lies on, the rest works; when that is back, so is the pool.
fn degrades(daemon: &mut Daemon, away: impl FnOnce(), back: impl FnOnce(), word: &str) {
    daemon.lxc(&["storage", "create", "other", "dir"]).ok();
    daemon.lxc(&["profile", "device", "add", "default", "root", "disk", "path=/", "pool=p"]).ok();
    let (meta, root) = daemon.busybox();
    daemon.lxc(&["image", "import", meta.to_str().unwrap(), root.to_str().unwrap(), "--alias", "bb"]).ok();
    daemon.lxc(&["init", "bb", "c1"]).ok();
    daemon.terminate();
    away();
    daemon.start();
    assert_eq!(
        (pool(daemon, "p")["status"].clone(), pool(daemon, "other")["status"].clone()),
        (json!("Unavailable"), json!("Created"))
    );
    let said = daemon.lxc(&["start", "c1"]);
    assert!(said.code != 0 && said.err.contains("\"p\"") && said.err.contains(word), "{}", said.err);
    assert_eq!(daemon.status("c1"), "Stopped");
    daemon.lxc(&["launch", "bb", "c2", "-s", "other"]).ok();
    assert_eq!(daemon.api("GET", "/1.0/storage-pools/p/resources", "").0, 400);
    let kind = "Storage pool unavailable";
    eventually("there is a warning", || warnings(daemon, kind, "new").iter().any(|text| text.contains(word)));
    back();
    eventually("it is back", || pool(daemon, "p")["status"] == "Created");
    eventually("the warning is over", || warnings(daemon, kind, "resolved").len() == 1);
    daemon.lxc(&["start", "c1"]).ok();
    daemon.lxc(&["delete", "c1", "c2", "--force"]).ok();
    daemon.lxc(&["profile", "device", "remove", "default", "root"]).ok();
    daemon.lxc(&["storage", "delete", "p"]).ok();
}

#[test]
fn a_file_that_is_away_comes_back() {
    let mut daemon = Daemon::bare();
    daemon.lxc(&["storage", "create", "p", "btrfs", "size=200MiB"]).ok();
    let (file, away) = (file(&daemon, "p"), daemon.root.join("away"));
    let moved = |from: PathBuf, to: PathBuf| move || std::fs::rename(from, to).unwrap();
    degrades(&mut daemon, moved(file.clone(), away.clone()), moved(away, file.clone()), file.to_str().unwrap());
}

#[test]
fn a_directory_that_is_away_comes_back() {
    let mut daemon = Daemon::bare();
    let (source, away) = (daemon.root.join("source"), daemon.root.join("away"));
    std::fs::create_dir(&source).unwrap();
    daemon.lxc(&["storage", "create", "p", "dir", &format!("source={}", source.display())]).ok();
    let moved = |from: PathBuf, to: PathBuf| move || std::fs::rename(from, to).unwrap();
    degrades(&mut daemon, moved(source.clone(), away.clone()), moved(away, source.clone()), source.to_str().unwrap());
}

/// The mount point of a disk that is not mounted is there, and empty: the pool does not begin anew in it.
#[test]
fn a_mount_point_without_its_disk_is_no_pool() {
    let mut daemon = Daemon::bare();
    let (source, away) = (daemon.root.join("source"), daemon.root.join("away"));
    std::fs::create_dir(&source).unwrap();
    daemon.lxc(&["storage", "create", "p", "overlay", &format!("source={}", source.display())]).ok();
    let gone = {
        let (source, away) = (source.clone(), away.clone());
        move || {
            std::fs::rename(&source, away).unwrap();
            std::fs::create_dir(source).unwrap();
        }
    };
    let back = {
        let source = source.clone();
        move || {
            assert!(source.read_dir().unwrap().next().is_none(), "something was made in the mount point");
            std::fs::remove_dir(&source).unwrap();
            std::fs::rename(away, source).unwrap();
        }
    };
    degrades(&mut daemon, gone, back, "is its disk mounted?");
}

#[test]
fn a_device_that_is_away_comes_back_under_another_name() {
    let mut daemon = Daemon::bare();
    let device = Device::new(&daemon, "disk");
    daemon.lxc(&["storage", "create", "p", "btrfs", &format!("source={}", device.path())]).ok();
    let uuid = pool(&daemon, "p")["config"]["source"].as_str().unwrap().to_owned();
    let file = daemon.root.join("disk");
    let held = std::cell::RefCell::new(Some(device));
    // The node is not what is watched for, if there is no udev: any node of /dev that comes is.
    degrades(&mut daemon, || drop(held.take()), || drop(held.replace(Some(Device::of(&file)))), &uuid);
    drop(held);
}

/// A pool that is away can be deleted: what there is of it goes.
#[test]
fn a_pool_that_is_away_can_be_deleted() {
    let mut daemon = Daemon::bare();
    daemon.lxc(&["storage", "create", "p", "btrfs", "size=200MiB"]).ok();
    daemon.terminate();
    std::fs::remove_file(file(&daemon, "p")).unwrap();
    daemon.start();
    daemon.lxc(&["storage", "delete", "p"]).ok();
    assert!(!place(&daemon, "p").exists());
    assert!(warnings(&daemon, "Storage pool unavailable", "new").is_empty());
}

#[test]
fn who_keeps_a_pool_busy_is_named() {
    let daemon = Daemon::bare();
    daemon.lxc(&["storage", "create", "p", "btrfs", "size=200MiB"]).ok();
    let inside = place(&daemon, "p").join("custom");
    let mut child = Command::new("sleep").arg("100").current_dir(&inside).spawn().unwrap();
    let said = daemon.lxc(&["storage", "delete", "p"]);
    assert!(said.code != 0 && said.err.contains(&format!("process {} (sleep)", child.id())), "{}", said.err);
    assert_eq!(pool(&daemon, "p")["status"], "Created");
    child.kill().unwrap();
    child.wait().unwrap();
    daemon.lxc(&["storage", "delete", "p"]).ok();
}

fn usage(daemon: &Daemon, instance: &str) -> Option<u64> {
    daemon.api("GET", &format!("/1.0/instances/{instance}/state"), "").1["metadata"]["disk"]["root"]["usage"].as_u64()
}

/// Writes so many MiB to a file inside; what was said when that failed.
fn fill(daemon: &Daemon, instance: &str, size: usize) -> Option<String> {
    let script = format!("head -c {} /dev/zero > /root/fill", size << 20);
    let said = daemon.lxc(&["exec", instance, "--", "sh", "-c", &script]);
    (said.code != 0).then_some(said.err)
}

#[test]
fn the_size_of_a_root_disk_counts_at_once() {
    let daemon = Daemon::bare();
    daemon.lxc(&["storage", "create", "p", "btrfs", "size=600MiB"]).ok();
    daemon.lxc(&["profile", "device", "add", "default", "root", "disk", "path=/", "pool=p"]).ok();
    let (meta, root) = daemon.busybox();
    daemon.lxc(&["image", "import", meta.to_str().unwrap(), root.to_str().unwrap(), "--alias", "bb"]).ok();
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    assert_eq!(usage(&daemon, "c1"), None, "nothing is counted before the first limit");
    assert_eq!(fill(&daemon, "c1", 30), None);
    daemon.lxc(&["config", "device", "override", "c1", "root", "size=much"]).refused("\"size\"");
    daemon.lxc(&["config", "device", "override", "c1", "root", "size=50MiB", "size.state=x"]).refused("\"size.state\"");
    daemon.lxc(&["config", "device", "override", "c1", "root", "size=50MiB", "size.state=1GiB"]).ok();
    assert!(fill(&daemon, "c1", 80).is_some());
    let used = usage(&daemon, "c1").unwrap();
    assert!((20 << 20..60 << 20).contains(&used), "{used}");
    daemon.lxc(&["config", "device", "set", "c1", "root", "size=5MiB"]).refused("already");
    assert_eq!(daemon.lxc(&["config", "device", "get", "c1", "root", "size"]).ok().trim(), "50MiB");
    daemon.lxc(&["config", "device", "set", "c1", "root", "size=200MiB"]).ok();
    assert_eq!(fill(&daemon, "c1", 80), None);

    // A snapshot has no limit, a restore keeps the instance's; a copy has its own.
    daemon.lxc(&["snapshot", "c1", "s"]).ok();
    daemon.lxc(&["restore", "c1", "s"]).ok();
    assert!(fill(&daemon, "c1", 250).is_some());
    daemon.lxc(&["copy", "c1/s", "c2", "-d", "root,size=120MiB"]).ok();
    daemon.lxc(&["start", "c2"]).ok();
    assert_eq!(fill(&daemon, "c2", 90), None);
    assert!(fill(&daemon, "c2", 150).is_some());
    daemon.lxc(&["delete", "c2", "--force"]).ok();

    // Of a profile: those that are down have it at once, too.
    daemon.lxc(&["init", "bb", "c3"]).ok();
    daemon.lxc(&["profile", "device", "set", "default", "root", "size=20MiB"]).ok();
    daemon.lxc(&["start", "c3"]).ok();
    assert!(fill(&daemon, "c3", 40).is_some());
    daemon.lxc(&["config", "device", "remove", "c1", "root"]).refused("already");
    daemon.lxc(&["profile", "device", "unset", "default", "root", "size"]).ok();
    daemon.lxc(&["exec", "c3", "--", "sh", "-c", ": > /root/fill"]).ok();
    assert_eq!(fill(&daemon, "c3", 40), None);

    // What the pool says of new ones.
    daemon.lxc(&["storage", "set", "p", "volume.size=30MiB"]).ok();
    daemon.lxc(&["launch", "bb", "c4"]).ok();
    assert_eq!(fill(&daemon, "c4", 10), None);
    assert!(fill(&daemon, "c4", 40).is_some());
    daemon.lxc(&["delete", "c1", "c3", "c4", "--force"]).ok();
}

#[test]
fn a_pool_that_cannot_limit_says_so() {
    let daemon = Daemon::ready("dir");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    daemon.lxc(&["config", "device", "override", "c1", "root", "size=1GiB"]).refused("prjquota");
    daemon.lxc(&["launch", "bb", "c2", "-d", "root,size=1GiB"]).refused("leave \"size\" out");
    assert_eq!(daemon.status("c2"), "none");
    assert_eq!(daemon.api("GET", "/1.0/instances/c1", "").1["metadata"]["devices"], json!({}));
    daemon.lxc(&["start", "c1"]).ok();
}

#[test]
fn a_source_that_roots_of_containers_cannot_reach_is_named() {
    let daemon = Daemon::ready("dir");
    let closed = daemon.root.join("closed");
    std::fs::create_dir_all(closed.join("pool")).unwrap();
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    daemon.lxc(&["storage", "create", "q", "dir", &format!("source={}", closed.join("pool").display())]).ok();
    daemon.lxc(&["init", "bb", "c1", "-s", "q"]).ok();
    daemon.lxc(&["start", "c1"]).refused(&format!("chmod o+x {}", closed.display()));
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    daemon.lxc(&["start", "c1"]).ok();
    daemon.lxc(&["delete", "c1", "--force"]).ok();
}

#[test]
fn init_makes_a_pool_on_a_file_or_a_device() {
    isolated("init_makes_a_pool_on_a_file_or_a_device", || {
        let daemon = Daemon::bare();
        let arguments = ["init", "--auto", "--storage-backend", "btrfs", "--storage-create-loop", "1"];
        daemon
            .verb(&[&arguments[..], &["--storage-create-device", "/dev/null"]].concat())
            .refused("cannot be used with");
        daemon.verb(&arguments).ok();
        assert_eq!(pool(&daemon, "default")["config"]["size"], "1GiB");
        daemon.lxc(&["profile", "device", "remove", "default", "root"]).ok();
        daemon.lxc(&["storage", "delete", "default"]).ok();
        let device = Device::new(&daemon, "disk");
        daemon.verb(&["init", "--auto", "--storage-create-device", device.path()]).ok();
        assert_eq!(pool(&daemon, "default")["config"]["volatile.initial_source"], device.path());
        daemon.lxc(&["profile", "device", "remove", "default", "root"]).ok();
        daemon.lxc(&["storage", "delete", "default"]).ok();
    });
}
