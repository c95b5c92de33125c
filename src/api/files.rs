//! `/1.0/instances/<name>/files?path=` and `/1.0/instances/<name>/sftp`.
//!
//! Kind, owner and mode travel in the headers `X-LXD-type`, `-uid`, `-gid`, `-mode`; `X-Incus-…` is the same. Ids are the
//! container's own. A symbolic link is itself, never what it points to. A relative path counts from the root: LXD's own
//! client asks so.

use std::io;

use bytes::Bytes;
use futures_util::Stream;
use http::header::{
    CONNECTION, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LAST_MODIFIED, UPGRADE,
};
use http::{HeaderMap, HeaderName, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Map, json};
use time::OffsetDateTime;
use time::macros::format_description;

use super::body::BodyStream;
use super::call::{Call, query_bytes};
use super::entry::Body;
use super::error::Error;
use super::response::{self, Response};
use super::standing;
use super::websocket::has_token;
use crate::events::lifecycle::Lifecycle;
use crate::helper;
use crate::helper::files::{FileKind, FilePath, FilesRequest, Found, Ownership, Session};
use crate::instance;
use crate::names::InstanceKey;

type Result<T> = std::result::Result<T, Error>;

/// The longest target of a link, bytes.
const MAX_TARGET: usize = 4095;

/// What a `POST` says in its headers.
#[derive(Debug, PartialEq, Eq)]
struct Pushed {
    kind: FileKind,
    append: bool,
    /// Of what is new.
    ownership: Ownership,
    /// Of a file that is there. LXD 5.0.2 leaves it alone whatever owner and mode are told, and its client always tells
    /// them; so only what `X-LXD-modify-perm` names is changed.
    modify: Ownership,
}

fn header<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>> {
    let value = ["x-lxd-", "x-incus-"].iter().find_map(|prefix| headers.get(format!("{prefix}{name}")));
    let text = value.map(|value| value.to_str().map(str::trim)).transpose();
    let text = text.map_err(|_| bad_header(name, "it is no plain text".to_owned()))?;
    Ok(text.filter(|text| !text.is_empty()))
}

fn bad_header(name: &'static str, reason: String) -> Error {
    let name = match name {
        "type" => "X-LXD-type",
        "write" => "X-LXD-write",
        "mode" => "X-LXD-mode",
        "uid" => "X-LXD-uid",
        "gid" => "X-LXD-gid",
        other => other,
    };
    Error::Field { name, reason }
}

/// An id; -1 is LXD's word for none.
fn id(headers: &HeaderMap, name: &'static str) -> Result<Option<u32>> {
    match header(headers, name)? {
        None | Some("-1") => Ok(None),
        Some(text) => match text.parse() {
            // The last number means "none" to the kernel (chown(2)).
            Ok(u32::MAX) | Err(_) => Err(bad_header(name, format!("{text:?} is not an id from 0 to 4294967294"))),
            Ok(number) => Ok(Some(number)),
        },
    }
}

/// A mode: octal with a leading zero, else decimal.
fn mode(headers: &HeaderMap) -> Result<Option<u32>> {
    let Some(text) = header(headers, "mode")? else { return Ok(None) };
    let parsed = match text.strip_prefix("0o").or_else(|| text.strip_prefix('0')) {
        Some("") => Ok(0),
        Some(octal) => u32::from_str_radix(octal, 8),
        None => text.parse(),
    };
    match parsed {
        Ok(mode) if mode <= 0o7777 && !text.starts_with('+') => Ok(Some(mode)),
        Ok(_) | Err(_) => {
            Err(bad_header("mode", format!("{text:?} is not a mode like 0644 (octal) or 420 (decimal), up to 07777")))
        }
    }
}

