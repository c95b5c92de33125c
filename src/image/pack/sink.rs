//! Where the bytes of an image go: through a compressor into the file, hashed on the way, each on threads of its own.
//!
//! ```text
//!  none            reader ─────────────────────────────────> hash ─> file
//!  gzip, bzip2     reader ─> pieces ─> workers ─> in order ─> hash ─> file      each piece a member of its own
//!  zstd, xz, lzma  reader ─> the library and its threads ───> hash ─> file
//!  squashfs        reader ─> mksquashfs ─> file, then hashed
//! ```
//! What comes out does not depend on how many threads there are. All queues are short: memory is bounded.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{JoinHandle, available_parallelism};

use ring::digest::{Context, SHA256};

use crate::config::compressor::{Compressor, Lzma};

/// Bytes that go from thread to thread at once.
pub(super) const CHUNK: usize = 1 << 20;
/// Pieces of these many bytes are compressed by themselves.
const GZIP_PIECE: usize = 1 << 20;
const BZIP2_BLOCK: usize = 100_000;
/// Input of one block of an xz file, bytes: three times the dictionary, as xz(1) has it.
const XZ_BLOCKS: u64 = 3;
/// So much is written before the kernel is told to begin with it, bytes: the end has little left to wait for.
const STRETCH: u64 = 8 << 20;

/// What has been written.
pub(super) struct Written {
    /// SHA-256, in hexadecimal digits.
    pub(super) digest: String,
    /// Bytes.
    pub(super) size: u64,
}

fn threads() -> usize {
    available_parallelism().map_or(1, usize::from).clamp(1, 16)
}

fn spawn<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// A thread that is gone: it has failed, and its own error is told at the end.
fn gone() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

