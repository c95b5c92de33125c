//! Room of a file system.

use std::io;
use std::path::Path;

/// What statfs(2) tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// Kind of the file system, e.g. `ext4`; its magic number when it is none of the usual ones.
    pub file_system: String,
    /// Bytes that may still be written.
    pub free: u64,
    /// Bytes that nothing uses: those, and what only root may write.
    pub unused: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Room of the file system that `path` lies on.
///
/// # Errors
/// Of statfs(2).
pub fn of(path: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statfs(path)?;
    let block = u64::try_from(stat.f_bsize).unwrap_or(0);
    Ok(Space {
        file_system: name(u64::try_from(stat.f_type).unwrap_or(0)),
        free: stat.f_bavail.saturating_mul(block),
        unused: stat.f_bfree.saturating_mul(block),
        total: stat.f_blocks.saturating_mul(block),
    })
}

/// Numbers of `<linux/magic.h>`, statfs(2), and of file systems outside the kernel.
fn name(magic: u64) -> String {
    let known = match magic {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x2fc1_2fc1 => "zfs",
        0xca45_1a4e => "bcachefs",
        0xf2f5_2010 => "f2fs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlayfs",
        0x6969 => "nfs",
        0x6573_5546 => "fuse",
        0x00c3_6400 => "ceph",
        other => return format!("file system {other:#x}"),
    };
    known.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_has_a_name_and_room() {
        let space = of(Path::new("/")).unwrap();
        assert!(space.total >= space.unused && space.unused >= space.free && space.total > 0);
        assert!(of(Path::new("/nosuch")).is_err());
        assert_eq!(name(0xef53), "ext4");
        assert_eq!(name(0x12), "file system 0x12");
    }
}
