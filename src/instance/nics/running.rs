//! Nics of a container that runs: put in, taken out, changed in their place; all that is wanted, or nothing.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::super::error::Error;
use super::super::plug::refuse;
use super::super::{Context, blocking};
use super::{Entries, Entry, Files, is_live_key, namespace_of, network_of, pairs, register, resolve};
use crate::api::wire::Config;
use crate::device::{Nic, Set};
use crate::names::{DeviceName, InstanceKey};
use crate::network;
use crate::network::nic::{self, Kind};
use crate::profile::Expanded;

/// A step that was done.
enum Step {
    In(DeviceName, Entry),
    Out(DeviceName, Entry, Option<Nic>),
    /// From the first to the second.
    Traffic(DeviceName, Entry, Entry),
    Registered(DeviceName, Entry, Option<Nic>),
}

/// Nics that were changed on a running container.
pub(in crate::instance) struct Changed {
    running: Running,
    before: Entries,
    now: Entries,
    after: Set,
    done: Vec<Step>,
}

/// A container that runs.
struct Running {
    context: Arc<Context>,
    key: InstanceKey,
    files: Files,
    pid: i32,
}

/// Brings the nics of a running container to those of `after`.
///
/// # Errors
/// [`Error::Plug`] with the nic that cannot be had; then all are as they were.
pub(in crate::instance) async fn change(
    context: &Arc<Context>,
    key: &InstanceKey,
    pid: i32,
    before: &Expanded,
    after: &Expanded,
) -> Result<Option<Changed>, Error> {
    let priority = |expanded: &Expanded| expanded.config.get("limits.network.priority").cloned();
    if before.devices == after.devices && priority(before) == priority(after) {
        return Ok(None);
    }
    let running = Running::new(context, key, pid);
    let present = running.read().await?;
    let was = Set::parse(&before.devices)?;
    running.change(present, &was, after).await
}

/// A container found running at the daemon's start gets what the database says: a change may have been cut off.
pub(in crate::instance) async fn adopted(context: &Arc<Context>, key: &InstanceKey, pid: i32, expanded: &Expanded) {
    let running = Running::new(context, key, pid);
    let changed = async {
        let mut present = running.read().await?;
        let mut kept = Entries::new();
        for (device, mut entry) in std::mem::take(&mut present) {
            let number = running.look(&entry).await?;
            if entry.doubtful || number.is_none() {
                let name = DeviceName::new(device).map_err(Error::Name)?;
                running.take_out(&name, &entry).await?;
                continue;
            }
            entry.index = number;
            kept.insert(device, entry);
        }
        running.write(&kept).await?;
        let devices = Set::parse(&expanded.devices)?;
        let now = match running.change(kept.clone(), &devices, expanded).await? {
            Some(changed) => changed.now,
            None => kept,
        };
        write_down(context, key, pairs(&now, &devices)).await
    };
    if let Err(error) = changed.await {
        crate::instance::adopt::differs(key, pid, &error, "its nics are not those of its definition");
    }
}

/// Writes what is remembered of a running instance's nics in place of what was.
async fn write_down(context: &Context, key: &InstanceKey, pairs: Vec<(String, String)>) -> Result<(), Error> {
    let key = key.clone();
    context
        .db
        .write(move |tx| {
            let Some(record) = tx.model().instances.get(&key) else { return Ok(()) };
            let mut new = (**record).clone();
            put(&mut new.config, pairs);
            if new.config == record.config { Ok(()) } else { Ok(tx.put_instance(new)?) }
        })
        .await
}

fn put(config: &mut Config, pairs: Vec<(String, String)>) {
    config.retain(|key, _| !is_live_key(key));
    config.extend(pairs);
}

impl Running {
    fn new(context: &Arc<Context>, key: &InstanceKey, pid: i32) -> Self {
        let files = Files::of(context, &key.container());
        Self { context: Arc::clone(context), key: key.clone(), files, pid }
    }

    async fn read(&self) -> Result<Entries, Error> {
        let files = self.files.clone();
        blocking(move || Ok(files.read())).await
    }

