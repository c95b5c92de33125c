//! The keys of the server.

use super::value::ARCHITECTURES;
use super::{Kind, Pattern};

/// A row of the table. All keys act as soon as they are set.
#[derive(Debug, Clone, Copy)]
pub struct ServerRow {
    /// The key.
    pub pattern: Pattern,
    /// What values look like.
    pub kind: Kind,
    /// Value when unset, empty for none.
    pub default: &'static str,
    /// Never shown; `true` stands for "is set".
    pub hidden: bool,
    /// For the reference.
    pub doc: &'static str,
}

/// Keys of LXD that have no place here, and why.
pub(super) const NOT_HERE: &[(&str, &str)] = &[(
    "core.debug_address",
    "there is no Go profiler to listen for; PUT /internal/log-level sets what is logged while the daemon runs, `warrend doctor` and /1.0/health say what of the host does not work, core.metrics_address tells figures",
)];

/// All of them. Names and meanings: LXD's API 1.0.
pub const SERVER_KEYS: &[ServerRow] = &[
    ServerRow {
        pattern: Pattern::Exact("backups.compression_algorithm"),
        kind: Kind::Compressor,
        default: "gzip",
        hidden: false,
        doc: "How backups are compressed: none, gzip, bzip2, xz, lzma, zstd or squashfs, perhaps with arguments. Kept; backups are not there yet.",
    },
    ServerRow {
        pattern: Pattern::Exact("core.https_address"),
        kind: Kind::Line,
        default: "",
        hidden: false,
        doc: "Address and port of the API over HTTPS, e.g. [::]:8443; unset: only the unix socket. Port 0 is any that is free, another one each time it is listened on anew.",
    },
    ServerRow {
        pattern: Pattern::Exact("core.https_allowed_credentials"),
        kind: Kind::Bool,
        default: "false",
        hidden: false,
        doc: "Whether answers have Access-Control-Allow-Credentials, for programs in browsers.",
    },
    ServerRow {
        pattern: Pattern::Exact("core.https_allowed_headers"),
        kind: Kind::Tokens,
        default: "",
        hidden: false,
        doc: "Access-Control-Allow-Headers of answers to requests that have an Origin, for programs in browsers.",
    },
    ServerRow {
        pattern: Pattern::Exact("core.https_allowed_methods"),
        kind: Kind::Tokens,
        default: "",
        hidden: false,
        doc: "Access-Control-Allow-Methods of answers to requests that have an Origin, for programs in browsers.",
    },
    ServerRow {
        pattern: Pattern::Exact("core.https_allowed_origin"),
        kind: Kind::Header,
        default: "",
        hidden: false,
        doc: "Access-Control-Allow-Origin of answers to requests that have an Origin, for programs in browsers.",
    },
    ServerRow {
        pattern: Pattern::Exact("core.https_trusted_proxy"),
        kind: Kind::Addresses,
        default: "",
        hidden: false,
        doc: "Addresses of proxies, separated by commas, that tell by the PROXY protocol (version 1 or 2) where a client is.",
    },
    ServerRow {
        pattern: Pattern::Exact("core.idmap_isolated"),
        kind: Kind::Bool,
        default: "false",
        hidden: false,
        doc: "Whether instances that do not set security.idmap.isolated are isolated, from their next start on.",
    },
    ServerRow {
        pattern: Pattern::Exact("core.metrics_address"),
        kind: Kind::Line,
        default: "",
        hidden: false,
        doc: "Address and port of a listener over HTTPS for metrics alone, e.g. [::]:9100; unset: none.",
    },
    ServerRow {
        pattern: Pattern::Exact("core.metrics_authentication"),
        kind: Kind::Bool,
        default: "true",
        hidden: false,
        doc: "Whether metrics take a certificate, of a client or of type metrics; false: whoever reaches a listener over HTTPS sees those of all projects.",
    },
    ServerRow {
        pattern: Pattern::Exact("core.proxy_http"),
        kind: Kind::Proxy,
        default: "",
        hidden: false,
        doc: "Proxy for image servers that are reached by http:, as http://[user:password@]host:port; unset: what HTTP_PROXY says.",
    },
    ServerRow {
        pattern: Pattern::Exact("core.proxy_https"),
        kind: Kind::Proxy,
        default: "",
        hidden: false,
        doc: "Proxy for image servers that are reached by https:, as http://[user:password@]host:port; unset: what HTTPS_PROXY says.",
    },
    ServerRow {
        pattern: Pattern::Exact("core.proxy_ignore_hosts"),
        kind: Kind::Hosts,
        default: "",
        hidden: false,
        doc: "Hosts that are reached without a proxy: names with all below them, *.name for only those, addresses, networks, each perhaps with :port, or *, separated by commas; unset: what NO_PROXY says.",
    },
    ServerRow {
        pattern: Pattern::Exact("core.remote_token_expiry"),
        kind: Kind::Expiry,
        default: "",
        hidden: false,
        doc: "How long tokens for new clients are good that are made from now on, such as `1d 12H`; unset: until they are used.",
    },
    ServerRow {
        pattern: Pattern::Exact("core.shutdown_timeout"),
        kind: Kind::Int(0, 1440),
        default: "5",
        hidden: false,
        doc: "Minutes that running operations get to end when the daemon is asked to shut down.",
    },
    ServerRow {
        pattern: Pattern::Exact("core.trust_ca_certificates"),
        kind: Kind::Bool,
        default: "false",
        hidden: false,
        doc: "Whether every certificate that server.ca has signed is trusted, and with the whole server; without that file it says nothing.",
    },
    ServerRow {
        pattern: Pattern::Exact("core.trust_password"),
        kind: Kind::Line,
        default: "",
        hidden: true,
        doc: "Password by which a client's certificate is added to the trust store; kept as a slow hash.",
    },
    ServerRow {
        pattern: Pattern::Exact("core.unix_roles"),
        kind: Kind::Roles,
        default: "",
        hidden: false,
        doc: "What groups of this host may do over the unix socket, such as `monitor=read-only, web=project:web`; root and the socket's own group may do all. Ours.",
    },
    ServerRow {
        pattern: Pattern::Exact("images.auto_update_cached"),
        kind: Kind::Bool,
        default: "true",
        hidden: false,
        doc: "Whether images that are cached from now on, by a name, are brought up to date.",
    },
    ServerRow {
        pattern: Pattern::Exact("images.auto_update_interval"),
        kind: Kind::Int(i32::MIN as i64, i32::MAX as i64),
        default: "6",
        hidden: false,
        doc: "Hours between looks for newer images of those that follow their server, and at the daemon's start; 0 or less: none.",
    },
    ServerRow {
        pattern: Pattern::Exact("images.compression_algorithm"),
        kind: Kind::Compressor,
        default: "gzip",
        hidden: false,
        doc: "How published images are compressed: none, gzip, bzip2, xz, lzma, zstd or squashfs, perhaps with arguments.",
    },
    ServerRow {
        pattern: Pattern::Exact("images.default_architecture"),
        kind: Kind::Word(ARCHITECTURES),
        default: "",
        hidden: false,
        doc: "The architecture that is asked of image servers first, if this host runs it; unset: the host's own.",
    },
    ServerRow {
        pattern: Pattern::Exact("images.remote_cache_expiry"),
        kind: Kind::Int(i32::MIN as i64, i32::MAX as i64),
        default: "10",
        hidden: false,
        doc: "Days after its last use until a cached image is removed; 0 or less: never.",
    },
    ServerRow {
        pattern: Pattern::Exact("images.streams"),
        kind: Kind::Bool,
        default: "true",
        hidden: false,
        doc: "Whether the public images of the default project are offered by simplestreams, at /streams/v1, over HTTPS. Ours.",
    },
    ServerRow {
        pattern: Pattern::Prefix("images.streams_key."),
        kind: Kind::PgpKey,
        default: "",
        hidden: false,
        doc: "The public key, armored, by which the lists of the image server of this name (host, or host:port) must be signed. Ours.",
    },
    ServerRow {
        pattern: Pattern::Exact("storage.backups_volume"),
        kind: Kind::Volume,
        default: "",
        hidden: false,
        doc: "The custom volume of the default project that backups lie on: there, empty, without snapshots, and used by nothing else; unset: the state directory. Backups are not there yet.",
    },
    ServerRow {
        pattern: Pattern::Exact("storage.images_volume"),
        kind: Kind::Volume,
        default: "",
        hidden: false,
        doc: "The custom volume of the default project that the files of images lie on: there, empty, without snapshots, and used by nothing else; unset: the state directory. Setting it moves them.",
    },
    ServerRow {
        pattern: Pattern::Prefix("user."),
        kind: Kind::Text,
        default: "",
        hidden: false,
        doc: "Values of your own, kept as they are.",
    },
];
