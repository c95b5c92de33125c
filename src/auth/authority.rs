//! PKI mode: the authority in `server.ca`, and what it revoked, in `ca.crl`.
//!
//! Both lie below the state directory, as LXD has them, and are read again when they change. What cannot be read leaves
//! what was read before: a typing mistake neither trusts nor locks out anybody.

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

use super::{ClientCertificate, Error};

/// What tells one state of a file from another: inode, length, time of change in nanoseconds. `None`: it is not there.
type Stamp = Option<(u64, u64, i64, i64)>;

fn stamp(path: &Path) -> Stamp {
    let found = path.metadata().ok()?;
    Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
}

/// What was read of the files.
#[derive(Clone)]
struct Known {
    verifier: Arc<dyn ClientCertVerifier>,
    /// Issuer and serial number of each revoked certificate, in DER.
    revoked: Arc<BTreeSet<(Vec<u8>, Vec<u8>)>>,
}

#[derive(Default)]
struct State {
    stamps: (Stamp, Stamp),
    known: Option<Known>,
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
            match self.read(stamps) {
                Ok(known) => state.known = known,
                Err(error) => tracing::error!(%error, "what was read before holds on"),
            }
        }
        state.known.clone()
    }

    fn read(&self, (authority, revocations): (Stamp, Stamp)) -> Result<Option<Known>, Error> {
        if authority.is_none() {
            return Ok(None);
        }
        let failed = |path: &Path, reason: String| Error::Authority { path: path.to_owned(), reason };
        let mut roots = RootCertStore::empty();
        let wrong = |reason: String| failed(&self.certificate, reason);
        for certificate in CertificateDer::pem_file_iter(&self.certificate).map_err(|e| wrong(e.to_string()))? {
            let certificate = certificate.map_err(|e| wrong(e.to_string()))?;
            roots.add(certificate).map_err(|e| wrong(e.to_string()))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()))
            .build()
            .map_err(|e| wrong(e.to_string()))?;
        let mut revoked = BTreeSet::new();
        let mut lists_read = 0;
        if revocations.is_some() {
            let wrong = |reason: String| failed(&self.revocations, reason);
            let lists = CertificateRevocationListDer::pem_file_iter(&self.revocations);
            for list in lists.map_err(|e| wrong(e.to_string()))? {
                let list = list.map_err(|e| wrong(e.to_string()))?;
                let (_, list) = x509_parser::parse_x509_crl(&list).map_err(|e| wrong(e.to_string()))?;
                lists_read += 1;
                let issuer = list.tbs_cert_list.issuer.as_raw();
                revoked
                    .extend(list.iter_revoked_certificates().map(|one| (issuer.to_vec(), one.raw_serial().to_vec())));
            }
            if lists_read == 0 {
                return Err(wrong("it holds no list of revoked certificates in PEM".to_owned()));
            }
        }
        Ok(Some(Known { verifier, revoked: Arc::new(revoked) }))
    }

    /// Whether the authority has signed this certificate, itself or by others that came along, and it is valid now.
    pub fn vouches_for(&self, certificate: &ClientCertificate) -> bool {
        let Some((first, rest)) = certificate.chain.split_first() else { return false };
        let Some(known) = self.known() else { return false };
        known.verifier.verify_client_cert(first, rest, UnixTime::now()).is_ok()
    }

    /// Whether the authority has revoked this certificate.
    pub fn revokes(&self, certificate: &ClientCertificate) -> bool {
        let Some(known) = self.known().filter(|known| !known.revoked.is_empty()) else { return false };
        let of = |der: &CertificateDer<'_>| {
            let (_, parsed) = x509_parser::parse_x509_certificate(der).ok()?;
            Some((parsed.issuer().as_raw().to_vec(), parsed.raw_serial().to_vec()))
        };
        // One of those that stand between it and the authority counts as well.
        certificate.chain.iter().filter_map(of).any(|one| known.revoked.contains(&one))
    }
}
