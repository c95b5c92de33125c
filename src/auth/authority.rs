//! PKI mode: the authority in `server.ca`, and what it revoked, in `ca.crl`.
//!
//! Both lie below the state directory, as LXD has them, and are read again when they change. What cannot be read leaves
//! what was read before: a typing mistake neither trusts nor locks out anybody. A list that could not be read from the
//! start is another matter: whom the authority signed is then refused.

use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::version1::{self, Judgement};
use super::{ClientCertificate, Error};
use crate::names::Fingerprint;

/// What tells one state of a file from another: inode, length, time of change in nanoseconds. `None`: it is not there.
type Stamp = Option<(u64, u64, i64, i64)>;

fn stamp(path: &Path) -> Stamp {
    let found = path.metadata().ok()?;
    Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
}

/// Issuer and serial number of each revoked certificate, in DER.
type Revoked = BTreeSet<(Vec<u8>, Vec<u8>)>;

/// Who checks chains against the authority's certificates, and these.
type Roots = (Arc<dyn ClientCertVerifier>, Arc<[CertificateDer<'static>]>);

/// What was read of the files.
#[derive(Clone)]
struct Known {
    verifier: Arc<dyn ClientCertVerifier>,
    /// The certificates of the authority.
    roots: Arc<[CertificateDer<'static>]>,
    /// `None`: the list is there, and could not be read yet. Then all that the authority signed is refused.
    revoked: Option<Arc<Revoked>>,
}

#[derive(Default)]
struct State {
    stamps: (Stamp, Stamp),
    known: Option<Known>,
    /// Certificates of which it was told why they are not trusted, since the files were read.
    strangers: BTreeSet<Fingerprint>,
}

/// Of so many certificates it is told why they are not trusted, until the files change.
const STRANGERS: usize = 100;

fn told(error: Error) {
    tracing::error!(%error, "what was read before holds on");
}

/// The authority, if there is one.
pub struct Authority {
    certificate: PathBuf,
    revocations: PathBuf,
    state: Mutex<State>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Authority {
    /// That of the state directory `dir`. Nothing is read yet.
    pub fn new(dir: &Path) -> Self {
        Self { certificate: dir.join("server.ca"), revocations: dir.join("ca.crl"), state: Mutex::default() }
    }

    fn known(&self) -> Option<Known> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = (stamp(&self.certificate), stamp(&self.revocations));
        if state.stamps != stamps {
            state.stamps = stamps;
            state.strangers.clear();
            match self.read_authority(stamps.0) {
                Ok(None) => state.known = None,
                Ok(Some((verifier, roots))) => {
                    let revoked = self.read_revocations(stamps.1).map(Arc::new).map_err(told).ok();
                    let before = || state.known.as_ref().and_then(|known| known.revoked.clone());
                    state.known = Some(Known { verifier, roots, revoked: revoked.or_else(before) });
                }
                Err(error) => told(error),
            }
        }
        state.known.clone()
    }

    fn read_authority(&self, there: Stamp) -> Result<Option<Roots>, Error> {
        if there.is_none() {
            return Ok(None);
        }
        let wrong = |reason: String| Error::Authority { path: self.certificate.clone(), reason };
        let (mut roots, mut all) = (RootCertStore::empty(), Vec::new());
        for certificate in CertificateDer::pem_file_iter(&self.certificate).map_err(|e| wrong(e.to_string()))? {
            let certificate = certificate.map_err(|e| wrong(e.to_string()))?;
            roots.add(certificate.clone()).map_err(|e| wrong(e.to_string()))?;
            all.push(certificate);
        }
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()))
            .build()
            .map(|verifier| Some((verifier, all.into())))
            .map_err(|e| wrong(e.to_string()))
    }

    fn read_revocations(&self, there: Stamp) -> Result<Revoked, Error> {
        let mut revoked = Revoked::new();
        if there.is_none() {
            return Ok(revoked);
        }
        let wrong = |reason: String| Error::Authority { path: self.revocations.clone(), reason };
        let mut count = 0;
        for list in CertificateRevocationListDer::pem_file_iter(&self.revocations).map_err(|e| wrong(e.to_string()))? {
            let list = list.map_err(|e| wrong(e.to_string()))?;
            let (_, list) = x509_parser::parse_x509_crl(&list).map_err(|e| wrong(e.to_string()))?;
            let issuer = list.tbs_cert_list.issuer.as_raw();
            revoked.extend(list.iter_revoked_certificates().map(|one| (issuer.to_vec(), one.raw_serial().to_vec())));
            count += 1;
        }
        if count == 0 { Err(wrong("it holds no list of revoked certificates in PEM".to_owned())) } else { Ok(revoked) }
    }

    /// Whether the authority has signed this certificate, itself or by others that came along, and it is valid now.
    pub fn vouches_for(&self, certificate: &ClientCertificate) -> bool {
        let Some((first, rest)) = certificate.chain.split_first() else { return false };
        let Some(known) = self.known() else { return false };
        let Err(error) = known.verifier.verify_client_cert(first, rest, UnixTime::now()) else { return true };
        match version1::judge(first, &known.roots) {
            Judgement::Signed => return true,
            Judgement::Unsigned => {
                self.tell(
                    certificate,
                    "it is of version 1, and not signed by the authority itself with an algorithm of TLS",
                );
            }
            Judgement::Later => self.tell(certificate, &error.to_string()),
            Judgement::Foreign => {}
        }
        false
    }

    /// Why a certificate that names the authority is not trusted: once, and not without end, since anybody can make one.
    fn tell(&self, certificate: &ClientCertificate, reason: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.strangers.len() < STRANGERS && state.strangers.insert(certificate.fingerprint.clone()) {
            tracing::warn!(
                certificate = %certificate.fingerprint, reason,
                "a client certificate that names the authority in server.ca is not trusted"
            );
        }
    }

    /// Whether the authority has revoked this certificate.
    pub fn revokes(&self, certificate: &ClientCertificate) -> bool {
        let Some(known) = self.known() else { return false };
        let Some(revoked) = known.revoked else { return self.vouches_for(certificate) };
        if revoked.is_empty() {
            return false;
        }
        let of = |der: &CertificateDer<'_>| {
            let (_, parsed) = x509_parser::parse_x509_certificate(der).ok()?;
            Some((parsed.issuer().as_raw().to_vec(), parsed.raw_serial().to_vec()))
        };
        // One of those that stand between it and the authority counts as well.
        certificate.chain.iter().filter_map(of).any(|one| revoked.contains(&one))
    }
}
