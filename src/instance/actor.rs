//! The task of one instance. See [`super::state`] for the states it walks through.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::error::Error;
use super::guests;
use super::handles::Addressed;
use super::inside;
use super::lease::Leases;
use super::policy::{Decision, Verb, decide};
use super::request::{Answer, Request, StopKind};
use super::state::{Snapshot, Status};
use super::waits::{answer_to, at, gone, init_gone};
use super::{Context, Stages, adopt, delete, hotplug, limits, lxcfs, proxies, rename, start, stop, update};
use crate::events::lifecycle::Requestor;
use crate::names::InstanceKey;
use crate::profile;

/// A running container's handles.
pub(super) struct Live {
    /// Of init, in the host's numbering.
    pub(super) pid: i32,
    /// Readable when init has ended.
    pub(super) init: AsyncFd<OwnedFd>,
    /// Readable when liblxc's monitor has ended: the container is gone with all it had.
    pub(super) monitor: AsyncFd<OwnedFd>,
}

pub(super) enum State {
    Stopped,
    Error,
    Running(Live),
    Frozen(Live),
    Stopping(Live),
}

/// Why a container that is going down does so.
#[derive(Default)]
struct Going {
    /// Bring it up again when it is down.
    again: bool,
    /// Remember it as running.
    keep_power: bool,
    /// The daemon was asked for it.
    asked: bool,
    /// Asks init again until it hears.
    asking: stop::Asked,
    killed: bool,
    requestor: Option<Requestor>,
    /// Who waits for it to be down (or up again).
    waiters: Vec<oneshot::Sender<Answer>>,
    /// When a shutdown is given up.
    deadline: Option<(Instant, Duration)>,
    /// Init has ended; when the monitor is still there by then, it has brought up another.
    init_gone: Option<Instant>,
}

/// A monitor whose init has ended gets this long to clean up and end.
const SETTLE: Duration = Duration::from_secs(3);

pub(super) struct Actor {
    pub(super) context: Arc<Context>,
    pub(super) key: InstanceKey,
    requests: mpsc::UnboundedReceiver<Addressed>,
    published: watch::Sender<Snapshot>,
    pub(super) state: State,
    /// When its last start was done.
    up_since: Option<Instant>,
    going: Going,
    pub(super) leases: Leases,
}

impl Actor {
    pub(super) fn new(
        context: Arc<Context>,
        key: InstanceKey,
        requests: mpsc::UnboundedReceiver<Addressed>,
        published: watch::Sender<Snapshot>,
    ) -> Self {
        Self {
            context,
            key,
            requests,
            published,
            state: State::Stopped,
            up_since: None,
            going: Going::default(),
            leases: Leases::default(),
        }
    }

    pub(super) fn status(&self) -> Status {
        match &self.state {
            State::Stopped => Status::Stopped,
            State::Error => Status::Error,
            State::Running(_) => Status::Running,
            State::Frozen(_) => Status::Frozen,
            State::Stopping(_) => Status::Stopping,
        }
    }

    pub(super) fn live(&self) -> Option<&Live> {
        match &self.state {
            State::Stopped | State::Error => None,
            State::Running(live) | State::Frozen(live) | State::Stopping(live) => Some(live),
        }
    }

    fn publish(&self) {
        let pid = self.live().map_or(0, |live| live.pid);
        self.published.send_replace(Snapshot { status: self.status(), pid });
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        match self.live() {
            Some(live) => self.context.guests.up(&self.key, live.pid, live.init.get_ref()),
            None => self.context.guests.down(&self.key),
        }
        self.publish();
    }

