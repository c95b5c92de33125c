//! What a restore need not copy: what of the volume has not changed since it had what the snapshot has moves into the new
//! tree, whole directories at once; the old tree goes then, and the new one takes its place.
//!
//! When volume and snapshot had the same is written down by both, since a move is a change, too (ctime):
//!
//! ```text
//!  snapshot of one that is down    `same` in the snapshot:  <id> <time before the copy began>
//!  restore                         `same` in the volume:    <id> <time after the last move>
//! ```
//! A file is taken over when it changed (ctime, which no program sets) before that time and its kind, mode, owners, size
//! and time are those in the snapshot; not one with several names, and nothing below a directory that has changed, since
//! that may be another one by its name.
//!
//! What moves is planned when all else of the new tree is there, so that little can fail then:
//!
//! ```text
//!  new tree without it ──> `moves` in it, on disk ──> moves ──> new and old tree change places
//! ```
//! Until the last step all goes back if anything fails, after a crash at the next opening of the pool ([`give_back`]).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use rustix::fs::{FileType, RenameFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::super::error::{Error, io};
use super::super::walk::{self, Entry, Visit, walk};
use super::{NAME, held};

/// In a volume or snapshot: see above.
const SAME: &str = "same";
/// In a new tree: what comes from the volume.
const MOVES: &str = "moves";

/// File systems take times from this clock (or one that is not behind it), so what changes later has no smaller one.
fn now() -> Timespec {
    clock_gettime(ClockId::RealtimeCoarse)
}

/// When a volume had what a snapshot has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::storage) struct Same {
    /// Of the snapshot: names come again.
    id: String,
    at: Timespec,
}

impl Same {
    /// Of a snapshot that is about to be made of a volume that nobody uses.
    pub(in crate::storage) fn begin() -> Self {
        Self { id: uuid::Uuid::new_v4().to_string(), at: now() }
    }

    /// What is written down in `volume`; without it, or when it cannot be read, everything is copied.
    fn read(volume: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(volume.join(SAME)).ok()?;
        let mut words = text.split(' ');
        let id = words.next()?.to_owned();
        let at = Timespec { tv_sec: words.next()?.parse().ok()?, tv_nsec: words.next()?.parse().ok()? };
        Some(Self { id, at })
    }

    /// Writes it down in a volume or snapshot.
    pub(in crate::storage) fn write(&self, volume: &Path) -> Result<(), Error> {
        let file = volume.join(SAME);
        std::fs::write(&file, format!("{} {} {}", self.id, self.at.tv_sec, self.at.tv_nsec)).map_err(io("write", file))
    }

    /// Of the volume that has just become what the snapshot is.
    fn renewed(&self) -> Self {
        let last = now();
        // The times of all that was done lie behind us when the clock moves on: within a tick of the kernel. One that is set
        // back meanwhile only makes the next restore copy more.
        while now() == last {
            std::thread::sleep(Duration::from_millis(1));
        }
        Self { id: self.id.clone(), at: now() }
    }
}

/// The volume that a restore replaces, and what of it the new one takes over.
pub(in crate::storage) struct Twin<'a> {
    pool: &'a Path,
    volume: &'a Path,
    new: &'a Path,
    /// The root of the volume.
    root: OwnedFd,
    same: Same,
    /// Directories that have changed themselves, or are other ones.
    others: Mutex<BTreeSet<PathBuf>>,
    /// Directories below which something has changed.
    changed: Mutex<BTreeSet<PathBuf>>,
    taken: Mutex<Vec<PathBuf>>,
}

impl<'a> Twin<'a> {
    /// Of `volume`, which nobody uses, for a restore of `snapshot` to `new`, which is to take its place; all in `pool`.
    /// `None`: nothing is known about them, or the volume is damaged, which is what a restore may be for.
    ///
    /// # Errors
    /// When the snapshot cannot be read.
    pub(in crate::storage) fn of(
        pool: &'a Path,
        volume: &'a Path,
        snapshot: &Path,
        new: &'a Path,
    ) -> Result<Option<Self>, Error> {
        let Some(mut same) = Same::read(snapshot) else { return Ok(None) };
        if let Some(later) = Same::read(volume).filter(|later| later.id == same.id) {
            same = later;
        }
        let Ok(root) = walk::open(&volume.join("rootfs")) else { return Ok(None) };
        let (others, changed, taken) = (Mutex::default(), Mutex::default(), Mutex::default());
        let twin = Self { pool, volume, new, root, same, others, changed, taken };
        let top = snapshot.join("rootfs");
        walk(&walk::open(&top)?, &top, &Compare(&twin))?;
        Ok(Some(twin))
    }

