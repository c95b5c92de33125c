//! Downloads of images as a stranger tries them: servers that drip, refreshes that are cancelled, what was set here, files and
//! lists that are wrong in part, certificates of every kind.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::{Value, json};
use support::api::{done, get};
use support::image_server::{Fault, ImageServer};
use support::namespaces::isolated;
use support::{Daemon, eventually, run};

fn sha256(parts: &[&[u8]]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    hex::encode(context.finish())
}

/// A daemon, and a server that it believes with the product `bb`.
struct Host {
    daemon: Daemon,
    server: ImageServer,
    place: PathBuf,
}

impl Host {
    fn new() -> Self {
        Self::patient(400)
    }

    /// The daemon waits so many milliseconds for a server that says nothing.
    fn patient(millis: u32) -> Self {
        let place = tempfile::tempdir_in("/var/tmp").unwrap().keep();
        std::fs::create_dir_all(place.join("tree/streams/v1")).unwrap();
        let server = ImageServer::start(&place.join("tree"), &place);
        let trusted = server.ca.to_str().unwrap();
        let millis = millis.to_string();
        let daemon = Daemon::with_env(&[("SSL_CERT_FILE", trusted), ("WARREN_TEST_STALL_MILLIS", &millis)]);
        let host = Self { daemon, server, place };
        host.publish(1, |_| ());
        host
    }

    fn tree(&self) -> PathBuf {
        self.place.join("tree")
    }

    /// The server's newest version is this one, as `change` makes its list; the version's fingerprint.
    fn publish(&self, version: u32, change: impl FnOnce(&mut Value)) -> String {
        let (_, root) = self.daemon.busybox();
        let root = std::fs::read(root).unwrap();
        let dir = self.place.join(format!("meta-{version}"));
        std::fs::create_dir_all(&dir).unwrap();
        let metadata = format!("architecture: x86_64\ncreation_date: {}\n", 1_700_000_000 + version);
        std::fs::write(dir.join("metadata.yaml"), metadata).unwrap();
        let meta = self.tree().join(format!("meta{version}"));
        run(Command::new("tar").args(["--mtime=@1", "-C"]).arg(&dir).arg("-cJf").arg(&meta).arg("metadata.yaml"));
        let meta = std::fs::read(meta).unwrap();
        std::fs::write(self.tree().join(format!("root{version}")), &root).unwrap();
        let fingerprint = sha256(&[&meta, &root]);
        let mut list = json!({"products": {"busybox:1": {"aliases": "bb", "arch": "amd64", "os": "busybox", "versions": {
            format!("2024010{version}"): {"items": {
                "lxd.tar.xz": {"ftype": "lxd.tar.xz", "path": format!("meta{version}"), "size": meta.len(),
                    "sha256": sha256(&[&meta]), "combined_squashfs_sha256": fingerprint},
                "root": {"ftype": "squashfs", "path": format!("root{version}"), "size": root.len(),
                    "sha256": sha256(&[&root])}}}}}}});
        change(&mut list);
        std::fs::write(self.tree().join("streams/v1/images.json"), list.to_string()).unwrap();
        let index = json!({"index": {"images": {"datatype": "image-downloads", "path": "streams/v1/images.json"}}});
        std::fs::write(self.tree().join("streams/v1/index.json"), index.to_string()).unwrap();
        for list in std::fs::read_dir(self.daemon.state().join("cache/streams")).unwrap().flatten() {
            std::fs::remove_file(list.path()).unwrap();
        }
        fingerprint
    }

    fn source(&self) -> Value {
        json!({"type": "image", "mode": "pull", "server": self.server.url, "protocol": "simplestreams", "alias": "bb"})
    }

    fn copy(&self) -> String {
        let body = json!({"source": self.source(), "auto_update": true, "aliases": [{"name": "mine"}]});
        let done = done(&self.daemon, "POST", "/1.0/images", &body);
        done["metadata"]["fingerprint"].as_str().unwrap().to_owned()
    }

