//! Simplestreams, as image servers write it: an index that names lists of products, each with versions, each with items.
//! Pure: text in, images out. Nothing in it is believed but the hashes, and those only as far as its server is.
//!
//! Source of the format: what the servers of Ubuntu and Linux Containers publish, and incus-simplestreams writes.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::api::wire::{Config, null_default};
use crate::db::Seconds;
use crate::image::architecture;
use crate::names::Fingerprint;

/// So many lists of products an index may name: each is fetched.
const LISTS: usize = 32;
/// So many JSON objects a list may have. That of all daily builds of Ubuntu has some forty thousand.
const OBJECTS: usize = 150_000;
/// The longest text that is taken over, bytes: what is said of a product is said of each of its images.
const TEXT: usize = 1024;

/// `index.json`.
#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    format: String,
    index: BTreeMap<String, List>,
}

#[derive(Deserialize)]
struct List {
    #[serde(default, deserialize_with = "null_default")]
    datatype: String,
    #[serde(default, deserialize_with = "null_default")]
    path: String,
}

#[derive(Deserialize)]
struct Products {
    products: BTreeMap<String, Product>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Product {
    #[serde(deserialize_with = "null_default")]
    aliases: String,
    #[serde(deserialize_with = "null_default")]
    arch: String,
    #[serde(deserialize_with = "null_default")]
    os: String,
    #[serde(deserialize_with = "null_default")]
    release: String,
    #[serde(deserialize_with = "null_default")]
    release_title: String,
    #[serde(deserialize_with = "null_default")]
    variant: String,
    #[serde(deserialize_with = "null_default")]
    version: String,
    #[serde(deserialize_with = "null_default")]
    support_eol: String,
    #[serde(deserialize_with = "null_default")]
    versions: BTreeMap<String, Version>,
}

impl Product {
    fn check(&self) -> Result<(), String> {
        let labels = self.versions.iter().flat_map(|(name, version)| [name, &version.label]);
        let own = [&self.aliases, &self.os, &self.release, &self.release_title, &self.variant, &self.version];
        let is_long = own.into_iter().chain(labels).any(|text| text.len() > TEXT);
        if is_long { Err(format!("it has a text of more than {TEXT} bytes")) } else { Ok(()) }
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Version {
    #[serde(deserialize_with = "null_default")]
    label: String,
    #[serde(deserialize_with = "null_default")]
    items: BTreeMap<String, Item>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Item {
    #[serde(deserialize_with = "null_default")]
    ftype: String,
    #[serde(deserialize_with = "null_default")]
    path: String,
    #[serde(deserialize_with = "null_default")]
    sha256: String,
    #[serde(deserialize_with = "null_default")]
    size: u64,
    #[serde(deserialize_with = "null_default")]
    combined_sha256: String,
    #[serde(deserialize_with = "null_default")]
    combined_rootxz_sha256: String,
    #[serde(deserialize_with = "null_default")]
    combined_squashfs_sha256: String,
}

/// A file on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Below the server's address.
    pub path: String,
    /// Bytes.
    pub size: u64,
}

/// The files of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Files {
    /// One.
    Unified(File),
    /// Metadata, and root.
    Split(File, File),
}

/// An image of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// Its names, without the architecture; those of the newest of its product only.
    pub aliases: Vec<String>,
    /// In LXD's words.
    pub architecture: &'static str,
    /// In the server's own words.
    arch: String,
    /// What is said about it.
    pub properties: Config,
    /// When it was made.
    pub created_at: Seconds,
    /// When its support ends; 0 is never.
    pub expires_at: Seconds,
    /// Its files.
    pub files: Files,
}

/// The lists of images that an index names, as paths below the server's address.
///
/// # Errors
/// With the reason why it is not usable.
pub fn lists(json: &[u8]) -> Result<Vec<String>, String> {
    let index: Index = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    if !matches!(index.format.as_str(), "" | "index:1.0") {
        return Err(format!("its format {:?} is not known", crate::names::shortened(&index.format)));
    }
    // Others are lists of names in clouds.
    let images = index.index.into_values().filter(|list| list.datatype == "image-downloads");
    let paths: Vec<String> = images.map(|list| list.path).collect();
    if paths.len() > LISTS {
        return Err(format!("it names more than {LISTS} lists of images"));
    }
    paths.into_iter().map(checked).collect()
}

/// A path below the server's address: it names a file there and nothing else.
fn checked(path: String) -> Result<String, String> {
    let refuse = |reason: &str| Err(format!("the path {:?} {reason}", crate::names::shortened(&path)));
    if path.is_empty() || path.len() > 1024 {
        return refuse("is empty, or longer than 1024 bytes");
    }
    if path.contains(['?', '#', '\\', '%']) || path.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return refuse("has characters that no path has");
    }
    if path.contains("://") || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return refuse("leads away from the server's files");
    }
    Ok(path)
}

