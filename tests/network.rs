//! Networks on the real kernel, nft and dnsmasq. Every test runs in network, mount and process namespaces of its own:
//! it can use any name and address, and whatever it starts ends with it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddrV6, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use warren::api::wire::{Config, NetworkState};
use warren::names::{DeviceName, NetworkName};
use warren::network::{
    BridgeSpec, Error, Host, LeaseKind, Manager, fill_new, host_interfaces, interface_exists, random_mac, state,
};
use warren::sys::netlink::{MacAddr, Socket, Visitor};

const INSIDE: &str = "WARREN_TEST_INSIDE";

fn of_netns(pid: i32) -> Result<BTreeMap<String, NetworkState>, Error> {
    Visitor::run(|visitor| state::of_netns(visitor, pid)).unwrap()
}

/// Runs `body` in a copy of this program inside fresh namespaces, where it is process 1's child and sees its own /sys.
fn isolated(test: &str, path: Option<&str>, body: impl AsyncFnOnce()) {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == test) {
        tokio::runtime::Runtime::new().unwrap().block_on(body());
        return;
    }
    let program = std::env::current_exe().unwrap();
    let script = "mount -t sysfs sysfs /sys && ip link set lo up && PATH=\"$2\" && \"$0\" --exact \"$1\" --nocapture";
    let path = path.map_or_else(|| std::env::var("PATH").unwrap(), str::to_owned);
    let output = Command::new("timeout")
        .args(["-k", "5", "120", "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", script])
        .arg(program)
        .args([test, &path])
        .env(INSIDE, test)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}{}", text(&output), String::from_utf8_lossy(&output.stderr));
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    text(&output)
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn state_dir() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
    directory
}

fn name(text: &str) -> NetworkName {
    NetworkName::new(text).unwrap()
}

