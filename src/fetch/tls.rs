//! Whom to believe: the system's authorities, or one certificate.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::Error;
use super::distrust::Distrust;

/// Whose servers are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Those that the authorities of this system vouch for.
    System,
    /// The one that has this certificate, whatever name and time stand in it; and those that it vouches for.
    Pinned(CertificateDer<'static>),
}

impl Trust {
    /// From PEM; none is the system's.
    ///
    /// # Errors
    /// [`Error::Certificate`].
    pub fn parse(pem: &str) -> Result<Self, Error> {
        if pem.trim().is_empty() {
            return Ok(Self::System);
        }
        let der = CertificateDer::from_pem_slice(pem.as_bytes());
        der.map(Self::Pinned).map_err(|_| {
            let reason = "it is no certificate in PEM, which begins with -----BEGIN CERTIFICATE-----".to_owned();
            Error::Certificate { reason }
        })
    }
}

/// Who is believed beside what the verifier of certificates says.
#[derive(Debug)]
enum Believed {
    /// This one, by itself.
    Pinned(CertificateDer<'static>),
    /// Each of these by itself, too, if name and time fit: also one that is an authority's, as `openssl req -x509` makes them.
    System(Vec<CertificateDer<'static>>),
}

/// Believes certificates, and whom they vouch for.
#[derive(Debug)]
struct Verifier {
    believed: Believed,
    /// `None`: nobody vouches for others.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// Whether the certificate counts by itself.
    fn by_itself(
        &self,
        shown: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Option<Result<(), Distrust>> {
        match &self.believed {
            Believed::Pinned(pinned) => (shown == pinned).then_some(Ok(())),
            Believed::System(roots) => is_root(roots, shown, name, now),
        }
    }
}

fn is_root(
    roots: &[CertificateDer<'_>],
    shown: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Option<Result<(), Distrust>> {
    roots.contains(shown).then(|| {
        Distrust::by_time(shown, now)?;
        let parsed = ParsedCertificate::try_from(shown).map_err(|error| Distrust::of(&error, shown, name))?;
        verify_server_name(&parsed, name).map_err(|error| Distrust::of(&error, shown, name))
    })
}

/// Whether a server's certificate is one of `roots`, and then whether it counts: by its time and name.
///
/// # Errors
/// Why not, in words.
pub fn by_itself(
    roots: &[CertificateDer<'_>],
    shown: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Option<Result<(), rustls::Error>> {
    is_root(roots, shown, name, now).map(|result| result.map_err(Distrust::into_rustls))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(result) = self.by_itself(end_entity, server_name, now) {
            return result.map(|()| ServerCertVerified::assertion()).map_err(Distrust::into_rustls);
        }
        let result = match &self.authorities {
            Some(authorities) => {
                authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        result.map_err(|error| {
            let why = match (Distrust::of(&error, end_entity, server_name), &self.believed) {
                (Distrust::Unknown { fingerprint, .. }, Believed::Pinned(_)) => Distrust::NotPinned { fingerprint },
                (Distrust::Unknown { .. }, Believed::System(roots)) if roots.is_empty() => Distrust::NoAuthorities,
                (why, _) => why,
            };
            why.into_rustls()
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The configuration of a client.
pub(super) fn config(trust: &Trust) -> Result<Arc<ClientConfig>, Error> {
    let wrong = |reason: String| Error::Certificate { reason };
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| wrong(error.to_string()))?;
    let believed = match trust {
        // One that cannot be read is left out; without any, no server is believed, and the error says so.
        Trust::System => Believed::System(rustls_native_certs::load_native_certs().certs),
        // One that can be no authority is only itself.
        Trust::Pinned(certificate) => Believed::Pinned(certificate.clone()),
    };
    let authorities = match &believed {
        Believed::System(certificates) => certificates.clone(),
        Believed::Pinned(certificate) => vec![certificate.clone()],
    };
    roots.add_parsable_certificates(authorities);
    let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().ok();
    let verifier = Verifier { believed, authorities, provider };
    let mut config = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
