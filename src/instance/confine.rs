//! What confines an instance beyond its id map: its seccomp policy as a file, the kernel modules that it needs.

use std::path::{Path, PathBuf};

use super::error::Error;
use super::{Context, blocking};
use crate::api::wire::Config;
use crate::config::intercept::{lines_beside, lines_instead};
use crate::config::syscalls::{COMPAT, Filter};
use crate::config::{self, names_of, raw_lxc};
use crate::helper::{self, ContainerRef};
use crate::security::seccomp::Policy;
use crate::sys::module;

const MODULES: &str = "linux.kernel_modules";

fn policy(config: &Config, intercepted: bool) -> String {
    // Elsewhere no program is of another architecture that has these.
    let compat = if cfg!(target_arch = "x86_64") { COMPAT } else { &[] };
    match Filter::of(config) {
        Filter::Raw(text) => Policy::Raw(text).text(),
        Filter::Allow(lines) => {
            let (mut all, notified) = if intercepted { lines_instead(config, &lines) } else { (lines, Vec::new()) };
            all.extend(notified.iter().map(String::as_str));
            Policy::Allow(&all).text()
        }
        Filter::Deny { mut lines, usual, compat: all } => {
            let notified = if intercepted { lines_beside(config, &lines) } else { Vec::new() };
            lines.extend(notified.iter().map(String::as_str));
            Policy::Deny { lines: &lines, usual, compat: if all { compat } else { &[] } }.text()
        }
    }
}

/// Writes the policy of an instance with this expanded configuration, with the calls that the daemon does for it when
/// these are `intercepted`; liblxc reads it at the start and at each attach.
pub(super) fn write_policy(path: &Path, config: &Config, intercepted: bool) -> Result<(), Error> {
    std::fs::write(path, policy(config, intercepted)).map_err(|error| Error::Io {
        doing: "write",
        path: path.to_owned(),
        error,
    })
}

/// Asks liblxc whether it takes the lines of `raw.lxc`, unless they are as before.
pub(super) async fn check_raw(context: &Context, before: &Config, after: &Config) -> Result<(), Error> {
    let raw = |config: &Config| config.get("raw.lxc").cloned().unwrap_or_default();
    let text = raw(after);
    if text == raw(before) {
        return Ok(());
    }
    // The form is checked by the key's row.
    let lines = raw_lxc::parse(&text).unwrap_or_default();
    if lines.is_empty() {
        return Ok(());
    }
    // No instance has this name.
    let container = ContainerRef { name: ".raw".to_owned(), lxc_path: context.dir.lxc_path(), config: PathBuf::new() };
    let items = lines.into_iter().map(|line| (line.key, line.value)).collect();
    context.launcher.check_items(&container, items).await.map_err(|error| match error {
        helper::Error::Lxc { reason, .. } => Error::RawLxc { reason },
        error => Error::Helper(error),
    })
}

/// Keys by which a configuration can keep a container from starting.
const SUSPECTS: &[&str] = &[
    "limits.hugepages.",
    "limits.kernel.",
    "limits.memory",
    "limits.processes",
    "linux.sysctl.",
    "raw.",
    "security.syscalls.",
];

/// What of this expanded configuration may be why liblxc could not start a container: `log` is what it said.
pub(super) fn suspects(config: &Config, log: &[String]) -> Vec<String> {
    let set = config.iter().filter(|(key, value)| {
        let row = config::instance_row(key);
        let usual = row.is_none_or(|row| value.is_empty() || row.default == value.as_str());
        !usual && SUSPECTS.iter().any(|start| key.starts_with(start))
    });
    let set: Vec<&String> = set.map(|(key, _)| key).collect();
    // It may have named one.
    let said = |key: &str| {
        let last = key.strip_prefix("linux.sysctl.").or(key.rsplit('.').next()).unwrap_or(key);
        log.iter().any(|line| line.split([' ', ';', ':', ',', '"', '\'']).any(|word| word == last))
    };
    let named: Vec<String> = set.iter().filter(|key| said(key)).map(|key| (*key).clone()).collect();
    if named.is_empty() { set.into_iter().cloned().collect() } else { named }
}

/// Removes it; none is fine.
pub(super) fn remove_policy(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Io { doing: "remove", path: path.to_owned(), error })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The tool that liblxc's hook of this driver calls.
const NVIDIA_TOOL: &str = "nvidia-container-cli";

/// liblxc's hook that mounts the host's NVIDIA driver, where Debian's and others' packages of liblxc have it.
const NVIDIA_HOOK: &str = "/usr/share/lxc/hooks/nvidia";

/// What an instance with this expanded configuration gets of the host's NVIDIA driver, as lines for liblxc: a hook, and
/// what that reads from the environment. No GPU: these are devices.
///
/// # Errors
/// [`Error::NoNvidia`] when it wants it and the host does not have it.
pub(super) fn nvidia_lines(config: &Config) -> Result<Vec<(String, String)>, Error> {
    if !config::bool_of(config, "nvidia.runtime") {
        return Ok(Vec::new());
    }
    if !Path::new(NVIDIA_HOOK).exists() {
        return Err(Error::NoNvidia { missing: NVIDIA_HOOK });
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|dir| dir.join(NVIDIA_TOOL).exists()) {
        return Err(Error::NoNvidia { missing: NVIDIA_TOOL });
    }
    let mut lines = vec![("lxc.environment".to_owned(), "NVIDIA_VISIBLE_DEVICES=none".to_owned())];
    for (key, variable, default) in [
        ("nvidia.driver.capabilities", "NVIDIA_DRIVER_CAPABILITIES", "compute,utility"),
        ("nvidia.require.cuda", "NVIDIA_REQUIRE_CUDA", ""),
        ("nvidia.require.driver", "NVIDIA_REQUIRE_DRIVER", ""),
    ] {
        let value = config.get(key).map_or(default, String::as_str);
        if !value.is_empty() {
            lines.push(("lxc.environment".to_owned(), format!("{variable}={value}")));
        }
    }
    lines.push(("lxc.hook.mount".to_owned(), NVIDIA_HOOK.to_owned()));
    Ok(lines)
}

/// Loads the kernel modules that an instance with this expanded configuration needs, but for those that it needed
/// `before`. They stay: others may use them by then.
///
/// # Errors
/// [`Error::Module`], of the first that cannot be loaded.
pub(super) async fn load_modules(before: Option<&Config>, config: &Config) -> Result<(), Error> {
    let list = |config: &Config| config.get(MODULES).cloned().unwrap_or_default();
    let (old, new) = (before.map(list).unwrap_or_default(), list(config));
    let names: Vec<String> =
        names_of(&new).filter(|name| names_of(&old).all(|old| old != *name)).map(str::to_owned).collect();
    if names.is_empty() {
        return Ok(());
    }
    blocking(move || {
        for name in names {
            module::load(&name).map_err(|error| Error::Module { name, error })?;
        }
        Ok(())
    })
    .await
}
