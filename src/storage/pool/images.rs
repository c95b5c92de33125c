//! The files of images that the volumes of a pool share.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use super::{GONE, Pool};
use crate::names::Fingerprint;
use crate::storage::error::{Error, io};
use crate::storage::files::trash;
use crate::storage::source;
use crate::sys::mount;

impl Pool {
    /// Does `work` while nobody else touches the shared files of that image.
    pub(super) fn with_image<T>(&self, fingerprint: &Fingerprint, work: impl FnOnce() -> T) -> T {
        let all = || self.images.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = Arc::clone(all().entry(fingerprint.clone()).or_default());
        let result = {
            let _guard = mine.lock().unwrap_or_else(PoisonError::into_inner);
            work()
        };
        drop(mine);
        // The last one puts the lock away; whoever waits for it counts.
        all().retain(|name, lock| name != fingerprint || Arc::strong_count(lock) > 1);
        result
    }

    pub(super) fn image_dir(&self, fingerprint: &Fingerprint) -> PathBuf {
        self.root.join("images").join(fingerprint.as_str())
    }

    /// The images whose files lie here, for as long as nobody deletes them. Blocking.
    pub fn images(&self) -> Vec<Fingerprint> {
        let entries = std::fs::read_dir(self.root.join("images")).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| Fingerprint::new(entry.file_name().to_str()?).ok());
        names.filter(|name| !self.image_dir(name).join(GONE).exists()).collect()
    }

    /// Forgets an image: its shared files go now, or with the last volume that needs them.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub fn delete_image(&self, fingerprint: &Fingerprint) -> Result<(), Error> {
        self.with_image(fingerprint, || self.delete_image_files(fingerprint))
    }

    fn delete_image_files(&self, fingerprint: &Fingerprint) -> Result<(), Error> {
        let image = self.image_dir(fingerprint);
        if !image.exists() {
            return Ok(());
        }
        if self.needs(fingerprint)? {
            let marker = image.join(GONE);
            return std::fs::write(&marker, "").map_err(io("write", marker));
        }
        for point in mount::below(&image).map_err(io("list the mounts below", &image))? {
            mount::unmount(&point).map_err(io("unmount", point))?;
        }
        // In one step, so that no half of it is ever taken for the whole.
        self.driver.unseal(&image)?;
        let trash = trash(&self.root);
        std::fs::rename(&image, &trash).map_err(io("remove", &image))?;
        self.driver.discard(&self.root, &trash)
    }

    /// Takes the mounts of images away that nothing uses.
    pub(in crate::storage) fn rest(&self) {
        let images = self.root.join("images");
        for point in mount::below(&images).unwrap_or_default() {
            let name = point.strip_prefix(&images).ok().and_then(|below| below.iter().next()).and_then(OsStr::to_str);
            let Some(fingerprint) = name.and_then(|name| Fingerprint::new(name).ok()) else { continue };
            // Busy ones stay, on purpose.
            let unmount = || rustix::mount::unmount(&point, rustix::mount::UnmountFlags::NOFOLLOW);
            let _ = self.with_image(&fingerprint, unmount);
        }
        source::rest(&self.spec);
    }

    /// Takes the pool's own file system away, if it has one that nobody uses; whether it did.
    pub(in crate::storage) fn let_go(&self) -> bool {
        if !source::Source::of(&self.spec).is_mounted_here() {
            return false;
        }
        self.rest();
        mount::is_mounted(&self.root).is_ok_and(|mounted| !mounted)
    }

    /// Whether a volume or a snapshot stands on an image.
    fn needs(&self, fingerprint: &Fingerprint) -> Result<bool, Error> {
        let list = |directory: &PathBuf| -> Result<Vec<PathBuf>, Error> {
            let entries = std::fs::read_dir(directory).map_err(io("read", directory))?;
            entries.map(|entry| Ok(entry.map_err(io("read", directory))?.path())).collect()
        };
        let mut volumes = list(&self.root.join("containers"))?;
        // One that is made, or looked at.
        volumes.extend(list(&self.root.join(".new"))?);
        for of in list(&self.root.join("containers-snapshots"))? {
            volumes.extend(list(&of)?);
        }
        Ok(volumes.iter().any(|volume| self.driver.lower(volume).as_ref() == Some(fingerprint)))
    }
}
