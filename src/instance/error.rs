//! Why something cannot be done with an instance.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::state::Status;
use crate::names::{InstanceKey, NameError, PoolName, Projects, SnapshotKey, SnapshotName, shown_path};
use crate::{config, db, device, helper, image, network, profile, project, storage};

/// The errors of this room.
#[derive(Debug)]
#[expect(missing_docs, reason = "Display says what each one means; fields are named after what they hold")]
pub enum Error {
    NotFound,
    OfUser {
        key: InstanceKey,
        cause: Box<Error>,
    },
    /// The same of one of whom nothing is told.
    OfHidden,
    /// `hidden`: how many more there are, of whom nothing is told.
    OfUsers {
        refusals: Vec<(InstanceKey, Error)>,
        hidden: usize,
    },
    Changed {
        etag: String,
    },
    Exists {
        key: InstanceKey,
    },
    SnapshotExists {
        name: SnapshotName,
    },
    NoSnapshot {
        key: SnapshotKey,
    },
    Pattern {
        pattern: String,
        reason: String,
    },
    Name(NameError),
    Running,
    RenameRunning,
    AlreadyRunning,
    AlreadyStopped,
    NotRunning,
    AlreadyFrozen,
    NotFrozen,
    Busy {
        status: Status,
    },
    StopTimeout {
        waited: Duration,
    },
    NoSuchPool(PoolName),
    PoolChange {
        from: PoolName,
        to: PoolName,
    },
    MoveRunning,
    ImageMissing {
        what: String,
    },
    Image(image::Error),
    NoController {
        key: &'static str,
        controller: &'static str,
    },
    Limit {
        key: &'static str,
        value: String,
        error: std::io::Error,
    },
    Architecture {
        wanted: String,
        host: String,
    },
    NoNvidia {
        missing: &'static str,
    },
    Plug {
        device: String,
        reason: String,
    },
    NoNetwork {
        device: String,
        network: String,
    },
    Config(config::Error),
    Device(device::Error),
    Profile(profile::Missing),
    Project(project::Error),
    Storage(storage::Error),
    Network(network::Error),
    Helper(helper::Error),
    Idmap(crate::security::idmap::Error),
    Db(db::Error),
    Io {
        doing: &'static str,
        path: PathBuf,
        error: std::io::Error,
    },
    /// A failed action, and what could not be undone after it.
    Undo {
        cause: Box<Error>,
        failures: Vec<Error>,
    },
    UnprivilegedOnly,
    Protected,
    /// A deletion in a pool that is away.
    Away {
        cause: storage::Error,
    },
    Module {
        name: String,
        error: std::io::Error,
    },
    Intercept {
        key: &'static str,
        reason: &'static str,
    },
    RawAppArmor {
        reason: String,
    },
    RawLxc {
        reason: String,
    },
    /// A start that liblxc gave up, and what of the configuration may be why.
    Start {
        cause: helper::Error,
        suspects: Vec<String>,
    },
    /// A start that failed, and a directory above the root that root of the container may not pass.
    ClosedDirectory {
        cause: helper::Error,
        path: PathBuf,
    },
    AppArmor {
        doing: &'static str,
        error: std::io::Error,
    },
    EmptyCommand,
    /// While something was done with its processes.
    Ended,
    NotUp {
        status: Status,
    },
    NoConnection,
    CommandNotFound,
    CommandNotExecutable,
    ConsoleInUse,
    NoConsoleLog,
    NoLog,
    NoTemplate {
        name: String,
    },
    BadMetadata {
        reason: String,
    },
    BadTemplate {
        key: String,
        reason: &'static str,
    },
    LogInUse {
        name: String,
    },
    TooManySessions,
    Random,
    ShuttingDown,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("Instance not found"),
            Self::OfUser { key, cause } => {
                write!(f, "The profile is in use by /1.0/instances/{}, which cannot live with that: {cause}", key.name)
            }
            Self::OfHidden => {
                f.write_str("The profile is in use by an instance of another project, which cannot live with that")
            }
            Self::OfUsers { refusals, hidden } => {
                f.write_str("The profile was not changed, as not all running instances that use it can follow")?;
                refusals.iter().try_for_each(|(key, error)| write!(f, "; {}: {error}", key.name))?;
                if *hidden > 0 { write!(f, "; {hidden} in other projects") } else { Ok(()) }
            }
            Self::Changed { etag } => {
                write!(f, "The instance was changed meanwhile (its ETag is {etag}): read it again and repeat the change")
            }
            Self::Exists { key } => write!(f, "Instance {:?} already exists", key.name.as_str()),
            Self::SnapshotExists { name } => write!(f, "Snapshot {:?} already exists", name.as_str()),
            Self::NoSnapshot { key } => {
                write!(f, "Snapshot {:?} of instance {:?} not found", key.name.as_str(), key.instance.name.as_str())
            }
            Self::Pattern { pattern, reason } => {
                write!(f, "Configuration key \"snapshots.pattern\": {pattern:?} makes no name: {reason}")
            }
            Self::Name(error) => error.fmt(f),
            Self::Running => f.write_str("Instance is running"),
            Self::RenameRunning => f.write_str("The instance is running: stop it to rename or move it"),
            Self::AlreadyRunning => f.write_str("The instance is already running"),
            Self::AlreadyStopped => f.write_str("The instance is already stopped"),
            Self::NotRunning => f.write_str("The instance isn't running"),
            Self::AlreadyFrozen => f.write_str("The instance is already frozen"),
            Self::NotFrozen => f.write_str("The instance is already running: it isn't frozen"),
            Self::Busy { status: Status::Stopping } => {
                f.write_str("The instance is stopping; try again when it is down, or stop it with --force")
            }
            Self::Busy { status } => {
                write!(f, "The instance is {}; try again in a moment", status.word().to_lowercase())
            }
            Self::StopTimeout { waited } => write!(
                f,
                "The instance did not shut down within {} s and goes on running; look at its console, or stop it with --force",
                waited.as_secs()
            ),
            Self::NoSuchPool(pool) => write!(f, "Storage pool {:?} of the root disk not found", pool.as_str()),
            Self::PoolChange { from, to } => write!(
                f,
                "Cannot update root disk device pool name from {:?} to {:?}: move the instance instead",
                from.as_str(),
                to.as_str()
            ),
            Self::MoveRunning => f.write_str("Instance is running: stop it to move it to another pool, or copy it"),
            Self::ImageMissing { what } => {
                write!(f, "Image {what:?} not found; list the images to see those that are here")
            }
            Self::Image(error) => error.fmt(f),
            Self::NoController { key, controller } => write!(
                f,
                "Configuration key {key:?}: this host has no {controller:?} control groups, so it cannot be kept; take the key away, or see \"warrend doctor\""
            ),
            Self::Limit { key, value, error } if error.raw_os_error() == Some(libc::EBUSY) => {
                write!(f, "Configuration key {key:?}: the instance uses more than {value} now, and cannot give enough of it up")
            }
            Self::Limit { key, value, error } => {
                write!(f, "Configuration key {key:?}: the kernel refuses {value:?}: {error}")
            }
            Self::Architecture { wanted, host } => {
                write!(f, "Invalid \"architecture\" {wanted:?}: this host runs {host}")
            }
            Self::NoNvidia { missing } => write!(
                f,
                "Configuration key \"nvidia.runtime\": the host has no {missing}; install it, or unset the key"
            ),
            Self::Plug { device, reason } => write!(f, "Device {device:?}: {reason}"),
            Self::NoNetwork { device, network } => {
                write!(f, "Device {device:?}: network {network:?} not found; create it first")
            }
            Self::Config(error) => error.fmt(f),
            Self::Device(error) => error.fmt(f),
            Self::Profile(error) => error.fmt(f),
            Self::Project(error) => error.fmt(f),
            Self::Away { cause } => write!(f, "{cause}. If it is lost: \"DELETE …?forget=1\" leaves alone what lies there"),
            Self::Storage(error) => error.fmt(f),
            Self::Network(error) => error.fmt(f),
            Self::Helper(error) => error.fmt(f),
            Self::Idmap(error) => error.fmt(f),
            Self::Db(error) => error.fmt(f),
            Self::Io { doing, path, error } => write!(f, "Cannot {doing} {}: {error}", shown_path(path)),
            Self::Undo { cause, failures } => {
                write!(f, "{cause}")?;
                for failure in failures {
                    write!(f, "; and cleaning up after that: {failure}")?;
                }
                Ok(())
            }
            Self::UnprivilegedOnly => f.write_str(
                "Warren was configured to only allow unprivileged containers (by WARREN_UNPRIVILEGED_ONLY or LXD_UNPRIVILEGED_ONLY): leave security.privileged, raw.idmap, and lxc.idmap and lxc.namespace.* in raw.lxc out",
            ),
            Self::Protected => {
                f.write_str("Instance is protected: unset security.protection.delete, there or in its profile, to delete it")
            }
            Self::Module { name, error } => {
                write!(f, "Configuration key \"linux.kernel_modules\": the kernel module {name:?} cannot be loaded: {error}")
            }
            Self::Intercept { key, reason } => {
                write!(f, "Configuration key {key:?}: {reason}; unset it")
            }
            Self::RawAppArmor { reason } => {
                write!(f, "Configuration key \"raw.apparmor\": {reason}; see apparmor.d(5) for what a line may be")
            }
            Self::RawLxc { reason } => {
                write!(f, "Configuration key \"raw.lxc\": {reason}; see lxc.container.conf(5) for what a line may be")
            }
            Self::Start { cause, suspects } => {
                write!(f, "{cause}. What may be why in its configuration: {}", suspects.join(", "))
            }
            Self::ClosedDirectory { cause, path } => {
                let path = path.display();
                write!(f, "{cause}. Nobody but its owner may pass {path}, above the storage pool: \"chmod o+x {path}\"")
            }
            Self::AppArmor { doing, error } => write!(f, "Cannot {doing}: {error}"),
            Self::Ended => f.write_str("The instance ended or restarted meanwhile: try again"),
            Self::EmptyCommand => f.write_str("The field \"command\" is empty: name the program to run"),
            Self::NotUp { status: Status::Frozen } => f.write_str("Instance is frozen"),
            Self::NotUp { status: Status::Stopped } => f.write_str("Instance is not running"),
            Self::NotUp { status } => write!(f, "Instance is not running (it is {})", status.word().to_lowercase()),
            Self::CommandNotFound => f.write_str("Command not found"),
            Self::CommandNotExecutable => f.write_str("Command not executable"),
            Self::ConsoleInUse => f.write_str(
                "The console is in use by another client: \"force\" takes it over, \"--show-log\" only looks",
            ),
            Self::NoConsoleLog => f.write_str("The instance has no console log: nothing was written to its console since it was last started, if it was"),
            Self::NoConnection => f.write_str("The client did not connect to the websockets of the command in time"),
            Self::NoTemplate { name } => write!(f, "Template {name:?} not found"),
            Self::BadMetadata { reason } => {
                write!(f, "The instance's metadata.yaml cannot be used: {reason}; replace it by PUT")
            }
            Self::BadTemplate { key, reason } => write!(f, "The metadata's key {key:?}: {reason}"),
            Self::NoLog => f.write_str("Log file not found: the instance has none of this name"),
            Self::LogInUse { name } => write!(f, "The log file {name:?} is the instance's own and cannot be deleted"),
            Self::TooManySessions => f.write_str("Too many SFTP sessions are open: close some and try again"),
            Self::Random => f.write_str("The kernel gives no random numbers"),
            Self::ShuttingDown => f.write_str("The daemon is shutting down"),
        }
    }
}

