//! The connection to the daemon of this host.

use std::path::PathBuf;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio_tungstenite::WebSocketStream;

use super::Error;
use crate::api::wire::{Envelope, Operation};

/// Where the daemon is.
pub(super) struct Connection {
    socket: PathBuf,
}

/// A websocket to the daemon.
pub(super) type Socket = WebSocketStream<UnixStream>;

impl Connection {
    /// The socket named by WARREN_SOCKET, LXD_SOCKET, WARREN_DIR or LXD_DIR, else the first default one that exists.
    pub(super) fn local() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let below = |name| variable(name).map(|dir| dir.join("unix.socket"));
        let named = variable("WARREN_SOCKET")
            .or_else(|| variable("LXD_SOCKET"))
            .or_else(|| below("WARREN_DIR"))
            .or_else(|| below("LXD_DIR"));
        let default = PathBuf::from("/var/lib/warren/unix.socket");
        let socket = named.unwrap_or_else(|| {
            let other = PathBuf::from("/var/lib/lxd/unix.socket");
            if !default.exists() && other.exists() { other } else { default }
        });
        Self { socket }
    }

    async fn stream(&self) -> Result<UnixStream, Error> {
        UnixStream::connect(&self.socket).await.map_err(|error| Error::Connect { socket: self.socket.clone(), error })
    }

    /// Sends a request with any body.
    pub(super) async fn send<B>(&self, request: Request<B>) -> Result<Envelope, Error>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let broken = |e: hyper::Error| Error::Broken(e.to_string());
        let stream = TokioIo::new(self.stream().await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(broken)?;
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(broken)?;
        let bytes = response.into_body().collect().await.map_err(broken)?.to_bytes();
        driver.abort();
        let envelope: Envelope = serde_json::from_slice(&bytes).map_err(|e| Error::Broken(e.to_string()))?;
        if envelope.kind == "error" { Err(Error::Refused(envelope.error)) } else { Ok(envelope) }
    }

    /// Sends a JSON request.
    pub(super) async fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Envelope, Error> {
        let bytes = body.map(ToString::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "warren")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(bytes)))
            .map_err(|e| Error::Usage(format!("{path:?} is no path: {e}")))?;
        self.send(request).await
    }

    /// The metadata that `path` answers.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Error> {
        Ok(self.request(Method::GET, path, None).await?.metadata)
    }

    /// Sends a request that starts an operation, and waits for its end. Ctrl-C cancels it.
    pub(super) async fn run(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Operation, Error> {
        let answer = self.request(method, path, body).await?;
        self.wait(&answer.operation).await
    }

    /// Waits for the end of an operation.
    pub(super) async fn wait(&self, url: &str) -> Result<Operation, Error> {
        let path = format!("{url}/wait");
        let metadata = tokio::select! {
            answer = self.get(&path) => answer?,
            _ = tokio::signal::ctrl_c() => {
                // Not every operation can be cancelled; then it goes on without us.
                let _ = self.request(Method::DELETE, url, None).await;
                return Err(Error::Interrupted);
            }
        };
        let operation: Operation = serde_json::from_value(metadata).map_err(|e| Error::Broken(e.to_string()))?;
        if operation.status_code == 200 { Ok(operation) } else { Err(Error::Refused(operation.err)) }
    }

    /// Opens a websocket.
    pub(super) async fn websocket(&self, path: &str) -> Result<Socket, Error> {
        let stream = self.stream().await?;
        let (socket, _) = tokio_tungstenite::client_async(format!("ws://warren{path}"), stream)
            .await
            .map_err(|e| Error::Broken(e.to_string()))?;
        Ok(socket)
    }
}
