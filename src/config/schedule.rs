//! When snapshots are made, and when they expire: `snapshots.schedule` and `snapshots.expiry`.
//!
//! A schedule is five fields of cron(8), a list of aliases (`@daily, @startup`), or `@never`. An expiry is a list of
//! numbers with a unit, each unit once: minutes `M`, hours `H`, days `d`, weeks `w`, months `m`, years `y`.

/// The fields of a cron line: what it is called, its least and largest number, its names from the least on.
const FIELDS: [(&str, u8, u8, &[&str]); 5] = [
    ("minute", 0, 59, &[]),
    ("hour", 0, 23, &[]),
    ("day of the month", 1, 31, &[]),
    ("month", 1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    ("day of the week", 0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];

/// What an alias stands for; `@startup` and `@never` stand for no times.
const ALIASES: &[(&str, &str)] = &[
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@annually", "0 0 1 1 *"),
    ("@yearly", "0 0 1 1 *"),
];

/// One line of cron(8): a bit for each number that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// By minute, hour, day of the month, month, day of the week.
    pub fields: [u64; 5],
    /// Whether the days of the month and those of the week are both restricted: then one of them is enough.
    pub either_day: bool,
}

/// When snapshots are made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schedule {
    /// At each minute that fits one of these.
    pub times: Vec<Times>,
    /// And whenever the instance starts.
    pub startup: bool,
}

/// How long something is kept: how many of each unit, in the order seconds, minutes, hours, days, weeks, months, years.
pub type Expiry = [u32; 7];

impl Times {
    fn fits(&self, at: time::OffsetDateTime) -> bool {
        let [minutes, hours, days, months, weekdays] = self.fields;
        let set = |field: u64, bit: u8| field & (1u64 << bit) != 0;
        let (day, weekday) = (set(days, at.day()), set(weekdays, at.weekday().number_days_from_sunday()));
        let days = if self.either_day { day || weekday } else { day && weekday };
        set(minutes, at.minute()) && set(hours, at.hour()) && set(months, u8::from(at.month())) && days
    }
}

impl Schedule {
    /// Whether one is made in this minute, UTC.
    pub fn fits(&self, at: time::OffsetDateTime) -> bool {
        self.times.iter().any(|times| times.fits(at))
    }
}

/// When what is made at `now`, seconds since 1970, expires; 0: never. Months and years are those of the calendar.
pub fn expires(expiry: &Expiry, now: i64) -> i64 {
    let [rest, minutes, hours, days, weeks, months, years] = expiry.map(i64::from);
    if expiry.iter().all(|count| *count == 0) {
        return 0;
    }
    let seconds = rest + 60 * (minutes + 60 * (hours + 24 * (days + 7 * weeks)));
    let at = time::OffsetDateTime::from_unix_timestamp(now).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let month = i64::from(at.year()) * 12 + i64::from(u8::from(at.month())) - 1 + months + 12 * years;
    let (year, month) = (month.div_euclid(12), month.rem_euclid(12));
    let last = i64::from(9999);
    let date = i32::try_from(year.min(last)).ok().zip(u8::try_from(month + 1).ok()).and_then(|(year, month)| {
        let month = time::Month::try_from(month).ok()?;
        // The 31st of a month without one is its last day.
        time::Date::from_calendar_date(year, month, at.day().min(month.length(year))).ok()
    });
    let date = date.map_or(now, |date| at.replace_date(date).unix_timestamp());
    date.saturating_add(seconds)
}

fn number(text: &str, (name, least, most, names): (&str, u8, u8, &[&str])) -> Result<u8, String> {
    let named = names.iter().position(|known| known.eq_ignore_ascii_case(text));
    let value = match named.and_then(|index| u8::try_from(index).ok()) {
        Some(index) => Some(least + index),
        None => {
            Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())).and_then(|text| text.parse().ok())
        }
    };
    value
        .filter(|value| (least..=most).contains(value))
        .ok_or_else(|| format!("{text:?} is no {name}; it is a number from {least} to {most}"))
}

/// A bit for each number of `0-10/2,30`.
fn field(text: &str, of: (&str, u8, u8, &[&str])) -> Result<u64, String> {
    let (name, least, most, _) = of;
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                let step = step.parse().ok().filter(|step| (1..=most).contains(step));
                (range, Some(step.ok_or_else(|| format!("{part:?} has no step that a {name} could have"))?))
            }
            None => (part, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if matches!(range, "*" | "?") => (least, most),
            Some((first, last)) => (number(first, of)?, number(last, of)?),
            None => {
                let first = number(range, of)?;
                // `5/10`: every tenth from the fifth on.
                (first, if step.is_some() { most } else { first })
            }
        };
        if first > last {
            return Err(format!("{range:?} ends before it begins"));
        }
        for value in (first..=last).step_by(usize::from(step.unwrap_or(1))) {
            bits |= 1 << value;
        }
    }
    Ok(bits)
}

fn cron(text: &str) -> Result<Times, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = words[..] else {
        return Err(format!(
            "{text:?} must have the five fields <minute> <hour> <day-of-month> <month> <day-of-week>, or be one of {}, \
             @startup, @never",
            aliases()
        ));
    };
    let mut fields = [0; 5];
    for ((bits, word), of) in fields.iter_mut().zip([minute, hour, day, month, weekday]).zip(FIELDS) {
        *bits = field(word, of)?;
    }
    let free = |word: &str| word.starts_with(['*', '?']);
    Ok(Times { fields, either_day: !free(day) && !free(weekday) })
}

