//! Roles by the groups of who connects the unix socket: read-only, or one project.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use rustix::process::{Gid, Uid};
use serde_json::{Value, json};
use support::Daemon;
use support::api::{done, get, refused};
use support::http::{Answer, read_head};
use support::tls::set;
use support::websocket::Socket;

/// Groups of no user of any host.
const READERS: u32 = 4_000_001;
const OWNERS: u32 = 4_000_002;
const OTHERS: u32 = 4_000_003;

/// Does `work` on a thread that is nobody in these groups: who connects is asked of the thread.
fn as_member<T: Send>(groups: &[u32], work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let member = scope.spawn(|| {
            let gids: Vec<Gid> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
            let (gid, uid) = (Gid::from_raw(65534), Uid::from_raw(65534));
            rustix::thread::set_thread_groups(&gids).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            work()
        });
        member.join().unwrap()
    })
}

fn ask(daemon: &Daemon, groups: &[u32], method: &str, path: &str, body: &str) -> Answer {
    as_member(groups, || daemon.ask(method, path, &[], body.as_bytes()))
}

/// Whether the socket lets such a user in.
fn connects(daemon: &Daemon, groups: &[u32]) -> bool {
    match as_member(groups, || UnixStream::connect(daemon.socket())) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            false
        }
    }
}

/// A daemon with a pool, the project `mine`, and an instance in that and in `default`.
fn filled() -> Daemon {
    let daemon = Daemon::bare();
    // Others may pass, as in /var/lib.
    for dir in [daemon.root.as_path(), daemon.state().as_path()] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o711)).unwrap();
    }
    done(&daemon, "POST", "/1.0/storage-pools", &json!({"name": "p", "driver": "dir"}));
    done(&daemon, "POST", "/1.0/projects", &json!({"name": "mine"}));
    let root = json!({"devices": {"root": {"type": "disk", "path": "/", "pool": "p"}}});
    for (project, name) in [("default", "hidden"), ("mine", "own")] {
        done(&daemon, "PATCH", &format!("/1.0/profiles/default?project={project}"), &root);
        let body = json!({"name": name, "source": {"type": "none"}});
        done(&daemon, "POST", &format!("/1.0/instances?project={project}"), &body);
    }
    daemon
}

fn roles(daemon: &Daemon, value: &str) {
    let (status, answer) = set(daemon, "core.unix_roles", value);
    assert_eq!(status, 200, "{answer}");
}

fn lists(daemon: &Daemon) -> Vec<Value> {
    ["instances?recursion=1&all-projects=true", "profiles?recursion=1", "projects?recursion=1", "certificates"]
        .iter()
        .map(|path| get(daemon, &format!("/1.0/{path}")))
        .collect()
}

#[test]
fn readers_see_and_change_nothing() {
    let daemon = filled();
    roles(&daemon, &format!("{READERS}=read-only"));
    let before = lists(&daemon);
    let body = json!({"name": "evil", "type": "custom", "driver": "dir", "config": {"user.x": "1"}}).to_string();
    let (mut read, mut refused) = (0, 0);
    for (route, methods) in warren::api::routes() {
        let in_pool = route.starts_with("/1.0/storage-pools/{name}");
        let name = |part: &str| match part {
            "{name}" if in_pool => "p",
            "{name}" if route.starts_with("/1.0/projects/") => "mine",
            "{type}" => "custom",
            _ => "hidden",
        };
        let parts = route.split('/').map(|part| if part.starts_with('{') { name(part) } else { part }.to_owned());
        let path = parts.collect::<Vec<_>>().join("/");
        for method in methods {
            if method == http::Method::HEAD {
                continue;
            }
            let answer = ask(&daemon, &[OTHERS, READERS], method.as_str(), &path, &body);
            let inside = ["/files", "/sftp", "/console", "/websocket"].iter().any(|end| path.ends_with(end))
                || route.ends_with("/logs/{file}");
            if method != http::Method::GET || inside || path.starts_with("/internal/") {
                assert_eq!(answer.status, 403, "{method} {path}: {answer:?}");
                refused += 1;
            } else {
                assert!(matches!(answer.status, 200 | 400 | 404), "{method} {path}: {answer:?}");
                read += usize::from(answer.status == 200);
            }
        }
    }
    assert!(read > 25 && refused > 80, "{read} {refused}");
    assert_eq!(lists(&daemon), before);
    ask(&daemon, &[READERS], "DELETE", "/1.0/instances/hidden", "").refused(403, "only read");
    // As root sees it, all projects too.
    let all = ask(&daemon, &[READERS], "GET", "/1.0/instances?all-projects=true", "").json()["metadata"].clone();
    assert_eq!(all.as_array().unwrap().len(), 2);
    let server = ask(&daemon, &[READERS], "GET", "/1.0", "").json()["metadata"].clone();
    assert_eq!(server["auth"], "trusted");
    assert!(server["config"]["core.unix_roles"].is_string());
}

