//! Instances that become images, and what is made of those again.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use support::api::{done, get, refused};
use support::instances::{pulled, push};
use support::tree::{Facts, facts, zoo};
use support::{Daemon, eventually, run};

/// Where the root of an instance of a pool `dir` lies.
fn rootfs(daemon: &Daemon, pool: &str, name: &str) -> PathBuf {
    daemon.state().join("storage-pools").join(pool).join("containers").join(name).join("rootfs")
}

/// Publishes; what the operation tells.
#[track_caller]
fn publish(daemon: &Daemon, source: &str, more: &Value) -> Value {
    let kind = if source.contains('/') { "snapshot" } else { "instance" };
    let mut body = json!({"source": {"type": kind, "name": source}});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    done(daemon, "POST", "/1.0/images", &body)["metadata"].clone()
}

#[track_caller]
fn fingerprint(daemon: &Daemon, source: &str, more: &Value) -> String {
    publish(daemon, source, more)["fingerprint"].as_str().unwrap().to_owned()
}

fn file_of(daemon: &Daemon, fingerprint: &str) -> PathBuf {
    daemon.state().join("images").join(fingerprint)
}

#[track_caller]
fn alike(one: &BTreeMap<PathBuf, Facts>, other: &BTreeMap<PathBuf, Facts>) {
    let names = |facts: &BTreeMap<PathBuf, Facts>| facts.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(one), names(other));
    for (name, facts) in one {
        let brief = |facts: &Facts| Facts { content: Vec::new(), ..clone(facts) };
        assert_eq!(brief(facts), brief(&other[name]), "{}", name.display());
        assert!(facts.content == other[name].content, "the content of {}", name.display());
    }
}

fn clone(facts: &Facts) -> Facts {
    Facts { first: facts.first.clone(), attributes: facts.attributes.clone(), content: facts.content.clone(), ..*facts }
}

/// A squashfs has whole seconds, none before 1970, and no ACLs.
fn as_squashfs(facts: &mut BTreeMap<PathBuf, Facts>) {
    for facts in facts.values_mut() {
        facts.modified = (facts.modified.0.max(0), 0);
        facts.attributes.retain(|name, _| !name.starts_with("system."));
    }
}

const ALL: &[&str] = &["none", "gzip", "bzip2 -1", "xz -0", "lzma -0", "zstd", "squashfs"];

/// The same whatever packs it, for our own unpacker, for GNU tar and for unsquashfs.
#[test]
fn every_kind_of_file_comes_out_as_it_was() {
    let daemon = Daemon::ready("dir");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    let source = rootfs(&daemon, "p", "c1");
    std::fs::create_dir(source.join("zoo")).unwrap();
    zoo(&source.join("zoo"));
    drop(std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap());
    let mut before = facts(&source);
    // Nothing can be done with one that nobody listens on.
    before.remove(Path::new("socket"));
    for compression in ALL {
        let image = fingerprint(&daemon, "c1", &json!({"compression_algorithm": compression}));
        daemon.lxc(&["init", &image, "c2"]).ok();
        let mut launched = facts(&rootfs(&daemon, "p", "c2"));
        if *compression == "squashfs" {
            as_squashfs(&mut before);
            as_squashfs(&mut launched);
        }
        alike(&before, &launched);
        let sparse = std::fs::metadata(rootfs(&daemon, "p", "c2").join("zoo/sparse")).unwrap();
        assert!(std::os::unix::fs::MetadataExt::blocks(&sparse) < 2048, "{compression}: its holes are filled");
        let out = daemon.root.join("out");
        std::fs::create_dir(&out).unwrap();
        if *compression == "squashfs" {
            run(Command::new("unsquashfs")
                .args(["-quiet", "-no-progress", "-force", "-dest"])
                .arg(&out)
                .arg(file_of(&daemon, &image)));
        } else {
            let options = ["--numeric-owner", "--xattrs", "--xattrs-include=*"];
            // It knows this one by no magic number.
            let lzma: &[&str] = if compression.starts_with("lzma") { &["--lzma"] } else { &[] };
            run(Command::new("tar")
                .arg("-C")
                .arg(&out)
                .args(options)
                .args(lzma)
                .arg("-xpf")
                .arg(file_of(&daemon, &image)));
        }
        let mut unpacked = facts(&out.join("rootfs"));
        if *compression == "squashfs" {
            as_squashfs(&mut unpacked);
            as_squashfs(&mut before);
        }
        alike(&before, &unpacked);
        before = facts(&source);
        before.remove(Path::new("socket"));
        std::fs::remove_dir_all(out).unwrap();
        daemon.lxc(&["delete", "c2"]).ok();
        daemon.lxc(&["image", "delete", &image]).ok();
    }
}

