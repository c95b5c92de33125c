//! The storage pools: are they there, and how full are they.

use std::path::PathBuf;

use super::About;
use crate::api::wire::health::{Check, CheckState};
use crate::names::PoolName;
use crate::sys::space;

/// A pool, as far as this room needs to know it.
#[derive(Debug, Clone)]
pub struct PoolView {
    /// Its name.
    pub name: PoolName,
    /// Its driver, as recorded.
    pub driver: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Why it could not be opened, if a daemon tried.
    pub problem: Option<String>,
}

/// Below this many bytes, and this part of the whole, a pool is nearly full.
const LOW: (u64, u64) = (1 << 30, 20);

fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 10 * 1024 && unit + 1 < units.len() {
        value /= 1024;
        unit += 1;
    }
    format!("{value} {}", units[unit])
}

fn check(pool: &PoolView) -> Check {
    let gone = About {
        group: "pools",
        name: "",
        needed: true,
        cost: "its containers do not start",
        mend: "bring its source back (mount it): it works again by itself",
    };
    let full = About {
        cost: "containers will soon be told that no space is left",
        mend: "delete containers or images that nobody needs, or make its file system larger",
        ..gone
    };
    let looked = match &pool.problem {
        Some(problem) => Err(problem.clone()),
        None => space::of(&pool.path).map_err(|e| format!("{}: {e}", pool.path.display())),
    };
    let mut check = match looked {
        Err(reason) => gone.with(CheckState::Missing, reason),
        Ok(space) => {
            let low = space.free < LOW.0 || space.free < space.total / LOW.1;
            let found =
                format!("{} on {}, {} of {} free", pool.driver, space.file_system, size(space.free), size(space.total));
            full.with(if low { CheckState::Warning } else { CheckState::Ok }, found)
        }
    };
    check.name = format!("pool {}", pool.name);
    check
}

pub(super) fn look(pools: &[PoolView]) -> Vec<Check> {
    pools.iter().map(check).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!((size(5), size(20_000), size(52 << 30)).0, "5 B");
        assert_eq!(size(20_000), "19 KiB");
        assert_eq!(size(52 << 30), "52 GiB");
    }

    #[test]
    fn a_pool_that_is_gone_or_not_opened_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let name = PoolName::new("p".to_owned()).unwrap();
        let mut pool = PoolView { name, driver: "dir".to_owned(), path: dir.path().to_owned(), problem: None };
        assert_ne!(check(&pool).state, CheckState::Missing);
        assert!(check(&pool).found.contains("dir on "), "{}", check(&pool).found);
        pool.problem = Some("broken".to_owned());
        assert_eq!((check(&pool).state, check(&pool).found.as_str()), (CheckState::Missing, "broken"));
        pool.problem = None;
        pool.path = dir.path().join("nosuch");
        assert_eq!(check(&pool).state, CheckState::Missing);
    }
}
