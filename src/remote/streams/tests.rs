use proptest::prelude::*;
use serde_json::Value;

use super::*;

const HOST: &[&str] = &["x86_64", "i686"];

fn hash(c: char) -> String {
    c.to_string().repeat(64)
}

/// A list like that of a real server: two architectures, two versions, all forms of files.
fn list() -> String {
    let (a, b, c, d, e) = (hash('a'), hash('b'), hash('c'), hash('d'), hash('e'));
    serde_json::json!({"content_id": "images", "format": "products:1.0", "products": {
        "debian:bookworm:amd64:cloud": {
            "aliases": "debian/bookworm/cloud, debian/12/cloud", "arch": "amd64", "os": "Debian", "release": "bookworm",
            "release_title": "bookworm", "variant": "cloud", "versions": {
                "20240101_05:24": {"items": {
                    "lxd.tar.xz": {"ftype": "lxd.tar.xz", "path": "images/1/lxd.tar.xz", "size": 5,
                        "combined_squashfs_sha256": b, "combined_rootxz_sha256": c},
                    "root.squashfs": {"ftype": "squashfs", "path": "images/1/rootfs.squashfs", "size": 9,
                        "sha256": e},
                    "root.tar.xz": {"ftype": "root.tar.xz", "path": "images/1/rootfs.tar.xz", "size": 7},
                    "disk.qcow2": {"ftype": "disk-kvm.img", "path": "images/1/disk.qcow2", "size": 1},
                    "delta": {"ftype": "squashfs.vcdiff", "path": "images/1/delta.vcdiff", "size": 1}}},
                "20240102_05:24": {"items": {
                    "incus.tar.xz": {"ftype": "incus.tar.xz", "path": "images/2/incus.tar.xz", "size": 5,
                        "combined_squashfs_sha256": a},
                    "root.squashfs": {"ftype": "squashfs", "path": "images/2/rootfs.squashfs", "size": 9}}},
                "20240103_05:24": {"items": {
                    "disk.qcow2": {"ftype": "disk-kvm.img", "path": "images/3/disk.qcow2", "size": 1}}}}},
        "debian:bookworm:arm64:cloud": {
            "aliases": "debian/12/cloud", "arch": "arm64", "os": "Debian", "release": "bookworm", "versions": {
                "20240101_05:24": {"items": {
                    "lxd.tar.xz": {"ftype": "lxd_combined.tar.gz", "path": "images/1/x", "size": 5, "sha256": d}}}}},
        "com.ubuntu.cloud:server:24.04:i386": {
            "aliases": "24.04,lts", "arch": "i386", "os": "ubuntu", "release": "noble", "version": "24.04",
            "release_title": "24.04 LTS", "support_eol": "2029-05-31", "versions": {
                "20240423": {"label": "release", "items": {
                    "x": {"ftype": "lxd_combined.tar.gz", "path": "server/x", "size": 5, "sha256": d}}}}}}})
    .to_string()
}

#[test]
fn names_lead_to_the_newest_of_the_host() {
    let entries = images(list().as_bytes(), HOST).unwrap().entries;
    let found = by_alias(&entries, "debian/12/cloud", HOST).unwrap();
    assert_eq!(found.fingerprint.as_str(), hash('a'), "the newest that is a container");
    for same in ["debian/bookworm/cloud", "debian/12/cloud/amd64", "debian/12/cloud/x86_64"] {
        assert_eq!(by_alias(&entries, same, HOST), Some(found), "{same}");
    }
    for none in ["debian/12", "debian", "", "debian/12/cloud/arm64", "cloud"] {
        assert_eq!(by_alias(&entries, none, HOST), None, "{none}");
    }
    assert_eq!(found.properties()["description"], "Debian bookworm amd64 (20240102_05:24)");
    assert_eq!((found.properties()["serial"].as_str(), found.created_at), ("20240102_05:24", 1_704_153_600));
    let ubuntu = by_alias(&entries, "lts", HOST).unwrap();
    assert_eq!(ubuntu.properties()["description"], "ubuntu 24.04 LTS i386 (release) (20240423)");
    assert!(ubuntu.expires_at > ubuntu.created_at && matches!(ubuntu.files, Files::Unified(_)));
}

/// A product with the alias `x` and these versions, the hash of each made of a letter.
fn product(versions: &[(&str, char)]) -> Value {
    let item = |c| serde_json::json!({"ftype": "lxd_combined.tar.gz", "path": "x", "size": 5, "sha256": hash(c)});
    let versions: BTreeMap<&str, Value> =
        versions.iter().map(|(name, c)| (*name, serde_json::json!({"items": {"i": item(*c)}}))).collect();
    serde_json::json!({"aliases": "x", "arch": "amd64", "versions": versions})
}

