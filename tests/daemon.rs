//! The daemon's own verbs, signals, environment, and what it tells about the host and itself.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::{Daemon, Said, eventually, exists, warrend};

fn said(command: &mut Command) -> Said {
    let output = command.stdin(Stdio::null()).output().unwrap();
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Stands where systemd would: whether somebody asks at `socket` while `verb` runs, and what `verb` says.
fn activated(socket: &Path, verb: impl FnOnce() -> Said) -> (bool, Said) {
    let listener = UnixListener::bind(socket).unwrap();
    let (done, end) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let length = stream.read(&mut request).unwrap();
        let body = r#"{"type":"sync","status":"Success","status_code":200,"metadata":{}}"#;
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        drop(end);
        length > 0
    });
    let said = verb();
    drop(done);
    // Ends the thread if nobody came: a connection without a request.
    drop(std::os::unix::net::UnixStream::connect(socket));
    let asked = thread.join().unwrap();
    std::fs::remove_file(socket).unwrap();
    (asked, said)
}

#[test]
fn activateifneeded_says_why_and_touches_the_socket_only_then() {
    let nowhere = std::env::temp_dir().join(format!("warren-nowhere-{}", std::process::id()));
    let none = said(Command::new(warrend()).arg("--state-dir").arg(&nowhere).args(["activateifneeded", "--debug"]));
    assert_eq!((none.code, none.err.contains("No database")), (0, true), "{}", none.err);
    assert!(!nowhere.exists());

    let mut daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    let verb = |daemon: &Daemon| daemon.verb(&["activateifneeded", "--debug"]);
    assert!(verb(&daemon).err.contains("No need"), "also while the daemon runs");
    let database = daemon.state().join("database/global");
    let ask = |daemon: &Daemon| activated(&daemon.socket(), || verb(daemon));
    daemon.terminate();
    let before = files(&database);
    let (asked, idle) = ask(&daemon);
    assert!(!asked && idle.code == 0 && idle.err.contains("No need"), "{}", idle.err);
    daemon.start();
    for (set, unset, text) in [
        (
            ["config", "set", "core.https_address", "127.0.0.1:0"].as_slice(),
            ["config", "unset", "core.https_address"].as_slice(),
            "Daemon has core.https_address set, activating...",
        ),
        (
            &["config", "set", "c1", "boot.autostart", "true"],
            &["config", "unset", "c1", "boot.autostart"],
            "Daemon has auto-started instances, activating...",
        ),
    ] {
        daemon.lxc(set).ok();
        daemon.terminate();
        let (asked, answer) = ask(&daemon);
        assert!(asked && answer.code == 0 && answer.err.lines().any(|line| line == text), "{}", answer.err);
        let quiet = daemon.verb(&["activateifneeded"]);
        assert_eq!(quiet.code, 0, "nobody holds the socket: {}", quiet.err);
        assert!(!quiet.err.contains("activating"), "only with --debug: {}", quiet.err);
        assert_eq!(files(&database), before, "nothing is left beside the database");
        daemon.start();
        assert_eq!(verb(&daemon).code, 0);
        if set[1] == "c1" {
            // Its first start changes it.
            eventually("it has started", || daemon.status("c1") == "Running");
        }
        // What a start changes is written down after it runs: until then the client's change may come too late.
        eventually("it is unset", || daemon.lxc(unset).code == 0);
    }
    // After a crash the write-ahead log holds what counts.
    daemon.lxc(&["config", "set", "user.x", "y"]).ok();
    daemon.lxc(&["config", "set", "c1", "boot.autostart", "1"]).ok();
    daemon.kill();
    std::fs::remove_file(daemon.socket()).unwrap();
    assert!(ask(&daemon).0);
}

