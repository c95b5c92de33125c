//! What volumes use on the disk, for whoever asks: measured behind the question, never for it.
//!
//! A volume's files are looked at by a thread; who asks gets what was found last. Only the very first question waits a
//! little for the answer, which small volumes give at once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::pool::Pool;
use super::volume::VolumeId;
use super::walk::{self, Entry, walk};

/// What was found is good for so long.
const FRESH: Duration = Duration::from_secs(30);
/// Who asks for the first time waits so long at most.
const WAIT: Duration = Duration::from_millis(200);
/// So many volumes are remembered.
const KEPT: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct Known {
    used: Option<u64>,
    asked: Instant,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Usage(Arc<Mutex<BTreeMap<PathBuf, Known>>>);

impl Usage {
    /// Bytes on the disk that the files of a volume use; `None`: not known yet.
    pub async fn of(&self, pool: &Arc<Pool>, volume: &VolumeId) -> Option<u64> {
        let path = pool.path(volume);
        let before = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let before = all.get(&path).copied();
            if before.is_some_and(|known| known.asked.elapsed() < FRESH) {
                return before.and_then(|known| known.used);
            }
            if all.len() >= KEPT {
                all.retain(|_, known| known.asked.elapsed() < FRESH);
            }
            all.insert(path.clone(), Known { used: before.and_then(|known| known.used), asked: Instant::now() });
            before
        };
        let (all, pool, volume) = (Arc::clone(&self.0), Arc::clone(pool), volume.clone());
        let measured = tokio::task::spawn_blocking(move || {
            // Where the file system counts anyway, nothing is looked at.
            let counted = if pool.counts() { pool.usage(&volume).ok().flatten() } else { None };
            let used = match counted {
                Some(counted) => counted.used,
                None => pool.files_of(&volume).iter().map(|place| measure(place)).sum(),
            };
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(path, Known { used: Some(used), asked: Instant::now() });
            used
        });
        match before.and_then(|known| known.used) {
            Some(used) => Some(used),
            None => tokio::time::timeout(WAIT, measured).await.ok()?.ok(),
        }
    }
}

/// Bytes on the disk of all files below a directory; what goes meanwhile is gone.
fn measure(place: &std::path::Path) -> u64 {
    let sum = AtomicU64::new(0);
    let Ok(root) = walk::open(place) else { return 0 };
    let add = |entry: &Entry<'_>| {
        // A file of several names counts by its share.
        let bytes = u64::try_from(entry.stat.st_blocks).unwrap_or_default() * 512;
        let names = if entry.kind() == rustix::fs::FileType::Directory { 1 } else { entry.stat.st_nlink.max(1) };
        sum.fetch_add(bytes / names, Ordering::Relaxed);
        Ok(())
    };
    if let Err(error) = walk(&root, place, &add) {
        tracing::debug!(%error, "measuring a volume");
    }
    sum.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_and_second_names_do_not_count() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/f"), vec![1; 1 << 20]).unwrap();
        std::fs::hard_link(dir.path().join("a/f"), dir.path().join("g")).unwrap();
        std::fs::File::create(dir.path().join("hole")).unwrap().set_len(1 << 30).unwrap();
        let used = measure(dir.path());
        assert!((1 << 20..(1 << 20) + 65_536).contains(&used), "{used}");
    }
}
