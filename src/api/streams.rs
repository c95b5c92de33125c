//! `/streams/v1`: the public images of the default project by simplestreams, so that LXD, Incus and Warren clients can use
//! this server as an image mirror. Ours; `images.streams` switches it.
//!
//! Each image is a product of its own, with the image's own aliases: its name, its version and the files below `/images`. What
//! a client needs and the database does not have, the hash of each file of a split image, is found in the background and kept
//! ([`crate::image::Parts`]).

use std::collections::BTreeMap;
use std::io::{self, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, IF_NONE_MATCH, IF_RANGE,
    LAST_MODIFIED, RANGE,
};
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::app::App;
use super::call::{Call, blocking};
use super::entry::Body;
use super::error::Error;
use super::response::{self, Response};
use crate::config;
use crate::db::{Image, Model, Phase};
use crate::events::{Filter, Kind};
use crate::image::{FilePart, Parts, StoredImage};
use crate::names::{Fingerprint, ProjectName};

type Result<T> = std::result::Result<T, Error>;
type Known = BTreeMap<Fingerprint, Arc<Parts>>;

/// The switch.
const KEY: &str = "images.streams";
/// Where the products stand, below the root.
const PRODUCTS: &str = "streams/v1/images.json";
/// Names of files: of a unified image, of the metadata of a split one, and of its root.
const COMBINED: &str = "combined.tar.gz";
const METADATA: &str = "lxd.tar.xz";
const SQUASHFS: &str = "root.squashfs";
const TARBALL: &str = "root.tar.xz";
/// A list waits so long for hashes that are being made; what is not there by then is not on it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pieces of a file, bytes.
const PIECE: usize = 256 * 1024;

/// What is known of the files of public images.
#[derive(Default)]
pub struct Streams {
    known: Mutex<Known>,
    /// Held by who hashes.
    turn: tokio::sync::Mutex<()>,
}

