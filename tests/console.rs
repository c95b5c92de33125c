//! The console of a container and its log, as clients see them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use serde_json::json;
use support::websocket::{Session, Socket};
use support::{Daemon, eventually};

/// A container with a shell on its console.
fn with_shell() -> Daemon {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    // busybox's init reads its inittab again on SIGHUP.
    let script = "echo 'console::respawn:-/bin/sh' >> /etc/inittab; kill -HUP 1";
    daemon.lxc(&["exec", "c1", "--", "sh", "-c", script]).ok();
    eventually("the shell's prompt", || log(&daemon).contains("# "));
    daemon
}

fn log(daemon: &Daemon) -> String {
    daemon.lxc(&["console", "c1", "--show-log"]).ok()
}

struct Console {
    session: Session,
    data: Socket,
    control: Socket,
}

fn attach(daemon: &Daemon, force: bool) -> Console {
    let body = json!({"type": "console", "width": 100, "height": 30, "force": force});
    let session = Session::post(daemon, "/1.0/instances/c1/console", &body);
    let (control, data) = (session.socket(daemon, "control"), session.socket(daemon, "0"));
    Console { session, data, control }
}

#[test]
fn a_console_is_typed_at_resized_and_left() {
    let daemon = with_shell();
    let pid = daemon.instance_pid("c1");
    let mut console = attach(&daemon, false);
    console.data.send("echo $((6 * 7)); tty; stty size\n");
    let shown = console.data.until("30 100");
    assert!(shown.contains("42") && shown.contains("/dev/console"), "{shown}");
    // What makes no sense does no harm.
    console.control.text("nonsense");
    console.control.text(r#"{"command": "window-resize", "args": {"width": "wide"}}"#);
    console.control.text(r#"{"command": "signal", "signal": 9}"#);
    console.control.text(r#"{"command": "window-resize", "args": {"width": "132", "height": "43"}}"#);
    // Asked again inside, where nothing of the answer can be taken for the echo of the question.
    console.data.send("while [ \"$(stty size)\" != \"43 132\" ]; do sleep 0.1; done; echo resi\"\"zed\n");
    console.data.until("resized");
    // The escape is the client's business: here it is a key like any other.
    console.data.send("\x01q\x15echo still here\n");
    console.data.until("\nstill here");
    // The stock client leaves by closing its control websocket.
    console.control.close();
    assert_eq!(console.session.wait(&daemon), (200, String::new(), None));
    assert_eq!(console.data.rest().2.0, 1000);
    for _ in 0..5 {
        // Free again at once, and the same shell is there.
        let mut again = attach(&daemon, false);
        again.data.send("echo back\n");
        again.data.until("\nback");
        // One that vanishes leaves, too.
        drop(again.data);
        assert_eq!(again.session.wait(&daemon).0, 200);
    }
    assert_eq!(daemon.instance_pid("c1"), pid);
}

#[test]
fn a_second_client_is_refused_or_takes_over_by_force() {
    let daemon = with_shell();
    let mut first = attach(&daemon, false);
    first.data.send("echo one\n");
    first.data.until("\none");
    let (status, answer) = daemon.api("POST", "/1.0/instances/c1/console", r#"{"type": "console"}"#);
    assert_eq!((status, answer["error_code"].as_u64()), (400, Some(400)));
    assert!(answer["error"].as_str().unwrap().contains("in use"), "{answer}");
    let mut second = attach(&daemon, true);
    let (_, _, (code, reason)) = first.data.rest();
    assert_eq!(code, 1008);
    assert!(reason.contains("taken over"), "{reason}");
    assert_eq!(first.session.wait(&daemon).0, 200);
    second.data.send("echo two\n");
    second.data.until("\ntwo");
    // Two that were let in at the same time: the second to come is told.
    let body = json!({"type": "console"});
    second.control.close();
    second.session.wait(&daemon);
    let (a, b) = (
        Session::post(&daemon, "/1.0/instances/c1/console", &body),
        Session::post(&daemon, "/1.0/containers/c1/console", &body),
    );
    let mut winner = a.socket(&daemon, "0");
    winner.send("echo three\n");
    winner.until("\nthree");
    let (_, _, (code, reason)) = b.socket(&daemon, "0").rest();
    assert_eq!(code, 1008);
    assert!(reason.contains("in use"), "{reason}");
    let (status, error, _) = b.wait(&daemon);
    assert_eq!(status, 400);
    assert!(error.contains("in use"), "{error}");
}

#[test]
fn the_end_of_the_container_ends_the_operation() {
    let daemon = with_shell();
    let mut console = attach(&daemon, false);
    console.data.send("echo last words\n");
    console.data.until("\nlast words");
    daemon.lxc(&["stop", "--force", "c1"]).ok();
    let (_, marked, (code, _)) = console.data.rest();
    assert!(marked);
    assert_eq!(code, 1000);
    assert_eq!(console.session.wait(&daemon).0, 200);
    for (body, text) in [
        (r#"{"type": "console"}"#, "Instance is not running"),
        (r#"{"type": "vga"}"#, "VGA console is only supported by virtual machines"),
        (r#"{"type": "foo"}"#, "Unknown console type \"foo\""),
    ] {
        let (status, answer) = daemon.api("POST", "/1.0/instances/c1/console", body);
        assert_eq!((status, answer["error"].as_str()), (400, Some(text)));
    }
    daemon.lxc(&["start", "c1"]).ok();
    daemon.lxc(&["pause", "c1"]).ok();
    let (status, answer) = daemon.api("POST", "/1.0/instances/c1/console", "{}");
    assert_eq!((status, answer["error"].as_str()), (400, Some("Instance is frozen")));
    for (method, body) in [("POST", "{}"), ("GET", ""), ("DELETE", "")] {
        let (status, answer) = daemon.api(method, "/1.0/instances/nosuch/console", body);
        assert_eq!((status, answer["error"].as_str()), (404, Some("Instance not found")));
    }
}

#[test]
fn a_client_that_takes_nothing_holds_nobody_up() {
    let daemon = with_shell();
    let mut console = attach(&daemon, false);
    console.data.send("echo here\n");
    console.data.until("\nhere");
    // More than all buffers between the container and this client hold.
    daemon
        .lxc(&["exec", "c1", "--", "sh", "-c", "head -c 9000000 /dev/zero > /dev/console; echo over > /dev/console"])
        .ok();
    daemon.lxc(&["exec", "c1", "--", "true"]).ok();
    assert!(log(&daemon).contains("over"));
    let shown = console.data.until("not taken in time");
    assert!(shown.len() < 9_000_000);
    console.data.send("echo and on\n");
    console.data.until("\nand on");
}

#[test]
fn a_daemon_that_dies_with_a_client_attached_leaves_the_container_whole() {
    let mut daemon = with_shell();
    let pid = daemon.instance_pid("c1");
    for _ in 0..3 {
        let mut console = attach(&daemon, false);
        console.data.send("while true; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done\n");
        console.data.until("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\r\nxxxxxxxxxxx");
        // liblxc's monitor is writing to the client at this moment.
        daemon.kill();
        daemon.start();
        assert_eq!(daemon.instance_pid("c1"), pid);
        let mut console = attach(&daemon, false);
        console.data.send("\x03");
        console.data.send("echo stop''ped\n");
        console.data.until("stopped");
        console.control.close();
        console.session.wait(&daemon);
    }
    daemon.lxc(&["stop", "--force", "c1"]).ok();
}

#[test]
fn an_attached_console_does_not_hold_the_shutdown_up() {
    let mut daemon = with_shell();
    let mut console = attach(&daemon, false);
    console.data.send("echo here\n");
    console.data.until("\nhere");
    daemon.verb(&["shutdown", "--timeout", "20"]).ok();
    assert_eq!(console.data.rest().2, (1001, "The daemon is shutting down".to_owned()));
    // The process has ended by itself; this takes note of it.
    daemon.kill();
    daemon.start();
    eventually("it runs again", || daemon.status("c1") == "Running");
}

#[test]
fn the_log_shows_what_the_console_did_running_and_stopped_and_stays_small() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    for method in ["GET", "DELETE"] {
        let (status, answer) = daemon.api(method, "/1.0/instances/c1/console", "");
        assert_eq!(status, 404);
        assert!(answer["error"].as_str().unwrap().contains("no console log"), "{answer}");
    }
    daemon.lxc(&["start", "c1"]).ok();
    let write = |script: &str| daemon.lxc(&["exec", "c1", "--", "sh", "-c", script]).ok();
    write("echo first > /dev/console");
    // Looking at it takes nothing away.
    for _ in 0..2 {
        eventually("the first line", || log(&daemon).contains("first\r\n"));
    }
    daemon.lxc(&["stop", "--force", "c1"]).ok();
    assert!(log(&daemon).contains("first\r\n"), "it survives the stop");
    let listed = daemon.api("GET", "/1.0/instances/c1/logs", "").1;
    for name in ["console.log", "lxc.conf", "lxc.log"] {
        assert!(listed["metadata"].as_array().unwrap().contains(&json!(format!("/1.0/instances/c1/logs/{name}"))));
    }
    assert!(!listed.to_string().contains("console.log.1"));
    assert_eq!(daemon.api("DELETE", "/1.0/instances/c1/logs/console.log", "").0, 400);
    assert_eq!(daemon.api("DELETE", "/1.0/instances/c1/console", "").0, 200);
    assert!(!log(&daemon).contains("first"));

    daemon.lxc(&["start", "c1"]).ok();
    // 2 MB of lines.
    write(
        "i=0; while [ $i -lt 40000 ]; do echo \"line $i of the console's long, long story\"; i=$((i+1)); done > /dev/console",
    );
    write("echo the end > /dev/console");
    eventually("the last line", || log(&daemon).contains("the end\r\n"));
    let shown = log(&daemon);
    assert!(shown.len() > 128 * 1024 && shown.contains("line 39999 "), "{}", shown.len());
    let lines = shown.lines().filter(|line| line.starts_with("line ")).count();
    assert!(lines > 2500, "{lines}");
    let size: u64 =
        std::fs::read_dir(daemon.state().join("logs/c1")).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(size < 300 * 1024, "{size}");
    let (status, text) = daemon.request("GET", "/1.0/instances/c1/logs/console.log", &[], b"");
    assert!(status == 200 && text.contains("the end"));
    assert_eq!(daemon.api("DELETE", "/1.0/instances/c1/console", "").0, 200);
    write("echo after > /dev/console");
    eventually("the line after", || log(&daemon).contains("after\r\n"));
    assert!(!log(&daemon).contains("line 39999"));
    daemon.lxc(&["restart", "--force", "c1"]).ok();
    assert!(!log(&daemon).contains("after"), "each start has its own log");
}

#[test]
fn the_stock_client_attaches_and_leaves_by_its_escape() {
    let daemon = with_shell();
    let said = daemon.lxc_on_terminal(&["console", "c1"], &[("# ", "echo $((6*7))\n"), ("42", "")], "\x01q");
    assert_eq!(said.code, 0, "{}", said.out);
    assert!(said.out.contains("42"), "{}", said.out);
    // While another has it, the client is told.
    let mut first = attach(&daemon, false);
    first.data.send("echo one\n");
    first.data.until("\none");
    let said = daemon.lxc_on_terminal(&["console", "c1"], &[], "");
    assert!(said.code != 0 && said.out.contains("in use"), "{}", said.out);
}
