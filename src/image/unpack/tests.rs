//! Hostile archives, and honest ones in every packing.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::super::{Part, Store};
use super::*;
use crate::names::Fingerprint;

const METADATA: &[u8] = b"architecture: x86_64\ncreation_date: 1700000000\n";

/// One entry: name, type, link target, content.
type Item<'a> = (&'a [u8], EntryType, &'a [u8], &'a [u8]);

/// Writes a header by hand: the crate's builder refuses the names that are to be tested.
fn tar_of(items: &[Item<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, kind, link, content) in items {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
        header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(*kind);
        header.set_mode(if *kind == EntryType::Directory { 0o755 } else { 0o4755 });
        header.set_uid(1234);
        header.set_gid(5678);
        header.set_mtime(1_600_000_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn base() -> Vec<Item<'static>> {
    vec![(b"metadata.yaml", EntryType::Regular, b"", METADATA), (b"rootfs", EntryType::Directory, b"", b"")]
}

fn store(dir: &Path, bytes: &[u8]) -> Result<StoredImage, Error> {
    let store = Store::open(dir.join("images"))?;
    let mut upload = store.begin();
    upload.part(Part::Unified)?;
    upload.write(bytes)?;
    let received = upload.finish(None)?;
    let fingerprint = received.fingerprint.clone();
    received.commit()?;
    store.get(&fingerprint)
}

fn unpack(items: &[Item<'_>]) -> (tempfile::TempDir, Result<Report, Error>) {
    let dir = tempfile::tempdir().unwrap();
    let mut all = base();
    all.extend_from_slice(items);
    let image = store(dir.path(), &tar_of(&all)).unwrap();
    let dest = dir.path().join("dest");
    std::fs::create_dir(&dest).unwrap();
    let result = image.unpack(&dest, &Limits::default());
    (dir, result)
}

#[test]
fn hostile_entries_refuse_the_image_and_write_nothing_outside() {
    use EntryType::{Link, Regular, Symlink};
    let cases: &[&[Item<'_>]] = &[
        &[(b"rootfs/../../evil", Regular, b"", b"x")],
        &[(b"rootfs/..", Symlink, b"/", b"")],
        &[(b"/rootfs/evil", Regular, b"", b"x")],
        &[(b"rootfs/a", Symlink, b"/", b""), (b"rootfs/a/evil", Regular, b"", b"x")],
        &[(b"rootfs/a", Symlink, b"..", b""), (b"rootfs/a/evil", Regular, b"", b"x")],
        &[(b"rootfs/a", Symlink, b".", b""), (b"rootfs/a/b/evil", Regular, b"", b"x")],
        &[(b"rootfs/l", Link, b"/etc/passwd", b"")],
        &[(b"rootfs/l", Link, b"../../../etc/passwd", b"")],
        &[(b"rootfs/a", Symlink, b"/etc", b""), (b"rootfs/l", Link, b"rootfs/a/passwd", b"")],
        &[(b"rootfs/f", Regular, b"", b"x"), (b"rootfs/f/evil", Regular, b"", b"x")],
        &[(b"templates", Symlink, b"/etc", b"")],
        &[(b"templates/passwd", Symlink, b"/etc/passwd", b"")],
        &[(b"templates/passwd", Link, b"rootfs/passwd", b"")],
        &[(b"metadata.yaml", Regular, b"", b"x"), (b"metadata.yaml", Symlink, b"/etc/passwd", b"")],
    ];
    for case in cases {
        let (dir, result) = unpack(case);
        let error = result.expect_err(&format!("{:?}", String::from_utf8_lossy(case[0].0)));
        assert!(matches!(error, Error::Hostile { .. }), "{error}");
        assert!(!dir.path().join("evil").exists() && !Path::new("/evil").exists());
    }
}

#[test]
fn device_nodes_are_left_out_and_counted() {
    let (dir, result) = unpack(&[
        (b"rootfs/null", EntryType::Char, b"", b""),
        (b"rootfs/sda", EntryType::Block, b"", b""),
        (b"rootfs/pipe", EntryType::Fifo, b"", b""),
    ]);
    assert_eq!(result.unwrap().devices, 2);
    assert!(!dir.path().join("dest/rootfs/null").exists());
    assert!(dir.path().join("dest/rootfs/pipe").exists());
}

#[test]
fn owners_modes_times_and_links_are_kept() {
    let (dir, result) = unpack(&[
        (b"rootfs/su", EntryType::Regular, b"", b"old"),
        (b"rootfs/su", EntryType::Regular, b"", b"content"),
        (b"rootfs/same", EntryType::Link, b"rootfs/su", b""),
        (b"rootfs/link", EntryType::Symlink, b"/etc/shadow", b""),
    ]);
    result.unwrap();
    let root = dir.path().join("dest/rootfs");
    let su = std::fs::metadata(root.join("su")).unwrap();
    assert_eq!((su.uid(), su.gid(), su.permissions().mode() & 0o7777), (1234, 5678, 0o4755));
    assert_eq!((su.mtime(), su.nlink()), (1_600_000_000, 2));
    assert_eq!(std::fs::read(root.join("same")).unwrap(), b"content");
    let link = std::fs::symlink_metadata(root.join("link")).unwrap();
    assert!(link.is_symlink() && link.uid() == 1234);
}

#[test]
fn limits_hold() {
    let dir = tempfile::tempdir().unwrap();
    let zeros = vec![0; 4 << 20];
    let mut all = base();
    all.push((b"rootfs/bomb", EntryType::Regular, b"", &zeros));
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(&tar_of(&all)).unwrap();
    let image = store(dir.path(), &packed.finish().unwrap()).unwrap();
    for limits in [Limits { max_bytes: 1 << 20, max_entries: 100 }, Limits { max_bytes: 1 << 30, max_entries: 2 }] {
        let dest = dir.path().join(format!("dest{}", limits.max_entries));
        std::fs::create_dir(&dest).unwrap();
        assert!(matches!(image.unpack(&dest, &limits), Err(Error::Limit { .. })));
    }
}

#[test]
fn every_packing_is_read() {
    let plain = tar_of(&base());
    let packed = |program: &str, args: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("in");
        std::fs::write(&file, &plain).unwrap();
        let output = Command::new(program).args(args).stdin(File::open(&file).unwrap()).output().unwrap();
        assert!(output.status.success());
        output.stdout
    };
    for bytes in [
        plain.clone(),
        packed("gzip", &["-c"]),
        packed("bzip2", &["-c"]),
        packed("xz", &["-c"]),
        packed("xz", &["-c", "--format=lzma"]),
        packed("zstd", &["-c", "-q"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let image = store(dir.path(), &bytes).unwrap();
        let dest = dir.path().join("dest");
        std::fs::create_dir(&dest).unwrap();
        image.unpack(&dest, &Limits::default()).unwrap();
        assert_eq!(std::fs::read(dest.join("metadata.yaml")).unwrap(), METADATA);
        assert!(dest.join("rootfs").is_dir());
    }
}

#[test]
fn a_split_image_has_the_fingerprint_of_both_parts() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir_all(source.join("etc")).unwrap();
    std::fs::write(source.join("etc/hostname"), "x").unwrap();
    let squashfs = dir.path().join("root.squashfs");
    let made = Command::new("mksquashfs").args([&source, &squashfs]).arg("-quiet").output().unwrap();
    assert!(made.status.success());
    let store = Store::open(dir.path().join("images")).unwrap();
    let mut upload = store.begin();
    let meta = tar_of(&base()[..1]);
    let root = std::fs::read(&squashfs).unwrap();
    upload.part(Part::Metadata).unwrap();
    upload.write(&meta).unwrap();
    upload.part(Part::Rootfs).unwrap();
    upload.write(&root).unwrap();
    let both = [meta, root].concat();
    let wanted = Fingerprint::new(hex::encode(ring::digest::digest(&ring::digest::SHA256, &both))).unwrap();
    let received = upload.finish(Some(&wanted)).unwrap();
    received.commit().unwrap();
    let image = store.get(&wanted).unwrap();
    assert!(image.squashfs);
    let dest = dir.path().join("dest");
    std::fs::create_dir(&dest).unwrap();
    image.unpack(&dest, &Limits::default()).unwrap();
    assert_eq!(std::fs::read(dest.join("rootfs/etc/hostname")).unwrap(), b"x");
    store.remove(&wanted).unwrap();
    assert!(matches!(store.get(&wanted), Err(Error::NotFound { .. })));
}

#[test]
fn what_is_no_image_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let no_root = tar_of(&base()[..1]);
    let no_metadata = tar_of(&base()[1..]);
    let broken = &tar_of(&base())[..700];
    for bytes in [&no_root[..], &no_metadata, broken, b"nonsense", b""] {
        assert!(store(dir.path(), bytes).is_err());
    }
    let wrong = Fingerprint::new("0".repeat(64)).unwrap();
    let images = Store::open(dir.path().join("images")).unwrap();
    let mut upload = images.begin();
    upload.part(Part::Unified).unwrap();
    upload.write(&tar_of(&base())).unwrap();
    assert!(matches!(upload.finish(Some(&wrong)), Err(Error::Fingerprint { .. })));
    assert_eq!(std::fs::read_dir(dir.path().join("images")).unwrap().count(), 0);
}
