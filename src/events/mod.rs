//! The event bus: what happens is published once, as ready-made JSON, to every subscriber whose filter lets it pass.
//!
//! Nothing is dropped silently: each subscriber has its own queue; one that falls [`QUEUE`] events behind is cut off
//! (its stream ends), because a gap that nobody sees is worse than a connection to open again.

mod guest;
pub mod lifecycle;
mod logging;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::api::wire;
use crate::names::{ProjectName, Projects};

pub use guest::{GuestBus, GuestKind};
pub use logging::{Log, LogLevel};

/// Events that a subscriber may lie behind before it is cut off.
pub const QUEUE: usize = 8192;

/// The three kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A change of an operation.
    Operation,
    /// Something happened to an object.
    Lifecycle,
    /// A line of the daemon's log.
    Logging,
}

impl Kind {
    /// All kinds, which is what `?type=` means when it is absent.
    pub const ALL: [Self; 3] = [Self::Operation, Self::Lifecycle, Self::Logging];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operation => "operation",
            Self::Lifecycle => "lifecycle",
            Self::Logging => "logging",
        }
    }

    /// From the word on the wire.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// What a subscriber wants to see.
#[derive(Debug, Clone)]
pub struct Filter {
    /// These kinds.
    pub kinds: Vec<Kind>,
    /// Only the operations and lifecycle of these projects. Log lines belong to no project.
    pub projects: Projects,
    /// Whether also what concerns the whole server: its log, its pools, whom it trusts.
    pub of_server: bool,
}

/// What an event concerns.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// The project that it is told in, if in any.
    pub project: Option<&'a ProjectName>,
    /// Whether it concerns the whole server, and is not for those who see only some projects.
    pub of_server: bool,
}

impl<'a> From<&'a ProjectName> for About<'a> {
    fn from(project: &'a ProjectName) -> Self {
        Self { project: Some(project), of_server: false }
    }
}

impl About<'_> {
    /// The server, and no project.
    pub const SERVER: Self = Self { project: None, of_server: true };
}

impl Filter {
    fn passes(&self, kind: Kind, about: About<'_>) -> bool {
        self.kinds.contains(&kind)
            && (self.of_server || !about.of_server)
            && about.project.is_none_or(|project| self.projects.holds(project))
    }
}

struct Subscriber {
    filter: Filter,
    queue: mpsc::Sender<Arc<str>>,
}

/// The bus. Clones share it.
#[derive(Clone, Default)]
pub struct Bus {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    subscribers: Mutex<Vec<Subscriber>>,
    log_listeners: AtomicUsize,
}

impl Bus {
    fn subscribers(&self) -> MutexGuard<'_, Vec<Subscriber>> {
        self.shared.subscribers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Opens a subscription: events as JSON text. It ends when too many are not taken, or with the daemon; dropping the
    /// receiver ends it, too.
    pub fn subscribe(&self, filter: Filter) -> mpsc::Receiver<Arc<str>> {
        let (sender, queue) = mpsc::channel(QUEUE);
        let mut subscribers = self.subscribers();
        subscribers.push(Subscriber { filter, queue: sender });
        self.count_log_listeners(&subscribers);
        queue
    }

    /// Whether anybody listens to log lines; asked before one is rendered.
    pub fn logging_wanted(&self) -> bool {
        self.shared.log_listeners.load(Ordering::Relaxed) > 0
    }

    /// Publishes an event of now.
    pub fn publish(&self, kind: Kind, about: About<'_>, metadata: Value) {
        let mut subscribers = self.subscribers();
        if !subscribers.iter().any(|s| s.filter.passes(kind, about)) {
            return;
        }
        let event = wire::Event {
            kind: kind.as_str().to_owned(),
            timestamp: timestamp(),
            metadata,
            location: "none".to_owned(),
            project: about.project.map(ToString::to_string).unwrap_or_default(),
        };
        let Ok(text) = serde_json::to_string(&event) else { return };
        let text: Arc<str> = text.into();
        let before = subscribers.len();
        subscribers.retain(|s| {
            if !s.filter.passes(kind, about) {
                return !s.queue.is_closed();
            }
            match s.queue.try_send(Arc::clone(&text)) {
                Ok(()) => true,
                Err(TrySendError::Full(_) | TrySendError::Closed(_)) => false,
            }
        });
        if subscribers.len() != before {
            self.count_log_listeners(&subscribers);
        }
    }

