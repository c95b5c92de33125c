//! What many or slow clients can take of the daemon: bounded, and others get theirs. No bar here is a time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustls::client::ClientConnection;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, StreamOwned};
use serde_json::json;
use support::tls::{Client, Identity, PATIENCE, VERSIONS, local, set, tls};
use support::{Daemon, eventually};

/// The daemon may have so many files; half of them are for connections over HTTPS.
const FILES: usize = 256;
const PLACES: usize = FILES / 2;

/// A daemon whose places are soon taken.
fn small() -> Daemon {
    let mut daemon = Daemon::bare();
    daemon.terminate();
    daemon.spawn_by(&["prlimit", &format!("--nofile={FILES}")]);
    eventually("the daemon", || daemon.socket().exists());
    assert_eq!(daemon.api("GET", "/internal/ready", "").0, 200);
    daemon
}

/// Connects from another address of the loopback.
fn connect_from(last: u8, to: SocketAddr) -> TcpStream {
    // Not for daemons that other tests start meanwhile: they have few places for files.
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0))).unwrap();
    rustix::net::connect(&socket, &to).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn client_from(last: u8, to: SocketAddr, config: &Arc<ClientConfig>) -> Client {
    let name = ServerName::try_from("localhost").unwrap();
    Client(StreamOwned::new(ClientConnection::new(Arc::clone(config), name).unwrap(), connect_from(last, to)))
}

/// Whether a client gets an answer, or is closed without one.
fn is_served(client: &mut Client) -> bool {
    client.try_ask("GET", "/", "").is_ok_and(|answer| answer.status == 200)
}

fn files(daemon: &Daemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count()
}

/// Resident memory of the daemon, bytes.
fn memory(daemon: &Daemon) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn an_address_leaves_room_for_others_and_strangers_for_the_trusted() {
    let daemon = small();
    let address = local(&daemon);
    let (stranger, identity) = (tls(&VERSIONS, None), Identity::new());
    identity.trust(&daemon);
    let known = tls(&VERSIONS, Some(&identity));
    let rest = files(&daemon);
    // All from one address: a quarter of the places.
    let mut crowd: Vec<Client> = Vec::new();
    for _ in 0..PLACES / 2 {
        let mut client = client_from(2, address, &stranger);
        if is_served(&mut client) {
            crowd.push(client);
        }
    }
    assert_eq!(crowd.len(), PLACES / 4);
    assert!(is_served(&mut client_from(2, address, &known)), "who is trusted, from the same address");
    // And from many.
    for last in 3..=8 {
        for _ in 0..PLACES / 8 {
            let mut client = client_from(last, address, &stranger);
            if is_served(&mut client) {
                crowd.push(client);
            }
        }
    }
    assert_eq!(crowd.len(), PLACES / 4 * 3);
    let mut trusted: Vec<Client> = (0..8).map(|_| client_from(9, address, &known)).collect();
    assert!(trusted.iter_mut().all(is_served), "strangers never have all places");
    assert_eq!(daemon.api("GET", "/1.0", "").0, 200);
    assert!(crowd.iter_mut().all(is_served), "those that stand go on");
    drop((crowd, trusted));
    // Places come back, and nothing of the others is kept.
    eventually("an end of all connections", || files(&daemon) < rest + PLACES / 8);
    assert!(is_served(&mut client_from(2, address, &stranger)));
}

#[test]
fn handshakes_that_do_not_end_keep_nobody_from_theirs() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    let config = tls(&VERSIONS, None);
    // Silent ones, and such that begin to speak: a record that announces more than comes.
    let mut begun: Vec<TcpStream> =
        (0..400u16).map(|number| connect_from(2 + u8::from(number % 2 == 1), address)).collect();
    for stream in begun.iter_mut().skip(200) {
        stream.write_all(&[0x16, 3, 1, 2, 0, 1]).unwrap();
    }
    for last in [2, 3, 9] {
        assert!(is_served(&mut client_from(last, address, &config)), "127.0.0.{last}");
    }
    assert_eq!(daemon.api("GET", "/1.0", "").0, 200);
    // All of them are closed after a while, whatever they have said.
    for stream in &mut begun {
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
        }
    }
}

