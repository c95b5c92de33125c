//! The store: `<state>/images/<fingerprint>` and, for split images, `<fingerprint>.rootfs`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ring::digest::{Context, SHA256};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::compression::{Compression, detect, open_tar};
use super::error::{Error, io};
use super::metadata::{MAX, Metadata};
use super::rules::{Limits, Passed, Placed, Rules, Tarball};
use super::squashfs;
use crate::names::Fingerprint;

/// The parts an image arrives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The one file of a unified image.
    Unified,
    /// The metadata tarball of a split image.
    Metadata,
    /// Its root.
    Rootfs,
}

impl StoredImage {
    /// The squashfs that holds the root, perhaps with everything else.
    pub fn squashfs_file(&self) -> Option<&Path> {
        self.squashfs.then(|| self.rootfs_path.as_deref().unwrap_or(&self.meta_path))
    }

    /// Whether it is one squashfs with everything in it.
    pub fn is_unified_squashfs(&self) -> bool {
        self.squashfs && self.rootfs_path.is_none()
    }

    /// Names for the files where they go to somebody: of the tarball, and of the root of a split image.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn file_names(&self) -> Result<(String, Option<String>), Error> {
        let named = |path: &Path| detect(path).map(|found| format!("{}.{}", self.fingerprint, found.extension()));
        let meta = named(&self.meta_path)?;
        match &self.rootfs_path {
            None => Ok((meta, None)),
            Some(rootfs) => Ok((format!("meta-{meta}"), Some(named(rootfs)?))),
        }
    }
}

/// The files of all images.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    /// How many unpack an image, or are about to.
    holds: Arc<Mutex<Counts>>,
    locks: Mutex<BTreeMap<Fingerprint, Arc<tokio::sync::Mutex<()>>>>,
    /// Held by all who bring files or take some away; alone by who moves the whole store.
    still: Arc<RwLock<()>>,
}

type Counts = BTreeMap<Fingerprint, usize>;

/// Somebody is about to use the files of an image: nobody takes it away that only tidies up.
#[derive(Debug)]
pub struct Hold {
    fingerprint: Fingerprint,
    holds: Arc<Mutex<Counts>>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = holds.get_mut(&self.fingerprint) {
            *count -= 1;
            if *count == 0 {
                holds.remove(&self.fingerprint);
            }
        }
    }
}

/// An image whose files are here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// The tarball: unified, or metadata.
    pub meta_path: PathBuf,
    /// The root of a split image.
    pub rootfs_path: Option<PathBuf>,
    /// Whether that root, or the whole of a unified image, is a squashfs.
    pub squashfs: bool,
}

/// After how many bytes the kernel is told to write them.
const STRETCH: u64 = 8 << 20;

/// Whether the place of the files is there: it may be a link to a volume.
fn is_there(dir: &Path) -> Result<(), Error> {
    if dir.is_symlink() && !dir.is_dir() { Err(Error::Away) } else { Ok(()) }
}

pub(super) const INCOMING: &str = ".incoming-";

impl Store {
    /// The store in `dir`, which may be a link to a place that is not there yet ([`Store::tidy`]).
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(dir: PathBuf) -> Result<Self, Error> {
        if !dir.is_symlink() {
            std::fs::create_dir_all(&dir).map_err(io("create", &dir))?;
        }
        let store = Self { dir, holds: Arc::default(), locks: Mutex::default(), still: Arc::default() };
        if store.check().is_ok() {
            store.tidy()?;
        }
        Ok(store)
    }

    /// Removes what interrupted uploads left. Nobody uses the store yet.
    ///
    /// # Errors
    /// [`Error::Away`], or when the directory cannot be read.
    pub fn tidy(&self) -> Result<(), Error> {
        self.check()?;
        for entry in std::fs::read_dir(&self.dir).map_err(io("read", &self.dir))? {
            let entry = entry.map_err(io("read", &self.dir))?;
            if entry.file_name().to_string_lossy().starts_with(INCOMING) {
                let path = entry.path();
                crate::sys::remove::tree(&path).map_err(io("remove", path))?;
            }
        }
        Ok(())
    }

    /// Whether the place of the files is there.
    ///
    /// # Errors
    /// [`Error::Away`].
    fn check(&self) -> Result<(), Error> {
        is_there(&self.dir)
    }

    /// Waits until nobody moves the store, and keeps it where it is.
    pub async fn stays(&self) -> OwnedRwLockReadGuard<()> {
        Arc::clone(&self.still).read_owned().await
    }

