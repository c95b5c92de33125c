//! An SFTP server, version 3 (draft-ietf-secsh-filexfer-02, with OpenSSH's extensions and its order of the arguments of
//! SYMLINK), over the files of one instance.
//!
//! ```text
//!  wait for INIT ──> VERSION ──> request, answer, request, answer …
//! ```
//! It ends when the other end closes, or sends what is no packet. Requests are answered in order, each within the bounds
//! of [`wire::MAX_PACKET`] and [`MAX_HANDLES`].

mod name;
mod open;
mod wire;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use wire::fuzz;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Dir, FileType, Mode, OFlags, RenameFlags, StatVfs, Timespec, Timestamps};
use rustix::io::Errno;

use self::wire::{Attributes, Failure, MAX_DATA, MAX_PACKET, Reader, Writer, kind};
use super::files::Refusal;
use super::files::root::{Root, kind as kind_of, own, reopen, unmounted};
use crate::helper::files::Ownership;

type Result<T> = std::result::Result<T, Failure>;

/// Open files and directories of one session, at most.
const MAX_HANDLES: usize = 256;
/// Names in one answer to READDIR, at most.
const MAX_NAMES: usize = 128;
/// Modes of what is made without a word about it.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;
/// The extensions and their versions, as VERSION tells them.
const EXTENSIONS: [(&str, &str); 5] = [
    ("posix-rename@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("fstatvfs@openssh.com", "2"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
];

enum Handle {
    File { fd: OwnedFd, append: bool },
    Directory { place: OwnedFd, entries: Box<Dir> },
}

/// A session.
struct Server<'a> {
    root: &'a Root,
    handles: BTreeMap<u32, Handle>,
    next: u32,
    out: Writer,
}

