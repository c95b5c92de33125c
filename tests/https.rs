//! The daemon's HTTPS side: protocol versions, certificates, who is trusted, what strangers see, the address that moves,
//! clients that dawdle.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ProtocolVersion;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use support::tls::{Client, Identity, PATIENCE, VERSIONS, listen, listeners, local, set, tls};
use support::{Daemon, eventually, run, warrend};
use warren::auth::ClientCertificate;

fn config(daemon: &Daemon) -> Value {
    daemon.api("GET", "/1.0", "").1["metadata"]["config"].clone()
}

/// The certificate that the server shows.
fn shown(address: SocketAddr) -> Vec<u8> {
    let mut client = Client::connect(address, &tls(&VERSIONS, None));
    assert_eq!(client.get("/").status, 200);
    client.0.conn.peer_certificates().unwrap()[0].to_vec()
}

/// The beginning of what answers a ClientHello of TLS 1.2 or below.
fn hello(address: SocketAddr, version: [u8; 2]) -> [u8; 7] {
    let mut hello = version.to_vec();
    hello.extend([7; 32]);
    // No session; ECDHE-ECDSA with AES-GCM and with AES-CBC; no compression.
    hello.extend([0, 0, 4, 0xc0, 0x2c, 0xc0, 0x0a, 1, 0]);
    // Extensions: group secp256r1, uncompressed points, ECDSA with SHA-384.
    hello.extend([0, 22, 0, 10, 0, 4, 0, 2, 0, 0x17, 0, 11, 0, 2, 1, 0, 0, 13, 0, 4, 0, 2, 5, 3]);
    let length = u8::try_from(hello.len()).unwrap();
    let mut record = vec![0x16, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&record).unwrap();
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).unwrap();
    answer
}

#[test]
fn only_tls_1_2_and_1_3_are_spoken() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    for (version, wanted) in VERSIONS.into_iter().zip([ProtocolVersion::TLSv1_2, ProtocolVersion::TLSv1_3]) {
        let mut client = Client::connect(address, &tls(&[version], None));
        assert_eq!(client.auth(), "untrusted");
        assert_eq!(client.0.conn.protocol_version(), Some(wanted));
        assert_eq!(client.0.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    }
    // An alert (21), fatal (2), "protocol version" (70): RFC 5246, 7.2.
    for old in [[3, 0], [3, 1], [3, 2]] {
        let answer = hello(address, old);
        assert_eq!((answer[0], &answer[5..]), (21, &[2, 70][..]), "{old:?}");
    }
    // The same words in TLS 1.2 are answered by a ServerHello.
    let answer = hello(address, [3, 3]);
    assert_eq!((answer[0], answer[5]), (0x16, 2));
}

#[test]
fn the_server_makes_a_certificate_once_and_keeps_it() {
    let mut daemon = Daemon::bare();
    let first = shown(local(&daemon));
    let (_, certificate) = x509_parser::parse_x509_certificate(&first).unwrap();
    assert_eq!(certificate.signature_algorithm.algorithm.to_id_string(), "1.2.840.10045.4.3.3", "ecdsa-with-SHA384");
    let curve = certificate.public_key().algorithm.parameters.as_ref().unwrap().as_oid().unwrap();
    assert_eq!(curve.to_id_string(), "1.3.132.0.34", "secp384r1");
    assert_eq!(certificate.issuer(), certificate.subject(), "self-signed");
    let days = (certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp()) / 86400;
    assert!((3650..3660).contains(&days), "{days}");
    let told = daemon.api("GET", "/1.0", "").1["metadata"]["environment"].clone();
    let known = ClientCertificate::from_der(&first).unwrap();
    assert_eq!(told["certificate_fingerprint"], known.fingerprint.as_str());
    assert_eq!(told["certificate"], known.pem);
    let files = || ["server.crt", "server.key"].map(|file| std::fs::read(daemon.state().join(file)).unwrap());
    let before = files();
    daemon.terminate();
    daemon.start();
    let files = || ["server.crt", "server.key"].map(|file| std::fs::read(daemon.state().join(file)).unwrap());
    assert_eq!(files(), before);
    let address = *listeners(&daemon).first().expect("the address is kept, too");
    assert_eq!(shown(address), first);
}

