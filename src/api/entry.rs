//! The door: one small warp filter that takes everything of a request and hands it to the router.

use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream};
use http::{HeaderMap, Method, Response as HttpResponse, StatusCode};
use hyper::upgrade::OnUpgrade;
use warp::{Filter, Reply};

use super::body::{self, BodyStream};
use crate::auth::ClientCertificate;

/// Who is at the other end of the connection.
#[derive(Debug, Clone)]
pub enum Peer {
    /// A process of this host, by the socket's credentials (unix(7), `SO_PEERCRED`).
    Unix {
        /// User id.
        uid: u32,
        /// All its groups.
        groups: Arc<[u32]>,
        /// Whether the socket's own permissions let it in.
        is_admin: bool,
    },
    /// A client over HTTPS.
    Tls {
        /// Where it is.
        address: std::net::SocketAddr,
        /// The certificate of which it has proved to have the key.
        certificate: Option<Arc<ClientCertificate>>,
    },
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

    /// Whether a proxy at this address may say where its clients are.
    fn trusts_proxy(&self, _: std::net::IpAddr) -> bool {
        false
    }

    /// Whether this peer is trusted, however far, at this moment.
    fn knows(&self, _: &Peer) -> bool {
        false
    }
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
            let path = path.as_str().to_owned();
            let (body, rest) = body::of(&headers, body);
            let request = Request { method, path, query, headers, peer, upgrade, body };
            let answer = AssertUnwindSafe(handler.handle(request)).catch_unwind();
            async move {
                let mut answer = answer.await.unwrap_or_else(|_| panicked());
                if !rest.drain().await {
                    answer.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
                }
                Answer(answer)
            }
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
