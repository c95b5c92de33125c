//! Proxies of a running container: a process for each, or rules of the firewall.
//!
//! `devices/<instance>/proxies.json` says which there are, with the process of each, known again by its number and its
//! start. A process serves only after it stands there, and stands there until it has ended: a daemon that comes after a
//! crash finds them all, keeps those that the database wants and ends the others.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::devices::{failed, make};
use super::error::Error;
use super::inside::Inside;
use super::plug::refuse;
use super::{Context, blocking};
use crate::api::wire::{Config, Devices};
use crate::device::{Address, Device, Protocol, Proxy};
use crate::helper::proxy::{self, Endpoint, ProxyPlan, Side, SocketFile};
use crate::names::{DeviceName, InstanceKey};
use crate::network::{self, Forward};
use crate::profile::Expanded;
use crate::sys::process;

/// The file of [`Record`].
pub(super) const RECORD: &str = "proxies.json";
/// It, while it is written.
const NEW: &str = ".proxies.json";

/// A killed process ends within this time.
const SETTLE: Duration = Duration::from_secs(10);

/// One that runs, or may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// What it was made of.
    config: Config,
    /// Where the firewall leads it, where it does; else it is a process.
    #[serde(default)]
    nat: Option<IpAddr>,
    /// Its number and its start, in ticks since the host's.
    #[serde(default)]
    process: Option<(i32, u64)>,
    /// The socket file that it has made.
    #[serde(default)]
    file: Option<SocketFile>,
}

type Record = BTreeMap<String, Entry>;

