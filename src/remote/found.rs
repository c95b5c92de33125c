//! What a server says about an image, by each of the protocols.

use std::borrow::Cow;
use std::sync::Arc;

use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::{Asking, Error};
use super::index::Lists;
use super::signature::Keys;
use super::source::{Named, Protocol, Source};
use super::streams::{self, Entry, Files, Skipped};
use crate::api::wire::{self, Config};
use crate::db::Seconds;
use crate::fetch::{self, Client, Total, Url};
use crate::image;
use crate::names::Fingerprint;

/// The longest answer of LXD's API that is read, bytes.
const ANSWER: u64 = 1 << 20;

/// An image on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its fingerprint: nothing else is taken for it.
    pub fingerprint: Fingerprint,
    /// Of its files, if the server gives it one.
    pub filename: String,
    /// What the server says about it; empty: only itself does.
    pub properties: Config,
    /// When it was made; 0: only itself says it.
    pub created_at: Seconds,
    /// When its support ends; 0 is never.
    pub expires_at: Seconds,
    pub(super) place: Place,
}

/// Where its files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Below each of the servers; of which product they are.
    Streams(Files, String),
    /// What LXD's API exports, of that server; bytes of all files.
    Export(Url, u64),
    /// Somewhere; whose word that is.
    At(Url, Url),
}

impl Place {
    /// Bytes of all files, as far as they are known before.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Streams(Files::Unified(file), _) => file.size,
            Self::Streams(Files::Split(metadata, root), _) => metadata.size.saturating_add(root.size),
            Self::Export(_, size) => *size,
            Self::At(..) => 0,
        }
    }
}

/// What is of use.
pub(super) struct Wish<'a> {
    /// Architectures, the host's own first. Whoever only keeps an image for others takes any.
    pub(super) host: Arc<[&'static str]>,
    /// By whom lists must be signed.
    pub(super) keys: Option<Keys>,
    /// Goes before the host's own.
    pub(super) preferred: &'a str,
    /// How old a list may be.
    pub(super) fresh: std::time::Duration,
}

impl Wish<'_> {
    fn order(&self) -> Vec<&'static str> {
        let (mut first, rest): (Vec<_>, Vec<_>) = self.host.iter().copied().partition(|word| *word == self.preferred);
        first.extend(rest);
        first
    }
}

/// Asks the servers, one after the other, until one answers. What comes along is why a list is not the newest.
///
/// # Errors
/// Of the first server that knows nothing of it or cannot be asked.
pub(super) async fn find(
    client: &Client,
    lists: &Lists,
    source: &Source,
    wish: &Wish<'_>,
) -> Result<(Found, Option<Error>), Error> {
    let mut first = None;
    for server in &source.servers {
        let result = match source.protocol {
            Protocol::Simplestreams => by_streams(client, lists, server, source, wish).await,
            Protocol::Lxd => by_lxd(client, server, source, wish).await.map(|found| (found, None)),
            Protocol::Direct => by_headers(client, server, wish).await.map(|found| (found, None)),
        };
        match result {
            // A list of before, while another mirror may have a newer one.
            Ok((found, Some(error))) if source.servers.len() > 1 => drop(first.get_or_insert(Ok((found, Some(error))))),
            Ok(found) => return Ok(found),
            Err(error) => drop(first.get_or_insert(Err(error))),
        }
    }
    let no_image = || Error::NoImage { server: source.shown(), what: source.what(), asked: Asking::Listed };
    first.unwrap_or_else(|| Err(no_image()))
}

