//! The client `warren` before servers that are broken or mean it ill: never a panic, never more than a bounded part of
//! this host's memory, nothing that a terminal takes for more than letters, no file but the one that was asked for.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "client_hostile/memory.rs"]
mod memory;
mod support;
#[path = "client_hostile/tls.rs"]
mod tls;

use std::process::Stdio;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::broken_server::{
    BrokenServer, Request, Stream, answer, endless, frame, metadata, operation, silent, upgrade,
};
use support::place::{Place, WARREN};
use support::terminal::{Terminal, ended, send};
use support::{Said, eventually, said};

/// Turns red, clears the screen, sets the title, rings, goes back, turns the writing around.
const EVIL: &str = "a\u{1b}[31m\u{1b}[2J\u{1b}]0;owned\u{7}\r\u{9b}1m\u{202e}b";

impl Place {
    fn serve(&self, answers: impl Fn(&Request, &mut dyn Stream) -> bool + Send + Sync + 'static) -> BrokenServer {
        BrokenServer::at(&self.path("socket"), answers)
    }

    #[track_caller]
    fn warren(&self, arguments: &[&str]) -> Said {
        harmless(arguments, said(&mut self.client(arguments)))
    }

    /// With no more memory for itself than so many MiB. What would take more aborts.
    #[track_caller]
    fn within(&self, mebibytes: u32, arguments: &[&str]) -> Said {
        let limit = format!("--data={}", u64::from(mebibytes) << 20);
        harmless(arguments, said(&mut self.by(&["prlimit", &limit, WARREN], arguments)))
    }
}

/// It ended by itself and told no terminal anything on stderr.
#[track_caller]
fn harmless(arguments: &[&str], said: Said) -> Said {
    assert!(!said.err.contains("panicked") && said.code >= 0, "{arguments:?}: {} {}", said.code, said.err);
    assert!(!said.err.contains(['\u{1b}', '\u{9b}', '\u{202e}', '\r', '\u{7}']), "{arguments:?}: {:?}", said.err);
    said
}

/// Verbs that read.
const READING: &[&str] = &[
    "list",
    "list -f csv -c nsabcdDeflmMNpPtuS",
    "list -f yaml",
    "list x=y",
    "list ipv4=10.0.0.0/8",
    "info",
    "info c1",
    "info c1 --show-log",
    "info --resources",
    "version",
    "config show",
    "config show c1",
    "config show c1 -e",
    "config show c1/s",
    "config get c1 user.x",
    "config get c1 user.x -e",
    "config device list c1",
    "config device show c1",
    "config device get c1 root pool",
    "config metadata show c1",
    "config template list c1",
    "config template show c1 t",
    "config trust list",
    "config trust show abc",
    "config trust list-tokens",
    "console c1 --show-log",
    "image list",
    "image list -f csv -c lLfFpdatsu",
    "image info i",
    "image show i",
    "image alias list",
    "image get-property i os",
    "monitor",
    "network list",
    "network show n",
    "network info n",
    "network list-leases n",
    "network acl list",
    "network acl show a",
    "network acl show-log a",
    "network forward list n",
    "network forward show n 10.0.0.1",
    "operation list",
    "operation show 1",
    "profile list",
    "profile show p",
    "profile get p user.x",
    "profile device list p",
    "project list",
    "project info p",
    "query /1.0",
    "storage list",
    "storage show p",
    "storage info p",
    "storage volume list p",
    "storage volume info p v",
    "storage volume show p v",
    "top -n 1",
    "warning list",
    "warning show w",
    // These change something, and read what comes of it.
    "exec c1 true",
    "console c1",
    "launch i c1",
    "start c1",
    "stop c1",
    "delete c1",
    "restore c1 s",
    "publish c1",
    "copy c1 c2",
    "config set c1 user.x=y",
    "config device set c1 root size=1GiB",
    "config trust add --name x",
    "profile assign c1 p",
    "profile add c1 p",
    "profile remove c1 p",
    "profile set p user.x=y",
    "profile unset p user.x",
    "profile copy p q",
    "profile device add p d none",
    "profile device remove p d",
    "project set p user.x=y",
    "network set n user.x=y",
    "network attach n c1",
    "network detach n c1",
    "network acl rule remove a ingress action=allow",
    "network forward port remove n 10.0.0.1 tcp 80",
    "storage set s user.x=y",
    "storage volume set p v user.x=y",
    "storage volume copy p/v p/w",
    "storage volume detach p v c1",
    "image set-property i a b",
    "image unset-property i a",
    "image alias rename a b",
    "config device override c1 root size=1GiB",
    "config device remove c1 root",
    "config metadata edit c1",
    "config template edit c1 t",
    "config trust edit abc",
    "config edit c1",
    "copy c1 c2 -c a=b -d root,size=1GiB -s p",
    "move c1 c2 -s p",
    "rename c1 c2",
    "snapshot c1",
    "file edit c1/x",
    "file mount c1 .",
    "file pull -r c1/x out",
    "operation delete 1",
    "warning acknowledge w",
    "warning delete w",
    "file pull c1/x -",
    "file push /etc/hostname c1/x",
    "file delete c1/x",
    "image export i .",
    "image refresh i",
    "image delete i",
    "network acl rule add a ingress action=allow",
    "network forward port add n 10.0.0.1 tcp 80 10.0.0.2",
    "storage volume attach p v c1 /mnt",
];