#[test]
fn a_certificate_that_is_already_there_is_used() {
    let mut daemon = Daemon::bare();
    daemon.terminate();
    let [certificate, key] = ["server.crt", "server.key"].map(|file| daemon.state().join(file));
    // The form in which LXD writes its key.
    let sec1 = daemon.root.join("sec1.key");
    let openssl = || Command::new("openssl");
    run(openssl().args(["ecparam", "-genkey", "-noout", "-name", "secp384r1", "-out"]).arg(&sec1));
    assert!(std::fs::read_to_string(&sec1).unwrap().contains("BEGIN EC PRIVATE KEY"));
    for options in [vec!["-key", sec1.to_str().unwrap()], vec!["-newkey", "rsa:2048", "-nodes", "-keyout"]] {
        let mut command = openssl();
        command.args(["req", "-x509", "-subj", "/CN=mine", "-days", "9", "-out"]).arg(&certificate).args(&options);
        if options.len() == 2 {
            std::fs::copy(&sec1, &key).unwrap();
        } else {
            command.arg(&key);
        }
        run(&mut command);
        let wanted = CertificateDer::from_pem_file(&certificate).unwrap();
        daemon.start();
        let address = listeners(&daemon).first().copied().unwrap_or_else(|| local(&daemon));
        assert_eq!(shown(address), *wanted);
        daemon.terminate();
    }
    // A key that belongs to another certificate: no start, and the last line says why.
    let right = std::fs::read(&key).unwrap();
    std::fs::copy(&sec1, &key).unwrap();
    let mut command = Command::new(warrend());
    let output = command.arg("--state-dir").arg(daemon.state()).stdin(Stdio::null()).output().unwrap();
    std::fs::write(&key, right).unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.trim().lines().last().is_some_and(|line| line.contains("server.key")), "{said}");
}

#[test]
fn a_certificate_without_its_key_opens_nothing() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    let [owner, thief] = [Identity::new(), Identity::new()];
    owner.trust(&daemon);
    let forged = Identity { certificate: owner.certificate.clone(), key: Arc::clone(&thief.key) };
    for version in VERSIONS {
        let mut client = Client::connect(address, &tls(&[version], Some(&owner)));
        assert_eq!(client.auth(), "trusted");
        // With TLS 1.3 the client believes in the connection before the server has looked at the signature.
        let answer = Client::connect(address, &tls(&[version], Some(&forged))).try_ask("GET", "/1.0", "");
        assert!(answer.is_err(), "{answer:?}");
        assert_eq!(Client::connect(address, &tls(&[version], Some(&thief))).auth(), "untrusted");
    }
}

#[test]
fn the_certificates_of_openssl_are_taken_with_their_keys() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    let thief = Identity::new();
    let path = |file: &str| daemon.root.join(file);
    for (key, version1) in [("rsa:2048", false), ("ec", true), ("rsa:2048", true)] {
        let mut request = Command::new("openssl");
        request.args(["req", "-new", "-nodes", "-subj", "/CN=me", "-newkey", key]).arg("-keyout").arg(path("key"));
        if key == "ec" {
            request.args(["-pkeyopt", "ec_paramgen_curve:secp384r1"]);
        }
        if version1 {
            run(request.arg("-out").arg(path("csr")));
            let mut sign = Command::new("openssl");
            run(sign
                .args(["x509", "-req", "-days", "9", "-in"])
                .arg(path("csr"))
                .arg("-signkey")
                .arg(path("key"))
                .arg("-out")
                .arg(path("crt")));
        } else {
            run(request.args(["-x509", "-days", "9", "-out"]).arg(path("crt")));
        }
        let owner = Identity {
            certificate: CertificateDer::from_pem_file(path("crt")).unwrap(),
            key: Arc::new(PrivateKeyDer::from_pem_file(path("key")).unwrap()),
        };
        owner.trust(&daemon);
        let forged = Identity { certificate: owner.certificate.clone(), key: Arc::clone(&thief.key) };
        for version in VERSIONS {
            assert_eq!(Client::connect(address, &tls(&[version], Some(&owner))).auth(), "trusted", "{key} {version:?}");
            assert!(Client::connect(address, &tls(&[version], Some(&forged))).try_ask("GET", "/1.0", "").is_err());
        }
    }
}

