//! Answers: the envelopes of the API as HTTP responses.

use std::io;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::{CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LOCATION};
use http::{Response as HttpResponse, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};

use super::entry::Body;
use super::error::Error;
use super::wire::Envelope;
use crate::ops::{self, Operation};

/// What a handler answers.
pub type Response = HttpResponse<Body>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NOSNIFF: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));

fn json(status: StatusCode, envelope: &Envelope) -> Response {
    let mut text = serde_json::to_vec(envelope).unwrap_or_default();
    text.push(b'\n');
    raw_json(status, text.into())
}

/// A response with ready-made JSON.
pub fn raw_json(status: StatusCode, text: Bytes) -> Response {
    let mut response = HttpResponse::new(Body::full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

fn to_value(metadata: impl Serialize) -> Value {
    serde_json::to_value(metadata).unwrap_or_default()
}

/// 200 with `metadata`.
pub fn sync(metadata: impl Serialize) -> Response {
    sync_json(&serde_json::to_vec(&metadata).unwrap_or_default())
}

/// 200 with `metadata` that is JSON already.
pub fn sync_json(metadata: &[u8]) -> Response {
    const HEAD: &[u8] =
        br#"{"type":"sync","status":"Success","status_code":200,"operation":"","error_code":0,"error":"","metadata":"#;
    let mut text = bytes::BytesMut::with_capacity(HEAD.len() + metadata.len() + 2);
    text.extend_from_slice(HEAD);
    text.extend_from_slice(if metadata.is_empty() { b"null" } else { metadata });
    text.extend_from_slice(b"}\n");
    raw_json(StatusCode::OK, text.freeze())
}

fn success(metadata: Value) -> Envelope {
    Envelope {
        kind: "sync".to_owned(),
        status: "Success".to_owned(),
        status_code: 200,
        metadata,
        ..Envelope::default()
    }
}

/// 200 without a body.
pub fn bare() -> Response {
    HttpResponse::new(Body::full(Bytes::new()))
}

/// 200 without anything to tell.
pub fn empty() -> Response {
    sync(Map::new())
}

/// 200 with `metadata` and the ETag of its modifiable part.
pub fn tagged(metadata: impl Serialize, etag: &str) -> Response {
    with_etag(sync(metadata), etag)
}

/// The same response with an ETag.
pub fn with_etag(mut response: Response, etag: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(&format!("\"{etag}\"")) {
        response.headers_mut().insert(ETAG, value);
    }
    response
}

/// 201: `location` was made.
pub fn created(location: &str) -> Response {
    let mut response = json(StatusCode::CREATED, &success(Value::Null));
    locate(&mut response, location);
    response
}

/// 202: `operation` runs.
pub fn accepted(operation: &Operation) -> Response {
    let url = operation.url();
    let envelope = Envelope {
        kind: "async".to_owned(),
        status: "Operation created".to_owned(),
        status_code: 100,
        operation: url.clone(),
        metadata: to_value(operation.to_wire()),
        ..Envelope::default()
    };
    let mut response = json(StatusCode::ACCEPTED, &envelope);
    locate(&mut response, &url);
    response
}

fn locate(response: &mut Response, location: &str) {
    if let Ok(value) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, value);
    }
}

/// A file, piece by piece.
pub fn pieces(file: tokio::fs::File) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send + Sync {
    futures_util::stream::unfold(file, async |mut file| {
        let mut buffer = bytes::BytesMut::with_capacity(64 * 1024);
        match tokio::io::AsyncReadExt::read_buf(&mut file, &mut buffer).await {
            Ok(0) => None,
            Ok(_) => Some((Ok(buffer.freeze()), file)),
            Err(error) => Some((Err(error), file)),
        }
    })
}

/// 200 with a list as `metadata` that comes piece by piece, however long it is. Piece by piece means chunked; an error on
/// the way breaks the answer off.
pub fn listing(names: impl Stream<Item = io::Result<Vec<String>>> + Send + Sync + 'static) -> Response {
    let mut head = serde_json::to_vec(&success(Value::Array(Vec::new()))).unwrap_or_default();
    // The list is the last field of the envelope.
    let tail = head.split_off(head.len().saturating_sub(2));
    let mut first = true;
    let names = names.map(move |names| {
        let mut text = Vec::new();
        for name in names? {
            if !std::mem::take(&mut first) {
                text.push(b',');
            }
            serde_json::to_writer(&mut text, &name)?;
        }
        Ok(Bytes::from(text))
    });
    let piece = |text: Vec<u8>| futures_util::stream::once(std::future::ready(Ok(Bytes::from(text))));
    let pieces = piece(head).chain(names).chain(piece([tail.as_slice(), b"\n"].concat()));
    let mut response = HttpResponse::new(Body::Stream(Box::pin(pieces)));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// The error's status and message.
pub fn error(error: &Error) -> Response {
    let status = error.status();
    let envelope = Envelope {
        kind: "error".to_owned(),
        error: ops::told(error),
        error_code: status.as_u16(),
        ..Envelope::default()
    };
    let mut response = json(status, &envelope);
    let (name, value) = NOSNIFF;
    response.headers_mut().insert(name, value);
    response
}

/// The ETag of the modifiable part of an object: an opaque SHA-256.
pub fn etag(modifiable: impl Serialize) -> String {
    let text = serde_json::to_vec(&to_value(modifiable)).unwrap_or_default();
    hex::encode(ring::digest::digest(&ring::digest::SHA256, &text))
}
