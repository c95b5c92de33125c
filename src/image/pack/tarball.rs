//! The tarball of an image: `metadata.yaml`, `templates/`, `rootfs/`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use serde_norway::{Mapping, Value};

use super::header::{Attribute, BLOCK, Entry, Kind};
use super::sink::{Sink, Written};
use super::tree::{Found, walk};
use super::{About, Failure, Request, Source, failed, stretches};
use crate::config::compressor::Compressor;
use crate::image::metadata::{MAX, Metadata, architecture};
use crate::image::rules::{Limits, MAX_PATH};
use crate::image::squashfs::{METADATA, TEMPLATES};
use crate::names::shown_path;
use crate::sys::file_ids;

/// What is there, before anything is written.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Bytes of files, each counted once.
    pub(super) bytes: u64,
    entries: u64,
    /// The newest change, seconds since 1970.
    newest: i64,
}

/// The last second that RFC 3339 can say.
const LAST: i64 = 253_402_300_799;

/// Looks at everything once.
pub(super) fn survey(source: &Source) -> Result<Survey, Failure> {
    let limits = Limits::default();
    let limit = |what: &str, limit: u64| Failure::Limit { what: what.to_owned(), limit };
    let (mut survey, mut seen) = (Survey::default(), std::collections::BTreeSet::new());
    walk(source, &mut |found| {
        // What could not be unpacked again is not worth packing.
        if ROOT.len() + 1 + found.below.as_os_str().len() > MAX_PATH {
            let shown = shown_path(found.below);
            return Err(Failure::Other(format!("the path {shown} has more than the 4095 bytes that one may have")));
        }
        survey.entries += 1;
        survey.newest = survey.newest.max(found.stat.st_mtime);
        if found.stat.st_nlink < 2 || found.size() == 0 || seen.insert((found.stat.st_dev, found.stat.st_ino)) {
            survey.bytes = survey.bytes.saturating_add(found.size());
        }
        // Of what has more nobody could make an instance again.
        match (survey.entries > limits.max_entries, survey.bytes > limits.max_bytes) {
            (true, _) => Err(limit("entries", limits.max_entries)),
            (_, true) => Err(limit("bytes", limits.max_bytes)),
            (false, false) => Ok(()),
        }
    })?;
    Ok(survey)
}

/// What of `name` there is beside the root, if it is a plain file.
fn beside(source: &Source, name: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let path = source.beside.join(name);
    let mut text = Vec::new();
    let open = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path);
    let read = open.and_then(|file| match file.metadata()?.is_file() {
        true => file.take(MAX + 1).read_to_end(&mut text).map(drop),
        false => Err(io::ErrorKind::InvalidInput.into()),
    });
    match read {
        Ok(()) if text.len() as u64 > MAX => {
            Err(Failure::Limit { what: format!("bytes of {}", name.display()), limit: MAX })
        }
        Ok(()) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::Other(format!("cannot read {}: {error}", path.display()))),
    }
}

/// The text of `metadata.yaml`: what lies beside the root, with what is said now. Keys that nobody here knows stay.
pub(super) fn metadata(source: &Source, about: &About, survey: &Survey) -> Result<String, Failure> {
    let wrong = |reason: String| Failure::Other(format!("the instance's {METADATA} {reason}"));
    let mut root = match beside(source, Path::new(METADATA))? {
        None => Mapping::new(),
        Some(text) => match serde_norway::from_slice(&text) {
            Ok(Value::Mapping(root)) => root,
            Ok(Value::Null) => Mapping::new(),
            Ok(_) => return Err(wrong("is no map".to_owned())),
            Err(error) => return Err(wrong(format!("is not YAML: {error}"))),
        },
    };
    // As in LXD: the instance runs, whatever somebody wrote there.
    if root.get("architecture").and_then(Value::as_str).and_then(architecture).is_none() {
        root.insert("architecture".into(), about.architecture.as_str().into());
    }
    root.insert("creation_date".into(), survey.newest.clamp(1, LAST).into());
    // That of the image which the instance was made from is not this one's.
    root.remove("expiry_date");
    if let Some(at) = about.expiry_date {
        root.insert("expiry_date".into(), at.into());
    }
    if let Some(properties) = &about.properties {
        let map = properties.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into()));
        root.insert("properties".into(), Value::Mapping(map.collect()));
    }
    let text = serde_norway::to_string(&root).map_err(|error| wrong(error.to_string()))?;
    // What could not be imported again is not worth packing.
    Metadata::parse(text.as_bytes()).map_err(|error| Failure::Other(error.to_string()))?;
    Ok(text)
}