    pub(super) fn try_stays(&self) -> Option<OwnedRwLockReadGuard<()>> {
        Arc::clone(&self.still).try_read_owned().ok()
    }

    /// Has nobody bring files or take some away while it lives; none when somebody is at it.
    pub fn alone(&self) -> Option<OwnedRwLockWriteGuard<()>> {
        Arc::clone(&self.still).try_write_owned().ok()
    }

    /// Whether a file in the store's directory is one that is only on its way in.
    pub fn is_incoming(name: &std::ffi::OsStr) -> bool {
        name.as_encoded_bytes().starts_with(INCOMING.as_bytes())
    }

    /// Begins an upload, once nobody moves the store; it stays where it is until the upload has ended.
    pub async fn incoming(&self) -> Upload {
        let stays = self.stays().await;
        Upload { stays: Some(stays), ..self.begin() }
    }

    fn holds(&self) -> MutexGuard<'_, Counts> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells that somebody is about to use an image, which need not be here.
    pub fn hold(&self, fingerprint: &Fingerprint) -> Hold {
        *self.holds().entry(fingerprint.clone()).or_default() += 1;
        Hold { fingerprint: fingerprint.clone(), holds: Arc::clone(&self.holds) }
    }

    /// Whether somebody is about to use an image.
    pub fn is_held(&self, fingerprint: &Fingerprint) -> bool {
        self.holds().contains_key(fingerprint)
    }

    /// Waits until nobody else brings the files of an image here or takes them away.
    pub async fn lock(&self, fingerprint: &Fingerprint) -> tokio::sync::OwnedMutexGuard<()> {
        let mine = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(fingerprint.clone()).or_default())
        };
        mine.lock_owned().await
    }

    /// Begins an upload, where nobody moves the store.
    pub(super) fn begin(&self) -> Upload {
        let base = self.dir.join(format!("{INCOMING}{}", uuid::Uuid::new_v4()));
        Upload {
            dir: self.dir.clone(),
            meta: Temporary(base.with_extension("meta")),
            rootfs: Temporary(base.with_extension("rootfs")),
            split: false,
            file: None,
            digest: Context::new(&SHA256),
            size: 0,
            room: None,
            waiting: 0,
            stays: None,
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn paths(&self, fingerprint: &Fingerprint) -> (PathBuf, PathBuf) {
        (self.dir.join(fingerprint.as_str()), self.dir.join(format!("{fingerprint}.rootfs")))
    }

    /// The files of an image.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Away`].
    pub fn get(&self, fingerprint: &Fingerprint) -> Result<StoredImage, Error> {
        self.check()?;
        let (meta_path, rootfs) = self.paths(fingerprint);
        if !meta_path.exists() {
            return Err(Error::NotFound { fingerprint: fingerprint.clone() });
        }
        let rootfs_path = rootfs.exists().then_some(rootfs);
        let squashfs = detect(rootfs_path.as_ref().unwrap_or(&meta_path))? == Compression::Squashfs;
        Ok(StoredImage { fingerprint: fingerprint.clone(), meta_path, rootfs_path, squashfs })
    }

    /// Removes the files of an image; none is fine.
    ///
    /// # Errors
    /// [`Error::Away`], or when they cannot be removed.
    pub fn remove(&self, fingerprint: &Fingerprint) -> Result<(), Error> {
        self.check()?;
        let (meta, rootfs) = self.paths(fingerprint);
        // What is remembered of them last: see `Store::parts`.
        for path in [rootfs, meta, super::parts::place(&self.dir, fingerprint)] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io("remove", path)(error)),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// The fingerprints of all images whose files are here.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Fingerprint>, Error> {
        let entries = std::fs::read_dir(&self.dir).map_err(io("read", &self.dir))?;
        Ok(entries
            .filter_map(|entry| Fingerprint::new(entry.ok()?.file_name().to_string_lossy().into_owned()).ok())
            .collect())
    }
}

/// A file that goes when it is not kept.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Renamed, never made, or removed at the next opening.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The store is not moved meanwhile.
type Stays = Option<OwnedRwLockReadGuard<()>>;

/// An image on its way in. Blocking.
pub struct Upload {
    dir: PathBuf,
    meta: Temporary,
    rootfs: Temporary,
    split: bool,
    file: Option<File>,
    digest: Context,
    size: i64,
    /// So many bytes there may be.
    room: Option<u64>,
    /// Bytes that the kernel has not been told to write.
    waiting: u64,
    stays: Stays,
}

