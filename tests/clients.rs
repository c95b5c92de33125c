//! Clients beside the stock one: pylxd, Incus's own, and Ansible's modules. packaging/clients fetches them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::tls::{listen, local};
use support::{Daemon, eventually, run, said};

/// Where packaging/clients has put this. A test never passes because the client is not there.
#[track_caller]
fn fetched(file: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients").join(file);
    assert!(path.exists(), "{} is missing: run `packaging/setup --tests`", path.display());
    path
}

/// A file that lies beside this one.
fn ours(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(file)
}

#[test]
fn pylxd_works() {
    let daemon = Daemon::ready("overlay");
    let mut python = Command::new(fetched("venv/bin/python"));
    python.arg(ours("pylxd_check.py")).arg(daemon.busybox_unified());
    python.env("LXD_DIR", daemon.state()).env("HOME", daemon.root.join("home"));
    let out = said(&mut python).ok();
    assert!(out.ends_with(" passed, 0 failed\n"), "{out}");
}

#[test]
fn pylxd_comes_in_by_a_token() {
    let daemon = Daemon::bare();
    let address = listen(&daemon, &local(&daemon).to_string()).to_string();
    daemon.lxc(&["project", "create", "blue"]).ok();
    let file = |name: &str| daemon.root.join(name).display().to_string();
    let request = "req -x509 -nodes -newkey rsa:2048 -days 9 -subj /CN=program -keyout";
    run(Command::new("openssl").args(request.split(' ')).args([&file("client.key"), "-out", &file("client.crt")]));
    let mut python = Command::new(fetched("venv/bin/python"));
    python.arg(ours("pylxd_token.py")).args([&address, &file("client.crt"), &file("client.key")]);
    // Where requests finds these, it believes them instead of what it is told.
    python.arg(file("state/server.crt")).env_remove("REQUESTS_CA_BUNDLE").env_remove("CURL_CA_BUNDLE");
    python.env("LXD_DIR", daemon.state()).env("HOME", daemon.root.join("home"));
    assert_eq!(said(&mut python).ok(), "['blue'] ['program']\nnot authorized\n");
}

/// The client of Incus, with a home of its own.
fn incus(daemon: &Daemon, arguments: &[&str]) -> Command {
    let mut command = Command::new(fetched("incus/usr/bin/incus"));
    command.args(arguments).stdin(Stdio::null());
    command.env("INCUS_DIR", daemon.state()).env("INCUS_CONF", daemon.root.join("incus"));
    command.env("HOME", daemon.root.join("home"));
    command
}

