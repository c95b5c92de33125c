//! Managed networks through the API: every verb, what is gone and made again, other firewalls, forwards and access control
//! lists with real packets. Each test has namespaces of its own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::process::Command;

use support::api::get;
use support::instances::address;
use support::namespaces::isolated;
use support::scanner::scan;
use support::{Daemon, Said, eventually, run, said};

fn ip(words: &str) {
    run(Command::new("ip").args(words.split(' ')));
}

fn host(program: &str, words: &str) -> Said {
    said(Command::new(program).args(words.split(' ')))
}

fn shell(script: &str) -> Said {
    said(Command::new("sh").args(["-c", script]))
}

fn sh(daemon: &Daemon, name: &str, script: &str) -> Said {
    daemon.lxc(&["exec", name, "--", "sh", "-c", script])
}

fn lxc(daemon: &Daemon, words: &str) -> Said {
    daemon.lxc(&words.split(' ').collect::<Vec<_>>())
}

/// The API refuses, with words that contain `wanted`.
#[track_caller]
fn refused(daemon: &Daemon, method: &str, url: &str, body: &str, status: u16, wanted: &str) {
    let (found, answer) = daemon.api(method, url, body);
    assert_eq!(found, status, "{answer}");
    let said = answer["error"].as_str().unwrap();
    assert!(said.contains(wanted), "{said}");
}

