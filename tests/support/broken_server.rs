//! A server that answers whatever a test wants, by a socket or over TLS: what clients may meet.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::ring;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::tls::Identity;

/// A connection of either kind.
pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// What was asked.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// With the query.
    pub path: String,
    pub head: String,
}

/// Answers one request; false ends the connection.
type Answers = dyn Fn(&Request, &mut dyn Stream) -> bool + Send + Sync;

/// It answers each request by itself, until the test's process ends.
#[derive(Clone)]
pub struct BrokenServer {
    answers: Arc<Answers>,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl BrokenServer {
    /// Behind a socket at this path.
    pub fn at(socket: &Path, answers: impl Fn(&Request, &mut dyn Stream) -> bool + Send + Sync + 'static) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let server = Self { answers: Arc::new(answers), asked: Arc::default() };
        let serving = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let serving = serving.clone();
                std::thread::spawn(move || serving.serve(&mut stream.unwrap()));
            }
        });
        server
    }

    /// Over TLS with this certificate, at a port of this host.
    pub fn over_tls(
        identity: &Identity,
        answers: impl Fn(&Request, &mut dyn Stream) -> bool + Send + Sync + 'static,
    ) -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![identity.certificate.clone()], identity.key.clone_key())
            .unwrap();
        let (server, config) = (Self { answers: Arc::new(answers), asked: Arc::default() }, Arc::new(config));
        let serving = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (serving, config) = (serving.clone(), config.clone());
                std::thread::spawn(move || {
                    let connection = ServerConnection::new(config).unwrap();
                    serving.serve(&mut StreamOwned::new(connection, stream.unwrap()));
                });
            }
        });
        (server, address)
    }

    /// All that was asked so far.
    pub fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often something was asked by this method below this path.
    pub fn count(&self, method: &str, path: &str) -> usize {
        self.asked().iter().filter(|request| request.method == method && request.path.starts_with(path)).count()
    }

    fn serve(&self, stream: &mut dyn Stream) {
        while let Some(request) = read_request(stream) {
            self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
            if !(self.answers)(&request, stream) {
                return;
            }
        }
    }
}

/// Reads a request with its body, if that has a length.
fn read_request(stream: &mut dyn Stream) -> Option<Request> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let field = |name: &str| {
        let line = head.lines().find(|line| line.to_lowercase().starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let length = field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    stream.read_exact(&mut vec![0; length]).ok()?;
    let mut words = head.split(' ');
    Some(Request { method: words.next()?.to_owned(), path: words.next()?.to_owned(), head: head.clone() })
}

/// An answer with a body of this type and headers beside it.
pub fn answer(stream: &mut dyn Stream, status: &str, kind: &str, headers: &str, body: &str) -> bool {
    let text =
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).and_then(|()| stream.flush()).is_ok()
}

/// What the API answers where all is well.
pub fn metadata(stream: &mut dyn Stream, metadata: &serde_json::Value) -> bool {
    let body = serde_json::json!({"type": "sync", "status": "Success", "status_code": 200, "metadata": metadata});
    answer(stream, "200 OK", "application/json", "", &body.to_string())
}

/// The beginning of an operation with websockets of these names.
pub fn operation(stream: &mut dyn Stream, sockets: &[&str]) -> bool {
    let fds: serde_json::Map<String, serde_json::Value> =
        sockets.iter().map(|name| ((*name).to_owned(), serde_json::json!(format!("secret-{name}")))).collect();
    let body = serde_json::json!({
        "type": "async", "status": "Operation created", "status_code": 100, "operation": "/1.0/operations/1",
        "metadata": {"id": "1", "class": "task", "status": "Running", "status_code": 103, "metadata": {"fds": fds}},
    });
    answer(stream, "202 Accepted", "application/json", "Location: /1.0/operations/1\r\n", &body.to_string())
}

/// Agrees to a websocket. What is written from here on are its frames.
pub fn upgrade(request: &Request, stream: &mut dyn Stream) {
    let key = request.head.lines().find(|line| line.to_lowercase().starts_with("sec-websocket-key"));
    let key = key.unwrap().split_once(':').unwrap().1.trim();
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.flush()).unwrap();
}

/// The head of a frame that says it is so long: 1 for text, 2 for bytes, 8 for the end.
pub fn frame(kind: u8, length: u64) -> Vec<u8> {
    let mut head = vec![0x80 | kind, 127];
    head.extend(length.to_be_bytes());
    head
}

/// Writes without end; returns when nobody reads any more.
pub fn endless(stream: &mut dyn Stream, piece: &str) -> bool {
    let piece = piece.repeat((64 << 10) / piece.len());
    while stream.write_all(piece.as_bytes()).is_ok() {}
    false
}

/// Says nothing any more, and does not hang up.
pub fn silent() -> bool {
    std::thread::sleep(std::time::Duration::from_secs(3600));
    false
}
