//! A client of the own socket, for the administrative verbs.

use std::fmt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::api::wire::Envelope;

/// Why a request to the own daemon failed.
#[derive(Debug)]
pub(super) enum Error {
    /// Nobody answers at the socket.
    Connect { socket: PathBuf, error: std::io::Error },
    /// The connection broke.
    Broken(String),
    /// The daemon refused.
    Refused { status: u16, message: String },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { socket, error } => {
                write!(f, "no daemon answers at {} ({error}): is warrend running?", socket.display())
            }
            Self::Broken(reason) => write!(f, "the daemon's answer broke off: {reason}"),
            Self::Refused { message, .. } => f.write_str(message),
        }
    }
}

impl std::error::Error for Error {}

/// Sends one request and returns the answer's metadata.
pub(super) async fn request(socket: &Path, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Error> {
    let stream =
        UnixStream::connect(socket).await.map_err(|error| Error::Connect { socket: socket.to_owned(), error })?;
    let broken = |e: &dyn fmt::Display| Error::Broken(e.to_string());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
    let driver = tokio::spawn(connection);
    let bytes = body.map(ToString::to_string).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "warren")
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(bytes)))
        .map_err(|e| broken(&e))?;
    let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
    let bytes = response.into_body().collect().await.map_err(|e| broken(&e))?.to_bytes();
    driver.abort();
    let envelope: Envelope = serde_json::from_slice(&bytes).map_err(|e| broken(&e))?;
    if envelope.kind == "error" {
        return Err(Error::Refused { status: envelope.error_code, message: envelope.error });
    }
    Ok(envelope.metadata)
}
