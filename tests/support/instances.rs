//! An instance and its files, as the stock client has them.

use serde_json::Value;

use super::Daemon;

pub fn shown(daemon: &Daemon, name: &str) -> Value {
    daemon.api("GET", &format!("/1.0/instances/{name}?recursion=1"), "").1["metadata"].clone()
}

pub fn push(daemon: &Daemon, place: &str, text: &str) {
    daemon.lxc_with_input(&["file", "push", "-", place], text.as_bytes()).ok();
}

pub fn pulled(daemon: &Daemon, place: &str) -> String {
    daemon.lxc(&["file", "pull", place, "-"]).ok()
}

pub fn snapshots(daemon: &Daemon, name: &str) -> Vec<String> {
    let shown = shown(daemon, name);
    let list = shown["snapshots"].as_array().cloned().unwrap_or_default();
    list.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}
