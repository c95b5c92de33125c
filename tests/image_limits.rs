//! What images may be: refused before they become one, with the reason and nothing of them left; and what projects let be.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::Path;

use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};
use support::Daemon;
use support::api::{done, get, refused};
use support::tarball::{Tar, add};

const METADATA: &str = "architecture: x86_64\ncreation_date: 1700000000\n";

/// A unified image: metadata, what `more` adds, and a root.
fn image(metadata: &str, more: impl FnOnce(&mut Tar)) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    add(&mut tar, "metadata.yaml", tar::EntryType::Regular, metadata.as_bytes());
    add(&mut tar, "rootfs", tar::EntryType::Directory, b"");
    more(&mut tar);
    tar.into_inner().unwrap()
}

/// What is said to an upload: empty, or the error.
fn upload(daemon: &Daemon, project: &str, bytes: &[u8]) -> String {
    let (status, answer) = daemon.api_raw("POST", &format!("/1.0/images?project={project}"), &[], bytes);
    if status != 202 {
        assert_eq!(status, 400, "{answer}");
        return answer["error"].as_str().unwrap().to_owned();
    }
    let (_, end) = daemon.api("GET", &format!("{}/wait", answer["operation"].as_str().unwrap()), "");
    end["metadata"]["err"].as_str().unwrap().to_owned()
}

#[track_caller]
fn nothing_kept(daemon: &Daemon) {
    assert_eq!(get(daemon, "/1.0/images"), json!([]));
    assert_eq!(std::fs::read_dir(daemon.state().join("images")).unwrap().count(), 0);
}

#[test]
fn paths_that_no_root_can_hold_are_refused_when_they_come() {
    let daemon = Daemon::bare();
    let deep = format!("rootfs/{}end", "d/".repeat(3000));
    let fits = format!("rootfs/{}e", "d/".repeat(2000));
    let link = |name: &str, target: &str| {
        let (name, target) = (name.to_owned(), target.to_owned());
        move |tar: &mut Tar| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, name, target).unwrap();
        }
    };
    let file = |tar: &mut Tar, name: &str| add(tar, name, tar::EntryType::Regular, b"x");
    for (case, bytes, word) in [
        ("deep", image(METADATA, |tar| file(tar, &deep)), "4095 bytes"),
        ("link", image(METADATA, link("rootfs/l", &"t/".repeat(2100))), "a link must lead to"),
        (
            "replaced",
            image(METADATA, |tar| {
                file(tar, "rootfs/a/b");
                file(tar, "rootfs/a");
            }),
            "a directory of this name",
        ),
        (
            "through",
            image(METADATA, |tar| {
                file(tar, "rootfs/a");
                file(tar, "rootfs/a/b/c");
            }),
            "through a link or a file",
        ),
    ] {
        let error = upload(&daemon, "default", &bytes);
        assert!(error.contains(word) && error.contains("rootfs/"), "{case}: {error}");
        assert!(error.len() < 500, "{case}: {} bytes: {error}", error.len());
        nothing_kept(&daemon);
    }
    // What just fits is taken, and can be used.
    daemon.lxc(&["storage", "create", "p", "dir"]).ok();
    assert_eq!(upload(&daemon, "default", &image(METADATA, |tar| file(tar, &fits))), "");
    let fingerprint = get(&daemon, "/1.0/images?recursion=1")[0]["fingerprint"].clone();
    let root = json!({"root": {"type": "disk", "path": "/", "pool": "p"}});
    let body = json!({"name": "c1", "source": {"type": "image", "fingerprint": fingerprint}, "devices": root});
    done(&daemon, "POST", "/1.0/instances", &body);
    // A tree that grew deeper inside is not published: nothing could be made of that.
    let place = daemon.state().join("storage-pools/p/containers/c1/rootfs/d");
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::open(place, flags, Mode::empty()).unwrap();
    for _ in 0..20 {
        let name = "x".repeat(250);
        rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, &name, flags, Mode::empty()).unwrap();
    }
    let source = json!({"source": {"type": "instance", "name": "c1"}});
    let (_, error, _) = daemon.operation("POST", "/1.0/images", &source.to_string());
    assert!(error.contains("4095 bytes") && error.len() < 500, "{error}");
    assert_eq!(get(&daemon, "/1.0/images").as_array().unwrap().len(), 1);
}

