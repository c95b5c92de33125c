//! Images between us, LXD 5.0.2 and Incus, by each protocol and in each direction, launched where they arrive.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::api::{done, get};
use support::peers::{INCUS, Kind, LXD, Peer};
use support::{Daemon, Said};

/// A daemon that listens, with three public images, published by it and imported: `made` (gzip), `squash`, and `split`.
fn host() -> (Daemon, String) {
    let daemon = Daemon::ready("overlay");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    daemon.lxc(&["config", "set", "core.https_address", &format!("127.0.0.1:{port}")]).ok();
    daemon.lxc(&["init", "bb", "c"]).ok();
    daemon.lxc(&["publish", "c", "--alias", "made", "--public", "release=1"]).ok();
    daemon.lxc(&["publish", "c", "--alias", "squash", "--public", "--compression", "squashfs"]).ok();
    daemon.lxc(&["delete", "c"]).ok();
    daemon.lxc(&["image", "alias", "create", "split", &target(&daemon, "bb")]).ok();
    done(&daemon, "PATCH", &format!("/1.0/images/{}", target(&daemon, "bb")), &json!({"public": true}));
    (daemon, format!("https://127.0.0.1:{port}"))
}

fn target(daemon: &Daemon, alias: &str) -> String {
    get(daemon, &format!("/1.0/images/aliases/{alias}"))["target"].as_str().unwrap().to_owned()
}

/// A peer takes images of ours by both protocols and in each mode, and gives its own.
fn exchange(kind: Kind) {
    let (ours, url) = host();
    let certificate = get(&ours, "/1.0")["environment"]["certificate"].as_str().unwrap().to_owned();
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    let ca = place.path().join("ca.pem");
    std::fs::write(&ca, &certificate).unwrap();
    let name = kind.package;
    let peer = Peer::start(kind, &ca);
    let client = |arguments: &[&str]| peer.client(&ca, arguments);
    let fingerprints = || -> Vec<String> {
        let list: Value = serde_json::from_str(&client(&["image", "list", "--format", "json"]).ok()).unwrap();
        let all = list.as_array().unwrap().iter();
        all.map(|image| image["fingerprint"].as_str().unwrap().to_owned()).collect()
    };
    let forget = || fingerprints().iter().for_each(|image| drop(client(&["image", "delete", image]).ok()));

    // They launch ours, by LXD's protocol as a stranger and by simplestreams.
    let protocol = peer.kind.client.replace("lxc", "lxd");
    client(&["remote", "add", "api", &url, "--public", "--accept-certificate", &format!("--protocol={protocol}")]).ok();
    client(&["remote", "add", "streams", &url, "--public", "--protocol=simplestreams"]).ok();
    for (remote, image) in [("api", "made"), ("api", "split"), ("streams", "made"), ("streams", "split")] {
        let wanted = target(&ours, image);
        client(&["launch", &format!("{remote}:{image}"), "c"]).ok();
        assert_eq!(fingerprints(), [wanted], "{name} from {remote}: {image}");
        assert_eq!(client(&["exec", "c", "--", "cat", "/etc/passwd"]).ok(), "root:x:0:0::/root:/bin/sh\n");
        client(&["delete", "--force", "c"]).ok();
        forget();
    }
    assert!(!client(&["image", "info", &format!("api:{}", &"0".repeat(64))]).err.is_empty());

    // Each gives the other one what is private: we by a password's trust of the peer's client, in each mode.
    ours.lxc(&["config", "set", "core.trust_password", "word"]).ok();
    done(&ours, "PATCH", &format!("/1.0/images/{}", target(&ours, "made")), &json!({"public": false}));
    trust(&ours, &peer, &ca, &url);
    for mode in ["pull", "push", "relay"] {
        let wanted = target(&ours, "made");
        let alias = format!("{mode}ed");
        client(&["image", "copy", "ours:made", "local:", "--mode", mode, "--alias", &alias])
            .accepted_unless_socket(mode);
        if mode == "pull" || mode == "relay" {
            assert_eq!(fingerprints(), [wanted], "{name}: {mode}");
            forget();
        }
    }
    // From them to us: an image that they made of an instance of theirs.
    client(&["launch", "streams:split", "c"]).ok();
    client(&["stop", "--force", "c"]).ok();
    client(&["publish", "c", "--alias", "theirs"]).ok();
    client(&["publish", "c", "--alias", "open", "--public", "--compression", "zstd"]).ok();
    client(&["delete", "c"]).ok();
    let images = get(&ours, "/1.0/images?recursion=1");
    let before: Vec<Value> = images.as_array().unwrap().iter().map(|image| image["fingerprint"].clone()).collect();
    for mode in ["push", "relay"] {
        client(&["image", "copy", "theirs", "ours:", "--mode", mode, "--alias", &format!("{mode}ed")]).ok();
        // Incus leaves it to the target to name what is pushed.
        let brought = get(&ours, "/1.0/images?recursion=1");
        let theirs = brought.as_array().unwrap().iter().find(|image| !before.contains(&image["fingerprint"]));
        let theirs = theirs.unwrap_or_else(|| panic!("{name}: {mode}"));
        let fingerprint = theirs["fingerprint"].clone();
        assert_eq!(theirs["aliases"][0]["name"], format!("{mode}ed"), "{name}: {theirs}");
        launches(&ours, &json!({"type": "image", "fingerprint": fingerprint}));
        done(&ours, "DELETE", &format!("/1.0/images/{}", fingerprint.as_str().unwrap()), &json!({}));
    }
    // We pull as a stranger, and pull it once more when it has changed there.
    let source = json!({"type": "image", "mode": "pull", "protocol": "lxd", "server": peer.url, "alias": "open",
        "certificate": peer.certificate()});
    launches(&ours, &source);
    let refused = json!({"source": {"type": "image", "mode": "pull", "protocol": "lxd", "server": peer.url,
        "alias": "theirs", "certificate": peer.certificate()}});
    let (code, error, _) = ours.operation("POST", "/1.0/images", &refused.to_string());
    assert!(code == 400 && error.contains("has no image"), "{error}");
    forget();
}

