//! Images as clients send, read and change them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use support::{Daemon, run};

fn done(daemon: &Daemon, answer: &(u16, Value)) -> Value {
    assert_eq!(answer.0, 202, "{}", answer.1);
    let url = format!("{}/wait", answer.1["operation"].as_str().unwrap());
    daemon.api("GET", &url, "").1["metadata"].clone()
}

fn wait(daemon: &Daemon, answer: &(u16, Value)) -> Value {
    let done = done(daemon, answer);
    assert_eq!(done["status_code"], 200, "{done}");
    done["metadata"].clone()
}

fn fingerprint(daemon: &Daemon, answer: &(u16, Value)) -> String {
    wait(daemon, answer)["fingerprint"].as_str().unwrap().to_owned()
}

fn boots(daemon: &Daemon, fingerprint: &str) {
    daemon.lxc(&["launch", fingerprint, "c"]).ok();
    assert_eq!(daemon.lxc(&["exec", "c", "--", "hostname"]).ok(), "c\n");
    daemon.lxc(&["delete", "--force", "c"]).ok();
}

#[test]
fn every_compression_is_known_by_its_content() {
    let daemon = Daemon::ready("overlay");
    let plain = daemon.root.join("plain.tar");
    let tree = daemon.root.join("tree");
    run(Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&plain).args(["metadata.yaml", "rootfs"]));
    for packer in [None, Some("gzip"), Some("bzip2"), Some("xz"), Some("lzma"), Some("zstd")] {
        let bytes = match packer {
            None => std::fs::read(&plain).unwrap(),
            Some("lzma") => pack(&plain, "xz", &["--format=lzma"]),
            Some(program) => pack(&plain, program, &[]),
        };
        let answer = daemon.api_raw("POST", "/1.0/images", &[("Content-Type", "application/octet-stream")], &bytes);
        let fingerprint = fingerprint(&daemon, &answer);
        boots(&daemon, &fingerprint);
        // What comes back is what was sent.
        daemon.lxc(&["image", "export", &fingerprint, daemon.root.join("exported").to_str().unwrap()]).ok();
        // The client adds what it takes for the extension.
        let target = exported(&daemon, "exported").pop().unwrap();
        assert!(std::fs::read(&target).unwrap() == bytes, "{packer:?}");
        std::fs::remove_file(&target).unwrap();
        daemon.lxc(&["image", "delete", &fingerprint]).ok();
    }
}

/// A root that is a link would be a directory of the host.
#[test]
fn the_root_of_an_image_is_a_directory_of_its_own() {
    let daemon = Daemon::ready("overlay");
    let tree = daemon.root.join("linked");
    std::fs::create_dir_all(&tree).unwrap();
    std::fs::copy(daemon.root.join("tree/metadata.yaml"), tree.join("metadata.yaml")).unwrap();
    std::os::unix::fs::symlink("/", tree.join("rootfs")).unwrap();
    let tar = daemon.root.join("linked.tar");
    run(Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&tar).args(["metadata.yaml", "rootfs"]));
    let squashfs = daemon.root.join("linked.squashfs");
    run(Command::new("mksquashfs").arg(&tree).arg(&squashfs).args(["-quiet", "-no-progress"]));
    for file in [tar, squashfs] {
        let answer = daemon.api_raw("POST", "/1.0/images", &[], &std::fs::read(&file).unwrap());
        assert!(done(&daemon, &answer)["err"].as_str().unwrap().contains("rootfs"), "{}", file.display());
    }
    // One that got here all the same, as with an older version, is not entered.
    daemon.lxc(&["storage", "create", "d", "dir"]).ok();
    daemon.lxc(&["init", "bb", "c1", "-s", "d", "-c", "security.privileged=true"]).ok();
    let rootfs = daemon.state().join("storage-pools/d/containers/c1/rootfs");
    std::fs::remove_dir_all(&rootfs).unwrap();
    std::os::unix::fs::symlink("/", &rootfs).unwrap();
    daemon.lxc(&["file", "pull", "c1/etc/hostname", "-"]).refused("it is no directory");
    daemon.lxc(&["start", "c1"]).refused("it is no directory");
}

