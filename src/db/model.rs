//! The model: what the database holds, as typed immutable records.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::api::wire::{AclRule, Config, Devices, ForwardPort, ImageOrigin};
use crate::config::ServerVolume;
use crate::db::{Seconds, Warning};
use crate::names::{
    AclName, AliasName, Fingerprint, InstanceKey, NetworkName, PoolName, ProfileName, ProjectName, SnapshotKey,
    SnapshotName, VolumeKey, VolumeName, VolumeSnapshotKey,
};

/// Where an object stands in its life. `Creating` and `Deleting` are the journal of multi-step work: what a crash
/// leaves in `Creating` is undone at the next start, what it leaves in `Deleting` is finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Row written, files not complete.
    Creating,
    /// Whole.
    Ready,
    /// Files going away, row still there.
    Deleting,
}

impl Phase {
    /// As stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Ready => "ready",
            Self::Deleting => "deleting",
        }
    }

    /// From its stored form.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "creating" => Some(Self::Creating),
            "ready" => Some(Self::Ready),
            "deleting" => Some(Self::Deleting),
            _ => None,
        }
    }
}

/// A project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// Its name.
    pub name: ProjectName,
    /// Free text.
    pub description: String,
    /// Configuration.
    pub config: Config,
}

/// A profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Its project.
    pub project: ProjectName,
    /// Its name.
    pub name: ProfileName,
    /// Free text.
    pub description: String,
    /// Configuration.
    pub config: Config,
    /// Devices.
    pub devices: Devices,
}

/// An instance: its definition, not its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Project and name.
    pub key: InstanceKey,
    /// Where it stands.
    pub phase: Phase,
    /// Free text.
    pub description: String,
    /// Kernel architecture.
    pub architecture: String,
    /// Deleted when it stops.
    pub ephemeral: bool,
    /// In order of application.
    pub profiles: Vec<ProfileName>,
    /// Own configuration, volatile keys included.
    pub config: Config,
    /// Own devices.
    pub devices: Devices,
    /// When it was made.
    pub created_at: Seconds,
    /// Last start, 0 before the first.
    pub last_used_at: Seconds,
    /// Pool of its root volume.
    pub pool: PoolName,
}

/// A snapshot of an instance: its definition as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceSnapshot {
    /// Instance and name.
    pub key: SnapshotKey,
    /// Grows with each snapshot of the instance: the order in which they were made.
    pub number: i64,
    /// Where it stands.
    pub phase: Phase,
    /// The instance's.
    pub description: String,
    /// Kernel architecture.
    pub architecture: String,
    /// Whether the instance was to be deleted when it stops.
    pub ephemeral: bool,
    /// In order of application.
    pub profiles: Vec<ProfileName>,
    /// Own configuration, volatile keys included.
    pub config: Config,
    /// Own devices.
    pub devices: Devices,
    /// When it was made.
    pub created_at: Seconds,
    /// When it is to be deleted; 0 is never.
    pub expires_at: Seconds,
    /// Last start of the instance before it, 0 for none.
    pub last_used_at: Seconds,
}

/// An image of a project. Its files are named by the fingerprint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its project.
    pub project: ProjectName,
    /// SHA-256 of its files.
    pub fingerprint: Fingerprint,
    /// Where it stands.
    pub phase: Phase,
    /// Name of the file it came as.
    pub filename: String,
    /// Bytes.
    pub size: i64,
    /// Anyone may read it.
    pub public: bool,
    /// Refresh from its source.
    pub auto_update: bool,
    /// Fetched as a cache.
    pub cached: bool,
    /// Kernel architecture.
    pub architecture: String,
    /// Free properties.
    pub properties: Config,
    /// Profiles of instances made from it.
    pub profiles: Vec<ProfileName>,
    /// From its metadata.
    pub created_at: Seconds,
    /// 0 is never.
    pub expires_at: Seconds,
    /// Whether somebody here said when it expires: not its server, nor itself.
    pub is_expiry_set: bool,
    /// 0 is never.
    pub last_used_at: Seconds,
    /// When it arrived here.
    pub uploaded_at: Seconds,
    /// Where it came from, and newer ones do.
    pub update_source: Option<ImageOrigin>,
}

/// A name of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// Its project.
    pub project: ProjectName,
    /// The alias.
    pub name: AliasName,
    /// Free text.
    pub description: String,
    /// The image.
    pub target: Fingerprint,
}

/// A storage pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// Where it stands.
    pub phase: Phase,
    /// `dir`, `overlay`.
    pub driver: String,
    /// Free text.
    pub description: String,
    /// Configuration.
    pub config: Config,
}

