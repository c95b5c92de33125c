//! System calls that the daemon does for containers, on real ones.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{Daemon, Said, run};

/// A running c1 with `/calls` inside; see tests/intercept/calls.c.
fn ready(config: &[&str]) -> Daemon {
    let daemon = Daemon::ready("overlay");
    let program = daemon.root.join("calls");
    run(Command::new("cc").args(["-static", "-O1", "-o"]).arg(&program).args(["tests/intercept/calls.c", "-lpthread"]));
    let words: Vec<&str> = config.iter().flat_map(|pair| ["-c", pair]).collect();
    daemon.lxc(&[&["launch", "bb", "c1"], words.as_slice()].concat()).ok();
    daemon.lxc(&["file", "push", "--mode", "755", program.to_str().unwrap(), "c1/calls"]).ok();
    daemon
}

fn inside(daemon: &Daemon, command: &str) -> Said {
    daemon.inside("c1", command)
}

/// What `/calls` says.
fn call(daemon: &Daemon, words: &str) -> Vec<i64> {
    let said = inside(daemon, &format!("cd /tmp; /calls {words}")).ok();
    said.split_whitespace().map(|word| word.parse().unwrap()).collect()
}

/// A path inside, seen from the host.
fn path(daemon: &Daemon, inside: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root/{inside}", daemon.instance_pid("c1")))
}

/// The pid of liblxc's monitor of the container with this init.
fn monitor(init: i64) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{init}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().to_owned()
}

/// Whether a monitor waits for an answer to a call.
fn waits(monitor: &str) -> bool {
    let call = std::fs::read_to_string(format!("/proc/{monitor}/syscall")).unwrap();
    call.split_whitespace().next() == Some(&libc::SYS_recvmsg.to_string())
}

#[test]
fn harmless_devices_are_made_and_no_others() {
    let daemon = ready(&["security.syscalls.intercept.mknod=true"]);
    // By init's children and by those that enter, whose filter is a copy.
    inside(&daemon, "busybox mknod /tmp/null c 1 3 && echo x > /tmp/null && [ ! -s /tmp/null ]").ok();
    let null = path(&daemon, "tmp/null").metadata().unwrap();
    assert!(null.file_type().is_char_device());
    let map = std::fs::read_to_string(format!("/proc/{}/uid_map", daemon.instance_pid("c1"))).unwrap();
    let root: u32 = map.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_eq!((null.uid(), null.mode() & 0o777), (root, 0o644), "the caller's owner and umask");
    // An overlay makes no such mark in itself; other file systems do.
    inside(&daemon, "mkdir /tmp/layer; busybox mount -t tmpfs x /tmp/layer").ok();
    assert_eq!(call(&daemon, "mknod layer/whiteout 0 0"), [0]);
    assert_eq!(call(&daemon, "mknod whiteout 0 0"), [1]);
    assert_eq!(call(&daemon, "mknod null 1 3"), [17]);
    for refused in ["mem 1 1", "kmsg 1 11", "tun 10 200", "null2 257 3"] {
        assert_eq!(call(&daemon, &format!("mknod {refused}")), [1], "{refused}");
    }
    inside(&daemon, "busybox mknod /tmp/block b 7 0").refused("Operation not permitted");
    inside(&daemon, "busybox mknod /tmp/pipe p").ok();
    // The caller's directories, by number and by name, and rights.
    assert_eq!(call(&daemon, "at /tmp below"), [0]);
    assert!(path(&daemon, "tmp/below").symlink_metadata().unwrap().file_type().is_char_device());
    inside(&daemon, "mkdir -p /tmp/jail/tmp /tmp/ro /tmp/theirs; cp /calls /tmp/jail; busybox mount -t tmpfs -o ro x /tmp/ro; busybox chown 1000:1000 /tmp/theirs; busybox chmod 700 /tmp/theirs; busybox chmod 777 /tmp").ok();
    inside(&daemon, "busybox chroot /tmp/jail /calls mknod /tmp/jailed 1 3").ok();
    assert!(path(&daemon, "tmp/jail/tmp/jailed").exists() && !path(&daemon, "tmp/jailed").exists());
    assert_eq!(call(&daemon, "mknod /tmp/ro/x 1 3"), [30]);
    assert_eq!(call(&daemon, "mknod /tmp/theirs/x 1 3"), [0], "root inside may");
    assert_eq!(call(&daemon, "as /tmp/user"), [1], "without the capability nobody may");
    assert_eq!(call(&daemon, "mknod /none/x 1 3"), [2]);
    assert_eq!(call(&daemon, "bad"), [14]);
    // A user namespace inside is not the container's.
    let nested = inside(&daemon, "busybox unshare -Ur /calls mknod /tmp/nested 1 3");
    assert!(!nested.out.lines().any(|line| line == "0"), "{}", nested.out);
    daemon.lxc(&["config", "set", "c1", "security.syscalls.intercept.mknod=false"]).ok();
    assert_eq!(call(&daemon, "mknod late 1 3"), [1], "what is switched off stops at once");
}

