//! The helper's side: one request about files, or an SFTP session.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FallocateFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

use super::super::child::answer;
use super::super::protocol::{Inbox, Reply, Request};
use super::super::sftp;
use super::root::{Place, Root, kind, own, publish, reopen};
use super::{FileKind, FilePath, FilesRequest, Found, Ownership, Refusal, TrimEnd};
use crate::sys::userns;

type Result<T> = std::result::Result<T, Refusal>;

/// A file up to this size is read before it is announced: files of /proc and /sys do not tell their true size.
const SMALL: usize = 64 * 1024;
/// Content moves in pieces of at most this size.
const PIECE: usize = 1024 * 1024;
/// Modes of what is made without a word about it; those of LXD 5.0.2, seen there.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o750;

/// Serves `request`. The fds that came along are the root, the pipe (where there is content), and the user namespace
/// to enter (for an unprivileged instance).
pub(in crate::helper) fn serve(socket: &OwnedFd, mut inbox: Inbox, request: FilesRequest) -> io::Result<()> {
    let mut fds = std::mem::take(&mut inbox.fds).into_iter();
    let root = Root::new(fds.next().ok_or(io::ErrorKind::InvalidInput)?);
    let mut pipe = || fds.next().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput));
    let content = match request {
        FilesRequest::Read(_) | FilesRequest::Write { .. } => Some(pipe()?),
        FilesRequest::Look(_)
        | FilesRequest::MakeDirectory { .. }
        | FilesRequest::MakeLink { .. }
        | FilesRequest::Delete(_)
        | FilesRequest::Sftp => None,
    };
    if let Some(namespace) = fds.next() {
        userns::enter(namespace)?;
    }
    // Modes are as asked for.
    rustix::process::umask(Mode::empty());
    let done = |result: Result<()>| result.map(|()| Reply::Done);
    let reply = match (request, content) {
        (FilesRequest::Sftp, _) => {
            answer(socket, &Reply::Done, &[])?;
            return sftp::serve(socket, &root);
        }
        (FilesRequest::Look(path), _) => {
            root.look(path.as_bytes(), false).map_err(absent).and_then(|(fd, stat)| found(&fd, &stat)).map(Reply::File)
        }
        (FilesRequest::MakeDirectory { path, new }, _) => {
            let mode = new.mode.unwrap_or(DIRECTORY_MODE);
            done(root.make_directory(path.as_bytes(), new, mode).map(drop))
        }
        (FilesRequest::MakeLink { path, target, new }, _) => {
            done(root.make_link(path.as_bytes(), target.as_bytes(), new))
        }
        (FilesRequest::Delete(path), _) => done(root.delete(path.as_bytes())),
        (FilesRequest::Read(path), Some(pipe)) => match read(&root, &path) {
            Ok((found, content)) => {
                answer(socket, &Reply::File(found), &[])?;
                return send(content, &pipe);
            }
            Err(refusal) => Err(refusal),
        },
        (FilesRequest::Write { path, append, new, existing }, Some(pipe)) => {
            match Writing::open(&root, &path, append, new, existing) {
                Ok(writing) => {
                    answer(socket, &Reply::Done, &[])?;
                    return receive(socket, inbox, &pipe, &root, &path, writing);
                }
                Err(refusal) => Err(refusal),
            }
        }
        (FilesRequest::Read(_) | FilesRequest::Write { .. }, None) => Err(Refusal::from(Errno::INVAL)),
    };
    answer(socket, &reply.unwrap_or_else(Reply::Refused), &[])
}

/// For questions, a path through something that is no directory names nothing.
fn absent(error: Errno) -> Refusal {
    if error == Errno::NOTDIR { Refusal::NotFound } else { error.into() }
}

fn found(fd: &OwnedFd, stat: &Stat) -> Result<Found> {
    let (kind, target) = match kind(stat) {
        FileType::RegularFile => (FileKind::File, Vec::new()),
        FileType::Directory => (FileKind::Directory, Vec::new()),
        FileType::Symlink => (FileKind::Symlink, rustix::fs::readlinkat(fd, "", Vec::new())?.into_bytes()),
        FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown => {
            return Err(Refusal::Special);
        }
    };
    Ok(Found {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: stat.st_mtime,
        size: u64::try_from(stat.st_size).ok(),
        target,
    })
}

/// What follows an answer to `Read`.
enum Content {
    /// Nothing.
    None,
    /// These bytes, then what the file still has, up to a count.
    File { head: Vec<u8>, rest: Option<(OwnedFd, u64)> },
    /// The names of a directory.
    Names(Dir),
}

fn read(root: &Root, path: &FilePath) -> Result<(Found, Content)> {
    let (fd, stat) = root.look(path.as_bytes(), false).map_err(absent)?;
    let mut what = found(&fd, &stat)?;
    let content = match what.kind {
        FileKind::Symlink => Content::None,
        FileKind::Directory => Content::Names(Dir::new(reopen(&fd, OFlags::RDONLY | OFlags::DIRECTORY)?)?),
        FileKind::File => {
            let file = reopen(&fd, OFlags::RDONLY)?;
            let told = what.size.unwrap_or(0);
            if told > SMALL as u64 {
                Content::File { head: Vec::new(), rest: Some((file, told)) }
            } else {
                let head = head_of(&file)?;
                let ended = head.len() <= SMALL;
                what.size = ended.then_some(head.len() as u64);
                Content::File { head, rest: (!ended).then_some((file, u64::MAX)) }
            }
        }
    };
    Ok((what, content))
}

