//! The files of an image, each by itself: what simplestreams tells of them beside the fingerprint of both.
//!
//! Hashing the root of a split image takes a while, so it is done once: `<fingerprint>.parts` beside the files remembers it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::error::{Error, io};
use super::store::{INCOMING, Store, StoredImage};
use crate::names::Fingerprint;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePart {
    /// Bytes.
    pub size: u64,
    /// SHA-256 in hexadecimal digits.
    pub sha256: String,
}

/// The files of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// The one file of a unified image, or the metadata of a split one.
    pub meta: FilePart,
    /// The root of a split image.
    pub rootfs: Option<FilePart>,
    /// Whether that root, or the whole of a unified image, is a squashfs.
    pub squashfs: bool,
}

/// Where the parts of an image are remembered.
pub(super) fn place(dir: &Path, fingerprint: &Fingerprint) -> PathBuf {
    dir.join(format!("{fingerprint}.parts"))
}

fn size(path: &Path) -> Result<u64, Error> {
    Ok(std::fs::metadata(path).map_err(io("read", path))?.len())
}

fn hash(path: &Path) -> Result<FilePart, Error> {
    let mut file = File::open(path).map_err(io("open", path))?;
    let mut digest = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        match file.read(&mut buffer).map_err(io("read", path))? {
            0 => return Ok(FilePart { size, sha256: hex::encode(digest.finish()) }),
            count => {
                digest.update(&buffer[..count]);
                size += count as u64;
            }
        }
    }
}

fn remembered(path: &Path, image: &StoredImage) -> Option<Parts> {
    let parts: Parts = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let fits = |part: &FilePart, path: &Path| size(path).is_ok_and(|size| size == part.size);
    let rootfs = match (&parts.rootfs, &image.rootfs_path) {
        (Some(part), Some(path)) => fits(part, path),
        (_, _) => false,
    };
    (rootfs && fits(&parts.meta, &image.meta_path)).then_some(parts)
}

impl Store {
    /// The files of an image, each by itself; the first time of a split one takes as long as reading it does.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn parts(&self, fingerprint: &Fingerprint) -> Result<Parts, Error> {
        let image = self.get(fingerprint)?;
        let Some(rootfs) = &image.rootfs_path else {
            let meta = FilePart { size: size(&image.meta_path)?, sha256: fingerprint.to_string() };
            return Ok(Parts { meta, rootfs: None, squashfs: image.squashfs });
        };
        let path = place(self.dir(), fingerprint);
        if let Some(parts) = remembered(&path, &image) {
            return Ok(parts);
        }
        let parts = Parts { meta: hash(&image.meta_path)?, rootfs: Some(hash(rootfs)?), squashfs: image.squashfs };
        // While the store is moved, nothing is remembered.
        let Some(_stays) = self.try_stays() else { return Ok(parts) };
        let new = self.dir().join(format!("{INCOMING}{}", uuid::Uuid::new_v4()));
        let text = serde_json::to_vec(&parts).unwrap_or_default();
        let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &path));
        if let Err(error) = written {
            // It may not have been made at all.
            let _ = std::fs::remove_file(&new);
            return Err(io("write", path)(error));
        }
        // An image that has been removed meanwhile takes this with it: its own files go first.
        if !image.meta_path.exists() {
            let _ = std::fs::remove_file(&path);
            return Err(Error::NotFound { fingerprint: fingerprint.clone() });
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_hashed_once_and_go_with_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().to_owned()).unwrap();
        let fingerprint = Fingerprint::new("ab".repeat(32)).unwrap();
        let file = |name: &str| dir.path().join(name);
        assert!(matches!(store.parts(&fingerprint), Err(Error::NotFound { .. })));
        std::fs::write(file(fingerprint.as_str()), "meta").unwrap();
        let unified = store.parts(&fingerprint).unwrap();
        assert_eq!((unified.meta.sha256.as_str(), unified.meta.size), (fingerprint.as_str(), 4));
        std::fs::write(file(&format!("{fingerprint}.rootfs")), "hsqsroot").unwrap();
        let split = store.parts(&fingerprint).unwrap();
        let of = |text: &str| hex::encode(ring::digest::digest(&SHA256, text.as_bytes()));
        let root = split.rootfs.clone().unwrap();
        assert_eq!((split.meta.sha256.clone(), root.sha256, root.size), (of("meta"), of("hsqsroot"), 8));
        assert!(split.squashfs);
        // What is remembered is believed as long as the sizes fit.
        let path = place(dir.path(), &fingerprint);
        let told = Parts { meta: FilePart { size: 4, sha256: "told".to_owned() }, ..split.clone() };
        std::fs::write(&path, serde_json::to_vec(&told).unwrap()).unwrap();
        assert_eq!(store.parts(&fingerprint).unwrap(), told);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(store.parts(&fingerprint).unwrap(), split);
        store.remove(&fingerprint).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
