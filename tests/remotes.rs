//! Image servers: simplestreams made by an independent program, LXD's protocol between daemons, direct addresses, the cache
//! and its clock, and everything that servers do wrong.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::api::{done, get, refused};
use support::image_server::{Fault, ImageServer};
use support::{Daemon, eventually, run, said};

/// incus-simplestreams of Debian, as `packaging/clients` fetched it.
fn simplestreams(tree: &Path, arguments: &[&str]) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/incus-extra/usr/bin/incus-simplestreams");
    run(Command::new(program).args(arguments).current_dir(tree));
}

/// A daemon without images, and a server that it believes; its tree of streams has busybox as `busybox/1/test`.
struct Host {
    daemon: Daemon,
    server: ImageServer,
    tree: PathBuf,
}

const NAME: &str = "busybox/1/test";

impl Host {
    fn new() -> Self {
        Self::with_pool("overlay")
    }

    fn with_pool(driver: &str) -> Self {
        let place = tempfile::tempdir_in("/var/tmp").unwrap().keep();
        let tree = place.join("tree");
        std::fs::create_dir(&tree).unwrap();
        let server = ImageServer::start(&tree, &place);
        let daemon = Daemon::with_env(&[("SSL_CERT_FILE", server.ca.to_str().unwrap())]);
        daemon.lxc(&["storage", "create", "p", driver]).ok();
        daemon.lxc(&["profile", "device", "add", "default", "root", "disk", "path=/", "pool=p"]).ok();
        let host = Self { daemon, server, tree };
        host.add(1_700_000_000);
        host
    }

    /// Adds a version of the image that was made then.
    fn add(&self, at: i64) {
        let (_, root) = self.daemon.busybox();
        let place = self.daemon.root.join(format!("meta-{at}"));
        std::fs::create_dir_all(&place).unwrap();
        let metadata = format!(
            "architecture: x86_64\ncreation_date: {at}\nproperties:\n  architecture: x86_64\n  os: busybox\n  release: \"1\"\n  \
             variant: test\n  description: busybox\n"
        );
        std::fs::write(place.join("metadata.yaml"), metadata).unwrap();
        let meta = place.join("meta.tar.xz");
        run(Command::new("tar").arg("-C").arg(&place).arg("-cJf").arg(&meta).arg("metadata.yaml"));
        let arguments = ["add", meta.to_str().unwrap(), root.to_str().unwrap(), "--alias", "bb/test"];
        simplestreams(&self.tree, &arguments);
    }

    /// The same files under the names that LXD's client knows.
    fn rename_for_lxd(&self) {
        let place = self.tree.join("streams/v1/images.json");
        let list = std::fs::read_to_string(&place).unwrap();
        let list = list.replace("\"ftype\":\"incus.tar.xz\"", "\"ftype\":\"lxd.tar.xz\"");
        std::fs::write(&place, list.replace("\"incus.tar.xz\":", "\"lxd.tar.xz\":")).unwrap();
    }

    /// The stock client, which believes the server, too.
    fn lxc(&self, arguments: &[&str]) -> support::Said {
        let mut command = self.daemon.client();
        let output = command.env("SSL_CERT_FILE", &self.server.ca).args(arguments).output().unwrap();
        support::Said::of(&output)
    }

    /// The source of a request.
    fn source(&self, alias: &str) -> Value {
        json!({"type": "image", "mode": "pull", "server": self.server.url, "protocol": "simplestreams", "alias": alias})
    }

    fn copy(&self, more: &Value) -> Value {
        let mut body = json!({"source": self.source(NAME)});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        done(&self.daemon, "POST", "/1.0/images", &body)["metadata"].clone()
    }

    /// The error of a request for the image.
    fn fails(&self, source: &Value) -> String {
        let (code, error, _) = self.daemon.operation("POST", "/1.0/images", &json!({"source": source}).to_string());
        assert_eq!(code, 400, "{error}");
        error
    }

    /// Nothing of an image is here.
    #[track_caller]
    fn nothing_kept(&self) {
        assert_eq!(get(&self.daemon, "/1.0/images"), json!([]));
        let kept = std::fs::read_dir(self.daemon.state().join("images")).unwrap().count();
        assert_eq!(kept, 0, "files of an image stayed");
    }

    /// Addresses of the two files of the image.
    fn files(&self) -> (String, String) {
        let list: Value =
            serde_json::from_slice(&std::fs::read(self.tree.join("streams/v1/images.json")).unwrap()).unwrap();
        let versions = &list["products"].as_object().unwrap().values().next().unwrap()["versions"];
        let items = versions.as_object().unwrap().values().next_back().unwrap()["items"].clone();
        let path = |item: &str| format!("/{}", items[item]["path"].as_str().unwrap());
        (path("incus.tar.xz"), path("squashfs"))
    }

