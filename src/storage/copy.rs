//! A copy of a tree with all that its files have: owners, modes, times, attributes, ACLs, capabilities, holes, hard links
//! and special files. Content is shared where the file system can (`FICLONE`), and copied inside the kernel elsewhere.
//!
//! A tree that is in use is copied in two passes, so that its users are held only for the second one:
//!
//! ```text
//!  pass 1, users go on       everything, and when it began
//!  users are held
//!  pass 2                    what changed since (ctime), what came and what went
//!  users go on
//! ```

mod late;
mod single;
mod twin;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use self::late::{Late, Name, above, hash, path_of};
use super::error::{Error, io};
use super::files::{make_dir, remove_dir};
use super::walk::{self, Entry, Tree, Visit, walk};
use crate::sys::{btrfs, mount};

pub(super) use single::Single;
pub(super) use twin::{Same, Twin, forget, give_back};

/// Holds what works on a tree.
pub trait Pause: Send + Sync {
    /// Nothing writes any more.
    ///
    /// # Errors
    /// Then everything goes on.
    fn pause(&self) -> Result<(), Error>;

    /// Everything goes on.
    ///
    /// # Errors
    /// When that cannot be done.
    fn resume(&self) -> Result<(), Error>;
}

/// File systems count times in steps of at most so many nanoseconds: what changed a step before the beginning counts as
/// changed after it.
const STEP: i64 = 50_000_000;

/// Copies the directory `from` with all below it to `to`, which must not be there, or be empty. Nobody may change it
/// meanwhile.
///
/// # Errors
/// With the file that could not be copied.
pub(super) fn tree(from: &Path, to: &Path) -> Result<(), Error> {
    pass::<false>(from, to, None, None).map(drop)
}

/// The same; what `twin` has as well is taken over from it instead.
///
/// # Errors
/// As of [`tree`].
pub(super) fn tree_beside(from: &Path, to: &Path, twin: &Twin<'_>) -> Result<(), Error> {
    pass::<false>(from, to, None, Some(twin)).map(drop)
}

/// The same of a tree in use, which `pause` holds for the end of it.
///
/// # Errors
/// As of [`tree`], or when it cannot be held.
pub(super) fn live(trees: &[(PathBuf, PathBuf)], pause: &dyn Pause) -> Result<(), Error> {
    let mut seen = Vec::new();
    for (from, to) in trees {
        seen.push(first(from, to)?);
    }
    pause.pause()?;
    let second = trees.iter().zip(&seen).try_for_each(|((from, to), seen)| second(from, to, seen));
    let resumed = pause.resume();
    second.and(resumed)
}

/// Copies the directory `rootfs` of a volume as it lies on the disk.
///
/// # Errors
/// As of [`live`].
pub(super) fn root(of: &Path, held: Option<&dyn Pause>, to: &Path) -> Result<(), Error> {
    let Some(pause) = held else { return tree(&of.join("rootfs"), to) };
    // What is mounted over it shows the ids of the host: the mount below that one is what is copied.
    let below = mount::clone_of(of).map_err(io("open", of))?;
    let from = PathBuf::from(format!("/proc/self/fd/{}", below.as_raw_fd())).join("rootfs");
    live(&[(from, to.to_owned())], pause)
}

/// As [`tree`], of a tree in use whose users nobody can hold: each file as it was at some moment of the copy.
///
/// # Errors
/// As of [`tree`].
pub(super) fn unheld(from: &Path, to: &Path) -> Result<(), Error> {
    let seen = first(from, to)?;
    // What goes while it is looked at is gone.
    pass::<true>(from, to, Some(&seen), None).map(drop)
}

fn first(from: &Path, to: &Path) -> Result<Seen, Error> {
    // Pages that are written through a mapping take their time from the first write after they were written out.
    walk::open(from).and_then(|root| rustix::fs::syncfs(&root).map_err(|e| io("write out", from)(e.into())))?;
    pass::<true>(from, to, None, None)
}

fn second(from: &Path, to: &Path, seen: &Seen) -> Result<(), Error> {
    pass::<false>(from, to, Some(seen), None).map(drop)
}

/// What a pass saw, for the next one.
struct Seen {
    since: Timespec,
    /// The number of the file that each directory was, by the hash of its path.
    directories: BTreeMap<u64, u64>,
}

const DEFAULT_ACL: &str = "system.posix_acl_default";

