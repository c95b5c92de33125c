//! `snapshots.pattern`: the name of a snapshot that nobody named.
//!
//! `%d` stands for the number after the highest one in that place of the names that there are. `{{ creation_date }}`
//! stands for the time, UTC, and may have the filter `date` with a layout that shows how 15:04:05 of Monday,
//! 2 January 2006 is written.

use crate::names::SnapshotName;

/// How LXD writes a time that no layout is given for.
const PLAIN: &str = "2006-01-02 15:04:05 +0000 UTC";

/// How a part of a layout is written.
type Part = (&'static str, fn(time::OffsetDateTime) -> String);

/// The parts of a layout, the longer of two that begin alike first.
const PARTS: &[Part] = &[
    ("January", |at| at.month().to_string()),
    ("Jan", |at| at.month().to_string().chars().take(3).collect()),
    ("Monday", |at| at.weekday().to_string()),
    ("Mon", |at| at.weekday().to_string().chars().take(3).collect()),
    ("MST", |_| "UTC".to_owned()),
    ("2006", |at| format!("{:04}", at.year())),
    ("-0700", |_| "+0000".to_owned()),
    ("-07:00", |_| "+00:00".to_owned()),
    ("01", |at| format!("{:02}", u8::from(at.month()))),
    ("02", |at| format!("{:02}", at.day())),
    ("03", |at| format!("{:02}", (at.hour() + 11) % 12 + 1)),
    ("04", |at| format!("{:02}", at.minute())),
    ("05", |at| format!("{:02}", at.second())),
    ("06", |at| format!("{:02}", at.year() % 100)),
    ("15", |at| format!("{:02}", at.hour())),
    ("PM", |at| if at.hour() < 12 { "AM" } else { "PM" }.to_owned()),
    ("_2006", |at| format!("_{:04}", at.year())),
    ("_2", |at| format!("{:2}", at.day())),
    ("1", |at| u8::from(at.month()).to_string()),
    ("2", |at| at.day().to_string()),
    ("3", |at| ((at.hour() + 11) % 12 + 1).to_string()),
    ("4", |at| at.minute().to_string()),
    ("5", |at| at.second().to_string()),
];

fn written(layout: &str, at: time::OffsetDateTime) -> String {
    let (mut text, mut rest) = (String::new(), layout);
    while let Some(first) = rest.chars().next() {
        let part = PARTS.iter().find_map(|(part, write)| rest.strip_prefix(part).map(|after| (write(at), after)));
        match part {
            Some((value, after)) => {
                text.push_str(&value);
                rest = after;
            }
            None => {
                text.push(first);
                rest = rest.get(first.len_utf8()..).unwrap_or_default();
            }
        }
    }
    text
}

/// What stands between the braces.
fn expression(text: &str, at: time::OffsetDateTime) -> Result<String, String> {
    let mut parts = text.split('|').map(str::trim);
    if parts.next() != Some("creation_date") {
        return Err(format!("{{{{{text}}}}} is not known; there is {{{{ creation_date }}}}"));
    }
    let Some(filter) = parts.next() else { return Ok(written(PLAIN, at)) };
    let layout = filter.strip_prefix("date:").map(str::trim).and_then(|quoted| {
        let bare = |quote: char| quoted.strip_prefix(quote)?.strip_suffix(quote);
        bare('\'').or_else(|| bare('"'))
    });
    match (layout, parts.next()) {
        (Some(layout), None) => Ok(written(layout, at)),
        _ => Err(format!("the filter {filter:?} is not known; there is date:'2006-01-02_15-04-05'")),
    }
}

/// The pattern with its times written.
fn dated(pattern: &str, at: time::OffsetDateTime) -> Result<String, String> {
    let (mut text, mut rest) = (String::new(), pattern);
    while let Some((before, after)) = rest.split_once("{{") {
        let (inside, after) = after.split_once("}}").ok_or("a {{ has no }}")?;
        text.push_str(before);
        text.push_str(&expression(inside, at)?);
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

/// Whether `pattern` makes names.
///
/// # Errors
/// Why not.
pub fn check(pattern: &str) -> Result<(), String> {
    if pattern.matches("%d").count() > 1 {
        return Err("%d stands for one number, and may stand once".to_owned());
    }
    next(pattern, &[], 0).map(drop)
}

/// The name that `pattern` makes `now` (seconds since 1970), where there are `others`.
///
/// # Errors
/// Why it makes none.
pub fn next(pattern: &str, others: &[&str], now: i64) -> Result<SnapshotName, String> {
    let at = time::OffsetDateTime::from_unix_timestamp(now).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let named = |text: String| {
        SnapshotName::new(text).map_err(|error| {
            let hint = "{{ creation_date }} takes the filter date:'2006-01-02_15-04-05'";
            if pattern.contains("{{") { format!("{error}; {hint}") } else { error.to_string() }
        })
    };
    let text = dated(pattern, at)?;
    let numbered = if text.contains("%d") {
        text
    } else if others.contains(&text.as_str()) {
        format!("{text}-%d")
    } else {
        return named(text);
    };
    let (before, after) = numbered.split_once("%d").unwrap_or((&numbered, ""));
    let number = |name: &&str| name.strip_prefix(before)?.strip_suffix(after)?.parse::<u64>().ok();
    let next = others.iter().filter_map(number).max().map_or(0, |highest| highest.saturating_add(1));
    named(format!("{before}{next}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(pattern: &str, others: &[&str]) -> String {
        // 9 February 2031, 13:07:05 UTC, a Sunday.
        next(pattern, others, 1_928_408_825).map_or_else(|error| error, |name| name.to_string())
    }

    #[test]
    fn numbers_go_on_after_the_highest() {
        assert_eq!(made("snap%d", &[]), "snap0");
        assert_eq!(made("snap%d", &["snap0", "snap7", "other", "snap7x", "snap"]), "snap8");
        assert_eq!(made("a%db", &["a3b", "a9"]), "a4b");
        assert_eq!(made("fixed", &[]), "fixed");
        assert_eq!(made("fixed", &["fixed"]), "fixed-0");
        assert_eq!(made("fixed", &["fixed", "fixed-4"]), "fixed-5");
    }

    #[test]
    fn times_are_written_as_the_layout_shows() {
        assert_eq!(made("{{ creation_date|date:'2006-01-02_15-04-05' }}", &[]), "2031-02-09_13-07-05");
        assert_eq!(made("{{creation_date | date:\"Mon_Jan-2_2006_3PM\"}}-%d", &[]), "Sun_Feb-9_2031_1PM-0");
        assert!(made("{{ creation_date }}", &[]).contains("white space"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (pattern, reason) in [
            ("{{ now }}", "is not known"),
            ("{{ creation_date|upper }}", "there is date:"),
            ("a{{b", "has no }}"),
            ("a/b", "slashes"),
            ("", "1 to 255"),
        ] {
            let said = made(pattern, &[]);
            assert!(said.contains(reason), "{pattern}: {said}");
        }
    }

    #[test]
    fn a_pattern_that_makes_no_name_is_known_beforehand() {
        for bad in ["a/b", "..", "{{", "%d%d", "{{ creation_date }}", "{{ now }}", "a b", "%d/"] {
            assert!(check(bad).is_err(), "{bad}");
        }
        for good in ["snap%d", "fixed", "{{ creation_date|date:'2006-01-02_15-04-05' }}-%d"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }
}
