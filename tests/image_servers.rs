//! Image servers, proxies and kept lists that fail for a moment; keys that are pinned; names of files.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use support::api::{done, get, refused};
use support::broken_server::{BrokenServer, Stream, answer, metadata};
use support::image_server::{Fault, ImageServer};
use support::tls::Identity;
use support::{Daemon, run};

fn sha256(parts: &[&[u8]]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    hex::encode(context.finish())
}

/// The files of a split image: metadata, root.
fn image(daemon: &Daemon) -> (Vec<u8>, Vec<u8>) {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::write(dir.path().join("metadata.yaml"), "architecture: x86_64\ncreation_date: 1700000000\n").unwrap();
    let meta = dir.path().join("meta");
    run(Command::new("tar").arg("-C").arg(dir.path()).arg("-cJf").arg(&meta).arg("metadata.yaml"));
    (std::fs::read(meta).unwrap(), std::fs::read(daemon.busybox().1).unwrap())
}

/// A daemon, and a server that it believes with the product `bb`.
struct Host {
    daemon: Daemon,
    server: ImageServer,
    place: PathBuf,
}

impl Host {
    fn new() -> Self {
        let place = tempfile::tempdir_in("/var/tmp").unwrap().keep();
        std::fs::create_dir_all(place.join("tree/streams/v1")).unwrap();
        let server = ImageServer::start(&place.join("tree"), &place);
        let trusted = server.ca.to_str().unwrap();
        let daemon = Daemon::with_env(&[("SSL_CERT_FILE", trusted), ("WARREN_TEST_STALL_MILLIS", "1000")]);
        let host = Self { daemon, server, place };
        host.publish("root1", "root1");
        host
    }

    /// The list says that the root is at `path`; it is in `file`.
    fn publish(&self, path: &str, file: &str) {
        let (meta, root) = image(&self.daemon);
        let tree = self.place.join("tree");
        std::fs::write(tree.join("meta1"), &meta).unwrap();
        std::fs::write(tree.join(file), &root).unwrap();
        let list = json!({"products": {"busybox:1": {"aliases": "bb", "arch": "amd64", "versions": {"20240101": {"items": {
            "lxd.tar.xz": {"ftype": "lxd.tar.xz", "path": "meta1", "size": meta.len(), "sha256": sha256(&[&meta]),
                "combined_squashfs_sha256": sha256(&[&meta, &root])},
            "root": {"ftype": "squashfs", "path": path, "size": root.len(), "sha256": sha256(&[&root])}}}}}}});
        std::fs::write(tree.join("streams/v1/images.json"), list.to_string()).unwrap();
        let index = json!({"index": {"images": {"datatype": "image-downloads", "path": "streams/v1/images.json"}}});
        std::fs::write(tree.join("streams/v1/index.json"), index.to_string()).unwrap();
    }

    fn source(&self) -> Value {
        json!({"type": "image", "mode": "pull", "server": self.server.url, "protocol": "simplestreams", "alias": "bb"})
    }

    /// Fetches the image, and deletes it.
    #[track_caller]
    fn take(&self) {
        let end = done(&self.daemon, "POST", "/1.0/images", &json!({"source": self.source()}));
        let image = format!("/1.0/images/{}", end["metadata"]["fingerprint"].as_str().unwrap());
        done(&self.daemon, "DELETE", &image, &json!({}));
    }

    #[track_caller]
    fn fails(&self, word: &str) {
        let (code, error, _) =
            self.daemon.operation("POST", "/1.0/images", &json!({"source": self.source()}).to_string());
        assert!(code == 400 && error.contains(word), "{word}: {error}");
        assert_eq!(get(&self.daemon, "/1.0/images"), json!([]));
        assert_eq!(std::fs::read_dir(self.daemon.state().join("images")).unwrap().count(), 0);
    }

    fn lists(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.daemon.state().join("cache/streams")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    fn forget_lists(&self) {
        self.lists().iter().for_each(|list| std::fs::remove_file(list).unwrap());
    }

    fn set(&self, key: &str, value: &str) {
        done(&self.daemon, "PATCH", "/1.0", &json!({"config": {key: value}}));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.place);
    }
}