/// Which attributes belong to a file wherever it lies: what its users wrote, ACLs, capabilities.
fn is_kept(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || name == file_ids::CAPABILITY.as_bytes()
        || file_ids::ACLS.iter().any(|acl| name == acl.as_bytes())
}

struct Writer<'a> {
    sink: &'a mut Sink,
    source: &'a Source,
    to_squashfs: bool,
    /// Headers are made here.
    buffer: Vec<u8>,
    /// The first name of a file that has several.
    links: BTreeMap<(u64, u64), PathBuf>,
    done: u64,
    tell: &'a mut dyn FnMut(u64),
}

/// Writes the tarball.
pub(super) fn write(
    request: &Request,
    metadata: &str,
    date: i64,
    tell: &mut dyn FnMut(u64),
) -> Result<Written, Failure> {
    let mut sink = Sink::new(&request.to, &request.compressor, date)?;
    let to_squashfs = matches!(request.compressor, Compressor::Squashfs { .. });
    let mut writer = Writer {
        sink: &mut sink,
        source: &request.source,
        to_squashfs,
        buffer: Vec::new(),
        links: BTreeMap::new(),
        done: 0,
        tell,
    };
    let written = writer.all(metadata, date);
    match written {
        Ok(()) => Ok(sink.finish(Ok(()))?),
        // A stage that is gone has a reason of its own.
        Err(Stopped::Sink(error)) => Ok(sink.finish(Err(error))?),
        Err(Stopped::Source(failure)) => Err(failure),
    }
}

/// What ends the writing.
enum Stopped {
    /// Nothing can be written any more.
    Sink(io::Error),
    /// Something cannot be read.
    Source(Failure),
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self::Sink(error)
    }
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self::Source(failure)
    }
}

