//! Named sizes of instances: `c2-m4` is two processors and four GiB.

use crate::api::wire::Config;

/// The limits that a size stands for; `None` when it is not written so. A part of a processor is a share of one.
pub fn limits_of(size: &str) -> Option<Config> {
    let mut limits = Config::new();
    for part in size.split('-') {
        let kind = part.chars().next()?;
        let number: f64 = part.get(1..)?.parse().ok().filter(|number| (0.001..=1_000_000.0).contains(number))?;
        let (key, value) = match kind {
            'c' if number < 1.0 => ("limits.cpu.allowance", format!("{}%", (number * 100.0).ceil())),
            'c' => ("limits.cpu", number.trunc().to_string()),
            'm' => ("limits.memory", format!("{}MB", (number * 1024.0).trunc())),
            _ => return None,
        };
        if limits.insert(key.to_owned(), value).is_some() {
            return None;
        }
    }
    Some(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_names_processors_and_memory() {
        let of =
            |size: &str| limits_of(size).map(|limits| limits.into_iter().map(|(k, v)| format!("{k}={v}")).collect());
        let wanted = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(of("c2-m1"), wanted(&["limits.cpu=2", "limits.memory=1024MB"]));
        assert_eq!(of("m0.5"), wanted(&["limits.memory=512MB"]));
        assert_eq!(of("c0.25"), wanted(&["limits.cpu.allowance=25%"]));
        for bad in ["", "c", "t2.micro", "c-m", "c1-c2", "c1-", "-", "cNaN", "c-1", "m0", "é1", "c1e99"] {
            assert_eq!(limits_of(bad), None, "{bad}");
        }
    }
}
