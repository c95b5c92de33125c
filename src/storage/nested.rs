//! A plain directory for the layers of a container engine inside, beside a root that is an overlay.
//!
//! No overlay can be the upper layer of another one, so an engine whose layers lie on the root would copy every one
//! of them whole. Its directory is another mount, of the volume's own `nested/docker`, on the file system of the pool.
//! It is part of the volume: once it is there it is always mounted with the root, whatever asks for the root.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, Dir, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::copy;
use super::error::{Error, io};
use super::files::make_dir;
use crate::security::idmap::IdMap;
use crate::sys::{mount, userns};

/// In the volume.
const PLACE: &str = "nested/docker";
/// Where Docker keeps everything (dockerd(8), `data-root`): what leads to it, and its name.
const INSIDE: (&str, &str) = ("var/lib", "docker");
/// Docker's own choice.
const MODE: u32 = 0o710;

/// Where in the root of a volume files lie that are not in its root, and where those are.
pub(super) fn places(volume: &Path) -> Vec<(PathBuf, PathBuf)> {
    let place = volume.join(PLACE);
    let (parent, name) = INSIDE;
    if place.is_dir() { vec![(Path::new(parent).join(name), place)] } else { Vec::new() }
}

/// Opens a directory of the root. Links lead where they do inside: nothing leaves the root, nothing runs in it yet.
fn open(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

/// The directory inside, made if it is missing.
fn target(root: &OwnedFd, map: Option<&IdMap>) -> Result<OwnedFd, Errno> {
    let (parent, name) = INSIDE;
    let path = Path::new(parent).join(name);
    match open(root, &path) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    let parent = open(root, Path::new(parent))?;
    rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(MODE))?;
    let (uid, gid) = map.map_or((0, 0), IdMap::root);
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(&parent, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags)?;
    open(root, &path)
}

fn is_empty(directory: &OwnedFd) -> Result<bool, Errno> {
    for entry in Dir::read_from(directory)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A directory for Docker goes with its volume to another pool: `from` and `to` are the volumes, `root` is where the root
/// of `to` lies. Where that has no place beside the root (`beside`), it comes to lie in it; where it has, what lies in
/// the root of one that had none moves there.
///
/// # Errors
/// When it cannot be copied.
pub(super) fn carry(from: &Path, to: &Path, root: &Path, beside: bool) -> Result<(), Error> {
    let (source, target) = (from.join(PLACE), to.join(PLACE));
    if source.is_dir() {
        if beside {
            make_dir(target.parent().unwrap_or(to), 0o711)?;
            return copy::tree(&source, &target);
        }
        return match within(root) {
            Ok(inside) => copy::tree(&source, &inside.path()),
            // Its engine can have put nothing there.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(()),
            Err(errno) => Err(io("open /var/lib/docker below", root)(errno.into())),
        };
    }
    let Ok(inside) = within(root).and_then(|inside| Ok((is_empty(&inside.0)?, inside))) else { return Ok(()) };
    let (false, inside) = inside else { return Ok(()) };
    if beside {
        make_dir(target.parent().unwrap_or(to), 0o711)?;
        // The place itself stays where it is, empty.
        copy::tree(&inside.path(), &target)?;
        empty(&inside)?;
    }
    Ok(())
}

/// A directory that was found without following a link.
struct Inside(OwnedFd);

impl Inside {
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/.", self.0.as_raw_fd()))
    }
}

/// Docker's place in a root that nobody runs in; whoever made links there gets nothing.
fn within(root: &Path) -> Result<Inside, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags | OFlags::NOFOLLOW, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let (parent, name) = INSIDE;
    rustix::fs::openat2(&root, Path::new(parent).join(name), flags, Mode::empty(), resolve).map(Inside)
}

/// Removes what is in it.
fn empty(inside: &Inside) -> Result<(), Error> {
    let path = inside.path();
    for entry in std::fs::read_dir(&path).map_err(io("read", &path))? {
        let entry = entry.map_err(io("read", &path))?;
        match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => super::files::remove_dir(&entry.path())?,
            false => std::fs::remove_file(entry.path()).map_err(io("remove", entry.path()))?,
        }
    }
    Ok(())
}

