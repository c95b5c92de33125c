//! The trust store: the certificates of the database.

use super::ClientCertificate;
use crate::db::Model;

/// Whether a certificate, of which the client has the key, is trusted at `now` (seconds since 1970). The model is the
/// trust store itself, not a copy that could lag behind it.
pub fn is_trusted(model: &Model, certificate: &ClientCertificate, now: i64) -> bool {
    (certificate.not_before..=certificate.not_after).contains(&now)
        && model.certificates.get(&certificate.fingerprint).is_some_and(|known| known.kind == "client")
}