impl Streams {
    fn with<T>(&self, work: impl FnOnce(&mut Known) -> T) -> T {
        work(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn is_offered(model: &Model, image: &Image) -> bool {
    let usual = ProjectName::default();
    image.public && image.phase == Phase::Ready && image.project == usual && config::bool_of(&model.config, KEY)
}

fn offered(model: &Model) -> impl Iterator<Item = &Arc<Image>> {
    model.images.values().filter(|image| is_offered(model, image))
}

/// Hashes what has not been hashed yet, one image after the other.
async fn find_parts(app: Arc<App>) {
    let _turn = app.streams.turn.lock().await;
    let model = app.db.model();
    app.streams.with(|known| known.retain(|fingerprint, _| offered(&model).any(|i| i.fingerprint == *fingerprint)));
    for image in offered(&model) {
        let fingerprint = image.fingerprint.clone();
        if app.streams.with(|known| known.contains_key(&fingerprint)) {
            continue;
        }
        let (store, wanted) = (Arc::clone(&app.instances.context().images), fingerprint.clone());
        match blocking(move || store.parts(&wanted)).await {
            Ok(parts) => drop(app.streams.with(|known| known.insert(fingerprint, Arc::new(parts)))),
            Err(error) => tracing::warn!(image = %fingerprint, %error, "not offered by simplestreams"),
        }
    }
}

/// Hashes the files of images as they become public, for the life of the daemon.
pub async fn follow(app: Arc<App>) {
    find_parts(Arc::clone(&app)).await;
    loop {
        let mut events = app.bus.subscribe(Filter {
            kinds: vec![Kind::Lifecycle],
            projects: ProjectName::default().into(),
            of_server: false,
        });
        while let Some(event) = events.recv().await {
            if event.contains("\"image-") {
                find_parts(Arc::clone(&app)).await;
            }
        }
        // Cut off, because it did not take them in time; or the daemon ends.
        tokio::time::sleep(PATIENCE).await;
    }
}

/// The images of which everything is known, after a wait for the others.
async fn ready(app: &Arc<App>) -> (Arc<Model>, Known) {
    let model = app.db.model();
    let complete = |known: &mut Known| offered(&model).all(|image| known.contains_key(&image.fingerprint));
    if !app.streams.with(complete) {
        // It goes on when nobody waits any more.
        let finding = tokio::spawn(find_parts(Arc::clone(app)));
        let _ = tokio::time::timeout(PATIENCE, finding).await;
    }
    let known = app.streams.with(|known| known.clone());
    (app.db.model(), known)
}

/// Debian's word for an architecture, which is that of simplestreams.
fn architecture(word: &str) -> &str {
    match word {
        "x86_64" => "amd64",
        "i686" => "i386",
        "aarch64" => "arm64",
        "armv7l" => "armhf",
        "ppc64le" => "ppc64el",
        other => other,
    }
}

/// The files of an image: the item's kind, the file's name, and what it is. Kinds have no meaning but to clients, which know
/// files by their first bytes; those of LXD and of Incus have words of their own for the same.
fn files(parts: &Parts) -> Vec<(&'static str, &'static str, &FilePart)> {
    let meta = |kind, name| (kind, name, &parts.meta);
    match &parts.rootfs {
        None => vec![meta("lxd_combined.tar.gz", COMBINED), meta("incus_combined.tar.gz", COMBINED)],
        Some(root) => {
            let root = if parts.squashfs { ("squashfs", SQUASHFS, root) } else { ("root.tar.xz", TARBALL, root) };
            vec![meta("lxd.tar.xz", METADATA), meta("incus.tar.xz", METADATA), root]
        }
    }
}

fn items(image: &Image, parts: &Parts) -> Value {
    let item = |(kind, name, part): (&str, &str, &FilePart)| {
        let path = format!("images/{}/{name}", image.fingerprint);
        let mut item = json!({"ftype": kind, "path": path, "size": part.size, "sha256": part.sha256});
        if name == METADATA {
            let both = if parts.squashfs { "combined_squashfs_sha256" } else { "combined_rootxz_sha256" };
            for name in ["combined_sha256", both] {
                item[name] = image.fingerprint.as_str().into();
            }
        }
        (kind.to_owned(), item)
    };
    files(parts).into_iter().map(item).collect::<Map<_, _>>().into()
}

/// When it was made, as versions are called: they sort by time.
fn version(image: &Image) -> String {
    let at = if image.created_at > 0 { image.created_at } else { image.uploaded_at };
    let at = time::OffsetDateTime::from_unix_timestamp(at).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (date, clock) = (at.date(), at.time());
    let (month, day) = (u8::from(date.month()), date.day());
    format!("{:04}{month:02}{day:02}_{:02}{:02}", date.year(), clock.hour(), clock.minute())
}

fn product(model: &Model, image: &Image, parts: &Parts) -> (String, Value) {
    let property = |name: &str| image.properties.get(name).map(String::as_str).filter(|text| !text.is_empty());
    let short = image.fingerprint.as_str().get(..12).unwrap_or_default();
    let of_it = model.aliases.values().filter(|a| a.project == image.project && a.target == image.fingerprint);
    let aliases: Vec<&str> = of_it.map(|alias| alias.name.as_str()).collect();
    let (os, release) = (property("os").unwrap_or("Custom"), property("release").unwrap_or(short));
    let (variant, kind) = (property("variant").unwrap_or("default"), architecture(&image.architecture));
    let product = json!({
        "aliases": aliases.join(","),
        "arch": kind,
        "os": os,
        "release": release,
        "release_title": property("release_title").or(property("version")).unwrap_or(release),
        "variant": variant,
        "versions": {version(image): {"items": items(image, parts)}},
    });
    // The fingerprint, because two images may say the same of themselves.
    (format!("{os}:{release}:{kind}:{variant}:{short}").to_lowercase(), product)
}

/// Both documents: the index and the products.
fn documents(model: &Model, known: &Known) -> (Value, Value) {
    let of_it = offered(model).filter_map(|image| Some((image, known.get(&image.fingerprint)?)));
    let products: Map<String, Value> = of_it.map(|(image, parts)| product(model, image, parts)).collect();
    let index = json!({
        "format": "index:1.0",
        "index": {"images": {
            "datatype": "image-downloads",
            "format": "products:1.0",
            "path": PRODUCTS,
            "products": products.keys().collect::<Vec<_>>(),
        }},
    });
    let content =
        json!({"content_id": "images", "datatype": "image-downloads", "format": "products:1.0", "products": products});
    (index, content)
}

fn switched_on(call: &Call) -> Result<()> {
    if config::bool_of(&call.app.db.model().config, KEY) { Ok(()) } else { Err(Error::UnknownPath) }
}

/// Whether the client has this already.
fn has(call: &Call, etag: &str) -> bool {
    let told = call.headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()).unwrap_or_default();
    told.split(',')
        .any(|one| matches!(one.trim().trim_start_matches("W/").trim_matches('"'), tag if tag == etag || tag == "*"))
}

/// A document; whoever keeps it is to ask again whether it is still good.
fn document(call: &Call, content: &Value) -> Response {
    let etag = response::etag(content);
    let mut answer = if has(call, &etag) {
        let mut answer = response::bare();
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        answer
    } else {
        let text = Bytes::from(serde_json::to_vec(content).unwrap_or_default());
        let length = HeaderValue::from(text.len());
        // What HEAD tells is what GET would send.
        let shown = if call.method == Method::HEAD { Bytes::new() } else { text };
        let mut answer = response::raw_json(StatusCode::OK, shown);
        answer.headers_mut().insert(CONTENT_LENGTH, length);
        answer
    };
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, no-cache"));
    response::with_etag(answer, &etag)
}

/// `GET /streams/v1/index.json`.
pub async fn index(call: Call) -> Result<Response> {
    switched_on(&call)?;
    let (model, known) = ready(&call.app).await;
    Ok(document(&call, &documents(&model, &known).0))
}

/// `GET /streams/v1/images.json`.
pub async fn products(call: Call) -> Result<Response> {
    switched_on(&call)?;
    let (model, known) = ready(&call.app).await;
    Ok(document(&call, &documents(&model, &known).1))
}

/// Which of an image's files has this name.
fn file_of(stored: StoredImage, name: &str) -> Option<PathBuf> {
    match (name, stored.rootfs_path) {
        (COMBINED, None) | (METADATA, Some(_)) => Some(stored.meta_path),
        (SQUASHFS, Some(root)) if stored.squashfs => Some(root),
        (TARBALL, Some(root)) if !stored.squashfs => Some(root),
        (_, _) => None,
    }
}

/// `GET /images/<fingerprint>/<file>`: a file of a public image, or a part of it.
pub async fn file(call: Call) -> Result<Response> {
    switched_on(&call)?;
    let missing = || Error::NotFound("Image");
    let fingerprint = Fingerprint::new(call.param("fingerprint").to_owned()).map_err(|_| missing())?;
    let model = call.app.db.model();
    let image = model.image(&ProjectName::default(), &fingerprint).filter(|image| is_offered(&model, image));
    let image = image.ok_or_else(missing)?;
    let (store, wanted) = (Arc::clone(&call.app.instances.context().images), fingerprint.clone());
    let name = call.param("file").to_owned();
    let path = blocking(move || Ok::<_, Error>(file_of(store.get(&wanted)?, &name))).await?.ok_or_else(missing)?;
    let failed = |error| Error::Image(crate::image::Error::Io { doing: "read", path: path.clone(), error });
    let mut file = tokio::fs::File::open(&path).await.map_err(failed)?;
    let size = file.metadata().await.map_err(failed)?.len();
    let etag = format!("{fingerprint}-{}", call.param("file"));
    if has(&call, &etag) {
        let mut answer = response::bare();
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response::with_etag(answer, &etag));
    }
    let part = range(&call, size, &etag);
    let (status, from, length) = match part {
        Part::Whole => (StatusCode::OK, 0, size),
        Part::Some { from, length } => (StatusCode::PARTIAL_CONTENT, from, length),
        Part::Outside => (StatusCode::RANGE_NOT_SATISFIABLE, 0, 0),
    };
    let body = if call.method == Method::HEAD || length == 0 {
        Body::full(Bytes::new())
    } else {
        file.seek(SeekFrom::Start(from)).await.map_err(failed)?;
        Body::Stream(Box::pin(pieces(file, length)))
    };
    let mut answer = http::Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // Its name has its hash: what it holds never changes. That it may be had can.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    if let Some(modified) = http_date(image.uploaded_at) {
        headers.insert(LAST_MODIFIED, modified);
    }
    let told = match part {
        Part::Whole => None,
        Part::Some { from, length } => Some(format!("bytes {from}-{}/{size}", from + length - 1)),
        Part::Outside => Some(format!("bytes */{size}")),
    };
    if let Some(Ok(told)) = told.map(HeaderValue::try_from) {
        headers.insert(CONTENT_RANGE, told);
    }
    Ok(response::with_etag(answer, &etag))
}

