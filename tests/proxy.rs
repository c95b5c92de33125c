//! Proxies: every pairing, from the start and while it runs, with a daemon that is killed, and nothing of them left.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener, UnixStream};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use support::namespaces::isolated;
use support::{Daemon, Said, eventually};
use warren::network::{self, Forward};

const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

fn add(daemon: &Daemon, name: &str, device: &str, properties: &[&str]) -> Said {
    daemon.lxc(&[&["config", "device", "add", name, device, "proxy"], properties].concat())
}

fn remove(daemon: &Daemon, name: &str, device: &str) {
    daemon.lxc(&["config", "device", "remove", name, device]).ok();
}

/// A port that nobody has just now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What `make` makes in the network namespace of a container.
fn inside<T: Send + 'static>(daemon: &Daemon, name: &str, make: impl FnOnce() -> T + Send + 'static) -> T {
    let namespace = File::open(format!("/proc/{}/ns/net", daemon.instance_pid(name))).unwrap();
    let enter = move || {
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(namespace.as_fd(), kind).unwrap();
        make()
    };
    std::thread::spawn(enter).join().unwrap()
}

/// Sends everything back that comes, each connection for itself, and its end after it.
fn echo(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut &stream, &mut &stream);
                let _ = stream.shutdown(Shutdown::Write);
            });
        }
    });
}

/// Its init has brought its loopback up.
fn is_up(daemon: &Daemon, name: &str) {
    let reached = || UdpSocket::bind("0.0.0.0:0").unwrap().connect("127.0.0.1:9").is_ok();
    eventually("the loopback of the container is up", || inside(daemon, name, reached));
}

fn echo_inside(daemon: &Daemon, name: &str, port: u16) {
    is_up(daemon, name);
    echo(inside(daemon, name, move || TcpListener::bind(("127.0.0.1", port)).unwrap()));
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(PATIENCE).unwrap();
    stream
}

/// Says something, ends, and hears what comes back.
fn talk(mut stream: impl Read + Write, end: impl FnOnce(), text: &[u8]) -> Vec<u8> {
    let _ = stream.write_all(text);
    end();
    let mut all = Vec::new();
    // A connection that is cut off has said all it has.
    let _ = stream.read_to_end(&mut all);
    all
}

fn said(port: u16, text: &[u8]) -> Vec<u8> {
    let stream = connect(port);
    // It may have been closed already.
    talk(&stream, || drop(stream.shutdown(Shutdown::Write)), text)
}

fn said_unix(stream: &UnixStream, text: &[u8]) -> Vec<u8> {
    stream.set_read_timeout(PATIENCE).unwrap();
    talk(stream, || stream.shutdown(Shutdown::Write).unwrap(), text)
}

/// The processes of proxies of this daemon: their numbers by the names of their logs.
fn processes(daemon: &Daemon) -> Vec<(String, u32)> {
    let place = format!("{}/", daemon.state().display());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let words: Vec<&str> = line.split('\0').collect();
        if words.get(1) == Some(&"proxy") && words.get(2).is_some_and(|log| log.starts_with(&place)) {
            found.push((words[2].rsplit('/').next().unwrap().to_owned(), pid));
        }
    }
    found.sort();
    found
}

fn status(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim().to_owned()
}

/// Bytes that differ from place to place.
fn much() -> Vec<u8> {
    (0..6_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn both_ways(port: u16) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let stream = connect(port);
        let mut writer = stream.try_clone().unwrap();
        let sent = much();
        let copy = sent.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(&copy).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut all = Vec::new();
        (&stream).read_to_end(&mut all).unwrap();
        writing.join().unwrap();
        assert!(all == sent, "{} of {}", all.len(), sent.len());
    })
}

