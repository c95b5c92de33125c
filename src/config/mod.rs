//! The key table: one row per key with its type, default, validator, documentation and effect.
