//! A download that is gone on with where it broke.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_RANGE, LAST_MODIFIED, RANGE};
use http::{Method, StatusCode};

use super::{Client, Error, Reply, Url};

/// So often a download is gone on with before [`PROGRESS`] bytes came.
const TRIES: u32 = 5;
/// Bytes.
const PROGRESS: u64 = 16 << 20;
/// Before the first further try; each next one waits twice as long.
const WAIT: Duration = Duration::from_millis(200);

/// A first request that fails sooner is made once more: a server that only hiccupped is well again then, and the next mirror is not
/// asked much later.
const SOON: Duration = Duration::from_secs(5);

/// How long a download may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Total {
    /// So many bytes, as somebody who is believed said before.
    Exactly(u64),
    /// No more than that.
    AtMost(u64),
}

/// A download that broke off and is gone on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumed {
    /// Which further try this is, from 1…
    pub number: u32,
    /// …to this.
    pub of: u32,
    /// Why the last one ended.
    pub reason: String,
}

/// A body that may come by several connections.
pub struct Download {
    client: Client,
    url: Url,
    headers: HeaderMap,
    /// The type of the content, for who must know before the first byte.
    pub content_type: String,
    /// Bytes in all, once the server has said it.
    length: Option<u64>,
    limit: u64,
    position: u64,
    /// What tells this version of the content from others.
    validator: Option<HeaderValue>,
    reply: Option<Reply>,
    tries: u32,
    /// Where the tries began to count.
    counted_from: u64,
}

impl Client {
    /// Begins a download.
    ///
    /// # Errors
    /// As of [`Client::get`]; [`Error::Length`] and [`Error::TooLong`] when the server announces something else than
    /// `total`.
    pub async fn download(&self, url: &Url, headers: &HeaderMap, total: Total) -> Result<Download, Error> {
        self.tell(None);
        let reply = self.get_twice(url, headers).await?;
        let (length, limit) = match (total, reply.length()) {
            (Total::Exactly(expected), Some(found)) if expected != found => {
                return Err(Error::Length { url: url.to_string(), expected, found });
            }
            (Total::AtMost(limit), Some(found)) if found > limit => {
                return Err(Error::TooLong { url: url.to_string(), limit });
            }
            (Total::Exactly(expected), _) => (Some(expected), expected),
            (Total::AtMost(limit), found) => (found, limit),
        };
        let strong = reply.headers.get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/"));
        let validator = strong.or_else(|| reply.headers.get(LAST_MODIFIED)).cloned();
        let content_type = reply.header(&CONTENT_TYPE).unwrap_or_default().to_owned();
        Ok(Download {
            client: self.clone(),
            url: url.clone(),
            headers: headers.clone(),
            content_type,
            length,
            limit,
            position: 0,
            validator,
            reply: Some(reply),
            tries: 0,
            counted_from: 0,
        })
    }

    /// GET, once more when it fails [soon](SOON).
    pub(super) async fn get_twice(&self, url: &Url, headers: &HeaderMap) -> Result<Reply, Error> {
        let begun = Instant::now();
        match self.get(Method::GET, url, headers).await {
            Err(error) if error.is_passing() && begun.elapsed() < SOON => {
                tokio::time::sleep(WAIT).await;
                self.get(Method::GET, url, headers).await
            }
            result => result,
        }
    }

    fn tell(&self, resumed: Option<Resumed>) {
        if let Some(teller) = &self.teller {
            teller(resumed);
        }
    }
}

impl Download {
    /// Bytes in all, if that is known.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// The next piece; `None` at the end, which is where it was announced to be.
    ///
    /// # Errors
    /// When the server breaks it off again and again, or sends something else than it announced.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let result = match &mut self.reply {
                Some(reply) => reply.chunk().await,
                None => match self.again().await {
                    Ok(reply) => {
                        self.reply = Some(reply);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            match result {
                Ok(Some(bytes)) => return self.take(bytes).map(Some),
                Ok(None) if self.length.is_none_or(|length| length == self.position) => return Ok(None),
                Ok(None) => self.broke(Error::Length {
                    url: self.url.to_string(),
                    expected: self.length.unwrap_or_default(),
                    found: self.position,
                })?,
                // All of it is here; how the connection ended does not matter any more.
                Err(error) if error.is_passing() && self.length == Some(self.position) => return Ok(None),
                Err(error) if error.is_passing() => self.broke(error)?,
                Err(error) => return Err(error),
            }
            tokio::time::sleep(WAIT * 2u32.pow(self.tries.min(8))).await;
        }
    }

    fn take(&mut self, bytes: Bytes) -> Result<Bytes, Error> {
        self.position += bytes.len() as u64;
        if self.position > self.limit || self.length.is_some_and(|length| self.position > length) {
            return Err(Error::TooLong { url: self.url.to_string(), limit: self.length.unwrap_or(self.limit) });
        }
        if self.position - self.counted_from > PROGRESS {
            let was_resumed = self.tries > 0;
            (self.tries, self.counted_from) = (0, self.position);
            if was_resumed {
                self.client.tell(None);
            }
        }
        Ok(bytes)
    }

    fn broke(&mut self, error: Error) -> Result<(), Error> {
        self.reply = None;
        self.tries += 1;
        if self.tries > TRIES {
            return Err(error);
        }
        self.client.tell(Some(Resumed { number: self.tries, of: TRIES, reason: error.to_string() }));
        Ok(())
    }

    /// Asks for the rest. A server that cannot give it sends all again, of which what is here already is thrown away.
    async fn again(&mut self) -> Result<Reply, Error> {
        let mut headers = self.headers.clone();
        if self.position > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={}-", self.position))
        {
            headers.insert(RANGE, range);
            // Without one, the hash of the whole tells when two versions were put together.
            if let Some(validator) = &self.validator {
                headers.insert(IF_RANGE, validator.clone());
            }
        }
        let mut reply = self.client.get(Method::GET, &self.url, &headers).await?;
        // The bytes between the parts stand in it; most servers make new ones for each answer.
        let divided = |kind: &str| kind.to_ascii_lowercase().starts_with("multipart/");
        let kind = reply.header(&CONTENT_TYPE).unwrap_or_default();
        if kind != self.content_type && (divided(kind) || divided(&self.content_type)) {
            return Err(Error::Changed { url: self.url.to_string() });
        }
        let changed = |found| Error::Length { url: self.url.to_string(), expected: self.position, found };
        if reply.status == StatusCode::PARTIAL_CONTENT {
            let from = reply.header(&CONTENT_RANGE).and_then(|range| range.strip_prefix("bytes ")?.split('-').next());
            let from: Option<u64> = from.and_then(|from| from.parse().ok());
            return if from == Some(self.position) { Ok(reply) } else { Err(changed(from.unwrap_or_default())) };
        }
        if let (Some(length), Some(found)) = (self.length, reply.length())
            && length != found
        {
            return Err(Error::Length { url: self.url.to_string(), expected: length, found });
        }
        let mut left = self.position;
        while left > 0 {
            let Some(mut bytes) = reply.chunk().await? else { return Err(changed(self.position - left)) };
            let old = left.min(bytes.len() as u64);
            left -= old;
            // It fits: it is no more than the length of a slice.
            let rest = bytes.split_off(usize::try_from(old).unwrap_or(bytes.len()));
            if left == 0 && !rest.is_empty() {
                reply.unread(rest);
            }
        }
        Ok(reply)
    }
}
