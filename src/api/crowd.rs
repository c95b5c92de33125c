//! Who may connect over HTTPS, and how much of it one address may take: others find room whatever it does.
//!
//! ```text
//!   accepted ── newcomer: a quarter of all ──> speaks ──> turn: TURNS at a time ──> handshake, on a thread of its own
//!                                                                                       │
//!                                  trusted: bounded as all are <────────────────────────┤
//!                                  stranger: a quarter of all, all of them three <──────┘
//! ```
//! The bounds are those of an address (of IPv6: its first 64 bits), but where it says "all of them".
//! What is beyond a bound is closed without a word; TLS has none for it that costs nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use crate::auth::password::client_of;

/// So many connections of an address are in their handshake at a time.
const TURNS: usize = 256;

/// What a connection counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nobody knows yet who it is.
    Newcomer,
    /// The client was not trusted when it connected.
    Stranger,
}

struct Held {
    newcomers: usize,
    strangers: usize,
    turns: Arc<Semaphore>,
}

impl Default for Held {
    fn default() -> Self {
        Self { newcomers: 0, strangers: 0, turns: Arc::new(Semaphore::new(TURNS)) }
    }
}

impl Held {
    fn count(&mut self, standing: Standing) -> &mut usize {
        match standing {
            Standing::Newcomer => &mut self.newcomers,
            Standing::Stranger => &mut self.strangers,
        }
    }
}

#[derive(Default)]
struct Counts {
    by_client: BTreeMap<IpAddr, Held>,
    strangers: usize,
}

/// The connections that stand.
pub(super) struct Crowd {
    counts: Mutex<Counts>,
    /// An address has at most so many of a standing.
    each: usize,
    /// All strangers together are at most so many.
    strangers: usize,
}

/// A place that a connection has, until this is dropped.
pub(super) struct Place {
    crowd: Arc<Crowd>,
    client: IpAddr,
    standing: Standing,
}

impl Crowd {
    /// Of a server that has this many places in all.
    pub(super) fn new(places: usize) -> Arc<Self> {
        let quarter = (places / 4).max(1);
        Arc::new(Self { counts: Mutex::default(), each: quarter, strangers: quarter * 3 })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from `address`, if there is one.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr, standing: Standing) -> Option<Place> {
        let client = client_of(address);
        let mut counts = self.counts();
        let is_full = standing == Standing::Stranger && counts.strangers >= self.strangers;
        let count = counts.by_client.entry(client).or_default().count(standing);
        if *count >= self.each || is_full {
            counts.tidy(client);
            return None;
        }
        *count += 1;
        counts.strangers += usize::from(standing == Standing::Stranger);
        Some(Place { crowd: Arc::clone(self), client, standing })
    }
}

impl Counts {
    /// Forgets a client that has nothing.
    fn tidy(&mut self, client: IpAddr) {
        if self.by_client.get(&client).is_some_and(|held| held.newcomers == 0 && held.strangers == 0) {
            self.by_client.remove(&client);
        }
    }
}

impl Place {
    /// The turns of this client's handshakes.
    pub(super) fn turns(&self) -> Arc<Semaphore> {
        self.crowd.counts().by_client.entry(self.client).or_default().turns.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.crowd.counts();
        if let Some(held) = counts.by_client.get_mut(&self.client) {
            let count = held.count(self.standing);
            *count = count.saturating_sub(1);
        }
        if self.standing == Standing::Stranger {
            counts.strangers = counts.strangers.saturating_sub(1);
        }
        counts.tidy(self.client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_share_and_others_find_room() {
        let crowd = Crowd::new(400);
        let one = address("192.0.2.1");
        let mut places: Vec<Place> = (0..100).map(|_| crowd.admit(one, Standing::Stranger).unwrap()).collect();
        assert!(crowd.admit(one, Standing::Stranger).is_none());
        assert!(crowd.admit(address("::ffff:192.0.2.1"), Standing::Stranger).is_none(), "the same one");
        assert!(crowd.admit(address("192.0.2.2"), Standing::Stranger).is_some());
        assert!(crowd.admit(one, Standing::Newcomer).is_some(), "who it is, is known only later");
        places.pop();
        assert!(crowd.admit(one, Standing::Stranger).is_some());
        drop(places);
        assert!(crowd.counts().by_client.is_empty(), "nothing is kept of those that have gone");
        assert_eq!(crowd.counts().strangers, 0);
    }

    #[test]
    fn strangers_from_everywhere_leave_room_for_the_trusted() {
        let crowd = Crowd::new(8);
        let all: Vec<Option<Place>> =
            (0..8).map(|last| crowd.admit(IpAddr::from([192, 0, 2, last]), Standing::Stranger)).collect();
        assert_eq!(all.iter().flatten().count(), 6);
        assert_eq!(crowd.counts().by_client.len(), 6);
        assert!(crowd.admit(address("198.51.100.1"), Standing::Newcomer).is_some());
    }

    #[test]
    fn handshakes_of_an_address_take_turns() {
        let crowd = Crowd::new(4096);
        let (one, other) = (address("2001:db8::1"), address("2001:db8::2"));
        let place = crowd.admit(one, Standing::Newcomer).unwrap();
        let turns = place.turns();
        let _all = turns.clone().try_acquire_many_owned(u32::try_from(TURNS).unwrap()).unwrap();
        let same = crowd.admit(other, Standing::Newcomer).unwrap();
        assert!(same.turns().try_acquire().is_err(), "hosts choose the last 64 bits");
        let far = crowd.admit(address("2001:db8:0:1::1"), Standing::Newcomer).unwrap();
        assert!(far.turns().try_acquire().is_ok());
    }
}
