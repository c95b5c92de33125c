//! The accept loops under warp: unix sockets with credentials, and TLS, each connection with its limits.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{fmt, io};

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::runtime;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

use super::crowd::{Crowd, Standing};
use super::door::Door;
use super::entry::{Handler, Peer, filter};
use super::linger::Lingering;
use super::proxied;
use crate::auth::ClientCertificate;
use crate::sys::{memory, peercred};

/// A client gets this long for the head of a request, and a connection may idle this long between two.
const HEAD: Duration = Duration::from_secs(60);
/// And this long for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// For its turn to begin one, when many connect from its address, this long.
const QUEUE: Duration = Duration::from_secs(60);
/// A stranger that takes nothing of an answer for this long is cut off, milliseconds.
const STALLED: u32 = 300_000;
/// When so many connections have ended, memory is given back…
const RUSH: usize = 64;
/// …not more often than this.
const TRIM: Duration = Duration::from_secs(20);
/// The head of a request is at most this long, bytes.
const MAX_HEAD: usize = 64 * 1024;
/// At most so many connections over HTTPS at a time, however many file descriptors there are.
const MAX_TLS: usize = 4096;

/// What is served at an address over HTTPS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The whole API.
    Api,
    /// Metrics alone.
    Metrics,
}

impl Purpose {
    /// The key of the server that says where.
    pub fn key(self) -> &'static str {
        match self {
            Self::Api => "core.https_address",
            Self::Metrics => "core.metrics_address",
        }
    }

    /// The port of an address without one; LXD's.
    pub(super) fn port(self) -> u16 {
        match self {
            Self::Api => 8443,
            Self::Metrics => 9100,
        }
    }
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct AddressError {
    /// What for.
    pub purpose: Purpose,
    /// As configured.
    pub address: String,
    /// Why not.
    pub reason: String,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cannot listen on {} {:?}: {}", self.purpose.key(), self.address, self.reason)
    }
}

impl std::error::Error for AddressError {}

/// Serves the API on any number of listeners.
pub struct Server {
    purpose: Purpose,
    handler: Arc<dyn Handler>,
    tls: Arc<ServerConfig>,
    slots: Arc<Semaphore>,
    crowd: Arc<Crowd>,
    handshakes: runtime::Handle,
    /// Connections that have ended since memory was given back.
    ended: Arc<AtomicUsize>,
    https: Mutex<Https>,
}

/// Where HTTPS is served: as configured, and the accept loop of each address that came of it.
#[derive(Default)]
struct Https {
    address: String,
    accepting: BTreeMap<SocketAddr, JoinHandle<()>>,
}

impl Https {
    /// Ends the accept loops of all addresses but these; when this returns, their sockets are closed.
    async fn keep_only(&mut self, wanted: &[SocketAddr]) {
        let (kept, gone) =
            std::mem::take(&mut self.accepting).into_iter().partition(|(address, _)| wanted.contains(address));
        self.accepting = kept;
        let gone: BTreeMap<_, JoinHandle<()>> = gone;
        for task in gone.into_values() {
            task.abort();
            // Cancelled, as wished.
            let _ = task.await;
        }
    }
}

/// Takes an address of the configuration apart: `[::]:8443`, `:8443`, `host`, `host:port`, `host:`, `::1`; `usual` is the
/// port of one without.
///
/// # Errors
/// In words, what is wrong with it.
pub(super) fn split(address: &str, usual: u16) -> Result<(&str, u16), String> {
    let text = address.trim();
    let (host, port) = if text.parse::<Ipv6Addr>().is_ok() {
        (text, "")
    } else if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("the closing \"]\" is missing")?;
        let port = if rest.is_empty() { Some("") } else { rest.strip_prefix(':') };
        (host, port.ok_or_else(|| format!("{rest:?} follows the \"]\" where a port may"))?)
    } else {
        text.split_once(':').unwrap_or((text, ""))
    };
    let port = match port {
        "" => usual,
        // Said here: `parse` would take a sign, too.
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().map_err(|_| format!("{port:?} is not a port"))?
        }
        _ => return Err(format!("{port:?} is not a port")),
    };
    Ok((host, port))
}

