//! Control groups, both versions: where they are mounted, where a process is, what an instance uses.
//!
//! The layout is found by looking at the mounts, never by kernel version. A controller is read where it is: in its
//! version 1 hierarchy if there is one (legacy and hybrid hosts), else in the unified one.
//! Source of the file names: `Documentation/admin-guide/cgroup-v1` and `cgroup-v2.rst`.

mod dirs;
pub mod figures;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub use dirs::is_of_container;

use crate::api::wire::{CpuState, MemoryState};

/// liblxc puts an instance into a group whose name begins so.
const PAYLOAD: &str = "lxc.payload.";
/// And what watches it into one whose name begins so.
const MONITOR: &str = "lxc.monitor.";
/// A version 1 limit above this means "none" (the kernel rounds the largest number down to pages).
const V1_UNLIMITED: u64 = 1 << 60;

/// Why control groups could not be read.
#[derive(Debug)]
pub enum Error {
    /// A file could not be read; `NotFound` below `/proc` means that the process is gone.
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No control group file system is mounted.
    NotMounted,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => write!(f, "Failed to read {}: {source}", path.display()),
            Self::NotMounted => {
                write!(f, "No control group file system in /proc/self/mountinfo: mount cgroup2 on /sys/fs/cgroup")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::NotMounted => None,
        }
    }
}

/// How control groups are mounted on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Version 1 only.
    Legacy,
    /// Controllers in version 1, and a unified hierarchy beside them.
    Hybrid,
    /// Version 2 only.
    Unified,
}

/// The version of a hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy per controller.
    V1,
    /// The unified hierarchy.
    V2,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    /// The group that is visible at `point`; `/` unless a part of the tree was mounted.
    root: String,
}

impl Mount {
    fn dir(&self, group: &str) -> PathBuf {
        let inside = match self.root.as_str() {
            "/" => group,
            root => group.strip_prefix(root).filter(|r| r.is_empty() || r.starts_with('/')).unwrap_or(group),
        };
        self.point.join(inside.trim_start_matches('/'))
    }
}

/// The mounted hierarchies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchies {
    /// Controller, or `name=…`, to mount.
    v1: BTreeMap<String, Mount>,
    v2: Option<Mount>,
}

impl Hierarchies {
    /// Looks at this process's mounts.
    ///
    /// # Errors
    /// `/proc` is not readable, or nothing is mounted.
    pub fn detect() -> Result<Self, Error> {
        let path = PathBuf::from("/proc/self/mountinfo");
        let text = fs::read_to_string(&path).map_err(|source| Error::Read { path, source })?;
        Self::from_mountinfo(&text)
    }

