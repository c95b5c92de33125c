//! Projects: made, changed, renamed, deleted; what they share and what they have of their own; the same names in two.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use support::api::{done, get, refused};
use support::namespaces::isolated;
use support::{Daemon, eventually};

#[track_caller]
fn project(daemon: &Daemon, name: &str, config: Value) {
    done(daemon, "POST", "/1.0/projects", &json!({"name": name, "config": config}));
}

/// An instance without an image.
fn empty(name: &str) -> Value {
    json!({"name": name, "source": {"type": "none"}})
}

const OWN: &str = "features.images=false";

#[test]
fn a_project_is_made_changed_renamed_and_deleted() {
    let daemon = Daemon::bare();
    project(&daemon, "p1", json!({}));
    let features = json!({"features.images": "true", "features.profiles": "true", "features.storage.volumes": "true"});
    let shown = get(&daemon, "/1.0/projects/p1");
    let expected =
        json!({"name": "p1", "description": "", "config": features, "used_by": ["/1.0/profiles/default?project=p1"]});
    assert_eq!(shown, expected);
    let profiles = get(&daemon, "/1.0/profiles?project=p1&recursion=1");
    assert_eq!(profiles[0]["description"], "Default LXD profile for project p1");
    refused(&daemon, "POST", "/1.0/projects", &json!({"name": "p1"}), 409, "already exists");
    for (name, word) in [
        ("", "No name"),
        ("*", "Reserved"),
        ("a b", "spaces"),
        ("a/b", "slashes"),
        ("a_b", "underscores"),
        ("a'b", "quotes"),
        ("a\"b", "quotes"),
        ("..", "\"..\""),
        (".", "\"..\""),
        ("a,b", "letters"),
        ("ä", "letters"),
    ] {
        refused(&daemon, "POST", "/1.0/projects", &json!({"name": name}), 400, word);
    }
    for (key, value, word) in [
        ("nonsense", "x", "nonsense"),
        ("features.images", "maybe", "features.images"),
        ("limits.cpu", "0-1", "limits.cpu"),
        ("limits.memory", "10%", "limits.memory"),
        ("restricted.devices.nic", "some", "restricted.devices.nic"),
        ("restricted.devices.disk.paths", "x", "absolute"),
        ("restricted.idmap.uid", "a", "restricted.idmap.uid"),
        ("restricted.networks.subnets", "192.0.2.0/24", "subnet"),
        ("images.compression_algorithm", "zip", "gzip"),
    ] {
        refused(&daemon, "POST", "/1.0/projects", &json!({"name": "q", "config": {key: value}}), 400, word);
        refused(&daemon, "PATCH", "/1.0/projects/p1", &json!({"config": {key: value}}), 400, word);
    }

    done(&daemon, "PATCH", "/1.0/projects/p1", &json!({"description": "one", "config": {"user.a": "b"}}));
    let shown = get(&daemon, "/1.0/projects/p1");
    assert_eq!((&shown["description"], &shown["config"]["user.a"]), (&json!("one"), &json!("b")));
    assert_eq!(shown["config"]["features.images"], "true", "a PATCH leaves the rest");
    done(&daemon, "PUT", "/1.0/projects/p1", &json!({"config": {"features.images": "true"}}));
    assert_eq!(get(&daemon, "/1.0/projects/p1")["config"], json!({"features.images": "true"}));
    // Without profiles of its own it sees those of default.
    assert_eq!(get(&daemon, "/1.0/profiles?project=p1"), get(&daemon, "/1.0/profiles"));
    assert_eq!(get(&daemon, "/1.0/projects/p1")["used_by"], json!([]));
    done(&daemon, "PATCH", "/1.0/projects/p1", &json!({"config": {"features.profiles": "true"}}));
    assert_eq!(get(&daemon, "/1.0/profiles?project=p1"), json!(["/1.0/profiles/default?project=p1"]));

    let wait = |answer: (u16, Value)| {
        let (_, end) = daemon.api("GET", &format!("{}/wait", answer.1["operation"].as_str().unwrap()), "");
        end["metadata"].clone()
    };
    let end = wait(daemon.api("POST", "/1.0/projects/p1", r#"{"name":"p2"}"#));
    assert_eq!((&end["status_code"], &end["description"]), (&json!(200), &json!("Renaming project")));
    assert_eq!(get(&daemon, "/1.0/projects/p2")["used_by"], json!(["/1.0/profiles/default?project=p2"]));
    refused(&daemon, "GET", "/1.0/projects/p1", &json!({}), 404, "Project not found");
    refused(&daemon, "POST", "/1.0/projects/p2", &json!({"name": "default"}), 400, "already exists");
    refused(&daemon, "POST", "/1.0/projects/nosuch", &json!({"name": "x"}), 404, "Project not found");

    done(&daemon, "POST", "/1.0/profiles?project=p2", &json!({"name": "own"}));
    refused(&daemon, "DELETE", "/1.0/projects/p2", &json!({}), 400, "Only empty projects can be removed");
    refused(&daemon, "POST", "/1.0/projects/p2", &json!({"name": "p3"}), 400, "Only empty projects can be renamed");
    let profiles = json!({"config": {"features.profiles": "false"}});
    refused(&daemon, "PATCH", "/1.0/projects/p2", &profiles, 400, "cannot be disabled on non-empty projects");
    let networks = json!({"config": {"features.networks": "true"}});
    refused(&daemon, "PATCH", "/1.0/projects/p2", &networks, 400, "cannot be enabled on non-empty projects");
    refused(&daemon, "DELETE", "/1.0/profiles/default?project=p2", &json!({}), 403, "default");
    done(&daemon, "DELETE", "/1.0/profiles/own?project=p2", &json!({}));
    done(&daemon, "DELETE", "/1.0/projects/p2", &json!({}));
    refused(&daemon, "DELETE", "/1.0/projects/p2", &json!({}), 404, "Project not found");
    assert_eq!(get(&daemon, "/1.0/projects"), json!(["/1.0/projects/default"]));
}

#[test]
fn the_default_project_stays_what_it_is() {
    let daemon = Daemon::bare();
    refused(&daemon, "DELETE", "/1.0/projects/default", &json!({}), 403, "The 'default' project cannot be deleted");
    refused(&daemon, "POST", "/1.0/projects/default", &json!({"name": "x"}), 403, "cannot be renamed");
    let features = json!({"features.images": "true", "features.networks": "true", "features.profiles": "true", "features.storage.volumes": "true"});
    assert_eq!(get(&daemon, "/1.0/projects/default")["config"], features);
    for body in [json!({"config": {}}), json!({"config": {"features.images": "true"}})] {
        refused(&daemon, "PUT", "/1.0/projects/default", &body, 400, "features of the default project");
    }
    done(&daemon, "PATCH", "/1.0/projects/default", &json!({"config": {"limits.instances": "1"}, "description": "d"}));
    let shown = get(&daemon, "/1.0/projects/default");
    assert_eq!((&shown["config"]["limits.instances"], &shown["description"]), (&json!("1"), &json!("d")));
    done(&daemon, "PUT", "/1.0/projects/default", &json!({"config": features, "description": "Default LXD project"}));
}

#[test]
fn of_two_changes_at_once_one_is_told() {
    let daemon = Daemon::bare();
    project(&daemon, "p1", json!({}));
    let (head, _) = daemon.exchange("GET", "/1.0/projects/p1", &[], b"");
    let etag = head.lines().find_map(|line| line.to_lowercase().strip_prefix("etag: ").map(str::to_owned)).unwrap();
    let body = br#"{"config":{"user.a":"b"}}"#;
    for method in ["PATCH", "PUT"] {
        let (status, _) = daemon.api_raw(method, "/1.0/projects/p1", &[("If-Match", "\"other\"")], body);
        assert_eq!(status, 412);
    }
    assert_eq!(daemon.api_raw("PATCH", "/1.0/projects/p1", &[("If-Match", &etag)], body).0, 200);
    assert_eq!(daemon.api_raw("PATCH", "/1.0/projects/p1", &[("If-Match", &etag)], body).0, 412);
}

#[test]
fn the_stock_client_manages_projects() {
    let daemon = Daemon::ready("overlay");
    let lxc = |words: &[&str]| daemon.lxc(words);
    lxc(&["project", "create", "p1", "-c", OWN, "-c", "features.profiles=false"]).ok();
    lxc(&["project", "set", "p1", "user.a=b"]).ok();
    assert_eq!(lxc(&["project", "get", "p1", "user.a"]).ok(), "b\n");
    lxc(&["project", "unset", "p1", "user.a"]).ok();
    assert!(lxc(&["project", "show", "p1"]).ok().contains("features.images: \"false\""));
    let edited = b"config:\n  features.storage.volumes: \"true\"\n  user.c: d\ndescription: told\n";
    daemon.lxc_with_input(&["project", "edit", "p1"], edited).ok();
    let list = lxc(&["project", "list", "--format", "csv"]).ok();
    assert!(list.contains("default (current),YES,YES,YES,YES,Default LXD project,3"), "{list}");
    assert!(list.contains("p1,NO,NO,YES,NO,told,0"), "{list}");
    lxc(&["project", "switch", "nosuch"]).refused("Project not found");
    lxc(&["project", "switch", "p1"]).ok();
    lxc(&["init", "bb", "c1"]).ok();
    assert_eq!(lxc(&["list", "--format", "csv", "-c", "n"]).ok(), "c1\n");
    lxc(&["project", "switch", "default"]).ok();
    assert_eq!(lxc(&["list", "--format", "csv", "-c", "n"]).ok(), "");
    lxc(&["--project", "p1", "start", "c1"]).ok();
    assert_eq!(lxc(&["list", "--all-projects", "--format", "csv", "-c", "ens"]).ok(), "p1,c1,RUNNING\n");
    let info = lxc(&["project", "info", "p1", "--format", "csv"]).ok();
    assert!(info.contains("INSTANCES,UNLIMITED,1") && info.contains("MEMORY,UNLIMITED,0B"), "{info}");
    lxc(&["project", "delete", "p1"]).refused("Only empty projects can be removed");
    lxc(&["project", "rename", "p1", "p2"]).refused("Only empty projects can be renamed");
    lxc(&["--project", "p1", "delete", "--force", "c1"]).ok();
    lxc(&["project", "rename", "p1", "p2"]).ok();
    lxc(&["project", "delete", "p2"]).ok();
    lxc(&["project", "delete", "default"]).refused("cannot be deleted");
}

#[test]
fn the_same_names_live_side_by_side() {
    let mut daemon = Daemon::ready("overlay");
    project(&daemon, "p", json!({"features.images": "false", "features.profiles": "false"}));
    for (project, text) in [("default", "one"), ("p", "two")] {
        let lxc = |words: &[&str]| daemon.lxc(&[&["--project", project], words].concat());
        lxc(&["init", "bb", "c1", "-c", &format!("user.meta-data=x: {text}")]).ok();
        daemon.lxc_with_input(&["--project", project, "file", "push", "-", "c1/root/f"], text.as_bytes()).ok();
        lxc(&["snapshot", "c1", "s1"]).ok();
        lxc(&["start", "c1"]).ok();
        lxc(&["config", "set", "c1", &format!("user.who={text}")]).ok();
    }
    let pid = |query: &str| get(&daemon, &format!("/1.0/instances/c1/state{query}"))["pid"].as_i64().unwrap();
    let pids = (pid(""), pid("?project=p"));
    assert_ne!(pids.0, pids.1);
    for (project, text) in [("default", "one"), ("p", "two")] {
        let lxc = |words: &[&str]| daemon.lxc(&[&["--project", project], words].concat());
        assert_eq!(lxc(&["exec", "c1", "--", "cat", "/root/f"]).ok(), text);
        assert_eq!(lxc(&["file", "pull", "c1/root/f", "-"]).ok(), text);
        assert_eq!(lxc(&["exec", "c1", "--", "hostname"]).ok(), "c1\n", "without the project");
        assert_eq!(lxc(&["config", "get", "c1", "user.who"]).ok(), format!("{text}\n"));
        assert!(lxc(&["info", "c1", "--show-log"]).ok().contains("Log:"));
        assert!(lxc(&["console", "c1", "--show-log"]).code == 0);
        lxc(&["exec", "c1", "--", "sh", "-c", "echo changed > /root/f"]).ok();
        lxc(&["restore", "c1", "s1"]).ok();
        assert_eq!(lxc(&["file", "pull", "c1/root/f", "-"]).ok(), text);
    }
    for dir in ["containers", "snapshots", "logs"] {
        for name in ["c1", "p_c1"] {
            assert!(support::exists(&daemon.state().join(dir).join(name)), "{dir}/{name}");
        }
    }
    // The next daemon knows both.
    let pids = (pid(""), pid("?project=p"));
    daemon.kill();
    daemon.start();
    let pid = |query: &str| get(&daemon, &format!("/1.0/instances/c1/state{query}"))["pid"].as_i64().unwrap();
    assert_eq!((pid(""), pid("?project=p")), pids);
    daemon.lxc(&["stop", "--force", "c1"]).ok();
    assert_eq!(get(&daemon, "/1.0/instances/c1?project=p")["status"], "Running");
    daemon.lxc(&["--project", "p", "rename", "c1", "c2"]).refused("running");
    daemon.lxc(&["--project", "p", "stop", "--force", "c1"]).ok();
    daemon.lxc(&["--project", "p", "rename", "c1", "c2"]).ok();
    assert_eq!(daemon.lxc(&["file", "pull", "--project", "p", "c2/root/f", "-"]).ok(), "two");
    assert_eq!(daemon.lxc(&["file", "pull", "c1/root/f", "-"]).ok(), "one");
}

#[test]
fn lists_are_of_a_project_or_of_all() {
    let daemon = Daemon::ready("overlay");
    project(&daemon, "p", json!({"features.images": "false", "features.profiles": "false"}));
    done(&daemon, "POST", "/1.0/instances", &empty("a"));
    done(&daemon, "POST", "/1.0/instances?project=p", &empty("b"));
    for (path, expected) in [
        ("/1.0/instances", json!(["/1.0/instances/a"])),
        ("/1.0/instances?project=", json!(["/1.0/instances/a"])),
        ("/1.0/instances?project=p", json!(["/1.0/instances/b?project=p"])),
        ("/1.0/containers?project=p", json!(["/1.0/containers/b?project=p"])),
        ("/1.0/instances?all-projects=true", json!(["/1.0/instances/a", "/1.0/instances/b?project=p"])),
        ("/1.0/storage-pools/p/volumes", json!(["/1.0/storage-pools/p/volumes/container/a"])),
        ("/1.0/storage-pools/p/volumes?project=p", json!(["/1.0/storage-pools/p/volumes/container/b?project=p"])),
    ] {
        assert_eq!(get(&daemon, path), expected, "{path}");
    }
    let both = get(&daemon, "/1.0/instances?all-projects=true&recursion=2");
    assert_eq!((&both[0]["project"], &both[1]["project"]), (&json!("default"), &json!("p")));
    refused(&daemon, "GET", "/1.0/instances?all-projects=true&project=p", &json!({}), 400, "all projects");
    assert_eq!(
        get(&daemon, "/1.0/storage-pools/p")["used_by"],
        json!(["/1.0/instances/a", "/1.0/instances/b?project=p", "/1.0/profiles/default"])
    );
    assert_eq!(
        get(&daemon, "/1.0/profiles/default?project=p")["used_by"],
        json!(["/1.0/instances/a", "/1.0/instances/b?project=p"])
    );
    assert_eq!(get(&daemon, "/1.0/projects/p")["used_by"], json!(["/1.0/instances/b?project=p"]));
    let of = |query: &str| get(&daemon, &format!("/1.0/operations{query}"))["success"].as_array().map_or(0, Vec::len);
    assert_eq!(of("?all-projects=true"), of("") + of("?project=p"));
    assert!(of("?project=p") == 1);
    for path in [
        "/1.0/instances",
        "/1.0/containers",
        "/1.0/profiles",
        "/1.0/images",
        "/1.0/images/aliases",
        "/1.0/networks",
        "/1.0/network-acls",
        "/1.0/operations",
        "/1.0/warnings",
        "/1.0/storage-pools/p/volumes",
        "/1.0/instances/a",
    ] {
        for name in ["nosuch", "a_b", "%2A"] {
            refused(&daemon, "GET", &format!("{path}?project={name}"), &json!({}), 404, "Project not found");
        }
    }
    // Whoever asks the server what it is may name any.
    assert_eq!(get(&daemon, "/1.0?project=nosuch")["environment"]["project"], "nosuch");
    for path in ["/1.0/projects", "/1.0/storage-pools", "/1.0/certificates", "/1.0/resources"] {
        assert_eq!(daemon.api("GET", &format!("{path}?project=nosuch"), "").0, 200, "{path}");
    }
}

#[test]
fn what_a_project_has_of_its_own_others_do_not_see() {
    let daemon = Daemon::ready("overlay");
    project(&daemon, "own", json!({}));
    project(&daemon, "shared", json!({"features.images": "false", "features.profiles": "false"}));
    // Images.
    assert_eq!(get(&daemon, "/1.0/images?project=own"), json!([]));
    let image = get(&daemon, "/1.0/images?project=shared");
    assert_eq!(image, get(&daemon, "/1.0/images"));
    daemon.lxc(&["--project", "own", "init", "bb", "c1"]).refused("not found");
    let (meta, root) = daemon.busybox();
    let import =
        ["--project", "own", "image", "import", meta.to_str().unwrap(), root.to_str().unwrap(), "--alias", "bb"];
    daemon.lxc(&import).ok();
    let url = image[0].as_str().unwrap();
    assert_eq!(get(&daemon, "/1.0/images?project=own"), json!([format!("{url}?project=own")]));
    assert_eq!(get(&daemon, "/1.0/images/aliases?project=own"), json!(["/1.0/images/aliases/bb?project=own"]));
    let all = get(&daemon, "/1.0/images?all-projects=true");
    assert_eq!(all, json!([url, format!("{url}?project=own")]));
    // Profiles.
    daemon.lxc(&["--project", "own", "init", "bb", "c1"]).refused("root");
    daemon.lxc(&["--project", "own", "profile", "device", "add", "default", "root", "disk", "path=/", "pool=p"]).ok();
    daemon.lxc(&["--project", "own", "launch", "bb", "c1"]).ok();
    assert_eq!(get(&daemon, "/1.0/profiles/default?project=own")["used_by"], json!(["/1.0/instances/c1?project=own"]));
    assert_eq!(get(&daemon, "/1.0/profiles/default")["used_by"], json!([]));
    done(&daemon, "POST", "/1.0/profiles?project=shared", &json!({"name": "x"}));
    assert_eq!(get(&daemon, "/1.0/profiles/x?project=shared"), get(&daemon, "/1.0/profiles/x"));
    refused(&daemon, "GET", "/1.0/profiles/x?project=own", &json!({}), 404, "Profile not found");
    // A profile of default changes the instances of those who share it, and is renamed with them.
    done(
        &daemon,
        "POST",
        "/1.0/instances?project=shared",
        &json!({"name": "c2", "source": {"type": "none"}, "profiles": ["default", "x"]}),
    );
    done(&daemon, "PATCH", "/1.0/profiles/x", &json!({"config": {"user.y": "z"}}));
    assert_eq!(get(&daemon, "/1.0/instances/c2?project=shared")["expanded_config"]["user.y"], "z");
    refused(&daemon, "DELETE", "/1.0/profiles/x", &json!({}), 400, "in use");
    done(&daemon, "POST", "/1.0/profiles/x?project=shared", &json!({"name": "y"}));
    assert_eq!(get(&daemon, "/1.0/instances/c2?project=shared")["profiles"], json!(["default", "y"]));
    // The files of an image go with its last project.
    done(&daemon, "DELETE", url, &json!({}));
    daemon.lxc(&["--project", "own", "init", "bb", "c3"]).ok();
    refused(&daemon, "GET", url, &json!({}), 404, "not found");
    // Networks: none can be made outside of default, which one without its own sees.
    done(&daemon, "POST", "/1.0/projects", &json!({"name": "net", "config": {"features.networks": "true"}}));
    assert_eq!(get(&daemon, "/1.0/networks?project=net"), json!([]));
    assert_eq!(get(&daemon, "/1.0/networks?project=own"), get(&daemon, "/1.0/networks"));
    let bridge = json!({"name": "wrnpjn0", "type": "bridge"});
    refused(&daemon, "POST", "/1.0/networks?project=net", &bridge, 400, "does not support non-default projects");
    refused(&daemon, "GET", "/1.0/networks/lo?project=net", &json!({}), 404, "Network not found");
    done(&daemon, "POST", "/1.0/network-acls?project=net", &json!({"name": "acl1"}));
    assert_eq!(get(&daemon, "/1.0/network-acls?project=net"), json!(["/1.0/network-acls/acl1?project=net"]));
    assert_eq!(get(&daemon, "/1.0/network-acls"), json!([]));
    refused(&daemon, "DELETE", "/1.0/projects/net", &json!({}), 400, "network-acls/acl1");
}

#[test]
fn events_say_the_project() {
    let daemon = Daemon::ready("overlay");
    project(&daemon, "p", json!({"features.images": "false", "features.profiles": "false"}));
    let log = daemon.root.join("events");
    let mut monitor = daemon
        .client()
        .args(["monitor", "--all-projects", "--type", "lifecycle", "--format", "json"])
        .stdout(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let events = || -> Vec<(String, String, String)> {
        let text = std::fs::read_to_string(&log).unwrap();
        let all = serde_json::Deserializer::from_str(&text).into_iter::<Value>().filter_map(Result::ok);
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        all.map(|e| (word(&e["project"]), word(&e["metadata"]["action"]), word(&e["metadata"]["source"]))).collect()
    };
    // It tells nothing of when it listens.
    eventually("the monitor listens", || {
        daemon.api("PATCH", "/1.0/profiles/default", r#"{"description":"x"}"#);
        !events().is_empty()
    });
    done(&daemon, "POST", "/1.0/projects", &json!({"name": "q"}));
    done(&daemon, "POST", "/1.0/instances?project=p", &empty("c1"));
    done(&daemon, "POST", "/1.0/profiles?project=p", &json!({"name": "x"}));
    done(&daemon, "POST", "/1.0/profiles?project=q", &json!({"name": "x"}));
    done(&daemon, "DELETE", "/1.0/profiles/x?project=q", &json!({}));
    done(&daemon, "POST", "/1.0/projects/q", &json!({"name": "r"}));
    done(&daemon, "DELETE", "/1.0/projects/r", &json!({}));
    let expected = [
        ("q", "project-created", "/1.0/projects/q"),
        ("p", "instance-created", "/1.0/instances/c1?project=p"),
        ("default", "profile-created", "/1.0/profiles/x"),
        ("q", "profile-created", "/1.0/profiles/x?project=q"),
        ("q", "profile-deleted", "/1.0/profiles/x?project=q"),
        ("r", "project-renamed", "/1.0/projects/r"),
        ("r", "project-deleted", "/1.0/projects/r"),
    ];
    eventually("all events", || events().iter().filter(|event| event.1 != "profile-updated").count() >= expected.len());
    let _ = monitor.kill();
    let _ = monitor.wait();
    // The stock client writes them down in any order.
    let mut found: Vec<_> = events().into_iter().filter(|event| event.1 != "profile-updated").collect();
    let mut expected: Vec<_> = expected.iter().map(|e| (e.0.to_owned(), e.1.to_owned(), e.2.to_owned())).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

/// Moved within a pool, with what belongs to it.
fn is_moved(driver: &str) {
    let daemon = Daemon::ready(driver);
    let shared = json!({"features.images": "false", "features.profiles": "false"});
    project(&daemon, "p", shared);
    project(&daemon, "own", json!({}));
    daemon.lxc(&["init", "bb", "c1", "-c", "user.note=one"]).ok();
    daemon.lxc_with_input(&["file", "push", "-", "c1/root/f"], b"one").ok();
    daemon.lxc(&["snapshot", "c1", "s1"]).ok();
    daemon.lxc_with_input(&["file", "push", "-", "c1/root/f"], b"two").ok();
    let pulled = |project: &str, place: &str| daemon.lxc(&["--project", project, "file", "pull", place, "-"]).ok();

    daemon.lxc(&["copy", "c1", "c1", "--target-project", "p"]).ok();
    assert_eq!((pulled("default", "c1/root/f"), pulled("p", "c1/root/f")), ("two".into(), "two".into()));
    assert_eq!(
        get(&daemon, "/1.0/instances/c1/snapshots?project=p"),
        json!(["/1.0/instances/c1/snapshots/s1?project=p"])
    );
    daemon.lxc(&["move", "c1", "--target-project", "p"]).refused("already");
    daemon.lxc(&["--project", "p", "restore", "c1", "s1"]).ok();
    assert_eq!((pulled("default", "c1/root/f"), pulled("p", "c1/root/f")), ("two".into(), "one".into()));
    daemon.lxc(&["--project", "p", "delete", "c1"]).ok();

    daemon.lxc(&["start", "c1"]).ok();
    let there = json!({"name": "c1", "migration": true, "project": "p"});
    let (_, answer) = daemon.api("POST", "/1.0/instances/c1", &there.to_string());
    let (_, end) = daemon.api("GET", &format!("{}/wait", answer["operation"].as_str().unwrap()), "");
    assert!(end["metadata"]["err"].as_str().unwrap().contains("running"), "{end}");
    daemon.lxc(&["stop", "--force", "c1"]).ok();
    refused(
        &daemon,
        "POST",
        "/1.0/instances/c1",
        &json!({"name": "c1", "project": "nosuch"}),
        404,
        "Project not found",
    );

    daemon.lxc(&["move", "c1", "--target-project", "p"]).ok();
    assert_eq!(get(&daemon, "/1.0/instances"), json!([]));
    let shown = get(&daemon, "/1.0/instances/c1?project=p");
    assert_eq!((&shown["config"]["user.note"], &shown["project"]), (&json!("one"), &json!("p")));
    assert_eq!(pulled("p", "c1/root/f"), "two");
    daemon.lxc(&["--project", "p", "start", "c1"]).ok();
    assert_eq!(daemon.lxc(&["--project", "p", "exec", "c1", "--", "cat", "/root/f"]).ok(), "two");
    daemon.lxc(&["--project", "p", "restore", "c1", "s1"]).ok();
    assert_eq!(pulled("p", "c1/root/f"), "one");
    daemon.lxc(&["--project", "p", "stop", "--force", "c1"]).ok();

    // To profiles without a root disk, with another name: it brings its own.
    daemon.lxc(&["--project", "p", "move", "c1", "c2", "--target-project", "own"]).ok();
    let shown = get(&daemon, "/1.0/instances/c2?project=own");
    assert_eq!(shown["devices"]["root"], json!({"type": "disk", "path": "/", "pool": "p"}));
    daemon.lxc(&["--project", "own", "start", "c2"]).ok();
    daemon.lxc(&["--project", "own", "stop", "--force", "c2"]).ok();
    // Back, by its old name, and to another pool at once.
    done(&daemon, "POST", "/1.0/storage-pools", &json!({"name": "other", "driver": "dir"}));
    let back = json!({"name": "c1", "migration": true, "project": "default", "pool": "other"});
    done(&daemon, "POST", "/1.0/instances/c2?project=own", &back);
    let shown = get(&daemon, "/1.0/instances/c1");
    assert_eq!(shown["devices"]["root"], json!({"type": "disk", "path": "/", "pool": "other"}));
    assert_eq!(get(&daemon, "/1.0/instances/c1/snapshots").as_array().unwrap().len(), 1);
    assert_eq!(pulled("default", "c1/root/f"), "one");
    daemon.lxc(&["move", "c1", "c2", "--target-project", "own"]).ok();
    // What its profiles lack there is said.
    done(&daemon, "POST", "/1.0/profiles", &json!({"name": "x"}));
    done(
        &daemon,
        "POST",
        "/1.0/instances",
        &json!({"name": "c3", "source": {"type": "none"}, "profiles": ["default", "x"]}),
    );
    daemon.lxc(&["move", "c3", "--target-project", "own"]).refused("Profile \"x\" not found");
    assert_eq!(get(&daemon, "/1.0/instances"), json!(["/1.0/instances/c3"]));
    for dir in ["containers", "logs", "snapshots"] {
        let names = |name: &str| support::exists(&daemon.state().join(dir).join(name));
        assert!(!names("c1") && !names("p_c1") && names("own_c2"), "{dir}");
    }
}

#[test]
fn an_instance_of_an_overlay_pool_moves_to_another_project() {
    is_moved("overlay");
}

#[test]
fn an_instance_of_a_dir_pool_moves_to_another_project() {
    is_moved("dir");
}

#[test]
fn a_preseed_brings_projects() {
    let daemon = Daemon::bare();
    let preseed = "projects:\n- name: p\n  description: one\n  config:\n    features.images: false\n    limits.instances: 4\n\
                   profiles:\n- name: x\n  project: p\n  config:\n    user.a: b\n";
    daemon.verb_with_input(&["init", "--preseed"], preseed).ok();
    let shown = get(&daemon, "/1.0/projects/p");
    assert_eq!(
        (&shown["config"]["limits.instances"], &shown["config"]["features.images"]),
        (&json!("4"), &json!("false"))
    );
    assert_eq!(get(&daemon, "/1.0/profiles/x?project=p")["config"], json!({"user.a": "b"}));
    daemon.verb_with_input(&["init", "--preseed"], "projects:\n- name: p\n  config:\n    limits.instances: 5\n").ok();
    let shown = get(&daemon, "/1.0/projects/p");
    assert_eq!((&shown["config"]["limits.instances"], &shown["description"]), (&json!("5"), &json!("one")));
    let dump = daemon.verb(&["init", "--dump"]).ok();
    assert!(dump.contains("name: p\n") && dump.contains("features.networks: 'true'"), "{dump}");
    daemon.verb_with_input(&["init", "--preseed"], &dump).ok();
    // One that fails takes the others back.
    let wrong = "projects:\n- name: q\n- name: r\n  config:\n    nonsense: 1\n";
    daemon.verb_with_input(&["init", "--preseed"], wrong).refused("nonsense");
    assert_eq!(get(&daemon, "/1.0/projects"), json!(["/1.0/projects/default", "/1.0/projects/p"]));
}

#[test]
fn names_on_a_network_say_the_project() {
    isolated("names_on_a_network_say_the_project", || {
        let daemon = Daemon::ready("overlay");
        let network = json!({"name": "wpj0", "config": {"ipv4.address": "10.71.3.1/24", "ipv6.address": "none"}});
        done(&daemon, "POST", "/1.0/networks", &network);
        daemon.lxc(&["profile", "device", "add", "default", "eth0", "nic", "network=wpj0", "name=eth0"]).ok();
        project(&daemon, "p", json!({"features.images": "false", "features.profiles": "false"}));
        daemon.lxc(&["launch", "bb", "c1"]).ok();
        daemon.lxc(&["--project", "p", "launch", "bb", "c1"]).ok();
        let leases = |query: &str| get(&daemon, &format!("/1.0/networks/wpj0/leases{query}"));
        let address = |query: &str| {
            let all = leases(query);
            let of = all.as_array().unwrap().iter().find(|lease| lease["hostname"] == "c1");
            of.and_then(|lease| lease["address"].as_str().map(str::to_owned))
        };
        eventually("both have addresses", || address("").is_some() && address("?project=p").is_some());
        assert_ne!(address(""), address("?project=p"));
        // The network's own address is nobody's there.
        assert!(leases("?project=p").as_array().unwrap().iter().all(|lease| lease["type"] == "dynamic"));
        let hosts = daemon.state().join("networks/wpj0/dnsmasq.hosts");
        let line = |file: &str| std::fs::read_to_string(hosts.join(file)).unwrap();
        assert!(line("c1.eth0").trim_end().ends_with(",c1"), "{}", line("c1.eth0"));
        // dnsmasq would take the first part of it for the name.
        assert!(line("p_c1.eth0").starts_with("#c1.p\n"), "{}", line("p_c1.eth0"));
        assert_eq!(
            get(&daemon, "/1.0/networks/wpj0")["used_by"],
            json!(["/1.0/profiles/default", "/1.0/instances/c1", "/1.0/instances/c1?project=p"])
        );
        // A fixed address is one's own across projects.
        daemon.lxc(&["config", "device", "override", "c1", "eth0", "ipv4.address=10.71.3.20"]).ok();
        let same = ["--project", "p", "config", "device", "override", "c1", "eth0", "ipv4.address=10.71.3.20"];
        daemon.lxc(&same).refused("10.71.3.20");
        // One without the networks of default does not see it.
        project(&daemon, "own", json!({"features.networks": "true", "features.profiles": "false"}));
        refused(&daemon, "POST", "/1.0/instances?project=own", &empty("c1"), 400, "wpj0");
        refused(&daemon, "GET", "/1.0/networks/wpj0?project=own", &json!({}), 404, "Network not found");
    });
}