#[test]
fn a_certificate_outside_its_dates_is_not_trusted() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    let day = |days: i64| time::OffsetDateTime::now_utc() + time::Duration::days(days);
    for (from, to, wrong) in [(-9, -1, Some("expired")), (1, 9, Some("isn't valid yet")), (-1, 1, None)] {
        let identity = Identity::with(|params| (params.not_before, params.not_after) = (day(from), day(to)));
        // Nobody is told that it is trusted now, and then is not.
        match wrong {
            Some(word) => {
                let (status, answer) = daemon.api("POST", "/1.0/certificates", &identity.body());
                assert_eq!(status, 400);
                assert!(answer["error"].as_str().unwrap().contains(word), "{answer}");
            }
            None => identity.trust(&daemon),
        }
        let auth = Client::connect(address, &tls(&VERSIONS, Some(&identity))).auth();
        assert_eq!(auth == "trusted", wrong.is_none(), "{from} {to}");
    }
}

/// The paths of the router's table, with a name in the place of every parameter.
fn routes() -> Vec<String> {
    let source = include_str!("../src/api/router.rs");
    let source = source.split("#[cfg(test)]").next().unwrap();
    let mut found = BTreeSet::from(["/1.0/instances".to_owned(), "/1.0/containers".to_owned()]);
    // Tuples of a path and its methods, on one line or two.
    for piece in source.split(['(', '\n']).filter_map(|piece| piece.trim().strip_prefix("\"/")) {
        let path = format!("/{}", piece.split('"').next().unwrap());
        if path.starts_with("/{") {
            found.extend(["/1.0/instances", "/1.0/containers"].map(|tree| format!("{tree}{path}")));
        } else {
            found.insert(path);
        }
    }
    let name = |path: &String| {
        let parts = path.split('/').map(|part| if part.starts_with('{') { "x" } else { part });
        parts.collect::<Vec<_>>().join("/")
    };
    found.iter().map(name).collect()
}

#[test]
fn a_stranger_is_refused_everything_that_is_not_public() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    let routes = routes();
    for some in
        ["/", "/1.0", "/1.0/images/aliases/x", "/1.0/instances/x/exec", "/1.0/containers/x/logs/x", "/internal/gc"]
    {
        assert!(routes.iter().any(|route| route == some), "{some} is not in {routes:?}");
    }
    // What they get instead of a refusal.
    let open = |method: &str, path: &str| match (method, path) {
        ("GET", "/" | "/1.0" | "/1.0/images") => Some(200),
        ("GET", "/1.0/images/x" | "/1.0/images/x/export" | "/1.0/images/aliases/x") => Some(404),
        ("GET" | "HEAD", "/streams/v1/index.json" | "/streams/v1/images.json") => Some(200),
        ("GET" | "HEAD", "/images/x/x") => Some(404),
        _ => None,
    };
    for identity in [None, Some(Identity::new())] {
        let mut client = Client::connect(address, &tls(&VERSIONS, identity.as_ref()));
        for path in &routes {
            for method in ["GET", "PUT", "PATCH", "POST", "DELETE", "OPTIONS", "BREW"] {
                let answer = client.ask(method, path, if method == "GET" { "" } else { "{}" });
                match open(method, path) {
                    Some(status) => assert_eq!(answer.status, status, "{method} {path}"),
                    None => answer.refused(403, "not authorized"),
                }
            }
            assert_eq!(client.ask("HEAD", path, "").status, open("HEAD", path).unwrap_or(403), "HEAD {path}");
        }
        for path in ["/nosuch", "/1.0/nosuch", "/1.0/instances/x/nosuch", "/1.0/../internal/ready"] {
            client.get(path).refused(404, "not found");
        }
        for path in ["/1.0", "/1.0?project=nosuch", "/1.0/"] {
            let metadata = client.get(path).metadata();
            let keys: Vec<&str> = metadata.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(keys, ["api_extensions", "api_status", "api_version", "auth", "auth_methods", "public"]);
            assert_eq!((&metadata["auth"], &metadata["public"]), (&json!("untrusted"), &json!(false)));
        }
        assert_eq!(client.get("/").metadata(), json!(["/1.0"]));
    }
    // The unix socket's own addresses are not for those who are trusted over HTTPS either.
    let trusted = Identity::new();
    trusted.trust(&daemon);
    let mut client = Client::connect(address, &tls(&VERSIONS, Some(&trusted)));
    for (method, path) in [("GET", "/internal/ready"), ("GET", "/internal/gc"), ("PUT", "/internal/shutdown")] {
        client.ask(method, path, "").refused(403, "not authorized");
    }
    client.ask("BREW", "/1.0", "").refused(501, "not implemented");
}

