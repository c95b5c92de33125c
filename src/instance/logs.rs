//! The log files of an instance: what liblxc wrote about its last start, its console, and recorded output of commands.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::error::Error;

/// Files that belong to the running instance; they cannot be deleted.
const OWN: [&str; 3] = ["lxc.log", "lxc.conf", "console.log"];
/// What else may be asked for: recordings of commands, logs of checkpoints and of restores.
const PREFIXES: [&str; 3] = ["exec_", "migration_", "snapshot_"];

/// The name of a log file, known to be one: no other file of the host can be named by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogName(String);

impl LogName {
    /// `None` for anything that is not a log file's name.
    pub fn parse(name: &str) -> Option<Self> {
        let plain = name.len() <= 255 && !name.contains(['/', '\0']);
        let known = OWN.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        (plain && known).then(|| Self(name.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a client may delete it.
    pub fn is_deletable(&self) -> bool {
        !OWN.contains(&self.0.as_str())
    }
}

fn failed(doing: &'static str, path: PathBuf, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotFound { Error::NoLog } else { Error::Io { doing, path, error } }
}

/// The log files below `logs`, sorted. A directory that is not there holds none.
///
/// # Errors
/// When it cannot be read.
pub(super) fn list(logs: &Path) -> Result<Vec<LogName>, Error> {
    let entries = match std::fs::read_dir(logs) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| failed("read", logs.to_owned(), e))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| failed("read", logs.to_owned(), e))?;
        names.extend(entry.file_name().to_str().and_then(LogName::parse));
    }
    names.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(names)
}

/// Opens a log for reading.
///
/// # Errors
/// [`Error::NoLog`], or why it cannot be opened.
pub(super) fn open(logs: &Path, name: &LogName) -> Result<File, Error> {
    let path = logs.join(&name.0);
    File::open(&path).map_err(|e| failed("open", path, e))
}

/// Removes a log.
///
/// # Errors
/// [`Error::LogInUse`] for those of the instance itself, [`Error::NoLog`], or why it cannot be removed.
pub(super) fn delete(logs: &Path, name: &LogName) -> Result<(), Error> {
    if !name.is_deletable() {
        return Err(Error::LogInUse { name: name.0.clone() });
    }
    let path = logs.join(&name.0);
    std::fs::remove_file(&path).map_err(|e| failed("remove", path, e))
}

/// The files that a command's output goes to, and their names. Dropped before [`Recording::keep`], they are removed.
pub(super) struct Recording {
    logs: PathBuf,
    names: [LogName; 2],
    kept: bool,
}

impl Recording {
    /// Two new, empty files: for stdout and for stderr.
    ///
    /// # Errors
    /// When they cannot be made.
    pub(super) fn create(logs: &Path) -> Result<(Self, [File; 2]), Error> {
        let id = Uuid::new_v4();
        let names = [LogName(format!("exec_{id}.stdout")), LogName(format!("exec_{id}.stderr"))];
        let recording = Self { logs: logs.to_owned(), names, kept: false };
        let create = |name: &LogName| {
            let path = logs.join(&name.0);
            File::options().write(true).create_new(true).open(&path).map_err(|e| failed("create", path, e))
        };
        let files = [create(&recording.names[0])?, create(&recording.names[1])?];
        Ok((recording, files))
    }

    /// The command runs: the files stay, until they or the instance are deleted.
    pub(super) fn keep(mut self) -> [LogName; 2] {
        self.kept = true;
        self.names.clone()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if !self.kept {
            for name in &self.names {
                // It may not have been made at all.
                let _ = std::fs::remove_file(self.logs.join(&name.0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_logs_are_log_names() {
        for good in ["lxc.log", "lxc.conf", "console.log", "exec_0123.stdout", "migration_dump_2026.log"] {
            assert!(LogName::parse(good).is_some(), "{good}");
        }
        for bad in ["", ".", "..", "passwd", "exec_/../../x", "lxc.log/..", "exec_\0", "../lxc.log"] {
            assert!(LogName::parse(bad).is_none(), "{bad}");
        }
        assert!(LogName::parse(&format!("exec_{}", "a".repeat(300))).is_none());
    }

    #[test]
    fn a_recording_that_is_not_kept_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        drop(Recording::create(dir.path()).unwrap());
        assert_eq!(list(dir.path()).unwrap(), []);
        let (recording, _files) = Recording::create(dir.path()).unwrap();
        let names = recording.keep();
        assert_eq!(list(dir.path()).unwrap().len(), 2);
        delete(dir.path(), &names[0]).unwrap();
        assert!(matches!(delete(dir.path(), &names[0]), Err(Error::NoLog)));
        std::fs::write(dir.path().join("lxc.conf"), "").unwrap();
        assert!(matches!(delete(dir.path(), &LogName("lxc.conf".to_owned())), Err(Error::LogInUse { .. })));
    }
}