async fn by_streams(
    client: &Client,
    lists: &Lists,
    server: &Url,
    source: &Source,
    wish: &Wish<'_>,
) -> Result<(Found, Option<Error>), Error> {
    let signed = |path: &str| signed(server, path, wish.keys.is_some());
    let keys = wish.keys.clone();
    let parse = move |list: &[u8]| streams::lists(&believed(keys.as_ref(), list)?);
    let url = signed("streams/v1/index.json")?;
    let index = lists.get(client, &url, wish.fresh, parse).await.map_err(|error| unsigned(error, &url, wish))?;
    let (mut entries, mut skipped, mut stale) = (Vec::new(), Vec::new(), index.stale);
    for path in &index.content {
        let (host, keys) = (Arc::clone(&wish.host), wish.keys.clone());
        let parse = move |list: &[u8]| streams::images(&believed(keys.as_ref(), list)?, &host);
        let url = signed(path)?;
        let list = lists.get(client, &url, wish.fresh, parse).await.map_err(|error| unsigned(error, &url, wish))?;
        entries.extend(list.content.entries);
        if let Some(first) = list.content.skipped.first() {
            let (count, product, reason) = (list.content.skipped.len(), &first.product, &first.reason);
            tracing::debug!(%url, count, %product, %reason, "parts of a list of images are not usable; the first of them");
        }
        skipped.extend(list.content.skipped);
        stale = stale.or(list.stale);
    }
    let no_image = || {
        let (server, what) = (server.to_string(), source.what());
        match skipped.iter().find(|skipped| skipped.may_be(&what)) {
            Some(Skipped { product, reason, .. }) => {
                Error::Skipped { server, what, product: product.clone(), reason: reason.clone() }
            }
            None => Error::NoImage { server, what, asked: Asking::Listed },
        }
    };
    let by_fingerprint = |wanted: &str| match streams::by_fingerprint(&entries, wanted)[..] {
        [] => Err(no_image()),
        [entry] => Ok(entry),
        [..] => Err(Error::Ambiguous { server: server.to_string(), what: wanted.to_owned() }),
    };
    let entry: &Entry = match &source.named {
        Named::Fingerprint(whole) if whole.len() == 64 => by_fingerprint(whole)?,
        // A name may look like the beginning of a fingerprint, and goes before one, as in the stock client.
        Named::Fingerprint(name) | Named::Alias(name) => match streams::by_alias(&entries, name, &wish.order()) {
            Some(entry) => entry,
            // A client hands a fingerprint over as an alias when it cannot know better.
            None if is_beginning(name) => by_fingerprint(name)?,
            None => return Err(no_image()),
        },
        Named::Itself => return Err(no_image()),
    };
    let found = Found {
        fingerprint: entry.fingerprint.clone(),
        filename: String::new(),
        properties: entry.properties(),
        created_at: entry.created_at,
        expires_at: entry.expires_at,
        place: Place::Streams(entry.files.clone(), entry.product.clone()),
    };
    Ok((found, stale))
}

/// Where a list is; those that are signed are called `.sjson`, also where the index names the others.
fn signed(server: &Url, path: &str, signed: bool) -> Result<Url, Error> {
    match path.strip_suffix(".json").filter(|_| signed) {
        Some(name) => Ok(server.file_below(&format!("{name}.sjson"))?),
        None => Ok(server.file_below(path)?),
    }
}

/// What of a list is read.
fn believed<'a>(keys: Option<&Keys>, list: &'a [u8]) -> Result<Cow<'a, [u8]>, String> {
    keys.map_or(Ok(Cow::Borrowed(list)), |keys| keys.verified(list).map(Cow::Owned))
}

/// That a list lacks is told differently where it must be signed.
fn unsigned(error: Error, url: &Url, wish: &Wish<'_>) -> Error {
    if wish.keys.is_none() || !error.is_missing() {
        return error;
    }
    let reason =
        format!("a key is pinned for this server (images.streams_key.{}), and it has no signed list", url.authority());
    Error::Index { url: url.to_string(), reason }
}

/// Whether a name can be the beginning of a fingerprint that somebody copied.
fn is_beginning(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The metadata of an answer of LXD's API.
async fn ask<T: DeserializeOwned>(client: &Client, url: &Url) -> Result<T, Error> {
    #[derive(Deserialize)]
    struct Answer<T> {
        metadata: T,
    }
    let (_, body) = client.read(url, &HeaderMap::new(), ANSWER).await?;
    let answer: Answer<T> = serde_json::from_slice(&body)
        .map_err(|error| Error::Answer { url: url.to_string(), reason: error.to_string() })?;
    Ok(answer.metadata)
}

/// What of a text in a path or query stands for itself.
const PLAIN: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, PLAIN).to_string()
}

