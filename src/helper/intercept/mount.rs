//! mount(2) of a file system on a block device.
//!
//! The device is opened once by a child that is the caller and in its control groups: both the caller's rights and the
//! container's device rules have been asked. What is mounted then is that device, on the directory that was found.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use super::{Caller, Outcome, PATH, as_child, fuse, read_file};
use crate::sys::cgroup::{Groups, Hierarchies};
use crate::sys::mount::{self, Attributes};
use crate::sys::notify::{Notice, Verdict};

/// What the container may mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPolicy {
    /// File systems by the kernel's names.
    pub allowed: Vec<String>,
    /// File systems, each with the program of the container that serves it instead of the kernel.
    pub fuse: Vec<(String, String)>,
    /// Their ids are the container's.
    pub shift: bool,
}

/// `MS_*` that do not mount a file system (mount(2)): these continue.
const OTHERS: libc::c_ulong = libc::MS_REMOUNT
    | libc::MS_BIND
    | libc::MS_MOVE
    | libc::MS_SHARED
    | libc::MS_PRIVATE
    | libc::MS_SLAVE
    | libc::MS_UNBINDABLE;
/// Options of the superblock that mount(2) passes as flags.
const OF_SUPERBLOCK: &[(libc::c_ulong, &str)] =
    &[(libc::MS_RDONLY, "ro"), (libc::MS_SYNCHRONOUS, "sync"), (libc::MS_DIRSYNC, "dirsync")];
/// Options of the mount.
const OF_MOUNT: &[(libc::c_ulong, &str)] = &[
    (libc::MS_RDONLY, "ro"),
    (libc::MS_NOEXEC, "noexec"),
    (libc::MS_NODIRATIME, "nodiratime"),
    (libc::MS_STRICTATIME, "strictatime"),
    (libc::MS_NOATIME, "noatime"),
];

/// File systems that are never written. Others may write when they are mounted read-only, too: what their journal says.
const NEVER_WRITTEN: &[&str] = &["cramfs", "erofs", "iso9660", "romfs", "squashfs"];

/// Options that name no file, device, host id or quota and end nothing but the mount (ext4(5), xfs(5), btrfs(5)).
const EXT: &[&str] = &[
    "acl",
    "noacl",
    "user_xattr",
    "nouser_xattr",
    "barrier",
    "nobarrier",
    "commit",
    "data",
    "delalloc",
    "nodelalloc",
    "discard",
    "nodiscard",
    "grpid",
    "nogrpid",
    "noload",
    "norecovery",
];
const XFS: &[&str] = &[
    "allocsize",
    "discard",
    "nodiscard",
    "inode32",
    "inode64",
    "largeio",
    "nolargeio",
    "norecovery",
    "nouuid",
    "noquota",
];
const BTRFS: &[&str] = &[
    "acl",
    "noacl",
    "autodefrag",
    "noautodefrag",
    "barrier",
    "nobarrier",
    "commit",
    "compress",
    "compress-force",
    "datacow",
    "nodatacow",
    "datasum",
    "nodatasum",
    "discard",
    "nodiscard",
    "flushoncommit",
    "ssd",
    "nossd",
    "subvol",
    "subvolid",
];

/// The options in `data`, each with its value; `None` when one is not to be passed on.
fn options(fstype: &str, data: &str) -> Option<Vec<(String, Option<String>)>> {
    let known = match fstype {
        "ext2" | "ext3" | "ext4" => EXT,
        "xfs" => XFS,
        "btrfs" => BTRFS,
        _ => &[],
    };
    let mut found = Vec::new();
    for option in data.split(',').filter(|option| !option.is_empty() && *option != "defaults") {
        let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        if !known.contains(&name) {
            return None;
        }
        found.push((name.to_owned(), value.map(str::to_owned)));
    }
    if fstype.starts_with("ext") {
        // The disk itself may say that an error in it is to end the host.
        found.push(("errors".to_owned(), Some("remount-ro".to_owned())));
    }
    Some(found)
}

/// Whether the kernel says that this file system needs no device (proc_filesystems(5)).
fn is_of_no_device(fstype: &str) -> bool {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    known.lines().any(|line| line.split_whitespace().eq(["nodev", fstype]))
}

/// What a device in /dev is called there; others have no name of their own.
fn name_of(source: &[u8]) -> &str {
    let name = source.strip_prefix(b"/dev/").and_then(|name| std::str::from_utf8(name).ok());
    name.filter(|name| !matches!(*name, "" | "." | "..") && !name.contains('/')).unwrap_or("block")
}

