//! System calls of a container that are done for it.
//!
//! ```text
//!  daemon                                        helper
//!    │ ── Intercept + /proc dir, memory, listener ──> reads the caller and its arguments, once
//!    │                                               asks whether it still waits: all that was read is its own
//!    │                                                 └ child: the caller's file ids and groups, its user and mount
//!    │                                                   namespace, root, directory and capabilities; opens what
//!    │                                                   the call names, asks the kernel whether that may be changed
//!    │ <── Verdict ───────────────────────────────────┤ does it on what the child has opened
//! ```
//! Whatever the caller changes meanwhile, what was checked is what is done: paths are resolved once, by a process that
//! may do what the caller may, and are an open directory from then on. Where the kernel's own checks will do, the call
//! just continues.

mod bpf;
mod fuse;
mod mount;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType};
use serde::{Deserialize, Serialize};

use super::child::{answer, fail};
use super::protocol::{Inbox, Reply};
use crate::sys::cgroup::{Hierarchies, InstanceUsage};
use crate::sys::notify::{self, Notice, Verdict};
use crate::sys::{process, socket};

pub use mount::MountPolicy;

/// What is done for containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// mknod(2) of a harmless device.
    Mknod,
    /// mknodat(2) of one.
    Mknodat,
    /// mount(2) of a listed file system on a block device.
    Mount,
    /// setxattr(2) of `trusted.overlay.opaque`.
    Setxattr,
    /// lsetxattr(2) of it.
    Lsetxattr,
    /// sched_setscheduler(2) to a real-time policy.
    Scheduler,
    /// sysinfo(2) with the container's limits.
    Sysinfo,
    /// bpf(2) about programs that decide about devices.
    Bpf,
}

/// One call. The fds that come along are the caller's directory in /proc, its memory, and the listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterceptRequest {
    /// As liblxc told.
    pub notice: Notice,
    /// What it is.
    pub call: Call,
    /// What may be mounted.
    pub mounts: MountPolicy,
}

/// Character devices that hold nothing of the host's, and the mark of overlayfs for a removed file: major, minor
/// (Linux `Documentation/admin-guide/devices.txt`, `Documentation/filesystems/overlayfs.rst`).
const HARMLESS: &[(u32, u32)] = &[
    (0, 0), // whiteout
    (1, 3), // null
    (1, 5), // zero
    (1, 7), // full
    (1, 8), // random
    (1, 9), // urandom
    (5, 0), // tty
    (5, 1), // console
];

/// The one attribute, and its one value (`Documentation/filesystems/overlayfs.rst`).
const OPAQUE: &str = "trusted.overlay.opaque";
/// `PATH_MAX` (path_resolution(7)).
const PATH: usize = 4096;
/// A name of an attribute has at most so many bytes, with its NUL (xattr(7)).
const NAME: usize = 256;
/// Reads of memory stop at pages: the next one need not be there.
const PAGE: u64 = 4096;
/// `AT_FDCWD` as a program passes it.
const CWD: i32 = libc::AT_FDCWD;

type Outcome = Result<Verdict, Errno>;

pub(super) fn serve(socket: &OwnedFd, mut inbox: Inbox, request: &InterceptRequest) -> io::Result<()> {
    let Ok([proc, memory, listener]) = <[OwnedFd; 3]>::try_from(std::mem::take(&mut inbox.fds)) else {
        return fail(socket, &"three file descriptors must come along");
    };
    let verdict = match judge(request, &proc, &memory, &listener) {
        Ok(verdict) => verdict,
        Err(errno) => Verdict::Errno(errno.raw_os_error()),
    };
    answer(socket, &Reply::Verdict(verdict), &[])
}

/// Who calls, in the host's numbering.
struct Caller<'a> {
    proc: &'a OwnedFd,
    memory: &'a OwnedFd,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    umask: u32,
    capabilities: CapabilitySet,
    users: OwnedFd,
}

/// The fields of a `status` file (proc_pid_status(5)).
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn read_file(directory: impl AsFd, name: &str) -> Result<String, Errno> {
    let file = rustix::fs::openat(directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let text = io::read_to_string(std::fs::File::from(file));
    text.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// Which file an fd is of.
fn identity(fd: impl AsFd) -> Result<(u64, u64), Errno> {
    rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino))
}

