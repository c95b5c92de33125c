//! What happens to containers when the daemon dies, ends or comes back, and what they do by themselves.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use support::{Daemon, eventually, exists};

#[test]
fn killing_the_daemon_disturbs_nobody() {
    let mut daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    daemon.lxc(&["init", "bb", "c2"]).ok();
    let pid = daemon.instance_pid("c1");
    for _ in 0..3 {
        daemon.kill();
        daemon.start();
        assert_eq!(daemon.instance_pid("c1"), pid, "the same init goes on");
        assert_eq!(daemon.status("c2"), "Stopped");
    }
    daemon.lxc(&["exec", "c1", "--", "true"]).ok();
    daemon.terminate();
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "SIGTERM leaves containers running");
    daemon.start();
    assert_eq!(daemon.instance_pid("c1"), pid);
    daemon.lxc(&["stop", "--force", "c1"]).ok();
}

#[test]
fn a_container_that_ended_meanwhile_is_found_so() {
    let mut daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "off"]).ok();
    daemon.lxc(&["launch", "bb", "crashed"]).ok();
    let (off, crashed) = (daemon.instance_pid("off"), daemon.instance_pid("crashed"));
    daemon.kill();
    let signal = |pid: i64, signal| {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    };
    // busybox's init powers off on SIGUSR2.
    signal(off, rustix::process::Signal::USR2);
    signal(crashed, rustix::process::Signal::KILL);
    for pid in [off, crashed] {
        eventually("init is gone", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
    daemon.start();
    assert_eq!(daemon.status("off"), "Stopped");
    daemon.lxc(&["start", "off"]).ok();
}

#[test]
fn a_reboot_from_inside_brings_it_back_with_fresh_configuration() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    let pid = daemon.instance_pid("c1");
    daemon.lxc(&["config", "set", "c1", "environment.FRESH", "yes"]).ok();
    let _ = daemon.lxc(&["exec", "c1", "--", "reboot", "-f"]);
    eventually("another init", || {
        let now = daemon.instance_pid("c1");
        now != 0 && now != pid && daemon.status("c1") == "Running"
    });
    let environ = daemon.lxc(&["exec", "c1", "--", "cat", "/proc/1/environ"]).ok();
    assert!(environ.contains("FRESH=yes"), "{environ}");
}

#[test]
fn a_reboot_while_no_daemon_is_there_brings_back_all_that_it_had() {
    let mut daemon = Daemon::ready("overlay");
    let source = daemon.root.join("source");
    std::fs::create_dir_all(&source).unwrap();
    std::fs::write(source.join("who"), "disk").unwrap();
    let disk = format!("source={}", source.display());
    for name in ["plain", "first", "later"] {
        daemon.lxc(&["init", "bb", name, "-c", "boot.autostart=false"]).ok();
    }
    daemon.lxc(&["config", "device", "add", "first", "d", "disk", "path=/d", &disk]).ok();
    for name in ["plain", "first", "later"] {
        daemon.lxc(&["start", name]).ok();
    }
    daemon.lxc(&["config", "device", "add", "later", "d", "disk", "path=/d", &disk]).ok();
    let inits = ["plain", "first", "later"].map(|name| daemon.instance_pid(name));
    daemon.terminate();
    for pid in inits {
        // busybox's init reboots on SIGTERM.
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
    for pid in inits {
        eventually("init is gone", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
    daemon.start();
    for (name, old) in ["plain", "first", "later"].iter().zip(inits) {
        eventually("it has come up again", || {
            daemon.status(name) == "Running" && ![0, old].contains(&daemon.instance_pid(name))
        });
    }
    for name in ["first", "later"] {
        assert_eq!(daemon.lxc(&["exec", name, "--", "cat", "/d/who"]).ok(), "disk");
    }
}

#[test]
fn a_poweroff_from_inside_stops_it_and_an_ephemeral_one_vanishes() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    let _ = daemon.lxc(&["exec", "c1", "--", "poweroff", "-f"]);
    eventually("it is down", || daemon.status("c1") == "Stopped");
    daemon.lxc(&["launch", "bb", "gone", "--ephemeral"]).ok();
    daemon.lxc(&["stop", "--force", "gone"]).ok();
    eventually("it is gone", || daemon.status("gone") == "none");
    assert!(!exists(&daemon.state().join("containers/gone")));
}

#[test]
fn autostart_follows_the_key_or_what_ran() {
    let mut daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "ran"]).ok();
    daemon.lxc(&["init", "bb", "wanted", "-c", "boot.autostart=true"]).ok();
    daemon.lxc(&["launch", "bb", "unwanted", "-c", "boot.autostart=false", "-c", "boot.host_shutdown_timeout=1"]).ok();
    daemon.lxc(&["init", "bb", "idle"]).ok();
    daemon.verb(&["shutdown", "--timeout", "60"]).ok();
    assert!(daemon.leftovers().is_empty(), "{:?}", daemon.leftovers());
    daemon.kill();
    daemon.start();
    eventually("those that should", || daemon.status("ran") == "Running" && daemon.status("wanted") == "Running");
    assert_eq!(daemon.status("unwanted"), "Stopped");
    assert_eq!(daemon.status("idle"), "Stopped");
}

