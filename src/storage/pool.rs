//! A pool: its directory, its driver, and the order of steps that no crash may break.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::{Error, io};
use super::files::{make_dir, remove_dir};
use super::probe::Probes;
use super::shift::{self, Progress};
use super::{dir, nested, overlay};
use crate::api::wire::Config;
use crate::image::StoredImage;
use crate::names::{Fingerprint, PoolName};
use crate::security::idmap::IdMap;
use crate::sys::mount;

/// The backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverKind {
    /// Plain directories.
    Dir,
    /// Shared images under an upper directory per container.
    Overlay,
}

impl DriverKind {
    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dir => "dir",
            Self::Overlay => "overlay",
        }
    }

    /// From the word of the API.
    ///
    /// # Errors
    /// [`Error::UnknownDriver`].
    pub fn parse(word: &str) -> Result<Self, Error> {
        match word {
            "dir" => Ok(Self::Dir),
            "overlay" => Ok(Self::Overlay),
            other => Err(Error::UnknownDriver { driver: other.to_owned() }),
        }
    }
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a pool is made of.
#[derive(Debug, Clone)]
pub struct PoolSpec {
    /// Its name.
    pub name: PoolName,
    /// Its backend.
    pub driver: DriverKind,
    /// Its configuration.
    pub config: Config,
    /// The daemon's state directory.
    pub state_dir: PathBuf,
}

/// A root, mounted and ready for liblxc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootMount {
    /// For `lxc.rootfs.path`.
    pub path: PathBuf,
    /// For `lxc.rootfs.options`.
    pub lxc_options: Option<String>,
    /// The map that its files are stored with; `None`: unshifted.
    pub stored: Option<IdMap>,
}

/// What a mount may do when files have to be shifted.
#[derive(Debug, Clone, Default)]
pub struct Shifting {
    /// Fail rather than shift.
    pub refuse: bool,
    /// Tells how far it is.
    pub progress: Arc<Progress>,
}

/// Room of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "bytes and inodes, used and in all")]
pub struct Resources {
    pub space_used: u64,
    pub space_total: u64,
    pub inodes_used: u64,
    pub inodes_total: u64,
}

/// What a backend does; everything else is the pool's.
pub(super) trait Driver: Send + Sync {
    /// Fills `volume`, a new directory, from an image.
    fn fill(&self, pool: &Path, volume: &Path, image: &StoredImage) -> Result<(), Error>;
    /// Fills `volume`, a new directory, with an empty root.
    fn fill_empty(&self, volume: &Path) -> Result<(), Error>;
    /// Makes `volume`'s root ready at `rootfs` below it, with ids mapped by `map`.
    fn mount(&self, pool: &Path, volume: &Path, map: Option<&IdMap>) -> Result<RootMount, Error>;
    /// The image that `volume` needs for its life, if any.
    fn lower(&self, volume: &Path) -> Option<Fingerprint>;
}

/// A storage pool that is open.
pub struct Pool {
    spec: PoolSpec,
    root: PathBuf,
    driver: Box<dyn Driver>,
    /// Of the file system it lies on.
    probes: Arc<Probes>,
    /// Each is held while the shared files of its image are made, mounted or removed; one image never waits for another.
    images: Mutex<BTreeMap<Fingerprint, Arc<Mutex<()>>>>,
}

const DIRECTORIES: &[(&str, u32)] = &[
    ("containers", 0o711),
    ("containers-snapshots", 0o711),
    ("custom", 0o711),
    ("custom-snapshots", 0o711),
    ("images", 0o711),
    (".new", 0o700),
    (".trash", 0o700),
];

impl Pool {
    /// Checks a pool's configuration.
    ///
    /// # Errors
    /// With the first key that is unknown or does not fit.
    pub fn validate(driver: DriverKind, config: &Config) -> Result<(), Error> {
        for (key, value) in config {
            match key.as_str() {
                "source" if value.is_empty() || Path::new(value).is_absolute() => {}
                "source" => {
                    return Err(Error::Value { key: "source", value: value.clone(), expected: "an absolute path" });
                }
                "volatile.initial_source" => {}
                "size" => {
                    return Err(Error::Value {
                        key: "size",
                        value: value.clone(),
                        expected: "pools of a fixed size are not supported by this version; leave it out",
                    });
                }
                key if key.starts_with("user.") && key.len() > 5 => {}
                _ => return Err(Error::UnknownKey { driver: driver.as_str(), key: key.clone() }),
            }
        }
        Ok(())
    }

