//! `/1.0/operations`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};
use uuid::Uuid;

use super::call::{Call, Trust};
use super::error::Error;
use super::response::{self, Response};
use super::{standing, trust_tokens, websocket};
use crate::events::lifecycle::Lifecycle;
use crate::names::Projects;
use crate::ops::socket::Close;
use crate::ops::{Check, Class, Error as OpsError, Operation};

type Result<T> = std::result::Result<T, Error>;

/// Any operation of the name that the path has.
fn named(call: &Call) -> Result<Arc<Operation>> {
    let id: Uuid = call.param("id").parse().map_err(|_| Error::Operation(OpsError::NotFound))?;
    call.app.ops.get(id).map_err(Error::Operation)
}

/// Whether the caller may see and cancel an operation. What a restricted caller may not see is not there.
fn reaches(call: &Call, operation: &Operation) -> bool {
    match &call.trust {
        Trust::Trusted => true,
        // The others tell secrets, by which they are taken over.
        Trust::ReadOnly => !operation.is_of_server() && operation.class() == Class::Task,
        trust => !operation.is_of_server() && trust.reaches(operation.project()),
    }
}

fn find(call: &Call) -> Result<Arc<Operation>> {
    let operation = named(call)?;
    if reaches(call, &operation) { Ok(operation) } else { Err(Error::Operation(OpsError::NotFound)) }
}

/// `GET /1.0/operations`: a map of lower-case status to URLs or objects.
pub async fn list(call: Call) -> Result<Response> {
    let all = call.query("all-projects").is_some_and(|text| crate::config::parse_bool(text) == Some(true));
    let projects = if all { call.trust.projects() } else { call.project()?.into() };
    let filter = call.filter()?;
    let mut map: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for operation in call.app.ops.list(&projects).into_iter().filter(|operation| reaches(&call, operation)) {
        let object = serde_json::to_value(operation.to_wire()).unwrap_or_default();
        if filter.passes(&object) {
            let entry = map.entry(operation.status().word().to_lowercase()).or_default();
            entry.push(if call.recursion() > 0 { object } else { operation.url().into() });
        }
    }
    Ok(response::sync(map))
}

/// `GET /1.0/operations/<id>`.
pub async fn get(call: Call) -> Result<Response> {
    Ok(response::sync(find(&call)?.to_wire()))
}

/// `DELETE /1.0/operations/<id>`: cancels.
pub async fn cancel(call: Call) -> Result<Response> {
    let operation = find(&call)?;
    // Before anybody is told: a token that was revoked must not be good again after a crash.
    trust_tokens::revoke(&call.app, &operation).await?;
    operation.cancel().map_err(Error::Operation)?;
    told_cancelled(&call, &operation);
    Ok(response::empty())
}

/// Tells everyone that an operation was cancelled on request.
pub(super) fn told_cancelled(call: &Call, operation: &Operation) {
    call.app.bus.lifecycle(Lifecycle {
        action: "operation-cancelled",
        source: operation.url(),
        project: operation.project(),
        context: Map::new(),
        requestor: Some(&call.requestor()),
    });
}

/// `GET /1.0/operations/<id>/wait?timeout=`; for callers who are not trusted with the `secret` that the operation told.
pub async fn wait(call: Call) -> Result<Response> {
    let operation = match (find(&call), &call.trust) {
        (Ok(operation), _) => operation,
        (Err(error), Trust::Trusted | Trust::ReadOnly) => return Err(error),
        (Err(error), Trust::Restricted(_) | Trust::Untrusted) => {
            let secret = call.query("secret");
            let refused = if call.trust == Trust::Untrusted { Error::Forbidden } else { error };
            named(&call).ok().filter(|op| secret.is_some_and(|secret| op.tells(secret))).ok_or(refused)?
        }
    };
    operation.wait(call.timeout()?).await;
    Ok(response::sync(operation.to_wire()))
}

/// `GET /1.0/operations/<id>/websocket?secret=`.
pub async fn websocket(mut call: Call) -> Result<Response> {
    if call.trust == Trust::ReadOnly {
        return Err(Error::ReadOnly);
    }
    let Some(secret) = call.query("secret").map(str::to_owned) else {
        return Err(if call.trust == Trust::Untrusted {
            Error::Forbidden
        } else {
            Error::Query { name: "secret", expected: "the secret of one of the operation's websockets" }
        });
    };
    // Whoever was told its secret may connect.
    let operation = match (named(&call), &call.trust) {
        (Ok(operation), _) => operation,
        (Err(error), Trust::Trusted | Trust::ReadOnly | Trust::Restricted(_)) => return Err(error),
        (Err(_), Trust::Untrusted) => return Err(Error::Forbidden),
    };
    // The handshake is checked before the slot is taken, so that a broken one does not use up the secret.
    if !operation.is_allowed() {
        return Err(Error::Forbidden);
    }
    let needed = if operation.is_of_server() { Projects::All } else { operation.project().clone().into() };
    // Both the client that connects and the one that asked for the operation; a stranger has nothing but the secret.
    let (client, asked) = (standing::check(&call, needed), Arc::clone(&operation));
    let check: Check = Box::new(move || asked.is_allowed() && client.as_ref().is_none_or(|client| client()));
    let (answer, socket) = websocket::accept(&call.headers, call.upgrade.take(), &call.app.sockets, Some(check))?;
    let slot = operation.connect(&secret).map_err(Error::Operation)?;
    tokio::spawn(async move {
        match socket.await {
            Ok(socket) => {
                // The task may have ended meanwhile: then there is nothing to say on it.
                if let Err(socket) = slot.send(socket) {
                    socket.close(Close::Normal).await;
                }
            }
            Err(error) => tracing::debug!(%error, "a websocket of an operation did not come up"),
        }
    });
    Ok(answer)
}
