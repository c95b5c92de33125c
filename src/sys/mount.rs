//! Mounts by the new mount API: clones, id maps, overlays; squashfs by a loop device through mount(8).
#![allow(unsafe_code, reason = "mount_setattr(2) has no safe interface")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::CWD;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

/// A detached copy of the mount of the directory at `path`, without what is mounted below it.
///
/// # Errors
/// Of open_tree(2).
pub fn clone_of(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::mount::open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?)
}

fn set_attributes(mount: impl AsFd, attributes: &libc::mount_attr, recursive: bool) -> io::Result<()> {
    let below = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the fd is open, the path is the empty string, the structure is whole and its size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | below,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A detached copy of the mount at what `place` stands for (a file or a directory), with what is mounted below it when
/// `recursive`.
///
/// # Errors
/// Of open_tree(2).
pub fn clone_at(place: impl AsFd, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(place, "", flags)?)
}

/// Options of a mount that are its own, not its file system's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    set: u64,
    clear: u64,
}

impl Attributes {
    /// Adds an option by its name (mount(8), FILESYSTEM-INDEPENDENT MOUNT OPTIONS); false when it is none of these.
    pub fn add(&mut self, option: &str) -> bool {
        let (set, clear) = match option {
            "ro" => (libc::MOUNT_ATTR_RDONLY, 0),
            "rw" => (0, libc::MOUNT_ATTR_RDONLY),
            "nosuid" => (libc::MOUNT_ATTR_NOSUID, 0),
            "suid" => (0, libc::MOUNT_ATTR_NOSUID),
            "nodev" => (libc::MOUNT_ATTR_NODEV, 0),
            "dev" => (0, libc::MOUNT_ATTR_NODEV),
            "noexec" => (libc::MOUNT_ATTR_NOEXEC, 0),
            "exec" => (0, libc::MOUNT_ATTR_NOEXEC),
            "nodiratime" => (libc::MOUNT_ATTR_NODIRATIME, 0),
            "diratime" => (0, libc::MOUNT_ATTR_NODIRATIME),
            // Whoever sets one of these must clear the others (mount_setattr(2)).
            "noatime" => (libc::MOUNT_ATTR_NOATIME, libc::MOUNT_ATTR__ATIME),
            "strictatime" => (libc::MOUNT_ATTR_STRICTATIME, libc::MOUNT_ATTR__ATIME),
            "relatime" => (0, libc::MOUNT_ATTR__ATIME),
            "bind" | "rbind" | "defaults" => (0, 0),
            _ => return false,
        };
        self.set = (self.set & !clear) | set;
        self.clear = (self.clear & !set) | clear;
        true
    }
}

/// How a mount takes part in others' (mount_namespaces(7), SHARED SUBTREES).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub enum Propagation {
    Private,
    Shared,
    Slave,
    Unbindable,
}

/// Sets options of a detached mount and of all below it.
///
/// # Errors
/// Of mount_setattr(2).
pub fn set_options(mount: impl AsFd, attributes: Attributes) -> io::Result<()> {
    let Attributes { set: attr_set, clear: attr_clr } = attributes;
    set_attributes(mount, &libc::mount_attr { attr_set, attr_clr, propagation: 0, userns_fd: 0 }, true)
}

/// Sets how a detached mount takes part in others', and all below it when `recursive`.
///
/// # Errors
/// Of mount_setattr(2).
pub fn set_propagation(mount: impl AsFd, propagation: Propagation, recursive: bool) -> io::Result<()> {
    let propagation = match propagation {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::Shared => libc::MS_SHARED,
        Propagation::Slave => libc::MS_SLAVE,
        Propagation::Unbindable => libc::MS_UNBINDABLE,
    };
    set_attributes(mount, &libc::mount_attr { attr_set: 0, attr_clr: 0, propagation, userns_fd: 0 }, recursive)
}

/// Gives this process a mount namespace of its own, from which nothing reaches the old one. To be called while the
/// process has one thread.
///
/// # Errors
/// Of unshare(2) and mount(2).
pub fn leave_namespace() -> io::Result<()> {
    // SAFETY: plain system call; nothing but the mount namespace is unshared.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(io::Error::last_os_error());
    }
    use rustix::mount::MountPropagationFlags;
    Ok(rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?)
}

