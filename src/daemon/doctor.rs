//! `doctor`: the health of the host, for people. A running daemon is asked, since it sees what it works with; without one
//! the same checks are made here.

use std::io::IsTerminal;
use std::process::ExitCode;

use http::Method;

use super::admin::print;
use super::local::{self, request};
use crate::api::wire::health::{Check, CheckState, Health};
use crate::db::{self, Peek};
use crate::health::{self, PoolView};
use crate::state_dir::StateDir;
use crate::storage::Probes;

pub(super) async fn run(dir: &StateDir) -> Result<ExitCode, String> {
    let health: Health = match request(&dir.socket(), Method::GET, "/1.0/health", None).await {
        Ok(answer) => serde_json::from_value(answer).map_err(|e| format!("the daemon's answer is not usable: {e}"))?,
        Err(local::Error::Connect { .. }) => {
            if !rustix::process::geteuid().is_root() {
                return Err("no daemon runs that could be asked, and without one only root can try things".to_owned());
            }
            print("warrend does not run here: looking without it.\n")?;
            by_itself(dir)?
        }
        Err(error) => return Err(error.to_string()),
    };
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    print(&report(&health, colour))?;
    Ok(if health.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn by_itself(dir: &StateDir) -> Result<Health, String> {
    let pools = match db::peek(&dir.database()).map_err(|e| e.to_string())? {
        Peek::Nothing | Peek::OtherVersion(_) => Vec::new(),
        Peek::Known(model) => model
            .pools
            .values()
            .map(|pool| PoolView {
                name: pool.name.clone(),
                driver: pool.driver.clone(),
                path: dir.pool(&pool.name),
                problem: None,
            })
            .collect(),
    };
    // Where the daemon would try, if that is there: another file system may give another answer.
    let scratch = if dir.root().is_dir() { dir.root().to_owned() } else { std::env::temp_dir() };
    Ok(health::look(&Probes::new(&scratch), &pools))
}

fn line(check: &Check, width: usize, colour: bool) -> String {
    let (word, code) = match check.state {
        CheckState::Ok => ("ok", "32"),
        CheckState::Warning => ("warning", "33"),
        CheckState::Missing if check.needed => ("MISSING", "31"),
        CheckState::Missing => ("missing", "33"),
    };
    let padded = format!("{word:8}");
    let word = if colour { format!("\x1b[{code}m{padded}\x1b[0m") } else { padded };
    let mut text = format!("{word}{:7}{:width$}  {}", check.group, check.name, check.found);
    if check.state != CheckState::Ok {
        text.push_str(&format!(". Costs: {}. To mend: {}.", check.cost, check.mend));
    }
    text.push('\n');
    text
}

fn report(health: &Health, colour: bool) -> String {
    let width = health.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    let mut text: String = health.checks.iter().map(|check| line(check, width, colour)).collect();
    let count = |wanted: fn(&Check) -> bool| health.checks.iter().filter(|check| wanted(check)).count();
    let needed = count(|check| check.needed && check.state == CheckState::Missing);
    let rest = count(|check| check.state != CheckState::Ok) - needed;
    text.push_str(&match (needed, rest) {
        (0, 0) => "Everything is there.\n".to_owned(),
        (0, rest) => format!("Everything that is needed is there; {rest} of the rest could be better.\n"),
        (needed, _) => format!("{needed} of what containers need is missing.\n"),
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(state: CheckState, needed: bool) -> Check {
        let text = |text: &str| text.to_owned();
        Check {
            group: text("kernel"),
            name: text("x"),
            state,
            needed,
            found: text("f"),
            cost: text("c"),
            mend: text("m"),
        }
    }

    #[test]
    fn a_line_each_and_colour_only_when_wanted() {
        let checks =
            vec![check(CheckState::Ok, true), check(CheckState::Missing, true), check(CheckState::Warning, false)];
        let health = Health { healthy: false, checks };
        let plain = report(&health, false);
        assert_eq!(plain.lines().count(), 4);
        assert!(plain.contains("MISSING kernel x  f. Costs: c. To mend: m.\n"), "{plain}");
        assert!(plain.ends_with("1 of what containers need is missing.\n"));
        assert!(!plain.contains('\x1b') && report(&health, true).contains("\x1b[31mMISSING"));
    }
}
