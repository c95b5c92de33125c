//! Disks and device nodes of a container: at its start, while it runs, and what is left of them.
//!
//! ```text
//!  start    sources opened ── mounted in devices/<instance> ── liblxc binds them ── unmounted again
//!  running  source opened ── helper ── attached inside                 (in both: devices/<instance>/plugged.json)
//!  down     devices/<instance> is removed
//! ```
//! `plugged.json` says what is inside, and, while that changes, what may or may not be: a daemon that finds it after a
//! crash takes the doubtful out and brings the container to what the database says.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::inside::Inside;
use super::plug::{self, Ready, refuse};
use super::rates::Rates;
use super::volumes::Places;
use super::within::Within;
use super::{Context, blocking, hardware, proxies};
use crate::api::wire::{Config, Devices};
use crate::device::{Disk, Plug, Propagation, Set, is_matched};
use crate::helper::{ContainerRef, MountRequest};
use crate::names::{DeviceName, InstanceKey, ProjectName};
use crate::profile::Expanded;
use crate::security::idmap::IdMap;
use crate::security::{self, DeviceRules};
use crate::sys::cgroup::{Groups, Hierarchies};
use crate::sys::mount;

/// Where [`Journal`] is kept.
const PLUGGED: &str = "plugged.json";
const NEW: &str = ".plugged.json";

/// What is inside, with its properties.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Journal {
    /// This is.
    plugged: Devices,
    /// This is, or is not: it is just being put in or taken out. In the order of mounting.
    doubtful: Vec<(String, Config)>,
}

impl From<Devices> for Journal {
    fn from(plugged: Devices) -> Self {
        Self { plugged, doubtful: Vec::new() }
    }
}

/// In the order of mounting.
type Plugs = Vec<(DeviceName, Plug)>;

/// By the path inside: a mount point comes before those below it.
fn in_order<'a>(plugs: impl Iterator<Item = (&'a DeviceName, &'a Plug)>) -> Plugs {
    let mut list: Plugs = plugs.map(|(name, plug)| (name.clone(), plug.clone())).collect();
    list.sort_by_key(|(name, plug)| (plug.path().len(), name.clone()));
    list
}

pub(super) fn failed(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |error| Error::Io { doing, path, error }
}

pub(super) fn make(dir: &Path) -> Result<(), Error> {
    // Traversed by the container's root, whose mounts begin here.
    DirBuilder::new().recursive(true).mode(0o711).create(dir).map_err(failed("create", dir))
}

fn write_plugged(dir: &Path, journal: &Journal) -> Result<(), Error> {
    let (path, new) = (dir.join(PLUGGED), dir.join(NEW));
    let text = serde_json::to_vec(journal).unwrap_or_default();
    fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).map_err(failed("write", path))
}