fn config(pairs: &[(&str, &str)]) -> Config {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn spec(network: &str, pairs: &[(&str, &str)]) -> BridgeSpec {
    BridgeSpec::parse(&name(network), &config(pairs)).unwrap()
}

const USUAL: &[(&str, &str)] =
    &[("ipv4.address", "10.71.0.1/24"), ("ipv4.nat", "true"), ("ipv6.address", "fd42:71::1/64"), ("ipv6.nat", "true")];

/// A process in a network namespace of its own, with the peer of a veth whose end is `host` here.
struct Guest {
    child: Child,
    host: String,
}

impl Guest {
    fn new(host: &str, bridge: Option<&str>, mac: MacAddr) -> Self {
        let child = Command::new("unshare").args(["--net", "sleep", "600"]).stdin(Stdio::null()).spawn().unwrap();
        let guest = Self { child, host: host.to_owned() };
        let here = fs::read_link("/proc/self/ns/net").unwrap();
        eventually("namespace of the guest", || {
            fs::read_link(format!("/proc/{}/ns/net", guest.child.id())).is_ok_and(|there| there != here)
        });
        let mut socket = Socket::open().unwrap();
        socket.add_veth(host, "eth0", Some(guest.child.id())).unwrap();
        let link = socket.link(host).unwrap().unwrap();
        if let Some(bridge) = bridge {
            let bridge = socket.link(bridge).unwrap().unwrap();
            socket.set_master(link.index, Some(bridge.index)).unwrap();
        }
        socket.set_up(link.index, true).unwrap();
        guest.run("ip", &["link", "set", "eth0", "address", &mac.to_string()]);
        guest.run("ip", &["link", "set", "lo", "up"]);
        guest.run("ip", &["link", "set", "eth0", "up"]);
        guest
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    fn command(&self, program: &str, args: &[&str]) -> Output {
        let pid = self.child.id().to_string();
        Command::new("nsenter").args(["-t", &pid, "-n", program]).args(args).output().unwrap()
    }

    fn run(&self, program: &str, args: &[&str]) -> String {
        let output = self.command(program, args);
        let (out, err) = (text(&output), String::from_utf8_lossy(&output.stderr).into_owned());
        assert!(output.status.success(), "{program} {args:?}: {out}{err}");
        out
    }

    /// Asks for a lease as `hostname` and configures the interface with it.
    fn dhcp(&self, directory: &Path, hostname: &str) -> String {
        let script = directory.join(format!("udhcpc-{}", self.host));
        let body = "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\nip addr replace $ip/$mask dev $interface\n\
                    [ -n \"$router\" ] && ip route replace default via $router\n\
                    echo bound $ip router $router dns $dns domain $domain search $search mtu $mtu\n";
        fs::write(&script, body).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let host = format!("hostname:{hostname}");
        let script = script.display().to_string();
        self.run("busybox", &["udhcpc", "-i", "eth0", "-n", "-q", "-t", "10", "-T", "1", "-x", &host, "-s", &script])
    }

    fn lookup(&self, name: &str) -> Output {
        self.command("busybox", &["nslookup", name, "10.71.0.1"])
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn processes_named(program: &str) -> BTreeSet<i32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            comm.trim() == program && !state.contains(") Z ")
        })
        .collect()
}

fn host(instance: &str, device: &str, mac: MacAddr, ipv4: Option<&str>) -> Host {
    Host {
        instance: instance.to_owned(),
        hostname: instance.split('_').next_back().unwrap().to_owned(),
        device: DeviceName::new(device).unwrap(),
        mac,
        ipv4: ipv4.map(|address| address.parse().unwrap()),
        ipv6: None,
    }
}

#[test]
fn a_guest_gets_a_lease_a_name_and_the_outside() {
    isolated("a_guest_gets_a_lease_a_name_and_the_outside", None, async || {
        let directory = state_dir();
        let manager = Manager::new(directory.path());
        let spec = spec("wtguest0", USUAL);
        manager.up(&spec).await.unwrap();
        let (mac1, mac2, stranger) = (random_mac().unwrap(), random_mac().unwrap(), random_mac().unwrap());
        manager.add_host(&spec.name, host("c1", "eth0", mac1, None)).await.unwrap();
        manager.add_host(&spec.name, host("p_c2", "eth0", mac2, Some("10.71.0.77"))).await.unwrap();
        let hosts = directory.path().join("networks/wtguest0/dnsmasq.hosts");
        assert_eq!(fs::read_to_string(hosts.join("p_c2.eth0")).unwrap(), format!("{mac2},10.71.0.77,c2\n"));

        let first = Guest::new("vethg1", Some("wtguest0"), mac1);
        let second = Guest::new("vethg2", Some("wtguest0"), mac2);
        let third = Guest::new("vethg3", Some("wtguest0"), stranger);
        let bound = first.dhcp(directory.path(), "other");
        assert!(bound.contains("router 10.71.0.1 dns 10.71.0.1 domain lxd"), "{bound}");
        assert!(second.dhcp(directory.path(), "c2").contains("bound 10.71.0.77"));
        third.dhcp(directory.path(), "c9");

        // Names are the instances', not what a guest calls itself.
        let found = second.lookup("c1.lxd");
        assert!(text(&found).contains("10.71.0."), "{}", text(&found));
        assert!(!second.lookup("other.lxd").status.success());
        assert!(!second.lookup("c9.lxd").status.success(), "a stranger chose a name");
        assert!(text(&first.lookup("c2.lxd")).contains("10.71.0.77"));
        assert!(text(&first.lookup("_gateway.lxd")).contains("10.71.0.1"));

        let leases = manager.leases(&spec).await.unwrap();
        let of = |mac: MacAddr| leases.iter().find(|lease| lease.hwaddr == mac.to_string()).unwrap();
        assert_eq!((of(mac1).kind, of(mac1).hostname.as_str()), (LeaseKind::Dynamic, "c1"));
        assert_eq!((of(mac2).kind, of(mac2).instance.as_deref()), (LeaseKind::Static, Some("p_c2")));
        assert_eq!(leases.iter().filter(|lease| lease.kind == LeaseKind::Gateway).count(), 2);
        assert_eq!(leases.iter().filter(|lease| lease.hwaddr == mac2.to_string()).count(), 1);

        // The guest makes an IPv6 address from the router's advertisement.
        let has_ipv6 = || {
            let interfaces = of_netns(first.pid()).unwrap();
            interfaces["eth0"].addresses.iter().any(|a| a.address.starts_with("fd42:71::") && a.scope == "global")
        };
        eventually("IPv6 address", has_ipv6);

        // The outside knows no way back to 10.71.0.0/24, so an answer means NAT.
        let outside = Guest::new("vethout", None, random_mac().unwrap());
        run("ip", &["addr", "add", "192.0.2.1/24", "dev", "vethout"]);
        outside.run("ip", &["addr", "add", "192.0.2.2/24", "dev", "eth0"]);
        first.run("busybox", &["ping", "-c", "1", "-W", "10", "192.0.2.2"]);
        run("ip", &["addr", "add", "2001:db8::1/64", "dev", "vethout", "nodad"]);
        outside.run("ip", &["addr", "add", "2001:db8::2/64", "dev", "eth0", "nodad"]);
        first.run("busybox", &["ping", "-c", "5", "-W", "10", "2001:db8::2"]);

        manager.remove_host(&spec.name, "c1", &DeviceName::new("eth0").unwrap()).await.unwrap();
        assert!(!hosts.join("c1.eth0").exists());
    });
}

/// A DHCPv6 client that wants an address with one message (RFC 8415: SOLICIT with rapid commit, identity by `mac`).
fn solicit(interface: u32, mac: MacAddr) {
    let identity = [&[0, 1, 0, 10, 0, 3, 0, 1][..], &mac.0].concat();
    let association = [0, 3, 0, 12, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0];
    let message = [&[1, 0, 0, 9][..], &identity, &[0, 14, 0, 0], &association, &[0, 8, 0, 2, 0, 0]].concat();
    let to = SocketAddrV6::new("ff02::1:2".parse().unwrap(), 547, 0, interface);
    // Not before the interface has its own address.
    let _ = UdpSocket::bind("[::]:0").unwrap().send_to(&message, to);
}

#[test]
fn leases_of_both_kinds_are_given_back() {
    isolated("leases_of_both_kinds_are_given_back", None, async || {
        let directory = state_dir();
        let manager = Manager::new(directory.path());
        let spec = spec("wtlease0", &[USUAL, &[("ipv6.dhcp.stateful", "true")]].concat());
        manager.up(&spec).await.unwrap();
        let pid = manager.dnsmasq_pid(&spec.name);
        let (mac, other) = (random_mac().unwrap(), random_mac().unwrap());
        let (first, second) =
            (Guest::new("vethl1", Some("wtlease0"), mac), Guest::new("vethl2", Some("wtlease0"), other));
        first.dhcp(directory.path(), "c1");
        second.dhcp(directory.path(), "c2");
        // Clients of DHCPv6 at ports of the bridge, on this side of the namespace.
        run("ip", &["link", "add", "six0", "type", "veth", "peer", "name", "six1"]);
        run("ip", &["link", "set", "six1", "up", "master", "wtlease0"]);
        run("ip", &["link", "set", "six0", "up"]);
        let index = Socket::open().unwrap().link("six0").unwrap().unwrap().index;
        let file = directory.path().join("networks/wtlease0/dnsmasq.leases");
        let lines = || fs::read_to_string(&file).unwrap_or_default();
        for mac in [mac, other] {
            eventually("a lease by DHCPv6", || {
                solicit(index, mac);
                lines().lines().any(|line| line.contains("fd42:71::") && line.ends_with(&format!(":{mac}")))
            });
        }
        let of = async |mac: MacAddr| {
            let leases = manager.leases(&spec).await.unwrap();
            leases.iter().filter(|lease| lease.hwaddr == mac.to_string()).count()
        };
        assert_eq!((of(mac).await, of(other).await), (2, 2), "{}", lines());
        manager.release(&spec.name, mac).await.unwrap();
        assert_eq!((of(mac).await, of(other).await), (0, 2), "{}", lines());
        // dnsmasq itself did it; it has not been started anew. Of who has none nothing is to be given back.
        assert_eq!(manager.dnsmasq_pid(&spec.name), pid);
        manager.release(&spec.name, mac).await.unwrap();
        // Without a dnsmasq.
        manager.down(&spec.name).await.unwrap();
        manager.release(&spec.name, other).await.unwrap();
        assert_eq!(of(other).await, 0, "{}", lines());
    });
}

#[test]
fn a_restarted_daemon_adopts_the_service() {
    isolated("a_restarted_daemon_adopts_the_service", None, async || {
        let directory = state_dir();
        let spec = spec("wtadopt0", USUAL);
        let manager = Manager::new(directory.path());
        manager.up(&spec).await.unwrap();
        let pid = manager.dnsmasq_pid(&spec.name).unwrap();
        assert_eq!(processes_named("dnsmasq"), BTreeSet::from([pid]));
        let index = Socket::open().unwrap().link("wtadopt0").unwrap().unwrap().index;
        let rules = run("nft", &["list", "ruleset"]);
        let record = fs::read_to_string(directory.path().join("networks/wtadopt0/dnsmasq.pid")).unwrap();
        assert!(record.lines().any(|line| line == format!("pid: {pid}")), "{record}");
        let uid = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(!uid.lines().any(|line| line.starts_with("Uid:\t0\t")), "dnsmasq runs as root");
        drop(manager);

        let manager = Manager::new(directory.path());
        for _ in 0..2 {
            manager.up(&spec).await.unwrap();
        }
        assert_eq!(manager.dnsmasq_pid(&spec.name), Some(pid));
        assert_eq!(Socket::open().unwrap().link("wtadopt0").unwrap().unwrap().index, index);
        assert_eq!(run("nft", &["list", "ruleset"]), rules);

        // A daemon killed before it wrote its record leaves dnsmasq's own number, or nothing at all.
        fs::write(directory.path().join("networks/wtadopt0/dnsmasq.pid"), format!("{pid}\n")).unwrap();
        manager.up(&spec).await.unwrap();
        assert_eq!(manager.dnsmasq_pid(&spec.name), Some(pid));
        fs::remove_file(directory.path().join("networks/wtadopt0/dnsmasq.pid")).unwrap();
        manager.up(&spec).await.unwrap();
        let second = manager.dnsmasq_pid(&spec.name).unwrap();
        assert_ne!(second, pid);
        assert_eq!(processes_named("dnsmasq"), BTreeSet::from([second]));

        // A number that is somebody else's now is left alone.
        let mut other = Command::new("sleep").arg("600").spawn().unwrap();
        manager.down(&spec.name).await.unwrap();
        fs::write(directory.path().join("networks/wtadopt0/dnsmasq.pid"), format!("pid: {}\n", other.id())).unwrap();
        manager.up(&spec).await.unwrap();
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    });
}

#[test]
fn changes_replace_what_was() {
    isolated("changes_replace_what_was", None, async || {
        let directory = state_dir();
        let manager = Manager::new(directory.path());
        let old = spec("wtchange0", &[USUAL, &[("ipv4.routes", "10.99.0.0/16")]].concat());
        manager.up(&old).await.unwrap();
        let mac = random_mac().unwrap();
        manager.add_host(&old.name, host("c1", "eth0", mac, None)).await.unwrap();
        let pid = manager.dnsmasq_pid(&old.name).unwrap();
        assert!(run("ip", &["route"]).contains("10.99.0.0/16 dev wtchange0"));

        // What dnsmasq refuses leaves the running service as it is.
        let broken = spec("wtchange0", &[USUAL, &[("raw.dnsmasq", "no-such-option=1")]].concat());
        let error = manager.up(&broken).await.unwrap_err();
        assert!(matches!(&error, Error::Dnsmasq { status: Some(1), .. }), "{error}");
        assert!(error.to_string().contains("bad option at line 1"), "{error}");
        assert_eq!(manager.dnsmasq_pid(&old.name), Some(pid));

        let new = spec(
            "wtchange0",
            &[
                ("ipv4.address", "10.72.0.1/24"),
                ("dns.mode", "dynamic"),
                ("bridge.mtu", "1400"),
                ("bridge.hwaddr", "00:16:3e:01:02:03"),
                ("raw.dnsmasq", "cache-size=10"),
            ],
        );
        manager.up(&new).await.unwrap();
        assert_ne!(manager.dnsmasq_pid(&old.name), Some(pid));
        let now = state::of_host("wtchange0").unwrap().common;
        let global: Vec<_> = now.addresses.iter().filter(|a| a.scope == "global").map(|a| &a.address).collect();
        assert_eq!(global, ["10.72.0.1"]);
        assert_eq!((now.mtu, now.hwaddr.as_str()), (1400, "00:16:3e:01:02:03"));
        assert!(!run("ip", &["route"]).contains("10.99"));
        let rules = run("nft", &["list", "ruleset"]);
        assert!(
            !rules.contains("masquerade") && !rules.contains("10.71.0") && rules.contains("fwd.wtchange0"),
            "{rules}"
        );
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv6/conf/wtchange0/disable_ipv6").unwrap().trim(), "1");

        // In dynamic mode the guest chooses its name.
        let entry = directory.path().join("networks/wtchange0/dnsmasq.hosts/c1.eth0");
        assert_eq!(fs::read_to_string(&entry).unwrap(), format!("#c1\n{mac}\n"));
        let guest = Guest::new("vethc1", Some("wtchange0"), mac);
        let bound = guest.dhcp(directory.path(), "chosen");
        assert!(bound.contains("mtu 1400"), "{bound}");
        let found = guest.run("busybox", &["nslookup", "chosen.lxd", "10.72.0.1"]);
        assert!(found.contains("10.72.0."), "{found}");
        assert_eq!(manager.leases(&new).await.unwrap().last().unwrap().hostname, "chosen");

        manager.up(&old).await.unwrap();
        assert_eq!(fs::read_to_string(&entry).unwrap(), format!("{mac},c1\n"));

        let nothing = spec("wtchange0", &[("ipv4.address", "none"), ("ipv6.address", "none")]);
        manager.up(&nothing).await.unwrap();
        assert_eq!(manager.dnsmasq_pid(&old.name), None);
        assert!(!run("nft", &["list", "ruleset"]).contains("warren"));
    });
}

#[test]
fn down_leaves_nothing() {
    isolated("down_leaves_nothing", None, async || {
        let directory = state_dir();
        let manager = Manager::new(directory.path());
        let (one, other) = (spec("wtdown0", USUAL), spec("wtdown1", &[("ipv4.address", "10.73.0.1/24")]));
        // Another's table stays as it is.
        run("nft", &["add", "table", "inet", "someone"]);
        manager.up(&one).await.unwrap();
        manager.up(&other).await.unwrap();
        let bridges: Vec<_> = host_interfaces().unwrap().into_iter().filter(|i| i.kind == "bridge").collect();
        assert_eq!(bridges.len(), 2);
        manager.down(&one.name).await.unwrap();
        let rules = run("nft", &["list", "ruleset"]);
        assert!(!rules.contains("wtdown0") && rules.contains("wtdown1"), "{rules}");
        manager.down(&other.name).await.unwrap();
        manager.down(&other.name).await.unwrap();
        assert!(!interface_exists("wtdown0").unwrap() && !interface_exists("wtdown1").unwrap());
        assert_eq!(run("nft", &["list", "tables"]), "table inet someone\n");
        assert!(processes_named("dnsmasq").is_empty());
        assert!(directory.path().join("networks/wtdown0/dnsmasq.leases").exists());
        manager.rename(&one.name, &name("wtnew0")).await.unwrap();
        assert!(directory.path().join("networks/wtnew0/dnsmasq.leases").exists());
        manager.remove(&name("wtnew0")).await.unwrap();
        manager.remove(&other.name).await.unwrap();
        assert_eq!(fs::read_dir(directory.path().join("networks")).unwrap().count(), 0);
    });
}

#[test]
fn a_failed_start_is_undone() {
    isolated("a_failed_start_is_undone", None, async || {
        let directory = state_dir();
        let manager = Manager::new(directory.path());
        let broken = spec("wtfail0", &[USUAL, &[("raw.dnsmasq", "no-such-option=1")]].concat());
        assert!(manager.up(&broken).await.is_err());
        assert!(!interface_exists("wtfail0").unwrap());
        assert_eq!(run("nft", &["list", "tables"]), "");
        assert!(processes_named("dnsmasq").is_empty());

        Socket::open().unwrap().add_veth("wtveth0", "wtveth1", None).unwrap();
        let error = manager.up(&spec("wtveth0", USUAL)).await.unwrap_err();
        assert!(matches!(&error, Error::NotABridge { kind, .. } if kind == "veth"), "{error}");
        manager.down(&name("wtveth0")).await.unwrap();
        assert!(interface_exists("wtveth0").unwrap());
    });
}

#[test]
fn missing_programs_are_named_with_their_package() {
    isolated("missing_programs_are_named_with_their_package", Some("/nonexistent"), async || {
        let directory = state_dir();
        let manager = Manager::new(directory.path());
        let error = manager.up(&spec("wtmiss0", USUAL)).await.unwrap_err();
        assert!(error.to_string().ends_with("install the package nftables"), "{error}");
        let quiet = [("ipv4.address", "10.71.0.1/24"), ("ipv4.firewall", "false")];
        let error = manager.up(&spec("wtmiss0", &quiet)).await.unwrap_err();
        assert!(error.to_string().ends_with("install the package dnsmasq-base"), "{error}");
        manager.up(&spec("wtmiss0", &[("ipv4.address", "none")])).await.unwrap();
        manager.down(&name("wtmiss0")).await.unwrap();
        assert!(!interface_exists("wtmiss0").unwrap());
    });
}

#[test]
fn automatic_addresses_avoid_the_hosts() {
    isolated("automatic_addresses_avoid_the_hosts", None, async || {
        run("ip", &["link", "add", "wtroute0", "type", "bridge"]);
        run("ip", &["addr", "add", "10.0.0.1/9", "dev", "wtroute0"]);
        run("ip", &["link", "set", "wtroute0", "up"]);
        run("ip", &["route", "add", "10.128.0.0/10", "dev", "wtroute0"]);
        for _ in 0..20 {
            let mut made = Config::new();
            fill_new(&mut made, [&config(&[("ipv4.address", "10.192.0.1/11")])]).unwrap();
            let address: IpAddr = made["ipv4.address"].trim_end_matches("/24").parse().unwrap();
            let IpAddr::V4(address) = address else { panic!("{address}") };
            assert!(address.octets()[0] == 10 && address.octets()[1] >= 224, "{address}");
            assert_eq!((made["ipv4.nat"].as_str(), made["ipv6.nat"].as_str()), ("true", "true"));
            BridgeSpec::parse(&name("x0"), &made).unwrap();
        }
    });
}

#[test]
fn a_guest_is_seen_from_outside_quickly() {
    isolated("a_guest_is_seen_from_outside_quickly", None, async || {
        let mac = random_mac().unwrap();
        let guest = Guest::new("vethseen", None, mac);
        guest.run("ip", &["addr", "add", "10.74.0.2/24", "dev", "eth0"]);
        let before = fs::read_link("/proc/thread-self/ns/net").unwrap();
        let mut best = Duration::MAX;
        for _ in 0..20 {
            let start = Instant::now();
            of_netns(guest.pid()).unwrap();
            best = best.min(start.elapsed());
        }
        assert!(best < Duration::from_millis(2), "{best:?}");
        assert_eq!(fs::read_link("/proc/thread-self/ns/net").unwrap(), before);
        let interfaces = of_netns(guest.pid()).unwrap();
        assert_eq!(interfaces.keys().collect::<Vec<_>>(), ["eth0", "lo"]);
        let eth0 = &interfaces["eth0"];
        assert_eq!((eth0.host_name.as_str(), eth0.hwaddr.clone()), ("vethseen", mac.to_string()));
        assert_eq!((eth0.state.as_str(), eth0.kind.as_str(), eth0.mtu), ("up", "broadcast", 1500));
        let ipv4 = &eth0.addresses[0];
        assert_eq!((ipv4.family.as_str(), ipv4.address.as_str(), ipv4.netmask.as_str()), ("inet", "10.74.0.2", "24"));
        // The kernel asks for routers and neighbours by itself, some time after the link is up.
        eventually("a packet that is counted", || {
            let counters = &of_netns(guest.pid()).unwrap()["eth0"].counters;
            counters.packets_sent > 0 || counters.packets_received > 0
        });
        // The host's ends of veth pairs are not networks.
        assert!(!host_interfaces().unwrap().iter().any(|interface| interface.name == "vethseen"));
        let pid = guest.pid();
        drop(guest);
        assert!(matches!(of_netns(pid), Err(Error::NoProcess { .. })));
    });
}