/// A time as HTTP writes it (RFC 9110, 5.6.7).
fn http_date(at: i64) -> Option<HeaderValue> {
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let text = time::OffsetDateTime::from_unix_timestamp(at).ok()?.format(format).ok()?;
    HeaderValue::try_from(text).ok()
}

/// Which part of a file a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    /// Never empty.
    Some {
        from: u64,
        length: u64,
    },
    Outside,
}

fn range(call: &Call, size: u64, etag: &str) -> Part {
    let header = |name| call.headers.get(name).and_then(|value| value.to_str().ok());
    // Of another file than the client has a part of, it wants the whole.
    if header(IF_RANGE).is_some_and(|told| told.trim_matches('"') != etag) {
        return Part::Whole;
    }
    header(RANGE).map_or(Part::Whole, |text| parse_range(text, size))
}

/// One range of bytes; what is none, or more than one, is for the whole file (RFC 9110, 14.2).
fn parse_range(text: &str, size: u64) -> Part {
    let Some((from, to)) = text.trim().strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Part::Whole;
    };
    let (from, to) = match (from.trim().parse::<u64>(), to.trim().parse::<u64>()) {
        (Ok(from), Ok(to)) if from <= to => (from, to.min(size.saturating_sub(1))),
        (Ok(from), Err(_)) if to.trim().is_empty() => (from, size.saturating_sub(1)),
        (Err(_), Ok(last)) if from.trim().is_empty() => {
            if last == 0 {
                return Part::Outside;
            }
            (size.saturating_sub(last), size.saturating_sub(1))
        }
        _ => return Part::Whole,
    };
    if from >= size { Part::Outside } else { Part::Some { from, length: to - from + 1 } }
}

