//! Figures of a group for metrics, finer than [`super::InstanceUsage`]: by processor, by device, by kind of memory.
//!
//! Some eight small files for each group. Source of the names: `Documentation/admin-guide/cgroup-v1` and `cgroup-v2.rst`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{Groups, Hierarchies, V1_UNLIMITED, Version, host_memory, keyed, number};

/// Processor time, nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// The processor's number; version 2 counts all as 0.
    pub cpu: u32,
    /// In user mode.
    pub user: u64,
    /// In the kernel.
    pub system: u64,
}

/// What was read from and written to a block device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskFigures {
    /// Bytes.
    pub read_bytes: u64,
    /// Requests.
    pub reads: u64,
    /// Bytes.
    pub written_bytes: u64,
    /// Requests.
    pub writes: u64,
}

/// Memory by its use, bytes. What this kernel does not count is 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the kernel's memory.stat")]
pub struct MemoryFigures {
    pub active_anon: u64,
    pub active_file: u64,
    pub cached: u64,
    pub dirty: u64,
    pub inactive_anon: u64,
    pub inactive_file: u64,
    pub mapped: u64,
    pub rss: u64,
    pub shmem: u64,
    pub swap: u64,
    pub unevictable: u64,
    pub writeback: u64,
    /// All that counts against the limit.
    pub usage: u64,
    /// The limit, or the host's memory where that is less.
    pub total: u64,
}

/// What metrics tell of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// By processor.
    pub cpus: Vec<CpuTime>,
    /// By device, as `major:minor`.
    pub disks: BTreeMap<String, DiskFigures>,
    /// Memory, where it is counted.
    pub memory: Option<MemoryFigures>,
    /// Processes and threads, where they are counted.
    pub processes: Option<u64>,
}

impl Figures {
    /// Those of `groups`.
    pub fn of_groups(hierarchies: &Hierarchies, groups: &Groups) -> Self {
        let text = |dir: &Path, file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
        let cpus = match hierarchies.dir(groups, "cpuacct") {
            Some((Version::V1, dir)) => cpus_v1(&text(&dir, "cpuacct.usage_all")),
            Some((Version::V2, dir)) => cpus_v2(&text(&dir, "cpu.stat")),
            None => Vec::new(),
        };
        let disks = match hierarchies.dir(groups, "blkio") {
            Some((Version::V1, dir)) => disks_v1(
                &text(&dir, "blkio.throttle.io_service_bytes_recursive"),
                &text(&dir, "blkio.throttle.io_serviced_recursive"),
            ),
            // Version 2 calls the controller io; the group is the same.
            Some((Version::V2, dir)) => disks_v2(&text(&dir, "io.stat")),
            None => BTreeMap::new(),
        };
        let memory = hierarchies.dir(groups, "memory").and_then(|(version, dir)| memory(version, &dir));
        let processes = hierarchies.dir(groups, "pids").and_then(|(_, dir)| number(&dir, "pids.current"));
        Self { cpus, disks, memory, processes }
    }
}

/// `cpuacct.usage_all`: a heading, then a line `cpu user system` for each processor.
fn cpus_v1(text: &str) -> Vec<CpuTime> {
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        let cpu = fields.next()?.parse().ok()?;
        Some(CpuTime { cpu, user: fields.next()?.parse().ok()?, system: fields.next()?.parse().ok()? })
    };
    text.lines().filter_map(line).collect()
}

/// `cpu.stat` does not know processors.
fn cpus_v2(text: &str) -> Vec<CpuTime> {
    let micros = |key: &str| super::keyed_in(text, key).map(|micros| micros.saturating_mul(1000));
    match (micros("user_usec"), micros("system_usec")) {
        (Some(user), Some(system)) => vec![CpuTime { cpu: 0, user, system }],
        _ => Vec::new(),
    }
}

