//! What the task of an instance is asked, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::Stages;
use super::actor::Live;
use super::error::Error;
use super::guests::Guest;
use super::lease::Lease;
use super::snapshots::Verb;
use super::state::Status;
use super::update::Change;
use crate::db::Model;
use crate::events::lifecycle::Requestor;
use crate::names::InstanceKey;
use crate::storage::Frozen;
use crate::sys::lxcfs::Lxcfs;

/// The answer to a request; the stages of a start are told where one happened.
pub(super) type Answer = Result<Stages, Error>;

/// How to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopKind {
    /// Ask init, wait so long (`None`: for ever).
    Shutdown(Option<Duration>),
    /// Kill.
    Kill,
}

/// How all users of a profile follow a change together.
pub(super) struct Turns {
    /// Has what is most often refused been done? Then the others are waited for.
    pub(super) begun: oneshot::Sender<Result<(), Error>>,
    /// True once all have begun well; it closes when one could not.
    pub(super) go: watch::Receiver<bool>,
    /// Has all of it been done?
    pub(super) ready: oneshot::Sender<Result<(), Error>>,
    /// It is to stay; closed: it is taken back.
    pub(super) kept: oneshot::Receiver<()>,
}

/// What the actor is asked.
pub(super) enum Request {
    /// Bring it up. `asked`: when; who asked while it was coming up has got what was asked for.
    Start { asked: Instant, requestor: Option<Requestor>, reply: oneshot::Sender<Answer> },
    /// Bring it down; then perhaps up again.
    Stop {
        kind: StopKind,
        restart: bool,
        /// Remember it as running, for the next start of the daemon (host shutdown).
        keep_power: bool,
        requestor: Option<Requestor>,
        reply: oneshot::Sender<Answer>,
    },
    /// Hold all processes.
    Freeze { requestor: Option<Requestor>, reply: oneshot::Sender<Answer> },
    /// Let them go on.
    Unfreeze { requestor: Option<Requestor>, reply: oneshot::Sender<Answer> },
    /// Remove it.
    /// `forget`: what lies in a pool that is away stays there.
    Delete { forget: bool, requestor: Option<Requestor>, reply: oneshot::Sender<Answer> },
    /// Do something with its snapshots.
    Snapshot { verb: Verb, requestor: Option<Requestor>, reply: oneshot::Sender<Answer> },
    /// Let somebody use its root.
    Lease { reply: oneshot::Sender<Result<Lease, Error>> },
    /// Take every lease back and let go of what is only mounted for them: the daemon ends.
    Rest { reply: oneshot::Sender<()> },
    /// Change its definition.
    Update { change: Change, requestor: Option<Requestor>, reply: oneshot::Sender<Answer> },
    /// Apply what another state of the database says of it; keep it when `kept` is told so, else take it back. Until
    /// then everything else waits.
    Hold { next: Arc<Model>, turns: Turns },
    /// Stay down, and not mounted, until `done` is dropped; everything else waits.
    Still { ready: oneshot::Sender<Result<(), Error>>, done: oneshot::Receiver<()> },
    /// Let somebody look at its files: what they are now is kept for him; with `None`, stay down, and not mounted, until
    /// `done` is dropped.
    BeLookedAt { ready: oneshot::Sender<Result<Option<Frozen>, Error>>, done: oneshot::Receiver<()> },
    /// It says of itself that it is ready, or not yet; in the life that was identified.
    Ready { guest: Guest, ready: bool, reply: oneshot::Sender<Answer> },
    /// Show it this lxcfs, which is new on the host.
    Lxcfs { lxcfs: Arc<Lxcfs> },
    /// Sources of its devices have come or gone.
    Sources,
    /// Give it another name.
    Rename { to: InstanceKey, requestor: Option<Requestor>, reply: oneshot::Sender<Answer> },
    /// liblxc is taking the container down to bring it up again: the monitor will end.
    Reboot,
    /// Nobody could say at the daemon's start whether its container runs.
    Unknown,
    /// To find out now, if still nobody knows.
    Look,
    /// A container found running at the daemon's start.
    Adopt { live: Box<Live>, status: Status },
}