#[track_caller]
fn clean(daemon: &Daemon) {
    let mut found = Vec::new();
    for _ in 0..100 {
        found = scan(daemon);
        // Of the tests themselves.
        found.retain(|finding| !finding.contains("the interface eth9"));
        if found.is_empty() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("{found:#?}");
}

/// The messages of the warnings of a type that are not resolved.
fn warnings(daemon: &Daemon, kind: &str) -> Vec<String> {
    let all = get(daemon, "/1.0/warnings?recursion=1");
    let open = all.as_array().unwrap().iter().filter(|w| w["type"] == kind && w["status"] != "resolved");
    open.map(|warning| warning["last_message"].as_str().unwrap().to_owned()).collect()
}

const OBSTRUCTED: &str = "Network traffic obstructed by the host";

/// A daemon that looks after its networks every second, with the network `n1`, and `c1` on it where wanted.
fn with_network(options: &str, instance: bool) -> Daemon {
    let daemon = Daemon::with_env(&[("WARREN_NETWORK_ROUND", "1")]);
    daemon.set_up("dir");
    lxc(&daemon, &format!("network create n1 ipv4.address=10.66.1.1/24 ipv4.nat=true ipv6.address=none{options}")).ok();
    if instance {
        lxc(&daemon, "init bb c1 -n n1").ok();
        lxc(&daemon, "config device set c1 eth0 ipv4.address=10.66.1.10").ok();
        lxc(&daemon, "start c1").ok();
        assert_eq!(address(&daemon, "c1"), "10.66.1.10");
    }
    daemon
}

#[test]
fn a_network_is_renamed_with_all_that_is_its_own() {
    isolated("a_network_is_renamed_with_all_that_is_its_own", || {
        let daemon = with_network("", false);
        lxc(&daemon, "network forward create n1 192.0.2.9").ok();
        lxc(&daemon, "network rename n1 n2").ok();
        assert!(host("ip", "link show n1").code != 0 && host("ip", "addr show n2").out.contains("10.66.1.1/24"));
        assert_eq!(get(&daemon, "/1.0/networks/n2/forwards")[0], "/1.0/networks/n2/forwards/192.0.2.9");
        let config = get(&daemon, "/1.0/networks/n2")["config"].clone();
        assert_eq!(config.as_object().unwrap().len(), 3, "{config}");
        clean(&daemon);
        refused(&daemon, "POST", "/1.0/networks/n2", r#"{"name":"lo"}"#, 409, "already exists");
        refused(&daemon, "POST", "/1.0/networks/n2", "{}", 400, "New network name not provided");
        refused(&daemon, "POST", "/1.0/networks/n2", r#"{"name":"a/b"}"#, 400, "network name");
        refused(&daemon, "POST", "/1.0/networks/lo", r#"{"name":"n3"}"#, 404, "Network not found");
        refused(
            &daemon,
            "PUT",
            "/1.0/networks/n2",
            r#"{"config":{"volatile.renamed_from":"x"}}"#,
            400,
            "Invalid option",
        );
        lxc(&daemon, "profile device add default eth0 nic network=n2").ok();
        refused(&daemon, "POST", "/1.0/networks/n2", r#"{"name":"n3"}"#, 400, "in use by /1.0/profiles/default");
        refused(&daemon, "DELETE", "/1.0/networks/n2", "", 400, "in use by /1.0/profiles/default");
        clean(&daemon);
    });
}

#[test]
fn interfaces_of_the_host_are_ports_while_they_are_named() {
    isolated("interfaces_of_the_host_are_ports_while_they_are_named", || {
        for pair in ["ext0", "ext1", "used0"] {
            ip(&format!("link add {pair} type veth peer name {pair}p"));
        }
        ip("addr add 192.0.2.1/24 dev used0");
        let mut daemon = with_network(" bridge.external_interfaces=ext0", false);
        let master = |name: &str| host("ip", &format!("link show {name}")).out.contains("master n1");
        assert!(master("ext0") && !master("ext1"));
        lxc(&daemon, "network set n1 bridge.external_interfaces ext1").ok();
        assert!(!master("ext0") && master("ext1"));
        for (name, why) in [("used0", "has addresses"), ("nosuch", "is not there"), ("lo", "cannot be a port")] {
            lxc(&daemon, &format!("network set n1 bridge.external_interfaces {name}")).refused(why);
        }
        assert!(master("ext1"));
        // Gone and come again, also while no daemon looks.
        ip("link del ext1");
        eventually("a warning", || !warnings(&daemon, "Network unavailable").is_empty());
        ip("link add ext1 type veth peer name ext1p");
        eventually("a port again", || master("ext1") && warnings(&daemon, "Network unavailable").is_empty());
        daemon.kill();
        ip("link set ext1 nomaster");
        daemon.start();
        eventually("a port again", || master("ext1"));
        lxc(&daemon, "network unset n1 bridge.external_interfaces").ok();
        assert!(!master("ext1"));
        lxc(&daemon, "network set n1 bridge.external_interfaces ext0,ext1").ok();
        lxc(&daemon, "network delete n1").ok();
        assert!(host("ip", "link show ext0").code == 0 && !master("ext0"));
    });
}

#[test]
fn what_is_gone_of_a_network_is_made_again() {
    isolated("what_is_gone_of_a_network_is_made_again", || {
        let mut daemon = with_network("", true);
        let record = daemon.state().join("networks/n1/dnsmasq.pid");
        let dnsmasq = || {
            let text = std::fs::read_to_string(&record).unwrap_or_default();
            let pid = text.lines().find_map(|line| line.strip_prefix("pid: ")).unwrap_or_default().to_owned();
            // One that was killed stays for a moment.
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            (!pid.is_empty() && !state.is_empty() && !state.contains(") Z ")).then_some(pid)
        };
        let works = || sh(&daemon, "c1", "ping -c1 -W1 10.66.1.1 || busybox ping -c1 -W1 10.66.1.1").code == 0;
        run(Command::new("kill").args(["-9", &dnsmasq().unwrap()]));
        eventually("dnsmasq again", || dnsmasq().is_some());
        eventually("a warning", || {
            warnings(&daemon, "Network repaired").iter().any(|message| message.contains("dnsmasq had ended"))
        });
        ip("link del n1");
        eventually("connected again", works);
        run(Command::new("nft").args(["delete", "table", "inet", "warren"]));
        eventually("rules again", || host("nft", "list table inet warren").out.contains("pstrt.n1"));
        ip("link set n1 down");
        eventually("up again", works);
        clean(&daemon);

        // The next touch need not wait for the round: a start makes it again.
        lxc(&daemon, "stop -f c1").ok();
        ip("link del n1");
        lxc(&daemon, "start c1").ok();
        assert_eq!(address(&daemon, "c1"), "10.66.1.10");
        // While no daemon looks.
        let pid = daemon.instance_pid("c1");
        daemon.kill();
        ip("link del n1");
        daemon.start();
        eventually("connected again", || sh(&daemon, "c1", "busybox ping -c1 -W1 10.66.1.1").code == 0);
        assert_eq!(daemon.instance_pid("c1"), pid);
        clean(&daemon);
    });
}

#[test]
fn addresses_that_are_in_use_are_refused_or_told() {
    isolated("addresses_that_are_in_use_are_refused_or_told", || {
        ip("link add eth9 type veth peer name eth9p");
        ip("addr add 10.77.0.5/16 dev eth9");
        ip("link set eth9 up");
        let daemon = with_network("", false);
        let create = |words: &str| lxc(&daemon, &format!("network create n2 ipv6.address=none {words}"));
        create("ipv4.address=10.77.3.1/24").refused("it overlaps the network 10.77.0.5/16 of the interface \"eth9\"");
        create("ipv4.address=10.77.0.5/24").refused("has the address 10.77.0.5 already");
        create("ipv4.address=10.66.1.1/24").refused("\"n1\" has the address 10.66.1.1 already");
        lxc(&daemon, "network set n1 ipv4.address 10.77.3.1/24").refused("it overlaps");
        clean(&daemon);
        // A route to somewhere may be meant: it is told.
        ip("route add 10.66.0.0/16 dev eth9");
        eventually("a warning", || {
            let all = warnings(&daemon, "Network addresses overlap");
            all.first().is_some_and(|text| text.contains("the host routes 10.66.0.0/16 to \"eth9\""))
        });
        ip("route del 10.66.0.0/16 dev eth9");
        eventually("no warning", || warnings(&daemon, "Network addresses overlap").is_empty());
        // The port of DNS.
        let server = Command::new("dnsmasq").args(["-k", "--conf-file=/dev/null", "--bind-interfaces"]).spawn();
        let mut server = server.unwrap();
        eventually("a server", || host("ss", "-lnu").out.contains(":53 "));
        lxc(&daemon, "network delete n1").ok();
        let other = create("ipv4.address=10.66.2.1/24");
        server.kill().unwrap();
        server.wait().unwrap();
        if other.code != 0 {
            assert!(other.err.contains("another program answers there"), "{}", other.err);
        }
        let _ = lxc(&daemon, "network delete n2");
        clean(&daemon);
    });
}

/// As Docker has it: the policy is to drop, and the administrator's chain comes first.
const DOCKER: &str = "iptables -P FORWARD DROP; iptables -N DOCKER-USER; iptables -A FORWARD -j DOCKER-USER; \
                      iptables -N DOCKER";

#[test]
fn other_firewalls_are_told_and_passed_by_assistance() {
    isolated("other_firewalls_are_told_and_passed_by_assistance", || {
        let mut daemon = with_network("", true);
        ip("link add out0 type veth peer name out1");
        ip("addr add 192.0.2.1/24 dev out0");
        ip("link set out0 up");
        let mut outside = Command::new("unshare").args(["-n", "sleep", "300"]).spawn().unwrap();
        let far = outside.id().to_string();
        let here = std::fs::read_link("/proc/self/ns/net").unwrap();
        eventually("a namespace", || std::fs::read_link(format!("/proc/{far}/ns/net")).is_ok_and(|far| far != here));
        ip(&format!("link set out1 netns {far}"));
        shell(&format!(
            "nsenter -t {far} -n ip addr add 192.0.2.2/24 dev out1; nsenter -t {far} -n ip link set out1 up"
        ))
        .ok();
        sh(&daemon, "c1", "ip route add default via 10.66.1.1").ok();
        let passes = |daemon: &Daemon| sh(daemon, "c1", "busybox ping -c1 -W1 192.0.2.2").code == 0;
        eventually("packets pass", || passes(&daemon));
        assert!(warnings(&daemon, OBSTRUCTED).is_empty());
        for (set_up, seen, tear_down) in [
            (DOCKER, "Docker drops", "iptables -P FORWARD ACCEPT; iptables -F; iptables -X"),
            (
                "iptables -P FORWARD DROP; iptables -P INPUT DROP; iptables -N ufw-user-forward",
                "ufw route allow in on n1",
                "iptables -P FORWARD ACCEPT; iptables -P INPUT ACCEPT; iptables -F; iptables -X",
            ),
            (
                "iptables-legacy -P FORWARD DROP",
                "iptables-legacy -I FORWARD -i n1 -j ACCEPT",
                "iptables-legacy -P FORWARD ACCEPT; iptables-legacy -F",
            ),
            (
                "nft add table inet other; nft 'add chain inet other f { type filter hook forward priority 5; policy drop; }'",
                "nft insert rule inet other f iifname n1 accept",
                "nft delete table inet other",
            ),
        ] {
            shell(set_up).ok();
            assert!(!passes(&daemon), "{set_up}");
            eventually(seen, || warnings(&daemon, OBSTRUCTED).iter().any(|text| text.contains(seen)));
            lxc(&daemon, "network set n1 firewall.assist true").ok();
            assert!(passes(&daemon), "{set_up}");
            eventually("no warning", || warnings(&daemon, OBSTRUCTED).is_empty());
            let marked = "(nft list ruleset; iptables-legacy -S) | grep -c warren:n1";
            let count = shell(marked).out;
            assert_ne!(count.trim(), "0");
            // Nothing is added twice, also by the next daemon.
            daemon.kill();
            daemon.start();
            assert_eq!(shell(marked).out, count);
            lxc(&daemon, "network set n1 firewall.assist false").ok();
            assert_eq!(shell(marked).out.trim(), "0");
            assert!(!passes(&daemon), "{set_up}");
            shell(tear_down).ok();
            eventually("no warning", || warnings(&daemon, OBSTRUCTED).is_empty());
        }
        run(Command::new("sysctl").args(["-qw", "net.ipv4.ip_forward=0"]));
        eventually("a warning", || {
            warnings(&daemon, OBSTRUCTED).iter().any(|text| text.contains("sysctl -w net.ipv4.ip_forward=1"))
        });
        lxc(&daemon, "network set n1 firewall.assist true").ok();
        assert!(passes(&daemon));
        shell(DOCKER).ok();
        eventually("assistance by itself", || passes(&daemon));
        lxc(&daemon, "delete -f c1").ok();
        lxc(&daemon, "network delete n1").ok();
        assert!(!host("nft", "list ruleset").out.contains("warren"));
        assert!(warnings(&daemon, OBSTRUCTED).is_empty());
        outside.kill().unwrap();
        outside.wait().unwrap();
    });
}

#[test]
fn warnings_are_listed_acknowledged_and_deleted() {
    isolated("warnings_are_listed_acknowledged_and_deleted", || {
        let daemon = with_network("", false);
        shell(DOCKER).ok();
        eventually("a warning", || !warnings(&daemon, OBSTRUCTED).is_empty());
        let all = get(&daemon, "/1.0/warnings?recursion=1");
        let warning = all.as_array().unwrap().iter().find(|w| w["type"] == OBSTRUCTED).unwrap();
        assert_eq!((&warning["severity"], &warning["status"]), (&"moderate".into(), &"new".into()));
        assert_eq!((&warning["entity_url"], &warning["project"]), (&"/1.0/networks/n1".into(), &"default".into()));
        let uuid = warning["uuid"].as_str().unwrap();
        let url = format!("/1.0/warnings/{uuid}");
        assert!(lxc(&daemon, "warning list").ok().contains(uuid));
        let headers = [("If-Match", "\"0123\"")];
        assert_eq!(daemon.api_raw("PUT", &url, &headers, br#"{"status":"acknowledged"}"#).0, 412);
        lxc(&daemon, &format!("warning acknowledge {uuid}")).ok();
        assert_eq!(get(&daemon, &url)["status"], "acknowledged");
        // Seen again, it stays so.
        let count = get(&daemon, &url)["count"].as_i64().unwrap();
        eventually("counted", || get(&daemon, &url)["count"].as_i64().unwrap() > count);
        assert!(!lxc(&daemon, "warning list").ok().contains(uuid));
        lxc(&daemon, &format!("warning show {uuid}")).ok();
        refused(&daemon, "PUT", &url, r#"{"status":"resolved"}"#, 400, "Status may only be set to");
        refused(&daemon, "PATCH", &url, r#"{"status":"x"}"#, 400, "Status may only be set to");
        refused(&daemon, "GET", "/1.0/warnings/nosuch", "", 404, "Warning not found");
        shell("iptables -P FORWARD ACCEPT").ok();
        eventually("resolved", || get(&daemon, &url)["status"] == "resolved");
        lxc(&daemon, &format!("warning delete {uuid}")).ok();
        refused(&daemon, "GET", &url, "", 404, "Warning not found");
    });
}

#[test]
fn networks_on_interfaces_of_the_host() {
    isolated("networks_on_interfaces_of_the_host", || {
        for pair in ["ph0", "ph1"] {
            ip(&format!("link add {pair} type veth peer name {pair}p"));
            ip(&format!("link set {pair} up"));
            ip(&format!("link set {pair}p up"));
        }
        let daemon = Daemon::ready("dir");
        lxc(&daemon, "network create mv --type macvlan parent=ph0 mtu=1400").ok();
        lxc(&daemon, "network create phy --type physical parent=ph1").ok();
        lxc(&daemon, "network create xx --type physical parent=ph1").refused("in use by another network");
        lxc(&daemon, "network create xx --type macvlan parent=nosuch").refused("\"nosuch\" not found");
        lxc(&daemon, "network create xx --type macvlan").refused("option \"parent\": required");
        lxc(&daemon, "network create xx --type macvlan parent=ph0 ipv4.address=10.0.0.1/24").refused("ipv4.address");
        lxc(&daemon, "network create xx --type sriov parent=ph0").refused("not supported");
        lxc(&daemon, "init bb c1").ok();
        lxc(&daemon, "network attach mv c1 m").ok();
        lxc(&daemon, "network attach phy c1 p").ok();
        lxc(&daemon, "config device set c1 m limits.max=1Mbit").refused("which are for bridges");
        lxc(&daemon, "start c1").ok();
        let links = sh(&daemon, "c1", "ip link").ok();
        assert!(links.contains("eth0@") && links.contains("mtu 1400") && links.contains("eth1"), "{links}");
        assert!(host("ip", "link show ph1").code != 0);
        assert_eq!(get(&daemon, "/1.0/networks/mv")["used_by"][0], "/1.0/instances/c1");
        lxc(&daemon, "network set mv parent=ph1").refused("in use");
        lxc(&daemon, "network rename mv mv2").refused("in use");
        lxc(&daemon, "network delete phy").refused("in use");
        // Live.
        lxc(&daemon, "config device remove c1 p").ok();
        assert_eq!(host("ip", "link show ph1").code, 0);
        lxc(&daemon, "config device add c1 p nic network=phy").ok();
        assert!(host("ip", "link show ph1").code != 0);
        lxc(&daemon, "delete -f c1").ok();
        assert_eq!(host("ip", "link show ph1").code, 0);
        lxc(&daemon, "network rename mv mv2").ok();
        lxc(&daemon, "network set mv2 parent=ph1").ok();
        refused(&daemon, "GET", "/1.0/networks/phy/leases", "", 400, "Not supported");
        refused(&daemon, "GET", "/1.0/networks/phy/forwards", "", 400, "only bridges");
        refused(&daemon, "GET", "/1.0/networks/phy/state", "", 404, "not found");
        lxc(&daemon, "network delete phy").ok();
        lxc(&daemon, "network delete mv2").ok();
    });
}

/// Answers "it" on a port of a container.
fn serve(daemon: &Daemon, name: &str, port: u16) {
    let script = format!("while true; do echo it | busybox nc -l -p {port}; done >/dev/null 2>&1 </dev/null &");
    sh(daemon, name, &script).ok();
}

const ASK: &str = "busybox timeout 2 busybox nc";

#[test]
fn forwards_hand_on_to_instances() {
    isolated("forwards_hand_on_to_instances", || {
        let mut daemon = with_network("", true);
        ip("addr add 192.0.2.9/32 dev lo");
        sh(&daemon, "c1", "ip route add default via 10.66.1.1").ok();
        serve(&daemon, "c1", 8080);
        lxc(&daemon, "network forward create n1 192.0.2.9").ok();
        lxc(&daemon, "network forward port add n1 192.0.2.9 tcp 80 10.66.1.10 8080").ok();
        let asks = || shell(&format!("{ASK} 192.0.2.9 80 </dev/null")).out;
        eventually("an answer to the host", || asks().contains("it"));
        // From within the network, by the outer address.
        lxc(&daemon, "launch bb c2 -n n1").ok();
        address(&daemon, "c2");
        sh(&daemon, "c2", "ip route add default via 10.66.1.1").ok();
        let within = || sh(&daemon, "c2", &format!("{ASK} 192.0.2.9 80 </dev/null")).out;
        eventually("an answer to a neighbour", || within().contains("it"));
        daemon.kill();
        run(Command::new("nft").args(["delete", "table", "inet", "warren"]));
        daemon.start();
        eventually("an answer again", || asks().contains("it"));
        lxc(&daemon, "network forward port add n1 192.0.2.9 tcp 80 10.66.1.11").refused("Duplicate listen port 80");
        lxc(&daemon, "network forward set n1 192.0.2.9 target_address=10.9.9.9").refused("not within the network");
        lxc(&daemon, "network forward create n1 192.0.2.9").refused("already exists");
        let url = "/1.0/networks/n1/forwards/192.0.2.9";
        refused(&daemon, "POST", "/1.0/networks/n1/forwards", r#"{"listen_address":"x"}"#, 400, "listen address");
        let long = format!(r#"{{"listen_address":"192.0.2.8","config":{{"user.{}":"v"}}}}"#, "k".repeat(255));
        refused(&daemon, "POST", "/1.0/networks/n1/forwards", &long, 400, "at most 255 bytes");
        refused(&daemon, "GET", "/1.0/networks/n1/forwards/192.0.2.8", "", 404, "Network forward not found");
        refused(&daemon, "GET", "/1.0/networks/lo/forwards", "", 404, "Network not found");
        // The subnet cannot move away from under a forward.
        lxc(&daemon, "network set n1 ipv4.address 10.67.1.1/24").refused("not within the network subnet");
        eventually("an answer still", || asks().contains("it"));
        let (status, _) = daemon.api("PATCH", url, r#"{"description":"d"}"#);
        assert_eq!((status, &get(&daemon, url)["ports"][0]["listen_port"]), (200, &"80".into()));
        lxc(&daemon, "network forward port remove n1 192.0.2.9 tcp 80").ok();
        assert!(!asks().contains("it"));
        lxc(&daemon, "network forward delete n1 192.0.2.9").ok();
        lxc(&daemon, "network forward delete n1 192.0.2.9").refused("Network forward not found");
        clean(&daemon);
    });
}

#[test]
fn access_control_lists_hold_and_follow_changes() {
    isolated("access_control_lists_hold_and_follow_changes", || {
        let daemon = with_network("", true);
        serve(&daemon, "c1", 8080);
        serve(&daemon, "c1", 9090);
        let asks = |port: u16| shell(&format!("{ASK} 10.66.1.10 {port} </dev/null")).out.contains("it");
        eventually("open", || asks(8080) && asks(9090));
        lxc(&daemon, "network acl create web").ok();
        lxc(&daemon, "network acl rule add web ingress action=allow protocol=tcp destination_port=8080").ok();
        lxc(&daemon, "network set n1 security.acls=web").ok();
        eventually("one open", || asks(8080) && !asks(9090));
        assert_eq!(get(&daemon, "/1.0/network-acls/web")["used_by"][0], "/1.0/networks/n1");
        lxc(
            &daemon,
            "network acl rule add web ingress action=allow protocol=tcp destination_port=9090 source=10.66.1.0/24",
        )
        .ok();
        assert!(asks(8080) && asks(9090));
        lxc(&daemon, "network acl rule add web ingress action=drop state=logged source=10.66.1.1").ok();
        assert!(!asks(8080) && !asks(9090));
        // Addresses and names are given all the same.
        lxc(&daemon, "restart -f c1").ok();
        assert_eq!(address(&daemon, "c1"), "10.66.1.10");
        clean(&daemon);
        lxc(&daemon, "network acl delete web").refused("in use");
        lxc(&daemon, "network acl rename web other").refused("in use");
        lxc(&daemon, "network set n1 security.acls=nosuch").refused("\"nosuch\" does not exist");
        lxc(&daemon, "network acl create web").refused("already exists");
        lxc(&daemon, "network acl rule add web egress action=foo").refused("must be one of: allow, drop, reject");
        refused(&daemon, "POST", "/1.0/network-acls", "{}", 400, "Name is required");
        refused(&daemon, "POST", "/1.0/network-acls", r#"{"name":"@x"}"#, 400, "reserved character '@'");
        refused(&daemon, "GET", "/1.0/network-acls/web/log", "", 400, "the kernel's log");
        lxc(&daemon, "network unset n1 security.acls").ok();
        clean(&daemon);
        lxc(&daemon, "network acl rename web other").ok();
        lxc(&daemon, "network acl delete other").ok();
        lxc(&daemon, "network acl delete other").refused("Network ACL not found");
    });
}

#[test]
fn names_resolve_between_containers_also_after_restarts() {
    isolated("names_resolve_between_containers_also_after_restarts", || {
        let mut daemon = with_network(" dns.domain=test.example", true);
        lxc(&daemon, "launch bb c2 -n n1").ok();
        let second = address(&daemon, "c2");
        let resolves = |daemon: &Daemon| {
            let said = sh(daemon, "c1", "busybox nslookup c2.test.example 10.66.1.1").out;
            said.contains(&second)
        };
        eventually("resolves", || resolves(&daemon));
        let leases = get(&daemon, "/1.0/networks/n1/leases");
        let of = |name: &str, kind: &str| {
            leases.as_array().unwrap().iter().any(|lease| lease["hostname"] == name && lease["type"] == kind)
        };
        assert!(of("c1", "static") && of("c2", "dynamic") && of("n1.gw", "gateway"), "{leases}");
        daemon.kill();
        // As after a restart of the host, but for the containers.
        ip("link del n1");
        shell("nft flush ruleset").ok();
        daemon.start();
        eventually("resolves again", || resolves(&daemon));
        lxc(&daemon, "restart -f c2").ok();
        eventually("resolves again", || resolves(&daemon));
        // With all of the daemon its networks go, and come back. `lo` and the namespace's own rules stay.
        let dnsmasq = std::fs::read_to_string(daemon.state().join("networks/n1/dnsmasq.pid")).unwrap();
        daemon.lxc(&["config", "set", "c1", "boot.host_shutdown_timeout=1"]).ok();
        daemon.lxc(&["config", "set", "c2", "boot.host_shutdown_timeout=1"]).ok();
        daemon.verb(&["shutdown", "--timeout", "60"]).ok();
        daemon.ended();
        assert_ne!(host("ip", "link show n1").code, 0);
        assert!(!support::exists(&std::path::Path::new("/proc").join(dnsmasq.trim())));
        assert!(!host("nft", "list ruleset").out.contains("n1"));
        daemon.start();
        eventually("resolves again", || daemon.status("c1") == "Running" && resolves(&daemon));
        clean(&daemon);
    });
}
