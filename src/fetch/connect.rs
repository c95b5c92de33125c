//! A connection: addresses, the proxy, TLS, HTTP.

use std::net::{IpAddr, SocketAddr};

use http::HeaderValue;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;

use super::error::plain;
use super::url::{is_near, is_on_wire};
use super::{Body, Client, Error, Url, distrust};

/// A head of a server has at most so many fields…
const FIELDS: usize = 100;
/// …and so many bytes. hyper's own least is 8 KiB.
const HEAD: usize = 64 * 1024;
/// What a proxy says before it is out of the way, bytes.
const PROXY_HEAD: usize = 8 * 1024;

/// The task that drives a connection; it ends with this.
pub(super) struct Connection {
    task: AbortHandle,
    /// For the proxy that the request goes to.
    pub(super) authorization: Option<HeaderValue>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Client {
    /// Connects for one request; whether it must name its whole address, because a proxy hands it on.
    pub(super) async fn connect(
        &self,
        url: &Url,
        guarded_for: Option<&Url>,
    ) -> Result<(SendRequest<Body>, bool, Connection), Error> {
        let uri: http::Uri = url
            .full()
            .parse()
            .map_err(|e: http::uri::InvalidUri| Error::Url { url: url.to_string(), reason: e.to_string() })?;
        let proxy = if self.ways.ignored.has(url) { None } else { self.ways.matcher.intercept(&uri) };
        let guard = match guarded_for {
            Some(origin) => Guard::of(origin, proxy.is_some()).await,
            None => Guard::Nothing,
        };
        let (stream, authorization) = match &proxy {
            None => (dial(url.host(), url.port(), guard, url).await?, None),
            Some(proxy) => {
                // Names are the proxy's to resolve; what is plainly near is refused here.
                if literal(url.host()).is_some_and(|address| guard.refuses(address)) {
                    return Err(near(url));
                }
                let named = crate::names::without_user(&proxy.uri().to_string());
                let told = |reason: String, passes| Error::Proxy { proxy: named.clone(), reason, passes };
                let wrong = |reason: &str| told(reason.to_owned(), false);
                if proxy.raw_auth().is_some() || proxy.uri().scheme_str() != Some("http") {
                    return Err(wrong("only proxies of http:// are known"));
                }
                let host = proxy.uri().host().ok_or_else(|| wrong("it has no host"))?;
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let dialled = dial(host, proxy.uri().port_u16().unwrap_or(80), Guard::Nothing, url).await;
                let mut stream = dialled.map_err(|error| match error {
                    Error::Connect { reason, .. } => told(format!("it cannot be reached: {reason}"), true),
                    Error::Resolve { reason, .. } => told(format!("its name cannot be resolved: {reason}"), true),
                    error => error,
                })?;
                let authorization = proxy.basic_auth().cloned();
                if url.is_https() {
                    let asked = tokio::time::timeout(self.stall, tunnel(&mut stream, url, authorization.as_ref()));
                    let silent = |_| told(format!("it was silent for {} s", self.stall.as_secs()), true);
                    asked.await.map_err(silent)?.map_err(|Closed { reason, passes }| told(reason, passes))?;
                }
                (stream, authorization)
            }
        };
        let absolute = proxy.is_some() && !url.is_https();
        let stream: Box<dyn Stream> =
            if url.is_https() { Box::new(self.encrypt(stream, url).await?) } else { Box::new(stream) };
        let shaken = http1::Builder::new().max_headers(FIELDS).max_buf_size(HEAD).handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|error| Error::broken(url, &error))?;
        // What goes wrong there is told to whoever waits for the answer.
        let task = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        Ok((sender, absolute, Connection { task, authorization }))
    }

    async fn encrypt(&self, stream: TcpStream, url: &Url) -> Result<impl Stream + 'static, Error> {
        let failed = |reason: String| Error::Tls { host: url.authority(), reason };
        let name = ServerName::try_from(url.host().to_owned())
            .map_err(|_| failed("its name is none that a certificate could be for; check the address".to_owned()))?;
        let connector = TlsConnector::from(std::sync::Arc::clone(&self.tls));
        connector.connect(name, stream).await.map_err(|error| distrust::handshake(url, &error))
    }
}

fn literal(host: &str) -> Option<IpAddr> {
    host.parse().ok()
}

