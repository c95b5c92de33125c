//! The limits of a container: lines for liblxc when it starts, writes into its control groups when they change.
//!
//! What a container must not exceed is in force before its init runs, by liblxc. Wishes about who goes first are written
//! once it runs, as not every kernel has their files. Processors by number are given out anew whenever somebody who
//! wants some comes, goes, or changes its mind ([`Balancer`]).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::Error;
use super::{Context, blocking};
use crate::api::wire::Config;
use crate::config::cpus::{CpuDemand, CpuSet, balance};
use crate::config::limits::{Frame, Setting, settings};
use crate::sys::cgroup::{Groups, Hierarchies, Version, host_memory};
use crate::sys::cgroup_write::{self, Written};
use crate::sys::hardware;

/// Who has asked for processors, and what each was given.
#[derive(Debug, Default)]
pub struct Balancer(Mutex<BTreeMap<String, Share>>);

#[derive(Debug)]
struct Share {
    demand: CpuDemand,
    /// Of init, once it runs.
    pid: Option<i32>,
    given: CpuSet,
}

impl Balancer {
    fn shares(&self) -> MutexGuard<'_, BTreeMap<String, Share>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records what a container asks for (`None`: no more), and gives the others theirs anew. Its own are the answer;
    /// writing them is up to the caller. Reads and writes a few small files.
    fn ask(&self, container: &str, demand: Option<CpuDemand>, pid: Option<i32>) -> Option<CpuSet> {
        let mut shares = self.shares();
        match demand {
            None if shares.remove(container).is_none() => return None,
            None => {}
            Some(demand) => {
                let share = Share { demand, pid, given: CpuSet::default() };
                shares.insert(container.to_owned(), share);
            }
        }
        let demands = shares.iter().map(|(name, share)| (name.clone(), share.demand.clone())).collect();
        let mut given = balance(&demands, &usable());
        for (name, share) in shares.iter_mut() {
            let Some(cpus) = given.remove(name).filter(|cpus| *cpus != share.given) else { continue };
            if let Some(pid) = share.pid.filter(|_| name != container)
                && let Err(error) = set_cpus(pid, &cpus)
            {
                // It may be going just now.
                tracing::debug!(container = %name, %error, "giving other processors");
                continue;
            }
            share.given = cpus;
        }
        shares.get(container).map(|share| share.given.clone())
    }

    /// Processors were switched on or off, while these containers are up, with their inits: all get theirs anew. Also those whose share is the same are written, as a control
    /// group of version 1 loses a processor for good when it goes; `parent` is the group that they lie in. Reads and writes a
    /// few small files.
    pub(super) fn again(&self, up: &[(String, i32)], parent: &str) {
        let mut shares = self.shares();
        for (container, pid) in up {
            if let Err(error) = give_back(*pid, parent, shares.contains_key(container)) {
                tracing::debug!(%container, %error, "giving processors back");
            }
        }
        let demands = shares.iter().map(|(name, share)| (name.clone(), share.demand.clone())).collect();
        let mut given = balance(&demands, &usable());
        for (name, share) in shares.iter_mut() {
            let (Some(cpus), Some(pid)) = (given.remove(name), share.pid) else { continue };
            match set_cpus(pid, &cpus) {
                Ok(()) => share.given = cpus,
                Err(error) => tracing::warn!(container = %name, %cpus, %error, "giving other processors"),
            }
        }
    }

    /// The container is up: from now on its processors can be changed.
    fn runs(&self, container: &str, pid: i32) {
        if let Some(share) = self.shares().get_mut(container) {
            share.pid = Some(pid);
        }
    }
}

/// Gives what the group above `parent` has to the group of that name that the container lies in, and to the container's own
/// unless it is limited: of version 1 only, where a processor that comes again comes to no group
/// (`Documentation/admin-guide/cgroup-v1/cpusets.rst`).
fn give_back(pid: i32, parent: &str, limited: bool) -> std::io::Result<()> {
    let Some(hierarchies) = Hierarchies::of_host() else { return Ok(()) };
    let groups = Groups::of_instance(pid).map_err(|_| std::io::ErrorKind::NotFound)?;
    let Some((Version::V1, dir)) = hierarchies.dir(&groups, "cpuset") else { return Ok(()) };
    // Those further up are somebody else's, who may want them to have fewer.
    let Some(above) = dir.parent().filter(|above| above.ends_with(parent)) else { return Ok(()) };
    let Some(top) = above.parent() else { return Ok(()) };
    let all = std::fs::read_to_string(top.join("cpuset.cpus"))?;
    for dir in [Some(above), (!limited).then_some(dir.as_path())].into_iter().flatten() {
        let file = dir.join("cpuset.cpus");
        if std::fs::read_to_string(&file)?.trim() != all.trim() {
            std::fs::write(file, all.trim())?;
        }
    }
    Ok(())
}