    fn place(spec: &PoolSpec) -> PathBuf {
        spec.state_dir.join("storage-pools").join(spec.name.as_str())
    }

    /// Makes a pool.
    ///
    /// # Errors
    /// When the driver does not work here, or the source is not an empty directory.
    pub fn create(spec: PoolSpec, probes: &Arc<Probes>) -> Result<Self, Error> {
        Self::validate(spec.driver, &spec.config)?;
        if spec.driver == DriverKind::Overlay
            && let Some(reason) = probes.overlay_missing()
        {
            return Err(Error::DriverUnavailable { driver: "overlay", reason });
        }
        let place = Self::place(&spec);
        match spec.config.get("source").filter(|source| !source.is_empty()) {
            None => make_dir(&place, 0o711)?,
            Some(source) => {
                let source = Path::new(source);
                let mut entries = std::fs::read_dir(source).map_err(io("open the source", source))?;
                // A fresh file system has this one directory.
                if entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != "lost+found")) {
                    return Err(Error::NotEmpty { path: source.to_owned() });
                }
                std::fs::set_permissions(source, PermissionsExt::from_mode(0o711))
                    .map_err(io("set the mode of", source))?;
                std::os::unix::fs::symlink(source, &place).map_err(io("create", &place))?;
            }
        }
        let opened = Self::open(spec.clone(), probes);
        if opened.is_err() {
            // Nothing of a pool that did not come up stays; its own error is the one to tell.
            let _ = remove_place(&place);
        }
        opened
    }

    /// Opens a pool that was made before, and clears what a crash left half made or half deleted.
    ///
    /// # Errors
    /// When its place is missing or cannot be written.
    pub fn open(spec: PoolSpec, probes: &Arc<Probes>) -> Result<Self, Error> {
        let place = Self::place(&spec);
        let root = place.canonicalize().map_err(io("open", &place))?;
        for (name, mode) in DIRECTORIES {
            make_dir(&root.join(name), *mode)?;
        }
        let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev()).ok();
        // What was tried on the daemon's own file system says nothing about another one.
        let probes = match device(&root) == device(&spec.state_dir) {
            true => Arc::clone(probes),
            false => Arc::new(Probes::new(&root.join(".new"))),
        };
        let driver: Box<dyn Driver> = match spec.driver {
            DriverKind::Dir => Box::new(dir::Dir::new(Arc::clone(&probes))),
            DriverKind::Overlay => Box::new(overlay::Overlay),
        };
        let pool = Self { spec, root, driver, probes, images: Mutex::default() };
        let left = pool.left_by_a_crash()?;
        pool.clear_unused_images()?;
        if !left.is_empty() {
            // Thousands of files perhaps: nobody waits for them.
            let purging = std::thread::Builder::new().name("purge".to_owned()).spawn(move || {
                for path in left {
                    if let Err(error) = Self::purge(&path) {
                        tracing::warn!(%error, "removing what a crash left");
                    }
                }
            });
            if let Err(error) = purging {
                tracing::warn!(%error, "what a crash left stays until the next start");
            }
        }
        Ok(pool)
    }

    /// What was half made or half deleted, all of it out of the way.
    fn left_by_a_crash(&self) -> Result<Vec<PathBuf>, Error> {
        let (new, trash) = (self.root.join(".new"), self.root.join(".trash"));
        for entry in std::fs::read_dir(&new).map_err(io("read", &new))? {
            let path = entry.map_err(io("read", &new))?.path();
            std::fs::rename(&path, self.trash()).map_err(io("remove", &path))?;
        }
        let entries = std::fs::read_dir(&trash).map_err(io("read", &trash))?;
        entries.map(|entry| Ok(entry.map_err(io("read", &trash))?.path())).collect()
    }

    /// Removes images that were deleted and whose last volume went when the daemon died.
    fn clear_unused_images(&self) -> Result<(), Error> {
        let images = self.root.join("images");
        for entry in std::fs::read_dir(&images).map_err(io("read", &images))? {
            let entry = entry.map_err(io("read", &images))?;
            let name = entry.file_name().to_str().and_then(|name| Fingerprint::new(name).ok());
            if let Some(fingerprint) = name.filter(|_| entry.path().join(GONE).exists()) {
                self.delete_image(&fingerprint)?;
            }
        }
        Ok(())
    }

    /// A new name for what is to be renamed into this pool when it is whole; after a crash the next opening removes it.
    pub fn scratch(&self) -> PathBuf {
        scratch(&self.root)
    }

    /// A place for something to wait for its removal.
    fn trash(&self) -> PathBuf {
        self.root.join(".trash").join(uuid::Uuid::new_v4().to_string())
    }

    /// Its name.
    pub fn name(&self) -> &PoolName {
        &self.spec.name
    }

    /// Its backend.
    pub fn driver(&self) -> DriverKind {
        self.spec.driver
    }

    /// Removes an empty pool with its directories.
    ///
    /// # Errors
    /// [`Error::InUse`] when it holds volumes.
    pub fn delete(&self) -> Result<(), Error> {
        for kind in ["containers", "custom"] {
            let directory = self.root.join(kind);
            if let Some(entry) = std::fs::read_dir(&directory).map_err(io("read", &directory))?.next() {
                let by = entry.map_err(io("read", &directory))?.file_name().to_string_lossy().into_owned();
                return Err(Error::InUse { pool: self.spec.name.clone(), by });
            }
        }
        for (name, _) in DIRECTORIES {
            // Only what is below our own directories: the source itself may be a mount of the administrator's.
            let directory = self.root.join(name);
            for point in mount::below(&directory).map_err(io("list the mounts below", &directory))? {
                mount::unmount(&point).map_err(io("unmount", point))?;
            }
            remove_dir(&directory)?;
        }
        remove_place(&Self::place(&self.spec))
    }

    /// Where a volume lies.
    pub fn path(&self, volume: &str) -> PathBuf {
        self.root.join("containers").join(volume)
    }

    fn make(&self, volume: &str, fill: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
        let path = self.path(volume);
        if path.exists() {
            return Err(Error::VolumeExists { volume: volume.to_owned() });
        }
        let new = self.root.join(".new").join(volume);
        remove_dir(&new)?;
        make_dir(&new, 0o700)?;
        let made = fill(&new).and_then(|()| std::fs::rename(&new, &path).map_err(io("create", &path)));
        if made.is_err() {
            // The cause is what is told; what stays here is cleared at the next opening.
            let _ = remove_dir(&new);
        }
        made
    }

    /// Makes a root volume from an image.
    ///
    /// # Errors
    /// Then nothing of it stays.
    pub fn create_from_image(&self, volume: &str, image: &StoredImage) -> Result<(), Error> {
        let fill = || self.make(volume, |new| self.driver.fill(&self.root, new, image));
        match self.spec.driver {
            DriverKind::Overlay => self.with_image(&image.fingerprint, fill),
            DriverKind::Dir => fill(),
        }
    }

    /// Makes an empty root volume.
    ///
    /// # Errors
    /// Then nothing of it stays.
    pub fn create_empty(&self, volume: &str) -> Result<(), Error> {
        self.make(volume, |new| self.driver.fill_empty(new))
    }

    /// Does `work` while nobody else touches the shared files of that image.
    fn with_image<T>(&self, fingerprint: &Fingerprint, work: impl FnOnce() -> T) -> T {
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

    /// Removes a volume that is not mounted; none is fine. It is out of the way at once; its files go after that, and
    /// after a crash at the next opening. Returns where they wait for [`Pool::purge`].
    ///
    /// # Errors
    /// When it cannot be moved away.
    pub fn delete_volume(&self, volume: &str) -> Result<Option<PathBuf>, Error> {
        let path = self.path(volume);
        if !path.exists() {
            return Ok(None);
        }
        let lower = self.driver.lower(&path);
        let trash = self.trash();
        std::fs::rename(&path, &trash).map_err(io("remove", &path))?;
        if let Some(fingerprint) = lower
            && self.image_dir(&fingerprint).join(GONE).exists()
        {
            self.delete_image(&fingerprint)?;
        }
        Ok(Some(trash))
    }

    /// Gives a volume that is not mounted another name; one that has it already is fine.
    ///
    /// # Errors
    /// [`Error::VolumeExists`] when the name is taken by another one.
    pub fn rename_volume(&self, from: &str, to: &str) -> Result<(), Error> {
        let (old, new) = (self.path(from), self.path(to));
        if !old.exists() {
            return Ok(());
        }
        if new.exists() {
            return Err(Error::VolumeExists { volume: to.to_owned() });
        }
        self.unmount(from)?;
        std::fs::rename(&old, &new).map_err(io("rename", &old))
    }

    /// Removes the files of a deleted volume.
    ///
    /// # Errors
    /// What stays is removed at the next opening.
    pub fn purge(trash: &Path) -> Result<(), Error> {
        if trash.symlink_metadata().is_ok_and(|found| !found.is_dir()) {
            return std::fs::remove_file(trash).map_err(io("remove", trash));
        }
        unmount_below(trash)?;
        remove_dir(trash)
    }

    /// Makes a volume's root ready for a start; ids are mapped by `map`, none for a privileged container. With `nesting`
    /// a container engine inside finds a place for its layers. Files that are not stored as this needs it are shifted
    /// first.
    ///
    /// # Errors
    /// Then nothing is mounted.
    pub fn mount(
        &self,
        volume: &str,
        map: Option<&IdMap>,
        nesting: bool,
        shifting: &Shifting,
    ) -> Result<RootMount, Error> {
        let path = self.path(volume);
        self.unmount(volume)?;
        let stored = match (self.spec.driver, map.and_then(|_| self.probes.id_mapped_missing())) {
            (_, None) => None,
            (DriverKind::Dir, Some(_)) => map,
            (DriverKind::Overlay, Some(reason)) => return Err(Error::NoIdMappedMounts { reason }),
        };
        // Whatever made it: a link would be taken for what it leads to, on the host.
        let rootfs = path.join("rootfs");
        if !rootfs.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            return Err(Error::Damaged { path: rootfs, reason: "it is no directory".to_owned() });
        }
        if self.spec.driver == DriverKind::Dir {
            shift::bring(&path, stored, shifting.refuse, &shifting.progress)?;
        }
        self.admit(&path, map)?;
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
        Ok(RootMount { stored: stored.cloned(), ..mounted? })
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
    pub fn unmount(&self, volume: &str) -> Result<(), Error> {
        unmount_below(&self.path(volume))
    }

    fn image_dir(&self, fingerprint: &Fingerprint) -> PathBuf {
        self.root.join("images").join(fingerprint.as_str())
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
        let containers = self.root.join("containers");
        for entry in std::fs::read_dir(&containers).map_err(io("read", &containers))? {
            let volume = entry.map_err(io("read", &containers))?.path();
            if self.driver.lower(&volume).as_ref() == Some(fingerprint) {
                let marker = image.join(GONE);
                return std::fs::write(&marker, "").map_err(io("write", marker));
            }
        }
        for point in mount::below(&image).map_err(io("list the mounts below", &image))? {
            mount::unmount(&point).map_err(io("unmount", point))?;
        }
        remove_dir(&image)
    }

    /// Takes the mounts of images away that nothing uses.
    pub(super) fn rest(&self) {
        let images = self.root.join("images");
        for point in mount::below(&images).unwrap_or_default() {
            let name = point.strip_prefix(&images).ok().and_then(|below| below.iter().next()).and_then(OsStr::to_str);
            let Some(fingerprint) = name.and_then(|name| Fingerprint::new(name).ok()) else { continue };
            // Busy ones stay, on purpose.
            let unmount = || rustix::mount::unmount(&point, rustix::mount::UnmountFlags::NOFOLLOW);
            let _ = self.with_image(&fingerprint, unmount);
        }
    }

    /// Room of the file system it lies on.
    ///
    /// # Errors
    /// Of statvfs(3).
    pub fn resources(&self) -> Result<Resources, Error> {
        let stat = rustix::fs::statvfs(&self.root).map_err(|e| io("look at", &self.root)(e.into()))?;
        Ok(Resources {
            space_used: (stat.f_blocks - stat.f_bfree) * stat.f_frsize,
            space_total: stat.f_blocks * stat.f_frsize,
            inodes_used: stat.f_files - stat.f_ffree,
            inodes_total: stat.f_files,
        })
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

pub(super) fn scratch(pool: &Path) -> PathBuf {
    pool.join(".new").join(uuid::Uuid::new_v4().to_string())
}

/// Marks the shared files of an image that is deleted but still needed.
const GONE: &str = "deleted";

/// Removes the pool's own directory, or the link to its source.
fn remove_place(place: &Path) -> Result<(), Error> {
    if place.is_symlink() {
        return std::fs::remove_file(place).map_err(io("remove", place));
    }
    remove_dir(place)
}
