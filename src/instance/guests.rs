//! Containers that may ask about themselves (`/dev/lxd/sock`), and how the one that asks is found.
//!
//! ```text
//!   a process connects ── by the kernel's word ──> its pid namespace ── the one of a container's init ──> the container
//! ```
//! What the process says counts for nothing. The pid namespace of each running container is held open here, so that its
//! number can mean no other one. A process of a namespace below (of a container inside the container) is a stranger, as
//! it is to LXD 5.0.2: whoever is root there need not be root of the container.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use serde_json::json;
use tokio::sync::{mpsc, watch};

use super::error::Error;
use super::inside::Inside;
use super::manager::Manager;
use super::request::Request;
use super::state::Status;
use super::{Context, blocking};
use crate::api::wire::Config;
use crate::config;
use crate::events::{GuestBus, GuestKind};
use crate::helper::MountRequest;
use crate::names::InstanceKey;
use crate::profile::Expanded;
use crate::sys::namespace::{self, Namespace, NamespaceId};
use crate::sys::{mount, peercred};

/// Whether it has said that it is ready.
pub const READY: &str = "volatile.last_state.ready";

/// Where the directory of the socket is mounted inside.
const PLACE: &str = "/dev/lxd";

/// The first process of a container may ask before the start is over; it waits for that no longer than this.
const STARTING: Duration = Duration::from_secs(5);

/// Who asks: root of this container, in this life of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Which container.
    pub key: InstanceKey,
    life: u64,
}

/// Who asks and gets no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stranger {
    /// A process that belongs to no container of this daemon, or has ended.
    Outside,
    /// A process of this container that is not its root.
    NotRoot(InstanceKey),
}

struct Known {
    life: u64,
    pids: Namespace,
    root: Option<u32>,
}

/// Those that run.
#[derive(Default)]
pub struct Guests {
    known: Mutex<BTreeMap<InstanceKey, Known>>,
    lives: watch::Sender<u64>,
    bus: GuestBus,
}

impl Guests {
    fn known(&self) -> MutexGuard<'_, BTreeMap<InstanceKey, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A container runs, its init being `pid`; again is fine.
    pub(super) fn up(&self, key: &InstanceKey, pid: i32, init: &OwnedFd) {
        let mut known = self.known();
        if known.contains_key(key) {
            return;
        }
        let found = || {
            let (pids, own) = (Namespace::pids_of(pid, init)?, Namespace::own_pids()?);
            // One that shares the host's (raw.lxc): any process of the host would be taken for it.
            let root = if pids.id() == own.id() { None } else { namespace::root_of(pid, init)? };
            Ok::<_, std::io::Error>((pids, root))
        };
        match found() {
            Ok((pids, root)) => {
                let mut life = 0;
                self.lives.send_modify(|lives| {
                    *lives += 1;
                    life = *lives;
                });
                known.insert(key.clone(), Known { life, pids, root });
            }
            // It has just ended.
            Err(error) => tracing::debug!(instance = %key, %error, "its guest interface"),
        }
    }

    /// A container is down, or about to have another init.
    pub(super) fn down(&self, key: &InstanceKey) {
        self.known().remove(key);
        self.bus.end(key);
    }

    /// The container with this pid namespace; none when several share it.
    fn find(&self, pids: NamespaceId, uid: u32) -> Option<Result<Guest, Stranger>> {
        let known = self.known();
        let mut found = known.iter().filter(|(_, guest)| guest.pids.id() == pids);
        let (Some((key, guest)), None) = (found.next(), found.next()) else { return None };
        let is_root = guest.root == Some(uid);
        Some(if is_root {
            Ok(Guest { key: key.clone(), life: guest.life })
        } else {
            Err(Stranger::NotRoot(key.clone()))
        })
    }

    /// Whether the container has not gone down since it was found.
    pub fn is_up(&self, guest: &Guest) -> bool {
        self.known().get(&guest.key).is_some_and(|known| known.life == guest.life)
    }

    /// Its own events; they end when it goes down. `None`: it has.
    pub fn subscribe(&self, guest: &Guest, kinds: Vec<GuestKind>) -> Option<mpsc::Receiver<Arc<str>>> {
        let events = self.bus.subscribe(guest.key.clone(), kinds);
        // Asked last: one that has just gone down has been, or is not yet, told the end.
        self.is_up(guest).then_some(events)
    }

    /// Ends all events: the daemon ends.
    pub fn close(&self) {
        self.bus.close();
    }

    /// Tells a running container what of it has changed.
    pub(super) fn tell(&self, key: &InstanceKey, before: &Expanded, after: &Expanded) {
        if wanted(&before.config) && !wanted(&after.config) {
            self.bus.end(key);
            return;
        }
        for (kind, metadata) in changes(before, after) {
            self.bus.publish(key, kind, &metadata);
        }
    }
}

/// Whether root inside may ask.
pub(super) fn wanted(config: &Config) -> bool {
    config::bool_of(config, "security.devlxd")
}

/// What cloud-init takes for the identity of the instance: another one has it run again.
const IDENTITY: &str = "volatile.cloud-init.instance-id";

