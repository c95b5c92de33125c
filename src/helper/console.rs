//! The helper of a console.
//!
//! liblxc's monitor copies what the container writes to its console to the attached client, and waits while the client's
//! terminal is full: it then answers nobody and does not even see its container end (tried with liblxc 5.0.2). It has
//! a descriptor of the client's end itself, so a client that is gone leaves it waiting for ever. So:
//!
//! ```text
//!   take the console ──> hand the terminal to the daemon, which reads it
//!                           │ the daemon lets go of the socket, or is gone
//!                           v
//!   give the console back ──> read until the monitor has closed its end ──> exit
//! ```

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::ContainerRef;
use super::child::{answer, fail, open};
use super::protocol::Reply;

/// The monitor notices a moment later that the last client has left; a new one asks again meanwhile.
const TAKEN: Duration = Duration::from_secs(2);
/// Time between two tries.
const AGAIN: Duration = Duration::from_millis(10);
/// A monitor that has not closed its end by then never will, and has nothing to write either.
const DRAIN: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Takes the console, hands it out, and gives it back when the other end of `socket` closes.
pub(super) fn serve(socket: &OwnedFd, container: &ContainerRef) -> io::Result<()> {
    let until = Instant::now() + TAKEN;
    let console = loop {
        let mut handle = match open(container) {
            Ok(handle) => handle,
            Err(error) => return fail(socket, &error),
        };
        match handle.console() {
            Ok(console) => break console,
            Err(error) if handle.init_pid().is_err() => return fail(socket, &error),
            Err(_) if Instant::now() < until => std::thread::sleep(AGAIN),
            Err(_) => return answer(socket, &Reply::ConsoleTaken, &[]),
        }
    };
    // When nobody hears this any more, the console goes back at once.
    if answer(socket, &Reply::Console, &[console.ptx.as_fd()]).is_ok() {
        hold(socket)?;
    }
    drop(console.slot);
    drain(&console.ptx)
}

/// Waits for the end of the daemon's interest: it sends nothing more, so whatever happens is the end.
fn hold(socket: &OwnedFd) -> io::Result<()> {
    loop {
        match rustix::event::poll(&mut [PollFd::new(socket, PollFlags::IN)], None) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn drain(ptx: &OwnedFd) -> io::Result<()> {
    let mut scratch = [0; 16 * 1024];
    loop {
        match rustix::event::poll(&mut [PollFd::new(ptx, PollFlags::IN)], Some(&DRAIN)) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        match rustix::io::read(ptx, &mut scratch) {
            Ok(1..) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            // EIO: the other end is closed.
            Ok(0) | Err(_) => return Ok(()),
        }
    }
}
