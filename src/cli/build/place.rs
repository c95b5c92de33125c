//! Directories of builds. Each goes with its build; what a build that was killed has left goes with the next one.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use uuid::Uuid;

/// What the names of these directories begin with; a UUID follows.
const MARK: &str = ".warren-build-";
/// A file in each of them, locked by who works there.
const LOCK: &str = "lock";
/// Where mmdebstrap works.
const TMP: &str = "tmp";
/// Whoever was killed just now may still make files.
const TRIES: usize = 20;
/// What others have left is tried again by the next build.
const SWEEPS: usize = 2;
const PAUSE: Duration = Duration::from_millis(100);

/// A directory that goes when it is not needed any more.
pub(super) struct Place {
    path: PathBuf,
    lock: File,
}

impl Place {
    /// A new directory below `parent`. What killed builds have left beside it goes.
    ///
    /// # Errors
    /// When it cannot be made or locked.
    pub(super) fn make(parent: &Path) -> io::Result<Self> {
        sweep(parent);
        let path = parent.join(format!("{MARK}{}", Uuid::new_v4()));
        // It gets its name with its lock: no other build takes it for one that was left.
        let new = path.with_extension("new");
        // Others must not lock it.
        fs::DirBuilder::new().mode(0o700).create(&new)?;
        let made = || {
            let lock = File::options().read(true).write(true).create_new(true).mode(0o600).open(new.join(LOCK))?;
            // Some file systems have no locks: then nobody takes what was left for his to remove.
            let _ = lock.try_lock();
            fs::rename(&new, &path)?;
            Ok(lock)
        };
        match made() {
            Ok(lock) => Ok(Self { path, lock }),
            Err(error) => {
                remove(&new, TRIES);
                Err(error)
            }
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where mmdebstrap may work; it is not made yet.
    pub(super) fn tmp(&self) -> PathBuf {
        self.path.join(TMP)
    }

    /// An input with nothing in it. Programs that have it hold the lock, too, for as long as one of them is there.
    ///
    /// # Errors
    /// When there are too many open files.
    pub(super) fn input(&self) -> io::Result<Stdio> {
        Ok(self.lock.try_clone()?.into())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        remove(&self.path, TRIES);
    }
}

/// Removes what is left in `parent` of builds of the same user that nobody works at.
fn sweep(parent: &Path) {
    // What cannot be read is not removed; whether one can be made there is told by that.
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(MARK)).map(Uuid::try_parse);
        if matches!(id, Some(Ok(_))) && is_left(&entry.path()) {
            remove(&entry.path(), SWEEPS);
        }
    }
}

/// Whether it is a build's directory, this user's, and nobody holds its lock.
fn is_left(path: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    if !fs::symlink_metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == own) {
        return false;
    }
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let Ok(lock) = File::options().read(true).write(true).custom_flags(flags).open(path.join(LOCK)) else {
        return false;
    };
    lock.metadata().is_ok_and(|found| found.is_file() && found.uid() == own) && lock.try_lock().is_ok()
}

/// Removes a directory, but nothing that is mounted below it. Its lock goes last: it is known by that.
fn remove(path: &Path, tries: usize) {
    if !path.join(TMP).exists() || is_removed(&path.join(TMP), tries) {
        is_removed(path, tries);
    }
}

fn is_removed(path: &Path, tries: usize) -> bool {
    for attempt in 0..tries {
        if attempt > 0 {
            std::thread::sleep(PAUSE);
        }
        if rm(&mut Command::new("rm"), path) || !path.exists() {
            return true;
        }
        // In a user namespace the files are those of other users.
        if !rustix::process::geteuid().is_root() {
            rm(Command::new("mmdebstrap").args(["--unshare-helper", "rm"]), path);
        }
    }
    !path.exists()
}

fn rm(command: &mut Command, path: &Path) -> bool {
    command.args(["--recursive", "--force", "--one-file-system", "--"]).arg(path);
    // It is a temporary one; nobody is left to be told.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_builds_that_nobody_works_at_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let names = || {
            let mut names: Vec<_> = fs::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            names
        };
        // Somebody else's, by their names or by what they are.
        for name in [".warren-build-", ".warren-build-mine", "mmdebstrap.abc"] {
            fs::create_dir(parent.path().join(name)).unwrap();
            fs::write(parent.path().join(name).join(LOCK), "").unwrap();
        }
        fs::create_dir(parent.path().join(format!("{MARK}{}", Uuid::new_v4()))).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join(LOCK), "").unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), parent.path().join(format!("{MARK}{}", Uuid::new_v4()))).unwrap();
        let others = names();
        let place = Place::make(parent.path()).unwrap();
        let left = parent.path().join(format!("{MARK}{}", Uuid::new_v4()));
        fs::create_dir_all(left.join("tmp/mmdebstrap.abc")).unwrap();
        fs::write(left.join(LOCK), "").unwrap();
        let second = Place::make(parent.path()).unwrap();
        assert!(!left.exists() && place.path().exists());
        assert!(!is_left(second.path()));
        drop((place, second));
        assert_eq!(names(), others);
    }
}
