//! Small files below a root, and what all devices have in common.

use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

/// The root below which `/sys`, `/proc`, `/dev` and `/run` are read.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    root: PathBuf,
    kernel: String,
    live: bool,
}

/// Where a device hangs, and what drives it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) driver: String,
    pub(super) driver_version: String,
    pub(super) numa_node: u64,
    pub(super) pci_address: String,
    pub(super) usb_address: String,
    pub(super) vendor_id: String,
    pub(super) product_id: String,
}

impl Tree {
    /// This host's. `WARREN_TEST_HARDWARE`, for tests only, is the root of another one's files.
    pub(super) fn host() -> Self {
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        match std::env::var_os("WARREN_TEST_HARDWARE").filter(|root| !root.is_empty()) {
            Some(root) => Self { root: PathBuf::from(root), kernel, live: false },
            None => Self { root: PathBuf::from("/"), kernel, live: true },
        }
    }

    /// A copy of some host's files.
    #[cfg(test)]
    pub(super) fn copy(root: &Path, kernel: &str) -> Self {
        Self { root: root.to_owned(), kernel: kernel.to_owned(), live: false }
    }

    /// Whether devices themselves may be asked, and not only files read.
    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    pub(super) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }

    /// A file's text without blanks around it; empty when there is none, or nothing readable in it.
    pub(super) fn text(&self, path: impl AsRef<Path>) -> String {
        let bytes = std::fs::read(self.path(path)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned()
    }

    pub(super) fn number<T: FromStr>(&self, path: impl AsRef<Path>) -> Option<T> {
        self.text(path).parse().ok()
    }

    /// A number in hexadecimal digits.
    pub(super) fn hexadecimal(&self, path: impl AsRef<Path>) -> Option<u64> {
        u64::from_str_radix(self.text(path).trim_start_matches("0x"), 16).ok()
    }

    pub(super) fn flag(&self, path: impl AsRef<Path>) -> bool {
        self.text(path) == "1"
    }

    /// The names in a directory, numbers in them by value (`sda2` before `sda10`).
    pub(super) fn entries(&self, path: impl AsRef<Path>) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_by_cached_key(|name| sort_key(name));
        names
    }

    /// The last part of where a link points.
    pub(super) fn link(&self, path: impl AsRef<Path>) -> String {
        let target = std::fs::read_link(self.path(path)).unwrap_or_default();
        target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// The path without links, relative to the root.
    pub(super) fn real(&self, path: impl AsRef<Path>) -> Option<PathBuf> {
        let root = self.root.canonicalize().ok()?;
        let found = self.path(path).canonicalize().ok()?;
        found.strip_prefix(root).ok().map(Path::to_owned)
    }

    /// The version of a kernel module, which is the kernel's unless it says otherwise.
    pub(super) fn module_version(&self, driver: &Path) -> String {
        let module = self.link(driver.join("module"));
        match self.text(Path::new("sys/module").join(module).join("version")) {
            own if !own.is_empty() => own,
            _ => self.kernel.clone(),
        }
    }

    /// What is known of the device at `device`, a directory below `/sys`.
    pub(super) fn place(&self, device: &Path) -> Place {
        let driver = self.link(device.join("driver"));
        let driver_version =
            if driver.is_empty() { String::new() } else { self.module_version(&device.join("driver")) };
        let real = self.real(device).unwrap_or_default();
        let id = |name| self.text(device.join(name)).trim_start_matches("0x").to_owned();
        let usb = real.ancestors().find(|dir| self.exists(dir.join("busnum")) && self.exists(dir.join("devnum")));
        let usb_address = usb.map(|dir| format!("{}:{}", self.text(dir.join("busnum")), self.text(dir.join("devnum"))));
        // The kernel writes -1 where there are no nodes.
        let numa_node = real.ancestors().find_map(|dir| self.number::<i64>(dir.join("numa_node")));
        Place {
            driver,
            driver_version,
            numa_node: numa_node.and_then(|node| u64::try_from(node).ok()).unwrap_or(0),
            pci_address: pci_address(&real).unwrap_or_default(),
            usb_address: usb_address.unwrap_or_default(),
            vendor_id: id("vendor"),
            product_id: id("device"),
        }
    }
}

/// The address of the PCI device that a path leads through last.
fn pci_address(path: &Path) -> Option<String> {
    let is_address = |name: &str| {
        let bytes = name.as_bytes();
        // dddd:bb:dd.f; domains of more than four digits exist.
        bytes.len() >= 12
            && bytes[bytes.len() - 2] == b'.'
            && name.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, ':' | '.'))
            && name.matches(':').count() == 2
    };
    path.components().rev().find_map(|part| match part {
        Component::Normal(name) => name.to_str().filter(|name| is_address(name)).map(str::to_owned),
        _ => None,
    })
}

/// Numbers in a name count by value.
fn sort_key(name: &str) -> Vec<(String, u64)> {
    let mut key = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (number, after) = tail.split_at(end);
        key.push((text.to_owned(), number.parse().unwrap_or(0)));
        rest = after;
    }
    key
}

/// A list of numbers as the kernel writes it: `0-3,8`.
pub(super) fn list(text: &str) -> Vec<u64> {
    let mut all = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u64>(), last.parse::<u64>()) {
            // A wrong file must not fill the memory.
            all.extend((first..=last).take(1 << 16));
        }
    }
    all
}

/// For [`crate::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz(text: &str) {
    list(text);
    sort_key(text);
    pci_address(Path::new(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_by_their_numbers() {
        let mut names = vec!["cpu10", "cpu2", "cpu", "sda", "cpu1"];
        names.sort_by_key(|name| sort_key(name));
        assert_eq!(names, ["cpu", "cpu1", "cpu2", "cpu10", "sda"]);
    }

    #[test]
    fn lists_and_addresses_are_read() {
        assert_eq!(list("0-2,7\n"), [0, 1, 2, 7]);
        assert_eq!(list(""), [0u64; 0]);
        let path = Path::new("sys/devices/pci0000:00/0000:00:01.0/0000:02:00.1/net/eth0");
        assert_eq!(pci_address(path).as_deref(), Some("0000:02:00.1"));
        assert_eq!(pci_address(Path::new("sys/devices/virtual/net/lo")), None);
    }
}
