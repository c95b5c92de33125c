//! `warren top`: what the running instances use, anew each moment.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use super::client::Client;
use super::object::text;
use super::output::bytes_as_text;
use super::{Error, output, table};

/// What to look at.
#[derive(Debug, Args)]
pub(super) struct Top {
    /// [remote:]
    remote: Option<String>,
    /// Seconds between two looks
    #[arg(short = 'd', long, default_value_t = 2.0)]
    delay: f64,
    /// Looks; 0 is without end
    #[arg(short = 'n', long, default_value_t = 0)]
    iterations: u32,
}

/// What had been used at a look: CPU in ns, bytes of the network in both directions.
#[derive(Clone, Copy, Default)]
struct Used {
    cpu: u64,
    received: u64,
    sent: u64,
}

fn used(state: &Value) -> Used {
    let networks = state["network"].as_object().into_iter().flatten().filter(|(name, _)| *name != "lo");
    let mut used = Used { cpu: state["cpu"]["usage"].as_u64().unwrap_or_default(), ..Used::default() };
    for (_, network) in networks {
        used.received =
            used.received.saturating_add(network["counters"]["bytes_received"].as_u64().unwrap_or_default());
        used.sent = used.sent.saturating_add(network["counters"]["bytes_sent"].as_u64().unwrap_or_default());
    }
    used
}

/// So much a second.
fn rate(before: u64, now: u64, passed: Duration) -> u64 {
    let millis = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).max(1);
    now.saturating_sub(before).saturating_mul(1000) / millis
}

/// Runs it until it is interrupted.
pub(super) async fn run(client: &Client, top: Top) -> Result<(), Error> {
    if !(0.1..=3600.0).contains(&top.delay) {
        return Err(Error::Usage("--delay is from 0.1 to 3600 seconds".to_owned()));
    }
    let at = client.remote(top.remote.as_deref())?;
    let terminal = std::io::stdout().is_terminal();
    let mut before: BTreeMap<String, Used> = BTreeMap::new();
    let mut last = Instant::now();
    let mut looks = 0;
    loop {
        let list = at.get("/1.0/instances?recursion=2").await?;
        let passed = last.elapsed();
        last = Instant::now();
        let mut rows = Vec::new();
        let mut now = BTreeMap::new();
        for instance in list.as_array().into_iter().flatten().filter(|instance| instance["status"] == "Running") {
            let (name, state) = (text(instance, "name"), &instance["state"]);
            let used = used(state);
            let was = before.get(&name).copied();
            // In ns a second: so many tenths of a percent of one processor.
            let cpu = was.map(|was| rate(was.cpu, used.cpu, passed) / 1_000_000);
            let speed = |pick: fn(&Used) -> u64| {
                was.map_or_else(String::new, |was| {
                    format!("{}/s", output::traffic(rate(pick(&was), pick(&used), passed)))
                })
            };
            rows.push((
                cpu.unwrap_or_default(),
                vec![
                    name.clone(),
                    cpu.map_or_else(String::new, |cpu| format!("{}.{}%", cpu / 10, cpu % 10)),
                    bytes_as_text(state["memory"]["usage"].as_u64().unwrap_or_default()),
                    state["disk"]["root"]["usage"]
                        .as_u64()
                        .filter(|used| *used > 0)
                        .map(bytes_as_text)
                        .unwrap_or_default(),
                    speed(|used| used.received),
                    speed(|used| used.sent),
                    text(state, "processes"),
                ],
            ));
            now.insert(name, used);
        }
        before = now;
        rows.sort_by(|(a, left), (b, right)| b.cmp(a).then_with(|| left.cmp(right)));
        let rows: Vec<Vec<String>> = rows.into_iter().map(|(_, row)| row).collect();
        let drawn = table::drawn(&["NAME", "CPU", "MEMORY", "DISK", "RECEIVES", "SENDS", "PROCESSES"], &rows, false);
        let mut out = std::io::stdout().lock();
        // From the top of an empty screen, where there is one.
        let clear = if terminal { "\x1b[H\x1b[2J" } else { "" };
        let shown = write!(out, "{clear}{}", output::harmless(&drawn)).and_then(|()| out.flush());
        drop(out);
        if shown.is_err() {
            return Ok(());
        }
        looks += 1;
        if looks == top.iterations {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs_f64(top.delay)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_by_the_second() {
        assert_eq!(rate(100, 300, Duration::from_secs(2)), 100);
        assert_eq!(rate(300, 100, Duration::from_secs(2)), 0);
        assert_eq!(rate(0, 5, Duration::ZERO), 5000);
    }
}