/// Wherever it lies, and however many processors pack it.
#[test]
fn the_same_files_give_the_same_fingerprint() {
    let mut daemon = Daemon::ready("dir");
    daemon.lxc(&["storage", "create", "q", "overlay"]).ok();
    daemon.lxc(&["init", "bb", "c1"]).ok();
    let zoo_dir = rootfs(&daemon, "p", "c1").join("root/zoo");
    std::fs::create_dir(&zoo_dir).unwrap();
    zoo(&zoo_dir);
    // More than one piece for every compressor.
    let text: String = (0..400_000).map(|number| format!("line {number}\n")).collect();
    std::fs::write(zoo_dir.join("text"), text).unwrap();
    daemon.lxc(&["copy", "c1", "c2", "-s", "q"]).ok();
    daemon.lxc(&["snapshot", "c2", "s"]).ok();
    let all = |daemon: &Daemon, source: &str| -> Vec<String> {
        let one = |compression: &&str| {
            let image = fingerprint(daemon, source, &json!({"compression_algorithm": compression}));
            daemon.lxc(&["image", "delete", &image]).ok();
            image
        };
        // mksquashfs has no other date than its clock's for a root with a file from the future in it.
        let comparable = |compression: &&&str| source.starts_with("c3") || **compression != "squashfs";
        ALL.iter().filter(comparable).map(one).collect()
    };
    daemon.lxc(&["init", "bb", "c3"]).ok();
    daemon.lxc(&["file", "push", zoo_dir.join("text").to_str().unwrap(), "c3/root/text"]).ok();
    let plain = all(&daemon, "c3");
    assert_eq!(plain.len(), ALL.len());
    // Not that of the same second.
    let second = std::time::SystemTime::now();
    eventually("the next second", || second.elapsed().unwrap().as_secs() >= 1);
    assert_eq!(plain, all(&daemon, "c3"));
    let first = all(&daemon, "c1");
    assert_eq!(first, all(&daemon, "c2"));
    assert_eq!(first, all(&daemon, "c2/s"));
    daemon.terminate();
    daemon.spawn_by(&["taskset", "-c", "0"]);
    daemon.verb(&["waitready", "--timeout", "20"]).ok();
    assert_eq!(first, all(&daemon, "c1"));
    assert_eq!(plain, all(&daemon, "c3"));
    // A copy of an image is an image that is there.
    let image = fingerprint(&daemon, "c1", &json!({}));
    let body = json!({"source": {"type": "instance", "name": "c2"}}).to_string();
    let (code, error, told) = daemon.operation("POST", "/1.0/images", &body);
    assert!(code == 400 && error.contains("already exists"), "{error}");
    assert_eq!(told["fingerprint"], image.as_str());
    // One that differs in a single bit is another one.
    push(&daemon, "c2/root/new", "");
    assert_ne!(fingerprint(&daemon, "c2", &json!({})), image);
}

