//! `btrfs`: a subvolume for each volume and each image. Snapshots and copies are snapshots of the file system, made in one
//! step whatever their size, so nobody is held for them; subvolumes that were made inside come along ([`subvolumes`]).
//!
//! ```text
//!  image     containers/…   images/<fingerprint>, unpacked once, read-only ──snapshot──> a volume of it
//!  snapshot  containers-snapshots/…        a snapshot; read-only once it is in its place
//!  copy, restore                           a snapshot of the volume or of the snapshot
//!  deletion                                subvolumes from the deepest on; the kernel frees the space later
//! ```

mod subvolumes;

use std::path::Path;
use std::sync::Arc;

use super::dir;
use super::driver::{Driver, FILES_MODE, Files, Make, RootMount};
use super::error::{Error, io};
use super::files::{make_dir, scratch};
use super::probe::Probes;
use super::quota::{self, Counted};
use super::shift;
use crate::image::{Limits, StoredImage};
use crate::names::Fingerprint;
use crate::security::idmap::IdMap;
use crate::sys::btrfs;

pub(super) use subvolumes::{create, remove};

pub(super) struct Btrfs {
    probes: Arc<Probes>,
}

impl Btrfs {
    pub(super) fn new(probes: Arc<Probes>) -> Self {
        Self { probes }
    }

    /// Unpacks an image, once. It is whole when it is there.
    fn ensure_image(&self, pool: &Path, image: &StoredImage) -> Result<std::path::PathBuf, Error> {
        let place = pool.join("images").join(image.fingerprint.as_str());
        if !place.exists() {
            let new = scratch(pool);
            let made = (|| {
                subvolumes::create(&new)?;
                make_dir(&new, 0o700)?;
                image.unpack(&new, &Limits::default())?;
                std::fs::rename(&new, &place).map_err(io("create", &place))
            })();
            if made.is_err() {
                // The cause is what is told; what stays is cleared at the next opening.
                let _ = subvolumes::remove(&new);
            }
            made?;
        }
        self.seal(&place)?;
        Ok(place)
    }
}

/// Sets or takes away that nothing can be written to a subvolume; anything else is left alone.
fn set_read_only(path: &Path, read_only: bool) -> Result<(), Error> {
    let failed = || io("set the flags of", path);
    let directory = match btrfs::open(path) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) => return Ok(()),
        result => result.map_err(failed())?,
    };
    if !btrfs::is_subvolume(&directory).map_err(failed())? {
        return Ok(());
    }
    btrfs::set_read_only(&directory, read_only).map_err(failed())
}

impl Driver for Btrfs {
    fn make(&self, pool: &Path, new: &Path, what: Make<'_>) -> Result<(), Error> {
        match what {
            Make::Image(image) => {
                let place = self.ensure_image(pool, image)?;
                subvolumes::copy(&place, new)?;
            }
            Make::Empty => {
                subvolumes::create(new)?;
                make_dir(&new.join("rootfs"), 0o755)?;
            }
            Make::Snapshot { of, .. } | Make::Copy { of, .. } => {
                shift::settle(of)?;
                subvolumes::copy(of, new)?;
            }
        }
        // A copy has what the container's root may do there.
        std::os::unix::fs::chown(new, Some(0), Some(0)).map_err(io("set the owner of", new))?;
        make_dir(new, 0o700)
    }

    fn mount(&self, _pool: &Path, volume: &Path, map: Option<&IdMap>) -> Result<RootMount, Error> {
        dir::mount_mapped(volume, map, self.probes.id_mapped_missing().is_none())
    }

    fn lower(&self, _volume: &Path) -> Option<Fingerprint> {
        None
    }

    fn discard(&self, _pool: &Path, trash: &Path) -> Result<(), Error> {
        subvolumes::remove(trash)
    }

    fn make_files(&self, new: &Path, what: Files<'_>) -> Result<(), Error> {
        match what {
            Files::Empty => {
                subvolumes::create(new)?;
                make_dir(new, FILES_MODE)
            }
            // In one step, whoever is writing.
            Files::Copy { of, .. } => subvolumes::copy(of, new),
        }
    }

    fn discard_files(&self, trash: &Path) -> Result<(), Error> {
        subvolumes::remove(trash)
    }

    fn check_limits(&self, _pool: &Path) -> Result<(), Error> {
        Ok(())
    }

    fn set_quota(&self, volume: &Path, bytes: Option<u64>) -> Result<(), Error> {
        quota::limit_subvolume(volume, bytes)
    }

    fn counts(&self, pool: &Path) -> bool {
        quota::counts_subvolumes(pool)
    }

    fn usage(&self, volume: &Path) -> Result<Option<Counted>, Error> {
        quota::usage_of_subvolume(volume)
    }

    // Each change of a flag waits for all that is being written; so does a snapshot, once.
    fn snapshot_in_place(&self, of: &Path, snapshot: &Path) -> Result<bool, Error> {
        shift::settle(of)?;
        subvolumes::copy_sealed(of, snapshot)
    }

    fn remove_in_place(&self, volume: &Path) -> Result<bool, Error> {
        subvolumes::remove_single(volume)
    }

    fn seal(&self, path: &Path) -> Result<(), Error> {
        set_read_only(path, true)
    }

    fn unseal(&self, path: &Path) -> Result<(), Error> {
        set_read_only(path, false)
    }
}

#[cfg(test)]
pub(super) mod tests;
