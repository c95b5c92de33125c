//! The loop of a proxy: one thread that waits for all its sockets at once (epoll(7), edge-triggered but for listeners).

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fs::{OFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::shuttle::{Half, Moved};
use super::{Endpoint, ProxyPlan};
use crate::helper::files::root::{Root, by_fd};

/// Datagrams of one client belong together until there were none for so long.
const IDLE: Duration = Duration::from_secs(120);
/// How often that is looked at.
const SWEEP: Duration = Duration::from_secs(5);
/// So many clients of datagrams at once; the oldest makes room.
const MOST_FLOWS: usize = 4096;
/// A unix socket whose queue is full is tried again this often, so long (connect(2) does not wait for it).
const AGAIN: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(30));
/// After the process had no file descriptors left.
const PAUSE: Duration = Duration::from_millis(100);
/// Read at once. A datagram is never longer.
const SCRATCH: usize = 64 * 1024;
/// The longest datagram that is made of a stream.
const PACKET: usize = 32 * 1024;
/// For a stream that is not open yet or slow, datagrams wait up to so many bytes.
const MOST_LEFT: usize = 256 * 1024;
/// The log begins anew after so many bytes.
const MOST_LOG: u64 = 256 * 1024;

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);
const INIT: u64 = 0;
/// Tokens of connections have this bit; the lowest one says that it is the target's side.
const CONNECTION: u64 = 1 << 63;

/// The log, which is stderr; it never fills the disk.
#[derive(Default)]
pub(super) struct Log {
    written: u64,
}

impl Log {
    pub(super) fn line(&mut self, text: &str) {
        if self.written > MOST_LOG {
            // It is a file that was opened for appending.
            let _ = rustix::fs::ftruncate(io::stderr(), 0);
            self.written = 0;
        }
        let format = time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
        let now = time::OffsetDateTime::now_utc().format(format).unwrap_or_default();
        let line = format!("{now} {text}\n");
        self.written += line.len() as u64;
        // There is nobody to tell.
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

enum Client {
    Stream(OwnedFd),
    /// By its address, at one of the listeners.
    Datagrams(usize, SocketAddr),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The target's queue is full.
    Retry,
    Connecting,
    Open,
}

struct Connection {
    client: Client,
    target: OwnedFd,
    /// Which of the targets.
    to: usize,
    /// The target takes datagrams.
    packets: bool,
    stage: Stage,
    begun: Instant,
    last: Instant,
    up: Half,
    down: Half,
}

pub(super) struct Engine {
    plan: ProxyPlan,
    epoll: OwnedFd,
    listeners: Vec<OwnedFd>,
    /// Below which paths of targets are looked up; none: the host's own.
    root: Option<Root>,
    connections: BTreeMap<u64, Connection>,
    flows: BTreeMap<(usize, SocketAddr), u64>,
    next: u64,
    /// Whose turn it is again without an event.
    busy: VecDeque<u64>,
    retries: Vec<u64>,
    paused: Option<Instant>,
    swept: Instant,
    scratch: Vec<u8>,
    log: Log,
    _init: OwnedFd,
}

fn token_of_listener(index: usize) -> u64 {
    index as u64 + 1
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(duration.as_secs()).unwrap_or(1), tv_nsec: duration.subsec_nanos().into() }
}

impl Engine {
    pub(super) fn new(
        plan: ProxyPlan,
        listeners: Vec<OwnedFd>,
        init: OwnedFd,
        root: Option<OwnedFd>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &init, EventData::new_u64(INIT), EventFlags::IN)?;
        for (index, listener) in listeners.iter().enumerate() {
            epoll::add(&epoll, listener, EventData::new_u64(token_of_listener(index)), EventFlags::IN)?;
        }
        Ok(Self {
            plan,
            epoll,
            listeners,
            root: root.map(Root::new),
            connections: BTreeMap::new(),
            flows: BTreeMap::new(),
            next: 0,
            busy: VecDeque::new(),
            retries: Vec::new(),
            paused: None,
            swept: Instant::now(),
            scratch: vec![0; SCRATCH],
            log: Log::default(),
            _init: init,
        })
    }

