//! From the plan of a start to lxc.conf: pure.
//!
//! Keys: lxc.container.conf(5) of liblxc 5.0. Values with line breaks never get here: names, paths and checked
//! configuration values hold none, and [`render`] drops a line that would.

use std::fmt::Write;
use std::path::Path;

use super::plug::fstab;
use crate::api::wire::Config;
use crate::config::limits::process_lines;
use crate::config::raw_lxc;
use crate::sys::lxcfs::Lxcfs;

/// Everything that the configuration of a container is made of.
pub struct Plan<'a> {
    /// Name inside (`uname -n`).
    pub host_name: &'a str,
    /// The mounted root.
    pub root: &'a Path,
    /// `lxc.rootfs.options`.
    pub root_options: Option<&'a str>,
    /// Values of `lxc.idmap`; none for a privileged container.
    pub idmap: &'a [String],
    /// Lines of the `security` room.
    pub confinement: &'a [(String, String)],
    /// Lines of the limits.
    pub limits: &'a [(String, String)],
    /// Lines of interfaces.
    pub nics: &'a [(String, String)],
    /// Lines of disks and device nodes, in the order of mounting.
    pub plugs: &'a [(String, String)],
    /// The control group below which this container gets its own.
    pub cgroup: &'a str,
    /// Expanded configuration, of which `environment.*`, `limits.kernel.*`, `linux.sysctl.*` and `raw.lxc` are used.
    pub config: &'a Config,
    /// liblxc's log of this container.
    pub log: &'a Path,
    /// What the console shows.
    pub console_log: &'a Path,
    /// Value of the post-stop hook, quoted for a shell.
    pub stop_hook: &'a str,
    /// The directory of the guest interface, if it may ask.
    pub guest: Option<&'a Path>,
    /// The lxcfs of the host, if there is one.
    pub lxcfs: Option<&'a Lxcfs>,
    /// Containers may run inside.
    pub nesting: bool,
    /// Kernel architecture.
    pub architecture: &'a str,
}

/// Files of the host that are bound into every container where they exist.
const HOST_MOUNTS: &[(&str, &str)] = &[
    ("/dev/fuse", "dev/fuse none bind,create=file,optional"),
    ("/dev/net/tun", "dev/net/tun none bind,create=file,optional"),
    ("mqueue", "dev/mqueue mqueue rw,relatime,create=dir,optional"),
];

/// The text of lxc.conf.
pub fn render(plan: &Plan<'_>) -> String {
    let mut text = String::with_capacity(4096);
    let mut line = |key: &str, value: &str| {
        if !value.contains(['\n', '\r', '\0']) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{key} = {value}");
        }
    };
    let path = |path: &Path| path.display().to_string();
    line("lxc.log.file", &path(plan.log));
    line("lxc.log.level", "warn");
    line("lxc.console.logfile", &path(plan.console_log));
    // At most 128 KiB, then it becomes `console.log.1`, of which there is one. liblxc's ring in memory is not used: whoever
    // reads it empties it (tried with 5.0.2), and it goes with its monitor.
    line("lxc.console.size", "auto");
    line("lxc.console.rotate", "1");
    line("lxc.arch", plan.architecture);
    line("lxc.uts.name", plan.host_name);
    line("lxc.rootfs.path", &format!("dir:{}", plan.root.display()));
    if let Some(options) = plan.root_options {
        line("lxc.rootfs.options", options);
    }
    // The volume is ours: liblxc never deletes it.
    line("lxc.rootfs.managed", "0");
    for map in plan.idmap {
        line("lxc.idmap", map);
    }
    line("lxc.cgroup.dir", plan.cgroup);
    line("lxc.autodev", "1");
    line("lxc.tty.max", "0");
    line("lxc.pty.max", "1024");
    line("lxc.init.cmd", "/sbin/init");
    line("lxc.environment", "container=lxc");
    for (key, value) in plan.config {
        if let Some(name) = key.strip_prefix("environment.") {
            line("lxc.environment", &format!("{name}={value}"));
        }
    }
    for (key, value) in plan.confinement.iter().chain(plan.limits) {
        line(key, value);
    }
    for (key, value) in process_lines(plan.config) {
        line(&key, &value);
    }
    for (source, target) in HOST_MOUNTS {
        line("lxc.mount.entry", &format!("{source} {target} 0 0"));
    }
    if plan.nesting {
        // Kernels let a container mount proc and sys only if it sees unmasked ones somewhere.
        line("lxc.mount.entry", "proc dev/.lxc/proc proc create=dir,optional 0 0");
        line("lxc.mount.entry", "sysfs dev/.lxc/sys sysfs create=dir,optional 0 0");
    }
    if let Some(guest) = plan.guest {
        let entry = format!("{} dev/lxd none bind,ro,nosuid,nodev,noexec,create=dir 0 0", fstab(guest));
        line("lxc.mount.entry", &entry);
    }
    if let Some(lxcfs) = plan.lxcfs {
        for file in &lxcfs.files {
            // Optional: it may end just now.
            let entry = format!("{} {file} none bind,optional 0 0", fstab(&lxcfs.root.join(file)));
            line("lxc.mount.entry", &entry);
        }
    }
    for (key, value) in plan.plugs.iter().chain(plan.nics) {
        line(key, value);
    }
    if plan.nics.is_empty() {
        line("lxc.net.0.type", "empty");
    }
    line("lxc.hook.post-stop", plan.stop_hook);
    for raw in plan.config.get("raw.lxc").and_then(|text| raw_lxc::parse(text).ok()).unwrap_or_default() {
        line(&raw.key, &raw.value);
    }
    // It counts whatever stands there: the hook above is told by it what happens.
    line("lxc.hook.version", "1");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan<'a>(config: &'a Config, idmap: &'a [String]) -> Plan<'a> {
        Plan {
            host_name: "c1",
            root: Path::new("/p/rootfs"),
            root_options: None,
            idmap,
            confinement: &[],
            limits: &[],
            nics: &[],
            plugs: &[],
            cgroup: "warren",
            config,
            log: Path::new("/l/lxc.log"),
            console_log: Path::new("/l/console.log"),
            stop_hook: "/bin/warrend hook stop",
            lxcfs: None,
            guest: None,
            nesting: false,
            architecture: "x86_64",
        }
    }

    #[test]
    fn the_environment_of_init_comes_from_the_configuration() {
        let config = [("environment.A".to_owned(), "b c".to_owned()), ("user.x".to_owned(), "y".to_owned())].into();
        let text = render(&plan(&config, &["u 0 1000000 65536".to_owned()]));
        assert!(text.contains("lxc.environment = A=b c\n"));
        assert!(text.contains("lxc.idmap = u 0 1000000 65536\n"));
        assert!(!text.contains("user.x"));
        assert!(text.contains("lxc.net.0.type = empty\n"), "no nic means an empty network namespace, never the host's");
    }

    #[test]
    fn a_value_with_a_line_break_never_becomes_a_line_of_its_own() {
        let config = [("environment.A".to_owned(), "b\nlxc.hook.start = /evil".to_owned())].into();
        assert!(!render(&plan(&config, &[])).contains("evil"));
    }
}
