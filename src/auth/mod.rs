//! Who is asking, and how far he is trusted: the trust store, the authority of PKI mode, the server's certificate, the
//! rustls verifier, the trust password.
//!
//! A client's certificate is optional and may be signed by anybody; the handshake proves only that the client has its
//! key. Trust is looked up for each request, so that a removal, a limit or a revocation counts at once.

mod authority;
mod certificate;
pub mod password;
mod tls;
mod trust;
mod version1;

use std::fmt;
use std::path::PathBuf;

pub use authority::Authority;
pub use certificate::{ClientCertificate, ServerCertificate};
pub use tls::server_config;
pub use trust::{Trust, metrics_trust_of, trust_of};

/// What can go wrong here.
#[derive(Debug)]
pub enum Error {
    /// The text is no certificate.
    NoCertificate {
        /// Why not.
        reason: String,
    },
    /// The server's own certificate or key cannot be used or made.
    Server {
        /// Which file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A file of PKI mode cannot be used.
    Authority {
        /// Which file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// TLS cannot be set up with it.
    Tls {
        /// rustls's words.
        reason: String,
    },
    /// The kernel gives no random numbers.
    Random,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate { reason } => {
                write!(f, "The field \"certificate\" is neither PEM nor base64 of DER: {reason}")
            }
            Self::Server { path, reason } => write!(f, "The server certificate {} : {reason}", path.display()),
            Self::Authority { path, reason } => write!(f, "{} cannot be used: {reason}", path.display()),
            Self::Tls { reason } => write!(f, "TLS cannot be set up with server.crt and server.key: {reason}"),
            Self::Random => f.write_str("The kernel gives no random numbers"),
        }
    }
}

impl std::error::Error for Error {}
