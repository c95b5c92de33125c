//! Protection, system calls, raw.lxc and kernel modules, on real containers.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use support::{Daemon, Said, eventually};
use warren::config::syscalls::names;

fn set(daemon: &Daemon, pairs: &[&str]) -> Said {
    daemon.lxc(&[&["config", "set", "c1"], pairs].concat())
}

fn inside(daemon: &Daemon, command: &str) -> Said {
    daemon.lxc(&["exec", "c1", "--", "sh", "-c", command])
}

fn script(path: &Path, text: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn a_protected_one_is_not_deleted() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1", "-c", "security.protection.delete=true"]).ok();
    daemon.lxc(&["delete", "c1"]).refused("Instance is protected");
    daemon.lxc(&["start", "c1"]).ok();
    set(&daemon, &["security.protection.shift=true", "security.protection.delete=false"]).ok();
    daemon.lxc(&["profile", "set", "default", "security.protection.delete=true"]).ok();
    // One's own word counts, not that of the profile; then only that of the profile is there.
    daemon.lxc(&["init", "bb", "c2"]).ok();
    daemon.lxc(&["delete", "c2"]).refused("Instance is protected");
    daemon.lxc(&["stop", "--force", "c1"]).ok();
    daemon.lxc(&["delete", "c1"]).ok();
    assert_eq!(daemon.status("c2"), "Stopped");
    daemon.lxc(&["profile", "unset", "default", "security.protection.delete"]).ok();
    daemon.lxc(&["delete", "c2"]).ok();
    // What deletes itself has been asked to.
    daemon.lxc(&["launch", "bb", "e", "--ephemeral", "-c", "security.protection.delete=true"]).ok();
    daemon.lxc(&["stop", "--force", "e"]).ok();
    eventually("the ephemeral one is gone", || daemon.status("e") == "none");
}

#[test]
fn system_calls_are_denied_as_the_keys_say() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    let policy = daemon.state().join("security/seccomp/c1");
    assert!(std::fs::read_to_string(&policy).unwrap().contains("open_by_handle_at errno 1\n"));
    let restart = || daemon.lxc(&["restart", "--force", "c1"]).ok();
    let force = "mkdir -p /m; mount -t tmpfs x /m && busybox umount -f /m";
    for process in ["1", "self"] {
        let filtered = inside(&daemon, &format!("busybox grep Seccomp: /proc/{process}/status")).ok();
        assert_eq!(filtered.split_whitespace().next_back(), Some("2"), "{process}");
    }
    inside(&daemon, force).refused("umount");
    inside(&daemon, "hostname c1").ok();

    // More of them, with what the caller is told; the older name is the same.
    for key in ["security.syscalls.deny", "security.syscalls.blacklist"] {
        set(&daemon, &[&format!("{key}=# a remark\nsethostname errno 38\n")]).ok();
        restart();
        inside(&daemon, "hostname c1").refused("not implemented");
        inside(&daemon, force).refused("umount");
        set(&daemon, &[&format!("{key}=")]).ok();
    }
    // Who is told nothing is killed, by SIGSYS.
    set(&daemon, &["security.syscalls.deny=sethostname"]).ok();
    restart();
    assert_eq!(inside(&daemon, "hostname c1; echo $?").ok().lines().last(), Some("159"));
    set(&daemon, &["security.syscalls.deny="]).ok();
    // None of the usual ones.
    set(&daemon, &["security.syscalls.deny_default=false"]).ok();
    restart();
    inside(&daemon, force).ok();
    inside(&daemon, "hostname c1").ok();
    set(&daemon, &["security.syscalls.deny_default="]).ok();

    // A policy of one's own.
    set(&daemon, &["raw.seccomp=2\ndenylist\n[all]\nsethostname errno 95\n"]).ok();
    restart();
    inside(&daemon, "hostname c1").refused("not supported");
    inside(&daemon, force).ok();
    set(&daemon, &["security.syscalls.deny=read"])
        .refused("\"raw.seccomp\" is mutually exclusive with \"security.syscalls.deny\"");
    set(&daemon, &["raw.seccomp="]).ok();

    // Only these.
    let allowed: Vec<&str> = names().filter(|name| *name != "sethostname").collect();
    set(&daemon, &[&format!("security.syscalls.allow={}", allowed.join("\n"))]).ok();
    restart();
    assert_eq!(inside(&daemon, "echo works").ok(), "works\n");
    assert_ne!(inside(&daemon, "hostname c1").code, 0);
    set(&daemon, &["security.syscalls.deny_compat=true"]).refused("mutually exclusive");
    daemon.lxc(&["profile", "set", "default", "security.syscalls.deny=read"]).refused("mutually exclusive");
    set(&daemon, &["security.syscalls.allow="]).ok();

    for (key, bad, word) in [
        ("deny", "read\nreed errno 5", "line 2 (\"reed errno 5\"): there is no system call \"reed\""),
        ("allow", "[all]", "line 1"),
        ("whitelist", "read maybe", "\"maybe\""),
        ("deny_default", "perhaps", "true or false"),
    ] {
        let said = set(&daemon, &[&format!("security.syscalls.{key}={bad}")]);
        assert!(said.err.contains(&format!("\"security.syscalls.{key}\"")), "{}", said.err);
        said.refused(word);
    }
    daemon.lxc(&["stop", "--force", "c1"]).ok();
    daemon.lxc(&["rename", "c1", "c2"]).ok();
    daemon.lxc(&["start", "c2"]).ok();
    daemon.lxc(&["delete", "--force", "c2"]).ok();
    assert_eq!(std::fs::read_dir(policy.parent().unwrap()).unwrap().count(), 0);
}

