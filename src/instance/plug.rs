//! What one disk or device node needs on the host: an opened source, a mount that nobody sees yet, a node.
//!
//! The source is opened once. Whatever its path comes to mean later, the container gets what was opened.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, StatVfsMountFlags, Uid};
use rustix::io::Errno;

use super::error::Error;
use super::volumes::Places;
use crate::device::{Disk, Node, Plug, Propagation, Source};
use crate::names::DeviceName;
use crate::security::idmap::IdMap;
use crate::sys::{mount, userns};

/// A plug that is ready to be mounted.
pub(super) struct Ready {
    /// The detached mount.
    pub(super) tree: OwnedFd,
    /// Of a directory; else of a file.
    pub(super) directory: bool,
    /// The rule that lets the container use the device, as of `lxc.cgroup.devices.allow`.
    pub(super) rule: Option<String>,
    /// The node on the host.
    pub(super) node: Option<PathBuf>,
}

/// A refusal that names the device.
pub(super) fn refuse(device: &DeviceName, reason: impl Into<String>) -> Error {
    Error::Plug { device: device.to_string(), reason: reason.into() }
}

/// A path as a part of a file's name, as LXD has them: a hyphen doubled, a slash becomes a hyphen.
fn escape(text: &str) -> String {
    text.trim_start_matches('/').replace('-', "--").replace('/', "-")
}

/// The name of a plug's file below `devices/<instance>`.
pub(super) fn file_name(device: &DeviceName, plug: &Plug) -> String {
    let kind = match plug {
        Plug::Disk(_) => "disk",
        Plug::Node(_) => "unix",
    };
    let mut name = format!("{kind}.{}.{}", escape(device.as_str()), escape(plug.path()));
    // Names have 255 bytes at most (`NAME_MAX`).
    if name.len() > 255 {
        let digest = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
        name = format!("{kind}.{}.{}", escape(device.as_str()), hex::encode(digest));
    }
    name
}

/// Makes a plug ready in `dir`, the container's directory of devices. None: its source is missing, and need not be there.
/// `map`: of an unprivileged container. Mounts and makes files.
pub(super) fn ready(
    dir: &Path,
    device: &DeviceName,
    plug: &Plug,
    places: &Places,
    map: Option<&IdMap>,
) -> Result<Option<Ready>, Error> {
    match plug {
        Plug::Disk(disk) => ready_disk(dir, device, disk, places, map),
        Plug::Node(node) => ready_node(&dir.join(file_name(device, plug)), device, node, map),
    }
}

/// Opens a source as a mere place; none when it is missing and need not be there.
pub(super) fn open(device: &DeviceName, source: &str, required: bool) -> Result<Option<OwnedFd>, Error> {
    match rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(opened) => Ok(Some(opened)),
        Err(Errno::NOENT | Errno::NOTDIR) if !required => Ok(None),
        Err(Errno::NOENT | Errno::NOTDIR) => {
            Err(refuse(device, format!("the host has no {source:?}: create it, or set required=false")))
        }
        Err(error) => Err(refuse(device, format!("its source {source:?} cannot be opened: {error}"))),
    }
}

/// Opens what a disk shows, as a mere place, and says whether ids are to be mapped; none when it is missing and need not
/// be there.
pub(super) fn open_disk(device: &DeviceName, disk: &Disk, places: &Places) -> Result<Option<(OwnedFd, bool)>, Error> {
    let (opened, shift) = match &disk.source {
        Source::Host(path) => {
            let opened = open(device, path, disk.required)?;
            if let Some(opened) = &opened {
                places.check_host(device, opened)?;
            }
            (opened, disk.shift)
        }
        Source::Volume { pool, volume, below } => {
            let place = places.get(device, pool, volume)?;
            (place.open(device, below, disk.required)?, !place.unmapped)
        }
    };
    Ok(opened.map(|opened| (opened, shift)))
}

