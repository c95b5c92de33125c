//! Programs of others that the daemon runs, and lxcfs.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::About;
use crate::api::wire::health::Check;
use crate::lxc;
use crate::sys::lxcfs as sys_lxcfs;

/// Program, whether nothing works without it, what its absence costs, and how to get it.
const PROGRAMS: &[(&str, bool, &str, &str)] = &[
    ("mount", true, "images as squashfs cannot be mounted", "apt install mount"),
    (
        "dnsmasq",
        false,
        "managed networks have neither DHCP nor DNS; containers on them get no address",
        "apt install dnsmasq-base",
    ),
    ("nft", false, "managed networks have neither NAT nor a firewall", "apt install nftables"),
    ("unsquashfs", false, "images as squashfs cannot be used in pools of the driver dir", "apt install squashfs-tools"),
    ("mksquashfs", false, "images cannot be made as squashfs", "apt install squashfs-tools"),
    (
        "newuidmap",
        false,
        "users inside containers cannot run containers of their own with id maps from this host's files",
        "apt install uidmap",
    ),
    (
        "newgidmap",
        false,
        "users inside containers cannot run containers of their own with id maps from this host's files",
        "apt install uidmap",
    ),
];

/// Where a program lies, in the order of `$PATH`.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    let runs = |file: &PathBuf| {
        std::fs::metadata(file).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(runs)
}

pub(super) fn look() -> Vec<Check> {
    let program = |(name, needed, cost, mend): &(&'static str, bool, &'static str, &'static str)| {
        let about = About { group: "tools", name, needed: *needed, cost, mend };
        let missing = || format!("{name} is not in $PATH");
        about.check(find(name).map(|file| file.display().to_string()).ok_or_else(missing))
    };
    let liblxc = About {
        group: "tools",
        name: "liblxc",
        needed: true,
        cost: "no container starts",
        mend: "apt install liblxc1",
    };
    let lxcfs = About {
        group: "tools",
        name: "lxcfs",
        needed: false,
        cost: "containers see the memory, processors and uptime of the host in /proc",
        mend: "apt install lxcfs; running containers get it by themselves",
    };
    let shown = sys_lxcfs::look().map(|found| found.root.display().to_string());
    let mut checks = vec![liblxc.check(Ok(lxc::version().to_string()))];
    checks.extend(PROGRAMS.iter().map(program));
    checks.push(lxcfs.check(shown));
    checks
}
