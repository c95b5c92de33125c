//! Nics of all kinds: from the start, into and out of running containers, limited, filtered, refused, and given back.
//! Each test has a network namespace of its own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use support::namespaces::isolated;
use support::{Daemon, Said, eventually, run, said};

fn ip(words: &str) {
    run(Command::new("ip").args(words.split(' ')));
}

fn host(program: &str, words: &str) -> String {
    said(Command::new(program).args(words.split(' '))).out
}

fn ping(address: &str) -> i32 {
    said(Command::new("busybox").args(["ping", "-c1", "-W5", address])).code
}

/// Whether the host has this interface.
fn has(interface: &str) -> bool {
    said(Command::new("ip").args(["link", "show", interface])).code == 0
}

fn sh(daemon: &Daemon, name: &str, script: &str) -> Said {
    daemon.lxc(&["exec", name, "--", "sh", "-c", script])
}

fn add(daemon: &Daemon, name: &str, device: &str, properties: &str) -> Said {
    let mut words = vec!["config", "device", "add", name, device, "nic"];
    words.extend(properties.split(' '));
    daemon.lxc(&words)
}

fn volatile(daemon: &Daemon, name: &str, key: &str) -> String {
    daemon.lxc(&["config", "get", name, &format!("volatile.{key}")]).ok().trim().to_owned()
}

/// Interfaces inside but the loopback, in the order of their names.
fn inside(daemon: &Daemon, name: &str) -> Vec<String> {
    let listed = sh(daemon, name, "ls /sys/class/net").ok();
    listed.split_whitespace().filter(|name| *name != "lo").map(str::to_owned).collect()
}

/// What of nics is on the host.
fn left() -> Vec<String> {
    let links = host("ip", "-o link");
    let links = links.lines().filter_map(|line| line.split([':', '@']).nth(1)).map(|name| name.trim().to_owned());
    let mut left: Vec<String> = links.filter(|name| name.starts_with("veth") || name.starts_with("mac")).collect();
    left.extend(
        host("nft", "list table netdev warren").lines().filter(|line| line.contains("chain")).map(str::to_owned),
    );
    left
}

