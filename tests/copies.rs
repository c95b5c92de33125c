//! Copies of instances within a pool.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use support::Daemon;
use support::instances::{pulled, push, shown, snapshots};

/// Of one that runs, of one that is down, of a snapshot; with snapshots and without.
fn is_copied(driver: &str) {
    let daemon = Daemon::ready(driver);
    daemon.lxc(&["init", "bb", "c1", "-c", "user.note=one"]).ok();
    daemon.lxc(&["config", "device", "add", "c1", "eth0", "nic", "nictype=p2p"]).ok();
    push(&daemon, "c1/root/f", "one");
    daemon.lxc(&["snapshot", "c1", "s1"]).ok();
    daemon.lxc(&["config", "set", "c1", "user.note=two"]).ok();
    daemon.lxc(&["start", "c1"]).ok();
    push(&daemon, "c1/root/f", "two");
    let owned = |name: &str| daemon.lxc(&["exec", name, "--", "busybox", "stat", "-c", "%u:%g", "/root/f"]).ok();
    daemon.lxc(&["exec", "c1", "--", "busybox", "chown", "33:34", "/root/f"]).ok();

    daemon.lxc(&["copy", "c1", "c2", "-c", "user.more=x"]).ok();
    assert_eq!(daemon.status("c2"), "Stopped");
    let (of, copy) = (shown(&daemon, "c1"), shown(&daemon, "c2"));
    assert_eq!((&copy["config"]["user.note"], &copy["config"]["user.more"]), (&json!("two"), &json!("x")));
    for own in ["volatile.uuid", "volatile.eth0.hwaddr"] {
        assert!(copy["config"][own].is_string() && copy["config"][own] != of["config"][own], "{own}");
    }
    assert_eq!(copy["config"]["volatile.base_image"], of["config"]["volatile.base_image"]);
    assert!(copy["config"].get("volatile.last_state.power").is_none_or(|power| power == "STOPPED"));
    assert_eq!(pulled(&daemon, "c2/root/f"), "two");
    assert_eq!(snapshots(&daemon, "c2"), ["s1"]);
    assert_eq!(copy["snapshots"][0]["created_at"], of["snapshots"][0]["created_at"]);

    daemon.lxc(&["start", "c2"]).ok();
    assert_eq!((owned("c1"), owned("c2")), ("33:34\n".to_owned(), "33:34\n".to_owned()));
    daemon.lxc(&["stop", "c2", "--force"]).ok();

    // What is done to one is not done to the other.
    push(&daemon, "c2/root/f", "copy");
    daemon.lxc(&["restore", "c2", "s1"]).ok();
    assert_eq!(pulled(&daemon, "c2/root/f"), "one");
    // Not the address that its source has.
    let hwaddr = |name: &str| shown(&daemon, name)["config"]["volatile.eth0.hwaddr"].clone();
    assert_ne!(hwaddr("c2"), hwaddr("c1"));
    assert_eq!(daemon.lxc(&["exec", "c1", "--", "cat", "/root/f"]).ok(), "two");
    daemon.lxc(&["start", "c2"]).ok();
    assert_eq!(daemon.lxc(&["exec", "c2", "--", "cat", "/root/f"]).ok(), "one");

    daemon.lxc(&["copy", "c1/s1", "c3"]).ok();
    assert_eq!(pulled(&daemon, "c3/root/f"), "one");
    assert_eq!(shown(&daemon, "c3")["config"]["user.note"], "one");
    assert!(snapshots(&daemon, "c3").is_empty());
    daemon.lxc(&["stop", "c1", "--force"]).ok();
    daemon.lxc(&["copy", "c1", "c4", "--instance-only", "--ephemeral"]).ok();
    assert!(snapshots(&daemon, "c4").is_empty());
    assert_eq!(shown(&daemon, "c4")["ephemeral"], true);
    daemon.lxc(&["delete", "c1"]).ok();
    assert_eq!((pulled(&daemon, "c4/root/f"), pulled(&daemon, "c3/root/f")), ("two".into(), "one".into()));
    daemon.lxc(&["restore", "c2", "s1"]).ok();
}

#[test]
fn an_instance_of_an_overlay_pool_is_copied() {
    is_copied("overlay");
}

#[test]
fn an_instance_of_a_dir_pool_is_copied() {
    is_copied("dir");
}

#[test]
fn an_instance_of_a_btrfs_pool_is_copied() {
    is_copied("btrfs");
}

#[test]
fn what_is_wrong_is_refused_and_nothing_stays() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    daemon.lxc(&["storage", "create", "q", "dir"]).ok();
    for (source, code) in [
        (json!({"type": "copy", "source": "nosuch"}), 404),
        (json!({"type": "copy", "source": "c1/nosuch"}), 404),
        (json!({"type": "copy", "source": "a b"}), 404),
        (json!({"type": "copy", "source": "c1", "project": "nosuch"}), 404),
        (json!({"type": "copy"}), 400),
        (json!({"type": "copy", "source": 5}), 400),
        (json!({"type": "copy", "source": "c1/a b"}), 400),
    ] {
        let body = json!({"name": "c2", "source": source}).to_string();
        let (got, said) = daemon.api("POST", "/1.0/instances", &body);
        assert_eq!(got, code, "{source}: {said}");
    }
    let to = |name: &str, more: Value| {
        let mut body = json!({"name": name, "source": {"type": "copy", "source": "c1"}});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        daemon.api("POST", "/1.0/instances", &body.to_string()).0
    };
    assert_eq!(to("c1", json!({})), 409);
    assert_eq!(to("c2", json!({"config": {"limits.memory": "lots"}})), 400);
    assert_eq!(to("c2", json!({"profiles": ["nosuch"]})), 404);
    assert_eq!(to("c2", json!({"devices": {"root": {"type": "disk", "path": "/", "pool": "none"}}})), 400);
    assert_eq!(daemon.status("c2"), "none");
}
