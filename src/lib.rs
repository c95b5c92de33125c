//! Warren: a daemon for system containers, a thin supervisor over liblxc that speaks LXD's API 1.0.
//!
//! Every module is a *room* with one purpose; dependencies point one way (see `docs/architecture.md`,
//! held by `tests/architecture.rs`):
//!
//! ```text
//! guest -> api -> {volume, remote -> fetch} -> {instance, storage, network, image, ops, auth}
//!     -> {project, profile, device, config, security, db, events}
//!     -> {helper, lxc, sys} -> lxc-sys
//! ```
//! `names` stands below all of them: the typed identifiers that are parsed once, at the edge; beside it `multipart`.

/// Makes the `Error` of a room of the errors of other rooms: a variant for each.
macro_rules! from {
    ($($variant:ident $type:ty),* $(,)?) => {
        $(impl From<$type> for Error {
            fn from(error: $type) -> Self {
                Self::$variant(error)
            }
        })*
    };
}

pub mod api;
pub mod auth;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod db;
pub mod device;
pub mod events;
pub mod fetch;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
pub mod guest;
pub mod health;
pub mod helper;
pub mod image;
pub mod instance;
pub mod lxc;
pub mod multipart;
pub mod names;
pub mod network;
pub mod ops;
pub mod profile;
pub mod project;
pub mod remote;
pub mod security;
pub mod state_dir;
pub mod storage;
pub mod sys;
pub mod template;
pub mod volume;
