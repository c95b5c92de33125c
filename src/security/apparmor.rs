//! AppArmor profiles of containers: a profile for each, put together from parts.
//!
//! ```text
//!   head                         what stands before the profile
//!   profile "lxd-<container>_</state/directory>" {
//!     base                       every container
//!     own | nesting              whether containers may run inside
//!     namespace                  nesting, where the kernel stacks labels
//!     unprivileged | privileged  whether it has a user namespace
//!     privileged-own             privileged, without nesting
//!     <raw.apparmor>
//!   }
//! ```
//! The parts are data of a version of their own: those built in, or those of a directory that a distribution or an
//! administrator has put in their place ([`PLACE`]).

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::Confinement;

/// Where parts may lie that are used instead of those built in.
pub const PLACE: &str = "/usr/share/warren/apparmor";

/// What this code knows: which parts there are, when each is used, and what is put in where they say `%PROFILE%` and
/// `%NAMESPACE%`.
const FORMAT: &str = "1";

/// Before the text of `raw.apparmor`, on a line of its own. What follows ends with the profile.
const MARK: &str = "  # raw.apparmor";

macro_rules! parts {
    ($($field:ident $name:literal),* $(,)?) => {
        /// What profiles are made of.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Parts {
            /// The data's own version, for people.
            edition: String,
            $($field: String,)*
        }

        impl Parts {
            /// Those that this program carries.
            pub fn built_in() -> Self {
                Self {
                    // As it is built in, it is of this format: a test holds it.
                    edition: edition(include_str!("apparmor/version")).unwrap_or_default(),
                    $($field: include_str!(concat!("apparmor/", $name)).to_owned(),)*
                }
            }

            fn read(dir: &Path, edition: String) -> Result<Self, BadParts> {
                Ok(Self { edition, $($field: read(dir, $name)?,)* })
            }
        }

        /// The names of the files.
        #[cfg(test)]
        const FILES: &[&str] = &[$($name,)*];
    };
}

parts!(
    head "head",
    base "base",
    own "own",
    nesting "nesting",
    namespace "namespace",
    unprivileged "unprivileged",
    privileged "privileged",
    privileged_own "privileged-own",
);

/// Why a directory of parts is not used.
#[derive(Debug)]
pub enum BadParts {
    /// A file cannot be read.
    File(PathBuf, std::io::Error),
    /// Its `version` names another format.
    Format(PathBuf),
}

impl fmt::Display for BadParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Format(path) => {
                write!(f, "{}: it must say \"format {FORMAT}\" and \"edition …\", a line each", path.display())
            }
        }
    }
}

impl std::error::Error for BadParts {}

fn read(dir: &Path, name: &str) -> Result<String, BadParts> {
    let path = dir.join(name);
    fs::read_to_string(&path).map_err(|error| BadParts::File(path, error))
}

/// The edition that a `version` of this format names.
fn edition(version: &str) -> Option<String> {
    let mut words = version.lines().map(|line| line.split_once(' '));
    match (words.next()??, words.next()??) {
        (("format", FORMAT), ("edition", edition)) => Some(edition.trim().to_owned()),
        _ => None,
    }
}

impl Parts {
    /// Those of `dir`; none: there is no such directory.
    ///
    /// # Errors
    /// When it is there and is not of this format, or not whole.
    pub fn of(dir: &Path) -> Result<Option<Self>, BadParts> {
        if !dir.exists() {
            return Ok(None);
        }
        let version = read(dir, "version")?;
        let edition = edition(&version).ok_or_else(|| BadParts::Format(dir.join("version")))?;
        Self::read(dir, edition).map(Some)
    }

    /// The data's own version.
    pub fn edition(&self) -> &str {
        &self.edition
    }

