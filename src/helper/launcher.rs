//! The daemon's side: spawns helpers and talks to them.
//!
//! One helper is kept ready while work goes on: executing and linking the program is then not part of an operation's
//! time. It knows no container yet, ends with the daemon (its socket closes), and after [`IDLE`] without work.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::intercept::InterceptRequest;
use super::line::Line;
use super::mounts::MountRequest;
use super::protocol::{AttachRequest, Inbox, Reply, Request};
use super::{ContainerRef, Error};
use crate::lxc::{self, Container, State};
use crate::sys::notify::Verdict;
use crate::sys::process::{self, Exit};
use crate::sys::program;
use crate::sys::uevent::Uevent;

/// A start takes tens of milliseconds; a hook or a mount that hangs must not hold the instance for ever.
const START: Duration = Duration::from_secs(120);

/// [`START`]; `WARREN_TEST_START_SECONDS`, for tests only, is another.
fn start_limit() -> Duration {
    let told = std::env::var("WARREN_TEST_START_SECONDS").ok().and_then(|text| text.parse().ok());
    told.map_or(START, Duration::from_secs)
}

/// Freezing and thawing poll inside liblxc.
const FREEZE: Duration = Duration::from_secs(60);
/// Entering a container.
const ATTACH: Duration = Duration::from_secs(60);
/// Getting the console: the last client may be just leaving.
const CONSOLE: Duration = Duration::from_secs(10);
/// A system call of a container; its monitor hears nothing else meanwhile (seen with liblxc 5.0.2).
const INTERCEPT: Duration = Duration::from_secs(5);
/// A question to a monitor is answered within this time, or not at all.
pub const QUERY: Duration = Duration::from_secs(2);
/// At most so many questions at a time; the pool has twice as many threads (see `daemon`).
const QUERIES: usize = 8;

/// A helper that nobody needed for this long is let go: an idle daemon has no helper.
const IDLE: Duration = Duration::from_secs(30);

/// Spawns helpers.
#[derive(Debug, Clone)]
pub struct Launcher {
    ready: Arc<Mutex<Ready>>,
    asked: Asked,
}

/// Containers whose monitors are being asked. A monitor that hangs holds one thread of the runtime's pool, not one for
/// each question, and all of them together never hold so many that other work waits.
#[derive(Debug, Clone, Default)]
struct Asked(Arc<Mutex<BTreeSet<String>>>);

/// One question; dropped by the thread that asked it.
struct Asking {
    asked: Asked,
    container: String,
}

