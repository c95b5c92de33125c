//! Where sources of disks may lie: what `restricted.devices.disk.paths` of a project means for what is really opened.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use super::plug::refuse;
use super::{Context, Error};
use crate::names::{DeviceName, ProjectName};
use crate::project;

/// The paths of a project, below which its disks have their sources; none: anywhere.
#[derive(Debug, Clone, Default)]
pub(super) struct Within(Option<Vec<String>>);

impl Within {
    pub(super) fn of(context: &Context, project: &ProjectName) -> Self {
        Self(project::disk_paths(&context.db.model(), project))
    }

    /// Whether what was opened lies there, by whatever links its path led. Nothing can be put in its place any more.
    pub(super) fn check(&self, device: &DeviceName, opened: impl AsFd) -> Result<(), Error> {
        let Some(paths) = &self.0 else { return Ok(()) };
        let link = format!("/proc/self/fd/{}", opened.as_fd().as_raw_fd());
        let place = std::fs::read_link(&link)
            .map_err(|error| refuse(device, format!("where its source lies is not known: {error}")))?;
        let holds = |path: &String| std::fs::canonicalize(path).is_ok_and(|path| place.starts_with(path));
        if place.starts_with(Path::new("/")) && paths.iter().any(holds) {
            return Ok(());
        }
        Err(refuse(device, format!("Disk source path {place:?} not allowed (restricted.devices.disk.paths)")))
    }
}
