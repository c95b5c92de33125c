//! Composition: profiles in order, then the instance; devices replaced by name.
