//! A new image that comes from somewhere else than the request's body.

use serde::{Deserialize, Serialize};

use super::{Config, ImageAlias, null_config, null_default};

/// `POST /1.0/images` as JSON.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImagesPost {
    /// Where it comes from; absent is an upload by other means.
    pub source: Option<ImageSource>,
    /// Anyone may read it.
    #[serde(deserialize_with = "null_default")]
    pub public: bool,
    /// Refresh from its source.
    #[serde(deserialize_with = "null_default")]
    pub auto_update: bool,
    /// Free properties, over those of the source.
    #[serde(deserialize_with = "null_config")]
    pub properties: Config,
    /// RFC 3339.
    #[serde(deserialize_with = "null_default")]
    pub expires_at: String,
    /// Name of the file it came as.
    #[serde(deserialize_with = "null_default")]
    pub filename: String,
    /// Names of it; other images lose them.
    #[serde(deserialize_with = "null_default")]
    pub aliases: Vec<ImageAlias>,
    /// How it is packed, perhaps with arguments; empty is what project and server say.
    #[serde(deserialize_with = "null_default")]
    pub compression_algorithm: String,
    /// Profiles of instances made from it; `null` or absent is the project's `default`.
    pub profiles: Option<Vec<String>>,
}

/// Source of a new image.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageSource {
    /// `instance`, `container`, `virtual-machine`, `snapshot`, `image`, `url`.
    #[serde(rename = "type", deserialize_with = "null_default")]
    pub kind: String,
    /// Of an instance, or `<instance>/<snapshot>`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// `pull` (also empty) or `push`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub mode: String,
    /// URL of an image server; empty is this one.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub server: String,
    /// `lxd`, `simplestreams` or `direct`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// For private remote images.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub secret: String,
    /// PEM of the server's certificate.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub certificate: String,
    /// Image alias.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub alias: String,
    /// Image fingerprint or a unique beginning of one.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub fingerprint: String,
    /// Of an image, with LXD's headers.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// Project of the image on this server.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub project: String,
    /// `container` or `virtual-machine`; empty is either.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub image_type: String,
}
