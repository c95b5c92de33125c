//! Metrics: what they tell, as Prometheus' own client for Python reads it, to whom, and where.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use support::api::{done, get, refused};
use support::namespaces::isolated;
use support::tls::{Client, Identity, VERSIONS, listeners, local, set, tls};
use support::{Daemon, run};

const METRICS: &str = "/1.0/metrics";

/// The names that LXD 5.0.2 has on a host like this one, but for the three of file systems.
const NAMES: [&str; 31] = [
    "lxd_cpu_seconds_total",
    "lxd_disk_read_bytes_total",
    "lxd_disk_reads_completed_total",
    "lxd_disk_written_bytes_total",
    "lxd_disk_writes_completed_total",
    "lxd_memory_Active_anon_bytes",
    "lxd_memory_Active_bytes",
    "lxd_memory_Active_file_bytes",
    "lxd_memory_Cached_bytes",
    "lxd_memory_Dirty_bytes",
    "lxd_memory_Inactive_anon_bytes",
    "lxd_memory_Inactive_bytes",
    "lxd_memory_Inactive_file_bytes",
    "lxd_memory_Mapped_bytes",
    "lxd_memory_MemAvailable_bytes",
    "lxd_memory_MemFree_bytes",
    "lxd_memory_MemTotal_bytes",
    "lxd_memory_RSS_bytes",
    "lxd_memory_Shmem_bytes",
    "lxd_memory_Swap_bytes",
    "lxd_memory_Unevictable_bytes",
    "lxd_memory_Writeback_bytes",
    "lxd_network_receive_bytes_total",
    "lxd_network_receive_drop_total",
    "lxd_network_receive_errs_total",
    "lxd_network_receive_packets_total",
    "lxd_network_transmit_bytes_total",
    "lxd_network_transmit_drop_total",
    "lxd_network_transmit_errs_total",
    "lxd_network_transmit_packets_total",
    "lxd_procs_total",
];
const FILE_SYSTEMS: [&str; 3] =
    ["lxd_filesystem_avail_bytes", "lxd_filesystem_free_bytes", "lxd_filesystem_size_bytes"];
/// Ours, of the daemon.
const OWN: [&str; 3] = ["lxd_operations_total", "lxd_uptime_seconds", "lxd_warnings_total"];

type Labels = BTreeMap<String, String>;

struct Sample {
    kind: String,
    name: String,
    labels: Labels,
    value: f64,
}

impl Sample {
    fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// Metrics as somebody else's parser reads them.
struct Scrape(Vec<Sample>);

impl Scrape {
    #[track_caller]
    fn of(text: &str) -> Self {
        assert!(text.ends_with("# EOF\n"), "{text}");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/metrics_check.py");
        let mut command = Command::new("/usr/bin/python3");
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let text = text.to_owned();
        let writing = std::thread::spawn(move || input.write_all(text.as_bytes()));
        let output = child.wait_with_output().unwrap();
        writing.join().unwrap().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let line = |line: &str| {
            let (_, kind, name, labels, value): (String, String, String, Labels, f64) =
                serde_json::from_str(line).unwrap();
            Sample { kind, name, labels, value }
        };
        Self(String::from_utf8(output.stdout).unwrap().lines().map(line).collect())
    }

    fn all<'a>(&'a self, name: &'a str, instance: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| sample.name == name && sample.label("name") == instance)
    }

    /// The sum over processors, devices and so on.
    #[track_caller]
    fn sum(&self, name: &str, instance: &str) -> f64 {
        assert!(self.all(name, instance).next().is_some(), "no {name} of {instance}");
        self.all(name, instance).map(|sample| sample.value).sum()
    }

    #[track_caller]
    fn of_device(&self, name: &str, instance: &str, device: &str) -> f64 {
        let found: Vec<_> = self.all(name, instance).filter(|sample| sample.label("device") == device).collect();
        assert_eq!(found.len(), 1, "{name} of {instance}, {device}");
        found[0].value
    }

    fn names(&self) -> BTreeSet<&str> {
        self.0.iter().map(|sample| sample.name.as_str()).collect()
    }

    fn instances(&self) -> BTreeSet<&str> {
        self.0.iter().map(|sample| sample.label("name")).filter(|name| !name.is_empty()).collect()
    }
}

