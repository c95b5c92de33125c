//! Whom to believe: the system's authorities, or one certificate.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::Error;

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
        der.map(Self::Pinned).map_err(|error| Error::Certificate { reason: format!("it is not PEM: {error}") })
    }
}

/// Believes one certificate, and whom it vouches for.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    authority: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        match &self.authority {
            Some(authority) => authority.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
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
    let mut config = match trust {
        Trust::System => {
            // One that cannot be read is left out; without any, no server is believed, and the error says so.
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        Trust::Pinned(certificate) => {
            // One that can be no authority is only itself.
            let authority = roots.add(certificate.clone()).ok().and_then(|()| {
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().ok()
            });
            let verifier = Pinned { certificate: certificate.clone(), authority, provider };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
