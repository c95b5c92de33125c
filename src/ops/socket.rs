//! Websockets of clients. The daemon knows all of them: their number and messages are limited, and when it ends they are
//! closed with a reason.
//!
//! ```text
//!   Sockets ── admit ──> Ticket ── handshake done ──> WebSocket ── split ──> Outgoing, Incoming
//!      ├── review: whose client may not have it any more hears it, tells so (1008), and is dropped
//!      └── close: every half hears it, tells its client why (1001), and is dropped
//! ```
//! Both halves may close: the first who does gives the reason.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_tungstenite::WebSocketStream;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error as WsError, Message};

/// The longest message that is taken, bytes. Source: ours; the stock client sends at most 32 KiB at a time.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// At most so many websockets are open at a time.
pub const MAX_SOCKETS: usize = 4096;

/// A client that takes nothing gets this long for the last words.
const FAREWELL: Duration = Duration::from_secs(1);
/// A reason is at most this long, bytes (RFC 6455, 5.5: a control frame has 125, of which the code takes 2).
const MAX_REASON: usize = 123;

/// The stream under a websocket.
pub type Raw = WebSocketStream<hyper_util::rt::TokioIo<hyper::upgrade::Upgraded>>;

/// Whether a client may still have what it opened; asked again and again.
pub type Check = Box<dyn Fn() -> bool + Send + Sync>;

/// A websocket that its client may lose.
struct Held {
    check: Arc<Check>,
    withdrawn: watch::Sender<bool>,
}

#[derive(Default)]
struct Registry {
    next: u64,
    held: BTreeMap<u64, Held>,
}

type Shelf = Arc<std::sync::Mutex<Registry>>;

/// All websockets of the daemon.
pub struct Sockets {
    closing: watch::Sender<bool>,
    places: Arc<Semaphore>,
    shelf: Shelf,
}

impl Default for Sockets {
    fn default() -> Self {
        let (closing, places) = (watch::Sender::new(false), Arc::new(Semaphore::new(MAX_SOCKETS)));
        Self { closing, places, shelf: Shelf::default() }
    }
}

impl Sockets {
    /// A place for one more, for as long as `check` holds, if there is one; `None` when there are [`MAX_SOCKETS`], or the
    /// daemon ends.
    pub fn admit(&self, check: Option<Check>) -> Option<Ticket> {
        if *self.closing.borrow() {
            return None;
        }
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let entry = check.map(|check| Entry::new(&self.shelf, check));
        Some(Ticket { closing: self.closing.subscribe(), entry, _place: place })
    }

    /// Has those closed whose clients may not have them any more.
    pub fn review(&self) {
        let registry = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        for one in registry.held.values().filter(|one| !(one.check)()) {
            one.withdrawn.send_replace(true);
        }
    }

    /// Number of open websockets.
    pub fn open(&self) -> usize {
        MAX_SOCKETS - self.places.available_permits()
    }

    /// Has all of them closed with a reason, and waits for that, but not longer than `limit`.
    pub async fn close(&self, limit: Duration) {
        self.closing.send_replace(true);
        if tokio::time::timeout(limit, self.closing.closed()).await.is_err() {
            tracing::info!(open = self.open(), "websockets whose clients do not let go");
        }
    }
}

/// What is remembered of a websocket that its client may lose, as long as it stands.
struct Entry {
    shelf: Shelf,
    number: u64,
    check: Arc<Check>,
    withdrawn: watch::Receiver<bool>,
}

impl Entry {
    fn new(shelf: &Shelf, check: Check) -> Self {
        let (check, (sender, withdrawn)) = (Arc::new(check), watch::channel(false));
        let mut registry = shelf.lock().unwrap_or_else(PoisonError::into_inner);
        let number = registry.next;
        registry.next += 1;
        registry.held.insert(number, Held { check: Arc::clone(&check), withdrawn: sender });
        Self { shelf: Arc::clone(shelf), number, check, withdrawn }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let held = self.shelf.lock().unwrap_or_else(PoisonError::into_inner).held.remove(&self.number);
        // Outside the lock: what it holds may end with it.
        drop(held);
    }
}

/// A place among the websockets.
pub struct Ticket {
    closing: watch::Receiver<bool>,
    entry: Option<Entry>,
    _place: OwnedSemaphorePermit,
}

impl Ticket {
    /// The websocket that takes the place.
    pub fn socket(self, raw: Raw) -> WebSocket {
        WebSocket { raw, ticket: self }
    }

    /// Whether its client may not have it any more, also where a review has not come to it yet.
    fn is_withdrawn(&self) -> bool {
        self.entry.as_ref().is_some_and(|entry| !(entry.check)())
    }