#[test]
fn readers_learn_no_secret_of_an_operation() {
    let daemon = filled();
    roles(&daemon, &format!("{READERS}=read-only,{OWNERS}=project:mine"));
    assert_eq!(set(&daemon, "core.https_address", "127.0.0.1:0").0, 200);
    let (status, token) = daemon.api("POST", "/1.0/certificates", r#"{"token": true, "name": "secret-of-root"}"#);
    assert_eq!(status, 202);
    let url = token["operation"].as_str().unwrap();
    for groups in [&[READERS][..], &[OWNERS]] {
        for query in ["?recursion=1", "?recursion=1&all-projects=true", "?recursion=1&project=mine"] {
            let told = ask(&daemon, groups, "GET", &format!("/1.0/operations{query}"), "").text();
            assert!(!told.contains("secret-of-root"), "{told}");
        }
        ask(&daemon, groups, "GET", url, "").refused(404, "Operation not found");
        ask(&daemon, groups, "GET", &format!("{url}/wait?timeout=0"), "").refused(404, "Operation not found");
    }
    // Of events, those that tell what has happened.
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    for (groups, query, status) in [
        (READERS, "type=operation", "403"),
        (READERS, "type=logging", "403"),
        (READERS, "type=lifecycle", "101"),
        (READERS, "", "101"),
        (OWNERS, "", "403"),
        (OWNERS, "project=mine", "101"),
        (OWNERS, "project=mine&type=logging", "403"),
    ] {
        let head = as_member(&[groups], || {
            let mut stream = UnixStream::connect(daemon.socket()).unwrap();
            write!(stream, "GET /1.0/events?{query} HTTP/1.1\r\nHost: x\r\n{upgrade}").unwrap();
            read_head(&mut stream)
        });
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{groups} {query}: {head}");
    }
}

#[test]
fn a_group_has_its_project_and_no_other() {
    let daemon = filled();
    roles(&daemon, &format!("{OWNERS}=project:mine"));
    let owner = |method: &str, path: &str, body: &str| ask(&daemon, &[OWNERS], method, path, body);
    owner("GET", "/1.0/instances", "").refused(403, "not authorized");
    owner("GET", "/1.0/instances/hidden", "").refused(403, "not authorized");
    owner("GET", "/1.0/warnings", "").refused(403, "not authorized");
    owner("PATCH", "/1.0", r#"{"config": {"user.x": "1"}}"#).refused(403, "not authorized");
    owner("PATCH", "/1.0", r#"{"config": {"core.unix_roles": ""}}"#).refused(403, "not authorized");
    owner("PUT", "/internal/shutdown", "").refused(403, "not authorized");
    owner("POST", "/internal/sql", r#"{"query": "select 1"}"#).refused(403, "not authorized");
    owner("POST", "/1.0/certificates", r#"{"token": true, "name": "x"}"#).refused(403, "not authorized");
    assert_eq!(
        owner("GET", "/1.0/instances?project=mine", "").is(200).json()["metadata"][0],
        "/1.0/instances/own?project=mine"
    );
    owner("PATCH", "/1.0/instances/own?project=mine", r#"{"description": "x"}"#).is(200);
    let made = owner("POST", "/1.0/instances?project=mine", r#"{"name": "new", "source": {"type": "none"}}"#).is(202);
    let operation = made.json()["operation"].as_str().unwrap().to_owned();
    let done = owner("GET", &format!("{operation}/wait?project=mine"), "").is(200).json();
    assert_eq!(done["metadata"]["err"], "");
}

#[test]
fn the_socket_opens_to_groups_with_roles_and_closes_again() {
    let mut daemon = filled();
    assert!(!connects(&daemon, &[READERS]) && !connects(&daemon, &[]));
    roles(&daemon, &format!("{READERS}=read-only, {OWNERS}=project:mine"));
    assert!(connects(&daemon, &[READERS]) && connects(&daemon, &[OTHERS, OWNERS]));
    assert!(!connects(&daemon, &[OTHERS]) && !connects(&daemon, &[]));
    // Who has several roles has the first.
    ask(&daemon, &[READERS, OWNERS], "PATCH", "/1.0/instances/own?project=mine", "{}").refused(403, "only read");
    // The next daemon keeps to it.
    daemon.terminate();
    daemon.start();
    assert!(connects(&daemon, &[READERS]) && !connects(&daemon, &[OTHERS]));
    ask(&daemon, &[READERS], "GET", "/1.0/instances", "").is(200);
    // A connection that stands is one of a stranger when the role is gone.
    let standing = as_member(&[READERS], || UnixStream::connect(daemon.socket()).unwrap());
    roles(&daemon, "");
    assert!(!connects(&daemon, &[READERS]));
    let mut standing = standing;
    write!(standing, "GET /1.0/instances HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(read_head(&mut standing).starts_with("HTTP/1.1 403"));
    let mode = std::fs::metadata(daemon.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[test]
fn roles_that_cannot_be_are_refused() {
    let daemon = filled();
    for (value, word) in [
        ("nosuchgroup=read-only", "there is no group \\\"nosuchgroup\\\""),
        ("4000001=project:nosuch", "there is no project \\\"nosuch\\\""),
        ("4000001=admin", "the role must be read-only or project:NAME"),
        ("4000001", "is not GROUP=read-only"),
    ] {
        let body = json!({"config": {"core.unix_roles": value}});
        refused(&daemon, "PATCH", "/1.0", &body, 400, &word.replace("\\\"", "\""));
    }
    assert!(get(&daemon, "/1.0")["config"].get("core.unix_roles").is_none());
    assert!(!connects(&daemon, &[READERS]));
}

#[test]
fn what_streams_ends_with_the_role() {
    let daemon = filled();
    roles(&daemon, &format!("{READERS}=read-only, {OWNERS}=project:mine"));
    let listen = |groups: &[u32], query: &str| {
        as_member(groups, || Socket::connect(&daemon, &format!("/1.0/events?type=lifecycle{query}")).unwrap())
    };
    let (mut reader, mut owner) = (listen(&[READERS], ""), listen(&[OWNERS], "&project=mine"));
    let mut root = Socket::connect(&daemon, "/1.0/events?type=lifecycle").unwrap();
    let withdrawn = |socket: &mut Socket| {
        let (_, _, (code, reason)) = socket.rest();
        assert!(code == 1008 && reason.contains("not trusted"), "{code} {reason}");
    };
    roles(&daemon, &format!("{READERS}=read-only"));
    withdrawn(&mut owner);
    reader.until("config-updated");
    roles(&daemon, "");
    withdrawn(&mut reader);
    done(&daemon, "POST", "/1.0/profiles", &json!({"name": "later"}));
    root.until("profile-created");
}
