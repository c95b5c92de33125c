//! Health: what of this host works for containers, what a missing thing costs, and how to mend it.
//!
//! The same checks answer `/1.0/health` and, without a daemon, `warrend doctor`. What can be tried is tried; nothing is
//! left behind. Names of checks are for scripts and never change.

mod ids;
mod kernel;
mod pools;
mod tools;

use crate::api::wire::health::{Check, CheckState, Health};
use crate::storage::Probes;

pub use pools::PoolView;

/// Looks at everything. Blocking: features are tried, programs are run.
pub fn look(probes: &Probes, pools: &[PoolView]) -> Health {
    let mut checks = kernel::look(probes);
    checks.extend(ids::look());
    checks.extend(tools::look());
    checks.extend(pools::look(pools));
    let healthy = !checks.iter().any(|check| check.needed && check.state == CheckState::Missing);
    Health { healthy, checks }
}

/// What there is to say about one thing when it is not there.
#[derive(Debug, Clone, Copy)]
struct About {
    group: &'static str,
    name: &'static str,
    needed: bool,
    cost: &'static str,
    mend: &'static str,
}

impl About {
    /// A check with what was found, or why it is missing.
    fn check(self, result: Result<String, String>) -> Check {
        let (state, found) = match result {
            Ok(found) => (CheckState::Ok, found),
            Err(reason) => (CheckState::Missing, reason),
        };
        self.with(state, found)
    }

    fn with(self, state: CheckState, found: String) -> Check {
        let said = |text: &str| if state == CheckState::Ok { String::new() } else { text.to_owned() };
        Check {
            group: self.group.to_owned(),
            name: self.name.to_owned(),
            state,
            needed: self.needed,
            found,
            cost: said(self.cost),
            mend: said(self.mend),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_says_what_it_costs_and_how_to_mend_it() {
        let scratch = tempfile::tempdir().unwrap();
        let health = look(&Probes::new(scratch.path()), &[]);
        assert!(health.checks.len() > 20);
        let mut names: Vec<&str> = health.checks.iter().map(|check| check.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), health.checks.len(), "each name once");
        for check in &health.checks {
            assert!(!check.found.is_empty(), "{check:?}");
            assert!(!check.found.contains('\n'), "{check:?}");
            let told = !check.cost.is_empty() && !check.mend.is_empty();
            assert_eq!(told, check.state != CheckState::Ok, "{check:?}");
        }
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}
