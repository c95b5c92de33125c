//! What the task of an instance does with its snapshots.

use tokio::sync::oneshot;

use super::super::actor::{Actor, State};
use super::super::addresses::leased;
use super::super::error::Error;
use super::super::request::Answer;
use super::super::state::Status;
use super::super::waits::gone;
use super::super::{Stages, copied, marks, moves, stop};
use super::copies::copy;
use super::{NewSnapshot, Use, Verb, create, delete, rename, restore, schedule};
use crate::events::lifecycle::Requestor;
use crate::names::{InstanceKey, SnapshotName};
use crate::profile;

impl Actor {
    pub(in super::super) async fn snapshot(&mut self, verb: Verb, requestor: Option<&Requestor>) -> Answer {
        let status = self.status();
        // One that is asked to go down may never do so: what leaves it alone goes on.
        if status == Status::Stopping && matches!(verb, Verb::Restore(_)) {
            return Err(Error::Busy { status });
        }
        let mut stages = Stages::default();
        match verb {
            Verb::Create(new) => {
                let used = self.used().await?;
                let (_, held) = create(&self.context, &self.key, new, used, requestor).await?;
                stages.mark("snapshot");
                if let Some(milliseconds) = held {
                    stages.add("held", milliseconds);
                }
            }
            Verb::Copy { of, to } => {
                copied::read_again(&self.context, &of, &to).await?;
                self.copy(of.snapshot, &to, false, &mut stages).await?;
            }
            Verb::Refresh { snapshot, to } => self.copy(snapshot, &to, true, &mut stages).await?,
            Verb::Move { pool, snapshots } => {
                if !matches!(self.state, State::Stopped | State::Error) {
                    return Err(Error::MoveRunning);
                }
                self.let_go_of_root().await?;
                moves::move_to(&self.context, &self.key, pool, snapshots, requestor).await?;
                stages.mark("move");
            }
            Verb::Delete(name) => delete(&self.context, &self.key, &name, requestor).await?,
            Verb::Rename { from, to } => rename(&self.context, &self.key, &from, &to, requestor).await?,
            Verb::Restore(name) => self.restore(&name, requestor, &mut stages).await?,
        }
        Ok(stages)
    }

    async fn copy(
        &mut self,
        snapshot: Option<SnapshotName>,
        to: &InstanceKey,
        refresh: bool,
        stages: &mut Stages,
    ) -> Result<(), Error> {
        let used = self.used().await?;
        let held = copy(&self.context, &self.key, snapshot, to, refresh, used).await?;
        stages.mark("copy");
        if let Some(milliseconds) = held {
            stages.add("held", milliseconds);
        }
        Ok(())
    }

    /// Stays as it is, down and not mounted, until somebody has changed its files.
    pub(in super::super) async fn still(
        &mut self,
        ready: oneshot::Sender<Result<(), Error>>,
        done: oneshot::Receiver<()>,
    ) {
        let is_still = match self.state {
            State::Stopped | State::Error => self.let_go_of_root().await,
            State::Running(_) | State::Frozen(_) | State::Stopping(_) => Err(Error::Running),
        };
        let wait = is_still.is_ok();
        // Whoever asked may have given up: then `done` says so.
        let _ = ready.send(is_still);
        if wait {
            let _ = done.await;
        }
    }

    /// Makes the snapshot that `snapshots.schedule` wants at each start; without it the start goes on.
    pub(in super::super) async fn snapshot_at_start(&mut self) {
        let model = self.context.db.model();
        let Some(record) = model.instances.get(&self.key) else { return };
        if !schedule::at_start(&profile::expand_instance(&model, record).config) {
            return;
        }
        let used = if self.leases.is_mounted() { Use::Files } else { Use::None };
        if let Err(error) = create(&self.context, &self.key, NewSnapshot::default(), used, None).await {
            tracing::error!(instance = %self.key, %error, "making the snapshot of its start");
        }
    }

    /// Who uses the volume; what is only mounted is let go.
    pub(in super::super) async fn used(&mut self) -> Result<Use, Error> {
        Ok(match &self.state {
            State::Running(live) => Use::Running { frozen: false, pid: live.pid },
            State::Frozen(live) => Use::Running { frozen: true, pid: live.pid },
            // Asked to go down, it may take its time, or never do it.
            State::Stopping(live) => Use::Running { frozen: false, pid: live.pid },
            State::Stopped | State::Error if self.leases.in_use() => Use::Files,
            State::Stopped | State::Error => {
                self.let_go_of_root().await?;
                Use::None
            }
        })
    }

    /// Takes away what is mounted only for its files.
    async fn let_go_of_root(&mut self) -> Result<(), Error> {
        self.leases.release().await?;
        self.context.ranges.give_back(&self.key.container());
        Ok(())
    }

    async fn restore(
        &mut self,
        name: &SnapshotName,
        requestor: Option<&Requestor>,
        stages: &mut Stages,
    ) -> Result<(), Error> {
        let model = self.context.db.model();
        let before = model.instances.get(&self.key);
        let held = before.map(|old| leased(&model, &profile::expand_instance(&model, old), &old.config));
        let token = restore::begin(&self.context, &self.key, name).await?;
        let held = held.unwrap_or_default();
        self.context.promise(&held, true).await;
        let up = matches!(self.state, State::Running(_) | State::Frozen(_));
        if up && let Err(error) = self.down_for_restore().await {
            self.context.promise(&held, false).await;
            marks::set(&self.context, &self.key, restore::MARKER, None).await?;
            return Err(error);
        }
        stages.mark("stop");
        let put = match self.let_go_of_root().await {
            Ok(()) => restore::put(&self.context, &self.key, name, &token).await,
            Err(error) => {
                marks::set(&self.context, &self.key, restore::MARKER, None).await?;
                Err(error)
            }
        };
        stages.mark("restore");
        // Nics that it has no more give back what DHCP had leased.
        self.context.give_back_gone(held.clone(), &[&self.key]).await;
        self.context.promise(&held, false).await;
        let started = if up { self.start("instance-restarted", requestor).await.map(drop) } else { Ok(()) };
        stages.mark("start");
        put?;
        let name = [("snapshot".to_owned(), format!("{}/{name}", self.key.name).into())];
        self.context.lifecycle_with("instance-restored", &self.key, &name, requestor);
        started
    }

    /// Kills the running container, which is to come up again.
    async fn down_for_restore(&mut self) -> Result<(), Error> {
        let frozen = matches!(self.state, State::Frozen(_));
        // A daemon that dies before it is up again leaves that to the next one.
        stop::mark_restart(&self.context, &self.key, Some("kill")).await?;
        let Some(live) = self.live() else { return Ok(()) };
        if let Err(error) = stop::kill(&self.context, &self.key, live, frozen).await {
            stop::mark_restart(&self.context, &self.key, None).await?;
            return Err(error);
        }
        self.is_killed();
        gone(&self.state).await;
        self.exited().await;
        match &self.state {
            State::Stopped => Ok(()),
            State::Error | State::Running(_) | State::Frozen(_) | State::Stopping(_) => {
                Err(Error::Busy { status: self.status() })
            }
        }
    }
}
