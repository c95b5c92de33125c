//! The stock client of LXD 5.0.2 against a running daemon: the road of the first slice.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use support::{Daemon, eventually};

#[test]
fn the_life_of_a_container_on_overlay() {
    life("overlay");
}

#[test]
fn the_life_of_a_container_on_dir() {
    life("dir");
}

fn life(driver: &str) {
    let daemon = Daemon::ready(driver);
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    assert_eq!(daemon.lxc(&["list", "-c", "ns", "-f", "csv"]).ok(), "c1,RUNNING\n");
    assert_eq!(daemon.lxc(&["list", "status=stopped", "-c", "n", "-f", "csv"]).ok(), "");
    assert!(daemon.lxc(&["info", "c1"]).ok().contains("Status: RUNNING"));
    assert_eq!(daemon.lxc(&["exec", "c1", "--", "hostname"]).ok(), "c1\n");
    daemon.lxc(&["start", "c1"]).refused("already running");
    assert_eq!(daemon.status("c1"), "Running");

    daemon.lxc(&["pause", "c1"]).ok();
    assert_eq!(daemon.status("c1"), "Frozen");
    daemon.lxc(&["exec", "c1", "--", "true"]).refused("frozen");
    daemon.lxc(&["start", "c1"]).ok();
    assert_eq!(daemon.status("c1"), "Running");

    daemon.lxc(&["exec", "c1", "--", "sh", "-c", "echo kept > /root/file"]).ok();
    daemon.lxc(&["delete", "c1"]).refused("running");
    daemon.lxc(&["stop", "c1"]).ok();
    assert_eq!(daemon.status("c1"), "Stopped");
    daemon.lxc(&["stop", "c1"]).refused("already stopped");
    daemon.lxc(&["pause", "c1"]).refused("isn't running");
    daemon.lxc(&["start", "c1"]).ok();
    assert_eq!(daemon.lxc(&["exec", "c1", "--", "cat", "/root/file"]).ok(), "kept\n");
    daemon.lxc(&["restart", "--force", "c1"]).ok();
    assert_eq!(daemon.status("c1"), "Running");
    daemon.lxc(&["restart", "c1"]).ok();
    daemon.lxc(&["delete", "--force", "c1"]).ok();
    assert_eq!(daemon.lxc(&["list", "-f", "csv"]).ok(), "");
    daemon.lxc(&["exec", "c1", "--", "true"]).refused("Instance not found");
}

#[test]
fn exec_has_pipes_codes_environment_user_and_directory() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    let sh = |script: &str| daemon.lxc(&["exec", "c1", "--", "sh", "-c", script]);
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)] {
        assert_eq!(sh(script).code, code, "{script}");
    }
    assert_eq!(daemon.lxc(&["exec", "c1", "--", "nosuch"]).code, 127);
    assert_eq!(daemon.lxc(&["exec", "c1", "--", "/etc"]).code, 126);
    let both = sh("echo out; echo err >&2");
    assert_eq!((both.out.as_str(), both.err.as_str()), ("out\n", "err\n"));
    assert_eq!(daemon.lxc_with_input(&["exec", "c1", "--", "cat"], b"through\n").ok(), "through\n");
    assert_eq!(sh("head -c 3000000 /dev/zero").ok().len(), 3_000_000);
    // A child that keeps the pipe open does not hold up the end.
    assert_eq!(sh("sleep 1000 & echo done").ok(), "done\n");
    let said = daemon
        .lxc(&["exec", "c1", "--env", "A=b", "--cwd", "/etc", "--user", "7", "--group", "8", "--", "sh", "-c"])
        .code;
    assert_ne!(said, 0, "a shell without its script");
    let said = daemon.lxc(&[
        "exec",
        "c1",
        "--env",
        "A=b",
        "--cwd",
        "/etc",
        "--user",
        "7",
        "--group",
        "8",
        "--",
        "sh",
        "-c",
        "echo $A; pwd; id -u; id -g",
    ]);
    assert_eq!(said.ok(), "b\n/etc\n7\n8\n");
    daemon.lxc(&["config", "set", "c1", "environment.FOO", "bar"]).ok();
    assert_eq!(sh("echo $FOO $HOME $USER").ok(), "bar /root root\n");
    let tty = daemon.lxc(&["exec", "c1", "-t", "--", "sh", "-c", "tty; test -t 0 && echo terminal"]).ok();
    assert!(tty.contains("/dev/pts/") && tty.contains("terminal"), "{tty}");
}

