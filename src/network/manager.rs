//! Bringing networks up and down.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::dnsmasq::{self, Files};
use super::host::fail;
use super::leases::{self, Entry, Lease};
use super::{BridgeSpec, DnsMode, Error, external, firewall, follow, nft, release, sysctl};
use crate::names::{DeviceName, NetworkName};
use crate::sys::netlink::{Link, MacAddr, Scope, Socket};

/// A device of an instance as DHCP and DNS are to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The instance's key as its files have it: `name`, or `project_name` outside `default`.
    pub instance: String,
    /// Its name in DNS: the instance's, and outside `default` the project's after a dot; empty: none.
    pub hostname: String,
    /// The device.
    pub device: DeviceName,
    /// Its hardware address.
    pub mac: MacAddr,
    /// Its fixed IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its fixed IPv6 address, for stateful DHCPv6.
    pub ipv6: Option<Ipv6Addr>,
}

/// What came of bringing a network up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Up {
    /// The bridge was made anew: whoever was connected to an earlier one has to be again.
    pub is_fresh: bool,
    /// Interfaces of `bridge.external_interfaces` that the host does not have.
    pub missing: Vec<String>,
    /// What was gone of it although it had been brought up before, and is there again.
    pub repaired: Vec<&'static str>,
}

/// A network that was brought up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    mode: DnsMode,
    pub(super) domain: String,
    has_service: bool,
}

const BRIDGE_GONE: &str = "its bridge was gone";
const DNSMASQ_ENDED: &str = "its dnsmasq had ended";

/// A file in a network's directory: there may be rules of its `firewall.assist` among others'.
const ASSISTED: &str = "assisted";

/// The networks of a state directory. Cheap to clone; what it does runs on the blocking pool, one at a time.
#[derive(Debug, Clone)]
pub struct Manager {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    /// `<state>/networks`.
    root: PathBuf,
    /// Each network that was brought up; held during every change.
    known: Mutex<BTreeMap<NetworkName, Known>>,
    /// Other networks are known now.
    pub(super) others: tokio::sync::Notify,
    /// See [`Manager::turn`].
    turn: tokio::sync::Mutex<()>,
}

