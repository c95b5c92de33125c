//! Squashfs images, by the tools of squashfs-tools.
//!
//! The root of a split image is one, or a whole unified image with `metadata.yaml`, `rootfs/` and `templates/` in it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
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

/// What may lie beside the root of a unified squashfs, bytes: it is unpacked when the image arrives.
const BESIDE: u64 = 64 << 20;

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
    // Some of it is unpacked here and now, the rest when it is used.
    if !look(image, &[], &Limits::default())?.has_root {
        return Err(no_root());
    }
    let limits = Limits { max_bytes: BESIDE, ..Limits::default() };
    extract(image, &scratch.0, &[METADATA, TEMPLATES], &limits)?;
    plain_metadata(&scratch.0)?;
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
        let _ = crate::sys::remove::tree(&self.0);
    }
}

/// What a squashfs has, by its own list.
#[derive(Debug, Default)]
struct Look {
    entries: u64,
    /// Bytes of files, holes and what is there twice included: so much may be written.
    bytes: u64,
    /// `rootfs` is there, and a directory: a link would lead out of the image.
    has_root: bool,
}

impl Look {
    /// Takes a line, which is like one of `ls -l`: mode, owner, size, time, and the path at the end. What of a name is after
    /// the end of a line in it can only look like one more entry.
    fn line(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let mut words = text.split_ascii_whitespace();
        match words.next().and_then(|mode| mode.bytes().next()) {
            Some(b'-') => {
                let size = words.nth(1).and_then(|size| size.parse::<u64>().ok()).unwrap_or(0);
                self.bytes = self.bytes.saturating_add(size);
            }
            Some(b'd') => self.has_root |= text.ends_with(" squashfs-root/rootfs"),
            Some(_) | None => {}
        }
        self.entries += 1;
    }

    fn check(&self, limits: &Limits) -> Result<(), Error> {
        match (self.entries > limits.max_entries, self.bytes > limits.max_bytes) {
            (true, _) => Err(Error::Limit { what: "entries", limit: limits.max_entries }),
            (_, true) => Err(Error::Limit { what: "bytes", limit: limits.max_bytes }),
            (false, false) => Ok(()),
        }
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::Tool { tool: "unsquashfs", reason: format!("{error}; install squashfs-tools") }
}

/// Of a line so much is looked at, bytes: everything before the path, and the path that counts.
const LINE: usize = 256;

/// Looks at what is named of a squashfs, everything when nothing is, without unpacking: a few bytes can say that they are
/// any number of files of any size.
fn look(image: &Path, only: &[&str], limits: &Limits) -> Result<Look, Error> {
    let mut command = Command::new("unsquashfs");
    command.arg("-lln").arg(image).args(only).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let said = child.stderr.take();
    // Read beside the list, that neither waits for the other.
    let said = std::thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut from) = said {
            let _ = (&mut from).take(4096).read_to_end(&mut text);
            let _ = std::io::copy(&mut from, &mut std::io::sink());
        }
        text
    });
    let looked = child.stdout.take().map_or(Ok(Look::default()), |list| lines(BufReader::new(list), limits));
    if looked.is_err() {
        // It may have ended by itself.
        let _ = child.kill();
    }
    let status = child.wait().map_err(failed)?;
    let said = said.join().unwrap_or_default();
    let looked = looked?;
    if status.success() { Ok(looked) } else { Err(refusal(&said)) }
}

fn lines(mut list: impl BufRead, limits: &Limits) -> Result<Look, Error> {
    let (mut look, mut line) = (Look::default(), Vec::with_capacity(LINE));
    loop {
        let buffer = list.fill_buf().map_err(failed)?;
        let length = buffer.len();
        if length == 0 {
            break;
        }
        for byte in buffer {
            if *byte == b'\n' {
                look.line(&line);
                look.check(limits)?;
                line.clear();
            } else if line.len() < LINE {
                line.push(*byte);
            }
        }
        list.consume(length);
    }
    Ok(look)
}

fn refusal(said: &[u8]) -> Error {
    let reason = String::from_utf8_lossy(said).trim().chars().take(400).collect::<String>();
    Error::Tool { tool: "unsquashfs", reason }
}

fn run(command: &mut Command) -> Result<(), Error> {
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).output().map_err(failed)?;
    if output.status.success() { Ok(()) } else { Err(refusal(&output.stderr)) }
}

/// Unpacks what is named of a squashfs, everything when nothing is, by its own tool, which stays below its destination by
/// itself, and takes device nodes out again. What is named and not there is no failure.
pub(super) fn extract(image: &Path, dest: &Path, only: &[&str], limits: &Limits) -> Result<Report, Error> {
    look(image, only, limits)?;
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

/// Takes device nodes out. Nothing here calls itself: how deep directories are is for the image to say, how much of a stack
/// there is is not.
fn drop_devices(dest: &Path, report: &mut Report, limits: &Limits) -> Result<(), Error> {
    let mut waiting = vec![dest.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(&dir).map_err(io_error("read", &dir))? {
            let entry = entry.map_err(io_error("read", &dir))?;
            // Not followed: a symlink is one more entry, wherever it points.
            let kind = entry.file_type().map_err(io_error("read", entry.path()))?;
            report.entries += 1;
            if report.entries > limits.max_entries {
                return Err(Error::Limit { what: "entries", limit: limits.max_entries });
            }
            if kind.is_dir() {
                waiting.push(entry.path());
            } else if kind.is_char_device() || kind.is_block_device() {
                rustix::fs::unlinkat(CWD, entry.path(), AtFlags::empty())
                    .map_err(|e| io_error("remove", entry.path())(e.into()))?;
                report.devices += 1;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(list: &str, max_entries: u64) -> Result<Look, Error> {
        lines(list.as_bytes(), &Limits { max_entries, max_bytes: 1000 })
    }

    #[test]
    fn lists_are_counted() {
        let list = "drwxr-xr-x 0/0                62 2026-11-28 16:41 squashfs-root\n\
                    drwxr-xr-x 0/0                58 2026-11-28 16:41 squashfs-root/rootfs\n\
                    prw-r--r-- 0/0              5000 2026-11-28 16:41 squashfs-root/rootfs/a\nb\n\
                    crw-r--r-- 0/0            9,9999 2026-11-28 16:41 squashfs-root/rootfs/c\n\
                    -rw-r--r-- 4294967295/0      999 2026-11-28 16:41 squashfs-root/rootfs/long";
        let found = read(&format!("{list}{}\n", "x".repeat(100_000)), 100).unwrap();
        assert_eq!((found.entries, found.bytes, found.has_root), (6, 999, true));
        assert!(matches!(read(&format!("{list}\n"), 5), Err(Error::Limit { what: "entries", .. })));
        let more = format!("{list}\n-rw-r--r-- 0/0 18446744073709551615 2026-11-28 16:41 squashfs-root/x\n");
        assert!(matches!(read(&more, 100), Err(Error::Limit { what: "bytes", .. })));
        assert!(!read("lrwxrwxrwx 0/0 1 2026-11-28 16:41 squashfs-root/rootfs\n", 9).unwrap().has_root);
    }
}