/// The start of a process (`starttime` in proc_pid_stat(5)).
fn start_of(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything; what follows the last parenthesis is the third field.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The process, if it is still that one and has not ended.
fn alive((pid, start): (i32, u64)) -> Option<OwnedFd> {
    // The pidfd first: then the start is that of the process it stands for.
    let pidfd = process::pidfd_open(pid).ok()?;
    (start_of(pid) == Some(start) && !process::ended(&pidfd, Duration::ZERO)).then_some(pidfd)
}

fn parse(name: &str, config: &Config) -> Result<Option<(DeviceName, Proxy)>, Error> {
    if config.get("type").map(String::as_str) != Some("proxy") {
        return Ok(None);
    }
    let name = DeviceName::new(name)?;
    match Device::parse(&name, config)? {
        Device::Proxy(proxy) => Ok(Some((name, *proxy))),
        _ => Ok(None),
    }
}

/// The address of the instance that `nat` leads to.
fn nat_target(device: &DeviceName, proxy: &Proxy, devices: &Devices) -> Result<IpAddr, Error> {
    let Some(wanted) = proxy.connect.sockets().next().map(|socket| socket.ip()) else {
        return Err(refuse(device, "nat needs an IP address in \"connect\""));
    };
    let property = if wanted.is_ipv4() { "ipv4.address" } else { "ipv6.address" };
    let nics = devices.values().filter(|device| {
        device.get("type").is_some_and(|kind| kind == "nic")
            && (device.contains_key("network") || device.get("nictype").is_some_and(|kind| kind == "bridged"))
    });
    let addresses: Vec<IpAddr> = nics.filter_map(|nic| nic.get(property)?.parse().ok()).collect();
    let found = if wanted.is_unspecified() { addresses.first() } else { addresses.iter().find(|ip| **ip == wanted) };
    found.copied().ok_or_else(|| {
        let which = if wanted.is_unspecified() { "an address".to_owned() } else { format!("the address {wanted}") };
        refuse(device, format!("nat=true needs a bridged nic of the instance with {which}: set {property}= of the nic"))
    })
}

fn endpoints(address: &Address) -> Vec<Endpoint> {
    match address {
        Address::Unix(path) => vec![Endpoint::Unix(path.clone())],
        Address::Ip { protocol: Protocol::Tcp, .. } => address.sockets().map(Endpoint::Tcp).collect(),
        Address::Ip { protocol: Protocol::Udp, .. } => address.sockets().map(Endpoint::Udp).collect(),
    }
}

fn forward(proxy: &Proxy, to: IpAddr) -> Option<Forward> {
    let Address::Ip { protocol, ip, ports } = &proxy.listen else { return None };
    let targets: Vec<u16> = proxy.connect.sockets().map(|socket| socket.port()).collect();
    let target = |index: usize| targets.get(index).or(targets.first()).copied();
    let ports = ports.iter().enumerate();
    Some(Forward {
        protocol: if *protocol == Protocol::Tcp { "tcp" } else { "udp" },
        listen: *ip,
        ports: ports.filter_map(|(index, port)| Some((*port, SocketAddr::new(to, target(index)?)))).collect(),
    })
}

/// A container that runs. All of it blocks.
#[derive(Clone)]
struct Running {
    container: String,
    dir: PathBuf,
    logs: PathBuf,
    /// The firewall's table of this daemon.
    table: String,
    /// Of init; none when it is down.
    pid: Option<i32>,
}

impl Running {
    fn new(context: &Context, container: &str, pid: Option<i32>) -> Self {
        Self {
            container: container.to_owned(),
            dir: context.dir.devices(container),
            logs: context.dir.logs(container),
            table: format!("proxy.{}", context.dir.cgroup()),
            pid,
        }
    }

    fn log(&self, device: &str) -> PathBuf {
        self.logs.join(format!("proxy.{device}.log"))
    }

    fn owner(&self, device: &str) -> String {
        format!("{}/{device}", self.container)
    }

    fn read(&self) -> Record {
        // Nothing was started where there is none.
        fs::read(self.dir.join(RECORD)).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    fn write(&self, record: &Record) -> Result<(), Error> {
        let path = self.dir.join(RECORD);
        if record.is_empty() {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", path)(error)),
                Ok(()) | Err(_) => {}
            }
            // It stays when there is more in it.
            let _ = fs::remove_dir(&self.dir);
            return Ok(());
        }
        make(&self.dir)?;
        let new = self.dir.join(NEW);
        let text = serde_json::to_vec(record).unwrap_or_default();
        fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).map_err(failed("write", path))
    }

    /// Starts one, and writes it down.
    fn begin(&self, record: &mut Record, device: &DeviceName, config: &Config, devices: &Devices) -> Result<(), Error> {
        let Some((_, proxy)) = parse(device.as_str(), config)? else { return Ok(()) };
        let name = device.to_string();
        let mut entry = Entry { config: config.clone(), nat: None, process: None, file: None };
        if proxy.nat {
            let to = nat_target(device, &proxy, devices)?;
            entry.nat = Some(to);
            record.insert(name.clone(), entry);
            self.write(record)?;
            let Some(forward) = forward(&proxy, to) else { return Ok(()) };
            let done = network::apply_forward(&self.table, &self.owner(&name), &forward);
            return done.map_err(|reason| refuse(device, reason));
        }
        let pid = self.pid.ok_or(Error::NotRunning)?;
        let inside = Inside::open(pid, &self.container)?;
        let side = Side { init: inside.process, network: inside.network, root: inside.root, users: inside.users };
        let plan = ProxyPlan {
            listen: endpoints(&proxy.listen),
            connect: endpoints(&proxy.connect),
            inside: proxy.inside,
            header: proxy.header,
            owner: proxy.owner,
            security: proxy.security,
            init: pid,
        };
        let waiting = proxy::start(&self.log(&name), plan, &side).map_err(|reason| refuse(device, reason))?;
        let gone = || refuse(device, "its process has ended; its log says why");
        entry.process = Some((waiting.pid, start_of(waiting.pid).ok_or_else(gone)?));
        entry.file = waiting.file;
        record.insert(name.clone(), entry);
        if let Err(error) = self.write(record) {
            // Not let go, it ends by itself.
            record.remove(&name);
            return Err(error);
        }
        waiting.go().map_err(|_| gone())
    }

    /// Ends one, with what it has made; it is written down until then.
    fn end(&self, record: &mut Record, name: &str) -> Result<(), Error> {
        let Some(entry) = record.get(name) else { return Ok(()) };
        let words = |reason: String| Error::Plug { device: name.to_owned(), reason };
        if entry.nat.is_some() {
            network::remove_forward(&self.table, &self.owner(name)).map_err(words)?;
        }
        if let Some(pidfd) = entry.process.and_then(alive) {
            // It may just have ended.
            let _ = process::pidfd_signal(&pidfd, libc::SIGKILL);
            if !process::ended(&pidfd, SETTLE) {
                return Err(words("its process does not end".to_owned()));
            }
        }
        if let Err(reason) = self.remove_file(name, entry) {
            // The next one replaces it.
            tracing::warn!(container = %self.container, device = name, %reason, "a socket file stays");
        }
        record.remove(name);
        self.write(record)
    }

    fn remove_file(&self, name: &str, entry: &Entry) -> Result<(), String> {
        let (Some(file), Ok(Some((_, proxy)))) = (entry.file, parse(name, &entry.config)) else { return Ok(()) };
        let Address::Unix(path) = &proxy.listen else { return Ok(()) };
        let root = match (proxy.inside, self.pid) {
            // It goes with the instance, or is replaced at its next start.
            (true, None) => return Ok(()),
            (true, Some(pid)) => Inside::open(pid, &self.container).map_err(|error| error.to_string())?.root,
            (false, _) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                rustix::fs::open("/", flags, Mode::empty()).map_err(|error| error.to_string())?
            }
        };
        proxy::remove_socket(&self.log(name), root, path, file)
    }

    /// Brings those that run to what `devices` wants: those that differ end, then those that are missing begin. By an
    /// error all are as they were, as far as that can be.
    fn bring(&self, devices: &Devices, nat_devices: &Devices) -> Result<Option<Devices>, Error> {
        let mut record = self.read();
        let mut wanted: BTreeMap<String, (DeviceName, Proxy, &Config)> = BTreeMap::new();
        for (name, config) in devices {
            if let Some((device, proxy)) = parse(name, config)? {
                wanted.insert(name.clone(), (device, proxy, config));
            }
        }
        let before: Devices = record.iter().map(|(name, entry)| (name.clone(), entry.config.clone())).collect();
        let same = |name: &String, entry: &Entry| {
            let Some((device, proxy, config)) = wanted.get(name) else { return false };
            let runs = match entry.nat {
                Some(to) => nat_target(device, proxy, devices).is_ok_and(|now| now == to),
                None => entry.process.is_some_and(|process| alive(process).is_some()),
            };
            entry.config == **config && runs
        };
        let gone: Vec<String> =
            record.iter().filter(|(name, e)| !same(name, e)).map(|(name, _)| name.clone()).collect();
        let come: Vec<_> =
            wanted.iter().filter(|(name, _)| gone.contains(name) || !record.contains_key(*name)).collect();
        if gone.is_empty() && come.is_empty() {
            return Ok(None);
        }
        let steps = |record: &mut Record| {
            for name in &gone {
                self.end(record, name)?;
            }
            for (_, (device, _, config)) in &come {
                self.begin(record, device, config, devices)?;
            }
            Ok(())
        };
        if let Err(error) = steps(&mut record) {
            self.back(record, &come.iter().map(|(name, _)| (*name).clone()).collect::<Vec<_>>(), &before, nat_devices);
            return Err(error);
        }
        Ok(Some(before))
    }

    /// Ends what came and begins what was; what cannot be is logged.
    fn back(&self, mut record: Record, came: &[String], before: &Devices, nat_devices: &Devices) {
        let told =
            |error: Error| tracing::error!(container = %self.container, %error, "taking a change of proxies back");
        for name in came {
            if let Err(error) = self.end(&mut record, name) {
                told(error);
            }
        }
        for (name, config) in before {
            if record.contains_key(name) {
                continue;
            }
            let again = DeviceName::new(name.clone()).map_err(Error::from);
            let again = again.and_then(|device| self.begin(&mut record, &device, config, nat_devices));
            if let Err(error) = again {
                told(error);
            }
        }
    }

    fn clear(&self) -> Result<(), Error> {
        let mut record = self.read();
        for name in record.keys().cloned().collect::<Vec<_>>() {
            self.end(&mut record, &name)?;
        }
        Ok(())
    }
}

