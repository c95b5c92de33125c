//! The stop hook: liblxc runs `warrend hook <socket> <spool> <container> stop` as `lxc.hook.post-stop`.
//!
//! `LXC_TARGET` says `stop` or `reboot` (lxc.container.conf(5), `lxc.hook.version = 1`). With the daemon there, a reboot
//! makes the hook fail on purpose: the monitor then ends (seen with liblxc 5.0.2; a failing `lxc.hook.stop` changes nothing), and the daemon starts the container with fresh configuration.
//! With the daemon away, the hook leaves a record in the spool directory and succeeds: the monitor reboots by itself. Not
//! one that has devices, which only the daemon can bring: it waits for the next daemon to start it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use crate::state_dir::StateDir;

/// How long a hook waits for the daemon before it counts as away.
const DEADLINE: Duration = Duration::from_secs(2);
/// The longest message.
const MAX: u64 = 4096;

/// What the container is going down for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// To stay down.
    Stop,
    /// To come up again.
    Reboot,
}

/// What a hook tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The container's name in liblxc.
    pub container: String,
    /// What for.
    pub target: Target,
}

/// Entry of `warrend hook`: `arguments` are those behind it.
pub fn main(arguments: &[String]) -> ExitCode {
    let [socket, spool, container, kind] = arguments else { return ExitCode::FAILURE };
    if kind != "stop" {
        return ExitCode::FAILURE;
    }
    let target = match std::env::var("LXC_TARGET").as_deref() {
        Ok("reboot") => Target::Reboot,
        _ => Target::Stop,
    };
    let record = Record { container: container.clone(), target };
    match tell(Path::new(socket), &record) {
        Ok(()) if target == Target::Reboot => ExitCode::FAILURE,
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => {
            // Nothing more can be done when this fails, too: the next start then finds the container down.
            let _ = leave(Path::new(spool), &record);
            let waits = target == Target::Reboot && has_devices(Path::new(spool), container);
            if waits { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
    }
}

/// Whether the daemon has put devices into the container: their mounts were made for this life only.
fn has_devices(spool: &Path, container: &str) -> bool {
    let root = spool.parent().and_then(Path::parent);
    root.is_some_and(|root| StateDir::new(root.to_owned()).devices(container).exists())
}

fn tell(socket: &Path, record: &Record) -> io::Result<()> {
    let stream = StdStream::connect(socket)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    (&stream).write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream.take(16)).read_line(&mut answer)?;
    if answer == "ok\n" { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn leave(spool: &Path, record: &Record) -> io::Result<()> {
    let temporary = spool.join(format!(".{}", record.container));
    std::fs::write(&temporary, serde_json::to_vec(record)?)?;
    std::fs::rename(temporary, spool.join(&record.container))
}

/// Reads and removes what a container's hook left, if it did.
///
/// # Errors
/// When it cannot be read or removed.
pub fn take_word(spool: &Path, container: &str) -> io::Result<Option<Record>> {
    let path = spool.join(container);
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result?,
    };
    std::fs::remove_file(&path)?;
    // A word that nobody can read is none.
    Ok(serde_json::from_slice(&text).inspect_err(|error| tracing::warn!(%error, %container, "its stop hook")).ok())
}

/// The daemon's end.
pub struct Listener {
    listener: UnixListener,
}

impl Listener {
    /// Listens at `path`, for root only. A stale socket is replaced.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(Self { listener })
    }

    /// Passes every record to `told`, and lets its hook go on after that.
    pub async fn serve(self, told: impl Fn(Record) + Send + Sync + 'static) {
        let told = std::sync::Arc::new(told);
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accepting a stop hook");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let told = std::sync::Arc::clone(&told);
            tokio::spawn(async move {
                let (reader, mut writer) = stream.into_split();
                let mut line = String::new();
                let mut reader = tokio::io::BufReader::new(reader.take(MAX));
                if !matches!(tokio::time::timeout(DEADLINE, reader.read_line(&mut line)).await, Ok(Ok(1..))) {
                    return;
                }
                match serde_json::from_str(&line) {
                    Ok(record) => {
                        tracing::debug!(?record, "a stop hook");
                        told(record);
                        // A hook that is gone has left its record in the spool.
                        let _ = writer.write_all(b"ok\n").await;
                    }
                    Err(error) => tracing::warn!(%error, "a stop hook told nonsense"),
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hook_reaches_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hook.socket");
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let listener = Listener::bind(&path).unwrap();
        tokio::spawn(listener.serve(move |record| drop(sender.send(record))));
        let record = Record { container: "c1".to_owned(), target: Target::Reboot };
        let sent = record.clone();
        tokio::task::spawn_blocking(move || tell(&path, &sent)).await.unwrap().unwrap();
        assert_eq!(receiver.recv().await, Some(record));
    }

    #[test]
    fn without_a_daemon_a_record_is_left_and_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record { container: "c1".to_owned(), target: Target::Stop };
        assert!(tell(&dir.path().join("none"), &record).is_err());
        leave(dir.path(), &record).unwrap();
        assert_eq!(take_word(dir.path(), "c1").unwrap(), Some(record));
        assert_eq!(take_word(dir.path(), "c1").unwrap(), None);
    }
}
