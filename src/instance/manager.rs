//! All instances: finds the actor of one, brings all up and down with the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::actor::Actor;
use super::adopt::{self, Found};
use super::apparmor;
use super::console::{Console, Consoles};
use super::create::{self, NewInstance, RootSource};
use super::error::Error;
use super::exec::{self, Exec, ExecSpec};
use super::files;
use super::handles::{Addressed, Handle, Handles};
use super::inside;
use super::logs::{self, LogName};
use super::petname;
use super::publish::Looks;
use super::request::{Answer, Request, StopKind};
use super::snapshots::{self, Verb};
use super::state::{Snapshot, Status};
use super::stop;
use super::update::Change;
use super::{Context, Stages, blocking};
use crate::api::wire::Config;
use crate::config;
use crate::db;
use crate::events::lifecycle::Requestor;
use crate::helper::files::{FilesRequest, Session};
use crate::helper::hook::{Record, Target as HookTarget};
use crate::names::{InstanceKey, InstanceName, ProjectName, SnapshotName};
use crate::profile;
use crate::sys;

/// What `PUT …/state` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Bring it up.
    Start,
    /// Bring it down.
    Stop,
    /// Down and up.
    Restart,
    /// Hold all processes.
    Freeze,
    /// Let them go on.
    Unfreeze,
}

/// So many instances are looked at side by side at the daemon's start.
const ADOPTED_AT_A_TIME: usize = 16;

/// How long an instance of which nobody knows whether it runs is left alone before it is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Has an instance looked at until somebody knows how it is: its monitor may answer later, or end.
async fn look_again(requests: mpsc::WeakUnboundedSender<Addressed>, mut snapshot: watch::Receiver<Snapshot>) {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        if snapshot.borrow_and_update().status != Status::Error {
            return;
        }
        let Some(requests) = requests.upgrade() else { return };
        if requests.send((None, Request::Look)).is_err() {
            return;
        }
    }
}

/// The instances of the daemon.
pub struct Manager {
    context: Arc<Context>,
    handles: Handles,
    /// Containers of which a stop hook told, until all are adopted.
    ended: Mutex<BTreeMap<String, HookTarget>>,
    limits: files::Limits,
    consoles: Consoles,
    profile_changes: tokio::sync::Mutex<()>,
    refreshes: tokio::sync::Mutex<()>,
    looks: Looks,
}

impl Manager {
    /// None yet.
    pub fn new(context: Context) -> Self {
        Self {
            context: Arc::new(context),
            handles: Handles::default(),
            ended: Mutex::default(),
            limits: files::Limits::default(),
            consoles: Consoles::default(),
            profile_changes: tokio::sync::Mutex::default(),
            refreshes: tokio::sync::Mutex::default(),
            looks: Looks::default(),
        }
    }

    /// What all instances share.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// The state of an instance now; one that has no actor is down.
    pub fn snapshot(&self, key: &InstanceKey) -> Snapshot {
        self.handles.get(key).map_or(Snapshot::STOPPED, |handle| handle.snapshot())
    }

    /// Whether the start of some instance is not over.
    pub(super) fn is_any_starting(&self) -> bool {
        self.handles.all().iter().any(|handle| handle.snapshot().status == Status::Starting)
    }

    fn ended(&self) -> MutexGuard<'_, BTreeMap<String, HookTarget>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `first` is what is told of it until its actor has taken its first request.
    fn spawn(&self, key: &InstanceKey, first: Snapshot) -> Handle {
        let (requests, queue) = mpsc::unbounded_channel();
        let (published, snapshot) = watch::channel(first);
        tokio::spawn(Actor::new(Arc::clone(&self.context), key.clone(), queue, published).run());
        let handle = Handle::new(requests, snapshot);
        self.handles.put(key.clone(), handle.clone());
        handle
    }

    /// Held while a profile changes.
    pub(super) fn profile_changes(&self) -> &tokio::sync::Mutex<()> {
        &self.profile_changes
    }

    /// Held while a copy is brought up to date.
    pub(super) fn refreshes(&self) -> &tokio::sync::Mutex<()> {
        &self.refreshes
    }

    /// Who looks at snapshots.
    pub(super) fn looks(&self) -> &Looks {
        &self.looks
    }

    /// Puts a request into the queue of an instance; false when there is no such instance.
    pub(super) fn send(&self, key: &InstanceKey, request: Request) -> bool {
        self.handles.get(key).is_some_and(|handle| handle.send(Some(key), request))
    }

