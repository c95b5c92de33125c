//! The database: one writer thread over SQLite and the immutable in-memory model that everybody reads.
