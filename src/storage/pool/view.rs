//! Looking at the files of a volume from outside: as the container sees them, changed by nobody meanwhile.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Pool;
use crate::image::{Ids, Source};
use crate::storage::copy::Pause;
use crate::storage::driver::Make;
use crate::storage::error::Error;
use crate::storage::volume::VolumeId;
use crate::storage::{nested, shift};

/// What a volume had at some moment, for whoever looks at it; it goes with the last look.
pub struct Frozen {
    pool: Arc<Pool>,
    path: PathBuf,
    /// Nothing is left of it.
    gone: bool,
}

fn remove(pool: &Pool, path: &Path) {
    // What cannot be removed now is cleared at the next opening.
    if let Err(error) = pool.purge(path) {
        tracing::warn!(%error, "removing what was looked at");
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if std::mem::replace(&mut self.gone, true) {
            return;
        }
        let (pool, path) = (Arc::clone(&self.pool), self.path.clone());
        // Whoever drops it unseen need not be able to wait.
        let removing = std::thread::Builder::new().name("purge".to_owned()).spawn(move || remove(&pool, &path));
        if let Err(error) = removing {
            tracing::warn!(%error, "what was to be looked at stays until the next start");
        }
    }
}

impl Pool {
    /// Keeps what a volume has now, out of sight: after a crash it is cleared at the next opening. The volume is mounted
    /// only when it is `live`. Blocking.
    ///
    /// # Errors
    /// Then nothing of it stays.
    pub fn freeze(self: &Arc<Self>, volume: &VolumeId, live: Option<&dyn Pause>) -> Result<Frozen, Error> {
        let of = self.path(volume);
        if live.is_none() {
            self.unmount(volume)?;
        }
        let frozen = Frozen { pool: Arc::clone(self), path: self.scratch(), gone: false };
        let make = || self.driver.make(&self.root, &frozen.path, Make::Snapshot { of: &of, live });
        let made = match self.driver.lower(&of) {
            Some(fingerprint) => self.with_image(&fingerprint, make),
            None => make(),
        };
        made.map_err(|error| self.told(error))?;
        Ok(frozen)
    }

    /// Lets `look` see the files of a volume, or of a snapshot, that is not mounted. Nobody may change it meanwhile.
    ///
    /// # Errors
    /// Of `look`, or when they cannot be shown.
    pub fn view<T, E: From<Error>>(
        &self,
        volume: &VolumeId,
        look: impl FnOnce(Source) -> Result<T, E>,
    ) -> Result<T, E> {
        self.view_at(&self.path(volume), look)
    }

    fn view_at<T, E: From<Error>>(&self, path: &Path, look: impl FnOnce(Source) -> Result<T, E>) -> Result<T, E> {
        shift::settle(path)?;
        let ids = match shift::stored(path)? {
            None => Ids::default(),
            Some(map) => {
                let rows = |rows: &[crate::security::idmap::Extent]| {
                    rows.iter().map(|row| (row.outside, row.inside, row.size)).collect()
                };
                let (uid, gid) = map.rows();
                Ids { uid: rows(uid), gid: rows(gid) }
            }
        };
        let (mut look, mut seen) = (Some(look), None);
        if let Some(fingerprint) = self.driver.lower(path) {
            // Mounted from here on, for the volume needs it; others need not wait for the look.
            self.with_image(&fingerprint, || self.driver.wake(&self.root, path))?;
        }
        self.driver.show(&self.root, path, &mut |rootfs| {
            let source = Source {
                rootfs: rootfs.to_owned(),
                elsewhere: nested::places(path),
                ids: ids.clone(),
                beside: path.to_owned(),
            };
            seen = look.take().map(|look| look(source));
            Ok(())
        })?;
        // Every driver that shows nothing says why.
        seen.unwrap_or_else(|| Err(Error::NoSuchVolume { volume: path.display().to_string() }.into()))
    }
}

impl Frozen {
    /// Lets `look` see the files, and removes them. Blocking.
    ///
    /// # Errors
    /// As of [`Pool::view`].
    pub fn view<T, E: From<Error>>(mut self, look: impl FnOnce(Source) -> Result<T, E>) -> Result<T, E> {
        let seen = self.pool.view_at(&self.path, look);
        remove(&self.pool, &self.path);
        self.gone = true;
        seen
    }
}
