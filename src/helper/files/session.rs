//! The daemon's side of a request about files.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::sync::oneshot;

use super::super::launcher::Launcher;
use super::super::line::Line;
use super::super::protocol::{Reply, Request};
use super::super::{ContainerRef, Error};
use super::{FilesRequest, Found};

/// An answer about files takes milliseconds; a file system that does not answer must not hold a request for ever.
const ANSWER: Duration = Duration::from_secs(30);
/// Content that nobody takes or gives: the helper's side of it, not the client's.
const STALL: Duration = Duration::from_secs(60);
/// Copying a large file into place may take this long.
const COMMIT: Duration = Duration::from_secs(15 * 60);
/// A helper whose session is over ends by itself within this time, unless a file system holds it.
const GRACE: Duration = Duration::from_secs(1);
/// So much of a file is on its way between helper and daemon at most, bytes.
const PIPE: usize = 1024 * 1024;
/// Content is passed on in pieces of this size.
const PIECE: usize = 256 * 1024;
/// An SFTP session is relayed in pieces of this size: a packet of it fits.
const RELAY: usize = 256 * 1024;

/// One request about files, under way. Dropped, it ends; a file that was being written then stays as it was.
pub struct Session {
    line: Line,
    content: Content,
    /// Tells the [`Keeper`] that it is over.
    _over: oneshot::Sender<()>,
}

enum Content {
    None,
    In(pipe::Receiver),
    Out(pipe::Sender),
}

/// Waits for the end of a session's helper. As long as it runs, the helper may hold the instance's root.
pub struct Keeper {
    child: Child,
    over: oneshot::Receiver<()>,
}

impl Keeper {
    /// Returns when the helper is gone. It is killed when `cut` resolves, or when the session is over and it does not end.
    pub async fn ended(mut self, cut: impl Future<Output = ()>) {
        tokio::select! {
            _ = self.child.wait() => return,
            () = cut => {}
            _ = &mut self.over => {
                if tokio::time::timeout(GRACE, self.child.wait()).await.is_ok() {
                    return;
                }
            }
        }
        // It may have ended just now.
        let _ = self.child.start_kill();
        let _ = self.child.wait().await;
    }
}

fn pipe(request: &FilesRequest) -> io::Result<(Content, Option<OwnedFd>)> {
    let pair = || {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        // As large as one may be without asking; a smaller one is only slower.
        let _ = rustix::pipe::fcntl_setpipe_size(&reader, PIPE);
        Ok::<_, io::Error>((reader, writer))
    };
    match request {
        FilesRequest::Read(_) => {
            let (reader, writer) = pair()?;
            Ok((Content::In(pipe::Receiver::from_owned_fd(reader)?), Some(writer)))
        }
        FilesRequest::Write { .. } => {
            let (reader, writer) = pair()?;
            Ok((Content::Out(pipe::Sender::from_owned_fd(writer)?), Some(reader)))
        }
        FilesRequest::Look(_)
        | FilesRequest::MakeDirectory { .. }
        | FilesRequest::MakeLink { .. }
        | FilesRequest::Delete(_)
        | FilesRequest::Sftp => Ok((Content::None, None)),
    }
}

impl Launcher {
    /// Puts a request about the files below `root` to a helper; of an unprivileged instance, with its user namespace.
    /// The keeper must be waited for: until then, the helper may hold the root.
    ///
    /// # Errors
    /// When there is no helper.
    pub async fn files(
        &self,
        container: &ContainerRef,
        root: BorrowedFd<'_>,
        namespace: Option<BorrowedFd<'_>>,
        request: FilesRequest,
    ) -> Result<(Session, Keeper), Error> {
        let (content, theirs) = pipe(&request).map_err(Error::Spawn)?;
        let (line, child) = self.line("reach the files of", container)?.split()?;
        let mut fds = vec![root];
        fds.extend(theirs.as_ref().map(AsFd::as_fd));
        fds.extend(namespace);
        line.send(&Request::Files(request), &fds).await?;
        let (sender, over) = oneshot::channel();
        Ok((Session { line, content, _over: sender }, Keeper { child, over }))
    }
}

impl Session {
    async fn answer(&mut self, limit: Duration) -> Result<Option<Found>, Error> {
        match tokio::time::timeout(limit, self.line.reply()).await {
            Err(_) => Err(self.line.timeout(limit)),
            Ok(Ok(Reply::Done)) => Ok(None),
            Ok(Ok(Reply::File(found))) => Ok(Some(found)),
            Ok(Ok(Reply::Refused(refusal))) => Err(Error::Files(refusal)),
            Ok(Ok(Reply::Failed { reason })) => Err(self.line.broken(&reason)),
            Ok(Ok(_)) => Err(self.line.broken("gave a wrong answer")),
            Ok(Err(error)) => Err(error),
        }
    }

    /// Waits until it is done, or (`Write`, `Sftp`) may begin.
    ///
    /// # Errors
    /// [`Error::Files`] when the files do not allow it.
    pub async fn done(&mut self) -> Result<(), Error> {
        self.answer(ANSWER).await.map(drop)
    }

    /// Waits for what was found, the answer to `Look` and `Read`.
    ///
    /// # Errors
    /// [`Error::Files`] when the files do not allow it.
    pub async fn found(&mut self) -> Result<Found, Error> {
        self.answer(ANSWER).await?.ok_or_else(|| self.line.broken("gave a wrong answer"))
    }

    /// The next piece of the content, the longer part of the answer to `Read`; none at its end.
    ///
    /// # Errors
    /// When the helper does not go on.
    pub async fn next_piece(&mut self) -> io::Result<Option<Bytes>> {
        let Content::In(reader) = &mut self.content else { return Ok(None) };
        let mut piece = BytesMut::with_capacity(PIECE);
        match tokio::time::timeout(STALL, reader.read_buf(&mut piece)).await {
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
            Ok(Ok(0)) => Ok(None),
            Ok(read) => read.map(|_| Some(piece.freeze())),
        }
    }

    /// Gives a piece of the content of `Write`.
    ///
    /// # Errors
    /// [`Error::Files`] when the files do not take it.
    pub async fn give(&mut self, piece: &[u8]) -> Result<(), Error> {
        let Content::Out(writer) = &mut self.content else { return Err(self.line.broken("takes no content")) };
        match tokio::time::timeout(STALL, writer.write_all(piece)).await {
            Err(_) => Err(self.line.timeout(STALL)),
            Ok(Ok(())) => Ok(()),
            // It has closed the pipe, and says why.
            Ok(Err(_)) => Err(self.answer(ANSWER).await.err().unwrap_or_else(|| self.line.broken("takes no content"))),
        }
    }

    /// The content of `Write` is whole: makes it count.
    ///
    /// # Errors
    /// [`Error::Files`] when the files do not take it.
    pub async fn commit(mut self) -> Result<(), Error> {
        // The end of the pipe is the end of the content.
        self.content = Content::None;
        // A helper that has refused the content meanwhile listens no more; its answer is there, and says more.
        let _ = self.line.send(&Request::Commit, &[]).await;
        self.answer(COMMIT).await.map(drop)
    }

    /// Relays an `Sftp` session to `stream` until either end closes.
    ///
    /// # Errors
    /// Of either end.
    pub async fn relay(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        let Self { line, _over: over, .. } = self;
        let (mut socket, received) = line.into_stream();
        stream.write_all(&received).await?;
        let result = tokio::io::copy_bidirectional_with_sizes(&mut stream, &mut socket, RELAY, RELAY).await;
        drop(over);
        result.map(drop)
    }
}