    /// The error of a request for an image.
    fn fails(&self, source: &Value) -> String {
        let (code, error, _) = self.daemon.operation("POST", "/1.0/images", &json!({"source": source}).to_string());
        assert_eq!(code, 400, "{error}");
        for word in ["InvalidCertificate", "CaUsedAsEndEntity", "Error(", "os error"] {
            assert!(!error.contains(word), "a word of programmers: {error}");
        }
        error
    }

    fn begin(&self, path: &str, body: &Value) -> String {
        let (status, answer) = self.daemon.api("POST", path, &body.to_string());
        assert_eq!(status, 202, "{answer}");
        answer["operation"].as_str().unwrap().to_owned()
    }

    fn end(&self, operation: &str) -> Value {
        self.daemon.api("GET", &format!("{operation}/wait"), "").1["metadata"].clone()
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.daemon.state().join("images")).unwrap().count()
    }

    #[track_caller]
    fn nothing_kept(&self) {
        assert_eq!(get(&self.daemon, "/1.0/images"), json!([]));
        assert_eq!(self.files(), 0, "files of an image stayed");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.place);
    }
}

#[test]
fn a_server_that_drips_is_given_up_and_the_next_mirror_asked() {
    let host = Host::new();
    host.server.fault("/root1", Fault::Drip);
    let operation = host.begin("/1.0/images", &json!({"source": host.source()}));
    eventually("the further try is told", || {
        let told = get(&host.daemon, &operation)["metadata"].clone();
        let text = told["download_progress"].as_str().unwrap_or_default();
        text.contains("further try") && told["progress"]["retries"] == "5"
    });
    let end = host.end(&operation);
    let error = end["err"].as_str().unwrap();
    // A day on which even the drops are late makes it silence.
    assert!(error.contains("less than 8 KiB") || error.contains("was silent"), "{end}");
    host.nothing_kept();
    // One that is dead, one that drips, one that is well.
    let mirror = ImageServer::start(&host.tree(), &host.place);
    std::fs::write(&host.server.ca, host.server.certificate() + &mirror.certificate()).unwrap();
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut source = host.source();
    source["server"] = format!("https://localhost:{dead} {} {}", host.server.url, mirror.url).into();
    done(&host.daemon, "POST", "/1.0/images", &json!({"source": source}));
    assert_eq!(mirror.count("/root1"), 1);
}

#[test]
fn a_refresh_can_be_cancelled() {
    let host = Host::new();
    let old = host.copy();
    let before = (get(&host.daemon, "/1.0/images?recursion=1"), host.files());
    host.publish(2, |_| ());
    host.server.fault("/meta2", Fault::Drip);
    let refresh = format!("/1.0/images/{old}/refresh");
    for by_itself in [false, true] {
        std::thread::scope(|scope| {
            let operation = if by_itself {
                let daemon = &host.daemon;
                scope.spawn(move || done(daemon, "PUT", "/internal/schedule", &json!({"at": "2027-03-01T00:00:00Z"})));
                let mut found = None;
                eventually("it is refreshed", || {
                    let running = get(daemon, "/1.0/operations?recursion=1")["running"].clone();
                    let mut running = running.as_array().cloned().unwrap_or_default().into_iter();
                    found = running.find(|operation| operation["description"] == "Refreshing image");
                    found.is_some()
                });
                format!("/1.0/operations/{}", found.unwrap()["id"].as_str().unwrap())
            } else {
                host.begin(&refresh, &json!({}))
            };
            eventually("it is on its way", || host.server.count("/meta2") > 0);
            assert_eq!(get(&host.daemon, &operation)["may_cancel"], true);
            done(&host.daemon, "DELETE", &operation, &json!({}));
            assert_eq!(host.end(&operation)["status"], "Cancelled");
        });
        eventually("nothing stays", || host.files() == before.1);
        assert_eq!(get(&host.daemon, "/1.0/images?recursion=1"), before.0);
        host.server.asked();
    }
    host.server.mend();
    let end = done(&host.daemon, "POST", &refresh, &json!({}));
    assert_eq!(end["metadata"]["refreshed"], true);
    let images = get(&host.daemon, "/1.0/images?recursion=1");
    assert!(images.as_array().unwrap().len() == 1 && images[0]["aliases"][0]["name"] == "mine", "{images}");
}

