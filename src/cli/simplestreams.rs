//! Image servers that speak simplestreams: their list of images.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::Error;
use super::client::Client;
use super::connection::{Answer, Connection};
use super::image_source::is_fingerprint;
use super::settings::Remote;
use super::tls::{Address, Meeting};

/// Names that simplestreams has for what the kernel calls otherwise.
const ARCHITECTURES: &[(&str, &str)] = &[
    ("amd64", "x86_64"),
    ("i386", "i686"),
    ("arm64", "aarch64"),
    ("armhf", "armv7l"),
    ("ppc64el", "ppc64le"),
    ("riscv64", "riscv64"),
    ("s390x", "s390x"),
];

async fn file(at: &Connection, path: &str) -> Result<Value, Error> {
    let wrong = |e: &dyn std::fmt::Display| Error::Broken(format!("{path}: {e}"));
    let request = Request::builder().uri(format!("/{path}")).body(Empty::<Bytes>::new()).map_err(|e| wrong(&e))?;
    // Such servers answer files, whatever they call their type.
    let response = at.begin(request).await?;
    if !response.status().is_success() {
        return Err(Error::refused(format!("{path}: the server answers {}", response.status())));
    }
    match at.read_file(response).await? {
        Answer::Other(bytes) => serde_json::from_slice(&bytes).map_err(|e| wrong(&e)),
        Answer::Json(_) => Err(Error::Broken(path.to_owned())),
    }
}

/// A file of an image.
#[derive(Debug)]
pub(super) struct File {
    /// Below the server's address.
    pub path: String,
    /// Bytes, where the list tells.
    pub size: Option<u64>,
    /// In hexadecimal, where the list tells.
    pub sha256: Option<String>,
}

/// An image of such a server.
pub(super) struct Found {
    /// As an object of the API.
    pub image: Value,
    /// The one file, or metadata and root.
    pub files: Vec<File>,
    /// Its server.
    pub at: Connection,
}

impl Found {
    /// The body of a file.
    pub(super) async fn open(&self, file: &File) -> Result<Incoming, Error> {
        let wrong = |e: http::Error| Error::Broken(format!("{}: {e}", file.path));
        let request = Request::builder().uri(format!("/{}", file.path)).body(Empty::<Bytes>::new()).map_err(wrong)?;
        let response = self.at.begin(request).await?;
        if !response.status().is_success() {
            return Err(Error::refused(format!("{}: the server answers {}", file.path, response.status())));
        }
        Ok(response.into_body())
    }
}

/// The image that is meant by an alias, with an architecture behind it or the newest of this one, or by (the beginning of) a
/// fingerprint.
pub(super) async fn find(client: &Client, remote: &str, name: &str) -> Result<Found, Error> {
    let entry = client.settings().remote(remote)?.clone();
    let (at, images) = all(client, remote, &entry).await?;
    let is = |(image, _): &(Value, Vec<File>)| {
        let arch = image["properties"]["architecture"].as_str().unwrap_or_default();
        let fits = |alias: &Value| {
            let alias = alias["name"].as_str().unwrap_or_default();
            alias == name || name.strip_prefix(alias).and_then(|rest| rest.strip_prefix('/')) == Some(arch)
        };
        let fingerprint = image["fingerprint"].as_str().unwrap_or_default();
        (is_fingerprint(name) && fingerprint.starts_with(name))
            || image["aliases"].as_array().is_some_and(|all| all.iter().any(fits))
    };
    let (own, others): (Vec<_>, Vec<_>) =
        images.into_iter().filter(is).partition(|(image, _)| image["architecture"] == std::env::consts::ARCH);
    let found = own.into_iter().chain(others).next();
    let missing = || Error::refused("Image not found").doing(format!("Cannot find the image {name}"));
    let (image, files) =
        found.ok_or_else(|| missing().hint(format!("\"warren image list {remote}:\" shows those that there are")))?;
    if let Some(file) = files.iter().find(|file| !is_plain(&file.path)) {
        return Err(Error::Broken(format!("The list names the path {:?}", file.path)));
    }
    Ok(Found { image, files, at })
}

/// Whether it stays below the server's address.
fn is_plain(path: &str) -> bool {
    !path.is_empty() && !path.starts_with('/') && !path.contains("..")
}

/// The images of a server as objects of the API.
pub(super) async fn images(client: &Client, remote: &str, entry: &Remote) -> Result<Vec<Value>, Error> {
    Ok(all(client, remote, entry).await?.1.into_iter().map(|(image, _)| image).collect())
}

async fn all(client: &Client, remote: &str, entry: &Remote) -> Result<(Connection, Vec<(Value, Vec<File>)>), Error> {
    let address = Address::parse(&entry.addr, 443)?;
    let at = Connection::https("", Meeting::of(&client.settings(), remote, address, None)?, remote);
    let index = file(&at, "streams/v1/index.json").await?;
    let mut images = Vec::new();
    for (_, stream) in index["index"].as_object().into_iter().flatten() {
        if stream["datatype"] != "image-downloads" {
            continue;
        }
        let path = stream["path"].as_str().unwrap_or_default();
        if !is_plain(path) {
            return Err(Error::Broken(format!("The index names the path {path:?}")));
        }
        let products = file(&at, path).await?;
        for (_, product) in products["products"].as_object().into_iter().flatten() {
            images.extend(of_product(product));
        }
    }
    Ok((at, images))
}