/// One squashfs with everything in it, as `lxc publish --compression squashfs` makes it.
#[test]
fn a_unified_image_may_be_a_squashfs_on_both_drivers() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["storage", "create", "d", "dir"]).ok();
    let tree = daemon.root.join("tree");
    std::fs::create_dir_all(tree.join("templates")).unwrap();
    std::fs::write(tree.join("templates/hosts.tpl"), "x").unwrap();
    let file = daemon.root.join("whole.squashfs");
    let pack = |extra: &[&str]| {
        let _ = std::fs::remove_file(&file);
        run(Command::new("mksquashfs").arg(&tree).arg(&file).args(["-quiet", "-no-progress"]).args(extra));
        std::fs::read(&file).unwrap()
    };
    let upload = |bytes: &[u8]| daemon.api_raw("POST", "/1.0/images", &[], bytes);
    let bytes = pack(&[]);
    let fingerprint = fingerprint(&daemon, &upload(&bytes));
    for pool in ["p", "d"] {
        daemon.lxc(&["launch", &fingerprint, "c", "-s", pool]).ok();
        assert_eq!(daemon.lxc(&["exec", "c", "--", "hostname"]).ok(), "c\n");
        assert_eq!(daemon.lxc(&["config", "template", "list", "c", "--format", "csv"]).ok(), "hosts.tpl\n");
        daemon.lxc(&["restart", "--force", "c"]).ok();
        daemon.lxc(&["delete", "--force", "c"]).ok();
    }
    let refused = |bytes: &[u8]| done(&daemon, &upload(bytes))["err"].as_str().unwrap().to_owned();
    assert!(refused(&bytes[..bytes.len() / 2]).contains("cut short"));
    assert!(refused(&pack(&["-e", "metadata.yaml"])).contains("metadata.yaml"));
    assert!(refused(&pack(&["-e", "rootfs"])).contains("rootfs"));
    std::fs::remove_dir_all(tree.join("templates")).unwrap();
    std::os::unix::fs::symlink("/etc", tree.join("templates")).unwrap();
    assert!(refused(&pack(&[])).contains("templates"));
    std::fs::remove_file(tree.join("templates")).unwrap();
    assert_eq!(std::fs::read_dir(daemon.state().join("images")).unwrap().count(), 3, "two files of bb, and one");
}

/// The files of the test's directory whose names begin so.
fn exported(daemon: &Daemon, name: &str) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(&daemon.root).unwrap().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(name)).map(|entry| entry.path()).collect()
}

fn pack(file: &Path, program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).arg("-c").arg(file).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn a_split_image_has_a_tarball_or_a_squashfs_as_its_root() {
    let daemon = Daemon::ready("dir");
    let (meta, squashfs) = daemon.busybox();
    let tarball = daemon.root.join("root.tar.gz");
    run(Command::new("tar").arg("-C").arg(daemon.root.join("tree/rootfs")).arg("-czf").arg(&tarball).arg("."));
    daemon.lxc(&["image", "import", meta.to_str().unwrap(), tarball.to_str().unwrap(), "--alias", "tarball"]).ok();
    boots(&daemon, "tarball");
    boots(&daemon, "bb");
    let target = daemon.root.join("out");
    daemon.lxc(&["image", "export", "bb", target.to_str().unwrap()]).ok();
    let contents: Vec<Vec<u8>> = exported(&daemon, "out").iter().map(|path| std::fs::read(path).unwrap()).collect();
    for file in [&meta, &squashfs] {
        assert!(contents.contains(&std::fs::read(file).unwrap()), "{}", file.display());
    }
}

/// Sends a request as it is, head and body, and returns the answer.
fn exchange(daemon: &Daemon, request: &[u8]) -> (u16, Value) {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let json = answer.lines().find(|line| line.starts_with('{')).unwrap();
    (answer[9..12].parse().unwrap(), serde_json::from_str(json).unwrap())
}

