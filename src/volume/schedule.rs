//! Snapshots of custom volumes that nobody asks for: made by `snapshots.schedule`, deleted when they expire. In the same
//! rounds as those of instances.

use std::sync::Arc;
use std::time::Duration;

use super::snapshots::{NewSnapshot, create, delete};
use crate::config::schedule;
use crate::db::{self, Model, Phase, Seconds, Volume};
use crate::instance::Manager;
use crate::names::VolumeKey;
use crate::project;

fn schedule_of(volume: &Volume) -> Option<schedule::Schedule> {
    schedule::parse_schedule(volume.config.get("snapshots.schedule")?).ok()
}

/// Whether any volume has a schedule.
pub fn has_schedule(model: &Model) -> bool {
    model.volumes.values().any(|volume| volume.config.get("snapshots.schedule").is_some_and(|text| !text.is_empty()))
}

/// Those whose minute it is.
fn due(model: &Model, at: time::OffsetDateTime) -> Vec<VolumeKey> {
    let fits = |volume: &&Arc<Volume>| {
        volume.phase == Phase::Ready
            && schedule_of(volume).is_some_and(|schedule| schedule.fits(at))
            && project::may_make_snapshots(model, &volume.key.project).is_ok()
            && model.server_use(&volume.key).is_none()
    };
    model.volumes.values().filter(fits).map(|volume| volume.key.clone()).collect()
}

/// Follows the schedules of instances and volumes for as long as the daemon lives.
pub async fn follow_schedules(manager: &Manager) {
    loop {
        // The beginning of the next minute.
        let wait = 60 - u64::try_from(db::now().rem_euclid(60)).unwrap_or_default();
        tokio::time::sleep(Duration::from_secs(wait)).await;
        let now = db::now();
        tokio::join!(manager.snapshot_round(now), round(manager, now));
    }
}

/// Does what is due in the minute of `now`. What fails is tried again a minute later, if it is a deletion.
pub async fn round(manager: &Manager, now: Seconds) {
    let model = manager.context().db.model();
    let expired = model
        .volume_snapshots
        .values()
        .filter(|record| record.phase == Phase::Ready && record.expires_at != 0 && record.expires_at <= now);
    for key in expired.map(|record| &record.key) {
        if let Err(error) = delete(manager, &key.volume, &key.name, None).await {
            tracing::warn!(snapshot = %key, %error, "deleting an expired snapshot");
        }
    }
    let at = time::OffsetDateTime::from_unix_timestamp(now).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    for key in due(&model, at) {
        if let Err(error) = create(manager, &key, NewSnapshot::default(), None).await {
            tracing::error!(volume = %key, %error, "making a scheduled snapshot");
        }
    }
}