impl Pushed {
    fn parse(headers: &HeaderMap) -> Result<Self> {
        let kind = match header(headers, "type")?.unwrap_or("file") {
            "file" => FileKind::File,
            "directory" => FileKind::Directory,
            "symlink" => FileKind::Symlink,
            other => return Err(bad_header("type", format!("{other:?} is none of file, directory, symlink"))),
        };
        let append = match header(headers, "write")?.unwrap_or("overwrite") {
            "overwrite" => false,
            "append" => true,
            other => return Err(bad_header("write", format!("{other:?} is neither overwrite nor append"))),
        };
        let ownership = Ownership { uid: id(headers, "uid")?, gid: id(headers, "gid")?, mode: mode(headers)? };
        let mut modify = Ownership::default();
        for word in header(headers, "modify-perm")?.unwrap_or_default().split(',').map(str::trim) {
            match word {
                "" => {}
                "uid" => modify.uid = ownership.uid,
                "gid" => modify.gid = ownership.gid,
                "mode" => modify.mode = ownership.mode,
                other => {
                    let reason = format!("{other:?} is none of uid, gid, mode");
                    return Err(Error::Field { name: "X-LXD-modify-perm", reason });
                }
            }
        }
        Ok(Self { kind, append, ownership, modify })
    }
}

fn path(call: &Call) -> Result<FilePath> {
    let bytes = query_bytes(&call.raw_query, "path").unwrap_or_default();
    FilePath::new(bytes).map_err(|rule| Error::Field { name: "path", reason: rule.to_owned() })
}

/// Says of which path the files did not allow something.
fn about(path: &FilePath) -> impl Fn(instance::Error) -> Error {
    let path = path.to_string();
    move |error| match error {
        instance::Error::Helper(helper::Error::Files(why)) => Error::File { path: path.clone(), why },
        other => Error::Instance(other),
    }
}

fn about_helper(path: &FilePath) -> impl Fn(helper::Error) -> Error {
    let about = about(path);
    move |error| about(instance::Error::Helper(error))
}

/// Tells everyone what was done to a file.
fn lifecycle(call: &Call, action: &'static str, key: &InstanceKey, path: &FilePath) {
    call.app.bus.lifecycle(Lifecycle {
        action,
        source: format!("/1.0/instances/{}", key.name),
        project: &key.project,
        context: Map::from_iter([("path".to_owned(), json!(path.to_string()))]),
        requestor: Some(&call.requestor()),
    });
}

/// `HEAD …/files?path=`.
pub async fn head(call: Call) -> Result<Response> {
    let (key, path) = (call.instance_key()?, path(&call)?);
    let mut session = call.app.instances.files(&key, FilesRequest::Look(path.clone())).await.map_err(about(&path))?;
    let found = session.found().await.map_err(about_helper(&path))?;
    let mut response = http::Response::new(Body::full(Bytes::new()));
    describe(response.headers_mut(), &found, &path);
    Ok(response)
}

/// `GET …/files?path=`: the file, the names in a directory, the target of a link.
pub async fn get(call: Call) -> Result<Response> {
    let (key, path) = (call.instance_key()?, path(&call)?);
    let mut session = call.app.instances.files(&key, FilesRequest::Read(path.clone())).await.map_err(about(&path))?;
    let found = session.found().await.map_err(about_helper(&path))?;
    let mut response = match found.kind {
        FileKind::File => http::Response::new(Body::Stream(Box::pin(content(session, found.size)))),
        FileKind::Directory => response::listing(names(session)),
        FileKind::Symlink => http::Response::new(Body::full(Bytes::from(found.target.clone()))),
    };
    describe(response.headers_mut(), &found, &path);
    lifecycle(&call, "instance-file-retrieved", &key, &path);
    Ok(response)
}

/// `POST …/files?path=`.
pub async fn push(mut call: Call) -> Result<Response> {
    let (key, path) = (call.instance_key()?, path(&call)?);
    let Pushed { kind, append, ownership: new, modify: existing } = Pushed::parse(&call.headers)?;
    let body = std::mem::replace(&mut call.body, BodyStream::empty());
    let request = match kind {
        FileKind::File => FilesRequest::Write { path: path.clone(), append, new, existing },
        FileKind::Directory => FilesRequest::MakeDirectory { path: path.clone(), new },
        FileKind::Symlink => {
            let target = body_of_link(body).await?;
            return pushed(&call, &key, &path, FilesRequest::MakeLink { path: path.clone(), target, new }, None).await;
        }
    };
    let content = (kind == FileKind::File).then_some(body);
    pushed(&call, &key, &path, request, content).await
}

