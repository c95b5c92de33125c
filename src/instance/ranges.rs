//! Which ids of the host the isolated instances have.
//!
//! ```text
//!   start, or use of its files while down ── take() ──> held ── down and unused ── give_back()
//!   the daemon's start ── adopted() (what the kernel says of its init) ──^
//! ```
//! Files are stored unshifted, so a range is only for as long as somebody runs with it. Where files have to be shifted,
//! one is kept for whose files have its ids, and is taken again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Context;
use super::error::Error;
use crate::api::wire::Config;
use crate::config::{self, raw_idmap};
use crate::names::InstanceKey;
use crate::security::idmap::{self, Extent, IdMap, IdRange, MINIMUM, Subordinate};

/// The first id of its range while it runs; `0`: it shares the whole.
const BASE: &str = "volatile.idmap.base";
const CURRENT: &str = "volatile.idmap.current";
const NEXT: &str = "volatile.idmap.next";
/// How its files are stored.
const STORED: &str = "volatile.last_state.idmap";

/// Who holds which range, by container.
#[derive(Debug, Default)]
pub struct Ranges(Mutex<BTreeMap<String, IdRange>>);

/// What an instance asks for, out of its expanded configuration.
struct Wanted {
    isolated: bool,
    size: u32,
    base: Option<u32>,
    raw: Vec<raw_idmap::IdRow>,
}

impl Wanted {
    /// What was set was checked then; what is not set, the server decides.
    fn of(config: &Config, server: &Config) -> Self {
        let number = |key: &str| config.get(key).and_then(|text| text.trim().parse::<u32>().ok());
        let isolated = |config: &Config, key: &str| config.get(key).and_then(|text| config::parse_bool(text));
        Self {
            isolated: isolated(config, "security.idmap.isolated")
                .or_else(|| isolated(server, "core.idmap_isolated"))
                .unwrap_or(false),
            size: number("security.idmap.size").unwrap_or(MINIMUM),
            base: number("security.idmap.base"),
            raw: config.get("raw.idmap").and_then(|text| raw_idmap::parse(text).ok()).unwrap_or_default(),
        }
    }
}

impl Ranges {
    fn held(&self) -> MutexGuard<'_, BTreeMap<String, IdRange>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The range of `container`: the one it has if that fits, else the one of its files, else a new one, which is none of
    /// `kept`, the ranges of others' files.
    fn take(
        &self,
        container: &str,
        wanted: &Wanted,
        host: &Subordinate,
        stored: Option<IdRange>,
        kept: &[IdRange],
    ) -> Result<IdRange, Error> {
        let mut held = self.held();
        let others = |range: IdRange| {
            held.iter().find(|(name, other)| name.as_str() != container && other.overlaps(range)).map(|(name, _)| name)
        };
        for row in &wanted.raw {
            let range = IdRange { base: row.outside, size: row.size };
            if let Some(by) = others(range) {
                return Err(idmap::Error::Taken { key: "raw.idmap", range, by: by.clone() }.into());
            }
        }
        let range = match (wanted.base, held.get(container)) {
            (Some(base), _) => {
                let key = "security.idmap.base";
                let range = IdRange { base, size: wanted.size };
                host.check(key, range, [true, true])?;
                if let Some(by) = others(range) {
                    return Err(idmap::Error::Taken { key, range, by: by.clone() }.into());
                }
                range
            }
            (None, Some(range)) if range.size == wanted.size => return Ok(*range),
            (None, _)
                if let Some(range) = stored.filter(|range| {
                    range.size == wanted.size && host.for_isolated().holds(*range) && others(*range).is_none()
                }) =>
            {
                range
            }
            (None, _) => {
                let others = held.iter().filter(|(name, _)| name.as_str() != container);
                host.lowest_free(wanted.size, others.map(|(_, range)| *range).chain(kept.iter().copied()))?
            }
        };
        held.insert(container.to_owned(), range);
        Ok(range)
    }

    /// Nobody runs with its ids any more; one that has none is fine.
    pub(super) fn give_back(&self, container: &str) {
        self.held().remove(container);
    }

    /// The container of this configuration may still run: until that is known, nobody else gets what it was given.
    pub(super) fn remembered(&self, container: &str, config: &Config) {
        let range = || {
            let base: u32 = config.get(BASE)?.parse().ok().filter(|base| *base != 0)?;
            range_from(config.get(CURRENT)?, base)
        };
        if let Some(range) = range() {
            self.held().insert(container.to_owned(), range);
        }
    }

