//! The volumes of a copy, made by the task of its source. See [`super::super::create`] for its rows.

use std::sync::Arc;

use super::super::Context;
use super::super::create::RootSource;
use super::super::error::Error;
use super::super::manager::Manager;
use super::{Use, Verb, holding, place};
use crate::db;
use crate::names::{InstanceKey, SnapshotName};
use crate::storage::VolumeId;

/// Makes the volumes of the copy `to`, and of the snapshots that its rows name; how long the processes were held for it,
/// milliseconds.
pub(super) async fn copy(
    context: &Arc<Context>,
    instance: &InstanceKey,
    snapshot: Option<SnapshotName>,
    to: &InstanceKey,
    used: Use,
) -> Result<Option<f64>, Error> {
    let (pool, volume) = place(context, instance)?;
    let model = context.db.model();
    let names: Vec<SnapshotName> = model.snapshots_of(to).iter().map(|record| record.key.name.clone()).collect();
    let new = VolumeId::of(to);
    holding(context, instance, used, move |pause| {
        for name in names {
            pool.copy(&volume.at(&name), &new.at(&name), None)?;
        }
        match &snapshot {
            Some(name) => Ok(pool.copy(&volume.at(name), &new, None)?),
            None => Ok(pool.copy(&volume, &new, pause)?),
        }
    })
    .await
}

impl Manager {
    /// Has the task of its source make the volumes of a copy; anything else is no copy.
    pub(in super::super) async fn copied(&self, record: &db::Instance, source: &RootSource) -> Result<(), Error> {
        let RootSource::Copy(copy) = source else { return Ok(()) };
        let verb = Verb::Copy { snapshot: copy.snapshot.clone(), to: record.key.clone() };
        self.on_snapshots(&copy.instance, verb, None).await.map(drop)
    }
}