    /// Runs until the instance is deleted or the daemon drops its handle.
    pub(super) async fn run(mut self) {
        loop {
            let up = matches!(self.state, State::Running(_) | State::Frozen(_));
            let pid = self.live().filter(|_| up).map(|live| live.pid);
            hotplug::follow(&self.context, &self.key, pid).await;
            let deadline = self.going.deadline.map(|(at, _)| at);
            tokio::select! {
                // Requests first: word of a reboot must be heard before the end of the monitor that follows it.
                biased;
                request = self.requests.recv() => match request {
                    None => return,
                    // Meant for an instance whose name this one did not get, or has no more: dropped, it is told so.
                    Some((Some(of), _)) if of != self.key => {}
                    Some((_, request)) => {
                        if self.handle(request).await {
                            return;
                        }
                    }
                },
                () = gone(&self.state) => self.exited().await,
                () = at(deadline) => self.timed_out().await,
                () = init_gone(&self.state), if self.going.init_gone.is_none() => {
                    self.going.init_gone = Some(Instant::now() + SETTLE);
                }
                () = at(self.going.init_gone) => self.look_again().await,
                () = self.leases.unused(), if self.live().is_none() => {
                    match self.leases.release().await {
                        Ok(()) => self.context.ranges.give_back(&self.key.container()),
                        Err(error) => {
                            tracing::error!(instance = %self.key, %error, "unmounting the root that nobody uses");
                        }
                    }
                }
            }
        }
    }

    /// Handles a request; true when the instance is gone for good.
    async fn handle(&mut self, request: Request) -> bool {
        match request {
            Request::Start { asked, requestor, reply } => {
                let answer = match decide(Verb::Start, self.status()) {
                    Decision::Allow => self.start("instance-started", requestor.as_ref()).await,
                    Decision::Deny(Error::AlreadyRunning) if self.up_since.is_some_and(|up| asked < up) => {
                        Ok(Stages::default())
                    }
                    Decision::Join => Err(Error::AlreadyRunning),
                    Decision::Deny(error) => Err(error),
                };
                answer_to(reply, answer);
            }
            Request::Stop { kind, restart, keep_power, requestor, reply } => {
                self.stop(kind, restart, keep_power, requestor, reply).await;
            }
            Request::Freeze { requestor, reply } => {
                let answer = self.freeze(Verb::Freeze, requestor.as_ref()).await;
                answer_to(reply, answer);
            }
            Request::Unfreeze { requestor, reply } => {
                let answer = self.freeze(Verb::Unfreeze, requestor.as_ref()).await;
                answer_to(reply, answer);
            }
            Request::Update { change, requestor, reply } => {
                let answer = match decide(Verb::Update, self.status()) {
                    Decision::Allow | Decision::Join => {
                        let pid = self.live().map(|live| live.pid);
                        update::update(&self.context, &self.key, &change, pid, requestor.as_ref()).await
                    }
                    Decision::Deny(error) => Err(error),
                };
                answer_to(reply, answer.map(|()| Stages::default()));
            }
            Request::Ready { guest, ready, reply } => {
                let answer = guests::set_ready(&self.context, &guest, ready).await;
                answer_to(reply, answer.map(|()| Stages::default()));
            }
            Request::Lxcfs { lxcfs: found } => {
                if let Some(live) = self.live()
                    && let Err(error) = lxcfs::refresh(&self.context, &self.key, live.pid, &found).await
                {
                    tracing::warn!(instance = %self.key, %error, "showing it the new lxcfs");
                }
            }
            // Looked at before the next request.
            Request::Sources => {}
            Request::Hold { next, turns } => self.hold(&next, turns).await,
            Request::Still { ready, done } => self.still(ready, done).await,
            Request::BeLookedAt { ready, done } => self.be_looked_at(ready, done).await,
            Request::Rename { to, requestor, reply } => {
                let answer = match decide(Verb::Rename, self.status()) {
                    Decision::Allow => self.rename(&to, requestor.as_ref()).await,
                    Decision::Join => Err(Error::RenameRunning),
                    Decision::Deny(error) => Err(error),
                };
                match &answer {
                    Ok(()) => self.key = to,
                    // Its files lie under two names: the next start of the daemon sorts them out.
                    Err(Error::Undo { .. }) => self.enter(State::Error),
                    Err(_) => {}
                }
                answer_to(reply, answer.map(|()| Stages::default()));
            }
            Request::Delete { forget, requestor, reply } => {
                let answer = match decide(Verb::Delete, self.status()) {
                    Decision::Allow => match self.check_protection() {
                        Ok(()) => self.delete(forget, requestor.as_ref()).await,
                        Err(error) => Err(error),
                    },
                    Decision::Join => Err(Error::Running),
                    Decision::Deny(error) => Err(error),
                };
                let gone = answer.is_ok();
                answer_to(reply, answer.map(|()| Stages::default()));
                return gone;
            }
            Request::Snapshot { verb, requestor, reply } => {
                let answer = self.snapshot(verb, requestor.as_ref()).await;
                answer_to(reply, answer);
            }
            Request::Lease { reply } => {
                let lease = match self.live() {
                    Some(live) => self.leases.running(live),
                    None => self.leases.stopped(&self.context, &self.key).await,
                };
                // Who asked may be gone: then the lease is, too.
                let _ = reply.send(lease);
            }
            Request::Rest { reply } => {
                self.leases.cut_running().await;
                if let Err(error) = self.leases.release().await {
                    tracing::error!(instance = %self.key, %error, "unmounting the root at the daemon's end");
                }
                let _ = reply.send(());
            }
            Request::Reboot if self.live().is_some() && !self.going.asked => self.going.again = true,
            // Stopped by us: whatever init said while it went down, it stays down.
            Request::Reboot => {}
            Request::Unknown => self.enter(State::Error),
            Request::Adopt { live, status } => self.adopt(*live, status),
            Request::Look => {
                if matches!(self.state, State::Error)
                    && let Some(found) = adopt::again(&self.context, &self.key).await
                {
                    match found {
                        adopt::Found::Up(live, status) => self.adopt(*live, status),
                        adopt::Found::Down { .. } => self.enter(State::Stopped),
                        adopt::Found::Gone => return true,
                    }
                }
            }
        }
        false
    }

