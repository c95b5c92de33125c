//! What `/1.0/events` tells: operations to their ends, and every change by its name, with who asked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use support::Daemon;
use support::websocket::Socket;

/// Clients wait by events alone: the last one of each operation must come, and what it tells must be so by then.
#[test]
fn of_two_hundred_operations_at_once_no_end_is_lost_and_none_overtakes_its_result() {
    const CLIENTS: usize = 8;
    const EACH: usize = 25;
    let daemon = Daemon::bare();
    daemon.set_up("dir");
    let mut listeners = [Socket::connect(&daemon, "/1.0/events?type=operation").unwrap()].into_iter().chain(
        // One that looks at nothing does not hold up the others.
        [Socket::connect(&daemon, "/1.0/events").unwrap()],
    );
    let mut events = listeners.next().unwrap();
    let _idle = listeners.next().unwrap();
    let started: BTreeMap<String, String> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let daemon = &daemon;
                scope.spawn(move || {
                    let one = |number| {
                        let name = format!("c{client}-{number}");
                        let body = json!({"name": name, "source": {"type": "none"}}).to_string();
                        let (status, answer) = daemon.api("POST", "/1.0/instances", &body);
                        assert_eq!(status, 202, "{answer}");
                        (answer["metadata"]["id"].as_str().unwrap().to_owned(), name)
                    };
                    (0..EACH).map(one).collect::<Vec<_>>()
                })
            })
            .collect();
        let mut open = CLIENTS * EACH;
        let mut seen: BTreeMap<String, i64> = BTreeMap::new();
        while open > 0 {
            let event = events.next_json();
            let operation = &event["metadata"];
            let id = operation["id"].as_str().unwrap();
            let code = operation["status_code"].as_i64().unwrap();
            let before = seen.insert(id.to_owned(), code);
            assert!(before.is_none_or(|before| before < 200), "{id}: {code} after {before:?}");
            if code < 200 {
                continue;
            }
            open -= 1;
            let url = format!("/1.0/operations/{id}");
            let (status, answer) = daemon.api("GET", &url, "");
            assert_eq!((status, answer["metadata"]["status_code"].as_i64()), (200, Some(code)), "{answer}");
            let instance = operation["resources"]["instances"][0].as_str().unwrap();
            assert_eq!(daemon.api("GET", instance, "").1["metadata"]["status"], "Stopped", "{instance}");
        }
        let started = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        assert!(seen.values().all(|code| *code == 200), "{seen:?}");
        started
    });
    assert_eq!(started.len(), CLIENTS * EACH);
    for name in started.values() {
        daemon.operation("DELETE", &format!("/1.0/instances/{name}"), "");
    }
}

