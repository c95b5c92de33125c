//! An authority for certificates of clients, and its lists of those that it has revoked.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::Daemon;
use super::tls::Identity;

/// An authority with its own certificate as PEM.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// An authority that this one has signed, with this serial number, and its certificate. One without `is_ca` is no
    /// authority, but signs as if it were.
    pub fn below(&self, name: &str, serial: u64, is_ca: bool) -> (Self, CertificateDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        }
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        // It lists what it revokes, and needs a word for that in its own record only.
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        (Self { issuer: Issuer::new(params, key), pem }, der)
    }

    /// A client's certificate with this serial number, valid from and to so many days from now.
    pub fn client(&self, serial: u64, days: (i64, i64)) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        let day = |days: i64| time::OffsetDateTime::now_utc() + time::Duration::days(days);
        (params.not_before, params.not_after) = (day(days.0), day(days.1));
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Identity { certificate, key: Arc::new(PrivatePkcs8KeyDer::from(key.serialize_der()).into()) }
    }

    /// The list of those that it has revoked.
    pub fn revoke(&self, serials: &[u64]) -> String {
        let now = time::OffsetDateTime::now_utc();
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: now,
            next_update: now + time::Duration::days(9),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// Puts a file in its place as an administrator's tool does.
pub fn place(daemon: &Daemon, name: &str, text: &str) {
    let new = daemon.root.join("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, daemon.state().join(name)).unwrap();
}