#[test]
fn a_file_whose_server_fails_for_a_moment_is_asked_for_again() {
    let host = Host::new();
    for path in ["/streams/v1/index.json", "/streams/v1/images.json"] {
        host.server.fault(path, Fault::StatusOnce(503));
        host.take();
        host.forget_lists();
    }
    for path in ["/meta1", "/root1"] {
        host.server.fault(path, Fault::StatusOnce(503));
        host.take();
        host.server.fault(path, Fault::CutOnce(0));
        host.take();
        // What is not there is not asked for again and again.
        host.server.asked();
        host.server.fault(path, Fault::Status(404));
        host.fails("404");
        // With the lists of now it is looked for once more.
        assert_eq!(host.server.count(path), 2, "{path}");
        host.server.fault(path, Fault::Status(503));
        host.server.asked();
        host.fails("503");
        assert_eq!(host.server.count(path), 2, "{path}");
        host.server.mend();
    }
    host.take();
}

/// A proxy that opens ways by CONNECT; those of these numbers, from 1, get an answer that opens none, or nothing at all.
fn proxy(refused: &'static [(usize, &'static str)]) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
            std::thread::spawn(move || {
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
                    head.push(byte[0]);
                }
                if let Some((_, says)) = refused.iter().find(|(of, _)| *of == number) {
                    let _ = stream.write_all(says.as_bytes());
                    // Until the other side gives up.
                    drop(stream.read(&mut byte));
                    return;
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let place = head.split(' ').nth(1).unwrap().rsplit_once(':').unwrap();
                let server = TcpStream::connect(("127.0.0.1", place.1.parse().unwrap())).unwrap();
                stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
                let (mut back, mut to) = (stream.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut &server, &mut back);
                    let _ = back.shutdown(Shutdown::Write);
                });
                let _ = std::io::copy(&mut stream, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
        }
    });
    (port, count)
}

#[test]
fn a_proxy_that_fails_amid_a_download_is_asked_again() {
    let host = Host::new();
    host.set("core.proxy_ignore_hosts", "none.invalid");
    // Two lists, metadata, root: the fifth goes on with the root.
    for answer in [&[(5, "HTTP/1.1 503 busy\r\n\r\n"), (6, "HTTP/1.1 502 Bad Gateway\n\n")], &[(5, ""), (6, "")]] {
        let (port, count) = proxy(answer);
        host.set("core.proxy_https", &format!("http://127.0.0.1:{port}"));
        host.server.fault("/root1", Fault::CutOnce(10_000));
        host.take();
        assert_eq!(count.load(Ordering::SeqCst), 7, "{answer:?}");
        host.forget_lists();
    }
    // One that will not is not asked any more.
    let (port, count) = proxy(&[(5, "HTTP/1.1 403 Forbidden\r\n\r\n")]);
    host.set("core.proxy_https", &format!("http://127.0.0.1:{port}"));
    host.server.fault("/root1", Fault::CutOnce(10_000));
    host.fails("does not let through");
    assert_eq!(count.load(Ordering::SeqCst), 5);
}

#[test]
fn hosts_are_reached_without_a_proxy_by_every_form() {
    let host = Host::new();
    let (port, count) = proxy(&[]);
    host.set("core.proxy_https", &format!("http://127.0.0.1:{port}"));
    let own = host.server.port;
    let other = if own == 1 { 2 } else { 1 };
    for (server, ignored, is_without) in [
        ("localhost", "*".to_owned(), true),
        ("localhost", format!("localhost:{own}"), true),
        ("localhost", format!("localhost:{other}"), false),
        ("localhost", "*.localhost".to_owned(), false),
        ("127.0.0.1", "*".to_owned(), true),
        ("127.0.0.1", format!("a.invalid,127.0.0.1:{own}"), true),
        ("127.0.0.1", format!("127.0.0.1:{other}"), false),
        ("127.0.0.1", "127.0.0.0/8".to_owned(), true),
    ] {
        host.set("core.proxy_ignore_hosts", &ignored);
        host.forget_lists();
        count.store(0, Ordering::SeqCst);
        let mut source = host.source();
        source["server"] = format!("https://{server}:{own}").into();
        let end = done(&host.daemon, "POST", "/1.0/images", &json!({"source": source}));
        assert_eq!(count.load(Ordering::SeqCst) == 0, is_without, "{server}: {ignored}");
        let image = format!("/1.0/images/{}", end["metadata"]["fingerprint"].as_str().unwrap());
        done(&host.daemon, "DELETE", &image, &json!({}));
    }
}