impl<'a> Caller<'a> {
    fn read(proc: &'a OwnedFd, memory: &'a OwnedFd) -> Result<Self, Errno> {
        let status = read_file(proc, "status")?;
        let numbers = |name: &str| field(&status, name).unwrap_or_default().split_whitespace();
        let id = |name: &str| numbers(name).nth(3).and_then(|word| word.parse().ok()).ok_or(Errno::SRCH);
        let hex = |name: &str| field(&status, name).and_then(|text| u64::from_str_radix(text, 16).ok());
        let umask = field(&status, "Umask").and_then(|text| u32::from_str_radix(text, 8).ok());
        Ok(Self {
            uid: id("Uid")?,
            gid: id("Gid")?,
            groups: numbers("Groups").filter_map(|word| word.parse().ok()).collect(),
            umask: umask.unwrap_or(0o077),
            capabilities: CapabilitySet::from_bits_retain(hex("CapEff").unwrap_or(0)),
            users: rustix::fs::openat(proc, "ns/user", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?,
            proc,
            memory,
        })
    }

    fn open(&self, name: &str) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(self.proc, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
    }

    /// The directory that a relative path counts from.
    fn base(&self, directory: i32) -> Result<OwnedFd, Errno> {
        match directory {
            CWD => self.open("cwd"),
            0.. => self.open(&format!("fd/{directory}")).map_err(|_| Errno::BADF),
            _ => Err(Errno::BADF),
        }
    }

    /// A text of its memory without its NUL; at most `most` bytes with it.
    fn text(&self, address: u64, most: usize, long: Errno) -> Result<Vec<u8>, Errno> {
        let mut text = Vec::new();
        while text.len() < most {
            let at = address.checked_add(text.len() as u64).ok_or(Errno::FAULT)?;
            let page = usize::try_from(PAGE - at % PAGE).unwrap_or(0);
            let mut piece = vec![0; page.min(most - text.len())];
            self.bytes(at, &mut piece)?;
            if let Some(end) = piece.iter().position(|byte| *byte == 0) {
                text.extend_from_slice(&piece[..end]);
                return Ok(text);
            }
            text.append(&mut piece);
        }
        Err(long)
    }

    /// Fills `bytes` from its memory.
    fn bytes(&self, address: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        match rustix::io::pread(self.memory, &mut *bytes, address) {
            Ok(count) if count == bytes.len() => Ok(()),
            Ok(_) | Err(_) => Err(Errno::FAULT),
        }
    }
}

/// An argument that the kernel takes as an `int`.
#[allow(clippy::cast_possible_truncation, reason = "the kernel, too, takes the low half")]
fn int(argument: u64) -> i32 {
    (argument as u32).cast_signed()
}

fn judge(request: &InterceptRequest, proc: &OwnedFd, memory: &OwnedFd, listener: &OwnedFd) -> Outcome {
    let notice = &request.notice;
    if notice.arch != notify::NATIVE {
        return Ok(Verdict::Continue);
    }
    let caller = Caller::read(proc, memory)?;
    // One in a user namespace of its own has rights there, not in the container's.
    let namespace = |pid: &str| read_namespace(&format!("/proc/{pid}/ns/user"));
    let theirs = identity(&caller.users)?;
    if theirs != namespace(&notice.init.to_string())? || theirs == namespace("self")? {
        return Ok(Verdict::Continue);
    }
    let waits = || notify::still_waits(listener, notice.id).map_err(|_| Errno::SRCH);
    let arguments = notice.arguments;
    match request.call {
        Call::Mknod => mknod(&caller, CWD, arguments[0], arguments[1], arguments[2], waits),
        Call::Mknodat => mknod(&caller, int(arguments[0]), arguments[1], arguments[2], arguments[3], waits),
        Call::Mount => mount::filesystem(&caller, &request.mounts, notice, waits),
        Call::Setxattr => opaque(&caller, &arguments, true, waits),
        Call::Lsetxattr => opaque(&caller, &arguments, false, waits),
        Call::Scheduler => scheduler(&caller, notice, waits),
        Call::Sysinfo => sysinfo(&caller, notice, waits),
        Call::Bpf => bpf::devices(&caller, notice, listener, waits),
    }
}

fn read_namespace(path: &str) -> Result<(u64, u64), Errno> {
    rustix::fs::stat(path).map(|stat| (stat.st_dev, stat.st_ino))
}

/// Major and minor number of a device as programs pass it (`new_decode_dev` in the kernel's terms, makedev(3)).
fn numbers(device: u64) -> (u32, u32) {
    let device = int(device).cast_unsigned();
    ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0x000f_ff00))
}

