//! The guest interface: what a container is told of itself, and that it is told of nobody else.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use support::{Daemon, Said, eventually, run, websocket};

/// `ask SOCKET METHOD PATH [BODY [HEADER]]` prints the answer; with `hold N` before it, N connections come first, of which 256 stand.
/// `pass SOCKET` is `ask` by a connection whose maker has ended.
const ASK: &str = r#"
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
static int dial(const char *path) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    strncpy(a.sun_path, path, sizeof a.sun_path - 1);
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(s, (void *)&a, sizeof a)) { perror("connect"); exit(9); }
    return s;
}
int main(int c, char **v) {
    static char b[1 << 16];
    int s, orphan = 0;
    if (c > 2 && !strcmp(v[1], "hold")) {
        int n = atoi(v[2]);
        c -= 2, v += 2;
        struct pollfd held[1024] = {0};
        for (int i = 0; i < n; i++) held[i].fd = dial(v[1]), held[i].events = POLLIN;
        while (poll(held, n, 20000) < n - 256) usleep(1000);
    } else if (c > 1 && !strcmp(v[1], "pass")) {
        orphan = 1, c--, v++;
    }
    if (orphan) {
        int pair[2];
        socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
        pid_t child = fork();
        char x = 0, space[CMSG_SPACE(sizeof(int))] = {0};
        struct iovec io = {&x, 1};
        struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
        if (!child) {
            s = dial(v[1]);
            struct cmsghdr *h = CMSG_FIRSTHDR(&m);
            h->cmsg_level = SOL_SOCKET, h->cmsg_type = SCM_RIGHTS, h->cmsg_len = CMSG_LEN(sizeof(int));
            memcpy(CMSG_DATA(h), &s, sizeof(int));
            sendmsg(pair[1], &m, 0);
            _exit(0);
        }
        waitpid(child, 0, 0);
        recvmsg(pair[0], &m, 0);
        memcpy(&s, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(int));
    } else
        s = dial(v[1]);
    const char *body = c > 4 ? v[4] : "", *more = c > 5 ? v[5] : "";
    int n = snprintf(b, sizeof b, "%s %s HTTP/1.1\r\nHost: lxd\r\n%s%sContent-Length: %zu\r\n\r\n%s", v[2], v[3], more,
                     *more ? "\r\n" : "Connection: close\r\n", strlen(body), body);
    if (write(s, b, n) != n) return 8;
    while ((n = read(s, b, sizeof b)) > 0)
        if (write(1, b, n) != n) return 7;
    return 0;
}
"#;

/// A daemon with running containers of these names, `/ask` in each.
fn ready(names: &[&str]) -> Daemon {
    let daemon = Daemon::ready("overlay");
    let (source, ask) = (daemon.root.join("ask.c"), daemon.root.join("ask"));
    std::fs::write(&source, ASK).unwrap();
    run(Command::new("gcc").args(["-static", "-O1", "-Wno-unused-result", "-o"]).arg(&ask).arg(&source));
    for name in names {
        daemon.lxc(&["launch", "bb", name, "-c", &format!("user.name={name}")]).ok();
        push(&daemon, name);
    }
    daemon
}

fn push(daemon: &Daemon, name: &str) {
    let ask = daemon.root.join("ask");
    daemon.lxc(&["file", "push", "--mode", "0755", ask.to_str().unwrap(), &format!("{name}/ask")]).ok();
}

fn asked(daemon: &Daemon, name: &str, arguments: &[&str]) -> Said {
    daemon.lxc(&[&["exec", name, "--", "/ask"], arguments].concat())
}

