//! The accept loops under warp: unix sockets with credentials, and TLS, each connection with its limits.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

use super::entry::{Handler, Peer, filter};
use super::linger::Lingering;
use crate::auth::ClientCertificate;

/// A client gets this long for the head of a request, and a connection may idle this long between two.
const HEAD: Duration = Duration::from_secs(60);
/// And this long for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The head of a request is at most this long, bytes.
const MAX_HEAD: usize = 64 * 1024;
/// At most so many connections over HTTPS at a time.
const MAX_TLS: usize = 4096;
/// The port of an address without one.
const PORT: u16 = 8443;

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct AddressError {
    /// As configured.
    pub address: String,
    /// Why not.
    pub reason: String,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cannot listen on core.https_address {:?}: {}", self.address, self.reason)
    }
}

impl std::error::Error for AddressError {}

/// Serves the API on any number of listeners.
pub struct Server {
    handler: Arc<dyn Handler>,
    tls: Arc<ServerConfig>,
    slots: Arc<Semaphore>,
    https: Mutex<Option<Https>>,
}

struct Https {
    address: String,
    accepting: Vec<JoinHandle<()>>,
}

/// Reads an address of the configuration: `[::]:8443`, `:8443`, `host`, `host:port`, `::1`.
fn resolve(address: &str) -> Result<Vec<SocketAddr>, AddressError> {
    let failed = |reason: String| AddressError { address: address.to_owned(), reason };
    let text = address.trim();
    let (host, port) = match text.rsplit_once(':') {
        _ if text.parse::<std::net::Ipv6Addr>().is_ok() => (text, PORT),
        Some((host, port)) if !port.ends_with(']') => {
            (host, port.parse().map_err(|_| failed(format!("{port:?} is not a port")))?)
        }
        _ => (text, PORT),
    };
    let host = match host.trim_start_matches('[').trim_end_matches(']') {
        "" | "*" => "::",
        host => host,
    };
    let found: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(|e| failed(e.to_string()))?.collect();
    if found.is_empty() { Err(failed("the name has no address".to_owned())) } else { Ok(found) }
}

async fn bind(address: &str) -> Result<Vec<TcpListener>, AddressError> {
    let mut listeners = Vec::new();
    for socket in resolve(address)? {
        let listener = TcpListener::bind(socket).await;
        listeners.push(listener.map_err(|e| AddressError { address: address.to_owned(), reason: e.to_string() })?);
    }
    Ok(listeners)
}

impl Server {
    /// Listens nowhere yet.
    pub fn new(handler: Arc<dyn Handler>, tls: Arc<ServerConfig>) -> Arc<Self> {
        Arc::new(Self { handler, tls, slots: Arc::new(Semaphore::new(MAX_TLS)), https: Mutex::default() })
    }

    /// Serves a unix socket until the daemon ends.
    pub fn serve_unix(self: &Arc<Self>, listener: UnixListener) -> JoinHandle<()> {
        let server = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let Ok(credentials) = stream.peer_cred() else { continue };
                        let peer = Peer::Unix { uid: credentials.uid() };
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
                        let (handler, acceptor) = (Arc::clone(&server.handler), acceptor.clone());
                        tokio::spawn(async move {
                            let _slot = slot;
                            // Interactive traffic: small messages both ways.
                            let _ = stream.set_nodelay(true);
                            let _ = notice_vanishing(&stream);
                            let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else {
                                return;
                            };
                            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                            let certificate = shown.and_then(|der| ClientCertificate::from_der(der).ok()).map(Arc::new);
                            connection(handler, stream, Peer::Tls { address, certificate }).await;
                        });
                    }
                    Err(error) => pause(&error).await,
                }
            }
        })
    }

    /// Moves the HTTPS listener to `address` (empty: nowhere). Connections that stand live on.
    ///
    /// # Errors
    /// Then the old listener goes on.
    pub async fn set_https(self: &Arc<Self>, address: &str) -> Result<(), AddressError> {
        let current = self.https.lock().unwrap_or_else(PoisonError::into_inner).take();
        if address.is_empty() {
            stop(current).await;
            return Ok(());
        }
        if let Some(https) = current.as_ref().filter(|https| https.address == address) {
            tracing::debug!(%address, "already listening there: {}", https.accepting.len());
            *self.https.lock().unwrap_or_else(PoisonError::into_inner) = current;
            return Ok(());
        }
        let listeners = match bind(address).await {
            Ok(listeners) => {
                stop(current).await;
                listeners
            }
            Err(error) if current.is_none() => return Err(error),
            Err(_) => {
                // The old listener itself may be in the way (same port, wider address): try without it.
                let old = current.inspect(|https| https.accepting.iter().for_each(JoinHandle::abort));
                let old_address = old.as_ref().map(|https| https.address.clone()).unwrap_or_default();
                stop(old).await;
                match bind(address).await {
                    Ok(listeners) => listeners,
                    Err(error) => {
                        let again = bind(&old_address).await.unwrap_or_default();
                        self.accept(old_address, again);
                        return Err(error);
                    }
                }
            }
        };
        self.accept(address.to_owned(), listeners);
        Ok(())
    }

    fn accept(self: &Arc<Self>, address: String, listeners: Vec<TcpListener>) {
        let accepting = listeners.into_iter().map(|listener| self.serve_tls(listener)).collect();
        *self.https.lock().unwrap_or_else(PoisonError::into_inner) = Some(Https { address, accepting });
    }
}

/// Ends accept loops; when this returns, their sockets are closed.
async fn stop(https: Option<Https>) {
    for task in https.into_iter().flat_map(|https| https.accepting) {
        task.abort();
        // Cancelled, as wished.
        let _ = task.await;
    }
}

/// A client whose host is gone without a word is noticed after two minutes (tcp(7)): nothing that it asked for goes on.
fn notice_vanishing(stream: &tokio::net::TcpStream) -> rustix::io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15))?;
    sockopt::set_tcp_keepcnt(stream, 4)
}

/// Out of file descriptors or the like: nothing is gained by asking again at once.
async fn pause(error: &io::Error) {
    tracing::warn!(%error, "accepting a connection");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

async fn connection<S>(handler: Arc<dyn Handler>, stream: S, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let warp = warp::service(filter(handler));
    let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
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
    use super::*;

    #[test]
    fn addresses_are_read_as_lxd_does() {
        for (text, wanted) in [
            ("[::]:8443", "[::]:8443"),
            (":8444", "[::]:8444"),
            ("127.0.0.1", "127.0.0.1:8443"),
            ("127.0.0.1:99", "127.0.0.1:99"),
            ("[::1]", "[::1]:8443"),
            ("::1", "[::1]:8443"),
        ] {
            assert_eq!(resolve(text).unwrap()[0].to_string(), wanted, "{text}");
        }
        for text in ["127.0.0.1:port", "127.0.0.1:99999"] {
            assert!(resolve(text).unwrap_err().to_string().contains("core.https_address"), "{text}");
        }
    }
}
