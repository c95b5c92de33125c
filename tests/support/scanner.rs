//! The scanner: everything that a daemon has on its host, each thing with an owner in the database, or named as a finding.
//!
//! ```text
//!   rows ──who may have what──>  directories and files of state and pools, mounts, processes, control groups,
//!                                interfaces, rules of nft      ──no owner──>  a finding
//! ```
//! To be used in namespaces of its own (`namespaces::isolated`): there every mount, process and interface is the daemon's.
//! A new verb that leaves something new somewhere adds where it may lie.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use warren::db::sql::{self, Answer};
use warren::state_dir::StateDir;

use super::Daemon;

/// An instance, as far as it owns things.
#[derive(Debug)]
struct Instance {
    pool: String,
    /// It is there with init and monitor.
    up: bool,
    /// Names of its interfaces on the host.
    interfaces: BTreeSet<String>,
}

/// What the rows say must be there, and so may be.
#[derive(Debug)]
struct Model {
    instances: BTreeMap<String, Instance>,
    /// By instance.
    snapshots: BTreeMap<String, BTreeSet<String>>,
    /// Fingerprints of images.
    images: BTreeSet<String>,
    pools: BTreeSet<String>,
    /// Those of them that are on a file of their own.
    on_files: BTreeSet<String>,
    networks: BTreeSet<String>,
    /// Snapshots of custom volumes, by directory of the volume, by pool.
    volumes: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
}

struct Scanner<'a> {
    daemon: &'a Daemon,
    state: PathBuf,
    model: Model,
    findings: Vec<String>,
}

/// Looks at everything once. Empty: every thing has an owner, and what must be there is.
pub fn scan(daemon: &Daemon) -> Vec<String> {
    let mut findings = Vec::new();
    let model = model(daemon, &mut findings);
    let mut scanner = Scanner { daemon, state: daemon.state(), model, findings };
    scanner.directories();
    scanner.pools();
    scanner.networks();
    scanner.mounts();
    scanner.loops();
    scanner.cgroups();
    scanner.interfaces();
    scanner.rules();
    scanner.processes();
    scanner.findings
}

/// The rows of a query, NULL as the empty text.
pub fn rows(daemon: &Daemon, query: &str) -> Vec<Vec<String>> {
    let answers = sql::read(&daemon.state().join("database/global"), query).unwrap();
    match answers.into_iter().next() {
        Some(Answer::Rows { rows, .. }) => {
            rows.into_iter().map(|row| row.into_iter().map(Option::unwrap_or_default).collect()).collect()
        }
        other => panic!("{query}: {other:?}"),
    }
}

fn names(daemon: &Daemon, query: &str) -> BTreeSet<String> {
    rows(daemon, query).into_iter().filter_map(|row| row.into_iter().next()).collect()
}

/// An instance as its files are called.
const KEY: &str = "CASE project WHEN 'default' THEN name ELSE project || '_' || name END";

/// A column as the end of addresses.
fn shown_as(column: &str, table: &str) -> String {
    let project = "CASE project WHEN 'default' THEN '' ELSE '?project=' || project END";
    format!("SELECT {column} || {project} FROM {table}")
}

