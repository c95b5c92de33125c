//! Where a file has nothing but zeros, by its content alone: so that equal files are packed alike, wherever they lie and
//! whatever of them is a hole there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// What is looked at at once, bytes.
const PIECE: usize = 4096;
/// Zeros are left out from so many bytes on: less is not worth a stretch.
const LEAST: u64 = 64 * 1024;
/// Read at once, bytes.
const BUFFER: usize = 1 << 20;

static ZEROS: [u8; PIECE] = [0; PIECE];

/// The data between the zeros of a file: where each stretch begins, and how long it is. `None`: there is nothing to leave
/// out.
pub(super) fn of(file: &File, size: u64) -> io::Result<Option<Vec<(u64, u64)>>> {
    if size < LEAST {
        return Ok(None);
    }
    let mut found = Found::default();
    let mut buffer = vec![0; BUFFER];
    let mut at = 0;
    while at < size {
        // Holes need not be read.
        at = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            result => result?,
        };
        // From a piece's beginning, wherever the file system has its hole's end.
        at -= at % PIECE as u64;
        let wanted = usize::try_from(size - at).unwrap_or(usize::MAX).min(BUFFER);
        let mut filled = 0;
        while filled < wanted {
            match file.read_at(buffer.get_mut(filled..wanted).unwrap_or_default(), at + filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            break;
        }
        for piece in buffer.get(..filled).unwrap_or_default().chunks(PIECE) {
            if ZEROS.get(..piece.len()) != Some(piece) {
                found.data(at, piece.len() as u64);
            }
            at += piece.len() as u64;
        }
    }
    rustix::fs::seek(file, SeekFrom::Start(0))?;
    Ok(found.finish(size))
}

#[derive(Default)]
struct Found {
    stretches: Vec<(u64, u64)>,
}

impl Found {
    fn data(&mut self, at: u64, length: u64) {
        let end = self.stretches.last().map_or(0, |(start, length)| start + length);
        match self.stretches.last_mut() {
            // Up to here there were too few zeros.
            Some(last) if at - end < LEAST => last.1 = at + length - last.0,
            None if at < LEAST => self.stretches.push((0, at + length)),
            Some(_) | None => self.stretches.push((at, length)),
        }
    }

    fn finish(mut self, size: u64) -> Option<Vec<(u64, u64)>> {
        let end = self.stretches.last().map_or(0, |(start, length)| start + length);
        if size - end < LEAST
            && let Some(last) = self.stretches.last_mut()
        {
            last.1 = size - last.0;
        }
        if self.stretches == [(0, size)] {
            return None;
        }
        // Readers learn the size from the last stretch.
        if self.stretches.last().is_none_or(|(start, length)| start + length < size) {
            self.stretches.push((size, 0));
        }
        Some(self.stretches)
    }
}

/// The map before the data, in the format 1.0 of GNU tar's pax archives, filled up to a block.
pub(super) fn map(stretches: &[(u64, u64)]) -> Vec<u8> {
    let mut text = format!("{}\n", stretches.len());
    for (start, length) in stretches {
        text.push_str(&format!("{start}\n{length}\n"));
    }
    let mut text = text.into_bytes();
    text.resize(text.len().next_multiple_of(super::header::BLOCK), 0);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretches(parts: &[(u64, &[u8])], size: u64) -> Option<Vec<(u64, u64)>> {
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        file.set_len(size).unwrap();
        for (at, bytes) in parts {
            file.write_all_at(bytes, *at).unwrap();
        }
        of(&file, size).unwrap()
    }

    #[test]
    fn only_long_zeros_are_left_out() {
        const MB: u64 = 1 << 20;
        assert_eq!(stretches(&[], 1000), None);
        assert_eq!(stretches(&[], MB), Some(vec![(MB, 0)]));
        assert_eq!(stretches(&[(0, b"x"), (60_000, b"x")], 70_000), None);
        assert_eq!(stretches(&[(5 * MB, b"x")], 10 * MB), Some(vec![(5 * MB, 4096), (10 * MB, 0)]));
        assert_eq!(
            stretches(&[(0, b"x"), (10 * MB - 1, b"x")], 10 * MB),
            Some(vec![(0, 4096), (10 * MB - 4096, 4096)])
        );
        assert_eq!(stretches(&[(MB, &[1; 300_000]), (2 * MB, b"x")], 2 * MB + 1).unwrap().len(), 2);
    }

    #[test]
    fn zeros_that_were_written_are_holes_as_well() {
        let zeros = vec![0; 3 << 20];
        let with = stretches(&[(0, &zeros), (1 << 20, b"data")], 3 << 20);
        assert_eq!(with, stretches(&[(1 << 20, b"data")], 3 << 20));
        assert_eq!(with, Some(vec![(1 << 20, 4096), (3 << 20, 0)]));
    }
}
