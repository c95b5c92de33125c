//! Instances across pools: copied, brought up to date, moved.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use serde_json::json;
use support::Daemon;
use support::caller::Caller;
use support::instances::{pulled, push, shown, snapshots};

fn pool_of(daemon: &Daemon, name: &str) -> String {
    shown(daemon, name)["expanded_devices"]["root"]["pool"].as_str().unwrap().to_owned()
}

/// Owners, modes and names of what a container changed.
fn tree(daemon: &Daemon, name: &str) -> String {
    let script = "cd /root; for f in a b link d dev fifo; do busybox stat -c '%n %u:%g %a %F %h' $f; done; cat a; ls d";
    daemon.lxc(&["exec", name, "--", "sh", "-c", script]).ok()
}

fn with_pools(one: &str, other: &str) -> Daemon {
    let daemon = Daemon::ready(one);
    daemon.lxc(&["storage", "create", "q", other]).ok();
    daemon
}

/// Copied while it runs, with its snapshots, and from a snapshot.
fn goes_across(one: &str, other: &str) {
    let daemon = with_pools(one, other);
    daemon.lxc(&["init", "bb", "c1", "-c", "user.note=one"]).ok();
    push(&daemon, "c1/root/f", "one");
    daemon.lxc(&["snapshot", "c1", "s1"]).ok();
    daemon.lxc(&["config", "set", "c1", "user.note=two"]).ok();
    daemon.lxc(&["start", "c1"]).ok();
    push(&daemon, "c1/root/f", "two");
    let script = "cd /root; echo x > a; ln a b; ln -s a link; mkdir d; echo y > d/e; busybox chown 33:34 a; \
                  busybox chmod 4755 a; busybox mkfifo fifo; echo > dev; busybox chmod 1777 d; rm /bin/hostname; \
                  rm -r /var/lib; mkdir /var/lib";
    daemon.lxc(&["exec", "c1", "--", "sh", "-c", script]).ok();

    daemon.lxc(&["copy", "c1", "c2", "-s", "q", "-c", "user.more=x"]).ok();
    assert_eq!((pool_of(&daemon, "c1").as_str(), pool_of(&daemon, "c2").as_str()), ("p", "q"));
    assert_eq!((snapshots(&daemon, "c2"), daemon.status("c2")), (vec!["s1".to_owned()], "Stopped".to_owned()));
    let copy = shown(&daemon, "c2");
    assert_eq!((&copy["config"]["user.note"], &copy["config"]["user.more"]), (&json!("two"), &json!("x")));
    daemon.lxc(&["start", "c2"]).ok();
    assert_eq!(tree(&daemon, "c2"), tree(&daemon, "c1"));
    daemon.lxc(&["exec", "c2", "--", "sh", "-c", "test ! -e /bin/hostname && test -x /bin/busybox"]).ok();
    // Its snapshots are of that pool, too.
    daemon.lxc(&["restore", "c2", "s1"]).ok();
    assert_eq!(daemon.lxc(&["exec", "c2", "--", "cat", "/root/f"]).ok(), "one");
    assert_eq!(pool_of(&daemon, "c2"), "q");
    daemon.lxc(&["snapshot", "c2", "s2"]).ok();

    daemon.lxc(&["copy", "c1/s1", "c3", "-s", "q", "--ephemeral"]).ok();
    assert_eq!((pulled(&daemon, "c3/root/f"), snapshots(&daemon, "c3")), ("one".to_owned(), Vec::new()));
    daemon.lxc(&["copy", "c1", "c4", "-s", "q", "--instance-only"]).ok();
    assert_eq!((pulled(&daemon, "c4/root/f"), snapshots(&daemon, "c4")), ("two".to_owned(), Vec::new()));
    daemon.lxc(&["copy", "c1", "c5", "-s", "none"]).refused("pool");

    // The image may go: what was copied does not need it, and back again.
    daemon.lxc(&["image", "delete", "bb"]).ok();
    daemon.lxc(&["copy", "c2", "c6", "-s", "p"]).ok();
    assert_eq!(
        (pulled(&daemon, "c6/root/f"), snapshots(&daemon, "c6")),
        ("one".to_owned(), vec!["s1".into(), "s2".into()])
    );
    daemon.lxc(&["start", "c6"]).ok();
}

#[test]
fn from_overlay_to_dir() {
    goes_across("overlay", "dir");
}

#[test]
fn from_dir_to_overlay() {
    goes_across("dir", "overlay");
}

#[test]
fn from_overlay_to_overlay() {
    goes_across("overlay", "overlay");
}