fn model(daemon: &Daemon, findings: &mut Vec<String>) -> Model {
    for table in ["instances", "snapshots", "images", "pools", "networks", "volumes", "volume_snapshots"] {
        for row in rows(daemon, &format!("SELECT * FROM {table} WHERE phase <> 'ready'")) {
            findings.push(format!("a row of {table} between two states: {row:?}"));
        }
    }
    let mut instances = BTreeMap::new();
    // By the names of their files.
    let of_project = |table: &str| format!("SELECT {KEY}, pool, config, project, name FROM {table}");
    for row in rows(daemon, &of_project("instances")) {
        let config: BTreeMap<String, String> = serde_json::from_str(&row[2]).unwrap();
        let status = daemon.status_in(&row[3], &row[4]);
        let up = matches!(status.as_str(), "Running" | "Frozen");
        if !up && status != "Stopped" {
            findings.push(format!("the instance {} is {status}", row[0]));
        }
        if up != (config.get("volatile.last_state.power").map(String::as_str) == Some("RUNNING")) {
            findings.push(format!("the instance {} is {status}, its row says something else", row[0]));
        }
        for half in
            ["volatile.renamed_from", "volatile.restoring", "volatile.held", "volatile.moving", "volatile.moved_from"]
        {
            if let Some(value) = config.get(half) {
                findings.push(format!("the instance {} still has {half}={value}", row[0]));
            }
        }
        let interfaces = config.iter().filter(|(key, _)| key.ends_with(".host_name") && key.starts_with("volatile."));
        let interfaces: BTreeSet<String> = interfaces.map(|(_, name)| name.clone()).collect();
        if !up && !interfaces.is_empty() {
            findings.push(format!("the instance {} is down and has {interfaces:?}", row[0]));
        }
        instances.insert(row[0].clone(), Instance { pool: row[1].clone(), up, interfaces });
    }
    let lost = "SELECT name FROM aliases WHERE project || target NOT IN (SELECT project || fingerprint FROM images)";
    for alias in rows(daemon, lost) {
        findings.push(format!("the alias {alias:?} of no image"));
    }
    for renamed in rows(daemon, "SELECT name FROM networks WHERE config LIKE '%renamed_from%' OR phase <> 'ready'") {
        findings.push(format!("the network {renamed:?} is half made or half renamed"));
    }
    for forward in rows(daemon, "SELECT listen FROM network_forwards WHERE network NOT IN (SELECT name FROM networks)")
    {
        findings.push(format!("the forward {forward:?} of no network"));
    }
    // What the API shows is what the rows say.
    for (url, query) in [
        ("/1.0/instances?all-projects=true", shown_as("name", "instances").as_str()),
        ("/1.0/images?all-projects=true", shown_as("fingerprint", "images").as_str()),
        ("/1.0/images/aliases?all-projects=true", shown_as("name", "aliases").as_str()),
        ("/1.0/profiles?all-projects=true", shown_as("name", "profiles").as_str()),
        ("/1.0/projects", "SELECT name FROM projects"),
        ("/1.0/storage-pools", "SELECT name FROM pools"),
        ("/1.0/certificates", "SELECT fingerprint FROM certificates"),
        ("/1.0/network-acls?all-projects=true", shown_as("name", "network_acls").as_str()),
        ("/1.0/warnings", "SELECT uuid FROM warnings"),
    ] {
        let (_, list) = daemon.api("GET", url, "");
        let urls = list["metadata"].as_array().unwrap().iter().filter_map(|url| url.as_str()?.rsplit('/').next());
        let (shown, recorded) = (urls.map(str::to_owned).collect::<BTreeSet<_>>(), names(daemon, query));
        if shown != recorded {
            findings.push(format!("{url} shows {shown:?}, the rows say {recorded:?}"));
        }
    }
    let mut volumes: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for row in rows(daemon, "SELECT pool, project, name, renamed_from FROM volumes") {
        if !row[3].is_empty() {
            findings.push(format!("the volume {} is half renamed", row[2]));
        }
        volumes.entry(row[0].clone()).or_default().insert(format!("{}_{}", row[1], row[2]), BTreeSet::new());
    }
    for row in rows(daemon, "SELECT pool, project, volume, name, renamed_from FROM volume_snapshots") {
        if !row[4].is_empty() {
            findings.push(format!("the snapshot {} of the volume {} is half renamed", row[3], row[2]));
        }
        let of = volumes.entry(row[0].clone()).or_default().entry(format!("{}_{}", row[1], row[2]));
        of.or_default().insert(row[3].clone());
    }
    let mut snapshots: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in rows(daemon, &format!("SELECT {}, name FROM snapshots", KEY.replace("name", "instance"))) {
        snapshots.entry(row[0].clone()).or_default().insert(row[1].clone());
    }
    Model {
        instances,
        snapshots,
        images: names(daemon, "SELECT fingerprint FROM images"),
        pools: names(daemon, "SELECT name FROM pools"),
        on_files: names(daemon, "SELECT name FROM pools WHERE config LIKE '%/disks/%'"),
        // Of others nothing is on the host.
        networks: names(daemon, "SELECT name FROM networks WHERE kind = 'bridge'"),
        volumes,
    }
}