    /// Serves until the instance's init has ended.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(256);
        loop {
            let timeout = self.timeout().map(timespec);
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let (data, flags) = (event.data, event.flags);
                match data.u64() {
                    INIT => return Ok(()),
                    token if token & CONNECTION != 0 => {
                        let (id, target) = ((token & !CONNECTION) >> 1, token & 1 != 0);
                        self.event(id, target, flags);
                    }
                    token => {
                        let index = usize::try_from(token - 1).unwrap_or(usize::MAX);
                        self.arrived(index);
                    }
                }
            }
            for id in std::mem::take(&mut self.busy) {
                self.pump(id);
            }
            for id in std::mem::take(&mut self.retries) {
                self.retry(id);
            }
            self.resume();
            self.sweep();
        }
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.busy.is_empty() {
            return Some(Duration::ZERO);
        }
        if !self.retries.is_empty() {
            return Some(AGAIN.0);
        }
        if self.paused.is_some() {
            return Some(PAUSE);
        }
        let timed = !self.flows.is_empty() || self.connections.values().any(|connection| connection.packets);
        timed.then_some(SWEEP)
    }

    fn endpoint(&self, to: usize) -> Option<&Endpoint> {
        self.plan.connect.get(to).or_else(|| self.plan.connect.first())
    }

    /// Something has come to a listener.
    fn arrived(&mut self, index: usize) {
        match self.plan.listen.get(index) {
            Some(Endpoint::Udp(_)) => self.datagrams(index),
            Some(Endpoint::Tcp(_) | Endpoint::Unix(_)) => self.accept(index),
            None => {}
        }
    }

    fn accept(&mut self, index: usize) {
        for _ in 0..64 {
            let Some(listener) = self.listeners.get(index) else { return };
            match rustix::net::acceptfrom_with(listener, FLAGS) {
                Ok((client, peer)) => {
                    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                    if peer.is_some() {
                        smooth(&client);
                    }
                    let header = if self.plan.header { header(&client, peer) } else { Vec::new() };
                    self.begin(index, Client::Stream(client), header);
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    self.log.line(&format!("accepting: {error}"));
                    self.pause();
                    return;
                }
            }
        }
    }

    /// No file descriptors or no memory: those who wait wait on.
    fn pause(&mut self) {
        if self.paused.is_none() {
            self.paused = Some(Instant::now());
            self.listen_for(EventFlags::empty());
        }
    }

    fn resume(&mut self) {
        if self.paused.is_some_and(|since| since.elapsed() >= PAUSE) {
            self.paused = None;
            self.listen_for(EventFlags::IN);
        }
    }

    fn listen_for(&self, flags: EventFlags) {
        for (index, listener) in self.listeners.iter().enumerate() {
            // They are in the set, so this cannot fail.
            let _ = epoll::modify(&self.epoll, listener, EventData::new_u64(token_of_listener(index)), flags);
        }
    }

    /// Connects a new client. One whose target cannot be had is let go, which closes it.
    fn begin(&mut self, index: usize, client: Client, first: Vec<u8>) -> Option<u64> {
        let to = if self.plan.connect.len() == 1 { 0 } else { index };
        let dialed = match self.endpoint(to) {
            Some(endpoint) => dial(endpoint, self.root.as_ref(), matches!(client, Client::Datagrams(..))),
            None => return None,
        };
        let (target, packets, stage) = match dialed {
            Ok(dialed) => dialed,
            Err(error) => {
                self.no_target(to, &error);
                if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
                    self.pause();
                }
                return None;
            }
        };
        let (id, now) = (self.next, Instant::now());
        self.next += 1;
        let connection = Connection {
            client,
            target,
            to,
            packets,
            stage,
            begun: now,
            last: now,
            up: Half { left: first, ..Half::default() },
            down: Half::default(),
        };
        if let Client::Datagrams(listener, from) = &connection.client {
            self.flows.insert((*listener, *from), id);
        }
        let watched = match &connection.client {
            Client::Stream(client) => self.watch(client, id, false),
            Client::Datagrams(..) => Ok(()),
        };
        let watched = match stage {
            // A socket that was never connected says that it was hung up.
            Stage::Retry => watched,
            Stage::Connecting | Stage::Open => watched.and_then(|()| self.watch(&connection.target, id, true)),
        };
        self.connections.insert(id, connection);
        if let Err(error) = watched {
            self.log.line(&format!("watching a connection: {error}"));
            self.end(id);
            return None;
        }
        match stage {
            Stage::Retry => self.retries.push(id),
            Stage::Connecting => {}
            Stage::Open => self.pump(id),
        }
        Some(id)
    }

    fn watch(&self, fd: &OwnedFd, id: u64, target: bool) -> io::Result<()> {
        let token = CONNECTION | (id << 1) | u64::from(target);
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(token), flags)?)
    }

    fn no_target(&mut self, to: usize, error: &dyn std::fmt::Display) {
        let endpoint = self.endpoint(to).map(ToString::to_string).unwrap_or_default();
        self.log.line(&format!("connecting to {endpoint}: {error}"));
    }

    /// The queue of a unix socket was full.
    fn retry(&mut self, id: u64) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (to, begun) = (connection.to, connection.begun);
        let connected = match self.endpoint(to) {
            Some(Endpoint::Unix(path)) => unix_address(path, self.root.as_ref())
                .and_then(|(address, _held)| Ok(rustix::net::connect(&connection.target, &address)?)),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        };
        match connected {
            Ok(()) => {
                if self.watch(&connection.target, id, true).is_err() {
                    return self.end(id);
                }
                self.opened(id);
            }
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && begun.elapsed() < AGAIN.1 => {
                self.retries.push(id);
            }
            Err(error) => {
                self.no_target(to, &error);
                self.end(id);
            }
        }
    }

    fn opened(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.stage = Stage::Open;
        }
        self.pump(id);
    }

    fn event(&mut self, id: u64, target: bool, flags: EventFlags) {
        let Some(connection) = self.connections.get(&id) else { return };
        match connection.stage {
            Stage::Open => self.pump(id),
            Stage::Connecting if target && flags.intersects(EventFlags::OUT | EventFlags::ERR | EventFlags::HUP) => {
                match sockopt::socket_error(&connection.target) {
                    Ok(Ok(())) => self.opened(id),
                    Ok(Err(error)) | Err(error) => {
                        let to = connection.to;
                        self.no_target(to, &error);
                        self.end(id);
                    }
                }
            }
            // Its client is looked at when there is somebody to bring it to.
            Stage::Connecting | Stage::Retry => {}
        }
    }

    /// Moves what can be moved, both ways.
    fn pump(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.stage != Stage::Open {
            return;
        }
        connection.last = Instant::now();
        let packets = connection.packets;
        let moved = match &connection.client {
            Client::Stream(client) => {
                // What is read at once becomes one datagram.
                let room = if packets { PACKET } else { SCRATCH };
                let scratch = self.scratch.get_mut(..room).unwrap_or_default();
                let up = connection.up.shuttle((client, false), (&connection.target, packets), scratch);
                let down = connection.down.shuttle((&connection.target, packets), (client, false), &mut self.scratch);
                if connection.up.done && connection.down.done {
                    return self.end(id);
                }
                [up, down]
            }
            Client::Datagrams(listener, from) => {
                connection.up.flush(&connection.target);
                let Some(listener) = self.listeners.get(*listener) else { return };
                let down = answer(&connection.target, packets, listener, *from, &mut self.scratch);
                [Moved::All, down]
            }
        };
        for moved in moved {
            match moved {
                Moved::All => {}
                Moved::More => {
                    if self.busy.back() != Some(&id) {
                        self.busy.push_back(id);
                    }
                }
                Moved::Broken(error) => {
                    if error != Errno::CONNRESET {
                        let to = connection.to;
                        self.log.line(&format!("a connection to target {to} is broken: {error}"));
                    }
                    return self.end(id);
                }
            }
        }
    }

    /// Takes in the datagrams of clients.
    fn datagrams(&mut self, index: usize) {
        for _ in 0..64 {
            let Some(listener) = self.listeners.get(index) else { return };
            let received = rustix::net::recvfrom(listener, self.scratch.as_mut_slice(), RecvFlags::empty());
            let (count, from) = match received {
                Ok((count, _, Some(from))) => (count, from),
                Err(Errno::AGAIN) => return,
                // A word of an earlier answer that did not arrive.
                Ok((_, _, None)) | Err(_) => continue,
            };
            let Ok(from) = SocketAddr::try_from(from) else { continue };
            let known = self.flows.get(&(index, from)).copied();
            let id = match known {
                Some(id) => id,
                None => {
                    if self.flows.len() >= MOST_FLOWS {
                        self.make_room();
                    }
                    match self.begin(index, Client::Datagrams(index, from), Vec::new()) {
                        Some(id) => id,
                        None => continue,
                    }
                }
            };
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.last = Instant::now();
            let bytes = self.scratch.get(..count).unwrap_or_default();
            if connection.packets {
                match rustix::net::send(&connection.target, bytes, SendFlags::NOSIGNAL) {
                    Ok(_) | Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::MSGSIZE) => {}
                    Err(error) => {
                        let to = connection.to;
                        self.no_target(to, &error);
                        self.end(id);
                    }
                }
            } else if connection.up.left.len() + count <= MOST_LEFT {
                connection.up.left.extend_from_slice(bytes);
                self.pump(id);
            }
        }
    }

    fn make_room(&mut self) {
        let flows = self.flows.values().filter_map(|id| self.connections.get(id).map(|found| (found.last, *id)));
        if let Some((_, oldest)) = flows.min() {
            self.end(oldest);
        }
    }

    fn sweep(&mut self) {
        if self.swept.elapsed() < SWEEP {
            return;
        }
        self.swept = Instant::now();
        let idle = self.connections.iter().filter(|(_, connection)| {
            let timed = connection.packets || matches!(connection.client, Client::Datagrams(..));
            // A stream lasts as long as its client wants.
            let open = matches!(connection.client, Client::Stream(_)) && !connection.up.done;
            timed && !open && connection.last.elapsed() > IDLE
        });
        for id in idle.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.end(id);
        }
    }

    /// Closes both sides.
    fn end(&mut self, id: u64) {
        if let Some(Connection { client: Client::Datagrams(listener, from), .. }) = self.connections.remove(&id) {
            self.flows.remove(&(listener, from));
        }
    }
}

