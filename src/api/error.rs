//! One exhaustive map from errors to the wire: every status of the API is decided here.

use std::fmt;

use http::StatusCode;

use super::body::BodyError;
use super::call::visible;
use super::filter::BadFilter;
use super::server::AddressError;
use super::websocket::NotAWebsocket;
use crate::auth::Trust;
use crate::helper::files::Refusal;
use crate::names::{NameError, ProjectName};
use crate::{
    auth, config, db, device, fetch, helper, image, instance, network, ops, profile, project, remote, storage, volume,
};

/// Why a request is refused.
#[derive(Debug)]
#[expect(missing_docs, reason = "Display says what each one means; fields are named after what they hold")]
pub enum Error {
    UnknownPath,
    NotImplemented,
    Forbidden,
    ReadOnly,
    OfAnother { project: ProjectName },
    NotFound(&'static str),
    Exists { what: &'static str, name: String },
    InUse { what: &'static str, name: String, by: Users },
    Json(String),
    Body(BodyError),
    Name(NameError),
    Query { name: &'static str, expected: &'static str },
    Field { name: &'static str, reason: String },
    File { path: String, why: Refusal },
    Upgrade,
    Console(String),
    Unsupported { what: String },
    Filter(BadFilter),
    Precondition { wanted: String },
    Ambiguous { fingerprint: String },
    DefaultProfile,
    Trusted,
    AlreadyTrusted,
    CertificateType,
    OnlyCertificate,
    NoToken,
    NotListening,
    Revoked,
    TokenExpired,
    TooManyTries,
    TooManySockets,
    Random,
    Operation(ops::Error),
    Websocket(NotAWebsocket),
    Address(AddressError),
    Instance(instance::Error),
    Auth(auth::Error),
    Config(config::Error),
    Device(device::Error),
    Profile(profile::Missing),
    Project(project::Error),
    Image(image::Error),
    Storage(storage::Error),
    Volume(volume::Error),
    Network(network::Error),
    Remote(remote::Error),
    Db(db::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownPath => f.write_str("not found"),
            Self::NotImplemented => f.write_str("not implemented"),
            Self::Forbidden => f.write_str("not authorized"),
            Self::ReadOnly => f.write_str("not authorized: core.unix_roles lets your group only read"),
            Self::OfAnother { project } => write!(
                f,
                "not authorized: what this project shares lies in the project {:?}, to which you are not limited",
                project.as_str()
            ),
            Self::NotFound(what) => write!(f, "{what} not found"),
            Self::Exists { what, name } => write!(f, "{what} {name:?} already exists"),
            Self::InUse { what, name, by } => {
                write!(f, "{what} {name:?} is currently in use by {by}: change that first")
            }
            Self::Json(reason) => write!(f, "The request's body is not the JSON that this address takes: {reason}"),
            Self::Body(error) => error.fmt(f),
            Self::Name(error) => error.fmt(f),
            Self::Query { name, expected } => write!(f, "The query parameter {name:?} must be {expected}"),
            Self::Field { name, reason } => write!(f, "The field {name:?}: {reason}"),
            Self::File { path, why } => write!(f, "File {path:?}: {why}"),
            Self::Upgrade => f.write_str("Missing or invalid upgrade header: this address needs \"Upgrade: sftp\""),
            Self::Console(reason) => f.write_str(reason),
            Self::Unsupported { what } => write!(f, "Not supported by this version: {what}"),
            Self::Filter(error) => error.fmt(f),
            Self::Precondition { wanted } => {
                write!(
                    f,
                    "The object was changed meanwhile (its ETag is {wanted}): read it again and repeat the change"
                )
            }
            Self::Ambiguous { fingerprint } => {
                write!(f, "More than one image begins with {fingerprint:?}: give more of the fingerprint")
            }
            Self::DefaultProfile => f.write_str("The \"default\" profile cannot be deleted or renamed"),
            Self::Trusted => f.write_str("Certificate already in trust store"),
            Self::AlreadyTrusted => f.write_str("Client is already trusted"),
            Self::CertificateType => f.write_str("The certificate type cannot be changed"),
            Self::OnlyCertificate => f.write_str("Only the certificate can be changed"),
            Self::NoToken => f.write_str(
                "No matching certificate add operation found: the token was used or revoked, or another server made it",
            ),
            Self::NotListening => {
                f.write_str("Can't issue token when server isn't listening on network: set core.https_address first")
            }
            Self::Revoked => f.write_str("not authorized: the certificate is revoked by ca.crl"),
            Self::TokenExpired => f.write_str("Token has expired: ask the server's administrator for another"),
            Self::TooManyTries => f.write_str("Too many wrong passwords from this address: try again in a minute"),
            Self::TooManySockets => f.write_str("Too many websockets are open, or the daemon is shutting down"),
            Self::Random => f.write_str("The kernel gives no random numbers"),
            Self::Operation(error) => error.fmt(f),
            Self::Websocket(error) => error.fmt(f),
            Self::Address(error) => error.fmt(f),
            Self::Instance(error) => error.fmt(f),
            Self::Auth(error) => error.fmt(f),
            Self::Config(error) => error.fmt(f),
            Self::Device(error) => error.fmt(f),
            Self::Profile(error) => error.fmt(f),
            Self::Project(error) => error.fmt(f),
            Self::Image(error) => error.fmt(f),
            Self::Storage(error) => error.fmt(f),
            Self::Volume(error) => error.fmt(f),
            Self::Network(error) => error.fmt(f),
            Self::Remote(error) => error.fmt(f),
            Self::Db(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

/// Who uses an object: URLs, and how many more there are that the caller may not see.
#[derive(Debug)]
pub struct Users {
    urls: Vec<String>,
    hidden: usize,
}

impl Users {
    /// All of them, if there are any.
    pub fn of(urls: Vec<String>) -> Option<Self> {
        (!urls.is_empty()).then_some(Self { urls, hidden: 0 })
    }
}

impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.urls.first(), self.hidden) {
            (Some(first), 0) => f.write_str(first),
            (Some(first), hidden) => write!(f, "{first} and {hidden} more in other projects"),
            (None, hidden) => write!(f, "{hidden} in other projects"),
        }
    }
}

impl Error {
    /// The same as it is told to a caller who is trusted so far: of what lies in projects that he may not see, only how much
    /// there is.
    pub fn seen_by(self, trust: &Trust) -> Self {
        match self {
            Self::InUse { what, name, by: Users { urls, hidden } } => {
                let all = urls.len();
                let urls = visible(trust, urls);
                let hidden = hidden + all - urls.len();
                Self::InUse { what, name, by: Users { urls, hidden } }
            }
            Self::Volume(error) => Self::Volume(error.seen_by(&trust.projects())),
            Self::Instance(error) => Self::Instance(error.seen_by(&trust.projects())),
            other => other,
        }
    }

    /// The HTTP status. Never 5xx but 501: what a request meets here, it can know and mend.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::UnknownPath | Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Self::Forbidden
            | Self::ReadOnly
            | Self::OfAnother { .. }
            | Self::TooManyTries
            | Self::CertificateType
            | Self::OnlyCertificate
            | Self::NoToken
            | Self::Revoked
            | Self::TokenExpired
            | Self::DefaultProfile => StatusCode::FORBIDDEN,
            Self::TooManySockets => StatusCode::TOO_MANY_REQUESTS,
            Self::Exists { .. } | Self::Trusted => StatusCode::CONFLICT,
            Self::Precondition { .. } => StatusCode::PRECONDITION_FAILED,
            Self::InUse { .. }
            | Self::AlreadyTrusted
            | Self::NotListening
            | Self::Json(_)
            | Self::Body(_)
            | Self::Name(_)
            | Self::Query { .. }
            | Self::Filter(_)
            | Self::Field { .. }
            | Self::Upgrade
            | Self::Console(_)
            | Self::Unsupported { .. }
            | Self::Ambiguous { .. }
            | Self::Random
            | Self::Websocket(_)
            | Self::Address(_)
            | Self::Auth(_)
            | Self::Config(_)
            | Self::Device(_)
            | Self::Network(_)
            | Self::Db(_) => StatusCode::BAD_REQUEST,
            Self::File { why, .. } => refusal(*why),
            Self::Operation(error) => operation(error),
            Self::Instance(error) => instance(error),
            Self::Profile(_) => StatusCode::NOT_FOUND,
            Self::Project(error) => project(error),
            Self::Image(error) => image(error),
            Self::Storage(error) => storage(error),
            Self::Volume(error) => volume(error),
            Self::Remote(error) => remote(error),
        }
    }
}

fn project(error: &project::Error) -> StatusCode {
    match error {
        project::Error::NotFound => StatusCode::NOT_FOUND,
        project::Error::DefaultProject { .. } | project::Error::NetworkForbidden => StatusCode::FORBIDDEN,
        project::Error::DefaultFeatures
        | project::Error::NotEmpty { .. }
        | project::Error::Feature { .. }
        | project::Error::SharedProfiles
        | project::Error::NoNetworks
        | project::Error::Snapshots { .. }
        | project::Error::Unset { .. }
        | project::Error::NoSize { .. }
        | project::Error::NoVolumeSize { .. }
        | project::Error::Unusable { .. }
        | project::Error::TooMany { .. }
        | project::Error::TooLow { .. }
        | project::Error::Reached { .. }
        | project::Error::BelowTotal { .. }
        | project::Error::Key { .. }
        | project::Error::LowLevel { .. }
        | project::Error::Volatile { .. }
        | project::Error::Device { .. }
        | project::Error::Conflict { .. } => StatusCode::BAD_REQUEST,
    }
}

fn operation(error: &ops::Error) -> StatusCode {
    match error {
        ops::Error::NotFound => StatusCode::NOT_FOUND,
        ops::Error::Secret => StatusCode::FORBIDDEN,
        ops::Error::NotCancellable | ops::Error::NotRunning | ops::Error::NoWebsocket | ops::Error::Connected => {
            StatusCode::BAD_REQUEST
        }
    }
}

fn refusal(why: Refusal) -> StatusCode {
    match why {
        Refusal::NotFound | Refusal::NoParent => StatusCode::NOT_FOUND,
        Refusal::Denied => StatusCode::FORBIDDEN,
        Refusal::Exists => StatusCode::CONFLICT,
        Refusal::NotADirectory
        | Refusal::IsADirectory
        | Refusal::NotEmpty
        | Refusal::Special
        | Refusal::Busy
        | Refusal::ReadOnly
        | Refusal::NoSpace
        | Refusal::Loop
        | Refusal::TooLong
        | Refusal::NoEntry
        | Refusal::NoSuchId
        | Refusal::Errno(_) => StatusCode::BAD_REQUEST,
    }
}

fn image(error: &image::Error) -> StatusCode {
    match error {
        image::Error::NotFound { .. } => StatusCode::NOT_FOUND,
        image::Error::BadArchive { .. }
        | image::Error::Hostile { .. }
        | image::Error::Metadata { .. }
        | image::Error::Fingerprint { .. }
        | image::Error::Empty
        | image::Error::Limit { .. }
        | image::Error::NoSpace { .. }
        | image::Error::Away
        | image::Error::Tool { .. }
        | image::Error::Pack { .. }
        | image::Error::Io { .. } => StatusCode::BAD_REQUEST,
    }
}

fn storage(error: &storage::Error) -> StatusCode {
    match error {
        storage::Error::NoSuchPool { .. } => StatusCode::NOT_FOUND,
        storage::Error::Exists { .. } | storage::Error::VolumeExists { .. } => StatusCode::CONFLICT,
        storage::Error::Unavailable { .. }
        | storage::Error::ShuttingDown
        | storage::Error::UnknownDriver { .. }
        | storage::Error::DriverUnavailable { .. }
        | storage::Error::NoIdMappedMounts { .. }
        | storage::Error::ShiftRefused
        | storage::Error::Shifted { .. }
        | storage::Error::Key(_)
        | storage::Error::Source { .. }
        | storage::Error::Absent { .. }
        | storage::Error::Format { .. }
        | storage::Error::Mount { .. }
        | storage::Error::QuotaTooSmall { .. }
        | storage::Error::NoQuotas { .. }
        | storage::Error::Busy { .. }
        | storage::Error::Value { .. }
        | storage::Error::NotEmpty { .. }
        | storage::Error::InUse { .. }
        | storage::Error::NoSuchVolume { .. }
        | storage::Error::Hold { .. }
        | storage::Error::NoSpace { .. }
        | storage::Error::Full { .. }
        | storage::Error::ReadOnly { .. }
        | storage::Error::Failing { .. }
        | storage::Error::Damaged { .. }
        | storage::Error::Io { .. } => StatusCode::BAD_REQUEST,
        storage::Error::Image(error) => image(error),
    }
}

fn remote(error: &remote::Error) -> StatusCode {
    match error {
        remote::Error::NoImage { .. } | remote::Error::Deleted { .. } | remote::Error::NotFound => {
            StatusCode::NOT_FOUND
        }
        remote::Error::Exists { .. } => StatusCode::CONFLICT,
        remote::Error::Field { .. }
        | remote::Error::Ambiguous { .. }
        | remote::Error::Architecture { .. }
        | remote::Error::NotAContainer { .. }
        | remote::Error::Index { .. }
        | remote::Error::Answer { .. }
        | remote::Error::NoOrigin { .. }
        | remote::Error::Skipped { .. }
        | remote::Error::Damaged { .. }
        | remote::Error::File { .. }
        | remote::Error::Nothing { .. }
        | remote::Error::Ended
        | remote::Error::Name(_)
        | remote::Error::Db(_)
        | remote::Error::Io { .. } => StatusCode::BAD_REQUEST,
        remote::Error::Fetch(error) => match error {
            fetch::Error::Url { .. }
            | fetch::Error::Certificate { .. }
            | fetch::Error::Resolve { .. }
            | fetch::Error::Connect { .. }
            | fetch::Error::Proxy { .. }
            | fetch::Error::Distrusted { .. }
            | fetch::Error::Tls { .. }
            | fetch::Error::Stalled { .. }
            | fetch::Error::Slow { .. }
            | fetch::Error::Broken { .. }
            | fetch::Error::Redirect { .. }
            | fetch::Error::Status { .. }
            | fetch::Error::TooLong { .. }
            | fetch::Error::Length { .. }
            | fetch::Error::Encoded { .. }
            | fetch::Error::Changed { .. } => StatusCode::BAD_REQUEST,
        },
        remote::Error::Shared(error) => remote(error),
        remote::Error::Image(error) => image(error),
        remote::Error::Storage(error) => storage(error),
        remote::Error::Project(error) => project(error),
    }
}

fn volume(error: &volume::Error) -> StatusCode {
    match error {
        volume::Error::NotFound | volume::Error::NoSuchPool { .. } | volume::Error::NoSnapshot { .. } => {
            StatusCode::NOT_FOUND
        }
        volume::Error::Exists { .. } | volume::Error::SnapshotExists { .. } => StatusCode::CONFLICT,
        volume::Error::Changed { .. } => StatusCode::PRECONDITION_FAILED,
        volume::Error::InUse { .. }
        | volume::Error::Running { .. }
        | volume::Error::Server { .. }
        | volume::Error::Name(_)
        | volume::Error::Config(_)
        | volume::Error::Pattern { .. }
        | volume::Error::Db(_) => StatusCode::BAD_REQUEST,
        volume::Error::Storage(error) | volume::Error::Away { cause: error } => storage(error),
        volume::Error::Project(error) => project(error),
        volume::Error::Undo { cause, .. } => volume(cause),
    }
}

fn instance(error: &instance::Error) -> StatusCode {
    match error {
        instance::Error::Image(error) => image(error),
        instance::Error::NotFound
        | instance::Error::ImageMissing { .. }
        | instance::Error::NoLog
        | instance::Error::NoTemplate { .. }
        | instance::Error::NoConsoleLog
        | instance::Error::NoSnapshot { .. }
        | instance::Error::Profile(_) => StatusCode::NOT_FOUND,
        instance::Error::Project(error) => project(error),
        instance::Error::Exists { .. } | instance::Error::SnapshotExists { .. } => StatusCode::CONFLICT,
        instance::Error::Changed { .. } => StatusCode::PRECONDITION_FAILED,
        instance::Error::Storage(error) | instance::Error::Away { cause: error } => storage(error),
        instance::Error::Undo { cause, .. } | instance::Error::OfUser { cause, .. } => instance(cause),
        instance::Error::Name(_)
        | instance::Error::Running
        | instance::Error::RenameRunning
        | instance::Error::BadMetadata { .. }
        | instance::Error::BadTemplate { .. }
        | instance::Error::AlreadyRunning
        | instance::Error::AlreadyStopped
        | instance::Error::NotRunning
        | instance::Error::AlreadyFrozen
        | instance::Error::NotFrozen
        | instance::Error::Busy { .. }
        | instance::Error::StopTimeout { .. }
        | instance::Error::NoSuchPool(_)
        | instance::Error::PoolChange { .. }
        | instance::Error::MoveRunning
        | instance::Error::OfHidden
        | instance::Error::OfUsers { .. }
        | instance::Error::NoController { .. }
        | instance::Error::Limit { .. }
        | instance::Error::Architecture { .. }
        | instance::Error::NoNvidia { .. }
        | instance::Error::NoNetwork { .. }
        | instance::Error::Plug { .. }
        | instance::Error::Config(_)
        | instance::Error::Device(_)
        | instance::Error::Network(_)
        | instance::Error::Idmap(_)
        | instance::Error::Db(_)
        | instance::Error::Io { .. }
        | instance::Error::UnprivilegedOnly
        | instance::Error::Protected
        | instance::Error::Module { .. }
        | instance::Error::Pattern { .. }
        | instance::Error::Intercept { .. }
        | instance::Error::RawAppArmor { .. }
        | instance::Error::RawLxc { .. }
        | instance::Error::Start { .. }
        | instance::Error::ClosedDirectory { .. }
        | instance::Error::AppArmor { .. }
        | instance::Error::EmptyCommand
        | instance::Error::Ended
        | instance::Error::NotUp { .. }
        | instance::Error::NoConnection
        | instance::Error::CommandNotFound
        | instance::Error::CommandNotExecutable
        | instance::Error::ConsoleInUse
        | instance::Error::LogInUse { .. }
        | instance::Error::TooManySessions
        | instance::Error::Random
        | instance::Error::ShuttingDown => StatusCode::BAD_REQUEST,
        instance::Error::Helper(error) => match error {
            helper::Error::Spawn(_)
            | helper::Error::Broken { .. }
            | helper::Error::Lxc { .. }
            | helper::Error::Template { .. }
            | helper::Error::ConsoleTaken { .. }
            | helper::Error::Timeout { .. } => StatusCode::BAD_REQUEST,
            helper::Error::Files(why) => refusal(*why),
        },
    }
}

from!(
    Name NameError,
    Operation ops::Error,
    Address AddressError,
    Instance instance::Error,
    Auth auth::Error,
    Filter BadFilter,
    Config config::Error,
    Device device::Error,
    Profile profile::Missing,
    Project project::Error,
    Image image::Error,
    Storage storage::Error,
    Volume volume::Error,
    Network network::Error,
    Remote remote::Error,
    Db db::Error,
);
