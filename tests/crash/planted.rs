//! What crashes left in the past, planted: each was found by killing daemons, and each is here without a clock.

use serde_json::{Value, json};

use super::support::scanner::rows;
use super::support::{Daemon, eventually};
use super::{done, isolated, nothing_left, settled, shown, with_network};

/// Changes the rows of a daemon that runs or not.
fn sql(daemon: &Daemon, statement: &str) {
    daemon.verb(&["sql", "global", statement, "--unsafe"]).ok();
}

/// Adds a key to an instance's own configuration.
fn plant_key(daemon: &Daemon, instance: &str, key: &str, value: &str) {
    let change = format!("config = json_set(config, '$.\"{key}\"', '{value}')");
    sql(daemon, &format!("UPDATE instances SET {change} WHERE name = '{instance}'"));
}

/// Has busybox's init power off, from outside.
fn power_off(pid: i64) {
    let init = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    eventually("init is gone", || {
        // One that has just begun does not hear it yet.
        let _ = rustix::process::kill_process(init, rustix::process::Signal::USR2);
        !std::path::Path::new(&format!("/proc/{pid}")).exists()
    });
}

#[test]
fn a_restart_is_finished_whether_its_container_is_down_or_still_up() {
    isolated("planted::a_restart_is_finished_whether_its_container_is_down_or_still_up", || {
        let mut daemon = with_network();
        for name in ["down", "up", "asked"] {
            daemon.lxc(&["launch", "bb", name]).ok();
        }
        // Nothing but the restart itself brings it back.
        daemon.lxc(&["config", "set", "down", "boot.autostart=false"]).ok();
        let pids = ["down", "up", "asked"].map(|name| daemon.instance_pid(name));
        daemon.kill();
        for (name, how) in [("down", "shutdown"), ("up", "kill"), ("asked", "shutdown")] {
            plant_key(&daemon, name, "volatile.last_state.restart", how);
        }
        power_off(pids[0]);
        daemon.start();
        for (name, pid) in ["down", "up", "asked"].iter().zip(pids) {
            eventually("it is another life", || {
                let now = daemon.instance_pid(name);
                now != 0 && now != pid && daemon.status(name) == "Running"
            });
        }
        assert!(rows(&daemon, "SELECT name FROM instances WHERE config LIKE '%restart%'").is_empty());
        nothing_left(&daemon, "after interrupted restarts");
    });
}

#[test]
fn an_ephemeral_instance_that_goes_down_alone_is_deleted() {
    isolated("planted::an_ephemeral_instance_that_goes_down_alone_is_deleted", || {
        let mut daemon = with_network();
        daemon.lxc(&["launch", "bb", "short", "--ephemeral"]).ok();
        daemon.lxc(&["init", "bb", "waiting", "--ephemeral"]).ok();
        let pid = daemon.instance_pid("short");
        daemon.kill();
        power_off(pid);
        daemon.start();
        assert_eq!([daemon.status("short"), daemon.status("waiting")], ["none", "Stopped"]);
        nothing_left(&daemon, "after an ephemeral instance went down");
    });
}

#[test]
fn a_stale_copy_of_its_definition_does_not_make_a_running_container_forgotten() {
    isolated("planted::a_stale_copy_of_its_definition_does_not_make_a_running_container_forgotten", || {
        let mut daemon = with_network();
        daemon.lxc(&["init", "bb", "c1"]).ok();
        let stale = shown(&daemon, "/1.0/instances/c1");
        daemon.lxc(&["start", "c1"]).ok();
        let pid = daemon.instance_pid("c1");
        done(&daemon, "PUT", "/1.0/instances/c1", &stale.to_string());
        daemon.kill();
        daemon.start();
        assert_eq!(daemon.instance_pid("c1"), pid);
        daemon.lxc(&["exec", "c1", "--", "true"]).ok();
        nothing_left(&daemon, "after a stale PUT");
    });
}

