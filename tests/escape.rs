//! Ways out of a container, tried. Each is made on the host, too, where nothing but the confinement differs: there it is not
//! refused, so that a refusal inside is seen to be one. What would do harm if it got through is asked for in a way that does
//! none: what is already so, what is not valid, a file opened and not written.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use support::{Daemon, eventually, run, warrend};

/// Builds a program of `tests/escape` that needs nothing of a container.
fn build(daemon: &Daemon, name: &str, options: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/escape").join(name).with_extension("c");
    let program = daemon.root.join(name);
    run(Command::new("gcc")
        .args(["-static", "-O1", "-Wno-unused-result", "-fno-stack-protector"])
        .args(options)
        .arg("-o")
        .arg(&program)
        .arg(source));
    program
}

fn push(daemon: &Daemon, program: &Path, to: &str) {
    daemon.lxc(&["file", "push", "-p", "--mode", "0755", program.to_str().unwrap(), to]).ok();
}

/// What each attempt comes to in a container.
fn inside(daemon: &Daemon, name: &str, attempts: &[&str]) -> Vec<String> {
    let said = daemon.lxc(&[&["exec", name, "--", "/attempts"], attempts].concat()).ok();
    said.lines().map(str::to_owned).collect()
}

/// The same on the host.
fn outside(daemon: &Daemon, attempts: &[&str]) -> Vec<String> {
    let said = support::said(Command::new(daemon.root.join("attempts")).args(attempts)).ok();
    said.lines().map(str::to_owned).collect()
}

fn launch(daemon: &Daemon, name: &str, config: &[&str]) {
    let options = config.iter().flat_map(|pair| ["-c", pair]).collect::<Vec<_>>();
    daemon.lxc(&[&["launch", "bb", name], options.as_slice()].concat()).ok();
    push(daemon, &daemon.root.join("attempts"), &format!("{name}/attempts"));
}

/// A program that goes on.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Something to try. The words in braces are filled in.
struct Row {
    attempt: &'static str,
    /// What it comes to with the default settings, and with nesting.
    default: &'static str,
    /// In a privileged container; none where nothing is promised.
    privileged: Option<&'static str>,
}

const fn both(attempt: &'static str, refused: &'static str) -> Row {
    Row { attempt, default: refused, privileged: Some(refused) }
}

const fn unprivileged(attempt: &'static str, refused: &'static str) -> Row {
    Row { attempt, default: refused, privileged: None }
}

const ROWS: &[Row] = &[
    // Modules, kernels.
    both("init_module", "EPERM"),
    both("finit_module", "EPERM"),
    both("delete_module", "EPERM"),
    both("kexec_load", "EPERM"),
    both("kexec_file_load", "EPERM"),
    // The clock.
    both("settimeofday", "EPERM"),
    both("clock_settime", "EPERM"),
    both("adjtimex", "EPERM"),
    // Raw I/O.
    both("iopl", "EPERM"),
    both("ioperm", "EPERM"),
    // A file of the host's by its handle; {handle} is the root directory.
    both("handle / {handle}", "EPERM"),
    both("handle /disk {handle}", "EPERM"),
    // Nodes: a disk, the kernel's log, memory.
    both("block 7 0 {dir}/n", "EPERM"),
    both("char 1 11 {dir}/n", "EPERM"),
    both("char 1 1 {dir}/n", "EPERM"),
    // The kernel's switches.
    both("open w /proc/sys/kernel/core_pattern", "EACCES|EROFS"),
    both("open w /proc/sys/vm/overcommit_memory", "EACCES|EROFS"),
    both("open w /proc/sys/kernel/panic", "EACCES|EROFS"),
    both("open w /proc/sysrq-trigger", "EACCES|EROFS"),
    both("open w /sys/kernel/mm/transparent_hugepage/enabled", "EACCES|EROFS"),
    both("open w /sys/kernel/rcu_normal", "EACCES|EROFS"),
    // The same by mounts made writable or anew.
    unprivileged("remount /proc/sys /proc/sys/kernel/core_pattern", "EACCES|EPERM"),
    unprivileged("remount /sys /sys/kernel/rcu_normal", "EACCES|EPERM"),
    unprivileged("anew proc hidepid=0 {dir}/p sys/kernel/core_pattern", "EACCES|EPERM"),
    unprivileged("anew proc hidepid=0 {dir}/p sysrq-trigger", "EACCES|EPERM"),
    unprivileged("anew sysfs - {dir}/p kernel/rcu_normal", "EACCES|EPERM"),
    // A hierarchy of control groups of version 1 that is nobody's, with a root of its own.
    both("anew cgroup none,name=warren-escape {dir}/p release_agent", "EPERM"),
    unprivileged("console_level", "EPERM"),
    unprivileged("read_log", "EPERM"),
    unprivileged("bpf", "EPERM"),
    unprivileged("perf", "EACCES|EPERM"),
    unprivileged("swap", "EPERM"),
    unprivileged("accounting", "EPERM"),
    unprivileged("key {key}", "EACCES|ENOKEY"),
    // Another container's init, and what it listens to.
    both("kill {pid}", "ESRCH"),
    both("trace {pid}", "ESRCH"),
    both("memory {pid}", "ESRCH"),
    both("abstract {socket}", "ECONNREFUSED"),
];

