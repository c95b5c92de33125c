//! `/1.0/metrics`: figures of running instances and of the daemon, as text for Prometheus. Names and labels are LXD's.
//!
//! All instances are read in one pass, which is good for [`FRESH`]; one pass at a time. File systems are looked at beside it:
//! one that does not answer costs [`PATIENCE`] and its own figures.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use tokio::task::JoinHandle;

use super::app::App;
use super::call::{Call, blocking, to_the_end};
use super::entry::Body;
use super::error::Error;
use super::response::Response;
use crate::db::WarningStatus;
use crate::instance::{FileSystem, Reading, file_systems, readings};
use crate::names::InstanceKey;
use crate::sys::cgroup::figures::{DiskFigures, MemoryFigures};
use crate::sys::netlink::Counters;
use crate::sys::space::Space;

/// How long a reading is good for; LXD's own time.
const FRESH: Duration = Duration::from_secs(8);

/// File systems are waited for so long.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a pass found.
#[derive(Default)]
struct Pass {
    readings: Vec<Reading>,
    file_systems: Vec<FileSystem>,
}

/// The last pass.
#[derive(Default)]
struct Last {
    pass: Option<(Instant, Arc<Pass>)>,
    /// A look at the file systems that has not come back: there is no other meanwhile.
    looking: Option<JoinHandle<Vec<FileSystem>>>,
}

/// The last reading.
pub struct Metrics {
    last: tokio::sync::Mutex<Last>,
    started: Instant,
}

impl Default for Metrics {
    /// Of a daemon that starts now.
    fn default() -> Self {
        Self { last: tokio::sync::Mutex::default(), started: Instant::now() }
    }
}

impl Metrics {
    async fn pass(&self, app: &App) -> Result<Arc<Pass>, Error> {
        // Held while it is read: who comes meanwhile gets the same.
        let mut last = self.last.lock().await;
        if let Some((_, found)) = last.pass.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(Arc::clone(found));
        }
        let model = app.db.model();
        let snapshots = model.instances.keys().map(|key| (key.clone(), app.instances.snapshot(key)));
        let up = snapshots.filter(|(_, snapshot)| snapshot.status.is_up());
        let running: Vec<_> = up.map(|(key, snapshot)| (key, snapshot.pid)).collect();
        let keys: Vec<InstanceKey> = running.iter().map(|(key, _)| key.clone()).collect();
        let looking = last.looking.take().filter(|old| !old.is_finished()).unwrap_or_else(|| {
            let (model, context) = (Arc::clone(&model), Arc::clone(app.instances.context()));
            tokio::task::spawn_blocking(move || file_systems(&model, &context.pools, &keys))
        });
        let readings = blocking(move || Ok::<_, Error>(readings(&running))).await?;
        let file_systems = last.looked(looking).await;
        let found = Arc::new(Pass { readings, file_systems });
        last.pass = Some((Instant::now(), Arc::clone(&found)));
        Ok(found)
    }
}

impl Last {
    /// What the look at the file systems found, if it comes back in time; else it is kept.
    async fn looked(&mut self, mut looking: JoinHandle<Vec<FileSystem>>) -> Vec<FileSystem> {
        match tokio::time::timeout(PATIENCE, &mut looking).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::error!(%error, "metrics are told without file systems");
                Vec::new()
            }
            Err(_) => {
                tracing::warn!("metrics are told without file systems: one of them does not answer");
                self.looking = Some(looking);
                Vec::new()
            }
        }
    }
}