#[test]
fn sql_reads_always_and_changes_only_when_told() {
    let mut daemon = Daemon::bare();
    let query = "select name, description, null as empty from profiles where name = 'default'";
    let table = "\
+---------+---------------------+-------+
|  name   |     description     | empty |
+---------+---------------------+-------+
| default | Default LXD profile | <nil> |
+---------+---------------------+-------+
";
    assert_eq!(daemon.verb(&["sql", "global", query]).ok(), table);
    assert_eq!(daemon.verb_with_input(&["sql", "local", "-"], query).ok(), table);
    let change = "update profiles set description = 'Mine' where name = 'default'";
    daemon.verb(&["sql", "global", change]).refused("--unsafe");
    daemon.verb(&["sql", "global", "with x as (select 1) delete from profiles"]).refused("readonly");
    daemon.verb(&["sql", "global", "select * from nosuch"]).refused("no such table");
    daemon.verb(&["sql", "nosuch", "select 1"]).refused("nosuch");
    let description =
        |daemon: &Daemon| daemon.api("GET", "/1.0/profiles/default", "").1["metadata"]["description"].clone();
    assert_eq!(description(&daemon), "Default LXD profile");

    let both = format!("{change}; select 1 as a");
    let answer = daemon.verb(&["sql", "global", &both, "--unsafe"]).ok();
    assert!(answer.contains("=> Query 0:\n\nRows affected: 1\n\n=> Query 1:"), "{answer}");
    assert_eq!(description(&daemon), "Mine", "the running daemon knows");
    daemon.verb(&["sql", "global", "update profiles set config = 'x'", "--unsafe"]).refused("profiles");
    assert_eq!(description(&daemon), "Mine");

    let schema = daemon.verb(&["sql", "global", ".schema"]).ok();
    let dump = daemon.verb(&["sql", "global", ".dump"]).ok();
    assert!(schema.contains("CREATE TABLE profiles") && !schema.contains("INSERT INTO"), "{schema}");
    assert!(dump.contains("'Mine'") && dump.ends_with("COMMIT;\n"), "{dump}");
    daemon.terminate();
    let before = files(&daemon.state().join("database/global"));
    assert_eq!(before, ["db.sqlite"], "a clean end leaves one file");
    assert_eq!(daemon.verb(&["sql", "global", ".dump"]).ok(), dump, "without the daemon, too");
    daemon.verb(&["sql", "global", "update profiles set description = 'Other'", "--unsafe"]).ok();
    assert_eq!(files(&daemon.state().join("database/global")), before);
    daemon.start();
    assert_eq!(description(&daemon), "Other");
    daemon.kill();
    std::fs::remove_dir_all(daemon.state().join("database")).unwrap();
    daemon.verb(&["sql", "global", "select 1"]).refused("There is no database");
    daemon.verb(&["sql", "global", "delete from profiles", "--unsafe"]).refused("There is no database");
    assert!(!exists(&daemon.state().join("database")));
}

#[test]
fn nobody_needs_to_read_what_is_printed() {
    let daemon = Daemon::bare();
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let closed = || std::os::unix::net::UnixStream::pair().unwrap().0;
    for verb in [
        &["sql", "global", ".dump"][..],
        &["sql", "global", "select 1"],
        &["init", "--dump"],
        &["doctor"],
        &["version"],
        &["log-level"],
        &["completion", "bash"],
    ] {
        let command = || {
            let mut command = Command::new(warrend());
            command.arg("--state-dir").arg(daemon.state()).args(verb);
            command
        };
        let told = said(command().stdout(full()).stderr(Stdio::piped()));
        assert_eq!(told.code, 1, "{verb:?}: {}", told.err);
        assert!(told.err.contains("Cannot write the output: No space left"), "{verb:?}: {}", told.err);
        let code = command().status().unwrap().code();
        let told = command().stdout(std::os::fd::OwnedFd::from(closed())).stderr(Stdio::piped()).output().unwrap();
        assert!(told.stderr.is_empty() && told.status.code() == code, "{verb:?}: {told:?}");
    }
    let code = Command::new(warrend()).args(["sql", "nosuch", "x"]).stderr(full()).status().unwrap().code();
    assert_eq!(code, Some(1));
    let mut nowhere = Command::new(warrend());
    nowhere.args(["--state-dir", "/proc/nosuch", "sql", "global", "select 1"]);
    assert_eq!(nowhere.stderr(full()).status().unwrap().code(), Some(1));
}

