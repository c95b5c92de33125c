//! What the kernel told of devices, told again inside a container: the kernel itself tells nothing to network namespaces
//! that belong to another user namespace than the first.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::child::{answer, fail};
use super::protocol::{Inbox, Reply};
use crate::sys::uevent::{self, Uevent};
use crate::sys::userns;

/// The fds that come along are the container's network namespace and its user namespace.
pub(super) fn serve(socket: &OwnedFd, mut inbox: Inbox, events: &[Uevent]) -> io::Result<()> {
    match run(events, std::mem::take(&mut inbox.fds)) {
        Ok(()) => answer(socket, &Reply::Done, &[]),
        Err(error) => fail(socket, &error),
    }
}

fn run(events: &[Uevent], fds: Vec<OwnedFd>) -> io::Result<()> {
    let Ok([network, users]) = <[OwnedFd; 2]>::try_from(fds) else { return Err(io::ErrorKind::InvalidInput.into()) };
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
    // A udevd inside hears root, and that is its own.
    userns::enter(users)?;
    events.iter().try_for_each(uevent::inject)
}
