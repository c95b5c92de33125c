//! The objects of LXD's API 1.0 as they travel: JSON field names, types and defaults, no behaviour.
//!
//! Source: the public API description of LXD 5.0.2. Shared by the daemon and the client; free of warp.
//! Requests tolerate absent and `null` fields and ignore unknown ones; maps of configuration accept only strings and `null`.

pub mod health;
mod image_source;
mod images_post;
mod instance_source;
mod metadata;
mod networks;
mod preview;
mod project;
pub mod resources;
mod state;
mod storage_volume;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

pub use image_source::{ImageExportPost, ImageOrigin};
pub use images_post::{ImageSource, ImagesPost};
pub use instance_source::InstanceSource;
pub use metadata::{ImageMetadata, ImageTemplate};
pub use networks::{AclRule, ForwardPort, NetworkAcl, NetworkForward, Warning};
pub use preview::{ChangedDevice, ChangedKey, Preview, PreviewedInstance};
pub use project::Project;
pub use state::{Address, CpuState, DiskState, InstanceState, MemoryState, NetworkCounters, NetworkState};
pub use storage_volume::{
    StorageVolume, StorageVolumePost, StorageVolumePut, StorageVolumeSnapshot, StorageVolumeSource, StorageVolumesPost,
};

/// Configuration: key to value, both text.
pub type Config = BTreeMap<String, String>;
/// Devices: name to properties.
pub type Devices = BTreeMap<String, Config>;

/// Reads `null` as the default of the field's type.
pub fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads a map of texts in which `null` is the empty text, which unsets a key: so do clients that make it from YAML.
fn null_config<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Config, D::Error> {
    let map: Option<BTreeMap<String, Option<String>>> = Deserialize::deserialize(deserializer)?;
    Ok(map.unwrap_or_default().into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect())
}

/// Reads devices, of which each may hold such values, or be `null`.
fn null_devices<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Devices, D::Error> {
    #[derive(Default, Deserialize)]
    struct Device(#[serde(deserialize_with = "null_config")] Config);
    let map: Option<BTreeMap<String, Device>> = Deserialize::deserialize(deserializer)?;
    Ok(map.unwrap_or_default().into_iter().map(|(name, device)| (name, device.0)).collect())
}

/// Writes a map without entries as `null`, as LXD does where it has made none.
fn null_when_empty<S: serde::Serializer>(map: &BTreeMap<String, Vec<String>>, to: S) -> Result<S::Ok, S::Error> {
    if map.is_empty() { to.serialize_none() } else { map.serialize(to) }
}

/// The time that stands for "never": 1970-01-01T00:00:00Z.
pub const NEVER: &str = "1970-01-01T00:00:00Z";

/// The envelope around every JSON answer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Envelope {
    /// `sync`, `async` or `error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Text of `status_code`; empty in errors.
    #[serde(default)]
    pub status: String,
    /// 200 for sync, 100 for async, 0 for errors.
    #[serde(default)]
    pub status_code: u16,
    /// URL of the operation of an async answer.
    #[serde(default)]
    pub operation: String,
    /// HTTP status of an error, else 0.
    #[serde(default)]
    pub error_code: u16,
    /// Message of an error, else empty.
    #[serde(default)]
    pub error: String,
    /// The answer itself.
    #[serde(default)]
    pub metadata: Value,
}

/// An operation (`/1.0/operations/<id>`).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Operation {
    /// UUID.
    pub id: String,
    /// `task`, `websocket` or `token`.
    pub class: String,
    /// What it does, e.g. "Starting instance".
    pub description: String,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
    /// Text of `status_code`.
    pub status: String,
    /// 103 running, 105 pending, 104 cancelling, 200 success, 400 failure, 401 cancelled.
    pub status_code: u16,
    /// Kind (e.g. `instances`) to URLs; none is `null`.
    #[serde(deserialize_with = "null_default", serialize_with = "null_when_empty")]
    pub resources: BTreeMap<String, Vec<String>>,
    /// What the operation tells; `null` when nothing.
    pub metadata: Option<serde_json::Map<String, Value>>,
    /// Whether DELETE cancels it.
    pub may_cancel: bool,
    /// Why it failed, else empty.
    pub err: String,
    /// Always "none" on a single host.
    pub location: String,
}

