//! Id maps: which ids of the host an unprivileged container gets.

use std::fmt;
use std::path::{Path, PathBuf};

/// A container needs this many ids: those of every distribution's users, `nobody` (65534) included.
pub const MINIMUM: u32 = 65536;

/// A range of the host's ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// First id on the host.
    pub base: u32,
    /// How many.
    pub size: u32,
}

impl IdRange {
    /// The first id after it. Ranges end before the last id of 32 bits, which means "none".
    pub fn end(self) -> u64 {
        u64::from(self.base) + u64::from(self.size)
    }

    /// Whether both have an id in common.
    pub fn overlaps(self, other: Self) -> bool {
        u64::from(self.base) < other.end() && u64::from(other.base) < self.end()
    }

    /// Whether all of `other` is in it.
    pub fn holds(self, other: Self) -> bool {
        self.base <= other.base && other.end() <= self.end()
    }
}

/// A row of a map: so many ids from `inside` on are those from `outside` on of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First id inside.
    pub inside: u32,
    /// First id on the host.
    pub outside: u32,
    /// How many.
    pub size: u32,
}

impl Extent {
    /// Its ids inside.
    pub fn inner(self) -> IdRange {
        IdRange { base: self.inside, size: self.size }
    }

    /// Its ids on the host.
    pub fn outer(self) -> IdRange {
        IdRange { base: self.outside, size: self.size }
    }

    /// What of it lies before `from` and from `to` on, counted from its own first id.
    fn without(self, from: u64, to: u64) -> impl Iterator<Item = Self> {
        let size = u64::from(self.size);
        let part = move |start: u64, end: u64| {
            let (offset, size) = (u32::try_from(start).ok()?, u32::try_from(end.checked_sub(start)?).ok()?);
            (size > 0).then(|| Self { inside: self.inside + offset, outside: self.outside + offset, size })
        };
        [part(0, from.min(size)), part(to.min(size), size)].into_iter().flatten()
    }
}

/// The map of one container: rows that have no id in common, inside or outside, in the order of the ids inside. Id 0
/// has a row in each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    uid: Vec<Extent>,
    gid: Vec<Extent>,
}

/// Why there is no map.
#[derive(Debug)]
pub enum Error {
    /// The file has no range for root that is large enough.
    NoRange {
        /// `/etc/subuid` or `/etc/subgid`.
        file: PathBuf,
    },
    /// It cannot be read.
    Read {
        /// `/etc/subuid` or `/etc/subgid`.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Every part of root's range is some running container's.
    Exhausted {
        /// What was asked for, ids.
        size: u32,
        /// The line that would make room.
        line: String,
    },
    /// The ids that were asked for are those of a running container.
    Taken {
        /// The key that asks for them.
        key: &'static str,
        /// Which.
        range: IdRange,
        /// The container.
        by: String,
    },
    /// Ids that root has no line for.
    NotGiven {
        /// The key that asks for them.
        key: &'static str,
        /// Which.
        range: IdRange,
        /// `/etc/subuid` or `/etc/subgid`.
        file: PathBuf,
    },
    /// `raw.idmap` names ids of the range from which containers get theirs.
    Subordinate {
        /// Which.
        range: IdRange,
        /// `/etc/subuid` or `/etc/subgid`.
        file: PathBuf,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way_out = "add the line \"root:1000000:1000000000\" to /etc/subuid and to /etc/subgid";
        match self {
            Self::NoRange { file } => write!(
                f,
                "Unprivileged containers need a range of at least {MINIMUM} ids for root, and {} has none: {way_out}",
                file.display()
            ),
            Self::Read { file, error } => {
                write!(
                    f,
                    "Unprivileged containers need a range of ids, but {} cannot be read ({error}): {way_out}",
                    file.display()
                )
            }
            Self::Exhausted { size, line } => write!(
                f,
                "No {size} ids in a row are free for an isolated container: the others that run have them; stop one, or put the line {line:?} in the place of root's first one in /etc/subuid and in /etc/subgid"
            ),
            Self::Taken { key, range, by } => write!(
                f,
                "Configuration key {key:?}: of the ids {} to {}, the running instance {by:?} has some; choose others, or stop it",
                range.base,
                range.end() - 1
            ),
            Self::NotGiven { key, range, file } => write!(
                f,
                "Configuration key {key:?}: root may not map the ids {} to {}: add the line \"root:{}:{}\" to {}",
                range.base,
                range.end() - 1,
                range.base,
                range.size,
                file.display()
            ),
            Self::Subordinate { range, file } => write!(
                f,
                "Configuration key \"raw.idmap\": the ids {} to {} of the host are in the range of {} from which containers get theirs; name others",
                range.base,
                range.end() - 1,
                file.display()
            ),
        }
    }
}

impl std::error::Error for Error {}

/// The ranges of root (by name or number) in the text of a subid file (subuid(5)).
fn ranges_of_root(text: &str) -> Vec<IdRange> {
    let range = |line: &str| {
        let mut parts = line.trim().split(':');
        let (user, base, size) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?.parse::<u64>().ok()?);
        if !matches!(user, "root" | "0") {
            return None;
        }
        // Ids are 32 bits, and the last one means "none".
        let size = size.min(u64::from(u32::MAX - 1).saturating_sub(u64::from(base)));
        Some(IdRange { base, size: u32::try_from(size).ok()? })
    };
    text.lines().filter_map(range).collect()
}

