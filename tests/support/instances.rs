//! An instance and its files, as the stock client has them.

use serde_json::Value;

use super::api::get;
use super::{Daemon, eventually};

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

/// The IPv4 address of a running container, once it has one. `at`: its name, with the project as in a query.
pub fn address(daemon: &Daemon, at: &str) -> String {
    let (name, query) = at.split_once('?').unwrap_or((at, ""));
    let mut found = String::new();
    eventually("an address by DHCP", || {
        let state = get(daemon, &format!("/1.0/instances/{name}/state?{query}"));
        let addresses = state["network"]["eth0"]["addresses"].as_array().cloned().unwrap_or_default();
        let own = addresses.iter().find(|address| address["family"] == "inet");
        found = own.and_then(|own| own["address"].as_str()).unwrap_or_default().to_owned();
        !found.is_empty()
    });
    found
}