/// Proxies that were changed on a running container.
pub(super) struct Changed {
    running: Running,
    /// Those that ran before.
    before: Devices,
    /// All devices before.
    all: Devices,
}

impl Changed {
    /// Takes the change back; what cannot be is logged.
    pub(super) async fn undo(self) {
        let Self { running, before, all } = self;
        let container = running.container.clone();
        let undone = blocking(move || {
            let mut devices = all;
            devices.retain(|name, config| {
                config.get("type").is_none_or(|kind| kind != "proxy") || before.contains_key(name)
            });
            running.bring(&devices, &devices).map(drop)
        });
        if let Err(error) = undone.await {
            tracing::error!(%container, %error, "taking a change of proxies back");
        }
    }
}

fn has_proxies(expanded: &Expanded) -> bool {
    expanded.devices.values().any(|device| device.get("type").is_some_and(|kind| kind == "proxy"))
}

/// Starts the proxies of a container that has just come up with this init.
///
/// # Errors
/// [`Error::Plug`] with the first that cannot be had; [`forget`] then ends the others.
pub(super) async fn started(context: &Context, key: &InstanceKey, pid: i32, expanded: &Expanded) -> Result<(), Error> {
    let (running, devices) = (Running::new(context, &key.container(), Some(pid)), expanded.devices.clone());
    blocking(move || running.bring(&devices, &devices).map(drop)).await
}

