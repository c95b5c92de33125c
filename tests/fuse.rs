//! Mounts of a container that a program of its own serves by FUSE (`security.syscalls.intercept.mount.fuse`).
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Daemon, Said, eventually, run};

/// A running c1 with `/calls` inside, see tests/intercept/calls.c.
fn ready(config: &[&str]) -> Daemon {
    let daemon = Daemon::ready("overlay");
    let program = daemon.root.join("calls");
    run(Command::new("cc").args(["-static", "-O1", "-o"]).arg(&program).args(["tests/intercept/calls.c", "-lpthread"]));
    let words: Vec<&str> = config.iter().flat_map(|pair| ["-c", pair]).collect();
    daemon.lxc(&[&["launch", "bb", "c1"], words.as_slice()].concat()).ok();
    push(&daemon, &program, "/calls");
    daemon
}

fn push(daemon: &Daemon, file: &Path, to: &str) {
    daemon.lxc(&["file", "push", "-p", "--mode", "755", file.to_str().unwrap(), &format!("c1{to}")]).ok();
}

/// A script of the container.
fn script(daemon: &Daemon, to: &str, text: &str) {
    let file = daemon.root.join("script");
    std::fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
    push(daemon, &file, to);
}

fn inside(daemon: &Daemon, command: &str) -> Said {
    daemon.inside("c1", command)
}

fn mount(daemon: &Daemon, words: &str) -> i32 {
    inside(daemon, &format!("cd /tmp; /calls mount {words}")).ok().trim().parse().unwrap()
}

/// Debian's fuse2fs with all that it needs, which packaging/fuse2fs has unpacked.
fn push_fuse2fs(daemon: &Daemon) {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuse2fs");
    let program = tree.join("usr/bin/fuse2fs");
    assert!(program.exists(), "packaging/setup --tests makes {}", program.display());
    let libraries = [tree.join("lib/x86_64-linux-gnu"), tree.join("usr/lib/x86_64-linux-gnu")];
    let path = libraries.each_ref().map(|path| path.to_str().unwrap()).join(":");
    let said = support::said(Command::new("ldd").arg(&program).env("LD_LIBRARY_PATH", path)).ok();
    for word in said.split_whitespace().filter(|word| word.starts_with('/')) {
        let name = Path::new(word).file_name().unwrap().to_str().unwrap();
        let to = if name.starts_with("ld-") { format!("/lib64/{name}") } else { format!("/lib/{name}") };
        push(daemon, &std::fs::canonicalize(word).unwrap(), &to);
    }
    push(daemon, &program, "/usr/bin/fuse2fs");
}

/// An image of ext4 with a file `who`, inside at `/tmp/disk`.
fn push_image(daemon: &Daemon) {
    let (tree, image) = (daemon.root.join("who"), daemon.root.join("disk"));
    std::fs::create_dir_all(&tree).unwrap();
    std::fs::write(tree.join("who"), "mine").unwrap();
    run(Command::new("truncate").args(["-s", "16M"]).arg(&image));
    run(Command::new("mkfs.ext4").args(["-q", "-O", "^has_journal", "-d"]).arg(&tree).arg(&image));
    push(daemon, &image, "/tmp/disk");
}

fn processes(daemon: &Daemon, name: &str) -> Vec<PathBuf> {
    let namespace = std::fs::read_link(format!("/proc/{}/ns/pid", daemon.instance_pid("c1"))).unwrap();
    let all = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let text = |path: &Path, file: &str| std::fs::read_to_string(path.join(file)).unwrap_or_default();
    all.filter(|path| std::fs::read_link(path.join("ns/pid")).is_ok_and(|of| of == namespace))
        .filter(|path| text(path, "comm").trim() == name)
        .collect()
}

