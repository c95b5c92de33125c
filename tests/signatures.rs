//! Image servers whose signing key is pinned: their lists are believed only as that key signed them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use support::api::{done, get, refused};
use support::image_server::ImageServer;
use support::{Daemon, run, said};

/// A key of its own directory.
struct Signer {
    home: PathBuf,
}

impl Signer {
    fn new(home: &Path) -> Self {
        std::fs::create_dir(home).unwrap();
        std::fs::set_permissions(home, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let signer = Self { home: home.to_owned() };
        let make = ["--quick-generate-key", "images@example.invalid", "ed25519", "sign", "never"];
        run(signer.gpg().args(["--passphrase", ""]).args(make));
        signer
    }

    fn gpg(&self) -> Command {
        let mut gpg = Command::new("gpg");
        gpg.arg("--homedir").arg(&self.home).args(["--batch", "--yes", "--quiet", "--pinentry-mode", "loopback"]);
        gpg
    }

    fn public(&self) -> String {
        said(self.gpg().args(["--armor", "--export"])).ok()
    }

    /// Makes the signed list beside a list.
    fn sign(&self, list: &Path) {
        run(self.gpg().arg("--output").arg(list.with_extension("sjson")).arg("--clear-sign").arg(list));
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        let _ = Command::new("gpgconf").arg("--homedir").arg(&self.home).args(["--kill", "all"]).output();
    }
}

fn sha256(parts: &[&[u8]]) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, &parts.concat()))
}

/// A tree of streams with the image `bb/1`; its two lists.
fn tree(daemon: &Daemon, place: &Path) -> [PathBuf; 2] {
    let (meta, root) = daemon.busybox();
    let lists = place.join("streams/v1");
    std::fs::create_dir_all(&lists).unwrap();
    std::fs::copy(&meta, place.join("meta.tar.xz")).unwrap();
    std::fs::copy(&root, place.join("root.squashfs")).unwrap();
    let (meta, root) = (std::fs::read(meta).unwrap(), std::fs::read(root).unwrap());
    let items = json!({
        "lxd.tar.xz": {"ftype": "lxd.tar.xz", "path": "meta.tar.xz", "size": meta.len(), "sha256": sha256(&[&meta]),
            "combined_squashfs_sha256": sha256(&[&meta, &root])},
        "squashfs": {"ftype": "squashfs", "path": "root.squashfs", "size": root.len(), "sha256": sha256(&[&root])},
    });
    let product = json!({"aliases": "bb/1", "arch": "amd64", "os": "busybox", "release": "1", "variant": "default",
        "versions": {"20240101_00:00": {"items": items}}});
    let images = json!({"format": "products:1.0", "datatype": "image-downloads", "products": {"bb:1:amd64": product}});
    let index = json!({"format": "index:1.0", "index": {"images": {"datatype": "image-downloads",
        "path": "streams/v1/images.json"}}});
    let paths = [lists.join("index.json"), lists.join("images.json")];
    for (path, content) in paths.iter().zip([index, images]) {
        std::fs::write(path, content.to_string()).unwrap();
    }
    paths
}

