//! The typed event bus.
