//! The dnsmasq of a network: its arguments, starting, adopting, telling and ending it.
//!
//! dnsmasq becomes a daemon of its own accord and so outlives this one. Its parent process exits when it serves (0) or
//! with the reason why not. It is known by its process id in `dnsmasq.pid` *and* by its command line: a process is
//! only signalled through a pidfd whose command line names this network's directory.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::{BridgeSpec, DnsMode, Error};
use crate::names::NetworkName;

/// How long dnsmasq gets to end by itself, and then to be killed.
const END_SECONDS: i64 = 3;
/// dnsmasq's exit status for "cannot use the network": an address is taken, or it may not listen.
const STATUS_NETWORK: i32 = 2;

/// The files of one network: `<state>/networks/<name>/`.
#[derive(Debug, Clone)]
pub(super) struct Files {
    /// The directory itself.
    pub(super) dir: PathBuf,
}

impl Files {
    pub(super) fn pid(&self) -> PathBuf {
        self.dir.join("dnsmasq.pid")
    }
    pub(super) fn leases(&self) -> PathBuf {
        self.dir.join("dnsmasq.leases")
    }
    pub(super) fn hosts(&self) -> PathBuf {
        self.dir.join("dnsmasq.hosts")
    }
    /// Names for DNS beyond those of DHCP, as hosts(5) has them.
    pub(super) fn names(&self) -> PathBuf {
        self.dir.join("dnsmasq.names")
    }
    fn raw(&self) -> PathBuf {
        self.dir.join("dnsmasq.raw")
    }

    /// The argument by which a dnsmasq of this network is recognised.
    fn mark(&self) -> String {
        format!("--conf-file={}", self.raw().display())
    }
}

/// `dnsmasq.pid`: YAML with the fields that LXD's file has, so that scripts which look for `pid: N` find it.
#[derive(Serialize, Deserialize)]
struct Record {
    name: String,
    args: Vec<String>,
    pid: i32,
}

/// A running dnsmasq of ours.
pub(super) struct Process {
    pub(super) pid: i32,
    fd: OwnedFd,
    args: Vec<String>,
}

