//! The trust store: which fingerprints are trusted now.

use std::collections::BTreeSet;

use arc_swap::ArcSwap;

use super::ClientCertificate;
use crate::db::Model;
use crate::names::Fingerprint;

/// Trusted fingerprints, read without a lock.
#[derive(Debug, Default)]
pub struct TrustStore {
    trusted: ArcSwap<BTreeSet<Fingerprint>>,
}

impl TrustStore {
    /// Takes over what the model says.
    pub fn refresh(&self, model: &Model) {
        let clients = model.certificates.values().filter(|certificate| certificate.kind == "client");
        self.trusted.store(clients.map(|certificate| certificate.fingerprint.clone()).collect::<BTreeSet<_>>().into());
    }

    /// Whether a certificate, of which the client has the key, is trusted at `now` (seconds since 1970).
    pub fn is_trusted(&self, certificate: &ClientCertificate, now: i64) -> bool {
        (certificate.not_before..=certificate.not_after).contains(&now)
            && self.trusted.load().contains(&certificate.fingerprint)
    }
}
