//! Compressions, known by their magic numbers, never by a file's name.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
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
        Compression::None => {
            let mut file = file;
            let head = file.fill_buf().map_err(io_error("read", path))?;
            if let Some(kind) = foreign(head) {
                let reason = format!("it is no tarball, nor anything that one is packed in, but {kind}");
                return Err(Error::BadArchive { reason });
            }
            Box::new(file)
        }
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

/// What a file is that cannot be a tarball, for an error; never its content. `None`: it begins as one.
fn foreign(head: &[u8]) -> Option<&'static str> {
    let block = head.get(..512).unwrap_or(head);
    if let Ok(whole) = <&[u8; 512]>::try_from(block)
        && tar::Header::from_byte_slice(whole).cksum().is_ok_and(|sum| sum == checksum(whole))
    {
        return None;
    }
    let is_text = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    Some(match block {
        [] => "empty",
        [0x7f, b'E', b'L', b'F', ..] => "a program (ELF)",
        [b'P', b'K', 3, 4, ..] => "a ZIP archive",
        [b'Q', b'F', b'I', 0xfb, ..] => "a disk of a virtual machine (qcow2)",
        [b'7', b'z', 0xbc, 0xaf, ..] => "a 7z archive",
        _ if block.iter().all(|byte| *byte == 0) => "zeros",
        _ if block.iter().all(is_text) => "a text",
        _ => "something else",
    })
}

/// The sum of a header's bytes, those of the sum itself counted as spaces (pax(1), "ustar Interchange Format").
fn checksum(header: &[u8; 512]) -> u32 {
    let (before, rest) = header.split_at(148);
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    sum(before) + 8 * u32::from(b' ') + sum(rest.split_at(8).1)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_tarball_is_named_without_its_content() {
        let passwd = b"root:x:0:0:secret:/root:/bin/sh\n".repeat(40);
        for (bytes, kind) in [
            (passwd.as_slice(), "a text"),
            (b"", "empty"),
            (b"\x7fELF\x02\x01", "a program (ELF)"),
            (&[0; 600], "zeros"),
            (b"PK\x03\x04", "a ZIP archive"),
            (&[0xff; 512], "something else"),
        ] {
            assert_eq!(foreign(bytes), Some(kind));
        }
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(0);
        tar.append_data(&mut header, "a", &b""[..]).unwrap();
        assert_eq!(foreign(&tar.into_inner().unwrap()), None);
        let dir = tempfile::tempdir().unwrap();
        // Packed, it is known for what it is only when it is read.
        let packed = dir.path().join("x.gz");
        let mut gz = flate2::write::GzEncoder::new(File::create(&packed).unwrap(), flate2::Compression::fast());
        io::Write::write_all(&mut gz, &passwd).unwrap();
        gz.finish().unwrap();
        let error = super::super::store::inspect_for_tests(&packed).unwrap_err().to_string();
        assert!(!error.contains("root") && error.contains("tarball"), "{error}");
    }
}
