//! `/1.0/instances/<name>/console`: the console itself by websockets, and its log.
//!
//! ```text
//!   "0" <─> /dev/console      client gone: detached
//!   "control" ──> its size    closed or gone: detached, which is how the stock client leaves (Ctrl-a q)
//! ```
//! Bytes travel as in exec. Nobody but the container's end ends what runs on the console. A client that is slow loses
//! output instead of holding the container up: liblxc's monitor waits for whoever is attached.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};

use super::app::App;
use super::call::Call;
use super::error::Error;
use super::exec::{Control, PIECE, connect, linger, next_control, next_input, refuse};
use super::response::{self, Response};
use super::{logs, standing, wire};
use crate::instance::{self, Console, Leave};
use crate::names::InstanceKey;
use crate::ops::socket::{Close, Incoming, Left, Outgoing};
use crate::ops::{Handle, Spec, WebSocket};

/// A slow client may lie behind by so many bytes.
const BACKLOG: usize = 1024 * 1024;
/// After the container's end, a slow client gets this long to take the rest.
const REST: Duration = Duration::from_secs(5);

/// `POST /1.0/instances/<name>/console`.
pub async fn attach(mut call: Call) -> Result<Response, Error> {
    let body: wire::ConsolePost = call.json().await?;
    let key = call.instance_key()?;
    if !call.app.db.model().instances.contains_key(&key) {
        return Err(Error::NotFound("Instance"));
    }
    match body.kind.as_str() {
        "" | "console" => {}
        "vga" => return Err(Error::Console("VGA console is only supported by virtual machines".to_owned())),
        other => return Err(Error::Console(format!("Unknown console type {other:?}"))),
    }
    call.app.instances.console_is_free(&key, body.force)?;
    let url = format!("/1.0/instances/{}", key.name);
    let spec = Spec {
        description: "Showing console",
        project: key.project.clone(),
        resources: [
            ("instances".to_owned(), vec![url.clone()]),
            ("containers".to_owned(), vec![url.replace("instances", "containers")]),
        ]
        .into(),
        metadata: None,
        requestor: Some(call.requestor()),
        may_cancel: false,
    };
    let owner = standing::check(&call, key.project.clone().into());
    let app = Arc::clone(&call.app);
    let operation = app
        .clone()
        .ops
        .websocket(spec, &["0", "control"], async move |handle| serve(&app, &key, &body, handle).await)
        .map_err(|_| Error::Random)?;
    operation.bind(owner);
    call.lifecycle("instance-console", &url);
    Ok(response::accepted(&operation))
}

/// `GET /1.0/instances/<name>/console`: what it showed since the last start.
pub async fn log(call: Call) -> Result<Response, Error> {
    let key = call.instance_key()?;
    let files = call.app.instances.console_log(&key).await?;
    let url = format!("/1.0/instances/{}", key.name);
    call.lifecycle("instance-console-retrieved", &url);
    Ok(logs::of_files(files, "console.log"))
}

/// `DELETE /1.0/instances/<name>/console`: empties the log.
pub async fn clear_log(call: Call) -> Result<Response, Error> {
    let key = call.instance_key()?;
    call.app.instances.clear_console_log(&key).await?;
    call.lifecycle("instance-console-reset", &format!("/1.0/instances/{}", key.name));
    Ok(response::empty())
}

/// Why a session is over.
enum End {
    /// The container's console is closed.
    Container,
    /// The client has left.
    Detached,
    /// The client is to leave.
    Leave(Leave),
}

async fn serve(
    app: &App,
    key: &InstanceKey,
    body: &wire::ConsolePost,
    mut handle: Handle,
) -> Result<(), instance::Error> {
    let control_socket = handle.socket("control");
    let mut sockets = connect(&mut handle, &["0"]).await?;
    let console = match app.instances.console(key, body.force).await {
        Ok(console) => console,
        Err(error) => {
            refuse(sockets, &error).await;
            return Err(error);
        }
    };
    let Some(socket) = sockets.pop() else { return Err(instance::Error::NoConnection) };
    resize(&console, body.width, body.height);
    let (mut outgoing, mut incoming) = socket.split();
    let backlog = Backlog::default();
    let (sender, sizes) = mpsc::channel(1);
    let control = tokio::spawn(control(control_socket, sender));
    let end = {
        let mut sending = std::pin::pin!(send(&backlog, &mut outgoing));
        let end = tokio::select! {
            () = receive(&console, &backlog) => End::Container,
            () = &mut sending => End::Detached,
            () = feed(&console, &mut incoming) => End::Detached,
            () = steer(&console, sizes) => End::Detached,
            leave = console.leave() => End::Leave(leave),
        };
        // First of all: nobody reads it any more, and the monitor must not wait for that.
        drop(console);
        if matches!(end, End::Container) {
            let _ = tokio::time::timeout(REST, sending).await;
        }
        end
    };
    linger(control);
    match end {
        End::Container => outgoing.finish().await,
        End::Detached => outgoing.close(Close::Normal).await,
        End::Leave(Leave::Taken) => {
            outgoing.close(Close::Because("The console was taken over by another client")).await;
        }
        End::Leave(Leave::Shutdown) => outgoing.close(Close::Shutdown).await,
    }
    Ok(())
}

