//! Packets of SFTP version 3: a length, a type, and fields of three shapes (draft-ietf-secsh-filexfer-02, 3 to 7).

use rustix::fs::Stat;

use crate::helper::files::Refusal;

/// The longest packet that is taken, bytes: OpenSSH's own limit.
pub(super) const MAX_PACKET: usize = 256 * 1024;
/// The most data that one packet carries, bytes, with room for its other fields.
pub(super) const MAX_DATA: usize = MAX_PACKET - 1024;

/// Numbers of the packet types (section 3).
pub(super) mod kind {
    pub(in super::super) const INIT: u8 = 1;
    pub(in super::super) const VERSION: u8 = 2;
    pub(in super::super) const OPEN: u8 = 3;
    pub(in super::super) const CLOSE: u8 = 4;
    pub(in super::super) const READ: u8 = 5;
    pub(in super::super) const WRITE: u8 = 6;
    pub(in super::super) const LSTAT: u8 = 7;
    pub(in super::super) const FSTAT: u8 = 8;
    pub(in super::super) const SETSTAT: u8 = 9;
    pub(in super::super) const FSETSTAT: u8 = 10;
    pub(in super::super) const OPENDIR: u8 = 11;
    pub(in super::super) const READDIR: u8 = 12;
    pub(in super::super) const REMOVE: u8 = 13;
    pub(in super::super) const MKDIR: u8 = 14;
    pub(in super::super) const RMDIR: u8 = 15;
    pub(in super::super) const REALPATH: u8 = 16;
    pub(in super::super) const STAT: u8 = 17;
    pub(in super::super) const RENAME: u8 = 18;
    pub(in super::super) const READLINK: u8 = 19;
    pub(in super::super) const SYMLINK: u8 = 20;
    pub(in super::super) const STATUS: u8 = 101;
    pub(in super::super) const HANDLE: u8 = 102;
    pub(in super::super) const DATA: u8 = 103;
    pub(in super::super) const NAME: u8 = 104;
    pub(in super::super) const ATTRS: u8 = 105;
    pub(in super::super) const EXTENDED: u8 = 200;
    pub(in super::super) const EXTENDED_REPLY: u8 = 201;
}

/// Why a request fails; each is a number on the wire (section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The end of a file or directory.
    Eof,
    /// The files do not allow it.
    Refused(Refusal),
    /// The packet does not hold what its type says.
    BadMessage,
    /// No such request here.
    Unsupported,
    /// No such open file.
    BadHandle,
    /// Too many files are open.
    TooManyHandles,
}

impl Failure {
    pub(super) fn code(self) -> u32 {
        match self {
            Self::Eof => 1,
            Self::Refused(refusal) => match refusal {
                Refusal::NotFound | Refusal::NoParent => 2,
                Refusal::Denied | Refusal::ReadOnly => 3,
                Refusal::NotADirectory
                | Refusal::IsADirectory
                | Refusal::NotEmpty
                | Refusal::Exists
                | Refusal::Special
                | Refusal::Busy
                | Refusal::NoSpace
                | Refusal::Loop
                | Refusal::TooLong
                | Refusal::NoEntry
                | Refusal::NoSuchId
                | Refusal::Errno(_) => 4,
            },
            Self::BadHandle | Self::TooManyHandles => 4,
            Self::BadMessage => 5,
            Self::Unsupported => 8,
        }
    }

    pub(super) fn text(self) -> String {
        match self {
            Self::Eof => "end of file".to_owned(),
            Self::Refused(refusal) => refusal.to_string(),
            Self::BadMessage => "the packet is too short for its type".to_owned(),
            Self::Unsupported => "this request is not supported".to_owned(),
            Self::BadHandle => "there is no such handle".to_owned(),
            Self::TooManyHandles => "too many files are open: close some".to_owned(),
        }
    }
}

impl<T: Into<Refusal>> From<T> for Failure {
    fn from(error: T) -> Self {
        Self::Refused(error.into())
    }
}

