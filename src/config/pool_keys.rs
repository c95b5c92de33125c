//! The keys of storage pools: which driver has which, and what they do.

use super::value::Kind;
use super::{Error, MAX_VALUE, bounded};
use crate::api::wire::Config;

/// A key.
#[derive(Debug, Clone, Copy)]
pub struct PoolRow {
    /// Its name.
    pub key: &'static str,
    /// What its value must look like.
    pub kind: Kind,
    /// The drivers that have it; none: all.
    pub drivers: &'static [&'static str],
    /// Whether it may be another one in a pool that is there.
    pub changes: bool,
    /// What counts when it is not set, as the documentation says it.
    pub default: &'static str,
    /// What it does.
    pub doc: &'static str,
}

const ALL: &[&str] = &[];
const WITH_FILE: &[&str] = &["btrfs", "overlay"];

/// All of them; `user.*` is anybody's own.
pub const POOL_KEYS: &[PoolRow] = &[
    PoolRow {
        key: "btrfs.mount_options",
        kind: Kind::Line,
        drivers: &["btrfs"],
        changes: true,
        default: "user_subvol_rm_allowed",
        doc: "How the file system of a file or a device is mounted. Only btrfs.",
    },
    PoolRow {
        key: "rsync.bwlimit",
        kind: Kind::Size,
        drivers: ALL,
        changes: true,
        default: "",
        doc: "How much rsync sends a second at most, where rsync is used.",
    },
    PoolRow {
        key: "rsync.compression",
        kind: Kind::Bool,
        drivers: ALL,
        changes: true,
        default: "true",
        doc: "Whether rsync compresses, where rsync is used.",
    },
    PoolRow {
        key: "size",
        kind: Kind::Size,
        drivers: WITH_FILE,
        changes: true,
        default: "a fifth of what is free, 5 to 30 GiB; overlay: none",
        doc: "Size of the file that the pool is on; it can grow while the pool is in use, and never shrinks. Only btrfs and overlay.",
    },
    PoolRow {
        key: "source",
        kind: Kind::Line,
        drivers: ALL,
        changes: false,
        default: "",
        doc: "What the pool lies on: an empty directory; for btrfs also a block device, or a path that is to be a subvolume.",
    },
    PoolRow {
        key: "volatile.initial_source",
        kind: Kind::Line,
        drivers: ALL,
        changes: true,
        default: "",
        doc: "The source that was asked for when the pool was made.",
    },
    volume("volume.security.shifted", Kind::Bool),
    volume("volume.security.unmapped", Kind::Bool),
    volume("volume.size", Kind::Size),
    volume("volume.snapshots.expiry", Kind::Expiry),
    volume("volume.snapshots.pattern", Kind::SnapshotPattern),
    volume("volume.snapshots.schedule", Kind::Schedule),
];

const fn volume(key: &'static str, kind: Kind) -> PoolRow {
    PoolRow {
        key,
        kind,
        drivers: ALL,
        changes: true,
        default: "",
        doc: "What a new volume of the pool has if it does not say otherwise.",
    }
}

/// The row of a pool's key.
pub fn pool_row(key: &str) -> Option<&'static PoolRow> {
    POOL_KEYS.iter().find(|row| row.key == key)
}

/// Checks the configuration of a pool of this driver.
///
/// # Errors
/// With the first key that is unknown, not this driver's, or has a value that does not fit.
pub fn validate_pool(driver: &str, config: &Config) -> Result<(), Error> {
    bounded(config)?;
    for (key, value) in config {
        if key.strip_prefix("user.").is_some_and(|rest| !rest.is_empty()) && !key.contains(char::is_control) {
            if value.len() > MAX_VALUE {
                Kind::Text.check(key, value, false)?;
            }
            continue;
        }
        match pool_row(key) {
            Some(row) if row.drivers.is_empty() || row.drivers.contains(&driver) => {
                row.kind.check(key, value, false)?
            }
            Some(row) => {
                let reason = match row.drivers {
                    ["btrfs"] => "only pools of driver btrfs have it; leave it out",
                    _ => "only pools of drivers btrfs and overlay have it; leave it out",
                };
                return Err(Error::WrongScope { key: key.clone(), reason });
            }
            None => return Err(Error::UnknownKey { of: "storage pool", key: key.clone() }),
        }
    }
    let is_set = |key: &str| config.get(key).is_some_and(|value| super::parse_bool(value) == Some(true));
    if is_set("volume.security.shifted") && is_set("volume.security.unmapped") {
        let (key, other) = ("volume.security.unmapped".to_owned(), "volume.security.shifted".to_owned());
        return Err(Error::Exclusive { key, other });
    }
    Ok(())
}