/// The sockets that an address of the configuration stands for: several when a name has several.
async fn resolve(address: &str, purpose: Purpose) -> Result<Vec<SocketAddr>, AddressError> {
    let failed = |reason: String| AddressError { purpose, address: address.to_owned(), reason };
    if address.is_empty() {
        return Ok(Vec::new());
    }
    let (host, port) = split(address, purpose.port()).map_err(failed)?;
    let host = match host {
        "" | "*" => "::",
        host => host,
    };
    // A name may stand in /etc/hosts more than once.
    let found: BTreeSet<_> = tokio::net::lookup_host((host, port)).await.map_err(|e| failed(e.to_string()))?.collect();
    if found.is_empty() { Err(failed("the name has no address".to_owned())) } else { Ok(found.into_iter().collect()) }
}

async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        // A kernel without IPv6 has no `[::]`, by which IPv4 is served, too.
        Err(error) if no_such_family(&error) && address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        result => result,
    }
}

fn no_such_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

/// Listens on all of these. Of several, those that this host does not have are left out: `localhost` names `::1` on
/// hosts without IPv6, too. With each, its address as it came out, which differs for port 0.
async fn bind(addresses: &[SocketAddr]) -> io::Result<Vec<(SocketAddr, TcpListener)>> {
    let mut listeners = Vec::new();
    let mut absent = None;
    for address in addresses {
        match listen(*address).await {
            Ok(listener) => listeners.push((listener.local_addr()?, listener)),
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable || no_such_family(&error) => {
                absent = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match absent {
        Some(error) if listeners.is_empty() => Err(error),
        Some(_) | None => Ok(listeners),
    }
}

/// How many connections over HTTPS may stand: half of the daemon's file descriptors are for everything else.
pub(crate) fn slots() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit / 2).ok()).map_or(MAX_TLS, |half| half.clamp(1, MAX_TLS))
}

/// A thread that does nothing but handshakes, as long as this process lives, and gives memory back after a rush; where none
/// can be had, the caller's.
fn handshake_thread(ended: Arc<AtomicUsize>) -> runtime::Handle {
    let start = || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let thread = std::thread::Builder::new().name("handshakes".to_owned()).stack_size(512 * 1024);
        thread.spawn(move || runtime.block_on(trim_after_rushes(&ended)))?;
        Ok::<_, io::Error>(handle)
    };
    start().unwrap_or_else(|error| {
        tracing::warn!(%error, "handshakes share the threads of requests");
        runtime::Handle::current()
    })
}

/// Gives memory back when many connections have ended.
async fn trim_after_rushes(ended: &AtomicUsize) {
    loop {
        tokio::time::sleep(TRIM).await;
        if ended.load(Ordering::Relaxed) >= RUSH {
            ended.store(0, Ordering::Relaxed);
            memory::trim();
        }
    }
}

/// A client that is gone without a word (power cut, pulled cable) is noticed within about three minutes, so that what it
/// holds open ends, also where nothing is ever sent.
fn keep_alive(stream: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(20))?;
    sockopt::set_tcp_keepcnt(stream, 6)
}

impl Server {
    /// Listens nowhere yet.
    pub fn new(handler: Arc<dyn Handler>, tls: Arc<ServerConfig>) -> Arc<Self> {
        let (places, ended) = (slots(), Arc::default());
        let handshakes = handshake_thread(Arc::clone(&ended));
        let (slots, crowd) = (Arc::new(Semaphore::new(places)), Crowd::new(places));
        let https = Mutex::default();
        Arc::new(Self { purpose: Purpose::Api, handler, tls, slots, crowd, handshakes, ended, https })
    }

    /// The same with another handler, for another purpose: listens nowhere yet, and its connections count with those of this
    /// one.
    pub fn beside(&self, handler: Arc<dyn Handler>, purpose: Purpose) -> Arc<Self> {
        Arc::new(Self {
            purpose,
            handler,
            tls: Arc::clone(&self.tls),
            slots: Arc::clone(&self.slots),
            crowd: Arc::clone(&self.crowd),
            handshakes: self.handshakes.clone(),
            ended: Arc::clone(&self.ended),
            https: Mutex::default(),
        })
    }

