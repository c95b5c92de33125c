//! What projects limit and forbid: at the creation and the change of what lies in them, and when they change themselves.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use support::Daemon;
use support::api::{done, get, refused};

const SHARED: [(&str, &str); 3] =
    [("features.images", "false"), ("features.profiles", "false"), ("features.storage.volumes", "true")];

/// `config` over a project that shares images and profiles.
fn shared(config: Value) -> Value {
    let mut all: serde_json::Map<String, Value> =
        SHARED.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    all.extend(config.as_object().cloned().unwrap_or_default());
    json!({"config": all})
}

fn instance(name: &str, config: Value) -> Value {
    json!({"name": name, "source": {"type": "none"}, "config": config})
}

#[test]
fn instances_are_counted() {
    let daemon = Daemon::ready("overlay");
    done(
        &daemon,
        "POST",
        "/1.0/projects",
        &json!({"name": "p", "config": shared(json!({"limits.instances": "1"}))["config"]}),
    );
    done(&daemon, "POST", "/1.0/instances?project=p", &instance("a", json!({})));
    let more = instance("b", json!({}));
    refused(
        &daemon,
        "POST",
        "/1.0/instances?project=p",
        &more,
        400,
        "Reached maximum number of instances in project \"p\"",
    );
    done(&daemon, "POST", "/1.0/instances", &more);
    for (key, word) in
        [("limits.instances", "there currently are 1 instances"), ("limits.containers", "instances of type")]
    {
        refused(&daemon, "PUT", "/1.0/projects/p", &shared(json!({key: "0"})), 400, word);
    }
    done(&daemon, "PUT", "/1.0/projects/p", &shared(json!({"limits.containers": "1", "limits.virtual-machines": "0"})));
    refused(&daemon, "POST", "/1.0/instances?project=p", &more, 400, "instances of type \"container\"");
    // Neither by a copy nor by a move.
    let copy = json!({"name": "b", "source": {"type": "copy", "source": "a"}});
    refused(&daemon, "POST", "/1.0/instances?project=p", &copy, 400, "Reached maximum");
    daemon.lxc(&["move", "b", "--target-project", "p"]).refused("Reached maximum");
    assert_eq!(get(&daemon, "/1.0/instances"), json!(["/1.0/instances/b"]));
    let state = get(&daemon, "/1.0/projects/p/state");
    assert_eq!(state["resources"]["containers"], json!({"Limit": 1, "Usage": 1}));
    assert_eq!(state["resources"]["virtual-machines"], json!({"Limit": 0, "Usage": 0}));
    assert_eq!(state["resources"]["instances"], json!({"Limit": -1, "Usage": 1}));
    done(&daemon, "DELETE", "/1.0/instances/a?project=p", &json!({}));
    daemon.lxc(&["move", "b", "--target-project", "p"]).ok();
}