#[test]
fn nics_come_and_go_while_it_runs() {
    isolated("nics_come_and_go_while_it_runs", || {
        ip("link add br0 type bridge");
        ip("link set br0 mtu 1400 up");
        let daemon = Daemon::ready("dir");
        daemon.lxc(&["init", "bb", "c1"]).ok();
        add(&daemon, "c1", "first", "nictype=p2p host_name=p2p0").ok();
        daemon.lxc(&["start", "c1"]).ok();
        assert_eq!(inside(&daemon, "c1"), ["eth0"]);
        assert_eq!(volatile(&daemon, "c1", "first.host_name"), "p2p0");
        assert!(has("p2p0"));
        let url = "/1.0/instances/c1?dry-run=1";
        let body = r#"{"devices":{"n":{"type":"nic","nictype":"p2p"}}}"#;
        let (_, preview) = daemon.api("PATCH", url, body);
        assert_eq!(preview["metadata"]["instances"][0]["devices"][0]["effect"], "now", "{preview}");

        add(&daemon, "c1", "second", "nictype=bridged parent=br0 hwaddr=00:16:3e:00:00:42").ok();
        assert_eq!(inside(&daemon, "c1"), ["eth0", "eth1"]);
        let link = sh(&daemon, "c1", "ip link show eth1").ok();
        assert!(link.contains("00:16:3e:00:00:42") && link.contains("mtu 1400") && link.contains("UP"), "{link}");
        let veth = volatile(&daemon, "c1", "second.host_name");
        assert!(host("ip", &format!("link show {veth}")).contains("master br0"));
        assert_eq!(volatile(&daemon, "c1", "second.name"), "eth1");
        let (_, state) = daemon.api("GET", "/1.0/instances/c1/state", "");
        assert_eq!(state["metadata"]["network"]["eth1"]["host_name"], veth.as_str());

        // It is another one with another name.
        daemon.lxc(&["config", "device", "set", "c1", "second", "name=lan"]).ok();
        assert_eq!(inside(&daemon, "c1"), ["eth0", "lan"]);
        // What cannot be is not stored, and changes nothing.
        add(&daemon, "c1", "third", "nictype=bridged parent=nobridge").refused("no network interface \"nobridge\"");
        add(&daemon, "c1", "third", "nictype=bridged parent=p2p0").refused("is not a bridge");
        add(&daemon, "c1", "third", "nictype=p2p host_name=p2p0").refused("another host_name=");
        add(&daemon, "c1", "third", "network=nonet").refused("network \"nonet\" not found");
        add(&daemon, "c1", "third", "nictype=p2p name=lan").refused("\"lan\"");
        add(&daemon, "c1", "third", "nictype=ipvlan parent=br0 ipv4.address=192.0.2.9").refused("no ipvlan");
        add(&daemon, "c1", "third", "nictype=macvlan parent=br0 vlan=7").refused("no VLAN interfaces");
        let devices = daemon.lxc(&["config", "device", "list", "c1"]).ok();
        // The client lists them in no order.
        assert_eq!(devices.split_whitespace().collect::<BTreeSet<_>>(), ["first", "second"].into());
        assert_eq!(inside(&daemon, "c1"), ["eth0", "lan"]);

        // By a profile; with two devices, of which the second cannot be had, neither is.
        let both = r#"{"devices":{"m1":{"type":"nic","nictype":"p2p","host_name":"m1h"},
            "m2":{"type":"nic","nictype":"bridged","parent":"nobridge"}}}"#;
        let (status, _) = daemon.api("PATCH", "/1.0/profiles/default", both);
        assert_eq!(status, 400);
        assert!(!has("m1h"));
        daemon.lxc(&["profile", "device", "add", "default", "m1", "nic", "nictype=p2p", "host_name=m1h"]).ok();
        assert!(has("m1h"));
        assert_eq!(inside(&daemon, "c1"), ["eth0", "eth1", "lan"]);
        assert_eq!(volatile(&daemon, "c1", "m1.host_name"), "m1h");
        daemon.lxc(&["profile", "device", "remove", "default", "m1"]).ok();
        assert!(!has("m1h"));
        assert_eq!(volatile(&daemon, "c1", "m1.host_name"), "");

        daemon.lxc(&["config", "device", "remove", "c1", "second"]).ok();
        assert_eq!(inside(&daemon, "c1"), ["eth0"]);
        daemon.lxc(&["restart", "--force", "c1"]).ok();
        assert_eq!(inside(&daemon, "c1"), ["eth0"]);
        daemon.lxc(&["stop", "--force", "c1"]).ok();
        assert!(!has("p2p0"));
        assert_eq!(left(), [""; 0]);
        // A parent that is missing at the start.
        add(&daemon, "c1", "late", "nictype=bridged parent=brlate").ok();
        daemon.lxc(&["start", "c1"]).refused("no network interface \"brlate\"");
        assert_eq!(left(), [""; 0]);
    });
}

#[test]
fn interfaces_of_the_host_come_back_as_they_were() {
    isolated("interfaces_of_the_host_come_back_as_they_were", || {
        ip("link add phys0 type veth peer name wire0");
        ip("link set phys0 mtu 1410 address 02:00:00:00:00:01");
        ip("link set wire0 up");
        let as_it_was = || {
            let link = host("ip", "link show phys0");
            link.contains("02:00:00:00:00:01") && link.contains("mtu 1410")
        };
        let mut daemon = Daemon::ready("dir");
        daemon.lxc(&["init", "bb", "c1"]).ok();
        let physical = "nictype=physical parent=phys0 name=lan mtu=1300 hwaddr=02:00:00:00:00:99";
        add(&daemon, "c1", "phys", physical).ok();
        daemon.lxc(&["start", "c1"]).ok();
        let moved = |daemon: &Daemon| {
            let link = sh(daemon, "c1", "ip link show lan").ok();
            assert!(link.contains("02:00:00:00:00:99") && link.contains("mtu 1300"), "{link}");
            assert!(!has("phys0"));
        };
        moved(&daemon);
        assert_eq!(volatile(&daemon, "c1", "phys.last_state.mtu"), "1410");
        assert_eq!(volatile(&daemon, "c1", "phys.last_state.hwaddr"), "02:00:00:00:00:01");
        assert_eq!(volatile(&daemon, "c1", "phys.host_name"), "phys0");
        // Another cannot have it meanwhile.
        daemon.lxc(&["init", "bb", "c2"]).ok();
        add(&daemon, "c2", "phys", "nictype=physical parent=phys0").ok();
        daemon.lxc(&["start", "c2"]).refused("no network interface \"phys0\"");
        daemon.lxc(&["stop", "--force", "c1"]).ok();
        assert!(as_it_was());
        assert_eq!(volatile(&daemon, "c1", "phys.last_state.mtu"), "");

        // Into the running one, and out again.
        daemon.lxc(&["config", "device", "remove", "c1", "phys"]).ok();
        daemon.lxc(&["start", "c1"]).ok();
        add(&daemon, "c1", "phys", physical).ok();
        moved(&daemon);
        daemon.lxc(&["config", "device", "remove", "c1", "phys"]).ok();
        assert!(as_it_was());
        // Taken along into its end, which no daemon sees: liblxc does not know of it.
        add(&daemon, "c1", "phys", physical).ok();
        moved(&daemon);
        let init = daemon.instance_pid("c1").to_string();
        daemon.kill();
        run(Command::new("kill").args(["-9", &init]));
        daemon.start();
        eventually("the interface is back", as_it_was);
        assert_eq!(left(), [""; 0]);
    });
}

