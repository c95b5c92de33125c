//! The key table: one row per key with its type, default, scope, documentation and effect.
//!
//! Validation, documentation and the start of an instance all read the same rows, so a key cannot be accepted without
//! an effect or act without being documented.

pub mod compressor;
pub mod cpus;
mod instance_keys;
mod instance_type;
pub mod intercept;
pub mod limits;
pub mod pgp_key;
mod pool_keys;
mod project_keys;
pub mod raw_idmap;
pub mod raw_lxc;
pub mod raw_seccomp;
pub mod reference;
pub mod roles;
pub mod schedule;
mod server_keys;
mod server_volume;
mod size;
pub mod snapshot_pattern;
mod syscall_names;
pub mod syscalls;
mod value;
mod volume_keys;

use std::fmt;

use crate::api::wire::Config;
use crate::names::shortened;

pub use instance_keys::{Effect, INSTANCE_KEYS, InstanceRow, Scope};
pub use instance_type::limits_of;
pub use pool_keys::{POOL_KEYS, PoolRow, pool_row, validate_pool, with_volume_defaults};
pub use project_keys::{PROJECT_KEYS, ProjectRow};
pub use server_keys::{SERVER_KEYS, ServerRow};
pub use server_volume::ServerVolume;
pub use size::{parse_part, parse_size};
pub use value::{Kind, parse_bool, parse_int};
pub use volume_keys::{VOLUME_KEYS, is_unmapped, validate_root_volume, validate_volume};

/// The longest value of a key, bytes. LXD's database takes values up to 256 KiB.
pub const MAX_VALUE: usize = 256 * 1024;

/// The longest name of a key, bytes.
pub const MAX_KEY: usize = 255;

/// What all keys and values of an object have together at most, bytes: clients send an object whole, and it must fit into a
/// request however it is written.
pub const MAX_CONFIG: usize = 1024 * 1024;

/// The longest variable of an environment, bytes: the kernel's `MAX_ARG_STRLEN`.
const MAX_VARIABLE: usize = 128 * 1024;

