//! How much a volume may have, and what it has, by what the file system counts: never by looking at files.
//!
//! - btrfs: the quota group of the volume's subvolume. Groups are kept from the first limit on, as they cost something.
//! - dir, overlay: a project of ext4 or xfs, mounted with `prjquota`: the volume's directory, and so all that is made in
//!   it, has the project's number, which is the directory's own.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::error::{Error, io};
use super::walk::{self, Entry, walk};
use crate::sys::{btrfs, project, space};

/// What a volume has, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// What nothing else has.
    pub used: u64,
    /// What it may have, shared or not.
    pub limit: Option<u64>,
}

/// The kernel counts what there is when groups begin; small pools are done within this.
const COUNTING: (u32, Duration) = (40, Duration::from_millis(25));

/// Sets the limit of a subvolume. One that it is over already is refused: it could not even delete files then.
pub(super) fn limit_subvolume(volume: &Path, bytes: Option<u64>) -> Result<(), Error> {
    let failed = || io("set the quota of", volume);
    let directory = btrfs::open(volume).map_err(failed())?;
    let id = btrfs::id(&directory).map_err(failed())?;
    let mut status = btrfs::quotas(&directory).map_err(failed())?;
    if status.is_none() {
        if bytes.is_none() {
            return Ok(());
        }
        btrfs::enable_quotas(&directory).map_err(failed())?;
    }
    let old = btrfs::usage(&directory, id).map_err(failed())?.and_then(|usage| usage.limit);
    if old == bytes {
        return Ok(());
    }
    if let Some(asked) = bytes.filter(|bytes| old.is_none_or(|old| *bytes < old)) {
        btrfs::sync(&directory).map_err(failed())?;
        for _ in 0..COUNTING.0 {
            status = btrfs::quotas(&directory).map_err(failed())?;
            if !status.is_some_and(|status| status.counting) {
                break;
            }
            std::thread::sleep(COUNTING.1);
        }
        let usage = btrfs::usage(&directory, id).map_err(failed())?.unwrap_or_default();
        if usage.referenced > asked && status.is_some_and(|status| !status.counting) {
            return Err(Error::QuotaTooSmall { path: volume.to_owned(), used: usage.referenced, asked });
        }
    }
    btrfs::limit(&directory, id, bytes).map_err(failed())
}

/// What a subvolume has; `None`: nothing is counted.
pub(super) fn usage_of_subvolume(volume: &Path) -> Result<Option<Counted>, Error> {
    let failed = || io("look at the quota of", volume);
    let directory = btrfs::open(volume).map_err(failed())?;
    let Some(status) = btrfs::quotas(&directory).map_err(failed())? else { return Ok(None) };
    if status.inconsistent && !status.counting {
        // The kernel lost count, as after a large snapshot was deleted; it counts anew behind whoever asks.
        let _ = btrfs::recount(&directory);
    }
    let id = btrfs::id(&directory).map_err(failed())?;
    let usage = btrfs::usage(&directory, id).map_err(failed())?;
    Ok(usage.map(|usage| Counted { used: usage.exclusive, limit: usage.limit }))
}

/// Whether subvolumes are counted in this pool.
pub(super) fn counts_subvolumes(pool: &Path) -> bool {
    btrfs::open(pool).and_then(btrfs::quotas).is_ok_and(|status| status.is_some())
}

/// Whether directories can be counted in this pool.
pub(super) fn counts_directories(pool: &Path) -> bool {
    btrfs::open(pool).is_ok_and(|opened| project::usage(&opened, 0).is_ok())
}

/// Refuses a pool whose directories cannot be limited, with what it lacks.
pub(super) fn check_directories(pool: &Path) -> Result<(), Error> {
    let opened = btrfs::open(pool).map_err(io("open", pool))?;
    project::usage(&opened, 0).map(drop).map_err(|error| refused(pool, &error))
}

