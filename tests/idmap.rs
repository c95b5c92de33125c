//! User namespaces: which ids of the host an instance gets, seen from the host.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;

use support::namespaces::isolated;
use support::{Daemon, Said, run, said};

const BLOCK: u64 = 65536;

/// The rows of init's map of users: inside, outside, how many.
fn map(daemon: &Daemon, name: &str) -> Vec<[u64; 3]> {
    let text = std::fs::read_to_string(format!("/proc/{}/uid_map", daemon.instance_pid(name))).unwrap();
    let row = |line: &str| {
        let mut numbers = line.split_whitespace().map(|word| word.parse().unwrap());
        [(); 3].map(|()| numbers.next().unwrap())
    };
    text.lines().map(row).collect()
}

/// The first id outside, and how many.
fn range(daemon: &Daemon, name: &str) -> (u64, u64) {
    let map = map(daemon, name);
    assert_eq!((map.len(), map[0][0]), (1, 0), "{map:?}");
    (map[0][1], map[0][2])
}

fn get(daemon: &Daemon, name: &str, key: &str) -> String {
    daemon.lxc(&["config", "get", name, key]).ok().trim().to_owned()
}

/// The range of root on this host.
fn whole() -> (u64, u64) {
    let text = std::fs::read_to_string("/etc/subuid").unwrap();
    let line = text.lines().find(|line| line.starts_with("root:")).unwrap();
    let mut numbers = line.split(':').skip(1).map(|word| word.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Root of the instance, with what its user namespace lets it do, on the host's files and processes.
fn as_root_of(daemon: &Daemon, name: &str, command: &[&str]) -> Said {
    let pid = daemon.instance_pid(name).to_string();
    said(Command::new("nsenter").args(["-t", &pid, "-U", "-S", "0", "-G", "0", "--"]).args(command))
}

#[test]
fn isolated_ones_have_ranges_of_their_own_and_give_them_back() {
    let mut daemon = Daemon::ready("overlay");
    let first = whole().0 + BLOCK;
    for name in ["a", "b"] {
        daemon.lxc(&["launch", "bb", name, "-c", "security.idmap.isolated=true"]).ok();
    }
    daemon.lxc(&["launch", "bb", "shared"]).ok();
    assert_eq!((range(&daemon, "a"), range(&daemon, "b")), ((first, BLOCK), (first + BLOCK, BLOCK)));
    assert_eq!(range(&daemon, "shared"), whole());
    assert_eq!(get(&daemon, "b", "volatile.idmap.base"), (first + BLOCK).to_string());
    let current = get(&daemon, "b", "volatile.idmap.current");
    assert!(current.contains(&format!("\"Hostid\":{}", first + BLOCK)) && current.contains("\"Maprange\":65536"));
    assert_eq!(get(&daemon, "shared", "volatile.idmap.base"), "0");
    assert_eq!(get(&daemon, "a", "volatile.last_state.idmap"), "[]");
    // No client's to change.
    daemon.lxc(&["config", "set", "b", "volatile.idmap.base=7"]).ok();
    assert_eq!(get(&daemon, "b", "volatile.idmap.base"), (first + BLOCK).to_string());

    // Neither reads the other's files in a directory that both see, nor signals its processes; its own, it does.
    let dir = daemon.root.join("both");
    std::fs::create_dir(&dir).unwrap();
    let file = dir.join("of-a");
    std::fs::write(&file, "secret\n").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let root_of_a = u32::try_from(first).unwrap();
    chown(&file, Some(root_of_a), Some(root_of_a)).unwrap();
    let (path, init) = (file.to_str().unwrap(), daemon.instance_pid("a").to_string());
    assert_eq!(as_root_of(&daemon, "a", &["cat", path]).ok(), "secret\n");
    as_root_of(&daemon, "b", &["cat", path]).refused("Permission denied");
    as_root_of(&daemon, "a", &["kill", "-0", &init]).ok();
    as_root_of(&daemon, "b", &["kill", "-0", &init]).refused("not permitted");

    // What is plugged into a running one fits its range, not that of all.
    let source = daemon.root.join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("f"), "host\n").unwrap();
    std::fs::set_permissions(source.join("f"), PermissionsExt::from_mode(0o600)).unwrap();
    let plug = |device: &str, words: &[&str]| daemon.lxc(&[&["config", "device", "add", "b", device], words].concat());
    plug("null", &["unix-char", "source=/dev/null", "path=/dev/wtnull", "uid=5"]).ok();
    assert!(daemon.lxc(&["exec", "b", "--", "ls", "-ln", "/dev/wtnull"]).ok().contains(" 5 "));
    plug("d", &["disk", &format!("source={}", source.display()), "path=/d", "shift=true"]).ok();
    assert_eq!(daemon.lxc(&["exec", "b", "--", "cat", "/d/f"]).ok(), "host\n");

    // The lowest is given to the next one, and files are found with whatever range.
    daemon.lxc(&["exec", "a", "--", "sh", "-c", "echo mine > /root/f; chmod 600 /root/f"]).ok();
    daemon.lxc(&["stop", "--force", "a"]).ok();
    assert_eq!(get(&daemon, "a", "volatile.idmap.base"), "");
    daemon.lxc(&["launch", "bb", "c", "-c", "security.idmap.isolated=1", "-c", "security.idmap.size=70000"]).ok();
    assert_eq!(range(&daemon, "c"), (first + 2 * BLOCK, 70000), "the gap is too small for it");
    daemon.lxc(&["launch", "bb", "d", "-c", "security.idmap.isolated=true"]).ok();
    assert_eq!(range(&daemon, "d"), (first, BLOCK));
    daemon.lxc(&["start", "a"]).ok();
    assert_eq!(range(&daemon, "a"), (first + 2 * BLOCK + 70000, BLOCK));
    assert_eq!(daemon.lxc(&["exec", "a", "--", "cat", "/root/f"]).ok(), "mine\n");
    assert!(daemon.lxc(&["exec", "a", "--", "ls", "-ln", "/root/f"]).ok().contains(" 0 "));

    // The next daemon knows who has which.
    daemon.kill();
    daemon.start();
    daemon.lxc(&["launch", "bb", "e", "-c", "security.idmap.isolated=true"]).ok();
    let mut ranges: Vec<(u64, u64)> = ["a", "b", "c", "d", "e"].map(|name| range(&daemon, name)).to_vec();
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{ranges:?}");
    daemon.lxc(&["stop", "--force", "d"]).ok();
    daemon.lxc(&["restart", "--force", "e"]).ok();
    assert_eq!(range(&daemon, "e"), (first, BLOCK));
}

#[test]
fn files_of_one_that_is_down_are_used_with_its_range_and_by_its_start() {
    for driver in ["overlay", "dir"] {
        let daemon = Daemon::ready(driver);
        daemon.lxc(&["profile", "set", "default", "security.idmap.isolated=true"]).ok();
        for name in ["a", "b"] {
            daemon.lxc(&["init", "bb", name]).ok();
        }
        daemon.lxc_with_input(&["file", "push", "-", "a/root/f", "--mode", "0600"], b"pushed\n").ok();
        daemon.lxc(&["start", "b"]).ok();
        daemon.lxc(&["start", "a"]).ok();
        assert_ne!(range(&daemon, "a"), range(&daemon, "b"));
        assert_eq!(daemon.lxc(&["exec", "a", "--", "cat", "/root/f"]).ok(), "pushed\n");
        assert_eq!(daemon.lxc(&["file", "pull", "a/root/f", "-"]).ok(), "pushed\n");
        // On disk nothing is shifted.
        let stored = match driver {
            "dir" => daemon.state().join("storage-pools/p/containers/a/rootfs/root/f"),
            _ => daemon.upper("p", "a").join("root/f"),
        };
        daemon.lxc(&["stop", "--force", "a", "b"]).ok();
        if let Ok(found) = stored.metadata() {
            assert_eq!(found.uid(), 0);
        }
        // One that shares the range, or has none, is the same instance.
        daemon.lxc(&["config", "set", "a", "security.idmap.isolated=false"]).ok();
        daemon.lxc(&["start", "a"]).ok();
        assert_eq!(range(&daemon, "a"), whole());
        daemon.lxc(&["stop", "--force", "a"]).ok();
        daemon.lxc(&["config", "set", "a", "security.privileged=true"]).ok();
        daemon.lxc(&["start", "a"]).ok();
        assert_eq!(daemon.lxc(&["exec", "a", "--", "cat", "/root/f"]).ok(), "pushed\n");
    }
}

#[test]
fn the_server_decides_where_an_instance_does_not() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "a"]).ok();
    assert_eq!(range(&daemon, "a"), whole());
    let write = |text: &str| {
        let script = format!("echo {text} >> /root/x && ls -ln /root/x | grep -q ' 0        0 '");
        daemon.lxc(&["exec", "a", "--", "sh", "-c", &script]).ok();
    };
    write("whole");
    daemon.lxc(&["config", "set", "core.idmap_isolated", "true"]).ok();
    daemon.lxc(&["restart", "--force", "a"]).ok();
    assert_eq!(range(&daemon, "a"), (whole().0 + BLOCK, BLOCK));
    // Another map, also one that is smaller, leaves the root as it is: its own, and to be written.
    write("isolated");
    daemon.lxc(&["config", "set", "a", "security.idmap.size=70000"]).ok();
    daemon.lxc(&["restart", "--force", "a"]).ok();
    write("larger");
    daemon.lxc(&["config", "unset", "a", "security.idmap.size"]).ok();
    daemon.lxc(&["restart", "--force", "a"]).ok();
    write("smaller");
    assert_eq!(daemon.lxc(&["exec", "a", "--", "cat", "/root/x"]).ok(), "whole\nisolated\nlarger\nsmaller\n");
    daemon.lxc(&["launch", "bb", "b", "-c", "security.idmap.isolated=false"]).ok();
    assert_eq!(range(&daemon, "b"), whole());
    daemon.lxc(&["config", "set", "core.idmap_isolated", "perhaps"]).refused("true or false");
}

