//! The body of a request: read by pieces, bounded in size and time; and what becomes of one that nobody reads.
//!
//! An answer may be known before the body has come: a refusal, or a question that needs none. A small rest is read and
//! thrown away before the answer goes out, and the connection stays. Of a long one the answer says that the connection
//! is closed behind it (see [`super::linger`]).

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};

/// What is read of a body that nobody wants, bytes…
const SMALL: usize = 64 * 1024;
/// …if it is there soon.
const SOON: Duration = Duration::from_millis(250);

/// Whoever sends one that is read whole may pause this long, however much is trusted.
const PAUSE: Duration = Duration::from_secs(60);

/// A body that breaks off, or is too long.
#[derive(Debug)]
pub enum BodyError {
    /// The connection broke.
    Broken(String),
    /// Longer than this many bytes.
    TooLong(usize),
    /// Not all there after this time, or nothing more for this long.
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

type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>;

/// The body of a request, read piece by piece.
pub struct BodyStream {
    /// Never locked: the mutex makes a request shareable, which warp's stream is not.
    chunks: Mutex<Returning>,
}

/// A stream that goes back when it is let go before its end.
struct Returning {
    chunks: Option<Chunks>,
    home: Option<Rest>,
}

impl Stream for Returning {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(chunks) = &mut self.chunks else { return Poll::Ready(None) };
        let next = chunks.as_mut().poll_next(cx);
        if matches!(next, Poll::Ready(None | Some(Err(_)))) {
            self.chunks = None;
        }
        next
    }
}

impl Drop for Returning {
    fn drop(&mut self) {
        if let (Some(chunks), Some(Rest(Some(home)))) = (self.chunks.take(), &self.home) {
            *home.lock().unwrap_or_else(PoisonError::into_inner) = Some(chunks);
        }
    }
}

/// What of a body nobody wanted.
#[derive(Clone, Default)]
pub(super) struct Rest(Option<Arc<Mutex<Option<Chunks>>>>);

impl Rest {
    /// Reads a small rest and throws it away, so that the connection can be used again: many clients send `null` where no
    /// body is needed. Whether the end was reached.
    pub(super) async fn drain(self) -> bool {
        let left = self.0.and_then(|home| home.lock().unwrap_or_else(PoisonError::into_inner).take());
        let Some(mut chunks) = left else { return true };
        let read = async {
            let mut length = 0;
            while let Some(Ok(chunk)) = chunks.next().await {
                length += chunk.len();
                if length > SMALL {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(SOON, read).await.unwrap_or(false)
    }
}

impl BodyStream {
    /// Nothing.
    pub fn empty() -> Self {
        Self { chunks: Mutex::new(Returning { chunks: None, home: None }) }
    }

    /// The next piece; `None` at the end.
    pub async fn next_chunk(&mut self) -> Option<Result<Bytes, BodyError>> {
        self.chunks.get_mut().unwrap_or_else(PoisonError::into_inner).next().await
    }

    /// Puts a piece back that was only looked at: it comes next.
    pub fn put_back(&mut self, piece: Bytes) {
        let returning = self.chunks.get_mut().unwrap_or_else(PoisonError::into_inner);
        let first = futures_util::stream::once(std::future::ready(Ok(piece)));
        returning.chunks = Some(match returning.chunks.take() {
            Some(rest) => first.chain(rest).boxed(),
            None => first.boxed(),
        });
    }

    /// All of it, if it is not longer than `max`, and comes without long pauses.
    ///
    /// # Errors
    /// [`BodyError`].
    pub async fn read_limited(mut self, max: usize) -> Result<Bytes, BodyError> {
        let mut all = BytesMut::new();
        loop {
            let next = tokio::time::timeout(PAUSE, self.next_chunk());
            let Some(chunk) = next.await.map_err(|_| BodyError::Slow(PAUSE))? else { break };
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

    /// As a stream, for the multipart parser.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, BodyError>> + Send {
        self.chunks.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of a request, and what will be left of it.
pub(super) fn of<S, B>(headers: &HeaderMap, stream: S) -> (BodyStream, Rest)
where
    S: Stream<Item = Result<B, warp::Error>> + Send + 'static,
    B: Buf,
{
    let chunks = stream.map(|piece| match piece {
        Ok(mut piece) => Ok(piece.copy_to_bytes(piece.remaining())),
        Err(error) => Err(BodyError::Broken(error.to_string())),
    });
    let announced = headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    // Who waits for leave to send gets the answer instead of it.
    let comes = (announced || headers.contains_key(TRANSFER_ENCODING)) && !headers.contains_key(EXPECT);
    let rest = Rest(comes.then(Arc::default));
    let returning = Returning { chunks: Some(chunks.boxed()), home: Some(rest.clone()) };
    (BodyStream { chunks: Mutex::new(returning) }, rest)
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn body_of(stream: impl Stream<Item = Result<Bytes, warp::Error>> + Send + 'static) -> (BodyStream, Rest) {
        let mut headers = HeaderMap::new();
        headers.insert(TRANSFER_ENCODING, http::HeaderValue::from_static("chunked"));
        of(&headers, stream)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let time = Duration::from_secs(30);
        let some = stream::once(std::future::ready(Ok(Bytes::from_static(b"{"))));
        let (body, rest) = body_of(some.chain(stream::pending()));
        let before = tokio::time::Instant::now();
        assert!(matches!(body.read_within(64, time).await, Err(BodyError::Slow(_))));
        assert_eq!(before.elapsed().as_secs(), time.as_secs());
        assert!(!rest.drain().await);
        // Who is trusted may take its time, but not stop.
        let (body, _) = body_of(stream::pending());
        let before = tokio::time::Instant::now();
        assert!(matches!(body.read_limited(64).await, Err(BodyError::Slow(PAUSE))));
        assert_eq!(before.elapsed(), PAUSE);
        let (long, _) = body_of(stream::repeat_with(|| Ok(Bytes::from_static(&[0; 64]))));
        assert!(matches!(long.read_within(1000, time).await, Err(BodyError::TooLong(1000))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_rest_is_read_and_a_long_one_is_not() {
        let pieces = |count: usize| stream::iter((0..count).map(|_| Ok(Bytes::from_static(&[0; 1024]))));
        let (body, rest) = body_of(pieces(3));
        drop(body);
        assert!(rest.drain().await);
        let (mut body, rest) = body_of(pieces(3));
        assert!(body.next_chunk().await.is_some());
        drop(body.into_stream());
        assert!(rest.drain().await);
        let (body, rest) = body_of(pieces(100));
        drop(body);
        assert!(!rest.drain().await);
        let (body, rest) = body_of(stream::pending());
        drop(body);
        assert!(!rest.drain().await, "what does not come is not waited for");
        let (body, rest) = body_of(pieces(1));
        body.read_limited(2000).await.unwrap();
        assert!(rest.drain().await, "nothing was left");
    }
}
