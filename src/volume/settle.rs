//! The daemon's start: what a crash left half done is undone or finished.

use std::sync::Arc;

use super::error::Error;
use super::{finish_rename, remove, snapshots};
use crate::db::{Phase, Volume, VolumeSnapshot};
use crate::instance::Context;

/// Goes through all volumes. What fails is logged and waits for the next start.
pub async fn settle(context: &Arc<Context>) {
    let model = context.db.model();
    for record in model.volumes.values() {
        if let Err(error) = settle_one(context, record).await {
            tracing::error!(volume = %record.key, %error, "what a crash left of a volume stays for now");
        }
    }
}

async fn settle_one(context: &Arc<Context>, record: &Volume) -> Result<(), Error> {
    match record.phase {
        Phase::Creating => {
            remove(context, &record.key).await?;
            tracing::info!(volume = %record.key, "undid an interrupted creation");
            return Ok(());
        }
        Phase::Deleting => {
            remove(context, &record.key).await?;
            tracing::info!(volume = %record.key, "finished an interrupted deletion");
            return Ok(());
        }
        Phase::Ready if record.renamed_from.is_some() => finish_rename(context, &record.key).await?,
        Phase::Ready => {}
    }
    let model = context.db.model();
    for snapshot in model.snapshots_of_volume(&record.key) {
        settle_snapshot(context, snapshot).await?;
    }
    Ok(())
}

async fn settle_snapshot(context: &Arc<Context>, record: &VolumeSnapshot) -> Result<(), Error> {
    match record.phase {
        Phase::Creating | Phase::Deleting => {
            snapshots::remove(context, &record.key).await?;
            tracing::info!(snapshot = %record.key, "cleared an interrupted snapshot");
            Ok(())
        }
        Phase::Ready => snapshots::finish_rename(context, &record.key).await,
    }
}