#[test]
fn resources_tell_what_the_stock_client_shows() {
    let daemon = Daemon::bare();
    let (status, answer) = daemon.api("GET", "/1.0/resources", "");
    assert_eq!(status, 200);
    let found = &answer["metadata"];
    for (part, list) in [
        ("cpu", "sockets"),
        ("gpu", "cards"),
        ("memory", "nodes"),
        ("network", "cards"),
        ("pci", "devices"),
        ("storage", "disks"),
        ("usb", "devices"),
    ] {
        assert!(found[part]["total"].is_u64() && found[part][list].is_array(), "{part}: {}", found[part]);
    }
    let thread = &found["cpu"]["sockets"][0]["cores"][0]["threads"][0];
    assert_eq!((thread["online"].clone(), thread["isolated"].is_boolean()), (Value::from(true), true));
    assert_eq!(found["cpu"]["architecture"], std::env::consts::ARCH);
    assert!(found["memory"]["used"].as_u64().unwrap() > 0);
    let kind = found["system"]["type"].as_str().unwrap();
    assert!(["physical", "virtual-machine", "container"].contains(&kind), "{kind}");
    let shown = daemon.lxc(&["info", "--resources"]).ok();
    for part in ["CPU (", "Memory:", "  Total:"] {
        assert!(shown.contains(part), "{shown}");
    }
}

#[test]
fn health_and_doctor_say_the_same_with_and_without_the_daemon() {
    let mut daemon = Daemon::ready("overlay");
    let (status, answer) = daemon.api("GET", "/1.0/health", "");
    assert_eq!(status, 200);
    assert_eq!(answer["metadata"]["healthy"], true, "{answer}");
    let names = |checks: &Value| -> Vec<String> {
        checks.as_array().unwrap().iter().map(|check| check["name"].as_str().unwrap().to_owned()).collect()
    };
    let names = names(&answer["metadata"]["checks"]);
    for name in ["user-namespaces", "idmapped-mounts", "bridge", "veth", "subuid", "subgid", "dnsmasq", "pool p"] {
        assert!(names.iter().any(|known| known == name), "{name} is not in {names:?}");
    }
    let report = daemon.verb(&["doctor"]);
    assert_eq!(report.code, 0, "{}", report.out);
    assert!(names.iter().all(|name| report.out.contains(name.as_str())), "{}", report.out);
    assert!(!report.out.contains('\x1b'), "no colour in a pipe");
    assert_eq!(report.out.lines().count(), names.len() + 1);
    daemon.terminate();
    let before = files(&daemon.state());
    let alone = daemon.verb(&["doctor"]);
    assert_eq!(alone.code, 0, "{}", alone.out);
    assert!(names.iter().all(|name| alone.out.contains(name.as_str())), "{}", alone.out);
    assert_eq!(files(&daemon.state()), before);

    let off = [("LXD_IDMAPPED_MOUNTS_DISABLE", "1")];
    let ill = said(Command::new(warrend()).arg("--state-dir").arg(daemon.state()).arg("doctor").envs(off));
    assert_ne!(ill.code, 0, "something that is needed is missing");
    let line = ill.out.lines().find(|line| line.contains("idmapped-mounts")).unwrap();
    assert!(line.starts_with("MISSING") && line.contains("LXD_IDMAPPED_MOUNTS_DISABLE"), "{line}");
    assert!(line.contains("Costs: ") && line.contains("To mend: "), "{line}");
}

