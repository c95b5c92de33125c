//! Who is trusted: tokens, certificates and their entries, what the stock client and ours make of them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use support::api::{done, get, refused};
use support::tls::{Client, Identity, VERSIONS, listen, local, set, tls};
use support::websocket::Socket;
use support::{Daemon, Said, eventually, said};

const CERTIFICATES: &str = "/1.0/certificates";

/// Has the daemon reached at a port that it knows itself, so that tokens tell it.
fn reached(daemon: &Daemon) -> SocketAddr {
    listen(daemon, &local(daemon).to_string())
}

/// The stock client of another user: with a configuration of its own, and no daemon on its host.
fn elsewhere(daemon: &Daemon, user: &str, arguments: &[&str]) -> Said {
    let conf = daemon.root.join(format!("conf-{user}"));
    let mut command = daemon.client();
    said(command.env("LXD_CONF", &conf).env("LXD_DIR", &conf).env("HOME", &conf).args(arguments).stdin(Stdio::null()))
}

/// Our own client of another user.
fn ours_elsewhere(daemon: &Daemon, user: &str, arguments: &[&str]) -> Said {
    let conf = daemon.root.join(format!("warren-{user}"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_warren"));
    for name in ["WARREN_SOCKET", "LXD_SOCKET", "LXD_DIR", "LXD_CONF", "WARREN_PROJECT", "LXD_PROJECT"] {
        command.env_remove(name);
    }
    command.env("WARREN_CONF", &conf).env("WARREN_DIR", &conf).env("HOME", &conf);
    said(command.args(arguments).stdin(Stdio::null()))
}

/// Makes a token by the API: its operation.
#[track_caller]
fn token(daemon: &Daemon, body: &Value) -> Value {
    let mut body = body.clone();
    body["token"] = true.into();
    let (status, answer) = daemon.api("POST", CERTIFICATES, &body.to_string());
    assert_eq!(status, 202, "{answer}");
    answer["metadata"].clone()
}

/// The text of a token, as clients make it of its operation.
fn text(operation: &Value) -> String {
    let told = &operation["metadata"];
    let token = json!({
        "client_name": told["request"]["name"], "fingerprint": told["fingerprint"], "addresses": told["addresses"],
        "secret": told["secret"], "expires_at": told.get("expiresAt").unwrap_or(&json!("0001-01-01T00:00:00Z")),
    });
    BASE64_STANDARD.encode(token.to_string())
}

fn using(token: &str) -> String {
    json!({"type": "client", "password": token}).to_string()
}

/// The entries of the trust store, by name.
fn entries(daemon: &Daemon) -> Vec<(String, bool, Value)> {
    let all = get(daemon, &format!("{CERTIFICATES}?recursion=1"));
    let entry = |one: &Value| {
        (one["name"].as_str().unwrap().to_owned(), one["restricted"].as_bool().unwrap(), one["projects"].clone())
    };
    let mut found: Vec<_> = all.as_array().unwrap().iter().map(entry).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

#[test]
fn clients_add_each_other_by_token() {
    let daemon = Daemon::bare();
    let address = reached(&daemon);
    let made = daemon.lxc(&["config", "trust", "add", "--name", "anna"]).ok();
    let (head, anna) = made.trim().split_once('\n').unwrap();
    assert_eq!(head, "Client anna certificate add token:");
    // Named by the token: no fingerprint is asked for.
    elsewhere(&daemon, "anna", &["remote", "add", "host", anna]).ok();
    elsewhere(&daemon, "anna", &["profile", "create", "host:by-anna"]).ok();
    elsewhere(&daemon, "thief", &["remote", "add", "host", anna])
        .refused("No matching certificate add operation found");
    // The same made and used by our client, in every combination.
    let made = daemon.lxc(&["config", "trust", "add", "--name", "bert"]).ok();
    let bert = made.trim().lines().last().unwrap();
    ours_elsewhere(&daemon, "bert", &["remote", "add", "host", "--token", bert, &format!("https://{address}")]).ok();
    assert!(ours_elsewhere(&daemon, "bert", &["profile", "list", "host:"]).ok().contains("by-anna"));
    ours_elsewhere(&daemon, "thief", &["remote", "add", "host", bert]).refused("No matching certificate");
    let made = ours_elsewhere(&daemon, "bert", &["config", "trust", "add", "host:", "--name", "cleo"]).ok();
    let cleo = made.trim().lines().last().unwrap();
    elsewhere(&daemon, "cleo", &["remote", "add", "host", cleo]).ok();
    assert_eq!(entries(&daemon).iter().map(|entry| entry.0.as_str()).collect::<Vec<_>>(), ["anna", "bert", "cleo"]);
    // Listed and revoked.
    daemon.lxc(&["config", "trust", "add", "--name", "dora"]).ok();
    let listed = daemon.lxc(&["config", "trust", "list-tokens", "-f", "csv"]).ok();
    let dora = listed.trim().strip_prefix("dora,").unwrap().trim_end_matches(',');
    assert!(ours_elsewhere(&daemon, "bert", &["config", "trust", "list-tokens", "host:"]).ok().contains("dora"));
    let mut events = Socket::connect(&daemon, "/1.0/events?type=lifecycle").unwrap();
    daemon.lxc(&["config", "trust", "revoke-token", "dora"]).ok();
    assert_eq!(events.next_json()["metadata"]["action"], "operation-cancelled");
    daemon.lxc(&["config", "trust", "revoke-token", "dora"]).refused("No certificate add token for member dora");
    elsewhere(&daemon, "dora", &["remote", "add", "host", dora]).refused("No matching certificate add operation");
    assert_eq!(daemon.lxc(&["config", "trust", "list-tokens", "-f", "csv"]).ok().trim(), "");
    done(&daemon, "DELETE", "/1.0/profiles/by-anna", &Value::Null);
}

#[test]
fn incus_comes_in_by_a_token_too() {
    let daemon = Daemon::bare();
    local(&daemon);
    let token = text(&token(&daemon, &json!({"name": "incus"})));
    let identity = Identity::new();
    let address = support::tls::listeners(&daemon).pop_first().unwrap();
    let mut client = Client::connect(address, &tls(&VERSIONS, Some(&identity)));
    let body = json!({"type": "client", "trust_token": token}).to_string();
    assert_eq!(client.ask("POST", CERTIFICATES, &body).status, 201);
    assert_eq!(client.auth(), "trusted");
}

#[test]
fn a_token_is_good_once_with_the_limits_that_it_was_made_with() {
    let daemon = Daemon::bare();
    let address = reached(&daemon);
    for project in ["blue", "red"] {
        done(&daemon, "POST", "/1.0/projects", &json!({"name": project}));
    }
    let made = token(&daemon, &json!({"name": "x", "type": "client", "restricted": true, "projects": ["blue"]}));
    assert_eq!(
        (&made["class"], &made["status_code"], &made["may_cancel"]),
        (&json!("token"), &json!(103), &json!(true))
    );
    assert_eq!(made["metadata"]["addresses"], json!([address.to_string()]));
    let text = text(&made);
    // Eight at once, each wishing for more: one of them gets what the token says.
    let answers: Vec<_> = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..8)
            .map(|_| {
                let mut body: Value = serde_json::from_str(&using(&text)).unwrap();
                body["name"] = "mine".into();
                body["restricted"] = false.into();
                body["projects"] = json!(["red"]);
                scope.spawn(move || {
                    let identity = Identity::new();
                    let mut client = Client::connect(address, &tls(&VERSIONS, Some(&identity)));
                    client.ask("POST", CERTIFICATES, &body.to_string())
                })
            })
            .collect();
        tries.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!((won.len(), lost.len()), (1, 7));
    lost.iter().for_each(|answer| answer.refused(403, "No matching certificate add operation found"));
    assert_eq!(entries(&daemon), [("x".to_owned(), true, json!(["blue"]))]);
    let id = made["id"].as_str().unwrap();
    eventually("the operation is over", || daemon.api("GET", &format!("/1.0/operations/{id}"), "").0 == 404);
}

#[test]
fn tokens_outlive_the_daemon_and_revoked_ones_do_not_come_back() {
    let mut daemon = Daemon::bare();
    let address = local(&daemon);
    let [kept, revoked, used] = ["kept", "revoked", "used"].map(|name| token(&daemon, &json!({"name": name})));
    let redeem = |token: &Value| {
        let mut client = Client::connect(address, &tls(&VERSIONS, Some(&Identity::new())));
        client.ask("POST", CERTIFICATES, &using(&text(token)))
    };
    assert_eq!(redeem(&used).status, 201);
    let (status, answer) = daemon.api("DELETE", &format!("/1.0/operations/{}", revoked["id"].as_str().unwrap()), "");
    assert_eq!(status, 200, "{answer}");
    daemon.kill();
    daemon.start();
    let running = get(&daemon, "/1.0/operations?recursion=1")["running"].clone();
    assert_eq!(running.as_array().map(Vec::len), Some(1), "{running}");
    for part in ["id", "metadata", "class", "created_at"] {
        assert_eq!(running[0][part], kept[part], "{part}");
    }
    // The port was the kernel's choice, and stays.
    eventually("it listens again", || !support::tls::listeners(&daemon).is_empty());
    let address = support::tls::listeners(&daemon).pop_first().unwrap();
    let redeem = |token: &Value| {
        let mut client = Client::connect(address, &tls(&VERSIONS, Some(&Identity::new())));
        client.ask("POST", CERTIFICATES, &using(&text(token)))
    };
    for gone in [&used, &revoked] {
        redeem(gone).refused(403, "No matching certificate add operation found");
    }
    assert_eq!(redeem(&kept).status, 201);
    redeem(&kept).refused(403, "No matching certificate add operation found");
}

#[test]
fn a_token_expires_by_the_servers_setting() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    refused(&daemon, "PATCH", "/1.0", &json!({"config": {"core.remote_token_expiry": "soon"}}), 400, "expiry");
    assert_eq!(set(&daemon, "core.remote_token_expiry", "1S").0, 200);
    let short = token(&daemon, &json!({"name": "short"}));
    assert_eq!(set(&daemon, "core.remote_token_expiry", "1d").0, 200);
    let long = token(&daemon, &json!({"name": "long"}));
    assert!(long["metadata"]["expiresAt"].is_string(), "{long}");
    let id = short["id"].as_str().unwrap();
    let ended = get(&daemon, &format!("/1.0/operations/{id}/wait"));
    assert!(ended["err"].as_str().unwrap().contains("Token has expired"), "{ended}");
    let identity = Identity::new();
    let mut client = Client::connect(address, &tls(&VERSIONS, Some(&identity)));
    client.ask("POST", CERTIFICATES, &using(&text(&short))).refused(403, "Token has expired");
    assert_eq!(client.auth(), "untrusted");
    // What the client says of its expiry is nothing.
    let mut forged: Value = serde_json::from_slice(&BASE64_STANDARD.decode(text(&short)).unwrap()).unwrap();
    forged["expires_at"] = "2099-01-01T00:00:00Z".into();
    let forged = BASE64_STANDARD.encode(forged.to_string());
    client.ask("POST", CERTIFICATES, &using(&forged)).refused(403, "Token has expired");
    assert_eq!(client.ask("POST", CERTIFICATES, &using(&text(&long))).status, 201);
}

#[test]
fn a_token_that_cannot_be_used_says_why_and_stays() {
    let daemon = Daemon::bare();
    refused(&daemon, "POST", CERTIFICATES, &json!({"token": true, "name": "x"}), 400, "core.https_address");
    let address = local(&daemon);
    for (body, status, word) in [
        (json!({"type": "metrics", "name": "x"}), 400, "only be issued for client"),
        (json!({"certificate": "x", "name": "x"}), 400, "Can't use certificate"),
        (json!({"restricted": true, "projects": ["nosuch"]}), 404, "Project not found"),
        (json!({"restricted": true, "projects": ["a/b"]}), 404, "Project not found"),
    ] {
        let mut body = body;
        body["token"] = true.into();
        refused(&daemon, "POST", CERTIFICATES, &body, status, word);
    }
    done(&daemon, "POST", "/1.0/projects", &json!({"name": "gone"}));
    let made = token(&daemon, &json!({"name": "x", "restricted": true, "projects": ["gone"]}));
    let known = Identity::new();
    known.trust(&daemon);
    // Whom it does not serve, it does not serve; and it is not used up by that.
    let mut client = Client::connect(address, &tls(&VERSIONS, None));
    client.ask("POST", CERTIFICATES, &using(&text(&made))).refused(400, "certificate");
    let mut body: Value = serde_json::from_str(&using(&text(&made))).unwrap();
    body["certificate"] = known.known().pem.into();
    client.ask("POST", CERTIFICATES, &body.to_string()).refused(409, "Certificate already in trust store");
    // A project that is gone is no project that it opens.
    done(&daemon, "DELETE", "/1.0/projects/gone", &Value::Null);
    let new = Identity::new();
    let mut client = Client::connect(address, &tls(&VERSIONS, Some(&new)));
    assert_eq!(client.ask("POST", CERTIFICATES, &using(&text(&made))).status, 201);
    client.get("/1.0/instances").refused(403, "not authorized");
    assert_eq!(client.get("/1.0/projects").metadata(), json!([]));
}

#[test]
fn what_is_no_token_is_a_password_and_counts_as_one() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    let mut client = Client::connect(address, &tls(&VERSIONS, Some(&Identity::new())));
    assert_eq!(set(&daemon, "core.trust_password", "sesame").0, 200);
    for wrong in ["e30=", "bm9uc2Vuc2U=", "{}"] {
        client.ask("POST", CERTIFICATES, &using(wrong)).refused(403, "not authorized");
    }
    // Who is not trusted makes no token, whatever he knows.
    let body = json!({"type": "client", "password": "sesame", "token": true, "name": "x"}).to_string();
    client.ask("POST", CERTIFICATES, &body).refused(403, "not authorized");
    let body = json!({"type": "client", "password": "sesame", "name": "me", "restricted": true}).to_string();
    assert_eq!(client.ask("POST", CERTIFICATES, &body).status, 201);
    assert_eq!(entries(&daemon), [("me".to_owned(), true, json!([]))]);
    client.ask("POST", CERTIFICATES, "{}").refused(400, "Client is already trusted");
}

