//! What file system lies on a device or in a file, as far as pools need to know it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// Where btrfs keeps its first superblock and its copies, and where in it the UUID and the magic word lie
/// (`struct btrfs_super_block`).
const BTRFS: [u64; 3] = [0x1_0000, 0x400_0000, 0x40_0000_0000];
const BTRFS_UUID: u64 = 0x20;
const BTRFS_MAGIC: (u64, &[u8; 8]) = (0x40, b"_BHRfS_M");
/// `XFS_SB_MAGIC`.
const XFS_MAGIC: &[u8; 4] = b"XFSB";

/// A kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// btrfs.
    Btrfs,
    /// xfs.
    Xfs,
}

impl Kind {
    /// The kernel's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Btrfs => "btrfs",
            Self::Xfs => "xfs",
        }
    }
}

/// Which of them lies there.
///
/// # Errors
/// When it cannot be read.
pub fn kind_of(path: &Path) -> io::Result<Option<Kind>> {
    let file = File::open(path)?;
    if btrfs_of(&file)?.is_some() {
        return Ok(Some(Kind::Btrfs));
    }
    let mut magic = [0; 4];
    match file.read_exact_at(&mut magic, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    Ok((magic == *XFS_MAGIC).then_some(Kind::Xfs))
}

fn btrfs_of(file: &File) -> io::Result<Option<Uuid>> {
    let (mut magic, mut uuid) = ([0; 8], [0; 16]);
    let [first, ..] = BTRFS;
    let read = file
        .read_exact_at(&mut magic, first + BTRFS_MAGIC.0)
        .and_then(|()| file.read_exact_at(&mut uuid, first + BTRFS_UUID));
    match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok((magic == *BTRFS_MAGIC.1).then(|| Uuid::from_bytes(uuid))),
    }
}

/// The UUID of the btrfs there.
///
/// # Errors
/// When it cannot be read.
pub fn btrfs_uuid(path: &Path) -> io::Result<Option<Uuid>> {
    btrfs_of(&File::open(path)?)
}

/// Makes a btrfs that is not mounted unknown to everybody: the magic word of each superblock goes.
///
/// # Errors
/// When it cannot be written.
pub fn forget_btrfs(path: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    for place in BTRFS {
        let mut magic = [0; 8];
        match file.read_exact_at(&mut magic, place + BTRFS_MAGIC.0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            result => result?,
        }
        if magic == *BTRFS_MAGIC.1 {
            file.write_all_at(&[0; 8], place + BTRFS_MAGIC.0)?;
        }
    }
    file.sync_all()
}

/// The block device with the btrfs of this UUID: by udev's link, else `likely`, else whichever of all has it.
pub fn find_btrfs(uuid: Uuid, likely: Option<&Path>) -> Option<PathBuf> {
    let has = |path: &Path| btrfs_uuid(path).is_ok_and(|found| found == Some(uuid));
    let link = PathBuf::from(format!("/dev/disk/by-uuid/{uuid}"));
    if let Some(device) = std::fs::canonicalize(&link).ok().filter(|path| has(path)) {
        return Some(device);
    }
    if let Some(likely) = likely.filter(|path| has(path)) {
        return Some(likely.to_owned());
    }
    let all = std::fs::read_dir("/sys/class/block").ok()?;
    let mut devices = all.flatten().map(|entry| Path::new("/dev").join(entry.file_name()));
    devices.find(|path| has(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_known_and_forgotten() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("disk");
        let file = File::create(&path).unwrap();
        assert_eq!(kind_of(&path).unwrap(), None);
        file.set_len(70 << 20).unwrap();
        assert_eq!(kind_of(&path).unwrap(), None);
        let uuid = Uuid::new_v4();
        for place in [BTRFS[0], BTRFS[1]] {
            file.write_all_at(BTRFS_MAGIC.1, place + BTRFS_MAGIC.0).unwrap();
            file.write_all_at(uuid.as_bytes(), place + BTRFS_UUID).unwrap();
        }
        assert_eq!((kind_of(&path).unwrap(), btrfs_uuid(&path).unwrap()), (Some(Kind::Btrfs), Some(uuid)));
        assert_eq!(find_btrfs(uuid, Some(&path)), Some(path.clone()));
        forget_btrfs(&path).unwrap();
        assert_eq!(kind_of(&path).unwrap(), None);
        assert_eq!(find_btrfs(uuid, Some(&path)), None);
        file.write_all_at(XFS_MAGIC, 0).unwrap();
        assert_eq!(kind_of(&path).unwrap(), Some(Kind::Xfs));
    }
}