    /// Reads the format of `/proc/<pid>/mountinfo`.
    ///
    /// # Errors
    /// [`Error::NotMounted`].
    pub fn from_mountinfo(text: &str) -> Result<Self, Error> {
        let mut found = Self { v1: BTreeMap::new(), v2: None };
        for line in text.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let mut left = left.split(' ').skip(3);
            let (Some(root), Some(point)) = (left.next(), left.next()) else { continue };
            let mut right = right.split(' ');
            let (Some(kind), Some(options)) = (right.next(), right.nth(1)) else { continue };
            let mount = Mount { point: PathBuf::from(unescape(point)), root: unescape(root) };
            match kind {
                // The first mount of a hierarchy counts: later ones are bind mounts into containers and chroots.
                "cgroup2" if found.v2.is_none() => found.v2 = Some(mount),
                "cgroup" => {
                    for option in options.split(',').filter(|o| !matches!(*o, "rw" | "ro" | "xattr" | "clone_children"))
                    {
                        found.v1.entry(option.to_owned()).or_insert_with(|| mount.clone());
                    }
                }
                _ => {}
            }
        }
        if found.v1.is_empty() && found.v2.is_none() { Err(Error::NotMounted) } else { Ok(found) }
    }

    /// This host's, found once: they do not change while a program runs. `None` when there are none.
    pub fn of_host() -> Option<&'static Self> {
        static FOUND: OnceLock<Option<Hierarchies>> = OnceLock::new();
        FOUND
            .get_or_init(|| Self::detect().inspect_err(|error| tracing::warn!(%error, "no control groups found")).ok())
            .as_ref()
    }

    /// Removes a group that held containers, if it holds none now. liblxc leaves `lxc.pivot` in it, where its monitors
    /// spend their last moments, and killed ones leave their own.
    pub fn remove_parent(&self, group: &str) {
        for dir in self.v1.values().chain(&self.v2).map(|mount| mount.dir(group)) {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with("lxc.") {
                    // EBUSY or ENOTEMPTY: it is needed.
                    let _ = fs::remove_dir(entry.path());
                }
            }
            let _ = fs::remove_dir(dir);
        }
    }

    /// How control groups are mounted.
    pub fn mode(&self) -> Mode {
        let controllers = self.v1.keys().any(|k| !k.contains('='));
        match (&self.v2, controllers) {
            (Some(_), false) => Mode::Unified,
            (Some(_), true) => Mode::Hybrid,
            (None, _) => Mode::Legacy,
        }
    }

    /// Whether `cpu` and `cpuacct` are two hierarchies of version 1. systemd inside a container only knows them as one,
    /// and can mount neither.
    pub fn cpu_apart(&self) -> bool {
        matches!((self.v1.get("cpu"), self.v1.get("cpuacct")), (Some(cpu), Some(cpuacct)) if cpu != cpuacct)
    }

    /// The controllers of all hierarchies, sorted.
    pub fn controllers(&self) -> Vec<String> {
        let v1 = self.v1.keys().filter(|name| !name.contains('=')).cloned();
        let file = self.v2.as_ref().map(|mount| mount.point.join("cgroup.controllers"));
        let v2 = file.map(|file| fs::read_to_string(file).unwrap_or_default()).unwrap_or_default();
        let mut all: Vec<String> = v1.chain(v2.split_whitespace().map(str::to_owned)).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Which version has `controller`.
    pub fn version_of(&self, controller: &str) -> Option<Version> {
        if self.v1.contains_key(controller) { Some(Version::V1) } else { self.v2.as_ref().map(|_| Version::V2) }
    }

    /// Which version really has `controller` on this host.
    pub fn has(&self, controller: &str) -> Option<Version> {
        if self.v1.contains_key(controller) {
            return Some(Version::V1);
        }
        let file = self.v2.as_ref()?.point.join("cgroup.controllers");
        let there = fs::read_to_string(file).is_ok_and(|text| text.split_whitespace().any(|name| name == controller));
        there.then_some(Version::V2)
    }

    /// The directory of `groups` in the hierarchy of `controller`.
    pub fn dir(&self, groups: &Groups, controller: &str) -> Option<(Version, PathBuf)> {
        if let (Some(mount), Some(group)) = (self.v1.get(controller), groups.v1.get(controller)) {
            return Some((Version::V1, mount.dir(group)));
        }
        let (mount, group) = (self.v2.as_ref()?, groups.v2.as_ref()?);
        Some((Version::V2, mount.dir(group)))
    }
}

/// `mountinfo` writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

/// The groups that a process is in, one per hierarchy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups {
    v1: BTreeMap<String, String>,
    v2: Option<String>,
}

impl Groups {
    /// The groups of a process.
    ///
    /// # Errors
    /// `NotFound` when the process is gone.
    pub fn of_pid(pid: i32) -> Result<Self, Error> {
        let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
        let text = fs::read_to_string(&path).map_err(|source| Error::Read { path, source })?;
        Ok(Self::parse(&text))
    }

    /// The groups of the instance whose init is `pid`: init may sit deeper (`init.scope`).
    ///
    /// # Errors
    /// `NotFound` when the process is gone.
    pub fn of_instance(pid: i32) -> Result<Self, Error> {
        Ok(Self::of_pid(pid)?.payload())
    }

    /// Reads the format of `/proc/<pid>/cgroup`.
    pub fn parse(text: &str) -> Self {
        let mut groups = Self::default();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            if controllers.is_empty() {
                groups.v2 = Some(path.to_owned());
            }
            for controller in controllers.split(',').filter(|c| !c.is_empty()) {
                groups.v1.insert(controller.to_owned(), path.to_owned());
            }
        }
        groups
    }

    fn payload(self) -> Self {
        let v1 = self.v1.into_iter().map(|(controller, path)| (controller, payload(&path).to_owned())).collect();
        Self { v1, v2: self.v2.map(|path| payload(&path).to_owned()) }
    }

    /// The path in the hierarchy of `controller`.
    pub fn path(&self, controller: &str) -> Option<&str> {
        self.v1.get(controller).or(self.v2.as_ref()).map(String::as_str)
    }
}