fn refused(directory: &Path, error: &io::Error) -> Error {
    let kind = space::of(directory).map_or_else(|_| "file system".to_owned(), |space| space.file_system);
    let reason = match kind.as_str() {
        "ext4" => "it needs ext4 with the feature \"project\" (tune2fs -O project,quota), mounted with prjquota, \
                   and a kernel with quotas"
            .to_owned(),
        "xfs" => "it needs xfs mounted with prjquota, and a kernel with quotas".to_owned(),
        other => format!("{other} has no project quotas; ext4, xfs and btrfs can limit"),
    };
    Error::NoQuotas { path: directory.to_owned(), reason: format!("{reason} ({error})") }
}

/// Makes a new directory a project of its own, where the file system knows such; all that is made in it belongs to it.
pub(super) fn begin(directory: &Path) {
    // Without projects there is nothing to count, and a limit is refused when it is set.
    if let Ok(opened) = btrfs::open(directory)
        && let Ok(number) = project::number_for(&opened)
    {
        let _ = project::assign(&opened, number);
    }
}

/// Sets the limit of a directory with all below it. `same`: other directories of the same volume, which count with it.
pub(super) fn limit_directory(directory: &Path, bytes: Option<u64>) -> Result<(), Error> {
    let failed = || io("set the quota of", directory);
    let opened = btrfs::open(directory).map_err(failed())?;
    let number = match project::of(&opened) {
        Ok(0) if bytes.is_none() => return Ok(()),
        Ok(0) => {
            let number = project::number_for(&opened).map_err(failed())?;
            project::assign(&opened, number).map_err(|error| refused(directory, &error))?;
            give(directory, number)?;
            number
        }
        Ok(number) => number,
        // Nothing was ever limited there.
        Err(_) if bytes.is_none() => return Ok(()),
        Err(error) => return Err(refused(directory, &error)),
    };
    let now = project::usage(&opened, number).map_err(|error| refused(directory, &error))?;
    if let Some(asked) = bytes.filter(|bytes| *bytes < now.used) {
        return Err(Error::QuotaTooSmall { path: directory.to_owned(), used: now.used, asked });
    }
    project::limit(&opened, number, bytes).map_err(|error| refused(directory, &error))
}

/// Gives all files that a directory has already to its project.
fn give(directory: &Path, number: u32) -> Result<(), Error> {
    let root = walk::open(directory)?;
    walk(&root, directory, &|entry: &Entry<'_>| {
        use rustix::fs::FileType;
        // Others have no descriptor of theirs, and no blocks.
        if !matches!(entry.kind(), FileType::Directory | FileType::RegularFile) {
            return Ok(());
        }
        let path = entry.link();
        let opened = std::fs::File::open(&path).map_err(io("open", directory))?;
        project::assign(&opened, number).map_err(|error| refused(directory, &error))
    })
}

/// What a directory with all below it has; `None`: nothing is counted.
pub(super) fn usage_of_directory(directory: &Path) -> Result<Option<Counted>, Error> {
    let opened = btrfs::open(directory).map_err(io("open", directory))?;
    match project::of(&opened) {
        Ok(number @ 1..) => {
            let usage = project::usage(&opened, number).ok();
            Ok(usage.map(|usage| Counted { used: usage.used, limit: usage.limit }))
        }
        Ok(0) | Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This kernel has no project quotas; where there are, the limit holds.
    #[test]
    fn a_file_system_without_projects_says_what_it_lacks() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        begin(dir.path());
        limit_directory(dir.path(), None).unwrap();
        match limit_directory(dir.path(), Some(8 << 20)) {
            Err(error @ Error::NoQuotas { .. }) => {
                let said = error.to_string();
                assert!(said.contains("prjquota") || said.contains("no project quotas"), "{said}");
                assert_eq!(usage_of_directory(dir.path()).unwrap(), None);
            }
            Err(other) => panic!("{other}"),
            Ok(()) => assert_eq!(usage_of_directory(dir.path()).unwrap().unwrap().limit, Some(8 << 20)),
        }
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        let said = limit_directory(memory.path(), Some(1)).unwrap_err().to_string();
        assert!(said.contains("tmpfs has no project quotas"), "{said}");
    }
}