#[test]
fn entries_of_certificates_are_changed_by_whoever_may() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    for project in ["blue", "red"] {
        done(&daemon, "POST", "/1.0/projects", &json!({"name": project}));
    }
    let [one, two, three] = [Identity::new(), Identity::new(), Identity::new()];
    one.trust(&daemon);
    for (method, body, status, word) in [
        ("PATCH", json!({"type": "metrics"}), 403, "The certificate type cannot be changed"),
        ("PATCH", json!({"type": "nonsense"}), 403, "The certificate type cannot be changed"),
        ("PUT", json!({"name": "x"}), 403, "The certificate type cannot be changed"),
        ("PATCH", json!({"projects": ["nosuch"]}), 404, "Project not found"),
        ("PATCH", json!({"certificate": "x"}), 400, "certificate"),
        ("PATCH", json!({"restricted": "yes"}), 400, "restricted"),
    ] {
        refused(&daemon, method, &one.url(), &body, status, word);
    }
    refused(&daemon, "PATCH", "/1.0/certificates/zz", &json!({}), 404, "Certificate not found");
    let bogus = json!({"type": "bogus", "certificate": two.known().pem});
    refused(&daemon, "POST", CERTIFICATES, &bogus, 400, "Invalid certificate type");

    // With the ETag of what was read, and not with another.
    let (head, _) = daemon.exchange("GET", &one.url(), &[], b"");
    let head = head.to_lowercase();
    let etag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    let body = json!({"name": "new", "type": "client", "restricted": true, "projects": ["blue"]}).to_string();
    let put = |etag: &str| daemon.api_raw("PUT", &one.url(), &[("If-Match", etag)], body.as_bytes());
    assert_eq!(put("\"other\"").0, 412);
    assert_eq!(put(etag).0, 200);
    assert_eq!(put(etag).0, 412);
    assert_eq!(entries(&daemon), [("new".to_owned(), true, json!(["blue"]))]);
    done(&daemon, "PATCH", &one.url(), &json!({"name": "newer"}));
    assert_eq!(entries(&daemon), [("newer".to_owned(), true, json!(["blue"]))]);

    // A restricted one exchanges itself, and nothing else.
    let mut client = Client::connect(address, &tls(&VERSIONS, Some(&one)));
    two.trust(&daemon);
    for body in [
        json!({"name": "other"}),
        json!({"restricted": false}),
        json!({"projects": ["blue", "red"]}),
        json!({"projects": []}),
        json!({"restricted": false, "certificate": three.known().pem}),
    ] {
        client.ask("PATCH", &one.url(), &body.to_string()).refused(403, "Only the certificate can be changed");
    }
    client.ask("PATCH", &two.url(), "{}").refused(404, "Certificate not found");
    client.ask("DELETE", &one.url(), "").refused(403, "not authorized");
    let body = |of: &Identity| json!({"certificate": of.known().pem}).to_string();
    client.ask("PATCH", &one.url(), &body(&two)).refused(409, "Certificate already in trust store");
    assert_eq!(client.ask("PATCH", &one.url(), &body(&three)).status, 200);
    assert_eq!(client.auth(), "untrusted");
    let mut client = Client::connect(address, &tls(&VERSIONS, Some(&three)));
    let shown = client.get(&format!("{CERTIFICATES}?recursion=1")).metadata();
    assert_eq!(shown.as_array().map(Vec::len), Some(1), "only itself: {shown}");
    assert_eq!((&shown[0]["name"], &shown[0]["projects"]), (&json!("newer"), &json!(["blue"])));
    // As a whole, as it was read, with the old certificate again.
    let mut whole = shown[0].clone();
    whole["certificate"] = one.known().pem.into();
    assert_eq!(client.ask("PUT", &three.url(), &whole.to_string()).status, 200);
    assert_eq!(client.auth(), "untrusted");
    assert_eq!(get(&daemon, &one.url())["projects"], json!(["blue"]));
    // The stock client's editor.
    let edited = "name: edited\ntype: client\nrestricted: false\nprojects: []\n";
    daemon.lxc_with_input(&["config", "trust", "edit", &one.url()[18..30]], edited.as_bytes()).ok();
    assert_eq!(get(&daemon, &one.url())["name"], "edited");
    assert_eq!(Client::connect(address, &tls(&VERSIONS, Some(&one))).get("/1.0/instances").status, 200);
}

