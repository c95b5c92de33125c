//! Templates of images: written at the starts that they name, inside the root and nowhere else; bad ones fail the start with
//! their line.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::process::Command;

use serde_json::json;
use support::instances::{pulled, push, shown};
use support::{Daemon, run};

const METADATA: &str = r##"
architecture: x86_64
creation_date: 1700000000
properties: {os: busybox}
templates:
  /etc/hostname: {when: [create, copy], template: hostname.tpl}
  /etc/deep/er/start: {when: [start], template: start.tpl, properties: {default: "#cloud-config\n{}"}}
  etc/once: {when: [create, start], template: start.tpl, create_only: true}
  /etc/name: {when: [rename], template: hostname.tpl}
  /etc/passwd: {when: [create], template: passwd.tpl}
  /var/lib/cloud/seed/nocloud-net/user-data: {when: [start], template: user.tpl, properties: {default: "#none"}}
"##;

const TEMPLATES: &[(&str, &str)] = &[
    ("hostname.tpl", "{{ container.name }}\n"),
    ("start.tpl", "{{ trigger }} {{ path }} {{ instance.architecture }} {{ properties.default }}\n"),
    ("passwd.tpl", "root:x:0:0::/root:/bin/sh\n{{ config.image }}<{{ devices.root.pool }}>\n"),
    (
        "user.tpl",
        "{{ config_get(\"cloud-init.user-data\", config_get(\"user.user-data\", properties.default)) }}|{{ config_get(\"cloud-init.vendor-data\", \"\") }}",
    ),
];

/// Imports the image `tpl`: busybox with these templates.
fn import(daemon: &Daemon) {
    daemon.busybox_unified();
    let tree = daemon.root.join("tree");
    std::fs::write(tree.join("metadata.yaml"), METADATA).unwrap();
    std::fs::create_dir(tree.join("templates")).unwrap();
    for (name, text) in TEMPLATES {
        std::fs::write(tree.join("templates").join(name), text).unwrap();
    }
    let file = daemon.root.join("tpl.tar");
    run(Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&file).args(["metadata.yaml", "rootfs", "templates"]));
    daemon.lxc(&["image", "import", file.to_str().unwrap(), "--alias", "tpl"]).ok();
}

fn pending(daemon: &Daemon, name: &str) -> Option<String> {
    shown(daemon, name)["config"]["volatile.apply_template"].as_str().map(str::to_owned)
}

fn in_turn(driver: &str) {
    let daemon = Daemon::ready(driver);
    import(&daemon);
    daemon.lxc(&["init", "tpl", "c1"]).ok();
    assert_eq!(pending(&daemon, "c1").as_deref(), Some("create"));
    let passwd = daemon.lxc(&["file", "pull", "c1/etc/passwd", "-"]).ok();
    assert!(!passwd.contains('<'), "nothing is written before the start");
    daemon.lxc(&["start", "c1"]).ok();
    assert_eq!(pending(&daemon, "c1"), None);
    let of = |name: &str, path: &str| pulled(&daemon, &format!("{name}/etc/{path}"));
    assert_eq!(of("c1", "hostname"), "c1\n");
    assert_eq!(of("c1", "deep/er/start"), "start /etc/deep/er/start x86_64 #cloud-config\n{}\n");
    // What is made for the creation is there for the start.
    assert_eq!(of("c1", "once"), "create etc/once x86_64 \n");
    assert_eq!(of("c1", "passwd"), "root:x:0:0::/root:/bin/sh\n<p>\n");
    daemon.lxc(&["file", "pull", "c1/etc/name", "-"]).refused("Not Found");
    // Owners, modes: new ones are root's, with the modes of LXD; one that was there keeps its own.
    let listed = daemon.lxc(&["exec", "c1", "--", "ls", "-lnd", "/etc/deep", "/etc/deep/er/start", "/etc/passwd"]).ok();
    for (line, mode) in listed.lines().zip(["drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x"]) {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!((words[0], words[2], words[3]), (mode, "0", "0"), "{listed}");
    }
    // The next start writes what belongs to every start, and leaves what is the instance's by now.
    push(&daemon, "c1/etc/hostname", "mine\n");
    push(&daemon, "c1/etc/deep/er/start", "changed");
    daemon.lxc(&["restart", "-f", "c1"]).ok();
    assert_eq!(of("c1", "hostname"), "mine\n");
    assert!(of("c1", "deep/er/start").starts_with("start "));
    assert!(of("c1", "once").starts_with("create "));
    // A copy.
    daemon.lxc(&["copy", "c1", "c2"]).ok();
    assert_eq!(pending(&daemon, "c2").as_deref(), Some("copy"));
    daemon.lxc(&["start", "c2"]).ok();
    assert_eq!((of("c2", "hostname"), pending(&daemon, "c2")), ("c2\n".to_owned(), None));
    assert_eq!(of("c1", "hostname"), "mine\n");
    daemon.lxc(&["delete", "-f", "c2"]).ok();
    // A rename; one before the first start leaves the creation due.
    daemon.lxc(&["stop", "-f", "c1"]).ok();
    daemon.lxc(&["rename", "c1", "c3"]).ok();
    assert_eq!(pending(&daemon, "c3").as_deref(), Some("rename"));
    daemon.lxc(&["start", "c3"]).ok();
    assert_eq!((of("c3", "name"), of("c3", "hostname")), ("c3\n".to_owned(), "mine\n".to_owned()));
    daemon.lxc(&["init", "tpl", "d1"]).ok();
    daemon.lxc(&["rename", "d1", "d2"]).ok();
    assert_eq!(pending(&daemon, "d2").as_deref(), Some("create"));
    daemon.lxc(&["start", "d2"]).ok();
    assert_eq!(of("d2", "hostname"), "d2\n");
}