/// The directory of a path, and the name in it.
fn split(path: &[u8]) -> Result<(&[u8], &[u8]), Errno> {
    let (directory, name) = match path.iter().rposition(|byte| *byte == b'/') {
        None => (&b"."[..], path),
        Some(0) => (&b"/"[..], &path[1..]),
        Some(at) => (&path[..at], &path[at + 1..]),
    };
    match name {
        // What ends with a slash can only be a directory.
        b"" => Err(Errno::NOENT),
        b"." | b".." => Err(Errno::EXIST),
        name => Ok((directory, name)),
    }
}

fn mknod(
    caller: &Caller<'_>,
    directory: i32,
    path: u64,
    mode: u64,
    device: u64,
    waits: impl Fn() -> Result<(), Errno>,
) -> Outcome {
    let mode = int(mode).cast_unsigned();
    let (major, minor) = numbers(device);
    let harmless = FileType::from_raw_mode(mode) == FileType::CharacterDevice && HARMLESS.contains(&(major, minor));
    if !harmless || !caller.capabilities.contains(CapabilitySet::MKNOD) {
        return Ok(Verdict::Continue);
    }
    let path = caller.text(path, PATH, Errno::NAMETOOLONG)?;
    let (parent, name) = split(&path)?;
    let base = if path.starts_with(b"/") { caller.open("root")? } else { caller.base(directory)? };
    let parent = resolve(caller, &base, parent, OFlags::DIRECTORY, Access::WRITE_OK | Access::EXEC_OK, &waits)?;
    become_owner(caller)?;
    rustix::process::umask(Mode::from_raw_mode(caller.umask));
    let device = rustix::fs::makedev(major, minor);
    let mode = Mode::from_raw_mode(mode & 0o7777);
    rustix::fs::mknodat(&parent, name, FileType::CharacterDevice, mode, device)?;
    Ok(Verdict::Done)
}

fn opaque(caller: &Caller<'_>, arguments: &[u64; 6], follow: bool, waits: impl Fn() -> Result<(), Errno>) -> Outcome {
    let [path, name, value, size, flags, _] = *arguments;
    if size != 1 || !caller.capabilities.contains(CapabilitySet::SYS_ADMIN) {
        return Ok(Verdict::Continue);
    }
    let mut content = [0];
    let named = caller.text(name, NAME, Errno::RANGE);
    if named.as_deref() != Ok(OPAQUE.as_bytes()) || caller.bytes(value, &mut content).is_err() || content != *b"y" {
        return Ok(Verdict::Continue);
    }
    let path = caller.text(path, PATH, Errno::NAMETOOLONG)?;
    if path.is_empty() {
        return Err(Errno::NOENT);
    }
    let base = if path.starts_with(b"/") { caller.open("root")? } else { caller.open("cwd")? };
    let last = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
    let found = resolve(caller, &base, &path, OFlags::DIRECTORY | last, Access::WRITE_OK, &waits)?;
    let flags = XattrFlags::from_bits(int(flags).cast_unsigned()).ok_or(Errno::INVAL)?;
    // An fd of O_PATH has no attributes, its link has.
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&found));
    rustix::fs::setxattr(link, OPAQUE, &content, flags)?;
    Ok(Verdict::Done)
}

/// Files that are made belong to the caller. Its rights in their directory have been asked for.
fn become_owner(caller: &Caller<'_>) -> Result<(), Errno> {
    let groups: Vec<_> = caller.groups.iter().map(|group| rustix::process::Gid::from_raw(*group)).collect();
    rustix::thread::set_thread_groups(&groups)?;
    notify::set_file_ids(caller.uid, caller.gid).map_err(|_| Errno::PERM)?;
    let needed = CapabilitySet::MKNOD | CapabilitySet::DAC_OVERRIDE;
    let sets = CapabilitySets { effective: needed, permitted: needed, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)
}

