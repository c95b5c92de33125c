//! Mounting a root whose files may have to be shifted first, and who watches that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::Error;
use super::{Context, blocking, ranges};
use crate::api::wire::Config;
use crate::config;
use crate::names::InstanceKey;
use crate::security::idmap::IdMap;
use crate::storage::{Pool, Progress, RootMount, Shifting, VolumeId};

/// The roots that are just mounted, and how far their shift is.
#[derive(Default)]
pub struct Shifts(Mutex<BTreeMap<InstanceKey, Arc<Progress>>>);

impl Shifts {
    fn all(&self) -> MutexGuard<'_, BTreeMap<InstanceKey, Arc<Progress>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Files shifted, of how many; `None` when none are shifted now.
    pub(super) fn told(&self, key: &InstanceKey) -> Option<(u64, u64)> {
        self.all().get(key)?.told()
    }
}

/// Mounts the root of an instance of this expanded configuration, with its files as this needs them, and remembers how
/// they are stored.
pub(super) async fn mount(
    context: &Context,
    key: &InstanceKey,
    pool: &Arc<Pool>,
    config: &Config,
    map: Option<&IdMap>,
) -> Result<RootMount, Error> {
    let shifting = Shifting { refuse: config::bool_of(config, "security.protection.shift"), ..Shifting::default() };
    context.shifts.all().insert(key.clone(), Arc::clone(&shifting.progress));
    let nesting = config::bool_of(config, "security.nesting");
    let (pool, volume, map) = (Arc::clone(pool), VolumeId::of(key), map.cloned());
    let mounted = blocking(move || pool.mount(&volume, map.as_ref(), nesting, &shifting).map_err(Error::from)).await;
    context.shifts.all().remove(key);
    let root = mounted?;
    ranges::remember_stored(context, key, root.stored.as_ref()).await?;
    Ok(root)
}
