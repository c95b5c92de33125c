//! The cache of images while somebody uses them: an unpack that goes on keeps its image, whatever the clock says.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use support::api::{done, get};
use support::image_server::ImageServer;
use support::{Daemon, eventually, run};

/// incus-simplestreams of Debian, as `packaging/clients` fetched it.
fn simplestreams(tree: &Path, arguments: &[&str]) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/incus-extra/usr/bin/incus-simplestreams");
    run(Command::new(program).args(arguments).current_dir(tree));
}

/// Adds a version of the image `bb` that was made then.
fn add(daemon: &Daemon, tree: &Path, at: i64) {
    let (_, root) = daemon.busybox();
    let place = daemon.root.join(format!("meta-{at}"));
    std::fs::create_dir_all(&place).unwrap();
    let properties =
        "properties:\n  architecture: x86_64\n  os: busybox\n  release: \"1\"\n  variant: test\n  description: bb\n";
    let metadata = format!("architecture: x86_64\ncreation_date: {at}\n{properties}");
    std::fs::write(place.join("metadata.yaml"), metadata).unwrap();
    let meta = place.join("meta.tar.xz");
    run(Command::new("tar").arg("-C").arg(&place).arg("-cJf").arg(&meta).arg("metadata.yaml"));
    simplestreams(tree, &["add", meta.to_str().unwrap(), root.to_str().unwrap(), "--alias", "bb"]);
}

/// A directory of programs with an unsquashfs that waits while `hold` is there, and says by `begun` that it does.
fn waiting_unsquashfs(place: &Path) -> (String, PathBuf, PathBuf) {
    let (bin, hold, begun) = (place.join("bin"), place.join("hold"), place.join("begun"));
    std::fs::create_dir(&bin).unwrap();
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *\" -dest \"*) if [ -e {hold} ]; then : > {begun}; while [ -e {hold} ]; do sleep 0.05; done; fi;; \
         esac\nexec /usr/bin/unsquashfs \"$@\"\n",
        hold = hold.display(),
        begun = begun.display()
    );
    let program = bin.join("unsquashfs");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    (path, hold, begun)
}

/// What the schedule does at this time, seconds since 1970.
fn at(daemon: &Daemon, time: i64) {
    let at = time::OffsetDateTime::from_unix_timestamp(time).unwrap();
    let at = at.format(&time::format_description::well_known::Rfc3339).unwrap();
    done(daemon, "PUT", "/internal/schedule", &json!({"at": at}));
}

fn fingerprints(daemon: &Daemon) -> Vec<Value> {
    let images = get(daemon, "/1.0/images?recursion=1");
    images.as_array().unwrap().iter().map(|image| image["fingerprint"].clone()).collect()
}

#[test]
fn an_unpack_that_goes_on_keeps_its_image() {
    const DAY: i64 = 24 * 3600;
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    let tree = place.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    let server = ImageServer::start(&tree, place.path());
    let (path, hold, begun) = waiting_unsquashfs(place.path());
    let daemon = Daemon::with_env(&[("SSL_CERT_FILE", server.ca.to_str().unwrap()), ("PATH", &path)]);
    daemon.lxc(&["storage", "create", "p", "dir"]).ok();
    daemon.lxc(&["profile", "device", "add", "default", "root", "disk", "path=/", "pool=p"]).ok();
    add(&daemon, &tree, 1_700_000_000);
    let start = i64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();

    std::fs::write(&hold, "").unwrap();
    let source =
        json!({"type": "image", "mode": "pull", "server": server.url, "protocol": "simplestreams", "alias": "bb"});
    let (status, answer) = daemon.api("POST", "/1.0/instances", &json!({"name": "c", "source": source}).to_string());
    assert_eq!(status, 202, "{answer}");
    let operation = answer["operation"].as_str().unwrap().to_owned();
    eventually("it is being unpacked", || begun.exists());
    let used = fingerprints(&daemon);
    assert_eq!(used.len(), 1);

    // Nobody used it for a year.
    at(&daemon, start + 400 * DAY);
    assert_eq!(fingerprints(&daemon), used, "expired amid its unpacking");
    // There is a newer one.
    add(&daemon, &tree, 1_700_100_000);
    done(&daemon, "PATCH", "/1.0", &json!({"config": {"images.remote_cache_expiry": "0"}}));
    at(&daemon, start + 401 * DAY);
    let both = fingerprints(&daemon);
    assert!(both.len() == 2 && both.contains(&used[0]), "the old one stays while it is used: {both:?}");
    assert_eq!(get(&daemon, &operation)["status"], "Running");

    std::fs::remove_file(&hold).unwrap();
    let (_, end) = daemon.api("GET", &format!("{operation}/wait"), "");
    assert_eq!(end["metadata"]["status_code"], 200, "{end}");
    daemon.lxc(&["start", "c"]).ok();
    assert_eq!(daemon.lxc(&["exec", "c", "--", "cat", "/etc/passwd"]).ok(), "root:x:0:0::/root:/bin/sh\n");
    assert_eq!(get(&daemon, "/1.0/instances/c")["config"]["volatile.base_image"], used[0]);
    // With the next round it goes.
    at(&daemon, start + 402 * DAY);
    let newer: Vec<Value> = both.into_iter().filter(|image| *image != used[0]).collect();
    assert_eq!(fingerprints(&daemon), newer);
    daemon.lxc(&["delete", "--force", "c"]).ok();
}
