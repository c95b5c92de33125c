//! Where a test of the client `warren` runs it: a directory with its configuration, a server's socket, and files.

use std::path::PathBuf;
use std::process::{Command, Stdio};

pub const WARREN: &str = env!("CARGO_BIN_EXE_warren");

/// The directory; it goes with this.
pub struct Place(pub tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A command that ends in a run of `program`, which knows nothing of this host's settings and finds its server at
    /// `socket` in this place.
    pub fn by(&self, program: &[&str], arguments: &[&str]) -> Command {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).args(arguments);
        let set = ["WARREN_DIR", "LXD_SOCKET", "LXD_DIR", "LXD_CONF", "WARREN_PROJECT", "LXD_PROJECT"];
        for name in set.into_iter().chain(["VISUAL", "EDITOR", "NO_COLOR"]) {
            command.env_remove(name);
        }
        let home = self.0.path();
        command.env("WARREN_CONF", home.join("conf")).env("WARREN_SOCKET", home.join("socket")).env("HOME", home);
        command.env("TERM", "xterm").env("TMPDIR", home).current_dir(home).stdin(Stdio::null());
        command
    }

    /// The client with these words.
    pub fn client(&self, arguments: &[&str]) -> Command {
        self.by(&[WARREN], arguments)
    }
}
