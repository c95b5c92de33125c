//! Subvolumes, snapshots and quota groups of btrfs. Numbers and layouts: linux/btrfs.h, linux/btrfs_tree.h.
//!
//! A subvolume is a directory whose inode has the number 256; its own number is that of the tree that its files are in.
//! In a snapshot each subvolume that lay below is an empty directory.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::ioctl::{Argument, Direction, number, on_bytes, on_value};

/// `BTRFS_SUPER_MAGIC` (linux/magic.h).
pub const MAGIC: u64 = 0x9123_683e;
const KIND: u8 = 0x94;
/// `struct btrfs_ioctl_vol_args` and `_v2`.
const ARGS: usize = 4096;
const RESIZE: u32 = number(Direction::Write, KIND, 3, ARGS);
const SYNC: u32 = number(Direction::None, KIND, 8, 0);
const TREE_SEARCH: u32 = number(Direction::Both, KIND, 17, ARGS);
const INO_LOOKUP: u32 = number(Direction::Both, KIND, 18, ARGS);
const SNAP_CREATE_V2: u32 = number(Direction::Write, KIND, 23, ARGS);
const SUBVOL_CREATE_V2: u32 = number(Direction::Write, KIND, 24, ARGS);
const SUBVOL_GETFLAGS: u32 = number(Direction::Read, KIND, 25, 8);
const SUBVOL_SETFLAGS: u32 = number(Direction::Write, KIND, 26, 8);
const QUOTA_CTL: u32 = number(Direction::Both, KIND, 40, 16);
const QGROUP_LIMIT: u32 = number(Direction::Read, KIND, 43, 48);
const QUOTA_RESCAN: u32 = number(Direction::Write, KIND, 44, 64);
const SNAP_DESTROY_V2: u32 = number(Direction::Write, KIND, 63, ARGS);

/// `BTRFS_SUBVOL_RDONLY`.
const READ_ONLY: u64 = 1 << 1;
/// `BTRFS_SUBVOL_SPEC_BY_ID`.
const BY_ID: u64 = 1 << 4;
/// Where the flags, and a name or number, lie in `struct btrfs_ioctl_vol_args_v2`.
const FLAGS_AT: usize = 16;
const NAME_AT: usize = 56;
/// `BTRFS_SUBVOL_NAME_MAX` is longer than any name of a file.
const LONGEST: usize = 255;
/// `BTRFS_FIRST_FREE_OBJECTID`: the number of a subvolume's own inode.
const ROOT_INODE: u64 = 256;
const ROOT_TREE: u64 = 1;
const QUOTA_TREE: u64 = 8;
const ROOT_REF: u32 = 156;
const QGROUP_STATUS: u32 = 240;
const QGROUP_INFO: u32 = 242;
const QGROUP_LIMITS: u32 = 244;
/// `struct btrfs_ioctl_search_key`, and the head of each item found.
const SEARCH_KEY: usize = 104;
const SEARCH_HEAD: usize = 32;

/// The number of a subvolume.
pub type SubvolumeId = u64;

/// A subvolume right below another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Its number.
    pub id: SubvolumeId,
    /// The inode of the directory that it lies in, in the one above.
    pub directory: u64,
    /// Its name there.
    pub name: OsString,
}

/// Opens a directory, no link, for what is done to it.
///
/// # Errors
/// Of open(2).
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// The same from a directory.
///
/// # Errors
/// Of openat(2).
pub fn open_in(directory: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, path, flags, Mode::empty())?)
}

/// Whether the file system of `path` is btrfs.
pub fn is_here(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| u64::try_from(stat.f_type).is_ok_and(|magic| magic == MAGIC))
}

/// Whether the directory is a subvolume's own.
///
/// # Errors
/// Of fstat(2).
pub fn is_subvolume(directory: impl AsFd) -> io::Result<bool> {
    let stat = rustix::fs::fstat(&directory)?;
    let magic = u64::try_from(rustix::fs::fstatfs(&directory)?.f_type).unwrap_or(0);
    Ok(stat.st_ino == ROOT_INODE && magic == MAGIC)
}

fn named(name: &OsStr) -> io::Result<Argument<ARGS>> {
    if name.is_empty() || name.len() > LONGEST || name.as_bytes().contains(&b'/') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(Argument::new().bytes(NAME_AT, name.as_bytes()))
}

/// Makes an empty subvolume in the directory `parent`.
///
/// # Errors
/// That of the kernel.
pub fn create(parent: impl AsFd, name: &OsStr) -> io::Result<()> {
    on_bytes(parent, SUBVOL_CREATE_V2, &mut named(name)?.0).map(drop)
}

/// Makes a snapshot of the subvolume `of` in the directory `parent`, without the subvolumes below it; it can be written.
///
/// # Errors
/// That of the kernel.
pub fn snapshot(of: impl AsFd, parent: impl AsFd, name: &OsStr) -> io::Result<()> {
    snapshot_with(of, parent, name, 0)
}

