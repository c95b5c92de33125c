//! Volumes of instances that go from one pool to another, and copies that are brought up to date.
//!
//! What a driver knows of its own volumes (layers, subvolumes) stays with it: the files go, as the container sees them.

use std::path::{Path, PathBuf};

use super::{DriverKind, Pool};
use crate::names::SnapshotName;
use crate::storage::copy::{self, Pause};
use crate::storage::driver::Make;
use crate::storage::error::{Error, io};
use crate::storage::volume::VolumeId;
use crate::storage::{nested, shift};

/// What belongs to a volume beside its root.
const BESIDE: &[&str] = &["metadata.yaml", "templates"];

impl Pool {
    /// Makes `to` with what `of`, a volume of `from` or a snapshot of one, has now. It is mounted only when it is `live`.
    ///
    /// # Errors
    /// Then nothing of it stays.
    pub fn copy_from(&self, to: &VolumeId, from: &Self, of: &VolumeId, live: Option<&dyn Pause>) -> Result<(), Error> {
        if std::ptr::eq(self, from) {
            return self.copy(of, to, live);
        }
        let source = from.released(of, live)?;
        self.make(to, None, |new| self.fill_from(new, to.is_snapshot(), from, &source, live))
    }

    /// Puts what `of`, a volume of `from` or a snapshot of one, has now in the place of a volume that is not mounted: one or
    /// the other is there at any time. Returns what is to be purged.
    ///
    /// # Errors
    /// Then the volume is what it was.
    pub fn refresh_from(
        &self,
        to: &VolumeId,
        from: &Self,
        of: &VolumeId,
        live: Option<&dyn Pause>,
    ) -> Result<PathBuf, Error> {
        let source = from.released(of, live)?;
        if std::ptr::eq(self, from) {
            let (of, lower) = (source.as_path(), self.driver.lower(&source));
            return self.replace(to, lower.as_ref(), |new| self.driver.make(&self.root, new, Make::Copy { of, live }));
        }
        self.replace(to, None, |new| self.fill_from(new, false, from, &source, live))
    }

    /// The snapshots of a volume that lie here, whatever anybody knows of them.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn snapshot_names(&self, volume: &VolumeId) -> Result<Vec<SnapshotName>, Error> {
        let directory = self.snapshots_of(volume);
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.map_err(io("read", &directory))?,
        };
        let names = entries.flatten().filter_map(|entry| SnapshotName::new(entry.file_name().to_str()?).ok());
        Ok(names.collect())
    }

    /// Where a volume lies that is about to be read.
    fn released(&self, volume: &VolumeId, live: Option<&dyn Pause>) -> Result<PathBuf, Error> {
        let path = self.path(volume);
        if !path.is_dir() {
            return Err(Error::NoSuchVolume { volume: volume.to_string() });
        }
        if live.is_none() {
            self.unmount(volume)?;
        }
        Ok(path)
    }

    fn fill_from(
        &self,
        new: &Path,
        snapshot: bool,
        from: &Self,
        of: &Path,
        live: Option<&dyn Pause>,
    ) -> Result<(), Error> {
        shift::settle(of)?;
        let shifted = shift::stored(of)?.is_some();
        if shifted && self.spec.driver != DriverKind::Dir {
            return Err(Error::Shifted { pool: self.spec.name.clone() });
        }
        let beside = self.spec.driver == DriverKind::Overlay;
        if let Some(fingerprint) = from.driver.lower(of) {
            // Mounted from here on, for the volume needs it; others need not wait for the copy.
            from.with_image(&fingerprint, || from.driver.wake(&from.root, of))?;
        }
        self.driver.make_filled(&self.root, new, snapshot, &mut |root| {
            from.driver.copy_root(&from.root, of, live, root)?;
            nested::carry(of, new, root, beside)
        })?;
        copy::parts(of, new, BESIDE)?;
        if shifted { copy::parts(of, new, &[shift::STORED]) } else { Ok(()) }
    }
}
