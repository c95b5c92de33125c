//! `overlay`: each image once, read-only and shared; each container an upper directory over it.
//!
//! Both layers are id-mapped mounts for the moment of mounting the overlay; they are detached once it stands. The map of
//! the upper has a spare row for root of the host, who mounts: without it overlayfs falls back to read-only.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{Error, io};
use super::files::{make_dir, remove_dir};
use super::pool::{Driver, RootMount, scratch};
use crate::image::{Limits, StoredImage};
use crate::names::Fingerprint;
use crate::security::idmap::IdMap;
use crate::sys::{mount, userns};

/// Version of a volume's layout.
const FORMAT: u32 = 1;
/// Fixed for a volume's life: an upper made under other options is another upper.
const OPTIONS: &str = "redirect_dir=on,xino=on,index=off,metacopy=off";

/// Where a squashfs is mounted that holds more than the root.
const WHOLE: &str = "whole";

/// `volume.json`: what an upper belongs to.
#[derive(Debug, Serialize, Deserialize)]
struct Volume {
    format: u32,
    lower: Option<Fingerprint>,
    options: String,
}

pub(super) struct Overlay;

fn read(volume: &Path) -> Result<Volume, Error> {
    let path = volume.join("volume.json");
    let text = std::fs::read(&path).map_err(io("read", &path))?;
    let volume: Volume =
        serde_json::from_slice(&text).map_err(|e| Error::Damaged { path: path.clone(), reason: e.to_string() })?;
    if volume.format > FORMAT {
        return Err(Error::Damaged { path, reason: format!("it has the format {} of a newer version", volume.format) });
    }
    Ok(volume)
}

fn write(volume: &Path, lower: Option<Fingerprint>) -> Result<(), Error> {
    let path = volume.join("volume.json");
    let record = Volume { format: FORMAT, lower, options: OPTIONS.to_owned() };
    let text = serde_json::to_vec(&record).unwrap_or_default();
    std::fs::write(&path, text).map_err(io("write", path))
}

/// Makes the directories of an upper layer; its root is the container's root's.
pub(super) fn prepare_upper(upper: &Path) -> Result<(), Error> {
    make_dir(upper, 0o711)?;
    make_dir(&upper.join("fs"), 0o755)?;
    make_dir(&upper.join("work"), 0o700)
}

/// Mounts the overlay of `lower` and `upper` at `target`; `scratch` holds the layers' mounts meanwhile.
pub(super) fn mount_layers(
    scratch: &Path,
    lower: &Path,
    upper: &Path,
    target: &Path,
    map: Option<&IdMap>,
) -> Result<(), Error> {
    let failed = || io("mount the overlay", target);
    let Some(map) = map else {
        return mount::overlay(target, lower, &upper.join("fs"), &upper.join("work"), OPTIONS, false).map_err(failed());
    };
    let places = [scratch.join(".lower"), scratch.join(".upper")];
    let result = (|| {
        let (uids, gids) = map.mount_maps(true);
        let namespace = userns::with_maps(&uids, &gids)?;
        for (layer, place) in [lower, upper].into_iter().zip(&places) {
            let clone = mount::clone_of(layer)?;
            mount::map_ids(&clone, &*namespace)?;
            match std::fs::create_dir(place) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
                Ok(()) | Err(_) => mount::attach(&clone, place)?,
            }
        }
        // Not nosuid: sudo inside must work. Nodev: an image's device nodes stay shut.
        mount::overlay(target, &places[0], &places[1].join("fs"), &places[1].join("work"), OPTIONS, true)
    })();
    for place in &places {
        // Detached, not waited for: the overlay holds what it needs of them.
        let _ = rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH);
        let _ = std::fs::remove_dir(place);
    }
    result.map_err(failed())
}

/// Makes the shared root of an image ready: mounted from its squashfs, or unpacked once.
fn lower_of(pool: &Path, fingerprint: &Fingerprint) -> Result<std::path::PathBuf, Error> {
    let image = pool.join("images").join(fingerprint.as_str());
    let (squashfs, whole) = (image.join("image.squashfs"), image.join(WHOLE));
    let unified = whole.exists();
    let (point, rootfs) =
        if unified { (whole.clone(), whole.join("rootfs")) } else { (image.join("rootfs"), image.join("rootfs")) };
    if squashfs.exists() && !mount::is_mounted(&point).map_err(io("list the mounts of", &point))? {
        mount::squashfs(&squashfs, &point).map_err(io("mount", &squashfs))?;
    }
    // A link in its place would lead into the host.
    match rootfs.symlink_metadata() {
        Ok(found) if found.is_dir() => Ok(rootfs),
        Ok(_) => Err(Error::Damaged { path: rootfs, reason: "it is no directory".to_owned() }),
        Err(error) => Err(io("open", rootfs)(error)),
    }
}

