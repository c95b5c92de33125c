//! Simplestreams, as image servers write it: an index that names lists of products, each with versions, each with items.
//! Pure: text in, images out. Nothing in it is believed but the hashes, and those only as far as its server is.
//!
//! Source of the format: what the servers of Ubuntu and Linux Containers publish, and incus-simplestreams writes.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

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
/// Of so many parts that are not usable it is kept why.
const SKIPPED: usize = 1000;

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
    products: BTreeMap<String, Lenient<Product>>,
}

/// A part of a list: one that is not what it should be spoils nothing but itself.
enum Lenient<T> {
    Good(T),
    Bad(Bad),
}

/// What can be told of a part that cannot be read.
struct Bad {
    reason: String,
    aliases: String,
    arch: String,
    /// Whatever in it may be a fingerprint.
    hashes: Vec<String>,
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Ok(match T::deserialize(&value) {
            Ok(good) => Self::Good(good),
            Err(error) => {
                let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
                let values = value.as_object().into_iter().flat_map(|object| object.values());
                let hashes =
                    values.filter_map(Value::as_str).filter(|text| Fingerprint::new((*text).to_owned()).is_ok());
                Self::Bad(Bad {
                    reason: crate::names::shortened(&error.to_string()),
                    aliases: text("aliases"),
                    arch: text("arch"),
                    hashes: hashes.map(str::to_owned).collect(),
                })
            }
        })
    }
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
    versions: BTreeMap<String, Lenient<Version>>,
}

impl Product {
    fn check(&self) -> Result<(), String> {
        short([&self.aliases, &self.os, &self.release, &self.release_title, &self.variant, &self.version])
    }
}

/// Refuses texts that nobody would write.
fn short<'a>(texts: impl IntoIterator<Item = &'a String>) -> Result<(), String> {
    let is_long = texts.into_iter().any(|text| text.len() > TEXT);
    if is_long { Err(format!("it has a text of more than {TEXT} bytes")) } else { Ok(()) }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Version {
    #[serde(deserialize_with = "null_default")]
    label: String,
    #[serde(deserialize_with = "null_default")]
    items: BTreeMap<String, Lenient<Item>>,
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
    /// Of itself, where it is only a part of what has the fingerprint.
    pub sha256: Option<[u8; 32]>,
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
    /// Of which product.
    pub product: String,
    /// Its files.
    pub files: Files,
}

/// Part of a list that is not usable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Names of the product, without the architecture.
    aliases: Arc<[String]>,
    arch: String,
    /// What may be its fingerprint.
    hashes: Vec<String>,
    /// Of which product it is, or which it is.
    pub product: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Skipped {
    /// Whether it may be what is meant by a name, or the beginning of a fingerprint.
    pub fn may_be(&self, wanted: &str) -> bool {
        let named = |name: &str| self.aliases.iter().any(|alias| alias == name);
        let with_arch = || {
            let (name, word) = wanted.rsplit_once('/')?;
            Some((word == self.arch || architecture(&self.arch) == Some(word)) && named(name))
        };
        let wanted_hash = wanted.to_ascii_lowercase();
        named(wanted) || with_arch() == Some(true) || self.hashes.iter().any(|hash| hash.starts_with(&wanted_hash))
    }
}

/// What a list has.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Its images.
    pub entries: Vec<Entry>,
    /// What of it is not usable, as far as that is kept.
    pub skipped: Vec<Skipped>,
}

impl Catalog {
    fn skip(&mut self, skipped: Skipped) {
        if self.skipped.len() < SKIPPED {
            self.skipped.push(skipped);
        }
    }
}

/// The lists of images that an index names, as paths below the server's address.
///
/// # Errors
/// With the reason why it is not usable.
pub fn lists(json: &[u8]) -> Result<Vec<String>, String> {
    let index: Index = serde_json::from_slice(json).map_err(|error| no_list(json, &error))?;
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

/// What something is that was sent for a list.
fn no_list(bytes: &[u8], error: &serde_json::Error) -> String {
    match bytes.trim_ascii_start() {
        [] => "it is empty".to_owned(),
        [b'<', ..] => "it is a page of HTML or XML, no list: check the address, and who answers there".to_owned(),
        [_, ..] => error.to_string(),
    }
}

/// A path below the server's address, without a slash before it: it names a file there and nothing else.
fn checked(path: String) -> Result<String, String> {
    let refuse = |reason: &str| Err(format!("the path {:?} {reason}", crate::names::shortened(&path)));
    if path.is_empty() || path.len() > 1024 {
        return refuse("is empty, or longer than 1024 bytes");
    }
    if path.contains('\\') || path.chars().any(char::is_control) {
        return refuse("has characters that no path has");
    }
    let below = path.strip_prefix('/').unwrap_or(&path);
    if below.contains("://") || below.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return refuse("leads away from the server's files");
    }
    Ok(below.to_owned())
}