#[test]
fn what_is_no_image_is_not_repeated() {
    let daemon = Daemon::bare();
    let secret = "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n".repeat(20);
    let place = daemon.root.join("passwd");
    std::fs::write(&place, &secret).unwrap();
    let said = daemon.lxc(&["image", "import", place.to_str().unwrap()]);
    said.refused("but a text");
    for bytes in [secret.as_bytes(), &secret.as_bytes()[..30], b"\x7fELF root:x", &[0; 2000], b"root"] {
        let error = upload(&daemon, "default", bytes);
        assert!(error.contains("no tarball") && !error.contains("root:"), "{error}");
        assert!(error.len() < 200, "{error}");
    }
    // The same behind a good beginning.
    let mut broken = image(METADATA, |_| ());
    broken.truncate(broken.len() - 1024);
    broken.extend(secret.as_bytes());
    let error = upload(&daemon, "default", &broken);
    assert!(!error.contains("root:") && !error.contains("bash") && error.contains("tarball"), "{error}");
    nothing_kept(&daemon);
}

const BAD: &[(&str, &str, &str)] = &[
    (r#""""#, "x", "templates."),
    ("/../x", "x", "templates./../x"),
    ("/etc/..", "x", "templates./etc/.."),
    (r#""/a\0b""#, "x", "templates./a"),
    ("/etc/", "x", "templates./etc/"),
    ("/etc/hostname", "a/b", "templates./etc/hostname.template"),
    ("/etc/hostname", "..", "templates./etc/hostname.template"),
    ("/etc/hostname", r#""""#, "templates./etc/hostname.template"),
    ("/etc/hostname", r#""a\0b""#, "templates./etc/hostname.template"),
];

fn with_template(path: &str, template: &str) -> String {
    format!("{METADATA}templates:\n  {path}: {{when: [start], template: {template}}}\n")
}

#[test]
fn templates_that_no_start_could_use_are_refused_with_their_key() {
    let daemon = Daemon::ready("dir");
    let image_of = |metadata: &str| {
        image(metadata, |tar| {
            add(tar, "templates", tar::EntryType::Directory, b"");
            add(tar, "templates/x", tar::EntryType::Regular, b"text");
        })
    };
    for (path, template, key) in BAD {
        let error = upload(&daemon, "default", &image_of(&with_template(path, template)));
        assert!(error.contains(&format!("{key}\"")) || path.contains('\0') || error.contains(key), "{path}: {error}");
    }
    assert_eq!(get(&daemon, "/1.0/images").as_array().unwrap().len(), 1, "only what was there");
    // So does the metadata of an instance, and what others wrote into it is not published.
    daemon.lxc(&["init", "bb", "c1"]).ok();
    let before = get(&daemon, "/1.0/instances/c1/metadata");
    for (path, template, key) in [
        ("", "x", "templates."),
        ("/../x", "x", "templates./../x"),
        ("/a\0b", "x", "templates./a"),
        ("/x", "a/b", "templates./x.template"),
        ("/x", "", "templates./x.template"),
    ] {
        let templates = json!({path: {"when": ["start"], "template": template}});
        for (method, body) in [("PUT", json!({"architecture": "x86_64"})), ("PATCH", json!({}))] {
            let mut body: Value = body;
            body["templates"] = templates.clone();
            refused(&daemon, method, "/1.0/instances/c1/metadata", &body, 400, key);
        }
    }
    assert_eq!(get(&daemon, "/1.0/instances/c1/metadata"), before);
    let file = daemon.state().join("storage-pools/p/containers/c1/metadata.yaml");
    std::fs::write(&file, with_template("/etc/../x", "x")).unwrap();
    let source = json!({"source": {"type": "instance", "name": "c1"}});
    let (_, error, _) = daemon.operation("POST", "/1.0/images", &source.to_string());
    assert!(error.contains("templates./etc/../x"), "{error}");
    // It is mended as it says, and published.
    let good = json!({"architecture": "x86_64", "creation_date": 1, "templates": {"etc/x": {"template": "x"}}});
    done(&daemon, "PUT", "/1.0/instances/c1/metadata", &good);
    done(&daemon, "POST", "/1.0/images", &source);
}

/// An image of about so many bytes.
fn of_size(bytes: usize, salt: u8) -> Vec<u8> {
    image(METADATA, |tar| add(tar, "rootfs/data", tar::EntryType::Regular, &vec![salt; bytes]))
}

fn usage(daemon: &Daemon, project: &str) -> i64 {
    get(daemon, &format!("/1.0/projects/{project}/state"))["resources"]["disk"]["Usage"].as_i64().unwrap()
}

fn files(daemon: &Daemon) -> usize {
    std::fs::read_dir(daemon.state().join("images")).unwrap().count()
}

fn published(daemon: &Daemon, name: &str) -> String {
    let body = json!({"source": {"type": "instance", "name": name}, "compression_algorithm": "none"});
    daemon.operation("POST", "/1.0/images?project=p", &body.to_string()).1
}

#[test]
fn images_count_for_the_disk_of_their_project() {
    let daemon = Daemon::ready("btrfs");
    let project = |config: Value| json!({"name": "p", "config": config});
    let limited = json!({"features.images": "true", "features.profiles": "false", "limits.disk": "14MB"});
    done(&daemon, "POST", "/1.0/projects", &project(limited));
    let few = of_size(1_000_000, 1);
    let size = i64::try_from(few.len()).unwrap();
    assert_eq!(upload(&daemon, "p", &few), "");
    assert_eq!(usage(&daemon, "p"), size);
    let before = files(&daemon);
    for bytes in [20_000_000, 13_500_000] {
        let error = upload(&daemon, "p", &of_size(bytes, 2));
        assert!(error.contains("limits.disk"), "{error}");
        assert_eq!((files(&daemon), usage(&daemon, "p")), (before, size));
    }
    assert_eq!(get(&daemon, "/1.0/images?project=p").as_array().unwrap().len(), 1);
    // With others' images it has nothing to do.
    assert_eq!(upload(&daemon, "default", &of_size(8_000_000, 2)), "");
    assert_eq!(usage(&daemon, "p"), size);
    // Disks, volumes and images together.
    let volume = |size: &str| json!({"name": "v", "config": {"size": size}});
    let path = "/1.0/storage-pools/p/volumes/custom?project=p";
    refused(&daemon, "POST", path, &volume("13MB"), 400, "limits.disk");
    done(&daemon, "POST", path, &volume("1MB"));
    assert_eq!(usage(&daemon, "p"), size + 1_000_000);
    refused(&daemon, "PATCH", "/1.0/projects/p", &json!({"config": {"limits.disk": "1MB"}}), 400, "current total");
    let root = json!({"root": {"type": "disk", "path": "/", "pool": "p", "size": "10MB"}});
    done(
        &daemon,
        "POST",
        "/1.0/instances?project=p",
        &json!({"name": "c1", "source": {"type": "none"}, "devices": root}),
    );
    // Publishing makes an image, too.
    let place = daemon.state().join("storage-pools/p/containers/p_c1/rootfs/data");
    std::fs::write(&place, vec![3; 2_500_000]).unwrap();
    let before = files(&daemon);
    let error = published(&daemon, "c1");
    assert!(error.contains("limits.disk") && error.contains("\"14MB\""), "{error}");
    assert_eq!((files(&daemon), usage(&daemon, "p")), (before, size + 11_000_000));
    std::fs::write(&place, vec![3; 300_000]).unwrap();
    assert_eq!(published(&daemon, "c1"), "");
    // What goes leaves room.
    let few = get(&daemon, "/1.0/images?project=p&recursion=1");
    let few = few.as_array().unwrap().iter().find(|image| image["size"] == json!(size)).unwrap();
    done(&daemon, "DELETE", &format!("/1.0/images/{}?project=p", few["fingerprint"].as_str().unwrap()), &json!({}));
    std::fs::write(&place, vec![3; 1_000_000]).unwrap();
    assert_eq!(published(&daemon, "c1"), "");
}

#[test]
fn of_two_images_at_once_that_fit_alone_one_is_refused() {
    let daemon = Daemon::bare();
    let config = json!({"name": "p", "config": {"features.images": "true", "limits.disk": "3MB"}});
    done(&daemon, "POST", "/1.0/projects", &config);
    let errors: Vec<String> = std::thread::scope(|scope| {
        let run = |salt| upload(&daemon, "p", &of_size(2_000_000, salt));
        let both = [scope.spawn(move || run(1)), scope.spawn(move || run(2))];
        both.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(errors.iter().filter(|error| error.is_empty()).count(), 1, "{errors:?}");
    assert!(errors.iter().any(|error| error.contains("limits.disk")), "{errors:?}");
    assert_eq!(files(&daemon), 1);
}

/// Without images of its own a project's images are those of `default`, and count there.
#[test]
fn images_that_are_shared_count_where_they_lie() {
    let daemon = Daemon::bare();
    let config = json!({"name": "q", "config": {"features.images": "false", "limits.disk": "100kB"}});
    done(&daemon, "POST", "/1.0/projects", &config);
    let one = of_size(1_000_000, 1);
    assert_eq!(upload(&daemon, "q", &one), "");
    assert_eq!((usage(&daemon, "q"), usage(&daemon, "default")), (0, i64::try_from(one.len()).unwrap()));
    done(&daemon, "PATCH", "/1.0/projects/default", &json!({"config": {"limits.disk": "2MB"}}));
    let error = upload(&daemon, "q", &of_size(1_500_000, 2));
    assert!(error.contains("limits.disk"), "{error}");
    assert!(Path::new(&daemon.state()).join("images").read_dir().unwrap().count() == 1);
}

/// The file names and dates of images are ones that clients can use.
#[test]
fn names_of_files_and_dates_can_be_used() {
    let daemon = Daemon::ready("dir");
    let before = get(&daemon, "/1.0/images").as_array().unwrap().len();
    for text in ["9000000000000000000", "-9000000000000000000", "253402300800"] {
        for dates in [format!("creation_date: {text}\n"), format!("creation_date: 1\nexpiry_date: {text}\n")] {
            let error = upload(&daemon, "default", &image(&format!("architecture: x86_64\n{dates}"), |_| ()));
            assert!(error.contains("_date\": it must be a time in the years 0 to 9999"), "{dates}: {error}");
        }
    }
    assert_eq!(get(&daemon, "/1.0/images").as_array().unwrap().len(), before);
    // In a header, and said of what is published.
    let headers = [("X-LXD-filename", "../../a b.tar\t")];
    let (_, answer) = daemon.api_raw("POST", "/1.0/images", &headers, &image(METADATA, |_| ()));
    let (_, end) = daemon.api("GET", &format!("{}/wait", answer["operation"].as_str().unwrap()), "");
    let uploaded = format!("/1.0/images/{}", end["metadata"]["metadata"]["fingerprint"].as_str().unwrap());
    assert_eq!(get(&daemon, &uploaded)["filename"], "a b.tar");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    let metadata = |change: Value| {
        let mut metadata = json!({"architecture": "x86_64", "creation_date": 1, "properties": {}, "templates": {}});
        metadata.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        metadata
    };
    let of_instance = "/1.0/instances/c1/metadata";
    refused(
        &daemon,
        "PUT",
        of_instance,
        &metadata(json!({"expiry_date": 9_000_000_000_000_000_000_i64})),
        400,
        "expiry_date",
    );
    // As in LXD: the instance's own architecture and a date anew are the image's.
    done(
        &daemon,
        "PUT",
        of_instance,
        &metadata(json!({"architecture": "pdp11", "creation_date": -9_000_000_000_000_000_000_i64})),
    );
    let body = json!({"source": {"type": "instance", "name": "c1"}, "filename": "../x\n"});
    let published = done(&daemon, "POST", "/1.0/images", &body)["metadata"]["fingerprint"].as_str().unwrap().to_owned();
    let shown = get(&daemon, &format!("/1.0/images/{published}"));
    assert_eq!((&shown["architecture"], &shown["filename"]), (&json!("x86_64"), &json!("x")));
    assert!(shown["created_at"].as_str().unwrap().starts_with("20"), "{shown}");
}