/// A small program for 32-bit x86: it exits with 0, or with 1 when it may not call getuid32(2).
fn program_of_32_bits() -> Vec<u8> {
    let head = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0\x01\0\0\0\x54\x80\x04\x08\x34\0\0\0\0\0\0\0\0\0\0\0\x34\0\x20\0\x01\0\0\0\0\0\0\0";
    let segment = b"\x01\0\0\0\0\0\0\0\0\x80\x04\x08\0\x80\x04\x08\x70\0\0\0\x70\0\0\0\x05\0\0\0\0\x10\0\0";
    let code = b"\xb8\xc7\0\0\0\xcd\x80\xc1\xe8\x1f\x89\xc3\xb8\x01\0\0\0\xcd\x80\0\0\0\0\0\0\0\0\0";
    [head.as_slice(), segment, code].concat()
}

#[test]
#[cfg(target_arch = "x86_64")]
fn programs_of_32_bits_can_be_shut_out() {
    let daemon = Daemon::ready("overlay");
    let program = daemon.root.join("small");
    std::fs::write(&program, program_of_32_bits()).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    // Kernels can be built without them; then there is nothing to see.
    let runs = Command::new(&program).status().is_ok_and(|status| status.success());
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    daemon.lxc(&["file", "push", "--mode", "0755", program.to_str().unwrap(), "c1/bin/small"]).ok();
    assert_eq!(inside(&daemon, "/bin/small").code == 0, runs);
    set(&daemon, &["security.syscalls.blacklist_compat=true"]).ok();
    daemon.lxc(&["restart", "--force", "c1"]).ok();
    assert_ne!(inside(&daemon, "/bin/small").code, 0);
    assert_eq!(inside(&daemon, "echo works").ok(), "works\n");
}

#[test]
fn lines_for_liblxc_count_but_not_those_the_daemon_lives_by() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    let (hook, trace) = (daemon.root.join("hook"), daemon.root.join("trace"));
    script(&hook, &format!("echo \"$LXC_HOOK_TYPE $LXC_NAME\" >> {}", trace.display()));
    let hook = hook.display();
    let text = format!(
        "# hooks\nlxc.hook.post-stop =\nlxc.hook.pre-start = {hook}\nlxc.hook.post-stop={hook}\nlxc.hook.version = 0\nlxc.environment = FROM=raw\nlxc.prlimit.nofile = 77"
    );
    set(&daemon, &[&format!("raw.lxc={text}")]).ok();
    daemon.lxc(&["start", "c1"]).ok();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.instance_pid("c1"))).unwrap();
    assert!(limits.lines().any(|line| line.starts_with("Max open files") && line.contains(" 77 ")), "{limits}");
    assert!(std::fs::read_to_string(&trace).unwrap().contains("pre-start c1"));
    // Turned off from inside, it is known to be down for good, and not to have crashed.
    // Its init may end the shell that asked before that has ended.
    inside(&daemon, "poweroff");
    eventually("it is down", || daemon.status("c1") == "Stopped");
    assert!(std::fs::read_to_string(&trace).unwrap().contains("post-stop c1"));
    assert_eq!(daemon.lxc(&["config", "get", "c1", "volatile.last_state.power"]).ok().trim(), "STOPPED");

    for (line, word) in [
        ("lxc.log.file = /x", "lxc.log.file is not allowed"),
        ("LXC.LOG.LEVEL=trace", "not allowed"),
        ("lxc.syslog = x", "not allowed"),
        ("lxc.ephemeral=1", "lxc.ephemeral is not allowed"),
        (" lxc.include\t= /etc/passwd", "lxc.include is not allowed"),
        ("lxc.net.0.type = phys", "Only interface-specific ipv4/ipv6 lxc.net. keys are allowed"),
        ("lxc.network.type = phys", "Only interface-specific"),
        ("nonsense", "KEY = VALUE"),
    ] {
        let said = set(&daemon, &[&format!("raw.lxc=lxc.cap.drop =\n{line}")]);
        assert!(said.err.contains("\"raw.lxc\": line 2"), "{}", said.err);
        said.refused(word);
    }
    let body = r#"{"config":{"raw.lxc":"lxc.cap.drop = \u0000"}}"#;
    let (status, answer) = daemon.api("PATCH", "/1.0/instances/c1", body);
    assert_eq!(status, 400, "{answer}");
    set(&daemon, &["raw.lxc=lxc.net.0.ipv4.address = 10.1.2.3/24"]).ok();
    // What only liblxc knows to be wrong refuses the start.
    for (line, word) in [
        ("lxc.no.such.key = 1", "has no lxc.no.such.key"),
        ("lxc.cap.drop = bogus", "does not take"),
        ("lxc.signal.halt = foo", "does not take"),
    ] {
        let said = set(&daemon, &[&format!("raw.lxc={line}")]);
        assert!(said.err.contains("\"raw.lxc\"") && said.err.contains(word), "{}", said.err);
        daemon.lxc(&["profile", "set", "default", &format!("raw.lxc={line}")]).refused(word);
    }
    set(&daemon, &["raw.lxc="]).ok();
    daemon.lxc(&["start", "c1"]).ok();
}