/// The first one that is large enough.
fn first_large(ranges: &[IdRange]) -> Option<IdRange> {
    ranges.iter().copied().find(|range| range.size >= MINIMUM)
}

fn read(file: &Path) -> Result<Vec<IdRange>, Error> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(ranges_of_root(&text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::NoRange { file: file.to_owned() }),
        Err(error) => Err(Error::Read { file: file.to_owned(), error }),
    }
}

/// Root's range in a subid file.
///
/// # Errors
/// With the line to add, when there is none.
pub fn range_in(file: &Path) -> Result<IdRange, Error> {
    first_large(&read(file)?).ok_or_else(|| Error::NoRange { file: file.to_owned() })
}

/// The files of subordinate ids: of users, of groups.
pub const FILES: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

/// What root may map on this host.
#[derive(Debug, Clone)]
pub struct Subordinate {
    /// All of root's lines: of users, of groups.
    lines: [Vec<IdRange>; 2],
    /// The range that containers get theirs from: of users, of groups.
    main: [IdRange; 2],
    /// liblxc maps by newuidmap(1), which insists on the lines even for root.
    strict: bool,
}

/// Whether newuidmap(1) and newgidmap(1) are there: then liblxc uses them (tried with 5.0.2 and 6.0.4).
fn has_shadow() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    there("newuidmap") && there("newgidmap")
}

impl Subordinate {
    /// Read now, so that a mended file counts at once.
    ///
    /// # Errors
    /// With the line to add, when there is no range.
    pub fn of_host() -> Result<Self, Error> {
        let [uids, gids] = FILES.map(Path::new);
        let (uid, gid) = (read(uids)?, read(gids)?);
        let main = |ranges: &[IdRange], file: &Path| {
            first_large(ranges).ok_or_else(|| Error::NoRange { file: file.to_owned() })
        };
        Ok(Self { main: [main(&uid, uids)?, main(&gid, gids)?], lines: [uid, gid], strict: has_shadow() })
    }

    /// The map over all of the range.
    pub fn whole(&self) -> IdMap {
        let [uid, gid] = self.main;
        IdMap::new(uid, gid)
    }

    /// Where isolated containers get theirs: what users and groups have in common, but for its first [`MINIMUM`] ids,
    /// as with LXD.
    pub fn for_isolated(&self) -> IdRange {
        let [uid, gid] = self.main;
        let base = u64::from(uid.base.max(gid.base)) + u64::from(MINIMUM);
        let size = uid.end().min(gid.end()).saturating_sub(base);
        match (u32::try_from(base), u32::try_from(size)) {
            (Ok(base), Ok(size)) => IdRange { base, size },
            _ => IdRange { base: 0, size: 0 },
        }
    }