/// `length` bytes of a file.
fn pieces(file: tokio::fs::File, length: u64) -> impl Stream<Item = io::Result<Bytes>> + Send + Sync {
    futures_util::stream::unfold((file, length), async |(mut file, left)| {
        let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        if most == 0 {
            return None;
        }
        let mut buffer = BytesMut::with_capacity(most);
        match (&mut file).take(most as u64).read_buf(&mut buffer).await {
            Ok(0) => Some((Err(io::ErrorKind::UnexpectedEof.into()), (file, 0))),
            Ok(count) => Some((Ok(buffer.freeze()), (file, left - count as u64))),
            Err(error) => Some((Err(error), (file, 0))),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_parts_of_the_file_or_the_whole() {
        let some = |from, length| Part::Some { from, length };
        for (text, part) in [
            ("bytes=0-9", some(0, 10)),
            ("bytes=10-", some(10, 90)),
            ("bytes=-10", some(90, 10)),
            ("bytes=-1000", some(0, 100)),
            ("bytes=99-99", some(99, 1)),
            ("bytes=50-1000", some(50, 50)),
            ("bytes=100-", Part::Outside),
            ("bytes=100-200", Part::Outside),
            ("bytes=-0", Part::Outside),
            ("bytes=9-0", Part::Whole),
            ("bytes=0-1,5-6", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=-", Part::Whole),
            ("lines=0-1", Part::Whole),
            ("", Part::Whole),
            ("bytes=18446744073709551615-18446744073709551616", Part::Whole),
        ] {
            assert_eq!(parse_range(text, 100), part, "{text}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Part::Outside);
        assert_eq!(parse_range("bytes=-5", 0), Part::Outside);
    }

    #[test]
    fn times_are_written_as_http_wants_them() {
        assert_eq!(http_date(0).unwrap(), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http_date(784_111_777).unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
