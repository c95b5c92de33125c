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

fn set_attributes(mount: impl AsFd, attributes: &libc::mount_attr) -> io::Result<()> {
    // SAFETY: the fd is open, the path is the empty string, the structure is whole and its size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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
    )
}

/// Attaches a detached mount at `path`.
///
/// # Errors
/// Of move_mount(2).
pub fn attach(mount: impl AsFd, path: &Path) -> io::Result<()> {
    Ok(rustix::mount::move_mount(mount, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Mounts an overlay at `target`. Devices in it cannot be opened when `nodev`.
///
/// # Errors
/// Of mount(2).
pub fn overlay(target: &Path, lower: &Path, upper: &Path, work: &Path, options: &str, nodev: bool) -> io::Result<()> {
    let mut data = Vec::new();
    for (key, path) in [("lowerdir", lower), ("upperdir", upper), ("workdir", work)] {
        data.extend_from_slice(format!("{key}=").as_bytes());
        for byte in path.as_os_str().as_bytes() {
            // Commas and colons separate options and layers (overlayfs documentation).
            if matches!(byte, b',' | b':' | b'\\') {
                data.push(b'\\');
            }
            data.push(*byte);
        }
        data.push(b',');
    }
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

/// Undoes the octal escapes of blanks in the table.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}
