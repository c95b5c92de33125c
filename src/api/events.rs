//! `/1.0/events`.

use futures_util::{SinkExt, StreamExt};
use tungstenite::Message;

use super::call::Call;
use super::error::Error;
use super::response::Response;
use super::websocket;
use crate::events::{Filter, Kind};

/// `GET /1.0/events?type=&project=&all-projects=`: one JSON text message per event.
pub async fn stream(mut call: Call) -> Result<Response, Error> {
    let kinds = match call.query("type") {
        None => Kind::ALL.to_vec(),
        Some(words) => words
            .split(',')
            .map(|word| {
                Kind::parse(word)
                    .ok_or(Error::Query { name: "type", expected: "a list of operation, lifecycle and logging" })
            })
            .collect::<Result<_, _>>()?,
    };
    let all = call.query("all-projects").is_some_and(|text| crate::config::parse_bool(text) == Some(true));
    let project = if all { None } else { Some(call.project()?) };
    let (answer, socket) = websocket::accept(&call.headers, call.upgrade.take()).map_err(Error::Websocket)?;
    // Subscribed before the answer is sent: what happens after the client's handshake is never missed.
    let mut subscription = call.app.bus.subscribe(Filter { kinds, project });
    tokio::spawn(async move {
        let Ok(socket) = socket.await else { return };
        let (mut sink, mut stream) = socket.split();
        loop {
            tokio::select! {
                event = subscription.next() => {
                    let Some(text) = event else { break };
                    if sink.send(Message::text(&*text)).await.is_err() {
                        return;
                    }
                }
                // Reading answers pings and sees the client go.
                message = stream.next() => match message {
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                    Some(Ok(_)) => {}
                },
            }
        }
        // Cut off, or the daemon ends: an orderly close.
        let _ = sink.send(Message::Close(None)).await;
    });
    Ok(answer)
}