/// Takes fields off a packet.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Failure> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(Failure::BadMessage)?;
        self.0 = rest;
        Ok(*field)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Failure> {
        self.take().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Failure> {
        self.take().map(u64::from_be_bytes)
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8], Failure> {
        let length = usize::try_from(self.u32()?).map_err(|_| Failure::BadMessage)?;
        let (field, rest) = self.0.split_at_checked(length).ok_or(Failure::BadMessage)?;
        self.0 = rest;
        Ok(field)
    }

    pub(super) fn attributes(&mut self) -> Result<Attributes, Failure> {
        let flags = self.u32()?;
        let mut read = Attributes::default();
        if flags & SIZE != 0 {
            read.size = Some(self.u64()?);
        }
        if flags & OWNER != 0 {
            read.owner = Some((self.u32()?, self.u32()?));
        }
        if flags & MODE != 0 {
            read.mode = Some(self.u32()?);
        }
        if flags & TIMES != 0 {
            read.times = Some((self.u32()?, self.u32()?));
        }
        if flags & EXTENSIONS != 0 {
            // What they say is not known here, but other fields may follow.
            for _ in 0..self.u32()? {
                self.string()?;
                self.string()?;
            }
        }
        Ok(read)
    }
}

const SIZE: u32 = 1;
const OWNER: u32 = 2;
const MODE: u32 = 4;
const TIMES: u32 = 8;
const EXTENSIONS: u32 = 0x8000_0000;

/// Attributes of a file as a client gives them (section 5); what is absent stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    pub(super) owner: Option<(u32, u32)>,
    /// With the bits of the file's kind, which are not looked at.
    pub(super) mode: Option<u32>,
    /// Last access and last modification, seconds since 1970.
    pub(super) times: Option<(u32, u32)>,
}

/// Builds packets one after the other.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
    start: usize,
}

impl Writer {
    /// Begins the answer of type `kind` to request `id`.
    pub(super) fn begin(&mut self, kind: u8, id: u32) {
        self.start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.push(kind);
        self.u32(id);
    }

    /// Ends it.
    pub(super) fn end(&mut self) {
        let length = u32::try_from(self.bytes.len() - self.start - 4).unwrap_or(u32::MAX);
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// Forgets what was begun.
    pub(super) fn cancel(&mut self) {
        self.bytes.truncate(self.start);
    }

    pub(super) fn u32(&mut self, number: u32) {
        self.bytes.extend_from_slice(&number.to_be_bytes());
    }

    pub(super) fn u64(&mut self, number: u64) {
        self.bytes.extend_from_slice(&number.to_be_bytes());
    }

    pub(super) fn string(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn attributes(&mut self, stat: &Stat) {
        self.u32(SIZE | OWNER | MODE | TIMES);
        self.u64(u64::try_from(stat.st_size).unwrap_or(0));
        self.u32(stat.st_uid);
        self.u32(stat.st_gid);
        self.u32(stat.st_mode);
        // The protocol's seconds end in 2106, and begin in 1970.
        let clamp = |seconds: i64| u32::try_from(seconds.max(0)).unwrap_or(u32::MAX);
        self.u32(clamp(stat.st_atime));
        self.u32(clamp(stat.st_mtime));
    }
}

/// For [`crate::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let mut reader = Reader(bytes);
    while let (Ok(_), Ok(_), Ok(_)) = (reader.string(), reader.attributes(), reader.u64()) {}
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    #[test]
    fn fields_come_back_as_they_went() {
        let mut writer = Writer::default();
        writer.begin(kind::DATA, 7);
        writer.u64(1 << 40);
        writer.string(b"name");
        writer.end();
        let mut reader = Reader(&writer.bytes);
        assert_eq!(reader.u32(), Ok(1 + 4 + 8 + 4 + 4));
        assert_eq!(reader.take::<1>(), Ok([kind::DATA]));
        assert_eq!((reader.u32(), reader.u64()), (Ok(7), Ok(1 << 40)));
        assert_eq!((reader.string(), reader.string()), (Ok(&b"name"[..]), Err(Failure::BadMessage)));
    }

    #[test]
    fn attributes_are_read_by_their_flags() {
        let bytes = [0, 0, 0, 6, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0x81, 0xa4];
        let read = Reader(&bytes).attributes().unwrap();
        assert_eq!(read, Attributes { owner: Some((5, 6)), mode: Some(0o100_644), ..Attributes::default() });
        assert_eq!(Reader(&bytes[..15]).attributes(), Err(Failure::BadMessage));
        let endless = [0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(Reader(&endless).attributes(), Err(Failure::BadMessage));
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader(&bytes);
            let _ = reader.attributes();
            let _ = reader.string();
        }
    }
}
