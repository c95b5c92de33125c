//! LXD 5.0.2 and Incus 6.0 beside us, from Debian's packages as packaging/clients unpacks them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Said, said};

/// What a peer and its client are called.
pub struct Kind {
    /// Directory of the unpacked packages below `target/clients`.
    pub package: &'static str,
    pub daemon: &'static str,
    pub client: &'static str,
    /// Which environment variable names the state directory.
    pub state: &'static str,
    /// And the client's own configuration.
    pub conf: &'static str,
}

pub const LXD: Kind = Kind {
    package: "lxd",
    daemon: "usr/bin/lxd",
    // The stock client is installed.
    client: "lxc",
    state: "LXD_DIR",
    conf: "LXD_CONF",
};

pub const INCUS: Kind = Kind {
    package: "incus-daemon",
    daemon: "usr/libexec/incus/incusd",
    client: "incus",
    state: "INCUS_DIR",
    conf: "INCUS_CONF",
};

/// Another server on this host, in a directory of its own; it is stopped, and its mounts are taken away, with this.
pub struct Peer {
    pub kind: Kind,
    pub root: PathBuf,
    child: Child,
    pub url: String,
}

impl Peer {
    /// A fresh one that listens, with a pool on a directory. `ca`: whom it believes, beside nobody.
    pub fn start(kind: Kind, ca: &Path) -> Self {
        let root = tempfile::Builder::new().prefix("warren-peer-").tempdir_in("/var/tmp").unwrap().keep();
        // Roots of containers walk in.
        std::fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        std::fs::create_dir(root.join("home")).unwrap();
        let log = std::fs::File::create(root.join("log")).unwrap();
        let mut command = Self::command(&kind, &root, ca, &clients().join(kind.package).join(kind.daemon));
        command.args(["--group", "root"]).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}; see packaging/clients", kind.daemon));
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let peer = Self { kind, root, child, url: format!("https://127.0.0.1:{port}") };
        let start = Instant::now();
        while peer.client(ca, &["query", "/1.0"]).code != 0 {
            assert!(start.elapsed() < Duration::from_secs(60), "{}", peer.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        peer.client(ca, &["config", "set", &format!("core.https_address=127.0.0.1:{port}")]).ok();
        peer.client(ca, &["storage", "create", "p", "dir"]).ok();
        peer.client(ca, &["profile", "device", "add", "default", "root", "disk", "path=/", "pool=p"]).ok();
        peer
    }

    fn command(kind: &Kind, root: &Path, ca: &Path, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env(kind.state, root.join("state")).env(kind.conf, root.join("home")).env("HOME", root.join("home"));
        command.env("SSL_CERT_FILE", ca).env("LC_ALL", "C.UTF-8");
        // The libraries that it came with; the program runs from where its package was unpacked.
        command.env("LD_LIBRARY_PATH", clients().join(kind.package).join("usr/lib/x86_64-linux-gnu"));
        command
    }

    /// Its client, which believes `ca`.
    pub fn client(&self, ca: &Path, arguments: &[&str]) -> Said {
        let program = match self.kind.client {
            "incus" => clients().join("incus/usr/bin/incus"),
            client => PathBuf::from(client),
        };
        said(Self::command(&self.kind, &self.root, ca, &program).args(arguments).stdin(Stdio::null()))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.root.join("log")).unwrap_or_default()
    }

    pub fn certificate(&self) -> String {
        std::fs::read_to_string(self.root.join("state/server.crt")).unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Both take this for the end of everything that runs there.
        let _ = Command::new("kill").args(["-s", "PWR", &self.child.id().to_string()]).output();
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() > Duration::from_secs(20) {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        // What it leaves mounted when it ends.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let root = self.root.display().to_string();
        let below = mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|place| place.starts_with(&root));
        for place in below.collect::<Vec<_>>().into_iter().rev() {
            let _ = Command::new("umount").args(["-l", place]).output();
        }
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients")
}
