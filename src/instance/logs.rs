//! The log files of an instance: what liblxc wrote about its last start, its console, and recorded output of commands.
//!
//! The console log is `console.log`, which liblxc renames to `console.log.1` whenever it has grown to 128 KiB
//! (`lxc.console.size`, `lxc.console.rotate` in lxc.container.conf(5)): a container cannot fill the disk by it. To a client
//! the two are one. It lasts until the next start; a recording lasts until it has not been written to for [`KEEP`].

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use uuid::Uuid;

use super::error::Error;

/// What the console shows.
pub(super) const CONSOLE: &str = "console.log";
/// What it showed before that.
pub(super) const OLD_CONSOLE: &str = "console.log.1";
/// Recordings that were not written to for so long are removed. LXD keeps its log files as long.
pub(super) const KEEP: Duration = Duration::from_secs(48 * 3600);
/// Files that belong to the running instance; they cannot be deleted.
const OWN: [&str; 3] = ["lxc.log", "lxc.conf", CONSOLE];
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

/// Opens a log for reading; that of the console may be two files.
///
/// # Errors
/// [`Error::NoLog`], or why it cannot be opened.
pub(super) fn open(logs: &Path, name: &LogName) -> Result<Vec<File>, Error> {
    if name.0 == CONSOLE {
        return open_console(logs);
    }
    let path = logs.join(&name.0);
    Ok(vec![File::open(&path).map_err(|e| failed("open", path, e))?])
}

/// Opens a file that need not be there.
fn open_if_there(path: PathBuf, options: &std::fs::OpenOptions) -> Result<Option<File>, Error> {
    match options.open(&path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("open", path, error)),
    }
}

/// Opens the console log: the older part first.
///
/// # Errors
/// [`Error::NoConsoleLog`], or why it cannot be opened.
pub(super) fn open_console(logs: &Path) -> Result<Vec<File>, Error> {
    let reading = File::options().read(true).to_owned();
    let identity = |file: &File| file.metadata().map(|m| m.ino()).ok();
    loop {
        let now = open_if_there(logs.join(CONSOLE), &reading)?;
        let old = open_if_there(logs.join(OLD_CONSOLE), &reading)?;
        match (&now, &old) {
            // Renamed in between: what was the newer part has become the older.
            (Some(now), Some(old)) if identity(now) == identity(old) => {}
            (None, None) => return Err(Error::NoConsoleLog),
            (Some(_), _) | (_, Some(_)) => return Ok(old.into_iter().chain(now).collect()),
        }
    }
}

/// Empties the console log. liblxc appends, so it may go on meanwhile.
///
/// # Errors
/// [`Error::NoConsoleLog`], or why it cannot be emptied.
pub(super) fn clear_console(logs: &Path) -> Result<(), Error> {
    let writing = File::options().write(true).to_owned();
    let (now, old) = (logs.join(CONSOLE), logs.join(OLD_CONSOLE));
    let file = open_if_there(now.clone(), &writing)?;
    let removed = match std::fs::remove_file(&old) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(failed("remove", old, error)),
    };
    match file {
        Some(file) => file.set_len(0).map_err(|e| failed("empty", now, e)),
        None if removed => Ok(()),
        None => Err(Error::NoConsoleLog),
    }
}

/// Removes the recordings below `all`, a directory of logs for each container, that `now` have not been written to for
/// [`KEEP`] and that nobody writes to any more. Returns their number.
///
/// # Errors
/// When `all` cannot be read; what goes wrong with one file is logged.
pub(super) fn expire(all: &Path, now: SystemTime) -> Result<usize, Error> {
    let entries = std::fs::read_dir(all).map_err(|e| failed("read", all.to_owned(), e))?;
    let mut count = 0;
    for logs in entries.flatten().map(|entry| entry.path()) {
        for name in list(&logs).unwrap_or_default().iter().filter(|name| name.is_deletable()) {
            let path = logs.join(&name.0);
            let removed = match is_expired(&path, now) {
                Ok(true) => std::fs::remove_file(&path).map(|()| 1),
                Ok(false) => Ok(0),
                Err(error) => Err(error),
            };
            match removed {
                Ok(number) => count += number,
                // Deleted meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(path = %path.display(), %error, "removing an old recording"),
            }
        }
    }
    Ok(count)
}

fn is_expired(path: &Path, now: SystemTime) -> io::Result<bool> {
    let file = File::open(path)?;
    let age = now.duration_since(file.metadata()?.modified()?).unwrap_or_default();
    if age < KEEP {
        return Ok(false);
    }
    // A command that has been silent for long holds its recording's lock, see `Recording::create`.
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
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
            let file = File::options().write(true).create_new(true).open(&path);
            // The lock belongs to the open file, which the command inherits: it lasts as long as anyone can write there.
            file.and_then(|file| {
                rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared)?;
                Ok(file)
            })
            .map_err(|e| failed("create", path, e))
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
        let (recording, recorded) = Recording::create(dir.path()).unwrap();
        let names = recording.keep();
        assert_eq!(list(dir.path()).unwrap().len(), 2);
        delete(dir.path(), &names[0]).unwrap();
        assert!(matches!(delete(dir.path(), &names[0]), Err(Error::NoLog)));
        drop(recorded);
        std::fs::write(dir.path().join("lxc.conf"), "").unwrap();
        assert!(matches!(delete(dir.path(), &LogName("lxc.conf".to_owned())), Err(Error::LogInUse { .. })));
    }

    fn text(files: Vec<File>) -> String {
        files.into_iter().map(|file| io::read_to_string(file).unwrap()).collect()
    }

    #[test]
    fn the_console_log_is_one_log_of_two_files() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(open_console(dir.path()), Err(Error::NoConsoleLog)));
        assert!(matches!(clear_console(dir.path()), Err(Error::NoConsoleLog)));
        let write = |name, text| std::fs::write(dir.path().join(name), text).unwrap();
        write(CONSOLE, "new");
        assert_eq!(text(open_console(dir.path()).unwrap()), "new");
        write(OLD_CONSOLE, "old");
        assert_eq!(text(open_console(dir.path()).unwrap()), "oldnew");
        assert_eq!(text(open(dir.path(), &LogName(CONSOLE.to_owned())).unwrap()), "oldnew");
        let names: Vec<String> = list(dir.path()).unwrap().into_iter().map(|name| name.0).collect();
        assert_eq!(names, [CONSOLE]);
        clear_console(dir.path()).unwrap();
        assert_eq!(text(open_console(dir.path()).unwrap()), "");
    }

    #[test]
    fn recordings_expire_unless_they_are_young_or_open() {
        let all = tempfile::tempdir().unwrap();
        let logs = all.path().join("c1");
        std::fs::create_dir(&logs).unwrap();
        let (ended, files) = Recording::create(&logs).unwrap();
        ended.keep();
        drop(files);
        let (running, _files) = Recording::create(&logs).unwrap();
        running.keep();
        std::fs::write(logs.join("lxc.log"), "").unwrap();
        let now = SystemTime::now();
        assert_eq!(expire(all.path(), now).unwrap(), 0);
        assert_eq!(expire(all.path(), now + KEEP - Duration::from_secs(3600)).unwrap(), 0);
        assert_eq!(
            expire(all.path(), now + KEEP + Duration::from_secs(3600)).unwrap(),
            2,
            "only those of the ended one"
        );
        assert_eq!(list(&logs).unwrap().len(), 3);
    }
}
