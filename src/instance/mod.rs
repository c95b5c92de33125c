//! Instances: one task per container, the queue of requests, the state machine.
//!
//! ```text
//!   API ── Request ──> actor (one task per instance) ── helper ──> liblxc
//!                        │  ^
//!              Snapshot  │  │ pidfd of the monitor, stop hook, timers
//!                        v  │
//!                    everybody reads
//! ```
//! The actor alone changes an instance's state. It holds pidfds of the container's init and of its liblxc monitor: the
//! container is down when the *monitor* is gone, because then network, cgroups and mounts are, too. Whether a stop is
//! a reboot, liblxc's stop hook says. The root is mounted while the container is up or somebody uses its files ([`lease`]).

mod actor;
mod addresses;
mod adopt;
mod apparmor;
mod apply;
mod confine;
mod console;
mod copied;
mod create;
mod delete;
mod devices;
mod error;
mod exec;
mod files;
mod follow;
mod guests;
mod handles;
mod hardware;
mod hold;
mod hotplug;
mod inside;
mod intercept;
mod lease;
mod limits;
mod live;
mod logs;
mod lxcfs;
mod manager;
mod marks;
mod metadata;
mod metrics;
mod moves;
mod networks;
mod nics;
mod petname;
mod plug;
mod policy;
mod preview;
mod profile_change;
mod proxies;
mod publish;
mod quota;
mod ranges;
mod rates;
mod rename;
mod render;
mod request;
mod root_volume;
mod shifting;
mod snapshots;
mod start;
mod state;
mod stop;
mod templates;
mod uevents;
mod undo;
mod update;
mod volumes;
mod waits;
mod within;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value};

use crate::api::wire::Config;
use crate::db::Database;
use crate::events::Bus;
use crate::events::lifecycle::{Lifecycle, Requestor};
use crate::helper::{ContainerRef, Launcher};
use crate::names::{InstanceKey, SnapshotKey};
use crate::security::DeviceRules;
use crate::state_dir::StateDir;
use crate::{image, network, storage};

pub use adopt::wants_start;
pub use apparmor::AppArmor;
pub use console::{Console, Leave};
pub use copied::{Asked, definition_of_copy};
pub use create::{CopyOf, NewInstance, RootSource};
pub use error::Error;
pub use exec::{Exec, ExecSpec, Io, IoKind};
pub use guests::{Guest, Guests, READY, Stranger};
pub use hotplug::Sources;
pub use intercept::Calls;
pub use limits::Balancer;
pub use live::states as live_states;
pub use logs::LogName;
pub use manager::{Manager, Target};
pub use metadata::{MAX_TEMPLATE, TemplateName};
pub use metrics::{FileSystem, Reading, file_systems, readings};
pub use networks::{check_network_config, network_config, network_spec};
pub use profile_change::ProfileChange;
pub use ranges::Ranges;
pub use root_volume::RootVolume;
pub use shifting::Shifts;
pub use snapshots::{NewSnapshot, Verb as SnapshotVerb, find as find_snapshot};
pub use state::{Snapshot, Status};
pub use update::{Change, Definition, is_own, users_of};

/// What this host is and has, found out once at the daemon's start.
pub struct Host {
    /// What its kernel runs, in LXD's words; its own architecture first, and there always is one.
    pub architectures: &'static [&'static str],
    /// Which hierarchy has the devices controller.
    pub device_rules: DeviceRules,
    /// Whether containers without a user namespace are refused, whatever anybody asks for.
    pub unprivileged_only: bool,
}

impl Host {
    /// The kernel's own architecture.
    pub fn architecture(&self) -> &'static str {
        self.architectures.first().copied().unwrap_or_default()
    }

    fn check_architecture(&self, wanted: &str) -> Result<(), Error> {
        if self.architectures.contains(&wanted) {
            return Ok(());
        }
        Err(Error::Architecture { wanted: wanted.to_owned(), host: self.architectures.join(" and ") })
    }
}

/// What the tasks of all instances share.
pub struct Context {
    /// The database.
    pub db: Arc<Database>,
    /// The event bus.
    pub bus: Bus,
    /// Starts helpers.
    pub launcher: Launcher,
    /// The pools.
    pub pools: Arc<storage::Registry>,
    /// The managed networks.
    pub networks: network::Manager,
    /// The files of images.
    pub images: Arc<image::Store>,
    /// Where everything lies.
    pub dir: StateDir,
    /// Who has which processors.
    pub cpus: Balancer,
    /// Who has which ids.
    pub ranges: Ranges,
    /// Whose files are shifted now.
    pub shifts: Shifts,
    /// Containers that can ask about themselves.
    pub guests: Guests,
    /// What running instances wait for under `/dev`.
    pub sources: Sources,
    /// AppArmor on this host.
    pub apparmor: AppArmor,
    /// This host.
    pub host: Host,
}

