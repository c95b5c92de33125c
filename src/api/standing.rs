//! How a caller stands: how far it is trusted at this moment, and whether it may still have what it once opened.
//!
//! What streams (events, a command, a console, SFTP) is bound to a check, which is asked when certificates or the server's
//! configuration change, and every [`AGAIN`]: certificates expire, and lists of revoked ones change, by themselves.

use std::sync::Arc;
use std::time::Duration;

use super::app::App;
use super::call::Call;
use super::door;
use super::entry::Peer;
use crate::auth::{Trust, trust_of};
use crate::db::Model;
use crate::names::Projects;
use crate::ops::Check;

/// So often what nobody changes is asked for.
const AGAIN: Duration = Duration::from_secs(5);

/// How far a peer is trusted at this moment.
pub(super) fn trust(app: &App, model: &Model, peer: &Peer) -> Trust {
    match peer {
        Peer::Unix { is_admin: true, .. } => Trust::Trusted,
        Peer::Unix { groups, .. } => door::trust_of(model, groups),
        Peer::Tls { certificate: Some(shown), .. } => trust_of(model, &app.authority, shown, crate::db::now()),
        Peer::Tls { certificate: None, .. } => Trust::Untrusted,
    }
}

/// Whether the caller may still have what lies in `needed`, or, for all projects, what belongs to the server. None for one
/// that nobody can lose trust in: root of this host, and strangers.
pub(super) fn check(call: &Call, needed: Projects) -> Option<Check> {
    let is_admin = matches!(call.peer, Peer::Unix { is_admin: true, .. });
    if is_admin || call.trust == Trust::Untrusted {
        return None;
    }
    let (app, peer, reads) = (Arc::clone(&call.app), call.peer.clone(), call.trust == Trust::ReadOnly);
    Some(Box::new(move || match trust(&app, &app.db.model(), &peer) {
        Trust::Trusted => true,
        Trust::ReadOnly => reads,
        Trust::Restricted(now) => matches!(&needed, Projects::Only(these) if these.is_subset(&now)),
        Trust::Untrusted => false,
    }))
}

/// Ends what streams to clients that may not have it any more, also when nobody changes anything. Does not return.
pub async fn follow(app: Arc<App>) {
    let mut again = tokio::time::interval(AGAIN);
    again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        again.tick().await;
        app.sockets.review();
    }
}
