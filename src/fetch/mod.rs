//! A client for HTTP and HTTPS that trusts nobody: what it fetches from is an image server, or who plays one.
//!
//! ```text
//!   Url ──proxy?──> address checked ──TCP──(CONNECT)──TLS──> request ──> head (bounded) ──> body, piece by piece
//!                      ^                                      │ redirect: same scheme, not to this host's neighbours
//!                      └──────────────────────────────────────┘
//! ```
//! A connection serves one request. Everything waits for the next byte only so long ([`STALL`]), and a few bytes now and
//! then are no better than none; a whole download may take as long as it takes, and one that breaks is gone on with
//! ([`Download`]).

mod connect;
mod distrust;
mod download;
mod error;
mod ignored;
mod reply;
mod tls;
mod url;

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HOST, HeaderMap, HeaderValue, LOCATION, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::client::proxy::matcher::Matcher;
use rustls::ClientConfig;

pub use download::{Download, Resumed, Total};
pub use error::Error;
use ignored::Ignored;
pub use reply::Reply;
pub use tls::{Trust, by_itself};
pub use url::Url;

/// How long a server may be silent; so long, too, it has for the least that must come of a body.
pub const STALL: Duration = Duration::from_secs(30);

/// [`STALL`]; `WARREN_TEST_STALL_MILLIS`, for tests only, is another.
fn stall_limit() -> Duration {
    let told = std::env::var("WARREN_TEST_STALL_MILLIS").ok().and_then(|text| text.parse().ok());
    told.map_or(STALL, Duration::from_millis)
}

/// So many redirects are followed.
const REDIRECTS: usize = 5;

/// The body of a request.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// No body.
pub fn nothing() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that comes piece by piece.
pub fn streamed(body: impl http_body::Body<Data = Bytes, Error = std::io::Error> + Send + 'static) -> Body {
    body.boxed_unsync()
}

/// Through which proxies; each empty one is taken from the environment as curl does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http:`.
    pub http: String,
    /// For `https:`.
    pub https: String,
    /// Hosts that are reached without: `*`, names, addresses, networks, perhaps with a port, separated by commas.
    pub ignored: String,
}

impl Proxies {
    fn ways(&self) -> Ways {
        let variable = |names: [&str; 2]| names.iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default();
        let or = |own: &String, names| if own.is_empty() { variable(names) } else { own.clone() };
        let matcher = Matcher::builder()
            .http(or(&self.http, ["HTTP_PROXY", "http_proxy"]))
            .https(or(&self.https, ["HTTPS_PROXY", "https_proxy"]))
            .build();
        Ways { matcher, ignored: Ignored::parse(&or(&self.ignored, ["NO_PROXY", "no_proxy"])) }
    }
}

/// Which proxy leads where.
struct Ways {
    matcher: Matcher,
    ignored: Ignored,
}

/// Who is told that a download is gone on with; `None`: it goes well again.
pub type Teller = Arc<dyn Fn(Option<Resumed>) + Send + Sync>;

/// A client.
#[derive(Clone)]
pub struct Client {
    tls: Arc<ClientConfig>,
    ways: Arc<Ways>,
    agent: HeaderValue,
    stall: Duration,
    /// Addresses come from this server.
    origin: Option<Url>,
    teller: Option<Teller>,
}

impl Client {
    /// A client that believes those servers. Reads the system's certificates: blocking.
    ///
    /// # Errors
    /// [`Error::Certificate`], when there is nobody to believe.
    pub fn new(trust: &Trust, proxies: &Proxies) -> Result<Self, Error> {
        let uname = rustix::system::uname();
        let machine = uname.machine().to_string_lossy();
        let agent = format!("Warren {} (Linux; {machine}; LXD 5.0.2)", env!("CARGO_PKG_VERSION"));
        Ok(Self {
            tls: tls::config(trust)?,
            ways: Arc::new(proxies.ways()),
            agent: HeaderValue::from_str(&agent).unwrap_or(HeaderValue::from_static("Warren")),
            stall: stall_limit(),
            origin: None,
            teller: None,
        })
    }

    /// Another patience.
    #[must_use]
    pub fn with_stall(mut self, stall: Duration) -> Self {
        self.stall = stall;
        self
    }

    /// Tells somebody of downloads that are gone on with.
    #[must_use]
    pub fn telling(mut self, teller: Teller) -> Self {
        self.teller = Some(teller);
        self
    }

    /// A client for addresses that this server gave: they may not lead to where only this host can go, unless the server
    /// is there itself.
    #[must_use]
    pub fn guarded(mut self, origin: &Url) -> Self {
        self.origin = Some(origin.clone());
        self
    }