/// Nothing of what a running one is published from stays, and it goes on.
fn running(driver: &str) {
    let daemon = Daemon::ready(driver);
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    push(&daemon, "c1/root/f", "running");
    let pid = daemon.instance_pid("c1");
    let told = publish(&daemon, "c1", &json!({"aliases": [{"name": "r", "description": "of a running one"}]}));
    assert_eq!(told.as_object().unwrap().len(), 2, "{told}");
    assert_eq!((daemon.status("c1"), daemon.instance_pid("c1")), ("Running".to_owned(), pid));
    daemon.lxc(&["pause", "c1"]).ok();
    publish(&daemon, "c1", &json!({"compression_algorithm": "none", "aliases": [{"name": "p"}]}));
    assert_eq!(daemon.status("c1"), "Frozen");
    for image in ["r", "p"] {
        daemon.lxc(&["launch", image, "c2"]).ok();
        assert_eq!(pulled(&daemon, "c2/root/f"), "running");
        daemon.lxc(&["delete", "--force", "c2"]).ok();
    }
    let new = daemon.state().join("storage-pools/p/.new");
    assert_eq!(std::fs::read_dir(new).unwrap().count(), 0);
}

#[test]
fn a_running_instance_is_published_on_dir() {
    running("dir");
}

#[test]
fn a_running_instance_is_published_on_overlay() {
    running("overlay");
}

#[test]
fn a_running_instance_is_published_on_btrfs() {
    running("btrfs");
}

#[test]
fn the_stock_client_publishes() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    let said = daemon.lxc(&["publish", "c1", "--alias", "first", "os=changed", "added=yes"]).ok();
    assert!(said.contains("Instance published with fingerprint: "), "{said}");
    let shown = get(&daemon, "/1.0/images/aliases/first");
    let image = get(&daemon, &format!("/1.0/images/{}", shown["target"].as_str().unwrap()));
    assert_eq!(image["properties"], json!({"os": "changed", "added": "yes"}));
    assert_eq!(
        (&image["public"], &image["type"], &image["architecture"]),
        (&json!(false), &json!("container"), &json!("x86_64"))
    );
    assert_eq!(image["expires_at"], "1970-01-01T00:00:00Z");

    // Without properties it has those of its image; the alias moves.
    let more = ["--public", "--expire", "2040-01-01T00:00:00Z", "--compression", "zstd -1"];
    daemon.lxc(&[&["publish", "c1", "--alias", "first"][..], &more].concat()).ok();
    let second = get(&daemon, "/1.0/images/aliases/first");
    assert_ne!(second["target"], shown["target"]);
    let image = get(&daemon, &format!("/1.0/images/{}", second["target"].as_str().unwrap()));
    assert_eq!((&image["properties"], &image["public"]), (&json!({"os": "busybox"}), &json!(true)));
    assert_eq!(image["expires_at"], "2040-01-01T00:00:00Z");
    let head = std::fs::read(file_of(&daemon, second["target"].as_str().unwrap())).unwrap();
    assert_eq!(head[..4], [0x28, 0xb5, 0x2f, 0xfd]);

    // Of a snapshot: what it had.
    push(&daemon, "c1/root/f", "then");
    daemon.lxc(&["snapshot", "c1", "s0"]).ok();
    push(&daemon, "c1/root/f", "now");
    daemon.lxc(&["publish", "c1/s0", "--alias", "snap"]).ok();
    daemon.lxc(&["init", "snap", "c2"]).ok();
    assert_eq!(pulled(&daemon, "c2/root/f"), "then");

    daemon.lxc(&["start", "c1"]).ok();
    daemon.lxc(&["publish", "c1"]).refused("--force");
    daemon.lxc(&["publish", "c1", "--force", "--alias", "forced"]).ok();
    assert_eq!(daemon.status("c1"), "Running");
    daemon.lxc(&["launch", "forced", "c3"]).ok();
    assert_eq!(pulled(&daemon, "c3/root/f"), "now");

    for (arguments, word) in [
        (&["publish", "nosuch"][..], "not found"),
        (&["publish", "c1/nosuch"], "not found"),
        (&["publish", "c2", "--compression", "nosuch"], "\"nosuch\""),
        (&["publish", "c2", "--compression", "gzip -r"], "-1 to -9"),
        (&["publish", "c2", "--expire", "soon"], "soon"),
    ] {
        daemon.lxc(arguments).refused(word);
    }
}

