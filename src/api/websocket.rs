//! Websocket handshakes by hand, over the connection that hyper gives up (RFC 6455, 4.2).

use std::fmt;
use std::future::Future;

use bytes::Bytes;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderValue, Response as HttpResponse, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tungstenite::protocol::{Role, WebSocketConfig};

use super::entry::Body;
use super::error::Error;
use super::response::Response;
use crate::ops::socket::{MAX_MESSAGE, Sockets};
use crate::ops::{Check, WebSocket};

/// A request that is no websocket handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAWebsocket {
    /// What is missing.
    pub missing: &'static str,
}

impl fmt::Display for NotAWebsocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "This address is a websocket: the request lacks {}", self.missing)
    }
}

impl std::error::Error for NotAWebsocket {}

/// Whether a header that is a list of words has this one, in any case.
pub(super) fn has_token(headers: &HeaderMap, name: http::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|word| word.trim().eq_ignore_ascii_case(token))
}

/// Checks the handshake; the socket lasts for as long as `check` holds, if there is one. Gives the answer and, once that is sent, the socket. No Origin and no Host is asked for.
///
/// # Errors
/// [`NotAWebsocket`], or [`Error::TooManySockets`].
pub fn accept(
    headers: &HeaderMap,
    upgrade: Option<OnUpgrade>,
    sockets: &Sockets,
    check: Option<Check>,
) -> Result<(Response, impl Future<Output = Result<WebSocket, hyper::Error>> + Send + 'static), Error> {
    let missing = |missing| Error::Websocket(NotAWebsocket { missing });
    if !has_token(headers, CONNECTION, "upgrade") || !has_token(headers, UPGRADE, "websocket") {
        return Err(missing("\"Connection: Upgrade\" and \"Upgrade: websocket\""));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(missing("\"Sec-WebSocket-Version: 13\""));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or_else(|| missing("\"Sec-WebSocket-Key\""))?;
    let upgrade = upgrade.ok_or_else(|| missing("a connection that can be upgraded"))?;
    let ticket = sockets.admit(check).ok_or(Error::TooManySockets)?;
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    let mut response = HttpResponse::new(Body::full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    let socket = async move {
        let mut config = WebSocketConfig::default();
        config.max_message_size = Some(MAX_MESSAGE);
        config.max_frame_size = Some(MAX_MESSAGE);
        config.read_buffer_size = 32 * 1024;
        config.write_buffer_size = 0;
        let stream = TokioIo::new(upgrade.await?);
        Ok(ticket.socket(WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await))
    };
    Ok((response, socket))
}
