//! Images: the store, unpacking of untrusted archives, metadata.
//!
//! Two formats: *unified*, one tarball or squashfs with `metadata.yaml`, `rootfs/` and perhaps `templates/`; and *split*, a tarball
//! with the metadata and a squashfs (or tarball) that is the root. The fingerprint is the SHA-256 of the one file, or
//! of both in that order. Nothing in an archive is trusted (see [`unpack`](self)).

mod compression;
mod error;
mod metadata;
mod pack;
mod parts;
mod rules;
mod sparse;
mod squashfs;
mod store;
mod unpack;
mod writer;

pub use error::Error;
pub use metadata::{ARCHITECTURES, Metadata, architecture, check_date, check_template, runs};
pub use pack::{About, Ids, Leash, Source, Stop, child_main as pack_main, leash};
pub use parts::{FilePart, Parts};
pub use rules::Limits;
pub use store::{Hold, Part, Received, Store, StoredImage, Upload};
pub use unpack::Report;
pub use writer::Writer;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use {pack::header::fuzz as fuzz_pack, store::fuzz as fuzz_tarball};
