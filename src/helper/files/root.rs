//! Everything that is done to files goes through here: paths are resolved below one directory, whatever links, mounts and
//! `..` are on the way, also while a process inside changes them (openat2(2), `RESOLVE_IN_ROOT`).
//!
//! Two rules keep that true. A whole path is only ever given to openat2. Everything else is done to a descriptor that it
//! returned, or to a single name in a directory that it returned, never following that name.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid};
use rustix::io::Errno;

use super::{Ownership, Refusal, TrimEnd};

type Result<T> = std::result::Result<T, Errno>;

/// Links that are followed by name here, at most; as many as the kernel follows (path_resolution(7)).
const MAX_LINKS: u32 = 40;

/// Nothing opened here becomes a terminal of this process, waits for the other end of a pipe, or survives an exec.
const SAFE: OFlags = OFlags::CLOEXEC.union(OFlags::NOCTTY).union(OFlags::NONBLOCK);

/// The root directory of an instance.
pub(in crate::helper) struct Root {
    fd: OwnedFd,
}

/// A name in a directory, and what stands there.
pub(in crate::helper) struct Place {
    /// The directory.
    pub(in crate::helper) directory: OwnedFd,
    /// One component, neither empty nor `.` nor `..`.
    pub(in crate::helper) name: Vec<u8>,
    /// What is there, opened as a mere place (`O_PATH`); never a link.
    pub(in crate::helper) found: Option<(OwnedFd, Stat)>,
}

/// The kind of a file.
pub(in crate::helper) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Opens what `fd` stands for once more, in another way. By /proc, the only way for an `O_PATH` descriptor (proc(5)).
pub(in crate::helper) fn reopen(fd: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::open(by_fd(&fd), flags | SAFE, Mode::empty())
}

/// The path of this process's descriptor.
pub(in crate::helper) fn by_fd(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// Sets owner and mode of what `fd` stands for; not of a link. The owner first: changing it clears setuid.
pub(in crate::helper) fn own(fd: impl AsFd, ownership: Ownership) -> std::result::Result<(), Refusal> {
    change_owner(&fd, b"", ownership, AtFlags::EMPTY_PATH)?;
    match ownership.mode {
        // An O_PATH descriptor takes no fchmod(2).
        Some(mode) => Ok(rustix::fs::chmod(by_fd(&fd), Mode::from_raw_mode(mode))?),
        None => Ok(()),
    }
}

fn change_owner(
    directory: impl AsFd,
    name: &[u8],
    ownership: Ownership,
    flags: AtFlags,
) -> std::result::Result<(), Refusal> {
    if ownership.uid.is_none() && ownership.gid.is_none() {
        return Ok(());
    }
    let changed = rustix::fs::chownat(directory, name, uid(ownership.uid), gid(ownership.gid), flags);
    // The one meaning of EINVAL here (chown(2), in a user namespace).
    changed.map_err(|error| if error == Errno::INVAL { Refusal::NoSuchId } else { error.into() })
}

fn uid(number: Option<u32>) -> Option<Uid> {
    number.map(Uid::from_raw)
}

fn gid(number: Option<u32>) -> Option<Gid> {
    number.map(Gid::from_raw)
}

/// Splits a path into its directory and its last name; none when it ends in nothing that could be made or removed.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let path = path.trim_ascii_end_matches(b'/');
    let (directory, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..=slash], &path[slash + 1..]),
        None => (&b"/"[..], path),
    };
    (!matches!(name, b"" | b"." | b"..")).then_some((directory, name))
}

