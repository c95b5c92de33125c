//! Every key of the table, walked with values that do not fit; and what the server's own keys do.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use support::Daemon;
use warren::config::{INSTANCE_KEYS, Kind, PROJECT_KEYS, Pattern, SERVER_KEYS, Scope};

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
        Kind::Rlimit => &["x", "2:1", "-2", "1:x", "1\n", "99999999999999999999", "unlimited"],
        Kind::Idmap => &["both 1 1 1", "x 1 1", "both a 1", "both 1", "uid 1-5 1-3"],
        Kind::Modules => &["-r", "../x", "a b", "a;b", "a\nb"],
        Kind::Schedule => &["@sometimes", "* * *", "61 * * * *"],
        Kind::RawSeccomp => &["garbage", "3\ndenylist", "2\nlist", "2\ndenylist\nread errno"],
        Kind::Compressor => &["nosuch", "gzip\n-9", "./gzip", "gzip --rsyncable", "none -1", "squashfs -x", " "],
        Kind::Proxy => {
            &["a b", "http://", "https://a:1", "socks5://a", "a:x", "http://a:99999", "http://a/b", "/", ":80", "é"]
        }
        Kind::Hosts => &["a b", "a;b", "é"],
        Kind::Header => &["é", "a\tb", "a\nb"],
        Kind::Tokens => &["a b", "a/b", "é"],
        Kind::Uuid => &["xx", "1"],
        Kind::SnapshotPattern => &["a/b", "..", "{{", "%d%d", "{{ creation_date }}", "a\nb"],
        // The key is that of a quota, of which nothing is asked.
        Kind::OfDevice => &["a\nb"],
        Kind::Expiry => &["1x", "1d 1d", "-1d", "1.5d"],
        Kind::Addresses => &["x", "127.0.0.1,", "127.0.0.0/8", "127.0.0.1 ::1", "localhost"],
        Kind::FusePrograms => {
            &["x", "=x", "ext4=", "a/b=x", "ext4=-x", "ext4=a/b", "ext4=a b", "ext4=a=b", "a=b\n", "ext4=a,b"]
        }
        Kind::Word(_) => &["no such word", "\n"],
        Kind::Ids => &["a", "-1", "1-", "5-3", "1,,x", "4294967295", "1\n2"],
        Kind::Paths => &["a", "/a,b", "../a", "/a\nb"],
        Kind::Subnets => {
            &["192.0.2.0/24", "x:", ":192.0.2.0/24", "x:192.0.2.0/33", "x:1.2.3/24", "x:fd00::/129", "x:a/1"]
        }
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
    daemon.lxc(&["project", "create", "q1"]).ok();
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
    for row in PROJECT_KEYS {
        walk("/1.0/projects/q1", &concrete(row.pattern), row.kind, false);
    }
    for key in ["limits.memori", "x", "", "security", "user", "limits.", "a\nb", "LIMITS.MEMORY"] {
        for path in ["/1.0/instances/c1", "/1.0/profiles/p1", "/1.0", "/1.0/projects/q1"] {
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

/// A kind of device: properties with which it could be, and of each property values that it does not take.
type Sample =
    (&'static str, &'static [(&'static str, &'static str)], &'static [(&'static str, &'static [&'static str])]);

const FLAGS: &[&str] = &["maybe", "2"];
const IDS: &[&str] = &["x", "-1", "4294967296", "0x1"];
const MODES: &[&str] = &["x", "888", "0o644", "77777"];
const RATES: &[&str] = &["x", "-1", "10iop", "99999999999999999999GB"];
const BITS: &[&str] = &["x", "-1", "10iops", "99999999999999999999Gbit"];
const PRIORITIES: &[&str] = &["x", "-1", "4294967296"];
const FOUR: &[&str] = &["x", "10.0.0.256", "::1", "10.0.0.0/33"];
const SIX: &[&str] = &["x", "10.0.0.1", "::1::", "fd00::/129"];

const SAMPLES: &[Sample] = &[
    (
        "disk",
        &[("source", "/etc"), ("path", "/x")],
        &[
            ("path", &["/../.."]),
            ("source", &["x"]),
            ("readonly", FLAGS),
            ("recursive", FLAGS),
            ("required", FLAGS),
            ("shift", FLAGS),
            ("propagation", &["x", "Shared"]),
            ("limits.read", RATES),
            ("limits.write", RATES),
            ("limits.max", RATES),
            ("nosuch", &["1"]),
        ],
    ),
    (
        "unix-char",
        &[("source", "/dev/null"), ("path", "/dev/x")],
        &[
            ("path", &["x", "/../.."]),
            ("major", IDS),
            ("uid", IDS),
            ("gid", IDS),
            ("mode", MODES),
            ("required", FLAGS),
            ("nosuch", &["1"]),
        ],
    ),
    (
        "nic",
        &[("nictype", "p2p")],
        &[
            ("nictype", &["x", "sriov"]),
            ("name", &["a/b", "..", "a b", "sixteen-letters-", "a\u{1}"]),
            ("host_name", &["a/b", "..", "a b", "sixteen-letters-"]),
            ("hwaddr", &["x", "00:11:22:33:44", "00:11:22:33:44:gg"]),
            ("mtu", &["x", "-1", "99999999999"]),
            ("limits.ingress", BITS),
            ("limits.egress", BITS),
            ("limits.max", BITS),
            ("limits.priority", PRIORITIES),
            ("ipv4.routes", FOUR),
            ("ipv6.routes", SIX),
            ("nosuch", &["1"]),
        ],
    ),
    (
        "nic",
        &[("nictype", "routed"), ("parent", "lo")],
        &[
            ("ipv4.address", FOUR),
            ("ipv6.address", SIX),
            ("ipv4.host_address", FOUR),
            ("ipv6.host_address", SIX),
            ("ipv4.host_table", IDS),
            ("ipv6.host_table", IDS),
            ("ipv4.gateway", &["x", "10.0.0.1"]),
            ("vlan", &["x", "4095", "-1"]),
        ],
    ),
    (
        "proxy",
        &[("listen", "tcp:127.0.0.1:1"), ("connect", "tcp:127.0.0.1:2"), ("bind", "instance")],
        &[
            ("listen", &["x", "tcp:127.0.0.1", "tcp:127.0.0.1:0", "tcp:1.2.3.4:70000", "sctp:1.2.3.4:5", "unix:x"]),
            ("connect", &["x", "tcp:127.0.0.1", "tcp:127.0.0.1:1-2", "udp:[::1:5", "tcp:127.0.0.1:9-1"]),
            ("bind", &["x", "Host"]),
            ("nat", FLAGS),
            ("proxy_protocol", FLAGS),
            ("uid", IDS),
            ("gid", IDS),
            ("mode", MODES),
            ("security.uid", IDS),
            ("security.gid", IDS),
            ("nosuch", &["1"]),
        ],
    ),
];

