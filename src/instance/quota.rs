//! The `size` of the root disk: what its volume may have. It is the volume's own limit, so it counts whether the instance
//! runs or not, and follows the definition at once.

use std::sync::Arc;

use super::error::Error;
use super::{Context, blocking};
use crate::config::parse_size;
use crate::db;
use crate::device::Set;
use crate::names::InstanceKey;
use crate::profile::{self, Expanded};
use crate::storage::{self, Pool, VolumeId};

/// A limit that was changed, to be taken back when the change does not come about.
pub(super) struct Changed {
    pool: Arc<Pool>,
    volume: VolumeId,
    before: Option<u64>,
}

/// The size that the root disk has, bytes.
fn size(expanded: &Expanded) -> Result<Option<u64>, Error> {
    Ok(Set::parse(&expanded.devices)?.root.and_then(|(_, root)| root.size))
}

/// Limits the new volume of an instance, which is whole but for this: by its root disk, or by what the pool says of new
/// volumes (`volume.size`).
pub(super) async fn begin(context: &Arc<Context>, record: &db::Instance) -> Result<(), Error> {
    let model = context.db.model();
    let usual = || model.pools.get(&record.pool)?.config.get("volume.size").and_then(|size| parse_size(size));
    let asked = size(&profile::expand_instance(&model, record))?;
    let Some(bytes) = asked.or_else(usual).filter(|bytes| *bytes > 0) else { return Ok(()) };
    let (pool, volume) = (context.pools.get(&record.pool)?, VolumeId::of(&record.key));
    blocking(move || match pool.set_quota(&volume, Some(bytes)) {
        // Nobody asked for it here.
        Err(error @ storage::Error::NoQuotas { .. }) if asked.is_none() => {
            tracing::warn!(%volume, %error, "the pool's volume.size is not held");
            Ok(())
        }
        limited => Ok(limited?),
    })
    .await
}

/// Bytes that the root disk of an instance says that it may have; `None`: as much as there is.
pub(super) fn asked(model: &db::Model, record: &db::Instance) -> Result<Option<u64>, Error> {
    Ok(size(&profile::expand_instance(model, record))?.filter(|bytes| *bytes > 0))
}

/// Brings the limit from what `before` says to what `after` does; `None`: they say the same.
///
/// # Errors
/// When there are more files already, or the pool cannot limit; then nothing has changed.
pub(super) async fn change(
    context: &Arc<Context>,
    key: &InstanceKey,
    before: &Expanded,
    after: &Expanded,
) -> Result<Option<Changed>, Error> {
    let (old, new) = (size(before)?, size(after)?);
    if old == new {
        return Ok(None);
    }
    let record = context.db.model().instances.get(key).cloned().ok_or(Error::NotFound)?;
    let (pool, volume) = (context.pools.get(&record.pool)?, VolumeId::of(key));
    let changed = Changed { pool: Arc::clone(&pool), volume: volume.clone(), before: old };
    blocking(move || pool.set_quota(&volume, new).map_err(Error::from)).await?;
    Ok(Some(changed))
}

/// Before a start: what a crash between the limit and the row left undone is done.
pub(super) async fn settle(context: &Arc<Context>, record: &db::Instance, expanded: &Expanded) -> Result<(), Error> {
    let Some(bytes) = size(expanded)? else { return Ok(()) };
    let (pool, volume) = (context.pools.get(&record.pool)?, VolumeId::of(&record.key));
    blocking(move || match pool.usage(&volume)? {
        Some(usage) if usage.limit == Some(bytes) => Ok(()),
        Some(_) | None => pool.set_quota(&volume, Some(bytes)).map_err(Error::from),
    })
    .await
}

/// Takes a change back, as far as that can be; what cannot is logged.
pub(super) async fn undo(changed: Option<Changed>) {
    let Some(Changed { pool, volume, before }) = changed else { return };
    if let Err(error) = blocking(move || pool.set_quota(&volume, before).map_err(Error::from)).await {
        tracing::error!(%error, "taking back the size of a root disk");
    }
}