#[test]
fn templates_are_written_at_the_starts_that_they_name_on_dir() {
    in_turn("dir");
}

#[test]
fn templates_are_written_at_the_starts_that_they_name_on_overlay() {
    in_turn("overlay");
}

#[test]
fn templates_are_written_into_a_privileged_instance() {
    let daemon = Daemon::ready("overlay");
    import(&daemon);
    daemon.lxc(&["launch", "tpl", "c1", "-c", "security.privileged=true"]).ok();
    assert_eq!(pulled(&daemon, "c1/etc/hostname"), "c1\n");
}

#[test]
fn seeds_of_cloud_init_are_what_the_configuration_says() {
    let daemon = Daemon::ready("dir");
    import(&daemon);
    daemon.lxc(&["init", "tpl", "c1"]).ok();
    let seed = |expected: &str| {
        daemon.lxc(&["start", "c1"]).ok();
        assert_eq!(pulled(&daemon, "c1/var/lib/cloud/seed/nocloud-net/user-data"), expected);
        daemon.lxc(&["stop", "-f", "c1"]).ok();
    };
    seed("#none|");
    daemon.lxc(&["config", "set", "c1", "user.user-data", "#old & <b>\n\n"]).ok();
    seed("#old & <b>|");
    daemon.lxc(&["profile", "set", "default", "cloud-init.user-data", "#new"]).ok();
    daemon.lxc(&["config", "set", "c1", "cloud-init.vendor-data", "v"]).ok();
    seed("#new|v");
}