struct Copy<'a, const LIVE: bool> {
    root: &'a OwnedFd,
    /// Below the root, what is there when it is entered.
    made: Tree<'a>,
    top: &'a Path,
    /// Of the first pass: then this is the second one.
    seen: Option<&'a Seen>,
    directories: Mutex<BTreeMap<u64, u64>>,
    /// Of the second pass: directories in which no name has come, gone or changed since the first one.
    quiet: Mutex<BTreeSet<u64>>,
    twin: Option<&'a Twin<'a>>,
    /// Where the first name of a file that has several lies.
    links: Mutex<BTreeMap<(u64, u64), Name>>,
    /// By the hash of their paths, and in the order of the walk.
    late: Mutex<(BTreeMap<u64, Late>, Vec<u64>)>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pass<const LIVE: bool>(from: &Path, to: &Path, seen: Option<&Seen>, twin: Option<&Twin<'_>>) -> Result<Seen, Error> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let nanoseconds = now.tv_nsec - STEP;
    let since = match nanoseconds < 0 {
        true => Timespec { tv_sec: now.tv_sec - 1, tv_nsec: nanoseconds + 1_000_000_000 },
        false => Timespec { tv_sec: now.tv_sec, tv_nsec: nanoseconds },
    };
    make_dir(to, 0o700)?;
    let source = walk::open(from)?;
    let root = walk::open(to)?;
    let copy = Copy::<LIVE> {
        root: &root,
        made: Tree::new(&root),
        top: to,
        seen,
        directories: Mutex::default(),
        quiet: Mutex::default(),
        twin,
        links: Mutex::default(),
        late: Mutex::default(),
    };
    walk(&source, from, &copy)?;
    twin.map_or(Ok(()), Twin::take)?;
    let (late, order) = std::mem::take(&mut *held(&copy.late));
    for number in order {
        let Some((Late { times, default_acl, .. }, below)) = late.get(&number).zip(path_of(&late, number)) else {
            continue;
        };
        let failed = |errno: Errno| io("finish", to.join(&below))(errno.into());
        let directory = copy.made.open(&below).map_err(failed)?;
        if let Some(acl) = default_acl {
            rustix::fs::fsetxattr(&directory, DEFAULT_ACL, acl, XattrFlags::empty()).map_err(failed)?;
        }
        rustix::fs::futimens(&directory, times).map_err(failed)?;
    }
    let directories = std::mem::take(&mut *held(&copy.directories));
    Ok(Seen { since, directories })
}

/// Where the files of a directory are copied to.
struct Place {
    copy: OwnedFd,
    /// See [`Copy::quiet`].
    quiet: bool,
    /// The directory of the twin, if files may be taken over from it, and where it lies.
    twin: Option<(OwnedFd, PathBuf)>,
}

impl<const LIVE: bool> Visit for Copy<'_, LIVE> {
    type Place = Place;
    const LIVE: bool = LIVE;

    fn enter(&self, below: &Path) -> Result<Place, Error> {
        let copy = self.made.open(below).map_err(|e| io("open", self.top.join(below))(e.into()))?;
        let twin = self.twin.and_then(|twin| Some((twin.open(below)?, below.to_owned())));
        Ok(Place { copy, quiet: held(&self.quiet).contains(&hash(below)), twin })
    }

    fn knows_some(&self) -> bool {
        self.seen.is_some() || self.twin.is_some()
    }

    fn is_known(&self, place: &Place, name: &OsStr, stat: &Stat) -> bool {
        let taken = || match (self.twin, &place.twin) {
            (Some(twin), Some((directory, below))) => twin.takes(directory, below, name, stat),
            (Some(_) | None, _) => false,
        };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        (!is_directory && place.quiet && self.is_done(stat)) || taken()
    }

    fn visit(&self, place: Option<&Place>, entry: &Entry<'_>) -> Result<(), Error> {
        let place = place.map(|place| &place.copy);
        let done = match place {
            None => self.directory(self.root, OsStr::new("."), entry),
            Some(place) if entry.kind() == FileType::Directory => self.directory(place, entry.name(), entry),
            Some(place) => self.file(place, entry),
        };
        match done {
            // Gone since it was seen: the second pass looks again.
            Err(Stage { errno: Errno::NOENT | Errno::STALE, source: true, .. }) if LIVE => Ok(()),
            Err(stage) => Err(io(stage.doing, self.top.join(entry.below()))(stage.errno.into())),
            Ok(()) => Ok(()),
        }
    }
}

/// What failed with a file.
struct Stage {
    doing: &'static str,
    errno: Errno,
    /// On the side that is read.
    source: bool,
}