impl Manager {
    /// Manages `<state_dir>/networks`. Touches nothing.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        let root = state_dir.into().join("networks");
        let (known, turn) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { inner: Arc::new(Inner { root, known, others: tokio::sync::Notify::new(), turn }) }
    }

    /// Held by whoever changes networks from the moment when he reads what they are to be until that is on the host: no one
    /// makes again what another has just deleted.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.inner.turn.lock().await
    }

    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = Arc::clone(&self.inner);
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Error::Interrupted),
            },
        }
    }

    /// Makes the network as `spec` says: bridge, addresses, routes, forwarding, firewall, DHCP and DNS. What is right
    /// already stays untouched, a running dnsmasq too; instances on the bridge are not disturbed. When it fails, a
    /// bridge that was not there before is gone again.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn up(&self, spec: &BridgeSpec) -> Result<Up, Error> {
        let spec = spec.clone();
        self.blocking(move |inner| inner.up(&spec)).await
    }

    /// What of the network is not as [`Manager::up`] made it; nothing, when all is. Looks only.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn faults(&self, spec: &BridgeSpec) -> Result<Vec<&'static str>, Error> {
        let spec = spec.clone();
        self.blocking(move |inner| inner.faults(&spec)).await
    }

    /// Whether there is a bridge and, where it needs one, a dnsmasq: a quick look.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn is_up(&self, spec: &BridgeSpec) -> Result<bool, Error> {
        let spec = spec.clone();
        self.blocking(move |inner| {
            let link = Socket::open().and_then(|mut socket| socket.link(spec.name.as_str()));
            let bridge = link.map_err(fail(spec.name.as_str()))?.is_some_and(|link| link.kind == "bridge");
            Ok(bridge && (!spec.has_service() || dnsmasq::running(&inner.files(&spec.name)).is_some()))
        })
        .await
    }

    /// What else on the host keeps the network's packets from passing, each with the commands that mend it.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub async fn obstacles(&self, spec: &BridgeSpec) -> Result<Vec<String>, Error> {
        let spec = spec.clone();
        self.blocking(move |_| Ok(firewall::obstacles(&spec))).await
    }

    /// Takes the network from the host: dnsmasq, rules, bridge. The files (leases, hosts) stay. No error when it is
    /// down; every part is tried, the first failure is told.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn down(&self, name: &NetworkName) -> Result<(), Error> {
        let name = name.clone();
        self.blocking(move |inner| inner.down(&name)).await
    }

    /// [`Manager::down`], then removes the network's files.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn remove(&self, name: &NetworkName) -> Result<(), Error> {
        let name = name.clone();
        self.blocking(move |inner| {
            inner.down(&name)?;
            clear(&inner.files(&name).dir)
        })
        .await
    }

    /// Gives the files of a network that is down to another name; then bring that up.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn rename(&self, old: &NetworkName, new: &NetworkName) -> Result<(), Error> {
        let (old, new) = (old.clone(), new.clone());
        self.blocking(move |inner| {
            inner.down(&old)?;
            let path = inner.files(&old).dir;
            if path.exists() {
                // Of the new name there is nothing but what an interrupted attempt left.
                inner.down(&new)?;
                clear(&inner.files(&new).dir)?;
            }
            match fs::rename(&path, inner.files(&new).dir) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    Err(Error::File { operation: "rename", path, source })
                }
                _ => Ok(()),
            }
        })
        .await
    }

    /// Who has which address: the gateway, fixed addresses, then DHCP's.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub async fn leases(&self, spec: &BridgeSpec) -> Result<Vec<Lease>, Error> {
        let spec = spec.clone();
        self.blocking(move |inner| Ok(leases::collect(&spec, &inner.files(&spec.name)))).await
    }

    /// Registers a device of an instance, or changes it: its name in DNS and its fixed addresses. The network need not
    /// be up.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Name`].
    pub async fn add_host(&self, network: &NetworkName, host: Host) -> Result<(), Error> {
        let network = network.clone();
        self.blocking(move |inner| inner.add_host(&network, &host)).await
    }

    /// Forgets a device of an instance; no error when it is not registered.
    ///
    /// # Errors
    /// [`Error::File`].
    pub async fn remove_host(&self, network: &NetworkName, instance: &str, device: &DeviceName) -> Result<(), Error> {
        let (network, file) = (network.clone(), host_file(instance, device)?);
        self.blocking(move |inner| {
            let known = inner.lock();
            let files = inner.files(&network);
            let path = files.hosts().join(file);
            if path.exists() {
                dnsmasq::remove(&path)?;
                names(known.get(&network), &files)?;
                dnsmasq::reload(&files);
            }
            Ok(())
        })
        .await
    }

    /// Gives back what DHCP leased to a hardware address, whose owner is gone.
    ///
    /// # Errors
    /// See [`Error`]; then the leases end by themselves.
    pub async fn release(&self, network: &NetworkName, mac: MacAddr) -> Result<(), Error> {
        let network = network.clone();
        self.blocking(move |inner| {
            let _guard = inner.lock();
            let released = release::release(&network, &inner.files(&network), mac);
            release::promise(&inner.files(&network), mac, false).and(released)
        })
        .await
    }

    /// Notes that what DHCP leased to a hardware address is to be [given back](Self::release), or is not after all.
    ///
    /// # Errors
    /// [`Error::File`].
    pub async fn promise(&self, network: &NetworkName, mac: MacAddr, is_to_be: bool) -> Result<(), Error> {
        let network = network.clone();
        self.blocking(move |inner| release::promise(&inner.files(&network), mac, is_to_be)).await
    }

    /// The hardware addresses that are noted so. Blocking.
    pub fn promised(&self, network: &NetworkName) -> Vec<MacAddr> {
        release::promised(&self.inner.files(network))
    }

    /// The process of the network's dnsmasq, if it runs.
    pub fn dnsmasq_pid(&self, network: &NetworkName) -> Option<i32> {
        dnsmasq::running(&self.inner.files(network)).map(|process| process.pid)
    }
}