    /// What it serves.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Serves a unix socket until the daemon ends.
    pub fn serve_unix(self: &Arc<Self>, listener: UnixListener, door: Door) -> JoinHandle<()> {
        let server = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let Ok(credentials) = stream.peer_cred() else { continue };
                        let uid = credentials.uid();
                        let groups = peercred::groups(&stream).unwrap_or_else(|_| vec![credentials.gid()]);
                        let is_admin = door.admits(uid, &groups);
                        let peer = Peer::Unix { uid, groups: groups.into(), is_admin };
                        let handler = Arc::clone(&server.handler);
                        tokio::spawn(connection(handler, stream, peer));
                    }
                    Err(error) => pause(&error).await,
                }
            }
        })
    }

    fn serve_tls(self: &Arc<Self>, listener: TcpListener) -> JoinHandle<()> {
        let server = Arc::clone(self);
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::clone(&server.tls));
            loop {
                // Beyond the limit, new connections wait in the kernel's queue.
                let Ok(slot) = Arc::clone(&server.slots).acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((stream, address)) => {
                        let (server, acceptor) = (Arc::clone(&server), acceptor.clone());
                        tokio::spawn(async move {
                            let _slot = slot;
                            server.welcome(stream, address, acceptor).await;
                            server.ended.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                    Err(error) => pause(&error).await,
                }
            }
        })
    }

    /// Serves one that has connected over TCP.
    async fn welcome(&self, mut stream: TcpStream, address: SocketAddr, acceptor: TlsAcceptor) {
        // On a socket of both families an IPv4 client comes as `::ffff:1.2.3.4`.
        let mut address = SocketAddr::new(address.ip().to_canonical(), address.port());
        if self.handler.trusts_proxy(address.ip()) {
            match tokio::time::timeout(HANDSHAKE, proxied::client(&mut stream)).await {
                Ok(Ok(told)) => address = told.unwrap_or(address),
                Ok(Err(_)) | Err(_) => return,
            }
        }
        let Some(newcomer) = self.crowd.admit(address.ip(), Standing::Newcomer) else {
            return tracing::debug!(%address, "too many connections of this address wait for their handshake");
        };
        // One that says nothing takes no turn.
        let Ok(Ok(())) = tokio::time::timeout(HANDSHAKE, stream.readable()).await else { return };
        let Ok(Ok(turn)) = tokio::time::timeout(QUEUE, newcomer.turns().acquire_owned()).await else { return };
        // Interactive traffic: small messages both ways.
        let _ = stream.set_nodelay(true);
        if let Err(error) = keep_alive(&stream) {
            tracing::debug!(%error, "switching keep-alive on");
        }
        // Signatures take milliseconds of a processor: a flood of them keeps one thread busy, and no other.
        let mut shaking = self.handshakes.spawn(async move { acceptor.accept(stream).await });
        let Ok(shaken) = tokio::time::timeout(HANDSHAKE, &mut shaking).await else { return shaking.abort() };
        let Ok(Ok(stream)) = shaken else { return };
        drop(turn);
        let shown = stream.get_ref().1.peer_certificates();
        let certificate = shown.and_then(|chain| ClientCertificate::of_chain(chain).ok()).map(Arc::new);
        let peer = Peer::Tls { address, certificate };
        let _place = if self.handler.knows(&peer) {
            None
        } else {
            let Some(place) = self.crowd.admit(address.ip(), Standing::Stranger) else {
                return tracing::debug!(%address, "too many connections of this address, or of strangers");
            };
            if let Err(error) = sockopt::set_tcp_user_timeout(stream.get_ref().0, STALLED) {
                tracing::debug!(%error, "limiting how long an answer may be left unread");
            }
            Some(place)
        };
        drop(newcomer);
        connection(Arc::clone(&self.handler), stream, peer).await;
    }

    /// Moves the HTTPS listener to `address` (empty: nowhere). Connections that stand live on.
    ///
    /// # Errors
    /// Then the old listener goes on.
    pub async fn set_https(self: &Arc<Self>, address: &str) -> Result<(), AddressError> {
        let mut https = self.https.lock().await;
        if https.address == address {
            return Ok(());
        }
        let purpose = self.purpose;
        let failed =
            |error: io::Error| AddressError { purpose, address: address.to_owned(), reason: error.to_string() };
        let wanted = resolve(address, purpose).await?;
        let missing: Vec<_> = wanted.iter().copied().filter(|new| !https.accepting.contains_key(new)).collect();
        let ours = |error: &io::Error, https: &Https| {
            error.kind() == io::ErrorKind::AddrInUse
                && https.accepting.keys().any(|old| missing.iter().any(|new| new.port() == old.port()))
        };
        let listeners = match bind(&missing).await {
            Ok(listeners) => listeners,
            Err(error) if ours(&error, &https) => {
                // The old listener itself may be in the way (same port, wider address): try without it.
                let old: Vec<_> = https.accepting.keys().copied().collect();
                https.keep_only(&[]).await;
                match bind(&wanted).await {
                    Ok(listeners) => listeners,
                    Err(error) => {
                        match bind(&old).await {
                            Ok(again) => self.accept(&mut https, again),
                            Err(error) => {
                                tracing::error!(%error, address = %https.address, "going back to the old address");
                                https.address.clear();
                            }
                        }
                        return Err(failed(error));
                    }
                }
            }
            Err(error) => return Err(failed(error)),
        };
        https.keep_only(&wanted).await;
        self.accept(&mut https, listeners);
        address.clone_into(&mut https.address);
        Ok(())
    }

    fn accept(self: &Arc<Self>, https: &mut Https, listeners: Vec<(SocketAddr, TcpListener)>) {
        let accepting = listeners.into_iter().map(|(address, listener)| (address, self.serve_tls(listener)));
        https.accepting.extend(accepting);
    }
}

