//! Unpacking what nobody vouches for.
//!
//! Every entry is placed below a directory fd by `openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS` (openat2(2)):
//! neither `..`, nor an absolute path, nor a link that an earlier entry planted leads out. Such an entry refuses the
//! whole image. Device nodes are left out and counted: a container has no use for them, and a 0:0 one would be a
//! whiteout. Ids, modes and times are kept as they are; of extended attributes, those that cannot reach the host.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use tar::{Entry, EntryType};

use super::error::{Error, io as io_error};
use super::store::StoredImage;
use crate::image::compression::open_tar;

/// What an image may unpack to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in all.
    pub max_bytes: u64,
    /// Entries in all.
    pub max_entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 64 << 30, max_entries: 4_000_000 }
    }
}

/// What came out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Entries placed.
    pub entries: u64,
    /// Device nodes left out.
    pub devices: u64,
}

/// What of an archive is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    All,
    MetadataOnly,
}

impl StoredImage {
    /// Fills the directory `dest` with `rootfs/`, `metadata.yaml` and `templates/`. Blocking.
    ///
    /// # Errors
    /// Then `dest` is to be removed by the caller.
    pub fn unpack(&self, dest: &Path, limits: &Limits) -> Result<Report, Error> {
        let Some(rootfs) = &self.rootfs_path else {
            return tarball(&self.meta_path, dest, None, Want::All, limits);
        };
        self.unpack_metadata(dest)?;
        if self.squashfs {
            return squashfs(rootfs, &dest.join("rootfs"), limits);
        }
        tarball(rootfs, dest, Some("rootfs"), Want::All, limits)
    }

    /// Fills `dest` with `metadata.yaml` and `templates/` only. Blocking.
    ///
    /// # Errors
    /// As [`StoredImage::unpack`].
    pub fn unpack_metadata(&self, dest: &Path) -> Result<(), Error> {
        tarball(&self.meta_path, dest, None, Want::MetadataOnly, &Limits::default()).map(drop)
    }
}

fn tarball(path: &Path, dest: &Path, prefix: Option<&str>, want: Want, limits: &Limits) -> Result<Report, Error> {
    let broken = |error: io::Error| match error.kind() {
        io::ErrorKind::FileTooLarge => Error::Limit { what: "bytes", limit: limits.max_bytes },
        _ => Error::BadArchive { reason: format!("its tarball breaks off ({error})") },
    };
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(dest, flags, Mode::empty()).map_err(|e| io_error("open", dest)(e.into()))?;
    let mut writer = Writer { dest, root, directories: Vec::new(), report: Report::default() };
    if let Some(prefix) = prefix {
        writer.make_dir(Path::new(prefix))?;
    }
    let mut archive = open_tar(path, limits.max_bytes)?;
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let Some(name) = safe(&entry.path_bytes(), prefix)? else { continue };
        if !wanted(&name, want, prefix.is_some()) {
            continue;
        }
        if prefix.is_none() && !name.starts_with("rootfs") {
            plain(&name, entry.header().entry_type())?;
        }
        if writer.report.entries >= limits.max_entries {
            return Err(Error::Limit { what: "entries", limit: limits.max_entries });
        }
        writer.place(&mut entry, &name, prefix)?;
    }
    writer.finish()
}

/// Only these names are an image's business.
fn wanted(name: &Path, want: Want, is_root: bool) -> bool {
    let top = name.components().next().map(|c| c.as_os_str().as_bytes().to_vec()).unwrap_or_default();
    let metadata = top == b"templates" || name == Path::new("metadata.yaml");
    is_root || metadata || (want == Want::All && top == b"rootfs")
}

/// What lies beside the root is read by the daemon itself, as root of the host: it must be what its name says, never a
/// link to somewhere else.
fn plain(name: &Path, kind: EntryType) -> Result<(), Error> {
    let file = matches!(kind, EntryType::Regular | EntryType::Continuous);
    let fits = match name.components().count() {
        1 if name == Path::new("templates") => kind == EntryType::Directory,
        1 => file,
        _ => file || kind == EntryType::Directory,
    };
    let path = || name.to_string_lossy().into_owned();
    if fits { Ok(()) } else { Err(Error::Hostile { path: path(), reason: "no plain file or directory" }) }
}