fn names(aliases: &str) -> Vec<String> {
    aliases.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The images in a list of products; of each product the newest first, of each version the preferred first. Those of other
/// architectures than `host`'s are left out, as is everything that is no container. A part that is not usable is skipped.
///
/// # Errors
/// With the reason why none of it is usable.
pub fn images(json: &[u8], host: &[&str]) -> Result<Catalog, String> {
    // Of the shortest objects the longest list would fill the memory.
    if json.iter().filter(|byte| **byte == b'{').count() > OBJECTS {
        return Err(format!("it has more than {OBJECTS} objects"));
    }
    let list: Products = serde_json::from_slice(json).map_err(|error| no_list(json, &error))?;
    let mut catalog = Catalog::default();
    for (name, product) in list.products {
        let skipped = |aliases: &str, arch: String, reason: String| {
            let aliases = if aliases.len() > TEXT { Vec::new() } else { names(aliases) };
            let product = crate::names::shortened(&name);
            Skipped { aliases: aliases.into(), arch, hashes: Vec::new(), product, reason }
        };
        match product {
            Lenient::Bad(bad) => catalog.skip(skipped(&bad.aliases, bad.arch, bad.reason)),
            Lenient::Good(product) => {
                let Some(architecture) = architecture(&product.arch).filter(|word| host.contains(word)) else {
                    continue;
                };
                match product.check() {
                    Err(reason) => catalog.skip(skipped(&product.aliases, product.arch, reason)),
                    Ok(()) => Reader { product: &product, name: &name, architecture, catalog: &mut catalog }.read(),
                }
            }
        }
    }
    Ok(catalog)
}

/// Reads a product into a catalog.
struct Reader<'a> {
    product: &'a Product,
    name: &'a str,
    architecture: &'static str,
    catalog: &'a mut Catalog,
}