async fn by_lxd(client: &Client, server: &Url, source: &Source, wish: &Wish<'_>) -> Result<Found, Error> {
    let mut query = vec![];
    if !source.project.is_empty() {
        query.push(format!("project={}", encoded(&source.project)));
    }
    let named = |path: &str, query: &[String]| {
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        server.below(&format!("1.0/images/{path}{query}"))
    };
    let asked = if source.secret.is_empty() { Asking::Public } else { Asking::Secret };
    let no_image = |error: Error| match error.is_missing() {
        true => Error::NoImage { server: server.to_string(), what: source.what(), asked },
        false => error,
    };
    let wanted = match &source.named {
        Named::Fingerprint(whole) if whole.len() == 64 => whole.clone(),
        Named::Fingerprint(name) | Named::Alias(name) => {
            let alias = ask::<wire::ImageAlias>(client, &named(&format!("aliases/{}", encoded(name)), &query)?).await;
            match alias {
                Ok(alias) => alias.target.unwrap_or_default(),
                Err(error) if error.is_missing() && is_beginning(name) => name.to_ascii_lowercase(),
                Err(error) => return Err(no_image(error)),
            }
        }
        Named::Itself => String::new(),
    };
    if !source.secret.is_empty() {
        query.push(format!("secret={}", encoded(&source.secret)));
    }
    let url = named(&encoded(&wanted), &query)?;
    let image: wire::Image = ask(client, &url).await.map_err(no_image)?;
    let wrong = |reason: &str| Error::Answer { url: url.to_string(), reason: reason.to_owned() };
    if !matches!(image.kind.as_str(), "" | "container") {
        return Err(Error::NotAContainer { server: server.to_string(), what: source.what(), kind: image.kind });
    }
    let fingerprint = Fingerprint::new(image.fingerprint).map_err(|error| wrong(&error.to_string()))?;
    if !fingerprint.as_str().starts_with(&wanted) {
        return Err(wrong("it is about another image"));
    }
    if !image::architecture(&image.architecture).is_some_and(|word| wish.host.contains(&word)) {
        let has = crate::names::shortened(&image.architecture);
        return Err(Error::Architecture {
            server: server.to_string(),
            what: source.what(),
            has,
            host: wish.host.join(" and "),
        });
    }
    let size = u64::try_from(image.size).map_err(|_| wrong("its size is negative"))?;
    let time = |text: &str| crate::db::seconds(text).unwrap_or(0).max(0);
    Ok(Found {
        place: Place::Export(named(&format!("{fingerprint}/export"), &query)?, size),
        fingerprint,
        filename: image.filename.rsplit('/').next().unwrap_or_default().to_owned(),
        properties: image.properties,
        created_at: time(&image.created_at),
        expires_at: time(&image.expires_at),
    })
}

/// `LXD-Image-Hash` and `LXD-Image-URL` of an address.
async fn by_headers(client: &Client, address: &Url, wish: &Wish<'_>) -> Result<Found, Error> {
    let mut headers = HeaderMap::new();
    for prefix in ["lxd", "incus"] {
        let name = |rest: &str| HeaderName::try_from(format!("{prefix}-server-{rest}"));
        if let (Ok(architectures), Ok(version)) = (name("architectures"), name("version"))
            && let Ok(list) = HeaderValue::from_str(&wish.host.join(", "))
        {
            headers.insert(architectures, list);
            headers.insert(version, HeaderValue::from_static("5.0.2"));
        }
    }
    let reply = client.get(Method::HEAD, address, &headers).await?;
    let field = |rest: &str| {
        let named = |prefix: &str| reply.headers.get(format!("{prefix}-image-{rest}"))?.to_str().ok();
        named("lxd").or_else(|| named("incus")).unwrap_or_default().to_owned()
    };
    let wrong = |reason: String| Error::Answer { url: address.to_string(), reason };
    let (hash, place) = (field("hash"), field("url"));
    if hash.is_empty() || place.is_empty() {
        return Err(wrong("it has not the fields LXD-Image-Hash and LXD-Image-URL that tell of an image".to_owned()));
    }
    let fingerprint = Fingerprint::new(hash.to_ascii_lowercase()).map_err(|error| wrong(error.to_string()))?;
    let place = fetch::redirected(&reply.url, &place)?;
    let path = place.target().split('?').next().unwrap_or_default();
    let filename = path.rsplit('/').next().unwrap_or_default().to_owned();
    Ok(Found {
        fingerprint,
        filename,
        properties: Config::new(),
        created_at: 0,
        expires_at: 0,
        place: Place::At(place, address.clone()),
    })
}

/// How much a file may have.
pub(super) fn total(size: u64) -> Total {
    if size == 0 { Total::AtMost(image::Limits::default().max_bytes) } else { Total::Exactly(size) }
}
