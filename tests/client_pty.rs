//! The client `warren` on a terminal: questions, passwords, editors, the console, progress, signals. What `exec` does there
//! stands in tests/client.rs, what hostile servers do to it in tests/client_hostile.rs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;
use rustix::termios::{LocalModes, tcgetattr};
use serde_json::json;
use support::broken_server::{BrokenServer, answer, metadata, operation};
use support::place::{Place, WARREN};
use support::terminal::{Terminal, resize, send};
use support::tls::Identity;
use support::{Daemon, Said, eventually, said};

impl Place {
    fn of(&self, daemon: &Daemon, arguments: &[&str]) -> Command {
        let mut command = self.client(arguments);
        command.env("WARREN_SOCKET", daemon.socket());
        command
    }

    fn terminal(&self, arguments: &[&str]) -> Terminal {
        Terminal::with(&self.client(arguments), (100, 30))
    }

    /// An editor that runs this script with the file as `$1`.
    fn editor(&self, name: &str, script: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

/// A server that trusts whoever has the password "pw".
fn with_password(identity: &Identity) -> (BrokenServer, std::net::SocketAddr) {
    let trusted = AtomicBool::new(false);
    BrokenServer::over_tls(identity, move |request, stream| {
        if request.method == "POST" {
            trusted.store(true, Ordering::Relaxed);
            return metadata(stream, &json!({}));
        }
        let auth = if trusted.load(Ordering::Relaxed) { "trusted" } else { "untrusted" };
        metadata(stream, &json!({"auth": auth, "auth_methods": ["tls"]}))
    })
}

#[test]
fn a_remote_is_added_by_answers_that_are_typed() {
    let identity = Identity::new();
    let fingerprint = identity.known().fingerprint.clone();
    let (server, address) = with_password(&identity);
    let place = Place::new();
    let add = ["remote", "add", "far", &address.to_string()];
    // No, nothing, and another fingerprint.
    for (typed, told) in
        [("n\r", "Nothing was added"), ("\r", "Nothing was added"), ("0123456789abcdef0123\r", "another fingerprint")]
    {
        let mut terminal = place.terminal(&add);
        terminal.shows(&format!("Certificate fingerprint: {fingerprint}"));
        terminal.shows("ok (y/n/[fingerprint])?");
        terminal.types(typed);
        assert_eq!(terminal.end(), 1);
        terminal.shows(told);
    }
    // Ctrl-C at a question, and at the one for the password, which nobody sees.
    let mut terminal = place.terminal(&add);
    terminal.shows("ok (y/n/[fingerprint])?");
    terminal.types("\u{3}");
    assert_eq!(terminal.end(), 130);
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut terminal = place.terminal(&add);
        terminal.shows("ok (y/n/[fingerprint])?");
        terminal.types("what\r");
        terminal.shows("Please type 'y', 'n' or the fingerprint: ");
        terminal.types("y\r");
        terminal.shows("Admin password (or token) for far: ");
        eventually("nothing is echoed", || !tcgetattr(&terminal.pts).unwrap().local_modes.contains(LocalModes::ECHO));
        send(&terminal.child, signal);
        // The terminal's modes are looked at, too.
        assert_eq!(terminal.end(), code);
    }
    assert_eq!(server.count("POST", "/"), 0);
    assert!(!place.path("conf/servercerts/far.crt").exists() && !place.path("conf/config.yml").exists());
    // The fingerprint, typed, and the password.
    let mut terminal = place.terminal(&add);
    terminal.shows("ok (y/n/[fingerprint])?");
    terminal.types(&format!("{}\r", fingerprint.to_string().to_uppercase()));
    terminal.shows("Admin password (or token) for far: ");
    eventually("nothing is echoed", || !tcgetattr(&terminal.pts).unwrap().local_modes.contains(LocalModes::ECHO));
    terminal.types("pw-that-nobody-sees\r");
    assert_eq!(terminal.end(), 0);
    terminal.shows("Client certificate now trusted by server: far");
    assert!(!terminal.seen().contains("pw-that"), "{}", terminal.seen());
    assert!(place.path("conf/servercerts/far.crt").exists());
}

#[test]
fn editors_edit_what_can_be_changed() {
    let daemon = Daemon::bare();
    let place = Place::new();
    let ok = |arguments: &[&str]| said(&mut place.of(&daemon, arguments)).ok();
    ok(&["profile", "create", "web"]);
    ok(&["network", "acl", "create", "a1"]);
    ok(&["project", "create", "other"]);
    ok(&["config", "set", "user.place=here"]);
    let edit = |editor: &str, arguments: &[&str]| {
        let mut command = place.of(&daemon, arguments);
        command.env("EDITOR", editor);
        Terminal::with(&command, (100, 30))
    };
    // Each verb shows the object as YAML, after a comment, in a file that nobody else reads.
    let look = place.editor(
        "look",
        "stat -c %a \"$1\" > \"$0.mode\"; grep -q '^# ' \"$1\" && sed -i 's/^description: .*/description: by hand/' \"$1\"",
    );
    let look = look.to_str().unwrap();
    for object in [&["profile", "edit", "web"][..], &["network", "acl", "edit", "a1"], &["project", "edit", "other"]] {
        let mut terminal = edit(look, object);
        assert_eq!(terminal.end(), 0, "{object:?}: {}", terminal.seen());
        let shown = ok(&[&object[..object.len() - 2], &["show", object[object.len() - 1]]].concat());
        assert!(shown.contains("description: by hand\n"), "{shown}");
        assert_eq!(std::fs::read_to_string(place.path("look.mode")).unwrap(), "600\n");
    }
    let mut terminal = edit("sed -i s/here/there/", &["config", "edit"]);
    assert_eq!(terminal.end(), 0, "{}", terminal.seen());
    assert_eq!(ok(&["config", "get", "user.place"]), "there\n");
    // VISUAL goes before EDITOR, and one with flags is understood.
    let mut command = place.of(&daemon, &["config", "edit"]);
    command.env("EDITOR", "false").env("VISUAL", "sed -i -e s/there/visual/");
    assert_eq!(Terminal::with(&command, (80, 24)).end(), 0);
    assert_eq!(ok(&["config", "get", "user.place"]), "visual\n");
    // A mistake is told, and what was typed is edited again; no means no.
    let twice = place.editor(
        "twice",
        "if [ -e \"$0.once\" ]; then sed -i 's/^broken.*//' \"$1\"; else echo 'broken: [' >> \"$1\"; touch \"$0.once\"; fi; sed -i s/visual/again/ \"$1\"",
    );
    let mut terminal = edit(twice.to_str().unwrap(), &["config", "edit"]);
    terminal.shows("Edit again? (y/n) ");
    terminal.types("y\r");
    assert_eq!(terminal.end(), 0, "{}", terminal.seen());
    assert_eq!(ok(&["config", "get", "user.place"]), "again\n");
    let nonsense = place.editor("nonsense", "echo 'config: {core.nonsense: 1}' > \"$1\"");
    let wrong = said(
        Command::new("sh")
            .args(["-c", "echo 'config: 5' | \"$0\" profile edit web", WARREN])
            .env("WARREN_SOCKET", daemon.socket())
            .env("WARREN_CONF", place.path("conf")),
    );
    wrong.refused("config is no map");
    let mut terminal = edit(nonsense.to_str().unwrap(), &["config", "edit"]);
    terminal.shows("core.nonsense");
    terminal.shows("Edit again? (y/n) ");
    terminal.types("n\r");
    assert_eq!(terminal.end(), 1);
    terminal.shows("Nothing was changed");
    // One that fails, and one that there is not.
    let mut terminal = edit("false", &["profile", "edit", "web"]);
    assert_eq!(terminal.end(), 1);
    terminal.shows("Nothing was changed");
    let mut terminal = edit("/nosuch/editor", &["profile", "edit", "web"]);
    assert_eq!(terminal.end(), 1);
    // Killed while the editor runs: the file does not stay.
    let wait = place.editor("wait", "echo waiting; exec sleep 1000");
    let mut terminal = edit(wait.to_str().unwrap(), &["profile", "edit", "web"]);
    terminal.shows("waiting");
    send(&terminal.child, Signal::TERM);
    assert_eq!(terminal.end(), 143);
    let left = || {
        std::fs::read_dir(place.0.path())
            .unwrap()
            .any(|e| e.unwrap().file_name().to_string_lossy().starts_with("warren-"))
    };
    eventually("no file of an editor is left", || !left());
    assert_eq!(ok(&["config", "get", "user.place"]), "again\n");
}

#[test]
fn a_console_is_sized_left_and_given_up() {
    let daemon = Daemon::ready("overlay");
    let place = Place::new();
    let ok = |arguments: &[&str]| said(&mut place.of(&daemon, arguments)).ok();
    ok(&["init", "bb", "c1"]);
    let push = Said::of(
        &Command::new("sh")
            .args(["-c", "printf '::respawn:/bin/sh -i\\n' | \"$0\" file push - c1/etc/inittab", WARREN])
            .env("WARREN_SOCKET", daemon.socket())
            .env("WARREN_CONF", place.path("conf"))
            .output()
            .unwrap(),
    );
    push.ok();
    ok(&["start", "c1"]);
    let attach = |size| Terminal::with(&place.of(&daemon, &["console", "c1"]), size);
    let mut terminal = attach((93, 31));
    terminal.shows("To detach from the console, press: <ctrl>+a q");
    eventually("raw mode", || terminal.is_raw());
    eventually("the console answers with the window's size", || {
        terminal.types("\rstty size\r");
        terminal.seen().contains("31 93")
    });
    resize(&terminal.pts, 71, 29);
    eventually("the new size", || {
        terminal.types("stty size\r");
        terminal.seen().contains("29 71")
    });
    // Ctrl-C is the console's.
    terminal.types("\u{3}echo still'' there\r");
    terminal.shows("still there");
    terminal.types("\u{1}q");
    assert_eq!(terminal.end(), 0);
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let mut terminal = attach((80, 24));
        eventually("raw mode", || terminal.is_raw());
        send(&terminal.child, signal);
        assert_eq!(terminal.end(), code);
    }
    // The container stops under it.
    let mut terminal = attach((80, 24));
    eventually("raw mode", || terminal.is_raw());
    ok(&["stop", "-f", "c1"]);
    terminal.end();
    assert_eq!(daemon.status("c1"), "Stopped");
}