#[test]
fn a_port_of_the_host_leads_inside() {
    let mut daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    echo_inside(&daemon, "c1", 80);
    let port = free_port();
    let listen = format!("listen=tcp:127.0.0.1:{port}");
    add(&daemon, "c1", "web", &[&listen, "connect=tcp:127.0.0.1:80"]).ok();
    assert_eq!(said(port, b"hello"), b"hello");
    // Megabytes both ways, an end of one way, several at once.
    let all: Vec<_> = (0..4).map(|_| both_ways(port)).collect();
    for one in all {
        one.join().unwrap();
    }
    // Many at once, and each hears its own.
    let streams: Vec<TcpStream> = (0..1000).map(|_| connect(port)).collect();
    for (number, stream) in streams.iter().enumerate() {
        write!(&*stream, "{number:04}").unwrap();
    }
    for (number, stream) in streams.iter().enumerate() {
        let mut text = [0; 4];
        (&*stream).read_exact(&mut text).unwrap();
        assert_eq!(text, *format!("{number:04}").as_bytes());
    }
    drop(streams);
    let [(log, pid)] = <[_; 1]>::try_from(processes(&daemon)).unwrap();
    assert_eq!(log, "proxy.web.log");
    // As little as it may: the user of the container, without a capability.
    assert_eq!(status(pid, "CapEff:"), "0000000000000000");
    assert!(!status(pid, "Uid:").starts_with("0\t"), "{}", status(pid, "Uid:"));
    assert_eq!(status(pid, "NoNewPrivs:"), "1");
    let open = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    eventually("closed connections hold nothing", || open() < 20);
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    eprintln!("{rollup}");
    // It outlives the daemon, and the next one finds it.
    let held = connect(port);
    daemon.kill();
    assert_eq!(said(port, b"alone"), b"alone");
    daemon.start();
    assert_eq!(processes(&daemon), [(log.clone(), pid)]);
    assert_eq!(talk(&held, || held.shutdown(Shutdown::Write).unwrap(), b"still"), b"still");
    // One that was killed comes back with the next daemon.
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    daemon.kill();
    daemon.start();
    assert_eq!(said(port, b"again"), b"again");
    // It goes and comes with the container.
    let first = processes(&daemon);
    let _ = daemon.lxc(&["exec", "c1", "--", "sh", "-c", "reboot"]);
    eventually("it has rebooted", || processes(&daemon) != first && processes(&daemon).len() == 1);
    eventually("it runs", || daemon.status("c1") == "Running");
    echo_inside(&daemon, "c1", 80);
    eventually("served again", || said(port, b"x") == b"x");
    daemon.lxc(&["stop", "--force", "c1"]).ok();
    assert!(processes(&daemon).is_empty());
    assert!(!daemon.state().join("devices/c1").exists());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    daemon.lxc(&["start", "c1"]).ok();
    // Nobody is there: closed, not dead.
    assert_eq!(said(port, b"x"), b"");
    echo_inside(&daemon, "c1", 80);
    assert_eq!(said(port, b"x"), b"x");
    let log = fs::read_to_string(daemon.state().join("logs/c1/proxy.web.log")).unwrap();
    assert!(log.contains(" connecting to tcp:127.0.0.1:80: "), "{log}");
    // A container that ends while no daemon is there takes it along.
    let init = daemon.instance_pid("c1");
    daemon.kill();
    let init = rustix::process::Pid::from_raw(init.try_into().unwrap()).unwrap();
    rustix::process::kill_process(init, rustix::process::Signal::KILL).unwrap();
    eventually("the proxy ends with it", || processes(&daemon).is_empty());
    daemon.start();
}

