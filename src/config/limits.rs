//! What the `limits.*` keys write into a container's control groups: pure.
//!
//! Each version of control groups has its own column. Sources: the kernel's `Documentation/admin-guide/cgroup-v1` and
//! `cgroup-v2.rst`; LXD's API for the arithmetic of shares.

use crate::api::wire::Config;

use super::size::{parse_part, parse_size};
use super::{int_of, parse_bool};

/// A file of a control group, and what is written into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Its name.
    pub file: String,
    /// The text.
    pub value: String,
}

/// What one key makes of a control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The key that asks for it, to be named when it cannot be had.
    pub key: &'static str,
    /// The controller.
    pub controller: &'static str,
    /// In a hierarchy of version 1.
    pub v1: Option<Write>,
    /// In the unified hierarchy.
    pub v2: Option<Write>,
    /// Whether a container must not run without it. The others are wishes about who goes first.
    pub hard: bool,
}

/// What of the host decides about values.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Bytes of memory, of which `N%` is a part.
    pub memory: u64,
    /// The processors that the container gets, as the kernel writes them.
    pub cpus: &'a str,
}

/// How much processor time, by `limits.cpu.allowance`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Allowance {
    /// Per cent, when there is not enough for all.
    Share(u64),
    /// Microseconds in a period of microseconds, at most.
    Quota(u64, u64),
}

/// The kernel's bounds of a period, microseconds (`sched-bwc.rst`).
const PERIOD: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;
/// The kernel's smallest quota, microseconds.
const MIN_QUOTA: u64 = 1_000;
/// The period without a quota, microseconds.
const DEFAULT_PERIOD: u64 = 100_000;
/// Shares of a group that asks for nothing.
const SHARES: u64 = 1024;

fn allowance(text: &str) -> Option<Allowance> {
    let text = text.trim();
    if let Some(percent) = text.strip_suffix('%') {
        return percent.parse().ok().filter(|percent| (1..=10_000).contains(percent)).map(Allowance::Share);
    }
    let (quota, period) = text.split_once('/')?;
    let micros = |text: &str| text.trim().strip_suffix("ms")?.trim().parse::<u64>().ok()?.checked_mul(1000);
    let (quota, period) = (micros(quota)?, micros(period)?);
    (PERIOD.contains(&period) && quota >= MIN_QUOTA).then_some(Allowance::Quota(quota, period))
}

/// Whether `limits.cpu.allowance` can have this value.
pub(super) fn is_allowance(text: &str) -> bool {
    allowance(text).is_some()
}

/// `cpu.weight` for `cpu.shares`, as container runtimes agreed on (both ranges end to end).
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

/// Page sizes with a key, and how the kernel's files call them.
const HUGE: &[(&str, &str)] = &[
    ("limits.hugepages.64KB", "64KB"),
    ("limits.hugepages.1MB", "1MB"),
    ("limits.hugepages.2MB", "2MB"),
    ("limits.hugepages.1GB", "1GB"),
];

fn both(
    key: &'static str,
    controller: &'static str,
    v1: Option<(&str, String)>,
    v2: Option<(&str, String)>,
    hard: bool,
) -> Setting {
    let write = |(file, value): (&str, String)| Write { file: file.to_owned(), value };
    Setting { key, controller, v1: v1.map(write), v2: v2.map(write), hard }
}

/// Every setting, with the value that the kernel begins with where a key is unset: so the settings of two configurations
/// are the same list, and what differs is what changes.
pub fn settings(config: &Config, frame: Frame<'_>) -> Vec<Setting> {
    let mut all = memory(config, frame.memory);
    all.extend(cpu(config, frame.cpus));
    let processes = config.get("limits.processes").filter(|text| !text.is_empty());
    let processes = processes.map_or_else(|| "max".to_owned(), |text| text.trim().to_owned());
    let pids = || Some(("pids.max", processes.clone()));
    all.push(both("limits.processes", "pids", pids(), pids(), true));
    let disk = match config.get("limits.disk.priority").filter(|text| !text.is_empty()) {
        None => (500, 100),
        Some(_) => {
            let weight = (100 * int_of(config, "limits.disk.priority")).max(10);
            // Version 2 begins at 100 where version 1 begins at 500.
            (weight, (weight / 5).max(1))
        }
    };
    let (v1, v2) = (("blkio.weight", disk.0.to_string()), ("io.weight", format!("default {}", disk.1)));
    // Version 1 calls the controller otherwise.
    all.push(both("limits.disk.priority", "blkio", Some(v1), None, false));
    all.push(both("limits.disk.priority", "io", None, Some(v2), false));
    for (key, size) in HUGE {
        let limit = config.get(*key).and_then(|text| parse_size(text)).map(|bytes| bytes.to_string());
        let (v1, v2) = (format!("hugetlb.{size}.limit_in_bytes"), format!("hugetlb.{size}.max"));
        let value = |none: &str| limit.clone().unwrap_or_else(|| none.to_owned());
        all.push(both(key, "hugetlb", Some((&v1, value("-1"))), Some((&v2, value("max"))), true));
    }
    all
}

