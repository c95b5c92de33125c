//! Servers over TLS: who they are, which versions they speak, and image servers.

use std::io::Write;
use std::net::TcpListener;
use std::process::Stdio;

use serde_json::json;

use super::support::Said;
use super::support::broken_server::{BrokenServer, Request, Stream, answer, endless, metadata};
use super::support::tls::Identity;
use super::{EVIL, Place};

/// Adds the server as `far`.
#[track_caller]
fn added(place: &Place, address: std::net::SocketAddr) {
    place.warren(&["remote", "add", "far", &address.to_string(), "--accept-certificate", "--password", "pw"]).ok();
}

fn trusting(request: &Request, stream: &mut dyn Stream) -> bool {
    match request.path.as_str() {
        "/1.0" => metadata(stream, &json!({"auth": "trusted", "auth_methods": ["tls"]})),
        _ => metadata(stream, &json!([])),
    }
}

#[test]
fn a_server_with_another_certificate_is_told_nothing() {
    let place = Place::new();
    let (first, address) = BrokenServer::over_tls(&Identity::new(), trusting);
    // The fingerprint that is typed must be the whole one, and the right one.
    let mut wrong = place.client(&["remote", "add", "far", &address.to_string()]);
    let mut child = wrong.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{}\n", "0f".repeat(32)).as_bytes()).unwrap();
    Said::of(&child.wait_with_output().unwrap()).refused("another fingerprint than the one that was typed");
    assert!(first.asked().is_empty(), "nothing is asked of a server that is not accepted");
    added(&place, address);
    assert_eq!(place.warren(&["list", "far:", "-f", "json"]).ok(), "[]\n");

    let other = Identity::new();
    let (second, address) = BrokenServer::over_tls(&other, trusting);
    place.warren(&["remote", "set-url", "far", &format!("https://{address}")]).ok();
    let said = place.warren(&["list", "far:"]);
    let lines: Vec<&str> = said.err.lines().collect();
    assert!(said.code == 1 && lines[0].contains("shows another certificate than it did before"), "{}", said.err);
    assert!(
        lines[1].starts_with("Known: ") && lines[2] == format!("Shown: {}", other.known().fingerprint),
        "{lines:?}"
    );
    assert!(lines[3].contains("warren remote remove far"), "{lines:?}");
    // Neither by verbs with websockets or files.
    place.warren(&["exec", "far:c1", "true"]).refused("another certificate");
    place.warren(&["file", "pull", "far:c1/x", "-"]).refused("another certificate");
    place.warren(&["monitor", "far:"]).refused("another certificate");
    assert!(second.asked().is_empty());
    // The way out.
    place.warren(&["remote", "remove", "far"]).ok();
    added(&place, address);
    place.warren(&["list", "far:"]).ok();
}

#[test]
fn what_an_authority_vouches_for_may_be_renewed() {
    let place = Place::new();
    // An authority, and two certificates of it for one server.
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
    let issued = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap().der().clone();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        Identity { certificate, key: std::sync::Arc::new(key) }
    };
    std::fs::create_dir_all(place.path("conf")).unwrap();
    std::fs::write(place.path("conf/client.ca"), authority.pem()).unwrap();
    let (_, address) = BrokenServer::over_tls(&issued(), trusting);
    // Nobody is asked, and nothing is pinned.
    place.warren(&["remote", "add", "far", &address.to_string()]).ok();
    assert!(!place.path("conf/servercerts/far.crt").exists());
    let (_, renewed) = BrokenServer::over_tls(&issued(), trusting);
    place.warren(&["remote", "set-url", "far", &format!("https://{renewed}")]).ok();
    place.warren(&["list", "far:"]).ok();
    // One that it does not vouch for.
    let (stranger, address) = BrokenServer::over_tls(&Identity::new(), trusting);
    place.warren(&["remote", "set-url", "far", &format!("https://{address}")]).ok();
    place.warren(&["list", "far:"]).refused("Cannot reach");
    assert!(stranger.asked().is_empty());
}

