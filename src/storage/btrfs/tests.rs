use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::mount::{MountFlags, UnmountFlags};

use super::super::copy::tests::{facts, zoo};
use super::*;
use crate::sys::loop_device::LoopDevice;

/// A btrfs of its own.
pub(in crate::storage) struct Disk {
    dir: tempfile::TempDir,
    _device: LoopDevice,
}

impl Disk {
    pub(in crate::storage) fn new() -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let file = dir.path().join("disk");
        fs::File::create(&file).unwrap().set_len(1 << 30).unwrap();
        assert!(
            Command::new("mkfs.btrfs")
                .arg("-q")
                .arg(&file)
                .stdout(std::process::Stdio::null())
                .status()
                .unwrap()
                .success()
        );
        let device = LoopDevice::of(&file, false).unwrap();
        let pool = dir.path().join("pool");
        fs::create_dir(&pool).unwrap();
        rustix::mount::mount(device.path(), &pool, "btrfs", MountFlags::empty(), None).unwrap();
        for name in ["images", "containers", ".new", ".trash"] {
            fs::create_dir(pool.join(name)).unwrap();
        }
        Self { dir, _device: device }
    }

    pub(in crate::storage) fn pool(&self) -> PathBuf {
        self.dir.path().join("pool")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.pool(), UnmountFlags::empty());
    }
}

fn driver(disk: &Disk) -> Btrfs {
    Btrfs::new(Arc::new(Probes::new(&disk.pool())))
}

fn subvolumes_of(disk: &Disk) -> usize {
    btrfs::children(btrfs::open(&disk.pool()).unwrap()).unwrap().len()
}

#[test]
fn a_tree_with_everything_survives_snapshot_restore_and_copy() {
    let disk = Disk::new();
    let (pool, driver) = (disk.pool(), driver(&disk));
    let volume = |name: &str| pool.join("containers").join(name);
    driver.make(&pool, &volume("a"), Make::Empty).unwrap();
    let root = volume("a").join("rootfs");
    zoo(&root);
    fs::remove_dir_all(root.join("deep")).unwrap();
    let before = facts(&root);
    assert!(before.len() > 12);
    assert!(driver.snapshot_in_place(&volume("a"), &volume("snapshot")).unwrap());
    assert!(driver.snapshot_in_place(&volume("a"), &volume("other")).unwrap());
    assert!(driver.remove_in_place(&volume("other")).unwrap() && !volume("other").exists());
    fs::write(root.join("plain"), "changed").unwrap();
    fs::remove_file(root.join("fifo")).unwrap();
    let refused = fs::write(volume("snapshot").join("rootfs/new"), "").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    driver.make(&pool, &volume("copy"), Make::Copy { of: &volume("snapshot"), live: None }).unwrap();
    for (path, facts_before) in &before {
        for of in ["snapshot", "copy"] {
            let now = facts(&volume(of).join("rootfs"));
            assert_eq!(now.get(path), Some(facts_before), "{of} {}", path.display());
        }
    }
    fs::write(volume("copy").join("rootfs/new"), "").unwrap();
    driver.unseal(&volume("snapshot")).unwrap();
    for name in ["a", "snapshot", "copy"] {
        let trash = pool.join(".trash").join(name);
        fs::rename(volume(name), &trash).unwrap();
        driver.discard(&pool, &trash).unwrap();
        assert!(!trash.exists());
    }
    assert_eq!(subvolumes_of(&disk), 0);
}

