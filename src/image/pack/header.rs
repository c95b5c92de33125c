//! Headers of a tarball: ustar, with what does not fit in one as pax records (pax(1), "pax Extended Header") and, for long
//! names, as GNU tar's own entries (GNU tar manual, "Basic Tar Format"), which every reader of either knows, whatever
//! bytes are in them.

/// Size of a header, and what the data of an entry is filled up to, bytes.
pub(super) const BLOCK: usize = 512;
/// The longest name in a header itself, bytes.
const NAME: usize = 100;

/// What an entry is (the "typeflag" of ustar).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    CharacterDevice,
    BlockDevice,
    Directory,
    Fifo,
}

impl Kind {
    fn flag(self) -> u8 {
        match self {
            Self::File => b'0',
            Self::HardLink => b'1',
            Self::Symlink => b'2',
            Self::CharacterDevice => b'3',
            Self::BlockDevice => b'4',
            Self::Directory => b'5',
            Self::Fifo => b'6',
        }
    }
}

/// Name and value of an extended attribute.
pub(super) type Attribute = (Vec<u8>, Vec<u8>);

/// An entry, but for its data.
#[derive(Debug, Clone)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a [u8],
    pub(super) kind: Kind,
    /// Where a link leads.
    pub(super) target: &'a [u8],
    /// Without the type.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Of the data, bytes.
    pub(super) size: u64,
    /// Seconds since 1970, and nanoseconds.
    pub(super) modified: (i64, u32),
    /// Of a device node.
    pub(super) device: (u32, u32),
    /// Of a sparse file, whose data is a map and what lies between the holes: its own size, bytes.
    pub(super) sparse: Option<u64>,
    /// Extended attributes.
    pub(super) attributes: &'a [Attribute],
    /// Attributes that readers may take for damaged are there a second time, in another form.
    pub(super) armour: bool,
}

/// A pax record says its own length, that length included.
fn record(to: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    to.extend(length.to_string().bytes());
    to.push(b' ');
    to.extend(key);
    to.push(b'=');
    to.extend(value);
    to.push(b'\n');
}

/// Octal digits up to the field's end; 0 for what does not fit, which a record says.
fn octal(field: &mut [u8], value: u64) -> bool {
    let digits = field.len() - 1;
    let fits = digits * 3 >= 64 || value < 1 << (digits * 3);
    let text = format!("{:0digits$o}", if fits { value } else { 0 });
    for (byte, digit) in field.iter_mut().zip(text.bytes()) {
        *byte = digit;
    }
    fits
}

/// A field of a header that begins at a place.
fn field<const AT: usize, const LENGTH: usize>(header: &mut [u8; BLOCK]) -> &mut [u8] {
    const { assert!(AT + LENGTH <= BLOCK) };
    header.split_at_mut(AT).1.split_at_mut(LENGTH).0
}

fn put(field: &mut [u8], text: &[u8]) {
    for (byte, from) in field.iter_mut().zip(text) {
        *byte = *from;
    }
}

fn seal(mut header: [u8; BLOCK], to: &mut Vec<u8>) {
    put(field::<257, 8>(&mut header), b"ustar\x0000");
    put(field::<148, 8>(&mut header), b"        ");
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    octal(field::<148, 7>(&mut header), sum);
    to.extend(header);
}

fn fill_up(to: &mut Vec<u8>) {
    to.resize(to.len().next_multiple_of(BLOCK), 0);
}

/// An entry that says something about the next one.
fn about(to: &mut Vec<u8>, flag: u8, name: &[u8], data: &[u8]) {
    let mut header = [0; BLOCK];
    put(field::<0, NAME>(&mut header), name);
    octal(field::<100, 8>(&mut header), 0o644);
    octal(field::<108, 8>(&mut header), 0);
    octal(field::<116, 8>(&mut header), 0);
    octal(field::<124, 12>(&mut header), data.len() as u64);
    octal(field::<136, 12>(&mut header), 0);
    put(field::<156, 1>(&mut header), &[flag]);
    seal(header, to);
    to.extend(data);
    fill_up(to);
}

