//! Certificates that are limited to projects: every route, lists, events, operations, and what bodies name.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::net::{SocketAddr, TcpStream};

use rustls::StreamOwned;
use rustls::client::ClientConnection;
use serde_json::{Value, json};
use support::Daemon;
use support::api::{done, get};
use support::tls::{Answer, Client, Identity, VERSIONS, local, tls};
use tungstenite::{Message, WebSocket};

/// The word in the name of all that a restricted client must not learn of.
const HIDDEN: &str = "hidden";

/// Makes a project; with `shares`, its profiles, images, volumes and networks are those of `default`.
fn project(daemon: &Daemon, name: &str, shares: bool) {
    let features = ["features.images", "features.profiles", "features.storage.volumes"];
    let config: Value = features.iter().map(|key| ((*key).to_owned(), json!((!shares).to_string()))).collect();
    done(daemon, "POST", "/1.0/projects", &json!({"name": name, "config": config}));
}

/// In a project, one of everything that needs no image and no network of the host, called `name`.
fn fill(daemon: &Daemon, project: &str, name: &str) {
    let at = |path: &str| format!("{path}?project={project}");
    let root = json!({"devices": {"root": {"type": "disk", "path": "/", "pool": "p"}}});
    done(daemon, "PATCH", &at("/1.0/profiles/default"), &root);
    done(daemon, "POST", &at("/1.0/profiles"), &json!({"name": name}));
    let instance = json!({"name": name, "source": {"type": "none"}, "config": {"user.word": name}});
    done(daemon, "POST", &at("/1.0/instances"), &instance);
    done(daemon, "POST", &at(&format!("/1.0/instances/{name}/snapshots")), &json!({"name": name}));
    done(daemon, "POST", &at("/1.0/storage-pools/p/volumes"), &json!({"name": name, "type": "custom"}));
    let snapshot = format!("/1.0/storage-pools/p/volumes/custom/{name}/snapshots");
    done(daemon, "POST", &at(&snapshot), &json!({"name": name}));
}

/// A client with a certificate for these projects.
fn restricted(daemon: &Daemon, address: SocketAddr, projects: &[&str]) -> (Client, Identity) {
    let identity = Identity::new();
    let body = json!({
        "type": "client", "name": "limited", "restricted": true, "projects": projects,
        "certificate": identity.known().pem,
    });
    done(daemon, "POST", "/1.0/certificates", &body);
    (Client::connect(address, &tls(&VERSIONS, Some(&identity))), identity)
}

/// Asks for something that takes a while, and sees it through.
fn finished(client: &mut Client, method: &str, path: &str, body: &Value) {
    let answer = client.ask(method, path, &body.to_string());
    assert_eq!(answer.status, 202, "{answer:?}");
    let url = answer.json()["operation"].as_str().unwrap().to_owned();
    assert_eq!(client.get(&format!("{url}/wait")).metadata()["err"], "", "{method} {path}");
}

/// All that there is, as the administrator sees it.
fn everything(daemon: &Daemon) -> Value {
    let lists = [
        "/1.0/projects?recursion=1",
        "/1.0/profiles?recursion=1&all-projects=true",
        "/1.0/instances?recursion=1&all-projects=true",
        "/1.0/images?recursion=1&all-projects=true",
        "/1.0/storage-pools?recursion=1",
        "/1.0/storage-pools/p/volumes?recursion=1&all-projects=true",
        "/1.0/network-acls?recursion=1&all-projects=true",
        "/1.0/certificates?recursion=1",
        "/1.0/warnings?recursion=1",
    ];
    let config = get(daemon, "/1.0")["config"].clone();
    lists.iter().map(|path| get(daemon, path)).chain([config]).collect()
}