/// As Docker's driver makes them, in directories, in each other, read-only ones.
#[test]
fn subvolumes_that_were_made_inside_come_along_and_go() {
    let disk = Disk::new();
    let (pool, driver) = (disk.pool(), driver(&disk));
    let volume = |name: &str| pool.join("containers").join(name);
    driver.make(&pool, &volume("a"), Make::Empty).unwrap();
    let lib = volume("a").join("rootfs/var/lib");
    fs::create_dir_all(&lib).unwrap();
    let make = |path: PathBuf| {
        create(&path).unwrap();
        fs::write(path.join("file"), path.file_name().unwrap().as_encoded_bytes()).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o750)).unwrap();
        path
    };
    let layer = make(lib.join("layer"));
    let inner = make(layer.join("odd \n name"));
    let fixed = make(lib.join("fixed"));
    let in_fixed = make(fixed.join("below"));
    set_read_only(&in_fixed, true).unwrap();
    set_read_only(&fixed, true).unwrap();
    let time = fs::metadata(&lib).unwrap().modified().unwrap();
    assert!(!driver.snapshot_in_place(&volume("a"), &volume("s")).unwrap(), "there are others below");
    assert!(!driver.remove_in_place(&volume("a")).unwrap());
    let before = facts(&volume("a").join("rootfs"));
    // As while the container runs.
    let root = volume("a").join("rootfs");
    rustix::mount::mount_bind(&root, &root).unwrap();
    driver.make(&pool, &volume("b"), Make::Snapshot { of: &volume("a"), live: None }).unwrap();
    driver.seal(&volume("b")).unwrap();
    rustix::mount::unmount(&root, UnmountFlags::empty()).unwrap();
    // Moved in the original, where the snapshot does not see it.
    fs::rename(&inner, layer.join("moved")).unwrap();
    driver.make(&pool, &volume("c"), Make::Copy { of: &volume("b"), live: None }).unwrap();
    for of in ["b", "c"] {
        let root = volume(of).join("rootfs");
        let now = facts(&root);
        assert_eq!(now.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
        assert_eq!(fs::read(root.join("var/lib/layer/odd \n name/file")).unwrap(), b"odd \n name");
        assert_eq!(fs::metadata(root.join("var/lib")).unwrap().modified().unwrap(), time);
        let is_fixed = |path: &str| btrfs::is_read_only(btrfs::open(&root.join(path)).unwrap()).unwrap();
        assert!(is_fixed("var/lib/fixed") && is_fixed("var/lib/fixed/below") && !is_fixed("var/lib/layer"));
    }
    fs::write(volume("c").join("rootfs/var/lib/layer/odd \n name/file"), "other").unwrap();
    assert_eq!(fs::read(volume("b").join("rootfs/var/lib/layer/odd \n name/file")).unwrap(), b"odd \n name");
    driver.unseal(&volume("b")).unwrap();
    for name in ["a", "b", "c"] {
        driver.discard(&pool, &volume(name)).unwrap();
    }
    assert_eq!(subvolumes_of(&disk), 0);
}

#[test]
fn a_plain_directory_goes_with_the_subvolumes_in_it() {
    let disk = Disk::new();
    let plain = disk.pool().join("containers");
    fs::create_dir_all(plain.join("x/y")).unwrap();
    create(&plain.join("x/y/one")).unwrap();
    create(&plain.join("two")).unwrap();
    create(&disk.pool().join("other")).unwrap();
    set_read_only(&plain.join("two"), true).unwrap();
    fs::write(plain.join("x/file"), "").unwrap();
    remove(&plain).unwrap();
    assert!(!plain.exists() && disk.pool().join("other").is_dir());
    assert_eq!(subvolumes_of(&disk), 1);
    remove(&plain).unwrap();
    fs::write(disk.pool().join("file"), "").unwrap();
    remove(&disk.pool().join("file")).unwrap();
}

/// A pool of driver dir or overlay on btrfs: what is a subvolume inside stays one in a copy, and goes.
#[test]
fn subvolumes_are_copied_as_such_by_other_drivers() {
    let disk = Disk::new();
    let (from, to) = (disk.pool().join("from"), disk.pool().join("to"));
    fs::create_dir_all(from.join("d")).unwrap();
    create(&from.join("d/sub")).unwrap();
    create(&from.join("d/sub/inner")).unwrap();
    fs::write(from.join("d/sub/inner/file"), "x").unwrap();
    super::super::copy::tree(&from, &to).unwrap();
    assert_eq!(facts(&to.join("d")), facts(&from.join("d")));
    let is = |path: &str| btrfs::is_subvolume(btrfs::open(&to.join(path)).unwrap()).unwrap();
    assert!(is("d/sub") && is("d/sub/inner") && !is("d"));
    set_read_only(&to.join("d/sub/inner"), true).unwrap();
    set_read_only(&to.join("d/sub"), true).unwrap();
    super::super::files::remove_dir(&to).unwrap();
    assert!(!to.exists());
}