#[test]
fn macvlan_and_routed_reach_the_others() {
    isolated("macvlan_and_routed_reach_the_others", || {
        ip("link add up0 type veth peer name up1");
        ip("link set up0 up");
        ip("link set up1 up");
        ip("addr add 198.51.100.1/24 dev up1");
        let daemon = Daemon::ready("dir");
        daemon.lxc(&["init", "bb", "c1"]).ok();
        add(&daemon, "c1", "mv", "nictype=macvlan parent=up0").ok();
        daemon.lxc(&["start", "c1"]).ok();
        sh(&daemon, "c1", "ip addr add 198.51.100.7/24 dev eth0").ok();
        assert_eq!(ping("198.51.100.7"), 0);
        let name = volatile(&daemon, "c1", "mv.host_name");
        assert!(name.starts_with("mac"), "{name}");
        let (_, state) = daemon.api("GET", "/1.0/instances/c1/state", "");
        assert_eq!(state["metadata"]["network"]["eth0"]["host_name"], name.as_str());
        daemon.lxc(&["config", "device", "remove", "c1", "mv"]).ok();
        assert_eq!(inside(&daemon, "c1"), [""; 0]);
        add(&daemon, "c1", "mv", "nictype=macvlan parent=up0 name=mv0").ok();
        assert_eq!(inside(&daemon, "c1"), ["mv0"]);
        daemon.lxc(&["config", "device", "remove", "c1", "mv"]).ok();

        // The host does not forward: the way out is told.
        ip("link add lan0 type veth peer name lan1");
        ip("link set lan0 up");
        ip("link set lan1 up");
        ip("addr add 203.0.113.1/24 dev lan0");
        let routed = "nictype=routed parent=lan0 ipv4.address=203.0.113.8 ipv4.routes=192.0.2.0/28 name=r0";
        let forwarding = "/proc/sys/net/ipv4/conf/lan0/forwarding";
        fs::write(forwarding, "0").unwrap();
        add(&daemon, "c1", "r", routed).refused("net/ipv4/conf/lan0/forwarding=1");
        assert_eq!(left(), [""; 0]);
        fs::write(forwarding, "1").unwrap();
        add(&daemon, "c1", "r", routed).ok();
        let reached = |daemon: &Daemon| {
            let routes = sh(daemon, "c1", "ip route").ok();
            assert!(routes.contains("default via 169.254.0.1 dev r0"), "{routes}");
            assert_eq!(ping("203.0.113.8"), 0);
            assert!(host("ip", "neigh show proxy").contains("203.0.113.8 dev lan0"));
            assert!(host("ip", "route show 192.0.2.0/28").contains("via 203.0.113.8"));
        };
        reached(&daemon);
        // A network that the host has routed already is refused, and stays.
        add(&daemon, "c1", "p", "nictype=p2p ipv4.routes=192.0.2.0/28").refused("elsewhere already");
        reached(&daemon);
        daemon.lxc(&["restart", "--force", "c1"]).ok();
        reached(&daemon);
        daemon.lxc(&["stop", "--force", "c1"]).ok();
        assert_eq!(host("ip", "neigh show proxy").trim(), "");
        assert_eq!(host("ip", "route show 192.0.2.0/28").trim(), "");
        assert_eq!(left(), [""; 0]);
    });
}

