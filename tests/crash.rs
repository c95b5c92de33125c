//! The daemon is killed at random moments of every verb. After its next start the verb is finished or undone, running
//! containers have not noticed, and the scanner finds nothing without an owner.
//!
//! ```text
//!   prepare ──> the requests run ──SIGKILL at 0 … 1.2 d──> start (now and then killed, too) ──> holds? scan ──> tidy
//! ```
//! `d` is how long the requests take undisturbed. `WARREN_CRASH_ROUNDS` says how often each verb is killed (2),
//! `WARREN_CRASH_SEED` repeats a run as far as a clock can be repeated, `WARREN_CRASH_ONLY` takes the verbs whose name
//! contains it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "crash/across.rs"]
mod across;
#[path = "crash/containers.rs"]
mod containers;
#[path = "crash/objects.rs"]
mod objects;
#[path = "crash/planted.rs"]
mod planted;
#[path = "crash/projects.rs"]
mod projects;
#[path = "crash/publish.rs"]
mod publish;
#[path = "crash/remotes.rs"]
mod remotes;
#[path = "crash/snapshots.rs"]
mod snapshots;
mod support;
#[path = "crash/trust.rs"]
mod trust;
#[path = "crash/volumes.rs"]
mod volumes;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::caller::Caller;
use support::namespaces::isolated;
use support::scanner::{rows, scan};
use support::{Daemon, eventually};

/// A verb, and what is true around it. Each function is given the same name for what it makes, another one each round.
struct Verb {
    name: &'static str,
    /// Makes what the verb works on.
    prepare: fn(&Daemon, &str),
    /// The requests, from a thread whose daemon dies.
    act: fn(&Caller, &str),
    /// Fails the test unless the verb is finished or undone.
    holds: fn(&Daemon, &str),
    /// Takes away what there is of it.
    tidy: fn(&Daemon, &str),
}