/// Cuts `path` after its last component that liblxc made for an instance; elsewhere only systemd's own scope is cut.
fn payload(path: &str) -> &str {
    let mut end = None;
    let mut at = 0;
    for part in path.split('/') {
        if part.starts_with(PAYLOAD) {
            end = Some(at + part.len());
        }
        at += part.len() + 1;
    }
    match end {
        Some(end) => &path[..end],
        None => path.strip_suffix("/init.scope").unwrap_or(path),
    }
}

/// What an instance uses. A figure is `None` where this kernel does not count it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstanceUsage {
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes, the most since the start.
    pub memory_peak: Option<u64>,
    /// Bytes swapped out.
    pub swap: Option<u64>,
    /// Bytes swapped out, the most since the start.
    pub swap_peak: Option<u64>,
    /// The limit in bytes, or the host's memory when that is less.
    pub memory_total: Option<u64>,
    /// Nanoseconds of processor time.
    pub cpu_ns: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u64>,
}

impl InstanceUsage {
    /// What the instance with the init process `pid` uses. Some ten small file reads.
    ///
    /// # Errors
    /// `NotFound` when the process is gone.
    pub fn read(hierarchies: &Hierarchies, pid: i32) -> Result<Self, Error> {
        Ok(Self::of_groups(hierarchies, &Groups::of_instance(pid)?))
    }

    /// What the processes in `groups` use.
    pub fn of_groups(hierarchies: &Hierarchies, groups: &Groups) -> Self {
        let mut usage = Self { memory_total: host_memory(), ..Self::default() };
        match hierarchies.dir(groups, "memory") {
            Some((Version::V1, dir)) => usage.memory_v1(&dir),
            Some((Version::V2, dir)) => usage.memory_v2(&dir),
            None => {}
        }
        usage.cpu_ns = match hierarchies.dir(groups, "cpuacct") {
            Some((Version::V1, dir)) => number(&dir, "cpuacct.usage"),
            Some((Version::V2, dir)) => keyed(&dir, "cpu.stat", "usage_usec").map(|micros| micros.saturating_mul(1000)),
            None => None,
        };
        let (_, pids) = hierarchies.dir(groups, "pids").unzip();
        let processes = pids.as_deref().and_then(|dir| number(dir, "pids.current"));
        usage.processes = processes.or_else(|| pids.map(|dir| count_processes(&dir, 0)));
        usage
    }

    fn limit(&mut self, limit: Option<u64>) {
        if let Some(limit) = limit {
            self.memory_total = Some(self.memory_total.map_or(limit, |total| total.min(limit)));
        }
    }

    fn memory_v1(&mut self, dir: &Path) {
        self.memory = number(dir, "memory.usage_in_bytes");
        self.memory_peak = number(dir, "memory.max_usage_in_bytes");
        // Version 1 counts memory and swap together.
        let less = |both: Option<u64>, memory: Option<u64>| Some(both?.saturating_sub(memory?));
        self.swap = less(number(dir, "memory.memsw.usage_in_bytes"), self.memory);
        self.swap_peak = less(number(dir, "memory.memsw.max_usage_in_bytes"), self.memory_peak);
        self.limit(number(dir, "memory.limit_in_bytes").filter(|limit| *limit < V1_UNLIMITED));
    }

    fn memory_v2(&mut self, dir: &Path) {
        self.memory = number(dir, "memory.current");
        self.memory_peak = number(dir, "memory.peak");
        self.swap = number(dir, "memory.swap.current");
        self.swap_peak = number(dir, "memory.swap.peak");
        // "max" is no number, hence no limit.
        self.limit(number(dir, "memory.max"));
    }