#[test]
fn sigpwr_stops_containers_that_come_back_with_the_daemon() {
    let mut daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1", "-c", "boot.host_shutdown_timeout=1"]).ok();
    let pid = daemon.instance_pid("c1");
    daemon.end_by(rustix::process::Signal::POWER);
    assert!(!exists(Path::new(&format!("/proc/{pid}"))), "the container is down");
    assert!(daemon.leftovers().is_empty(), "{:?}", daemon.leftovers());
    let power = "select config from instances";
    assert!(daemon.verb(&["sql", "global", power]).ok().contains(r#""volatile.last_state.power":"RUNNING""#));
    let needed = daemon.verb(&["activateifneeded", "--debug"]);
    assert!(needed.err.contains("Daemon has auto-started instances"), "{}", needed.err);
    daemon.start();
    eventually("it is back", || daemon.status("c1") == "Running");
}

#[test]
fn it_runs_under_the_name_lxd_and_replaces_a_stale_socket() {
    let mut daemon = Daemon::bare();
    let link = daemon.root.join("lxd");
    std::os::unix::fs::symlink(warrend(), &link).unwrap();
    // The socket of a daemon that was killed stays.
    daemon.kill();
    assert!(exists(&daemon.socket()));
    let log = daemon.root.join("lxd.log");
    let lxd = |arguments: &[&str]| {
        let mut command = Command::new(&link);
        command.args(arguments).env("LXD_DIR", daemon.state()).env_remove("WARREN_DIR");
        command
    };
    let mut running = lxd(&["--group", "root", "--logfile", log.to_str().unwrap(), "", "--verbose"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    said(&mut lxd(&["waitready", "--timeout=20"])).ok();
    daemon.lxc(&["info"]).ok();
    for level in ["--debug", ""] {
        let second = said(&mut lxd(&["--group", "root", "--logfile", log.to_str().unwrap(), level]));
        assert_ne!(second.code, 0);
        assert!(second.err.lines().last().unwrap().starts_with("Error: "), "{}", second.err);
    }
    for (method, path) in [("GET", "/internal/ready"), ("GET", "/internal/gc")] {
        assert_eq!(daemon.api(method, path, "").0, 200, "{path}");
    }
    said(&mut lxd(&["shutdown"])).ok();
    assert!(running.try_wait().unwrap().unwrap().success(), "it is gone when shutdown returns");
    assert!(!exists(&daemon.socket()));
    assert!(std::fs::read_to_string(log).unwrap().contains("ready"));
    assert_ne!(said(&mut lxd(&["waitready", "--timeout=1"])).code, 0);
}

#[test]
fn shutdown_is_asked_for_by_the_internal_path_as_well() {
    let mut daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1", "-c", "boot.host_shutdown_timeout=1"]).ok();
    let pid = daemon.instance_pid("c1");
    assert_eq!(daemon.api("PUT", "/internal/shutdown?force=1", "").0, 200);
    assert!(!exists(Path::new(&format!("/proc/{pid}"))));
    daemon.ended();
}

#[test]
fn a_state_directory_whose_socket_has_no_room_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let long = parent.path().join("a".repeat(100));
    for variable in ["LXD_DIR", "WARREN_DIR"] {
        let mut command = Command::new(warrend());
        command.args(["--group", "root"]).env_remove("WARREN_DIR").env_remove("LXD_DIR").env(variable, &long);
        said(&mut command).refused("107 bytes");
    }
    assert!(!long.exists(), "nothing was made");
}

#[test]
fn privileged_containers_are_refused_where_only_unprivileged_ones_may_run() {
    let refusal = "only allow unprivileged containers";
    for variable in ["LXD_UNPRIVILEGED_ONLY", "WARREN_UNPRIVILEGED_ONLY"] {
        let daemon = Daemon::with_env(&[(variable, "true")]);
        daemon.set_up("overlay");
        daemon.lxc(&["init", "bb", "no", "-c", "security.privileged=true"]).refused(refusal);
        assert_eq!(daemon.status("no"), "none");
        daemon.lxc(&["launch", "bb", "c1"]).ok();
        daemon.lxc(&["config", "set", "c1", "security.privileged", "true"]).refused(refusal);
        daemon.lxc(&["profile", "set", "default", "security.privileged", "1"]).refused(refusal);
        let body = r#"{"name":"x","config":{"security.privileged":"yes"}}"#;
        assert_eq!(daemon.api("POST", "/1.0/profiles", body).0, 400);
        daemon.lxc(&["config", "set", "c1", "security.privileged", "false"]).ok();
        if variable.starts_with("LXD") {
            continue;
        }
        // What was privileged before the restriction is refused when it starts.
        let mut free = Daemon::ready("overlay");
        free.lxc(&["init", "bb", "old", "-c", "security.privileged=true"]).ok();
        free.terminate();
        free.set_env(variable, "true");
        free.start();
        free.lxc(&["start", "old"]).refused(refusal);
        assert_eq!(free.status("old"), "Stopped");
    }
}

#[test]
fn the_log_level_changes_while_it_runs() {
    let daemon = Daemon::bare();
    let log = || std::fs::read_to_string(daemon.root.join("log")).unwrap();
    assert_eq!(daemon.verb(&["log-level"]).ok(), "debug\n");
    daemon.verb(&["log-level", "error"]).ok();
    let before = log();
    daemon.api("GET", "/1.0/profiles", "");
    assert_eq!(daemon.api("GET", "/internal/log-level", "").1["metadata"]["level"], "error");
    assert_eq!(log(), before, "nothing is logged about requests any more");
    daemon.verb(&["log-level", "DEBUG"]).ok();
    daemon.api("GET", "/1.0/nosuch", "");
    assert!(log().contains("/1.0/nosuch"));
    daemon.verb(&["log-level", "loud"]).refused("error, warning, info, debug or trace");
}

/// The supervisor goes on listening at a socket that it handed over, and starts the daemon again when somebody asks.
#[test]
fn a_socket_that_was_handed_over_stays() {
    let mut daemon = Daemon::bare();
    daemon.terminate();
    let listener = UnixListener::bind(daemon.socket()).unwrap();
    for _ in 0..2 {
        let script = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" \"$@\"";
        let mut activated = Command::new("sh")
            .args(["-c", script, support::warrend(), "--state-dir"])
            .arg(daemon.state())
            .stdin(std::os::fd::OwnedFd::from(listener.try_clone().unwrap()))
            .spawn()
            .unwrap();
        assert_eq!(daemon.api("GET", "/1.0", "").0, 200);
        let pid = rustix::process::Pid::from_raw(i32::try_from(activated.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(activated.wait().unwrap().success());
        assert!(daemon.socket().exists());
    }
    drop(listener);
    std::fs::remove_file(daemon.socket()).unwrap();
    daemon.start();
}

#[test]
fn the_dialogue_sets_a_daemon_up() {
    let daemon = Daemon::bare();
    // Cut short, it has changed nothing.
    daemon.verb_with_input(&["init"], "yes\nq\n").refused("nothing was changed");
    assert_eq!(daemon.api("GET", "/1.0/storage-pools", "").1["metadata"], serde_json::json!([]));
    // A pool named q of directories, no bridge, and the default for the rest.
    let said = daemon.verb_with_input(&["init"], "\nq\nzfs\ndir\nno\n\n\n");
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.err.contains("Please answer one of"), "{}", said.err);
    assert_eq!(daemon.api("GET", "/1.0/storage-pools/q", "").1["metadata"]["driver"], "dir");
    let config = daemon.api("GET", "/1.0", "").1["metadata"]["config"].clone();
    assert_eq!(config, serde_json::json!({"core.idmap_isolated": "true"}));
    let devices = daemon.api("GET", "/1.0/profiles/default", "").1["metadata"]["devices"].clone();
    assert_eq!(devices, serde_json::json!({"root": {"type": "disk", "path": "/", "pool": "q"}}));
    // Again: what is there is kept.
    daemon.verb_with_input(&["init"], "\nno\nno\nyes\n127.0.0.1\nx\n0\nno\n").ok();
    let config = daemon.api("GET", "/1.0", "").1["metadata"]["config"].clone();
    assert_eq!(config["core.idmap_isolated"], "false");
    assert!(config["core.https_address"].as_str().unwrap().starts_with("127.0.0.1:"), "{config}");
    daemon.verb_with_input(&["init", "--preseed"], "profiles: [{name: default, devices: {}}]").ok();
}