#[test]
fn what_is_deleted_does_not_come_back_by_a_refresh() {
    let host = Host::patient(30_000);
    let old = host.copy();
    done(&host.daemon, "PATCH", &format!("/1.0/images/{old}"), &json!({"public": true}));
    let refresh = format!("/1.0/images/{old}/refresh");
    // Once there is a newer one, once the same as before.
    for newer in [true, false] {
        if newer {
            host.publish(2, |_| ());
            host.server.fault("/meta2", Fault::Held);
        } else {
            host.publish(1, |_| ());
            host.copy();
            host.server.fault("/streams/v1/index.json", Fault::Held);
        }
        host.server.asked();
        let refreshes = [host.begin(&refresh, &json!({})), host.begin(&refresh, &json!({}))];
        let (asked, times) = if newer { ("/meta2", 1) } else { ("/index.json", 2) };
        eventually("they are on their way", || host.server.count(asked) >= times);
        done(&host.daemon, "DELETE", &format!("/1.0/images/{old}"), &json!({}));
        host.server.mend();
        for operation in refreshes {
            let end = host.end(&operation);
            assert_eq!(end["status"], "Failure", "{end}");
            assert!(end["err"].as_str().unwrap().contains("was deleted"), "{end}");
        }
        assert!(!newer || host.server.count("/meta2") == 1, "two refreshes are one");
        host.nothing_kept();
    }
}

/// Who wants the newer image for itself gets it, whatever becomes of the refresh that began its download.
#[test]
fn a_refresh_that_ends_in_vain_spoils_nobody_elses_download() {
    let host = Host::patient(30_000);
    let old = host.copy();
    let newer = host.publish(2, |_| ());
    host.server.fault("/meta2", Fault::Held);
    let refresh = host.begin(&format!("/1.0/images/{old}/refresh"), &json!({}));
    eventually("it is on its way", || host.server.count("/meta2") == 1);
    let copy = host.begin("/1.0/images", &json!({"source": host.source(), "aliases": [{"name": "other"}]}));
    done(&host.daemon, "DELETE", &format!("/1.0/images/{old}"), &json!({}));
    host.server.mend();
    assert_eq!((&host.end(&copy)["status"], &host.end(&refresh)["status"]), (&json!("Success"), &json!("Failure")));
    let images = get(&host.daemon, "/1.0/images?recursion=1");
    let image = &images[0];
    assert!(images.as_array().unwrap().len() == 1 && image["fingerprint"] == newer, "{images}");
    assert_eq!((&image["aliases"][0]["name"], &image["public"]), (&json!("other"), &json!(false)));
}

#[test]
fn what_was_set_here_survives_a_newer_version() {
    let host = Host::new();
    let eol = |list: &mut Value| list["products"]["busybox:1"]["support_eol"] = "2040-01-01".into();
    let old = host.copy();
    let second = host.publish(2, eol);
    done(&host.daemon, "POST", &format!("/1.0/images/{old}/refresh"), &json!({}));
    let image = get(&host.daemon, &format!("/1.0/images/{second}"));
    assert_eq!(image["expires_at"], "2040-01-01T00:00:00Z", "nobody here said anything");
    let set = json!({"expires_at": "2035-05-05T05:05:05Z", "public": true, "properties": {"own": "word"}});
    done(&host.daemon, "PATCH", &format!("/1.0/images/{second}"), &set);
    let third = host.publish(3, eol);
    done(&host.daemon, "POST", &format!("/1.0/images/{second}/refresh"), &json!({}));
    let image = get(&host.daemon, &format!("/1.0/images/{third}"));
    assert_eq!((&image["expires_at"], &image["public"]), (&set["expires_at"], &json!(true)));
    assert_eq!((&image["properties"]["own"], &image["auto_update"]), (&json!("word"), &json!(true)));
    // And of those that come after it.
    let fourth = host.publish(4, eol);
    done(&host.daemon, "POST", &format!("/1.0/images/{third}/refresh"), &json!({}));
    assert_eq!(get(&host.daemon, &format!("/1.0/images/{fourth}"))["expires_at"], set["expires_at"]);
}

