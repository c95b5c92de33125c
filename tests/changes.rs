//! PUT and PATCH when several clients change one object: none overwrites what another wrote without being told.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use support::{Daemon, eventually};

const CLIENTS: usize = 12;

fn at_once<T: Send>(what: impl Fn(usize) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let what = &what;
        let threads: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || what(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn of_changes_at_once_none_is_lost_and_of_those_to_one_state_one_is_made() {
    let mut daemon = Daemon::ready("dir");
    let bridge = format!("wc{:x}", std::process::id() % 0xfffff);
    daemon.lxc(&["network", "create", &bridge, "ipv4.address=none", "ipv6.address=none"]).ok();
    daemon.lxc(&["init", "bb", "c1"]).ok();
    let (_, alias) = daemon.api("GET", "/1.0/images/aliases/bb", "");
    let image = format!("/1.0/images/{}", alias["metadata"]["target"].as_str().unwrap());
    for (url, map) in [
        ("/1.0", "config"),
        ("/1.0/instances/c1", "config"),
        ("/1.0/instances/c1/metadata", "properties"),
        ("/1.0/profiles/default", "config"),
        (&image, "properties"),
        (&format!("/1.0/networks/{bridge}"), "config"),
        ("/1.0/storage-pools/p", "config"),
    ] {
        let patch = |n: usize| json!({map: {format!("user.k{n}"): "v"}}).to_string();
        let answers = at_once(|n| daemon.api("PATCH", url, &patch(n)));
        assert!(answers.iter().all(|answer| answer.0 == 200), "{url}: {answers:?}");
        let object = daemon.ask("GET", url, &[], b"");
        let there = |body: &[u8]| {
            let object: Value = serde_json::from_slice(body).unwrap();
            (0..CLIENTS).filter(|n| object["metadata"][map][format!("user.k{n}")] == "v").count()
        };
        assert_eq!(there(&object.body), CLIENTS, "{url}");

        // All have seen the same; the first wins and the others are told.
        let tag = [("If-Match", object.header("etag")), ("Content-Type", "application/json")];
        let change = |n: usize| json!({map: {format!("user.k{n}"): "new"}}).to_string();
        let mut answers = at_once(|n| daemon.api_raw("PATCH", url, &tag, change(n).as_bytes()).0);
        answers.sort_unstable();
        assert_eq!(answers[0], 200, "{url}: {answers:?}");
        assert!(answers[1..].iter().all(|status| *status == 412), "{url}: {answers:?}");
        assert_eq!(there(&daemon.ask("GET", url, &[], b"").body), CLIENTS - 1, "{url}");
    }
    daemon.lxc(&["network", "delete", &bridge]).ok();
    daemon.terminate();
    daemon.start();
    let (_, answer) = daemon.api("GET", "/1.0/instances/c1", "");
    let config = answer["metadata"]["config"].as_object().unwrap();
    assert_eq!(config.keys().filter(|key| key.starts_with("user.")).count(), CLIENTS, "durable: {config:?}");
}

#[test]
fn what_several_ask_for_at_once_is_done_once() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    let start = r#"{"action":"start"}"#;
    // The daemon sees them all when it looks again: none comes after the first has been done.
    daemon.signal("STOP");
    let started = std::thread::scope(|scope| {
        let all = scope.spawn(|| at_once(|_| daemon.operation("PUT", "/1.0/instances/c1/state", start)));
        // Connections that nobody has accepted yet stand there by the listener's name, which is the one that it was made
        // with, beside the listener itself.
        let socket = daemon.state().join(format!("unix.{}", daemon.pid())).display().to_string();
        eventually("all have asked", || {
            let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
            sockets.lines().filter(|line| line.ends_with(&socket)).count() > CLIENTS
        });
        daemon.signal("CONT");
        all.join().unwrap()
    });
    let codes: Vec<u64> = started.iter().map(|(code, ..)| *code).collect();
    assert_eq!(codes, [200; CLIENTS], "{started:?}");
    assert_eq!(daemon.operation("PUT", "/1.0/instances/c1/state", start).0, 400, "it ran before that");
    daemon.lxc(&["profile", "create", "é%"]).ok();
    assert_eq!(
        daemon.api("GET", "/1.0/profiles", "").1["metadata"],
        json!(["/1.0/profiles/default", "/1.0/profiles/docker", "/1.0/profiles/%C3%A9%25"])
    );
    let image = daemon.api("GET", "/1.0/images/aliases/bb", "").1["metadata"]["target"].as_str().unwrap().to_owned();
    daemon.lxc(&["image", "alias", "create", "other", &image]).ok();
    for url in ["/1.0/profiles/%C3%A9%25", "/1.0/images/aliases/other"] {
        let mut deleted = at_once(|_| daemon.api("DELETE", url, "").0);
        deleted.sort_unstable();
        assert_eq!((deleted[0], &deleted[1..]), (200, &[404; CLIENTS - 1][..]), "{url}");
    }
}

/// A PUT is the whole object, a PATCH what it names; `null` names nothing. As LXD 5.0.2.
#[test]
fn a_put_without_profiles_takes_them_away_and_a_patch_leaves_them() {
    let daemon = Daemon::ready("dir");
    let root = json!({"root": {"type": "disk", "path": "/", "pool": "p"}});
    let body = json!({"name": "c1", "source": {"type": "none"}, "devices": root, "description": "d"});
    assert_eq!(daemon.operation("POST", "/1.0/instances", &body.to_string()).0, 200);
    let shown = || {
        let (_, answer) = daemon.api("GET", "/1.0/instances/c1", "");
        (answer["metadata"]["profiles"].clone(), answer["metadata"]["description"].clone())
    };
    for part in [json!({}), json!({"profiles": null, "description": null, "config": null})] {
        assert_eq!(daemon.api("PATCH", "/1.0/instances/c1", &part.to_string()).0, 200);
        assert_eq!(shown(), (json!(["default"]), json!("d")), "{part}");
    }
    daemon.lxc(&["profile", "assign", "c1", ""]).ok();
    assert_eq!(shown(), (json!([]), json!("d")));
    daemon.lxc(&["profile", "assign", "c1", "default"]).ok();
    let whole = json!({"devices": root, "description": "e"}).to_string();
    let uuid = || daemon.lxc(&["config", "get", "c1", "volatile.uuid"]).ok();
    let before = uuid();
    assert_eq!(daemon.operation("PUT", "/1.0/instances/c1", &whole).0, 200);
    assert_eq!(shown(), (json!([]), json!("e")));
    assert_eq!((uuid(), before.len()), (before.clone(), 37), "it is the same instance");
    // It can be without a root for a while, but not start without one.
    assert_eq!(daemon.operation("PUT", "/1.0/instances/c1", "{}").0, 200);
    daemon.lxc(&["start", "c1"]).refused("No root device");
    daemon.lxc(&["profile", "assign", "c1", "default"]).ok();
    assert_eq!(shown(), (json!(["default"]), json!("")));
}

#[test]
fn odd_changes_do_what_lxd_does_or_say_why_not() {
    let daemon = Daemon::ready("dir");
    daemon.lxc(&["init", "bb", "c1", "-c", "user.a=b"]).ok();
    let url = "/1.0/instances/c1";
    let patch = |body: Value| daemon.api("PATCH", url, &body.to_string());
    // YAML without a value.
    assert_eq!(patch(json!({"config": {"user.a": null}, "devices": {"root2": null}})).0, 400, "a device needs a type");
    assert_eq!(patch(json!({"config": {"user.a": null}})).0, 200);
    assert_eq!(daemon.lxc(&["config", "get", "c1", "user.a"]).ok().trim(), "");
    assert_eq!(patch(json!({"restore": "snap"})).0, 400);
    let refused = patch(json!({"config": {"volatile.foo": "x"}})).1;
    assert!(refused["error"].as_str().unwrap().contains("\"volatile.foo\""), "{refused}");
    assert_eq!(patch(json!({"config": {"volatile.eth0.hwaddr": "00:16:3e:00:00:01"}})).0, 200);
    assert_eq!(patch(json!({"architecture": "i686"})).0, 200);
    assert_eq!(daemon.api("GET", url, "").1["metadata"]["architecture"], "i686");
    let refused = patch(json!({"architecture": "s390x"})).1;
    assert!(refused["error"].as_str().unwrap().contains("architecture"), "{refused}");
    // What the daemon notes for itself changes nothing that a client saw, but for what the first start applies.
    assert_eq!(patch(json!({"architecture": "x86_64"})).0, 200);
    daemon.lxc(&["start", "c1"]).ok();
    daemon.lxc(&["stop", "--force", "c1"]).ok();
    let seen = daemon.ask("GET", url, &[], b"");
    daemon.lxc(&["start", "c1"]).ok();
    daemon.lxc(&["stop", "--force", "c1"]).ok();
    let tag = [("If-Match", seen.header("etag")), ("Content-Type", "application/json")];
    assert_eq!(daemon.api_raw("PATCH", url, &tag, br#"{"description":"new"}"#).0, 200);
    assert_eq!(daemon.api_raw("PATCH", url, &tag, br#"{"description":"newer"}"#).0, 412);
    // A body that was lost on its way is no empty object.
    for (method, path) in [("PUT", "/1.0"), ("PUT", url), ("PATCH", url), ("PUT", "/1.0/profiles/default")] {
        let (status, answer) = daemon.api(method, path, "");
        assert_eq!((status, answer["error"].as_str().unwrap().contains("empty")), (400, true), "{method} {path}");
    }
    let (_, alias) = daemon.api("GET", "/1.0/images/aliases/bb", "");
    let fingerprint = alias["metadata"]["target"].as_str().unwrap();
    assert_eq!(daemon.api("GET", &format!("/1.0/images/{}", fingerprint.to_uppercase()), "").0, 200);
    let alias = json!({"name": "a b:c", "target": fingerprint}).to_string();
    assert_eq!(daemon.api("POST", "/1.0/images/aliases", &alias).0, 201);
    assert_eq!(daemon.api("GET", "/1.0/images/aliases/a%20b:c", "").0, 200);
    // What a hidden value is shown as sets none.
    assert_eq!(daemon.api("PATCH", "/1.0", r#"{"config":{"core.trust_password":true}}"#).0, 200);
    assert_eq!(daemon.api("GET", "/1.0", "").1["metadata"]["config"]["core.trust_password"], Value::Null);
}

/// Ours: LXD has no such thing.
#[test]
fn a_dry_run_tells_what_would_happen_and_does_nothing() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "up"]).ok();
    daemon.lxc(&["init", "bb", "down"]).ok();
    let before = ["/1.0/instances?recursion=1", "/1.0/profiles?recursion=1"].map(|url| daemon.api("GET", url, "").1);
    let ask = |method: &str, path: &str, body: Value| {
        let (status, answer) = daemon.api(method, &format!("{path}?dry-run=1"), &body.to_string());
        (status, answer["metadata"]["instances"].clone(), answer["error"].as_str().unwrap().to_owned())
    };
    let config = json!({"config": {"limits.memory": "64MiB", "security.nesting": "true", "user.a": "b"}});
    let key = |key: &str, new: &str, effect: &str| json!({"key": key, "old": "", "new": new, "effect": effect});
    let (status, instances, _) = ask("PATCH", "/1.0/instances/up", config.clone());
    let now =
        [key("limits.memory", "64MiB", "now"), key("security.nesting", "true", "restart"), key("user.a", "b", "now")];
    assert_eq!((status, instances), (200, json!([{"name": "up", "running": true, "config": now, "devices": []}])));
    let (_, instances, _) = ask("PATCH", "/1.0/profiles/default", config);
    let later = ["limits.memory", "security.nesting", "user.a"].map(|name| {
        key(name, now.iter().find(|key| key["key"] == name).unwrap()["new"].as_str().unwrap(), "next start")
    });
    assert_eq!(instances[0], json!({"name": "down", "running": false, "config": later, "devices": []}));
    assert_eq!(instances[1]["config"], json!(now));
    let devices = json!({"devices": {"eth0": {"type": "nic", "nictype": "p2p"}}});
    let (_, instances, _) = ask("PATCH", "/1.0/instances/up", devices);
    assert_eq!(instances[0]["devices"], json!([{"name": "eth0", "effect": "now"}]));
    // What would be refused is refused, by the same word.
    for (method, path, body, status) in [
        ("PATCH", "/1.0/instances/up", json!({"config": {"limits.memory": "lots"}}), 400),
        ("PUT", "/1.0/instances/up", json!({"profiles": ["nosuch"]}), 404),
        ("PUT", "/1.0/profiles/default", json!({}), 400),
        ("POST", "/1.0/instances", json!({"name": "up", "source": {"type": "none"}}), 409),
        ("POST", "/1.0/instances", json!({"name": "new", "source": {"type": "image", "alias": "nosuch"}}), 404),
        ("POST", "/1.0/profiles", json!({"name": "default"}), 409),
        ("POST", "/1.0/instances", json!({"name": "new", "source": {"type": "image", "alias": "bb"}}), 200),
        ("POST", "/1.0/profiles", json!({"name": "new"}), 200),
    ] {
        let (found, _, error) = ask(method, path, body);
        assert_eq!(found, status, "{method} {path}: {error}");
    }
    // What cannot be tried is refused, and not done.
    for (method, path, body) in [
        ("POST", "/1.0/instances/down", json!({"name": "other"})),
        ("POST", "/1.0/profiles/default", json!({"name": "other"})),
        ("DELETE", "/1.0/instances/down", json!({})),
        ("PUT", "/1.0/instances/up/state", json!({"action": "stop", "force": true})),
        ("PUT", "/1.0/instances", json!({"state": {"action": "stop"}})),
        ("POST", "/1.0/instances/up/snapshots", json!({"name": "s"})),
        ("PATCH", "/1.0", json!({"config": {"user.x": "y"}})),
    ] {
        let (found, _, error) = ask(method, path, body);
        assert!(found >= 400 && error.contains("dry run"), "{method} {path}: {found} {error}");
    }
    for word in ["2", ""] {
        let path = format!("/1.0/instances/down?dry-run={word}");
        assert_eq!(daemon.api("PATCH", &path, r#"{"config":{"user.x":"y"}}"#).0, 400);
    }
    let after = ["/1.0/instances?recursion=1", "/1.0/profiles?recursion=1"].map(|url| daemon.api("GET", url, "").1);
    assert_eq!(before, after);
}

#[test]
fn a_profile_that_one_cannot_follow_leaves_the_interfaces_of_the_others_alone() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["profile", "create", "q"]).ok();
    daemon.lxc(&["profile", "device", "add", "q", "e0", "nic", "nictype=p2p", "name=eth0"]).ok();
    for name in ["a", "b"] {
        daemon.lxc(&["launch", "bb", name, "-p", "default", "-p", "q"]).ok();
    }
    daemon.lxc(&["exec", "a", "--", "ip", "addr", "add", "10.9.0.1/24", "dev", "eth0"]).ok();
    // What is written there is memory that cannot be given up.
    daemon
        .lxc(&[
            "exec",
            "b",
            "--",
            "sh",
            "-c",
            "busybox mount -t tmpfs none /tmp && busybox dd if=/dev/zero of=/tmp/x bs=1M count=64",
        ])
        .ok();
    let before = daemon.lxc(&["exec", "a", "--", "ip", "addr", "show", "eth0"]).ok();
    let (status, answer) = daemon.api("PUT", "/1.0/profiles/q", r#"{"config":{"limits.memory":"8MiB"},"devices":{}}"#);
    assert_eq!(status, 400, "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("b: Configuration key \"limits.memory\""), "{answer}");
    let after = daemon.lxc(&["exec", "a", "--", "ip", "addr", "show", "eth0"]).ok();
    assert!(after.contains("10.9.0.1/24"), "{after}");
    // The same interface, by its number.
    assert_eq!(before.split(':').next(), after.split(':').next());
}
