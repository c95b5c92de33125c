//! `warrend import --check`: what it says of a real LXD that runs, was stopped, or was killed; and that it changes nothing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use support::namespaces::isolated;
use support::{Said, eventually, said, warrend};

fn check(directory: &Path) -> Said {
    said(Command::new(warrend()).args(["import", "--check"]).arg(directory))
}

/// Every file with what must not change of it.
fn tree(directory: &Path) -> BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let content = if metadata.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
        found.insert(path, (metadata.mode(), metadata.mtime(), metadata.mtime_nsec(), content));
    }
    found
}

/// Debian's LXD, unpacked by `packaging/clients`, in a directory of its own.
struct Lxd {
    root: PathBuf,
    child: Option<Child>,
}

impl Lxd {
    fn new() -> Self {
        let id = std::env::var(support::namespaces::ID).unwrap();
        let root = PathBuf::from(format!("/var/tmp/warren-test-{id}-lxd"));
        std::fs::create_dir_all(root.join("state")).unwrap();
        Self { root, child: None }
    }

    fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    fn program(&self) -> Command {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/lxd/usr/bin/lxd");
        assert!(program.exists(), "packaging/setup --tests unpacks LXD");
        let mut command = Command::new(program);
        command.env("LXD_DIR", self.state()).stdin(Stdio::null());
        command
    }

    fn start(&mut self) {
        let log = std::fs::File::create(self.root.join("log")).unwrap();
        let mut command = self.program();
        command.args(["--group", "root"]).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        said(self.program().args(["waitready", "--timeout", "120"])).ok();
    }

    fn end(&mut self, signal: rustix::process::Signal) {
        let mut child = self.child.take().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        child.wait().unwrap();
        eventually("nobody has its files open", || !check(&self.state()).out.contains("it runs"));
    }

    fn lxc(&self, arguments: &str) -> String {
        let mut command = Command::new("lxc");
        command.env("LXD_DIR", self.state()).env("LXD_CONF", self.root.join("conf")).env("HOME", &self.root);
        said(command.args(arguments.split(' ')).stdin(Stdio::null())).ok()
    }

    /// A small image: its files are never run.
    fn image(&self) -> PathBuf {
        let tree = self.root.join("tree");
        std::fs::create_dir_all(tree.join("rootfs/sbin")).unwrap();
        std::fs::write(tree.join("metadata.yaml"), "architecture: x86_64\ncreation_date: 1\n").unwrap();
        let file = self.root.join("image.tar.gz");
        let mut tar = Command::new("tar");
        said(tar.arg("-C").arg(&tree).arg("-czf").arg(&file).args(["metadata.yaml", "rootfs"])).ok();
        file
    }
}

