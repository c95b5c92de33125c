//! Addresses and names on managed networks: whose they are across projects, that leases go with their instances, and that
//! fixed addresses are one instance's at a time. Each test has namespaces of its own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::process::Command;

use serde_json::Value;
use support::api::get;
use support::instances::address;
use support::namespaces::isolated;
use support::scanner::scan;
use support::{Daemon, Said, eventually, run, said};

fn lxc(daemon: &Daemon, words: &str) -> Said {
    daemon.lxc(&words.split(' ').collect::<Vec<_>>())
}

fn leases(daemon: &Daemon) -> Vec<String> {
    let all = get(daemon, "/1.0/networks/n1/leases");
    let own = all.as_array().unwrap().iter().filter(|lease| lease["type"] != "gateway");
    own.map(|lease| lease["address"].as_str().unwrap().to_owned()).collect()
}

fn with_network(options: &str) -> Daemon {
    let daemon = Daemon::with_env(&[]);
    daemon.set_up("dir");
    lxc(&daemon, &format!("network create n1 ipv4.address=10.66.1.1/24 ipv6.address=none{options}")).ok();
    daemon
}

/// Instances that are never started need no image.
fn empty(daemon: &Daemon, name: &str) {
    lxc(daemon, &format!("init --empty {name} -n n1")).ok();
}

