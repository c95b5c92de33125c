//! The daemon's own program cannot be written to by whom it enters (the class of CVE-2019-5736), a privileged container included.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;
use support::{Daemon, eventually, run};
use warren::sys::mount::{self, Attributes};
use warren::sys::socket;

fn build(daemon: &Daemon, name: &str, options: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/escape").join(name).with_extension("c");
    let program = daemon.root.join(name);
    let usual = ["-static", "-O1", "-Wno-unused-result", "-fno-stack-protector"];
    run(Command::new("gcc").args(usual).args(options).arg("-o").arg(&program).arg(source));
    program
}

/// Opens the file that an fd stands for anew, as whoever has the fd can, and writes nothing new.
fn write(file: &OwnedFd) -> Result<(), Errno> {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let opened = rustix::fs::open(link, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let mut byte = [0];
    rustix::io::pread(&opened, &mut byte, 0)?;
    rustix::io::pwrite(&opened, &byte, 0).map(drop)
}

/// A daemon that runs from a file of its own, with a privileged container whose program for `/script` is the program of
/// who executes it; the file, as the container got hold of it.
fn handed_out(env: &[(&str, &str)]) -> (Daemon, PathBuf, OwnedFd) {
    let mut daemon = Daemon::with_env(env);
    let copy = daemon.root.join("program");
    fs::copy(support::warrend(), &copy).unwrap();
    daemon.terminate();
    daemon.spawn_by(&["sh", "-c", "shift; exec \"$0\" \"$@\"", copy.to_str().unwrap()]);
    daemon.verb(&["waitready", "--timeout", "20"]).ok();
    daemon.set_up("overlay");
    let shared = daemon.root.join("shared");
    fs::create_dir(&shared).unwrap();
    daemon.lxc(&["launch", "bb", "c1", "-c", "security.privileged=true"]).ok();
    daemon
        .lxc(&["config", "device", "add", "c1", "disk", "disk", &format!("source={}", shared.display()), "path=/disk"])
        .ok();
    let script = daemon.root.join("script");
    fs::write(&script, "#!/proc/self/exe\n").unwrap();
    let loader = build(&daemon, "loader", &["-nostdlib", "-DHAND=\"give /disk/socket 3\""]);
    let attempts = build(&daemon, "attempts", &[]);
    for (program, to) in
        [(&loader, "c1/lib64/ld-linux-x86-64.so.2"), (&attempts, "c1/attempts"), (&script, "c1/script")]
    {
        daemon.lxc(&["file", "push", "-p", "--mode", "0755", program.to_str().unwrap(), to]).ok();
    }
    let listener = UnixListener::bind(shared.join("socket")).unwrap();
    assert_eq!(daemon.lxc(&["exec", "c1", "--", "/script"]).ok(), "done\n");
    let (stream, _) = listener.accept().unwrap();
    let (mut byte, mut fds) = ([0], Vec::new());
    socket::receive(&stream, &mut byte, &mut fds).unwrap();
    (daemon, copy, fds.pop().unwrap())
}

/// Waits until nothing runs the file any more: then it could be written.
fn wait_until_idle(plain: &OwnedFd) {
    eventually("nothing runs the program", || write(plain) != Err(Errno::TXTBSY));
}

#[test]
fn the_file_that_a_privileged_container_gets_hold_of_stays_read_only() {
    let (mut daemon, copy, file) = handed_out(&[]);
    let plain = rustix::fs::open(&copy, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let (theirs, ours) = (rustix::fs::fstat(&file).unwrap(), fs::metadata(&copy).unwrap());
    assert_eq!((theirs.st_dev, theirs.st_ino), (ours.dev(), ours.ino()), "it is the daemon's program indeed");
    assert_eq!(write(&file), Err(Errno::TXTBSY), "it runs");
    // Liblxc's monitor is one of them.
    let init = daemon.instance_pid("c1");
    let parent = warren::sys::process::parent_of(i32::try_from(init).unwrap()).unwrap();
    let exe = format!("/proc/{parent}/exe");
    let monitor = rustix::fs::open(&exe, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    daemon.lxc(&["stop", "--force", "c1"]).ok();
    daemon.terminate();
    wait_until_idle(&plain);
    // Here is an accomplice with all rights of the host's root. By the file's own path he can.
    assert_eq!(write(&plain), Ok(()), "this test would notice");
    for file in [&file, &monitor] {
        assert_eq!(write(file), Err(Errno::ROFS));
        // Nor can what lies between be changed, copied or mounted elsewhere.
        let mut writable = Attributes::default();
        writable.add("rw");
        assert_eq!(mount::set_options(file, writable).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_EMPTY_PATH;
        assert_eq!(rustix::mount::open_tree(file, "", flags).unwrap_err(), Errno::INVAL);
        let target = daemon.root.join("target");
        fs::write(&target, "").unwrap();
        let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
        assert_eq!(rustix::mount::mount_bind(&link, &target).unwrap_err(), Errno::INVAL);
        let flags = rustix::mount::MountFlags::BIND;
        assert_eq!(rustix::mount::mount_remount(&link, flags, "").unwrap_err(), Errno::INVAL);
        let linked =
            rustix::fs::linkat(file, "", rustix::fs::CWD, daemon.root.join("link"), rustix::fs::AtFlags::EMPTY_PATH);
        assert_eq!(linked, Err(Errno::XDEV));
    }
    // All of that works on the plain file.
    let clone = mount::clone_at(&plain, false).unwrap();
    let mut writable = Attributes::default();
    writable.add("rw");
    mount::set_options(&clone, writable).unwrap();
    drop(clone);
    daemon.start();
}

#[test]
fn a_copy_in_memory_cannot_be_written_either() {
    let (mut daemon, copy, file) = handed_out(&[("WARREN_PROGRAM_COPY", "memory")]);
    let theirs = rustix::fs::fstat(&file).unwrap();
    assert_ne!(theirs.st_dev, fs::metadata(&copy).unwrap().dev());
    daemon.lxc(&["stop", "--force", "c1"]).ok();
    daemon.terminate();
    eventually("nothing runs the copy", || write(&file) != Err(Errno::TXTBSY));
    assert_eq!(write(&file), Err(Errno::PERM));
    daemon.start();
}
