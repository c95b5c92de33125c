//! The identifiers of the API as types. A value of one of these has been checked; inner code takes no raw strings.
//!
//! Rules: instance names are host names (RFC 1123 label that starts with a letter), other names are free of `/` and
//! of anything that could be mistaken for a path (`../shared` rules of LXD's API 1.0).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a name. Its `Display` names the kind of name, the text and the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameError {
    /// What the text should have named, e.g. "instance name".
    pub kind: &'static str,
    /// The refused text, shortened for display.
    pub text: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Invalid {} {:?}: {}", self.kind, self.text, self.rule)
    }
}

impl std::error::Error for NameError {}

/// What cannot stand for itself in a URL's path, beside what is no ASCII.
pub const IN_URL: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// What an error repeats of a text that came from outside: its beginning.
pub fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Addresses without the user and the password in them: what is shown to anybody, written down or logged.
pub fn without_user(text: &str) -> String {
    let word = |word: &str| {
        let (scheme, rest) = match word.find("://") {
            Some(at) => word.split_at(at + "://".len()),
            None => ("", word),
        };
        // A password that nobody escaped may have any character.
        match rest.rsplit_once('@') {
            Some((_, host)) => format!("{scheme}***@{host}"),
            None => word.to_owned(),
        }
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// The longest name of a file, bytes (`NAME_MAX`, <linux/limits.h>).
const MAX_FILE_NAME: usize = 255;

/// What of a text may name a file in a directory: what stands behind its last slash, without control characters, cut at 255
/// bytes. Empty when nothing is left.
pub fn file_name(text: &str) -> String {
    let last = text.rsplit(['/', '\\']).next().unwrap_or_default();
    let mut name = String::new();
    for character in last.trim().chars().filter(|character| !character.is_control()) {
        if name.len() + character.len_utf8() > MAX_FILE_NAME {
            break;
        }
        name.push(character);
    }
    if matches!(name.as_str(), "." | "..") { String::new() } else { name }
}

/// So many characters of a path an error repeats.
const SHOWN_PATH: usize = 200;

/// What an error repeats of a path: all of it, or its beginning and its end.
pub fn shown_path(path: impl AsRef<std::path::Path>) -> String {
    both_ends(&path.as_ref().to_string_lossy())
}

/// What an error repeats of what somebody else wrote: all of it, or its beginning and its end.
pub fn both_ends(text: &str) -> String {
    let count = text.chars().count();
    if count <= SHOWN_PATH {
        return text.to_owned();
    }
    let half = (SHOWN_PATH - 1) / 2;
    let begin = text.chars().take(half);
    begin.chain(['…']).chain(text.chars().skip(count - half)).collect()
}

/// Whether an interface can have this name: 1 to 15 letters, digits, `-`, `_`, `.` (`IFNAMSIZ`, less the NUL).
pub fn is_interface(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && !matches!(text, "." | "..")
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Whether this is a MAC address that an interface can have: not that of a group, nor zero.
pub fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let hex = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    let group = || u8::from_str_radix(parts[0], 16).is_ok_and(|first| first & 1 != 0);
    parts.len() == 6 && parts.iter().all(hex) && !group() && parts.iter().any(|part| *part != "00")
}

fn refuse(kind: &'static str, text: &str, rule: &'static str) -> NameError {
    NameError { kind, text: shortened(text), rule }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text` and makes it a name.
            ///
            /// # Errors
            /// [`NameError`] with the rule that `text` breaks.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                match $check(&text) {
                    Ok(()) => Ok(Self(text)),
                    Err(rule) => Err(refuse($kind, &text, rule)),
                }
            }

            /// As a part of a URL's path (RFC 3986); the slashes of an alias stay.
            pub fn in_url(&self) -> percent_encoding::PercentEncode<'_> {
                percent_encoding::utf8_percent_encode(&self.0, IN_URL)
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

fn host_name(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || text.len() > 63 {
        return Err("a name has 1 to 63 characters");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err("only letters, digits and hyphens are allowed");
    }
    if text.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
        return Err("a name starts with a letter");
    }
    if text.ends_with('-') {
        return Err("a name does not end with a hyphen");
    }
    Ok(())
}

fn path_segment(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || text.len() > 64 {
        return Err("a name has 1 to 64 characters");
    }
    if text == "." || text == ".." || text.starts_with('-') {
        return Err("a name is not \".\" or \"..\" and does not start with a hyphen");
    }
    if text.contains(|c: char| c == '/' || c == '\\' || c.is_whitespace() || c.is_control()) {
        return Err("slashes, white space and control characters are not allowed");
    }
    if text.contains(['"', '\'', '*', '?', '&', '#', ':', '$']) {
        return Err("quotes and the characters * ? & # : $ are not allowed");
    }
    Ok(())
}

/// It becomes a part of the names of files, control groups and interfaces, before an underscore.
fn project(text: &str) -> Result<(), &'static str> {
    match text {
        "" => return Err("No name provided"),
        "*" => return Err("Reserved project name"),
        _ if text.contains('/') => return Err("Project names may not contain slashes"),
        _ if text.contains(' ') => return Err("Project names may not contain spaces"),
        _ if text.contains('_') => return Err("Project names may not contain underscores"),
        _ if text.contains(['\'', '"']) => return Err("Project names may not contain quotes"),
        _ => {}
    }
    path_segment(text)?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'+' | b'@');
    if text.bytes().all(plain) { Ok(()) } else { Err("only letters, digits and the characters - . + @ are allowed") }
}

fn interface(text: &str) -> Result<(), &'static str> {
    if text.len() < 2 || text.len() > 15 {
        return Err("a network's name has 2 to 15 characters");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return Err("only letters, digits, hyphens, dots and underscores are allowed");
    }
    if text.starts_with('-') || text.starts_with('.') {
        return Err("a network's name starts with a letter or digit");
    }
    Ok(())
}

fn acl(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || text.len() > 63 {
        return Err("the name of an ACL has 1 to 63 characters");
    }
    if text.starts_with('@') {
        return Err("the name of an ACL cannot start with the reserved character '@'");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err("the name of an ACL can only contain alphanumeric and hyphen characters");
    }
    if text.starts_with(|c: char| c.is_ascii_digit() || c == '-') || text.ends_with('-') {
        return Err("the name of an ACL starts with a letter and does not end with a hyphen");
    }
    Ok(())
}

fn alias(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || text.len() > 255 {
        return Err("an alias has 1 to 255 characters");
    }
    if text.contains(char::is_control) {
        return Err("control characters are not allowed");
    }
    Ok(())
}

fn snapshot(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || text.len() > 255 {
        return Err("a name has 1 to 255 characters");
    }
    if text == "." || text == ".." {
        return Err("a name is not \".\" or \"..\"");
    }
    if text.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control()) {
        return Err("slashes, white space and control characters are not allowed");
    }
    Ok(())
}

fn volume(text: &str) -> Result<(), &'static str> {
    // With the project's name before it, it is the name of a directory (`NAME_MAX`).
    if text.is_empty() || text.len() > 180 {
        return Err("a name has 1 to 180 bytes");
    }
    if text == "." || text == ".." {
        return Err("a name is not \".\" or \"..\"");
    }
    if text.contains('/') {
        return Err("Storage volume names may not contain slashes");
    }
    if text.contains(char::is_control) {
        return Err("control characters are not allowed");
    }
    Ok(())
}

fn fingerprint(text: &str) -> Result<(), &'static str> {
    if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err("the whole fingerprint is needed here, a SHA-256 in 64 hexadecimal digits");
    }
    Ok(())
}

name_type!(
    /// An instance: a host name of 1–63 characters.
    InstanceName, "instance name", host_name
);
name_type!(
    /// A project; `default` always exists.
    ProjectName, "project name", project
);
name_type!(
    /// A profile.
    ProfileName, "profile name", path_segment
);
name_type!(
    /// A storage pool.
    PoolName, "storage pool name", path_segment
);
name_type!(
    /// A snapshot of an instance or a volume; unique there.
    SnapshotName, "snapshot name", snapshot
);
name_type!(
    /// A custom storage volume; unique in its pool and project.
    VolumeName, "storage volume name", volume
);
name_type!(
    /// A device of an instance or profile.
    DeviceName, "device name", path_segment
);
name_type!(
    /// A managed network: the name of its interface, at most 15 characters (`IFNAMSIZ`).
    NetworkName, "network name", interface
);
name_type!(
    /// An access control list of networks.
    AclName, "network ACL name", acl
);
name_type!(
    /// An image alias; may contain slashes.
    AliasName, "image alias", alias
);
name_type!(
    /// The SHA-256 of an image or a certificate.
    Fingerprint, "fingerprint", fingerprint
);

/// The name of the project that always exists.
pub const DEFAULT_PROJECT: &str = "default";

impl Default for ProjectName {
    fn default() -> Self {
        Self(DEFAULT_PROJECT.to_owned())
    }
}

impl ProjectName {
    /// Whether this is the project `default`, whose objects carry no prefix in file and interface names.
    pub fn is_default(&self) -> bool {
        self.0 == DEFAULT_PROJECT
    }

    /// The address of an object of this project: outside `default` the project stands in its query.
    pub fn url(&self, path: impl fmt::Display) -> String {
        if self.is_default() { path.to_string() } else { format!("{path}?project={}", self.in_url()) }
    }

    /// The name of an instance's files and of its container in liblxc: `name`, or `project_name` outside `default`.
    pub fn prefixed(&self, name: &str) -> String {
        if self.is_default() { name.to_owned() } else { format!("{}_{}", self.0, name) }
    }
}

/// Projects: those that a list is of, or that somebody may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Projects {
    /// All that there are.
    All,
    /// These.
    Only(BTreeSet<ProjectName>),
}

impl Projects {
    /// Whether `project` is among them.
    pub fn holds(&self, project: &ProjectName) -> bool {
        match self {
            Self::All => true,
            Self::Only(these) => these.contains(project),
        }
    }
}

impl From<ProjectName> for Projects {
    fn from(project: ProjectName) -> Self {
        Self::Only(BTreeSet::from([project]))
    }
}

/// An instance's full key. Projects are in every key from the first row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceKey {
    /// The project.
    pub project: ProjectName,
    /// The name, unique within the project.
    pub name: InstanceName,
}

impl InstanceKey {
    /// The name of the container in liblxc and of its directories.
    pub fn container(&self) -> String {
        self.project.prefixed(self.name.as_str())
    }

    /// Its address.
    pub fn url(&self) -> String {
        self.project.url(format_args!("/1.0/instances/{}", self.name))
    }

    /// Its name in DNS, `name` or, outside `default`, `name.project`; empty where the project's name has no place there.
    pub fn hostname(&self) -> String {
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let part = |text: &str| {
            (1..=62).contains(&text.len()) && !text.starts_with('-') && !text.ends_with('-') && plain(text)
        };
        let label = |text: &str| text.split('.').all(part);
        match self.project.as_str() {
            DEFAULT_PROJECT => self.name.to_string(),
            project if label(project) => format!("{}.{project}", self.name),
            _ => String::new(),
        }
    }
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.container())
    }
}

/// A snapshot's full key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotKey {
    /// The instance that it is of.
    pub instance: InstanceKey,
    /// Its name, unique within the instance.
    pub name: SnapshotName,
}

impl SnapshotKey {
    /// Not after any snapshot of `instance`: names have no characters before this one.
    pub fn first_of(instance: &InstanceKey) -> Self {
        Self { instance: instance.clone(), name: SnapshotName("!".to_owned()) }
    }
}

impl fmt::Display for SnapshotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.instance, self.name)
    }
}

/// A custom volume's full key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeKey {
    /// The pool.
    pub pool: PoolName,
    /// The project.
    pub project: ProjectName,
    /// The name, unique within both.
    pub name: VolumeName,
}

impl VolumeKey {
    /// The name of its directory, which always has the project's before it.
    pub fn directory(&self) -> String {
        format!("{}_{}", self.project, self.name)
    }
}

impl fmt::Display for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.directory())
    }
}

/// The full key of a custom volume's snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeSnapshotKey {
    /// The volume that it is of.
    pub volume: VolumeKey,
    /// Its name, unique within the volume.
    pub name: SnapshotName,
}

impl VolumeSnapshotKey {
    /// Not after any snapshot of `volume`: names have no characters before this one.
    pub fn first_of(volume: &VolumeKey) -> Self {
        Self { volume: volume.clone(), name: SnapshotName("!".to_owned()) }
    }
}

impl fmt::Display for VolumeSnapshotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.volume, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_who_asks() {
        for (text, shown) in [
            ("https://h/x", "https://h/x"),
            ("https://user:word@h:1/x https://h", "https://***@h:1/x https://h"),
            ("http://user:wo/r@d@h/", "http://***@h/"),
            ("word@h", "***@h"),
        ] {
            assert_eq!(without_user(text), shown);
        }
    }

    #[test]
    fn names_of_files_stay_in_their_directory() {
        for (text, name) in
            [("../../x\n", "x"), ("a\\b", "b"), ("..", ""), ("a/", ""), ("rootfs.tar.xz", "rootfs.tar.xz")]
        {
            assert_eq!(file_name(text), name);
        }
        assert_eq!(file_name(&"ä".repeat(200)).len(), 254);
    }

    #[test]
    fn instance_names_are_host_names() {
        for good in ["c1", "a", "Web-01", &"a".repeat(63)] {
            assert!(InstanceName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "1c", "-c", "c-", "a/b", "a_b", "a.b", "ä", &"a".repeat(64), "..", "a b"] {
            assert!(InstanceName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_refusal_names_the_kind_and_the_rule() {
        let text = InstanceName::new("a/b").unwrap_err().to_string();
        assert_eq!(text, "Invalid instance name \"a/b\": only letters, digits and hyphens are allowed");
    }

    #[test]
    fn only_the_default_project_has_no_prefix() {
        assert_eq!(ProjectName::default().prefixed("c1"), "c1");
        assert_eq!(ProjectName::new("p").unwrap().prefixed("c1"), "p_c1");
        for bad in ["", "a_b", "a b", "a/b", "a'b", "a\"b", "*", ".", "..", "-a", "a,b", "a\tb", "a%b"] {
            assert!(ProjectName::new(bad).is_err(), "{bad}");
        }
        let p = ProjectName::new("p").unwrap();
        assert_eq!(
            (p.url("/1.0/x"), ProjectName::default().url("/1.0/x")),
            ("/1.0/x?project=p".into(), "/1.0/x".into())
        );
    }
}
