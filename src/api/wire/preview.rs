//! What a change would do (`?dry-run=1`). Ours: LXD has no such thing.

use serde::{Deserialize, Serialize};

/// Of every instance that a change concerns.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Preview {
    /// Each of them.
    pub instances: Vec<PreviewedInstance>,
}

/// What changes for one instance, with what its profiles give it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PreviewedInstance {
    /// Its name.
    pub name: String,
    /// Whether it runs now.
    pub running: bool,
    /// Keys of the configuration that change.
    pub config: Vec<ChangedKey>,
    /// Devices that change.
    pub devices: Vec<ChangedDevice>,
}

/// A key that changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChangedKey {
    /// The key.
    pub key: String,
    /// Empty: it was not set.
    pub old: String,
    /// Empty: it will not be set.
    pub new: String,
    /// `now`, `restart` (of an instance that runs), or `next start`.
    pub effect: String,
}

/// A device that changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChangedDevice {
    /// Its name.
    pub name: String,
    /// As of a key.
    pub effect: String,
}
