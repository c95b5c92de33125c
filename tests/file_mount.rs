//! `warren file mount`: files of an instance here, by SFTP and sshfs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use support::terminal::{ended, send};
use support::{Daemon, eventually, said};

const WARREN: &str = env!("CARGO_BIN_EXE_warren");

fn client(daemon: &Daemon, arguments: &[&str]) -> Command {
    let mut command = Command::new(WARREN);
    command.env("WARREN_SOCKET", daemon.socket()).env("WARREN_CONF", daemon.root.join("warren-conf"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Whether something is mounted there.
fn mounted(place: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(4) == place.to_str())
}

fn mount(daemon: &Daemon, source: &str, place: &Path) -> Child {
    let mut child =
        client(daemon, &["file", "mount", source, place.to_str().unwrap()]).stdout(Stdio::null()).spawn().unwrap();
    eventually("it is mounted", || {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it had mounted");
        mounted(place)
    });
    child
}

#[test]
fn files_are_mounted_worked_on_and_unmounted() {
    let daemon = Daemon::ready("overlay");
    let ok = |arguments: &[&str]| said(&mut client(&daemon, arguments)).ok();
    ok(&["launch", "bb", "c1"]);
    ok(&["exec", "c1", "--", "sh", "-c", "mkdir -p /srv/deep; echo inside > /srv/deep/file"]);
    let place: PathBuf = daemon.root.join("mount");
    std::fs::create_dir(&place).unwrap();
    for (source, path, signal) in [("c1/srv", "deep/file", Signal::INT), ("c1", "srv/deep/file", Signal::TERM)] {
        let mut child = mount(&daemon, source, &place);
        assert_eq!(std::fs::read_to_string(place.join(path)).unwrap(), "inside\n", "{source}");
        let new = place.join(path).with_file_name("new");
        std::fs::write(&new, "outside\n").unwrap();
        assert_eq!(ok(&["exec", "c1", "--", "cat", "/srv/deep/new"]), "outside\n");
        std::fs::rename(&new, new.with_file_name("other")).unwrap();
        assert_eq!(ok(&["exec", "c1", "--", "ls", "/srv/deep"]), "file\nother\n");
        std::fs::remove_file(new.with_file_name("other")).unwrap();
        send(&child, signal);
        assert!(ended(&mut child).success());
        assert!(!mounted(&place));
    }
    // Somebody unmounts it, and the instance goes.
    let mut child = mount(&daemon, "c1", &place);
    support::run(Command::new("umount").arg(&place));
    assert!(ended(&mut child).success());
    let refused = |arguments: &[&str], told: &str| said(&mut client(&daemon, arguments)).refused(told);
    let place = place.to_str().unwrap();
    refused(&["file", "mount", "nosuch", place], "Cannot mount the files of nosuch");
    refused(&["file", "mount", "c1", "/nosuch/place"], "is no directory that files can be mounted at");
    refused(&["file", "mount", "c1"], "no servers of SFTP by SSH");
    let mut without = client(&daemon, &["file", "mount", "c1", place]);
    said(without.env("PATH", "/nosuch")).refused("There is no program sshfs here");
    assert!(!mounted(Path::new(place)));
    ok(&["delete", "-f", "c1"]);
}