    /// As the API shows it; figures that are not counted are 0.
    pub fn memory_state(&self) -> MemoryState {
        let figure = |value: Option<u64>| i64::try_from(value.unwrap_or(0)).unwrap_or(i64::MAX);
        MemoryState {
            usage: figure(self.memory),
            usage_peak: figure(self.memory_peak),
            swap_usage: figure(self.swap),
            swap_usage_peak: figure(self.swap_peak),
            total: figure(self.memory_total),
        }
    }

    /// As the API shows it.
    pub fn cpu_state(&self) -> CpuState {
        CpuState { usage: i64::try_from(self.cpu_ns.unwrap_or(0)).unwrap_or(i64::MAX) }
    }
}

/// Hands over what a small file of the kernel holds. It gives everything in one read, and its size is no use: half the
/// system calls of the usual way, which count when hundreds of instances are looked at.
fn small<T>(path: &Path, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    let mut buffer = [0; 4096];
    let length = fs::File::open(path).ok()?.read(&mut buffer).ok()?;
    parse(std::str::from_utf8(buffer.get(..length)?).ok()?)
}

fn number(dir: &Path, file: &str) -> Option<u64> {
    small(&dir.join(file), |text| text.trim().parse().ok())
}

fn keyed(dir: &Path, file: &str, key: &str) -> Option<u64> {
    small(&dir.join(file), |text| keyed_in(text, key))
}

fn keyed_in(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Without the pids controller: the members of the group and of those below it.
fn count_processes(dir: &Path, depth: usize) -> u64 {
    let own = fs::read_to_string(dir.join("cgroup.procs")).map_or(0, |text| text.lines().count());
    let mut count = u64::try_from(own).unwrap_or(u64::MAX);
    if depth < 16 {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                count = count.saturating_add(count_processes(&entry.path(), depth + 1));
            }
        }
    }
    count
}

/// `MemTotal` of /proc/meminfo, by sysinfo(2), which need not count all the other figures.
#[allow(clippy::useless_conversion, reason = "32 bits wide on some architectures")]
/// Bytes of memory that this host has.
pub fn host_memory() -> Option<u64> {
    let info = rustix::system::sysinfo();
    u64::from(info.totalram).checked_mul(info.mem_unit.into())
}