#[test]
fn every_pairing() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    is_up(&daemon, "c1");
    let dir = daemon.root.join("sockets");
    fs::create_dir(&dir).unwrap();
    let root = format!("/proc/{}/root", daemon.instance_pid("c1"));
    // Into a unix socket inside, out of it to a port of the host.
    let host = TcpListener::bind("127.0.0.1:0").unwrap();
    let (host_port, port) = (host.local_addr().unwrap().port(), free_port());
    echo(host);
    let out = format!("connect=tcp:127.0.0.1:{host_port}");
    add(&daemon, "c1", "out", &["listen=unix:/run/out", &out, "bind=instance", "uid=3", "gid=4", "mode=0620"]).ok();
    let file = fs::metadata(format!("{root}/run/out")).unwrap();
    assert!(file.file_type().is_socket() && file.permissions().mode() & 0o777 == 0o620);
    let look = daemon.lxc(&["exec", "c1", "--", "sh", "-c", "ls -ln /run/out"]).ok();
    assert!(look.starts_with("srw--w----    1 3        4 "), "{look}");
    // Links of the container lead nowhere but inside.
    daemon.lxc(&["exec", "c1", "--", "sh", "-c", "ln -s /run/out /link"]).ok();
    add(&daemon, "c1", "in", &[&format!("listen=tcp:127.0.0.1:{port}"), "connect=unix:/link"]).ok();
    assert_eq!(said(port, b"round"), b"round");
    both_ways(port).join().unwrap();
    let many: Vec<_> = (0..300).map(|_| std::thread::spawn(move || said(port, b"many"))).collect();
    for one in many {
        assert_eq!(one.join().unwrap(), b"many");
    }
    remove(&daemon, "c1", "out");
    assert!(!fs::exists(format!("{root}/run/out")).unwrap());
    assert_eq!(said(port, b"x"), b"");
    remove(&daemon, "c1", "in");

    // A path of the host to an abstract one inside, as another user.
    inside(&daemon, "c1", || {
        let listener = UnixListener::bind_addr(&UnixAddr::from_abstract_name("echo").unwrap()).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = std::io::copy(&mut &stream, &mut &stream);
                let _ = stream.shutdown(Shutdown::Write);
            }
        });
    });
    let path = dir.join("host.sock");
    // What a crash left is replaced; what is in use is not.
    drop(UnixListener::bind(&path).unwrap());
    let listen = format!("listen=unix:{}", path.display());
    add(&daemon, "c1", "abstract", &[&listen, "connect=unix:@echo", "security.uid=7", "security.gid=8"]).ok();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(said_unix(&UnixStream::connect(&path).unwrap(), b"abstract"), b"abstract");
    let (_, pid) = processes(&daemon).remove(0);
    let map = fs::read_to_string(format!("/proc/{}/uid_map", daemon.instance_pid("c1"))).unwrap();
    let base: u32 = map.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_eq!(status(pid, "Uid:").split('\t').next().unwrap(), (base + 7).to_string());
    add(&daemon, "c1", "twice", &[&listen, "connect=unix:@echo"]).refused("Device \"twice\": cannot listen on unix:");
    remove(&daemon, "c1", "abstract");
    assert!(!path.exists());

    // Abstract inside, to the host, as a user of the host.
    let name = format!("listen=unix:@out-{port}");
    add(&daemon, "c1", "x11", &[&name, &out, "bind=container", "security.uid=1000", "security.gid=1000"]).ok();
    let text = inside(&daemon, "c1", move || {
        let address = UnixAddr::from_abstract_name(format!("out-{port}")).unwrap();
        said_unix(&UnixStream::connect_addr(&address).unwrap(), b"x11")
    });
    assert_eq!(text, b"x11");
    assert_eq!(status(processes(&daemon)[0].1, "Uid:"), "1000\t1000\t1000\t1000");
    remove(&daemon, "c1", "x11");

    datagrams(&daemon, &dir);

    // Who the client is, for every connection; IPv6 and its brackets.
    let listener = inside(&daemon, "c1", || TcpListener::bind("[::1]:90").unwrap());
    let listen = format!("listen=tcp:[::1]:{port}");
    add(&daemon, "c1", "six", &[&listen, "connect=tcp:[::1]:90", "proxy_protocol=true"]).ok();
    let client = TcpStream::connect(("::1", port)).unwrap();
    (&client).write_all(b"GET").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
    let own = client.local_addr().unwrap().port();
    assert_eq!(text, format!("PROXY TCP6 ::1 ::1 {own} {port}\r\nGET"));
}

