//! The open pools of the daemon.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::Error;
use super::locks::VolumeLocks;
use super::pool::{DriverKind, Pool, PoolSpec};
use super::probe::Probes;
use super::usage::Usage;
use crate::api::wire::Config;
use crate::db;
use crate::names::{Fingerprint, PoolName};

/// A pool that should be there, or why it is not.
type Entry = Result<Arc<Pool>, String>;

/// All pools by name. One that could not be opened is kept with the reason: its instances say why they do not start.
pub struct Registry {
    state_dir: PathBuf,
    probes: Arc<Probes>,
    pools: Mutex<BTreeMap<PoolName, Entry>>,
    locks: VolumeLocks,
    usage: Usage,
}

impl Registry {
    /// None yet; what the last daemon's trials left is removed.
    pub fn new(state_dir: PathBuf) -> Self {
        let probes = Arc::new(Probes::remembering(&state_dir, &state_dir.join("run/probed")));
        probes.clear();
        let (pools, locks, usage) = (Mutex::default(), VolumeLocks::default(), Usage::default());
        Self { state_dir, probes, pools, locks, usage }
    }

    fn pools(&self) -> MutexGuard<'_, BTreeMap<PoolName, Entry>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the host can do.
    pub fn probes(&self) -> &Probes {
        &self.probes
    }

    /// Who works on which custom volume.
    pub fn locks(&self) -> &VolumeLocks {
        &self.locks
    }

    /// What volumes use.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// The drivers that work here. Asking tries them, once.
    pub fn drivers(&self) -> Vec<DriverKind> {
        let mut drivers = vec![DriverKind::Dir];
        if self.probes.overlay_missing().is_none() {
            drivers.push(DriverKind::Overlay);
        }
        drivers
    }

    fn spec(&self, name: &PoolName, driver: DriverKind, config: &Config) -> PoolSpec {
        PoolSpec { name: name.clone(), driver, config: config.clone(), state_dir: self.state_dir.clone() }
    }

    /// Opens a recorded pool; a failure is kept, not returned. Blocking.
    pub fn open(&self, record: &db::Pool) {
        let opened = DriverKind::parse(&record.driver)
            .and_then(|driver| Pool::open(self.spec(&record.name, driver, &record.config), &self.probes));
        if let Err(error) = &opened {
            tracing::error!(pool = %record.name, %error, "the storage pool is not available");
        }
        self.pools().insert(record.name.clone(), opened.map_err(|error| error.to_string()));
    }

    /// Makes a pool. Blocking.
    ///
    /// # Errors
    /// Then nothing of it stays.
    pub fn create(&self, name: &PoolName, driver: DriverKind, config: &Config) -> Result<(), Error> {
        let pool = Pool::create(self.spec(name, driver, config), &self.probes)?;
        self.pools().insert(name.clone(), Ok(pool));
        Ok(())
    }

    /// Removes an empty pool. Blocking.
    ///
    /// # Errors
    /// When it holds volumes, or cannot be removed.
    pub fn delete(&self, name: &PoolName) -> Result<(), Error> {
        self.get(name)?.delete()?;
        self.pools().remove(name);
        Ok(())
    }

    /// Takes away the mounts that the open pools keep for their images, at the daemon's end; they come back by
    /// themselves. One that a running container needs stays. Blocking.
    pub fn rest(&self) {
        for pool in self.pools().values().flatten() {
            pool.rest();
        }
    }

    /// An open pool.
    ///
    /// # Errors
    /// When there is none, or it could not be opened.
    pub fn get(&self, name: &PoolName) -> Result<Arc<Pool>, Error> {
        match self.pools().get(name) {
            None => Err(Error::NoSuchPool { pool: name.clone() }),
            Some(Ok(pool)) => Ok(Arc::clone(pool)),
            Some(Err(reason)) => Err(Error::Unavailable { pool: name.clone(), reason: reason.clone() }),
        }
    }

    /// Forgets an image in all pools. Blocking.
    ///
    /// # Errors
    /// Of the first pool where its files cannot be removed.
    pub fn delete_image(&self, fingerprint: &Fingerprint) -> Result<(), Error> {
        let open: Vec<Arc<Pool>> = self.pools().values().filter_map(|entry| entry.as_ref().ok().cloned()).collect();
        open.iter().try_for_each(|pool| pool.delete_image(fingerprint))
    }
}