/// By the stock client's `copy --refresh`.
fn is_brought_up_to_date(driver: &str, pool: &str) {
    let daemon = with_pools(driver, "dir");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    push(&daemon, "c1/root/f", "one");
    daemon.lxc(&["snapshot", "c1", "s0"]).ok();
    daemon.lxc(&["snapshot", "c1", "s1"]).ok();
    daemon.lxc(&["copy", "c1", "c2", "-s", pool, "-c", "user.own=1"]).ok();
    let first = shown(&daemon, "c2");
    push(&daemon, "c1/root/f", "two");
    push(&daemon, "c2/root/mine", "goes");
    daemon.lxc(&["snapshot", "c1", "s2"]).ok();
    daemon.lxc(&["delete", "c1/s0"]).ok();
    daemon.lxc(&["config", "set", "c1", "user.new=1"]).ok();
    daemon.lxc(&["config", "device", "add", "c1", "eth0", "nic", "nictype=p2p"]).ok();
    daemon.lxc(&["copy", "c1", "c2", "--refresh", "-s", pool]).ok();
    assert_eq!(snapshots(&daemon, "c2"), ["s1", "s2"]);
    assert_eq!(pulled(&daemon, "c2/root/f"), "two");
    daemon.lxc(&["file", "pull", "c2/root/mine", "-"]).refused("Not Found");
    // The stock client writes the source's definition into it; what tells it from others stays its own.
    let (now, source) = (shown(&daemon, "c2"), shown(&daemon, "c1"));
    assert_eq!((now["config"].get("user.own"), &now["config"]["user.new"]), (None, &json!("1")));
    assert_eq!(now["config"]["volatile.uuid"], first["config"]["volatile.uuid"]);
    let hwaddr = "volatile.eth0.hwaddr";
    assert!(now["config"][hwaddr].is_string() && now["config"][hwaddr] != source["config"][hwaddr]);
    daemon.lxc(&["restore", "c2", "s2"]).ok();
    daemon.lxc(&["start", "c2"]).ok();
    assert_eq!(daemon.lxc(&["exec", "c2", "--", "cat", "/root/f"]).ok(), "two");
    daemon.lxc(&["copy", "c1", "c2", "--refresh"]).refused("Instance is running");
    daemon.lxc(&["stop", "c2", "--force"]).ok();
    push(&daemon, "c1/root/f", "three");
    daemon.lxc(&["copy", "c1", "c2", "--refresh", "--instance-only", "-s", pool]).ok();
    assert_eq!((pulled(&daemon, "c2/root/f"), snapshots(&daemon, "c2").len()), ("three".to_owned(), 2));
    // Where there is none, one is made.
    daemon.lxc(&["copy", "c1", "c3", "--refresh"]).ok();
    assert_eq!(
        (pulled(&daemon, "c3/root/f"), snapshots(&daemon, "c3")),
        ("three".to_owned(), vec!["s1".into(), "s2".into()])
    );
    let body = json!({"name": "c1", "source": {"type": "copy", "source": "c1", "refresh": true}}).to_string();
    daemon.lxc(&["stop", "c1", "--force"]).ok();
    let answer = Caller { socket: daemon.socket() }.call("POST", "/1.0/instances", &body).unwrap();
    assert!(answer["metadata"]["err"].as_str().unwrap().contains("already exists"), "{answer}");
}

#[test]
fn a_copy_in_its_own_pool_is_brought_up_to_date() {
    is_brought_up_to_date("overlay", "p");
}

#[test]
fn a_copy_in_another_pool_is_brought_up_to_date() {
    is_brought_up_to_date("overlay", "q");
}

#[test]
fn two_that_are_copies_of_each_other_are_brought_up_to_date_at_once() {
    let daemon = Daemon::ready("dir");
    for name in ["c1", "c2"] {
        daemon.lxc(&["init", "bb", name]).ok();
    }
    std::thread::scope(|scope| {
        for (name, source) in [("c1", "c2"), ("c2", "c1"), ("c1", "c2"), ("c2", "c1")] {
            let caller = Caller { socket: daemon.socket() };
            let body = json!({"name": name, "source": {"type": "copy", "source": source, "refresh": true}});
            scope.spawn(move || {
                let answer = caller.call("POST", "/1.0/instances", &body.to_string()).unwrap();
                assert_eq!(answer["metadata"]["status_code"], 200, "{answer}");
            });
        }
    });
}

fn is_moved(one: &str, other: &str) {
    let daemon = with_pools(one, other);
    daemon.lxc(&["init", "bb", "c1"]).ok();
    push(&daemon, "c1/root/f", "one");
    daemon.lxc(&["snapshot", "c1", "s1"]).ok();
    push(&daemon, "c1/root/f", "two");
    let before = shown(&daemon, "c1");
    daemon.lxc(&["start", "c1"]).ok();
    daemon.lxc(&["move", "c1", "-s", "q"]).refused("stop it");
    daemon.lxc(&["stop", "c1", "--force"]).ok();
    daemon.lxc(&["move", "c1", "-s", "none"]).refused("not found");
    daemon.lxc(&["move", "c1", "-s", "q"]).ok();
    let after = shown(&daemon, "c1");
    assert_eq!(after["devices"]["root"], json!({"type": "disk", "path": "/", "pool": "q"}));
    assert_eq!(after["config"]["volatile.uuid"], before["config"]["volatile.uuid"]);
    assert_eq!((pulled(&daemon, "c1/root/f"), snapshots(&daemon, "c1")), ("two".to_owned(), vec!["s1".to_owned()]));
    for place in ["containers/c1", "containers-snapshots/c1"] {
        assert!(!daemon.state().join("storage-pools/p").join(place).exists());
        assert!(daemon.state().join("storage-pools/q").join(place).exists());
    }
    daemon.lxc(&["move", "c1", "c1", "-s", "q"]).ok();
    daemon.lxc(&["start", "c1"]).ok();
    daemon.lxc(&["restore", "c1", "s1"]).ok();
    assert_eq!(daemon.lxc(&["exec", "c1", "--", "cat", "/root/f"]).ok(), "one");
    daemon.lxc(&["stop", "c1", "--force"]).ok();
    daemon.lxc(&["move", "c1", "c2", "-s", "p", "--instance-only"]).ok();
    assert_eq!((daemon.status("c1").as_str(), pool_of(&daemon, "c2").as_str()), ("none", "p"));
    assert!(snapshots(&daemon, "c2").is_empty());
    daemon.lxc(&["start", "c2"]).ok();
    assert_eq!(daemon.lxc(&["exec", "c2", "--", "cat", "/root/f"]).ok(), "one");
    // Nothing of it is left where it was.
    daemon.lxc(&["storage", "delete", "q"]).ok();
}

#[test]
fn an_instance_moves_from_overlay_to_dir() {
    is_moved("overlay", "dir");
}

#[test]
fn an_instance_moves_from_dir_to_overlay() {
    is_moved("dir", "overlay");
}
