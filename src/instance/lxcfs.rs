//! The files of lxcfs in running containers, when it has come, or has come again.
//!
//! ```text
//!   the host's mounts change ── another lxcfs than before? ── each running container: what is not of this one is replaced
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use tokio::io::Interest;

use super::error::Error;
use super::inside::Inside;
use super::manager::Manager;
use super::request::Request;
use super::{Context, blocking};
use crate::helper::MountRequest;
use crate::names::InstanceKey;
use crate::sys::lxcfs::{self, Lxcfs};
use crate::sys::{mount, watch};

/// What of the host there is now.
pub(super) async fn look() -> Option<Lxcfs> {
    let found = blocking(|| Ok::<_, Error>(lxcfs::look())).await;
    found.ok().and_then(|found| found.inspect_err(|reason| tracing::debug!(%reason, "no lxcfs")).ok())
}

/// Brings the files of `lxcfs` into a running container where others of it, or none, are.
pub(super) async fn refresh(context: &Arc<Context>, key: &InstanceKey, pid: i32, lxcfs: &Lxcfs) -> Result<(), Error> {
    let container = context.container(key);
    let inside = Inside::open(pid, &container.name)?;
    let table = std::fs::read_to_string(format!("/proc/{pid}/mountinfo"));
    let table =
        table.map_err(|error| Error::Io { doing: "read the mounts of", path: container.name.clone().into(), error })?;
    let over = lxcfs::over(&table);
    let mut done = 0;
    for file in &lxcfs.files {
        let over = over.get(file).copied().unwrap_or_default();
        if over.hidden || over.layers > 0 && over.device == lxcfs.device {
            continue;
        }
        let source = lxcfs.root.join(file);
        let tree = blocking(move || {
            let place = rustix::fs::open(&source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
            let tree = place.map_err(std::io::Error::from).and_then(|place| {
                let tree = mount::clone_at(place, false)?;
                mount::set_propagation(&tree, mount::Propagation::Private, false)?;
                Ok::<OwnedFd, std::io::Error>(tree)
            });
            tree.map_err(|error| Error::Io { doing: "bring into the container", path: source, error })
        });
        let tree = tree.await?;
        let request = MountRequest::Replace { path: format!("/{file}"), layers: over.layers };
        let mut fds: Vec<BorrowedFd<'_>> = vec![tree.as_fd()];
        fds.extend(inside.fds());
        context.launcher.mount(&container, request, &fds).await?;
        done += 1;
    }
    if done > 0 {
        tracing::info!(instance = %key, files = done, "lxcfs is new: mounted its files anew");
    }
    Ok(())
}

impl Manager {
    /// Has all running containers show the lxcfs of the host, whenever that comes, for as long as the daemon runs.
    pub async fn follow_lxcfs(&self) {
        // poll(2) tells its changes as exceptional conditions (proc_pid_mounts(5)).
        let watched =
            std::fs::File::open("/proc/self/mountinfo").and_then(|file| watch::watch(file.into(), Interest::PRIORITY));
        let table = match watched {
            Ok(table) => table,
            Err(error) => {
                tracing::warn!(%error, "a restart of lxcfs will not be noticed");
                return;
            }
        };
        let mut last = None;
        loop {
            if let Some(found) = look().await.filter(|found| last != Some(found.device)) {
                last = Some(found.device);
                let found = Arc::new(found);
                self.tell_all(|| Request::Lxcfs { lxcfs: Arc::clone(&found) });
            }
            match table.ready(Interest::PRIORITY).await {
                Ok(mut changed) => changed.clear_ready(),
                Err(_) => return,
            }
        }
    }
}
