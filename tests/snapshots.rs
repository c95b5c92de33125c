//! Snapshots of instances: what they keep, what goes back, what a crash leaves.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::PathBuf;

use serde_json::{Value, json};
use support::Daemon;

fn snapshots(daemon: &Daemon, instance: &str) -> Vec<String> {
    let (code, list) = daemon.api("GET", &format!("/1.0/instances/{instance}/snapshots?recursion=1"), "");
    assert_eq!(code, 200, "{list}");
    list["metadata"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

fn snapshot(daemon: &Daemon, instance: &str, name: &str) -> Value {
    daemon.api("GET", &format!("/1.0/instances/{instance}/snapshots/{name}"), "").1["metadata"].clone()
}

fn push(daemon: &Daemon, place: &str, text: &str) {
    daemon.lxc_with_input(&["file", "push", "-", place], text.as_bytes()).ok();
}

fn pulled(daemon: &Daemon, place: &str) -> String {
    daemon.lxc(&["file", "pull", place, "-"]).ok()
}

/// Files and definition go back, of one that is down and of one that runs, which runs again.
fn goes_back(driver: &str) {
    let daemon = Daemon::ready(driver);
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    push(&daemon, "c1/root/f", "one");
    daemon.lxc(&["config", "set", "c1", "user.note=one"]).ok();
    daemon.lxc(&["snapshot", "c1", "running"]).ok();
    push(&daemon, "c1/root/f", "two");
    daemon.lxc(&["stop", "c1", "--force"]).ok();
    daemon.lxc(&["snapshot", "c1"]).ok();
    daemon.lxc(&["config", "set", "c1", "user.note=three"]).ok();
    push(&daemon, "c1/root/f", "three");
    push(&daemon, "c1/root/new", "three");
    assert_eq!(snapshots(&daemon, "c1"), ["running", "snap0"]);
    assert_eq!(snapshot(&daemon, "c1", "running")["config"]["user.note"], "one");

    daemon.lxc(&["restore", "c1", "snap0"]).ok();
    assert_eq!(daemon.status("c1"), "Stopped");
    assert_eq!(pulled(&daemon, "c1/root/f"), "two");
    daemon.lxc(&["file", "pull", "c1/root/new", "-"]).refused("");
    assert_eq!(daemon.lxc(&["config", "get", "c1", "user.note"]).ok().trim(), "one");

    daemon.lxc(&["start", "c1"]).ok();
    let uuid = daemon.lxc(&["config", "get", "c1", "volatile.uuid"]).ok();
    daemon.lxc(&["restore", "c1", "running"]).ok();
    assert_eq!(daemon.status("c1"), "Running");
    assert_eq!(daemon.lxc(&["exec", "c1", "--", "cat", "/root/f"]).ok(), "one");
    assert_eq!(daemon.lxc(&["config", "get", "c1", "volatile.uuid"]).ok(), uuid);
    // A snapshot stays what it was whatever is written after it went back to it.
    push(&daemon, "c1/root/f", "four");
    daemon.lxc(&["restore", "c1", "running"]).ok();
    assert_eq!(daemon.lxc(&["exec", "c1", "--", "cat", "/root/f"]).ok(), "one");

    daemon.lxc(&["rename", "c1", "c2"]).refused("running");
    daemon.lxc(&["stop", "c1", "--force"]).ok();
    daemon.lxc(&["rename", "c1", "c2"]).ok();
    daemon.lxc(&["move", "c2/snap0", "c2/kept"]).ok();
    assert_eq!(snapshots(&daemon, "c2"), ["running", "kept"]);
    let used = daemon.api("GET", "/1.0/storage-pools/p", "").1["metadata"]["used_by"].clone();
    for snapshot in ["running", "kept"] {
        let url = json!(format!("/1.0/instances/c2/snapshots/{snapshot}"));
        assert!(used.as_array().unwrap().contains(&url), "{used}");
    }
    daemon.lxc(&["restore", "c2", "kept"]).ok();
    assert_eq!(pulled(&daemon, "c2/root/f"), "two");
    daemon.lxc(&["delete", "c2/running"]).ok();
    assert!(daemon.state().join("snapshots/c2/kept/rootfs").is_dir());
    daemon.lxc(&["delete", "c2/kept"]).ok();
    assert!(!daemon.state().join("snapshots/c2").exists());
    daemon.lxc(&["snapshot", "c2", "last"]).ok();
    daemon.lxc(&["delete", "c2"]).ok();
    assert!(!daemon.state().join("snapshots/c2").exists());
}

#[test]
fn an_instance_of_an_overlay_pool_goes_back() {
    goes_back("overlay");
}

#[test]
fn an_instance_of_a_dir_pool_goes_back() {
    goes_back("dir");
}

#[test]
fn an_instance_of_a_btrfs_pool_goes_back() {
    goes_back("btrfs");
}

/// More than a volume may have layers: each still has its own content.
#[test]
fn many_snapshots_each_keep_their_own() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    for number in 0..12 {
        push(&daemon, "c1/root/f", &number.to_string());
        push(&daemon, &format!("c1/root/f{number}"), "");
        daemon.lxc(&["snapshot", "c1"]).ok();
    }
    for number in [0, 7, 11, 3] {
        daemon.lxc(&["restore", "c1", &format!("snap{number}")]).ok();
        assert_eq!(pulled(&daemon, "c1/root/f"), number.to_string());
        daemon.lxc(&["file", "pull", &format!("c1/root/f{}", number + 1), "-"]).refused("");
    }
    daemon.lxc(&["delete", "c1"]).ok();
    let layers: PathBuf = daemon.state().join("storage-pools/p/layers");
    support::eventually("its layers went", || std::fs::read_dir(&layers).unwrap().count() == 0);
}

#[test]
fn what_is_wrong_is_refused_and_changes_nothing() {
    let daemon = Daemon::ready("dir");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    daemon.lxc(&["snapshot", "c1", "s"]).ok();
    let url = "/1.0/instances/c1/snapshots";
    for (name, code) in [("..", 400), (".", 400), ("a b", 400), ("a/b", 400), ("a\nb", 400), ("s", 409)] {
        let (got, said) = daemon.api("POST", url, &json!({"name": name}).to_string());
        assert_eq!(got, code, "{name}: {said}");
        let (got, said) = daemon.api("POST", &format!("{url}/s"), &json!({"name": name}).to_string());
        assert_eq!(got, code, "{name}: {said}");
    }
    for body in [r#"{"name":5}"#, r#"{"expires_at":"soon"}"#, r#"{"stateful":true}"#, "[]"] {
        let (got, said) = daemon.api("POST", url, body);
        assert_eq!(got, 400, "{body}: {said}");
    }
    for (method, place, body) in [
        ("GET", "/nosuch", ""),
        ("DELETE", "/nosuch", ""),
        ("POST", "/nosuch", r#"{"name":"x"}"#),
        ("PUT", "/nosuch", "{}"),
        ("GET", "/..%2f..", ""),
    ] {
        assert_eq!(daemon.api(method, &format!("{url}{place}"), body).0, 404, "{method} {place}");
    }
    assert_eq!(daemon.api("PUT", "/1.0/instances/c1", r#"{"restore":"nosuch"}"#).0, 404);
    daemon.lxc(&["config", "set", "c1", "snapshots.pattern={{ now }}"]).refused("snapshots.pattern");
    assert_eq!(snapshots(&daemon, "c1"), ["s"]);
}

#[test]
fn a_snapshot_has_its_time_and_expiry() {
    let daemon = Daemon::ready("dir");
    daemon.lxc(&["init", "bb", "c1", "-c", "snapshots.expiry=1d", "-c", "snapshots.pattern=at-%d"]).ok();
    daemon.lxc(&["snapshot", "c1"]).ok();
    let made = snapshot(&daemon, "c1", "at-0");
    assert_ne!(made["expires_at"], "0001-01-01T00:00:00Z");
    daemon.lxc(&["snapshot", "c1", "kept", "--no-expiry"]).ok();
    assert_eq!(snapshot(&daemon, "c1", "kept")["expires_at"], "0001-01-01T00:00:00Z");
    let (code, _) = daemon.api("PATCH", "/1.0/instances/c1/snapshots/kept", r#"{"expires_at":"2040-01-02T03:04:05Z"}"#);
    assert_eq!(code, 202);
    support::eventually("it has another expiry", || {
        snapshot(&daemon, "c1", "kept")["expires_at"] == "2040-01-02T03:04:05Z"
    });
    let full = daemon.api("GET", "/1.0/instances/c1?recursion=1", "").1;
    assert_eq!(full["metadata"]["snapshots"].as_array().unwrap().len(), 2);
}

#[test]
fn they_are_made_and_deleted_by_the_clock() {
    let daemon = Daemon::ready("overlay");
    for (name, stopped) in [("c1", "true"), ("c2", "false")] {
        let stopped = format!("snapshots.schedule.stopped={stopped}");
        let schedule = "snapshots.schedule=30 4 * * *";
        daemon.lxc(&["init", "bb", name, "-c", schedule, "-c", &stopped, "-c", "snapshots.expiry=10y"]).ok();
    }
    let round = |at: &str| {
        let (code, said) = daemon.api("PUT", "/internal/schedule", &json!({"at": at}).to_string());
        assert_eq!(code, 200, "{said}");
    };
    round("2030-05-06T04:31:00Z");
    assert!(snapshots(&daemon, "c1").is_empty());
    round("2030-05-06T04:30:00Z");
    assert_eq!(snapshots(&daemon, "c1"), ["snap0"]);
    assert!(snapshots(&daemon, "c2").is_empty(), "it does not run");
    daemon.lxc(&["start", "c2"]).ok();
    round("2030-05-06T04:30:20Z");
    assert_eq!((snapshots(&daemon, "c1").len(), snapshots(&daemon, "c2").len()), (2, 1));
    round("2130-05-06T05:31:00Z");
    assert!(snapshots(&daemon, "c1").is_empty() && snapshots(&daemon, "c2").is_empty());
}