    /// Resolves when what has this place must end, with the reason.
    pub fn ended(&self) -> impl Future<Output = Close<'static>> + Send + 'static {
        let withdrawn = self.entry.as_ref().map(|entry| entry.withdrawn.clone());
        let mut closing = self.closing.clone();
        let withdrawn = async move {
            if let Some(mut withdrawn) = withdrawn
                && withdrawn.wait_for(|is| *is).await.is_ok()
            {
                return;
            }
            std::future::pending().await
        };
        async move {
            tokio::select! {
                biased;
                () = withdrawn => Close::Withdrawn,
                // The sender is gone only with the daemon.
                _ = closing.wait_for(|closing| *closing) => Close::Shutdown,
            }
        }
    }
}

/// A websocket of a client.
pub struct WebSocket {
    raw: Raw,
    ticket: Ticket,
}

impl WebSocket {
    /// Its two directions.
    pub fn split(self) -> (Outgoing, Incoming) {
        let (sink, stream) = self.raw.split();
        let shared = Arc::new(Shared { sink: Mutex::new(sink), ticket: self.ticket });
        (Outgoing { shared: Arc::clone(&shared) }, Incoming { shared, stream, gone: None })
    }

    /// Closes it.
    pub async fn close(self, why: Close<'_>) {
        self.split().0.close(why).await;
    }

    /// Sends `events`, a text message each, until the client leaves; `last` is why it is closed when there come no more.
    pub async fn tell(self, mut events: mpsc::Receiver<Arc<str>>, last: &str) {
        let (mut outgoing, mut incoming) = self.split();
        loop {
            tokio::select! {
                // What has happened is told before a leave-taking, of either side.
                biased;
                event = events.recv() => {
                    let Some(text) = event else { break };
                    if outgoing.text(&text).await.is_err() {
                        return;
                    }
                }
                _ = incoming.ignore() => return,
            }
        }
        outgoing.close(Close::Because(last)).await;
    }
}

/// Why a websocket is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close<'a> {
    /// All has been said.
    Normal,
    /// The daemon ends.
    Shutdown,
    /// The client may not have it any more.
    Withdrawn,
    /// A message was longer than [`MAX_MESSAGE`].
    TooBig,
    /// Something else, in words.
    Because(&'a str),
}

impl Close<'_> {
    fn message(self) -> Message {
        let (code, reason) = match self {
            // The stock client takes a frame without a code for the normal end, too.
            Self::Normal => (CloseCode::Normal, ""),
            Self::Shutdown => (CloseCode::Away, "The daemon is shutting down"),
            Self::Withdrawn => (CloseCode::Policy, "The client is not trusted with this any more"),
            Self::TooBig => (CloseCode::Size, "A message was longer than 4 MiB"),
            Self::Because(reason) => (CloseCode::Policy, reason),
        };
        let mut length = reason.len().min(MAX_REASON);
        while !reason.is_char_boundary(length) {
            length -= 1;
        }
        Message::Close(Some(CloseFrame { code, reason: reason[..length].into() }))
    }
}

/// The client is gone, or the websocket is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

struct Shared {
    sink: Mutex<SplitSink<Raw, Message>>,
    ticket: Ticket,
}

impl Shared {
    /// Resolves when the daemon ends.
    fn closing(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut closing = self.ticket.closing.clone();
        async move {
            // The sender is gone only with the daemon.
            let _ = closing.wait_for(|closing| *closing).await;
        }
    }

    /// Resolves when the client may not have it any more.
    async fn withdrawn(&self) -> Close<'static> {
        match self.ticket.ended().await {
            Close::Withdrawn => Close::Withdrawn,
            // The daemon's end lets what was begun be sent.
            _ => std::future::pending().await,
        }
    }

    /// Whoever closes it: that it is withdrawn is the reason, if it is.
    async fn close(&self, why: Close<'_>) {
        let why = if self.ticket.is_withdrawn() { Close::Withdrawn } else { why };
        // A client that is gone, or takes nothing, hears no reason.
        let _ = tokio::time::timeout(FAREWELL, async {
            let mut sink = self.sink.lock().await;
            if sink.send(why.message()).await.is_ok() {
                let _ = sink.close().await;
            }
        })
        .await;
    }
}

/// The direction to the client.
pub struct Outgoing {
    shared: Arc<Shared>,
}

impl Outgoing {
    async fn send(&mut self, message: Message) -> Result<(), Gone> {
        let sent = async { self.shared.sink.lock().await.send(message).await.map_err(|_| Gone) };
        // What was begun is sent whole, if the client takes it.
        tokio::select! {
            biased;
            why = self.shared.withdrawn() => {
                self.shared.close(why).await;
                Err(Gone)
            }
            sent = sent => sent,
            () = self.shared.closing() => {
                self.shared.close(Close::Shutdown).await;
                Err(Gone)
            }
        }
    }

