//! What the kernel can do.

use std::path::Path;
use std::process::{Command, Stdio};

use super::{About, tools};
use crate::api::wire::health::{Check, CheckState};
use crate::security::apparmor::{PLACE, Parts};
use crate::security::idmap::{IdMap, IdRange, MINIMUM};
use crate::storage::Probes;
use crate::sys::apparmor::{Kernel, Missing, Parser};
use crate::sys::cgroup::{Hierarchies, Mode};
use crate::sys::netlink::Socket;
use crate::sys::{process, userns};

/// Controllers that limits of containers and their states need; `devices` is programs where there is no controller.
const CONTROLLERS: &[&str] = &["cpu", "cpuset", "memory", "pids"];

const fn about(name: &'static str, needed: bool, cost: &'static str, mend: &'static str) -> About {
    About { group: "kernel", name, needed, cost, mend }
}

/// `None` means that it works.
fn works(missing: Option<String>) -> Result<String, String> {
    missing.map_or(Ok("works".to_owned()), Err)
}

fn user_namespaces() -> Result<String, String> {
    let range = IdRange { base: 1_000_000, size: MINIMUM };
    let (uids, gids) = IdMap::new(range, range).mount_maps(false);
    userns::with_maps(&uids, &gids).map(|_| "works".to_owned()).map_err(|e| format!("making one failed: {e}"))
}

/// A file system of the kernel, or one that it would load when it is mounted.
fn file_system(name: &str) -> Result<String, String> {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.lines().any(|line| line.split_whitespace().next_back() == Some(name)) {
        return Ok("in the kernel".to_owned());
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let list = std::fs::read_to_string(Path::new("/lib/modules").join(release).join("modules.dep")).unwrap_or_default();
    let module = |line: &str| line.split(':').next().is_some_and(|file| file.contains(&format!("/{name}.ko")));
    if list.lines().any(module) {
        return Ok("a module, loaded when it is needed".to_owned());
    }
    Err("neither in the kernel nor among its modules".to_owned())
}

fn layout() -> Result<String, String> {
    let mode = Hierarchies::detect().map_err(|e| e.to_string())?.mode();
    let word = match mode {
        Mode::Legacy => "version 1",
        Mode::Hybrid => "version 1, and a version 2 tree beside it",
        Mode::Unified => "version 2",
    };
    Ok(word.to_owned())
}

fn controllers() -> Check {
    let about = about(
        "cgroup-controllers",
        false,
        "limits on what is missing have no effect, and its use is not shown",
        "enable them on the kernel's command line (cgroup_enable=…), or delegate them to where warrend runs",
    );
    let Ok(found) = Hierarchies::detect() else {
        return about.with(CheckState::Missing, "no control groups".to_owned());
    };
    let names = found.controllers();
    let missing: Vec<&str> = CONTROLLERS.iter().copied().filter(|name| !names.iter().any(|n| n == name)).collect();
    if missing.is_empty() {
        about.with(CheckState::Ok, names.join(" "))
    } else {
        about.with(CheckState::Warning, format!("without {}", missing.join(", ")))
    }
}

fn pidfd() -> Result<String, String> {
    let own = i32::try_from(std::process::id()).map_err(|e| e.to_string())?;
    process::pidfd_open(own).map(|_| "works".to_owned()).map_err(|e| e.to_string())
}

fn seccomp() -> Result<String, String> {
    match std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) => Ok(actions.trim().to_owned()),
        Err(error) => Err(format!("/proc/sys/kernel/seccomp/actions_avail: {error}")),
    }
}

fn apparmor() -> Result<String, String> {
    match Kernel::find() {
        Ok(_) if Parser::find().is_none() => Err("apparmor_parser is not installed".to_owned()),
        Ok(kernel) => {
            let own = match Parts::of(Path::new(PLACE)) {
                Ok(None) => "the rules built in".to_owned(),
                Ok(Some(parts)) => format!("the rules of {PLACE}, edition {}", parts.edition()),
                Err(error) => {
                    return Err(format!("confines by the rules built in, as those put there do not do: {error}"));
                }
            };
            let stacks = if kernel.stacks() { "" } else { "; no namespaces of profiles for nesting" };
            Ok(format!("confines by {own}{stacks}"))
        }
        Err(Missing::Kernel) => Err("not enabled in this kernel".to_owned()),
        Err(Missing::Confined(label)) => Err(format!("this process is confined itself, by {label}")),
    }
}

fn nftables() -> Result<String, String> {
    let program = tools::find("nft").ok_or("nft is not installed, so it could not be tried")?;
    let tried = Command::new(program).args(["list", "tables"]).stdin(Stdio::null()).output();
    match tried {
        Ok(output) if output.status.success() => Ok("works".to_owned()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("nft list tables: {}", said.lines().next().unwrap_or("it failed")))
        }
        Err(error) => Err(error.to_string()),
    }
}

fn interfaces(kind: &str) -> Result<String, String> {
    match Socket::open().and_then(|mut socket| socket.supports(kind)) {
        Ok(true) => Ok("works".to_owned()),
        Ok(false) => Err("the kernel does not know this kind of interface".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

pub(super) fn look(probes: &Probes) -> Vec<Check> {
    let squashfs = "images as squashfs cannot be mounted: they are no use in pools of the driver overlay";
    vec![
        about(
            "user-namespaces",
            true,
            "no unprivileged container starts",
            "sysctl user.max_user_namespaces=15000, or a kernel with CONFIG_USER_NS",
        )
        .check(user_namespaces()),
        about(
            "idmapped-mounts",
            true,
            "no unprivileged container of an overlay pool starts; the files of one in a dir pool are shifted on disk at its first start",
            "Linux 5.12 or later, and a state directory on ext4, xfs, btrfs or tmpfs",
        )
        .check(works(probes.id_mapped_missing())),
        about(
            "overlay-idmapped",
            false,
            "pools need the driver dir: each container is a whole copy of its image and takes longer to make",
            "Linux 5.19 or later with overlayfs, and a state directory that is not on an overlay itself",
        )
        .check(works(probes.overlay_missing())),
        about("squashfs", false, squashfs, "a kernel with CONFIG_SQUASHFS, or images as tarballs")
            .check(file_system("squashfs")),
        about("cgroup-layout", true, "no container starts", "mount cgroup2 on /sys/fs/cgroup").check(layout()),
        controllers(),
        about("pidfd", true, "the daemon cannot follow containers", "Linux 5.3 or later").check(pidfd()),
        about("seccomp", true, "no container starts", "a kernel with CONFIG_SECCOMP_FILTER").check(seccomp()),
        about(
            "apparmor",
            false,
            "one wall less: containers are confined by user namespaces, seccomp and capabilities alone",
            "boot with apparmor=1 security=apparmor, apt install apparmor",
        )
        .check(apparmor()),
        about("nftables", false, "managed networks have neither NAT nor a firewall", "a kernel with CONFIG_NF_TABLES")
            .check(nftables()),
        about("bridge", false, "no managed networks", "modprobe bridge (CONFIG_BRIDGE)").check(interfaces("bridge")),
        about("veth", false, "containers have no network", "modprobe veth (CONFIG_VETH)").check(interfaces("veth")),
    ]
}
