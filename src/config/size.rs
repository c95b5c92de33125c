//! Sizes in bytes, as LXD's API writes them: `512`, `64KiB`, `100MB`.

/// Units and what each is in bytes. A number alone is bytes.
const UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("B", 1),
    ("kB", 1000),
    ("MB", 1000 * 1000),
    ("GB", 1000 * 1000 * 1000),
    ("TB", 1000 * 1000 * 1000 * 1000),
    ("PB", 1000 * 1000 * 1000 * 1000 * 1000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("EB", 1000 * 1000 * 1000 * 1000 * 1000 * 1000),
    ("PiB", 1 << 50),
    ("EiB", 1 << 60),
];

/// Reads a size. `None` when it is no whole number with one of the units, or does not fit.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
    // The kernel's files hold signed numbers.
    number.parse::<u64>().ok()?.checked_mul(*factor).filter(|bytes| i64::try_from(*bytes).is_ok())
}

/// Reads a size, or a part of `whole` in per cent.
pub fn parse_part(text: &str, whole: u64) -> Option<u64> {
    match text.trim().strip_suffix('%') {
        None => parse_size(text),
        Some(percent) => {
            let percent: u64 = percent.trim().parse().ok().filter(|percent| *percent <= 100)?;
            // In two steps, as the product could be too large.
            Some(whole / 100 * percent + whole % 100 * percent / 100)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("64kB", 64_000),
            ("64KiB", 65_536),
            ("1MB", 1_000_000),
            ("1 MiB", 1 << 20),
            ("2GiB", 2 << 30),
            ("3TB", 3_000_000_000_000),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for bad in ["", "MB", "-1", "1.5GiB", "1gib", "1 M B", "9223372036854775808", "99999PiB", "1%"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_part_is_of_the_whole() {
        assert_eq!(parse_part("50%", 1000), Some(500));
        assert_eq!(parse_part("33%", 150), Some(49));
        assert_eq!(parse_part("100%", u64::MAX), Some(u64::MAX));
        assert_eq!(parse_part("101%", 1000), None);
        assert_eq!(parse_part("1kB", 10), Some(1000));
    }
}
