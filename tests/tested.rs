//! docs/tested.md: every key and device property with the tests that try it, made out of the table and of the tests.
//!
//! `WARREN_WRITE_DOCS=1 cargo test --test tested` writes the page anew. A name that stands in a test's text counts: the
//! page says where to look, the test itself what it shows.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use warren::config::{INSTANCE_KEYS, PROJECT_KEYS, Pattern, SERVER_KEYS};

/// Of each test, `file::name`, its text.
fn tests() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut files = Vec::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let name = file.strip_prefix(&root).unwrap().with_extension("").display().to_string();
        // The walk over all names shows for each of them only what it refuses.
        if name == "tested" {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        for (index, part) in text.split("#[test]").enumerate() {
            // A test ends with its function; what stands between tests serves them all.
            let (test, rest) = if index == 0 { ("", part) } else { part.split_once("\n}\n").unwrap_or((part, "")) };
            let title = test.split(['(', ' ']).find(|word| word.contains('_')).unwrap_or("").trim();
            let walk = name == "keys" && title.starts_with("no_");
            if !title.is_empty() && !walk {
                found.push((format!("{name}::{title}"), test.to_owned()));
            }
            if name != "keys" {
                found.push((name.clone(), rest.to_owned()));
            }
        }
    }
    found
}

/// Whether this name stands there for itself, not as a part of a longer one.
fn names(text: &str, name: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back().is_some_and(part);
        let after = text[at + name.len()..].chars().next().is_some_and(part);
        !before && (!after || name.ends_with('.'))
    })
}

/// The tests that name it; a file by itself only where none of its tests does.
fn by(tests: &[(String, String)], fits: impl Fn(&str) -> bool) -> Vec<&str> {
    let mut names: Vec<&str> = tests.iter().filter(|(_, text)| fits(text)).map(|(name, _)| name.as_str()).collect();
    names.dedup();
    let tested = |file: &str| names.iter().any(|name| name.starts_with(&format!("{file}::")));
    let alone: Vec<&str> = names.iter().filter(|name| name.contains("::") || !tested(name)).copied().collect();
    alone
}

fn cell(names: &[&str]) -> String {
    match names {
        [] => "–".to_owned(),
        [one] => format!("`{one}`"),
        [one, two] => format!("`{one}`, `{two}`"),
        [one, two, more @ ..] => format!("`{one}`, `{two}` and {} more", more.len()),
    }
}

/// The properties in the tables of docs/devices.md, by type of device.
fn properties() -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/devices.md")).unwrap();
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut kinds = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            kinds = title.split(", ").map(str::to_owned).collect();
        }
        // "| `a`, `b` | …": the names of one row.
        let Some(first) = line.strip_prefix("| `").and_then(|rest| rest.split(" | ").next()) else { continue };
        for kind in &kinds {
            let list = found.entry(kind.clone()).or_default();
            for name in first.split('`').filter(|name| name.chars().any(|c| c.is_ascii_alphabetic())) {
                list.push(name.to_owned());
            }
        }
    }
    found
}

fn page() -> String {
    let tests = tests();
    let guest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/long/guest-check")).unwrap();
    let mut page = String::from(
        "# What the tests show of each key and property\n\n\
         Made out of the table of keys, [devices.md](devices.md) and the tests themselves: a test that names a key or property\n\
         tries it on a machine with control groups of version 1 (hybrid), as continuous integration has it; *version 2* is\n\
         `tests/long/guest-check` in an emulated machine with nothing but control groups of version 2, and AppArmor. `–`: no\n\
         test beyond those that try each with values that do not fit (`tests/keys.rs`), and those of its parser.\n\n\
         ## Keys\n\n| key | tests | version 2 |\n|---|---|---|\n",
    );
    let (server, projects) = (SERVER_KEYS.iter().map(|row| row.pattern), PROJECT_KEYS.iter().map(|row| row.pattern));
    let keys = INSTANCE_KEYS.iter().map(|row| row.pattern).chain(server).chain(projects);
    for pattern in keys {
        let name = match pattern {
            Pattern::Exact(name) | Pattern::Prefix(name) => name,
            Pattern::OfDevice(..) => continue,
        };
        // The daemon's own memory: what it is good for stands in the tests of adoption and crashes.
        if name.starts_with("volatile.") {
            continue;
        }
        let found = by(&tests, |text| names(text, name));
        let there = if names(&guest, name) { "yes" } else { "–" };
        writeln!(page, "| `{}` | {} | {there} |", pattern.shown(), cell(&found)).unwrap();
    }
    page.push_str("\n## Properties of devices\n\n| type | property | tests | version 2 |\n|---|---|---|---|\n");
    for (kind, names_of_kind) in properties() {
        for property in names_of_kind {
            let named = |text: &str| {
                // By its type, or by what is special to it.
                let word = kind.strip_prefix("unix-").map_or(kind.as_str(), |_| "unix-");
                text.contains(word) && (names(text, &property))
            };
            let there = if guest.contains(&format!("\"{kind}\"")) && names(&guest, &property) { "yes" } else { "–" };
            writeln!(page, "| {kind} | `{property}` | {} | {there} |", cell(&by(&tests, named))).unwrap();
        }
    }
    page
}

#[test]
fn the_page_is_that_of_the_tests() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tested.md");
    let page = page();
    if std::env::var_os("WARREN_WRITE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(there == page, "docs/tested.md is old: run WARREN_WRITE_DOCS=1 cargo test --test tested");
}