fn joined<T>(thread: JoinHandle<T>) -> T {
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Hashes and writes, on two threads.
struct Store {
    next: SyncSender<Vec<u8>>,
    /// Buffers that were written.
    used: Receiver<Vec<u8>>,
    hash: JoinHandle<Context>,
    write: JoinHandle<io::Result<u64>>,
    /// Why writing has ended, for whoever cannot go on by that.
    cause: Arc<OnceLock<io::Error>>,
}

impl Store {
    fn new(mut file: File) -> io::Result<Self> {
        let (next, chunks) = sync_channel::<Vec<u8>>(2);
        let (hashed, to_write) = sync_channel::<Vec<u8>>(2);
        let (give_back, used) = sync_channel::<Vec<u8>>(8);
        let hash = spawn("hash", move || {
            let mut digest = Context::new(&SHA256);
            for chunk in chunks {
                digest.update(&chunk);
                if hashed.send(chunk).is_err() {
                    break;
                }
            }
            digest
        })?;
        let cause = Arc::new(OnceLock::new());
        let told = Arc::clone(&cause);
        let write = spawn("write", move || {
            let (mut size, mut waiting) = (0, 0);
            for mut chunk in to_write {
                if let Err(error) = file.write_all(&chunk) {
                    // It is the first.
                    let _ = told.set(copy(&error));
                    return Err(error);
                }
                size += chunk.len() as u64;
                waiting += chunk.len() as u64;
                chunk.clear();
                // Nobody may need it any more.
                let _ = give_back.try_send(chunk);
                if waiting >= STRETCH {
                    crate::sys::writeback::begin(&file);
                    waiting = 0;
                }
            }
            Ok(size)
        })?;
        Ok(Self { next, used, hash, write, cause })
    }

    /// Takes a chunk, and gives an empty one.
    fn send(&self, chunk: Vec<u8>) -> io::Result<Vec<u8>> {
        self.next.send(chunk).map_err(|_| self.cause.get().map_or_else(gone, copy))?;
        Ok(self.used.try_recv().unwrap_or_default())
    }

    fn finish(self) -> io::Result<Written> {
        drop(self.next);
        let digest = joined(self.hash);
        let size = joined(self.write)?;
        Ok(Written { digest: hex::encode(digest.finish()), size })
    }
}

/// A store as what a library writes to.
struct Chunked {
    chunk: Vec<u8>,
    store: Store,
}

impl Chunked {
    fn finish(mut self) -> io::Result<Written> {
        self.pass()?;
        self.store.finish()
    }

    fn pass(&mut self) -> io::Result<()> {
        if !self.chunk.is_empty() {
            self.chunk = self.store.send(std::mem::take(&mut self.chunk))?;
        }
        Ok(())
    }
}

impl Write for Chunked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK {
            self.pass()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Packed = io::Result<Vec<u8>>;

/// Compresses pieces side by side, each to a member of its own, in order.
struct Members {
    piece: usize,
    buffer: Vec<u8>,
    jobs: SyncSender<(Vec<u8>, SyncSender<Packed>)>,
    order: SyncSender<Receiver<Packed>>,
    collector: JoinHandle<io::Result<Written>>,
}

impl Members {
    fn new(file: File, piece: usize, pack: impl Fn(&[u8]) -> Packed + Send + Sync + 'static) -> io::Result<Self> {
        let store = Store::new(file)?;
        let count = threads();
        let (jobs, queue) = sync_channel::<(Vec<u8>, SyncSender<Packed>)>(1);
        let (order, results) = sync_channel::<Receiver<Packed>>(2 * count);
        let (queue, pack) = (Arc::new(Mutex::new(queue)), Arc::new(pack));
        for _ in 0..count {
            let (queue, pack) = (Arc::clone(&queue), Arc::clone(&pack));
            spawn("pack", move || {
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((piece, reply)) = job else { return };
                    // Whoever waited has failed.
                    let _ = reply.send(pack(&piece));
                }
            })?;
        }
        let collector = spawn("collect", move || {
            for result in results {
                store.send(result.recv().map_err(|_| gone())??)?;
            }
            store.finish()
        })?;
        Ok(Self { piece, buffer: Vec::new(), jobs, order, collector })
    }

    fn pass(&mut self) -> io::Result<()> {
        let (reply, result) = sync_channel(1);
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(self.piece));
        self.order.send(result).map_err(|_| gone())?;
        self.jobs.send((piece, reply)).map_err(|_| gone())
    }

    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = (self.piece - self.buffer.len()).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == self.piece {
                self.pass()?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<Written> {
        let last = if self.buffer.is_empty() { Ok(()) } else { self.pass() };
        drop((self.jobs, self.order));
        let written = joined(self.collector)?;
        last.map(|()| written)
    }
}

/// `mksquashfs`, which reads a tarball.
struct Squashfs {
    child: Child,
    input: ChildStdin,
}

impl Squashfs {
    /// `arguments` are known to be harmless; `date`: of the newest change in it, seconds since 1970.
    fn new(path: &Path, arguments: &[String], date: i64) -> io::Result<Self> {
        let mut command = Command::new("mksquashfs");
        command.arg("-").arg(path).args(["-tar", "-noappend", "-quiet", "-no-progress"]);
        command.args(["-root-mode", "0755", "-root-uid", "0", "-root-gid", "0", "-mem", "256M"]);
        // Of a tarball it dates the root by the clock, whatever -root-time says (4.5.1); this is the latest that it gives to
        // anything.
        command.env("SOURCE_DATE_EPOCH", date.clamp(0, u32::MAX.into()).to_string());
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            io::Error::new(error.kind(), format!("mksquashfs cannot be run: {error}; install squashfs-tools"))
        })?;
        let input = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { child, input })
    }

    /// What it says when it fails; of no room left, the error of that.
    fn finish(self, path: &Path) -> io::Result<Written> {
        drop(self.input);
        let output = self.child.wait_with_output()?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            let kind = match text.contains("No space left") {
                true => io::ErrorKind::StorageFull,
                false => io::ErrorKind::Other,
            };
            let text: String = text.trim().chars().take(400).collect();
            return Err(io::Error::new(kind, format!("mksquashfs failed: {text}")));
        }
        hashed(&mut File::open(path)?)
    }
}

