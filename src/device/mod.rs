//! Devices: a file per kind. A device returns a plan; it never calls back.
