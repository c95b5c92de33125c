//! The whole table of routes, walked: methods, trust, query parameters of every path.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::process::Command;

use support::Daemon;

const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];

/// A path of the table with names of things that are there, as far as they can be.
fn concrete(path: &str) -> String {
    let name = match path.split('/').nth(2).unwrap_or_default() {
        "instances" | "containers" => "c1",
        "profiles" | "projects" => "default",
        "networks" => "lo",
        "storage-pools" => "p",
        _ => "nosuch",
    };
    let parts = path.split('/').map(|part| match part {
        "{name}" => name,
        part if part.starts_with('{') => "nosuch",
        part => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

/// Paths that show lists of objects.
fn lists() -> Vec<String> {
    let routes = warren::api::routes().into_iter();
    let gets = routes.filter(|(_, methods)| methods.iter().any(|method| method == "GET")).map(|(path, _)| path);
    let no_lists = [
        "/",
        "/1.0",
        "/1.0/cluster",
        "/1.0/events",
        "/1.0/health",
        "/1.0/metadata/configuration",
        "/1.0/metrics",
        "/1.0/resources",
    ];
    let of_api = |path: &String| path == "/" || path.starts_with("/1.0");
    gets.filter(|path| !path.contains('{') && of_api(path) && !no_lists.contains(&path.as_str())).collect()
}

#[test]
fn a_method_that_a_path_does_not_have_is_501_and_a_query_changes_no_status() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    let routes = warren::api::routes();
    assert!(routes.len() > 40);
    for (path, methods) in &routes {
        let url = concrete(path);
        for method in METHODS {
            if methods.iter().any(|known| known == method) {
                continue;
            }
            let (status, body) = daemon.request(method, &url, &[], b"{}");
            assert_eq!(status, 501, "{method} {url}: {body}");
            assert!(method == "HEAD" || body.contains("\"error_code\":501"), "{method} {url}: {body}");
        }
        if methods.iter().any(|method| method == "GET") {
            let (plain, body) = daemon.request("GET", &url, &[], b"");
            assert!(plain < 500, "{url}: {body}");
            let (asked, _) =
                daemon.request("GET", &format!("{url}?nonsense=1&project=&recursion=1&target=none&x"), &[], b"null");
            assert_eq!(plain, asked, "{url}");
            let (slash, _) = daemon.request("GET", &format!("{}/", url.trim_end_matches('/')), &[], b"");
            assert_eq!(plain, slash, "{url}/");
        }
    }
}

#[test]
fn every_list_takes_recursion_and_filter() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    let count = |url: &str| {
        let (status, answer) = daemon.api("GET", url, "");
        assert_eq!(status, 200, "{url}: {answer}");
        let metadata = &answer["metadata"];
        // Operations come by status.
        let lists =
            metadata.as_object().map(|map| map.values().cloned().collect()).unwrap_or_else(|| vec![metadata.clone()]);
        lists.iter().flat_map(|list| list.as_array().unwrap().clone()).collect::<Vec<_>>()
    };
    let lists = lists();
    assert!(lists.len() >= 10, "{lists:?}");
    for list in &lists {
        let urls = count(list);
        assert!(urls.iter().all(|url| url.as_str().is_some_and(|url| url.starts_with(list.as_str()))), "{urls:?}");
        let objects = count(&format!("{list}?recursion=1"));
        assert_eq!(objects.len(), urls.len(), "{list}");
        assert!(objects.iter().all(serde_json::Value::is_object), "{list}");
        assert_eq!(count(&format!("{list}?recursion=2")).len(), urls.len(), "{list}");
        assert_eq!(count(&format!("{list}?filter=")).len(), urls.len(), "{list}");
        assert!(count(&format!("{list}?filter=nosuchfield+eq+x")).is_empty(), "{list}");
        assert_eq!(count(&format!("{list}?recursion=1&filter=nosuchfield+ne+x")).len(), urls.len(), "{list}");
        assert_eq!(daemon.api("GET", &format!("{list}?filter=name+is+x"), "").0, 400, "{list}");
    }
    assert_eq!(count("/1.0/profiles?filter=name+eq+default"), ["/1.0/profiles/default"]);
    assert_eq!(count("/1.0/networks?filter=type+eq+loopback"), ["/1.0/networks/lo"]);
    assert_eq!(count("/1.0/storage-pools?recursion=1&filter=driver+eq+overlay").len(), 1);
    assert!(count("/1.0/operations?filter=status+eq+success").iter().all(serde_json::Value::is_string));
}

#[test]
fn who_is_not_trusted_sees_what_is_public_and_nothing_else() {
    let daemon = Daemon::bare();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    daemon.lxc(&["config", "set", "core.https_address", &format!("127.0.0.1:{port}")]).ok();
    let mut asked = Vec::new();
    // One curl: one TLS handshake for all.
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--insecure", "--http1.1"]);
    for (path, _) in warren::api::routes() {
        for method in METHODS.into_iter().filter(|method| *method != "HEAD") {
            if !asked.is_empty() {
                curl.arg("--next").args(["--silent", "--insecure", "--http1.1"]);
            }
            curl.args(["--output", "/dev/null", "--write-out", "%{http_code}\n", "--request", method, "--data", "{}"]);
            curl.arg(format!("https://127.0.0.1:{port}{}", concrete(&path)));
            let public = match (method, path.as_str()) {
                ("GET", "/" | "/1.0" | "/1.0/images") => 200,
                ("GET", "/1.0/images/{fingerprint}" | "/1.0/images/{fingerprint}/export") => 404,
                ("GET", "/1.0/images/aliases/{*name}") => 404,
                ("GET", "/streams/v1/index.json" | "/streams/v1/images.json") => 200,
                ("GET", "/images/{fingerprint}/{file}") => 404,
                _ => 403,
            };
            asked.push((method, path.clone(), public));
        }
    }
    let output = curl.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said.lines().count(), asked.len());
    for (status, (method, path, wanted)) in said.lines().zip(&asked) {
        assert_eq!(status.parse::<u16>().unwrap(), *wanted, "{method} {path}");
    }
    daemon.lxc(&["config", "unset", "core.https_address"]).ok();
}

