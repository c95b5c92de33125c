//! System calls that wait for somebody else's answer (seccomp_unotify(2)), as liblxc's monitor passes them on.
//!
//! `lxc.seccomp.notify.proxy` in lxc.container.conf(5): the monitor connects to a `SOCK_SEQPACKET` socket and sends a
//! message for each call, with three fds (the caller's directory in /proc, its memory, the listener), then waits for the
//! answer. Seen with liblxc 5.0.2: 8 bytes reserved, the monitor's pid, init's pid (4 bytes each), `struct
//! seccomp_notif_sizes` padded to 8 bytes, the cookie's length (8 bytes), `struct seccomp_notif`, `struct
//! seccomp_notif_resp`, the cookie. The answer is the same without the cookie; one with a cookie is not taken.
#![allow(unsafe_code, reason = "an ioctl, file ids, a fork and a scheduler's policy have no safe interface")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

/// Bytes before the notice.
const HEAD: usize = 32;
/// `struct seccomp_notif` has at least so many bytes; newer kernels may have more.
const NOTICE: usize = 80;
/// `struct seccomp_notif_resp`.
const ANSWER: usize = 24;
/// More than a message has. The cookie is a container's name.
pub const MAX_MESSAGE: usize = 4096;
/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE` (linux/seccomp.h).
const CONTINUE: u32 = 1;
/// `SECCOMP_IOCTL_NOTIF_ID_VALID` (linux/seccomp.h).
const ID_VALID: libc::c_ulong = 0x4008_2102;
/// `SECCOMP_IOCTL_NOTIF_ADDFD` (linux/seccomp.h).
const ADD_FD: libc::c_ulong = 0x4018_2103;

/// The architecture of this program's own calls (`AUDIT_ARCH_*`, linux/audit.h); other callers' numbers mean others.
#[cfg(target_arch = "x86_64")]
pub const NATIVE: u32 = 0xc000_003e;
/// The architecture of this program's own calls (`AUDIT_ARCH_*`, linux/audit.h); other callers' numbers mean others.
#[cfg(target_arch = "aarch64")]
pub const NATIVE: u32 = 0xc000_00b7;
/// The architecture of this program's own calls is not known: none is acted on.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub const NATIVE: u32 = 0;

/// A call that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The container's init, in the host's numbering.
    pub init: i32,
    /// Which wait of the listener's this is.
    pub id: u64,
    /// The thread, in the host's numbering.
    pub thread: i32,
    /// Of the call, in its architecture.
    pub number: i32,
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    /// As they stood in registers.
    pub arguments: [u64; 6],
    /// `lxc.seccomp.notify.cookie`.
    pub cookie: String,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// The kernel goes on with it, as if nobody had looked: all its own checks count.
    Continue,
    /// It was done for the caller and returns 0.
    Done,
    /// It was done and returns this file descriptor, which the caller has by now.
    Opened(i32),
    /// It fails with this number.
    Errno(i32),
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?).into())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Where notice, answer and cookie end.
fn ends(message: &[u8]) -> Option<(usize, usize, usize)> {
    let (notice, answer) = (u16_at(message, 16)?, u16_at(message, 18)?);
    let cookie = usize::try_from(u64_at(message, 24)?).ok()?;
    let first = HEAD + notice;
    let second = first + answer;
    let third = second.checked_add(cookie)?;
    (notice >= NOTICE && answer >= ANSWER && third <= message.len()).then_some((first, second, third))
}

impl Notice {
    /// Reads a message; `None` when it is none.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let (_, second, third) = ends(message)?;
        let number = |at| u32_at(message, at).map(u32::cast_signed);
        let mut arguments = [0; 6];
        for (index, argument) in arguments.iter_mut().enumerate() {
            *argument = u64_at(message, HEAD + 32 + 8 * index)?;
        }
        Some(Self {
            init: number(12)?,
            id: u64_at(message, HEAD)?,
            thread: number(HEAD + 8)?,
            number: number(HEAD + 16)?,
            arch: u32_at(message, HEAD + 20)?,
            arguments,
            cookie: std::str::from_utf8(message.get(second..third)?).ok()?.trim_end_matches('\0').to_owned(),
        })
    }
}

/// The answer to a message; `None` when it is none.
pub fn answer(message: &[u8], verdict: Verdict) -> Option<Vec<u8>> {
    let (first, second, _) = ends(message)?;
    let mut bytes = message.get(..second)?.to_vec();
    let (value, error, flags) = match verdict {
        Verdict::Continue => (0, 0, CONTINUE),
        Verdict::Done => (0, 0, 0),
        Verdict::Opened(number) => (i64::from(number), 0, 0),
        Verdict::Errno(number) => (0, number.saturating_neg(), 0),
    };
    let answer = bytes.get_mut(first..)?;
    answer.fill(0);
    answer.get_mut(..8)?.copy_from_slice(message.get(HEAD..HEAD + 8)?);
    answer.get_mut(8..16)?.copy_from_slice(&value.to_ne_bytes());
    answer.get_mut(16..20)?.copy_from_slice(&error.to_ne_bytes());
    answer.get_mut(20..24)?.copy_from_slice(&flags.to_ne_bytes());
    Some(bytes)
}

/// Whether the caller still waits: what was read of it up to now was its own.
///
/// # Errors
/// ENOENT when it does not.
pub fn still_waits(listener: impl AsFd, id: u64) -> io::Result<()> {
    // SAFETY: the fd is open for the call; the kernel reads eight bytes that live as long.
    let result = unsafe { libc::ioctl(listener.as_fd().as_raw_fd(), ID_VALID as _, &raw const id) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the caller a file of this process, which closes when the caller executes a program, and returns its number there
/// (Linux 5.9).
///
/// # Errors
/// ENOENT when it does not wait any more.
pub fn give_file(listener: impl AsFd, id: u64, file: impl AsFd) -> io::Result<i32> {
    /// `struct seccomp_notif_addfd` (linux/seccomp.h).
    #[repr(C)]
    struct Given {
        id: u64,
        flags: u32,
        source: u32,
        number: u32,
        number_flags: u32,
    }
    let source = u32::try_from(file.as_fd().as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let given = Given { id, flags: 0, source, number: 0, number_flags: libc::O_CLOEXEC.cast_unsigned() };
    // SAFETY: the fds are open for the call; the kernel reads a structure of the size that the number tells.
    let result = unsafe { libc::ioctl(listener.as_fd().as_raw_fd(), ADD_FD as _, &raw const given) };
    if result >= 0 { Ok(result) } else { Err(io::Error::last_os_error()) }
}

/// Listens at `path` for monitors, for root only. A stale socket is replaced.
///
/// # Errors
/// When it cannot be bound.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    rustix::net::listen(&socket, 128)?;
    Ok(socket)
}

/// The next monitor that has connected.
///
/// # Errors
/// Of accept4(2).
pub fn accept(listener: impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?)
}

/// Makes this process's files belong to these ids of the host (setfsuid(2)); rights over others' files go with root.
///
/// # Errors
/// When the kernel refuses.
pub fn set_file_ids(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: plain system calls. They return what was before; the last one, asked with an id that is none, what is now.
    let now = unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
        (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX))
    };
    if (now.0.cast_unsigned(), now.1.cast_unsigned()) == (uid, gid) {
        return Ok(());
    }
    Err(io::ErrorKind::PermissionDenied.into())
}

/// Runs `work` in a child of this process, which must have one thread, and returns the child's pid. The child ends with
/// `work`, or with this process.
///
/// # Errors
/// Of fork(2).
pub fn in_child(work: impl FnOnce()) -> io::Result<i32> {
    in_child_with_status(|| {
        work();
        0
    })
}

/// The same for work that tells the child's exit status.
///
/// # Errors
/// Of fork(2).
pub fn in_child_with_status(work: impl FnOnce() -> i32) -> io::Result<i32> {
    // SAFETY: there is one thread, so that the child may go on like its parent; it never returns from here.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
            let status = work();
            // SAFETY: it ends this process and nothing else.
            unsafe { libc::_exit(status) }
        }
        pid => Ok(pid),
    }
}

/// Sets the policy of a thread's scheduler (sched_setscheduler(2)).
///
/// # Errors
/// Of the call.
pub fn set_scheduler(thread: i32, policy: i32, priority: i32) -> io::Result<()> {
    // SAFETY: the structure has one field where the C library is glibc or musl; the rest is zero. The kernel reads it.
    let result = unsafe {
        let mut parameters: libc::sched_param = std::mem::zeroed();
        parameters.sched_priority = priority;
        libc::syscall(libc::SYS_sched_setscheduler, thread, policy, &raw const parameters)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// For [`crate::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let read = Notice::parse(bytes);
    let answered = answer(bytes, Verdict::Errno(i32::MIN));
    // Who can be read can be answered.
    assert!(read.is_none() || answered.is_some());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As liblxc 5.0.2 sent it for `mknod /tmp/a c 1 3`.
    const SEEN: &[u8] = include_bytes!("../../fuzz/seeds/notify/mknod");

    #[test]
    fn a_message_is_read_as_it_was_seen() {
        let notice = Notice::parse(SEEN).unwrap();
        assert_eq!((notice.init, notice.thread, notice.number), (14140, 14146, 259));
        assert_eq!((notice.arch, notice.arguments[2], notice.arguments[3]), (0xc000_003e, 0o20666, 0x103));
        assert_eq!(notice.cookie, "hello");
        assert!(Notice::parse(&SEEN[..140]).is_none(), "the cookie is cut");
    }

    #[test]
    fn an_answer_has_the_id_and_no_cookie() {
        let bytes = answer(SEEN, Verdict::Errno(1)).unwrap();
        assert_eq!(bytes.len(), 136);
        assert_eq!(bytes[..112], SEEN[..112]);
        assert_eq!(bytes[112..120], SEEN[32..40]);
        assert_eq!(bytes[128..132], (-1i32).to_ne_bytes());
        assert_eq!(answer(SEEN, Verdict::Continue).unwrap()[132..136], 1u32.to_ne_bytes());
        assert_eq!(answer(SEEN, Verdict::Opened(9)).unwrap()[120..128], 9u64.to_ne_bytes());
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let mut message = SEEN.to_vec();
        message[24..32].copy_from_slice(&u64::MAX.to_ne_bytes());
        assert!(Notice::parse(&message).is_none() && answer(&message, Verdict::Done).is_none());
        message[16..18].copy_from_slice(&8u16.to_ne_bytes());
        assert!(Notice::parse(&message).is_none());
    }
}
