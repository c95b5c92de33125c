//! Where images come from.

use serde::{Deserialize, Serialize};

use super::{ImageAlias, null_default};

/// Where an image came from, and newer ones of its name do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageOrigin {
    /// Its name there.
    #[serde(deserialize_with = "null_default")]
    pub alias: String,
    /// The server's certificate, PEM; empty: the system's authorities vouch for it.
    #[serde(deserialize_with = "null_default")]
    pub certificate: String,
    /// `lxd`, `simplestreams`, `direct`.
    #[serde(deserialize_with = "null_default")]
    pub protocol: String,
    /// Its address; several, separated by spaces, are mirrors.
    #[serde(deserialize_with = "null_default")]
    pub server: String,
    /// `container`.
    #[serde(deserialize_with = "null_default")]
    pub image_type: String,
    /// The project there, of a server of LXD's protocol. Ours.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub project: String,
}

/// The body of `POST /1.0/images/<fingerprint>/export`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageExportPost {
    /// URL of the server that gets it.
    #[serde(deserialize_with = "null_default")]
    pub target: String,
    /// What that gave for it.
    #[serde(deserialize_with = "null_default")]
    pub secret: String,
    /// That server's certificate, PEM.
    #[serde(deserialize_with = "null_default")]
    pub certificate: String,
    /// Names there.
    #[serde(deserialize_with = "null_default")]
    pub aliases: Vec<ImageAlias>,
    /// Project there.
    #[serde(deserialize_with = "null_default")]
    pub project: String,
    /// Profiles there.
    #[serde(deserialize_with = "null_default")]
    pub profiles: Vec<String>,
}