fn reading(doing: &'static str) -> impl FnOnce(Errno) -> Stage {
    move |errno| Stage { doing, errno, source: true }
}

fn writing(doing: &'static str) -> impl FnOnce(Errno) -> Stage {
    move |errno| Stage { doing, errno, source: false }
}

/// What is always the case for a name in a directory that one holds.
const NAME: AtFlags = AtFlags::SYMLINK_NOFOLLOW;

impl<const LIVE: bool> Copy<'_, LIVE> {
    /// Whether the first pass copied it as it is now.
    fn is_done(&self, stat: &Stat) -> bool {
        let Some(seen) = self.seen else { return false };
        (stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or(i64::MAX)) < (seen.since.tv_sec, seen.since.tv_nsec)
    }

    fn directory(&self, place: &OwnedFd, name: &OsStr, entry: &Entry<'_>) -> Result<(), Stage> {
        let below = entry.below();
        let number = hash(if below == Path::new(".") { Path::new("") } else { below });
        held(&self.directories).insert(number, entry.stat.st_ino);
        if let Some(seen) = self.seen {
            let same = seen.directories.get(&number) == Some(&entry.stat.st_ino);
            if !same && name != OsStr::new(".") {
                // Another directory by this name: nothing in it was copied from this one.
                self.remove(place, name)?;
            } else if !self.is_done(&entry.stat) {
                self.forget_what_went(entry)?;
            }
        }
        let mut new = true;
        if name != OsStr::new(".") {
            match make_like(place, name, entry) {
                Err(Errno::EXIST) if self.seen.is_some() => new = false,
                result => result.map_err(writing("create"))?,
            }
        }
        if self.is_done(&entry.stat) && (!new || name == OsStr::new(".")) {
            held(&self.quiet).insert(number);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(place, name, flags, Mode::empty()).map_err(writing("open"))?;
        let (above, times) = (above(below), times(&entry.stat));
        let mut late = Late { above, name: name.to_owned(), times, default_acl: None };
        if new || !self.is_done(&entry.stat) {
            rustix::fs::fchown(&made, owner(&entry.stat).0, owner(&entry.stat).1)
                .map_err(writing("set the owner of"))?;
            late.default_acl = attributes(entry, &made, self.seen.is_some())?;
            rustix::fs::fchmod(&made, mode(&entry.stat)).map_err(writing("set the mode of"))?;
        }
        let mut all = held(&self.late);
        all.0.insert(number, late);
        all.1.push(number);
        Ok(())
    }

    /// Removes what the first pass copied of a directory and is not there any more.
    fn forget_what_went(&self, entry: &Entry<'_>) -> Result<(), Stage> {
        let copied = match walk::open_below(self.root, entry.below()) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            result => result.map_err(writing("open"))?,
        };
        let here = File::open(entry.link()).map_err(|e| reading("open")(errno(&e)))?;
        for name in Dir::read_from(&copied).map_err(writing("read"))? {
            let name = name.map_err(writing("read"))?;
            let name = OsStr::from_bytes(name.file_name().to_bytes());
            if matches!(name.as_bytes(), b"." | b"..") {
                continue;
            }
            match rustix::fs::statat(&here, name, NAME) {
                Err(Errno::NOENT) => self.remove(&copied, name)?,
                result => drop(result.map_err(reading("look at"))?),
            }
        }
        Ok(())
    }

    fn remove(&self, place: &OwnedFd, name: &OsStr) -> Result<(), Stage> {
        match rustix::fs::unlinkat(place, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => {
                let path = PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd())).join(name);
                remove_dir(&path).map_err(|_| writing("remove")(Errno::IO))
            }
            Err(error) => Err(writing("remove")(error)),
        }
    }

    fn file(&self, place: &OwnedFd, entry: &Entry<'_>) -> Result<(), Stage> {
        let (name, stat) = (entry.name(), &entry.stat);
        if self.is_done(stat) && rustix::fs::statat(place, name, NAME).is_ok_and(|copied| same_kind(&copied, stat)) {
            return Ok(());
        }
        if self.seen.is_some() {
            self.remove(place, name)?;
        }
        if stat.st_nlink > 1 {
            let mut links = held(&self.links);
            let number = (stat.st_dev, stat.st_ino);
            if let Some((above, file)) = links.get(&number) {
                let parent = path_of(&held(&self.late).0, *above).ok_or_else(|| writing("open")(Errno::NOENT))?;
                let parent = self.made.open(&parent).map_err(writing("open"))?;
                return rustix::fs::linkat(&parent, &**file, place, name, AtFlags::empty()).map_err(writing("link"));
            }
            // It is there, if not whole, before another thread links to it.
            let made = make(place, name, entry)?;
            links.insert(number, (above(entry.below()), name.to_owned()));
            drop(links);
            return fill(made, place, name, entry, self.seen.is_some());
        }
        fill(make(place, name, entry)?, place, name, entry, self.seen.is_some())
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}