    fn adopt(&mut self, live: Live, status: Status) {
        self.enter(if status == Status::Frozen { State::Frozen(live) } else { State::Running(live) });
    }

    pub(super) async fn start(&mut self, action: &'static str, requestor: Option<&Requestor>) -> Answer {
        self.published.send_replace(Snapshot { status: Status::Starting, pid: 0 });
        self.snapshot_at_start().await;
        let mut stages = Stages::default();
        match start::start(&self.context, &self.key, &mut self.leases, &mut stages).await {
            Ok(live) => {
                self.enter(State::Running(live));
                self.up_since = Some(Instant::now());
                self.context.lifecycle(action, &self.key, requestor);
                Ok(stages)
            }
            Err(error) => {
                tracing::error!(instance = %self.key, %error, "start failed");
                if !self.leases.is_mounted() {
                    self.context.ranges.give_back(&self.key.container());
                }
                let broken = matches!(error, Error::Undo { .. });
                self.enter(if broken { State::Error } else { State::Stopped });
                Err(error)
            }
        }
    }

    async fn rename(&mut self, to: &InstanceKey, requestor: Option<&Requestor>) -> Result<(), Error> {
        // A root that is mounted for its files would keep its old path.
        self.leases.release().await?;
        self.context.ranges.give_back(&self.key.container());
        rename::rename(&self.context, &self.key, to, requestor).await
    }

    async fn delete(&mut self, forget: bool, requestor: Option<&Requestor>) -> Result<(), Error> {
        self.leases.release().await?;
        self.context.ranges.give_back(&self.key.container());
        delete::delete(&self.context, &self.key, forget, requestor).await
    }