#[track_caller]
fn clean(daemon: &Daemon) {
    let mut found = Vec::new();
    for _ in 0..100 {
        found = scan(daemon);
        if found.is_empty() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("{found:#?}");
}

/// Whether dnsmasq gives this address, and no other, for a name.
fn resolves(_: &Daemon, name: &str, to: &str) -> bool {
    let answer = said(Command::new("busybox").args(["nslookup", name, "10.66.1.1"]));
    // The first is the server's own.
    let found: Vec<&str> = answer.out.lines().filter_map(|line| line.strip_prefix("Address")).skip(1).collect();
    found.len() == 1 && found[0].ends_with(&format!(": {to}"))
}

#[test]
fn a_name_is_that_of_the_project() {
    isolated("a_name_is_that_of_the_project", || {
        let mut daemon = with_network("");
        lxc(&daemon, "launch bb c1 -n n1").ok();
        let plain = address(&daemon, "c1");
        lxc(&daemon, "project create p7 -c features.profiles=false -c features.images=false").ok();
        lxc(&daemon, "launch bb c1 --project p7 -n n1").ok();
        let other = address(&daemon, "c1?project=p7");
        let right = |daemon: &Daemon| resolves(daemon, "c1.lxd", &plain) && resolves(daemon, "c1.p7.lxd", &other);
        eventually("both names", || right(&daemon));
        // What the guest calls itself is no matter.
        let asks = "udhcpc -i eth0 -n -q -x hostname:c1 -s /bin/true";
        lxc(&daemon, &format!("exec c1 --project p7 -- {asks}")).ok();
        lxc(&daemon, &format!("exec c1 --project p7 -- {asks} -F c1.lxd")).ok();
        assert!(right(&daemon));
        // Within the project the name goes without it.
        let shown = get(&daemon, "/1.0/networks/n1/leases?project=p7");
        assert!(shown[0]["hostname"] == "c1" && shown[0]["address"] == *other && shown[1].is_null(), "{shown}");
        // Without a daemon, and after a dnsmasq that came new.
        daemon.kill();
        run(Command::new("ip").args("link del n1".split(' ')));
        daemon.start();
        eventually("both names again", || right(&daemon));
        lxc(&daemon, "stop -f c1").ok();
        eventually("one name", || resolves(&daemon, "c1.p7.lxd", &other));
        // Nor is it another's when that is gone.
        lxc(&daemon, "delete c1").ok();
        lxc(&daemon, &format!("exec c1 --project p7 -- {asks}")).ok();
        lxc(&daemon, &format!("exec c1 --project p7 -- {asks} -F c1.lxd")).ok();
        let file = std::fs::read_to_string(daemon.state().join("networks/n1/dnsmasq.leases")).unwrap();
        assert!(!resolves(&daemon, "c1.lxd", &other) && resolves(&daemon, "c1.p7.lxd", &other), "{file}");
        run(Command::new("ip").args("link del n1".split(' ')));
        lxc(&daemon, "network set n1 user.x=1").ok();
        eventually("the name", || resolves(&daemon, "c1.p7.lxd", &other));
        assert!(!resolves(&daemon, "c1.lxd", &other), "{file}");
        lxc(&daemon, "delete -f c1 --project p7").ok();
        eventually("no name", || !resolves(&daemon, "c1.p7.lxd", &other));
        clean(&daemon);
    });
}

#[test]
fn leases_go_with_their_instance() {
    isolated("leases_go_with_their_instance", || {
        let mut daemon = with_network(" ipv4.dhcp.ranges=10.66.1.10-10.66.1.11");
        for round in 0..4 {
            lxc(&daemon, &format!("launch bb c{round} -n n1")).ok();
            let own = address(&daemon, &format!("c{round}"));
            assert_eq!(leases(&daemon), [own]);
            lxc(&daemon, &format!("delete -f c{round}")).ok();
            assert_eq!(leases(&daemon), [""; 0]);
        }
        // It stays what it is while it is only stopped.
        lxc(&daemon, "launch bb c1 -n n1").ok();
        let own = address(&daemon, "c1");
        lxc(&daemon, "restart -f c1").ok();
        assert_eq!(address(&daemon, "c1"), own);
        lxc(&daemon, "stop -f c1").ok();
        assert_eq!(leases(&daemon), [own.as_str()]);
        // It goes with the nic, also by a profile.
        lxc(&daemon, "config device remove c1 eth0").ok();
        assert_eq!(leases(&daemon), [""; 0]);
        lxc(&daemon, "profile create nic").ok();
        lxc(&daemon, "profile device add nic eth0 nic network=n1").ok();
        lxc(&daemon, "profile add c1 nic").ok();
        lxc(&daemon, "start c1").ok();
        let own = address(&daemon, "c1");
        assert_eq!(leases(&daemon), [own]);
        lxc(&daemon, "profile device remove nic eth0").ok();
        assert_eq!(leases(&daemon), [""; 0]);
        // With a restored snapshot that has none.
        lxc(&daemon, "init bb c2").ok();
        lxc(&daemon, "snapshot c2 bare").ok();
        lxc(&daemon, "config device add c2 eth0 nic network=n1").ok();
        lxc(&daemon, "start c2").ok();
        let own = address(&daemon, "c2");
        assert_eq!(leases(&daemon), [own]);
        lxc(&daemon, "restore c2 bare").ok();
        assert_eq!(leases(&daemon), [""; 0]);
        lxc(&daemon, "delete -f c2").ok();
        // With a dnsmasq that does not run.
        lxc(&daemon, "profile device add nic eth0 nic network=n1").ok();
        lxc(&daemon, "restart -f c1").ok();
        address(&daemon, "c1");
        let record = std::fs::read_to_string(daemon.state().join("networks/n1/dnsmasq.pid")).unwrap();
        let pid = record.lines().find_map(|line| line.strip_prefix("pid: ")).unwrap();
        lxc(&daemon, "stop -f c1").ok();
        run(Command::new("kill").args(["-9", pid]));
        eventually("it ended", || {
            !std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
        });
        lxc(&daemon, "delete c1").ok();
        lxc(&daemon, "profile delete nic").ok();
        assert_eq!(leases(&daemon), [""; 0]);
        daemon.kill();
        daemon.start();
        assert_eq!(leases(&daemon), [""; 0]);
        clean(&daemon);
    });
}

#[test]
fn copies_have_the_addresses_of_their_source() {
    isolated("copies_have_the_addresses_of_their_source", || {
        let daemon = with_network("");
        lxc(&daemon, "init bb na -n n1").ok();
        lxc(&daemon, "config device set na eth0 ipv4.address=10.66.1.50").ok();
        lxc(&daemon, "snapshot na snap").ok();
        lxc(&daemon, "copy na na2").ok();
        lxc(&daemon, "copy na/snap na3").ok();
        lxc(&daemon, "copy na na4").ok();
        lxc(&daemon, "project create p7 -c features.profiles=false -c features.images=false").ok();
        lxc(&daemon, "copy na na --target-project p7").ok();
        // The nightly backup, also after the address was changed.
        lxc(&daemon, "copy na na4 --refresh").ok();
        lxc(&daemon, "config device set na eth0 ipv4.address=10.66.1.51").ok();
        lxc(&daemon, "copy na na4 --refresh").ok();
        let of = |name: &str| lxc(&daemon, &format!("config device get {name} eth0 ipv4.address")).ok();
        assert_eq!((of("na4").trim(), of("na2").trim()), ("10.66.1.51", "10.66.1.50"));
        // What is restored may have it back although others have it.
        lxc(&daemon, "restore na snap").ok();
        assert_eq!(of("na").trim(), "10.66.1.50");
        lxc(&daemon, "start na").ok();
        assert_eq!(address(&daemon, "na"), "10.66.1.50");
        let why = "address 10.66.1.50 is in use by instance na, which runs";
        lxc(&daemon, "start na2").refused(why);
        // What another project's are called is not told.
        let why = "address 10.66.1.50 is in use by an instance of another project, which runs";
        lxc(&daemon, "start na --project p7").refused(why);
        // A clear word, and the way out. What it has already it may keep when something else is set.
        lxc(&daemon, "config device set na2 eth0 mtu=1400").ok();
        lxc(&daemon, "config set na2 user.x=1").ok();
        lxc(&daemon, "config device set na4 eth0 ipv4.address=10.66.1.50").refused("is instance na");
        lxc(&daemon, "config device set na2 eth0 ipv4.address=10.66.1.52").ok();
        lxc(&daemon, "start na2").ok();
        assert_eq!(address(&daemon, "na2"), "10.66.1.52");
        lxc(&daemon, "stop -f na").ok();
        lxc(&daemon, "start na3").ok();
        lxc(&daemon, "start na").refused("in use by instance na3, which runs");
        lxc(&daemon, "move na moved").ok();
        lxc(&daemon, "stop -f na3").ok();
        lxc(&daemon, "start moved").ok();
        clean(&daemon);
    });
}

#[test]
fn of_many_at_once_one_gets_an_address() {
    isolated("of_many_at_once_one_gets_an_address", || {
        let daemon = with_network("");
        let names = ["c1", "c2", "c3", "c4"];
        for name in names {
            empty(&daemon, name);
        }
        for round in 0..8 {
            let body = format!(
                r#"{{"devices":{{"eth0":{{"type":"nic","network":"n1","ipv4.address":"10.66.1.{}"}}}}}}"#,
                98 + round
            );
            let asking: Vec<_> = names
                .iter()
                .map(|name| {
                    let caller = support::caller::Caller { socket: daemon.socket() };
                    let (url, body) = (format!("/1.0/instances/{name}"), body.clone());
                    std::thread::spawn(move || caller.call("PATCH", &url, &body))
                })
                .collect();
            for thread in asking {
                thread.join().unwrap();
            }
            let holders = || {
                let all = get(&daemon, "/1.0/instances?recursion=1");
                let wanted = format!("10.66.1.{}", 98 + round);
                let has = |one: &&Value| one["devices"]["eth0"]["ipv4.address"] == *wanted;
                all.as_array().unwrap().iter().filter(has).count()
            };
            assert_eq!(holders(), 1, "round {round}");
        }
        clean(&daemon);
    });
}

#[test]
fn a_change_tells_what_it_repaired() {
    isolated("a_change_tells_what_it_repaired", || {
        // Nobody looks after them but changes.
        let daemon = Daemon::with_env(&[("WARREN_NETWORK_ROUND", "100000")]);
        daemon.set_up("dir");
        // A network of two hosts: the bridge, and one.
        lxc(&daemon, "network create n1 ipv4.address=10.66.1.1/31 ipv6.address=none").ok();
        lxc(&daemon, "network create n2 ipv4.address=10.66.1.2/31 ipv6.address=none").ok();
        lxc(&daemon, "network create n3 ipv4.address=10.66.2.1/32 ipv6.address=none").refused("ipv4.address");
        lxc(&daemon, "launch bb c1 -n n1").ok();
        assert_eq!(address(&daemon, "c1"), "10.66.1.0");
        lxc(&daemon, "delete -f c1").ok();
        let repaired = || {
            let all = get(&daemon, "/1.0/warnings?recursion=1");
            let of = |w: &&Value| w["type"] == "Network repaired" && w["entity_url"] == "/1.0/networks/n1";
            let found = all.as_array().unwrap().iter().find(of).cloned();
            found.map(|w| w["last_message"].as_str().unwrap().to_owned()).unwrap_or_default()
        };
        lxc(&daemon, "network set n1 user.x=1").ok();
        assert_eq!(repaired(), "");
        run(Command::new("ip").args("link del n1".split(' ')));
        lxc(&daemon, "network set n1 user.x=2").ok();
        assert_eq!(repaired(), "its bridge was gone: made again");
        let record = std::fs::read_to_string(daemon.state().join("networks/n1/dnsmasq.pid")).unwrap();
        let pid = record.lines().find_map(|line| line.strip_prefix("pid: ")).unwrap();
        run(Command::new("kill").args(["-9", pid]));
        eventually("it ended", || {
            !std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
        });
        lxc(&daemon, "network set n1 user.x=3").ok();
        assert_eq!(repaired(), "its dnsmasq had ended: made again");
        clean(&daemon);
    });
}
