//! The child: reads one request from the socket that is its stdin, makes the one liblxc call, answers, exits.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags};

use super::protocol::{AttachRequest, Inbox, Reply, Request, encode};
use super::{ContainerRef, console};
use crate::lxc::{self, Container};
use crate::sys::{process, pty, socket};

/// Seconds that a failed start gets for its stop hooks.
const SETTLE: i32 = 10;

/// Entry of `warrend helper [LIMIT]`. There is one thread, and stdin is the socket. Containers get the limit of open
/// files that the daemon was started with, not the daemon's own.
pub fn main(arguments: &[String]) -> ExitCode {
    process::clean_inheritance();
    if let Some(limit) = arguments.first().and_then(|text| text.parse().ok()) {
        process::limit_open_files(limit);
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> io::Result<()> {
    // liblxc changes signal handlers when it attaches a stdin that is fd 0, and a program must not inherit the socket.
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    drop(null);
    let mut inbox = Inbox::default();
    let request = loop {
        if let Some(request) = inbox.take::<Request>()? {
            break request;
        }
        if !inbox.fill(&socket)? {
            return Ok(());
        }
    };
    match request {
        Request::Start(container) => match start(&container) {
            Ok((init, pidfd)) => answer(&socket, &Reply::Started { init }, &[pidfd.as_fd()]),
            Err(error) => fail(&socket, &error),
        },
        Request::Items(container, items) => match items_taken(&container, &items) {
            Ok(()) => answer(&socket, &Reply::Done, &[]),
            Err(reason) => fail(&socket, &reason),
        },
        Request::Freeze(container) => done(&socket, loaded(&container).and_then(|mut c| c.freeze())),
        Request::Unfreeze(container) => done(&socket, loaded(&container).and_then(|mut c| c.unfreeze())),
        Request::Attach(container, what) => attach(&socket, inbox, &container, &what),
        Request::Files(request) => super::files::serve(&socket, inbox, request),
        Request::Mount(request) => super::mounts::serve(&socket, inbox, request),
        Request::DeviceRule { container, rule, allow } => {
            let item = if allow { c"devices.allow" } else { c"devices.deny" };
            done(&socket, loaded(&container).and_then(|mut handle| handle.set_cgroup_item(item, &rule)))
        }
        Request::Intercept(request) => super::intercept::serve(&socket, inbox, &request),
        Request::Templates(request) => super::templates::serve(&socket, inbox, &request),
        Request::Uevents(events) => super::uevents::serve(&socket, inbox, &events),
        Request::Console(container) => console::serve(&socket, &container),
        // Both only ever follow another request.
        Request::Signal(_) | Request::Commit => Ok(()),
    }
}

pub(super) fn answer(socket: &OwnedFd, reply: &Reply, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = encode(reply)?;
    let mut sent = socket::send(socket, &bytes, fds)?;
    while sent < bytes.len() {
        sent += socket::send(socket, &bytes[sent..], &[])?;
    }
    Ok(())
}

pub(super) fn fail(socket: &OwnedFd, reason: &impl std::fmt::Display) -> io::Result<()> {
    answer(socket, &Reply::Failed { reason: reason.to_string() }, &[])
}

fn done(socket: &OwnedFd, result: Result<(), lxc::Error>) -> io::Result<()> {
    match result {
        Ok(()) => answer(socket, &Reply::Done, &[]),
        Err(error) => fail(socket, &error),
    }
}

pub(super) fn open(container: &ContainerRef) -> Result<Container, lxc::Error> {
    Container::new(&container.name, &container.lxc_path)
}

/// The freezer's place depends on the configuration.
fn loaded(container: &ContainerRef) -> Result<Container, lxc::Error> {
    let mut handle = open(container)?;
    handle.load_config(&container.config)?;
    Ok(handle)
}

fn start(container: &ContainerRef) -> Result<(i32, OwnedFd), lxc::Error> {
    let mut handle = loaded(container)?;
    if let Err(error) = handle.start() {
        // The hooks of the failed start may still run; who undoes what it did must not overtake them.
        let _ = handle.wait_stopped(SETTLE);
        return Err(error);
    }
    Ok((handle.init_pid()?, handle.init_pidfd()?))
}

/// Tries each item, in their order.
fn items_taken(container: &ContainerRef, items: &[(String, String)]) -> Result<(), String> {
    let mut handle = open(container).map_err(|error| error.to_string())?;
    for (key, value) in items {
        handle.set_config_item(key, value).map_err(|_| match lxc::knows_item(key) {
            true => format!("liblxc {} does not take {value:?} for {key}", lxc::version()),
            false => format!("liblxc {} has no {key}", lxc::version()),
        })?;
    }
    Ok(())
}

fn c_strings<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<CString>, lxc::Error> {
    texts.map(|text| CString::new(text).map_err(lxc::Error::from)).collect()
}

/// The id outside that `id` inside has, by the id map of `pid` (user_namespaces(7)).
pub(super) fn outside(pid: i32, file: &str, id: u32) -> Option<u32> {
    let map = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join(file)).ok()?;
    map.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().map(|word| word.parse::<u32>());
        let (inside, outside, count) = (words.next()?.ok()?, words.next()?.ok()?, words.next()?.ok()?);
        let offset = id.checked_sub(inside)?;
        (offset < count).then(|| outside.saturating_add(offset))
    })
}