/// An instance, with what recursion 2 adds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Instance {
    /// Kernel architecture, e.g. `x86_64`.
    pub architecture: String,
    /// Own configuration.
    #[serde(deserialize_with = "null_config")]
    pub config: Config,
    /// Own devices.
    #[serde(deserialize_with = "null_devices")]
    pub devices: Devices,
    /// Deleted when it stops.
    pub ephemeral: bool,
    /// In order of application.
    #[serde(deserialize_with = "null_default")]
    pub profiles: Vec<String>,
    /// Holds a saved runtime state.
    pub stateful: bool,
    /// Free text.
    pub description: String,
    /// RFC 3339.
    pub created_at: String,
    /// Configuration with that of the profiles.
    #[serde(deserialize_with = "null_config")]
    pub expanded_config: Config,
    /// Devices with those of the profiles.
    #[serde(deserialize_with = "null_devices")]
    pub expanded_devices: Devices,
    /// Host name of 1–63 characters.
    pub name: String,
    /// Text of `status_code`: Stopped, Running, Frozen, Error…
    pub status: String,
    /// 102, 103, 110, 112…
    pub status_code: u16,
    /// RFC 3339; [`NEVER`] before the first start.
    pub last_used_at: String,
    /// Always "none" on a single host.
    pub location: String,
    /// Always "container".
    #[serde(rename = "type")]
    pub kind: String,
    /// Its project.
    pub project: String,
    /// Only with recursion 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backups: Option<Vec<Value>>,
    /// Only with recursion 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<InstanceState>,
    /// Only with recursion 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<Vec<Value>>,
}

/// Body of `POST /1.0/instances`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InstancesPost {
    /// Empty: a name is made.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// Empty: the image's.
    #[serde(deserialize_with = "null_default")]
    pub architecture: String,
    /// `null` means `["default"]`.
    pub profiles: Option<Vec<String>>,
    /// Own configuration.
    #[serde(deserialize_with = "null_config")]
    pub config: Config,
    /// Own devices.
    #[serde(deserialize_with = "null_devices")]
    pub devices: Devices,
    /// Deleted when it stops.
    #[serde(deserialize_with = "null_default")]
    pub ephemeral: bool,
    /// Free text.
    #[serde(deserialize_with = "null_default")]
    pub description: String,
    /// A named size such as `c2-m4`.
    #[serde(deserialize_with = "null_default")]
    pub instance_type: String,
    /// `container` or empty.
    #[serde(rename = "type", deserialize_with = "null_default")]
    pub kind: String,
    /// Restore a saved runtime state.
    #[serde(deserialize_with = "null_default")]
    pub stateful: bool,
    /// Start it at once (ours accept it; LXD's clients send a state change).
    #[serde(deserialize_with = "null_default")]
    pub start: bool,
    /// Where the root file system comes from.
    #[serde(deserialize_with = "null_default")]
    pub source: InstanceSource,
}

/// Body of `PUT /1.0/instances/<name>`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InstancePut {
    /// Kernel architecture.
    #[serde(deserialize_with = "null_default")]
    pub architecture: String,
    /// Own configuration.
    #[serde(deserialize_with = "null_config")]
    pub config: Config,
    /// Own devices.
    #[serde(deserialize_with = "null_devices")]
    pub devices: Devices,
    /// Deleted when it stops.
    #[serde(deserialize_with = "null_default")]
    pub ephemeral: bool,
    /// In order of application.
    pub profiles: Option<Vec<String>>,
    /// Snapshot to restore.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub restore: String,
    /// With its running state.
    #[serde(deserialize_with = "null_default", skip_serializing)]
    pub stateful: bool,
    /// Free text.
    #[serde(deserialize_with = "null_default")]
    pub description: String,
}

/// Body of `PUT /1.0/instances/<name>/state`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceStatePut {
    /// `start`, `stop`, `restart`, `freeze`, `unfreeze`.
    #[serde(deserialize_with = "null_default")]
    pub action: String,
    /// Seconds; -1 waits for ever.
    pub timeout: Option<i64>,
    /// Kill instead of asking.
    #[serde(deserialize_with = "null_default")]
    pub force: bool,
    /// Save or restore the runtime state.
    #[serde(deserialize_with = "null_default")]
    pub stateful: bool,
}