    fn lists(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.daemon.state().join("cache/streams")).unwrap().flatten();
        entries.map(|entry| entry.path()).collect()
    }

    /// The lists that are kept are those of yesterday.
    fn age_lists(&self) {
        for list in self.lists() {
            let file = std::fs::File::options().write(true).open(list).unwrap();
            file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(86_400)).unwrap();
        }
    }

    fn forget_lists(&self) {
        self.lists().into_iter().for_each(|list| std::fs::remove_file(list).unwrap());
    }

    /// What an operation of the schedule does at this time, seconds since 1970.
    fn at(&self, time: i64) {
        let at = time::OffsetDateTime::from_unix_timestamp(time).unwrap();
        let at = at.format(&time::format_description::well_known::Rfc3339).unwrap();
        done(&self.daemon, "PUT", "/internal/schedule", &json!({"at": at}));
    }

    fn images(&self) -> Vec<Value> {
        get(&self.daemon, "/1.0/images?recursion=1").as_array().unwrap().clone()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.tree.parent().unwrap());
    }
}

fn now() -> i64 {
    i64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap()
}

#[test]
fn the_stock_client_launches_from_a_streams_server() {
    let host = Host::new();
    host.rename_for_lxd();
    host.lxc(&["remote", "add", "s", &host.server.url, "--protocol=simplestreams", "--public"]).ok();
    assert!(host.lxc(&["image", "list", "s:", "-f", "csv", "-c", "l"]).ok().contains("bb/test"));
    host.lxc(&["launch", "s:bb/test", "c1"]).ok();
    assert_eq!(host.daemon.status("c1"), "Running");
    let images = host.images();
    let [image] = images.as_slice() else { panic!("{images:?}") };
    assert_eq!(
        (&image["cached"], &image["auto_update"], &image["public"]),
        (&json!(true), &json!(true), &json!(false))
    );
    let origin = json!({"alias": "bb/test", "certificate": "", "protocol": "simplestreams", "server": host.server.url,
        "image_type": ""});
    assert_eq!(image["update_source"], origin);
    assert_eq!(image["properties"]["release"], "1");
    assert_ne!(image["last_used_at"], "1970-01-01T00:00:00Z");
    let shown = get(&host.daemon, "/1.0/instances/c1");
    assert_eq!(shown["config"]["volatile.base_image"], image["fingerprint"]);
    assert_eq!(shown["config"]["image.os"], "busybox");
    // What is here is not loaded again, by whatever name.
    host.server.asked();
    for (name, instance) in [("busybox/1/test", "c2"), (image["fingerprint"].as_str().unwrap(), "c3")] {
        host.lxc(&["init", &format!("s:{name}"), instance]).ok();
    }
    assert_eq!(host.server.count("squashfs"), 0);
    assert!(host.server.asked().iter().filter(|asked| asked.path.contains("streams")).all(|asked| {
        !asked.headers["user-agent"].starts_with("Warren") || asked.headers.contains_key("if-none-match")
    }));
    for instance in ["c1", "c2", "c3"] {
        host.daemon.lxc(&["delete", "--force", instance]).ok();
    }
}