    async fn stop(
        &mut self,
        kind: StopKind,
        restart: bool,
        keep_power: bool,
        requestor: Option<Requestor>,
        reply: oneshot::Sender<Answer>,
    ) {
        let verb = match kind {
            StopKind::Kill => Verb::Kill,
            StopKind::Shutdown(_) => Verb::Shutdown,
        };
        let decision = decide(verb, self.status());
        let (again, State::Running(live) | State::Frozen(live) | State::Stopping(live)) = (restart, &self.state) else {
            let answer = match decision {
                Decision::Deny(error) => Err(error),
                Decision::Allow | Decision::Join => Err(Error::AlreadyStopped),
            };
            answer_to(reply, answer);
            return;
        };
        if let Decision::Deny(error) = decision {
            answer_to(reply, Err(error));
            return;
        }
        // Before anything of it happens: a daemon that dies in between leaves it to the next one.
        let how = if kind == StopKind::Kill { "kill" } else { "shutdown" };
        if restart && let Err(error) = stop::mark_restart(&self.context, &self.key, Some(how)).await {
            answer_to(reply, Err(error));
            return;
        }
        let frozen = matches!(self.state, State::Frozen(_));
        let done = match kind {
            StopKind::Kill => stop::kill(&self.context, &self.key, live, frozen).await.map(|()| stop::Asked::default()),
            // Who asks a second time means it: init is asked anew.
            StopKind::Shutdown(_) => stop::ask(&self.context, &self.key, live, frozen).await,
        };
        match done {
            Ok(asked) => self.going.asking = asked,
            Err(error) => {
                self.forget_restart(restart).await;
                answer_to(reply, Err(error));
                return;
            }
        }
        self.going.asked = true;
        self.going.again |= again;
        self.going.keep_power |= keep_power;
        self.going.requestor = requestor.or(self.going.requestor.take());
        self.going.waiters.push(reply);
        match kind {
            StopKind::Kill => {
                self.going.killed = true;
                self.going.deadline = None;
            }
            StopKind::Shutdown(timeout) => {
                if let Some(timeout) = timeout {
                    self.going.deadline = Some((Instant::now() + timeout, timeout));
                }
            }
        }
        self.goes_down();
    }

