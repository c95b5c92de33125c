//! `overlay`: each image once, read-only and shared; each container an upper directory over it, perhaps with layers
//! between them that its snapshots and copies share ([`layers`]).
//!
//! All layers are id-mapped mounts for the moment of mounting the overlay; they are detached once it stands. The map of
//! them has a spare row for root of the host, who mounts: without it overlayfs falls back to read-only.
//!
//! ```text
//!  snapshot of a volume that is down     its upper becomes a layer of both, it gets a new upper
//!  snapshot of one in use                a copy of its upper becomes a layer of the snapshot
//!  copy, restore                         a new upper over the same layers
//!  too many layers                       all of them are made one first ([`merge`])
//! ```

mod layers;
mod merge;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::copy::{self, Pause, Single};
use super::driver::{Driver, Fill, Look, Make, RootMount};
use super::error::{Error, io};
use super::files::{make_dir, remove_dir, scratch};
use super::pool::purges::Purges;
use super::quota::{self, Counted};
use crate::image::{Limits, StoredImage};
use crate::names::Fingerprint;
use crate::security::idmap::IdMap;
use crate::sys::{mount, userns};
use layers::{LayerId, Layers};

pub(super) use layers::PLACE as LAYERS;

/// Version of a volume's layout.
const FORMAT: u32 = 2;
/// Fixed for a volume's life: an upper made under other options is another upper.
const OPTIONS: &str = "redirect_dir=on,xino=on,index=off,metacopy=off";
/// A volume stands on so many layers at most: each takes time to look through, and mount(2) takes a page of options.
const MOST_LAYERS: usize = 8;

/// Where a squashfs is mounted that holds more than the root.
const WHOLE: &str = "whole";

const RECORD: &str = "volume.json";
/// What is to become the record; left by a crash, it never did.
const NEXT: &str = "volume.next.json";

/// `volume.json`: what a volume is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Volume {
    format: u32,
    /// The name by which it is a user of layers.
    id: String,
    /// The image at the bottom; `None`: nothing is there.
    lower: Option<Fingerprint>,
    /// What it writes to; a snapshot writes nowhere.
    upper: Option<LayerId>,
    /// What lies between, from the top.
    layers: Vec<LayerId>,
    /// It stood on these; they are to be let go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    dropped: Vec<LayerId>,
    options: String,
}

impl Volume {
    fn new(lower: Option<Fingerprint>, upper: Option<LayerId>, layers: Vec<LayerId>) -> Self {
        let id = uuid::Uuid::new_v4().to_string();
        Self { format: FORMAT, id, lower, upper, layers, dropped: Vec::new(), options: OPTIONS.to_owned() }
    }

    fn uses(&self) -> impl Iterator<Item = &LayerId> {
        self.upper.iter().chain(&self.layers).chain(&self.dropped)
    }
}

#[derive(Default)]
pub(super) struct Overlay {
    layers: Layers,
    /// Of the pool.
    purges: Arc<Purges>,
}

fn read(volume: &Path, name: &str) -> Result<Volume, Error> {
    let path = volume.join(name);
    let text = std::fs::read(&path).map_err(io("read", &path))?;
    let volume: Volume =
        serde_json::from_slice(&text).map_err(|e| Error::Damaged { path: path.clone(), reason: e.to_string() })?;
    if volume.format != FORMAT {
        return Err(Error::Damaged { path, reason: format!("it has the format {} of another version", volume.format) });
    }
    Ok(volume)
}

fn write(volume: &Path, name: &str, record: &Volume) -> Result<(), Error> {
    let path = volume.join(name);
    let text = serde_json::to_vec(record).unwrap_or_default();
    std::fs::write(&path, text).map_err(io("write", path))
}

/// What belongs to a volume beside its root.
const BESIDE: &[&str] = &["metadata.yaml", "templates"];
/// What containers inside have on the pool's own file system.
const NESTED: &str = "nested";

