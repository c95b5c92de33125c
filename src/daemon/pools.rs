//! Storage pools that are not there: opened as soon as what they lie on is back, and told of until then.
//!
//! ```text
//!   away ── inotify, a new block device, or a minute ──> try again ──> back: warning resolved; else: the warning says why
//! ```

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::api::app::App;
use crate::db::WarningKind;
use crate::names::PoolName;
use crate::sys::inotify::Paths;
use crate::sys::uevent::Uevents;
use crate::sys::watch;

/// What tells nothing when it comes (a mount over a directory) is looked for so often.
const ROUND: Duration = Duration::from_secs(60);
/// What is there may not be whole yet: udev sets links, a copy is written.
const SETTLED: Duration = Duration::from_millis(300);

fn url(name: &PoolName) -> String {
    format!("/1.0/storage-pools/{}", name.in_url())
}

/// What has been told, and is not over: by kind and pool, in which words.
type Told = BTreeMap<(&'static str, PoolName), String>;

/// Raises what is new, and resolves what is over.
async fn tell(app: &App, told: &mut Told, kind: WarningKind, now: Vec<(PoolName, String)>) {
    let now: BTreeMap<PoolName, String> = now.into_iter().collect();
    for (name, reason) in &now {
        let key = (kind.as_str(), name.clone());
        if told.get(&key) != Some(reason) {
            app.db.raise_warning(kind, None, &url(name), reason).await;
            told.insert(key, reason.clone());
        }
    }
    let over = app.db.model().pools.keys().filter(|name| !now.contains_key(*name)).cloned().collect::<Vec<_>>();
    for name in over {
        told.remove(&(kind.as_str(), name.clone()));
        app.db.resolve_warnings(kind, None, &url(&name)).await;
    }
}

async fn look(app: &Arc<App>, told: &mut Told) {
    let pools = Arc::clone(&app.instances.context().pools);
    let retried = tokio::task::spawn_blocking(move || {
        pools.lose();
        // What is let go is tried again at once.
        let read_only = pools.read_only();
        (pools.retry(), read_only)
    })
    .await;
    let Ok((retried, read_only)) = retried else { return };
    for pool in retried.iter().filter(|pool| pool.reason.is_none()) {
        tracing::info!(pool = %pool.pool, "the storage pool is back");
    }
    let away = app.instances.context().pools.away().into_iter().map(|(name, reason, _)| (name, reason)).collect();
    tell(app, told, WarningKind::PoolUnavailable, away).await;
    let words = "nothing can be written to it: its file system became read-only, as after an error of its disk; see \
                 the kernel's log, mend the disk, then restart warrend with its containers stopped";
    let read_only = read_only.into_iter().map(|name| (name, words.to_owned())).collect();
    tell(app, told, WarningKind::PoolReadOnly, read_only).await;
}

/// Follows them for as long as the daemon lives.
pub(super) async fn follow(app: Arc<App>) {
    if let Err(error) = try_follow(&app).await {
        tracing::warn!(%error, "storage pools that come back will not be noticed");
    }
}

async fn try_follow(app: &Arc<App>) -> std::io::Result<()> {
    let mut told = Told::new();
    let mut paths = Paths::new()?;
    let readable = watch::watch(paths.readable()?, Interest::READABLE)?;
    let uevents = Uevents::open()?;
    let devices = watch::watch(uevents.readable()?, Interest::READABLE)?;
    loop {
        let away = places(app);
        if let Err(error) = paths.set(away.iter().map(PathBuf::as_path)) {
            tracing::warn!(%error, "storage pools that come back are noticed late");
        }
        // After the watches are set, so that nothing is missed.
        look(app, &mut told).await;
        // One that has just been found to be away is to be waited for, too.
        if places(app) != away {
            continue;
        }
        let alarm = app.instances.context().pools.alarm();
        let comes = async {
            tokio::select! {
                result = comes(&readable, &devices, &paths, &uevents, &away) => result,
                () = alarm.notified() => Ok(()),
            }
        };
        let waited = tokio::time::timeout(ROUND, comes).await;
        if let Ok(result) = waited {
            result?;
            tokio::time::sleep(SETTLED).await;
            (_, _) = (paths.take()?, uevents.take()?);
        }
    }
}

/// Where the pools that are away may come back.
fn places(app: &App) -> Vec<PathBuf> {
    app.instances.context().pools.away().into_iter().flat_map(|(.., paths)| paths).collect()
}

/// Waits until something happened to one of the paths, or to a block device if any pool is away.
async fn comes(
    readable: &AsyncFd<OwnedFd>,
    devices: &AsyncFd<OwnedFd>,
    paths: &Paths,
    uevents: &Uevents,
    away: &[PathBuf],
) -> std::io::Result<()> {
    loop {
        tokio::select! {
            ready = readable.ready(Interest::READABLE) => {
                ready?.clear_ready();
                let happened = paths.take()?;
                if away.iter().any(|path| happened.concerns(path)) {
                    return Ok(());
                }
            }
            ready = devices.ready(Interest::READABLE) => {
                ready?.clear_ready();
                let heard = uevents.take()?;
                if !away.is_empty() && heard.nodes.iter().any(|event| event.get("SUBSYSTEM") == "block") {
                    return Ok(());
                }
            }
        }
    }
}
