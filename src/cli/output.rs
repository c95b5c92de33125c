//! What the client prints.
//!
//! Nobody may be left at the other end of a pipe. That ends no command: what was asked for is still done.
//!
//! What servers say comes from strangers. A terminal gets nothing of it but letters; a pipe or file gets it as it is.

use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal, Write};

use super::Error;

/// Prints a result; on a terminal only its letters.
pub(super) fn print(text: &str) -> Result<(), Error> {
    bytes(shown(text, std::io::stdout().is_terminal()).as_bytes())
}

/// The same for what is text only most of the time, as a log.
pub(super) fn log(log: &[u8]) -> Result<(), Error> {
    if std::io::stdout().is_terminal() {
        print(&String::from_utf8_lossy(log).replace("\r\n", "\n"))
    } else {
        bytes(log)
    }
}

/// Prints JSON. Its own escapes keep it true on a terminal, too.
pub(super) fn json(text: &str) -> Result<(), Error> {
    if !std::io::stdout().is_terminal() || !text.contains(strange) {
        return bytes(text.as_bytes());
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // They stand in texts only; all of them are of the first plane.
            c if strange(c) => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => escaped.push(c),
        }
    }
    bytes(escaped.as_bytes())
}

/// Prints bytes as they are.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    written(out.write_all(bytes).and_then(|()| out.flush()))
}

/// Whether a reader that has gone away is the only thing that went wrong.
pub(super) fn written(result: std::io::Result<()>) -> Result<(), Error> {
    match result {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::Local { doing: "write the output".to_owned(), error })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Tells of an error.
pub(super) fn complain(error: &Error) {
    // Nothing is left to be told it to when this fails.
    let _ = writeln!(std::io::stderr(), "Error: {}", harmless(&error.to_string()));
}

/// Tells somebody who looks for a fault.
pub(crate) fn note(text: &str) {
    // Nothing is left to be done when this fails.
    let _ = writeln!(std::io::stderr(), "{}", harmless(text));
}

/// Whether a terminal does something else with it than to show it: control characters of both sets, and those of Unicode
/// that turn the direction of writing (UAX 9) or end a line.
pub(super) fn strange(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    (c.is_control() && !matches!(c, '\n' | '\t')) || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

/// What tells a terminal nothing but its letters: names and messages come from strangers.
pub(super) fn harmless(text: &str) -> String {
    text.chars().map(|c| if strange(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// What is printed of a text.
fn shown(text: &str, terminal: bool) -> Cow<'_, str> {
    if terminal && text.contains(strange) { Cow::from(harmless(text)) } else { Cow::from(text) }
}

/// Prints an object as YAML.
pub(super) fn yaml(value: &serde_json::Value, order: &[&str]) -> Result<(), Error> {
    print(&super::yaml::text(value, order))
}

fn in_units(bytes: u64, base: f64, units: &[&str]) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= base && unit + 1 < units.len() {
        amount /= base;
        unit += 1;
    }
    if unit == 0 { format!("{bytes}B") } else { format!("{amount:.2}{}", units[unit]) }
}

/// A size in units of 1024, as `lxc` writes it.
pub(super) fn bytes_as_text(bytes: u64) -> String {
    in_units(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// The same in units of 1000: what went over a network, and the speed of transfers.
pub(super) fn traffic(bytes: u64) -> String {
    in_units(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// Splits RFC 3339 into its numbers; nothing for times before there was anything.
fn moment(text: &str) -> Option<time::OffsetDateTime> {
    let time = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
    (time.unix_timestamp() > 0).then(|| time.to_offset(time::UtcOffset::UTC))
}

/// A time as `lxc` shows it: "2026/11/28 13:22 UTC"; nothing for what was never.
pub(super) fn time_as_text(text: &str) -> String {
    moment(text).map_or_else(String::new, |time| {
        let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
        format!("{year}/{month:02}/{day:02} {:02}:{:02} UTC", time.hour(), time.minute())
    })
}

/// A time as the list of images shows it: "Nov 28, 2026 at 1:22pm (UTC)".
pub(super) fn day_as_text(text: &str) -> String {
    moment(text).map_or_else(String::new, |time| {
        let month: String = time.month().to_string().chars().take(3).collect();
        let half = if time.hour() < 12 { "am" } else { "pm" };
        let hour = if time.hour() % 12 == 0 { 12 } else { time.hour() % 12 };
        format!("{month} {}, {} at {hour}:{:02}{half} (UTC)", time.day(), time.year(), time.minute())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times() {
        assert_eq!(bytes_as_text(1), "1B");
        assert_eq!(bytes_as_text(392 * 1024), "392.00KiB");
        assert_eq!(time_as_text("2026-11-28T13:22:01Z"), "2026/11/28 13:22 UTC");
        assert_eq!(time_as_text("0001-01-01T00:00:00Z"), "");
        assert_eq!(day_as_text("2026-11-28T13:22:01.5+01:00"), "Nov 28, 2026 at 12:22pm (UTC)");
        assert_eq!(harmless("a\x1b[31m\u{9b}b\n"), "a\u{fffd}[31m\u{fffd}b\n");
        assert_eq!(harmless("\u{202e}txt.exe\u{2028}é\t"), "\u{fffd}txt.exe\u{fffd}é\t");
        assert_eq!((shown("a\r", false), shown("a\r", true)), ("a\r".into(), "a\u{fffd}".into()));
    }
}
