//! `metadata.yaml` of an image or instance, as the API shows it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Config, null_default};

/// What an image says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageMetadata {
    /// Kernel architecture.
    #[serde(deserialize_with = "null_default")]
    pub architecture: String,
    /// Seconds since 1970.
    #[serde(deserialize_with = "null_default")]
    pub creation_date: i64,
    /// Seconds since 1970; 0 is never.
    #[serde(deserialize_with = "null_default")]
    pub expiry_date: i64,
    /// Free properties.
    #[serde(deserialize_with = "null_default")]
    pub properties: Config,
    /// Path inside the container to its template.
    #[serde(deserialize_with = "null_default")]
    pub templates: BTreeMap<String, ImageTemplate>,
}

/// A file that is written from a template.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageTemplate {
    /// `create`, `copy`, `start`.
    #[serde(deserialize_with = "null_default")]
    pub when: Vec<String>,
    /// Only where the file is not there yet.
    #[serde(deserialize_with = "null_default")]
    pub create_only: bool,
    /// Name of the template.
    #[serde(deserialize_with = "null_default")]
    pub template: String,
    /// Values for the template.
    #[serde(deserialize_with = "null_default")]
    pub properties: Config,
}
