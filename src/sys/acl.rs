//! Access lists of files (acl(5)), as far as a socket needs them: groups that may connect beside its own.
//!
//! Source of the format: `linux/posix_acl_xattr.h`; it is little-endian everywhere.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

const NAME: &str = "system.posix_acl_access";
const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
/// Of an entry that is of nobody in particular.
const NO_ID: u32 = u32::MAX;
const READ_WRITE: u16 = 6;

/// Lets members of `groups` read and write, beside whom the permission bits `mode` let.
///
/// # Errors
/// `Unsupported` where the file system keeps no access lists.
pub fn open_to(path: &Path, mode: u32, groups: &BTreeSet<u32>) -> io::Result<()> {
    if groups.is_empty() {
        return match rustix::fs::removexattr(path, NAME) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        };
    }
    Ok(rustix::fs::setxattr(path, NAME, &list(mode, groups), XattrFlags::empty())?)
}

fn list(mode: u32, groups: &BTreeSet<u32>) -> Vec<u8> {
    let bits = |shift: u32| u16::try_from(mode >> shift & 7).unwrap_or(0);
    let mut entries = vec![(USER_OBJ, bits(6), NO_ID), (GROUP_OBJ, bits(3), NO_ID)];
    entries.extend(groups.iter().map(|group| (GROUP, READ_WRITE, *group)));
    entries.extend([(MASK, READ_WRITE | bits(3), NO_ID), (OTHER, bits(0), NO_ID)]);
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_list_comes_and_goes() {
        // On the disk: not every kernel keeps lists in memory.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).unwrap();
        for groups in [BTreeSet::from([4000, 5000]), BTreeSet::from([6000])] {
            open_to(&path, 0o660, &groups).unwrap();
            let mut found = [0; 128];
            let length = rustix::fs::getxattr(&path, NAME, &mut found).unwrap();
            assert_eq!(length, 4 + 8 * (4 + groups.len()));
            assert_eq!(found[..length], list(0o660, &groups));
        }
        for _ in 0..2 {
            open_to(&path, 0o660, &BTreeSet::new()).unwrap();
            assert!(rustix::fs::getxattr(&path, NAME, &mut [0; 128]).is_err());
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    }
}