/// `GET /1.0/metrics`, of all projects or of `?project=`; what concerns the whole daemon only without it.
pub async fn get(call: Call) -> Result<Response, Error> {
    let project = if call.query("project").is_some() { Some(call.project()?) } else { None };
    let app = Arc::clone(&call.app);
    // Whoever comes and goes begins no second pass.
    let found = to_the_end(async move { app.metrics.pass(&app).await }).await?;
    let is_asked = |key: &InstanceKey| {
        call.trust.reaches(&key.project) && project.as_ref().is_none_or(|project| key.project == *project)
    };
    let wanted: Vec<&Reading> = found.readings.iter().filter(|one| is_asked(&one.key)).collect();
    let mut text = render(&wanted, &devices());
    render_file_systems(&mut text, found.file_systems.iter().filter(|one| is_asked(&one.key)));
    if project.is_none() && call.trust.sees_all() {
        let warnings = &call.app.db.model().warnings;
        let new = warnings.values().filter(|warning| warning.status == WarningStatus::New).count();
        let uptime = call.app.metrics.started.elapsed().as_secs();
        gauge(&mut text, "lxd_operations_total", "Operations that are running.", call.app.ops.running());
        gauge(&mut text, "lxd_uptime_seconds", "Seconds since the daemon was started.", uptime);
        gauge(&mut text, "lxd_warnings_total", "Warnings that nobody has acknowledged.", new);
    }
    text.push_str("# EOF\n");
    let mut response = http::Response::new(Body::full(Bytes::from(text)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

/// Names of block devices by `major:minor` (proc_diskstats(5)).
fn devices() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string("/proc/diskstats").unwrap_or_default();
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        Some((format!("{}:{}", fields.next()?, fields.next()?), fields.next()?.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

fn heading(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a text does not fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn gauge(text: &mut String, name: &str, help: &str, value: impl std::fmt::Display) {
    heading(text, name, "gauge", help);
    let _ = writeln!(text, "{name} {value}");
}

/// A value of a label: what would end it is escaped.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn sample(text: &mut String, name: &str, own: &str, one: &Reading, value: impl std::fmt::Display) {
    let (instance, project) = (&one.key.name, &one.key.project);
    let _ = writeln!(text, "{name}{{{own}name=\"{instance}\",project=\"{project}\",type=\"container\"}} {value}");
}

type Of<T> = fn(&T) -> u64;

const DISKS: &[(&str, &str, Of<DiskFigures>)] = &[
    ("lxd_disk_read_bytes_total", "Bytes read from a block device.", |d| d.read_bytes),
    ("lxd_disk_reads_completed_total", "Reads of a block device.", |d| d.reads),
    ("lxd_disk_written_bytes_total", "Bytes written to a block device.", |d| d.written_bytes),
    ("lxd_disk_writes_completed_total", "Writes to a block device.", |d| d.writes),
];

const MEMORY: &[(&str, &str, Of<MemoryFigures>)] = &[
    ("lxd_memory_Active_anon_bytes", "Anonymous memory in recent use.", |m| m.active_anon),
    ("lxd_memory_Active_file_bytes", "Memory of files in recent use.", |m| m.active_file),
    ("lxd_memory_Active_bytes", "Memory in recent use.", |m| m.active_anon.saturating_add(m.active_file)),
    ("lxd_memory_Cached_bytes", "Memory that caches files.", |m| m.cached),
    ("lxd_memory_Dirty_bytes", "Memory that is to be written to disks.", |m| m.dirty),
    ("lxd_memory_Inactive_anon_bytes", "Anonymous memory not in recent use.", |m| m.inactive_anon),
    ("lxd_memory_Inactive_file_bytes", "Memory of files not in recent use.", |m| m.inactive_file),
    ("lxd_memory_Inactive_bytes", "Memory not in recent use.", |m| m.inactive_anon.saturating_add(m.inactive_file)),
    ("lxd_memory_Mapped_bytes", "Memory of files that are mapped.", |m| m.mapped),
    ("lxd_memory_MemAvailable_bytes", "Memory that can be had without swapping.", |m| {
        m.total.saturating_sub(m.usage.saturating_sub(m.cached))
    }),
    ("lxd_memory_MemFree_bytes", "Memory that is not used.", |m| m.total.saturating_sub(m.usage)),
    ("lxd_memory_MemTotal_bytes", "Memory that may be used.", |m| m.total),
    ("lxd_memory_RSS_bytes", "Anonymous memory.", |m| m.rss),
    ("lxd_memory_Shmem_bytes", "Memory of file systems in memory.", |m| m.shmem),
    ("lxd_memory_Swap_bytes", "Memory that is swapped out.", |m| m.swap),
    ("lxd_memory_Unevictable_bytes", "Memory that must stay.", |m| m.unevictable),
    ("lxd_memory_Writeback_bytes", "Memory that is being written to disks.", |m| m.writeback),
];

const NETWORK: &[(&str, &str, Of<Counters>)] = &[
    ("lxd_network_receive_bytes_total", "Bytes received by an interface.", |c| c.rx_bytes),
    ("lxd_network_receive_drop_total", "Received packets that were dropped.", |c| c.rx_dropped),
    ("lxd_network_receive_errs_total", "Errors of receiving.", |c| c.rx_errors),
    ("lxd_network_receive_packets_total", "Packets received by an interface.", |c| c.rx_packets),
    ("lxd_network_transmit_bytes_total", "Bytes sent by an interface.", |c| c.tx_bytes),
    ("lxd_network_transmit_drop_total", "Packets dropped instead of sent.", |c| c.tx_dropped),
    ("lxd_network_transmit_errs_total", "Errors of sending.", |c| c.tx_errors),
    ("lxd_network_transmit_packets_total", "Packets sent by an interface.", |c| c.tx_packets),
];

const FILE_SYSTEMS: &[(&str, &str, Of<Space>)] = &[
    ("lxd_filesystem_avail_bytes", "Room of a file system that may be written.", |s| s.free),
    ("lxd_filesystem_free_bytes", "Room of a file system that is not used, root's reserve with it.", |s| s.unused),
    ("lxd_filesystem_size_bytes", "Room of a file system in all.", |s| s.total),
];

/// As LXD has it, these have no label `type`.
fn render_file_systems<'a>(text: &mut String, all: impl Iterator<Item = &'a FileSystem> + Clone) {
    if all.clone().next().is_none() {
        return;
    }
    for (name, help, of) in FILE_SYSTEMS {
        heading(text, name, "gauge", help);
        for one in all.clone() {
            let (source, kind, path) = (escaped(&one.source), escaped(&one.space.file_system), escaped(&one.path));
            let (instance, project, value) = (&one.key.name, &one.key.project, of(&one.space));
            let _ = writeln!(
                text,
                "{name}{{device=\"{source}\",fstype=\"{kind}\",mountpoint=\"{path}\",name=\"{instance}\",project=\"{project}\"}} {value}"
            );
        }
    }
}

/// Nanoseconds as seconds.
fn seconds(nanoseconds: u64) -> String {
    format!("{}.{:09}", nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000)
}

/// All of these instances, a kind of figure after the other.
fn render(all: &[&Reading], devices: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    if all.is_empty() {
        return text;
    }
    let name = "lxd_cpu_seconds_total";
    heading(&mut text, name, "counter", "Seconds of processor time.");
    for one in all {
        for cpu in &one.figures.cpus {
            for (mode, time) in [("system", cpu.system), ("user", cpu.user)] {
                let own = format!("cpu=\"{}\",mode=\"{mode}\",", cpu.cpu);
                sample(&mut text, name, &own, one, seconds(time));
            }
        }
    }
    for (name, help, of) in DISKS {
        heading(&mut text, name, "counter", help);
        for one in all {
            for (number, disk) in &one.figures.disks {
                let own = format!("device=\"{}\",", escaped(devices.get(number).unwrap_or(number)));
                sample(&mut text, name, &own, one, of(disk));
            }
        }
    }
    for (name, help, of) in MEMORY {
        heading(&mut text, name, "gauge", help);
        for one in all {
            if let Some(memory) = &one.figures.memory {
                sample(&mut text, name, "", one, of(memory));
            }
        }
    }
    for (name, help, of) in NETWORK {
        heading(&mut text, name, "counter", help);
        for one in all {
            for (interface, counters) in &one.network {
                sample(&mut text, name, &format!("device=\"{}\",", escaped(interface)), one, of(counters));
            }
        }
    }
    let name = "lxd_procs_total";
    heading(&mut text, name, "gauge", "Processes and threads.");
    for one in all {
        if let Some(processes) = one.figures.processes {
            sample(&mut text, name, "", one, processes);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_break_out() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
        assert_eq!(seconds(1_500_000_000), "1.500000000");
    }
}
