//! Where a file has ids: its owner, its POSIX ACLs (acl(5); as extended attributes, linux/posix_acl_xattr.h), and who is
//! root for its capabilities (capabilities(7), "File capability extended attribute versioning"; linux/capability.h).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Ids, users' and groups'.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Users.
    pub uid: BTreeSet<u32>,
    /// Groups.
    pub gid: BTreeSet<u32>,
}

/// What becomes of which id; one that is not there stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Users.
    pub uid: BTreeMap<u32, u32>,
    /// Groups.
    pub gid: BTreeMap<u32, u32>,
}

impl Table {
    /// What becomes of a user's id.
    pub fn user(&self, id: u32) -> u32 {
        self.uid.get(&id).copied().unwrap_or(id)
    }

    /// What becomes of a group's id.
    pub fn group(&self, id: u32) -> u32 {
        self.gid.get(&id).copied().unwrap_or(id)
    }
}

/// The attribute with a file's capabilities.
pub const CAPABILITY: &str = "security.capability";
/// Of access and of what is made in a directory.
pub const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

const ACL_HEADER: usize = 4;
const ACL_ENTRY: usize = 8;
const ACL_USER: u16 = 0x02;
const ACL_GROUP: u16 = 0x08;

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Calls `work` with each id of an ACL, whether it is a user's, and where it stands.
fn acl_ids(value: &[u8], mut work: impl FnMut(bool, u32, usize)) {
    let mut at = ACL_HEADER;
    while let (Some(head), Some(id)) = (word(value, at), word(value, at + 4)) {
        // The tag is the first half of the head.
        let tag = u16::try_from(head & 0xffff).unwrap_or(0);
        if tag == ACL_USER || tag == ACL_GROUP {
            work(tag == ACL_USER, id, at + 4);
        }
        at += ACL_ENTRY;
    }
}

/// Adds the ids of an ACL.
pub fn acl_seen(value: &[u8], seen: &mut Seen) {
    acl_ids(value, |user, id, _| {
        if user {
            seen.uid.insert(id)
        } else {
            seen.gid.insert(id)
        };
    });
}

/// The ACL with what `user` and `group` make of its ids; `None`: nothing changes.
pub fn acl_shifted(value: &[u8], user: impl Fn(u32) -> u32, group: impl Fn(u32) -> u32) -> Option<Vec<u8>> {
    let mut new = value.to_vec();
    acl_ids(value, |is_user, id, at| {
        let id = if is_user { user(id) } else { group(id) };
        if let Some(place) = new.get_mut(at..at + 4) {
            place.copy_from_slice(&id.to_le_bytes());
        }
    });
    (new != value).then_some(new)
}

const REVISION: u32 = 0xff00_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;
const SIZE_2: usize = 20;

/// Who is root for these capabilities: without a word about it, root of the file system.
pub fn capability_root(value: &[u8]) -> Option<u32> {
    match word(value, 0)? & REVISION {
        REVISION_2 => Some(0),
        REVISION_3 => word(value, SIZE_2),
        _ => None,
    }
}

/// The same capabilities, for what `user` makes of their root. One of a form that is not known stays as it is.
pub fn capability_shifted(value: &[u8], user: impl Fn(u32) -> u32) -> Vec<u8> {
    let (Some(root), Some(magic)) = (capability_root(value), word(value, 0)) else { return value.to_vec() };
    let root = user(root);
    let revision = if root == 0 { REVISION_2 } else { REVISION_3 };
    let mut new = ((magic & !REVISION) | revision).to_le_bytes().to_vec();
    new.extend(value.get(4..SIZE_2).unwrap_or_default());
    if root != 0 {
        new.extend(root.to_le_bytes());
    }
    new
}