#[test]
fn a_name_whose_files_are_still_being_renamed_is_taken() {
    isolated("planted::a_name_whose_files_are_still_being_renamed_is_taken", || {
        let mut daemon = with_network();
        daemon.lxc(&["init", "bb", "old"]).ok();
        // Killed between the row and the files.
        let change = "name = 'new', config = json_set(config, '$.\"volatile.renamed_from\"', 'old')";
        sql(&daemon, &format!("UPDATE instances SET {change} WHERE name = 'old'"));
        daemon.lxc(&["init", "bb", "old"]).refused("already exists");
        daemon.kill();
        daemon.start();
        settled(&daemon);
        daemon.lxc(&["start", "new"]).ok();
        daemon.lxc(&["init", "bb", "old"]).ok();
        nothing_left(&daemon, "after an interrupted rename");
    });
}

#[test]
fn files_that_a_crash_left_anywhere_are_cleared() {
    isolated("planted::files_that_a_crash_left_anywhere_are_cleared", || {
        let mut daemon = with_network();
        daemon.lxc(&["init", "bb", "c1"]).ok();
        let image = shown(&daemon, "/1.0/images/aliases/bb")["target"].as_str().unwrap().to_owned();
        daemon.lxc(&["image", "delete", "bb"]).ok();
        daemon.kill();
        let pool = daemon.state().join("storage-pools/p");
        assert!(pool.join("images").join(&image).join("deleted").exists());
        // The last volume of a deleted image had just been moved away.
        std::fs::rename(pool.join("containers/c1"), pool.join(".trash/0")).unwrap();
        sql(&daemon, "UPDATE instances SET phase = 'deleting' WHERE name = 'c1'");
        // A trial of the kernel, a template, and layers that were about to be mounted.
        std::fs::create_dir_all(daemon.state().join(".probe-99999/target")).unwrap();
        std::fs::write(pool.join(".new/template"), "half").unwrap();
        std::fs::create_dir_all(pool.join(".new/layers/.lower")).unwrap();
        // A pool that had not been made yet, and one that was half gone.
        sql(&daemon, "INSERT INTO pools VALUES ('none', 'creating', 'dir', '', '{}')");
        sql(&daemon, "INSERT INTO pools VALUES ('half', 'deleting', 'dir', '', '{}')");
        std::fs::create_dir_all(daemon.state().join("storage-pools/half/custom")).unwrap();
        daemon.start();
        nothing_left(&daemon, "after crashes everywhere");
        assert_eq!(shown(&daemon, "/1.0/storage-pools"), json!(["/1.0/storage-pools/p"]));
        assert_eq!(shown(&daemon, "/1.0/instances"), Value::Array(Vec::new()));
    });
}