    /// The lowest `size` ids in a row that none of `held` has.
    ///
    /// # Errors
    /// [`Error::Exhausted`], with the line that would make room.
    pub fn lowest_free(&self, size: u32, held: impl IntoIterator<Item = IdRange>) -> Result<IdRange, Error> {
        lowest_free(self.for_isolated(), size, held).ok_or_else(|| {
            let small = self.main.iter().any(|range| range.size < 1_000_000_000);
            let count = if small { 1_000_000_000 } else { u32::MAX - 1 - 1_000_000 };
            Error::Exhausted { size, line: format!("root:1000000:{count}") }
        })
    }

    /// Whether root may map this range of users and groups, asked for by `key`.
    ///
    /// # Errors
    /// [`Error::NotGiven`], with the line to add.
    pub fn check(&self, key: &'static str, range: IdRange, kinds: [bool; 2]) -> Result<(), Error> {
        for ((lines, file), asked) in self.lines.iter().zip(FILES).zip(kinds) {
            if asked && self.strict && !lines.iter().any(|line| line.holds(range)) {
                return Err(Error::NotGiven { key, range, file: file.into() });
            }
        }
        Ok(())
    }

    /// Whether `raw.idmap` may name this range of the host: the same, and it is none that containers get.
    ///
    /// # Errors
    /// [`Error::Subordinate`], [`Error::NotGiven`].
    pub fn check_raw(&self, range: IdRange, kinds: [bool; 2]) -> Result<(), Error> {
        for ((main, file), asked) in self.main.iter().zip(FILES).zip(kinds) {
            if asked && main.overlaps(range) {
                return Err(Error::Subordinate { range, file: file.into() });
            }
        }
        self.check("raw.idmap", range, kinds)
    }
}

/// The lowest `size` ids of `within` in a row that none of `held` has.
fn lowest_free(within: IdRange, size: u32, held: impl IntoIterator<Item = IdRange>) -> Option<IdRange> {
    let mut held: Vec<IdRange> = held.into_iter().collect();
    held.sort_unstable_by_key(|range| range.base);
    let mut base = u64::from(within.base);
    for range in held {
        if u64::from(range.base) >= base + u64::from(size) {
            break;
        }
        base = base.max(range.end());
    }
    (base + u64::from(size) <= within.end()).then_some(())?;
    Some(IdRange { base: u32::try_from(base).ok()?, size })
}

/// Puts `new` into `rows`, which lose what they have of its ids, inside and outside.
fn punch(rows: &mut Vec<Extent>, new: Extent) {
    let cut = |row: Extent, own: IdRange, other: IdRange| {
        let from = u64::from(other.base).saturating_sub(u64::from(own.base));
        let to = other.end().saturating_sub(u64::from(own.base));
        // Without an overlap nothing is cut: from the end to the end.
        let (from, to) = if own.overlaps(other) { (from, to) } else { (u64::MAX, u64::MAX) };
        row.without(from, to)
    };
    let inner = rows.drain(..).flat_map(|row| cut(row, row.inner(), new.inner())).collect::<Vec<_>>();
    rows.extend(inner.into_iter().flat_map(|row| cut(row, row.outer(), new.outer())));
    rows.push(new);
    rows.sort_unstable_by_key(|row| row.inside);
}

impl IdMap {
    /// Ids from 0 on are those of these ranges.
    pub fn new(uid: IdRange, gid: IdRange) -> Self {
        let rows = |range: IdRange| vec![Extent { inside: 0, outside: range.base, size: range.size }];
        Self { uid: rows(uid), gid: rows(gid) }
    }

    /// Maps the ids of `row` as it says, whatever they were mapped to before: of users, of groups.
    pub fn punch(&mut self, row: Extent, kinds: [bool; 2]) {
        for (rows, asked) in [&mut self.uid, &mut self.gid].into_iter().zip(kinds) {
            if asked {
                punch(rows, row);
            }
        }
    }