fn datagrams(daemon: &Daemon, dir: &std::path::Path) {
    // Each client hears its own answers.
    let server = inside(daemon, "c1", || UdpSocket::bind("127.0.0.1:53").unwrap());
    std::thread::spawn(move || {
        let mut space = [0; 2000];
        while let Ok((count, from)) = server.recv_from(&mut space) {
            let _ = server.send_to(&space[..count], from);
        }
    });
    let port = free_port();
    let listen = format!("listen=udp:127.0.0.1:{port}");
    add(daemon, "c1", "dns", &[&listen, "connect=udp:127.0.0.1:53"]).ok();
    let ask = |text: &str| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(PATIENCE).unwrap();
        socket.connect(("127.0.0.1", port)).unwrap();
        socket.send(text.as_bytes()).unwrap();
        (socket, text.to_owned())
    };
    let clients: Vec<_> = (0..100).map(|number| ask(&format!("q{number}"))).collect();
    for (socket, text) in &clients {
        let mut space = [0; 100];
        let count = socket.recv(&mut space).unwrap();
        assert_eq!(&space[..count], text.as_bytes());
    }
    remove(daemon, "c1", "dns");
    // From inside into a socket of the host that takes datagrams.
    let path = dir.join("dgram");
    let server = UnixDatagram::bind(&path).unwrap();
    server.set_read_timeout(PATIENCE).unwrap();
    let to = format!("connect=unix:{}", path.display());
    add(daemon, "c1", "log", &["listen=udp:127.0.0.1:514", &to, "bind=guest"]).ok();
    inside(daemon, "c1", || UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"line", "127.0.0.1:514").unwrap());
    let mut space = [0; 100];
    let count = server.recv(&mut space).unwrap();
    assert_eq!(&space[..count], b"line");
    remove(daemon, "c1", "log");
    // A stream inside gets them one after another.
    let stream = inside(daemon, "c1", || TcpListener::bind("127.0.0.1:91").unwrap());
    add(daemon, "c1", "mixed", &[&listen, "connect=tcp:127.0.0.1:91"]).ok();
    let (socket, _) = ask("one");
    let mut accepted = stream.accept().unwrap().0;
    socket.send(b"two").unwrap();
    let mut text = [0; 6];
    accepted.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"onetwo");
    accepted.write_all(b"back").unwrap();
    let count = socket.recv(&mut space).unwrap();
    assert_eq!(&space[..count], b"back");
    remove(daemon, "c1", "mixed");
}