/// Processors that containers may be given by number.
fn usable() -> CpuSet {
    let (online, isolated) = hardware::processors();
    let online = CpuSet::parse(&online).unwrap_or_default();
    let rest = online.without(&CpuSet::parse(&isolated).unwrap_or_default());
    if rest.is_empty() { online } else { rest }
}

fn set_cpus(pid: i32, cpus: &CpuSet) -> std::io::Result<()> {
    let gone = || std::io::Error::from(std::io::ErrorKind::NotFound);
    let hierarchies = Hierarchies::of_host().ok_or_else(gone)?;
    let groups = Groups::of_instance(pid).map_err(|_| gone())?;
    let (_, dir) = hierarchies.dir(&groups, "cpuset").ok_or_else(gone)?;
    std::fs::write(dir.join("cpuset.cpus"), cpus.to_string())
}

fn demand(config: &Config) -> Option<CpuDemand> {
    config.get("limits.cpu").and_then(|text| CpuDemand::parse(text))
}

/// All settings of `config`; `cpus`: what it was given, if it asked for some.
fn all(config: &Config, cpus: Option<&CpuSet>) -> Vec<Setting> {
    let (online, _) = hardware::processors();
    let cpus = cpus.map_or(online, ToString::to_string);
    settings(config, Frame { memory: host_memory().unwrap_or(0), cpus: &cpus })
}

/// Lines of lxc.conf for a container that is about to start. Given back by [`forget`].
///
/// # Errors
/// [`Error::NoController`] when the host lacks what a hard limit needs.
pub(super) async fn lines(
    context: &Arc<Context>,
    container: &str,
    config: &Config,
) -> Result<Vec<(String, String)>, Error> {
    let cpus = match demand(config) {
        None => None,
        Some(demand) => {
            let (context, container) = (Arc::clone(context), container.to_owned());
            blocking(move || Ok::<_, Error>(context.cpus.ask(&container, Some(demand), None))).await?
        }
    };
    let mut lines = Vec::new();
    for (none, setting) in all(&Config::new(), None).into_iter().zip(all(config, cpus.as_ref())) {
        if none == setting || !setting.hard {
            continue;
        }
        let version = Hierarchies::of_host().and_then(|hierarchies| hierarchies.has(setting.controller));
        let (prefix, write) = match version {
            Some(Version::V1) => ("lxc.cgroup", setting.v1),
            Some(Version::V2) => ("lxc.cgroup2", setting.v2),
            None => return Err(Error::NoController { key: setting.key, controller: setting.controller }),
        };
        lines.extend(write.map(|write| (format!("{prefix}.{}", write.file), write.value)));
    }
    Ok(lines)
}

/// The container of `config` runs: what liblxc did not set is set now.
pub(super) async fn started(context: &Arc<Context>, container: &str, config: &Config, pid: i32) {
    context.cpus.runs(container, pid);
    let wishes = config.keys().any(|key| key.starts_with("limits."));
    if !wishes {
        return;
    }
    let config = config.clone();
    let set = blocking(move || {
        let pairs = all(&Config::new(), None).into_iter().zip(all(&config, None));
        let changed = pairs.filter(|(none, setting)| none != setting && !setting.hard).map(|(_, setting)| setting);
        for setting in changed {
            match place(pid, &setting) {
                Place::File(path, value) => {
                    if let Err((_, error)) = cgroup_write::write_all(&[(path, value)]) {
                        tracing::warn!(key = setting.key, %error, "the kernel refuses it");
                    }
                }
                Place::Missing => without(&setting),
                Place::Other => {}
            }
        }
        Ok::<_, Error>(())
    });
    if let Err(error) = set.await {
        tracing::error!(%error, "setting limits");
    }
}

/// A container found running at the daemon's start gets what the database says: a change may have been cut off between the
/// two.
pub(super) async fn adopted(context: &Arc<Context>, container: &str, config: &Config, pid: i32) {
    let (context, container, config) = (Arc::clone(context), container.to_owned(), config.clone());
    let set = blocking(move || {
        let demand = demand(&config);
        let cpus = demand.and_then(|demand| context.cpus.ask(&container, Some(demand), Some(pid)));
        // Twice, as the kernel takes some only after others.
        let settings = all(&config, cpus.as_ref());
        for setting in settings.iter().chain(&settings) {
            let Place::File(path, value) = place(pid, setting) else { continue };
            let now = std::fs::read_to_string(&path).unwrap_or_default();
            if now.trim() == value {
                continue;
            }
            if let Err((_, error)) = cgroup_write::write_all(&[(path, value)]) {
                tracing::debug!(%container, key = setting.key, %error, "setting it again");
            }
        }
        Ok::<_, Error>(())
    });
    // Ended with the runtime.
    let _ = set.await;
}

