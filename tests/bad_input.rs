//! Requests that make no sense: the right status, a message that names the field, and nothing left behind.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use serde_json::Value;
use support::{Daemon, run};

/// The lists that a refused request must not change.
fn everything(daemon: &Daemon) -> Vec<Value> {
    ["instances", "images", "images/aliases", "profiles", "storage-pools", "certificates"]
        .iter()
        .map(|kind| daemon.api("GET", &format!("/1.0/{kind}?recursion=1"), "").1["metadata"].clone())
        .collect()
}

#[track_caller]
fn refused(answer: &(u16, Value), status: u16, text: &str) {
    let (code, body) = answer;
    assert_eq!(*code, status, "{body}");
    assert_eq!(body["error_code"], status);
    let message = body["error"].as_str().unwrap();
    assert!(message.contains(text), "{text:?} is not in {message:?}");
}

#[test]
fn refused_requests_name_the_field_and_change_nothing() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    let before = everything(&daemon);
    let long = "a".repeat(64);
    let new = |name: &str| format!(r#"{{"name":"{name}","source":{{"type":"image","alias":"bb"}}}}"#);
    for (method, path, body, status, text) in [
        ("POST", "/1.0/instances", "{", 400, "JSON"),
        ("POST", "/1.0/instances", "[]", 400, "JSON"),
        ("POST", "/1.0/instances", r#"{"name":7}"#, 400, "field \"name\""),
        ("POST", "/1.0/instances", r#"{"name":"x","config":{"a":1}}"#, 400, "field \"config.a\""),
        ("POST", "/1.0/instances", "null", 400, "source"),
        ("POST", "/1.0/instances", &new("a/b"), 400, "instance name"),
        ("POST", "/1.0/instances", &new(&long), 400, "instance name"),
        ("POST", "/1.0/instances", &new("c1"), 409, "already exists"),
        ("POST", "/1.0/instances", r#"{"name":"x","source":{"type":"image","alias":"nosuch"}}"#, 404, "nosuch"),
        ("POST", "/1.0/instances", r#"{"name":"x","source":{"type":"image","fingerprint":"00"}}"#, 404, "Image"),
        ("POST", "/1.0/instances", r#"{"name":"x","source":{"type":"image"}}"#, 400, "source"),
        ("POST", "/1.0/instances", r#"{"name":"x","source":{"type":"what"}}"#, 400, "source"),
        ("POST", "/1.0/instances", r#"{"name":"x","type":"virtual-machine","source":{"type":"none"}}"#, 400, "type"),
        ("POST", "/1.0/instances", r#"{"name":"x","config":{"limit":"1"},"source":{"type":"none"}}"#, 400, "\"limit\""),
        ("POST", "/1.0/instances", r#"{"name":"x","profiles":["no"],"source":{"type":"none"}}"#, 404, "\"no\""),
        ("POST", "/1.0/instances", r#"{"name":"x","profiles":[],"source":{"type":"none"}}"#, 400, "root"),
        (
            "POST",
            "/1.0/instances",
            r#"{"name":"x","devices":{"root":{"type":"disk","path":"/","pool":"q"}},"source":{"type":"none"}}"#,
            400,
            "\"q\"",
        ),
        ("PUT", "/1.0/instances/c1/state", r#"{"action":"explode"}"#, 400, "action"),
        ("PUT", "/1.0/instances/nosuch/state", r#"{"action":"start"}"#, 404, "Instance not found"),
        ("DELETE", "/1.0/instances/c1", "", 400, "Instance is running"),
        ("DELETE", "/1.0/instances/..", "", 404, "not found"),
        ("GET", "/1.0/instances/nosuch", "", 404, "Instance not found"),
        ("GET", "/1.0/instances?filter=name", "", 400, "filter"),
        ("GET", "/1.0/instances?project=nosuch", "", 404, "Project"),
        ("POST", "/1.0/instances/c1/exec", r#"{"command":[]}"#, 400, "command"),
        ("POST", "/1.0/instances/c1/exec", r#"{"command":"ls"}"#, 400, "field \"command\""),
        ("PATCH", "/1.0/instances/c1", r#"{"config":{"boot.autostart":"maybe"}}"#, 400, "boot.autostart"),
        ("POST", "/1.0/profiles", r#"{"name":""}"#, 400, "profile name"),
        ("POST", "/1.0/profiles", r#"{"name":"default"}"#, 409, "default"),
        ("POST", "/1.0/profiles", r#"{"name":"x","devices":{"a":{"type":"nic","parent":"b"}}}"#, 400, "nictype"),
        ("POST", "/1.0/storage-pools", r#"{"name":"x","driver":"zfs"}"#, 400, "zfs"),
        ("POST", "/1.0/storage-pools", r#"{"name":"x","driver":"dir","config":{"source":"a"}}"#, 400, "source"),
        ("POST", "/1.0/storage-pools", r#"{"name":"x","driver":"dir","config":{"colour":"a"}}"#, 400, "colour"),
        ("POST", "/1.0/storage-pools", r#"{"name":"x","driver":"dir","config":{"source":"/etc"}}"#, 400, "empty"),
        ("POST", "/1.0/storage-pools", r#"{"name":"p","driver":"dir"}"#, 409, "already exists"),
        ("POST", "/1.0/networks", r#"{"name":"a/b"}"#, 400, "network name"),
        ("POST", "/1.0/networks", r#"{"name":"lo"}"#, 409, "lo"),
        ("POST", "/1.0/networks", r#"{"name":"wtx0","config":{"ipv4.address":"nonsense"}}"#, 400, "ipv4.address"),
        ("POST", "/1.0/images/aliases", r#"{"name":"x","target":"00"}"#, 404, "Image"),
        ("POST", "/1.0/certificates", r#"{"type":"client","certificate":"x"}"#, 400, "certificate"),
        ("PUT", "/1.0", r#"{"config":{"core.nonsense":"1"}}"#, 400, "core.nonsense"),
        ("PUT", "/1.0", r#"{"config":{"user.a":1}}"#, 400, "user.a"),
        ("GET", "/1.0/operations/x", "", 404, "Operation"),
        ("GET", "/1.0/events", "", 400, "websocket"),
        ("GET", "/1.0/nosuch", "", 404, "not found"),
        ("POST", "/1.0/storage-pools/p", "", 501, "not implemented"),
    ] {
        refused(&daemon.api(method, path, body), status, text);
    }
    let huge = format!(r#"{{"name":"{}"}}"#, "a".repeat(5 << 20));
    refused(&daemon.api("POST", "/1.0/profiles", &huge), 400, "longer");
    assert_eq!(everything(&daemon), before);
    let (code, error, _) = daemon.operation("PUT", "/1.0/instances/c1/state", r#"{"action":"start"}"#);
    assert!(code == 400 && error.contains("already running"), "{error}");
}

#[test]
fn an_etag_guards_a_change() {
    let daemon = Daemon::bare();
    let change = |tag: &str| {
        let headers = [("If-Match", tag), ("Content-Type", "application/json")];
        daemon.api_raw("PATCH", "/1.0/profiles/default", &headers, br#"{"config":{"user.a":"b"}}"#)
    };
    refused(&change("0123"), 412, "ETag");
    assert_eq!(change("*").0, 200);
}

#[test]
fn broken_images_are_refused_and_leave_nothing() {
    let daemon = Daemon::bare();
    let image = std::fs::read(daemon.busybox_unified()).unwrap();
    let upload = |headers: &[(&str, &str)], bytes: &[u8]| {
        let (status, answer) = daemon.api_raw("POST", "/1.0/images", headers, bytes);
        if status != 202 {
            return answer["error"].as_str().unwrap().to_owned();
        }
        let url = format!("{}/wait", answer["operation"].as_str().unwrap());
        daemon.api("GET", &url, "").1["metadata"]["err"].as_str().unwrap().to_owned()
    };
    let wrong = "0".repeat(64);
    for (headers, bytes, text) in [
        (vec![], &b"nonsense"[..], "tarball"),
        (vec![], &b""[..], "no image"),
        (vec![], &image[..image.len() / 2], "breaks off"),
        (vec![("X-LXD-fingerprint", wrong.as_str())], &image[..], "announced"),
        (vec![("X-LXD-fingerprint", "zz")], &image[..], "fingerprint"),
        (vec![("X-LXD-public", "maybe")], &image[..], "X-LXD-public"),
        (vec![("Content-Type", "multipart/form-data; boundary=x")], &b"--x--\r\n"[..], "metadata"),
    ] {
        let error = upload(&headers, bytes);
        assert!(error.contains(text), "{text:?} is not in {error:?}");
    }
    assert_eq!(daemon.api("GET", "/1.0/images", "").1["metadata"], serde_json::json!([]));
    assert_eq!(std::fs::read_dir(daemon.state().join("images")).unwrap().count(), 0);
}

#[test]
fn a_full_disk_while_unpacking_leaves_nothing() {
    let daemon = Daemon::bare();
    let unified = daemon.busybox_unified();
    daemon.lxc(&["image", "import", unified.to_str().unwrap(), "--alias", "u"]).ok();
    let small = daemon.root.join("small");
    std::fs::create_dir(&small).unwrap();
    run(std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(&small));
    daemon.lxc(&["storage", "create", "s", "dir", &format!("source={}", small.display())]).ok();
    let body = r#"{"name":"x","source":{"type":"image","alias":"u"},"devices":{"root":{"type":"disk","path":"/","pool":"s"}}}"#;
    let (code, error, _) = daemon.operation("POST", "/1.0/instances", body);
    assert!(code == 400 && error.contains("No space left"), "{error}");
    assert_eq!(daemon.status("x"), "none");
    let used: Vec<_> =
        ["containers", ".new"].iter().flat_map(|dir| std::fs::read_dir(small.join(dir)).unwrap()).collect();
    assert!(used.is_empty(), "{used:?}");
    daemon.lxc(&["storage", "delete", "s"]).ok();
    run(std::process::Command::new("umount").arg(&small));
}

#[test]
fn without_a_range_of_ids_the_refusal_says_which_line_to_add() {
    // The text is checked where it is made; here, that a daemon with probes switched off says why it has no overlay.
    let daemon = Daemon::with_env(&[("WARREN_DISABLE_OVERLAY", "1")]);
    refused(
        &daemon.api("POST", "/1.0/storage-pools", r#"{"name":"o","driver":"overlay"}"#),
        400,
        "WARREN_DISABLE_OVERLAY",
    );
    let (_, server) = daemon.api("GET", "/1.0", "");
    let drivers = &server["metadata"]["environment"]["storage_supported_drivers"];
    assert!(drivers.as_array().unwrap().iter().all(|driver| driver["Name"] != "overlay"), "{drivers}");
    daemon.set_up("dir");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
}

/// Has the database on a disk of its own, with so many MiB.
fn with_disk(megabytes: u32, test: impl FnOnce(&mut Daemon)) {
    let mut daemon = Daemon::ready("overlay");
    let database = daemon.state().join("database");
    let aside = daemon.root.join("aside");
    daemon.terminate();
    std::fs::rename(&database, &aside).unwrap();
    std::fs::create_dir(&database).unwrap();
    let size = format!("size={megabytes}m");
    run(std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(&database));
    run(std::process::Command::new("cp").arg("-a").arg(aside.join(".")).arg(&database));
    daemon.start();
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    let filler = database.join("filler");
    // As far as it goes.
    let _ = std::fs::write(&filler, vec![0; 32 << 20]);
    test(&mut daemon);
    std::fs::remove_file(&filler).unwrap();
    daemon.lxc(&["start", "c1"]).ok();
    daemon.lxc(&["delete", "--force", "c1"]).ok();
    daemon.terminate();
    std::fs::remove_dir_all(&aside).unwrap();
    run(std::process::Command::new("cp").arg("-a").arg(&database).arg(&aside));
    run(std::process::Command::new("umount").arg(&database));
    std::fs::remove_dir(&database).unwrap();
    std::fs::rename(&aside, &database).unwrap();
    daemon.start();
}

/// What is deleted, or stops, stays so: the room to write that was kept before.
#[test]
fn a_full_disk_is_no_reason_to_forget() {
    with_disk(24, |daemon| {
        daemon.lxc(&["profile", "create", "gone"]).ok();
        for round in 0..40 {
            // More in all than the log and the rows have room for, were it not used again.
            daemon.lxc(&["config", "set", "c1", &format!("user.a={round}{}", "x".repeat(100_000))]).ok();
        }
        daemon.lxc(&["profile", "delete", "gone"]).ok();
        daemon.lxc(&["stop", "--force", "c1"]).ok();
        daemon.kill();
        daemon.start();
        assert_eq!(daemon.status("c1"), "Stopped");
        assert!(!daemon.lxc(&["profile", "list", "-f", "csv"]).ok().contains("gone"));
        daemon.lxc(&["config", "unset", "c1", "user.a"]).ok();
    });
}

/// To stop a container may be what makes room: it cannot need room itself.
#[test]
fn on_a_full_disk_a_container_can_be_stopped() {
    with_disk(2, |daemon| {
        // What is in the log already has its place; what comes has none.
        let full = || daemon.api("PATCH", "/1.0", &format!(r#"{{"config":{{"user.a":"{}"}}}}"#, "x".repeat(200_000)));
        refused(&full(), 400, "no space");
        daemon.lxc(&["stop", "--force", "c1"]).ok();
        assert_eq!(daemon.status("c1"), "Stopped");
    });
}
