//! A reader of tar streams that trusts nothing: bounded memory for every extended header, sparse maps as segments (so
//! that holes stay holes), extended headers by length (see [`crate::image::pax`]). It reads v7, ustar, GNU and pax,
//! and GNU's sparse formats: old, 0.0, 0.1 and 1.0.
//!
//! The reader does not touch a file system; what may be extracted where is [`crate::image::extract`]'s matter.

use std::io::{ErrorKind, Read};

use crate::image::error::{Damage, Error, Limit, printable};
use crate::image::member::{BLOCK, Kind, Member, Segment, assemble, name, unsigned};
use crate::image::pax::{MAX_SEGMENTS, Pax, decimal};
use crate::image::unpack::Limits;

pub use crate::image::member::checksum_matches;

/// The largest extended header or long name that is read, in bytes.
pub const MAX_EXTENDED: u64 = 1 << 20;

/// A tar stream.
pub struct TarReader<R> {
    source: R,
    /// Data of the current member that is not read yet, and the padding behind it.
    left: u64,
    padding: u64,
    limits: Limits,
    bytes: u64,
    headers: u64,
    chunk: Vec<u8>,
}

impl<R: Read> TarReader<R> {
    /// A reader of `source`, which must be at the start of a tar.
    pub fn new(source: R, limits: Limits) -> Self {
        Self { source, left: 0, padding: 0, limits, bytes: 0, headers: 0, chunk: vec![0; 128 << 10] }
    }

    /// Bytes of data seen so far, those of skipped members included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next member, or `None` at the end. Data of the previous one that was not read is skipped.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::TooLarge`], or that of the source.
    pub fn next_member(&mut self) -> Result<Option<Member>, Error> {
        let (mut long_name, mut long_link, mut pax) = (None, None, None::<Pax>);
        loop {
            self.skip_rest()?;
            let Some(block) = self.header()? else {
                if long_name.is_some() || long_link.is_some() || pax.is_some() {
                    return Err(Error::damaged("the archive", Damage::DanglingHeader));
                }
                return Ok(None);
            };
            let entry = name(&block);
            self.headers += 1;
            if self.headers > self.limits.max_entries.saturating_mul(4) {
                return Err(self.too_large(&entry, Limit::Entries, self.limits.max_entries));
            }
            match block[156] {
                b'L' => long_name = Some(self.long_text(&block)?),
                b'K' => long_link = Some(self.long_text(&block)?),
                b'x' | b'X' => pax = Some(Pax::parse(&self.extended(&block)?)?),
                // Global headers carry comments; nothing of them applies to files here.
                b'g' => {
                    self.extended(&block)?;
                }
                _ => return self.member(&block, long_name, long_link, pax.unwrap_or_default()).map(Some),
            }
        }
    }

    /// Hands the data of `member`, which must be the last one that was read, to `sink` with the offsets in the file.
    ///
    /// # Errors
    /// Those of the source and of `sink`.
    pub fn copy(&mut self, member: &Member, mut sink: impl FnMut(u64, &[u8]) -> Result<(), Error>) -> Result<(), Error> {
        for segment in &member.segments {
            let mut offset = segment.offset;
            let mut rest = segment.length;
            while rest > 0 {
                let want = usize::try_from(rest).unwrap_or(usize::MAX).min(self.chunk.len());
                let got = read_some(&mut self.source, &mut self.chunk[..want])?;
                if got == 0 {
                    return Err(truncated(&member.path));
                }
                let count = got as u64;
                self.left = self.left.saturating_sub(count);
                sink(offset, &self.chunk[..got])?;
                offset += count;
                rest -= count;
            }
        }
        Ok(())
    }

    fn too_large(&self, entry: &[u8], limit: Limit, max: u64) -> Error {
        Error::TooLarge { entry: printable(entry), limit, max }
    }

