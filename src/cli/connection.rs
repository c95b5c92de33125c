//! The connection to a server: the daemon of this host by its socket, any other by HTTPS.

use std::cell::RefCell;
use std::error::Error as _;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, HOST, IF_MATCH, LOCATION};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio_tungstenite::WebSocketStream;

use super::fields;
use super::limits::{self, Limits};
use super::progress::Progress;
use super::tls::Meeting;
use super::{Error, output};
use crate::api::wire::{Envelope, Operation};

/// An interrupted client leaves after this long even if the server is silent.
const PARTING: Duration = Duration::from_secs(2);
/// An operation that is told to go on is asked about again after this at the earliest, whatever the server does.
const PAUSE: Duration = Duration::from_millis(100);

/// How the server is reached.
enum Way {
    Unix(PathBuf),
    Tls(Box<Meeting>),
}

/// A stream of either kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

type Sent = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Where the server is, and what it does for us.
pub(super) struct Connection {
    /// Name of the remote.
    pub remote: String,
    /// Project of all requests; empty: the default one.
    pub project: String,
    way: Way,
    /// Says what is under way, to somebody who watches.
    pub watched: bool,
    /// Shows requests and answers.
    pub debug: bool,
    /// How much is taken of it.
    pub limits: Limits,
    /// Open, and waiting for the next request.
    idle: RefCell<Vec<SendRequest<Sent>>>,
    /// URLs of the operations that are waited for.
    awaited: RefCell<Vec<String>>,
}

/// What the server answers.
pub(super) enum Answer {
    /// The envelope of nearly everything.
    Json(Envelope),
    /// A file.
    Other(Bytes),
}

/// A websocket to the server.
pub(super) type Socket = WebSocketStream<Box<dyn Stream>>;

/// Whether the body is JSON.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"))
}

/// An error of HTTP with what is behind it, which alone says what happened.
pub(super) fn lost(error: &hyper::Error) -> Error {
    let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    Error::Lost(format!("{error}{cause}"))
}

/// The socket named by WARREN_SOCKET, LXD_SOCKET, WARREN_DIR or LXD_DIR, else the first default one that exists.
fn local_socket() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let below = |name| variable(name).map(|dir| dir.join("unix.socket"));
    let named = variable("WARREN_SOCKET")
        .or_else(|| variable("LXD_SOCKET"))
        .or_else(|| below("WARREN_DIR"))
        .or_else(|| below("LXD_DIR"));
    named.unwrap_or_else(|| {
        let default = PathBuf::from("/var/lib/warren/unix.socket");
        let other = PathBuf::from("/var/lib/lxd/unix.socket");
        if !default.exists() && other.exists() { other } else { default }
    })
}

impl Connection {
    fn new(remote: &str, project: &str, way: Way) -> Self {
        Self {
            remote: remote.to_owned(),
            project: project.to_owned(),
            way,
            watched: std::io::stderr().is_terminal(),
            debug: false,
            limits: Limits::USUAL,
            idle: RefCell::default(),
            awaited: RefCell::default(),
        }
    }

    /// To a daemon of this host; `address` is `unix://` (the default socket) or `unix://<path>`.
    pub(super) fn unix(remote: &str, project: &str, address: &str) -> Self {
        let path = address.trim_start_matches("unix:").trim_start_matches("//");
        let socket = if path.is_empty() { local_socket() } else { PathBuf::from(path) };
        Self::new(remote, project, Way::Unix(socket))
    }

    /// To a server by HTTPS.
    pub(super) fn https(project: &str, meeting: Meeting, remote: &str) -> Self {
        Self::new(remote, project, Way::Tls(Box::new(meeting)))
    }

    /// Whether the server is on this host.
    pub(super) fn is_unix(&self) -> bool {
        matches!(self.way, Way::Unix(_))
    }

    /// The URL by which the server is known; nothing for a socket.
    pub(super) fn url(&self) -> String {
        match &self.way {
            Way::Unix(_) => String::new(),
            Way::Tls(meeting) => meeting.address().url(),
        }
    }

    /// How it was met, where that is by TLS.
    pub(super) fn meeting(&self) -> Option<&Meeting> {
        match &self.way {
            Way::Unix(_) => None,
            Way::Tls(meeting) => Some(meeting),
        }
    }

