//! `raw.idmap`: ids of the host that a container gets besides its range, a line each: `both|uid|gid HOST[-HOST] NS[-NS]`.

/// The kernel reads a map of at most a page (user_namespaces(7)); each line makes up to two rows more.
const MAX_LINES: usize = 50;

/// One line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRow {
    /// Of users.
    pub uid: bool,
    /// Of groups.
    pub gid: bool,
    /// First id on the host.
    pub outside: u32,
    /// First id in the container.
    pub inside: u32,
    /// How many.
    pub size: u32,
}

/// `N` or `N-M`: the first and how many. The last id of 32 bits means "none".
pub fn range(text: &str) -> Option<(u32, u32)> {
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u32>().ok())?;
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last && last < u32::MAX - 1).then(|| (first, last - first + 1))
}

fn row(line: &str) -> Result<IdRow, &'static str> {
    let shape = "it must be \"both\", \"uid\" or \"gid\", an id or a range of the host, and one of the instance, such as \"both 1000 1000\" or \"uid 50-60 500-510\"";
    let mut words = line.split_whitespace();
    let (Some(kind), Some(outside), Some(inside), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(shape);
    };
    let (uid, gid) = match kind {
        "both" => (true, true),
        "uid" => (true, false),
        "gid" => (false, true),
        _ => return Err(shape),
    };
    let ((outside, size), (inside, count)) = range(outside).zip(range(inside)).ok_or(shape)?;
    if size != count {
        return Err("both ranges must have the same size");
    }
    Ok(IdRow { uid, gid, outside, inside, size })
}

/// Reads the lines; blank ones do not count.
///
/// # Errors
/// With the line that is wrong, and why.
pub fn parse(text: &str) -> Result<Vec<IdRow>, String> {
    let mut rows: Vec<IdRow> = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let shown = crate::names::shortened(line.trim());
        let refuse = |why: &str| Err(format!("line {} ({shown:?}): {why}", index + 1));
        let new = match row(line) {
            Ok(row) => row,
            Err(why) => return refuse(why),
        };
        let meet = |a: u32, b: u32, size: u32, count: u32| {
            u64::from(a) < u64::from(b) + u64::from(count) && u64::from(b) < u64::from(a) + u64::from(size)
        };
        let clash = |old: &IdRow| {
            ((old.uid && new.uid) || (old.gid && new.gid))
                && (meet(old.inside, new.inside, old.size, new.size)
                    || meet(old.outside, new.outside, old.size, new.size))
        };
        if rows.iter().any(clash) {
            return refuse("an earlier line has some of these ids");
        }
        if rows.len() == MAX_LINES {
            return refuse("there are at most 50 lines");
        }
        rows.push(new);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_lxd_writes_them() {
        let rows = parse("both 1000 1000\nuid 50-60 500-510\n\n gid 100 5\n").unwrap();
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[1], IdRow { uid: true, gid: false, outside: 50, inside: 500, size: 11 });
    }

    #[test]
    fn a_malformed_line_is_named() {
        for (text, word) in [
            ("both 1 1\nall 1 1", "line 2 (\"all 1 1\")"),
            ("both 1-5 1-4", "same size"),
            ("both 5-1 5-1", "line 1"),
            ("both 1", "line 1"),
            ("both 1 1 1", "line 1"),
            ("both +1 1", "line 1"),
            ("both -1 1", "line 1"),
            ("both 1- 1-", "line 1"),
            ("uid 4294967295 1", "line 1"),
            ("uid 99999999999 1", "line 1"),
            ("both 5-9 5-9\ngid 9 20", "earlier"),
            ("both 5-9 5-9\nuid 40 7", "earlier"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text:?}: {error}");
        }
        assert!(parse("uid 5 5\ngid 5 5").is_ok());
        let many: String = (0..60).map(|n| format!("uid {n} {n}\n")).collect();
        assert!(parse(&many).unwrap_err().contains("at most 50"));
    }

    proptest::proptest! {
        #[test]
        fn nothing_breaks_it(text in "(both|uid|gid| |\n|-|[0-9]{1,11}|x){0,40}") {
            if let Ok(rows) = parse(&text) {
                for row in rows {
                    assert!(row.size > 0 && row.inside.checked_add(row.size).is_some() && (row.uid || row.gid));
                }
            }
        }
    }
}