/// A custom storage volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Pool, project and name.
    pub key: VolumeKey,
    /// Where it stands.
    pub phase: Phase,
    /// Free text.
    pub description: String,
    /// Configuration.
    pub config: Config,
    /// When it was made.
    pub created_at: Seconds,
    /// The name that its files may still have, while it is being renamed.
    pub renamed_from: Option<VolumeName>,
}

/// A snapshot of a custom volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSnapshot {
    /// Volume and name.
    pub key: VolumeSnapshotKey,
    /// Grows with each snapshot of the volume: the order in which they were made.
    pub number: i64,
    /// Where it stands.
    pub phase: Phase,
    /// Free text.
    pub description: String,
    /// The volume's configuration as it was.
    pub config: Config,
    /// When it was made.
    pub created_at: Seconds,
    /// When it is to be deleted; 0 is never.
    pub expires_at: Seconds,
    /// The name that its files may still have, while it is being renamed.
    pub renamed_from: Option<SnapshotName>,
}

/// A managed network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its project.
    pub project: ProjectName,
    /// Its name, which is that of its interface.
    pub name: NetworkName,
    /// Where it stands.
    pub phase: Phase,
    /// `bridge`, `macvlan`, `physical`.
    pub kind: String,
    /// Free text.
    pub description: String,
    /// Configuration.
    pub config: Config,
}

/// What comes for an address is handed on into a managed network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// The network's project.
    pub project: ProjectName,
    /// The network.
    pub network: NetworkName,
    /// The address.
    pub listen: IpAddr,
    /// Free text.
    pub description: String,
    /// Configuration.
    pub config: Config,
    /// Ports and where they lead.
    pub ports: Vec<ForwardPort>,
}

impl Forward {
    /// Its key.
    pub fn key(&self) -> ForwardKey {
        (self.project.clone(), self.network.clone(), self.listen)
    }
}

/// Project and network of a forward, and its address.
pub type ForwardKey = (ProjectName, NetworkName, IpAddr);

/// An access control list of networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl {
    /// Its project.
    pub project: ProjectName,
    /// Its name.
    pub name: AclName,
    /// Free text.
    pub description: String,
    /// Configuration.
    pub config: Config,
    /// Rules for what instances send.
    pub egress: Vec<AclRule>,
    /// Rules for what they are sent.
    pub ingress: Vec<AclRule>,
}

/// What a trusted certificate is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateKind {
    /// The API.
    Client,
    /// Only `/1.0/metrics`.
    Metrics,
    /// The API, as LXD's clusters have it: the same as [`Self::Client`] on a single host.
    Server,
}

impl CertificateKind {
    /// The word on the wire, and as stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Metrics => "metrics",
            Self::Server => "server",
        }
    }

    /// From its word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Client, Self::Metrics, Self::Server].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A trusted certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// SHA-256 of the DER form.
    pub fingerprint: Fingerprint,
    /// What it is good for.
    pub kind: CertificateKind,
    /// Free name.
    pub name: String,
    /// Limited to `projects`.
    pub restricted: bool,
    /// Projects of a restricted certificate.
    pub projects: Vec<ProjectName>,
    /// The certificate.
    pub pem: String,
}

/// A permission to add one client's certificate to the trust store, which nobody has used yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustToken {
    /// The operation that stands for it.
    pub id: uuid::Uuid,
    /// Who knows it has the permission.
    pub secret: String,
    /// Name of the certificate to come.
    pub name: String,
    /// Whether that will be limited to `projects`.
    pub restricted: bool,
    /// Projects of a restricted certificate.
    pub projects: Vec<ProjectName>,
    /// The server's addresses when it was made.
    pub addresses: Vec<String>,
    /// When it was made.
    pub created_at: Seconds,
    /// Until when it is good; 0: for ever.
    pub expires_at: Seconds,
}

/// Everything the daemon knows. A clone shares all maps; [`crate::db::Tx`] copies those that it changes.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "each map is named by what it holds")]
pub struct Model {
    /// Counts commits.
    pub generation: u64,
    /// The server's configuration.
    pub config: Arc<Config>,
    pub projects: Arc<BTreeMap<ProjectName, Arc<Project>>>,
    pub profiles: Arc<BTreeMap<(ProjectName, ProfileName), Arc<Profile>>>,
    pub instances: Arc<BTreeMap<InstanceKey, Arc<Instance>>>,
    pub snapshots: Arc<BTreeMap<SnapshotKey, Arc<InstanceSnapshot>>>,
    pub images: Arc<BTreeMap<(ProjectName, Fingerprint), Arc<Image>>>,
    pub aliases: Arc<BTreeMap<(ProjectName, AliasName), Arc<Alias>>>,
    pub pools: Arc<BTreeMap<PoolName, Arc<Pool>>>,
    pub volumes: Arc<BTreeMap<VolumeKey, Arc<Volume>>>,
    pub volume_snapshots: Arc<BTreeMap<VolumeSnapshotKey, Arc<VolumeSnapshot>>>,
    pub networks: Arc<BTreeMap<(ProjectName, NetworkName), Arc<Network>>>,
    pub forwards: Arc<BTreeMap<ForwardKey, Arc<Forward>>>,
    pub acls: Arc<BTreeMap<(ProjectName, AclName), Arc<Acl>>>,
    pub warnings: Arc<BTreeMap<uuid::Uuid, Arc<Warning>>>,
    pub certificates: Arc<BTreeMap<Fingerprint, Arc<Certificate>>>,
    pub trust_tokens: Arc<BTreeMap<uuid::Uuid, Arc<TrustToken>>>,
}

