//! An image sent to another server, which has given its secret for that.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::Method;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::Value;

use super::error::{Error, io as io_error};
use super::source::{Asked, Source};
use super::{Remotes, blocking};
use crate::api::wire::Config;
use crate::db::Image;
use crate::fetch::{self, Client, Url};

/// The longest answer that is read, bytes.
const ANSWER: u64 = 1 << 20;
/// So long the target is asked to wait for the end at a time, seconds.
const WAIT: u32 = 20;

/// Where an image is sent.
#[derive(Debug, Clone, Default)]
pub struct Push {
    /// The other server.
    pub target: String,
    /// Its certificate, PEM.
    pub certificate: String,
    /// What it gave for this image.
    pub secret: String,
    /// The project there.
    pub project: String,
    /// Names there.
    pub aliases: Vec<String>,
    /// Profiles there.
    pub profiles: Vec<String>,
}

impl Push {
    /// The server.
    ///
    /// # Errors
    /// With the field that is wrong.
    pub fn source(&self) -> Result<Source, Error> {
        if self.secret.is_empty() {
            let reason = "it must be what the target gave for this image".to_owned();
            return Err(Error::Field { name: "secret", reason });
        }
        // The parser speaks of servers that images come from; here it is where one goes.
        let asked = Asked { server: &self.target, certificate: &self.certificate, alias: "x", ..Asked::default() };
        Source::parse(asked).map_err(|error| match error {
            Error::Field { name: "server", reason } => Error::Field { name: "target", reason },
            error => error,
        })
    }
}

/// A query string.
fn query(pairs: impl IntoIterator<Item = (String, String)>) -> String {
    let plain =
        |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
    let pairs: Vec<String> =
        pairs.into_iter().map(|(key, value)| format!("{}={}", plain(&key), plain(&value))).collect();
    pairs.join("&")
}

