//! Image servers that speak simplestreams: their list of images.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use serde_json::{Value, json};

use super::Error;
use super::client::Client;
use super::connection::{Answer, Connection};
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

/// The images of a server as objects of the API.
pub(super) async fn images(client: &Client, remote: &str, entry: &Remote) -> Result<Vec<Value>, Error> {
    let address = Address::parse(&entry.addr, 443)?;
    let at = Connection::https("", Meeting::of(&client.settings(), remote, address, None)?, remote);
    let index = file(&at, "streams/v1/index.json").await?;
    let mut images = Vec::new();
    for (_, stream) in index["index"].as_object().into_iter().flatten() {
        if stream["datatype"] != "image-downloads" {
            continue;
        }
        let path = stream["path"].as_str().unwrap_or_default();
        if path.is_empty() || path.starts_with('/') || path.contains("..") {
            return Err(Error::Broken(format!("The index names the path {path:?}")));
        }
        let products = file(&at, path).await?;
        for (_, product) in products["products"].as_object().into_iter().flatten() {
            images.extend(of_product(product));
        }
    }
    Ok(images)
}

/// The containers' images of a product, the newest last.
fn of_product(product: &Value) -> Vec<Value> {
    let text = |key: &str| product[key].as_str().unwrap_or_default();
    let architecture =
        ARCHITECTURES.iter().find(|(theirs, _)| *theirs == text("arch")).map_or(text("arch"), |(_, ours)| ours);
    let versions: BTreeMap<&String, &Value> = product["versions"].as_object().into_iter().flatten().collect();
    let mut images: Vec<Value> = Vec::new();
    for (version, contents) in versions {
        let items = contents["items"].as_object();
        let Some(meta) = items.and_then(|items| {
            items.values().find(|item| matches!(item["ftype"].as_str(), Some("lxd.tar.xz" | "incus.tar.xz")))
        }) else {
            continue;
        };
        let fingerprint = ["combined_squashfs_sha256", "combined_rootxz_sha256", "combined_sha256"]
            .into_iter()
            .find_map(|key| meta[key].as_str());
        let Some(fingerprint) = fingerprint else { continue };
        let root = items.and_then(|items| items.values().find(|item| item["ftype"] == "squashfs"));
        let size = |item: &Value| item["size"].as_u64().unwrap_or_default();
        let size = size(meta).saturating_add(root.map_or(0, size));
        let release = if text("release_title").is_empty() { text("release") } else { text("release_title") };
        let label = contents["label"].as_str().map(|label| format!(" ({label})")).unwrap_or_default();
        let description = format!("{} {release} {}{label} ({version})", text("os"), text("arch"));
        images.push(json!({
            "fingerprint": fingerprint, "aliases": [], "architecture": architecture, "public": true, "size": size,
            "type": "container", "auto_update": false, "cached": false, "filename": "",
            "uploaded_at": uploaded(version),
            "created_at": uploaded(version), "expires_at": "0001-01-01T00:00:00Z", "last_used_at": "0001-01-01T00:00:00Z",
            "properties": {
                "architecture": text("arch"), "description": description, "os": text("os"), "release": text("release"),
                "serial": version, "type": "squashfs",
            },
        }));
    }
    // Of the newest that there is an image of.
    if let Some(newest) = images.last_mut() {
        let aliases = text("aliases").split(',').filter(|alias| !alias.is_empty());
        newest["aliases"] = aliases.map(|alias| json!({"name": alias, "description": ""})).collect();
    }
    images
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
                "20240201": {"items": {"lxd.tar.xz": {"ftype": "lxd.tar.xz", "size": 1, "combined_squashfs_sha256": "bb"}}},
                "20240301": {"items": {}},
            },
        });
        let images = of_product(&product);
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
