//! The connection to the daemon of this host.

use std::cell::RefCell;
use std::error::Error as _;
use std::path::PathBuf;
use std::time::Duration;

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

/// An interrupted client leaves after this long even if the daemon is silent.
const PARTING: Duration = Duration::from_secs(2);

/// Where the daemon is, and what it does for us.
pub(super) struct Connection {
    socket: PathBuf,
    /// URLs of the operations that are waited for.
    awaited: RefCell<Vec<String>>,
}

/// What the daemon answers.
pub(super) enum Answer {
    /// The envelope of nearly everything.
    Json(Envelope),
    /// A file.
    Other(Bytes),
}

/// A websocket to the daemon.
pub(super) type Socket = WebSocketStream<UnixStream>;

/// An error of HTTP with what is behind it, which alone says what happened.
fn lost(error: &hyper::Error) -> Error {
    let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    Error::Lost(format!("{error}{cause}"))
}

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
        Self { socket, awaited: RefCell::default() }
    }

    async fn stream(&self) -> Result<UnixStream, Error> {
        UnixStream::connect(&self.socket).await.map_err(|error| Error::Connect { socket: self.socket.clone(), error })
    }

    /// Sends a request with any body.
    pub(super) async fn send<B>(&self, request: Request<B>) -> Result<Answer, Error>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let stream = TokioIo::new(self.stream().await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(|e| lost(&e))?;
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(|e| lost(&e))?;
        let json = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
        let bytes = response.into_body().collect().await.map_err(|e| lost(&e))?.to_bytes();
        driver.abort();
        if !json {
            return Ok(Answer::Other(bytes));
        }
        let envelope: Envelope = serde_json::from_slice(&bytes).map_err(|e| Error::Broken(e.to_string()))?;
        if envelope.kind == "error" { Err(Error::refused(envelope.error)) } else { Ok(Answer::Json(envelope)) }
    }

    /// Sends a JSON request.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, Error> {
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

    /// The same where JSON is answered.
    pub(super) async fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Envelope, Error> {
        self.ask(method, path, body).await?.json()
    }

    /// The metadata that `path` answers.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Error> {
        Ok(self.request(Method::GET, path, None).await?.metadata)
    }

    /// Sends a request that starts an operation, and waits for its end.
    pub(super) async fn run(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Operation, Error> {
        let answer = self.request(method, path, body).await?;
        self.wait(&answer.operation).await
    }

    /// Waits for the end of an operation.
    pub(super) async fn wait(&self, url: &str) -> Result<Operation, Error> {
        let operation = self.ended(url).await?;
        succeeded(&operation)?;
        Ok(operation)
    }

    /// Waits for the end of an operation, whatever that is.
    pub(super) async fn ended(&self, url: &str) -> Result<Operation, Error> {
        self.awaited.borrow_mut().push(url.to_owned());
        let answer = self.get(&format!("{url}/wait")).await;
        self.awaited.borrow_mut().retain(|other| other != url);
        serde_json::from_value(answer?).map_err(|e| Error::Broken(e.to_string()))
    }

    /// Cancels the operations that were being waited for.
    pub(super) async fn cancel(&self) {
        let urls = self.awaited.take();
        let cancelled = futures_util::future::join_all(urls.iter().map(|url| self.request(Method::DELETE, url, None)));
        // Not every operation can be cancelled; then it goes on without us.
        let _ = tokio::time::timeout(PARTING, cancelled).await;
    }

    /// Opens a websocket.
    pub(super) async fn websocket(&self, path: &str) -> Result<Socket, Error> {
        let stream = self.stream().await?;
        let (socket, _) = tokio_tungstenite::client_async(format!("ws://warren{path}"), stream)
            .await
            .map_err(|e| Error::Lost(e.to_string()))?;
        Ok(socket)
    }
}

/// The failure of an operation that has ended.
pub(super) fn succeeded(operation: &Operation) -> Result<(), Error> {
    if operation.status_code == 200 {
        return Ok(());
    }
    let said = if operation.err.is_empty() { &operation.status } else { &operation.err };
    Err(Error::refused(said.clone()))
}

impl Answer {
    /// The envelope, where one must be.
    pub(super) fn json(self) -> Result<Envelope, Error> {
        match self {
            Self::Json(envelope) => Ok(envelope),
            Self::Other(_) => Err(Error::Broken("It is not JSON".to_owned())),
        }
    }
}
