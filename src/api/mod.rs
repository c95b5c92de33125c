//! The REST API: a file per resource, the wire types, and one exhaustive map from error to status.

mod access;
pub mod app;
mod body;
pub(crate) mod call;
mod certificates;
mod change;
mod console;
mod cors;
mod crowd;
pub mod door;
pub mod entry;
mod error;
mod events;
mod exec;
mod extensions;
mod files;
mod filter;
mod image_aliases;
mod image_publish;
mod image_sources;
mod image_upload;
pub(crate) mod images;
mod instance_metadata;
mod instance_snapshots;
mod instance_source;
mod instance_state;
mod instances;
mod internal;
mod linger;
pub mod listeners;
mod logs;
pub mod metrics;
mod network_acls;
mod network_forwards;
mod networks;
mod operations;
mod profiles;
mod projects;
mod proxied;
mod rendered;
mod resources;
pub(crate) mod response;
mod router;
pub mod server;
mod server_config;
pub mod standing;
mod storage_pools;
mod storage_volume_snapshots;
mod storage_volumes;
pub mod streams;
pub mod trust_tokens;
mod warnings;
pub(crate) mod websocket;
pub mod wire;

pub use error::Error;
pub use images::remove as remove_image;
pub use rendered::Rendered;
pub use router::{Router, routes};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use {
    call::fuzz as fuzz_query, filter::fuzz as fuzz_filter, proxied::fuzz as fuzz_proxied,
    trust_tokens::fuzz as fuzz_token,
};