fn hashed(file: &mut File) -> io::Result<Written> {
    let (mut digest, mut size, mut buffer) = (Context::new(&SHA256), 0, vec![0; CHUNK]);
    loop {
        let count = file.read(&mut buffer)?;
        let read = buffer.get(..count).unwrap_or_default();
        if read.is_empty() {
            return Ok(Written { digest: hex::encode(digest.finish()), size });
        }
        digest.update(read);
        size += read.len() as u64;
    }
}

enum Stage {
    Plain(Store),
    Members(Members),
    Zstd(Box<zstd::Encoder<'static, Chunked>>),
    Xz(Box<liblzma::write::XzEncoder<Chunked>>),
    Squashfs(Squashfs, std::path::PathBuf),
}

/// Takes the bytes of a tarball.
pub(super) struct Sink {
    chunk: Vec<u8>,
    stage: Stage,
}

fn library(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

impl Sink {
    /// Makes the file. `date`: of the newest change in what is packed, seconds since 1970.
    pub(super) fn new(path: &Path, compressor: &Compressor, date: i64) -> io::Result<Self> {
        // The tool makes its own.
        let file = || File::create_new(path);
        let chunked = || Ok::<_, io::Error>(Chunked { chunk: Vec::new(), store: Store::new(file()?)? });
        let stage = match compressor {
            Compressor::None => Stage::Plain(Store::new(file()?)?),
            Compressor::Gzip { level } => {
                let level = flate2::Compression::new(*level);
                Stage::Members(Members::new(file()?, GZIP_PIECE, move |piece| {
                    let mut to = flate2::GzBuilder::new().write(Vec::new(), level);
                    to.write_all(piece)?;
                    to.finish()
                })?)
            }
            Compressor::Bzip2 { level } => {
                let (level, piece) = (*level, BZIP2_BLOCK * *level as usize);
                Stage::Members(Members::new(file()?, piece, move |piece| {
                    let mut to = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::new(level));
                    to.write_all(piece)?;
                    to.finish()
                })?)
            }
            Compressor::Zstd { level } => {
                let mut encoder = zstd::Encoder::new(chunked()?, *level)?;
                encoder.include_checksum(true)?;
                // With at least one, the result is that of any number.
                encoder.multithread(u32::try_from(threads()).unwrap_or(1))?;
                Stage::Zstd(Box::new(encoder))
            }
            Compressor::Xz(lzma) => {
                let options = options(lzma)?;
                let mut filters = liblzma::stream::Filters::new();
                filters.lzma2(&options);
                let stream = liblzma::stream::MtStreamBuilder::new()
                    .filters(filters)
                    .check(liblzma::stream::Check::Crc64)
                    .block_size(XZ_BLOCKS * u64::from(lzma.dictionary()))
                    .threads(u32::try_from(threads()).unwrap_or(1).min(lzma.most_threads()))
                    .encoder()
                    .map_err(library)?;
                Stage::Xz(Box::new(liblzma::write::XzEncoder::new_stream(chunked()?, stream)))
            }
            Compressor::Lzma(lzma) => {
                let stream = liblzma::stream::Stream::new_lzma_encoder(&options(lzma)?).map_err(library)?;
                Stage::Xz(Box::new(liblzma::write::XzEncoder::new_stream(chunked()?, stream)))
            }
            Compressor::Squashfs { arguments } => {
                Stage::Squashfs(Squashfs::new(path, arguments, date)?, path.to_owned())
            }
        };
        Ok(Self { chunk: Vec::with_capacity(CHUNK), stage })
    }

    /// Takes bytes.
    pub(super) fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.chunk.len() + bytes.len() > CHUNK {
            self.pass()?;
        }
        self.chunk.extend_from_slice(bytes);
        Ok(())
    }

