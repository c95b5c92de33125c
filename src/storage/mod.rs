//! Pools and volumes: a driver per backend behind one narrow trait.
//!
//! Files lie on disk with the container's own ids (0, 1, …) in every driver; a start mounts the root id-mapped at
//! `<pool>/containers/<volume>/rootfs`, a stop unmounts it. Where there are no id-mapped mounts, `dir` shifts the files
//! ([`shift`]).
//!
//! ```text
//!   storage-pools/<pool>/
//!     containers/<volume>/       0100, owner the container's root
//!       rootfs/                  dir: the files; overlay: mount point
//!       nested/docker/           overlay: mounted at /var/lib/docker
//!       volume.json              overlay: what it is made of, format version
//!       metadata.yaml, templates/
//!     containers-snapshots/<volume>/<snapshot>/   the same, of a snapshot
//!     custom/<project>_<volume>/                  files of a custom volume
//!     custom-snapshots/<project>_<volume>/<snapshot>/
//!     layers/<layer>/{fs,work,users}   overlay: what containers changed, shared with snapshots ([`overlay`])
//!     images/<fingerprint>/      overlay: rootfs/ mounted from image.squashfs, or unpacked
//!     .new/<volume>, .trash/…    half made, half deleted: cleared from when the pool is opened
//! ```

mod btrfs;
mod copy;
mod dir;
mod driver;
mod error;
mod files;
mod locks;
mod nested;
mod overlay;
mod pool;
mod probe;
mod quota;
mod registry;
mod shift;
mod source;
mod usage;
mod volume;
mod walk;

pub use copy::Pause;
pub use driver::RootMount;
pub use error::Error;
pub use files::{link_instance, link_snapshots, unlink_instance, unlink_snapshots};
pub use locks::VolumeLocks;
pub use pool::{DriverKind, Frozen, Pool, PoolSpec, Resources, Shifting};
pub use probe::{Feature, Probes};
pub use quota::Counted;
pub use registry::{Registry, Retried};
pub use shift::Progress;
pub use usage::Usage;
pub use volume::{VolumeId, VolumeKind};
