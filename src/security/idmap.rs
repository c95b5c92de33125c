//! Id maps: which ids of the host an unprivileged container gets.

use std::fmt;
use std::path::{Path, PathBuf};

/// A container needs this many ids: those of every distribution's users, `nobody` (65534) included.
pub const MINIMUM: u32 = 65536;

/// A range of the host's ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// First id on the host.
    pub base: u32,
    /// How many.
    pub size: u32,
}

/// The map of one container: its id 0 is `base` of the range outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMap {
    /// User ids.
    pub uid: IdRange,
    /// Group ids.
    pub gid: IdRange,
}

/// Why there is no map.
#[derive(Debug)]
pub enum Error {
    /// The file has no range for root that is large enough.
    NoRange {
        /// `/etc/subuid` or `/etc/subgid`.
        file: PathBuf,
    },
    /// It cannot be read.
    Read {
        /// `/etc/subuid` or `/etc/subgid`.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way_out = "add the line \"root:1000000:1000000000\" to /etc/subuid and to /etc/subgid";
        match self {
            Self::NoRange { file } => write!(
                f,
                "Unprivileged containers need a range of at least {MINIMUM} ids for root, and {} has none: {way_out}",
                file.display()
            ),
            Self::Read { file, error } => {
                write!(
                    f,
                    "Unprivileged containers need a range of ids, but {} cannot be read ({error}): {way_out}",
                    file.display()
                )
            }
        }
    }
}

impl std::error::Error for Error {}

/// The first range of root (by name or number) in the text of a subid file (subuid(5)) that is large enough.
fn range_of_root(text: &str) -> Option<IdRange> {
    text.lines().find_map(|line| {
        let mut parts = line.trim().split(':');
        let (user, base, size) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?.parse::<u64>().ok()?);
        if !matches!(user, "root" | "0") {
            return None;
        }
        // Ids are 32 bits, and the last one means "none".
        let size = size.min(u64::from(u32::MAX - 1).saturating_sub(u64::from(base)));
        let size = u32::try_from(size).ok()?;
        (size >= MINIMUM).then_some(IdRange { base, size })
    })
}

/// Root's range in a subid file.
///
/// # Errors
/// With the line to add, when there is none.
pub fn range_in(file: &Path) -> Result<IdRange, Error> {
    match std::fs::read_to_string(file) {
        Ok(text) => range_of_root(&text).ok_or_else(|| Error::NoRange { file: file.to_owned() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::NoRange { file: file.to_owned() }),
        Err(error) => Err(Error::Read { file: file.to_owned(), error }),
    }
}

impl IdMap {
    /// The map of containers that ask for nothing else: the whole of root's first range.
    ///
    /// # Errors
    /// With the line to add, when there is no range.
    pub fn host_default() -> Result<Self, Error> {
        Ok(Self { uid: range_in(Path::new("/etc/subuid"))?, gid: range_in(Path::new("/etc/subgid"))? })
    }

    /// Values of `lxc.idmap`.
    pub fn lxc_lines(&self) -> Vec<String> {
        vec![format!("u 0 {} {}", self.uid.base, self.uid.size), format!("g 0 {} {}", self.gid.base, self.gid.size)]
    }

    /// Lines of `uid_map` and `gid_map` for an id-mapped mount. With `spare`, one id beyond the container's stands for
    /// root of the host: overlayfs works as the one who mounts, and its upper layer must be able to hold files of his.
    pub fn mount_maps(&self, spare: bool) -> (String, String) {
        let lines = |range: IdRange| {
            let mut text = format!("0 {} {}\n", range.base, range.size);
            if spare {
                text.push_str(&format!("{} 0 1\n", range.size));
            }
            text
        };
        (lines(self.uid), lines(self.gid))
    }

    /// As `volatile.last_state.idmap` tells it.
    pub fn to_json(&self) -> String {
        let entry = |range: IdRange, uid: bool| serde_json::json!({"Isuid": uid, "Isgid": !uid, "Hostid": range.base, "Nsid": 0, "Maprange": range.size});
        serde_json::Value::from(vec![entry(self.uid, true), entry(self.gid, false)]).to_string()
    }
}

/// For [`crate::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(text: &str) {
    if let Some(range) = range_of_root(text) {
        assert!(range.size >= MINIMUM && range.base.checked_add(range.size).is_some_and(|end| end < u32::MAX));
        let map = IdMap { uid: range, gid: range };
        map.mount_maps(true);
        map.lxc_lines();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_large_enough_range_of_root_counts() {
        let text = "me:100000:65536\nroot:5:10\nroot:1000000:1000000000\nroot:7:65536\n";
        assert_eq!(range_of_root(text), Some(IdRange { base: 1_000_000, size: 1_000_000_000 }));
        assert_eq!(range_of_root("0:1:65536"), Some(IdRange { base: 1, size: 65536 }));
        assert_eq!(range_of_root("root:1:65535\nnonsense\nroot:x:y"), None);
        assert_eq!(range_of_root("root:1000000:99999999999").unwrap().size, u32::MAX - 1 - 1_000_000);
    }

    #[test]
    fn the_refusal_says_which_line_to_add() {
        let text = Error::NoRange { file: "/etc/subuid".into() }.to_string();
        assert!(text.contains("root:1000000:1000000000") && text.contains("/etc/subuid"));
    }

    #[test]
    fn a_spare_row_maps_one_more_id_to_root() {
        let range = IdRange { base: 100_000, size: 65536 };
        let (uids, _) = IdMap { uid: range, gid: range }.mount_maps(true);
        assert_eq!(uids, "0 100000 65536\n65536 0 1\n");
    }
}
