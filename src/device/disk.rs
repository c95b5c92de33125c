//! `disk`: the root disk, and files, directories and block devices of the host.

use super::{Error, Properties};
use crate::names::{PoolName, VolumeName};

/// The disk with `path=/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootDisk {
    /// What its volume may hold, bytes.
    pub size: Option<u64>,
    /// The pool of the root volume.
    pub pool: PoolName,
}

/// A disk, of either kind.
pub(super) enum AnyDisk {
    Root(RootDisk),
    Other(Disk),
}

/// How the mounts below a disk follow those of the host, and the other way round (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all.
    Private,
    /// Both ways.
    Shared,
    /// From the host only.
    Slave,
    /// Not at all, and it cannot be bound elsewhere.
    Unbindable,
}

/// Where the files of a disk are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An absolute path on the host.
    Host(String),
    /// In a custom volume, of the project whose volumes the instance uses.
    Volume {
        /// Its pool.
        pool: PoolName,
        /// Its name.
        volume: VolumeName,
        /// A path below it; empty: all of it. Links on the way lead nowhere but inside the volume.
        below: String,
    },
}

/// Files of the host or of a custom volume, or a block device, inside the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Where it is mounted inside: absolute, without `.`, `..` and doubled slashes, and not the root.
    pub path: String,
    /// What it shows.
    pub source: Source,
    /// It cannot be written.
    pub readonly: bool,
    /// What is mounted below the source comes along.
    pub recursive: bool,
    /// Without its source nothing starts.
    pub required: bool,
    /// None: [`Propagation::Private`].
    pub propagation: Option<Propagation>,
    /// For all that is mounted below, too (`rshared` and so on).
    pub propagation_recursive: bool,
    /// Ids of the container are those of the source, by an id-mapped mount.
    pub shift: bool,
    /// `raw.mount.options`, one by one.
    pub options: Vec<String>,
    /// Reading.
    pub read: Option<Rate>,
    /// Writing.
    pub write: Option<Rate>,
}

/// A limit of what a disk is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// Bytes a second.
    Bytes(u64),
    /// Operations a second.
    Operations(u64),
}

/// An absolute path without `.`, `..` and doubled slashes.
pub(super) fn clean(text: &str) -> Option<String> {
    let printable = !text.contains(['\0', '\n', '\r']) && text.len() <= 4095;
    let plain = text.split('/').all(|part| part != ".." && part.len() <= 255);
    (text.starts_with('/') && printable && plain).then(|| {
        let parts: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        format!("/{}", parts.join("/"))
    })
}