/// A unified image that is hardly more than its metadata.
fn image(serial: u32) -> (String, Vec<u8>) {
    let mut archive = tar::Builder::new(Vec::new());
    let metadata = format!("architecture: x86_64\ncreation_date: 1700000000\nproperties: {{serial: '{serial}'}}\n");
    let mut header = tar::Header::new_gnu();
    header.set_size(metadata.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    archive.append_data(&mut header, "metadata.yaml", metadata.as_bytes()).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    archive.append_data(&mut header, "rootfs/", io::empty()).unwrap();
    let bytes = archive.into_inner().unwrap();
    let digest = warren::names::Fingerprint::new(sha256(&bytes)).unwrap();
    (digest.to_string(), bytes)
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(::ring::digest::digest(&::ring::digest::SHA256, bytes))
}

#[test]
fn a_stranger_sees_public_images_and_no_trace_of_others() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    let (open, open_bytes) = image(0);
    // A private one whose fingerprint begins as the public one's does.
    let (private, private_bytes) = (1..).map(image).find(|(fingerprint, _)| fingerprint[..1] == open[..1]).unwrap();
    for (bytes, public, alias) in [(&open_bytes, "1", "open"), (&private_bytes, "0", "private")] {
        let headers = [("X-LXD-public", public), ("X-LXD-aliases", &format!("alias={alias}/one"))];
        let (status, answer) = daemon.api_raw("POST", "/1.0/images", &headers, bytes);
        assert_eq!(status, 202, "{answer}");
        let (_, done) = daemon.api("GET", &format!("{}/wait", answer["operation"].as_str().unwrap()), "");
        assert_eq!(done["metadata"]["err"], "", "{done}");
    }
    let mut client = Client::connect(address, &tls(&VERSIONS, Some(&Identity::new())));
    assert_eq!(client.get("/1.0/images").metadata(), json!([format!("/1.0/images/{open}")]));
    let listed = client.get("/1.0/images?recursion=1").metadata();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["fingerprint"]), (1, &json!(open)));
    for wanted in [&open, &open[..1], &open[..12]] {
        assert_eq!(client.get(&format!("/1.0/images/{wanted}")).metadata()["fingerprint"], open, "{wanted}");
    }
    assert_eq!(client.get(&format!("/1.0/images/{open}/export")).body, open_bytes);
    assert_eq!(client.get("/1.0/images/aliases/open/one").metadata()["target"], open);
    for path in [
        format!("/1.0/images/{private}"),
        format!("/1.0/images/{}", &private[..12]),
        format!("/1.0/images/{private}/export"),
        format!("/1.0/images/{private}/export?secret=x"),
        "/1.0/images/aliases/private/one".to_owned(),
    ] {
        client.get(&path).refused(404, "not found");
    }
    client.get("/1.0/images/aliases").refused(403, "not authorized");
    for method in ["PUT", "PATCH", "DELETE"] {
        client.ask(method, &format!("/1.0/images/{open}"), "{}").refused(403, "not authorized");
    }
    // What is made private is gone at once.
    assert_eq!(daemon.api("PATCH", &format!("/1.0/images/{open}"), r#"{"public": false}"#).0, 200);
    assert_eq!(client.get("/1.0/images").metadata(), json!([]));
    client.get(&format!("/1.0/images/{open}")).refused(404, "not found");
}

#[test]
fn a_websocket_of_an_operation_needs_its_secret_and_nothing_else() {
    let daemon = Daemon::ready("overlay");
    let address = local(&daemon);
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    let body = r#"{"command": ["echo", "hello"], "wait-for-websocket": true, "interactive": false}"#;
    let (_, answer) = daemon.api("POST", "/1.0/instances/c1/exec", body);
    let operation = answer["operation"].as_str().unwrap();
    let fds = answer["metadata"]["metadata"]["fds"].clone();
    let secret = |fd: &str| fds[fd].as_str().unwrap().to_owned();
    let config = tls(&VERSIONS, None);
    let upgrade = |path: &str| {
        let mut client = Client::connect(address, &config);
        let headers = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        client.send("GET", path, headers, "").unwrap();
        let answer = client.answer(true).unwrap();
        (client, answer)
    };
    let wrong = "0".repeat(64);
    let nowhere = "/1.0/operations/00000000-0000-4000-8000-000000000000";
    for path in [
        format!("{operation}/websocket"),
        format!("{operation}/websocket?secret="),
        format!("{nowhere}/websocket?secret={}", secret("1")),
        format!("/1.0/operations/x/websocket?secret={}", secret("1")),
        format!("{operation}/wait?secret={}", secret("1")),
        format!("{operation}?secret={}", secret("1")),
        "/1.0/events".to_owned(),
    ] {
        upgrade(&path).1.refused(403, "not authorized");
    }
    upgrade(&format!("{operation}/websocket?secret={wrong}")).1.refused(403, "secret");
    let mut open = Vec::new();
    // The command starts when its three are there, and may have ended before a fourth comes.
    for fd in ["control", "0", "1", "2"] {
        let (client, answer) = upgrade(&format!("{operation}/websocket?secret={}", secret(fd)));
        assert_eq!(answer.status, 101, "{fd}: {answer:?}");
        open.push(client);
    }
    // One whole message of binary data, from the server without a mask: RFC 6455, 5.2.
    assert_eq!(open[2].take(8).unwrap(), b"\x82\x06hello\n");
    // Not before it has ended: it ends with its client.
    let (_, done) = daemon.api("GET", &format!("{operation}/wait"), "");
    assert_eq!(done["metadata"]["metadata"]["return"], 0, "{done}");
    drop(open);
}

#[test]
fn the_trust_password_opens_and_deleting_closes_at_once() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    let [me, friend] = [Identity::new(), Identity::new()];
    let config = tls(&VERSIONS, Some(&me));
    let mut client = Client::connect(address, &config);
    let add = |password: &str| json!({"type": "client", "password": password}).to_string();
    // Without a password set, none is right.
    for password in ["", "sesame"] {
        client.ask("POST", "/1.0/certificates", &add(password)).refused(403, "not authorized");
    }
    assert_eq!(set(&daemon, "core.trust_password", "sesame").0, 200);
    for password in ["", "Sesame", "true"] {
        client.ask("POST", "/1.0/certificates", &add(password)).refused(403, "not authorized");
    }
    client.get("/1.0/instances").refused(403, "not authorized");
    let added = client.ask("POST", "/1.0/certificates", &add("sesame"));
    assert_eq!(added.status, 201);
    assert!(added.head.contains(&format!("location: {}", me.url())), "{}", added.head);
    // On the very connection.
    assert_eq!(client.auth(), "trusted");
    let known = client.get(&me.url()).metadata();
    assert_eq!((&known["name"], &known["type"]), (&json!("rcgen self signed cert"), &json!("client")));
    assert_eq!(known["certificate"], me.known().pem);

    // A trusted client needs no password; no certificate is there twice.
    assert_eq!(client.ask("POST", "/1.0/certificates", &friend.body()).status, 201);
    let mut stranger = Client::connect(address, &tls(&VERSIONS, None));
    let with_password = |identity: &Identity| {
        let mut body: Value = serde_json::from_str(&identity.body()).unwrap();
        body["password"] = "sesame".into();
        body.to_string()
    };
    for answer in [
        client.ask("POST", "/1.0/certificates", &friend.body()),
        client.ask("POST", "/1.0/certificates", &add("sesame")),
        stranger.ask("POST", "/1.0/certificates", &with_password(&friend)),
    ] {
        answer.refused(409, "Certificate already in trust store");
        assert_eq!(answer.json()["error"], "Certificate already in trust store");
    }
    stranger.ask("POST", "/1.0/certificates", &add("sesame")).refused(400, "certificate");
    stranger.ask("POST", "/1.0/certificates", &friend.body()).refused(403, "not authorized");

    // Deleted by another, by itself, and on a session that is resumed.
    assert_eq!(daemon.api("DELETE", &me.url(), "").0, 200);
    assert_eq!(client.auth(), "untrusted");
    client.get("/1.0/instances").refused(403, "not authorized");
    let mut resumed = Client::connect(address, &config);
    resumed.get("/1.0/instances").refused(403, "not authorized");
    assert_eq!(resumed.0.conn.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
    let mut other = Client::connect(address, &tls(&VERSIONS, Some(&friend)));
    assert_eq!(other.ask("DELETE", &friend.url(), "").status, 200);
    other.get(&friend.url()).refused(403, "not authorized");
    assert_eq!(daemon.api("GET", "/1.0/certificates", "").1["metadata"], json!([]));
    // And trusted again.
    me.trust(&daemon);
    assert_eq!((client.auth(), resumed.auth()), ("trusted".to_owned(), "trusted".to_owned()));
}

#[test]
fn passwords_cannot_be_guessed_one_by_one_or_all_at_once() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    assert_eq!(set(&daemon, "core.trust_password", "sesame").0, 200);
    let config = tls(&VERSIONS, Some(&Identity::new()));
    let guess = |password: &str| {
        let body = json!({"type": "client", "password": password}).to_string();
        Client::connect(address, &config).ask("POST", "/1.0/certificates", &body).json()["error"].clone()
    };
    let errors: Vec<Value> = std::thread::scope(|scope| {
        let guesses: Vec<_> = (0..12).map(|number| scope.spawn(move || guess(&number.to_string()))).collect();
        guesses.into_iter().map(|guess| guess.join().unwrap()).collect()
    });
    assert_eq!(errors.iter().filter(|error| **error == "not authorized").count(), 5, "{errors:?}");
    assert!(guess("sesame").as_str().unwrap().contains("Too many"));
    assert_eq!(daemon.api("GET", "/1.0/certificates", "").1["metadata"], json!([]));
    // The administrator's way is not barred.
    Identity::new().trust(&daemon);
}

