//! Instances and snapshots that become images.

use serde_json::json;

use super::Verb;
use super::containers::{is_one_of, remove};
use super::objects::{forget_image, imported};
use super::snapshots::{is_whole, running_with_snapshot, with_snapshot};
use super::support::Daemon;
use super::support::caller::Caller;

fn publish(caller: &Caller, kind: &str, source: &str, alias: &str) {
    let body = json!({"source": {"type": kind, "name": source}, "aliases": [{"name": alias}]});
    drop(caller.call("POST", "/1.0/images", &body.to_string()));
}

/// An image is there as a whole, or nothing of it; the instance is what it was.
fn holds(daemon: &Daemon, name: &str) {
    imported(daemon, name);
    is_whole(daemon, name, &["two"]);
}

fn tidy(daemon: &Daemon, name: &str) {
    forget_image(daemon, name);
    remove(daemon, name);
}

pub(super) const PUBLISH: &[Verb] = &[
    Verb {
        name: "publish one that is down",
        prepare: with_snapshot,
        act: |caller, name| publish(caller, "instance", name, name),
        holds,
        tidy,
    },
    Verb {
        name: "publish one that runs",
        prepare: running_with_snapshot,
        act: |caller, name| publish(caller, "instance", name, name),
        holds: |daemon, name| {
            is_one_of(daemon, name, &["Running"]);
            holds(daemon, name);
        },
        tidy,
    },
    Verb {
        name: "publish a snapshot",
        prepare: running_with_snapshot,
        act: |caller, name| publish(caller, "snapshot", &format!("{name}/one"), name),
        holds,
        tidy,
    },
];