async fn body_of_link(body: BodyStream) -> Result<FilePath> {
    let target = body.read_limited(MAX_TARGET).await.map_err(Error::Body)?;
    FilePath::new(target.to_vec())
        .map_err(|rule| Error::Field { name: "body", reason: format!("the target of the link: {rule}") })
}

async fn pushed(
    call: &Call,
    key: &InstanceKey,
    path: &FilePath,
    request: FilesRequest,
    content: Option<BodyStream>,
) -> Result<Response> {
    let mut session = call.app.instances.files(key, request).await.map_err(about(path))?;
    session.done().await.map_err(about_helper(path))?;
    if let Some(mut body) = content {
        while let Some(piece) = body.next_chunk().await {
            // A body that breaks off ends the session before its word that all has come: nothing has changed then.
            session.give(&piece.map_err(Error::Body)?).await.map_err(about_helper(path))?;
        }
        session.commit().await.map_err(about_helper(path))?;
    }
    lifecycle(call, "instance-file-pushed", key, path);
    Ok(response::sync(json!({})))
}

/// `DELETE …/files?path=`: a file, a link, an empty directory.
pub async fn delete(call: Call) -> Result<Response> {
    let (key, path) = (call.instance_key()?, path(&call)?);
    let mut session = call.app.instances.files(&key, FilesRequest::Delete(path.clone())).await.map_err(about(&path))?;
    session.done().await.map_err(about_helper(&path))?;
    lifecycle(&call, "instance-file-deleted", &key, &path);
    Ok(response::sync(json!({})))
}

/// `GET …/sftp` with `Upgrade: sftp`: the connection becomes an SFTP session.
pub async fn sftp(mut call: Call) -> Result<Response> {
    let key = call.instance_key()?;
    if !has_token(&call.headers, UPGRADE, "sftp") {
        return Err(Error::Upgrade);
    }
    let upgrade = call.upgrade.take().ok_or(Error::Upgrade)?;
    let check = standing::check(&call, key.project.clone().into());
    let place = call.app.sockets.admit(check).ok_or(Error::TooManySockets)?;
    let mut session = call.app.instances.files(&key, FilesRequest::Sftp).await?;
    session.done().await.map_err(instance::Error::Helper)?;
    tokio::spawn(async move {
        let relayed = async {
            match upgrade.await {
                Ok(stream) => session.relay(TokioIo::new(stream)).await,
                Err(error) => Err(io::Error::other(error)),
            }
        };
        let ended = tokio::select! {
            ended = relayed => ended,
            why = place.ended() => Err(io::Error::other(format!("{why:?}"))),
        };
        if let Err(error) = ended {
            tracing::debug!(instance = %key, %error, "an SFTP session broke off");
        }
    });
    let mut response = http::Response::new(Body::full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("sftp"));
    Ok(response)
}

/// Puts what was found into the headers of an answer.
fn describe(headers: &mut HeaderMap, found: &Found, path: &FilePath) {
    let kind = match found.kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
    };
    let modified = OffsetDateTime::from_unix_timestamp(found.modified).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let plain = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] +0000 UTC");
    let http =
        format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");
    let mut set = |name: HeaderName, value: Vec<u8>| {
        // A name of a file may hold what a header must not; then it is left out.
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            headers.insert(name, value);
        }
    };
    set(HeaderName::from_static("x-lxd-type"), kind.into());
    set(HeaderName::from_static("x-lxd-uid"), found.uid.to_string().into());
    set(HeaderName::from_static("x-lxd-gid"), found.gid.to_string().into());
    // Always with a leading zero, by which clients know that it is octal.
    set(HeaderName::from_static("x-lxd-mode"), format!("0{:03o}", found.mode).into());
    set(HeaderName::from_static("x-lxd-modified"), modified.format(plain).unwrap_or_default().into());
    if found.kind == FileKind::Directory {
        set(CONTENT_TYPE, "application/json".into());
        return;
    }
    set(CONTENT_TYPE, "application/octet-stream".into());
    set(CONTENT_DISPOSITION, [b"inline;filename=", path.file_name()].concat());
    set(LAST_MODIFIED, modified.format(http).unwrap_or_default().into());
    if let Some(size) = found.size {
        set(CONTENT_LENGTH, size.to_string().into());
    }
}

