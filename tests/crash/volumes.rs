//! Verbs of custom volumes. The pools are `p` and `q`.

use serde_json::{Value, json};

use super::support::Daemon;
use super::support::caller::Caller;
use super::{Verb, done, gone, shown};

fn url(pool: &str, name: &str) -> String {
    format!("/1.0/storage-pools/{pool}/volumes/custom/{name}")
}

fn place(daemon: &Daemon, pool: &str, name: &str) -> std::path::PathBuf {
    daemon.state().join(format!("storage-pools/{pool}/custom/default_{name}"))
}

fn disk(pool: &str, name: &str) -> Value {
    json!({"type": "disk", "path": "/v", "pool": pool, "source": name})
}

/// A volume with the snapshot `one` and, now, other files than that, a few hundred of them.
fn volume(daemon: &Daemon, name: &str) {
    done(daemon, "POST", "/1.0/storage-pools/p/volumes", &json!({"name": name, "type": "custom"}).to_string());
    let place = place(daemon, "p", name);
    for number in 0..200 {
        std::fs::write(place.join(format!("f{number}")), "one").unwrap();
    }
    done(daemon, "POST", &format!("{}/snapshots", url("p", name)), r#"{"name":"one"}"#);
    for number in 0..200 {
        std::fs::write(place.join(format!("f{number}")), "two").unwrap();
    }
}

/// The same as a disk of an instance that is down and of a profile.
fn used(daemon: &Daemon, name: &str) {
    volume(daemon, name);
    let body = json!({"name": name, "source": {"type": "none"}, "devices": {"v": disk("p", name)}});
    done(daemon, "POST", "/1.0/instances", &body.to_string());
    done(daemon, "POST", "/1.0/profiles", &json!({"name": name, "devices": {"v": disk("p", name)}}).to_string());
}

fn nothing(_: &Daemon, _: &str) {}

fn tidy(daemon: &Daemon, name: &str) {
    gone(daemon, &format!("/1.0/instances/{name}"));
    gone(daemon, &format!("/1.0/profiles/{name}"));
    for pool in ["p", "q"] {
        gone(daemon, &url(pool, name));
        gone(daemon, &url(pool, &format!("{name}-new")));
    }
}

/// All files of a volume are of one moment, one of these; so are those of its snapshots, `one` among them.
#[track_caller]
fn is_whole(daemon: &Daemon, pool: &str, name: &str, states: &[&str]) {
    let read = |dir: &std::path::Path| -> Vec<String> {
        (0..200).map(|number| std::fs::read_to_string(dir.join(format!("f{number}"))).unwrap()).collect()
    };
    let texts = read(&place(daemon, pool, name));
    assert!(states.contains(&texts[0].as_str()) && texts.iter().all(|text| *text == texts[0]), "{texts:?}");
    let snapshots = shown(daemon, &format!("{}/snapshots?recursion=1", url(pool, name)));
    for snapshot in snapshots.as_array().unwrap() {
        let (_, snapshot) = snapshot["name"].as_str().unwrap().split_once('/').unwrap();
        let dir = daemon.state().join(format!("storage-pools/{pool}/custom-snapshots/default_{name}/{snapshot}"));
        let wanted = if snapshot == "two" { "two" } else { "one" };
        assert!(read(&dir).iter().all(|text| text == wanted), "{snapshot}");
    }
}

fn snapshots(daemon: &Daemon, name: &str) -> Vec<String> {
    let list = shown(daemon, &format!("{}/snapshots", url("p", name)));
    list.as_array().unwrap().iter().map(|url| url.as_str().unwrap().rsplit('/').next().unwrap().to_owned()).collect()
}

fn copy(caller: &Caller, pool: &str, name: &str, refresh: bool) {
    let source = json!({"type": "copy", "name": name, "pool": "p", "refresh": refresh});
    let body = json!({"name": format!("{name}-new"), "type": "custom", "source": source});
    caller.call("POST", &format!("/1.0/storage-pools/{pool}/volumes"), &body.to_string());
}

fn is_copied_or_not(daemon: &Daemon, pool: &str, name: &str) {
    is_whole(daemon, "p", name, &["two"]);
    let new = format!("{name}-new");
    if !shown(daemon, &url(pool, &new)).is_null() {
        is_whole(daemon, pool, &new, &["two"]);
        assert_eq!(shown(daemon, &format!("{}/snapshots", url(pool, &new))).as_array().unwrap().len(), 1);
    }
}

/// The volume is in one of these places, whole, and whoever has it names that.
#[track_caller]
fn is_at_one_of(daemon: &Daemon, name: &str, places: [(&str, &str); 2]) {
    let there: Vec<_> = places.iter().filter(|(pool, name)| !shown(daemon, &url(pool, name)).is_null()).collect();
    let [(pool, volume)] = there[..] else { panic!("{there:?}") };
    is_whole(daemon, pool, volume, &["two"]);
    for user in ["instances", "profiles"] {
        let device = shown(daemon, &format!("/1.0/{user}/{name}"))["devices"]["v"].clone();
        assert_eq!(device, disk(pool, volume));
    }
}

/// Every image is whole, where the key says; the volumes of that name have nothing else.
fn images_are_whole(daemon: &Daemon, name: &str) {
    let set = shown(daemon, "/1.0")["config"]["storage.images_volume"].as_str().map(str::to_owned);
    let link = daemon.state().join("images");
    assert_eq!(link.is_symlink(), set.is_some());
    for pool in ["p", "q"] {
        let is_it = set.as_ref() == Some(&format!("{pool}/{name}"));
        let is_empty = place(daemon, pool, name).read_dir().unwrap().next().is_none();
        assert_ne!(is_it, is_empty, "the volume in {pool} while the key is {set:?}");
    }
    let images = shown(daemon, "/1.0/images?recursion=1");
    assert!(!images.as_array().unwrap().is_empty());
    for image in images.as_array().unwrap() {
        let print = image["fingerprint"].as_str().unwrap();
        let length = |name: &str| link.join(name).metadata().map_or(0, |about| about.len());
        assert_eq!(length(print) + length(&format!("{print}.rootfs")), image["size"].as_u64().unwrap());
    }
}

fn images_on(caller: &Caller, volume: &str) {
    caller.call("PATCH", "/1.0", &json!({"config": {"storage.images_volume": volume}}).to_string());
}

pub(super) const VOLUMES: &[Verb] = &[
    Verb {
        name: "move the images to a volume, another one, and back",
        prepare: |daemon, name| {
            for pool in ["p", "q"] {
                let body = json!({"name": name, "type": "custom"}).to_string();
                done(daemon, "POST", &format!("/1.0/storage-pools/{pool}/volumes"), &body);
            }
        },
        act: |caller, name| {
            images_on(caller, &format!("p/{name}"));
            images_on(caller, &format!("q/{name}"));
            images_on(caller, "");
        },
        holds: images_are_whole,
        tidy: |daemon, name| {
            done(daemon, "PATCH", "/1.0", r#"{"config":{"storage.images_volume":""}}"#);
            images_are_whole(daemon, name);
            tidy(daemon, name);
        },
    },
    Verb {
        name: "create a volume",
        prepare: nothing,
        act: |caller, name| {
            let body = json!({"name": name, "type": "custom"}).to_string();
            caller.call("POST", "/1.0/storage-pools/p/volumes", &body);
        },
        holds: |daemon, name| {
            if !shown(daemon, &url("p", name)).is_null() {
                assert!(place(daemon, "p", name).is_dir());
            }
        },
        tidy,
    },
    Verb {
        name: "change a volume",
        prepare: volume,
        act: |caller, name| drop(caller.call("PUT", &url("p", name), r#"{"description":"d","config":{"user.a":"b"}}"#)),
        holds: |daemon, name| {
            let now = shown(daemon, &url("p", name));
            assert_eq!(now["description"] == "d", now["config"]["user.a"] == "b", "{now}");
        },
        tidy,
    },
    Verb {
        name: "delete a volume",
        prepare: volume,
        act: |caller, name| drop(caller.call("DELETE", &url("p", name), "")),
        holds: |daemon, name| {
            if !shown(daemon, &url("p", name)).is_null() {
                is_whole(daemon, "p", name, &["two"]);
            }
        },
        tidy,
    },
    Verb {
        name: "rename a volume",
        prepare: used,
        act: |caller, name| {
            let new = format!("{name}-new");
            caller.call("POST", &url("p", name), &json!({"name": new}).to_string());
        },
        holds: |daemon, name| is_at_one_of(daemon, name, [("p", name), ("p", &format!("{name}-new"))]),
        tidy,
    },
    Verb {
        name: "move a volume to another pool",
        prepare: used,
        act: |caller, name| drop(caller.call("POST", &url("p", name), &json!({"name": name, "pool": "q"}).to_string())),
        holds: |daemon, name| is_at_one_of(daemon, name, [("p", name), ("q", name)]),
        tidy,
    },
    Verb {
        name: "copy a volume",
        prepare: volume,
        act: |caller, name| copy(caller, "p", name, false),
        holds: |daemon, name| is_copied_or_not(daemon, "p", name),
        tidy,
    },
    Verb {
        name: "copy a volume to another pool",
        prepare: volume,
        act: |caller, name| copy(caller, "q", name, false),
        holds: |daemon, name| is_copied_or_not(daemon, "q", name),
        tidy,
    },
    Verb {
        name: "bring a copy of a volume up to date",
        prepare: |daemon, name| {
            volume(daemon, name);
            copy(&Caller { socket: daemon.socket() }, "q", name, false);
            let place = place(daemon, "p", name);
            for number in 0..200 {
                std::fs::write(place.join(format!("f{number}")), "three").unwrap();
            }
        },
        act: |caller, name| copy(caller, "q", name, true),
        holds: |daemon, name| {
            is_whole(daemon, "p", name, &["three"]);
            is_whole(daemon, "q", &format!("{name}-new"), &["two", "three"]);
        },
        tidy,
    },
    Verb {
        name: "snapshot a volume",
        prepare: volume,
        act: |caller, name| drop(caller.call("POST", &format!("{}/snapshots", url("p", name)), r#"{"name":"two"}"#)),
        holds: |daemon, name| {
            let now = snapshots(daemon, name);
            assert!(now == ["one"] || now == ["one", "two"], "{now:?}");
            is_whole(daemon, "p", name, &["two"]);
        },
        tidy,
    },
    Verb {
        name: "restore a volume",
        prepare: volume,
        act: |caller, name| drop(caller.call("PUT", &url("p", name), r#"{"restore":"one"}"#)),
        holds: |daemon, name| is_whole(daemon, "p", name, &["one", "two"]),
        tidy,
    },
    Verb {
        name: "rename a snapshot of a volume",
        prepare: volume,
        act: |caller, name| {
            caller.call("POST", &format!("{}/snapshots/one", url("p", name)), r#"{"name":"new"}"#);
        },
        holds: |daemon, name| {
            let now = snapshots(daemon, name);
            assert!(now == ["one"] || now == ["new"], "{now:?}");
            is_whole(daemon, "p", name, &["two"]);
        },
        tidy,
    },
    Verb {
        name: "delete a snapshot of a volume",
        prepare: volume,
        act: |caller, name| drop(caller.call("DELETE", &format!("{}/snapshots/one", url("p", name)), "")),
        holds: |daemon, name| is_whole(daemon, "p", name, &["two"]),
        tidy,
    },
    Verb {
        name: "attach a volume to one that runs",
        prepare: volume,
        act: |caller, name| {
            let attached = json!({"devices": {"v": disk("p", name)}}).to_string();
            caller.call("PATCH", "/1.0/instances/steady", &attached);
        },
        holds: |daemon, name| {
            let there = !shown(daemon, "/1.0/instances/steady")["devices"]["v"].is_null();
            let seen = daemon.lxc(&["exec", "steady", "--", "cat", "/v/f0"]);
            assert_eq!(there, seen.code == 0, "{}", seen.err);
            assert!(!there || seen.out == "two");
            is_whole(daemon, "p", name, &["two"]);
        },
        tidy: |daemon, name| {
            daemon.lxc(&["config", "device", "remove", "steady", "v"]);
            tidy(daemon, name);
        },
    },
];