    /// The container of this configuration runs, as init `pid`: it keeps what the kernel says that it has.
    pub(super) fn adopted(&self, container: &str, config: &Config, pid: i32) {
        let Some(base) = config.get(BASE).and_then(|text| text.parse().ok()).filter(|base| *base != 0) else { return };
        let map = std::fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap_or_default();
        if let Some(range) = idmap::range_of(&map, base) {
            self.held().insert(container.to_owned(), range);
        }
    }
}

/// The range from `base` on in a map as [`IdMap::to_json`] tells it.
fn range_from(map: &str, base: u32) -> Option<IdRange> {
    let rows: serde_json::Value = serde_json::from_str(map).ok()?;
    let row = |row: &serde_json::Value| {
        let inside = row["Nsid"].as_u64()?;
        let own = row["Isuid"] == true && row["Hostid"].as_u64()?.checked_sub(inside) == Some(base.into());
        own.then(|| row["Maprange"].as_u64().map(|size| inside + size))?
    };
    let size = rows.as_array()?.iter().filter_map(row).max()?;
    Some(IdRange { base, size: u32::try_from(size).ok()? })
}

/// The range that the files of this configuration's instance are stored with.
fn stored_range(config: &Config) -> Option<IdRange> {
    let map = config.get(STORED)?;
    range_from(map, IdMap::from_json(map)?.root().0)
}

/// The id map of an instance with this expanded configuration, for a start or for its files; none for a privileged one.
/// An isolated one holds its range from now on.
///
/// # Errors
/// [`Error::Idmap`], which says what to do about it.
pub(super) fn id_map(context: &Context, container: &str, config: &Config) -> Result<Option<IdMap>, Error> {
    if config::bool_of(config, "security.privileged") {
        context.ranges.give_back(container);
        return Ok(None);
    }
    let host = Subordinate::of_host()?;
    let wanted = Wanted::of(config, &context.db.model().config);
    for row in &wanted.raw {
        host.check_raw(IdRange { base: row.outside, size: row.size }, [row.uid, row.gid])?;
    }
    let mut map = if wanted.isolated {
        let model = context.db.model();
        let others = model.instances.values().filter(|other| other.key.container() != container);
        // One that covers more is shared by those that are not isolated.
        let kept: Vec<_> =
            others.filter_map(|other| stored_range(&other.config)).filter(|r| host.for_isolated().holds(*r)).collect();
        let range = context.ranges.take(container, &wanted, &host, stored_range(config), &kept)?;
        IdMap::new(range, range)
    } else {
        context.ranges.give_back(container);
        host.whole()
    };
    for row in wanted.raw {
        map.punch(Extent { inside: row.inside, outside: row.outside, size: row.size }, [row.uid, row.gid]);
    }
    Ok(Some(map))
}

fn json(map: Option<&IdMap>) -> String {
    map.map_or_else(|| "[]".to_owned(), IdMap::to_json)
}

/// Remembers the map that the files of an instance are stored with; what is true is what its volume says.
pub(super) async fn remember_stored(context: &Context, key: &InstanceKey, map: Option<&IdMap>) -> Result<(), Error> {
    let (key, stored) = (key.clone(), json(map));
    let known = context.db.model().instances.get(&key).and_then(|record| record.config.get(STORED).cloned());
    if known.as_deref().unwrap_or("[]") == stored {
        return Ok(());
    }
    context
        .db
        .write(move |tx| {
            let mut record = tx.model().instances.get(&key).map(|r| (**r).clone()).ok_or(Error::NotFound)?;
            record.config.insert(STORED.to_owned(), stored);
            Ok(tx.put_instance(record)?)
        })
        .await
}

/// What is remembered of an instance that is about to run with `map`, and whose files are stored with `stored`.
pub(super) fn volatile(
    context: &Context,
    container: &str,
    map: Option<&IdMap>,
    stored: Option<&IdMap>,
) -> Vec<(String, String)> {
    let map = json(map);
    let base = context.ranges.held().get(container).map_or(0, |range| range.base);
    [(BASE, base.to_string()), (CURRENT, map.clone()), (NEXT, map), (STORED, json(stored))]
        .map(|(key, value)| (key.to_owned(), value))
        .to_vec()
}

/// Whether the daemon alone sets this key.
pub(super) fn is_own(key: &str) -> bool {
    [BASE, CURRENT, NEXT, STORED].contains(&key)
}

/// Forgets what only counts while it runs.
pub(super) fn forget(config: &mut Config) {
    for key in [BASE, CURRENT, NEXT] {
        config.remove(key);
    }
}