/// The files of an image as multipart, as LXD's API exports them.
fn multipart(boundary: &str, meta: &[u8], root: &[u8]) -> Vec<u8> {
    let head = |name: &str| format!("Content-Disposition: form-data; name=\"{name}\"; filename=\"{name}\"\r\n\r\n");
    let (first, second) = (head("metadata"), head("rootfs"));
    let (first, second) = (format!("--{boundary}\r\n{first}"), format!("\r\n--{boundary}\r\n{second}"));
    [first.as_bytes(), meta, second.as_bytes(), root, format!("\r\n--{boundary}--\r\n").as_bytes()].concat()
}

#[test]
fn an_image_in_two_parts_survives_a_connection_that_breaks() {
    let identity = Identity::with(|params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("localhost".try_into().unwrap())];
    });
    let ca = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
    std::fs::write(ca.path(), identity.known().pem).unwrap();
    let daemon = Daemon::with_env(&[("SSL_CERT_FILE", ca.path().to_str().unwrap())]);
    let (meta, root) = image(&daemon);
    let fingerprint = sha256(&[&meta, &root]);
    // LXD and Incus put other bytes between the parts each time, so what came before is of no use.
    for (changes, requests) in [(true, 3), (false, 2)] {
        let (meta, root, found) = (meta.clone(), root.clone(), fingerprint.clone());
        let exports = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&exports);
        let (_server, address) = BrokenServer::over_tls(&identity, move |request, stream: &mut dyn Stream| {
            if request.path.contains("/aliases/") {
                return metadata(stream, &json!({"name": "bb", "target": found, "type": "container"}));
            }
            if !request.path.ends_with("/export") {
                let size = meta.len() + root.len();
                return metadata(
                    stream,
                    &json!({"fingerprint": found, "size": size, "architecture": "x86_64", "type": "container", "public": true}),
                );
            }
            let number = counted.fetch_add(1, Ordering::SeqCst);
            let boundary = format!("{:040}", if changes { number } else { 7 });
            let mut body = multipart(&boundary, &meta, &root);
            let kind = format!("multipart/form-data; boundary={boundary}");
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
            if number == 0 {
                body.truncate(body.len() / 2);
            }
            let _ =
                stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)).and_then(|()| stream.flush());
            false
        });
        let source = json!({"type": "image", "mode": "pull", "protocol": "lxd", "alias": "bb",
            "server": format!("https://localhost:{}", address.port())});
        let end = done(&daemon, "POST", "/1.0/images", &json!({"source": source}));
        assert_eq!(end["metadata"]["fingerprint"], fingerprint);
        assert_eq!(exports.load(Ordering::SeqCst), requests, "changes: {changes}");
        // Ours are always divided in the same way.
        let export = format!("/1.0/images/{fingerprint}/export");
        let kind = || {
            let (head, _) = daemon.exchange("GET", &export, &[], b"");
            head.lines().find(|line| line.to_lowercase().starts_with("content-type:")).unwrap().to_owned()
        };
        let first = kind();
        assert!(first.contains("boundary=") && first == kind(), "{first}");
        done(&daemon, "DELETE", &format!("/1.0/images/{fingerprint}"), &json!({}));
    }
}

#[test]
fn an_image_is_sent_only_to_who_says_so() {
    let identity = Identity::new();
    let daemon = Daemon::bare();
    let image = daemon.busybox_unified();
    daemon.lxc(&["image", "import", image.to_str().unwrap(), "--alias", "bb"]).ok();
    let fingerprint = get(&daemon, "/1.0/images/aliases/bb")["target"].as_str().unwrap().to_owned();
    for (kind, body) in [("text/html", "<html>welcome</html>"), ("application/json", "[]"), ("text/plain", "")] {
        let (server, address) = BrokenServer::over_tls(&identity, move |_, stream: &mut dyn Stream| {
            answer(stream, "200 OK", kind, "", body)
        });
        let push = json!({"target": format!("https://127.0.0.1:{}", address.port()), "secret": "x",
            "certificate": identity.known().pem});
        let (code, error, _) =
            daemon.operation("POST", &format!("/1.0/images/{fingerprint}/export"), &push.to_string());
        assert!(code == 400 && error.contains("none of LXD's API"), "{body}: {error}");
        assert_eq!(server.count("POST", "/1.0/images"), 1);
    }
}

