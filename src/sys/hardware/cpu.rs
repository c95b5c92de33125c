//! Processors: `/sys/devices/system/cpu`, names from `/proc/cpuinfo`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::tree::{Tree, list};
use crate::api::wire::resources::{Cache, Core, Cpu, Socket, Thread};

const CPUS: &str = "sys/devices/system/cpu";

/// Name and vendor of each CPU. Keys differ between architectures; these are those of x86, s390 and Arm.
fn models(text: &str) -> BTreeMap<u64, (String, String)> {
    let mut all = BTreeMap::new();
    for section in text.split("\n\n") {
        let get = |names: &[&str]| {
            let value = section.lines().filter_map(|line| line.split_once(':'));
            let mut value = value.filter(|(key, _)| names.contains(&key.trim())).map(|(_, value)| value.trim());
            value.next().map(str::to_owned)
        };
        if let Some(id) = get(&["processor"]).and_then(|text| text.parse().ok()) {
            let name = get(&["model name", "cpu", "Processor"]).unwrap_or_default();
            all.insert(id, (name, get(&["vendor_id", "CPU implementer"]).unwrap_or_default()));
        }
    }
    all
}

/// Sizes are written as `32K`.
fn size(text: &str) -> u64 {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "K" => 1024,
        "M" => 1024 * 1024,
        "G" => 1024 * 1024 * 1024,
        _ => 1,
    };
    digits.parse::<u64>().unwrap_or(0).saturating_mul(unit)
}

fn caches(tree: &Tree, cpu: &Path) -> Vec<Cache> {
    let dir = cpu.join("cache");
    let indexes = tree.entries(&dir).into_iter().filter(|name| name.starts_with("index"));
    indexes
        .map(|index| dir.join(index))
        .filter_map(|index| {
            Some(Cache {
                level: tree.number(index.join("level"))?,
                kind: tree.text(index.join("type")),
                size: size(&tree.text(index.join("size"))),
            })
        })
        .collect()
}

fn mhz(tree: &Tree, cpu: &Path, file: &str) -> u64 {
    // Files of cpufreq hold kHz.
    tree.number::<u64>(cpu.join("cpufreq").join(file)).unwrap_or(0) / 1000
}

fn node(tree: &Tree, cpu: &Path) -> u64 {
    let entries = tree.entries(cpu);
    entries.iter().find_map(|name| name.strip_prefix("node")?.parse().ok()).unwrap_or(0)
}

/// A CPU that is switched off has no place in a socket: the kernel takes its topology away, so it is not listed.
pub(super) fn read(tree: &Tree, architecture: &str) -> Cpu {
    let models = models(&tree.text("proc/cpuinfo"));
    let isolated = list(&tree.text(format!("{CPUS}/isolated")));
    let mut sockets: BTreeMap<u64, Socket> = BTreeMap::new();
    let mut total = 0;
    for id in tree.entries(CPUS).iter().filter_map(|name| name.strip_prefix("cpu")?.parse::<u64>().ok()) {
        let cpu = PathBuf::from(format!("{CPUS}/cpu{id}"));
        let topology = |file: &str| tree.number::<i64>(cpu.join("topology").join(file));
        let Some(core) = topology("core_id").and_then(|core| u64::try_from(core).ok()) else { continue };
        // -1 where the machine has no such division.
        let or_zero = |file| topology(file).and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
        let (number, die) = (or_zero("physical_package_id"), or_zero("die_id"));
        let socket = sockets.entry(number).or_insert_with(|| {
            let (name, vendor) = models.get(&id).cloned().unwrap_or_default();
            Socket {
                name,
                vendor,
                socket: number,
                cache: caches(tree, &cpu),
                frequency_minimum: mhz(tree, &cpu, "cpuinfo_min_freq"),
                frequency_turbo: mhz(tree, &cpu, "cpuinfo_max_freq"),
                ..Socket::default()
            }
        });
        let at = match socket.cores.iter().position(|known| (known.die, known.core) == (die, core)) {
            Some(at) => at,
            None => {
                let frequency = mhz(tree, &cpu, "scaling_cur_freq");
                socket.cores.push(Core { core, die, frequency, threads: Vec::new() });
                socket.cores.len() - 1
            }
        };
        let threads = &mut socket.cores[at].threads;
        threads.push(Thread {
            id,
            numa_node: node(tree, &cpu),
            thread: u64::try_from(threads.len()).unwrap_or(0),
            online: !tree.exists(cpu.join("online")) || tree.flag(cpu.join("online")),
            isolated: isolated.contains(&id),
        });
        total += 1;
    }
    for socket in sockets.values_mut() {
        socket.cores.sort_by_key(|core| (core.die, core.core));
        let known: Vec<u64> = socket.cores.iter().map(|core| core.frequency).filter(|mhz| *mhz > 0).collect();
        let count = u64::try_from(known.len()).unwrap_or(0).max(1);
        socket.frequency = known.iter().sum::<u64>() / count;
    }
    Cpu { architecture: architecture.to_owned(), sockets: sockets.into_values().collect(), total }
}

/// For [`crate::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz(text: &str) {
    models(text);
    size(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("32K"), 32768);
        assert_eq!(size("12M"), 12 << 20);
        assert_eq!(size(""), 0);
    }

    #[test]
    fn models_are_told_by_processor() {
        let found = models("processor\t: 0\nvendor_id\t: V\nmodel name\t: N x\n\nprocessor\t: 1\nmodel name\t: M\n");
        assert_eq!(found[&0], ("N x".to_owned(), "V".to_owned()));
        assert_eq!(found[&1].0, "M");
    }
}
