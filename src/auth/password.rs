//! The trust password: kept as a slow salted hash, tried a bounded number of times.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::pbkdf2;

use super::Error;

/// PBKDF2-HMAC-SHA-512 with this many rounds takes some 0.1 s (OWASP's figure of 2023: 210,000).
const ROUNDS: u32 = 210_000;
const ALGORITHM: pbkdf2::Algorithm = pbkdf2::PBKDF2_HMAC_SHA512;
const SCHEME: &str = "pbkdf2-sha512";

/// Hashes a password. Blocking, slow on purpose.
///
/// # Errors
/// [`Error::Random`].
pub fn hash(password: &str) -> Result<String, Error> {
    let salt: [u8; 16] = ring::rand::generate(&ring::rand::SystemRandom::new()).map_err(|_| Error::Random)?.expose();
    let mut hash = [0; 64];
    pbkdf2::derive(
        ALGORITHM,
        NonZeroU32::new(ROUNDS).unwrap_or(NonZeroU32::MIN),
        &salt,
        password.as_bytes(),
        &mut hash,
    );
    Ok(format!("{SCHEME}${ROUNDS}${}${}", hex::encode(salt), hex::encode(hash)))
}

/// Whether `password` is the hashed one. Blocking, slow on purpose, in constant time.
pub fn verify(password: &str, stored: &str) -> bool {
    let mut fields = stored.split('$');
    let (Some(SCHEME), Some(rounds), Some(salt), Some(hash)) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return false;
    };
    let (Ok(rounds), Ok(salt), Ok(hash)) = (rounds.parse(), hex::decode(salt), hex::decode(hash)) else { return false };
    pbkdf2::verify(ALGORITHM, rounds, &salt, password.as_bytes(), &hash).is_ok()
}

/// At most so many addresses are remembered.
const REMEMBERED: usize = 4096;
/// An address may be wrong so often…
const TRIES: u32 = 5;
/// …in this time.
const WINDOW: Duration = Duration::from_secs(60);

/// Counts wrong passwords per address.
#[derive(Debug, Default)]
pub struct RateLimiter {
    failures: Mutex<BTreeMap<IpAddr, (u32, Instant)>>,
    turn: tokio::sync::Mutex<()>,
}

impl RateLimiter {
    /// Waits for the turn to look at a password.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Whether this address may try now. The try counts as a wrong one until [`Self::succeeded`] says otherwise: many at
    /// once are not more than one after the other.
    pub fn may_try(&self, address: IpAddr) -> bool {
        let client = client_of(address);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|_, (_, since)| since.elapsed() <= WINDOW);
        if failures.len() >= REMEMBERED && !failures.contains_key(&client) {
            // Flooded: the oldest go, so that memory stays bounded.
            if let Some(oldest) = failures.iter().min_by_key(|(_, (_, since))| *since).map(|(address, _)| *address) {
                failures.remove(&oldest);
            }
        }
        let (count, _) = failures.entry(client).or_insert((0, Instant::now()));
        let may = *count < TRIES;
        *count = count.saturating_add(u32::from(may));
        may
    }

    /// This address was right: its try does not count.
    pub fn succeeded(&self, address: IpAddr) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((count, _)) = failures.get_mut(&client_of(address)) {
            *count = count.saturating_sub(1);
        }
    }
}

/// What counts as one client: an IPv4 address, or the 64 bits of an IPv6 address that a host does not choose itself.
pub fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_password_verifies() {
        let stored = hash("sesame").unwrap();
        assert!(verify("sesame", &stored));
        assert!(!verify("Sesame", &stored));
        assert!(!verify("sesame", "nonsense") && !verify("", ""));
        assert_ne!(stored, hash("sesame").unwrap(), "salted");
    }

    #[test]
    fn an_address_is_stopped_after_some_tries() {
        let limiter = RateLimiter::default();
        for (address, same, other) in [
            ("127.0.0.1", "::ffff:127.0.0.1", "127.0.0.2"),
            ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"),
            ("::ffff:10.0.0.1", "10.0.0.1", "::ffff:10.0.0.2"),
        ] {
            let [address, same, other] = [address, same, other].map(|text| text.parse::<IpAddr>().unwrap());
            for _ in 0..TRIES {
                assert!(limiter.may_try(address));
            }
            assert!(!limiter.may_try(address) && !limiter.may_try(same), "{address}");
            assert!(limiter.may_try(other), "{other}");
        }
    }

    #[test]
    fn the_right_password_does_not_count() {
        let limiter = RateLimiter::default();
        let address = IpAddr::from([127, 0, 0, 1]);
        for _ in 0..3 * TRIES {
            assert!(limiter.may_try(address));
            limiter.succeeded(address);
        }
    }
}