/// When a process began, in ticks since the machine did (proc(5), field 22 of stat).
fn began(pid: i64) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap()
}

#[test]
fn they_start_and_stop_in_the_order_of_their_priorities() {
    let mut daemon = Daemon::ready("overlay");
    // By name the order would be the other one, both times.
    for (name, start, stop) in [("a", 1, 1), ("b", 5, 2), ("c", 9, 3)] {
        daemon.lxc(&["init", "bb", name]).ok();
        let delay = if name == "b" { 1 } else { 0 };
        for (key, value) in
            [("boot.autostart.priority", start), ("boot.autostart.delay", delay), ("boot.stop.priority", stop)]
        {
            daemon.lxc(&["config", "set", name, &format!("{key}={value}")]).ok();
        }
        daemon.lxc(&["start", name]).ok();
    }
    let (tell, told) = std::sync::mpsc::channel();
    let watch = |name: &'static str| {
        let pid = rustix::process::Pid::from_raw(i32::try_from(daemon.instance_pid(name)).unwrap()).unwrap();
        let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        let tell = tell.clone();
        std::thread::spawn(move || {
            let mut wait = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut wait, None).unwrap();
            tell.send(name).unwrap();
        })
    };
    let watched = ["a", "b", "c"].map(watch);
    daemon.verb(&["shutdown", "--timeout", "60"]).ok();
    for thread in watched {
        thread.join().unwrap();
    }
    drop(tell);
    assert_eq!(told.iter().collect::<Vec<_>>(), ["c", "b", "a"]);
    daemon.kill();
    daemon.start();
    eventually("all are back", || ["a", "b", "c"].iter().all(|name| daemon.status(name) == "Running"));
    let [a, b, c] = ["a", "b", "c"].map(|name| began(daemon.instance_pid(name)));
    assert!(c <= b && b < a, "{c} {b} {a}");
    let second = rustix::param::clock_ticks_per_second();
    assert!(a - b >= second * 9 / 10, "b has a second to itself: {b} {a}");
}

#[test]
fn one_that_could_not_be_adopted_is_looked_at_again() {
    let mut daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    let pid = daemon.instance_pid("c1");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let monitor = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
    let monitor = rustix::process::Pid::from_raw(monitor).unwrap();
    daemon.kill();
    rustix::process::kill_process(monitor, rustix::process::Signal::STOP).unwrap();
    daemon.spawn();
    daemon.verb(&["waitready", "--timeout", "60"]).ok();
    // It may run or not: it is called neither.
    assert_eq!(daemon.status("c1"), "Error");
    rustix::process::kill_process(monitor, rustix::process::Signal::CONT).unwrap();
    eventually("it is adopted after all", || daemon.status("c1") == "Running");
    assert_eq!(daemon.instance_pid("c1"), pid);
    daemon.lxc(&["stop", "--force", "c1"]).ok();
}

#[test]
fn a_failed_start_leaves_nothing_behind() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    daemon.lxc(&["config", "device", "add", "c1", "eth0", "nic", "nictype=bridged", "parent=nosuchbr"]).ok();
    daemon.lxc(&["start", "c1"]).refused("nosuchbr");
    assert_eq!(daemon.status("c1"), "Stopped");
    let root = daemon.root.to_str().unwrap().to_owned();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.lines().any(|l| l.contains(&root) && l.contains("/containers/")), "the root is still mounted");
    daemon.lxc(&["config", "device", "remove", "c1", "eth0"]).ok();
    daemon.lxc(&["start", "c1"]).ok();
}

#[test]
fn a_second_daemon_in_the_same_directory_is_refused() {
    let daemon = Daemon::bare();
    let said = daemon.verb(&["--debug"]);
    assert_ne!(said.code, 0);
    assert!(said.err.lines().last().unwrap().contains("another daemon"), "{}", said.err);
    assert_eq!(daemon.api("GET", "/1.0", "").0, 200);
}

