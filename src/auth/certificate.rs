//! Certificates: the server's own, and those of clients.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Error;
use crate::names::Fingerprint;

/// The SHA-256 of a certificate's DER form.
fn fingerprint_of(der: &[u8]) -> Result<Fingerprint, Error> {
    Fingerprint::new(hex::encode(ring::digest::digest(&ring::digest::SHA256, der)))
        .map_err(|e| Error::NoCertificate { reason: e.to_string() })
}

fn pem_of(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// A client's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// PEM.
    pub pem: String,
    /// Itself in DER, and those that came along with it.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its SHA-256.
    pub fingerprint: Fingerprint,
    /// The name that its subject has, if any.
    pub common_name: Option<String>,
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970.
    pub not_after: i64,
}

impl ClientCertificate {
    /// Reads the DER form.
    ///
    /// # Errors
    /// [`Error::NoCertificate`].
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        let (rest, parsed) =
            x509_parser::parse_x509_certificate(der).map_err(|e| Error::NoCertificate { reason: e.to_string() })?;
        if !rest.is_empty() {
            return Err(Error::NoCertificate { reason: "something follows it".to_owned() });
        }
        Ok(Self {
            pem: pem_of(der),
            chain: vec![CertificateDer::from(der.to_vec())],
            fingerprint: fingerprint_of(der)?,
            common_name: parsed
                .subject()
                .iter_common_name()
                .find_map(|name| name.as_str().ok())
                .filter(|name| !name.is_empty() && !name.contains(char::is_control))
                .map(str::to_owned),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
        })
    }

    /// Reads the first of those that a client shows; the others lead from it to an authority.
    ///
    /// # Errors
    /// [`Error::NoCertificate`].
    pub fn of_chain(chain: &[CertificateDer<'_>]) -> Result<Self, Error> {
        let (first, rest) =
            chain.split_first().ok_or_else(|| Error::NoCertificate { reason: "there is none".to_owned() })?;
        let mut certificate = Self::from_der(first)?;
        certificate.chain.extend(rest.iter().cloned().map(CertificateDer::into_owned));
        Ok(certificate)
    }

    /// Reads what a request brings: PEM, or base64 of DER.
    ///
    /// # Errors
    /// [`Error::NoCertificate`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |reason: String| Error::NoCertificate { reason };
        if text.contains("-----BEGIN") {
            let der = CertificateDer::from_pem_slice(text.as_bytes()).map_err(|e| wrong(e.to_string()))?;
            return Self::from_der(&der);
        }
        let plain: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        Self::from_der(&STANDARD.decode(plain).map_err(|e| wrong(e.to_string()))?)
    }
}

/// The server's own certificate and key.
pub struct ServerCertificate {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    /// PEM.
    pub pem: String,
    /// Its SHA-256.
    pub fingerprint: Fingerprint,
}

impl ServerCertificate {
    /// Reads `server.crt` and `server.key` in `dir`, or makes them: ECDSA P-384, ten years, self-signed.
    ///
    /// # Errors
    /// When they cannot be used or written.
    pub fn load_or_create(dir: &Path, host_name: &str) -> Result<Self, Error> {
        let (certificate, key) = (dir.join("server.crt"), dir.join("server.key"));
        if !certificate.exists() || !key.exists() {
            let failed = |reason: String| Error::Server { path: certificate.clone(), reason };
            let (new_certificate, new_key) = make(host_name).map_err(|e| failed(e.to_string()))?;
            // The key first: a certificate whose key is missing would be taken for the administrator's mistake.
            write(&key, &new_key, 0o600).map_err(|e| failed(e.to_string()))?;
            write(&certificate, &new_certificate, 0o644).map_err(|e| failed(e.to_string()))?;
        }
        let failed = |path: &Path, reason: String| Error::Server { path: path.to_owned(), reason };
        let chain = CertificateDer::pem_file_iter(&certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|e| failed(&certificate, e.to_string()))?;
        let first = chain.first().ok_or_else(|| failed(&certificate, "it holds no certificate".to_owned()))?;
        let (pem, fingerprint) = (pem_of(first), fingerprint_of(first)?);
        let key = PrivateKeyDer::from_pem_file(&key).map_err(|e| failed(&key, e.to_string()))?;
        Ok(Self { chain, key, pem, fingerprint })
    }
}

fn make(host_name: &str) -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?;
    let names = vec![host_name.to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, format!("root@{host_name}"));
    params.distinguished_name.push(DnType::OrganizationName, "Warren");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - time::Duration::hours(1);
    params.not_after = now + time::Duration::days(3650);
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Writes a whole file or none.
fn write(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    let _ = std::fs::remove_file(&temporary);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_is_made_once_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = ServerCertificate::load_or_create(dir.path(), "host").unwrap();
        let second = ServerCertificate::load_or_create(dir.path(), "host").unwrap();
        assert_eq!(first.fingerprint, second.fingerprint);
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(dir.path().join("server.key")).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
        let parsed = ClientCertificate::parse(&first.pem).unwrap();
        assert_eq!(parsed.fingerprint, first.fingerprint);
        let base64: String = first.pem.lines().filter(|line| !line.starts_with("---")).collect();
        assert_eq!(ClientCertificate::parse(&base64).unwrap(), parsed);
        assert!(ClientCertificate::parse("nonsense").is_err());
    }
}
