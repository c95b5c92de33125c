//! What a restore need not copy: files of the volume that have not changed since it had what the snapshot has. They get a
//! second name in the new tree instead; the old tree, which goes, loses its own.
//!
//! When volume and snapshot had the same is written down by both, since a link is a change of a file, too (ctime):
//!
//! ```text
//!  snapshot of one that is down    `same` in the snapshot:  <id> <time before the copy began>
//!  restore                         `same` in the volume:    <id> <time after the last link>
//! ```
//! A file is taken over when it changed (ctime, which no program sets) before that time and its kind, mode, owners, size
//! and time are those in the snapshot; not below a directory that has changed, since it may be another one by that name.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Stat, Timespec};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::super::error::{Error, io};
use super::super::walk;
use super::NAME;

/// In a volume or snapshot: see above.
const SAME: &str = "same";

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

    /// Of the volume that `volume` becomes: it has what the snapshot has, from now on.
    fn renewed(self) -> Self {
        let last = now();
        // The times of all that was done lie behind us when the clock moves on: within a tick of the kernel.
        while now() <= last {
            std::thread::sleep(Duration::from_millis(1));
        }
        Self { at: now(), ..self }
    }
}

/// The volume that a restore replaces.
pub(in crate::storage) struct Twin {
    root: OwnedFd,
    same: Same,
}

impl Twin {
    /// Of `volume`, which nobody uses, for a restore of `snapshot`; `None`: nothing is known about them.
    pub(in crate::storage) fn of(volume: &Path, snapshot: &Path) -> Option<Self> {
        let mut same = Same::read(snapshot)?;
        if let Some(later) = Same::read(volume).filter(|later| later.id == same.id) {
            same = later;
        }
        Some(Self { root: walk::open(&volume.join("rootfs")).ok()?, same })
    }

    /// When the new tree, at `volume`, is whole.
    pub(in crate::storage) fn finish(self, volume: &Path) -> Result<(), Error> {
        self.same.renewed().write(volume)
    }

    fn is_unchanged(&self, stat: &Stat) -> bool {
        let nanoseconds = i64::try_from(stat.st_ctime_nsec).unwrap_or(i64::MAX);
        Timespec { tv_sec: stat.st_ctime, tv_nsec: nanoseconds } < self.same.at
    }

    /// The directory at `below`, if what it has may be taken over; the one above it may, if `trusted`.
    pub(super) fn enter(&self, below: &Path, trusted: bool) -> Option<OwnedFd> {
        let directory = walk::open_below(&self.root, below).ok()?;
        // The root itself has always been that.
        let same =
            below.as_os_str().is_empty() || rustix::fs::fstat(&directory).is_ok_and(|stat| self.is_unchanged(&stat));
        (trusted && same).then_some(directory)
    }

    /// Gives the file `name` of `from` the same name in `to`, if it is what `wanted`, a file of the snapshot, is.
    pub(super) fn link(&self, from: &OwnedFd, to: &OwnedFd, name: &OsStr, wanted: &Stat) -> bool {
        if wanted.st_nlink > 1 || !matches!(kind(wanted), FileType::RegularFile | FileType::Symlink) {
            return false;
        }
        let link = || {
            let there = rustix::fs::statat(from, name, NAME)?;
            if !self.is_unchanged(&there) || what_is_seen(&there) != what_is_seen(wanted) {
                return Err(Errno::STALE);
            }
            rustix::fs::linkat(from, name, to, name, AtFlags::empty())
        };
        // One that cannot have two names (another project of quotas, too many of them) is copied.
        link().is_ok()
    }
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn what_is_seen(stat: &Stat) -> impl PartialEq {
    (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_size, stat.st_mtime, stat.st_mtime_nsec)
}
