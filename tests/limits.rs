//! Limits of containers: set when they start, changed while they run, refused where they cannot be had.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::PathBuf;

use serde_json::json;
use support::Daemon;

/// What stands in a file of its control group.
fn file(daemon: &Daemon, name: &str, controller: &str, v1: &str, v2: &str) -> String {
    let path = daemon.cgroup_file(name, controller, v1, v2);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
}

fn memory_file(daemon: &Daemon, name: &str) -> PathBuf {
    daemon.cgroup_file(name, "memory", "memory.limit_in_bytes", "memory.max")
}

fn memory(daemon: &Daemon, name: &str) -> String {
    std::fs::read_to_string(memory_file(daemon, name)).unwrap().trim().to_owned()
}

fn cpus(daemon: &Daemon, name: &str) -> String {
    file(daemon, name, "cpuset", "cpuset.cpus", "cpuset.cpus")
}

#[test]
fn limits_hold_from_the_start_and_change_while_it_runs() {
    let mut daemon = Daemon::ready("overlay");
    let set = |daemon: &Daemon, pairs: &[&str]| daemon.lxc(&[&["config", "set", "c1"], pairs].concat());
    daemon.lxc(&["init", "bb", "c1", "-c", "limits.memory=64MiB", "-c", "limits.processes=50"]).ok();
    set(&daemon, &["limits.cpu=1", "limits.cpu.allowance=20ms/100ms", "limits.kernel.nofile=64:128"]).ok();
    set(&daemon, &["linux.sysctl.net.ipv4.ip_forward=1"]).ok();
    daemon.lxc(&["start", "c1"]).ok();
    let processes = |daemon: &Daemon| file(daemon, "c1", "pids", "pids.max", "pids.max");
    let quota = |daemon: &Daemon| file(daemon, "c1", "cpu", "cpu.cfs_quota_us", "cpu.max");
    assert_eq!((memory(&daemon, "c1"), processes(&daemon)), ("67108864".to_owned(), "50".to_owned()));
    assert!(quota(&daemon).starts_with("20000"));
    assert!(cpus(&daemon, "c1").parse::<u32>().is_ok(), "one processor: {}", cpus(&daemon, "c1"));
    let inside = "ulimit -n; ulimit -Hn; cat /proc/sys/net/ipv4/ip_forward";
    assert_eq!(daemon.lxc(&["exec", "c1", "--", "sh", "-c", inside]).ok(), "64\n128\n1\n");
    // What `free` and `lxc info` show is what it may have.
    let state = daemon.api("GET", "/1.0/instances/c1/state", "").1;
    assert_eq!(state["metadata"]["memory"]["total"], 67_108_864);

    // Up, down, as a part, and away, each at once.
    for (value, wanted) in [("256MiB", "268435456"), ("32MiB", "33554432"), ("128MB", "127995904"), ("", "none")] {
        set(&daemon, &[&format!("limits.memory={value}")]).ok();
        let now = memory(&daemon, "c1");
        assert!(
            now == wanted || now == "128000000" || now == "max" || (wanted == "none" && now.len() > 15),
            "{value}: {now}"
        );
    }
    set(&daemon, &["limits.memory=50%", "limits.processes=", "limits.cpu.allowance="]).ok();
    assert!(memory(&daemon, "c1").parse::<u64>().unwrap() > 100 << 20);
    assert_eq!(processes(&daemon), "max");
    assert!(["-1", "max 100000"].contains(&quota(&daemon).as_str()));

    let swap = |daemon: &Daemon| file(daemon, "c1", "memory", "memory.swappiness", "memory.swap.max");
    // Version 2 knows no swappiness: there the second would be the limit, as before.
    for (pairs, wanted) in [
        (&["limits.memory.swap=false"][..], "0"),
        (&["limits.memory.swap=", "limits.memory.swap.priority=3"], "53"),
        (&["limits.memory.swap.priority="], "60"),
    ] {
        set(&daemon, pairs).ok();
        let limit = memory(&daemon, "c1");
        assert!([wanted, &limit].contains(&swap(&daemon).as_str()), "{pairs:?}: {}", swap(&daemon));
    }

    // What the kernel refuses changes nothing, neither there nor in what is stored.
    let fill = "dd if=/dev/zero of=/dev/shm/f bs=1M count=40 2>&1 >/dev/null; sleep 1000 & true";
    daemon
        .lxc(&["exec", "c1", "--", "sh", "-c", &format!("mkdir -p /dev/shm; mount -t tmpfs x /dev/shm; {fill}")])
        .ok();
    let before = (memory(&daemon, "c1"), daemon.lxc(&["config", "get", "c1", "limits.memory"]).ok());
    let refused = set(&daemon, &["limits.memory=8MiB", "limits.processes=77", "user.a=b"]);
    refused.refused("\"limits.memory\": the instance uses more than 8388608 now");
    assert_eq!((memory(&daemon, "c1"), daemon.lxc(&["config", "get", "c1", "limits.memory"]).ok()), before);
    assert_eq!(processes(&daemon), "max");
    assert_eq!(daemon.lxc(&["config", "get", "c1", "user.a"]).ok().trim(), "");
    for (key, bad, word) in [
        ("limits.memory", "lots", "size"),
        ("limits.memory.enforce", "maybe", "hard, soft"),
        ("limits.cpu", "0", "number of processors"),
        ("limits.cpu.allowance", "50", "share"),
        ("limits.cpu.priority", "11", "0 to 10"),
        ("limits.processes", "many", "whole number"),
        ("limits.kernel.nofile", "5:1", "SOFT:HARD"),
        ("limits.kernel.colour", "5", "getrlimit"),
        ("limits.hugepages.3MB", "1MB", "Unknown configuration key"),
        ("linux.sysctl.a/../b", "1", "/proc/sys"),
    ] {
        set(&daemon, &[&format!("{key}={bad}")]).refused(word);
    }
    // The next daemon knows them, too.
    daemon.kill();
    daemon.start();
    set(&daemon, &["limits.processes=60"]).ok();
    assert_eq!(processes(&daemon), "60");
    daemon.lxc(&["restart", "--force", "c1"]).ok();
    assert_eq!(processes(&daemon), "60");
}

