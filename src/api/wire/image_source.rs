//! Where images come from.

use serde::{Deserialize, Serialize};

use super::{Config, ImageAlias, null_config, null_default};

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

/// The body of `POST /1.0/images` for an image that the daemon gets by itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImagesPost {
    /// Names that it gets.
    #[serde(deserialize_with = "null_default")]
    pub aliases: Vec<ImageAlias>,
    /// Newer ones take its place.
    #[serde(deserialize_with = "null_default")]
    pub auto_update: bool,
    /// RFC 3339.
    #[serde(deserialize_with = "null_default")]
    pub expires_at: String,
    /// Name of the file.
    #[serde(deserialize_with = "null_default")]
    pub filename: String,
    /// Profiles of instances made from it.
    pub profiles: Option<Vec<String>>,
    /// Go before what is said elsewhere.
    #[serde(deserialize_with = "null_config")]
    pub properties: Config,
    /// Anyone may read it.
    #[serde(deserialize_with = "null_default")]
    pub public: bool,
    /// Where it comes from.
    #[serde(deserialize_with = "null_default")]
    pub source: ImageSource,
    /// How a published image is packed.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub compression_algorithm: String,
}

/// Source of a new image.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageSource {
    /// `image`, `url`, `instance`, `container`, `snapshot`.
    #[serde(rename = "type", deserialize_with = "null_default")]
    pub kind: String,
    /// `pull`, `push`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub mode: String,
    /// Its name there.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub alias: String,
    /// Fingerprint, or a unique beginning of one.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub fingerprint: String,
    /// `container`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub image_type: String,
    /// URL of the server.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub server: String,
    /// Its certificate, PEM.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub certificate: String,
    /// `lxd`, `simplestreams`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// For an image that is not public.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub secret: String,
    /// Project there.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub project: String,
    /// An address of its own.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// An instance, or a snapshot of one.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub name: String,
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
