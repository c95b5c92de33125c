//! One download of an image for everybody who waits for it. It ends when nobody waits any more; what is whole is kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::error::Error;
use crate::fetch::Resumed;
use crate::names::{Fingerprint, ProjectName};

/// How often those who wait are told how far it is.
const TOLD: Duration = Duration::from_millis(500);

/// How far a download is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Of which file; empty: of the only one.
    part: &'static str,
    /// Bytes that are here.
    done: u64,
    /// Bytes in all, if that is known.
    total: Option<u64>,
    /// Bytes per second.
    speed: u64,
    /// It broke off, and does not go well again yet.
    resumed: Option<Resumed>,
}

impl Progress {
    /// As an operation's metadata tells it.
    pub fn to_metadata(&self) -> Map<String, Value> {
        let speed = size(self.speed);
        let percent = self.total.filter(|total| *total > 0).map(|total| self.done.min(total) * 100 / total);
        let far = percent.map_or_else(|| size(self.done), |percent| format!("{percent}%"));
        let part = if self.part.is_empty() { String::new() } else { format!("{}: ", self.part) };
        let mut progress = json!({"stage": "download", "speed": self.speed.to_string()});
        let (key, value) = match percent {
            Some(percent) => ("percent", percent),
            None => ("processed", self.done),
        };
        progress[key] = value.to_string().into();
        let mut text = format!("{part}{far} ({speed}/s)");
        if let Some(Resumed { number, of, reason }) = &self.resumed {
            text.push_str(&format!(", further try {number} of {of}: {reason}"));
            progress["retry"] = number.to_string().into();
            progress["retries"] = of.to_string().into();
            progress["reason"] = reason.clone().into();
        }
        Map::from_iter([("download_progress".to_owned(), text.into()), ("progress".to_owned(), progress)])
    }
}

/// Bytes for people, in powers of a thousand.
fn size(bytes: u64) -> String {
    let (mut value, mut left) = (bytes as f64, ["kB", "MB", "GB", "TB"].iter());
    let mut unit = "B";
    while value >= 1000.0 {
        let Some(next) = left.next() else { break };
        (value, unit) = (value / 1000.0, next);
    }
    if unit == "B" { format!("{bytes}B") } else { format!("{value:.2}{unit}") }
}

/// Measures a download and tells of it now and then.
pub(super) struct Meter {
    sender: watch::Sender<Progress>,
    state: Mutex<(&'static str, Instant, Option<Instant>)>,
}

impl Meter {
    pub(super) fn told(&self, part: &'static str, done: u64, total: Option<u64>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if state.0 != part || done == 0 {
            *state = (part, now, None);
        }
        let resumed = self.sender.borrow().resumed.clone();
        let is_end = total == Some(done);
        if !is_end && state.2.is_some_and(|last| now.duration_since(last) < TOLD) {
            return;
        }
        state.2 = Some(now);
        let millis = u64::try_from(now.duration_since(state.1).as_millis()).unwrap_or(u64::MAX).max(1);
        let speed = done.saturating_mul(1000) / millis;
        self.sender.send_replace(Progress { part, done, total, speed, resumed });
    }

    /// That a download is gone on with, or goes well again.
    pub(super) fn resumed(&self, resumed: Option<Resumed>) {
        self.sender.send_if_modified(|progress| {
            let is_new = progress.resumed != resumed;
            progress.resumed = resumed;
            is_new
        });
    }
}

type Outcome = Option<Result<(), Arc<Error>>>;