impl Overlay {
    /// For a pool with these removals.
    pub(super) fn new(purges: Arc<Purges>) -> Self {
        Self { layers: Layers::default(), purges }
    }

    /// What a volume writes to. It lies in a directory of the pool, as volumes do.
    fn upper(&self, volume: &Path) -> Result<Option<PathBuf>, Error> {
        let pool = volume.ancestors().nth(2).unwrap_or(Path::new("/"));
        Ok(read(volume, RECORD)?.upper.map(|upper| upper.path(pool)))
    }

    /// The record, when what a crash left of a change to it has been cleared.
    fn settled(&self, pool: &Path, volume: &Path) -> Result<Volume, Error> {
        let mut record = read(volume, RECORD)?;
        let next = volume.join(NEXT);
        if next.exists() {
            if let Ok(never) = read(volume, NEXT) {
                let mine: Vec<&LayerId> = record.uses().collect();
                for layer in never.uses().filter(|layer| !mine.contains(layer)) {
                    self.let_go(pool, layer, &record.id)?;
                }
            }
            std::fs::remove_file(&next).map_err(io("remove", &next))?;
        }
        if !record.dropped.is_empty() {
            for layer in std::mem::take(&mut record.dropped) {
                self.let_go(pool, &layer, &record.id)?;
            }
            self.replace(volume, &record)?;
        }
        Ok(record)
    }

    fn let_go(&self, pool: &Path, layer: &LayerId, user: &str) -> Result<(), Error> {
        let Some(trash) = self.layers.release(pool, layer, user)? else { return Ok(()) };
        let purges = Arc::clone(&self.purges);
        // Behind whoever asked; what stays is removed at the next opening, or with the pool.
        let removed = std::thread::Builder::new().name("purge".to_owned()).spawn(move || {
            if let Err(error) = purges.run(|| remove_dir(&trash)) {
                tracing::warn!(%error, "removing a layer that nobody uses");
            }
        });
        if let Err(error) = removed {
            tracing::warn!(%error, "a layer that nobody uses stays until the next start");
        }
        Ok(())
    }

    fn replace(&self, volume: &Path, record: &Volume) -> Result<(), Error> {
        if !volume.join(NEXT).exists() {
            write(volume, NEXT, record)?;
        }
        std::fs::rename(volume.join(NEXT), volume.join(RECORD)).map_err(io("write", volume.join(RECORD)))
    }

    /// What a new volume stands on that has what `volume`, which nobody uses, has now. Its upper becomes a layer, unless
    /// nothing was written to it.
    fn seal(&self, pool: &Path, volume: &Path) -> Result<Volume, Error> {
        let old = self.settled(pool, volume)?;
        let Some(upper) = &old.upper else { return Ok(old) };
        let files = upper.files(pool);
        let empty = std::fs::read_dir(&files).map_err(io("read", &files))?.next().is_none();
        if empty
            && let Some(top) = old.layers.first()
            && copy::alike(&files, &top.files(pool))?
        {
            return Ok(old);
        }
        let next = LayerId::new();
        let mut new = Volume { upper: Some(next.clone()), layers: vec![upper.clone()], ..old.clone() };
        new.layers.extend(old.layers.iter().cloned());
        let merged = (new.layers.len() > MOST_LAYERS).then(LayerId::new);
        if let Some(merged) = &merged {
            new.dropped = std::mem::replace(&mut new.layers, vec![merged.clone()]);
        }
        write(volume, NEXT, &new)?;
        // What a failure leaves of it is cleared with the next use of the volume.
        (|| {
            if let Some(merged) = &merged {
                self.layers.make(pool, merged, &old.id)?;
                let all: Vec<PathBuf> = new.dropped.iter().map(|layer| layer.files(pool)).collect();
                merge::merge(&all, &merged.files(pool))?;
                remove_dir(&merged.path(pool).join("work"))?;
            }
            self.layers.make(pool, &next, &old.id)?;
            if let Some(limit) = quota::usage_of_directory(&upper.path(pool))?.and_then(|usage| usage.limit) {
                quota::limit_directory(&next.path(pool), Some(limit))?;
            }
            // The root's own owner and mode are those of the topmost layer.
            let (root, top) = (Single::new(&next.files(pool)), Path::new(""));
            root.directory(&files, top)?;
            root.finish(&files, top)?;
            self.replace(volume, &new)
        })()?;
        // Overlayfs is done with it; it was never part of the files.
        remove_dir(&upper.path(pool).join("work"))?;
        self.settled(pool, volume)
    }