    /// Sends bytes; waits while the client does not take them.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn bytes(&mut self, bytes: Vec<u8>) -> Result<(), Gone> {
        self.send(Message::binary(bytes)).await
    }

    /// Sends a text.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn text(&mut self, text: &str) -> Result<(), Gone> {
        self.send(Message::text(text)).await
    }

    /// Closes it.
    pub async fn close(self, why: Close<'_>) {
        self.shared.close(why).await;
    }

    /// Lets go of it without a word to a client that has left another of its websockets; but one that was withdrawn is
    /// told so.
    pub async fn leave(self) {
        if self.shared.ticket.is_withdrawn() {
            self.close(Close::Withdrawn).await;
        }
    }

    /// Marks the end of the data by an empty text, as LXD does, and closes.
    pub async fn finish(mut self) {
        // A client that is gone does not care.
        if self.text("").await.is_ok() {
            self.close(Close::Normal).await;
        }
    }

    /// Resolves when the daemon ends.
    pub fn closing(&self) -> impl Future<Output = ()> + Send + 'static {
        self.shared.closing()
    }
}

/// What comes from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Data.
    Bytes(Bytes),
    /// A text; an empty one marks the end of the data.
    Text(String),
}

/// How a client left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// It said so.
    Closed,
    /// The connection broke, or was closed from here; also when the client may not have it any more.
    Vanished,
    /// It did not: the daemon ends, and has told it so.
    Shutdown,
}

/// The direction from the client. It must be read: that answers pings and sees the client go.
pub struct Incoming {
    shared: Arc<Shared>,
    stream: SplitStream<Raw>,
    gone: Option<Left>,
}

impl Incoming {
    /// The next message.
    ///
    /// # Errors
    /// How the client left.
    pub async fn next(&mut self) -> Result<Input, Left> {
        if let Some(left) = self.gone {
            return Err(left);
        }
        let left = loop {
            let message = tokio::select! {
                message = self.stream.next() => message,
                why = self.shared.ticket.ended() => {
                    self.shared.close(why).await;
                    break if why == Close::Shutdown { Left::Shutdown } else { Left::Vanished };
                }
            };
            match message {
                Some(Ok(Message::Binary(bytes))) => return Ok(Input::Bytes(bytes)),
                Some(Ok(Message::Text(text))) => return Ok(Input::Text(text.to_string())),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) => {
                    self.answer_close().await;
                    break Left::Closed;
                }
                Some(Err(WsError::Capacity(_))) => {
                    self.shared.close(Close::TooBig).await;
                    break Left::Vanished;
                }
                Some(Err(_)) | None => break Left::Vanished,
            }
        };
        self.gone = Some(left);
        Err(left)
    }

    /// The answer to a close lies ready in the stream; asking for more sends it.
    async fn answer_close(&mut self) {
        let _ = tokio::time::timeout(FAREWELL, self.stream.next()).await;
    }

    /// Throws away what comes, until the client leaves.
    pub async fn ignore(&mut self) -> Left {
        loop {
            if let Err(left) = self.next().await {
                return left;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_waits_for_every_websocket_and_admits_no_more() {
        let sockets = Sockets::default();
        let ticket = sockets.admit(None).unwrap();
        assert_eq!(sockets.open(), 1);
        let leaving = tokio::spawn(async move {
            let mut closing = ticket.closing.clone();
            closing.wait_for(|closing| *closing).await.unwrap();
            drop(ticket);
        });
        sockets.close(Duration::from_secs(10)).await;
        leaving.await.unwrap();
        assert_eq!(sockets.open(), 0);
        assert!(sockets.admit(None).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_does_not_wait_for_ever() {
        let sockets = Sockets::default();
        let _ticket = sockets.admit(None).unwrap();
        sockets.close(Duration::from_secs(2)).await;
        assert_eq!(sockets.open(), 1);
    }

    #[tokio::test]
    async fn who_may_not_have_it_any_more_loses_it_and_no_other() {
        let (sockets, may) = (Sockets::default(), Arc::new(std::sync::atomic::AtomicBool::new(true)));
        let asked = Arc::clone(&may);
        let one = sockets.admit(Some(Box::new(move || asked.load(std::sync::atomic::Ordering::Relaxed)))).unwrap();
        let others = [sockets.admit(Some(Box::new(|| true))).unwrap(), sockets.admit(None).unwrap()];
        sockets.review();
        let soon = Duration::from_millis(10);
        assert!(tokio::time::timeout(soon, one.ended()).await.is_err());
        may.store(false, std::sync::atomic::Ordering::Relaxed);
        sockets.review();
        assert_eq!(one.ended().await, Close::Withdrawn);
        for other in &others {
            assert!(tokio::time::timeout(soon, other.ended()).await.is_err());
        }
        drop((one, others));
        assert!(sockets.shelf.lock().unwrap().held.is_empty(), "nothing is kept of those that have gone");
    }

    #[test]
    fn a_reason_fits_into_a_control_frame() {
        let reason = "ä".repeat(100);
        let Message::Close(Some(frame)) = Close::Because(&reason).message() else { panic!() };
        assert_eq!(frame.reason.len(), 122);
        assert_eq!(frame.code, CloseCode::Policy);
    }
}