/// The aliases that stand for times, for an error.
fn aliases() -> String {
    ALIASES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// Reads a schedule; an empty one is never.
///
/// # Errors
/// What is wrong with it.
pub fn parse_schedule(text: &str) -> Result<Schedule, String> {
    let mut schedule = Schedule::default();
    let text = text.trim();
    if text.is_empty() || text == "@never" {
        return Ok(schedule);
    }
    if !text.starts_with('@') {
        schedule.times.push(cron(text)?);
        return Ok(schedule);
    }
    for part in text.split(',').map(str::trim) {
        match (part, ALIASES.iter().find(|(name, _)| *name == part)) {
            ("@startup", _) => schedule.startup = true,
            ("@never", _) => return Err("@never stands alone".to_owned()),
            (_, Some((_, line))) => schedule.times.push(cron(line)?),
            (_, None) => return Err(format!("{part:?} is none of {}, @startup, @never", aliases())),
        }
    }
    Ok(schedule)
}

/// Reads an expiry; an empty one is never.
///
/// # Errors
/// What is wrong with it.
pub fn parse_expiry(text: &str) -> Result<Expiry, String> {
    const UNITS: [char; 7] = ['S', 'M', 'H', 'd', 'w', 'm', 'y'];
    let wrong = |part: &str| {
        format!("{part:?} is no number with one of the units S, M (minutes), H, d, w, m (months), y: such as \"2w 3d\"")
    };
    let mut expiry = Expiry::default();
    let mut seen = [false; 7];
    for part in text.split_whitespace() {
        let unit = part.chars().last().and_then(|unit| UNITS.iter().position(|known| *known == unit));
        let unit = unit.ok_or_else(|| wrong(part))?;
        // Each unit is one byte.
        let count = &part[..part.len() - 1];
        let digits = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
        let count = count.parse().ok().filter(|_| digits).ok_or_else(|| wrong(part))?;
        if std::mem::replace(&mut seen[unit], true) {
            return Err(format!("the unit {} stands twice", UNITS[unit]));
        }
        expiry[unit] = count;
    }
    Ok(expiry)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What LXD 5.0.2 takes and what not, as tried.
    #[test]
    fn schedules_are_read_as_lxd_reads_them() {
        for good in [
            "",
            "@hourly",
            "@daily, @weekly",
            "@daily,@weekly",
            "@hourly, @startup",
            "@never",
            "@startup",
            "* * * * *",
            "*/5 * * * *",
            "0 6 * * 1-5",
            "0 6 * * mon",
            "0 6 * jan *",
            "* * * * 0",
            "5,10 * * * *",
            "5/10 * * * *",
            "0-10/2 * * * *",
            "* * ? * ?",
            "* * 31 * *",
        ] {
            assert!(parse_schedule(good).is_ok(), "{good}");
        }
        for bad in [
            "@foo",
            "@reboot",
            "@every 1h",
            "60 * * * *",
            "* * * * 7",
            "* * * *",
            "* * * * * *",
            "* * 0 * *",
            "L * * * *",
            "5-1 * * * *",
            "*/0 * * * *",
            "*/ * * * *",
            ", * * * *",
            "+5 * * * *",
            "@daily, @never",
            "é * * * *",
        ] {
            assert!(parse_schedule(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_schedule_knows_its_minutes() {
        let schedule = parse_schedule("5/20,0 6 * feb mon-wed").unwrap();
        let [times] = schedule.times[..] else { panic!("{schedule:?}") };
        assert_eq!(times.fields[0], 1 | 1 << 5 | 1 << 25 | 1 << 45);
        assert_eq!((times.fields[1], times.fields[3], times.fields[4]), (1 << 6, 1 << 2, 0b1110));
        assert!(!times.either_day);
        assert!(parse_schedule("0 0 1 * 1").unwrap().times[0].either_day);
        let schedule = parse_schedule("@startup, @daily, @hourly").unwrap();
        assert!(schedule.startup && schedule.times.len() == 2);
    }

    #[test]
    fn an_expiry_is_a_time() {
        // 31 January 2031, 12:00.
        let now = 1_927_713_600;
        let after = |text: &str| expires(&parse_expiry(text).unwrap(), now);
        assert_eq!((after("0d"), after("1S") - now), (0, 1));
        assert_eq!(after("1M 2H 3d 4w") - now, 60 + 7200 + 31 * 86400);
        assert_eq!(after("1m") - now, 28 * 86400, "the last of February");
        assert_eq!(after("1y") - now, 365 * 86400);
        assert!(after("4000000000y") > now);
    }

    #[test]
    fn a_schedule_says_when() {
        let fits = |schedule: &str, seconds: i64| {
            let at = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap();
            parse_schedule(schedule).unwrap().fits(at)
        };
        // Sunday, 9 February 2031, 13:07:05.
        let at = 1_928_408_825;
        assert!(fits("7 13 * * *", at) && fits("7,9 * * * *", at) && fits("* * * * sun", at));
        assert!(!fits("@hourly", at) && !fits("@startup", at) && !fits("@never", at) && !fits("* * * * mon", at));
        assert!(fits("* * 9 * mon", at) && !fits("* * 9 3 mon", at), "one of two days is enough");
    }

    #[test]
    fn expiries_are_read_as_lxd_reads_them() {
        assert_eq!(parse_expiry("7S 1M 2H 3d 4w 5m 6y"), Ok([7, 1, 2, 3, 4, 5, 6]));
        assert_eq!(parse_expiry(" 6y 1M "), Ok([0, 1, 0, 0, 0, 0, 6]));
        assert_eq!(parse_expiry("0M"), Ok([0; 7]));
        for bad in ["1M2H", "1x", "M", "1M 1M", "-1d", "+1d", "1.5d", "99999999999999999999d", "é", "1é", "0d 1d"] {
            assert!(parse_expiry(bad).is_err(), "{bad}");
        }
    }
}
