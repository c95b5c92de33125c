//! Verbs of everything but instances.

use std::sync::OnceLock;

use serde_json::{Value, json};

use super::support::Daemon;
use super::support::caller::Caller;
use super::support::scanner::rows;
use super::{Verb, done, gone, shown};

fn nothing(_: &Daemon, _: &str) {}

/// The daemon's directory, from its socket.
fn file(caller: &Caller, name: &str) -> Vec<u8> {
    std::fs::read(caller.socket.ancestors().nth(2).unwrap().join(name)).unwrap()
}

const BINARY: (&str, &str) = ("Content-Type", "application/octet-stream");

fn import_unified(caller: &Caller, name: &str) -> Option<Value> {
    // What follows the end of a gzip makes another image of it: its own fingerprint each time.
    let properties = format!("name={name}");
    let headers = [BINARY, ("X-LXD-properties", properties.as_str()), ("X-LXD-aliases", name)];
    caller.call_raw("POST", "/1.0/images", &headers, &file(caller, "unified.tar.gz"))
}

/// Another image than that of the set-up: its metadata is packed anew.
fn import_split(caller: &Caller, name: &str) -> Option<Value> {
    static METADATA: OnceLock<Vec<u8>> = OnceLock::new();
    let metadata = METADATA.get_or_init(|| {
        let mut tar = tar::Builder::new(Vec::new());
        let text = b"architecture: x86_64\ncreation_date: 1700000001\n";
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(text.len()).unwrap());
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        tar.append_data(&mut header, "metadata.yaml", &text[..]).unwrap();
        tar.into_inner().unwrap()
    });
    let mut body = Vec::new();
    for (part, bytes) in [("metadata", metadata.as_slice()), ("rootfs", &file(caller, "root.squashfs"))] {
        let head = format!("--b\r\nContent-Disposition: form-data; name=\"{part}\"; filename=\"{part}\"\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--b--\r\n");
    let headers = [("Content-Type", "multipart/form-data; boundary=b"), ("X-LXD-aliases", name)];
    caller.call_raw("POST", "/1.0/images", &headers, &body)
}

pub(super) fn caller(daemon: &Daemon) -> Caller {
    Caller { socket: daemon.socket() }
}

/// The fingerprint behind an alias.
fn target(daemon: &Daemon, alias: &str) -> Option<String> {
    shown(daemon, &format!("/1.0/images/aliases/{alias}"))["target"].as_str().map(str::to_owned)
}

/// An image is there with its alias and its files, or nothing of it is.
pub(super) fn imported(daemon: &Daemon, name: &str) {
    let images = rows(daemon, "SELECT fingerprint FROM images").len();
    match target(daemon, name) {
        None => assert_eq!(images, 1, "an image without its alias"),
        Some(fingerprint) => {
            let answer = daemon.ask("GET", &format!("/1.0/images/{fingerprint}/export"), &[], b"");
            assert!(answer.status == 200 && answer.whole);
            let body = json!({"name": "whole", "source": {"type": "image", "fingerprint": fingerprint}});
            done(daemon, "POST", "/1.0/instances", &body.to_string());
            done(daemon, "DELETE", "/1.0/instances/whole", "");
        }
    }
}

pub(super) fn forget_image(daemon: &Daemon, name: &str) {
    if let Some(fingerprint) = target(daemon, name) {
        done(daemon, "DELETE", &format!("/1.0/images/{fingerprint}"), "");
    }
}

fn with_image(daemon: &Daemon, name: &str) {
    import_split(&caller(daemon), name).unwrap();
}

fn profile(name: &str) -> String {
    format!("/1.0/profiles/{name}")
}

fn make_profile(daemon: &Daemon, name: &str) {
    done(daemon, "POST", "/1.0/profiles", &json!({"name": name, "description": "old"}).to_string());
}

fn forget_profile(daemon: &Daemon, name: &str) {
    gone(daemon, &profile(name));
    gone(daemon, &profile(&format!("{name}-new")));
}

/// Exactly one of these is there.
fn one_of(daemon: &Daemon, urls: [String; 2]) {
    let there = urls.iter().filter(|url| !shown(daemon, url).is_null()).count();
    assert_eq!(there, 1, "of {urls:?}");
}

