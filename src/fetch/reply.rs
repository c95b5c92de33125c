//! An answer, whose body comes piece by piece.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::connect::Connection;
use super::{Error, Url};

/// What an error quotes of the body of a refusal, bytes.
const QUOTED: u64 = 4096;
/// Less than that in the time that a server may be silent is no better than silence, bytes.
pub(super) const LEAST: u64 = 8 * 1024;

/// How fast a body comes. Only the time counts in which it is waited for: whoever takes it may be slow.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    came: u64,
}

impl Pace {
    /// Whether less than [`LEAST`] came in the last `limit` of waiting.
    fn is_too_slow(&mut self, waited: Duration, bytes: usize, limit: Duration) -> bool {
        self.waited += waited;
        self.came += bytes as u64;
        if self.waited < limit {
            return false;
        }
        let slow = self.came < LEAST;
        *self = Self::default();
        slow
    }
}

/// An answer.
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// Who gave it, after redirects.
    pub url: Url,
    body: Incoming,
    /// What was read too far.
    unread: Option<Bytes>,
    stall: Duration,
    pace: Pace,
    _connection: Connection,
}

impl Reply {
    pub(super) fn new(url: Url, answer: Response<Incoming>, connection: Connection, stall: Duration) -> Self {
        let (head, body) = answer.into_parts();
        let (status, headers) = (head.status, head.headers);
        Self { status, headers, url, body, unread: None, stall, pace: Pace::default(), _connection: connection }
    }

    /// A field that is text.
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// How many bytes it says that it has.
    pub fn length(&self) -> Option<u64> {
        self.header(&CONTENT_LENGTH)?.parse().ok()
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// When it breaks off, or nothing comes, or next to nothing.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        if let Some(bytes) = self.unread.take() {
            return Ok(Some(bytes));
        }
        loop {
            let begun = Instant::now();
            let frame = tokio::time::timeout(self.stall, self.body.frame()).await;
            let (host, seconds) = (self.url.authority(), self.stall.as_secs());
            let silent = |_| Error::Stalled { host: host.clone(), seconds };
            match frame.map_err(silent)? {
                None => return Ok(None),
                Some(Err(error)) => return Err(Error::broken(&self.url, &error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) if !bytes.is_empty() => {
                        if self.pace.is_too_slow(begun.elapsed(), bytes.len(), self.stall) {
                            return Err(Error::Slow { host, seconds });
                        }
                        return Ok(Some(bytes));
                    }
                    // Trailers, which nobody asked for.
                    Ok(_) | Err(_) => {}
                },
            }
        }
    }

    /// Gives a piece back: it is the next one.
    pub(super) fn unread(&mut self, bytes: Bytes) {
        self.unread = Some(bytes);
    }

    /// The whole body.
    ///
    /// # Errors
    /// [`Error::TooLong`], or when it breaks off.
    pub async fn read(&mut self, limit: u64) -> Result<Vec<u8>, Error> {
        let long = || Error::TooLong { url: self.url.to_string(), limit };
        if self.length().is_some_and(|length| length > limit) {
            return Err(long());
        }
        let mut body = Vec::new();
        while let Some(bytes) = self.chunk().await? {
            if (body.len() + bytes.len()) as u64 > limit {
                return Err(Error::TooLong { url: self.url.to_string(), limit });
            }
            body.extend_from_slice(&bytes);
        }
        Ok(body)
    }

    /// The error of an answer that is no success, with what LXD's API or a plain text says.
    pub async fn refusal(mut self) -> Error {
        let body = self.read(QUOTED).await.unwrap_or_default();
        let json = serde_json::from_slice::<serde_json::Value>(&body).ok();
        let said = match &json {
            Some(json) => json.get("error").and_then(|error| error.as_str()).unwrap_or_default(),
            None => plain(&body),
        };
        Error::Status { url: self.url.clone(), status: self.status, said: crate::names::shortened(said) }
    }
}

/// The first line of a text for people; pages of HTML tell nothing that the status does not.
fn plain(body: &[u8]) -> &str {
    let line = std::str::from_utf8(body).unwrap_or_default().trim().lines().next().unwrap_or_default().trim();
    if line.starts_with('<') || line.contains(char::is_control) { "" } else { line }
}