    /// A container's profile, without its `raw.apparmor`.
    pub fn profile(&self, names: &Names, confinement: Confinement, namespace: bool) -> Profile {
        let nesting = if confinement.nesting { &self.nesting } else { &self.own };
        let mut parts = vec![&self.base, nesting];
        if confinement.nesting && namespace {
            parts.push(&self.namespace);
        }
        parts.push(if confinement.privileged { &self.privileged } else { &self.unprivileged });
        if confinement.privileged && !confinement.nesting {
            parts.push(&self.privileged_own);
        }
        // The mark stands once, whatever the parts say.
        let head: String = self.head.lines().filter(|line| *line != MARK).map(|line| format!("{line}\n")).collect();
        let mut text = format!(
            "# Written anew by warrend at every start of the container; edition {} of its parts.\n{}\n\
             profile \"{}\" flags=(attach_disconnected,mediate_deleted) {{\n",
            self.edition, head, names.profile
        );
        for line in parts.iter().flat_map(|part| part.lines()).filter(|line| *line != MARK) {
            text.push_str(&line.replace("%PROFILE%", &names.profile).replace("%NAMESPACE%", &names.namespace));
            text.push('\n');
        }
        text.push_str(MARK);
        text.push('\n');
        Profile { before: text }
    }
}

/// A profile, whose end is still to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// As far as the mark, with its line break.
    before: String,
}

impl Profile {
    /// The profile whose whole text this is; none when it is not one that was written here.
    pub fn of(text: &str) -> Option<Self> {
        let mark = format!("\n{MARK}\n");
        let end = text.find(&mark)? + mark.len();
        Some(Self { before: text.get(..end)?.to_owned() })
    }

    /// The whole text, with these lines at the profile's end.
    pub fn with(&self, raw: &str) -> String {
        let end = if raw.is_empty() || raw.ends_with('\n') { "" } else { "\n" };
        format!("{}{raw}{end}}}\n", self.before)
    }

    /// How many lines stand before those of `raw.apparmor`.
    pub fn lines_before(&self) -> usize {
        self.before.lines().count()
    }
}

/// What a container's profile and namespace are called in the kernel, as with LXD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// `lxd-<container>_</state/directory>`.
    pub profile: String,
    /// `lxd-<container>_<state-directory>`.
    pub namespace: String,
}

/// A text as a part of names, in which nothing may mean something in a profile or path.
fn plain(text: &[u8], also: &str) -> String {
    match std::str::from_utf8(text) {
        Ok(text) if text.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c)) => text.to_owned(),
        Ok(_) | Err(_) => {
            let digest = ring::digest::digest(&ring::digest::SHA256, text);
            hex::encode(&digest.as_ref()[..8])
        }
    }
}

/// What the state directory adds to the names of a profile and of a namespace.
fn ends(root: &Path) -> (String, String) {
    use std::os::unix::ffi::OsStrExt;
    let root = plain(root.as_os_str().as_bytes(), "/._-");
    (format!("_<{root}>"), format!("_<{}>", root.trim_start_matches('/').replace('/', "-")))
}

impl Names {
    /// Those of a container of the daemon whose state directory is `root`.
    pub fn of(container: &str, root: &Path) -> Self {
        let container = plain(container.as_bytes(), "._-");
        let (profile, namespace) = ends(root);
        Self { profile: format!("lxd-{container}{profile}"), namespace: format!("lxd-{container}{namespace}") }
    }

    /// Whether a profile is called as one that was made for a container of that daemon.
    pub fn is_profile(name: &str, root: &Path) -> bool {
        name.starts_with("lxd-") && name.ends_with(&ends(root).0)
    }

    /// Whether a namespace is.
    pub fn is_namespace(name: &str, root: &Path) -> bool {
        name.starts_with("lxd-") && name.ends_with(&ends(root).1)
    }

    /// By which init is confined; with a namespace, by what is loaded there, too.
    pub fn label(&self, namespace: bool) -> Label {
        let text = if namespace { format!("{}//&:{}:", self.profile, self.namespace) } else { self.profile.clone() };
        Label { text, namespace }
    }
}

/// By what liblxc is to confine a container's init.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    text: String,
    namespace: bool,
}

impl Label {
    /// By nothing.
    pub fn unconfined() -> Self {
        Self { text: "unconfined".to_owned(), namespace: false }
    }

    /// By what confines the daemon.
    pub fn unchanged() -> Self {
        Self { text: "unchanged".to_owned(), namespace: false }
    }

    /// As `lxc.apparmor.profile` says it (lxc.container.conf(5)).
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the container has a namespace of profiles of its own.
    pub fn has_namespace(&self) -> bool {
        self.namespace
    }
}

#[cfg(test)]
#[path = "apparmor/tests.rs"]
mod tests;