#[test]
fn a_dnsmasq_whose_start_was_interrupted_goes_with_its_network() {
    isolated("planted::a_dnsmasq_whose_start_was_interrupted_goes_with_its_network", || {
        let mut daemon = with_network();
        daemon.kill();
        // It had not written its number when the daemon died.
        std::fs::remove_file(daemon.state().join("networks/wcbr0/dnsmasq.pid")).unwrap();
        sql(&daemon, "UPDATE networks SET phase = 'creating'");
        daemon.start();
        nothing_left(&daemon, "after an interrupted start of dnsmasq");
        done(&daemon, "POST", "/1.0/networks", r#"{"name":"wcbr0","config":{"ipv6.address":"none"}}"#);
    });
}

#[test]
fn a_configuration_of_dnsmasq_that_was_being_checked_goes() {
    isolated("planted::a_configuration_of_dnsmasq_that_was_being_checked_goes", || {
        let mut daemon = with_network();
        daemon.kill();
        for name in ["dnsmasq.raw.new", "dnsmasq.raw.new.tmp"] {
            std::fs::write(daemon.state().join("networks/wcbr0").join(name), "").unwrap();
        }
        daemon.start();
        nothing_left(&daemon, "after an interrupted change of a network");
    });
}

#[test]
fn one_that_was_held_for_a_snapshot_or_a_copy_goes_on() {
    isolated("planted::one_that_was_held_for_a_snapshot_or_a_copy_goes_on", || {
        let mut daemon = Daemon::ready("overlay");
        daemon.lxc(&["launch", "bb", "held"]).ok();
        let pid = daemon.instance_pid("held");
        let file = daemon.cgroup_file("held", "freezer", "freezer.state", "cgroup.freeze");
        let (held, goes_on) = if file.ends_with("freezer.state") { ("FROZEN", "THAWED") } else { ("1", "0") };
        daemon.kill();
        plant_key(&daemon, "held", "volatile.held", "true");
        std::fs::write(&file, held).unwrap();
        eventually("it is held", || std::fs::read_to_string(&file).unwrap().trim() == held);
        daemon.start();
        assert_eq!((daemon.status("held"), daemon.instance_pid("held")), ("Running".to_owned(), pid));
        assert_eq!(std::fs::read_to_string(&file).unwrap().trim(), goes_on);
        nothing_left(&daemon, "after one was held");
    });
}

#[test]
fn a_life_beside_what_is_left_of_an_earlier_one_is_like_any_other() {
    isolated("planted::a_life_beside_what_is_left_of_an_earlier_one_is_like_any_other", || {
        let daemon = Daemon::ready("dir");
        daemon.lxc(&["launch", "bb", "first"]).ok();
        let name = |kind: &str, container: &str| format!("lxc.{kind}.{container}");
        let payload = daemon.cgroup_file("first", "freezer", "", "");
        let top = std::path::Path::new("/sys/fs/cgroup");
        let below = payload.strip_prefix(top).unwrap().parent().unwrap().file_name().unwrap();
        let hierarchies = std::fs::read_dir(top).unwrap().flatten().map(|entry| entry.path());
        let parents = hierarchies.chain([top.to_owned()]).map(|dir| dir.join(below));
        let parents: Vec<_> = parents.filter(|dir| dir.join("cgroup.procs").exists()).collect();
        assert!(!parents.is_empty());
        // What a monitor that does not end holds on to.
        let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        for dir in parents.iter().flat_map(|dir| ["monitor", "payload"].map(|kind| dir.join(name(kind, "c1")))) {
            std::fs::create_dir(&dir).unwrap();
            for file in ["cpuset.cpus", "cpuset.mems"].map(|file| (dir.parent().unwrap().join(file), dir.join(file))) {
                if file.0.exists() {
                    std::fs::copy(file.0, file.1).unwrap();
                }
            }
            std::fs::write(dir.join("cgroup.procs"), other.id().to_string()).unwrap();
        }
        daemon.lxc(&["launch", "bb", "c1"]).ok();
        let file = daemon.cgroup_file("c1", "freezer", "freezer.state", "cgroup.freeze");
        assert!(file.parent().unwrap().ends_with("lxc.payload.c1-1"), "{file:?}");
        // It is held for a snapshot, and devices reach it.
        daemon.lxc(&["snapshot", "c1", "s"]).ok();
        daemon
            .lxc(&["config", "device", "add", "c1", "null2", "unix-char", "source=/dev/null", "path=/dev/null2"])
            .ok();
        daemon.lxc(&["exec", "c1", "--", "sh", "-c", "[ -c /dev/null2 ]"]).ok();
        // A monitor that is killed leaves its groups.
        let init = daemon.instance_pid("c1");
        let stat = std::fs::read_to_string(format!("/proc/{init}/stat")).unwrap();
        let monitor: i32 = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(monitor).unwrap(), rustix::process::Signal::KILL)
            .unwrap();
        eventually("it is down", || daemon.status("c1") == "Stopped");
        let left = || {
            let all = parents.iter().flat_map(|dir| std::fs::read_dir(dir).unwrap().flatten());
            let all = all.map(|entry| entry.file_name().into_string().unwrap());
            all.filter(|name| name.contains(".c1")).collect::<std::collections::BTreeSet<_>>()
        };
        eventually("only what is held is left", || left().iter().all(|name| !name.ends_with("-1")));
        other.kill().unwrap();
        other.wait().unwrap();
        daemon.lxc(&["start", "c1"]).ok();
        daemon.lxc(&["stop", "c1", "--force"]).ok();
        assert_eq!(left(), std::collections::BTreeSet::new());
        nothing_left(&daemon, "after lives beside each other");
    });
}