impl Upload {
    /// It may have so many bytes, when that is known; more end it as they come.
    #[must_use]
    pub fn within(self, room: Option<u64>) -> Self {
        Self { room, ..self }
    }

    /// What is written from now on belongs to `part`. The order is that of the fingerprint: metadata, then root.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn part(&mut self, part: Part) -> Result<(), Error> {
        let path = match part {
            Part::Unified | Part::Metadata => &self.meta.0,
            Part::Rootfs => {
                self.split = true;
                &self.rootfs.0
            }
        };
        is_there(&self.dir)?;
        self.file = Some(File::create_new(path).map_err(io("create", path))?);
        Ok(())
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`Error::NoSpace`] and other ones of the disk.
    #[cfg(test)]
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.digest.update(bytes);
        self.store(bytes)
    }

    /// The hash of all that came before, for whoever hashes what [`Upload::store`] is given next.
    pub(super) fn digest(&self) -> Context {
        self.digest.clone()
    }

    /// With the next bytes in it.
    pub(super) fn set_digest(&mut self, digest: Context) {
        self.digest = digest;
    }

    /// Writes the next bytes, without hashing them.
    ///
    /// # Errors
    /// [`Error::NoSpace`] and other ones of the disk.
    pub(super) fn store(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.size = self.size.saturating_add(i64::try_from(bytes.len()).unwrap_or(i64::MAX));
        if let Some(limit) = self.room.filter(|room| u64::try_from(self.size).is_ok_and(|size| size > *room)) {
            return Err(Error::Limit { what: "bytes, which is what limits.disk of its project leaves", limit });
        }
        match &mut self.file {
            Some(file) => file.write_all(bytes).map_err(io("write an image to", &self.dir))?,
            None => return Err(Error::Empty),
        }
        self.begin_writing(bytes.len() as u64);
        Ok(())
    }

    /// Has the kernel write what has come together, so that little is left for the end.
    fn begin_writing(&mut self, more: u64) {
        self.waiting += more;
        if let Some(file) = self.file.as_ref().filter(|_| self.waiting >= STRETCH) {
            self.waiting = 0;
            crate::sys::writeback::begin(file);
        }
    }

    /// All is here: verifies it.
    ///
    /// # Errors
    /// When it is not the announced one, or no image that can be used.
    pub fn finish(self, expected: Option<&Fingerprint>) -> Result<Received, Error> {
        let found = hex::encode(self.digest.finish());
        let found = Fingerprint::new(found).map_err(|e| Error::BadArchive { reason: e.to_string() })?;
        if self.size == 0 || self.file.is_none() {
            return Err(Error::Empty);
        }
        if let Some(expected) = expected.filter(|expected| **expected != found) {
            return Err(Error::Fingerprint { expected: expected.clone(), found });
        }
        let metadata = match (self.split, detect(&self.meta.0)?) {
            (false, Compression::Squashfs) => {
                squashfs::check_whole(&self.meta.0)?;
                Metadata::parse(&squashfs::metadata(&self.meta.0, self.meta.0.with_extension("scratch"))?)?
            }
            (split, _) => inspect(&self.meta.0, !split)?,
        };
        if self.split {
            match detect(&self.rootfs.0)? {
                Compression::Squashfs => squashfs::check_whole(&self.rootfs.0)?,
                _ => check_tar(&self.rootfs.0)?,
            }
        }
        let rootfs = self.split.then_some(self.rootfs);
        Ok(Received {
            fingerprint: found,
            size: self.size,
            metadata,
            dir: self.dir,
            meta: self.meta,
            rootfs,
            _stays: self.stays,
        })
    }
}

impl Upload {
    /// Where the one file of a unified image is to lie until it is whole.
    pub(super) fn unified_path(&self) -> &Path {
        &self.meta.0
    }

    /// The image that was made there, by the daemon itself: it need not be verified.
    pub(super) fn packed(self, fingerprint: Fingerprint, size: i64, metadata: Metadata) -> Received {
        Received { fingerprint, size, metadata, dir: self.dir, meta: self.meta, rootfs: None, _stays: self.stays }
    }
}

/// A verified image that is not in the store yet.
pub struct Received {
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// Bytes.
    pub size: i64,
    /// What it says about itself.
    pub metadata: Metadata,
    dir: PathBuf,
    meta: Temporary,
    rootfs: Option<Temporary>,
    // Last: the temporary files go where they lie.
    _stays: Stays,
}

