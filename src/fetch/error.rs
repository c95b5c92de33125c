//! Why something could not be fetched.

use std::error::Error as _;
use std::fmt;
use std::io;

use http::StatusCode;

use super::Url;
use super::reply::LEAST;

/// The errors of this room.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "Display says what each one means; fields are named after what they hold")]
pub enum Error {
    Url {
        url: String,
        reason: String,
    },
    Certificate {
        reason: String,
    },
    Resolve {
        host: String,
        reason: String,
    },
    Connect {
        host: String,
        reason: String,
    },
    /// `passes`: perhaps not so the next time.
    Proxy {
        proxy: String,
        reason: String,
        passes: bool,
    },
    Distrusted {
        host: String,
        reason: String,
    },
    Tls {
        host: String,
        reason: String,
    },
    Stalled {
        host: String,
        seconds: u64,
    },
    Slow {
        host: String,
        seconds: u64,
    },
    Broken {
        url: String,
        reason: String,
    },
    Redirect {
        from: String,
        to: String,
        reason: &'static str,
    },
    Status {
        url: Url,
        status: StatusCode,
        said: String,
    },
    TooLong {
        url: String,
        limit: u64,
    },
    Length {
        url: String,
        expected: u64,
        found: u64,
    },
    Encoded {
        url: String,
        coding: String,
    },
    /// A download that broke cannot be gone on with: what comes now is divided in another way.
    Changed {
        url: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url { url, reason } => write!(f, "The address {url:?} cannot be used: {reason}"),
            Self::Certificate { reason } => write!(f, "The certificate of the server to trust: {reason}"),
            Self::Resolve { host, reason } => write!(
                f,
                "The name of {host} cannot be resolved: {reason}. Check how it is written, and this host's DNS"
            ),
            Self::Connect { host, reason } => write!(
                f,
                "{host} cannot be reached: {reason}. Check the address, and whether only a proxy leads there \
                 (core.proxy_https, core.proxy_http)"
            ),
            Self::Proxy { proxy, reason, .. } => {
                write!(f, "The proxy {proxy} (core.proxy_http, core.proxy_https): {reason}")
            }
            Self::Distrusted { host, reason } => write!(f, "{host} is not who it should be: {reason}"),
            Self::Tls { host, reason } => write!(f, "No TLS with {host}: {reason}"),
            Self::Stalled { host, seconds } => write!(f, "{host} was silent for {seconds} s; try again later"),
            Self::Slow { host, seconds } => {
                write!(f, "{host} sent less than {} KiB in {seconds} s; try again later", LEAST / 1024)
            }
            Self::Broken { url, reason } => write!(f, "The connection for {url} broke: {reason}"),
            Self::Redirect { from, to, reason } => {
                write!(f, "{from} leads on to {to:?}, which is not followed: {reason}")
            }
            Self::Status { url, status, said } => {
                write!(f, "{url} answers {status}")?;
                if !said.is_empty() {
                    write!(f, ": {said}")?;
                }
                match way_out(url, *status) {
                    "" => Ok(()),
                    // It says more itself.
                    _ if !said.is_empty() && *status != StatusCode::BAD_REQUEST => Ok(()),
                    way_out => write!(f, " ({way_out})"),
                }
            }
            Self::TooLong { url, limit } => {
                write!(f, "What {url} sends is longer than {limit} bytes, and is refused: check the address")
            }
            Self::Length { url, expected, found } => write!(
                f,
                "What {url} sends has {found} bytes, not {expected} as announced: it changes just now, or is damaged; try \
                 again later, or from another server"
            ),
            Self::Encoded { url, coding } => write!(
                f,
                "What {url} sends is packed ({coding}), though it was asked not to be: whoever runs the server must mend that"
            ),
            Self::Changed { url } => write!(f, "{url} sends it in another form each time; try again later"),
        }
    }
}

impl std::error::Error for Error {}

/// What to do about a status.
fn way_out(url: &Url, status: StatusCode) -> &'static str {
    match status {
        // What servers for HTTPS say to who does not encrypt.
        StatusCode::BAD_REQUEST if !url.is_https() => "perhaps this port is for https://",
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "it is not for everybody",
        StatusCode::NOT_FOUND | StatusCode::GONE => "it is not there: check the address",
        StatusCode::TOO_MANY_REQUESTS => "it was asked too often: try again later",
        status if status.is_server_error() => "something is wrong at the server: try again later",
        _ => "",
    }
}

/// What the kernel says, without its numbers.
pub(super) fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
        io::ErrorKind::UnexpectedEof => "it hung up".to_owned(),
        _ => {
            let text = error.to_string();
            text.split(" (os error ").next().unwrap_or_default().to_owned()
        }
    }
}

impl Error {
    pub(super) fn broken(url: &Url, error: &hyper::Error) -> Self {
        let mut cause = error.source();
        let mut inner = None;
        // hyper says what went wrong only in the causes.
        while let Some(error) = cause {
            inner = error.downcast_ref::<io::Error>().map(plain).or(inner);
            cause = error.source();
        }
        let of_https = if url.is_https() { "" } else { "; perhaps this port is for https://" };
        let reason = if error.is_parse_too_large() {
            "the head of its answer has more than 100 fields or 64 KiB".to_owned()
        } else if error.is_parse() {
            format!("what it answers is no HTTP{of_https}")
        } else if error.is_incomplete_message() {
            format!("it hung up before its answer was whole{of_https}")
        } else {
            // Words of hyper's own, for nothing that was seen yet.
            inner.unwrap_or_else(|| error.to_string())
        };
        Self::Broken { url: url.to_string(), reason }
    }

    /// The server is there and says that it does not have it.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Status { status, .. } if matches!(*status, StatusCode::NOT_FOUND | StatusCode::FORBIDDEN))
    }

    /// Another try may succeed where this one ended.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Stalled { .. }
            | Self::Slow { .. }
            | Self::Broken { .. }
            | Self::Resolve { .. } => true,
            Self::Status { status, .. } => status.is_server_error(),
            Self::Proxy { passes, .. } => *passes,
            Self::Url { .. }
            | Self::Certificate { .. }
            | Self::Distrusted { .. }
            | Self::Tls { .. }
            | Self::Redirect { .. }
            | Self::TooLong { .. }
            | Self::Length { .. }
            | Self::Encoded { .. }
            | Self::Changed { .. } => false,
        }
    }
}