    /// How long a server may be silent.
    pub fn stall(&self) -> Duration {
        self.stall
    }

    /// One request without following anything.
    ///
    /// # Errors
    /// When the server cannot be reached, or is not who it should be. An answer of any status is none.
    pub async fn send(&self, method: Method, url: &Url, headers: &HeaderMap, body: Body) -> Result<Reply, Error> {
        self.exchange(method, url, headers, body, None).await
    }

    /// `guarded_for`: the address was given by that server, and may not lead to where only this host can go.
    async fn exchange(
        &self,
        method: Method,
        url: &Url,
        headers: &HeaderMap,
        body: Body,
        guarded_for: Option<&Url>,
    ) -> Result<Reply, Error> {
        let stalled = |_| Error::Stalled { host: url.authority(), seconds: self.stall.as_secs() };
        let guarded_for = guarded_for.or(self.origin.as_ref());
        // A proxy that is silent is named by itself.
        let limit = self.stall.saturating_add(self.stall / 2);
        let limited = tokio::time::timeout(limit, self.connect(url, guarded_for)).await;
        let (mut sender, absolute, connection) = limited.map_err(stalled)??;
        let target = if absolute { url.full() } else { url.target().to_owned() };
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = target
            .parse()
            .map_err(|e: http::uri::InvalidUri| Error::Url { url: url.to_string(), reason: e.to_string() })?;
        *request.headers_mut() = headers.clone();
        if let Ok(host) = HeaderValue::from_str(&url.authority()) {
            request.headers_mut().insert(HOST, host);
        }
        request.headers_mut().insert(USER_AGENT, self.agent.clone());
        // Lengths, ranges and hashes are those of the files themselves.
        request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(authorization) = connection.authorization.clone().filter(|_| absolute) {
            request.headers_mut().insert(http::header::PROXY_AUTHORIZATION, authorization);
        }
        let answer = sender.send_request(request);
        // A body that is sent takes its time; what follows it must not.
        let answer = if headers.contains_key(http::header::CONTENT_LENGTH) {
            answer.await
        } else {
            tokio::time::timeout(self.stall, answer).await.map_err(stalled)?
        };
        let answer = answer.map_err(|error| Error::broken(url, &error))?;
        Ok(Reply::new(url.clone(), answer, connection, self.stall))
    }

    /// GET or HEAD, with redirects.
    ///
    /// # Errors
    /// As of [`Self::send`]; a redirect that is not followed; a status that is no success.
    pub async fn get(&self, method: Method, url: &Url, headers: &HeaderMap) -> Result<Reply, Error> {
        let mut at = url.clone();
        for _ in 0..=REDIRECTS {
            let guarded_for = (at != *url).then_some(url);
            let reply = self.exchange(method.clone(), &at, headers, nothing(), guarded_for).await?;
            let location = match reply.status {
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => reply.header(&LOCATION).map(str::to_owned),
                status if status.is_success() || status == StatusCode::NOT_MODIFIED => return Ok(reply),
                _ => return Err(reply.refusal().await),
            };
            let Some(location) = location else { return Err(reply.refusal().await) };
            at = redirected(&at, &location)?;
        }
        Err(Error::Redirect { from: url.to_string(), to: at.to_string(), reason: "there are too many of them" })
    }

    /// A whole small body; asked for once more when that fails soon.
    ///
    /// # Errors
    /// As of [`Self::get`]; [`Error::TooLong`] for more than `limit` bytes; [`Error::Encoded`].
    pub async fn read(&self, url: &Url, headers: &HeaderMap, limit: u64) -> Result<(Reply, Vec<u8>), Error> {
        let mut reply = self.get_twice(url, headers).await?;
        if let Some(coding) = reply.header(&CONTENT_ENCODING).filter(|coding| !coding.eq_ignore_ascii_case("identity"))
        {
            return Err(Error::Encoded { url: reply.url.to_string(), coding: crate::names::shortened(coding) });
        }
        let body = reply.read(limit).await?;
        Ok((reply, body))
    }
}

/// Where a redirect leads: to the same scheme or a safer one.
///
/// # Errors
/// [`Error::Redirect`].
pub fn redirected(from: &Url, location: &str) -> Result<Url, Error> {
    let refuse = |reason| {
        let to = crate::names::shortened(location);
        Error::Redirect { from: from.to_string(), to, reason }
    };
    let to = from.join(location).map_err(|_| refuse("that is no address of HTTP or HTTPS"))?;
    if from.is_https() && !to.is_https() {
        return Err(refuse("that is no HTTPS any more"));
    }
    Ok(to)
}

#[cfg(test)]
mod tests;
