//! Storage volumes.

use serde::{Deserialize, Serialize};

use super::{Config, null_default};

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