    /// When the new tree is whole.
    pub(in crate::storage) fn finish(self) -> Result<(), Error> {
        self.same.renewed().write(self.new)
    }

    /// The directory at `below`, if what it has may be taken over.
    pub(super) fn open(&self, below: &Path) -> Option<OwnedFd> {
        let others = held(&self.others);
        let other = !others.is_empty() && below.ancestors().any(|above| others.contains(above));
        drop(others);
        if other { None } else { walk::open_below(&self.root, below).ok() }
    }

    /// Whether the file of this name in `directory` of the volume is what `wanted`, one of the snapshot, is.
    fn has(&self, directory: &OwnedFd, name: &OsStr, wanted: &Stat) -> bool {
        rustix::fs::statat(directory, name, NAME).is_ok_and(|there| {
            let nanoseconds = i64::try_from(there.st_ctime_nsec).unwrap_or(i64::MAX);
            let unchanged = Timespec { tv_sec: there.st_ctime, tv_nsec: nanoseconds } < self.same.at;
            let single = is_directory(wanted) || wanted.st_nlink == 1;
            unchanged && single && what_is_seen(&there) == what_is_seen(wanted)
        })
    }

    /// Whether `name` in `directory`, at `below` in the root, is taken over and needs no copy; `wanted` is what it is in the
    /// snapshot.
    pub(super) fn takes(&self, directory: &OwnedFd, below: &Path, name: &OsStr, wanted: &Stat) -> bool {
        let path = below.join(name);
        let taken = match is_directory(wanted) {
            true => self.has(directory, name, wanted) && !held(&self.changed).contains(&path),
            false => self.has(directory, name, wanted),
        };
        if taken {
            held(&self.taken).push(path);
        }
        taken
    }

    /// Moves what is taken over into the new tree.
    pub(super) fn take(&self) -> Result<(), Error> {
        let paths = std::mem::take(&mut *held(&self.taken));
        let plan = Plan { volume: self.volume.strip_prefix(self.pool).unwrap_or(self.volume).to_owned(), paths };
        plan.write(self.new, &self.root)?;
        let moved = plan.run(&self.volume.join("rootfs"), &self.new.join("rootfs"), false);
        if moved.is_err() {
            give_back(self.pool, self.new)?;
        }
        moved
    }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn what_is_seen(stat: &Stat) -> impl PartialEq {
    // A directory's size says nothing about it.
    let size = if is_directory(stat) { 0 } else { stat.st_size };
    (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev, size, stat.st_mtime, stat.st_mtime_nsec)
}

/// Finds what has changed, looking at the files of the snapshot.
struct Compare<'a>(&'a Twin<'a>);

impl Visit for Compare<'_> {
    type Place = Option<OwnedFd>;

    fn enter(&self, below: &Path) -> Result<Option<OwnedFd>, Error> {
        Ok(self.0.open(below))
    }

    fn knows_some(&self) -> bool {
        true
    }

    fn is_known(&self, place: &Option<OwnedFd>, name: &OsStr, stat: &Stat) -> bool {
        !is_directory(stat) && place.as_ref().is_some_and(|directory| self.0.has(directory, name, stat))
    }

    fn visit(&self, place: Option<&Option<OwnedFd>>, entry: &Entry<'_>) -> Result<(), Error> {
        // The root itself has always been that.
        let Some(place) = place else { return Ok(()) };
        let here = entry.below();
        if is_directory(&entry.stat) {
            if place.as_ref().is_some_and(|directory| self.0.has(directory, entry.name(), &entry.stat)) {
                return Ok(());
            }
            held(&self.0.others).insert(here.to_owned());
        }
        let mut changed = held(&self.0.changed);
        for above in here.ancestors() {
            if !changed.insert(above.to_owned()) && above != here {
                break;
            }
        }
        Ok(())
    }
}

/// What moves from a volume to the tree that is to take its place.
struct Plan {
    /// The volume, below the pool.
    volume: PathBuf,
    /// Below both roots.
    paths: Vec<PathBuf>,
}

/// A directory that something moves from, and its times before that.
struct Parent {
    below: PathBuf,
    times: Timestamps,
}