#[test]
fn tables_fit_the_terminal() {
    let daemon = Daemon::ready("overlay");
    let place = Place::new();
    let ok = |arguments: &[&str]| said(&mut place.of(&daemon, arguments)).ok();
    ok(&["init", "bb", "a-name-stays-whole"]);
    for words in [&["list"][..], &["image", "list"], &["storage", "volume", "list", "p"], &["remote", "list"]] {
        let whole = ok(words);
        for columns in [60, 80, 250] {
            let mut terminal = Terminal::with(&place.of(&daemon, words), (columns, 30));
            assert_eq!(terminal.end(), 0, "{}", terminal.seen());
            let seen = terminal.seen().replace('\r', "");
            let widest = seen.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= usize::from(columns), "{columns}: {words:?}\n{seen}");
            assert!(words != ["list"] || seen.contains("| a-name-stays-whole |"), "{seen}");
            assert!(columns != 250 || seen == whole, "{seen}");
        }
    }
}

#[test]
fn progress_is_for_those_who_watch() {
    let place = Place::new();
    let waits = AtomicUsize::new(0);
    BrokenServer::at(&place.path("socket"), move |request, stream| match request.path.split('?').next().unwrap() {
        "/1.0/operations/1/wait" => {
            // Who does not watch asks for no news in between.
            let watched = request.path.contains("timeout=1");
            let code = if watched && waits.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) { 103 } else { 200 };
            metadata(
                stream,
                &json!({"status": "Running", "status_code": code, "metadata": {"download_progress": "rootfs: 42% (1MB/s)\nmore"}}),
            )
        }
        "/1.0/operations/1" => answer(stream, "200 OK", "application/json", "", "{}"),
        _ => operation(stream, &[]),
    });
    let shown = "\r\u{1b}[Kdownload: rootfs: 42% (1MB/s)\r\u{1b}[K";
    let mut terminal = place.terminal(&["start", "c1"]);
    assert_eq!(terminal.end(), 0);
    terminal.shows(shown);
    assert!(!terminal.seen().contains("more"));
    let mut terminal = place.terminal(&["start", "-q", "c1"]);
    assert_eq!((terminal.end(), terminal.seen()), (0, String::new()));
    let piped = place.client(&["start", "c1"]).output().unwrap();
    assert!(piped.status.success() && piped.stderr.is_empty() && piped.stdout.is_empty());
}
