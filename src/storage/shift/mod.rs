//! Shifting the ids of a volume's files on disk, where there are no id-mapped mounts.
//!
//! ```text
//!   <volume>/idmap.json   the map that the files are stored with; none: unshifted
//!   <volume>/shift.json   a shift under way: to which map, and the phases that are left
//! ```
//! Killed at any point, it is taken up again by whoever needs the volume next. For that, doing a phase twice must be
//! the same as doing it once. A look at all files, which changes nothing, finds which ids there are. If no old id is
//! also a new one, the id of a file tells whether it was shifted, and there is one phase; else the first phase goes to
//! ids that nobody has, and a second one from there. The phases lie on the disk before the first file is changed.
//!
//! A change of the owner takes setuid and setgid bits and capabilities from a file (chown(2)): those of each such file
//! are in the journal, too, by its inode, and are set again whatever the file has now.

mod journal;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::FileType;

use super::error::{Error, io};
use super::walk::{self, Entry, walk};
use crate::security::idmap::IdMap;
use crate::sys::file_ids as ids;
use ids::{Seen, Table};
use journal::{Journal, Special};

pub(super) use journal::{STORED, stored};

/// How far a shift is, for whoever watches.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    all: AtomicU64,
    #[cfg(test)]
    fuse: Option<std::sync::atomic::AtomicI64>,
}

impl Progress {
    /// Files shifted, of how many; `None` as long as nothing is shifted. One with two phases counts each file twice.
    pub fn told(&self) -> Option<(u64, u64)> {
        let all = self.all.load(Ordering::Relaxed);
        (all > 0).then(|| (self.done.load(Ordering::Relaxed).min(all), all))
    }

    /// Asked before every change; in a test, the point where it is killed.
    fn step(&self) -> Result<(), Error> {
        #[cfg(test)]
        if let Some(fuse) = &self.fuse
            && fuse.fetch_sub(1, Ordering::Relaxed) <= 0
        {
            return Err(Error::Damaged { path: "fuse".into(), reason: "killed".to_owned() });
        }
        Ok(())
    }
}

/// Brings the files of `volume` to `wanted` (`None`: unshifted); first finishes what was begun. With `refuse`, nothing
/// is shifted. Nobody may use the volume meanwhile. Blocking.
///
/// # Errors
/// [`Error::ShiftRefused`]; else what is left is done by the next call.
pub(super) fn bring(volume: &Path, wanted: Option<&IdMap>, refuse: bool, progress: &Progress) -> Result<(), Error> {
    let begun = Journal::read(volume)?;
    if begun.is_none() && stored(volume)?.as_ref() == wanted {
        return Ok(());
    }
    if refuse {
        return Err(Error::ShiftRefused);
    }
    // Files half shifted are nobody's.
    std::os::unix::fs::chown(volume, Some(0), Some(0)).map_err(io("set the owner of", volume))?;
    std::fs::set_permissions(volume, PermissionsExt::from_mode(0o700)).map_err(io("set the mode of", volume))?;
    if let Some(journal) = begun {
        tracing::info!(volume = %volume.display(), "finishing an interrupted shift");
        finish(volume, journal, progress)?;
    }
    let stored = stored(volume)?;
    if stored.as_ref() == wanted {
        return Ok(());
    }
    let (journal, strange) = look(&volume.join("rootfs"), stored.as_ref(), wanted)?;
    if strange > 0 {
        tracing::warn!(volume = %volume.display(), files = strange, "files with ids that are not mapped keep them");
    }
    progress.step()?;
    journal.write(volume)?;
    finish(volume, journal, progress)
}

/// Finishes what was begun; nothing is fine. Nobody may use the volume meanwhile. Blocking.
///
/// # Errors
/// What is left is done by the next call.
pub(super) fn settle(volume: &Path) -> Result<(), Error> {
    match Journal::read(volume)? {
        Some(journal) => finish(volume, journal, &Progress::default()),
        None => Ok(()),
    }
}

/// What was found by a look.
#[derive(Default)]
struct Found {
    seen: Seen,
    special: BTreeMap<u64, Special>,
    files: u64,
    strange: u64,
}

/// What becomes of an id of the disk; `None`: it is not mapped.
fn moved(from: Option<&IdMap>, to: Option<&IdMap>, uid: u32, gid: u32) -> (Option<u32>, Option<u32>) {
    let (uid, gid) = from.map_or((Some(uid), Some(gid)), |from| from.inside(uid, gid));
    let Some(to) = to else { return (uid, gid) };
    (uid.and_then(|uid| to.outside(uid, 0).0), gid.and_then(|gid| to.outside(0, gid).1))
}

