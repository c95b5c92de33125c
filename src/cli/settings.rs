//! The client's configuration: `config.yml` and the certificates beside it, in the shape that `lxc` gives its own.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;

/// A server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Remote {
    /// `unix://`, `unix:///path` or an HTTPS URL.
    pub addr: String,
    /// `tls`, or nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub auth_type: String,
    /// Project of its requests, unless another is asked for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub project: String,
    /// `lxd` (also when empty) or `simplestreams`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// It only offers images.
    pub public: bool,
    /// Neither written down nor changed.
    #[serde(skip)]
    pub fixed: bool,
}

impl Remote {
    /// Whether it is an image server that speaks simplestreams.
    pub(super) fn is_simplestreams(&self) -> bool {
        self.protocol == "simplestreams"
    }

    /// Whether it is reached by a socket of this host.
    pub(super) fn is_unix(&self) -> bool {
        self.addr.starts_with("unix:")
    }
}

/// All of it, and where it lies.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Settings {
    /// The remote of names without one.
    #[serde(rename = "default-remote")]
    pub default_remote: String,
    /// By name.
    pub remotes: BTreeMap<String, Remote>,
    /// Words that stand for others.
    pub aliases: BTreeMap<String, String>,
    #[serde(skip)]
    directory: PathBuf,
}

fn failed(doing: &str, path: &Path, error: std::io::Error) -> Error {
    Error::Local { doing: format!("{doing} {}", path.display()), error }
}

