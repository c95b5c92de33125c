//! A pool: its directory, its driver, and the order of steps that no crash may break.

mod across;
mod custom;
mod images;
mod volumes;

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::driver::Driver;
use super::error::{Error, io};
use super::files::{make_dir, remove_dir};
use super::probe::Probes;
use super::shift::Progress;
use super::{dir, overlay};
use crate::api::wire::Config;
use crate::names::{Fingerprint, PoolName};
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
    // Nobody on the host walks in: what lies there may be set-id by the ids of a container.
    ("custom", 0o700),
    ("custom-snapshots", 0o700),
    ("images", 0o711),
    (".new", 0o700),
    (".trash", 0o700),
];

/// What lies in a pool of this driver.
fn directories(driver: DriverKind) -> impl Iterator<Item = &'static (&'static str, u32)> {
    let layers: &[(&str, u32)] = if driver == DriverKind::Overlay { &[(overlay::LAYERS, 0o711)] } else { &[] };
    DIRECTORIES.iter().chain(layers)
}

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
    pub fn create(spec: PoolSpec, probes: &Arc<Probes>) -> Result<Arc<Self>, Error> {
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
    pub fn open(spec: PoolSpec, probes: &Arc<Probes>) -> Result<Arc<Self>, Error> {
        let place = Self::place(&spec);
        let root = place.canonicalize().map_err(io("open", &place))?;
        for (name, mode) in directories(spec.driver) {
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
            DriverKind::Overlay => Box::new(overlay::Overlay::default()),
        };
        let pool = Arc::new(Self { spec, root, driver, probes, images: Mutex::default() });
        let left = pool.left_by_a_crash()?;
        pool.clear_unused_images()?;
        if !left.is_empty() {
            // Thousands of files perhaps: nobody waits for them.
            let cleared = Arc::clone(&pool);
            let purging = std::thread::Builder::new().name("purge".to_owned()).spawn(move || {
                for path in left {
                    if let Err(error) = cleared.purge(&path) {
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
            let custom = super::files::is_custom(&path);
            let away = if custom { super::files::custom_trash(&self.root) } else { super::files::trash(&self.root) };
            std::fs::rename(&path, away).map_err(io("remove", &path))?;
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
        for (name, _) in directories(self.spec.driver) {
            // Only what is below our own directories: the source itself may be a mount of the administrator's.
            let directory = self.root.join(name);
            for point in mount::below(&directory).map_err(io("list the mounts below", &directory))? {
                mount::unmount(&point).map_err(io("unmount", point))?;
            }
            remove_dir(&directory)?;
        }
        remove_place(&Self::place(&self.spec))
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

/// Marks the shared files of an image that is deleted but still needed.
const GONE: &str = "deleted";

/// Removes the pool's own directory, or the link to its source.
fn remove_place(place: &Path) -> Result<(), Error> {
    if place.is_symlink() {
        return std::fs::remove_file(place).map_err(io("remove", place));
    }
    remove_dir(place)
}