    /// Puts a request into the queue of every instance.
    pub(super) fn tell_all(&self, request: impl Fn() -> Request) {
        for handle in self.handles.all() {
            // One that is just deleted hears nothing.
            handle.send(None, request());
        }
    }

    pub(super) async fn ask(
        &self,
        key: &InstanceKey,
        request: impl FnOnce(oneshot::Sender<Answer>) -> Request,
    ) -> Result<Stages, Error> {
        let handle = self.handles.get(key).ok_or(Error::NotFound)?;
        self.ask_by(&handle, key, request).await
    }

    async fn ask_by(
        &self,
        handle: &Handle,
        key: &InstanceKey,
        request: impl FnOnce(oneshot::Sender<Answer>) -> Request,
    ) -> Result<Stages, Error> {
        let (reply, answer) = oneshot::channel();
        self.ended().remove(&key.container());
        if !handle.send(Some(key), request(reply)) {
            return Err(Error::NotFound);
        }
        // The actor ends only with the instance, and drops what is meant for another.
        answer.await.map_err(|_| Error::NotFound)?
    }

    /// Checks all that can be checked of a new instance, and makes nothing.
    ///
    /// # Errors
    /// As of [`Self::reserve`].
    pub fn check_new(&self, new: NewInstance) -> Result<(), Error> {
        create::row(&self.context, &self.context.db.model(), new, String::new()).map(drop)
    }

    /// Takes the name of a new instance: all that can be checked is checked.
    ///
    /// # Errors
    /// Then nothing is taken.
    pub async fn reserve(&self, new: NewInstance) -> Result<db::Instance, Error> {
        create::reserve(&self.context, new).await
    }

    /// Makes the root of a reserved instance.
    ///
    /// # Errors
    /// Then the name is free again.
    pub async fn build(
        &self,
        record: &db::Instance,
        source: &RootSource,
        requestor: Option<&Requestor>,
    ) -> Result<Stages, Error> {
        let mut stages = Stages::default();
        let copied = self.copied(record, source).await;
        create::build(&self.context, record, source, copied, requestor, &mut stages).await?;
        self.spawn(&record.key, Snapshot::STOPPED);
        Ok(stages)
    }

    /// Changes the state. `timeout` bounds a shutdown, `None` waits for ever; `force` and a timeout of zero kill.
    ///
    /// # Errors
    /// When the state does not allow it, or it fails.
    pub async fn change(
        &self,
        key: &InstanceKey,
        target: Target,
        timeout: Option<Duration>,
        force: bool,
        requestor: Option<Requestor>,
    ) -> Result<Stages, Error> {
        let kill = force || timeout == Some(Duration::ZERO);
        let kind = if kill { StopKind::Kill } else { StopKind::Shutdown(timeout) };
        self.ask(key, |reply| match target {
            Target::Start => Request::Start { asked: Instant::now(), requestor, reply },
            Target::Stop => Request::Stop { kind, restart: false, keep_power: false, requestor, reply },
            Target::Restart => Request::Stop { kind, restart: true, keep_power: false, requestor, reply },
            Target::Freeze => Request::Freeze { requestor, reply },
            Target::Unfreeze => Request::Unfreeze { requestor, reply },
        })
        .await
    }

    /// Files of it that are shifted, of how many; `None` when none are shifted now.
    pub fn shift_progress(&self, key: &InstanceKey) -> Option<(u64, u64)> {
        self.context.shifts.told(key)
    }

    /// Removes a stopped instance.
    ///
    /// # Errors
    /// [`Error::Running`], or what stands in the way.
    pub async fn delete(&self, key: &InstanceKey, forget: bool, requestor: Option<Requestor>) -> Result<(), Error> {
        let _unseen = self.looks.wait(key).await;
        let handle = self.handles.get(key).ok_or(Error::NotFound)?;
        self.ask_by(&handle, key, |reply| Request::Delete { forget, requestor, reply }).await?;
        self.handles.remove(key, &handle);
        Ok(())
    }

    /// Gives a stopped instance another name.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::RenameRunning`], or what stands in the way: then it has its old name.
    pub async fn rename(&self, from: &InstanceKey, to: InstanceKey, requestor: Option<Requestor>) -> Result<(), Error> {
        let _unseen = self.looks.wait(from).await;
        let handle = self.handles.get(from).ok_or(Error::NotFound)?;
        // Who asks for the new name from now on waits in the same queue.
        if !self.handles.put_new(to.clone(), handle.clone()) {
            return Err(Error::Exists { key: to });
        }
        let new = to.clone();
        let renamed = self.ask_by(&handle, from, |reply| Request::Rename { to, requestor, reply }).await;
        self.handles.remove(if renamed.is_ok() { from } else { &new }, &handle);
        renamed.map(drop)
    }