/// Brings the proxies of a running container from those of `before` to those of `after`.
///
/// # Errors
/// [`Error::Plug`] with the first that cannot be had; then all are as they were.
pub(super) async fn change(
    context: &Arc<Context>,
    key: &InstanceKey,
    pid: i32,
    before: &Expanded,
    after: &Expanded,
) -> Result<Option<Changed>, Error> {
    // A nic's address may be where one leads.
    if before.devices == after.devices || !(has_proxies(before) || has_proxies(after)) {
        return Ok(None);
    }
    let running = Running::new(context, &key.container(), Some(pid));
    let (all, devices) = (before.devices.clone(), after.devices.clone());
    blocking(move || {
        let changed = running.bring(&devices, &all)?;
        Ok(changed.map(|before| Changed { running, before, all }))
    })
    .await
}

/// A container found running gets what the database says: what the last daemon left is kept where it fits.
pub(super) async fn adopted(context: &Context, key: &InstanceKey, pid: i32, expanded: &Expanded) {
    let running = Running::new(context, &key.container(), Some(pid));
    if !has_proxies(expanded) && !running.dir.exists() {
        return;
    }
    let devices = expanded.devices.clone();
    let brought = blocking(move || {
        // What was being written when the last daemon died.
        let _ = fs::remove_file(running.dir.join(NEW));
        running.bring(&devices, &devices)?;
        let record = running.read();
        if record.is_empty() { running.write(&record) } else { Ok(()) }
    });
    if let Err(error) = brought.await {
        super::adopt::differs(key, pid, &error, "its proxies are not those of its definition");
    }
}

/// The container is down, or has never come up: nothing of its proxies stays.
pub(super) async fn forget(context: &Context, container: &str) -> Result<(), Error> {
    let running = Running::new(context, container, None);
    if !exists(&running.dir) {
        return Ok(());
    }
    blocking(move || running.clear()).await
}

fn exists(dir: &Path) -> bool {
    dir.join(RECORD).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn nat(connect: &str, nic: &[(&str, &str)]) -> Result<IpAddr, Error> {
        let listen = [("type", "proxy"), ("nat", "true"), ("listen", "tcp:192.0.2.1:80-81"), ("connect", connect)];
        let (device, proxy) = parse("web", &config(&listen)).unwrap().unwrap();
        nat_target(&device, &proxy, &[("eth0".to_owned(), config(nic))].into())
    }

    #[test]
    fn nat_leads_to_the_address_of_a_nic() {
        let nic = [("type", "nic"), ("network", "br0"), ("ipv4.address", "10.0.0.7")];
        assert_eq!(nat("tcp:0.0.0.0:80", &nic).unwrap().to_string(), "10.0.0.7");
        assert!(nat("tcp:10.0.0.7:80", &nic).is_ok());
        for (connect, nic) in [("tcp:10.0.0.8:80", &nic[..]), ("tcp:0.0.0.0:80", &nic[..2])] {
            let error = nat(connect, nic).unwrap_err().to_string();
            assert!(error.contains("\"web\"") && error.contains("ipv4.address="), "{error}");
        }
    }

    #[test]
    fn a_process_is_known_by_its_start() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let start = start_of(pid).unwrap();
        assert!(alive((pid, start)).is_some());
        assert!(alive((pid, start + 1)).is_none());
    }

    #[test]
    fn ports_lead_one_to_one_or_to_one() {
        let of = |connect: &str| {
            let pairs = [("type", "proxy"), ("listen", "udp:192.0.2.1:80-81"), ("connect", connect)];
            let (_, proxy) = parse("web", &config(&pairs)).unwrap().unwrap();
            let ports = forward(&proxy, "10.0.0.7".parse().unwrap()).unwrap().ports;
            ports.into_iter().map(|(from, to)| (from, to.port())).collect::<Vec<_>>()
        };
        assert_eq!(of("udp:0.0.0.0:5"), [(80, 5), (81, 5)]);
        assert_eq!(of("udp:0.0.0.0:5,7"), [(80, 5), (81, 7)]);
    }
}