/// Gives it another identity.
pub(super) fn renew_identity(config: &mut Config) {
    config.insert(IDENTITY.to_owned(), uuid::Uuid::new_v4().to_string());
}

/// Whether something changed that cloud-init only looks at once for each identity: its data, and the names of interfaces.
pub(super) fn needs_identity(before: &Expanded, after: &Expanded) -> bool {
    let data = |expanded: &Expanded| -> Vec<(String, String)> {
        let data = ["user.meta-data", "user.network-config", "user.user-data", "user.vendor-data"];
        let counts = |key: &str| key.starts_with("cloud-init.") || data.contains(&key);
        let pairs = expanded.config.iter().filter(|(key, _)| counts(key));
        pairs.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let names = |expanded: &Expanded| -> Vec<(String, Option<String>)> {
        let nics = expanded.devices.iter().filter(|(_, device)| device.get("type").is_some_and(|kind| kind == "nic"));
        nics.map(|(name, device)| (name.clone(), device.get("name").cloned())).collect()
    };
    data(before) != data(after) || names(before) != names(after)
}

/// What changed, in the order of their names.
fn changes(before: &Expanded, after: &Expanded) -> Vec<(GuestKind, serde_json::Value)> {
    let mut list = Vec::new();
    let users = |config: &Config| -> BTreeMap<String, String> {
        config.iter().filter(|(key, _)| key.starts_with("user.")).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    let (old, new) = (users(&before.config), users(&after.config));
    let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for key in keys {
        let (old, new) = (old.get(key).map_or("", String::as_str), new.get(key).map_or("", String::as_str));
        if old != new {
            list.push((GuestKind::Config, json!({"key": key, "old_value": old, "value": new})));
        }
    }
    let told = |action: &str, name: &String, config: &Config| {
        (GuestKind::Device, json!({"action": action, "name": name, "config": config}))
    };
    for (name, config) in &before.devices {
        match after.devices.get(name) {
            Some(now) if now == config => {}
            Some(now) if in_place(config, now) => list.push(told("updated", name, now)),
            Some(_) | None => list.push(told("removed", name, config)),
        }
    }
    for (name, config) in &after.devices {
        if before.devices.get(name).is_none_or(|old| old != config && !in_place(old, config)) {
            list.push(told("added", name, config));
        }
    }
    list
}

/// Whether a device stays what it is and only its limits change.
fn in_place(before: &Config, after: &Config) -> bool {
    let rest = |config: &Config| -> BTreeMap<String, String> {
        let fixed = |key: &str| !key.starts_with("limits.") && key != "size";
        config.iter().filter(|(key, _)| fixed(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    rest(before) == rest(after)
}

/// Writes down what a container says of itself; tells it when it has become ready.
pub(super) async fn set_ready(context: &Context, guest: &Guest, ready: bool) -> Result<(), Error> {
    if !context.guests.is_up(guest) {
        return Err(Error::NotUp { status: Status::Stopped });
    }
    let key = guest.key.clone();
    let changed = context
        .db
        .write(move |tx| {
            let mut record = tx.model().instances.get(&key).map(|r| (**r).clone()).ok_or(Error::NotFound)?;
            let before = record.config.contains_key(READY);
            if before == ready {
                return Ok::<_, Error>(false);
            }
            if ready {
                record.config.insert(READY.to_owned(), "true".to_owned());
            } else {
                record.config.remove(READY);
            }
            tx.put_instance(record)?;
            Ok(true)
        })
        .await?;
    if changed && ready {
        context.lifecycle("instance-ready", &guest.key, None);
    }
    Ok(())
}

/// The guest interface of a running container that was switched, to be switched back.
pub(super) struct Switch {
    context: Arc<Context>,
    key: InstanceKey,
    pid: i32,
    was: bool,
}

impl Switch {
    pub(super) async fn undo(self) {
        if let Err(error) = switch(&self.context, &self.key, self.pid, self.was).await {
            tracing::error!(instance = %self.key, %error, "switching its guest interface back");
        }
    }
}

/// Mounts or unmounts the directory of the socket when the configuration says so.
pub(super) async fn change(
    context: &Arc<Context>,
    key: &InstanceKey,
    pid: i32,
    before: &Config,
    after: &Config,
) -> Result<Option<Switch>, Error> {
    let (was, is) = (wanted(before), wanted(after));
    if was == is {
        return Ok(None);
    }
    switch(context, key, pid, is).await?;
    Ok(Some(Switch { context: Arc::clone(context), key: key.clone(), pid, was }))
}

/// A container found running at the daemon's start: a change may have been cut off.
pub(super) async fn adopted(context: &Arc<Context>, key: &InstanceKey, pid: i32, config: &Config) {
    if let Err(error) = switch(context, key, pid, wanted(config)).await {
        super::adopt::differs(key, pid, &error, "its guest interface is not as its definition says");
    }
}

/// Whether something is mounted at [`PLACE`] of a container.
fn is_there(pid: i32) -> bool {
    let table = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    table.lines().any(|line| line.split(' ').nth(4) == Some(PLACE))
}

async fn switch(context: &Arc<Context>, key: &InstanceKey, pid: i32, on: bool) -> Result<(), Error> {
    if is_there(pid) == on {
        return Ok(());
    }
    let container = context.container(key);
    let inside = Inside::open(pid, &container.name)?;
    let dir = context.dir.guest();
    let (request, tree) = if on {
        let tree = blocking(move || {
            tree(&dir).map_err(|error| Error::Io { doing: "bring into the container", path: dir, error })
        });
        (MountRequest::Attach { path: PLACE.to_owned(), directory: true, unbindable: false }, Some(tree.await?))
    } else {
        (MountRequest::Detach { path: PLACE.to_owned(), remove: false }, None)
    };
    let mut fds: Vec<BorrowedFd<'_>> = tree.iter().map(AsFd::as_fd).collect();
    fds.extend(inside.fds());
    Ok(context.launcher.mount(&container, request, &fds).await?)
}

fn tree(dir: &Path) -> std::io::Result<OwnedFd> {
    let place = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let tree = mount::clone_at(place, false)?;
    mount::set_propagation(&tree, mount::Propagation::Private, false)?;
    let mut attributes = mount::Attributes::default();
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        attributes.add(option);
    }
    mount::set_options(&tree, attributes)?;
    Ok(tree)
}

impl Manager {
    /// Which container's root has connected this socket of the guest interface.
    ///
    /// # Errors
    /// [`Stranger`].
    pub async fn identify(&self, socket: impl AsFd) -> Result<Guest, Stranger> {
        let outside = |_: std::io::Error| Stranger::Outside;
        let peer = peercred::peer(&socket).map_err(outside)?;
        let pid = peer.pid.ok_or(Stranger::Outside)?;
        let process = peercred::peer_process(&socket, pid).map_err(outside)?;
        // Held until it is compared; and of that process, which lives.
        let pids = Namespace::pids_of(pid, &process).map_err(outside)?;
        let guests = &self.context().guests;
        let mut lives = guests.lives.subscribe();
        let known = async {
            loop {
                lives.mark_unchanged();
                // Asked first: one whose start is over is known.
                let starting = self.is_any_starting();
                if let Some(found) = guests.find(pids.id(), peer.uid) {
                    return found;
                }
                if !starting || lives.changed().await.is_err() {
                    return Err(Stranger::Outside);
                }
            }
        };
        tokio::time::timeout(STARTING, known).await.unwrap_or(Err(Stranger::Outside))
    }

    /// A container says of itself that it is ready, or not yet.
    ///
    /// # Errors
    /// When it is down, or it cannot be written.
    pub async fn set_ready(&self, guest: &Guest, ready: bool) -> Result<(), Error> {
        let guest = guest.clone();
        let key = guest.key.clone();
        self.ask(&key, |reply| Request::Ready { guest, ready, reply }).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn changes_are_told_as_lxd_tells_them() {
        let device = |pairs: &[(&str, &str)]| ("d".to_owned(), config(pairs));
        let before = Expanded {
            config: config(&[("user.a", "1"), ("user.b", "2"), ("limits.cpu", "1"), ("cloud-init.user-data", "x")]),
            devices: [device(&[("type", "disk"), ("path", "/x")])].into(),
        };
        let after = Expanded {
            config: config(&[("user.a", "2"), ("user.c", "3")]),
            devices: [device(&[("type", "disk"), ("path", "/y")])].into(),
        };
        let told: Vec<String> = changes(&before, &after).into_iter().map(|(_, value)| value.to_string()).collect();
        assert_eq!(
            told,
            [
                r#"{"key":"user.a","old_value":"1","value":"2"}"#,
                r#"{"key":"user.b","old_value":"2","value":""}"#,
                r#"{"key":"user.c","old_value":"","value":"3"}"#,
                r#"{"action":"removed","config":{"path":"/x","type":"disk"},"name":"d"}"#,
                r#"{"action":"added","config":{"path":"/y","type":"disk"},"name":"d"}"#,
            ]
        );
        let limited = Expanded {
            config: Config::default(),
            devices: [device(&[("type", "disk"), ("path", "/y"), ("limits.read", "1MB")])].into(),
        };
        let told = changes(&Expanded { config: Config::default(), ..after }, &limited);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].1["action"], "updated");
    }

    #[test]
    fn a_namespace_of_the_host_or_of_two_is_nobodys() {
        let key = |name: &str| InstanceKey {
            project: crate::names::ProjectName::default(),
            name: crate::names::InstanceName::new(name).unwrap(),
        };
        let guests = Guests::default();
        let pid = i32::try_from(std::process::id()).unwrap();
        let pidfd = crate::sys::process::pidfd_open(pid).unwrap();
        guests.up(&key("c1"), pid, &pidfd);
        let own = Namespace::own_pids().unwrap().id();
        assert_eq!(guests.find(own, 0), Some(Err(Stranger::NotRoot(key("c1")))));
        guests.up(&key("c2"), pid, &pidfd);
        assert_eq!(guests.find(own, 0), None);
        guests.down(&key("c1"));
        guests.down(&key("c2"));
        assert_eq!(guests.find(own, 0), None);
    }
}