#[test]
fn a_bad_template_fails_the_start_and_is_mended() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    let metadata = |templates: serde_json::Value| {
        let body = json!({"architecture": "x86_64", "creation_date": 1, "properties": {}, "templates": templates});
        assert_eq!(daemon.api("PUT", "/1.0/instances/c1/metadata", &body.to_string()).0, 200);
    };
    let template = |text: &str| {
        let (headers, path) = ([("Content-Type", "application/octet-stream")], "/1.0/instances/c1/metadata/templates");
        assert_eq!(daemon.api_raw("POST", &format!("{path}?path=a.tpl"), &headers, text.as_bytes()).0, 200);
    };
    let refused = |words: &[&str]| {
        let (code, error, _) = daemon.operation("PUT", "/1.0/instances/c1/state", r#"{"action":"start"}"#);
        assert_eq!(code, 400, "{error}");
        words.iter().for_each(|word| assert!(error.contains(word), "{word:?} is not in: {error}"));
        assert_eq!(daemon.status("c1"), "Stopped");
        assert_eq!(pending(&daemon, "c1").as_deref(), Some("create"));
    };
    metadata(json!({"/etc/a": {"when": ["start"], "template": "a.tpl"}}));
    // No directory of templates at all, then one without it.
    refused(&["a.tpl"]);
    template("a\n{% if %}");
    refused(&["\"a.tpl\" of /etc/a (start)", "line 2", "a value is missing"]);
    template("{% include \"/etc/shadow\" %}");
    refused(&["not allowed"]);
    template(&format!("{{% set x = \"aaaaaaaa\" %}}{}", "{% set x = x|add:x %}".repeat(60)));
    refused(&["too much text"]);
    template("\u{1}");
    refused(&["U+0001"]);
    let (headers, path) = ([("Content-Type", "application/octet-stream")], "/1.0/instances/c1/metadata/templates");
    assert_eq!(daemon.api_raw("POST", &format!("{path}?path=a.tpl"), &headers, b"ok\n\xff").0, 200);
    refused(&["line 2", "UTF-8"]);
    template("fine");
    for (path, word) in [("/proc/x", ""), ("/etc/passwd/x", "not a directory"), ("/etc", "directory")] {
        metadata(json!({path: {"when": ["start"], "template": "a.tpl"}}));
        if path != "/proc/x" {
            refused(&[word]);
        }
    }
    // What no request and no image brings any more, but an older daemon may have taken.
    let file = daemon.state().join("storage-pools/p/containers/c1/metadata.yaml");
    for (path, template, word) in [("''", "a.tpl", "empty"), ("/etc/a", "../volume.json", "not that of a file")] {
        let templates = format!("{path}: {{when: [start], template: {template}}}");
        std::fs::write(&file, format!("architecture: x86_64\ntemplates: {{{templates}}}\n")).unwrap();
        refused(&[word]);
    }
    metadata(json!({"/etc/a": {"when": ["start"], "template": "a.tpl"}}));
    daemon.lxc(&["start", "c1"]).ok();
    assert_eq!(pulled(&daemon, "c1/etc/a"), "fine");
}

/// What a container leaves on its way: links to the host, a pipe, a loop.
#[test]
fn a_hostile_root_leads_no_template_astray() {
    let daemon = Daemon::ready("dir");
    import(&daemon);
    daemon.lxc(&["launch", "tpl", "c1"]).ok();
    let outside = daemon.root.join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), "the host's").unwrap();
    let inside = |words: &[&str]| daemon.lxc(&[&["exec", "c1", "--", "/bin/busybox"], words].concat()).ok();
    let host = outside.to_str().unwrap();
    inside(&["rm", "-rf", "/etc/deep/er"]);
    inside(&["ln", "-s", host, "/etc/deep/er"]);
    daemon.lxc(&["stop", "-f", "c1"]).ok();
    // Inside there is no such directory.
    let (code, error, _) = daemon.operation("PUT", "/1.0/instances/c1/state", r#"{"action":"start"}"#);
    assert_eq!(code, 400);
    assert!(error.contains("/etc/deep/er/start"), "{error}");
    // With it there, it is the one inside.
    push(&daemon, "c1/etc/x", "");
    daemon.lxc(&["file", "push", "-p", outside.join("file").to_str().unwrap(), &format!("c1{host}/file")]).ok();
    daemon.lxc(&["start", "c1"]).ok();
    assert!(pulled(&daemon, &format!("c1{host}/start")).starts_with("start "));
    // A file that is a link to one of the host's; far up and down again; a pipe nobody reads.
    inside(&["rm", "/etc/deep/er"]);
    inside(&["mkdir", "/etc/deep/er"]);
    inside(&["ln", "-s", &format!("../../../../../../../../..{host}/file"), "/etc/deep/er/start"]);
    daemon.lxc(&["restart", "-f", "c1"]).ok();
    assert!(pulled(&daemon, &format!("c1{host}/file")).starts_with("start "));
    inside(&["rm", "/etc/deep/er/start"]);
    inside(&["mkfifo", "/etc/deep/er/start"]);
    daemon.lxc(&["stop", "-f", "c1"]).ok();
    let (code, error, _) = daemon.operation("PUT", "/1.0/instances/c1/state", r#"{"action":"start"}"#);
    assert!(code == 400 && error.contains("pipe"), "{error}");
    assert_eq!(std::fs::read_to_string(outside.join("file")).unwrap(), "the host's");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
}
