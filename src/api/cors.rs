//! The word to browsers that programs from elsewhere may use the API: `core.https_allowed_*`.

use std::future::Future;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ORIGIN,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::response::Response;
use super::wire::Config;
use crate::config::parse_bool;

/// What is added to the answer of a request; nothing, mostly.
pub struct Cors(Vec<(HeaderName, HeaderValue)>);

impl Cors {
    /// Of a request with these headers, with this configuration of the server.
    pub fn of(config: &Config, headers: &HeaderMap) -> Self {
        let mut found = Vec::new();
        let mut add = |name, key: &str| {
            let value = config.get(key).and_then(|value| HeaderValue::from_str(value).ok());
            found.extend(value.map(|value| (name, value)));
        };
        if headers.get(ORIGIN).is_some_and(|origin| !origin.is_empty()) {
            add(ACCESS_CONTROL_ALLOW_ORIGIN, "core.https_allowed_origin");
            add(ACCESS_CONTROL_ALLOW_METHODS, "core.https_allowed_methods");
            add(ACCESS_CONTROL_ALLOW_HEADERS, "core.https_allowed_headers");
        }
        if config.get("core.https_allowed_credentials").is_some_and(|value| parse_bool(value) == Some(true)) {
            found.push((ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        }
        Self(found)
    }

    /// Whether there is nothing to add.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds it.
    pub async fn add(self, answer: impl Future<Output = Response>) -> Response {
        let mut answer = answer.await;
        answer.headers_mut().extend(self.0);
        answer
    }
}

/// Whether a browser asks if it may; the answer to that is empty, on any path, as LXD 5.0.2 gives it.
pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && headers.contains_key(ORIGIN)
}