/// Looks at all files and plans the shift; also how many files have an owner that is not mapped.
fn look(rootfs: &Path, from: Option<&IdMap>, to: Option<&IdMap>) -> Result<(Journal, u64), Error> {
    let found = Mutex::new(Found::default());
    let root = walk::open(rootfs)?;
    walk(&root, rootfs, &|entry: &Entry<'_>| {
        let mut seen = Seen::default();
        let mut capability = None;
        if entry.kind() != FileType::Symlink && entry.has_attributes()? {
            for name in ids::ACLS {
                ids::acl_seen(&entry.attribute(name)?.unwrap_or_default(), &mut seen);
            }
            capability = entry.attribute(ids::CAPABILITY)?;
            seen.uid.extend(capability.as_deref().and_then(ids::capability_root));
        }
        let (uid, gid, mode) = (entry.stat.st_uid, entry.stat.st_gid, entry.stat.st_mode & 0o7777);
        let set_id = may_lose(entry) && mode & 0o6000 != 0;
        let strange = matches!(moved(from, to, uid, gid), (None, _) | (_, None));
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        found.seen.uid.extend(seen.uid.into_iter().chain([uid]));
        found.seen.gid.extend(seen.gid.into_iter().chain([gid]));
        found.files += 1;
        found.strange += u64::from(strange);
        if set_id || capability.is_some() {
            found.special.insert(entry.stat.st_ino, Special { mode, capability });
        }
        Ok(())
    })?;
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let pairs = |ids: &BTreeSet<u32>, new: &dyn Fn(u32) -> Option<u32>| {
        ids.iter().filter_map(|id| new(*id).filter(|new| new != id).map(|new| (*id, new))).collect::<BTreeMap<_, _>>()
    };
    let users = phases(pairs(&found.seen.uid, &|id| moved(from, to, id, 0).0), &found.seen.uid);
    let groups = phases(pairs(&found.seen.gid, &|id| moved(from, to, 0, id).1), &found.seen.gid);
    let count = users.len().max(groups.len());
    let (mut users, mut groups) = (users.into_iter(), groups.into_iter());
    let phases = (0..count)
        .map(|_| Table { uid: users.next().unwrap_or_default(), gid: groups.next().unwrap_or_default() })
        .collect();
    Ok((Journal::new(to, phases, found.special, found.files), found.strange))
}

/// One phase where no old id is a new one; else two, by ids that are neither, nor any of `seen`.
fn phases(pairs: BTreeMap<u32, u32>, seen: &BTreeSet<u32>) -> Vec<BTreeMap<u32, u32>> {
    if pairs.is_empty() {
        return Vec::new();
    }
    let new: BTreeSet<u32> = pairs.values().copied().collect();
    if !pairs.keys().any(|old| new.contains(old)) {
        return vec![pairs];
    }
    // The last two stand for "none" here and there.
    let mut free = (1..u32::MAX - 1).rev().filter(|id| !seen.contains(id) && !new.contains(id));
    let between: Vec<u32> = free.by_ref().take(pairs.len()).collect();
    let first = pairs.keys().copied().zip(between.iter().copied()).collect();
    vec![first, between.into_iter().zip(pairs.into_values()).collect()]
}

/// Does the phases that are left, and records where the files are then.
fn finish(volume: &Path, mut journal: Journal, progress: &Progress) -> Result<(), Error> {
    let rootfs = volume.join("rootfs");
    progress.done.store(0, Ordering::Relaxed);
    progress.all.store(journal.files() * journal.left(), Ordering::Relaxed);
    let root = walk::open(&rootfs)?;
    while let Some(table) = journal.table() {
        let (special, alone) = (journal.special(), Mutex::new(()));
        walk(&root, &rootfs, &|entry: &Entry<'_>| {
            shift(entry, table, special, &alone, progress)?;
            progress.done.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })?;
        // What the journal says next is only true when this is on the disk.
        rustix::fs::syncfs(&root).map_err(|errno| io("write out", &rootfs)(errno.into()))?;
        progress.step()?;
        if journal.next() {
            journal.write(volume)?;
        }
    }
    progress.step()?;
    journal.done(volume)?;
    progress.step()?;
    Journal::remove(volume)
}

fn shift(
    entry: &Entry<'_>,
    table: &Table,
    special: &BTreeMap<u64, Special>,
    alone: &Mutex<()>,
    progress: &Progress,
) -> Result<(), Error> {
    let special = special.get(&entry.stat.st_ino).filter(|_| may_lose(entry));
    // A file of several names may be another thread's right now: of these files, only one is worked on at a time.
    let _alone = special.map(|_| alone.lock().unwrap_or_else(PoisonError::into_inner));
    let (uid, gid) = (entry.stat.st_uid, entry.stat.st_gid);
    let new = (table.user(uid), table.group(gid));
    if new != (uid, gid) {
        progress.step()?;
        entry.set_owner(new.0, new.1)?;
    }
    if entry.kind() == FileType::Symlink {
        return Ok(());
    }
    if entry.has_attributes()? {
        for name in ids::ACLS {
            let value = entry.attribute(name)?.unwrap_or_default();
            if let Some(value) = ids::acl_shifted(&value, |id| table.user(id), |id| table.group(id)) {
                progress.step()?;
                entry.set_attribute(name, &value)?;
            }
        }
    }
    if let Some(special) = special {
        if entry.mode()? != special.mode {
            progress.step()?;
            entry.set_mode(special.mode)?;
        }
        if let Some(value) = &special.capability {
            let value = ids::capability_shifted(value, |id| table.user(id));
            if entry.attribute(ids::CAPABILITY)?.as_ref() != Some(&value) {
                progress.step()?;
                entry.set_attribute(ids::CAPABILITY, &value)?;
            }
        }
    }
    Ok(())
}

/// Whether a change of the owner may take something from it.
fn may_lose(entry: &Entry<'_>) -> bool {
    !matches!(entry.kind(), FileType::Directory | FileType::Symlink)
}
