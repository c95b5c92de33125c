//! lxcfs: in containers from their start, after its own restart, and when it is not there or dead.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use support::{Daemon, eventually};

/// An lxcfs of this test.
struct Lxcfs {
    place: PathBuf,
    child: Option<Child>,
}

impl Lxcfs {
    /// A directory where one may be; nothing is mounted.
    fn nowhere() -> Self {
        let place = PathBuf::from(format!(
            "/var/tmp/warren-test-lxcfs-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        std::fs::create_dir_all(&place).unwrap();
        Self { place, child: None }
    }

    fn start(&mut self) {
        let pidfile = self.place.with_extension("pid");
        let child = Command::new("lxcfs")
            .arg("-f")
            .arg("-p")
            .arg(pidfile)
            .arg(&self.place)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.unwrap_or_else(|error| panic!("lxcfs: {error}: packaging/setup --tests installs it")));
        eventually("lxcfs is mounted", || self.place.join("proc/uptime").exists());
    }

    /// As a crash: the mount stays and answers nothing.
    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn unmount(&self) {
        let _ = Command::new("umount").arg("-l").arg(&self.place).stderr(Stdio::null()).status();
    }
}

impl Drop for Lxcfs {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
        self.unmount();
        let _ = std::fs::remove_dir(&self.place);
        let _ = std::fs::remove_file(self.place.with_extension("pid"));
    }
}

fn memory(daemon: &Daemon, name: &str) -> Option<u64> {
    let text = daemon.lxc(&["exec", name, "--", "cat", "/proc/meminfo"]).out;
    text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok())
}

/// Mounts of lxcfs inside.
fn mounts(daemon: &Daemon, name: &str) -> usize {
    let table = std::fs::read_to_string(format!("/proc/{}/mountinfo", daemon.instance_pid(name))).unwrap();
    table.matches("fuse.lxcfs").count()
}

fn ready(lxcfs: &Lxcfs) -> Daemon {
    let daemon = Daemon::with_env(&[("WARREN_LXCFS", lxcfs.place.to_str().unwrap())]);
    daemon.set_up("overlay");
    daemon
}

const LIMITS: [u64; 2] = [65_536, 131_072];

#[test]
fn containers_see_their_limits_and_an_lxcfs_that_has_come_again() {
    let mut lxcfs = Lxcfs::nowhere();
    lxcfs.start();
    let mut daemon = ready(&lxcfs);
    daemon.lxc(&["launch", "bb", "c1", "-c", "limits.memory=64MiB"]).ok();
    daemon.lxc(&["launch", "bb", "c2", "-c", "limits.memory=64MiB", "-c", "security.privileged=true"]).ok();
    assert_eq!(memory(&daemon, "c1"), Some(LIMITS[0]));
    let count = mounts(&daemon, "c1");
    assert!(count >= 8, "{count}");
    daemon.lxc(&["config", "set", "c1", "limits.memory", "128MiB"]).ok();
    assert_eq!(memory(&daemon, "c1"), Some(LIMITS[1]));
    // It crashes: what is inside is dead until another comes.
    lxcfs.kill();
    assert_eq!(memory(&daemon, "c1"), None);
    // One that starts meanwhile does without.
    daemon.lxc(&["launch", "bb", "c3"]).ok();
    assert!(memory(&daemon, "c3").is_some());
    assert_eq!(mounts(&daemon, "c3"), 0);
    lxcfs.unmount();
    lxcfs.start();
    for (name, limit) in [("c1", LIMITS[1]), ("c2", LIMITS[0])] {
        eventually("the new one is inside", || memory(&daemon, name) == Some(limit));
        eventually("all of it, and nothing of the old one", || mounts(&daemon, name) == count);
    }
    eventually("also where there was none", || mounts(&daemon, "c3") == count);
    // It is exchanged while the daemon is away.
    daemon.kill();
    lxcfs.kill();
    lxcfs.unmount();
    lxcfs.start();
    daemon.start();
    eventually("the next daemon sees to it", || memory(&daemon, "c1") == Some(LIMITS[1]));
    eventually("and nothing of the old one stays", || mounts(&daemon, "c1") == count);
    assert!(daemon.verb(&["doctor"]).out.contains("lxcfs"));
}

#[test]
fn without_it_all_is_as_usual() {
    let lxcfs = Lxcfs::nowhere();
    let daemon = ready(&lxcfs);
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    assert!(memory(&daemon, "c1").is_some());
    assert_eq!(mounts(&daemon, "c1"), 0);
}
