//! Who works on a custom volume: one verb at a time, and nobody opens it in the moment in which another one takes its
//! place.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard};

use crate::names::VolumeKey;

/// The locks of one volume.
#[derive(Default)]
struct Lock {
    verbs: Arc<tokio::sync::Mutex<()>>,
    place: Arc<tokio::sync::RwLock<()>>,
}

/// The locks of all volumes that somebody works on.
#[derive(Default)]
pub struct VolumeLocks(Mutex<BTreeMap<VolumeKey, Lock>>);

impl VolumeLocks {
    fn with<T>(&self, key: &VolumeKey, take: impl FnOnce(&Lock) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody has are put away: whoever has or awaits one holds another reference.
        all.retain(|_, lock| Arc::strong_count(&lock.verbs) > 1 || Arc::strong_count(&lock.place) > 1);
        take(all.entry(key.clone()).or_default())
    }

    /// Waits until no other verb works on the volume, and keeps others waiting.
    pub async fn verb(&self, key: &VolumeKey) -> OwnedMutexGuard<()> {
        self.with(key, |lock| Arc::clone(&lock.verbs)).lock_owned().await
    }

    /// The same for two; of which order they are named in, nobody waits for the other for ever.
    pub async fn verbs(&self, one: &VolumeKey, other: &VolumeKey) -> Vec<OwnedMutexGuard<()>> {
        let mut keys = vec![one, other];
        keys.sort();
        keys.dedup();
        let mut guards = Vec::new();
        for key in keys {
            guards.push(self.verb(key).await);
        }
        guards
    }

    /// While it is held, what lies in the volume's place stays there.
    pub async fn opening(&self, key: &VolumeKey) -> OwnedRwLockReadGuard<()> {
        self.with(key, |lock| Arc::clone(&lock.place)).read_owned().await
    }

    /// While it is held, nobody opens what lies in the volume's place, and whoever did can be seen. To be held for a moment.
    pub async fn replacing(&self, key: &VolumeKey) -> OwnedRwLockWriteGuard<()> {
        self.with(key, |lock| Arc::clone(&lock.place)).write_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn locks_are_put_away() {
        let key = |name: &str| VolumeKey {
            pool: "p".parse().unwrap(),
            project: Default::default(),
            name: name.parse().unwrap(),
        };
        let locks = VolumeLocks::default();
        let held = locks.verbs(&key("b"), &key("a")).await;
        assert_eq!(held.len(), 2);
        assert_eq!(locks.verbs(&key("c"), &key("c")).await.len(), 1);
        drop(held);
        drop(locks.opening(&key("d")).await);
        let _e = locks.replacing(&key("e")).await;
        drop(locks.opening(&key("f")).await);
        assert_eq!(locks.0.lock().unwrap().len(), 2, "e, which somebody has, and f, the newest");
    }
}
