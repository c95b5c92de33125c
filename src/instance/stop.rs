//! Stop: ask init or kill it, then clean up what liblxc does not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::actor::Live;
use super::error::Error;
use super::request::StopKind;
use super::{Context, apparmor, devices, guests, limits, marks, nics, proxies, ranges};
use crate::config::raw_lxc;
use crate::db::{self, Instance, Phase};
use crate::names::InstanceKey;
use crate::profile;
use crate::storage::VolumeId;
use crate::sys::cgroup::Hierarchies;
use crate::sys::process;

/// Whether it ran when the daemon last knew: `RUNNING` or `STOPPED`.
pub(super) const POWER: &str = "volatile.last_state.power";
/// While a restart is under way, how it goes down: `kill` or `shutdown`. A daemon that finds it finishes the restart.
pub(super) const RESTART: &str = "volatile.last_state.restart";

/// Remembers that a restart has begun, or forgets it.
pub(super) async fn mark_restart(context: &Context, key: &InstanceKey, how: Option<&'static str>) -> Result<(), Error> {
    marks::set(context, key, RESTART, how.map(str::to_owned)).await
}

/// How a restart goes down that the last daemon began and that has not come so far as to start.
pub(super) fn interrupted_restart(record: &Instance) -> Option<StopKind> {
    let how = record.config.get(RESTART)?;
    Some(if how == "kill" { StopKind::Kill } else { StopKind::Shutdown(None) })
}

/// A killed init ends within this time, unless it is held.
const SETTLE: Duration = Duration::from_secs(2);

/// liblxc gets this long to clean up after a container.
const MONITOR: Duration = Duration::from_secs(10);

/// How often an init that cannot hear yet is looked at.
const LISTENS: Duration = Duration::from_millis(100);

/// A shutdown that has been asked for; let go, it is not asked for again.
#[derive(Default)]
pub(super) struct Asked(Option<JoinHandle<()>>);

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Asks init to shut the container down. The kernel drops a signal for which init has no handler yet (pid_namespaces(7)),
/// as in its first moments: then it is asked again as soon as it can hear.
pub(super) async fn ask(context: &Context, key: &InstanceKey, live: &Live, frozen: bool) -> Result<Asked, Error> {
    if frozen {
        context.launcher.unfreeze(&context.container(key)).await?;
    }
    let chosen = chosen_signal(context, key);
    let (pid, number) = (live.pid, chosen.unwrap_or_else(|| halt_signal(live.pid)));
    let heard = process::hears(pid, number);
    signal(live, number)?;
    if heard {
        return Ok(Asked::default());
    }
    let failed = |error| Error::Io { doing: "watch", path: format!("/proc/{pid}").into(), error };
    let init = live.init.get_ref().try_clone().map_err(failed)?;
    let again = async move {
        loop {
            tokio::time::sleep(LISTENS).await;
            // Another program by now, perhaps: what liblxc started has become the distribution's init.
            let number = chosen.unwrap_or_else(|| halt_signal(pid));
            // A failure is the end of init, which is what was wanted.
            if process::hears(pid, number) || process::pidfd_signal(&init, 0).is_err() {
                let _ = process::pidfd_signal(&init, number);
                return;
            }
        }
    };
    Ok(Asked(Some(tokio::spawn(again))))
}

/// Kills init; the kernel then kills everything else in its pid namespace.
pub(super) async fn kill(context: &Context, key: &InstanceKey, live: &Live, frozen: bool) -> Result<(), Error> {
    // A fork bomb cannot outrun this: when init dies, the kernel kills the whole pid namespace and lets nothing fork.
    signal(live, libc::SIGKILL)?;
    if frozen {
        // The freezer of cgroup 1 of older kernels holds even a killed process until it is thawed. With newer ones the
        // container is going while it is thawed, and liblxc finds nothing to thaw any more.
        let thawed = context.launcher.unfreeze(&context.container(key)).await;
        if let Err(error) = thawed
            && tokio::time::timeout(SETTLE, live.init.readable()).await.is_err()
        {
            return Err(error.into());
        }
    }
    Ok(())
}

fn signal(live: &Live, number: i32) -> Result<(), Error> {
    process::pidfd_signal(live.init.get_ref(), number).or_else(|error| {
        // Gone already: the monitor's end will be seen.
        if error.raw_os_error() == Some(libc::ESRCH) {
            return Ok(());
        }
        Err(Error::Io { doing: "signal", path: format!("/proc/{}", live.pid).into(), error })
    })
}

