//! The door: one small warp filter that takes everything of a request and hands it to the router.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, Response as HttpResponse, StatusCode};
use hyper::upgrade::OnUpgrade;
use warp::{Filter, Reply};

use crate::auth::ClientCertificate;

/// Who is at the other end of the connection.
#[derive(Debug, Clone)]
pub enum Peer {
    /// A process of this host, by the socket's credentials (unix(7), `SO_PEERCRED`).
    Unix {
        /// User id.
        uid: u32,
    },
    /// A client over HTTPS.
    Tls {
        /// Where it is.
        address: std::net::SocketAddr,
        /// The certificate of which it has proved to have the key.
        certificate: Option<Arc<ClientCertificate>>,
    },
}

/// A body that breaks off, or is too long.
#[derive(Debug)]
pub enum BodyError {
    /// The connection broke.
    Broken(String),
    /// Longer than this many bytes.
    TooLong(usize),
    /// Not all there after this time.
    Slow(Duration),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(reason) => write!(f, "The request's body breaks off: {reason}"),
            Self::Slow(time) => write!(f, "The request's body did not come within {} s", time.as_secs()),
            Self::TooLong(limit) => write!(f, "The request's body is longer than {limit} bytes"),
        }
    }
}

impl std::error::Error for BodyError {}

/// A body of at most so many bytes is waited for before anything is answered…
const SMALL: u64 = 16 * 1024;
/// …but not longer than this.
const PATIENCE: Duration = Duration::from_secs(1);

type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>;

/// The body of a request, read piece by piece.
pub struct BodyStream {
    /// Never locked: the mutex makes a request shareable, which warp's stream is not.
    chunks: Mutex<Chunks>,
}

impl BodyStream {
    /// Nothing.
    pub fn empty() -> Self {
        Self { chunks: Mutex::new(stream::empty().boxed()) }
    }

    /// The next piece; `None` at the end.
    pub async fn next_chunk(&mut self) -> Option<Result<Bytes, BodyError>> {
        self.chunks.get_mut().unwrap_or_else(PoisonError::into_inner).next().await
    }

    /// All of it, if it is not longer than `max`.
    ///
    /// # Errors
    /// [`BodyError`].
    pub async fn read_limited(mut self, max: usize) -> Result<Bytes, BodyError> {
        let mut all = BytesMut::new();
        while let Some(chunk) = self.next_chunk().await {
            let chunk = chunk?;
            if all.len() + chunk.len() > max {
                return Err(BodyError::TooLong(max));
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all.freeze())
    }

    /// The same, but it must be there within this time.
    ///
    /// # Errors
    /// [`BodyError`].
    pub async fn read_within(self, max: usize, time: Duration) -> Result<Bytes, BodyError> {
        tokio::time::timeout(time, self.read_limited(max)).await.unwrap_or(Err(BodyError::Slow(time)))
    }

    /// Waits for a small body. hyper closes a connection, without a word in the answer, when a body comes after an
    /// answer that did not need it; there are clients that send `null` with every GET, in a packet of its own.
    async fn arrived(self, headers: &HeaderMap) -> Self {
        let length = headers.get(CONTENT_LENGTH).and_then(|text| text.to_str().ok()?.parse().ok()).unwrap_or(0);
        if !(1..=SMALL).contains(&length) {
            return self;
        }
        let mut rest = self.into_stream().fuse();
        let mut came = Vec::new();
        let whole = async {
            while let Some(piece) = rest.next().await {
                let broken = piece.is_err();
                came.push(piece);
                if broken {
                    break;
                }
            }
        };
        // What is late is left to whoever reads it.
        let _ = tokio::time::timeout(PATIENCE, whole).await;
        Self { chunks: Mutex::new(stream::iter(came).chain(rest).boxed()) }
    }

    /// As a stream, for the multipart parser.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, BodyError>> + Send {
        self.chunks.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, io::Error>> + Send + Sync>>;

/// The body of an answer.
pub enum Body {
    /// All of it.
    Full(Bytes),
    /// Piece by piece.
    Stream(Pieces),
}

impl Body {
    /// All of it.
    pub fn full(bytes: Bytes) -> Self {
        Self::Full(bytes)
    }
}

/// A request, taken apart.
pub struct Request {
    /// Its method.
    pub method: Method,
    /// Its path, still encoded.
    pub path: String,
    /// Its query, still encoded.
    pub query: String,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Who sent it.
    pub peer: Peer,
    /// Present when the connection can be upgraded.
    pub upgrade: Option<OnUpgrade>,
    /// Its body.
    pub body: BodyStream,
}

/// What answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one.
    fn handle(&self, request: Request) -> BoxFuture<'static, HttpResponse<Body>>;
}

/// Panics in handlers since the start. A test that makes one is a test that fails.
pub static PANICS: AtomicU64 = AtomicU64::new(0);

struct Answer(HttpResponse<Body>);

impl Reply for Answer {
    fn into_response(self) -> warp::reply::Response {
        let (parts, body) = self.0.into_parts();
        match body {
            Body::Full(bytes) => HttpResponse::from_parts(parts, bytes).into_response(),
            Body::Stream(pieces) => {
                let mut response = warp::reply::stream(pieces).into_response();
                *response.status_mut() = parts.status;
                *response.headers_mut() = parts.headers;
                response
            }
        }
    }
}

fn body_of<S, B>(stream: S) -> BodyStream
where
    S: Stream<Item = Result<B, warp::Error>> + Send + 'static,
    B: Buf,
{
    let chunks = stream.map(|piece| match piece {
        Ok(mut piece) => Ok(piece.copy_to_bytes(piece.remaining())),
        Err(error) => Err(BodyError::Broken(error.to_string())),
    });
    BodyStream { chunks: Mutex::new(chunks.boxed()) }
}

/// The filter. It never rejects; a panic of the handler becomes an answer.
pub fn filter(handler: Arc<dyn Handler>) -> impl Filter<Extract = (impl Reply,), Error = warp::Rejection> + Clone {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<Peer>())
        .and(warp::ext::optional::<OnUpgrade>())
        .and(warp::body::stream())
        .then(move |method, path: warp::path::FullPath, query, headers, peer, upgrade, body| {
            let (path, body) = (path.as_str().to_owned(), body_of(body));
            let handler = Arc::clone(&handler);
            let work = async move {
                let body = body.arrived(&headers).await;
                handler.handle(Request { method, path, query, headers, peer, upgrade, body }).await
            };
            let answer = AssertUnwindSafe(work).catch_unwind();
            async move { Answer(answer.await.unwrap_or_else(|_| panicked())) }
        })
}

fn panicked() -> HttpResponse<Body> {
    PANICS.fetch_add(1, Ordering::Relaxed);
    tracing::error!("a request handler panicked");
    let text = r#"{"type":"error","status":"","status_code":0,"operation":"","error_code":500,"error":"Internal error: the handler panicked; see the daemon's log","metadata":null}"#;
    let mut response = HttpResponse::new(Body::full(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let time = Duration::from_secs(30);
        let some = stream::once(std::future::ready(Ok(Bytes::from_static(b"{"))));
        let body = body_of(some.chain(stream::pending::<Result<Bytes, warp::Error>>()));
        let before = tokio::time::Instant::now();
        assert!(matches!(body.read_within(64, time).await, Err(BodyError::Slow(_))));
        assert_eq!(before.elapsed().as_secs(), time.as_secs());
        let long = body_of(stream::repeat_with(|| Ok(Bytes::from_static(&[0; 64]))));
        assert!(matches!(long.read_within(1000, time).await, Err(BodyError::TooLong(1000))));
    }
}
