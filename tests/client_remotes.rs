//! `warren remote` beside `lxc remote`: the same words, outputs and exit codes, each with a configuration of its own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use support::tls::{listen, local};
use support::{Daemon, Said, said};

const WARREN: &str = env!("CARGO_BIN_EXE_warren");

/// One of both clients.
fn client(daemon: &Daemon, program: &str, conf: &Path, line: &str) -> Said {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{program} {line}")]).stdin(Stdio::null());
    command.env("LXD_DIR", daemon.state()).env("LXD_CONF", conf).env("WARREN_CONF", conf);
    command.env("HOME", daemon.root.join("home")).env_remove("WARREN_SOCKET").env_remove("WARREN_DIR");
    said(&mut command)
}

/// Commands in their order; what both print and their exit codes are equal. `@` is the server's address.
const SAME: &[&str] = &[
    "remote get-default",
    "remote add far @ --accept-certificate --password wrong",
    "remote add far @ --accept-certificate --password pw",
    "remote add far @ --accept-certificate --password pw",
    "remote list -f csv",
    "remote list -f compact",
    "remote list",
    "remote add pub @ --accept-certificate --public",
    "list pub:",
    "remote add again https://@/ --accept-certificate",
    "remote add nobody 127.0.0.1:1 --accept-certificate",
    "remote add nobody nosuch.invalid --accept-certificate",
    "remote add streams https://@/img --protocol simplestreams",
    "remote add streams http://@/img --protocol simplestreams",
    "remote add x @ --protocol nosuch",
    "remote add x @ --auth-type nosuch --accept-certificate",
    "remote add inproject @ --project other --accept-certificate",
    "remote add x @ --project nosuch --accept-certificate",
    "list inproject: -f csv -c n",
    "remote list -f csv",
    "remote switch nosuch",
    "remote switch far",
    "remote get-default",
    "list -f csv -c n",
    "list local: -f csv -c n",
    "list --force-local -f csv -c n",
    "config get far: user.x",
    "config get local: user.x",
    "config set far: user.x=far",
    "config get user.x",
    "profile list -f csv",
    "profile show default",
    "profile show far:default",
    "storage list far: -f csv",
    "network acl list far: -f csv",
    "project list far: -f csv",
    "image list far: -f csv -c lp",
    "image show far:bb | grep -v last_used",
    "operation list far: -f csv",
    "warning list far: -f csv",
    "config trust list far: -f csv -c n",
    "query far:/1.0/profiles",
    "query --raw far:/1.0/profiles/default",
    "config device show far:c1",
    "remote remove far",
    "remote rename far away",
    "remote get-default",
    "list away: -f csv -c n",
    "remote switch local",
    "remote set-url away https://@",
    "remote set-url local https://@",
    "remote set-url nosuch https://@",
    "remote rename away local",
    "remote rename nosuch x",
    "remote rename local x",
    "remote remove local",
    "remote remove nosuch",
    "remote remove ubuntu",
    "remote remove pub",
    "remote remove away",
    "remote remove images",
    "remote list -f yaml",
    "remote list -f csv",
    "alias add ll 'list -f csv -c n'",
    "alias add ll 'list'",
    "ll",
    "alias list",
    "alias list -f json",
    "alias list -f yaml",
    "alias rename ll l2",
    "l2 c",
    "alias remove l2",
    "alias remove l2",
];

