//! Squashfs images, by the tools of squashfs-tools.
//!
//! The root of a split image is one, or a whole unified image with `metadata.yaml`, `rootfs/` and `templates/` in it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, CWD};

use super::error::{Error, io as io_error};
use super::rules::Limits;
use super::unpack::Report;

/// What an image says about itself.
pub(super) const METADATA: &str = "metadata.yaml";
/// The directory of its templates.
pub(super) const TEMPLATES: &str = "templates";

/// A squashfs says at byte 40 how long it is ("Squashfs 4.0 filesystem", kernel documentation): a shorter file was cut.
pub(super) fn check_whole(path: &Path) -> Result<(), Error> {
    let mut head = [0; 48];
    let mut file = File::open(path).map_err(io_error("read", path))?;
    let cut = || Error::BadArchive { reason: "its squashfs is cut short".to_owned() };
    file.read_exact(&mut head).map_err(|_| cut())?;
    let length = file.metadata().map_err(io_error("read", path))?.len();
    let used = head[40..].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    if length < used { Err(cut()) } else { Ok(()) }
}

/// The metadata of a unified squashfs, read by way of the directory `scratch`, which must not be there.
pub(super) fn metadata(image: &Path, scratch: PathBuf) -> Result<Vec<u8>, Error> {
    let scratch = Scratch(scratch);
    let limits = Limits::default();
    extract(image, &scratch.0, &[METADATA, TEMPLATES], &limits)?;
    plain_metadata(&scratch.0)?;
    if !has_root(image)? {
        return Err(no_root());
    }
    let path = scratch.0.join(METADATA);
    if !path.exists() {
        return Err(Error::BadArchive { reason: "it has no metadata.yaml".to_owned() });
    }
    let mut text = Vec::new();
    let max = super::metadata::MAX;
    File::open(&path).and_then(|file| file.take(max + 1).read_to_end(&mut text)).map_err(io_error("read", path))?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > max {
        return Err(Error::Limit { what: "bytes of metadata.yaml", limit: max });
    }
    Ok(text)
}

/// The error of an image without a directory for its root.
pub(super) fn no_root() -> Error {
    Error::BadArchive { reason: "it has no rootfs directory".to_owned() }
}

/// Whether it is a directory, no link to one.
pub(super) fn plain_dir(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_dir())
}

/// What lies beside the root is read by the daemon itself, as root of the host: plain files, never links elsewhere.
pub(super) fn plain_metadata(dest: &Path) -> Result<(), Error> {
    let hostile = |path: &Path| {
        let path = path.strip_prefix(dest).unwrap_or(path).to_string_lossy().into_owned();
        Error::Hostile { path, reason: "no plain file or directory" }
    };
    let metadata = dest.join(METADATA);
    match metadata.symlink_metadata() {
        Ok(found) if !found.is_file() => return Err(hostile(&metadata)),
        Ok(_) | Err(_) => {}
    }
    let templates = dest.join(TEMPLATES);
    match templates.symlink_metadata() {
        Err(_) => return Ok(()),
        Ok(found) if !found.is_dir() => return Err(hostile(&templates)),
        Ok(_) => {}
    }
    for entry in std::fs::read_dir(&templates).map_err(io_error("read", &templates))? {
        let entry = entry.map_err(io_error("read", &templates))?;
        if !entry.file_type().is_ok_and(|kind| kind.is_file() || kind.is_dir()) {
            return Err(hostile(&entry.path()));
        }
    }
    Ok(())
}

/// A directory that goes in the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Never made, or removed at the next opening of the store.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether `rootfs` is there, and a directory: a link would lead out of the image.
fn has_root(image: &Path) -> Result<bool, Error> {
    // Like `ls -l`: mode, owner, size, time, and the path at the end.
    let output = run(Command::new("unsquashfs").arg("-lls").arg(image).arg("rootfs"))?;
    let listing = String::from_utf8_lossy(&output);
    Ok(listing.lines().any(|line| line.starts_with('d') && line.ends_with(" squashfs-root/rootfs")))
}

fn run(command: &mut Command) -> Result<Vec<u8>, Error> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Error::Tool { tool: "unsquashfs", reason: format!("{e}; install squashfs-tools") })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().chars().take(400).collect::<String>();
    Err(Error::Tool { tool: "unsquashfs", reason })
}

/// Unpacks what is named of a squashfs, everything when nothing is, by its own tool, which stays below its destination by
/// itself, and takes device nodes out again. What is named and not there is no failure.
pub(super) fn extract(image: &Path, dest: &Path, only: &[&str], limits: &Limits) -> Result<Report, Error> {
    let mut command = Command::new("unsquashfs");
    command.args(["-no-progress", "-quiet", "-force", "-dest"]).args([dest, image]).args(only);
    run(&mut command).map_err(|error| match error {
        Error::Tool { reason, .. } if reason.contains("No space left") => Error::NoSpace { path: dest.to_owned() },
        other => other,
    })?;
    let mut report = Report::default();
    drop_devices(dest, &mut report, limits)?;
    Ok(report)
}

fn drop_devices(dir: &Path, report: &mut Report, limits: &Limits) -> Result<(), Error> {
    for entry in std::fs::read_dir(dir).map_err(io_error("read", dir))? {
        let entry = entry.map_err(io_error("read", dir))?;
        // Not followed: a symlink is one more entry, wherever it points.
        let kind = entry.file_type().map_err(io_error("read", entry.path()))?;
        report.entries += 1;
        if report.entries > limits.max_entries {
            return Err(Error::Limit { what: "entries", limit: limits.max_entries });
        }
        if kind.is_dir() {
            drop_devices(&entry.path(), report, limits)?;
        } else if kind.is_char_device() || kind.is_block_device() {
            rustix::fs::unlinkat(CWD, entry.path(), AtFlags::empty())
                .map_err(|e| io_error("remove", entry.path())(e.into()))?;
            report.devices += 1;
        }
    }
    Ok(())
}
