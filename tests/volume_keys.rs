//! Storage volumes: what pools say of new ones, sizes where they hold and where they cannot, and what is told of them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use support::Daemon;
use support::api::{done, get, refused};

const MIB: u64 = 1 << 20;

fn volumes(pool: &str) -> String {
    format!("/1.0/storage-pools/{pool}/volumes/custom")
}

fn config(daemon: &Daemon, pool: &str, name: &str) -> Value {
    get(daemon, &format!("{}/{name}", volumes(pool)))["config"].clone()
}

fn total(daemon: &Daemon, pool: &str, name: &str) -> Value {
    get(daemon, &format!("{}/{name}/state", volumes(pool)))["usage"]["total"].clone()
}

#[test]
fn a_new_volume_has_what_its_pool_says_of_new_ones() {
    let daemon = Daemon::ready("btrfs");
    daemon.lxc(&["storage", "create", "d", "dir"]).ok();
    daemon.lxc(&["storage", "volume", "create", "d", "plain"]).ok();
    for pair in [
        "volume.size=70MiB",
        "volume.snapshots.schedule=* * * * *",
        "volume.snapshots.pattern=auto%d",
        "volume.snapshots.expiry=1d",
        "volume.security.shifted=true",
    ] {
        daemon.lxc(&["storage", "set", "p", pair]).ok();
    }
    let usual = json!({"size": "70MiB", "snapshots.schedule": "* * * * *", "snapshots.pattern": "auto%d",
        "snapshots.expiry": "1d", "security.shifted": "true"});
    daemon.lxc(&["storage", "volume", "create", "p", "v"]).ok();
    assert_eq!(config(&daemon, "p", "v"), usual);
    assert_eq!(total(&daemon, "p", "v"), 70 * MIB);
    daemon.lxc(&["storage", "volume", "snapshot", "p", "v"]).ok();
    let snapshots = get(&daemon, &format!("{}/v/snapshots?recursion=1", volumes("p")));
    assert_eq!(snapshots[0]["name"], "v/auto0");
    assert!(snapshots[0]["expires_at"].is_string(), "{snapshots}");
    // What a volume says itself counts, and what excludes that does not.
    daemon.lxc(&["storage", "volume", "create", "p", "own", "size=0", "security.unmapped=true"]).ok();
    let own = config(&daemon, "p", "own");
    assert_eq!((&own["size"], &own["security.unmapped"]), (&json!("0"), &json!("true")));
    assert!(own.get("security.shifted").is_none(), "{own}");
    // Copies are new, too: what the source has stays.
    daemon.lxc(&["storage", "volume", "set", "d", "plain", "snapshots.expiry", "2d"]).ok();
    daemon.lxc(&["storage", "volume", "copy", "d/plain", "p/copied"]).ok();
    let copied = config(&daemon, "p", "copied");
    assert_eq!((&copied["size"], &copied["snapshots.expiry"]), (&json!("70MiB"), &json!("2d")));
    assert_eq!(total(&daemon, "p", "copied"), 70 * MIB);
    // A volume that is there stays as it is.
    daemon.lxc(&["storage", "volume", "unset", "p", "v", "size"]).ok();
    assert!(config(&daemon, "p", "v").get("size").is_none());
    assert_eq!(total(&daemon, "p", "v"), 0);
    let bad = json!({"config": {"volume.snapshots.pattern": "a/b"}});
    refused(&daemon, "PATCH", "/1.0/storage-pools/p", &bad, 400, "volume.snapshots.pattern");
}

#[test]
fn no_size_is_no_limit() {
    let daemon = Daemon::ready("btrfs");
    daemon.lxc(&["storage", "volume", "create", "p", "v", "size=0"]).ok();
    assert_eq!(total(&daemon, "p", "v"), 0);
    daemon.lxc(&["storage", "volume", "set", "p", "v", "size", "50MiB"]).ok();
    assert_eq!(total(&daemon, "p", "v"), 50 * MIB);
    assert!(daemon.lxc(&["storage", "volume", "info", "p", "v"]).ok().contains("Total: 50.00MiB"));
    daemon.lxc(&["storage", "volume", "set", "p", "v", "size", "0"]).ok();
    assert_eq!(total(&daemon, "p", "v"), 0);
    assert!(!daemon.lxc(&["storage", "volume", "info", "p", "v"]).ok().contains("Total:"));
}

