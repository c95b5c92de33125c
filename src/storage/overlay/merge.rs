//! Several layers made one, which shows the same over the image: overlayfs takes only so many, and each costs time.
//!
//! The rules are overlayfs's (Documentation/filesystems/overlayfs.rst): a whiteout (character device 0/0) hides what lies
//! below, `trusted.overlay.opaque=y` says that a directory has nothing below, `trusted.overlay.redirect` where what lies
//! below is really called: a name beside it, or, with a slash first, a path from the root.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::super::copy::Single;
use super::super::error::{Error, io};

const OPAQUE: &str = "trusted.overlay.opaque";
const REDIRECT: &str = "trusted.overlay.redirect";

/// A directory as the layers together have it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stack {
    /// Where it lies in which layers, from the top.
    here: Vec<(usize, PathBuf)>,
    /// Where it goes on in the image; `None`: it does not.
    below: Option<PathBuf>,
}

/// What the layers together have by a name.
enum Node {
    /// Nothing: the image decides.
    Absent,
    /// It is hidden.
    Whiteout,
    /// In this layer.
    File(PathBuf),
    Directory(Stack),
}

struct Merge<'a> {
    /// From the top.
    layers: &'a [PathBuf],
    copy: Single,
}

/// Fills the empty directory `to` with what `layers`, the topmost first, are together.
///
/// # Errors
/// With the file that could not be copied.
pub(super) fn merge(layers: &[PathBuf], to: &Path) -> Result<(), Error> {
    let merge = Merge { layers, copy: Single::new(to) };
    let root = merge.root(0);
    merge.directory(&root, Some(Path::new("")), Path::new(""))
}

fn attribute(path: &Path, name: &str) -> Result<Option<Vec<u8>>, Error> {
    let mut value = vec![0; 4096];
    match rustix::fs::lgetxattr(path, name, &mut value[..]) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        Err(error) => Err(io("read an attribute of", path)(error.into())),
    }
}

impl Merge<'_> {
    /// The root of the layers from `first` on.
    fn root(&self, first: usize) -> Stack {
        Stack {
            here: (first..self.layers.len()).map(|layer| (layer, PathBuf::new())).collect(),
            below: Some("".into()),
        }
    }

    fn place(&self, layer: usize, path: &Path) -> PathBuf {
        self.layers.get(layer).map(|layer| layer.join(path)).unwrap_or_default()
    }

    fn lookup(&self, parent: &Stack, name: &OsStr) -> Result<Node, Error> {
        let (mut left, mut name) = (parent.clone(), name.to_owned());
        let mut found: Option<Stack> = None;
        left.here.reverse();
        while let Some((layer, directory)) = left.here.pop() {
            let path = directory.join(&name);
            let place = self.place(layer, &path);
            let stat = match place.symlink_metadata() {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                result => result.map_err(io("look at", &place))?,
            };
            let whiteout = stat.file_type().is_char_device() && stat.rdev() == 0;
            if !stat.is_dir() {
                // Below a directory of a layer above, a file is hidden like all that lies further down.
                return Ok(match found {
                    Some(directory) => Node::Directory(directory),
                    None if whiteout => Node::Whiteout,
                    None => Node::File(place),
                });
            }
            let stack = found.get_or_insert(Stack { here: Vec::new(), below: None });
            stack.here.push((layer, path));
            if attribute(&place, OPAQUE)?.as_deref() == Some(b"y") {
                return Ok(found.map_or(Node::Absent, Node::Directory));
            }
            let Some(redirect) = attribute(&place, REDIRECT)? else { continue };
            match redirect.strip_prefix(b"/") {
                None => name = OsString::from_vec(redirect),
                Some(path) => {
                    let path = Path::new(OsStr::from_bytes(path));
                    if let Some(rest) = self.resolve(layer + 1, path)? {
                        stack.here.extend(rest.here);
                        stack.below = rest.below;
                    }
                    return Ok(found.map_or(Node::Absent, Node::Directory));
                }
            }
        }
        Ok(match found {
            None => Node::Absent,
            Some(stack) => Node::Directory(Stack { below: left.below.map(|below| below.join(name)), ..stack }),
        })
    }

    /// The directory at `path` as the layers from `first` on have it; `None` when it is none there.
    fn resolve(&self, first: usize, path: &Path) -> Result<Option<Stack>, Error> {
        let mut at = self.root(first);
        for component in path.components() {
            let Component::Normal(name) = component else { continue };
            at = match self.lookup(&at, name)? {
                Node::Directory(stack) => stack,
                Node::Absent => Stack { here: Vec::new(), below: at.below.map(|below| below.join(name)) },
                Node::Whiteout | Node::File(_) => return Ok(None),
            };
        }
        Ok(Some(at))
    }

    /// Makes a directory at `to`; by itself it would go on at `natural` in the image.
    fn directory(&self, stack: &Stack, natural: Option<&Path>, to: &Path) -> Result<(), Error> {
        let Some((layer, path)) = stack.here.first() else { return Ok(()) };
        self.copy.directory(&self.place(*layer, path), to)?;
        let mark = match (&stack.below, natural) {
            (None, Some(_)) => Some((OPAQUE, b"y".to_vec())),
            (Some(below), natural) if natural != Some(below) => {
                Some((REDIRECT, [b"/", below.as_os_str().as_bytes()].concat()))
            }
            (None, None) | (Some(_), _) => None,
        };
        if let Some((name, value)) = mark {
            let made = self.copy.path(to);
            rustix::fs::lsetxattr(&made, name, &value, XattrFlags::empty())
                .map_err(|e| io("set an attribute of", &made)(e.into()))?;
        }
        let mut names = BTreeSet::new();
        for (layer, path) in &stack.here {
            let place = self.place(*layer, path);
            for entry in std::fs::read_dir(&place).map_err(io("read", &place))? {
                names.insert(entry.map_err(io("read", &place))?.file_name());
            }
        }
        for name in names {
            let to = to.join(&name);
            match self.lookup(stack, &name)? {
                Node::Absent => {}
                // Where nothing lies below there is nothing to hide.
                Node::Whiteout if stack.below.is_some() => self.copy.whiteout(&to)?,
                Node::Whiteout => {}
                Node::File(from) => self.copy.file(&from, &to)?,
                Node::Directory(child) => {
                    let natural = stack.below.as_ref().map(|below| below.join(&name));
                    self.directory(&child, natural.as_deref(), &to)?;
                }
            }
        }
        self.copy.finish(&self.place(*layer, path), to)
    }
}
