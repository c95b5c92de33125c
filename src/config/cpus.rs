//! Sets of processors, and who gets which.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Numbers of processors, as the kernel writes them: `0-2,5`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuSet(BTreeSet<u32>);

/// The kernel's own bound (`NR_CPUS` of its largest configuration); a range that goes further is a mistake.
const MAX_CPU: u32 = 8191;

impl CpuSet {
    /// Reads the kernel's list format. `None` when it is none, or empty.
    pub fn parse(text: &str) -> Option<Self> {
        let mut cpus = BTreeSet::new();
        for part in text.trim().split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.trim().parse::<u32>().ok()?, last.trim().parse::<u32>().ok()?);
            if first > last || last > MAX_CPU {
                return None;
            }
            cpus.extend(first..=last);
        }
        Some(Self(cpus))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of `self` that are not in `others`.
    pub fn without(&self, others: &Self) -> Self {
        Self(self.0.difference(&others.0).copied().collect())
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.0.iter().copied().peekable();
        let mut comma = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while cpus.peek() == Some(&(last + 1)) {
                last = cpus.next().unwrap_or(last);
            }
            write!(f, "{comma}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            comma = ",";
        }
        Ok(())
    }
}

/// What `limits.cpu` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CpuDemand {
    /// So many, whichever are least used.
    Count(usize),
    /// These.
    Pinned(CpuSet),
}

impl CpuDemand {
    /// Reads the value: a number is a count, anything with a dash or a comma a set (`1-1` is processor 1).
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.contains(['-', ',']) {
            return CpuSet::parse(text).map(Self::Pinned);
        }
        text.parse().ok().filter(|count| *count > 0).map(Self::Count)
    }
}

/// Which processors of `usable` each one gets that asks for some: those who name theirs get them, the others, in the
/// order of their names, so many of the least used. A set of which nothing is usable now gives all, rather than nothing.
pub fn balance<N: Ord + Clone>(demands: &BTreeMap<N, CpuDemand>, usable: &CpuSet) -> BTreeMap<N, CpuSet> {
    let mut load: BTreeMap<u32, usize> = usable.0.iter().map(|cpu| (*cpu, 0)).collect();
    let mut given = BTreeMap::new();
    for (name, demand) in demands {
        if let CpuDemand::Pinned(cpus) = demand {
            let there = CpuSet(cpus.0.intersection(&usable.0).copied().collect());
            let cpus = if there.is_empty() { usable.clone() } else { there };
            for cpu in &cpus.0 {
                *load.entry(*cpu).or_default() += 1;
            }
            given.insert(name.clone(), cpus);
        }
    }
    for (name, demand) in demands {
        if let CpuDemand::Count(count) = demand {
            let mut by_load: Vec<(usize, u32)> = load.iter().map(|(cpu, users)| (*users, *cpu)).collect();
            by_load.sort_unstable();
            let cpus: BTreeSet<u32> = by_load.into_iter().take(*count).map(|(_, cpu)| cpu).collect();
            for cpu in &cpus {
                *load.entry(*cpu).or_default() += 1;
            }
            given.insert(name.clone(), CpuSet(cpus));
        }
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> CpuSet {
        CpuSet::parse(text).unwrap()
    }

    #[test]
    fn sets_are_read_and_written_as_the_kernel_does() {
        for (text, shown) in [("0", "0"), ("0-3", "0-3"), ("3,1,2", "1-3"), ("0, 2-3 ,5", "0,2-3,5"), ("1-1", "1")] {
            assert_eq!(set(text).to_string(), shown, "{text}");
        }
        for bad in ["", "-", "3-1", "a", "1,,2", "0-4294967295", "1-"] {
            assert_eq!(CpuSet::parse(bad), None, "{bad}");
        }
        assert_eq!(set("0-3").without(&set("1,3")).to_string(), "0,2");
    }

    #[test]
    fn a_number_is_a_count_and_a_range_of_one_a_processor() {
        assert_eq!(CpuDemand::parse("2"), Some(CpuDemand::Count(2)));
        assert_eq!(CpuDemand::parse("1-1"), Some(CpuDemand::Pinned(set("1"))));
        for bad in ["0", "-1", "two", "1.5", ""] {
            assert_eq!(CpuDemand::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_least_used_are_given_first() {
        let demand = |text: &str| CpuDemand::parse(text).unwrap();
        let demands = [("a", demand("1")), ("b", demand("2")), ("c", demand("0-1")), ("d", demand("9"))].into();
        let given = balance(&demands, &set("0-3"));
        assert_eq!(given["c"].to_string(), "0-1");
        assert_eq!(given["a"].to_string(), "2");
        assert_eq!(given["b"].to_string(), "0,3");
        assert_eq!(given["d"].to_string(), "0-3", "more than there are is all");
        let gone = [("a", demand("7-8"))].into();
        assert_eq!(balance(&gone, &set("0-1"))["a"].to_string(), "0-1");
    }

    proptest::proptest! {
        #[test]
        fn everybody_gets_what_was_asked_for_and_the_load_is_even(counts in proptest::collection::vec(1usize..6, 0..20)) {
            let usable = set("0-7");
            let demands = counts.iter().copied().enumerate().map(|(n, count)| (n, CpuDemand::Count(count))).collect();
            let given = balance(&demands, &usable);
            let mut load = [0usize; 8];
            for (name, count) in counts.iter().enumerate() {
                assert_eq!(given[&name].len(), *count);
                for cpu in &given[&name].0 {
                    load[usize::try_from(*cpu).unwrap()] += 1;
                }
            }
            let (least, most) = (load.iter().min().unwrap(), load.iter().max().unwrap());
            assert!(most - least <= 1, "{load:?}");
        }
    }
}
