//! Public images by simplestreams: what is listed, that sizes and hashes are true, ranges, HEAD, caches, and that nothing else
//! is shown.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::process::{Command, Stdio};

use serde_json::Value;
use support::tls::local;
use support::{Daemon, Said, eventually, run, said};

fn sha256(bytes: &[u8]) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, bytes))
}

fn products(daemon: &Daemon) -> Value {
    daemon.ask("GET", "/streams/v1/images.json", &[], b"").is(200).json()["products"].clone()
}

/// The product that has this alias, with its only version's items.
#[track_caller]
fn product(daemon: &Daemon, alias: &str) -> (Value, Value) {
    let products = products(daemon);
    let has = |product: &&Value| product["aliases"].as_str().unwrap().split(',').any(|one| one == alias);
    let product = products.as_object().unwrap().values().find(has).unwrap_or_else(|| panic!("{alias}: {products}"));
    let versions = product["versions"].as_object().unwrap();
    assert_eq!(versions.len(), 1);
    (product.clone(), versions.values().next().unwrap()["items"].clone())
}

fn fingerprint(daemon: &Daemon, alias: &str) -> String {
    let path = format!("/1.0/images/aliases/{alias}");
    daemon.api("GET", &path, "").1["metadata"]["target"].as_str().unwrap().to_owned()
}

/// Fetches an item and checks what is told of it.
#[track_caller]
fn fetch(daemon: &Daemon, item: &Value) -> Vec<u8> {
    let body = daemon.ask("GET", &format!("/{}", item["path"].as_str().unwrap()), &[], b"").is(200).body;
    assert_eq!(body.len() as u64, item["size"].as_u64().unwrap());
    assert_eq!(sha256(&body), item["sha256"].as_str().unwrap());
    body
}

fn public(daemon: &Daemon, alias: &str, public: bool) {
    let path = format!("/1.0/images/{}", fingerprint(daemon, alias));
    assert_eq!(daemon.api("PATCH", &path, &serde_json::json!({"public": public}).to_string()).0, 200);
}

#[test]
fn public_images_are_products_with_true_sizes_and_hashes() {
    let daemon = Daemon::ready("dir");
    let unified = daemon.busybox_unified();
    let tar = daemon.root.join("root.tar");
    run(Command::new("tar").arg("-C").arg(daemon.root.join("tree/rootfs")).arg("-cf").arg(&tar).arg("."));
    let (meta, _) = daemon.busybox();
    daemon.lxc(&["image", "import", unified.to_str().unwrap(), "--alias", "uni", "--public"]).ok();
    let split = ["image", "import", meta.to_str().unwrap(), tar.to_str().unwrap(), "--alias", "tar/1"];
    daemon.lxc(&[&split[..], &["--public", "release=one", "variant=small"]].concat()).ok();
    // `bb` is a squashfs, and private.
    assert_eq!(products(&daemon).as_object().unwrap().len(), 2);
    public(&daemon, "bb", true);
    daemon.lxc(&["image", "alias", "create", "bb/more", &fingerprint(&daemon, "bb")]).ok();

    let index = daemon.ask("GET", "/streams/v1/index.json", &[], b"").is(200).json();
    assert_eq!(index["format"], "index:1.0");
    let listed = &index["index"]["images"];
    assert_eq!(
        (listed["path"].as_str(), listed["format"].as_str()),
        (Some("streams/v1/images.json"), Some("products:1.0"))
    );
    let names: Vec<&Value> = listed["products"].as_array().unwrap().iter().collect();
    let products = products(&daemon);
    assert_eq!(names.len(), 3);
    assert!(names.iter().all(|name| products.get(name.as_str().unwrap()).is_some()));

    let (shown, items) = product(&daemon, "bb/more");
    assert_eq!((shown["arch"].as_str(), shown["os"].as_str()), (Some("amd64"), Some("busybox")));
    assert_eq!(shown["versions"].as_object().unwrap().keys().next().unwrap(), "20231114_2213");
    let parts = [fetch(&daemon, &items["lxd.tar.xz"]), fetch(&daemon, &items["squashfs"])].concat();
    assert_eq!(sha256(&parts), fingerprint(&daemon, "bb"));
    // The same by the words of both families of clients.
    for name in ["lxd.tar.xz", "incus.tar.xz"] {
        assert_eq!(items[name]["combined_squashfs_sha256"], fingerprint(&daemon, "bb"));
        assert_eq!(items[name]["path"], items["lxd.tar.xz"]["path"]);
    }

    let (shown, items) = product(&daemon, "tar/1");
    assert_eq!((shown["release"].as_str(), shown["variant"].as_str()), (Some("one"), Some("small")));
    let parts = [fetch(&daemon, &items["lxd.tar.xz"]), fetch(&daemon, &items["root.tar.xz"])].concat();
    assert_eq!(sha256(&parts), items["lxd.tar.xz"]["combined_rootxz_sha256"].as_str().unwrap());

    let (_, items) = product(&daemon, "uni");
    assert_eq!(sha256(&fetch(&daemon, &items["lxd_combined.tar.gz"])), fingerprint(&daemon, "uni"));

    // Private again: at once neither listed nor to be had.
    let path = format!("/{}", items["lxd_combined.tar.gz"]["path"].as_str().unwrap());
    public(&daemon, "uni", false);
    daemon.ask("GET", &path, &[], b"").refused(404, "Image not found");
    assert_eq!(self::products(&daemon).as_object().unwrap().len(), 2);
    daemon.lxc(&["image", "delete", "bb"]).ok();
    assert_eq!(self::products(&daemon).as_object().unwrap().len(), 1);
}

