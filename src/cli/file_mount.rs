//! `warren file mount`: an instance's files here, by SFTP over the API and `sshfs`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use super::client::Client;
use super::connection::{Connection, lost};
use super::{Error, instance};

/// So long sshfs may take to unmount.
const GRACE: Duration = Duration::from_secs(5);

/// What is mounted where.
#[derive(Debug, Args)]
pub(super) struct Mount {
    /// [remote:]instance[/path]
    source: String,
    /// An empty directory
    target: Option<PathBuf>,
    /// Serve SFTP by SSH at this address: not here
    #[arg(long)]
    listen: Option<String>,
    /// User of such a server
    #[arg(long)]
    auth_user: Option<String>,
    /// Such a server without authentication
    #[arg(long)]
    no_auth: bool,
}

/// Mounts it until it is interrupted, unmounted or the instance goes.
pub(super) async fn run(client: &Client, mount: Mount) -> Result<(), Error> {
    let ssh = mount.listen.is_some() || mount.auth_user.is_some() || mount.no_auth;
    let target = mount.target.filter(|_| !ssh).ok_or_else(|| {
        Error::absent(
            "servers of SFTP by SSH",
            "Name a directory, and the files are mounted there: \"warren file mount web/root /mnt\"",
        )
    })?;
    let (at, name) = client.named(&mount.source)?;
    let (name, path) =
        name.split_once('/').map_or((name.as_str(), String::new()), |(name, path)| (name, format!("/{path}")));
    // What starts with / is so from the root on; sshfs takes nothing for the user's home, and there is none here.
    let path = if path.is_empty() { "/".to_owned() } else { path };
    let failed = |e: Error| e.doing(format!("Cannot mount the files of {name}"));
    if !target.is_dir() {
        return Err(Error::Usage(format!("{} is no directory that files can be mounted at", target.display())));
    }
    // Heard from before anything is mounted: no signal leaves it behind.
    let listen = |kind| signal(kind).map_err(|error| Error::Local { doing: "wait for signals".to_owned(), error });
    let mut signals =
        [listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?];
    let session = open(&at, name).await.map_err(failed)?;
    let mut sshfs = start(name, &path, &target)?;
    client.say(&format!("Mounting {name}{path} at {}\nPress ctrl+c to finish", target.display()))?;
    let (Some(input), Some(output)) = (sshfs.stdin.take(), sshfs.stdout.take()) else {
        return Err(Error::Broken("sshfs has no pipes".to_owned()));
    };
    let ((mut from, mut to), mut input, mut output) = (tokio::io::split(TokioIo::new(session)), input, output);
    let mut gone = false;
    let [interrupt, terminate, hangup] = &mut signals;
    let status = tokio::select! {
        status = sshfs.wait() => Some(status),
        // The instance stopped, or the server takes no more of us.
        _ = tokio::io::copy(&mut from, &mut input) => {
            gone = true;
            None
        }
        _ = tokio::io::copy(&mut output, &mut to) => None,
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        _ = hangup.recv() => None,
    };
    let asked = status.is_none();
    // Whoever touches the files waits for an answer, and sshfs for that: without pipes it gives up.
    drop((from, to, input, output));
    let status = match status {
        Some(status) => status,
        None => {
            // It unmounts what it has mounted; it may have ended by itself.
            if let Some(pid) = sshfs.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
                let _ = kill_process(pid, Signal::TERM);
            }
            match tokio::time::timeout(GRACE, sshfs.wait()).await {
                Ok(status) => status,
                Err(_) => {
                    // What is mounted would stay, and hang whoever touches it.
                    let status = sshfs.kill().await;
                    let unmount = tokio::process::Command::new("fusermount3").arg("-uz").arg(&target).status().await;
                    status.and(unmount)
                }
            }
        }
    };
    if gone {
        return Err(failed(Error::refused("The instance or its server has ended the connection")));
    }
    let status = status.map_err(|error| Error::Local { doing: "wait for sshfs".to_owned(), error })?;
    if asked || status.success() {
        return Ok(());
    }
    Err(failed(Error::refused(format!("sshfs failed: {status}"))))
}

/// Runs sshfs in a group of its own: the terminal's Ctrl-C is ours to pass on.
fn start(name: &str, path: &str, target: &Path) -> Result<tokio::process::Child, Error> {
    let started = tokio::process::Command::new("sshfs")
        .args(["-f", "-o", "passive"])
        .arg(format!("{name}:{path}"))
        .arg(target)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn();
    started.map_err(|error| {
        match error.kind() {
        std::io::ErrorKind::NotFound => Error::Usage(
            "There is no program sshfs here, which mounts\nThe package sshfs has it; \"warren file pull -r\" needs none"
                .to_owned(),
        ),
        _ => Error::Local { doing: "start sshfs".to_owned(), error },
    }
    })
}

/// An SFTP session with an instance.
async fn open(at: &Connection, name: &str) -> Result<Upgraded, Error> {
    let request = Request::builder()
        .uri(format!("{}/sftp", instance::path(name)?))
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "sftp")
        .body(Empty::<Bytes>::new())
        .map_err(|e| Error::Usage(e.to_string()))?;
    let response = at.begin(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let refused = at.read(response).await.err();
        return Err(refused.unwrap_or_else(|| Error::refused("The server has no SFTP")));
    }
    hyper::upgrade::on(response).await.map_err(|e| lost(&e))
}