/// The containers' images of a product, the newest last.
fn of_product(product: &Value) -> Vec<(Value, Vec<File>)> {
    let text = |key: &str| product[key].as_str().unwrap_or_default();
    let architecture =
        ARCHITECTURES.iter().find(|(theirs, _)| *theirs == text("arch")).map_or(text("arch"), |(_, ours)| ours);
    let versions: BTreeMap<&String, &Value> = product["versions"].as_object().into_iter().flatten().collect();
    let mut images: Vec<(Value, Vec<File>)> = Vec::new();
    for (version, contents) in versions {
        let Some(Shape { fingerprint, kind, items }) = shape(contents) else { continue };
        let size =
            items.iter().fold(0, |size: u64, item| size.saturating_add(item["size"].as_u64().unwrap_or_default()));
        let files = items.into_iter().map(|item| File {
            path: item["path"].as_str().unwrap_or_default().to_owned(),
            size: item["size"].as_u64(),
            sha256: item["sha256"].as_str().map(str::to_owned),
        });
        let release = if text("release_title").is_empty() { text("release") } else { text("release_title") };
        let label = contents["label"].as_str().map(|label| format!(" ({label})")).unwrap_or_default();
        let description = format!("{} {release} {}{label} ({version})", text("os"), text("arch"));
        let mut image = json!({
            "fingerprint": fingerprint, "aliases": [], "architecture": architecture, "public": true, "size": size,
            "type": "container", "auto_update": false, "cached": false, "filename": "",
            "uploaded_at": uploaded(version),
            "created_at": uploaded(version), "expires_at": "1970-01-01T00:00:00Z", "last_used_at": "1970-01-01T00:00:00Z",
            "properties": {
                "architecture": text("arch"), "description": description, "os": text("os"), "release": text("release"),
                "serial": version, "type": kind,
            },
        });
        if !text("variant").is_empty() {
            image["properties"]["variant"] = json!(text("variant"));
        }
        images.push((image, files.collect()));
    }
    // Of the newest that there is an image of.
    if let Some((newest, _)) = images.last_mut() {
        let aliases = text("aliases").split(',').filter(|alias| !alias.is_empty());
        newest["aliases"] = aliases.map(|alias| json!({"name": alias, "description": ""})).collect();
    }
    images
}

/// What a version of a product consists of.
struct Shape<'a> {
    fingerprint: &'a str,
    kind: &'static str,
    items: Vec<&'a Value>,
}

/// Metadata with a root, squashfs rather than tarball, or both in one file.
fn shape(version: &Value) -> Option<Shape<'_>> {
    let items = version["items"].as_object()?;
    let item =
        |kinds: &[&str]| items.values().find(|item| item["ftype"].as_str().is_some_and(|kind| kinds.contains(&kind)));
    let split = item(&["lxd.tar.xz", "incus.tar.xz"]).and_then(|meta| {
        let roots = [
            ("squashfs", "combined_squashfs_sha256"),
            ("root.tar.xz", "combined_rootxz_sha256"),
            ("root.tar.xz", "combined_sha256"),
        ];
        roots.into_iter().find_map(|(kind, key)| {
            let (fingerprint, root) = (meta[key].as_str()?, item(&[kind])?);
            Some(Shape { fingerprint, kind: if kind == "squashfs" { kind } else { "tar.xz" }, items: vec![meta, root] })
        })
    });
    split.or_else(|| {
        let whole = item(&["lxd_combined.tar.gz", "incus_combined.tar.gz"])?;
        Some(Shape { fingerprint: whole["sha256"].as_str()?, kind: "tar.gz", items: vec![whole] })
    })
}

/// A version is a day, and some have a time after it.
fn uploaded(version: &str) -> String {
    match (version.get(..4), version.get(4..6), version.get(6..8)) {
        (Some(year), Some(month), Some(day)) if version[..8].bytes().all(|b| b.is_ascii_digit()) => {
            format!("{year}-{month}-{day}T00:00:00Z")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_has_images() {
        let product = json!({
            "arch": "amd64", "aliases": "24.04,noble,", "os": "Ubuntu", "release": "noble",
            "versions": {
                "20240101": {"items": {"lxd.tar.xz": {"ftype": "lxd.tar.xz", "size": 1, "combined_squashfs_sha256": "aa"}, "squashfs": {"ftype": "squashfs", "size": 2}}},
                "20240201": {"items": {"x": {"ftype": "incus_combined.tar.gz", "size": 4, "sha256": "bb", "path": "a/b"}}},
                "20240301": {"items": {"lxd.tar.xz": {"ftype": "lxd.tar.xz", "size": 1, "combined_squashfs_sha256": "cc"}}},
                "20240401": {"items": {}},
            },
        });
        let (images, files): (Vec<Value>, Vec<Vec<File>>) = of_product(&product).into_iter().unzip();
        assert_eq!((files[0].len(), files[1].len(), files[1][0].path.as_str()), (2, 1, "a/b"));
        // A root that is not there is no image.
        assert_eq!(images.len(), 2);
        assert_eq!(
            (&images[0]["fingerprint"], &images[0]["size"], &images[0]["architecture"]),
            (&json!("aa"), &json!(3), &json!("x86_64"))
        );
        assert_eq!(images[0]["uploaded_at"], "2024-01-01T00:00:00Z");
        assert_eq!([&images[0]["aliases"], &images[1]["aliases"][1]["name"]], [&json!([]), &json!("noble")]);
        assert!(of_product(&json!({"versions": 5})).is_empty());
    }
}
