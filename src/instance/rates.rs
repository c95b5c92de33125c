//! `limits.read`, `limits.write` and `limits.max` of disks: how fast the physical disk below a source is used.
//!
//! The kernel knows physical disks only (blkio-controller.rst, cgroup-v2.rst), so several devices on one of them share
//! what is the mean of their limits, as with LXD.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::FileType;

use super::error::Error;
use super::plug::refuse;
use super::volumes::Places;
use crate::device::{Plug, Rate};
use crate::names::DeviceName;
use crate::sys::cgroup::{Groups, Hierarchies, Version};

/// Files of version 1 and words of `io.max`, in the order of [`Limits`].
const FILES: [(&str, &str); 4] = [
    ("blkio.throttle.read_bps_device", "rbps"),
    ("blkio.throttle.read_iops_device", "riops"),
    ("blkio.throttle.write_bps_device", "wbps"),
    ("blkio.throttle.write_iops_device", "wiops"),
];

/// Bytes and operations a second: read, write.
type Limits = [Option<u64>; 4];

/// The limits of each physical disk, by its number (`8:0`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rates(BTreeMap<String, Limits>);

/// The physical disk that the file system of `source`, or the block device `source`, lies on; none when there is none.
fn backing(source: &Path) -> io::Result<Option<String>> {
    let stat = rustix::fs::stat(source)?;
    let block = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
    let number = if block { stat.st_rdev } else { stat.st_dev };
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    if major == 0 {
        return Ok(None);
    }
    let place = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
    if !place.join("partition").exists() {
        return Ok(Some(format!("{major}:{minor}")));
    }
    // A partition lies in the directory of its disk.
    let disk = fs::canonicalize(&place)?.join("../dev");
    Ok(Some(fs::read_to_string(disk)?.trim().to_owned()))
}

impl Rates {
    /// Those of all disks among `plugs`; a missing source has none.
    ///
    /// # Errors
    /// [`Error::Plug`] when a source lies on no physical disk.
    pub(super) fn of(plugs: &BTreeMap<DeviceName, Plug>, places: &Places) -> Result<Self, Error> {
        let mut sums: BTreeMap<String, [(u64, u64); 4]> = BTreeMap::new();
        for (device, plug) in plugs {
            let Plug::Disk(disk) = plug else { continue };
            if disk.read.is_none() && disk.write.is_none() {
                continue;
            }
            let Some(source) = places.path(&disk.source) else { continue };
            let backing = match backing(&source) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                found => found.map_err(|error| refuse(device, format!("the disk of its source: {error}")))?,
            };
            let backing = backing.ok_or_else(|| {
                let reason = "limits.read, limits.write and limits.max need a source on a physical disk, and its file system has none of its own";
                refuse(device, reason)
            })?;
            let places = sums.entry(backing).or_default();
            for (rate, at) in [(disk.read, 0), (disk.write, 2)] {
                let (index, value) = match rate {
                    None => continue,
                    Some(Rate::Bytes(value)) => (at, value),
                    Some(Rate::Operations(value)) => (at + 1, value),
                };
                if let Some((sum, count)) = places.get_mut(index) {
                    *sum = sum.saturating_add(value);
                    *count += 1;
                }
            }
        }
        let mean = |(sum, count): (u64, u64)| sum.checked_div(count);
        Ok(Self(sums.into_iter().map(|(disk, places)| (disk, places.map(mean))).collect()))
    }

    /// Lines of lxc.conf.
    ///
    /// # Errors
    /// [`Error::NoController`].
    pub(super) fn lines(&self) -> Result<Vec<(String, String)>, Error> {
        if self.0.is_empty() {
            return Ok(Vec::new());
        }
        let version = version()?;
        let mut lines = Vec::new();
        for (disk, limits) in &self.0 {
            match version {
                Version::V1 => lines.extend(FILES.iter().zip(limits).filter_map(|((file, _), limit)| {
                    limit.map(|limit| (format!("lxc.cgroup.{file}"), format!("{disk} {limit}")))
                })),
                Version::V2 => lines.push(("lxc.cgroup2.io.max".to_owned(), io_max(disk, limits))),
            }
        }
        Ok(lines)
    }

    /// Makes these the limits of the running container with this init, and no others. A few small files.
    ///
    /// # Errors
    /// [`Error::NoController`], or [`Error::Io`] when the kernel refuses one.
    pub(super) fn set(&self, pid: i32) -> Result<(), Error> {
        let (version, hierarchies) = match (version(), Hierarchies::of_host()) {
            (Ok(version), Some(hierarchies)) => (version, hierarchies),
            (Err(error), _) if !self.0.is_empty() => return Err(error),
            // Nothing to limit, and nothing that is.
            (Err(_) | Ok(_), _) => return Ok(()),
        };
        let controller = if version == Version::V1 { "blkio" } else { "io" };
        let missing = || Error::NoController { key: "limits.max", controller };
        let groups = Groups::of_instance(pid).map_err(|_| missing())?;
        let (_, dir) = hierarchies.dir(&groups, controller).ok_or_else(missing)?;
        let write = |file: &str, text: &str| {
            let path = dir.join(file);
            // The kernel takes one line at a time.
            fs::write(&path, text).map_err(|error| Error::Io { doing: "write", path, error })
        };
        let known = |file: &str| -> Vec<String> {
            let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
            text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
        };
        match version {
            Version::V1 => {
                for (index, (file, _)) in FILES.iter().enumerate() {
                    let limit = |disk: &str| self.0.get(disk).and_then(|limits| limits.get(index).copied().flatten());
                    for disk in known(file).into_iter().filter(|disk| limit(disk).is_none()) {
                        write(file, &format!("{disk} 0"))?;
                    }
                    for (disk, limit) in self.0.keys().filter_map(|disk| Some((disk, limit(disk)?))) {
                        write(file, &format!("{disk} {limit}"))?;
                    }
                }
            }
            Version::V2 => {
                for disk in known("io.max").into_iter().filter(|disk| !self.0.contains_key(disk)) {
                    write("io.max", &io_max(&disk, &Limits::default()))?;
                }
                for (disk, limits) in &self.0 {
                    write("io.max", &io_max(disk, limits))?;
                }
            }
        }
        Ok(())
    }
}

fn version() -> Result<Version, Error> {
    let hierarchies = Hierarchies::of_host();
    let found = hierarchies.and_then(|all| all.has("blkio").or_else(|| all.has("io")));
    found.ok_or(Error::NoController { key: "limits.max", controller: "io" })
}

fn io_max(disk: &str, limits: &Limits) -> String {
    let words = FILES.iter().zip(limits).map(|((_, word), limit)| match limit {
        Some(limit) => format!("{word}={limit}"),
        None => format!("{word}=max"),
    });
    format!("{disk} {}", words.collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_version_2_says_all() {
        assert_eq!(io_max("8:0", &[Some(1), None, None, Some(2)]), "8:0 rbps=1 riops=max wbps=max wiops=2");
    }

    #[test]
    fn what_lies_on_no_disk_is_seen() {
        assert_eq!(backing(Path::new("/proc")).unwrap(), None);
    }
}
