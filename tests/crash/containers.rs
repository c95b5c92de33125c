//! Verbs of instances.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::caller::Caller;
use super::support::{Daemon, eventually};
use super::{Verb, done, gone, shown};

pub(super) fn url(name: &str) -> String {
    format!("/1.0/instances/{name}")
}

fn body(name: &str) -> String {
    json!({"name": name, "source": {"type": "image", "alias": "bb"}, "description": "old"}).to_string()
}

pub(super) fn stopped(daemon: &Daemon, name: &str) {
    done(daemon, "POST", "/1.0/instances", &body(name));
}

pub(super) fn running(daemon: &Daemon, name: &str) {
    stopped(daemon, name);
    state(&Caller { socket: daemon.socket() }, name, "start");
}

pub(super) fn state(caller: &Caller, name: &str, action: &str) {
    let body = json!({"action": action, "force": true}).to_string();
    caller.call("PUT", &format!("{}/state", url(name)), &body);
}

/// Stopped, and never started: templates are due.
fn with_templates(daemon: &Daemon, name: &str) {
    stopped(daemon, name);
    let template = |when: &str| json!({"when": [when], "template": "a.tpl"});
    let templates = json!({"/etc/made": template("create"), "/etc/each": template("start")});
    let metadata = json!({"architecture": "x86_64", "creation_date": 1, "templates": templates});
    done(daemon, "PUT", &format!("{}/metadata", url(name)), &metadata.to_string());
    let path = format!("{}/metadata/templates?path=a.tpl", url(name));
    let kind = [("Content-Type", "application/octet-stream")];
    daemon.ask("POST", &path, &kind, b"{{ trigger }} {{ container.name }}").is(200);
}