/// Small pieces go out at once; a peer that has vanished is noticed.
fn smooth(fd: &OwnedFd) {
    let _ = sockopt::set_tcp_nodelay(fd, true);
    let _ = sockopt::set_socket_keepalive(fd, true);
}

/// The address of a unix socket, and what must stay open while it is used.
fn unix_address(path: &str, root: Option<&Root>) -> io::Result<(SocketAddrUnix, Option<OwnedFd>)> {
    if let Some(name) = path.strip_prefix('@') {
        return Ok((SocketAddrUnix::new_abstract_name(name.as_bytes())?, None));
    }
    let Some(root) = root else { return Ok((SocketAddrUnix::new(path)?, None)) };
    let found = root.open(path.as_bytes(), OFlags::PATH, rustix::fs::Mode::empty())?;
    Ok((SocketAddrUnix::new(by_fd(&found))?, Some(found)))
}

/// Begins a connection. Of datagrams, a unix socket may take these, too.
fn dial(endpoint: &Endpoint, root: Option<&Root>, datagrams: bool) -> io::Result<(OwnedFd, bool, Stage)> {
    let open = |family, kind| rustix::net::socket_with(family, kind, FLAGS, None);
    let family = |address: &SocketAddr| match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    match endpoint {
        Endpoint::Tcp(address) => {
            let fd = open(family(address), SocketType::STREAM)?;
            smooth(&fd);
            match rustix::net::connect(&fd, address) {
                Ok(()) => Ok((fd, false, Stage::Open)),
                Err(Errno::INPROGRESS) => Ok((fd, false, Stage::Connecting)),
                Err(error) => Err(error.into()),
            }
        }
        Endpoint::Udp(address) => {
            let fd = open(family(address), SocketType::DGRAM)?;
            rustix::net::connect(&fd, address)?;
            Ok((fd, true, Stage::Open))
        }
        Endpoint::Unix(path) => {
            let (address, _held) = unix_address(path, root)?;
            let fd = open(AddressFamily::UNIX, SocketType::STREAM)?;
            match rustix::net::connect(&fd, &address) {
                Ok(()) => Ok((fd, false, Stage::Open)),
                Err(Errno::AGAIN) => Ok((fd, false, Stage::Retry)),
                Err(Errno::PROTOTYPE) if datagrams => {
                    let fd = open(AddressFamily::UNIX, SocketType::DGRAM)?;
                    // Without a name of its own it gets no answers; the kernel picks one (unix(7), autobind).
                    rustix::net::bind(&fd, &SocketAddrUnix::new_unnamed())?;
                    rustix::net::connect(&fd, &address)?;
                    Ok((fd, true, Stage::Open))
                }
                Err(error) => Err(error.into()),
            }
        }
    }
}

