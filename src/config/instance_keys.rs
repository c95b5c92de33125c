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