impl Context {
    fn container(&self, key: &InstanceKey) -> ContainerRef {
        let name = key.container();
        ContainerRef { config: self.dir.logs(&name).join("lxc.conf"), lxc_path: self.dir.lxc_path(), name }
    }

    fn created(&self, record: &crate::db::Instance, requestor: Option<&Requestor>) {
        let text = |name: &str, value: &str| (name.to_owned(), Value::from(value));
        self.bus.lifecycle(Lifecycle {
            action: "instance-created",
            source: format!("/1.0/instances/{}", record.key.name),
            project: &record.key.project,
            context: Map::from_iter([text("storage-pool", record.pool.as_str()), text("type", "container")]),
            requestor,
        });
    }

    fn renamed(&self, from: &InstanceKey, to: &InstanceKey, requestor: Option<&Requestor>) {
        self.bus.lifecycle(Lifecycle {
            action: "instance-renamed",
            source: format!("/1.0/instances/{}", to.name),
            project: &to.project,
            context: Map::from_iter([("old_name".to_owned(), from.name.as_str().into())]),
            requestor,
        });
    }

    fn snapshot_lifecycle(
        &self,
        action: &'static str,
        key: &SnapshotKey,
        details: &[(String, Value)],
        requestor: Option<&Requestor>,
    ) {
        self.bus.lifecycle(Lifecycle {
            action,
            source: format!("/1.0/instances/{}/snapshots/{}", key.instance.name, key.name.in_url()),
            project: &key.instance.project,
            context: details.iter().cloned().collect(),
            requestor,
        });
    }

    /// Checks a configuration, expanded or a profile's own, against what this daemon is allowed to run.
    ///
    /// # Errors
    /// [`Error::UnprivilegedOnly`].
    pub fn check_privilege(&self, config: &Config) -> Result<(), Error> {
        let asked = crate::config::bool_of(config, "security.privileged")
            || config.get("raw.idmap").is_some_and(|text| !text.is_empty());
        let asked = asked || config.get("raw.lxc").is_some_and(|text| crate::config::raw_lxc::maps_ids(text));
        if self.host.unprivileged_only && asked { Err(Error::UnprivilegedOnly) } else { Ok(()) }
    }

    /// Checks what a new configuration, an instance's or a profile's own, adds by itself to what the daemon writes, unless
    /// it is as before: so that it is refused when it is set, not when the instance starts next.
    ///
    /// # Errors
    /// [`Error::RawAppArmor`] and [`Error::RawLxc`].
    pub async fn check_raw(self: &Arc<Self>, before: &Config, after: &Config) -> Result<(), Error> {
        apparmor::check_raw(self, before, after).await?;
        confine::check_raw(self, before, after).await
    }

    fn lifecycle(&self, action: &'static str, key: &InstanceKey, requestor: Option<&Requestor>) {
        self.lifecycle_with(action, key, &[], requestor);
    }

    fn lifecycle_with(
        &self,
        action: &'static str,
        key: &InstanceKey,
        details: &[(String, Value)],
        requestor: Option<&Requestor>,
    ) {
        self.bus.lifecycle(Lifecycle {
            action,
            source: format!("/1.0/instances/{}", key.name),
            project: &key.project,
            context: details.iter().cloned().collect(),
            requestor,
        });
    }
}

/// Times of the stages of a verb, milliseconds, told in the operation's metadata.
pub struct Stages {
    last: Instant,
    times: BTreeMap<&'static str, f64>,
}

impl Default for Stages {
    fn default() -> Self {
        Self { last: Instant::now(), times: BTreeMap::new() }
    }
}

impl Stages {
    /// The stage called `name` ends now; the next one begins.
    pub fn mark(&mut self, name: &'static str) {
        let now = Instant::now();
        *self.times.entry(name).or_default() += now.duration_since(self.last).as_secs_f64() * 1000.0;
        self.last = now;
    }

    /// A time that was measured elsewhere, milliseconds.
    pub fn add(&mut self, name: &'static str, milliseconds: f64) {
        self.times.insert(name, milliseconds);
    }

    /// As metadata: stage to milliseconds with three digits.
    pub fn to_json(&self) -> Value {
        let rounded = |ms: f64| (ms * 1000.0).round() / 1000.0;
        self.times
            .iter()
            .map(|(name, ms)| ((*name).to_owned(), Value::from(rounded(*ms))))
            .collect::<Map<_, _>>()
            .into()
    }
}

/// Runs blocking work on the runtime's pool for it. The work itself never panics; should it, the panic goes on here and
/// fails the operation.
async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Cancelled: only when the runtime ends.
            Err(_) => Err(Error::ShuttingDown.into()),
        },
    }
}