#[test]
fn answers_of_any_type_are_no_reason_to_panic() {
    let deep = format!("{}0{}", "[".repeat(5000), "]".repeat(5000));
    let bodies = [
        "null".to_owned(),
        "[null, 5, \"x\", {}, [[]]]".to_owned(),
        json!({"config": 5, "devices": [], "environment": null, "state": "x", "snapshots": {}, "metadata": [], "id": {},
            "properties": 7, "used_by": {}, "aliases": "x", "fingerprint": null, "profiles": "default", "status_code": 103,
            "operation": 5, "rules": 3, "ports": {}, "egress": 1, "name": ["x"], "type": 5, "config.x": {}})
        .to_string(),
        json!({"fds": {"0": 5, "control": {}}, "metadata": {"fds": []}, "cpu": {"sockets": 5}, "running": 5, "x": [5]})
            .to_string(),
        deep,
        "\"\\ud800\"".to_owned(),
        "1e999".to_owned(),
    ];
    let mut servers = Vec::new();
    for body in bodies {
        let place = Place::new();
        place.serve(move |request, stream| {
            // An operation that ends, so that what comes after it is read, too.
            let operation = if request.method == "GET" { "" } else { "/1.0/operations/1" };
            let body = format!(
                "{{\"type\":\"sync\",\"status\":\"Success\",\"status_code\":200,\"operation\":\"{operation}\",\"metadata\":{body}}}"
            );
            let ended = json!({"type": "sync", "metadata": {"status_code": 200, "metadata": 7}}).to_string();
            let body = if request.path.contains("/operations/1/wait") { &ended } else { &body };
            answer(stream, "200 OK", "application/json", "", body)
        });
        servers.push(place);
    }
    // What is no metadata of the API at all.
    for whole in ["{}", "[]", "", "{\"type\":5}", "{\"metadata\":", "\u{0}\u{1}\u{2}"] {
        let place = Place::new();
        place.serve(move |_, stream| answer(stream, "200 OK", "application/json", "", whole));
        servers.push(place);
    }
    // Two at a time: starting the client takes longest.
    let work = std::sync::Mutex::new(servers.iter().flat_map(|place| READING.iter().map(move |words| (place, words))));
    std::thread::scope(|scope| {
        let run = || loop {
            let Some((place, words)) = work.lock().unwrap().next() else { return };
            let words: Vec<&str> = words.split(' ').collect();
            let said = place.warren(&words);
            assert!(matches!(said.code, 0 | 1), "{words:?}: {}", said.code);
            assert!(!said.out.contains('\u{1b}'));
        };
        let workers = [scope.spawn(run), scope.spawn(run)];
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
}

/// A server whose every text is evil.
fn evil(request: &Request, stream: &mut dyn Stream) -> bool {
    let path = request.path.split('?').next().unwrap_or_default();
    let object = json!({
        "name": EVIL, "status": EVIL, "type": EVIL, "description": EVIL, "config": {"user.x": EVIL, EVIL: EVIL},
        "expanded_config": {"user.x": EVIL}, "devices": {EVIL: {"type": EVIL}}, "architecture": EVIL, "project": EVIL,
        "fingerprint": EVIL, "properties": {"description": EVIL, "os": EVIL}, "aliases": [{"name": EVIL}], "id": EVIL,
        "driver": EVIL, "environment": {"server_version": EVIL}, "profiles": [EVIL], "last_message": EVIL, "uuid": EVIL,
        "state": {"pid": 1, "network": {EVIL: {"addresses": [{"family": "inet", "scope": "global", "address": EVIL}]}}},
        "target": EVIL, "severity": EVIL, "entity_url": EVIL, "class": EVIL, "snapshots": [{"name": EVIL}],
    });
    match path {
        "/1.0/operations/1/wait" => metadata(
            stream,
            &json!({"status": EVIL, "status_code": 400, "err": EVIL, "metadata": {"x_progress": EVIL}}),
        ),
        "/1.0/events" => {
            upgrade(request, stream);
            for text in [
                json!({"type": "logging", "timestamp": EVIL, "metadata": {"level": "info", "message": EVIL, "context": {EVIL: EVIL}}}),
                json!({"type": "lifecycle", "timestamp": EVIL, "project": EVIL, "metadata": {"action": EVIL, "source": EVIL}}),
                json!({"type": EVIL, "timestamp": EVIL, "metadata": {"id": EVIL, "description": EVIL, "err": EVIL}}),
            ] {
                let text = text.to_string();
                let _ = stream.write_all(&frame(1, text.len() as u64));
                let _ = stream.write_all(text.as_bytes());
            }
            let _ = stream.flush();
            false
        }
        path if path.ends_with("/logs/lxc.log") || path.ends_with("/console") || path.ends_with("/log") => {
            answer(stream, "200 OK", "application/octet-stream", "", EVIL)
        }
        path if path.contains("refused") => {
            let body = json!({"type": "error", "error": EVIL, "error_code": 400}).to_string();
            answer(stream, "400 Bad Request", "application/json", "", &body)
        }
        _ if request.method != "GET" => operation(stream, &[]),
        "/1.0/operations" => metadata(stream, &json!({"running": [object]})),
        path if path.matches('/').count() == 2 || path.ends_with("/volumes") || path.ends_with("/aliases") => {
            metadata(stream, &json!([object]))
        }
        _ => metadata(stream, &object),
    }
}

#[test]
fn a_terminal_is_told_nothing_but_letters() {
    let place = Place::new();
    place.serve(evil);
    for words in [
        "list",
        "list -c nd4sPtu,user.x",
        "list -f compact",
        "list -f csv -c nd,user.x",
        "list -f json",
        "list -f yaml",
        "info c1",
        "info c1 --show-log",
        "info",
        "console c1 --show-log",
        "version",
        "config show c1",
        "config get c1 user.x",
        "config get c1 user.x -e",
        "config device list c1",
        "profile show p",
        "profile get p user.x",
        "profile list -f csv",
        "image list",
        "image info i",
        "image get-property i os",
        "image alias list",
        "network list",
        "network acl show-log a",
        "operation list",
        "project list",
        "storage list -f csv",
        "storage volume list p",
        "warning list",
        "top -n 1 -d 0.1",
        "query /1.0/x/y",
        "query /1.0/instances/c1/logs/lxc.log",
        "monitor",
        "monitor --pretty",
        "monitor -f json",
        // Refusals, at once and by an operation.
        "profile show refused",
        "start c1",
        "delete refused",
        "launch i c1",
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        let mut terminal = Terminal::with(&place.client(&words), (100, 30));
        let code = terminal.end();
        eventually(&format!("{words:?} shows something"), || terminal.seen().contains(char::is_alphabetic));
        let seen = terminal.seen();
        // The client's own: to the beginning of the line, and the empty screen of `top`.
        let ours = seen.replace("\r\n", "").replace("\r\u{1b}[K", "").replace("\u{1b}[H\u{1b}[2J", "");
        let told = ours.contains(|c: char| (c.is_control() && c != '\t') || ('\u{202a}'..='\u{202e}').contains(&c));
        assert!(!told && !seen.contains("panicked"), "{words:?}: {code} {seen:?}");
        let bell = ours.contains("owned") || ["operation", "top", "version", "storage", "warning"].contains(&words[0]);
        assert!(bell, "{words:?}: {seen:?}");
    }
}

#[test]
fn a_pipe_gets_what_there_is() {
    let place = Place::new();
    place.serve(evil);
    let out = |arguments: &[&str]| place.warren(arguments).ok();
    assert_eq!(out(&["list", "-f", "csv", "-c", "d"]), format!("{EVIL}\n"));
    assert_eq!(out(&["profile", "get", "p", "user.x"]), format!("{EVIL}\n"));
    assert_eq!(out(&["config", "get", "c1", "user.x"]), format!("{EVIL}\n"));
    assert_eq!(out(&["config", "get", "c1", "user.x", "-e"]), format!("{EVIL}\n"));
    assert_eq!(out(&["image", "get-property", "i", "os"]), format!("{EVIL}\n"));
    assert_eq!(out(&["query", "/1.0/instances/c1/logs/lxc.log"]), EVIL);
    let list: Value = serde_json::from_str(&out(&["list", "-f", "json"])).unwrap();
    assert_eq!(list[0]["description"], EVIL);
    let list: Value = serde_norway::from_str(&out(&["list", "-f", "yaml"])).unwrap();
    assert_eq!(list[0]["description"], EVIL);
    let profile: Value = serde_norway::from_str(&out(&["profile", "show", "p"])).unwrap();
    assert_eq!(profile["config"][EVIL], EVIL);
    // Tables are for people, wherever they go.
    let table = out(&["list", "-c", "d"]);
    assert!(!table.contains(['\u{1b}', '\r', '\u{202e}']) && table.contains("a\u{fffd}[31m"), "{table:?}");
}

#[test]
fn errors_of_what_stands_before_a_server_are_told_without_their_pages() {
    let place = Place::new();
    let server = place.serve(|request, stream| match request.path.as_str() {
        "/1.0/profiles/gone" => answer(stream, "404 Not Found", "text/html", "", "<h1>nothing</h1>"),
        "/1.0/profiles/empty" => answer(stream, "204 No Content", "text/plain", "", ""),
        "/1.0/profiles/lie" => answer(stream, "200 OK", "application/json", "", "<h1>hello</h1>"),
        "/1.0/profiles/both" => {
            let body = json!({"type": "error", "error": "nothing for you", "error_code": 503}).to_string();
            answer(stream, "200 OK", "application/json", "", &body)
        }
        path if path.contains("around") => {
            answer(stream, "302 Found", "text/html", &format!("Location: {path}\r\n"), "<h1>over there</h1>")
        }
        _ => answer(stream, "502 Bad Gateway", "text/html; charset=utf-8", "", "<html><script>alert(1)</script>"),
    });
    let refused = |arguments: &[&str], told: &str| {
        let said = place.warren(arguments);
        assert!(
            !said.err.contains("<h") && !said.err.contains("<script") && said.out.is_empty(),
            "{arguments:?}: {}",
            said.err
        );
        said.refused(told);
    };
    refused(&["list"], "The server answers 502 Bad Gateway");
    refused(&["start", "c1"], "502 Bad Gateway");
    refused(&["exec", "c1", "true"], "502 Bad Gateway");
    refused(&["profile", "show", "gone"], "404 Not Found");
    refused(&["profile", "show", "empty"], "makes no sense");
    refused(&["profile", "show", "lie"], "makes no sense");
    refused(&["profile", "show", "both"], "nothing for you");
    // Nobody follows: asked once, and told where it would have gone.
    refused(&["profile", "show", "around"], "The server answers 302 Found, to /1.0/profiles/around");
    assert_eq!(server.count("GET", "/1.0/profiles/around"), 1);
    refused(&["query", "/1.0/around"], "remote set-url");
    assert_eq!(server.count("GET", "/1.0/around"), 1);
}

#[test]
fn connections_that_end_halfway_are_told() {
    for (answer, verb) in [
        ("", "list"),
        ("HTTP/1.1", "list"),
        ("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\n{", "list"),
        ("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n{", "list"),
        ("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n", "list"),
        ("HTTP/1.1 200 OK\r\nX-LXD-type: file\r\nContent-Length: 50\r\n\r\nhalf", "file pull c1/x out"),
        ("HTTP/1.1 200 OK\r\nX-LXD-type: file\r\nContent-Length: 50\r\n\r\nhalf", "file pull c1/x -"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf", "query /1.0/images/x/export"),
    ] {
        let place = Place::new();
        place.serve(move |_, stream| {
            let _ = stream.write_all(answer.as_bytes());
            false
        });
        let words: Vec<&str> = verb.split(' ').collect();
        let said = place.warren(&words);
        assert!(said.code == 1 && said.err.contains("The connection to the daemon broke"), "{verb}: {}", said.err);
    }
    // One that has said all and does not hang up keeps nobody.
    let place = Place::new();
    place.serve(|_, stream| {
        metadata(stream, &json!([]));
        silent()
    });
    assert_eq!(place.warren(&["list", "-f", "json"]).ok(), "[]\n");
}

#[test]
fn an_operation_without_end_is_cancelled_and_does_not_spin() {
    for patient in [true, false] {
        let place = Place::new();
        let server = place.serve(move |request, stream| match request.method.as_str() {
            "PUT" => operation(stream, &[]),
            // The one that never answers is not waited for either when it is cancelled.
            "DELETE" if patient => silent(),
            "DELETE" => metadata(stream, &json!({})),
            _ if patient && request.path.contains("/operations/1") => silent(),
            _ => metadata(stream, &json!({"status": "Running", "status_code": 103, "metadata": null})),
        });
        let begun = Instant::now();
        let mut child = place.client(&["start", "c1"]).stderr(Stdio::piped()).spawn().unwrap();
        let wanted = if patient { 1 } else { 3 };
        eventually("it waits", || server.count("GET", "/1.0/operations/1/wait") >= wanted);
        let (asked, passed) = (server.count("GET", "/1.0/operations/1/wait"), begun.elapsed());
        // At most one in 100 ms, however fast the server answers.
        assert!(asked as u128 <= passed.as_millis() / 100 + 2, "{asked} in {passed:?}");
        send(&child, Signal::INT);
        assert_eq!(ended(&mut child).code(), Some(130));
        assert_eq!(server.count("DELETE", "/1.0/operations/1"), 1);
        let mut told = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut told).unwrap();
        assert!(told.contains("Interrupted"), "{told}");
    }
}

#[test]
fn a_terminal_is_put_back_whatever_the_server_sends() {
    type Sends = fn(&mut dyn Stream) -> bool;
    let cases: [(&str, Sends); 5] = [
        ("nothing and hangs up", |_| false),
        ("a frame without end", |stream| {
            let _ = stream.write_all(&frame(2, 1 << 50));
            endless(stream, "x")
        }),
        ("no frame at all", |stream| {
            let _ = stream.write_all(&[0xff; 64]);
            true
        }),
        ("a text that is none", |stream| {
            let _ = stream.write_all(&frame(1, 2)).and_then(|()| stream.write_all(b"\xff\xfe"));
            true
        }),
        ("an end that makes no sense", |stream| {
            let _ = stream.write_all(&frame(8, 1)).and_then(|()| stream.write_all(b"x"));
            true
        }),
    ];
    for (what, sends) in cases {
        for verb in [&["exec", "c1", "--", "sh"][..], &["console", "c1"]] {
            let place = Place::new();
            place.serve(move |request, stream| {
                if request.method == "POST" {
                    return operation(stream, &["0", "control"]);
                }
                if !request.path.contains("secret=") {
                    return metadata(stream, &json!({"status": "Failure", "status_code": 400, "err": "it is over"}));
                }
                upgrade(request, stream);
                if request.path.contains("secret-0") {
                    return sends(stream);
                }
                // The other one stays until the client goes.
                let _ = stream.read(&mut [0]);
                false
            });
            let mut terminal = Terminal::with(&place.client(verb), (80, 24));
            eventually(&format!("{what}: {verb:?} ends"), || terminal.child.try_wait().unwrap().is_some());
            // It looks at the terminal's modes, too.
            let code = terminal.end();
            assert!(matches!(code, 0 | 1) && !terminal.seen().contains("panicked"), "{what}: {code}");
        }
    }
}

#[test]
fn names_of_files_lead_nowhere_else() {
    let listing = |names: &[&str], stream: &mut dyn Stream| {
        let body = json!({"type": "sync", "status_code": 200, "metadata": names}).to_string();
        answer(stream, "200 OK", "application/json", "X-LXD-type: directory\r\n", &body)
    };
    for bad in ["../out", "/etc/out", "..", ".", "", "a\u{0}b"] {
        let place = Place::new();
        place.serve(move |request, stream| {
            if request.path.ends_with("top") {
                return listing(&[bad], stream);
            }
            answer(stream, "200 OK", "application/octet-stream", "X-LXD-type: file\r\n", "evil")
        });
        place.warren(&["file", "pull", "-r", "c1/top", "here"]).refused("It names a file");
        assert!(!place.path("out").exists());
    }
    // A link that came once is no way for the file that comes next time.
    let place = Place::new();
    let target = place.path("victim");
    std::fs::write(&target, "mine").unwrap();
    let (text, turn) = (target.to_str().unwrap().to_owned(), std::sync::atomic::AtomicUsize::new(0));
    place.serve(move |request, stream| {
        if request.path.ends_with("top") {
            return listing(&["x"], stream);
        }
        if turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 {
            return answer(stream, "200 OK", "application/octet-stream", "X-LXD-type: symlink\r\n", &text);
        }
        answer(stream, "200 OK", "application/octet-stream", "X-LXD-type: file\r\nX-LXD-mode: 4777\r\n", "evil")
    });
    place.warren(&["file", "pull", "-r", "c1/top", "here"]).ok();
    assert_eq!(std::fs::read_link(place.path("here/top/x")).unwrap(), target);
    place.warren(&["file", "pull", "-r", "c1/top", "here"]).ok();
    assert_eq!(std::fs::read_to_string(place.path("here/top/x")).unwrap(), "evil");
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "mine");
    // Directories in directories without end.
    let place = Place::new();
    place.serve(move |_, stream| listing(&["d"], stream));
    place.warren(&["file", "pull", "-r", "c1/top", "here"]).refused("directories deep");
    // An image's name.
    let place = Place::new();
    std::fs::create_dir(place.path("images")).unwrap();
    place.serve(|request, stream| {
        if request.path.ends_with("/export") {
            let named = "Content-Disposition: inline;filename=../../out\u{7f}.tar.gz\r\n".replace('\u{7f}', "");
            return answer(stream, "200 OK", "application/octet-stream", &named, "image");
        }
        metadata(stream, &json!({"fingerprint": "../../x", "target": "abc"}))
    });
    place.warren(&["image", "export", "i", "images/"]).ok();
    let found: Vec<String> = std::fs::read_dir(place.path("images"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, ["out.tar.gz"]);
}