fn ready_disk(
    dir: &Path,
    device: &DeviceName,
    disk: &Disk,
    places: &Places,
    map: Option<&IdMap>,
) -> Result<Option<Ready>, Error> {
    let Some((source, shift)) = open_disk(device, disk, places)? else { return Ok(None) };
    let of_volume = matches!(disk.source, Source::Volume { .. });
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| refuse(device, format!("{what}: {error}"))
    };
    let kind = kind_of(&source).map_err(failed("its source"))?;
    let mut attributes = mount::Attributes::default();
    // A device node in a volume is a container's own.
    if of_volume && kind == FileType::BlockDevice {
        return Err(refuse(
            device,
            "what its source names in the volume is a device: only files and directories are shown",
        ));
    }
    let tree = if kind == FileType::BlockDevice {
        let mut options = vec![if disk.readonly { "ro" } else { "rw" }];
        options.extend(disk.options.iter().map(String::as_str));
        mounted(dir, source, &options.join(",")).map_err(failed("its source cannot be mounted"))?
    } else {
        for option in &disk.options {
            if !attributes.add(option) {
                let reason = format!("raw.mount.options has {option:?}, which is no option of a file or directory");
                return Err(refuse(device, reason));
            }
        }
        mount::clone_at(&source, disk.recursive).map_err(failed("its source cannot be mounted"))?
    };
    if disk.readonly {
        attributes.add("ro");
    }
    let propagation = match disk.propagation {
        // An unbindable mount could not be brought into the container: it is made so inside.
        None | Some(Propagation::Private | Propagation::Unbindable) => mount::Propagation::Private,
        Some(Propagation::Shared) => mount::Propagation::Shared,
        Some(Propagation::Slave) => mount::Propagation::Slave,
    };
    let recursive = disk.propagation.is_none() || disk.propagation_recursive;
    mount::set_propagation(&tree, propagation, recursive).map_err(failed("setting its propagation"))?;
    if let Some(map) = map.filter(|_| shift) {
        let (uids, gids) = map.mount_maps(false);
        let mapped = userns::with_maps(&uids, &gids).and_then(|users| mount::map_ids(&tree, &*users));
        let what = match of_volume {
            true => {
                "its volume's file system cannot map ids, which unprivileged containers need unless the volume has security.unmapped"
            }
            false => "shift=true: the file system of its source cannot map ids",
        };
        mapped.map_err(failed(what))?;
        if of_volume {
            // What another container made there is no device of this one.
            attributes.add("nodev");
        }
    }
    mount::set_options(&tree, attributes).map_err(failed("setting its options"))?;
    let directory = kind == FileType::Directory || kind == FileType::BlockDevice;
    Ok(Some(Ready { tree, directory, rule: None, node: None }))
}

pub(super) fn kind_of(fd: impl AsFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
}