/// What a template of the image says, and what becomes of the metadata.
#[test]
fn metadata_and_templates_go_along() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    let metadata = json!({
        "architecture": "x86_64", "creation_date": 5, "expiry_date": 1_000_000_000, "properties": {"os": "x", "n": "1"},
        "templates": {"/etc/t": {"when": ["create"], "template": "t.tpl", "create_only": true, "properties": {"a": "b"}}},
    });
    done(&daemon, "PUT", "/1.0/instances/c1/metadata", &metadata);
    daemon.api_raw("POST", "/1.0/instances/c1/metadata/templates?path=t.tpl", &[], b"text {{ trigger }}");
    let image = fingerprint(&daemon, "c1", &json!({}));
    let shown = get(&daemon, &format!("/1.0/images/{image}"));
    assert_eq!((&shown["properties"], &shown["expires_at"]), (&metadata["properties"], &json!("1970-01-01T00:00:00Z")));
    daemon.lxc(&["init", &image, "c2"]).ok();
    let copied = get(&daemon, "/1.0/instances/c2/metadata");
    assert_eq!((&copied["templates"], &copied["expiry_date"]), (&metadata["templates"], &json!(0)));
    assert_ne!(copied["creation_date"], 5);
    let (_, text) = daemon.request("GET", "/1.0/instances/c2/metadata/templates?path=t.tpl", &[], b"");
    assert!(text.contains("text {{ trigger }}"), "{text}");

    // One that says nothing about itself can be published, too.
    let volume = daemon.state().join("storage-pools/p/containers/c1");
    std::fs::remove_file(volume.join("metadata.yaml")).unwrap();
    std::fs::remove_dir_all(volume.join("templates")).unwrap();
    let image = fingerprint(
        &daemon,
        "c1",
        &json!({"properties": {"x": "y"}, "expires_at": "2040-01-01T00:00:00Z", "filename": "f"}),
    );
    let shown = get(&daemon, &format!("/1.0/images/{image}"));
    assert_eq!((&shown["architecture"], &shown["filename"]), (&json!("x86_64"), &json!("f")));
    daemon.lxc(&["init", &image, "c3"]).ok();
    let copied = get(&daemon, "/1.0/instances/c3/metadata");
    assert_eq!((&copied["properties"], &copied["expiry_date"]), (&json!({"x": "y"}), &json!(2_208_988_800_i64)));

    // Links lead nowhere.
    std::os::unix::fs::symlink("/etc/hostname", volume.join("metadata.yaml")).unwrap();
    let body = json!({"source": {"type": "instance", "name": "c1"}}).to_string();
    let (code, error, _) = daemon.operation("POST", "/1.0/images", &body);
    assert!(code == 400 && error.contains("metadata.yaml"), "{error}");
    std::fs::remove_file(volume.join("metadata.yaml")).unwrap();
    std::fs::write(volume.join("metadata.yaml"), "architecture: [").unwrap();
    let (code, error, _) = daemon.operation("POST", "/1.0/images", &body);
    assert!(code == 400 && error.contains("metadata.yaml"), "{error}");
}