    /// The same of more than goes at once.
    pub(super) fn put_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        bytes.chunks(CHUNK / 2).try_for_each(|piece| self.put(piece))
    }

    /// Takes `length` bytes of a file, from where it stands; how many there were.
    pub(super) fn take(&mut self, file: &File, length: u64) -> io::Result<u64> {
        let mut left = length;
        while left > 0 {
            if self.chunk.len() >= CHUNK {
                self.pass()?;
            }
            let room = (self.chunk.capacity() - self.chunk.len()) as u64;
            let count = match left >= room {
                true => rustix::io::read(file, rustix::buffer::spare_capacity(&mut self.chunk))?,
                false => file.take(left).read_to_end(&mut self.chunk)?,
            };
            if count == 0 {
                break;
            }
            left -= count as u64;
        }
        Ok(length - left)
    }

    fn pass(&mut self) -> io::Result<()> {
        let mut chunk = std::mem::take(&mut self.chunk);
        match &mut self.stage {
            Stage::Plain(store) => chunk = store.send(chunk)?,
            Stage::Members(members) => members.take(&chunk)?,
            Stage::Zstd(encoder) => encoder.write_all(&chunk)?,
            Stage::Xz(encoder) => encoder.write_all(&chunk)?,
            Stage::Squashfs(tool, _) => tool.input.write_all(&chunk)?,
        }
        chunk.clear();
        chunk.reserve(CHUNK);
        self.chunk = chunk;
        Ok(())
    }

    /// The end. The error of a stage goes before that of whoever could not reach it any more, which `so_far` may be.
    pub(super) fn finish(mut self, so_far: io::Result<()>) -> io::Result<Written> {
        let passed = so_far.and_then(|()| self.pass());
        let written = match self.stage {
            Stage::Plain(store) => store.finish(),
            Stage::Members(members) => members.finish(),
            Stage::Zstd(encoder) => encoder.finish().and_then(Chunked::finish),
            Stage::Xz(encoder) => encoder.finish().and_then(Chunked::finish),
            Stage::Squashfs(tool, path) => tool.finish(&path),
        };
        match (passed, written) {
            (Ok(()), written) => written,
            (Err(error), Err(cause)) if error.kind() == io::ErrorKind::BrokenPipe => Err(cause),
            (Err(error), Ok(_) | Err(_)) => Err(error),
        }
    }
}

fn options(lzma: &Lzma) -> io::Result<liblzma::stream::LzmaOptions> {
    liblzma::stream::LzmaOptions::new_preset(lzma.preset()).map_err(library)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> File {
        File::options().write(true).open("/dev/full").unwrap()
    }

    /// The first error of one that is fed for ever.
    fn failure(mut feed: impl FnMut(&[u8]) -> io::Result<()>) -> io::ErrorKind {
        let mut noise = vec![0; CHUNK];
        let random = ring::rand::SystemRandom::new();
        loop {
            ring::rand::SecureRandom::fill(&random, &mut noise).unwrap();
            if let Err(error) = feed(&noise) {
                return error.kind();
            }
        }
    }

    #[test]
    fn a_full_disk_is_the_reason_that_is_told() {
        let store = Store::new(full()).unwrap();
        assert_eq!(failure(|noise| store.send(noise.to_vec()).map(drop)), io::ErrorKind::StorageFull);
        let chunked = Chunked { chunk: Vec::new(), store: Store::new(full()).unwrap() };
        let mut encoder = zstd::Encoder::new(chunked, 1).unwrap();
        assert_eq!(failure(|noise| encoder.write_all(noise)), io::ErrorKind::StorageFull);
        let mut members = Members::new(full(), GZIP_PIECE, |piece| Ok(piece.to_vec())).unwrap();
        // Whoever feeds it hears only that it is gone.
        failure(|noise| members.take(noise));
        assert_eq!(members.finish().err().map(|error| error.kind()), Some(io::ErrorKind::StorageFull));
    }
}
