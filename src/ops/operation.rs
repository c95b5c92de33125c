//! One operation: its state, its websockets, and the handle its task holds.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::{Check, Class, Error, Identity, Spec, Status, WebSocket};
use crate::api::wire;
use crate::events::lifecycle::Requestor;
use crate::events::{About, Bus, Kind, timestamp};
use crate::names::ProjectName;

struct State {
    status: Status,
    updated_at: String,
    metadata: Option<Map<String, Value>>,
    error: String,
    may_cancel: bool,
    /// Of a token: somebody has used it.
    is_used: bool,
    /// Whether its task has the websockets that it needs.
    is_connected: bool,
    /// It still waited for websockets when the daemon began to end.
    is_abandoned: bool,
}

/// An operation as the API and its task share it.
pub struct Operation {
    id: Uuid,
    class: Class,
    description: &'static str,
    project: ProjectName,
    resources: BTreeMap<String, Vec<String>>,
    requestor: Option<Requestor>,
    /// Whether it concerns the whole server, and not only its project.
    of_server: bool,
    created_at: String,
    state: Mutex<State>,
    ended: watch::Sender<bool>,
    cancel: watch::Sender<bool>,
    /// Secret to name of the socket.
    secrets: BTreeMap<String, String>,
    /// Sockets that the task waits for, by name.
    waiting: Mutex<BTreeMap<String, oneshot::Sender<WebSocket>>>,
    /// Whether who asked for it may still have it.
    owner: OnceLock<Check>,
    bus: Bus,
}

impl Operation {
    pub(super) fn new(
        identity: Identity,
        spec: Spec,
        secrets: BTreeMap<String, String>,
        bus: Bus,
    ) -> (Arc<Self>, Handle) {
        let mut waiting = BTreeMap::new();
        let mut sockets = BTreeMap::new();
        for name in secrets.values() {
            let (sender, receiver) = oneshot::channel();
            waiting.insert(name.clone(), sender);
            sockets.insert(name.clone(), receiver);
        }
        let operation = Arc::new(Self {
            id: identity.id,
            class: identity.class,
            description: spec.description,
            project: spec.project,
            resources: spec.resources,
            requestor: spec.requestor,
            of_server: identity.of_server,
            created_at: identity.created_at.clone(),
            state: Mutex::new(State {
                status: Status::Pending,
                updated_at: identity.created_at,
                metadata: spec.metadata,
                error: String::new(),
                may_cancel: spec.may_cancel,
                is_used: false,
                is_connected: false,
                is_abandoned: false,
            }),
            ended: watch::Sender::new(false),
            cancel: watch::Sender::new(false),
            secrets,
            waiting: Mutex::new(waiting),
            owner: OnceLock::new(),
            bus,
        });
        let handle = Handle { operation: Arc::clone(&operation), sockets };
        (operation, handle)
    }

    /// Binds its websockets to the trust in who asked for it. Told once, before anybody knows its secrets.
    pub fn bind(&self, owner: Option<Check>) {
        if let Some(owner) = owner {
            // Told once.
            let _ = self.owner.set(owner);
        }
    }

    /// Whether who asked for it may still have it.
    pub fn is_allowed(&self) -> bool {
        self.owner.get().is_none_or(|owner| owner())
    }

    /// Its id.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Its project.
    pub fn project(&self) -> &ProjectName {
        &self.project
    }

