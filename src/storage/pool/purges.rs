//! Removals in the background: a pool that goes away waits for them, and begins no more.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct State {
    running: usize,
    closed: bool,
}

/// Those of a pool.
#[derive(Debug, Default)]
pub(in crate::storage) struct Purges {
    state: Mutex<State>,
    changed: Condvar,
}

impl Purges {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work`, unless the pool goes away: then what was to be removed goes with it.
    pub(in crate::storage) fn run<E>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        {
            let mut state = self.state();
            if state.closed {
                return Ok(());
            }
            state.running += 1;
        }
        let done = work();
        self.state().running -= 1;
        self.changed.notify_all();
        done
    }

    /// Waits for those that run; no more begin.
    pub(in crate::storage) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        while state.running > 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// They begin again.
    pub(in crate::storage) fn open(&self) {
        self.state().closed = false;
    }
}