#[test]
fn of_all_products_with_a_name_the_newest_version_counts() {
    for (products, newest) in [
        (vec![product(&[("20240101", 'a')]), product(&[("20240301", 'b')]), product(&[("20240201", 'c')])], 'b'),
        (vec![product(&[("20240301_05:24", 'a'), ("20240301_23:00", 'b')])], 'b'),
        // Whatever has no day is older than what has one.
        (vec![product(&[("99", 'a'), ("20240101", 'b'), ("beta", 'c')])], 'b'),
        (vec![product(&[("99", 'a')]), product(&[("20240101", 'b')])], 'b'),
        (vec![product(&[("alpha", 'a'), ("beta", 'b')])], 'b'),
    ] {
        let named: BTreeMap<String, &Value> = products.iter().enumerate().map(|(n, p)| (n.to_string(), p)).collect();
        let json = serde_json::json!({"products": named}).to_string();
        let entries = images(json.as_bytes(), HOST).unwrap().entries;
        for name in ["x", "x/amd64"] {
            assert_eq!(by_alias(&entries, name, HOST).unwrap().fingerprint.as_str(), hash(newest), "{json}");
        }
    }
}

#[test]
fn an_image_without_the_hash_of_all_files_is_told_of() {
    let split = |hashes: Value| {
        let mut metadata = serde_json::json!({"ftype": "lxd.tar.xz", "path": "m", "size": 5});
        metadata.as_object_mut().unwrap().extend(hashes.as_object().unwrap().clone());
        let items = serde_json::json!({"m": metadata, "r": {"ftype": "squashfs", "path": "r", "size": 5}});
        serde_json::json!({"products": {"p": {"aliases": "x", "arch": "amd64", "versions": {"1": {"items": items}}}}})
    };
    let catalog =
        images(split(serde_json::json!({"combined_sha256": hash('a')})).to_string().as_bytes(), HOST).unwrap();
    let [skipped] = catalog.skipped.as_slice() else { panic!("{:?}", catalog.skipped) };
    assert!(catalog.entries.is_empty() && skipped.may_be("x") && skipped.reason.contains("the hash of all files"));
    let hashes = serde_json::json!({"combined_squashfs_sha256": hash('a')});
    let catalog = images(split(hashes).to_string().as_bytes(), HOST).unwrap();
    assert!(catalog.entries.len() == 1 && catalog.skipped.is_empty(), "{:?}", catalog.skipped);
}

#[test]
fn older_ones_and_other_forms_are_found_by_their_fingerprint() {
    let entries = images(list().as_bytes(), HOST).unwrap().entries;
    let only = |wanted: &str| match by_fingerprint(&entries, wanted)[..] {
        [entry] => entry.clone(),
        ref others => panic!("{others:?}"),
    };
    let Files::Split(_, root) = only(&hash('B')).files else { panic!() };
    assert_eq!(root, File { path: "images/1/rootfs.squashfs".to_owned(), size: 9, sha256: Some([0xEE; 32]) });
    let Files::Split(_, root) = only("cc").files else { panic!() };
    assert_eq!(root.path, "images/1/rootfs.tar.xz");
    assert_eq!(by_fingerprint(&entries, "e").len(), 0);
}

#[test]
fn an_index_names_lists_of_images() {
    let index = r#"{"format":"index:1.0","index":{
        "a":{"datatype":"image-downloads","path":"streams/v1/images.json","products":["x"]},
        "b":{"datatype":"image-ids","path":"streams/v1/aws.json"}}}"#;
    assert_eq!(lists(index.as_bytes()).unwrap(), ["streams/v1/images.json"]);
    let with = |path: &str| {
        let json = serde_json::json!({"index": {"a": {"datatype": "image-downloads", "path": path}}});
        lists(json.to_string().as_bytes())
    };
    for path in ["", "/", "../x", "a/../../x", "/../x", "//other/x", "https://other/x", "a//b", "a\\b", "a\n"] {
        assert!(with(path).is_err(), "{path}");
    }
    // Names of files, which are no parts of addresses.
    for path in ["a?b", "a%2e%2e/b", "a b", "é+#", "a:b"] {
        assert_eq!(with(path).unwrap(), [path]);
    }
    assert_eq!(with("/images/x.json").unwrap(), ["images/x.json"], "it is below the server's address, too");
    for (sent, says) in [("<html>", "HTML"), (" \n<?xml?>", "XML"), ("", "empty"), ("x", "expected value")] {
        assert!(lists(sent.as_bytes()).unwrap_err().contains(says), "{sent}");
        assert!(images(sent.as_bytes(), HOST).unwrap_err().contains(says), "{sent}");
    }
    assert!(
        lists(br#"{"index":[]}"#).is_err() && lists(b"{}").is_err() && lists(br#"{"format":"x","index":{}}"#).is_err()
    );
    let many: BTreeMap<String, _> =
        (0..99).map(|n| (n.to_string(), serde_json::json!({"datatype": "image-downloads", "path": "x"}))).collect();
    assert!(lists(serde_json::json!({"index": many}).to_string().as_bytes()).unwrap_err().contains("more than"));
}