    /// Ends all subscriptions, at shutdown.
    pub fn close(&self) {
        self.subscribers().clear();
    }

    fn count_log_listeners(&self, subscribers: &[Subscriber]) {
        let count = subscribers.iter().filter(|s| s.filter.kinds.contains(&Kind::Logging)).count();
        self.shared.log_listeners.store(count, Ordering::Relaxed);
    }
}

/// Now in RFC 3339 with nanoseconds, UTC.
pub fn timestamp() -> String {
    time::OffsetDateTime::now_utc()
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_else(|_| wire::NEVER.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(kinds: &[Kind], project: Option<&str>) -> Filter {
        let projects = project.map_or(Projects::All, |name| ProjectName::new(name).unwrap().into());
        Filter { kinds: kinds.to_vec(), projects, of_server: true }
    }

    #[tokio::test]
    async fn a_filter_lets_pass_what_it_names() {
        let bus = Bus::default();
        let mut all = bus.subscribe(filter(&Kind::ALL, None));
        let mut operations = bus.subscribe(filter(&[Kind::Operation], Some("default")));
        bus.publish(Kind::Lifecycle, (&ProjectName::default()).into(), Value::from(1));
        bus.publish(Kind::Operation, (&ProjectName::new("other").unwrap()).into(), Value::from(2));
        bus.publish(Kind::Operation, (&ProjectName::default()).into(), Value::from(3));
        assert!(operations.recv().await.unwrap().contains("\"metadata\":3"));
        for number in 1..=3 {
            assert!(all.recv().await.unwrap().contains(&format!("\"metadata\":{number}")));
        }
    }

    #[tokio::test]
    async fn what_concerns_the_server_is_not_for_those_who_see_a_project() {
        let (bus, default) = (Bus::default(), ProjectName::default());
        let mut limited = bus.subscribe(Filter { of_server: false, ..filter(&Kind::ALL, Some("default")) });
        bus.publish(Kind::Logging, About::SERVER, Value::from(1));
        bus.publish(Kind::Operation, About { project: Some(&default), of_server: true }, Value::from(2));
        for (source, wanted) in [
            ("/1.0", false),
            ("/1.0/certificates/ab", false),
            ("/1.0/storage-pools/p", false),
            ("/1.0/projects/other", false),
            ("/1.0/warnings/x", false),
            ("/1.0/storage-pools/p/volumes/custom/v", true),
            ("/1.0/profiles/x", true),
            ("/1.0/instances/x", true),
        ] {
            let (source, context) = (source.to_owned(), serde_json::Map::new());
            bus.lifecycle(lifecycle::Lifecycle { action: "x", source, project: &default, context, requestor: None });
            assert_eq!(limited.try_recv().is_ok(), wanted);
        }
    }

    #[tokio::test]
    async fn a_subscriber_that_falls_behind_is_cut_off_after_what_it_has() {
        let bus = Bus::default();
        let mut slow = bus.subscribe(filter(&[Kind::Operation], None));
        for number in 0..=QUEUE {
            bus.publish(Kind::Operation, About::SERVER, Value::from(number));
        }
        for _ in 0..QUEUE {
            assert!(slow.recv().await.is_some());
        }
        assert!(slow.recv().await.is_none());
        assert!(bus.subscribers().is_empty());
    }

    #[test]
    fn log_lines_are_rendered_only_when_wanted() {
        let bus = Bus::default();
        assert!(!bus.logging_wanted());
        let subscription = bus.subscribe(filter(&[Kind::Logging], None));
        assert!(bus.logging_wanted());
        drop(subscription);
        bus.publish(Kind::Logging, About::SERVER, Value::Null);
        assert!(!bus.logging_wanted());
    }
}
