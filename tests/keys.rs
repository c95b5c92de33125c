//! Every key of the table, walked with values that do not fit; and what the server's own keys do.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use support::Daemon;
use warren::config::{INSTANCE_KEYS, Kind, Pattern, SERVER_KEYS, Scope};

/// A key of a row.
fn concrete(pattern: Pattern) -> String {
    match pattern {
        Pattern::Exact(key) => key.to_owned(),
        Pattern::Prefix("limits.kernel.") => "limits.kernel.nofile".to_owned(),
        Pattern::Prefix("linux.sysctl.") => "linux.sysctl.net.ipv4.ip_forward".to_owned(),
        Pattern::Prefix(prefix) => format!("{prefix}x"),
        Pattern::OfDevice(prefix, ends) => format!("{prefix}eth0.{}", ends[0]),
    }
}

/// Values that no key of this kind takes.
fn misfits(kind: Kind) -> Vec<Value> {
    let mut values = vec![json!(7), json!(["a"]), json!({"a": "b"}), json!("a\0b"), json!("9".repeat(1 << 20))];
    let texts: &[&str] = match kind {
        Kind::Text => &[],
        Kind::Line => &["a\nb", "a\rb"],
        Kind::Int(..) => &["x", "1.5", "-9223372036854775809", "99999999999999999999", "1 MiB", "0x10", "1\n2"],
        Kind::Bool => &["maybe", "2", "truefalse", "true\n"],
        Kind::Size | Kind::Part => &["x", "-1MiB", "1XB", "99999999999999999999999GiB", "10\nMiB", "1e5"],
        Kind::Cpus => &["x", "0", "-1", "3-1", "1,,2", "0-", "1\n2"],
        Kind::Allowance => &["x", "0%", "101%x", "10ms", "10ms/0ms", "-5%", "10s/20s", "5%\n"],
        Kind::Rlimit => &["x", "2:1", "-2", "1:x", "1\n", "99999999999999999999"],
        Kind::Idmap => &["both 1 1 1", "x 1 1", "both a 1", "both 1", "uid 1-5 1-3"],
        Kind::Modules => &["-r", "../x", "a b", "a;b", "a\nb"],
        Kind::Schedule => &["@sometimes", "* * *", "61 * * * *"],
        Kind::Expiry => &["1x", "1d 1d", "-1d", "1.5d"],
        Kind::Word(_) => &["no such word", "\n"],
        // One line of anything.
        Kind::Sysctl => &["a\nb"],
        _ => &["\u{1}"],
    };
    values.extend(texts.iter().map(|text| json!(text)));
    values
}

#[test]
fn no_key_takes_what_does_not_fit() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    daemon.lxc(&["profile", "create", "p1"]).ok();
    let shown = |path: &str| daemon.api("GET", path, "").1["metadata"]["config"].clone();
    let mut wrong = Vec::new();
    let mut tried = 0;
    let mut walk = |path: &str, key: &str, kind: Kind, hidden: bool| {
        let before = shown(path);
        for value in misfits(kind) {
            let body = json!({"config": {key: value.clone()}}).to_string();
            let (status, answer) = daemon.api("PATCH", path, &body);
            let message = answer["error"].as_str().unwrap_or_default();
            let value: String = value.to_string().chars().take(40).collect();
            let named = message.contains(key);
            let repeated = hidden && message.contains("a\\0b");
            if status != 400 || !named || repeated || message.len() > 1024 {
                wrong.push(format!("{path} {key} {value}: {status} {message}"));
            }
            tried += 1;
        }
        if shown(path) != before {
            wrong.push(format!("{path} {key} changed to {}", shown(path)[key]));
        }
    };
    for row in INSTANCE_KEYS {
        let key = concrete(row.pattern);
        // What the daemon remembers is not for clients at all.
        if key.starts_with("volatile.") {
            continue;
        }
        walk("/1.0/instances/c1", &key, row.kind, false);
        if row.scope == Scope::Profile {
            walk("/1.0/profiles/p1", &key, row.kind, false);
        }
    }
    for row in SERVER_KEYS {
        walk("/1.0", &concrete(row.pattern), row.kind, row.hidden);
    }
    for key in ["limits.memori", "x", "", "security", "user", "limits.", "a\nb", "LIMITS.MEMORY"] {
        for path in ["/1.0/instances/c1", "/1.0/profiles/p1", "/1.0"] {
            let (status, answer) = daemon.api("PATCH", path, &json!({"config": {key: "1"}}).to_string());
            let message = answer["error"].as_str().unwrap_or_default();
            if status != 400 || !message.contains(&format!("{key:?}")) {
                wrong.push(format!("{path} {key:?}: {status} {message}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried > 800, "{tried}");
    assert_eq!(daemon.status("c1"), "Running");
}

#[test]
fn programs_in_browsers_are_told_what_they_may() {
    let daemon = Daemon::bare();
    let headers = |headers: &[(&str, &str)], method: &str, path: &str| {
        let (answer, _) = daemon.exchange(method, path, headers, b"");
        let mut allowed: Vec<String> = answer
            .lines()
            .map(str::to_ascii_lowercase)
            .filter_map(|line| line.strip_prefix("access-control-allow-").map(str::to_owned))
            .collect();
        allowed.sort();
        (answer[9..12].parse::<u16>().unwrap(), allowed.join("; "))
    };
    let from = [("Origin", "http://a.test")];
    assert_eq!(headers(&from, "GET", "/1.0"), (200, String::new()));
    let (status, _) = daemon.api(
        "PATCH",
        "/1.0",
        r#"{"config":{"core.https_allowed_origin":"*","core.https_allowed_methods":"GET, POST",
            "core.https_allowed_headers":"Content-Type"}}"#,
    );
    assert_eq!(status, 200);
    let all = "headers: content-type; methods: get, post; origin: *";
    assert_eq!(headers(&from, "GET", "/1.0"), (200, all.to_owned()));
    assert_eq!(headers(&from, "GET", "/1.0/nosuch"), (404, all.to_owned()));
    assert_eq!(headers(&from, "OPTIONS", "/1.0/instances/x/state"), (200, all.to_owned()));
    assert_eq!(headers(&[], "GET", "/1.0"), (200, String::new()));
    daemon.lxc(&["config", "set", "core.https_allowed_credentials", "true"]).ok();
    assert_eq!(headers(&[], "GET", "/1.0"), (200, "credentials: true".to_owned()));
}

#[test]
fn without_the_driver_a_start_that_wants_it_is_refused() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1", "-c", "nvidia.runtime=true"]).ok();
    daemon.lxc(&["start", "c1"]).refused("\"nvidia.runtime\": the host has no nvidia-container-cli");
    daemon.lxc(&["config", "unset", "c1", "nvidia.runtime"]).ok();
    daemon.lxc(&["start", "c1"]).ok();
}
