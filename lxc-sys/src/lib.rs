//! Raw bindings to liblxc 5.0 and later: declarations only. The safe wrapper is `warren::lxc`.
#![allow(
    missing_docs,
    unsafe_code,
    unreachable_pub,
    non_camel_case_types,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    reason = "generated from vendor-headers/warren-lxc.h"
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