/// A name, or a target, that is longer than a header takes.
fn long(to: &mut Vec<u8>, flag: u8, name: &[u8]) {
    if name.len() > NAME {
        about(to, flag, b"././@LongLink", &[name, b"\0"].concat());
    }
}

/// The time as pax has it: seconds, with a fraction where there is one. Before 1970 the fraction counts down, too.
fn time((seconds, nanoseconds): (i64, u32)) -> String {
    let whole = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    let (sign, whole) = if whole < 0 { ("-", -whole) } else { ("", whole) };
    let text = format!("{sign}{}.{:09}", whole / 1_000_000_000, whole % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The attribute as libarchive writes it: the name as in a URL, the value in base64. Readers that split records at the ends
/// of lines find it where the plain one breaks off.
fn armoured(to: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    use base64::Engine as _;
    let name: String = name
        .iter()
        .map(|byte| match byte {
            b'!'..=b'~' if !matches!(byte, b'%' | b'=') => char::from(*byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect();
    let value = base64::engine::general_purpose::STANDARD_NO_PAD.encode(value);
    record(to, format!("{ARMOUR}{name}").as_bytes(), value.as_bytes());
}

/// Before the name of an attribute whose value is plain.
pub(in crate::image) const PLAIN: &str = "SCHILY.xattr.";
/// Before the name, as in a URL, of an attribute whose value is in base64.
pub(in crate::image) const ARMOUR: &str = "LIBARCHIVE.xattr.";

impl Entry<'_> {
    /// Writes everything before the data.
    pub(super) fn write(&self, to: &mut Vec<u8>) {
        let mut header = [0; BLOCK];
        let mut records = Vec::new();
        // Numbers first: readers that stop at a record which they take for damaged have these.
        let number = |records: &mut Vec<u8>, fits: bool, key: &str, value: u64| {
            if !fits {
                record(records, key.as_bytes(), value.to_string().as_bytes());
            }
        };
        octal(field::<100, 8>(&mut header), u64::from(self.mode));
        let fits = octal(field::<108, 8>(&mut header), u64::from(self.uid));
        number(&mut records, fits, "uid", u64::from(self.uid));
        let fits = octal(field::<116, 8>(&mut header), u64::from(self.gid));
        number(&mut records, fits, "gid", u64::from(self.gid));
        let fits = octal(field::<124, 12>(&mut header), self.size);
        number(&mut records, fits, "size", self.size);
        let (seconds, nanoseconds) = self.modified;
        let fits = octal(field::<136, 12>(&mut header), u64::try_from(seconds).unwrap_or(u64::MAX));
        if !fits || nanoseconds > 0 {
            record(&mut records, b"mtime", time(self.modified).as_bytes());
        }
        let name = match self.sparse {
            None => self.name.to_vec(),
            Some(size) => {
                record(&mut records, b"GNU.sparse.major", b"1");
                record(&mut records, b"GNU.sparse.minor", b"0");
                record(&mut records, b"GNU.sparse.name", self.name);
                record(&mut records, b"GNU.sparse.realsize", size.to_string().as_bytes());
                b"GNUSparseFile.0/file".to_vec()
            }
        };
        self.attribute_records(&mut records);
        put(field::<0, NAME>(&mut header), &name);
        put(field::<156, 1>(&mut header), &[self.kind.flag()]);
        put(field::<157, NAME>(&mut header), self.target);
        if matches!(self.kind, Kind::CharacterDevice | Kind::BlockDevice) {
            octal(field::<329, 8>(&mut header), u64::from(self.device.0));
            octal(field::<337, 8>(&mut header), u64::from(self.device.1));
        }
        if !records.is_empty() {
            about(to, b'x', b"PaxHeaders.0/file", &records);
        }
        long(to, b'L', &name);
        long(to, b'K', self.target);
        seal(header, to);
    }

    fn attribute_records(&self, records: &mut Vec<u8>) {
        let breaks = |text: &[u8]| text.contains(&b'\n');
        for (name, value) in self.attributes.iter().filter(|(n, v)| self.armour && (breaks(n) || breaks(v))) {
            armoured(records, name, value);
        }
        let (broken, whole): (Vec<_>, Vec<_>) = self.attributes.iter().partition(|(_, value)| breaks(value));
        // A name with "=" or the end of a line has no plain form.
        for (name, value) in whole.into_iter().chain(broken).filter(|(name, _)| !breaks(name) && !name.contains(&b'='))
        {
            record(records, &[PLAIN.as_bytes(), name].concat(), value);
        }
    }
}

/// For [`crate::fuzz`]: whatever a file is called and has, a reader finds it again.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    // A head of numbers, then texts, in which 0 ends each: no name of a file has one.
    let (numbers, texts) = bytes.split_at(bytes.len().min(16));
    let number = |at: usize| numbers.get(at).copied().unwrap_or_default();
    let wide = |at: usize| (0..8).fold(0, |value, byte| value << 8 | u64::from(number(at + byte)));
    let mut texts = texts.split(|byte| *byte == 0);
    let mut text = || texts.next().unwrap_or_default();
    let (name, target) = ([b"rootfs/", text()].concat(), text());
    let kinds = [Kind::File, Kind::HardLink, Kind::Symlink, Kind::CharacterDevice, Kind::Directory, Kind::Fifo];
    let kind = kinds.get(usize::from(number(0)) % kinds.len()).copied().unwrap_or(Kind::File);
    let is_link = matches!(kind, Kind::HardLink | Kind::Symlink);
    let attributes = [([b"user.", text()].concat(), text().to_vec()), (b"user.z".to_vec(), numbers.to_vec())];
    let entry = Entry {
        name: &name,
        kind,
        target: if is_link { target } else { b"" },
        mode: u32::from(number(1)) << 4,
        uid: u32::from(number(2)) << 24,
        gid: u32::from(number(3)) << 20,
        // No more than a reader can add to where it is.
        size: if kind == Kind::File { wide(4) >> 2 } else { 0 },
        modified: (i64::from_be_bytes(wide(8).to_be_bytes()), u32::from(number(7)) * 1000),
        device: (u32::from(number(5)), u32::from(number(6))),
        sparse: None,
        attributes: &attributes,
        armour: number(1) % 2 == 0,
    };
    let mut written = Vec::new();
    entry.write(&mut written);
    assert_eq!(written.len() % BLOCK, 0);
    let mut archive = tar::Archive::new(&*written);
    let read = archive.entries().ok().and_then(|mut entries| entries.next()).and_then(Result::ok);
    assert!(read.is_some(), "no reader finds it");
    if let Some(read) = read {
        assert_eq!(read.path_bytes(), &*name);
        assert_eq!(read.link_name_bytes().unwrap_or_default(), entry.target);
        assert_eq!((read.header().entry_type().as_byte(), read.size()), (kind.flag(), entry.size));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_itself() {
        for length in [0, 80, 90, 91, 92, 93, 980, 990, 9985] {
            let mut text = Vec::new();
            record(&mut text, b"path", &vec![b'x'; length]);
            let said: usize = String::from_utf8_lossy(&text).split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, text.len());
        }
    }

    #[test]
    fn times_before_1970_have_a_sign() {
        assert_eq!(time((0, 0)), "0");
        assert_eq!(time((100, 0)), "100");
        assert_eq!(time((5, 250_000_000)), "5.25");
        assert_eq!(time((-1, 750_000_000)), "-0.25");
        assert_eq!(time((-20, 0)), "-20");
    }
}
