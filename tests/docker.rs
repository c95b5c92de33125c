//! Debian's Docker in an unprivileged container with the profile `docker`: images, builds, limits, restarts.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Daemon, Said, eventually, said};

/// An image of Docker's that is a busybox, and one built from it in steps that run.
const IMAGES: &str = r#"
set -e
mkdir -p /root/context/bin
cp /usr/bin/busybox /root/context/bin/busybox
ln -s busybox /root/context/bin/sh
tar -C /root/context -c . | docker import - plain
cat > /root/context/Dockerfile <<'FILE'
FROM scratch
COPY bin /bin
RUN ["/bin/busybox", "mkdir", "/made"]
RUN echo by a step > /made/file
CMD ["/bin/busybox", "cat", "/made/file"]
FILE
docker build -t built /root/context
"#;

/// A service with a file in its own layer, that ends when it is told to.
const SERVICE: &str = r#"
set -e
docker run -d --name service --restart always --cpus 0.5 plain \
	/bin/sh -c 'trap "exit 0" TERM; while :; do /bin/busybox sleep 0.2; done'
docker exec service /bin/sh -c 'echo kept > /mark'
"#;

/// The quota of the service's control group, whichever version and driver.
const QUOTA: &str = r#"
id=$(docker inspect -f '{{.Id}}' service)
for file in cpu/docker/$id/cpu.cfs_quota_us docker/$id/cpu.max system.slice/docker-$id.scope/cpu.max; do
	[ ! -e /sys/fs/cgroup/$file ] || cat /sys/fs/cgroup/$file
done
"#;

/// Where the set-up has put the image; it makes one that is not there.
fn image() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/docker-image");
    PathBuf::from(said(&mut Command::new(script)).ok().trim())
}

struct Machine {
    daemon: Daemon,
}

impl Machine {
    fn start(driver: &str) -> Self {
        let daemon = Daemon::ready(driver);
        let image = image();
        let file = |name: &str| image.join(name).to_str().unwrap().to_owned();
        let (meta, root) = (file("metadata.tar.xz"), file("rootfs.squashfs"));
        daemon.lxc(&["image", "import", &meta, &root, "--alias", "debian-docker"]).ok();
        daemon.lxc(&["launch", "debian-docker", "c1", "-p", "default", "-p", "docker"]).ok();
        let machine = Self { daemon };
        machine.ready();
        machine
    }

    fn ready(&self) {
        // Once systemd answers, it does when it has started everything, Docker included: however long a busy host takes.
        eventually("it has booted", || {
            ["running\n", "degraded\n"].contains(&self.sh("systemctl is-system-running --wait").out.as_str())
        });
        self.sh("docker version").ok();
    }

    fn sh(&self, script: &str) -> Said {
        self.daemon.lxc(&["exec", "c1", "--", "sh", "-c", script])
    }

    /// As the files API lists it.
    fn lists(&self, path: &str) -> String {
        self.daemon.lxc(&["query", &format!("/1.0/instances/c1/files?path={path}")]).ok()
    }
}

fn docker_works_on(driver: &str) -> Machine {
    let machine = Machine::start(driver);
    let daemon = &machine.daemon;

    // Nothing but nesting is asked for, and root inside is nobody outside.
    let (_, answer) = daemon.api("GET", "/1.0/instances/c1", "");
    let config = &answer["metadata"]["expanded_config"];
    assert_eq!(
        (&config["security.nesting"], &config["security.privileged"]),
        (&"true".into(), &serde_json::Value::Null)
    );
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.instance_pid("c1"))).unwrap();
    let user: u32 =
        status.lines().find_map(|line| line.strip_prefix("Uid:\t")?.split('\t').next()?.parse().ok()).unwrap();
    assert!(user >= 65_536, "{user}");

    let storage = machine.sh("docker info -f '{{.Driver}}'").ok();
    let may: &[&str] = if driver == "btrfs" { &["btrfs", "overlay2"] } else { &["overlay2"] };
    assert!(may.contains(&storage.trim()), "{storage}");
    machine.sh(IMAGES).ok();
    assert_eq!(machine.sh("docker run --rm built").ok(), "by a step\n");
    machine.sh(SERVICE).ok();
    let quota = machine.sh(QUOTA).ok();
    assert!(quota.starts_with("50000"), "{quota:?}");
    // What is written to memory counts.
    let write = |limit: &str| {
        let dd = "/bin/busybox dd if=/dev/zero of=/dev/shm/file bs=1M count=32";
        machine.sh(&format!("docker run --rm --memory {limit} plain {dd}")).code
    };
    assert_eq!((write("16m"), write("64m")), (137, 0));

    daemon.lxc(&["restart", "c1"]).ok();
    machine.ready();
    eventually("the service is there again", || {
        let said = machine.sh("docker exec service /bin/busybox cat /mark");
        said.code == 0 && said.out == "kept\n"
    });
    assert_eq!(machine.sh("docker run --rm built").ok(), "by a step\n");
    machine
}

