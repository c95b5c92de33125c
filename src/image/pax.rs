//! Extended (pax) headers: `"<length> <key>=<value>\n"`, by length, so that values may hold newlines (binary extended
//! attributes do). Format: POSIX.1-2017, pax interchange format; sparse keys: GNU tar's manual.

use crate::image::error::{Damage, Error};
use crate::image::member::Segment;

/// The most segments that a sparse file may have (16 MiB of memory).
pub const MAX_SEGMENTS: usize = 1 << 20;

/// The records of one extended header that matter here.
#[derive(Debug, Default)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<(i64, u32)>,
    /// Extended attributes, name and value.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// GNU sparse: the real name, the apparent size, the map in the header (versions 0.0 and 0.1).
    pub(crate) sparse_name: Option<Vec<u8>>,
    pub(crate) sparse_size: Option<u64>,
    pub(crate) sparse_map: Option<Vec<Segment>>,
    /// GNU sparse 1.0: the map stands before the data.
    pub(crate) sparse_map_in_data: bool,
}

fn bad() -> Error {
    Error::damaged("an extended header", Damage::ExtendedHeader)
}

fn number(field: &'static str, value: &[u8]) -> Result<u64, Error> {
    decimal(value).ok_or_else(|| Error::damaged("an extended header", Damage::Number(field)))
}

/// A decimal number without sign.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

impl Pax {
    /// Parses one extended header.
    pub(crate) fn parse(mut data: &[u8]) -> Result<Self, Error> {
        let mut pax = Self::default();
        let mut pending_offset = None;
        let (mut major, mut minor) = (None, None);
        while !data.is_empty() {
            // Some writers pad the data with NUL.
            if data[0] == 0 {
                break;
            }
            let space = data.iter().take(20).position(|b| *b == b' ').ok_or_else(bad)?;
            let length = decimal(&data[..space]).and_then(|n| usize::try_from(n).ok()).ok_or_else(bad)?;
            if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
                return Err(bad());
            }
            let record = &data[space + 1..length - 1];
            data = &data[length..];
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => pax.path = Some(value.to_vec()),
                b"linkpath" => pax.link = Some(value.to_vec()),
                b"size" => pax.size = Some(number("size", value)?),
                b"uid" => pax.uid = Some(number("uid", value)?),
                b"gid" => pax.gid = Some(number("gid", value)?),
                b"mtime" => pax.mtime = Some(time(value)?),
                b"GNU.sparse.name" => pax.sparse_name = Some(value.to_vec()),
                b"GNU.sparse.major" => major = Some(number("GNU.sparse.major", value)?),
                b"GNU.sparse.minor" => minor = Some(number("GNU.sparse.minor", value)?),
                b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                    pax.sparse_size = Some(number("GNU.sparse.size", value)?);
                }
                b"GNU.sparse.offset" => pending_offset = Some(number("GNU.sparse.offset", value)?),
                b"GNU.sparse.numbytes" => {
                    let offset = pending_offset.take().ok_or_else(bad)?;
                    let segment = Segment { offset, length: number("GNU.sparse.numbytes", value)? };
                    pax.sparse_map.get_or_insert_default().push(segment);
                }
                b"GNU.sparse.map" => pax.sparse_map = Some(map(value)?),
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        pax.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        match (major, minor) {
            (None, None) => {}
            (Some(1), Some(0)) => pax.sparse_map_in_data = true,
            (Some(0), Some(0 | 1)) => {}
            _ => return Err(Error::damaged("an extended header", Damage::Number("GNU.sparse.major"))),
        }
        Ok(pax)
    }
}

/// `offset,length,offset,length…`
fn map(value: &[u8]) -> Result<Vec<Segment>, Error> {
    let numbers: Option<Vec<u64>> = value.split(|b| *b == b',').map(decimal).collect();
    let numbers = numbers.ok_or_else(bad)?;
    if numbers.len() % 2 != 0 || numbers.len() / 2 > MAX_SEGMENTS {
        return Err(bad());
    }
    Ok(numbers.chunks_exact(2).map(|pair| Segment { offset: pair[0], length: pair[1] }).collect())
}

/// Seconds since 1970 with a fraction, possibly negative.
fn time(value: &[u8]) -> Result<(i64, u32), Error> {
    let parse = || {
        let (negative, value) = value.strip_prefix(b"-").map_or((false, value), |rest| (true, rest));
        let dot = value.iter().position(|b| *b == b'.');
        let (whole, fraction) = dot.map_or((value, &b""[..]), |dot| (&value[..dot], &value[dot + 1..]));
        let seconds = i64::try_from(decimal(whole)?).ok()?;
        let mut nanos = 0_u32;
        for place in 0..9 {
            let digit = fraction.get(place).copied().unwrap_or(b'0');
            if !digit.is_ascii_digit() {
                return None;
            }
            nanos = nanos * 10 + u32::from(digit - b'0');
        }
        Some(match (negative, nanos) {
            (false, _) => (seconds, nanos),
            (true, 0) => (-seconds, 0),
            (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
        })
    };
    parse().ok_or_else(|| Error::damaged("an extended header", Damage::Number("mtime")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
    }

    #[test]
    fn values_may_hold_newlines() {
        let value = b"\n20 path=/etc/shadow\n\0";
        let data = [record("SCHILY.xattr.user.x", value), record("path", b"a"), record("size", b"7")].concat();
        let pax = Pax::parse(&data).unwrap();
        assert_eq!(pax.xattrs, [(b"user.x".to_vec(), value.to_vec())]);
        assert_eq!((pax.path.as_deref(), pax.size), (Some(&b"a"[..]), Some(7)));
    }

    #[test]
    fn malformed_records_are_errors() {
        for bad in ["x", "5 a=b", "9999999 a=b\n", "3 a\n", "-6 a=b\n", "0 a=b\n", "18446744073709551616 a=b\n", "6 a=bc\n"] {
            assert!(Pax::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(Pax::parse(&record("size", b"-1")).is_err());
        assert!(Pax::parse(&record("GNU.sparse.numbytes", b"1")).is_err());
        assert!(Pax::parse(&record("GNU.sparse.map", b"1,2,3")).is_err());
    }

    #[test]
    fn times() {
        assert_eq!(time(b"12").unwrap(), (12, 0));
        assert_eq!(time(b"12.5").unwrap(), (12, 500_000_000));
        assert_eq!(time(b"-1.25").unwrap(), (-2, 750_000_000));
        assert_eq!(time(b"1.1234567891").unwrap(), (1, 123_456_789));
        assert!(time(b"1.x").is_err());
    }
}
