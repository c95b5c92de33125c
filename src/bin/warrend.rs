//! The daemon. `main` chooses daemon, administrative verb, helper or hook before any thread exists.
fn main() {}