/// A daemon with a pool, an image, and objects called `hidden` in `default` and `theirs`, and `own` in `mine`.
fn filled() -> Daemon {
    let daemon = Daemon::bare();
    done(&daemon, "POST", "/1.0/storage-pools", &json!({"name": "p", "driver": "dir"}));
    project(&daemon, "theirs", false);
    project(&daemon, "mine", false);
    for (name, word) in [("default", HIDDEN), ("theirs", HIDDEN), ("mine", "own")] {
        fill(&daemon, name, word);
    }
    let (meta, root) = daemon.busybox();
    let files = [meta.to_str().unwrap(), root.to_str().unwrap()];
    for name in ["default", "theirs"] {
        daemon.lxc(&["image", "import", files[0], files[1], "--alias", HIDDEN, "--project", name]).ok();
    }
    done(&daemon, "PATCH", "/1.0", &json!({"config": {"user.word": HIDDEN}}));
    daemon
}

/// The route with names in the place of its parameters.
fn path_of(route: &str, name: &str, fingerprint: &str) -> String {
    let in_pool = route.starts_with("/1.0/storage-pools/{name}");
    let is_project = route.starts_with("/1.0/projects/");
    let parts = route.split('/').map(|part| match part {
        "{name}" if in_pool => "p",
        "{name}" if is_project && name == HIDDEN => "theirs",
        "{name}" if is_project => "mine",
        "{type}" => "custom",
        "{fingerprint}" => fingerprint,
        "{file}" => "lxd.tar.xz",
        part if part.starts_with('{') => name,
        part => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

/// A body in which something is for every handler.
fn body(name: &str) -> String {
    json!({
        "name": name, "description": "evil", "type": "custom", "driver": "dir", "action": "stop", "force": true,
        "source": {"type": "none"}, "config": {"user.evil": "1"}, "command": ["true"], "state": {"action": "stop"},
        "target": name, "profiles": ["default"], "properties": {"evil": "1"},
    })
    .to_string()
}

#[test]
fn no_route_leads_a_restricted_client_out_of_its_projects() {
    let daemon = filled();
    let address = local(&daemon);
    let (mut client, identity) = restricted(&daemon, address, &["mine"]);
    let fingerprint = get(&daemon, "/1.0/images/aliases/hidden")["target"].as_str().unwrap().to_owned();
    // What it may read of the server, and what it is told instead of a refusal.
    let open = [
        "/",
        "/1.0",
        "/1.0/certificates",
        "/1.0/cluster",
        "/1.0/images",
        "/1.0/metadata/configuration",
        "/1.0/metrics",
        "/1.0/projects",
        "/1.0/resources",
        "/1.0/storage-pools",
        "/1.0/storage-pools/p",
        "/1.0/storage-pools/p/resources",
        "/streams/v1/index.json",
        "/streams/v1/images.json",
    ];
    let before = everything(&daemon);
    let mut tried = 0;
    for (route, methods) in warren::api::routes() {
        let path = path_of(&route, HIDDEN, &fingerprint);
        for method in methods {
            for query in ["", "?project=default", "?project=theirs", "?project=nosuch", "?project=mine%2f"] {
                if method == http::Method::HEAD {
                    continue;
                }
                let reads = method == http::Method::GET;
                let (method, url) = (method.as_str(), format!("{path}{query}"));
                let answer = client.ask(method, &url, &if reads { String::new() } else { body(HIDDEN) });
                // One without a secret, and one who is known already.
                let asks_more = path.ends_with("/websocket") || (path == "/1.0/certificates" && !reads);
                let refused = matches!(answer.status, 403 | 404) || (asks_more && answer.status == 400);
                assert!(refused || (reads && open.contains(&path.as_str())), "{method} {url}: {answer:?}");
                let told = String::from_utf8_lossy(&answer.body).into_owned();
                assert!(!told.contains(HIDDEN), "{method} {url}: {told}");
                tried += 1;
            }
        }
    }
    assert!(tried > 500, "{tried}");
    // Lists of all projects are of its own; by path into another, nothing is found.
    for (route, methods) in warren::api::routes() {
        for (name, query) in
            [(HIDDEN, "project=mine"), (HIDDEN, "all-projects=true"), (HIDDEN, "project=mine&recursion=2")]
        {
            if !methods.contains(&http::Method::GET) || route.starts_with("/1.0/events") {
                continue;
            }
            let url = format!("{}?recursion=1&{query}", path_of(&route, name, &fingerprint));
            let answer = client.get(&url);
            let told = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(!told.contains(HIDDEN), "{url}: {told}");
        }
    }
    assert_eq!(everything(&daemon), before);
    // The same connection does all of it in its own project.
    for path in ["instances", "profiles", "images", "operations", "network-acls", "storage-pools/p/volumes"] {
        assert_eq!(client.get(&format!("/1.0/{path}?project=mine")).status, 200, "{path}");
    }
    let all = client.get("/1.0/instances?all-projects=true").metadata();
    assert_eq!(all, json!(["/1.0/instances/own?project=mine"]));
    assert_eq!(client.ask("PATCH", "/1.0/profiles/own?project=mine", r#"{"description": "x"}"#).status, 200);
    assert_eq!(client.get("/1.0").metadata()["config"], json!({}));
    assert_eq!(client.get("/1.0").metadata()["auth"], "trusted");
    let pool = client.get("/1.0/storage-pools/p").metadata();
    assert_eq!(pool["config"], json!({}), "paths of the host are the host's business");
    let used: Vec<&str> = pool["used_by"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(used.len() >= 4 && used.iter().all(|url| url.ends_with("?project=mine")), "{used:?}");
    // No longer restricted, and the next request knows it.
    done(&daemon, "PATCH", &identity.url(), &json!({"restricted": false}));
    assert_eq!(client.get("/1.0/instances").status, 200);
}

#[test]
fn bodies_that_name_another_project_are_refused() {
    let daemon = filled();
    let address = local(&daemon);
    let (mut client, _) = restricted(&daemon, address, &["mine"]);
    let fingerprint = get(&daemon, "/1.0/images/aliases/hidden")["target"].clone();
    let before = everything(&daemon);
    let copy =
        |project: &str| json!({"name": "evil", "source": {"type": "copy", "source": HIDDEN, "project": project}});
    let volume = |project: &str| {
        json!({"name": "evil", "type": "custom",
            "source": {"type": "copy", "name": HIDDEN, "pool": "p", "project": project}})
    };
    for project in ["default", "theirs", "nosuch"] {
        let image = json!({"name": "evil", "source": {"type": "image", "alias": HIDDEN, "project": project}});
        let by_fingerprint =
            json!({"name": "evil", "source": {"type": "image", "fingerprint": fingerprint, "project": project}});
        for (path, body) in [
            ("/1.0/instances", copy(project)),
            ("/1.0/instances", image),
            ("/1.0/instances", by_fingerprint),
            ("/1.0/instances/own", json!({"name": "evil", "project": project, "migration": true})),
            ("/1.0/instances/own", json!({"name": "own", "project": project, "pool": "p", "migration": true})),
            ("/1.0/storage-pools/p/volumes", volume(project)),
            ("/1.0/storage-pools/p/volumes/custom", volume(project)),
            ("/1.0/storage-pools/p/volumes/custom/own", json!({"name": "own", "pool": "p", "project": project})),
        ] {
            let answer = client.ask("POST", &format!("{path}?project=mine"), &body.to_string());
            answer.refused(403, "not authorized");
        }
    }
    assert_eq!(everything(&daemon), before);
    // A public image is everybody's, and what it is made into lies in the own project.
    let image = format!("/1.0/images/{}", fingerprint.as_str().unwrap());
    done(&daemon, "PATCH", &image, &json!({"public": true}));
    let body = json!({"name": "made", "source": {"type": "image", "alias": HIDDEN, "project": "default"}});
    finished(&mut client, "POST", "/1.0/instances?project=mine", &body);
    assert_eq!(client.get("/1.0/instances/made?project=mine").status, 200);
}

#[test]
fn what_a_project_shares_is_read_and_not_changed() {
    let daemon = filled();
    let address = local(&daemon);
    project(&daemon, "shares", true);
    done(&daemon, "POST", "/1.0/network-acls", &json!({"name": HIDDEN}));
    let (mut client, _) = restricted(&daemon, address, &["shares"]);
    let fingerprint = get(&daemon, "/1.0/images/aliases/hidden")["target"].as_str().unwrap().to_owned();
    let before = everything(&daemon);
    for path in [
        "/1.0/profiles/hidden",
        "/1.0/images/aliases/hidden",
        "/1.0/storage-pools/p/volumes/custom/hidden",
        "/1.0/network-acls/hidden",
        "/1.0/networks/lo",
    ] {
        assert_eq!(client.get(&format!("{path}?project=shares")).status, 200, "{path}");
    }
    for (method, path) in [
        ("POST", "/1.0/profiles"),
        ("PUT", "/1.0/profiles/hidden"),
        ("PATCH", "/1.0/profiles/hidden"),
        ("POST", "/1.0/profiles/hidden"),
        ("DELETE", "/1.0/profiles/hidden"),
        ("PATCH", "/1.0/images/FINGERPRINT"),
        ("DELETE", "/1.0/images/FINGERPRINT"),
        ("POST", "/1.0/images/aliases"),
        ("DELETE", "/1.0/images/aliases/hidden"),
        ("POST", "/1.0/storage-pools/p/volumes"),
        ("PATCH", "/1.0/storage-pools/p/volumes/custom/hidden"),
        ("DELETE", "/1.0/storage-pools/p/volumes/custom/hidden"),
        ("POST", "/1.0/storage-pools/p/volumes/custom/hidden/snapshots"),
        ("DELETE", "/1.0/storage-pools/p/volumes/custom/hidden/snapshots/hidden"),
        ("DELETE", "/1.0/storage-pools/p/volumes/images/FINGERPRINT"),
        ("POST", "/1.0/network-acls"),
        ("DELETE", "/1.0/network-acls/hidden"),
        ("POST", "/1.0/networks"),
        ("DELETE", "/1.0/networks/lo"),
    ] {
        let path = path.replace("FINGERPRINT", &fingerprint);
        let answer = client.ask(method, &format!("{path}?project=shares"), &body("evil"));
        answer.refused(403, "not authorized: what this project shares lies in the project \"default\"");
    }
    client.ask("POST", "/1.0/images?project=shares", &body("evil")).refused(403, "not authorized");
    assert_eq!(everything(&daemon), before);
    // Who uses the shared things in other projects, it does not learn.
    let shared = client.get("/1.0/profiles/default?project=shares").metadata();
    assert_eq!(shared["used_by"], json!([]));
    let made = json!({"name": "own", "source": {"type": "none"}});
    finished(&mut client, "POST", "/1.0/instances?project=shares", &made);
    let shared = client.get("/1.0/profiles/default?project=shares").metadata();
    assert_eq!(shared["used_by"], json!(["/1.0/instances/own?project=shares"]));
    // Nor does who may change the profile learn who uses it there.
    let (mut client, _) = restricted(&daemon, address, &["default"]);
    let change = json!({"config": {"user.x": "1"}}).to_string();
    let told = client.ask("PATCH", "/1.0/profiles/default?dry-run=1", &change).metadata();
    let names: Vec<&str> =
        told["instances"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(names, [HIDDEN], "its own");
}

type Events = WebSocket<StreamOwned<ClientConnection, TcpStream>>;

/// Listens for events, or gives the refusal's status.
fn listen(address: SocketAddr, identity: &Identity, query: &str) -> Result<Events, u16> {
    let stream = Client::connect(address, &tls(&VERSIONS, Some(identity))).0;
    match tungstenite::client(format!("wss://localhost/1.0/events?{query}"), stream) {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

fn next(events: &mut Events) -> Value {
    loop {
        if let Message::Text(text) = events.read().unwrap() {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

#[test]
fn events_and_operations_are_those_of_its_projects() {
    let daemon = filled();
    let address = local(&daemon);
    let (mut client, identity) = restricted(&daemon, address, &["mine", "default"]);
    let (_, other) = restricted(&daemon, address, &["mine"]);
    for query in ["", "project=theirs", "project=default&type=lifecycle"] {
        assert_eq!(listen(address, &other, query).err(), Some(403), "{query}");
    }
    for query in ["type=logging&project=mine", "type=logging,lifecycle&all-projects=true"] {
        assert_eq!(listen(address, &other, query).err(), Some(403), "{query}");
    }
    let mut all = listen(address, &other, "all-projects=true").unwrap();
    let mut of_default = listen(address, &identity, "all-projects=true").unwrap();
    // What belongs to the server is nobody's business, though it is told in `default`; a token's secret least of all.
    let token = json!({"token": true, "name": "token-of-theirs"}).to_string();
    let (status, made) = daemon.api("POST", "/1.0/certificates", &token);
    assert_eq!(status, 202);
    done(&daemon, "PATCH", "/1.0", &json!({"config": {"user.x": "1"}}));
    done(&daemon, "PATCH", "/1.0/storage-pools/p", &json!({"description": HIDDEN}));
    done(&daemon, "PATCH", "/1.0/profiles/hidden?project=theirs", &json!({"description": "x"}));
    done(&daemon, "PATCH", "/1.0/instances/hidden?project=theirs", &json!({"description": "x"}));
    done(&daemon, "PATCH", "/1.0/profiles/hidden", &json!({"description": "x"}));
    done(&daemon, "PATCH", "/1.0/profiles/own?project=mine", &json!({"description": "x"}));
    let first = next(&mut all);
    assert_eq!(
        (&first["metadata"]["source"], &first["project"]),
        (&json!("/1.0/profiles/own?project=mine"), &json!("mine"))
    );
    let sources = [next(&mut of_default), next(&mut of_default)].map(|event| event["metadata"]["source"].clone());
    assert_eq!(sources, ["/1.0/profiles/hidden", "/1.0/profiles/own?project=mine"]);
    // The token is an operation of `default`, and yet not to be seen, waited for or revoked.
    let url = made["operation"].as_str().unwrap();
    for query in ["", "&project=default", "&all-projects=true"] {
        let told = client.get(&format!("/1.0/operations?recursion=1{query}"));
        assert_eq!(told.status, 200);
        assert!(!String::from_utf8_lossy(&told.body).contains("token-of-theirs"), "{told:?}");
    }
    for (method, path) in
        [("GET", url.to_owned()), ("DELETE", url.to_owned()), ("GET", format!("{url}/wait?timeout=0"))]
    {
        client.ask(method, &path, "").refused(404, "Operation not found");
    }
    assert_eq!(get(&daemon, url)["status"], "Running");
    daemon.api("DELETE", url, "");
}

/// The user of a restricted certificate, with the stock client.
#[test]
fn the_stock_client_works_in_the_projects_of_its_certificate() {
    let daemon = filled();
    let address = support::tls::listen(&daemon, &local(&daemon).to_string());
    assert!(address.port() > 0);
    let made = daemon.lxc(&["config", "trust", "add", "--name", "u", "--restricted", "--projects", "mine"]).ok();
    let token = made.trim().lines().last().unwrap();
    let conf = daemon.root.join("conf-u");
    let lxc = |arguments: &[&str]| {
        let mut command = daemon.client();
        command.env("LXD_CONF", &conf).env("LXD_DIR", &conf).env("HOME", &conf).args(arguments);
        support::said(command.stdin(std::process::Stdio::null()))
    };
    lxc(&["remote", "add", "host", token]).ok();
    lxc(&["remote", "switch", "host"]).ok();
    lxc(&["project", "switch", "mine"]).ok();
    assert_eq!(lxc(&["project", "list", "-f", "csv"]).ok().lines().count(), 1);
    assert_eq!(lxc(&["list", "-c", "n", "-f", "csv"]).ok().trim(), "own");
    assert_eq!(lxc(&["list", "--all-projects", "-c", "n", "-f", "csv"]).ok().trim(), "own");
    lxc(&["init", "--empty", "new"]).ok();
    lxc(&["profile", "create", "fresh"]).ok();
    lxc(&["storage", "volume", "create", "p", "fresh"]).ok();
    assert!(lxc(&["storage", "list", "-f", "csv"]).ok().contains("p,"));
    lxc(&["copy", "own", "two"]).ok();
    lxc(&["delete", "two"]).ok();
    lxc(&["list", "--project", "theirs"]).refused("not authorized");
    lxc(&["copy", "hidden", "three", "--project", "default", "--target-project", "mine"]).refused("not authorized");
    lxc(&["move", "new", "new", "--target-project", "theirs"]).refused("not authorized");
    lxc(&["config", "set", "core.trust_password", "x"]).refused("not authorized");
    lxc(&["config", "trust", "add", "--name", "evil"]).refused("not authorized");
    lxc(&["project", "create", "evil"]).refused("not authorized");
    lxc(&["storage", "create", "evil", "dir"]).refused("not authorized");
    assert_eq!(daemon.lxc(&["list", "--project", "mine", "-c", "n", "-f", "csv"]).ok().lines().count(), 2);
}

/// Refusals do not depend on how much of a body had come.
#[test]
fn a_refusal_is_an_answer() {
    let daemon = filled();
    let address = local(&daemon);
    let (mut client, identity) = restricted(&daemon, address, &[]);
    let large = " ".repeat(100_000);
    let answer: Answer = client.ask("PUT", "/1.0/instances/hidden", &format!("{large}{{}}"));
    answer.refused(403, "not authorized");
    // The rest of such a body ends the connection.
    let mut client = Client::connect(address, &tls(&VERSIONS, Some(&identity)));
    assert_eq!(client.get("/1.0/projects").metadata(), json!([]));
}

/// What another project uses of `default` is in the way, and that is told; its names are not.
#[test]
fn a_refusal_names_no_object_of_another_project() {
    let daemon = Daemon::ready("overlay");
    let address = local(&daemon);
    project(&daemon, "web", true);
    let (mut client, _) = restricted(&daemon, address, &["default"]);
    done(&daemon, "POST", "/1.0/profiles", &json!({"name": "shared"}));
    done(&daemon, "POST", "/1.0/storage-pools/p/volumes", &json!({"name": "vol", "type": "custom"}));
    let volume = "/1.0/storage-pools/p/volumes/custom/vol";
    let disk = json!({"data": {"type": "disk", "pool": "p", "source": "vol", "path": "/data"}});
    let instance = |name: &str| json!({"name": name, "source": {"type": "image", "alias": "bb"}, "profiles": ["default", "shared"], "devices": disk});
    done(&daemon, "POST", "/1.0/instances?project=web", &instance(HIDDEN));
    done(&daemon, "PUT", &format!("/1.0/instances/{HIDDEN}/state?project=web"), &json!({"action": "start"}));
    let mut refusals = |shown: &str| {
        let unmapped = json!({"config": {"security.unmapped": "true"}}).to_string();
        for (method, path, body) in
            [("DELETE", "/1.0/profiles/shared", "{}"), ("DELETE", volume, "{}"), ("PATCH", volume, unmapped.as_str())]
        {
            let answer = client.ask(method, path, body);
            let told = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(answer.status == 400 && told.contains("1 "), "{method} {path}: {told}");
            assert!(told.contains("in other projects") && !told.contains(HIDDEN), "{method} {path}: {told}");
            assert!(method == "PATCH" || told.contains(shown), "{method} {path}: {told}");
            assert_eq!(
                client.get(path).metadata()["used_by"].as_array().unwrap().len(),
                usize::from(!shown.is_empty())
            );
        }
    };
    refusals("");
    done(&daemon, "POST", "/1.0/instances", &instance("mine"));
    refusals("mine");
    // The end of an operation is told alike.
    daemon.lxc(&["storage", "create", "q", "dir"]).ok();
    let answer = client.ask("POST", volume, &json!({"name": "vol", "pool": "q"}).to_string());
    assert_eq!(answer.status, 202, "{answer:?}");
    let url = answer.json()["operation"].as_str().unwrap().to_owned();
    let told = client.get(&format!("{url}/wait")).metadata()["err"].to_string();
    assert!(told.contains("1 in other projects") && !told.contains(HIDDEN), "{told}");
    // Who sees all is told all.
    let (_, answer) = daemon.api("DELETE", volume, "{}");
    assert!(answer["error"].as_str().unwrap().contains(HIDDEN), "{answer}");
}
