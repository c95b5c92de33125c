//! Hostile archives, and honest ones in every packing.

use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::Command;

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

/// An image that nobody looked at before.
fn unchecked(dir: &Path, bytes: &[u8]) -> StoredImage {
    let meta_path = dir.join("image");
    std::fs::write(&meta_path, bytes).unwrap();
    let fingerprint = Fingerprint::new("0".repeat(64)).unwrap();
    StoredImage { fingerprint, meta_path, rootfs_path: None, squashfs: false }
}

fn with_base(items: &[Item<'_>]) -> Vec<u8> {
    tar_of(&[&base(), items].concat())
}

fn unpack(items: &[Item<'_>]) -> (tempfile::TempDir, Result<Report, Error>) {
    let dir = tempfile::tempdir().unwrap();
    let image = unchecked(dir.path(), &with_base(items));
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
        &[(b"metadata.yaml", Symlink, b"/etc/passwd", b"")],
        &[(b"rootfs", Symlink, b"/", b"")],
        &[(b"./rootfs/", Symlink, b"/", b"")],
        &[(b"rootfs", Regular, b"", b"x")],
        &[(b"rootfs", Link, b"metadata.yaml", b"")],
    ];
    for case in cases {
        let (dir, result) = unpack(case);
        let error = result.expect_err(&format!("{:?}", String::from_utf8_lossy(case[0].0)));
        assert!(matches!(error, Error::Hostile { .. }), "{error}");
        let error = store(dir.path(), &with_base(case)).expect_err("it never becomes an image");
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
    let image = unchecked(dir.path(), &packed.finish().unwrap());
    for limits in [Limits { max_bytes: 1 << 20, max_entries: 100 }, Limits { max_bytes: 1 << 30, max_entries: 2 }] {
        let dest = dir.path().join(format!("dest{}", limits.max_entries));
        std::fs::create_dir(&dest).unwrap();
        assert!(matches!(image.unpack(&dest, &limits), Err(Error::Limit { .. })));
    }
}

/// GNU tar's two ways of writing holes: its own format, and pax, which attributes make it choose.
#[test]
fn holes_stay_holes_and_count_in_full() {
    for attributes in [&[][..], &["--xattrs"]] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("rootfs")).unwrap();
        std::fs::write(dir.path().join("metadata.yaml"), METADATA).unwrap();
        let file = File::create(dir.path().join("rootfs/holes")).unwrap();
        file.set_len(1 << 30).unwrap();
        file.write_all_at(b"begin", 4096).unwrap();
        file.write_all_at(b"end", (1 << 30) - 3).unwrap();
        let archive = dir.path().join("image.tar");
        let mut tar = Command::new("tar");
        tar.args(attributes).arg("--sparse").arg("-C").arg(dir.path()).arg("-cf").arg(&archive);
        assert!(tar.args(["metadata.yaml", "rootfs"]).status().unwrap().success());
        let bytes = std::fs::read(&archive).unwrap();
        assert!(bytes.len() < 1 << 20);
        let image = store(dir.path(), &bytes).unwrap();
        let dest = dir.path().join("dest");
        std::fs::create_dir(&dest).unwrap();
        image.unpack(&dest, &Limits::default()).unwrap();
        let out = File::open(dest.join("rootfs/holes")).unwrap();
        let found = out.metadata().unwrap();
        assert_eq!(found.len(), 1 << 30);
        assert!(found.blocks() < 1024, "{} blocks on the disk", found.blocks());
        let mut text = [0; 5];
        out.read_exact_at(&mut text, 4096).unwrap();
        assert_eq!(&text, b"begin");
        out.read_exact_at(&mut text, (1 << 30) - 5).unwrap();
        assert_eq!(&text, b"\0\0end");
        // A hole fills the limit as data does, and before anything of it is read.
        let limits = Limits { max_bytes: (1 << 30) - 1, max_entries: 100 };
        let second = dir.path().join("second");
        std::fs::create_dir(&second).unwrap();
        assert!(matches!(image.unpack(&second, &limits), Err(Error::Limit { what: "bytes", .. })));
        assert!(!second.join("rootfs/holes").exists());
    }
}

#[test]
fn an_archive_that_breaks_off_anywhere_never_becomes_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let noise: Vec<u8> = (0..200_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let whole = with_base(&[(b"rootfs/noise", EntryType::Regular, b"", &noise)]);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&whole).unwrap();
    let packed = packed.finish().unwrap();
    for bytes in [&whole, &packed] {
        for part in [3, 5, 9] {
            let cut = &bytes[..bytes.len() / 10 * part];
            assert!(matches!(store(dir.path(), cut), Err(Error::BadArchive { .. })), "{part} tenths");
        }
    }
    assert!(store(dir.path(), &packed[..packed.len() - 6]).is_err(), "the last checksum is missing");
    assert_eq!(std::fs::read_dir(dir.path().join("images")).unwrap().count(), 0);
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
    let both = [meta, root.clone()].concat();
    let wanted = Fingerprint::new(hex::encode(ring::digest::digest(&ring::digest::SHA256, &both))).unwrap();
    let received = upload.finish(Some(&wanted)).unwrap();
    received.commit().unwrap();
    let mut cut = store.begin();
    cut.part(Part::Metadata).unwrap();
    cut.write(&both[..both.len() - root.len()]).unwrap();
    cut.part(Part::Rootfs).unwrap();
    cut.write(&root[..100]).unwrap();
    assert!(cut.finish(None).map(drop).unwrap_err().to_string().contains("cut short"));
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

#[test]
fn an_owner_that_nobody_can_be_refuses_the_image_when_it_arrives() {
    let whole = with_base(&[(b"rootfs/a", EntryType::Regular, b"", b"x")]);
    let dir = tempfile::tempdir().unwrap();
    store(dir.path(), &whole).unwrap();
    // No number at all, and the one by which chown(2) changes nothing.
    for uid in [[0; 8], *b"\x80\0\0\0\xff\xff\xff\xff"] {
        let mut bytes = whole.clone();
        let header = bytes.windows(8).rposition(|name| name == b"rootfs/a").unwrap();
        bytes[header + 108..header + 116].copy_from_slice(&uid);
        let mut fixed = tar::Header::from_byte_slice(&bytes[header..header + 512]).clone();
        fixed.set_cksum();
        bytes[header..header + 512].copy_from_slice(fixed.as_bytes());
        let refused = store(dir.path(), &bytes).unwrap_err().to_string();
        assert!(refused.contains("rootfs/a has a damaged header"), "{refused}");
    }
}