impl std::error::Error for Error {}

/// Equality for tests of the policy: by message.
impl PartialEq for Error {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for Error {}

impl Error {
    /// The same as it is told to somebody who may see `projects`: instances of others that share a profile are not named.
    pub fn seen_by(self, projects: &Projects) -> Self {
        match self {
            Self::OfUser { key, .. } if !projects.holds(&key.project) => Self::OfHidden,
            Self::OfUsers { mut refusals, hidden } => {
                let all = refusals.len();
                refusals.retain(|(key, _)| projects.holds(&key.project));
                let hidden = hidden + all - refusals.len();
                Self::OfUsers { refusals, hidden }
            }
            other => other,
        }
    }
}

from!(
    Name NameError,
    Config config::Error,
    Device device::Error,
    Profile profile::Missing,
    Project project::Error,
    Storage storage::Error,
    Network network::Error,
    Helper helper::Error,
    Idmap crate::security::idmap::Error,
    Db db::Error,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_uses_a_profile_elsewhere_is_not_named() {
        let key =
            |project: &str, name: &str| InstanceKey { project: project.parse().unwrap(), name: name.parse().unwrap() };
        let seen = |error: Error| error.seen_by(&Projects::Only([key("web", "a").project].into())).to_string();
        let refusals = vec![(key("web", "mine"), Error::Running), (key("default", "hidden"), Error::Running)];
        let told = seen(Error::OfUsers { refusals, hidden: 0 });
        assert!(told.contains("mine") && told.contains("1 in other projects") && !told.contains("hidden"), "{told}");
        let one = |project: &str| Error::OfUser { key: key(project, "c1"), cause: Box::new(Error::Running) };
        assert!(seen(one("web")).contains("c1") && !seen(one("default")).contains("c1"));
    }
}
