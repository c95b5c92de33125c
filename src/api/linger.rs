//! Closing a connection without losing the answer.
//!
//! A request may be refused before its body has been read. Closing a socket with unread input resets it, and the client
//! loses the answer that was on its way (tcp(7); unix sockets do the same). So the end of a connection is announced
//! first, and what still comes is thrown away until the client closes, too:
//!
//! ```text
//! Open ── shutdown ──> Saying so ── said ──> Draining ── end of input, or IDLE without any ──> Closed
//!                          └──────────── LIMIT in all ────────────┘─────────────────────────────┘
//! ```
//!
//! Saying so takes a while when the client does not read: over TLS it is a message behind the answer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// A client that sends nothing for this long has read its answer, or never will.
const IDLE: Duration = Duration::from_secs(2);
/// Whatever a client sends, after this long it is cut off.
const LIMIT: Duration = Duration::from_secs(30);

/// A stream that closes in two steps.
pub(super) struct Lingering<S> {
    stream: S,
    draining: Option<Draining>,
}

struct Draining {
    said: bool,
    idle: Pin<Box<Sleep>>,
    end: Instant,
}

impl<S> Lingering<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, draining: None }
    }
}

impl Draining {
    fn new() -> Self {
        let end = Instant::now() + LIMIT;
        Self { said: false, idle: Box::pin(sleep_until(end)), end }
    }

    /// Input has come: the client gets its time anew, but not for ever.
    fn renew(&mut self) {
        let next = (Instant::now() + IDLE).min(self.end);
        self.idle.as_mut().reset(next);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let draining = this.draining.get_or_insert_with(Draining::new);
        if !draining.said {
            match Pin::new(&mut this.stream).poll_shutdown(cx) {
                Poll::Ready(result) => result?,
                Poll::Pending => return draining.idle.as_mut().poll(cx).map(Ok),
            }
            draining.said = true;
            draining.renew();
        }
        let mut scratch = [std::mem::MaybeUninit::uninit(); 8 * 1024];
        loop {
            let mut buf = ReadBuf::uninit(&mut scratch);
            match Pin::new(&mut this.stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() && Instant::now() < draining.end => draining.renew(),
                // An error is an end like any other: nobody is left to tell.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return draining.idle.as_mut().poll(cx).map(Ok),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn an_answer_before_the_end_of_the_body_arrives() {
        let (server, mut client) = UnixStream::pair().unwrap();
        let closing = tokio::spawn(async move {
            let mut server = Lingering::new(server);
            server.write_all(b"refused").await.unwrap();
            server.shutdown().await.unwrap();
        });
        // More than any socket buffer holds: without draining, this would end in a reset.
        for _ in 0..64 {
            client.write_all(&[0; 64 * 1024]).await.unwrap();
        }
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "refused");
        drop(client);
        closing.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stays_silent_is_left() {
        let (server, _client) = UnixStream::pair().unwrap();
        let before = Instant::now();
        Lingering::new(server).shutdown().await.unwrap();
        assert_eq!(before.elapsed().as_secs(), IDLE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_left() {
        // Like TLS, a buffered writer has something to send before its end.
        let (server, _client) = tokio::io::duplex(8);
        let mut server = Lingering::new(tokio::io::BufWriter::new(server));
        server.write_all(b"more than fits").await.unwrap();
        let before = Instant::now();
        server.shutdown().await.unwrap();
        assert_eq!(before.elapsed().as_secs(), LIMIT.as_secs());
    }
}
