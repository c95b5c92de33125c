//! The REST API: a file per resource, the wire types, and one exhaustive map from error to status.

pub mod app;
mod call;
mod certificates;
mod console;
pub mod entry;
mod error;
mod events;
mod exec;
mod extensions;
mod filter;
mod images;
mod instances;
mod internal;
mod linger;
mod logs;
mod networks;
mod operations;
mod profiles;
mod projects;
mod response;
mod router;
pub mod server;
mod server_config;
mod storage_pools;
mod websocket;
pub mod wire;

pub use error::Error;
pub use images::remove as remove_image;
pub use router::Router;
