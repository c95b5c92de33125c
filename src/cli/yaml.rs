//! YAML in the form that `lxc` prints, and back.

use serde_json::{Map, Value};

use super::Error;

/// Fields in the order in which people know them; others follow by the alphabet.
const NESTED: &[&str] = &[
    "name",
    "status",
    "status_code",
    "disk",
    "memory",
    "usage",
    "usage_peak",
    "swap_usage",
    "swap_usage_peak",
    "addresses",
    "family",
    "address",
    "netmask",
    "counters",
    "bytes_received",
    "bytes_sent",
    "packets_received",
    "packets_sent",
    "errors_received",
    "errors_sent",
    "packets_dropped_outbound",
    "packets_dropped_inbound",
    "hwaddr",
    "host_name",
    "mtu",
    "state",
    "network",
    "pid",
    "processes",
    "cpu",
    "used",
    "total",
    "source",
    "destination",
    "description",
    "protocol",
    "listen_port",
    "target_port",
    "target_address",
    "version",
    "remote",
];

/// Fields of a rule of an ACL.
const RULE: &[&str] = &[
    "action",
    "source",
    "destination",
    "protocol",
    "source_port",
    "destination_port",
    "icmp_type",
    "icmp_code",
    "description",
    "state",
];

/// The order of fields of something that lies in something else.
fn nested(map: &Map<String, Value>) -> &'static [&'static str] {
    if map.contains_key("action") && map.contains_key("state") {
        RULE
    } else if map.contains_key("expanded_devices") {
        super::object::SNAPSHOT.order
    } else {
        NESTED
    }
}

/// Maps whose keys are the user's own.
fn free(key: &str) -> bool {
    matches!(
        key,
        "config" | "expanded_config" | "devices" | "expanded_devices" | "properties" | "templates" | "network" | "disk"
    )
}

fn sorted<'a>(map: &'a Map<String, Value>, order: &[&str]) -> Vec<(&'a String, &'a Value)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by_key(|(key, _)| (order.iter().position(|known| known == key).unwrap_or(usize::MAX), (*key).clone()));
    entries
}

/// Whether a text without quotes would be read as something else.
fn ambiguous(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let word = matches!(
        lower.as_str(),
        "" | "~"
            | "null"
            | "true"
            | "false"
            | "yes"
            | "no"
            | "on"
            | "off"
            | "y"
            | "n"
            | "<<"
            | ".inf"
            | "-.inf"
            | "+.inf"
            | ".nan"
    );
    let number = || {
        let digits = text.trim_start_matches(['+', '-']).replace('_', "");
        digits.parse::<f64>().is_ok_and(|_| digits.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
            || ["0x", "0b", "0o"].iter().any(|prefix| {
                digits
                    .strip_prefix(prefix)
                    .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_hexdigit()))
            })
    };
    // As 10:30, once a number to the base of sixty.
    let sexagesimal = || {
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit() || b == b'_');
        let (first, last) = text.trim_start_matches(['+', '-']).rsplit_once(':').unwrap_or(("x", ""));
        first.split(':').all(digits) && digits(&last.replacen('.', "", 1))
    };
    // A time by itself is one; Go's library quotes a text that looks like it.
    let date = || {
        let bytes = text.as_bytes();
        bytes.len() >= 8
            && bytes[..4].iter().all(u8::is_ascii_digit)
            && bytes[4] == b'-'
            && text.len() <= 35
            && text.bytes().all(|b| b.is_ascii_digit() || b"-:.+TtZz ".contains(&b))
    };
    word || number() || sexagesimal() || date()
}