/// What a project may have of its own, or share with `default`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// Images and their aliases.
    Images,
    /// Profiles.
    Profiles,
    /// Custom storage volumes.
    Volumes,
    /// Networks, their forwards and access control lists.
    Networks,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Images, Self::Profiles, Self::Volumes, Self::Networks];

    /// The project's key that decides it.
    pub fn key(self) -> &'static str {
        match self {
            Self::Images => "features.images",
            Self::Profiles => "features.profiles",
            Self::Volumes => "features.storage.volumes",
            Self::Networks => "features.networks",
        }
    }
}

impl Project {
    /// Whether it has these of its own. `default` has everything.
    pub fn has(&self, feature: Feature) -> bool {
        let own = |text: &String| crate::config::parse_bool(text) == Some(true);
        self.name.is_default() || self.config.get(feature.key()).is_some_and(own)
    }
}

impl Model {
    /// The project that holds what `project` sees of a kind: itself, or `default`. Of a holder it is the holder again.
    pub fn holder(&self, project: &ProjectName, feature: Feature) -> ProjectName {
        let own = project.is_default() || self.projects.get(project).is_some_and(|record| record.has(feature));
        if own { project.clone() } else { ProjectName::default() }
    }

    /// The snapshots of an instance, the oldest first.
    pub fn snapshots_of(&self, instance: &InstanceKey) -> Vec<&Arc<InstanceSnapshot>> {
        let from = self.snapshots.range(SnapshotKey::first_of(instance)..);
        let mut found: Vec<_> =
            from.map(|(_, record)| record).take_while(|record| record.key.instance == *instance).collect();
        found.sort_by_key(|record| record.number);
        found
    }

    /// The snapshots of a custom volume, the oldest first.
    pub fn snapshots_of_volume(&self, volume: &VolumeKey) -> Vec<&Arc<VolumeSnapshot>> {
        let from = self.volume_snapshots.range(VolumeSnapshotKey::first_of(volume)..);
        let mut found: Vec<_> =
            from.map(|(_, record)| record).take_while(|record| record.key.volume == *volume).collect();
        found.sort_by_key(|record| record.number);
        found
    }

    /// The project whose custom volumes the instances of `project` use: its own, or `default`.
    pub fn project_of_volumes(&self, project: &ProjectName) -> ProjectName {
        self.holder(project, Feature::Volumes)
    }

    /// What of the daemon's own lies on a custom volume.
    pub fn server_use(&self, volume: &VolumeKey) -> Option<ServerVolume> {
        ServerVolume::ALL.into_iter().find(|what| what.of(&self.config).as_ref() == Some(volume))
    }

    /// A profile by name, as `project` sees it.
    pub fn profile(&self, project: &ProjectName, name: &ProfileName) -> Option<&Arc<Profile>> {
        self.profiles.get(&(self.holder(project, Feature::Profiles), name.clone()))
    }

    /// An image by its whole fingerprint, as `project` sees it.
    pub fn image(&self, project: &ProjectName, fingerprint: &Fingerprint) -> Option<&Arc<Image>> {
        self.images.get(&(self.holder(project, Feature::Images), fingerprint.clone()))
    }

    /// An alias by name, as `project` sees it.
    pub fn alias(&self, project: &ProjectName, name: &AliasName) -> Option<&Arc<Alias>> {
        self.aliases.get(&(self.holder(project, Feature::Images), name.clone()))
    }

    /// A managed network by name, as `project` sees it.
    pub fn network(&self, project: &ProjectName, name: &NetworkName) -> Option<&Arc<Network>> {
        self.networks.get(&(self.holder(project, Feature::Networks), name.clone()))
    }

    /// An access control list by name, as `project` sees it.
    pub fn acl(&self, project: &ProjectName, name: &AclName) -> Option<&Arc<Acl>> {
        self.acls.get(&(self.holder(project, Feature::Networks), name.clone()))
    }
}