    /// Fills `new`, a new volume whose record says what it is made of.
    fn establish(&self, pool: &Path, new: &Path, record: &Volume) -> Result<(), Error> {
        make_dir(new, 0o700)?;
        write(new, RECORD, record)?;
        for layer in &record.layers {
            if layer.path(pool).exists() {
                self.layers.add(pool, layer, &record.id)?;
            } else {
                self.layers.make(pool, layer, &record.id)?;
            }
        }
        if let Some(upper) = &record.upper {
            self.layers.make(pool, upper, &record.id)?;
        }
        if record.lower.is_none() {
            make_dir(&new.join("lower"), 0o755)?;
        }
        make_dir(&new.join("rootfs"), 0o755)
    }
}

/// Makes the directories of an upper layer; its root is the container's root's.
pub(super) fn prepare_upper(upper: &Path) -> Result<(), Error> {
    make_dir(upper, 0o711)?;
    make_dir(&upper.join("fs"), 0o755)?;
    make_dir(&upper.join("work"), 0o700)
}

/// Mounts the overlay of `lowers`, the topmost first, and `upper` at `target`; `scratch` holds the layers' mounts
/// meanwhile. Without an upper it is read-only.
pub(super) fn mount_layers(
    scratch: &Path,
    lowers: &[PathBuf],
    upper: Option<&Path>,
    target: &Path,
    map: Option<&IdMap>,
) -> Result<(), Error> {
    let failed = || io("mount the overlay", target);
    let Some(map) = map else {
        return overlay(target, lowers, upper, false).map_err(failed());
    };
    let layers: Vec<&Path> = lowers.iter().map(PathBuf::as_path).chain(upper).collect();
    let places: Vec<PathBuf> = (0..layers.len()).map(|number| scratch.join(number.to_string())).collect();
    let result = (|| {
        let (uids, gids) = map.mount_maps(true);
        let namespace = userns::with_maps(&uids, &gids)?;
        for (layer, place) in layers.into_iter().zip(&places) {
            let clone = mount::clone_of(layer)?;
            mount::map_ids(&clone, &*namespace)?;
            match std::fs::create_dir(place) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
                Ok(()) | Err(_) => mount::attach(&clone, place)?,
            }
        }
        // Not nosuid: sudo inside must work. Nodev: an image's device nodes stay shut.
        let (lowers, upper) = places.split_at(lowers.len());
        overlay(target, lowers, upper.first().map(PathBuf::as_path), true)
    })();
    for place in &places {
        // Detached, not waited for: the overlay holds what it needs of them.
        let _ = rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH);
        let _ = std::fs::remove_dir(place);
    }
    result.map_err(failed())
}