#[test]
fn docker_has_its_layers_beside_an_overlay() {
    let machine = docker_works_on("overlay");
    let daemon = &machine.daemon;
    let volume = daemon.state().join("storage-pools/p/containers/c1");
    assert!(volume.join("nested/docker/overlay2").is_dir());
    let upper = daemon.upper("p", "c1");
    assert_eq!(std::fs::read_dir(upper.join("var/lib/docker")).unwrap().count(), 0);
    // They are the container's files for everybody, also when it is down and may not nest any more.
    daemon.lxc(&["stop", "c1"]).ok();
    assert!(machine.lists("/var/lib/docker").contains("overlay2"));
    daemon.lxc(&["profile", "remove", "c1", "docker"]).ok();
    assert!(machine.lists("/var/lib/docker").contains("overlay2"));
    daemon.lxc(&["rename", "c1", "c2"]).ok();
    daemon.lxc(&["rename", "c2", "c1"]).ok();
    assert!(machine.lists("/var/lib/docker").contains("overlay2"));
}

/// Docker makes subvolumes of its own there: they come along with snapshots and copies.
#[test]
fn docker_works_on_btrfs_and_is_copied_with_its_layers() {
    let machine = docker_works_on("btrfs");
    let daemon = &machine.daemon;
    daemon.lxc(&["snapshot", "c1", "s"]).ok();
    machine.sh("docker rm -f service; docker image prune -af").ok();
    daemon.lxc(&["restore", "c1", "s"]).ok();
    machine.ready();
    assert_eq!(machine.sh("docker run --rm built").ok(), "by a step\n");
    daemon.lxc(&["copy", "c1/s", "c2"]).ok();
    daemon.lxc(&["delete", "c1", "--force"]).ok();
    daemon.lxc(&["start", "c2"]).ok();
    eventually("docker works in the copy", || {
        let said = daemon.lxc(&["exec", "c2", "--", "docker", "run", "--rm", "built"]);
        said.code == 0 && said.out == "by a step\n"
    });
    daemon.lxc(&["delete", "c2", "--force"]).ok();
}

#[test]
fn docker_works_on_plain_directories() {
    docker_works_on("dir");
}

#[test]
fn what_a_container_has_in_dockers_place_stays_what_it_sees() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    daemon.lxc_with_input(&["file", "push", "-p", "-", "c1/var/lib/docker/vfs/layer"], b"old").ok();
    daemon.lxc(&["profile", "add", "c1", "docker"]).ok();
    daemon.lxc(&["start", "c1"]).ok();
    assert_eq!(daemon.lxc(&["exec", "c1", "--", "cat", "/var/lib/docker/vfs/layer"]).ok(), "old");
    assert!(!daemon.state().join("storage-pools/p/containers/c1/nested").exists());
}

#[test]
fn the_profile_can_be_changed_and_deleted_for_good() {
    let mut daemon = Daemon::bare();
    daemon.lxc(&["profile", "set", "docker", "user.mine=yes"]).ok();
    daemon.terminate();
    daemon.start();
    assert_eq!(daemon.lxc(&["profile", "get", "docker", "user.mine"]).ok().trim(), "yes");
    daemon.lxc(&["profile", "delete", "docker"]).ok();
    daemon.terminate();
    daemon.start();
    daemon.lxc(&["profile", "show", "docker"]).refused("not found");
}
