//! HTTPS to a remote: who it is (a pinned certificate, or the system's authorities), and who we are.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Error;
use super::settings::{Settings, write};
use crate::fetch::by_itself;

/// Longer than a server on the other side of the world takes to answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// Name or IP address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// What stands before the API's paths; nothing for most.
    pub prefix: String,
}

impl Address {
    /// Reads `https://host[:port][/prefix]`, or the same without the scheme.
    pub(super) fn parse(text: &str, default_port: u16) -> Result<Self, Error> {
        let wrong = |why: &str| Error::Usage(format!("{text:?} is no address of a server: {why}"));
        let rest = text.strip_prefix("https://").unwrap_or(text);
        if rest.contains("://") {
            return Err(wrong("only https:// and unix:// are understood"));
        }
        let (place, prefix) = rest.split_once('/').map_or((rest, ""), |(place, prefix)| (place, prefix));
        // An address of IPv6 may stand without brackets when it has no port.
        let (host, port) = if let Some(inner) = place.strip_prefix('[') {
            let (host, after) = inner.split_once(']').ok_or_else(|| wrong("a bracket is missing"))?;
            (host, after.strip_prefix(':'))
        } else if place.matches(':').count() > 1 {
            (place, None)
        } else {
            place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port)))
        };
        let port = match port {
            None => default_port,
            Some(port) => port.parse().map_err(|_| wrong("its port is no number from 1 to 65535"))?,
        };
        if host.is_empty() || ServerName::try_from(host).is_err() {
            return Err(wrong("it has no host's name or IP address"));
        }
        let prefix = prefix.trim_end_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        Ok(Self { host: host.to_owned(), port, prefix })
    }

    /// The same as a URL.
    pub(super) fn url(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("https://{host}:{}{}", self.port, self.prefix)
    }
}

/// The SHA-256 that people compare, in hexadecimal.
pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    hex::encode(digest(&SHA256, certificate).as_ref())
}

/// Whom we believe: each of these by itself, too, as `openssl req -x509` makes them, and those that they vouch for.
#[derive(Debug)]
struct Authorities {
    roots: Vec<CertificateDer<'static>>,
    verifier: Arc<rustls::client::WebPkiServerVerifier>,
}

/// Knows a server by its certificate, or lets the system's authorities vouch for it; remembers what it saw.
#[derive(Debug)]
struct Verifier {
    pinned: Option<CertificateDer<'static>>,
    authorities: Option<Authorities>,
    provider: Arc<CryptoProvider>,
    seen: Mutex<Option<CertificateDer<'static>>>,
    /// Any certificate will do: only to ask the user about it.
    look: bool,
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
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(end_entity.clone().into_owned());
        if self.look || self.pinned.as_ref().is_some_and(|pinned| pinned == end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        match (&self.pinned, &self.authorities) {
            (None, Some(Authorities { roots, verifier })) => match by_itself(roots, end_entity, server_name, now) {
                Some(result) => result.map(|()| ServerCertVerified::assertion()),
                None => verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now),
            },
            _ => Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Who this user is to servers.
pub(super) struct Identity {
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads it.
    pub(super) fn load(settings: &Settings) -> Result<Self, Error> {
        let wrong = |path: &Path, why: String| Error::Usage(format!("{} cannot be used: {why}", path.display()));
        let (certificate, key) = (settings.file("client.crt"), settings.file("client.key"));
        let certificates = CertificateDer::pem_file_iter(&certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|e| wrong(&certificate, e.to_string()))?;
        let key = PrivateKeyDer::from_pem_file(&key).map_err(|e| wrong(&key, e.to_string()))?;
        Ok(Self { certificates, key })
    }

    /// Reads it; makes it first where there is none.
    pub(super) fn needed(settings: &Settings) -> Result<Self, Error> {
        let (certificate, key) = (settings.file("client.crt"), settings.file("client.key"));
        if !certificate.exists() && !key.exists() {
            let wrong = |e: rcgen::Error| Error::Usage(format!("Cannot make a client certificate: {e}"));
            let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).map_err(wrong)?;
            let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
            let user = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name.push(rcgen::DnType::CommonName, format!("{user}@{name}"));
            params.distinguished_name.push(rcgen::DnType::OrganizationName, "warren");
            params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature, rcgen::KeyUsagePurpose::KeyEncipherment];
            params.not_before = time::OffsetDateTime::now_utc() - time::Duration::hours(1);
            params.not_after = params.not_before + time::Duration::days(3650);
            let made = params.self_signed(&pair).map_err(wrong)?;
            write(&key, pair.serialize_pem().as_bytes(), 0o600)?;
            write(&certificate, made.pem().as_bytes(), 0o644)?;
        }
        Self::load(settings)
    }
}