/// The file system of a block device, mounted nowhere.
fn mounted(dir: &Path, source: OwnedFd, options: &str) -> io::Result<OwnedFd> {
    let place = dir.join(".source");
    fs::create_dir(&place)?;
    let tree = mount::block_device(source, &place, options).and_then(|()| {
        let root = rustix::fs::open(&place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        mount::clone_at(root, false)
    });
    // The copy holds the file system.
    let cleared = mount::unmount(&place).and_then(|_| fs::remove_dir(&place));
    let tree = tree?;
    cleared?;
    Ok(tree)
}

fn ready_node(path: &Path, device: &DeviceName, node: &Node, map: Option<&IdMap>) -> Result<Option<Ready>, Error> {
    let failed = |error: Errno| refuse(device, format!("its node on the host {}: {error}", path.display()));
    let (major, minor) = match node.numbers {
        Some(numbers) => numbers,
        None => {
            let Some(source) = open(device, &node.source, node.required)? else { return Ok(None) };
            let stat = rustix::fs::fstat(source).map_err(failed)?;
            let wanted = if node.block { FileType::BlockDevice } else { FileType::CharacterDevice };
            if FileType::from_raw_mode(stat.st_mode) != wanted {
                let what = if node.block { "block" } else { "character" };
                return Err(refuse(device, format!("its source {:?} is no {what} device", node.source)));
            }
            (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))
        }
    };
    let (uid, gid) = map.map_or((Some(node.uid), Some(node.gid)), |map| map.outside(node.uid, node.gid));
    let missing =
        |property: &str, id: u32| refuse(device, format!("{property}={id} does not exist in the instance's id map"));
    let uid = uid.ok_or_else(|| missing("uid", node.uid))?;
    let gid = gid.ok_or_else(|| missing("gid", node.gid))?;
    if let Some(parent) = path.parent()
        && rustix::fs::statvfs(parent).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::NODEV))
    {
        let reason = "the state directory lies on a mount with the option \"nodev\": mount it with \"dev\"";
        return Err(refuse(device, reason));
    }
    let (kind, letter) = if node.block { (FileType::BlockDevice, 'b') } else { (FileType::CharacterDevice, 'c') };
    let numbers = rustix::fs::makedev(major, minor);
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::Io { doing: "remove", path: path.to_owned(), error });
        }
        Ok(()) | Err(_) => {}
    }
    rustix::fs::mknodat(CWD, path, kind, Mode::empty(), numbers).map_err(failed)?;
    let (owner, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(CWD, path, owner, group, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
    rustix::fs::chmod(path, Mode::from_raw_mode(node.mode)).map_err(failed)?;
    let place = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let tree = mount::clone_at(place.map_err(failed)?, false);
    let tree = tree.map_err(|error| refuse(device, format!("its node: {error}")))?;
    mount::set_propagation(&tree, mount::Propagation::Private, false)
        .map_err(|error| refuse(device, format!("its node: {error}")))?;
    let rule = Some(format!("{letter} {major}:{minor} rwm"));
    Ok(Some(Ready { tree, directory: false, rule, node: Some(path.to_owned()) }))
}

/// Where `path` lies in a root that nobody runs in: links on the way are followed, and lead nowhere but inside. What does
/// not exist stays as it is. Relative to the root.
pub(super) fn inside(root: &Path, path: &str) -> io::Result<PathBuf> {
    let directory = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let top = fs::read_link(by_fd(&directory))?;
    let relative = Path::new(path.trim_start_matches('/'));
    for known in relative.ancestors().filter(|known| !known.as_os_str().is_empty()) {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&directory, known, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Ok(found) => {
                let place = fs::read_link(by_fd(&found))?;
                let place = place.strip_prefix(&top).map_err(|_| io::ErrorKind::InvalidData)?;
                let rest = relative.strip_prefix(known).unwrap_or(Path::new(""));
                return Ok(if rest.as_os_str().is_empty() { place.to_owned() } else { place.join(rest) });
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(relative.to_owned())
}

fn by_fd(fd: &OwnedFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// A path as a word of fstab(5).
pub(super) fn fstab(path: &Path) -> String {
    let text = path.to_string_lossy();
    text.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn files_are_named_as_lxd_names_them() {
        let config = [("type", "unix-char"), ("path", "/dev/my-tty/0")];
        let config = config.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let name = DeviceName::new("a-b").unwrap();
        let Ok(Device::Node(node)) = Device::parse(&name, &config) else { panic!("no node") };
        assert_eq!(file_name(&name, &Plug::Node(node)), "unix.a--b.dev-my--tty-0");
    }

    #[test]
    fn a_path_is_resolved_inside() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("run/deep")).unwrap();
        fs::create_dir(dir.path().join("var")).unwrap();
        std::os::unix::fs::symlink("../../../../run", dir.path().join("var/run")).unwrap();
        let at = |path: &str| inside(dir.path(), path).unwrap();
        assert_eq!(at("/var/run/deep"), Path::new("run/deep"));
        assert_eq!(at("/var/run/new/er"), Path::new("run/new/er"));
        assert_eq!(at("/none/at/all"), Path::new("none/at/all"));
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        assert_eq!(at("/out/passwd"), Path::new("out/passwd"));
    }
}