#[test]
fn a_damaged_list_counts_as_none() {
    let host = Host::new();
    for damage in [
        |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 20),
        |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() = b'x',
        |bytes: &mut Vec<u8>| bytes.truncate(bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1),
        |bytes: &mut Vec<u8>| bytes.clear(),
        |bytes: &mut Vec<u8>| bytes.fill(0),
    ] {
        let spoil = || {
            host.forget_lists();
            host.take();
            for list in host.lists() {
                let mut bytes = std::fs::read(&list).unwrap();
                damage(&mut bytes);
                std::fs::write(&list, bytes).unwrap();
            }
        };
        spoil();
        // The server would say that what is kept is the newest.
        host.take();
        spoil();
        host.server.fault("/streams/v1/index.json", Fault::Status(500));
        host.fails("answers 500");
        host.server.mend();
    }
    // A place that is gone, or in the way, keeps nobody from an image.
    std::fs::remove_dir_all(host.daemon.state().join("cache/streams")).unwrap();
    host.take();
    assert_eq!(host.lists().len(), 2);
    for list in host.lists() {
        std::fs::remove_file(&list).unwrap();
        std::fs::create_dir_all(list.join("x")).unwrap();
    }
    host.take();
    host.lists().iter().for_each(|list| std::fs::remove_dir_all(list).unwrap());
}

#[test]
fn a_pinned_key_counts_however_the_server_is_written() {
    let host = Host::new();
    let key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEAAAA\n-----END PGP PUBLIC KEY BLOCK-----\n";
    let port = host.server.port;
    for name in [format!("localhost:{port}"), format!("LocalHost:{port}"), format!("localhost.:{port}")] {
        let name = format!("images.streams_key.{name}");
        host.set(&name, key);
        host.fails("no signed list");
        let mut source = host.source();
        source["server"] = format!("https://LOCALHOST.:{port}/").into();
        let (_, error, _) = host.daemon.operation("POST", "/1.0/images", &json!({"source": source}).to_string());
        assert!(error.contains("no signed list"), "{name}: {error}");
        host.set(&name, "");
        host.take();
    }
    for name in ["https://localhost", "localhost/", "a b", "localhost:x"] {
        let config = json!({"config": {format!("images.streams_key.{name}"): key}});
        refused(&host.daemon, "PATCH", "/1.0", &config, 400, "HOST:PORT");
    }
}

#[test]
fn files_may_be_called_anything() {
    let host = Host::new();
    for (path, asked) in
        [("a b", "a%20b"), ("über", "%C3%BCber"), ("50%#?", "50%25%23%3F"), ("/below", "below"), ("a:b+c", "a:b+c")]
    {
        host.publish(path, asked);
        host.forget_lists();
        host.server.asked();
        host.take();
        assert_eq!(host.server.count(&format!("/{asked}")), 1, "{path}");
    }
}

#[test]
fn a_list_of_millions_of_nothings_takes_no_memory() {
    let host = Host::new();
    let path = host.place.join("tree/streams/v1/images.json");
    let list = std::fs::read_to_string(&path).unwrap();
    let nothings = |end: usize| (0..end).fold(String::new(), |text, n| text + &format!("\"{n:06}\":1,"));
    for hostile in [
        list.replacen("\"busybox:1\"", &format!("{}\"busybox:1\"", nothings(700_000)), 1),
        list.replacen("\"20240101\"", &format!("{}\"20240101\"", nothings(700_000)), 1),
        list.replacen("\"aliases\"", &format!("\"x\":[{}0],\"aliases\"", "0,".repeat(5_000_000)), 1),
    ] {
        std::fs::write(&path, hostile).unwrap();
        host.forget_lists();
        host.take();
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.daemon.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
    // Before, each of them took three times that.
    assert!(peak.trim().parse::<u64>().unwrap() < 150_000, "{peak} KiB");
}

#[test]
fn the_keys_of_the_cache_take_what_lxd_takes() {
    let daemon = Daemon::bare();
    for key in ["images.remote_cache_expiry", "images.auto_update_interval"] {
        for value in ["-1", "0", "100000", "2147483647"] {
            done(&daemon, "PATCH", "/1.0", &json!({"config": {key: value}}));
            assert_eq!(get(&daemon, "/1.0")["config"][key], value);
            // Nothing comes of it but that nothing is done.
            done(&daemon, "PUT", "/internal/schedule", &json!({"at": "2027-03-01T00:00:00Z"}));
        }
    }
}