/// Status and body.
fn taken_apart(text: &str) -> (u16, String) {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[track_caller]
fn ask(daemon: &Daemon, name: &str, arguments: &[&str]) -> (u16, String) {
    taken_apart(&asked(daemon, name, arguments).ok())
}

#[track_caller]
fn get(daemon: &Daemon, name: &str, path: &str) -> (u16, String) {
    ask(daemon, name, &["/dev/lxd/sock", "GET", path])
}

#[track_caller]
fn get_json(daemon: &Daemon, name: &str, path: &str) -> Value {
    let (status, body) = get(daemon, name, path);
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// A command inside that goes on.
fn begin(daemon: &Daemon, name: &str, arguments: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new("lxc")
        .args([&["exec", name, "--", "/ask"], arguments].concat())
        .env("LXD_DIR", daemon.state())
        .env("HOME", daemon.root.join("home"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (child, out)
}

/// Reads the head of an answer.
fn head(out: &mut impl BufRead) -> String {
    let mut text = String::new();
    while !text.ends_with("\r\n\r\n") {
        assert_ne!(out.read_line(&mut text).unwrap(), 0, "{text}");
    }
    text
}

/// The next line that is an event, between the marks of chunks.
fn event(out: &mut impl BufRead) -> Value {
    loop {
        let mut line = String::new();
        assert_ne!(out.read_line(&mut line).unwrap(), 0, "the events ended");
        if line.starts_with('{') {
            return serde_json::from_str(&line).unwrap();
        }
    }
}

#[test]
fn a_container_reads_what_is_its_own() {
    let daemon = ready(&["c1"]);
    for (key, value) in [("user.foo", "bar"), ("cloud-init.user-data", "#cc"), ("user.meta-data", "x: y")] {
        daemon.lxc(&["config", "set", "c1", key, value]).ok();
    }
    assert_eq!(get(&daemon, "c1", "/"), (200, "[\"/1.0\"]\n".to_owned()));
    let about = get_json(&daemon, "c1", "/1.0");
    assert_eq!((&about["api_version"], &about["instance_type"]), (&"1.0".into(), &"container".into()));
    assert_eq!((&about["state"], &about["location"]), (&"Started".into(), &"none".into()));
    let keys =
        ["cloud-init.user-data", "user.foo", "user.meta-data", "user.name"].map(|key| format!("/1.0/config/{key}"));
    assert_eq!(get_json(&daemon, "c1", "/1.0/config"), serde_json::json!(keys));
    assert_eq!(get(&daemon, "c1", "/1.0/config/user.foo"), (200, "bar".to_owned()));
    assert_eq!(get(&daemon, "c1", "/1.0/config/cloud-init.user-data"), (200, "#cc".to_owned()));
    assert_eq!(get(&daemon, "c1", "/1.0/config/user.none"), (404, "not found\n".to_owned()));
    assert_eq!(get(&daemon, "c1", "/1.0/config/limits.cpu"), (403, "not authorized\n".to_owned()));
    assert_eq!(get(&daemon, "c1", "/1.0/config/volatile.uuid").0, 403);
    for path in ["/2", "/1.0/", "/1.0/nope", "/1.0/images/a", "/1.0/config/"] {
        assert_eq!(get(&daemon, "c1", path), (404, "404 page not found\n".to_owned()), "{path}");
    }
    let (_, data) = get(&daemon, "c1", "/1.0/meta-data");
    let lines: Vec<&str> = data.lines().collect();
    assert!(lines.len() == 4 && lines[0] == "#cloud-config" && lines[1].len() == "instance-id: ".len() + 36, "{data}");
    assert_eq!(lines[2..], ["local-hostname: c1", "x: y"]);
    // Another identity, so that cloud-init runs again, when what it reads changes, and only then.
    let identity = || get(&daemon, "c1", "/1.0/meta-data").1.lines().nth(1).unwrap().to_owned();
    assert_eq!(identity(), lines[1]);
    daemon.lxc(&["config", "set", "c1", "user.foo", "baz"]).ok();
    assert_eq!(identity(), lines[1]);
    daemon.lxc(&["config", "set", "c1", "cloud-init.user-data", "#cc"]).ok();
    assert_eq!(identity(), lines[1]);
    daemon.lxc(&["config", "set", "c1", "cloud-init.user-data", "#dd"]).ok();
    assert_ne!(identity(), lines[1]);
    daemon.lxc(&["config", "device", "add", "c1", "n", "none"]).ok();
    let devices = get_json(&daemon, "c1", "/1.0/devices");
    assert_eq!(devices["root"]["path"], "/");
    assert_eq!(devices["n"], serde_json::json!({"type": "none"}));
    for method in ["POST", "PUT", "DELETE"] {
        assert_eq!(ask(&daemon, "c1", &["/dev/lxd/sock", method, "/1.0/config/user.foo", "{}"]).0, 501, "{method}");
    }
    // Only root; and the place is nobody's to write to.
    let other = daemon.lxc(&["exec", "c1", "--user", "5", "--", "/ask", "/dev/lxd/sock", "GET", "/1.0"]).ok();
    assert_eq!(taken_apart(&other), (401, "Access denied for non-root user\n".to_owned()));
    for script in [
        "echo x > /dev/lxd/x",
        "busybox rm /dev/lxd/sock",
        "busybox mount -o remount,bind,rw /dev/lxd; echo x > /dev/lxd/x",
    ] {
        assert_ne!(daemon.lxc(&["exec", "c1", "--", "sh", "-c", script]).code, 0, "{script}");
    }
    // A process of the host is in no container, and a container inside is not its container.
    let sock = daemon.state().join("devlxd/sock");
    let host = Command::new(daemon.root.join("ask")).arg(&sock).args(["GET", "/1.0/config"]).output().unwrap();
    let none = (500, "pid not in container?\n".to_owned());
    assert_eq!(taken_apart(&String::from_utf8_lossy(&host.stdout)), none);
    let nested = ["exec", "c1", "--", "busybox", "unshare", "-pf", "/ask", "/dev/lxd/sock", "GET", "/1.0/config"];
    assert_eq!(taken_apart(&daemon.lxc(&nested).ok()), none);
    // Images only when allowed, and then only public ones.
    let (_, image) = daemon.api("GET", "/1.0/images/aliases/bb", "");
    let export = format!("/1.0/images/{}/export", image["metadata"]["target"].as_str().unwrap());
    assert_eq!(get(&daemon, "c1", &export).0, 403);
    daemon.lxc(&["config", "set", "c1", "security.devlxd.images", "true"]).ok();
    assert_eq!(get(&daemon, "c1", &export).0, 404);
    let url = export.trim_end_matches("/export");
    assert_eq!(daemon.api("PATCH", url, r#"{"public":true}"#).0, 200);
    let said = asked(&daemon, "c1", &["/dev/lxd/sock", "GET", &export]);
    assert!(said.out.starts_with("HTTP/1.1 200") && said.out.contains("name=\"rootfs\""), "{}", said.err);
}

#[test]
fn it_says_that_it_is_ready() {
    let daemon = ready(&["c1"]);
    let mut events = websocket::Socket::connect(&daemon, "/1.0/events?type=lifecycle").unwrap();
    let say = |body: &str| ask(&daemon, "c1", &["/dev/lxd/sock", "PATCH", "/1.0", body]);
    for body in ["", "{", "{}", r#"{"state":"Other"}"#, r#"{"state":"Ready","x":1}"#] {
        assert_eq!(say(body).0, 400, "{body}");
    }
    assert_eq!(say(&"x".repeat(20_000)).0, 400);
    for _ in 0..2 {
        assert_eq!(say(r#"{"state":"Ready"}"#), (200, String::new()));
    }
    let key = || daemon.lxc(&["config", "get", "c1", "volatile.last_state.ready"]).ok().trim().to_owned();
    assert_eq!(key(), "true");
    assert_eq!(get_json(&daemon, "c1", "/1.0")["state"], "Ready");
    // No client changes it.
    daemon.lxc(&["config", "unset", "c1", "volatile.last_state.ready"]).ok();
    assert_eq!(key(), "true");
    assert_eq!(say(r#"{"state":"Started"}"#).0, 200);
    assert_eq!(key(), "");
    daemon.lxc(&["config", "set", "c1", "user.end", "1"]).ok();
    let (mut ready, mut done) = (0, false);
    while !done {
        let event = events.next_json();
        ready += usize::from(event["metadata"]["action"] == "instance-ready");
        done = event["metadata"]["action"] == "instance-updated" && key_is_set(&daemon);
    }
    assert_eq!(ready, 1);
    say(r#"{"state":"Ready"}"#);
    daemon.lxc(&["restart", "--force", "c1"]).ok();
    assert_eq!(key(), "");
}

fn key_is_set(daemon: &Daemon) -> bool {
    daemon.lxc(&["config", "get", "c1", "user.end"]).ok().trim() == "1"
}

#[test]
fn another_containers_socket_is_no_way_to_its_data() {
    let daemon = ready(&["c1", "c2"]);
    // c1's own directory, shared with c2; and by the root of c1's init, through the host.
    let place = format!("source={}", daemon.state().join("devlxd").display());
    daemon.lxc(&["config", "device", "add", "c2", "theirs", "disk", &place, "path=/theirs"]).ok();
    let name = |path: &str| ask(&daemon, "c2", &[path, "GET", "/1.0/config/user.name"]);
    assert_eq!(name("/theirs/sock"), (200, "c2".to_owned()));
    assert_eq!(name("/dev/lxd/sock"), (200, "c2".to_owned()));
    // One that may not ask does not get around that by another's socket.
    daemon.lxc(&["config", "set", "c2", "security.devlxd", "false"]).ok();
    assert_eq!(name("/theirs/sock"), (403, "not authorized\n".to_owned()));
    // The maker of a connection has ended: whoever has its number now is not asked for. One that was seen before its
    // end was c1's, and its connection stays that.
    let stale = || {
        let said = asked(&daemon, "c1", &["pass", "/dev/lxd/sock", "GET", "/1.0/config/user.name"]).ok();
        taken_apart(&said)
    };
    eventually("it has ended before it is looked at", || {
        let (status, body) = stale();
        assert!(status == 500 || (status, body.as_str()) == (200, "c1"), "{status} {body}");
        status == 500
    });
}

#[test]
fn it_can_be_switched_off_and_on() {
    let daemon = ready(&["c1"]);
    let there = || daemon.lxc(&["exec", "c1", "--", "/ask", "/dev/lxd/sock", "GET", "/"]).code == 0;
    let (mut child, mut out) = begin(&daemon, "c1", &["/dev/lxd/sock", "GET", "/1.0/events"]);
    head(&mut out);
    daemon.lxc(&["config", "set", "c1", "security.devlxd", "false"]).ok();
    // Who listens hears no more.
    out.read_to_end(&mut Vec::new()).unwrap();
    child.wait().unwrap();
    assert!(!there());
    daemon.lxc(&["restart", "--force", "c1"]).ok();
    assert_ne!(daemon.lxc(&["exec", "c1", "--", "ls", "/dev/lxd"]).code, 0, "it is not there from the start");
    daemon.lxc(&["profile", "set", "default", "security.devlxd", "true"]).ok();
    assert!(!there());
    daemon.lxc(&["config", "set", "c1", "security.devlxd", "true"]).ok();
    assert!(there());
    // What cannot be had in full is not had at all.
    let (status, _) = daemon.api(
        "PATCH",
        "/1.0/instances/c1",
        r#"{"config":{"security.devlxd":"false"},"devices":{"b":{"type":"disk","path":"/bb","source":"/nowhere"}}}"#,
    );
    assert_eq!(status, 400);
    assert!(there());
    daemon.lxc(&["config", "unset", "c1", "security.devlxd"]).ok();
    assert!(there());
    daemon.lxc(&["profile", "set", "default", "security.devlxd", "false"]).ok();
    assert!(!there());
}

#[test]
fn changes_are_told() {
    let daemon = ready(&["c1", "c2"]);
    let (mut child, mut out) = begin(&daemon, "c1", &["/dev/lxd/sock", "GET", "/1.0/events"]);
    assert!(head(&mut out).starts_with("HTTP/1.1 200"));
    let (mut other, mut only) = begin(&daemon, "c1", &["/dev/lxd/sock", "GET", "/1.0/events?type=device"]);
    head(&mut only);
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let (mut third, mut socket) = begin(&daemon, "c1", &["/dev/lxd/sock", "GET", "/1.0/events", "", upgrade]);
    assert!(head(&mut socket).starts_with("HTTP/1.1 101"));
    daemon.lxc(&["config", "set", "c2", "user.foo", "secret"]).ok();
    daemon.lxc(&["config", "set", "c1", "user.foo=1", "limits.memory=100MB"]).ok();
    daemon.lxc(&["profile", "set", "default", "user.prof", "p"]).ok();
    daemon.lxc(&["config", "device", "add", "c1", "d", "disk", "source=/opt", "path=/x"]).ok();
    daemon.lxc(&["config", "device", "set", "c1", "d", "limits.read", "10MB"]).ok();
    daemon.lxc(&["config", "device", "remove", "c1", "d"]).ok();
    for (key, value) in [("user.foo", "1"), ("user.prof", "p")] {
        let event = event(&mut out);
        assert_eq!(event["type"], "config");
        assert_eq!(event["metadata"], serde_json::json!({"key": key, "old_value": "", "value": value}));
        assert!(event["timestamp"].is_string());
    }
    for action in ["added", "updated", "removed"] {
        for stream in [&mut out, &mut only] {
            let event = event(stream);
            assert_eq!((&event["type"], &event["metadata"]["action"]), (&"device".into(), &action.into()), "{event}");
            assert_eq!(event["metadata"]["name"], "d");
        }
    }
    // A frame: a text, its length, the text.
    let mut frame = [0; 2];
    socket.read_exact(&mut frame).unwrap();
    assert_eq!(frame[0], 0x81);
    assert_eq!(ask(&daemon, "c1", &["/dev/lxd/sock", "GET", "/1.0/events?type=config,operation"]).0, 400);
    daemon.lxc(&["stop", "--force", "c1"]).ok();
    for child in [&mut child, &mut other, &mut third] {
        child.wait().unwrap();
    }
}

#[test]
fn many_at_once_are_answered_and_too_many_are_not() {
    let daemon = ready(&["c1", "c2"]);
    let script = "i=0; while [ $i -lt 200 ]; do /ask /dev/lxd/sock GET /1.0/config/user.name > /tmp/$i & i=$((i+1)); done; wait; cat /tmp/*";
    let said = daemon.lxc(&["exec", "c1", "--", "sh", "-c", script]).ok();
    assert_eq!(said.matches("HTTP/1.1 200").count(), 200);
    assert_eq!(said.matches("\r\n\r\nc1").count(), 200);
    // All places taken by connections that say nothing.
    let full = asked(&daemon, "c1", &["hold", "300", "/dev/lxd/sock", "GET", "/1.0"]);
    assert!(!full.out.contains("200"), "{}", full.out);
    assert_eq!(get(&daemon, "c2", "/1.0").0, 200);
    eventually("its places are free again", || {
        asked(&daemon, "c1", &["/dev/lxd/sock", "GET", "/1.0"]).out.contains("HTTP/1.1 200")
    });
}

#[test]
fn it_is_there_again_with_the_next_daemon() {
    let mut daemon = ready(&["c1"]);
    daemon.kill();
    daemon.start();
    assert_eq!(get(&daemon, "c1", "/1.0/config/user.name"), (200, "c1".to_owned()));
    daemon.terminate();
    assert!(!Path::new(&daemon.state().join("devlxd/sock")).exists());
    daemon.start();
    assert_eq!(get(&daemon, "c1", "/1.0/config/user.name"), (200, "c1".to_owned()));
}

#[test]
fn the_first_process_may_ask_at_once() {
    let daemon = ready(&["c1"]);
    let script = "#!/bin/sh\n/ask /dev/lxd/sock GET /1.0/config/user.name > /answer\n";
    let rc = daemon.root.join("rc");
    std::fs::write(&rc, script).unwrap();
    daemon.lxc(&["file", "push", "--mode", "0755", rc.to_str().unwrap(), "c1/etc/rc"]).ok();
    daemon.lxc(&["restart", "--force", "c1"]).ok();
    let answer = || daemon.lxc(&["exec", "c1", "--", "cat", "/answer"]).out;
    eventually("an answer", || answer().contains("\r\n\r\n"));
    assert_eq!(taken_apart(&answer()), (200, "c1".to_owned()));
}

/// Each is told of itself, and sees the images that its project sees.
#[test]
fn of_two_with_one_name_each_is_told_of_itself() {
    let daemon = ready(&["c1"]);
    let source = daemon.root.join("ask");
    daemon.lxc(&["image", "alias", "list"]).ok();
    let target = daemon.api("GET", "/1.0/images/aliases/bb", "").1["metadata"]["target"].as_str().unwrap().to_owned();
    daemon.api("PATCH", &format!("/1.0/images/{target}"), r#"{"public":true}"#);
    for (project, images, status) in [("shares", "false", 200), ("own", "true", 404)] {
        let lxc = |words: &[&str]| daemon.lxc(&[&["--project", project], words].concat()).ok();
        let features = format!("features.images={images}");
        daemon.lxc(&["project", "create", project, "-c", "features.profiles=false", "-c", &features]).ok();
        lxc(&["init", "--empty", "e1"]);
        let image = format!("/1.0/images/{target}/export");
        // One project has no image to launch: the instance moves in.
        daemon.lxc(&["init", "bb", "moves", "-c", "security.devlxd.images=true"]).ok();
        daemon.lxc(&["move", "moves", "c1", "--target-project", project]).ok();
        lxc(&["config", "set", "c1", &format!("user.name={project}")]);
        lxc(&["start", "c1"]);
        lxc(&["file", "push", "--mode", "0755", source.to_str().unwrap(), "c1/ask"]);
        let told = |path: &str| taken_apart(&lxc(&["exec", "c1", "--", "/ask", "/dev/lxd/sock", "GET", path]));
        assert_eq!(told("/1.0/config/user.name"), (200, project.to_owned()));
        // The export is no text: its head says enough.
        let head = lxc(&["exec", "c1", "--", "sh", "-c", &format!("/ask /dev/lxd/sock GET {image} | head -n 1")]);
        assert!(head.contains(&status.to_string()), "{project}: {head}");
    }
    assert_eq!(get(&daemon, "c1", "/1.0/config/user.name"), (200, "c1".to_owned()));
}
