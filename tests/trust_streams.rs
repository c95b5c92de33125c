//! What streams ends with the trust of its client: events, commands, consoles, SFTP. What streams to others goes on.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};

use rustls::{ClientConnection, StreamOwned};
use serde_json::{Value, json};
use support::Daemon;
use support::api::{done, get};
use support::authority::{Authority, place};
use support::tls::{Client, Identity, VERSIONS, local, set, tls};
use tungstenite::{Message, WebSocket};

type Stream = StreamOwned<ClientConnection, TcpStream>;

const TRUST: &str = "not trusted";

/// A websocket over HTTPS.
struct Socket(WebSocket<Stream>);

impl Socket {
    #[track_caller]
    fn connect(address: SocketAddr, identity: Option<&Identity>, path: &str) -> Self {
        let stream = Client::connect(address, &tls(&VERSIONS, identity)).0;
        let (socket, _) = tungstenite::client(format!("wss://localhost{path}"), stream).unwrap();
        Self(socket)
    }

    /// Reads until what came contains `wanted`.
    #[track_caller]
    fn until(&mut self, wanted: &str) {
        let mut seen = String::new();
        while !seen.contains(wanted) {
            match self.0.read() {
                Ok(Message::Binary(bytes)) => seen.push_str(&String::from_utf8_lossy(&bytes)),
                Ok(Message::Text(text)) => seen.push_str(&text),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("{wanted:?} did not come, but {other:?} after {seen:?}"),
            }
        }
    }

    /// It works both ways.
    #[track_caller]
    fn echoes(&mut self, word: &str) {
        self.0.send(Message::binary(format!("{word}\n").into_bytes())).unwrap();
        self.until(word);
    }

    /// Reads to its end, which must say why.
    #[track_caller]
    fn withdrawn(&mut self) {
        loop {
            match self.0.read() {
                Ok(Message::Close(Some(frame))) => {
                    assert_eq!((u16::from(frame.code), frame.reason.contains(TRUST)), (1008, true), "{frame:?}");
                    return;
                }
                Ok(Message::Close(None)) | Err(_) => panic!("it ended without a reason"),
                Ok(_) => {}
            }
        }
    }
}

/// An operation with a terminal: its URL, and what its websockets are called by.
fn begin(client: &mut Client, path: &str, body: &Value) -> (String, Value) {
    let answer = client.ask("POST", path, &body.to_string());
    assert_eq!(answer.status, 202, "{answer:?}");
    let operation = answer.json();
    (operation["operation"].as_str().unwrap().to_owned(), operation["metadata"]["metadata"]["fds"].clone())
}

/// A command that says again what it is told, on a terminal.
struct Command {
    url: String,
    terminal: Socket,
    control: Socket,
}

impl Command {
    /// `by`: who connects.
    fn run(address: SocketAddr, identity: &Identity, by: Option<&Identity>, place: &str) -> Self {
        let mut client = Client::connect(address, &tls(&VERSIONS, Some(identity)));
        let (instance, project) = place.split_once('?').unwrap_or((place, "project=default"));
        let body = json!({"command": ["cat"], "interactive": true, "wait-for-websocket": true});
        let (url, fds) = begin(&mut client, &format!("/1.0/instances/{instance}/exec?{project}"), &body);
        let socket = |fd: &str| {
            let secret = fds[fd].as_str().unwrap();
            Socket::connect(address, by, &format!("{url}/websocket?secret={secret}"))
        };
        let (terminal, control) = (socket("0"), socket("control"));
        let mut command = Self { url, terminal, control };
        command.terminal.echoes("here");
        command
    }

    /// Its websockets and the command have ended.
    #[track_caller]
    fn withdrawn(&mut self, daemon: &Daemon) {
        self.terminal.withdrawn();
        self.control.withdrawn();
        let end = get(daemon, &format!("{}/wait?timeout=20", self.url));
        assert!(end["status_code"].as_u64().unwrap() >= 200, "the command still runs: {end}");
    }
}

/// A connection that is an SFTP session now.
fn sftp(address: SocketAddr, identity: &Identity) -> Client {
    let mut client = Client::connect(address, &tls(&VERSIONS, Some(identity)));
    let headers = "Connection: Upgrade\r\nUpgrade: sftp\r\n";
    client.send("GET", "/1.0/instances/c1/sftp", headers, "").unwrap();
    let answer = client.answer(false).unwrap();
    assert_eq!(answer.status, 101, "{answer:?}");
    client
}

/// SSH_FXP_INIT of version 3, and the beginning of the answer, SSH_FXP_VERSION.
fn greets(client: &mut Client) -> io::Result<u8> {
    io::Write::write_all(&mut client.0, &[0, 0, 0, 5, 1, 0, 0, 0, 3])?;
    io::Write::flush(&mut client.0)?;
    let mut head = [0; 4];
    client.0.read_exact(&mut head)?;
    let mut answer = vec![0; u32::from_be_bytes(head) as usize];
    client.0.read_exact(&mut answer)?;
    Ok(answer[0])
}