    /// The map that a process has: of the text of its `uid_map` and `gid_map` (user_namespaces(7)). `None` without rows.
    pub fn of_process(uid_map: &str, gid_map: &str) -> Option<Self> {
        let rows = |text: &str| {
            let mut rows: Vec<Extent> = text.lines().filter_map(extent).collect();
            rows.sort_unstable_by_key(|row| row.inside);
            (!rows.is_empty()).then_some(rows)
        };
        Some(Self { uid: rows(uid_map)?, gid: rows(gid_map)? })
    }

    /// What a user and a group inside are on the host; `None` where the map has no row for it.
    pub fn outside(&self, uid: u32, gid: u32) -> (Option<u32>, Option<u32>) {
        let find = |rows: &[Extent], id: u32| {
            let row = rows.iter().find(|row| u64::from(id) < row.inner().end() && id >= row.inside)?;
            Some(row.outside + (id - row.inside))
        };
        (find(&self.uid, uid), find(&self.gid, gid))
    }

    /// What a user and a group of the host are inside; `None` where the map has no row for it.
    pub fn inside(&self, uid: u32, gid: u32) -> (Option<u32>, Option<u32>) {
        let find = |rows: &[Extent], id: u32| {
            let row = rows.iter().find(|row| u64::from(id) < row.outer().end() && id >= row.outside)?;
            Some(row.inside + (id - row.outside))
        };
        (find(&self.uid, uid), find(&self.gid, gid))
    }

    /// Its rows: users, groups.
    pub fn rows(&self) -> (&[Extent], &[Extent]) {
        (&self.uid, &self.gid)
    }

    /// Who its root is on the host: user and group. A map without a row for id 0 has none.
    pub fn root(&self) -> (u32, u32) {
        let root = |rows: &[Extent]| rows.first().map_or(u32::MAX - 1, |row| row.outside);
        (root(&self.uid), root(&self.gid))
    }

    /// Values of `lxc.idmap`.
    pub fn lxc_lines(&self) -> Vec<String> {
        let line = |kind: char| move |row: &Extent| format!("{kind} {} {} {}", row.inside, row.outside, row.size);
        self.uid.iter().map(line('u')).chain(self.gid.iter().map(line('g'))).collect()
    }

    /// Lines of `uid_map` and `gid_map` for an id-mapped mount. With `spare`, one id beyond the container's stands for
    /// root of the host: overlayfs works as the one who mounts, and its upper layer must be able to hold files of his.
    pub fn mount_maps(&self, spare: bool) -> (String, String) {
        let lines = |rows: &[Extent]| {
            let mut text = String::new();
            for row in rows {
                text.push_str(&format!("{} {} {}\n", row.inside, row.outside, row.size));
            }
            let end = rows.iter().map(|row| row.inner().end()).max().unwrap_or(0);
            // One whose raw.idmap has root of the host needs no other, and may not have one.
            if spare && end < u64::from(u32::MAX) && rows.iter().all(|row| row.outside != 0) {
                text.push_str(&format!("{end} 0 1\n"));
            }
            text
        };
        (lines(&self.uid), lines(&self.gid))
    }

    /// As `volatile.idmap.current` tells it.
    pub fn to_json(&self) -> String {
        let entry = |row: &Extent, uid: bool| serde_json::json!({"Isuid": uid, "Isgid": !uid, "Hostid": row.outside, "Nsid": row.inside, "Maprange": row.size});
        let users = self.uid.iter().map(|row| entry(row, true));
        serde_json::Value::Array(users.chain(self.gid.iter().map(|row| entry(row, false))).collect()).to_string()
    }
}