fn resize(console: &Console, columns: u16, rows: u16) {
    if let Err(error) = console.resize(columns, rows) {
        tracing::debug!(%error, "resizing a console");
    }
}

/// What the container has written and the client has not taken.
#[derive(Default)]
struct Backlog {
    state: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    lost: usize,
    ended: bool,
}

impl Backlog {
    fn change<T>(&self, change: impl FnOnce(&mut Waiting) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
        result
    }

    fn add(&self, bytes: &[u8]) {
        self.change(|waiting| {
            let count = bytes.len().min(BACKLOG.saturating_sub(waiting.bytes.len()));
            // Once something is lost, nothing is added until the client has been told.
            let count = if waiting.lost > 0 { 0 } else { count };
            waiting.bytes.extend_from_slice(&bytes[..count]);
            waiting.lost += bytes.len() - count;
        });
    }

    fn end(&self) {
        self.change(|waiting| waiting.ended = true);
    }

    /// The next piece; `None` at the end.
    async fn take(&self) -> Option<Vec<u8>> {
        loop {
            let (piece, ended) = {
                let mut waiting = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                let mut piece = std::mem::take(&mut waiting.bytes);
                if waiting.lost > 0 {
                    let lost = std::mem::take(&mut waiting.lost);
                    piece.extend_from_slice(format!("\r\n[{lost} bytes were not taken in time]\r\n").as_bytes());
                }
                (piece, waiting.ended)
            };
            if !piece.is_empty() {
                return Some(piece);
            }
            if ended {
                return None;
            }
            self.changed.notified().await;
        }
    }
}

/// Reads the console, always: see [`Console::read`].
async fn receive(console: &Console, backlog: &Backlog) {
    let mut buffer = vec![0; PIECE];
    loop {
        match console.read(&mut buffer).await {
            0 => return backlog.end(),
            count => backlog.add(&buffer[..count]),
        }
    }
}

/// Returns when the client is gone, or has everything.
async fn send(backlog: &Backlog, outgoing: &mut Outgoing) {
    while let Some(bytes) = backlog.take().await {
        for piece in bytes.chunks(PIECE) {
            if outgoing.bytes(piece.to_vec()).await.is_err() {
                return;
            }
        }
    }
}

/// Returns when the client is gone. The end of its input alone is no reason to leave.
async fn feed(console: &Console, incoming: &mut Incoming) {
    while let Ok(bytes) = next_input(incoming).await {
        let Some(bytes) = bytes else { continue };
        if console.write(&bytes).await.is_err() {
            // The container's end: seen by who reads.
            incoming.ignore().await;
            return;
        }
    }
}

/// Takes sizes from the control websocket; ends when the client closes it, or is gone. A task of its own, so that its
/// client gets every word, whatever else ends the session.
async fn control(socket: Option<oneshot::Receiver<WebSocket>>, sizes: mpsc::Sender<(u16, u16)>) {
    let Some(socket) = socket else { return sizes.closed().await };
    let Ok(socket) = socket.await else { return sizes.closed().await };
    let (_outgoing, mut incoming) = socket.split();
    loop {
        match next_control(&mut incoming).await {
            // Nobody is there to take it when the session is over.
            Ok(Control::Resize(columns, rows)) => drop(sizes.send((columns, rows)).await),
            Ok(Control::Signal(number)) => tracing::debug!(number, "a console has no process to signal"),
            Err(Left::Closed | Left::Vanished) => return,
            // The other websocket hears of it by itself.
            Err(Left::Shutdown) => return sizes.closed().await,
        }
    }
}

/// Returns when there is no control any more.
async fn steer(console: &Console, mut sizes: mpsc::Receiver<(u16, u16)>) {
    while let Some((columns, rows)) = sizes.recv().await {
        resize(console, columns, rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_client_loses_output_and_is_told_how_much() {
        let backlog = Backlog::default();
        backlog.add(b"first");
        assert_eq!(backlog.take().await.unwrap(), b"first");
        backlog.add(&vec![b'x'; BACKLOG - 1]);
        backlog.add(b"yz");
        backlog.add(b"gone");
        let piece = backlog.take().await.unwrap();
        assert!(piece.ends_with(b"xy\r\n[5 bytes were not taken in time]\r\n"), "{}", piece.len());
        backlog.add(b"last");
        backlog.end();
        assert_eq!(backlog.take().await.unwrap(), b"last");
        assert!(backlog.take().await.is_none());
    }
}
