//! A program on a terminal of its own, with the test as its user.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};

use super::eventually;

/// The same client run by another program.
pub fn by(program: &str, arguments: &[&str], client: &Command) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).arg(client.get_program()).args(client.get_args()).stdin(Stdio::null());
    for (name, value) in client.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

pub fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Waits for the end, as long as anything is waited for.
#[track_caller]
pub fn ended(child: &mut Child) -> ExitStatus {
    let mut status = None;
    eventually("the client has ended", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

/// A client on a terminal of its own, with the test as its user.
pub struct Terminal {
    ptx: File,
    pub pts: OwnedFd,
    before: Termios,
    pub child: Child,
    seen: Arc<Mutex<String>>,
}

impl Terminal {
    /// Starts it with a window of so many columns and rows.
    pub fn with(client: &Command, (columns, rows): (u16, u16)) -> Self {
        let ptx = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        rustix::pty::grantpt(&ptx).unwrap();
        rustix::pty::unlockpt(&ptx).unwrap();
        let name = rustix::pty::ptsname(&ptx, Vec::new()).unwrap();
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
        let pts = rustix::fs::open(name, flags, rustix::fs::Mode::empty()).unwrap();
        resize(&pts, columns, rows);
        let before = tcgetattr(&pts).unwrap();
        // Its controlling terminal, so that the kernel tells it of a new size.
        let mut command = by("setsid", &["--ctty"], client);
        let end = || Stdio::from(pts.try_clone().unwrap());
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let ptx = File::from(ptx);
        let seen = Arc::new(Mutex::new(String::new()));
        let (mut reader, shown) = (ptx.try_clone().unwrap(), Arc::clone(&seen));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // It ends when nobody has the other end open any more.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                shown.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Self { ptx, pts, before, child, seen }
    }

    /// All that was shown.
    pub fn seen(&self) -> String {
        self.seen.lock().unwrap().clone()
    }

    #[track_caller]
    pub fn shows(&self, text: &str) {
        let start = std::time::Instant::now();
        while !self.seen().contains(text) {
            assert!(start.elapsed().as_secs() < 20, "{text:?} is not shown, but: {:?}", self.seen());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    pub fn types(&mut self, text: &str) {
        self.ptx.write_all(text.as_bytes()).unwrap();
    }

    pub fn is_raw(&self) -> bool {
        !tcgetattr(&self.pts).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    #[track_caller]
    pub fn is_as_before(&self) {
        let now = tcgetattr(&self.pts).unwrap();
        assert_eq!(now.local_modes, self.before.local_modes);
        assert_eq!(now.input_modes, self.before.input_modes);
        assert_eq!(now.output_modes, self.before.output_modes);
        assert_eq!(now.control_modes, self.before.control_modes);
    }

    /// The exit code; the terminal must be as it was.
    #[track_caller]
    pub fn end(&mut self) -> i32 {
        let status = ended(&mut self.child);
        self.is_as_before();
        status.code().unwrap_or_else(|| panic!("{status}: {:?}", self.seen()))
    }
}

pub fn resize(pts: &OwnedFd, columns: u16, rows: u16) {
    tcsetwinsize(pts, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}
