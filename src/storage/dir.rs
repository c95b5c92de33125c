//! `dir`: the image unpacked into the volume; the ids are mapped by an id-mapped mount over the root itself, or shifted
//! on the disk.

use std::path::Path;
use std::sync::Arc;

use super::error::{Error, io};
use super::files::make_dir;
use super::pool::{Driver, RootMount};
use super::probe::Probes;
use crate::image::{Limits, StoredImage};
use crate::names::Fingerprint;
use crate::security::idmap::IdMap;
use crate::sys::{mount, userns};

pub(super) struct Dir {
    probes: Arc<Probes>,
}

impl Dir {
    pub(super) fn new(probes: Arc<Probes>) -> Self {
        Self { probes }
    }
}

impl Driver for Dir {
    fn fill(&self, _pool: &Path, volume: &Path, image: &StoredImage) -> Result<(), Error> {
        image.unpack(volume, &Limits::default())?;
        Ok(())
    }

    fn fill_empty(&self, volume: &Path) -> Result<(), Error> {
        make_dir(&volume.join("rootfs"), 0o755)
    }

    fn mount(&self, _pool: &Path, volume: &Path, map: Option<&IdMap>) -> Result<RootMount, Error> {
        let rootfs = volume.join("rootfs");
        if let Some(map) = map {
            let (uids, gids) = map.mount_maps(false);
            (|| {
                let clone = mount::clone_of(&rootfs)?;
                // Else the files have the ids of the host.
                if self.probes.id_mapped_missing().is_none() {
                    mount::map_ids(&clone, &*userns::with_maps(&uids, &gids)?)?;
                }
                // Not nosuid: sudo inside must work. Setuid files are the container's root's, who is nobody outside.
                mount::set_nodev(&clone)?;
                mount::attach(&clone, &rootfs)
            })()
            .map_err(io("make an id-mapped mount of", &rootfs))?;
        }
        Ok(RootMount { path: rootfs, lxc_options: None, stored: None })
    }

    fn lower(&self, _volume: &Path) -> Option<Fingerprint> {
        None
    }
}
