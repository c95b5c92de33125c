//! What of the daemon's own may lie on a custom volume: `storage.images_volume`, `storage.backups_volume`.

use super::Config;
use crate::names::{ProjectName, VolumeKey};

/// Something of the daemon's own that a custom volume of the default project may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerVolume {
    /// The files of all images.
    Images,
    /// The files of backups.
    Backups,
}

impl ServerVolume {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Images, Self::Backups];

    /// The server's key that names the volume.
    pub fn key(self) -> &'static str {
        match self {
            Self::Images => "storage.images_volume",
            Self::Backups => "storage.backups_volume",
        }
    }

    /// Its place in the state directory: a directory, or the link to the volume.
    pub fn directory(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Backups => "backups",
        }
    }

    /// The volume that `config` says; what cannot be read is never recorded.
    pub fn of(self, config: &Config) -> Option<VolumeKey> {
        config.get(self.key()).and_then(|value| parse(value).ok())
    }
}

/// Reads `<pool>/<volume>`.
///
/// # Errors
/// Says what is expected.
pub(super) fn parse(value: &str) -> Result<VolumeKey, String> {
    let expected =
        || format!("{value:?} is no volume: it must be <pool>/<volume>, a custom volume of the default project");
    let (pool, name) = value.split_once('/').ok_or_else(expected)?;
    Ok(VolumeKey {
        pool: pool.parse().map_err(|_| expected())?,
        project: ProjectName::default(),
        name: name.parse().map_err(|_| expected())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_named_with_its_pool() {
        assert_eq!(parse("p/v").map(|key| key.to_string()).as_deref(), Ok("p/default_v"));
        for bad in ["", "p", "p/", "/v", "p/v/s", "p/custom/v", "../v", "p/.."] {
            assert!(parse(bad).is_err_and(|reason| reason.contains("<pool>/<volume>")), "{bad}");
        }
    }
}
