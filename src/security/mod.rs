//! The defaults in one place: id maps, seccomp, AppArmor, capabilities.
//!
//! Every instance runs in a user namespace unless `security.privileged` says otherwise; there is no fallback.

pub mod apparmor;
pub mod idmap;
pub mod seccomp;

use std::path::Path;

use apparmor::Label;

/// How one instance is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confinement {
    /// Without a user namespace.
    pub privileged: bool,
    /// Containers may run inside.
    pub nesting: bool,
    /// liblxc mounts the control groups, not the system inside.
    pub mount_cgroups: bool,
}

/// The character devices that every container may use: type, major, minor (Linux `Documentation/admin-guide/devices.txt`).
const ALLOWED_DEVICES: &[&str] = &[
    "c 1:3 rwm",    // null
    "c 1:5 rwm",    // zero
    "c 1:7 rwm",    // full
    "c 1:8 rwm",    // random
    "c 1:9 rwm",    // urandom
    "c 5:0 rwm",    // tty
    "c 5:1 rwm",    // console
    "c 5:2 rwm",    // ptmx
    "c 10:200 rwm", // net/tun
    "c 10:229 rwm", // fuse
    "c 136:* rwm",  // pts
];

/// Whether every container may use the character or block (`c`, `b`) device with these numbers.
pub fn is_everybodys(letter: char, major: u32, minor: u32) -> bool {
    let any = format!("{letter} {major}:* ");
    let this = format!("{letter} {major}:{minor} ");
    ALLOWED_DEVICES.iter().any(|device| device.starts_with(&this) || device.starts_with(&any))
}

/// Which hierarchy carries the devices controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceRules {
    /// The `devices` controller of cgroup 1.
    Cgroup1,
    /// BPF on cgroup 2.
    Cgroup2,
}

impl Confinement {
    /// The capabilities that init and everything below it never has. In a user namespace they would not reach the host
    /// anyway; dropping them makes programs that ask (`ConditionCapability=`) see the truth.
    ///
    /// `mac_admin` of a container without a user namespace reaches the host's security policy, unless it has a namespace
    /// of that of its own (`own_policy`).
    pub fn dropped_capabilities(self, own_policy: bool) -> &'static [&'static str] {
        match (self.privileged, self.nesting) {
            (true, true) if own_policy => &["sys_module", "sys_rawio", "sys_time"],
            (_, false) | (true, true) => &["mac_admin", "mac_override", "sys_module", "sys_rawio", "sys_time"],
            (false, true) => &["sys_module", "sys_time"],
        }
    }

    /// The lines of lxc.conf that confine the container. `seccomp` is the path of a file with a [`seccomp::Policy`],
    /// `label` what AppArmor confines init by; none where the kernel has no AppArmor.
    pub fn lxc_lines(self, seccomp: &Path, rules: DeviceRules, label: Option<&Label>) -> Vec<(String, String)> {
        let own_policy = label.is_some_and(Label::has_namespace);
        let mut lines = vec![
            ("lxc.cap.drop".to_owned(), self.dropped_capabilities(own_policy).join(" ")),
            ("lxc.seccomp.profile".to_owned(), seccomp.display().to_string()),
            // A container gets a cgroup namespace of its own where the kernel has them.
            ("lxc.mount.auto".to_owned(), self.automatic_mounts().to_owned()),
        ];
        if let Some(label) = label {
            lines.push(("lxc.apparmor.profile".to_owned(), label.as_str().to_owned()));
            if own_policy {
                // By its files, profiles are loaded into the container's own namespace. What else lies there, the kernel
                // shows to whom it may.
                let entry = "/sys/kernel/security sys/kernel/security none bind,optional 0 0";
                lines.push(("lxc.mount.entry".to_owned(), entry.to_owned()));
            }
        }
        let family = match rules {
            DeviceRules::Cgroup1 => "lxc.cgroup.devices",
            DeviceRules::Cgroup2 => "lxc.cgroup2.devices",
        };
        lines.push((format!("{family}.deny"), "a".to_owned()));
        lines.push((format!("{family}.allow"), "b *:* m".to_owned()));
        lines.push((format!("{family}.allow"), "c *:* m".to_owned()));
        for device in ALLOWED_DEVICES {
            lines.push((format!("{family}.allow"), (*device).to_owned()));
        }
        lines
    }

    fn automatic_mounts(self) -> &'static str {
        match (self.privileged, self.mount_cgroups) {
            (true, false) => "proc:mixed sys:mixed cgroup:mixed",
            (true, true) => "proc:mixed sys:mixed cgroup:mixed:force",
            (false, false) => "proc:rw sys:rw cgroup:mixed",
            (false, true) => "proc:rw sys:rw cgroup:mixed:force",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_loses_the_capabilities_of_the_machine() {
        for privileged in [false, true] {
            for nesting in [false, true] {
                for own_policy in [false, true] {
                    let confinement = Confinement { privileged, nesting, mount_cgroups: false };
                    let dropped = confinement.dropped_capabilities(own_policy);
                    assert!(dropped.contains(&"sys_module") && dropped.contains(&"sys_time"));
                    // Of the host's policy, or of nobody's.
                    let reaches = privileged && !(nesting && own_policy);
                    assert!(!reaches || dropped.contains(&"mac_admin"));
                }
            }
        }
    }

    #[test]
    fn the_label_is_told_where_there_is_one() {
        let lines = |label: Option<&Label>| {
            let plain = Confinement { privileged: false, nesting: false, mount_cgroups: false };
            let lines = plain.lxc_lines(Path::new("/s"), DeviceRules::Cgroup2, label);
            lines.into_iter().filter(|(key, _)| key.contains("apparmor")).map(|(_, value)| value).collect::<Vec<_>>()
        };
        let names = apparmor::Names::of("c1", Path::new("/v"));
        assert_eq!(lines(Some(&names.label(false))), ["lxd-c1_</v>"]);
        assert!(lines(None).is_empty());
    }

    #[test]
    fn what_everybody_may_use_is_known() {
        assert!(is_everybodys('c', 1, 3) && is_everybodys('c', 136, 77));
        assert!(!is_everybodys('b', 1, 3) && !is_everybodys('c', 1, 33) && !is_everybodys('c', 10, 237));
    }

    #[test]
    fn privileged_containers_get_a_guarded_proc() {
        let lines = |privileged| {
            Confinement { privileged, nesting: false, mount_cgroups: false }.lxc_lines(
                Path::new("/s"),
                DeviceRules::Cgroup1,
                None,
            )
        };
        assert!(lines(true).contains(&("lxc.mount.auto".to_owned(), "proc:mixed sys:mixed cgroup:mixed".to_owned())));
        assert!(lines(false).contains(&("lxc.mount.auto".to_owned(), "proc:rw sys:rw cgroup:mixed".to_owned())));
    }
}
