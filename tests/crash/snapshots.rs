//! Verbs of snapshots.

use serde_json::json;

use super::containers::{is_one_of, remove, running, state, stopped, url};
use super::support::Daemon;
use super::support::caller::Caller;
use super::{Verb, done, shown};

fn push(daemon: &Daemon, name: &str, text: &str) {
    let place = format!("{}/files?path=/root/f", url(name));
    assert_eq!(daemon.ask("POST", &place, &[("X-LXD-type", "file")], text.as_bytes()).status, 200);
    done(daemon, "PATCH", &url(name), &json!({"config": {"user.note": text}}).to_string());
}

/// One with the snapshot `one` of another state than its own, which is `two`.
pub(super) fn with_snapshot(daemon: &Daemon, name: &str) {
    stopped(daemon, name);
    push(daemon, name, "one");
    done(daemon, "POST", &format!("{}/snapshots", url(name)), r#"{"name":"one"}"#);
    push(daemon, name, "two");
}

pub(super) fn running_with_snapshot(daemon: &Daemon, name: &str) {
    with_snapshot(daemon, name);
    state(&Caller { socket: daemon.socket() }, name, "start");
}

pub(super) fn names(daemon: &Daemon, name: &str) -> Vec<String> {
    let list = shown(daemon, &format!("{}/snapshots?recursion=1", url(name)));
    list.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

/// Files and definition are of the same moment, one of these; what is there can be gone back to.
#[track_caller]
pub(super) fn is_whole(daemon: &Daemon, name: &str, states: &[&str]) {
    let body = daemon.ask("GET", &format!("{}/files?path=/root/f", url(name)), &[], b"").body;
    let files = String::from_utf8_lossy(&body).into_owned();
    let note = shown(daemon, &url(name))["config"]["user.note"].as_str().unwrap().to_owned();
    assert!(files == note && states.contains(&note.as_str()), "files {files:?}, definition {note:?}");
    for snapshot in names(daemon, name) {
        done(daemon, "PUT", &url(name), &json!({"restore": snapshot}).to_string());
        let body = daemon.ask("GET", &format!("{}/files?path=/root/f", url(name)), &[], b"").body;
        assert!(["one", "two"].contains(&&*String::from_utf8_lossy(&body)));
    }
}

const CREATE: fn(&Caller, &str) =
    |caller, name| drop(caller.call("POST", &format!("{}/snapshots", url(name)), r#"{"name":"two"}"#));
const COPY: fn(&Caller, &str) = |caller, name| {
    let body = json!({"name": format!("{name}-new"), "source": {"type": "copy", "source": name}});
    drop(caller.call("POST", "/1.0/instances", &body.to_string()));
};

fn is_copied_or_not(daemon: &Daemon, name: &str) {
    let new = format!("{name}-new");
    if daemon.status(&new) != "none" {
        assert_eq!(names(daemon, &new), ["one"]);
        is_whole(daemon, &new, &["two"]);
    }
    is_whole(daemon, name, &["two"]);
}

const RESTORE: fn(&Caller, &str) = |caller, name| drop(caller.call("PUT", &url(name), r#"{"restore":"one"}"#));

pub(super) const SNAPSHOTS: &[Verb] = &[
    Verb {
        name: "snapshot one that is down",
        prepare: with_snapshot,
        act: CREATE,
        holds: |daemon, name| {
            let now = names(daemon, name);
            assert!(now == ["one"] || now == ["one", "two"], "{now:?}");
            is_whole(daemon, name, &["two"]);
        },
        tidy: remove,
    },
    Verb {
        name: "snapshot one that runs",
        prepare: running_with_snapshot,
        act: CREATE,
        holds: |daemon, name| {
            is_one_of(daemon, name, &["Running"]);
            let now = names(daemon, name);
            assert!(now == ["one"] || now == ["one", "two"], "{now:?}");
            is_whole(daemon, name, &["two"]);
        },
        tidy: remove,
    },
    Verb {
        name: "delete a snapshot",
        prepare: with_snapshot,
        act: |caller, name| drop(caller.call("DELETE", &format!("{}/snapshots/one", url(name)), "")),
        holds: |daemon, name| is_whole(daemon, name, &["two"]),
        tidy: remove,
    },
    Verb {
        name: "rename a snapshot",
        prepare: with_snapshot,
        act: |caller, name| drop(caller.call("POST", &format!("{}/snapshots/one", url(name)), r#"{"name":"new"}"#)),
        holds: |daemon, name| {
            let now = names(daemon, name);
            assert!(now == ["one"] || now == ["new"], "{now:?}");
            is_whole(daemon, name, &["two"]);
        },
        tidy: remove,
    },
    Verb {
        name: "restore one that is down",
        prepare: with_snapshot,
        act: RESTORE,
        holds: |daemon, name| {
            is_one_of(daemon, name, &["Stopped"]);
            is_whole(daemon, name, &["one", "two"]);
        },
        tidy: remove,
    },
    Verb {
        name: "restore one that runs",
        prepare: running_with_snapshot,
        act: RESTORE,
        holds: |daemon, name| {
            is_one_of(daemon, name, &["Running"]);
            is_whole(daemon, name, &["one", "two"]);
        },
        tidy: remove,
    },
    Verb {
        name: "rename one that has snapshots",
        prepare: with_snapshot,
        act: |caller, name| drop(caller.call("POST", &url(name), &json!({"name": format!("{name}-new")}).to_string())),
        holds: |daemon, name| {
            let new = format!("{name}-new");
            let name = if daemon.status(name) == "none" { new.as_str() } else { name };
            assert_eq!(names(daemon, name), ["one"]);
            is_whole(daemon, name, &["two"]);
        },
        tidy: remove,
    },
    Verb {
        name: "delete one that has snapshots",
        prepare: with_snapshot,
        act: |caller, name| drop(caller.call("DELETE", &url(name), "")),
        holds: |daemon, name| {
            if daemon.status(name) != "none" {
                is_whole(daemon, name, &["two"]);
            }
        },
        tidy: remove,
    },
    Verb {
        name: "copy one that is down, with its snapshot",
        prepare: with_snapshot,
        act: COPY,
        holds: is_copied_or_not,
        tidy: remove,
    },
    Verb {
        name: "copy one that runs",
        prepare: running_with_snapshot,
        act: COPY,
        holds: |daemon, name| {
            is_one_of(daemon, name, &["Running"]);
            is_copied_or_not(daemon, name);
        },
        tidy: remove,
    },
    Verb {
        name: "many snapshots",
        prepare: running,
        act: |caller, name| {
            for number in 0..10 {
                caller.call(
                    "POST",
                    &format!("{}/snapshots", url(name)),
                    &json!({"name": format!("s{number}")}).to_string(),
                );
            }
        },
        holds: |daemon, name| is_one_of(daemon, name, &["Running"]),
        tidy: remove,
    },
];
