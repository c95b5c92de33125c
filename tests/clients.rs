//! Clients that other people wrote, against a running daemon. `packaging/test-clients` brings them to `target/clients`.
//! (The stock client of LXD has `tests/compat.rs` and most of the other tests.)
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::Daemon;

fn brought(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients").join(path);
    assert!(path.exists(), "{} is missing: run packaging/setup --tests", path.display());
    path
}

fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn pylxd_drives_the_daemon() {
    let daemon = Daemon::ready("overlay");
    let image = daemon.busybox_unified();
    let output = Command::new(brought("venv/bin/python"))
        .args(["tests/clients/pylxd_check.py", image.to_str().unwrap()])
        .env("LXD_DIR", daemon.state())
        .output()
        .unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    println!("{said}");
}

/// Runs a part of the playbook; how many tasks changed something, or what went wrong.
fn play(daemon: &Daemon, step: &str) -> Result<u32, String> {
    let output = Command::new(brought("venv/bin/ansible-playbook"))
        .args(["-i", "localhost,", "tests/clients/playbook.yml", "-e"])
        .arg(format!("socket={} step={step}", daemon.socket().display()))
        .env("ANSIBLE_COLLECTIONS_PATH", brought("collections"))
        .env("ANSIBLE_LOCAL_TEMP", daemon.root.join("ansible"))
        .env("ANSIBLE_REMOTE_TEMP", daemon.root.join("ansible"))
        .env("ANSIBLE_HOME", daemon.root.join("ansible-home"))
        .env("ANSIBLE_NOCOLOR", "1")
        .env("ANSIBLE_DEPRECATION_WARNINGS", "0")
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap();
    let said = text(&output);
    if !output.status.success() {
        return Err(said);
    }
    let changed = said.split("changed=").nth(1).and_then(|rest| rest.split_whitespace().next());
    Ok(changed.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{said}")))
}

#[test]
fn ansible_playbooks_run_and_run_again_without_a_change() {
    let daemon = Daemon::ready("overlay");
    assert_eq!(play(&daemon, "up"), Ok(2));
    assert_eq!(daemon.status("an1"), "Running");
    assert_eq!(daemon.lxc(&["exec", "an1", "--", "sh", "-c", "echo $ROLE"]).ok(), "web\n");
    assert_eq!(play(&daemon, "up"), Ok(0), "nothing is left to do");
    assert_eq!(play(&daemon, "change"), Ok(1));
    assert_eq!(daemon.lxc(&["config", "get", "an1", "environment.MORE"]).ok(), "yes\n");
    assert_eq!(play(&daemon, "frozen"), Ok(1));
    assert_eq!(daemon.status("an1"), "Frozen");
    assert_eq!(play(&daemon, "restarted"), Ok(1));
    assert_eq!(daemon.status("an1"), "Running");
    assert_eq!(play(&daemon, "stopped"), Ok(1));
    assert_eq!(play(&daemon, "stopped"), Ok(0));
    assert_eq!(daemon.status("an1"), "Stopped");
    let refused = play(&daemon, "refused").unwrap_err();
    assert!(refused.contains("nosuch") && !refused.contains("Traceback"), "{refused}");
    assert_eq!(play(&daemon, "gone"), Ok(2));
    assert_eq!(daemon.lxc(&["list", "--format", "csv"]).ok(), "");
}

#[test]
fn the_client_of_incus_works_for_what_both_have() {
    let daemon = Daemon::ready("overlay");
    let file = daemon.root.join("a file");
    std::fs::write(&file, "text\n").unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(brought("incus/incus"))
            .args(arguments)
            .env("INCUS_DIR", daemon.state())
            .env("INCUS_SOCKET", daemon.socket())
            .env("INCUS_CONF", daemon.root.join("incus-conf"))
            .env("HOME", &daemon.root)
            .output()
            .unwrap();
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), out.into_owned(), error.into_owned())
    };
    let ok = |arguments: &[&str]| {
        let (code, out, error) = run(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {out}{error}");
        out
    };
    ok(&["launch", "bb", "i1", "-c", "user.a=b"]);
    assert_eq!(ok(&["list", "--format", "csv", "-c", "ns"]), "i1,RUNNING\n");
    assert!(ok(&["info", "i1"]).contains("Status: RUNNING"));
    assert_eq!(ok(&["exec", "i1", "--", "hostname"]), "i1\n");
    assert_eq!(run(&["exec", "i1", "--", "sh", "-c", "exit 7"]).0, Some(7));
    ok(&["file", "push", file.to_str().unwrap(), "i1/root/f", "--mode", "0600"]);
    assert_eq!(ok(&["file", "pull", "i1/root/f", "-"]), "text\n");
    ok(&["config", "set", "i1", "user.a=c"]);
    assert_eq!(ok(&["config", "get", "i1", "user.a"]), "c\n");
    ok(&["config", "device", "add", "i1", "e", "none"]);
    assert!(ok(&["config", "show", "i1", "--expanded"]).contains("type: none"));
    assert!(ok(&["profile", "list", "--format", "csv"]).starts_with("default,"));
    assert!(ok(&["image", "list", "--format", "csv"]).starts_with("bb,"));
    assert!(ok(&["storage", "list", "--format", "csv"]).starts_with("p,"));
    assert_eq!(ok(&["query", "/1.0/instances"]).split_whitespace().collect::<String>(), "[\"/1.0/instances/i1\"]");
    ok(&["pause", "i1"]);
    ok(&["resume", "i1"]);
    ok(&["restart", "--force", "i1"]);
    ok(&["stop", "--force", "i1"]);
    ok(&["rename", "i1", "i2"]);
    ok(&["start", "i2"]);
    let (code, _, error) = run(&["delete", "i2"]);
    assert!(code == Some(1) && error.contains("running"), "{error}");
    ok(&["delete", "--force", "i2"]);
    let (code, _, error) = run(&["start", "i2"]);
    assert!(code == Some(1) && error.contains("not found"), "{error}");
}
