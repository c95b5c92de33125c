//! mount(2) of a file system that a program of the container serves by FUSE, in the kernel's place: what the container may have
//! written on a disk is then read by nobody but the container.
//!
//! ```text
//!  helper ── reads the caller; the seccomp filters of the container's init
//!    └ child: control groups, security label, limits, namespaces of the caller
//!        └ child, in the caller's pid namespace: root, directory, ids, capabilities, filters; executes the program
//! ```
//! The program has what the caller has, and nothing else: no file, no environment, no right of the host's. It says by its end
//! whether it serves. Its system calls are not intercepted: the one that may answer is busy with this one.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType};

use super::{Caller, Outcome, field, identity, read_file};
use crate::sys::cgroup::{Groups, Hierarchies};
use crate::sys::notify::{self, Notice, Verdict};
use crate::sys::process::{self, Exit};
use crate::sys::seccomp::{self, Filter};

/// Where programs are looked for, inside.
const PROGRAMS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// As a shell tells that a program is not there.
const ABSENT: i32 = 127;
/// As a shell tells that a program cannot be run.
const REFUSED: i32 = 126;
/// A mount of the kernel's is for all users, with the permissions of its files.
const USUAL: &str = "allow_other,default_permissions";
/// Flags of mount(2), in the words of mount.fuse(8).
const FLAGS: &[(libc::c_ulong, &str)] = &[
    (libc::MS_RDONLY, "ro"),
    (libc::MS_NOSUID, "nosuid"),
    (libc::MS_NODEV, "nodev"),
    (libc::MS_NOEXEC, "noexec"),
    (libc::MS_SYNCHRONOUS, "sync"),
    (libc::MS_DIRSYNC, "dirsync"),
    (libc::MS_NOATIME, "noatime"),
];
/// The caller's namespaces but that of users, as files in its directory in /proc.
const NAMESPACES: &[(&str, LinkNameSpaceType)] = &[
    ("ns/cgroup", LinkNameSpaceType::ControlGroup),
    ("ns/ipc", LinkNameSpaceType::InterProcessCommunication),
    ("ns/uts", LinkNameSpaceType::HostNameAndNISDomainName),
    ("ns/net", LinkNameSpaceType::Network),
    ("ns/pid", LinkNameSpaceType::ProcessID),
    ("ns/mnt", LinkNameSpaceType::Mount),
];

/// What is to be mounted, as the caller said.
pub(super) struct Mount<'a> {
    /// Its program, by name or path inside.
    pub program: &'a str,
    pub source: Vec<u8>,
    pub target: Vec<u8>,
    /// `MS_*`.
    pub flags: u64,
    pub data: String,
}

/// All of the caller that its program gets.
struct Inherited {
    groups: Vec<OwnedFd>,
    /// `exec LABEL` for `attr/exec`, where a security module confines the caller.
    label: Option<String>,
    namespaces: Vec<(OwnedFd, LinkNameSpaceType)>,
    root: OwnedFd,
    directory: OwnedFd,
    /// User, group and groups, as they are numbered inside.
    ids: (Uid, Gid, Vec<Gid>),
    bounding: CapabilitySet,
    no_new_privs: bool,
    filters: Vec<Filter>,
}

impl Mount<'_> {
    fn options(&self) -> String {
        let words = FLAGS.iter().filter(|(flag, _)| self.flags & flag != 0).map(|(_, word)| *word);
        let data = self.data.split(',').filter(|word| !word.is_empty() && *word != "defaults");
        std::iter::once(USUAL).chain(words).chain(data).collect::<Vec<_>>().join(",")
    }

    /// Program, source, target, options, as mount.fuse(8) does it.
    fn command(&self) -> Command {
        // What begins with a dash is no option.
        let path = |path: &[u8]| if path.starts_with(b"-") { [b"./", path].concat() } else { path.to_vec() };
        let mut command = Command::new(self.program);
        command.arg(OsStr::from_bytes(&path(&self.source))).arg(OsStr::from_bytes(&path(&self.target)));
        command.arg("-o").arg(self.options()).env_clear().env("PATH", PROGRAMS);
        command
    }
}