impl IdMap {
    /// Of the text of [`Self::to_json`]; `None` for any other, and for one without rows.
    pub fn from_json(text: &str) -> Option<Self> {
        let (mut uid, mut gid) = (Vec::new(), Vec::new());
        for row in serde_json::from_str::<serde_json::Value>(text).ok()?.as_array()? {
            let number = |name: &str| row[name].as_u64().and_then(|number| u32::try_from(number).ok());
            let extent = Extent { inside: number("Nsid")?, outside: number("Hostid")?, size: number("Maprange")? };
            if extent.inner().end().max(extent.outer().end()) > u64::from(u32::MAX) {
                return None;
            }
            // LXD has rows for both.
            uid.extend((row["Isuid"] == true).then_some(extent));
            gid.extend((row["Isgid"] == true).then_some(extent));
        }
        for rows in [&mut uid, &mut gid] {
            rows.sort_unstable_by_key(|row| row.inside);
        }
        (!uid.is_empty() && !gid.is_empty()).then_some(Self { uid, gid })
    }
}

/// A row of a `uid_map`.
fn extent(line: &str) -> Option<Extent> {
    let mut words = line.split_whitespace().map(|word| word.parse::<u32>().ok());
    Some(Extent { inside: words.next()??, outside: words.next()??, size: words.next()?? })
}

/// The range that the process of a `uid_map` (user_namespaces(7)) got, when it was given `base`: as far as its ids are
/// still mapped there. `None` when it has none of it.
pub fn range_of(uid_map: &str, base: u32) -> Option<IdRange> {
    let own = uid_map.lines().filter_map(extent).filter(|row| row.outside.checked_sub(row.inside) == Some(base));
    let size = own.map(|row| row.inner().end()).max()?;
    Some(IdRange { base, size: u32::try_from(size).ok()? })
}

