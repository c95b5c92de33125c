//! `disk`: for now the root disk; others are refused with a clear word.

use super::{Error, Properties};
use crate::names::PoolName;

/// The disk with `path=/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootDisk {
    /// The pool of the root volume.
    pub pool: PoolName,
}

pub(super) fn parse(mut properties: Properties<'_>) -> Result<RootDisk, Error> {
    let device = properties.device.to_string();
    let refuse = |property, value: &str, expected| Error::Value {
        device: device.clone(),
        property,
        value: value.to_owned(),
        expected,
    };
    let missing = |property, hint| Error::MissingProperty { device: device.clone(), property, hint };
    let path = properties.take("path").ok_or_else(|| missing("path", "a root disk has path=/"))?;
    if path != "/" {
        return Err(refuse("path", path, "only root disks (path=/) are supported by this version"));
    }
    let pool = properties.take("pool").ok_or_else(|| missing("pool", "name the storage pool of the root disk"))?;
    let pool = PoolName::new(pool).map_err(|_| refuse("pool", pool, "it must be the name of a storage pool"))?;
    properties.end()?;
    Ok(RootDisk { pool })
}