#[test]
fn the_stock_client_copies_and_refreshes_images() {
    let host = Host::new();
    host.rename_for_lxd();
    host.lxc(&["remote", "add", "s", &host.server.url, "--protocol=simplestreams", "--public"]).ok();
    host.lxc(&["image", "copy", "s:bb/test", "local:", "--alias", "mine", "--copy-aliases", "--auto-update"]).ok();
    let first = host.images()[0].clone();
    assert_eq!((&first["cached"], &first["auto_update"]), (&json!(false), &json!(true)));
    let names = |image: &Value| {
        let names = image["aliases"].as_array().unwrap().iter();
        names.map(|alias| alias["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(names(&first).contains(&"mine".to_owned()) && names(&first).contains(&"bb/test".to_owned()), "{first}");
    assert!(host.lxc(&["image", "refresh", "mine"]).ok().contains("already up to date"));
    let url = format!("/1.0/images/{}", first["fingerprint"].as_str().unwrap());
    done(&host.daemon, "PATCH", &url, &json!({"properties": {"own": "word"}, "public": true}));
    host.add(1_700_100_000);
    assert!(host.lxc(&["image", "refresh", "mine"]).ok().contains("refreshed successfully"));
    let images = host.images();
    let [second] = images.as_slice() else { panic!("{images:?}") };
    assert_ne!(second["fingerprint"], first["fingerprint"]);
    assert_eq!(names(second), names(&first));
    assert_eq!((&second["properties"]["own"], &second["public"]), (&json!("word"), &json!(true)));
    assert_ne!(second["properties"]["serial"], first["properties"]["serial"]);
    // One that came by an upload has nobody to ask.
    let (meta, root) = host.daemon.busybox();
    host.lxc(&["image", "import", meta.to_str().unwrap(), root.to_str().unwrap(), "--alias", "own"]).ok();
    host.lxc(&["image", "refresh", "own"]).refused("came from no server");
}

#[test]
fn images_that_become_one_stay_what_either_was() {
    for public in [[true, false], [false, true]] {
        let host = Host::new();
        for (number, public) in public.iter().enumerate() {
            let name = format!("a{number}");
            host.copy(&json!({"public": public, "auto_update": true, "aliases": [{"name": name}]}));
            host.age_lists();
            host.add(1_700_100_000 + 100_000 * i64::try_from(number).unwrap());
        }
        assert_eq!(host.images().len(), 2);
        host.at(now() + 8 * 3600);
        let images = host.images();
        let [image] = images.as_slice() else { panic!("{images:?}") };
        let names = image["aliases"].as_array().unwrap().len();
        assert_eq!((names, &image["public"], &image["auto_update"]), (2, &json!(true), &json!(true)), "{image}");
    }
}

#[test]
fn many_launches_make_one_download() {
    let host = Host::new();
    let (_, root) = host.files();
    let bodies: Vec<String> =
        (0..6).map(|n| json!({"name": format!("c{n}"), "source": host.source(NAME)}).to_string()).collect();
    let operations: Vec<String> = bodies
        .iter()
        .map(|body| {
            let (status, answer) = host.daemon.api("POST", "/1.0/instances", body);
            assert_eq!(status, 202, "{answer}");
            answer["operation"].as_str().unwrap().to_owned()
        })
        .collect();
    for operation in &operations {
        let (_, end) = host.daemon.api("GET", &format!("{operation}/wait"), "");
        assert_eq!(end["metadata"]["status_code"], 200, "{end}");
    }
    assert_eq!(host.server.count(&root), 1);
    assert_eq!(host.images().len(), 1);
    // A second project takes what is here.
    done(&host.daemon, "POST", "/1.0/projects", &json!({"name": "other"}));
    let body = json!({"source": host.source(NAME), "aliases": [{"name": "theirs"}]});
    done(&host.daemon, "POST", "/1.0/images?project=other", &body);
    assert_eq!(host.server.count(&root), 1);
    let alias = get(&host.daemon, "/1.0/images/aliases/theirs?project=other");
    done(&host.daemon, "DELETE", &format!("/1.0/images/{}", alias["target"].as_str().unwrap()), &json!({}));
    for n in 0..6 {
        done(&host.daemon, "DELETE", &format!("/1.0/instances/c{n}"), &json!({}));
    }
    let body = json!({"name": "still", "source": {"type": "image", "alias": "theirs"},
        "devices": {"root": {"type": "disk", "path": "/", "pool": "p"}}});
    done(&host.daemon, "POST", "/1.0/instances?project=other", &body);
    done(&host.daemon, "DELETE", "/1.0/instances/still?project=other", &json!({}));
}

#[test]
fn a_download_is_gone_on_with_where_it_broke() {
    let host = Host::new();
    let (_, root) = host.files();
    host.server.fault(&root, Fault::CutOnce(10_000));
    host.copy(&json!({}));
    let asked: Vec<_> = host.server.asked().into_iter().filter(|asked| asked.path == root).collect();
    assert_eq!(asked.len(), 2);
    assert!(asked[1].headers["range"].starts_with("bytes="), "{asked:?}");
    assert!(asked[0].headers["user-agent"].starts_with("Warren "), "{asked:?}");
    let image = host.images()[0]["fingerprint"].as_str().unwrap().to_owned();
    let forget = || done(&host.daemon, "DELETE", &format!("/1.0/images/{image}"), &json!({}));
    // One that does not say what version it gives is held to the hash of the whole.
    forget();
    host.server.tags(false);
    host.server.fault(&root, Fault::CutOnce(10_000));
    host.copy(&json!({}));
    let asked: Vec<_> = host.server.asked().into_iter().filter(|asked| asked.path == root).collect();
    assert!(asked[1].headers["range"].starts_with("bytes=") && !asked[1].headers.contains_key("if-range"), "{asked:?}");
    // One that cannot give parts gives all of it again.
    forget();
    host.server.ranges(false);
    host.server.fault(&root, Fault::CutOnce(10_000));
    host.copy(&json!({}));
}

#[test]
fn what_servers_do_wrong_is_refused_with_the_reason() {
    let host = Host::new();
    let (meta, root) = host.files();
    let list = "/streams/v1/images.json";
    for (path, fault, says) in [
        (root.as_str(), Fault::Cut(10_000), "broke"),
        (&root, Fault::Length(3), "as announced"),
        (&root, Fault::Flip, "damaged"),
        (&meta, Fault::Flip, "damaged"),
        (&root, Fault::Status(404), "404"),
        (&root, Fault::Status(500), "500"),
        (&root, Fault::Endless, "longer than"),
        (&root, Fault::Redirect("http://localhost/x".to_owned()), "HTTPS"),
        (&root, Fault::Redirect("file:///etc/shadow".to_owned()), "not followed"),
        (&root, Fault::Redirect(root.clone()), "too many"),
        (list, Fault::Status(403), "403"),
        (list, Fault::Endless, "longer than"),
        (list, Fault::Cut(50), "broke"),
    ] {
        host.server.fault(path, fault.clone());
        if path == list {
            host.forget_lists();
        }
        let error = host.fails(&host.source(NAME));
        assert!(error.contains(says), "{fault:?} of {path}: {error}");
        host.server.mend();
        host.nothing_kept();
    }
    let good = std::fs::read_to_string(host.tree.join("streams/v1/images.json")).unwrap();
    for (bad, says) in [
        ("{".to_owned(), "not usable"),
        ("[]".to_owned(), "not usable"),
        (good.replace("images/", "../images/"), "leads away"),
        (good.replace("images/", "https://elsewhere/"), "leads away"),
        (good.replace("\"size\":", "\"size\":-"), "not usable"),
    ] {
        std::fs::write(host.tree.join("streams/v1/images.json"), bad).unwrap();
        // The list from before is used only when the server is away, not when it lies.
        host.age_lists();
        let error = host.fails(&host.source(NAME));
        assert!(error.contains(says), "{error}");
    }
    std::fs::write(host.tree.join("streams/v1/images.json"), good).unwrap();
    host.nothing_kept();
    assert!(host.fails(&host.source("nosuch")).contains("has no image"));
    // Nothing is blocked by any of these.
    host.copy(&json!({}));
}

#[test]
fn servers_are_who_they_should_be() {
    let host = Host::new();
    let place = host.tree.parent().unwrap();
    let stranger = ImageServer::start(&host.tree, place);
    let source = |server: &ImageServer, certificate: &str| {
        json!({"type": "image", "mode": "pull", "server": server.url, "protocol": "simplestreams", "alias": NAME,
            "certificate": certificate})
    };
    assert!(host.fails(&source(&stranger, "")).contains("not who it should be"));
    assert!(host.fails(&source(&stranger, &host.server.certificate())).contains("not who it should be"));
    host.nothing_kept();
    done(&host.daemon, "POST", "/1.0/images", &json!({"source": source(&stranger, &stranger.certificate())}));
    for (source, word) in [
        (json!({"server": "http://localhost:1", "alias": "x"}), "https"),
        (json!({"server": "ftp://localhost", "alias": "x"}), "https://"),
        (json!({"server": "https://", "alias": "x"}), "host"),
        (json!({"server": "", "alias": "x"}), "server"),
        (json!({"server": "https://localhost"}), "names no image"),
        (json!({"server": "https://localhost", "alias": "x", "protocol": "smoke"}), "protocol"),
        (json!({"server": "https://localhost", "alias": "x", "certificate": "y"}), "PEM"),
        (json!({"server": "https://localhost", "fingerprint": "a\nb"}), "control characters"),
        (json!({"server": "https://localhost", "alias": "x", "image_type": "virtual-machine"}), "containers"),
        (json!({"server": "https://localhost", "alias": "x", "mode": "wish"}), "mode"),
        (json!({"type": "url", "url": "gopher://x"}), "https://"),
        (json!({"type": "url"}), "url"),
        (json!({"type": "moon"}), "type"),
    ] {
        let mut whole = json!({"type": "image", "mode": "pull", "protocol": "simplestreams"});
        whole.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
        refused(&host.daemon, "POST", "/1.0/images", &json!({"source": whole}), 400, word);
        if whole["type"] == "image" && whole["server"] != "" {
            refused(&host.daemon, "POST", "/1.0/instances", &json!({"name": "c", "source": whole}), 400, word);
        }
    }
    // What stands against the instance is found before anything is fetched.
    host.server.asked();
    let body = json!({"name": "c", "source": host.source(NAME), "profiles": ["nosuch"]});
    refused(&host.daemon, "POST", "/1.0/instances", &body, 404, "nosuch");
    assert_eq!(host.server.asked().len(), 0);
}

#[test]
fn a_download_can_be_cancelled_and_is_told() {
    let host = Host::new();
    let (_, root) = host.files();
    host.server.fault(&root, Fault::Stall(100_000));
    let start = |path: &str, body: Value| {
        let (status, answer) = host.daemon.api("POST", path, &body.to_string());
        assert_eq!(status, 202, "{answer}");
        answer["operation"].as_str().unwrap().to_owned()
    };
    let copy = start("/1.0/images", json!({"source": host.source(NAME)}));
    let launch = start("/1.0/instances", json!({"name": "c", "source": host.source(NAME)}));
    for operation in [&copy, &launch] {
        eventually("the download is told", || {
            let told = get(&host.daemon, operation)["metadata"].clone();
            told["download_progress"].as_str().is_some_and(|text| text.starts_with("rootfs: "))
                && told["progress"]["stage"] == "download"
        });
        assert_eq!(get(&host.daemon, operation)["may_cancel"], true);
    }
    assert_eq!(host.server.count(&root), 1);
    done(&host.daemon, "DELETE", &copy, &json!({}));
    assert_eq!(get(&host.daemon, &launch)["status"], "Running", "who still waits goes on");
    done(&host.daemon, "DELETE", &launch, &json!({}));
    for operation in [&copy, &launch] {
        let (_, end) = host.daemon.api("GET", &format!("{operation}/wait"), "");
        assert_eq!(end["metadata"]["status"], "Cancelled");
    }
    eventually("nothing stays", || std::fs::read_dir(host.daemon.state().join("images")).unwrap().count() == 0);
    host.nothing_kept();
    assert_eq!(host.daemon.status("c"), "none");
    host.server.mend();
    host.copy(&json!({}));
}

#[test]
fn a_killed_daemon_leaves_nothing_of_a_download() {
    let mut host = Host::new();
    let (_, root) = host.files();
    host.server.fault(&root, Fault::Stall(100_000));
    let body = json!({"name": "c", "source": host.source(NAME)}).to_string();
    assert_eq!(host.daemon.api("POST", "/1.0/instances", &body).0, 202);
    eventually("it is on its way", || host.server.count(&root) == 1);
    host.daemon.kill();
    host.server.mend();
    host.daemon.start();
    host.nothing_kept();
    assert_eq!(host.daemon.status("c"), "none");
    done(&host.daemon, "POST", "/1.0/instances", &serde_json::from_str(&body).unwrap());
    done(&host.daemon, "DELETE", "/1.0/instances/c", &json!({}));
}

#[test]
fn what_a_server_said_is_used_while_it_is_away() {
    let host = Host::new();
    let first = host.copy(&json!({}))["fingerprint"].clone();
    done(&host.daemon, "DELETE", &format!("/1.0/images/{}", first.as_str().unwrap()), &json!({}));
    // Within the hour it is not asked again.
    host.server.asked();
    host.copy(&json!({}));
    assert_eq!(host.server.count("json"), 0);
    // Unless it is about something that the list does not have.
    let place = host.tree.join("streams/v1/images.json");
    let list = std::fs::read_to_string(&place).unwrap();
    std::fs::write(&place, list.replace("bb/test", "bb/test,bb/new")).unwrap();
    done(&host.daemon, "POST", "/1.0/images", &json!({"source": host.source("bb/new")}));
    host.images().iter().for_each(|image| {
        done(&host.daemon, "DELETE", &format!("/1.0/images/{}", image["fingerprint"].as_str().unwrap()), &json!({}));
    });
    host.age_lists();
    host.server.fault("/streams/v1/index.json", Fault::Status(503));
    host.server.fault("/streams/v1/images.json", Fault::Status(503));
    done(&host.daemon, "POST", "/1.0/instances", &json!({"name": "c", "source": host.source(NAME)}));
    let warnings = get(&host.daemon, "/1.0/warnings?recursion=1");
    let about =
        warnings.as_array().unwrap().iter().find(|warning| warning["type"] == "Image server unavailable").unwrap();
    assert!(about["last_message"].as_str().unwrap().contains("503"), "{about}");
    host.server.mend();
    done(&host.daemon, "DELETE", "/1.0/instances/c", &json!({}));
    done(&host.daemon, "POST", "/1.0/instances", &json!({"name": "c", "source": host.source(NAME)}));
    let warnings = get(&host.daemon, "/1.0/warnings?recursion=1");
    assert_eq!(warnings[0]["status"], "resolved", "{warnings}");
    done(&host.daemon, "DELETE", "/1.0/instances/c", &json!({}));
}

#[test]
fn the_cache_follows_its_server_and_forgets() {
    let host = Host::new();
    done(&host.daemon, "POST", "/1.0/instances", &json!({"name": "c", "source": host.source(NAME)}));
    done(&host.daemon, "DELETE", "/1.0/instances/c", &json!({}));
    let first = host.images()[0].clone();
    let start = now();
    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;
    host.add(1_700_100_000);
    host.at(start + 5 * HOUR);
    assert_eq!(host.images()[0]["fingerprint"], first["fingerprint"], "six hours are not over");
    host.at(start + 7 * HOUR);
    let images = host.images();
    let [second] = images.as_slice() else { panic!("{images:?}") };
    assert_ne!(second["fingerprint"], first["fingerprint"]);
    assert_eq!((&second["cached"], &second["last_used_at"]), (&json!(true), &first["last_used_at"]));
    // Not every interval has something new, and none is looked at when it is 0.
    host.at(start + 14 * HOUR);
    host.daemon.lxc(&["config", "set", "images.auto_update_interval", "0"]).ok();
    host.add(1_700_200_000);
    host.at(start + 9 * DAY);
    assert_eq!(host.images()[0]["fingerprint"], second["fingerprint"]);
    host.daemon.lxc(&["config", "set", "images.remote_cache_expiry", "0"]).ok();
    host.at(start + 900 * DAY);
    assert_eq!(host.images().len(), 1, "0 days is never");
    host.daemon.lxc(&["config", "set", "images.remote_cache_expiry", "3"]).ok();
    host.at(start + 3 * DAY + 60);
    host.nothing_kept();
    // What somebody copied stays.
    host.copy(&json!({}));
    host.at(start + 900 * DAY);
    assert_eq!(host.images().len(), 1);
    host.daemon.lxc(&["config", "set", "images.auto_update_cached", "false"]).ok();
    let image = host.images()[0]["fingerprint"].as_str().unwrap().to_owned();
    done(&host.daemon, "DELETE", &format!("/1.0/images/{image}"), &json!({}));
    done(&host.daemon, "POST", "/1.0/instances", &json!({"name": "c", "source": host.source(NAME)}));
    assert_eq!(host.images()[0]["auto_update"], false);
    done(&host.daemon, "DELETE", "/1.0/instances/c", &json!({}));
}

#[test]
fn mirrors_are_tried_in_order() {
    let host = Host::new();
    let (_, root) = host.files();
    let mirror = ImageServer::start(&host.tree, host.tree.parent().unwrap());
    let servers = format!("{} {}", host.server.url, mirror.url);
    let mut source = host.source(NAME);
    source["server"] = servers.clone().into();
    // Both are vouched for by one file, as the system's authorities are.
    let both = host.server.certificate() + &mirror.certificate();
    std::fs::write(&host.server.ca, both).unwrap();
    host.server.fault(&root, Fault::Flip);
    done(&host.daemon, "POST", "/1.0/images", &json!({"source": source}));
    assert_eq!((host.server.count(&root), mirror.count(&root)), (1, 1));
    assert_eq!(host.images()[0]["update_source"]["server"], servers);
    let image = host.images()[0]["fingerprint"].as_str().unwrap().to_owned();
    done(&host.daemon, "DELETE", &format!("/1.0/images/{image}"), &json!({}));
    host.server.fault("/streams/v1/index.json", Fault::Status(500));
    host.forget_lists();
    done(&host.daemon, "POST", "/1.0/images", &json!({"source": source}));
}

#[test]
fn an_address_of_its_own_tells_of_an_image() {
    let host = Host::new();
    let image = std::fs::read(host.daemon.busybox_unified()).unwrap();
    std::fs::write(host.tree.join("bb.tar.gz"), &image).unwrap();
    let hash = hex::encode(ring::digest::digest(&ring::digest::SHA256, &image));
    let url = format!("{}/image", host.server.url);
    let source = json!({"type": "url", "url": url});
    assert!(host.fails(&source).contains("404"));
    host.server.field("/image", "LXD-Image-Hash", &hash);
    assert!(host.fails(&source).contains("LXD-Image-URL"));
    host.server.field("/image", "LXD-Image-URL", &format!("{}/bb.tar.gz", host.server.url));
    let body = json!({"source": source, "aliases": [{"name": "direct"}]});
    assert_eq!(done(&host.daemon, "POST", "/1.0/images", &body)["metadata"]["fingerprint"], hash);
    let asked = host.server.asked();
    let head = asked.iter().rfind(|asked| asked.path == "/image").unwrap();
    assert_eq!((head.method.as_str(), head.headers["lxd-server-version"].as_str()), ("HEAD", "5.0.2"));
    assert!(head.headers["lxd-server-architectures"].contains("x86_64"));
    assert_eq!(host.images()[0]["properties"]["os"], "busybox");
    host.daemon.lxc(&["image", "refresh", "direct"]).ok();
    let wrong = ImageServer::start(&host.tree, host.tree.parent().unwrap());
    wrong.field("/image", "LXD-Image-Hash", &"0".repeat(64));
    wrong.field("/image", "LXD-Image-URL", "/bb.tar.gz");
    let source = json!({"type": "url", "url": format!("{}/image", wrong.url), "certificate": wrong.certificate()});
    assert!(host.fails(&source).contains("damaged"));
    assert_eq!(host.images().len(), 1);
}

/// Listens over HTTPS: the address and the certificate.
fn listen(daemon: &Daemon) -> (String, String) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    daemon.lxc(&["config", "set", "core.https_address", &format!("127.0.0.1:{port}")]).ok();
    let server = get(daemon, "/1.0");
    (format!("https://127.0.0.1:{port}"), server["environment"]["certificate"].as_str().unwrap().to_owned())
}

#[test]
fn daemons_pull_from_each_other() {
    let (from, to) = (Daemon::ready("overlay"), Daemon::ready("dir"));
    let (url, certificate) = listen(&from);
    let fingerprint = get(&from, "/1.0/images/aliases/bb")["target"].as_str().unwrap().to_owned();
    to.lxc(&["image", "delete", "bb"]).ok();
    let source = |more: Value| {
        let mut source = json!({"type": "image", "mode": "pull", "server": url, "protocol": "lxd",
            "certificate": certificate});
        source.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"source": source})
    };
    let fails = |body: &Value| {
        let (code, error, _) = to.operation("POST", "/1.0/images", &body.to_string());
        assert_eq!(code, 400);
        error
    };
    // One that is not public is not there.
    assert!(fails(&source(json!({"alias": "bb"}))).contains("has no image"));
    assert!(fails(&source(json!({"fingerprint": fingerprint}))).contains("has no image"));
    assert!(fails(&source(json!({"fingerprint": fingerprint, "secret": "0000"}))).contains("has no image"));
    // A secret is for one use.
    let secret = || {
        let (status, answer) = from.api("POST", &format!("/1.0/images/{fingerprint}/secret"), "");
        assert_eq!((status, &answer["metadata"]["class"]), (202, &json!("token")));
        (answer["operation"].as_str().unwrap().to_owned(), answer["metadata"]["metadata"]["secret"].clone())
    };
    let (operation, word) = secret();
    let (status, _) = from.api("DELETE", &operation, "");
    assert_eq!(status, 200);
    assert!(fails(&source(json!({"fingerprint": fingerprint, "secret": word}))).contains("has no image"));
    let (operation, word) = secret();
    let brought = done(&to, "POST", "/1.0/images", &source(json!({"fingerprint": fingerprint, "secret": word})));
    assert_eq!(brought["metadata"]["fingerprint"], fingerprint);
    assert_eq!(get(&from, &operation)["status"], "Cancelled", "it is used up");
    assert!(get(&from, "/1.0/operations").is_object());
    done(&to, "DELETE", &format!("/1.0/images/{fingerprint}"), &json!({}));
    // A public one is for everybody.
    done(&from, "PATCH", &format!("/1.0/images/{fingerprint}"), &json!({"public": true}));
    let body = json!({"name": "c", "source": source(json!({"alias": "bb"}))["source"]});
    done(&to, "POST", "/1.0/instances", &body);
    let image = get(&to, &format!("/1.0/images/{fingerprint}"));
    assert_eq!((&image["cached"], &image["update_source"]["alias"]), (&json!(true), &json!("bb")));
    assert_eq!(image["properties"], json!({"os": "busybox"}));
    to.lxc(&["start", "c"]).ok();
    to.lxc(&["delete", "--force", "c"]).ok();
    assert!(fails(&source(json!({"alias": "nosuch"}))).contains("has no image"));
    // From a project there.
    done(&from, "POST", "/1.0/projects", &json!({"name": "blue"}));
    assert!(fails(&source(json!({"alias": "bb", "project": "blue"}))).contains("has no image"));
}

