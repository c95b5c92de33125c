//! `/1.0/operations`.

use std::collections::BTreeMap;

use serde_json::Value;
use uuid::Uuid;

use super::call::{Call, Trust};
use super::error::Error;
use super::response::{self, Response};
use super::websocket;
use crate::ops::socket::Close;
use crate::ops::{Error as OpsError, Operation};

type Result<T> = std::result::Result<T, Error>;

fn find(call: &Call) -> Result<std::sync::Arc<Operation>> {
    let id: Uuid = call.param("id").parse().map_err(|_| Error::Operation(OpsError::NotFound))?;
    call.app.ops.get(id).map_err(Error::Operation)
}

/// `GET /1.0/operations`: a map of lower-case status to URLs or objects.
pub async fn list(call: Call) -> Result<Response> {
    let project = call.project()?;
    let all = call.query("all-projects").is_some_and(|text| crate::config::parse_bool(text) == Some(true));
    let filter = call.filter()?;
    let mut map: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for operation in call.app.ops.list((!all).then_some(&project)) {
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
    find(&call)?.cancel().map_err(Error::Operation)?;
    Ok(response::empty())
}

/// `GET /1.0/operations/<id>/wait?timeout=`; for callers who are not trusted with the `secret` that the operation told.
pub async fn wait(call: Call) -> Result<Response> {
    let operation = match call.trust {
        Trust::Trusted => find(&call)?,
        Trust::Untrusted => {
            let secret = call.query("secret").ok_or(Error::Forbidden)?;
            find(&call).ok().filter(|operation| operation.tells(secret)).ok_or(Error::Forbidden)?
        }
    };
    operation.wait(call.timeout()?).await;
    Ok(response::sync(operation.to_wire()))
}

/// `GET /1.0/operations/<id>/websocket?secret=`.
pub async fn websocket(mut call: Call) -> Result<Response> {
    let Some(secret) = call.query("secret").map(str::to_owned) else {
        return Err(if call.trust == Trust::Trusted {
            Error::Query { name: "secret", expected: "the secret of one of the operation's websockets" }
        } else {
            Error::Forbidden
        });
    };
    let operation = match (find(&call), call.trust) {
        (Ok(operation), _) => operation,
        (Err(error), Trust::Trusted) => return Err(error),
        (Err(_), Trust::Untrusted) => return Err(Error::Forbidden),
    };
    // The handshake is checked before the slot is taken, so that a broken one does not use up the secret.
    let (answer, socket) = websocket::accept(&call.headers, call.upgrade.take(), &call.app.sockets)?;
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