#[test]
fn the_address_moves_and_standing_connections_live_on() {
    let daemon = Daemon::bare();
    let me = Identity::new();
    me.trust(&daemon);
    let config_of_me = tls(&VERSIONS, Some(&me));
    let first = local(&daemon);
    let mut old = Client::connect(first, &config_of_me);
    assert_eq!(old.auth(), "trusted");
    let move_to = |client: &mut Client, address: &str| {
        let body = json!({"config": {"core.https_address": address}}).to_string();
        client.ask("PATCH", "/1.0", &body)
    };
    // Moved by the connection itself.
    assert_eq!(move_to(&mut old, "127.0.0.2:0").status, 200);
    let second = *listeners(&daemon).first().unwrap();
    assert_eq!((second.ip().to_string().as_str(), listeners(&daemon).len()), ("127.0.0.2", 1));
    assert_eq!(old.get("/1.0").metadata()["config"]["core.https_address"], "127.0.0.2:0");
    assert_eq!(Client::connect(second, &config_of_me).auth(), "trusted");
    if TcpListener::bind("[::1]:0").is_ok() {
        let third = listen(&daemon, "[::1]:0");
        assert!(third.is_ipv6());
        assert_eq!(Client::connect(third, &config_of_me).auth(), "trusted");
    }
    // Wider and narrower on the same port, where the old listener is in the way of the new one.
    let port = local(&daemon).port();
    for address in [format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}"), format!("127.0.0.1:{port}")] {
        assert_eq!(listen(&daemon, &address).to_string(), address);
        assert_eq!(Client::connect(([127, 0, 0, 1], port).into(), &config_of_me).auth(), "trusted");
    }
    // A name stands for all its addresses.
    assert_eq!(set(&daemon, "core.https_address", &format!("localhost:{port}")).0, 200);
    let all: BTreeSet<SocketAddr> = format!("localhost:{port}").to_socket_addrs().unwrap().collect();
    let has = |address: &SocketAddr| TcpListener::bind((address.ip(), 0)).is_ok();
    assert_eq!(listeners(&daemon), all.into_iter().filter(has).collect());
    // Closed; who is connected stays so, and can open it again.
    assert_eq!(move_to(&mut old, "").status, 200);
    assert!(listeners(&daemon).is_empty());
    assert!(old.get("/1.0").metadata()["config"].get("core.https_address").is_none());
    assert_eq!(old.get("/1.0").metadata()["environment"]["addresses"], json!([]));
    let again = listen(&daemon, &format!("127.0.0.1:{port}"));
    assert_eq!(old.get("/1.0").metadata()["environment"]["addresses"], json!([again.to_string()]));
    assert_eq!(Client::connect(again, &config_of_me).auth(), "trusted");
}

