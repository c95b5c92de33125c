//! Images that come from a server, follow it, and go by themselves.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde_json::{Value, json};

use super::support::Daemon;
use super::support::caller::Caller;
use super::support::image_server::ImageServer;
use super::support::scanner::rows;
use super::{Verb, done, gone, shown};

/// The server of all rounds, and its tree; they end with the process, which is in namespaces of its own.
fn server() -> &'static (ImageServer, PathBuf) {
    static SERVER: OnceLock<(ImageServer, PathBuf)> = OnceLock::new();
    SERVER.get_or_init(|| {
        // In memory: nothing of it stays when the namespaces end.
        let place = PathBuf::from("/mnt");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&place).status().unwrap();
        assert!(mounted.success());
        std::fs::create_dir_all(place.join("streams/v1")).unwrap();
        (ImageServer::start(&place, &place), place)
    })
}

fn packed(metadata: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(u64::try_from(metadata.len()).unwrap());
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, "metadata.yaml", metadata.as_bytes()).unwrap();
    tar.into_inner().unwrap()
}

fn sha256(parts: &[&[u8]]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    hex::encode(context.finish())
}

/// The server has an image of this name, another one each time; its fingerprint.
fn publish(daemon: &Daemon, name: &str) -> String {
    static COUNT: Mutex<u64> = Mutex::new(0);
    let mut count = COUNT.lock().unwrap_or_else(PoisonError::into_inner);
    *count += 1;
    let (_, tree) = server();
    let metadata = packed(&format!("architecture: x86_64\ncreation_date: {}\n", 1_700_000_000 + *count));
    let root = std::fs::read(daemon.root.join("root.squashfs")).unwrap();
    let fingerprint = sha256(&[&metadata, &root]);
    std::fs::write(tree.join("meta"), &metadata).unwrap();
    std::fs::write(tree.join("root"), &root).unwrap();
    let list = json!({"products": {name: {"aliases": name, "arch": "amd64", "os": "busybox", "versions": {"20240101": {
        "items": {"lxd.tar.xz": {"ftype": "lxd.tar.xz", "path": "meta", "size": metadata.len(),
            "combined_squashfs_sha256": fingerprint},
            "root": {"ftype": "squashfs", "path": "root", "size": root.len()}}}}}}});
    std::fs::write(tree.join("streams/v1/images.json"), list.to_string()).unwrap();
    let index = json!({"format": "index:1.0", "index": {"images": {"datatype": "image-downloads",
        "path": "streams/v1/images.json"}}});
    std::fs::write(tree.join("streams/v1/index.json"), index.to_string()).unwrap();
    // What was said an hour ago would do.
    for list in std::fs::read_dir(daemon.state().join("cache/streams")).unwrap().flatten() {
        std::fs::remove_file(list.path()).unwrap();
    }
    fingerprint
}

fn source(name: &str) -> Value {
    let (server, _) = server();
    json!({"type": "image", "mode": "pull", "server": server.url, "protocol": "simplestreams", "alias": name,
        "certificate": server.certificate()})
}

fn on_server(daemon: &Daemon, name: &str) {
    publish(daemon, name);
}

/// Those of the server: without that of the set-up.
fn images(daemon: &Daemon) -> Vec<Vec<String>> {
    rows(daemon, "SELECT fingerprint, phase, cached FROM images WHERE update_source <> 'null'")
}

/// What is here of it can be used.
fn usable(daemon: &Daemon) {
    for image in images(daemon) {
        let answer = daemon.ask("GET", &format!("/1.0/images/{}/export", image[0]), &[], b"");
        assert!(answer.status == 200 && answer.whole);
        let body = json!({"name": "whole", "source": {"type": "image", "fingerprint": image[0]}});
        done(daemon, "POST", "/1.0/instances", &body.to_string());
        done(daemon, "DELETE", "/1.0/instances/whole", "");
    }
}

fn tidy(daemon: &Daemon, name: &str) {
    gone(daemon, &format!("/1.0/instances/{name}"));
    for image in images(daemon) {
        done(daemon, "DELETE", &format!("/1.0/images/{}", image[0]), "");
    }
}

fn target(daemon: &Daemon, alias: &str) -> String {
    shown(daemon, &format!("/1.0/images/aliases/{alias}"))["target"].as_str().unwrap().to_owned()
}

pub(super) const REMOTES: &[Verb] = &[
    Verb {
        name: "copy an image of a server",
        prepare: on_server,
        act: |caller, name| {
            let body = json!({"source": source(name), "aliases": [{"name": name}]});
            drop(caller.call("POST", "/1.0/images", &body.to_string()));
        },
        holds: |daemon, _| usable(daemon),
        tidy,
    },
    Verb {
        name: "make an instance of an image of a server",
        prepare: on_server,
        act: |caller, name| {
            drop(caller.call("POST", "/1.0/instances", &json!({"name": name, "source": source(name)}).to_string()));
        },
        holds: |daemon, name| {
            let here = images(daemon);
            assert!(here.len() <= 1 && here.iter().all(|image| image[2] == "1"), "{here:?}");
            assert!(daemon.status(name) == "none" || !here.is_empty());
            usable(daemon);
        },
        tidy,
    },
    Verb {
        name: "refresh an image",
        prepare: |daemon, name| {
            publish(daemon, name);
            let body = json!({"source": source(name), "aliases": [{"name": name}], "auto_update": true});
            done(daemon, "POST", "/1.0/images", &body.to_string());
            publish(daemon, name);
        },
        act: |caller: &Caller, name| {
            let url = format!("/1.0/images/aliases/{name}");
            let Some(alias) = caller.call("GET", &url, "") else { return };
            let Some(target) = alias["metadata"]["target"].as_str() else { return };
            drop(caller.call("POST", &format!("/1.0/images/{target}/refresh"), ""));
        },
        holds: |daemon, name| {
            usable(daemon);
            // Whatever had been done: once more, and there is one, which is the newer one.
            done(daemon, "POST", &format!("/1.0/images/{}/refresh", target(daemon, name)), "");
            done(daemon, "PUT", "/internal/schedule", &json!({"at": "2060-01-01T00:00:00Z"}).to_string());
            let here = images(daemon);
            assert_eq!(here.iter().map(|image| image[0].clone()).collect::<Vec<_>>(), [target(daemon, name)]);
        },
        tidy,
    },
    Verb {
        name: "forget what was cached",
        prepare: |daemon, name| {
            publish(daemon, name);
            done(daemon, "POST", "/1.0/instances", &json!({"name": name, "source": source(name)}).to_string());
            done(daemon, "DELETE", &format!("/1.0/instances/{name}"), "");
            done(daemon, "PATCH", "/1.0", &json!({"config": {"images.auto_update_interval": "0"}}).to_string());
        },
        act: |caller, _| {
            drop(caller.call("PUT", "/internal/schedule", &json!({"at": "2060-01-01T00:00:00Z"}).to_string()));
        },
        holds: |daemon, _| usable(daemon),
        tidy,
    },
];