/// xorshift64*: no test needs better numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    /// Something up to 1.2 `time`.
    fn moment(&mut self, time: Duration) -> Duration {
        let share = u32::try_from(self.next() % 1200).unwrap();
        time * share / 1000
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Waits until every thing has an owner; what goes behind an answer gets a moment.
#[track_caller]
fn nothing_left(daemon: &Daemon, what: &str) {
    let start = Instant::now();
    loop {
        let findings = scan(daemon);
        if findings.is_empty() {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(12), "{what}: {findings:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Kills the daemon in each of the verbs. `steady` are containers that run before and go on.
fn crash(daemon: &mut Daemon, verbs: &[Verb], steady: &[&str]) {
    let rounds = number("WARREN_CRASH_ROUNDS").unwrap_or(2);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    let seed = number("WARREN_CRASH_SEED").unwrap_or(u64::from(now) | 1);
    println!("WARREN_CRASH_SEED={seed}");
    let mut random = Random(seed);
    let only = std::env::var("WARREN_CRASH_ONLY").unwrap_or_default();
    let pids: Vec<i64> = steady.iter().map(|name| daemon.instance_pid(name)).collect();
    for verb in verbs.iter().filter(|verb| verb.name.contains(&only)) {
        (verb.prepare)(daemon, "u0");
        let caller = Caller { socket: daemon.socket() };
        let start = Instant::now();
        (verb.act)(&caller, "u0");
        let undisturbed = start.elapsed();
        (verb.holds)(daemon, "u0");
        nothing_left(daemon, &format!("{}, undisturbed", verb.name));
        (verb.tidy)(daemon, "u0");
        for round in 0..rounds {
            let name = format!("r{round}");
            (verb.prepare)(daemon, &name);
            let moment = random.moment(undisturbed);
            let what = format!("{}, round {round}, killed after {moment:?} of {undisturbed:?}", verb.name);
            let acting = std::thread::spawn({
                let (act, caller, name) = (verb.act, caller.clone(), name.clone());
                move || act(&caller, &name)
            });
            std::thread::sleep(moment);
            daemon.kill();
            let start = Instant::now();
            if random.next().is_multiple_of(3) {
                daemon.spawn();
                std::thread::sleep(random.moment(Duration::from_millis(120)));
                daemon.kill();
            }
            daemon.start();
            let took = start.elapsed();
            assert!(took < Duration::from_secs(15), "{what}: the start took {took:?}");
            assert!(acting.join().is_ok(), "{what}: the caller panicked");
            for (name, pid) in steady.iter().zip(&pids) {
                assert_eq!(daemon.instance_pid(name), *pid, "{what}: {name} was disturbed");
            }
            println!("{what}");
            settled(daemon);
            (verb.holds)(daemon, &name);
            nothing_left(daemon, &what);
            (verb.tidy)(daemon, &name);
        }
    }
    nothing_left(daemon, "at the end");
    // Every failure that the daemon could not answer with is there.
    let log = std::fs::read_to_string(daemon.root.join("log")).unwrap();
    let errors: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// Waits for the automatic starts that follow readiness.
fn settled(daemon: &Daemon) {
    for row in rows(daemon, "SELECT name, project FROM instances") {
        eventually("what ran runs again", || {
            let query = format!(
                "SELECT config LIKE '%\"RUNNING\"%' FROM instances WHERE name = '{}' AND project = '{}'",
                row[0], row[1]
            );
            let ran = rows(daemon, &query).first().is_none_or(|row| row[0] == "1");
            match daemon.status_in(&row[1], &row[0]).as_str() {
                "Running" | "Frozen" => ran,
                "Stopped" => !ran,
                _ => false,
            }
        });
    }
}

/// What a GET shows; null when it is not there.
fn shown(daemon: &Daemon, url: &str) -> Value {
    let (status, answer) = daemon.api("GET", url, "");
    assert!(matches!(status, 200 | 404), "{url}: {answer}");
    answer["metadata"].clone()
}

/// A request that succeeds, with its operation if it has one.
#[track_caller]
fn done(daemon: &Daemon, method: &str, url: &str, body: &str) -> Value {
    let answer = Caller { socket: daemon.socket() }.call(method, url, body).unwrap();
    let code = answer["metadata"]["status_code"].as_u64().unwrap_or(200);
    assert!(answer["type"] == "sync" && code == 200, "{method} {url}: {answer}");
    answer["metadata"].clone()
}

/// A DELETE of what may not be there.
fn gone(daemon: &Daemon, url: &str) {
    if !shown(daemon, url).is_null() {
        done(daemon, "DELETE", url, "");
    }
}

fn with_network() -> Daemon {
    let daemon = Daemon::ready("overlay");
    done(&daemon, "POST", "/1.0/networks", r#"{"name":"wcbr0","config":{"ipv6.address":"none"}}"#);
    daemon.lxc(&["profile", "device", "add", "default", "eth0", "nic", "network=wcbr0", "name=eth0"]).ok();
    daemon
}

#[test]
fn lives_of_instances() {
    isolated("lives_of_instances", || {
        let mut daemon = with_network();
        daemon.lxc(&["launch", "bb", "steady"]).ok();
        crash(&mut daemon, containers::LIVES, &["steady"]);
    });
}

#[test]
fn slow_changes_of_state() {
    isolated("slow_changes_of_state", || {
        let mut daemon = with_network();
        daemon.lxc(&["launch", "bb", "steady"]).ok();
        crash(&mut daemon, containers::SLOW, &["steady"]);
    });
}

#[test]
fn definitions_of_instances() {
    isolated("definitions_of_instances", || {
        let mut daemon = with_network();
        daemon.lxc(&["launch", "bb", "steady"]).ok();
        crash(&mut daemon, containers::DEFINITIONS, &["steady"]);
    });
}

#[test]
fn hardware_that_comes_and_goes() {
    isolated("hardware_that_comes_and_goes", || {
        let mut daemon = Daemon::ready("overlay");
        let root = containers::made_up(&daemon.socket());
        std::fs::create_dir_all(&root).unwrap();
        daemon.set_env("WARREN_TEST_HARDWARE", root.to_str().unwrap());
        daemon.kill();
        daemon.start();
        daemon.lxc(&["launch", "bb", "steady"]).ok();
        crash(&mut daemon, containers::HARDWARE, &["steady"]);
    });
}

#[test]
fn what_goes_on_inside() {
    isolated("what_goes_on_inside", || {
        let mut daemon = Daemon::ready("overlay");
        daemon.lxc(&["launch", "bb", "steady"]).ok();
        daemon.lxc(&["init", "bb", "idle"]).ok();
        crash(&mut daemon, containers::INSIDE, &["steady"]);
    });
}

#[test]
fn snapshots_on_overlay() {
    isolated("snapshots_on_overlay", || {
        let mut daemon = Daemon::ready("overlay");
        daemon.lxc(&["launch", "bb", "steady"]).ok();
        crash(&mut daemon, snapshots::SNAPSHOTS, &["steady"]);
    });
}

#[test]
fn snapshots_on_dir() {
    isolated("snapshots_on_dir", || {
        let mut daemon = Daemon::ready("dir");
        daemon.lxc(&["launch", "bb", "steady"]).ok();
        crash(&mut daemon, snapshots::SNAPSHOTS, &["steady"]);
    });
}

#[test]
fn across_pools() {
    isolated("across_pools", || {
        let mut daemon = Daemon::ready("overlay");
        daemon.lxc(&["storage", "create", "q", "dir"]).ok();
        daemon.lxc(&["launch", "bb", "steady"]).ok();
        crash(&mut daemon, across::ACROSS, &["steady"]);
    });
}

#[test]
fn across_pools_to_overlay() {
    isolated("across_pools_to_overlay", || {
        let mut daemon = Daemon::ready("dir");
        daemon.lxc(&["storage", "create", "q", "overlay"]).ok();
        daemon.lxc(&["launch", "bb", "steady"]).ok();
        crash(&mut daemon, across::ACROSS, &["steady"]);
    });
}

#[test]
fn custom_volumes() {
    isolated("custom_volumes", || {
        let mut daemon = Daemon::ready("overlay");
        daemon.lxc(&["storage", "create", "q", "dir"]).ok();
        daemon.lxc(&["launch", "bb", "steady"]).ok();
        crash(&mut daemon, volumes::VOLUMES, &["steady"]);
    });
}

#[test]
fn custom_volumes_on_btrfs() {
    isolated("custom_volumes_on_btrfs", || {
        let mut daemon = Daemon::ready("btrfs");
        daemon.lxc(&["storage", "create", "q", "dir"]).ok();
        daemon.lxc(&["launch", "bb", "steady"]).ok();
        crash(&mut daemon, volumes::VOLUMES, &["steady"]);
    });
}

#[test]
fn across_pools_from_btrfs() {
    isolated("across_pools_from_btrfs", || {
        let mut daemon = Daemon::ready("btrfs");
        daemon.lxc(&["storage", "create", "q", "overlay"]).ok();
        daemon.lxc(&["launch", "bb", "steady"]).ok();
        crash(&mut daemon, across::ACROSS, &["steady"]);
    });
}

#[test]
fn across_pools_to_btrfs() {
    isolated("across_pools_to_btrfs", || {
        let mut daemon = Daemon::ready("overlay");
        daemon.lxc(&["storage", "create", "q", "btrfs", "size=1GiB"]).ok();
        daemon.lxc(&["launch", "bb", "steady"]).ok();
        crash(&mut daemon, across::ACROSS, &["steady"]);
    });
}

#[test]
fn snapshots_on_btrfs() {
    isolated("snapshots_on_btrfs", || {
        let mut daemon = Daemon::ready("btrfs");
        daemon.lxc(&["launch", "bb", "steady"]).ok();
        crash(&mut daemon, snapshots::SNAPSHOTS, &["steady"]);
    });
}

#[test]
fn images_and_profiles() {
    isolated("images_and_profiles", || {
        let mut daemon = Daemon::ready("overlay");
        daemon.busybox_unified();
        crash(&mut daemon, objects::IMAGES, &[]);
    });
}

#[test]
fn published_images() {
    isolated("published_images", || {
        let mut daemon = Daemon::ready("overlay");
        daemon.lxc(&["launch", "bb", "steady"]).ok();
        crash(&mut daemon, publish::PUBLISH, &["steady"]);
    });
}

#[test]
fn images_of_servers() {
    isolated("images_of_servers", || {
        let mut daemon = Daemon::ready("overlay");
        crash(&mut daemon, remotes::REMOTES, &[]);
    });
}

#[test]
fn projects_and_moves_to_them() {
    isolated("projects_and_moves_to_them", || {
        let mut daemon = with_network();
        daemon.lxc(&["launch", "bb", "steady"]).ok();
        crash(&mut daemon, projects::PROJECTS, &["steady"]);
    });
}

#[test]
fn tokens_and_certificates() {
    isolated("tokens_and_certificates", || {
        let mut daemon = Daemon::bare();
        daemon.lxc(&["config", "set", "core.https_address", "127.0.0.1:8443"]).ok();
        crash(&mut daemon, trust::TRUST, &[]);
    });
}

#[test]
fn pools_networks_and_the_server() {
    isolated("pools_networks_and_the_server", || {
        let mut daemon = Daemon::ready("overlay");
        crash(&mut daemon, objects::HOST, &[]);
    });
}