/// Serves a session on `socket`.
///
/// # Errors
/// When the other end sends what is no packet, or vanishes.
pub(super) fn serve(socket: &OwnedFd, root: &Root) -> io::Result<()> {
    let mut server = Server { root, handles: BTreeMap::new(), next: 0, out: Writer::default() };
    let mut bytes = vec![0; MAX_PACKET + 4];
    let mut filled = 0;
    loop {
        let mut used = 0;
        while let Some((packet, whole)) = packet(&bytes[used..filled])? {
            server.packet(packet)?;
            used += whole;
            if server.out.bytes.len() >= MAX_PACKET {
                server.flush(socket)?;
            }
        }
        server.flush(socket)?;
        bytes.copy_within(used..filled, 0);
        filled -= used;
        match rustix::io::read(socket, &mut bytes[filled..]) {
            Ok(0) => return Ok(()),
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The first packet in `bytes`, if it is whole, and its length with its length field.
fn packet(bytes: &[u8]) -> io::Result<Option<(&[u8], usize)>> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length == 0 || length > MAX_PACKET {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(rest.get(..length).map(|packet| (packet, length + 4)))
}

/// Permission bits of a mode that may hold the kind of file as well.
fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

impl Server<'_> {
    fn flush(&mut self, socket: &OwnedFd) -> io::Result<()> {
        let mut rest = self.out.bytes.as_slice();
        while !rest.is_empty() {
            let sent = crate::sys::socket::send(socket, rest, &[])?;
            rest = &rest[sent..];
        }
        self.out.bytes.clear();
        Ok(())
    }

    /// Answers one packet.
    fn packet(&mut self, packet: &[u8]) -> io::Result<()> {
        let Some((&packet_kind, fields)) = packet.split_first() else { return Ok(()) };
        let mut fields = Reader(fields);
        // Every packet goes on with the number of the request, or (INIT) with the client's version.
        let id = fields.u32().map_err(|_| io::ErrorKind::InvalidData)?;
        if packet_kind == kind::INIT {
            self.out.begin(kind::VERSION, 3);
            for (name, version) in EXTENSIONS {
                self.out.string(name.as_bytes());
                self.out.string(version.as_bytes());
            }
            self.out.end();
            return Ok(());
        }
        let before = self.out.bytes.len();
        let status = match self.request(packet_kind, id, &mut fields) {
            // The answer is written already.
            Ok(()) if self.out.bytes.len() > before => return Ok(()),
            Ok(()) => (0, String::new()),
            Err(failure) => (failure.code(), failure.text()),
        };
        self.out.bytes.truncate(before);
        self.out.begin(kind::STATUS, id);
        self.out.u32(status.0);
        self.out.string(status.1.as_bytes());
        self.out.string(b"");
        self.out.end();
        Ok(())
    }

    /// Does what is asked. An answer other than a status is written; success without one is told by the caller.
    fn request(&mut self, packet_kind: u8, id: u32, fields: &mut Reader<'_>) -> Result<()> {
        match packet_kind {
            kind::OPEN => {
                let (path, flags, attributes) = (fields.string()?, fields.u32()?, fields.attributes()?);
                self.room()?;
                let (fd, append) = open::open(self.root, path, flags, &attributes)?;
                self.handle(id, Handle::File { fd, append });
            }
            kind::OPENDIR => {
                let (place, _) = self.root.look(fields.string()?, true)?;
                self.room()?;
                let entries = Box::new(Dir::new(reopen(&place, OFlags::RDONLY | OFlags::DIRECTORY)?)?);
                self.handle(id, Handle::Directory { place, entries });
            }
            kind::CLOSE => {
                let number = handle_number(fields)?;
                self.handles.remove(&number).ok_or(Failure::BadHandle)?;
            }
            kind::READ => self.read(id, fields)?,
            kind::WRITE => {
                let (number, offset, data) = (handle_number(fields)?, fields.u64()?, fields.string()?);
                let (fd, append) = self.file(number)?;
                write_all(fd, append, offset, data)?;
            }
            kind::READDIR => self.read_directory(id, fields)?,
            kind::STAT | kind::LSTAT => {
                let (_, stat) = self.root.look(fields.string()?, packet_kind == kind::STAT)?;
                self.attributes(id, &stat);
            }
            kind::FSTAT => {
                let stat = rustix::fs::fstat(self.opened(handle_number(fields)?)?)?;
                self.attributes(id, &stat);
            }
            kind::SETSTAT => {
                let (path, attributes) = (fields.string()?, fields.attributes()?);
                let (fd, stat) = self.root.look(path, true)?;
                if attributes.size.is_some() && kind_of(&stat) != FileType::RegularFile {
                    return Err(Refusal::Special.into());
                }
                set(&fd, &attributes, |size| rustix::fs::ftruncate(reopen(&fd, OFlags::WRONLY)?, size))?;
            }
            kind::FSETSTAT => {
                let (number, attributes) = (handle_number(fields)?, fields.attributes()?);
                let fd = self.opened(number)?;
                set(fd, &attributes, |size| rustix::fs::ftruncate(fd, size))?;
            }
            kind::REMOVE | kind::RMDIR => {
                let (directory, name) = self.root.entry(fields.string()?)?;
                let flags = if packet_kind == kind::RMDIR {
                    rustix::fs::AtFlags::REMOVEDIR
                } else {
                    rustix::fs::AtFlags::empty()
                };
                unmounted(&directory, &name)?;
                rustix::fs::unlinkat(directory, name, flags)?;
            }
            kind::MKDIR => {
                let (path, attributes) = (fields.string()?, fields.attributes()?);
                let mode = permissions(attributes.mode.unwrap_or(DIRECTORY_MODE));
                let (directory, name) = self.root.entry(path)?;
                rustix::fs::mkdirat(directory, name, mode)?;
            }
            kind::REALPATH => {
                let path = name::absolute(fields.string()?);
                self.name(id, &path);
            }
            kind::READLINK => {
                let (fd, stat) = self.root.look(fields.string()?, false)?;
                if kind_of(&stat) != FileType::Symlink {
                    return Err(Errno::INVAL.into());
                }
                let target = rustix::fs::readlinkat(&fd, "", Vec::new())?.into_bytes();
                self.name(id, &target);
            }
            kind::SYMLINK => {
                // The draft has it the other way round; OpenSSH, and everyone after it, has the target first.
                let (target, path) = (fields.string()?, fields.string()?);
                let (directory, name) = self.root.entry(path)?;
                rustix::fs::symlinkat(target, directory, name)?;
            }
            kind::RENAME => self.rename(fields, RenameFlags::NOREPLACE)?,
            kind::EXTENDED => self.extended(id, fields)?,
            _ => return Err(Failure::Unsupported),
        }
        Ok(())
    }

    fn extended(&mut self, id: u32, fields: &mut Reader<'_>) -> Result<()> {
        match fields.string()? {
            b"posix-rename@openssh.com" => self.rename(fields, RenameFlags::empty()),
            b"hardlink@openssh.com" => {
                let (old, new) = (self.root.entry(fields.string()?)?, self.root.entry(fields.string()?)?);
                Ok(rustix::fs::linkat(old.0, old.1, new.0, new.1, rustix::fs::AtFlags::empty())?)
            }
            b"fsync@openssh.com" => Ok(rustix::fs::fsync(self.opened(handle_number(fields)?)?)?),
            b"statvfs@openssh.com" => {
                let (fd, _) = self.root.look(fields.string()?, true)?;
                self.room_of_file_system(id, &rustix::fs::fstatvfs(fd)?);
                Ok(())
            }
            b"fstatvfs@openssh.com" => {
                let stat = rustix::fs::fstatvfs(self.opened(handle_number(fields)?)?)?;
                self.room_of_file_system(id, &stat);
                Ok(())
            }
            _ => Err(Failure::Unsupported),
        }
    }

    fn rename(&self, fields: &mut Reader<'_>, flags: RenameFlags) -> Result<()> {
        let (old, new) = (self.root.entry(fields.string()?)?, self.root.entry(fields.string()?)?);
        unmounted(&old.0, &old.1)?;
        match unmounted(&new.0, &new.1) {
            // The usual case: nothing is there.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(rustix::fs::renameat_with(old.0, old.1, new.0, new.1, flags)?)
    }

    /// Whether one more handle may be open.
    fn room(&self) -> Result<()> {
        if self.handles.len() < MAX_HANDLES { Ok(()) } else { Err(Failure::TooManyHandles) }
    }

    fn handle(&mut self, id: u32, handle: Handle) {
        while self.handles.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        self.handles.insert(self.next, handle);
        self.out.begin(kind::HANDLE, id);
        self.out.string(&self.next.to_be_bytes());
        self.out.end();
        self.next = self.next.wrapping_add(1);
    }

    fn opened(&self, number: u32) -> Result<&OwnedFd> {
        match self.handles.get(&number) {
            Some(Handle::File { fd, .. }) => Ok(fd),
            Some(Handle::Directory { place, .. }) => Ok(place),
            None => Err(Failure::BadHandle),
        }
    }

    fn file(&self, number: u32) -> Result<(&OwnedFd, bool)> {
        match self.handles.get(&number) {
            Some(Handle::File { fd, append }) => Ok((fd, *append)),
            Some(Handle::Directory { .. }) | None => Err(Failure::BadHandle),
        }
    }

    fn read(&mut self, id: u32, fields: &mut Reader<'_>) -> Result<()> {
        let (number, offset, length) = (handle_number(fields)?, fields.u64()?, fields.u32()?);
        let Some(Handle::File { fd, .. }) = self.handles.get(&number) else { return Err(Failure::BadHandle) };
        let length = usize::try_from(length).unwrap_or(MAX_DATA).min(MAX_DATA);
        // Read straight into the answer.
        self.out.begin(kind::DATA, id);
        let start = self.out.bytes.len();
        self.out.bytes.resize(start + 4 + length, 0);
        let count = loop {
            match rustix::io::pread(fd, &mut self.out.bytes[start + 4..], offset) {
                Err(Errno::INTR) => {}
                Err(error) => {
                    self.out.cancel();
                    return Err(error.into());
                }
                Ok(count) => break count,
            }
        };
        if count == 0 && length > 0 {
            self.out.cancel();
            return Err(Failure::Eof);
        }
        self.out.bytes.truncate(start + 4 + count);
        let told = u32::try_from(count).unwrap_or(u32::MAX);
        self.out.bytes[start..start + 4].copy_from_slice(&told.to_be_bytes());
        self.out.end();
        Ok(())
    }

    fn read_directory(&mut self, id: u32, fields: &mut Reader<'_>) -> Result<()> {
        let number = handle_number(fields)?;
        let Some(Handle::Directory { place, entries }) = self.handles.get_mut(&number) else {
            return Err(Failure::BadHandle);
        };
        let mut names = Vec::new();
        while names.len() < MAX_NAMES {
            let Some(entry) = entries.read() else { break };
            let name = entry?.file_name().to_bytes().to_vec();
            if matches!(name.as_slice(), b"." | b"..") {
                continue;
            }
            // Gone meanwhile: then it is not there.
            if let Ok(stat) = rustix::fs::statat(&*place, name.as_slice(), rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
                names.push((name, stat));
            }
        }
        if names.is_empty() {
            return Err(Failure::Eof);
        }
        self.out.begin(kind::NAME, id);
        self.out.u32(u32::try_from(names.len()).unwrap_or(0));
        for (name, stat) in &names {
            self.out.string(name);
            self.out.string(&name::long(name, stat));
            self.out.attributes(stat);
        }
        self.out.end();
        Ok(())
    }

    fn attributes(&mut self, id: u32, stat: &rustix::fs::Stat) {
        self.out.begin(kind::ATTRS, id);
        self.out.attributes(stat);
        self.out.end();
    }

    /// Answers with a single name, without attributes.
    fn name(&mut self, id: u32, name: &[u8]) {
        self.out.begin(kind::NAME, id);
        self.out.u32(1);
        self.out.string(name);
        self.out.string(name);
        self.out.u32(0);
        self.out.end();
    }

    /// OpenSSH's PROTOCOL, 3.4: the fields of statvfs(3) in this order.
    fn room_of_file_system(&mut self, id: u32, stat: &StatVfs) {
        self.out.begin(kind::EXTENDED_REPLY, id);
        for number in [
            stat.f_bsize,
            stat.f_frsize,
            stat.f_blocks,
            stat.f_bfree,
            stat.f_bavail,
            stat.f_files,
            stat.f_ffree,
            stat.f_favail,
            stat.f_fsid,
            // Bit 1 is read-only, bit 2 is nosuid, as in statvfs(3).
            stat.f_flag.bits() & 3,
            stat.f_namemax,
        ] {
            self.out.u64(number);
        }
        self.out.end();
    }
}

fn handle_number(fields: &mut Reader<'_>) -> Result<u32> {
    let number: [u8; 4] = fields.string()?.try_into().map_err(|_| Failure::BadHandle)?;
    Ok(u32::from_be_bytes(number))
}

fn write_all(fd: &OwnedFd, append: bool, mut offset: u64, mut data: &[u8]) -> Result<()> {
    while !data.is_empty() {
        let written = if append { rustix::io::write(fd, data) } else { rustix::io::pwrite(fd, data, offset) };
        match written {
            Ok(count) => {
                data = &data[count..];
                offset += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Sets attributes of what `fd` stands for.
fn set(fd: impl AsFd, attributes: &Attributes, truncate: impl FnOnce(u64) -> rustix::io::Result<()>) -> Result<()> {
    if let Some(size) = attributes.size {
        truncate(size)?;
    }
    let (uid, gid) = attributes.owner.unzip();
    own(&fd, Ownership { uid, gid, mode: attributes.mode.map(|mode| mode & 0o7777) })?;
    if let Some((access, modification)) = attributes.times {
        let at = |seconds: u32| Timespec { tv_sec: i64::from(seconds), tv_nsec: 0 };
        let times = Timestamps { last_access: at(access), last_modification: at(modification) };
        rustix::fs::utimensat(&fd, "", &times, rustix::fs::AtFlags::EMPTY_PATH)?;
    }
    Ok(())
}
