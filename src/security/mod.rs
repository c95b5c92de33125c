//! The defaults in one place: id maps, seccomp, AppArmor, capabilities.