fn overlay(target: &Path, lowers: &[PathBuf], upper: Option<&Path>, nodev: bool) -> std::io::Result<()> {
    let upper = upper.map(|upper| (upper.join("fs"), upper.join("work")));
    match (upper, lowers) {
        // Overlayfs wants two layers; one is shown as it is.
        (None, [only]) => {
            let clone = mount::clone_of(only)?;
            mount::set_read_only(&clone)?;
            mount::attach(&clone, target)
        }
        (upper, lowers) => mount::overlay(target, lowers, upper.as_ref(), OPTIONS, nodev),
    }
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
    fn make(&self, pool: &Path, new: &Path, what: Make<'_>) -> Result<(), Error> {
        match what {
            Make::Image(image) => {
                ensure_image(pool, image)?;
                // Mounted now, so that a broken squashfs fails the creation and not the first start.
                lower_of(pool, &image.fingerprint)?;
                let lower = Some(image.fingerprint.clone());
                self.establish(pool, new, &Volume::new(lower, Some(LayerId::new()), Vec::new()))?;
                copy_metadata(&pool.join("images").join(image.fingerprint.as_str()), new)
            }
            Make::Empty => self.establish(pool, new, &Volume::new(None, Some(LayerId::new()), Vec::new())),
            Make::Snapshot { of, live } => self.clone_volume(pool, of, new, None, live),
            Make::Copy { of, live } => self.clone_volume(pool, of, new, Some(LayerId::new()), live),
        }
    }

    fn mount(&self, pool: &Path, volume: &Path, map: Option<&IdMap>) -> Result<RootMount, Error> {
        let record = self.settled(pool, volume)?;
        let mut lowers: Vec<PathBuf> = record.layers.iter().map(|layer| layer.files(pool)).collect();
        lowers.push(match &record.lower {
            Some(fingerprint) => lower_of(pool, fingerprint)?,
            None => volume.join("lower"),
        });
        let upper = record.upper.map(|upper| upper.path(pool));
        if let Some(upper) = &upper {
            // What overlayfs left there may belong to an id that this map does not have: it could not clear it, and would
            // mount read-only.
            let work = upper.join("work");
            remove_dir(&work)?;
            make_dir(&work, 0o700)?;
        }
        let rootfs = volume.join("rootfs");
        // Where a crash leaves nothing in the volume: the pool's next opening clears it.
        let scratch = scratch(pool);
        make_dir(&scratch, 0o700)?;
        let mounted = mount_layers(&scratch, &lowers, upper.as_deref(), &rootfs, map);
        // Empty, unless a mount could not be detached; then it waits for the same opening.
        let _ = std::fs::remove_dir(&scratch);
        mounted?;
        Ok(RootMount { path: rootfs, lxc_options: None, stored: None })
    }

    fn wake(&self, pool: &Path, volume: &Path) -> Result<(), Error> {
        self.lower(volume).map_or(Ok(()), |fingerprint| lower_of(pool, &fingerprint).map(drop))
    }

    fn copy_root(&self, pool: &Path, volume: &Path, live: Option<&dyn Pause>, to: &Path) -> Result<(), Error> {
        if live.is_none() {
            return self.copy_merged(pool, volume, to);
        }
        // There is never a second overlay over an upper that is in use.
        let frozen = scratch(pool);
        let copied = self
            .make(pool, &frozen, Make::Snapshot { of: volume, live })
            .and_then(|()| self.copy_merged(pool, &frozen, to));
        // The cause is what is told; what stays here is cleared at the next opening.
        let _ = self.discard(pool, &frozen);
        copied
    }

    fn show(&self, pool: &Path, volume: &Path, look: Look<'_>) -> Result<(), Error> {
        let record = self.settled(pool, volume)?;
        let mut lowers: Vec<PathBuf> =
            record.upper.iter().chain(&record.layers).map(|layer| layer.files(pool)).collect();
        lowers.push(match &record.lower {
            Some(fingerprint) => lower_of(pool, fingerprint)?,
            None => volume.join("lower"),
        });
        // Not the scratch itself: after a crash a mount point could not be moved out of the way.
        let scratch = scratch(pool);
        let place = scratch.join("root");
        make_dir(&scratch, 0o700)?;
        make_dir(&place, 0o700)?;
        let seen = mount_layers(&scratch, &lowers, None, &place, None).and_then(|()| look(&place));
        // What cannot be taken away now is cleared at the next opening.
        let _ = mount::unmount(&place);
        let _ = std::fs::remove_dir(&place);
        let _ = std::fs::remove_dir(&scratch);
        seen
    }

    fn make_filled(&self, pool: &Path, new: &Path, snapshot: bool, fill: Fill<'_>) -> Result<(), Error> {
        let layer = LayerId::new();
        let (upper, layers) = match snapshot {
            true => (None, vec![layer.clone()]),
            false => (Some(layer.clone()), Vec::new()),
        };
        self.establish(pool, new, &Volume::new(None, upper, layers))?;
        if snapshot {
            remove_dir(&layer.path(pool).join("work"))?;
        }
        fill(&layer.files(pool))
    }

    fn own(&self, pool: &Path, volume: &Path) -> Vec<PathBuf> {
        let record = read(volume, RECORD).ok();
        let upper = record.and_then(|record| record.upper).map(|upper| upper.files(pool));
        upper.into_iter().chain([volume.join(NESTED)]).collect()
    }

    fn check_limits(&self, pool: &Path) -> Result<(), Error> {
        quota::check_directories(pool)
    }

    fn set_quota(&self, volume: &Path, bytes: Option<u64>) -> Result<(), Error> {
        match self.upper(volume)? {
            Some(upper) => quota::limit_directory(&upper, bytes),
            None => Ok(()),
        }
    }

    fn set_files_quota(&self, volume: &Path, bytes: Option<u64>) -> Result<(), Error> {
        quota::limit_directory(volume, bytes)
    }

    fn files_usage(&self, volume: &Path) -> Result<Option<Counted>, Error> {
        quota::usage_of_directory(volume)
    }

    fn counts(&self, pool: &Path) -> bool {
        quota::counts_directories(pool)
    }

    fn usage(&self, volume: &Path) -> Result<Option<Counted>, Error> {
        self.upper(volume)?.map_or(Ok(None), |upper| quota::usage_of_directory(&upper))
    }

    fn lower(&self, volume: &Path) -> Option<Fingerprint> {
        read(volume, RECORD).ok().and_then(|record| record.lower)
    }

    fn discard(&self, pool: &Path, trash: &Path) -> Result<(), Error> {
        for name in [RECORD, NEXT] {
            if let Ok(record) = read(trash, name) {
                for layer in record.uses() {
                    self.let_go(pool, layer, &record.id)?;
                }
            }
        }
        remove_dir(trash)
    }
}

