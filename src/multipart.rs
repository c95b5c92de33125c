//! Bodies of several parts (RFC 7578, RFC 2046), read piece by piece.

use std::error::Error as StdError;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
pub use multer::{Error, parse_boundary};

/// The parts of a body. What is in memory of it is never much more than one piece of `stream`.
pub fn parts<'r, S, E>(stream: S, boundary: impl Into<String>) -> multer::Multipart<'r>
where
    S: Stream<Item = Result<Bytes, E>> + Send + 'r,
    E: Into<Box<dyn StdError + Send + Sync>> + 'r,
{
    multer::Multipart::new(Paced { stream: Box::pin(stream), rests: false }, boundary)
}

/// A stream that gives one piece at a time: multer takes whatever lies ready before it hands on any of it, which of a sender
/// that is quicker than the disk is the whole body.
struct Paced<S> {
    stream: Pin<Box<S>>,
    rests: bool,
}

impl<S: Stream> Stream for Paced<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        if std::mem::take(&mut self.rests) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let next = self.stream.as_mut().poll_next(context);
        self.rests = matches!(next, Poll::Ready(Some(_)));
        next
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_lies_ready_is_taken_piece_by_piece() {
        const PIECES: usize = 64;
        let given = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&given);
        let head = "--b\r\nContent-Disposition: form-data; name=\"rootfs\"\r\n\r\n";
        let pieces = std::iter::once(Bytes::from(head))
            .chain((0..PIECES).map(|_| Bytes::from(vec![b'x'; 32 * 1024])))
            .chain([Bytes::from("\r\n--b--\r\n")]);
        let pieces = pieces.inspect(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let mut body = parts(futures_util::stream::iter(pieces.map(Ok::<_, std::io::Error>)), "b");
        let mut part = body.next_field().await.unwrap().unwrap();
        let (mut taken, mut length) = (0, 0);
        while let Some(chunk) = part.chunk().await.unwrap() {
            taken += 1;
            length += chunk.len();
            let given = given.load(Ordering::Relaxed);
            assert!(given <= taken + 3, "{given} pieces were taken in for {taken}");
        }
        assert_eq!(length, PIECES * 32 * 1024);
        drop(part);
        assert!(body.next_field().await.unwrap().is_none());
    }
}