/// The first bytes of a file; all of it unless there are more than [`SMALL`].
fn head_of(file: &OwnedFd) -> Result<Vec<u8>> {
    let mut head = vec![0; SMALL + 1];
    let mut length = 0;
    while length < head.len() {
        match rustix::io::read(file, &mut head[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    head.truncate(length);
    Ok(head)
}

fn write_all(fd: impl AsFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sends content into the pipe. Its end is the end of the pipe; the daemon knows by the size whether all came.
fn send(content: Content, pipe: &OwnedFd) -> io::Result<()> {
    match content {
        Content::None => Ok(()),
        Content::File { head, rest } => {
            write_all(pipe, &head)?;
            let Some((file, limit)) = rest else { return Ok(()) };
            transfer(&file, pipe, limit)?;
            Ok(())
        }
        Content::Names(directory) => {
            let mut names = Vec::with_capacity(SMALL);
            for entry in directory {
                let name = entry?.file_name().to_bytes_with_nul().to_vec();
                if !matches!(name.as_slice(), b".\0" | b"..\0") {
                    names.extend_from_slice(&name);
                }
                if names.len() >= SMALL {
                    write_all(pipe, &names)?;
                    names.clear();
                }
            }
            Ok(write_all(pipe, &names)?)
        }
    }
}

/// Moves bytes between a file and a pipe until the end or `limit`: without copying where the file system can
/// (splice(2)), by a buffer where it cannot. Returns how many.
fn transfer(from: &OwnedFd, to: &OwnedFd, limit: u64) -> rustix::io::Result<u64> {
    let mut moved = 0;
    while moved < limit {
        let piece = usize::try_from(limit - moved).unwrap_or(PIECE).min(PIECE);
        match rustix::pipe::splice(from, None, to, None, piece, SpliceFlags::MOVE) {
            Ok(0) => return Ok(moved),
            Ok(count) => moved += count as u64,
            Err(Errno::INTR) => {}
            Err(Errno::INVAL) => return copy(from, to, moved, limit),
            Err(error) => return Err(error),
        }
    }
    Ok(moved)
}

fn copy(from: &OwnedFd, to: &OwnedFd, mut moved: u64, limit: u64) -> rustix::io::Result<u64> {
    let mut buffer = vec![0; SMALL];
    while moved < limit {
        let piece = usize::try_from(limit - moved).unwrap_or(SMALL).min(SMALL);
        match rustix::io::read(from, &mut buffer[..piece]) {
            Ok(0) => break,
            Ok(count) => {
                write_all(to, &buffer[..count])?;
                moved += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(moved)
}

/// A file that is being written.
///
/// The content gathers in a nameless file beside its place; only a whole one counts. A new file then gets its name; one
/// that is there gets the content copied in, so that it stays the same file: owner, mode, links and attributes, too.
pub(in crate::helper) struct Writing {
    /// Where it lies; the file itself is open for writing in `target`, if it is there.
    place: Place,
    target: Option<OwnedFd>,
    /// The nameless file; none where the file system has no such (then `target` is written at once).
    stage: Option<OwnedFd>,
    append: bool,
    /// Made by us under its own name: to be removed again if the content does not come.
    made: bool,
    new: Ownership,
    existing: Ownership,
}

impl Writing {
    pub(in crate::helper) fn open(
        root: &Root,
        path: &FilePath,
        append: bool,
        new: Ownership,
        existing: Ownership,
    ) -> Result<Self> {
        let place = root.place(path.as_bytes())?;
        if path.as_bytes() != path.as_bytes().trim_ascii_end_matches(b'/') {
            return Err(Refusal::IsADirectory);
        }
        let mut target = None;
        if let Some((fd, stat)) = &place.found {
            target = Some(writable(fd, stat, append)?);
        } else if append {
            return Err(Refusal::NotFound);
        }
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(new.mode.unwrap_or(FILE_MODE));
        let stage = rustix::fs::openat(&place.directory, ".", flags, mode).ok();
        let mut writing = Self { place, target, stage, append, made: false, new, existing };
        if writing.target.is_none() && writing.stage.is_none() {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            writing.target =
                Some(rustix::fs::openat(&writing.place.directory, writing.place.name.as_slice(), flags, mode)?);
            writing.made = true;
        }
        Ok(writing)
    }

    /// Takes the content in.
    fn fill(&self, pipe: &OwnedFd) -> Result<()> {
        transfer(pipe, self.emptied()?, u64::MAX)?;
        Ok(())
    }

    /// The whole content, and all that remains to be done.
    pub(in crate::helper) fn whole(self, root: &Root, path: &FilePath, content: &[u8]) -> Result<()> {
        if let Err(error) = self.emptied().and_then(|to| Ok(write_all(to, content)?)) {
            self.abandon();
            return Err(error);
        }
        self.commit(root, path)
    }

    /// Where the content goes.
    fn emptied(&self) -> Result<&OwnedFd> {
        let to = match (&self.stage, &self.target) {
            (Some(stage), _) => stage,
            (None, Some(target)) => {
                if !self.append && !self.made {
                    // Not everything that can be written can be cut: files of /proc cannot.
                    let _ = rustix::fs::ftruncate(target, 0);
                }
                target
            }
            (None, None) => return Err(Errno::BADF.into()),
        };
        Ok(to)
    }

    /// All has come.
    fn commit(mut self, root: &Root, path: &FilePath) -> Result<()> {
        let Some(stage) = self.stage.take() else {
            let ownership = if self.made { self.new } else { self.existing };
            let owned = self.target.as_ref().map_or(Ok(()), |target| own(target, ownership));
            if owned.is_err() {
                self.abandon();
            }
            return owned;
        };
        if self.target.is_none() {
            own(&stage, self.new)?;
            match publish(&stage, &self.place) {
                // Somebody inside was faster: then it is a file that is there.
                Err(Errno::EXIST) => {
                    let place = root.place(path.as_bytes())?;
                    let (fd, stat) = place.found.as_ref().ok_or(Refusal::Exists)?;
                    self.target = Some(writable(fd, stat, false)?);
                }
                result => return result.map_err(Refusal::from),
            }
        }
        let Some(target) = &self.target else { return Ok(()) };
        replace(&stage, target, self.append)?;
        own(target, self.existing)
    }

    /// It will not come: what was made is removed, if it is still ours.
    fn abandon(&self) {
        let Some(target) = self.target.as_ref().filter(|_| self.made) else { return };
        let name = self.place.name.as_slice();
        let (ours, there) =
            (rustix::fs::fstat(target), rustix::fs::statat(&self.place.directory, name, AtFlags::SYMLINK_NOFOLLOW));
        if let (Ok(ours), Ok(there)) = (ours, there)
            && (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)
        {
            // Nobody is left to be told of a failure.
            let _ = rustix::fs::unlinkat(&self.place.directory, name, AtFlags::empty());
        }
    }
}

/// Opens a file that is there for writing.
fn writable(fd: &OwnedFd, stat: &Stat, append: bool) -> Result<OwnedFd> {
    match kind(stat) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(Refusal::IsADirectory),
        FileType::Symlink
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => return Err(Refusal::Special),
    }
    let flags = if append { OFlags::WRONLY | OFlags::APPEND } else { OFlags::WRONLY };
    Ok(reopen(fd, flags)?)
}

/// Copies the whole of `stage` into `target`. Room is made sure of before the first byte changes.
fn replace(stage: &OwnedFd, target: &OwnedFd, append: bool) -> Result<()> {
    let length = |fd| rustix::fs::fstat(fd).map(|stat| u64::try_from(stat.st_size).unwrap_or(0));
    let count = length(stage)?;
    let start = if append { length(target)? } else { 0 };
    if count > 0 {
        // A file system that cannot promise room must do without.
        let promised = rustix::fs::fallocate(target, FallocateFlags::KEEP_SIZE, start, count);
        if let Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) = promised {
            return Err(error.into());
        }
    }
    rustix::fs::seek(stage, rustix::fs::SeekFrom::Start(0))?;
    let mut moved = 0;
    while moved < count {
        // Copied inside the kernel, and shared instead where the file system can.
        match rustix::fs::copy_file_range(stage, None, target, None, PIECE) {
            Ok(0) => break,
            Ok(done) => moved += done as u64,
            Err(Errno::INTR) => {}
            // Not between these file systems, and never onto the end of a file.
            Err(Errno::INVAL | Errno::XDEV | Errno::BADF | Errno::OPNOTSUPP | Errno::NOSYS) => {
                moved = copy(stage, target, moved, count)?;
                break;
            }
            Err(error) => return Err(error.into()),
        }
    }
    if moved < count {
        return Err(Errno::IO.into());
    }
    if !append {
        rustix::fs::ftruncate(target, count)?;
    }
    Ok(())
}

/// Takes a file's content, waits for the word that it is whole, and only then makes it count.
fn receive(
    socket: &OwnedFd,
    mut inbox: Inbox,
    pipe: &OwnedFd,
    root: &Root,
    path: &FilePath,
    writing: Writing,
) -> io::Result<()> {
    if let Err(refusal) = writing.fill(pipe) {
        writing.abandon();
        return answer(socket, &Reply::Refused(refusal), &[]);
    }
    loop {
        match inbox.take::<Request>()? {
            Some(Request::Commit) => break,
            Some(_) => return Err(io::ErrorKind::InvalidData.into()),
            None => {}
        }
        // The daemon closes the line instead when the content broke off.
        if !inbox.fill(socket).unwrap_or(false) {
            writing.abandon();
            return Ok(());
        }
    }
    answer(socket, &writing.commit(root, path).map_or_else(Reply::Refused, |()| Reply::Done), &[])
}