    async fn write(&self, entries: &Entries) -> Result<(), Error> {
        let (files, entries) = (self.files.clone(), entries.clone());
        blocking(move || files.write(&entries)).await
    }

    async fn look(&self, entry: &Entry) -> Result<Option<u32>, Error> {
        let (pid, entry) = (self.pid, entry.clone());
        blocking(move || {
            let namespace = namespace_of(pid)?;
            let by_number = nic::inside(&entry.interface, namespace.as_fd(), entry.index)?;
            match by_number {
                // After a reboot without a daemon the numbers are others.
                None => Ok(nic::inside(&entry.interface, namespace.as_fd(), None)?),
                found => Ok(found),
            }
        })
        .await
    }

    /// Puts it in, or leaves nothing of it.
    async fn put_in(&self, device: &DeviceName, entry: &Entry, nic: Option<&Nic>) -> Result<u32, Error> {
        let put = self.make_and_move(device, entry).await?;
        match register(&self.context, &self.key, device, entry, nic).await {
            Ok(()) => Ok(put),
            Err(error) => {
                self.take_out(device, &Entry { index: Some(put), ..entry.clone() }).await?;
                Err(error)
            }
        }
    }

    async fn make_and_move(&self, device: &DeviceName, entry: &Entry) -> Result<u32, Error> {
        let (pid, entry, named, files) = (self.pid, entry.clone(), device.clone(), self.files.clone());
        blocking(move || {
            let refused = |error: network::Error| refuse(&named, error.to_string());
            let namespace = namespace_of(pid)?;
            if entry.interface.kind == Kind::Physical && files.held().is_none() {
                files.hold(&namespace)?;
            }
            nic::create(&entry.interface, &entry.origin).map_err(refused)?;
            nic::enter(&entry.interface, namespace.as_fd()).map_err(|error| {
                let left = nic::leave(&entry.interface, &entry.origin, Some(namespace.as_fd()), None);
                if let Err(error) = left {
                    tracing::error!(device = %named, %error, "taking back what was made for a nic");
                }
                refused(error)
            })
        })
        .await
    }

    async fn take_out(&self, device: &DeviceName, entry: &Entry) -> Result<(), Error> {
        let (pid, gone, named) = (self.pid, entry.clone(), device.clone());
        blocking(move || {
            let namespace = namespace_of(pid).ok();
            let fd: Option<BorrowedFd<'_>> = namespace.as_ref().map(AsFd::as_fd);
            nic::leave(&gone.interface, &gone.origin, fd, gone.index).map_err(|error| refuse(&named, error.to_string()))
        })
        .await?;
        match network_of(entry) {
            Some(network) => Ok(self.context.networks.remove_host(&network, &self.key.container(), device).await?),
            None => Ok(()),
        }
    }

    async fn set_traffic(&self, device: &DeviceName, from: &Entry, to: &Entry) -> Result<(), Error> {
        let (from, to, named) = (from.interface.clone(), to.interface.clone(), device.clone());
        blocking(move || nic::change_traffic(&from, &to).map_err(|error| refuse(&named, error.to_string()))).await
    }

    async fn change(self, present: Entries, was: &Set, expanded: &Expanded) -> Result<Option<Changed>, Error> {
        let after = Set::parse(&expanded.devices)?;
        let wanted = resolve(&self.context, &after, &expanded.config, present.clone()).await?;
        let mut changed =
            Changed { running: self, before: present.clone(), now: Entries::new(), after, done: Vec::new() };
        match changed.steps(present, wanted, was).await {
            Ok(()) if changed.done.is_empty() => Ok(None),
            Ok(()) => Ok(Some(changed)),
            Err(error) => {
                changed.undo().await;
                Err(error)
            }
        }
    }
}

