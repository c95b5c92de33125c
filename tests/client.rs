//! The client `warren` against a running daemon, as its user meets it: words, exit codes, pipes and terminals.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use support::terminal::{Terminal, by, ended, resize, send};
use support::{Daemon, Said, eventually};

const WARREN: &str = env!("CARGO_BIN_EXE_warren");

/// The client, for a daemon whose state directory is `state`.
fn client_of(state: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(WARREN);
    for name in ["WARREN_SOCKET", "LXD_SOCKET", "LXD_DIR", "NO_COLOR", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    command
        .env("WARREN_DIR", state)
        .env("WARREN_CONF", state.with_file_name("warren-conf"))
        .env("TERM", "xterm")
        .args(arguments)
        .stdin(Stdio::null());
    command
}

fn client(daemon: &Daemon, arguments: &[&str]) -> Command {
    client_of(&daemon.state(), arguments)
}

/// The client on a terminal of its own.
fn on_terminal(daemon: &Daemon, arguments: &[&str]) -> Terminal {
    Terminal::with(&client(daemon, arguments), (100, 30))
}

/// The same client, but not for ever.
fn bounded(client: &Command) -> Command {
    by("timeout", &["--foreground", "--signal=KILL", "30"], client)
}

fn said(output: &Output) -> Said {
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn warren(daemon: &Daemon, arguments: &[&str]) -> Said {
    let said = said(&bounded(&client(daemon, arguments)).output().unwrap());
    assert!(!said.err.contains("panicked"), "{}", said.err);
    said
}

/// Runs it with something to read, and returns the bytes that it writes.
fn fed(command: &Command, input: Vec<u8>) -> Output {
    let mut child =
        bounded(command).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        // A command need not read it all.
        if let Err(error) = stdin.write_all(&input) {
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        }
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

#[test]
fn the_life_of_a_container() {
    let daemon = Daemon::ready("overlay");
    let warren = |arguments: &[&str]| warren(&daemon, arguments);
    assert_eq!(warren(&["list", "-f", "csv"]).ok(), "");
    assert_eq!(warren(&["list", "-f", "json"]).ok(), "[]\n");
    let launched = warren(&["launch", "bb", "c1", "-c", "environment.A=b", "-c", "user.x=y=z"]).ok();
    assert_eq!(launched, "Creating c1\nStarting c1\n");
    assert_eq!(warren(&["exec", "c1", "--", "sh", "-c", "echo $A"]).ok(), "b\n");
    // A name that was made is told, however quiet it shall be.
    let made = warren(&["init", "bb", "--quiet"]).ok();
    let made = format!("{}\n", made.strip_prefix("Instance name is: ").unwrap().trim());
    assert_eq!(daemon.status(made.trim()), "Stopped");

    let body = r#"{"name": "web", "config": {"environment.ROLE": "web"}}"#;
    assert_eq!(warren(&["query", "-X", "post", "-d", body, "/1.0/profiles"]).ok(), "");
    warren(&["launch", "bb", "gone", "-p", "default", "-p", "web", "--ephemeral"]).ok();
    assert_eq!(warren(&["exec", "gone", "sh", "-c", "echo $ROLE"]).ok(), "web\n");

    assert_eq!(warren(&["list", "-f", "csv", "-c", "nst,P", "status=running"]).ok(), {
        "c1,RUNNING,CONTAINER,default\ngone,RUNNING,CONTAINER (EPHEMERAL),\"default\nweb\"\n"
    });
    // Filters narrow each other down.
    assert_eq!(warren(&["list", "-f", "csv", "c1", "gon"]).ok(), "");
    let table = "\
+------+---------+------+------+-----------+-----------+
| NAME |  STATE  | IPV4 | IPV6 |   TYPE    | SNAPSHOTS |
+------+---------+------+------+-----------+-----------+
| c1   | RUNNING |      |      | CONTAINER | 0         |
+------+---------+------+------+-----------+-----------+
";
    assert_eq!(warren(&["list", "c1"]).ok(), table);
    // What the stock client shows of the same, and of nothing.
    assert_eq!(daemon.lxc(&["list", "c1"]).ok(), table);
    assert_eq!(warren(&["list", "nosuch"]).ok(), daemon.lxc(&["list", "nosuch"]).ok());
    let json: Value = serde_json::from_str(&warren(&["list", "-f", "json", "c1"]).ok()).unwrap();
    assert_eq!((&json[0]["name"], &json[0]["state"]["status"]), (&"c1".into(), &"Running".into()));
    assert_eq!(json[0]["config"]["user.x"], "y=z");
    assert!(warren(&["list", "-f", "yaml", "c1"]).ok().contains("name: c1"));
    assert_eq!(warren(&["list", "status=stopped", "-c", "n", "-f", "csv"]).ok(), made);
    assert_eq!(warren(&["list", "user.x=y=z", "-c", "n", "-f", "compact"]).ok(), "  NAME  \n  c1    \n");

    let info = warren(&["info", "c1"]).ok();
    assert!(info.contains("Name: c1\n") && info.contains("Status: RUNNING\n") && info.contains("PID: "), "{info}");
    assert!(warren(&["info"]).ok().contains("api_version: \"1.0\""));

    let refused = warren(&["delete", "c1"]);
    assert_eq!(refused.code, 1);
    assert_eq!(refused.err, "Error: Cannot delete c1\nInstance is running\nStop it first, or add --force\n");
    warren(&["pause", "c1"]).ok();
    assert_eq!(daemon.status("c1"), "Frozen");
    warren(&["start", "c1"]).ok();
    warren(&["start", "c1"]).refused("already running");
    // One that makes trouble does not hold up the others.
    let stopped = warren(&["stop", "nosuch", "gone", "c1", "missing"]);
    assert_eq!((stopped.code, daemon.status("c1").as_str()), (1, "Stopped"));
    assert!(stopped.err.contains("Cannot stop nosuch\n") && stopped.err.contains("Cannot stop missing\n"));
    assert_eq!(stopped.err.matches("Error: ").count(), 2, "{}", stopped.err);
    eventually("the ephemeral one is gone", || daemon.status("gone") == "none");
    warren(&["stop", "c1"]).refused("already stopped");
    let exec = warren(&["exec", "c1", "true"]);
    assert_eq!((exec.code, exec.err.lines().count()), (1, 3), "{}", exec.err);
    assert!(exec.err.contains("\"warren start c1\""), "{}", exec.err);
    warren(&["start", "c1", made.trim()]).ok();
    warren(&["restart", "--force", "c1"]).ok();
    warren(&["stop", "--all", "--force"]).ok();
    warren(&["start", "c1"]).ok();
    warren(&["delete", "--force", "c1", made.trim()]).ok();
    assert_eq!(warren(&["list", "-f", "csv"]).ok(), "");
    warren(&["query", "-X", "DELETE", "/1.0/profiles/web"]).ok();
}

#[test]
fn images_come_and_go() {
    let daemon = Daemon::bare();
    let warren = |arguments: &[&str]| warren(&daemon, arguments);
    let unified = daemon.busybox_unified();
    let unified = unified.to_str().unwrap();
    let imported = warren(&["image", "import", unified, "--alias", "one", "--alias", "uno", "description=a,\x1b[31mb"]);
    let fingerprint = imported.ok().trim().rsplit(' ').next().unwrap().to_owned();
    assert_eq!(fingerprint.len(), 64);
    let again = warren(&["image", "import", unified]);
    assert_eq!(again.err.lines().next().unwrap(), format!("Error: Cannot import {unified}"));
    assert!(again.err.contains("already exists"), "{}", again.err);
    let (meta, root) = daemon.busybox();
    let split = [meta.to_str().unwrap(), root.to_str().unwrap()];
    warren(&["image", "import", split[0], split[1], "--alias", "two/x", "--public"]).ok();

    let csv = warren(&["image", "list", "-f", "csv"]).ok();
    assert_eq!(csv.lines().count(), 2);
    let one = format!("one (1 more),{},no,\"a,\x1b[31mb\",x86_64,CONTAINER,", &fingerprint[..12]);
    assert!(csv.contains(&one) && csv.contains("two/x,"), "{csv}");
    let table = warren(&["image", "list"]).ok();
    assert!(table.contains("| one (1 more) |") && table.contains("a,\u{fffd}[31mb"), "{table}");
    let json: Value = serde_json::from_str(&warren(&["image", "list", "-f", "json"]).ok()).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 2);

    warren(&["image", "delete", "two/x", &fingerprint[..12]]).ok();
    assert_eq!(warren(&["image", "list", "-f", "csv"]).ok(), "");
    let gone = warren(&["image", "delete", "two/x"]);
    assert_eq!((gone.code, gone.err.lines().count()), (1, 3), "{}", gone.err);
    assert!(gone.err.contains("not found") && gone.err.contains("warren image list"), "{}", gone.err);

    // What is no image: missing, a directory, nonsense that is long enough to be refused while it is still sent.
    for verb in [&["image", "import", "/nosuch/file"][..], &["image", "import", unified, "/nosuch/file"]] {
        assert_eq!(warren(verb).err, "Error: Cannot open /nosuch/file: No such file or directory (os error 2)\n");
    }
    warren(&["image", "import", "/"]).refused("Cannot open /: is a directory");
    let nonsense = daemon.root.join("nonsense");
    std::fs::write(&nonsense, vec![b'x'; 20_000_000]).unwrap();
    let said = warren(&["image", "import", nonsense.to_str().unwrap()]);
    assert_eq!((said.code, said.err.contains("connection")), (1, false), "{}", said.err);
    warren(&["image", "import", unified, unified, unified]).refused("one file, or two");
    assert_eq!(warren(&["image", "list", "-f", "csv"]).ok(), "");
}

#[test]
fn exec_has_pipes_codes_environment_user_and_directory() {
    let daemon = Daemon::ready("overlay");
    warren(&daemon, &["launch", "bb", "c1"]).ok();
    let sh = |script: &str| warren(&daemon, &["exec", "c1", "--", "sh", "-c", script]);
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137), ("kill -15 $$", 143)] {
        assert_eq!(sh(script).code, code, "{script}");
    }
    assert_eq!(warren(&daemon, &["exec", "c1", "--", "nosuch"]).code, 127);
    assert_eq!(warren(&daemon, &["exec", "c1", "--", "/etc"]).code, 126);
    let both = sh("echo out; echo err >&2");
    assert_eq!((both.out.as_str(), both.err.as_str()), ("out\n", "err\n"));

    // Bytes of every value, more than any buffer holds, and the end of them.
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let output = fed(&client(&daemon, &["exec", "c1", "cat"]), bytes.clone());
    assert!(output.status.success() && output.stdout == bytes, "{} bytes came back", output.stdout.len());
    assert_eq!(sh("head -c 3000000 /dev/zero").ok().len(), 3_000_000);
    // A command that does not want its input does not wait for it.
    assert!(fed(&client(&daemon, &["exec", "c1", "true"]), bytes).status.success());
    // A loop over its input loses none of it to the command.
    let script = format!("while read line; do {WARREN} exec -n c1 -- sh -c \"cat; echo $line\"; done");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).env("WARREN_DIR", daemon.state());
    assert_eq!(fed(&shell, b"one\ntwo\n".to_vec()).stdout, b"one\ntwo\n");
    // A child that keeps the pipe open does not hold up the end.
    assert_eq!(sh("sleep 1000 & echo done").ok(), "done\n");

    let flags = ["exec", "c1", "--env", "A=b", "--cwd", "/etc", "--user", "7", "--group", "8", "--", "sh", "-c"];
    let script = "echo $A; pwd; id -u; id -g; test -t 0 || echo pipes";
    assert_eq!(warren(&daemon, &[&flags[..], &[script]].concat()).ok(), "b\n/etc\n7\n8\npipes\n");
    // Flags after the name are the command's, once it has begun.
    assert_eq!(warren(&daemon, &["exec", "c1", "echo", "-t", "--env"]).ok(), "-t --env\n");
    assert_eq!(warren(&daemon, &["exec", "c1", "-T", "--", "echo", "-T"]).ok(), "-T\n");
    // As lxc takes it: there, and empty.
    assert_eq!(warren(&daemon, &["exec", "c1", "--env", "A", "--", "sh", "-c", "echo ${A-unset}"]).ok(), "\n");
    assert_eq!(fed(&client(&daemon, &["shell", "c1"]), b"echo $HOME; exit 3\n".to_vec()), {
        let mut output = fed(&client(&daemon, &["exec", "c1", "true"]), Vec::new());
        output.stdout = b"/root\n".to_vec();
        output.status = std::os::unix::process::ExitStatusExt::from_raw(3 << 8);
        output
    });

    // Signals are the command's, which may take them as it likes.
    for (signal, name) in [(Signal::TERM, "TERM"), (Signal::INT, "INT"), (Signal::HUP, "HUP"), (Signal::QUIT, "QUIT")] {
        let script = format!("trap 'echo {name}; exit 9' {name}; echo ready; while :; do sleep 0.1; done");
        let mut command = client(&daemon, &["exec", "c1", "--", "sh", "-c", &script]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        send(&child, signal);
        assert_eq!(ended(&mut child).code(), Some(9), "{name}");
        let mut rest = String::new();
        child.stdout.unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!(rest, format!("{name}\n"));
    }
}

