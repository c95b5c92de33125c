//! What a backend does; everything else is the pool's. A driver per file system or way to share: `dir`, `overlay`, and
//! whatever can make a volume as a snapshot of another one (btrfs; zfs and thin lvm would fit the same way).

use std::path::{Path, PathBuf};

use super::copy::{self, Pause};
use super::error::Error;
use super::files::{make_dir, remove_dir};
use super::quota::Counted;
use crate::image::StoredImage;
use crate::names::Fingerprint;
use crate::security::idmap::IdMap;

/// A root, mounted and ready for liblxc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootMount {
    /// For `lxc.rootfs.path`.
    pub path: PathBuf,
    /// For `lxc.rootfs.options`.
    pub lxc_options: Option<String>,
    /// The map that its files are stored with; `None`: unshifted.
    pub stored: Option<IdMap>,
}

/// What a new volume holds.
pub(super) enum Make<'a> {
    /// The root of an image.
    Image(&'a StoredImage),
    /// An empty root.
    Empty,
    /// What the volume `of` has now, never to be changed.
    Snapshot {
        /// Where it lies. It is not mounted, unless it is `live`.
        of: &'a Path,
        /// Holds those who use it.
        live: Option<&'a dyn Pause>,
    },
    /// The same, to be changed. `of` may be a snapshot.
    Copy {
        /// Where it lies.
        of: &'a Path,
        /// Holds those who use it.
        live: Option<&'a dyn Pause>,
    },
}

/// What a new custom volume holds. It has no root beside other things: its files lie in the volume itself.
#[derive(Debug, Clone, Copy)]
pub(super) enum Files<'a> {
    /// Nothing.
    Empty,
    /// What the custom volume or snapshot `of` has now.
    Copy {
        /// Where it lies.
        of: &'a Path,
        /// Somebody may be writing to it.
        live: bool,
    },
}

/// Looks at a root.
pub(super) type Look<'a> = &'a mut dyn FnMut(&Path) -> Result<(), Error>;

/// Fills an empty root.
pub(super) type Fill<'a> = &'a mut dyn FnMut(&Path) -> Result<(), Error>;

/// Of a new custom volume, as LXD has it.
pub(super) const FILES_MODE: u32 = 0o711;

/// A backend.
pub(super) trait Driver: Send + Sync {
    /// Makes the volume `new`, which is not there.
    fn make(&self, pool: &Path, new: &Path, what: Make<'_>) -> Result<(), Error>;
    /// Makes `volume`'s root ready at `rootfs` below it, with ids mapped by `map`; read-only when it is a snapshot.
    fn mount(&self, pool: &Path, volume: &Path, map: Option<&IdMap>) -> Result<RootMount, Error>;
    /// The directories that hold what is `volume`'s own.
    fn own(&self, _pool: &Path, volume: &Path) -> Vec<PathBuf> {
        vec![volume.to_owned()]
    }
    /// The image that `volume` needs for its life, if any.
    fn lower(&self, volume: &Path) -> Option<Fingerprint>;
    /// Removes a volume that was moved out of the way, with what only it needed; or the files of an image.
    fn discard(&self, pool: &Path, trash: &Path) -> Result<(), Error>;

    /// Makes the files of the image ready that `volume` stands on.
    fn wake(&self, _pool: &Path, _volume: &Path) -> Result<(), Error> {
        Ok(())
    }

    /// Copies the root of `volume` to the directory `to`, in whatever pool, with the ids that the container sees; as
    /// [`Make::Copy`] does.
    fn copy_root(&self, _pool: &Path, volume: &Path, live: Option<&dyn Pause>, to: &Path) -> Result<(), Error> {
        copy::root(volume, live, to)
    }

    /// Calls `look` with where the root of `volume`, which is not mounted, can be seen, with the ids that are stored.
    fn show(&self, _pool: &Path, volume: &Path, look: Look<'_>) -> Result<(), Error> {
        look(&volume.join("rootfs"))
    }

    /// Makes the volume `new`, which is not there, whose root `fill` fills: it is given a directory that is empty.
    fn make_filled(&self, pool: &Path, new: &Path, _snapshot: bool, fill: Fill<'_>) -> Result<(), Error> {
        self.make(pool, new, Make::Empty)?;
        fill(&new.join("rootfs"))
    }

    /// As [`Make::Copy`] of the snapshot `of`, to take the place of `volume`, which nobody uses and which goes then; what it
    /// takes over from that can be given back ([`copy::give_back`]).
    fn make_restored(&self, pool: &Path, new: &Path, of: &Path, _volume: &Path) -> Result<(), Error> {
        self.make(pool, new, Make::Copy { of, live: None })
    }

    /// Makes the custom volume, or snapshot of one, `new`, which is not there. What it is of lies in the same pool.
    fn make_files(&self, new: &Path, what: Files<'_>) -> Result<(), Error> {
        match what {
            Files::Empty => make_dir(new, FILES_MODE),
            Files::Copy { of, live: false } => copy::tree(of, new),
            Files::Copy { of, live: true } => copy::unheld(of, new),
        }
    }

    /// Removes a custom volume, or a snapshot of one, that was moved out of the way.
    fn discard_files(&self, trash: &Path) -> Result<(), Error> {
        remove_dir(trash)
    }
    /// Refuses what cannot limit a volume of this pool. It costs nothing.
    fn check_limits(&self, pool: &Path) -> Result<(), Error>;
    /// Limits what a volume may have, bytes; `None`: as much as there is.
    fn set_quota(&self, volume: &Path, bytes: Option<u64>) -> Result<(), Error>;
    /// The same of a custom volume.
    fn set_files_quota(&self, volume: &Path, bytes: Option<u64>) -> Result<(), Error> {
        self.set_quota(volume, bytes)
    }
    /// Whether [`Self::usage`] may tell anything. It costs nothing.
    fn counts(&self, pool: &Path) -> bool;
    /// What it has, by what the file system counts anyway; `None`: it does not.
    fn usage(&self, volume: &Path) -> Result<Option<Counted>, Error>;
    /// The same of a custom volume.
    fn files_usage(&self, volume: &Path) -> Result<Option<Counted>, Error> {
        self.usage(volume)
    }
    /// Makes the snapshot of `of` where it is to be, in one step, sealed; `false`: that cannot be done.
    fn snapshot_in_place(&self, _of: &Path, _snapshot: &Path) -> Result<bool, Error> {
        Ok(false)
    }
    /// Removes a volume where it lies, in one step; `false`: that cannot be done.
    fn remove_in_place(&self, _volume: &Path) -> Result<bool, Error> {
        Ok(false)
    }
    /// Lets nobody write to a snapshot that is in its place. A crash before that leaves one whose row says that it is half
    /// made.
    fn seal(&self, _snapshot: &Path) -> Result<(), Error> {
        Ok(())
    }
    /// Takes that away from what is to be moved or removed.
    fn unseal(&self, _path: &Path) -> Result<(), Error> {
        Ok(())
    }
}
