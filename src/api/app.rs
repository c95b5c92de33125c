//! What all handlers share: the parts of the daemon.

use std::sync::{Arc, OnceLock};

use tokio::sync::{Notify, watch};

use super::listeners::Listeners;
use crate::auth::ServerCertificate;
use crate::auth::password::RateLimiter;
use crate::db::Database;
use crate::events::{Bus, Log};
use crate::instance;
use crate::names::Projects;
use crate::ops::Operations;
use crate::ops::socket::Sockets;

/// The daemon, as the API sees it.
pub struct App {
    /// The database.
    pub db: Arc<Database>,
    /// The event bus.
    pub bus: Bus,
    /// The operations.
    pub ops: Operations,
    /// The websockets of clients.
    pub sockets: Sockets,
    /// The instances, and by their context pools, networks and images.
    pub instances: Arc<instance::Manager>,
    /// Image servers.
    pub remotes: Arc<crate::remote::Remotes>,
    /// The instances as JSON.
    pub rendered: super::Rendered,
    /// Wrong passwords.
    pub limiter: RateLimiter,
    /// The authority of PKI mode.
    pub authority: crate::auth::Authority,
    /// The server's own certificate.
    pub certificate: ServerCertificate,
    /// The listeners over HTTPS; set once they exist.
    pub listeners: OnceLock<Listeners>,
    /// The unix sockets; set once they exist.
    pub doors: OnceLock<Vec<super::door::Door>>,
    /// True when everything is up.
    pub is_ready: watch::Sender<bool>,
    /// Rung when the containers are stopped and the daemon may end.
    pub ended: Notify,
    /// Serialises changes of the server's configuration, whose effects lie outside the database.
    pub config_lock: tokio::sync::Mutex<()>,
    /// What is known of the files that simplestreams offers.
    pub streams: super::streams::Streams,
    /// What was read last for metrics.
    pub metrics: super::metrics::Metrics,
    /// The log, whose level can be changed.
    pub log: Log,
}

impl App {
    /// Resolves when the daemon is ready.
    pub async fn ready(&self) {
        let mut ready = self.is_ready.subscribe();
        // The sender lives in `self`.
        let _ = ready.wait_for(|ready| *ready).await;
    }

    /// Stops the containers, then rings for the end of the daemon. Without `force`, running operations may end first.
    pub async fn shutdown(&self, force: bool) {
        self.instances.close_consoles();
        if !force {
            let minutes = crate::config::int_of(&self.db.model().config, "core.shutdown_timeout");
            let limit = std::time::Duration::from_secs(u64::try_from(minutes).unwrap_or(0) * 60);
            let done = async {
                // A permission that nobody has used is no work.
                let works = |op: &Arc<crate::ops::Operation>| op.class() != crate::ops::Class::Token;
                let all = self.ops.list(&Projects::All);
                all.iter().for_each(|operation| operation.abandon());
                for operation in all.into_iter().filter(works) {
                    operation.wait(None).await;
                }
            };
            let _ = tokio::time::timeout(limit, done).await;
        }
        self.instances.bring_down().await;
        self.ended.notify_one();
    }
}
