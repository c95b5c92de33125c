//! The rooms and their one-way dependencies, read from the sources. See docs/architecture.md.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

/// What each room may use besides itself and the leaves `names`, `state_dir`, `multipart` and `api::wire`.
const MAY_USE: &[(&str, &[&str])] = &[
    ("names", &[]),
    ("state_dir", &[]),
    ("multipart", &[]),
    ("lxc", &[]),
    ("sys", &[]),
    ("template", &[]),
    ("helper", &["template", "lxc", "sys"]),
    ("config", &[]),
    ("profile", &["db"]),
    ("device", &[]),
    ("security", &[]),
    ("db", &["config"]),
    ("project", &["profile", "device", "config", "db"]),
    ("events", &[]),
    ("ops", &["events"]),
    ("auth", &["config", "db"]),
    ("image", &["config", "sys"]),
    ("fetch", &[]),
    ("remote", &["fetch", "instance", "storage", "image", "ops", "project", "config", "db", "events", "sys"]),
    ("network", &["sys"]),
    ("health", &["storage", "security", "lxc", "sys"]),
    ("storage", &["image", "db", "security", "sys", "config"]),
    (
        "instance",
        &[
            "storage", "network", "image", "project", "profile", "device", "config", "security", "db", "events",
            "helper", "template", "lxc", "sys",
        ],
    ),
    // `image` and `sys`: it moves the store of images onto a volume.
    ("volume", &["instance", "storage", "image", "project", "device", "config", "db", "events", "sys"]),
    (
        "api",
        &[
            "volume", "remote", "fetch", "instance", "storage", "network", "image", "ops", "auth", "project",
            "profile", "device", "config", "db", "events", "sys", "lxc", "helper", "health",
        ],
    ),
    ("guest", &["api", "instance", "ops", "profile", "config", "db", "events"]),
    // Which certificates of servers count.
    ("cli", &["fetch"]),
];

/// Files past 600 lines, each with its reason.
const LONG: &[(&str, &str)] = &[
    ("src/sys/netlink.rs", "one protocol: messages, their attributes and the socket; a split would divide a table"),
    ("src/config/instance_keys.rs", "one table, a row for each key"),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        if entry.path().is_dir() {
            sources(&entry.path(), found);
        } else if entry.path().extension().is_some_and(|extension| extension == "rs") {
            found.push(entry.path());
        }
    }
}

fn files() -> Vec<(String, String)> {
    let mut found = Vec::new();
    sources(Path::new("src"), &mut found);
    found.into_iter().map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap())).collect()
}

fn room(path: &str) -> Option<String> {
    let rest = path.strip_prefix("src/")?;
    let name = rest.split('/').next()?.trim_end_matches(".rs");
    (!matches!(name, "lib" | "bin" | "daemon" | "fuzz")).then(|| name.to_owned())
}

/// The code without comments and without its tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The rooms that `text` names by `crate::`, in any form of import.
fn used(text: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for rest in text.split("crate::").skip(1) {
        let paths = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap().split(',').map(str::trim).collect(),
            None => vec![rest],
        };
        for path in paths {
            if path.starts_with("api::wire") {
                continue;
            }
            let name: String = path.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            if !name.is_empty() {
                rooms.push(name);
            }
        }
    }
    rooms
}

fn violations(path: &str, text: &str) -> Vec<String> {
    let Some(room) = room(path) else { return Vec::new() };
    if path.starts_with("src/api/wire") && code(text).contains("warp::") {
        return vec![format!("{path} names warp")];
    }
    let allowed = MAY_USE.iter().find(|(name, _)| *name == room).map(|(_, allowed)| *allowed);
    let Some(allowed) = allowed else { return vec![format!("{path}: the room {room} is not in the table")] };
    let leaf = |name: &str| matches!(name, "names" | "state_dir" | "multipart");
    let code = code(text);
    let mut found: Vec<String> = used(&code)
        .into_iter()
        .filter(|name| *name != room && !leaf(name) && !allowed.contains(&name.as_str()))
        .map(|name| format!("{path}: {room} must not use {name}"))
        .collect();
    for (word, owners) in [
        ("lxc_sys", &["lxc"][..]),
        ("warp::", &["api"]),
        ("diesel", &["db"]),
        ("unsafe {", &["lxc", "sys"]),
        ("unsafe fn", &["lxc", "sys"]),
        ("unsafe impl", &["lxc", "sys"]),
    ] {
        if code.contains(word) && !owners.contains(&room.as_str()) {
            found.push(format!("{path}: only {owners:?} may have {word:?}"));
        }
    }
    found
}

#[test]
fn dependencies_point_one_way() {
    let found: Vec<String> = files().iter().flat_map(|(path, text)| violations(path, text)).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_planted_violation_is_seen() {
    assert!(!violations("src/sys/x.rs", "use crate::db::Model;").is_empty());
    assert!(!violations("src/config/x.rs", "use crate::{names, instance::Manager};").is_empty());
    assert!(!violations("src/ops/x.rs", "fn f() { warp::any(); }").is_empty());
    assert!(!violations("src/api/x.rs", "unsafe { f() }").is_empty());
    assert!(!violations("src/attic/x.rs", "").is_empty());
    assert!(violations("src/sys/x.rs", "use crate::names::A;\n// crate::db\nuse crate::api::wire;").is_empty());
}

#[test]
fn long_files_have_a_reason() {
    for (path, text) in files() {
        let lines = text.lines().count();
        assert!(lines <= 600 || LONG.iter().any(|(name, _)| *name == path), "{path} has {lines} lines");
    }
}

#[test]
fn no_test_is_ignored_and_nothing_is_left_undone() {
    for (path, text) in files() {
        for word in ["#[ignore", concat!("TO", "DO"), concat!("FIX", "ME")] {
            assert!(!text.contains(word), "{path} has {word}");
        }
    }
}
