//! AppArmor profiles from an instance's start to its end. The kernel of the machine that runs tests has no AppArmor: its
//! files are played here, in a mount namespace, with a parser that keeps them and otherwise is the real one. What a kernel
//! enforces, `tests/long/guest-check` looks at.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use support::namespaces::isolated;
use support::scanner::scan;
use support::{Daemon, run};

const KERNEL: &str = "/sys/kernel/security/apparmor";

/// Loads into a file what it is told to load; all else the real one does. Whoever has `deny /refused` is refused.
const PARSER: &str = r#"#!/bin/sh
real=/usr/sbin/apparmor_parser
kernel=/sys/kernel/security/apparmor
# The kernel does one thing at a time, and is never seen in the middle of it.
exec 9> $kernel/lock
flock 9
case "$*" in
*--replace*)
	for file; do :; done
	echo "load ${file##*/}" >> $kernel/calls
	if grep -q 'deny /refused' "$file"; then
		echo "AppArmor parser error for $file in profile $file at line 2: refused on purpose" >&2
		exit 1
	fi
	for word; do case $word in --cache-loc=*) cache=${word#*=}/abc.0 ;; esac; done
	mkdir -p "$cache" && cp "$file" "$cache/"
	$real --quiet --names "$file" 2>/dev/null | sed 's/$/ (enforce)/' > $kernel/new
	cat $kernel/new $kernel/profiles | sort -u > $kernel/next
	mv $kernel/next $kernel/profiles ;;
*--remove*)
	name=$($real --quiet --names 2>/dev/null)
	echo "unload $name" >> $kernel/calls
	grep -qxF "$name (enforce)" $kernel/profiles || { echo "profile doesn't exist" >&2; exit 1; }
	grep -vxF "$name (enforce)" $kernel/profiles > $kernel/next
	mv $kernel/next $kernel/profiles ;;
*) exec $real "$@" 9>&- ;;
esac
"#;

