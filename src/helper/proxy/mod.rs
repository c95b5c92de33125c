//! The process of a proxy device: `warrend proxy <log>`, one for each, which outlives the daemon.
//!
//! ```text
//!  daemon                                    proxy (one thread, stdin = socketpair)
//!    │ ── Plan + init, net ns, root [, user] ──> listens on its side
//!    │ <── Ready | Failed ──────────────────────┤
//!    │    writes down who it is                 │
//!    │ ── Go ──────────────────────────────────>│ goes over to the other side, drops what it may, serves
//!    ·                                          └ until init ends, or it is killed
//! ```
//! A socket belongs to the network namespace in which it was made, so one thread does: it makes those that listen, moves,
//! and stays. A daemon that dies before `Go` leaves nobody behind. A path inside is only ever resolved by
//! [`super::files::root`], below the instance's root.

mod engine;
mod listen;
mod shuttle;

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use rustix::net::Shutdown;
use rustix::thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use super::protocol::{Inbox, encode};
use crate::sys::{process, program, socket};

/// The daemon waits so long for a proxy to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// One socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Endpoint {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A UDP port.
    Udp(SocketAddr),
    /// A path, or a name after an `@`.
    Unix(String),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Udp(address) => write!(f, "udp:{address}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// A socket file, by which it is known again: device and inode.
pub type SocketFile = (u64, u64);

/// What a proxy is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyPlan {
    /// Where it listens.
    pub listen: Vec<Endpoint>,
    /// Where each of these is connected to; one for all, or as many.
    pub connect: Vec<Endpoint>,
    /// It listens inside; else it connects there.
    pub inside: bool,
    /// Each connection begins with a line that names the client (HAProxy's PROXY protocol, version 1).
    pub header: bool,
    /// Owner and group of a socket file, on the side where it lies, and its permission bits.
    pub owner: (u32, u32, u32),
    /// User and group of the process, on the side where it connects.
    pub security: (u32, u32),
    /// The instance's init, in the host's numbering.
    pub init: i32,
}

#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// Comes with the fds of [`Side`].
    Serve(ProxyPlan),
    Go,
    /// Comes with a root directory: removes the socket file at the path if it is this one.
    Remove {
        path: String,
        file: SocketFile,
    },
}

#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    Ready { file: Option<SocketFile> },
    Done,
    Failed { reason: String },
}

/// The instance's side, as fds.
#[derive(Debug)]
pub struct Side {
    /// A pidfd of init: the proxy ends with it.
    pub init: OwnedFd,
    /// The network namespace.
    pub network: OwnedFd,
    /// The root directory.
    pub root: OwnedFd,
    /// The user namespace; none of a privileged instance.
    pub users: Option<OwnedFd>,
}

/// A proxy that listens, and waits to be let go.
pub struct Waiting {
    socket: UnixStream,
    /// Its pid.
    pub pid: i32,
    /// The socket file that it has made.
    pub file: Option<SocketFile>,
}

impl Waiting {
    /// Lets it serve. Dropped instead, it ends and leaves nothing.
    ///
    /// # Errors
    /// When it has ended.
    pub fn go(self) -> io::Result<()> {
        (&self.socket).write_all(&encode(&Request::Go)?)
    }
}

fn send(socket: &UnixStream, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = encode(request)?;
    let sent = socket::send(socket, &bytes, fds)?;
    let mut socket = socket;
    socket.write_all(&bytes[sent..])
}

fn receive<T: serde::de::DeserializeOwned>(socket: impl AsFd, inbox: &mut Inbox) -> io::Result<T> {
    loop {
        if let Some(message) = inbox.take()? {
            return Ok(message);
        }
        match inbox.fill(&socket) {
            Ok(true) => {}
            Ok(false) => return Err(io::ErrorKind::UnexpectedEof.into()),
            // A socket with a timeout is not waited for again by itself (signal(7)).
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Starts `warrend proxy <log>` and asks it. Blocking; within a runtime, which reaps it.
fn ask(log: &Path, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<(UnixStream, i32, Reply)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(PATIENCE))?;
    ours.set_write_timeout(Some(PATIENCE))?;
    let output = File::options().create(true).append(true).open(log)?;
    let mut child = tokio::process::Command::new(program::path())
        .arg0(program::NAME)
        .arg("proxy")
        .arg(log)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::from(output))
        .spawn()?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).ok_or(io::ErrorKind::NotFound)?;
    match send(&ours, request, fds).and_then(|()| receive(&ours, &mut Inbox::default())) {
        Ok(reply @ Reply::Ready { .. }) => Ok((ours, pid, reply)),
        Ok(reply) => {
            // Only then nothing of it is left. One that cannot be found has been reaped.
            if let Ok(pidfd) = process::pidfd_open(pid) {
                process::ended(&pidfd, PATIENCE);
            }
            Ok((ours, pid, reply))
        }
        Err(error) => {
            // It may hang in a file system that the instance made.
            let _ = child.start_kill();
            Err(error)
        }
    }
}