impl Received {
    /// Moves it into the store, on disk for good.
    ///
    /// # Errors
    /// Of the disk; then it is not in the store.
    pub fn commit(self) -> Result<(), Error> {
        let place = |name: String| self.dir.join(name);
        let keep = |from: &Temporary, to: PathBuf| {
            File::open(&from.0).and_then(|file| file.sync_all()).map_err(io("write", &from.0))?;
            std::fs::rename(&from.0, &to).map_err(io("create", to))
        };
        // The root first: an image without its root would be taken for a unified one.
        if let Some(rootfs) = &self.rootfs {
            keep(rootfs, place(format!("{}.rootfs", self.fingerprint)))?;
        }
        keep(&self.meta, place(self.fingerprint.to_string()))?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(io("write", &self.dir))
    }
}

/// Reads a tarball to its end by the rules of unpacking. Returns what `metadata.yaml` says, if there is one, and whether
/// there is a root.
fn walk(path: &Path, kind: Tarball, limits: &Limits) -> Result<(Option<Metadata>, bool), Error> {
    let mut rules = Rules::new(kind, limits);
    let mut placed = Placed::default();
    let (mut metadata, mut root) = (None, false);
    let mut archive = open_tar(path, limits.max_bytes)?;
    for entry in archive.entries().map_err(|e| limits.unreadable(&e))? {
        let mut entry = entry.map_err(|e| limits.unreadable(&e))?;
        let Some(Passed { name, .. }) = rules.pass(&mut entry)? else { continue };
        placed.take(&rules, &entry, &name)?;
        if name == Path::new("metadata.yaml") {
            if metadata.is_some() {
                return Err(Error::BadArchive { reason: "it has metadata.yaml twice".to_owned() });
            }
            let mut text = Vec::new();
            entry.take(MAX + 1).read_to_end(&mut text).map_err(|e| limits.unreadable(&e))?;
            if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX {
                return Err(Error::Limit { what: "bytes of metadata.yaml", limit: MAX });
            }
            metadata = Some(Metadata::parse(&text)?);
        }
        root |= name.starts_with("rootfs");
    }
    // What follows the end is nobody's business, but it must be whole: the last checksum of a compression lies there.
    std::io::copy(&mut archive.into_inner(), &mut std::io::sink()).map_err(|e| limits.unreadable(&e))?;
    Ok((metadata, root))
}

/// Looks for `metadata.yaml` and, in a unified image, for `rootfs/`.
fn inspect(path: &Path, unified: bool) -> Result<Metadata, Error> {
    let (metadata, root) = walk(path, if unified { Tarball::Unified } else { Tarball::Metadata }, &Limits::default())?;
    match metadata {
        Some(_) if unified && !root => Err(Error::BadArchive { reason: "it has no rootfs directory".to_owned() }),
        Some(metadata) => Ok(metadata),
        None => Err(Error::BadArchive { reason: "it has no metadata.yaml".to_owned() }),
    }
}

#[cfg(test)]
pub(super) fn inspect_for_tests(path: &Path) -> Result<Metadata, Error> {
    inspect(path, true)
}

fn check_tar(path: &Path) -> Result<(), Error> {
    match walk(path, Tarball::Root, &Limits::default())? {
        (_, true) => Ok(()),
        (_, false) => Err(Error::BadArchive { reason: "its root is empty".to_owned() }),
    }
}

/// For [`crate::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let limits = Limits { max_bytes: 1 << 20, max_entries: 1000 };
    let Ok(memory) = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC) else { return };
    let mut file = File::from(memory);
    if file.write_all(bytes).is_err() {
        return;
    }
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    for kind in [Tarball::Unified, Tarball::Metadata, Tarball::Root] {
        let _ = walk(Path::new(&path), kind, &limits);
    }
    let _ = squashfs::check_whole(Path::new(&path));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn holds_and_locks_are_put_away() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().to_owned()).unwrap();
        let image = Fingerprint::new("a".repeat(64)).unwrap();
        let (one, two) = (store.hold(&image), store.hold(&image));
        drop(one);
        assert!(store.is_held(&image));
        drop(two);
        assert!(!store.is_held(&image) && store.holds().is_empty());
        let first = store.lock(&image).await;
        let second = store.lock(&image);
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        drop(second.await);
        drop(store.lock(&Fingerprint::new("b".repeat(64)).unwrap()).await);
        assert_eq!(store.locks.lock().unwrap().len(), 1);
    }
}