#[test]
fn no_device_takes_what_does_not_fit() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    daemon.lxc(&["profile", "create", "p1"]).ok();
    let shown = |path: &str| daemon.api("GET", path, "").1["metadata"]["devices"].clone();
    let (mut wrong, mut tried) = (Vec::new(), 0);
    for (kind, base, properties) in SAMPLES {
        for (property, texts) in *properties {
            let mut values = vec![
                json!(7),
                json!({"a": "b"}),
                json!("a\0b"),
                json!("9".repeat(1 << 20)),
                json!("/a\nb"),
                json!(format!("/{}", "9".repeat(1 << 20))),
            ];
            values.extend(texts.iter().map(|text| json!(text)));
            for (value, path) in
                values.iter().flat_map(|value| ["/1.0/instances/c1", "/1.0/profiles/p1"].map(|path| (value, path)))
            {
                let mut device = json!({"type": kind});
                for (name, text) in *base {
                    device[name] = json!(text);
                }
                device[property] = value.clone();
                let before = shown(path);
                let (status, answer) = daemon.api("PATCH", path, &json!({"devices": {"dev": device}}).to_string());
                let message = answer["error"].as_str().unwrap_or_default();
                let named = message.contains("dev") && message.contains(property);
                if status != 400 || !named || message.len() > 1024 || shown(path) != before {
                    let value: String = value.to_string().chars().take(40).collect();
                    wrong.push(format!("{path} {kind} {property}={value}: {status} {message:.300}"));
                }
                tried += 1;
            }
        }
    }
    for (device, word) in [
        (json!({"type": "what"}), "what"),
        (json!({"type": "w".repeat(1 << 20)}), "dev"),
        (json!({"type": "none", "w".repeat(1 << 20): "x"}), "dev"),
        (json!({"path": "/x"}), "type"),
        (json!({"type": 7}), "type"),
        (json!(7), "dev"),
        (json!("x"), "dev"),
    ] {
        for path in ["/1.0/instances/c1", "/1.0/profiles/p1"] {
            let (status, answer) = daemon.api("PATCH", path, &json!({"devices": {"dev": device}}).to_string());
            let message = answer["error"].as_str().unwrap_or_default();
            if status != 400 || !message.contains(word) || message.len() > 1024 {
                wrong.push(format!("{path} {word}: {status} {message:.300}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried > 600, "{tried}");
    assert_eq!(daemon.status("c1"), "Running");
}

#[test]
fn no_hardware_property_takes_what_does_not_fit() {
    let daemon = Daemon::bare();
    daemon.lxc(&["profile", "create", "p1"]).ok();
    let ids = ["x", "12345", "0x12", "12g4", "-123"];
    let numbers = ["x", "-1", "4294967295", "1.5"];
    let rows: [(&str, &[&str]); 9] = [
        ("vendorid", &ids),
        ("productid", &ids),
        ("uid", &numbers),
        ("gid", &numbers),
        ("mode", &["8", "1777", "rw", "-1"]),
        ("required", &["maybe", "2"]),
        ("id", &numbers),
        ("pci", &["x", "01:00", "0000:01:00.10", "0000:zz:00.0", "../0000:01:00.0"]),
        ("gputype", &["mdev", "mig", "sriov", "x"]),
    ];
    for kind in ["usb", "unix-hotplug", "gpu"] {
        for (property, values) in rows {
            // What a kind does not have, it does not take either.
            for value in values.iter().copied().chain(["a\0b", "9".repeat(1 << 16).as_str()]) {
                let device = json!({"type": kind, "vendorid": "1234", property: value});
                let body = json!({"devices": {"dev": device}}).to_string();
                let (status, answer) = daemon.api("PUT", "/1.0/profiles/p1", &body);
                let message = answer["error"].as_str().unwrap_or_default();
                let named = message.contains("\"dev\"") && message.contains(&format!("\"{property}\""));
                assert!(
                    status == 400 && named && message.len() < 1024,
                    "{kind} {property} {value:.20}: {message:.200}"
                );
            }
        }
    }
}