fn memory(config: &Config, whole: u64) -> Vec<Setting> {
    let limit = config.get("limits.memory").and_then(|text| parse_part(text, whole));
    let hard = limit.filter(|_| config.get("limits.memory.enforce").is_none_or(|how| how != "soft"));
    let swap = config.get("limits.memory.swap").and_then(|text| parse_bool(text)) != Some(false);
    // Under pressure, a container with a hard limit is asked to shrink a little before it reaches it.
    let soft = limit.map(|bytes| if hard.is_some() { bytes / 10 * 9 } else { bytes });
    let (none, max) = (|| "-1".to_owned(), || "max".to_owned());
    let v1 = |bytes: Option<u64>| bytes.map_or_else(none, |bytes| bytes.to_string());
    let v2 = |bytes: Option<u64>| bytes.map_or_else(max, |bytes| bytes.to_string());
    let swappiness = if swap { 50 + int_of(config, "limits.memory.swap.priority") } else { 0 };
    let swap_max = if swap { v2(hard) } else { "0".to_owned() };
    // `memory.high` holds a container up instead of ending what is in it: right for a soft limit only.
    let high = if hard.is_some() { max() } else { v2(soft) };
    vec![
        both(
            "limits.memory",
            "memory",
            Some(("memory.limit_in_bytes", v1(hard))),
            Some(("memory.max", v2(hard))),
            true,
        ),
        both(
            "limits.memory",
            "memory",
            Some(("memory.soft_limit_in_bytes", v1(soft))),
            Some(("memory.high", high)),
            false,
        ),
        both(
            "limits.memory.swap",
            "memory",
            Some(("memory.memsw.limit_in_bytes", v1(hard.filter(|_| swap)))),
            Some(("memory.swap.max", swap_max)),
            // Kernels without swap accounting have no such file.
            false,
        ),
        both(
            "limits.memory.swap.priority",
            "memory",
            Some(("memory.swappiness", swappiness.to_string())),
            // Version 2 has no such thing.
            None,
            false,
        ),
    ]
}

fn cpu(config: &Config, cpus: &str) -> Vec<Setting> {
    let asked = config.get("limits.cpu.allowance").and_then(|text| allowance(text));
    let behind = u64::try_from(10 - int_of(config, "limits.cpu.priority")).unwrap_or(0);
    let shares = match asked {
        Some(Allowance::Share(percent)) => percent * 10 + 24,
        Some(Allowance::Quota(..)) | None => SHARES,
    };
    let shares = shares.saturating_sub(behind).max(2);
    let weight = if shares == SHARES { 100 } else { weight(shares) };
    let (quota, period) = match asked {
        Some(Allowance::Quota(quota, period)) => (Some(quota), period),
        Some(Allowance::Share(_)) | None => (None, DEFAULT_PERIOD),
    };
    let v1_quota = quota.map_or_else(|| "-1".to_owned(), |quota| quota.to_string());
    let v2_quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
    let set = || Some(("cpuset.cpus", cpus.to_owned()));
    vec![
        both("limits.cpu", "cpuset", set(), set(), true),
        both(
            "limits.cpu.allowance",
            "cpu",
            Some(("cpu.shares", shares.to_string())),
            Some(("cpu.weight", weight.to_string())),
            false,
        ),
        both("limits.cpu.allowance", "cpu", Some(("cpu.cfs_period_us", period.to_string())), None, true),
        both(
            "limits.cpu.allowance",
            "cpu",
            Some(("cpu.cfs_quota_us", v1_quota)),
            Some(("cpu.max", format!("{v2_quota} {period}"))),
            true,
        ),
    ]
}

/// Resources that `limits.kernel.*` can name: those of getrlimit(2), as liblxc's `lxc.prlimit.*` calls them.
const RESOURCES: &[&str] = &[
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Whether this is a resource of the kernel's.
pub(super) fn is_resource(name: &str) -> bool {
    RESOURCES.contains(&name)
}

/// A limit of a kernel resource; `None` is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// What a process may raise itself.
    pub soft: Option<u64>,
    /// What only root of the host may raise.
    pub hard: Option<u64>,
}

impl Rlimit {
    /// `SOFT:HARD`, numbers or `unlimited`; one alone is both. `None` when it is not, or soft exceeds hard.
    pub fn parse(text: &str) -> Option<Self> {
        let (soft, hard) = text.trim().split_once(':').unwrap_or((text.trim(), text.trim()));
        let number = |text: &str| match text {
            "unlimited" => Some(None),
            number => number.parse().ok().map(Some),
        };
        let (soft, hard) = (number(soft)?, number(hard)?);
        (soft.unwrap_or(u64::MAX) <= hard.unwrap_or(u64::MAX)).then_some(Self { soft, hard })
    }
}

impl std::fmt::Display for Rlimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
        write!(f, "{}:{}", text(self.soft), text(self.hard))
    }
}

