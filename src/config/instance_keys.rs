//! The keys of instances and profiles.

use super::{Kind, Pattern};

/// Where a key may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Only in an instance.
    Instance,
    /// In an instance and in a profile.
    Profile,
}

/// What a key does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Decides about the instance's start or stop by the daemon.
    Lifecycle,
    /// Sets an environment variable of init and of every exec.
    Environment,
    /// Decides how the container is confined: read by the `security` room when it starts.
    Confinement,
    /// Is written into its control groups: [`super::limits::settings`].
    ControlGroup,
    /// Is set for its processes when it starts: [`super::limits::process_lines`].
    Process,
    /// Kept for others to read; the daemon does not act on it.
    Record,
    /// The daemon's own memory about an instance.
    Volatile,
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct InstanceRow {
    /// The key or keys.
    pub pattern: Pattern,
    /// What values look like.
    pub kind: Kind,
    /// Value when unset, empty for none.
    pub default: &'static str,
    /// Where it may stand.
    pub scope: Scope,
    /// Whether a change acts on a running instance.
    pub live: bool,
    /// What it does.
    pub effect: Effect,
    /// For the reference.
    pub doc: &'static str,
}

/// All of them. Names and meanings: LXD's API 1.0.
pub const INSTANCE_KEYS: &[InstanceRow] = &[
    InstanceRow {
        pattern: Pattern::Exact("boot.autostart"),
        kind: Kind::Bool,
        default: "",
        scope: Scope::Profile,
        live: true,
        effect: Effect::Lifecycle,
        doc: "Whether the instance starts with the daemon; unset: it starts if it ran when the daemon last saw it.",
    },
    InstanceRow {
        pattern: Pattern::Exact("boot.autostart.delay"),
        kind: Kind::Int(0, 3600),
        default: "0",
        scope: Scope::Profile,
        live: true,
        effect: Effect::Lifecycle,
        doc: "Seconds to wait after this instance started before the next one is started.",
    },
    InstanceRow {
        pattern: Pattern::Exact("boot.autostart.priority"),
        kind: Kind::Int(i32::MIN as i64, i32::MAX as i64),
        default: "0",
        scope: Scope::Profile,
        live: true,
        effect: Effect::Lifecycle,
        doc: "Order of the automatic start, highest first; equal ones by name.",
    },
    InstanceRow {
        pattern: Pattern::Exact("boot.host_shutdown_timeout"),
        kind: Kind::Int(0, 86400),
        default: "30",
        scope: Scope::Profile,
        live: true,
        effect: Effect::Lifecycle,
        doc: "Seconds that the instance gets to shut down with the host before it is killed.",
    },
    InstanceRow {
        pattern: Pattern::Exact("boot.stop.priority"),
        kind: Kind::Int(i32::MIN as i64, i32::MAX as i64),
        default: "0",
        scope: Scope::Profile,
        live: true,
        effect: Effect::Lifecycle,
        doc: "Order of the stop at shutdown, highest first; equal ones stop together.",
    },
    InstanceRow {
        pattern: Pattern::Prefix("environment."),
        kind: Kind::Line,
        default: "",
        scope: Scope::Profile,
        live: true,
        effect: Effect::Environment,
        doc: "An environment variable of init (from the next start) and of every command run by exec (at once).",
    },
    InstanceRow {
        pattern: Pattern::Exact("limits.cpu"),
        kind: Kind::Cpus,
        default: "",
        scope: Scope::Profile,
        live: true,
        effect: Effect::ControlGroup,
        doc: "Processors: a number of them, chosen and chosen anew so that all are used evenly, or a set such as 0-1,3 (1-1 is processor 1).",
    },
    InstanceRow {
        pattern: Pattern::Exact("limits.cpu.allowance"),
        kind: Kind::Allowance,
        default: "100%",
        scope: Scope::Profile,
        live: true,
        effect: Effect::ControlGroup,
        doc: "Processor time: a share such as 50%, which counts when there is not enough for all, or at most so much, such as 25ms/100ms.",
    },
    InstanceRow {
        pattern: Pattern::Exact("limits.cpu.priority"),
        kind: Kind::Int(0, 10),
        default: "10",
        scope: Scope::Profile,
        live: true,
        effect: Effect::ControlGroup,
        doc: "Who goes first among containers with the same share of the processors; 10 is first.",
    },
    InstanceRow {
        pattern: Pattern::Exact("limits.disk.priority"),
        kind: Kind::Int(0, 10),
        default: "5",
        scope: Scope::Profile,
        live: true,
        effect: Effect::ControlGroup,
        doc: "Who goes first at the disks; 10 is first. Needs a kernel whose scheduler of the disks has weights.",
    },
    InstanceRow {
        pattern: Pattern::Exact("limits.hugepages.64KB"),
        kind: Kind::Size,
        default: "",
        scope: Scope::Profile,
        live: true,
        effect: Effect::ControlGroup,
        doc: "The most memory in huge pages of 64 KiB. Needs the hugetlb controller.",
    },
    InstanceRow {
        pattern: Pattern::Exact("limits.hugepages.1MB"),
        kind: Kind::Size,
        default: "",
        scope: Scope::Profile,
        live: true,
        effect: Effect::ControlGroup,
        doc: "The most memory in huge pages of 1 MiB. Needs the hugetlb controller.",
    },
    InstanceRow {
        pattern: Pattern::Exact("limits.hugepages.2MB"),
        kind: Kind::Size,
        default: "",
        scope: Scope::Profile,
        live: true,
        effect: Effect::ControlGroup,
        doc: "The most memory in huge pages of 2 MiB. Needs the hugetlb controller.",
    },
    InstanceRow {
        pattern: Pattern::Exact("limits.hugepages.1GB"),
        kind: Kind::Size,
        default: "",
        scope: Scope::Profile,
        live: true,
        effect: Effect::ControlGroup,
        doc: "The most memory in huge pages of 1 GiB. Needs the hugetlb controller.",
    },
    InstanceRow {
        pattern: Pattern::Prefix("limits.kernel."),
        kind: Kind::Rlimit,
        default: "",
        scope: Scope::Profile,
        live: false,
        effect: Effect::Process,
        doc: "A limit of the kernel's for each process, as SOFT:HARD; limits.kernel.nofile and the others of getrlimit(2).",
    },
    InstanceRow {
        pattern: Pattern::Exact("limits.memory"),
        kind: Kind::Part,
        default: "",
        scope: Scope::Profile,
        live: true,
        effect: Effect::ControlGroup,
        doc: "Memory: a size such as 512MiB, or a part of the host's such as 10%.",
    },
    InstanceRow {
        pattern: Pattern::Exact("limits.memory.enforce"),
        kind: Kind::Word(&["hard", "soft"]),
        default: "hard",
        scope: Scope::Profile,
        live: true,
        effect: Effect::ControlGroup,
        doc: "Whether the limit of memory always holds (hard), or only when the host is short of it (soft).",
    },
    InstanceRow {
        pattern: Pattern::Exact("limits.memory.swap"),
        kind: Kind::Bool,
        default: "true",
        scope: Scope::Profile,
        live: true,
        effect: Effect::ControlGroup,
        doc: "Whether memory of the instance may be swapped out.",
    },
    InstanceRow {
        pattern: Pattern::Exact("limits.memory.swap.priority"),
        kind: Kind::Int(0, 10),
        default: "10",
        scope: Scope::Profile,
        live: true,
        effect: Effect::ControlGroup,
        doc: "How readily memory is swapped out, 0 is least. Control groups of version 2 have no such thing.",
    },
    InstanceRow {
        pattern: Pattern::Exact("limits.processes"),
        kind: Kind::Int(1, 4_194_304),
        default: "",
        scope: Scope::Profile,
        live: true,
        effect: Effect::ControlGroup,
        doc: "The most processes and threads.",
    },
    InstanceRow {
        pattern: Pattern::Prefix("linux.sysctl."),
        kind: Kind::Sysctl,
        default: "",
        scope: Scope::Profile,
        live: false,
        effect: Effect::Process,
        doc: "A value below /proc/sys inside, by its name with dots, such as linux.sysctl.net.ipv4.ip_forward.",
    },
    InstanceRow {
        pattern: Pattern::Exact("security.nesting"),
        kind: Kind::Bool,
        default: "false",
        scope: Scope::Profile,
        live: false,
        effect: Effect::Confinement,
        doc: "Let containers run inside: they get proc and sys to mount from, and keep the capabilities that needs.",
    },
    InstanceRow {
        pattern: Pattern::Exact("security.privileged"),
        kind: Kind::Bool,
        default: "false",
        scope: Scope::Profile,
        live: false,
        effect: Effect::Confinement,
        doc: "Run without a user namespace: root inside is root outside. Only for what cannot work otherwise.",
    },
    InstanceRow {
        pattern: Pattern::Prefix("user."),
        kind: Kind::Text,
        default: "",
        scope: Scope::Profile,
        live: true,
        effect: Effect::Record,
        doc: "Values of your own, kept as they are.",
    },
    InstanceRow {
        pattern: Pattern::Prefix("image."),
        kind: Kind::Text,
        default: "",
        scope: Scope::Instance,
        live: true,
        effect: Effect::Record,
        doc: "The properties of the image that the instance was made from, copied when it was.",
    },
    InstanceRow {
        pattern: Pattern::Prefix("volatile."),
        kind: Kind::Text,
        default: "",
        scope: Scope::Instance,
        live: true,
        effect: Effect::Volatile,
        doc: "The daemon's own memory about the instance: addresses of its nics, its last state, its base image.",
    },
];
