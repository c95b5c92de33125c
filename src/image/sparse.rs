//! Sparse files in the format 1.0 of GNU tar's pax archives, which the `tar` crate hands out unread: the map of the
//! data stands before the data, in decimal lines (GNU tar manual, "PAX Format, Version 1.0"). This is what
//! `tar --sparse --xattrs` writes. The crate itself reads the older format of GNU archives.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use tar::Entry;

use super::error::Error;

/// The most stretches of data in a file; GNU tar itself is slower than that.
const MAX_STRETCHES: u64 = 1 << 20;
const BLOCK: u64 = 512;

/// What the pax header of a sparse file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sparse {
    /// The file's own name; the entry has a made-up one.
    pub(super) name: Vec<u8>,
    /// Its size, bytes, holes included.
    pub(super) size: u64,
}

fn damaged(what: &str) -> Error {
    Error::BadArchive { reason: format!("a sparse file has {what}") }
}

impl Sparse {
    /// `None` for an entry that is no such file.
    ///
    /// # Errors
    /// For the formats 0.0 and 0.1, which GNU tar has not written by itself since 2006.
    pub(super) fn of<R: Read>(entry: &mut Entry<'_, R>) -> Result<Option<Self>, Error> {
        let Ok(Some(extensions)) = entry.pax_extensions() else { return Ok(None) };
        let (mut name, mut size, mut version) = (None, None, (None, None));
        let mut sparse = false;
        for extension in extensions.flatten() {
            let Some(key) = extension.key().ok().and_then(|key| key.strip_prefix("GNU.sparse.")) else { continue };
            sparse = true;
            let number = || extension.value().ok().and_then(|text| text.parse::<u64>().ok());
            match key {
                "major" => version.0 = number(),
                "minor" => version.1 = number(),
                "name" => name = Some(extension.value_bytes().to_vec()),
                "realsize" => size = number(),
                _ => {}
            }
        }
        match (sparse, version, name, size) {
            (false, ..) => Ok(None),
            (true, (Some(1), Some(0)), Some(name), Some(size)) => Ok(Some(Self { name, size })),
            (true, (Some(1), Some(0)), ..) => Err(damaged("neither name nor size")),
            (true, ..) => Err(damaged("an old format; pack it again with tar --sparse-version=1.0")),
        }
    }

    /// Reads the map, then the data into `file`, leaving the holes.
    ///
    /// # Errors
    /// When map and data do not fit each other, and those of the disk.
    pub(super) fn copy(&self, entry: &mut impl Read, file: &mut File) -> io::Result<()> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "the map of a sparse file is damaged");
        let mut numbers = Numbers { source: entry, read: 0 };
        let count = numbers.next()?;
        if count > MAX_STRETCHES {
            return Err(wrong());
        }
        let mut stretches = Vec::new();
        for _ in 0..count {
            stretches.push((numbers.next()?, numbers.next()?));
        }
        numbers.skip_block()?;
        let mut end = 0;
        for (offset, length) in stretches {
            let next =
                offset.checked_add(length).filter(|next| offset >= end && *next <= self.size).ok_or_else(wrong)?;
            end = next;
            file.seek(SeekFrom::Start(offset))?;
            if io::copy(&mut entry.by_ref().take(length), file)? != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        file.set_len(self.size)
    }
}

/// Copies data whose holes were filled with zeros, as holes again.
pub(super) fn copy_with_holes(source: &mut impl Read, size: u64, file: &mut File) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match source.read(&mut buffer[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            return file.set_len(size);
        }
        match buffer[..filled].iter().any(|byte| *byte != 0) {
            true => file.write_all(&buffer[..filled])?,
            false => drop(file.seek(SeekFrom::Current(i64::try_from(filled).unwrap_or(i64::MAX)))?),
        }
    }
}

/// Decimal lines.
struct Numbers<'a, R> {
    source: &'a mut R,
    read: u64,
}

impl<R: Read> Numbers<'_, R> {
    fn next(&mut self) -> io::Result<u64> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "the map of a sparse file is damaged");
        let mut number = None::<u64>;
        loop {
            let mut byte = [0];
            self.source.read_exact(&mut byte)?;
            self.read += 1;
            match byte[0] {
                b'\n' => return number.ok_or_else(wrong),
                digit @ b'0'..=b'9' => {
                    let more = number.unwrap_or(0).checked_mul(10).and_then(|n| n.checked_add(u64::from(digit - b'0')));
                    number = Some(more.ok_or_else(wrong)?);
                }
                _ => return Err(wrong()),
            }
        }
    }

    /// The data begins with a block.
    fn skip_block(&mut self) -> io::Result<()> {
        let padding = self.read.next_multiple_of(BLOCK) - self.read;
        let skipped = io::copy(&mut self.source.by_ref().take(padding), &mut io::sink())?;
        if skipped == padding { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}