/// The limits of each process, by the names of their resources.
pub fn rlimits(config: &Config) -> impl Iterator<Item = (&str, Rlimit)> {
    config.iter().filter_map(|(key, value)| Some((key.strip_prefix("limits.kernel.")?, Rlimit::parse(value)?)))
}

/// The lines of lxc.conf for `limits.kernel.*` and `linux.sysctl.*`.
pub fn process_lines(config: &Config) -> Vec<(String, String)> {
    let mut lines: Vec<_> =
        rlimits(config).map(|(resource, limit)| (format!("lxc.prlimit.{resource}"), limit.to_string())).collect();
    for (key, value) in config.iter().filter(|(_, value)| !value.is_empty()) {
        if let Some(name) = key.strip_prefix("linux.sysctl.") {
            lines.push((format!("lxc.sysctl.{name}"), value.clone()));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Frame<'static> = Frame { memory: 1_000_000, cpus: "0-3" };

    fn config(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    /// What differs from a container without limits, by file.
    fn changed(pairs: &[(&str, &str)]) -> (String, String) {
        let (none, all) = (settings(&Config::new(), FRAME), settings(&config(pairs), FRAME));
        let of = |column: fn(&Setting) -> &Option<Write>| {
            let pairs = none.iter().zip(&all).filter(|(none, with)| column(none) != column(with));
            let texts = pairs.filter_map(|(_, with)| column(with).as_ref());
            texts.map(|write| format!("{}={}", write.file, write.value)).collect::<Vec<_>>().join(" ")
        };
        (of(|setting| &setting.v1), of(|setting| &setting.v2))
    }

    #[test]
    fn memory_is_hard_unless_it_is_asked_to_be_soft() {
        let (v1, v2) = changed(&[("limits.memory", "10%")]);
        assert_eq!(
            v1,
            "memory.limit_in_bytes=100000 memory.soft_limit_in_bytes=90000 memory.memsw.limit_in_bytes=100000"
        );
        assert_eq!(v2, "memory.max=100000 memory.swap.max=100000");
        let (v1, v2) = changed(&[("limits.memory", "1kB"), ("limits.memory.enforce", "soft")]);
        assert_eq!((v1.as_str(), v2.as_str()), ("memory.soft_limit_in_bytes=1000", "memory.high=1000"));
        let (v1, v2) = changed(&[("limits.memory.swap", "false")]);
        assert_eq!((v1.as_str(), v2.as_str()), ("memory.swappiness=0", "memory.swap.max=0"));
        let (v1, v2) = changed(&[("limits.memory.swap.priority", "0")]);
        assert_eq!((v1.as_str(), v2.as_str()), ("memory.swappiness=50", ""));
    }

    #[test]
    fn processor_time_is_shared_or_bounded() {
        let (v1, v2) = changed(&[("limits.cpu.allowance", "50%")]);
        assert_eq!((v1.as_str(), v2.as_str()), ("cpu.shares=524", "cpu.weight=20"));
        let (v1, v2) = changed(&[("limits.cpu.allowance", "25ms/50ms"), ("limits.cpu.priority", "4")]);
        assert_eq!(v1, "cpu.shares=1018 cpu.cfs_period_us=50000 cpu.cfs_quota_us=25000");
        assert_eq!(v2, "cpu.weight=39 cpu.max=25000 50000");
        assert_eq!(changed(&[("limits.cpu.allowance", "100%")]), (String::new(), String::new()));
        for bad in ["", "0%", "x%", "10", "10ms", "0ms/100ms", "10ms/0ms", "10ms/2000ms", "10s/20s", "-1%"] {
            assert!(!is_allowance(bad), "{bad}");
        }
    }

    #[test]
    fn the_others_have_a_file_each() {
        assert_eq!(changed(&[("limits.processes", "7")]).0, "pids.max=7");
        assert_eq!(changed(&[("limits.disk.priority", "0")]), ("blkio.weight=10".into(), "io.weight=default 2".into()));
        let (v1, v2) = changed(&[("limits.hugepages.2MB", "4MiB")]);
        assert_eq!((v1.as_str(), v2.as_str()), ("hugetlb.2MB.limit_in_bytes=4194304", "hugetlb.2MB.max=4194304"));
    }

    #[test]
    fn limits_of_processes_are_lines_for_liblxc() {
        let lines = process_lines(&config(&[
            ("limits.kernel.nofile", "100:unlimited"),
            ("limits.kernel.core", "0"),
            ("linux.sysctl.net.ipv4.ip_forward", "1"),
        ]));
        let wanted =
            [("core", "0:0"), ("nofile", "100:unlimited")].map(|(n, v)| (format!("lxc.prlimit.{n}"), v.into()));
        assert_eq!(lines[..2], wanted);
        assert_eq!(lines[2], ("lxc.sysctl.net.ipv4.ip_forward".to_owned(), "1".to_owned()));
        for bad in ["", "a", "5:1", "unlimited:5", "1:2:3", "-1"] {
            assert_eq!(Rlimit::parse(bad), None, "{bad}");
        }
    }
}