#[test]
fn who_initialises_by_itself_gets_isolated_instances() {
    isolated("who_initialises_by_itself_gets_isolated_instances", || {
        let daemon = Daemon::bare();
        daemon.verb_with_input(&["init", "--preseed"], "config:\n  user.a: b\n").ok();
        assert_eq!(daemon.lxc(&["config", "get", "core.idmap_isolated"]).ok().trim(), "");
        daemon.verb(&["init", "--auto", "--storage-backend", "dir"]).ok();
        assert_eq!(daemon.lxc(&["config", "get", "core.idmap_isolated"]).ok().trim(), "true");
        daemon.lxc(&["config", "set", "core.idmap_isolated", "false"]).ok();
        daemon.verb(&["init", "--auto"]).ok();
        assert_eq!(daemon.lxc(&["config", "get", "core.idmap_isolated"]).ok().trim(), "false");
    });
}

/// Puts a file of this text in the place of both of subordinate ids, in this namespace.
fn subordinate(text: &str) {
    let first = !std::path::Path::new("/mnt/subid").exists();
    if first {
        run(Command::new("mount").args(["-t", "tmpfs", "subid", "/mnt"]));
    }
    std::fs::write("/mnt/subid", text).unwrap();
    for target in ["/etc/subuid", "/etc/subgid"].into_iter().filter(|_| first) {
        run(Command::new("mount").args(["--bind", "/mnt/subid", target]));
    }
}

