//! Leases: who works on the files of an instance holds one.
//!
//! ```text
//!              running container                      stopped one
//!  lease       its own root, with all its mounts      its volume, mounted as a start would mount it
//!  goes down   cut                                    -
//!  starts      -                                      goes on; the start uses the same mount
//!  last drop   -                                      unmounted after IDLE
//!  deleted, daemon ends                               cut
//! ```
//! Two mounts of the same overlay would corrupt it, so there is never a second one: neither beside a lease nor beside what
//! a lease still holds of a container that is gone.

use std::future::Future;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use tokio::sync::watch;

use super::actor::Live;
use super::error::Error;
use super::state::Status;
use super::{Context, blocking, ranges, shifting};
use crate::config;
use crate::names::InstanceKey;
use crate::profile;
use crate::security::idmap::IdMap;
use crate::storage::{Pool, RootMount, VolumeId};
use crate::sys::{process, userns};

/// A root that nobody uses stays mounted this long: who pushes a tree file by file finds it ready.
const IDLE: Duration = Duration::from_secs(2);
/// Who is told to let go gets this long. A process that a dead file system holds takes longer, and is not waited for.
const CUT: Duration = Duration::from_secs(5);

/// The use of an instance's root. It is given back by dropping it, once no process uses it any more.
pub(super) struct Lease {
    root: OwnedFd,
    namespace: Option<Namespace>,
    cut: watch::Receiver<bool>,
}

enum Namespace {
    /// Of a running container.
    Own(OwnedFd),
    /// Of its id map.
    Shared(Arc<OwnedFd>),
}

impl Lease {
    /// The root directory, as a mere place.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The user namespace of an unprivileged instance.
    pub(super) fn namespace(&self) -> Option<BorrowedFd<'_>> {
        self.namespace.as_ref().map(|namespace| match namespace {
            Namespace::Own(fd) => fd.as_fd(),
            Namespace::Shared(fd) => fd.as_fd(),
        })
    }

    /// Resolves when the lease is to be given back at once.
    pub(super) fn cut(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut cut = self.cut.clone();
        async move {
            // The sender lives in the actor; when that is gone, so is the instance.
            let _ = cut.wait_for(|cut| *cut).await;
        }
    }
}

/// The leases of one kind: each holds a receiver.
struct Group(watch::Sender<bool>);

impl Default for Group {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Group {
    fn in_use(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// Takes them all back.
    async fn cut(&mut self) {
        if self.in_use() {
            self.0.send_replace(true);
            if tokio::time::timeout(CUT, self.0.closed()).await.is_err() {
                tracing::warn!("a process that works on an instance's files does not end");
            }
        }
        // Whoever is still there belongs to the old group.
        *self = Self::default();
    }
}

/// A root that is mounted for leases.
struct Mounted {
    pool: Arc<Pool>,
    volume: VolumeId,
    root: RootMount,
    map: Option<IdMap>,
    nesting: bool,
}

/// The leases of an instance.
#[derive(Default)]
pub(super) struct Leases {
    running: Group,
    stopped: Group,
    mounted: Option<Mounted>,
}

fn failed(doing: &'static str, path: impl Into<std::path::PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.into();
    move |error| Error::Io { doing, path, error }
}

fn directory(path: &std::path::Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed("open", path)(error.into()))
}

impl Leases {
    /// A lease of the running container `live`.
    ///
    /// # Errors
    /// When it has just ended.
    pub(super) fn running(&self, live: &Live) -> Result<Lease, Error> {
        let place = std::path::PathBuf::from(format!("/proc/{}", live.pid));
        let going = |_| Error::Busy { status: Status::Stopping };
        let root = directory(&place.join("root")).map_err(|_| Error::Busy { status: Status::Stopping })?;
        let namespace = userns::of_process(live.pid).map_err(going)?;
        // The number could be another process's by now; as long as init is not reaped, it is not.
        process::pidfd_signal(live.init.get_ref(), 0).map_err(going)?;
        Ok(Lease { root, namespace: namespace.map(Namespace::Own), cut: self.running.0.subscribe() })
    }

    /// A lease of an instance that is down; the first one mounts its root.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub(super) async fn stopped(&mut self, context: &Arc<Context>, key: &InstanceKey) -> Result<Lease, Error> {
        let model = context.db.model();
        let record = model.instances.get(key).ok_or(Error::NotFound)?;
        let expanded = profile::expand_instance(&model, record);
        let map = ranges::id_map(context, &key.container(), &expanded.config)?;
        let nesting = config::bool_of(&expanded.config, "security.nesting");
        if self.root_with(map.as_ref(), nesting).await?.is_none() {
            let (pool, volume) = (context.pools.get(&record.pool)?, VolumeId::of(key));
            let root = shifting::mount(context, key, &pool, &expanded.config, map.as_ref()).await;
            if root.is_err() {
                context.ranges.give_back(&key.container());
            }
            self.mounted = Some(Mounted { pool, volume, root: root?, map: map.clone(), nesting });
        }
        let path = self.mounted.as_ref().map(|mounted| mounted.root.path.clone()).ok_or(Error::NotFound)?;
        let namespace = match map {
            None => None,
            Some(map) => {
                let (uids, gids) = map.mount_maps(false);
                let made = blocking(move || {
                    userns::with_maps(&uids, &gids).map_err(failed("make a user namespace of", "/proc/self/exe"))
                });
                Some(Namespace::Shared(made.await?))
            }
        };
        Ok(Lease { root: directory(&path)?, namespace, cut: self.stopped.0.subscribe() })
    }

    /// The root, if it is mounted with this id map, and for containers inside if they may be. Another one is taken away.
    ///
    /// # Errors
    /// When that cannot be done.
    pub(super) async fn root_with(&mut self, map: Option<&IdMap>, nesting: bool) -> Result<Option<RootMount>, Error> {
        match &self.mounted {
            Some(mounted) if mounted.map.as_ref() == map && mounted.nesting == nesting => {
                Ok(Some(mounted.root.clone()))
            }
            Some(_) => self.release().await.map(|()| None),
            None => Ok(None),
        }
    }

    /// The container has gone down: takes back the leases of it.
    pub(super) async fn cut_running(&mut self) {
        self.running.cut().await;
    }

    /// Whether the root must stay mounted although the container is down. If not, it is the caller's to unmount.
    pub(super) fn keep_root(&mut self) -> bool {
        if !self.stopped.in_use() {
            self.mounted = None;
        }
        self.mounted.is_some()
    }

    /// Whether somebody works on the files of the container that is down.
    pub(super) fn in_use(&self) -> bool {
        self.stopped.in_use()
    }

    /// Whether a root is mounted for leases.
    pub(super) fn is_mounted(&self) -> bool {
        self.mounted.is_some()
    }

    /// Resolves when a root is mounted that nobody has used for a while. To be asked only while the container is down.
    pub(super) async fn unused(&self) {
        if self.mounted.is_none() {
            return std::future::pending().await;
        }
        self.stopped.0.closed().await;
        tokio::time::sleep(IDLE).await;
    }

    /// Takes the leases of the mounted root back, and the mount away.
    ///
    /// # Errors
    /// When it cannot be unmounted.
    pub(super) async fn release(&mut self) -> Result<(), Error> {
        self.stopped.cut().await;
        match self.mounted.take() {
            None => Ok(()),
            Some(Mounted { pool, volume, .. }) => blocking(move || pool.unmount(&volume).map_err(Error::from)).await,
        }
    }
}
