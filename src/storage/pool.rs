//! A pool: its directory, its driver, and the order of steps that no crash may break.

mod across;
mod custom;
mod images;
pub(super) mod purges;
mod view;
mod volumes;

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::Notify;

use super::driver::Driver;
use super::error::{Error, io};
use super::files::{make_dir, remove_dir};
use super::probe::Probes;
use super::shift::Progress;
use super::{btrfs, dir, overlay, source};
use crate::api::wire::Config;
use crate::config;
use crate::image;
use crate::names::{Fingerprint, PoolName};
use crate::sys::mount;

pub use view::Frozen;

/// The backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverKind {
    /// Plain directories.
    Dir,
    /// Shared images under an upper directory per container.
    Overlay,
    /// Subvolumes and their snapshots.
    Btrfs,
}

impl DriverKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Dir, Self::Overlay, Self::Btrfs];

    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dir => "dir",
            Self::Overlay => "overlay",
            Self::Btrfs => "btrfs",
        }
    }

    /// Whether volumes are made of files of an image that lie in the pool once.
    pub(super) fn shares_images(self) -> bool {
        match self {
            Self::Dir => false,
            Self::Overlay | Self::Btrfs => true,
        }
    }

    /// Whether the ids of files are changed on the disk where they cannot be mapped by a mount: nothing shares them.
    pub(super) fn shifts(self) -> bool {
        match self {
            Self::Dir | Self::Btrfs => true,
            Self::Overlay => false,
        }
    }

    /// Whether its snapshots are read-only by the file system itself.
    pub(super) fn seals(self) -> bool {
        match self {
            Self::Dir | Self::Overlay => false,
            Self::Btrfs => true,
        }
    }

    /// Whether those who work on a volume are held while a snapshot of it is made.
    pub fn holds(self) -> bool {
        match self {
            Self::Dir | Self::Overlay => true,
            Self::Btrfs => false,
        }
    }

    /// Why it does not work here; `None` when it does.
    pub(super) fn missing(self, probes: &Probes) -> Option<String> {
        match self {
            Self::Dir => None,
            Self::Overlay => probes.overlay_missing(),
            Self::Btrfs => probes.btrfs_missing(),
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
            "btrfs" => Ok(Self::Btrfs),
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

impl PoolSpec {
    /// Where it lies, or is mounted, or a link leads there.
    pub(super) fn place(&self) -> PathBuf {
        self.state_dir.join("storage-pools").join(self.name.as_str())
    }

    /// The file that it is on, if it is on one.
    pub(super) fn file(&self) -> PathBuf {
        self.state_dir.join("disks").join(format!("{}.img", self.name))
    }

    /// The configuration of a new pool, with what was left open decided: it is to be written down before anything is made.
    /// Blocking.
    ///
    /// # Errors
    /// When a key is unknown, does not fit, or two of them do not fit together.
    pub fn complete(&self) -> Result<Config, Error> {
        source::complete(self)
    }
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
    /// The file system and the number of its directory: another one there is not this pool.
    identity: (u64, u64),
    driver: Box<dyn Driver>,
    /// Of the file system it lies on.
    probes: Arc<Probes>,
    /// Each is held while the shared files of its image are made, mounted or removed; one image never waits for another.
    images: Mutex<BTreeMap<Fingerprint, Arc<Mutex<()>>>>,
    /// Removals that nobody waits for.
    purges: Arc<purges::Purges>,
    /// Somebody is to look at pools.
    alarm: Arc<Notify>,
    /// Whether its file system counts what volumes have, and when that was found.
    counts: Mutex<Option<(bool, Instant)>>,
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
        config::validate_pool(driver.as_str(), config)?;
        match config.get("source") {
            Some(source) if source.contains('\0') => {
                Err(Error::Value { key: "source", value: source.clone(), expected: "a path" })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Makes a pool, whose configuration is [complete](PoolSpec::complete).
    ///
    /// # Errors
    /// When the driver does not work here, or the source cannot be one. Then nothing of it stays.
    pub fn create(spec: PoolSpec, probes: &Arc<Probes>, alarm: &Arc<Notify>) -> Result<Arc<Self>, Error> {
        if let Some(reason) = spec.driver.missing(probes) {
            return Err(Error::DriverUnavailable { driver: spec.driver.as_str(), reason });
        }
        source::create(&spec)?;
        let root = spec.place();
        let made = directories(spec.driver).try_for_each(|(name, mode)| make_dir(&root.join(name), *mode));
        let opened = made.and_then(|()| Self::open(spec.clone(), probes, alarm));
        if opened.is_err() {
            // Nothing of a pool that did not come up stays; its own error is the one to tell.
            let _ = Self::undo(&spec);
        }
        opened
    }

    /// Opens a pool that was made before, and clears what a crash left half made or half deleted.
    ///
    /// # Errors
    /// When what it lies on is missing or cannot be written.
    pub fn open(spec: PoolSpec, probes: &Arc<Probes>, alarm: &Arc<Notify>) -> Result<Arc<Self>, Error> {
        source::attach(&spec)?;
        let place = spec.place();
        let root = place.canonicalize().map_err(io("open", &place))?;
        // Of a disk that is not mounted the mount point is there, empty: the pool must not begin anew in it.
        if !root.join("containers").is_dir() {
            let source = source::Source::of(&spec).to_string();
            let reason =
                format!("does not hold the pool ({} has no \"containers\"); is its disk mounted?", root.display());
            return Err(Error::Absent { source, reason });
        }
        for (name, mode) in directories(spec.driver) {
            make_dir(&root.join(name), *mode)?;
        }
        let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev()).ok();
        // What was tried on the daemon's own file system says nothing about another one.
        let probes = match device(&root) == device(&spec.state_dir) {
            true => Arc::clone(probes),
            false => Arc::new(Probes::new(&root.join(".new"))),
        };
        let purges = Arc::new(purges::Purges::default());
        let driver: Box<dyn Driver> = match spec.driver {
            DriverKind::Dir => Box::new(dir::Dir::new(Arc::clone(&probes))),
            DriverKind::Overlay => Box::new(overlay::Overlay::new(Arc::clone(&purges))),
            DriverKind::Btrfs => Box::new(btrfs::Btrfs::new(Arc::clone(&probes))),
        };
        let found = std::fs::metadata(&root).map_err(io("open", &root))?;
        let identity = (found.dev(), found.ino());
        let (images, counts) = (Mutex::default(), Mutex::default());
        let alarm = Arc::clone(alarm);
        let pool = Arc::new(Self { spec, root, identity, driver, probes, images, purges, alarm, counts });
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
            if !custom && let Err(error) = super::copy::give_back(&self.root, &path) {
                tracing::error!(path = %path.display(), %error, "giving back what a restore has taken: it stays there");
                continue;
            }
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

    /// An error that names this pool where that is what is wrong; who follows pools looks at it.
    pub(super) fn told(&self, error: Error) -> Error {
        let pool = self.spec.name.clone();
        let told = match error {
            Error::NoSpace { path } | Error::Image(image::Error::NoSpace { path }) => {
                return Error::Full { pool, path };
            }
            Error::Io { path, error, .. } if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
                Error::ReadOnly { pool, path }
            }
            Error::Io { doing, path, error } if error.raw_os_error() == Some(libc::EIO) => {
                Error::Failing { pool, doing, path, error }
            }
            other => return other,
        };
        self.alarm.notify_one();
        told
    }

    /// Its directory, without links on the way.
    pub fn root(&self) -> &Path {
        &self.root
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
        self.purges.close();
        let removed = Self::undo(&self.spec);
        if removed.is_err() {
            // It goes on being used.
            let _ = source::attach(&self.spec);
            self.purges.open();
        }
        removed
    }

    /// Removes all that there is of a pool, whole or not, and what it lies on where that is its own.
    ///
    /// # Errors
    /// [`Error::Busy`] with who uses it, or with what cannot be removed.
    pub(super) fn undo(spec: &PoolSpec) -> Result<(), Error> {
        if !source::Source::of(spec).is_mounted_here()
            && let Ok(root) = spec.place().canonicalize()
        {
            for (name, _) in directories(spec.driver) {
                // Only what is below our own directories: the source itself may be a mount of the administrator's.
                let directory = root.join(name);
                for point in mount::below(&directory).map_err(io("list the mounts below", &directory))? {
                    mount::unmount(&point).map_err(io("unmount", point))?;
                }
                match spec.driver {
                    DriverKind::Btrfs => btrfs::remove(&directory)?,
                    DriverKind::Dir | DriverKind::Overlay => remove_dir(&directory)?,
                }
            }
        }
        source::remove(spec)
    }

    /// Whether its directory is the one that was opened: what it lies on may have been taken away.
    pub(super) fn is_there(&self) -> bool {
        // Costs nothing: the kernel knows it.
        std::fs::metadata(&self.root).is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
    }

    /// Whether nothing can be written to it, though nobody asked for that.
    pub(super) fn is_read_only(&self) -> bool {
        let asked =
            self.spec.config.get("btrfs.mount_options").is_some_and(|options| options.split(',').any(|o| o == "ro"));
        let flags = rustix::fs::statvfs(&self.root).map(|stat| stat.f_flag);
        !asked && flags.is_ok_and(|flags| flags.contains(rustix::fs::StatVfsMountFlags::RDONLY))
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