/// The container is down: others get its processors.
pub(super) async fn forget(context: &Arc<Context>, container: &str) -> Result<(), Error> {
    if !context.cpus.shares().contains_key(container) {
        return Ok(());
    }
    let (context, container) = (Arc::clone(context), container.to_owned());
    blocking(move || {
        context.cpus.ask(&container, None, None);
        Ok(())
    })
    .await
}

/// Where a setting of a running container is written.
enum Place {
    File(PathBuf, String),
    /// It belongs to the other version of control groups.
    Other,
    /// This host has neither.
    Missing,
}

/// The place of a setting for the container with this init.
fn place(pid: i32, setting: &Setting) -> Place {
    let of_one_version = setting.v1.is_none() || setting.v2.is_none();
    let Some(hierarchies) = Hierarchies::of_host() else { return Place::Missing };
    let write = match hierarchies.has(setting.controller) {
        Some(Version::V1) => setting.v1.as_ref(),
        Some(Version::V2) => setting.v2.as_ref(),
        None if of_one_version => None,
        None => return Place::Missing,
    };
    let Some(write) = write else { return Place::Other };
    let dir = Groups::of_instance(pid).ok().and_then(|groups| hierarchies.dir(&groups, setting.controller));
    let path = dir.map(|(_, dir)| dir.join(&write.file)).filter(|path| path.exists());
    path.map_or(Place::Missing, |path| Place::File(path, write.value.clone()))
}

fn without(setting: &Setting) {
    let (key, controller) = (setting.key, setting.controller);
    tracing::warn!(key, controller, "this host's control groups cannot do that; see \"warrend doctor\"");
}

/// Limits that were changed on a running container, to be taken back when the change does not come about.
pub(super) struct Changed {
    context: Arc<Context>,
    container: String,
    written: Vec<Written>,
    /// What it asked for before, where that has changed.
    demand: Option<(Option<CpuDemand>, i32)>,
}

/// Brings the limits of a running container from those of `old` to those of `new`, both expanded.
///
/// # Errors
/// [`Error::NoController`], or [`Error::Limit`] when the kernel refuses one; then all are as they were.
pub(super) async fn change(
    context: &Arc<Context>,
    container: &str,
    pid: i32,
    old: &Config,
    new: &Config,
) -> Result<Option<Changed>, Error> {
    let limits = |config: &Config| -> Config {
        config.iter().filter(|(key, _)| key.starts_with("limits.")).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    let (old, new) = (limits(old), limits(new));
    if old == new {
        return Ok(None);
    }
    let (context, container) = (Arc::clone(context), container.to_owned());
    blocking(move || {
        let (was, wanted) = (demand(&old), demand(&new));
        let mut changed = Changed { context, container, written: Vec::new(), demand: None };
        let other_cpus = was != wanted;
        let cpus = if !other_cpus {
            changed.context.cpus.shares().get(&changed.container).map(|share| share.given.clone())
        } else {
            changed.demand = Some((was, pid));
            changed.context.cpus.ask(&changed.container, wanted, Some(pid))
        };
        match write(pid, &old, &new, cpus.as_ref(), other_cpus) {
            Ok(written) => {
                changed.written = written;
                Ok(Some(changed))
            }
            Err(error) => {
                changed.take_back();
                Err(error)
            }
        }
    })
    .await
}

fn write(pid: i32, old: &Config, new: &Config, cpus: Option<&CpuSet>, other_cpus: bool) -> Result<Vec<Written>, Error> {
    let (mut writes, mut keys) = (Vec::new(), Vec::new());
    for (before, after) in all(old, cpus).into_iter().zip(all(new, cpus)) {
        if before == after && !(other_cpus && after.key == "limits.cpu") {
            continue;
        }
        match place(pid, &after) {
            Place::File(path, value) => {
                writes.push((path, value));
                keys.push(after.key);
            }
            Place::Other => {}
            Place::Missing if after.hard => {
                return Err(Error::NoController { key: after.key, controller: after.controller });
            }
            Place::Missing => without(&after),
        }
    }
    cgroup_write::write_all(&writes).map_err(|(index, error)| {
        let key = keys.get(index).copied().unwrap_or_default();
        let value = writes.get(index).map(|(_, value)| value.clone()).unwrap_or_default();
        Error::Limit { key, value, error }
    })
}

impl Changed {
    /// Everything as it was before. A few small files.
    fn take_back(self) {
        cgroup_write::undo(&self.written);
        if let Some((demand, pid)) = self.demand {
            self.context.cpus.ask(&self.container, demand, Some(pid));
        }
    }

    /// The same, off the runtime's workers.
    pub(super) async fn undo(self) {
        let taken = blocking(move || {
            self.take_back();
            Ok::<_, Error>(())
        });
        if let Err(error) = taken.await {
            tracing::error!(%error, "putting limits back");
        }
    }
}