#[test]
fn only_what_the_pinned_key_signed_is_believed() {
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    let served = place.path().join("tree");
    std::fs::create_dir(&served).unwrap();
    let server = ImageServer::start(&served, place.path());
    let daemon = Daemon::with_env(&[("SSL_CERT_FILE", server.ca.to_str().unwrap())]);
    daemon.lxc(&["storage", "create", "p", "overlay"]).ok();
    daemon.lxc(&["profile", "device", "add", "default", "root", "disk", "path=/", "pool=p"]).ok();
    let [index, images] = tree(&daemon, &served);
    let (own, other) = (Signer::new(&place.path().join("own")), Signer::new(&place.path().join("other")));
    let source =
        json!({"type": "image", "mode": "pull", "protocol": "simplestreams", "server": server.url, "alias": "bb/1"});
    let take = || {
        done(&daemon, "POST", "/1.0/images", &json!({"source": source}));
        let image = get(&daemon, "/1.0/images")[0].as_str().unwrap().to_owned();
        done(&daemon, "DELETE", &image, &json!({}));
    };
    let fails = |word: &str| {
        let body = json!({"source": source}).to_string();
        let (code, error, _) = daemon.operation("POST", "/1.0/images", &body);
        assert!(code == 400 && error.contains(word), "{word}: {error}");
        assert_eq!(get(&daemon, "/1.0/images"), json!([]), "{word}");
        // Not by the name of an instance either.
        let (code, error, _) =
            daemon.operation("POST", "/1.0/instances", &json!({"name": "c", "source": source}).to_string());
        assert!(code == 400 && error.contains(word), "{word}: {error}");
        assert_eq!(daemon.status("c"), "none");
    };
    take();

    let key = format!("images.streams_key.localhost:{}", server.port);
    let pin = |value: &str| done(&daemon, "PATCH", "/1.0", &json!({"config": {&key: value}}));
    let wrong = json!({"config": {&key: "nonsense"}});
    refused(&daemon, "PATCH", "/1.0", &wrong, 400, "gpg --armor --export");
    pin(&own.public());
    fails("has no signed list");
    own.sign(&index);
    fails("has no signed list");
    own.sign(&images);
    take();
    // The name of an instance, and what was read before is verified again.
    done(&daemon, "POST", "/1.0/instances", &json!({"name": "c", "source": source}));
    done(&daemon, "DELETE", "/1.0/instances/c", &json!({}));
    let image = get(&daemon, "/1.0/images")[0].as_str().unwrap().to_owned();
    done(&daemon, "DELETE", &image, &json!({}));

    // Signed by somebody else: the name of the file alone does not count.
    pin(&other.public());
    fails("No public key");
    // Either of two is enough.
    pin(&format!("{}{}", other.public(), own.public()));
    take();
    pin(&own.public());

    let forget = || {
        for list in std::fs::read_dir(daemon.state().join("cache/streams")).unwrap().flatten() {
            std::fs::remove_file(list.path()).unwrap();
        }
    };
    let signed = images.with_extension("sjson");
    let good = std::fs::read_to_string(&signed).unwrap();
    let plain = std::fs::read_to_string(&images).unwrap();
    for (bad, word) in [
        (good.replace("bb/1", "bb/1,more"), "BAD signature"),
        (plain.clone(), "not signed"),
        (format!("{plain}\n{good}"), "not signed"),
        (format!("{good}{plain}"), "not signed"),
        (format!("{good}{good}"), "not signed"),
        (good.split("-----BEGIN PGP SIGNATURE").next().unwrap().to_owned(), "not signed"),
        (good.replace("Hash: SHA512", "Hash: MD5"), "signature"),
        (String::new(), "not signed"),
    ] {
        std::fs::write(&signed, &bad).unwrap();
        forget();
        if bad != good {
            fails(word);
        }
    }
    // What it signed may still be nonsense.
    let old = std::fs::read(&images).unwrap();
    std::fs::write(&images, "{\"products\": []}").unwrap();
    own.sign(&images);
    std::fs::write(&images, &old).unwrap();
    forget();
    fails("not usable");
    std::fs::write(&signed, &good).unwrap();
    forget();
    take();

    // A cached image of that name does not help a server that lies.
    done(&daemon, "POST", "/1.0/instances", &json!({"name": "c", "source": source}));
    let cached: Vec<Value> = get(&daemon, "/1.0/images").as_array().unwrap().clone();
    done(&daemon, "DELETE", "/1.0/instances/c", &json!({}));
    std::fs::write(&signed, good.replace("bb/1", "bb/1,more")).unwrap();
    forget();
    let body = json!({"name": "c", "source": source}).to_string();
    let (code, error, _) = daemon.operation("POST", "/1.0/instances", &body);
    assert!(code == 400 && error.contains("BAD signature"), "{error}");
    // Nothing is pinned any more: the plain list is read.
    pin("");
    done(&daemon, "POST", "/1.0/instances", &json!({"name": "c", "source": source}));
    done(&daemon, "DELETE", "/1.0/instances/c", &json!({}));
    assert_eq!(get(&daemon, "/1.0/images").as_array().unwrap(), &cached);
}