/// A container that moves its directories about while it is copied leads nobody out of its volume.
#[test]
fn links_lead_nowhere() {
    let disk = Disk::new();
    let (pool, driver) = (disk.pool(), driver(&disk));
    let volume = |name: &str| pool.join("containers").join(name);
    driver.make(&pool, &volume("secret"), Make::Empty).unwrap();
    driver.make(&pool, &volume("a"), Make::Empty).unwrap();
    let root = volume("a").join("rootfs");
    fs::create_dir(root.join("d")).unwrap();
    create(&root.join("d/sub")).unwrap();
    let of = btrfs::open(&volume("a")).unwrap();
    btrfs::snapshot(&of, btrfs::open(&pool.join("containers")).unwrap(), "b".as_ref()).unwrap();
    // What the copy would meet that lists the children now.
    fs::rename(root.join("d"), root.join("e")).unwrap();
    std::os::unix::fs::symlink(volume("secret").parent().unwrap(), root.join("d")).unwrap();
    super::subvolumes::copy(&volume("a"), &volume("c")).unwrap();
    assert!(volume("c").join("rootfs/e/sub").is_dir());
    assert!(volume("c").join("rootfs/d").is_symlink());
}

#[test]
fn quota_groups_count_and_limit() {
    let disk = Disk::new();
    let pool = disk.pool();
    let place = pool.join("containers/a");
    create(&place).unwrap();
    let fd = btrfs::open(&place).unwrap();
    let id = btrfs::id(&fd).unwrap();
    assert_eq!(btrfs::quotas(&fd).unwrap(), None);
    assert_eq!(btrfs::usage(&fd, id).unwrap(), None);
    assert!(btrfs::limit(&fd, id, Some(1)).is_err());
    btrfs::enable_quotas(&fd).unwrap();
    assert!(btrfs::quotas(&fd).unwrap().is_some());
    fs::write(place.join("file"), vec![1; 3 << 20]).unwrap();
    btrfs::sync(&fd).unwrap();
    let usage = btrfs::usage(&fd, id).unwrap().unwrap();
    assert!(usage.referenced >= 3 << 20 && usage.exclusive == usage.referenced && usage.limit.is_none(), "{usage:?}");
    btrfs::limit(&fd, id, Some(5 << 20)).unwrap();
    assert_eq!(btrfs::usage(&fd, id).unwrap().unwrap().limit, Some(5 << 20));
    let full = fs::write(place.join("more"), vec![1; 4 << 20]).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::EDQUOT));
    btrfs::limit(&fd, id, None).unwrap();
    assert_eq!(btrfs::usage(&fd, id).unwrap().unwrap().limit, None);
    fs::write(place.join("more"), vec![1; 4 << 20]).unwrap();
    btrfs::recount(&fd).unwrap();
    // By the driver: what it is over already is refused, a limit goes with the volume that takes its place.
    let driver = driver(&disk);
    let used = driver.set_quota(&place, Some(1 << 20)).unwrap_err().to_string();
    assert!(used.contains("already"), "{used}");
    driver.set_quota(&place, Some(20 << 20)).unwrap();
    btrfs::sync(&fd).unwrap();
    let usage = driver.usage(&place).unwrap().unwrap();
    assert!(usage.limit == Some(20 << 20) && usage.used > 6 << 20, "{usage:?}");
    driver.set_quota(&place, None).unwrap();
    assert_eq!(driver.usage(&place).unwrap().unwrap().limit, None);
}
