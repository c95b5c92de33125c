//! Where a new instance's root comes from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Config, null_config, null_default};

/// Source of a new instance.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceSource {
    /// `image`, `none`, `copy`, `migration`.
    #[serde(rename = "type", deserialize_with = "null_default")]
    pub kind: String,
    /// Image alias.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub alias: String,
    /// Image fingerprint or a unique beginning of one.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub fingerprint: String,
    /// Properties of which an image must have all.
    #[serde(deserialize_with = "null_config", skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: Config,
    /// URL of an image server.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub server: String,
    /// Of that server.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// `pull`, `push`, `relay` or `local`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub mode: String,
    /// For private remote images.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub secret: String,
    /// The server's certificate, PEM.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub certificate: String,
    /// `container`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub image_type: String,
    /// Instance to copy.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Without its snapshots.
    #[serde(deserialize_with = "null_default", skip_serializing)]
    pub instance_only: bool,
    /// The older word for that; the stock client sends both.
    #[serde(deserialize_with = "null_default", skip_serializing)]
    pub container_only: bool,
    /// Bring a copy up to date.
    #[serde(deserialize_with = "null_default", skip_serializing)]
    pub refresh: bool,
    /// Project of the image or of the instance to copy.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub project: String,
}