impl Remotes {
    /// Sends an image. The answer comes when all of it is sent and the target has taken it.
    ///
    /// # Errors
    /// When the target refuses it or cannot be reached.
    pub async fn push(&self, image: &Image, push: &Push) -> Result<(), Error> {
        let source = push.source()?;
        let client = self.client(&source).await?;
        let hold = self.context.images.hold(&image.fingerprint);
        let (store, fingerprint) = (Arc::clone(&self.context.images), image.fingerprint.clone());
        let (stored, names) = blocking(move || {
            let stored = store.get(&fingerprint)?;
            let names = stored.file_names()?;
            Ok((stored, names))
        })
        .await?;
        let boundary = uuid::Uuid::new_v4().simple();
        let (body, length, kind) = match (stored.rootfs_path, names.1) {
            (Some(rootfs), Some(rootfs_name)) => {
                let head = |name: &str, file: &str| {
                    let disposition = format!("Content-Disposition: form-data; name=\"{name}\"; filename=\"{file}\"");
                    format!("--{boundary}\r\n{disposition}\r\nContent-Type: application/octet-stream\r\n\r\n")
                };
                let texts = [
                    head("metadata", &names.0),
                    format!("\r\n{}", head("rootfs", &rootfs_name)),
                    format!("\r\n--{boundary}--\r\n"),
                ];
                let (meta, meta_length) = file(stored.meta_path).await?;
                let (rootfs, rootfs_length) = file(rootfs).await?;
                let texts_length: usize = texts.iter().map(String::len).sum();
                let length = meta_length + rootfs_length + texts_length as u64;
                let [first, second, end] = texts
                    .map(|text| futures_util::stream::once(std::future::ready(Ok::<_, io::Error>(Bytes::from(text)))));
                let body = first.chain(meta).chain(second).chain(rootfs).chain(end).boxed();
                (body, length, format!("multipart/form-data; boundary={boundary}"))
            }
            (Some(_) | None, _) => {
                let (meta, length) = file(stored.meta_path).await?;
                (meta.boxed(), length, "application/octet-stream".to_owned())
            }
        };
        let headers = headers(image, push, &names.0, length, &kind)?;
        let path = match push.project.as_str() {
            "" => "1.0/images".to_owned(),
            project => format!("1.0/images?{}", query([("project".to_owned(), project.to_owned())])),
        };
        let url = source.servers[0].below(&path)?;
        let sent = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&sent);
        let body = body.map(move |piece| {
            let piece = piece?;
            counted.fetch_add(piece.len() as u64, Ordering::Relaxed);
            Ok(Frame::data(piece))
        });
        let sending = client.send(Method::POST, &url, &headers, fetch::streamed(StreamBody::new(body)));
        let mut reply = tokio::select! {
            reply = sending => reply?,
            () = stalled(&sent, client.stall()) => {
                return Err(fetch::Error::Stalled { host: url.authority(), seconds: client.stall().as_secs() }.into());
            }
        };
        drop(hold);
        if !reply.status.is_success() {
            return Err(reply.refusal().await.into());
        }
        let answer = parse(&reply.read(ANSWER).await?);
        self.taken(&client, &source.servers[0], answer, push).await
    }

    /// Waits until the target has taken what was sent. One that does not let us know has taken it as far as we know.
    async fn taken(&self, client: &Client, server: &Url, mut answer: Value, push: &Push) -> Result<(), Error> {
        if !answer["type"].is_string() {
            let reason = "it is none of LXD's API; check the address".to_owned();
            return Err(Error::Answer { url: server.to_string(), reason });
        }
        let told = answer["metadata"]["metadata"]["secret"].as_str().unwrap_or(&push.secret).to_owned();
        let Some(operation) = answer["operation"].as_str().filter(|url| url.starts_with("/1.0/")) else {
            return Ok(());
        };
        let secret = [("secret".to_owned(), told), ("timeout".to_owned(), WAIT.to_string())];
        let url =
            server.below(&format!("{}/wait?{}", operation.split('?').next().unwrap_or_default(), query(secret)))?;
        // Pending, running, cancelling.
        while matches!(answer["metadata"]["status_code"].as_u64(), Some(100..200)) {
            match client.read(&url, &HeaderMap::new(), ANSWER).await {
                Ok((_, body)) => {
                    answer = parse(&body);
                    // One that does not wait is not asked without end.
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
                Err(error) if error.is_missing() => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        match answer["metadata"]["err"].as_str() {
            Some(reason) if !reason.is_empty() => {
                Err(Error::Answer { url: server.to_string(), reason: crate::names::shortened(reason) })
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// An answer of LXD's API; null when it is none.
fn parse(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_default()
}

/// Ends when nothing more is sent for `patience`, twice over: the target needs time to verify what it has got.
async fn stalled(sent: &AtomicU64, patience: std::time::Duration) {
    let mut before = sent.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(patience * 2).await;
        let now = sent.load(Ordering::Relaxed);
        if now == before {
            return;
        }
        before = now;
    }
}

fn headers(image: &Image, push: &Push, filename: &str, length: u64, kind: &str) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    let properties: Config = image.properties.clone();
    let fingerprint = image.fingerprint.to_string();
    let filename = if image.filename.is_empty() { filename } else { &image.filename };
    for (name, value) in [
        ("secret", push.secret.clone()),
        ("fingerprint", fingerprint),
        ("filename", filename.to_owned()),
        ("public", image.public.to_string()),
        ("properties", query(properties)),
        ("aliases", query(push.aliases.iter().map(|name| ("alias".to_owned(), name.clone())))),
        ("profiles", query(push.profiles.iter().map(|name| ("profile".to_owned(), name.clone())))),
    ] {
        let wrong = || Error::Field { name: "secret", reason: format!("the field {name} cannot be sent as a header") };
        if value.is_empty() {
            continue;
        }
        for prefix in ["x-lxd-", "x-incus-"] {
            let name = HeaderName::try_from(format!("{prefix}{name}")).map_err(|_| wrong())?;
            headers.insert(name, HeaderValue::from_str(&value).map_err(|_| wrong())?);
        }
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    if let Ok(kind) = HeaderValue::from_str(kind) {
        headers.insert(CONTENT_TYPE, kind);
    }
    Ok(headers)
}

/// A file to send: its bytes and their number.
async fn file(
    path: std::path::PathBuf,
) -> Result<(impl Stream<Item = io::Result<Bytes>> + Send + 'static, u64), Error> {
    let open = async {
        let file = tokio::fs::File::open(&path).await?;
        let length = file.metadata().await?.len();
        Ok((pieces(file), length))
    };
    open.await.map_err(io_error("open", path.clone()))
}

fn pieces(file: tokio::fs::File) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    futures_util::stream::unfold(file, async |mut file| {
        let mut buffer = bytes::BytesMut::with_capacity(256 * 1024);
        match tokio::io::AsyncReadExt::read_buf(&mut file, &mut buffer).await {
            Ok(0) => None,
            Ok(_) => Some((Ok(buffer.freeze()), file)),
            Err(error) => Some((Err(error), file)),
        }
    })
}
