//! `warren image build`: what it refuses, and one build from this host's own packages that boots, with its templates and its
//! network.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal};
use support::instances::pulled;
use support::{Daemon, Said, eventually, said};

fn warren(daemon: &Daemon) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warren"));
    command.env("WARREN_DIR", daemon.state()).stdin(Stdio::null());
    command
}

fn build(daemon: &Daemon, arguments: &[&str]) -> Said {
    said(warren(daemon).args(["image", "build"]).args(arguments))
}

#[test]
fn what_cannot_be_built_is_refused_with_the_way_out() {
    let daemon = Daemon::bare();
    build(&daemon, &["alpine/3.20"]).refused("only debian and ubuntu");
    build(&daemon, &["debian/99"]).refused("name its suite");
    build(&daemon, &["debian/13/desktop"]).refused("\"default\" or \"cloud\"");
    build(&daemon, &["debian/--help"]).refused("is no release");
    build(&daemon, &["debian/12", "--packages", "vim,-y"]).refused("\"-y\" is no name of a package");
    build(&daemon, &["debian/12", "--mirror", "m/debian"]).refused("is no mirror");
    // Programs that are missing.
    let empty = daemon.root.join("empty");
    std::fs::create_dir(&empty).unwrap();
    let path = empty.to_str().unwrap();
    said(warren(&daemon).args(["image", "build", "debian/12"]).env("PATH", path)).refused("apt install mmdebstrap");
    // No daemon: said before minutes of work, not after.
    let nowhere = daemon.root.join("nowhere");
    let arguments = ["image", "build", "debian/12", "--mirror", "http://m/debian"];
    said(warren(&daemon).args(arguments).env("WARREN_DIR", nowhere)).refused("Cannot reach");
    // What is no release, no alias, no mirror and no directory: all of it before anything is fetched.
    let file = daemon.root.join("file");
    std::fs::write(&file, "mine").unwrap();
    let (file, below) = (file.to_str().unwrap(), format!("{}/below", file.display()));
    build(&daemon, &["debian/"]).refused("names no release");
    build(&daemon, &["debian//cloud"]).refused("names no release");
    build(&daemon, &["debian/12", "--alias", "a b/", "--alias", ""]).refused("--alias");
    build(&daemon, &["debian/12", "--mirror", "file:///etc"]).refused("/etc/dists/bookworm");
    build(&daemon, &["debian/12", "--mirror", "https://"]).refused("names no host");
    build(&daemon, &["debian/12", "--mirror", "http://m/debian", "--output", file])
        .refused("is a file: name a directory");
    build(&daemon, &["debian/12", "--mirror", "http://m/debian", "--output", &below]).refused("file is a file");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "mine");
    // Nothing is at the mirror: the reason is told, and nothing stays.
    let tmp = daemon.root.join("tmp");
    std::fs::create_dir(&tmp).unwrap();
    std::fs::create_dir_all(empty.join("dists/bookworm")).unwrap();
    let mirror = format!("file://{path}");
    let failed = said(warren(&daemon).args(["image", "build", "debian/12", "--mirror", &mirror]).env("TMPDIR", &tmp));
    failed.refused("mmdebstrap failed for bookworm");
    assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 0);
    assert_eq!(daemon.api("GET", "/1.0/images", "").1["metadata"], serde_json::json!([]));
}

/// Of mmdebstrap only what it says and the tar that it makes are played; what the real one makes is below.
const PLAYED: &str = r#"#!/bin/sh
echo "$@" > "$PLAYED/arguments"
echo "I: running apt-get update..." >&2
for word; do case $word in --customize-hook=*) cp "${word#*=}" "$PLAYED/customize" ;; esac; done
exec tar -C "$PLAYED/tree/rootfs" --owner=0 --group=0 -c bin etc sbin
"#;

