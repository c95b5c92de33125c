//! Snapshots that nobody asks for: made by `snapshots.schedule`, deleted when they expire.
//!
//! Once a minute everything is looked at ([`crate::volume`] keeps the time); a minute in which the daemon did not run is not made up for. One whose deletion
//! fails is tried again a minute later.

use std::sync::Arc;

use super::super::state::Status;
use super::{NewSnapshot, Verb};
use crate::api::wire::Config;
use crate::config::{self, schedule};
use crate::db::{Model, Phase, Seconds};
use crate::instance::Manager;
use crate::names::{InstanceKey, SnapshotKey};
use crate::profile;
use crate::project;

/// The snapshots that have expired.
fn expired(model: &Model, now: Seconds) -> Vec<SnapshotKey> {
    let over = |record: &&Arc<crate::db::InstanceSnapshot>| {
        record.phase == Phase::Ready && record.expires_at != 0 && record.expires_at <= now
    };
    model.snapshots.values().filter(over).map(|record| record.key.clone()).collect()
}

/// Of an expanded configuration.
fn schedule_of(expanded: &Config) -> Option<schedule::Schedule> {
    schedule::parse_schedule(expanded.get("snapshots.schedule")?).ok()
}

/// Whether one is made whenever an instance of this expanded configuration starts.
pub(super) fn at_start(expanded: &Config) -> bool {
    schedule_of(expanded).is_some_and(|schedule| schedule.startup)
}

/// The instances whose minute it is, running or to be snapshotted all the same; `up` says which run.
fn due(model: &Model, at: time::OffsetDateTime, up: impl Fn(&InstanceKey) -> bool) -> Vec<InstanceKey> {
    let wanted = |key: &&InstanceKey| {
        let Some(record) = model.instances.get(*key).filter(|record| record.phase == Phase::Ready) else {
            return false;
        };
        let expanded = profile::expand_instance(model, record).config;
        schedule_of(&expanded).is_some_and(|schedule| schedule.fits(at))
            && project::may_make_snapshots(model, &key.project).is_ok()
            && (up(key) || config::bool_of(&expanded, "snapshots.schedule.stopped"))
    };
    model.instances.keys().filter(wanted).cloned().collect()
}

/// Does what is due in the minute of `now`.
pub(super) async fn round(manager: &Manager, now: Seconds) {
    let model = manager.context().db.model();
    for SnapshotKey { instance, name } in expired(&model, now) {
        if let Err(error) = manager.on_snapshots(&instance, Verb::Delete(name.clone()), None).await {
            tracing::warn!(%instance, snapshot = %name, %error, "deleting an expired snapshot");
        }
    }
    let at = time::OffsetDateTime::from_unix_timestamp(now).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let up = |key: &InstanceKey| matches!(manager.snapshot(key).status, Status::Running | Status::Frozen);
    for instance in due(&model, at, up) {
        if let Err(error) = manager.on_snapshots(&instance, Verb::Create(NewSnapshot::default()), None).await {
            tracing::error!(%instance, %error, "making a scheduled snapshot");
        }
    }
}

impl Manager {
    /// Does what the schedules of snapshots want in the minute of `now`; for tests the clock is theirs.
    pub async fn snapshot_round(&self, now: Seconds) {
        round(self, now).await;
    }
}