#[test]
fn a_program_of_the_container_serves_its_disk() {
    let daemon = ready(&[
        "security.syscalls.intercept.mount=true",
        "security.syscalls.intercept.mount.fuse=ext4=fuse2fs",
        "security.syscalls.deny=keyctl",
        "limits.kernel.nofile=999:999",
    ]);
    inside(&daemon, "mkdir -p /tmp/m /tmp/private").ok();
    push_image(&daemon);
    assert_eq!(mount(&daemon, "/tmp/disk /tmp/m ext4 0 ''"), 19, "the program is not there");
    push_fuse2fs(&daemon);
    assert_eq!(mount(&daemon, "/tmp/disk m ext4 0 ''"), 0);
    let seen = inside(
        &daemon,
        "cat /tmp/m/who; echo more > /tmp/m/more; cat /tmp/m/more; grep ' /tmp/m ' /proc/self/mountinfo",
    )
    .ok();
    assert!(seen.starts_with("minemore\n") && seen.contains(" - fuse"), "{seen}");
    assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains("fuse2fs"), "only inside");
    // It is one of the container's processes in all that counts.
    let found = processes(&daemon, "fuse2fs");
    let [server] = found.as_slice() else { panic!("{found:?}") };
    let init = PathBuf::from(format!("/proc/{}", daemon.instance_pid("c1")));
    let link = |path: &Path, name: &str| std::fs::read_link(path.join(name)).unwrap();
    for name in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let name = format!("ns/{name}");
        assert_eq!(link(server, &name), link(&init, &name));
    }
    let text = |path: &Path, name: &str| std::fs::read_to_string(path.join(name)).unwrap();
    let payload = |path: &Path| text(path, "cgroup").lines().all(|line| line.contains("lxc.payload.c1"));
    assert!(payload(server) && payload(&init), "{}", text(server, "cgroup"));
    let status = |path: &Path, field: &str| {
        let status = text(path, "status");
        status.lines().find(|line| line.starts_with(field)).unwrap().to_owned()
    };
    let shell = inside(&daemon, "cat /proc/self/status").ok();
    for field in ["CapEff:", "CapPrm:", "CapInh:", "CapBnd:", "CapAmb:", "Seccomp:", "Seccomp_filters:", "NoNewPrivs:"]
    {
        assert!(shell.contains(&status(server, field)), "{field} {}", status(server, field));
    }
    assert_eq!(status(server, "Uid:"), status(&init, "Uid:"));
    assert!(text(server, "limits").lines().any(|line| line.starts_with("Max open files") && line.contains(" 999 ")));
    let environment = text(server, "environ");
    assert!(environment.split('\0').all(|pair| pair.is_empty() || pair.starts_with("PATH=")), "{environment}");
    inside(&daemon, "busybox umount /tmp/m").ok();
    eventually("its server ends", || processes(&daemon, "fuse2fs").is_empty());
    // Read-only; in a mount namespace and a root of the caller's own.
    assert_eq!(mount(&daemon, "/tmp/disk /tmp/m ext4 1 ''"), 0);
    inside(&daemon, "echo x > /tmp/m/x").refused("Read-only file system");
    inside(&daemon, "cat /tmp/m/more; busybox umount /tmp/m").ok();
    let own = inside(
        &daemon,
        "busybox unshare -m sh -c '/calls mount /tmp/disk /tmp/private ext4 0 \"\"; cat /tmp/private/who; busybox umount /tmp/private'; ls /tmp/private",
    );
    assert_eq!(own.out, "0\nmine");
    // What is no file system of its kind; what is not listed is the kernel's affair.
    inside(&daemon, "echo > /tmp/empty").ok();
    assert_eq!(mount(&daemon, "/tmp/empty /tmp/m ext4 0 ''"), 22);
    assert_eq!(mount(&daemon, "/tmp/disk /tmp/m xfs 0 ''"), 1);
    daemon.lxc(&["config", "set", "c1", "security.syscalls.intercept.mount.fuse=ext4"]).refused("ext4=fuse2fs");
    daemon.lxc(&["config", "unset", "c1", "security.syscalls.intercept.mount.fuse"]).ok();
    assert_eq!(mount(&daemon, "/tmp/disk /tmp/m ext4 0 ''"), 1, "what is switched off stops at once");
    eventually("all servers end", || processes(&daemon, "fuse2fs").is_empty());
}

#[test]
fn a_hostile_program_is_held_by_what_holds_the_container() {
    let daemon = ready(&[
        "security.syscalls.intercept.mount=true",
        "security.syscalls.intercept.mount.fuse=ext4=serve,xfs=/bin/false,btrfs=hang",
        "security.syscalls.deny=symlink errno 93\nsymlinkat errno 93",
    ]);
    let tell = [
        "exec > /tmp/told 2>&1",
        "echo \"words $*\"",
        "cd /proc/self/fd; for fd in 0 1 2 3 4 5 6 7 8 9; do [ -e $fd ] && echo \"fd $fd\"; done",
        "cd -; id -u; busybox ln -s a /tmp/link; cat /proc/$PPID/environ; echo parent $PPID",
    ];
    script(&daemon, "/usr/bin/serve", &tell.join("\n"));
    script(&daemon, "/usr/bin/hang", "echo > /tmp/hangs; exec sleep 1000");
    assert_eq!(mount(&daemon, "-source a ext4 2 user=x"), 0);
    let told = inside(&daemon, "cat /tmp/told").ok();
    assert!(told.contains("words ./-source a -o allow_other,default_permissions,nosuid,user=x\n"), "{told}");
    // Its own three, and the shell's for the script.
    assert!(!told.contains("fd 3\n") && !told.contains("fd 4\n"), "{told}");
    assert!(told.contains("\n/tmp\n0\n") && told.contains("parent 0\n"), "{told}");
    assert!(told.contains("Protocol not supported"), "the container's filter holds: {told}");
    assert_eq!(mount(&daemon, "x /tmp xfs 0 ''"), 22);
    // One that does not come to an end is ended with its call.
    assert_eq!(mount(&daemon, "x /tmp btrfs 0 ''"), libc::ETIMEDOUT);
    inside(&daemon, "ls /tmp/hangs").ok();
    eventually("it is ended", || processes(&daemon, "sleep").len() <= 1);
    // Who may not mount may not by this.
    assert_eq!(
        daemon.lxc(&["exec", "c1", "--user", "1000", "--", "/calls", "mount", "a", "/tmp", "ext4", "0", ""]).ok(),
        "1\n"
    );
}