/// How a server is met.
pub(super) struct Meeting {
    address: Address,
    connector: TlsConnector,
    verifier: Arc<Verifier>,
    remote: String,
}

impl Meeting {
    /// Of a server that `remote` names: known by its pinned certificate, else by the system's authorities.
    pub(super) fn of(
        settings: &Settings,
        remote: &str,
        address: Address,
        who: Option<Identity>,
    ) -> Result<Self, Error> {
        let path = settings.server_certificate(remote);
        let pinned = match CertificateDer::from_pem_file(&path) {
            Ok(certificate) => Some(certificate),
            Err(_) if !path.exists() => None,
            Err(e) => return Err(Error::Usage(format!("{} cannot be used: {e}", path.display()))),
        };
        let authorities = if pinned.is_none() { authorities(settings) } else { None };
        Self::new(remote, address, who, pinned, authorities, false)
    }

    /// To see the certificate of a server that nobody knows.
    pub(super) fn look(remote: &str, address: Address) -> Result<Self, Error> {
        Self::new(remote, address, None, None, None, true)
    }

    fn new(
        remote: &str,
        address: Address,
        who: Option<Identity>,
        pinned: Option<CertificateDer<'static>>,
        authorities: Option<Authorities>,
        look: bool,
    ) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            Arc::new(Verifier { pinned, authorities, provider: provider.clone(), seen: Mutex::new(None), look });
        let wrong = |e: rustls::Error| Error::Usage(format!("TLS cannot be set up: {e}"));
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(wrong)?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone());
        let config = match who {
            None => builder.with_no_client_auth(),
            Some(who) => builder
                .with_client_auth_cert(who.certificates, who.key)
                .map_err(|e| Error::Usage(format!("client.crt and client.key cannot be used: {e}")))?,
        };
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Self { address, connector, verifier, remote: remote.to_owned() })
    }

    /// Where.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// The certificate that the server showed.
    pub(super) fn seen(&self) -> Option<CertificateDer<'static>> {
        self.verifier.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Meets it.
    pub(super) async fn connect(&self) -> Result<TlsStream<TcpStream>, Error> {
        let Address { host, port, .. } = &self.address;
        let unreachable =
            |reason: String| Error::Unreachable { remote: self.remote.clone(), url: self.address.url(), reason };
        let connected = tokio::time::timeout(PATIENCE, TcpStream::connect((host.as_str(), *port))).await;
        let stream = match connected {
            Err(_) => return Err(unreachable(format!("No answer within {} s", PATIENCE.as_secs()))),
            Ok(Err(error)) => return Err(unreachable(error.to_string())),
            Ok(Ok(stream)) => stream,
        };
        // Requests are written at once; waiting to join them gains nothing.
        let _ = stream.set_nodelay(true);
        let name = ServerName::try_from(host.clone()).map_err(|e| unreachable(e.to_string()))?;
        match tokio::time::timeout(PATIENCE, self.connector.connect(name, stream)).await {
            Err(_) => Err(unreachable(format!("It does not speak TLS within {} s", PATIENCE.as_secs()))),
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(match (&self.verifier.pinned, self.seen()) {
                (Some(pinned), Some(seen)) if *pinned != seen => Error::Changed {
                    remote: self.remote.clone(),
                    known: fingerprint(pinned),
                    shown: fingerprint(&seen),
                },
                _ => unreachable(reason(&error)),
            }),
        }
    }
}

/// The system's authorities and that of a PKI (`client.ca`), where there are any.
fn authorities(settings: &Settings) -> Option<Authorities> {
    let mut roots = rustls_native_certs::load_native_certs().certs;
    roots.extend(CertificateDer::from_pem_file(settings.file("client.ca")));
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider).build().ok()?;
    Some(Authorities { roots, verifier })
}

/// Why a server is not believed, or no TLS comes about.
fn reason(error: &std::io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(why)))) => why.to_string(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_servers() {
        for (text, url) in [
            ("h", "https://h:8443"),
            ("h:1", "https://h:1"),
            ("https://h", "https://h:8443"),
            ("https://h:443/a/b/", "https://h:443/a/b"),
            ("10.0.0.1", "https://10.0.0.1:8443"),
            ("fd00::1", "https://[fd00::1]:8443"),
            ("[fd00::1]:5", "https://[fd00::1]:5"),
        ] {
            assert_eq!(Address::parse(text, 8443).unwrap().url(), url, "{text}");
        }
        for text in ["", "http://h", "https://", "h:0x", "h:70000", "[::1", "a b"] {
            assert!(Address::parse(text, 8443).is_err(), "{text}");
        }
    }
}