#[test]
fn a_bad_part_is_skipped_and_tells_why() {
    let list = list();
    for (from, to, says) in [
        ("images/2/rootfs.squashfs", "../../rootfs.squashfs", "leads away"),
        ("images/2/rootfs.squashfs", "http://169.254.169.254/x", "leads away"),
        ("\"path\":\"images/2/rootfs.squashfs\",\"size\":9", "\"path\":\"images/2/rootfs.squashfs\",\"size\":-9", "-9"),
        ("\"path\":\"images/2/incus.tar.xz\",\"size\":5", "\"path\":5,\"size\":5", "a string"),
        ("\"path\":\"images/2/incus.tar.xz\"", "\"sha256\":\"x\",\"path\":\"images/2/incus.tar.xz\"", "SHA-256"),
        ("\"path\":\"images/2/rootfs.squashfs\",\"size\":9", "\"size\":99999999999999999999999", "u64"),
    ] {
        let changed = list.replace(from, to);
        assert_ne!(changed, list, "{from}");
        let catalog = images(changed.as_bytes(), HOST).unwrap();
        // The older one is used meanwhile, and everything else is as it was.
        let found = by_alias(&catalog.entries, "debian/12/cloud", HOST).unwrap();
        assert_eq!(found.fingerprint.as_str(), hash('b'), "{to}");
        assert!(by_alias(&catalog.entries, "lts", HOST).is_some(), "{to}");
        let [skipped] = catalog.skipped.as_slice() else { panic!("{:?}", catalog.skipped) };
        assert_eq!(skipped.product, "debian:bookworm:amd64:cloud");
        assert!(skipped.reason.contains(says) && skipped.reason.contains("20240102_05:24"), "{}", skipped.reason);
        assert!(skipped.may_be("debian/12/cloud") && skipped.may_be("debian/12/cloud/amd64") && !skipped.may_be("lts"));
        if !from.contains("root") {
            assert!(skipped.may_be(&hash('a')[..12]), "{to}");
        }
    }
    let product = list.replace("\"os\":\"Debian\"", "\"os\":7");
    let catalog = images(product.as_bytes(), HOST).unwrap();
    assert!(by_alias(&catalog.entries, "debian/12/cloud", HOST).is_none() && catalog.entries.len() == 1);
    assert!(catalog.skipped[0].may_be("debian/bookworm/cloud"), "{:?}", catalog.skipped);
}

#[test]
fn hostile_lists_are_refused() {
    let list = list();
    let long = list.replace("debian/bookworm/cloud", &"x".repeat(2000));
    assert!(images(long.as_bytes(), HOST).unwrap().skipped[0].reason.contains("1024 bytes"));
    let many = format!(
        r#"{{"products":{{"a":{{"versions":{{"1":{{"items":{{{}"x":{{}}}}}}}}}}}}}}"#,
        r#""x":{},"#.repeat(OBJECTS)
    );
    assert!(images(many.as_bytes(), HOST).unwrap_err().contains("objects"));
    let short = list.replace(&hash('a'), "aa");
    let entries = images(short.as_bytes(), HOST).unwrap().entries;
    let found = by_alias(&entries, "debian/12/cloud", HOST).unwrap();
    assert_eq!(found.fingerprint.as_str(), hash('b'), "one without a fingerprint is none");
    let many: BTreeMap<String, _> = (0..2000).map(|n| (n.to_string(), 7)).collect();
    let json = serde_json::json!({"products": many}).to_string();
    assert_eq!(images(json.as_bytes(), HOST).unwrap().skipped.len(), SKIPPED);
}

proptest! {
    #[test]
    fn what_is_nearly_a_list_never_panics(at in 0usize..2000, byte: u8) {
        let mut bytes = list().into_bytes();
        let length = bytes.len();
        bytes[at % length] = byte;
        fuzz(&bytes);
    }
}
