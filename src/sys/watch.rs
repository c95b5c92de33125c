//! File descriptors that the runtime watches.
#![allow(unsafe_code, reason = "tokio wants a promise about the descriptor's life")]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches `fd` for `interest`.
///
/// # Errors
/// Of epoll_ctl(2).
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd gives the same open descriptor as long as it lives, and the AsyncFd owns it.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}
