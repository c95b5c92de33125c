//! Processes: pidfds, signals, what a fresh child must put right.
#![allow(unsafe_code, reason = "signal masks, real-time signals and close_range have no safe interface")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, WaitOptions, getrlimit, setrlimit};

/// Opens a pidfd (pidfd_open(2)); it is close-on-exec.
///
/// # Errors
/// ESRCH when there is no such process.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// A copy of another thread's open file (pidfd_getfd(2)). Before Linux 6.9, which knows pidfds of threads, it is the one of
/// the process that `leader` stands for: threads share their files but where they asked not to.
///
/// # Errors
/// EBADF when it has none of this number.
pub fn file_of(thread: i32, leader: i32, number: i32) -> io::Result<OwnedFd> {
    let thread = Pid::from_raw(thread).ok_or(io::ErrorKind::InvalidInput)?;
    // `PIDFD_THREAD` (linux/pidfd.h).
    let flag = PidfdFlags::from_bits_retain(libc::O_EXCL.cast_unsigned());
    let pidfd = match rustix::process::pidfd_open(thread, flag) {
        Ok(pidfd) => pidfd,
        Err(_) => pidfd_open(leader)?,
    };
    Ok(rustix::process::pidfd_getfd(&pidfd, number, rustix::process::PidfdGetfdFlags::empty())?)
}

/// Gives this process a session keyring of its own, and with that no key of who started it (keyctl(2)).
///
/// # Errors
/// Of keyctl(2), but where the kernel has no keys.
pub fn leave_keyring() -> io::Result<()> {
    // SAFETY: plain system call; a null name is a keyring without one.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<u8>()) };
    let error = io::Error::last_os_error();
    if result >= 0 || error.raw_os_error() == Some(libc::ENOSYS) { Ok(()) } else { Err(error) }
}

/// Takes over the limits of another process: soft and hard ones of all resources (prlimit(2)).
///
/// # Errors
/// Of prlimit(2).
pub fn limits_as(pid: i32) -> io::Result<()> {
    for resource in 0..16u32 {
        let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: plain system calls; the kernel writes, then reads a structure that lives as long. It has no more resources
        // than these (`RLIM_NLIMITS`).
        let result = unsafe {
            match libc::prlimit(pid, resource as _, std::ptr::null(), &raw mut limits) {
                0 => libc::prlimit(0, resource as _, &raw const limits, std::ptr::null_mut()),
                failed => failed,
            }
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Sends a signal (pidfd_send_signal(2)), real-time ones too.
///
/// # Errors
/// ESRCH when the process has ended.
pub fn pidfd_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: the fd is open for the call; no signal information is passed.
    let result =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, std::ptr::null::<libc::siginfo_t>(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the process ends within this time; blocks so long.
pub fn ended(pidfd: impl AsFd, within: std::time::Duration) -> bool {
    let deadline = std::time::Instant::now() + within;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        let timeout = Timespec { tv_sec: seconds, tv_nsec: left.subsec_nanos().into() };
        // A pidfd becomes readable when its process ends (pidfd_open(2)).
        match rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            polled => return polled.is_ok_and(|count| count > 0),
        }
    }
}

/// The most open files that are of use: tables of the kernel grow with their number.
const MOST_FILES: u64 = 1 << 20;

/// The soft limit of open files that this process was started with, where it was raised.
static FIRST_LIMIT: OnceLock<u64> = OnceLock::new();

/// Raises the limit of open files as far as the hard one lets it (getrlimit(2)): a daemon holds a few for each command,
/// console and connection. Call it before there are threads.
pub fn raise_open_files() {
    let limits = getrlimit(Resource::Nofile);
    let Some(soft) = limits.current else { return };
    let wanted = limits.maximum.map_or(MOST_FILES, |hard| hard.min(MOST_FILES));
    let raised = Rlimit { current: Some(wanted), maximum: limits.maximum };
    // Where that is forbidden the old limit does.
    if wanted > soft && setrlimit(Resource::Nofile, raised).is_ok() {
        let _ = FIRST_LIMIT.set(soft);
    }
}

/// The limit of open files for others, who expect the usual one and may use select(2).
pub fn first_open_files() -> Option<u64> {
    FIRST_LIMIT.get().copied()
}

/// Goes back to a soft limit of open files.
pub fn limit_open_files(soft: u64) {
    let hard = getrlimit(Resource::Nofile).maximum;
    // Lowering cannot fail; a limit that is lower already stays.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum: hard });
}

/// Limits a resource of this process and of those that it starts, by the names of `lxc.prlimit.*`; `None` is no limit.
///
/// # Errors
/// `InvalidInput` for a name that is none, or of setrlimit(2).
pub fn limit(resource: &str, soft: Option<u64>, hard: Option<u64>) -> io::Result<()> {
    let resource = match resource {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    Ok(setrlimit(resource, Rlimit { current: soft, maximum: hard })?)
}

/// Whether a signal that is sent to this process now is not lost on it: it is caught, or it is blocked and waits, as for
/// signalfd(2) (`SigCgt` and `SigBlk` in proc_pid_status(5)).
pub fn hears(pid: i32, signal: i32) -> bool {
    let Some(bit) = signal.checked_sub(1).and_then(|bit| 1u64.checked_shl(bit.unsigned_abs())) else { return false };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0)
    };
    (mask("SigCgt:") | mask("SigBlk:")) & bit != 0
}

/// What signal(7) names, without `SIG`.
const SIGNALS: [(&str, i32); 31] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("IOT", libc::SIGIOT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

/// The number of a signal as lxc.container.conf(5) writes it: `SIGPWR`, `SIGRTMIN+3`, `SIGRTMAX-10` or a number.
pub fn signal_number(text: &str) -> Option<i32> {
    let known = |number: &i32| (1..=libc::SIGRTMAX()).contains(number);
    if let Ok(number) = text.parse() {
        return Some(number).filter(known);
    }
    let text = text.to_ascii_uppercase();
    let name = text.strip_prefix("SIG")?;
    if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let offset = |rest: &str| rest.parse::<u8>().ok().map(i32::from);
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => libc::SIGRTMIN(),
        (Some(rest), _) => libc::SIGRTMIN() + offset(rest.strip_prefix('+')?)?,
        (_, Some("")) => libc::SIGRTMAX(),
        (_, Some(rest)) => libc::SIGRTMAX() - offset(rest.strip_prefix('-')?)?,
        (None, None) => return None,
    };
    Some(number).filter(known)
}

/// poll(2) is no call of its own on newer architectures.
#[cfg(target_arch = "x86_64")]
const POLLS: [i64; 2] = [libc::SYS_poll, libc::SYS_ppoll];
#[cfg(not(target_arch = "x86_64"))]
const POLLS: [i64; 1] = [libc::SYS_ppoll];

/// Whether a process, by its first thread, waits in poll(2) (`/proc/<pid>/syscall`, proc(5)). Where the kernel does not tell
/// of calls, it does.
pub fn polls(pid: i32) -> bool {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/syscall")) else { return true };
    let call = text.split_whitespace().next().and_then(|number| number.parse().ok());
    call.is_some_and(|call: i64| POLLS.contains(&call))
}

/// The parent of a process (`PPid` in proc_pid_status(5)).
///
/// # Errors
/// When there is no such process.
pub fn parent_of(pid: i32) -> io::Result<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .and_then(|text| text.trim().parse().ok())
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Pidfds of all processes whose command line, read as one text, passes `wanted`.
///
/// # Errors
/// When /proc cannot be read.
pub fn find(wanted: impl Fn(&str) -> bool) -> io::Result<Vec<OwnedFd>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let matches = || {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            wanted(String::from_utf8_lossy(&line).replace('\0', " ").trim_end())
        };
        // The pidfd first: then the command line is that of the process it stands for.
        if let Ok(pidfd) = pidfd_open(pid)
            && matches()
        {
            found.push(pidfd);
        }
    }
    Ok(found)
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Exit {
    /// By itself, with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// As a shell and LXD's API tell it: 128 + n for signal n.
    pub fn status(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// Waits for a child and reaps it.
///
/// # Errors
/// ECHILD when it is none.
pub fn wait(pid: i32) -> io::Result<Exit> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    loop {
        match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) | Ok(None) => {}
            Err(error) => return Err(error.into()),
            Ok(Some((_, status))) => {
                return Ok(match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Exit::Code(code),
                    (None, Some(signal)) => Exit::Signal(signal),
                    (None, None) => continue,
                });
            }
        }
    }
}

