//! Storage volumes.

use serde::{Deserialize, Serialize};

use super::{Config, null_config, null_default};

/// A storage volume.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageVolume {
    /// Configuration.
    #[serde(deserialize_with = "null_default")]
    pub config: Config,
    /// Free text.
    #[serde(deserialize_with = "null_default")]
    pub description: String,
    /// Its name.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// `container`, `custom`…
    #[serde(rename = "type", deserialize_with = "null_default")]
    pub kind: String,
    /// URLs of its users.
    #[serde(deserialize_with = "null_default")]
    pub used_by: Vec<String>,
    /// `none`.
    pub location: String,
    /// `filesystem`.
    pub content_type: String,
    /// Of the instance.
    pub project: String,
    /// RFC 3339.
    pub created_at: String,
}

/// Where a new volume comes from.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageVolumeSource {
    /// The volume, or `volume/snapshot`.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// `copy`, `migration`, or nothing for an empty one.
    #[serde(rename = "type", deserialize_with = "null_default")]
    pub kind: String,
    /// Its pool.
    #[serde(deserialize_with = "null_default")]
    pub pool: String,
    /// Its project.
    #[serde(deserialize_with = "null_default")]
    pub project: String,
    /// Without its snapshots.
    #[serde(deserialize_with = "null_default")]
    pub volume_only: bool,
    /// Bring an earlier copy up to date.
    #[serde(deserialize_with = "null_default")]
    pub refresh: bool,
}

/// A new volume.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct StorageVolumesPost {
    /// Its name.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// `custom`.
    #[serde(rename = "type", deserialize_with = "null_default")]
    pub kind: String,
    /// `filesystem`.
    #[serde(deserialize_with = "null_default")]
    pub content_type: String,
    /// Configuration.
    #[serde(deserialize_with = "null_config")]
    pub config: Config,
    /// Free text.
    #[serde(deserialize_with = "null_default")]
    pub description: String,
    /// Where it comes from.
    #[serde(deserialize_with = "null_default")]
    pub source: StorageVolumeSource,
}

/// A change of a volume.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct StorageVolumePut {
    /// Configuration.
    #[serde(deserialize_with = "null_config")]
    pub config: Config,
    /// Free text.
    #[serde(deserialize_with = "null_default")]
    pub description: String,
    /// Back to this snapshot.
    #[serde(deserialize_with = "null_default")]
    pub restore: String,
}

/// Another name or place for a volume.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct StorageVolumePost {
    /// The name.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// The pool; empty: as it is.
    #[serde(deserialize_with = "null_default")]
    pub pool: String,
    /// The project; empty: as it is.
    #[serde(deserialize_with = "null_default")]
    pub project: String,
    /// To another host.
    #[serde(deserialize_with = "null_default")]
    pub migration: bool,
}

/// A snapshot of a volume.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StorageVolumeSnapshot {
    /// The volume's configuration as it was.
    pub config: Config,
    /// Free text.
    pub description: String,
    /// RFC 3339; none is never.
    pub expires_at: Option<String>,
    /// Its name; in a list with the volume's before it.
    pub name: String,
    /// `filesystem`.
    pub content_type: String,
    /// RFC 3339.
    pub created_at: String,
}
