//! ioctl(2) with an argument of a known size.
#![allow(unsafe_code, reason = "ioctl(2) has no safe interface")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The direction bits of a request (linux/ioctl.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// There is no argument to copy.
    None,
    /// The kernel reads the argument.
    Write,
    /// The kernel fills the argument.
    Read,
    /// Both.
    Both,
}

/// The number of a request: who knows it, which one, and the size of its argument.
pub(super) const fn number(direction: Direction, kind: u8, request: u8, size: usize) -> u32 {
    let direction = match direction {
        Direction::None => 0,
        Direction::Write => 1,
        Direction::Read => 2,
        Direction::Both => 3,
    };
    // 14 bits of size: every argument here is shorter.
    (direction << 30) | ((size as u32) << 16) | ((kind as u32) << 8) | request as u32
}

/// Makes the request with `argument`, which holds at least as many bytes as the number says.
///
/// # Errors
/// That of the kernel.
pub(super) fn on_bytes(fd: impl AsFd, number: u32, argument: &mut [u8]) -> io::Result<i32> {
    if argument.len() < ((number >> 16) & 0x3fff) as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the number tells the kernel how long the argument is, and it is that long.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), number as _, argument.as_mut_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Makes a request whose argument is no address.
///
/// # Errors
/// That of the kernel.
pub(super) fn on_value(fd: impl AsFd, number: u32, value: usize) -> io::Result<i32> {
    // SAFETY: the callers' requests take a plain number.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), number as _, value) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// An argument under construction: fields lie where the kernel's headers have them.
#[derive(Debug, Clone)]
pub(super) struct Argument<const SIZE: usize>(pub(super) [u8; SIZE]);

impl<const SIZE: usize> Argument<SIZE> {
    pub(super) fn new() -> Self {
        Self([0; SIZE])
    }

    /// Puts bytes at an offset; what does not fit is left out.
    pub(super) fn bytes(mut self, at: usize, bytes: &[u8]) -> Self {
        if let Some(place) = self.0.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
        self
    }

    pub(super) fn long(self, at: usize, value: u64) -> Self {
        self.bytes(at, &value.to_ne_bytes())
    }

    pub(super) fn word(self, at: usize, value: u32) -> Self {
        self.bytes(at, &value.to_ne_bytes())
    }

    pub(super) fn long_at(&self, at: usize) -> u64 {
        let bytes = self.0.get(at..).and_then(|rest| rest.first_chunk::<8>());
        bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
    }

    pub(super) fn word_at(&self, at: usize) -> u32 {
        let bytes = self.0.get(at..).and_then(|rest| rest.first_chunk::<4>());
        bytes.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }
}
