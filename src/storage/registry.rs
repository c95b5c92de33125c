//! The open pools of the daemon.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::error::Error;
use super::locks::VolumeLocks;
use super::pool::{DriverKind, Pool, PoolSpec};
use super::probe::Probes;
use super::source::{self, Source};
use super::usage::Usage;
use crate::api::wire::Config;
use crate::db;
use crate::names::{Fingerprint, PoolName};

/// A pool that should be there: open, or why it is not.
struct Entry {
    spec: PoolSpec,
    opened: Result<Arc<Pool>, String>,
}

/// What became of a pool that was not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retried {
    /// Its name.
    pub pool: PoolName,
    /// Why it still is not there; `None`: it is back.
    pub reason: Option<String>,
}

/// Why a pool that was opened is not there any more.
fn lost(pool: &Pool) -> Option<String> {
    let reason = || format!("what it lies on was taken away ({} is another directory, or none)", pool.root().display());
    (!pool.is_there()).then(reason)
}

/// All pools by name. One that could not be opened is kept with the reason: its instances say why they do not start.
pub struct Registry {
    state_dir: PathBuf,
    probes: Arc<Probes>,
    pools: Mutex<BTreeMap<PoolName, Entry>>,
    locks: VolumeLocks,
    usage: Usage,
    alarm: Arc<Notify>,
    /// The daemon ends: no pool comes back.
    rests: AtomicBool,
}