fn attach(socket: &OwnedFd, mut inbox: Inbox, container: &ContainerRef, what: &AttachRequest) -> io::Result<()> {
    let mut ptx = None;
    let stdio: [OwnedFd; 3] = match what.pty {
        None => match std::mem::take(&mut inbox.fds).try_into() {
            Ok(fds) => fds,
            Err(_) => return fail(socket, &"three file descriptors must come along"),
        },
        Some((columns, rows)) => match terminal(container, what, columns, rows) {
            Ok((pair, stdio)) => {
                ptx = Some(pair);
                stdio
            }
            Err(reason) => return fail(socket, &reason),
        },
    };
    // The program inherits them.
    for (resource, soft, hard) in &what.limits {
        if let Err(error) = process::limit(resource, *soft, *hard) {
            return fail(socket, &format!("limits.kernel.{resource}: {error}"));
        }
    }
    // Between its entering the container and its becoming one of its users, what is to become the program is the host's
    // root among the container's processes, and the container's root could trace it (ptrace(2), access mode checking).
    // A process that is not dumpable only the host's root can; the program itself is, as execve(2) makes it so again.
    let hidden = rustix::process::DumpableBehavior::NotDumpable;
    if let Err(error) = rustix::process::set_dumpable_behavior(hidden) {
        return fail(socket, &error);
    }
    let attached = (|| {
        let argv = c_strings(what.argv.iter().map(String::as_str))?;
        let env: Vec<String> = what.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let env = c_strings(env.iter().map(String::as_str))?;
        let cwd = CString::new(what.cwd.as_str())?;
        let [stdin, stdout, stderr] = stdio.each_ref().map(AsFd::as_fd);
        open(container)?.attach(&lxc::Attach {
            argv: &argv,
            env: &env,
            cwd: &cwd,
            uid: what.uid,
            gid: what.gid,
            stdio: [stdin, stdout, stderr],
        })
    })();
    // The program has its own copies; ours would keep its pipes and its terminal open.
    drop(stdio);
    let pid = match attached {
        Ok(pid) => pid,
        // Seen with liblxc 5.0.2 where calls are intercepted and no security module gives a label: what the program's
        // process tells may come before its pid, which liblxc expects first. It gives up; the program goes on.
        Err(error) => match process::end_children() {
            Ok(0) | Err(_) => return fail(socket, &error),
            Ok(_) => return fail(socket, &format!("{error} when the program had begun; it was ended, run it again")),
        },
    };
    let fds: Vec<BorrowedFd<'_>> = ptx.iter().map(AsFd::as_fd).collect();
    // Should the daemon be gone, the program is waited for nevertheless: it is this process's child.
    let told = answer(socket, &Reply::Attached { pid }, &fds);
    drop(ptx);
    supervise(socket, inbox, pid, told.is_ok())
}

fn terminal(
    container: &ContainerRef,
    what: &AttachRequest,
    columns: u16,
    rows: u16,
) -> Result<(OwnedFd, [OwnedFd; 3]), String> {
    let handle = open(container).map_err(|e| e.to_string())?;
    let devpts = handle.devpts().map_err(|e| e.to_string())?;
    let init = handle.init_pid().map_err(|e| e.to_string())?;
    let uid = outside(init, "uid_map", what.uid).ok_or("the user does not exist in the container's id map")?;
    let gid = outside(init, "gid_map", what.gid).ok_or("the group does not exist in the container's id map")?;
    let failed = |e: io::Error| format!("no terminal: {e}");
    let pair = pty::open(&devpts, uid, gid).map_err(failed)?;
    pty::resize(&pair.ptx, columns, rows).map_err(failed)?;
    let copy = || pair.pts.try_clone().map_err(failed);
    let stdio = [copy()?, copy()?, copy()?];
    Ok((pair.ptx, stdio))
}

/// Waits for the program, passing on signals meanwhile.
fn supervise(socket: &OwnedFd, mut inbox: Inbox, pid: i32, mut connected: bool) -> io::Result<()> {
    let pidfd = process::pidfd_open(pid)?;
    loop {
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        if connected {
            fds.push(PollFd::new(socket, PollFlags::IN));
        }
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if fds[0].revents().contains(PollFlags::IN) {
            return answer(socket, &Reply::Exited(process::wait(pid)?), &[]);
        }
        if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
            connected = inbox.fill(socket).unwrap_or(false);
            while let Ok(Some(Request::Signal(number))) = inbox.take::<Request>() {
                // It may have ended just now.
                let _ = process::pidfd_signal(&pidfd, number);
            }
        }
    }
}