/// By the request, the project, the server; names of other images; profiles of instances made of it.
#[test]
fn what_is_said_of_the_image() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    let magic = |image: &str| std::fs::read(file_of(&daemon, image)).unwrap()[..4].to_vec();
    let remove = |image: &str| drop(daemon.lxc(&["image", "delete", image]).ok());
    daemon.lxc(&["config", "set", "images.compression_algorithm", "xz -0"]).ok();
    let image = fingerprint(&daemon, "c1", &json!({}));
    assert_eq!(magic(&image), b"\xfd7zX");
    remove(&image);
    done(&daemon, "PATCH", "/1.0/projects/default", &json!({"config": {"images.compression_algorithm": "bzip2"}}));
    let image = fingerprint(&daemon, "c1", &json!({}));
    assert_eq!(magic(&image)[..3], *b"BZh");
    remove(&image);
    let image = fingerprint(&daemon, "c1", &json!({"compression_algorithm": "squashfs"}));
    assert_eq!(magic(&image), b"hsqs");
    remove(&image);

    daemon.lxc(&["profile", "create", "more"]).ok();
    daemon.lxc(&["profile", "set", "more", "user.note=profile"]).ok();
    let more = json!({
        "aliases": [{"name": "bb", "description": "moved"}, {"name": "new"}],
        "profiles": ["default", "more"], "public": true,
    });
    let image = fingerprint(&daemon, "c1", &more);
    let alias = get(&daemon, "/1.0/images/aliases/bb");
    assert_eq!((&alias["target"], &alias["description"]), (&json!(image), &json!("moved")));
    assert_eq!(get(&daemon, &format!("/1.0/images/{image}"))["profiles"], json!(["default", "more"]));

    let of = |source: Value, more: Value| {
        let mut body = json!({ "source": source });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let c1 = || json!({"type": "instance", "name": "c1"});
    for (body, status, word) in [
        (of(json!({"type": "nosuch", "name": "c1"}), json!({})), 400, "source.type"),
        (of(json!({"type": "virtual-machine", "name": "c1"}), json!({})), 400, "source.type"),
        (of(json!({"type": "instance"}), json!({})), 400, "No source provided"),
        (of(json!({"type": "instance", "name": "c1/s"}), json!({})), 400, "This is a snapshot"),
        (of(json!({"type": "snapshot", "name": "c1"}), json!({})), 400, "Not a snapshot"),
        (of(json!({"type": "snapshot", "name": "c1/s"}), json!({})), 404, "not found"),
        (of(json!({"type": "container", "name": "nosuch"}), json!({})), 404, "not found"),
        (of(json!({"type": "container", "name": "../c1"}), json!({})), 400, ""),
        (of(c1(), json!({"compression_algorithm": "rar"})), 400, "compression_algorithm"),
        (of(c1(), json!({"expires_at": "soon"})), 400, "expires_at"),
        (of(c1(), json!({"profiles": ["nosuch"]})), 400, "nosuch"),
        (of(c1(), json!({"aliases": [{"name": ""}]})), 400, ""),
        (of(c1(), json!({"aliases": "x"})), 400, "aliases"),
        (json!({"source": 5}), 400, "source"),
        (json!({}), 400, "source.type"),
    ] {
        refused(&daemon, "POST", "/1.0/images", &body, status, word);
    }
    assert_eq!(get(&daemon, "/1.0/images").as_array().unwrap().len(), 2);
    // Nobody need say that it is JSON.
    let body = of(c1(), json!({"compression_algorithm": "none"})).to_string();
    let (status, answer) = daemon.api_raw("POST", "/1.0/images", &[], body.as_bytes());
    assert_eq!(status, 202, "{answer}");
    daemon.api("GET", &format!("{}/wait", answer["operation"].as_str().unwrap()), "");
    assert_eq!(get(&daemon, "/1.0/images").as_array().unwrap().len(), 3);
}

/// Of a project of its own, and of one that shares the images of `default`.
#[test]
fn an_image_comes_to_lie_in_its_project() {
    let daemon = Daemon::ready("overlay");
    for (project, own) in [("own", "true"), ("shares", "false")] {
        let features = format!("features.images={own}");
        daemon.lxc(&["project", "create", project, "-c", &features, "-c", "features.profiles=false"]).ok();
    }
    daemon.lxc(&["init", "bb", "c1", "--project", "shares"]).ok();
    daemon.lxc(&["publish", "c1", "--project", "shares", "--alias", "shared"]).ok();
    daemon.lxc(&["init", "shared", "c1"]).ok();
    let unified = daemon.busybox_unified();
    daemon.lxc(&["image", "import", unified.to_str().unwrap(), "--alias", "sent", "--project", "shares"]).ok();
    daemon.lxc(&["image", "delete", "sent", "--project", "shares"]).ok();
    daemon.lxc(&["copy", "c1", "c2", "--target-project", "own"]).ok();
    daemon.lxc(&["project", "set", "own", "images.compression_algorithm=none"]).ok();
    daemon.lxc(&["publish", "c2", "--project", "own", "--alias", "mine"]).ok();
    daemon.lxc(&["init", "mine", "c3"]).refused("not found");
    daemon.lxc(&["init", "mine", "c3", "--project", "own"]).ok();
}