/// Brings an image into the pool: a squashfs as it is (a hard link where possible), anything else unpacked.
fn ensure_image(pool: &Path, image: &StoredImage) -> Result<(), Error> {
    let place = pool.join("images").join(image.fingerprint.as_str());
    if place.join("complete").exists() {
        match std::fs::remove_file(place.join("deleted")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io("open", place)(error)),
            Ok(()) | Err(_) => return Ok(()),
        }
    }
    remove_dir(&place)?;
    make_dir(&place, 0o711)?;
    let filled = (|| {
        match image.squashfs_file() {
            Some(squashfs) => {
                let copy = place.join("image.squashfs");
                if std::fs::hard_link(squashfs, &copy).is_err() {
                    std::fs::copy(squashfs, &copy).map_err(io("copy the image to", &copy))?;
                }
                make_dir(&place.join(if image.is_unified_squashfs() { WHOLE } else { "rootfs" }), 0o755)?;
                image.unpack_metadata(&place)?;
            }
            None => {
                image.unpack(&place, &Limits::default())?;
            }
        }
        let complete = place.join("complete");
        std::fs::write(&complete, "").map_err(io("write", complete))
    })();
    if filled.is_err() {
        // The cause is what is told; half an image is never used, for it is not called complete.
        let _ = remove_dir(&place);
    }
    filled
}

fn copy_metadata(from: &Path, volume: &Path) -> Result<(), Error> {
    // Links are not followed: the image made them, and the daemon is root of the host.
    let kind = |path: &Path| path.symlink_metadata().map(|found| found.file_type());
    let copy = |from: &Path, to: &Path| {
        if kind(from).is_ok_and(|kind| kind.is_file()) {
            return std::fs::copy(from, to).map(drop).map_err(io("copy", from));
        }
        Ok(())
    };
    copy(&from.join("metadata.yaml"), &volume.join("metadata.yaml"))?;
    let templates = from.join("templates");
    if !kind(&templates).is_ok_and(|kind| kind.is_dir()) {
        return Ok(());
    }
    let entries = std::fs::read_dir(&templates).map_err(io("read", &templates))?;
    make_dir(&volume.join("templates"), 0o700)?;
    for entry in entries {
        let entry = entry.map_err(io("read", &templates))?;
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            copy(&entry.path(), &volume.join("templates").join(entry.file_name()))?;
        }
    }
    Ok(())
}

impl Driver for Overlay {
    fn fill(&self, pool: &Path, volume: &Path, image: &StoredImage) -> Result<(), Error> {
        ensure_image(pool, image)?;
        // Mounted now, so that a broken squashfs fails the creation and not the first start.
        lower_of(pool, &image.fingerprint)?;
        prepare_upper(&volume.join("upper"))?;
        make_dir(&volume.join("rootfs"), 0o755)?;
        copy_metadata(&pool.join("images").join(image.fingerprint.as_str()), volume)?;
        write(volume, Some(image.fingerprint.clone()))
    }

    fn fill_empty(&self, volume: &Path) -> Result<(), Error> {
        prepare_upper(&volume.join("upper"))?;
        make_dir(&volume.join("lower"), 0o755)?;
        make_dir(&volume.join("rootfs"), 0o755)?;
        write(volume, None)
    }

    fn mount(&self, pool: &Path, volume: &Path, map: Option<&IdMap>) -> Result<RootMount, Error> {
        let lower = match read(volume)?.lower {
            Some(fingerprint) => lower_of(pool, &fingerprint)?,
            None => volume.join("lower"),
        };
        let rootfs = volume.join("rootfs");
        // Where a crash leaves nothing in the volume: the pool's next opening clears it.
        let scratch = scratch(pool);
        make_dir(&scratch, 0o700)?;
        let mounted = mount_layers(&scratch, &lower, &volume.join("upper"), &rootfs, map);
        // Empty, unless a mount could not be detached; then it waits for the same opening.
        let _ = std::fs::remove_dir(&scratch);
        mounted?;
        Ok(RootMount { path: rootfs, lxc_options: None, stored: None })
    }

    fn lower(&self, volume: &Path) -> Option<Fingerprint> {
        read(volume).ok().and_then(|record| record.lower)
    }
}