/// By these words something is refused.
const REFUSALS: &[&str] = &["EPERM", "EACCES", "EROFS", "ESRCH", "ECONNREFUSED", "ENOKEY"];

#[test]
fn what_would_reach_the_host_is_refused() {
    let daemon = Daemon::ready("overlay");
    let program = build(&daemon, "attempts", &[]);
    launch(&daemon, "default", &[]);
    launch(&daemon, "nesting", &["security.nesting=true"]);
    launch(&daemon, "privileged", &["security.privileged=true"]);
    launch(&daemon, "other", &[]);
    let shared = daemon.root.join("shared");
    fs::create_dir(&shared).unwrap();
    let source = format!("source={}", shared.display());
    for name in ["default", "nesting", "privileged"] {
        daemon.lxc(&["config", "device", "add", name, "disk", "disk", &source, "path=/disk"]).ok();
    }
    // Of the host: the root's handle, a listener, a key.
    let handle = outside(&daemon, &["name_handle /"])[0].split(' ').next().unwrap().to_owned();
    let socket = format!("warren-escape-{}", std::process::id());
    let mut command = Command::new(&program);
    let mut listener = Running(command.arg(format!("listen {socket}")).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(listener.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "listening\n");
    let key = fs::read_to_string("/proc/keys").unwrap();
    let key = key.lines().find(|line| line.contains("_uid")).map_or("1", |line| line.split(' ').next().unwrap());
    let key = i64::from_str_radix(key, 16).unwrap().to_string();
    let pid = daemon.instance_pid("other").to_string();
    let fill = |text: &str, dir: &str| {
        text.replace("{handle}", &handle)
            .replace("{dir}", dir)
            .replace("{key}", &key)
            .replace("{pid}", &pid)
            .replace("{socket}", &socket)
    };
    let attempts = |dir: &str| ROWS.iter().map(|row| fill(row.attempt, dir)).collect::<Vec<_>>();
    let here = attempts(daemon.root.to_str().unwrap());
    let here: Vec<String> = here.iter().map(|text| text.replace("/disk", shared.to_str().unwrap())).collect();
    let host = outside(&daemon, &here.iter().map(String::as_str).collect::<Vec<_>>());
    let there = attempts("/tmp");
    let there: Vec<&str> = there.iter().map(String::as_str).collect();
    let [default, nesting, privileged] = ["default", "nesting", "privileged"].map(|name| inside(&daemon, name, &there));
    let mut wrong = Vec::new();
    for (index, row) in ROWS.iter().enumerate() {
        let on_host = host[index].as_str();
        if REFUSALS.contains(&on_host) {
            wrong.push(format!("{}: {on_host} on the host", row.attempt));
        }
        for (name, wanted, got) in [
            ("default", Some(row.default), &default[index]),
            ("nesting", Some(row.default), &nesting[index]),
            ("privileged", row.privileged, &privileged[index]),
        ] {
            // What this kernel does not have, nobody has.
            let absent = ["ENOENT", "ENOSYS"].contains(&on_host) && got == on_host;
            if wanted.is_some_and(|wanted| !absent && wanted.split('|').all(|one| one != got)) {
                wrong.push(format!("{}: {got} in {name}", row.attempt));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn control_groups_and_id_maps_lead_no_further() {
    let daemon = Daemon::ready("overlay");
    build(&daemon, "attempts", &[]);
    launch(&daemon, "c1", &["limits.memory=200MiB"]);
    let file = daemon.cgroup_file("c1", "memory", "memory.limit_in_bytes", "memory.max");
    let (kinds, limit) = if file.ends_with("memory.max") {
        (["cgroup2 -o rw", "cgroup2 -o rw"], "memory.max")
    } else {
        (["cgroup -o memory", "cgroup -o devices"], "memory.limit_in_bytes")
    };
    // It mounts the hierarchies anew, as a hostile root would.
    for (kind, place) in kinds.iter().zip(["/m", "/d"]) {
        let script = format!("busybox mkdir {place} && busybox mount -t {kind} x {place}");
        daemon.lxc(&["exec", "c1", "--", "sh", "-c", &script]).ok();
    }
    // What is its own it may change: the processes of its group, a map of its own ids.
    assert_eq!(inside(&daemon, "c1", &["put /m/cgroup.procs 1", "map 0~0~1"]), ["done", "done"]);
    // Ids of the host, its own limits, other devices, a program that the host runs.
    let limit = format!("open w /m/{limit}");
    let got =
        inside(&daemon, "c1", &["map 0~4000000000~1", &limit, "put /d/devices.allow a", "open w /m/release_agent"]);
    assert!(got[0] == "EPERM" && got[1] == "EACCES", "{got:?}");
    assert!(["EPERM", "EACCES", "ENOENT"].contains(&got[2].as_str()), "{got:?}");
    assert!(["EACCES", "ENOENT"].contains(&got[3].as_str()), "{got:?}");
    assert_eq!(outside(&daemon, &["map 0~4000000000~1"]), ["done"]);
    // Where it lies is not told.
    let groups = daemon.lxc(&["exec", "c1", "--", "cat", "/proc/self/cgroup"]).ok();
    assert!(!groups.contains("warren"), "{groups}");
}

#[test]
fn without_the_usual_filter_the_user_namespace_refuses() {
    let daemon = Daemon::ready("overlay");
    build(&daemon, "attempts", &[]);
    launch(&daemon, "c1", &["security.syscalls.deny_default=false"]);
    let name = &outside(&daemon, &["name_handle /"])[0];
    let handle = format!("handle / {}", name.split(' ').next().unwrap());
    assert_eq!(outside(&daemon, &[&handle]), ["done"]);
    let attempts = [&handle, "init_module", "finit_module", "delete_module", "kexec_load"];
    let said = inside(&daemon, "c1", &attempts);
    assert!(said.iter().all(|one| ["EPERM", "ENOSYS"].contains(&one.as_str())), "{said:?}");
    assert_eq!(said[0], "EPERM");
}

#[test]
fn control_groups_of_a_privileged_one_lead_to_no_other() {
    let daemon = Daemon::ready("overlay");
    build(&daemon, "attempts", &[]);
    launch(&daemon, "other", &[]);
    launch(&daemon, "c1", &["security.privileged=true"]);
    let file = daemon.cgroup_file("c1", "memory", "memory.limit_in_bytes", "memory.max");
    let is_one = file.ends_with("memory.limit_in_bytes");
    let kind = if is_one { "cgroup -o memory" } else { "cgroup2" };
    daemon.lxc(&["exec", "c1", "--", "sh", "-c", &format!("mkdir /m && busybox mount -t {kind} x /m")]).ok();
    // It sees its own group as the root: none of the others, and no program to be run by the host.
    let groups = "busybox find /m -type d";
    let said = daemon.lxc(&["exec", "c1", "--", "sh", "-c", groups]).ok();
    assert!(said.starts_with("/m\n") && !said.contains("lxc.payload"), "{said}");
    let above = inside(&daemon, "c1", &["open w /m/release_agent", "open r /m/../sys/fs/cgroup/memory/release_agent"]);
    assert_eq!(above, ["ENOENT", "ENOENT"]);
    if is_one {
        // All of that is there.
        assert!(file.parent().unwrap().with_file_name("lxc.payload.other").exists());
        assert_eq!(outside(&daemon, &["open w /sys/fs/cgroup/memory/release_agent"]), ["done"]);
    }
}

/// Switches of a container's own namespaces, below /proc/sys.
const OWN: &[&str] = &[
    "net/",
    "user/",
    "fs/mqueue/",
    "kernel/hostname",
    "kernel/domainname",
    "kernel/sem",
    "kernel/msg",
    "kernel/shm",
    "kernel/ns_last_pid",
    "kernel/pid_max",
    "kernel/auto_msgmni",
];

#[test]
fn only_switches_of_its_own_namespaces_can_be_set() {
    let daemon = Daemon::ready("overlay");
    build(&daemon, "attempts", &[]);
    launch(&daemon, "c1", &[]);
    let switches = inside(&daemon, "c1", &["writable /proc/sys"]);
    let strange: Vec<&String> = switches
        .iter()
        .filter(|path| path.as_str() != "done")
        .filter(|path| !OWN.iter().any(|own| path.trim_start_matches("/proc/sys/").starts_with(own)))
        .collect();
    assert!(strange.is_empty(), "{strange:?}");
    assert!(switches.iter().any(|path| path == "/proc/sys/net/ipv4/ip_forward"), "the walk finds what can be written");
    let devices = inside(&daemon, "c1", &["writable /sys"]);
    // Interfaces of its network namespace are its own.
    let strange: Vec<&String> =
        devices.iter().filter(|path| path.as_str() != "done" && !path.contains("/net/")).collect();
    assert!(strange.is_empty(), "{strange:?}");
}

#[test]
fn a_reboot_is_one_of_the_container_only() {
    let daemon = Daemon::ready("overlay");
    build(&daemon, "attempts", &[]);
    let host = fs::read_link("/proc/self/ns/pid").unwrap().display().to_string();
    let attempt = format!("reboot {host}");
    for (name, config) in [("c1", "user.a=b"), ("c2", "security.privileged=true")] {
        launch(&daemon, name, &[config]);
        let before = daemon.instance_pid(name);
        // What asks may be ended before it answers.
        daemon.lxc(&["exec", name, "--", "/attempts", &attempt]);
        eventually("it has another init", || {
            let now = daemon.instance_pid(name);
            now > 0 && now != before
        });
    }
}

#[test]
fn who_enters_a_container_shows_it_nothing() {
    let daemon = Daemon::ready("overlay");
    build(&daemon, "attempts", &[]);
    let loader = build(&daemon, "loader", &["-nostdlib"]);
    let file = fs::metadata(warrend()).unwrap();
    launch(&daemon, "c1", &[]);
    // The container's "program" is the program of who executes it, and its loader comes from the container.
    push(&daemon, &loader, "c1/lib64/ld-linux-x86-64.so.2");
    let script = daemon.root.join("script");
    fs::write(&script, "#!/proc/self/exe\n").unwrap();
    push(&daemon, &script, "c1/script");
    let said = daemon.lxc(&["exec", "c1", "--", "/script"]).ok();
    // It runs as the daemon's program indeed, and cannot write to its file: EACCES.
    assert_eq!(said, format!("{} {} 13\n", file.dev(), file.ino()));
    // No files of the helper's are open: the three, and the directory that is read here.
    let open = |process: &str| {
        let said = daemon.lxc(&["exec", "c1", "--", "ls", &format!("/proc/{process}/fd")]).ok();
        said.split_whitespace().filter(|fd| fd.parse::<u32>().unwrap() > 3).count()
    };
    assert_eq!((open("self"), open("1")), (0, 0));
}

/// What `watch` tells about a container while commands are run in it; see tests/escape/watch.c.
fn watched(daemon: &Daemon, name: &str) -> Vec<String> {
    push(daemon, &daemon.root.join("watch"), &format!("{name}/watch"));
    let mut command = daemon.client();
    command.args(["exec", name, "--", "/watch"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut watch = Running(command.spawn().unwrap());
    let mut lines = BufReader::new(watch.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "looking");
    for _ in 0..30 {
        // One that is stopped by the watch for a moment goes on.
        daemon.lxc(&["exec", name, "--", "true"]).ok();
    }
    drop(watch.0.stdin.take());
    lines.collect()
}

#[test]
fn who_enters_a_container_brings_nothing_of_the_hosts_along() {
    let daemon = Daemon::with_env(&[("WARREN_ESCAPE_SECRET", "x")]);
    daemon.set_up("overlay");
    let watch = build(&daemon, "watch", &[]);
    build(&daemon, "attempts", &[]);
    launch(&daemon, "default", &[]);
    launch(&daemon, "privileged", &["security.privileged=true"]);
    // The daemon itself has what must not be seen.
    let mut command = Command::new(&watch);
    let mut host =
        Running(command.arg(daemon.pid().to_string()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(host.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut seen = Vec::new();
    while !["env WARREN_ESCAPE_SECRET", "fd /"]
        .iter()
        .all(|text| seen.iter().any(|line: &String| line.starts_with(text)))
    {
        seen.push(lines.next().unwrap());
    }
    drop(host.0.stdin.take());
    for name in ["default", "privileged"] {
        let said = watched(&daemon, name);
        let strange: Vec<&String> = said
            .iter()
            .filter(|line| {
                let (kind, what) = line.split_once(' ').unwrap();
                match kind {
                    "root" => what != "/",
                    "cwd" => !["/", "/root"].contains(&what),
                    // Its own terminals and pipes, the helper's socket, what the others of the container have open.
                    "fd" => {
                        !["socket:", "pipe:", "anon_inode:", "/dev/null"].contains(&what)
                            && !what.starts_with("/dev/pts/")
                            && !what.starts_with("/proc/")
                    }
                    "env" => what.contains("WARREN") || what.starts_with("LXC_") || what.starts_with("CARGO"),
                    "traced" => name == "default" && what != "0",
                    _ => false,
                }
            })
            .collect();
        assert!(strange.is_empty(), "{name}: {strange:?} of {said:?}");
        let refused = said.iter().find_map(|line| line.strip_prefix("refused ")).unwrap();
        assert!(name == "privileged" || refused != "0", "the watch meets who enters");
    }
}