#[test]
fn an_address_that_cannot_be_had_changes_nothing() {
    let daemon = Daemon::bare();
    let me = Identity::new();
    me.trust(&daemon);
    let address = local(&daemon);
    let port = address.port();
    let here = address.to_string();
    assert_eq!(listen(&daemon, &here), address);
    let mut old = Client::connect(address, &tls(&VERSIONS, Some(&me)));
    assert_eq!(old.auth(), "trusted");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    // In the way of `0.0.0.0` on the port that is ours elsewhere.
    let neighbour = TcpListener::bind(("127.0.0.2", port)).unwrap();
    for (value, text) in [
        (taken.local_addr().unwrap().to_string(), "in use"),
        (format!("0.0.0.0:{port}"), "in use"),
        (neighbour.local_addr().unwrap().to_string(), "in use"),
        ("127.0.0.1:port".to_owned(), "port"),
        ("127.0.0.1:99999".to_owned(), "port"),
        ("127.0.0.1:-1".to_owned(), "port"),
        ("127.0.0.1:+99".to_owned(), "port"),
        ("[::1".to_owned(), "]"),
        ("[::1]99".to_owned(), "]"),
        (format!("127.0.0.1:{port},127.0.0.2:{port}"), "port"),
        (format!("192.0.2.99:{port}"), "core.https_address"),
        (format!("nosuch.invalid:{port}"), "core.https_address"),
        (format!("127.0.0.1:{port}\n"), "core.https_address"),
    ] {
        let (status, answer) = set(&daemon, "core.https_address", &value);
        assert_eq!((status, &answer["error_code"]), (400, &json!(400)), "{value:?}: {answer}");
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains("core.https_address") && error.contains(text), "{value:?}: {error}");
        // Nor is anything else of the same change kept.
        let both = json!({"config": {"core.https_address": value, "user.a": "b"}}).to_string();
        assert_eq!(daemon.api("PUT", "/1.0", &both).0, 400);
        assert_eq!(listeners(&daemon), BTreeSet::from([address]), "{value:?}");
        assert_eq!(config(&daemon), json!({"core.https_address": here}), "{value:?}");
    }
    assert_eq!(old.auth(), "trusted");
    assert_eq!(Client::connect(address, &tls(&VERSIONS, Some(&me))).auth(), "trusted");
}