impl Registry {
    /// None yet; what the last daemon's trials left is removed.
    pub fn new(state_dir: PathBuf) -> Self {
        let probes = Arc::new(Probes::remembering(&state_dir, &state_dir.join("run/probed")));
        probes.clear();
        let (pools, locks, usage) = (Mutex::default(), VolumeLocks::default(), Usage::default());
        Self { state_dir, probes, pools, locks, usage, alarm: Arc::default(), rests: AtomicBool::default() }
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

    /// Rung when something is wrong with what a pool lies on.
    pub fn alarm(&self) -> &Notify {
        &self.alarm
    }

    /// The drivers that work here. Asking tries them, once.
    pub fn drivers(&self) -> Vec<DriverKind> {
        DriverKind::ALL.into_iter().filter(|driver| driver.missing(&self.probes).is_none()).collect()
    }

    /// A pool of this daemon.
    pub fn spec(&self, name: &PoolName, driver: DriverKind, config: &Config) -> PoolSpec {
        PoolSpec { name: name.clone(), driver, config: config.clone(), state_dir: self.state_dir.clone() }
    }

    fn spec_of(&self, record: &db::Pool) -> Result<PoolSpec, Error> {
        DriverKind::parse(&record.driver).map(|driver| self.spec(&record.name, driver, &record.config))
    }

    fn try_open(&self, spec: &PoolSpec) -> Result<Arc<Pool>, Error> {
        let pool = Pool::open(spec.clone(), &self.probes, &self.alarm)?;
        // A change of its configuration that a crash interrupted, or that came while it was away.
        source::follow(spec)?;
        Ok(pool)
    }

    /// Opens a recorded pool; a failure is kept, not returned. Blocking.
    pub fn open(&self, record: &db::Pool) {
        let spec = match self.spec_of(record) {
            Ok(spec) => spec,
            Err(error) => return tracing::error!(pool = %record.name, %error, "the storage pool is not available"),
        };
        let opened = self.try_open(&spec);
        if let Err(error) = &opened {
            tracing::error!(pool = %record.name, %error, "the storage pool is not available");
        }
        let opened = opened.map_err(|error| error.to_string());
        self.pools().insert(record.name.clone(), Entry { spec, opened });
    }

    /// The pools that are not there, why, and the paths at which what they lie on may come.
    pub fn away(&self) -> Vec<(PoolName, String, Vec<PathBuf>)> {
        if self.rests.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let pools = self.pools();
        let away = pools.iter().filter_map(|(name, entry)| {
            let reason = entry.opened.as_ref().err()?.clone();
            Some((name.clone(), reason, Source::of(&entry.spec).paths()))
        });
        away.collect()
    }

    /// The open pools to which nothing can be written though their configuration does not say so: an error of the device
    /// makes file systems so. One that nobody uses is let go, to be opened anew. Blocking, though it reads nothing.
    pub fn read_only(&self) -> Vec<PoolName> {
        let mut stay = Vec::new();
        for pool in self.all_open().into_iter().filter(|pool| pool.is_read_only()) {
            if !pool.let_go() {
                stay.push(pool.name().clone());
                continue;
            }
            let reason = "its file system failed and was taken away; it is tried again".to_owned();
            if let Some(entry) = self.pools().get_mut(pool.name()) {
                entry.opened = Err(reason);
            }
        }
        stay
    }

    /// Tries again to open the pools that are not there. Blocking.
    pub fn retry(&self) -> Vec<Retried> {
        if self.rests.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let away = |(_, entry): &(&PoolName, &Entry)| entry.opened.is_err();
        let specs: Vec<PoolSpec> = self.pools().iter().filter(away).map(|(_, entry)| entry.spec.clone()).collect();
        let retry = |spec: PoolSpec| {
            let opened = self.try_open(&spec).map_err(|error| error.to_string());
            let retried = Retried { pool: spec.name.clone(), reason: opened.as_ref().err().cloned() };
            let mut pools = self.pools();
            // It may have been deleted meanwhile.
            if let Some(entry) = pools.get_mut(&spec.name).filter(|entry| entry.opened.is_err()) {
                entry.opened = opened;
            }
            retried
        };
        specs.into_iter().map(retry).collect()
    }

    /// Makes a pool. Blocking.
    ///
    /// # Errors
    /// When its source lies in another pool, or cannot be one. Then nothing of it stays.
    pub fn create(&self, name: &PoolName, driver: DriverKind, config: &Config) -> Result<(), Error> {
        let spec = self.spec(name, driver, config);
        if let Source::Path(path) = Source::of(&spec) {
            let real = path.canonicalize().unwrap_or_else(|_| path.clone());
            if let Some(other) = self.all_open().iter().find(|other| real.starts_with(other.root())) {
                let reason = format!("it lies in the storage pool {:?}: name another one", other.name().as_str());
                return Err(Error::Source { source: path.display().to_string(), reason });
            }
        }
        let opened = Ok(Pool::create(spec.clone(), &self.probes, &self.alarm)?);
        self.pools().insert(name.clone(), Entry { spec, opened });
        Ok(())
    }

    /// Whether a pool may have this configuration instead of that of its row.
    ///
    /// # Errors
    /// With the key that is unknown, does not fit, or cannot be changed so.
    pub fn may_change(&self, record: &db::Pool, config: &Config) -> Result<(), Error> {
        let old = self.spec_of(record)?;
        Pool::validate(old.driver, config)?;
        source::may_change(&old, &self.spec(&record.name, old.driver, config))
    }

    /// Brings an open pool to the configuration that its row has by now; one that is away comes with it. Blocking.
    ///
    /// # Errors
    /// With what cannot be done; another call may bring it back.
    pub fn follow(&self, record: &db::Pool) -> Result<(), Error> {
        let spec = self.spec_of(record)?;
        let open = match self.pools().get_mut(&record.name) {
            Some(entry) => {
                entry.spec = spec.clone();
                entry.opened.is_ok()
            }
            None => false,
        };
        if open { source::follow(&spec) } else { Ok(()) }
    }

    /// Removes an empty pool; of one that is not there, what there is. Blocking.
    ///
    /// # Errors
    /// When it holds volumes, or cannot be removed.
    pub fn delete(&self, name: &PoolName) -> Result<(), Error> {
        let found = self.pools().get(name).map(|entry| (entry.spec.clone(), entry.opened.as_ref().ok().cloned()));
        match found {
            None => return Err(Error::NoSuchPool { pool: name.clone() }),
            Some((_, Some(pool))) => pool.delete()?,
            Some((spec, None)) => Pool::undo(&spec)?,
        }
        self.pools().remove(name);
        Ok(())
    }

    /// Removes what a crash left of a pool that was being made or deleted. Blocking.
    ///
    /// # Errors
    /// With what cannot be removed.
    pub fn undo(&self, record: &db::Pool) -> Result<(), Error> {
        Pool::undo(&self.spec_of(record)?)?;
        self.pools().remove(&record.name);
        Ok(())
    }

    /// Lets the pools go whose directories are not what was opened any more. Blocking, though it reads nothing.
    pub fn lose(&self) {
        for entry in self.pools().values_mut() {
            if let Some(reason) = entry.opened.as_ref().ok().and_then(|pool| lost(pool)) {
                entry.opened = Err(reason);
            }
        }
    }

    fn all_open(&self) -> Vec<Arc<Pool>> {
        self.pools().values().filter_map(|entry| entry.opened.as_ref().ok().cloned()).collect()
    }

    /// Takes away the mounts of the open pools and those that they keep for their images, at the daemon's end; they come
    /// back by themselves. One that a running container needs stays. Blocking.
    pub fn rest(&self) {
        self.rests.store(true, Ordering::Relaxed);
        let open = self.all_open();
        for entry in self.pools().values_mut() {
            entry.opened = Err("the daemon is shutting down".to_owned());
        }
        open.iter().for_each(|pool| pool.rest());
    }

    /// An open pool.
    ///
    /// # Errors
    /// When there is none, it could not be opened, or what it lies on was taken away.
    pub fn get(&self, name: &PoolName) -> Result<Arc<Pool>, Error> {
        let mut pools = self.pools();
        let Some(entry) = pools.get_mut(name) else { return Err(Error::NoSuchPool { pool: name.clone() }) };
        let pool = match &entry.opened {
            Ok(pool) => pool,
            Err(_) if self.rests.load(Ordering::Relaxed) => return Err(Error::ShuttingDown),
            Err(reason) => return Err(Error::Unavailable { pool: name.clone(), reason: reason.clone() }),
        };
        let Some(reason) = lost(pool) else { return Ok(Arc::clone(pool)) };
        entry.opened = Err(reason.clone());
        // It may be back, and somebody should be told.
        self.alarm.notify_one();
        Err(Error::Unavailable { pool: name.clone(), reason })
    }

    /// Forgets an image in all pools. Blocking.
    ///
    /// # Errors
    /// Of the first pool where its files cannot be removed.
    pub fn delete_image(&self, fingerprint: &Fingerprint) -> Result<(), Error> {
        self.all_open().iter().try_for_each(|pool| pool.delete_image(fingerprint))
    }
}