#[test]
fn floods_of_requests_are_answered_and_others_as_well() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    assert_eq!(set(&daemon, "core.trust_password", "sesame").0, 200);
    let config = tls(&VERSIONS, None);
    let before = memory(&daemon);
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let (stop, answered, config) = (&stop, &answered, &config);
        for number in 0..16 {
            scope.spawn(move || {
                let body = json!({"type": "client", "password": "wrong"}).to_string();
                while !stop.load(Ordering::Relaxed) {
                    // New connections, and many requests on one.
                    let mut client = client_from(2, address, config);
                    for _ in 0..20 {
                        let asked = match number % 4 {
                            0 => client.try_ask("GET", "/1.0", ""),
                            1 => client.try_ask("GET", "/1.0/images?recursion=1", ""),
                            2 => client.try_ask("POST", "/1.0/certificates", &body),
                            _ => client.try_ask("DELETE", "/1.0/instances/c1", ""),
                        };
                        if asked.is_ok() {
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        eventually("the flood", || answered.load(Ordering::Relaxed) > 200);
        for _ in 0..10 {
            assert_eq!(daemon.api("GET", "/1.0/instances", "").0, 200);
            assert!(is_served(&mut client_from(9, address, config)));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let grown = memory(&daemon).saturating_sub(before);
    assert!(grown < 64 << 20, "the daemon has grown by {grown} bytes");
}

#[test]
fn a_client_that_asks_and_never_listens_holds_little() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    let config = tls(&VERSIONS, None);
    let before = memory(&daemon);
    // More requests than answers fit into any buffer, until the server takes no more.
    let requests = "GET /1.0 HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    let mut deaf: Vec<Client> = (0..8).map(|_| client_from(2, address, &config)).collect();
    assert!(deaf.iter_mut().all(is_served));
    for client in &mut deaf {
        client.0.sock.set_write_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
        let refused = (0..1000).any(|_| client.0.write_all(requests.as_bytes()).is_err());
        assert!(refused, "what is not answered is not read");
    }
    let grown = memory(&daemon).saturating_sub(before);
    assert!(grown < 32 << 20, "the daemon has grown by {grown} bytes");
    assert!(is_served(&mut client_from(2, address, &config)));
}

#[test]
fn what_the_trusted_send_is_bounded_too() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    let identity = Identity::new();
    identity.trust(&daemon);
    let config = tls(&VERSIONS, Some(&identity));
    let before = memory(&daemon);
    // 64 MB for a description, announced and in chunks without an end.
    let mut client = client_from(2, address, &config);
    let chunk = "a".repeat(1 << 20);
    for head in ["Content-Length: 67108864\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n"] {
        let mut sent = format!("PATCH /1.0/profiles/default HTTP/1.1\r\nHost: x\r\n{head}");
        let is_chunked = head.contains("chunked");
        for number in 0..64 {
            let text = if number == 0 { format!("{{\"description\":\"{chunk}") } else { chunk.clone() };
            sent += &if is_chunked { format!("{:x}\r\n{text}\r\n", text.len()) } else { text };
            // It is refused, and what comes then is thrown away for a while, or the connection is gone.
            if client.0.write_all(sent.as_bytes()).is_err() {
                break;
            }
            sent.clear();
        }
        let answer = client.answer(true);
        if let Ok(answer) = answer {
            answer.refused(400, "longer than");
        }
        client = client_from(2, address, &config);
    }
    let grown = memory(&daemon).saturating_sub(before);
    assert!(grown < 48 << 20, "the daemon has grown by {grown} bytes");
    assert!(is_served(&mut client));
}