#[test]
fn the_client_of_incus_works() {
    let daemon = Daemon::ready("overlay");
    let incus = |arguments: &[&str]| said(&mut incus(&daemon, arguments));
    // LXD tells a trust password as `true`, which this client, that knows strings only, cannot read.
    incus(&["config", "set", "core.trust_password", "secret"]).ok();
    assert!(incus(&["info"]).ok().contains("server_version: 5.0.2"));
    assert!(incus(&["version"]).ok().contains("Server version: 5.0.2"));
    assert_eq!(incus(&["image", "list", "-f", "csv", "-c", "l"]).ok(), "bb\n");
    assert!(incus(&["image", "info", "bb"]).ok().contains("os: busybox"));
    assert_eq!(incus(&["profile", "list", "-f", "csv", "-c", "nu"]).ok(), "default,0\ndocker,0\n");
    assert!(incus(&["storage", "list", "-f", "csv"]).ok().starts_with("p,overlay,"));
    incus(&["network", "list"]).ok();

    incus(&["launch", "bb", "c1", "-c", "user.a=b"]).ok();
    assert_eq!(incus(&["list", "-f", "csv", "-c", "nst"]).ok(), "c1,RUNNING,CONTAINER\n");
    assert!(incus(&["info", "c1"]).ok().contains("Status: RUNNING"));
    let both = incus(&["exec", "c1", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((both.code, both.out.as_str(), both.err.as_str()), (7, "out\n", "err\n"));
    assert_eq!(incus(&["config", "get", "c1", "user.a"]).ok(), "b\n");
    incus(&["config", "set", "c1", "user.a=c", "user.d=e"]).ok();
    assert!(incus(&["config", "show", "c1"]).ok().contains("user.a: c\n  user.d: e\n"));
    incus(&["launch", "bb", "c1"]).refused("already exists");
    incus(&["delete", "c1"]).refused("running");

    incus(&["pause", "c1"]).ok();
    assert_eq!(daemon.status("c1"), "Frozen");
    incus(&["resume", "c1"]).ok();
    incus(&["restart", "c1"]).ok();
    incus(&["stop", "c1"]).ok();
    incus(&["rename", "c1", "c2"]).ok();
    incus(&["start", "c2"]).ok();
    assert_eq!(daemon.status("c2"), "Running");
    incus(&["console", "c2", "--show-log"]).ok();
    incus(&["delete", "-f", "c2"]).ok();
    incus(&["create", "--empty", "c3"]).ok();
    assert_eq!(incus(&["query", "/1.0/instances"]).ok().trim(), "[\n\t\"/1.0/instances/c3\"\n]");
    incus(&["query", "-X", "DELETE", "--wait", "/1.0/instances/c3"]).ok();
    incus(&["info", "c3"]).refused("Instance not found");
}

#[test]
fn the_client_of_incus_moves_files() {
    let daemon = Daemon::ready("overlay");
    let incus = |arguments: &[&str]| said(&mut incus(&daemon, arguments));
    let (from, to) = (daemon.root.join("from"), daemon.root.join("to"));
    std::fs::create_dir_all(from.join("sub")).unwrap();
    std::fs::create_dir(&to).unwrap();
    std::fs::write(from.join("sub/file"), "content").unwrap();
    std::os::unix::fs::symlink("sub/file", from.join("link")).unwrap();
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());

    incus(&["launch", "bb", "c1"]).ok();
    incus(&["file", "push", "-p", "--mode=0640", "--uid=3", &format!("{from}/sub/file"), "c1/root/a/one"]).ok();
    assert!(incus(&["exec", "c1", "--", "ls", "-ln", "/root/a/one"]).ok().starts_with("-rw-r-----    1 3        0 "));
    assert_eq!(incus(&["file", "pull", "c1/root/a/one", "-"]).ok(), "content");
    incus(&["file", "push", "-r", from, "c1/root"]).ok();
    incus(&["file", "pull", "-r", "c1/root/from", to]).ok();
    assert_eq!(std::fs::read_to_string(format!("{to}/from/sub/file")).unwrap(), "content");
    assert_eq!(std::fs::read_link(format!("{to}/from/link")).unwrap().to_str(), Some("sub/file"));
    incus(&["file", "create", "--type=directory", "c1/root/made"]).ok();
    incus(&["file", "delete", "c1/root/a/one"]).ok();
    assert_eq!(incus(&["exec", "c1", "--", "ls", "/root", "/root/a"]).ok(), "/root:\na\nfrom\nmade\n\n/root/a:\n");
    incus(&["file", "pull", "c1/root/a/one", "-"]).refused("not exist");
}

#[test]
fn the_client_of_incus_watches() {
    let daemon = Daemon::ready("overlay");
    let seen = daemon.root.join("seen");
    let mut monitor = incus(&daemon, &["monitor", "--type", "lifecycle", "--format", "json"]);
    let mut monitor = monitor.stdout(std::fs::File::create(&seen).unwrap()).stderr(Stdio::null()).spawn().unwrap();
    // It does not tell when it has begun to listen.
    eventually("an event is seen", || {
        daemon.api("PATCH", "/1.0/profiles/default", r#"{"description":"changed"}"#);
        std::fs::read_to_string(&seen).unwrap().contains("profile-updated")
    });
    monitor.kill().unwrap();
    monitor.wait().unwrap();
}

#[test]
fn the_modules_of_ansible_work() {
    let daemon = Daemon::ready("overlay");
    let file = |name: &str| daemon.root.join(name).display().to_string();
    // A port that is free now; nobody else asks for it between here and there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    daemon.lxc(&["config", "set", "core.https_address", &address]).ok();
    daemon.lxc(&["config", "set", "core.trust_password", "sesame"]).ok();
    // The inventory plugin cannot read an empty list of instances.
    daemon.lxc(&["init", "--empty", "idle"]).ok();
    let url = format!("unix:{}", daemon.socket().display());
    std::fs::write(file("lxd.yml"), format!("plugin: community.general.lxd\nurl: {url}\n")).unwrap();
    let request = "req -x509 -nodes -newkey rsa:2048 -days 9 -subj /CN=ansible -keyout";
    let mut openssl = Command::new("openssl");
    run(openssl.args(request.split(' ')).args([&file("client.key"), "-out", &file("client.crt")]));
    let variables = serde_json::json!({
        "url": url,
        "https": format!("https://{address}"),
        "client": file("client"),
        "server_cert": file("state/server.crt"),
    });

    let mut ansible = Command::new(fetched("venv/bin/ansible-playbook"));
    ansible.arg(ours("ansible_check.yml")).arg("--extra-vars").arg(variables.to_string());
    ansible.arg("--inventory").arg(file("lxd.yml"));
    // Nothing of the host's configuration, nothing into the caller's home. The connection plugin runs the stock client.
    std::fs::write(file("ansible.cfg"), "").unwrap();
    ansible.env("ANSIBLE_COLLECTIONS_PATH", fetched("ansible_collections").parent().unwrap());
    for (name, value) in [
        ("ANSIBLE_CONFIG", file("ansible.cfg").as_str()),
        ("ANSIBLE_HOME", &file("ansible")),
        ("ANSIBLE_LOCALHOST_WARNING", "false"),
        ("ANSIBLE_NOCOLOR", "true"),
        ("ANSIBLE_PIPELINING", "true"),
        ("HOME", &file("home")),
        ("LC_ALL", "C.UTF-8"),
        ("LXD_CONF", &file("conf")),
        ("LXD_DIR", &file("state")),
    ] {
        ansible.env(name, value);
    }
    let said = said(&mut ansible);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    // A play without hosts would be passed over.
    let inside = said.out.lines().find(|line| line.starts_with("a1 ")).unwrap_or_default();
    assert!(inside.contains(": ok=4 "), "{}", said.out);
}

#[test]
fn the_calls_of_openstacks_driver_work() {
    let daemon = Daemon::ready("overlay");
    let (metadata, rootfs) = daemon.busybox();
    daemon.lxc(&["image", "delete", "bb"]).ok();
    // The driver gives a container one end of a pair; the other lies on a bridge of neutron's.
    let pid = std::process::id();
    let (logs, interface, peer) = (daemon.root.join("nova"), format!("tin{pid}"), format!("tap{pid}"));
    std::fs::create_dir(&logs).unwrap();
    run(Command::new("ip").args(["link", "add", &interface, "type", "veth", "peer", "name", &peer]));
    let mut python = Command::new(fetched("venv/bin/python"));
    python.arg(ours("nova_check.py")).arg(&metadata).arg(&rootfs).arg(&logs).arg(&interface);
    python.env("LXD_DIR", daemon.state()).env("HOME", daemon.root.join("home"));
    let said = said(&mut python);
    run(Command::new("ip").args(["link", "delete", &interface]));
    let out = said.ok();
    assert!(out.ends_with(" passed, 0 failed\n"), "{out}");
}
