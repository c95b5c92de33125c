//! Device nodes that need not be there (`required=false`): put into a running container when their source comes, taken out
//! when it goes.
//!
//! ```text
//!   actor ── sources it waits for ──> Sources ── inotify ── something happened ──> actor compares, before all else
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::Interest;

use super::manager::Manager;
use super::request::Request;
use super::{Context, follow};
use crate::api::wire::Config;
use crate::device::{Node, Plug, Set};
use crate::names::InstanceKey;
use crate::profile;
use crate::sys::inotify::Paths;
use crate::sys::uevent::Uevent;
use crate::sys::watch;

/// A node's source, when the node comes and goes with it.
pub(super) fn followed(plug: &Plug) -> Option<&Node> {
    match plug {
        Plug::Node(node) if !node.required && node.numbers.is_none() => Some(node),
        Plug::Node(_) | Plug::Disk(_) => None,
    }
}

/// So many messages of the kernel are kept for an instance that is busy.
const KEPT: usize = 256;

#[derive(Default)]
struct Table {
    /// Of running instances.
    wanted: BTreeMap<InstanceKey, BTreeSet<PathBuf>>,
    /// Of running instances, those with hardware that is known by what it is.
    hardware: BTreeSet<InstanceKey>,
    /// Something happened to their sources.
    told: BTreeSet<InstanceKey>,
    /// What the kernel told of device nodes meanwhile.
    heard: BTreeMap<InstanceKey, Vec<Uevent>>,
    /// Nodes of hardware that were taken out last: the kernel may tell of them only now.
    gone: BTreeMap<InstanceKey, Vec<Config>>,
    /// None: nobody has wanted any so far, or they cannot be had.
    paths: Option<Paths>,
}

impl Table {
    fn watch(&mut self) {
        let all: BTreeSet<&PathBuf> = self.wanted.values().flatten().collect();
        if let Some(paths) = &mut self.paths
            && let Err(error) = paths.set(all.into_iter().map(PathBuf::as_path))
        {
            tracing::warn!(%error, "sources of devices that come or go will not be noticed");
        }
    }
}

/// The sources that running instances wait for.
#[derive(Default)]
pub struct Sources(Mutex<Table>);

impl Sources {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something happened to hardware, as the kernel has told: those whom it may concern, who are to be woken.
    pub(super) fn hardware_changed(&self, events: &[Uevent]) -> BTreeSet<InstanceKey> {
        let mut table = self.table();
        let concerned = table.hardware.clone();
        for key in concerned.iter().filter(|_| !events.is_empty()) {
            let heard = table.heard.entry(key.clone()).or_default();
            heard.extend(events.iter().take(KEPT.saturating_sub(heard.len())).cloned());
        }
        table.told.extend(concerned.iter().cloned());
        concerned
    }

    /// What the kernel told an instance since it last looked, and the nodes that were taken out by then.
    pub(super) fn take_heard(&self, key: &InstanceKey) -> (Vec<Uevent>, Vec<Config>) {
        let mut table = self.table();
        (table.heard.remove(key).unwrap_or_default(), table.gone.get(key).cloned().unwrap_or_default())
    }

    /// These nodes of hardware have been taken out.
    pub(super) fn took_out(&self, key: &InstanceKey, nodes: Vec<Config>) {
        if nodes.is_empty() {
            return;
        }
        let mut table = self.table();
        let gone = table.gone.entry(key.clone()).or_default();
        // What goes at once may be found gone in several looks.
        gone.extend(nodes);
        gone.drain(..gone.len().saturating_sub(KEPT));
    }

    /// What an instance waits for now; whether it is to look at them.
    fn want(&self, key: &InstanceKey, paths: BTreeSet<PathBuf>, hardware: bool) -> bool {
        let mut table = self.table();
        let told = table.told.remove(key);
        // From now on it is told; what happened before, it sees.
        let new = hardware && table.hardware.insert(key.clone());
        if !hardware {
            table.hardware.remove(key);
            table.heard.remove(key);
            table.gone.remove(key);
        }
        let told = told || new;
        if table.wanted.get(key).is_none_or(BTreeSet::is_empty) && paths.is_empty() {
            return told && hardware;
        }
        if table.wanted.get(key) == Some(&paths) {
            return told;
        }
        if paths.is_empty() {
            table.wanted.remove(key);
        } else {
            table.wanted.insert(key.clone(), paths);
        }
        table.watch();
        true
    }
}

/// Watches the sources of an instance that runs with the init `pid`, and brings its nodes to what is there of them.
pub(super) async fn follow(context: &Arc<Context>, key: &InstanceKey, pid: Option<i32>) {
    let model = context.db.model();
    let expanded = match (pid, model.instances.get(key)) {
        (Some(_), Some(record)) => profile::expand_instance(&model, record),
        _ => {
            context.sources.want(key, BTreeSet::new(), false);
            return;
        }
    };
    // What is stored has been checked.
    let Ok(set) = Set::parse(&expanded.devices) else { return };
    let paths = set.plugs.values().filter_map(followed).map(|node| PathBuf::from(&node.source)).collect();
    if context.sources.want(key, paths, !set.matched.is_empty())
        && let Some(pid) = pid
    {
        follow::follow(context, key, pid, &expanded).await;
    }
}

impl Manager {
    /// Tells instances when their sources come or go, for as long as the daemon runs.
    pub async fn follow_sources(&self) {
        if let Err(error) = self.try_follow_sources().await {
            tracing::warn!(%error, "sources of devices that come or go will not be noticed");
        }
    }

    async fn try_follow_sources(&self) -> io::Result<()> {
        let sources = &self.context().sources;
        let paths = Paths::new()?;
        let readable = watch::watch(paths.readable()?, Interest::READABLE)?;
        {
            let mut table = sources.table();
            table.paths = Some(paths);
            table.watch();
            // What happened before.
            let all: Vec<InstanceKey> = table.wanted.keys().cloned().collect();
            // Others may have been told already, of hardware.
            table.told.extend(all);
        }
        self.tell_all(|| Request::Sources);
        loop {
            readable.ready(Interest::READABLE).await?.clear_ready();
            let told = {
                let mut table = sources.table();
                let Some(happened) = table.paths.as_ref().map(Paths::take).transpose()? else { return Ok(()) };
                let concerned =
                    table.wanted.iter().filter(|(_, paths)| paths.iter().any(|path| happened.concerns(path)));
                let concerned: Vec<InstanceKey> = concerned.map(|(key, _)| key.clone()).collect();
                if !concerned.is_empty() {
                    // Directories on the way may be others now.
                    table.watch();
                    table.told.extend(concerned.iter().cloned());
                }
                concerned
            };
            for key in told {
                // One that is just gone needs nothing.
                self.send(&key, Request::Sources);
            }
        }
    }
}
