//! An answer, whose body comes piece by piece.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::connect::Connection;
use super::{Error, Url};

/// What an error quotes of the body of a refusal, bytes.
const QUOTED: u64 = 4096;

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
    _connection: Connection,
}

impl Reply {
    pub(super) fn new(url: Url, answer: Response<Incoming>, connection: Connection, stall: Duration) -> Self {
        let (head, body) = answer.into_parts();
        Self { status: head.status, headers: head.headers, url, body, unread: None, stall, _connection: connection }
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
    /// When it breaks off, or nothing comes.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        if let Some(bytes) = self.unread.take() {
            return Ok(Some(bytes));
        }
        loop {
            let frame = tokio::time::timeout(self.stall, self.body.frame()).await;
            let silent = |_| Error::Stalled { host: self.url.authority(), seconds: self.stall.as_secs() };
            match frame.map_err(silent)? {
                None => return Ok(None),
                Some(Err(error)) => return Err(Error::broken(&self.url, &error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) if !bytes.is_empty() => return Ok(Some(bytes)),
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
        let said = json.as_ref().and_then(|json| json.get("error")?.as_str()).unwrap_or_default();
        let url = self.url.to_string();
        Error::Status { url, status: self.status, said: crate::names::shortened(said) }
    }
}