#[test]
fn one_attribute_is_set_with_one_value() {
    let daemon = ready(&["security.syscalls.intercept.setxattr=true"]);
    inside(&daemon, "mkdir /tmp/d; echo > /tmp/f").ok();
    assert_eq!(call(&daemon, "setxattr /tmp/d trusted.overlay.opaque y"), [0]);
    assert_eq!(call(&daemon, "setxattr /tmp/d user.x y"), [0], "others go on");
    for refused in ["/tmp/d trusted.overlay.opaque n", "/tmp/d trusted.overlay.redirect y", "/tmp/d trusted.x y"] {
        assert_eq!(call(&daemon, &format!("setxattr {refused}")), [1], "{refused}");
    }
    assert_eq!(call(&daemon, "setxattr /tmp/f trusted.overlay.opaque y"), [20]);
    let mut value = [0; 8];
    let name = "trusted.overlay.opaque";
    assert_eq!(rustix::fs::getxattr(path(&daemon, "tmp/d"), name, &mut value), Ok(1));
    assert_eq!(value[0], b'y');
}

#[test]
fn a_caller_that_changes_its_mind_is_held_to_what_was_checked() {
    let daemon = ready(&["security.syscalls.intercept.mknod=true", "security.syscalls.intercept.setxattr=true"]);
    inside(&daemon, "mkdir /tmp/a /tmp/b /tmp/x").ok();
    assert_eq!(call(&daemon, "race"), [0]);
    let mut names = [0; 4096];
    let count = rustix::fs::listxattr(path(&daemon, "tmp/x"), &mut names[..]).unwrap();
    let names = String::from_utf8_lossy(&names[..count]).into_owned();
    let trusted: Vec<&str> = names.split('\0').filter(|name| name.starts_with("trusted.")).collect();
    assert!(trusted.iter().all(|name| *name == "trusted.overlay.opaque"), "{trusted:?}");
    if !trusted.is_empty() {
        let mut value = [0; 8];
        rustix::fs::getxattr(path(&daemon, "tmp/x"), trusted[0], &mut value).unwrap();
        assert_eq!(value[0], b'y');
    }
    // A path that is half the one and half the other may name a file in these directories, never one elsewhere.
    let mut made = 0;
    for dir in ["tmp/a", "tmp/b"] {
        for entry in std::fs::read_dir(path(&daemon, dir)).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().rdev(), 0x103);
            made += 1;
        }
    }
    assert!(made > 0, "no call got through");
}

#[test]
fn limits_are_told_and_real_time_is_had() {
    let daemon = ready(&[
        "security.syscalls.intercept.sysinfo=true",
        "security.syscalls.intercept.sched_setscheduler=true",
        "limits.memory=64MiB",
    ]);
    let told = call(&daemon, "sysinfo");
    assert_eq!(told[..2], [0, 64 << 20]);
    assert!(told[2] < 100, "uptime: {}", told[2]);
    // Control groups of version 1 share real time out, and give a new group none.
    let share = daemon.cgroup_file("c1", "cpu", "cpu.rt_runtime_us", "cpu.max");
    if share.ends_with("cpu.rt_runtime_us") && share.exists() {
        assert_eq!(call(&daemon, "fifo"), [1, 0]);
        std::fs::write(share.parent().unwrap().with_file_name("cpu.rt_runtime_us"), "20000").unwrap();
        std::fs::write(&share, "10000").unwrap();
    }
    assert_eq!(call(&daemon, "fifo"), [0, 1]);
    daemon.lxc(&["config", "set", "c1", "raw.seccomp=2\ndenylist\n"]).refused("mutually exclusive");
    daemon.lxc(&["config", "set", "c1", "security.syscalls.intercept.sysinfo=perhaps"]).refused("true or false");
}