/// The configuration of a new custom volume of a pool: what it says itself, and the pool's `volume.*` for what it leaves
/// open. One that excludes what the volume says is left out.
pub fn with_volume_defaults(pool: &Config, mut volume: Config) -> Config {
    let is_set = |config: &Config, key: &str| config.get(key).is_some_and(|text| super::parse_bool(text) == Some(true));
    for (key, ..) in super::VOLUME_KEYS {
        let Some(usual) = pool.get(&format!("volume.{key}")).filter(|text| !text.is_empty()) else { continue };
        let excluded = match *key {
            "security.shifted" => is_set(&volume, "security.unmapped"),
            "security.unmapped" => is_set(&volume, "security.shifted"),
            _ => false,
        };
        if !excluded {
            volume.entry((*key).to_owned()).or_insert_with(|| usual.clone());
        }
    }
    volume
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_volume_has_what_its_pool_says_of_volumes_but_what_it_says_itself() {
        let map = |pairs: &[(&str, &str)]| -> Config {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let pool = map(&[
            ("source", "/x"),
            ("size", "1GiB"),
            ("volume.size", "70MiB"),
            ("volume.snapshots.expiry", ""),
            ("volume.security.shifted", "true"),
        ]);
        let of = |pairs: &[(&str, &str)]| with_volume_defaults(&pool, map(pairs));
        assert_eq!(of(&[]), map(&[("size", "70MiB"), ("security.shifted", "true")]));
        let own = map(&[("size", "0"), ("security.shifted", "false"), ("user.a", "b")]);
        assert_eq!(with_volume_defaults(&pool, own.clone()), own);
        let unmapped = [("security.unmapped", "true")];
        assert_eq!(of(&unmapped), map(&[("size", "70MiB"), ("security.unmapped", "true")]));
    }

    #[test]
    fn each_driver_has_its_keys() {
        let check = |driver: &str, key: &str, value: &str| {
            validate_pool(driver, &Config::from([(key.to_owned(), value.to_owned())])).map_err(|e| e.to_string())
        };
        for (key, value) in [
            ("rsync.bwlimit", "10MB"),
            ("rsync.compression", "false"),
            ("source", "/srv"),
            ("volume.size", "10MiB"),
            ("volume.snapshots.expiry", "1d"),
            ("volume.snapshots.schedule", "@daily"),
            ("volume.security.shifted", "true"),
            ("volatile.initial_source", "/z"),
            ("user.a", "b"),
        ] {
            for driver in ["dir", "btrfs", "overlay"] {
                assert_eq!(check(driver, key, value), Ok(()), "{driver} {key}");
            }
        }
        assert_eq!(check("btrfs", "size", "1GiB"), Ok(()));
        assert_eq!(check("overlay", "size", "1GiB"), Ok(()));
        assert_eq!(check("btrfs", "btrfs.mount_options", "noatime"), Ok(()));
        for (driver, key, value, word) in [
            ("dir", "size", "1GiB", "btrfs and overlay"),
            ("dir", "btrfs.mount_options", "noatime", "driver btrfs"),
            ("overlay", "btrfs.mount_options", "noatime", "driver btrfs"),
            ("btrfs", "size", "much", "size such as"),
            ("btrfs", "nosuch", "1", "\"nosuch\" is not one of the storage pool's"),
            ("btrfs", "volume.nosuch", "1", "volume.nosuch"),
            ("btrfs", "volume.block.filesystem", "ext4", "volume.block.filesystem"),
            ("btrfs", "volatile.x", "1", "volatile.x"),
            ("dir", "rsync.bwlimit", "abc", "rsync.bwlimit"),
            ("dir", "rsync.compression", "maybe", "true or false"),
            ("dir", "volume.snapshots.expiry", "x", "volume.snapshots.expiry"),
            ("dir", "user.", "x", "\"user.\""),
        ] {
            let said = check(driver, key, value).unwrap_err();
            assert!(said.contains(word), "{driver} {key}={value}: {said}");
        }
    }
}
