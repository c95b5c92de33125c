//! The keys of projects.

use super::value::ARCHITECTURES;
use super::{Kind, Pattern};

/// A row of the table. All keys count as soon as they are set.
#[derive(Debug, Clone, Copy)]
pub struct ProjectRow {
    /// The key.
    pub pattern: Pattern,
    /// What values look like.
    pub kind: Kind,
    /// Value when unset, empty for none. Of `features.*`: what a new project gets.
    pub default: &'static str,
    /// For the reference.
    pub doc: &'static str,
}

const fn row(key: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> ProjectRow {
    ProjectRow { pattern: Pattern::Exact(key), kind, default, doc }
}

/// A count or a number of something.
const COUNT: Kind = Kind::Int(0, u32::MAX as i64);
/// Yes or no, in LXD's words.
const ALLOW: Kind = Kind::Word(&["block", "allow"]);

/// All of them. Names and meanings: LXD's API 1.0.
pub const PROJECT_KEYS: &[ProjectRow] = &[
    row(
        "backups.compression_algorithm",
        Kind::Compressor,
        "",
        "What backups of the project are compressed with; kept, there are no backups yet.",
    ),
    row(
        "features.images",
        Kind::Bool,
        "true",
        "Whether the project has images and aliases of its own, or those of `default`.",
    ),
    row(
        "features.networks",
        Kind::Bool,
        "false",
        "Whether the project has networks and ACLs of its own, or those of `default`. No network of a type that runs here can be made outside `default`, so such a project has none.",
    ),
    row("features.profiles", Kind::Bool, "true", "Whether the project has profiles of its own, or those of `default`."),
    row(
        "features.storage.volumes",
        Kind::Bool,
        "true",
        "Whether the project has custom volumes of its own, or those of `default`.",
    ),
    row(
        "images.auto_update_cached",
        Kind::Bool,
        "",
        "Whether images that the project caches from now on are brought up to date; unset: what the server's key says.",
    ),
    row(
        "images.auto_update_interval",
        Kind::Int(i32::MIN as i64, i32::MAX as i64),
        "",
        "Hours between looks for newer images, 0 or less: none; unset: what the server's key says.",
    ),
    row(
        "images.compression_algorithm",
        Kind::Compressor,
        "",
        "What new images of the project are compressed with, in place of what the server says.",
    ),
    row(
        "images.default_architecture",
        Kind::Word(ARCHITECTURES),
        "",
        "The architecture that is asked of image servers first, if this host runs it; unset: what the server's key says.",
    ),
    row(
        "images.remote_cache_expiry",
        Kind::Int(i32::MIN as i64, i32::MAX as i64),
        "",
        "Days that an unused cached image stays, 0 or less: for ever; unset: what the server's key says.",
    ),
    row("limits.containers", COUNT, "", "How many containers the project may have."),
    row(
        "limits.cpu",
        COUNT,
        "",
        "The most processors that all its instances together may have; each must then set limits.cpu to a number.",
    ),
    row(
        "limits.disk",
        Kind::Size,
        "",
        "The most that all its root disks, custom volumes and images together may hold; each disk and volume must then have a size.",
    ),
    row("limits.instances", COUNT, "", "How many instances of all types the project may have."),
    row(
        "limits.memory",
        Kind::Size,
        "",
        "The most memory that all its instances together may have; each must then set limits.memory to a size, not to a part.",
    ),
    row("limits.networks", COUNT, "", "How many networks the project may have."),
    row(
        "limits.processes",
        COUNT,
        "",
        "The most processes that all its instances together may have; each must then set limits.processes.",
    ),
    row("limits.virtual-machines", COUNT, "", "How many virtual machines the project may have; there are none here."),
    row(
        "restricted",
        Kind::Bool,
        "false",
        "Whether the keys restricted.* count. Only a project with profiles of its own can be restricted.",
    ),
    row("restricted.backups", ALLOW, "block", "Whether backups can be made; kept, there are no backups yet."),
    row(
        "restricted.cluster.groups",
        Kind::Line,
        "",
        "Groups of cluster members that may be named as targets; kept, there is no cluster.",
    ),
    row(
        "restricted.cluster.target",
        ALLOW,
        "block",
        "Whether a cluster member may be named as target; kept, there is no cluster.",
    ),
    row(
        "restricted.containers.interception",
        Kind::Word(&["block", "allow", "full"]),
        "block",
        "Whether system calls can be intercepted: `allow` those that are safe, `full` also mounts of devices' file systems and the scheduler.",
    ),
    row(
        "restricted.containers.lowlevel",
        ALLOW,
        "block",
        "Whether containers may have raw.* and other keys that reach below what the daemon promises.",
    ),
    row("restricted.containers.nesting", ALLOW, "block", "Whether containers may set security.nesting."),
    row(
        "restricted.containers.privilege",
        Kind::Word(&["unprivileged", "isolated", "allow"]),
        "unprivileged",
        "Which containers there may be: `unprivileged` ones, only those with `isolated` ids, or privileged ones, too (`allow`).",
    ),
    row(
        "restricted.devices.disk",
        Kind::Word(&["managed", "block", "allow"]),
        "managed",
        "Which disks there may be beside the root: those of pools (`managed`), any (`allow`, see restricted.devices.disk.paths), none.",
    ),
    row(
        "restricted.devices.disk.paths",
        Kind::Paths,
        "",
        "With restricted.devices.disk=allow: paths of the host below which sources must lie; unset: anywhere.",
    ),
    row("restricted.devices.gpu", ALLOW, "block", "Whether there may be devices of the type gpu."),
    row(
        "restricted.devices.infiniband",
        ALLOW,
        "block",
        "Whether there may be devices of the type infiniband; there are none here.",
    ),
    row(
        "restricted.devices.nic",
        Kind::Word(&["managed", "block", "allow"]),
        "managed",
        "Which nics there may be: those on managed networks (`managed`), any (`allow`), none.",
    ),
    row("restricted.devices.pci", ALLOW, "block", "Whether there may be devices of the type pci; there are none here."),
    row("restricted.devices.proxy", ALLOW, "block", "Whether there may be devices of the type proxy."),
    row("restricted.devices.unix-block", ALLOW, "block", "Whether there may be devices of the type unix-block."),
    row("restricted.devices.unix-char", ALLOW, "block", "Whether there may be devices of the type unix-char."),
    row("restricted.devices.unix-hotplug", ALLOW, "block", "Whether there may be devices of the type unix-hotplug."),
    row("restricted.devices.usb", ALLOW, "block", "Whether there may be devices of the type usb."),
    row(
        "restricted.idmap.gid",
        Kind::Ids,
        "",
        "Groups of the host that raw.idmap may name, where restricted.containers.lowlevel blocks it.",
    ),
    row(
        "restricted.idmap.uid",
        Kind::Ids,
        "",
        "Users of the host that raw.idmap may name, where restricted.containers.lowlevel blocks it.",
    ),
    row(
        "restricted.networks.access",
        Kind::Line,
        "",
        "Names of the networks that the project may see and use; unset: all.",
    ),
    row(
        "restricted.networks.subnets",
        Kind::Subnets,
        "",
        "Subnets of uplinks that networks of the project may have; kept, no network that runs here has uplinks.",
    ),
    row(
        "restricted.networks.uplinks",
        Kind::Line,
        "",
        "Networks that may be uplinks of the project's networks; kept, no network that runs here has uplinks.",
    ),
    row("restricted.networks.zones", Kind::Line, "", "DNS zones that the project may use; kept, there are no zones."),
    row("restricted.snapshots", ALLOW, "block", "Whether snapshots can be made."),
    row(
        "restricted.virtual-machines.lowlevel",
        ALLOW,
        "block",
        "Whether virtual machines may have raw.* keys; kept, there are none here.",
    ),
    ProjectRow {
        pattern: Pattern::Prefix("user."),
        kind: Kind::Text,
        default: "",
        doc: "Values of your own, kept as they are.",
    },
];
