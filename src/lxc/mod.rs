//! Safe liblxc: one short-lived handle per operation.
//!
//! A handle is `Send` but neither `Sync` nor `Clone`: liblxc's own reference counting and locks are not to be relied
//! on. Every string is copied; every fd that liblxc gives away is owned. Which calls fork and therefore belong into the
//! helper process only, each method says.
#![allow(unsafe_code, reason = "the fence around liblxc")]

pub mod log;

use std::ffi::{CStr, CString, NulError};
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};

/// States of a container (liblxc `state()`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[expect(missing_docs, reason = "the names are liblxc's")]
pub enum State {
    Stopped,
    Starting,
    Running,
    Stopping,
    Aborting,
    Freezing,
    Frozen,
    Thawed,
}

impl State {
    /// From liblxc's word.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "STOPPED" => Self::Stopped,
            "STARTING" => Self::Starting,
            "RUNNING" => Self::Running,
            "STOPPING" => Self::Stopping,
            "ABORTING" => Self::Aborting,
            "FREEZING" => Self::Freezing,
            "FROZEN" => Self::Frozen,
            "THAWED" => Self::Thawed,
            _ => return None,
        })
    }
}

/// A call of liblxc that failed. liblxc gives no text; what it logged stands in the container's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// A text with a NUL inside.
    Nul,
    /// `lxc_container_new` failed.
    New,
    /// The function returned failure.
    Call(&'static str),
    /// The member is missing in this library.
    Unsupported(&'static str),
    /// A state that this program does not know.
    State(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nul => f.write_str("a name or path contains a NUL character"),
            Self::New => f.write_str("liblxc could not set up the container handle"),
            Self::Call(call) => write!(f, "liblxc's {call} failed"),
            Self::Unsupported(call) => write!(f, "this liblxc has no {call}"),
            Self::State(state) => write!(f, "liblxc reports the unknown state {state:?}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<NulError> for Error {
    fn from(_: NulError) -> Self {
        Self::Nul
    }
}

fn c_path(path: &Path) -> Result<CString, Error> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// The version of the library that runs, e.g. "5.0.2".
pub fn version() -> String {
    // SAFETY: returns a static string (lxc_get_version), copied at once.
    unsafe { CStr::from_ptr(lxc_sys::lxc_get_version()) }.to_string_lossy().into_owned()
}

/// Which of these API extensions the library that runs has (`lxc_has_api_extension`).
pub fn extensions(names: &[&'static CStr]) -> Vec<(&'static CStr, bool)> {
    // SAFETY: a NUL-terminated name that outlives the call; it only looks into a constant table.
    names.iter().map(|name| (*name, unsafe { lxc_sys::lxc_has_api_extension(name.as_ptr()) })).collect()
}

/// Whether the library that runs knows this item of a configuration (`lxc_config_item_is_supported`).
pub fn knows_item(key: &str) -> bool {
    // SAFETY: a NUL-terminated string that outlives the call.
    CString::new(key).is_ok_and(|key| unsafe { lxc_sys::lxc_config_item_is_supported(key.as_ptr()) })
}

/// What to run inside a container.
pub struct Attach<'a> {
    /// Program and arguments; not empty.
    pub argv: &'a [CString],
    /// `NAME=value` each; the rest of the environment is cleared.
    pub env: &'a [CString],
    /// Working directory.
    pub cwd: &'a CStr,
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// stdin, stdout, stderr; none of them is fd 0 of this process.
    pub stdio: [BorrowedFd<'a>; 3],
}

/// A client's end of a container's console.
pub struct Console {
    /// Holds the console: as long as it is open, nobody else gets it.
    pub slot: OwnedFd,
    /// What the container writes to /dev/console is read here, and the other way round. liblxc's monitor writes to its
    /// other end and **waits** while that is full, with all that it should do besides; so whoever holds this reads it.
    pub ptx: OwnedFd,
}

/// `LXC_ATTACH_DEFAULT`: all of cgroup, capabilities, personality and LSM.
const ATTACH_DEFAULT: i32 = 0x0000_ffff;
/// `LXC_ATTACH_CLEAR_ENV`.
const CLEAR_ENV: i32 = 1;

/// A handle of one container.
pub struct Container {
    raw: NonNull<lxc_sys::lxc_container>,
}

// SAFETY: liblxc's handle has no thread affinity between calls; `Container` is not `Sync` and not `Clone`, so calls
// never overlap.
unsafe impl Send for Container {}

impl Drop for Container {
    fn drop(&mut self) {
        // SAFETY: `raw` holds the one reference that lxc_container_new gave; it is not used afterwards.
        unsafe { lxc_sys::lxc_container_put(self.raw.as_ptr()) };
    }
}

macro_rules! member {
    ($self:ident, $name:ident) => {{
        // SAFETY: `raw` points to a live lxc_container; the member lies within the 5.0 layout, the oldest supported.
        let member = unsafe { (*$self.raw.as_ptr()).$name };
        member.ok_or(Error::Unsupported(stringify!($name)))?
    }};
}

impl Container {
    /// A handle of container `name` under `lxc_path`, which must not hold files of liblxc's own. Does not fork.
    ///
    /// # Errors
    /// [`Error::New`] when liblxc refuses, e.g. because its lock directory cannot be made.
    pub fn new(name: &str, lxc_path: &Path) -> Result<Self, Error> {
        let name = CString::new(name)?;
        let path = c_path(lxc_path)?;
        // SAFETY: both strings outlive the call; the result is one reference that Drop gives back.
        let raw = unsafe { lxc_sys::lxc_container_new(name.as_ptr(), path.as_ptr()) };
        NonNull::new(raw).map(|raw| Self { raw }).ok_or(Error::New)
    }

    /// Loads a configuration file. Does not fork.
    ///
    /// # Errors
    /// When liblxc refuses a line.
    pub fn load_config(&mut self, file: &Path) -> Result<(), Error> {
        let load = member!(self, load_config);
        let file = c_path(file)?;
        // SAFETY: the string outlives the call.
        if unsafe { load(self.raw.as_ptr(), file.as_ptr()) } { Ok(()) } else { Err(Error::Call("load_config")) }
    }

    /// Sets an item of its configuration in memory. Does not fork.
    ///
    /// # Errors
    /// When liblxc does not know it, or not this value.
    pub fn set_config_item(&mut self, key: &str, value: &str) -> Result<(), Error> {
        let set = member!(self, set_config_item);
        let (key, value) = (CString::new(key)?, CString::new(value)?);
        // SAFETY: both strings outlive the call.
        if unsafe { set(self.raw.as_ptr(), key.as_ptr(), value.as_ptr()) } {
            Ok(())
        } else {
            Err(Error::Call("set_config_item"))
        }
    }

    /// Starts the container as a daemon and returns when it runs. **Forks**; has no timeout.
    ///
    /// # Errors
    /// When it does not reach RUNNING.
    pub fn start(&mut self) -> Result<(), Error> {
        let start = member!(self, start);
        // SAFETY: no arguments are passed, as liblxc allows; the process is single-threaded (helper).
        if unsafe { start(self.raw.as_ptr(), 0, ptr::null()) } { Ok(()) } else { Err(Error::Call("start")) }
    }

    /// Waits until the container is STOPPED, at most so long. Does not fork.
    ///
    /// # Errors
    /// When it is not by then.
    pub fn wait_stopped(&mut self, seconds: i32) -> Result<(), Error> {
        let wait = member!(self, wait);
        // SAFETY: the string is static.
        if unsafe { wait(self.raw.as_ptr(), c"STOPPED".as_ptr(), seconds) } { Ok(()) } else { Err(Error::Call("wait")) }
    }

    /// Its state, asked from its monitor. Does not fork, but blocks as long as the monitor likes.
    ///
    /// # Errors
    /// When the state is none that is known.
    pub fn state(&self) -> Result<State, Error> {
        let state = member!(self, state);
        // SAFETY: returns a static string or NULL.
        let word = unsafe { state(self.raw.as_ptr()) };
        if word.is_null() {
            return Err(Error::Call("state"));
        }
        // SAFETY: not NULL, static, NUL-terminated; copied at once.
        let word = unsafe { CStr::from_ptr(word) }.to_string_lossy().into_owned();
        State::parse(&word).ok_or(Error::State(word))
    }

    /// Its init in this pid namespace's numbering. Does not fork.
    ///
    /// # Errors
    /// When it does not run.
    pub fn init_pid(&self) -> Result<i32, Error> {
        let init_pid = member!(self, init_pid);
        // SAFETY: plain query.
        let pid = unsafe { init_pid(self.raw.as_ptr()) };
        if pid > 0 { Ok(pid) } else { Err(Error::Call("init_pid")) }
    }

    fn owned_fd(fd: i32, call: &'static str) -> Result<OwnedFd, Error> {
        if fd < 0 {
            return Err(Error::Call(call));
        }
        // SAFETY: liblxc hands over a fresh fd that nobody else closes.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// A pidfd of its init. Does not fork.
    ///
    /// # Errors
    /// When it does not run.
    pub fn init_pidfd(&self) -> Result<OwnedFd, Error> {
        let init_pidfd = member!(self, init_pidfd);
        // SAFETY: plain query.
        Self::owned_fd(unsafe { init_pidfd(self.raw.as_ptr()) }, "init_pidfd")
    }

    /// The container's devpts mount. Does not fork.
    ///
    /// # Errors
    /// When it does not run.
    pub fn devpts(&self) -> Result<OwnedFd, Error> {
        let devpts_fd = member!(self, devpts_fd);
        // SAFETY: plain query.
        Self::owned_fd(unsafe { devpts_fd(self.raw.as_ptr()) }, "devpts_fd")
    }

    /// Attaches to the container's console. Does not fork.
    ///
    /// # Errors
    /// When it does not run, or another client has the console; liblxc does not say which.
    pub fn console(&mut self) -> Result<Console, Error> {
        let console_getfd = member!(self, console_getfd);
        // Terminal 0 is the console; others would be the container's ttys.
        let (mut number, mut ptx) = (0, -1);
        // SAFETY: both pointers live until the call returns.
        let slot = unsafe { console_getfd(self.raw.as_ptr(), &raw mut number, &raw mut ptx) };
        let slot = Self::owned_fd(slot, "console_getfd")?;
        Ok(Console { slot, ptx: Self::owned_fd(ptx, "console_getfd")? })
    }

    /// Writes an item of the running container's control groups; with cgroup 2, of its program for devices. Asks the
    /// monitor: helper only.
    ///
    /// # Errors
    /// When liblxc cannot.
    pub fn set_cgroup_item(&mut self, item: &CStr, value: &str) -> Result<(), Error> {
        let set = member!(self, set_cgroup_item);
        let value = CString::new(value)?;
        // SAFETY: both strings outlive the call.
        if unsafe { set(self.raw.as_ptr(), item.as_ptr(), value.as_ptr()) } {
            Ok(())
        } else {
            Err(Error::Call("set_cgroup_item"))
        }
    }

    /// Holds all processes. With cgroup 1 it polls: helper only.
    ///
    /// # Errors
    /// When the freezer does not get there.
    pub fn freeze(&mut self) -> Result<(), Error> {
        let freeze = member!(self, freeze);
        // SAFETY: plain call.
        if unsafe { freeze(self.raw.as_ptr()) } { Ok(()) } else { Err(Error::Call("freeze")) }
    }

    /// Lets all processes go on. With cgroup 1 it polls: helper only.
    ///
    /// # Errors
    /// When the freezer does not get there.
    pub fn unfreeze(&mut self) -> Result<(), Error> {
        let unfreeze = member!(self, unfreeze);
        // SAFETY: plain call.
        if unsafe { unfreeze(self.raw.as_ptr()) } { Ok(()) } else { Err(Error::Call("unfreeze")) }
    }

    /// Runs a program inside and returns its pid; it is a child of this process. **Forks.** When the program cannot be
    /// executed the child exits with 126 or 127 (`lxc_attach_run_command`).
    ///
    /// # Errors
    /// When liblxc could not enter the container.
    pub fn attach(&mut self, what: &Attach<'_>) -> Result<i32, Error> {
        let attach = member!(self, attach);
        let pointers = |list: &[CString]| -> Vec<*mut libc::c_char> {
            list.iter().map(|text| text.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
        };
        let mut argv = pointers(what.argv);
        let mut env = pointers(what.env);
        let Some(program) = what.argv.first() else { return Err(Error::Call("attach")) };
        let mut command =
            lxc_sys::lxc_attach_command_t { program: program.as_ptr().cast_mut(), argv: argv.as_mut_ptr() };
        let [stdin, stdout, stderr] = what.stdio.map(|fd| fd.as_raw_fd());
        let mut options = lxc_sys::lxc_attach_options_t {
            attach_flags: ATTACH_DEFAULT,
            namespaces: -1,
            personality: -1,
            initial_cwd: what.cwd.as_ptr().cast_mut(),
            uid: what.uid,
            gid: what.gid,
            env_policy: CLEAR_ENV,
            extra_env_vars: env.as_mut_ptr(),
            extra_keep_env: ptr::null_mut(),
            stdin_fd: stdin,
            stdout_fd: stdout,
            stderr_fd: stderr,
            log_fd: -libc::EBADF,
            lsm_label: ptr::null_mut(),
            groups: lxc_sys::lxc_groups_t { size: 0, list: ptr::null_mut() },
        };
        let mut pid: libc::pid_t = -1;
        // SAFETY: all pointers live until the call returns, and the child works on a copy of this memory; the options
        // are fresh, as liblxc changes them; the exec function is liblxc's own.
        let result = unsafe {
            attach(
                self.raw.as_ptr(),
                Some(lxc_sys::lxc_attach_run_command),
                ptr::from_mut(&mut command).cast(),
                &raw mut options,
                &raw mut pid,
            )
        };
        if result == 0 && pid > 0 { Ok(pid) } else { Err(Error::Call("attach")) }
    }
}
