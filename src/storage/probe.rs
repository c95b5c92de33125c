//! What this host's kernel and file system can do, found by trying once; each feature can be switched off by an
//! environment variable.

use std::path::Path;
use std::sync::OnceLock;

use super::error::Error;
use super::files::{make_dir, remove_dir};
use super::overlay;
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
    idmapped: OnceLock<Option<String>>,
    overlay: OnceLock<Option<String>>,
}

const ID_MAPPED_OFF: &[&str] =
    &["WARREN_IDMAPPED_MOUNTS_DISABLE", "LXD_IDMAPPED_MOUNTS_DISABLE", "WARREN_DISABLE_IDMAPPED_MOUNTS"];
const OVERLAY_OFF: &[&str] = &["WARREN_DISABLE_OVERLAY"];

fn switched_off(names: &[&str]) -> Option<String> {
    let on = |name: &&&str| std::env::var(name).ok().and_then(|text| crate::config::parse_bool(&text)) == Some(true);
    names.iter().find(on).map(|name| format!("switched off by {name}"))
}

impl Probes {
    /// Nothing tried yet; `scratch` is a directory on the file system in question, for the trials.
    pub fn new(scratch: &Path) -> Self {
        Self { scratch: scratch.to_owned(), idmapped: OnceLock::new(), overlay: OnceLock::new() }
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
        self.idmapped.get_or_init(|| switched_off(ID_MAPPED_OFF).or_else(|| self.attempt(try_id_mapped))).clone()
    }

    /// Why the overlay driver does not work; `None` when it does.
    pub fn overlay_missing(&self) -> Option<String> {
        self.overlay
            .get_or_init(|| {
                switched_off(OVERLAY_OFF).or_else(|| self.id_mapped_missing()).or_else(|| self.attempt(try_overlay))
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

    fn attempt(&self, attempt: fn(&Path) -> Result<(), Error>) -> Option<String> {
        let scratch = self.scratch.join(format!("{TRIAL}{}", std::process::id()));
        let result = make_dir(&scratch, 0o700).and_then(|()| attempt(&scratch));
        let removed = clear(&scratch);
        result.and(removed).err().map(|error| error.to_string())
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
    overlay::mount_layers(scratch, &lower, &upper, &target, Some(&sample_map()))?;
    let file = target.join("file");
    std::fs::write(&file, "x").map_err(super::error::io("write on an id-mapped overlay", &file))
}
