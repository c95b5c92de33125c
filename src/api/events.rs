//! `/1.0/events`.

use super::call::{Call, Trust};
use super::error::Error;
use super::response::Response;
use super::{standing, websocket};
use crate::events::{Filter, Kind};
use crate::names::Projects;

/// `GET /1.0/events?type=&project=&all-projects=`: one JSON text message per event.
pub async fn stream(mut call: Call) -> Result<Response, Error> {
    let of_server = call.trust.sees_all();
    // Operations tell secrets: of websockets, of tokens. Who only reads learns of their effects.
    let tells = |kind: Kind| match kind {
        Kind::Logging => call.trust == Trust::Trusted,
        Kind::Operation => call.trust != Trust::ReadOnly,
        Kind::Lifecycle => true,
    };
    let kinds: Vec<Kind> = match call.query("type") {
        None => Kind::ALL.into_iter().filter(|kind| tells(*kind)).collect(),
        Some(words) => words
            .split(',')
            .map(|word| {
                Kind::parse(word)
                    .ok_or(Error::Query { name: "type", expected: "a list of operation, lifecycle and logging" })
            })
            .collect::<Result<_, _>>()?,
    };
    let all = call.query("all-projects").is_some_and(|text| crate::config::parse_bool(text) == Some(true));
    // The log tells of all projects.
    if !kinds.iter().all(|kind| tells(*kind)) {
        return Err(Error::Forbidden);
    }
    let projects = if all { call.trust.projects() } else { call.project()?.into() };
    let needed = if of_server { Projects::All } else { projects.clone() };
    let check = standing::check(&call, needed);
    let (answer, socket) = websocket::accept(&call.headers, call.upgrade.take(), &call.app.sockets, check)?;
    // Subscribed before the answer is sent: what happens after the client's handshake is never missed.
    let events = call.app.bus.subscribe(Filter { kinds, projects, of_server });
    tokio::spawn(async move {
        let Ok(socket) = socket.await else { return };
        socket.tell(events, "Too many events were not taken: connect again").await;
    });
    Ok(answer)
}
