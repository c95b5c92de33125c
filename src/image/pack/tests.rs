use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::config::compressor::Compressor;

/// A root with something of each kind, and what lies beside it.
fn source(place: &Path) -> Source {
    let (rootfs, beside, outside) = (place.join("rootfs"), place.join("beside"), place.join("outside"));
    for dir in ["etc", "b/c", "a", "var/lib/docker"] {
        std::fs::create_dir_all(rootfs.join(dir)).unwrap();
    }
    std::fs::create_dir_all(beside.join("templates")).unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(rootfs.join("etc/hostname"), "x\n").unwrap();
    std::fs::write(rootfs.join("b/c/long".to_owned() + &"g".repeat(200)), "deep").unwrap();
    std::fs::write(rootfs.join(std::ffi::OsStr::from_bytes(b"a/\xff\n=")), "bytes").unwrap();
    std::fs::hard_link(rootfs.join("etc/hostname"), rootfs.join("a/second")).unwrap();
    symlink("../../out/of/here", rootfs.join("link")).unwrap();
    std::fs::set_permissions(rootfs.join("etc/hostname"), std::fs::Permissions::from_mode(0o4750)).unwrap();
    let sparse = std::fs::File::create(rootfs.join("sparse")).unwrap();
    sparse.set_len(10 << 20).unwrap();
    sparse.write_all_at(b"in the middle", 5 << 20).unwrap();
    // What a socket is, nobody can pack; what is kept elsewhere lies where it is seen.
    drop(std::os::unix::net::UnixListener::bind(rootfs.join("socket")).unwrap());
    std::fs::write(outside.join("layer"), "kept elsewhere").unwrap();
    let metadata = "architecture: x86_64\ncreation_date: 5\nexpiry_date: 7\nnobody: knows\nproperties: {os: old}\n";
    std::fs::write(beside.join("metadata.yaml"), metadata).unwrap();
    std::fs::write(beside.join("templates/a.tpl"), "{{ container.name }}").unwrap();
    Source {
        rootfs,
        elsewhere: vec![("var/lib/docker".into(), outside)],
        ids: Ids { uid: vec![(0, 1000, 1)], gid: Vec::new() },
        beside,
    }
}

fn about() -> About {
    About { architecture: "aarch64".to_owned(), properties: None, expiry_date: None }
}

/// The digest, the text of `metadata.yaml`, and the file.
fn packed(source: &Source, about: About, compression: &str, to: &Path) -> (String, String, Vec<u8>) {
    let _ = std::fs::remove_file(to);
    let compressor = Compressor::parse(compression).unwrap();
    let request = Request { source: source.clone(), about, compressor, to: to.to_owned() };
    let survey = tarball::survey(source).unwrap();
    let metadata = tarball::metadata(source, &request.about, &survey).unwrap();
    let mut last = 0;
    let mut tell = |done: u64| {
        assert!(done >= last && done <= survey.bytes, "{done} after {last}");
        last = done;
    };
    let written = tarball::write(&request, &metadata, survey.date(), &mut tell).unwrap();
    let file = std::fs::read(to).unwrap();
    let digest = hex::encode(ring::digest::digest(&ring::digest::SHA256, &file));
    assert_eq!((&written.digest, written.size), (&digest, file.len() as u64));
    (digest, metadata, file)
}