/// Opens `path` as the caller would, if it has these rights there.
fn resolve(
    caller: &Caller<'_>,
    base: &OwnedFd,
    path: &[u8],
    flags: OFlags,
    rights: Access,
    waits: &impl Fn() -> Result<(), Errno>,
) -> Result<OwnedFd, Errno> {
    as_child(caller, base, waits, || {
        let found = rustix::fs::open(path, flags | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        rustix::fs::accessat(&found, ".", rights, AtFlags::EACCESS).map(|()| found)
    })
}

/// Opens something as the caller would, in a child.
fn as_child(
    caller: &Caller<'_>,
    base: &OwnedFd,
    waits: &impl Fn() -> Result<(), Errno>,
    open: impl FnOnce() -> Result<OwnedFd, Errno>,
) -> Result<OwnedFd, Errno> {
    in_group(caller, base, None, waits, open)
}

/// The same in the control group whose `cgroup.procs` this is: device rules are about these.
fn in_group(
    caller: &Caller<'_>,
    base: &OwnedFd,
    group: Option<BorrowedFd<'_>>,
    waits: &impl Fn() -> Result<(), Errno>,
    open: impl FnOnce() -> Result<OwnedFd, Errno>,
) -> Result<OwnedFd, Errno> {
    let root = caller.open("root")?;
    let namespace = rustix::fs::openat(caller.proc, "ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // All that counts of the caller has been read.
    waits()?;
    opened_by(|| {
        group.map_or(Ok(1), |group| rustix::io::write(group, b"0"))?;
        as_caller(caller, &root, base, namespace.as_fd())?;
        open()
    })
}

/// What a child opens.
fn opened_by(open: impl FnOnce() -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let child = notify::in_child(|| {
        // Should nobody listen any more, nobody waits.
        let _ = match open() {
            Ok(found) => socket::send(&theirs, &0i32.to_ne_bytes(), &[found.as_fd()]),
            Err(error) => socket::send(&theirs, &error.raw_os_error().to_ne_bytes(), &[]),
        };
    })
    .map_err(|_| Errno::AGAIN)?;
    drop(theirs);
    let (mut bytes, mut fds) = ([0; 4], Vec::new());
    let received = socket::receive(&ours, &mut bytes, &mut fds);
    let _ = process::wait(child);
    match (received, fds.pop()) {
        (Ok(4), Some(found)) => Ok(found),
        (Ok(4), None) => Err(Errno::from_raw_os_error(i32::from_ne_bytes(bytes))),
        _ => Err(Errno::IO),
    }
}

/// Makes this process see and be allowed what the caller is, for good.
fn as_caller(caller: &Caller<'_>, root: &OwnedFd, base: &OwnedFd, namespace: BorrowedFd<'_>) -> Result<(), Errno> {
    let groups: Vec<_> = caller.groups.iter().map(|group| rustix::process::Gid::from_raw(*group)).collect();
    rustix::thread::set_thread_groups(&groups)?;
    // Ids of the host: the namespace translates them.
    notify::set_file_ids(caller.uid, caller.gid).map_err(|_| Errno::PERM)?;
    let enter = rustix::thread::move_into_link_name_space;
    enter(caller.users.as_fd(), Some(LinkNameSpaceType::User))?;
    enter(namespace, Some(LinkNameSpaceType::Mount))?;
    rustix::process::fchdir(root)?;
    rustix::process::chroot(".")?;
    rustix::process::fchdir(base)?;
    let own = rustix::thread::capabilities(None)?;
    let granted = caller.capabilities & own.permitted;
    let sets = CapabilitySets { effective: granted, permitted: granted, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)
}

fn scheduler(caller: &Caller<'_>, notice: &Notice, waits: impl Fn() -> Result<(), Errno>) -> Outcome {
    let (target, policy) = (int(notice.arguments[0]), int(notice.arguments[1]));
    let plain = policy & !libc::SCHED_RESET_ON_FORK;
    let real_time = matches!(plain, libc::SCHED_FIFO | libc::SCHED_RR);
    // Others it may change itself, as far as the kernel lets it.
    if target != 0 || !real_time || !caller.capabilities.contains(CapabilitySet::SYS_NICE) {
        return Ok(Verdict::Continue);
    }
    let mut priority = [0; 4];
    caller.bytes(notice.arguments[2], &mut priority)?;
    waits()?;
    let done = notify::set_scheduler(notice.thread, policy, i32::from_ne_bytes(priority));
    done.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::PERM))?;
    Ok(Verdict::Done)
}

