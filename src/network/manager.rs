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
use super::{BridgeSpec, DnsMode, Error, nft, sysctl};
use crate::names::{DeviceName, NetworkName};
use crate::sys::netlink::{MacAddr, Scope, Socket};

/// A device of an instance as DHCP and DNS are to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The instance's key as its files have it: `name`, or `project_name` outside `default`.
    pub instance: String,
    /// Its name in DNS: the instance's plain name.
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

/// The networks of a state directory. Cheap to clone; what it does runs on the blocking pool, one at a time.
#[derive(Debug, Clone)]
pub struct Manager {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `<state>/networks`.
    root: PathBuf,
    /// Where names come from in each network that was brought up; held during every change.
    modes: Mutex<BTreeMap<NetworkName, DnsMode>>,
}

impl Manager {
    /// Manages `<state_dir>/networks`. Touches nothing.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        let root = state_dir.into().join("networks");
        Self { inner: Arc::new(Inner { root, modes: Mutex::new(BTreeMap::new()) }) }
    }

    async fn blocking<T: Send + 'static>(
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
    pub async fn up(&self, spec: &BridgeSpec) -> Result<(), Error> {
        let spec = spec.clone();
        self.blocking(move |inner| inner.up(&spec)).await
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
            let path = inner.files(&name).dir;
            match fs::remove_dir_all(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    Err(Error::File { operation: "remove", path, source })
                }
                _ => Ok(()),
            }
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
            let _guard = inner.lock();
            let files = inner.files(&network);
            let path = files.hosts().join(file);
            if path.exists() {
                dnsmasq::remove(&path)?;
                dnsmasq::reload(&files);
            }
            Ok(())
        })
        .await
    }

    /// The process of the network's dnsmasq, if it runs.
    pub fn dnsmasq_pid(&self, network: &NetworkName) -> Option<i32> {
        dnsmasq::running(&self.inner.files(network)).map(|process| process.pid)
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
    Ok(format!("{instance}.{device}"))
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NetworkName, DnsMode>> {
        // The map is whole at every moment, so a panic elsewhere has not spoilt it.
        self.modes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self, network: &NetworkName) -> Files {
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

    fn up(&self, spec: &BridgeSpec) -> Result<(), Error> {
        let mut modes = self.lock();
        let files = self.prepare(&spec.name)?;
        let mut socket = Socket::open().map_err(fail(spec.name.as_str()))?;
        let fresh = bridge(&mut socket, spec, &self.root)?;
        let rest = || {
            addresses(&mut socket, spec)?;
            if spec.ipv4.as_ref().is_some_and(|ipv4| ipv4.routing) {
                sysctl::forward_ipv4()?;
            }
            if spec.ipv6.as_ref().is_some_and(|ipv6| ipv6.routing) {
                sysctl::forward_ipv6(spec.name.as_str())?;
            }
            nft::apply(spec)?;
            for entry in leases::entries(&files.hosts()) {
                let text = entry.render(spec.dns.mode != DnsMode::Dynamic);
                let path = files.hosts().join(&entry.file);
                if fs::read_to_string(&path).is_ok_and(|old| old != text) {
                    dnsmasq::write(&path, &text)?;
                }
            }
            dnsmasq::ensure(spec, &files, fresh)
        };
        if let Err(error) = { rest }() {
            if fresh && let Err(undo) = take_down(&spec.name, &files) {
                tracing::error!(network = %spec.name, error = %undo, "failed to undo the start of a network");
            }
            return Err(error);
        }
        modes.insert(spec.name.clone(), spec.dns.mode);
        Ok(())
    }

    fn down(&self, name: &NetworkName) -> Result<(), Error> {
        let mut modes = self.lock();
        take_down(name, &self.files(name))?;
        modes.remove(name);
        Ok(())
    }

    fn add_host(&self, network: &NetworkName, host: &Host) -> Result<(), Error> {
        let modes = self.lock();
        let named = modes.get(network) != Some(&DnsMode::Dynamic);
        let file = host_file(&host.instance, &host.device)?;
        // It becomes a word of dnsmasq's configuration.
        crate::names::InstanceName::new(host.hostname.clone())?;
        let addresses = host.ipv4.map(IpAddr::V4).into_iter().chain(host.ipv6.map(IpAddr::V6)).collect();
        let entry = Entry { file, mac: host.mac, addresses, hostname: host.hostname.clone() };
        let files = self.prepare(network)?;
        let path = files.hosts().join(&entry.file);
        let text = entry.render(named);
        if !fs::read_to_string(&path).is_ok_and(|old| old == text) {
            dnsmasq::write(&path, &text)?;
            dnsmasq::reload(&files);
        }
        Ok(())
    }
}

fn take_down(name: &NetworkName, files: &Files) -> Result<(), Error> {
    let service = dnsmasq::stop(name, files);
    let rules = nft::remove(name);
    let interface = Socket::open().and_then(|mut socket| match socket.link(name.as_str())? {
        Some(link) if link.kind == "bridge" => socket.delete(name.as_str()),
        // Something else has taken the name; it is not ours to delete.
        _ => Ok(()),
    });
    service.and(rules).and(interface.map_err(fail(name.as_str())))
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