#[test]
fn what_is_packed_is_all_of_the_root_and_what_lies_beside_it() {
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    let source = source(place.path());
    let (_, metadata, file) = packed(&source, about(), "none", &place.path().join("image"));
    let mut archive = tar::Archive::new(&*file);
    let mut found = BTreeMap::new();
    let mut order = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path_bytes().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let header = entry.header();
        assert!(!name.starts_with(b"rootfs") || header.uid().unwrap() == 1000, "the row of ids counts");
        order.push(name.clone());
        found.insert(name, (header.entry_type(), header.mode().unwrap(), content));
    }
    assert_eq!(order[0], b"metadata.yaml");
    let is = |name: &[u8], kind: tar::EntryType, content: &[u8]| {
        let (is, _, has) = found.get(name).unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(name)));
        assert_eq!((*is, &**has), (kind, content), "{}", String::from_utf8_lossy(name));
    };
    is(b"metadata.yaml", tar::EntryType::Regular, metadata.as_bytes());
    is(b"templates/a.tpl", tar::EntryType::Regular, b"{{ container.name }}");
    is(b"rootfs/a/\xff\n=", tar::EntryType::Regular, b"bytes");
    is(format!("rootfs/b/c/long{}", "g".repeat(200)).as_bytes(), tar::EntryType::Regular, b"deep");
    is(b"rootfs/link", tar::EntryType::Symlink, b"");
    is(b"rootfs/var/lib/docker/layer", tar::EntryType::Regular, b"kept elsewhere");
    assert_eq!(found[&b"rootfs/a/second"[..]].1 & 0o7777, 0o4750);
    // One of two names is a link to the one that came first.
    is(b"rootfs/a/second", tar::EntryType::Regular, b"x\n");
    is(b"rootfs/etc/hostname", tar::EntryType::Link, b"");
    assert!(!found.contains_key(&b"rootfs/socket"[..]));
    assert!(file.len() < 1 << 20, "a hole has no bytes: {}", file.len());

    let value: serde_norway::Value = serde_norway::from_str(&metadata).unwrap();
    assert_eq!((value["architecture"].as_str(), value["nobody"].as_str()), (Some("x86_64"), Some("knows")));
    assert_eq!((value.get("expiry_date"), value["properties"]["os"].as_str()), (None, Some("old")));
    assert!(value["creation_date"].as_i64().unwrap() > 1_000_000_000, "the newest change, not what stood there");
}

#[test]
fn the_same_files_are_the_same_image_by_each_compressor() {
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    let source = source(place.path());
    let mut all = BTreeMap::new();
    for compression in ["none", "gzip", "gzip -9", "bzip2", "xz -1", "lzma", "zstd", "zstd -19"] {
        let (first, _, _) = packed(&source, about(), compression, &place.path().join("one"));
        let (second, _, file) = packed(&source, about(), compression, &place.path().join("two"));
        assert_eq!(first, second, "{compression}");
        all.insert(first, (compression, file.len()));
    }
    assert_eq!(all.len(), 8, "{all:?}");
    // What it says of itself is a part of it.
    let properties = Some(BTreeMap::from([("a".to_owned(), "b".to_owned())]));
    let about = About { properties, expiry_date: Some(9), ..about() };
    let (other, metadata, _) = packed(&source, about, "none", &place.path().join("other"));
    assert!(!all.contains_key(&other));
    let value: serde_norway::Value = serde_norway::from_str(&metadata).unwrap();
    assert_eq!((value["expiry_date"].as_i64(), value["properties"]["a"].as_str()), (Some(9), Some("b")));
    assert_eq!(value["properties"].get("os"), None);
}

#[test]
fn what_beside_the_root_cannot_be_used_is_said() {
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    let source = source(place.path());
    let survey = tarball::survey(&source).unwrap();
    let path = source.beside.join("metadata.yaml");
    let reason = |about: &About| match tarball::metadata(&source, about, &survey) {
        Err(Failure::Other(reason)) => reason,
        Err(Failure::Limit { what, limit }) => format!("more than {limit} {what}"),
        Err(Failure::NoSpace) => "no space".to_owned(),
        Ok(text) => text,
    };
    for (text, says) in [
        ("[1]".to_owned(), "is no map"),
        ("a: [".to_owned(), "is not YAML"),
        ("x".repeat(2 << 20), "metadata.yaml"),
        (String::new(), "aarch64"),
        ("null".to_owned(), "aarch64"),
    ] {
        std::fs::write(&path, &text).unwrap();
        assert!(reason(&about()).contains(says), "{}: {}", text.len(), reason(&about()));
    }
    // Whoever may write there leads nobody elsewhere.
    std::fs::remove_file(&path).unwrap();
    symlink("/etc/shadow", &path).unwrap();
    assert!(reason(&about()).contains("cannot read"), "{}", reason(&about()));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(reason(&about()).contains("cannot read"));
}

#[test]
fn ids_of_no_row_stay() {
    let ids = Ids { uid: vec![(1_000_000, 0, 65_536), (1000, 1000, 1)], gid: vec![(5, u32::MAX, 2)] };
    assert_eq!([1_000_000, 1_065_535, 1_065_536, 1000, 0].map(|id| ids.user(id)), [0, 65_535, 1_065_536, 1000, 0]);
    assert_eq!([5, 6, 7].map(|id| ids.group(id)), [u32::MAX, 6, 7], "nothing goes beyond the last id");
}
