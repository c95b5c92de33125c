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
    /// Nothing on the host refuses it. With another word, that is what it comes to there.
    host: Option<&'static str>,
}

const fn both(attempt: &'static str, refused: &'static str) -> Row {
    Row { attempt, default: refused, privileged: Some(refused), host: None }
}

const fn unprivileged(attempt: &'static str, refused: &'static str) -> Row {
    Row { attempt, default: refused, privileged: None, host: None }
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
        if row.host.map_or(REFUSALS.contains(&on_host), |wanted| wanted != on_host) {
            wrong.push(format!("{}: {on_host} on the host", row.attempt));
        }
        for (name, wanted, got) in [
            ("default", Some(row.default), &default[index]),
            ("nesting", Some(row.default), &nesting[index]),
            ("privileged", row.privileged, &privileged[index]),
        ] {
            // What this kernel does not have, nobody has.
            let absent = on_host == "ENOENT" && got == "ENOENT";
            if wanted.is_some_and(|wanted| !absent && wanted.split('|').all(|one| one != got)) {
                wrong.push(format!("{}: {got} in {name}", row.attempt));
            }
        }
        println!("{}: {on_host} {} {} {}", row.attempt, default[index], nesting[index], privileged[index]);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