#[test]
fn all_or_none() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    echo_inside(&daemon, "c1", 80);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = taken.local_addr().unwrap();
    let port = free_port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    // Two ports, of which one is taken: neither.
    let both = format!("listen=tcp:127.0.0.1:{port},{}", busy.port());
    let words = format!("Device \"web\": cannot listen on tcp:{busy}: Address already in use");
    add(&daemon, "c1", "web", &[&both, "connect=tcp:127.0.0.1:80"]).refused(&words);
    assert!(TcpStream::connect(address).is_err() && processes(&daemon).is_empty());
    assert!(!daemon.state().join("devices/c1").exists());
    add(&daemon, "c1", "web", &[&format!("listen=tcp:{address}"), "connect=tcp:127.0.0.1:80"]).ok();
    // A change that cannot be leaves what was.
    daemon.lxc(&["config", "device", "set", "c1", "web", &both]).refused(&words);
    assert_eq!(said(port, b"x"), b"x");
    let (_, answer) = daemon.api("GET", "/1.0/instances/c1", "");
    assert_eq!(answer["metadata"]["devices"]["web"]["listen"], format!("tcp:{address}"));
    // One that can: another target, several ports to one.
    echo_inside(&daemon, "c1", 81);
    let other = free_port();
    let two = format!("listen=tcp:127.0.0.1:{port},{other}");
    daemon.lxc(&["config", "device", "set", "c1", "web", &two, "connect=tcp:127.0.0.1:81"]).ok();
    assert_eq!((said(port, b"a"), said(other, b"b")), (b"a".to_vec(), b"b".to_vec()));
    let (status, answer) = daemon.api(
        "PATCH",
        "/1.0/instances/c1?dry-run=1",
        r#"{"devices":{"web":{"type":"proxy","listen":"tcp:127.0.0.1:5","connect":"unix:@x"}}}"#,
    );
    assert_eq!(
        (status, answer["metadata"]["instances"][0]["devices"][0]["effect"].as_str()),
        (200, Some("now")),
        "{answer}"
    );
    remove(&daemon, "c1", "web");
    assert!(processes(&daemon).is_empty() && !daemon.state().join("devices/c1").exists());
    // By a profile: for all of its users or none; here the second has no such port left.
    daemon.lxc(&["profile", "create", "more"]).ok();
    let listen = format!("listen=tcp:{address}");
    let by_profile = ["profile", "device", "add", "more", "web", "proxy", &listen, "connect=tcp:127.0.0.1:80"];
    daemon.lxc(&["profile", "add", "c1", "more"]).ok();
    daemon.lxc(&by_profile).ok();
    assert_eq!(said(port, b"p"), b"p");
    daemon.lxc(&["launch", "bb", "c2", "-p", "default", "-p", "more"]).refused("Address already in use");
    assert_eq!(daemon.status("c2"), "Stopped");
    assert!(!daemon.state().join("devices/c2").exists());
    daemon.lxc(&["config", "device", "add", "c2", "web", "none"]).ok();
    daemon.lxc(&["start", "c2"]).ok();
    daemon.lxc(&["profile", "device", "remove", "more", "web"]).ok();
    assert!(processes(&daemon).is_empty());
    // Both run now: the port is not for two, so neither has it.
    daemon.lxc(&["config", "device", "remove", "c2", "web"]).ok();
    daemon.lxc(&by_profile).refused("Address already in use");
    // Who has it takes it back after the refusal was said.
    eventually("neither has it", || processes(&daemon).is_empty() && TcpStream::connect(address).is_err());
    // The firewall needs an address to lead to.
    let nat = ["listen=tcp:192.0.2.1:80", "connect=tcp:0.0.0.0:80", "nat=true"];
    add(&daemon, "c1", "nat", &nat).refused("Device \"nat\": nat=true needs a bridged nic of the instance");
    add(&daemon, "c1", "no", &["listen=tcp:localhost:80", "connect=tcp:127.0.0.1:80"])
        .refused("Device \"no\": invalid value");
}

