//! Custom volumes of a pool: files without a root beside other things, in use by any number of containers at a time.
//!
//! Each is a directory (a subvolume where the driver has them) whose files have the ids of the containers, as everywhere;
//! who attaches one maps them by his own mount. Nothing of the daemon's lies in it.

use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

use super::Pool;
use crate::names::SnapshotName;
use crate::storage::copy;
use crate::storage::driver::Files;
use crate::storage::error::{Error, io};
use crate::storage::files::{custom_scratch, custom_trash, make_dir};
use crate::storage::volume::{VolumeId, VolumeKind};

impl Pool {
    /// Makes an empty custom volume.
    ///
    /// # Errors
    /// Then nothing of it stays.
    pub fn create_custom(&self, volume: &VolumeId) -> Result<(), Error> {
        self.put_custom(volume, |new| self.driver.make_files(new, Files::Empty))
    }

    /// Makes a snapshot of a custom volume. `live`: somebody may be writing to it.
    ///
    /// # Errors
    /// Then nothing of it stays.
    pub fn snapshot_custom(&self, volume: &VolumeId, name: &SnapshotName, live: bool) -> Result<(), Error> {
        self.copy_custom(&volume.at(name), self, volume, live)
    }

    /// Makes the custom volume or snapshot `to` with what `of`, in `from`, has now. `live`: somebody may be writing to it.
    ///
    /// # Errors
    /// Then nothing of it stays.
    pub fn copy_custom(&self, to: &VolumeId, from: &Self, of: &VolumeId, live: bool) -> Result<(), Error> {
        let of = from.there(of)?;
        self.put_custom(to, |new| self.fill(new, from, &of, live))
    }

    /// Puts what `of`, in `from`, has now in the place of a custom volume that nobody uses: one or the other is there at
    /// any time. `alone` is asked for its guard just before. Returns what is to be purged.
    ///
    /// # Errors
    /// Then the volume is what it was.
    pub fn replace_custom<T, E: From<Error>>(
        &self,
        volume: &VolumeId,
        from: &Self,
        of: &VolumeId,
        live: bool,
        alone: impl FnOnce() -> Result<T, E>,
    ) -> Result<PathBuf, E> {
        let (path, of) = (self.there(volume)?, from.there(of)?);
        let scratch = custom_scratch(&self.root);
        let swapped = (|| {
            self.fill(&scratch, from, &of, live)?;
            let _alone = alone()?;
            rustix::fs::renameat_with(CWD, &scratch, CWD, &path, RenameFlags::EXCHANGE)
                .map_err(|errno| E::from(io("replace", &path)(errno.into())))
        })();
        if swapped.is_err() {
            // The cause is what is told; what stays here is cleared at the next opening.
            let _ = self.discard(&scratch);
        }
        swapped?;
        // From here on it is the old one that lies there.
        let old = custom_trash(&self.root);
        std::fs::rename(&scratch, &old).map_err(io("remove", &scratch))?;
        Ok(old)
    }

    /// Removes a custom volume or a snapshot of one; none is fine. It is out of the way at once; returns where its files
    /// wait for [`Pool::purge`].
    ///
    /// # Errors
    /// When it cannot be moved away.
    pub fn delete_custom(&self, volume: &VolumeId) -> Result<Option<PathBuf>, Error> {
        let path = self.path(volume);
        let trash = custom_trash(&self.root);
        if volume.is_snapshot() && path.exists() {
            self.driver.unseal(&path)?;
        }
        let moved = match std::fs::rename(&path, &trash) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            result => Some(result.map(|()| trash).map_err(io("remove", &path))?),
        };
        self.forget_snapshots(volume);
        Ok(moved)
    }

    /// The directories that hold what is a volume's own.
    pub(in crate::storage) fn files_of(&self, volume: &VolumeId) -> Vec<PathBuf> {
        let path = self.path(volume);
        match volume.kind() {
            VolumeKind::Custom => vec![path],
            VolumeKind::Container => self.driver.own(&self.root, &path),
        }
    }

    fn there(&self, volume: &VolumeId) -> Result<PathBuf, Error> {
        let path = self.path(volume);
        if path.is_dir() { Ok(path) } else { Err(Error::NoSuchVolume { volume: volume.to_string() }) }
    }

    fn fill(&self, new: &Path, from: &Self, of: &Path, live: bool) -> Result<(), Error> {
        if std::ptr::eq(self, from) {
            return self.driver.make_files(new, Files::Copy { of, live });
        }
        self.driver.make_files(new, Files::Empty)?;
        if live { copy::unheld(of, new) } else { copy::tree(of, new) }
    }

    fn put_custom(&self, volume: &VolumeId, make: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
        let path = self.path(volume);
        if path.exists() {
            return Err(Error::VolumeExists { volume: volume.to_string() });
        }
        let new = custom_scratch(&self.root);
        let made = (|| {
            make(&new)?;
            if volume.is_snapshot() {
                make_dir(&self.snapshots_of(volume), 0o700)?;
            }
            std::fs::rename(&new, &path).map_err(io("create", &path))?;
            if volume.is_snapshot() { self.driver.seal(&path) } else { Ok(()) }
        })();
        if made.is_err() {
            // The cause is what is told; what stays here is cleared at the next opening.
            let _ = self.discard(&new);
            if volume.is_snapshot() {
                if let Ok(Some(trash)) = self.delete_custom(volume) {
                    let _ = self.discard(&trash);
                }
                let _ = std::fs::remove_dir(self.snapshots_of(volume));
            }
        }
        made
    }
}