/// Neither in the answer nor in the log nor where others look.
#[test]
fn a_password_in_an_address_is_not_repeated() {
    let host = Host::new();
    for server in
        ["http://user:wo-rd@host/", "https://user:wo-rd@host/", "ftp://user:wo-rd@host", "https://u:wo-rd@h\u{1}"]
    {
        for protocol in ["simplestreams", "lxd"] {
            let source =
                json!({"type": "image", "mode": "pull", "server": server, "protocol": protocol, "alias": "bb"});
            support::api::refused(&host.daemon, "POST", "/1.0/images", &json!({"source": source}), 400, "***@h");
        }
        let source = json!({"type": "url", "url": server});
        support::api::refused(&host.daemon, "POST", "/1.0/images", &json!({"source": source}), 400, "***@h");
    }
    for url in ["file:///etc/passwd", "ftp://host/x"] {
        let source = json!({"type": "url", "url": url});
        let word = "it must begin with https:// or http://";
        support::api::refused(&host.daemon, "POST", "/1.0/images", &json!({"source": source}), 400, word);
    }
    let set = |value: &str| json!({"config": {"core.proxy_https": value}});
    support::api::refused(&host.daemon, "PATCH", "/1.0", &set("ftp://user:wo-rd@host"), 400, "***@host");
    // One that does not answer.
    done(&host.daemon, "PATCH", "/1.0", &set("http://user:wo-rd@127.0.0.1:1"));
    let error = host.fails(&json!({"type": "url", "url": "https://192.0.2.1/x"}));
    assert!(error.contains("127.0.0.1:1") && !error.contains("wo-rd"), "{error}");
    assert_eq!(get(&host.daemon, "/1.0")["config"]["core.proxy_https"], "http://user:wo-rd@127.0.0.1:1");
    let log = std::fs::read_to_string(host.daemon.root.join("log")).unwrap();
    assert!(!log.contains("wo-rd"), "{}", log.lines().find(|line| line.contains("wo-rd")).unwrap());
}

/// The items of a version in a list.
fn items(list: &mut Value, version: u32) -> &mut Value {
    &mut list["products"]["busybox:1"]["versions"][format!("2024010{version}")]["items"]
}

#[test]
fn each_file_is_what_the_list_says() {
    let host = Host::new();
    for (item, file) in [("root", "root1"), ("lxd.tar.xz", "meta1")] {
        // All of it together is right.
        host.publish(1, |list| items(list, 1)[item]["sha256"] = "0".repeat(64).into());
        host.server.asked();
        let error = host.fails(&host.source());
        assert!(error.contains(file) && error.contains("busybox:1") && error.contains("damaged"), "{error}");
        assert_eq!(host.server.count("/root1"), usize::from(item == "root"), "what follows is not asked for");
        host.nothing_kept();
        host.publish(1, |list| items(list, 1)[item]["size"] = 7.into());
        assert!(host.fails(&host.source()).contains("not 7 as announced"));
        host.nothing_kept();
    }
    host.publish(1, |_| ());
    host.copy();
}

#[test]
fn a_bad_item_spoils_only_itself() {
    let host = Host::new();
    host.publish(1, |list| {
        let mut bad = list["products"]["busybox:1"].clone();
        bad["aliases"] = "bad".into();
        bad["versions"]["20240101"]["items"]["root"]["size"] = (-1).into();
        list["products"]["bad:1"] = bad;
        list["products"]["worse:1"] = json!({"aliases": "worse", "arch": "amd64", "versions": 7});
    });
    for name in ["bad", "worse"] {
        let mut source = host.source();
        source["alias"] = name.into();
        let error = host.fails(&source);
        assert!(error.contains("not usable") && error.contains(&format!("{name}:1")), "{error}");
    }
    let mut missing = host.source();
    missing["alias"] = "none".into();
    let error = host.fails(&missing);
    assert!(error.contains("has no image") && !error.contains("everybody"), "{error}");
    host.copy();
}

