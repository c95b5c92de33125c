//! User namespaces as id maps for mounts (mount_setattr(2), `MOUNT_ATTR_IDMAP`).
//!
//! A namespace is made by a child that is exec'd for it (the daemon never forks): it unshares, the daemon writes its
//! maps and opens `/proc/<pid>/ns/user`, the child ends. One namespace per distinct map is kept for the daemon's life.
#![allow(unsafe_code, reason = "unshare(2)")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Gid, Uid};

static MADE: Mutex<BTreeMap<(String, String), Arc<OwnedFd>>> = Mutex::new(BTreeMap::new());

/// The namespace with these maps (lines of `uid_map` and `gid_map`).
///
/// # Errors
/// When it cannot be made.
pub fn with_maps(uid_map: &str, gid_map: &str) -> io::Result<Arc<OwnedFd>> {
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (uid_map.to_owned(), gid_map.to_owned());
    if let Some(namespace) = made.get(&key) {
        return Ok(Arc::clone(namespace));
    }
    let namespace = Arc::new(make(uid_map, gid_map)?);
    made.insert(key, Arc::clone(&namespace));
    Ok(namespace)
}

fn program() -> PathBuf {
    // Tests run in a program of their own; there the daemon stands beside it.
    std::env::var_os("WARREN_TEST_WARREND").map_or_else(|| super::program::path().to_owned(), PathBuf::from)
}

fn make(uid_map: &str, gid_map: &str) -> io::Result<OwnedFd> {
    let mut child = Command::new(program())
        .arg0(super::program::NAME)
        .arg("userns")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let result: io::Result<OwnedFd> = (|| {
        let mut ready = [0];
        child.stdout.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.read_exact(&mut ready)?;
        let path = |name: &str| PathBuf::from(format!("/proc/{}/{name}", child.id()));
        std::fs::write(path("uid_map"), uid_map)?;
        std::fs::write(path("gid_map"), gid_map)?;
        Ok(OwnedFd::from(File::open(path("ns/user"))?))
    })();
    // The end of its stdin ends the child.
    drop(child.stdin.take());
    let ended = child.wait();
    let namespace = result?;
    ended?;
    Ok(namespace)
}

/// Makes this process root of the user namespace `namespace`: all capabilities there, none outside. To be called while
/// the process has one thread, and only by one that needs nothing of what it was (user_namespaces(7), setns(2)).
///
/// # Errors
/// Of setns(2), setgroups(2), setresgid(2) and setresuid(2).
pub fn enter(namespace: impl AsFd) -> io::Result<()> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User))?;
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    // Becoming root of the namespace keeps the capabilities that entering it gave (capabilities(7)).
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    Ok(())
}

/// The user namespace of process `pid`; none when it is this process's own.
///
/// # Errors
/// When there is no such process.
pub fn of_process(pid: i32) -> io::Result<Option<OwnedFd>> {
    let theirs = File::open(format!("/proc/{pid}/ns/user"))?;
    let (ours, meta) = (std::fs::metadata("/proc/self/ns/user")?, theirs.metadata()?);
    let same = (ours.dev(), ours.ino()) == (meta.dev(), meta.ino());
    Ok((!same).then(|| theirs.into()))
}

/// Entry of `warrend userns`: unshares, says so, waits for the end of stdin.
pub fn child_main() -> ExitCode {
    // SAFETY: plain system call; there is one thread.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER) } != 0 {
        return ExitCode::FAILURE;
    }
    let mut stdout = io::stdout();
    if stdout.write_all(b"x").and_then(|()| stdout.flush()).is_err() {
        return ExitCode::FAILURE;
    }
    let mut rest = Vec::new();
    match io::stdin().read_to_end(&mut rest) {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