impl Asked {
    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` while this container, or [`QUERIES`] others, have not answered the last question.
    fn begin(&self, container: &str) -> Option<Asking> {
        let mut names = self.names();
        (names.len() < QUERIES && names.insert(container.to_owned()))
            .then(|| Asking { asked: self.clone(), container: container.to_owned() })
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.asked.names().remove(&self.container);
    }
}

/// The helper that waits for the next operation.
#[derive(Debug, Default)]
struct Ready {
    helper: Option<Helper>,
    /// One is being made.
    coming: bool,
    /// How many were made, to know one from the next.
    made: u64,
}

/// A helper process that waits for its request.
#[derive(Debug)]
struct Helper {
    child: Child,
    socket: UnixStream,
}

impl Default for Launcher {
    fn default() -> Self {
        Self::new()
    }
}

/// A container that runs.
pub struct Started {
    /// Its init in the host's numbering.
    pub init_pid: i32,
    /// Of that init.
    pub init_pidfd: OwnedFd,
}

/// What liblxc knows about a container.
pub struct Query {
    /// Its state.
    pub state: State,
    /// Its init, when it runs.
    pub init_pid: Option<i32>,
    /// Of that init.
    pub init_pidfd: Option<OwnedFd>,
}

impl Launcher {
    /// Helpers of this very program, also after its file was replaced.
    pub fn new() -> Self {
        Self { ready: Arc::default(), asked: Asked::default() }
    }

    fn ready(&self) -> MutexGuard<'_, Ready> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self) -> Result<Helper, Error> {
        let (ours, theirs) = StdStream::pair().map_err(Error::Spawn)?;
        ours.set_nonblocking(true).map_err(Error::Spawn)?;
        // Without pre_exec the standard library can use posix_spawn: no fork of this threaded process.
        let child = Command::new(program::path())
            .arg0(program::NAME)
            .arg("helper")
            .args(process::first_open_files().map(|limit| limit.to_string()))
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(Error::Spawn)?;
        Ok(Helper { child, socket: UnixStream::from_std(ours).map_err(Error::Spawn)? })
    }

    /// The line to a helper: the one that is ready, else a new one.
    pub(super) fn line(&self, action: &'static str, container: &ContainerRef) -> Result<Line, Error> {
        let mut waiting = self.ready().helper.take();
        // Somebody may have killed it.
        if !waiting.as_mut().is_some_and(|helper| matches!(helper.child.try_wait(), Ok(None))) {
            waiting = None;
        }
        let helper = waiting.map_or_else(|| self.spawn(), Ok)?;
        self.keep_ready();
        let Helper { child, socket } = helper;
        Ok(Line { child: Some(child), socket, inbox: Inbox::default(), action, container: container.name.clone() })
    }

    /// Makes the next helper beside the operation that took the last one.
    fn keep_ready(&self) {
        {
            let mut ready = self.ready();
            if ready.coming || ready.helper.is_some() {
                return;
            }
            ready.coming = true;
        }
        let launcher = self.clone();
        tokio::spawn(async move {
            // The operation goes first: its request is on its way before this spawns.
            tokio::task::yield_now().await;
            let spawned = launcher.spawn().inspect_err(|error| tracing::warn!(%error, "no helper is kept ready")).ok();
            let number = {
                let mut ready = launcher.ready();
                ready.coming = false;
                ready.made += 1;
                ready.helper = spawned;
                ready.made
            };
            tokio::time::sleep(IDLE).await;
            let mut ready = launcher.ready();
            if ready.made == number {
                // Its socket closes, and with it the helper.
                ready.helper = None;
            }
        });
    }

    /// Starts a container. On failure the error holds the ERROR lines of `log`, liblxc's log of this start.
    ///
    /// # Errors
    /// When it does not run; its stop hooks have ended then.
    pub async fn start(&self, container: &ContainerRef, log: &Path) -> Result<Started, Error> {
        let mut line = self.line("start", container)?;
        line.send(&Request::Start(container.clone()), &[]).await?;
        match line.reply_within(start_limit()).await {
            Ok(Reply::Started { init }) => match line.inbox.fds.pop() {
                Some(init_pidfd) => {
                    line.finish();
                    Ok(Started { init_pid: init, init_pidfd })
                }
                None => Err(line.broken("sent no pidfd")),
            },
            Ok(Reply::Failed { reason }) => Err(line.refused(reason, lxc::log::excerpt_of(log))),
            Ok(_) => Err(line.broken("gave a wrong answer")),
            Err(error) => Err(error),
        }
    }

    /// Runs a program inside. Without a pty, `stdio` is its stdin, stdout and stderr.
    ///
    /// # Errors
    /// When the container could not be entered. A program that cannot be executed ends with 126 or 127.
    pub async fn attach(
        &self,
        container: &ContainerRef,
        what: AttachRequest,
        stdio: Option<[OwnedFd; 3]>,
    ) -> Result<Attached, Error> {
        let mut line = self.line("run a command in", container)?;
        let fds: Vec<BorrowedFd<'_>> = stdio.iter().flatten().map(AsFd::as_fd).collect();
        line.send(&Request::Attach(container.clone(), what), &fds).await?;
        drop(stdio);
        match line.reply_within(ATTACH).await? {
            Reply::Attached { pid } => {
                let ptx = line.inbox.fds.pop();
                Ok(Attached { pid, ptx, line })
            }
            Reply::Failed { reason } => Err(line.refused(reason, Vec::new())),
            _ => Err(line.broken("gave a wrong answer")),
        }
    }

    async fn simple(&self, action: &'static str, container: &ContainerRef, request: Request) -> Result<(), Error> {
        self.with_fds(action, container, request, &[]).await
    }

    async fn with_fds(
        &self,
        action: &'static str,
        container: &ContainerRef,
        request: Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        let mut line = self.line(action, container)?;
        line.send(&request, fds).await?;
        match line.reply_within(FREEZE).await? {
            Reply::Done => {
                line.finish();
                Ok(())
            }
            Reply::Failed { reason } => Err(line.refused(reason, Vec::new())),
            _ => Err(line.broken("gave a wrong answer")),
        }
    }

    /// Attaches to the console of a container.
    ///
    /// # Errors
    /// [`Error::ConsoleTaken`] when another client has it, or when it cannot be had.
    pub async fn console(&self, container: &ContainerRef) -> Result<Console, Error> {
        let mut line = self.line("attach to the console of", container)?;
        line.send(&Request::Console(container.clone()), &[]).await?;
        match line.reply_within(CONSOLE).await? {
            Reply::Console => match line.inbox.fds.pop() {
                Some(ptx) => Ok(Console { ptx: Some(ptx), _line: line }),
                None => Err(line.broken("sent no terminal")),
            },
            Reply::ConsoleTaken => Err(Error::ConsoleTaken { container: line.container }),
            Reply::Failed { reason } => Err(line.refused(reason, Vec::new())),
            _ => Err(line.broken("gave a wrong answer")),
        }
    }

    /// Whether liblxc takes these items of a configuration. `container`: one that is not there.
    ///
    /// # Errors
    /// [`Error::Lxc`] with the first that it does not.
    pub async fn check_items(&self, container: &ContainerRef, items: Vec<(String, String)>) -> Result<(), Error> {
        self.simple("check items of", container, Request::Items(container.clone(), items)).await
    }

    /// Holds all processes of a container.
    ///
    /// # Errors
    /// When the freezer does not get there.
    pub async fn freeze(&self, container: &ContainerRef) -> Result<(), Error> {
        self.simple("freeze", container, Request::Freeze(container.clone())).await
    }

    /// Mounts or unmounts something inside a running container. `fds`: as the request needs them.
    ///
    /// # Errors
    /// When the container's files do not allow it, or the kernel does not.
    pub async fn mount(
        &self,
        container: &ContainerRef,
        request: MountRequest,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        let action = match &request {
            MountRequest::Attach { .. } => "mount a device in",
            MountRequest::Replace { .. } => "mount a file of lxcfs in",
            MountRequest::Detach { .. } => "unmount a device in",
        };
        self.with_fds(action, container, Request::Mount(request), fds).await
    }

    /// Tells a container what the kernel told of devices. `fds`: its network namespace and its user namespace.
    ///
    /// # Errors
    /// When it could not be told.
    pub async fn uevents(
        &self,
        container: &ContainerRef,
        events: Vec<Uevent>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        self.with_fds("tell of devices in", container, Request::Uevents(events), fds).await
    }

    /// Answers a system call that waits. `fds`: as the request needs them.
    ///
    /// # Errors
    /// When there is no verdict in time.
    pub async fn intercept(
        &self,
        container: &ContainerRef,
        request: InterceptRequest,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Verdict, Error> {
        let mut line = self.line("answer a system call of", container)?;
        line.send(&Request::Intercept(request), fds).await?;
        match line.reply_within(INTERCEPT).await? {
            Reply::Verdict(verdict) => {
                line.finish();
                Ok(verdict)
            }
            Reply::Failed { reason } => Err(line.refused(reason, Vec::new())),
            _ => Err(line.broken("gave a wrong answer")),
        }
    }

    /// Lets a running container use a device, or no more, where control groups of version 2 decide about that.
    ///
    /// # Errors
    /// When liblxc cannot.
    pub async fn device_rule(&self, container: &ContainerRef, rule: &str, allow: bool) -> Result<(), Error> {
        let request = Request::DeviceRule { container: container.clone(), rule: rule.to_owned(), allow };
        self.simple("change the device rules of", container, request).await
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// When the freezer does not get there.
    pub async fn unfreeze(&self, container: &ContainerRef) -> Result<(), Error> {
        self.simple("unfreeze", container, Request::Unfreeze(container.clone())).await
    }

    /// Asks liblxc about a container, in this process: these calls do not fork.
    ///
    /// # Errors
    /// When the monitor does not answer in time: nobody knows then.
    pub async fn query(&self, container: &ContainerRef) -> Result<Query, Error> {
        let (name, path) = (container.name.clone(), container.lxc_path.clone());
        let action = "ask about";
        let timeout = || Error::Timeout { action, container: container.name.clone(), after: QUERY };
        let asking = self.asked.begin(&name).ok_or_else(timeout)?;
        let ask = tokio::task::spawn_blocking(move || {
            let _asking = asking;
            let handle = Container::new(&name, &path)?;
            let state = handle.state()?;
            Ok::<_, lxc::Error>(Query { state, init_pid: handle.init_pid().ok(), init_pidfd: handle.init_pidfd().ok() })
        });
        match tokio::time::timeout(QUERY, ask).await {
            Err(_) => Err(timeout()),
            Ok(Ok(Ok(query))) => Ok(query),
            Ok(Ok(Err(error))) => Err(Error::Lxc {
                action,
                container: container.name.clone(),
                reason: error.to_string(),
                log: Vec::new(),
            }),
            Ok(Err(error)) => {
                Err(Error::Broken { action, container: container.name.clone(), reason: error.to_string() })
            }
        }
    }
}

/// The console of a container. Dropped, it is given back.
pub struct Console {
    ptx: Option<OwnedFd>,
    /// Its helper gives the console back when this closes.
    _line: Line,
}

impl Console {
    /// The client's end of it, once. It must be read all the time: liblxc's monitor waits while it is full.
    pub fn take_ptx(&mut self) -> Option<OwnedFd> {
        self.ptx.take()
    }
}

/// A program that runs inside a container.
pub struct Attached {
    /// Its pid in the host's numbering.
    pub pid: i32,
    /// The daemon's end of its pty, if it has one.
    pub ptx: Option<OwnedFd>,
    line: Line,
}

impl Attached {
    /// Waits for its end.
    ///
    /// # Errors
    /// When the helper that waits for it has vanished.
    pub async fn wait(&mut self) -> Result<Exit, Error> {
        match self.line.reply().await? {
            Reply::Exited(exit) => Ok(exit),
            Reply::Failed { reason } => Err(self.line.refused(reason, Vec::new())),
            _ => Err(self.line.broken("gave a wrong answer")),
        }
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When the helper has vanished.
    pub async fn signal(&self, number: i32) -> Result<(), Error> {
        self.line.send(&Request::Signal(number), &[]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monitor_is_asked_one_question_at_a_time_and_all_together_are_bounded() {
        let asked = Asked::default();
        let first = asked.begin("c0").unwrap();
        assert!(asked.begin("c0").is_none());
        let others: Vec<Asking> = (1..QUERIES).map(|n| asked.begin(&format!("c{n}")).unwrap()).collect();
        assert!(asked.begin("more").is_none());
        drop(first);
        assert!(asked.begin("c0").is_some());
        drop(others);
        assert!(asked.names().is_empty());
    }
}