    fn goes_down(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Stopped);
        self.state = match state {
            State::Running(live) | State::Frozen(live) | State::Stopping(live) => State::Stopping(live),
            down @ (State::Stopped | State::Error) => down,
        };
        self.publish();
    }

    /// It was killed to be brought up again by whoever did it.
    pub(super) fn is_killed(&mut self) {
        self.going = Going { asked: true, killed: true, keep_power: true, ..std::mem::take(&mut self.going) };
        self.goes_down();
    }

    async fn freeze(&mut self, verb: Verb, requestor: Option<&Requestor>) -> Answer {
        if let Decision::Deny(error) = decide(verb, self.status()) {
            return Err(error);
        }
        let container = self.context.container(&self.key);
        let freeze = verb == Verb::Freeze;
        let done = match freeze {
            true => self.context.launcher.freeze(&container).await,
            false => self.context.launcher.unfreeze(&container).await,
        };
        let init = self.live().map_or(0, |live| live.pid);
        done.map_err(|error| inside::or_ended(error.into(), init))?;
        let state = std::mem::replace(&mut self.state, State::Stopped);
        self.state = match state {
            State::Running(live) | State::Frozen(live) if freeze => State::Frozen(live),
            State::Running(live) | State::Frozen(live) => State::Running(live),
            other @ (State::Stopped | State::Error | State::Stopping(_)) => other,
        };
        self.publish();
        let action = if freeze { "instance-paused" } else { "instance-resumed" };
        self.context.lifecycle(action, &self.key, requestor);
        Ok(Stages::default())
    }

    /// Init is gone, its monitor is not: the hook of a reboot did not reach the daemon, and the monitor has rebooted by
    /// itself. The new init is taken over; as long as there is none, this is asked again.
    async fn look_again(&mut self) {
        self.going.init_gone = Some(Instant::now() + SETTLE);
        let container = self.context.container(&self.key);
        let query = match self.context.launcher.query(&container).await {
            Ok(query) => query,
            Err(error) => {
                tracing::warn!(instance = %self.key, %error, "a container whose init has ended");
                return;
            }
        };
        if let (Some(pid), Some(pidfd)) = (query.init_pid, query.init_pidfd)
            && self.live().is_some_and(|live| live.pid != pid)
            && let Ok(live) = start::live(pid, pidfd)
        {
            tracing::info!(instance = %self.key, pid, "rebooted by its monitor");
            self.going.init_gone = None;
            self.leases.cut_running().await;
            self.context.guests.down(&self.key);
            let model = self.context.db.model();
            if let Some(record) = model.instances.get(&self.key) {
                let expanded = profile::expand_instance(&model, record);
                limits::started(&self.context, &container.name, &expanded.config, pid).await;
                proxies::adopted(&self.context, &self.key, pid, &expanded).await;
            }
            self.enter(State::Running(live));
            self.context.lifecycle("instance-restarted", &self.key, None);
        }
    }

    /// A restart that has begun does not go on.
    async fn forget_restart(&self, restart: bool) {
        if restart && let Err(error) = stop::mark_restart(&self.context, &self.key, None).await {
            tracing::error!(instance = %self.key, %error, "forgetting a restart");
        }
    }

    /// The shutdown took too long: it goes on running, and who waits is told.
    async fn timed_out(&mut self) {
        self.forget_restart(self.going.again).await;
        let waited = self.going.deadline.take().map_or(Duration::ZERO, |(_, waited)| waited);
        for waiter in std::mem::take(&mut self.going).waiters {
            answer_to(waiter, Err(Error::StopTimeout { waited }));
        }
        let state = std::mem::replace(&mut self.state, State::Stopped);
        self.state = match state {
            State::Stopping(live) => State::Running(live),
            other @ (State::Stopped | State::Error | State::Running(_) | State::Frozen(_)) => other,
        };
        self.publish();
    }

    /// The monitor is gone: clean up, then stay down, come up again, or (ephemeral) vanish.
    pub(super) async fn exited(&mut self) {
        // First: what its namespaces were called may be the names of another's from here on.
        self.context.guests.down(&self.key);
        let going = std::mem::take(&mut self.going);
        let state = std::mem::replace(&mut self.state, State::Stopped);
        if let State::Running(live) | State::Frozen(live) | State::Stopping(live) = state {
            stop::reap(&live).await;
        }
        // They hold the file system of a container that is gone; the next start must not find it in use.
        self.leases.cut_running().await;
        let keep_root = self.leases.keep_root();
        let cleaned = stop::clean_up(&self.context, &self.key, going.again || going.keep_power, keep_root).await;
        let answer = match cleaned {
            Err(error) => {
                tracing::error!(instance = %self.key, %error, "clean-up after the stop failed");
                self.enter(State::Error);
                Err(error)
            }
            Ok(()) if going.again => {
                let action = if going.asked { "instance-restarted" } else { "instance-started" };
                self.start(action, going.requestor.as_ref()).await
            }
            Ok(()) => {
                self.enter(State::Stopped);
                let action = if going.asked && going.killed { "instance-stopped" } else { "instance-shutdown" };
                self.context.lifecycle(action, &self.key, going.requestor.as_ref());
                Ok(Stages::default())
            }
        };
        let ephemeral = self.context.db.model().instances.get(&self.key).is_some_and(|record| record.ephemeral);
        let down = answer.is_ok() && !going.again && !going.keep_power;
        if ephemeral && down {
            if let Err(error) = self.delete(false, going.requestor.as_ref()).await {
                tracing::error!(instance = %self.key, %error, "deleting the ephemeral instance failed");
                self.enter(State::Error);
            } else {
                // The manager forgets the handle when the row is gone; requests still queued are answered by the drop.
                self.requests.close();
            }
        }
        // Every waiter hears the same; an error is told in full to the first and by its words to the others.
        let text = answer.as_ref().err().map(ToString::to_string);
        let mut first = Some(answer);
        for waiter in going.waiters {
            let answer = first.take().unwrap_or_else(|| match &text {
                None => Ok(Stages::default()),
                Some(_) => Err(Error::Busy { status: self.status() }),
            });
            answer_to(waiter, answer);
        }
    }
}
