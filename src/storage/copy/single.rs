//! Copies of single files, for what makes one tree of several.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{FileType, Mode, XattrFlags};
use rustix::io::Errno;

use super::super::error::{Error, io};
use super::super::files::make_dir;
use super::super::walk::{self, Entry};
use super::{
    DEFAULT_ACL, Stage, attributes, fill, held, is_overlays, list, make, mode, owner, reading, times, writing,
};

/// Copies files one by one, to wherever below `to`.
pub(in crate::storage) struct Single {
    to: PathBuf,
    links: Mutex<BTreeMap<(u64, u64), PathBuf>>,
}

impl Single {
    /// Copies into the directory `to`.
    pub(in crate::storage) fn new(to: &Path) -> Self {
        Self { to: to.to_owned(), links: Mutex::default() }
    }

    /// Where a copy lies.
    pub(in crate::storage) fn path(&self, below: &Path) -> PathBuf {
        if below.as_os_str().is_empty() { self.to.clone() } else { self.to.join(below) }
    }

    fn failed(&self, below: &Path) -> impl FnOnce(Stage) -> Error {
        let path = self.path(below);
        move |stage| io(stage.doing, path)(stage.errno.into())
    }

    /// Makes a directory like `from`, without what overlayfs wrote down about that; to be finished when all is in it.
    pub(in crate::storage) fn directory(&self, from: &Path, below: &Path) -> Result<(), Error> {
        let made = self.path(below);
        make_dir(&made, 0o700)?;
        (|| {
            let entry = Entry::of(from).map_err(reading("open"))?;
            let made = walk::open(&made).map_err(|_| writing("open")(Errno::NOTDIR))?;
            rustix::fs::fchown(&made, owner(&entry.stat).0, owner(&entry.stat).1)
                .map_err(writing("set the owner of"))?;
            attributes(&entry, &made, true)?;
            let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&made));
            for name in list(&link).map_err(writing("list the attributes of"))?.iter().filter(|name| is_overlays(name))
            {
                rustix::fs::removexattr(&link, OsStr::from_bytes(name)).map_err(writing("set an attribute of"))?;
            }
            rustix::fs::fchmod(&made, mode(&entry.stat)).map_err(writing("set the mode of"))
        })()
        .map_err(self.failed(below))
    }

    /// Copies what is no directory.
    pub(in crate::storage) fn file(&self, from: &Path, below: &Path) -> Result<(), Error> {
        let to = self.path(below);
        (|| {
            let entry = Entry::of(from).map_err(reading("open"))?;
            let number = (entry.stat.st_dev, entry.stat.st_ino);
            let mut links = held(&self.links);
            if entry.stat.st_nlink > 1 {
                if let Some(first) = links.get(&number) {
                    return rustix::fs::link(self.path(first), &to).map_err(writing("link"));
                }
                links.insert(number, below.to_owned());
            }
            let (parent, name) = (to.parent().unwrap_or(&self.to), to.file_name().unwrap_or_default());
            let parent = walk::open(parent).map_err(|_| writing("open")(Errno::NOTDIR))?;
            fill(make(&parent, name, &entry)?, &parent, name, &entry, false)
        })()
        .map_err(self.failed(below))
    }

    /// Makes overlayfs's mark of a file that is not there.
    pub(in crate::storage) fn whiteout(&self, below: &Path) -> Result<(), Error> {
        let (kind, mode) = (FileType::CharacterDevice, Mode::empty());
        let made = rustix::fs::mknodat(rustix::fs::CWD, self.path(below), kind, mode, 0);
        made.map_err(writing("create")).map_err(self.failed(below))
    }

    /// Gives a directory what it can only have when all is in it.
    pub(in crate::storage) fn finish(&self, from: &Path, below: &Path) -> Result<(), Error> {
        let entry = Entry::of(from).map_err(reading("open")).map_err(self.failed(below))?;
        let acl = entry.attribute(DEFAULT_ACL)?;
        (|| {
            let made = walk::open(&self.path(below)).map_err(|_| writing("open")(Errno::NOTDIR))?;
            if let Some(acl) = acl {
                let flags = XattrFlags::empty();
                rustix::fs::fsetxattr(&made, DEFAULT_ACL, &acl, flags).map_err(writing("set an attribute of"))?;
            }
            rustix::fs::futimens(&made, &times(&entry.stat)).map_err(writing("set the times of"))
        })()
        .map_err(self.failed(below))
    }
}