/// In double quotes, with an escape for what a terminal would not show as it is.
fn quoted(text: &str) -> String {
    let escape = |c: char| match c {
        c if super::output::strange(c) && u32::from(c) >= 0x7f => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    Value::from(text).to_string().chars().map(escape).collect()
}

fn scalar(text: &str, indent: usize, time: bool) -> String {
    if text.chars().any(|c| (c.is_control() && c != '\n') || super::output::strange(c) || c == '\u{feff}') {
        return quoted(text);
    }
    if text.contains('\n') {
        let pad = " ".repeat(indent + 2);
        let body = text.trim_end_matches('\n');
        let mark = match text.len() - body.len() {
            0 => "|-",
            1 => "|",
            _ => "|+",
        };
        let hint = if text.starts_with([' ', '\n']) { "2" } else { "" };
        let mark = mark.replacen('|', &format!("|{hint}"), 1);
        let lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
        let lines: Vec<String> =
            lines.map(|line| if line.is_empty() { String::new() } else { format!("{pad}{line}") }).collect();
        return format!("{mark}\n{}", lines.join("\n"));
    }
    if !time && ambiguous(text) {
        return Value::from(text).to_string();
    }
    let special = text.starts_with(|c: char| "-?:,[]{}#&*!|>'\"%@` ".contains(c))
        && !(text.starts_with(['-', '?', ':']) && text.len() > 1 && !text[1..].starts_with(' '));
    if special || text.contains(": ") || text.contains(" #") || text.ends_with([':', ' ']) {
        return format!("'{}'", text.replace('\'', "''"));
    }
    text.to_owned()
}

fn empty(key: &str) -> &'static str {
    match key {
        "used_by" | "profiles" | "locations" | "egress" | "ingress" | "ports" | "snapshots" | "backups" | "aliases"
        | "projects" => "[]",
        _ if free(key) => "{}",
        _ => "null",
    }
}

fn emit(value: &Value, key: &str, indent: usize, order: &[&str], out: &mut String) {
    match value {
        Value::Null => out.push_str(&format!(" {}\n", empty(key))),
        Value::String(text) => {
            // Fields of the API that are times stand without quotes.
            let time = (key.ends_with("_at") || key == "last_seen_at") && text.contains('T');
            out.push_str(&format!(" {}\n", scalar(text, indent, time)));
        }
        Value::Bool(_) | Value::Number(_) => out.push_str(&format!(" {value}\n")),
        Value::Array(items) if items.is_empty() => out.push_str(" []\n"),
        Value::Object(map) if map.is_empty() => out.push_str(" {}\n"),
        Value::Array(items) => {
            if !out.is_empty() {
                out.push('\n');
            }
            sequence(items, indent, order, out);
        }
        Value::Object(map) => {
            if !out.is_empty() {
                out.push('\n');
            }
            mapping(map, key, indent, order, out);
        }
    }
}

fn sequence(items: &[Value], indent: usize, order: &[&str], out: &mut String) {
    let pad = " ".repeat(indent);
    for item in items {
        match item {
            Value::Object(map) if !map.is_empty() => {
                let mut inner = String::new();
                mapping(map, "", indent + 2, order, &mut inner);
                out.push_str(&format!("{pad}- {}", inner.trim_start_matches(' ')));
            }
            Value::Array(list) if !list.is_empty() => {
                let mut inner = String::new();
                sequence(list, indent + 2, order, &mut inner);
                out.push_str(&format!("{pad}- {}", inner.trim_start_matches(' ')));
            }
            other => {
                out.push_str(&format!("{pad}-"));
                emit(other, "", indent, order, out);
            }
        }
    }
}

fn mapping(map: &Map<String, Value>, key: &str, indent: usize, order: &[&str], out: &mut String) {
    let pad = " ".repeat(indent);
    let order = match free(key) {
        true => &[],
        false if order.as_ptr() == NESTED.as_ptr() => nested(map),
        false => order,
    };
    for (name, value) in sorted(map, order) {
        out.push_str(&format!("{pad}{}:", scalar(name, indent, false)));
        let next = if matches!(value, Value::Array(_)) { indent } else { indent + 2 };
        emit(value, name, if value.is_string() { indent } else { next }, NESTED, out);
    }
}

