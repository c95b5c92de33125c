//! Why a project refuses something. The words are LXD's where programs may look for them.

use std::fmt;

use crate::names::{InstanceKey, ProfileName, ProjectName, VolumeKey};

/// Whose configuration or device is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// An instance, with what its profiles give it.
    Instance(InstanceKey),
    /// A profile, as a project sees it.
    Profile(ProjectName, ProfileName),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(key) => write!(f, "container {:?} of project {:?}", key.name.as_str(), key.project.as_str()),
            Self::Profile(project, name) => {
                write!(f, "profile {:?} of project {:?}", name.as_str(), project.as_str())
            }
        }
    }
}

/// Why a project refuses something.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "Display says what each one means; fields are named after what they hold")]
pub enum Error {
    NotFound,
    DefaultProject { verb: &'static str },
    DefaultFeatures,
    NotEmpty { verb: &'static str, by: String },
    Feature { key: &'static str, enabled: bool, by: String },
    SharedProfiles,
    NoNetworks,
    NetworkForbidden,
    Snapshots { project: ProjectName },
    Unset { key: &'static str, instance: InstanceKey },
    NoSize { instance: InstanceKey },
    NoVolumeSize { volume: VolumeKey },
    Unusable { key: &'static str, value: String, instance: InstanceKey },
    TooMany { what: &'static str, key: &'static str, limit: u64, project: ProjectName },
    TooLow { what: &'static str, key: &'static str, found: u64, project: ProjectName },
    Reached { key: &'static str, limit: String, total: String, project: ProjectName },
    BelowTotal { key: &'static str, total: String, project: ProjectName },
    Key { key: String, value: String, subject: Box<Subject>, why: &'static str, by: &'static str },
    LowLevel { key: String, subject: Box<Subject>, by: &'static str },
    Volatile { key: String, instance: InstanceKey },
    Device { device: String, subject: Box<Subject>, why: String, by: String },
    Conflict { project: ProjectName, cause: Box<Error> },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("Project not found"),
            Self::DefaultProject { verb } => write!(f, "The 'default' project cannot be {verb}"),
            Self::DefaultFeatures => f.write_str("You can't change the features of the default project"),
            Self::NotEmpty { verb, by } => write!(f, "Only empty projects can be {verb}: remove {by} first"),
            Self::Feature { key, enabled, by } => {
                let verb = if *enabled { "enabled" } else { "disabled" };
                write!(f, "Project feature {key:?} cannot be {verb} on non-empty projects: remove {by} first")
            }
            Self::SharedProfiles => {
                f.write_str("Projects without their own profiles cannot be restricted: set features.profiles")
            }
            Self::NoNetworks => f.write_str("Network type does not support non-default projects"),
            Self::NetworkForbidden => {
                f.write_str("Network not allowed in project: restricted.networks.access does not name it")
            }
            Self::Snapshots { project } => write!(
                f,
                "Project {:?} doesn't allow for snapshot creation: restricted.snapshots blocks it",
                project.as_str()
            ),
            Self::Unset { key, instance } => write!(
                f,
                "Instance {:?} in project {:?} has no {key:?} config, either directly or via a profile: the project limits their sum",
                instance.name.as_str(),
                instance.project.as_str()
            ),
            Self::NoSize { instance } => write!(
                f,
                "Instance {:?} in project {:?} has no \"size\" config set on the root device either directly or via a profile: the project limits their sum",
                instance.name.as_str(),
                instance.project.as_str()
            ),
            Self::NoVolumeSize { volume } => write!(
                f,
                "Custom volume {:?} in project {:?} has no \"size\" config set: the project limits their sum",
                volume.name.as_str(),
                volume.project.as_str()
            ),
            Self::Unusable { key, value, instance } => write!(
                f,
                "Failed parsing {key:?} for instance {:?} in project {:?}: {value:?} cannot be added up, give it as a number",
                instance.name.as_str(),
                instance.project.as_str()
            ),
            Self::TooMany { what, key, limit, project } => {
                write!(f, "Reached maximum number of {what} in project {:?}: {key} is {limit}", project.as_str())
            }
            Self::TooLow { what, key, found, project } => {
                write!(f, "{key:?} is too low: there currently are {found} {what} in project {:?}", project.as_str())
            }
            Self::Reached { key, limit, total, project } => write!(
                f,
                "Reached maximum aggregate value {limit:?} for {key:?} in project {:?}: it would be {total}",
                project.as_str()
            ),
            Self::BelowTotal { key, total, project } => {
                write!(f, "{key:?} is too low: current total is {total:?} in project {:?}", project.as_str())
            }
            Self::Key { key, value, subject, why, by } => {
                write!(f, "Invalid value {value:?} for config {key:?} on {subject}: {why} ({by})")
            }
            Self::LowLevel { key, subject, by } => {
                write!(f, "Use of low-level config {key:?} on {subject} is forbidden ({by})")
            }
            Self::Volatile { key, instance } => write!(
                f,
                "Setting {key:?} on container {:?} in project {:?} is forbidden",
                instance.name.as_str(),
                instance.project.as_str()
            ),
            Self::Device { device, subject, why, by } => {
                write!(f, "Invalid device {device:?} on {subject}: {why} ({by})")
            }
            Self::Conflict { project, cause } => {
                write!(f, "Conflict detected when changing project {:?}: {cause}", project.as_str())
            }
        }
    }
}

impl std::error::Error for Error {}