/// Starts a proxy: it listens when this returns. Blocking.
///
/// # Errors
/// Why it does not, in words.
pub fn start(log: &Path, plan: ProxyPlan, side: &Side) -> Result<Waiting, String> {
    let mut fds = vec![side.init.as_fd(), side.network.as_fd(), side.root.as_fd()];
    fds.extend(side.users.as_ref().map(AsFd::as_fd));
    match ask(log, &Request::Serve(plan), &fds) {
        Ok((socket, pid, Reply::Ready { file })) => Ok(Waiting { socket, pid, file }),
        Ok((_, _, Reply::Failed { reason })) => Err(reason),
        Ok((_, _, Reply::Done)) => Err("its process answered nonsense".to_owned()),
        Err(error) => Err(format!("its process cannot be started: {error}")),
    }
}

/// Removes the socket file that a proxy made at `path` below `root`, if it is still that. Blocking.
///
/// # Errors
/// In words.
pub fn remove_socket(log: &Path, root: impl AsFd, path: &str, file: SocketFile) -> Result<(), String> {
    match ask(log, &Request::Remove { path: path.to_owned(), file }, &[root.as_fd()]) {
        Ok((_, _, Reply::Done)) => Ok(()),
        Ok((_, _, Reply::Failed { reason })) => Err(reason),
        Ok((_, _, Reply::Ready { .. })) => Err("a process answered nonsense".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Entry of `warrend proxy <log>`. There is one thread, stdin is the socket, stderr the log.
pub fn child_main(_arguments: &[String]) -> ExitCode {
    process::clean_inheritance();
    process::raise_open_files();
    // Not of the daemon's terminal, nor of its group.
    let _ = rustix::process::setsid();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            engine::Log::default().line(&format!("ends: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn reply(socket: &UnixStream, reply: &Reply) -> io::Result<()> {
    let mut socket = socket;
    socket.write_all(&encode(reply)?)
}

fn run() -> io::Result<()> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    drop(null);
    let mut inbox = Inbox::default();
    let request: Request = receive(&socket, &mut inbox)?;
    let mut fds = std::mem::take(&mut inbox.fds).into_iter();
    let lacking = || io::Error::from(io::ErrorKind::InvalidInput);
    match request {
        Request::Go => Ok(()),
        Request::Remove { path, file } => {
            let done = listen::remove(fds.next().ok_or_else(lacking)?, &path, file);
            let answer = match done {
                Ok(()) => Reply::Done,
                Err(error) => Reply::Failed { reason: error.to_string() },
            };
            reply(&socket, &answer)
        }
        Request::Serve(plan) => {
            let side = Side {
                init: fds.next().ok_or_else(lacking)?,
                network: fds.next().ok_or_else(lacking)?,
                root: fds.next().ok_or_else(lacking)?,
                users: fds.next(),
            };
            let home = OwnedFd::from(File::open("/proc/self/ns/net")?);
            let sockets = match prepare(&plan, &side) {
                Ok(sockets) => sockets,
                Err(reason) => return reply(&socket, &Reply::Failed { reason }),
            };
            let go = reply(&socket, &Reply::Ready { file: sockets.file })
                .and_then(|()| receive::<Request>(&socket, &mut inbox));
            if !matches!(go, Ok(Request::Go)) {
                sockets.take_back();
                return Ok(());
            }
            let _ = socket.shutdown(std::net::Shutdown::Both);
            drop(socket);
            enter_network(if plan.inside { &home } else { &side.network })?;
            drop(home);
            let root = (!plan.inside).then_some(side.root);
            let users = if plan.inside { None } else { side.users };
            confine(&plan, users)?;
            engine::Engine::new(plan, sockets.listeners, side.init, root)?.run()
        }
    }
}

fn prepare(plan: &ProxyPlan, side: &Side) -> Result<listen::Sockets, String> {
    let words = |error: io::Error| error.to_string();
    // Whoever it is to become must be there.
    if !plan.inside && side.users.is_some() {
        let map = |file, id| super::child::outside(plan.init, file, id);
        if map("uid_map", plan.security.0).is_none() || map("gid_map", plan.security.1).is_none() {
            return Err("security.uid and security.gid must be ids that the instance has".to_owned());
        }
    }
    if plan.inside {
        enter_network(&side.network).map_err(words)?;
    }
    listen::open(plan, side)
}

fn enter_network(namespace: &OwnedFd) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// Becomes who connects, and gives up the rest: what is left is to pass by permissions on the way to a socket file, and
/// that only as root.
fn confine(plan: &ProxyPlan, users: Option<OwnedFd>) -> io::Result<()> {
    use rustix::process::{Gid, Uid};
    if let Some(users) = users {
        move_into_link_name_space(users.as_fd(), Some(LinkNameSpaceType::User))?;
    }
    let (uid, gid) = (Uid::from_raw(plan.security.0), Gid::from_raw(plan.security.1));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    let paths = plan.connect.iter().any(|to| matches!(to, Endpoint::Unix(path) if path.starts_with('/')));
    let kept = if uid.is_root() && paths { CapabilitySet::DAC_OVERRIDE } else { CapabilitySet::empty() };
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

/// Ends one way of a connection; what has ended already has.
fn shut(fd: impl AsFd) {
    let _ = rustix::net::shutdown(fd, Shutdown::Write);
}