/// Ends all children of this process, which has one thread, and reaps them. Returns how many there were.
///
/// # Errors
/// When /proc cannot tell them (proc_pid_task_tid_children(5)).
pub fn end_children() -> io::Result<usize> {
    let children = std::fs::read_to_string("/proc/thread-self/children")?;
    let pids = children.split_whitespace().filter_map(|word| word.parse().ok());
    let mut ended = 0;
    for pid in pids.filter_map(Pid::from_raw) {
        // One that has ended by itself is a child until it is reaped.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        wait(pid.as_raw_nonzero().get())?;
        ended += 1;
    }
    Ok(ended)
}

/// Has writing to a pipe that nobody reads fail, instead of ending this process. Programs that it starts have it as usual again.
pub fn ignore_broken_pipes() {
    // SAFETY: it only changes what this process does on one signal, to nothing.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Puts right what a child inherits from a Rust daemon, and that from who started it: no signal is ignored (SIGPIPE is by
/// Rust, SIGHUP by nohup(1)) or blocked, every fd from 3 on closes on exec. To be called while the process has one thread.
pub fn clean_inheritance() {
    // The kernel's `struct sigaction`, which has at most four words everywhere: SIG_DFL, no flags, nothing masked.
    let default = [0u64; 4];
    // SAFETY: no other thread exists; rt_sigaction reads a valid structure and writes none; the set is initialised by
    // sigemptyset before use; the calls only change this process's signal state. close_range with CLOEXEC only sets
    // flags.
    unsafe {
        for signal in 1..=64 {
            // It fails for SIGKILL and SIGSTOP. Not by signal(2): the C library refuses the two that it uses itself, and
            // its posix_spawn(3) leaves them ignored.
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null_mut::<u8>(), 8usize);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

#[cfg(test)]
mod tests {
    use super::signal_number;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("SIGPWR", libc::SIGPWR),
            ("sigterm", libc::SIGTERM),
            ("10", 10),
            ("SIGRTMIN", libc::SIGRTMIN()),
            ("SIGRTMIN+3", libc::SIGRTMIN() + 3),
            ("SIGRTMAX-10", libc::SIGRTMAX() - 10),
        ] {
            assert_eq!(signal_number(text), Some(number), "{text}");
        }
        for text in ["", "PWR", "0", "-1", "65", "SIGFOO", "SIGRTMIN3", "SIGRTMIN+200", "SIGRTMAX+1", "SIGRTMIN+-1"] {
            assert_eq!(signal_number(text), None, "{text}");
        }
    }
}