#[test]
fn a_terminal_reaches_the_container_and_is_put_back() {
    let daemon = Daemon::ready("overlay");
    warren(&daemon, &["launch", "bb", "c1"]).ok();
    let mut terminal = on_terminal(&daemon, &["exec", "c1", "--", "sh"]);
    eventually("raw mode", || terminal.is_raw());
    terminal.types("tty; echo term=$TERM; stty size; trap 'stty size' WINCH; echo begun=$?\r");
    terminal.shows("/dev/pts/");
    terminal.shows("term=xterm");
    terminal.shows("30 100");
    terminal.shows("begun=0");
    resize(&terminal.pts, 77, 33);
    terminal.types("\r");
    eventually("the new size", || {
        terminal.types("stty size\r");
        terminal.seen().contains("33 77")
    });
    // Ctrl-C is the command's.
    terminal.types("echo sleep''ing; sleep 1000\r");
    terminal.shows("sleeping");
    terminal.types("\x03");
    terminal.types("echo still'' here\r");
    terminal.shows("still here");
    terminal.types("exit 5\r");
    assert_eq!(terminal.end(), 5);

    let mut terminal = on_terminal(&daemon, &["shell", "c1"]);
    terminal.types("test -t 1 && echo a'' terminal; pwd\r");
    terminal.shows("a terminal");
    terminal.shows("/root");
    terminal.types("\x04");
    assert_eq!(terminal.end(), 0);

    // Without one although there is one, and the other way round.
    let mut terminal = on_terminal(&daemon, &["exec", "-T", "c1", "--", "sh", "-c", "test -t 0 || echo pipes"]);
    assert_eq!(terminal.end(), 0);
    terminal.shows("pipes");
    let forced = ["exec", "-t", "c1", "--", "sh", "-c", "tty; stty size; cat"];
    let text = String::from_utf8(fed(&client(&daemon, &forced), b"all\n".to_vec()).stdout).unwrap();
    assert!(text.contains("/dev/pts/") && text.contains("24 80") && text.contains("all\r\n"), "{text}");
    // Nobody reads what a terminal shows any more.
    let mut child = client(&daemon, &["exec", "-t", "c1", "--", "sh", "-c", "while :; do echo y; done"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    drop(child.stdout.take());
    assert_eq!(ended(&mut child).code(), Some(141));
    no_command_is_left(&daemon);

    // A size that is not known.
    let unknown = Terminal::with(&client(&daemon, &["exec", "c1", "--", "stty", "size"]), (0, 0));
    unknown.shows("24 80");
}

/// Only init and what it keeps alive run in `c1`.
#[track_caller]
fn no_command_is_left(daemon: &Daemon) {
    eventually("no command is left in the container", || {
        let processes = warren(daemon, &["exec", "c1", "--", "ps", "-o", "args"]).ok();
        !processes.lines().any(|line| line.starts_with("sh") || line.starts_with("sleep 1000"))
    });
}

#[test]
fn a_client_that_is_killed_puts_its_terminal_back() {
    let daemon = Daemon::ready("overlay");
    warren(&daemon, &["launch", "bb", "c1"]).ok();
    // A command that ends by the signal, and one that does not care.
    for script in ["echo up; exec cat", "trap '' TERM INT HUP QUIT; echo up; while :; do sleep 1; done"] {
        let mut terminals: Vec<(Terminal, Signal, i32)> = Vec::new();
        for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129), (Signal::QUIT, 131)] {
            let terminal = on_terminal(&daemon, &["exec", "c1", "--", "sh", "-c", script]);
            terminals.push((terminal, signal, code));
        }
        for (terminal, signal, _) in &terminals {
            terminal.shows("up");
            assert!(terminal.is_raw());
            send(&terminal.child, *signal);
        }
        for (terminal, _, code) in &mut terminals {
            assert_eq!(terminal.end(), *code, "{script}");
        }
        no_command_is_left(&daemon);
    }
}