/// As YAML. `order` is that of the fields of the object, or of each object of a list.
pub(super) fn text(value: &Value, order: &[&str]) -> String {
    let mut out = String::new();
    match value {
        Value::Array(items) if !items.is_empty() => sequence(items, 0, order, &mut out),
        Value::Object(map) if !map.is_empty() => mapping(map, "", 0, order, &mut out),
        other => {
            emit(other, "", 0, order, &mut out);
            out = out.trim_start().to_owned();
        }
    }
    out
}

/// The same with all fields by the alphabet.
pub(super) fn by_name(value: &Value) -> String {
    // The order of nested fields is that of maps of the user's own.
    let mut out = String::new();
    if let Value::Object(map) = value {
        for (name, inner) in sorted(map, &[]) {
            out.push_str(&format!("{}:", scalar(name, 0, false)));
            match inner {
                Value::Object(inner) if !inner.is_empty() => {
                    out.push('\n');
                    mapping(inner, "config", 2, &[], &mut out);
                }
                other => emit(other, name, 0, &[], &mut out),
            }
        }
    }
    out
}

/// Values of the user's own maps are texts, however they are written.
fn as_texts(value: &mut Value, inside: bool) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                as_texts(value, inside || matches!(key.as_str(), "config" | "devices" | "properties"));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| as_texts(item, inside)),
        Value::Bool(_) | Value::Number(_) if inside => *value = Value::String(value.to_string()),
        Value::Null if inside => *value = Value::String(String::new()),
        _ => {}
    }
}

/// Reads what a user wrote.
pub(super) fn parse(text: &str) -> Result<Value, Error> {
    let mut value: Value =
        serde_norway::from_str(text).map_err(|e| Error::Usage(format!("This is no YAML as it is expected: {e}")))?;
    as_texts(&mut value, false);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_look_as_lxc_prints_them() {
        let value = json!({
            "name": "a", "config": {"b": "true", "a": "1", "t": "x\ny\n", "z": "[]"}, "devices": {"root": {"type": "disk", "path": "/"}},
            "used_by": ["/1.0/x"], "profiles": [], "status": "Created", "rules": [{"action": "allow", "b": {"c": 1}}],
            "created_at": "2026-11-28T13:22:01Z", "x": "2020-01-01", "e": "a: b", "m": null, "locations": null,
        });
        let wanted = "config:\n  a: \"1\"\n  b: \"true\"\n  t: |\n    x\n    y\n  z: '[]'\nname: a\ncreated_at: 2026-11-28T13:22:01Z\ndevices:\n  root:\n    path: /\n    type: disk\ne: 'a: b'\nlocations: []\nm: null\nprofiles: []\nrules:\n- action: allow\n  b:\n    c: 1\nstatus: Created\nused_by:\n- /1.0/x\nx: \"2020-01-01\"\n";
        assert_eq!(text(&value, &["config", "name"]), wanted);
        assert_eq!(text(&json!([]), &[]), "[]\n");
        assert_eq!(text(&json!({}), &[]), "{}\n");
    }

    #[test]
    fn what_is_printed_is_read_again() {
        for word in [
            "",
            "a",
            "- a",
            "-a",
            "yes",
            "1e3",
            "a#b",
            "a #b",
            "x:",
            "'q'",
            "\"",
            "10:30",
            " s ",
            "a\nb",
            "a\n",
            "\n\n",
            "  a\nb",
            "\u{1b}[1m",
            "\u{9b}1m\u{7f}",
            "\u{202e}a\u{2028}",
            "é",
            "@x",
            "0x1f",
            "null",
            "%a",
            "! x",
            "a\n\nb\n\n",
        ] {
            let value = json!({"config": {"k": word}, "list": [word]});
            let shown = text(&value, &[]);
            assert_eq!(parse(&shown).unwrap(), value, "{word:?}: {shown}");
        }
        assert_eq!(parse("config:\n  a: true\n  b: 5\n").unwrap(), json!({"config": {"a": "true", "b": "5"}}));
    }
}
