//! What this host's kernel and file system can do, found by trying once; each feature can be switched off by an
//! environment variable.
//!
//! A trial writes to the disk, which takes a second when others write much. What has worked since the host was booted, on
//! the same file system and for the same version of this program, is not tried again; what has not, always is.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

use super::error::Error;
use super::files::{make_dir, remove_dir};
use super::{overlay, source};
use crate::security::idmap::{IdMap, IdRange, MINIMUM};
use crate::sys::{mount, userns};

/// A feature, and why it is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// `None`: it works.
    pub missing: Option<String>,
}

/// The findings. Each is tried when it is first asked for: a daemon that needs none starts without mounting anything.
#[derive(Debug)]
pub struct Probes {
    scratch: std::path::PathBuf,
    /// What has worked is remembered there.
    memory: Option<std::path::PathBuf>,
    idmapped: OnceLock<Option<String>>,
    overlay: OnceLock<Option<String>>,
    btrfs: OnceLock<Option<String>>,
}

const ID_MAPPED_OFF: &[&str] =
    &["WARREN_IDMAPPED_MOUNTS_DISABLE", "LXD_IDMAPPED_MOUNTS_DISABLE", "WARREN_DISABLE_IDMAPPED_MOUNTS"];
const BTRFS_OFF: &[&str] = &["WARREN_DISABLE_BTRFS"];
const OVERLAY_OFF: &[&str] = &["WARREN_DISABLE_OVERLAY"];

fn switched_off(names: &[&str]) -> Option<String> {
    let on = |name: &&&str| std::env::var(name).ok().and_then(|text| crate::config::parse_bool(&text)) == Some(true);
    names.iter().find(on).map(|name| format!("switched off by {name}"))
}

impl Probes {
    /// Nothing tried yet; `scratch` is a directory on the file system in question, for the trials.
    pub fn new(scratch: &Path) -> Self {
        Self {
            scratch: scratch.to_owned(),
            memory: None,
            idmapped: OnceLock::new(),
            overlay: OnceLock::new(),
            btrfs: OnceLock::new(),
        }
    }

    /// The same, and what works is remembered in the file `memory` for the next start.
    pub fn remembering(scratch: &Path, memory: &Path) -> Self {
        Self { memory: Some(memory.to_owned()), ..Self::new(scratch) }
    }

    /// What a success is good for: this boot, kernel, file system and version.
    fn circumstances(&self) -> Option<String> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let device = std::fs::metadata(&self.scratch).ok()?.dev();
        Some(format!("{} {device} {}", boot.trim(), env!("CARGO_PKG_VERSION")))
    }

    fn has_worked(&self, feature: &str) -> bool {
        let line = self.circumstances().map(|circumstances| format!("{feature} {circumstances}"));
        let known = self.memory.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        line.zip(known).is_some_and(|(line, known)| known.lines().any(|known| known == line))
    }

    fn remember(&self, feature: &str) {
        let (Some(path), Some(circumstances)) = (&self.memory, self.circumstances()) else { return };
        let known = std::fs::read_to_string(path).unwrap_or_default();
        let still = known.lines().filter(|line| line.ends_with(&circumstances) && !line.starts_with(feature));
        let text: String = still.map(|line| format!("{line}\n")).collect();
        // Without it the next start tries again.
        if let Err(error) = std::fs::write(path, format!("{text}{feature} {circumstances}\n")) {
            tracing::debug!(%error, "remembering what works");
        }
    }

    /// Removes what a trial left that was killed in its middle. One of a process that lives (`doctor`) stays.
    pub fn clear(&self) {
        let program = |pid: &str| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
        for entry in std::fs::read_dir(&self.scratch).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(pid) = name.strip_prefix(TRIAL) else { continue };
            let ours = pid == std::process::id().to_string();
            if (ours || program(pid).is_none() || program(pid) != program("self"))
                && let Err(error) = clear(&entry.path())
            {
                tracing::warn!(%error, "removing what a trial of the kernel left");
            }
        }
    }

    /// Why there are no id-mapped mounts; `None` when there are.
    pub fn id_mapped_missing(&self) -> Option<String> {
        self.idmapped
            .get_or_init(|| switched_off(ID_MAPPED_OFF).or_else(|| self.attempt("idmapped_mounts", try_id_mapped)))
            .clone()
    }

    /// Why the overlay driver does not work; `None` when it does.
    pub fn overlay_missing(&self) -> Option<String> {
        self.overlay
            .get_or_init(|| {
                switched_off(OVERLAY_OFF)
                    .or_else(|| self.id_mapped_missing())
                    .or_else(|| self.attempt("overlay_idmapped", try_overlay))
            })
            .clone()
    }

    /// Why the btrfs driver does not work; `None` when it does. Only looked at: making a file system takes its time, and a
    /// pool's creation says what fails.
    pub fn btrfs_missing(&self) -> Option<String> {
        self.btrfs
            .get_or_init(|| {
                let missing = || match () {
                    () if !source::knows("btrfs") => Some("the kernel has no btrfs".to_owned()),
                    () if !source::has_tool("mkfs.btrfs") => {
                        Some("there is no mkfs.btrfs: install the package btrfs-progs".to_owned())
                    }
                    () => None,
                };
                switched_off(BTRFS_OFF).or_else(missing)
            })
            .clone()
    }

    /// All of them, for `doctor` and the log.
    pub fn all(&self) -> Vec<Feature> {
        vec![
            Feature { name: "idmapped_mounts", missing: self.id_mapped_missing() },
            Feature { name: "overlay_idmapped", missing: self.overlay_missing() },
        ]
    }

    fn attempt(&self, feature: &str, attempt: fn(&Path) -> Result<(), Error>) -> Option<String> {
        if self.has_worked(feature) {
            return None;
        }
        let scratch = self.scratch.join(format!("{TRIAL}{}", std::process::id()));
        let result = make_dir(&scratch, 0o700).and_then(|()| attempt(&scratch));
        let removed = clear(&scratch);
        let missing = result.and(removed).err().map(|error| error.to_string());
        if missing.is_none() {
            self.remember(feature);
        }
        missing
    }
}

