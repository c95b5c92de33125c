//! lxcfs, which shows containers their own memory, processors and uptime (lxcfs(1)): where it is, and whether it lives.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// The environment variables that say where it is mounted; the first that is set counts.
const VARIABLES: [&str; 2] = ["WARREN_LXCFS", "LXD_LXCFS"];
/// Where it is mounted otherwise: by its Debian package, by LXD's snap.
const USUAL: [&str; 2] = ["/var/lib/lxcfs", "/var/snap/lxd/common/var/lib/lxcfs"];

/// Its files that stand in for those of the kernel, below its root as below the container's.
pub const FILES: [&str; 9] = [
    "proc/cpuinfo",
    "proc/diskstats",
    "proc/loadavg",
    "proc/meminfo",
    "proc/slabinfo",
    "proc/stat",
    "proc/swaps",
    "proc/uptime",
    "sys/devices/system/cpu/online",
];

/// One that does not answer for this long hangs.
const PATIENCE: Duration = Duration::from_secs(1);

/// A mounted lxcfs that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lxcfs {
    /// Where.
    pub root: PathBuf,
    /// Its device number: each start of it has another, as long as something of the last one is still mounted.
    pub device: u64,
    /// Those of [`FILES`] that it has.
    pub files: Vec<&'static str>,
}

/// Where it may be mounted.
pub fn places() -> Vec<PathBuf> {
    let told = VARIABLES.iter().find_map(|name| std::env::var_os(name).filter(|path| !path.is_empty()));
    match told {
        Some(path) => vec![path.into()],
        None => USUAL.map(PathBuf::from).to_vec(),
    }
}

/// Looks for one that answers, for at most a second. It may block so long.
///
/// # Errors
/// In words, why there is none.
pub fn look() -> Result<Lxcfs, String> {
    let mut reasons = Vec::new();
    for place in places() {
        let (sender, answer) = mpsc::channel();
        let asked = place.clone();
        // A thread of its own: one that hangs on it cannot be taken back.
        let spawned = std::thread::Builder::new().name("lxcfs".to_owned()).spawn(move || {
            // Nobody waits any more when it answers too late.
            let _ = sender.send(at(&asked));
        });
        let found = match spawned {
            Ok(_) => answer.recv_timeout(PATIENCE).unwrap_or(Err(io::ErrorKind::TimedOut.into())),
            Err(error) => Err(error),
        };
        match found {
            Ok(found) => return Ok(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                reasons.push(format!("{} is not mounted", place.display()));
            }
            Err(error) => reasons.push(format!("{} does not answer: {error}", place.display())),
        }
    }
    Err(reasons.join("; "))
}

fn at(root: &Path) -> io::Result<Lxcfs> {
    let mut first = [0; 1];
    std::fs::File::open(root.join("proc/uptime"))?.read_exact(&mut first)?;
    let device = std::fs::metadata(root)?.dev();
    let files = FILES.into_iter().filter(|file| root.join(file).symlink_metadata().is_ok()).collect();
    Ok(Lxcfs { root: root.to_owned(), device, files })
}

/// What of lxcfs is mounted over [`FILES`] in the mount namespace of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Over {
    /// So many mounts of lxcfs lie there, one on the other.
    pub layers: u32,
    /// The device number of the uppermost.
    pub device: u64,
    /// Something else lies above them.
    pub hidden: bool,
}

/// What lies over each of [`FILES`], of a table as of proc_pid_mountinfo(5).
pub fn over(table: &str) -> BTreeMap<&'static str, Over> {
    let mut found = BTreeMap::<_, Over>::new();
    for line in table.lines() {
        let mut fields = line.split(' ');
        let (Some(device), Some(point)) = (fields.nth(2), fields.nth(1)) else { continue };
        let Some(file) = FILES.into_iter().find(|file| point.strip_prefix('/') == Some(file)) else { continue };
        let over = found.entry(file).or_default();
        let kind = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').next());
        over.hidden = kind != Some("fuse.lxcfs");
        if !over.hidden {
            over.layers += 1;
            let numbers = device.split_once(':').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
            over.device = numbers.map_or(0, |(major, minor)| rustix::fs::makedev(major, minor));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_over_files_is_read_from_the_table() {
        let table = "\
600 500 0:76 /proc/meminfo /proc/meminfo rw,nosuid - fuse.lxcfs lxcfs rw
601 600 0:77 /proc/meminfo /proc/meminfo rw,nosuid master:1 - fuse.lxcfs lxcfs rw
602 500 0:76 /proc/stat /proc/stat rw - fuse.lxcfs lxcfs rw
603 602 0:5 /x /proc/stat rw - tmpfs none rw
604 500 0:5 / /proc rw - proc proc rw
";
        let found = over(table);
        assert_eq!(found.len(), 2);
        let device = rustix::fs::makedev(0, 77);
        assert_eq!(found["proc/meminfo"], Over { layers: 2, device, hidden: false });
        assert!(found["proc/stat"].hidden);
    }

    #[test]
    fn a_directory_without_it_has_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(at(dir.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
