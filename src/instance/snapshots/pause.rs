//! Holding the processes of a container for the end of a snapshot.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::storage::{Error, Pause};
use crate::sys::cgroup::{Groups, Hierarchies};
use crate::sys::freezer::Freezer;

/// Holds a control group, or nobody, and tells for how long.
pub(super) struct Held {
    freezer: Option<Freezer>,
    since: Mutex<(Option<Instant>, Option<Duration>)>,
}

impl Held {
    /// There is nobody to hold.
    pub(super) fn nobody() -> Self {
        Self { freezer: None, since: Mutex::default() }
    }

    /// The processes of the container whose init is `pid`; nobody, if it is gone.
    pub(super) fn of_init(pid: i32) -> Self {
        let groups = Groups::of_instance(pid).ok();
        let freezer = Hierarchies::of_host().zip(groups).and_then(|(all, groups)| Freezer::of(all, &groups));
        Self { freezer, since: Mutex::default() }
    }

    /// Whether there is somebody to hold.
    pub(super) fn is_of_somebody(&self) -> bool {
        self.freezer.is_some()
    }

    /// How long they were held; `None`: they were not.
    pub(super) fn milliseconds(&self) -> Option<f64> {
        let (_, length) = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        length.map(|length| length.as_secs_f64() * 1000.0)
    }
}

impl Pause for Held {
    fn pause(&self) -> Result<(), Error> {
        let Some(freezer) = &self.freezer else { return Ok(()) };
        self.since.lock().unwrap_or_else(PoisonError::into_inner).0 = Some(Instant::now());
        freezer.freeze().map_err(|error| Error::Hold { error })
    }

    fn resume(&self) -> Result<(), Error> {
        let Some(freezer) = &self.freezer else { return Ok(()) };
        freezer.thaw().map_err(|error| Error::Hold { error })?;
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.1 = since.0.map(|since| since.elapsed());
        Ok(())
    }
}

/// Lets all go on that a daemon which is gone may have held of a container.
pub(super) fn let_go(parent: &str, container: &str) -> Result<(), Error> {
    let freezers = Hierarchies::of_host().map(|all| Freezer::all_of(all, parent, container)).unwrap_or_default();
    freezers.iter().try_for_each(|freezer| freezer.thaw().map_err(|error| Error::Hold { error }))
}
