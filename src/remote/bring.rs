//! The files of an image, from a server into the store.

use bytes::Bytes;
use futures_util::Stream;
use http::header::HeaderMap;
use ring::digest::{Context, SHA256};

use super::blocking;
use super::error::Error;
use super::found::{Found, Place, total};
use super::source::Source;
use super::streams::{File, Files};
use crate::fetch::{self, Client, Download, Total, Url};
use crate::image::{self, Part, Received, Store, Upload, Writer};
use crate::multipart;

/// What multipart adds to the files: heads and boundaries, bytes.
const HEADS: u64 = 64 * 1024;

/// So often an image whose parts cannot be gone on with is fetched anew.
const ANEW: usize = 5;

/// Who is told how far it is: part, bytes of it, bytes in all if that is known.
pub(super) type Told<'a> = &'a (dyn Fn(&'static str, u64, Option<u64>) + Send + Sync);

/// Fetches the files of an image and verifies them; from the next mirror what one does not give.
///
/// # Errors
/// Of the first mirror. Nothing stays.
pub(super) async fn bring(
    client: &Client,
    store: &Store,
    source: &Source,
    found: &Found,
    told: Told<'_>,
) -> Result<(Received, Option<String>), Error> {
    let mut first = None;
    let servers = match &found.place {
        Place::Streams(..) => source.servers.as_slice(),
        Place::Export(..) | Place::At(..) => &source.servers[..1],
    };
    for server in servers {
        let mut anew = 0;
        loop {
            match bring_from(client, store, server, found, told).await {
                Ok(received) => return Ok(received),
                Err(Error::Fetch(fetch::Error::Changed { .. })) if anew < ANEW => anew += 1,
                Err(error) => {
                    first.get_or_insert(error);
                    break;
                }
            }
        }
    }
    Err(first.unwrap_or(Error::NotFound))
}

async fn bring_from(
    client: &Client,
    store: &Store,
    server: &Url,
    found: &Found,
    told: Told<'_>,
) -> Result<(Received, Option<String>), Error> {
    let (upload, filename) = files(client, server, found, store.incoming().await, told).await?;
    let expected = found.fingerprint.clone();
    let finished = blocking(move || Ok(upload.finish(Some(&expected))?)).await;
    Ok((finished.map_err(|error| sent_by(server, error))?, filename))
}

/// What is wrong with an upload, said of what a server sent.
fn sent_by(server: &Url, error: Error) -> Error {
    let server = server.to_string();
    match error {
        Error::Image(image::Error::Fingerprint { expected, found }) => Error::Damaged { server, expected, found },
        Error::Image(image::Error::Empty) => Error::Nothing { server },
        error => error,
    }
}

async fn files(
    client: &Client,
    server: &Url,
    found: &Found,
    upload: Upload,
    told: Told<'_>,
) -> Result<(Upload, Option<String>), Error> {
    match &found.place {
        Place::Streams(Files::Unified(file), product) => {
            let of = Of { client, server, product, told };
            let upload = of.part(file, upload, Part::Unified, "").await?;
            Ok((upload, name_of(&file.path)))
        }
        Place::Streams(Files::Split(metadata, root), product) => {
            let of = Of { client, server, product, told };
            let upload = of.part(metadata, upload, Part::Metadata, "metadata").await?;
            let upload = of.part(root, upload, Part::Rootfs, "rootfs").await?;
            Ok((upload, name_of(&root.path)))
        }
        Place::Export(url, size) => {
            let wanted = match total(*size) {
                Total::Exactly(size) => Total::AtMost(size + HEADS),
                any @ Total::AtMost(_) => any,
            };
            let download = client.download(url, &HeaderMap::new(), wanted).await?;
            export(download, *size, upload, told).await
        }
        Place::At(url, by) => {
            let limit = total(0);
            let download = client.clone().guarded(by).download(url, &HeaderMap::new(), limit).await?;
            export(download, 0, upload, told).await
        }
    }
}

fn name_of(path: &str) -> Option<String> {
    path.rsplit('/').next().filter(|name| !name.is_empty()).map(str::to_owned)
}

/// Of what the files of a plain server are.
struct Of<'a> {
    client: &'a Client,
    server: &'a Url,
    product: &'a str,
    told: Told<'a>,
}

impl Of<'_> {
    async fn part(&self, file: &File, upload: Upload, part: Part, stage: &'static str) -> Result<Upload, Error> {
        let mut writer = Writer::new(upload);
        writer.part(part).await?;
        let url = self.server.file_below(&file.path)?;
        let mut download = self.client.download(&url, &HeaderMap::new(), total(file.size)).await?;
        let length = download.length();
        // A piece is a few dozen KiB: that is no work to give to another thread.
        let mut own = file.sha256.map(|expected| (expected, Context::new(&SHA256)));
        while let Some(bytes) = download.chunk().await? {
            if let Some((_, digest)) = &mut own {
                digest.update(&bytes);
            }
            writer.take(bytes).await?;
            (self.told)(stage, writer.count(), length);
        }
        // Written to its end before it is judged: what is refused goes at once.
        let upload = writer.end().await?;
        if let Some((expected, digest)) = own {
            let found = digest.finish();
            if found.as_ref() != expected.as_slice() {
                return Err(Error::File {
                    server: self.server.to_string(),
                    path: file.path.clone(),
                    product: crate::names::shortened(self.product),
                    expected: hex::encode(expected),
                    found: hex::encode(found),
                });
            }
        }
        Ok(upload)
    }
}

