//! Operations: tasks and websockets that a client can watch, wait for and cancel.
//!
//! ```text
//!           Pending ──> Running ──┬──> Success
//!                          │      ├──> Failure
//!                          └──> Cancelling ──> Cancelled
//! ```
//! Every change sets the state and publishes its event under one lock, so events keep the order of the changes and the
//! result can be read as soon as the last event is out. A finished operation stays readable for [`KEEP`].

mod operation;
pub mod socket;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::events::lifecycle::Requestor;
use crate::events::{Bus, timestamp};
use crate::names::{ProjectName, Projects};

pub use operation::{Handle, Operation};
pub use socket::{Check, WebSocket};

/// How long a finished operation can be read. LXD keeps them for 5 s; a client that asks after exactly so long still
/// gets its answer here.
pub const KEEP: Duration = Duration::from_secs(6);

/// The longest text of an error that a client gets, characters.
const MAX_ERROR: usize = 2000;

/// The text of an error as clients get it. Errors quote what they refuse, and that may be as long as a request: of a long
/// one the beginning and the end are kept, which say what is wrong and what to do.
pub fn told(error: &impl fmt::Display) -> String {
    let text = error.to_string();
    let length = text.chars().count();
    if length <= MAX_ERROR {
        return text;
    }
    let first: String = text.chars().take(MAX_ERROR / 2).collect();
    let last: String = text.chars().skip(length - MAX_ERROR / 2 + 100).collect();
    format!("{first} [… {} characters are left out …] {last}", length - MAX_ERROR + 100)
}

/// What kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Runs by itself.
    Task,
    /// Its input and output are websockets.
    Websocket,
    /// It is a permission: whoever knows its secret has it, until it is cancelled.
    Token,
}

/// What of an operation never changes and is not its purpose.
struct Identity {
    id: Uuid,
    class: Class,
    /// Whether it concerns the whole server.
    of_server: bool,
    /// RFC 3339.
    created_at: String,
}

impl Identity {
    /// A new one, of a project.
    fn new(class: Class) -> Self {
        Self { id: Uuid::new_v4(), class, of_server: false, created_at: timestamp() }
    }
}

/// The status of an operation, with the codes of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the words are the API's own")]
pub enum Status {
    Pending,
    Running,
    Cancelling,
    Success,
    Failure,
    Cancelled,
}

impl Status {
    /// The API's code.
    pub fn code(self) -> u16 {
        match self {
            Self::Running => 103,
            Self::Cancelling => 104,
            Self::Pending => 105,
            Self::Success => 200,
            Self::Failure => 400,
            Self::Cancelled => 401,
        }
    }

    /// The API's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Cancelling => "Cancelling",
            Self::Success => "Success",
            Self::Failure => "Failure",
            Self::Cancelled => "Cancelled",
        }
    }

    /// Whether it will not change any more.
    pub fn is_final(self) -> bool {
        match self {
            Self::Pending | Self::Running | Self::Cancelling => false,
            Self::Success | Self::Failure | Self::Cancelled => true,
        }
    }
}

/// What a new operation is about.
pub struct Spec {
    /// E.g. "Starting instance".
    pub description: &'static str,
    /// Its project.
    pub project: ProjectName,
    /// Kind to URLs.
    pub resources: BTreeMap<String, Vec<String>>,
    /// What it tells from the start.
    pub metadata: Option<Map<String, Value>>,
    /// Who asked.
    pub requestor: Option<Requestor>,
    /// Whether a client may cancel it; its future is then dropped where it waits, so it must be safe to drop.
    pub may_cancel: bool,
}

/// Why a client's wish about an operation is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// No such operation, or it ended more than [`KEEP`] ago.
    NotFound,
    /// It cannot be cancelled.
    NotCancellable,
    /// It is not (or not any more) running.
    NotRunning,
    /// It has no websockets.
    NoWebsocket,
    /// The secret names none of its websockets.
    Secret,
    /// The websocket of that secret is connected already.
    Connected,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "Operation not found",
            Self::NotCancellable => "This operation can't be cancelled",
            Self::NotRunning => "Only running operations can be cancelled or connected to",
            Self::NoWebsocket => "This operation has no websockets",
            Self::Secret => "The operation has no websocket of this secret",
            Self::Connected => "The websocket of this secret is connected already",
        })
    }
}

impl std::error::Error for Error {}

/// All operations of the daemon.
#[derive(Clone)]
pub struct Operations {
    shared: Arc<Shared>,
}

struct Shared {
    map: Mutex<BTreeMap<Uuid, Arc<Operation>>>,
    bus: Bus,
}

impl Operations {
    /// None yet; their events go to `bus`.
    pub fn new(bus: Bus) -> Self {
        Self { shared: Arc::new(Shared { map: Mutex::default(), bus }) }
    }

    fn map(&self) -> MutexGuard<'_, BTreeMap<Uuid, Arc<Operation>>> {
        self.shared.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All operations of these projects.
    pub fn list(&self, projects: &Projects) -> Vec<Arc<Operation>> {
        self.map().values().filter(|op| projects.holds(op.project())).cloned().collect()
    }

    /// Number of operations that have not ended.
    pub fn running(&self) -> usize {
        self.map().values().filter(|op| !op.status().is_final()).count()
    }