#[test]
fn hashes_are_made_before_anybody_asks_and_kept() {
    let mut daemon = Daemon::ready("dir");
    public(&daemon, "bb", true);
    let place = daemon.state().join("images").join(format!("{}.parts", fingerprint(&daemon, "bb")));
    eventually("the hashes are there", || place.exists());
    let made = std::fs::metadata(&place).unwrap().modified().unwrap();
    // The next daemon believes them; without them it makes them anew, at its start.
    daemon.kill();
    daemon.start();
    let (_, items) = product(&daemon, "bb");
    fetch(&daemon, &items["squashfs"]);
    assert_eq!(std::fs::metadata(&place).unwrap().modified().unwrap(), made);
    daemon.kill();
    std::fs::write(&place, "{\"meta\":").unwrap();
    daemon.start();
    eventually("the hashes are whole", || std::fs::metadata(&place).unwrap().len() > 100);
    assert_eq!(product(&daemon, "bb").1, items);
}

#[test]
fn parts_of_files_are_sent_and_caches_spared() {
    let daemon = Daemon::ready("dir");
    public(&daemon, "bb", true);
    let (_, items) = product(&daemon, "bb");
    let whole = fetch(&daemon, &items["squashfs"]);
    let path = format!("/{}", items["squashfs"]["path"].as_str().unwrap());
    let head = daemon.ask("HEAD", &path, &[], b"").is(200);
    assert_eq!(
        (head.header("content-length"), head.header("accept-ranges")),
        (whole.len().to_string().as_str(), "bytes")
    );
    let etag = head.header("etag").to_owned();
    let part =
        |range: &str, more: &[(&str, &str)]| daemon.ask("GET", &path, &[&[("Range", range)], more].concat(), b"");
    let answer = part("bytes=100-199", &[]).is(206);
    assert_eq!(answer.body, &whole[100..200]);
    assert_eq!(answer.header("content-range"), format!("bytes 100-199/{}", whole.len()));
    assert_eq!(part("bytes=300000-", &[("If-Range", &etag)]).is(206).body, &whole[300_000..]);
    assert_eq!(part("bytes=-7", &[]).is(206).body, &whole[whole.len() - 7..]);
    // Of another file it wants the whole.
    assert_eq!(part("bytes=100-199", &[("If-Range", "\"other\"")]).is(200).body.len(), whole.len());
    let beyond = part(&format!("bytes={}-", whole.len()), &[]).is(416);
    assert_eq!(beyond.header("content-range"), format!("bytes */{}", whole.len()));
    assert!(daemon.ask("GET", &path, &[("If-None-Match", &etag)], b"").is(304).body.is_empty());
    let list = daemon.ask("GET", "/streams/v1/images.json", &[], b"").is(200);
    assert!(list.header("cache-control").contains("no-cache"));
    let etag = list.header("etag").to_owned();
    daemon.ask("GET", "/streams/v1/images.json", &[("If-None-Match", &etag)], b"").is(304);
    daemon.lxc(&["image", "alias", "create", "another", &fingerprint(&daemon, "bb")]).ok();
    daemon.ask("GET", "/streams/v1/images.json", &[("If-None-Match", &etag)], b"").is(200);
    assert_eq!(
        daemon.ask("HEAD", "/streams/v1/index.json", &[], b"").is(200).header("content-type"),
        "application/json"
    );
}

