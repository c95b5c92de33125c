//! System calls of containers that wait for the daemon: from liblxc's monitors to a helper and back.
//!
//! A monitor sends one call, waits for its answer, and hears nothing else meanwhile: a container has one call in work,
//! and each has a deadline. With the daemon away the monitor answers ENOSYS; it connects anew with each call.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;

use super::Context;
use super::error::Error;
use crate::api::wire::Config;
use crate::config::{self, intercept};
use crate::helper::{self, Call, InterceptRequest, MountPolicy};
use crate::lxc;
use crate::profile;
use crate::security::Confinement;
use crate::sys::notify::{self, Notice, Verdict};
use crate::sys::watch::watch;
use crate::sys::{features, socket};

/// Calls of all containers together that are in work; others wait, in the order in which they came.
const AT_A_TIME: usize = 8;
/// A call that waits longer for its turn fails: its container's monitor is needed for other things, too.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether this container's calls are intercepted; one without a user namespace needs nobody for them.
pub(super) fn wanted(config: &Config, confinement: Confinement) -> Option<&'static str> {
    intercept::first(config).filter(|_| !confinement.privileged)
}

/// Lines of lxc.conf for it.
///
/// # Errors
/// [`Error::Intercept`] when the kernel or liblxc cannot.
pub(super) fn lines(
    config: &Config,
    confinement: Confinement,
    socket: &Path,
    container: &str,
) -> Result<Vec<(String, String)>, Error> {
    let Some(key) = wanted(config, confinement) else { return Ok(Vec::new()) };
    let refuse = |reason| Err(Error::Intercept { key, reason });
    if !features::kernel().get("seccomp_listener_continue").is_some_and(|is| *is) {
        return refuse("this kernel does not pass system calls on, which Linux 5.5 does");
    }
    if lxc::extensions(&[c"seccomp_proxy_send_notify_fd"]).iter().any(|(_, is)| !is) {
        return refuse("this liblxc passes no system calls on; one built with libseccomp 2.5 or later does");
    }
    Ok(vec![
        ("lxc.seccomp.notify.proxy".to_owned(), format!("unix:{}", socket.display())),
        ("lxc.seccomp.notify.cookie".to_owned(), container.to_owned()),
    ])
}

/// What a number is for: on the architecture of this program.
fn call_of(number: i32) -> Option<(Call, &'static str)> {
    let number = libc::c_long::from(number);
    #[cfg(target_arch = "x86_64")]
    if number == libc::SYS_mknod {
        return Some((Call::Mknod, "mknod"));
    }
    match number {
        libc::SYS_mknodat => Some((Call::Mknodat, "mknodat")),
        libc::SYS_mount => Some((Call::Mount, "mount")),
        libc::SYS_setxattr => Some((Call::Setxattr, "setxattr")),
        libc::SYS_lsetxattr => Some((Call::Lsetxattr, "lsetxattr")),
        libc::SYS_sched_setscheduler => Some((Call::Scheduler, "sched_setscheduler")),
        libc::SYS_sysinfo => Some((Call::Sysinfo, "sysinfo")),
        libc::SYS_bpf => Some((Call::Bpf, "bpf")),
        _ => None,
    }
}

/// The daemon's end.
pub struct Calls {
    listener: OwnedFd,
}

impl Calls {
    /// Listens at `path`, for root only.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub fn bind(path: &Path) -> std::io::Result<Self> {
        Ok(Self { listener: notify::listen(path)? })
    }

    /// Answers all monitors.
    pub async fn serve(self, context: Arc<Context>) {
        let listener = match watch(self.listener, Interest::READABLE) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "no system call can be intercepted");
                return;
            }
        };
        let slots = Arc::new(Semaphore::new(AT_A_TIME));
        loop {
            match listener.async_io(Interest::READABLE, |socket| notify::accept(socket)).await {
                Ok(monitor) => {
                    let (context, slots) = (Arc::clone(&context), Arc::clone(&slots));
                    tokio::spawn(async move {
                        if let Err(error) = talk(&context, &slots, monitor).await {
                            tracing::debug!(%error, "a monitor that passes system calls on has gone");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a monitor that passes system calls on");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn talk(context: &Arc<Context>, slots: &Semaphore, monitor: OwnedFd) -> std::io::Result<()> {
    let monitor: AsyncFd<OwnedFd> = watch(monitor, Interest::READABLE | Interest::WRITABLE)?;
    let mut bytes = vec![0; notify::MAX_MESSAGE];
    loop {
        let mut fds = Vec::new();
        let count =
            monitor.async_io(Interest::READABLE, |socket| socket::receive(socket, &mut bytes, &mut fds)).await?;
        if count == 0 {
            return Ok(());
        }
        let message = &bytes[..count];
        let verdict = match Notice::parse(message) {
            Some(notice) => judge(context, slots, notice, &fds).await,
            None => Verdict::Errno(libc::ENOSYS),
        };
        let Some(answer) = notify::answer(message, verdict) else {
            return Err(std::io::ErrorKind::InvalidData.into());
        };
        monitor.async_io(Interest::WRITABLE, |socket| socket::send(socket, &answer, &[])).await?;
    }
}

async fn judge(context: &Arc<Context>, slots: &Semaphore, notice: Notice, fds: &[OwnedFd]) -> Verdict {
    let model = context.db.model();
    let Some(record) = model.instances.values().find(|record| record.key.container() == notice.cookie) else {
        return Verdict::Continue;
    };
    let config = profile::expand_instance(&model, record).config;
    let Some((call, name)) = call_of(notice.number) else { return Verdict::Continue };
    // One that is no longer to be intercepted was when the container started: the kernel decides.
    let asked = intercept::calls(&config).any(|(asked, _)| asked == name);
    if !asked || config::bool_of(&config, "security.privileged") {
        return Verdict::Continue;
    }
    let Ok(Ok(_slot)) = tokio::time::timeout(PATIENCE, slots.acquire()).await else {
        return Verdict::Errno(libc::ETIMEDOUT);
    };
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mounts = MountPolicy {
        allowed: config::names_of(config.get(intercept::ALLOWED).map_or("", String::as_str))
            .map(str::to_owned)
            .collect(),
        fuse: intercept::fuse_of(config.get(intercept::FUSE).map_or("", String::as_str))
            .map(|(name, program)| (name.to_owned(), program.to_owned()))
            .collect(),
        shift: config::bool_of(&config, intercept::SHIFT),
    };
    let request = InterceptRequest { notice, call, mounts };
    match context.launcher.intercept(&context.container(&record.key), request, &fds).await {
        Ok(verdict) => {
            tracing::debug!(instance = %record.key, call = name, ?verdict, "a system call");
            verdict
        }
        Err(error) => {
            tracing::warn!(instance = %record.key, call = name, %error, "a system call");
            let is_late = matches!(error, helper::Error::Timeout { .. });
            Verdict::Errno(if is_late { libc::ETIMEDOUT } else { libc::EIO })
        }
    }
}