impl Process {
    /// The process `pid`, if it is alive and its command line has `mark`.
    fn open(pid: i32, mark: &str) -> Option<Self> {
        // The pidfd first: when the process ends and its number is reused after this, signals go nowhere.
        // A number below 1 from a spoilt file is no process (and makes from_raw panic).
        let number = if pid > 0 { Pid::from_raw(pid)? } else { return None };
        let fd = pidfd_open(number, PidfdFlags::empty()).ok()?;
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let mut words = cmdline.split(|b| *b == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        words.next().filter(|program| program.rsplit('/').next() == Some("dnsmasq"))?;
        let mut args: Vec<String> = words.collect();
        args.pop();
        args.iter().any(|arg| arg == mark).then_some(Self { pid, fd, args })
    }

    /// Whether it is between two messages: nothing of what it writes is half done.
    pub(super) fn waits_for_messages(&self) -> bool {
        crate::sys::process::polls(self.pid)
    }

    fn signal(&self, signal: Signal) -> bool {
        pidfd_send_signal(&self.fd, signal).is_ok()
    }

    fn ended(&self) -> bool {
        let timeout = Timespec { tv_sec: END_SECONDS, tv_nsec: 0 };
        loop {
            match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&timeout)) {
                Ok(count) => return count > 0,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Ends it, if need be by force, and waits until it is gone.
    fn end(&self, network: &NetworkName) -> Result<(), Error> {
        for signal in [Signal::TERM, Signal::KILL] {
            if !self.signal(signal) || self.ended() {
                return Ok(());
            }
        }
        Err(Error::DnsmasqStuck { network: network.clone(), pid: self.pid })
    }
}

/// The dnsmasq that `dnsmasq.pid` names, if it runs.
pub(super) fn running(files: &Files) -> Option<Process> {
    let text = fs::read_to_string(files.pid()).ok()?;
    // dnsmasq writes its bare number; that is what stands there when we ended before writing the record.
    let pid = text.trim().parse().ok().or_else(|| Some(serde_norway::from_str::<Record>(&text).ok()?.pid))?;
    Process::open(pid, &files.mark())
}

/// Makes the service of `spec` run: keeps one that runs with this configuration, else starts one, after ending the old.
///
/// `fresh`: the bridge was made anew, so that an old dnsmasq listens on an interface that is gone.
pub(super) fn ensure(spec: &BridgeSpec, files: &Files, fresh: bool) -> Result<(), Error> {
    // What a crash within a test of a configuration left.
    remove(&files.dir.join(CANDIDATE))?;
    remove(&files.dir.join(format!("{CANDIDATE}.tmp")))?;
    let old = running(files);
    if !spec.has_service() {
        return old.map_or(Ok(()), |old| end(&old, &spec.name, files));
    }
    let account = Account::choose(&files.dir);
    let args = arguments(spec, files, &account);
    if let Some(old) = &old {
        let same_raw = fs::read_to_string(files.raw()).is_ok_and(|text| text == spec.raw_dnsmasq);
        if !fresh && same_raw && old.args == args {
            // What was written just before the daemon was killed may not have been read.
            old.signal(Signal::HUP);
            return Ok(());
        }
        // A configuration that dnsmasq refuses must not cost the network the service it has.
        test(spec, files, &args)?;
        end(old, &spec.name, files)?;
    }
    write(&files.raw(), &spec.raw_dnsmasq)?;
    match start(spec, files, &args) {
        Err(Error::Dnsmasq { status: Some(STATUS_NETWORK), .. }) if end_strays(&spec.name, files)? => {
            start(spec, files, &args)
        }
        other => other,
    }
}

/// Ends the dnsmasq of a network; no error when there is none.
pub(super) fn stop(network: &NetworkName, files: &Files) -> Result<(), Error> {
    let ended = running(files).map_or(Ok(()), |process| end(&process, network, files));
    // One whose start a crash interrupted may not have written its number yet.
    ended.and(end_strays(network, files).map(drop))
}

/// Makes it read the hosts again; no error when there is none.
pub(super) fn reload(files: &Files) {
    if let Some(process) = running(files) {
        process.signal(Signal::HUP);
    }
}

fn end(process: &Process, network: &NetworkName, files: &Files) -> Result<(), Error> {
    process.end(network)?;
    remove(&files.pid())
}

/// Ends dnsmasqs of this network that no file knows of: left by a crash within their start.
fn end_strays(network: &NetworkName, files: &Files) -> Result<bool, Error> {
    let mut any = false;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(process) = Process::open(pid, &files.mark()) {
            process.end(network)?;
            any = true;
        }
    }
    Ok(any)
}

fn command(network: &NetworkName, args: &[String]) -> Result<(Option<i32>, String), Error> {
    let mut command = Command::new("dnsmasq");
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // Nothing of the daemon's environment (activation, tokens) is for a process that outlives it.
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()));
    let output = command.current_dir("/").output().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => {
            Error::Missing { program: "dnsmasq", package: "dnsmasq-base", network: network.clone() }
        }
        _ => Error::Spawn { program: "dnsmasq", network: network.clone(), source },
    })?;
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Ok((output.status.code(), message))
}

/// A configuration that is being checked.
const CANDIDATE: &str = "dnsmasq.raw.new";

/// Lets dnsmasq check its configuration.
fn test(spec: &BridgeSpec, files: &Files, args: &[String]) -> Result<(), Error> {
    let candidate = files.dir.join(CANDIDATE);
    write(&candidate, &spec.raw_dnsmasq)?;
    let mut args: Vec<String> = args.iter().filter(|arg| **arg != files.mark()).cloned().collect();
    args.push("--test".to_owned());
    args.push(format!("--conf-file={}", candidate.display()));
    let outcome = command(&spec.name, &args);
    remove(&candidate)?;
    match outcome? {
        (Some(0), _) => Ok(()),
        (status, message) => Err(Error::Dnsmasq { network: spec.name.clone(), status, message }),
    }
}