#[test]
fn an_address_that_is_taken_at_the_start_is_had_later() {
    let mut daemon = Daemon::bare();
    let address = local(&daemon);
    assert_eq!(listen(&daemon, &address.to_string()), address);
    daemon.terminate();
    let taken = TcpListener::bind(address).unwrap();
    daemon.start();
    assert!(listeners(&daemon).is_empty());
    // No reason to refuse other changes.
    assert_eq!(set(&daemon, "user.a", "b").0, 200);
    assert!(listeners(&daemon).is_empty());
    drop(taken);
    // Programs that other tests are just starting hold a copy until they run.
    eventually("the address", || {
        assert_eq!(set(&daemon, "core.https_address", &address.to_string()).0, 200);
        listeners(&daemon).contains(&address)
    });
    assert_eq!(Client::connect(address, &tls(&VERSIONS, None)).auth(), "untrusted");
}

#[test]
fn a_change_goes_to_its_end_without_its_client() {
    let daemon = Daemon::bare();
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let body = json!({"config": {"core.trust_password": "sesame", "core.https_address": "127.0.0.1:0"}}).to_string();
    let head = "PATCH /1.0 HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n";
    stream.write_all(format!("{head}Content-Length: {}\r\n\r\n", body.len()).as_bytes()).unwrap();
    // Said when the handler asks for the body: the change has begun.
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).unwrap();
    assert_eq!(go_on, *b"HTTP/1.1 100 Continue\r\n\r\n");
    // Hashing the password takes a while; the client is gone before.
    stream.write_all(body.as_bytes()).unwrap();
    drop(stream);
    let wanted = json!({"core.trust_password": "true", "core.https_address": "127.0.0.1:0"});
    eventually("the change", || config(&daemon) == wanted);
    assert_eq!(listeners(&daemon).len(), 1);
}