#[test]
fn a_size_where_nothing_can_be_limited() {
    let daemon = Daemon::ready("btrfs");
    daemon.lxc(&["storage", "create", "d", "dir"]).ok();
    daemon.lxc(&["storage", "create", "o", "overlay"]).ok();
    daemon.lxc(&["init", "bb", "c", "-d", "root,size=100MiB"]).ok();
    for pool in ["d", "o"] {
        // One that was asked for, for a new one, a copy and one that is moved: by whoever can keep it only.
        daemon.lxc(&["init", "bb", "n", "-s", pool, "-d", "root,size=100MiB"]).refused("cannot be limited");
        daemon.lxc(&["copy", "c", "n", "-s", pool]).refused("cannot be limited");
        daemon.lxc(&["move", "c", "-s", pool]).refused("cannot be limited");
        assert_eq!(get(&daemon, "/1.0/instances/c")["expanded_devices"]["root"]["pool"], "p");
        assert_eq!(get(&daemon, "/1.0/instances/c")["config"].get("volatile.moving"), None);
        // What the pool says of new ones does not stand in the way.
        daemon.lxc(&["storage", "set", pool, "volume.size", "10GiB"]).ok();
        daemon.lxc(&["init", "bb", "n", "-s", pool]).ok();
        daemon.lxc(&["copy", "n", "m"]).ok();
        daemon.lxc(&["start", "m"]).ok();
        daemon.lxc(&["delete", "-f", "n", "m"]).ok();
        daemon.lxc(&["storage", "volume", "create", pool, "v"]).ok();
        assert_eq!((config(&daemon, pool, "v"), total(&daemon, pool, "v")), (json!({"size": "10GiB"}), json!(0)));
    }
    daemon.lxc(&["start", "c"]).ok();
    daemon.lxc(&["stop", "-f", "c"]).ok();
    daemon.lxc(&["config", "device", "set", "c", "root", "size", "0"]).ok();
    daemon.lxc(&["move", "c", "-s", "d"]).ok();
    daemon.lxc(&["start", "c"]).ok();
}

#[test]
fn volumes_of_all_projects_are_listed_and_one_moves_between_them() {
    let daemon = Daemon::ready("dir");
    daemon.lxc(&["project", "create", "other"]).ok();
    daemon.lxc(&["storage", "volume", "create", "p", "v"]).ok();
    daemon.lxc(&["storage", "volume", "snapshot", "p", "v", "s"]).ok();
    daemon.lxc(&["storage", "volume", "create", "p", "w", "--project", "other"]).ok();
    let listed = || daemon.lxc(&["storage", "volume", "list", "p", "--all-projects", "-f", "csv"]).ok();
    let all = listed();
    for line in ["default,custom,v,", "default,custom (snapshot),v/s,", "other,custom,w,"] {
        assert!(all.contains(line), "{line}: {all}");
    }
    daemon.lxc(&["storage", "volume", "move", "p/v", "p/v", "--target-project", "other"]).ok();
    let all = listed();
    assert!(all.contains("other,custom (snapshot),v/s,") && !all.contains("default,custom,v,"), "{all}");
    done(&daemon, "POST", &format!("{}/v?project=other", volumes("p")), &json!({"name": "v", "project": "default"}));
    assert!(listed().contains("default,custom,v,"));
}

#[test]
fn the_size_of_a_snapshot_is_told_where_it_is_counted() {
    let daemon = Daemon::ready("btrfs");
    daemon.lxc(&["init", "bb", "c"]).ok();
    daemon.lxc(&["snapshot", "c", "s"]).ok();
    let size = || {
        let one = get(&daemon, "/1.0/instances/c/snapshots/s")["size"].as_i64().unwrap();
        assert_eq!(get(&daemon, "/1.0/instances/c/snapshots?recursion=1")[0]["size"].as_i64(), Some(one));
        one
    };
    // Nothing is counted before the first limit.
    assert_eq!(size(), -1);
    daemon.lxc(&["storage", "volume", "create", "p", "v", "size=50MiB"]).ok();
    support::eventually("the snapshot is counted", || size() >= 0);
    // As with LXD.
    assert_eq!(get(&daemon, "/1.0/instances/c?recursion=1")["snapshots"][0]["size"], -1);
    let plain = Daemon::ready("dir");
    plain.lxc(&["init", "bb", "c"]).ok();
    plain.lxc(&["snapshot", "c", "s"]).ok();
    assert_eq!(get(&plain, "/1.0/instances/c/snapshots/s")["size"], -1);
}

