//! A client over HTTPS with any certificate and key, and the address at which a daemon is reached.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConnection, ResolvesClientCert};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme, StreamOwned, SupportedProtocolVersion};
use serde_json::{Value, json};
use warren::auth::ClientCertificate;

use super::Daemon;

/// Longer than anything takes that works.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A client's certificate and a key, which need not belong together.
#[derive(Clone)]
pub struct Identity {
    pub certificate: CertificateDer<'static>,
    pub key: Arc<PrivateKeyDer<'static>>,
}

impl Identity {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let mut params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { certificate, key: Arc::new(PrivatePkcs8KeyDer::from(key.serialize_der()).into()) }
    }

    pub fn known(&self) -> ClientCertificate {
        ClientCertificate::from_der(&self.certificate).unwrap()
    }

    pub fn url(&self) -> String {
        format!("/1.0/certificates/{}", self.known().fingerprint)
    }

    /// The body that adds this certificate.
    pub fn body(&self) -> String {
        json!({"type": "client", "name": "test", "certificate": self.known().pem}).to_string()
    }

    /// Trusts it, by the socket.
    pub fn trust(&self, daemon: &Daemon) {
        let (status, answer) = daemon.api("POST", "/1.0/certificates", &self.body());
        assert_eq!(status, 201, "{answer}");
    }
}

/// Shows a certificate and signs with whatever key there is.
#[derive(Debug)]
pub struct Shows(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

/// Takes any server: these tests are about what the server takes.
#[derive(Debug)]
pub struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

pub fn tls(versions: &[&'static SupportedProtocolVersion], identity: Option<&Identity>) -> Arc<ClientConfig> {
    tls_with(versions, identity, &[])
}

/// The same of one who shows those that stand between his certificate and the authority, too.
pub fn tls_with(
    versions: &[&'static SupportedProtocolVersion],
    identity: Option<&Identity>,
    between: &[CertificateDer<'static>],
) -> Arc<ClientConfig> {
    let shown = identity.map(|identity| {
        let key = ring::sign::any_supported_type(&identity.key).unwrap();
        let own = [identity.certificate.clone()];
        Arc::new(CertifiedKey::new(own.into_iter().chain(between.iter().cloned()).collect(), key))
    });
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_client_cert_resolver(Arc::new(Shows(shown)));
    // As Go's clients offer.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// An answer of the API.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub fn metadata(&self) -> Value {
        self.json()["metadata"].clone()
    }

    /// Fails the test unless it is an error of this kind, in JSON.
    #[track_caller]
    pub fn refused(&self, status: u16, text: &str) {
        let json = self.json();
        assert_eq!(
            (self.status, &json["type"], &json["error_code"]),
            (status, &json!("error"), &json!(status)),
            "{json}"
        );
        assert!(json["error"].as_str().unwrap().contains(text), "{text:?} is not in {json}");
    }
}

/// A connection that stands.
pub struct Client(pub StreamOwned<ClientConnection, TcpStream>);

impl Client {
    pub fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        Self(StreamOwned::new(ClientConnection::new(Arc::clone(config), name).unwrap(), stream))
    }

    pub fn send(&mut self, method: &str, path: &str, headers: &str, body: &str) -> io::Result<()> {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{headers}\r\n");
        self.0.write_all(format!("{head}{body}").as_bytes())?;
        self.0.flush()
    }

    pub fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            line.extend(byte);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    pub fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads one answer; of one to HEAD, or that is no answer but an upgrade, the head.
    pub fn answer(&mut self, with_body: bool) -> io::Result<Answer> {
        let mut head = String::new();
        loop {
            match self.line()? {
                line if line.is_empty() => break,
                line => head.push_str(&(line.to_lowercase() + "\n")),
            }
        }
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let status = head[9..12].parse().unwrap();
        let mut body = Vec::new();
        if !with_body || status == 101 {
        } else if let Some(length) = field("content-length:") {
            body = self.take(length.parse().unwrap())?;
        } else {
            assert_eq!(field("transfer-encoding:"), Some("chunked"), "{head}");
            loop {
                let length = usize::from_str_radix(&self.line()?, 16).unwrap();
                body.extend(self.take(length)?);
                self.line()?;
                if length == 0 {
                    break;
                }
            }
        }
        Ok(Answer { status, head, body })
    }

    pub fn try_ask(&mut self, method: &str, path: &str, body: &str) -> io::Result<Answer> {
        self.send(method, path, "", body)?;
        self.answer(method != "HEAD")
    }

    #[track_caller]
    pub fn ask(&mut self, method: &str, path: &str, body: &str) -> Answer {
        self.try_ask(method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    #[track_caller]
    pub fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path, "")
    }

    /// What the server thinks of this connection now.
    #[track_caller]
    pub fn auth(&mut self) -> String {
        self.get("/1.0").metadata()["auth"].as_str().unwrap().to_owned()
    }
}

/// The sockets that a daemon listens on, by the kernel's tables: here, connecting proves nothing.
pub fn listeners(daemon: &Daemon) -> BTreeSet<SocketAddr> {
    let own: BTreeSet<String> = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let words = |hex: &str| -> Vec<u8> {
        // Words in the machine's order of bytes.
        let word = |at: usize| u32::from_str_radix(&hex[at..at + 8], 16).unwrap().to_ne_bytes();
        (0..hex.len()).step_by(8).flat_map(word).collect()
    };
    let mut found = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields[3] != "0A" || !own.contains(fields[9]) {
                continue;
            }
            let (host, port) = fields[1].split_once(':').unwrap();
            let bytes = words(host);
            let host: IpAddr = match <[u8; 4]>::try_from(bytes.as_slice()) {
                Ok(v4) => Ipv4Addr::from(v4).into(),
                Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).unwrap()).into(),
            };
            found.insert(SocketAddr::new(host, u16::from_str_radix(port, 16).unwrap()));
        }
    }
    found
}

pub fn set(daemon: &Daemon, key: &str, value: &str) -> (u16, Value) {
    daemon.api("PATCH", "/1.0", &json!({"config": {key: value}}).to_string())
}

/// Sets the address; the socket that is listened on then.
#[track_caller]
pub fn listen(daemon: &Daemon, address: &str) -> SocketAddr {
    let (status, answer) = set(daemon, "core.https_address", address);
    assert_eq!(status, 200, "{answer}");
    let now = listeners(daemon);
    assert_eq!(now.len(), 1, "{now:?}");
    *now.first().unwrap()
}

/// On a port that the kernel chooses, so that no two tests meet.
pub fn local(daemon: &Daemon) -> SocketAddr {
    listen(daemon, "127.0.0.1:0")
}