    fn charge(&mut self, entry: &[u8], bytes: u64) -> Result<(), Error> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.limits.max_bytes {
            return Err(self.too_large(entry, Limit::Bytes, self.limits.max_bytes));
        }
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), Error> {
        let mut rest = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        while rest > 0 {
            let want = usize::try_from(rest).unwrap_or(usize::MAX).min(self.chunk.len());
            let got = read_some(&mut self.source, &mut self.chunk[..want])?;
            if got == 0 {
                return Err(Error::damaged("the archive", Damage::Truncated));
            }
            rest -= got as u64;
        }
        Ok(())
    }

    /// One block, or `None` at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match read_some(&mut self.source, &mut block[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(Error::damaged("the archive", Damage::Truncated)),
                got => filled += got,
            }
        }
        Ok(Some(block))
    }

    /// A header with its sizes noted, or `None` at the end: a block of zeros, or the end of the stream.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if !checksum_matches(&block) {
            return Err(Error::damaged("the archive", Damage::Checksum));
        }
        Ok(Some(block))
    }

    /// The data of an extended header.
    fn extended(&mut self, block: &[u8; BLOCK]) -> Result<Vec<u8>, Error> {
        let size = unsigned(block, 124..136, "size")?;
        if size > MAX_EXTENDED {
            return Err(Error::damaged("the archive", Damage::ExtendedHeaderTooLarge));
        }
        self.charge(&name(block), size)?;
        let mut data = vec![0; usize::try_from(size).unwrap_or_default()];
        self.source.read_exact(&mut data).map_err(Error::reading)?;
        self.padding = padding(size);
        Ok(data)
    }

    fn long_text(&mut self, block: &[u8; BLOCK]) -> Result<Vec<u8>, Error> {
        let mut data = self.extended(block)?;
        while data.last() == Some(&0) {
            data.pop();
        }
        Ok(data)
    }

    fn member(
        &mut self,
        block: &[u8; BLOCK],
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        mut pax: Pax,
    ) -> Result<Member, Error> {
        let mut member = assemble(block, long_name, long_link, &mut pax)?;
        // Links have no data, whatever their size says; so GNU tar reads it. Other kinds skip theirs.
        if member.kind == Kind::HardLink {
            member.size = 0;
        }
        let stored = member.size;
        self.charge(&member.path, stored)?;
        self.left = stored;
        self.padding = padding(stored);
        if member.kind != Kind::File {
            member.size = 0;
            return Ok(member);
        }
        if block[156] == b'S' {
            member.segments = self.old_sparse_map(block)?;
            member.size = unsigned(block, 483..495, "realsize")?;
        } else if pax.sparse_map_in_data {
            member.segments = self.sparse_map_in_data(&member.path)?;
            member.size = pax.sparse_size.unwrap_or(stored);
        } else if let Some(map) = pax.sparse_map {
            member.segments = map;
            member.size = pax.sparse_size.unwrap_or(stored);
        } else {
            member.segments = vec![Segment { offset: 0, length: stored }];
        }
        self.check_map(&member)?;
        Ok(member)
    }

    /// The map must ascend, end within the file, and have exactly the data that is there.
    fn check_map(&self, member: &Member) -> Result<(), Error> {
        let mut end = 0_u64;
        let mut data = 0_u64;
        let fits = member.segments.iter().all(|segment| {
            let ascending = segment.offset >= end;
            let next = segment.offset.checked_add(segment.length);
            end = next.unwrap_or(u64::MAX);
            data = data.saturating_add(segment.length);
            ascending && next.is_some()
        });
        if fits && end <= member.size && data == self.left && i64::try_from(member.size).is_ok() {
            return Ok(());
        }
        Err(sparse(&member.path))
    }

    /// GNU's old format: four pairs in the header, then blocks of 21 pairs.
    fn old_sparse_map(&mut self, block: &[u8; BLOCK]) -> Result<Vec<Segment>, Error> {
        let mut segments = Vec::new();
        sparse_pairs(&block[386..482], &mut segments)?;
        let mut extended = block[482] != 0;
        while extended {
            let more = self.block()?.ok_or_else(|| truncated(&name(block)))?;
            sparse_pairs(&more[..504], &mut segments)?;
            if segments.len() > MAX_SEGMENTS {
                return Err(sparse(&name(block)));
            }
            self.charge(&name(block), BLOCK as u64)?;
            extended = more[504] != 0;
        }
        Ok(segments)
    }

    /// GNU's format 1.0: decimal numbers, a line each, in the first blocks of the data: count, then pairs.
    fn sparse_map_in_data(&mut self, path: &[u8]) -> Result<Vec<Segment>, Error> {
        let mut numbers = Numbers { block: [0; BLOCK], at: BLOCK };
        let count = numbers.next(self, path)?;
        if count > MAX_SEGMENTS as u64 {
            return Err(sparse(path));
        }
        let mut segments = Vec::new();
        for _ in 0..count {
            let offset = numbers.next(self, path)?;
            let length = numbers.next(self, path)?;
            segments.push(Segment { offset, length });
        }
        Ok(segments)
    }
}

/// Decimal lines from the blocks of a member's data.
struct Numbers {
    block: [u8; BLOCK],
    at: usize,
}

impl Numbers {
    fn next<R: Read>(&mut self, reader: &mut TarReader<R>, path: &[u8]) -> Result<u64, Error> {
        let mut digits = Vec::new();
        loop {
            if self.at == BLOCK {
                reader.left = reader.left.checked_sub(BLOCK as u64).ok_or_else(|| sparse(path))?;
                self.block = reader.block()?.ok_or_else(|| truncated(path))?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' => return decimal(&digits).ok_or_else(|| sparse(path)),
                _ if digits.len() < 20 => digits.push(byte),
                _ => return Err(sparse(path)),
            }
        }
    }
}

fn sparse_pairs(fields: &[u8], segments: &mut Vec<Segment>) -> Result<(), Error> {
    for pair in fields.chunks_exact(24) {
        // An unused pair is blank.
        if pair[0] == 0 && pair[12] == 0 {
            continue;
        }
        // The same layout as any number of 12 bytes; `unsigned` takes the place within a block for its message only.
        let number = |at: usize| {
            let mut block = [0; BLOCK];
            block[..12].copy_from_slice(&pair[at..at + 12]);
            unsigned(&block, 0..12, "sparse")
        };
        segments.push(Segment { offset: number(0)?, length: number(12)? });
    }
    Ok(())
}

fn sparse(path: &[u8]) -> Error {
    Error::damaged(format!("entry \"{}\"", printable(path)), Damage::SparseMap)
}

fn truncated(path: &[u8]) -> Error {
    Error::damaged(format!("entry \"{}\"", printable(path)), Damage::Truncated)
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn read_some(source: &mut impl Read, buffer: &mut [u8]) -> Result<usize, Error> {
    loop {
        match source.read(buffer) {
            Ok(count) => return Ok(count),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::reading(e)),
        }
    }
}