#[test]
fn a_certificate_for_metrics_opens_nothing_of_the_api() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    let identity = Identity::new();
    let body = json!({"type": "metrics", "name": "m", "certificate": identity.known().pem});
    done(&daemon, "POST", CERTIFICATES, &body);
    assert_eq!(get(&daemon, &identity.url())["type"], "metrics");
    let mut client = Client::connect(address, &tls(&VERSIONS, Some(&identity)));
    assert_eq!(client.auth(), "untrusted");
    client.get("/1.0/instances").refused(403, "not authorized");
    client.ask("PATCH", &identity.url(), "{}").refused(403, "not authorized");
}

#[test]
fn a_renamed_project_is_still_that_of_its_certificates_and_tokens() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    done(&daemon, "POST", "/1.0/projects", &json!({"name": "old"}));
    let identity = Identity::new();
    let body = json!({"name": "c", "restricted": true, "projects": ["old"], "certificate": identity.known().pem});
    done(&daemon, "POST", CERTIFICATES, &body);
    let made = token(&daemon, &json!({"name": "t", "restricted": true, "projects": ["old"]}));
    done(&daemon, "POST", "/1.0/projects/old", &json!({"name": "new"}));
    let mut client = Client::connect(address, &tls(&VERSIONS, Some(&identity)));
    assert_eq!(client.get("/1.0/projects").metadata(), json!(["/1.0/projects/new"]));
    let mut client = Client::connect(address, &tls(&VERSIONS, Some(&Identity::new())));
    assert_eq!(client.ask("POST", CERTIFICATES, &using(&text(&made))).status, 201);
    assert_eq!(client.get("/1.0/instances?project=new").status, 200);
    client.get("/1.0/instances?project=old").refused(403, "not authorized");
}