#[test]
fn strangers_see_public_images_and_nothing_else() {
    let daemon = Daemon::ready("dir");
    let secret = fingerprint(&daemon, "bb");
    // Of this process, and free: nobody else is given it meanwhile.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    daemon.lxc(&["config", "set", "core.https_address", &address]).ok();
    let curl = |path: &str, more: &[&str]| -> Said {
        let url = format!("https://{address}{path}");
        let output = Command::new("curl").args(["-sS", "-k", "-f"]).args(more).arg(url).output().unwrap();
        Said {
            code: output.status.code().unwrap(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    };
    assert!(!curl("/streams/v1/images.json", &[]).ok().contains(&secret));
    for path in [
        format!("/images/{secret}/root.squashfs"),
        format!("/images/{secret}/lxd.tar.xz"),
        format!("/images/{}/root.squashfs", "0".repeat(64)),
        "/images/..%2f..%2fdatabase/global".to_owned(),
        format!("/images/{secret}/..%2F..%2Fserver.key"),
    ] {
        curl(&path, &[]).refused("404");
    }
    public(&daemon, "bb", true);
    assert!(curl("/streams/v1/images.json", &[]).ok().contains(&secret));
    curl(&format!("/images/{secret}/root.squashfs"), &["-o", "/dev/null", "-r", "0-10"]).ok();
    curl(&format!("/images/{secret}/combined.tar.gz"), &[]).refused("404");
    curl(&format!("/images/{}/root.squashfs", &secret[..12]), &[]).refused("404");
    curl("/streams/v1/images.json", &["-X", "POST"]).refused("403");
    // Of another project, not even public ones.
    daemon.lxc(&["project", "create", "other"]).ok();
    let unified = daemon.busybox_unified();
    daemon.lxc(&["--project", "other", "image", "import", unified.to_str().unwrap(), "--public"]).ok();
    assert_eq!(products(&daemon).as_object().unwrap().len(), 1);
    // Switched off, there is nothing; what LXD's protocol shows stays.
    daemon.lxc(&["config", "set", "images.streams", "false"]).ok();
    for path in ["/streams/v1/index.json", "/streams/v1/images.json", &format!("/images/{secret}/root.squashfs")] {
        curl(path, &[]).refused("404");
    }
    assert!(curl("/1.0/images", &[]).ok().contains(&secret));
}

/// What both clients show and fetch of an image server that is only that.
#[test]
fn both_clients_show_and_export_what_an_image_server_has() {
    let daemon = Daemon::ready("dir");
    let unified = daemon.busybox_unified();
    daemon.lxc(&["image", "import", unified.to_str().unwrap(), "--alias", "uni"]).ok();
    ["bb", "uni"].iter().for_each(|alias| public(&daemon, alias, true));
    let port = local(&daemon).port();
    let run = |program: &str, words: &str| {
        let mut command = Command::new(program);
        let home = daemon.root.join(if program == "lxc" { "stock" } else { "own" });
        std::fs::create_dir_all(&home).unwrap();
        command.env("HOME", &home).env("LXD_DIR", daemon.state()).env("WARREN_DIR", daemon.state());
        command.env("SSL_CERT_FILE", daemon.state().join("server.crt")).current_dir(&home).stdin(Stdio::null());
        let said = said(command.args(words.split_whitespace()));
        assert_eq!(said.code, 0, "{program} {words}: {}", said.err);
        said.out
    };
    let own = env!("CARGO_BIN_EXE_warren");
    for program in ["lxc", own] {
        run(program, &format!("remote add st https://localhost:{port} --protocol simplestreams --public"));
        for image in ["bb", "uni"] {
            std::fs::create_dir_all(daemon.root.join(if program == "lxc" { "stock" } else { "own" }).join(image))
                .unwrap();
            run(program, &format!("image export st:{image} {image}"));
            run(program, &format!("image export st:{image} named-{image}"));
            assert_eq!(run(program, &format!("image get-property st:{image} os")), "busybox\n");
        }
    }
    for words in ["image list st: -f csv -c fpat", "image show st:uni", "image info st:bb/amd64"] {
        // The stock client shows each alias with its architecture, too.
        let plain = |text: String| -> Vec<String> {
            let known = |line: &&str| !line.contains("/amd64");
            let mut lines: Vec<String> = text.lines().filter(known).map(str::to_owned).collect();
            // Properties have no order there.
            lines.sort();
            lines
        };
        assert_eq!(plain(run("lxc", words)), plain(run(own, words)), "{words}");
    }
    assert!(run(own, "image alias list st:un -f csv").starts_with("uni,"));
    let (stock, ours) = (daemon.root.join("stock"), daemon.root.join("own"));
    for image in ["bb", "uni"] {
        for entry in std::fs::read_dir(stock.join(image)).unwrap().flatten() {
            let same = std::fs::read(ours.join(image).join(entry.file_name())).unwrap();
            assert_eq!(std::fs::read(entry.path()).unwrap(), same, "{:?}", entry.file_name());
        }
    }
    let named =
        std::fs::read_dir(&ours).unwrap().flatten().filter(|e| e.file_name().to_string_lossy().starts_with("named"));
    assert_eq!(named.count(), 3);
}
