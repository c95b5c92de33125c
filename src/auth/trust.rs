//! The trust store: the certificates of the database.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Authority, ClientCertificate};
use crate::config;
use crate::db::{CertificateKind, Model};
use crate::names::{ProjectName, Projects};

/// How far a caller is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// As root of this host: by the socket's permissions, or the trust store.
    Trusted,
    /// With seeing everything that is not secret and not inside an instance; with changing nothing.
    ReadOnly,
    /// With these projects and what lies in them, and with nothing that belongs to the server.
    Restricted(Arc<BTreeSet<ProjectName>>),
    /// Not at all: sees what is public.
    Untrusted,
}

impl Trust {
    /// Whether the caller sees what belongs to the server, and all projects.
    pub fn sees_all(&self) -> bool {
        matches!(self, Self::Trusted | Self::ReadOnly)
    }

    /// The projects that the caller may see and, unless it only reads, change.
    pub fn projects(&self) -> Projects {
        match self {
            Self::Trusted | Self::ReadOnly => Projects::All,
            Self::Restricted(projects) => Projects::Only((**projects).clone()),
            Self::Untrusted => Projects::Only(BTreeSet::new()),
        }
    }

    /// The same of one project.
    pub fn reaches(&self, project: &ProjectName) -> bool {
        match self {
            Self::Trusted | Self::ReadOnly => true,
            Self::Restricted(projects) => projects.contains(project),
            Self::Untrusted => false,
        }
    }
}

/// How far a certificate, of which the client has the key, is trusted at `now` (seconds since 1970). The model is the
/// trust store itself, not a copy that could lag behind it; what is in it counts in PKI mode, too, unless it was revoked.
pub fn trust_of(model: &Model, authority: &Authority, certificate: &ClientCertificate, now: i64) -> Trust {
    match found(model, authority, certificate, now) {
        (CertificateKind::Metrics, _) => Trust::Untrusted,
        (CertificateKind::Client | CertificateKind::Server, trust) => trust,
    }
}

/// The same with `/1.0/metrics`, which is all that a certificate of type `metrics` opens: it reads there, and nothing else.
pub fn metrics_trust_of(model: &Model, authority: &Authority, certificate: &ClientCertificate, now: i64) -> Trust {
    match found(model, authority, certificate, now) {
        (CertificateKind::Metrics, Trust::Trusted) => Trust::ReadOnly,
        (_, trust) => trust,
    }
}

/// What is known of a certificate: its type, and how far it is trusted with what that opens.
fn found(model: &Model, authority: &Authority, certificate: &ClientCertificate, now: i64) -> (CertificateKind, Trust) {
    let is_valid = (certificate.not_before..=certificate.not_after).contains(&now);
    if !is_valid || authority.revokes(certificate) {
        return (CertificateKind::Client, Trust::Untrusted);
    }
    let by_authority =
        || config::bool_of(&model.config, "core.trust_ca_certificates") && authority.vouches_for(certificate);
    match model.certificates.get(&certificate.fingerprint) {
        None if by_authority() => (CertificateKind::Client, Trust::Trusted),
        None => (CertificateKind::Client, Trust::Untrusted),
        Some(known) if known.restricted => {
            (known.kind, Trust::Restricted(Arc::new(known.projects.iter().cloned().collect())))
        }
        Some(known) => (known.kind, Trust::Trusted),
    }
}