pub(super) const IMAGES: &[Verb] = &[
    Verb {
        name: "import a unified image",
        prepare: nothing,
        act: |caller, name| drop(import_unified(caller, name)),
        holds: imported,
        tidy: forget_image,
    },
    Verb {
        name: "import a split image",
        prepare: nothing,
        act: |caller, name| drop(import_split(caller, name)),
        holds: imported,
        tidy: forget_image,
    },
    Verb {
        name: "PUT an image",
        prepare: with_image,
        act: |caller, name| {
            let Some(alias) = caller.call("GET", &format!("/1.0/images/aliases/{name}"), "") else { return };
            let url = format!("/1.0/images/{}", alias["metadata"]["target"].as_str().unwrap());
            caller.call("PUT", &url, r#"{"public":true,"properties":{"a":"b"},"profiles":["default"]}"#);
        },
        holds: |daemon, name| {
            let now = shown(daemon, &format!("/1.0/images/{}", target(daemon, name).unwrap()));
            assert_eq!(now["public"] == true, now["properties"]["a"] == "b", "{now}");
        },
        tidy: forget_image,
    },
    Verb {
        name: "offer an image by simplestreams and take it back",
        prepare: with_image,
        act: |caller, name| {
            let Some(alias) = caller.call("GET", &format!("/1.0/images/aliases/{name}"), "") else { return };
            let url = format!("/1.0/images/{}", alias["metadata"]["target"].as_str().unwrap());
            caller.call("PATCH", &url, r#"{"public":true}"#);
            caller.send("GET", "/streams/v1/images.json", &[], b"");
            caller.call("DELETE", &url, "");
        },
        holds: |daemon, name| {
            // Listed with true hashes when it is public, and not at all otherwise.
            let list = daemon.ask("GET", "/streams/v1/images.json", &[], b"").is(200).json();
            let offered = target(daemon, name)
                .filter(|fingerprint| shown(daemon, &format!("/1.0/images/{fingerprint}"))["public"] == true);
            assert_eq!(list["products"].as_object().unwrap().len(), usize::from(offered.is_some()), "{list}");
            for product in list["products"].as_object().unwrap().values() {
                let item = &product["versions"].as_object().unwrap().values().next().unwrap()["items"]["squashfs"];
                let root = daemon.ask("GET", &format!("/{}", item["path"].as_str().unwrap()), &[], b"").is(200).body;
                let digest = ring::digest::digest(&ring::digest::SHA256, &root);
                assert_eq!(hex::encode(digest), item["sha256"].as_str().unwrap());
            }
        },
        tidy: forget_image,
    },
    Verb {
        name: "delete an image",
        prepare: with_image,
        act: |caller, name| {
            let Some(alias) = caller.call("GET", &format!("/1.0/images/aliases/{name}"), "") else { return };
            caller.call("DELETE", &format!("/1.0/images/{}", alias["metadata"]["target"].as_str().unwrap()), "");
        },
        holds: imported,
        tidy: forget_image,
    },
    Verb {
        name: "delete an image and the last instance of it",
        prepare: |daemon, name| {
            with_image(daemon, name);
            let body = json!({"name": name, "source": {"type": "image", "alias": name}});
            done(daemon, "POST", "/1.0/instances", &body.to_string());
        },
        act: |caller, name| {
            let Some(alias) = caller.call("GET", &format!("/1.0/images/aliases/{name}"), "") else { return };
            caller.call("DELETE", &format!("/1.0/images/{}", alias["metadata"]["target"].as_str().unwrap()), "");
            caller.call("DELETE", &format!("/1.0/instances/{name}"), "");
        },
        holds: |daemon, name| {
            if daemon.status(name) == "Stopped" {
                done(daemon, "PUT", &format!("/1.0/instances/{name}/state"), r#"{"action":"start"}"#);
                done(daemon, "PUT", &format!("/1.0/instances/{name}/state"), r#"{"action":"stop","force":true}"#);
            }
        },
        tidy: |daemon, name| {
            gone(daemon, &format!("/1.0/instances/{name}"));
            forget_image(daemon, name);
        },
    },
    Verb {
        name: "create, rename and delete an alias",
        prepare: nothing,
        act: |caller, name| {
            let Some(bb) = caller.call("GET", "/1.0/images/aliases/bb", "") else { return };
            let body = json!({"name": name, "target": bb["metadata"]["target"]}).to_string();
            caller.call("POST", "/1.0/images/aliases", &body);
            let new = format!("{name}-new");
            caller.call("POST", &format!("/1.0/images/aliases/{name}"), &json!({"name": new}).to_string());
            caller.call("DELETE", &format!("/1.0/images/aliases/{new}"), "");
        },
        holds: |daemon, name| {
            let aliases = [name.to_owned(), format!("{name}-new")];
            assert!(aliases.iter().filter(|alias| target(daemon, alias).is_some()).count() < 2);
        },
        tidy: |daemon, name| {
            gone(daemon, &format!("/1.0/images/aliases/{name}"));
            gone(daemon, &format!("/1.0/images/aliases/{name}-new"));
        },
    },
    Verb {
        name: "create and edit a profile",
        prepare: nothing,
        act: |caller, name| {
            caller.call("POST", "/1.0/profiles", &json!({"name": name, "description": "old"}).to_string());
            caller.call("PUT", &profile(name), r#"{"description":"new","config":{"user.key":"new"}}"#);
        },
        holds: |daemon, name| {
            let now = shown(daemon, &profile(name));
            assert_eq!(now["description"] == "new", now["config"]["user.key"] == "new", "{now}");
        },
        tidy: forget_profile,
    },
    Verb {
        name: "rename a profile that is used",
        prepare: |daemon, name| {
            make_profile(daemon, name);
            let body = json!({"name": name, "source": {"type": "none"}, "profiles": ["default", name]});
            done(daemon, "POST", "/1.0/instances", &body.to_string());
        },
        act: |caller, name| {
            caller.call("POST", &profile(name), &json!({"name": format!("{name}-new")}).to_string());
        },
        holds: |daemon, name| {
            one_of(daemon, [profile(name), profile(&format!("{name}-new"))]);
            let used = shown(daemon, &format!("/1.0/instances/{name}"))["profiles"][1].as_str().unwrap().to_owned();
            assert!(!shown(daemon, &profile(&used)).is_null(), "{used}");
        },
        tidy: |daemon, name| {
            gone(daemon, &format!("/1.0/instances/{name}"));
            forget_profile(daemon, name);
        },
    },
    Verb {
        name: "delete a profile",
        prepare: make_profile,
        act: |caller, name| drop(caller.call("DELETE", &profile(name), "")),
        holds: nothing,
        tidy: forget_profile,
    },
];

fn pool(name: &str) -> String {
    format!("/1.0/storage-pools/{name}")
}

/// A pool that is there holds volumes.
fn usable(daemon: &Daemon, name: &str) {
    let now = shown(daemon, &pool(name));
    if !now.is_null() {
        assert_eq!(now["status"], "Created", "{now}");
        let disk = json!({"root": {"type": "disk", "path": "/", "pool": name}});
        let body = json!({"name": "whole", "source": {"type": "image", "alias": "bb"}, "devices": disk});
        done(daemon, "POST", "/1.0/instances", &body.to_string());
        done(daemon, "DELETE", "/1.0/instances/whole", "");
    }
}

fn make_pool(caller: &Caller, name: &str, driver: &str) {
    caller.call("POST", "/1.0/storage-pools", &json!({"name": name, "driver": driver}).to_string());
}

fn make_file_pool(caller: &Caller, name: &str, driver: &str, size: &str) {
    let body = json!({"name": name, "driver": driver, "config": {"size": size}});
    caller.call("POST", "/1.0/storage-pools", &body.to_string());
}

fn forget_pool(daemon: &Daemon, name: &str) {
    gone(daemon, &pool(name));
}

/// The directory for pools with a source.
fn source(caller: &Caller) -> std::path::PathBuf {
    caller.socket.ancestors().nth(2).unwrap().join("source")
}

fn make_network(caller: &Caller) {
    let config = json!({"ipv4.address": "10.77.1.1/24", "ipv4.nat": "true", "ipv6.address": "fd42:77::1/64"});
    caller.call("POST", "/1.0/networks", &json!({"name": "wcnet0", "config": config}).to_string());
}

fn network_is_whole(daemon: &Daemon, _: &str) {
    let now = shown(daemon, "/1.0/networks/wcnet0");
    assert!(now.is_null() || now["managed"] == true && now["status"] == "Created", "{now}");
}

fn certificate() -> &'static String {
    static PEM: OnceLock<String> = OnceLock::new();
    PEM.get_or_init(|| rcgen::generate_simple_self_signed(vec!["crash".to_owned()]).unwrap().cert.pem())
}

pub(super) fn certificates(daemon: &Daemon) -> Vec<String> {
    let list = shown(daemon, "/1.0/certificates");
    list.as_array().unwrap().iter().map(|url| url.as_str().unwrap().to_owned()).collect()
}

pub(super) fn trust(caller: &Caller, name: &str) -> Option<Value> {
    let base64: String = certificate().lines().filter(|line| !line.starts_with('-')).collect();
    let body = json!({"type": "client", "name": name, "certificate": base64});
    caller.call("POST", "/1.0/certificates", &body.to_string())
}

pub(super) fn forget_certificates(daemon: &Daemon, _: &str) {
    certificates(daemon).iter().for_each(|url| gone(daemon, url));
}

pub(super) const HOST: &[Verb] = &[
    Verb {
        name: "create a pool of the driver overlay",
        prepare: nothing,
        act: |caller, name| make_pool(caller, name, "overlay"),
        holds: usable,
        tidy: forget_pool,
    },
    Verb {
        name: "create a pool of the driver dir with a source",
        prepare: |daemon, _| std::fs::create_dir_all(source(&caller(daemon))).unwrap(),
        act: |caller, name| {
            let body = json!({"name": name, "driver": "dir", "config": {"source": source(caller)}});
            caller.call("POST", "/1.0/storage-pools", &body.to_string());
        },
        holds: usable,
        tidy: |daemon, name| {
            forget_pool(daemon, name);
            // A source is given back as it was.
            let left: Vec<_> = std::fs::read_dir(source(&caller(daemon))).unwrap().collect();
            assert!(left.is_empty(), "{left:?}");
        },
    },
    Verb {
        name: "delete a pool that held an image",
        prepare: |daemon, name| {
            make_pool(&caller(daemon), name, "overlay");
            usable(daemon, name);
        },
        act: |caller, name| drop(caller.call("DELETE", &pool(name), "")),
        holds: usable,
        tidy: forget_pool,
    },
    Verb {
        name: "create a btrfs pool on a file",
        prepare: nothing,
        act: |caller, name| make_file_pool(caller, name, "btrfs", "200MiB"),
        holds: usable,
        tidy: forget_pool,
    },
    Verb {
        name: "create an overlay pool on a file",
        prepare: nothing,
        act: |caller, name| make_file_pool(caller, name, "overlay", "400MiB"),
        holds: usable,
        tidy: forget_pool,
    },
    Verb {
        name: "delete a btrfs pool that held an image",
        prepare: |daemon, name| {
            make_file_pool(&caller(daemon), name, "btrfs", "200MiB");
            usable(daemon, name);
        },
        act: |caller, name| drop(caller.call("DELETE", &pool(name), "")),
        holds: usable,
        tidy: forget_pool,
    },
    Verb {
        name: "grow a btrfs pool",
        prepare: |daemon, name| make_file_pool(&caller(daemon), name, "btrfs", "300MiB"),
        act: |caller, name| drop(caller.call("PATCH", &pool(name), r#"{"config":{"size":"500MiB"}}"#)),
        holds: |daemon, name| {
            usable(daemon, name);
            let size = if shown(daemon, &pool(name))["config"]["size"] == "300MiB" { 300 } else { 500 };
            let space = shown(daemon, &format!("{}/resources", pool(name)))["space"]["total"].clone();
            assert_eq!(space, json!(size << 20));
        },
        tidy: forget_pool,
    },
    Verb {
        name: "create a network",
        prepare: nothing,
        act: |caller, _| make_network(caller),
        holds: network_is_whole,
        tidy: |daemon, _| gone_network(daemon),
    },
    Verb {
        name: "change a network",
        prepare: |daemon, _| make_network(&caller(daemon)),
        act: |caller, _| {
            let config = json!({"ipv4.address": "10.77.2.1/24", "ipv4.nat": "false", "ipv4.dhcp.expiry": "3m"});
            caller.call("PATCH", "/1.0/networks/wcnet0", &json!({"config": config}).to_string());
        },
        holds: |daemon, name| {
            network_is_whole(daemon, name);
            // The host is as the database says, the one or the other.
            let now = shown(daemon, "/1.0/networks/wcnet0");
            let output =
                std::process::Command::new("ip").args(["-4", "-o", "addr", "show", "wcnet0"]).output().unwrap();
            let addresses = String::from_utf8(output.stdout).unwrap();
            let wanted = now["config"]["ipv4.address"].as_str().unwrap();
            assert!(addresses.lines().count() == 1 && addresses.contains(wanted), "{wanted}: {addresses}");
        },
        tidy: |daemon, _| gone_network(daemon),
    },
    Verb {
        name: "delete a network",
        prepare: |daemon, _| make_network(&caller(daemon)),
        act: |caller, _| drop(caller.call("DELETE", "/1.0/networks/wcnet0", "")),
        holds: network_is_whole,
        tidy: |daemon, _| gone_network(daemon),
    },
    Verb {
        name: "rename a network",
        prepare: |daemon, _| {
            make_network(&caller(daemon));
            done(daemon, "POST", "/1.0/networks/wcnet0/forwards", r#"{"listen_address":"192.0.2.7"}"#);
        },
        act: |caller, _| drop(caller.call("POST", "/1.0/networks/wcnet0", r#"{"name":"wcnet1"}"#)),
        holds: |daemon, _| {
            one_of(daemon, ["wcnet0", "wcnet1"].map(|name| format!("/1.0/networks/{name}")));
            let name = if shown(daemon, "/1.0/networks/wcnet1").is_null() { "wcnet0" } else { "wcnet1" };
            let forwards = shown(daemon, &format!("/1.0/networks/{name}/forwards"));
            assert_eq!(forwards.as_array().unwrap().len(), 1, "{forwards}");
            assert_eq!(shown(daemon, &format!("/1.0/networks/{name}"))["config"].as_object().unwrap().len(), 3);
        },
        tidy: |daemon, _| {
            gone_network(daemon);
            gone(daemon, "/1.0/networks/wcnet1");
        },
    },
    Verb {
        name: "forward an address into a network, otherwise, no more",
        prepare: |daemon, _| make_network(&caller(daemon)),
        act: |caller, _| {
            let url = "/1.0/networks/wcnet0/forwards";
            let config = json!({"target_address": "10.77.1.9"});
            caller.call("POST", url, &json!({"listen_address": "192.0.2.7", "config": config}).to_string());
            let url = format!("{url}/192.0.2.7");
            caller.call("PATCH", &url, &json!({"config": {"target_address": "10.77.1.8"}}).to_string());
            caller.call("DELETE", &url, "");
        },
        holds: |daemon, name| {
            network_is_whole(daemon, name);
            // The host does what the database says.
            let now = shown(daemon, "/1.0/networks/wcnet0/forwards/192.0.2.7");
            let rules = rules();
            match now["config"]["target_address"].as_str() {
                Some(target) => assert!(rules.contains(&format!("daddr 192.0.2.7 dnat ip to {target}")), "{rules}"),
                None => assert!(!rules.contains("192.0.2.7"), "{rules}"),
            }
        },
        tidy: |daemon, _| gone_network(daemon),
    },
    Verb {
        name: "change an ACL that a network has",
        prepare: |daemon, _| {
            make_network(&caller(daemon));
            let drop = json!([{"action": "drop", "state": "enabled", "source": "192.0.2.1"}]);
            done(daemon, "POST", "/1.0/network-acls", &json!({"name": "wcacl", "ingress": drop}).to_string());
            done(daemon, "PATCH", "/1.0/networks/wcnet0", r#"{"config":{"security.acls":"wcacl"}}"#);
        },
        act: |caller, _| {
            let drop = json!([{"action": "drop", "state": "enabled", "source": "192.0.2.2"}]);
            caller.call("PATCH", "/1.0/network-acls/wcacl", &json!({"ingress": drop}).to_string());
        },
        holds: |daemon, _| {
            let now = shown(daemon, "/1.0/network-acls/wcacl");
            let source = now["ingress"][0]["source"].as_str().unwrap();
            assert!(rules().contains(&format!("ip saddr {source} drop")), "{source}: {}", rules());
        },
        tidy: |daemon, _| {
            gone_network(daemon);
            gone(daemon, "/1.0/network-acls/wcacl");
        },
    },
    Verb {
        name: "a network helps itself past a firewall, and no more",
        prepare: |daemon, _| {
            nft("add table ip other; add chain ip other f { type filter hook forward priority 5; policy drop; }");
            make_network(&caller(daemon));
        },
        act: |caller, _| {
            let set = |value: &str| json!({"config": {"firewall.assist": value}}).to_string();
            caller.call("PATCH", "/1.0/networks/wcnet0", &set("true"));
            caller.call("PATCH", "/1.0/networks/wcnet0", &set(""));
        },
        holds: |daemon, name| {
            network_is_whole(daemon, name);
            let now = shown(daemon, "/1.0/networks/wcnet0");
            let marked = rules().matches("warren:wcnet0").count();
            assert_eq!(marked, if now["config"]["firewall.assist"] == "true" { 2 } else { 0 }, "{}", rules());
            nft("delete table ip other");
        },
        tidy: |daemon, _| {
            gone_network(daemon);
            let _ = rules();
        },
    },
    Verb {
        name: "make and delete a network on an interface of the host",
        prepare: nothing,
        act: |caller, _| {
            let body = json!({"name": "wcmac0", "type": "macvlan", "config": {"parent": "lo"}});
            caller.call("POST", "/1.0/networks", &body.to_string());
            caller.call("POST", "/1.0/networks/wcmac0", r#"{"name":"wcmac1"}"#);
            caller.call("DELETE", "/1.0/networks/wcmac1", "");
        },
        holds: nothing,
        tidy: |daemon, _| {
            gone(daemon, "/1.0/networks/wcmac0");
            gone(daemon, "/1.0/networks/wcmac1");
        },
    },
    Verb {
        name: "add a certificate",
        prepare: nothing,
        act: |caller, name| drop(trust(caller, name)),
        holds: |daemon, _| assert!(certificates(daemon).len() < 2),
        tidy: forget_certificates,
    },
    Verb {
        name: "delete a certificate",
        prepare: |daemon, name| drop(trust(&caller(daemon), name).unwrap()),
        act: |caller, _| {
            let Some(list) = caller.call("GET", "/1.0/certificates", "") else { return };
            let Some(url) = list["metadata"][0].as_str() else { return };
            caller.call("DELETE", url, "");
        },
        holds: |daemon, _| assert!(certificates(daemon).len() < 2),
        tidy: forget_certificates,
    },
    Verb {
        name: "change the server's configuration",
        prepare: nothing,
        act: |caller, name| {
            let config = json!({"core.https_address": "127.0.0.1:8443", "user.key": name});
            caller.call("PATCH", "/1.0", &json!({"config": config}).to_string());
        },
        holds: |daemon, name| {
            let now = shown(daemon, "/1.0");
            let listens = std::net::TcpStream::connect("127.0.0.1:8443").is_ok();
            assert_eq!(now["config"]["user.key"] == name, listens, "{}", now["config"]);
        },
        tidy: |daemon, _| drop(done(daemon, "PUT", "/1.0", r#"{"config":{}}"#)),
    },
];

fn gone_network(daemon: &Daemon) {
    gone(daemon, "/1.0/networks/wcnet0");
}

/// The packet filter of the host.
fn rules() -> String {
    let output = std::process::Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn nft(script: &str) {
    assert!(std::process::Command::new("nft").arg(script).status().unwrap().success(), "{script}");
}