/// The names in a directory; none when there is none.
fn entries(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

impl Scanner<'_> {
    fn finding(&mut self, finding: String) {
        self.findings.push(finding);
    }

    /// Names what is in `dir` beside `may`, and what of `must` is not.
    fn holds(&mut self, dir: &Path, must: impl IntoIterator<Item = String>, may: &[&str]) {
        let found = entries(dir);
        let must: BTreeSet<String> = must.into_iter().collect();
        for extra in found.iter().filter(|name| !must.contains(*name) && !may.contains(&name.as_str())) {
            self.findings.push(format!("without an owner: {}", dir.join(extra).display()));
        }
        for missing in must.difference(&found) {
            self.findings.push(format!("missing: {}", dir.join(missing).display()));
        }
    }

    fn up(&self) -> Vec<String> {
        self.model.instances.iter().filter(|(_, instance)| instance.up).map(|(name, _)| name.clone()).collect()
    }

    fn directories(&mut self) {
        let state = self.state.clone();
        let must = "backups cache containers database devices devlxd disks images logs networks run security server.crt server.key \
                    snapshots storage-pools unix.socket";
        self.holds(&state, must.split_whitespace().map(str::to_owned), &[]);
        self.holds(&state.join("cache"), ["streams".to_owned()], &[]);
        for list in entries(&state.join("cache/streams")) {
            // Lists of image servers, by the hashes of their addresses. Half-written ones go with the next that is kept.
            if list.len() != 64 && !list.starts_with(".new-") {
                self.finding(format!("{list} among the lists of image servers"));
            }
        }
        for empty in ["backups", "run/spool"] {
            self.holds(&state.join(empty), [], &[]);
        }
        // What is plugged into a running one, and its nodes.
        let up = self.up();
        self.holds(&state.join("devices"), [], &up.iter().map(String::as_str).collect::<Vec<_>>());
        for name in &up {
            let dir = state.join("devices").join(name);
            let nodes: Vec<String> = entries(&dir).into_iter().filter(|file| file.starts_with("unix.")).collect();
            self.holds(&dir, [], &nodes.iter().map(String::as_str).chain(["plugged.json"]).collect::<Vec<_>>());
        }
        self.holds(
            &state.join("run"),
            ["call.socket", "hook.socket", "lxc", "nics", "spool"].map(str::to_owned),
            &["probed"],
        );
        let with_nics =
            self.model.instances.iter().filter(|(_, instance)| instance.up && !instance.interfaces.is_empty());
        let journals: Vec<String> = with_nics.map(|(name, _)| format!("{name}.json")).collect();
        self.holds(&state.join("run/nics"), journals, &[]);
        self.holds(
            &state.join("database/global"),
            ["db.sqlite".to_owned()],
            &["db.sqlite-wal", "db.sqlite-shm", "db.sqlite.lock"],
        );
        let instances: Vec<String> = self.model.instances.keys().cloned().collect();
        let known: Vec<&str> = instances.iter().map(String::as_str).collect();
        self.holds(&state.join("run/lxc"), [], &known);
        self.holds(&state.join("logs"), [], &known);
        let security = state.join("security");
        self.holds(&security, ["apparmor", "seccomp"].map(str::to_owned), &[]);
        self.holds(&security.join("seccomp"), [], &known);
        // A stopped one keeps its profile, and what was compiled of it for each kernel that there was.
        let profiles: Vec<String> = instances.iter().map(|name| format!("lxd-{name}")).collect();
        let profiles: Vec<&str> = profiles.iter().map(String::as_str).chain([".features"]).collect();
        self.holds(&security.join("apparmor"), ["cache", "profiles"].map(str::to_owned), &[]);
        self.holds(&security.join("apparmor/profiles"), [], &profiles);
        for compiled in entries(&security.join("apparmor/cache")) {
            self.holds(&security.join("apparmor/cache").join(compiled), [], &profiles);
        }
        for name in &instances {
            let logs = state.join("logs").join(name);
            let recordings = entries(&logs).into_iter().filter(|name| name.starts_with("exec_"));
            self.holds(&logs, recordings, &["lxc.conf", "lxc.log", "console.log", "console.log.1"]);
            let link = state.join("containers").join(name);
            if std::fs::canonicalize(&link).ok().is_none_or(|to| !to.is_dir()) {
                self.finding(format!("the link {} leads nowhere", link.display()));
            }
        }
        self.holds(&state.join("containers"), instances, &[]);
        let with: Vec<String> = self.model.snapshots.keys().cloned().collect();
        for name in &with {
            let link = state.join("snapshots").join(name);
            if std::fs::canonicalize(&link).ok().is_none_or(|to| !to.is_dir()) {
                self.finding(format!("the link {} leads nowhere", link.display()));
            }
        }
        self.holds(&state.join("snapshots"), with, &[]);
        let images = state.join("images");
        let beside = |name: &String| [format!("{name}.rootfs"), format!("{name}.parts")];
        let roots: Vec<String> = self.model.images.iter().flat_map(beside).collect();
        let roots: Vec<&str> = roots.iter().map(String::as_str).collect();
        self.holds(&images, self.model.images.clone(), &roots);
    }

    fn pools(&mut self) {
        let pools = self.state.join("storage-pools");
        self.holds(&pools, self.model.pools.clone(), &[]);
        let files: Vec<String> = self.model.on_files.iter().map(|name| format!("{name}.img")).collect();
        self.holds(&self.state.join("disks"), files, &[]);
        for name in self.model.pools.clone() {
            let place = pools.join(&name);
            let directories = "containers containers-snapshots custom custom-snapshots images .new .trash";
            self.holds(&place, directories.split_whitespace().map(str::to_owned), &["lost+found", "layers"]);
            for empty in [".new", ".trash"] {
                self.holds(&place.join(empty), [], &[]);
            }
            let custom = self.model.volumes.get(&name).cloned().unwrap_or_default();
            self.holds(&place.join("custom"), custom.keys().cloned().collect::<Vec<_>>(), &[]);
            let with: Vec<String> = custom
                .iter()
                .filter(|(_, snapshots)| !snapshots.is_empty())
                .map(|(volume, _)| volume.clone())
                .collect();
            self.holds(&place.join("custom-snapshots"), with, &[]);
            for (volume, snapshots) in custom.into_iter().filter(|(_, snapshots)| !snapshots.is_empty()) {
                self.holds(&place.join("custom-snapshots").join(volume), snapshots, &[]);
            }
            let here = self.model.instances.iter().filter(|(_, instance)| instance.pool == name);
            let here: Vec<String> = here.map(|(name, _)| name.clone()).collect();
            self.holds(&place.join("containers"), here.clone(), &[]);
            let mut volumes: Vec<_> = here.iter().map(|name| place.join("containers").join(name)).collect();
            let snapshots = place.join("containers-snapshots");
            let with = here.iter().filter(|name| self.model.snapshots.contains_key(*name)).cloned().collect::<Vec<_>>();
            self.holds(&snapshots, with.clone(), &[]);
            for name in with {
                let of = snapshots.join(&name);
                let wanted = self.model.snapshots.get(&name).cloned().unwrap_or_default();
                self.holds(&of, wanted.clone(), &[]);
                volumes.extend(wanted.iter().map(|snapshot| of.join(snapshot)));
            }
            let mut layers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            let mut lowers = BTreeSet::new();
            for volume in volumes {
                let may = ["lower", "volume.json", "metadata.yaml", "templates", "nested", "restored", "same", "moves"];
                self.holds(&volume, ["rootfs".to_owned()], &may);
                for template in entries(&volume.join("templates")).iter().filter(|name| name.starts_with('.')) {
                    self.finding(format!("half written: {}", volume.join("templates").join(template).display()));
                }
                let record = std::fs::read(volume.join("volume.json")).unwrap_or_default();
                let record: serde_json::Value = serde_json::from_slice(&record).unwrap_or_default();
                lowers.extend(record["lower"].as_str().map(str::to_owned));
                let id = record["id"].as_str().unwrap_or_default();
                for layer in record["layers"].as_array().into_iter().flatten().chain([&record["upper"]]) {
                    if let Some(layer) = layer.as_str() {
                        layers.entry(layer.to_owned()).or_default().insert(id.to_owned());
                    }
                }
            }
            if place.join("layers").exists() {
                self.holds(&place.join("layers"), layers.keys().cloned().collect::<Vec<_>>(), &[]);
            }
            for (layer, users) in layers {
                let layer = place.join("layers").join(layer);
                self.holds(&layer, ["fs".to_owned(), "users".to_owned()], &["work"]);
                self.holds(&layer.join("users"), users, &[]);
            }
            let images = place.join("images");
            for image in entries(&images) {
                let dir = images.join(&image);
                let (complete, deleted) = (dir.join("complete").exists(), dir.join("deleted").exists());
                // Half an image is cleared by its next use or with the image; one that is gone lasts as long as its volumes.
                let owned = self.model.images.contains(&image) || (lowers.contains(&image) && deleted);
                if !owned || (lowers.contains(&image) && !complete) {
                    self.finding(format!("without an owner: {}", dir.display()));
                }
            }
            for missing in lowers.iter().filter(|lower| !images.join(lower).exists()) {
                self.finding(format!("missing: {}", images.join(missing).display()));
            }
        }
    }

    fn networks(&mut self) {
        let networks = self.state.join("networks");
        self.holds(&networks, self.model.networks.clone(), &[]);
        let up = self.up();
        for name in self.model.networks.clone() {
            let dir = networks.join(name);
            let may = ["dnsmasq.leases", "dnsmasq.names", "dnsmasq.pid", "dnsmasq.raw", "external", "assisted"];
            self.holds(&dir, ["dnsmasq.hosts".to_owned()], &may);
            for host in entries(&dir.join("dnsmasq.hosts")) {
                if host.rsplit_once('.').is_none_or(|(instance, _)| !up.iter().any(|name| name == instance)) {
                    self.finding(format!("without an owner: {}", dir.join("dnsmasq.hosts").join(host).display()));
                }
            }
        }
    }

    fn mounts(&mut self) {
        let pools = self.state.join("storage-pools");
        let root = self.daemon.root.to_str().unwrap();
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        // proc_pid_mountinfo(5): the fifth field is the mount point.
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).filter(|point| point.contains(root));
        let mut seen = BTreeSet::new();
        for point in points.map(PathBuf::from) {
            let owned = match point
                .strip_prefix(&pools)
                .map(|below| below.iter().filter_map(|part| part.to_str()).collect::<Vec<_>>())
                .as_deref()
            {
                Ok([_, kind, name, rootfs]) if *rootfs == "rootfs" => match *kind {
                    "images" => pools.join(&point).exists(),
                    "containers" => self.model.instances.get(*name).is_some_and(|instance| instance.up),
                    _ => false,
                },
                // Its own file system.
                Ok([pool]) => self.model.on_files.contains(*pool),
                // The place for Docker: where a volume has one, it goes with the root.
                Ok([pool, kind, name, rootfs, "var", "lib", "docker"])
                    if (*kind, *rootfs) == ("containers", "rootfs") =>
                {
                    let place = [*pool, *kind, *name, "nested", "docker"].iter().collect::<PathBuf>();
                    self.model.instances.get(*name).is_some_and(|instance| instance.up) && pools.join(place).is_dir()
                }
                _ => false,
            };
            if !owned {
                self.finding(format!("without an owner: the mount {}", point.display()));
            }
            if !seen.insert(point.clone()) {
                self.finding(format!("mounted twice: {}", point.display()));
            }
        }
    }

    /// Devices of files of the daemon's: those of pools, and of the images that are mounted.
    fn loops(&mut self) {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        for device in entries(Path::new("/sys/class/block")) {
            let file = Path::new("/sys/class/block").join(&device).join("loop/backing_file");
            let file = std::fs::read_to_string(file).unwrap_or_default();
            if file.contains(self.daemon.root.to_str().unwrap()) && !table.contains(&format!(" /dev/{device} ")) {
                self.finding(format!("without an owner: the loop device {device} of {}", file.trim()));
            }
        }
    }

    fn cgroups(&mut self) {
        let group = StateDir::new(self.state.clone()).cgroup();
        let up = self.up();
        for hierarchy in entries(Path::new("/sys/fs/cgroup")) {
            let dir = Path::new("/sys/fs/cgroup").join(hierarchy).join(&group);
            let may: Vec<String> =
                up.iter().flat_map(|name| [format!("lxc.monitor.{name}"), format!("lxc.payload.{name}")]).collect();
            for found in entries(&dir).into_iter().filter(|name| name.starts_with("lxc.") && name != "lxc.pivot") {
                // liblxc adds a number where the group of an earlier life was still there.
                let lives = |name: &String| {
                    let number = found.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
                    let procs = std::fs::read_to_string(dir.join(&found).join("cgroup.procs"));
                    number.is_some_and(|number| number.parse::<u16>().is_ok()) && procs.is_ok_and(|all| !all.is_empty())
                };
                if !may.contains(&found) && !may.iter().any(lives) {
                    self.finding(format!("without an owner: the control group {}", dir.join(found).display()));
                }
            }
        }
    }

    fn interfaces(&mut self) {
        let found = entries(Path::new("/sys/class/net"));
        let instances = self.model.instances.values();
        let must: BTreeSet<String> = instances
            .flat_map(|i| &i.interfaces)
            .chain(&self.model.networks)
            .chain([&"lo".to_owned()])
            .cloned()
            .collect();
        for name in found.symmetric_difference(&must) {
            let what = if found.contains(name) { "without an owner" } else { "missing" };
            self.finding(format!("{what}: the interface {name}"));
        }
    }

    fn rules(&mut self) {
        let output = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let chains = text.lines().filter_map(|line| line.trim().strip_prefix("chain ")?.strip_suffix(" {"));
        let mut owners = BTreeSet::new();
        for chain in chains {
            let network = chain.split_once('.').map(|(_, network)| network.to_owned());
            match network {
                Some(network) if self.model.networks.contains(&network) => drop(owners.insert(network)),
                _ => self.findings.push(format!("without an owner: the chain {chain}")),
            }
        }
        if owners.is_empty() && text.contains("table inet warren") {
            self.finding("without an owner: the empty table of nft".to_owned());
        }
    }

    /// Every process but this one and its namespace's first.
    fn processes(&mut self) {
        let (daemon, up) = (self.daemon.pid(), self.up());
        let group = StateDir::new(self.state.clone()).cgroup();
        let mut dnsmasq = BTreeSet::new();
        for pid in entries(Path::new("/proc")).iter().filter_map(|name| name.parse::<u32>().ok()) {
            let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let text = |name: &str| String::from_utf8_lossy(&read(name)).replace('\0', " ").trim().to_owned();
            // proc_pid_stat(5): state and parent follow the name in parentheses.
            let stat = text("stat");
            let mut fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
            let (state, parent) = (fields.next().unwrap_or("Z"), fields.next().unwrap_or("0"));
            if pid == 1 || pid == std::process::id() || pid == daemon || matches!(state, "Z" | "X" | "") {
                continue;
            }
            let (line, groups) = (text("cmdline"), text("cgroup"));
            let monitor = line.strip_prefix("[lxc monitor] ").and_then(|rest| rest.rsplit(' ').next());
            let inside = |name: &String| groups.contains(&format!("/{group}/lxc.payload.{name}"));
            let network = self
                .model
                .networks
                .iter()
                .find(|name| line.contains(&format!("--conf-file={}/networks/{name}/", self.state.display())));
            let owned = if let Some(name) = monitor {
                up.iter().any(|up| up == name)
            } else if let Some(network) = network.cloned() {
                dnsmasq.insert(network)
            } else {
                up.iter().any(inside) || parent == daemon.to_string()
            };
            if !owned {
                self.finding(format!("without an owner: process {pid} of {parent}: {line:?} in {groups:?}"));
            }
        }
        for network in self.model.networks.clone().difference(&dnsmasq) {
            let raw = self.state.join("networks").join(network).join("dnsmasq.pid");
            if raw.exists() {
                self.finding(format!("missing: the dnsmasq of {network}"));
            }
        }
    }
}
