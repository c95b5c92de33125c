//! Lists of images, kept on disk: asked for again after an hour, and used as they are when the server is away.
//!
//! A file is named by the SHA-256 of its address. Its first line tells the address, the `ETag` and the SHA-256 of the rest, which
//! is what the server sent; when that was, is its time of modification. One that is damaged counts as none.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH};
use serde::{Deserialize, Serialize};

use super::blocking;
use super::error::{Error, io};
use crate::fetch::{Client, Url};
use crate::sys::memory;

/// How long a list is good.
pub(super) const FRESH: Duration = Duration::from_secs(3600);
/// The longest list, bytes: that of all daily builds of Ubuntu has some ten million.
const LONGEST: u64 = 64 << 20;
/// What was needed to read a longer one goes back to the kernel at once, bytes.
const LONG: usize = 1 << 20;
/// So many are kept.
const KEPT: usize = 64;

#[derive(Serialize, Deserialize)]
struct Head {
    url: String,
    etag: String,
    /// Of what follows, in hexadecimal digits.
    sha256: String,
}

/// The lists that are kept.
#[derive(Debug, Clone)]
pub(super) struct Lists {
    dir: PathBuf,
}

struct Kept {
    head: Head,
    body: Arc<Vec<u8>>,
    age: Duration,
}

/// A list as it was read.
pub(super) struct List<T> {
    pub(super) content: T,
    /// Why it is not the newest.
    pub(super) stale: Option<Error>,
}

impl Lists {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn path(&self, url: &Url) -> PathBuf {
        self.dir.join(sha256(url.to_string().as_bytes()))
    }

    /// The list at an address, read by `parse`; one that is no older than `fresh` is not asked for again.
    ///
    /// # Errors
    /// When there is none, or it is not usable: then the one from before stays.
    pub(super) async fn get<T: Send + 'static>(
        &self,
        client: &Client,
        url: &Url,
        fresh: Duration,
        parse: impl Fn(&[u8]) -> Result<T, String> + Clone + Send + 'static,
    ) -> Result<List<T>, Error> {
        let path = self.path(url);
        let kept = {
            let (path, url) = (path.clone(), url.to_string());
            blocking(move || Ok(read(&path).filter(|kept| kept.head.url == url))).await?
        };
        let usable = |reason| Error::Index { url: url.to_string(), reason };
        // Long ones take their time.
        let read = async |body: Arc<Vec<u8>>| {
            let parse = parse.clone();
            blocking(move || {
                let parsed = parse(&body);
                if body.len() > LONG {
                    drop(body);
                    memory::trim();
                }
                Ok(parsed)
            })
            .await?
            .map_err(usable)
        };
        if let Some(kept) = kept.as_ref().filter(|kept| kept.age < fresh)
            && let Ok(content) = read(Arc::clone(&kept.body)).await
        {
            return Ok(List { content, stale: None });
        }
        let mut headers = HeaderMap::new();
        let known = kept.as_ref().and_then(|kept| HeaderValue::from_str(&kept.head.etag).ok());
        if let Some(etag) = known.filter(|etag| !etag.is_empty()) {
            headers.insert(IF_NONE_MATCH, etag);
        }
        match client.read(url, &headers, LONGEST).await {
            Ok((reply, _)) if reply.status == http::StatusCode::NOT_MODIFIED => {
                let Some(kept) = kept else { return Err(usable("it is not there, and yet unchanged".to_owned())) };
                // Its time only saves questions.
                let _ = File::options().write(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
                Ok(List { content: read(kept.body).await?, stale: None })
            }
            Ok((reply, body)) => {
                let body = Arc::new(body);
                let content = read(Arc::clone(&body)).await?;
                let etag = reply.header(&ETAG).unwrap_or_default().to_owned();
                let (dir, url) = (self.dir.clone(), url.to_string());
                let written = blocking(move || {
                    let head = Head { url, etag, sha256: sha256(&body) };
                    write(&dir, &path, &head, &body)
                });
                if let Err(error) = written.await {
                    // It is here all the same.
                    tracing::warn!(%error, "keeping a list of images");
                }
                Ok(List { content, stale: None })
            }
            Err(error) => match kept {
                Some(kept) => Ok(List { content: read(kept.body).await?, stale: Some(error.into()) }),
                None => Err(error.into()),
            },
        }
    }

    /// Forgets all of them: what they say may be asked for by another way now. Blocking.
    pub(super) fn clear(&self) {
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            // What stays is asked for again after an hour.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, bytes))
}

fn read(path: &Path) -> Option<Kept> {
    let mut file = File::open(path).ok()?;
    let modified = file.metadata().ok()?.modified().ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let head: Head = serde_json::from_slice(&bytes[..end]).ok()?;
    bytes.drain(..=end);
    if head.sha256 != sha256(&bytes) {
        return None;
    }
    // One from the future is asked for again.
    let age = modified.elapsed().unwrap_or(Duration::MAX);
    Some(Kept { head, body: Arc::new(bytes), age })
}

fn write(dir: &Path, path: &Path, head: &Head, body: &[u8]) -> Result<(), Error> {
    let new = dir.join(format!(".new-{}", uuid::Uuid::new_v4()));
    let made = || {
        std::fs::create_dir_all(dir)?;
        let mut file = File::create_new(&new)?;
        file.write_all(serde_json::to_string(head)?.as_bytes())?;
        file.write_all(b"\n")?;
        file.write_all(body)?;
        std::fs::rename(&new, path)
    };
    if let Err(error) = made() {
        // It was never made, or goes with the next tidying.
        let _ = std::fs::remove_file(&new);
        return Err(io("write", path)(error));
    }
    tidy(dir);
    Ok(())
}

/// Removes the oldest beyond [`KEPT`], and what a crash left half written.
pub(super) fn tidy(dir: &Path) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<(SystemTime, PathBuf)> =
        entries.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
    found.sort();
    let surplus = found.len().saturating_sub(KEPT);
    for (index, (at, path)) in found.iter().enumerate() {
        let half = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".new-"));
        let left = half && at.elapsed().is_ok_and(|age| age > Duration::from_secs(60));
        if left || index < surplus {
            // Another one may have been quicker.
            let _ = std::fs::remove_file(path);
        }
    }
}