#[test]
fn limits_change_in_their_place() {
    isolated("limits_change_in_their_place", || {
        let mut daemon = Daemon::ready("dir");
        daemon.lxc(&["init", "bb", "c1"]).ok();
        add(&daemon, "c1", "n", "nictype=p2p host_name=lim0 limits.ingress=8Mbit limits.egress=80Mbit").ok();
        daemon.lxc(&["start", "c1"]).ok();
        let index = || sh(&daemon, "c1", "cat /sys/class/net/eth0/ifindex").ok();
        let (class, rules) = (|| host("tc", "class show dev lim0"), || host("nft", "list table netdev warren"));
        let before = index();
        assert!(class().contains("rate 8Mbit"), "{}", class());
        assert!(rules().contains("limit rate over 10000000 bytes/second"), "{}", rules());
        daemon.lxc(&["config", "device", "set", "c1", "n", "limits.ingress=16Mbit", "limits.egress=40Mbit"]).ok();
        assert!(class().contains("rate 16Mbit"), "{}", class());
        assert!(rules().contains("limit rate over 5000000 bytes/second"), "{}", rules());
        daemon.lxc(&["config", "set", "c1", "limits.network.priority", "5"]).ok();
        assert!(rules().contains("meta priority set 0:5"), "{}", rules());
        daemon.lxc(&["config", "device", "set", "c1", "n", "limits.priority=7"]).ok();
        assert!(rules().contains("meta priority set 0:7"), "{}", rules());
        assert_eq!(index(), before, "it was never taken out");
        // The limit holds: what is sent above it does not come through.
        ip("addr add 192.0.2.1/24 dev lim0");
        daemon.lxc(&["config", "device", "set", "c1", "n", "limits.egress=800kbit"]).ok();
        sh(&daemon, "c1", "ip addr add 192.0.2.2/24 dev eth0").ok();
        let received = || -> u64 {
            fs::read_to_string("/proc/net/snmp")
                .unwrap()
                .lines()
                .filter(|line| line.starts_with("Icmp:"))
                .nth(1)
                .unwrap()
                .split(' ')
                .nth(1)
                .unwrap()
                .parse()
                .unwrap()
        };
        let was = received();
        // 800 kB at once: six times the bucket, and more than flows through in these seconds.
        let flood = "busybox ping -q -A -c 100 -s 8000 -W 1 -w 4 192.0.2.1 || true";
        sh(&daemon, "c1", flood).ok();
        let came = received() - was;
        assert!((3..90).contains(&came), "{came} of 100");
        for key in ["limits.ingress", "limits.egress", "limits.priority"] {
            daemon.lxc(&["config", "device", "unset", "c1", "n", key]).ok();
        }
        daemon.lxc(&["config", "unset", "c1", "limits.network.priority"]).ok();
        assert_eq!(class().trim(), "");
        assert!(!rules().contains("chain"), "{}", rules());
        daemon.lxc(&["config", "device", "set", "c1", "n", "limits.max=1Gbit"]).ok();
        assert!(class().contains("rate 1Gbit"));
        daemon.kill();
        daemon.start();
        assert!(host("tc", "class show dev lim0").contains("rate 1Gbit"));
        daemon.lxc(&["config", "device", "set", "c1", "n", "limits.max=1GB"]).refused("\"limits.max\"");
        daemon.lxc(&["stop", "--force", "c1"]).ok();
        assert_eq!(left(), [""; 0]);
    });
}

