//! The REST API: a file per resource, the wire types, and one exhaustive map from error to status.

pub mod wire;
