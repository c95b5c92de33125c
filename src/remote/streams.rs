//! Simplestreams, as image servers write it: an index that names lists of products, each with versions, each with items.
//! Pure: text in, images out. Nothing in it is believed but the hashes, and those only as far as its server is.
//!
//! Source of the format: what the servers of Ubuntu and Linux Containers publish, and incus-simplestreams writes.

mod lenient;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::api::wire::{Config, null_default};
use crate::db::Seconds;
use crate::image::architecture;
use crate::names::Fingerprint;

use lenient::{Parts, entries, part};

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

/// A list, without its products read.
#[derive(Deserialize)]
struct Products<'a> {
    #[serde(borrow)]
    products: &'a RawValue,
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
    versions: Parts<Version>,
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
    items: Parts<Item>,
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

/// What is said of all images of a product, in the server's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
struct About {
    arch: String,
    os: String,
    release: String,
    title: String,
    variant: String,
    version: String,
}

/// An image of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// Its names, without the architecture; those of the newest of its product only.
    pub aliases: Arc<[String]>,
    /// In LXD's words.
    pub architecture: &'static str,
    /// What is said about it, beside the following.
    about: Arc<About>,
    version: String,
    label: String,
    kind: &'static str,
    /// When it was made.
    pub created_at: Seconds,
    /// When its support ends; 0 is never.
    pub expires_at: Seconds,
    /// Of which product.
    pub product: String,
    /// Its files.
    pub files: Files,
}

impl Entry {
    /// What is said about it.
    pub fn properties(&self) -> Config {
        let About { arch, os, release, title, variant, version } = &*self.about;
        let label = if self.label.is_empty() { String::new() } else { format!(" ({})", self.label) };
        let description = format!("{os} {title} {arch}{label} ({})", self.version);
        [
            ("architecture", arch.as_str()),
            ("description", &description),
            ("label", &self.label),
            ("os", os),
            ("release", release),
            ("serial", &self.version),
            ("type", self.kind),
            ("variant", variant),
            ("version", version),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
    }
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
    few_objects(json)?;
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
    few_objects(json)?;
    let list: Products<'_> = serde_json::from_slice(json).map_err(|error| no_list(json, &error))?;
    let mut catalog = Catalog::default();
    let read = entries(list.products.get(), |name, raw| {
        let skipped = |aliases: &str, arch: String, reason: String| {
            let aliases = if aliases.len() > TEXT { Vec::new() } else { names(aliases) };
            let product = crate::names::shortened(&name);
            Skipped { aliases: aliases.into(), arch, hashes: Vec::new(), product, reason }
        };
        match part::<Product>(raw) {
            Err(bad) => catalog.skip(skipped(&bad.aliases, bad.arch, bad.reason)),
            Ok(product) => {
                let Some(architecture) = architecture(&product.arch).filter(|word| host.contains(word)) else {
                    return;
                };
                match product.check() {
                    Err(reason) => catalog.skip(skipped(&product.aliases, product.arch, reason)),
                    Ok(()) => Reader::new(product, &name, architecture, &mut catalog).read(),
                }
            }
        }
    });
    read.map_err(|error| error.to_string())?;
    Ok(catalog)
}

/// Refuses more objects than any list has: of the shortest ones the longest list would fill the memory.
fn few_objects(json: &[u8]) -> Result<(), String> {
    match json.iter().filter(|byte| **byte == b'{').count() {
        0..=OBJECTS => Ok(()),
        _ => Err(format!("it has more than {OBJECTS} objects")),
    }
}

/// Reads a product into a catalog.
struct Reader<'a> {
    versions: Vec<(String, Result<Version, lenient::Bad>)>,
    aliases: Arc<[String]>,
    about: Arc<About>,
    expires_at: Seconds,
    name: &'a str,
    architecture: &'static str,
    catalog: &'a mut Catalog,
}

impl<'a> Reader<'a> {
    fn new(product: Product, name: &'a str, architecture: &'static str, catalog: &'a mut Catalog) -> Self {
        let Product { aliases, arch, os, release, release_title, variant, version, support_eol, versions } = product;
        let title = if release_title.is_empty() { release.clone() } else { release_title };
        Self {
            versions: versions.0,
            aliases: names(&aliases).into(),
            about: Arc::new(About { arch, os, release, title, variant, version }),
            expires_at: date(&support_eol.replace('-', "")),
            name,
            architecture,
            catalog,
        }
    }

    fn read(mut self) {
        let (all, none): (Arc<[String]>, Arc<[String]>) = (Arc::clone(&self.aliases), [].into());
        let mut versions = std::mem::take(&mut self.versions);
        // Those without a day are none of the newest.
        versions.sort_by(|(one, _), (other, _)| (date(other), other).cmp(&(date(one), one)));
        let mut aliases = &all;
        for (name, version) in versions {
            let before = self.catalog.entries.len();
            match version {
                Err(bad) => self.skip(&all, &name, "", &bad.hashes, &bad.reason),
                Ok(version) => match short([&name, &version.label]) {
                    Err(reason) => self.skip(&all, &crate::names::shortened(&name), "", &[], &reason),
                    Ok(()) => self.version(&name, &version, aliases, &all),
                },
            }
            if self.catalog.entries.len() > before {
                aliases = &none;
            }
        }
    }

    fn skip(&mut self, aliases: &Arc<[String]>, version: &str, item: &str, hashes: &[String], reason: &str) {
        let of_item =
            if item.is_empty() { String::new() } else { format!(", item {:?}", crate::names::shortened(item)) };
        self.catalog.skip(Skipped {
            aliases: Arc::clone(aliases),
            arch: self.about.arch.clone(),
            hashes: hashes.iter().map(|hash| hash.to_ascii_lowercase()).collect(),
            product: crate::names::shortened(self.name),
            reason: format!("version {:?}{of_item}: {reason}", crate::names::shortened(version)),
        });
    }

    /// `all`: the product's names; `aliases`: those of them that this version has.
    fn version(&mut self, name: &str, version: &Version, aliases: &Arc<[String]>, all: &Arc<[String]>) {
        let mut items = Vec::new();
        for (key, item) in &version.items.0 {
            match item {
                Ok(item) => items.push((key, item)),
                Err(bad) => self.skip(all, name, key, &bad.hashes, &bad.reason),
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
                    aliases: Arc::clone(aliases),
                    architecture: self.architecture,
                    about: Arc::clone(&self.about),
                    version: name.to_owned(),
                    label: version.label.clone(),
                    kind,
                    created_at: date(name),
                    expires_at: self.expires_at,
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
        newest(name, &|entry| entry.about.arch == word || entry.architecture == word)
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