/// Mounts the directory of `volume` into its root, which is mounted at `rootfs`. One is made when `wanted`, unless the
/// container has files of its own in that place: they stay what it sees.
///
/// # Errors
/// [`Error::Damaged`] when there are files in both places, or those in the volume have no place inside any more: neither
/// is hidden silently.
pub(super) fn attach(volume: &Path, rootfs: &Path, map: Option<&IdMap>, wanted: bool) -> Result<(), Error> {
    let place = volume.join(PLACE);
    let there = place.exists();
    if !there && !wanted {
        return Ok(());
    }
    let failed = |errno: Errno| io("mount the directory for Docker below", rootfs)(errno.into());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, rootfs, flags, Mode::empty()).map_err(failed)?;
    let refused = match target(&root, map) {
        Ok(inside) if is_empty(&inside).map_err(failed)? => return bind(&place, rootfs, &inside, map),
        Ok(_) => "has files of its own in /var/lib/docker".to_owned(),
        // No such system, or a file or a link to nothing in its place.
        Err(errno) => format!("has no directory /var/lib/docker ({errno})"),
    };
    if there && !rustix::fs::open(&place, OFlags::RDONLY, Mode::empty()).and_then(|fd| is_empty(&fd)).map_err(failed)? {
        let reason = format!("it has files for /var/lib/docker, but the container {refused}; move one of them away");
        return Err(Error::Damaged { path: place, reason });
    }
    tracing::debug!(volume = %volume.display(), "no directory for Docker: the container {refused}");
    Ok(())
}

fn bind(place: &Path, rootfs: &Path, inside: &OwnedFd, map: Option<&IdMap>) -> Result<(), Error> {
    if !place.exists() {
        if let Some(parent) = place.parent() {
            make_dir(parent, 0o711)?;
        }
        make_dir(place, MODE)?;
    }
    (|| {
        let clone = mount::clone_of(place)?;
        if let Some(map) = map {
            let (uids, gids) = map.mount_maps(false);
            mount::map_ids(&clone, &*userns::with_maps(&uids, &gids)?)?;
            mount::set_nodev(&clone)?;
        }
        mount::attach_at(&clone, inside)
    })()
    .map_err(io("mount the directory for Docker below", rootfs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Volume and root.
    fn place() -> tempfile::TempDir {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        for part in ["volume", "root/var/lib"] {
            fs::create_dir_all(dir.path().join(part)).unwrap();
        }
        dir
    }

    fn attached(dir: &Path, wanted: bool) -> Result<bool, Error> {
        let root = dir.join("root");
        let result = attach(&dir.join("volume"), &root, None, wanted);
        let points = mount::below(&root).unwrap();
        for point in &points {
            mount::unmount(point).unwrap();
        }
        result.map(|()| !points.is_empty())
    }

    #[test]
    fn it_is_made_when_it_is_wanted_and_stays() {
        let dir = place();
        assert!(!attached(dir.path(), false).unwrap());
        assert!(!dir.path().join("root/var/lib/docker").exists());
        assert!(attached(dir.path(), true).unwrap());
        fs::write(dir.path().join("volume/nested/docker/layer"), "x").unwrap();
        assert!(attached(dir.path(), false).unwrap(), "its files do not vanish when nobody asks for it");
    }

    #[test]
    fn files_that_the_container_has_there_are_never_hidden() {
        let dir = place();
        let own = dir.path().join("root/var/lib/docker");
        fs::create_dir(&own).unwrap();
        fs::write(own.join("layer"), "x").unwrap();
        assert!(!attached(dir.path(), true).unwrap());
        assert!(!dir.path().join("volume/nested").exists());
        fs::create_dir_all(dir.path().join("volume/nested/docker/vfs")).unwrap();
        let error = attached(dir.path(), true).unwrap_err().to_string();
        assert!(error.contains("has files of its own") && error.contains("nested/docker"), "{error}");
    }

    #[test]
    fn links_lead_nowhere_but_inside() {
        let dir = place();
        let (root, out) = (dir.path().join("root"), dir.path().join("out"));
        fs::create_dir(&out).unwrap();
        fs::remove_dir(root.join("var/lib")).unwrap();
        std::os::unix::fs::symlink(&out, root.join("var/lib")).unwrap();
        assert!(!attached(dir.path(), true).unwrap());
        assert!(fs::read_dir(&out).unwrap().next().is_none());
        fs::remove_file(root.join("var/lib")).unwrap();
        fs::create_dir(root.join("var/lib")).unwrap();
        std::os::unix::fs::symlink("/nothing", root.join("var/lib/docker")).unwrap();
        assert!(!attached(dir.path(), true).unwrap());
        fs::remove_dir_all(root.join("var/lib")).unwrap();
        std::os::unix::fs::symlink("/../data", root.join("var/lib")).unwrap();
        fs::create_dir(root.join("data")).unwrap();
        assert!(attached(dir.path(), true).unwrap());
        assert!(root.join("data/docker").is_dir());
        fs::write(dir.path().join("volume/nested/docker/layer"), "x").unwrap();
        fs::remove_file(root.join("var/lib")).unwrap();
        let error = attached(dir.path(), false).unwrap_err().to_string();
        assert!(error.contains("no directory /var/lib/docker"), "{error}");
    }
}