/// The peer's client is trusted by us, as remote `ours`.
fn trust(ours: &Daemon, peer: &Peer, ca: &Path, url: &str) {
    if peer.kind.client == "lxc" {
        peer.client(ca, &["remote", "add", "ours", url, "--accept-certificate", "--password", "word"]).ok();
        return;
    }
    // Incus knows no passwords: its certificate is added by hand.
    let home = peer.root.join("home");
    peer.client(ca, &["remote", "generate-certificate"]).code_is(&[0, 1]);
    ours.lxc(&["config", "trust", "add", home.join("client.crt").to_str().unwrap()]).ok();
    peer.client(ca, &["remote", "add", "ours", url, "--accept-certificate", "--auth-type=tls"]).ok();
}

trait Expected {
    fn code_is(self, codes: &[i32]);
    fn accepted_unless_socket(self, mode: &str);
}

impl Expected for Said {
    #[track_caller]
    fn code_is(self, codes: &[i32]) {
        assert!(codes.contains(&self.code), "{}{}", self.out, self.err);
    }

    /// Nobody can send to a client's unix socket.
    #[track_caller]
    fn accepted_unless_socket(self, mode: &str) {
        if mode == "push" {
            assert_ne!(self.code, 0, "{}", self.out);
        } else {
            self.ok();
        }
    }
}

/// We run an instance of an image, which then goes.
#[track_caller]
fn launches(ours: &Daemon, source: &Value) {
    done(ours, "POST", "/1.0/instances", &json!({"name": "theirs", "source": source}));
    ours.lxc(&["start", "theirs"]).ok();
    assert_eq!(ours.lxc(&["exec", "theirs", "--", "cat", "/etc/passwd"]).ok(), "root:x:0:0::/root:/bin/sh\n");
    ours.lxc(&["delete", "--force", "theirs"]).ok();
}

#[test]
fn lxd_takes_images_of_ours_and_gives_its_own() {
    exchange(LXD);
}

#[test]
fn incus_takes_images_of_ours_and_gives_its_own() {
    exchange(INCUS);
}
