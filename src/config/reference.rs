//! The reference of all keys, out of the table itself: a page of the documentation, and `GET /1.0/metadata/configuration`.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use super::{INSTANCE_KEYS, POOL_KEYS, SERVER_KEYS, Scope};

/// A row, as both forms show it.
struct Entry {
    key: String,
    kind: &'static str,
    default: &'static str,
    /// `None`: at once, always.
    live: Option<bool>,
    scope: &'static str,
    doc: &'static str,
}

fn instance() -> Vec<Entry> {
    let scope = |scope| match scope {
        Scope::Instance => "instance",
        Scope::Profile => "instance, profile",
    };
    let entry = |row: &super::InstanceRow| Entry {
        key: row.pattern.shown(),
        kind: row.kind.shown(),
        default: row.default,
        live: Some(row.live),
        scope: scope(row.scope),
        doc: row.doc,
    };
    INSTANCE_KEYS.iter().map(entry).collect()
}

fn server() -> Vec<Entry> {
    let entry = |row: &super::ServerRow| Entry {
        key: row.pattern.shown(),
        kind: row.kind.shown(),
        default: row.default,
        live: None,
        scope: "server",
        doc: row.doc,
    };
    SERVER_KEYS.iter().map(entry).collect()
}

fn pool() -> Vec<Entry> {
    let entry = |row: &super::PoolRow| Entry {
        key: row.key.to_owned(),
        kind: row.kind.shown(),
        default: row.default,
        live: Some(row.changes),
        scope: if row.drivers.is_empty() { "all drivers" } else { "some drivers" },
        doc: row.doc,
    };
    POOL_KEYS.iter().map(entry).collect()
}

/// The first word of a key.
fn group(key: &str) -> &str {
    key.split('.').next().unwrap_or(key)
}

/// Keys by what they belong to and by their first word, as later versions of LXD answer `GET /1.0/metadata/configuration`.
pub fn json() -> Value {
    let all = |entries: Vec<Entry>| {
        let mut groups: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for entry in entries {
            let live = entry.live.map(|live| if live { "yes" } else { "no" });
            let name = group(&entry.key).to_owned();
            let about = json!({
                "type": entry.kind, "defaultdesc": entry.default, "liveupdate": live, "scope": entry.scope,
                "shortdesc": entry.doc, "longdesc": "",
            });
            groups.entry(name).or_default().push(json!({ entry.key: about }));
        }
        groups.into_iter().map(|(name, keys)| (name, json!({ "keys": keys }))).collect::<BTreeMap<_, _>>()
    };
    json!({ "configs": { "instance": all(instance()), "server": all(server()), "storage-pool": all(pool()) } })
}

/// The page `docs/configuration.md`.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Configuration\n\n\
         Generated from the key table (`src/config/`); `WARREN_WRITE_DOCS=1 cargo test --lib reference` writes it anew.\n\n\
         A key that is not here is refused, with its name. \"Live\": a change counts at once in a running container; the others\n\
         count from its next start. A value that the kernel refuses for a running container changes nothing. Sizes are in bytes,\n\
         or with one of the units B, kB, MB, GB, TB, PB, KiB, MiB, GiB, TiB, PiB. Booleans are true, 1, yes, on or their opposites.\n",
    );
    let mut table = |title: &str, entries: Vec<Entry>| {
        let live = entries.iter().any(|entry| entry.live.is_some());
        let (head, line) = if live { (" live |", "---|") } else { ("", "") };
        // Writing to a String cannot fail.
        let _ =
            write!(page, "\n## {title}\n\n| key | type | default |{head} what it does |\n|---|---|---|{line}---|\n");
        for entry in entries {
            let live = match entry.live {
                Some(true) => " yes |",
                Some(false) => " no |",
                None => "",
            };
            let only = if entry.scope == "instance" { " Not in profiles." } else { "" };
            let _ =
                writeln!(page, "| `{}` | {} | {} |{live} {}{only} |", entry.key, entry.kind, entry.default, entry.doc);
        }
    };
    table("Instances and profiles", instance());
    table("Server", server());
    table("Storage pools", pool());
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_page_is_that_of_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        if std::env::var_os("WARREN_WRITE_DOCS").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap();
        assert_eq!(page, markdown(), "write it anew: WARREN_WRITE_DOCS=1 cargo test --lib reference");
    }

    #[test]
    fn every_key_is_in_the_answer() {
        let answer = json();
        let count = |of: &str| {
            let groups = answer["configs"][of].as_object().unwrap();
            groups.values().map(|group| group["keys"].as_array().unwrap().len()).sum::<usize>()
        };
        assert_eq!((count("instance"), count("server")), (INSTANCE_KEYS.len(), SERVER_KEYS.len()));
        assert_eq!(count("storage-pool"), POOL_KEYS.len());
        assert_eq!(answer["configs"]["instance"]["limits"]["keys"][0]["limits.cpu"]["liveupdate"], "yes");
    }
}