#[test]
fn what_is_not_its_own_is_dropped() {
    isolated("what_is_not_its_own_is_dropped", || {
        ip("link add br0 type bridge");
        ip("link set br0 up");
        ip("addr add 10.9.0.1/24 dev br0");
        ip("addr add fd42:9::1/64 dev br0 nodad");
        let daemon = Daemon::ready("dir");
        for name in ["c1", "c2"] {
            daemon.lxc(&["init", "bb", name]).ok();
        }
        let address = "nictype=bridged parent=br0 ipv4.address=10.9.0.5 ipv6.address=fd42:9::5";
        add(&daemon, "c1", "n", address).ok();
        add(&daemon, "c2", "n", "nictype=bridged parent=br0").ok();
        for (name, number) in [("c1", "5"), ("c2", "6")] {
            daemon.lxc(&["start", name]).ok();
            let script = "ip addr add 10.9.0.N/24 dev eth0; ip addr add fd42:9::N/64 dev eth0";
            sh(&daemon, name, &script.replace('N', number)).ok();
        }
        let set = |device: &str, word: &str| daemon.lxc(&["config", "device", "set", device, "n", word]).ok();
        let reaches = |from: &str, to: &str| {
            let six = if to.contains(':') { "-6" } else { "-4" };
            let command = format!("busybox ping {six} -c1 -W1 -I {from} {to}");
            sh(&daemon, "c1", &command).code == 0
        };
        let own = sh(&daemon, "c1", "cat /sys/class/net/eth0/address").ok().trim().to_owned();
        let mac = |mac: &str| {
            let script = format!("ip link set eth0 address {mac}; ip neigh flush dev eth0; true");
            sh(&daemon, "c1", &script).ok();
        };
        // Addresses it was not given.
        sh(&daemon, "c1", "ip addr add 10.9.0.77/24 dev eth0; ip addr add fd42:9::77/64 dev eth0").ok();
        for (from, to) in [("10.9.0.77", "10.9.0.1"), ("fd42:9::77", "fd42:9::1"), ("10.9.0.5", "10.9.0.6")] {
            eventually("without filters all pass", || reaches(from, to));
        }
        mac("02:00:00:00:00:55");
        eventually("also from another hardware address", || reaches("10.9.0.5", "10.9.0.1"));

        set("c1", "security.mac_filtering=true");
        assert!(!reaches("10.9.0.5", "10.9.0.1"));
        mac(&own);
        eventually("its own passes", || reaches("10.9.0.5", "10.9.0.1"));
        assert!(reaches("10.9.0.77", "10.9.0.1"));

        set("c1", "security.ipv4_filtering=true");
        assert!(!reaches("10.9.0.77", "10.9.0.1"));
        assert!(reaches("10.9.0.5", "10.9.0.1") && reaches("10.9.0.5", "10.9.0.6"));
        assert!(reaches("fd42:9::77", "fd42:9::1"));

        sh(&daemon, "c1", "ip addr add fd42:9::5/64 dev eth0; true").ok();
        set("c1", "security.ipv6_filtering=true");
        assert!(!reaches("fd42:9::77", "fd42:9::1"));
        eventually("its own passes", || reaches("fd42:9::5", "fd42:9::1"));

        // Isolated ports do not talk to each other, but to the host.
        set("c1", "security.port_isolation=true");
        assert!(reaches("10.9.0.5", "10.9.0.6"));
        set("c2", "security.port_isolation=true");
        assert!(!reaches("10.9.0.5", "10.9.0.6"));
        assert!(reaches("10.9.0.5", "10.9.0.1"));
        set("c2", "security.port_isolation=false");
        assert!(reaches("10.9.0.5", "10.9.0.6"));
        let need = daemon.lxc(&["config", "device", "set", "c2", "n", "security.ipv4_filtering=true"]);
        need.refused("set ipv4.address=");
        set("c1", "ipv4.address=none");
        assert!(!reaches("10.9.0.5", "10.9.0.1"));
        daemon.lxc(&["restart", "--force", "c1"]).ok();
        assert!(left().iter().any(|chain| chain.contains("nic.veth")));
        daemon.lxc(&["stop", "--force", "c1", "c2"]).ok();
        assert_eq!(left(), [""; 0]);
    });
}

