//! The layers of a pool: what containers changed over their images. A volume writes to one, its upper, and stands on
//! others, which nobody changes any more and which its snapshots and copies share.
//!
//! ```text
//!  layers/<layer>/fs              the files, with the whiteouts and attributes of overlayfs
//!                 work            overlayfs's own, while something writes to it
//!                 users/<volume>  an empty file for each volume that stands on it or writes to it
//! ```
//! A layer goes with its last user. Who is to use one is written down (`volume.json`, or what is to become it) before he
//! is a user, so that whatever a crash leaves is found with the volume.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::super::error::{Error, io};
use super::super::files::{make_dir, trash};

/// Below the pool.
pub(in crate::storage) const PLACE: &str = "layers";

/// A layer's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerId(String);

impl LayerId {
    pub(super) fn new() -> Self {
        Self(uuid::Uuid::new_v4().to_string())
    }

    /// Where it lies.
    pub(super) fn path(&self, pool: &Path) -> PathBuf {
        pool.join(PLACE).join(&self.0)
    }

    /// Where its files lie.
    pub(super) fn files(&self, pool: &Path) -> PathBuf {
        self.path(pool).join("fs")
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who uses which layers, which changes one at a time.
#[derive(Default)]
pub(super) struct Layers(Mutex<()>);

impl Layers {
    fn alone(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an empty layer of a volume.
    pub(super) fn make(&self, pool: &Path, layer: &LayerId, user: &str) -> Result<(), Error> {
        let path = layer.path(pool);
        make_dir(&path, 0o711)?;
        make_dir(&path.join("users"), 0o700)?;
        self.add(pool, layer, user)?;
        make_dir(&path.join("fs"), 0o755)?;
        make_dir(&path.join("work"), 0o700)
    }

    /// Makes a volume a user of layers that have one already.
    pub(super) fn add(&self, pool: &Path, layer: &LayerId, user: &str) -> Result<(), Error> {
        let _alone = self.alone();
        let file = layer.path(pool).join("users").join(user);
        std::fs::write(&file, "").map_err(io("create", file))
    }

    /// Lets a volume go from a layer; without another user it is out of the way at once, and returned to be removed.
    pub(super) fn release(&self, pool: &Path, layer: &LayerId, user: &str) -> Result<Option<PathBuf>, Error> {
        let _alone = self.alone();
        let (path, users) = (layer.path(pool), layer.path(pool).join("users"));
        let file = users.join(user);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io("remove", file)(error)),
            Ok(()) | Err(_) => {}
        }
        let unused = match std::fs::read_dir(&users) {
            Ok(mut left) => left.next().is_none(),
            // Half made: nobody can be its user.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => path.exists(),
            Err(error) => return Err(io("read", users)(error)),
        };
        if !unused {
            return Ok(None);
        }
        let trash = trash(pool);
        std::fs::rename(&path, &trash).map_err(io("remove", &path))?;
        Ok(Some(trash))
    }
}