impl Overlay {
    /// Copies what one would see of a volume that is not mounted.
    fn copy_merged(&self, pool: &Path, volume: &Path, to: &Path) -> Result<(), Error> {
        self.show(pool, volume, &mut |place| copy::tree(place, to))
    }

    fn clone_volume(
        &self,
        pool: &Path,
        of: &Path,
        new: &Path,
        upper: Option<LayerId>,
        live: Option<&dyn Pause>,
    ) -> Result<(), Error> {
        let (from, to) = (of.join(NESTED), new.join(NESTED));
        let record = match live {
            None => {
                let old = self.seal(pool, of)?;
                let record = Volume::new(old.lower, upper, old.layers);
                self.establish(pool, new, &record)?;
                if from.exists() {
                    copy::tree(&from, &to)?;
                }
                record
            }
            Some(pause) => {
                let old = self.settled(pool, of)?;
                let copied = old.upper.as_ref().map(|_| LayerId::new());
                let layers = copied.iter().cloned().chain(old.layers).collect();
                let record = Volume::new(old.lower, upper, layers);
                self.establish(pool, new, &record)?;
                let mut trees = Vec::new();
                if let (Some(upper), Some(copied)) = (&old.upper, &copied) {
                    remove_dir(&copied.path(pool).join("work"))?;
                    trees.push((upper.files(pool), copied.files(pool)));
                }
                if from.exists() {
                    trees.push((from, to));
                }
                copy::live(&trees, pause)?;
                record
            }
        };
        if let (Some(upper), Some(top)) = (&record.upper, record.layers.first()) {
            let (root, below) = (Single::new(&upper.files(pool)), Path::new(""));
            root.directory(&top.files(pool), below)?;
            root.finish(&top.files(pool), below)?;
        }
        copy::parts(of, new, BESIDE)
    }
}

#[cfg(test)]
mod tests;
