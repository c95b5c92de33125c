//! `dir`: the files in the volume; the ids are mapped by an id-mapped mount over the root itself, or shifted on the disk.
//! Snapshots and copies are copies, which share content where the file system can.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::copy::{self, Same, Twin};
use super::driver::{Driver, Make, RootMount};
use super::error::{Error, io};
use super::files::{make_dir, remove_dir};
use super::probe::Probes;
use super::quota::{self, Counted};
use super::shift;
use crate::image::Limits;
use crate::names::Fingerprint;
use crate::security::idmap::IdMap;
use crate::sys::{mount, userns};

pub(super) struct Dir {
    probes: Arc<Probes>,
}

impl Dir {
    pub(super) fn new(probes: Arc<Probes>) -> Self {
        Self { probes }
    }
}

/// What belongs to a volume beside its root.
const BESIDE: &[&str] = &["metadata.yaml", "templates", shift::STORED];

/// Mounts a volume's root over itself, with ids mapped by `map` when they `can` be; else the files have the ids of the host.
pub(super) fn mount_mapped(volume: &Path, map: Option<&IdMap>, can: bool) -> Result<RootMount, Error> {
    let rootfs = volume.join("rootfs");
    if let Some(map) = map {
        let (uids, gids) = map.mount_maps(false);
        (|| {
            let clone = mount::clone_of(&rootfs)?;
            if can {
                mount::map_ids(&clone, &*userns::with_maps(&uids, &gids)?)?;
            }
            // Not nosuid: sudo inside must work. Setuid files are the container's root's, who is nobody outside.
            mount::set_nodev(&clone)?;
            mount::attach(&clone, &rootfs)
        })()
        .map_err(io("make an id-mapped mount of", &rootfs))?;
    }
    Ok(RootMount { path: rootfs, lxc_options: None, stored: None })
}

impl Driver for Dir {
    fn make(&self, _pool: &Path, new: &Path, what: Make<'_>) -> Result<(), Error> {
        make_dir(new, 0o700)?;
        quota::begin(new);
        match what {
            Make::Image(image) => image.unpack(new, &Limits::default()).map(drop).map_err(Error::from),
            Make::Empty => make_dir(&new.join("rootfs"), 0o755),
            Make::Snapshot { of, live } => {
                shift::settle(of)?;
                // Of one that runs, files may change by mappings that their times do not tell of.
                let same = live.is_none().then(Same::begin);
                copy::root(of, live, &new.join("rootfs"))?;
                copy::parts(of, new, BESIDE)?;
                same.map_or(Ok(()), |same| same.write(new))
            }
            Make::Copy { of, live } => {
                shift::settle(of)?;
                copy::root(of, live, &new.join("rootfs"))?;
                copy::parts(of, new, BESIDE)
            }
        }
    }

    fn make_restored(&self, pool: &Path, new: &Path, of: &Path, volume: &Path) -> Result<(), Error> {
        // Where projects have quotas, files cannot go from one to another.
        let twin = if self.counts(pool) { None } else { Twin::of(pool, volume, of, new)? };
        let Some(twin) = twin else { return self.make(pool, new, Make::Copy { of, live: None }) };
        make_dir(new, 0o700)?;
        copy::parts(of, new, BESIDE)?;
        copy::tree_beside(&of.join("rootfs"), &new.join("rootfs"), &twin)?;
        twin.finish()
    }

    fn mount(&self, _pool: &Path, volume: &Path, map: Option<&IdMap>) -> Result<RootMount, Error> {
        mount_mapped(volume, map, self.probes.id_mapped_missing().is_none())
    }

    fn check_limits(&self, pool: &Path) -> Result<(), Error> {
        quota::check_directories(pool)
    }

    fn set_quota(&self, volume: &Path, bytes: Option<u64>) -> Result<(), Error> {
        quota::limit_directory(volume, bytes)
    }

    fn counts(&self, pool: &Path) -> bool {
        quota::counts_directories(pool)
    }

    fn usage(&self, volume: &Path) -> Result<Option<Counted>, Error> {
        quota::usage_of_directory(volume)
    }

    fn own(&self, _pool: &Path, volume: &Path) -> Vec<PathBuf> {
        // What may be mounted over it is the same.
        vec![volume.join("rootfs")]
    }

    fn lower(&self, _volume: &Path) -> Option<Fingerprint> {
        None
    }

    fn discard(&self, _pool: &Path, trash: &Path) -> Result<(), Error> {
        remove_dir(trash)
    }
}