/// A download under way.
pub(super) struct Flight {
    progress: watch::Receiver<Progress>,
    outcome: watch::Receiver<Outcome>,
    task: AbortHandle,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Flight {
    /// Waits for the end.
    ///
    /// # Errors
    /// Of the download.
    pub(super) async fn wait(&self, told: &(dyn Fn(&Progress) + Send + Sync)) -> Result<(), Error> {
        let (mut progress, mut outcome) = (self.progress.clone(), self.outcome.clone());
        loop {
            let over = outcome.borrow_and_update().clone();
            if let Some(result) = over {
                return result.map_err(Error::Shared);
            }
            let changed = tokio::select! {
                biased;
                changed = outcome.changed() => changed,
                changed = progress.changed() => match changed {
                    Ok(()) => {
                        told(&progress.borrow_and_update());
                        Ok(())
                    }
                    // Over: the outcome comes next.
                    Err(_) => outcome.changed().await,
                },
            };
            if changed.is_err() {
                return Err(Error::Ended);
            }
        }
    }

    fn is_over(&self) -> bool {
        self.outcome.borrow().is_some() || self.task.is_finished()
    }
}

/// All downloads under way.
#[derive(Default)]
pub(super) struct Flights(Mutex<BTreeMap<(ProjectName, Fingerprint), Weak<Flight>>>);

impl Flights {
    /// Joins the download of an image, or begins it. `run` is told by whom to be measured.
    pub(super) fn join<Fut>(&self, key: (ProjectName, Fingerprint), run: impl FnOnce(Arc<Meter>) -> Fut) -> Arc<Flight>
    where
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.strong_count() > 0);
        // The same image for another project is the same download.
        let mut same = flights.iter().filter(|((_, fingerprint), _)| *fingerprint == key.1);
        if let Some(flight) = same.find_map(|(_, flight)| flight.upgrade().filter(|flight| !flight.is_over())) {
            return flight;
        }
        let (sender, progress) = watch::channel(Progress::default());
        let (ended, outcome) = watch::channel(None);
        let meter = Arc::new(Meter { sender, state: Mutex::new(("", Instant::now(), None)) });
        let running = run(meter);
        let task = tokio::spawn(async move {
            let result = running.await.map_err(Arc::new);
            ended.send_replace(Some(result));
        });
        let flight = Arc::new(Flight { progress, outcome, task: task.abort_handle() });
        flights.insert(key, Arc::downgrade(&flight));
        flight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_as_clients_read_it() {
        let mut progress = Progress { part: "rootfs", done: 420, total: Some(1000), speed: 3_100_000, resumed: None };
        let told = progress.to_metadata();
        assert_eq!(told["download_progress"], "rootfs: 42% (3.10MB/s)");
        assert_eq!(told["progress"], json!({"stage": "download", "percent": "42", "speed": "3100000"}));
        progress.resumed = Some(Resumed { number: 1, of: 5, reason: "a was silent for 30 s".to_owned() });
        let told = progress.to_metadata();
        assert_eq!(told["download_progress"], "rootfs: 42% (3.10MB/s), further try 1 of 5: a was silent for 30 s");
        assert_eq!((&told["progress"]["retry"], &told["progress"]["retries"]), (&json!("1"), &json!("5")));
        let told = Progress { part: "", done: 1500, total: None, speed: 9, resumed: None }.to_metadata();
        assert_eq!(told["download_progress"], "1.50kB (9B/s)");
        assert_eq!(told["progress"]["processed"], "1500");
    }

    fn key() -> (ProjectName, Fingerprint) {
        (ProjectName::default(), Fingerprint::new("a".repeat(64)).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn many_wait_for_one() {
        let (flights, runs) = (Flights::default(), Arc::new(Mutex::new(0)));
        let join = || {
            let runs = Arc::clone(&runs);
            flights.join(key(), |_| async move {
                *runs.lock().unwrap() += 1;
                tokio::time::sleep(Duration::from_secs(1)).await;
                Err(Error::NotFound)
            })
        };
        let (one, two) = (join(), join());
        let other = flights.join((ProjectName::new("p").unwrap(), key().1), |_| async { Ok(()) });
        let results = tokio::join!(one.wait(&|_| ()), two.wait(&|_| ()), other.wait(&|_| ()));
        assert!(results.0.is_err() && results.1.is_err() && results.2.is_err());
        assert_eq!(*runs.lock().unwrap(), 1);
        // Who comes after a failure tries again.
        assert!(join().wait(&|_| ()).await.is_err());
        assert_eq!(*runs.lock().unwrap(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_nobody_waits() {
        let flights = Flights::default();
        let (alive, mut gone) = tokio::sync::oneshot::channel::<()>();
        let one = flights.join(key(), |_| async move {
            let _alive = alive;
            std::future::pending().await
        });
        let two = Arc::clone(&one);
        drop(one);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(gone.try_recv().is_err_and(|error| error == tokio::sync::oneshot::error::TryRecvError::Empty));
        drop(two);
        assert!(gone.await.is_err());
    }
}
