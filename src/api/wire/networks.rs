//! Forwards and access control lists of networks; warnings.

use serde::{Deserialize, Serialize};

use super::{Config, null_config, null_default};

/// What is handed on into a network (`/1.0/networks/<name>/forwards`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkForward {
    /// Free text.
    #[serde(deserialize_with = "null_default")]
    pub description: String,
    /// Configuration.
    #[serde(deserialize_with = "null_config")]
    pub config: Config,
    /// Ports.
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<ForwardPort>,
    /// The address that is handed on.
    #[serde(deserialize_with = "null_default")]
    pub listen_address: String,
    /// `none`.
    #[serde(deserialize_with = "null_default")]
    pub location: String,
}

/// Ports of a forward.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ForwardPort {
    /// Free text.
    #[serde(deserialize_with = "null_default")]
    pub description: String,
    /// `tcp` or `udp`.
    #[serde(deserialize_with = "null_default")]
    pub protocol: String,
    /// E.g. `80,90-99`.
    #[serde(deserialize_with = "null_default")]
    pub listen_port: String,
    /// The same number of them, or one, or none: those that are listened on.
    #[serde(deserialize_with = "null_default")]
    pub target_port: String,
    /// An address of the network.
    #[serde(deserialize_with = "null_default")]
    pub target_address: String,
}

/// An access control list (`/1.0/network-acls`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkAcl {
    /// Its name.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// Free text.
    #[serde(deserialize_with = "null_default")]
    pub description: String,
    /// Rules for what instances send.
    #[serde(deserialize_with = "null_default")]
    pub egress: Vec<AclRule>,
    /// Rules for what they are sent.
    #[serde(deserialize_with = "null_default")]
    pub ingress: Vec<AclRule>,
    /// Only `user.*`.
    #[serde(deserialize_with = "null_config")]
    pub config: Config,
    /// URLs of its users.
    #[serde(deserialize_with = "null_default")]
    pub used_by: Vec<String>,
}

/// A rule of an access control list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "each field is named by what it holds")]
pub struct AclRule {
    /// `allow`, `reject` or `drop`.
    #[serde(deserialize_with = "null_default")]
    pub action: String,
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub source: String,
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub destination: String,
    /// `tcp`, `udp`, `icmp4` or `icmp6`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub source_port: String,
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub destination_port: String,
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub icmp_type: String,
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub icmp_code: String,
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// `enabled`, `disabled` or `logged`.
    #[serde(deserialize_with = "null_default")]
    pub state: String,
}

/// Something that the administrator should know (`/1.0/warnings`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "each field is named by what it holds")]
pub struct Warning {
    /// `new`, `acknowledged` or `resolved`.
    #[serde(deserialize_with = "null_default")]
    pub status: String,
    pub uuid: String,
    /// `none`.
    pub location: String,
    pub project: String,
    /// What kind of thing.
    #[serde(rename = "type")]
    pub kind: String,
    /// How often it was seen.
    pub count: i64,
    pub first_seen_at: String,
    pub last_seen_at: String,
    pub last_message: String,
    /// `low`, `moderate` or `high`.
    pub severity: String,
    /// The object that it is about.
    pub entity_url: String,
}
