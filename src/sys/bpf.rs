//! Programs of control groups of version 2 that decide about devices (bpf(2), `Documentation/bpf/prog_cgroup_device` in
//! Linux's words `BPF_PROG_TYPE_CGROUP_DEVICE`). Numbers and offsets: linux/bpf.h.
#![allow(unsafe_code, reason = "bpf(2) has no safe interface")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `BPF_PROG_LOAD`.
pub const LOAD: u64 = 5;
/// `BPF_PROG_ATTACH`.
pub const ATTACH: u64 = 8;
/// `BPF_PROG_DETACH`.
pub const DETACH: u64 = 9;
/// `BPF_PROG_QUERY`.
const QUERY: u64 = 16;
/// `BPF_PROG_TYPE_CGROUP_DEVICE`.
pub const DEVICE_PROGRAM: u32 = 15;
/// `BPF_CGROUP_DEVICE`.
pub const DEVICE_ATTACHMENT: u32 = 6;
/// `BPF_F_ALLOW_OVERRIDE`.
pub const ALLOW_OVERRIDE: u32 = 1;
/// `BPF_F_ALLOW_MULTI`.
pub const ALLOW_MULTI: u32 = 2;

/// As much of `union bpf_attr` as these commands use.
#[derive(Debug, Clone)]
struct Attributes([u8; Self::SIZE]);

impl Attributes {
    const SIZE: usize = 72;

    fn new() -> Self {
        Self([0; Self::SIZE])
    }

    fn word(mut self, at: usize, value: u32) -> Self {
        if let Some(place) = self.0.get_mut(at..at + 4) {
            place.copy_from_slice(&value.to_ne_bytes());
        }
        self
    }

    fn fd(self, at: usize, fd: BorrowedFd<'_>) -> Self {
        // Of an open file the number is not negative.
        self.word(at, fd.as_raw_fd().cast_unsigned())
    }

    fn address<T>(mut self, at: usize, of: *const T) -> Self {
        if let Some(place) = self.0.get_mut(at..at + 8) {
            place.copy_from_slice(&(of as u64).to_ne_bytes());
        }
        self
    }

    fn call(&mut self, command: u64) -> io::Result<i32> {
        // SAFETY: the kernel reads and writes the attributes, whose size is given; who put an address into them keeps what
        // is there alive over the call.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), Self::SIZE) };
        match i32::try_from(result) {
            Ok(result @ 0..) => Ok(result),
            Ok(_) | Err(_) => Err(io::Error::last_os_error()),
        }
    }
}

/// Loads a program that decides about devices; `name` has at most 15 bytes, then NULs.
///
/// # Errors
/// Of bpf(2): EINVAL and EACCES when the kernel does not take the program.
pub fn load_device_program(instructions: &[u64], name: [u8; 16]) -> io::Result<OwnedFd> {
    let count = u32::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut attributes = Attributes::new()
        .word(0, DEVICE_PROGRAM)
        .word(4, count)
        .address(8, instructions.as_ptr())
        .address(16, c"GPL".as_ptr());
    if let Some(place) = attributes.0.get_mut(48..64) {
        place.copy_from_slice(&name);
    }
    let fd = attributes.call(LOAD)?;
    // SAFETY: the kernel has just opened it for this process, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has a program decide about devices in a control group and all below it.
///
/// # Errors
/// Of bpf(2).
pub fn attach(group: impl AsFd, program: impl AsFd, flags: u32) -> io::Result<()> {
    let attributes =
        Attributes::new().fd(0, group.as_fd()).fd(4, program.as_fd()).word(8, DEVICE_ATTACHMENT).word(12, flags);
    attributes.clone().call(ATTACH).map(drop)
}

/// Takes a program away from a control group; without one the only one that is there, if it is no list.
///
/// # Errors
/// Of bpf(2): ENOENT when it is not there.
pub fn detach(group: impl AsFd, program: Option<impl AsFd>) -> io::Result<()> {
    let attributes = Attributes::new().fd(0, group.as_fd()).word(8, DEVICE_ATTACHMENT);
    // No program has the number of this, so that the kernel takes it for none.
    let attributes = match &program {
        Some(program) => attributes.fd(4, program.as_fd()),
        None => attributes.word(4, u32::MAX),
    };
    attributes.clone().call(DETACH).map(drop)
}

/// How many programs a control group has of its own, and with which flags they were attached.
///
/// # Errors
/// Of bpf(2).
pub fn attached(group: impl AsFd) -> io::Result<(u32, u32)> {
    let mut attributes = Attributes::new().fd(0, group.as_fd()).word(4, DEVICE_ATTACHMENT);
    match attributes.call(QUERY) {
        Ok(_) => {}
        // There is no room for their numbers, which is not wanted; count and flags are told nevertheless.
        Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {}
        Err(error) => return Err(error),
    }
    let word = |at: usize| {
        let bytes = attributes.0.get(at..at + 4).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    };
    Ok((word(24), word(12)))
}
