//! Custom volumes that hold what is the daemon's own: `storage.images_volume`, `storage.backups_volume`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::Daemon;
use support::api::{done, get, refused};

const IMAGES: &str = "storage.images_volume";
const BACKUPS: &str = "storage.backups_volume";

fn body(key: &str, value: &str) -> Value {
    json!({"config": {key: value}})
}

#[track_caller]
fn set(daemon: &Daemon, key: &str, value: &str) {
    done(daemon, "PATCH", "/1.0", &body(key, value));
    let config = get(daemon, "/1.0")["config"].clone();
    assert_eq!(config.get(key).and_then(Value::as_str).unwrap_or_default(), value);
}

fn volume(daemon: &Daemon, pool: &str, name: &str) -> PathBuf {
    daemon.lxc(&["storage", "volume", "create", pool, name]).ok();
    daemon.state().join(format!("storage-pools/{pool}/custom/default_{name}"))
}

fn names(dir: &Path) -> BTreeSet<String> {
    dir.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The fingerprints of all images; each can be had whole.
#[track_caller]
fn usable(daemon: &Daemon) -> Vec<String> {
    let urls = get(daemon, "/1.0/images");
    let prints: Vec<String> = urls
        .as_array()
        .unwrap()
        .iter()
        .map(|url| url.as_str().unwrap().rsplit('/').next().unwrap().to_owned())
        .collect();
    for print in &prints {
        let to = daemon.root.join("exported");
        daemon.lxc(&["image", "export", print, to.to_str().unwrap()]).ok();
        let _ = (std::fs::remove_file(&to), std::fs::remove_file(daemon.root.join("exported.root")));
        for file in [print.clone(), format!("{print}.rootfs")] {
            let _ = std::fs::remove_file(daemon.root.join(file));
        }
    }
    prints
}

/// Nothing of a move is left beside the directories.
#[track_caller]
fn nothing_beside(daemon: &Daemon) {
    let found = names(&daemon.state());
    let extra: Vec<_> =
        found.iter().filter(|name| name.starts_with("images.") || name.starts_with("backups.")).collect();
    assert!(extra.is_empty(), "{extra:?}");
}

fn used_by(daemon: &Daemon, pool: &str, name: &str) -> Value {
    get(daemon, &format!("/1.0/storage-pools/{pool}/volumes/custom/{name}"))["used_by"].clone()
}

#[test]
fn images_and_backups_move_to_volumes_and_back() {
    let daemon = Daemon::ready("dir");
    daemon.lxc(&["storage", "create", "q", "btrfs", "size=200MiB"]).ok();
    let link = daemon.state().join("images");
    let before = names(&link);
    let (v, w) = (volume(&daemon, "p", "v"), volume(&daemon, "q", "w"));

    set(&daemon, IMAGES, "p/v");
    assert_eq!(std::fs::read_link(&link).unwrap(), Path::new("storage-pools/p/custom/default_v"));
    assert_eq!(names(&v), before);
    assert_eq!(used_by(&daemon, "p", "v"), json!(["/1.0"]));
    nothing_beside(&daemon);
    assert_eq!(usable(&daemon).len(), 1);
    // A new one comes to lie there, and an instance is made of it.
    let unified = daemon.busybox_unified();
    daemon.lxc(&["image", "import", unified.to_str().unwrap(), "--alias", "one"]).ok();
    assert_eq!(names(&v).len(), before.len() + 1);
    daemon.lxc(&["init", "one", "c1"]).ok();
    daemon.lxc(&["delete", "c1"]).ok();

    // To another file system, and a change of something else beside it.
    let both = json!({"config": {IMAGES: "q/w", "user.a": "b"}});
    done(&daemon, "PATCH", "/1.0", &both);
    assert_eq!((names(&v).len(), names(&w).len()), (0, before.len() + 1));
    assert_eq!((used_by(&daemon, "p", "v"), used_by(&daemon, "q", "w")), (json!([]), json!(["/1.0"])));
    assert_eq!(usable(&daemon).len(), 2);
    daemon.lxc(&["image", "delete", "one"]).ok();
    assert_eq!(names(&w), before);
    daemon.lxc(&["storage", "volume", "delete", "p", "v"]).ok();

    // A PUT without the key takes it away.
    done(&daemon, "PUT", "/1.0", &body("user.a", "b"));
    assert!(link.is_dir() && !link.is_symlink());
    assert_eq!((names(&link), names(&w).len()), (before, 0));
    assert_eq!(usable(&daemon).len(), 1);

    set(&daemon, BACKUPS, "q/w");
    let backups = daemon.state().join("backups");
    assert_eq!(std::fs::read_link(&backups).unwrap(), Path::new("storage-pools/q/custom/default_w"));
    set(&daemon, BACKUPS, "");
    assert!(backups.is_dir() && !backups.is_symlink());
    nothing_beside(&daemon);
    daemon.lxc(&["storage", "volume", "delete", "q", "w"]).ok();
    daemon.lxc(&["storage", "delete", "q"]).ok();
}

#[test]
fn a_volume_of_the_servers_is_nobody_elses() {
    let daemon = Daemon::ready("dir");
    volume(&daemon, "p", "v");
    volume(&daemon, "p", "w");
    set(&daemon, IMAGES, "p/v");
    let whose = IMAGES;
    daemon.lxc(&["storage", "volume", "delete", "p", "v"]).refused(whose);
    daemon.lxc(&["storage", "volume", "rename", "p", "v", "x"]).refused(whose);
    daemon.lxc(&["storage", "volume", "snapshot", "p", "v"]).refused(whose);
    daemon.lxc(&["init", "bb", "c1"]).ok();
    daemon.lxc(&["storage", "volume", "attach", "p", "v", "c1", "/v"]).refused(whose);
    daemon.lxc(&["storage", "volume", "attach-profile", "p", "v", "default", "/v"]).refused(whose);
    daemon.lxc(&["storage", "create", "q", "dir"]).ok();
    let url = "/1.0/storage-pools/p/volumes/custom/v";
    let (_, answer) = daemon.api("POST", url, r#"{"name":"v","pool":"q"}"#);
    let moved = match answer["operation"].as_str().filter(|url| !url.is_empty()) {
        Some(operation) => daemon.api("GET", &format!("{operation}/wait"), "").1["metadata"]["err"].to_string(),
        None => answer["error"].to_string(),
    };
    assert!(moved.contains(whose), "{moved}");
    daemon.lxc(&["storage", "delete", "q"]).ok();
    daemon.lxc(&["storage", "delete", "p"]).refused("in use");
    refused(&daemon, "PATCH", "/1.0", &body(BACKUPS, "p/v"), 400, whose);
    assert_eq!(usable(&daemon).len(), 1);

    // What cannot be the server's, and why; nothing changes.
    let images = json!({"config": {IMAGES: "p/w", BACKUPS: "p/w"}});
    refused(&daemon, "PATCH", "/1.0", &images, 400, "the server itself");
    for (value, word) in [("p", "<pool>/<volume>"), ("p/no", "create it first"), ("no/w", "create it first")] {
        refused(&daemon, "PATCH", "/1.0", &body(BACKUPS, value), 400, word);
    }
    daemon.lxc(&["storage", "volume", "attach", "p", "w", "c1", "/w"]).ok();
    refused(&daemon, "PATCH", "/1.0", &body(IMAGES, "p/w"), 400, "the instance c1");
    daemon.lxc(&["storage", "volume", "detach", "p", "w", "c1"]).ok();
    daemon.lxc(&["storage", "volume", "snapshot", "p", "w", "s"]).ok();
    refused(&daemon, "PATCH", "/1.0", &body(IMAGES, "p/w"), 400, "snapshots");
    daemon.lxc(&["storage", "volume", "delete", "p", "w/s"]).ok();
    let file = daemon.state().join("storage-pools/p/custom/default_w/mine");
    std::fs::write(&file, "mine").unwrap();
    refused(&daemon, "PATCH", "/1.0", &body(IMAGES, "p/w"), 400, "mine");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    daemon.lxc(&["project", "create", "other"]).ok();
    daemon.lxc(&["--project", "other", "storage", "volume", "create", "p", "z"]).ok();
    refused(&daemon, "PATCH", "/1.0", &body(IMAGES, "p/z"), 400, "create it first");
    assert_eq!(get(&daemon, "/1.0")["config"], json!({IMAGES: "p/v"}));
    nothing_beside(&daemon);
    set(&daemon, IMAGES, "");
    daemon.lxc(&["storage", "volume", "snapshot", "p", "v"]).ok();
    daemon.lxc(&["--project", "other", "storage", "volume", "delete", "p", "z"]).ok();
}

#[test]
fn room_is_judged_before() {
    let daemon = Daemon::ready("dir");
    daemon.lxc(&["storage", "create", "q", "btrfs", "size=200MiB"]).ok();
    let small = volume(&daemon, "q", "small");
    daemon.lxc(&["storage", "volume", "set", "q", "small", "size=64KiB"]).ok();
    refused(&daemon, "PATCH", "/1.0", &body(IMAGES, "q/small"), 400, "larger volume");
    assert_eq!(names(&small).len(), 0);
    nothing_beside(&daemon);
    assert_eq!(usable(&daemon).len(), 1);
    assert_eq!(used_by(&daemon, "q", "small"), json!([]));
    daemon.lxc(&["storage", "volume", "delete", "q", "small"]).ok();
    daemon.lxc(&["storage", "delete", "q"]).ok();
}

/// An upload whose end has not come yet.
fn half_an_upload(daemon: &Daemon) -> UnixStream {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    let head = "POST /1.0/images HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: 1000000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&[0x55; 200_000]).unwrap();
    stream
}

#[test]
fn what_is_coming_in_is_not_torn_apart() {
    let daemon = Daemon::ready("dir");
    volume(&daemon, "p", "v");
    let mut upload = half_an_upload(&daemon);
    let incoming = || names(&daemon.state().join("images")).iter().any(|name| name.starts_with(".incoming-"));
    support::eventually("the upload has begun", incoming);
    refused(&daemon, "PATCH", "/1.0", &body(IMAGES, "p/v"), 400, "wait for these operations");
    assert!(incoming());
    // It comes to its own end: it is no image.
    upload.write_all(&[0x55; 800_000]).unwrap();
    let mut answer = [0; 1000];
    assert!(upload.read(&mut answer).unwrap() > 0);
    drop(upload);
    support::eventually("the upload has ended", || !incoming());
    support::eventually("it is moved", || daemon.api("PATCH", "/1.0", &body(IMAGES, "p/v").to_string()).0 == 200);
    assert_eq!(usable(&daemon).len(), 1);
    set(&daemon, IMAGES, "");
    daemon.lxc(&["storage", "volume", "delete", "p", "v"]).ok();
}

#[test]
fn a_pool_that_is_away_takes_the_images_with_it() {
    let mut daemon = Daemon::ready("dir");
    daemon.lxc(&["storage", "create", "q", "btrfs", "size=200MiB"]).ok();
    volume(&daemon, "q", "w");
    set(&daemon, IMAGES, "q/w");
    daemon.terminate();
    let file = daemon.state().join("disks/q.img");
    std::fs::rename(&file, daemon.root.join("away")).unwrap();
    daemon.start();
    let print = get(&daemon, "/1.0/images")[0].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    refused(&daemon, "GET", &format!("/1.0/images/{print}/export"), &Value::Null, 400, IMAGES);
    let unified = daemon.busybox_unified();
    daemon.lxc(&["image", "import", unified.to_str().unwrap()]).refused(IMAGES);
    daemon.lxc(&["init", "bb", "c1"]).refused(IMAGES);
    daemon.lxc(&["image", "delete", "bb"]).refused(IMAGES);
    // Nothing was written where the pool is not.
    refused(&daemon, "PATCH", "/1.0", &body(IMAGES, ""), 400, "q.img is not there");
    assert_eq!(get(&daemon, "/1.0")["config"][IMAGES], "q/w");
    daemon.terminate();
    std::fs::rename(daemon.root.join("away"), &file).unwrap();
    daemon.start();
    // What was to be deleted is; others can be used.
    assert_eq!(usable(&daemon).len(), 0);
    daemon.lxc(&["image", "import", unified.to_str().unwrap()]).ok();
    assert_eq!(usable(&daemon).len(), 1);
    set(&daemon, IMAGES, "");
    assert_eq!(usable(&daemon).len(), 1);
    daemon.lxc(&["storage", "volume", "delete", "q", "w"]).ok();
    daemon.lxc(&["storage", "delete", "q"]).ok();
}

/// The way out when it does not come back.
#[test]
fn images_begin_anew_when_their_volume_is_lost() {
    let mut daemon = Daemon::ready("dir");
    daemon.lxc(&["storage", "create", "q", "btrfs", "size=200MiB"]).ok();
    volume(&daemon, "q", "w");
    set(&daemon, IMAGES, "q/w");
    let place = "/1.0/storage-pools/q/volumes/custom/w";
    // As long as it is there, that is no way.
    refused(&daemon, "DELETE", &format!("{place}?forget=1"), &Value::Null, 400, IMAGES);
    daemon.terminate();
    std::fs::remove_file(daemon.state().join("disks/q.img")).unwrap();
    daemon.start();
    refused(&daemon, "DELETE", place, &Value::Null, 400, "forget=1");
    done(&daemon, "DELETE", &format!("{place}?forget=1"), &Value::Null);
    assert_eq!(get(&daemon, "/1.0")["config"], json!({}));
    let link = daemon.state().join("images");
    assert!(link.is_dir() && !link.is_symlink());
    done(&daemon, "DELETE", "/1.0/storage-pools/q?forget=1", &Value::Null);
    daemon.lxc(&["image", "delete", "bb"]).ok();
    let unified = daemon.busybox_unified();
    daemon.lxc(&["image", "import", unified.to_str().unwrap()]).ok();
    assert_eq!(usable(&daemon).len(), 1);
}

/// What a daemon leaves that dies while it copies, and between the key and the link, both ways.
#[test]
fn what_a_crash_left_is_finished_or_undone() {
    let mut daemon = Daemon::ready("dir");
    let v = volume(&daemon, "p", "v");
    let state = daemon.state();
    let (link, journal) = (state.join("images"), state.join("images.moving"));
    let before = names(&link);
    let there = json!({"from": null, "to": ["p", "v"]}).to_string();
    let back = json!({"from": ["p", "v"], "to": null}).to_string();
    let copy = |from: &Path, to: &Path| {
        std::fs::create_dir_all(to).unwrap();
        for name in &before {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    };
    // There, before the key: undone.
    daemon.kill();
    std::fs::write(&journal, &there).unwrap();
    std::fs::write(v.join(before.first().unwrap()), "half").unwrap();
    std::fs::write(state.join("images.moving.new"), "{").unwrap();
    daemon.start();
    assert_eq!((names(&v).len(), names(&link)), (0, before.clone()));
    nothing_beside(&daemon);
    // There, behind the key: finished.
    set(&daemon, IMAGES, "p/v");
    daemon.kill();
    std::fs::write(&journal, &there).unwrap();
    std::fs::remove_file(&link).unwrap();
    copy(&v, &link);
    daemon.start();
    assert!(link.is_symlink());
    assert_eq!(names(&v), before);
    nothing_beside(&daemon);
    assert_eq!(usable(&daemon).len(), 1);
    // Back, before the key: undone.
    daemon.kill();
    std::fs::write(&journal, &back).unwrap();
    std::fs::create_dir(state.join("images.beside")).unwrap();
    std::fs::write(state.join("images.beside/half"), "half").unwrap();
    daemon.start();
    assert!(link.is_symlink());
    assert_eq!(names(&v), before);
    nothing_beside(&daemon);
    // Back, behind the key: finished.
    set(&daemon, IMAGES, "");
    daemon.kill();
    std::fs::write(&journal, &back).unwrap();
    copy(&link, &v);
    std::fs::rename(&link, state.join("images.beside")).unwrap();
    std::os::unix::fs::symlink("storage-pools/p/custom/default_v", &link).unwrap();
    daemon.start();
    assert!(!link.is_symlink());
    assert_eq!((names(&v).len(), names(&link)), (0, before));
    nothing_beside(&daemon);
    assert_eq!(usable(&daemon).len(), 1);
    daemon.lxc(&["storage", "volume", "delete", "p", "v"]).ok();
}