/// A self-signed certificate of an authority, as `openssl req -x509` makes them.
fn authority(names: &[&str], years: (i32, i32)) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = CertificateParams::new(names).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (parameters.not_before, parameters.not_after) =
        (rcgen::date_time_ymd(years.0, 1, 1), rcgen::date_time_ymd(years.1, 1, 1));
    let key = KeyPair::generate().unwrap();
    (parameters.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn server_with(host: &Host, names: &[&str], years: (i32, i32)) -> ImageServer {
    let (certificate, key) = authority(names, years);
    ImageServer::certified("127.0.0.1", &host.tree(), &host.place, &certificate, &key)
}

fn append(to: &Path, text: &str) {
    let before = std::fs::read_to_string(to).unwrap();
    std::fs::write(to, before + text).unwrap();
}

#[test]
fn certificates_are_believed_or_refused_in_plain_words() {
    let host = Host::new();
    let with = |server: &ImageServer| {
        let mut source = host.source();
        source["server"] = server.url.clone().into();
        source
    };
    let good = server_with(&host, &["localhost"], (2020, 2090));
    assert!(host.fails(&with(&good)).contains("vouches for its certificate"));
    let other = server_with(&host, &["a.invalid", "192.0.2.7"], (2020, 2090));
    let old = server_with(&host, &["localhost"], (2020, 2021));
    let young = server_with(&host, &["localhost"], (2080, 2090));
    for server in [&good, &other, &old, &young] {
        append(&host.server.ca, &server.certificate());
    }
    for (server, words) in [
        (&other, &["a.invalid, 192.0.2.7", "not for localhost"][..]),
        (&old, &["expired at", "2021"]),
        (&young, &["counts only from", "2080"]),
    ] {
        let error = host.fails(&with(server));
        assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
    }
    host.nothing_kept();
    done(&host.daemon, "POST", "/1.0/images", &json!({"source": with(&good)}));
    // Spoken to by the wrong protocol, both ways.
    let plain = ImageServer::plain(&host.tree());
    let mut source = host.source();
    source["server"] = plain.url.replace("http:", "https:").into();
    let error = host.fails(&source);
    assert!(error.contains("TLS"), "{error}");
    let url = host.server.url.replace("https:", "http:");
    let error = host.fails(&json!({"type": "url", "url": format!("{url}/x")}));
    assert!(error.contains("perhaps this port is for https://"), "{error}");
}

#[test]
fn single_images_may_come_unencrypted_as_with_lxd() {
    let host = Host::new();
    let plain = ImageServer::plain(&host.tree());
    let image = std::fs::read(host.daemon.busybox_unified()).unwrap();
    std::fs::write(host.tree().join("bb.tar.gz"), &image).unwrap();
    plain.field("/image", "LXD-Image-Hash", &sha256(&[&image]));
    plain.field("/image", "LXD-Image-URL", &format!("{}/bb.tar.gz", plain.url));
    let body = json!({"source": {"type": "url", "url": format!("{}/image", plain.url)}});
    done(&host.daemon, "POST", "/1.0/images", &body);
}

/// What a proxy does with who asks it.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// Opens the way.
    Open,
    /// Answers so.
    Refuse(&'static str),
    /// Says nothing.
    Silent,
}

/// A proxy that opens ways by CONNECT: its port, and the heads of what it was asked.
fn proxy(manner: Manner) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, asked) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
    let heard = Arc::clone(&asked);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let heard = Arc::clone(&heard);
            std::thread::spawn(move || {
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let port: Option<u16> = head.split(' ').nth(1).and_then(|place| place.rsplit(':').next()?.parse().ok());
                heard.lock().unwrap().push(head);
                match (manner, port) {
                    (Manner::Open, Some(port)) => {
                        let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
                        stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
                        let (mut back, mut to) = (stream.try_clone().unwrap(), server.try_clone().unwrap());
                        std::thread::spawn(move || std::io::copy(&mut &server, &mut back));
                        let _ = std::io::copy(&mut stream, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    }
                    (Manner::Refuse(line), _) => {
                        let _ = stream.write_all(format!("{line}\r\n\r\n").as_bytes());
                    }
                    (Manner::Silent | Manner::Open, _) => drop(stream.read(&mut byte)),
                }
            });
        }
    });
    (port, asked)
}