#[test]
fn what_cannot_be_had_is_refused_with_the_way_out() {
    isolated("what_cannot_be_had_is_refused_with_the_way_out", || {
        let daemon = Daemon::ready("overlay");
        subordinate(&format!("root:1000000:{}\nroot:5000000:200000\nroot:1234:2\n", 2 * BLOCK));
        let isolated = "security.idmap.isolated=true";
        for name in ["a", "b"] {
            daemon.lxc(&["init", "bb", name, "-c", isolated]).ok();
        }
        daemon.lxc(&["start", "a"]).ok();
        daemon
            .lxc(&["start", "b"])
            .refused("\"root:1000000:1000000000\" in the place of root's first one in /etc/subuid");
        assert_eq!(daemon.status("b"), "Stopped");
        // A base of one's own.
        let set = |pairs: &[&str]| daemon.lxc(&[&["config", "set", "b"], pairs].concat());
        set(&["security.idmap.base=1000100"]).ok();
        daemon.lxc(&["start", "b"]).refused("the running instance \"a\" has some");
        set(&["security.idmap.base=5100000"]).ok();
        daemon.lxc(&["start", "b"]).ok();
        assert_eq!(range(&daemon, "b"), (5_100_000, BLOCK));
        daemon.lxc(&["stop", "--force", "b"]).ok();
        set(&["security.idmap.base=7000000"]).ok();
        daemon.lxc(&["start", "b"]).refused("add the line \"root:7000000:65536\" to /etc/subuid");
        set(&["security.idmap.base="]).ok();
        daemon.lxc(&["stop", "--force", "a"]).ok();
        daemon.lxc(&["start", "b"]).ok();
        assert_eq!(range(&daemon, "b").0, 1_000_000 + BLOCK);
        daemon.lxc(&["stop", "--force", "b"]).ok();

        // Ids of the host.
        set(&["raw.idmap=both 1234-1235 1000-1001"]).ok();
        daemon.lxc(&["start", "b"]).ok();
        let base = 1_000_000 + BLOCK;
        assert_eq!(map(&daemon, "b"), [[0, base, 1000], [1000, 1234, 2], [1002, base + 1002, BLOCK - 1002]]);
        daemon.lxc(&["exec", "b", "--", "sh", "-c", "echo x > /tmp/f; chown 1001 /tmp/f"]).ok();
        let file = format!("/proc/{}/root/tmp/f", daemon.instance_pid("b"));
        assert_eq!(std::fs::metadata(&file).unwrap().uid(), 1235);
        daemon.lxc(&["stop", "--force", "b"]).ok();
        set(&["raw.idmap=both 1000 1000"]).ok();
        daemon.lxc(&["start", "b"]).refused("add the line \"root:1000:1\" to /etc/subuid");
        set(&["raw.idmap=uid 1000000-1000001 0-1"]).ok();
        daemon.lxc(&["start", "b"]).refused("from which containers get theirs");
        let two = "raw.idmap=both 1 1\neverybody 2 2";
        set(&[two]).refused("line 2 (\"everybody 2 2\")");
        for (key, bad) in [("size", "0"), ("size", "many"), ("base", "-1"), ("isolated", "maybe")] {
            set(&[&format!("security.idmap.{key}={bad}")]).refused(&format!("security.idmap.{key}"));
        }
        // A mended file counts at once.
        set(&["raw.idmap=both 1000 1000"]).ok();
        subordinate(&format!("root:1000000:{}\nroot:1000:1\n", 4 * BLOCK));
        daemon.lxc(&["start", "a"]).ok();
        daemon.lxc(&["start", "b"]).ok();
        assert_eq!(map(&daemon, "b").len(), 3);
    });
}
