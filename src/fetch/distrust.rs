//! Why a server is not believed, or no TLS comes about, in plain words.

use std::fmt;
use std::io;
use std::net::IpAddr;

use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, OtherError};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

use super::error::plain;
use super::{Error, Url};

/// How many names of a certificate an error tells.
const NAMES: usize = 8;

/// What is wrong with a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Distrust {
    /// Nobody who is trusted vouches for it.
    Unknown { issuer: String, fingerprint: String },
    /// As before, and there is nobody who is trusted.
    NoAuthorities,
    /// Another one is pinned.
    NotPinned { fingerprint: String },
    /// RFC 2822, as certificates are shown.
    Expired { at: String },
    /// The same.
    TooEarly { at: String },
    /// It is for others.
    Name { wanted: String, names: Vec<String> },
    /// Anything else.
    Other(&'static str),
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const TRUST: &str = "give it with the request (\"certificate\"), or add its authority to those of this host \
                             (/usr/local/share/ca-certificates and update-ca-certificates, or SSL_CERT_FILE of the daemon)";
        match self {
            Self::Unknown { issuer, fingerprint } => write!(
                f,
                "nobody whom this host trusts vouches for its certificate (issued by {issuer:?}, SHA-256 {fingerprint}). To \
                 believe it, {TRUST}"
            ),
            Self::NoAuthorities => write!(
                f,
                "this host trusts no authority at all: install ca-certificates, or see what SSL_CERT_FILE and SSL_CERT_DIR \
                 of the daemon name"
            ),
            Self::NotPinned { fingerprint } => write!(
                f,
                "its certificate (SHA-256 {fingerprint}) is another one than the request pins. If it was renewed, give the new \
                 one"
            ),
            Self::Expired { at } => write!(
                f,
                "its certificate expired at {at}. Whoever runs it must renew it, unless this host's clock is wrong"
            ),
            Self::TooEarly { at } => {
                write!(f, "its certificate counts only from {at}. Check the clock of this host, and that of the server")
            }
            Self::Name { wanted, names } if names.is_empty() => write!(
                f,
                "its certificate names no host (no subjectAltName). It needs one for {wanted:?}: openssl req -x509 has \
                 -addext subjectAltName=DNS:NAME or =IP:ADDRESS for that"
            ),
            Self::Name { wanted, names } => {
                let more = if names.len() > NAMES { ", …" } else { "" };
                let shown: Vec<&str> = names.iter().take(NAMES).map(String::as_str).collect();
                write!(
                    f,
                    "its certificate is for {}{more}, not for {wanted}. Ask it by a name that it has",
                    shown.join(", ")
                )
            }
            Self::Other(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for Distrust {}

impl Distrust {
    /// As a verifier tells it to rustls, which hands it on.
    pub(super) fn into_rustls(self) -> rustls::Error {
        CertificateError::Other(OtherError(std::sync::Arc::new(self))).into()
    }

    /// What a verifier's refusal means for this certificate.
    pub(super) fn of(error: &rustls::Error, certificate: &CertificateDer<'_>, wanted: &ServerName<'_>) -> Self {
        let rustls::Error::InvalidCertificate(error) = error else {
            return Self::Other("its certificate cannot be checked. It needs another one");
        };
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
            return Self::Other("what it shows is no certificate that can be read. It needs another one");
        };
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                Self::Expired { at: parsed.validity().not_after.to_string() }
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::TooEarly { at: parsed.validity().not_before.to_string() }
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::Name { wanted: wanted.to_str().into_owned(), names: names(&parsed) }
            }
            CertificateError::Revoked => Self::Other("its certificate was revoked. It needs another one"),
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Self::Other("its certificate is not one for servers (extendedKeyUsage). It needs another one")
            }
            CertificateError::BadEncoding
            | CertificateError::UnhandledCriticalExtension
            | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => Self::Other(
                "its certificate is signed or written in a way that is not accepted, perhaps an old one. It needs another one",
            ),
            // An authority's own certificate that nobody trusts is refused as that: `Other`.
            _ => {
                let issuer = crate::names::shortened(&parsed.issuer().to_string());
                Self::Unknown { issuer, fingerprint: fingerprint(certificate) }
            }
        }
    }

    /// Whether a certificate counts at this time.
    pub(super) fn by_time(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Self> {
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
            return Err(Self::Other("what it shows is no certificate that can be read. It needs another one"));
        };
        let (validity, now) = (parsed.validity(), i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        if now < validity.not_before.timestamp() {
            return Err(Self::TooEarly { at: validity.not_before.to_string() });
        }
        if now > validity.not_after.timestamp() {
            return Err(Self::Expired { at: validity.not_after.to_string() });
        }
        Ok(())
    }
}

pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, certificate))
}

/// The hosts that a certificate is for.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(crate::names::shortened(name)),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let v6 = <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
            v4.or(v6).ok().map(|address| address.to_string())
        }
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

/// The error of a handshake.
pub(super) fn handshake(url: &Url, error: &io::Error) -> Error {
    let host = url.authority();
    let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        let reason = format!("{} while it was agreed upon; perhaps this port speaks no TLS", plain(error));
        return Error::Tls { host, reason };
    };
    let reason = match inner {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(why))) => {
            let why = why.downcast_ref::<Distrust>();
            let reason = why.map_or_else(|| "its certificate is not accepted".to_owned(), Distrust::to_string);
            return Error::Distrusted { host, reason };
        }
        rustls::Error::InvalidCertificate(_) => {
            let reason = "it does not prove that its certificate is its own".to_owned();
            return Error::Distrusted { host, reason };
        }
        rustls::Error::InvalidMessage(_) => {
            "what it answers is no TLS; perhaps this port is for http://, which is not believed, or for something else"
                .to_owned()
        }
        rustls::Error::AlertReceived(alert) => refusal(*alert),
        rustls::Error::PeerIncompatible(_) => {
            "it knows neither TLS 1.2 nor 1.3 with what is safe today; whoever runs it must bring it up to date"
                .to_owned()
        }
        _ => "it breaks the rules of TLS; perhaps something on the way interferes".to_owned(),
    };
    Error::Tls { host, reason }
}

/// What a server means by an alert.
fn refusal(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::HandshakeFailure
        | AlertDescription::ProtocolVersion
        | AlertDescription::InsufficientSecurity => {
            "it wants another version or cipher than TLS 1.2 and 1.3 with what is safe today".to_owned()
        }
        AlertDescription::UnrecognisedName => "it says that it is no host of that name; check the address".to_owned(),
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
            "it wants a certificate of whoever asks; images are fetched without".to_owned()
        }
        other => format!("it refuses, with the alert number {} of TLS", u8::from(other)),
    }
}