impl Reader<'_> {
    fn read(mut self) {
        let mut aliases: Arc<[String]> = names(&self.product.aliases).into();
        let all = Arc::clone(&aliases);
        // Those without a day are none of the newest.
        let mut versions: Vec<_> = self.product.versions.iter().collect();
        versions.sort_by_key(|(name, _)| std::cmp::Reverse((date(name), *name)));
        for (name, version) in versions {
            let before = self.catalog.entries.len();
            match version {
                Lenient::Bad(bad) => self.skip(&all, name, "", &bad.hashes, &bad.reason),
                Lenient::Good(version) => match short([name, &version.label]) {
                    Err(reason) => self.skip(&all, &crate::names::shortened(name), "", &[], &reason),
                    Ok(()) => self.version(name, version, &aliases, &all),
                },
            }
            if self.catalog.entries.len() > before {
                aliases = Vec::new().into();
            }
        }
    }

    fn skip(&mut self, aliases: &Arc<[String]>, version: &str, item: &str, hashes: &[String], reason: &str) {
        let of_item =
            if item.is_empty() { String::new() } else { format!(", item {:?}", crate::names::shortened(item)) };
        self.catalog.skip(Skipped {
            aliases: Arc::clone(aliases),
            arch: self.product.arch.clone(),
            hashes: hashes.iter().map(|hash| hash.to_ascii_lowercase()).collect(),
            product: crate::names::shortened(self.name),
            reason: format!("version {:?}{of_item}: {reason}", crate::names::shortened(version)),
        });
    }

    /// `all`: the product's names; `aliases`: those of them that this version has.
    fn version(&mut self, name: &str, version: &Version, aliases: &[String], all: &Arc<[String]>) {
        let mut items = Vec::new();
        for (key, item) in &version.items {
            match item {
                Lenient::Good(item) => items.push((key, item)),
                Lenient::Bad(bad) => self.skip(all, name, key, &bad.hashes, &bad.reason),
            }
        }
        // One of each: more of a kind is nothing that anybody could tell apart.
        let of_type = |wanted: &'static [&'static str]| {
            let items = &items;
            wanted.iter().filter_map(move |kind| items.iter().find(|(_, item)| item.ftype == *kind))
        };
        let mut found = Vec::new();
        for metadata in of_type(&["lxd.tar.xz", "incus.tar.xz"]) {
            for root in of_type(&["squashfs", "root.squashfs"]) {
                found.push((&metadata.1.combined_squashfs_sha256, "squashfs", metadata, Some(root)));
            }
            for root in of_type(&["root.tar.xz"]) {
                let hash = match metadata.1.combined_rootxz_sha256.as_str() {
                    "" => &metadata.1.combined_sha256,
                    _ => &metadata.1.combined_rootxz_sha256,
                };
                found.push((hash, "root.tar.xz", metadata, Some(root)));
            }
        }
        for whole in of_type(&["lxd_combined.tar.gz", "incus_combined.tar.gz"]) {
            found.push((&whole.1.sha256, "tar.gz", whole, None));
        }
        let (before, mut nameless) = (self.catalog.entries.len(), None);
        for (hash, kind, first, second) in found {
            // Without a fingerprint nobody knows what it is.
            if hash.is_empty() {
                nameless = nameless.or(Some(first.0));
                continue;
            }
            let read = files(first, second).and_then(|files| match Fingerprint::new(hash.to_ascii_lowercase()) {
                Ok(fingerprint) => Ok((fingerprint, files)),
                Err(_) => Err((first.0, "its combined hash is no SHA-256".to_owned())),
            });
            match read {
                Err((item, reason)) => self.skip(all, name, item, std::slice::from_ref(hash), &reason),
                Ok((fingerprint, files)) => self.catalog.entries.push(Entry {
                    fingerprint,
                    aliases: aliases.to_vec(),
                    architecture: self.architecture,
                    arch: self.product.arch.clone(),
                    properties: properties(self.product, name, version, kind),
                    created_at: date(name),
                    expires_at: date(&self.product.support_eol.replace('-', "")),
                    product: self.name.to_owned(),
                    files,
                }),
            }
        }
        if let Some(item) = nameless.filter(|_| self.catalog.entries.len() == before) {
            self.skip(all, name, item, &[], "it lacks the hash of all files together, by which an image is known");
        }
    }
}

/// The files of an image; or which item is not usable, and why.
fn files<'a>(first: &(&'a String, &Item), second: Option<&(&'a String, &Item)>) -> Result<Files, (&'a String, String)> {
    let file = |(name, item): &(&'a String, &Item)| {
        let sha256 = match item.sha256.as_str() {
            "" => None,
            text => {
                let bytes = hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok());
                Some(bytes.ok_or_else(|| (*name, "its sha256 is no SHA-256".to_owned()))?)
            }
        };
        let path = checked(item.path.clone()).map_err(|reason| (*name, reason))?;
        Ok(File { path, size: item.size, sha256 })
    };
    Ok(match second {
        // Its own hash is the fingerprint.
        None => Files::Unified(File { sha256: None, ..file(first)? }),
        Some(second) => Files::Split(file(first)?, file(second)?),
    })
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
/// Of several architectures the first of `preferred` goes, of several products the one with the newest version.
pub fn by_alias<'a>(entries: &'a [Entry], name: &str, preferred: &[&str]) -> Option<&'a Entry> {
    let newest = |name: &str, fits: &dyn Fn(&Entry) -> bool| {
        let named = entries.iter().filter(|entry| fits(entry) && entry.aliases.iter().any(|alias| alias == name));
        // Of one day, the first one: it is the preferred one of its version.
        named.reduce(|first, next| if next.created_at > first.created_at { next } else { first })
    };
    let plain = preferred.iter().find_map(|wanted| newest(name, &|entry| entry.architecture == *wanted));
    plain.or_else(|| {
        let (name, word) = name.rsplit_once('/')?;
        newest(name, &|entry| entry.arch == word || entry.architecture == word)
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
    let Catalog { entries, skipped } = images(bytes, &["x86_64", "i686"]).unwrap_or_default();
    by_alias(&entries, "debian/12/amd64", &["x86_64", "i686"]);
    by_fingerprint(&entries, "0");
    assert!(skipped.len() <= SKIPPED);
    let _ = skipped.iter().any(|skipped| skipped.may_be("debian/12/amd64"));
}

#[cfg(test)]
mod tests;