#[test]
fn what_is_built_is_imported_and_takes_its_aliases() {
    let daemon = Daemon::ready("overlay");
    let programs = daemon.root.join("programs");
    std::fs::create_dir(&programs).unwrap();
    std::fs::write(programs.join("mmdebstrap"), PLAYED).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(programs.join("mmdebstrap"), mode).unwrap();
    daemon.busybox_unified();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let built = |arguments: &[&str]| {
        let mut command = warren(&daemon);
        command.env("PATH", &path).env("PLAYED", &daemon.root).env("TMPDIR", &programs);
        said(
            command
                .args(["image", "build", "debian/12/cloud", "--mirror", "http://mirror.invalid/debian"])
                .args(arguments),
        )
    };
    let target = |name: &str| {
        daemon.api("GET", &format!("/1.0/images/aliases/{name}"), "").1["metadata"]["target"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    built(&["--packages", "vim,git"]).ok();
    let first = target("debian/12/cloud");
    let asked = std::fs::read_to_string(daemon.root.join("arguments")).unwrap();
    for word in ["bookworm - deb http://mirror.invalid/debian bookworm main", ",cloud-init,vim,git ", "--mode=root"] {
        assert!(asked.contains(word), "{word:?} is not in: {asked}");
    }
    // The same alias for the next one, beside new ones; files of a build do not stay.
    std::fs::write(daemon.root.join("tree/rootfs/etc/second"), "").unwrap();
    built(&["--alias", "debian/12/cloud", "--alias", "own", "--public"]).ok();
    assert_ne!(target("own"), first);
    assert_eq!(target("own"), target("debian/12/cloud"));
    assert_eq!(std::fs::read_dir(&programs).unwrap().count(), 1);
    let shown = daemon.api("GET", &format!("/1.0/images/{}", target("own")), "").1["metadata"].clone();
    assert_eq!((&shown["public"], &shown["properties"]["variant"]), (&true.into(), &"cloud".into()));
    // Into a directory, which holds nothing else then.
    let out = daemon.root.join("out");
    assert!(built(&["--output", out.to_str().unwrap()]).ok().contains("metadata.tar.xz"));
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 2);
    // What it has for templates is written at the first start.
    daemon.lxc(&["launch", "own", "c1", "-c", "cloud-init.user-data=#cloud-config\nx: 1"]).ok();
    assert_eq!(pulled(&daemon, "c1/etc/hostname"), "c1\n");
    let seed = |name: &str| pulled(&daemon, &format!("c1/var/lib/cloud/seed/nocloud-net/{name}"));
    assert!(seed("meta-data").contains("local-hostname: c1\n"));
    assert!(seed("user-data").starts_with("#cloud-config\nx: 1"));
    assert!(seed("network-config").contains("dhcp4: true"));
    // The root itself is nobody's to write to.
    assert_eq!(daemon.lxc(&["exec", "c1", "--", "/bin/busybox", "stat", "-c", "%a %u", "/"]).ok(), "755 0\n");
    said(Command::new("sh").arg("-n").arg(daemon.root.join("customize"))).ok();
}

/// Like the real one it has a tree with mounts in `TMPDIR`, is slow to clean up, and then may not unmount.
const SLOW: &str = r#"#!/bin/sh
tree=$(mktemp -d -t mmdebstrap.XXXXXX)
mkdir "$tree/proc"
mount -t tmpfs tmpfs "$tree/proc"
trap 'sleep 1; echo cleaned > "$PLAYED/cleaned"; exit 1' TERM
read -r pid rest < /proc/self/stat
echo "$pid $tree" > "$PLAYED/new"
mv "$PLAYED/new" "$PLAYED/begun"
while :; do sleep 0.1; done
"#;

#[test]
fn a_build_that_is_ended_leaves_nothing() {
    let daemon = Daemon::bare();
    let dir = |name: &str| {
        let dir = daemon.root.join(name);
        std::fs::create_dir(&dir).unwrap();
        dir
    };
    let (programs, tmp, out) = (dir("programs"), dir("tmp"), dir("out"));
    std::fs::write(programs.join("mmdebstrap"), SLOW).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(programs.join("mmdebstrap"), mode).unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let (begun, cleaned) = (daemon.root.join("begun"), daemon.root.join("cleaned"));
    let command = || {
        let mut command = warren(&daemon);
        command.env("PATH", &path).env("PLAYED", &daemon.root).env("TMPDIR", &tmp).stdout(Stdio::null());
        command.args(["image", "build", "debian/12", "--mirror", "http://mirror.invalid/debian"]);
        command.arg("--output").arg(&out);
        command
    };
    let count = |dir: &std::path::Path| std::fs::read_dir(dir).unwrap().count();
    // By a program that executes another with signals as it says, whatever this test was started with.
    let by = |starter: &[&str]| {
        let build = command();
        let mut client = Command::new(starter[0]);
        client.args(&starter[1..]).arg(build.get_program()).args(build.get_args());
        client.envs(build.get_envs().filter_map(|(name, value)| Some((name, value?))));
        client.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    // Ends a build by a signal when mmdebstrap works; its exit code, and what mmdebstrap was.
    let ended = |signal: Signal| {
        let mut client = by(&["env", "--default-signal"]);
        eventually("mmdebstrap works", || begun.exists());
        let said = std::fs::read_to_string(&begun).unwrap();
        std::fs::remove_file(&begun).unwrap();
        let (pid, tree) = said.trim().split_once(' ').unwrap();
        assert!(std::path::Path::new(tree).starts_with(&tmp), "{tree}");
        rustix::process::kill_process(Pid::from_child(&client), signal).unwrap();
        let status = client.wait().unwrap();
        (status.code(), std::path::PathBuf::from(format!("/proc/{pid}")))
    };
    let mounts = || std::fs::read_to_string("/proc/self/mounts").unwrap();
    for signal in [Signal::INT, Signal::TERM] {
        let (code, process) = ended(signal);
        assert_eq!(code, Some(128 + signal.as_raw()));
        assert!(cleaned.exists() && !process.exists(), "{signal:?}");
        assert_eq!((count(&tmp), count(&out)), (0, 0), "{signal:?}");
        std::fs::remove_file(&cleaned).unwrap();
    }
    // By nohup it goes on when the terminal goes.
    {
        let mut client = by(&["nohup"]);
        eventually("mmdebstrap works", || begun.exists());
        let pid = Pid::from_child(&client);
        rustix::process::kill_process(pid, Signal::HUP).unwrap();
        let status = std::fs::read_to_string(format!("/proc/{}/status", client.id())).unwrap();
        let line = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        // It is ignored by the kernel, which therefore did not even keep it.
        let mask = u64::from_str_radix(line("SigIgn:").split_whitespace().last().unwrap(), 16).unwrap();
        assert_eq!(mask & 1, 1, "{status}");
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        assert_eq!(client.wait().unwrap().code(), Some(128 + Signal::TERM.as_raw()));
        std::fs::remove_file(&begun).unwrap();
        std::fs::remove_file(&cleaned).unwrap();
    }
    let (_, process) = ended(Signal::KILL);
    let left = std::fs::read_dir(&tmp).unwrap().next().unwrap().unwrap().path().join("lock");
    let left = std::fs::File::options().write(true).open(left).unwrap();
    eventually("mmdebstrap is gone, too", || !process.exists() && left.try_lock().is_ok());
    drop(left);
    assert!(!mounts().contains(tmp.to_str().unwrap()));
    // What it left goes with the next one; what is not a build's stays.
    assert_eq!((count(&tmp), count(&out)), (1, 1));
    std::fs::create_dir(tmp.join("mmdebstrap.mine")).unwrap();
    std::fs::write(programs.join("mmdebstrap"), "#!/bin/sh\necho 'E: nothing here' >&2\nexit 1\n").unwrap();
    said(&mut command()).refused("nothing here");
    assert_eq!((count(&tmp), count(&out)), (1, 0));
    assert!(tmp.join("mmdebstrap.mine").exists());
}

/// The image that the set-up has built for tests/docker.rs, from this host's own packages.
#[test]
fn an_image_of_the_hosts_release_boots_with_its_templates_and_network() {
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/docker-image");
    let image = std::path::PathBuf::from(said(&mut Command::new(script)).ok().trim());
    let file = |name: &str| image.join(name).to_str().unwrap().to_owned();
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["image", "import", &file("metadata.tar.xz"), &file("rootfs.squashfs"), "--alias", "debian"]).ok();
    daemon
        .lxc(&["network", "create", "wbuild0", "ipv4.address=10.66.77.1/24", "ipv6.address=none", "ipv4.nat=false"])
        .ok();
    daemon.lxc(&["launch", "debian", "c1", "-n", "wbuild0", "-p", "default", "-p", "docker"]).ok();
    let sh = |script: &str| daemon.lxc(&["exec", "c1", "--", "sh", "-c", script]);
    let booted = || ["running\n", "degraded\n"].contains(&sh("systemctl is-system-running --wait").out.as_str());
    eventually("it has booted", booted);
    assert_eq!(sh("systemctl list-units --failed --no-legend | grep -v docker").out, "");
    assert_eq!(pulled(&daemon, "c1/etc/hostname"), "c1\n");
    assert!(pulled(&daemon, "c1/etc/hosts").contains("127.0.1.1\tc1\n"));
    assert_eq!(sh("hostname; stat -c '%a %u' / /tmp; ls /etc/ssh 2>/dev/null").out, "c1\n755 0\n1777 0\n");
    eventually("it has an address", || sh("ip -4 -o addr show eth0").out.contains("10.66.77."));
    eventually("it has a name server", || sh("cat /etc/resolv.conf").out.contains("nameserver 10.66.77.1"));
    daemon.lxc(&["delete", "-f", "c1"]).ok();
    daemon.lxc(&["network", "delete", "wbuild0"]).ok();
}
