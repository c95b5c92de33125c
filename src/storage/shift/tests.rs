//! Shifts of small trees: killed at any change and taken up again, they end as one that is left alone.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::PathBuf;
use std::sync::atomic::AtomicI64;

use proptest::prelude::*;
use rustix::fs::XattrFlags;

use super::*;
use crate::security::idmap::{Extent, IdRange};

fn map(base: u32, size: u32) -> IdMap {
    let range = IdRange { base, size };
    IdMap::new(range, range)
}

fn killed_after(steps: i64) -> Progress {
    Progress { fuse: Some(AtomicI64::new(steps)), ..Progress::default() }
}

fn acl(user: u32, group: u32) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    let entries: [(u16, u16, u32); 6] =
        [(1, 7, !0), (2, 5, user), (4, 5, !0), (8, 4, group), (0x10, 5, !0), (0x20, 0, !0)];
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

/// `cap_net_bind_service=ep`.
fn capability(root: Option<u32>) -> Vec<u8> {
    let revision: u32 = if root.is_some() { 0x0300_0001 } else { 0x0200_0001 };
    let mut value = revision.to_le_bytes().to_vec();
    for word in [1u32 << 10, 0, 0, 0] {
        value.extend(word.to_le_bytes());
    }
    value.extend(root.into_iter().flat_map(u32::to_le_bytes));
    value
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1024];
    let size = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(size);
    Some(value)
}

/// What is to be the same: owner, mode and attributes of everything.
type Picture = BTreeMap<PathBuf, (u32, u32, u32, [Option<Vec<u8>>; 3], i64)>;

fn picture(top: &Path) -> Picture {
    fn add(path: &Path, top: &Path, all: &mut Picture) {
        let meta = path.symlink_metadata().unwrap();
        let names = [ids::CAPABILITY, ids::ACLS[0], ids::ACLS[1]];
        let attributes = names.map(|name| attribute(path, name));
        let below = path.strip_prefix(top).unwrap().to_owned();
        all.insert(below, (meta.uid(), meta.gid(), meta.mode(), attributes, meta.mtime()));
        if meta.is_dir() {
            std::fs::read_dir(path).unwrap().for_each(|entry| add(&entry.unwrap().path(), top, all));
        }
    }
    let mut all = Picture::new();
    add(top, top, &mut all);
    all
}

#[derive(Debug, Clone)]
struct Planned {
    kind: u8,
    uid: u32,
    gid: u32,
    other: u32,
}

fn make(volume: &Path, files: &[Planned]) {
    let mut directory = volume.join("rootfs");
    std::fs::create_dir_all(&directory).unwrap();
    let mut last = None::<PathBuf>;
    for (number, file) in files.iter().enumerate() {
        let path = directory.join(format!("f{number}"));
        let set = |name: &str, value: &[u8]| {
            rustix::fs::setxattr(&path, name, value, XattrFlags::empty()).unwrap();
        };
        let mut later: Vec<(&str, Vec<u8>)> = Vec::new();
        let mut mode = 0o640;
        match file.kind {
            0 => {
                std::fs::create_dir(&path).unwrap();
                mode = 0o2750;
                later = vec![("system.posix_acl_default", acl(file.other, file.gid))];
                directory = path.clone();
            }
            1 => symlink("/nowhere", &path).unwrap(),
            2 if last.is_some() => {
                std::fs::hard_link(last.as_ref().unwrap(), &path).unwrap();
                continue;
            }
            3 => {
                std::fs::write(&path, "x").unwrap();
                mode = 0o6755;
                later = vec![("security.capability", capability(None))];
            }
            4 => {
                std::fs::write(&path, "x").unwrap();
                later = vec![("system.posix_acl_access", acl(file.other, file.gid))];
            }
            5 => {
                std::fs::write(&path, "x").unwrap();
                later = vec![("security.capability", capability(Some(file.other.max(1))))];
            }
            _ => {
                std::fs::write(&path, "x").unwrap();
                mode = 0o4711;
            }
        }
        std::os::unix::fs::lchown(&path, Some(file.uid), Some(file.gid)).unwrap();
        if file.kind != 1 {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            later.iter().for_each(|(name, value)| set(name, value));
            last = (file.kind != 0).then(|| path.clone()).or(last);
        }
    }
}

fn scratch() -> tempfile::TempDir {
    // Not /tmp, which may be a file system without ACLs.
    tempfile::Builder::new().prefix("warren-test-shift-").tempdir_in("/var/tmp").unwrap()
}

fn bring_all(volume: &Path, wanted: Option<&IdMap>) {
    bring(volume, wanted, false, &Progress::default()).unwrap();
}

