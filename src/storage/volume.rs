//! Which volume of a pool: what it is and where it lies.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::names::{InstanceKey, SnapshotName, VolumeKey};

/// What a volume holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum VolumeKind {
    /// The root of a container.
    Container,
    /// Files of their own, attached to instances as disks.
    Custom,
}

impl VolumeKind {
    /// The pool's directory of such volumes, and that of their snapshots.
    pub(super) fn directories(self) -> (&'static str, &'static str) {
        match self {
            Self::Container => ("containers", "containers-snapshots"),
            Self::Custom => ("custom", "custom-snapshots"),
        }
    }
}

/// A volume of a pool, or a snapshot of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VolumeId {
    kind: VolumeKind,
    name: String,
    snapshot: Option<SnapshotName>,
}

impl VolumeId {
    /// The root of an instance.
    pub fn of(key: &InstanceKey) -> Self {
        Self::container(&key.container())
    }

    /// The root of the container that is called so in liblxc ([`crate::names::InstanceKey::container`]).
    pub fn container(container: &str) -> Self {
        Self { kind: VolumeKind::Container, name: container.to_owned(), snapshot: None }
    }

    /// A custom volume.
    pub fn custom(key: &VolumeKey) -> Self {
        Self { kind: VolumeKind::Custom, name: key.directory(), snapshot: None }
    }

    /// A snapshot of this volume.
    pub fn at(&self, snapshot: &SnapshotName) -> Self {
        Self { snapshot: Some(snapshot.clone()), ..self.clone() }
    }

    /// The volume that a snapshot is of; a volume itself.
    pub fn origin(&self) -> Self {
        Self { snapshot: None, ..self.clone() }
    }

    /// What it holds.
    pub fn kind(&self) -> VolumeKind {
        self.kind
    }

    /// Whether it is a snapshot.
    pub fn is_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Where it lies below the pool.
    pub(super) fn below(&self) -> PathBuf {
        let (volumes, snapshots) = self.kind.directories();
        match &self.snapshot {
            None => Path::new(volumes).join(&self.name),
            Some(snapshot) => Path::new(snapshots).join(&self.name).join(snapshot.as_str()),
        }
    }

    /// Where its snapshots lie below the pool.
    pub(super) fn snapshots(&self) -> PathBuf {
        Path::new(self.kind.directories().1).join(&self.name)
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.snapshot {
            None => f.write_str(&self.name),
            Some(snapshot) => write!(f, "{}/{snapshot}", self.name),
        }
    }
}
