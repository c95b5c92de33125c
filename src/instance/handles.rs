//! Who answers for which instance.
//!
//! While an instance gets another name, its actor answers for both; afterwards it answers for one, and whose request names the
//! other is told that there is no such instance. Which one that is, only the actor knows: so each request says whom it means.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, watch};

use super::request::Request;
use super::state::Snapshot;
use crate::names::InstanceKey;

/// A request, and the instance that is meant; `None`: whoever's actor it is.
pub(super) type Addressed = (Option<InstanceKey>, Request);

/// The way to an actor.
#[derive(Clone)]
pub(super) struct Handle {
    requests: mpsc::UnboundedSender<Addressed>,
    snapshot: watch::Receiver<Snapshot>,
}

impl Handle {
    pub(super) fn new(requests: mpsc::UnboundedSender<Addressed>, snapshot: watch::Receiver<Snapshot>) -> Self {
        Self { requests, snapshot }
    }

    /// How it is now.
    pub(super) fn snapshot(&self) -> Snapshot {
        *self.snapshot.borrow()
    }

    /// Tells of its changes.
    pub(super) fn watch(&self) -> watch::Receiver<Snapshot> {
        self.snapshot.clone()
    }

    /// Puts a request into its queue; false when it has ended.
    pub(super) fn send(&self, of: Option<&InstanceKey>, request: Request) -> bool {
        self.requests.send((of.cloned(), request)).is_ok()
    }

    /// To send without keeping it.
    pub(super) fn weak(&self) -> mpsc::WeakUnboundedSender<Addressed> {
        self.requests.downgrade()
    }
}

/// The ways to all of them.
#[derive(Default)]
pub(super) struct Handles(Mutex<BTreeMap<InstanceKey, Handle>>);

impl Handles {
    fn map(&self) -> MutexGuard<'_, BTreeMap<InstanceKey, Handle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way to the actor of an instance.
    pub(super) fn get(&self, key: &InstanceKey) -> Option<Handle> {
        self.map().get(key).cloned()
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Handle> {
        self.map().values().cloned().collect()
    }

    /// The instance whose container has this name.
    pub(super) fn of_container(&self, container: &str) -> Option<(InstanceKey, Handle)> {
        let map = self.map();
        map.iter().find(|(key, _)| key.container() == container).map(|(key, handle)| (key.clone(), handle.clone()))
    }

    /// From here on this actor answers for that instance.
    pub(super) fn put(&self, key: InstanceKey, handle: Handle) {
        self.map().insert(key, handle);
    }

    /// The same, unless another does; then false.
    pub(super) fn put_new(&self, key: InstanceKey, handle: Handle) -> bool {
        let mut map = self.map();
        // One that has ended answers for nobody.
        if map.get(&key).is_some_and(|other| !other.requests.is_closed()) {
            return false;
        }
        map.insert(key, handle);
        true
    }

    /// This actor does not answer for that instance any more. Another that does by now, for an instance of the same name, stays.
    pub(super) fn remove(&self, key: &InstanceKey, handle: &Handle) {
        let mut map = self.map();
        if map.get(key).is_some_and(|found| found.requests.same_channel(&handle.requests)) {
            map.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle() -> (Handle, mpsc::UnboundedReceiver<Addressed>) {
        let (requests, queue) = mpsc::unbounded_channel();
        (Handle::new(requests, watch::channel(Snapshot::STOPPED).1), queue)
    }

    #[test]
    fn only_ones_own_way_is_taken_away() {
        let handles = Handles::default();
        let key = InstanceKey { project: Default::default(), name: "a".parse().unwrap() };
        let ((old, old_queue), (new, _queue)) = (handle(), handle());
        assert!(handles.put_new(key.clone(), old.clone()));
        assert!(!handles.put_new(key.clone(), new.clone()));
        handles.put(key.clone(), new.clone());
        handles.remove(&key, &old);
        assert!(handles.get(&key).is_some_and(|found| found.requests.same_channel(&new.requests)));
        handles.remove(&key, &new);
        assert!(handles.get(&key).is_none());
        // One whose actor has ended is in nobody's way.
        handles.put(key.clone(), old);
        drop(old_queue);
        assert!(handles.put_new(key, new));
    }
}
