//! The answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::poll_fn;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, UPGRADE};
use http::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Server;
use crate::api::entry::{Body, Request};
use crate::api::response::{self, Response};
use crate::api::wire::{Config, Devices};
use crate::api::{call, images, websocket};
use crate::config::bool_of;
use crate::db::Instance;
use crate::events::GuestKind;
use crate::instance::{Guest, READY, Stranger};
use crate::profile::{self, Expanded};

/// A body is at most this long, bytes…
const MAX_BODY: usize = 16 * 1024;
/// …and there within this time.
const BODY_TIME: Duration = Duration::from_secs(10);

/// A refusal: its status, and its text, which is LXD's where LXD has one.
struct Refused(StatusCode, &'static str);

const NOT_AUTHORIZED: Refused = Refused(StatusCode::FORBIDDEN, "not authorized");
const NOT_FOUND: Refused = Refused(StatusCode::NOT_FOUND, "not found");
const NO_PAGE: Refused = Refused(StatusCode::NOT_FOUND, "404 page not found");
const OUTSIDE: Refused = Refused(StatusCode::INTERNAL_SERVER_ERROR, "pid not in container?");

/// What a container says of itself.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
enum State {
    Started,
    Ready,
}

fn raw(text: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::full(text.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response
}

fn json(value: impl Serialize) -> Response {
    let mut text = serde_json::to_vec(&value).unwrap_or_default();
    text.push(b'\n');
    response::raw_json(StatusCode::OK, text.into())
}

fn refusal(Refused(status, text): &Refused) -> Response {
    let mut response = Response::new(Body::full(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = *status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    response
}

/// Answers a request of who was found to have connected.
pub(super) async fn answer(server: &Server, who: Result<Guest, Stranger>, request: Request) -> Response {
    let guest = match who {
        Ok(guest) => guest,
        Err(Stranger::Outside) => return refusal(&OUTSIDE),
        Err(Stranger::NotRoot(_)) => {
            return refusal(&Refused(StatusCode::UNAUTHORIZED, "Access denied for non-root user"));
        }
    };
    match routed(server, &guest, request).await {
        Ok(response) => response,
        Err(refused) => refusal(&refused),
    }
}

/// Whether a container sees this key of its configuration.
fn shown(key: &str) -> bool {
    key.starts_with("user.") || key.starts_with("cloud-init.")
}

async fn routed(server: &Server, guest: &Guest, request: Request) -> Result<Response, Refused> {
    let app = &server.app;
    let model = app.db.model();
    // A connection may have been handed on, or outlived the container that made it.
    let up = app.instances.context().guests.is_up(guest);
    let instance = model.instances.get(&guest.key).filter(|_| up).ok_or(OUTSIDE)?;
    let expanded = profile::expand_instance(&model, instance);
    if !bool_of(&expanded.config, "security.devlxd") {
        return Err(NOT_AUTHORIZED);
    }
    let path = request.path.clone();
    let known = match path.strip_prefix("/1.0") {
        None => path == "/",
        Some(rest) => {
            matches!(rest, "" | "/config" | "/meta-data" | "/devices" | "/events")
                || rest.strip_prefix("/config/").is_some_and(|key| !key.is_empty())
                || image_of(rest).is_some()
        }
    };
    if !known {
        return Err(NO_PAGE);
    }
    match (&request.method, path.as_str()) {
        (&Method::PATCH, "/1.0") => return patch(server, guest, request).await,
        (&Method::GET | &Method::HEAD, _) => {}
        _ => return Err(Refused(StatusCode::NOT_IMPLEMENTED, "not implemented")),
    }
    Ok(match path.as_str() {
        "/" => json(["/1.0"]),
        "/1.0" => json(about(instance)),
        "/1.0/config" => {
            let keys = expanded.config.keys().filter(|key| shown(key));
            json(keys.map(|key| format!("/1.0/config/{key}")).collect::<Vec<_>>())
        }
        "/1.0/meta-data" => raw(meta_data(instance, &expanded)),
        "/1.0/devices" => json(devices(instance, expanded.devices)),
        "/1.0/events" => events(server, guest, request)?,
        path => match (path.strip_prefix("/1.0/config/"), path.strip_prefix("/1.0").and_then(image_of)) {
            (Some(key), _) => value(&expanded.config, key)?,
            (None, Some(image)) if bool_of(&expanded.config, "security.devlxd.images") => {
                let found = images::among(&model, &guest.key.project, image, |image| image.public || image.cached);
                let exported = match found {
                    Ok(image) => images::file_of(app, &image).await,
                    Err(error) => Err(error),
                };
                exported.unwrap_or_else(|error| response::error(&error))
            }
            (None, _) => return Err(NOT_AUTHORIZED),
        },
    })
}

fn image_of(rest: &str) -> Option<&str> {
    rest.strip_prefix("/images/")?.strip_suffix("/export").filter(|image| !image.is_empty() && !image.contains('/'))
}

fn about(instance: &Instance) -> serde_json::Value {
    let state = if instance.config.contains_key(READY) { "Ready" } else { "Started" };
    json!({"state": state, "api_version": "1.0", "instance_type": "container", "location": "none"})
}

async fn patch(server: &Server, guest: &Guest, request: Request) -> Result<Response, Refused> {
    let body = request.body.read_within(MAX_BODY, BODY_TIME).await;
    let body = body.map_err(|_| Refused(StatusCode::BAD_REQUEST, "the body is too long, or does not come"))?;
    let wrong = Refused(StatusCode::BAD_REQUEST, "the body must be {\"state\":\"Ready\"} or {\"state\":\"Started\"}");
    let said: Said = serde_json::from_slice(&body).map_err(|_| wrong)?;
    match server.app.instances.set_ready(guest, said.state == State::Ready).await {
        Ok(()) => Ok(raw("")),
        Err(error) => {
            tracing::warn!(instance = %guest.key, %error, "writing down that it is ready");
            Err(Refused(StatusCode::INTERNAL_SERVER_ERROR, "it could not be written down: try again"))
        }
    }
}

fn value(config: &Config, key: &str) -> Result<Response, Refused> {
    let key = percent_decode_str(key).decode_utf8().map_err(|_| NOT_FOUND)?;
    if !shown(&key) {
        return Err(NOT_AUTHORIZED);
    }
    config.get(key.as_ref()).map(|value| raw(value.clone())).ok_or(NOT_FOUND)
}

fn meta_data(instance: &Instance, expanded: &Expanded) -> String {
    let of = |key: &str| instance.config.get(key);
    let id = of("volatile.cloud-init.instance-id").or_else(|| of("volatile.uuid"));
    let (id, name) = (id.map_or(instance.key.name.as_str(), String::as_str), &instance.key.name);
    let own = expanded.config.get("user.meta-data").map_or("", String::as_str);
    format!("#cloud-config\ninstance-id: {id}\nlocal-hostname: {name}\n{own}")
}

/// With the addresses that the daemon gave, by which a guest finds its interfaces.
fn devices(instance: &Instance, mut devices: Devices) -> Devices {
    for (name, device) in &mut devices {
        let given = instance.config.get(&format!("volatile.{name}.hwaddr"));
        if let Some(given) = given.filter(|_| device.get("type").is_some_and(|kind| kind == "nic")) {
            device.entry("hwaddr".to_owned()).or_insert_with(|| given.clone());
        }
    }
    devices
}

fn events(server: &Server, guest: &Guest, mut request: Request) -> Result<Response, Refused> {
    let kinds = match call::parse_query(&request.query).remove("type") {
        None => GuestKind::ALL.to_vec(),
        Some(words) => words
            .split(',')
            .map(|word| {
                GuestKind::parse(word).ok_or(Refused(StatusCode::BAD_REQUEST, "type is a list of config and device"))
            })
            .collect::<Result<_, _>>()?,
    };
    let guests = &server.app.instances.context().guests;
    if !request.headers.contains_key(UPGRADE) {
        let mut events = guests.subscribe(guest, kinds).ok_or(OUTSIDE)?;
        let lines = poll_fn(move |cx| {
            let line = |text: Arc<str>| Ok::<_, std::io::Error>(Bytes::from(format!("{text}\n")));
            events.poll_recv(cx).map(|event| event.map(line))
        });
        let mut response = Response::new(Body::Stream(Box::pin(lines)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        return Ok(response);
    }
    let (answer, socket) = match websocket::accept(&request.headers, request.upgrade.take(), &server.sockets, None) {
        Ok(accepted) => accepted,
        Err(error) => return Ok(response::error(&error)),
    };
    // Before the answer is sent: what happens after the client's handshake is never missed.
    let events = guests.subscribe(guest, kinds).ok_or(OUTSIDE)?;
    tokio::spawn(async move {
        let Ok(socket) = socket.await else { return };
        socket.tell(events, "No more events: too many were not taken, or the daemon ends").await;
    });
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_images_are_taken_apart() {
        assert_eq!(image_of("/images/abc/export"), Some("abc"));
        for path in ["/images//export", "/images/a/b/export", "/images/abc", "/images/export"] {
            assert_eq!(image_of(path), None, "{path}");
        }
    }

    #[test]
    fn a_state_is_one_of_two_words() {
        let state = |text: &str| serde_json::from_str::<Said>(text).ok().map(|said| said.state == State::Ready);
        assert_eq!(state(r#"{"state":"Ready"}"#), Some(true));
        assert_eq!(state(r#"{"state":"Started"}"#), Some(false));
        for text in ["", "{}", r#"{"state":"ready"}"#, r#"{"state":1}"#, r#"{"state":"Ready","x":1}"#, "[]", "null"] {
            assert_eq!(state(text), None, "{text}");
        }
    }
}