/// The id inside that `id` of the host has, by an id map (user_namespaces(7)).
fn inside(map: &str, id: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().map(|word| word.parse::<u32>());
        let (inside, outside, count) = (words.next()?.ok()?, words.next()?.ok()?, words.next()?.ok()?);
        let offset = id.checked_sub(outside)?;
        (offset < count).then(|| inside.saturating_add(offset))
    })
}

/// What a file `attr/current` says: a label, where it confines.
fn label(text: &str) -> Option<&str> {
    // With its mode in parentheses.
    let label = text.trim_end_matches(['\0', '\n']);
    let label = label.rsplit_once(" (").map_or(label, |(label, _)| label);
    (!label.is_empty() && label != "unconfined").then_some(label)
}

impl Inherited {
    fn read(caller: &Caller<'_>, init: i32) -> Result<Self, Errno> {
        let status = read_file(caller.proc, "status")?;
        let number = |name: &str| field(&status, name).and_then(|text| u64::from_str_radix(text, 16).ok());
        let open = |name: &str, flags| rustix::fs::openat(caller.proc, name, flags | OFlags::CLOEXEC, Mode::empty());
        let (uids, gids) = (read_file(caller.proc, "uid_map")?, read_file(caller.proc, "gid_map")?);
        let own = |name: &str| rustix::fs::stat(format!("/proc/self/{name}")).map(|stat| (stat.st_dev, stat.st_ino));
        let mut namespaces = Vec::new();
        for (name, kind) in NAMESPACES {
            let namespace = open(name, OFlags::RDONLY)?;
            // One that is shared with the host need not be entered, and cannot.
            if identity(&namespace)? != own(name)? {
                namespaces.push((namespace, *kind));
            }
        }
        let groups = Groups::parse(&read_file(caller.proc, "cgroup")?);
        let dirs = Hierarchies::of_host().ok_or(Errno::PERM)?.all_dirs(&groups);
        let join = |dir: &std::path::PathBuf| {
            rustix::fs::open(dir.join("cgroup.procs"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        };
        let current = read_file(caller.proc, "attr/current").unwrap_or_default();
        let filters = seccomp::filters_of(init).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::PERM))?;
        Ok(Self {
            groups: dirs.iter().map(join).collect::<Result<_, _>>()?,
            label: label(&current).map(|label| format!("exec {label}")),
            namespaces,
            root: caller.open("root")?,
            directory: caller.open("cwd")?,
            ids: (
                Uid::from_raw(inside(&uids, caller.uid).ok_or(Errno::PERM)?),
                Gid::from_raw(inside(&gids, caller.gid).ok_or(Errno::PERM)?),
                caller.groups.iter().filter_map(|id| inside(&gids, *id)).map(Gid::from_raw).collect(),
            ),
            bounding: CapabilitySet::from_bits_retain(number("CapBnd").unwrap_or(0)),
            no_new_privs: number("NoNewPrivs") == Some(1),
            filters: filters.into_iter().map(Filter::without_listener).collect(),
        })
    }

    /// Goes where the caller is. Only children of this process are in its pid namespace then.
    fn enter(&self, caller: &Caller<'_>, thread: i32) -> Result<(), Errno> {
        // Nobody inside may trace what still is the host's root; the program becomes as any other.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        for group in &self.groups {
            rustix::io::write(group, b"0")?;
        }
        if let Some(label) = &self.label {
            let file =
                rustix::fs::open("/proc/thread-self/attr/exec", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
            rustix::io::write(file, label.as_bytes())?;
        }
        process::limits_as(thread).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::PERM))?;
        rustix::process::setsid()?;
        let enter = rustix::thread::move_into_link_name_space;
        enter(caller.users.as_fd(), Some(LinkNameSpaceType::User))?;
        for (namespace, kind) in &self.namespaces {
            enter(namespace.as_fd(), Some(*kind))?;
        }
        Ok(())
    }

    /// Becomes what the caller is.
    fn become_caller(&self, caller: &Caller<'_>) -> Result<(), Errno> {
        rustix::process::fchdir(&self.root)?;
        rustix::process::chroot(".")?;
        rustix::process::fchdir(&self.directory)?;
        rustix::process::umask(Mode::from_raw_mode(caller.umask));
        for capability in (!self.bounding & CapabilitySet::all()).iter() {
            // Later ones than this kernel's are none.
            let _ = rustix::thread::remove_capability_from_bounding_set(capability);
        }
        let (uid, gid, groups) = &self.ids;
        rustix::thread::set_keep_capabilities(true)?;
        rustix::thread::set_thread_groups(groups)?;
        rustix::thread::set_thread_res_gid(*gid, *gid, *gid)?;
        rustix::thread::set_thread_res_uid(*uid, *uid, *uid)?;
        process::leave_keyring().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::PERM))?;
        // Forgotten with the ids (prctl(2)).
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        if self.no_new_privs {
            rustix::thread::set_no_new_privs(true)?;
        }
        let granted = caller.capabilities & self.bounding;
        let sets = CapabilitySets { effective: granted, permitted: granted, inheritable: CapabilitySet::empty() };
        rustix::thread::set_capabilities(None, sets)?;
        for filter in &self.filters {
            filter.install().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::PERM))?;
        }
        Ok(())
    }
}