impl Root {
    /// `fd` is the directory that nothing leaves.
    pub(in crate::helper) fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Opens a path.
    pub(in crate::helper) fn open(&self, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        // An absolute path counts from the root, too; the empty one would be an error.
        let path = if path.is_empty() { &b"/"[..] } else { path };
        loop {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, mode, resolve) {
                // A rename or mount elsewhere came in between and the kernel could not be sure of a `..`.
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
    }

    /// What is at a path, opened as a mere place: this has no effect on a device or pipe.
    pub(in crate::helper) fn look(&self, path: &[u8], follow: bool) -> Result<(OwnedFd, Stat)> {
        let nofollow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        let fd = self.open(path, OFlags::PATH | nofollow, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        Ok((fd, stat))
    }

    /// The directory of a path's last name, and that name.
    pub(in crate::helper) fn entry(&self, path: &[u8]) -> std::result::Result<(OwnedFd, Vec<u8>), Refusal> {
        let (directory, name) = split(path).ok_or(Refusal::NoEntry)?;
        let opened = self.open(directory, OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
        Ok((
            opened.map_err(|error| if error == Errno::NOENT { Refusal::NoParent } else { error.into() })?,
            name.to_vec(),
        ))
    }

    /// Where a file lies or would lie: links at the end of the path are followed, also one that points to nothing yet.
    pub(in crate::helper) fn place(&self, path: &[u8]) -> std::result::Result<Place, Refusal> {
        let mut path = path.to_vec();
        for _ in 0..MAX_LINKS {
            let Some((text, _)) = split(&path) else {
                // The root, or `..` of something: a directory, if it is there at all.
                self.look(&path, true)?;
                return Err(Refusal::IsADirectory);
            };
            let text = text.to_vec();
            let (directory, name) = self.entry(&path)?;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = match rustix::fs::openat(&directory, name.as_slice(), flags, Mode::empty()) {
                Err(Errno::NOENT) => return Ok(Place { directory, name, found: None }),
                opened => opened?,
            };
            let stat = rustix::fs::fstat(&found)?;
            if kind(&stat) != FileType::Symlink {
                return Ok(Place { directory, name, found: Some((found, stat)) });
            }
            allow_link(&directory, &stat)?;
            let target = rustix::fs::readlinkat(&found, "", Vec::new())?.into_bytes();
            // A relative target counts from the directory: the kernel resolves `..` after the links in `text`.
            path = if target.starts_with(b"/") { target } else { [text, target].concat() };
        }
        Err(Refusal::Loop)
    }

    /// Makes a directory; one that is there is fine and stays as it is. True when it is new.
    pub(in crate::helper) fn make_directory(
        &self,
        path: &[u8],
        new: Ownership,
        mode: u32,
    ) -> std::result::Result<bool, Refusal> {
        let (directory, name) = match self.entry(path) {
            Err(Refusal::NoEntry) => return self.look(path, true).map(|_| false).map_err(Refusal::from),
            entry => entry?,
        };
        match rustix::fs::mkdirat(&directory, name.as_slice(), Mode::from_raw_mode(mode)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                return match self.look(path, true) {
                    Ok((_, stat)) if kind(&stat) == FileType::Directory => Ok(false),
                    Ok(_) | Err(_) => Err(Refusal::Exists),
                };
            }
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&directory, name.as_slice(), flags, Mode::empty());
        if let Err(refusal) = opened.map_err(Refusal::from).and_then(|made| own(made, new)) {
            // Nothing half made stays; the cause is what is told.
            let _ = rustix::fs::unlinkat(&directory, name.as_slice(), AtFlags::REMOVEDIR);
            return Err(refusal);
        }
        Ok(true)
    }

    /// Makes a symbolic link; the very same one is fine.
    pub(in crate::helper) fn make_link(
        &self,
        path: &[u8],
        target: &[u8],
        new: Ownership,
    ) -> std::result::Result<(), Refusal> {
        let (directory, name) = self.entry(path)?;
        match rustix::fs::symlinkat(target, &directory, name.as_slice()) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let now = rustix::fs::readlinkat(&directory, name.as_slice(), Vec::new());
                return if now.is_ok_and(|now| now.as_bytes() == target) { Ok(()) } else { Err(Refusal::Exists) };
            }
            Err(error) => return Err(error.into()),
        }
        let owned = change_owner(&directory, &name, new, AtFlags::SYMLINK_NOFOLLOW);
        if owned.is_err() {
            let _ = rustix::fs::unlinkat(&directory, name.as_slice(), AtFlags::empty());
        }
        owned
    }

    /// Removes an entry; a directory must be empty.
    pub(in crate::helper) fn delete(&self, path: &[u8]) -> std::result::Result<(), Refusal> {
        let (directory, name) = match self.entry(path) {
            Err(Refusal::NoParent | Refusal::NotADirectory) => return Err(Refusal::NotFound),
            entry => entry?,
        };
        let stat = rustix::fs::statat(&directory, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?;
        unmounted(&directory, &name)?;
        let flags = match kind(&stat) {
            FileType::Directory => AtFlags::REMOVEDIR,
            _ if path.ends_with(b"/") => return Err(Refusal::NotADirectory),
            _ => AtFlags::empty(),
        };
        Ok(rustix::fs::unlinkat(&directory, name.as_slice(), flags)?)
    }
}

/// Refuses the name of a mount point. The kernel does so only for mounts of its caller's own namespace; those of the
/// instance's it would take away together with the name (rmdir(2) and unlink(2), since Linux 3.18).
pub(in crate::helper) fn unmounted(directory: &OwnedFd, name: &[u8]) -> Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let entry = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let stat = rustix::fs::statx(entry, "", AtFlags::EMPTY_PATH, rustix::fs::StatxFlags::empty())?;
    let root_of_mount = stat.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT);
    if root_of_mount { Err(Errno::BUSY) } else { Ok(()) }
}

