//! The helper process: every liblxc call that forks runs in a freshly exec'd, single-threaded child. So does all work on an
//! instance's files ([`files`]).
//!
//! ```text
//!  daemon                                helper (warrend helper, stdin = socketpair)
//!    │ ── Request (+ fds) ───────────────> one liblxc call
//!    │ <── Reply (+ fds) ─────────────────┤
//!    │ ── Signal(n) (attach only) ───────>│ waits for its child
//!    │ <── Exited ────────────────────────┘ exits
//! ```
//! The helper of a console stays, too: it holds the console until the daemon lets go of it, however that happens, and
//! then reads it empty (see [`console`]).
//!
//! A message is its length (4 bytes, little endian) and JSON; fds travel with the first byte of it. A crash in C ends one
//! operation, never the daemon. The helper of a start becomes liblxc's monitor of the container.

mod child;
mod console;
pub mod files;
pub mod hook;
mod intercept;
mod launcher;
mod line;
mod mounts;
mod protocol;
pub mod proxy;
mod sftp;
mod templates;
mod uevents;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use sftp::fuzz as fuzz_sftp;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use child::main as child_main;
pub use intercept::{Call, InterceptRequest, MountPolicy};
pub use launcher::{Attached, Console, Launcher, QUERY, Query, Started};
pub use mounts::MountRequest;
pub use protocol::AttachRequest;
pub use templates::{TemplateRun, TemplatesRequest};

/// Which container, and where liblxc finds what it needs of it.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct ContainerRef {
    /// Its name in liblxc.
    pub name: String,
    /// liblxc's path, which holds nothing.
    pub lxc_path: PathBuf,
    /// Its lxc.conf.
    pub config: PathBuf,
}

/// Why a helper did not do what it was asked.
#[derive(Debug)]
pub enum Error {
    /// The helper could not be started.
    Spawn(io::Error),
    /// The helper ended without an answer, or answered nonsense.
    Broken {
        /// What was asked.
        action: &'static str,
        /// The container.
        container: String,
        /// What came instead.
        reason: String,
    },
    /// liblxc refused.
    Lxc {
        /// What was asked.
        action: &'static str,
        /// The container.
        container: String,
        /// Which call failed.
        reason: String,
        /// liblxc's ERROR lines of this operation.
        log: Vec<String>,
    },
    /// The instance's files do not allow it.
    Files(files::Refusal),
    /// A template cannot be used.
    Template {
        /// Which one, for which file, and why.
        reason: String,
    },
    /// Another client has the console.
    ConsoleTaken {
        /// The container.
        container: String,
    },
    /// No answer in time.
    Timeout {
        /// What was asked.
        action: &'static str,
        /// The container.
        container: String,
        /// So long.
        after: Duration,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn(error) => write!(f, "Cannot start the helper process: {error}"),
            Self::Broken { action, container, reason } => {
                write!(f, "Cannot {action} {container:?}: the helper process {reason}")
            }
            Self::Lxc { action, container, reason, log } => {
                write!(f, "Cannot {action} {container:?}: {reason}")?;
                if !log.is_empty() {
                    write!(f, " ({})", log.join("; "))?;
                }
                Ok(())
            }
            Self::Files(refusal) => refusal.fmt(f),
            Self::Template { reason } => f.write_str(reason),
            Self::ConsoleTaken { container } => {
                write!(f, "The console of {container:?} is in use by another program, such as lxc-console")
            }
            Self::Timeout { action, container, after } => {
                write!(f, "Cannot {action} {container:?}: no answer within {} s", after.as_secs())
            }
        }
    }
}

impl std::error::Error for Error {}

/// Quotes a text as one word of a POSIX shell: liblxc runs hooks by `sh -c`.
fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The program, as it was found when the daemon started: an upgrade may replace the file meanwhile.
static PROGRAM: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();

/// Remembers where this program lies; to be called when the daemon starts.
pub fn remember_program() {
    PROGRAM.get_or_init(|| std::env::current_exe().unwrap_or_else(|_| PathBuf::from("warrend")));
}

/// The value of `lxc.hook.post-stop` that reports to the daemon's `socket`, or leaves word in `spool`.
pub fn stop_hook(socket: &Path, spool: &Path, container: &str) -> String {
    remember_program();
    let program = PROGRAM.get().map_or(Path::new("warrend"), PathBuf::as_path);
    let word = |path: &Path| shell_word(&path.to_string_lossy());
    // Begins with a quote and must not end with one: liblxc would take the two for quotes around the whole value.
    format!("{} hook {} {} {} stop", word(program), word(socket), word(spool), shell_word(container))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_is_quoted_for_the_shell() {
        assert_eq!(shell_word("a b'c"), r"'a b'\''c'");
        let hook = stop_hook(Path::new("/s p/h"), Path::new("/q"), "c1");
        assert!(hook.ends_with("hook '/s p/h' '/q' 'c1' stop"), "{hook}");
    }
}
