//! Files of a running container's control groups, written all or none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A file that was written, and what stood in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    path: PathBuf,
    old: String,
}

/// Writes them. The kernel takes some only after others (`memory.limit_in_bytes` and `memory.memsw.limit_in_bytes`, in an
/// order that depends on which way both go), so what is refused is tried again once others have been written.
///
/// # Errors
/// The file that is refused for good, by its place in `writes`, and why; then every file is as it was before.
pub fn write_all(writes: &[(PathBuf, String)]) -> Result<Vec<Written>, (usize, io::Error)> {
    let mut done: Vec<Written> = Vec::new();
    let mut left: Vec<usize> = (0..writes.len()).collect();
    loop {
        let before = left.len();
        let mut refused = None;
        left.retain(|index| {
            let Some((path, value)) = writes.get(*index) else { return false };
            match exchange(path, value) {
                Ok(old) => done.push(Written { path: path.clone(), old }),
                Err(error) => {
                    refused.get_or_insert((*index, error));
                    return true;
                }
            }
            false
        });
        match refused {
            None => return Ok(done),
            Some(_) if left.len() < before => {}
            Some(failure) => {
                undo(&done);
                return Err(failure);
            }
        }
    }
}

/// Puts back what stood in these files; one whose group is gone needs nothing.
pub fn undo(written: &[Written]) {
    let mut left: Vec<&Written> = written.iter().rev().collect();
    while !left.is_empty() {
        let before = left.len();
        left.retain(|file| fs::write(&file.path, &file.old).is_err() && file.path.exists());
        if left.len() == before {
            let paths: Vec<_> = left.iter().map(|file| file.path.display().to_string()).collect();
            tracing::error!(?paths, "these limits could not be put back");
            return;
        }
    }
}

/// Writes a file and gives what stood in it.
fn exchange(path: &Path, value: &str) -> io::Result<String> {
    let old = fs::read_to_string(path)?;
    // Those with a line per device have their default first.
    let old = old.lines().next().unwrap_or_default().to_owned();
    if path.ends_with("memory.max") {
        make_room(path, value)?;
    }
    // An empty text would not be written at all.
    let text = if value.is_empty() { "\n" } else { value };
    fs::write(path, text)?;
    Ok(if old.is_empty() { "\n".to_owned() } else { old })
}

/// Version 2 ends processes when `memory.max` falls below what they use, where version 1 refuses. So what can be given up
/// is asked for first (`memory.high`, cgroup-v2.rst), and what remains must fit.
fn make_room(max: &Path, value: &str) -> io::Result<()> {
    let Ok(limit) = value.trim().parse::<u64>() else { return Ok(()) };
    let (high, current) = (max.with_file_name("memory.high"), max.with_file_name("memory.current"));
    let used =
        || fs::read_to_string(&current)?.trim().parse::<u64>().map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
    if used()? <= limit {
        return Ok(());
    }
    let old = fs::read_to_string(&high)?;
    fs::write(&high, value)?;
    let after = used();
    fs::write(&high, old.trim())?;
    if after? <= limit { Ok(()) } else { Err(rustix::io::Errno::BUSY.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_written_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let (a, b) = (file("a", "1\n"), file("b", "default 5\n8:0 7\n"));
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let written = write_all(&[(a.clone(), "2".to_owned()), (b.clone(), "default 6".to_owned())]).unwrap();
        assert_eq!((read(&a).as_str(), read(&b).as_str()), ("2", "default 6"));
        undo(&written);
        assert_eq!((read(&a).as_str(), read(&b).as_str()), ("1", "default 5"));
        let missing = dir.path().join("none");
        let (index, error) = write_all(&[(a.clone(), "3".to_owned()), (missing, "x".to_owned())]).unwrap_err();
        assert_eq!((index, error.kind(), read(&a).as_str()), (1, io::ErrorKind::NotFound, "1"));
    }

    #[test]
    fn a_lower_limit_must_leave_room_for_what_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        at("memory.max", "max\n");
        at("memory.high", "max\n");
        at("memory.current", "1000\n");
        let set = |value: &str| write_all(&[(dir.path().join("memory.max"), value.to_owned())]);
        assert_eq!(set("999").unwrap_err().1.raw_os_error(), Some(libc::EBUSY));
        assert_eq!(fs::read_to_string(dir.path().join("memory.high")).unwrap(), "max");
        assert!(set("1000").is_ok() && set("max").is_ok());
    }
}