impl Plan {
    /// Writes it down in the new tree, for good: its name (a plan that stayed in a volume is another one's), the volume,
    /// the directories of `root` that are to change with their times, what moves.
    fn write(&self, new: &Path, root: &OwnedFd) -> Result<(), Error> {
        let file = new.join(MOVES);
        let mut text = Vec::new();
        let mut put = |bytes: &[u8]| {
            text.extend_from_slice(bytes);
            text.push(0);
        };
        put(new.file_name().unwrap_or_default().as_bytes());
        put(self.volume.as_os_str().as_bytes());
        let parents: BTreeSet<&Path> = self.paths.iter().filter_map(|path| path.parent()).collect();
        for parent in parents {
            let failed = |errno: Errno| io("look at", parent)(errno.into());
            let stat = walk::open_below(root, parent).and_then(rustix::fs::fstat).map_err(failed)?;
            put(format!("{} {}", stat.st_mtime, stat.st_mtime_nsec).as_bytes());
            put(parent.as_os_str().as_bytes());
        }
        put(b"");
        for path in &self.paths {
            put(path.as_os_str().as_bytes());
        }
        (|| {
            let mut made = File::create(&file)?;
            made.write_all(&text)?;
            made.sync_all()
        })()
        .map_err(io("write", file))
    }

    /// That of the new tree `new`, if there is one that is its own.
    fn read(new: &Path) -> Result<Option<(Self, Vec<Parent>)>, Error> {
        let file = new.join(MOVES);
        let text = match std::fs::read(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => return Ok(None),
            text => text.map_err(io("read", file))?,
        };
        // Cut off: it was being written, and nothing has moved.
        let Some(text) = text.strip_suffix(b"\0") else { return Ok(None) };
        let mut words = text.split(|byte| *byte == 0);
        if words.next() != new.file_name().map(OsStr::as_bytes) {
            return Ok(None);
        }
        let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        let Some(volume) = words.next().map(path) else { return Ok(None) };
        let mut parents = Vec::new();
        while let Some(word) = words.next().filter(|word| !word.is_empty()) {
            let numbers = std::str::from_utf8(word).ok().and_then(|text| text.split_once(' '));
            let time = numbers.and_then(|(seconds, rest)| Some((seconds.parse().ok()?, rest.parse().ok()?)));
            let (Some((tv_sec, tv_nsec)), Some(below)) = (time, words.next()) else { return Ok(None) };
            let last_access = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
            let times = Timestamps { last_access, last_modification: Timespec { tv_sec, tv_nsec } };
            parents.push(Parent { below: path(below), times });
        }
        Ok(Some((Self { volume, paths: words.map(path).collect() }, parents)))
    }

    /// Moves all from one root to the other; with `lenient` what is not there, and what is there already.
    fn run(&self, from: &Path, to: &Path, lenient: bool) -> Result<(), Error> {
        let (old, new) = (walk::open(from)?, walk::open(to)?);
        let mut last: Option<(&Path, OwnedFd, OwnedFd)> = None;
        for path in &self.paths {
            let failed = |errno: Errno| io("move", from.join(path))(errno.into());
            let (parent, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
            let (source, target) = match &last {
                Some((at, source, target)) if *at == parent => (source, target),
                Some(_) | None => {
                    let source = walk::open_below(&old, parent).map_err(failed)?;
                    let target = walk::open_below(&new, parent).map_err(failed)?;
                    let (_, source, target) = last.insert((parent, source, target));
                    (&*source, &*target)
                }
            };
            match rustix::fs::renameat_with(source, name, target, name, RenameFlags::NOREPLACE) {
                Err(Errno::NOENT) if lenient => {}
                result => result.map_err(failed)?,
            }
        }
        Ok(())
    }
}

/// Gives back what `new`, a tree that was to take the place of a volume of `pool`, has taken over from that; nothing is
/// fine.
///
/// # Errors
/// Then `new` must stay, to be asked again: it has files that nobody else has.
pub(in crate::storage) fn give_back(pool: &Path, new: &Path) -> Result<(), Error> {
    let Some((plan, parents)) = Plan::read(new)? else { return Ok(()) };
    let root = pool.join(&plan.volume).join("rootfs");
    plan.run(&new.join("rootfs"), &root, true)?;
    let opened = walk::open(&root)?;
    for Parent { below, times } in parents {
        let set = walk::open_below(&opened, &below).and_then(|directory| rustix::fs::futimens(&directory, &times));
        set.map_err(|errno| io("set the times of", root.join(&below))(errno.into()))?;
    }
    forget(new);
    Ok(())
}

/// Takes the plan away from a volume that is whole; one that stays is nobody's.
pub(in crate::storage) fn forget(volume: &Path) {
    let _ = std::fs::remove_file(volume.join(MOVES));
}