/// This kind of machine has two processors at least.
#[test]
fn processors_by_number_are_spread_over_all_and_given_out_anew() {
    let mut daemon = Daemon::ready("overlay");
    for name in ["a", "b"] {
        daemon.lxc(&["launch", "bb", name, "-c", "limits.cpu=1"]).ok();
    }
    assert_ne!(cpus(&daemon, "a"), cpus(&daemon, "b"));
    // One that names its processor is given way to.
    let taken = cpus(&daemon, "a");
    daemon.lxc(&["launch", "bb", "pinned", "-c", &format!("limits.cpu={taken}-{taken}")]).ok();
    daemon.lxc(&["stop", "--force", "b"]).ok();
    assert_ne!(cpus(&daemon, "a"), taken);
    daemon.lxc(&["delete", "--force", "pinned"]).ok();
    daemon.kill();
    daemon.start();
    daemon.lxc(&["start", "b"]).ok();
    assert_ne!(cpus(&daemon, "a"), cpus(&daemon, "b"));
    let all = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    daemon.lxc(&["config", "unset", "a", "limits.cpu"]).ok();
    assert_eq!(cpus(&daemon, "a"), all.trim());
}

#[test]
fn a_named_size_is_limits() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1", "-t", "c1-m0.25", "-c", "user.a=b"]).ok();
    assert_eq!(daemon.lxc(&["config", "get", "c1", "limits.memory"]).ok().trim(), "256MB");
    assert!(
        ["256000000", "255995904", "255999999"].contains(&memory(&daemon, "c1").as_str()),
        "{}",
        memory(&daemon, "c1")
    );
    let body = json!({"name": "c2", "instance_type": "t2.micro", "source": {"type": "none"}}).to_string();
    let (status, answer) = daemon.api("POST", "/1.0/instances", &body);
    assert_eq!(status, 400);
    assert!(answer["error"].as_str().unwrap().contains("\"instance_type\""), "{answer}");
    daemon.lxc(&["init", "bb", "c3", "-t", "c2-m1", "-c", "limits.cpu=1"]).ok();
    assert_eq!(daemon.lxc(&["config", "get", "c3", "limits.cpu"]).ok().trim(), "1");
}

