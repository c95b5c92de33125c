//! Who keeps a file system in use: processes with something of it open, and mount namespaces that have it mounted.

use std::fmt;
use std::path::{Path, PathBuf};

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The process; of a mount namespace one that lives in it.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// What it has open; `None`: its mount namespace has the file system mounted.
    pub open: Option<PathBuf>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.open {
            Some(path) => write!(f, "process {} ({}) has {} open", self.pid, self.name, path.display()),
            None => write!(f, "it is mounted in the mount namespace of process {} ({})", self.pid, self.name),
        }
    }
}

/// So many are named.
const MOST: usize = 4;

/// The number of the file system that is mounted at `point`, as mount tables have it.
pub fn number_at(point: &Path) -> Option<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let point = point.to_str()?;
    // proc_pid_mountinfo(5): the third field is the number, the fifth the mount point; the last one counts.
    let of = |line: &str| {
        let mut fields = line.split(' ');
        let number = fields.nth(2)?;
        (fields.nth(1)? == point).then(|| number.to_owned())
    };
    table.lines().rev().find_map(of)
}

/// Those of what is mounted below `place`, and of the file system of this `number` wherever it is mounted; the daemon
/// itself is none.
pub fn of(place: &Path, number: Option<&str>) -> Vec<Holder> {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let own = namespace("self");
    let mut seen = std::collections::BTreeSet::new();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid == std::process::id() || found.len() >= MOST {
            continue;
        }
        let process = entry.path();
        let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_owned();
        if let Some(open) = open_below(&process, place) {
            found.push(Holder { pid, name, open: Some(open) });
            continue;
        }
        let theirs = namespace(&pid.to_string());
        let (Some(number), Some(theirs)) = (number, theirs.filter(|theirs| Some(theirs) != own.as_ref())) else {
            continue;
        };
        if seen.insert(theirs) && has_mounted(&process, number) {
            found.push(Holder { pid, name, open: None });
        }
    }
    found
}

fn open_below(process: &Path, place: &Path) -> Option<PathBuf> {
    let is_below = |link: PathBuf| std::fs::read_link(link).ok().filter(|target| target.starts_with(place));
    if let Some(found) = ["cwd", "root", "exe"].iter().find_map(|name| is_below(process.join(name))) {
        return Some(found);
    }
    std::fs::read_dir(process.join("fd")).ok()?.flatten().find_map(|entry| is_below(entry.path()))
}

fn has_mounted(process: &Path, number: &str) -> bool {
    let table = std::fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
    table.lines().any(|line| line.split(' ').nth(2) == Some(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_works_in_a_directory_is_named() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let file = dir.path().join("held");
        std::fs::write(&file, "").unwrap();
        let mut child =
            std::process::Command::new("sleep").arg("60").stdin(std::fs::File::open(&file).unwrap()).spawn().unwrap();
        let start = std::time::Instant::now();
        // Until it has become that program.
        while of(dir.path(), None).iter().all(|holder| holder.name != "sleep") {
            assert!(start.elapsed() < std::time::Duration::from_secs(10));
        }
        let found = of(dir.path(), None);
        assert_eq!((found.len(), found[0].pid, found[0].open.as_deref()), (1, child.id(), Some(file.as_path())));
        assert!(found[0].to_string().contains("(sleep) has /var/tmp/"));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(of(dir.path(), None).is_empty());
        assert!(number_at(Path::new("/proc")).is_some() && number_at(Path::new("/nosuch")).is_none());
    }
}