fn times(stat: &Stat) -> Timestamps {
    let at = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
    };
    Timestamps {
        last_access: at(stat.st_atime, stat.st_atime_nsec),
        last_modification: at(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Makes a directory; a subvolume of one, where that can be: who made it (Docker does) needs it as such.
fn make_like(place: &OwnedFd, name: &OsStr, entry: &Entry<'_>) -> Result<(), Errno> {
    if entry.is_subvolume() && btrfs::create(place, name).is_ok() {
        return Ok(());
    }
    rustix::fs::mkdirat(place, name, Mode::RWXU)
}

fn same_kind(a: &Stat, b: &Stat) -> bool {
    FileType::from_raw_mode(a.st_mode) == FileType::from_raw_mode(b.st_mode)
}

/// Makes a file without its content; the descriptor is that of a regular one.
fn make(place: &OwnedFd, name: &OsStr, entry: &Entry<'_>) -> Result<Option<File>, Stage> {
    let stat = &entry.stat;
    match entry.kind() {
        FileType::RegularFile => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mode = Mode::RUSR | Mode::WUSR;
            Ok(Some(rustix::fs::openat(place, name, flags, mode).map_err(writing("create"))?.into()))
        }
        FileType::Symlink => {
            let target = entry.target().map_err(reading("read"))?;
            rustix::fs::symlinkat(&target, place, name).map_err(writing("create"))?;
            Ok(None)
        }
        kind => {
            let (mode, device) = (Mode::from_raw_mode(0o600), stat.st_rdev);
            rustix::fs::mknodat(place, name, kind, mode, device).map_err(writing("create"))?;
            Ok(None)
        }
    }
}

/// Gives a file that was made its content and all that belongs to it. `inherits`: it may have attributes of its directory.
fn fill(made: Option<File>, place: &OwnedFd, name: &OsStr, entry: &Entry<'_>, inherits: bool) -> Result<(), Stage> {
    let (stat, (uid, gid)) = (&entry.stat, owner(&entry.stat));
    let Some(made) = made else {
        rustix::fs::chownat(place, name, uid, gid, NAME).map_err(writing("set the owner of"))?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let there = rustix::fs::openat(place, name, flags, Mode::empty()).map_err(writing("open"))?;
        attributes(entry, &there, inherits)?;
        if entry.kind() != FileType::Symlink {
            let link = format!("/proc/self/fd/{}", there.as_raw_fd());
            rustix::fs::chmod(link, mode(stat)).map_err(writing("set the mode of"))?;
        }
        return rustix::fs::utimensat(place, name, &times(stat), NAME).map_err(writing("set the times of"));
    };
    if stat.st_size > 0 {
        let source = File::options().read(true).open(entry.link()).map_err(|e| reading("open")(errno(&e)))?;
        if rustix::fs::ioctl_ficlone(&made, &source).is_err() {
            content(&source, &made, u64::try_from(stat.st_size).unwrap_or_default())?;
        }
    }
    // A change of the owner takes set-id bits and capabilities away: it comes first.
    rustix::fs::fchown(&made, uid, gid).map_err(writing("set the owner of"))?;
    attributes(entry, &made, inherits)?;
    rustix::fs::fchmod(&made, mode(stat)).map_err(writing("set the mode of"))?;
    rustix::fs::futimens(&made, &times(stat)).map_err(writing("set the times of"))
}

/// Copies what there is between the holes.
fn content(from: &File, to: &File, size: u64) -> Result<(), Stage> {
    rustix::fs::ftruncate(to, size).map_err(writing("write"))?;
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            // Only a hole is left.
            Err(Errno::NXIO) => return Ok(()),
            result => result.map_err(reading("read"))?,
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(data)).map_err(reading("read"))?.min(size);
        at = data;
        while at < end {
            let (mut source, mut target) = (at, at);
            let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(1 << 30);
            let copied = match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), length) {
                Ok(copied) => copied as u64,
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => piece(from, to, at, length)?,
                Err(error) => return Err(writing("write")(error)),
            };
            if copied == 0 {
                // It became shorter.
                return Ok(());
            }
            at += copied;
        }
    }
    Ok(())
}