#[test]
fn daemons_serve_each_other_by_streams() {
    let (from, to) = (Daemon::ready("overlay"), Daemon::ready("dir"));
    let (url, certificate) = listen(&from);
    let unified = from.busybox_unified();
    from.lxc(&["image", "import", unified.to_str().unwrap(), "--alias", "uni/1", "--public"]).ok();
    let split = get(&from, "/1.0/images/aliases/bb")["target"].as_str().unwrap().to_owned();
    done(&from, "PATCH", &format!("/1.0/images/{split}"), &json!({"public": true}));
    to.lxc(&["image", "delete", "bb"]).ok();
    for (alias, instance) in [("bb", "c1"), ("uni/1", "c2"), ("uni/1/amd64", "c3")] {
        let source = json!({"type": "image", "mode": "pull", "server": url, "protocol": "simplestreams",
            "certificate": certificate, "alias": alias});
        done(&to, "POST", "/1.0/instances", &json!({"name": instance, "source": source}));
        to.lxc(&["start", instance]).ok();
        to.lxc(&["delete", "--force", instance]).ok();
    }
    let images = get(&to, "/1.0/images?recursion=1");
    assert_eq!(images.as_array().unwrap().len(), 2);
    assert!(get(&to, &format!("/1.0/images/{split}"))["cached"] == true);
    // The stock client calls the name of an image that is for everybody a fingerprint; this one looks like the beginning of one.
    for protocol in ["simplestreams", "lxd"] {
        let source = json!({"type": "image", "mode": "pull", "server": url, "protocol": protocol,
            "certificate": certificate, "fingerprint": "bb"});
        done(&to, "DELETE", &format!("/1.0/images/{split}"), &json!({}));
        done(&to, "POST", "/1.0/images", &json!({"source": source}));
        assert_eq!(get(&to, &format!("/1.0/images/{split}"))["cached"], false, "{protocol}");
    }
}

