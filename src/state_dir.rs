//! The state directory: where everything of a daemon lies. Names below it are those that tools around LXD look at.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::names::PoolName;

/// A path of a unix socket has at most this many bytes (`sun_path` in unix(7), less the NUL).
pub const MAX_SOCKET_PATH: usize = 107;

/// Where it lies unless told.
pub const USUAL: &str = "/var/lib/warren";

/// The state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// `root` as it is; nothing is created.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The API's socket.
    pub fn socket(&self) -> PathBuf {
        self.root.join("unix.socket")
    }

    /// What is mounted on `/dev/lxd` of containers: nothing but the guest interface's socket is in it. It stays while the
    /// daemon is away, for containers have it mounted.
    pub fn guest(&self) -> PathBuf {
        self.root.join("devlxd")
    }

    /// The guest interface's socket; as long a path as the API's.
    pub fn guest_socket(&self) -> PathBuf {
        self.guest().join("sock")
    }

    /// Whether a socket fits into this directory.
    pub fn socket_fits(&self) -> bool {
        self.socket().as_os_str().as_bytes().len() <= MAX_SOCKET_PATH
    }

    /// The database's directory.
    pub fn database(&self) -> PathBuf {
        self.root.join("database/global")
    }

    /// The image store.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Lists of what image servers have, as they were sent.
    pub fn streams(&self) -> PathBuf {
        self.root.join("cache/streams")
    }

    /// A storage pool, or the link to where it lies.
    pub fn pool(&self, name: &PoolName) -> PathBuf {
        self.root.join("storage-pools").join(name.as_str())
    }

    /// Logs, console and lxc.conf of a container.
    pub fn logs(&self, container: &str) -> PathBuf {
        self.all_logs().join(container)
    }

    /// The logs of all containers, a directory each.
    pub fn all_logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// liblxc's own path: part of the name of its command sockets. It holds nothing, unless `raw.lxc` has liblxc generate
    /// an AppArmor profile of its own.
    pub fn lxc_path(&self) -> PathBuf {
        self.root.join("run/lxc")
    }

    /// The control group of all containers of this daemon: `warren`, with a mark of the directory where that is not
    /// the usual one, so that daemons side by side do not share theirs.
    pub fn cgroup(&self) -> String {
        if self.root == Path::new(USUAL) {
            return "warren".to_owned();
        }
        let digest = ring::digest::digest(&ring::digest::SHA256, self.root.as_os_str().as_bytes());
        format!("warren.{}", hex::encode(&digest.as_ref()[..4]))
    }

    /// What the devices of a running container need on the host: nodes, and mounts while it starts.
    pub fn devices(&self, container: &str) -> PathBuf {
        self.root.join("devices").join(container)
    }

    /// What is known of the nics of a running container. Beside it lies `<container>.netns` where its network namespace
    /// is held.
    pub fn nics(&self, container: &str) -> PathBuf {
        self.root.join("run/nics").join(format!("{container}.json"))
    }

    /// The socket that stop hooks talk to.
    pub fn hook_socket(&self) -> PathBuf {
        self.root.join("run/hook.socket")
    }

    /// The socket that liblxc's monitors pass system calls to.
    pub fn calls_socket(&self) -> PathBuf {
        self.root.join("run/call.socket")
    }

    /// What stop hooks leave while the daemon is away.
    pub fn spool(&self) -> PathBuf {
        self.root.join("run/spool")
    }

    /// The seccomp policy of a container.
    pub fn seccomp(&self, container: &str) -> PathBuf {
        self.root.join("security/seccomp").join(container)
    }

    /// The AppArmor profile of a container; its name is that of the file with what was compiled of it, too.
    pub fn apparmor(&self, container: &str) -> PathBuf {
        self.root.join("security/apparmor/profiles").join(format!("lxd-{container}"))
    }

    /// What apparmor_parser compiled: a directory for each set of features that kernels have.
    pub fn apparmor_cache(&self) -> PathBuf {
        self.root.join("security/apparmor/cache")
    }

    /// Creates what is missing, with the permissions that it needs: containers traverse the top and their pool, nothing
    /// else is anybody's business.
    ///
    /// # Errors
    /// When a directory cannot be made; the error names it.
    pub fn create(&self) -> io::Result<()> {
        let make = |path: PathBuf, mode: u32| {
            let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
            DirBuilder::new().recursive(true).mode(mode).create(&path).map_err(named)?;
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(named)
        };
        make(self.root.clone(), 0o711)?;
        for (name, mode) in [
            ("backups", 0o700),
            ("cache", 0o700),
            ("cache/streams", 0o700),
            ("containers", 0o711),
            ("database", 0o700),
            ("database/global", 0o700),
            ("devices", 0o711),
            ("devlxd", 0o755),
            ("disks", 0o700),
            ("images", 0o700),
            ("logs", 0o700),
            ("networks", 0o711),
            ("run", 0o711),
            ("run/lxc", 0o711),
            ("run/nics", 0o700),
            ("run/spool", 0o700),
            ("security", 0o700),
            ("security/apparmor", 0o700),
            ("security/apparmor/cache", 0o700),
            ("security/apparmor/profiles", 0o700),
            ("security/seccomp", 0o700),
            ("snapshots", 0o711),
            ("storage-pools", 0o711),
        ] {
            // These may be links to a volume that is not there yet.
            if self.root.join(name).is_symlink() {
                continue;
            }
            make(self.root.join(name), mode)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_too_long_for_a_socket_is_seen() {
        assert!(StateDir::new(PathBuf::from("/var/lib/warren")).socket_fits());
        assert!(!StateDir::new(PathBuf::from(format!("/{}", "a".repeat(100)))).socket_fits());
    }
}