    /// One operation.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn get(&self, id: Uuid) -> Result<Arc<Operation>, Error> {
        self.map().get(&id).cloned().ok_or(Error::NotFound)
    }

    /// Starts a task. Its error becomes the operation's `err`.
    pub fn task<F, Fut, E>(&self, spec: Spec, run: F) -> Arc<Operation>
    where
        F: FnOnce(Handle) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + Send,
    {
        self.start(Identity::new(Class::Task), spec, BTreeMap::new(), run)
    }

    /// Starts an operation with websockets: `fds` are the names of its sockets ("0", "1", "control"…). Each gets a
    /// secret, told in the metadata as `fds`; `run` waits for them by [`Handle::socket`].
    pub fn websocket<F, Fut, E>(
        &self,
        mut spec: Spec,
        fds: &[&str],
        run: F,
    ) -> Result<Arc<Operation>, ring::error::Unspecified>
    where
        F: FnOnce(Handle) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + Send,
    {
        let mut secrets = BTreeMap::new();
        let mut told = Map::new();
        for fd in fds {
            let secret = secret()?;
            told.insert((*fd).to_owned(), secret.clone().into());
            secrets.insert(secret, (*fd).to_owned());
        }
        spec.metadata.get_or_insert_default().insert("fds".to_owned(), told.into());
        Ok(self.start(Identity::new(Class::Websocket), spec, secrets, run))
    }

    /// Starts a permission to do something with the objects of `spec`, for whoever knows the secret that its metadata
    /// tells. It stands until it is [used](Operation::use_token) or cancelled.
    ///
    /// # Errors
    /// When the kernel gives no randomness.
    pub fn token(&self, mut spec: Spec) -> Result<Arc<Operation>, ring::error::Unspecified> {
        let secret = secret()?;
        spec.metadata.get_or_insert_default().insert("secret".to_owned(), secret.clone().into());
        spec.may_cancel = true;
        let secrets = BTreeMap::from([(secret, String::new())]);
        let forever = async |_: Handle| std::future::pending::<Result<(), Error>>().await;
        Ok(self.start(Identity::new(Class::Token), spec, secrets, forever))
    }

    /// Starts a permission about the server itself, which only those see who are trusted with all of it. Its id, the secret
    /// in its metadata and its end are the caller's: `run` ends when it is over.
    pub fn invitation<F, Fut, E>(&self, id: Uuid, mut spec: Spec, created_at: String, run: F) -> Arc<Operation>
    where
        F: FnOnce(Handle) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + Send,
    {
        spec.may_cancel = true;
        let identity = Identity { id, class: Class::Token, of_server: true, created_at };
        self.start(identity, spec, BTreeMap::new(), run)
    }

    /// Uses the permission whose secret and object these are; it is then over, but holds for the same secret for [`KEEP`],
    /// so that what needs two requests can be done.
    ///
    /// # Errors
    /// [`Error::Secret`].
    pub fn use_token(&self, object: &str, secret: &str) -> Result<Arc<Operation>, Error> {
        let tokens: Vec<_> = self.map().values().filter(|op| op.class() == Class::Token).cloned().collect();
        let mut fitting = tokens.into_iter().filter(|op| op.is_token(object, secret));
        fitting.find(|op| op.use_token()).ok_or(Error::Secret)
    }

    fn start<F, Fut, E>(
        &self,
        identity: Identity,
        spec: Spec,
        secrets: BTreeMap<String, String>,
        run: F,
    ) -> Arc<Operation>
    where
        F: FnOnce(Handle) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + Send,
    {
        let (operation, handle) = Operation::new(identity, spec, secrets, self.shared.bus.clone());
        let id = operation.id();
        self.map().insert(id, Arc::clone(&operation));
        operation.set(Status::Pending);
        operation.set(Status::Running);
        let operations = self.clone();
        let running = Arc::clone(&operation);
        // The task of its own turns a panic into a failed operation instead of one that never ends.
        let work = tokio::spawn(async move {
            let cancelled = handle.cancelled();
            let run = async move { run(handle).await.map_err(|e| told(&e)) };
            tokio::select! {
                biased;
                result = run => Some(result),
                () = cancelled => None,
            }
        });
        tokio::spawn(async move {
            match work.await {
                Ok(Some(Ok(()))) => running.finish(Status::Success, String::new()),
                Ok(Some(Err(error))) => running.finish(Status::Failure, error),
                Ok(None) => running.finish(Status::Cancelled, "Operation cancelled".to_owned()),
                Err(error) => {
                    tracing::error!(operation = %id, %error, "an operation panicked");
                    running.finish(Status::Failure, "Internal error: the operation panicked; see the log".to_owned());
                }
            }
            tokio::time::sleep(KEEP).await;
            operations.map().remove(&id);
        });
        operation
    }
}

/// 32 random bytes in hexadecimal, the form of every secret.
///
/// # Errors
/// When the kernel gives no randomness.
pub fn secret() -> Result<String, ring::error::Unspecified> {
    let bytes: [u8; 32] = ring::rand::generate(&ring::rand::SystemRandom::new())?.expose();
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests;
