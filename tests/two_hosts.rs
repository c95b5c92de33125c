//! Two hosts, each with a daemon, and a wire between: network namespaces joined by a bridge. Who knows nothing of the
//! other yet comes to trust it by a token or by comparing fingerprints, and works there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use support::namespaces::isolated;
use support::{Daemon, Said, run, said};

/// A host: its namespace, its address, its daemon.
struct Host {
    name: &'static str,
    address: &'static str,
    daemon: Daemon,
}

/// Which program a user has.
#[derive(Clone, Copy)]
enum Client {
    Lxc,
    Warren,
    Incus,
}

fn ip(words: &str) {
    run(Command::new("ip").args(words.split(' ')));
}

fn inside(host: &str) -> String {
    format!("--net=/run/netns/{host}")
}

impl Host {
    fn new(name: &'static str, address: &'static str) -> Self {
        ip(&format!("netns add {name}"));
        ip(&format!("link add v{name} type veth peer name eth0 netns {name}"));
        ip(&format!("link set v{name} master br0 up"));
        ip(&format!("-n {name} addr add {address}/24 dev eth0"));
        ip(&format!("-n {name} link set lo up"));
        ip(&format!("-n {name} link set eth0 up"));
        let mut daemon = Daemon::bare();
        daemon.terminate();
        daemon.spawn_by(&["nsenter", &inside(name)]);
        daemon.verb(&["waitready", "--timeout", "20"]).ok();
        daemon.lxc(&["config", "set", "core.https_address", ":8443"]).ok();
        Self { name, address, daemon }
    }

    /// A user of this host runs a client of his own, with these words to read.
    fn user(&self, who: &str, client: Client, arguments: &[&str], input: &str) -> Said {
        let home = self.daemon.root.join(format!("home-{who}"));
        std::fs::create_dir_all(&home).unwrap();
        let program = match client {
            Client::Lxc => "lxc".to_owned(),
            Client::Warren => env!("CARGO_BIN_EXE_warren").to_owned(),
            Client::Incus => {
                format!("{}/target/clients/incus/usr/bin/incus", env!("CARGO_MANIFEST_DIR"))
            }
        };
        let mut command = Command::new("nsenter");
        command.arg(inside(self.name)).arg(program).args(arguments).env("HOME", &home);
        for name in ["WARREN_SOCKET", "LXD_SOCKET", "INCUS_SOCKET", "WARREN_PROJECT", "LXD_PROJECT"] {
            command.env_remove(name);
        }
        for name in ["LXD_CONF", "WARREN_CONF", "INCUS_CONF"] {
            command.env(name, home.join("conf"));
        }
        for name in ["LXD_DIR", "WARREN_DIR", "INCUS_DIR"] {
            command.env(name, self.daemon.state());
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // One that asks nothing may be gone.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        Said::of(&child.wait_with_output().unwrap())
    }

    fn token(&self, name: &str) -> String {
        let made = self.daemon.lxc(&["config", "trust", "add", "--name", name]).ok();
        made.trim().lines().last().unwrap().to_owned()
    }

    fn fingerprint(&self) -> String {
        let (_, answer) = self.daemon.api("GET", "/1.0", "");
        answer["metadata"]["environment"]["certificate_fingerprint"].as_str().unwrap().to_owned()
    }
}

fn hosts() -> (Host, Host) {
    let netns = Path::new("/run/netns");
    std::fs::create_dir_all(netns).unwrap();
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(netns));
    ip("link add br0 type bridge");
    ip("link set br0 up");
    (Host::new("one", "10.77.0.1"), Host::new("two", "10.77.0.2"))
}

