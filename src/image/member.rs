//! One member of a tar archive: its header as values.

use crate::image::error::{Damage, Error, Refusal, printable};
use crate::image::pax::Pax;

/// The size of a tar block.
pub(crate) const BLOCK: usize = 512;

/// A stretch of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it lies in the file.
    pub offset: u64,
    /// Its length.
    pub length: u64,
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A hard link to an earlier member.
    HardLink,
    /// A FIFO.
    Fifo,
    /// A character or block device.
    Device,
    /// Something without a file: a volume label.
    Nothing,
}

/// One member.
#[derive(Debug)]
pub struct Member {
    /// The path as the archive has it.
    pub path: Vec<u8>,
    /// The target of a link.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// The owner, not shifted.
    pub uid: u32,
    /// The group, not shifted.
    pub gid: u32,
    /// Modification time: seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// The size of the file, holes included.
    pub size: u64,
    /// Where the data lies; one segment unless the file is sparse.
    pub segments: Vec<Segment>,
    /// Extended attributes, name and value, not filtered.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Whether the checksum of a header is right. Unsigned by the standard; some old writers sum signed bytes.
pub fn checksum_matches(block: &[u8]) -> bool {
    let (Some(stored), true) = (block.get(148..156).and_then(octal), block.len() >= BLOCK) else {
        return false;
    };
    let others = || block[..148].iter().chain(&block[156..BLOCK]);
    let unsigned: i64 = others().map(|b| i64::from(*b)).sum::<i64>() + 8 * 32;
    let signed: i64 = others().map(|b| i64::from(i8::from_ne_bytes([*b]))).sum::<i64>() + 8 * 32;
    i64::try_from(stored).is_ok_and(|stored| stored == unsigned || stored == signed)
}

/// An octal number with leading spaces, ended by NUL, a space or the field's end. A blank field is 0.
fn octal(field: &[u8]) -> Option<u64> {
    let text = field.split(|b| *b == 0).next()?.trim_ascii();
    text.iter().try_fold(0_u64, |sum, digit| match digit {
        b'0'..=b'7' => sum.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// A number of a header: octal, or in GNU's base 256 (first bit set; negative if the first byte is 0xff).
fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 == 0 {
        return i64::try_from(octal(field)?).ok();
    }
    let start = if first == 0xff { -1_i64 } else { i64::from(first & 0x7f) };
    field[1..].iter().try_fold(start, |sum, byte| sum.checked_mul(256)?.checked_add(i64::from(*byte)))
}

pub(crate) fn unsigned(block: &[u8], range: std::ops::Range<usize>, field: &'static str) -> Result<u64, Error> {
    number(&block[range])
        .and_then(|n| u64::try_from(n).ok())
        .ok_or_else(|| Error::damaged(format!("entry \"{}\"", printable(&name(block))), Damage::Number(field)))
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// The path in the header alone.
pub(crate) fn name(block: &[u8]) -> Vec<u8> {
    let name = text(&block[..100]);
    let prefix = text(&block[345..500]);
    // POSIX only: GNU's format ("ustar  ") has times where the prefix is.
    if &block[257..263] == b"ustar\0" && !prefix.is_empty() {
        return [prefix, b"/", name].concat();
    }
    name.to_vec()
}

/// A header and what came before it, put together. The segments are not set here.
pub(crate) fn assemble(
    block: &[u8],
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: &mut Pax,
) -> Result<Member, Error> {
    let path =
        pax.sparse_name.take().or_else(|| pax.path.take()).or(long_name).unwrap_or_else(|| name(block));
    let link = pax.link.take().or(long_link).unwrap_or_else(|| text(&block[157..257]).to_vec());
    let byte = block[156];
    let kind = match byte {
        b'0' | 0 if path.ends_with(b"/") => Kind::Directory,
        b'0' | 0 | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' | b'4' => Kind::Device,
        b'5' | b'D' => Kind::Directory,
        b'6' => Kind::Fifo,
        b'V' => Kind::Nothing,
        _ => return Err(Error::refused(&path, Refusal::UnknownType(byte))),
    };
    let broken = |field| Error::damaged(format!("entry \"{}\"", printable(&path)), Damage::Number(field));
    // The id 2^32 - 1 means "leave as it is" to chown.
    let id = |field, from_pax: Option<u64>, range| {
        let value = from_pax.map_or_else(|| unsigned(block, range, field), Ok)?;
        u32::try_from(value).ok().filter(|id| *id != u32::MAX).ok_or_else(|| broken(field))
    };
    let uid = id("uid", pax.uid, 108..116)?;
    let gid = id("gid", pax.gid, 116..124)?;
    let mode = u32::try_from(unsigned(block, 100..108, "mode")? & 0o7777).unwrap_or_default();
    let mtime = match pax.mtime {
        Some(time) => time,
        None => (number(&block[136..148]).ok_or_else(|| broken("mtime"))?, 0),
    };
    let size = match pax.size {
        Some(size) => size,
        None => unsigned(block, 124..136, "size")?,
    };
    // A size beyond what a file can have would overflow sums further on.
    if i64::try_from(size).is_err() {
        return Err(broken("size"));
    }
    let xattrs = std::mem::take(&mut pax.xattrs);
    Ok(Member { path, link, kind, mode, uid, gid, mtime, size, segments: Vec::new(), xattrs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0"), Some(0));
        assert_eq!(number(&[0x80, 0, 0, 1, 0, 0]), Some(1 << 16));
        assert_eq!(number(&[0xff, 0xff, 0xff, 0xfe]), Some(-2));
        assert_eq!(number(b"12x"), None);
        assert_eq!(number(&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
    }
}