fn clear(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { operation: "remove", path: dir.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// `<instance>.<device>`, refused when it could be anything but a file in the directory.
fn host_file(instance: &str, device: &DeviceName) -> Result<String, Error> {
    // An instance's key is held to the rules of a device's name: no slash, no dots alone.
    let instance =
        instance.split('_').next_back().map_or(Ok(instance), |name| DeviceName::new(name).map(|_| instance))?;
    if instance.contains('/') {
        DeviceName::new(instance)?;
    }
    // What stands before the first dot is the instance: its project may have dots.
    Ok(format!("{}.{device}", instance.replace('.', "=")))
}

/// A part of a name in DNS; an instance's name is one, a project's may begin with a digit.
fn dns_label(label: &str) -> Result<(), crate::names::NameError> {
    let digit = label.starts_with(|c: char| c.is_ascii_digit());
    let named = if digit { format!("d{label}") } else { label.to_owned() };
    crate::names::InstanceName::new(named).map(drop)
}

impl Inner {
    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<NetworkName, Known>> {
        // The map is whole at every moment, so a panic elsewhere has not spoilt it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn files(&self, network: &NetworkName) -> Files {
        Files { dir: self.root.join(network.as_str()) }
    }

    /// Makes the directories. dnsmasq's account enters all of them and lists only the hosts.
    fn prepare(&self, network: &NetworkName) -> Result<Files, Error> {
        let files = self.files(network);
        directory(&self.root, 0o711)?;
        directory(&files.dir, 0o711)?;
        directory(&files.hosts(), 0o755)?;
        Ok(files)
    }

    fn up(&self, spec: &BridgeSpec) -> Result<Up, Error> {
        let mut known = self.lock();
        let files = self.prepare(&spec.name)?;
        let was = known.get(&spec.name);
        let ended = was.is_some_and(|was| was.has_service) && dnsmasq::running(&files).is_none();
        let mut socket = Socket::open().map_err(fail(spec.name.as_str()))?;
        let fresh = bridge(&mut socket, spec, &self.root)?;
        let gone = [(was.is_some() && fresh, BRIDGE_GONE), (ended, DNSMASQ_ENDED)];
        let repaired = gone.into_iter().filter_map(|(is_gone, what)| is_gone.then_some(what)).collect();
        let rest = || {
            addresses(&mut socket, spec)?;
            let bridge = found(&mut socket, &spec.name)?.index;
            let missing = external::apply(&mut socket, spec, bridge, &files.dir)?;
            if spec.ipv4.as_ref().is_some_and(|ipv4| ipv4.routing) {
                sysctl::forward_ipv4()?;
            }
            if spec.ipv6.as_ref().is_some_and(|ipv6| ipv6.routing) {
                sysctl::forward_ipv6(spec.name.as_str())?;
            }
            nft::apply(spec)?;
            assist(spec, &files)?;
            for entry in leases::entries(&files.hosts()) {
                let text = entry.render(spec.dns.mode != DnsMode::Dynamic);
                let path = files.hosts().join(&entry.file);
                if fs::read_to_string(&path).is_ok_and(|old| old != text) {
                    dnsmasq::write(&path, &text)?;
                }
            }
            follow::write(&spec.dns.domain, &files)?;
            dnsmasq::ensure(spec, &files, fresh)?;
            Ok(missing)
        };
        match { rest }() {
            Ok(missing) => {
                let (mode, domain) = (spec.dns.mode, spec.dns.domain.clone());
                let now = Known { mode, domain, has_service: spec.has_service() };
                if known.insert(spec.name.clone(), now).is_none() {
                    self.others.notify_one();
                }
                Ok(Up { is_fresh: fresh, missing, repaired })
            }
            Err(error) => {
                if fresh {
                    known.remove(&spec.name);
                    if let Err(undo) = take_down(&spec.name, &files) {
                        tracing::error!(network = %spec.name, error = %undo, "failed to undo the start of a network");
                    }
                }
                Err(error)
            }
        }
    }

    fn faults(&self, spec: &BridgeSpec) -> Result<Vec<&'static str>, Error> {
        let _guard = self.lock();
        let mut socket = Socket::open().map_err(fail(spec.name.as_str()))?;
        let mut faults = Vec::new();
        match socket.link(spec.name.as_str()).map_err(fail(spec.name.as_str()))? {
            Some(link) if link.kind == "bridge" => {
                let present = socket.addresses().map_err(fail(spec.name.as_str()))?;
                let has = |wanted: IpAddr| present.iter().any(|a| a.index == link.index && a.address == wanted);
                let ipv4 = spec.ipv4.as_ref().is_none_or(|own| has(own.address.address.into()));
                let ipv6 = spec.ipv6.as_ref().is_none_or(|own| has(own.address.address.into()));
                if !link.is_up() {
                    faults.push("its bridge was down");
                }
                if !ipv4 || !ipv6 {
                    faults.push("its bridge had lost its address");
                }
            }
            _ => faults.push(BRIDGE_GONE),
        }
        if spec.has_service() && dnsmasq::running(&self.files(&spec.name)).is_none() {
            faults.push(DNSMASQ_ENDED);
        }
        if !nft::is_applied(spec) {
            faults.push("its firewall rules were gone");
        }
        Ok(faults)
    }

    fn down(&self, name: &NetworkName) -> Result<(), Error> {
        let mut known = self.lock();
        take_down(name, &self.files(name))?;
        known.remove(name);
        Ok(())
    }

    fn add_host(&self, network: &NetworkName, host: &Host) -> Result<(), Error> {
        let known = self.lock();
        let known = known.get(network);
        let named = known.is_none_or(|known| known.mode != DnsMode::Dynamic);
        let file = host_file(&host.instance, &host.device)?;
        // It becomes a word of dnsmasq's configuration.
        for label in host.hostname.split('.').filter(|_| !host.hostname.is_empty()) {
            dns_label(label)?;
        }
        let addresses = host.ipv4.map(IpAddr::V4).into_iter().chain(host.ipv6.map(IpAddr::V6)).collect();
        let entry = Entry { file, mac: host.mac, addresses, hostname: host.hostname.clone() };
        let files = self.prepare(network)?;
        let path = files.hosts().join(&entry.file);
        let text = entry.render(named);
        if !fs::read_to_string(&path).is_ok_and(|old| old == text) {
            dnsmasq::write(&path, &text)?;
            names(known, &files)?;
            dnsmasq::reload(&files);
        }
        Ok(())
    }
}

/// Brings the names to the hosts of a network that is up; another gets them when it is.
fn names(known: Option<&Known>, files: &Files) -> Result<(), Error> {
    known.map_or(Ok(()), |known| follow::write(&known.domain, files).map(drop))
}

/// Helps the network past others' firewalls, or takes back what did so.
fn assist(spec: &BridgeSpec, files: &Files) -> Result<(), Error> {
    if !spec.assist {
        return withdraw(&spec.name, files);
    }
    // First: what a crash leaves is looked for.
    dnsmasq::write(&files.dir.join(ASSISTED), "")?;
    firewall::assist(spec)
}

fn withdraw(name: &NetworkName, files: &Files) -> Result<(), Error> {
    let file = files.dir.join(ASSISTED);
    if !file.exists() {
        return Ok(());
    }
    firewall::withdraw(name)?;
    dnsmasq::remove(&file)
}

fn take_down(name: &NetworkName, files: &Files) -> Result<(), Error> {
    let service = dnsmasq::stop(name, files);
    let rules = nft::remove(name).and(withdraw(name, files));
    let interface = Socket::open().and_then(|mut socket| match socket.link(name.as_str())? {
        Some(link) if link.kind == "bridge" => socket.delete(name.as_str()),
        // Something else has taken the name; it is not ours to delete.
        _ => Ok(()),
    });
    service.and(rules).and(interface.map_err(fail(name.as_str())))
}

fn found(socket: &mut Socket, name: &NetworkName) -> Result<Link, Error> {
    let link = socket.link(name.as_str()).map_err(fail(name.as_str()))?;
    link.ok_or_else(|| Error::NoInterface { name: name.to_string() })
}

fn directory(path: &Path, mode: u32) -> Result<(), Error> {
    let fail = |source| Error::File { operation: "make", path: path.to_path_buf(), source };
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(fail(error)),
        _ => {}
    }
    let permissions = fs::metadata(path).map_err(fail)?.permissions();
    if permissions.mode() & 0o7777 != mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(fail)?;
    }
    Ok(())
}

