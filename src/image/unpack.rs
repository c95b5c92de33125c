//! Unpacking what nobody vouches for.
//!
//! Every entry is placed below a directory fd by `openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS` (openat2(2)):
//! neither `..`, nor an absolute path, nor a link that an earlier entry planted leads out. Such an entry refuses the
//! whole image. Device nodes are left out and counted: a container has no use for them, and a 0:0 one would be a
//! whiteout. Ids, modes and times are kept as they are; of extended attributes, those that cannot reach the host.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use tar::{Entry, EntryType};

use super::compression::open_tar;
use super::error::{Error, io as io_error};
use super::pack::header::{ARMOUR, PLAIN};
use super::rules::{Limits, Passed, Rules, Tarball, link_out, through_link};
use super::sparse::copy_with_holes;
use super::squashfs::{self, METADATA, TEMPLATES, plain_dir};
use super::store::StoredImage;

/// What came out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Entries placed.
    pub entries: u64,
    /// Device nodes left out.
    pub devices: u64,
}

impl StoredImage {
    /// Fills the directory `dest` with `rootfs/`, `metadata.yaml` and `templates/`. Blocking.
    ///
    /// # Errors
    /// Then `dest` is to be removed by the caller.
    pub fn unpack(&self, dest: &Path, limits: &Limits) -> Result<Report, Error> {
        let Some(rootfs) = &self.rootfs_path else {
            if !self.squashfs {
                return tarball(&self.meta_path, dest, Tarball::Unified, limits);
            }
            let report = squashfs::extract(&self.meta_path, dest, &["rootfs", METADATA, TEMPLATES], limits)?;
            squashfs::plain_metadata(dest)?;
            return if plain_dir(&dest.join("rootfs")) { Ok(report) } else { Err(squashfs::no_root()) };
        };
        self.unpack_metadata(dest)?;
        if self.squashfs {
            return squashfs::extract(rootfs, &dest.join("rootfs"), &[], limits);
        }
        tarball(rootfs, dest, Tarball::Root, limits)
    }

    /// Fills `dest` with `metadata.yaml` and `templates/` only. Blocking.
    ///
    /// # Errors
    /// As [`StoredImage::unpack`].
    pub fn unpack_metadata(&self, dest: &Path) -> Result<(), Error> {
        if self.is_unified_squashfs() {
            squashfs::extract(&self.meta_path, dest, &[METADATA, TEMPLATES], &Limits::default())?;
            return squashfs::plain_metadata(dest);
        }
        tarball(&self.meta_path, dest, Tarball::Metadata, &Limits::default()).map(drop)
    }
}

fn tarball(path: &Path, dest: &Path, kind: Tarball, limits: &Limits) -> Result<Report, Error> {
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(dest, flags, Mode::empty()).map_err(|e| io_error("open", dest)(e.into()))?;
    let rules = Rules::new(kind, limits);
    let mut writer = Writer { dest, root, rules, limits, directories: Vec::new(), report: Report::default() };
    if kind == Tarball::Root {
        writer.make_dir(Path::new("rootfs"))?;
    }
    let mut archive = open_tar(path, limits.max_bytes)?;
    for entry in archive.entries().map_err(|e| limits.unreadable(&e))? {
        let mut entry = entry.map_err(|e| limits.unreadable(&e))?;
        if let Some(passed) = writer.rules.pass(&mut entry)? {
            writer.place(&mut entry, &passed)?;
        }
    }
    writer.finish()
}

struct Writer<'a> {
    dest: &'a Path,
    root: OwnedFd,
    rules: Rules<'a>,
    limits: &'a Limits,
    /// Directories, of which some things are set at the end, when nothing is placed in them any more.
    directories: Vec<Late>,
    report: Report,
}

/// What a directory gets at the end: its time changes until then, and files would inherit its default ACL (acl(5)).
struct Late {
    name: PathBuf,
    mtime: Timespec,
    default_acl: Option<Vec<u8>>,
}