/// The same, read-only from the beginning.
///
/// # Errors
/// That of the kernel.
pub fn snapshot_sealed(of: impl AsFd, parent: impl AsFd, name: &OsStr) -> io::Result<()> {
    snapshot_with(of, parent, name, READ_ONLY)
}

fn snapshot_with(of: impl AsFd, parent: impl AsFd, name: &OsStr, flags: u64) -> io::Result<()> {
    let of = i64::from(of.as_fd().as_raw_fd());
    let mut argument = named(name)?.bytes(0, &of.to_ne_bytes()).long(FLAGS_AT, flags);
    on_bytes(parent, SNAP_CREATE_V2, &mut argument.0).map(drop)
}

/// Whether nothing can be written to a subvolume.
///
/// # Errors
/// That of the kernel.
pub fn is_read_only(subvolume: impl AsFd) -> io::Result<bool> {
    let mut flags = Argument::<8>::new();
    on_bytes(subvolume, SUBVOL_GETFLAGS, &mut flags.0)?;
    Ok(flags.long_at(0) & READ_ONLY != 0)
}

/// Lets nobody, or somebody again, write to a subvolume.
///
/// # Errors
/// That of the kernel.
pub fn set_read_only(subvolume: impl AsFd, read_only: bool) -> io::Result<()> {
    let mut flags = Argument::<8>::new();
    on_bytes(&subvolume, SUBVOL_GETFLAGS, &mut flags.0)?;
    let old = flags.long_at(0);
    let new = if read_only { old | READ_ONLY } else { old & !READ_ONLY };
    if new == old {
        return Ok(());
    }
    on_bytes(subvolume, SUBVOL_SETFLAGS, &mut flags.long(0, new).0).map(drop)
}

fn lookup(directory: impl AsFd, tree: u64, inode: u64) -> io::Result<Argument<ARGS>> {
    let mut argument = Argument::<ARGS>::new().long(0, tree).long(8, inode);
    on_bytes(directory, INO_LOOKUP, &mut argument.0)?;
    Ok(argument)
}

/// The number of the subvolume that a directory belongs to.
///
/// # Errors
/// That of the kernel.
pub fn id(directory: impl AsFd) -> io::Result<SubvolumeId> {
    Ok(lookup(directory, 0, ROOT_INODE)?.long_at(0))
}

/// Where the directory `inode` lies below the root of the subvolume that `directory` belongs to.
///
/// # Errors
/// That of the kernel; `NotFound` when it is gone.
pub fn path_of(directory: impl AsFd, inode: u64) -> io::Result<PathBuf> {
    if inode == ROOT_INODE {
        return Ok(PathBuf::new());
    }
    let found = lookup(directory, 0, inode)?;
    let name = found.0.get(16..).unwrap_or_default();
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    let path = name.get(..end).unwrap_or_default();
    // It ends with a slash.
    let path = path.strip_suffix(b"/").unwrap_or(path);
    Ok(PathBuf::from(OsString::from_vec(path.to_vec())))
}

/// What a search finds: the offset of the key, and the item.
type Found = Vec<(u64, Vec<u8>)>;

/// All items of one kind of an object in a tree, by the offset of their key, from one to another.
fn search(directory: impl AsFd, tree: u64, object: u64, kind: u32, offsets: (u64, u64)) -> io::Result<Found> {
    let (mut found, (mut from, to)) = (Vec::new(), offsets);
    loop {
        let mut argument = Argument::<ARGS>::new()
            .long(0, tree)
            .long(8, object)
            .long(16, object)
            .long(24, from)
            .long(32, to)
            .long(48, u64::MAX)
            .word(56, kind)
            .word(60, kind)
            .word(64, u32::MAX);
        on_bytes(&directory, TREE_SEARCH, &mut argument.0)?;
        let count = argument.word_at(64);
        let mut at = SEARCH_KEY;
        let mut last = None;
        for _ in 0..count {
            let (offset, length) = (argument.long_at(at + 16), argument.word_at(at + 28) as usize);
            let start = at + SEARCH_HEAD;
            let Some(item) = argument.0.get(start..start + length) else { break };
            found.push((offset, item.to_vec()));
            last = Some(offset);
            at = start + length;
        }
        match last.and_then(|last| last.checked_add(1)) {
            Some(next) if next <= to => from = next,
            _ => return Ok(found),
        }
    }
}