/// The files of a kernel with AppArmor, and that parser first in the daemon's path. To be called in [`isolated`].
fn confining(more: &[(&str, &str)]) -> Daemon {
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/sys/kernel/security"]));
    for file in ["features/domain/stack", "features/namespaces/profile"] {
        let path = PathBuf::from(KERNEL).join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "yes\n").unwrap();
    }
    std::fs::create_dir_all(format!("{KERNEL}/policy/namespaces")).unwrap();
    for file in ["profiles", "calls"] {
        std::fs::write(format!("{KERNEL}/{file}"), "").unwrap();
    }
    let bin = format!("{KERNEL}/bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::write(format!("{bin}/apparmor_parser"), PARSER).unwrap();
    std::fs::set_permissions(format!("{bin}/apparmor_parser"), PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{bin}:{}", std::env::var("PATH").unwrap());
    let daemon = Daemon::with_env(&[&[("PATH", path.as_str())], more].concat());
    daemon.set_up("overlay");
    daemon
}

fn kernel(file: &str) -> String {
    std::fs::read_to_string(format!("{KERNEL}/{file}")).unwrap()
}

/// What the parser was told to do since this was last asked.
fn calls() -> Vec<String> {
    let calls = kernel("calls").lines().map(str::to_owned).collect();
    std::fs::write(format!("{KERNEL}/calls"), "").unwrap();
    calls
}

fn namespaces() -> Vec<String> {
    let entries = std::fs::read_dir(format!("{KERNEL}/policy/namespaces")).unwrap().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

fn name(daemon: &Daemon, instance: &str) -> String {
    format!("lxd-{instance}_<{}>", daemon.state().display())
}

fn file(daemon: &Daemon, instance: &str) -> PathBuf {
    daemon.state().join("security/apparmor/profiles").join(format!("lxd-{instance}"))
}

fn text(daemon: &Daemon, instance: &str) -> String {
    std::fs::read_to_string(file(daemon, instance)).unwrap()
}

/// The last label that liblxc is given.
fn labels(daemon: &Daemon, instance: &str) -> Vec<String> {
    let conf = std::fs::read_to_string(daemon.state().join("logs").join(instance).join("lxc.conf")).unwrap();
    conf.lines().filter_map(|line| line.strip_prefix("lxc.apparmor.profile = ")).map(str::to_owned).collect()
}

fn set(daemon: &Daemon, instance: &str, raw: &str) -> support::Said {
    daemon.lxc(&["config", "set", instance, &format!("raw.apparmor={raw}")])
}

#[test]
fn a_profile_is_loaded_for_a_start_and_goes_with_its_container() {
    isolated("a_profile_is_loaded_for_a_start_and_goes_with_its_container", || {
        let daemon = confining(&[]);
        daemon.lxc(&["launch", "bb", "c1"]).ok();
        let loaded = name(&daemon, "c1");
        assert_eq!(labels(&daemon, "c1"), std::slice::from_ref(&loaded));
        assert_eq!(kernel("profiles"), format!("{loaded} (enforce)\n"));
        assert_eq!(calls(), ["load lxd-c1"]);
        assert!(text(&daemon, "c1").contains("\n  mount,\n"));
        assert_eq!(daemon.lxc(&["exec", "c1", "--", "echo", "hello"]).ok(), "hello\n");

        daemon.lxc(&["stop", "--force", "c1"]).ok();
        assert_eq!(calls(), [format!("unload {loaded}")]);
        assert_eq!(kernel("profiles"), "");
        // It stays as it is, so that what was compiled of it stays good.
        let inode = std::fs::metadata(file(&daemon, "c1")).unwrap().ino();
        daemon.lxc(&["start", "c1"]).ok();
        assert_eq!(std::fs::metadata(file(&daemon, "c1")).unwrap().ino(), inode);
        daemon.lxc(&["restart", "--force", "c1"]).ok();
        assert_eq!(calls(), ["load lxd-c1", &format!("unload {loaded}"), "load lxd-c1"]);
        assert_eq!(kernel("profiles"), format!("{loaded} (enforce)\n"));
        daemon.lxc(&["stop", "--force", "c1"]).ok();

        // Another kind, another text.
        daemon.lxc(&["config", "set", "c1", "security.privileged=true"]).ok();
        daemon.lxc(&["start", "c1"]).ok();
        assert!(!text(&daemon, "c1").contains("\n  mount,\n") && text(&daemon, "c1").contains("sysrq-trigger"));
        assert!(namespaces().is_empty());
        daemon.lxc(&["stop", "--force", "c1"]).ok();
        daemon.lxc(&["config", "set", "c1", "security.privileged=false", "security.nesting=true"]).ok();
        daemon.lxc(&["start", "c1"]).ok();
        let namespace = format!("lxd-c1_<{}>", daemon.state().display().to_string()[1..].replace('/', "-"));
        assert_eq!(labels(&daemon, "c1"), [format!("{loaded}//&:{namespace}:")]);
        assert_eq!(namespaces(), [namespace]);
        assert_eq!(daemon.lxc(&["exec", "c1", "--", "ls", "/sys/kernel/security"]).ok(), "apparmor\n");
        daemon.lxc(&["stop", "--force", "c1"]).ok();
        assert_eq!((kernel("profiles"), namespaces()), (String::new(), Vec::new()));

        // The administrator's word counts, and what it was set aside for is there all the same.
        daemon.lxc(&["config", "set", "c1", "raw.lxc=lxc.apparmor.profile = unconfined"]).ok();
        daemon.lxc(&["start", "c1"]).ok();
        assert_eq!(labels(&daemon, "c1").last().map(String::as_str), Some("unconfined"));
        daemon.lxc(&["stop", "--force", "c1"]).ok();

        assert!(file(&daemon, "c1").exists());
        let compiled = |name: &str| daemon.state().join("security/apparmor/cache/abc.0").join(format!("lxd-{name}"));
        assert!(compiled("c1").exists());
        daemon.lxc(&["rename", "c1", "c2"]).ok();
        assert!(!file(&daemon, "c1").exists() && !compiled("c1").exists());
        daemon.lxc(&["start", "c2"]).ok();
        assert!(compiled("c2").exists());
        assert_eq!(scan(&daemon), Vec::<String>::new());
        daemon.lxc(&["delete", "--force", "c2"]).ok();
        assert!(!file(&daemon, "c2").exists() && !compiled("c2").exists());
        assert_eq!(kernel("profiles"), "");
        assert_eq!(scan(&daemon), Vec::<String>::new());
    });
}

#[test]
fn raw_apparmor_is_checked_when_it_is_set_whoever_sets_it() {
    isolated("raw_apparmor_is_checked_when_it_is_set_whoever_sets_it", || {
        // Without AppArmor in the kernel: the parser is enough.
        let daemon = Daemon::ready("overlay");
        let bad = r#"{"config": {"raw.apparmor": "deny /x r,\nbogus,"}}"#;
        let other = r#"{"config": {"raw.apparmor": "}\nprofile other {"}}"#;
        daemon.lxc(&["init", "bb", "c1", "-c", "raw.apparmor=bogus,"]).refused("\"raw.apparmor\"");
        daemon.lxc(&["init", "bb", "c1"]).ok();
        daemon.lxc(&["profile", "create", "x"]).ok();
        for (method, path) in [
            ("PATCH", "/1.0/instances/c1"),
            ("PUT", "/1.0/instances/c1"),
            ("PATCH", "/1.0/instances/c1?dry-run=1"),
            ("PUT", "/1.0/instances/c1?dry-run=1"),
            ("PATCH", "/1.0/profiles/x"),
            ("PUT", "/1.0/profiles/x"),
            ("PUT", "/1.0/profiles/x?dry-run=1"),
        ] {
            for (body, words) in [(bad, "line 2 of it"), (other, "defines \"other\"")] {
                let (status, json) = daemon.api(method, path, body);
                let said = json["error"].as_str().unwrap();
                assert_eq!(status, 400, "{method} {path}: {said}");
                assert!(said.contains("\"raw.apparmor\"") && said.contains(words), "{method} {path}: {said}");
            }
        }
        let (status, _) = daemon.api("POST", "/1.0/profiles", &bad.replacen('{', r#"{"name": "y", "#, 1));
        assert_eq!(status, 400);
        daemon.lxc(&["profile", "show", "y"]).refused("not found");
        assert_eq!(daemon.lxc(&["config", "get", "c1", "raw.apparmor"]).ok(), "\n");

        daemon.lxc(&["profile", "set", "x", "raw.apparmor=deny /x r,"]).ok();
        set(&daemon, "c1", "profile mine {\n  file,\n}\ndeny @{HOME}/x r,\ninclude <abstractions/base>").ok();
        daemon.lxc(&["start", "c1"]).ok();
        assert!(labels(&daemon, "c1").is_empty(), "a kernel without AppArmor is told nothing");
        // Live, there is nothing to reload; it is written down.
        set(&daemon, "c1", "deny /y r,").ok();
        set(&daemon, "c1", "bogus,").refused("\"raw.apparmor\"");
        assert_eq!(daemon.lxc(&["config", "get", "c1", "raw.apparmor"]).ok(), "deny /y r,\n");
        daemon.lxc(&["delete", "--force", "c1"]).ok();
    });
}

#[test]
fn raw_apparmor_is_loaded_under_a_running_container_or_nothing_changes() {
    isolated("raw_apparmor_is_loaded_under_a_running_container_or_nothing_changes", || {
        let daemon = confining(&[]);
        for instance in ["c1", "c2"] {
            daemon.lxc(&["launch", "bb", instance]).ok();
        }
        calls();
        set(&daemon, "c1", "deny /x r,").ok();
        assert_eq!(calls(), ["load lxd-c1"]);
        assert!(text(&daemon, "c1").ends_with("\n  # raw.apparmor\ndeny /x r,\n}\n"));
        // Other keys do not touch it, nor does what counts from the next start on.
        daemon.lxc(&["config", "set", "c1", "user.x=y", "security.nesting=true"]).ok();
        assert_eq!(calls(), Vec::<String>::new());
        set(&daemon, "c1", "deny /y r,").ok();
        assert!(text(&daemon, "c1").contains("deny /y r,") && !text(&daemon, "c1").contains("change_profile"));

        // The kernel, or the parser at the last moment, refuses.
        let before = text(&daemon, "c1");
        set(&daemon, "c1", "deny /refused r,").refused("refused on purpose");
        assert_eq!(text(&daemon, "c1"), before);
        assert_eq!(daemon.lxc(&["config", "get", "c1", "raw.apparmor"]).ok(), "deny /y r,\n");

        // A profile: all its users follow, or none.
        daemon.lxc(&["config", "unset", "c1", "raw.apparmor"]).ok();
        daemon.lxc(&["profile", "set", "default", "raw.apparmor=deny /z r,"]).ok();
        for instance in ["c1", "c2"] {
            assert!(text(&daemon, instance).contains("deny /z r,"), "{instance}");
        }
        calls();
        daemon.lxc(&["profile", "set", "default", "raw.apparmor=deny /refused r,"]).refused("refused on purpose");
        for instance in ["c1", "c2"] {
            assert!(text(&daemon, instance).contains("deny /z r,"), "{instance}");
        }
        assert_eq!(daemon.lxc(&["profile", "get", "default", "raw.apparmor"]).ok(), "deny /z r,\n");
        // Of one who follows, while another cannot, it is taken back.
        set(&daemon, "c2", "deny /w r,").ok();
        let first = text(&daemon, "c1");
        daemon.lxc(&["profile", "set", "default", "raw.apparmor=deny /refused r,"]).refused("c1: ");
        assert_eq!(text(&daemon, "c1"), first);

        // Whatever it was set to, it is in the profile of the next start.
        daemon.lxc(&["stop", "--force", "c1"]).ok();
        set(&daemon, "c1", "deny /refused r,").ok();
        daemon.lxc(&["start", "c1"]).refused("refused on purpose");
        assert_eq!(daemon.status("c1"), "Stopped");
        assert_eq!(kernel("profiles"), format!("{} (enforce)\n", name(&daemon, "c2")));
        set(&daemon, "c1", "").ok();
        daemon.lxc(&["start", "c1"]).ok();
        assert!(text(&daemon, "c1").contains("change_profile"), "nesting counts now");
        daemon.lxc(&["delete", "--force", "c1", "c2"]).ok();
        assert_eq!((kernel("profiles"), namespaces()), (String::new(), Vec::new()));
        assert_eq!(scan(&daemon), Vec::<String>::new());
    });
}

#[test]
fn what_a_killed_daemon_left_in_the_kernel_goes_at_the_next_start() {
    isolated("what_a_killed_daemon_left_in_the_kernel_goes_at_the_next_start", || {
        let mut daemon = confining(&[]);
        for (instance, nesting) in [("up", "true"), ("down", "true"), ("idle", "false")] {
            daemon.lxc(&["launch", "bb", instance, "-c", &format!("security.nesting={nesting}")]).ok();
        }
        daemon.lxc(&["config", "set", "down", "boot.autostart=false"]).ok();
        daemon.lxc(&["stop", "--force", "idle"]).ok();
        let down = rustix::process::Pid::from_raw(i32::try_from(daemon.instance_pid("down")).unwrap()).unwrap();
        daemon.kill();
        rustix::process::kill_process(down, rustix::process::Signal::KILL).unwrap();
        // Of a start that had come as far as its profile; of a container that is gone; of other daemons and programs.
        let state = daemon.state().display().to_string();
        let others = ["lxd-up_</var/lib/lxd>", "lxd-x_<>", "man", &format!("x-up_<{state}>")].map(str::to_owned);
        let left = [name(&daemon, "idle"), name(&daemon, "gone")];
        let old: Vec<String> = others.iter().chain(&left).map(|name| format!("{name} (enforce)\n")).collect();
        std::fs::write(format!("{KERNEL}/profiles"), kernel("profiles") + &old.concat()).unwrap();
        let namespace = format!("{KERNEL}/policy/namespaces/lxd-gone_<{}>", state[1..].replace('/', "-"));
        std::fs::create_dir(namespace).unwrap();
        std::fs::create_dir(format!("{KERNEL}/policy/namespaces/other")).unwrap();
        daemon.start();
        let mut loaded: Vec<String> = kernel("profiles").lines().map(str::to_owned).collect();
        loaded.sort();
        let mut wanted: Vec<String> =
            others.iter().chain(&[name(&daemon, "up")]).map(|name| format!("{name} (enforce)")).collect();
        wanted.sort();
        assert_eq!(loaded, wanted);
        let mut found = namespaces();
        found.sort();
        assert_eq!(found, [format!("lxd-up_<{}>", state[1..].replace('/', "-")), "other".to_owned()]);
        assert_eq!((daemon.status("up"), daemon.status("down")), ("Running".to_owned(), "Stopped".to_owned()));
        for instance in ["up", "down", "idle"] {
            daemon.lxc(&["delete", "--force", instance]).ok();
        }
        assert_eq!(scan(&daemon), Vec::<String>::new());
    });
}

#[test]
fn switched_off_it_is_off_and_what_was_on_still_ends() {
    isolated("switched_off_it_is_off_and_what_was_on_still_ends", || {
        let mut daemon = confining(&[]);
        daemon.lxc(&["launch", "bb", "c1"]).ok();
        daemon.terminate();
        daemon.set_env("LXD_SECURITY_APPARMOR", "false");
        daemon.start();
        calls();
        daemon.lxc(&["launch", "bb", "c2"]).ok();
        assert_eq!(labels(&daemon, "c2"), ["unconfined"]);
        assert_eq!(calls(), Vec::<String>::new());
        assert!(!file(&daemon, "c2").exists());
        daemon.lxc(&["stop", "--force", "c1"]).ok();
        assert_eq!(kernel("profiles"), "");
        let log = std::fs::read_to_string(daemon.root.join("log")).unwrap();
        assert!(log.contains("it was switched off"));
        daemon.lxc(&["delete", "--force", "c1", "c2"]).ok();
    });
}