/// The images in a list of products; of each product the newest first, of each version the preferred first. Those of other
/// architectures than `host`'s are left out, as is everything that is no container.
///
/// # Errors
/// With the reason why it is not usable.
pub fn images(json: &[u8], host: &[&str]) -> Result<Vec<Entry>, String> {
    // Of the shortest objects the longest list would fill the memory.
    if json.iter().filter(|byte| **byte == b'{').count() > OBJECTS {
        return Err(format!("it has more than {OBJECTS} objects"));
    }
    let list: Products = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let mut entries = Vec::new();
    for (name, product) in list.products {
        product.check().map_err(|reason| format!("its product {:?}: {reason}", crate::names::shortened(&name)))?;
        let Some(architecture) = architecture(&product.arch).filter(|word| host.contains(word)) else { continue };
        let mut aliases: Vec<String> =
            product.aliases.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        for (name, version) in product.versions.iter().rev() {
            let of_version = entries_of(&product, architecture, name, version, &aliases)?;
            if !of_version.is_empty() {
                aliases.clear();
            }
            entries.extend(of_version);
        }
    }
    Ok(entries)
}

fn entries_of(
    product: &Product,
    architecture: &'static str,
    name: &str,
    version: &Version,
    aliases: &[String],
) -> Result<Vec<Entry>, String> {
    let file = |item: &Item| Ok::<_, String>(File { path: checked(item.path.clone())?, size: item.size });
    let mut found = Vec::new();
    let mut add = |hash: &str, kind: &str, files: Files| {
        let hash = hash.to_ascii_lowercase();
        // Without a fingerprint nobody knows what it is.
        let Ok(fingerprint) = Fingerprint::new(hash) else { return };
        found.push(Entry {
            fingerprint,
            aliases: aliases.to_vec(),
            architecture,
            arch: product.arch.clone(),
            properties: properties(product, name, version, kind),
            created_at: date(name),
            expires_at: date(&product.support_eol.replace('-', "")),
            files,
        });
    };
    // One of each: more of a kind is nothing that anybody could tell apart.
    let of_type = |wanted: &'static [&'static str]| {
        wanted.iter().filter_map(|kind| version.items.values().find(|item| item.ftype == *kind))
    };
    for metadata in of_type(&["lxd.tar.xz", "incus.tar.xz"]) {
        for root in of_type(&["squashfs", "root.squashfs"]) {
            add(&metadata.combined_squashfs_sha256, "squashfs", Files::Split(file(metadata)?, file(root)?));
        }
        for root in of_type(&["root.tar.xz"]) {
            let hash = match metadata.combined_rootxz_sha256.as_str() {
                "" => &metadata.combined_sha256,
                hash => hash,
            };
            add(hash, "root.tar.xz", Files::Split(file(metadata)?, file(root)?));
        }
    }
    for whole in of_type(&["lxd_combined.tar.gz", "incus_combined.tar.gz"]) {
        add(&whole.sha256, "tar.gz", Files::Unified(file(whole)?));
    }
    Ok(found)
}

fn properties(product: &Product, name: &str, version: &Version, kind: &str) -> Config {
    let title = if product.release_title.is_empty() { &product.release } else { &product.release_title };
    let label = if version.label.is_empty() { String::new() } else { format!(" ({})", version.label) };
    let description = format!("{} {title} {}{label} ({name})", product.os, product.arch);
    [
        ("architecture", product.arch.as_str()),
        ("description", &description),
        ("label", &version.label),
        ("os", &product.os),
        ("release", &product.release),
        ("serial", name),
        ("type", kind),
        ("variant", &product.variant),
        ("version", &product.version),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// The day that a version's name begins with, as `20240131` or `20240131_05:24`; 0 when it begins with none.
fn date(name: &str) -> Seconds {
    let parse = || {
        let digits = name.get(..8).filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
        let (year, month, day) =
            (digits[..4].parse().ok()?, digits[4..6].parse::<u8>().ok()?, digits[6..].parse().ok()?);
        let date = time::Date::from_calendar_date(year, month.try_into().ok()?, day).ok()?;
        Some(date.midnight().assume_utc().unix_timestamp())
    };
    parse().unwrap_or(0)
}

/// The image of a name: `ubuntu/24.04`, `debian/12/cloud`, with the architecture behind it (`debian/12/arm64`) or without.
/// Of several architectures the first of `preferred` goes.
pub fn by_alias<'a>(entries: &'a [Entry], name: &str, preferred: &[&str]) -> Option<&'a Entry> {
    let plain = preferred.iter().find_map(|architecture| {
        entries
            .iter()
            .find(|entry| entry.architecture == *architecture && entry.aliases.iter().any(|alias| alias == name))
    });
    plain.or_else(|| {
        let (name, word) = name.rsplit_once('/')?;
        let is_it = |entry: &&Entry| {
            (entry.arch == word || entry.architecture == word) && entry.aliases.iter().any(|alias| alias == name)
        };
        entries.iter().find(is_it)
    })
}

/// The images whose fingerprint begins so.
pub fn by_fingerprint<'a>(entries: &'a [Entry], wanted: &str) -> Vec<&'a Entry> {
    let wanted = wanted.to_ascii_lowercase();
    let mut found: Vec<&Entry> = entries.iter().filter(|e| e.fingerprint.as_str().starts_with(&wanted)).collect();
    found.dedup_by(|a, b| a.fingerprint == b.fingerprint);
    found
}

/// For [`crate::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    for path in lists(bytes).unwrap_or_default() {
        assert!(!path.contains("..") || !path.split('/').any(|part| part == ".."));
    }
    let entries = images(bytes, &["x86_64", "i686"]).unwrap_or_default();
    by_alias(&entries, "debian/12/amd64", &["x86_64", "i686"]);
    by_fingerprint(&entries, "0");
}

#[cfg(test)]
mod tests;
