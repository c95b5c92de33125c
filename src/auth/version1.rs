//! Certificates of X.509 version 1, which `openssl x509 -req` makes unless it is told of extensions, and which webpki refuses.
//!
//! They say nothing of what they are for, so one only ever stands at the end: signed by the authority itself, never by
//! another that came along, and never signing anything.

use rustls::crypto::ring;
use rustls::pki_types::{AlgorithmIdentifier, CertificateDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::Oid;
use x509_parser::x509::X509Version;

/// What a certificate is that webpki refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It names none of the authority's certificates as its issuer.
    Foreign,
    /// It names one, and is of a later version: webpki knew why.
    Later,
    /// It names one, and is of version 1, but is not signed by it, or not valid now.
    Unsigned,
    /// It is of version 1, valid now, and signed by the authority in one of the ways that TLS may still use.
    Signed,
}

/// Looks at a certificate beside those of the authority.
pub(super) fn judge(certificate: &CertificateDer<'_>, roots: &[CertificateDer<'_>]) -> Judgement {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else { return Judgement::Foreign };
    let parsed = roots.iter().filter_map(|root| x509_parser::parse_x509_certificate(root).ok());
    let issuers = parsed.map(|(_, root)| root).filter(|root| root.subject().as_raw() == certificate.issuer().as_raw());
    let issuers: Vec<_> = issuers.collect();
    let is_first = certificate.version() == X509Version::V1 && certificate.extensions().is_empty();
    // RFC 5280, 4.1.1.2: the algorithm is said twice, and must be the same.
    let says_one_thing = certificate.signature_algorithm == certificate.tbs_certificate.signature;
    match (issuers.is_empty(), is_first) {
        (true, _) => Judgement::Foreign,
        (false, false) => Judgement::Later,
        (false, true) => {
            let valid = says_one_thing && certificate.validity().is_valid();
            let signed = valid && issuers.iter().any(|root| is_signed_by(&certificate, root));
            if signed { Judgement::Signed } else { Judgement::Unsigned }
        }
    }
}

fn is_signed_by(certificate: &X509Certificate<'_>, root: &X509Certificate<'_>) -> bool {
    let message = certificate.tbs_certificate.as_ref();
    let (key, signature) = (&root.public_key().subject_public_key.data, &certificate.signature_value.data);
    ring::default_provider().signature_verification_algorithms.all.iter().any(|algorithm| {
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
