//! `unix-char`, `unix-block`: device nodes of the host.

use super::disk::clean;
use super::{Error, Properties};

/// A device node inside the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// A block device; else a character device.
    pub block: bool,
    /// The node on the host.
    pub source: String,
    /// Where it stands inside.
    pub path: String,
    /// Major and minor number; none: those of the source.
    pub numbers: Option<(u32, u32)>,
    /// Owner inside.
    pub uid: u32,
    /// Group inside.
    pub gid: u32,
    /// Permission bits; none: 0660.
    pub mode: u32,
    /// Without its source nothing starts.
    pub required: bool,
}

pub(super) fn refuse(
    properties: &Properties<'_>,
    property: &'static str,
    value: &str,
    expected: &'static str,
) -> Error {
    Error::Value { device: properties.device.to_string(), property, value: value.to_owned(), expected }
}

pub(super) fn number(properties: &mut Properties<'_>, property: &'static str) -> Result<Option<u32>, Error> {
    let Some(text) = properties.take(property) else { return Ok(None) };
    match text.parse() {
        // The last number means "none" (chown(2)).
        Ok(number) if number < u32::MAX => Ok(Some(number)),
        Ok(_) | Err(_) => Err(refuse(properties, property, text, "a whole number, 0 to 4294967294")),
    }
}

/// Owner, group and mode, which is `usual` unless told.
pub(super) fn owner(properties: &mut Properties<'_>, usual: u32) -> Result<(u32, u32, u32), Error> {
    let uid = number(properties, "uid")?.unwrap_or(0);
    let gid = number(properties, "gid")?.unwrap_or(0);
    let mode = match properties.take("mode") {
        None => usual,
        Some(text) => match u32::from_str_radix(text, 8) {
            Ok(mode @ 0..=0o777) => mode,
            Ok(_) | Err(_) => return Err(refuse(properties, "mode", text, "permission bits in octal, 0 to 0777")),
        },
    };
    Ok((uid, gid, mode))
}

pub(super) fn parse(mut properties: Properties<'_>, block: bool) -> Result<Node, Error> {
    let (source, path) = (properties.take("source"), properties.take("path"));
    let (Some(source), Some(path)) = (source.or(path), path.or(source)) else {
        return Err(Error::MissingProperty {
            device: properties.device.to_string(),
            property: "path",
            hint: "set path= (inside) or source= (on the host), or both",
        });
    };
    let absolute = |property, text: &str| {
        let cleaned = clean(text).filter(|path| path != "/");
        cleaned.ok_or_else(|| refuse(&properties, property, text, "an absolute path without \"..\""))
    };
    let (source, path) = (absolute("source", source)?, absolute("path", path)?);
    let (uid, gid, mode) = owner(&mut properties, 0o660)?;
    let numbers = match (number(&mut properties, "major")?, number(&mut properties, "minor")?) {
        // As many bits as the kernel has for them (`MINORBITS`).
        (Some(major), Some(minor)) if major < 1 << 12 && minor < 1 << 20 => Some((major, minor)),
        (None, None) => None,
        (Some(major), Some(_)) => {
            let expected = "a major number is below 4096, a minor number below 1048576";
            return Err(refuse(&properties, "major", &major.to_string(), expected));
        }
        (Some(major), None) => {
            return Err(refuse(&properties, "major", &major.to_string(), "\"minor\" must be set, too"));
        }
        (None, Some(minor)) => {
            return Err(refuse(&properties, "minor", &minor.to_string(), "\"major\" must be set, too"));
        }
    };
    let required = properties.flag("required")?.unwrap_or(true);
    properties.end()?;
    Ok(Node { block, source, path, numbers, uid, gid, mode, required })
}