/// `10MB`, `5MiB`, `100iops`, or bytes.
fn rate(text: &str) -> Option<Rate> {
    if let Some(number) = text.strip_suffix("iops") {
        return number.parse().ok().map(Rate::Operations);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let (base, power): (u64, u32) = match unit {
        "" | "B" => (1, 0),
        "kB" => (1000, 1),
        "MB" => (1000, 2),
        "GB" => (1000, 3),
        "TB" => (1000, 4),
        "KiB" => (1024, 1),
        "MiB" => (1024, 2),
        "GiB" => (1024, 3),
        "TiB" => (1024, 4),
        _ => return None,
    };
    number.checked_mul(base.checked_pow(power)?).map(Rate::Bytes)
}

const PATH: &str = "a path without \"..\" and line breaks, of at most 4095 bytes, each name in it of at most 255";
const SOURCE: &str = "an absolute path of the host without \"..\" and line breaks, of at most 4095 bytes, each name in it of at most 255";

pub(super) fn parse(mut properties: Properties<'_>) -> Result<AnyDisk, Error> {
    let device = properties.device.to_string();
    let refuse = |property, value: &str, expected| Error::Value {
        device: device.clone(),
        property,
        value: value.to_owned(),
        expected,
    };
    let missing = |property, hint| Error::MissingProperty { device: device.clone(), property, hint };
    let path =
        properties.take("path").ok_or_else(|| missing("path", "where it is mounted inside; a root disk has /"))?;
    // A relative one counts from the root, as with LXD.
    let path = clean(&format!("/{path}")).ok_or_else(|| refuse("path", path, PATH))?;
    let (pool, source) = (properties.take("pool"), properties.take("source"));
    // A quota is the volume's: of the root here, of a custom volume its own.
    let mut size = |property| match properties.take(property) {
        None | Some("") => Ok(None),
        Some(text) if path != "/" => Err(refuse(property, text, "only the root disk has it")),
        Some(text) => match rate(text) {
            Some(Rate::Bytes(bytes)) => Ok((bytes > 0).then_some(bytes)),
            Some(Rate::Operations(_)) | None => Err(refuse(property, text, "a size such as 512MiB or 10GB")),
        },
    };
    let (quota, _state) = (size("size")?, size("size.state")?);
    if path == "/" {
        if let Some(source) = source {
            return Err(refuse("source", source, "a root disk has none"));
        }
        let pool = pool.ok_or_else(|| missing("pool", "name the storage pool of the root disk"))?;
        let pool = PoolName::new(pool).map_err(|_| refuse("pool", pool, "it must be the name of a storage pool"))?;
        properties.end()?;
        return Ok(AnyDisk::Root(RootDisk { pool, size: quota }));
    }
    let source = source.ok_or_else(|| {
        let hint = "a file, directory or block device of the host; with pool=, the name of a custom volume";
        missing("source", hint)
    })?;
    let source = match pool {
        None => Source::Host(clean(source).ok_or_else(|| refuse("source", source, SOURCE))?),
        Some(pool) => {
            let pool =
                PoolName::new(pool).map_err(|_| refuse("pool", pool, "it must be the name of a storage pool"))?;
            let (name, below) = source.split_once('/').unwrap_or((source, ""));
            let volume = VolumeName::new(name).map_err(|_| {
                refuse("source", source, "the name of a custom volume of the pool, perhaps with a path below it")
            })?;
            let below = clean(&format!("/{below}"))
                .ok_or_else(|| refuse("source", source, "below the volume a path without \"..\""))?;
            Source::Volume { pool, volume, below: below.trim_start_matches('/').to_owned() }
        }
    };
    let of_volume = matches!(source, Source::Volume { .. });
    let readonly = properties.flag("readonly")?.unwrap_or(false);
    let recursive = properties.flag("recursive")?.unwrap_or(false);
    let shift = properties.flag("shift")?;
    if of_volume && shift.is_some() {
        let expected = "it cannot be used with custom storage volumes, whose ids are always mapped (but with security.unmapped on the volume)";
        return Err(refuse("shift", "", expected));
    }
    if of_volume && recursive {
        let expected = "it is only for paths of the host; a custom volume has nothing mounted below it";
        return Err(refuse("recursive", "true", expected));
    }
    let shift = of_volume || shift.unwrap_or(false);
    let required = match (properties.flag("required")?, properties.flag("optional")?) {
        (Some(_), Some(_)) => {
            return Err(refuse("optional", "", "it is the old inverse of \"required\": set one of them"));
        }
        (required, optional) => required.unwrap_or(!optional.unwrap_or(false)),
    };
    let (propagation, propagation_recursive) = match properties.take("propagation") {
        None => (None, false),
        Some(word) => {
            let known = match word.strip_prefix('r').unwrap_or(word) {
                "private" => Propagation::Private,
                "shared" => Propagation::Shared,
                "slave" => Propagation::Slave,
                "unbindable" => Propagation::Unbindable,
                _ => {
                    let expected = "private, shared, slave or unbindable, each also with an \"r\" before it";
                    return Err(refuse("propagation", word, expected));
                }
            };
            (Some(known), word.starts_with('r'))
        }
    };
    let options = properties.take("raw.mount.options").unwrap_or_default();
    if options.contains(['\0', '\n', '\r', ' ', '\t']) {
        return Err(refuse("raw.mount.options", options, "options of mount(8), separated by commas"));
    }
    let options = options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect();
    let (mut limits, max) = ([None, None], properties.take("limits.max"));
    for (place, property) in limits.iter_mut().zip(["limits.read", "limits.write"]) {
        let own = properties.take(property);
        // It stands for both, and before them.
        let (property, text) = if max.is_some() { ("limits.max", max) } else { (property, own) };
        if let Some(text) = text {
            let expected = "bytes a second (10MB) or operations a second (100iops)";
            *place = Some(rate(text).ok_or_else(|| refuse(property, text, expected))?);
        }
    }
    properties.end()?;
    let [read, write] = limits;
    let disk = Disk {
        path,
        source,
        readonly,
        recursive,
        required,
        propagation,
        propagation_recursive,
        shift,
        options,
        read,
        write,
    };
    Ok(AnyDisk::Other(disk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        assert_eq!(clean("/a//b/./c/").as_deref(), Some("/a/b/c"));
        assert_eq!(clean("//").as_deref(), Some("/"));
        for bad in ["", "a", "/a/../b", "/..", "/a\nb"] {
            assert_eq!(clean(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn rates_have_a_unit() {
        assert_eq!(rate("10MB"), Some(Rate::Bytes(10_000_000)));
        assert_eq!(rate("2MiB"), Some(Rate::Bytes(2 << 20)));
        assert_eq!(rate("100iops"), Some(Rate::Operations(100)));
        for bad in ["", "iops", "10 MB", "-1", "10Mb", "99999999999TB"] {
            assert_eq!(rate(bad), None, "{bad}");
        }
    }
}
