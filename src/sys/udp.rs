//! UDP by one interface.
#![allow(unsafe_code, reason = "SO_BINDTODEVICE has no safe interface")]

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd as _;

/// A socket for IPv4 that sends and receives by the interface `name` only (socket(7), `SO_BINDTODEVICE`): what it sends to an
/// address of this host counts as having come there.
///
/// # Errors
/// Of bind(2) and setsockopt(2), as when there is no such interface.
pub fn by_interface(name: &str) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let length = libc::socklen_t::try_from(name.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel reads `length` bytes, which the name has.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, name.as_ptr().cast(), length)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}
