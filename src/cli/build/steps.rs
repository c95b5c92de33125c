//! How far a build is, by what mmdebstrap says of itself; and why it failed.

use std::io::{IsTerminal, Write};
use std::time::Instant;

/// What mmdebstrap says when something begins, what that is called here, and how much of the work lies before it, in percent.
const STEPS: &[(&str, &str, u32)] = &[
    ("running apt-get update", "Package lists", 2),
    ("downloading packages with apt", "Downloading the base", 8),
    ("extracting archives", "Unpacking the base", 20),
    ("installing essential packages", "Installing the base", 30),
    ("installing remaining packages", "Installing packages", 45),
    ("running --customize-hook", "Adapting the system", 80),
    ("creating tarball", "Packing", 84),
    ("Metadata", "Metadata", 98),
];

const WIDTH: u32 = 30;

/// Shows a bar to who watches; a script is told nothing.
pub(super) struct Progress {
    watched: bool,
    begun: Instant,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { watched: std::io::stdout().is_terminal(), begun: Instant::now() }
    }

    /// A line of mmdebstrap's.
    pub(super) fn heard(&self, line: &str) {
        if let Some((name, percent)) = step(line) {
            self.show(name, percent);
        }
    }

    /// A step of ours begins.
    pub(super) fn step(&self, name: &str) {
        self.heard(&format!("I: {name}"));
    }

    fn show(&self, name: &str, percent: u32) {
        if self.watched {
            let full = percent * WIDTH / 100;
            let bar: String = (0..WIDTH).map(|at| if at < full { '#' } else { '.' }).collect();
            let seconds = self.begun.elapsed().as_secs();
            // A terminal that is gone does not watch any more.
            let _ = write!(std::io::stdout(), "\r\x1b[K[{bar}] {percent:3}% {name} ({seconds} s)");
            let _ = std::io::stdout().flush();
        }
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        if self.watched {
            let _ = write!(std::io::stdout(), "\r\x1b[K");
            let _ = std::io::stdout().flush();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

fn step(line: &str) -> Option<(&'static str, u32)> {
    let said = line.strip_prefix("I: ")?;
    STEPS.iter().find(|(begin, ..)| said.starts_with(begin)).map(|(_, name, percent)| (*name, *percent))
}

/// The lines that say what went wrong: errors of apt, dpkg and mmdebstrap, else the last ones.
pub(super) fn cause(lines: &[String]) -> String {
    let is_error =
        |line: &&String| ["E: ", "Err:", "dpkg: error", "W: Failed"].iter().any(|word| line.starts_with(word));
    let errors: Vec<&str> = lines.iter().filter(is_error).map(String::as_str).take(8).collect();
    if !errors.is_empty() {
        return errors.join("\n");
    }
    let last = lines.iter().rev().take(8).rev().map(String::as_str);
    last.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_follow_what_mmdebstrap_says() {
        assert_eq!(step("I: installing remaining packages inside the chroot..."), Some(("Installing packages", 45)));
        assert_eq!(step("I: automatically chosen mode: root"), None);
        assert_eq!(step("Get:1 http://m running apt-get update"), None);
        assert!(STEPS.is_sorted_by_key(|(_, _, percent)| *percent));
    }

    #[test]
    fn the_cause_is_what_errors_say() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(cause(&lines("I: x\nE: no such package\nI: y\nE: apt failed")), "E: no such package\nE: apt failed");
        assert_eq!(cause(&lines("a\nb")), "a\nb");
        assert_eq!(cause(&[]), "");
    }
}