impl Writer<'_> {
    fn all(&mut self, metadata: &str, date: i64) -> Result<(), Stopped> {
        self.made(METADATA, Kind::File, metadata.as_bytes(), date)?;
        self.templates(date)?;
        let source = self.source;
        let mut stopped = None;
        let walked = walk(source, &mut |found| {
            self.file(found).map_err(|reason| {
                let told = Failure::Other(String::new());
                stopped = Some(reason);
                told
            })
        });
        match (stopped, walked) {
            (Some(reason), _) => return Err(reason),
            (None, walked) => walked?,
        }
        // Two blocks of zeros are the end.
        Ok(self.sink.put(&[0; 2 * BLOCK])?)
    }

    fn head(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        self.buffer.clear();
        entry.write(&mut self.buffer);
        self.sink.put(&self.buffer)
    }

    fn fill_up(&mut self, length: u64) -> io::Result<()> {
        let over = usize::try_from(length % BLOCK as u64).unwrap_or(0);
        match over {
            0 => Ok(()),
            over => self.sink.put([0; BLOCK].split_at(BLOCK - over).0),
        }
    }

    /// An entry that lies nowhere as it is.
    fn made(&mut self, name: &str, kind: Kind, text: &[u8], date: i64) -> io::Result<()> {
        let mode = if kind == Kind::Directory { 0o755 } else { 0o644 };
        self.head(&Entry {
            name: name.as_bytes(),
            kind,
            target: b"",
            mode,
            uid: 0,
            gid: 0,
            size: text.len() as u64,
            // As of all files.
            modified: (if self.to_squashfs { date.min(i64::from(u32::MAX)) } else { date }, 0),
            device: (0, 0),
            sparse: None,
            attributes: &[],
            armour: false,
        })?;
        self.sink.put_all(text)?;
        self.fill_up(text.len() as u64)
    }

    /// Plain files of plain names: what else lies there no instance ever used.
    fn templates(&mut self, date: i64) -> Result<(), Stopped> {
        let directory = self.source.beside.join(TEMPLATES);
        if !directory.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            return Ok(());
        }
        let failed = |error: io::Error| Failure::Other(format!("cannot read {}: {error}", directory.display()));
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                names.extend(entry.file_name().into_string());
            }
        }
        names.sort_unstable();
        self.made(TEMPLATES, Kind::Directory, b"", date)?;
        for name in names {
            let below = Path::new(TEMPLATES).join(&name);
            if let Some(text) = beside(self.source, &below)? {
                self.made(&format!("{TEMPLATES}/{name}"), Kind::File, &text, date)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, found: &Found<'_>) -> Result<(), Stopped> {
        let failed = |doing| failed(doing, self.source.rootfs.join(found.below));
        let kind = match found.kind() {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::CharacterDevice => Kind::CharacterDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            // A socket is nothing without who listens on it, and tarballs have none.
            FileType::Socket | FileType::Unknown => return Ok(()),
        };
        let stat = &found.stat;
        let name = named(found.below);
        let mut entry = Entry {
            name: &name,
            kind,
            target: b"",
            mode: stat.st_mode & 0o7777,
            uid: self.source.ids.user(stat.st_uid),
            gid: self.source.ids.group(stat.st_gid),
            size: 0,
            modified: match self.to_squashfs {
                // It has 32 bits for seconds, and mksquashfs cuts off what does not fit.
                true => (stat.st_mtime.clamp(0, i64::from(u32::MAX)), 0),
                false => (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            },
            device: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
            sparse: None,
            attributes: &[],
            armour: !self.to_squashfs,
        };
        if stat.st_nlink > 1 && kind != Kind::Directory {
            let number = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&number) {
                let target = named(first);
                return Ok(self.head(&Entry { kind: Kind::HardLink, target: &target, ..entry })?);
            }
            self.links.insert(number, found.below.to_owned());
        }
        if kind == Kind::Symlink {
            let target = found.target().map_err(failed("read"))?;
            return Ok(self.head(&Entry { target: &target, ..entry })?);
        }
        let attributes = self.attributes(found)?;
        entry.attributes = &attributes;
        match kind {
            Kind::File => self.content(found, entry),
            _ => Ok(self.head(&entry)?),
        }
    }

    fn attributes(&self, found: &Found<'_>) -> Result<Vec<Attribute>, Failure> {
        let ids = &self.source.ids;
        let place = || self.source.rootfs.join(found.below);
        let mut attributes = found.attributes(is_kept).map_err(failed("read the attributes of", place()))?;
        for (name, value) in &mut attributes {
            if name == file_ids::CAPABILITY.as_bytes() {
                *value = file_ids::capability_shifted(value, |id| ids.user(id));
            } else if let Some(shifted) = file_ids::ACLS
                .iter()
                .find(|acl| name == acl.as_bytes())
                .and_then(|_| file_ids::acl_shifted(value, |id| ids.user(id), |id| ids.group(id)))
            {
                *value = shifted;
            }
        }
        Ok(attributes)
    }

    fn content(&mut self, found: &Found<'_>, mut entry: Entry<'_>) -> Result<(), Stopped> {
        let place = || self.source.rootfs.join(found.below);
        let size = found.size();
        let file = found.open().map_err(failed("open", place()))?;
        // Records are lines: a name with the end of one in it cannot be in the record that a sparse file needs.
        // And mksquashfs finds holes by itself, but does not read all of these files.
        let stretches = match self.to_squashfs || entry.name.contains(&b'\n') {
            true => None,
            false => stretches::of(&file, size)
                .map_err(|error| Failure::Other(format!("cannot read {}: {error}", place().display())))?,
        };
        let (map, stretches, before) = match stretches {
            None => (Vec::new(), vec![(0, size)], self.done),
            Some(stretches) => (stretches::map(&stretches), stretches, self.done),
        };
        let data: u64 = stretches.iter().map(|(_, length)| length).sum();
        entry.sparse = (!map.is_empty()).then_some(size);
        entry.size = map.len() as u64 + data;
        self.head(&entry)?;
        self.sink.put_all(&map)?;
        for (start, length) in stretches {
            if start > 0 && length > 0 {
                rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(start)).map_err(failed("read", place()))?;
            }
            let mut left = length;
            while left > 0 {
                let count = self.sink.take(&file, left.min(STEP))?;
                if count == 0 {
                    let path = place();
                    return Err(Failure::Other(format!("{} became shorter meanwhile", shown_path(path))).into());
                }
                left -= count;
                self.done += count;
                (self.tell)(self.done);
            }
        }
        self.done = before + size;
        Ok(self.fill_up(data)?)
    }
}

/// Of a file so much is read before it is told how far it is, bytes.
const STEP: u64 = 8 << 20;

const ROOT: &str = "rootfs";

/// The name of an entry.
fn named(below: &Path) -> Vec<u8> {
    let mut name = ROOT.as_bytes().to_vec();
    if !below.as_os_str().is_empty() {
        name.push(b'/');
        name.extend(below.as_os_str().as_bytes());
    }
    name
}

impl Survey {
    /// When the image was made: never by a clock.
    pub(super) fn date(&self) -> i64 {
        self.newest.clamp(1, LAST)
    }
}