#[test]
fn a_daemon_killed_at_any_moment_leaves_what_its_database_says() {
    let mut daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    is_up(&daemon, "c1");
    let path = daemon.root.join("socket");
    let with = format!(
        r#"{{"devices":{{"web":{{"type":"proxy","listen":"unix:{}","connect":"tcp:127.0.0.1:80"}}}}}}"#,
        path.display()
    );
    for round in 0..12 {
        let url = "/1.0/instances/c1";
        let body = if round % 2 == 0 { with.as_str() } else { r#"{"devices":{}}"# };
        let (_, now) = daemon.api("GET", url, "");
        let mut whole = now["metadata"].clone();
        whole["devices"] = serde_json::from_str::<serde_json::Value>(body).unwrap()["devices"].clone();
        // Nobody waits for the answer: the daemon dies on the way to it.
        let text = whole.to_string();
        let mut unread = daemon.begin("PUT", url, &[("Content-Length", &text.len().to_string())]);
        unread.write_all(text.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(round * 4));
        daemon.kill();
        daemon.start();
        let (_, now) = daemon.api("GET", url, "");
        let wanted = usize::from(now["metadata"]["devices"]["web"].is_object());
        eventually("as the database says", || processes(&daemon).len() == wanted);
        assert_eq!((path.exists(), UnixStream::connect(&path).is_ok()), (wanted == 1, wanted == 1), "round {round}");
        assert_eq!(daemon.state().join("devices/c1").exists(), wanted == 1);
    }
}

#[test]
fn the_firewall_leads_to_an_address() {
    isolated("the_firewall_leads_to_an_address", || {
        for address in ["192.0.2.1/32", "192.0.2.2/32"] {
            support::run(Command::new("ip").args(["address", "add", address, "dev", "lo"]));
        }
        echo(TcpListener::bind("192.0.2.2:8080").unwrap());
        let forward = Forward {
            protocol: "tcp",
            listen: "192.0.2.1".parse().unwrap(),
            ports: [80, 81].map(|port| (port, "192.0.2.2:8080".parse().unwrap())).to_vec(),
        };
        network::apply_forward("proxy.test", "c1/web", &forward).unwrap();
        network::apply_forward("proxy.test", "c1/other", &Forward { ports: Vec::new(), ..forward.clone() }).unwrap();
        // Again, as after a crash.
        network::apply_forward("proxy.test", "c1/web", &forward).unwrap();
        for port in [80, 81] {
            let stream = TcpStream::connect(("192.0.2.1", port)).unwrap();
            assert_eq!(talk(&stream, || stream.shutdown(Shutdown::Write).unwrap(), b"nat"), b"nat");
        }
        network::remove_forward("proxy.test", "c1/web").unwrap();
        assert!(TcpStream::connect("192.0.2.1:80").is_err());
        network::remove_forward("proxy.test", "c1/other").unwrap();
        let left = support::said(Command::new("nft").args(["list", "ruleset"]));
        assert_eq!(left.out, "");
    });
}

#[test]
fn with_nat_the_firewall_leads_inside() {
    isolated("with_nat_the_firewall_leads_inside", || {
        support::run(Command::new("ip").args(["address", "add", "192.0.2.1/32", "dev", "lo"]));
        let daemon = Daemon::ready("dir");
        daemon.lxc(&["network", "create", "net0", "ipv4.address=10.8.0.1/24", "ipv6.address=none"]).ok();
        daemon.lxc(&["launch", "bb", "c1"]).ok();
        let web = ["listen=tcp:192.0.2.1:80-81", "connect=tcp:0.0.0.0:8080-8081", "nat=true"];
        add(&daemon, "c1", "web", &web).refused("ipv4.address");
        daemon.lxc(&["config", "device", "add", "c1", "eth0", "nic", "network=net0", "ipv4.address=10.8.0.9"]).ok();
        daemon.lxc(&["restart", "--force", "c1"]).ok();
        let address = || daemon.lxc(&["exec", "c1", "--", "ip", "-4", "addr", "show", "dev", "eth0"]).out;
        eventually("the address is leased", || address().contains("10.8.0.9/"));
        daemon.lxc(&["exec", "c1", "--", "ip", "route", "add", "default", "via", "10.8.0.1"]).ok();
        echo(inside(&daemon, "c1", || TcpListener::bind("10.8.0.9:8081").unwrap()));
        let reached = || {
            let stream = TcpStream::connect_timeout(&"192.0.2.1:81".parse().unwrap(), PATIENCE.unwrap()).ok()?;
            Some(talk(&stream, || stream.shutdown(Shutdown::Write).unwrap(), b"nat"))
        };
        assert_eq!(reached(), None);
        add(&daemon, "c1", "web", &web).ok();
        assert_eq!(reached().as_deref(), Some(b"nat".as_slice()));
        // No process, but the firewall.
        assert_eq!(processes(&daemon), []);
        let rules = || support::said(Command::new("nft").args(["list", "ruleset"])).out;
        assert!(rules().contains("dnat ip to 10.8.0.9:8081"), "{}", rules());
        daemon.lxc(&["stop", "--force", "c1"]).ok();
        assert!(!rules().contains("dnat"), "{}", rules());
        daemon.lxc(&["start", "c1"]).ok();
        assert!(rules().contains("dnat ip to 10.8.0.9:8080"), "{}", rules());
        remove(&daemon, "c1", "web");
        assert!(!rules().contains("dnat"), "{}", rules());
    });
}