#[test]
fn a_start_that_liblxc_gives_up_names_what_may_be_why() {
    let mut daemon = Daemon::bare();
    daemon.set_up("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    set(&daemon, &["limits.kernel.nofile=2000000000", "limits.processes=1000"]).ok();
    daemon.lxc(&["start", "c1"]).refused("What may be why in its configuration: limits.kernel.nofile\n");
    set(&daemon, &["limits.kernel.nofile=", "security.syscalls.allow=read"]).ok();
    daemon.lxc(&["start", "c1"]).refused("configuration: limits.processes, security.syscalls.allow");
    set(&daemon, &["security.syscalls.allow=", "limits.processes="]).ok();

    // One that hangs is ended, and does not stand in the way of the next.
    daemon.terminate();
    daemon.set_env("WARREN_TEST_START_SECONDS", "3");
    daemon.start();
    let (hook, trace) = (daemon.root.join("hook"), daemon.root.join("trace"));
    script(&hook, &format!("echo $$ > {}; exec sleep 60", trace.display()));
    set(&daemon, &[&format!("raw.lxc=lxc.hook.pre-start = {}", hook.display())]).ok();
    let said = daemon.lxc(&["start", "c1"]);
    assert!(said.err.contains("no answer within 3 s") && said.err.contains("configuration: raw.lxc"), "{}", said.err);
    let slept = std::fs::read_to_string(&trace).unwrap().trim().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(slept).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    set(&daemon, &["raw.lxc="]).ok();
    daemon.lxc(&["start", "c1"]).ok();
}

#[test]
fn nobody_gets_around_a_host_without_privileged_ones() {
    let daemon = Daemon::with_env(&[("WARREN_UNPRIVILEGED_ONLY", "true")]);
    daemon.set_up("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    for pair in ["security.privileged=true", "raw.idmap=both 0 0", "raw.lxc=lxc.idmap ="] {
        set(&daemon, &[pair]).refused("only allow unprivileged");
    }
}

#[test]
fn kernel_modules_are_loaded_or_the_start_is_refused() {
    let mut daemon = Daemon::ready("overlay");
    daemon.terminate();
    let (bin, trace) = (daemon.root.join("bin"), daemon.root.join("trace"));
    std::fs::create_dir(&bin).unwrap();
    let text =
        format!("echo \"$@\" >> {}\n[ \"$3\" != bad_one ] || {{ echo FATAL: none >&2; exit 1; }}", trace.display());
    script(&bin.join("modprobe"), &text);
    daemon.set_env("PATH", &format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()));
    daemon.start();
    let seen = || std::fs::read_to_string(&trace).unwrap_or_default();
    let there = std::fs::read_dir("/sys/module").unwrap().next().unwrap().unwrap().file_name().into_string().unwrap();
    daemon.lxc(&["init", "bb", "c1", "-c", &format!("linux.kernel_modules=wt_one, {there},wt-two")]).ok();
    assert_eq!(seen(), "");
    daemon.lxc(&["start", "c1"]).ok();
    assert_eq!(seen(), "-b -- wt_one\n-b -- wt-two\n");
    // At once while it runs, and only what is new; a refusal changes nothing.
    set(&daemon, &["linux.kernel_modules=wt_one,wt_three"]).ok();
    assert!(seen().ends_with("wt-two\n-b -- wt_three\n"));
    set(&daemon, &["linux.kernel_modules=bad_one"])
        .refused("the kernel module \"bad_one\" cannot be loaded: FATAL: none");
    assert_eq!(daemon.lxc(&["config", "get", "c1", "linux.kernel_modules"]).ok().trim(), "wt_one,wt_three");
    for bad in ["-r", "a b", "../x", "x;y"] {
        set(&daemon, &[&format!("linux.kernel_modules={bad}")]).refused("no name of a kernel module");
    }
    daemon.lxc(&["stop", "--force", "c1"]).ok();
    set(&daemon, &["linux.kernel_modules=bad_one"]).ok();
    daemon.lxc(&["start", "c1"]).refused("\"bad_one\"");
    assert_eq!(daemon.status("c1"), "Stopped");
}