#[test]
fn a_container_is_unprivileged_and_confined() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    let status = daemon.lxc(&["exec", "c1", "--", "cat", "/proc/1/status"]).ok();
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_owned();
    let bounding = u64::from_str_radix(&field("CapBnd:"), 16).unwrap();
    for capability in [16, 17, 25, 32, 33] {
        assert_eq!(bounding & (1 << capability), 0, "capability {capability}");
    }
    assert_eq!(field("Seccomp:"), "2");
    let map = daemon.lxc(&["exec", "c1", "--", "cat", "/proc/1/uid_map"]).ok();
    assert_ne!(map.split_whitespace().nth(1), Some("0"), "root inside is nobody outside");
    let owner = std::fs::metadata(format!("/proc/{}", daemon.instance_pid("c1"))).unwrap();
    assert_ne!(std::os::unix::fs::MetadataExt::uid(&owner), 0);
}

#[test]
fn images_come_in_both_formats_and_go() {
    let daemon = Daemon::bare();
    let unified = daemon.busybox_unified();
    let said =
        daemon.lxc(&["image", "import", unified.to_str().unwrap(), "--alias", "one", "--public", "user.a=b"]).ok();
    assert!(said.contains("fingerprint"));
    let (meta, root) = daemon.busybox();
    daemon.lxc(&["image", "import", meta.to_str().unwrap(), root.to_str().unwrap(), "--alias", "two/x"]).ok();
    daemon.lxc(&["image", "import", meta.to_str().unwrap(), root.to_str().unwrap()]).refused("already exists");
    let list = daemon.lxc(&["image", "list", "-f", "csv"]).ok();
    assert_eq!(list.lines().count(), 2);
    assert!(list.contains("one,") && list.contains("two/x,"));
    assert!(daemon.lxc(&["image", "info", "one"]).ok().contains("os: busybox"));
    daemon.lxc(&["image", "alias", "create", "three", "nosuch"]).refused("not found");
    daemon.lxc(&["image", "alias", "rename", "one", "uno"]).ok();
    daemon.lxc(&["image", "alias", "delete", "uno"]).ok();
    let out = daemon.root.join("out");
    std::fs::create_dir(&out).unwrap();
    daemon.lxc(&["image", "export", "two/x", out.to_str().unwrap()]).ok();
    let sizes: Vec<u64> = std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
    let wanted = std::fs::metadata(&meta).unwrap().len() + std::fs::metadata(&root).unwrap().len();
    assert_eq!(sizes.iter().sum::<u64>(), wanted);
    daemon.lxc(&["image", "delete", "two/x"]).ok();
    daemon.lxc(&["image", "delete", "two/x"]).refused("not found");
}

#[test]
fn a_unified_image_runs_on_all_drivers_and_outlives_its_deletion() {
    let daemon = Daemon::bare();
    let unified = daemon.busybox_unified();
    daemon.lxc(&["image", "import", unified.to_str().unwrap(), "--alias", "u"]).ok();
    for driver in ["overlay", "dir", "btrfs"] {
        daemon.lxc(&["storage", "create", driver, driver]).ok();
        daemon.lxc(&["launch", "u", &format!("on-{driver}"), "-s", driver]).ok();
    }
    daemon.lxc(&["image", "delete", "u"]).ok();
    for driver in ["overlay", "dir", "btrfs"] {
        let name = format!("on-{driver}");
        daemon.lxc(&["restart", "--force", &name]).ok();
        assert_eq!(daemon.lxc(&["exec", &name, "--", "hostname"]).ok().trim(), name);
    }
    daemon.lxc(&["storage", "delete", "dir"]).refused("in use");
}

#[test]
fn profiles_are_made_changed_applied_and_deleted() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["profile", "create", "web"]).ok();
    daemon.lxc(&["profile", "create", "web"]).refused("already exists");
    daemon.lxc(&["profile", "set", "web", "environment.ROLE", "web"]).ok();
    daemon.lxc(&["profile", "set", "web", "nonsense", "1"]).refused("nonsense");
    daemon.lxc(&["profile", "set", "web", "boot.autostart", "maybe"]).refused("boot.autostart");
    daemon.lxc(&["profile", "device", "add", "web", "eth0", "nic", "nictype=p2p"]).ok();
    daemon.lxc(&["profile", "device", "add", "web", "gpu", "gpu", "gputype=mdev"]).refused("gputype");
    daemon.lxc(&["launch", "bb", "c1", "-p", "default", "-p", "web"]).ok();
    assert_eq!(daemon.lxc(&["exec", "c1", "--", "sh", "-c", "echo $ROLE; ls /sys/class/net"]).ok(), "web\neth0\nlo\n");
    daemon.lxc(&["profile", "delete", "web"]).refused("in use");
    daemon.lxc_with_input(&["profile", "edit", "web"], b"config: {user.x: y}\ndescription: d\ndevices: {}\n").ok();
    let shown = daemon.lxc(&["profile", "show", "web"]).ok();
    assert!(shown.contains("user.x: \"y\"") && shown.contains("- /1.0/instances/c1"), "{shown}");
    daemon.lxc(&["profile", "assign", "c1", "default"]).ok();
    daemon.lxc(&["profile", "rename", "web", "webs"]).ok();
    daemon.lxc(&["profile", "delete", "webs"]).ok();
    daemon.lxc(&["profile", "delete", "default"]).refused("default");
}