#[test]
fn bodies_may_be_chunked_and_multipart_made_by_hand() {
    let daemon = Daemon::ready("overlay");
    let image = std::fs::read(daemon.busybox_unified()).unwrap();
    let head = "POST /1.0/images HTTP/1.1\r\nHost: localhost:None\r\nConnection: close\r\nx-lxd-PUBLIC: 1\r\n\
                X-Incus-Properties: a=b&c=d%20e\r\nX-LXD-aliases: alias=one&alias=two%2F\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    let mut request = head.as_bytes().to_vec();
    for chunk in image.chunks(10_000) {
        request.extend(format!("{:x}\r\n", chunk.len()).as_bytes());
        request.extend(chunk);
        request.extend(b"\r\n");
    }
    request.extend(b"0\r\n\r\n");
    let first = fingerprint(&daemon, &exchange(&daemon, &request));
    let (_, shown) = daemon.api("GET", &format!("/1.0/images/{first}"), "");
    assert_eq!((&shown["metadata"]["public"], &shown["metadata"]["properties"]["c"]), (&json!(true), &json!("d e")));
    assert_eq!(shown["metadata"]["aliases"].as_array().unwrap().len(), 2);
    assert_eq!(daemon.api("GET", "/1.0/images/aliases/two/", "").1["metadata"]["target"], first);

    // As nova-lxd writes it: no quotes, a semicolon at the end.
    daemon.lxc(&["image", "delete", "bb"]).ok();
    let (meta, root) = daemon.busybox();
    let mut body = Vec::new();
    for (name, file) in [("metadata", &meta), ("rootfs", &root)] {
        body.extend(format!("--abc\r\nContent-Disposition: form-data; name={name}; filename=x;\r\n\r\n").as_bytes());
        body.extend(std::fs::read(file).unwrap());
        body.extend(b"\r\n");
    }
    body.extend(b"--abc--\r\n");
    let headers = [("Content-Type", "multipart/form-data; boundary=abc")];
    let second = fingerprint(&daemon, &daemon.api_raw("POST", "/1.0/images", &headers, &body));
    boots(&daemon, &second);
    let again = daemon.api_raw("POST", "/1.0/images", &[], &image);
    assert_eq!(again.0, 202, "found out when it is whole");
    assert!(done(&daemon, &again)["err"].as_str().unwrap().contains("already exists"));
}