/// Gives a nameless file its name (open(2), `O_TMPFILE`).
pub(in crate::helper) fn publish(file: &OwnedFd, place: &Place) -> Result<()> {
    rustix::fs::linkat(CWD, by_fd(file), &place.directory, place.name.as_slice(), AtFlags::SYMLINK_FOLLOW)
}

/// The kernel's rule for links in directories that everybody writes to (proc_sys_fs(5), `protected_symlinks`): who plants
/// one there must not lead root's hand. It is repeated for the links that are followed by name here.
fn allow_link(directory: &OwnedFd, link: &Stat) -> Result<()> {
    let stat = rustix::fs::fstat(directory)?;
    let shared = stat.st_mode & 0o1002 == 0o1002;
    if shared && link.st_uid != rustix::process::geteuid().as_raw() && link.st_uid != stat.st_uid {
        return Err(Errno::ACCESS);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn root(path: &Path) -> Root {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Root::new(rustix::fs::open(path, flags, Mode::empty()).unwrap())
    }

    #[test]
    fn a_path_is_split_at_its_last_name() {
        assert_eq!(split(b"/a/b"), Some((&b"/a/"[..], &b"b"[..])));
        assert_eq!(split(b"a//"), Some((&b"/"[..], &b"a"[..])));
        for none in [&b"/"[..], b"", b"/a/..", b".", b"///"] {
            assert_eq!(split(none), None);
        }
    }

    #[test]
    fn nothing_leads_out_of_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "outside").unwrap();
        let inner = dir.path().join("root");
        std::fs::create_dir_all(inner.join("d")).unwrap();
        symlink("../secret", inner.join("up")).unwrap();
        symlink("../../../../../../etc/passwd", inner.join("d/far")).unwrap();
        symlink("/new", inner.join("abs")).unwrap();
        symlink("self", inner.join("self")).unwrap();
        symlink("/proc/self/root/etc", inner.join("magic")).unwrap();
        let root = root(&inner);
        for path in [&b"../secret"[..], b"/../../secret", b"up", b"d/far", b"d/../../secret", b"magic/passwd"] {
            assert_eq!(root.look(path, true).unwrap_err(), Errno::NOENT, "{}", String::from_utf8_lossy(path));
            let refused = root.place(path).map(|place| place.found.is_some());
            assert!(!refused.unwrap_or(false), "{}", String::from_utf8_lossy(path));
        }
        assert!(matches!(root.place(b"self"), Err(Refusal::Loop)));
        // A link to nothing: its target is the place, inside.
        let place = root.place(b"abs").unwrap();
        assert_eq!(place.name, b"new");
        let file =
            rustix::fs::openat(&place.directory, ".", OFlags::TMPFILE | OFlags::RDWR, Mode::from(0o600)).unwrap();
        publish(&file, &place).unwrap();
        assert!(inner.join("new").is_file());
        let (deep, _) = root.look(b"/d/../d/.", true).unwrap();
        assert_eq!(kind(&rustix::fs::fstat(deep).unwrap()), FileType::Directory);
    }

    #[test]
    fn a_foreign_link_in_a_shared_directory_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let tmp = dir.path().join("tmp");
        std::fs::create_dir(&tmp).unwrap();
        std::fs::set_permissions(&tmp, std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
        symlink("/planted", tmp.join("link")).unwrap();
        let root = root(dir.path());
        assert!(root.place(b"/tmp/link").is_ok());
        std::os::unix::fs::lchown(tmp.join("link"), Some(12345), None).unwrap();
        assert!(matches!(root.place(b"/tmp/link"), Err(Refusal::Denied)));
    }

    #[test]
    fn removing_refuses_the_root_and_what_is_not_empty() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("d/e")).unwrap();
        std::fs::write(dir.path().join("f"), "").unwrap();
        let root = root(dir.path());
        assert_eq!(root.delete(b"/"), Err(Refusal::NoEntry));
        assert_eq!(root.delete(b"/d/.."), Err(Refusal::NoEntry));
        assert_eq!(root.delete(b"/d"), Err(Refusal::NotEmpty));
        assert_eq!(root.delete(b"/f/"), Err(Refusal::NotADirectory));
        assert_eq!(root.delete(b"/f/x"), Err(Refusal::NotFound));
        assert_eq!(root.delete(b"/d/e/"), Ok(()));
        assert_eq!(root.delete(b"/d"), Ok(()));
    }
}
