//! Custom volumes that hold something of the daemon's own: the files of images, and of backups.
//!
//! ```text
//!  journal ──> files also at the new place ──> key (one transaction) ──> link ──> files gone at the old place ──> no journal
//! ```
//! `<state>/images` is the directory itself, or a link to the volume; whoever opens a file goes through it and finds each at
//! any moment. What the key says is true: a daemon that dies in between has the next one bring the link there, and clear the
//! other place of the two that the journal (`images.moving`) names. While they are moved, files neither come nor go.

use std::fmt;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedMutexGuard, OwnedRwLockWriteGuard};

use super::error::Error;
use super::{blocking, find, size_of, users};
use crate::api::wire::Config;
use crate::config::ServerVolume;
use crate::db::{Model, Tx};
use crate::image::Store;
use crate::instance::{Context, Manager};
use crate::names::{PoolName, VolumeKey, VolumeName};
use crate::storage::VolumeId;
use crate::sys::space;

/// Why a volume cannot be the daemon's, or not now.
#[derive(Debug)]
#[expect(missing_docs, reason = "Display says what each one means; fields are named after what they hold")]
pub enum Unfit {
    Missing { volume: VolumeKey },
    HasSnapshots { volume: VolumeKey },
    NotEmpty { volume: VolumeKey, file: String },
    Busy,
    NoRoom { needed: u64, free: u64 },
    Odd { path: PathBuf },
    Unsettled { volume: String },
    Io { doing: &'static str, path: PathBuf, error: io::Error },
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |key: &VolumeKey| format!("{}/{}", key.pool, key.name);
        match self {
            Self::Missing { volume } => {
                write!(f, "the default project has no custom volume {}: create it first", name(volume))
            }
            Self::HasSnapshots { volume } => {
                write!(f, "the volume {} has snapshots: delete them, or take another one", name(volume))
            }
            Self::NotEmpty { volume, file } => {
                write!(f, "the volume {} is not empty, it has {file:?}: take an empty one", name(volume))
            }
            Self::Busy => f.write_str(
                "images are just coming in, going out of the store, or made: wait for these operations, or cancel them",
            ),
            Self::NoRoom { needed, free } => {
                write!(f, "what is to be moved has {needed} bytes, and there is room for {free}: take a larger volume")
            }
            Self::Odd { path } => write!(f, "{} is no file of the daemon's: take it away first", path.display()),
            Self::Unsettled { volume } => write!(
                f,
                "an earlier move has left files on the volume {volume}, which cannot be cleared now: bring its storage pool back, and restart the daemon"
            ),
            Self::Io { doing, path, error } => write!(f, "cannot {doing} {}: {error}", path.display()),
        }
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Unfit {
    let path = path.to_owned();
    move |error| Unfit::Io { doing, path, error }
}

/// A place: the state directory itself when there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Named(Option<(PoolName, VolumeName)>);

impl Named {
    fn of(key: Option<&VolumeKey>) -> Self {
        Self(key.map(|key| (key.pool.clone(), key.name.clone())))
    }
}

/// What `<state>/images.moving` has: the two places of which one is to be cleared.
#[derive(Debug, Serialize, Deserialize)]
struct Journal {
    from: Named,
    to: Named,
}

/// Where something of the daemon's lies in the state directory.
#[derive(Debug, Clone)]
struct Paths {
    /// The directory, or the link.
    link: PathBuf,
    /// What changes places with it in one step.
    beside: PathBuf,
    journal: PathBuf,
}

impl Paths {
    fn of(context: &Context, what: ServerVolume) -> Self {
        let at = |suffix: &str| context.dir.root().join(format!("{}{suffix}", what.directory()));
        Self { link: at(""), beside: at(".beside"), journal: at(".moving") }
    }

    /// The state directory's own place for the files.
    fn own(&self) -> &Path {
        if self.link.is_symlink() { &self.beside } else { &self.link }
    }

    fn write_journal(&self, journal: &Journal) -> Result<(), Unfit> {
        let new = self.journal.with_extension("moving.new");
        let text = serde_json::to_vec(journal).unwrap_or_default();
        std::fs::write(&new, text).map_err(failed("write", &new))?;
        sync(&new)?;
        std::fs::rename(&new, &self.journal).map_err(failed("create", &self.journal))?;
        self.sync_parent()
    }

    fn sync_parent(&self) -> Result<(), Unfit> {
        self.link.parent().map_or(Ok(()), sync)
    }

    fn forget_journal(&self) -> Result<(), Unfit> {
        remove_file(&self.journal.with_extension("moving.new"))?;
        remove_file(&self.journal)
    }

    /// Has the link lead to `target`, or be the directory itself. Done already is fine.
    fn lead_to(&self, target: Option<&Path>) -> Result<(), Unfit> {
        let changed = || failed("change", &self.link);
        match (target, std::fs::read_link(&self.link)) {
            (None, Err(_)) => {}
            (Some(target), Ok(now)) if now == target => {}
            (None, Ok(_)) => {
                make_dir(&self.beside)?;
                rustix::fs::renameat_with(CWD, &self.beside, CWD, &self.link, RenameFlags::EXCHANGE)
                    .map_err(|errno| changed()(errno.into()))?;
            }
            (Some(target), now) => {
                self.clear_beside()?;
                std::os::unix::fs::symlink(target, &self.beside).map_err(failed("create", &self.beside))?;
                let flags = if now.is_ok() { RenameFlags::empty() } else { RenameFlags::EXCHANGE };
                rustix::fs::renameat_with(CWD, &self.beside, CWD, &self.link, flags)
                    .map_err(|errno| changed()(errno.into()))?;
            }
        }
        self.sync_parent()
    }

    /// Takes away what is beside the link, which is never what counts.
    fn clear_beside(&self) -> Result<(), Unfit> {
        if self.beside.is_symlink() {
            return remove_file(&self.beside);
        }
        match crate::sys::remove::tree(&self.beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &self.beside)(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn sync(path: &Path) -> Result<(), Unfit> {
    File::open(path).and_then(|file| file.sync_all()).map_err(failed("write", path))
}

fn remove_file(path: &Path) -> Result<(), Unfit> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn make_dir(path: &Path) -> Result<(), Unfit> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create", path))
}

/// The files of a directory, but for what a file system has of its own.
fn files(dir: &Path) -> Result<Vec<(PathBuf, std::fs::Metadata)>, Unfit> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed("read", dir))? {
        let entry = entry.map_err(failed("read", dir))?;
        if entry.file_name() == "lost+found" {
            continue;
        }
        let about = entry.metadata().map_err(failed("read", dir))?;
        found.push((entry.path(), about));
    }
    Ok(found)
}

/// Removes the files of the daemon's from a volume.
fn clear(dir: &Path) -> Result<(), Unfit> {
    for (path, about) in files(dir)? {
        if about.is_file() {
            remove_file(&path)?;
        }
    }
    Ok(())
}

/// Has all files of `from` in `to`, too: as links where that can be, so that they need no room. They never change.
fn also_at(from: &Path, to: &Path, size: Option<u64>) -> Result<(), Unfit> {
    let mut rest = Vec::new();
    for (path, about) in files(from)? {
        let Some(name) = path.file_name() else { continue };
        if Store::is_incoming(name) {
            continue;
        }
        if !about.is_file() {
            return Err(Unfit::Odd { path });
        }
        let new = to.join(name);
        if std::fs::hard_link(&path, &new).is_err() {
            rest.push((path, new, about.len()));
        }
    }
    let needed = rest.iter().map(|(_, _, bytes)| bytes).sum();
    let free = space::of(to).map_err(failed("read", to))?.free;
    let free = size.map_or(free, |size| size.min(free));
    if needed > free {
        return Err(Unfit::NoRoom { needed, free });
    }
    for (path, new, _) in &rest {
        std::fs::copy(path, new).map_err(failed("write", new))?;
        sync(new)?;
    }
    sync(to)
}

/// One that goes from one place to another.
struct Move {
    what: ServerVolume,
    paths: Paths,
    from: Option<VolumeKey>,
    to: Option<VolumeKey>,
}

/// What a change of the server's configuration moves. While it lives, none of the volumes is changed by anybody.
pub struct Moves {
    context: Arc<Context>,
    all: Vec<Move>,
    _verbs: Vec<OwnedMutexGuard<()>>,
    _still: Option<OwnedRwLockWriteGuard<()>>,
}

impl Moves {
    /// Has the files lie at the places that `new` says, too; those of `old` still count.
    ///
    /// # Errors
    /// [`Error::Server`], [`Error::InUse`]; then nothing of it stays.
    pub async fn prepare(manager: &Manager, old: &Config, new: &Config) -> Result<Self, Error> {
        let context = Arc::clone(manager.context());
        let of = |what: ServerVolume| {
            let (from, to) = (what.of(old), what.of(new));
            (from != to).then(|| Move { what, paths: Paths::of(&context, what), from, to })
        };
        let all: Vec<Move> = ServerVolume::ALL.into_iter().filter_map(of).collect();
        let mut keys: Vec<VolumeKey> = all.iter().flat_map(|one| [&one.from, &one.to]).flatten().cloned().collect();
        keys.sort();
        keys.dedup();
        let mut verbs = Vec::new();
        for key in &keys {
            verbs.push(context.pools.locks().verb(key).await);
        }
        let mut still = None;
        if all.iter().any(|one| one.what == ServerVolume::Images) {
            let busy = Error::Server { what: ServerVolume::Images, reason: Unfit::Busy };
            still = Some(context.images.alone().ok_or(busy)?);
        }
        let moves = Self { context, all, _verbs: verbs, _still: still };
        moves.check(&moves.context.db.model())?;
        for (number, one) in moves.all.iter().enumerate() {
            if let Err(error) = moves.copy(one).await {
                moves.clear(&moves.all[..=number]).await;
                return Err(error);
            }
        }
        Ok(moves)
    }

    /// Refuses volumes that cannot be the daemon's. To be asked again where the key is written.
    ///
    /// # Errors
    /// [`Error::Server`], [`Error::InUse`].
    pub fn check(&self, model: &Model) -> Result<(), Error> {
        for (number, Move { what, to, .. }) in self.all.iter().enumerate() {
            let Some(key) = to else { continue };
            let refuse = |reason| Error::Server { what: *what, reason };
            let whole = find(model, key).is_ok_and(|record| record.renamed_from.is_none());
            if !whole {
                return Err(refuse(Unfit::Missing { volume: key.clone() }));
            }
            let mut by = users::Users::of_one(model, key);
            if self.all[..number].iter().any(|other| other.to == *to) {
                by.push(users::User::Server(key.project.clone(), self.all[0].what));
            }
            if !by.is_empty() {
                return Err(Error::InUse { by, hidden: 0 });
            }
            if !model.snapshots_of_volume(key).is_empty() {
                return Err(refuse(Unfit::HasSnapshots { volume: key.clone() }));
            }
        }
        Ok(())
    }

    /// Where a place's files lie.
    fn place(&self, one: &Move, key: Option<&VolumeKey>) -> Result<PathBuf, Error> {
        Ok(match key {
            None => one.paths.own().to_owned(),
            Some(key) => self.context.pools.get(&key.pool)?.path(&VolumeId::custom(key)),
        })
    }

    async fn copy(&self, one: &Move) -> Result<(), Error> {
        settle_one(&self.context, one.what, one.from.as_ref()).await?;
        let (from, to) = (self.place(one, one.from.as_ref())?, self.place(one, one.to.as_ref())?);
        let (what, paths, volume) = (one.what, one.paths.clone(), one.to.clone());
        let journal = Journal { from: Named::of(one.from.as_ref()), to: Named::of(one.to.as_ref()) };
        let model = self.context.db.model();
        let size = volume.as_ref().and_then(|key| model.volumes.get(key)).and_then(|record| size_of(&record.config));
        blocking(move || {
            let moved = (|| {
                match &volume {
                    None => make_dir(&to)?,
                    Some(volume) => {
                        if let Some((path, _)) = files(&to)?.first() {
                            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                            return Err(Unfit::NotEmpty { volume: volume.clone(), file });
                        }
                    }
                }
                paths.write_journal(&journal)?;
                also_at(&from, &to, size)
            })();
            moved.map_err(|reason| Error::Server { what, reason })
        })
        .await
    }

    /// The key is written: from here on the new places count.
    ///
    /// # Errors
    /// [`Error::Server`]: then the key is to be what it was, and [`Moves::undo`] called.
    pub async fn finish(&self) -> Result<(), Error> {
        for one in &self.all {
            lead(&self.context, one.what, one.to.as_ref()).await?;
        }
        self.clear(&self.all).await;
        Ok(())
    }

    /// The key is not written, or is what it was again.
    pub async fn undo(&self) {
        self.clear(&self.all).await;
    }

    /// Clears the places that do not count. What fails is left to the next start.
    async fn clear(&self, moves: &[Move]) {
        let model = self.context.db.model();
        for one in moves {
            let counts = one.what.of(&model.config);
            if let Err(error) = settle_one(&self.context, one.what, counts.as_ref()).await {
                tracing::warn!(key = one.what.key(), %error, "what was moved is not cleared yet");
            }
        }
    }
}

/// The link to a volume, as seen from the state directory.
fn target(key: &VolumeKey) -> PathBuf {
    Path::new("storage-pools").join(key.pool.as_str()).join("custom").join(key.directory())
}

async fn lead(context: &Context, what: ServerVolume, to: Option<&VolumeKey>) -> Result<(), Error> {
    let (paths, target) = (Paths::of(context, what), to.map(target));
    blocking(move || paths.lead_to(target.as_deref()).map_err(|reason| Error::Server { what, reason })).await
}

/// Brings the link to the place that counts, and clears the other one that a journal names.
async fn settle_one(context: &Context, what: ServerVolume, counts: Option<&VolumeKey>) -> Result<(), Error> {
    lead(context, what, counts).await?;
    let (paths, counts) = (Paths::of(context, what), Named::of(counts));
    let (pools, model) = (Arc::clone(&context.pools), context.db.model());
    let refuse = move |reason| Error::Server { what, reason };
    blocking(move || {
        paths.clear_beside().map_err(refuse)?;
        let Ok(text) = std::fs::read(&paths.journal) else { return paths.forget_journal().map_err(refuse) };
        // One that cannot be read was never whole: nothing had been done.
        let journal: Option<Journal> = serde_json::from_slice(&text).ok();
        let places = journal.into_iter().flat_map(|journal| [journal.from, journal.to]);
        for (pool, name) in places.filter(|place| *place != counts).filter_map(|Named(place)| place) {
            let key = VolumeKey { pool, project: crate::names::ProjectName::default(), name };
            if !model.volumes.contains_key(&key) {
                continue;
            }
            let unsettled = |_| refuse(Unfit::Unsettled { volume: format!("{}/{}", key.pool, key.name) });
            let dir = pools.get(&key.pool).map_err(unsettled)?.path(&VolumeId::custom(&key));
            if dir.is_dir() {
                clear(&dir).map_err(refuse)?;
            }
        }
        paths.forget_journal().map_err(refuse)
    })
    .await
}

/// The volume is lost, and with it what of the daemon's own lies there.
pub(super) fn forget(tx: &mut Tx<'_>, volume: &VolumeKey) -> Result<(), Error> {
    let Some(what) = tx.model().server_use(volume) else { return Ok(()) };
    let mut config = (*tx.model().config).clone();
    config.remove(what.key());
    Ok(tx.set_config(config)?)
}

/// What lay there begins anew in the state directory.
pub(super) async fn begin_anew(context: &Context) {
    let model = context.db.model();
    for what in ServerVolume::ALL.into_iter().filter(|what| what.of(&model.config).is_none()) {
        if let Err(error) = settle_one(context, what, None).await {
            tracing::error!(key = what.key(), %error, "beginning anew without a lost volume");
        }
    }
}

/// At the daemon's start, with the pools open: what a crash left half moved is finished or undone.
pub async fn settle(context: &Arc<Context>) {
    let model = context.db.model();
    for what in ServerVolume::ALL {
        let counts = what.of(&model.config);
        if let Err(error) = settle_one(context, what, counts.as_ref()).await {
            tracing::warn!(key = what.key(), %error, "what a crash left of a move stays for now");
        }
    }
    let images = Arc::clone(context);
    let tidied = tokio::task::spawn_blocking(move || images.images.tidy()).await;
    match tidied {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "images cannot be used"),
        Err(error) => tracing::error!(%error, "looking for images"),
    }
}
