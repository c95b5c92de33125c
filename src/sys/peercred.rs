//! Users and groups of the host, and who is at the other end of a unix socket.
#![allow(unsafe_code, reason = "SO_PEERCRED of a process that is not visible, SO_PEERPIDFD")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::process;

/// Who connected a unix socket, as it was then (unix(7), `SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Its number; none for one of a process namespace that is not visible from here. It may have ended.
    pub pid: Option<i32>,
}

fn credentials(socket: BorrowedFd<'_>) -> io::Result<libc::ucred> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = libc::socklen_t::try_from(size_of_val(&peer)).unwrap_or(0);
    let fd = socket.as_raw_fd();
    // SAFETY: the pointers are to a ucred and to its length, which outlive the call.
    let told =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &raw mut length) };
    if told != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(peer)
}

/// Who connected a unix socket.
///
/// # Errors
/// Of getsockopt(2).
pub fn peer(socket: impl AsFd) -> io::Result<Peer> {
    let peer = credentials(socket.as_fd())?;
    Ok(Peer { uid: peer.uid, pid: (peer.pid > 0).then_some(peer.pid) })
}

/// All groups of who connected a unix socket, as they were then: its own first (`SO_PEERCRED`), then the supplementary ones
/// (`SO_PEERGROUPS`, Linux 4.13; without that, none).
///
/// # Errors
/// Of getsockopt(2).
pub fn groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let own = credentials(socket.as_fd())?;
    let fd = socket.as_fd().as_raw_fd();
    let mut others: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut length = libc::socklen_t::try_from(size_of_val(others.as_slice())).unwrap_or(0);
        // SAFETY: the pointer is to as many bytes as the length says, and both outlive the call.
        let told = unsafe {
            libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERGROUPS, others.as_mut_ptr().cast(), &raw mut length)
        };
        let count = usize::try_from(length).unwrap_or(0) / size_of::<libc::gid_t>();
        if told == 0 {
            others.truncate(count);
            break;
        }
        match io::Error::last_os_error() {
            // It has told how many there are.
            error if error.raw_os_error() == Some(libc::ERANGE) && count > others.len() => others.resize(count, 0),
            error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                others.clear();
                break;
            }
            error => return Err(error),
        }
    }
    others.insert(0, own.gid);
    Ok(others)
}

/// `SO_PEERPIDFD` of `asm-generic/socket.h` (Linux 6.5).
const SO_PEERPIDFD: libc::c_int = 77;

/// The process that connected a unix socket, its number being `pid`. Kernels before 6.5 only know the number: there it may
/// have been given to another process between the connect and this call.
///
/// # Errors
/// When it has ended.
pub fn peer_process(socket: impl AsFd, pid: i32) -> io::Result<OwnedFd> {
    let mut pidfd: RawFd = -1;
    let mut length = libc::socklen_t::try_from(size_of_val(&pidfd)).unwrap_or(0);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the pointers are to an int and to its length, which outlive the call.
    let told =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, SO_PEERPIDFD, (&raw mut pidfd).cast(), &raw mut length) };
    if told == 0 && pidfd >= 0 {
        // SAFETY: the kernel has just made this descriptor for us, close-on-exec; nobody else owns it.
        return Ok(unsafe { OwnedFd::from_raw_fd(pidfd) });
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => process::pidfd_open(pid),
        error => Err(error),
    }
}

/// The name of a user by id, from /etc/passwd (passwd(5)).
pub fn user_name(uid: u32) -> Option<String> {
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// The id of a group by name or number, from /etc/group (group(5)).
///
/// # Errors
/// `NotFound` when there is no such group.
pub fn group_id(group: &str) -> io::Result<u32> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let text = std::fs::read_to_string("/etc/group")?;
    text.lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == group).then(|| fields.nth(1)?.parse().ok()).flatten()
        })
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no group {group:?} on this host")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_connected_is_known() {
        let (one, _two) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = peer(&one).unwrap();
        assert_eq!(groups(&one).unwrap()[0], rustix::process::getegid().as_raw());
        let own: Vec<u32> =
            rustix::process::getgroups().unwrap().into_iter().map(rustix::process::Gid::as_raw).collect();
        assert_eq!(groups(&one).unwrap()[1..], own);
        let pid = peer.pid.unwrap();
        assert_eq!(pid, i32::try_from(std::process::id()).unwrap());
        assert!(super::super::namespace::is_alive(peer_process(&one, pid).unwrap()).unwrap());
    }
}
