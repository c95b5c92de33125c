//! Programs of a build: a group of processes of their own, which ends with the build, however that ends.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

/// So long programs may clean up.
const GRACE: Duration = Duration::from_secs(10);
/// The runtime, which would tell of their end, waits for the one who looks.
const POLL: Duration = Duration::from_millis(20);

/// Leads the group, and ends all of it when nobody holds the other end of its input any more: even a client that was killed ends.
const WATCH: &str = "trap '' HUP INT TERM; read -r word || kill -KILL 0";

/// The group. Its leader is not reaped before it goes: the number is nobody else's.
pub(super) struct Group {
    leader: std::process::Child,
    pid: Pid,
}

impl Group {
    /// A group without members.
    ///
    /// # Errors
    /// When its leader cannot be started.
    pub(super) fn new() -> io::Result<Self> {
        let mut leader = std::process::Command::new("sh");
        leader.args(["-c", WATCH]).process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let leader = leader.spawn()?;
        // A process that runs has a number above 0.
        let pid = i32::try_from(leader.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { leader, pid })
    }

    /// Starts a program in the group.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(&self, command: &mut Command) -> io::Result<Running<'_>> {
        let child = command.process_group(self.pid.as_raw_nonzero().get()).spawn()?;
        Ok(Running { child, group: self })
    }

    fn signal(&self, signal: Signal) {
        // They may have ended just now.
        let _ = rustix::process::kill_process_group(self.pid, signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.leader.wait();
    }
}

/// A program of the group. When nobody waits for it any more, the group is told to end, and may clean up.
pub(super) struct Running<'a> {
    /// The program.
    pub(super) child: Child,
    group: &'a Group,
}

impl Running<'_> {
    /// Whether it has ended within `time`.
    fn ends_within(&mut self, time: Duration) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < time {
            // What cannot be waited for is not there.
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            std::thread::sleep(POLL);
        }
        false
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.child.id().is_none() {
            return;
        }
        self.group.signal(Signal::TERM);
        if !self.ends_within(GRACE) {
            self.group.signal(Signal::KILL);
            self.ends_within(GRACE);
        }
    }
}