/// Trials have directories of this name, with the process's number.
const TRIAL: &str = ".probe-";

fn clear(scratch: &Path) -> Result<(), Error> {
    for point in mount::below(scratch).unwrap_or_default() {
        // Best effort: what stays is named by the removal below.
        let _ = mount::unmount(&point);
    }
    remove_dir(scratch)
}

fn sample_map() -> IdMap {
    let range = IdRange { base: 1_000_000, size: MINIMUM };
    IdMap::new(range, range)
}

fn try_id_mapped(scratch: &Path) -> Result<(), Error> {
    let failed = super::error::io("make an id-mapped mount of", scratch);
    (|| {
        let (uids, gids) = sample_map().mount_maps(false);
        let namespace = userns::with_maps(&uids, &gids)?;
        mount::map_ids(mount::clone_of(scratch)?, &*namespace)
    })()
    .map_err(failed)
}

/// An overlay whose upper is id-mapped may come up read-only without an error, so something is written.
fn try_overlay(scratch: &Path) -> Result<(), Error> {
    let (lower, upper, target) = (scratch.join("lower"), scratch.join("upper"), scratch.join("target"));
    make_dir(&lower, 0o755)?;
    overlay::prepare_upper(&upper)?;
    make_dir(&target, 0o755)?;
    overlay::mount_layers(scratch, &[lower], Some(&upper), &target, Some(&sample_map()))?;
    let file = target.join("file");
    std::fs::write(&file, "x").map_err(super::error::io("write on an id-mapped overlay", &file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_worked_is_not_tried_again_and_what_has_not_always_is() {
        let dir = tempfile::tempdir().unwrap();
        let memory = dir.path().join("probed");
        let probes = || Probes::remembering(dir.path(), &memory);
        let fails: fn(&Path) -> Result<(), Error> =
            |path| Err(Error::Damaged { path: path.to_owned(), reason: "tried".to_owned() });
        assert!(probes().attempt("a", fails).is_some_and(|reason| reason.contains("tried")));
        assert_eq!(probes().attempt("a", |_| Ok(())), None);
        assert_eq!(probes().attempt("b", |_| Ok(())), None);
        assert_eq!((probes().attempt("a", fails), probes().attempt("b", fails)), (None, None));
        // Another boot, file system or version.
        let known = std::fs::read_to_string(&memory).unwrap();
        std::fs::write(&memory, known.replace("a ", "a 0")).unwrap();
        assert!(probes().attempt("a", fails).is_some() && probes().attempt("b", fails).is_none());
        assert!(Probes::new(dir.path()).attempt("b", fails).is_some(), "without a memory");
    }
}