/// The content of a file. One that has become shorter meanwhile breaks the answer off: never less than was announced
/// as if it were all.
fn content(session: Session, size: Option<u64>) -> impl Stream<Item = io::Result<Bytes>> + Send + Sync {
    futures_util::stream::unfold(Some((session, size)), async |state| {
        let (mut session, left) = state?;
        if left == Some(0) {
            return None;
        }
        match session.next_piece().await {
            Err(error) => Some((Err(error), None)),
            Ok(None) if left.is_none() => None,
            Ok(None) => Some((Err(io::ErrorKind::UnexpectedEof.into()), None)),
            Ok(Some(piece)) => {
                let left = left.map(|left| left.saturating_sub(piece.len() as u64));
                Some((Ok(piece), Some((session, left))))
            }
        }
    })
}

/// The names of a directory; the helper ends each with a NUL.
fn names(session: Session) -> impl Stream<Item = io::Result<Vec<String>>> + Send + Sync {
    futures_util::stream::unfold(Some((session, Vec::new())), async |state| {
        let (mut session, mut begun) = state?;
        match session.next_piece().await {
            Err(error) => Some((Err(error), None)),
            Ok(None) if begun.is_empty() => None,
            Ok(None) => Some((Err(io::ErrorKind::UnexpectedEof.into()), None)),
            Ok(Some(piece)) => {
                begun.extend_from_slice(&piece);
                let whole = begun.iter().rposition(|byte| *byte == 0).map_or(0, |last| last + 1);
                let rest = begun.split_off(whole);
                let names = begun.split(|byte| *byte == 0).filter(|name| !name.is_empty());
                let names = names.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
                Some((Ok(names), Some((session, rest))))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &str)| (HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        fields.iter().map(field).collect()
    }

    #[test]
    fn headers_are_read_in_any_case_and_by_both_names() {
        let read = Pushed::parse(&headers(&[
            ("X-LXD-TYPE", "directory"),
            ("x-incus-mode", "0750"),
            ("X-Lxd-Uid", "7"),
            ("x-lxd-gid", "-1"),
        ]));
        let ownership = Ownership { uid: Some(7), gid: None, mode: Some(0o750) };
        let modify = Ownership::default();
        assert_eq!(read.unwrap(), Pushed { kind: FileKind::Directory, append: false, ownership, modify });
        let read = Pushed::parse(&headers(&[("x-lxd-mode", "420"), ("x-lxd-modify-perm", "mode, uid")])).unwrap();
        assert_eq!((read.ownership.mode, read.modify.mode, read.modify.uid), (Some(0o644), Some(0o644), None));
    }

    #[test]
    fn bad_headers_are_named() {
        for (name, value, named) in [
            ("x-lxd-type", "fifo", "X-LXD-type"),
            ("x-lxd-write", "banana", "X-LXD-write"),
            ("x-lxd-mode", "0999", "X-LXD-mode"),
            ("x-lxd-mode", "99999", "X-LXD-mode"),
            ("x-incus-mode", "rwx", "X-LXD-mode"),
            ("x-lxd-uid", "root", "X-LXD-uid"),
            ("x-lxd-gid", "4294967295", "X-LXD-gid"),
            ("x-lxd-gid", "-2", "X-LXD-gid"),
            ("x-lxd-modify-perm", "all", "X-LXD-modify-perm"),
        ] {
            let error = Pushed::parse(&headers(&[(name, value)])).unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
            assert_eq!(error.status(), StatusCode::BAD_REQUEST);
        }
    }
}
