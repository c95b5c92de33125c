//! Why something could not be fetched.

use std::fmt;

use http::StatusCode;

use super::Url;

/// The errors of this room.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "Display says what each one means; fields are named after what they hold")]
pub enum Error {
    Url { url: String, reason: String },
    Certificate { reason: String },
    Resolve { host: String, reason: String },
    Connect { host: String, reason: String },
    Proxy { proxy: String, reason: String },
    Tls { host: String, reason: String },
    Stalled { host: String, seconds: u64 },
    Broken { url: String, reason: String },
    Redirect { from: String, to: String, reason: &'static str },
    Status { url: String, status: StatusCode, said: String },
    TooLong { url: String, limit: u64 },
    Length { url: String, expected: u64, found: u64 },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url { url, reason } => write!(f, "The address {url:?} cannot be used: {reason}"),
            Self::Certificate { reason } => write!(f, "The certificate of the server to trust: {reason}"),
            Self::Resolve { host, reason } => write!(f, "The name of {host} cannot be resolved: {reason}"),
            Self::Connect { host, reason } => write!(f, "{host} cannot be reached: {reason}"),
            Self::Proxy { proxy, reason } => {
                write!(f, "The proxy {proxy} (core.proxy_http, core.proxy_https): {reason}")
            }
            Self::Tls { host, reason } => write!(f, "{host} is not who it should be, or speaks no TLS: {reason}"),
            Self::Stalled { host, seconds } => write!(f, "{host} was silent for {seconds} s"),
            Self::Broken { url, reason } => write!(f, "The connection for {url} broke: {reason}"),
            Self::Redirect { from, to, reason } => {
                write!(f, "{from} leads on to {to:?}, which is not followed: {reason}")
            }
            Self::Status { url, status, said } if said.is_empty() => write!(f, "{url} answers {status}"),
            Self::Status { url, status, said } => write!(f, "{url} answers {status}: {said}"),
            Self::TooLong { url, limit } => write!(f, "What {url} sends is longer than {limit} bytes"),
            Self::Length { url, expected, found } => {
                write!(f, "What {url} sends has {found} bytes, not {expected} as announced")
            }
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    pub(super) fn broken(url: &Url, error: &dyn std::error::Error) -> Self {
        // hyper says what went wrong only in the causes.
        let mut reason = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            reason = format!("{reason}: {error}");
            cause = error.source();
        }
        Self::Broken { url: url.to_string(), reason }
    }

    /// The server is there and says that it does not have it.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Status { status, .. } if matches!(*status, StatusCode::NOT_FOUND | StatusCode::FORBIDDEN))
    }

    /// Another try may succeed where this one ended.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Stalled { .. } | Self::Broken { .. } | Self::Resolve { .. } => true,
            Self::Status { status, .. } => status.is_server_error(),
            Self::Url { .. }
            | Self::Certificate { .. }
            | Self::Proxy { .. }
            | Self::Tls { .. }
            | Self::Redirect { .. }
            | Self::TooLong { .. }
            | Self::Length { .. } => false,
        }
    }
}
