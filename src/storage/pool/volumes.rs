//! The volumes of a pool: made, mounted, renamed, deleted, in an order of steps that no crash may break.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags};

use super::{DriverKind, GONE, Pool, Shifting};
use crate::image::StoredImage;
use crate::names::{Fingerprint, SnapshotName};
use crate::security::idmap::IdMap;
use crate::storage::copy::{self, Pause};
use crate::storage::driver::{Make, RootMount};
use crate::storage::error::{Error, io};
use crate::storage::files::{is_custom, make_dir, scratch, trash};
use crate::storage::quota::Counted;
use crate::storage::volume::{VolumeId, VolumeKind};
use crate::storage::{nested, shift};
use crate::sys::mount;

/// In a volume that a restore has put in the place of another one: which restore.
const RESTORED: &str = "restored";

/// Whether a pool counts is asked anew after so long.
const ASKED: Duration = Duration::from_secs(10);

impl Pool {
    /// Where a volume lies.
    pub fn path(&self, volume: &VolumeId) -> PathBuf {
        self.root.join(volume.below())
    }

    /// Where the snapshots of a volume lie.
    pub fn snapshots_of(&self, volume: &VolumeId) -> PathBuf {
        self.root.join(volume.snapshots())
    }

    /// A new name for what is to be renamed into this pool when it is whole; after a crash the next opening removes it.
    pub fn scratch(&self) -> PathBuf {
        scratch(&self.root)
    }

    /// Makes `volume` by `make_it`, where it is still nobody's.
    pub(super) fn make(
        &self,
        volume: &VolumeId,
        lower: Option<&Fingerprint>,
        make_it: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let path = self.path(volume);
        if path.exists() {
            return Err(Error::VolumeExists { volume: volume.to_string() });
        }
        let new = self.scratch();
        let make = || {
            make_it(&new)?;
            if volume.is_snapshot() {
                make_dir(&self.snapshots_of(volume), 0o700)?;
            }
            std::fs::rename(&new, &path).map_err(io("create", &path))?;
            match volume.is_snapshot() {
                true => self.driver.seal(&path),
                false => Ok(()),
            }
        };
        // The image stays until the volume is where it is looked for.
        let made = match lower {
            Some(fingerprint) => self.with_image(fingerprint, make),
            None => make(),
        };
        if made.is_err() {
            // The cause is what is told; what stays here is cleared at the next opening.
            let _ = self.discard(&new);
            if volume.is_snapshot() {
                if let Ok(Some(trash)) = self.delete_volume(volume) {
                    let _ = self.discard(&trash);
                }
                let _ = std::fs::remove_dir(self.snapshots_of(volume));
            }
        }
        made.map_err(|error| self.told(error))
    }

    /// Makes a root volume from an image.
    ///
    /// # Errors
    /// Then nothing of it stays.
    pub fn create_from_image(&self, volume: &VolumeId, image: &StoredImage) -> Result<(), Error> {
        let lower = self.spec.driver.shares_images().then_some(&image.fingerprint);
        self.make(volume, lower, |new| self.driver.make(&self.root, new, Make::Image(image)))
    }

    /// Makes an empty volume.
    ///
    /// # Errors
    /// Then nothing of it stays.
    pub fn create_empty(&self, volume: &VolumeId) -> Result<(), Error> {
        self.make(volume, None, |new| self.driver.make(&self.root, new, Make::Empty))
    }

    /// Makes a snapshot of a volume: what it has now. It is mounted only when it is `live`.
    ///
    /// # Errors
    /// Then nothing of it stays.
    pub fn snapshot(&self, volume: &VolumeId, name: &SnapshotName, live: Option<&dyn Pause>) -> Result<(), Error> {
        self.clone(volume, &volume.at(name), live)
    }

    /// Makes `to` with what `from`, a volume of this pool or a snapshot of one, has now.
    ///
    /// # Errors
    /// Then nothing of it stays.
    pub fn copy(&self, from: &VolumeId, to: &VolumeId, live: Option<&dyn Pause>) -> Result<(), Error> {
        self.clone(from, to, live)
    }