#[test]
fn without_the_daemon_calls_fail_and_with_the_next_they_do_not() {
    let mut daemon = ready(&["security.syscalls.intercept.mknod=true"]);
    // Open for both, the pipe has no end: each word is one call.
    let loops =
        "exec 3<> /tmp/go; for n in 1 2 3 4 5 6 7 8 9; do read x <&3; /calls mknod /tmp/n$n 1 3 >> /tmp/said; done";
    inside(&daemon, &format!("busybox mkfifo /tmp/go; ({loops}) > /dev/null 2>&1 < /dev/null &")).ok();
    let go = path(&daemon, "tmp/go");
    let said = path(&daemon, "tmp/said");
    let ask = || std::fs::write(&go, "x\n").unwrap();
    let answer = |count: usize| {
        let lines = || std::fs::read_to_string(&said).unwrap_or_default();
        support::eventually("a call returns", || lines().lines().count() >= count);
        lines().lines().nth(count - 1).unwrap().to_owned()
    };
    let next = |count: usize| {
        ask();
        answer(count)
    };
    assert_eq!(next(1), "0");
    daemon.kill();
    daemon.start();
    // The monitor finds its connection closed, and connects again for the same call.
    assert_eq!(next(2), "0");
    daemon.kill();
    assert_eq!(next(3), "38");
    assert_eq!(next(4), "38");
    daemon.start();
    assert_eq!(next(5), "0");
    daemon.terminate();
    assert_eq!(next(6), "38");
    daemon.start();
    assert_eq!(next(7), "0");
    // A call that the daemon leaves behind.
    let monitor = monitor(daemon.instance_pid("c1"));
    daemon.signal("STOP");
    ask();
    support::eventually("the monitor waits for an answer", || waits(&monitor));
    daemon.kill();
    assert_eq!(answer(8), "38");
    daemon.start();
    assert_eq!(next(9), "0");
}

#[test]
fn a_container_that_floods_or_stalls_keeps_nobody_else_waiting() {
    let daemon = ready(&["security.syscalls.intercept.mknod=true"]);
    let program = daemon.root.join("calls");
    for name in ["flood", "stall"] {
        daemon.lxc(&["launch", "bb", name, "-c", "security.syscalls.intercept.mknod=true"]).ok();
        daemon.lxc(&["file", "push", "--mode", "755", program.to_str().unwrap(), &format!("{name}/calls")]).ok();
    }
    daemon.lxc(&["config", "device", "add", "stall", "fuse", "unix-char", "path=/dev/fuse"]).ok();
    daemon.inside("flood", "/calls flood > /dev/null 2>&1 < /dev/null &").ok();
    daemon.inside("stall", "mkdir -p /tmp/stuck; /calls stall /tmp/stuck > /dev/null 2>&1 < /dev/null &").ok();
    let root = PathBuf::from(format!("/proc/{}/root", daemon.instance_pid("flood")));
    support::eventually("the flood", || root.join("tmp/flood").exists());
    let stall = daemon.instance_pid("stall");
    support::eventually("the stall", || {
        std::fs::read_to_string(format!("/proc/{stall}/mountinfo")).unwrap().contains(" /tmp/stuck ")
    });
    let monitor = monitor(stall);
    support::eventually("a call that is in work for long", || waits(&monitor));
    let start = Instant::now();
    for n in 0..10 {
        assert_eq!(call(&daemon, &format!("mknod mine{n} 1 3")), [0]);
        let asked = Instant::now();
        assert_eq!(daemon.api("GET", "/1.0/instances?recursion=1", "").0, 200);
        assert!(asked.elapsed() < Duration::from_secs(1), "the API took {:?}", asked.elapsed());
    }
    assert!(start.elapsed() < Duration::from_secs(5), "calls took {:?}", start.elapsed());
    for name in ["flood", "stall"] {
        let start = Instant::now();
        daemon.lxc(&["stop", "--force", name]).ok();
        assert!(start.elapsed() < Duration::from_secs(8), "{name} stopped in {:?}", start.elapsed());
    }
}

#[test]
fn a_privileged_one_needs_nobody() {
    let daemon = ready(&["security.syscalls.intercept.mknod=true", "security.privileged=true"]);
    let policy = std::fs::read_to_string(daemon.state().join("security/seccomp/c1")).unwrap();
    assert!(!policy.contains("notify"));
    assert_eq!(call(&daemon, "mknod mine 1 3"), [0]);
}

/// A loop device with a file system that has a file `who`.
struct Disk(String);