#[test]
fn https_is_moved_live_and_trusts_by_password() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    // A port that is free now; nobody else asks for it between here and there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    daemon.lxc(&["config", "set", "core.https_address", &address]).ok();
    daemon.lxc(&["config", "set", "core.https_address", "127.0.0.1:port"]).refused("core.https_address");
    let url = format!("https://{address}");
    let add =
        |password: &str| daemon.lxc(&["remote", "add", "w", &url, "--accept-certificate", "--password", password]);
    add("sesame").refused("not authorized");
    daemon.lxc(&["config", "set", "core.trust_password", "sesame"]).ok();
    assert!(daemon.lxc(&["config", "show"]).ok().contains("core.trust_password: \"true\""));
    add("wrong").refused("not authorized");
    add("sesame").ok();
    assert_eq!(daemon.lxc(&["exec", "w:c1", "--", "hostname"]).ok(), "c1\n");
    daemon.lxc(&["launch", "w:bb", "w:c2"]).ok();
    daemon.lxc(&["delete", "--force", "w:c2"]).ok();
    let list = daemon.lxc(&["config", "trust", "list", "-f", "csv"]).ok();
    let fingerprint = list.trim().split(',').nth(3).unwrap().to_owned();
    daemon.lxc(&["config", "trust", "remove", &fingerprint]).ok();
    daemon.lxc(&["list", "w:"]).refused("not authorized");
    daemon.lxc(&["config", "unset", "core.https_address"]).ok();
    eventually("the port is closed", || std::net::TcpStream::connect(&address).is_err() || cfg!(target_os = "linux"));
}

#[test]
fn init_makes_a_bridge_whose_containers_get_addresses() {
    let daemon = Daemon::bare();
    let bridge = format!("wt{:x}", std::process::id() % 0xfffff);
    let preseed = format!(
        "config:\n  user.x: 1\nnetworks:\n- name: {bridge}\n  type: bridge\nstorage_pools:\n- name: p\n  driver: overlay\n\
         profiles:\n- name: default\n  devices:\n    root: {{type: disk, path: /, pool: p}}\n    eth0: {{type: nic, network: {bridge}, name: eth0}}\n"
    );
    daemon.verb_with_input(&["init", "--preseed"], &preseed).ok();
    daemon.verb_with_input(&["init", "--preseed"], &preseed).ok();
    daemon.verb_with_input(&["init", "--preseed"], "storage_pools:\n- {name: q, driver: zfs}\n").refused("zfs");
    let dump = daemon.verb(&["init", "--dump"]).ok();
    assert!(dump.contains(&bridge) && dump.contains("driver: overlay"), "{dump}");
    daemon.verb_with_input(&["init", "--preseed"], &dump).ok();
    let (meta, root) = daemon.busybox();
    daemon.lxc(&["image", "import", meta.to_str().unwrap(), root.to_str().unwrap(), "--alias", "bb"]).ok();
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    eventually("an IPv4 address", || daemon.lxc(&["list", "-c", "4", "-f", "csv"]).ok().contains("(eth0)"));
    assert!(daemon.lxc(&["network", "list-leases", &bridge]).ok().contains("c1"));
    daemon.lxc(&["network", "delete", &bridge]).refused("in use");
    // By its profile, as much as by a device of its own.
    let show = || daemon.lxc(&["network", "show", &bridge]).ok();
    assert!(show().contains("/1.0/instances/c1") && show().contains("/1.0/profiles/default"), "{}", show());
    // Changed live, by the client and by a preseed; what cannot be goes back.
    daemon.lxc(&["network", "set", &bridge, "ipv4.dhcp.expiry", "3m"]).ok();
    assert_eq!(daemon.lxc(&["network", "get", &bridge, "ipv4.dhcp.expiry"]).ok(), "3m\n");
    daemon.lxc(&["network", "unset", &bridge, "ipv4.dhcp.expiry"]).ok();
    assert_eq!(daemon.lxc(&["network", "get", &bridge, "ipv4.dhcp.expiry"]).ok().trim(), "");
    let change = format!("networks:\n- {{name: {bridge}, config: {{ipv4.nat: false, ipv6.address: none}}}}\n");
    daemon.verb_with_input(&["init", "--preseed"], &change).ok();
    assert_eq!(daemon.lxc(&["network", "get", &bridge, "ipv4.nat"]).ok(), "false\n");
    daemon.lxc(&["network", "set", &bridge, "raw.dnsmasq", "no-such-option=1"]).refused("dnsmasq");
    assert_eq!(daemon.lxc(&["network", "get", &bridge, "raw.dnsmasq"]).ok().trim(), "");
    assert_eq!(daemon.lxc(&["network", "set", &bridge, "ipv4.address", "nonsense"]).code, 1);
    daemon.lxc(&["restart", "--force", "c1"]).ok();
    eventually("an IPv4 address again", || daemon.lxc(&["list", "-c", "4", "-f", "csv"]).ok().contains("(eth0)"));
}