#[test]
fn two_hosts_trust_each_other_and_work_there() {
    isolated("two_hosts_trust_each_other_and_work_there", || {
        let (one, two) = hosts();
        two.daemon.set_up("dir");
        // By tokens: that of the host knows where it is.
        for (client, who) in [(Client::Lxc, "anna"), (Client::Warren, "bert")] {
            let token = two.token(who);
            one.user(who, client, &["remote", "add", "two", &token], "").ok();
            let name = format!("c-{who}");
            one.user(who, client, &["launch", "two:bb", &format!("two:{name}")], "").ok();
            assert_eq!(two.daemon.status(&name), "Running");
            let told = one.user(who, client, &["exec", &format!("two:{name}"), "--", "hostname"], "").ok();
            assert_eq!(told.trim(), name);
            let listed = one.user(who, client, &["list", "two:", "-c", "n", "-f", "csv"], "").ok();
            assert!(listed.lines().any(|line| line == name), "{listed}");
            one.user(who, client, &["delete", "-f", &format!("two:{name}")], "").ok();
        }
        let token = two.token("ines");
        one.user("ines", Client::Incus, &["remote", "add", "two", &token], "").ok();
        assert!(one.user("ines", Client::Incus, &["image", "list", "two:", "-f", "csv"], "").ok().contains("bb"));
        one.user("ines", Client::Incus, &["launch", "two:bb", "two:c-ines"], "").ok();
        one.user("ines", Client::Incus, &["delete", "-f", "two:c-ines"], "").ok();

        // The other way round, and from host to host: what one's daemon fetches from two's.
        let token = one.token("two");
        two.user("root", Client::Lxc, &["remote", "add", "one", &token], "").ok();
        two.user("root", Client::Lxc, &["image", "copy", "local:bb", "one:", "--copy-aliases"], "").ok();
        assert!(one.daemon.lxc(&["image", "list", "-f", "csv"]).ok().contains("bb"));
        one.daemon.lxc(&["image", "delete", "bb"]).ok();
        one.user("anna", Client::Lxc, &["image", "copy", "two:bb", "local:", "--alias", "fetched"], "").ok();
        assert!(one.daemon.lxc(&["image", "list", "-f", "csv"]).ok().contains("fetched"));
    });
}

#[test]
fn a_host_is_known_by_its_fingerprint() {
    isolated("a_host_is_known_by_its_fingerprint", || {
        let (one, two) = hosts();
        two.daemon.lxc(&["config", "set", "core.trust_password", "sesame"]).ok();
        let fingerprint = two.fingerprint();
        let wrong = one.fingerprint();
        for (client, user) in [(Client::Lxc, "anna"), (Client::Warren, "bert")] {
            let add = |who: &str, answer: &str| {
                one.user(who, client, &["remote", "add", "two", two.address, "--password", "sesame"], answer)
            };
            // It is shown before anything is sent; who does not agree leaves nothing.
            for no in ["n\n", &format!("{wrong}\n")] {
                let said = add(user, no);
                assert!(said.out.contains(&fingerprint), "{}", said.out);
                assert_ne!(said.code, 0, "{}", said.out);
            }
            assert!(!one.user(user, client, &["remote", "list", "-f", "csv"], "").ok().contains(two.address));
            for (who, yes) in [(user.to_owned(), "y\n"), (format!("{user}-2"), &format!("{fingerprint}\n"))] {
                add(&who, yes).ok();
                assert!(one.user(&who, client, &["profile", "list", "two:", "-f", "csv"], "").ok().contains("default"));
            }
            // The server of the token is another than the one at the address: somebody in between.
            let other = one.token("x");
            let said = one.user(
                &format!("{user}-3"),
                client,
                &["remote", "add", "two", two.address, "--password", &other],
                "",
            );
            if matches!(client, Client::Warren) {
                said.refused("not the one that made the token");
            }
        }
        // A host that comes back with another certificate is not the one that was known.
        let mut two = two;
        two.daemon.terminate();
        for file in ["server.crt", "server.key"] {
            std::fs::remove_file(two.daemon.state().join(file)).unwrap();
        }
        two.daemon.spawn_by(&["nsenter", &inside(two.name)]);
        two.daemon.verb(&["waitready", "--timeout", "20"]).ok();
        for (client, user) in [(Client::Lxc, "anna"), (Client::Warren, "bert")] {
            let said = one.user(user, client, &["profile", "list", "two:"], "");
            assert_ne!(said.code, 0, "{}", said.out);
        }
        assert_eq!(said(Command::new("ip").args(["netns", "list"])).out.lines().count(), 2);
    });
}