const DEFAULT_ACL: &str = "system.posix_acl_default";

fn times(at: Timespec) -> Timestamps {
    Timestamps { last_access: at, last_modification: at }
}

/// When an entry was changed: by its pax record, which has fractions of seconds, else by its header.
fn modified(entry: &mut Entry<'_, Box<dyn Read>>) -> Timespec {
    let seconds = entry.header().mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or(0);
    let whole = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let Ok(Some(extensions)) = entry.pax_extensions() else { return whole };
    let mut records = extensions.flatten().filter(|record| record.key_bytes() == b"mtime");
    records.next().and_then(|record| parse_time(record.value().ok()?)).unwrap_or(whole)
}

/// Seconds, with a fraction perhaps and a sign (pax(1), "mtime").
fn parse_time(text: &str) -> Option<Timespec> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let nine: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let all = sign * (whole.parse::<i128>().ok()? * 1_000_000_000 + nine.parse::<i128>().ok()?);
    let seconds = i64::try_from(all.div_euclid(1_000_000_000)).ok()?;
    Some(Timespec { tv_sec: seconds, tv_nsec: i64::try_from(all.rem_euclid(1_000_000_000)).ok()? })
}

impl Writer<'_> {
    fn failed(&self, name: &Path, doing: &'static str) -> impl Fn(Errno) -> Error + use<> {
        let path = self.dest.join(name);
        let name = name.to_owned();
        move |errno| match errno {
            Errno::LOOP | Errno::XDEV | Errno::NOTDIR => through_link(&name),
            other => io_error(doing, path.clone())(other.into()),
        }
    }

    fn open_dir(&self, name: &Path) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let name = if name.as_os_str().is_empty() { Path::new(".") } else { name };
        rustix::fs::openat2(&self.root, name, flags, Mode::empty(), resolve)
    }

    /// Makes the directory and what leads to it; one that is there stays. Nothing here calls itself: how many lead to it is
    /// for the image to say.
    fn make_dir(&self, name: &Path) -> Result<OwnedFd, Error> {
        let mut missing = Vec::new();
        let mut above = name;
        let mut directory = loop {
            match self.open_dir(above) {
                Err(Errno::NOENT) if !above.as_os_str().is_empty() => {
                    missing.extend(above.file_name());
                    above = above.parent().unwrap_or(Path::new(""));
                }
                result => break result.map_err(self.failed(above, "open"))?,
            }
        };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        while let Some(part) = missing.pop() {
            match rustix::fs::mkdirat(&directory, part, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(self.failed(name, "create")(error)),
            }
            directory =
                rustix::fs::openat(&directory, part, flags, Mode::empty()).map_err(self.failed(name, "open"))?;
        }
        Ok(directory)
    }

    fn place(&mut self, entry: &mut Entry<'_, Box<dyn Read>>, passed: &Passed) -> Result<(), Error> {
        let name = &*passed.name;
        let kind = entry.header().entry_type();
        let parent = self.make_dir(name.parent().unwrap_or(Path::new("")))?;
        let base = name.file_name().unwrap_or_default();
        let failed = self.failed(name, "create");
        let (uid, gid) = (Uid::from_raw(passed.owner.uid), Gid::from_raw(passed.owner.gid));
        let mode = Mode::from_raw_mode(passed.owner.mode);
        let mtime = modified(entry);
        if kind == EntryType::Directory {
            let directory = self.make_dir(name)?;
            let default_acl = self.attributes(entry, &directory, name)?;
            rustix::fs::fchown(&directory, Some(uid), Some(gid)).map_err(&failed)?;
            rustix::fs::fchmod(&directory, mode).map_err(&failed)?;
            self.directories.push(Late { name: name.to_owned(), mtime, default_acl });
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
                let target = self.rules.link_target(entry)?;
                self.hard_link(&target, &parent, name)?;
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
                let copied = match &passed.sparse {
                    Some(sparse) => sparse.copy(entry, &mut file),
                    None if kind == EntryType::GNUSparse => {
                        let size = entry.size();
                        copy_with_holes(entry, size, &mut file)
                    }
                    None => io::copy(entry, &mut file).map(drop),
                };
                copied.map_err(|error| match error.kind() {
                    io::ErrorKind::FileTooLarge
                    | io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::InvalidData
                    | io::ErrorKind::InvalidInput
                    | io::ErrorKind::Other => self.limits.unreadable(&error),
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

    fn hard_link(&self, source: &Path, parent: &OwnedFd, name: &Path) -> Result<(), Error> {
        let outside = || link_out(source.as_os_str().as_bytes());
        let directory = self.open_dir(source.parent().unwrap_or(Path::new(""))).map_err(|error| match error {
            Errno::NOENT => outside(),
            other => self.failed(source, "open")(other),
        })?;
        let file = source.file_name().unwrap_or_default();
        // Without AT_SYMLINK_FOLLOW a link to a symlink is a second name of the symlink itself.
        rustix::fs::linkat(&directory, file, parent, name.file_name().unwrap_or_default(), AtFlags::empty())
            .map_err(self.failed(name, "link"))
    }

    /// Sets the extended attributes that an archive may bring (in its pax headers, in either form). The default ACL of a
    /// directory is only returned.
    fn attributes(
        &self,
        entry: &mut Entry<'_, Box<dyn Read>>,
        file: impl std::os::fd::AsFd,
        name: &Path,
    ) -> Result<Option<Vec<u8>>, Error> {
        let mut default_acl = None;
        let Ok(Some(extensions)) = entry.pax_extensions() else { return Ok(None) };
        for extension in extensions {
            let Ok(extension) = extension else { continue };
            let Some((attribute, value)) = attribute(extension.key_bytes(), extension.value_bytes()) else { continue };
            let allowed = attribute.starts_with("user.")
                || matches!(&*attribute, "security.capability" | "system.posix_acl_access");
            if attribute == DEFAULT_ACL {
                default_acl = Some(value.into_owned());
            } else if allowed {
                rustix::fs::fsetxattr(&file, &*attribute, &value, XattrFlags::empty())
                    .map_err(self.failed(name, "set an attribute of"))?;
            }
        }
        Ok(default_acl)
    }

    fn finish(self) -> Result<Report, Error> {
        for Late { name, mtime, default_acl } in self.directories.iter().rev() {
            let directory = self.open_dir(name).map_err(self.failed(name, "open"))?;
            if let Some(acl) = default_acl {
                rustix::fs::fsetxattr(&directory, DEFAULT_ACL, acl, XattrFlags::empty())
                    .map_err(self.failed(name, "set an attribute of"))?;
            }
            rustix::fs::futimens(&directory, &times(*mtime)).map_err(self.failed(name, "set the time of"))?;
        }
        Ok(self.report)
    }
}

/// An attribute that a pax record brings: plain, or as libarchive writes it.
fn attribute<'a>(key: &'a [u8], value: &'a [u8]) -> Option<(Cow<'a, str>, Cow<'a, [u8]>)> {
    use base64::Engine as _;
    if let Some(name) = key.strip_prefix(PLAIN.as_bytes()) {
        return Some((Cow::Borrowed(std::str::from_utf8(name).ok()?), Cow::Borrowed(value)));
    }
    let name = percent_encoding::percent_decode(key.strip_prefix(ARMOUR.as_bytes())?);
    let value = value.trim_ascii_end();
    let digits = value.iter().position(|byte| *byte == b'=').map_or(value, |end| value.split_at(end).0);
    let value = base64::engine::general_purpose::STANDARD_NO_PAD.decode(digits).ok()?;
    Some((name.decode_utf8().ok()?, Cow::Owned(value)))
}

#[cfg(test)]
mod tests;
