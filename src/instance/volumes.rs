//! Custom volumes as disks of instances: which there are, where they lie, and how they are opened.
//!
//! ```text
//!  a disk with pool= and source=  ── Places::of (model, pools) ──> Place ── open ──> a mount of its own, ids mapped
//! ```
//! Files of a volume have on the disk the ids that containers see, so any number of containers with any id map may have
//! it at a time: each maps them by its own mount, but for `security.unmapped`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use tokio::sync::OwnedRwLockReadGuard;

use super::error::Error;
use super::plug::refuse;
use super::state::Status;
use super::within::Within;
use super::{Context, manager::Manager};
use crate::api::wire::Devices;
use crate::config;
use crate::db::{Model, Phase, Volume};
use crate::device::{self, Disk, Plug, Set, Source};
use crate::names::{DeviceName, InstanceKey, PoolName, ProjectName, VolumeKey, VolumeName};
use crate::profile;
use crate::storage::VolumeId;

/// Where a disk's volume lies, if it can be had.
#[derive(Debug, Clone)]
pub(super) struct Place {
    path: PathBuf,
    /// Its files show the ids that they have on the disk.
    pub(super) unmapped: bool,
}

/// The volumes of an instance's disks. As long as this lives, nothing else takes their place.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    places: BTreeMap<(PoolName, VolumeName), Result<Place, String>>,
    within: Within,
    _here: Arc<Vec<OwnedRwLockReadGuard<()>>>,
}

fn key(model: &Model, project: &ProjectName, pool: &PoolName, volume: &VolumeName) -> VolumeKey {
    VolumeKey { pool: pool.clone(), project: model.project_of_volumes(project), name: volume.clone() }
}

fn find<'a>(model: &'a Model, key: &VolumeKey) -> Result<&'a Arc<Volume>, String> {
    if let Some(what) = model.server_use(key) {
        return Err(format!(
            "the server itself uses the volume {:?} ({}): take another one",
            key.name.as_str(),
            what.key()
        ));
    }
    if !model.pools.get(&key.pool).is_some_and(|record| record.phase == Phase::Ready) {
        return Err(format!("Storage pool {:?} not found", key.pool.as_str()));
    }
    let found = model.volumes.get(key).filter(|record| record.phase == Phase::Ready);
    found.ok_or_else(|| {
        let (name, pool) = (key.name.as_str(), key.pool.as_str());
        format!("Storage volume not found: pool {pool:?} has no custom volume {name:?}")
    })
}

impl Places {
    /// Of `plugs`, of an instance of `project`.
    pub(super) async fn of<'a>(
        context: &Context,
        project: &ProjectName,
        plugs: impl IntoIterator<Item = &'a Plug>,
    ) -> Self {
        let model = context.db.model();
        let mut keys = BTreeSet::new();
        for plug in plugs {
            if let Plug::Disk(Disk { source: Source::Volume { pool, volume, .. }, .. }) = plug {
                keys.insert(key(&model, project, pool, volume));
            }
        }
        let mut here = Vec::new();
        // In the order of their keys: so nobody waits for another one for ever.
        for key in &keys {
            here.push(context.pools.locks().opening(key).await);
        }
        // Only now: one that was waited for may be gone.
        let model = context.db.model();
        let place = |key: &VolumeKey| {
            let record = find(&model, key)?;
            let pool = context.pools.get(&key.pool).map_err(|error| error.to_string())?;
            Ok(Place { path: pool.path(&VolumeId::custom(key)), unmapped: config::is_unmapped(&record.config) })
        };
        let places = keys.into_iter().map(|key| ((key.pool.clone(), key.name.clone()), place(&key)));
        Self { places: places.collect(), within: Within::of(context, project), _here: Arc::new(here) }
    }

    /// The same where sources of the host may lie elsewhere.
    pub(super) fn within(mut self, within: Within) -> Self {
        self.within = within;
        self
    }

    /// Whether what was opened of the host lies where the project lets it.
    ///
    /// # Errors
    /// [`Error::Plug`].
    pub(super) fn check_host(&self, device: &DeviceName, opened: &OwnedFd) -> Result<(), Error> {
        self.within.check(device, opened)
    }

    /// That of a volume, for a device.
    ///
    /// # Errors
    /// [`Error::Plug`] when it cannot be had.
    pub(super) fn get(&self, device: &DeviceName, pool: &PoolName, volume: &VolumeName) -> Result<&Place, Error> {
        match self.places.get(&(pool.clone(), volume.clone())) {
            Some(place) => place.as_ref().map_err(|reason| refuse(device, reason.clone())),
            None => Err(refuse(device, "its volume has not been looked for")),
        }
    }

    /// Where what a disk shows lies on the host, if that is known.
    pub(super) fn path(&self, source: &Source) -> Option<PathBuf> {
        match source {
            Source::Host(path) => Some(PathBuf::from(path)),
            Source::Volume { pool, volume, .. } => {
                self.places.get(&(pool.clone(), volume.clone()))?.as_ref().ok().map(|place| place.path.clone())
            }
        }
    }
}

impl Place {
    /// Opens what lies at `below` in the volume as a mere place; none when it is not there and need not be. Blocking.
    ///
    /// # Errors
    /// [`Error::Plug`].
    pub(super) fn open(&self, device: &DeviceName, below: &str, required: bool) -> Result<Option<OwnedFd>, Error> {
        let failed = |errno: Errno| refuse(device, format!("its volume at {}: {errno}", self.path.display()));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let volume = rustix::fs::open(&self.path, flags, Mode::empty()).map_err(failed)?;
        if below.is_empty() {
            return Ok(Some(volume));
        }
        // Links in it are those of containers.
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        match rustix::fs::openat2(&volume, below, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT | Errno::NOTDIR) if !required => Ok(None),
            Err(Errno::NOENT | Errno::NOTDIR) => {
                Err(refuse(device, format!("its volume has no {below:?}: create it, or set required=false")))
            }
            Err(errno) => Err(failed(errno)),
        }
    }
}

/// Refuses disks of custom volumes that are not there.
///
/// # Errors
/// [`Error::Plug`].
pub(super) fn check(model: &Model, project: &ProjectName, devices: &Set) -> Result<(), Error> {
    for (device, plug) in &devices.plugs {
        if let Plug::Disk(Disk { source: Source::Volume { pool, volume, .. }, .. }) = plug {
            find(model, &key(model, project, pool, volume)).map_err(|reason| refuse(device, reason))?;
        }
    }
    Ok(())
}

impl Context {
    /// Refuses devices of a profile of `project` that have custom volumes which are not there.
    ///
    /// # Errors
    /// [`Error::Plug`], [`Error::Device`].
    pub fn check_volumes(&self, project: &ProjectName, devices: &Devices) -> Result<(), Error> {
        check(&self.db.model(), project, &Set::parse(devices)?)
    }
}

impl Manager {
    /// The instances that have the volume as a disk, by themselves or by a profile, and are not known to be down.
    pub fn running_with(&self, volume: &VolumeKey) -> Vec<InstanceKey> {
        let model = self.context().db.model();
        let uses = |key: &&InstanceKey| {
            let Some(record) = model.instances.get(*key) else { return false };
            model.project_of_volumes(&key.project) == volume.project
                && device::volumes(&profile::expand_instance(&model, record).devices)
                    .any(|(pool, name)| pool == volume.pool && name == volume.name)
        };
        let up = model.instances.keys().filter(|key| self.snapshot(key).status != Status::Stopped);
        up.filter(uses).cloned().collect()
    }
}