pub(super) fn serve(
    caller: &Caller<'_>,
    notice: &Notice,
    mount: &Mount<'_>,
    waits: impl Fn() -> Result<(), Errno>,
) -> Outcome {
    let inherited = Inherited::read(caller, notice.init)?;
    waits()?;
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let child = notify::in_child(|| {
        let ended = inherited.enter(caller, notice.thread).and_then(|()| {
            let program =
                notify::in_child_with_status(|| execute(&inherited, caller, mount)).map_err(|_| Errno::AGAIN)?;
            process::wait(program).map_err(|_| Errno::CHILD)
        });
        let result = match ended {
            Ok(Exit::Code(0)) => 0,
            // As if the kernel did not know the file system.
            Ok(Exit::Code(ABSENT)) => Errno::NODEV.raw_os_error(),
            Ok(Exit::Code(REFUSED)) => Errno::PERM.raw_os_error(),
            // It has found something wrong with what it was to mount.
            Ok(Exit::Code(_)) => Errno::INVAL.raw_os_error(),
            Ok(Exit::Signal(_)) => Errno::IO.raw_os_error(),
            Err(error) => error.raw_os_error(),
        };
        let _ = rustix::io::write(&writer, &result.to_ne_bytes());
    })
    .map_err(|_| Errno::AGAIN)?;
    drop(writer);
    let mut bytes = [0; 4];
    let read = rustix::io::retry_on_intr(|| rustix::io::read(&reader, &mut bytes));
    let _ = process::wait(child);
    match (read, i32::from_ne_bytes(bytes)) {
        (Ok(4), 0) => Ok(Verdict::Done),
        (Ok(4), error) => Err(Errno::from_raw_os_error(error)),
        (Ok(_) | Err(_), _) => Err(Errno::IO),
    }
}

/// Becomes the program. Where it cannot, it tells the status to end with.
fn execute(inherited: &Inherited, caller: &Caller<'_>, mount: &Mount<'_>) -> i32 {
    if inherited.become_caller(caller).is_err() {
        return REFUSED;
    }
    // Every file but /dev/null closes with it.
    match mount.command().exec().kind() {
        std::io::ErrorKind::NotFound => ABSENT,
        _ => REFUSED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_run_as_mount_fuse_does() {
        let mount = Mount {
            program: "fuse2fs",
            source: b"-o".to_vec(),
            target: b"/m".to_vec(),
            flags: libc::MS_RDONLY | libc::MS_NOSUID,
            data: "defaults,fakeroot".to_owned(),
        };
        let command = mount.command();
        let words: Vec<_> = command.get_args().map(|word| word.to_str().unwrap()).collect();
        assert_eq!(words, ["./-o", "/m", "-o", "allow_other,default_permissions,ro,nosuid,fakeroot"]);
    }

    #[test]
    fn ids_of_the_host_are_found_inside() {
        let map = "         0    1000000      65536\n     70000         1000          1\n";
        assert_eq!((inside(map, 1_000_005), inside(map, 1000)), (Some(5), Some(70000)));
        assert_eq!((inside(map, 0), inside(map, 1_065_536)), (None, None));
    }

    #[test]
    fn a_label_is_told_without_its_mode() {
        assert_eq!(
            label("lxc-c1_<-var>//&:lxc-c1_<-var>:unconfined (enforce)\n"),
            Some("lxc-c1_<-var>//&:lxc-c1_<-var>:unconfined")
        );
        assert_eq!((label("unconfined\n"), label(""), label("unconfined (complain)\n")), (None, None, None));
    }
}
