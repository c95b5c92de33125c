//! Verbs of projects, and instances that move from one to another.

use serde_json::json;

use super::containers::{stopped, url};
use super::support::Daemon;
use super::support::caller::Caller;
use super::{Verb, done, gone, shown};

fn project(name: &str) -> String {
    format!("/1.0/projects/{name}")
}

fn make(daemon: &Daemon, name: &str) {
    done(daemon, "POST", "/1.0/projects", &json!({"name": name, "description": "old"}).to_string());
}

/// A project is there with its profile, or neither is.
#[track_caller]
fn is_whole(daemon: &Daemon, name: &str) -> bool {
    let there = !shown(daemon, &project(name)).is_null();
    let profiles = shown(daemon, "/1.0/profiles?all-projects=true");
    let own = json!(format!("/1.0/profiles/default?project={name}"));
    assert_eq!(profiles.as_array().unwrap().contains(&own), there, "{name}: {profiles}");
    there
}

fn forget(daemon: &Daemon, name: &str) {
    gone(daemon, &project(name));
    gone(daemon, &project(&format!("{name}-new")));
}

/// An instance with a snapshot, and a project that it goes to.
fn ready_to_move(daemon: &Daemon, name: &str) {
    let shared = json!({"features.images": "false", "features.profiles": "false"});
    done(daemon, "POST", "/1.0/projects", &json!({"name": name, "config": shared}).to_string());
    stopped(daemon, name);
    let place = format!("{}/files?path=/root/f", url(name));
    assert_eq!(daemon.ask("POST", &place, &[("X-LXD-type", "file")], b"one").status, 200);
    done(daemon, "POST", &format!("{}/snapshots", url(name)), r#"{"name":"s"}"#);
}

/// The instance, in this project or that, with all that it had.
#[track_caller]
fn is_somewhere(daemon: &Daemon, name: &str) {
    let now = [daemon.status_in("default", name), daemon.status_in(name, name)];
    assert!(now == ["none", "Stopped"] || now == ["Stopped", "none"], "{now:?}");
    let project = if now[0] == "none" { name } else { "default" };
    let answer = daemon.ask("GET", &format!("{}/files?path=/root/f&project={project}", url(name)), &[], b"");
    assert_eq!((answer.status, &*answer.body), (200, &b"one"[..]));
    let snapshots = shown(daemon, &format!("{}/snapshots?project={project}&recursion=1", url(name)));
    assert_eq!(snapshots[0]["name"], "s");
    done(daemon, "PUT", &format!("{}?project={project}", url(name)), r#"{"restore":"s"}"#);
}

fn forget_both(daemon: &Daemon, name: &str) {
    gone(daemon, &url(name));
    gone(daemon, &format!("{}?project={name}", url(name)));
    gone(daemon, &project(name));
}

pub(super) const PROJECTS: &[Verb] = &[
    Verb {
        name: "create a project",
        prepare: |_, _| {},
        act: |caller, name| drop(caller.call("POST", "/1.0/projects", &json!({"name": name}).to_string())),
        holds: |daemon, name| {
            is_whole(daemon, name);
        },
        tidy: forget,
    },
    Verb {
        name: "rename a project",
        prepare: make,
        act: |caller, name| {
            drop(caller.call("POST", &project(name), &json!({"name": format!("{name}-new")}).to_string()))
        },
        holds: |daemon, name| {
            let there = [is_whole(daemon, name), is_whole(daemon, &format!("{name}-new"))];
            assert!(there[0] != there[1], "{there:?}");
        },
        tidy: forget,
    },
    Verb {
        name: "give a project other features",
        prepare: make,
        act: |caller, name| {
            let body = json!({"description": "new", "config": {"features.profiles": "false"}});
            drop(caller.call("PUT", &project(name), &body.to_string()));
        },
        holds: |daemon, name| {
            let now = shown(daemon, &project(name));
            let old = now["description"] == "old";
            let profiles = shown(daemon, "/1.0/profiles?all-projects=true");
            let own = json!(format!("/1.0/profiles/default?project={name}"));
            assert_eq!(profiles.as_array().unwrap().contains(&own), old, "{now}: {profiles}");
        },
        tidy: forget,
    },
    Verb {
        name: "delete a project",
        prepare: make,
        act: |caller, name| drop(caller.call("DELETE", &project(name), "")),
        holds: |daemon, name| {
            is_whole(daemon, name);
        },
        tidy: forget,
    },
    Verb {
        name: "move an instance to another project",
        prepare: ready_to_move,
        act: |caller: &Caller, name| {
            let body = json!({"name": name, "migration": true, "project": name});
            drop(caller.call("POST", &url(name), &body.to_string()));
        },
        holds: is_somewhere,
        tidy: forget_both,
    },
];