/// The names are those of LXD's API; scripts and audit tools match them.
#[test]
fn every_change_is_told_by_its_name_with_who_asked() {
    let daemon = Daemon::ready("overlay");
    let fingerprint = daemon.api("GET", "/1.0/images/aliases/bb", "").1["metadata"]["target"].clone();
    let fingerprint = fingerprint.as_str().unwrap();
    let mut events = Socket::connect(&daemon, "/1.0/events?type=lifecycle").unwrap();
    let image = format!("/1.0/images/{fingerprint}");
    let from = r#"{"name":"c1","source":{"type":"image","alias":"bb"}}"#;
    let state = |action: &str| format!(r#"{{"action":"{action}","force":true}}"#);
    let exec = r#"{"command":["true"],"wait-for-websocket":false,"interactive":false}"#;
    let alias = format!(r#"{{"name":"al","target":"{fingerprint}"}}"#);
    let alias_put = format!(r#"{{"description":"x","target":"{fingerprint}"}}"#);
    let pool = r#"{"name":"q","driver":"dir"}"#;
    // Method, path, body, action, source.
    let rows: &[(&str, &str, &str, &str, &str)] = &[
        ("POST", "/1.0/instances", from, "instance-created", "/1.0/instances/c1"),
        ("PATCH", "/1.0/instances/c1", r#"{"description":"x"}"#, "instance-updated", "/1.0/instances/c1"),
        ("PUT", "/1.0/instances/c1/state", &state("start"), "instance-started", "/1.0/instances/c1"),
        ("PUT", "/1.0/instances/c1/state", &state("freeze"), "instance-paused", "/1.0/instances/c1"),
        ("PUT", "/1.0/instances/c1/state", &state("unfreeze"), "instance-resumed", "/1.0/instances/c1"),
        ("POST", "/1.0/instances/c1/exec", exec, "instance-exec", "/1.0/instances/c1"),
        ("POST", "/1.0/instances/c1/files?path=/root/f", "x", "instance-file-pushed", "/1.0/instances/c1"),
        ("GET", "/1.0/instances/c1/files?path=/root/f", "", "instance-file-retrieved", "/1.0/instances/c1"),
        ("DELETE", "/1.0/instances/c1/files?path=/root/f", "", "instance-file-deleted", "/1.0/instances/c1"),
        ("DELETE", "/1.0/instances/c1/console", "", "instance-console-reset", "/1.0/instances/c1"),
        ("PUT", "/1.0/instances/c1/state", &state("restart"), "instance-restarted", "/1.0/instances/c1"),
        ("PUT", "/1.0/instances/c1/state", &state("stop"), "instance-stopped", "/1.0/instances/c1"),
        ("POST", "/1.0/instances/c1", r#"{"name":"c2"}"#, "instance-renamed", "/1.0/instances/c2"),
        ("DELETE", "/1.0/instances/c2", "", "instance-deleted", "/1.0/instances/c2"),
        ("PATCH", &image, r#"{"properties":{"a":"b"}}"#, "image-updated", &image),
        ("POST", "/1.0/images/aliases", &alias, "image-alias-created", "/1.0/images/aliases/al"),
        ("PUT", "/1.0/images/aliases/al", &alias_put, "image-alias-updated", "/1.0/images/aliases/al"),
        ("POST", "/1.0/images/aliases/al", r#"{"name":"am"}"#, "image-alias-renamed", "/1.0/images/aliases/am"),
        ("DELETE", "/1.0/images/aliases/am", "", "image-alias-deleted", "/1.0/images/aliases/am"),
        ("POST", "/1.0/profiles", r#"{"name":"p1"}"#, "profile-created", "/1.0/profiles/p1"),
        ("PATCH", "/1.0/profiles/p1", r#"{"description":"x"}"#, "profile-updated", "/1.0/profiles/p1"),
        ("POST", "/1.0/profiles/p1", r#"{"name":"p2"}"#, "profile-renamed", "/1.0/profiles/p2"),
        ("DELETE", "/1.0/profiles/p2", "", "profile-deleted", "/1.0/profiles/p2"),
        ("POST", "/1.0/storage-pools", pool, "storage-pool-created", "/1.0/storage-pools/q"),
        ("PATCH", "/1.0/storage-pools/q", r#"{"description":"x"}"#, "storage-pool-updated", "/1.0/storage-pools/q"),
        ("DELETE", "/1.0/storage-pools/q", "", "storage-pool-deleted", "/1.0/storage-pools/q"),
        ("PATCH", "/1.0", r#"{"config":{"user.a":"b"}}"#, "config-updated", "/1.0"),
        ("DELETE", &image, "", "image-deleted", &image),
    ];
    for (method, path, body, action, source) in rows {
        let (status, text) = daemon.request(method, path, &[], body.as_bytes());
        // A file is no JSON.
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        assert!(status < 300, "{method} {path}: {answer}");
        if let Some(operation) = answer["operation"].as_str().filter(|url| !url.is_empty()) {
            let done = daemon.api("GET", &format!("{operation}/wait"), "").1;
            assert_eq!(done["metadata"]["status_code"], 200, "{method} {path}: {done}");
        }
        let event = events.next_json();
        assert_eq!(event["type"], "lifecycle");
        let told = &event["metadata"];
        assert_eq!(told["action"], *action, "{method} {path}: {event}");
        assert_eq!(told["source"], *source, "{method} {path}: {event}");
        assert_eq!(event["project"], "default");
        let who = json!({"username": "root", "protocol": "unix", "address": "@", "uid": 0});
        assert_eq!(told["requestor"], who, "{method} {path}");
        // Details have LXD's names.
        let details = match *action {
            "instance-created" => json!({"storage-pool": "p", "type": "container"}),
            "instance-exec" => json!({"command": ["true"]}),
            "instance-renamed" => json!({"old_name": "c1"}),
            "image-alias-created" => json!({"target": fingerprint}),
            "image-alias-renamed" => json!({"old_name": "al"}),
            "profile-renamed" => json!({"old_name": "p1"}),
            action if action.starts_with("instance-file-") => json!({"path": "/root/f"}),
            _ => Value::Null,
        };
        assert_eq!(told["context"], details, "{method} {path}");
    }
    assert_eq!(daemon.api("GET", "/1.0/images", "").1["metadata"], Value::Array(Vec::new()));
}
