//! Verbs that take instances from one pool to another: from `p` to `q`.

use serde_json::json;

use super::containers::{is_one_of, remove, url};
use super::snapshots::{is_whole, names, running_with_snapshot, with_snapshot};
use super::support::Daemon;
use super::support::caller::Caller;
use super::{Verb, done, shown};

fn copy(caller: &Caller, name: &str, refresh: bool) {
    let source = json!({"type": "copy", "source": name, "refresh": refresh});
    let root = json!({"type": "disk", "path": "/", "pool": "q"});
    let body = json!({"name": format!("{name}-new"), "source": source, "devices": {"root": root}});
    caller.call("POST", "/1.0/instances", &body.to_string());
}

fn is_copied_or_not(daemon: &Daemon, name: &str) {
    let new = format!("{name}-new");
    if daemon.status(&new) != "none" {
        assert_eq!(names(daemon, &new), ["one"]);
        is_whole(daemon, &new, &["two"]);
    }
    is_whole(daemon, name, &["two"]);
}

fn change(daemon: &Daemon, name: &str, text: &str) {
    let place = format!("{}/files?path=/root/f", url(name));
    assert_eq!(daemon.ask("POST", &place, &[("X-LXD-type", "file")], text.as_bytes()).status, 200);
}

pub(super) const ACROSS: &[Verb] = &[
    Verb {
        name: "copy one that is down to another pool",
        prepare: with_snapshot,
        act: |caller, name| copy(caller, name, false),
        holds: is_copied_or_not,
        tidy: remove,
    },
    Verb {
        name: "copy one that runs to another pool",
        prepare: running_with_snapshot,
        act: |caller, name| copy(caller, name, false),
        holds: |daemon, name| {
            is_one_of(daemon, name, &["Running"]);
            is_copied_or_not(daemon, name);
        },
        tidy: remove,
    },
    Verb {
        name: "bring a copy in another pool up to date",
        prepare: |daemon, name| {
            with_snapshot(daemon, name);
            copy(&Caller { socket: daemon.socket() }, name, false);
            done(daemon, "POST", &format!("{}/snapshots", url(name)), r#"{"name":"two"}"#);
            done(daemon, "DELETE", &format!("{}/snapshots/one", url(name)), "");
            change(daemon, name, "one");
        },
        act: |caller, name| copy(caller, name, true),
        holds: |daemon, name| {
            let new = format!("{name}-new");
            let body = daemon.ask("GET", &format!("{}/files?path=/root/f", url(&new)), &[], b"").body;
            assert!(["one", "two"].contains(&&*String::from_utf8_lossy(&body)));
            let now = names(daemon, &new);
            assert!(now == ["one"] || now.is_empty() || now == ["two"], "{now:?}");
            for snapshot in now {
                done(daemon, "PUT", &url(&new), &json!({"restore": snapshot}).to_string());
            }
        },
        tidy: remove,
    },
    Verb {
        name: "move one to another pool",
        prepare: with_snapshot,
        act: |caller, name| {
            let body = json!({"name": name, "migration": true, "pool": "q"});
            caller.call("POST", &url(name), &body.to_string());
        },
        holds: |daemon, name| {
            let pool = shown(daemon, &url(name))["expanded_devices"]["root"]["pool"].clone();
            assert!(pool == "p" || pool == "q", "{pool}");
            assert_eq!(names(daemon, name), ["one"]);
            is_whole(daemon, name, &["two"]);
        },
        tidy: remove,
    },
];