#[test]
fn a_daemon_that_dies_leaves_the_terminal_as_it_was() {
    let mut daemon = Daemon::ready("overlay");
    warren(&daemon, &["launch", "bb", "c1"]).ok();
    let mut terminal = on_terminal(&daemon, &["exec", "c1", "--", "sh", "-c", "echo up; cat"]);
    let mut piped = client(&daemon, &["exec", "c1", "--", "sh", "-c", "echo up; exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    piped.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    terminal.shows("up");
    assert!(terminal.is_raw());
    daemon.kill();
    assert_eq!(terminal.end(), 1);
    // Which of the two depends on whether its socket still took a connection while it was dying.
    let told = ["Error: Cannot reach the daemon\r\n", "Error: The connection to the daemon broke\r\n"];
    eventually("the error", || told.iter().any(|text| terminal.seen().contains(text)));
    assert_eq!(ended(&mut piped).code(), Some(1));
    let mut err = String::new();
    piped.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(err.lines().count(), 3, "{err}");
    daemon.start();
}

#[test]
fn launch_waits_for_an_address_as_long_as_its_user_likes() {
    let daemon = Daemon::ready("overlay");
    let p2p = ["-d", "eth0,type=nic,nictype=p2p"];
    let mut waiting = client(&daemon, &[&["launch", "bb", "c1", "--wait"][..], &p2p].concat()).spawn().unwrap();
    eventually("it runs", || daemon.status("c1") == "Running");
    assert!(waiting.try_wait().unwrap().is_none(), "it has no address yet");
    warren(&daemon, &["exec", "c1", "--", "ip", "addr", "add", "192.0.2.7/24", "dev", "eth0"]).ok();
    warren(&daemon, &["exec", "c1", "--", "ip", "link", "set", "eth0", "up"]).ok();
    assert!(ended(&mut waiting).success());
    assert_eq!(warren(&daemon, &["list", "c1", "-c", "4", "-f", "csv"]).ok(), "192.0.2.7 (eth0)\n");

    // Ctrl-C ends the waiting and leaves the container.
    let mut terminal = on_terminal(&daemon, &[&["launch", "bb", "c2", "--wait"][..], &p2p].concat());
    terminal.shows("Creating c2\r\nStarting c2\r\n");
    eventually("it runs", || daemon.status("c2") == "Running");
    terminal.types("\x03");
    assert_eq!(terminal.end(), 130);
    terminal.shows("Error: Interrupted");
    assert_eq!(daemon.status("c2"), "Running");
    // The same while the daemon is waited for: this init takes its time to go down.
    let script = "echo ::shutdown:/bin/sleep 1000 > /etc/inittab; kill -HUP 1";
    warren(&daemon, &["exec", "c2", "--", "sh", "-c", script]).ok();
    let mut terminal = on_terminal(&daemon, &["stop", "c2"]);
    eventually("it is being stopped", || daemon.api("GET", "/1.0/operations", "").1["metadata"]["running"].is_array());
    terminal.types("\x03");
    assert_eq!(terminal.end(), 130);
    // One that ends while it is waited for, and one that can never have one.
    let mut waiting = client(&daemon, &[&["launch", "bb", "c3", "--wait"][..], &p2p].concat());
    let mut waiting = waiting.stderr(Stdio::piped()).spawn().unwrap();
    eventually("it runs", || daemon.status("c3") == "Running");
    warren(&daemon, &["stop", "--force", "c3"]).ok();
    assert_eq!(ended(&mut waiting).code(), Some(1));
    let without = warren(&daemon, &["launch", "bb", "c4", "--wait"]);
    assert_eq!(without.code, 1);
    assert!(without.err.starts_with("Error: c4 was started but has no IPv4 address\n"), "{}", without.err);
    assert_eq!(without.err.lines().count(), 3);
}

#[test]
fn refusals_say_what_is_wrong_and_leave_nothing() {
    let daemon = Daemon::ready("overlay");
    let warren = |arguments: &[&str]| warren(&daemon, arguments);
    for (verb, what) in [
        (&["start", "nosuch"][..], "Cannot start nosuch"),
        (&["stop", "nosuch"], "Cannot stop nosuch"),
        (&["restart", "nosuch"], "Cannot restart nosuch"),
        (&["pause", "nosuch"], "Cannot freeze nosuch"),
        (&["delete", "nosuch"], "Cannot delete nosuch"),
        (&["delete", "--force", "nosuch"], "Cannot delete nosuch"),
        (&["info", "nosuch"], "Cannot show nosuch"),
        (&["exec", "nosuch", "true"], "Cannot run a command in nosuch"),
        (&["shell", "nosuch"], "Cannot run a command in nosuch"),
    ] {
        let said = warren(verb);
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{verb:?}");
        let lines: Vec<&str> = said.err.lines().collect();
        assert_eq!(lines[..2], [&format!("Error: {what}"), "Instance not found"], "{verb:?}");
        assert!(lines.len() == 3 && lines[2].contains("warren list"), "{}", said.err);
    }
    for name in ["a_b", "1a", "a/b", "..", "a?recursion=1", "a b", "", "ä", "a\nb"] {
        for verb in [&["launch", "bb", name][..], &["stop", name], &["delete", name], &["info", name], &["shell", name]]
        {
            let said = warren(verb);
            assert_eq!(said.code, 1, "{verb:?}: {}", said.err);
            // A snapshot is deleted so.
            let snapshot = verb[0] == "delete" && name == "a/b";
            let told = said.err.starts_with("Error: Invalid instance name") || name.is_empty() || snapshot;
            assert!(told, "{verb:?}: {}", said.err);
        }
    }
    warren(&["launch", "nosuch", "c1"]).refused("Error: Cannot create c1\nImage \"nosuch\" not found");
    warren(&["launch", "nowhere:debian/12", "c1"]).refused("The remote \"nowhere\" doesn't exist");
    warren(&["launch", "bb", "c1", "-c", "nonsense=1"]).refused("nonsense");
    warren(&["launch", "bb", "c1", "-p", "nosuch"]).refused("nosuch");
    warren(&["launch", "bb", "c1", "-s", "nosuch"]).refused("nosuch");
    assert_eq!(warren(&["list", "-f", "csv"]).ok(), "");
    // What was created before the start failed stays, and that is said.
    let half = warren(&["launch", "bb", "c1", "-d", "eth0,type=nic,nictype=bridged,parent=nosuchbr"]);
    let lines: Vec<&str> = half.err.lines().collect();
    assert!(lines.len() == 3 && lines[0] == "Error: Cannot start c1" && lines[1].contains("nosuchbr"), "{}", half.err);
    assert!(lines[2].contains("It was created"), "{}", half.err);
    assert_eq!(daemon.status("c1"), "Stopped");
    warren(&["init", "bb", "c1"]).refused("Error: Cannot create c1\nInstance \"c1\" already exists");
    warren(&["list", "-c", "nQ"]).refused("Unknown column shorthand char 'Q'");
    warren(&["query", "1.0"]).refused("begins with /");
    warren(&["query", "/1.0/nosuch"]).refused("Error: not found");
    warren(&["query", "-d", "{", "-X", "POST", "/1.0/instances"]).refused("--data is no JSON");
    warren(&["query", "-X", "B AD", "/1.0"]).refused("is no method");
    for usage in [&["nosuch"][..], &["launch"], &["exec", "c1"], &["list", "-f", "nosuch"], &["stop"]] {
        let said = warren(usage);
        assert_eq!(said.code, 1, "{usage:?}");
        assert!(said.out.is_empty() && said.err.contains("--help"), "{usage:?}: {}", said.err);
    }
}

#[test]
fn raw_requests_are_answered_whole() {
    let daemon = Daemon::ready("overlay");
    let warren = |arguments: &[&str]| warren(&daemon, arguments);
    let json = |said: Said| serde_json::from_str::<Value>(&said.ok()).unwrap();
    assert_eq!(json(warren(&["query", "/1.0/instances"])), serde_json::json!([]));
    let body = r#"{"name": "c1", "source": {"type": "image", "alias": "bb"}}"#;
    let done = json(warren(&["query", "-X", "POST", "--wait", "-d", body, "/1.0/instances"]));
    assert_eq!(done["status"], "Success");
    let raw = json(warren(&["query", "--raw", "/1.0/instances/c1"]));
    assert_eq!((&raw["type"], &raw["metadata"]["name"]), (&"sync".into(), &"c1".into()));
    warren(&["query", "--wait", "-X", "PUT", "-d", r#"{"action": "stop"}"#, "/1.0/instances/c1/state"])
        .refused("already stopped");
    warren(&["start", "c1"]).ok();
    // Not everything is JSON.
    let log = warren(&["query", "/1.0/instances/c1/logs/lxc.conf"]).ok();
    assert!(log.contains("lxc.uts.name = c1"), "{log}");
}

#[test]
fn nobody_needs_to_read_what_is_printed() {
    let daemon = Daemon::ready("overlay");
    // A pipe whose reader is gone before anything is written.
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    for verb in [
        &["list"][..],
        &["list", "-f", "json"],
        &["image", "list"],
        &["info"],
        &["query", "/1.0"],
        &["init", "bb"],
        &["--help"],
        &["launch", "bb", "c1"],
    ] {
        let output = client(&daemon, verb).stdout(closed()).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{verb:?}");
        // Neither need its errors be read.
        let output = client(&daemon, verb).stdout(closed()).stderr(closed()).output().unwrap();
        assert!(matches!(output.status.code(), Some(0 | 1)), "{verb:?}: {}", output.status);
    }
    assert_eq!(daemon.status("c1"), "Running");
    let output = client(&daemon, &["start", "nosuch"]).stderr(closed()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    // The command in the container sees the closed pipe as well.
    let endless = ["exec", "c1", "--", "sh", "-c", "while :; do echo y || exit 9; done"];
    let mut child = client(&daemon, &endless).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    drop(child.stdout.take());
    assert!(matches!(ended(&mut child).code(), Some(9 | 141)));
    // A full disk is no closed pipe.
    let full = || File::options().write(true).open("/dev/full").unwrap();
    for verb in [&["list"][..], &["exec", "c1", "echo", "x"]] {
        let output = said(&client(&daemon, verb).stdout(full()).stderr(Stdio::piped()).output().unwrap());
        assert_eq!(output.code, 1, "{verb:?}");
        assert!(output.err.contains("Cannot write the output: No space left"), "{}", output.err);
    }
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let daemon = Daemon::bare();
    for verb in [&["list"][..], &["image", "list"], &["nosuch"], &["--help"], &["start", "nosuch"]] {
        let piped = warren(&daemon, verb);
        assert!(!piped.out.contains('\x1b') && !piped.err.contains('\x1b'), "{verb:?}");
        let mut plain = client(&daemon, verb);
        plain.env("NO_COLOR", "1");
        let mut terminal = Terminal::with(&plain, (80, 24));
        terminal.end();
        terminal.shows("\n");
        assert!(!terminal.seen().contains('\x1b'), "{verb:?}: {:?}", terminal.seen());
    }
}

#[test]
fn without_a_daemon_it_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("unix.socket");
    let refused = |verb: &[&str], why: &str| {
        let said = said(&client_of(dir.path(), verb).output().unwrap());
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{verb:?}");
        let lines: Vec<&str> = said.err.lines().collect();
        assert_eq!(lines[0], "Error: Cannot reach the daemon", "{verb:?}");
        assert_eq!(lines[1], format!("Nothing answers at {}: {why}", socket.display()), "{verb:?}");
        assert!(lines.len() == 3 && lines[2].contains("Start warrend"), "{}", said.err);
    };
    for verb in [
        &["list"][..],
        &["launch", "bb", "c1"],
        &["exec", "c1", "true"],
        &["shell", "c1"],
        &["start", "c1"],
        &["stop", "--all"],
        &["delete", "c1"],
        &["image", "list"],
        &["image", "import", "/etc/hostname"],
        &["info"],
        &["query", "/1.0"],
    ] {
        refused(verb, "No such file or directory (os error 2)");
    }
    // A socket that a daemon has left.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    refused(&["list"], "Connection refused (os error 111)");
}

#[test]
fn a_daemon_that_breaks_off_or_talks_nonsense_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let listener = std::os::unix::net::UnixListener::bind(dir.path().join("unix.socket")).unwrap();
    let answers = [
        ("", "The connection to the daemon broke"),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{",
            "connection to the daemon broke",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]", "makes no sense"),
        ("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi", "makes no sense"),
        ("SSH-2.0-nonsense\r\n", "broke"),
    ];
    for (answer, told) in answers {
        let child = client_of(dir.path(), &["list"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        assert!(stream.read(&mut request).unwrap() > 0);
        stream.write_all(answer.as_bytes()).unwrap();
        drop(stream);
        let said = said(&child.wait_with_output().unwrap());
        assert_eq!(said.code, 1, "{answer:?}");
        assert!(said.err.contains(told) && said.err.lines().count() == 3, "{answer:?}: {}", said.err);
    }
}