/// That of `lxc.signal.halt` in `raw.lxc`, the last one (lxc.container.conf(5)).
fn chosen_signal(context: &Context, key: &InstanceKey) -> Option<i32> {
    let model = context.db.model();
    let config = profile::expand_instance(&model, model.instances.get(key)?).config;
    let lines = raw_lxc::parse(config.get("raw.lxc")?).unwrap_or_default();
    let line = lines.iter().rfind(|line| line.key.eq_ignore_ascii_case("lxc.signal.halt"))?;
    process::signal_number(&line.value)
}

/// The signal by which this init shuts down: systemd's `SIGRTMIN+3` (systemd(1), SIGNALS), busybox's `SIGUSR2`
/// (its init's documentation), else `SIGPWR`, which liblxc sends by default.
fn halt_signal(pid: i32) -> i32 {
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let program = program.to_string_lossy().into_owned();
    // Its shell is busybox, too, and may run an init that is a script.
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let called = words.split(|byte| *byte == 0).next().unwrap_or_default().rsplit(|byte| *byte == b'/').next();
    if program.contains("systemd") {
        libc::SIGRTMIN() + 3
    } else if program.contains("busybox") && matches!(called, Some(b"init" | b"linuxrc" | b"busybox")) {
        libc::SIGUSR2
    } else {
        libc::SIGPWR
    }
}

/// After the monitor: init dies with it, but a monitor that was killed may leave init to be killed here.
pub(super) async fn reap(live: &Live) {
    let ended = async { live.init.readable().await.map(|_| ()) };
    if tokio::time::timeout(Duration::from_millis(500), ended).await.is_err() {
        if let Err(error) = process::pidfd_signal(live.init.get_ref(), libc::SIGKILL) {
            tracing::warn!(pid = live.pid, %error, "killing an init without a monitor");
        }
        // SIGKILL of a pid namespace's init cannot be refused; it ends as soon as the kernel has reaped its children.
        let _ = live.init.readable().await;
    }
}

/// Ends a container that has just come up and must not, and waits until liblxc has taken it away.
pub(super) async fn down(live: &Live) {
    if let Err(error) = signal(live, libc::SIGKILL) {
        tracing::error!(pid = live.pid, %error, "killing what has not started well");
    }
    if tokio::time::timeout(MONITOR, live.monitor.readable()).await.is_err() {
        tracing::warn!(pid = live.pid, "the monitor of a killed container does not end");
    }
    reap(live).await;
}

/// Takes away what the start made and liblxc does not know, or left because its monitor was killed: control groups, the
/// root's mount (unless others use it), DHCP entries, the remembered state. An ephemeral one that stays down is to be
/// deleted next.
pub(super) async fn clean_up(
    context: &Arc<Context>,
    key: &InstanceKey,
    remember_running: bool,
    keep_root: bool,
) -> Result<(), Error> {
    let model = context.db.model();
    let Some(record) = model.instances.get(key).cloned() else { return Ok(()) };
    let container = key.container();
    let pool = context.pools.get(&record.pool)?;
    let volume = container.clone();
    let group = context.dir.cgroup();
    let others: BTreeSet<String> = model.instances.keys().map(InstanceKey::container).collect();
    super::blocking(move || {
        if let Some(hierarchies) = Hierarchies::of_host() {
            hierarchies.remove_lives(&group, &volume, |name| others.contains(name));
        }
        if keep_root { Ok(()) } else { pool.unmount(&VolumeId::container(&volume)).map_err(Error::from) }
    })
    .await?;
    if !keep_root {
        context.ranges.give_back(&container);
    }
    apparmor::forget(context, &container).await;
    limits::forget(context, &container).await?;
    proxies::forget(context, &container).await?;
    devices::forget(context, &container).await?;
    nics::forget(context, &container).await?;
    let changed = key.clone();
    let written = context
        .db
        .write(move |tx| {
            let Some(record) = tx.model().instances.get(&changed) else { return Ok(()) };
            let mut record = (**record).clone();
            let power = if remember_running { "RUNNING" } else { "STOPPED" };
            record.config.insert(POWER.to_owned(), power.to_owned());
            if !remember_running {
                record.config.remove(RESTART);
                if record.ephemeral {
                    // Down, it has no life: from here on a crash ends in its deletion, too.
                    record.phase = Phase::Deleting;
                }
            }
            ranges::forget(&mut record.config);
            record.config.remove(guests::READY);
            record.config.retain(|key, _| !nics::is_live_key(key));
            tx.put_instance(record)
        })
        .await;
    match written {
        // On a full disk: it is down, which is what may make room. It counts as one that ran until that can be written.
        Err(error @ db::Error::Full) if !record.ephemeral => {
            tracing::error!(instance = %key, %error, "it is down, but is remembered as running");
            Ok(())
        }
        written => written.map_err(Error::Db),
    }
}
