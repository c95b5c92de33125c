//! The program that this process runs, to be run again as a helper in such a way that nobody can write to its file.
//!
//! A privileged container reaches the file of whatever enters it by `/proc/<pid>/exe`, and could write to it as soon as
//! nothing runs it any more (the class of CVE-2019-5736). Helpers are therefore run from a copy of the file's mount that
//! is read-only and belongs to no mount namespace: mount_setattr(2), open_tree(2) and mount(2) refuse to change, copy or
//! bind such a mount, whoever asks. It costs no memory and shows the file as it was when the daemon started, also after
//! an upgrade has replaced it. Where the kernel lacks these calls (before Linux 5.12), a sealed copy in memory does
//! (memfd_create(2)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};

use super::mount::{self, Attributes};

/// This very program, whatever became of its file.
const SELF: &str = "/proc/self/exe";
/// What programs are called that are run again (`argv[0]`).
pub const NAME: &str = "warrend";
/// Names a way to keep the file from being written, for tests: `memory` is the second one.
const CHOICE: &str = "WARREN_PROGRAM_COPY";

/// The program, held open.
#[derive(Debug)]
struct Program {
    path: PathBuf,
    _file: Option<OwnedFd>,
}

/// The path by which this process can execute its own program. Found once; to be called first when the daemon starts.
pub fn path() -> &'static Path {
    static FOUND: OnceLock<Program> = OnceLock::new();
    &FOUND.get_or_init(find).path
}

fn find() -> Program {
    let in_memory = std::env::var_os(CHOICE).is_some_and(|choice| choice == "memory");
    let mounted = if in_memory { Err(io::ErrorKind::Unsupported.into()) } else { read_only() };
    let found = mounted.or_else(|error| {
        tracing::debug!(%error, "this program is run from memory");
        sealed()
    });
    match found {
        // The number stays this file's for the daemon's life; a child has it until it executes.
        Ok(file) => Program { path: link(&file), _file: Some(file) },
        Err(error) => {
            tracing::warn!(%error, "privileged containers may be able to write to this program's file");
            Program { path: PathBuf::from(SELF), _file: None }
        }
    }
}

fn link(file: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
}

/// The file in a mount of its own that is read-only and in no namespace.
fn read_only() -> io::Result<OwnedFd> {
    let file = rustix::fs::open(SELF, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let copy = mount::clone_at(&file, false)?;
    let mut attributes = Attributes::default();
    attributes.add("ro");
    mount::set_options(&copy, attributes)?;
    let held = rustix::fs::open(link(&copy), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    // With its first fd the mount leaves the namespace that open_tree(2) made for it; the second fd keeps it alive.
    drop(copy);
    Ok(held)
}

/// A copy in memory that can no more be changed.
fn sealed() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Linux before 6.3 does not know the flag; all its files in memory can be executed.
    let copy =
        rustix::fs::memfd_create(NAME, flags | MemfdFlags::EXEC).or_else(|_| rustix::fs::memfd_create(NAME, flags))?;
    let mut copy = std::fs::File::from(copy);
    io::copy(&mut std::fs::File::open(SELF)?, &mut copy)?;
    rustix::fs::fcntl_add_seals(&copy, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    // What is open for writing cannot be executed (ETXTBSY).
    Ok(rustix::fs::open(link(&copy), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use rustix::io::Errno;

    use super::*;

    #[test]
    fn neither_copy_can_be_written_and_both_can_be_run() {
        let write = |file: &OwnedFd| {
            let opened = rustix::fs::open(link(file), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
            rustix::io::write(opened, b"x")
        };
        for (file, refusals) in [(read_only(), [Errno::ROFS, Errno::TXTBSY]), (sealed(), [Errno::PERM, Errno::TXTBSY])]
        {
            let file = file.unwrap();
            let refused = write(&file).unwrap_err();
            assert!(refusals.contains(&refused), "{refused}");
            let mut child = Command::new(link(&file)).arg("--list").stdout(Stdio::piped()).spawn().unwrap();
            let mut said = String::new();
            child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
            assert!(child.wait().unwrap().success() && said.contains("neither_copy_can_be_written"));
        }
        let _ = path();
    }

    #[test]
    fn nobody_can_make_the_mount_writable() {
        let file = read_only().unwrap();
        let mut writable = Attributes::default();
        writable.add("rw");
        assert!(mount::set_options(&file, writable).is_err());
        assert!(mount::clone_at(&file, false).is_err());
    }
}