#[test]
fn a_crash_in_the_middle_of_anything_is_mended_by_the_next_start() {
    let mut daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    // Not a clock to be met: each round kills at another moment of create, start, stop and delete.
    for round in 0..12u64 {
        let name = format!("r{round}");
        let body = format!(r#"{{"name":"{name}","source":{{"type":"image","alias":"bb"}},"start":true}}"#);
        daemon.api("POST", "/1.0/instances", &body);
        std::thread::sleep(std::time::Duration::from_millis(round * 7));
        if round % 3 == 2 {
            daemon.api("PUT", &format!("/1.0/instances/{name}/state"), r#"{"action":"stop","force":true}"#);
            std::thread::sleep(std::time::Duration::from_millis(round * 2));
            daemon.api("DELETE", &format!("/1.0/instances/{name}"), "");
        }
        daemon.kill();
        daemon.start();
        assert_eq!(daemon.status("c1"), "Running", "round {round}");
        match daemon.status(&name).as_str() {
            "none" => {}
            "Running" => {
                daemon.lxc(&["delete", "--force", &name]).ok();
            }
            "Stopped" | "Starting" => {
                eventually("autostart has settled", || daemon.lxc(&["delete", "--force", &name]).code == 0);
            }
            other => panic!("round {round}: {other}"),
        }
    }
}

/// Its first moments, in which the kernel drops the signal: it is asked again as soon as it can hear.
#[test]
fn a_stop_right_after_the_start_is_heard() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    let slow = "#!/bin/sh\nsleep 2\ntrap 'exit 0' PWR\nwhile :; do sleep 1; done\n";
    daemon.lxc(&["file", "delete", "c1/sbin/init"]).ok();
    daemon.lxc_with_input(&["file", "push", "-", "c1/sbin/init", "--mode", "0755"], slow.as_bytes()).ok();
    daemon.lxc(&["start", "c1"]).ok();
    daemon.lxc(&["stop", "c1", "--timeout", "20"]).ok();
    assert_eq!(daemon.status("c1"), "Stopped");
    // One that is given up is not asked later on.
    daemon.lxc(&["start", "c1"]).ok();
    assert_eq!(daemon.lxc(&["stop", "c1", "--timeout", "1"]).code, 1);
    eventually("init hears", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.instance_pid("c1"))).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim().to_owned();
        u64::from_str_radix(&mask, 16).unwrap() & (1 << (libc::SIGPWR - 1)) != 0
    });
    daemon.lxc(&["exec", "c1", "--", "sleep", "1"]).ok();
    assert_eq!(daemon.status("c1"), "Running");
}

/// Has the instance start with a script that busybox's shell runs.
fn script_for_init(daemon: &Daemon, name: &str, script: &str) {
    daemon.lxc(&["init", "bb", name]).ok();
    daemon.lxc(&["file", "delete", &format!("{name}/sbin/init")]).ok();
    let init = format!("{name}/sbin/init");
    daemon.lxc_with_input(&["file", "push", "-", &init, "--mode", "0755"], script.as_bytes()).ok();
}

#[test]
fn an_init_is_asked_by_the_signal_that_it_knows() {
    let daemon = Daemon::ready("overlay");
    let waits = |trap: &str| format!("#!/bin/sh\n{trap}\n: > /up\nwhile :; do sleep 1000 & wait $!; done\n");
    // The shell is busybox; the init that it runs is none of busybox's.
    script_for_init(&daemon, "script", &waits("trap 'exit 0' PWR; trap '' USR2 TERM"));
    script_for_init(&daemon, "chosen", &waits("trap 'exit 0' TERM; trap '' USR2 PWR"));
    daemon.lxc(&["config", "set", "chosen", "raw.lxc", "lxc.signal.halt=SIGTERM"]).ok();
    for name in ["script", "chosen"] {
        daemon.lxc(&["start", name]).ok();
        eventually("it hears", || daemon.lxc(&["exec", name, "--", "sh", "-c", "[ -e /up ]"]).code == 0);
        daemon.lxc(&["stop", name, "--timeout", "20"]).ok();
        assert_eq!(daemon.status(name), "Stopped");
    }
}

#[test]
fn one_that_does_not_go_down_can_be_looked_into() {
    let daemon = Daemon::ready("overlay");
    script_for_init(&daemon, "deaf", "#!/bin/sh\ntrap '' PWR USR2 TERM\nwhile :; do sleep 1; done\n");
    daemon.lxc(&["start", "deaf"]).ok();
    let mut stop = daemon.client();
    let mut stop = stop.args(["stop", "deaf"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    eventually("it is stopping", || daemon.status("deaf") == "Stopping");
    assert_eq!(daemon.lxc(&["exec", "deaf", "--", "echo", "in"]).ok(), "in\n");
    daemon.lxc(&["snapshot", "deaf", "s"]).ok();
    daemon.lxc(&["copy", "deaf", "copied"]).ok();
    daemon.lxc(&["delete", "deaf/s"]).ok();
    daemon.lxc(&["config", "set", "deaf", "user.a", "b"]).refused("--force");
    daemon.lxc(&["stop", "--force", "deaf"]).ok();
    assert!(stop.wait().unwrap().success());
}

#[test]
fn a_state_directory_behind_a_link_is_like_any_other() {
    let mut daemon = Daemon::bare();
    daemon.terminate();
    let real = daemon.root.join("elsewhere");
    std::fs::rename(daemon.state(), &real).unwrap();
    std::os::unix::fs::symlink(&real, daemon.state()).unwrap();
    daemon.start();
    daemon.set_up("overlay");
    daemon.lxc(&["storage", "create", "q", "btrfs", "size=256MiB"]).ok();
    for pool in ["p", "q"] {
        daemon.lxc(&["launch", "bb", &format!("c-{pool}"), "-s", pool]).ok();
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let probes = format!("{}/.probe", real.display());
    assert!(!mounts.contains(&probes), "{mounts}");
    for pool in ["p", "q"] {
        daemon.lxc(&["delete", "--force", &format!("c-{pool}")]).ok();
    }
    daemon.lxc(&["storage", "delete", "q"]).ok();
}