#[test]
fn what_instances_have_together_is_bounded() {
    let daemon = Daemon::ready("overlay");
    done(&daemon, "POST", "/1.0/projects", &json!({"name": "p", "config": shared(json!({}))["config"]}));
    done(&daemon, "POST", "/1.0/instances?project=p", &instance("a", json!({})));
    for (key, value, own) in
        [("limits.memory", "1GB", "512MB"), ("limits.cpu", "2", "1"), ("limits.processes", "20", "10")]
    {
        let limit = shared(json!({key: value}));
        let unset = format!("Instance \"a\" in project \"p\" has no {key:?} config");
        refused(&daemon, "PUT", "/1.0/projects/p", &limit, 400, &unset);
        done(&daemon, "PATCH", "/1.0/instances/a?project=p", &json!({"config": {key: own}}));
        done(&daemon, "PUT", "/1.0/projects/p", &limit);
        refused(
            &daemon,
            "PUT",
            "/1.0/projects/p",
            &shared(json!({key: "1"})),
            if key == "limits.cpu" { 200 } else { 400 },
            if key == "limits.cpu" { "" } else { "is too low: current total is" },
        );
        done(&daemon, "PUT", "/1.0/projects/p", &limit);
        // A new one must say its part, in numbers, and fit in.
        refused(
            &daemon,
            "POST",
            "/1.0/instances?project=p",
            &instance("b", json!({})),
            400,
            "Instance \"b\" in project \"p\" has no",
        );
        let part = if key == "limits.memory" { "10%" } else { "0-1" };
        if key != "limits.processes" {
            refused(
                &daemon,
                "POST",
                "/1.0/instances?project=p",
                &instance("b", json!({key: part})),
                400,
                "Failed parsing",
            );
        }
        let much = if key == "limits.memory" { "600MB" } else { "19" };
        let word = format!("Reached maximum aggregate value {value:?} for {key:?} in project \"p\"");
        refused(&daemon, "POST", "/1.0/instances?project=p", &instance("b", json!({key: much})), 400, &word);
        done(&daemon, "POST", "/1.0/instances?project=p", &instance("b", json!({key: own.replace("512", "400")})));
        // Changed, it must still fit; unset, it is not known.
        refused(&daemon, "PATCH", "/1.0/instances/b?project=p", &json!({"config": {key: much}}), 400, &word);
        refused(&daemon, "PATCH", "/1.0/instances/b?project=p", &json!({"config": {key: ""}}), 400, "has no");
        let name = key.strip_prefix("limits.").unwrap();
        let known = &get(&daemon, "/1.0/projects/p/state")["resources"][name];
        assert!(known["Usage"].as_i64().unwrap() > 1 && known["Limit"].as_i64().unwrap() > 1, "{known}");
        // What a shared profile says counts, whoever changes it.
        done(&daemon, "POST", "/1.0/profiles", &json!({"name": "big", "config": {key: much}}));
        let own = own.replace("512", "400");
        let with = json!({"profiles": ["default", "big"], "config": {key: own}});
        done(&daemon, "PATCH", "/1.0/instances/b?project=p", &with);
        done(&daemon, "PATCH", "/1.0/profiles/big", &json!({"config": {"user.x": "y"}}));
        done(&daemon, "PATCH", "/1.0/projects/p", &json!({"config": {key: ""}}));
        done(&daemon, "PATCH", "/1.0/instances/b?project=p", &json!({"config": {key: ""}}));
        refused(&daemon, "PUT", "/1.0/projects/p", &limit, 400, "is too low");
        done(&daemon, "PATCH", "/1.0/profiles/big", &json!({"config": {key: own}}));
        done(&daemon, "PUT", "/1.0/projects/p", &limit);
        refused(&daemon, "PATCH", "/1.0/profiles/big", &json!({"config": {key: much}}), 400, &word);
        refused(&daemon, "PATCH", "/1.0/profiles/big", &json!({"config": {key: ""}}), 400, "has no");
        done(&daemon, "DELETE", "/1.0/instances/b?project=p", &json!({}));
        done(&daemon, "DELETE", "/1.0/profiles/big", &json!({}));
    }
}

