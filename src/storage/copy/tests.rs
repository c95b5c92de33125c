use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use proptest::prelude::*;

use super::*;

/// Everything of a file that a copy must have. Hard links: the first path of the same file.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::storage) struct Facts {
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    device: u64,
    pub(in crate::storage) links: u64,
    pub(in crate::storage) first: PathBuf,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    content: Vec<u8>,
}

pub(in crate::storage) fn facts(root: &Path) -> BTreeMap<PathBuf, Facts> {
    let (mut found, mut firsts, mut left) = (BTreeMap::new(), BTreeMap::new(), vec![PathBuf::new()]);
    while let Some(below) = left.pop() {
        let path = root.join(&below);
        let stat = path.symlink_metadata().unwrap();
        let kind = stat.file_type();
        let content = if kind.is_dir() {
            let mut names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            left.extend(names.iter().rev().map(|name| below.join(name)));
            Vec::new()
        } else if kind.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else if kind.is_file() {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        let place = rustix::fs::open(&path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).unwrap();
        let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&place));
        let mut attributes = BTreeMap::new();
        for name in list(&link).unwrap() {
            let mut value = vec![0; 65536];
            let length = rustix::fs::getxattr(&link, OsStr::from_bytes(&name), &mut value[..]).unwrap();
            attributes.insert(name, value[..length].to_vec());
        }
        let first = firsts.entry(stat.ino()).or_insert_with(|| below.clone()).clone();
        found.insert(
            below,
            Facts {
                mode: stat.mode(),
                owner: (stat.uid(), stat.gid()),
                modified: (stat.mtime(), stat.mtime_nsec()),
                device: stat.rdev(),
                links: if kind.is_dir() { 0 } else { stat.nlink() },
                first,
                attributes,
                content,
            },
        );
    }
    found
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// One of everything.
pub(in crate::storage) fn zoo(root: &Path) {
    let file = |name: &str, text: &str| {
        let path = root.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    fs::create_dir_all(root.join("dir/below")).unwrap();
    let plain = file("plain", "text");
    std::os::unix::fs::chown(&plain, Some(1234), Some(65536)).unwrap();
    file("odd \n\u{1f980} name", "");
    fs::write(root.join(OsStr::from_bytes(b"\xff\xfe")), "bytes").unwrap();
    let suid = file("suid", "program");
    std::os::unix::fs::chown(&suid, Some(7), Some(8)).unwrap();
    fs::set_permissions(&suid, PermissionsExt::from_mode(0o6755)).unwrap();
    let capable = file("capable", "program");
    // VFS_CAP_REVISION_2, cap_net_raw+ep (capabilities(7)).
    set(&capable, "security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    set(&plain, "user.note", b"kept");
    set(&root.join("dir"), "trusted.overlay.opaque", b"y");
    // POSIX ACL, version 2: owner, a user, the group, mask, others.
    let acl: Vec<u8> = [(1u16, 6u16, u32::MAX), (2, 7, 55), (4, 4, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)]
        .into_iter()
        .flat_map(|(tag, perm, id)| [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat())
        .collect();
    set(&plain, "system.posix_acl_access", &[&2u32.to_le_bytes()[..], &acl].concat());
    set(&root.join("dir"), "system.posix_acl_default", &[&2u32.to_le_bytes()[..], &acl].concat());
    symlink("../nowhere", root.join("link")).unwrap();
    std::os::unix::fs::lchown(root.join("link"), Some(3), Some(4)).unwrap();
    set(&root.join("link"), "trusted.overlay.origin", b"x");
    fs::hard_link(&plain, root.join("dir/below/hard")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("gone"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    let null = rustix::fs::makedev(1, 3);
    let mode = Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, root.join("null"), FileType::CharacterDevice, mode, null).unwrap();
    drop(std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap());
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(50 << 20).unwrap();
    sparse.write_at(b"middle", 20 << 20).unwrap();
    let mut deep = root.join("deep");
    for _ in 0..40 {
        deep.push("d".repeat(200));
        // Piece by piece: a whole path may be longer than the kernel takes.
        let parent = walk::open_below(walk::open(root).unwrap(), deep.parent().unwrap().strip_prefix(root).unwrap());
        let Ok(parent) = parent else {
            fs::create_dir_all(&deep).unwrap();
            continue;
        };
        rustix::fs::mkdirat(&parent, deep.file_name().unwrap(), Mode::RWXU).unwrap();
    }
    fs::set_permissions(root.join("dir"), PermissionsExt::from_mode(0o1571)).unwrap();
    let old = Timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 };
    let old = Timestamps { last_access: old, last_modification: old };
    for path in ["dir", "plain", "link", "socket"] {
        rustix::fs::utimensat(rustix::fs::CWD, root.join(path), &old, NAME).unwrap();
    }
}

/// Gives a directory that was worked in a time of its own.
pub(in crate::storage) fn aged(root: &Path) {
    let old = Timespec { tv_sec: 1, tv_nsec: 0 };
    let old = Timestamps { last_access: old, last_modification: old };
    rustix::fs::utimensat(rustix::fs::CWD, root, &old, NAME).unwrap();
}

#[track_caller]
pub(in crate::storage) fn assert_alike(one: &Path, other: &Path) {
    let (original, copy) = (facts(one), facts(other));
    for (path, facts) in &original {
        assert_eq!(Some(facts), copy.get(path), "{}", path.display());
    }
    assert_eq!(original.len(), copy.len());
}

fn place() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

#[test]
fn a_copy_has_all_that_its_original_has() {
    let dir = place();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    zoo(&from);
    // Too deep for the paths of the comparison; that it is there is compared apart.
    tree(&from, &to).unwrap();
    let depth = |root: &Path| {
        let (mut at, mut depth) = (walk::open(&root.join("deep")).unwrap(), 0);
        let name = "d".repeat(200);
        while let Ok(next) = rustix::fs::openat(&at, &*name, OFlags::DIRECTORY, Mode::empty()) {
            (at, depth) = (next, depth + 1);
        }
        depth
    };
    assert_eq!((depth(&from), depth(&to)), (40, 40));
    for root in [&from, &to] {
        fs::remove_dir_all(root.join("deep")).unwrap();
        aged(root);
    }
    assert_alike(&from, &to);
    assert!(to.join("sparse").metadata().unwrap().blocks() < 1000, "holes stay holes");
}

struct Change<F>(F);

impl<F: Fn() + Send + Sync> Pause for Change<F> {
    fn pause(&self) -> Result<(), Error> {
        self.0();
        Ok(())
    }

    fn resume(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// Copies `from` while `change` happens between the passes; what differs afterwards.
fn changed_meanwhile(from: &Path, to: &Path, change: impl Fn() + Send + Sync) -> Vec<PathBuf> {
    live(&[(from.to_owned(), to.to_owned())], &Change(change)).unwrap();
    let (original, copy) = (facts(from), facts(to));
    let paths = original.keys().chain(copy.keys()).cloned().collect::<std::collections::BTreeSet<_>>();
    paths.into_iter().filter(|path| original.get(path) != copy.get(path)).collect()
}

#[test]
fn what_changes_while_it_is_copied_is_copied_at_its_end() {
    let dir = place();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    for parent in ["a/sub", "b/sub", "c"] {
        fs::create_dir_all(from.join(parent)).unwrap();
        fs::write(from.join(parent).join("file"), parent).unwrap();
    }
    fs::write(from.join("a/twice"), "").unwrap();
    fs::hard_link(from.join("a/twice"), from.join("c/twice")).unwrap();
    // Older than the file system's steps of time.
    std::thread::sleep(std::time::Duration::from_millis(120));
    let differs = changed_meanwhile(&from, &to, || {
        // The same names with other files in them.
        fs::rename(from.join("a"), from.join("a.old")).unwrap();
        fs::rename(from.join("b"), from.join("a")).unwrap();
        fs::write(from.join("c/file"), "longer").unwrap();
        fs::remove_file(from.join("c/twice")).unwrap();
        fs::create_dir(from.join("b")).unwrap();
        fs::set_permissions(from.join("c"), PermissionsExt::from_mode(0o711)).unwrap();
    });
    assert!(differs.is_empty(), "{differs:?}");
    assert_eq!(fs::read_to_string(to.join("a/sub/file")).unwrap(), "b/sub");
}

/// A change of a small tree: what, to which of the names.
pub(in crate::storage) fn apply(root: &Path, (what, one, other): (u8, u8, u8)) {
    let name = |n: u8| root.join(["a", "b", "a/x", "b/y", "a/x/z"][usize::from(n) % 5]);
    let (one, other) = (name(one), name(other));
    // Most make no sense at a time; those that do are enough.
    let _ = match what % 8 {
        0 => fs::create_dir(&one),
        1 => fs::write(&one, format!("{what}{}", other.display())),
        2 => fs::rename(&one, &other),
        3 => fs::remove_file(&one),
        4 => fs::remove_dir_all(&one),
        5 => fs::hard_link(&one, &other),
        6 => symlink(&other, &one),
        _ => fs::set_permissions(&one, PermissionsExt::from_mode(0o700 + u32::from(other.as_os_str().len() as u8 % 8))),
    };
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_changes_meanwhile_are_in_the_copy(
        before in proptest::collection::vec(any::<(u8, u8, u8)>(), 0..24),
        meanwhile in proptest::collection::vec(any::<(u8, u8, u8)>(), 0..12),
    ) {
        let dir = place();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&from).unwrap();
        before.into_iter().for_each(|change| apply(&from, change));
        std::thread::sleep(std::time::Duration::from_millis(60));
        let differs = changed_meanwhile(&from, &to, || meanwhile.iter().for_each(|change| apply(&from, *change)));
        let shown = |root: &Path| format!("{:?}", facts(root));
        prop_assert!(differs.is_empty(), "{:?}: {} / {}", differs, shown(&from), shown(&to));
    }
}

/// A volume and a snapshot of it, in `dir`.
fn snapshot_in(dir: &Path) -> (PathBuf, PathBuf) {
    let (volume, snapshot) = (dir.join("volume"), dir.join("snapshot"));
    fs::create_dir(&snapshot).unwrap();
    let same = Same::begin();
    tree(&volume.join("rootfs"), &snapshot.join("rootfs")).unwrap();
    same.write(&snapshot).unwrap();
    (volume, snapshot)
}

/// The new tree of a restore.
fn made(volume: &Path, snapshot: &Path) -> PathBuf {
    let new = volume.with_extension("new");
    fs::create_dir(&new).unwrap();
    let twin = Twin::of(volume.parent().unwrap(), volume, snapshot, &new).unwrap().unwrap();
    tree_beside(&snapshot.join("rootfs"), &new.join("rootfs"), &twin).unwrap();
    twin.finish().unwrap();
    new
}

/// Restores it; the old volume goes, as it does.
fn restore(volume: &Path, snapshot: &Path) {
    let new = made(volume, snapshot);
    fs::remove_dir_all(volume).unwrap();
    fs::rename(new, volume).unwrap();
}

#[test]
fn a_restore_takes_over_what_has_not_changed_and_nothing_else() {
    let dir = place();
    let root = dir.path().join("volume/rootfs");
    fs::create_dir_all(root.join("deep")).unwrap();
    zoo(&root);
    fs::remove_dir_all(root.join("deep")).unwrap();
    for directory in ["a/sub", "b/sub", "quiet"] {
        fs::create_dir_all(root.join(directory)).unwrap();
        fs::write(root.join(directory).join("file"), format!("{directory:9}")).unwrap();
        aged(&root.join(directory).join("file"));
    }
    let wait = || std::thread::sleep(std::time::Duration::from_millis(30));
    wait();
    let (volume, snapshot) = snapshot_in(dir.path());
    wait();
    let number = |path: &str| root.join(path).metadata().unwrap().ino();
    let quiet = number("quiet/file");
    for _ in 0..2 {
        // Size and time as before: only the kernel knows.
        fs::write(root.join("plain"), "TEXT").unwrap();
        rustix::fs::utimensat(
            rustix::fs::CWD,
            root.join("plain"),
            &times(&rustix::fs::stat(snapshot.join("rootfs/plain")).unwrap()),
            NAME,
        )
        .unwrap();
        // Other directories by the same names, with files that look alike.
        fs::rename(root.join("a"), root.join("c")).unwrap();
        fs::rename(root.join("b"), root.join("a")).unwrap();
        fs::rename(root.join("c"), root.join("b")).unwrap();
        fs::write(root.join("new"), "").unwrap();
        fs::remove_file(root.join("quiet/none")).unwrap_or_default();
        set(&root.join("quiet"), "user.more", b"1");
        restore(&volume, &snapshot);
        aged(&root);
        aged(&snapshot.join("rootfs"));
        assert_alike(&snapshot.join("rootfs"), &root);
        wait();
    }
    assert_ne!(number("quiet/file"), quiet, "its directory has changed");
    // What was moved in the tick of the clock in which that was written down is copied once more.
    let taken = (0..5).any(|_| {
        let quiet = number("quiet/file");
        restore(&volume, &snapshot);
        wait();
        number("quiet/file") == quiet
    });
    assert!(taken, "its file was taken over");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_restore_undoes_any_changes(
        before in proptest::collection::vec(any::<(u8, u8, u8)>(), 0..24),
        first in proptest::collection::vec(any::<(u8, u8, u8)>(), 0..12),
        second in proptest::collection::vec(any::<(u8, u8, u8)>(), 0..12),
    ) {
        let dir = place();
        let root = dir.path().join("volume/rootfs");
        fs::create_dir_all(&root).unwrap();
        before.into_iter().for_each(|change| apply(&root, change));
        let (volume, snapshot) = snapshot_in(dir.path());
        for changes in [first, second] {
            changes.into_iter().for_each(|change| apply(&root, change));
            let changed = facts(&root);
            let new = made(&volume, &snapshot);
            // Anything fails, or all crashes.
            give_back(dir.path(), &new).unwrap();
            prop_assert_eq!(&changed, &facts(&root));
            fs::remove_dir_all(&new).unwrap();
            restore(&volume, &snapshot);
            prop_assert_eq!(facts(&snapshot.join("rootfs")), facts(&root));
        }
    }
}

#[test]
fn what_xfs_keeps_of_an_acl_is_no_attribute_of_the_copy() {
    let dir = place();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::write(from.join("file"), "").unwrap();
    set(&from.join("file"), "trusted.SGI_ACL_FILE", b"x");
    set(&from.join("file"), "trusted.other", b"x");
    tree(&from, &to).unwrap();
    let copied = |name: &str| rustix::fs::lgetxattr(to.join("file"), name, &mut [0; 8][..]);
    assert_eq!(copied("trusted.SGI_ACL_FILE"), Err(Errno::NODATA));
    assert_eq!(copied("trusted.other"), Ok(1));
}

#[test]
fn a_damaged_volume_is_no_twin() {
    let dir = place();
    let root = dir.path().join("volume/rootfs");
    fs::create_dir_all(&root).unwrap();
    let (volume, snapshot) = snapshot_in(dir.path());
    fs::remove_dir(&root).unwrap();
    assert!(Twin::of(dir.path(), &volume, &snapshot, &dir.path().join("new")).unwrap().is_none());
}
