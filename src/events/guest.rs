//! What containers are told about themselves: each only its own.
//!
//! As on the bus, nothing is dropped silently: a subscriber that falls [`QUEUE`] events behind is cut off.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::timestamp;
use crate::names::InstanceKey;

/// Events that a subscriber may lie behind before it is cut off.
const QUEUE: usize = 256;

/// The two kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestKind {
    /// A `user.*` key of its configuration has changed.
    Config,
    /// A device has come, gone or changed.
    Device,
}

impl GuestKind {
    /// Both, which is what `?type=` means when it is absent.
    pub const ALL: [Self; 2] = [Self::Config, Self::Device];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Device => "device",
        }
    }

    /// From the word on the wire.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

struct Subscriber {
    key: InstanceKey,
    kinds: Vec<GuestKind>,
    queue: mpsc::Sender<Arc<str>>,
}

/// The bus of the guest interface.
#[derive(Default)]
pub struct GuestBus {
    subscribers: Mutex<Vec<Subscriber>>,
}

impl GuestBus {
    fn subscribers(&self) -> MutexGuard<'_, Vec<Subscriber>> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a subscription of an instance to its own events of these kinds. It ends when it is cut off, or the instance
    /// goes down.
    pub fn subscribe(&self, key: InstanceKey, kinds: Vec<GuestKind>) -> mpsc::Receiver<Arc<str>> {
        let (queue, events) = mpsc::channel(QUEUE);
        let mut subscribers = self.subscribers();
        // Those who left while nothing happened.
        subscribers.retain(|subscriber| !subscriber.queue.is_closed());
        subscribers.push(Subscriber { key, kinds, queue });
        events
    }

    /// Tells an instance that something happened to it.
    pub fn publish(&self, key: &InstanceKey, kind: GuestKind, metadata: &Value) {
        let mut subscribers = self.subscribers();
        let mut text: Option<Arc<str>> = None;
        subscribers.retain(|subscriber| {
            if subscriber.key != *key || !subscriber.kinds.contains(&kind) {
                return !subscriber.queue.is_closed();
            }
            let text = text.get_or_insert_with(|| {
                json!({"type": kind.as_str(), "timestamp": timestamp(), "metadata": metadata}).to_string().into()
            });
            subscriber.queue.try_send(Arc::clone(text)).is_ok()
        });
    }

    /// Ends the subscriptions of an instance, which goes down or may not ask any more.
    pub fn end(&self, key: &InstanceKey) {
        self.subscribers().retain(|subscriber| subscriber.key != *key);
    }

    /// Ends all.
    pub fn close(&self) {
        self.subscribers().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::InstanceName;

    fn key(name: &str) -> InstanceKey {
        InstanceKey { project: crate::names::ProjectName::default(), name: InstanceName::new(name).unwrap() }
    }

    #[tokio::test]
    async fn each_hears_only_of_itself_and_of_what_it_wants() {
        let bus = GuestBus::default();
        let mut one = bus.subscribe(key("c1"), vec![GuestKind::Config]);
        let mut two = bus.subscribe(key("c2"), GuestKind::ALL.to_vec());
        bus.publish(&key("c1"), GuestKind::Device, &json!(1));
        bus.publish(&key("c1"), GuestKind::Config, &json!(2));
        bus.publish(&key("c2"), GuestKind::Config, &json!(3));
        assert!(one.recv().await.unwrap().contains("\"metadata\":2"));
        assert!(two.recv().await.unwrap().contains("\"metadata\":3"));
        bus.end(&key("c1"));
        assert!(one.recv().await.is_none());
        assert!(two.try_recv().is_err_and(|error| error == mpsc::error::TryRecvError::Empty));
    }

    #[tokio::test]
    async fn one_that_falls_behind_is_cut_off_after_what_it_has() {
        let bus = GuestBus::default();
        let mut slow = bus.subscribe(key("c1"), GuestKind::ALL.to_vec());
        for number in 0..=QUEUE {
            bus.publish(&key("c1"), GuestKind::Config, &json!(number));
        }
        for _ in 0..QUEUE {
            assert!(slow.recv().await.is_some());
        }
        assert!(slow.recv().await.is_none());
    }
}
