//! The kernel's network switches, by writing below `/proc/sys/net`.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::Error;

fn path(key: &str) -> PathBuf {
    // Written with slashes: names of interfaces may contain dots.
    PathBuf::from("/proc/sys/net").join(key)
}

/// The value of `key` (`ipv4/ip_forward`), `None` when this kernel does not have it.
pub(super) fn get(key: &str) -> Result<Option<String>, Error> {
    let path = path(key);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { operation: "read", path, source }),
    }
}

/// Sets `key` unless it has the value already, so that a read-only `/proc/sys` with the right values is no obstacle.
pub(super) fn set(key: &str, value: &str) -> Result<(), Error> {
    match get(key)? {
        Some(old) if old != value => {
            let path = path(key);
            fs::write(&path, value).map_err(|source| Error::File { operation: "write", path, source })
        }
        _ => Ok(()),
    }
}

/// Whether this kernel speaks IPv6 at all.
pub(super) fn has_ipv6() -> bool {
    path("ipv6").exists()
}

/// Turns on forwarding of IPv4 for the host.
pub(super) fn forward_ipv4() -> Result<(), Error> {
    set("ipv4/ip_forward", "1")
}

/// Turns on forwarding of IPv6 for the host.
///
/// A host that forwards ignores router advertisements where `accept_ra` is 1, and would so lose its own default
/// route: those interfaces get 2 ("also when forwarding") first.
pub(super) fn forward_ipv6(bridge: &str) -> Result<(), Error> {
    if get("ipv6/conf/all/forwarding")?.is_none_or(|value| value == "1") {
        return Ok(());
    }
    let directory = path("ipv6/conf");
    let entries = fs::read_dir(&directory).map_err(|source| Error::File {
        operation: "list",
        path: directory.clone(),
        source,
    })?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| *name != "all" && *name != bridge) else { continue };
        let key = format!("ipv6/conf/{name}/accept_ra");
        if get(&key)?.is_some_and(|value| value == "1") {
            set(&key, "2")?;
        }
    }
    set("ipv6/conf/all/forwarding", "1")
}