    async fn stream(&self) -> Result<Box<dyn Stream>, Error> {
        match &self.way {
            Way::Unix(socket) => match UnixStream::connect(socket).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => Err(Error::Connect { socket: socket.clone(), error }),
            },
            Way::Tls(meeting) => Ok(Box::new(meeting.connect().await?)),
        }
    }

    /// The path with the project that requests are about, where it names none itself.
    fn within(&self, path: &str) -> String {
        let prefix = self.meeting().map(|meeting| meeting.address().prefix.as_str()).unwrap_or_default();
        let named = path.contains("project=") || path.contains("all-projects=");
        if self.project.is_empty() || named {
            return format!("{prefix}{path}");
        }
        let joint = if path.contains('?') { '&' } else { '?' };
        let project = percent_encoding::utf8_percent_encode(&self.project, percent_encoding::NON_ALPHANUMERIC);
        format!("{prefix}{path}{joint}project={project}")
    }

    async fn sender(&self) -> Result<SendRequest<Sent>, Error> {
        {
            // One whose answer is still being read is not waited for.
            let mut idle = self.idle.borrow_mut();
            idle.retain(|sender| !sender.is_closed());
            if let Some(at) = idle.iter().position(SendRequest::is_ready) {
                return Ok(idle.swap_remove(at));
            }
        }
        let stream = TokioIo::new(self.stream().await?);
        let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(|e| lost(&e))?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    /// Sends a request with any body; its answer is read by the caller.
    pub(super) async fn begin<B>(&self, mut request: Request<B>) -> Result<Response<Incoming>, Error>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let path = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let path = self.within(path);
        if self.debug {
            output::note(&format!("{} {}{path}", request.method(), self.url()));
        }
        *request.uri_mut() = path.parse().map_err(|e| Error::Usage(format!("{path:?} is no path: {e}")))?;
        let host = match self.meeting() {
            None => "warren".to_owned(),
            Some(meeting) => meeting.address().url().trim_start_matches("https://").to_owned(),
        };
        let host = host.split('/').next().unwrap_or_default().parse();
        request.headers_mut().insert(HOST, host.map_err(|_| Error::Usage("The server's name is none".to_owned()))?);
        let boxed = |e: B::Error| -> Box<dyn std::error::Error + Send + Sync> { Box::new(e) };
        let request = request.map(|body| body.map_err(boxed).boxed_unsync());
        let mut sender = self.sender().await?;
        let response = sender.send_request(request).await.map_err(|e| lost(&e))?;
        self.idle.borrow_mut().push(sender);
        Ok(response)
    }

    /// The same, with the answer read.
    pub(super) async fn send<B>(&self, request: Request<B>) -> Result<Answer, Error>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let response = self.begin(request).await?;
        Ok(self.read(response).await?.0)
    }

    /// Reads an answer that is a file, whatever it calls itself.
    pub(super) async fn read_file(&self, mut response: Response<Incoming>) -> Result<Answer, Error> {
        response.headers_mut().remove(CONTENT_TYPE);
        Ok(self.read(response).await?.0)
    }

    /// Reads an answer and its headers; a refusal becomes an error.
    pub(super) async fn read(&self, response: Response<Incoming>) -> Result<(Answer, HeaderMap), Error> {
        let (bytes, headers) = self.body(response).await?;
        if !is_json(&headers) {
            return Ok((Answer::Other(bytes), headers));
        }
        let envelope: Envelope = serde_json::from_slice(&bytes).map_err(|e| Error::Broken(e.to_string()))?;
        if envelope.kind == "error" {
            return Err(Error::refused(envelope.error));
        }
        Ok((Answer::Json(envelope), headers))
    }

    /// The bytes of an answer, and its headers; those of JSON are none that would take too much memory.
    async fn body(&self, response: Response<Incoming>) -> Result<(Bytes, HeaderMap), Error> {
        let (head, body) = response.into_parts();
        let json = is_json(&head.headers);
        let refused = head.status.is_client_error() || head.status.is_server_error();
        let limits = if refused { Limits::STRANGER } else { self.limits };
        let bytes = limits.collect(body).await?;
        if !json {
            if refused {
                return Err(Error::refused(format!("The server answers {}", head.status)));
            }
            if head.status.is_redirection() {
                let to = head.headers.get(LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("nowhere");
                let remote = &self.remote;
                return Err(Error::refused(format!("The server answers {}, to {to}", head.status)).hint(format!(
                    "Servers of the API redirect nobody, and nobody is followed: \"warren remote set-url {remote} <URL>\" sets another address"
                )));
            }
            return Ok((bytes, head.headers));
        }
        if self.debug {
            output::note(&String::from_utf8_lossy(&bytes));
        }
        limits.weigh(&bytes)?;
        Ok((bytes, head.headers))
    }

    /// A JSON request with headers of its own.
    pub(super) fn json(
        method: Method,
        path: &str,
        body: Option<&Value>,
        tag: Option<&str>,
    ) -> Result<Request<Full<Bytes>>, Error> {
        let bytes = body.map(ToString::to_string).unwrap_or_default();
        let mut builder = Request::builder().method(method).uri(path).header(CONTENT_TYPE, "application/json");
        if let Some(tag) = tag.filter(|tag| !tag.is_empty()) {
            builder = builder.header(IF_MATCH, tag);
        }
        builder.body(Full::new(Bytes::from(bytes))).map_err(|e| Error::Usage(format!("{path:?} is no path: {e}")))
    }

    /// Sends a JSON request.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, Error> {
        self.send(Self::json(method, path, body, None)?).await
    }

    /// The same where JSON is answered.
    pub(super) async fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Envelope, Error> {
        self.ask(method, path, body).await?.json()
    }

    /// The metadata that `path` answers.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Error> {
        Ok(self.request(Method::GET, path, None).await?.metadata)
    }

    /// The objects of a list, with these fields of them alone; most of the time that a list takes is that of making values.
    pub(super) async fn get_fields(&self, path: &str, fields: &[&str]) -> Result<Vec<Value>, Error> {
        let response = self.begin(Self::json(Method::GET, path, None, None)?).await?;
        let (bytes, headers) = self.body(response).await?;
        if !is_json(&headers) {
            return Err(Error::Broken("It is not JSON".to_owned()));
        }
        fields::of(&bytes, fields)
    }

    /// The same with the tag of its version.
    pub(super) async fn get_tagged(&self, path: &str) -> Result<(Value, String), Error> {
        let response = self.begin(Self::json(Method::GET, path, None, None)?).await?;
        let (answer, headers) = self.read(response).await?;
        let tag = headers.get(ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or_default().to_owned();
        Ok((answer.json()?.metadata, tag))
    }

    /// Replaces what has this tag, and waits until that is done.
    pub(super) async fn put(&self, path: &str, body: &Value, tag: &str) -> Result<(), Error> {
        let answer = self.send(Self::json(Method::PUT, path, Some(body), Some(tag))?).await?.json()?;
        if answer.operation.is_empty() { Ok(()) } else { self.wait(&answer.operation).await.map(drop) }
    }

    /// Sends a request, and waits for the end of the operation if it starts one.
    pub(super) async fn run(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Operation, Error> {
        let answer = self.request(method, path, body).await?;
        if answer.operation.is_empty() { Ok(Operation::default()) } else { self.wait(&answer.operation).await }
    }

    /// Waits for the end of an operation.
    pub(super) async fn wait(&self, url: &str) -> Result<Operation, Error> {
        let operation = self.ended(url).await?;
        succeeded(&operation)?;
        Ok(operation)
    }

    /// Waits for the end of an operation, whatever that is. Somebody who watches is told how far it is.
    pub(super) async fn ended(&self, url: &str) -> Result<Operation, Error> {
        self.awaited.borrow_mut().push(url.to_owned());
        let operation = self.watch(url).await;
        self.awaited.borrow_mut().retain(|other| other != url);
        operation
    }

    async fn watch(&self, url: &str) -> Result<Operation, Error> {
        let mut progress = Progress::new(self.watched);
        loop {
            let path = if self.watched { format!("{url}/wait?timeout=1") } else { format!("{url}/wait") };
            let asked = Instant::now();
            let operation: Operation =
                serde_json::from_value(self.get(&path).await?).map_err(|e| Error::Broken(e.to_string()))?;
            // 200 and above: it has ended.
            if operation.status_code >= 200 {
                return Ok(operation);
            }
            if asked.elapsed() < PAUSE {
                tokio::time::sleep(PAUSE).await;
            }
            let told = operation.metadata.as_ref().and_then(|metadata| {
                metadata.iter().find(|(key, value)| key.ends_with("_progress") && value.is_string())
            });
            if let Some((key, Value::String(how_far))) = told {
                progress.show(&format!("{}: {how_far}", key.trim_end_matches("_progress").replace('_', " ")));
            }
        }
    }

    /// Cancels the operations that were being waited for. False: there were none.
    pub(super) async fn cancel(&self) -> bool {
        let urls = self.awaited.take();
        let cancelled = futures_util::future::join_all(urls.iter().map(|url| self.request(Method::DELETE, url, None)));
        // Not every operation can be cancelled; then it goes on without us.
        let _ = tokio::time::timeout(PARTING, cancelled).await;
        !urls.is_empty()
    }

    /// Opens a websocket.
    pub(super) async fn websocket(&self, path: &str) -> Result<Socket, Error> {
        let stream = self.stream().await?;
        let url = match self.meeting() {
            None => format!("ws://warren{}", self.within(path)),
            Some(meeting) => {
                let url = meeting.address().url();
                let place = url.trim_start_matches("https://").split('/').next().unwrap_or_default().to_owned();
                format!("ws://{place}{}", self.within(path))
            }
        };
        let opened = tokio_tungstenite::client_async_with_config(url, stream, Some(limits::of_websockets())).await;
        opened.map(|(socket, _)| socket).map_err(|e| Error::Lost(e.to_string()))
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

/// A future that can be kept beside others of its kind.
pub(super) type Later<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;