#[test]
fn what_streams_ends_with_its_certificate_and_no_other() {
    let mut daemon = Daemon::ready("overlay");
    let address = local(&daemon);
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    let [one, other] = [Identity::new(), Identity::new()];
    let mut streams = Vec::new();
    for identity in [&one, &other] {
        identity.trust(&daemon);
        let events = Socket::connect(address, Some(identity), "/1.0/events?type=lifecycle");
        let own = Command::run(address, identity, Some(identity), "c1");
        // Who was told the secret needs no certificate, but the command is that of the one who asked for it.
        let by_secret = Command::run(address, identity, None, "c1");
        streams.push((events, own, by_secret, sftp(address, identity)));
    }
    // There is one console, of the first.
    let mut client = Client::connect(address, &tls(&VERSIONS, Some(&one)));
    let (url, fds) = begin(&mut client, "/1.0/instances/c1/console", &json!({"type": "console"}));
    let path = |fd: &str| format!("{url}/websocket?secret={}", fds[fd].as_str().unwrap());
    let mut console = ["0", "control"].map(|fd| Socket::connect(address, Some(&one), &path(fd)));
    // A command that nobody has connected to yet.
    let body = json!({"command": ["cat"], "interactive": true, "wait-for-websocket": true});
    let (late, late_fds) = begin(&mut client, "/1.0/instances/c1/exec", &body);

    done(&daemon, "DELETE", &one.url(), &json!({}));
    let (mut events, mut own, mut by_secret, mut files) = streams.remove(0);
    events.withdrawn();
    own.withdrawn(&daemon);
    by_secret.withdrawn(&daemon);
    console.iter_mut().for_each(Socket::withdrawn);
    assert!(greets(&mut files).is_err(), "SFTP goes on");
    let secret = late_fds["0"].as_str().unwrap();
    let mut stranger = Client::connect(address, &tls(&VERSIONS, None));
    let headers = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    stranger.send("GET", &format!("{late}/websocket?secret={secret}"), headers, "").unwrap();
    stranger.answer(true).unwrap().refused(403, "not authorized");

    let (mut events, mut own, mut by_secret, mut files) = streams.remove(0);
    events.until("certificate-deleted");
    own.terminal.echoes("still");
    by_secret.terminal.echoes("still");
    assert_eq!(greets(&mut files).unwrap(), 2);
    // A shutdown would wait for the client that cannot come any more.
    daemon.terminate();
    daemon.start();
}

#[test]
fn a_restriction_ends_what_lies_outside_it() {
    let daemon = Daemon::ready("overlay");
    let address = local(&daemon);
    let shares = json!({"features.images": "false", "features.profiles": "false"});
    done(&daemon, "POST", "/1.0/projects", &json!({"name": "web", "config": shares}));
    for project in ["default", "web"] {
        daemon.lxc(&["launch", "bb", "c1", "--project", project]).ok();
    }
    let identity = Identity::new();
    identity.trust(&daemon);
    let mut all = Socket::connect(address, Some(&identity), "/1.0/events");
    let mut outside = Command::run(address, &identity, Some(&identity), "c1");
    let mut inside = Command::run(address, &identity, Some(&identity), "c1?project=web");

    done(&daemon, "PATCH", &identity.url(), &json!({"restricted": true, "projects": ["web"]}));
    // It told of the whole server, too.
    all.withdrawn();
    outside.withdrawn(&daemon);
    inside.terminal.echoes("still");
    let mut events = Socket::connect(address, Some(&identity), "/1.0/events?project=web");

    // More projects take nothing away, a new name neither.
    done(&daemon, "PATCH", &identity.url(), &json!({"name": "new", "projects": ["default", "web"]}));
    inside.terminal.echoes("more");
    done(&daemon, "PATCH", &identity.url(), &json!({"projects": ["default"]}));
    events.withdrawn();
    inside.withdrawn(&daemon);
}

#[test]
fn what_streams_ends_when_its_certificate_expires() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    // On a slow day the first is over before anything streams.
    for seconds in [4, 16, 64] {
        let end = time::OffsetDateTime::now_utc() + time::Duration::seconds(seconds);
        let identity = Identity::with(|params| params.not_after = end);
        identity.trust(&daemon);
        let stream = Client::connect(address, &tls(&VERSIONS, Some(&identity))).0;
        let Ok((socket, _)) = tungstenite::client("wss://localhost/1.0/events", stream) else { continue };
        Socket(socket).withdrawn();
        return;
    }
    panic!("nothing ever streamed");
}

/// Nobody tells the daemon: it looks at the file itself.
#[test]
fn what_streams_ends_when_its_certificate_is_revoked() {
    let daemon = Daemon::ready("overlay");
    let address = local(&daemon);
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    let authority = Authority::new("ours");
    place(&daemon, "server.ca", &authority.pem);
    assert_eq!(set(&daemon, "core.trust_ca_certificates", "true").0, 200);
    let [one, other] = [1, 2].map(|serial| authority.client(serial, (-1, 9)));
    let begun = [&one, &other].map(|identity| {
        let events = Socket::connect(address, Some(identity), "/1.0/events?type=lifecycle");
        (events, Command::run(address, identity, Some(identity), "c1"), sftp(address, identity))
    });
    let [(mut events, mut command, mut files), (mut their_events, mut theirs, mut their_files)] = begun;
    // A file that is no list, and a list of others, end nothing.
    place(&daemon, "ca.crl", "nonsense");
    place(&daemon, "ca.crl", &authority.revoke(&[7]));
    assert_eq!(set(&daemon, "user.a", "b").0, 200);
    command.terminal.echoes("still");

    place(&daemon, "ca.crl", &authority.revoke(&[1]));
    events.withdrawn();
    command.withdrawn(&daemon);
    assert!(greets(&mut files).is_err(), "SFTP goes on");
    theirs.terminal.echoes("still");
    assert_eq!(greets(&mut their_files).unwrap(), 2);
    daemon.lxc(&["config", "set", "c1", "user.a=b"]).ok();
    their_events.until("instance-updated");
    for file in ["server.ca", "ca.crl"] {
        std::fs::remove_file(daemon.state().join(file)).unwrap();
    }
    // Without the authority its clients are strangers.
    theirs.withdrawn(&daemon);
}