/// Body of `PUT /1.0/instances`: one change of the state for all instances.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InstancesPut {
    /// The change.
    pub state: Option<InstanceStatePut>,
}

/// Body of `POST /1.0/instances/<name>`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InstancePost {
    /// The new name.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// To another host.
    #[serde(deserialize_with = "null_default")]
    pub migration: bool,
    /// To another pool.
    #[serde(deserialize_with = "null_default")]
    pub pool: String,
    /// To another project.
    #[serde(deserialize_with = "null_default")]
    pub project: String,
    /// Without its snapshots.
    #[serde(deserialize_with = "null_default", skip_serializing)]
    pub instance_only: bool,
    /// The older word for that.
    #[serde(deserialize_with = "null_default", skip_serializing)]
    pub container_only: bool,
}

/// Body of `POST /1.0/instances/<name>/exec`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecPost {
    /// Program and arguments.
    #[serde(deserialize_with = "null_default")]
    pub command: Vec<String>,
    /// Hand out websockets and wait for them.
    #[serde(rename = "wait-for-websocket", deserialize_with = "null_default")]
    pub wait_for_websocket: bool,
    /// With a pty.
    #[serde(deserialize_with = "null_default")]
    pub interactive: bool,
    /// Added to the instance's.
    #[serde(deserialize_with = "null_config")]
    pub environment: Config,
    /// Columns of the pty.
    #[serde(deserialize_with = "null_default")]
    pub width: u16,
    /// Rows of the pty.
    #[serde(deserialize_with = "null_default")]
    pub height: u16,
    /// Keep the output as log files.
    #[serde(rename = "record-output", deserialize_with = "null_default")]
    pub record_output: bool,
    /// User id inside.
    #[serde(deserialize_with = "null_default")]
    pub user: u32,
    /// Group id inside.
    #[serde(deserialize_with = "null_default")]
    pub group: u32,
    /// Working directory.
    #[serde(deserialize_with = "null_default")]
    pub cwd: String,
}

/// Body of `POST /1.0/instances/<name>/console`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsolePost {
    /// Columns.
    #[serde(deserialize_with = "null_default")]
    pub width: u16,
    /// Rows.
    #[serde(deserialize_with = "null_default")]
    pub height: u16,
    /// `console`, also when empty.
    #[serde(rename = "type", deserialize_with = "null_default")]
    pub kind: String,
    /// Take it from the client that has it. LXD 5.0.2 has no such field: there a second client is refused.
    #[serde(deserialize_with = "null_default")]
    pub force: bool,
}

/// A message on the control websocket of exec and of the console.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecControl {
    /// `window-resize` or `signal`.
    pub command: String,
    /// `width` and `height` of a resize.
    #[serde(deserialize_with = "null_config")]
    pub args: Config,
    /// Number of a signal.
    #[serde(deserialize_with = "null_default")]
    pub signal: i32,
}

/// A profile.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Profile {
    /// Configuration.
    #[serde(deserialize_with = "null_config")]
    pub config: Config,
    /// Free text.
    #[serde(deserialize_with = "null_default")]
    pub description: String,
    /// Devices.
    #[serde(deserialize_with = "null_devices")]
    pub devices: Devices,
    /// Its name.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// URLs of its users.
    #[serde(deserialize_with = "null_default")]
    pub used_by: Vec<String>,
}