/// `struct sysinfo` of 64 bits (sysinfo(2)): memory in bytes.
fn sysinfo_bytes(uptime: u64, loads: [u64; 3], memory: [u64; 6], processes: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(112);
    for word in [uptime].iter().chain(&loads).chain(&memory) {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(&processes.to_ne_bytes());
    bytes.resize(88, 0);
    // No high memory, then the unit, which is a byte.
    bytes.resize(104, 0);
    bytes.extend_from_slice(&1u32.to_ne_bytes());
    bytes.resize(112, 0);
    bytes
}

/// Seconds since a process started (field 22 of proc_pid_stat(5), in ticks since the boot).
fn age(pid: i32, uptime: u64) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    Some(uptime.saturating_sub(ticks / rustix::param::clock_ticks_per_second()))
}

fn sysinfo(caller: &Caller<'_>, notice: &Notice, waits: impl Fn() -> Result<(), Errno>) -> Outcome {
    let usage = Hierarchies::of_host().and_then(|found| InstanceUsage::read(found, notice.init).ok());
    let (true, Some(usage)) = (cfg!(target_pointer_width = "64"), usage) else { return Ok(Verdict::Continue) };
    let host = rustix::system::sysinfo();
    let unit = u64::from(host.mem_unit);
    let up = u64::try_from(host.uptime).unwrap_or(0);
    let total = usage.memory_total.unwrap_or(host.totalram * unit);
    let swap = host.totalswap * unit;
    let memory = [
        total,
        total.saturating_sub(usage.memory.unwrap_or(0)),
        0,
        0,
        swap,
        swap.saturating_sub(usage.swap.unwrap_or(0)).min(host.freeswap * unit),
    ];
    let processes = u16::try_from(usage.processes.unwrap_or(0)).unwrap_or(u16::MAX);
    let bytes = sysinfo_bytes(age(notice.init, up).unwrap_or(up), host.loads, memory, processes);
    waits()?;
    match rustix::io::pwrite(caller.memory, &bytes, notice.arguments[0]) {
        Ok(count) if count == bytes.len() => Ok(Verdict::Done),
        Ok(_) | Err(_) => Err(Errno::FAULT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_cut_before_its_name() {
        assert_eq!(split(b"a"), Ok((&b"."[..], &b"a"[..])));
        assert_eq!(split(b"/a"), Ok((&b"/"[..], &b"a"[..])));
        assert_eq!(split(b"b//a"), Ok((&b"b/"[..], &b"a"[..])));
        assert_eq!(split(b"b/"), Err(Errno::NOENT));
        assert_eq!(split(b""), Err(Errno::NOENT));
        assert_eq!(split(b"b/.."), Err(Errno::EXIST));
    }

    #[test]
    fn numbers_of_devices_are_those_of_the_c_library() {
        for (major, minor) in [(1, 3), (0xfff, 0xf_ffff), (5, 0x101)] {
            assert_eq!(numbers(libc::makedev(major, minor)), (major, minor));
        }
        // The kernel looks at 32 bits.
        assert_eq!(numbers(0x1_0000_0103), (1, 3));
    }

    #[test]
    fn what_sysinfo_gives_is_as_long_as_the_structure() {
        assert_eq!(sysinfo_bytes(1, [0; 3], [2; 6], 3).len(), std::mem::size_of::<libc::sysinfo>());
    }

    #[test]
    fn fields_of_a_status_are_whole_names() {
        let status = "Uid:\t1\t2\t3\t4\nNSuid:\t9\n";
        assert_eq!(field(status, "Uid"), Some("1\t2\t3\t4"));
        assert_eq!(field(status, "uid"), None);
    }
}