impl Drop for Lxd {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Its mounts end with this namespace; the directories below them go first.
        let _ = Command::new("umount")
            .arg("-l")
            .args([self.state().join("shmounts"), self.state().join("devlxd")])
            .output();
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// The lines about objects.
fn objects(text: &str) -> Vec<&str> {
    text.lines().filter(|line| ["yes  ", "no   ", "     "].iter().any(|start| line.starts_with(start))).collect()
}

#[test]
fn a_real_lxd_is_judged_alike_running_and_stopped_and_not_changed() {
    isolated("a_real_lxd_is_judged_alike_running_and_stopped_and_not_changed", || {
        let mut lxd = Lxd::new();
        lxd.start();
        lxd.lxc("storage create p dir");
        lxd.lxc("profile device add default root disk path=/ pool=p");
        lxd.lxc(&format!("image import {} --alias small", lxd.image().display()));
        lxd.lxc("init small c1 -c limits.cpu=2 -c user.note=mine");
        lxd.lxc("snapshot c1 before");
        lxd.lxc("profile create tpm");
        lxd.lxc("profile device add tpm chip tpm path=/dev/tpm0 pathrm=/dev/tpmrm0");
        lxd.lxc("storage volume create p data");
        lxd.lxc("network create br1 ipv4.address=10.77.1.1/24 ipv4.nat=true ipv6.address=none");
        lxd.lxc("network create cards --type sriov parent=lo");
        lxd.lxc("network forward create br1 192.0.2.7 target_address=10.77.1.9");
        lxd.lxc("network forward port add br1 192.0.2.7 tcp 80,90-99 10.77.1.10");
        lxd.lxc("network acl create web user.note=mine");
        lxd.lxc("network acl rule add web ingress action=allow protocol=tcp destination_port=80 state=enabled");
        lxd.lxc("network acl rule add web egress action=reject destination=10.0.0.0/8 state=logged");
        lxd.lxc("network zone create lan.example");
        lxd.lxc("project create second");
        lxd.lxc("profile device add default root disk path=/ pool=p --project second");
        lxd.lxc("init c2 --empty --project second");

        let asked = check(&lxd.state()).ok();
        assert!(asked.contains("it runs and was asked"), "{asked}");
        for line in [
            "yes  project   second",
            "yes  pool      p (dir)",
            "yes  network   br1 (bridge)",
            "no   network   cards (sriov): The network type \"sriov\" is not supported",
            "yes  acl       web (2 rules)",
            "yes  forward   br1/192.0.2.7",
            "no   zone      lan.example: no zones are served",
            "yes  profile   tpm, but",
            "       - the device chip is left out",
            "yes  volume    p/data",
            "yes  instance  c1 (1 snapshots)",
            "yes  instance  c2 (project second)",
            "11 as they are, 1 with differences, 2 not at all. Nothing was changed.",
        ] {
            assert!(asked.contains(line), "{line:?} is not in:\n{asked}");
        }

        lxd.end(rustix::process::Signal::TERM);
        let before = tree(&lxd.state());
        let read = check(&lxd.state()).ok();
        assert!(read.contains("it is stopped, its database was read."), "{read}");
        assert_eq!(objects(&read), objects(&asked));
        assert!(tree(&lxd.state()) == before, "a file was changed");

        // Killed: what it knew at its last orderly end, and a word about it.
        lxd.start();
        lxd.lxc("profile create later");
        lxd.end(rustix::process::Signal::KILL);
        let killed = check(&lxd.state()).ok();
        assert!(killed.contains("was killed") && !killed.contains("later"), "{killed}");
        assert_eq!(objects(&killed), objects(&asked));

        // Without a database: what lies beside the instances.
        for file in ["db.bin", "db.bin-wal"] {
            std::fs::remove_file(lxd.state().join("database/global").join(file)).unwrap();
        }
        let before = tree(&lxd.state());
        let beside = check(&lxd.state()).ok();
        assert!(beside.contains("yes  instance  c1 (1 snapshots)"), "{beside}");
        assert!(beside.contains("the records beside its instances"), "{beside}");
        assert!(tree(&lxd.state()) == before, "a file was changed");
    });
}

#[test]
fn what_is_no_lxd_is_refused_and_nothing_stays() {
    let place = tempfile::tempdir().unwrap();
    let (state, temporary) = (place.path().join("state"), place.path().join("tmp"));
    check(&state).refused("cannot read");
    std::fs::create_dir_all(&temporary).unwrap();
    std::fs::create_dir_all(state.join("database")).unwrap();
    check(&state).refused("not the state directory of an LXD");
    std::fs::create_dir(state.join("database/global")).unwrap();
    check(&state).refused("start LXD, so that it can be asked");
    std::fs::write(state.join("database/global/db.bin"), b"no database at all").unwrap();
    let with_tmp = |command: &mut Command| said(command.arg(&state).env("TMPDIR", &temporary));
    with_tmp(Command::new(warrend()).args(["import", "--check"])).refused("start it, so that it can be asked");
    with_tmp(Command::new(warrend()).arg("import")).refused("--check");
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0);
    std::fs::remove_file(state.join("database/global/db.bin")).unwrap();
    let instance = state.join("storage-pools/p/containers/c1");
    std::fs::create_dir_all(&instance).unwrap();
    std::fs::write(instance.join("backup.yaml"), "container: [").unwrap();
    check(&state).refused("backup.yaml");
    // A hostile name does not reach the terminal.
    let record =
        "container: {name: \"c\\e[2J\", type: container, expanded_devices: {r: {type: disk, path: /, pool: p}}}\n";
    std::fs::write(instance.join("backup.yaml"), record).unwrap();
    let said = check(&state).ok();
    assert!(!said.contains('\u{1b}') && said.contains("yes  instance  c\u{fffd}[2J"), "{said}");
}