/// An image.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Image {
    /// Refresh from its source.
    #[serde(deserialize_with = "null_default")]
    pub auto_update: bool,
    /// Free properties.
    #[serde(deserialize_with = "null_config")]
    pub properties: Config,
    /// Anyone may read it.
    #[serde(deserialize_with = "null_default")]
    pub public: bool,
    /// RFC 3339.
    #[serde(deserialize_with = "null_default")]
    pub expires_at: String,
    /// Profiles of instances made from it.
    #[serde(deserialize_with = "null_default")]
    pub profiles: Vec<String>,
    /// Names.
    #[serde(deserialize_with = "null_default")]
    pub aliases: Vec<ImageAlias>,
    /// Kernel architecture.
    pub architecture: String,
    /// Fetched as a cache.
    pub cached: bool,
    /// Name of the file it came as.
    pub filename: String,
    /// SHA-256.
    pub fingerprint: String,
    /// Bytes.
    pub size: i64,
    /// Where refreshes come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_source: Option<ImageOrigin>,
    /// Always `container`.
    #[serde(rename = "type")]
    pub kind: String,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub last_used_at: String,
    /// RFC 3339.
    pub uploaded_at: String,
}

/// An alias, inside an image or (with `target` and `type`) on its own.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageAlias {
    /// The alias.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// Free text.
    #[serde(deserialize_with = "null_default")]
    pub description: String,
    /// Fingerprint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// `container`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

/// A storage pool.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StoragePool {
    /// Configuration.
    #[serde(deserialize_with = "null_config")]
    pub config: Config,
    /// Free text.
    #[serde(deserialize_with = "null_default")]
    pub description: String,
    /// Its name.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// `dir`, `overlay`…
    #[serde(deserialize_with = "null_default")]
    pub driver: String,
    /// URLs of its users.
    #[serde(deserialize_with = "null_default")]
    pub used_by: Vec<String>,
    /// `Created`, `Unavailable`…
    pub status: String,
    /// `["none"]`.
    #[serde(deserialize_with = "null_default")]
    pub locations: Vec<String>,
}

/// A network, managed or of the host.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Configuration.
    #[serde(deserialize_with = "null_config")]
    pub config: Config,
    /// Free text.
    #[serde(deserialize_with = "null_default")]
    pub description: String,
    /// Its name.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// `bridge`, `physical`, `loopback`…
    #[serde(rename = "type", deserialize_with = "null_default")]
    pub kind: String,
    /// URLs of its users.
    #[serde(deserialize_with = "null_default")]
    pub used_by: Vec<String>,
    /// Made by us.
    pub managed: bool,
    /// `Created`, `Unavailable`, or empty for the host's own.
    pub status: String,
    /// `["none"]`; nothing for the host's own.
    pub locations: Option<Vec<String>>,
}

/// A trusted certificate.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Certificate {
    /// Free name.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// `client`, `metrics` or `server`.
    #[serde(rename = "type", deserialize_with = "null_default")]
    pub kind: String,
    /// Limited to `projects`.
    #[serde(deserialize_with = "null_default")]
    pub restricted: bool,
    /// Projects of a restricted certificate.
    #[serde(deserialize_with = "null_default")]
    pub projects: Vec<String>,
    /// PEM.
    #[serde(deserialize_with = "null_default")]
    pub certificate: String,
    /// SHA-256 of the DER form.
    pub fingerprint: String,
}

/// Body of `POST /1.0/certificates`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificatesPost {
    /// Free name.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// `client`.
    #[serde(rename = "type", deserialize_with = "null_default")]
    pub kind: String,
    /// Limited to `projects`.
    #[serde(deserialize_with = "null_default")]
    pub restricted: bool,
    /// Projects of a restricted certificate.
    #[serde(deserialize_with = "null_default")]
    pub projects: Vec<String>,
    /// PEM or base64 of DER; absent: that of the connection.
    #[serde(deserialize_with = "null_default")]
    pub certificate: String,
    /// Trust password, or a token.
    #[serde(deserialize_with = "null_default")]
    pub password: String,
    /// A token, as clients of Incus send it.
    #[serde(deserialize_with = "null_default")]
    pub trust_token: String,
    /// Asks for a token instead of adding.
    #[serde(deserialize_with = "null_default")]
    pub token: bool,
}

/// An event as sent by `/1.0/events`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// `operation`, `lifecycle` or `logging`.
    #[serde(rename = "type")]
    pub kind: String,
    /// RFC 3339 with nanoseconds.
    pub timestamp: String,
    /// What happened.
    pub metadata: Value,
    /// Always "none" on a single host.
    pub location: String,
    /// Project, for operation and lifecycle.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub project: String,
}