    /// The instances of a project that a change of the state would change.
    pub fn applicable(&self, project: &ProjectName, target: Target) -> Vec<InstanceKey> {
        let model = self.context.db.model();
        let fits = |key: &&InstanceKey| {
            let status = self.snapshot(key).status;
            match target {
                Target::Start => matches!(status, Status::Stopped | Status::Error),
                Target::Stop => matches!(status, Status::Running | Status::Frozen),
                Target::Restart | Target::Freeze => status == Status::Running,
                Target::Unfreeze => status == Status::Frozen,
            }
        };
        model.instances.keys().filter(|key| key.project == *project).filter(fits).cloned().collect()
    }

    /// A name that no instance of the project has.
    ///
    /// # Errors
    /// When the kernel gives no random numbers.
    pub fn fresh_name(&self, project: &ProjectName) -> Result<InstanceName, Error> {
        let model = self.context.db.model();
        for attempt in 0u32.. {
            let random = ring::rand::generate::<[u8; 4]>(&ring::rand::SystemRandom::new());
            let name = petname::choose(random.map_err(|_| Error::Random)?.expose(), attempt >= 16);
            let key = InstanceKey { project: project.clone(), name: InstanceName::new(name)? };
            if !model.instances.contains_key(&key) {
                return Ok(key.name);
            }
        }
        Err(Error::Random)
    }

    /// Does something with the snapshots of an instance.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`], [`Error::SnapshotExists`], or what stands in the way: then all is as it was.
    pub async fn on_snapshots(
        &self,
        key: &InstanceKey,
        verb: Verb,
        requestor: Option<Requestor>,
    ) -> Result<Stages, Error> {
        let _unseen = if verb.takes_away() { Some(self.looks.wait(key).await) } else { None };
        self.ask(key, |reply| Request::Snapshot { verb, requestor, reply }).await
    }

    /// Changes when a snapshot expires, if it `fits`.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`], or of `fits`.
    pub async fn expire_snapshot(
        &self,
        key: &InstanceKey,
        name: &SnapshotName,
        expires_at: db::Seconds,
        fits: impl Fn(&db::InstanceSnapshot) -> Result<(), Error> + Send + 'static,
        requestor: Option<Requestor>,
    ) -> Result<(), Error> {
        snapshots::expire(&self.context, key, name, expires_at, fits, requestor.as_ref()).await
    }

    /// Changes the definition.
    ///
    /// # Errors
    /// Of the change, or when what it makes does not fit.
    pub async fn update(&self, key: &InstanceKey, change: Change, requestor: Option<Requestor>) -> Result<(), Error> {
        self.ask(key, |reply| Request::Update { change, requestor, reply }).await.map(drop)
    }

    /// Runs a command inside a running instance.
    ///
    /// # Errors
    /// When it does not run, or cannot be entered.
    pub async fn exec(&self, key: &InstanceKey, spec: ExecSpec) -> Result<Exec, Error> {
        let init = self.running(key)?.pid;
        exec::run(&self.context, key, spec).await.map_err(|error| inside::or_ended(error, init))
    }

    /// Begins a request about the files of an instance, running or not.
    ///
    /// # Errors
    /// [`Error::NotFound`], or when its root cannot be reached.
    pub async fn files(&self, key: &InstanceKey, request: FilesRequest) -> Result<Session, Error> {
        let handle = self.handles.get(key).ok_or(Error::NotFound)?;
        let turn = self.limits.turn(&request).await?;
        let (reply, answer) = oneshot::channel();
        if !handle.send(Some(key), Request::Lease { reply }) {
            return Err(Error::NotFound);
        }
        let lease = answer.await.map_err(|_| Error::NotFound)??;
        files::begin(&self.context, key, turn, lease, request).await
    }

    /// The daemon ends: nobody works on files any more, and no root is mounted but those of running containers.
    pub async fn rest(&self) {
        futures_util::future::join_all(self.handles.all().into_iter().map(|handle| async move {
            let (reply, done) = oneshot::channel();
            if handle.send(None, Request::Rest { reply }) {
                let _ = done.await;
            }
        }))
        .await;
    }

    /// The whole environment that a command gets, for [`Manager::exec`].
    ///
    /// # Errors
    /// When the instance does not run.
    pub async fn exec_environment(&self, key: &InstanceKey, spec: &ExecSpec) -> Result<Config, Error> {
        let init = self.running(key)?.pid;
        exec::environment_of(&self.context, key, init, spec).await
    }

