//! Trees of files: one of everything, and what a file has that a copy of it must have, too.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags};

/// What belongs to a file. Of hard links: the first path of the same file.
#[derive(Debug, PartialEq, Eq)]
pub struct Facts {
    pub mode: u32,
    pub owner: (u32, u32),
    /// Seconds and nanoseconds.
    pub modified: (i64, i64),
    pub device: u64,
    pub first: PathBuf,
    pub attributes: BTreeMap<String, Vec<u8>>,
    pub content: Vec<u8>,
}

/// Everything below a directory, and itself.
pub fn facts(root: &Path) -> BTreeMap<PathBuf, Facts> {
    let (mut found, mut firsts, mut left) = (BTreeMap::new(), BTreeMap::new(), vec![PathBuf::new()]);
    while let Some(below) = left.pop() {
        let path = root.join(&below);
        let stat = path.symlink_metadata().unwrap();
        let kind = stat.file_type();
        let mut content = Vec::new();
        if kind.is_dir() {
            let mut names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            left.extend(names.iter().rev().map(|name| below.join(name)));
        } else if kind.is_symlink() {
            content = fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes();
        } else if kind.is_file() {
            content = fs::read(&path).unwrap();
        }
        let first = firsts.entry(stat.ino()).or_insert_with(|| below.clone()).clone();
        let facts = Facts {
            mode: stat.mode(),
            owner: (stat.uid(), stat.gid()),
            modified: (stat.mtime(), stat.mtime_nsec()),
            device: stat.rdev(),
            first,
            attributes: attributes(&path),
            content,
        };
        found.insert(below, facts);
    }
    found
}

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let place = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).unwrap();
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&place));
    let mut names = vec![0; 65536];
    let length = rustix::fs::listxattr(link.as_str(), &mut names[..]).unwrap_or(0);
    let mut found = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 65536];
        let length = rustix::fs::getxattr(link.as_str(), OsStr::from_bytes(name), &mut value[..]).unwrap();
        found.insert(String::from_utf8_lossy(name).into_owned(), value[..length].to_vec());
    }
    found
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// One of everything that a container can have.
pub fn zoo(root: &Path) {
    let file = |name: &str, text: &[u8]| {
        let path = root.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    fs::create_dir_all(root.join("dir/below")).unwrap();
    fs::set_permissions(root.join("dir"), PermissionsExt::from_mode(0o1777)).unwrap();
    let plain = file("plain", b"text");
    std::os::unix::fs::chown(&plain, Some(1234), Some(65535)).unwrap();
    file("odd \n\u{1f980} name", b"");
    file("-rf *", b"x");
    fs::write(root.join(OsStr::from_bytes(b"\xff\xfe")), "bytes").unwrap();
    fs::write(root.join("n".repeat(255)), "long name").unwrap();
    fs::write(root.join(format!("{}\nline", "m".repeat(200))), "long name of two lines").unwrap();
    fs::write(root.join("x".repeat(93)), "exactly a hundred").unwrap();
    let deep = root.join("d".repeat(200)).join("e".repeat(200));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), "deep").unwrap();
    symlink("l".repeat(300), root.join("long link")).unwrap();
    symlink("two\nlines", root.join("odd link")).unwrap();
    let suid = file("suid", b"program");
    std::os::unix::fs::chown(&suid, Some(7), Some(8)).unwrap();
    fs::set_permissions(&suid, PermissionsExt::from_mode(0o6755)).unwrap();
    file("secret", b"");
    fs::set_permissions(root.join("secret"), PermissionsExt::from_mode(0)).unwrap();
    let capable = file("capable", b"program");
    // VFS_CAP_REVISION_2, cap_net_raw+ep (capabilities(7)).
    set(&capable, "security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    // One whose bytes have the end of a line in them: cap_dac_override and cap_fowner.
    let capable = file("capable too", b"program");
    set(&capable, "security.capability", b"\x01\0\0\x02\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    set(&plain, "user.note", b"kept");
    set(&plain, "user.lines", b"one\n\ntwo\n");
    set(&plain, "user.bytes", b"\0=\xff 1 2=3");
    set(&plain, "user.none", b"");
    // POSIX ACL, version 2: owner, a user, the group, mask, others.
    let acl: Vec<u8> = [(1u16, 6u16, u32::MAX), (2, 7, 55), (4, 4, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)]
        .into_iter()
        .flat_map(|(tag, perm, id)| [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat())
        .collect();
    set(&plain, "system.posix_acl_access", &[&2u32.to_le_bytes()[..], &acl].concat());
    set(&root.join("dir"), "system.posix_acl_default", &[&2u32.to_le_bytes()[..], &acl].concat());
    symlink("../nowhere", root.join("link")).unwrap();
    std::os::unix::fs::lchown(root.join("link"), Some(3), Some(4)).unwrap();
    fs::hard_link(&plain, root.join("dir/below/hard")).unwrap();
    fs::hard_link(root.join("link"), root.join("second link")).unwrap();
    rustix::fs::mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(50 << 20).unwrap();
    sparse.write_at(b"middle", 20 << 20).unwrap();
    fs::File::create(root.join("hole")).unwrap().set_len(10 << 20).unwrap();
    let uneven = fs::File::create(root.join("uneven")).unwrap();
    uneven.set_len(300_001).unwrap();
    uneven.write_at(b"end", 299_998).unwrap();
    // What no compressor makes smaller, longer than anything that goes at once.
    let (mut state, mut noise) = (1u64, Vec::new());
    while noise.len() < 3 << 20 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        noise.extend((state >> 24).to_le_bytes());
    }
    noise.push(1);
    file("noise", &noise);
    file("ids", b"");
    std::os::unix::fs::chown(root.join("ids"), Some(4_000_000), Some(3_000_000)).unwrap();
    let times = |path: &str, seconds: i64, nanoseconds: i64| {
        let at = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let times = rustix::fs::Timestamps { last_access: at, last_modification: at };
        rustix::fs::utimensat(CWD, root.join(path), &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    };
    times("plain", 1_577_836_800, 123_456_789);
    times("suid", -1_000_000, 500_000_000);
    times("link", 5, 1);
    times("dir/below", 1_000_000_000, 999_999_999);
}