fn little(item: &[u8], at: usize) -> u64 {
    item.get(at..).and_then(|rest| rest.first_chunk::<8>()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The subvolumes right below the one of `directory`, wherever in it. `CAP_SYS_ADMIN`.
///
/// # Errors
/// That of the kernel.
pub fn children(directory: impl AsFd) -> io::Result<Vec<Child>> {
    let parent = id(&directory)?;
    let found = search(&directory, ROOT_TREE, parent, ROOT_REF, (0, u64::MAX))?;
    // struct btrfs_root_ref: the directory, a sequence, the length of the name, the name.
    Ok(found
        .into_iter()
        .filter_map(|(id, item)| {
            let length = u16::from_le_bytes(*item.get(16..)?.first_chunk()?);
            let name = item.get(18..18 + usize::from(length))?;
            Some(Child { id, directory: little(&item, 0), name: OsString::from_vec(name.to_vec()) })
        })
        .collect())
}

/// Deletes a subvolume by its number; it has none below it, and what it lies in can be written. Its space comes free
/// later. Kernel 5.7.
///
/// # Errors
/// That of the kernel.
pub fn destroy(anywhere: impl AsFd, id: SubvolumeId) -> io::Result<()> {
    let mut argument = Argument::<ARGS>::new().long(FLAGS_AT, BY_ID).long(NAME_AT, id);
    on_bytes(anywhere, SNAP_DESTROY_V2, &mut argument.0).map(drop)
}

/// Makes the file system as large as its device is by now.
///
/// # Errors
/// That of the kernel.
pub fn grow(mounted: impl AsFd) -> io::Result<()> {
    // struct btrfs_ioctl_vol_args: a descriptor, then the name.
    on_bytes(mounted, RESIZE, &mut Argument::<ARGS>::new().bytes(8, b"max").0).map(drop)
}

/// Writes out all that there is.
///
/// # Errors
/// That of the kernel.
pub fn sync(mounted: impl AsFd) -> io::Result<()> {
    on_value(mounted, SYNC, 0).map(drop)
}

/// What the quota group of a subvolume says, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// What it has, shared or not.
    pub referenced: u64,
    /// What nothing else has.
    pub exclusive: u64,
    /// What it may have at most, shared or not.
    pub limit: Option<u64>,
}

/// How it stands with quota groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quotas {
    /// What there is is being counted.
    pub counting: bool,
    /// The figures are not right.
    pub inconsistent: bool,
}

/// Whether quota groups are kept; `None`: no.
///
/// # Errors
/// That of the kernel.
pub fn quotas(mounted: impl AsFd) -> io::Result<Option<Quotas>> {
    let found = match search(mounted, QUOTA_TREE, 0, QGROUP_STATUS, (0, 0)) {
        // There is no such tree.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found?,
    };
    // struct btrfs_qgroup_status_item: version, generation, flags (bit 1: rescan, bit 2: inconsistent).
    Ok(found.first().map(|(_, item)| {
        let flags = little(item, 16);
        Quotas { counting: flags & 2 != 0, inconsistent: flags & 4 != 0 }
    }))
}

/// Keeps quota groups from now on: one for each subvolume. The kernel begins to count what is there already.
///
/// # Errors
/// That of the kernel.
pub fn enable_quotas(mounted: impl AsFd) -> io::Result<()> {
    // BTRFS_QUOTA_CTL_ENABLE.
    on_bytes(mounted, QUOTA_CTL, &mut Argument::<16>::new().long(0, 1).0).map(drop)
}

/// Has the kernel count everything anew, behind the caller, when it has lost count.
///
/// # Errors
/// That of the kernel.
pub fn recount(mounted: impl AsFd) -> io::Result<()> {
    match on_bytes(&mounted, QUOTA_RESCAN, &mut Argument::<64>::new().0) {
        // It is at it.
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        result => result.map(drop),
    }
}

/// What a subvolume uses, as of the last commit (30 s at most); `None`: there is no group of it. No file is looked at.
///
/// # Errors
/// That of the kernel.
pub fn usage(mounted: impl AsFd, id: SubvolumeId) -> io::Result<Option<Usage>> {
    let of = |kind| -> io::Result<Option<Vec<u8>>> {
        match search(&mounted, QUOTA_TREE, 0, kind, (id, id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            found => Ok(found?.into_iter().next().map(|(_, item)| item)),
        }
    };
    let Some(info) = of(QGROUP_INFO)? else { return Ok(None) };
    // struct btrfs_qgroup_limit_item: flags, of which bit 0 is that there is the limit behind them.
    let limit = of(QGROUP_LIMITS)?.filter(|item| little(item, 0) & 1 != 0).map(|item| little(&item, 8));
    Ok(Some(Usage { referenced: little(&info, 8), exclusive: little(&info, 24), limit }))
}

/// Sets how much a subvolume may have at most, bytes; `None`: as much as there is.
///
/// # Errors
/// That of the kernel; `NotFound` without quota groups.
pub fn limit(mounted: impl AsFd, id: SubvolumeId, bytes: Option<u64>) -> io::Result<()> {
    // The flag says that the value is set; all ones take the limit away.
    let mut argument = Argument::<48>::new().long(0, id).long(8, 1).long(16, bytes.unwrap_or(u64::MAX));
    on_bytes(mounted, QGROUP_LIMIT, &mut argument.0).map(drop)
}