impl Disk {
    fn with(daemon: &Daemon, name: &str, format: &[&str]) -> Self {
        let tree = daemon.root.join("tree");
        std::fs::create_dir_all(&tree).unwrap();
        std::fs::write(tree.join("who"), name).unwrap();
        let image = daemon.root.join(name);
        run(Command::new("truncate").args(["-s", "16M"]).arg(&image));
        run(Command::new(format[0]).args(&format[1..]).arg(&tree).arg(&image));
        let output = Command::new("losetup").args(["--find", "--show"]).arg(&image).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It goes when nobody has it mounted any more.
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn listed_file_systems_on_its_disks_are_mounted() {
    let daemon = ready(&[
        "security.syscalls.intercept.mount=true",
        "security.syscalls.intercept.mount.allowed=ext4",
        // Nodes on its root can be opened.
        "security.syscalls.intercept.mknod=true",
    ]);
    let (disk, other) = (
        Disk::with(&daemon, "mine", &["mkfs.ext4", "-q", "-d"]),
        Disk::with(&daemon, "other", &["mkfs.ext4", "-q", "-d"]),
    );
    let source = format!("source={}", disk.0);
    daemon.lxc(&["config", "device", "add", "c1", "disk", "unix-block", &source, "path=/dev/disk"]).ok();
    inside(&daemon, "mkdir -p /tmp/m /tmp/jail/m").ok();
    assert_eq!(call(&daemon, "mount /dev/disk /tmp/m ext4 0 user_xattr"), [0]);
    let seen = inside(&daemon, "cat /tmp/m/who; grep ' /tmp/m ' /proc/self/mountinfo; ls -ln /tmp/m/who").ok();
    assert!(seen.starts_with("mine"), "{seen}");
    for word in ["nosuid", "nodev", " ext4 /dev/disk ", "errors=remount-ro", " 65534 "] {
        assert!(seen.contains(word), "{word}: {seen}");
    }
    assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&disk.0), "only inside");
    // As a mount that is its own.
    inside(&daemon, "busybox umount /tmp/m").ok();
    daemon.lxc(&["config", "set", "c1", "security.syscalls.intercept.mount.shift=true"]).ok();
    assert_eq!(call(&daemon, "mount /dev/disk m ext4 9 noload"), [0], "read-only, noexec, by a relative path");
    inside(&daemon, "echo x > /tmp/m/x").refused("Read-only file system");
    inside(&daemon, "ls -ln /tmp/m/who").ok().lines().for_each(|line| assert!(line.contains(" 0        0 "), "{line}"));
    inside(&daemon, "busybox umount /tmp/m; cp /calls /tmp/jail; cp -a /dev/disk /tmp/jail || true").ok();
    // What is refused: options that reach further, file systems that are not listed, devices that it was not given.
    for option in ["errors=panic", "journal_path=/dev/sda", "usrjquota=f", "journal_dev=8"] {
        assert_eq!(call(&daemon, &format!("mount /dev/disk /tmp/m ext4 0 {option}")), [1], "{option}");
    }
    assert_eq!(call(&daemon, "mount /dev/disk /tmp/m xfs 0 ''"), [1]);
    assert_eq!(call(&daemon, "mount /dev/null /tmp/m ext4 0 ''"), [1]);
    assert_eq!(call(&daemon, "mount /dev/disk /tmp/none ext4 0 ''"), [2]);
    assert_eq!(call(&daemon, "mount /dev/disk /dev/null ext4 0 ''"), [20]);
    // A node of another disk, made from outside: its number is not in the device rules.
    let theirs = path(&daemon, "other");
    run(Command::new("mknod").arg(&theirs).args(node(&other.0)));
    run(Command::new("chmod").arg("666").arg(&theirs));
    assert_eq!(call(&daemon, "mount /other /tmp/m ext4 0 ''"), [1]);
    // The container's own go on.
    inside(&daemon, "busybox mount -t tmpfs x /tmp/m && busybox mount --bind /tmp/jail /tmp/m").ok();
    daemon.lxc(&["config", "unset", "c1", "security.syscalls.intercept.mount.allowed"]).ok();
    assert_eq!(call(&daemon, "mount /dev/disk /tmp/m ext4 0 ''"), [1]);
    daemon
        .lxc(&["config", "set", "c1", "security.syscalls.intercept.mount.allowed=a/b"])
        .refused("no name of a file system");
}

/// Arguments of mknod(1) for a device like this one.
fn node(device: &str) -> [String; 3] {
    let number = std::fs::metadata(device).unwrap().rdev();
    ["b".to_owned(), libc::major(number).to_string(), libc::minor(number).to_string()]
}
