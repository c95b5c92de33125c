//! The daemon's start: what runs is adopted, what a crash left half done is undone or finished.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;

use super::actor::Live;
use super::error::Error;
use super::state::{Status, adopted};
use super::{Context, create, delete, devices, guests, limits, moves, nics, proxies, rename, snapshots, start, stop};
use crate::api::wire::Config;
use crate::config;
use crate::db::{self, Phase};
use crate::helper::{self, QUERY, hook};
use crate::lxc;
use crate::names::InstanceKey;
use crate::profile;
use crate::storage::VolumeId;
use crate::sys::process;
use crate::sys::watch::watch;

/// What is true of an instance when the daemon starts.
pub(super) enum Found {
    /// It runs (or is frozen).
    Up(Box<Live>, Status),
    /// It does not run.
    Down {
        /// It ran when the daemon last knew, and nobody inside turned it off since.
        was_running: bool,
    },
    /// It was half made or half deleted, and is gone now.
    Gone,
}

/// A container that is just starting or stopping is looked at again this often, so long.
const SETTLE: (u32, Duration) = (100, Duration::from_millis(50));

/// So many questions to a monitor may go unanswered.
const PATIENCE: u32 = 10;

/// A monitor gets this long to clean up after its container.
const MONITOR: Duration = Duration::from_secs(10);

/// Finds out about one instance and clears what a crash left. `points` are the mount points of the host, `told` knows whose
/// stop hook has reached this daemon.
pub(super) async fn adopt(
    context: &Arc<Context>,
    record: &db::Instance,
    points: &BTreeSet<PathBuf>,
    told: impl Fn(&str) -> Option<hook::Target>,
) -> Result<Found, Error> {
    match record.phase {
        Phase::Creating => {
            create::take_back(context, record).await?;
            tracing::info!(instance = %record.key, "undid an interrupted creation");
            return Ok(Found::Gone);
        }
        Phase::Deleting => {
            delete::finish(context, record).await?;
            tracing::info!(instance = %record.key, "finished an interrupted deletion");
            return Ok(Found::Gone);
        }
        Phase::Ready => rename::finish(context, record).await?,
    }
    moves::settle(context, &record.key).await?;
    snapshots::settle(context, &record.key).await?;
    // What it says may be another state by now.
    let record = &context.db.model().instances.get(&record.key).cloned().ok_or(Error::NotFound)?;
    let power = record.config.get(stop::POWER).map(String::as_str);
    if power != Some("RUNNING") {
        unmount_leftover(context, record, points).await?;
        proxies::forget(context, &record.key.container()).await?;
        devices::forget(context, &record.key.container()).await?;
        nics::forget(context, &record.key.container()).await?;
        return Ok(Found::Down { was_running: false });
    }
    let container = record.key.container();
    context.ranges.remembered(&container, &record.config);
    if let Some((live, status)) = running(context, record).await? {
        // Whatever its hook said, it is up again.
        left_word(context, &container);
        let expanded = profile::expand_instance(&context.db.model(), record);
        context.ranges.adopted(&container, &record.config, live.pid);
        limits::adopted(context, &container, &expanded.config, live.pid).await;
        devices::adopted(context, &record.key, live.pid, &expanded).await;
        guests::adopted(context, &record.key, live.pid, &expanded.config).await;
        nics::adopted(context, &record.key, live.pid, &expanded).await;
        proxies::adopted(context, &record.key, live.pid, &expanded).await;
        return Ok(Found::Up(Box::new(live), status));
    }
    monitor_gone(context, record).await;
    // Asked only now: the hook of a container that was just going down has run by the time it is down. And always: a
    // word that stays would be read as that of a later life.
    let word = left_word(context, &container).or_else(|| told(&container));
    let restarting = record.config.contains_key(stop::RESTART);
    let turned_off = word == Some(hook::Target::Stop) && !restarting;
    stop::clean_up(context, &record.key, !turned_off, false).await?;
    if word == Some(hook::Target::Reboot) {
        // It waited for this daemon to come up again, whatever is usual.
        stop::mark_restart(context, &record.key, Some("kill")).await?;
    }
    if turned_off && record.ephemeral {
        delete::finish(context, record).await?;
        tracing::info!(instance = %record.key, "deleted an ephemeral instance that went down");
        return Ok(Found::Gone);
    }
    Ok(Found::Down { was_running: !turned_off })
}

/// Tries it again with one of which nobody knew whether it runs; none: still nobody does.
pub(super) async fn again(context: &Arc<Context>, key: &InstanceKey) -> Option<Found> {
    let record = context.db.model().instances.get(key).cloned()?;
    let points = super::blocking(|| Ok::<_, Error>(crate::sys::mount::below(Path::new("/")).unwrap_or_default()));
    let points = points.await.unwrap_or_default().into_iter().collect();
    match adopt(context, &record, &points, |_| None).await {
        Ok(found) => {
            tracing::info!(instance = %key, "it is known again how it is");
            Some(found)
        }
        Err(error) => {
            tracing::warn!(instance = %key, %error, "still not adopted");
            None
        }
    }
}

