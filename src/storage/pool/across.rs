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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::*;
    use crate::names::PoolName;
    use crate::storage::copy::tests::{aged, assert_alike, zoo};
    use crate::storage::pool::PoolSpec;
    use crate::storage::probe::Probes;

    struct Place {
        dir: tempfile::TempDir,
        probes: Arc<Probes>,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir_in("/var/tmp").unwrap();
            fs::create_dir(dir.path().join("storage-pools")).unwrap();
            let probes = Arc::new(Probes::new(dir.path()));
            Self { dir, probes }
        }

        fn pool(&self, name: &str, driver: DriverKind) -> Arc<Pool> {
            let name = PoolName::new(name).unwrap();
            let state_dir = self.dir.path().to_owned();
            let spec = PoolSpec { name, driver, config: Default::default(), state_dir };
            // Not made but opened: that tries nothing, for which the daemon's program would be needed.
            fs::create_dir_all(self.dir.path().join("storage-pools").join(spec.name.as_str()).join("containers"))
                .unwrap();
            Pool::open(spec, &self.probes, &Arc::default()).unwrap()
        }
    }

    /// From one driver to the other and back, as a volume and as a snapshot: content and all that belongs to a file.
    #[test]
    fn every_kind_of_file_comes_through() {
        let place = Place::new();
        let pools =
            [place.pool("a", DriverKind::Dir), place.pool("b", DriverKind::Overlay), place.pool("c", DriverKind::Dir)];
        let [a, b, c] = &pools;
        let volume = VolumeId::container("v");
        a.create_empty(&volume).unwrap();
        let root = a.path(&volume).join("rootfs");
        zoo(&root);
        fs::remove_dir_all(root.join("deep")).unwrap();
        // What is overlayfs's own has no place in a root: containers cannot make it.
        fs::remove_file(root.join("gone")).unwrap();
        for (name, attribute) in [("dir", "trusted.overlay.opaque"), ("link", "trusted.overlay.origin")] {
            rustix::fs::lremovexattr(root.join(name), attribute).unwrap();
        }
        fs::write(a.path(&volume).join("metadata.yaml"), "x").unwrap();
        aged(&root);
        b.copy_from(&volume, a, &volume, None).unwrap();
        c.copy_from(&volume, b, &volume, None).unwrap();
        assert_alike(&root, &c.path(&volume).join("rootfs"));
        assert_eq!(fs::read(c.path(&volume).join("metadata.yaml")).unwrap(), b"x");

        let (one, two) = (SnapshotName::new("one").unwrap(), SnapshotName::new("two").unwrap());
        b.copy_from(&volume.at(&one), a, &volume, None).unwrap();
        c.copy_from(&volume.at(&two), b, &volume.at(&one), None).unwrap();
        assert_alike(&root, &c.path(&volume.at(&two)).join("rootfs"));
        assert_eq!(b.snapshot_names(&volume).unwrap(), std::slice::from_ref(&one));

        // What was changed over a layer, deletions too.
        fs::remove_file(root.join("plain")).unwrap();
        fs::write(root.join("new"), "new").unwrap();
        aged(&root);
        let old = b.refresh_from(&volume, a, &volume, None).unwrap();
        b.purge(&old).unwrap();
        let old = c.refresh_from(&volume, b, &volume, None).unwrap();
        c.purge(&old).unwrap();
        assert_alike(&root, &c.path(&volume).join("rootfs"));
        for pool in &pools {
            for name in [".new", ".trash"] {
                assert_eq!(fs::read_dir(pool.root.join(name)).unwrap().count(), 0, "{name}");
            }
        }
    }

    /// Docker's layers lie beside the root of an overlay, and in the root of anything else.
    #[test]
    fn a_directory_for_docker_goes_where_it_belongs() {
        let place = Place::new();
        let (a, b) = (place.pool("a", DriverKind::Dir), place.pool("b", DriverKind::Overlay));
        let (volume, back) = (VolumeId::container("v"), VolumeId::container("back"));
        a.create_empty(&volume).unwrap();
        let docker = a.path(&volume).join("rootfs/var/lib/docker");
        fs::create_dir_all(docker.join("vfs")).unwrap();
        fs::write(docker.join("vfs/layer"), "x").unwrap();
        b.copy_from(&volume, &a, &volume, None).unwrap();
        assert_eq!(fs::read(b.path(&volume).join("nested/docker/vfs/layer")).unwrap(), b"x");
        a.copy_from(&back, &b, &volume, None).unwrap();
        assert_eq!(fs::read(a.path(&back).join("rootfs/var/lib/docker/vfs/layer")).unwrap(), b"x");
    }
}
