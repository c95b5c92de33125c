//! The reference of all keys of networks, out of their tables: for `docs/networks.md` and `GET /1.0/metadata/configuration`.

use serde_json::{Value, json};

use super::{KEYS, Key, UPLINK_KEYS};

/// Keys by the kind of network, as later versions of LXD answer `GET /1.0/metadata/configuration`.
pub fn keys_json() -> Vec<(&'static str, Value)> {
    let all = |keys: &[Key]| {
        let about = |key: &Key| {
            json!({ key.name: {
                "type": key.rule, "defaultdesc": key.default, "liveupdate": "yes", "scope": "network",
                "shortdesc": key.doc, "longdesc": "",
            } })
        };
        json!({ "network-conf": { "keys": keys.iter().map(about).collect::<Vec<_>>() } })
    };
    vec![("network-bridge", all(KEYS)), ("network-macvlan", all(UPLINK_KEYS)), ("network-physical", all(UPLINK_KEYS))]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(keys: &[Key]) -> String {
        let row = |key: &Key| format!("| `{}` | {} | {} | {} |\n", key.name, key.rule, key.default, key.doc);
        let rows: String = keys.iter().filter(|key| !key.name.starts_with("volatile.")).map(row).collect();
        format!("| key | takes | default | what it does |\n|---|---|---|---|\n{rows}")
    }

    #[test]
    fn the_reference_of_networks_is_that_of_the_tables() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/networks.md");
        let page = std::fs::read_to_string(path).unwrap();
        let mut wanted = page.clone();
        for (name, keys) in [("bridges", KEYS), ("uplinks", UPLINK_KEYS)] {
            let (begin, end) = (format!("<!-- keys of {name} -->\n"), format!("<!-- end of {name} -->"));
            let from = wanted.find(&begin).unwrap() + begin.len();
            let to = wanted.find(&end).unwrap();
            wanted.replace_range(from..to, &table(keys));
        }
        if std::env::var_os("WARREN_WRITE_DOCS").is_some() {
            std::fs::write(path, &wanted).unwrap();
            return;
        }
        assert_eq!(page, wanted, "write it anew: WARREN_WRITE_DOCS=1 cargo test --lib reference");
    }

    #[test]
    fn every_key_of_a_network_is_in_the_answer() {
        let all = keys_json();
        assert_eq!(all[0].1["network-conf"]["keys"].as_array().unwrap().len(), KEYS.len());
    }
}