/// The certificate of a daemon's stock client, trusted by another one.
fn introduce(client: &Daemon, name: &str, to: &Daemon, url: &str) {
    to.lxc(&["config", "set", "core.trust_password", "word"]).ok();
    client.lxc(&["remote", "add", name, url, "--accept-certificate", "--password", "word"]).ok();
}

#[test]
fn both_clients_copy_between_daemons_in_each_mode() {
    let (from, to) = (Daemon::ready("overlay"), Daemon::ready("overlay"));
    let (url, _) = listen(&to);
    introduce(&from, "to", &to, &url);
    // The source must be reached from the target, too.
    let (own, _) = listen(&from);
    introduce(&from, "from", &from, &own);
    let fingerprint = get(&from, "/1.0/images/aliases/bb")["target"].as_str().unwrap().to_owned();
    let unified = from.busybox_unified();
    from.lxc(&["image", "import", unified.to_str().unwrap(), "--alias", "uni"]).ok();
    to.lxc(&["image", "delete", "bb"]).ok();
    let own_client = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_warren"));
        command.env("WARREN_DIR", from.state()).env("HOME", from.root.join("own")).stdin(Stdio::null());
        said(command.args(words))
    };
    for (name, url) in [("to", &url), ("from", &own)] {
        own_client(&["remote", "add", name, url, "--accept-certificate", "--password", "word"]).ok();
    }
    for (mode, is_stock) in ["pull", "push", "relay"].into_iter().flat_map(|mode| [(mode, true), (mode, false)]) {
        for image in ["bb", "uni"] {
            let alias = format!("{image}-{mode}");
            let arguments =
                ["image", "copy", &format!("from:{image}"), "to:", "--mode", mode, "--alias", &alias, "--copy-aliases"];
            println!("{mode} {image}");
            if is_stock { from.lxc(&arguments) } else { own_client(&arguments) }.ok();
            let target = get(&to, &format!("/1.0/images/aliases/{alias}"))["target"].clone();
            assert_eq!(target, get(&from, &format!("/1.0/images/aliases/{image}"))["target"], "{mode}");
            assert_eq!(get(&to, &format!("/1.0/images/aliases/{image}"))["target"], target, "{mode}");
            let shown = get(&to, &format!("/1.0/images/{}", target.as_str().unwrap()));
            assert_eq!((&shown["properties"]["os"], &shown["public"]), (&json!("busybox"), &json!(false)), "{mode}");
            done(&to, "DELETE", &format!("/1.0/images/{}", target.as_str().unwrap()), &json!({}));
        }
    }
    // A private image of another one, for an instance.
    from.lxc(&["image", "copy", "from:bb", "to:", "--alias", "only"]).ok();
    from.lxc(&["image", "delete", "bb"]).ok();
    from.lxc(&["launch", "to:only", "c"]).ok();
    let shown = get(&from, &format!("/1.0/images/{fingerprint}"));
    // What has no name for everybody there has nothing newer to follow.
    assert_eq!((&shown["cached"], &shown["update_source"]), (&json!(true), &json!(null)));
    from.lxc(&["delete", "--force", "c"]).ok();
    to.lxc(&["image", "delete", "only"]).ok();
    // Nobody but who was asked to may send one.
    let bytes = std::fs::read(&unified).unwrap();
    let body = json!({"target": url, "secret": "00", "certificate": ""});
    let (code, error, _) = from.operation("POST", &format!("/1.0/images/{fingerprint}/export"), &body.to_string());
    assert!(code == 400 && error.contains("not who it should be"), "{error}");
    let certificate = get(&to, "/1.0")["environment"]["certificate"].clone();
    let body = json!({"target": url, "secret": "00", "certificate": certificate});
    let (code, error, _) = from.operation("POST", &format!("/1.0/images/{fingerprint}/export"), &body.to_string());
    assert!(code == 400 && error.contains("not authorized"), "{error}");
    refused(&from, "POST", &format!("/1.0/images/{fingerprint}/export"), &json!({"target": url}), 400, "secret");
    let body = json!({"target": "smb://x", "secret": "00"});
    refused(&from, "POST", &format!("/1.0/images/{fingerprint}/export"), &body, 400, "https://");
    assert_eq!(get(&to, "/1.0/images"), json!([]));
    drop(bytes);
}