/// Makes or mends the interface, without addresses; whether it was made.
fn bridge(socket: &mut Socket, spec: &BridgeSpec, root: &Path) -> Result<bool, Error> {
    let name = spec.name.as_str();
    let fail = fail(name);
    let mac = spec.hwaddr.unwrap_or_else(|| stable_mac(name, root));
    let old = socket.link(name).map_err(&fail)?;
    if let Some(link) = old.as_ref().filter(|link| link.kind != "bridge") {
        let kind = if link.kind.is_empty() { "physical interface" } else { link.kind.as_str() };
        return Err(Error::NotABridge { network: spec.name.clone(), kind: kind.to_owned() });
    }
    if old.is_none() {
        socket.add_bridge(name, mac).map_err(&fail)?;
    }
    let configured = configure(socket, spec, mac);
    if configured.is_err() && old.is_none() {
        // The caller does not know of it yet; the first error is the one to tell.
        let _ = socket.delete(name);
    }
    configured.map(|()| old.is_none())
}

fn configure(socket: &mut Socket, spec: &BridgeSpec, mac: MacAddr) -> Result<(), Error> {
    let name = spec.name.as_str();
    let fail = fail(name);
    let link = socket.link(name).map_err(&fail)?.ok_or_else(|| Error::NoInterface { name: name.to_owned() })?;
    if link.mac != Some(mac) {
        socket.set_mac(link.index, mac).map_err(&fail)?;
    }
    if link.mtu != spec.mtu {
        socket.set_mtu(link.index, spec.mtu).map_err(&fail)?;
    }
    if sysctl::has_ipv6() {
        let off = if spec.ipv6.is_some() { "0" } else { "1" };
        // The host takes no configuration from instances, and its address is ready at once.
        for (key, value) in [("disable_ipv6", off), ("accept_ra", "0"), ("autoconf", "0"), ("accept_dad", "0")] {
            sysctl::set(&format!("ipv6/conf/{name}/{key}"), value)?;
        }
    }
    if link.is_up() { Ok(()) } else { socket.set_up(link.index, true).map_err(&fail) }
}

