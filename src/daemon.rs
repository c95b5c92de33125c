//! Composition: build, adopt, serve, shut down.
