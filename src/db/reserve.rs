//! Room that is the database's before it needs it: on a full disk it must still be written what is deleted, what has
//! stopped, and what went wrong, or the next daemon takes for true what is not.
//!
//! ```text
//!  db.sqlite       ├── rows ──┤· · · · · · ·┤      rows may grow by so much
//!  db.sqlite-wal   ├ changes ┤· · · · · · · · ·┤   all changes until they are brought into the rows
//! ```
//! The blocks lie behind the end of the files (`FALLOC_FL_KEEP_SIZE`, fallocate(2)), so that SQLite sees nothing of them. It
//! writes its log from the beginning again when all of it has been brought over (<https://sqlite.org/wal.html>). Where a file
//! system copies what is written over (btrfs), that second round needs room of its own, and may find none.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

/// By so much rows may grow on a full disk, bytes.
const ROWS: u64 = 1 << 20;
/// SQLite brings the log over when it has 1000 pages of 4096 bytes (`wal_autocheckpoint`); a change more may come.
const LOG: u64 = 1100 * 4120;

/// What keeps the log's room.
#[derive(Debug)]
pub(super) struct Reserve {
    log: PathBuf,
    kept: bool,
}

impl Reserve {
    /// Of the database at `path`, whose rows get their room at once. A disk that has none is tried again at [`Self::keep`].
    pub(super) fn of(path: &Path) -> Self {
        let rows = fs::metadata(path).map_or(0, |rows| rows.len());
        if let Err(error) = reserve(path, rows + ROWS) {
            tracing::debug!(%error, "no room is kept for the rows of the database");
        }
        let log = path.with_file_name(format!("{}-wal", path.file_name().unwrap_or_default().to_string_lossy()));
        Self { log, kept: false }
    }

    /// Keeps the log's room, unless it is kept already; without the file, or on a full disk, another call may do.
    pub(super) fn keep(&mut self) {
        if self.kept {
            return;
        }
        match reserve(&self.log, LOG) {
            Ok(()) => self.kept = true,
            Err(error) => {
                // A file system that cannot will not learn it.
                self.kept = error.kind() == io::ErrorKind::Unsupported;
                tracing::debug!(%error, "no room is kept for the log of the database");
            }
        }
    }
}

fn reserve(path: &Path, size: u64) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    Ok(rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, size)?)
}