/// Writes a file whole or not at all.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let wrong = |error| failed("write", path, error);
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(directory).map_err(wrong)?;
    let temporary = directory.join(format!(".new-{}", std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .map_err(wrong)?;
    let written = std::io::Write::write_all(&mut file, bytes).and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|error| {
        // What is left of it helps nobody.
        let _ = std::fs::remove_file(&temporary);
        wrong(error)
    })
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// `~/.config/<program>`.
fn home(program: &str) -> PathBuf {
    variable("HOME").unwrap_or_else(|| PathBuf::from("/root")).join(".config").join(program)
}

/// Where `lxc` keeps its configuration.
pub(super) fn of_lxc() -> PathBuf {
    variable("LXD_CONF").unwrap_or_else(|| home("lxc"))
}

fn ready_made() -> BTreeMap<String, Remote> {
    let images = |addr: &str, fixed| Remote {
        addr: addr.to_owned(),
        protocol: "simplestreams".to_owned(),
        public: true,
        fixed,
        ..Remote::default()
    };
    let local = Remote { addr: "unix://".to_owned(), fixed: true, ..Remote::default() };
    [
        ("local", local),
        ("images", images("https://images.lxd.canonical.com", false)),
        ("ubuntu", images("https://cloud-images.ubuntu.com/releases", true)),
        ("ubuntu-daily", images("https://cloud-images.ubuntu.com/daily", true)),
    ]
    .map(|(name, remote)| (name.to_owned(), remote))
    .into()
}

impl Settings {
    /// The configuration in `WARREN_CONF`, `LXD_CONF` or `~/.config/warren`; the ready-made one where there is none.
    pub(super) fn load() -> Result<Self, Error> {
        let directory = variable("WARREN_CONF").or_else(|| variable("LXD_CONF")).unwrap_or_else(|| home("warren"));
        Self::read(directory)
    }

    fn read(directory: PathBuf) -> Result<Self, Error> {
        let path = directory.join("config.yml");
        let mut settings = match std::fs::read_to_string(&path) {
            Ok(text) => serde_norway::from_str::<Self>(&text).map_err(|e| {
                Error::Usage(format!("{} is not understood\n{e}\nMend it, or move it away", path.display()))
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Self { remotes: ready_made(), ..Self::default() }
            }
            Err(error) => return Err(failed("read", &path, error)),
        };
        settings.directory = directory;
        for (name, made) in ready_made().into_iter().filter(|(_, remote)| remote.fixed) {
            let project = settings.remotes.remove(&name).map(|remote| remote.project).unwrap_or_default();
            settings.remotes.insert(name, Remote { project, ..made });
        }
        if settings.default_remote.is_empty() {
            settings.default_remote = "local".to_owned();
        }
        Ok(settings)
    }

    /// Writes it down. Of what is ready-made only a project is kept.
    pub(super) fn save(&self) -> Result<(), Error> {
        let mut kept = self.clone();
        kept.remotes.retain(|_, remote| !remote.fixed || !remote.project.is_empty());
        let text = serde_norway::to_string(&kept).map_err(|e| Error::Broken(e.to_string()))?;
        write(&self.directory.join("config.yml"), text.as_bytes(), 0o600)
    }

    /// A remote.
    pub(super) fn remote(&self, name: &str) -> Result<&Remote, Error> {
        self.remotes.get(name).ok_or_else(|| {
            Error::Usage(format!(
                "The remote {name:?} doesn't exist\nA word before a colon names a server\n\"warren remote list\" shows those that there are, \"warren remote add\" adds one"
            ))
        })
    }

    /// The remote and the rest of `[<remote>:]<rest>`.
    pub(super) fn split<'a>(&'a self, text: &'a str) -> (&'a str, &'a str) {
        text.split_once(':').unwrap_or((&self.default_remote, text))
    }

    /// The certificate that a remote is known by.
    pub(super) fn server_certificate(&self, remote: &str) -> PathBuf {
        self.directory.join("servercerts").join(format!("{remote}.crt"))
    }

    /// A file beside the configuration.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Takes over what `lxc` has: remotes, certificates, aliases. What is here already stays. Returns the names of the
    /// remotes that came.
    pub(super) fn take_over(&mut self, from: &Path) -> Result<Vec<String>, Error> {
        if from == self.directory {
            return Err(Error::Usage(format!("{} is in use here already", from.display())));
        }
        if !from.join("config.yml").exists() {
            return Err(failed("read", &from.join("config.yml"), std::io::ErrorKind::NotFound.into()));
        }
        let theirs = Self::read(from.to_owned())?;
        let mut came = Vec::new();
        for (name, remote) in theirs.remotes.iter().filter(|(_, remote)| !remote.fixed) {
            if self.remotes.contains_key(name) {
                continue;
            }
            if let Ok(certificate) = std::fs::read(theirs.server_certificate(name)) {
                write(&self.server_certificate(name), &certificate, 0o644)?;
            }
            self.remotes.insert(name.clone(), remote.clone());
            came.push(name.clone());
        }
        for (name, target) in &theirs.aliases {
            self.aliases.entry(name.clone()).or_insert_with(|| target.clone());
        }
        // The certificate by which servers know this user: only together with its key.
        let ours = self.file("client.crt").exists() || self.file("client.key").exists();
        let pair = ["client.key", "client.crt"].map(|name| std::fs::read(theirs.file(name)));
        if let ([Ok(key), Ok(certificate)], false) = (pair, ours) {
            write(&self.file("client.key"), &key, 0o600)?;
            write(&self.file("client.crt"), &certificate, 0o644)?;
        }
        if self.remotes.contains_key(&theirs.default_remote) {
            self.default_remote = theirs.default_remote;
        }
        self.save()?;
        Ok(came)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lxc_wrote_is_read_and_taken_over() {
        let root = tempfile::tempdir().unwrap();
        let theirs = root.path().join("lxc");
        let text = "default-remote: far\nremotes:\n  far:\n    addr: https://[fd00::1]:8443\n    auth_type: tls\n    project: p\n    protocol: lxd\n    public: false\n  images:\n    addr: https://x\n    protocol: simplestreams\n    public: true\naliases:\n  ll: list -c n\n";
        std::fs::create_dir_all(theirs.join("servercerts")).unwrap();
        std::fs::write(theirs.join("config.yml"), text).unwrap();
        std::fs::write(theirs.join("servercerts/far.crt"), "pem").unwrap();
        std::fs::write(theirs.join("client.key"), "key").unwrap();
        std::fs::write(theirs.join("client.crt"), "crt").unwrap();
        let mut settings = Settings::read(root.path().join("warren")).unwrap();
        assert_eq!(settings.default_remote, "local");
        assert_eq!(settings.remotes.keys().collect::<Vec<_>>(), ["images", "local", "ubuntu", "ubuntu-daily"]);
        assert_eq!(settings.take_over(&theirs).unwrap(), ["far"]);
        let again = Settings::read(root.path().join("warren")).unwrap();
        assert_eq!((again.default_remote.as_str(), again.remotes["far"].project.as_str()), ("far", "p"));
        assert_eq!(again.remotes["images"].addr, "https://images.lxd.canonical.com");
        assert_eq!(again.split("x:y"), ("x", "y"));
        assert_eq!(again.split("y"), ("far", "y"));
        let mode = std::fs::metadata(again.file("client.key")).unwrap();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(again.server_certificate("far")).unwrap(), "pem");
    }
}