#[test]
fn proxies_are_gone_through_and_told_of_when_they_refuse() {
    let host = Host::new();
    let through = |key: &str, port: u16, ignored: &str| {
        let config = json!({key: format!("http://user:word@127.0.0.1:{port}"), "core.proxy_ignore_hosts": ignored});
        done(&host.daemon, "PATCH", "/1.0", &json!({"config": config}));
    };
    for (manner, says) in [
        (Manner::Refuse("HTTP/1.1 407 Proxy Authentication Required"), "wants a name and a password"),
        (Manner::Refuse("HTTP/1.1 403 Forbidden"), "does not let through to localhost:"),
        (Manner::Refuse("nonsense"), "no HTTP"),
        (Manner::Silent, "was silent"),
    ] {
        let (port, asked) = proxy(manner);
        through("core.proxy_https", port, "none.invalid");
        let error = host.fails(&host.source());
        let names = error.contains(&format!("127.0.0.1:{port}")) && error.contains("core.proxy_https");
        assert!(error.contains(says) && names && !error.contains("word@"), "{manner:?}: {error}");
        assert!(asked.lock().unwrap()[0].starts_with("CONNECT localhost:"), "{asked:?}");
    }
    host.nothing_kept();
    let (port, asked) = proxy(Manner::Open);
    through("core.proxy_https", port, "none.invalid");
    let image = host.copy();
    let heads = std::mem::take(&mut *asked.lock().unwrap());
    let all = heads.iter().all(|head| head.contains("Proxy-Authorization: Basic dXNlcjp3b3Jk\r\n"));
    assert!(heads.len() >= 2 && all, "{heads:?}");
    let clean = |asked: &support::image_server::Asked| !asked.headers.contains_key("proxy-authorization");
    assert!(host.server.asked().iter().all(clean), "the word is the proxy's alone");
    // Those hosts are reached without.
    done(&host.daemon, "DELETE", &format!("/1.0/images/{image}"), &json!({}));
    through("core.proxy_https", port, "localhost");
    host.copy();
    assert!(asked.lock().unwrap().is_empty());
    // What is not encrypted is asked of the proxy itself.
    let (port, asked) = proxy(Manner::Refuse("HTTP/1.1 403 Forbidden\r\nContent-Length: 0"));
    through("core.proxy_http", port, "none.invalid");
    let error = host.fails(&json!({"type": "url", "url": "http://far.invalid/x"}));
    assert!(error.contains("403"), "{error}");
    assert!(asked.lock().unwrap()[0].starts_with("HEAD http://far.invalid/x HTTP/1.1\r\n"), "{asked:?}");
}

#[test]
fn a_server_far_away_leads_to_nobody_near() {
    isolated("a_server_far_away_leads_to_nobody_near", || {
        let host = Host::new();
        // An address of documentation, as far as anybody can see.
        run(Command::new("ip").args(["address", "add", "192.0.2.10/32", "dev", "lo"]));
        let (certificate, key) = authority(&["192.0.2.10"], (2020, 2090));
        let far = ImageServer::certified("192.0.2.10", &host.tree(), &host.place, &certificate, &key);
        append(&host.server.ca, &certificate);
        let mut source = host.source();
        source["server"] = far.url.clone().into();
        let port = host.server.port;
        for to in [
            format!("https://127.0.0.1:{port}/root1"),
            format!("https://localhost:{port}/root1"),
            format!("https://[::1]:{port}/root1"),
            format!("https://[::ffff:127.0.0.1]:{port}/root1"),
            format!("https://0.0.0.0:{port}/root1"),
            "https://169.254.169.254/latest/meta-data".to_owned(),
            "https://[fe80::1]/".to_owned(),
        ] {
            for path in ["/root1", "/streams/v1/images.json"] {
                far.fault(path, Fault::Redirect(to.clone()));
                let error = host.fails(&source);
                assert!(error.contains("not followed") && error.contains("this host itself"), "{to}: {error}");
                far.mend();
                for list in std::fs::read_dir(host.daemon.state().join("cache/streams")).unwrap().flatten() {
                    std::fs::remove_file(list.path()).unwrap();
                }
            }
        }
        assert!(host.server.asked().is_empty(), "nothing near was asked");
        host.nothing_kept();
        done(&host.daemon, "POST", "/1.0/images", &json!({"source": source}));
    });
}
