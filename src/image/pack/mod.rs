//! Packing the files of an instance into an image, in a process of its own: what a compressor needs of memory goes with
//! it, and so does the process with the daemon.
//!
//! ```text
//!  daemon                                    warrend pack
//!    │ ── request ───────────────────────────> stdin; its end ends the process at any time
//!    │                                         look: how much, and the newest change
//!    │ <── {"Progress": …} ───────────────────┤ walk ─> tarball ─> compressor ─> hash ─> file
//!    │ <── {"Done": …} or {"Failed": …} ──────┘
//! ```
//! The same files give the same bytes: entries are in the order of their names, no clock and no number of threads has a
//! say, and the date of the image is that of the newest change in it.

mod child;
pub(super) mod header;
mod parent;
mod sink;
mod stretches;
mod tarball;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use crate::config::compressor::Compressor;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub use child::main as child_main;
pub use parent::{Leash, Stop, leash};

/// So many ids of the disk are others in the image: the first of the disk, the first in the image, how many.
pub type IdRow = (u32, u32, u32);

/// What ids of the disk are in the image; those of no row stay.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Ids {
    /// Users.
    pub uid: Vec<IdRow>,
    /// Groups.
    pub gid: Vec<IdRow>,
}

fn mapped(rows: &[IdRow], id: u32) -> u32 {
    let offset = |(outside, inside, count): &IdRow| {
        let offset = id.checked_sub(*outside).filter(|offset| offset < count)?;
        inside.checked_add(offset)
    };
    rows.iter().find_map(offset).unwrap_or(id)
}

impl Ids {
    fn user(&self, id: u32) -> u32 {
        mapped(&self.uid, id)
    }

    fn group(&self, id: u32) -> u32 {
        mapped(&self.gid, id)
    }
}

/// Files that become an image. Nobody changes them meanwhile.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Source {
    /// Where the root lies.
    pub rootfs: PathBuf,
    /// Directories of the root, by their paths below it, whose files lie somewhere else.
    pub elsewhere: Vec<(PathBuf, PathBuf)>,
    /// What the ids of the root's files are.
    pub ids: Ids,
    /// Where `metadata.yaml` and `templates/` lie; neither need be there.
    pub beside: PathBuf,
}

/// What an image is to say about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct About {
    /// When the files beside the root do not say.
    pub architecture: String,
    /// In place of those that the files beside the root have; `None`: these.
    pub properties: Option<BTreeMap<String, String>>,
    /// Seconds since 1970; `None`: never.
    pub expiry_date: Option<i64>,
}

/// What the process is asked.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    source: Source,
    about: About,
    compressor: Compressor,
    /// The file to make.
    to: PathBuf,
}

/// What it answers, each in a line.
#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    /// So many bytes of files are packed, of how many.
    Progress(u64, u64),
    /// All of it: the SHA-256, the size, and what it says about itself.
    Done { digest: String, size: u64, metadata: String },
    /// Nothing of it can be used.
    Failed(Failure),
}

/// Why something cannot be packed.
#[derive(Debug, Serialize, Deserialize)]
enum Failure {
    /// More than an image may have.
    Limit { what: String, limit: u64 },
    /// The disk, or what may be had of it, is full.
    NoSpace,
    /// In words.
    Other(String),
}

fn failed(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(Errno) -> Failure {
    let path = path.into();
    move |errno| Failure::Other(format!("cannot {doing} {}: {errno}", crate::names::shown_path(&path)))
}

/// The failure of writing.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Other(error.to_string()),
        }
    }
}