#[test]
fn one_that_is_cancelled_leaves_nothing() {
    let daemon = Daemon::ready("dir");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    let noise = std::fs::File::create(rootfs(&daemon, "p", "c1").join("noise")).unwrap();
    let mut random = std::io::Read::take(std::fs::File::open("/dev/urandom").unwrap(), 60 << 20);
    std::io::copy(&mut random, &mut &noise).unwrap();
    daemon.lxc(&["start", "c1"]).ok();
    let images = daemon.state().join("images");
    let before = std::fs::read_dir(&images).unwrap().count();
    for compression in ["xz -9", "squashfs -comp xz"] {
        let body = json!({"source": {"type": "instance", "name": "c1"}, "compression_algorithm": compression});
        let (status, answer) = daemon.api("POST", "/1.0/images", &body.to_string());
        assert_eq!(status, 202);
        let url = answer["operation"].as_str().unwrap();
        eventually("it packs", || std::fs::read_dir(&images).unwrap().count() > before);
        assert_eq!(get(&daemon, url)["may_cancel"], true);
        daemon.api("DELETE", url, "");
        let (_, end) = daemon.api("GET", &format!("{url}/wait"), "");
        assert_eq!(end["metadata"]["status"], "Cancelled", "{end}");
        eventually("its file is gone", || std::fs::read_dir(&images).unwrap().count() == before);
        let new = daemon.state().join("storage-pools/p/.new");
        eventually("what it was made from is gone", || std::fs::read_dir(&new).unwrap().count() == 0);
        let program = format!("{}/", daemon.state().display());
        eventually("its processes are gone", || {
            let found = Command::new("pgrep").args(["-f", &format!("mksquashfs.*{program}")]).output().unwrap();
            found.stdout.is_empty()
        });
    }
    daemon.lxc(&["stop", "--force", "c1"]).ok();
    daemon.lxc(&["start", "c1"]).ok();
}

/// Whoever would take away the snapshot that is published waits; the instance goes on meanwhile.
#[test]
fn a_snapshot_is_held_while_it_is_published() {
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    let (hold, begun, program) =
        (place.path().join("hold"), place.path().join("begun"), place.path().join("mksquashfs"));
    let script = format!(
        "#!/bin/sh\n: > {}\nwhile [ -e {} ]; do sleep 0.05; done\nexec /usr/bin/mksquashfs \"$@\"\n",
        begun.display(),
        hold.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", place.path().display(), std::env::var("PATH").unwrap());
    let daemon = Daemon::with_env(&[("PATH", &path)]);
    daemon.set_up("dir");
    let rows = [
        ("POST", "/1.0/instances/c1/snapshots/s", json!({"name": "t"})),
        ("DELETE", "/1.0/instances/c1/snapshots/s", json!({})),
        ("POST", "/1.0/instances/c1", json!({"name": "c2"})),
        ("DELETE", "/1.0/instances/c1", json!({})),
    ];
    for (method, path, body) in rows {
        daemon.lxc(&["init", "bb", "c1"]).ok();
        push(&daemon, "c1/root/which", &format!("{method} {path}"));
        daemon.lxc(&["snapshot", "c1", "s"]).ok();
        let _ = std::fs::remove_file(&begun);
        std::fs::write(&hold, "").unwrap();
        let publish = json!({"source": {"type": "snapshot", "name": "c1/s"}, "compression_algorithm": "squashfs"});
        let (status, answer) = daemon.api("POST", "/1.0/images", &publish.to_string());
        assert_eq!(status, 202, "{answer}");
        let publishing = answer["operation"].as_str().unwrap().to_owned();
        eventually("it packs", || begun.exists());
        let (status, answer) = daemon.api(method, path, &body.to_string());
        assert_eq!(status, 202, "{answer}");
        let other = answer["operation"].as_str().unwrap();
        let is_of_snapshot = path.ends_with("/s");
        if is_of_snapshot {
            daemon.lxc(&["start", "c1"]).ok();
        }
        assert_eq!(
            (&get(&daemon, &publishing)["status"], &get(&daemon, other)["status"]),
            (&json!("Running"), &json!("Running"))
        );
        std::fs::remove_file(&hold).unwrap();
        for operation in [&publishing, other] {
            let (_, end) = daemon.api("GET", &format!("{operation}/wait"), "");
            assert_eq!(end["metadata"]["status"], "Success", "{method} {path}: {end}");
        }
        let left = get(&daemon, "/1.0/instances?recursion=2");
        let names: Vec<String> = left
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|one| {
                let snapshots = one["snapshots"].as_array().into_iter().flatten();
                snapshots.map(|of| format!("{}/{}", one["name"], of["name"]).replace('"', ""))
            })
            .collect();
        match body["name"].as_str() {
            Some("t") => assert_eq!(names, ["c1/t"]),
            Some(_) => assert_eq!(names, ["c2/s"]),
            None => assert!(!names.iter().any(|name| name.starts_with("c1/")), "{names:?}"),
        }
        if is_of_snapshot {
            daemon.lxc(&["delete", "--force", "c1"]).ok();
        }
    }
    daemon.lxc(&["delete", "c2"]).ok();
}

