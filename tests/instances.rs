//! What can be done with instances beside starting and stopping one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use support::{Daemon, exists};

#[test]
fn a_stopped_instance_gets_another_name() {
    for driver in ["overlay", "dir"] {
        let mut daemon = Daemon::ready(driver);
        daemon.lxc(&["launch", "bb", "old"]).ok();
        daemon.lxc(&["exec", "old", "--", "sh", "-c", "echo kept > /root/file"]).ok();
        daemon.lxc(&["rename", "old", "new"]).refused("running");
        assert_eq!(daemon.status("old"), "Running");
        daemon.lxc(&["stop", "--force", "old"]).ok();
        daemon.lxc(&["init", "bb", "taken"]).ok();
        daemon.lxc(&["rename", "old", "taken"]).refused("already exists");
        assert_eq!(daemon.api("POST", "/1.0/instances/old", r#"{"name":"taken"}"#).0, 409);
        assert_eq!(daemon.api("POST", "/1.0/instances/old", r#"{"name":"a/b"}"#).0, 400);
        assert_eq!(daemon.api("POST", "/1.0/instances/old", "{}").0, 400);
        assert_eq!(daemon.api("POST", "/1.0/instances/nosuch", r#"{"name":"x"}"#).0, 404);
        // Its root is mounted for this, and for a while after it.
        assert_eq!(daemon.request("GET", "/1.0/instances/old/files?path=/root/file", &[], b"").0, 200);
        daemon.lxc(&["rename", "old", "new"]).ok();
        assert_eq!(daemon.status("old"), "none");
        assert!(
            !exists(&daemon.state().join("containers/old")) && exists(&daemon.state().join("containers/new/rootfs"))
        );
        assert!(!exists(&daemon.state().join("logs/old")) && exists(&daemon.state().join("logs/new/lxc.conf")));
        let (_, answer) = daemon.api("GET", "/1.0/instances/new", "");
        assert!(!answer.to_string().contains("renamed_from"), "{answer}");
        daemon.lxc(&["start", "new"]).ok();
        assert_eq!(daemon.lxc(&["exec", "new", "--", "sh", "-c", "hostname; cat /root/file"]).ok(), "new\nkept\n");
        daemon.kill();
        daemon.start();
        assert_eq!(daemon.status("new"), "Running");
    }
}

#[test]
fn all_instances_change_their_state_at_once() {
    let daemon = Daemon::ready("overlay");
    for name in ["a", "b", "c"] {
        daemon.lxc(&["init", "bb", name]).ok();
    }
    daemon.lxc(&["start", "b"]).ok();
    let change = |action: &str| {
        let body = format!(r#"{{"state":{{"action":"{action}","force":true}}}}"#);
        let (code, error, _) = daemon.operation("PUT", "/1.0/instances", &body);
        (code, error)
    };
    let all = || ["a", "b", "c"].map(|name| daemon.status(name)).join(" ");
    assert_eq!(change("start"), (200, String::new()));
    assert_eq!(all(), "Running Running Running");
    assert_eq!(change("freeze"), (200, String::new()));
    assert_eq!(all(), "Frozen Frozen Frozen");
    assert_eq!(change("unfreeze"), (200, String::new()));
    assert_eq!(change("stop"), (200, String::new()));
    assert_eq!(all(), "Stopped Stopped Stopped");
    daemon.lxc(&["config", "device", "add", "b", "eth0", "nic", "nictype=bridged", "parent=nosuchbr"]).ok();
    let (code, error) = change("start");
    assert!(code == 400 && error.starts_with("b: ") && error.contains("nosuchbr"), "{error}");
    assert_eq!(all(), "Running Stopped Running", "one that fails does not keep the others from it");
    assert_eq!(daemon.api("PUT", "/1.0/instances", "null").0, 400);
    assert_eq!(daemon.api("PUT", "/1.0/instances", r#"{"state":{"action":"explode"}}"#).0, 400);
    daemon.lxc(&["stop", "--all", "--force"]).ok();
    assert_eq!(all(), "Stopped Stopped Stopped");
}

#[test]
fn an_instance_without_a_name_gets_one_of_two_words() {
    let daemon = Daemon::ready("overlay");
    let said = daemon.lxc(&["init", "bb"]).ok();
    let name = said.lines().find_map(|line| line.split("name is: ").nth(1)).unwrap().trim().to_owned();
    assert_eq!(name.split('-').count(), 2, "{name}");
    assert_eq!(daemon.status(&name), "Stopped");
}

#[test]
fn metadata_and_templates_are_read_and_changed() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    let url = "/1.0/instances/c1/metadata";
    let (_, first) = daemon.api("GET", url, "");
    assert_eq!(
        (&first["metadata"]["architecture"], &first["metadata"]["properties"]["os"]),
        (&"x86_64".into(), &"busybox".into())
    );
    let new = r#"{"architecture":"x86_64","creation_date":7,"properties":{"a":"b"},
        "templates":{"/etc/x":{"when":["create"],"template":"x.tpl"}}}"#;
    assert_eq!(daemon.api("PUT", url, new).0, 200);
    assert_eq!(daemon.api("PATCH", url, r#"{"properties":{"c":"d"}}"#).0, 200);
    let (_, now) = daemon.api("GET", url, "");
    assert_eq!(now["metadata"]["properties"], serde_json::json!({"a": "b", "c": "d"}));
    assert_eq!(now["metadata"]["templates"]["/etc/x"]["template"], "x.tpl");
    let stale = [("If-Match", "\"0123\""), ("Content-Type", "application/json")];
    assert_eq!(daemon.api_raw("PUT", url, &stale, b"{}").0, 412);
    assert_eq!(daemon.api("PUT", url, r#"{"creation_date":"soon"}"#).0, 400);
    assert!(daemon.lxc(&["config", "metadata", "show", "c1"]).ok().contains("template: x.tpl"));

    let templates = format!("{url}/templates");
    assert_eq!(daemon.api("GET", &templates, "").1["metadata"], serde_json::json!([]));
    let named = |name: &str| format!("{templates}?path={name}");
    assert_eq!(daemon.api("POST", &named("x.tpl"), "hello {{ name }}").0, 200);
    assert_eq!(daemon.lxc(&["config", "template", "show", "c1", "x.tpl"]).ok().trim(), "hello {{ name }}");
    assert_eq!(daemon.api("GET", &templates, "").1["metadata"], serde_json::json!(["x.tpl"]));
    for bad in ["..%2Fmetadata.yaml", "%2Fetc%2Fpasswd", ".."] {
        assert_eq!(daemon.api("POST", &named(bad), "x").0, 400, "{bad}");
        assert_eq!(daemon.api("GET", &named(bad), "").0, 400, "{bad}");
    }
    assert_eq!(daemon.api("GET", &named("nosuch"), "").0, 404);
    assert_eq!(daemon.api("DELETE", &templates, "").0, 400);
    assert_eq!(daemon.api("DELETE", &named("x.tpl"), "").0, 200);
    assert_eq!(daemon.api("DELETE", &named("x.tpl"), "").0, 404);
    assert_eq!(daemon.api("GET", "/1.0/instances/nosuch/metadata", "").0, 404);
    daemon.lxc(&["init", "--empty", "bare"]).ok();
    assert_eq!(daemon.api("GET", "/1.0/instances/bare/metadata", "").1["metadata"]["creation_date"], 0);
}

#[test]
fn a_container_of_the_other_architecture_runs_as_such() {
    let daemon = Daemon::ready("overlay");
    let (_, server) = daemon.api("GET", "/1.0", "");
    let environment = &server["metadata"]["environment"];
    let own = environment["architectures"][0].as_str().unwrap();
    assert_eq!(environment["kernel_architecture"], own);
    for (group, feature) in [("kernel_features", "idmapped_mounts"), ("lxc_features", "pidfd")] {
        let word = &environment[group][feature];
        assert!(word == "true" || word == "false", "{group}.{feature} is {word}");
    }
    if let Some(other) = environment["architectures"].get(1).and_then(Value::as_str) {
        let body = format!(r#"{{"name":"c1","architecture":"{other}","source":{{"type":"image","alias":"bb"}}}}"#);
        let (code, error, _) = daemon.operation("POST", "/1.0/instances", &body);
        assert_eq!((code, error.as_str()), (200, ""));
        daemon.lxc(&["start", "c1"]).ok();
        assert_eq!(daemon.lxc(&["exec", "c1", "--", "busybox", "uname", "-m"]).ok().trim(), other);
    }
    let body = r#"{"name":"c2","architecture":"s390x","source":{"type":"image","alias":"bb"}}"#;
    let (status, answer) = daemon.api("POST", "/1.0/instances", body);
    let error = answer["error"].as_str().unwrap();
    assert!(status == 400 && error.contains("architecture") && error.contains(own), "{error}");
}

/// To set a value to nothing unsets it, wherever clients do it; `user.*` has a place in every device.
#[test]
fn empty_values_are_none_and_a_profile_stands_once() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    daemon.lxc(&["profile", "create", "p1"]).ok();
    let put = |url: &str, body: &str| daemon.api("PATCH", url, body);
    let nothing = r#"{"config":{"user.a":""},"devices":{"n":{"type":"nic","nictype":"p2p","name":"","user.x":"y"}}}"#;
    for url in ["/1.0/profiles/p1", "/1.0/instances/c1"] {
        assert_eq!(put(url, nothing).0, 200, "{url}");
        let shown = daemon.api("GET", url, "").1["metadata"].clone();
        assert_eq!(shown["config"].get("user.a"), None, "{url}");
        assert_eq!(shown["devices"]["n"], serde_json::json!({"type": "nic", "nictype": "p2p", "user.x": "y"}), "{url}");
    }
    daemon.lxc(&["image", "set-property", "bb", "a", "b"]).ok();
    daemon.lxc(&["image", "unset-property", "bb", "a"]).ok();
    daemon.lxc(&["image", "get-property", "bb", "a"]).refused("Property not found");
    daemon.lxc(&["profile", "add", "c1", "p1"]).ok();
    daemon.lxc(&["profile", "add", "c1", "p1"]).refused("twice");
    assert_eq!(daemon.api("GET", "/1.0/instances/c1/backups", "").1["metadata"], serde_json::json!([]));
    assert_eq!(daemon.api("POST", "/1.0/instances/c1/backups", "{}").0, 501);
}

#[test]
fn the_roots_of_instances_are_volumes_of_their_pool() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    assert!(daemon.lxc(&["storage", "volume", "list", "p", "--format", "csv"]).ok().starts_with("container,c1,"));
    assert!(daemon.lxc(&["storage", "volume", "show", "p", "container/c1"]).ok().contains("/1.0/instances/c1"));
    daemon.lxc(&["storage", "volume", "show", "p", "container/c2"]).refused("not found");
    assert_eq!(daemon.api("GET", "/1.0/storage-pools/p/volumes/custom", "").1["metadata"], serde_json::json!([]));
    assert_eq!(daemon.api("GET", "/1.0/storage-pools/p/volumes/nonsense", "").0, 400);
}

/// Found side by side with LXD 5.0.2 (tests/long/side-by-side).
#[test]
fn nics_have_addresses_before_the_first_start_and_nobody_loses_a_root_or_a_network() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["profile", "device", "add", "default", "eth0", "nic", "nictype=p2p"]).ok();
    daemon.lxc(&["init", "bb", "c1"]).ok();
    let address = daemon.lxc(&["config", "get", "c1", "volatile.eth0.hwaddr"]).ok();
    assert!(address.starts_with("00:16:3e:"), "{address}");
    daemon.lxc(&["config", "device", "add", "c1", "n2", "nic", "nictype=p2p"]).ok();
    assert!(daemon.lxc(&["config", "get", "c1", "volatile.n2.hwaddr"]).ok().starts_with("00:16:3e:"));
    daemon.lxc(&["config", "set", "c1", "user.a", "b"]).ok();
    assert_eq!(daemon.lxc(&["config", "get", "c1", "volatile.eth0.hwaddr"]).ok(), address);

    daemon.lxc(&["config", "device", "add", "c1", "n3", "nic", "network=nosuch"]).refused("not found");
    daemon.lxc(&["init", "bb", "c2", "-n", "nosuch"]).refused("not found");
    daemon.lxc(&["profile", "device", "remove", "default", "root"]).refused("in use by /1.0/instances/c1");
    daemon
        .lxc(&["profile", "device", "set", "default", "root", "pool", "nosuch"])
        .refused("in use by /1.0/instances/c1");
    assert_eq!(daemon.api("DELETE", "/1.0/profiles/default", "").0, 403);
    let absent = r#"{"profiles":["nosuch"]}"#;
    assert_eq!(daemon.api("PUT", "/1.0/instances/c1", absent).0, 404);

    let list = |kind: &str| daemon.api("GET", &format!("/1.0/instances?instance-type={kind}"), "");
    assert_eq!(list("virtual-machine").1["metadata"], serde_json::json!([]));
    assert_eq!(list("container").1["metadata"], serde_json::json!(["/1.0/instances/c1"]));
    assert_eq!(list("nonsense").0, 400);
    let elsewhere = r#"{"name":"c3","source":{"type":"none"}}"#;
    assert_eq!(daemon.api("POST", "/1.0/instances?target=other", elsewhere).0, 400);
}

/// One without it would not come back.
#[test]
fn the_root_disk_of_a_running_instance_cannot_be_taken_away() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    let before = daemon.api("GET", "/1.0/instances/c1", "").1;
    for root in [r#"{"type":"none"}"#, r#"{"type":"disk","path":"/x","source":"/etc"}"#] {
        let body = format!(r#"{{"devices":{{"root":{root}}}}}"#);
        let (code, said) = daemon.api("PATCH", "/1.0/instances/c1", &body);
        assert_eq!(code, 400, "{said}");
        assert!(said["error"].as_str().unwrap().contains("No root device"), "{said}");
        assert_eq!(daemon.api("PATCH", "/1.0/instances/c1?dry-run=1", &body).0, 400);
    }
    assert_eq!(daemon.api("GET", "/1.0/instances/c1", "").1, before);
    daemon.lxc(&["restart", "--force", "c1"]).ok();
}

/// Whoever has a name by the end is the one that every verb is about, however names went from one to another meanwhile.
#[test]
fn names_that_change_hands_lose_nobody() {
    const ROUNDS: usize = 60;
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "kept"]).ok();
    let made = |name: &str| {
        let source = json!({"type": "image", "alias": "bb"});
        daemon.api("POST", "/1.0/instances", &json!({"name": name, "source": source}).to_string())
    };
    let ends = |(status, answer): (u16, Value)| {
        if status == 202 {
            daemon.api("GET", &format!("{}/wait", answer["operation"].as_str().unwrap()), "");
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                ends(made("x"));
                ends(daemon.api("POST", "/1.0/instances/x", r#"{"name":"y"}"#));
                ends(daemon.api("DELETE", "/1.0/instances/y", ""));
            }
        });
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                ends(made("y"));
                ends(daemon.api("DELETE", "/1.0/instances/y", ""));
            }
        });
        // A name that is taken: who means that one must not reach the one that wants it.
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                ends(daemon.api("POST", "/1.0/instances/kept", r#"{"name":"y"}"#));
                ends(daemon.api("POST", "/1.0/instances/y", r#"{"name":"kept"}"#));
            }
        });
    });
    for name in ["x", "y", "kept"] {
        let known = daemon.api("GET", &format!("/1.0/instances/{name}"), "").0 == 200;
        assert_eq!(daemon.lxc(&["delete", name]).code == 0, known, "{name}");
    }
}