/// Takes a root away that was mounted only for its files when the daemon died.
async fn unmount_leftover(
    context: &Arc<Context>,
    record: &db::Instance,
    points: &BTreeSet<PathBuf>,
) -> Result<(), Error> {
    let (Ok(pool), volume) = (context.pools.get(&record.pool), VolumeId::of(&record.key)) else { return Ok(()) };
    let path = pool.path(&volume);
    if points.range(path.clone()..).next().is_some_and(|point| point.starts_with(&path)) {
        tracing::info!(instance = %record.key, "unmounting a root that the last daemon left");
        super::blocking(move || pool.unmount(&volume).map_err(Error::from)).await?;
    }
    Ok(())
}

/// Asks liblxc about a container that should be running; one in between, and a monitor that is slow to answer because it
/// is just ending, are waited for.
async fn running(context: &Context, record: &db::Instance) -> Result<Option<(Live, Status)>, Error> {
    let container = context.container(&record.key);
    let (tries, pause) = SETTLE;
    let mut unanswered = 0;
    for _ in 0..tries {
        let query = match context.launcher.query(&container).await {
            Ok(query) => query,
            Err(helper::Error::Timeout { .. }) => {
                // Nobody is there to answer: it has ended meanwhile.
                if monitors(context, &record.key).await.is_empty() {
                    return Ok(None);
                }
                unanswered += 1;
                if unanswered == PATIENCE {
                    return Err(helper::Error::Timeout {
                        action: "ask about",
                        container: container.name,
                        after: QUERY * PATIENCE,
                    }
                    .into());
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let status = adopted(query.state);
        match (query.state, query.init_pid, query.init_pidfd) {
            (lxc::State::Stopped, ..) => return Ok(None),
            (lxc::State::Running | lxc::State::Frozen | lxc::State::Thawed, Some(pid), Some(pidfd)) => {
                return Ok(Some((start::live(pid, pidfd)?, status)));
            }
            // A start that the old daemon's helper still carries out, or a stop under way.
            _ => tokio::time::sleep(pause).await,
        }
    }
    Err(Error::Busy { status: Status::Starting })
}

/// The monitors of a container, by the title that liblxc gives them; and what they forked that has not become init yet.
pub(super) async fn monitors(context: &Context, key: &InstanceKey) -> Vec<OwnedFd> {
    let container = context.container(key);
    let title = format!("[lxc monitor] {} {}", container.lxc_path.display(), container.name);
    let found = tokio::task::spawn_blocking(move || process::find(|line| line == title)).await;
    found.map(Result::unwrap_or_default).unwrap_or_default()
}

/// Waits for a monitor that is still cleaning up: it answers no more, but its hook may be running.
async fn monitor_gone(context: &Context, record: &db::Instance) {
    for pidfd in monitors(context, &record.key).await {
        if let Ok(monitor) = watch(pidfd, Interest::READABLE)
            && tokio::time::timeout(MONITOR, monitor.readable()).await.is_err()
        {
            tracing::warn!(instance = %record.key, "the monitor of a stopped container does not end");
        }
    }
}

/// What for a container went down while no daemon was there, if its stop hook left word.
fn left_word(context: &Context, container: &str) -> Option<hook::Target> {
    match hook::take_word(&context.dir.spool(), container) {
        Ok(record) => record.map(|record| record.target),
        Err(error) => {
            tracing::warn!(%container, %error, "reading what its stop hook left");
            None
        }
    }
}

/// Whether an instance with this expanded configuration is to be started with the daemon; `ran`: it did when it was
/// last seen.
pub fn wants_start(expanded: &Config, ran: bool) -> bool {
    expanded.get("boot.autostart").and_then(|text| config::parse_bool(text)).unwrap_or(ran)
}

/// The instances to start now, in order, each with the pause after it.
pub(super) fn autostart(
    context: &Context,
    ran: &BTreeSet<crate::names::InstanceKey>,
) -> Vec<(crate::names::InstanceKey, Duration)> {
    let model = context.db.model();
    let mut list: Vec<(i64, crate::names::InstanceKey, Duration)> = Vec::new();
    for record in model.instances.values() {
        let expanded = profile::expand_instance(&model, record).config;
        // One whose restart was interrupted has been asked for, whatever is usual.
        let restarting = record.config.contains_key(stop::RESTART);
        if restarting || wants_start(&expanded, ran.contains(&record.key)) {
            let delay = u64::try_from(config::int_of(&expanded, "boot.autostart.delay")).unwrap_or(0);
            let priority = config::int_of(&expanded, "boot.autostart.priority");
            list.push((priority, record.key.clone(), Duration::from_secs(delay)));
        }
    }
    list.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    list.into_iter().map(|(_, key, delay)| (key, delay)).collect()
}

/// Tells what of a container found running could not be made as its definition says. One that goes down meanwhile needs it no
/// more.
pub(super) fn differs(key: &InstanceKey, pid: i32, error: &dyn std::fmt::Display, what: &'static str) {
    // An init that has ended has no namespaces, be it reaped or not.
    if std::fs::metadata(format!("/proc/{pid}/ns/net")).is_ok() {
        tracing::error!(instance = %key, %error, "{what}");
    } else {
        tracing::debug!(instance = %key, %error, "it went down: {what}");
    }
}