/// Gives the bridge its addresses and routes and takes away those of an earlier configuration.
fn addresses(socket: &mut Socket, spec: &BridgeSpec) -> Result<(), Error> {
    let name = spec.name.as_str();
    let fail = fail(name);
    let link = socket.link(name).map_err(&fail)?.ok_or_else(|| Error::NoInterface { name: name.to_owned() })?;
    let ipv4 = spec.ipv4.as_ref().map(|ipv4| (IpAddr::V4(ipv4.address.address), ipv4.address.prefix));
    let ipv6 = spec.ipv6.as_ref().map(|ipv6| (IpAddr::V6(ipv6.address.address), ipv6.address.prefix));
    let wanted: Vec<_> = ipv4.into_iter().chain(ipv6).collect();
    let mut present: Vec<_> = socket.addresses().map_err(&fail)?;
    present.retain(|address| address.index == link.index && address.scope == Scope::Global);
    for (address, prefix) in &wanted {
        if !present.iter().any(|old| (old.address, old.prefix) == (*address, *prefix)) {
            socket.add_address(link.index, *address, *prefix).map_err(&fail)?;
        }
    }
    for old in present.iter().filter(|old| !wanted.contains(&(old.address, old.prefix))) {
        socket.delete_address(link.index, old.address, old.prefix).map_err(&fail)?;
    }
    let ipv4 = spec.ipv4.iter().flat_map(|ipv4| &ipv4.routes).map(|net| (IpAddr::V4(net.first()), net.prefix));
    let ipv6 = spec.ipv6.iter().flat_map(|ipv6| &ipv6.routes).map(|net| (IpAddr::V6(net.first()), net.prefix));
    let wanted: Vec<_> = ipv4.chain(ipv6).collect();
    let mut present = socket.routes().map_err(&fail)?;
    present.retain(|route| route.index == Some(link.index) && route.is_static());
    for (destination, prefix) in &wanted {
        if !present.iter().any(|old| (old.destination, old.prefix) == (*destination, *prefix)) {
            socket.add_route(link.index, *destination, *prefix).map_err(&fail)?;
        }
    }
    for old in present.iter().filter(|old| !wanted.contains(&(old.destination, old.prefix))) {
        socket.delete_route(link.index, old.destination, old.prefix).map_err(&fail)?;
    }
    Ok(())
}

/// A hardware address that is the same at every start: instances remember their gateway's.
fn stable_mac(name: &str, root: &Path) -> MacAddr {
    let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let text = format!("{}\0{}\0{name}", machine.trim(), root.display());
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let mut mac = [0x00, 0x16, 0x3e, 0, 0, 0];
    for (byte, random) in mac[3..].iter_mut().zip(digest.as_ref()) {
        *byte = *random;
    }
    MacAddr(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_hosts_stay_in_their_directory() {
        let device = DeviceName::new("eth0").unwrap();
        assert_eq!(host_file("c1", &device).unwrap(), "c1.eth0");
        assert_eq!(host_file("p_c1", &device).unwrap(), "p_c1.eth0");
        for bad in ["../c1", "a/b_c", "", "..", "/x"] {
            assert!(host_file(bad, &device).is_err(), "{bad}");
        }
    }

    #[test]
    fn bridges_keep_their_hardware_address() {
        let root = Path::new("/x");
        assert_eq!(stable_mac("br0", root), stable_mac("br0", root));
        assert_ne!(stable_mac("br0", root), stable_mac("br1", root));
        assert!(stable_mac("br0", root).to_string().starts_with("00:16:3e:"));
    }
}