#[test]
fn of_two_at_once_one_is_too_many() {
    let daemon = Daemon::ready("overlay");
    done(
        &daemon,
        "POST",
        "/1.0/projects",
        &json!({"name": "p", "config": shared(json!({"limits.instances": "3"}))["config"]}),
    );
    let operations: Vec<String> = std::thread::scope(|scope| {
        let one = |number: usize| {
            let daemon = &daemon;
            scope.spawn(move || {
                let body = instance(&format!("c{number}"), json!({})).to_string();
                let (_, answer) = daemon.api("POST", "/1.0/instances?project=p", &body);
                answer["operation"].as_str().filter(|url| !url.is_empty()).map(str::to_owned)
            })
        };
        let all: Vec<_> = (0..8).map(one).collect();
        all.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    for operation in &operations {
        assert_eq!(get(&daemon, &format!("{operation}/wait"))["status_code"], 200);
    }
    assert_eq!(operations.len(), 3);
}

#[test]
fn networks_are_counted_and_kept_from_a_project() {
    let daemon = Daemon::ready("overlay");
    let name = format!("wpl{:x}", std::process::id() % 0xff_ffff);
    let bridge = json!({"name": name, "type": "bridge", "config": {"ipv4.address": "none", "ipv6.address": "none"}});
    done(&daemon, "PATCH", "/1.0/projects/default", &json!({"config": {"limits.networks": "0"}}));
    refused(&daemon, "POST", "/1.0/networks", &bridge, 400, "Reached maximum number of networks");
    done(&daemon, "PATCH", "/1.0/projects/default", &json!({"config": {"limits.networks": "1"}}));
    done(&daemon, "POST", "/1.0/networks", &bridge);
    refused(&daemon, "PATCH", "/1.0/projects/default", &json!({"config": {"limits.networks": "0"}}), 400, "networks");
    done(&daemon, "PATCH", "/1.0/projects/default", &json!({"config": {"limits.networks": ""}}));

    let config = json!({"features.images": "false", "restricted": "true", "restricted.networks.access": "other"});
    done(&daemon, "POST", "/1.0/projects", &json!({"name": "r", "config": config}));
    let url = format!("/1.0/networks/{name}");
    for path in ["", "/state", "/leases", "/forwards"] {
        refused(&daemon, "GET", &format!("{url}{path}?project=r"), &json!({}), 404, "Network not found");
    }
    refused(&daemon, "PATCH", &format!("{url}?project=r"), &json!({"description": "x"}), 404, "Network not found");
    refused(&daemon, "DELETE", &format!("{url}?project=r"), &json!({}), 404, "Network not found");
    refused(&daemon, "POST", "/1.0/networks?project=r", &json!({"name": "wplx", "type": "bridge"}), 403, "not allowed");
    assert_eq!(get(&daemon, "/1.0/networks?project=r"), json!([]));
    let nic = json!({"name": "x", "devices": {"eth0": {"type": "nic", "network": name}}});
    refused(&daemon, "POST", "/1.0/profiles?project=r", &nic, 400, "Network not allowed in project");
    done(
        &daemon,
        "PATCH",
        "/1.0/projects/r",
        &json!({"config": {"restricted.networks.access": format!("other,{name}")}}),
    );
    assert_eq!(get(&daemon, "/1.0/networks?project=r"), json!([url]));
    done(&daemon, "POST", "/1.0/profiles?project=r", &nic);
    refused(
        &daemon,
        "PATCH",
        "/1.0/projects/r",
        &json!({"config": {"restricted.networks.access": "other"}}),
        400,
        "Conflict",
    );
    assert_eq!(get(&daemon, &url)["used_by"], json!(["/1.0/profiles/x?project=r"]));
    done(&daemon, "DELETE", "/1.0/profiles/x?project=r", &json!({}));
}

/// A restricted project with a root disk in its profile.
fn restricted() -> Daemon {
    let daemon = Daemon::ready("overlay");
    let config = json!({"features.images": "false", "restricted": "true"});
    done(&daemon, "POST", "/1.0/projects", &json!({"name": "r", "config": config}));
    let root = json!({"devices": {"root": {"type": "disk", "path": "/", "pool": "p"}}});
    done(&daemon, "PATCH", "/1.0/profiles/default?project=r", &root);
    daemon
}

#[test]
fn a_restricted_project_needs_profiles_of_its_own() {
    let daemon = Daemon::bare();
    let body = json!({"name": "r", "config": shared(json!({"restricted": "true"}))["config"]});
    refused(&daemon, "POST", "/1.0/projects", &body, 400, "without their own profiles cannot be restricted");
    done(&daemon, "POST", "/1.0/projects", &json!({"name": "r", "config": {"restricted": "true"}}));
    let without = json!({"config": {"features.profiles": "false"}});
    refused(&daemon, "PATCH", "/1.0/projects/r", &without, 400, "cannot be restricted");
}

#[test]
fn keys_are_restricted() {
    let daemon = restricted();
    let url = "/1.0/instances/a?project=r";
    done(&daemon, "POST", "/1.0/instances?project=r", &instance("a", json!({})));
    let rows: &[(&str, &str, &str, &str)] = &[
        ("security.nesting", "true", "restricted.containers.nesting", "allow"),
        ("security.privileged", "true", "restricted.containers.privilege", "allow"),
        ("raw.lxc", "lxc.environment = A=b", "restricted.containers.lowlevel", "allow"),
        ("linux.kernel_modules", "overlay", "restricted.containers.lowlevel", "allow"),
        ("raw.idmap", "both 1000 1000", "restricted.containers.lowlevel", "allow"),
        ("security.syscalls.intercept.mknod", "true", "restricted.containers.interception", "allow"),
        ("security.syscalls.intercept.mount.allowed", "ext4", "restricted.containers.interception", "full"),
    ];
    for (key, value, by, granted) in rows {
        let config = json!({"config": {*key: value}});
        refused(&daemon, "PATCH", url, &config, 400, key);
        refused(&daemon, "POST", "/1.0/instances?project=r", &instance("b", json!({*key: value})), 400, key);
        refused(&daemon, "PATCH", "/1.0/profiles/default?project=r", &config, 400, key);
        refused(&daemon, "POST", "/1.0/profiles?project=r", &json!({"name": "x", "config": {*key: value}}), 400, key);
        done(&daemon, "PATCH", "/1.0/projects/r", &json!({"config": {*by: granted}}));
        done(&daemon, "PATCH", url, &config);
        // Taken back while somebody has it: who is said.
        let back = json!({"config": {*by: ""}});
        refused(&daemon, "PATCH", "/1.0/projects/r", &back, 400, "container \"a\" of project \"r\"");
        done(&daemon, "PATCH", url, &json!({"config": {*key: ""}}));
        done(&daemon, "PATCH", "/1.0/projects/r", &back);
    }
    // Ids of the host that are named.
    let ids = json!({"config": {"restricted.idmap.uid": "1000-1005", "restricted.idmap.gid": "1000"}});
    done(&daemon, "PATCH", "/1.0/projects/r", &ids);
    done(&daemon, "PATCH", url, &json!({"config": {"raw.idmap": "both 1000 1000\nuid 1005 5"}}));
    refused(&daemon, "PATCH", url, &json!({"config": {"raw.idmap": "gid 1005 5"}}), 400, "raw.idmap");
    done(&daemon, "PATCH", url, &json!({"config": {"raw.idmap": ""}}));
    // Isolated ids.
    let isolated = json!({"config": {"restricted.containers.privilege": "isolated"}});
    refused(&daemon, "PATCH", "/1.0/projects/r", &isolated, 400, "Non-isolated");
    done(&daemon, "PATCH", url, &json!({"config": {"security.idmap.isolated": "true"}}));
    done(&daemon, "PATCH", "/1.0/projects/r", &isolated);
    refused(&daemon, "PATCH", url, &json!({"config": {"security.idmap.isolated": "false"}}), 400, "Non-isolated");
    // What is the daemon's own.
    refused(&daemon, "PATCH", url, &json!({"config": {"volatile.uuid": "x"}}), 400, "Setting \"volatile.uuid\"");
    let body = instance("b", json!({"volatile.idmap.base": "1"}));
    refused(&daemon, "POST", "/1.0/instances?project=r", &body, 400, "Setting \"volatile.idmap.base\"");
    // A snapshot from before it was restricted does not bring back what is forbidden.
    done(&daemon, "PATCH", "/1.0/projects/r", &json!({"config": {"restricted": "false"}}));
    done(&daemon, "PATCH", url, &json!({"config": {"security.nesting": "true"}}));
    done(&daemon, "POST", "/1.0/instances/a/snapshots?project=r", &json!({"name": "s"}));
    done(&daemon, "PATCH", url, &json!({"config": {"security.nesting": ""}}));
    done(&daemon, "PATCH", "/1.0/projects/r", &json!({"config": {"restricted": "true"}}));
    daemon.lxc(&["--project", "r", "restore", "a", "s"]).refused("nesting");
    refused(&daemon, "POST", "/1.0/instances/a/snapshots?project=r", &json!({"name": "t"}), 400, "snapshot creation");
    done(&daemon, "PATCH", "/1.0/projects/r", &json!({"config": {"restricted.snapshots": "allow"}}));
    done(&daemon, "POST", "/1.0/instances/a/snapshots?project=r", &json!({"name": "t"}));
    // Nor does a move bring it in.
    daemon.lxc(&["init", "bb", "m", "-c", "security.nesting=true"]).ok();
    daemon.lxc(&["move", "m", "--target-project", "r"]).refused("nesting");
    daemon.lxc(&["copy", "m", "m", "--target-project", "r"]).refused("nesting");
    assert_eq!(get(&daemon, "/1.0/instances?project=r"), json!(["/1.0/instances/a?project=r"]));
}

#[test]
fn devices_are_restricted() {
    let daemon = restricted();
    let url = "/1.0/instances/a?project=r";
    done(&daemon, "POST", "/1.0/instances?project=r", &instance("a", json!({})));
    let source = daemon.root.join("home").display().to_string();
    let rows: &[(Value, &str, &str)] = &[
        (json!({"type": "disk", "source": source, "path": "/mnt"}), "restricted.devices.disk", "not backed by a pool"),
        (json!({"type": "nic", "nictype": "p2p"}), "restricted.devices.nic", "Only managed network devices"),
        (json!({"type": "unix-char", "path": "/dev/null"}), "restricted.devices.unix-char", "Unix character devices"),
        (
            json!({"type": "unix-block", "path": "/dev/x", "required": "false"}),
            "restricted.devices.unix-block",
            "Unix block devices",
        ),
        (
            json!({"type": "unix-hotplug", "vendorid": "1234"}),
            "restricted.devices.unix-hotplug",
            "Unix hotplug devices",
        ),
        (json!({"type": "usb"}), "restricted.devices.usb", "USB devices"),
        (json!({"type": "gpu"}), "restricted.devices.gpu", "GPU devices"),
        (
            json!({"type": "proxy", "listen": "tcp:127.0.0.1:1", "connect": "tcp:127.0.0.1:1"}),
            "restricted.devices.proxy",
            "Proxy devices",
        ),
    ];
    for (device, by, word) in rows {
        let devices = json!({"devices": {"d": device}});
        refused(&daemon, "PATCH", url, &devices, 400, word);
        refused(&daemon, "PATCH", "/1.0/profiles/default?project=r", &devices, 400, word);
        done(&daemon, "PATCH", "/1.0/projects/r", &json!({"config": {*by: "allow"}}));
        done(&daemon, "PATCH", url, &devices);
        refused(&daemon, "PATCH", "/1.0/projects/r", &json!({"config": {*by: ""}}), 400, "Conflict detected");
        done(&daemon, "PATCH", url, &json!({"devices": {"d": {"type": "none"}}}));
        done(&daemon, "PATCH", "/1.0/projects/r", &json!({"config": {*by: ""}}));
    }
    let paths = json!({"config": {"restricted.devices.disk": "allow", "restricted.devices.disk.paths": format!("{source},/srv")}});
    done(&daemon, "PATCH", "/1.0/projects/r", &paths);
    let disk = |source: &str| json!({"devices": {"d": {"type": "disk", "source": source, "path": "/mnt"}}});
    done(&daemon, "PATCH", url, &disk(&source));
    // A link that lies below and leads out, of an instance that is down and of one that runs.
    std::os::unix::fs::symlink("/etc", daemon.root.join("home/out")).unwrap();
    let out = disk(&format!("{source}/out"));
    refused(&daemon, "PATCH", url, &out, 400, "not allowed");
    daemon.lxc(&["--project", "r", "init", "bb", "b"]).ok();
    daemon.lxc(&["--project", "r", "start", "b"]).ok();
    let running = "/1.0/instances/b?project=r";
    refused(&daemon, "PATCH", running, &out, 400, "not allowed");
    std::fs::create_dir(daemon.root.join("home/dir")).unwrap();
    std::os::unix::fs::symlink("dir", daemon.root.join("home/in")).unwrap();
    done(&daemon, "PATCH", running, &disk(&format!("{source}/in")));
    daemon.lxc(&["--project", "r", "stop", "--force", "b"]).ok();
    // Put there when nobody asks any more.
    std::fs::remove_file(daemon.root.join("home/in")).unwrap();
    std::os::unix::fs::symlink("/etc", daemon.root.join("home/in")).unwrap();
    daemon.lxc(&["--project", "r", "start", "b"]).refused("not allowed");
    for outside in ["/etc".to_owned(), format!("{source}x")] {
        refused(&daemon, "PATCH", url, &disk(&outside), 400, "not allowed");
    }
}

#[test]
fn custom_volumes_count_for_the_disk_and_lie_apart() {
    let daemon = Daemon::ready("dir");
    let url = "/1.0/storage-pools/p/volumes/custom";
    done(
        &daemon,
        "POST",
        "/1.0/projects",
        &json!({"name": "q", "config": shared(json!({"limits.disk": "1GB"}))["config"]}),
    );
    let volume = |name: &str, size: &str| json!({"name": name, "config": {"size": size}});
    refused(
        &daemon,
        "POST",
        &format!("{url}?project=q"),
        &json!({"name": "v"}),
        400,
        "Custom volume \"v\" in project \"q\" has no \"size\"",
    );
    done(&daemon, "POST", &format!("{url}?project=q"), &volume("v", "600MB"));
    done(&daemon, "POST", url, &json!({"name": "v"}));
    refused(
        &daemon,
        "POST",
        &format!("{url}?project=q"),
        &volume("w", "500MB"),
        400,
        "Reached maximum aggregate value \"1GB\" for \"limits.disk\"",
    );
    daemon.lxc(&["--project", "q", "storage", "volume", "copy", "p/v", "p/w"]).refused("Reached maximum");
    refused(&daemon, "PUT", &format!("{url}/v?project=q"), &json!({"config": {"size": "2GB"}}), 400, "Reached maximum");
    done(&daemon, "POST", &format!("{url}/v?project=q"), &json!({"name": "w"}));
    refused(&daemon, "PATCH", "/1.0/projects/q", &json!({"config": {"limits.disk": "500MB"}}), 400, "is too low");
    assert_eq!(
        get(&daemon, "/1.0/projects/q/state")["resources"]["disk"],
        json!({"Limit": 1_000_000_000, "Usage": 600_000_000})
    );
    assert_eq!(get(&daemon, "/1.0/projects/q")["used_by"], json!([format!("{url}/w?project=q")]));
    refused(&daemon, "DELETE", "/1.0/projects/q", &json!({}), 400, "Only empty projects");
    assert_eq!(get(&daemon, url), json!([format!("{url}/v")]));
    let all = json!([format!("{url}/v"), format!("{url}/w?project=q")]);
    assert_eq!(get(&daemon, &format!("{url}?all-projects=true")), all);
    // One without volumes of its own sees those of default.
    done(&daemon, "POST", "/1.0/projects", &json!({"name": "s", "config": {"features.storage.volumes": "false"}}));
    assert_eq!(get(&daemon, &format!("{url}?project=s")), json!([format!("{url}/v")]));
    // A restricted one makes no snapshots of them.
    done(&daemon, "POST", "/1.0/projects", &json!({"name": "r", "config": {"restricted": "true"}}));
    done(&daemon, "POST", &format!("{url}?project=r"), &json!({"name": "x"}));
    refused(&daemon, "POST", &format!("{url}/x/snapshots?project=r"), &json!({"name": "s1"}), 400, "snapshot creation");
    for url in [format!("{url}/x?project=r"), format!("{url}/w?project=q"), format!("{url}/v")] {
        done(&daemon, "DELETE", &url, &json!({}));
    }
    done(&daemon, "DELETE", "/1.0/projects/q", &json!({}));
}