    fn clone(&self, from: &VolumeId, to: &VolumeId, live: Option<&dyn Pause>) -> Result<(), Error> {
        let of = self.path(from);
        if !of.is_dir() {
            return Err(Error::NoSuchVolume { volume: from.to_string() });
        }
        if live.is_none() {
            self.unmount(from)?;
        }
        let lower = self.driver.lower(&of);
        let of = of.as_path();
        if to.is_snapshot() && self.snapshot_in_place(of, to).map_err(|error| self.told(error))? {
            return Ok(());
        }
        let what = if to.is_snapshot() { Make::Snapshot { of, live } } else { Make::Copy { of, live } };
        self.make(to, lower.as_ref(), |new| self.driver.make(&self.root, new, what))
    }

    /// Has the driver make a snapshot where it is to be, if it can; then it is there, whole, or it is not.
    fn snapshot_in_place(&self, of: &Path, to: &VolumeId) -> Result<bool, Error> {
        let (path, directory) = (self.path(to), self.snapshots_of(to));
        if !self.spec.driver.seals() {
            return Ok(false);
        }
        if path.exists() {
            return Err(Error::VolumeExists { volume: to.to_string() });
        }
        make_dir(&directory, 0o700)?;
        let made = self.driver.snapshot_in_place(of, &path);
        if made.is_err() {
            // Others may be there.
            let _ = std::fs::remove_dir(directory);
        }
        made
    }

    /// Puts what a snapshot has in the place of its volume, which is not mounted: one or the other is there at any time.
    /// `token` tells this restore from others, for [`Self::was_restored`]. Returns what is to be purged.
    ///
    /// # Errors
    /// Then the volume is what it was.
    pub fn restore(&self, volume: &VolumeId, name: &SnapshotName, token: &str) -> Result<PathBuf, Error> {
        let mark = |made: &Path| {
            let file = made.join(RESTORED);
            std::fs::write(&file, token).map_err(io("write", file))
        };
        let of = self.path(&volume.at(name));
        if !of.is_dir() {
            return Err(Error::NoSuchVolume { volume: volume.at(name).to_string() });
        }
        let lower = self.driver.lower(&of);
        let path = self.path(volume);
        let old = self.replace(volume, lower.as_ref(), |scratch| {
            self.driver.make_restored(&self.root, scratch, &of, &path)?;
            mark(scratch)
        })?;
        copy::forget(&path);
        Ok(old)
    }

