//! exec: a command inside a running container, with pipes, a pty, or nothing at its ends.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;

use super::Context;
use super::error::Error;
use super::logs::{LogName, Recording};
use crate::api::wire::Config;
use crate::config::limits::rlimits;
use crate::helper::{AttachRequest, Attached};
use crate::names::InstanceKey;
use crate::profile;
use crate::sys::watch::watch;

/// What to run.
#[derive(Debug, Clone)]
pub struct ExecSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// What the request adds to the instance's, then all of it.
    pub environment: Config,
    /// Working directory; empty: the user's home, else `/`.
    pub cwd: String,
    /// User id inside.
    pub user: u32,
    /// Group id inside.
    pub group: u32,
    /// What it is connected to.
    pub io: IoKind,
}

/// The ends of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoKind {
    /// Three pipes.
    Pipes,
    /// A pty of so many columns and rows.
    Pty(u16, u16),
    /// Nothing to read, and two log files for what it writes.
    Recorded,
    /// Nothing.
    Null,
}

/// The daemon's ends of a command.
pub enum Io {
    /// stdin, stdout, stderr.
    Pipes(pipe::Sender, pipe::Receiver, pipe::Receiver),
    /// The pty.
    Pty(Arc<AsyncFd<OwnedFd>>),
    /// The log files of its stdout and its stderr.
    Recorded([LogName; 2]),
    /// Nothing.
    Null,
}

/// A command that runs.
pub struct Exec {
    /// To wait for it and to signal it.
    pub attached: Attached,
    /// Its ends.
    pub io: Io,
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The whole environment of a command: defaults, the instance's own, the request's. `snap`: the container has /snap.
fn environment(instance: &Config, spec: &ExecSpec, snap: bool) -> Config {
    let path = if snap { format!("{PATH}:/snap/bin") } else { PATH.to_owned() };
    let own = instance.iter().filter_map(|(key, value)| Some((key.strip_prefix("environment.")?, value.as_str())));
    let mut environment: Config = [("PATH", path.as_str()), ("LANG", "C.UTF-8")]
        .into_iter()
        .chain(if spec.user == 0 { [("HOME", "/root"), ("USER", "root")].as_slice() } else { &[] }.iter().copied())
        .chain(own)
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    environment.extend(spec.environment.clone());
    environment
}

fn expanded(context: &Context, key: &InstanceKey) -> Result<Config, Error> {
    let model = context.db.model();
    let record = model.instances.get(key).ok_or(Error::NotFound)?;
    Ok(profile::expand_instance(&model, record).config)
}

/// The whole environment that a command gets.
///
/// # Errors
/// [`Error::NotFound`].
pub(super) async fn environment_of(
    context: &Context,
    key: &InstanceKey,
    init: i32,
    spec: &ExecSpec,
) -> Result<Config, Error> {
    let config = expanded(context, key)?;
    // As LXD 5.0.2: whatever /snap is there. A symbolic link of the container's is not followed.
    let snap = super::blocking(move || {
        Ok::<_, Error>(Path::new(&format!("/proc/{init}/root/snap")).symlink_metadata().is_ok())
    });
    Ok(environment(&config, spec, snap.await?))
}

/// Runs a command; `spec.environment` is whole, by [`environment_of`].
pub(super) async fn run(context: &Arc<Context>, key: &InstanceKey, spec: ExecSpec) -> Result<Exec, Error> {
    // An empty word is one that is not found, by the shell's exit status.
    if spec.command.is_empty() {
        return Err(Error::EmptyCommand);
    }
    let environment = spec.environment;
    let cwd = match spec.cwd.as_str() {
        "" => environment.get("HOME").cloned().unwrap_or_else(|| "/".to_owned()),
        cwd => cwd.to_owned(),
    };
    let failed = |error: std::io::Error| Error::Io { doing: "open", path: "/dev/null and pipes".into(), error };
    let null = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from).map_err(failed);
    let mut recording = None;
    let (stdio, ours) = match spec.io {
        IoKind::Pty(..) => (None, None),
        IoKind::Null => (Some([null()?, null()?, null()?]), None),
        IoKind::Recorded => {
            let (files, [stdout, stderr]) = Recording::create(&context.dir.logs(&key.container()))?;
            recording = Some(files);
            (Some([null()?, stdout.into(), stderr.into()]), None)
        }
        IoKind::Pipes => {
            let pair = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed(e.into()));
            let ((stdin, stdin_w), (stdout_r, stdout), (stderr_r, stderr)) = (pair()?, pair()?, pair()?);
            let ours = Io::Pipes(
                pipe::Sender::from_owned_fd(stdin_w).map_err(failed)?,
                pipe::Receiver::from_owned_fd(stdout_r).map_err(failed)?,
                pipe::Receiver::from_owned_fd(stderr_r).map_err(failed)?,
            );
            (Some([stdin, stdout, stderr]), Some(ours))
        }
    };
    // liblxc sets them for init alone.
    let config = expanded(context, key)?;
    let limits = rlimits(&config);
    let request = AttachRequest {
        argv: spec.command,
        env: environment.into_iter().collect(),
        cwd,
        uid: spec.user,
        gid: spec.group,
        limits: limits.map(|(name, limit)| (name.to_owned(), limit.soft, limit.hard)).collect(),
        pty: match spec.io {
            IoKind::Pty(columns, rows) => Some((columns, rows)),
            IoKind::Pipes | IoKind::Recorded | IoKind::Null => None,
        },
    };
    let mut attached = context.launcher.attach(&context.container(key), request, stdio).await?;
    let io = match (ours, attached.ptx.take()) {
        (Some(pipes), _) => pipes,
        (None, Some(ptx)) => {
            rustix::io::ioctl_fionbio(&ptx, true).map_err(|e| failed(e.into()))?;
            Io::Pty(Arc::new(watch(ptx, Interest::READABLE | Interest::WRITABLE).map_err(failed)?))
        }
        (None, None) => recording.map_or(Io::Null, |recording| Io::Recorded(recording.keep())),
    };
    Ok(Exec { attached, io })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_layered() {
        let spec = ExecSpec {
            command: vec![],
            environment: [("B".to_owned(), "request".to_owned())].into(),
            cwd: String::new(),
            user: 0,
            group: 0,
            io: IoKind::Null,
        };
        let instance =
            [("environment.A", "own"), ("environment.B", "own"), ("environment.HOME", "/h"), ("user.x", "y")];
        let instance = instance.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let got = environment(&instance, &spec, false);
        assert_eq!((got["A"].as_str(), got["B"].as_str(), got["HOME"].as_str()), ("own", "request", "/h"));
        assert_eq!(got["PATH"], PATH);
        assert_eq!(environment(&instance, &spec, true)["PATH"], format!("{PATH}:/snap/bin"));
        assert!(!environment(&instance, &ExecSpec { user: 1000, ..spec }, false).contains_key("USER"));
    }
}
