//! The guest interface: what root inside a container can ask the daemon about its own container, by `/dev/lxd/sock`.
//!
//! ```text
//!   /dev/lxd/sock ── accept ── who is it (instance::guests) ──> a handler for this container only ── answer
//! ```
//! Who connected is found once, by the kernel's word; that it still is that container, and still may ask, with every
//! request. Wire: LXD's guest API 1.0, whose errors are plain text.

mod answer;
mod stall;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::api::app::App;
use crate::api::entry::{Body, Handler, Peer, Request};
use crate::api::server;
use crate::instance::{Guest, Stranger};
use crate::names::InstanceKey;
use crate::ops::socket::Sockets;

/// At most so many connections of a container's root stand at a time, and as many of its other users, who only hear that
/// they may not ask; more are closed at once.
const MOST: usize = 256;
/// And of processes that belong to no container.
const STRANGERS: usize = 16;
/// A client that takes nothing of what is sent to it is left after this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who a connection is counted for: the container, whether it is its root; none for strangers.
type Account = Option<(InstanceKey, bool)>;

/// The guest interface of a daemon.
pub struct Server {
    app: Arc<App>,
    counts: Mutex<BTreeMap<Account, usize>>,
    /// Its own: guests do not take the places of the API's clients.
    sockets: Sockets,
}

/// A connection that is counted.
struct Place {
    server: Arc<Server>,
    account: Account,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.server.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.account) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.account);
            }
        }
    }
}

/// What answers one connection.
struct Conversation {
    server: Arc<Server>,
    who: Result<Guest, Stranger>,
}

impl Handler for Conversation {
    fn handle(&self, request: Request) -> BoxFuture<'static, http::Response<Body>> {
        let (server, who) = (Arc::clone(&self.server), self.who.clone());
        async move { answer::answer(&server, who, request).await }.boxed()
    }
}

impl Server {
    /// Serves the socket until the daemon ends.
    pub fn serve(app: Arc<App>, listener: UnixListener) -> JoinHandle<()> {
        let server = Arc::new(Self { app, counts: Mutex::default(), sockets: Sockets::default() });
        let slots = Arc::new(Semaphore::new(server::slots()));
        tokio::spawn(async move {
            loop {
                // Beyond the limit, new connections wait in the kernel's queue.
                let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let server = Arc::clone(&server);
                        tokio::spawn(async move {
                            let _slot = slot;
                            server.connection(stream).await;
                        });
                    }
                    Err(error) => server::pause(&error).await,
                }
            }
        })
    }

    fn place(self: &Arc<Self>, who: &Result<Guest, Stranger>) -> Option<Place> {
        let (account, most) = match who {
            Ok(guest) => (Some((guest.key.clone(), true)), MOST),
            Err(Stranger::NotRoot(key)) => (Some((key.clone(), false)), MOST),
            Err(Stranger::Outside) => (None, STRANGERS),
        };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(account.clone()).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Place { server: Arc::clone(self), account })
    }

    async fn connection(self: Arc<Self>, stream: UnixStream) {
        let who = self.app.instances.identify(&stream).await;
        let Some(_place) = self.place(&who) else {
            tracing::debug!(?who, "too many connections to the guest interface");
            return;
        };
        let handler = Arc::new(Conversation { server: self, who });
        // The API's rules do not look at this peer: only the conversation decides.
        server::connection(
            handler,
            stall::Stall::new(stream, PATIENCE),
            Peer::Unix { uid: u32::MAX, groups: Arc::new([]), is_admin: false },
        )
        .await;
    }
}
