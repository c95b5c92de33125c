//! Certificates of X.509 version 1, which `openssl x509 -req` makes unless it is told of extensions, and which webpki refuses.
//!
//! They say nothing of what they are for, so one only ever stands at the end: signed by the authority itself, never by
//! another that came along, and never signing anything.

use rustls::crypto::ring;
use rustls::pki_types::{AlgorithmIdentifier, CertificateDer};
use x509_parser::der_parser::Oid;
use x509_parser::x509::X509Version;

/// Whether a certificate is of version 1.
pub(super) fn is_one(certificate: &CertificateDer<'_>) -> bool {
    let parsed = x509_parser::parse_x509_certificate(certificate);
    parsed.is_ok_and(|(_, certificate)| certificate.version() == X509Version::V1 && certificate.extensions().is_empty())
}

/// Whether a certificate is of version 1, valid now, and signed by the holder of `root`, in one of the ways that TLS may
/// still use.
pub(super) fn is_signed_by(certificate: &CertificateDer<'_>, root: &CertificateDer<'_>) -> bool {
    if !is_one(certificate) {
        return false;
    }
    let parsed = |der| x509_parser::parse_x509_certificate(der).ok().map(|(_, certificate)| certificate);
    let (Some(certificate), Some(root)) = (parsed(certificate), parsed(root)) else { return false };
    // RFC 5280, 4.1.1.2: the algorithm is said twice, and must be the same.
    let says_one_thing = certificate.signature_algorithm == certificate.tbs_certificate.signature;
    if !says_one_thing || certificate.issuer().as_raw() != root.subject().as_raw() {
        return false;
    }
    let message = certificate.tbs_certificate.as_ref();
    let (key, signature) = (&root.public_key().subject_public_key.data, &certificate.signature_value.data);
    certificate.validity().is_valid()
        && ring::default_provider().signature_verification_algorithms.all.iter().any(|algorithm| {
            is_of(&algorithm.signature_alg_id(), &certificate.signature_algorithm.algorithm)
                && is_of(&algorithm.public_key_alg_id(), &root.public_key().algorithm.algorithm)
                && algorithm.verify_signature(key, message, signature).is_ok()
        })
}

/// Whether an algorithm has this object identifier; its parameters (a curve, say) show in the verification.
fn is_of(id: &AlgorithmIdentifier, oid: &Oid<'_>) -> bool {
    // DER of a short OBJECT IDENTIFIER: its tag, its length in one byte, itself.
    matches!(id.as_ref(), [6, length, rest @ ..] if rest.get(..usize::from(*length)) == Some(oid.as_bytes()))
}