/// For [`crate::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(text: &str) {
    let ranges = ranges_of_root(text);
    if let Some(range) = first_large(&ranges) {
        assert!(range.size >= MINIMUM && range.base.checked_add(range.size).is_some_and(|end| end < u32::MAX));
        let mut map = IdMap::new(range, range);
        for range in ranges.into_iter().filter(|range| range.size > 0) {
            map.punch(Extent { inside: range.base, outside: range.base, size: range.size }, [true, false]);
        }
        map.mount_maps(true);
        map.lxc_lines();
    }
    range_of(text, 0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_map_of_a_process_says_who_somebody_is_outside() {
        let uids = "         0    1000000      65536\n     70000          7          1\n";
        let map = IdMap::of_process(uids, "0 2000000 65536\n").unwrap();
        assert_eq!(map.outside(5, 6), (Some(1_000_005), Some(2_000_006)));
        assert_eq!(map.outside(70_000, 70_000), (Some(7), None));
        assert_eq!(map.outside(65_536, 0).0, None);
        assert_eq!(IdMap::of_process("", "0 1 1"), None);
    }

    #[test]
    fn the_first_large_enough_range_of_root_counts() {
        let first = |text: &str| first_large(&ranges_of_root(text));
        let text = "me:100000:65536\nroot:5:10\nroot:1000000:1000000000\nroot:7:65536\n";
        assert_eq!(first(text), Some(IdRange { base: 1_000_000, size: 1_000_000_000 }));
        assert_eq!(first("0:1:65536"), Some(IdRange { base: 1, size: 65536 }));
        assert_eq!(first("root:1:65535\nnonsense\nroot:x:y"), None);
        assert_eq!(first("root:1000000:99999999999").unwrap().size, u32::MAX - 1 - 1_000_000);
    }

    #[test]
    fn the_refusal_says_which_line_to_add() {
        let text = Error::NoRange { file: "/etc/subuid".into() }.to_string();
        assert!(text.contains("root:1000000:1000000000") && text.contains("/etc/subuid"));
    }

    #[test]
    fn a_spare_row_maps_one_more_id_to_root() {
        let range = IdRange { base: 100_000, size: 65536 };
        let (uids, _) = IdMap::new(range, range).mount_maps(true);
        assert_eq!(uids, "0 100000 65536\n65536 0 1\n");
    }

    #[test]
    fn a_row_is_punched_into_the_map() {
        let range = IdRange { base: 100_000, size: 65536 };
        let mut map = IdMap::new(range, range);
        map.punch(Extent { inside: 1000, outside: 500, size: 2 }, [true, false]);
        let lines = ["u 0 100000 1000", "u 1000 500 2", "u 1002 101002 64534", "g 0 100000 65536"];
        assert_eq!(map.lxc_lines(), lines);
        map.punch(Extent { inside: 0, outside: 0, size: 1 }, [true, true]);
        assert_eq!(map.root(), (0, 0));
        assert!(
            map.mount_maps(true).0.starts_with("0 0 1\n1 100001 999\n")
                && !map.mount_maps(true).0.contains(" 0 1\n1 0")
        );
    }

    #[test]
    fn the_kernel_knows_which_range_a_container_has() {
        let map =
            "         0    2000000       1000\n      1000       500          2\n      1002    2001002      64534\n";
        assert_eq!(range_of(map, 2_000_000), Some(IdRange { base: 2_000_000, size: 65536 }));
        assert_eq!(range_of(map, 3_000_000), None);
    }

    fn host(size: u32) -> Subordinate {
        let main = IdRange { base: 1_000_000, size };
        Subordinate { lines: [vec![main], vec![main]], main: [main, main], strict: true }
    }

    #[test]
    fn the_first_one_is_after_the_first_block_and_the_last_refusal_names_the_line() {
        let free = host(3 * MINIMUM).lowest_free(MINIMUM, []).unwrap();
        assert_eq!(free.base, 1_000_000 + MINIMUM);
        let error = host(MINIMUM).lowest_free(MINIMUM, []).unwrap_err().to_string();
        assert!(error.contains("\"root:1000000:1000000000\"") && error.contains("/etc/subuid"), "{error}");
    }

    proptest! {
        /// Containers come and go: no two ever have an id in common, and no lower place would have been free.
        #[test]
        fn ranges_are_apart_and_the_lowest(steps in proptest::collection::vec((0usize..8, 1u32..200_000), 1..60)) {
            let host = host(20 * MINIMUM);
            let mut held: std::collections::BTreeMap<usize, IdRange> = std::collections::BTreeMap::new();
            for (who, size) in steps {
                if held.remove(&who).is_some() {
                    continue;
                }
                match host.lowest_free(size, held.values().copied()) {
                    Ok(range) => {
                        prop_assert!(host.for_isolated().holds(range) && range.size == size);
                        prop_assert!(held.values().all(|other| !other.overlaps(range)));
                        // The lowest: it begins where the room begins, or right after somebody, and every lower such place is no good.
                        let starts = held.values().map(|other| u32::try_from(other.end()).unwrap());
                        for base in starts.chain([host.for_isolated().base]).filter(|base| *base < range.base) {
                            let lower = IdRange { base, size };
                            prop_assert!(held.values().any(|other| other.overlaps(lower)));
                        }
                        held.insert(who, range);
                    }
                    Err(_) => {
                        let starts = held.values().map(|other| u32::try_from(other.end()).unwrap());
                        for base in starts.chain([host.for_isolated().base]) {
                            let place = IdRange { base, size };
                            let fits = host.for_isolated().holds(place);
                            prop_assert!(!fits || held.values().any(|other| other.overlaps(place)));
                        }
                    }
                }
            }
        }

        /// Whatever is punched in, no id has two rows, and the last word counts.
        #[test]
        fn rows_never_overlap(rows in proptest::collection::vec((0u32..70_000, 0u32..200_000, 1u32..3000), 0..12)) {
            let range = IdRange { base: 100_000, size: 65536 };
            let mut map = IdMap::new(range, range);
            for (inside, outside, size) in rows {
                let row = Extent { inside, outside, size };
                map.punch(row, [true, false]);
                prop_assert!(map.uid.contains(&row));
                for (index, one) in map.uid.iter().enumerate() {
                    prop_assert!(one.size > 0);
                    for other in &map.uid[index + 1..] {
                        prop_assert!(!one.inner().overlaps(other.inner()) && !one.outer().overlaps(other.outer()));
                    }
                }
            }
            prop_assert_eq!(map.gid.len(), 1);
        }
    }
}