/// The name below the destination; `None` for the archive's own top.
fn safe(name: &[u8], prefix: Option<&str>) -> Result<Option<PathBuf>, Error> {
    let hostile = |reason| Error::Hostile { path: String::from_utf8_lossy(name).into_owned(), reason };
    let path = Path::new(std::ffi::OsStr::from_bytes(name));
    let mut clean = PathBuf::from(prefix.unwrap_or(""));
    let mut depth = 0u32;
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) => {
                clean.push(part);
                depth += 1;
            }
            Component::RootDir | Component::Prefix(_) => return Err(hostile("an absolute path")),
            Component::ParentDir => return Err(hostile("a path with \"..\"")),
        }
    }
    Ok((depth > 0).then_some(clean))
}

struct Writer<'a> {
    dest: &'a Path,
    root: OwnedFd,
    /// Directories whose time is set at the end, when nothing is placed in them any more.
    directories: Vec<(PathBuf, i64)>,
    report: Report,
}

fn times(seconds: i64) -> Timestamps {
    let at = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Timestamps { last_access: at, last_modification: at }
}

impl Writer<'_> {
    fn failed(&self, name: &Path, doing: &'static str) -> impl Fn(Errno) -> Error + use<> {
        let path = self.dest.join(name);
        let shown = name.display().to_string();
        move |errno| match errno {
            Errno::LOOP | Errno::XDEV | Errno::NOTDIR => {
                Error::Hostile { path: shown.clone(), reason: "its path leads through a link or a file" }
            }
            other => io_error(doing, path.clone())(other.into()),
        }
    }

    fn open_dir(&self, name: &Path) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let name = if name.as_os_str().is_empty() { Path::new(".") } else { name };
        rustix::fs::openat2(&self.root, name, flags, Mode::empty(), resolve)
    }

    /// Makes the directory and what leads to it; one that is there stays.
    fn make_dir(&self, name: &Path) -> Result<OwnedFd, Error> {
        match self.open_dir(name) {
            Err(Errno::NOENT) => {}
            result => return result.map_err(self.failed(name, "open")),
        }
        let parent = self.make_dir(name.parent().unwrap_or(Path::new("")))?;
        match rustix::fs::mkdirat(&parent, name.file_name().unwrap_or_default(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(self.failed(name, "create")(error)),
        }
        self.open_dir(name).map_err(self.failed(name, "open"))
    }

    fn place(&mut self, entry: &mut Entry<'_, Box<dyn Read>>, name: &Path, prefix: Option<&str>) -> Result<(), Error> {
        let kind = entry.header().entry_type();
        let parent = self.make_dir(name.parent().unwrap_or(Path::new("")))?;
        let base = name.file_name().unwrap_or_default();
        let failed = self.failed(name, "create");
        let odd = |_| Error::BadArchive { reason: format!("the entry {} has a damaged header", name.display()) };
        let uid = Uid::from_raw(
            u32::try_from(entry.header().uid().map_err(odd)?).map_err(|_| odd(io::Error::last_os_error()))?,
        );
        let gid = Gid::from_raw(
            u32::try_from(entry.header().gid().map_err(odd)?).map_err(|_| odd(io::Error::last_os_error()))?,
        );
        let mode = Mode::from_raw_mode(entry.header().mode().map_err(odd)? & 0o7777);
        let mtime = entry.header().mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or(0);
        if kind == EntryType::Directory {
            let directory = self.make_dir(name)?;
            self.attributes(entry, &directory, name)?;
            rustix::fs::fchown(&directory, Some(uid), Some(gid)).map_err(&failed)?;
            rustix::fs::fchmod(&directory, mode).map_err(&failed)?;
            self.directories.push((name.to_owned(), mtime));
            self.report.entries += 1;
            return Ok(());
        }
        let supported = matches!(
            kind,
            EntryType::Regular
                | EntryType::Continuous
                | EntryType::GNUSparse
                | EntryType::Symlink
                | EntryType::Link
                | EntryType::Fifo
        );
        if matches!(kind, EntryType::Char | EntryType::Block) {
            self.report.devices += 1;
            return Ok(());
        }
        if !supported {
            // Headers that describe other entries (pax globals and the like) place nothing.
            return Ok(());
        }
        // A later entry of one name replaces the earlier one.
        match rustix::fs::unlinkat(&parent, base, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(failed(error)),
        }
        match kind {
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                rustix::fs::symlinkat(&*target, &parent, base).map_err(&failed)?;
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                self.hard_link(&target, prefix, &parent, name)?;
                self.report.entries += 1;
                return Ok(());
            }
            EntryType::Fifo => {
                rustix::fs::mknodat(&parent, base, FileType::Fifo, Mode::from_raw_mode(0o600), 0).map_err(&failed)?;
            }
            _ => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&parent, base, flags, Mode::from_raw_mode(0o600)).map_err(&failed)?;
                let mut file = File::from(file);
                io::copy(entry, &mut file).map_err(|error| match error.kind() {
                    io::ErrorKind::FileTooLarge => Error::Limit { what: "bytes", limit: Limits::default().max_bytes },
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::Other => {
                        Error::BadArchive { reason: format!("its tarball breaks off ({error})") }
                    }
                    _ => io_error("write", self.dest.join(name))(error),
                })?;
                rustix::fs::fchown(&file, Some(uid), Some(gid)).map_err(&failed)?;
                // After the owner: a change of owner clears setuid and capabilities.
                rustix::fs::fchmod(&file, mode).map_err(&failed)?;
                self.attributes(entry, &file, name)?;
                rustix::fs::futimens(&file, &times(mtime)).map_err(&failed)?;
                self.report.entries += 1;
                return Ok(());
            }
        }
        rustix::fs::chownat(&parent, base, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
        if kind == EntryType::Fifo {
            rustix::fs::chmodat(&parent, base, mode, AtFlags::empty()).map_err(&failed)?;
        }
        rustix::fs::utimensat(&parent, base, &times(mtime), AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
        self.report.entries += 1;
        Ok(())
    }

    fn hard_link(&self, target: &[u8], prefix: Option<&str>, parent: &OwnedFd, name: &Path) -> Result<(), Error> {
        let shown = || String::from_utf8_lossy(target).into_owned();
        let outside = || Error::Hostile { path: shown(), reason: "a hard link out of the image" };
        let source = safe(target, prefix).map_err(|_| outside())?.ok_or_else(outside)?;
        let directory = self.open_dir(source.parent().unwrap_or(Path::new(""))).map_err(|error| match error {
            Errno::NOENT => outside(),
            other => self.failed(&source, "open")(other),
        })?;
        let file = source.file_name().unwrap_or_default();
        // Without AT_SYMLINK_FOLLOW a link to a symlink is a second name of the symlink itself.
        rustix::fs::linkat(&directory, file, parent, name.file_name().unwrap_or_default(), AtFlags::empty())
            .map_err(self.failed(name, "link"))
    }

    /// Sets the extended attributes that an archive may bring (`SCHILY.xattr.*` in its pax headers).
    fn attributes(
        &self,
        entry: &mut Entry<'_, Box<dyn Read>>,
        file: impl std::os::fd::AsFd,
        name: &Path,
    ) -> Result<(), Error> {
        let Ok(Some(extensions)) = entry.pax_extensions() else { return Ok(()) };
        for extension in extensions {
            let Ok(extension) = extension else { continue };
            let Some(attribute) = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr.")) else {
                continue;
            };
            let allowed = attribute.starts_with("user.")
                || matches!(attribute, "security.capability" | "system.posix_acl_access" | "system.posix_acl_default");
            if allowed {
                rustix::fs::fsetxattr(&file, attribute, extension.value_bytes(), XattrFlags::empty())
                    .map_err(self.failed(name, "set an attribute of"))?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Report, Error> {
        for (name, mtime) in self.directories.iter().rev() {
            let directory = self.open_dir(name).map_err(self.failed(name, "open"))?;
            rustix::fs::futimens(&directory, &times(*mtime)).map_err(self.failed(name, "set the time of"))?;
        }
        Ok(self.report)
    }
}

/// Unpacks a squashfs by its own tool, which stays below its destination by itself, and takes device nodes out again.
fn squashfs(image: &Path, dest: &Path, limits: &Limits) -> Result<Report, Error> {
    let output = Command::new("unsquashfs")
        .args(["-no-progress", "-quiet", "-force", "-dest"])
        .args([dest, image])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .map_err(|e| Error::Tool { tool: "unsquashfs", reason: format!("{e}; install squashfs-tools") })?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).trim().chars().take(400).collect::<String>();
        if reason.contains("No space left") {
            return Err(Error::NoSpace { path: dest.to_owned() });
        }
        return Err(Error::Tool { tool: "unsquashfs", reason });
    }
    let mut report = Report::default();
    drop_devices(dest, &mut report, limits)?;
    Ok(report)
}

fn drop_devices(dir: &Path, report: &mut Report, limits: &Limits) -> Result<(), Error> {
    use std::os::unix::fs::FileTypeExt;
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

#[cfg(test)]
mod tests;
