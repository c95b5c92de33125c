//! Compressions, known by their magic numbers, never by a file's name.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use super::error::{Error, io as io_error};

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Bzip2,
    Xz,
    Lzma,
    Zstd,
    Squashfs,
}

impl Compression {
    fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x5d, 0, 0, ..] => Self::Lzma,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            [b'h', b's', b'q', b's', ..] => Self::Squashfs,
            _ => Self::None,
        }
    }
}

impl Compression {
    /// What the name of a file packed so ends with.
    pub(super) fn extension(self) -> &'static str {
        match self {
            Self::None => "tar",
            Self::Gzip => "tar.gz",
            Self::Bzip2 => "tar.bz2",
            Self::Xz => "tar.xz",
            Self::Lzma => "tar.lzma",
            Self::Zstd => "tar.zst",
            Self::Squashfs => "squashfs",
        }
    }
}

/// The compression of a file.
pub(super) fn detect(path: &Path) -> Result<Compression, Error> {
    let mut head = Vec::with_capacity(8);
    File::open(path).and_then(|file| file.take(8).read_to_end(&mut head)).map_err(io_error("read", path))?;
    Ok(Compression::of(&head))
}

/// Opens a tarball for reading, at most `limit` bytes of it: what unpacks to more is a bomb.
pub(super) fn open_tar(path: &Path, limit: u64) -> Result<tar::Archive<Box<dyn Read>>, Error> {
    let compression = detect(path)?;
    let mut file = File::open(path).map_err(io_error("read", path))?;
    file.rewind().map_err(io_error("read", path))?;
    let file = BufReader::with_capacity(128 * 1024, file);
    let plain: Box<dyn Read> = match compression {
        Compression::None => Box::new(file),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(file)),
        Compression::Xz => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(file)),
        Compression::Lzma => {
            let stream = liblzma::stream::Stream::new_lzma_decoder(256 * 1024 * 1024)
                .map_err(|e| Error::BadArchive { reason: e.to_string() })?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(file, stream))
        }
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(file).map_err(io_error("read", path))?),
        Compression::Squashfs => {
            let reason = "it is a squashfs where a tarball is needed; send metadata and root as two parts".to_owned();
            return Err(Error::BadArchive { reason });
        }
    };
    Ok(tar::Archive::new(Box::new(Bounded { inner: plain, left: limit })))
}

/// Fails instead of reading on beyond its limit.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let bytes = u64::try_from(count).unwrap_or(u64::MAX);
        self.left = self.left.checked_sub(bytes).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(count)
    }
}