#[test]
fn both_clients_keep_remotes_in_the_same_way() {
    let daemon = Daemon::ready("overlay");
    let address = local(&daemon).to_string();
    daemon.lxc(&["config", "set", "core.trust_password=pw", "user.x=here"]).ok();
    daemon.lxc(&["init", "bb", "c1"]).ok();
    daemon.lxc(&["project", "create", "other", "-c", "features.images=false"]).ok();
    // Theirs has the address of another image server from the start; ours is compared with the same.
    let confs = ["theirs", "ours"].map(|name| daemon.root.join(name));
    for conf in &confs {
        std::fs::create_dir_all(conf).unwrap();
        let images = "remotes:\n  images:\n    addr: https://images.example.org\n    protocol: simplestreams\n    public: true\n";
        std::fs::write(conf.join("config.yml"), format!("default-remote: local\n{images}aliases: {{}}\n")).unwrap();
    }
    let mut differences = Vec::new();
    for line in SAME {
        let line = line.replace('@', &address);
        let stock = client(&daemon, "lxc", &confs[0], &line);
        let ours = client(&daemon, WARREN, &confs[1], &line);
        assert!(!ours.err.contains("panicked"), "{line}: {}", ours.err);
        if (stock.code, &stock.out) != (ours.code, &ours.out) {
            differences.push(format!(
                "{line}\n-- lxc: {}\n{}{}\n-- warren: {}\n{}{}",
                stock.code, stock.out, stock.err, ours.code, ours.out, ours.err
            ));
        }
    }
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n\n"));
    // JSON has no order.
    let [stock, ours] = [("lxc", &confs[0]), (WARREN, &confs[1])].map(|(program, conf)| {
        let text = client(&daemon, program, conf, "remote list -f json").ok();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    });
    assert_eq!(stock, ours);
}

#[test]
fn the_directory_of_the_stock_client_can_be_shared() {
    let daemon = Daemon::ready("overlay");
    // The port that the kernel chose, by name: tokens tell it.
    let address = local(&daemon).to_string();
    listen(&daemon, &address);
    let conf = daemon.root.join("shared");
    let both = |line: &str| [client(&daemon, "lxc", &conf, line).ok(), client(&daemon, WARREN, &conf, line).ok()];
    // A token for each client; each finds what the other has added.
    for (program, name) in [("lxc", "one"), (WARREN, "two")] {
        let token = daemon.lxc(&["config", "trust", "add", "--name", name]).ok();
        let token = token.lines().last().unwrap();
        client(&daemon, program, &conf, &format!("remote add {name} {token}")).ok();
    }
    for remote in ["one", "two"] {
        let [stock, ours] = both(&format!("profile list {remote}: -f csv"));
        assert_eq!(stock, ours);
    }
    client(&daemon, WARREN, &conf, "remote switch two").ok();
    client(&daemon, "lxc", &conf, "alias add ll 'list -f csv'").ok();
    let [stock, ours] = both("remote list");
    assert_eq!(stock, ours);
    assert!(ours.contains("two (current)") && ours.contains(&address), "{ours}");
    let [stock, ours] = both("ll");
    assert_eq!(stock, ours);
    // A token serves once.
    let token = daemon.lxc(&["config", "trust", "add", "--name", "three"]).ok();
    let token = token.lines().last().unwrap();
    let fresh = daemon.root.join("fresh");
    client(&daemon, WARREN, &fresh, &format!("remote add three --token {token} {address}")).ok();
    let late = daemon.root.join("late");
    client(&daemon, WARREN, &late, &format!("remote add three {token}")).refused("does not trust this client");
    assert!(!late.join("config.yml").exists() && !late.join("servercerts/three.crt").exists());
}

/// Why a stream ended that the server has ended.
#[test]
fn a_monitor_that_is_not_trusted_any_more_says_so() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    daemon.lxc(&["config", "set", "core.trust_password", "word"]).ok();
    let command = |words: &str| {
        let mut command = Command::new(WARREN);
        command.env("HOME", daemon.root.join("own")).env("WARREN_DIR", daemon.state()).stdin(Stdio::null());
        command.args(words.split(' '));
        command
    };
    said(&mut command(&format!("remote add r https://{address} --accept-certificate --password word"))).ok();
    let heard = daemon.root.join("heard");
    let mut monitor = command("monitor r: --type lifecycle");
    monitor.stdout(std::fs::File::create(&heard).unwrap()).stderr(Stdio::piped());
    let monitor = monitor.spawn().unwrap();
    support::eventually("it hears", || {
        daemon.lxc(&["config", "set", "user.a", "b"]).ok();
        std::fs::metadata(&heard).unwrap().len() > 0
    });
    let list = daemon.api("GET", "/1.0/certificates", "").1;
    assert_eq!(daemon.api("DELETE", list["metadata"][0].as_str().unwrap(), "").0, 200);
    let ended = monitor.wait_with_output().unwrap();
    let err = String::from_utf8(ended.stderr).unwrap();
    assert!(!ended.status.success() && err.contains("not trusted with this any more"), "{err}");
}
