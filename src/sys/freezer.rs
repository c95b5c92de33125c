//! Holding all processes of a control group for a moment: `freezer.state` of version 1 (freezer-subsystem.rst),
//! `cgroup.freeze` of version 2 (cgroup-v2.rst).

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::cgroup::{Groups, Hierarchies, Version};

/// A group that is not frozen by then goes on.
const PATIENCE: Duration = Duration::from_secs(10);
/// Neither version lets both be waited for: version 1 has no event at all.
const LOOK: Duration = Duration::from_micros(500);

/// The freezer of a control group.
#[derive(Debug, Clone)]
pub struct Freezer {
    version: Version,
    dir: PathBuf,
}

impl Freezer {
    /// Of these groups; `None`: this host has no freezer.
    pub fn of(hierarchies: &Hierarchies, groups: &Groups) -> Option<Self> {
        let (version, dir) = hierarchies.dir(groups, "freezer")?;
        Some(Self { version, dir })
    }

    /// Of all groups in `parent` that may be those of a life of `container`.
    pub fn all_of(hierarchies: &Hierarchies, parent: &str, container: &str) -> Vec<Self> {
        let Some(version) = hierarchies.version_of("freezer") else { return Vec::new() };
        let dirs = hierarchies.lives("freezer", parent, container).into_iter();
        dirs.map(|dir| Self { version, dir }).collect()
    }

    fn set(&self, frozen: bool) -> io::Result<()> {
        match (self.version, frozen) {
            (Version::V1, true) => fs::write(self.dir.join("freezer.state"), "FROZEN"),
            (Version::V1, false) => fs::write(self.dir.join("freezer.state"), "THAWED"),
            (Version::V2, true) => fs::write(self.dir.join("cgroup.freeze"), "1"),
            (Version::V2, false) => fs::write(self.dir.join("cgroup.freeze"), "0"),
        }
    }

    fn is_frozen(&self) -> io::Result<bool> {
        Ok(match self.version {
            Version::V1 => fs::read_to_string(self.dir.join("freezer.state"))?.trim() == "FROZEN",
            Version::V2 => fs::read_to_string(self.dir.join("cgroup.events"))?.lines().any(|line| line == "frozen 1"),
        })
    }

    /// Holds all its processes; returns when all are held.
    ///
    /// # Errors
    /// When they are not within some seconds, or the group is gone: then they go on.
    pub fn freeze(&self) -> io::Result<()> {
        let begun = Instant::now();
        let frozen = (|| {
            loop {
                // Version 1 needs to be asked again for a process that was just forked.
                self.set(true)?;
                if self.is_frozen()? {
                    return Ok(());
                }
                if begun.elapsed() > PATIENCE {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                std::thread::sleep(LOOK);
            }
        })();
        if frozen.is_err() {
            // The cause is what is told.
            let _ = self.thaw();
        }
        frozen
    }

    /// Lets all go on; a group that is gone needs nothing.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn thaw(&self) -> io::Result<()> {
        match self.set(false) {
            Err(error) if is_gone(&error) => Ok(()),
            result => result,
        }
    }
}

/// Whether that means that the group is gone: before its file was opened, or after (`ENODEV`, seen with both versions on
/// Linux 6.18).
pub fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}