    /// Whether it concerns the whole server, and not only its project.
    pub fn is_of_server(&self) -> bool {
        self.of_server
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("/1.0/operations/{}", self.id)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its status.
    pub fn status(&self) -> Status {
        self.state().status
    }

    /// As it travels.
    pub fn to_wire(&self) -> wire::Operation {
        self.wire_of(&self.state())
    }

    fn wire_of(&self, state: &State) -> wire::Operation {
        wire::Operation {
            id: self.id.to_string(),
            class: match self.class {
                Class::Task => "task",
                Class::Websocket => "websocket",
                Class::Token => "token",
            }
            .to_owned(),
            description: self.description.to_owned(),
            created_at: self.created_at.clone(),
            updated_at: state.updated_at.clone(),
            status: state.status.word().to_owned(),
            status_code: state.status.code(),
            resources: self.resources.clone(),
            metadata: state.metadata.clone(),
            may_cancel: state.may_cancel && !state.status.is_final(),
            err: state.error.clone(),
            location: "none".to_owned(),
        }
    }

    /// Changes the state and publishes that, in one step; nothing of an operation that has ended.
    fn change(&self, change: impl FnOnce(&mut State)) {
        // Refused is only what comes too late.
        let _ = self.try_change(|state| {
            if state.status.is_final() {
                return Err(Error::NotRunning);
            }
            change(state);
            Ok(())
        });
    }

    /// The same, unless `change` refuses.
    fn try_change(&self, change: impl FnOnce(&mut State) -> Result<(), Error>) -> Result<(), Error> {
        let mut state = self.state();
        change(&mut state)?;
        state.updated_at = timestamp();
        let mut metadata = serde_json::to_value(self.wire_of(&state)).unwrap_or_default();
        if let (Some(object), Some(requestor)) = (metadata.as_object_mut(), &self.requestor) {
            object.insert("requestor".to_owned(), requestor.to_json());
        }
        let about = About { project: Some(&self.project), of_server: self.of_server };
        self.bus.publish(Kind::Operation, about, metadata);
        if state.status.is_final() {
            self.ended.send_replace(true);
        }
        Ok(())
    }

    pub(super) fn set(&self, status: Status) {
        self.change(|state| state.status = status);
    }

    pub(super) fn finish(&self, status: Status, error: String) {
        self.change(|state| {
            state.status = status;
            state.error = error;
        });
    }

    /// Waits until the operation has ended, or for `timeout`; `None` waits for ever.
    pub async fn wait(&self, timeout: Option<Duration>) {
        let mut ended = self.ended.subscribe();
        let end = async {
            // The sender lives in `self`, so this cannot fail.
            let _ = ended.wait_for(|ended| *ended).await;
        };
        match timeout {
            None => end.await,
            Some(timeout) => {
                let _ = tokio::time::timeout(timeout, end).await;
            }
        }
    }

    /// Asks the operation to stop.
    ///
    /// # Errors
    /// When it has ended or cannot be cancelled.
    pub fn cancel(&self) -> Result<(), Error> {
        self.try_change(|state| match (state.status, state.may_cancel) {
            (Status::Running, true) => {
                state.status = Status::Cancelling;
                Ok(())
            }
            (Status::Running, false) => Err(Error::NotCancellable),
            (_, _) => Err(Error::NotRunning),
        })?;
        self.cancel.send_replace(true);
        Ok(())
    }

    /// Its class.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Whether its metadata tell this secret: who knows it, for it was told him, may know how the operation ends.
    pub fn tells(&self, secret: &str) -> bool {
        let state = self.state();
        let told = state.metadata.as_ref().and_then(|metadata| metadata.get("secret")?.as_str());
        told.is_some_and(|told| !told.is_empty() && told == secret)
    }

    /// Whether it is the permission of that secret for that object.
    pub(super) fn is_token(&self, object: &str, secret: &str) -> bool {
        // Of 32 random bytes a map's comparison tells nothing that helps to guess them.
        let named = self.resources.values().flatten().any(|url| url.rsplit('/').next() == Some(object));
        self.class == Class::Token && named && self.secrets.contains_key(secret)
    }

    /// Takes a permission: true unless it was cancelled without having been used.
    pub(super) fn use_token(&self) -> bool {
        let first = {
            let mut state = self.state();
            match (state.status, state.is_used) {
                (_, true) => return true,
                (Status::Running, false) => state.is_used = true,
                (_, false) => return false,
            }
            true
        };
        // Over already: another has used it in this moment.
        if first {
            let _ = self.cancel();
        }
        true
    }

    /// Reserves the websocket of `secret`; the caller then shakes hands and sends it. One that was never connected can
    /// be when the operation is over, too: a command can be quicker than its client's last connection.
    ///
    /// # Errors
    /// When the operation has no websockets, or the secret is wrong or used.
    pub fn connect(&self, secret: &str) -> Result<oneshot::Sender<WebSocket>, Error> {
        if self.class != Class::Websocket {
            return Err(Error::NoWebsocket);
        }
        let Some(name) = self.secrets.get(secret) else { return Err(Error::Secret) };
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = if self.state().is_abandoned { Error::NotRunning } else { Error::Connected };
        waiting.remove(name).ok_or(gone)
    }

    /// Has one end that still waits for websockets: the daemon does not wait for that when it ends.
    pub fn abandon(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state();
        if self.class == Class::Websocket && !state.is_connected {
            state.is_abandoned = true;
            // Who waits for one hears that its sender is gone.
            waiting.clear();
        }
    }
}

/// What the task of an operation holds.
pub struct Handle {
    operation: Arc<Operation>,
    sockets: BTreeMap<String, oneshot::Receiver<WebSocket>>,
}

impl Handle {
    /// Replaces the metadata and tells everyone.
    pub fn set_metadata(&self, metadata: Map<String, Value>) {
        self.operation.change(|state| state.metadata = Some(metadata));
    }

    /// Adds several pieces of metadata in one step and tells everyone.
    pub fn extend_metadata(&self, metadata: Map<String, Value>) {
        self.operation.change(|state| state.metadata.get_or_insert_default().extend(metadata));
    }

    /// Adds one piece of metadata and tells everyone.
    pub fn add_metadata(&self, key: &str, value: Value) {
        self.operation.change(|state| {
            state.metadata.get_or_insert_default().insert(key.to_owned(), value);
        });
    }

    /// The operation's id.
    pub fn id(&self) -> Uuid {
        self.operation.id
    }

    /// Takes out the future websocket called `name`. It fails when the operation ends first.
    pub fn socket(&mut self, name: &str) -> Option<oneshot::Receiver<WebSocket>> {
        self.sockets.remove(name)
    }

    /// Tells that those of its websockets that it needs are connected.
    pub fn has_its_sockets(&self) {
        self.operation.state().is_connected = true;
    }

    /// Whether its websockets never come, for the daemon ends.
    pub fn is_abandoned(&self) -> bool {
        self.operation.state().is_abandoned
    }

    /// From here on it cannot be cancelled; waits for its end where it has been already.
    pub async fn forbid_cancel(&self) {
        let mut cancelled = false;
        self.operation.change(|state| {
            cancelled = state.status == Status::Cancelling;
            state.may_cancel = false;
        });
        if cancelled {
            std::future::pending::<()>().await;
        }
    }

    /// Resolves when the operation is cancelled.
    pub(super) fn cancelled(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut cancel = self.operation.cancel.subscribe();
        async move {
            if cancel.wait_for(|cancel| *cancel).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
