//! What listens over HTTPS, and where: the API, and metrics alone.

use std::net::IpAddr;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::Method;

use super::entry::{Handler, Peer, Request};
use super::error::Error;
use super::response::{self, Response};
use super::router::Router;
use super::server::{AddressError, Purpose, Server};
use super::wire::Config;

/// What `core.metrics_address` leads to; all else is not there.
const OPEN: [&str; 3] = ["/", "/1.0", "/1.0/metrics"];

/// The router as it is seen at `core.metrics_address`.
struct MetricsAlone(Arc<Router>);

impl Handler for MetricsAlone {
    fn handle(&self, request: Request) -> BoxFuture<'static, Response> {
        let path = match request.path.trim_end_matches('/') {
            "" => "/",
            path => path,
        };
        let refused = match (OPEN.contains(&path), &request.method) {
            (true, &Method::GET) => return self.0.handle(request),
            (true, _) => Error::NotImplemented,
            (false, _) => Error::UnknownPath,
        };
        std::future::ready(response::error(&refused)).boxed()
    }

    fn trusts_proxy(&self, address: IpAddr) -> bool {
        self.0.trusts_proxy(address)
    }

    fn knows(&self, peer: &Peer) -> bool {
        self.0.knows(peer)
    }
}

/// The listeners over HTTPS, each at the address that its key says.
pub struct Listeners([Arc<Server>; 2]);

fn address(server: &Server, config: &Config) -> String {
    config.get(server.purpose().key()).cloned().unwrap_or_default()
}

impl Listeners {
    /// Of the API that `api` serves by `router`, and of metrics. They listen nowhere yet.
    pub fn new(api: Arc<Server>, router: Arc<Router>) -> Self {
        let metrics = api.beside(Arc::new(MetricsAlone(router)), Purpose::Metrics);
        Self([api, metrics])
    }

    /// Goes to the addresses of `config`, as far as they can be had: what cannot is logged.
    pub async fn go_to(&self, config: &Config) {
        for server in &self.0 {
            if let Err(error) = server.set_https(&address(server, config)).await {
                tracing::error!(%error, "not reachable over HTTPS");
            }
        }
    }

    /// Goes from the addresses of `old` to those of `new`.
    ///
    /// # Errors
    /// With the first address that cannot be had; then all are where they were.
    pub async fn follow(&self, old: &Config, new: &Config) -> Result<(), AddressError> {
        let mut moves: Vec<_> =
            self.0.iter().map(|server| (server, address(server, old), address(server, new))).collect();
        // Those that end first: another one may take their place.
        moves.sort_by_key(|(_, _, to)| !to.is_empty());
        for (server, from, to) in moves {
            match server.set_https(&to).await {
                Ok(()) => {}
                // Tried again in passing: it could not be had when the daemon started. No reason to refuse other changes.
                Err(error) if from == to => tracing::warn!(%error, "still not reachable over HTTPS"),
                Err(error) => {
                    self.go_to(old).await;
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}
