//! Images that are made to do harm, against a running daemon: refused with the reason, nothing kept, nothing hurt.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use support::api::{done, get};
use support::tarball::{Tar, add};
use support::{Daemon, run};

/// A daemon with the pools `d` (dir) and `o` (overlay), and no image.
fn host() -> Daemon {
    let daemon = Daemon::bare();
    for (name, driver) in [("d", "dir"), ("o", "overlay")] {
        daemon.lxc(&["storage", "create", name, driver]).ok();
    }
    daemon
}

/// A tree with `metadata.yaml` and `rootfs/`.
fn tree(daemon: &Daemon, name: &str) -> PathBuf {
    let tree = daemon.root.join(name);
    std::fs::create_dir_all(tree.join("rootfs")).unwrap();
    std::fs::write(tree.join("metadata.yaml"), "architecture: x86_64\ncreation_date: 1700000000\n").unwrap();
    tree
}

fn squashfs(tree: &Path) -> PathBuf {
    let file = tree.with_extension("squashfs");
    run(Command::new("mksquashfs").arg(tree).arg(&file).args(["-quiet", "-no-progress", "-noappend", "-all-root"]));
    file
}

fn sparse(path: &Path, size: u64) {
    std::fs::File::create(path).unwrap().set_len(size).unwrap();
}

/// A hundred names of a file of a gibibyte, which is made in a moment.
fn huge(dir: &Path) {
    sparse(&dir.join("0"), 1 << 30);
    (1..100).for_each(|n| std::fs::hard_link(dir.join("0"), dir.join(n.to_string())).unwrap());
}

/// What the daemon says to an upload of whole files: empty, or the error.
fn upload(daemon: &Daemon, bytes: &[u8], headers: &[(&str, &str)]) -> String {
    let (status, answer) = daemon.api_raw("POST", "/1.0/images", headers, bytes);
    if status != 202 {
        return answer["error"].as_str().unwrap().to_owned();
    }
    let (_, end) = daemon.api("GET", &format!("{}/wait", answer["operation"].as_str().unwrap()), "");
    end["metadata"]["err"].as_str().unwrap().to_owned()
}

fn nothing_kept(daemon: &Daemon) {
    assert_eq!(get(daemon, "/1.0/images"), json!([]));
    assert_eq!(std::fs::read_dir(daemon.state().join("images")).unwrap().count(), 0);
}

/// An instance of the image `alias` on a pool: the error, empty when there is none.
fn init(daemon: &Daemon, pool: &str, alias: &str) -> String {
    let body = json!({"name": "c", "source": {"type": "image", "alias": alias},
        "devices": {"root": {"type": "disk", "path": "/", "pool": pool}}});
    let (_, error, _) = daemon.operation("POST", "/1.0/instances", &body.to_string());
    error
}

const HUGE: u64 = 100 << 30;

#[test]
fn a_small_squashfs_that_unpacks_to_anything_is_refused() {
    let daemon = host();
    // What is unpacked when it arrives, and what would be when it is used.
    for place in ["metadata.yaml", "templates/x", "rootfs"] {
        let tree = tree(&daemon, &place.replace('/', "-"));
        std::fs::create_dir_all(tree.join("templates")).unwrap();
        match place {
            "rootfs" => huge(&tree.join("rootfs")),
            file => sparse(&tree.join(file), 65 << 20),
        }
        let image = std::fs::read(squashfs(&tree)).unwrap();
        assert!(image.len() < 1 << 20, "{}", image.len());
        let error = upload(&daemon, &image, &[]);
        assert!(error.contains("bytes"), "{place}: {error}");
        nothing_kept(&daemon);
    }
    // The root of a split one is mounted as it is where that can be; where it cannot, its size counts.
    let tree = tree(&daemon, "split");
    huge(&tree.join("rootfs"));
    let root = squashfs(&tree.join("rootfs"));
    let (meta, _) = daemon.busybox();
    daemon.lxc(&["image", "import", meta.to_str().unwrap(), root.to_str().unwrap(), "--alias", "split"]).ok();
    let error = init(&daemon, "d", "split");
    assert!(error.contains("bytes"), "{error}");
    assert_eq!(get(&daemon, "/1.0/instances"), json!([]));
    let left = std::fs::read_dir(daemon.state().join("storage-pools/d/containers")).unwrap().count();
    assert_eq!(left, 0, "what was unpacked goes");
    assert_eq!(init(&daemon, "o", "split"), "");
    done(&daemon, "DELETE", "/1.0/instances/c", &json!({}));
}

