//! Memory: `/proc/meminfo`, blocks of `/sys/devices/system/memory`, nodes of `/sys/devices/system/node`.

use std::collections::BTreeMap;

use super::tree::Tree;
use crate::api::wire::resources::{Memory, MemoryNode};

const BLOCKS: &str = "sys/devices/system/memory";
const NODES: &str = "sys/devices/system/node";

/// `Name: 12 kB`, in a node's file `Node 0 Name: 12 kB`: name to number, kB as bytes.
fn fields(text: &str) -> BTreeMap<&str, u64> {
    let line = |line: &'_ str| -> Option<(usize, usize, u64)> {
        let colon = line.find(':')?;
        let start = line[..colon].rfind(' ').map_or(0, |at| at + 1);
        let mut words = line[colon + 1..].split_whitespace();
        let number: u64 = words.next()?.parse().ok()?;
        Some((start, colon, if words.next() == Some("kB") { number.saturating_mul(1024) } else { number }))
    };
    text.lines().filter_map(|text| line(text).map(|(start, end, number)| (&text[start..end], number))).collect()
}

/// The memory that is installed, by the blocks in `dir`: what the kernel keeps for itself counts, unlike in `MemTotal`.
fn installed(tree: &Tree, dir: &str) -> Option<u64> {
    let size = tree.hexadecimal(format!("{BLOCKS}/block_size_bytes"))?;
    let entries = tree.entries(dir);
    let blocks = entries.iter().filter(|name| name.strip_prefix("memory").is_some_and(|n| n.parse::<u64>().is_ok()));
    let online = blocks.filter(|name| tree.flag(format!("{dir}/{name}/online"))).count();
    u64::try_from(online).ok().filter(|count| *count > 0).map(|count| count * size)
}

pub(super) fn read(tree: &Tree) -> Memory {
    let text = tree.text("proc/meminfo");
    let all = fields(&text);
    let of = |name: &str| all.get(name).copied().unwrap_or(0);
    let page = of("Hugepagesize");
    let total = installed(tree, BLOCKS).unwrap_or_else(|| of("MemTotal")).max(of("MemTotal"));
    let nodes = tree.entries(NODES).iter().filter_map(|name| name.strip_prefix("node")?.parse::<u64>().ok()).collect();
    Memory {
        nodes: read_nodes(tree, nodes, page),
        hugepages_total: of("HugePages_Total") * page,
        hugepages_used: of("HugePages_Total").saturating_sub(of("HugePages_Free")) * page,
        hugepages_size: page,
        used: total.saturating_sub(of("MemAvailable")),
        total,
    }
}

fn read_nodes(tree: &Tree, numbers: Vec<u64>, page: u64) -> Vec<MemoryNode> {
    let node = |number: u64| {
        let dir = format!("{NODES}/node{number}");
        let text = tree.text(format!("{dir}/meminfo"));
        let all = fields(&text);
        let of = |name: &str| all.get(name).copied().unwrap_or(0);
        // A node has no `MemAvailable`; what can be had back are caches, but not shared memory.
        let caches = (of("FilePages") + of("SReclaimable")).saturating_sub(of("Shmem"));
        let total = installed(tree, &dir).unwrap_or_else(|| of("MemTotal")).max(of("MemTotal"));
        MemoryNode {
            numa_node: number,
            hugepages_total: of("HugePages_Total") * page,
            hugepages_used: of("HugePages_Total").saturating_sub(of("HugePages_Free")) * page,
            used: total.saturating_sub(of("MemFree")).saturating_sub(caches),
            total,
        }
    };
    numbers.into_iter().map(node).collect()
}

/// For [`crate::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz(text: &str) {
    fields(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_lines_are_read() {
        let found = fields("MemTotal:  2 kB\nNode 0 MemFree: 3 kB\nHugePages_Total:   7\nnonsense\n");
        assert_eq!(found, [("HugePages_Total", 7), ("MemFree", 3072), ("MemTotal", 2048)].into());
    }
}