/// Resident memory of the daemon, bytes.
fn memory(daemon: &Daemon) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn clients_that_dawdle_or_ramble_harm_nobody() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    let config = tls(&VERSIONS, None);
    let mut standing = Client::connect(address, &config);
    assert_eq!(standing.auth(), "untrusted");
    let before = memory(&daemon);
    let silent: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut slow = Vec::new();
    for number in 0..60 {
        let mut client = Client::connect(address, &config);
        let sent = match number % 3 {
            0 => "GET /1.0 HTTP/1.1\r\nHos",
            1 => "POST /1.0/certificates HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
            _ => "POST /1.0/certificates HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfff",
        };
        client.0.write_all(sent.as_bytes()).unwrap();
        slow.push(client);
    }
    let harmless = |standing: &mut Client| {
        let start = Instant::now();
        assert_eq!(standing.auth(), "untrusted");
        assert_eq!(Client::connect(address, &config).auth(), "untrusted");
        assert_eq!(daemon.api("GET", "/1.0", "").0, 200);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    };
    harmless(&mut standing);
    // One giant field, very many fields, a giant path, and what is no HTTP at all: an answer 4xx or the end.
    let giant = "a".repeat(4 << 20);
    let many = "a: b\r\n".repeat(100_000);
    for text in [
        format!("GET / HTTP/1.1\r\nHost: x\r\nX-Big: {giant}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n"),
        format!("GET /{giant} HTTP/1.1\r\nHost: x\r\n\r\n"),
        giant.clone(),
        "\0".repeat(1000),
    ] {
        let mut client = Client::connect(address, &config);
        // The server may close before all is sent.
        let _ = client.0.write_all(text.as_bytes());
        let _ = client.0.flush();
        let mut answer = vec![0; 12];
        if client.0.read_exact(&mut answer).is_ok() {
            assert!(answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
        }
    }
    // What a stranger may say to be trusted is short.
    let long = json!({"type": "client", "password": "a".repeat(100_000)}).to_string();
    standing.ask("POST", "/1.0/certificates", &long).refused(400, "longer");
    let mut standing = Client::connect(address, &config);
    // Not TLS at all.
    let mut plain = TcpStream::connect(address).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(b"GET /1.0 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/"), "no answer without TLS");
    harmless(&mut standing);
    let grown = memory(&daemon).saturating_sub(before);
    assert!(grown < 48 << 20, "the daemon has grown by {grown} bytes");
    drop((silent, slow));
    harmless(&mut standing);
}