fn start(spec: &BridgeSpec, files: &Files, args: &[String]) -> Result<(), Error> {
    // dnsmasq insists on making the file itself.
    remove(&files.pid())?;
    match command(&spec.name, args)? {
        (Some(0), _) => {}
        (status, message) => return Err(Error::Dnsmasq { network: spec.name.clone(), status, message }),
    }
    let Some(process) = running(files) else {
        let message = "it ended right after its start; see the system's log".to_owned();
        return Err(Error::Dnsmasq { network: spec.name.clone(), status: Some(0), message });
    };
    // JSON is YAML.
    let args = serde_json::to_string(args).unwrap_or_default();
    write(&files.pid(), &format!("name: dnsmasq\nargs: {args}\npid: {}\nuid: 0\ngid: 0\n", process.pid))
}

/// Writes a file that is whole at every moment, readable for dnsmasq's account.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    // Not beside the file: every file in the hosts directory is read.
    let directory = path.ancestors().find(|dir| !dir.ends_with("dnsmasq.hosts") && *dir != path).unwrap_or(path);
    let temporary = directory.join(name);
    let fail = |source| Error::File { operation: "write", path: path.to_path_buf(), source };
    fs::write(&temporary, text).map_err(fail)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o644)).map_err(fail)?;
    fs::rename(&temporary, path).map_err(fail)
}

/// Removes a file; no error when there is none.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { operation: "remove", path: path.to_path_buf(), source: error })
        }
        _ => Ok(()),
    }
}

/// Who dnsmasq runs as.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    user: String,
    group: Option<String>,
}