/// Lines `major:minor Read 4096`.
fn disks_v1(bytes: &str, requests: &str) -> BTreeMap<String, DiskFigures> {
    let mut disks: BTreeMap<String, DiskFigures> = BTreeMap::new();
    for (text, counts_bytes) in [(bytes, true), (requests, false)] {
        for line in text.lines() {
            let mut fields = line.split_whitespace();
            let (Some(device), Some(what), Some(value)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            let Ok(value) = value.parse() else { continue };
            let disk = disks.entry(device.to_owned()).or_default();
            match (what, counts_bytes) {
                ("Read", true) => disk.read_bytes = value,
                ("Read", false) => disk.reads = value,
                ("Write", true) => disk.written_bytes = value,
                ("Write", false) => disk.writes = value,
                _ => {}
            }
        }
    }
    disks
}

/// Lines `major:minor rbytes=1 wbytes=2 rios=3 wios=4 …`.
fn disks_v2(text: &str) -> BTreeMap<String, DiskFigures> {
    let line = |line: &str| {
        let (device, figures) = line.split_once(' ')?;
        let of = |name: &str| {
            let found = figures.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            found.and_then(|value| value.parse().ok()).unwrap_or(0)
        };
        let disk = DiskFigures {
            read_bytes: of("rbytes"),
            reads: of("rios"),
            written_bytes: of("wbytes"),
            writes: of("wios"),
        };
        Some((device.to_owned(), disk))
    };
    text.lines().filter_map(line).collect()
}

fn memory(version: Version, dir: &Path) -> Option<MemoryFigures> {
    let text = fs::read_to_string(dir.join("memory.stat")).ok()?;
    // Version 1 counts the groups below only in what begins so.
    let of = |v1: &str, v2: &str| match version {
        Version::V1 => super::keyed_in(&text, &format!("total_{v1}")).unwrap_or(0),
        Version::V2 => super::keyed_in(&text, v2).unwrap_or(0),
    };
    let (usage, limit, swap) = match version {
        Version::V1 => (
            number(dir, "memory.usage_in_bytes"),
            number(dir, "memory.limit_in_bytes").filter(|limit| *limit < V1_UNLIMITED),
            keyed(dir, "memory.stat", "total_swap"),
        ),
        Version::V2 => (number(dir, "memory.current"), number(dir, "memory.max"), number(dir, "memory.swap.current")),
    };
    let host = host_memory().unwrap_or(u64::MAX);
    Some(MemoryFigures {
        active_anon: of("active_anon", "active_anon"),
        active_file: of("active_file", "active_file"),
        cached: of("cache", "file"),
        dirty: of("dirty", "file_dirty"),
        inactive_anon: of("inactive_anon", "inactive_anon"),
        inactive_file: of("inactive_file", "inactive_file"),
        mapped: of("mapped_file", "file_mapped"),
        rss: of("rss", "anon"),
        shmem: of("shmem", "shmem"),
        swap: swap.unwrap_or(0),
        unevictable: of("unevictable", "unevictable"),
        writeback: of("writeback", "file_writeback"),
        usage: usage.unwrap_or(0),
        total: limit.map_or(host, |limit| limit.min(host)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read() {
        let cpus = cpus_v1("cpu user system\n0 5 6\n1 7 8\n");
        assert_eq!(cpus, [CpuTime { cpu: 0, user: 5, system: 6 }, CpuTime { cpu: 1, user: 7, system: 8 }]);
        let cpus = cpus_v2("usage_usec 3\nuser_usec 1\nsystem_usec 2\n");
        assert_eq!(cpus, [CpuTime { cpu: 0, user: 1000, system: 2000 }]);
        let disk = DiskFigures { read_bytes: 4096, reads: 1, written_bytes: 8192, writes: 2 };
        let v1 = disks_v1("254:0 Read 4096\n254:0 Write 8192\nTotal 12288\n", "254:0 Read 1\n254:0 Write 2\n");
        assert_eq!(v1.get("254:0"), Some(&disk));
        assert_eq!(disks_v2("254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0\n").get("254:0"), Some(&disk));
    }
}
