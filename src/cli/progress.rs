//! One line that says how far something is, for somebody who watches; a script sees nothing of it.

use std::io::Write;

use super::output;

/// The line.
pub(super) struct Progress {
    watched: bool,
    shown: bool,
}

impl Progress {
    /// Shows nothing unless somebody watches.
    pub(super) fn new(watched: bool) -> Self {
        Self { watched, shown: false }
    }

    /// Puts this in the place of what was shown before.
    pub(super) fn show(&mut self, text: &str) {
        if self.watched {
            self.shown = true;
            // A terminal that is gone does not watch either.
            let _ = write!(std::io::stderr(), "\r\x1b[K{}", line(text, super::exec::size().0));
        }
    }

    /// How much of a transfer is done, with its speed.
    pub(super) fn transferred(&mut self, what: &str, done: u64, all: Option<u64>, since: std::time::Instant) {
        let speed = done.checked_div(since.elapsed().as_millis().try_into().unwrap_or(u64::MAX)).unwrap_or(done);
        let speed = output::traffic(speed.saturating_mul(1000));
        match all.filter(|all| *all > 0) {
            Some(all) => self.show(&format!("{what}: {}% ({speed}/s)", done.saturating_mul(100) / all)),
            None => self.show(&format!("{what}: {} ({speed}/s)", output::traffic(done))),
        }
    }
}

/// What of a text fits in one line: what is wider could not be put in its place again.
fn line(text: &str, columns: u16) -> String {
    let first = text.lines().next().unwrap_or_default().replace('\t', " ");
    output::harmless(&first).chars().take(usize::from(columns).saturating_sub(1)).collect()
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_one_line() {
        assert_eq!(line("rootfs: 5%\nError: no\x1b[A", 80), "rootfs: 5%");
        assert_eq!(line("12345", 4), "123");
        assert_eq!(line("\x1b[A\t", 80), "\u{fffd}[A ");
    }
}