/// One file, or both as multipart.
async fn export(
    mut download: Download,
    size: u64,
    upload: Upload,
    told: Told<'_>,
) -> Result<(Upload, Option<String>), Error> {
    let mut writer = Writer::new(upload);
    let length = download.length().or((size > 0).then_some(size));
    let content_type = download.content_type.clone();
    if !content_type.to_ascii_lowercase().starts_with("multipart/") {
        writer.part(Part::Unified).await?;
        while let Some(bytes) = download.chunk().await? {
            writer.take(bytes).await?;
            if size != 0 && writer.count() > size {
                return Err(image::Error::Limit { what: "bytes", limit: size }.into());
            }
            told("", writer.count(), length);
        }
        return Ok((writer.end().await?, None));
    }
    let wrong = |error: multipart::Error| match error {
        // Ours, from below.
        multipart::Error::StreamReadFailed(error) => match error.downcast::<fetch::Error>() {
            Ok(error) => Error::Fetch(*error),
            Err(error) => image::Error::BadArchive { reason: error.to_string() }.into(),
        },
        error => image::Error::BadArchive { reason: format!("its multipart body is broken: {error}") }.into(),
    };
    let boundary = multipart::parse_boundary(&content_type).map_err(wrong)?;
    let mut parts = multipart::parts(stream(download), boundary);
    let (mut filename, mut before) = (None, 0);
    for (kind, names, stage) in
        [(Part::Metadata, ["metadata", ""], "metadata"), (Part::Rootfs, ["rootfs", "rootfs.img"], "rootfs")]
    {
        let missing = || image::Error::BadArchive { reason: format!("the server sends no part {stage:?}") };
        let mut part = parts.next_field().await.map_err(wrong)?.ok_or_else(missing)?;
        if !part.name().is_some_and(|name| names.contains(&name)) {
            return Err(missing().into());
        }
        filename = part.file_name().and_then(name_of);
        writer.part(kind).await?;
        while let Some(bytes) = part.chunk().await.map_err(wrong)? {
            writer.take(bytes).await?;
            told(stage, before + writer.count(), length);
        }
        before += writer.count();
    }
    Ok((writer.end().await?, filename))
}

fn stream(download: Download) -> impl Stream<Item = Result<Bytes, fetch::Error>> + Send {
    futures_util::stream::unfold(Some(download), async |download| {
        let mut download = download?;
        match download.chunk().await {
            Ok(None) => None,
            Ok(Some(bytes)) => Some((Ok(bytes), Some(download))),
            Err(error) => Some((Err(error), None)),
        }
    })
}