/// A project whose `limits.disk` has no room fetches nothing; others are not kept from the same image by that.
#[test]
fn a_project_without_room_fetches_nothing() {
    let host = Host::new();
    for (name, limit) in [("p", "100kB"), ("q", "100MB")] {
        let config = json!({"features.images": "true", "features.profiles": "false", "limits.disk": limit});
        done(&host.daemon, "POST", "/1.0/projects", &json!({"name": name, "config": config}));
    }
    let body = json!({"source": host.source(NAME)}).to_string();
    let (code, error, _) = host.daemon.operation("POST", "/1.0/images?project=p", &body);
    assert!(code == 400 && error.contains("\"100kB\" for \"limits.disk\" in project \"p\""), "{error}");
    let (_, root) = host.files();
    assert_eq!(host.server.count(&root), 0);
    host.nothing_kept();
    done(&host.daemon, "POST", "/1.0/images?project=q", &json!({"source": host.source(NAME)}));
    // What lies there already counts in a project that takes it as its own.
    let (code, error, _) = host.daemon.operation("POST", "/1.0/images?project=p", &body);
    assert!(code == 400 && error.contains("limits.disk"), "{error}");
    assert_eq!(get(&host.daemon, "/1.0/images?project=p"), json!([]));
}

/// An image that is here follows its own name on, whatever others come to be it.
#[test]
fn a_refresh_that_lands_on_another_image_leaves_it_its_source() {
    let (from, to) = (Daemon::ready("dir"), Daemon::ready("dir"));
    let (url, certificate) = listen(&from);
    to.lxc(&["image", "delete", "bb"]).ok();
    let unified = from.busybox_unified();
    from.lxc(&["image", "import", unified.to_str().unwrap(), "--alias", "uni"]).ok();
    let target =
        |alias: &str| get(&from, &format!("/1.0/images/aliases/{alias}"))["target"].as_str().unwrap().to_owned();
    let (first, second) = (target("bb"), target("uni"));
    for image in [&first, &second] {
        done(&from, "PATCH", &format!("/1.0/images/{image}"), &json!({"public": true}));
    }
    done(&from, "POST", "/1.0/images/aliases", &json!({"name": "moves", "target": first}));
    for (alias, own) in [("uni", "stays"), ("moves", "follows")] {
        let source = json!({"type": "image", "mode": "pull", "server": url, "protocol": "lxd",
            "certificate": certificate, "alias": alias});
        done(&to, "POST", "/1.0/images", &json!({"source": source, "auto_update": true, "aliases": [{"name": own}]}));
    }
    let here = |alias: &str| get(&to, &format!("/1.0/images/aliases/{alias}"))["target"].clone();
    done(&from, "PUT", "/1.0/images/aliases/moves", &json!({"target": second}));
    done(&to, "POST", &format!("/1.0/images/{first}/refresh"), &json!({}));
    assert_eq!((here("stays"), here("follows")), (json!(second), json!(second)));
    let source = || get(&to, &format!("/1.0/images/{second}"))["update_source"]["alias"].clone();
    assert_eq!(source(), "uni");
    // Nor does one that is asked for once more by another name.
    let again = json!({"type": "image", "mode": "pull", "server": url, "protocol": "lxd",
        "certificate": certificate, "alias": "moves"});
    done(&to, "POST", "/1.0/images", &json!({"source": again}));
    assert_eq!(source(), "uni");
    done(&from, "PUT", "/1.0/images/aliases/moves", &json!({"target": first}));
    done(&to, "POST", &format!("/1.0/images/{second}/refresh"), &json!({}));
    assert_eq!(here("stays"), json!(second));
}