fn near(url: &Url) -> Error {
    let reason = "that is this host itself, or only on its own wire";
    Error::Redirect { from: "The server".to_owned(), to: url.to_string(), reason }
}

/// What a server may not lead to: services nearby believe whoever reaches them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guard {
    /// It hangs on the same wire itself, or was not led to.
    Nothing,
    /// It is on this host: what only hangs on the same wire, as the metadata services of clouds do.
    Wire,
    /// It is elsewhere: this host, too.
    Near,
}

impl Guard {
    /// Against what leads on from this server.
    async fn of(url: &Url, by_proxy: bool) -> Self {
        let found: Vec<IpAddr> = match literal(url.host()) {
            Some(address) => vec![address],
            None if by_proxy => Vec::new(),
            None => match tokio::net::lookup_host((url.host(), url.port())).await {
                Ok(found) => found.map(|address| address.ip()).collect(),
                Err(_) => Vec::new(),
            },
        };
        match (found.iter().any(|address| is_on_wire(*address)), found.iter().any(|address| is_near(*address))) {
            (true, _) => Self::Nothing,
            (false, true) => Self::Wire,
            (false, false) => Self::Near,
        }
    }

    fn refuses(self, address: IpAddr) -> bool {
        match self {
            Self::Nothing => false,
            Self::Wire => is_on_wire(address),
            Self::Near => is_near(address),
        }
    }
}

/// Connects to the first address that answers; the address that `guard` has looked at is the one that is connected to.
async fn dial(host: &str, port: u16, guard: Guard, url: &Url) -> Result<TcpStream, Error> {
    let addresses: Vec<SocketAddr> = match literal(host) {
        Some(address) => vec![SocketAddr::new(address, port)],
        None => {
            let found = tokio::net::lookup_host((host, port)).await;
            found.map_err(|error| Error::Resolve { host: host.to_owned(), reason: unresolved(&error) })?.collect()
        }
    };
    if addresses.iter().any(|address| guard.refuses(address.ip())) {
        return Err(near(url));
    }
    let mut last = "it has no address".to_owned();
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Requests are small and wanted at once; a failure costs time, nothing else.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => last = plain(&error),
        }
    }
    Err(Error::Connect { host: format!("{host}:{port}"), reason: last })
}

/// What the resolver says.
fn unresolved(error: &std::io::Error) -> String {
    let text = plain(error);
    text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_owned()
}

/// Why a proxy opens no way.
struct Closed {
    reason: String,
    /// Perhaps it does the next time.
    passes: bool,
}

/// Asks a proxy for a connection to the server (RFC 9110, CONNECT).
async fn tunnel(stream: &mut TcpStream, url: &Url, authorization: Option<&HeaderValue>) -> Result<(), Closed> {
    let passing = |reason| Closed { reason, passes: true };
    let closed = |reason: String| Closed { reason, passes: false };
    let host = if url.host().contains(':') { format!("[{}]", url.host()) } else { url.host().to_owned() };
    let place = format!("{host}:{}", url.port());
    let mut request = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n");
    if let Some(value) = authorization.and_then(|value| value.to_str().ok()) {
        request.push_str(&format!("Proxy-Authorization: {value}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| passing(plain(&error)))?;
    let mut head = Vec::new();
    // The server behind it says nothing before it is spoken to, so whatever comes is the proxy's.
    while !head.ends_with(b"\r\n\r\n") && !head.ends_with(b"\n\n") {
        let hung_up = |error| passing(format!("{} when asked for {place}", plain(&error)));
        let byte = stream.read_u8().await.map_err(hung_up)?;
        head.push(byte);
        if head.len() > PROXY_HEAD {
            return Err(closed("its answer is too long".to_owned()));
        }
    }
    let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
    match line.split(' ').nth(1) {
        Some(status) if line.starts_with("HTTP/1.") && status.starts_with('2') => Ok(()),
        Some("407") => Err(closed(
            "it wants a name and a password, or other ones: write them as http://NAME:PASSWORD@HOST:PORT".to_owned(),
        )),
        Some(status) if line.starts_with("HTTP/") => Err(Closed {
            reason: format!("it does not let through to {place}: {}", crate::names::shortened(&line)),
            passes: status.starts_with('5'),
        }),
        Some(_) | None => Err(closed("what it answers is no HTTP".to_owned())),
    }
}