/// How a row names its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// One key.
    Exact(&'static str),
    /// All keys that begin so.
    Prefix(&'static str),
    /// A beginning, the name of a device, and one of these ends.
    OfDevice(&'static str, &'static [&'static str]),
}

impl Pattern {
    fn matches(self, key: &str) -> bool {
        match self {
            Self::Exact(name) => key == name,
            Self::Prefix(prefix) => key.len() > prefix.len() && key.starts_with(prefix),
            Self::OfDevice(prefix, ends) => key.strip_prefix(prefix).is_some_and(|rest| {
                let device = |end: &&str| rest.strip_suffix(end).and_then(|rest| rest.strip_suffix('.'));
                ends.iter().any(|end| device(end).is_some_and(|device| !device.is_empty()))
            }),
        }
    }

    /// As the documentation shows it.
    pub fn shown(self) -> String {
        match self {
            Self::Exact(name) => name.to_owned(),
            Self::Prefix(prefix) => format!("{prefix}*"),
            Self::OfDevice(prefix, ends) => format!("{prefix}<device>.{{{}}}", ends.join(",")),
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// No row has this key.
    UnknownKey {
        /// "instance", "server" or another object.
        of: &'static str,
        /// The key.
        key: String,
    },
    /// The key does not belong here.
    WrongScope {
        /// The key.
        key: String,
        /// Why not.
        reason: &'static str,
    },
    /// The value does not fit.
    Value {
        /// The key.
        key: String,
        /// The value, shortened; empty for hidden keys.
        value: String,
        /// What would fit.
        expected: String,
    },
    /// Two keys that cannot both count.
    Exclusive {
        /// One.
        key: String,
        /// The other.
        other: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey { of, key } => write!(
                f,
                "Unknown configuration key: {:?} is not one of the {of}'s; user.* takes values of your own, the known keys are in the documentation",
                shortened(key)
            ),
            Self::WrongScope { key, reason } => write!(f, "Configuration key {key:?}: {reason}"),
            Self::Value { key, value, expected } => {
                write!(f, "Invalid value {value:?} for configuration key {key:?}: {expected}")
            }
            Self::Exclusive { key, other } => {
                write!(f, "Configuration key {key:?} is mutually exclusive with {other:?}: unset one of them")
            }
        }
    }
}

impl std::error::Error for Error {}

fn row<T>(table: &'static [T], pattern: impl Fn(&T) -> Pattern, key: &str) -> Option<&'static T> {
    table.iter().find(|row| pattern(row).matches(key))
}

/// The row of an instance's key.
pub fn instance_row(key: &str) -> Option<&'static InstanceRow> {
    row(INSTANCE_KEYS, |row| row.pattern, key)
}

/// The row of a server's key.
pub fn server_row(key: &str) -> Option<&'static ServerRow> {
    row(SERVER_KEYS, |row| row.pattern, key)
}

/// The row of a project's key.
pub fn project_row(key: &str) -> Option<&'static ProjectRow> {
    row(PROJECT_KEYS, |row| row.pattern, key)
}

/// Checks how long a configuration is: of any object.
///
/// # Errors
/// With the key that is too long, or the longest when all are together.
pub fn bounded(config: &Config) -> Result<(), Error> {
    let length = |(key, value): &(&String, &String)| key.len() + value.len();
    if let Some(key) = config.keys().find(|key| key.len() > MAX_KEY) {
        return Err(Error::WrongScope { key: shortened(key), reason: "the name of a key has at most 255 bytes" });
    }
    let longest = config.iter().max_by_key(length).map(|(key, _)| key.clone());
    if let Some(key) = longest.filter(|_| config.iter().map(|entry| length(&entry)).sum::<usize>() > MAX_CONFIG) {
        let reason =
            "all keys and values together have at most 1 MiB, and this is the longest: shorten it, or leave it out";
        return Err(Error::WrongScope { key, reason });
    }
    Ok(())
}

/// Checks the configuration of a project.
///
/// # Errors
/// With the first key that is unknown or has a value that does not fit.
pub fn validate_project(config: &Config) -> Result<(), Error> {
    bounded(config)?;
    for (key, value) in config {
        let Some(row) = project_row(key).filter(|_| is_printable(key)) else {
            return Err(Error::UnknownKey { of: "project", key: key.clone() });
        };
        row.kind.check(key, value, false)?;
    }
    Ok(())
}

/// Checks the configuration of an instance or profile.
///
/// # Errors
/// With the first key that is unknown, misplaced, or has a value that does not fit.
pub fn validate_instance(config: &Config, scope: Scope) -> Result<(), Error> {
    bounded(config)?;
    for (key, value) in config {
        let Some(row) = instance_row(key).filter(|_| is_printable(key)) else {
            return Err(Error::UnknownKey { of: "instance", key: key.clone() });
        };
        // What stands before the first "=" is the variable (environ(7)).
        if key.strip_prefix("environment.").is_some_and(|name| name.contains(['=', ' '])) {
            return Err(Error::WrongScope { key: key.clone(), reason: "a variable's name has no \"=\" and no space" });
        }
        // The kernel takes no longer text as one (MAX_ARG_STRLEN in linux/binfmts.h), NUL included.
        if key.strip_prefix("environment.").is_some_and(|name| name.len() + value.len() + 2 > MAX_VARIABLE) {
            let reason = "a variable has at most 131071 bytes, with its name and the \"=\"";
            return Err(Error::WrongScope { key: key.clone(), reason });
        }
        if scope == Scope::Profile && row.scope == Scope::Instance {
            return Err(Error::WrongScope { key: key.clone(), reason: "it belongs to one instance, not to a profile" });
        }
        row.kind.check(key, value, false)?;
    }
    check_together(config)
}

/// Checks that no two keys of a configuration, a profile's or an expanded one, are against each other.
///
/// # Errors
/// [`Error::Exclusive`].
pub fn check_together(config: &Config) -> Result<(), Error> {
    match syscalls::exclusive(config) {
        Some((key, other)) => Err(Error::Exclusive { key, other }),
        None => Ok(()),
    }
}

/// The names in a list with commas.
pub fn names_of(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty())
}

/// Checks the configuration of the server.
///
/// # Errors
/// With the first key that is unknown or has a value that does not fit.
pub fn validate_server(config: &Config) -> Result<(), Error> {
    bounded(config)?;
    for (key, value) in config {
        if let Some((_, reason)) = server_keys::NOT_HERE.iter().find(|(known, _)| known == key) {
            // Who unsets it has what he wants.
            if value.is_empty() {
                continue;
            }
            return Err(Error::WrongScope { key: key.clone(), reason });
        }
        let Some(row) = server_row(key) else {
            return Err(Error::UnknownKey { of: "server", key: key.clone() });
        };
        row.kind.check(key, value, row.hidden)?;
    }
    Ok(())
}

/// The value of a boolean key, with the default of its row.
pub fn bool_of(config: &Config, key: &str) -> bool {
    let default = || {
        let row = instance_row(key).map(|row| row.default).or_else(|| server_row(key).map(|row| row.default));
        row.is_some_and(|default| parse_bool(default) == Some(true))
    };
    config.get(key).and_then(|text| parse_bool(text)).unwrap_or_else(default)
}

/// The value of an integer key, with the default of its row, else 0.
pub fn int_of(config: &Config, key: &str) -> i64 {
    let default = || {
        instance_row(key)
            .map(|row| row.default)
            .or_else(|| server_row(key).map(|row| row.default))
            .and_then(parse_int)
            .unwrap_or(0)
    };
    config.get(key).and_then(|text| parse_int(text)).unwrap_or_else(default)
}

/// Names of keys stand in lists and errors.
fn is_printable(key: &str) -> bool {
    !key.contains(char::is_control)
}

/// Whether an instance may have a key of this name.
pub fn is_instance_key(key: &str) -> bool {
    instance_row(key).is_some() && is_printable(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(key: &str, value: &str) -> Config {
        [(key.to_owned(), value.to_owned())].into()
    }

    #[test]
    fn configurations_are_bounded() {
        assert_eq!(bounded(&config(&"k".repeat(MAX_KEY), "v")), Ok(()));
        let long = format!("user.{}", "k".repeat(MAX_KEY));
        assert!(validate_instance(&config(&long, "v"), Scope::Instance).unwrap_err().to_string().contains("255 bytes"));
        let value = "x".repeat(MAX_VALUE);
        let many: Config = (0..5).map(|number| (format!("user.{number}"), value.clone())).collect();
        for result in [
            validate_instance(&many, Scope::Profile),
            validate_project(&many),
            validate_server(&many),
            validate_pool("dir", &many),
            validate_volume(&many),
        ] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("user.") && error.contains("1 MiB"), "{error}");
        }
    }

    #[test]
    fn every_row_has_documentation() {
        for row in INSTANCE_KEYS {
            assert!(row.doc.len() > 20, "{}", row.pattern.shown());
        }
        for row in SERVER_KEYS {
            assert!(row.doc.len() > 20, "{}", row.pattern.shown());
        }
        for row in PROJECT_KEYS {
            assert!(row.doc.len() > 20, "{}", row.pattern.shown());
        }
    }

    #[test]
    fn every_default_fits_its_own_kind() {
        for row in INSTANCE_KEYS.iter().filter(|row| !row.default.is_empty()) {
            row.kind.check("default", row.default, false).unwrap();
        }
        for row in SERVER_KEYS.iter().filter(|row| !row.default.is_empty()) {
            row.kind.check("default", row.default, false).unwrap();
        }
        for row in PROJECT_KEYS.iter().filter(|row| !row.default.is_empty()) {
            row.kind.check("default", row.default, false).unwrap();
        }
    }

    #[test]
    fn a_pinned_key_names_a_server() {
        let key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEAAAA\n-----END PGP PUBLIC KEY BLOCK-----";
        let check = |name: &str| validate_server(&config(&format!("images.streams_key.{name}"), key));
        for name in ["images.example", "a.b:8443", "A.B.", "[::1]:8443", "192.0.2.1"] {
            check(name).unwrap();
        }
        for name in ["https://a.b", "a.b/", "a.b/c", "a b", "u@a.b", "a.b:x", "a.b:", "a.b:99999", "[::1", "a?b"] {
            let error = check(name).unwrap_err().to_string();
            assert!(error.contains("HOST:PORT"), "{name}: {error}");
        }
        // What an older one took can be unset.
        validate_server(&config("images.streams_key.a.b/", "")).unwrap();
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = validate_instance(&config("limits.mem", "1"), Scope::Instance).unwrap_err();
        assert!(error.to_string().contains("\"limits.mem\""), "{error}");
        assert!(validate_instance(&config("user.", "1"), Scope::Instance).is_err());
        assert!(validate_instance(&config("user.x", "1"), Scope::Profile).is_ok());
    }

    #[test]
    fn a_volatile_key_has_no_place_in_a_profile() {
        assert!(validate_instance(&config("volatile.base_image", "1"), Scope::Profile).is_err());
        assert!(validate_instance(&config("volatile.base_image", "1"), Scope::Instance).is_ok());
    }

    #[test]
    fn booleans_are_taken_in_any_case() {
        for word in ["True", "YES", "on", "1", "false", "Off", "no", "0"] {
            assert!(validate_instance(&config("security.nesting", word), Scope::Instance).is_ok(), "{word}");
        }
        let error = validate_instance(&config("security.nesting", "maybe"), Scope::Instance).unwrap_err();
        assert!(error.to_string().contains("security.nesting") && error.to_string().contains("true or false"));
    }

    #[test]
    fn a_hidden_value_is_not_repeated_in_its_refusal() {
        let error = validate_server(&config("core.trust_password", "sec\0ret")).unwrap_err();
        assert!(!error.to_string().contains("ret"), "{error}");
    }

    #[test]
    fn names_of_keys_are_checked() {
        for bad in ["user.a\0b", "user.a\nb", "environment.A=B", "environment.A B", "environment.A\tB"] {
            let error = validate_instance(&config(bad, "x"), Scope::Instance).unwrap_err();
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
        }
    }
}
