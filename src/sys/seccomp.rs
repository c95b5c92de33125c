//! The seccomp filters of a process, for another one that is to be held by the same.
#![allow(unsafe_code, reason = "ptrace(2) and seccomp(2) have no safe interface")]

use std::io;

/// `PTRACE_SECCOMP_GET_FILTER` (ptrace(2), Linux 4.4).
const GET_FILTER: libc::c_uint = 0x420c;
/// No process has more filters than the kernel lets it have instructions; this is far beyond what is met.
const MOST: u32 = 32;
/// `BPF_RET | BPF_K` (linux/filter.h).
const RETURN: u16 = 0x06;
/// `SECCOMP_RET_USER_NOTIF`, `SECCOMP_RET_ALLOW`, and the part of a value that is the action (linux/seccomp.h).
const NOTIFY: u32 = 0x7fc0_0000;
const ALLOW: u32 = 0x7fff_0000;
const ACTION: u32 = 0xffff_0000;

/// One filter: classic BPF.
#[derive(Clone)]
pub struct Filter(Vec<libc::sock_filter>);

fn ask(request: libc::c_uint, pid: i32, address: usize, data: *mut libc::c_void) -> io::Result<libc::c_long> {
    // SAFETY: `data` is null or points to as many instructions as this filter was just said to have, of a process that
    // is stopped meanwhile.
    let result = unsafe { libc::ptrace(request as _, pid, address, data) };
    if result >= 0 { Ok(result) } else { Err(io::Error::last_os_error()) }
}

/// The filters of a process, the oldest first. It is stopped for a moment (ptrace(2)); system calls go on after that.
/// To be called by a process of one thread that has CAP_SYS_ADMIN and no filter itself.
///
/// # Errors
/// Of ptrace(2): EPERM when somebody traces it already.
pub fn filters_of(pid: i32) -> io::Result<Vec<Filter>> {
    let nothing = std::ptr::null_mut();
    ask(libc::PTRACE_SEIZE as _, pid, 0, nothing)?;
    // Should this fail, the end of this process lets go of it.
    ask(libc::PTRACE_INTERRUPT as _, pid, 0, nothing)?;
    let mut status = 0;
    // SAFETY: plain system call; the kernel writes the status.
    while unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) } != pid {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let found = read(pid);
    // A signal that has stopped it just then is passed on.
    let signal = if libc::WIFSTOPPED(status) && status >> 16 == 0 { libc::WSTOPSIG(status) } else { 0 };
    let signal = usize::try_from(signal).unwrap_or(0) as *mut libc::c_void;
    ask(libc::PTRACE_DETACH as _, pid, 0, signal)?;
    found
}

fn read(pid: i32) -> io::Result<Vec<Filter>> {
    let mut filters = Vec::new();
    if is_free(pid)? {
        return Ok(filters);
    }
    for index in 0..MOST as usize {
        let count = match ask(GET_FILTER, pid, index, std::ptr::null_mut()) {
            Ok(count) => usize::try_from(count).unwrap_or(0),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(filters),
            Err(error) => return Err(error),
        };
        let mut instructions = vec![libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; count];
        ask(GET_FILTER, pid, index, instructions.as_mut_ptr().cast())?;
        filters.push(Filter(instructions));
    }
    Err(io::ErrorKind::InvalidData.into())
}

impl Filter {
    /// The same filter, but that what it would pass to a listener is allowed: without one the kernel would refuse that.
    #[must_use]
    pub fn without_listener(mut self) -> Self {
        for instruction in &mut self.0 {
            if instruction.code == RETURN && instruction.k & ACTION == NOTIFY {
                instruction.k = ALLOW;
            }
        }
        self
    }

    /// Holds this process by it, for good. It must have CAP_SYS_ADMIN in its user namespace, or no_new_privs.
    ///
    /// # Errors
    /// Of seccomp(2).
    pub fn install(&self) -> io::Result<()> {
        let len = u16::try_from(self.0.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        let program = libc::sock_fprog { len, filter: self.0.as_ptr().cast_mut() };
        // SAFETY: the kernel reads the program and what it points to, which lives as long.
        let result =
            unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0u32, &raw const program) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Whether a process is held by none (`Seccomp` in proc_pid_status(5)).
fn is_free(pid: i32) -> io::Result<bool> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "0"])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_wait_for_a_listener_is_allowed() {
        let instruction = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
        let filter =
            Filter(vec![instruction(RETURN, NOTIFY | 7), instruction(0x15, NOTIFY), instruction(RETURN, 0x50001)]);
        let values: Vec<u32> = filter.without_listener().0.iter().map(|instruction| instruction.k).collect();
        assert_eq!(values, [ALLOW, NOTIFY, 0x50001]);
    }

    #[test]
    fn a_process_without_filters_has_none_and_goes_on() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        // Whoever traces must be one thread with its children: this is this thread's own.
        assert!(filters_of(pid).unwrap().is_empty());
        assert!(is_free(pid).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
