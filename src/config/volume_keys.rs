//! The keys of custom storage volumes with files.

use super::value::{Kind, parse_bool};
use super::{Error, MAX_VALUE, bounded};
use crate::api::wire::Config;

/// A key: its name, its type, and what it does.
pub const VOLUME_KEYS: &[(&str, Kind, &str)] = &[
    ("security.shifted", Kind::Bool, "Containers of different id maps may share it. So they may with any volume here."),
    ("security.unmapped", Kind::Bool, "Its files show the ids that they have on the disk: no id map."),
    ("size", Kind::Size, "How much it may hold, where the pool can limit that."),
    ("snapshots.expiry", Kind::Expiry, "How long snapshots are kept."),
    ("snapshots.pattern", Kind::SnapshotPattern, "Names of snapshots that nobody names."),
    ("snapshots.schedule", Kind::Schedule, "When snapshots are made."),
];

/// Keys of LXD's for volumes of other drivers or content.
const OTHERS: &[&str] = &["block.", "lvm.", "zfs.", "ceph.", "cephfs."];

/// Checks the configuration of a custom volume.
///
/// # Errors
/// With the first key that is unknown or has a value that does not fit.
pub fn validate_volume(config: &Config) -> Result<(), Error> {
    bounded(config)?;
    for (key, value) in config {
        if key.strip_prefix("user.").is_some_and(|rest| !rest.is_empty()) && !key.contains(char::is_control) {
            if value.len() > MAX_VALUE {
                return Kind::Text.check(key, value, false);
            }
            continue;
        }
        match VOLUME_KEYS.iter().find(|(name, ..)| name == key) {
            Some((_, kind, _)) => kind.check(key, value, false)?,
            None if OTHERS.iter().any(|prefix| key.starts_with(prefix)) => {
                let reason = "it belongs to volumes of other drivers, or of blocks; leave it out";
                return Err(Error::WrongScope { key: key.clone(), reason });
            }
            None => return Err(Error::UnknownKey { of: "storage volume", key: key.clone() }),
        }
    }
    let set = |key: &str| config.get(key).and_then(|text| parse_bool(text)) == Some(true);
    if set("security.unmapped") && set("security.shifted") {
        let (key, other) = ("security.unmapped".to_owned(), "security.shifted".to_owned());
        return Err(Error::Exclusive { key, other });
    }
    Ok(())
}

/// Checks the configuration of the volume of an instance's root, which has keys of the client only.
///
/// # Errors
/// With the first key that is something else.
pub fn validate_root_volume(config: &Config) -> Result<(), Error> {
    validate_volume(config)?;
    match config.keys().find(|key| !key.starts_with("user.")) {
        Some(key) => {
            let reason = "on the volume of an instance's root only user.* is kept; set what it has on the instance and its root disk";
            Err(Error::WrongScope { key: key.clone(), reason })
        }
        None => Ok(()),
    }
}

/// Whether a volume's files are shown with the ids that they have on the disk.
pub fn is_unmapped(config: &Config) -> bool {
    config.get("security.unmapped").and_then(|text| parse_bool(text)) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_checked_and_others_are_named() {
        let check = |pairs: &[(&str, &str)]| {
            let config = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            validate_volume(&config).map_err(|error| error.to_string())
        };
        let good = [("size", "1GiB"), ("user.x", "y"), ("snapshots.schedule", "@daily"), ("security.shifted", "true")];
        assert_eq!(check(&good), Ok(()));
        for (pairs, word) in [
            (&[("size", "lots")][..], "size"),
            (&[("zfs.use_refquota", "true")], "other drivers"),
            (&[("block.filesystem", "ext4")], "other drivers"),
            (&[("color", "red")], "\"color\""),
            (&[("user.", "red")], "\"user.\""),
            (&[("snapshots.expiry", "soon")], "snapshots.expiry"),
            (&[("security.shifted", "true"), ("security.unmapped", "1")], "mutually exclusive"),
        ] {
            let said = check(pairs).unwrap_err();
            assert!(said.contains(word), "{said}");
        }
    }
}
