//! Requests whose answer a test expects.

use serde_json::Value;

use super::Daemon;

/// Fails unless the request is answered so, with an error that says `word`.
#[track_caller]
pub fn refused(daemon: &Daemon, method: &str, path: &str, body: &Value, status: u16, word: &str) {
    let (code, answer) = daemon.api(method, path, &body.to_string());
    let error = answer["error"].as_str().unwrap_or_default();
    assert!(code == status && error.contains(word), "{method} {path} {body}: {code} {answer}");
}

/// Asks, waits for the operation if it is one, and returns the metadata.
#[track_caller]
pub fn done(daemon: &Daemon, method: &str, path: &str, body: &Value) -> Value {
    let (status, answer) = daemon.api(method, path, &body.to_string());
    assert!(status < 300, "{method} {path} {body}: {answer}");
    if status != 202 {
        return answer["metadata"].clone();
    }
    let (_, end) = daemon.api("GET", &format!("{}/wait", answer["operation"].as_str().unwrap()), "");
    assert_eq!(end["metadata"]["status_code"], 200, "{method} {path} {body}: {end}");
    end["metadata"].clone()
}

/// The metadata of what is there.
#[track_caller]
pub fn get(daemon: &Daemon, path: &str) -> Value {
    let (status, answer) = daemon.api("GET", path, "");
    assert_eq!(status, 200, "{path}: {answer}");
    answer["metadata"].clone()
}