    /// Makes something by `make` and puts it in the place of a volume that is not mounted: one or the other is there at any
    /// time. Returns what is to be purged.
    pub(super) fn replace(
        &self,
        volume: &VolumeId,
        lower: Option<&Fingerprint>,
        make: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<PathBuf, Error> {
        let (path, scratch) = (self.path(volume), self.scratch());
        self.unmount(volume)?;
        let swap = || {
            make(&scratch)?;
            // What it may have is the instance's, not the snapshot's.
            if let Some(limit) = self.usage(volume)?.and_then(|usage| usage.limit) {
                self.driver.set_quota(&scratch, Some(limit))?;
            }
            rustix::fs::renameat_with(CWD, &scratch, CWD, &path, RenameFlags::EXCHANGE)
                .map_err(|errno| io("replace", &path)(errno.into()))
        };
        let swapped = match lower {
            Some(fingerprint) => self.with_image(fingerprint, swap),
            None => swap(),
        };
        if swapped.is_err() {
            // The cause is what is told; what stays here is given back and cleared at the next opening.
            match copy::give_back(&self.root, &scratch) {
                Ok(()) => drop(self.discard(&scratch)),
                Err(error) => tracing::error!(%volume, %error, "giving back what a restore has taken"),
            }
        }
        swapped.map_err(|error| self.told(error))?;
        // From here on it is the old one that lies there.
        let old = trash(&self.root);
        std::fs::rename(&scratch, &old).map_err(io("remove", &scratch))?;
        Ok(old)
    }

    /// Refuses when nothing here can be limited.
    ///
    /// # Errors
    /// [`Error::NoQuotas`].
    pub fn check_limits(&self) -> Result<(), Error> {
        self.driver.check_limits(&self.root)
    }

    /// The limit of a volume, bytes, where there is one. No file is looked at. Blocking.
    pub fn limit_of(&self, volume: &VolumeId) -> Option<u64> {
        if self.counts() { self.usage(volume).ok().flatten().and_then(|usage| usage.limit) } else { None }
    }

    /// Limits what a volume may have, bytes; `None`: as much as there is.
    ///
    /// # Errors
    /// When it has more already, or the file system cannot.
    pub fn set_quota(&self, volume: &VolumeId, bytes: Option<u64>) -> Result<(), Error> {
        let path = self.path(volume);
        let limited = match volume.kind() {
            VolumeKind::Custom => self.driver.set_files_quota(&path, bytes),
            VolumeKind::Container => self.driver.set_quota(&path, bytes),
        };
        limited.map_err(|error| self.told(error))?;
        // It may count only from now on.
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    /// Whether the file system may count what volumes have.
    pub fn counts(&self) -> bool {
        let mut known = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match *known {
            Some((counts, at)) if counts || at.elapsed() < ASKED => counts,
            Some(_) | None => {
                let counts = self.driver.counts(&self.root);
                *known = Some((counts, Instant::now()));
                counts
            }
        }
    }

    /// What a volume has, by what the file system counts; `None`: it does not. No file is looked at.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn usage(&self, volume: &VolumeId) -> Result<Option<Counted>, Error> {
        let path = self.path(volume);
        match volume.kind() {
            VolumeKind::Custom => self.driver.files_usage(&path),
            VolumeKind::Container => self.driver.usage(&path),
        }
    }

    /// Whether the restore of this token has taken place.
    pub fn was_restored(&self, volume: &VolumeId, token: &str) -> bool {
        std::fs::read_to_string(self.path(volume).join(RESTORED)).is_ok_and(|text| text == token)
    }

    /// Removes a volume that is not mounted; none is fine. It is out of the way at once; its files go after that, and
    /// after a crash at the next opening. Returns where they wait for [`Pool::purge`].
    ///
    /// # Errors
    /// When it cannot be moved away.
    pub fn delete_volume(&self, volume: &VolumeId) -> Result<Option<PathBuf>, Error> {
        let path = self.path(volume);
        if !path.exists() {
            self.forget_snapshots(volume);
            return Ok(None);
        }
        if self.driver.remove_in_place(&path).map_err(|error| self.told(error))? {
            if volume.is_snapshot() {
                let _ = std::fs::remove_dir(self.snapshots_of(volume));
            }
            return Ok(None);
        }
        let lower = self.driver.lower(&path);
        let trash = trash(&self.root);
        let away = self.driver.unseal(&path).and_then(|()| std::fs::rename(&path, &trash).map_err(io("remove", &path)));
        away.map_err(|error| self.told(error))?;
        self.forget_snapshots(volume);
        if let Some(fingerprint) = lower
            && self.image_dir(&fingerprint).join(GONE).exists()
        {
            self.delete_image(&fingerprint)?;
        }
        Ok(Some(trash))
    }

    /// Removes the directory of a volume's snapshots, if there are none; a crash may have left it before the first one.
    pub(super) fn forget_snapshots(&self, volume: &VolumeId) {
        // Not empty: some are there still.
        let _ = std::fs::remove_dir(self.snapshots_of(volume));
    }

    /// Gives a volume that is not mounted another name, with its snapshots; one that has it already is fine.
    ///
    /// # Errors
    /// [`Error::VolumeExists`] when the name is taken by another one.
    pub fn rename_volume(&self, from: &VolumeId, to: &VolumeId) -> Result<(), Error> {
        let mut pairs = vec![(self.path(from), self.path(to))];
        if !from.is_snapshot() {
            pairs.push((self.snapshots_of(from), self.snapshots_of(to)));
        }
        for (old, new) in &pairs {
            if old.exists() && new.exists() {
                return Err(Error::VolumeExists { volume: to.to_string() });
            }
        }
        self.unmount(from)?;
        for (old, new) in &pairs {
            if old.exists() {
                std::fs::rename(old, new).map_err(|error| self.told(io("rename", old)(error)))?;
            }
        }
        Ok(())
    }

    /// Removes the files of a deleted volume, or what else waits for it.
    ///
    /// # Errors
    /// What stays is removed at the next opening.
    pub fn purge(&self, trash: &Path) -> Result<(), Error> {
        self.purges.run(|| self.discard(trash))
    }

    pub(super) fn discard(&self, path: &Path) -> Result<(), Error> {
        match path.symlink_metadata() {
            Ok(found) if !found.is_dir() => return std::fs::remove_file(path).map_err(io("remove", path)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Ok(_) | Err(_) => {}
        }
        if is_custom(path) {
            return self.driver.discard_files(path);
        }
        unmount_below(path)?;
        self.driver.discard(&self.root, path)
    }

    /// Makes a volume's root ready for a start; ids are mapped by `map`, none for a privileged container. With `nesting`
    /// a container engine inside finds a place for its layers. Files that are not stored as this needs it are shifted
    /// first.
    ///
    /// # Errors
    /// Then nothing is mounted.
    pub fn mount(
        &self,
        volume: &VolumeId,
        map: Option<&IdMap>,
        nesting: bool,
        shifting: &Shifting,
    ) -> Result<RootMount, Error> {
        let path = self.path(volume);
        self.unmount(volume)?;
        let stored = match (self.spec.driver, map.and_then(|_| self.probes.id_mapped_missing())) {
            (_, None) => None,
            (driver, Some(_)) if driver.shifts() => map,
            (_, Some(reason)) => return Err(Error::NoIdMappedMounts { reason }),
        };
        // Whatever made it: a link would be taken for what it leads to, on the host.
        let rootfs = path.join("rootfs");
        if !rootfs.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            return Err(Error::Damaged { path: rootfs, reason: "it is no directory".to_owned() });
        }
        if self.spec.driver.shifts() {
            shift::bring(&path, stored, shifting.refuse, &shifting.progress)?;
        }
        if !volume.is_snapshot() {
            self.admit(&path, map).map_err(|error| self.told(error))?;
        }
        let mount = || self.driver.mount(&self.root, &path, map);
        let mounted = match self.driver.lower(&path) {
            Some(fingerprint) => self.with_image(&fingerprint, mount),
            None => mount(),
        };
        let mounted = mounted.and_then(|root| {
            if self.spec.driver == DriverKind::Overlay {
                nested::attach(&path, &root.path, map, nesting)?;
            }
            Ok(root)
        });
        if mounted.is_err() {
            // The cause is what is told.
            let _ = self.unmount(volume);
        }
        Ok(RootMount { stored: stored.cloned(), ..mounted.map_err(|error| self.told(error))? })
    }

    /// Nobody but the container's root may walk in; he needs no more than that (and has it only here).
    fn admit(&self, volume: &Path, map: Option<&IdMap>) -> Result<(), Error> {
        let (uid, gid) = map.map_or((0, 0), IdMap::root);
        std::os::unix::fs::chown(volume, Some(uid), Some(gid)).map_err(io("set the owner of", volume))?;
        std::fs::set_permissions(volume, PermissionsExt::from_mode(0o100)).map_err(io("set the mode of", volume))
    }

    /// Takes a volume's mounts away; none is fine.
    ///
    /// # Errors
    /// Of umount2(2).
    pub fn unmount(&self, volume: &VolumeId) -> Result<(), Error> {
        unmount_below(&self.path(volume))
    }
}

/// Takes away every mount of a volume: its root, and layers that a crash in the middle of mounting left.
fn unmount_below(directory: &Path) -> Result<(), Error> {
    for point in mount::below(directory).map_err(io("list the mounts below", directory))? {
        if mount::unmount(&point).map_err(io("unmount", &point))? {
            tracing::warn!(path = %point.display(), "a busy mount was detached; it goes when its last user does");
        }
    }
    Ok(())
}