/// For [`crate::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(text: &str) {
    let _ = Hierarchies::from_mountinfo(text);
    Groups::parse(text).payload();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dir: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(dir).unwrap();
        for (name, content) in files {
            fs::write(dir.join(name), content).unwrap();
        }
    }

    #[test]
    fn layouts_are_told_apart() {
        let v2 = "30 1 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let memory = "31 1 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let named = "32 1 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
        let mode = |text: &str| Hierarchies::from_mountinfo(text).unwrap().mode();
        assert_eq!(mode(v2), Mode::Unified);
        assert_eq!(mode(&format!("{v2}{named}")), Mode::Unified);
        assert_eq!(mode(&format!("{v2}{memory}")), Mode::Hybrid);
        assert_eq!(mode(memory), Mode::Legacy);
        assert!(matches!(Hierarchies::from_mountinfo("1 0 8:1 / / rw - ext4 /dev/sda rw"), Err(Error::NotMounted)));
    }

    #[test]
    fn controllers_that_systemd_joins_are_known_to_be_apart() {
        let line = |name: &str| format!("3 1 0:2 / /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{name}\n");
        let apart = |text: &str| Hierarchies::from_mountinfo(text).unwrap().cpu_apart();
        assert!(apart(&(line("cpu") + &line("cpuacct"))));
        assert!(!apart(&line("cpu,cpuacct")) && !apart(&line("cpu")));
        assert!(!apart("3 1 0:2 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"));
    }

    #[test]
    fn the_instance_is_the_last_payload_of_the_path() {
        for (path, group) in [
            ("/lxc.payload.c1", "/lxc.payload.c1"),
            ("/lxc.payload.c1/init.scope", "/lxc.payload.c1"),
            ("/a/lxc.payload.c1/x/lxc.payload.c2/init.scope/y", "/a/lxc.payload.c1/x/lxc.payload.c2"),
            ("/system.slice/x.service", "/system.slice/x.service"),
            ("/own/init.scope", "/own"),
            ("/", "/"),
        ] {
            assert_eq!(payload(path), group);
        }
    }

    #[test]
    fn unified_figures() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("with space");
        put(
            &root.join("lxc.payload.c1"),
            &[
                ("memory.current", "1048576\n"),
                ("memory.peak", "2097152\n"),
                ("memory.swap.current", "4096\n"),
                ("memory.max", "8388608\n"),
                ("cpu.stat", "usage_usec 1234\nuser_usec 1000\nsystem_usec 234\n"),
                ("pids.current", "7\n"),
            ],
        );
        let point = root.display().to_string().replace(' ', "\\040");
        let hierarchies =
            Hierarchies::from_mountinfo(&format!("30 1 0:26 / {point} rw - cgroup2 cgroup2 rw\n")).unwrap();
        let groups = Groups::parse("0::/lxc.payload.c1/init.scope\n").payload();
        assert_eq!(groups.path("memory"), Some("/lxc.payload.c1"));
        let usage = InstanceUsage::of_groups(&hierarchies, &groups);
        let expected = InstanceUsage {
            memory: Some(1_048_576),
            memory_peak: Some(2_097_152),
            swap: Some(4096),
            swap_peak: None,
            memory_total: Some(8_388_608),
            cpu_ns: Some(1_234_000),
            processes: Some(7),
        };
        assert_eq!(usage, expected);
        assert_eq!(usage.memory_state().swap_usage_peak, 0);
    }

    #[test]
    fn unified_without_limit_and_without_pids() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("part/lxc.payload.c1");
        put(&dir, &[("memory.max", "max\n"), ("cgroup.procs", "1\n")]);
        put(&dir.join("init.scope"), &[("cgroup.procs", "2\n3\n")]);
        // Only the group /outer is mounted here.
        let mountinfo = format!("30 1 0:26 /outer {} rw - cgroup2 cgroup2 rw\n", temp.path().join("part").display());
        let hierarchies = Hierarchies::from_mountinfo(&mountinfo).unwrap();
        let usage = InstanceUsage::of_groups(&hierarchies, &Groups::parse("0::/outer/lxc.payload.c1\n"));
        assert_eq!(usage.memory_total, host_memory());
        assert_eq!((usage.memory, usage.processes), (None, Some(3)));
    }

    #[test]
    fn legacy_figures() {
        let temp = tempfile::tempdir().unwrap();
        let (memory, cpu) = (temp.path().join("memory"), temp.path().join("cpu,cpuacct"));
        put(
            &memory.join("lxc.payload.c1"),
            &[
                ("memory.usage_in_bytes", "1000\n"),
                ("memory.max_usage_in_bytes", "3000\n"),
                ("memory.memsw.usage_in_bytes", "1500\n"),
                ("memory.memsw.max_usage_in_bytes", "3100\n"),
                ("memory.limit_in_bytes", "9223372036854771712\n"),
            ],
        );
        put(&cpu.join("lxc.payload.c1"), &[("cpuacct.usage", "42\n")]);
        let hierarchies = Hierarchies::from_mountinfo(&format!(
            "31 1 0:27 / {} rw - cgroup cgroup rw,memory\n32 1 0:28 / {} rw - cgroup cgroup rw,cpu,cpuacct\n",
            memory.display(),
            cpu.display()
        ))
        .unwrap();
        let groups = Groups::parse("5:memory:/lxc.payload.c1\n4:cpu,cpuacct:/lxc.payload.c1\n");
        let usage = InstanceUsage::of_groups(&hierarchies, &groups);
        assert_eq!((usage.memory, usage.memory_peak), (Some(1000), Some(3000)));
        assert_eq!((usage.swap, usage.swap_peak, usage.cpu_ns), (Some(500), Some(100), Some(42)));
        assert_eq!(usage.memory_total, host_memory());
        assert_eq!(usage.processes, None);
        assert_eq!(hierarchies.version_of("memory"), Some(Version::V1));
    }

    #[test]
    fn this_host_counts_this_process() {
        let hierarchies = Hierarchies::detect().unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        let usage = InstanceUsage::read(&hierarchies, pid).unwrap();
        assert!(usage.cpu_ns.is_some_and(|ns| ns > 0) && usage.memory_total.is_some());
        assert!(matches!(InstanceUsage::read(&hierarchies, i32::MAX), Err(Error::Read { .. })));
    }
}