    /// An instance that runs, if only until it has gone down as it was asked to; a frozen one does not.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::NotUp`].
    fn running(&self, key: &InstanceKey) -> Result<Snapshot, Error> {
        if !self.context.db.model().instances.contains_key(key) {
            return Err(Error::NotFound);
        }
        let snapshot = self.snapshot(key);
        match snapshot.status {
            Status::Running | Status::Stopping => Ok(snapshot),
            status => Err(Error::NotUp { status }),
        }
    }

    /// Whether the console can be attached to now.
    ///
    /// # Errors
    /// [`Error::NotUp`], or [`Error::ConsoleInUse`] without `force`.
    pub fn console_is_free(&self, key: &InstanceKey, force: bool) -> Result<(), Error> {
        self.running(key)?;
        if !force && self.consoles.is_taken(key) { Err(Error::ConsoleInUse) } else { Ok(()) }
    }

    /// Attaches to the console. With `force` it is taken from the client that has it.
    ///
    /// # Errors
    /// [`Error::NotUp`], [`Error::ConsoleInUse`], or when liblxc does not give it.
    pub async fn console(&self, key: &InstanceKey, force: bool) -> Result<Console, Error> {
        let init = self.running(key)?.pid;
        self.consoles.attach(&self.context, key, init, force).await
    }

    /// Has all clients leave the consoles they are attached to, because the daemon and its containers end.
    pub fn close_consoles(&self) {
        self.consoles.close();
    }

    /// What the console showed since the last start: at least the last 128 KiB, in one or two files, in order.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NoConsoleLog`], or when it cannot be opened.
    pub async fn console_log(&self, key: &InstanceKey) -> Result<Vec<std::fs::File>, Error> {
        let logs = self.log_dir(key)?;
        blocking(move || logs::open_console(&logs)).await
    }

    /// Empties the console log.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NoConsoleLog`], or when it cannot be written.
    pub async fn clear_console_log(&self, key: &InstanceKey) -> Result<(), Error> {
        let logs = self.log_dir(key)?;
        blocking(move || logs::clear_console(&logs)).await
    }