#[track_caller]
fn scrape(daemon: &Daemon, query: &str) -> Scrape {
    let (head, body) = daemon.exchange("GET", &format!("{METRICS}{query}"), &[], b"");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.to_lowercase().contains("content-type: text/plain\r\n"), "{head}");
    Scrape::of(&body)
}

/// A reading is good for some seconds, but not for the next daemon.
fn anew(daemon: &mut Daemon) -> Scrape {
    daemon.terminate();
    daemon.start();
    scrape(daemon, "")
}

fn shell(daemon: &Daemon, instance: &str, command: &str) {
    daemon.lxc(&["exec", instance, "--", "sh", "-c", command]).ok();
}

#[test]
fn figures_have_the_names_of_lxd_and_are_true() {
    isolated("figures_have_the_names_of_lxd_and_are_true", || {
        let mut daemon = Daemon::ready("dir");
        assert_eq!(scrape(&daemon, "").names(), OWN.into(), "nothing runs");
        let share = daemon.root.join("sh\"are");
        std::fs::create_dir(&share).unwrap();
        daemon.lxc(&["init", "bb", "c1", "-c", "limits.memory=64MiB"]).ok();
        daemon.lxc(&["config", "device", "add", "c1", "eth0", "nic", "nictype=p2p"]).ok();
        daemon.lxc(&["storage", "volume", "create", "p", "vol"]).ok();
        daemon.lxc(&["config", "device", "add", "c1", "data", "disk", "pool=p", "source=vol", "path=/data"]).ok();
        let source = format!("source={}", share.display());
        daemon.lxc(&["config", "device", "add", "c1", "share", "disk", &source, "path=/share"]).ok();
        daemon.lxc(&["start", "c1"]).ok();
        daemon.lxc(&["init", "bb", "down"]).ok();
        // Network and disk, memory, processor time.
        shell(&daemon, "c1", "/bin/busybox ping -c 1 127.0.0.1");
        shell(&daemon, "c1", "/bin/busybox dd if=/dev/zero of=/root/x bs=1048576 count=4 oflag=direct");
        shell(&daemon, "c1", "head -c 8388608 /dev/zero >/tmp/x");
        let one = anew(&mut daemon);

        let wanted: BTreeSet<&str> = NAMES.into_iter().chain(FILE_SYSTEMS).chain(OWN).collect();
        assert_eq!(one.names(), wanted);
        assert_eq!(one.instances(), ["c1"].into(), "what is down has no figures");
        for sample in &one.0 {
            let name = sample.name.as_str();
            let more: &[&str] = match name {
                _ if OWN.contains(&name) => continue,
                "lxd_cpu_seconds_total" => &["cpu", "mode", "type"],
                _ if FILE_SYSTEMS.contains(&name) => &["device", "fstype", "mountpoint"],
                _ if name.starts_with("lxd_disk") || name.starts_with("lxd_network") => &["device", "type"],
                _ => &["type"],
            };
            let labels: BTreeSet<&str> = sample.labels.keys().map(String::as_str).collect();
            assert_eq!(labels, more.iter().copied().chain(["name", "project"]).collect(), "{name}");
            assert_eq!(sample.label("project"), "default");
            let is_counter = name.ends_with("_total") && name != "lxd_procs_total";
            assert_eq!(sample.kind, if is_counter { "counter" } else { "gauge" }, "{name}");
            assert!(sample.value >= 0.0 && sample.value.is_finite(), "{name}: {}", sample.value);
        }

        let memory = |kind: &str| one.sum(&format!("lxd_memory_{kind}_bytes"), "c1");
        assert_eq!(memory("MemTotal"), f64::from(64 << 20));
        assert!(memory("MemFree") <= memory("MemAvailable") && memory("MemAvailable") < memory("MemTotal"));
        assert!(memory("MemFree") <= memory("MemTotal") - f64::from(8 << 20), "{}", memory("MemFree"));
        assert!(memory("Cached") >= f64::from(8 << 20), "{}", memory("Cached"));
        assert!(memory("RSS") > 0.0 && memory("RSS") < memory("MemTotal"));
        assert_eq!(memory("Active"), memory("Active_anon") + memory("Active_file"));
        let there = std::fs::read_to_string(daemon.cgroup_file("c1", "pids", "pids.current", "pids.current")).unwrap();
        let processes = one.sum("lxd_procs_total", "c1");
        assert!((2.0..64.0).contains(&processes), "{processes}, now {there}");

        for (kind, value) in [("packets", 2.0), ("bytes", 2.0 * 84.0)] {
            for way in ["receive", "transmit"] {
                let counted = one.of_device(&format!("lxd_network_{way}_{kind}_total"), "c1", "lo");
                assert!(counted >= value && counted < 100.0 * value, "{way} {kind}: {counted}");
            }
            // Nobody answers at the other end of it.
            assert!(one.of_device(&format!("lxd_network_receive_{kind}_total"), "c1", "eth0") < 10_000.0);
        }
        assert!(one.sum("lxd_disk_written_bytes_total", "c1") >= f64::from(4 << 20));
        assert!(one.sum("lxd_disk_writes_completed_total", "c1") >= 1.0);

        let space = rustix::fs::statfs(daemon.state()).unwrap();
        let size = space.f_blocks as f64 * space.f_bsize as f64;
        let source = share.to_str().unwrap();
        for (device, mountpoint) in [("", "/"), ("vol", "/data"), (source, "/share")] {
            let of = |name: &str| one.of_device(&format!("lxd_filesystem_{name}_bytes"), "c1", device);
            assert_eq!(of("size"), size, "all are of one file system");
            assert!(of("avail") <= of("free") && of("free") < of("size") && of("avail") > 0.0);
            let is_here = |sample: &&Sample| sample.label("device") == device;
            assert_eq!(one.all(FILE_SYSTEMS[0], "c1").find(is_here).unwrap().label("mountpoint"), mountpoint);
        }

        let before = one.sum("lxd_cpu_seconds_total", "c1");
        shell(&daemon, "c1", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done");
        let after = anew(&mut daemon).sum("lxd_cpu_seconds_total", "c1");
        assert!(before > 0.0 && after > before + 0.05 && after < 600.0, "{before} {after}");
    });
}

/// A certificate of type `metrics`, restricted to these projects, if there are any.
fn scraper(daemon: &Daemon, projects: &[&str]) -> Identity {
    let identity = Identity::new();
    let body = json!({
        "type": "metrics", "name": "m", "certificate": identity.known().pem,
        "restricted": !projects.is_empty(), "projects": projects,
    });
    done(daemon, "POST", "/1.0/certificates", &body);
    identity
}

fn listen(daemon: &Daemon, key: &str, address: &str) -> SocketAddr {
    let before = listeners(daemon);
    let (status, answer) = set(daemon, key, address);
    assert_eq!(status, 200, "{answer}");
    *listeners(daemon).difference(&before).next().unwrap()
}

#[test]
fn certificates_open_metrics_of_their_projects_and_nothing_else() {
    let daemon = Daemon::ready("overlay");
    let api = local(&daemon);
    let metrics = listen(&daemon, "core.metrics_address", "127.0.0.1:0");
    done(
        &daemon,
        "POST",
        "/1.0/projects",
        &json!({"name": "web", "config": {"features.images": "false", "features.profiles": "false"}}),
    );
    for (project, name) in [("default", "c1"), ("web", "c2")] {
        daemon.lxc(&["launch", "bb", name, "--project", project]).ok();
    }
    let [every, web] = [scraper(&daemon, &[]), scraper(&daemon, &["web"])];
    let [owner, stranger] = [Identity::new(), Identity::new()];
    owner.trust(&daemon);
    let limited = Identity::new();
    let body = json!({"type": "client", "name": "c", "restricted": true, "projects": ["web"], "certificate": limited.known().pem});
    done(&daemon, "POST", "/1.0/certificates", &body);
    let all = |address: SocketAddr, identity: &Identity, query: &str| {
        let answer = Client::connect(address, &tls(&VERSIONS, Some(identity))).get(&format!("{METRICS}{query}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        let scrape = Scrape::of(std::str::from_utf8(&answer.body).unwrap());
        (scrape.instances().into_iter().map(str::to_owned).collect::<Vec<_>>(), scrape.names().contains(OWN[0]))
    };
    let some = |names: &[&str], daemon: bool| (names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), daemon);
    for address in [api, metrics] {
        for identity in [&every, &owner] {
            assert_eq!(all(address, identity, ""), some(&["c1", "c2"], true));
            assert_eq!(all(address, identity, "?project=web"), some(&["c2"], false));
            assert_eq!(all(address, identity, "?project=default"), some(&["c1"], false));
            let mut client = Client::connect(address, &tls(&VERSIONS, Some(identity)));
            client.get(&format!("{METRICS}?project=nosuch")).refused(404, "not found");
        }
        for identity in [&web, &limited] {
            assert_eq!(all(address, identity, ""), some(&["c2"], false));
            assert_eq!(all(address, identity, "?project=web"), some(&["c2"], false));
            let mut client = Client::connect(address, &tls(&VERSIONS, Some(identity)));
            for project in ["default", "nosuch"] {
                client.get(&format!("{METRICS}?project={project}")).refused(403, "not authorized");
            }
        }
        Client::connect(address, &tls(&VERSIONS, Some(&stranger))).get(METRICS).refused(403, "not authorized");
        Client::connect(address, &tls(&VERSIONS, None)).get(METRICS).refused(403, "not authorized");
    }
    // Every other route takes a certificate for metrics for that of a stranger.
    for identity in [&every, &web] {
        for (route, methods) in warren::api::routes() {
            let path =
                route.replace("{fingerprint}", identity.known().fingerprint.as_str()).replace(['{', '}', '*'], "");
            let mut client = Client::connect(api, &tls(&VERSIONS, Some(identity)));
            for method in methods.iter().filter(|method| *method != http::Method::HEAD && route != METRICS) {
                let mine = client.ask(method.as_str(), &path, "{}");
                let theirs = Client::connect(api, &tls(&VERSIONS, Some(&stranger))).ask(method.as_str(), &path, "{}");
                assert_eq!((mine.status, mine.body), (theirs.status, theirs.body), "{method} {path}");
            }
        }
        assert_eq!(Client::connect(metrics, &tls(&VERSIONS, Some(identity))).auth(), "untrusted");
    }
    // What is withdrawn is withdrawn at once, also on a connection that stands.
    let mut client = Client::connect(metrics, &tls(&VERSIONS, Some(&every)));
    assert_eq!(client.get(METRICS).status, 200);
    done(&daemon, "DELETE", &every.url(), &json!({}));
    client.get(METRICS).refused(403, "not authorized");
}

#[test]
fn without_authentication_anyone_may_scrape_and_no_more() {
    let daemon = Daemon::bare();
    let api = local(&daemon);
    let metrics = listen(&daemon, "core.metrics_address", "127.0.0.1:0");
    let stranger = |address, path: &str| Client::connect(address, &tls(&VERSIONS, None)).get(path);
    refused(
        &daemon,
        "PATCH",
        "/1.0",
        &json!({"config": {"core.metrics_authentication": "perhaps"}}),
        400,
        "core.metrics_authentication",
    );
    for (value, open) in [("false", true), ("true", false), ("no", true), ("", false)] {
        assert_eq!(set(&daemon, "core.metrics_authentication", value).0, 200);
        for address in [api, metrics] {
            let answer = stranger(address, METRICS);
            assert_eq!(answer.status, if open { 200 } else { 403 }, "{value}");
            if open {
                let scrape = Scrape::of(std::str::from_utf8(&answer.body).unwrap());
                assert_eq!(scrape.names(), OWN.into());
            }
            assert_eq!(Client::connect(address, &tls(&VERSIONS, None)).auth(), "untrusted");
        }
        stranger(api, "/1.0/instances").refused(403, "not authorized");
        stranger(metrics, "/1.0/instances").refused(404, "not found");
    }
}

#[test]
fn the_address_of_metrics_leads_to_metrics_alone_and_moves() {
    let mut daemon = Daemon::bare();
    let metrics = listen(&daemon, "core.metrics_address", "127.0.0.1:0");
    let owner = Identity::new();
    owner.trust(&daemon);
    let ask = |address, method: &str, path: &str| {
        Client::connect(address, &tls(&VERSIONS, Some(&owner))).ask(method, path, "{}")
    };
    for path in ["/", "/1.0", "/1.0/", METRICS, "/1.0/metrics/", "/1.0/metrics?project=default"] {
        assert_eq!(ask(metrics, "GET", path).status, 200, "{path}");
    }
    for path in
        ["/1.0/instances", "/1.0/certificates", "/1.0/images", "/streams/v1/index.json", "/1.0/metrics/x", "//1.0"]
    {
        ask(metrics, "GET", path).refused(404, "not found");
        ask(metrics, "POST", path).refused(404, "not found");
    }
    for path in ["/", "/1.0", METRICS] {
        ask(metrics, "PUT", path).refused(501, "not implemented");
    }
    assert!(get(&daemon, "/1.0")["config"]["core.https_address"].is_null(), "nothing was changed by it");

    // An address that cannot be had is refused, and the old listener goes on.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for wrong in [address.as_str(), "127.0.0.1:port", "192.0.2.99:9100"] {
        let body = json!({"config": {"core.metrics_address": wrong}});
        refused(&daemon, "PATCH", "/1.0", &body, 400, "core.metrics_address");
        assert_eq!(get(&daemon, "/1.0")["config"]["core.metrics_address"], "127.0.0.1:0");
        assert_eq!(ask(metrics, "GET", METRICS).status, 200);
    }
    // Also when the other listener has moved by then.
    listen(&daemon, "core.https_address", "127.0.0.1:0");
    let body = json!({"config": {"core.https_address": "127.0.0.2:0", "core.metrics_address": address}});
    refused(&daemon, "PATCH", "/1.0", &body, 400, "core.metrics_address");
    let api = listeners(&daemon).into_iter().find(|one| *one != metrics).unwrap();
    let body = json!({"config": {"core.metrics_address": api.to_string()}});
    refused(&daemon, "PATCH", "/1.0", &body, 400, "core.metrics_address");
    assert_eq!(listeners(&daemon).len(), 2, "{:?}", listeners(&daemon));
    assert_eq!(get(&daemon, "/1.0")["config"]["core.https_address"], "127.0.0.1:0");

    // It is kept, moved and taken away; where one ends, the other may begin in the same request.
    daemon.terminate();
    daemon.start();
    assert_eq!(listeners(&daemon).len(), 2);
    assert_eq!(set(&daemon, "core.metrics_address", "").0, 200);
    assert_eq!(listeners(&daemon).len(), 1);
    let port = listeners(&daemon).first().unwrap().port();
    assert_eq!(set(&daemon, "core.https_address", &format!("127.0.0.1:{port}")).0, 200);
    let both = json!({"config": {"core.https_address": "", "core.metrics_address": format!("127.0.0.1:{port}")}});
    done(&daemon, "PATCH", "/1.0", &both);
    let now = listeners(&daemon);
    assert_eq!(now.iter().map(SocketAddr::port).collect::<Vec<_>>(), [port]);
    ask(*now.first().unwrap(), "GET", "/1.0/instances").refused(404, "not found");
    let back = json!({"config": {"core.metrics_address": "", "core.https_address": format!("127.0.0.1:{port}")}});
    done(&daemon, "PATCH", "/1.0", &back);
    assert_eq!(ask(*listeners(&daemon).first().unwrap(), "GET", "/1.0/instances").status, 200);
}

#[test]
fn a_file_system_that_does_not_answer_costs_its_own_figures() {
    isolated("a_file_system_that_does_not_answer_costs_its_own_figures", || {
        let daemon = Daemon::ready("overlay");
        let share = daemon.root.join("share");
        std::fs::create_dir(&share).unwrap();
        daemon.lxc(&["init", "bb", "c1"]).ok();
        let source = format!("source={}", share.display());
        daemon.lxc(&["config", "device", "add", "c1", "share", "disk", &source, "path=/share"]).ok();
        daemon.lxc(&["start", "c1"]).ok();
        // A file system in user space that nobody serves: fuse(4).
        let fuse = std::fs::File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", std::os::fd::AsRawFd::as_raw_fd(&fuse));
        let data = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount("none", &share, "fuse", rustix::mount::MountFlags::empty(), Some(data.as_c_str()))
            .unwrap();
        let start = Instant::now();
        let one = scrape(&daemon, "");
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        assert!(one.all("lxd_procs_total", "c1").next().is_some());
        assert!(one.all(FILE_SYSTEMS[0], "c1").next().is_none());
        // Without its server it ends.
        drop(fuse);
        run(Command::new("umount").arg("-l").arg(&share));
    });
}

#[test]
fn keys_without_a_place_here_are_refused_with_the_reason() {
    let daemon = Daemon::bare();
    let body = json!({"config": {"core.debug_address": "127.0.0.1:6060"}});
    refused(&daemon, "PATCH", "/1.0", &body, 400, "core.debug_address");
    refused(&daemon, "PATCH", "/1.0", &body, 400, "/internal/log-level");
    // Who takes it away has what he wants.
    assert_eq!(set(&daemon, "core.debug_address", "").0, 200);
    assert!(get(&daemon, "/1.0")["config"].get("core.debug_address").is_none());
}