/// Copies a piece by reading and writing it; how much of it.
fn piece(from: &File, to: &File, at: u64, length: usize) -> Result<u64, Stage> {
    let mut buffer = vec![0; length.min(1 << 18)];
    let read = from.read_at(&mut buffer, at).map_err(|e| reading("read")(errno(&e)))?;
    let read = buffer.get(..read).unwrap_or_default();
    to.write_all_at(read, at).map_err(|e| writing("write")(errno(&e)))?;
    Ok(read.len() as u64)
}

/// Copies the extended attributes: ACLs, capabilities, what overlayfs writes down, users' own. With `replace` others go.
/// The default ACL of a directory is only returned.
fn attributes(entry: &Entry<'_>, made: impl AsFd, replace: bool) -> Result<Option<Vec<u8>>, Stage> {
    let from = entry.link();
    let to = format!("/proc/self/fd/{}", made.as_fd().as_raw_fd());
    let names = list(&from).map_err(reading("list the attributes of"))?;
    if replace {
        for name in list(&to).map_err(writing("list the attributes of"))? {
            if !names.contains(&name) {
                rustix::fs::removexattr(&to, OsStr::from_bytes(&name)).map_err(writing("set an attribute of"))?;
            }
        }
    }
    let (mut value, mut default_acl) = (Vec::new(), None);
    for name in names {
        let name = OsStr::from_bytes(&name);
        value.resize(65536, 0);
        let length = match rustix::fs::getxattr(&from, name, &mut value[..]) {
            Err(Errno::NODATA) => continue,
            result => result.map_err(reading("read an attribute of"))?,
        };
        let value = value.get(..length).unwrap_or_default();
        if name == OsStr::new(DEFAULT_ACL) {
            default_acl = Some(value.to_vec());
            continue;
        }
        rustix::fs::setxattr(&to, name, value, XattrFlags::empty()).map_err(writing("set an attribute of"))?;
    }
    Ok(default_acl)
}

fn list(path: &str) -> Result<Vec<Vec<u8>>, Errno> {
    let size = match rustix::fs::listxattr_query(path) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        result => result?,
    };
    let mut names = vec![0; size + 256];
    let length = rustix::fs::listxattr(path, &mut names[..])?;
    let names = names.get(..length).unwrap_or_default();
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty() && !is_xfs_own(name));
    Ok(names.map(<[u8]>::to_vec).collect())
}

/// How xfs keeps a POSIX ACL, which is listed as such, too.
fn is_xfs_own(name: &[u8]) -> bool {
    name.starts_with(b"trusted.SGI_ACL_")
}

/// What overlayfs writes down about a file, but for what a nested one does (`trusted.overlay.overlay.`).
fn is_overlays(name: &[u8]) -> bool {
    name.strip_prefix(b"trusted.overlay.").is_some_and(|rest| !rest.starts_with(b"overlay."))
}

/// Whether two directories are alike themselves, whatever is in them and whatever overlayfs wrote down about them.
///
/// # Errors
/// When one of them cannot be looked at.
pub(super) fn alike(one: &Path, other: &Path) -> Result<bool, Error> {
    let look = |path: &Path| {
        let failed = |errno: Errno| io("look at", path)(errno.into());
        let entry = Entry::of(path).map_err(failed)?;
        let mut attributes = BTreeMap::new();
        for name in list(&entry.link()).map_err(failed)?.into_iter().filter(|name| !is_overlays(name)) {
            let value = entry.attribute(&String::from_utf8_lossy(&name))?;
            attributes.insert(name, value);
        }
        let stat = entry.stat;
        let time = (stat.st_mtime, stat.st_mtime_nsec);
        Ok::<_, Error>(((stat.st_mode, stat.st_uid, stat.st_gid, time), attributes))
    };
    Ok(look(one)? == look(other)?)
}

/// Copies what of `names` there is in the directory `from` into `to`, file or tree.
///
/// # Errors
/// As of [`tree`].
pub(super) fn parts(from: &Path, to: &Path, names: &[&str]) -> Result<(), Error> {
    for name in names {
        let (source, target) = (from.join(name), to.join(name));
        match source.symlink_metadata() {
            Ok(found) if found.is_dir() => tree(&source, &target)?,
            Ok(found) if found.is_file() => {
                std::fs::copy(&source, &target).map_err(io("copy", &source))?;
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
pub(in crate::storage) mod tests;