    /// Removes recordings that have passed [`logs::KEEP`] by `now`.
    pub async fn expire_logs(&self, now: std::time::SystemTime) {
        let logs = self.context.dir.all_logs();
        let expired = blocking(move || logs::expire(&logs, now)).await;
        match expired {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "removed old recordings of commands"),
            Err(error) => tracing::warn!(%error, "removing old recordings of commands"),
        }
    }

    /// What a stop hook told.
    pub fn hook(&self, record: &Record) {
        match (record.target, self.handles.of_container(&record.container)) {
            // An actor that is gone has no container to reboot.
            (HookTarget::Reboot, Some((key, handle))) => {
                handle.send(Some(&key), Request::Reboot);
            }
            // One that is being adopted just now is told so, too.
            (target, _) => drop(self.ended().insert(record.container.clone(), target)),
        }
    }

    /// At the daemon's start: adopts what runs and clears what a crash left. Returns the instances that ran when the
    /// daemon last knew and do not run now.
    pub async fn adopt_all(&self) -> BTreeSet<InstanceKey> {
        let (mut ran, mut down) = (BTreeSet::new(), BTreeSet::new());
        let model = self.context.db.model();
        // Read once: of a thousand instances, each would have to look through the table of them all.
        let points = blocking(|| Ok::<_, Error>(sys::mount::below(Path::new("/")).unwrap_or_default()))
            .await
            .unwrap_or_default();
        let points: BTreeSet<PathBuf> = points.into_iter().collect();
        let adopting = model.instances.values().map(|record| async {
            let found = adopt::adopt(&self.context, record, &points, |name| self.ended().get(name).copied()).await;
            (&record.key, found)
        });
        // Side by side: one whose monitor is slow to answer must not hold up the others.
        let mut adopting = futures_util::stream::iter(adopting).buffer_unordered(ADOPTED_AT_A_TIME);
        while let Some((key, found)) = adopting.next().await {
            match found {
                Ok(Found::Gone) => drop(down.insert(key)),
                Ok(Found::Down { was_running }) => {
                    down.insert(key);
                    self.spawn(key, Snapshot::STOPPED);
                    if was_running {
                        ran.insert(key.clone());
                    }
                }
                Ok(Found::Up(live, status)) => {
                    tracing::info!(instance = %key, pid = live.pid, "adopted");
                    // The actor lives: its handle was just made.
                    self.context.guests.up(key, live.pid, live.init.get_ref());
                    let handle = self.spawn(key, Snapshot { status, pid: live.pid });
                    handle.send(None, Request::Adopt { live, status });
                    let kind = model.instances.get(key).and_then(|record| stop::interrupted_restart(record));
                    if let Some(kind) = kind {
                        tracing::info!(instance = %key, "finishing an interrupted restart");
                        // Nobody waits for it any more.
                        let (reply, _) = oneshot::channel();
                        let requestor = None;
                        handle.send(None, Request::Stop { kind, restart: true, keep_power: false, requestor, reply });
                    }
                }
                Err(error) => {
                    tracing::error!(instance = %key, %error, "the instance could not be adopted");
                    // Whether it runs nobody knows: it is not called stopped.
                    let handle = self.spawn(key, Snapshot { status: Status::Error, pid: 0 });
                    handle.send(None, Request::Unknown);
                    tokio::spawn(look_again(handle.weak(), handle.watch()));
                }
            }
        }
        drop(adopting);
        let up = model.instances.keys().filter(|key| !down.contains(key)).cloned().collect();
        apparmor::sweep(&self.context, up).await;
        ran
    }

    /// Starts what is to be started with the daemon; `ran` are those that [`Manager::adopt_all`] found missing.
    pub async fn autostart(&self, ran: &BTreeSet<InstanceKey>) {
        for (key, delay) in adopt::autostart(&self.context, ran) {
            if self.snapshot(&key).status.is_up() {
                continue;
            }
            match self.change(&key, Target::Start, None, false, None).await {
                Ok(_) | Err(Error::AlreadyRunning) => tokio::time::sleep(delay).await,
                Err(error) => tracing::error!(instance = %key, %error, "the automatic start failed"),
            }
        }
    }

    /// The log files of an instance, sorted.
    ///
    /// # Errors
    /// [`Error::NotFound`], or when they cannot be read.
    pub async fn logs(&self, key: &InstanceKey) -> Result<Vec<LogName>, Error> {
        let logs = self.log_dir(key)?;
        blocking(move || logs::list(&logs)).await
    }

    /// One of them, to read; the console log may be two files.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NoLog`], or when it cannot be opened.
    pub async fn open_log(&self, key: &InstanceKey, name: LogName) -> Result<Vec<std::fs::File>, Error> {
        let logs = self.log_dir(key)?;
        blocking(move || logs::open(&logs, &name)).await
    }

    /// Removes one of them.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NoLog`], [`Error::LogInUse`], or when it cannot be removed.
    pub async fn delete_log(&self, key: &InstanceKey, name: LogName) -> Result<(), Error> {
        let logs = self.log_dir(key)?;
        blocking(move || logs::delete(&logs, &name)).await
    }

    fn log_dir(&self, key: &InstanceKey) -> Result<PathBuf, Error> {
        let known = self.context.db.model().instances.contains_key(key);
        if known { Ok(self.context.dir.logs(&key.container())) } else { Err(Error::NotFound) }
    }

    /// Stops all containers, those of the highest `boot.stop.priority` first; each gets its own time, then is killed.
    /// They are remembered as running.
    pub async fn bring_down(&self) {
        let model = self.context.db.model();
        let mut order: BTreeMap<std::cmp::Reverse<i64>, Vec<(InstanceKey, Duration)>> = BTreeMap::new();
        for (key, record) in model.instances.iter() {
            let expanded = profile::expand_instance(&model, record).config;
            let priority = config::int_of(&expanded, "boot.stop.priority");
            let seconds = config::int_of(&expanded, "boot.host_shutdown_timeout");
            let timeout = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            order.entry(std::cmp::Reverse(priority)).or_default().push((key.clone(), timeout));
        }
        for group in order.into_values() {
            futures_util::future::join_all(group.iter().map(|(key, timeout)| self.bring_one_down(key, *timeout))).await;
        }
    }

    async fn bring_one_down(&self, key: &InstanceKey, timeout: Duration) {
        let stop = |kind| {
            self.ask(key, move |reply| Request::Stop { kind, restart: false, keep_power: true, requestor: None, reply })
        };
        let result = match stop(StopKind::Shutdown(Some(timeout))).await {
            Err(Error::StopTimeout { .. }) => stop(StopKind::Kill).await,
            result => result,
        };
        match result {
            Ok(_) | Err(Error::AlreadyStopped | Error::NotFound) => {}
            Err(error) => tracing::error!(instance = %key, %error, "stopping for the shutdown failed"),
        }
    }
}
