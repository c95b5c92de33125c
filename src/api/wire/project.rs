//! Projects.

use serde::{Deserialize, Serialize};

use super::{Config, null_config, null_default};

/// A project.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Project {
    /// Configuration.
    #[serde(deserialize_with = "null_config")]
    pub config: Config,
    /// Free text.
    #[serde(deserialize_with = "null_default")]
    pub description: String,
    /// Its name.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// URLs of what lies in it.
    #[serde(deserialize_with = "null_default")]
    pub used_by: Vec<String>,
}