/// Moves this process into a mount namespace. To be called while the process has one thread.
///
/// # Errors
/// Of setns(2).
pub fn enter_namespace(namespace: impl AsFd) -> io::Result<()> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?)
}

/// Mounts an empty file system for a few names, which goes with its mount.
///
/// # Errors
/// Of mount(2).
pub fn scratch(target: &Path) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount("none", target, "tmpfs", flags, Some(c"mode=0755,size=64k"))?)
}

/// Attaches a detached mount on what `target` stands for.
///
/// # Errors
/// Of move_mount(2).
pub fn attach_at(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, "", target, "", flags)?)
}

/// Takes away what is mounted at `name` in the directory, where it is visible to this process.
///
/// # Errors
/// Of fchdir(2) and umount2(2).
pub fn detach_in(directory: impl AsFd, name: &[u8]) -> io::Result<()> {
    rustix::process::fchdir(directory)?;
    Ok(rustix::mount::unmount(name, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?)
}

/// Mounts the file system of a block device by mount(8), which finds out what it is.
///
/// # Errors
/// With what mount(8) said.
pub fn block_device(device: OwnedFd, target: &Path, options: &str) -> io::Result<()> {
    // The opened device, whatever its path means by now.
    let output = Command::new("mount")
        .args(["-o", options, "/proc/self/fd/0"])
        .arg(target)
        .stdin(Stdio::from(device))
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Puts into the place of /dev, for this process alone, a directory with nothing but this block device, and returns its
/// path. To be called while the process has one thread.
///
/// # Errors
/// Of unshare(2), mount(2) and mknod(2).
pub fn only_device(name: &str, number: u64) -> io::Result<String> {
    use rustix::fs::{FileType, Mode};
    leave_namespace()?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount("none", "/dev", "tmpfs", flags, Some(c"mode=0700,size=64k"))?;
    let path = format!("/dev/{name}");
    rustix::fs::mknodat(CWD, &path, FileType::BlockDevice, Mode::from_raw_mode(0o600), number)?;
    Ok(path)
}

/// A detached mount of the file system on the block device at `device`, with options of its superblock, each with its
/// value.
///
/// # Errors
/// Of fsopen(2), fsconfig(2), fsmount(2).
pub fn of_device(fstype: &str, device: &str, options: &[(String, Option<String>)]) -> io::Result<OwnedFd> {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
    let context = rustix::mount::fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "source", device)?;
    for (name, value) in options {
        match value {
            Some(value) => rustix::mount::fsconfig_set_string(&context, name.as_str(), value.as_str())?,
            None => rustix::mount::fsconfig_set_flag(&context, name.as_str())?,
        }
    }
    rustix::mount::fsconfig_create(&context)?;
    Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

/// Maps the ids of a detached mount by a user namespace.
///
/// # Errors
/// Of mount_setattr(2): EINVAL where the file system cannot.
pub fn map_ids(mount: impl AsFd, namespace: impl AsFd) -> io::Result<()> {
    let fd = u64::try_from(namespace.as_fd().as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    set_attributes(
        mount,
        &libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd: fd },
        true,
    )
}

/// Lets nobody open device nodes of a detached mount.
///
/// # Errors
/// Of mount_setattr(2).
pub fn set_nodev(mount: impl AsFd) -> io::Result<()> {
    set_attributes(
        mount,
        &libc::mount_attr { attr_set: libc::MOUNT_ATTR_NODEV, attr_clr: 0, propagation: 0, userns_fd: 0 },
        false,
    )
}

/// Lets device nodes of the mount at `path` be opened, as far as control groups allow.
///
/// # Errors
/// Of open(2) and mount_setattr(2).
pub fn allow_devices(path: &Path) -> io::Result<()> {
    use rustix::fs::{Mode, OFlags};
    let mount = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let attributes = libc::mount_attr { attr_set: 0, attr_clr: libc::MOUNT_ATTR_NODEV, propagation: 0, userns_fd: 0 };
    set_attributes(mount, &attributes, false)
}

/// Nothing can be written through this detached mount.
///
/// # Errors
/// Of mount_setattr(2).
pub fn set_read_only(mount: impl AsFd) -> io::Result<()> {
    set_attributes(
        mount,
        &libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 },
        false,
    )
}

/// Attaches a detached mount at `path`.
///
/// # Errors
/// Of move_mount(2).
pub fn attach(mount: impl AsFd, path: &Path) -> io::Result<()> {
    Ok(rustix::mount::move_mount(mount, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Mounts an overlay of `lowers`, the topmost first, at `target`; with an upper and a work directory it can be written.
/// Devices in it cannot be opened when `nodev`.
///
/// # Errors
/// Of mount(2).
pub fn overlay(
    target: &Path,
    lowers: &[PathBuf],
    upper: Option<&(PathBuf, PathBuf)>,
    options: &str,
    nodev: bool,
) -> io::Result<()> {
    let mut data = b"lowerdir=".to_vec();
    let mut append = |before: &[u8], path: &Path| {
        data.extend_from_slice(before);
        for byte in path.as_os_str().as_bytes() {
            // Commas and colons separate options and layers (overlayfs documentation).
            if matches!(byte, b',' | b':' | b'\\') {
                data.push(b'\\');
            }
            data.push(*byte);
        }
    };
    for (number, lower) in lowers.iter().enumerate() {
        append(if number == 0 { b"" } else { b":" }, lower);
    }
    if let Some((upper, work)) = upper {
        append(b",upperdir=", upper);
        append(b",workdir=", work);
    }
    data.push(b',');
    data.extend_from_slice(options.as_bytes());
    let data = CString::new(data).map_err(|_| io::ErrorKind::InvalidInput)?;
    let flags = if nodev { MountFlags::NODEV } else { MountFlags::empty() };
    Ok(rustix::mount::mount("overlay", target, "overlay", flags, Some(data.as_c_str()))?)
}

/// Mounts a squashfs image read-only by a loop device that goes with the mount.
///
/// # Errors
/// With what mount(8) said.
pub fn squashfs(image: &Path, target: &Path) -> io::Result<()> {
    let output = Command::new("mount")
        .args(["-t", "squashfs", "-o", "loop,ro,nosuid,nodev"])
        .args([image, target])
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Takes the mounts at `path` away, all that are stacked there. True when one was busy and is only detached: it goes
/// when its last user does. Nothing mounted is fine.
///
/// # Errors
/// Of umount2(2).
pub fn unmount(path: &Path) -> io::Result<bool> {
    let mut detached = false;
    loop {
        match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::BUSY) => {
                rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
                detached = true;
            }
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(detached),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The mount points below `directory`, deepest first (proc_pid_mountinfo(5)).
///
/// # Errors
/// When the table cannot be read.
pub fn below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescape(point)))
        .filter(|point| point.starts_with(directory))
        .collect();
    found.sort_by_key(|point| std::cmp::Reverse(point.as_os_str().len()));
    Ok(found)
}

/// Whether `path` is a mount point.
///
/// # Errors
/// When the table cannot be read.
pub fn is_mounted(path: &Path) -> io::Result<bool> {
    Ok(below(path)?.iter().any(|point| point == path))
}

/// Where the file system of a block device of this number is mounted.
///
/// # Errors
/// When the table cannot be read.
pub fn point_of(device: u64) -> io::Result<Option<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let point = |line: &str| {
        let mut fields = line.split(' ').skip(2);
        let here = fields.next()? == number;
        here.then(|| fields.nth(1).map(|point| PathBuf::from(unescape(point)))).flatten()
    };
    Ok(table.lines().find_map(point))
}

/// What is mounted at `path`, as it was named: a block device, for file systems on one.
///
/// # Errors
/// When the table cannot be read.
pub fn device_at(path: &Path) -> io::Result<Option<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    // Behind the optional fields, a hyphen, the kind of the file system and what it is of.
    let device = |line: &str| {
        let (mount, of) = line.split_once(" - ")?;
        let here = PathBuf::from(unescape(mount.split(' ').nth(4)?)) == path;
        here.then(|| of.split(' ').nth(1).map(|device| PathBuf::from(unescape(device)))).flatten()
    };
    Ok(table.lines().rev().find_map(device))
}

/// Undoes the octal escapes of blanks in the table.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}
