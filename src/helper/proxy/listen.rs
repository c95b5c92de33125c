//! Listening: all sockets of a proxy, or none.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use rustix::thread::CapabilitySets;

use super::{Endpoint, ProxyPlan, Side, SocketFile};
use crate::helper::child::outside;
use crate::helper::files::root::{Root, by_fd};

/// As many as the host lets wait (`net.core.somaxconn` cuts it).
const BACKLOG: i32 = 4096;

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// What a proxy listens to.
pub(super) struct Sockets {
    /// In the order of the plan.
    pub(super) listeners: Vec<OwnedFd>,
    /// The socket file, if one was made.
    pub(super) file: Option<SocketFile>,
    made: Option<(Root, String)>,
}

impl Sockets {
    /// Removes the socket file.
    pub(super) fn take_back(&self) {
        if let (Some((root, path)), Some(file)) = (&self.made, self.file) {
            // Whoever comes next replaces what stays.
            let _ = remove_below(root, path, file);
        }
    }
}

/// Opens all; by an error nothing is left.
pub(super) fn open(plan: &ProxyPlan, side: &Side) -> Result<Sockets, String> {
    let mut sockets = Sockets { listeners: Vec::with_capacity(plan.listen.len()), file: None, made: None };
    for endpoint in &plan.listen {
        match listen(plan, side, endpoint, &mut sockets) {
            Ok(listener) => sockets.listeners.push(listener),
            Err(error) => {
                sockets.take_back();
                return Err(format!("cannot listen on {endpoint}: {error}"));
            }
        }
    }
    Ok(sockets)
}

fn listen(plan: &ProxyPlan, side: &Side, endpoint: &Endpoint, sockets: &mut Sockets) -> io::Result<OwnedFd> {
    match endpoint {
        Endpoint::Tcp(address) => {
            let fd = bound(*address, SocketType::STREAM)?;
            rustix::net::listen(&fd, BACKLOG)?;
            Ok(fd)
        }
        Endpoint::Udp(address) => bound(*address, SocketType::DGRAM),
        Endpoint::Unix(name) => {
            let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
            match name.strip_prefix('@') {
                Some(name) => rustix::net::bind(&fd, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?,
                None => {
                    let root = if plan.inside {
                        side.root.try_clone()?
                    } else {
                        rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?
                    };
                    bind_path(plan, side, Root::new(root), name, &fd, sockets)?;
                }
            }
            rustix::net::listen(&fd, BACKLOG)?;
            Ok(fd)
        }
    }
}

/// A socket of an IP address.
fn bound(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = match rustix::net::socket_with(family, kind, FLAGS, None) {
        // All addresses, on a host without IPv6.
        Err(Errno::AFNOSUPPORT) if address.ip().is_unspecified() => {
            return bound(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port()), kind);
        }
        opened => opened?,
    };
    if kind == SocketType::STREAM {
        sockopt::set_socket_reuseaddr(&fd, true)?;
    }
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, !address.ip().is_unspecified())?;
    }
    rustix::net::bind(&fd, &address)?;
    Ok(fd)
}

/// Runs `work` as `ids` of the host, with all capabilities: what it makes belongs to these.
fn as_owner<T>(ids: Option<(u32, u32)>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    use rustix::thread::{set_thread_res_gid, set_thread_res_uid};
    let Some((uid, gid)) = ids else { return work() };
    let all = rustix::thread::capabilities(None)?.permitted;
    set_thread_res_gid(Gid::ROOT, Gid::from_raw(gid), Gid::ROOT)?;
    set_thread_res_uid(Uid::ROOT, Uid::from_raw(uid), Uid::ROOT)?;
    let sets = CapabilitySets { effective: all, permitted: all, inheritable: rustix::thread::CapabilitySet::empty() };
    let done = rustix::thread::set_capabilities(None, sets).map_err(io::Error::from).and_then(|()| work());
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    done
}

fn bind_path(
    plan: &ProxyPlan,
    side: &Side,
    root: Root,
    path: &str,
    socket: &OwnedFd,
    sockets: &mut Sockets,
) -> io::Result<()> {
    let mapped = plan.inside && side.users.is_some();
    let id = |file, id| if mapped { outside(plan.init, file, id) } else { Some(id) };
    let no_id = || io::Error::other("the instance has no such uid or gid");
    let (uid, gid, mode) = plan.owner;
    let uid = id("uid_map", uid).ok_or_else(no_id)?;
    let gid = id("gid_map", gid).ok_or_else(no_id)?;
    let maker = match (mapped, id("uid_map", 0), id("gid_map", 0)) {
        (true, Some(uid), Some(gid)) => Some((uid, gid)),
        _ => None,
    };
    let entry = root.entry(path.as_bytes()).map_err(|refusal| io::Error::other(refusal.to_string()));
    let (directory, name) = entry?;
    let name = name.as_slice();
    let text = String::from_utf8_lossy(name).into_owned();
    let address = SocketAddrUnix::new(format!("{}/{text}", by_fd(&directory)))?;
    as_owner(maker, || {
        let old = rustix::process::umask(Mode::from_raw_mode(!mode & 0o777));
        let mut bound = rustix::net::bind(socket, &address);
        if bound == Err(Errno::ADDRINUSE) && is_stale(&directory, name, &address) {
            rustix::fs::unlinkat(&directory, name, AtFlags::empty())?;
            bound = rustix::net::bind(socket, &address);
        }
        rustix::process::umask(old);
        Ok(bound?)
    })?;
    let made = rustix::fs::openat(&directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstat(&made)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(io::Error::other("somebody has put something else in its place"));
    }
    sockets.file = Some((stat.st_dev, stat.st_ino));
    sockets.made = Some((root, path.to_owned()));
    rustix::fs::chownat(&made, "", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)?;
    Ok(())
}

/// Whether a socket file lies there that nobody listens to.
fn is_stale(directory: &OwnedFd, name: &[u8], address: &SocketAddrUnix) -> bool {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
    if !stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket) {
        return false;
    }
    let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None);
    probe.is_ok_and(|probe| rustix::net::connect(&probe, address) == Err(Errno::CONNREFUSED))
}

/// Removes a socket file if it is this one.
pub(super) fn remove(root: OwnedFd, path: &str, file: SocketFile) -> io::Result<()> {
    remove_below(&Root::new(root), path, file)
}

fn remove_below(root: &Root, path: &str, file: SocketFile) -> io::Result<()> {
    // Without its directory it is gone, too.
    let Ok((directory, name)) = root.entry(path.as_bytes()) else { return Ok(()) };
    match rustix::fs::statat(directory.as_fd(), name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if (stat.st_dev, stat.st_ino) == file => {
            Ok(rustix::fs::unlinkat(&directory, name.as_slice(), AtFlags::empty())?)
        }
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