/// Out of file descriptors or the like: nothing is gained by asking again at once.
pub(crate) async fn pause(error: &io::Error) {
    tracing::warn!(%error, "accepting a connection");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// Serves a connection until it ends.
pub(crate) async fn connection<S>(handler: Arc<dyn Handler>, stream: S, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let warp = warp::service(filter(handler));
    let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        if request.method() == http::Method::CONNECT {
            // Its target is a host, not a path, which warp cannot take. No path of ours has this method.
            *request.uri_mut() = http::Uri::from_static("/CONNECT");
        }
        request.extensions_mut().insert(peer.clone());
        warp.clone().call(request)
    });
    let result = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(Lingering::new(stream)), service)
        .with_upgrades()
        .await;
    if let Err(error) = result {
        tracing::trace!(%error, "a connection ended");
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::time::Instant;

    use super::super::entry::{Body, Request};
    use super::*;

    #[test]
    fn addresses_are_read_as_lxd_does() {
        for (text, wanted) in [
            ("[::]:8443", ("::", 8443)),
            (":8444", ("", 8444)),
            ("127.0.0.1", ("127.0.0.1", 8443)),
            ("127.0.0.1:", ("127.0.0.1", 8443)),
            ("127.0.0.1:99", ("127.0.0.1", 99)),
            ("host:99", ("host", 99)),
            ("[::1]", ("::1", 8443)),
            ("::1", ("::1", 8443)),
            ("::", ("::", 8443)),
        ] {
            assert_eq!(split(text, 8443).unwrap(), wanted, "{text}");
        }
        for text in ["127.0.0.1:port", "127.0.0.1:99999", "127.0.0.1:+99", "[::1", "[::1]99", ":::99", "1.2.3.4:5:6"] {
            assert!(split(text, 8443).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_request_to_connect_elsewhere_is_answered() {
        struct Path;
        impl Handler for Path {
            fn handle(&self, request: Request) -> BoxFuture<'static, http::Response<Body>> {
                let text = format!("{} {}", request.method, request.path);
                std::future::ready(http::Response::new(Body::full(bytes::Bytes::from(text)))).boxed()
            }
        }
        let (mut client, server) = tokio::io::duplex(4096);
        tokio::spawn(connection(Arc::new(Path), server, Peer::Unix { uid: 0, groups: Arc::new([0]), is_admin: true }));
        client.write_all(b"CONNECT host:80 HTTP/1.1\r\nHost: host:80\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 4096];
        let length = client.read(&mut answer).await.unwrap();
        assert!(String::from_utf8_lossy(&answer[..length]).starts_with("HTTP/1.1 200 OK"), "a whole answer");
    }

    #[tokio::test]
    async fn an_address_that_cannot_be_names_its_key() {
        for text in ["127.0.0.1:port", "[[::1]]:99"] {
            for purpose in [Purpose::Api, Purpose::Metrics] {
                let error = resolve(text, purpose).await.unwrap_err().to_string();
                assert!(error.contains(purpose.key()), "{error}");
            }
        }
        assert_eq!(resolve(":99", Purpose::Api).await.unwrap(), ["[::]:99".parse().unwrap()]);
        assert_eq!(resolve("[::1]", Purpose::Metrics).await.unwrap(), ["[::1]:9100".parse().unwrap()]);
        assert!(resolve("", Purpose::Api).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn of_several_addresses_the_host_needs_only_one() {
        let here: SocketAddr = "127.0.0.1:0".parse().unwrap();
        // For documentation (RFC 5737): no host has it.
        let elsewhere: SocketAddr = "192.0.2.99:0".parse().unwrap();
        assert_eq!(bind(&[elsewhere, here]).await.unwrap().len(), 1);
        assert_eq!(bind(&[here, here]).await.unwrap().len(), 2);
        assert!(bind(&[elsewhere]).await.is_err());
        assert!(bind(&[]).await.unwrap().is_empty());
    }

    /// Says "here" to everything.
    struct Here;

    impl Handler for Here {
        fn handle(&self, _: Request) -> BoxFuture<'static, http::Response<Body>> {
            std::future::ready(http::Response::new(Body::full("here".into()))).boxed()
        }
    }

    fn serve() -> DuplexStream {
        let (client, server) = tokio::io::duplex(MAX_HEAD);
        tokio::spawn(connection(Arc::new(Here), server, Peer::Unix { uid: 0, groups: Arc::new([0]), is_admin: true }));
        client
    }

    /// Reads until the server closes; how long that took.
    async fn closed(client: &mut DuplexStream) -> (String, Duration) {
        let (start, mut text) = (Instant::now(), String::new());
        client.read_to_string(&mut text).await.unwrap();
        (text, start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_head_is_not_waited_for_for_ever() {
        for sent in ["", "GET /1.0 HT", "GET /1.0 HTTP/1.1\r\nHost: x\r\n"] {
            let mut client = serve();
            client.write_all(sent.as_bytes()).await.unwrap();
            let (_, waited) = closed(&mut client).await;
            assert_eq!(waited.as_secs(), HEAD.as_secs(), "{sent:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_may_idle_for_a_while_between_requests() {
        let mut client = serve();
        let mut answer = [0; 16 * 1024];
        for _ in 0..2 {
            client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let read = client.read(&mut answer).await.unwrap();
            assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
            tokio::time::sleep(HEAD - Duration::from_secs(1)).await;
        }
        let (_, waited) = closed(&mut client).await;
        assert_eq!(waited.as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_survives_a_body_that_comes_late_and_is_not_needed() {
        let mut client = serve();
        let mut answer = [0; 16 * 1024];
        let head = b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n";
        for _ in 0..2 {
            client.write_all(head).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
            client.write_all(b"null").await.unwrap();
            let read = client.read(&mut answer).await.unwrap();
            assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
        }
        // One that does not come at all is answered nevertheless.
        client.write_all(head).await.unwrap();
        let (text, waited) = closed(&mut client).await;
        assert!(text.starts_with("HTTP/1.1 200") && waited < Duration::from_secs(5), "{text} {waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_shakes_hands_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let certificate = crate::auth::ServerCertificate::load_or_create(dir.path(), "host").unwrap();
        let server = Server::new(Arc::new(Here), crate::auth::server_config(&certificate).unwrap());
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = server.serve_tls(listener);
        let start = Instant::now();
        let mut client = TcpStream::connect(address).await.unwrap();
        // Closed with or without a word, but closed.
        let _ = client.read_to_end(&mut Vec::new()).await;
        assert!(start.elapsed() >= HANDSHAKE && start.elapsed() < HEAD, "{:?}", start.elapsed());
        accepting.abort();
    }
}