#[test]
fn a_preseed_refuses_what_it_does_not_know_or_cannot_change() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    let bridge = format!("wu{:x}", std::process::id() % 0xfffff);
    let preseed = |text: &str| daemon.verb_with_input(&["init", "--preseed"], text);
    preseed("storage_pools:\n- {name: p, driver: dir}\n").refused("overlay");
    preseed("storage_pools:\n- {name: q, driver: dir, bogus: 1}\n").refused("bogus");
    preseed("profiles:\n- name: default\n  devices:\n    root: {type: disk, path: /, pool: none}\n")
        .refused("\"none\"");
    daemon.lxc(&["storage", "create", "q", "dir"]).ok();
    preseed("profiles:\n- name: default\n  devices:\n    root: {type: disk, path: /, pool: q}\n").refused("root disk");
    assert!(daemon.lxc(&["profile", "show", "default"]).ok().contains("pool: p"));
    // As most preseeds for LXD have it.
    let auto =
        format!("networks:\n- {{name: {bridge}, type: bridge, config: {{ipv4.address: auto, ipv6.address: auto}}}}\n");
    preseed(&auto).ok();
    assert!(daemon.lxc(&["network", "get", &bridge, "ipv4.address"]).ok().ends_with("/24\n"));
    daemon.lxc(&["network", "delete", &bridge]).ok();
}

#[test]
fn output_of_a_command_is_recorded_and_can_be_deleted() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    let body = r#"{"command": ["sh", "-c", "echo out; echo err >&2; exit 3"], "record-output": true}"#;
    let (code, _, metadata) = daemon.operation("POST", "/1.0/instances/c1/exec", body);
    assert_eq!((code, metadata["return"].as_i64()), (200, Some(3)));
    for (fd, text) in [("1", "out"), ("2", "err")] {
        let url = metadata["output"][fd].as_str().unwrap();
        let (status, got) = daemon.request("GET", url, &[], b"");
        assert_eq!(status, 200);
        assert!(got.split("\r\n").any(|piece| piece == format!("{text}\n")), "{got:?}");
        let listed = daemon.api("GET", "/1.0/instances/c1/logs", "").1;
        assert!(listed["metadata"].as_array().unwrap().iter().any(|log| log == url), "{listed}");
        assert_eq!(daemon.api("DELETE", url, "").0, 200);
        assert_eq!(daemon.api("DELETE", url, "").0, 404);
    }
    assert_eq!(daemon.api("DELETE", "/1.0/instances/c1/logs/lxc.log", "").0, 400);
    assert_eq!(daemon.api("GET", "/1.0/instances/c1/logs/..%2F..%2Fdatabase", "").0, 400);
    assert_eq!(daemon.api("GET", "/1.0/instances/nosuch/logs/lxc.log", "").0, 404);
    // A command that cannot be entered leaves no empty recording.
    daemon.lxc(&["stop", "--force", "c1"]).ok();
    assert_eq!(daemon.api("POST", "/1.0/instances/c1/exec", body).0, 400);
    let listed = daemon.api("GET", "/1.0/containers/c1/logs", "").1.to_string();
    assert!(!listed.contains("exec_") && listed.contains("/1.0/containers/c1/logs/lxc.conf"), "{listed}");
}