/// Whoever read an old state must not undo what another one changed since.
#[test]
fn every_object_that_can_be_changed_is_guarded_by_its_etag() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    let target = daemon.api("GET", "/1.0/images/aliases/bb", "").1["metadata"]["target"].as_str().unwrap().to_owned();
    let described = r#"{"description":"new"}"#;
    let bridge = format!("we{:x}", std::process::id() % 0xfffff);
    daemon.lxc(&["network", "create", &bridge, "ipv4.address=none", "ipv6.address=none"]).ok();
    daemon.api("POST", &format!("/1.0/networks/{bridge}/forwards"), r#"{"listen_address":"192.0.2.249"}"#);
    daemon.lxc(&["network", "acl", "create", "a1"]).ok();
    daemon.lxc(&["snapshot", "c1", "s"]).ok();
    daemon.lxc(&["storage", "volume", "create", "p", "v"]).ok();
    daemon.lxc(&["storage", "volume", "snapshot", "p", "v", "s"]).ok();
    let identity = support::tls::Identity::new();
    identity.trust(&daemon);
    let objects = [
        (identity.url(), "PATCH", r#"{"name":"new"}"#),
        ("/1.0".to_owned(), "PATCH", r#"{"config":{"user.a":"b"}}"#),
        ("/1.0/instances/c1".to_owned(), "PATCH", described),
        ("/1.0/containers/c1".to_owned(), "PATCH", r#"{"config":{"user.a":"b"}}"#),
        ("/1.0/instances/c1/metadata".to_owned(), "PATCH", r#"{"properties":{"a":"b"}}"#),
        ("/1.0/instances/c1/snapshots/s".to_owned(), "PATCH", r#"{"expires_at":"2040-01-02T03:04:05Z"}"#),
        ("/1.0/profiles/default".to_owned(), "PATCH", described),
        ("/1.0/projects/default".to_owned(), "PATCH", described),
        ("/1.0/storage-pools/p".to_owned(), "PATCH", described),
        ("/1.0/storage-pools/p/volumes/custom/v".to_owned(), "PATCH", described),
        ("/1.0/storage-pools/p/volumes/custom/v/snapshots/s".to_owned(), "PATCH", described),
        (format!("/1.0/networks/{bridge}"), "PATCH", described),
        (format!("/1.0/networks/{bridge}/forwards/192.0.2.249"), "PATCH", described),
        ("/1.0/network-acls/a1".to_owned(), "PATCH", described),
        ("/1.0/images/aliases/bb".to_owned(), "PATCH", described),
        (format!("/1.0/images/{target}"), "PATCH", r#"{"properties":{"a":"b"}}"#),
    ];
    let guarded = |path: &str| path.contains("{") || path == "/1.0";
    let changeable = warren::api::routes().into_iter().filter(|(path, methods)| {
        let no_object = path.ends_with("/state") || path.contains("/files");
        // A healthy host has no warnings: tests/networks.rs has one.
        let no_object = no_object || path.starts_with("/1.0/warnings");
        guarded(path) && !no_object && methods.iter().any(|method| method == "PATCH")
    });
    // A new object of the API needs a row here; both trees of instances are one.
    let paths: Vec<String> = changeable.map(|(path, _)| path).filter(|path| !path.contains("containers")).collect();
    assert_eq!(paths.len(), objects.len() - 1, "{paths:?}");
    for (url, method, body) in &objects {
        let tag = || {
            let answer = daemon.ask("GET", url, &[], b"");
            assert_eq!(answer.status, 200, "{url}");
            answer.header("etag").to_owned()
        };
        let first = tag();
        assert!(!first.is_empty(), "{url} has no ETag");
        let change = |tag: &str| daemon.api_raw(method, url, &[("If-Match", tag)], body.as_bytes());
        assert_eq!(change("\"0123\"").0, 412, "{method} {url}");
        assert_eq!(tag(), first, "{url} was changed");
        let (status, answer) = change(&first);
        assert!(matches!(status, 200 | 202), "{method} {url}: {answer}");
        if let Some(operation) = answer["operation"].as_str().filter(|operation| !operation.is_empty()) {
            daemon.api("GET", &format!("{operation}/wait"), "");
        }
        assert_ne!(tag(), first, "{url}");
        assert_eq!(change(&first).0, 412, "{method} {url} with the old one");
    }
}

/// Bodies that nobody means. Whatever they are sent to, the answer is whole, JSON, and blames the request.
#[test]
fn no_body_makes_a_request_fail_without_a_reason() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    let long = "a".repeat(100_000);
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let deep_map = format!("{}1{}", r#"{"config":"#.repeat(5_000), "}".repeat(5_000));
    let mut bodies: Vec<Vec<u8>> =
        ["", "null", "[]", "{}", "1", "true", "\"x\"", "{", "{\"name\"", "\u{feff}{}", "nonsense"]
            .iter()
            .map(|text| text.as_bytes().to_vec())
            .collect();
    bodies.extend([deep.into_bytes(), deep_map.into_bytes(), b"{\"name\":\"\xff\xfe\"}".to_vec(), vec![0; 100]]);
    let long = format!("\"{long}\"");
    let values = [
        "null",
        "\"\"",
        "1",
        "-1",
        "1e400",
        "true",
        "[]",
        "{}",
        "[null]",
        "\"a\\u0000b\"",
        "\"a\\nb\"",
        "\"../x\"",
        &long,
    ];
    let fields = [
        "name",
        "config",
        "devices",
        "profiles",
        "source",
        "type",
        "action",
        "command",
        "driver",
        "description",
        "public",
        "properties",
        "aliases",
        "target",
        "certificate",
        "password",
        "timeout",
        "environment",
        "width",
        "state",
        "expires_at",
        "architecture",
        "ephemeral",
        "instance_type",
        "stateful",
        "templates",
        "creation_date",
    ];
    for field in fields {
        for value in values {
            bodies.push(format!("{{\"{field}\":{value}}}").into_bytes());
        }
    }
    let routes = warren::api::routes()
        .into_iter()
        .filter(|(path, _)| !path.contains("shutdown") && !path.contains("/containers"));
    let changing: Vec<(String, String)> = routes
        .flat_map(|(path, methods)| methods.into_iter().map(move |method| (path.clone(), method.to_string())))
        .filter(|(_, method)| ["POST", "PUT", "PATCH"].contains(&method.as_str()))
        .collect();
    assert!(changing.len() > 25, "{changing:?}");
    std::thread::scope(|scope| {
        for half in changing.chunks(changing.len().div_ceil(4)) {
            let (daemon, bodies) = (&daemon, &bodies);
            scope.spawn(move || {
                for (path, method) in half {
                    let url = concrete(path);
                    for body in bodies {
                        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]);
                        let (status, text) = daemon.request(method, &url, &[], body);
                        assert!(
                            (200..500).contains(&status) || status == 501,
                            "{method} {url} {shown:?}: {status} {text}"
                        );
                        let answer: serde_json::Value = serde_json::from_str(&text)
                            .unwrap_or_else(|error| panic!("{method} {url} {shown:?}: {error} in {text:?}"));
                        let error = answer["error"].as_str().unwrap();
                        assert_eq!(status >= 400, !error.is_empty(), "{method} {url} {shown:?}: {answer}");
                        assert!(error.len() < 2500, "{method} {url} {shown:?}: {} characters", error.len());
                    }
                }
            });
        }
    });
    // Still there, and as it was.
    assert_eq!(daemon.api("GET", "/1.0", "").0, 200);
    let instances = daemon.api("GET", "/1.0/instances", "").1["metadata"].clone();
    for url in instances.as_array().unwrap().iter().filter_map(|url| url.as_str()) {
        assert!(url.ends_with("/c1") || daemon.api("GET", url, "").0 == 200, "{url}");
    }
}

/// Names in a path that no object can have: not found, never a surprise.
#[test]
fn no_name_in_a_path_makes_a_request_fail_without_a_reason() {
    let daemon = Daemon::ready("overlay");
    let long = "a".repeat(5_000);
    let names =
        ["%00", "%0a", "%ff%fe", "a%2fb", "%2e%2e", "..", "%20", "*", "'", "%25", "c1%00", "-", "\u{fc}", &long];
    for (path, methods) in warren::api::routes() {
        for name in names.iter().filter(|_| path.contains('{')) {
            let url: String = path
                .split('/')
                .map(|part| if part.starts_with('{') { *name } else { part })
                .collect::<Vec<_>>()
                .join("/");
            for method in methods.iter().map(ToString::to_string) {
                let (status, text) = daemon.request(&method, &url, &[], b"{}");
                assert!((400..500).contains(&status) || status == 501, "{method} {url}: {status} {text}");
                if method != "HEAD" {
                    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
                    assert!(!answer["error"].as_str().unwrap().is_empty(), "{method} {url}");
                }
            }
        }
    }
}

/// As Ansible and others do: every request has the body `null`, in a packet of its own, and the connection stays.
#[test]
fn a_body_that_nobody_needs_leaves_the_connection_open() {
    use std::io::Write;
    let daemon = Daemon::bare();
    let mut stream = std::os::unix::net::UnixStream::connect(daemon.socket()).unwrap();
    for round in 0..40 {
        for (request, status) in [
            ("GET /1.0", 200),
            ("GET /1.0/instances/nosuch", 404),
            ("DELETE /1.0/instances/nosuch", 404),
            ("PUT /1.0/instances/nosuch", 404),
            ("POST /1.0/nosuch", 404),
            ("PATCH /1.0/instances", 501),
        ] {
            write!(stream, "{request} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n").unwrap();
            std::thread::yield_now();
            stream.write_all(b"null").unwrap();
            let head = support::http::read_head(&mut stream);
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request}, round {round}: {head:?}");
            let header = |name: &str| head.to_lowercase().lines().find_map(|l| l.strip_prefix(name).map(str::to_owned));
            assert_eq!(header("connection: "), None, "{request}");
            let length = header("content-length: ").unwrap().parse::<usize>().unwrap();
            let mut body = vec![0; length];
            std::io::Read::read_exact(&mut stream, &mut body).unwrap();
        }
    }
    // Of a long one the answer says that this is the end.
    write!(stream, "POST /1.0/nosuch HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n").unwrap();
    let head = support::http::read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 404 ") && head.to_lowercase().contains("connection: close"), "{head:?}");
}