#[test]
fn owners_bits_capabilities_and_acls_are_shifted_and_come_back() {
    let dir = scratch();
    let kinds = [0, 1, 3, 2, 4, 5, 6, 2];
    let files: Vec<_> = kinds.iter().map(|kind| Planned { kind: *kind, uid: 5, gid: 6, other: 7 }).collect();
    make(dir.path(), &files);
    let rootfs = dir.path().join("rootfs");
    let before = picture(&rootfs);
    let wanted = map(100_000, 65536);
    let progress = Progress::default();
    bring(dir.path(), Some(&wanted), false, &progress).unwrap();
    assert_eq!(progress.told(), Some((9, 9)));
    assert_eq!(stored(dir.path()).unwrap().as_ref(), Some(&wanted));
    let after = picture(&rootfs);
    for (path, old) in &before {
        let new = &after[path];
        let root = path.as_os_str().is_empty();
        let owner = if root { (100_000, 100_000) } else { (100_005, 100_006) };
        assert_eq!(((new.0, new.1), new.2, new.4), (owner, old.2, old.4), "{path:?}");
        let access = old.3[1].clone().map(|mut acl| {
            acl[16..20].copy_from_slice(&100_007u32.to_le_bytes());
            acl[32..36].copy_from_slice(&100_006u32.to_le_bytes());
            acl
        });
        assert_eq!(new.3[1], access, "{path:?}");
    }
    let capable = |name: &str| after[Path::new(name)].3[0].clone();
    assert_eq!(
        (capable("f0/f2"), capable("f0/f5")),
        (Some(capability(Some(100_000))), Some(capability(Some(100_007))))
    );
    assert_eq!(after[Path::new("f0")].3[2], Some(acl(100_007, 100_006)));
    // Another map, which has ids in common with the first.
    let other = map(100_005, 65536);
    bring_all(dir.path(), Some(&other));
    assert_eq!(picture(&rootfs)[Path::new("f0/f2")].0, 100_010);
    // What is where it belongs is not looked at.
    let progress = Progress::default();
    bring(dir.path(), Some(&other), true, &progress).unwrap();
    assert_eq!(progress.told(), None);
    assert!(matches!(bring(dir.path(), None, true, &progress), Err(Error::ShiftRefused)));
    bring_all(dir.path(), None);
    assert_eq!(picture(&rootfs), before);
    assert!(!dir.path().join("idmap.json").exists() && !dir.path().join("shift.json").exists());
}

#[test]
fn ids_that_are_not_mapped_stay() {
    let dir = scratch();
    make(dir.path(), &[Planned { kind: 6, uid: 70_000, gid: 1, other: 0 }]);
    bring_all(dir.path(), Some(&map(200_000, 65536)));
    let file = dir.path().join("rootfs/f0").symlink_metadata().unwrap();
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (70_000, 200_001, 0o4711));
}

#[test]
fn links_are_not_followed_and_trees_may_be_deep() {
    let dir = scratch();
    let outside = dir.path().join("outside");
    std::fs::write(&outside, "").unwrap();
    make(dir.path(), &[]);
    let rootfs = dir.path().join("rootfs");
    symlink(&outside, rootfs.join("file")).unwrap();
    symlink(dir.path(), rootfs.join("directory")).unwrap();
    // Deeper than one path can say.
    let name = "d".repeat(250);
    let mut at = walk::open(&rootfs).unwrap();
    let mut all = vec![at.try_clone().unwrap()];
    for _ in 0..30 {
        rustix::fs::mkdirat(&at, &*name, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY;
        at = rustix::fs::openat(&at, &*name, flags, rustix::fs::Mode::empty()).unwrap();
        all.push(at.try_clone().unwrap());
    }
    bring_all(dir.path(), Some(&map(300_000, 65536)));
    for fd in &all {
        assert_eq!(rustix::fs::fstat(fd).unwrap().st_uid, 300_000);
    }
    assert_eq!(outside.metadata().unwrap().uid(), 0);
    assert_eq!(rootfs.join("file").symlink_metadata().unwrap().uid(), 300_000);
    chown(&rootfs, Some(0), Some(0)).unwrap();
}

#[test]
fn a_damaged_record_is_an_error_and_changes_nothing() {
    let dir = scratch();
    make(dir.path(), &[]);
    for (name, text) in [("idmap.json", "[]"), ("idmap.json", "x"), ("shift.json", "{}")] {
        std::fs::write(dir.path().join(name), text).unwrap();
        let refused = bring(dir.path(), Some(&map(1000, 10)), false, &Progress::default());
        assert!(matches!(refused, Err(Error::Damaged { .. })), "{name} {text}");
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    assert_eq!(dir.path().join("rootfs").metadata().unwrap().uid(), 0);
}

fn planned() -> impl Strategy<Value = Planned> {
    (0u8..7, 0u32..30, 0u32..30, 0u32..30).prop_map(|(kind, uid, gid, other)| Planned { kind, uid, gid, other })
}

/// A map of the ids 0 to 39, in one or more rows; it may lie over them.
fn maps() -> impl Strategy<Value = IdMap> {
    (0u32..60, 0u32..20, 1u32..10).prop_map(|(base, from, size)| {
        let mut map = map(base, 40);
        map.punch(Extent { inside: from, outside: 1000 + from, size }, [true, false]);
        map
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn killed_anywhere_and_taken_up_again_it_ends_the_same(
        files in proptest::collection::vec(planned(), 1..14),
        (first, second) in (maps(), maps()),
        kills in proptest::collection::vec(0i64..12, 1..12),
    ) {
        let (whole, killed) = (scratch(), scratch());
        let top = |dir: &tempfile::TempDir| dir.path().join("rootfs");
        for dir in [&whole, &killed] {
            make(dir.path(), &files);
        }
        let before = picture(&top(&whole));
        let same = |a: &Picture, b: &Picture| {
            let timeless = |picture: &Picture| picture.iter().map(|(path, it)| (path.clone(), (it.0, it.1, it.2, it.3.clone()))).collect::<Vec<_>>();
            timeless(a) == timeless(b)
        };
        for wanted in [Some(&first), Some(&second), None] {
            bring_all(whole.path(), wanted);
            for steps in &kills {
                let _ = bring(killed.path(), wanted, false, &killed_after(*steps));
            }
            bring_all(killed.path(), wanted);
            prop_assert!(same(&picture(&top(&whole)), &picture(&top(&killed))));
            prop_assert!(!killed.path().join("shift.json").exists());
        }
        prop_assert!(same(&before, &picture(&top(&whole))));
    }
}