impl Account {
    /// `dnsmasq`, else `nobody`; root only where no other account could enter the directory of the hosts.
    fn choose(dir: &Path) -> Self {
        let closed = dir.ancestors().find(|dir| fs::metadata(dir).is_ok_and(|meta| meta.permissions().mode() & 1 == 0));
        if let Some(closed) = closed {
            tracing::warn!(
                directory = %closed.display(),
                "dnsmasq runs as root because its own account cannot enter this directory; allow it with chmod o+x"
            );
            return Self { user: "root".to_owned(), group: Some("root".to_owned()) };
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let groups = fs::read_to_string("/etc/group").unwrap_or_default();
        Self::find(&passwd, &groups)
    }

    fn find(passwd: &str, groups: &str) -> Self {
        for user in ["dnsmasq", "nobody"] {
            let Some(line) = passwd.lines().find(|line| line.split(':').next() == Some(user)) else { continue };
            let gid = line.split(':').nth(3);
            let group =
                groups.lines().find(|line| line.split(':').nth(2) == gid).and_then(|line| line.split(':').next());
            return Self { user: user.to_owned(), group: group.map(str::to_owned) };
        }
        Self { user: "nobody".to_owned(), group: None }
    }
}

/// The whole command line after the program's name. Pure.
fn arguments(spec: &BridgeSpec, files: &Files, account: &Account) -> Vec<String> {
    let mut args = vec![
        files.mark(),
        format!("--pid-file={}", files.pid().display()),
        format!("--user={}", account.user),
        "--strict-order".to_owned(),
        "--bind-interfaces".to_owned(),
        "--except-interface=lo".to_owned(),
        format!("--interface={}", spec.name),
        "--no-ping".to_owned(),
        "--quiet-dhcp".to_owned(),
        "--quiet-dhcp6".to_owned(),
        "--quiet-ra".to_owned(),
    ];
    args.extend(account.group.as_ref().map(|group| format!("--group={group}")));
    let dhcp4 = spec.ipv4.as_ref().filter(|ipv4| ipv4.dhcp);
    let dhcp6 = spec.ipv6.as_ref().filter(|ipv6| ipv6.dhcp);
    if dhcp4.is_some() || dhcp6.is_some() {
        args.push("--dhcp-authoritative".to_owned());
        args.push("--dhcp-no-override".to_owned());
        args.push("--dhcp-rapid-commit".to_owned());
        args.push(format!("--dhcp-leasefile={}", files.leases().display()));
        args.push(format!("--dhcp-hostsfile={}", files.hosts().display()));
    }
    args.extend(spec.ipv4.as_ref().map(|ipv4| format!("--listen-address={}", ipv4.address.address)));
    if let Some(ipv4) = dhcp4 {
        args.extend(ipv4.gateway.map(|gateway| format!("--dhcp-option-force=option:router,{gateway}")));
        if spec.mtu != 1500 {
            args.push(format!("--dhcp-option-force=option:mtu,{}", spec.mtu));
        }
        if !spec.dns.search.is_empty() {
            args.push(format!("--dhcp-option-force=option:domain-search,{}", spec.dns.search.join(",")));
        }
        let all = [all_ipv4(ipv4.address)];
        let ranges = if ipv4.ranges.is_empty() { &all[..] } else { &ipv4.ranges };
        args.extend(ranges.iter().map(|(first, last)| format!("--dhcp-range={first},{last},{}", ipv4.expiry)));
    }
    if let Some(ipv6) = &spec.ipv6 {
        args.push(format!("--listen-address={}", ipv6.address.address));
        args.push("--enable-ra".to_owned());
        if ipv6.dhcp && !spec.dns.search.is_empty() {
            args.push(format!("--dhcp-option-force=option6:domain-search,{}", spec.dns.search.join(",")));
        }
        if ipv6.dhcp && ipv6.stateful {
            let all = [all_ipv6(ipv6.address)];
            let ranges = if ipv6.ranges.is_empty() { &all[..] } else { &ipv6.ranges };
            let (prefix, expiry) = (ipv6.address.prefix, &ipv6.expiry);
            args.extend(ranges.iter().map(|(first, last)| format!("--dhcp-range={first},{last},{prefix},{expiry}")));
        } else {
            let mode = if ipv6.dhcp { "ra-stateless,ra-names" } else { "ra-only" };
            args.push(format!("--dhcp-range=::,constructor:{},{mode}", spec.name));
        }
    }
    if spec.dns.mode == DnsMode::None {
        args.push("--port=0".to_owned());
    } else {
        let domain = &spec.dns.domain;
        args.push(format!("--domain={domain}"));
        args.push(format!("--local=/{domain}/"));
        args.push(format!("--interface-name=_gateway.{domain},{}", spec.name));
        if spec.dns.mode == DnsMode::Managed {
            // No guest chooses its name, so it cannot take another's.
            args.push("--dhcp-ignore-names".to_owned());
            args.push(format!("--addn-hosts={}", files.names().display()));
        }
    }
    args
}

/// All hosts of the subnet but the bridge itself where it is the first or last. A subnet of two is two hosts (RFC 3021).
fn all_ipv4(net: super::Net4) -> (Ipv4Addr, Ipv4Addr) {
    let own = u32::from(net.address);
    let edge = u32::from(net.prefix < 31);
    let (mut first, mut last) = (u32::from(net.first()) + edge, u32::from(net.last()) - edge);
    if first == own {
        first += 1;
    }
    if last == own {
        last -= 1;
    }
    (Ipv4Addr::from(first), Ipv4Addr::from(last))
}

fn all_ipv6(net: super::Net6) -> (Ipv6Addr, Ipv6Addr) {
    (Ipv6Addr::from(u128::from(net.first()) + 2), net.last())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::wire::Config;

    fn line(pairs: &[(&str, &str)]) -> String {
        let config: Config = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let spec = BridgeSpec::parse(&NetworkName::new("br0").unwrap(), &config).unwrap();
        let account = Account { user: "dnsmasq".to_owned(), group: None };
        arguments(&spec, &Files { dir: PathBuf::from("/s/networks/br0") }, &account).join(" ")
    }

    #[test]
    fn the_usual_network() {
        let line = line(&[("ipv4.address", "10.1.2.1/24"), ("ipv6.address", "fd42::1/64")]);
        for word in [
            "--conf-file=/s/networks/br0/dnsmasq.raw",
            "--listen-address=10.1.2.1 --dhcp-range=10.1.2.2,10.1.2.254,1h",
            "--listen-address=fd42::1 --enable-ra --dhcp-range=::,constructor:br0,ra-stateless,ra-names",
            "--domain=lxd --local=/lxd/ --interface-name=_gateway.lxd,br0 --dhcp-ignore-names --addn-hosts=/s/networks/br0/dnsmasq.names",
        ] {
            assert!(line.contains(word), "{word} not in {line}");
        }
    }

    #[test]
    fn options_arrive() {
        let line = line(&[
            ("ipv4.address", "10.1.2.1/24"),
            ("ipv4.dhcp.gateway", "10.1.2.9"),
            ("ipv4.dhcp.ranges", "10.1.2.5-10.1.2.6,10.1.2.8-10.1.2.9"),
            ("ipv4.dhcp.expiry", "5m"),
            ("ipv6.address", "fd42::1/64"),
            ("ipv6.dhcp.stateful", "true"),
            ("dns.mode", "dynamic"),
            ("dns.search", "a.b,c.d"),
            ("bridge.mtu", "9000"),
        ]);
        for word in [
            "option:router,10.1.2.9",
            "--dhcp-range=10.1.2.5,10.1.2.6,5m --dhcp-range=10.1.2.8,10.1.2.9,5m",
            "--dhcp-range=fd42::2,fd42::ffff:ffff:ffff:ffff,64,1h",
            "option:domain-search,a.b,c.d",
            "option6:domain-search,a.b,c.d",
            "option:mtu,9000",
        ] {
            assert!(line.contains(word), "{word} not in {line}");
        }
        assert!(!line.contains("ignore-names"));
    }

    #[test]
    fn services_can_be_off() {
        let line = line(&[
            ("ipv4.address", "10.1.2.1/24"),
            ("ipv4.dhcp", "false"),
            ("ipv6.address", "fd42::1/64"),
            ("ipv6.dhcp", "false"),
            ("dns.mode", "none"),
        ]);
        assert!(line.contains("ra-only") && line.ends_with("--port=0") && !line.contains("--dhcp-leasefile"));
        assert!(!line.contains("--domain"));
    }

    #[test]
    fn the_bridge_is_not_in_its_range() {
        let range = |text| {
            let (first, last) = all_ipv4(super::super::Net4::parse(text).unwrap());
            format!("{first}-{last}")
        };
        assert_eq!(range("10.0.0.254/24"), "10.0.0.1-10.0.0.253");
        assert_eq!(range("10.0.0.1/30"), "10.0.0.2-10.0.0.2");
        assert_eq!(range("10.0.0.100/24"), "10.0.0.1-10.0.0.254");
        assert_eq!(range("10.0.0.1/31"), "10.0.0.0-10.0.0.0");
        assert_eq!(range("10.0.0.2/31"), "10.0.0.3-10.0.0.3");
    }

    #[test]
    fn an_account_of_its_own_is_preferred() {
        let groups = "root:x:0:\nnogroup:x:65534:\n";
        let nobody = "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/x\n";
        let found = Account::find(nobody, groups);
        assert_eq!((found.user.as_str(), found.group.as_deref()), ("nobody", Some("nogroup")));
        assert_eq!(Account::find(&format!("{nobody}dnsmasq:x:9:9::/:/x\n"), groups).user, "dnsmasq");
    }

    #[test]
    fn a_foreign_process_is_not_ours() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(Process::open(own, "--conf-file=/x").is_none());
        assert!(Process::open(-1, "").is_none());
    }
}