fn read_plugged(dir: &Path) -> Journal {
    // One that a killed daemon was just writing. Who works on it is alone.
    let _ = fs::remove_file(dir.join(NEW));
    // Nothing was plugged in where there is none.
    fs::read(dir.join(PLUGGED)).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// Prepares the disks and nodes of a container that is about to start, whose root is mounted at `root`. Returns lines of
/// lxc.conf. Whatever comes of it, [`forget`] clears it.
///
/// # Errors
/// [`Error::Plug`] with the device that cannot be had.
pub(super) async fn prepare(
    context: &Arc<Context>,
    key: &InstanceKey,
    expanded: &Expanded,
    map: Option<IdMap>,
    root: &Path,
) -> Result<Vec<(String, String)>, Error> {
    let resolved = hardware::resolve(&expanded.devices, &expanded.config).await?;
    resolved.complete(|_| true)?;
    let (devices, set) = (&resolved.devices, Set::parse(&resolved.devices)?);
    if set.plugs.is_empty() {
        return Ok(Vec::new());
    }
    let (dir, root, plugs) = (context.dir.devices(&key.container()), root.to_owned(), in_order(set.plugs.iter()));
    let (rules, devices, all) = (context.host.device_rules, devices.clone(), set.plugs);
    let places = Places::of(context, &key.project, all.values()).await;
    blocking(move || {
        // What an earlier life left.
        clear(&dir, &[])?;
        make(&dir)?;
        let (mut lines, mut plugged) = (Rates::of(&all, &places)?.lines()?, Devices::new());
        for (device, plug) in &plugs {
            let Some(ready) = plug::ready(&dir, device, plug, &places, map.as_ref())? else {
                tracing::info!(%device, "left out, as its source is missing");
                continue;
            };
            let target = plug::inside(&root, plug.path())
                .map_err(|error| refuse(device, format!("{:?} inside: {error}", plug.path())))?;
            let source = match &ready.node {
                Some(node) => node.clone(),
                None => stage(&dir.join(plug::file_name(device, plug)), &ready)?,
            };
            let kind = if ready.directory { "dir" } else { "file" };
            let mut options = format!("rbind,create={kind}");
            if let Plug::Disk(Disk { propagation: Some(propagation), propagation_recursive, .. }) = plug {
                options = format!("{options},{}", word(*propagation, *propagation_recursive));
            }
            let entry = format!("{} {} none {options} 0 0", plug::fstab(&source), plug::fstab(&target));
            lines.push(("lxc.mount.entry".to_owned(), entry));
            if let Some(rule) = &ready.rule {
                let family = match rules {
                    DeviceRules::Cgroup1 => "lxc.cgroup.devices.allow",
                    DeviceRules::Cgroup2 => "lxc.cgroup2.devices.allow",
                };
                lines.push((family.to_owned(), rule.clone()));
            }
            if let Some(properties) = devices.get(device.as_str()) {
                plugged.insert(device.to_string(), properties.clone());
            }
        }
        write_plugged(&dir, &plugged.into())?;
        Ok(lines)
    })
    .await
}

fn word(propagation: Propagation, recursive: bool) -> String {
    let word = match propagation {
        Propagation::Private => "private",
        Propagation::Shared => "shared",
        Propagation::Slave => "slave",
        Propagation::Unbindable => "unbindable",
    };
    if recursive { format!("r{word}") } else { word.to_owned() }
}

/// Attaches what is ready at `place`, for liblxc.
fn stage(place: &Path, ready: &Ready) -> Result<PathBuf, Error> {
    let made = if ready.directory { fs::create_dir(place) } else { fs::write(place, "") };
    made.and_then(|()| mount::attach(&ready.tree, place)).map_err(failed("mount", place))?;
    Ok(place.to_owned())
}

/// The container runs and has its own mounts: those for liblxc go.
pub(super) async fn started(context: &Context, container: &str) {
    let dir = context.dir.devices(container);
    let unstaged = blocking(move || if dir.exists() { unstage(&dir) } else { Ok(()) });
    if let Err(error) = unstaged.await {
        tracing::error!(%container, %error, "taking the mounts of its start away");
    }
}

/// Takes away the mounts and their mount points; nodes stay.
fn unstage(dir: &Path) -> Result<(), Error> {
    for point in mount::below(dir).map_err(failed("list the mounts of", dir))? {
        mount::unmount(&point).map_err(failed("unmount", point))?;
    }
    for entry in fs::read_dir(dir).map_err(failed("read", dir))? {
        let entry = entry.map_err(failed("read", dir))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("disk.") && name != ".source" {
            continue;
        }
        // Never with its content: should it be mounted after all, that is the administrator's.
        let removed = if entry.path().is_dir() { fs::remove_dir(entry.path()) } else { fs::remove_file(entry.path()) };
        removed.map_err(failed("remove", entry.path()))?;
    }
    Ok(())
}

/// Removes the directory of a container's devices with all that is mounted there, but for files called as in `kept`.
fn clear(dir: &Path, kept: &[&str]) -> Result<(), Error> {
    if !dir.exists() {
        return Ok(());
    }
    unstage(dir)?;
    let mut keep = false;
    for entry in fs::read_dir(dir).map_err(failed("read", dir))? {
        let entry = entry.map_err(failed("read", dir))?;
        if kept.iter().any(|name| entry.file_name() == *name) {
            keep = true;
            continue;
        }
        fs::remove_file(entry.path()).map_err(failed("remove", entry.path()))?;
    }
    if keep { Ok(()) } else { fs::remove_dir(dir).map_err(failed("remove", dir)) }
}

/// The container is down, or has never come up: nothing of its devices stays.
pub(super) async fn forget(context: &Context, container: &str) -> Result<(), Error> {
    let dir = context.dir.devices(container);
    if !dir.exists() {
        return Ok(());
    }
    blocking(move || clear(&dir, &[])).await
}

/// A step that was done.
enum Step {
    In(DeviceName, Plug),
    Out(DeviceName, Plug),
    /// From the first to others.
    Rates(Rates),
}

/// Devices that were changed on a running container.
pub(super) struct Changed {
    running: Running,
    /// What was plugged in before.
    before: Devices,
    done: Vec<Step>,
}

impl Changed {
    /// Takes them back, the newest first; what cannot be is logged.
    pub(super) async fn undo(mut self) {
        while let Some(step) = self.done.pop() {
            let undone = match &step {
                Step::In(device, plug) => self.running.take_out(device, plug).await,
                Step::Out(device, plug) => self.running.put_in(device, plug).await.map(drop),
                Step::Rates(old) => self.running.limit(old.clone()).await,
            };
            match undone {
                // With its processes all went that was to be taken back.
                Ok(()) | Err(Error::Ended) => {}
                Err(error) => {
                    tracing::error!(container = %self.running.container.name, %error, "taking a change of devices back");
                }
            }
        }
        if let Err(error) = self.running.write(self.before.into()).await {
            tracing::error!(container = %self.running.container.name, %error, "taking a change of devices back");
        }
    }
}

/// Brings the disks and nodes of a running container from those of `before` to those of `after`.
///
/// # Errors
/// [`Error::Plug`] with the device that cannot be had; then all are as they were.
pub(super) async fn change(
    context: &Arc<Context>,
    key: &InstanceKey,
    pid: i32,
    before: &Expanded,
    after: &Expanded,
) -> Result<Option<Changed>, Error> {
    if before.devices == after.devices {
        return Ok(None);
    }
    let running = Running::new(context, key, pid);
    let plugged = running.read().await?.plugged;
    // What is inside counts, not what should be: a device may have been left out. One that has not changed stays so.
    let differs = |name: &str| before.devices.get(name) != after.devices.get(name);
    let wanted = after
        .devices
        .iter()
        .filter(|(name, config)| plugged.contains_key(*name) || differs(name) || is_matched(config));
    let wanted: Devices = wanted.map(|(name, config)| (name.clone(), config.clone())).collect();
    let wanted = hardware::resolve(&wanted, &after.config).await?;
    wanted.complete(differs)?;
    running.change(plugged, &wanted.devices).await
}

/// A container found running at the daemon's start gets what the database says: a change may have been cut off.
pub(super) async fn adopted(context: &Arc<Context>, key: &InstanceKey, pid: i32, expanded: &Expanded) {
    started(context, &key.container()).await;
    let running = Running::new(context, key, pid);
    let changed = async {
        let Journal { plugged, doubtful } = running.read().await?;
        let doubted: Devices = doubtful.iter().cloned().collect();
        for (name, config) in doubtful.into_iter().rev() {
            for (device, plug) in Set::parse(&[(name, config)].into())?.plugs {
                running.take_out(&device, &plug).await?;
            }
        }
        if !doubted.is_empty() {
            running.write(plugged.clone().into()).await?;
        }
        let again = Running::new(context, key, pid);
        running.change(plugged, &hardware::resolve(&expanded.devices, &expanded.config).await?.devices).await?;
        if doubted.is_empty() {
            return Ok(());
        }
        let plugs = Set::parse(&again.read().await?.plugged)?.plugs;
        let places = Places::of(context, &key.project, plugs.values()).await;
        again.limit(Rates::of(&plugs, &places)?).await
    };
    if let Err(error) = changed.await {
        super::adopt::differs(key, pid, &error, "its devices are not those of its definition");
    }
}

/// A container that runs.
pub(super) struct Running {
    context: Arc<Context>,
    container: ContainerRef,
    pub(super) dir: PathBuf,
    pid: i32,
    project: ProjectName,
    /// Of what is put in: they stay what they are until it is written down that it is inside.
    places: Places,
}

impl Running {
    pub(super) fn new(context: &Arc<Context>, key: &InstanceKey, pid: i32) -> Self {
        let container = context.container(key);
        let (dir, project) = (context.dir.devices(&container.name), key.project.clone());
        Self { dir, context: Arc::clone(context), container, pid, project, places: Places::default() }
    }

    async fn read(&self) -> Result<Journal, Error> {
        let dir = self.dir.clone();
        blocking(move || Ok(read_plugged(&dir))).await
    }

    async fn write(&self, journal: Journal) -> Result<(), Error> {
        let dir = self.dir.clone();
        blocking(move || {
            if journal == Journal::default() {
                return clear(&dir, &[proxies::RECORD]);
            }
            make(&dir)?;
            write_plugged(&dir, &journal)
        })
        .await
    }

    /// What is inside now, by name.
    pub(super) async fn plugged(&self) -> Result<Devices, Error> {
        Ok(self.read().await?.plugged)
    }

    pub(super) async fn change(mut self, plugged: Devices, wanted: &Devices) -> Result<Option<Changed>, Error> {
        let (old, new) = (Set::parse(&plugged)?.plugs, Set::parse(wanted)?.plugs);
        let differs = |from: &BTreeMap<DeviceName, Plug>, to: &BTreeMap<DeviceName, Plug>| {
            in_order(from.iter().filter(|(name, plug)| to.get(*name).is_none_or(|other| !other.same_mount(plug))))
        };
        let (mut gone, mut come) = (differs(&old, &new), differs(&new, &old));
        // What lies below a mount that goes or comes would go with it or be hidden: it is taken out and put in again.
        let tops: Vec<String> = gone.iter().chain(&come).map(|(_, plug)| plug.path().to_owned()).collect();
        let moves = |(name, plug): &(&DeviceName, &Plug)| {
            let below = |top: &String| plug.path().strip_prefix(top).is_some_and(|rest| rest.starts_with('/'));
            let stays = !gone.iter().chain(&come).any(|(other, _)| other == *name);
            stays && new.contains_key(*name) && tops.iter().any(below)
        };
        let again: Vec<(&DeviceName, &Plug)> = old.iter().filter(moves).collect();
        let names: Vec<DeviceName> = again.iter().map(|(name, _)| (*name).clone()).collect();
        gone = in_order(gone.iter().map(|(name, plug)| (name, plug)).chain(again));
        come =
            in_order(come.iter().map(|(name, plug)| (name, plug)).chain(new.iter().filter(|(n, _)| names.contains(n))));
        if old == new {
            return Ok(None);
        }
        // Those that go, too: a failure puts them in again.
        self.places = Places::of(&self.context, &self.project, old.values().chain(new.values())).await;
        let rates = {
            let (old, new, places) = (old.clone(), new.clone(), self.places.clone());
            // What was limited on a source that is gone is limited no more.
            let rates =
                move || Ok::<_, Error>((Rates::of(&old, &places).unwrap_or_default(), Rates::of(&new, &places)?));
            blocking(rates).await?
        };
        let mut changed = Changed { running: self, before: plugged.clone(), done: Vec::new() };
        match changed.steps(plugged, wanted, (gone, come), rates).await {
            Ok(()) => Ok(Some(changed)),
            Err(error) => {
                changed.undo().await;
                Err(error)
            }
        }
    }

    async fn limit(&self, rates: Rates) -> Result<(), Error> {
        let pid = self.pid;
        blocking(move || rates.set(pid)).await
    }

    /// Puts something in; false when its source is missing and need not be there.
    async fn put_in(&self, device: &DeviceName, plug: &Plug) -> Result<bool, Error> {
        let (dir, named, what) = (self.dir.clone(), device.clone(), plug.clone());
        let inside = Inside::open(self.pid, &self.container.name)?;
        // That which it runs with, whatever its configuration says now.
        let read = |kind: &str| std::fs::read_to_string(format!("/proc/{}/{kind}_map", self.pid)).unwrap_or_default();
        let map = inside.users.as_ref().and_then(|_| IdMap::of_process(&read("uid"), &read("gid")));
        if inside.users.is_some() && map.is_none() {
            return Err(refuse(device, "the instance has just ended"));
        }
        // What its project lets it have is asked anew each time.
        let places = self.places.clone().within(Within::of(&self.context, &self.project));
        let ready = blocking(move || {
            make(&dir)?;
            plug::ready(&dir, &named, &what, &places, map.as_ref())
        });
        let Some(ready) = ready.await? else { return Ok(false) };
        if let Some(rule) = &ready.rule {
            self.rule(device, rule, true).await?;
        }
        let request = MountRequest::Attach {
            path: plug.path().to_owned(),
            directory: ready.directory,
            unbindable: matches!(plug, Plug::Disk(Disk { propagation: Some(Propagation::Unbindable), .. })),
        };
        let mut fds: Vec<BorrowedFd<'_>> = vec![ready.tree.as_fd()];
        fds.extend(inside.fds());
        self.context
            .launcher
            .mount(&self.container, request, &fds)
            .await
            .map_err(|error| refuse(device, error.to_string()))?;
        Ok(true)
    }

    async fn take_out(&self, device: &DeviceName, plug: &Plug) -> Result<(), Error> {
        let inside = Inside::open(self.pid, &self.container.name)?;
        let node = match plug {
            Plug::Disk(_) => None,
            Plug::Node(_) => Some(self.dir.join(plug::file_name(device, plug))),
        };
        let rule = match &node {
            Some(path) => {
                let path = path.clone();
                blocking(move || Ok::<_, Error>(own_rule(&path))).await?
            }
            None => None,
        };
        if let Some(rule) = &rule {
            self.rule(device, rule, false).await?;
        }
        let request = MountRequest::Detach { path: plug.path().to_owned(), remove: node.is_some() };
        let fds: Vec<BorrowedFd<'_>> = inside.fds().collect();
        if let Err(error) = self.context.launcher.mount(&self.container, request, &fds).await {
            if let Some(rule) = &rule
                && let Err(error) = self.rule(device, rule, true).await
            {
                tracing::error!(%device, %error, "giving a device back");
            }
            return Err(refuse(device, error.to_string()));
        }
        match node.map(|path| (fs::remove_file(&path), path)) {
            Some((Err(error), path)) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::Io { doing: "remove", path, error })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Lets the container use a device, or no more. Nodes can still be made, as from the start.
    async fn rule(&self, device: &DeviceName, rule: &str, allow: bool) -> Result<(), Error> {
        match self.context.host.device_rules {
            DeviceRules::Cgroup1 => {
                let no_group = || refuse(device, "its control group of devices is not found");
                let hierarchies = Hierarchies::of_host().ok_or_else(no_group)?;
                let groups = Groups::of_instance(self.pid).map_err(|_| no_group())?;
                let (_, dir) = hierarchies.dir(&groups, "devices").ok_or_else(no_group)?;
                let file = dir.join(if allow { "devices.allow" } else { "devices.deny" });
                let rule = if allow { rule.to_owned() } else { rule.replace("rwm", "rw") };
                fs::write(&file, rule).map_err(failed("write", file))
            }
            // liblxc takes back a rule only by the very same words: `rw` after `rwm` is answered with success and denies
            // nothing (tried with 6.0.4).
            DeviceRules::Cgroup2 => {
                let done = self.context.launcher.device_rule(&self.container, rule, allow).await;
                done.map_err(|error| refuse(device, format!("restart the instance to have it: {error}")))
            }
        }
    }
}

impl Changed {
    async fn steps(
        &mut self,
        mut plugged: Devices,
        wanted: &Devices,
        (gone, come): (Plugs, Plugs),
        (slow, fast): (Rates, Rates),
    ) -> Result<(), Error> {
        let properties = |from: &Devices, device: &DeviceName| from.get(device.as_str()).cloned().unwrap_or_default();
        let was = plugged.clone();
        for (device, _) in &gone {
            plugged.remove(device.as_str());
        }
        let doubtful = gone.iter().map(|(device, _)| (device.to_string(), properties(&was, device)));
        let doubtful = doubtful.chain(come.iter().map(|(device, _)| (device.to_string(), properties(wanted, device))));
        self.running.write(Journal { plugged: plugged.clone(), doubtful: doubtful.collect() }).await?;
        for (device, plug) in gone.into_iter().rev() {
            self.done.push(Step::Out(device.clone(), plug.clone()));
            if let Err(error) = self.running.take_out(&device, &plug).await {
                self.done.pop();
                return Err(error);
            }
        }
        for (device, plug) in come {
            // Before it is done: half of it may be there when it fails.
            self.done.push(Step::In(device.clone(), plug.clone()));
            if self.running.put_in(&device, &plug).await? {
                plugged.insert(device.to_string(), properties(wanted, &device));
            } else {
                self.done.pop();
            }
        }
        // Those that stay where they are, in all that is limited.
        for (name, properties) in wanted {
            if let Some(place) = plugged.get_mut(name) {
                place.clone_from(properties);
            }
        }
        self.running.write(plugged.into()).await?;
        if slow != fast {
            self.done.push(Step::Rates(slow));
            self.running.limit(fast).await?;
        }
        Ok(())
    }
}

/// The rule that goes with the node at `path`: none when others need it, too. Its numbers are read from the node, for the
/// source may be gone.
fn own_rule(path: &Path) -> Option<String> {
    let device = |path: &Path| {
        let stat = rustix::fs::lstat(path).ok()?;
        let letter = match FileType::from_raw_mode(stat.st_mode) {
            FileType::BlockDevice => 'b',
            FileType::CharacterDevice => 'c',
            _ => return None,
        };
        Some((letter, rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)))
    };
    let (letter, major, minor) = device(path)?;
    let others = fs::read_dir(path.parent()?).ok()?.flatten().map(|entry| entry.path());
    let shared = others.filter(|other| other != path).any(|other| device(&other) == Some((letter, major, minor)));
    let needed = shared || security::is_everybodys(letter, major, minor);
    (!needed).then(|| format!("{letter} {major}:{minor} rwm"))
}

/// Refuses disks of `after` whose source is missing and that were not there before: for an instance that does not run.
///
/// # Errors
/// [`Error::Plug`].
pub(super) async fn check_sources(
    context: &Context,
    project: &ProjectName,
    before: &Devices,
    after: &Devices,
) -> Result<(), Error> {
    let new = after.iter().filter(|(name, config)| before.get(*name) != Some(config));
    let new: Devices = new.map(|(name, config)| (name.clone(), config.clone())).collect();
    let plugs = Set::parse(&new)?.plugs;
    if plugs.is_empty() {
        return Ok(());
    }
    let places = Places::of(context, project, plugs.values()).await;
    blocking(move || {
        plugs.iter().try_for_each(|(device, plug)| match plug {
            Plug::Disk(disk) => plug::open_disk(device, disk, &places).map(drop),
            // As with LXD, it may come until the start.
            Plug::Node(_) => Ok(()),
        })
    })
    .await
}