/// Ids that are shifted on the disk are those of the container in the image.
#[test]
fn ids_on_the_disk_do_not_matter() {
    let daemon = Daemon::with_env(&[("WARREN_IDMAPPED_MOUNTS_DISABLE", "1")]);
    daemon.set_up("dir");
    daemon.lxc(&["init", "bb", "c1", "-c", "security.privileged=true"]).ok();
    let source = rootfs(&daemon, "p", "c1");
    std::fs::create_dir(source.join("zoo")).unwrap();
    zoo(&source.join("zoo"));
    let id = |id: u32| Some(id);
    std::os::unix::fs::chown(source.join("zoo/ids"), id(60_000), id(50_000)).unwrap();
    let more = json!({"compression_algorithm": "none"});
    let before = facts(&source);
    daemon.lxc(&["config", "unset", "c1", "security.privileged"]).ok();
    daemon.lxc(&["start", "c1"]).ok();
    daemon.lxc(&["stop", "--force", "c1"]).ok();
    assert!(daemon.state().join("storage-pools/p/containers/c1/idmap.json").exists());
    let image = fingerprint(&daemon, "c1", &more);
    daemon.lxc(&["init", &image, "c2", "-c", "security.privileged=true"]).ok();
    let mut after = facts(&rootfs(&daemon, "p", "c2"));
    for (name, one) in &before {
        if name.starts_with("zoo") && *name != Path::new("zoo") {
            let other = after.remove(name).unwrap();
            assert_eq!(
                (one.owner, &one.attributes, one.mode),
                (other.owner, &other.attributes, other.mode),
                "{}",
                name.display()
            );
        }
    }
}

/// What an engine inside has beside the root of an overlay lies in the image where it lies inside.
#[test]
fn layers_of_an_engine_inside_go_along() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1", "-c", "security.nesting=true"]).ok();
    push(&daemon, "c1/var/lib/docker/layer", "x");
    let nested = daemon.state().join("storage-pools/p/containers/c1/nested/docker/layer");
    eventually("it lies beside the root", || nested.exists());
    daemon.lxc(&["publish", "c1", "--alias", "d"]).ok();
    daemon.lxc(&["init", "d", "c2"]).ok();
    assert_eq!(pulled(&daemon, "c2/var/lib/docker/layer"), "x");
}

/// Dates that neither a squashfs nor twelve octal digits can hold.
#[test]
fn dates_of_the_far_future_are_no_obstacle() {
    let daemon = Daemon::ready("dir");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    push(&daemon, "c1/root/late", "text");
    let late = rootfs(&daemon, "p", "c1").join("root/late");
    run(Command::new("touch").args(["-d", "2345-01-02 03:04:05"]).arg(&late));
    for compression in ["squashfs", "gzip"] {
        let image = fingerprint(&daemon, "c1", &json!({"compression_algorithm": compression}));
        daemon.lxc(&["init", &image, "c2"]).ok();
        assert_eq!(pulled(&daemon, "c2/root/late"), "text", "{compression}");
        daemon.lxc(&["delete", "c2"]).ok();
    }
}
