//! The daemon's sockets: given by systemd (sd_listen_fds(3)), or bound here; and word to systemd (sd_notify(3)).
#![allow(unsafe_code, reason = "inherited file descriptors, the environment before any thread exists")]

use std::ffi::OsStr;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;

use super::peercred;

/// Takes the sockets that systemd hands over, once, before any thread exists.
pub fn listen_fds() -> Vec<OwnedFd> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let ours = number("LISTEN_PID") == Some(std::process::id());
    let count = if ours { number("LISTEN_FDS").unwrap_or(0).min(64) } else { 0 };
    // SAFETY: called by main while there is one thread, so nobody reads the environment at the same time. The fds from
    // 3 on are this process's by the protocol, and nobody else has taken them.
    unsafe {
        for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            std::env::remove_var(name);
        }
        (0..count)
            .filter_map(|index| {
                let fd = RawFd::try_from(3 + index).ok()?;
                let flags = libc::fcntl(fd, libc::F_GETFD);
                if flags < 0 {
                    return None;
                }
                libc::fcntl(fd, libc::F_SETFD, flags | libc::FD_CLOEXEC);
                Some(OwnedFd::from_raw_fd(fd))
            })
            .collect()
    }
}

/// Tells systemd, e.g. `READY=1`. Nobody listening is fine.
pub fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let send = || -> io::Result<()> {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::ffi::OsStrExt;
        let socket = UnixDatagram::unbound()?;
        let address = match path.as_bytes() {
            [b'@', name @ ..] => std::os::unix::net::SocketAddr::from_abstract_name(name)?,
            _ => std::os::unix::net::SocketAddr::from_pathname(&path)?,
        };
        socket.send_to_addr(state.as_bytes(), &address).map(drop)
    };
    if let Err(error) = send() {
        tracing::debug!(%error, "telling the service manager");
    }
}

/// Binds a unix socket with this mode, for its owner and `group`. A stale one of a dead daemon is replaced, a live one refused.
///
/// # Errors
/// `AddrInUse` when a daemon answers there.
pub fn bind_unix(path: &Path, group: Option<u32>, mode: u32) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(metadata) if metadata.file_type().is_socket() => {
            if is_served(path) {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another daemon is listening there"));
            }
            std::fs::remove_file(path)?;
        }
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is in the way")),
    }
    // Bound beside and moved: nobody ever meets it with other permissions.
    let temporary = path.with_extension(format!("{}", std::process::id()));
    let _ = std::fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary)?;
    if group.is_some() {
        std::os::unix::fs::chown(&temporary, None, group)?;
    }
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(&temporary, path)?;
    remove_unfinished(path);
    Ok(listener)
}

/// Whether the process that listens at `path` lives. Somebody else may hold its socket: a program that a killed daemon was
/// just starting has its files until it is executed.
fn is_served(path: &Path) -> bool {
    let Ok(stream) = UnixStream::connect(path) else { return false };
    // None: of another process namespace.
    let Ok(peercred::Peer { pid: Some(pid), .. }) = peercred::peer(&stream) else { return true };
    // proc_pid_stat(5): the state follows the name in parentheses.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Removes sockets that were bound beside `path` by daemons that were killed before they moved them there.
fn remove_unfinished(path: &Path) {
    let (Some(dir), Some(stem)) = (path.parent(), path.file_stem().and_then(OsStr::to_str)) else { return };
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(stem)?.strip_prefix('.')?.parse::<u32>().ok());
        if number.is_some() && !is_served(&entry.path()) {
            // Not there any more, or not removable: the next start sees.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("unix.socket");
        let first = bind_unix(&path, None, 0o660).unwrap();
        assert_eq!(bind_unix(&path, None, 0o660).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        bind_unix(&path, None, 0o660).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        // Killed between binding and moving.
        drop(UnixListener::bind(dir.path().join("unix.4194303")).unwrap());
        bind_unix(&path, None, 0o660).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(bind_unix(&file, None, 0o660).is_err());
        assert!(file.exists());
    }

    #[test]
    fn a_socket_of_a_dead_daemon_is_stale_whoever_else_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("unix.socket");
        let held = bind_unix(&path, None, 0o660).unwrap();
        // Who calls listen(2) is who is seen to listen.
        // SAFETY: the child calls two functions that are safe after fork(2) in a threaded process (signal-safety(7)).
        let child = unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::listen(held.as_raw_fd(), 8);
                libc::_exit(0);
            }
            child
        };
        crate::sys::process::wait(child).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        bind_unix(&path, None, 0o660).unwrap();
    }
}