#[test]
fn directories_without_end_hurt_nobody() {
    let daemon = host();
    let tree = tree(&daemon, "deep");
    let mut place = tree.join("rootfs");
    // As deep as a path can name it from where it is unpacked.
    for _ in 0..1500 {
        place.push("d");
    }
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join("end"), "here").unwrap();
    let (meta, _) = daemon.busybox();
    let root = squashfs(&tree.join("rootfs"));
    daemon.lxc(&["image", "import", meta.to_str().unwrap(), root.to_str().unwrap(), "--alias", "squash"]).ok();
    let tarball = daemon.root.join("deep.tar.gz");
    run(Command::new("tar").arg("-C").arg(&tree).arg("-czf").arg(&tarball).args(["metadata.yaml", "rootfs"]));
    daemon.lxc(&["image", "import", tarball.to_str().unwrap(), "--alias", "tar"]).ok();
    for (pool, alias) in [("d", "squash"), ("o", "tar")] {
        assert_eq!(init(&daemon, pool, alias), "", "{alias} on {pool}");
        done(&daemon, "DELETE", "/1.0/instances/c", &json!({}));
    }
}

/// A tarball with `metadata.yaml`, a root, and one more entry.
fn tarball(entry: impl FnOnce(&mut Tar)) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    add(&mut tar, "metadata.yaml", tar::EntryType::Regular, b"architecture: x86_64\ncreation_date: 1700000000\n");
    add(&mut tar, "rootfs", tar::EntryType::Directory, b"");
    entry(&mut tar);
    tar.into_inner().unwrap()
}

/// An entry whose name no builder takes.
fn raw(name: &[u8], kind: tar::EntryType, target: &[u8], size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
    header.as_gnu_mut().unwrap().linkname[..target.len()].copy_from_slice(target);
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_cksum();
    header
}

#[test]
fn tarballs_that_lead_elsewhere_or_say_too_much_are_refused() {
    use tar::EntryType as Kind;
    let daemon = host();
    let outside = daemon.root.join("outside");
    let name = outside.to_str().unwrap().as_bytes();
    let one = |header: tar::Header| tarball(|tar| tar.append(&header, std::io::empty()).unwrap());
    let long = tarball(|tar| {
        let place = format!("rootfs/{}", "a".repeat(256));
        tar.append_data(&mut raw(b"x", Kind::Regular, b"", 0), place, std::io::empty()).unwrap();
    });
    for (image, says) in [
        (one(raw(name, Kind::Regular, b"", 0)), "absolute"),
        (one(raw(b"rootfs/../../outside", Kind::Regular, b"", 0)), ".."),
        (one(raw(b"rootfs/x", Kind::Link, name, 0)), "link"),
        (one(raw(b"rootfs/x", Kind::Link, b"rootfs/../../outside", 0)), "link"),
        // The container's root could write what the daemon reads.
        (one(raw(b"rootfs/x", Kind::Link, b"metadata.yaml", 0)), "link"),
        (long, "255 bytes"),
        (one(raw(b"metadata.yaml", Kind::Regular, b"", 0)), "twice"),
        (one(raw(b"templates", Kind::Symlink, name, 0)), "no plain file"),
        (one(raw(b"rootfs/x", Kind::Regular, b"", HUGE)), "bytes"),
        (one(raw(b"templates/x", Kind::Regular, b"", u64::MAX >> 2)), ""),
    ] {
        let error = upload(&daemon, &image, &[]);
        assert!(!error.is_empty() && error.contains(says), "{says}: {error}");
        nothing_kept(&daemon);
        assert!(!outside.exists());
    }
    // A link that another entry goes through is refused or goes nowhere.
    let through = tarball(|tar| {
        tar.append(&raw(b"rootfs/l", Kind::Symlink, name, 0), std::io::empty()).unwrap();
        tar.append(&raw(b"rootfs/l/x", Kind::Regular, b"", 0), std::io::empty()).unwrap();
    });
    std::fs::create_dir(&outside).unwrap();
    let error = upload(&daemon, &through, &[("X-LXD-aliases", "a=through")]);
    if error.is_empty() {
        assert!(!init(&daemon, "d", "through").is_empty());
    }
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    let images: Vec<Value> = get(&daemon, "/1.0/images").as_array().unwrap().clone();
    images.iter().for_each(|image| drop(done(&daemon, "DELETE", image.as_str().unwrap(), &json!({}))));
    // Metadata that is longer than anybody's, packed small.
    let place = tree(&daemon, "long");
    std::fs::write(place.join("metadata.yaml"), vec![b'\n'; 300 << 20]).unwrap();
    let file = daemon.root.join("long.tar.gz");
    run(Command::new("tar").arg("-C").arg(&place).arg("-czf").arg(&file).args(["metadata.yaml", "rootfs"]));
    let error = upload(&daemon, &std::fs::read(file).unwrap(), &[]);
    assert!(error.contains("metadata.yaml"), "{error}");
    nothing_kept(&daemon);
}