/// The lifecycle events of what a client does over HTTPS name its certificate and its address; those of a user of the host
/// name that user.
#[test]
fn every_event_says_who_asked() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    let identity = Identity::new();
    identity.trust(&daemon);
    let mut client = Client::connect(address, &tls(&VERSIONS, Some(&identity)));
    let here = client.0.sock.local_addr().unwrap().to_string();
    let name = get(&daemon, &identity.url())["name"].clone();
    let who =
        json!({"username": identity.known().fingerprint, "protocol": "tls", "address": here, "certificate": name});
    let mut events = Socket::connect(&daemon, "/1.0/events?type=lifecycle,operation&all-projects=true").unwrap();
    let friend = Identity::new();
    let volumes = "/1.0/storage-pools/p/volumes";
    let empty = r#"{"name":"c","source":{"type":"none"}}"#;
    let root = r#"{"devices":{"root":{"type":"disk","path":"/","pool":"p"}}}"#;
    let renewed = Identity::new();
    let renewal = json!({"certificate": renewed.known().pem}).to_string();
    let rows: &[(&str, &str, &str)] = &[
        ("PATCH", "/1.0", r#"{"config":{"user.a":"b"}}"#),
        ("POST", "/1.0/storage-pools", r#"{"name":"p","driver":"dir"}"#),
        ("PATCH", "/1.0/storage-pools/p", r#"{"description":"x"}"#),
        ("PATCH", "/1.0/profiles/default", root),
        ("POST", "/1.0/projects", r#"{"name":"blue","config":{"features.profiles":"false"}}"#),
        ("PATCH", "/1.0/projects/blue", r#"{"description":"x"}"#),
        ("POST", "/1.0/instances", empty),
        ("PATCH", "/1.0/instances/c", r#"{"description":"x"}"#),
        ("POST", "/1.0/instances/c/snapshots", r#"{"name":"s"}"#),
        ("POST", "/1.0/instances/c/snapshots/s", r#"{"name":"t"}"#),
        ("PUT", "/1.0/instances/c", r#"{"restore":"t"}"#),
        ("DELETE", "/1.0/instances/c/snapshots/t", ""),
        ("POST", "/1.0/instances/c", r#"{"name":"d"}"#),
        ("POST", "/1.0/instances?project=blue", empty),
        ("DELETE", "/1.0/instances/c?project=blue", ""),
        ("DELETE", "/1.0/instances/d", ""),
        ("POST", volumes, r#"{"name":"v","type":"custom"}"#),
        ("PATCH", &format!("{volumes}/custom/v"), r#"{"description":"x"}"#),
        ("POST", &format!("{volumes}/custom/v/snapshots"), r#"{"name":"s"}"#),
        ("DELETE", &format!("{volumes}/custom/v/snapshots/s"), ""),
        ("POST", &format!("{volumes}/custom/v"), r#"{"name":"w"}"#),
        ("DELETE", &format!("{volumes}/custom/w"), ""),
        ("POST", "/1.0/network-acls", r#"{"name":"a"}"#),
        ("DELETE", "/1.0/network-acls/a", ""),
        ("POST", CERTIFICATES, r#"{"type":"client","token":true,"name":"later"}"#),
        ("POST", CERTIFICATES, &friend.body()),
        ("PATCH", &friend.url(), r#"{"name":"x"}"#),
        ("PATCH", &friend.url(), &renewal),
        ("DELETE", &renewed.url(), ""),
        ("DELETE", "/1.0/projects/blue", ""),
    ];
    for (method, path, body) in rows {
        let answer = client.ask(method, path, body);
        assert!(answer.status < 300, "{method} {path}: {answer:?}");
        if answer.status == 202 && answer.json()["metadata"]["class"] != "token" {
            let url = answer.json()["operation"].as_str().unwrap().to_owned();
            assert_eq!(client.get(&format!("{url}/wait")).metadata()["err"], "", "{method} {path}");
        }
        // Whatever is told of it until its lifecycle is.
        loop {
            let event = events.next_json();
            assert_eq!(event["metadata"]["requestor"], who, "{method} {path}: {event}");
            if event["type"] == "lifecycle" {
                break;
            }
        }
    }
    // By the socket: another user of its group.
    let mut events = Socket::connect(&daemon, "/1.0/events?type=lifecycle").unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "1", "--regid", "0", "--clear-groups", "curl", "-s", "--unix-socket"]);
    command.arg(daemon.socket()).args(["-d", r#"{"name":"by-daemon"}"#, "http://x/1.0/profiles"]);
    said(&mut command).ok();
    let event = events.next_json();
    assert_eq!(
        event["metadata"]["requestor"],
        json!({"username": "daemon", "protocol": "unix", "address": "@", "uid": 1})
    );
    done(&daemon, "DELETE", "/1.0/profiles/by-daemon", &Value::Null);
}
