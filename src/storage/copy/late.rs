//! What directories of a copy get at the end, and where they lie.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::Timestamps;

/// What a directory gets when all is in it that belongs there: its times change until then, and files would inherit its
/// default ACL (acl(5)). Where it lies is told by those above it: of a deep tree whole paths would be more than there is
/// memory for.
pub(super) struct Late {
    /// The hash of the path of the one above.
    pub(super) above: u64,
    pub(super) name: OsString,
    pub(super) times: Timestamps,
    pub(super) default_acl: Option<Vec<u8>>,
}

/// A name, in the directory whose path has this hash.
pub(super) type Name = (u64, OsString);

/// By it a directory is known. Nobody outside can make two paths that have the same.
pub(super) fn hash(path: &Path) -> u64 {
    static KEYS: OnceLock<RandomState> = OnceLock::new();
    KEYS.get_or_init(RandomState::new).hash_one(path.as_os_str().as_bytes())
}

/// The path of a directory that was seen.
pub(super) fn path_of(late: &BTreeMap<u64, Late>, mut number: u64) -> Option<PathBuf> {
    let (root, mut names) = (hash(Path::new("")), Vec::new());
    while number != root {
        let found = late.get(&number)?;
        names.push(&*found.name);
        number = found.above;
    }
    Some(names.into_iter().rev().collect())
}

/// The hash of the directory that a path lies in.
pub(super) fn above(below: &Path) -> u64 {
    hash(below.parent().unwrap_or(Path::new("")))
}