/// Brings what a target says to a client of datagrams.
fn answer(target: &OwnedFd, packets: bool, listener: &OwnedFd, to: SocketAddr, scratch: &mut [u8]) -> Moved {
    let room = if packets { SCRATCH } else { PACKET };
    let scratch = scratch.get_mut(..room).unwrap_or_default();
    for _ in 0..64 {
        let count = match rustix::net::recv(target, &mut *scratch, RecvFlags::empty()) {
            Ok((0, _)) if !packets => return Moved::Broken(Errno::CONNRESET),
            Ok((count, _)) => count,
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => return Moved::All,
            Err(error) => return Moved::Broken(error),
        };
        // One that cannot be sent is lost, as datagrams are.
        let bytes = scratch.get(..count).unwrap_or_default();
        let _ = rustix::net::sendto(listener.as_fd(), bytes, SendFlags::NOSIGNAL, &to);
    }
    Moved::More
}

/// The line of HAProxy's PROXY protocol, version 1 (proxy-protocol.txt, 2.1).
fn header(client: &OwnedFd, peer: Option<SocketAddr>) -> Vec<u8> {
    let own = rustix::net::getsockname(client).ok().and_then(|own| SocketAddr::try_from(own).ok());
    header_of(peer, own)
}

fn header_of(peer: Option<SocketAddr>, own: Option<SocketAddr>) -> Vec<u8> {
    let (Some(peer), Some(own)) = (peer, own) else { return b"PROXY UNKNOWN\r\n".to_vec() };
    // A socket for both families tells IPv4 addresses as IPv6 ones.
    let (from, to) = (peer.ip().to_canonical(), own.ip().to_canonical());
    let family = if from.is_ipv4() && to.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {from} {to} {} {}\r\n", peer.port(), own.port()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_names_the_client() {
        let address = |text: &str| text.parse::<SocketAddr>().ok();
        let text = |peer, own| String::from_utf8(header_of(address(peer), address(own))).unwrap();
        assert_eq!(text("10.0.0.1:5", "10.0.0.2:80"), "PROXY TCP4 10.0.0.1 10.0.0.2 5 80\r\n");
        assert_eq!(text("[::ffff:10.0.0.1]:5", "[::ffff:10.0.0.2]:80"), "PROXY TCP4 10.0.0.1 10.0.0.2 5 80\r\n");
        assert_eq!(text("[fe80::1]:5", "[::1]:80"), "PROXY TCP6 fe80::1 ::1 5 80\r\n");
        assert_eq!(text("", ""), "PROXY UNKNOWN\r\n");
    }
}