#[test]
fn a_profile_changes_all_that_use_it_or_none() {
    let mut daemon = Daemon::ready("overlay");
    daemon.lxc(&["profile", "create", "small"]).ok();
    for name in ["a", "b", "own", "down"] {
        daemon.lxc(&["init", "bb", name, "-p", "default", "-p", "small"]).ok();
    }
    daemon.lxc(&["config", "set", "own", "limits.memory=77MiB"]).ok();
    for name in ["a", "b", "own"] {
        daemon.lxc(&["start", name]).ok();
    }
    let set = |value: &str| daemon.lxc(&["profile", "set", "small", &format!("limits.memory={value}")]);
    let all = || ["a", "b", "own"].map(|name| memory(&daemon, name));
    set("64MiB").ok();
    assert_eq!(all(), ["67108864", "67108864", "80740352"]);
    // One that cannot follow keeps all as they are, and is named.
    let fill = "mkdir -p /f; mount -t tmpfs x /f; dd if=/dev/zero of=/f/f bs=1M count=40 2>/dev/null";
    daemon.lxc(&["exec", "b", "--", "sh", "-c", fill]).ok();
    set("8MiB").refused("; b: Configuration key \"limits.memory\"");
    assert_eq!(all(), ["67108864", "67108864", "80740352"]);
    assert_eq!(daemon.lxc(&["profile", "get", "small", "limits.memory"]).ok().trim(), "64MiB");
    // Those that are down have it from their start, those that come and go, too.
    daemon.lxc(&["start", "down"]).ok();
    assert_eq!(memory(&daemon, "down"), "67108864");
    daemon.lxc(&["profile", "remove", "a", "small"]).ok();
    assert!(memory(&daemon, "a").len() > 15 || memory(&daemon, "a") == "max");
    daemon.lxc(&["profile", "add", "a", "small"]).ok();
    assert_eq!(memory(&daemon, "a"), "67108864");
    // A change that a crash cut off between the kernel and the database.
    let group = memory_file(&daemon, "a");
    daemon.kill();
    std::fs::write(&group, "62914560").unwrap();
    daemon.start();
    assert_eq!(memory(&daemon, "a"), "67108864");
    // Many at once, from several sides, and none waits for ever.
    std::thread::scope(|scope| {
        for n in 0..6 {
            let daemon = &daemon;
            scope.spawn(move || {
                let profile = if n % 2 == 0 { "small" } else { "default" };
                let body = json!({"config": {format!("user.k{n}"): "v", "limits.processes": "99"}}).to_string();
                assert_eq!(daemon.api("PATCH", &format!("/1.0/profiles/{profile}"), &body).0, 200);
                let body = json!({"config": {format!("user.k{n}"): "v"}}).to_string();
                assert_eq!(daemon.api("PATCH", "/1.0/instances/a", &body).0, 200);
            });
        }
    });
    assert_eq!(file(&daemon, "b", "pids", "pids.max", "pids.max"), "99");
    let (_, answer) = daemon.api("GET", "/1.0/instances/a", "");
    let keys = answer["metadata"]["config"].as_object().unwrap().keys().filter(|key| key.starts_with("user.k")).count();
    assert_eq!(keys, 6);
}