#[test]
fn addresses_of_managed_networks_are_reserved() {
    isolated("addresses_of_managed_networks_are_reserved", || {
        let daemon = Daemon::ready("dir");
        daemon.lxc(&["network", "create", "net0", "ipv4.address=10.8.0.1/24", "ipv6.address=none"]).ok();
        for name in ["c1", "c2"] {
            daemon.lxc(&["init", "bb", name]).ok();
        }
        add(&daemon, "c1", "n", "network=net0 ipv4.address=10.7.0.9").refused("is not one of network net0");
        add(&daemon, "c1", "n", "network=net0 ipv4.address=10.8.0.1").refused("is not one of network net0");
        add(&daemon, "c1", "n", "network=net0 ipv6.address=fd42::9").refused("ipv6.dhcp.stateful");
        add(&daemon, "c1", "n", "network=net0 name=eth0 ipv4.address=10.8.0.9 ipv4.routes=192.0.2.0/28").ok();
        add(&daemon, "c2", "n", "network=net0 ipv4.address=10.8.0.9").refused("is instance c1's already");
        // Where it is set, not where it is started.
        let profile = ["profile", "device", "add", "default", "x", "nic", "network=nonet"];
        daemon.lxc(&profile).refused("network \"nonet\" not found");
        daemon.lxc(&["start", "c1"]).ok();
        let holds = |address: &str| sh(&daemon, "c1", "ip -4 addr show dev eth0").ok().contains(address);
        eventually("the fixed address is leased", || holds("10.8.0.9/24"));
        assert!(host("ip", "route show 192.0.2.0/28").contains("via 10.8.0.9 dev net0"));
        // Into a running one: the reservation comes and goes with it.
        daemon.lxc(&["start", "c2"]).ok();
        add(&daemon, "c2", "n", "network=net0 name=eth0 ipv4.address=10.8.0.77").ok();
        let reserved =
            || fs::read_to_string(daemon.state().join("networks/net0/dnsmasq.hosts/c2.n")).unwrap_or_default();
        assert!(reserved().contains("10.8.0.77"), "{}", reserved());
        daemon.lxc(&["config", "device", "set", "c2", "n", "ipv4.address=10.8.0.78"]).ok();
        assert!(reserved().contains("10.8.0.78"), "{}", reserved());
        daemon.lxc(&["config", "device", "remove", "c2", "n"]).ok();
        assert_eq!(reserved(), "");
        daemon.lxc(&["stop", "--force", "c1", "c2"]).ok();
        assert_eq!(host("ip", "route show 192.0.2.0/28").trim(), "");
        assert_eq!(left(), [""; 0]);
    });
}

#[test]
fn a_killed_daemon_leaves_no_nic_half_plugged() {
    isolated("a_killed_daemon_leaves_no_nic_half_plugged", || {
        ip("link add br0 type bridge");
        ip("link set br0 up");
        ip("link add phys0 type veth peer name wire0");
        let mut daemon = Daemon::ready("dir");
        daemon.lxc(&["init", "bb", "c1"]).ok();
        daemon.lxc(&["start", "c1"]).ok();
        let bodies = [
            r#"{"devices":{"a":{"type":"nic","nictype":"bridged","parent":"br0","limits.max":"1Gbit"},
                "b":{"type":"nic","nictype":"macvlan","parent":"wire0"},"c":{"type":"nic","nictype":"physical","parent":"phys0"}}}"#,
            r#"{"devices":{"a":{"type":"nic","nictype":"p2p"},"c":{"type":"nic","nictype":"physical","parent":"phys0","mtu":"1300"}}}"#,
            r#"{"devices":{}}"#,
        ];
        for round in 0..9_u64 {
            let body = bodies[usize::try_from(round).unwrap() % bodies.len()];
            let caller = support::caller::Caller { socket: daemon.socket() };
            let asking = std::thread::spawn(move || caller.call("PUT", "/1.0/instances/c1", body));
            // Not to wait for something: the kill is to come at every stage.
            std::thread::sleep(std::time::Duration::from_millis(5 + round * 9));
            daemon.kill();
            daemon.start();
            asking.join().unwrap();
            let (_, shown) = daemon.api("GET", "/1.0/instances/c1", "");
            let devices = shown["metadata"]["devices"].as_object().unwrap().clone();
            assert_eq!(inside(&daemon, "c1").len(), devices.len(), "round {round}: {devices:?}");
            assert_eq!(has("phys0"), !devices.contains_key("c"), "round {round}");
            // One end on the host for each pair; what is on its way has no place there.
            let pairs = usize::from(devices.contains_key("a"));
            let links = host("ip", "-o link");
            let links = links.lines().filter(|line| line.contains(": veth") || line.contains(": mac")).count();
            assert_eq!(links, pairs, "round {round}: {devices:?}");
            let config = shown["metadata"]["config"].as_object().unwrap();
            let names = config.keys().filter(|key| key.ends_with(".host_name")).count();
            assert_eq!(names, devices.len(), "round {round}: {config:?}");
        }
        daemon.lxc(&["stop", "--force", "c1"]).ok();
        assert!(has("phys0"));
        assert_eq!(left(), [""; 0]);
    });
}
