//! Commands inside containers: their websockets, clients that vanish, many at once, the environment.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use serde_json::json;
use support::websocket::{Session, Socket};
use support::{Daemon, eventually};

fn with_container() -> Daemon {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    daemon
}

/// Runs a command with its output recorded: its status, stdout, and the operation's error.
fn recorded(daemon: &Daemon, body: &serde_json::Value) -> (Option<i64>, String, String) {
    let mut body = body.clone();
    body["record-output"] = true.into();
    let (_, error, metadata) = daemon.operation("POST", "/1.0/instances/c1/exec", &body.to_string());
    let url = metadata["output"]["1"].as_str().unwrap();
    let (status, text) = daemon.request("GET", url, &[], b"");
    assert_eq!(status, 200);
    // Without the marks of the chunked body.
    let text = text.split("\r\n").filter(|piece| usize::from_str_radix(piece, 16).is_err()).collect();
    (metadata["return"].as_i64(), text, error)
}

#[test]
fn sixty_four_commands_at_once_have_each_their_own_output_and_status() {
    let daemon = with_container();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..64)
            .map(|number| {
                let daemon = &daemon;
                scope.spawn(move || {
                    let script = format!("echo in {number}; echo err {number} >&2; cat; exit {number}");
                    let session = Session::exec(daemon, "c1", false, &["sh", "-c", &script]);
                    let mut sockets = ["control", "0", "1", "2"].map(|fd| session.socket(daemon, fd));
                    let [_, stdin, stdout, stderr] = &mut sockets;
                    stdin.send(format!("typed {number}\n"));
                    stdin.text("");
                    let (out, marked, (code, _)) = stdout.rest();
                    assert_eq!(String::from_utf8_lossy(&out), format!("in {number}\ntyped {number}\n"));
                    assert!(marked && code == 1000);
                    assert_eq!(stderr.rest().0, format!("err {number}\n").into_bytes());
                    assert_eq!(session.wait(daemon), (200, String::new(), Some(number)));
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn the_environment_is_as_the_specification_says() {
    let daemon = with_container();
    let env = |body: serde_json::Value| {
        let (status, text, _) = recorded(&daemon, &body);
        assert_eq!(status, Some(0));
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    // As LXD 5.0.2 answers for the same container.
    assert_eq!(env(json!({"command": ["env"]})), ["HOME=/root", "LANG=C.UTF-8", path, "USER=root", "container=lxc"]);
    assert_eq!(env(json!({"command": ["env"], "user": 1000, "group": 1000})), ["LANG=C.UTF-8", path, "container=lxc"]);
    let custom = json!({"TERM": "xterm", "PATH": "/x:/bin", "HOME": "/tmp"});
    assert_eq!(
        env(json!({"command": ["env"], "environment": custom})),
        ["HOME=/tmp", "LANG=C.UTF-8", "PATH=/x:/bin", "TERM=xterm", "USER=root", "container=lxc"]
    );
    let pwd = |body: serde_json::Value| recorded(&daemon, &body).1;
    assert_eq!(pwd(json!({"command": ["pwd"]})), "/root\n");
    assert_eq!(pwd(json!({"command": ["pwd"], "cwd": "/etc"})), "/etc\n");
    assert_eq!(pwd(json!({"command": ["pwd"], "cwd": "/nosuch"})), "/\n");
    assert_eq!(pwd(json!({"command": ["pwd"], "user": 1000})), "/\n");
    assert_eq!(pwd(json!({"command": ["sh", "-c", "id -u; id -g"], "user": 5, "group": 6})), "5\n6\n");
    recorded(&daemon, &json!({"command": ["/bin/busybox", "mkdir", "/snap"]}));
    assert_eq!(env(json!({"command": ["env"]}))[2], format!("{path}:/snap/bin"));
    // The operation tells what the command really got, also after its end.
    let session = Session::exec(&daemon, "c1", false, &["true"]);
    let _sockets = ["0", "1", "2"].map(|fd| session.socket(&daemon, fd));
    session.wait(&daemon);
    let told = daemon.api("GET", &session.url, "").1;
    assert_eq!(told["metadata"]["metadata"]["environment"]["USER"], "root");
    assert_eq!(told["metadata"]["metadata"]["command"], json!(["true"]));
}

#[test]
fn commands_without_websockets_and_refusals() {
    let daemon = with_container();
    let run = |body: serde_json::Value| daemon.operation("POST", "/1.0/instances/c1/exec", &body.to_string());
    let (code, _, metadata) = run(json!({"command": ["sh", "-c", "echo lost; exit 3"]}));
    assert_eq!((code, metadata["return"].as_i64()), (200, Some(3)));
    assert!(metadata["output"].is_null());
    // A terminal without anybody at it is none.
    let (code, _, metadata) = run(json!({"command": ["tty"], "interactive": true}));
    assert_eq!((code, metadata["return"].as_i64()), (200, Some(1)));
    let (status, text, _) = recorded(&daemon, &json!({"command": ["echo", "kept"], "interactive": true}));
    assert_eq!((status, text.as_str()), (Some(0), "kept\n"));
    // As LXD 5.0.2 takes these two statuses.
    for (command, status, error) in [("nosuch", 127, "Command not found"), ("/etc", 126, "Command not executable")] {
        let (code, said, metadata) = run(json!({"command": [command]}));
        assert_eq!((code, said.as_str(), metadata["return"].as_i64()), (400, error, Some(status)));
        let client = daemon.lxc(&["exec", "c1", "--", command]);
        assert_eq!(i64::from(client.code), status);
        assert!(client.err.contains(error), "{}", client.err);
    }
    for (body, text) in [
        (json!({"command": []}), "command"),
        (json!({"command": ["a\0b"]}), "NUL"),
        (json!({"command": ["env"], "environment": {"A": "\0"}}), "NUL"),
        (json!({"command": ["env"], "cwd": "\0"}), "NUL"),
    ] {
        let (status, answer) = daemon.api("POST", "/1.0/instances/c1/exec", &body.to_string());
        assert_eq!(status, 400);
        assert!(answer["error"].as_str().unwrap().contains(text), "{answer}");
    }
    let body = json!({"command": ["true"]}).to_string();
    assert_eq!(daemon.api("POST", "/1.0/instances/nosuch/exec", &body).0, 404);
    daemon.lxc(&["pause", "c1"]).ok();
    let (status, answer) = daemon.api("POST", "/1.0/instances/c1/exec", &body);
    assert_eq!((status, answer["error"].as_str()), (400, Some("Instance is frozen")));
    daemon.lxc(&["stop", "--force", "c1"]).ok();
    let (status, answer) = daemon.api("POST", "/1.0/instances/c1/exec", &body);
    assert_eq!((status, answer["error"].as_str()), (400, Some("Instance is not running")));
}

#[test]
fn a_secret_opens_one_websocket_once_while_its_command_runs() {
    let daemon = with_container();
    let session = Session::exec(&daemon, "c1", false, &["cat"]);
    let mut sockets = ["0", "1", "2"].map(|fd| session.socket(&daemon, fd));
    assert_eq!(Socket::connect(&daemon, &session.path("0")).err(), Some(400), "twice");
    assert_eq!(Socket::connect(&daemon, &format!("{}/websocket?secret=beef", session.url)).err(), Some(403));
    assert_eq!(Socket::connect(&daemon, &format!("{}/websocket", session.url)).err(), Some(400));
    // The data of a close message's sender is complete, and the end of its input.
    sockets[0].send("last\n");
    sockets[0].close();
    assert_eq!(sockets[1].rest().0, b"last\n");
    assert_eq!(session.wait(&daemon), (200, String::new(), Some(0)));
    // A command can be quicker than its client's last connection; one that was used is used.
    let mut late = session.socket(&daemon, "control");
    assert_eq!(late.rest().2.0, 1000);
    assert_eq!(Socket::connect(&daemon, &session.path("0")).err(), Some(400), "used");
    let (_, answer) = daemon.api("POST", "/1.0/instances/c1/exec", r#"{"command": ["true"]}"#);
    let path = format!("{}/websocket?secret=beef", answer["operation"].as_str().unwrap());
    assert_eq!(Socket::connect(&daemon, &path).err(), Some(400), "a task has none");
}

/// Who starts the daemon by nohup(1) has SIGHUP ignored, which execve(2) hands on.
#[test]
fn no_signal_is_ignored_because_the_daemon_s_starter_ignored_it() {
    let mut daemon = with_container();
    daemon.terminate();
    daemon.spawn_by(&["env", "--ignore-signal=HUP,INT,PIPE,USR1"]);
    daemon.verb(&["waitready", "--timeout", "20"]).ok();
    daemon.lxc(&["restart", "--force", "c1"]).ok();
    let ignored = |process: &str| {
        daemon.lxc(&["exec", "c1", "--", "busybox", "grep", "SigIgn", &format!("/proc/{process}/status")]).ok()
    };
    assert!(ignored("self").ends_with("0000000000000000\n"), "{}", ignored("self"));
    // Its init has set its own.
    let of_init = ignored("1");
    let mask = u64::from_str_radix(of_init.trim().trim_start_matches("SigIgn:\t"), 16).unwrap();
    assert_eq!(mask & (1 << (libc::SIGHUP - 1) | 1 << (libc::SIGUSR1 - 1)), 0, "{of_init}");
    assert_eq!(daemon.lxc(&["exec", "c1", "--", "sh", "-c", "kill -HUP $$; echo alive"]).code, 129);
}

/// Whether a process with this argument is there, in any container.
fn runs(argument: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())
    })
}

#[test]
fn a_client_that_vanishes_has_its_terminal_hung_up() {
    let daemon = with_container();
    for (number, lost) in [["0"].as_slice(), &["control"], &["0", "control"]].into_iter().enumerate() {
        // Found again among all processes of the host.
        let mark = format!("{}{number}", 1_000_000 + std::process::id());
        let session = Session::exec(&daemon, "c1", true, &["sleep", &mark]);
        let mut sockets: Vec<(&str, Socket)> =
            ["control", "0"].into_iter().map(|fd| (fd, session.socket(&daemon, fd))).collect();
        eventually("the command runs", || runs(&mark));
        sockets.retain(|(fd, _)| !lost.contains(fd));
        // SIGHUP.
        assert_eq!(session.wait(&daemon), (200, String::new(), Some(129)), "{lost:?}");
        assert!(!runs(&mark));
    }
    // Also one that does not read what is typed, and whose output nobody takes.
    let session = Session::exec(&daemon, "c1", true, &["sh", "-c", "while true; do echo flood; done"]);
    let (control, mut data) = (session.socket(&daemon, "control"), session.socket(&daemon, "0"));
    data.until("flood");
    drop(data);
    assert_eq!(session.wait(&daemon).2, Some(129));
    drop(control);
    // Resizing and signals still go through.
    let session = Session::exec(&daemon, "c1", true, &["sh", "-c", "read x; stty size; read x"]);
    let (mut control, mut data) = (session.socket(&daemon, "control"), session.socket(&daemon, "0"));
    control.text(r#"{"command": "window-resize", "args": {"width": "90", "height": "31"}}"#);
    control.text("garbage");
    data.send("\n");
    data.until("31 90");
    control.text(r#"{"command": "signal", "signal": 15}"#);
    assert_eq!(session.wait(&daemon).2, Some(143));
}

#[test]
fn a_client_that_vanishes_has_its_pipes_closed() {
    let daemon = with_container();
    let session = Session::exec(&daemon, "c1", false, &["sleep", "1000"]);
    let sockets = ["control", "0", "1", "2"].map(|fd| session.socket(&daemon, fd));
    drop(sockets);
    assert_eq!(session.wait(&daemon).2, Some(137), "as with LXD, it is killed");
    let session = Session::exec(&daemon, "c1", false, &["sh", "-c", "cat; sleep 0.3; echo end of input"]);
    let sockets = ["0", "1", "2"].map(|fd| session.socket(&daemon, fd));
    drop(sockets);
    // It sees the end of its input, and then nobody who reads.
    let (code, _, status) = session.wait(&daemon);
    assert_eq!(code, 200);
    assert!(status == Some(1) || status == Some(141), "{status:?}");
    let session = Session::exec(&daemon, "c1", false, &["sh", "-c", "while echo flood; do true; done; exit 7"]);
    let mut sockets = ["0", "1", "2"].map(|fd| session.socket(&daemon, fd));
    sockets[1].until("flood");
    drop(sockets);
    let (code, _, status) = session.wait(&daemon);
    assert_eq!(code, 200);
    assert!(status == Some(7) || status == Some(141), "{status:?}");
}

#[test]
fn a_child_that_writes_for_ever_does_not_hold_up_the_end() {
    let daemon = with_container();
    let script = "(while true; do echo more; done) & echo done";
    let session = Session::exec(&daemon, "c1", false, &["sh", "-c", script]);
    let mut sockets = ["0", "1", "2"].map(|fd| session.socket(&daemon, fd));
    let (out, marked, _) = sockets[1].rest();
    assert!(marked && String::from_utf8_lossy(&out).contains("done"));
    assert_eq!(session.wait(&daemon).2, Some(0));
}

#[test]
fn a_message_that_is_too_long_is_refused_with_a_reason() {
    let daemon = with_container();
    let session = Session::exec(&daemon, "c1", false, &["cat"]);
    let mut sockets = ["0", "1", "2"].map(|fd| session.socket(&daemon, fd));
    if sockets[0].try_send(vec![0; 5 * 1024 * 1024]) {
        let (_, _, (code, _)) = sockets[0].rest();
        // What is still on its way to a closed socket may cut its words off.
        assert!(code == 1009 || code == 1006, "{code}");
    }
    // For the command that is the end of its input.
    assert_eq!(session.wait(&daemon).2, Some(0));
}

#[test]
fn websockets_are_closed_with_a_reason_when_the_daemon_ends() {
    let mut daemon = with_container();
    let mut events = Socket::connect(&daemon, "/1.0/events?type=operation").unwrap();
    let terminal = Session::exec(&daemon, "c1", true, &["sh", "-c", "echo ready; sleep 1000"]);
    let (mut control, mut data) = (terminal.socket(&daemon, "control"), terminal.socket(&daemon, "0"));
    data.until("ready");
    let piped = Session::exec(&daemon, "c1", false, &["sh", "-c", "echo ready; sleep 1001"]);
    let mut pipes = ["0", "1", "2"].map(|fd| piped.socket(&daemon, fd));
    pipes[1].until("ready");
    let console = Session::post(&daemon, "/1.0/instances/c1/console", &json!({"type": "console"}));
    let (mut steering, mut shown) = (console.socket(&daemon, "control"), console.socket(&daemon, "0"));
    daemon.lxc(&["exec", "c1", "--", "sh", "-c", "echo hello > /dev/console"]).ok();
    shown.until("hello");
    let pid = daemon.instance_pid("c1");
    daemon.terminate();
    let [stdin, stdout, stderr] = &mut pipes;
    for (name, socket) in [
        ("events", &mut events),
        ("control", &mut control),
        ("terminal", &mut data),
        ("stdin", stdin),
        ("stdout", stdout),
        ("stderr", stderr),
        ("control of the console", &mut steering),
        ("console", &mut shown),
    ] {
        let (_, _, ended) = socket.rest();
        assert_eq!(ended, (1001, "The daemon is shutting down".to_owned()), "{name}");
    }
    daemon.start();
    assert_eq!(daemon.instance_pid("c1"), pid);
}

/// One that nobody connects to, or not with all that it needs, is not waited for: it ends with that as its reason, and not with
/// the client's delay.
#[test]
fn commands_that_nobody_connects_to_do_not_hold_up_a_shutdown() {
    let mut daemon = with_container();
    let mut events = Socket::connect(&daemon, "/1.0/events?type=operation").unwrap();
    let exec = Session::exec(&daemon, "c1", false, &["true"]);
    let console = Session::post(&daemon, "/1.0/instances/c1/console", &json!({"type": "console"}));
    let half = Session::exec(&daemon, "c1", false, &["true"]);
    let mut stdout = half.socket(&daemon, "1");
    std::thread::scope(|scope| {
        let ending = scope.spawn(|| daemon.verb(&["shutdown", "--timeout", "60"]).code);
        let mut waiting = vec![exec.path("0"), console.path("0"), half.path("0")];
        while !waiting.is_empty() {
            let about = events.next_json()["metadata"].clone();
            let ours = waiting.iter().position(|path| path.contains(about["id"].as_str().unwrap()));
            if let Some(number) = ours.filter(|_| about["status_code"].as_u64().unwrap() >= 200) {
                assert_eq!(about["err"], "The daemon is shutting down", "{about}");
                waiting.remove(number);
            }
        }
        assert_eq!(ending.join().unwrap(), 0);
    });
    assert_eq!(stdout.rest().2.1, "The daemon is shutting down");
    daemon.ended();
    daemon.start();
}

/// The daemon holds several files for each command; what it starts gets the limit that the daemon itself was given.
#[test]
fn the_daemon_raises_its_limit_of_open_files_and_containers_have_the_usual_one() {
    let daemon = with_container();
    let limit = |pid: i64, column: usize| {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        line.split_whitespace().nth(column).unwrap().parse::<u64>().unwrap()
    };
    let me = i64::from(std::process::id());
    let usual = limit(me, 3);
    assert_eq!(limit(daemon.pid().into(), 3), limit(me, 4).min(1 << 20));
    assert_eq!(limit(daemon.instance_pid("c1"), 3), usual);
    assert_eq!(daemon.lxc(&["exec", "c1", "--", "sh", "-c", "ulimit -n"]).ok().trim(), usual.to_string());
}
