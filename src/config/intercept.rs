//! `security.syscalls.intercept.*`: calls that the daemon does for an unprivileged container.

use super::bool_of;
use crate::api::wire::Config;

/// File systems that may be mounted, with commas.
pub const ALLOWED: &str = "security.syscalls.intercept.mount.allowed";
/// Whether ids on them are the container's.
pub const SHIFT: &str = "security.syscalls.intercept.mount.shift";

/// File systems that programs of the container serve, each with its program.
pub const FUSE: &str = "security.syscalls.intercept.mount.fuse";
/// Whether bpf(2) is looked at.
const BPF: &str = "security.syscalls.intercept.bpf";
/// Whether programs are loaded that decide about devices: all that is done about bpf(2).
const BPF_DEVICES: &str = "security.syscalls.intercept.bpf.devices";

/// A key, and the calls that it is about, each with the condition under which it is of interest, in liblxc's words: mknod(2)
/// of a character device (`S_IFCHR` of `S_IFMT`); bpf(2) to load, attach or detach a program; mount(2) without `MS_REMOUNT`, `MS_BIND`, `MS_MOVE`, `MS_UNBINDABLE`,
/// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`.
const KEYS: &[(&str, &[(&str, &str)])] = &[
    (
        "security.syscalls.intercept.mknod",
        &[("mknod", "[1,8192,SCMP_CMP_MASKED_EQ,61440]"), ("mknodat", "[2,8192,SCMP_CMP_MASKED_EQ,61440]")],
    ),
    (BPF, &[("bpf", "[0,5,SCMP_CMP_EQ]"), ("bpf", "[0,8,SCMP_CMP_EQ]"), ("bpf", "[0,9,SCMP_CMP_EQ]")]),
    ("security.syscalls.intercept.mount", &[("mount", "[3,0,SCMP_CMP_MASKED_EQ,1978400]")]),
    ("security.syscalls.intercept.sched_setscheduler", &[("sched_setscheduler", "")]),
    ("security.syscalls.intercept.setxattr", &[("setxattr", ""), ("lsetxattr", "")]),
    ("security.syscalls.intercept.sysinfo", &[("sysinfo", "")]),
];

fn is_on(config: &Config, key: &str) -> bool {
    bool_of(config, key) && (key != BPF || bool_of(config, BPF_DEVICES))
}

/// The pairs of a file system and its program in a checked value of [`FUSE`].
pub fn fuse_of(text: &str) -> impl Iterator<Item = (&str, &str)> {
    super::names_of(text).filter_map(|pair| pair.split_once('=')).map(|(name, program)| (name.trim(), program.trim()))
}

/// The first key of `config` by which something is intercepted.
pub fn first(config: &Config) -> Option<&'static str> {
    KEYS.iter().map(|(key, _)| *key).find(|key| is_on(config, key))
}

/// The calls that are intercepted, each with its condition.
pub fn calls(config: &Config) -> impl Iterator<Item = (&'static str, &'static str)> {
    KEYS.iter().filter(|(key, _)| is_on(config, key)).flat_map(|(_, calls)| calls.iter().copied())
}

/// The lines of a policy that denies what it names: `named` are its own lines, which count.
pub fn lines_beside(config: &Config, named: &[&str]) -> Vec<String> {
    let taken = |name: &str| named.iter().any(|line| line.split_ascii_whitespace().next() == Some(name));
    let line = |(name, condition): (&str, &str)| format!("{name} notify {condition}").trim_end().to_owned();
    calls(config).filter(|(name, _)| !taken(name)).map(line).collect()
}

/// The same of a policy that allows what it names: these lines take the place of its own about these calls, and what is
/// of no interest goes on as it was allowed.
pub fn lines_instead<'a>(config: &Config, named: &[&'a str]) -> (Vec<&'a str>, Vec<String>) {
    let is = |line: &str, name: &str| line.split_ascii_whitespace().next() == Some(name);
    let allowed = |name: &str| named.iter().any(|line| is(line, name));
    let mut notified: Vec<String> =
        calls(config).filter(|(name, _)| allowed(name)).map(|(name, _)| format!("{name} notify")).collect();
    notified.dedup();
    let rest = named.iter().copied().filter(|line| calls(config).all(|(name, _)| !is(line, name))).collect();
    (rest, notified)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str) -> Config {
        [(format!("security.syscalls.intercept.{name}"), "true".to_owned())].into()
    }

    #[test]
    fn what_is_denied_stays_denied() {
        let lines = lines_beside(&config("mknod"), &["mknod errno 1"]);
        assert_eq!(lines, ["mknodat notify [2,8192,SCMP_CMP_MASKED_EQ,61440]"]);
        assert_eq!(lines_beside(&config("sysinfo"), &[]), ["sysinfo notify"]);
        assert!(lines_beside(&Config::new(), &[]).is_empty());
    }

    #[test]
    fn programs_are_looked_at_where_those_about_devices_are_loaded() {
        let mut config = config("bpf");
        assert!(first(&config).is_none() && calls(&config).next().is_none());
        config.extend(super::tests::config("bpf.devices"));
        assert_eq!(lines_beside(&config, &[]).len(), 3);
        assert_eq!(lines_instead(&config, &["bpf"]).1, ["bpf notify"]);
    }

    #[test]
    fn what_is_not_allowed_is_not_intercepted() {
        let (rest, notified) = lines_instead(&config("mknod"), &["read", "mknodat"]);
        assert_eq!((rest, notified), (vec!["read"], vec!["mknodat notify".to_owned()]));
    }
}