impl Changed {
    async fn steps(&mut self, present: Entries, wanted: Vec<(DeviceName, Entry)>, was: &Set) -> Result<(), Error> {
        let mut entries = present.clone();
        let stays = |device: &str, old: &Entry| {
            let new = wanted.iter().find(|(name, _)| name.as_str() == device);
            new.is_some_and(|(_, new)| old.network == new.network && old.interface.same_place(&new.interface))
        };
        let gone: Vec<(DeviceName, Entry)> = present
            .iter()
            .filter(|(device, old)| !stays(device, old))
            .filter_map(|(device, old)| Some((DeviceName::new(device.clone()).ok()?, old.clone())))
            .collect();
        let (stay, come): (Vec<_>, Vec<_>) = wanted
            .iter()
            .cloned()
            .partition(|(device, _)| present.get(device.as_str()).is_some_and(|old| stays(device.as_str(), old)));
        for (device, old) in &gone {
            entries.insert(device.to_string(), Entry { doubtful: true, ..old.clone() });
        }
        if !gone.is_empty() {
            self.running.write(&entries).await?;
        }
        for (device, old) in gone.into_iter().rev() {
            self.running.take_out(&device, &old).await?;
            entries.remove(device.as_str());
            self.done.push(Step::Out(device.clone(), old, was.nics.get(&device).cloned()));
        }
        for (device, new) in &come {
            entries.insert(device.to_string(), Entry { doubtful: true, ..new.clone() });
        }
        if !come.is_empty() {
            self.running.write(&entries).await?;
        }
        for (device, new) in come {
            let nic = self.after.nics.get(&device).cloned();
            let index = self.running.put_in(&device, &new, nic.as_ref()).await?;
            let new = Entry { index: Some(index), ..new };
            self.done.push(Step::In(device.clone(), new.clone()));
            entries.insert(device.to_string(), new);
        }
        for (device, new) in stay {
            let Some(old) = present.get(device.as_str()).cloned() else { continue };
            let new = Entry { index: old.index, ..new };
            let (nic, old_nic) = (self.after.nics.get(&device), was.nics.get(&device));
            if nic.map(|nic| &nic.addresses) != old_nic.map(|nic| &nic.addresses) {
                self.done.push(Step::Registered(device.clone(), old.clone(), old_nic.cloned()));
                register(&self.running.context, &self.running.key, &device, &new, nic).await?;
            }
            if old != new {
                self.running.set_traffic(&device, &old, &new).await?;
                self.done.push(Step::Traffic(device.clone(), old, new.clone()));
                entries.insert(device.to_string(), new);
            }
        }
        if !self.done.is_empty() {
            self.running.write(&entries).await?;
        }
        self.now = entries;
        Ok(())
    }

    /// Puts what is to be remembered into an instance's configuration.
    pub(in crate::instance) fn remember(&self, config: &mut Config) {
        put(config, pairs(&self.now, &self.after));
    }

    /// The change came about without the instance's own definition: what it remembers is written down.
    pub(in crate::instance) async fn write_down(&self) {
        let written = write_down(&self.running.context, &self.running.key, pairs(&self.now, &self.after)).await;
        if let Err(error) = written {
            // The next start of the daemon writes it.
            tracing::error!(instance = %self.running.key, %error, "remembering its nics");
        }
    }

    /// Takes them back, the newest first; what cannot be is logged.
    pub(in crate::instance) async fn undo(mut self) {
        while let Some(step) = self.done.pop() {
            let undone = match step {
                Step::In(device, entry) => self.running.take_out(&device, &entry).await,
                Step::Out(device, entry, nic) => match self.running.put_in(&device, &entry, nic.as_ref()).await {
                    Ok(index) => {
                        self.before.insert(device.to_string(), Entry { index: Some(index), ..entry });
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
                Step::Traffic(device, old, new) => self.running.set_traffic(&device, &new, &old).await,
                Step::Registered(device, old, nic) => {
                    register(&self.running.context, &self.running.key, &device, &old, nic.as_ref()).await
                }
            };
            if let Err(error) = undone {
                tracing::error!(instance = %self.running.key, %error, "taking a change of nics back");
            }
        }
        if let Err(error) = self.running.write(&self.before).await {
            tracing::error!(instance = %self.running.key, %error, "taking a change of nics back");
        }
    }
}
