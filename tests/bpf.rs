//! Programs of control groups that decide about devices, loaded for containers (`security.syscalls.intercept.bpf`).
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use support::{Daemon, run};
use warren::sys::bpf;

const BOTH: &[&str] = &["security.syscalls.intercept.bpf=true", "security.syscalls.intercept.bpf.devices=true"];

/// A running c1 with `/bpf` inside, see tests/intercept/bpf.c, and the unified hierarchy at /cg with a group `a`.
fn ready(config: &[&str]) -> Daemon {
    let daemon = Daemon::ready("overlay");
    let program = daemon.root.join("bpf");
    run(Command::new("cc").args(["-static", "-O1", "-o"]).arg(&program).args(["tests/intercept/bpf.c", "-lpthread"]));
    let words: Vec<&str> = config.iter().flat_map(|pair| ["-c", pair]).collect();
    daemon.lxc(&[&["launch", "bb", "c1"], words.as_slice()].concat()).ok();
    daemon.lxc(&["file", "push", "--mode", "755", program.to_str().unwrap(), "c1/bpf"]).ok();
    inside(
        &daemon,
        "mkdir -p /cg /tmp/no; [ -e /cg/cgroup.procs ] || busybox mount -t cgroup2 x /cg; mkdir -p /cg/a/b",
    );
    daemon
}

fn inside(daemon: &Daemon, command: &str) -> String {
    daemon.inside("c1", command).ok()
}

fn bpf(daemon: &Daemon, words: &str) -> Vec<i64> {
    // Programs go with their groups.
    let fresh = "busybox rmdir /cg/a/b /cg/a; mkdir -p /cg/a/b";
    inside(daemon, &format!("{fresh}; /bpf {words}")).split_whitespace().map(|word| word.parse().unwrap()).collect()
}

/// The container's own group in the unified hierarchy, seen from the host.
fn own_group(daemon: &Daemon) -> PathBuf {
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", daemon.instance_pid("c1"))).unwrap();
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    let end = path.find("lxc.payload.c1").unwrap() + "lxc.payload.c1".len();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).unwrap().split(' ').nth(4).unwrap();
    PathBuf::from(mount).join(&path[..end])
}

#[test]
fn programs_about_devices_decide_in_groups_below_its_own() {
    let daemon = ready(BOTH);
    // Used, attached, refused, detached, used, not there; overriding: attached, refused, replaced, used, detached; what is no
    // file, no program.
    assert_eq!(bpf(&daemon, "cycle"), [0, 0, 1, 0, 0, 2, 0, 1, 0, 0, 0, 9, 22]);
    assert_eq!(bpf(&daemon, "cycle /cg/a/b"), [0, 0, 1, 0, 0, 2, 0, 1, 0, 0, 0, 9, 22]);
    // Its own group is the host's, and what is no group of version 2 is nobody's.
    for place in ["/cg", "/tmp/no", "/proc/self"] {
        assert_eq!(bpf(&daemon, &format!("attach {place}")), [1, 1], "{place}");
    }
    let own = own_group(&daemon);
    assert_eq!(bpf::attached(File::open(&own).unwrap()).unwrap().0, 0);
    // What the host has attached so that it may be overridden is not.
    let program = bpf::load_device_program(&[0x0000_0001_0000_00b7, 0x95], *b"host\0\0\0\0\0\0\0\0\0\0\0\0").unwrap();
    let group = File::open(&own).unwrap();
    bpf::attach(&group, &program, bpf::ALLOW_OVERRIDE).unwrap();
    assert_eq!(bpf(&daemon, "attach /cg/a"), [1, 1]);
    bpf::detach(&group, Some(&program)).unwrap();
    bpf::attach(&group, &program, bpf::ALLOW_MULTI).unwrap();
    assert_eq!(bpf(&daemon, "attach /cg/a"), [1, 0], "both are asked then");
    bpf::detach(&group, Some(&program)).unwrap();
    // Another container's group.
    daemon.lxc(&["launch", "bb", "c2"]).ok();
    let theirs = own_group(&daemon).with_file_name("lxc.payload.c2");
    assert!(theirs.exists());
    let source = format!("source={}", theirs.display());
    daemon.lxc(&["config", "device", "add", "c1", "theirs", "disk", &source, "path=/theirs"]).ok();
    inside(&daemon, "ls /theirs/cgroup.procs");
    assert_eq!(bpf(&daemon, "attach /theirs"), [1, 1]);
}

#[test]
fn only_plain_programs_are_loaded() {
    let daemon = ready(BOTH);
    // The plain one; another kind, a call, a loop, a store; what the kernel refuses; a map; a bad address.
    assert_eq!(bpf(&daemon, "load"), [0, 1, 1, 1, 1, 13, 1, 14]);
    assert_eq!(bpf(&daemon, "user"), [1], "without the capabilities nobody may");
    daemon.lxc(&["config", "set", "c1", "security.syscalls.intercept.bpf.devices=false"]).ok();
    assert_eq!(bpf(&daemon, "load")[0], 1, "what is switched off stops at once");
}

#[test]
fn a_group_that_changes_meanwhile_is_the_one_that_was_checked() {
    let daemon = ready(BOTH);
    let done = bpf(&daemon, "race")[0];
    let count = |dir: PathBuf| bpf::attached(File::open(dir).unwrap()).unwrap().0;
    assert_eq!(count(own_group(&daemon)), 0);
    assert_eq!(count(own_group(&daemon).join("a")), u32::from(done > 0), "of {done}");
    assert!(done > 0, "no call got through");
}

#[test]
fn without_the_key_for_devices_nothing_is_loaded() {
    let daemon = ready(&["security.syscalls.intercept.bpf=true"]);
    let policy = std::fs::read_to_string(daemon.state().join("security/seccomp/c1")).unwrap();
    assert!(!policy.contains("notify"), "{policy}");
    assert_eq!(bpf(&daemon, "load")[..2], [1, 1]);
}