/// Answers each connection with these bytes.
fn canned(bytes: Vec<u8>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut hello = [0; 4096];
            let _ = std::io::Read::read(&mut stream, &mut hello);
            let _ = stream.write_all(&bytes);
            let _ = std::io::Read::read(&mut stream, &mut hello);
        }
    });
    address
}

#[test]
fn old_versions_of_tls_are_not_spoken() {
    // A ServerHello that chooses SSL 3, TLS 1.0 or 1.1 with a suite of theirs (RFC 4346, 7.4.1.3).
    for version in [0u8, 1, 2] {
        let mut hello = vec![22, 3, version, 0, 42, 2, 0, 0, 38, 3, version];
        hello.extend([7; 32]);
        hello.extend([0, 0xc0, 0x13, 0]);
        let place = Place::new();
        let address = canned(hello);
        let said = place.warren(&["remote", "add", "far", &address.to_string(), "--accept-certificate"]);
        said.refused(&format!("Cannot reach https://{address}"));
        assert!(!place.path("conf/servercerts").exists() && !place.path("conf/config.yml").exists());
    }
    // What is no TLS at all.
    for bytes in ["HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-2.0-OpenSSH_9\r\n", "\u{1b}]0;owned\u{7}", ""] {
        let place = Place::new();
        let address = canned(bytes.as_bytes().to_vec());
        let said = place.warren(&["remote", "add", "far", &address.to_string(), "--accept-certificate"]);
        said.refused(&format!("Cannot reach https://{address}"));
    }
}

#[test]
fn image_servers_that_lie_are_told() {
    let place = Place::new();
    let products = json!({"products": {EVIL: {"arch": 5, "aliases": EVIL, "os": EVIL, "versions": {"é": {"items": {"m":
        {"ftype": "lxd.tar.xz", "combined_sha256": EVIL, "size": u64::MAX},
        "r": {"ftype": "squashfs", "size": u64::MAX}}}}}}})
    .to_string();
    let identity = Identity::new();
    let (server, address) = BrokenServer::over_tls(&identity, move |request, stream| match request.path.as_str() {
        "/a/streams/v1/index.json" => {
            let index = json!({"index": {"x": {"datatype": "image-downloads", "path": "streams/v1/images.json"}}});
            answer(stream, "200 OK", "text/plain", "", &index.to_string())
        }
        "/a/streams/v1/images.json" => answer(stream, "200 OK", "application/json", "", &products),
        "/b/streams/v1/index.json" => {
            let index = json!({"index": {"x": {"datatype": "image-downloads", "path": "../../1.0"}}});
            answer(stream, "200 OK", "application/json", "", &index.to_string())
        }
        path if path.starts_with("/c") => {
            answer(stream, "301 Moved Permanently", "text/html", &format!("Location: {path}\r\n"), "")
        }
        _ => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            endless(stream, " ")
        }
    });
    // Known by its certificate, as no authority of the system vouches for it.
    for name in ["a", "b", "c", "d"] {
        place
            .warren(&["remote", "add", name, &format!("https://{address}/{name}"), "--protocol", "simplestreams"])
            .ok();
    }
    std::fs::create_dir_all(place.path("conf/servercerts")).unwrap();
    for name in ["a", "b", "c", "d"] {
        std::fs::write(place.path(&format!("conf/servercerts/{name}.crt")), identity.known().pem).unwrap();
    }
    let listed = place.warren(&["image", "list", "a:"]).ok();
    assert!(!listed.contains(['\u{1b}', '\r']), "{listed:?}");
    place.warren(&["image", "list", "b:"]).refused("The index names the path");
    place.warren(&["image", "list", "c:"]).refused("301 Moved");
    assert_eq!(server.count("GET", "/c"), 1);
    place.within(128, &["image", "list", "d:"]).refused("It is longer than 48 MiB");
}