pub(super) fn filesystem(
    caller: &Caller<'_>,
    policy: &MountPolicy,
    notice: &Notice,
    waits: impl Fn() -> Result<(), Errno>,
) -> Outcome {
    let [source, target, fstype, flags, data, _] = notice.arguments;
    if flags & OTHERS != 0 || source == 0 || fstype == 0 || !caller.capabilities.contains(CapabilitySet::SYS_ADMIN) {
        return Ok(Verdict::Continue);
    }
    let fstype = String::from_utf8(caller.text(fstype, PATH, Errno::INVAL)?).map_err(|_| Errno::NODEV)?;
    let program = policy.fuse.iter().find(|(name, _)| *name == fstype).map(|(_, program)| program);
    if program.is_none() && (!policy.allowed.contains(&fstype) || is_of_no_device(&fstype)) {
        return Ok(Verdict::Continue);
    }
    let source = caller.text(source, PATH, Errno::NAMETOOLONG)?;
    let target = caller.text(target, PATH, Errno::NAMETOOLONG)?;
    let data = if data == 0 { Vec::new() } else { caller.text(data, PATH, Errno::INVAL)? };
    let data = String::from_utf8(data).map_err(|_| Errno::INVAL)?;
    if let Some(program) = program {
        return fuse::serve(caller, notice, &fuse::Mount { program, source, target, flags, data }, waits);
    }
    let mut options = options(&fstype, &data).ok_or(Errno::PERM)?;
    for (_, name) in OF_SUPERBLOCK.iter().filter(|(flag, _)| flags & flag != 0) {
        options.push(((*name).to_owned(), None));
    }
    let mut attributes = Attributes::default();
    for name in ["nosuid", "nodev"] {
        attributes.add(name);
    }
    for (_, name) in OF_MOUNT.iter().filter(|(flag, _)| flags & flag != 0) {
        attributes.add(name);
    }
    let namespace = rustix::fs::openat(caller.proc, "ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let base = |path: &[u8]| caller.open(if path.starts_with(b"/") { "root" } else { "cwd" });
    let (from, to) = (base(&source)?, base(&target)?);
    let groups = Groups::parse(&read_file(caller.proc, "cgroup")?);
    let writable = flags & libc::MS_RDONLY == 0 || !NEVER_WRITTEN.contains(&fstype.as_str());
    let device = device(caller, &from, &source, writable, &groups, &waits)?;
    let Some(device) = device else { return Ok(Verdict::Continue) };
    let place = as_child(caller, &to, &waits, || {
        rustix::fs::open(&target[..], OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    })?;
    let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    // Named as the caller does, as that is what is shown of it, where this name means nothing else.
    let path = mount::only_device(name_of(&source), device).map_err(failed)?;
    let made = mount::of_device(&fstype, &path, &options).map_err(failed)?;
    mount::set_options(&made, attributes).map_err(failed)?;
    if policy.shift {
        mount::map_ids(&made, &caller.users).map_err(failed)?;
    }
    mount::enter_namespace(&namespace).map_err(failed)?;
    mount::attach_at(&made, &place).map_err(failed)?;
    Ok(Verdict::Done)
}

/// The number of a block device that the caller may open, to be written when `writable`; `None` when it is none.
fn device(
    caller: &Caller<'_>,
    base: &OwnedFd,
    path: &[u8],
    writable: bool,
    groups: &Groups,
    waits: &impl Fn() -> Result<(), Errno>,
) -> Result<Option<u64>, Errno> {
    let hierarchies = Hierarchies::of_host().ok_or(Errno::PERM)?;
    let (_, group) = hierarchies.dir(groups, "devices").ok_or(Errno::PERM)?;
    // Before the child's root is the container's.
    let group = rustix::fs::open(&group, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let members = rustix::fs::openat(&group, "cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    let number = |fd: &OwnedFd| {
        let stat = rustix::fs::fstat(fd)?;
        let is_block = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
        Ok::<_, Errno>(is_block.then_some(stat.st_rdev))
    };
    let found = super::in_group(caller, base, Some(members.as_fd()), waits, || {
        let found = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let Some(expected) = number(&found)? else { return Ok(found) };
        let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty())?;
        if number(&opened)? == Some(expected) { Ok(found) } else { Err(Errno::NXIO) }
    })?;
    number(&found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_reach_further_are_refused() {
        let names = |list: Vec<(String, Option<String>)>| list.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(options("ext4", "noload,data=ordered").map(names).unwrap(), ["noload", "data", "errors"]);
        assert_eq!(options("vfat", ""), Some(Vec::new()));
        for bad in ["journal_path=/dev/sda", "journal_dev=8", "usrjquota=x", "errors=panic", "resuid=0", "x"] {
            assert_eq!(options("ext4", bad), None, "{bad}");
        }
        for (fstype, bad) in [("xfs", "logdev=/dev/sda"), ("btrfs", "device=/dev/sda"), ("vfat", "uid=0")] {
            assert_eq!(options(fstype, bad), None, "{bad}");
        }
    }
}