#[test]
fn a_snapshot_that_never_expires_has_no_time() {
    let daemon = Daemon::ready("dir");
    daemon.lxc(&["storage", "volume", "create", "p", "v"]).ok();
    daemon.lxc(&["storage", "volume", "snapshot", "p", "v", "s"]).ok();
    let (all, one) = (format!("{}/v/snapshots?recursion=1", volumes("p")), format!("{}/v/snapshots/s", volumes("p")));
    assert_eq!(get(&daemon, &all)[0]["expires_at"], Value::Null);
    assert_eq!(get(&daemon, &one)["expires_at"], "0001-01-01T00:00:00Z");
    let info = daemon.lxc(&["storage", "volume", "info", "p", "v"]).ok();
    assert!(!info.contains("0001"), "{info}");
    done(&daemon, "PUT", &one, &json!({"description": "x", "expires_at": "2130-01-01T00:00:00Z"}));
    done(&daemon, "PATCH", &one, &json!({"description": "y"}));
    assert_eq!(get(&daemon, &one)["expires_at"], "2130-01-01T00:00:00Z");
    done(&daemon, "PUT", &one, &json!({"description": "z"}));
    assert_eq!(get(&daemon, &all)[0]["expires_at"], Value::Null);
}

#[test]
fn the_files_of_an_image_go_from_a_pool_and_come_again() {
    for driver in ["btrfs", "overlay"] {
        let daemon = Daemon::ready(driver);
        daemon.lxc(&["launch", "bb", "c"]).ok();
        let images = "/1.0/storage-pools/p/volumes/image";
        let listed = get(&daemon, images);
        let fingerprint = listed[0].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        let there = daemon.state().join("storage-pools/p/images").join(&fingerprint);
        assert!(there.exists());
        daemon.lxc(&["storage", "volume", "delete", "p", &format!("image/{fingerprint}")]).ok();
        assert_eq!(get(&daemon, images), json!([]), "{driver}");
        // Where a container stands on them, they stay for that one.
        assert_eq!(there.exists(), driver == "overlay");
        refused(&daemon, "DELETE", &format!("{images}/{fingerprint}"), &json!({}), 404, "not found");
        daemon.lxc(&["restart", "-f", "c"]).ok();
        daemon.lxc(&["launch", "bb", "d"]).ok();
        assert_eq!(get(&daemon, images), listed, "{driver}");
    }
}

#[test]
fn a_refresh_goes_on_without_snapshots_that_are_deleted_meanwhile() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c"]).ok();
    daemon.lxc(&["copy", "c", "copy"]).ok();
    for _ in 0..4 {
        for name in ["a", "b", "d"] {
            daemon.lxc(&["snapshot", "c", name]).ok();
        }
        std::thread::scope(|scope| {
            let refresh = scope.spawn(|| daemon.lxc(&["copy", "c", "copy", "--refresh"]));
            for name in ["a", "b", "d"] {
                daemon.lxc(&["delete", &format!("c/{name}")]).ok();
            }
            refresh.join().unwrap().ok();
        });
        daemon.lxc(&["copy", "c", "copy", "--refresh"]).ok();
        assert_eq!(get(&daemon, "/1.0/instances/copy/snapshots"), json!([]));
    }
}

#[test]
fn what_is_written_on_the_volume_of_a_root_goes_with_its_instance() {
    let daemon = Daemon::ready("dir");
    daemon.lxc(&["init", "bb", "c"]).ok();
    let volume = |name: &str| get(&daemon, &format!("/1.0/storage-pools/p/volumes/container/{name}"));
    daemon.lxc(&["storage", "volume", "set", "p", "container/c", "user.x", "y"]).ok();
    done(&daemon, "PATCH", "/1.0/storage-pools/p/volumes/container/c", &json!({"description": "words"}));
    let written = |name: &str| (volume(name)["config"].clone(), volume(name)["description"].clone());
    let expected = (json!({"user.x": "y"}), json!("words"));
    assert_eq!(written("c"), expected);
    // Not a key of the instance's, nor taken away by whoever changes that.
    let config = get(&daemon, "/1.0/instances/c")["config"].clone();
    assert!(config.get("user.x").is_none(), "{config}");
    daemon.lxc(&["config", "set", "c", "user.own=1"]).ok();
    daemon.lxc(&["copy", "c", "d"]).ok();
    daemon.lxc(&["rename", "c", "e"]).ok();
    assert_eq!((written("d"), written("e")), (expected.clone(), expected));
    daemon.lxc(&["storage", "volume", "set", "p", "container/d", "size", "1GiB"]).refused("root disk");
    daemon.lxc(&["storage", "volume", "set", "p", "container/d", "nonsense", "1"]).refused("nonsense");
    daemon.lxc(&["storage", "volume", "unset", "p", "container/d", "user.x"]).ok();
    assert_eq!(volume("d")["config"], json!({}));
    let path = "/1.0/storage-pools/p/volumes/container/nosuch";
    refused(&daemon, "PUT", path, &json!({"config": {}}), 404, "not found");
}