#[test]
fn properties_expiry_and_profiles_are_changed() {
    let daemon = Daemon::ready("overlay");
    let (_, list) = daemon.api("GET", "/1.0/images", "");
    let url = list["metadata"][0].as_str().unwrap();
    let get = || daemon.api("GET", url, "").1["metadata"].clone();
    let change = |method: &str, body: &str| daemon.api(method, url, body).0;
    assert_eq!(get()["expires_at"], "1970-01-01T00:00:00Z");
    assert_eq!(change("PATCH", r#"{"properties":{"a":"b"},"expires_at":"2031-02-03T04:05:06Z"}"#), 200);
    assert_eq!((&get()["properties"]["a"], &get()["properties"]["os"]), (&json!("b"), &json!("busybox")));
    assert_eq!(get()["expires_at"], "2031-02-03T04:05:06Z");
    assert_eq!(change("PATCH", r#"{"expires_at":"soon"}"#), 400);
    assert_eq!(change("PATCH", r#"{"profiles":["nosuch"]}"#), 400);
    assert_eq!(get()["profiles"], json!(["default"]));
    assert_eq!(change("PUT", r#"{"properties":{"x":"y"},"public":true,"profiles":[]}"#), 200);
    let now = get();
    assert_eq!((&now["properties"], &now["public"], &now["profiles"]), (&json!({"x": "y"}), &json!(true), &json!([])));
    // As LXD has it: a time that is not named stays.
    assert_eq!(now["expires_at"], "2031-02-03T04:05:06Z");
    assert_eq!(change("PATCH", r#"{"expires_at":"1970-01-01T00:00:00Z"}"#), 200);
    assert_eq!(get()["expires_at"], "1970-01-01T00:00:00Z");
    assert_eq!(daemon.api("GET", "/1.0/images?filter=properties.x+eq+y", "").1["metadata"], json!([url]));
    assert_eq!(daemon.api("GET", "/1.0/images?filter=properties.x+eq+z", "").1["metadata"], json!([]));
}

#[test]
fn aliases_have_all_verbs_and_slashes() {
    let daemon = Daemon::ready("overlay");
    let (_, list) = daemon.api("GET", "/1.0/images", "");
    let target = list["metadata"][0].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let url = "/1.0/images/aliases/x/y/";
    assert_eq!(daemon.api("POST", "/1.0/images/aliases", &format!(r#"{{"name":"x/y/","target":"{target}"}}"#)).0, 201);
    assert_eq!(daemon.api("POST", "/1.0/images/aliases", &format!(r#"{{"name":"x/y/","target":"{target}"}}"#)).0, 409);
    assert_eq!(daemon.api("POST", "/1.0/images/aliases", r#"{"name":"z"}"#).0, 400);
    assert_eq!(daemon.api("POST", "/1.0/images/aliases", r#"{"name":"z","target":"00"}"#).0, 404);
    for same in [url, "/1.0/images/aliases/x%2Fy%2F"] {
        assert_eq!(daemon.api("GET", same, "").1["metadata"]["name"], "x/y/");
    }
    assert_eq!(daemon.api("PATCH", url, r#"{"description":"d"}"#).0, 200);
    assert_eq!(daemon.api("GET", url, "").1["metadata"]["description"], "d");
    assert_eq!(daemon.api("PUT", url, r#"{"description":"e"}"#).0, 400, "PUT wants the target, too");
    assert_eq!(daemon.api("POST", url, r#"{"name":"bb"}"#).0, 409);
    assert_eq!(daemon.api("POST", url, "{}").0, 400);
    assert_eq!(daemon.api("POST", url, r#"{"name":"z"}"#).0, 201);
    assert_eq!(daemon.api("GET", url, "").0, 404);
    assert_eq!(daemon.api("DELETE", "/1.0/images/aliases/z", "").0, 200);
    assert_eq!(daemon.api("DELETE", "/1.0/images/aliases/z", "").0, 404);
}

#[test]
fn properties_of_any_name_leave_instances_changeable() {
    let daemon = Daemon::ready("overlay");
    let image = daemon.api("GET", "/1.0/images/aliases/bb", "").1["metadata"]["target"].as_str().unwrap().to_owned();
    let body = r#"{"properties": {"": "nothing", "a\u001bb": "escape", "a b": "kept"}}"#;
    assert_eq!(daemon.api("PATCH", &format!("/1.0/images/{image}"), body).0, 200);
    daemon.lxc(&["init", "bb", "c1"]).ok();
    daemon.lxc(&["config", "set", "c1", "user.x", "1"]).ok();
    assert_eq!(daemon.lxc(&["config", "get", "c1", "image.a b"]).ok(), "kept\n");
    daemon.lxc(&["snapshot", "c1", "s"]).ok();
    daemon.lxc(&["restore", "c1", "s"]).ok();
    daemon.lxc(&["copy", "c1/s", "c2"]).ok();
}

#[test]
fn the_profiles_of_an_image_follow_their_names() {
    let daemon = Daemon::ready("dir");
    let url = format!(
        "/1.0/images/{}",
        daemon.api("GET", "/1.0/images/aliases/bb", "").1["metadata"]["target"].as_str().unwrap()
    );
    let profiles = || daemon.api("GET", &url, "").1["metadata"]["profiles"].clone();
    daemon.lxc(&["profile", "create", "more"]).ok();
    assert_eq!(daemon.api("PATCH", &url, r#"{"profiles":["default","more"]}"#).0, 200);
    daemon.lxc(&["profile", "rename", "more", "other"]).ok();
    assert_eq!(profiles(), serde_json::json!(["default", "other"]));
    daemon.lxc(&["image", "set-property", "bb", "k", "v"]).ok();
    daemon.lxc(&["profile", "delete", "other"]).ok();
    assert_eq!(profiles(), serde_json::json!(["default"]));
    daemon.lxc(&["image", "set-property", "bb", "k", "w"]).ok();
}