/// Its state is one of these, and it works in that state.
#[track_caller]
pub(super) fn is_one_of(daemon: &Daemon, name: &str, states: &[&str]) {
    let status = daemon.status(name);
    assert!(states.contains(&status.as_str()), "{name} is {status}, not one of {states:?}");
    if status != "none" {
        let answer = daemon.ask("GET", &format!("{}/files?path=/etc/passwd", url(name)), &[], b"");
        if answer.status != 200 && daemon.status(name) != status {
            // It was going down still when it was asked for the first time.
            eventually("it is up or down", || ["Running", "Stopped", "none"].contains(&daemon.status(name).as_str()));
            return is_one_of(daemon, name, &["Running", "Stopped", "none"]);
        }
        assert_eq!(answer.status, 200);
    }
    if status == "Running" {
        // Asked to shut down before the crash, it may go down just now.
        eventually("it runs a command or is down", || {
            let (_, begun) = daemon.api("POST", &format!("{}/exec", url(name)), r#"{"command":["true"]}"#);
            let ended = begun["operation"].as_str().filter(|operation| !operation.is_empty());
            let ended = ended.map(|operation| daemon.api("GET", &format!("{operation}/wait"), "").1);
            ended.is_some_and(|ended| ended["metadata"]["metadata"]["return"] == 0)
                || ["Stopped", "none"].contains(&daemon.status(name).as_str())
        });
    }
}

pub(super) fn remove(daemon: &Daemon, name: &str) {
    for name in [name.to_owned(), format!("{name}-new")] {
        if matches!(daemon.status(&name).as_str(), "Running" | "Frozen") {
            done(daemon, "PUT", &format!("{}/state", url(&name)), r#"{"action":"stop","force":true}"#);
        }
        gone(daemon, &url(&name));
    }
}

fn nothing(_: &Daemon, _: &str) {}

/// The hardware address of [`leasing`].
fn hwaddr(name: &str) -> String {
    let [a, b, ..] = name.as_bytes() else { unreachable!() };
    format!("00:16:3e:77:{a:02x}:{b:02x}")
}

fn has_lease(daemon: &Daemon, name: &str) -> bool {
    let leases = shown(daemon, "/1.0/networks/wcbr0/leases");
    leases.as_array().unwrap().iter().any(|lease| lease["hwaddr"] == hwaddr(name).as_str())
}

/// Running, with an address by DHCP.
fn leasing(daemon: &Daemon, name: &str) {
    let nic = json!({"type": "nic", "network": "wcbr0", "name": "eth0", "hwaddr": hwaddr(name)});
    let source = json!({"type": "image", "alias": "bb"});
    let body = json!({"name": name, "source": source, "devices": {"eth0": nic}});
    done(daemon, "POST", "/1.0/instances", &body.to_string());
    done(daemon, "PUT", &format!("{}/state", url(name)), r#"{"action":"start"}"#);
    eventually("it has an address", || has_lease(daemon, name));
}

pub(super) const LIVES: &[Verb] = &[
    Verb {
        name: "take a nic away, and what DHCP has leased to it",
        prepare: leasing,
        act: |caller, name| drop(caller.call("PATCH", &url(name), r#"{"devices":{"eth0":{"type":"none"}}}"#)),
        holds: |daemon, name| {
            let is_there = shown(daemon, &url(name))["devices"]["eth0"]["type"] == "nic";
            assert_eq!(has_lease(daemon, name), is_there);
        },
        tidy: remove,
    },
    Verb {
        name: "create an instance",
        prepare: nothing,
        act: |caller, name| drop(caller.call("POST", "/1.0/instances", &body(name))),
        holds: |daemon, name| {
            is_one_of(daemon, name, &["none", "Stopped"]);
            // What was made is whole; what was not can be made.
            if daemon.status(name) == "none" {
                stopped(daemon, name);
            }
            done(daemon, "PUT", &format!("{}/state", url(name)), r#"{"action":"start"}"#);
        },
        tidy: remove,
    },
    Verb {
        name: "start an instance",
        prepare: stopped,
        act: |caller, name| state(caller, name, "start"),
        holds: |daemon, name| is_one_of(daemon, name, &["Running", "Stopped"]),
        tidy: remove,
    },
    Verb {
        name: "start an instance with templates",
        prepare: with_templates,
        act: |caller, name| state(caller, name, "start"),
        holds: |daemon, name| {
            is_one_of(daemon, name, &["Running", "Stopped"]);
            if daemon.status(name) == "Stopped" {
                done(daemon, "PUT", &format!("{}/state", url(name)), r#"{"action":"start"}"#);
            }
            // Whichever start it was, what was due has been done, and is not due any more.
            for (path, text) in [("/etc/made", format!("create {name}")), ("/etc/each", format!("start {name}"))] {
                let answer = daemon.ask("GET", &format!("{}/files?path={path}", url(name)), &[], b"").is(200);
                assert_eq!(answer.text(), text);
            }
            assert!(shown(daemon, &url(name))["config"].get("volatile.apply_template").is_none());
        },
        tidy: remove,
    },
    Verb {
        name: "start an instance for Docker",
        prepare: |daemon, name| {
            let source = json!({"type": "image", "alias": "bb"});
            let body = json!({"name": name, "source": source, "profiles": ["default", "docker"]});
            done(daemon, "POST", "/1.0/instances", &body.to_string());
        },
        act: |caller, name| state(caller, name, "start"),
        holds: |daemon, name| is_one_of(daemon, name, &["Running", "Stopped"]),
        tidy: remove,
    },
    Verb {
        name: "stop an instance",
        prepare: running,
        act: |caller, name| state(caller, name, "stop"),
        holds: |daemon, name| is_one_of(daemon, name, &["Running", "Stopped"]),
        tidy: remove,
    },
    Verb {
        name: "restart an instance",
        prepare: running,
        act: |caller, name| state(caller, name, "restart"),
        holds: |daemon, name| is_one_of(daemon, name, &["Running"]),
        tidy: remove,
    },
    Verb {
        name: "stop an ephemeral instance",
        prepare: |daemon, name| {
            let body = json!({"name": name, "source": {"type": "image", "alias": "bb"}, "ephemeral": true});
            done(daemon, "POST", "/1.0/instances", &body.to_string());
            state(&Caller { socket: daemon.socket() }, name, "start");
        },
        act: |caller, name| state(caller, name, "stop"),
        holds: |daemon, name| is_one_of(daemon, name, &["Running", "none"]),
        tidy: remove,
    },
    Verb {
        name: "rename an instance",
        prepare: stopped,
        act: |caller, name| drop(caller.call("POST", &url(name), &json!({"name": format!("{name}-new")}).to_string())),
        holds: |daemon, name| {
            let new = format!("{name}-new");
            let now = [daemon.status(name), daemon.status(&new)];
            assert!(now == ["none", "Stopped"] || now == ["Stopped", "none"], "{now:?}");
            let name = if now[0] == "none" { new.as_str() } else { name };
            is_one_of(daemon, name, &["Stopped"]);
        },
        tidy: remove,
    },
    Verb {
        name: "delete an instance",
        prepare: stopped,
        act: |caller, name| drop(caller.call("DELETE", &url(name), "")),
        holds: |daemon, name| is_one_of(daemon, name, &["none", "Stopped"]),
        tidy: remove,
    },
    Verb {
        name: "many instances",
        prepare: |daemon, name| {
            stopped(daemon, &format!("{name}-new"));
            running(daemon, name);
        },
        act: |caller, name| {
            let (one, two) = (caller.clone(), caller.clone());
            let (first, second) = (name.to_owned(), format!("{name}-new"));
            let threads = [
                std::thread::spawn(move || state(&one, &first, "stop")),
                std::thread::spawn(move || state(&two, &second, "start")),
            ];
            for number in 0..3 {
                caller.call("POST", "/1.0/instances", &body(&format!("m{number}")));
            }
            drop(threads.map(std::thread::JoinHandle::join));
        },
        holds: |daemon, name| {
            for number in 0..3 {
                is_one_of(daemon, &format!("m{number}"), &["none", "Stopped"]);
            }
            is_one_of(daemon, name, &["Running", "Stopped"]);
            is_one_of(daemon, &format!("{name}-new"), &["Running", "Stopped"]);
        },
        tidy: |daemon, name| {
            (0..3).for_each(|number| remove(daemon, &format!("m{number}")));
            remove(daemon, name);
        },
    },
];

/// Those that take seconds, whoever is asked.
pub(super) const SLOW: &[Verb] = &[
    Verb {
        name: "shut an instance down",
        prepare: running,
        act: |caller, name| {
            caller.call("PUT", &format!("{}/state", url(name)), r#"{"action":"stop","timeout":30}"#);
        },
        holds: |daemon, name| is_one_of(daemon, name, &["Running", "Stopped"]),
        tidy: remove,
    },
    Verb {
        name: "freeze an instance",
        prepare: running,
        act: |caller, name| {
            state(caller, name, "freeze");
            state(caller, name, "unfreeze");
        },
        holds: |daemon, name| {
            let status = daemon.status(name);
            assert!(matches!(status.as_str(), "Running" | "Frozen"), "{status}");
            if status == "Frozen" {
                done(daemon, "PUT", &format!("{}/state", url(name)), r#"{"action":"unfreeze"}"#);
            }
            is_one_of(daemon, name, &["Running"]);
        },
        tidy: remove,
    },
];

/// The description and the key say the same: both old or both new.
fn whole(daemon: &Daemon, name: &str) {
    let now = shown(daemon, &url(name));
    let pair = (now["description"].clone(), now["config"]["user.key"].clone());
    assert!(pair == (json!("old"), Value::Null) || pair == (json!("new"), json!("new")), "{pair:?}");
}

pub(super) const DEFINITIONS: &[Verb] = &[
    Verb {
        name: "PUT an instance",
        prepare: stopped,
        act: |caller, name| {
            let Some(now) = caller.call("GET", &url(name), "") else { return };
            let mut body = now["metadata"].clone();
            body["description"] = json!("new");
            body["config"]["user.key"] = json!("new");
            caller.call("PUT", &url(name), &body.to_string());
        },
        holds: whole,
        tidy: remove,
    },
    Verb {
        name: "PATCH an instance",
        prepare: running,
        act: |caller, name| {
            let body = json!({"description": "new", "config": {"user.key": "new"}});
            caller.call("PATCH", &url(name), &body.to_string());
        },
        holds: whole,
        tidy: remove,
    },
    Verb {
        name: "change the state of all",
        prepare: |daemon, name| {
            running(daemon, name);
            running(daemon, &format!("{name}-new"));
        },
        act: |caller, _| {
            caller.call("PUT", "/1.0/instances", r#"{"state":{"action":"freeze"}}"#);
        },
        holds: |daemon, name| {
            for name in [name, &format!("{name}-new"), "steady"] {
                let status = daemon.status(name);
                assert!(matches!(status.as_str(), "Running" | "Frozen"), "{name}: {status}");
            }
            done(daemon, "PUT", "/1.0/instances", r#"{"state":{"action":"unfreeze"}}"#);
            assert_eq!(daemon.status(name), "Running");
        },
        tidy: remove,
    },
];

const NEW: usize = 3_000_000;

/// A file that is pushed is not there, is as before, or is the beginning of the new one.
fn pushed(daemon: &Daemon, instance: &str, name: &str) {
    let answer = daemon.ask("GET", &format!("{}/files?path=/root/{name}", url(instance)), &[], b"");
    let fine = match answer.status {
        404 => true,
        200 => answer.body.len() <= NEW && answer.body.iter().all(|byte| *byte == b'n'),
        _ => false,
    };
    assert!(fine, "{}: {} bytes", answer.status, answer.body.len());
}

fn push(caller: &Caller, instance: &str, name: &str) {
    let path = format!("{}/files?path=/root/{name}", url(instance));
    caller.send("POST", &path, &[("X-LXD-type", "file"), ("X-LXD-mode", "0644")], &vec![b'n'; NEW]);
}

fn pull_away(daemon: &Daemon, instance: &str, name: &str) {
    daemon.ask("DELETE", &format!("{}/files?path=/root/{name}", url(instance)), &[], b"");
}

fn template(name: &str) -> String {
    format!("/1.0/instances/idle/metadata/templates?path={name}.tpl")
}

pub(super) const INSIDE: &[Verb] = &[
    Verb {
        name: "change the limits of a running instance, and a profile of two",
        prepare: |daemon, name| {
            let profile = json!({"name": name, "config": {"limits.memory": "64MiB"}});
            done(daemon, "POST", "/1.0/profiles", &profile.to_string());
            for name in [name.to_owned(), format!("{name}-new")] {
                running(daemon, &name);
                let profiles = json!({"profiles": ["default", name.trim_end_matches("-new")]});
                done(daemon, "PATCH", &url(&name), &profiles.to_string());
            }
        },
        act: |caller, name| {
            for memory in ["96MiB", "48MiB", "80MiB"] {
                let config = json!({"config": {"limits.memory": memory, "limits.cpu": "1"}}).to_string();
                caller.call("PATCH", &format!("/1.0/profiles/{name}"), &config);
            }
            caller.call("PATCH", &url(name), r#"{"config":{"limits.memory":"32MiB","limits.processes":"100"}}"#);
        },
        holds: |daemon, name| {
            for name in [name.to_owned(), format!("{name}-new")] {
                is_one_of(daemon, &name, &["Running"]);
                // What the database says is what the kernel does.
                let config = shown(daemon, &url(&name))["expanded_config"].clone();
                let (amount, _) = config["limits.memory"].as_str().unwrap().split_once("MiB").unwrap();
                let bytes = amount.parse::<u64>().unwrap() << 20;
                let read = |controller, v1, v2| {
                    let path = daemon.cgroup_file(&name, controller, v1, v2);
                    std::fs::read_to_string(path).unwrap().trim().to_owned()
                };
                assert_eq!(read("memory", "memory.limit_in_bytes", "memory.max"), bytes.to_string(), "{name}");
                let processes = config["limits.processes"].as_str().unwrap_or("max");
                assert_eq!(read("pids", "pids.max", "pids.max"), processes, "{name}");
                let cpus = read("cpuset", "cpuset.cpus", "cpuset.cpus");
                assert_eq!(cpus.parse::<u32>().is_ok(), config["limits.cpu"] == "1", "{name}: {cpus}");
            }
        },
        tidy: |daemon, name| {
            remove(daemon, name);
            gone(daemon, &format!("/1.0/profiles/{name}"));
        },
    },
    Verb {
        name: "exec",
        prepare: nothing,
        act: |caller, _| {
            let body = json!({"command": ["sh", "-c", "echo x; sleep 0.1"]}).to_string();
            caller.call("POST", "/1.0/instances/steady/exec", &body);
        },
        holds: |daemon, _| is_one_of(daemon, "steady", &["Running"]),
        tidy: nothing,
    },
    Verb {
        name: "exec with recorded output",
        prepare: nothing,
        act: |caller, _| {
            let body = json!({"command": ["sh", "-c", "echo x; sleep 0.1"], "record-output": true}).to_string();
            caller.call("POST", "/1.0/instances/steady/exec", &body);
        },
        holds: |daemon, _| is_one_of(daemon, "steady", &["Running"]),
        tidy: |daemon, _| {
            let logs = shown(daemon, "/1.0/instances/steady/logs");
            for url in logs.as_array().unwrap().iter().filter_map(Value::as_str).filter(|url| url.contains("/exec_")) {
                assert_eq!(daemon.api("DELETE", url, "").0, 200);
            }
        },
    },
    Verb {
        name: "exec with websockets",
        prepare: nothing,
        act: |caller, _| {
            let body = json!({"command": ["sh", "-c", "echo x; head -c 1"], "wait-for-websocket": true}).to_string();
            caller.websockets("/1.0/instances/steady/exec", &body, &["1", "0", "2", "control"]);
        },
        holds: |daemon, _| is_one_of(daemon, "steady", &["Running"]),
        tidy: nothing,
    },
    Verb {
        name: "exec on a terminal",
        prepare: nothing,
        act: |caller, _| {
            let body = json!({"command": ["sh"], "interactive": true, "wait-for-websocket": true}).to_string();
            caller.websockets("/1.0/instances/steady/exec", &body, &["0", "control"]);
        },
        holds: |daemon, _| is_one_of(daemon, "steady", &["Running"]),
        tidy: nothing,
    },
    Verb {
        name: "console",
        prepare: nothing,
        act: |caller, _| {
            let body = json!({"type": "console", "force": true}).to_string();
            caller.websockets("/1.0/instances/steady/console", &body, &["0", "control"]);
        },
        holds: |daemon, _| is_one_of(daemon, "steady", &["Running"]),
        tidy: nothing,
    },
    Verb {
        name: "push a file to a running instance",
        prepare: nothing,
        act: |caller, name| push(caller, "steady", name),
        holds: |daemon, name| pushed(daemon, "steady", name),
        tidy: |daemon, name| pull_away(daemon, "steady", name),
    },
    Verb {
        name: "push a file to a stopped instance",
        prepare: nothing,
        act: |caller, name| push(caller, "idle", name),
        holds: |daemon, name| pushed(daemon, "idle", name),
        tidy: |daemon, name| pull_away(daemon, "idle", name),
    },
    Verb {
        name: "delete a file",
        prepare: |daemon, name| push(&Caller { socket: daemon.socket() }, "idle", name),
        act: |caller, name| {
            caller.send("DELETE", &format!("/1.0/instances/idle/files?path=/root/{name}"), &[], b"");
        },
        holds: |daemon, name| {
            let answer = daemon.ask("GET", &format!("/1.0/instances/idle/files?path=/root/{name}"), &[], b"");
            assert!(answer.status == 404 || answer.body.len() == NEW, "{}", answer.text());
        },
        tidy: |daemon, name| pull_away(daemon, "idle", name),
    },
    Verb {
        name: "sftp",
        prepare: nothing,
        act: |caller, name| caller.sftp("idle", &format!("/root/{name}")).unwrap_or_default(),
        holds: |daemon, _| is_one_of(daemon, "idle", &["Stopped"]),
        tidy: |daemon, name| pull_away(daemon, "idle", name),
    },
    Verb {
        name: "PUT metadata",
        prepare: |daemon, _| drop(done(daemon, "PUT", "/1.0/instances/idle/metadata", r#"{"creation_date":1}"#)),
        act: |caller, _| {
            let body = json!({"creation_date": 2, "properties": {"long": "x".repeat(100_000)}}).to_string();
            caller.call("PUT", "/1.0/instances/idle/metadata", &body);
        },
        holds: |daemon, _| {
            let now = shown(daemon, "/1.0/instances/idle/metadata");
            let length = now["properties"]["long"].as_str().unwrap_or_default().len();
            assert!(now["creation_date"] == 1 && length == 0 || now["creation_date"] == 2 && length == 100_000);
        },
        tidy: nothing,
    },
    Verb {
        name: "write a template",
        prepare: nothing,
        act: |caller, name| drop(caller.send("POST", &template(name), &[], &vec![b'n'; 500_000])),
        holds: |daemon, name| {
            let answer = daemon.ask("GET", &template(name), &[], b"");
            let fine = answer.status == 404 || answer.body.len() == 500_000;
            assert!(fine, "{}: {} bytes", answer.status, answer.body.len());
        },
        tidy: |daemon, name| drop(daemon.ask("DELETE", &template(name), &[], b"")),
    },
];

/// The root of the hardware that the daemon with this socket sees.
pub(super) fn made_up(socket: &Path) -> PathBuf {
    socket.parent().and_then(Path::parent).unwrap().join("hardware")
}

/// Connects a USB device for which a driver has made a serial line; the kernel tells that something has come.
fn connect(socket: &Path) {
    let sys = made_up(socket).join("sys");
    let device = sys.join("devices/usb/1-1");
    let line = device.join("1-1:1.0/tty/ttyACM0");
    for (file, text) in
        [("idVendor", "1234"), ("idProduct", "5678"), ("busnum", "1"), ("devnum", "2"), ("dev", "10:237")]
    {
        fs::create_dir_all(&device).unwrap();
        fs::write(device.join(file), format!("{text}\n")).unwrap();
    }
    fs::create_dir_all(&line).unwrap();
    fs::write(line.join("uevent"), "DEVNAME=ttyACM0\n").unwrap();
    for dir in ["bus/usb/devices", "dev/char"] {
        fs::create_dir_all(sys.join(dir)).unwrap();
    }
    symlink(&line, sys.join("dev/char/10:200")).unwrap();
    symlink(&device, sys.join("bus/usb/devices/1-1")).unwrap();
    tell();
}

fn disconnect(socket: &Path) {
    let sys = made_up(socket).join("sys");
    for path in ["bus/usb/devices/1-1", "dev/char/10:200"] {
        fs::remove_file(sys.join(path)).unwrap();
    }
    fs::remove_dir_all(sys.join("devices/usb/1-1")).unwrap();
    tell();
}

fn tell() {
    fs::write("/sys/devices/virtual/mem/null/uevent", "change").unwrap();
}

/// How many nodes of hardware an instance has, by the host's side of them.
fn nodes(socket: &Path, name: &str) -> usize {
    let dir = socket.with_file_name("devices").join(name);
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("unix.")).count()
}

pub(super) const HARDWARE: &[Verb] = &[Verb {
    name: "hardware comes and goes",
    prepare: |daemon, name| {
        running(daemon, name);
        let devices = json!({
            "whole": {"type": "usb", "vendorid": "1234"},
            "line": {"type": "unix-hotplug", "vendorid": "1234"},
        });
        done(daemon, "PATCH", &url(name), &json!({ "devices": devices }).to_string());
    },
    // Each is followed as far as a daemon lives to do it.
    act: |caller, name| {
        let followed = |count: usize| {
            let start = Instant::now();
            while nodes(&caller.socket, name) != count && start.elapsed() < Duration::from_secs(2) {
                std::thread::sleep(Duration::from_millis(2));
            }
        };
        connect(&caller.socket);
        followed(2);
        disconnect(&caller.socket);
        followed(0);
    },
    holds: |daemon, name| {
        let socket = daemon.socket();
        let line = || daemon.lxc(&["exec", name, "--", "ls", "/dev"]).ok().contains("ttyACM0");
        eventually("nothing of it is inside", || nodes(&socket, name) == 0 && !line());
        connect(&socket);
        eventually("it is followed as before", || nodes(&socket, name) == 2 && line());
        disconnect(&socket);
        eventually("it is followed as before", || nodes(&socket, name) == 0 && !line());
    },
    tidy: remove,
}];
