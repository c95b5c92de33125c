//! `security.syscalls.*`: system calls, a line each, with what happens to who makes them.
//!
//! A line: `NAME [kill | trap | allow | errno N] [[INDEX,VALUE,OPERATOR(,MASK)] …]`, as liblxc takes it
//! (lxc.container.conf(5), SECCOMP CONFIGURATION).

pub use super::syscall_names::COMPAT;
use super::syscall_names::OTHERS;
use crate::api::wire::Config;

/// Each key with its older name.
const ALLOW: [&str; 2] = ["security.syscalls.allow", "security.syscalls.whitelist"];
const DENY: [&str; 2] = ["security.syscalls.deny", "security.syscalls.blacklist"];
const DENY_COMPAT: [&str; 2] = ["security.syscalls.deny_compat", "security.syscalls.blacklist_compat"];
const DENY_DEFAULT: [&str; 2] = ["security.syscalls.deny_default", "security.syscalls.blacklist_default"];
const RAW: &str = "raw.seccomp";

/// All names, of every architecture.
pub fn names() -> impl Iterator<Item = &'static str> {
    COMPAT.iter().chain(OTHERS).copied()
}

fn known(name: &str) -> bool {
    [COMPAT, OTHERS].iter().any(|names| names.binary_search(&name).is_ok())
}

/// What liblxc 5.0 compares by, by the names of libseccomp or by signs (tried with 5.0.2).
const OPERATORS: &[&str] = &[
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "!=",
    "<",
    "<=",
    "==",
    ">=",
    ">",
];
/// Those that take a mask.
const MASKED: &[&str] = &["SCMP_CMP_MASKED_EQ", "&="];

/// The largest error that libseccomp makes a call fail with.
const MAX_ERRNO: u16 = 4094;

/// `[INDEX,VALUE,OPERATOR]`, or with a mask behind an operator that takes one.
fn is_condition(text: &str) -> bool {
    let Some(parts) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) else { return false };
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).is_ok(),
        None => !text.starts_with('+') && text.parse::<u64>().is_ok(),
    };
    // A call has six arguments.
    let index = |text: &str| matches!(text, "0" | "1" | "2" | "3" | "4" | "5");
    match parts.split(',').collect::<Vec<_>>()[..] {
        [argument, value, operator] => index(argument) && number(value) && OPERATORS.contains(&operator),
        [argument, value, operator, mask] => {
            index(argument) && number(value) && MASKED.contains(&operator) && number(mask)
        }
        _ => false,
    }
}

fn check(line: &str) -> Result<(), String> {
    let mut words = line.split_ascii_whitespace();
    let name = words.next().unwrap_or_default();
    if !known(name) {
        return Err(format!("there is no system call {name:?}"));
    }
    check_action(words, false)
}

/// What stands behind the name of a call: an action or none, and conditions. `raw`: in a whole policy, where calls may be
/// handed to the daemon, too, and lines may end in a remark.
pub(super) fn check_action<'a>(words: impl Iterator<Item = &'a str>, raw: bool) -> Result<(), String> {
    let mut words = words.take_while(|word| !raw || !word.starts_with('#')).peekable();
    match words.peek().copied() {
        Some("kill" | "trap" | "allow") => drop(words.next()),
        Some("notify") if raw => drop(words.next()),
        Some("errno") => {
            words.next();
            let number = words.next().and_then(|word| word.parse::<u16>().ok());
            if number.is_none_or(|number| number > MAX_ERRNO) {
                return Err("after \"errno\", a number up to 4094 is missing, such as 38 (ENOSYS)".to_owned());
            }
        }
        Some(word) if is_condition(word) => {
            return Err("before a condition stands what happens, such as errno 1 or kill".to_owned());
        }
        _ => {}
    }
    match words.find(|word| !is_condition(word)) {
        Some(word) => Err(format!(
            "{word:?} is neither kill, trap, allow, errno and a number, nor a condition such as [0,1,SCMP_CMP_EQ]"
        )),
        None => Ok(()),
    }
}

/// Reads the lines; blank ones and remarks (`#`) do not count.
///
/// # Errors
/// With the line that is wrong, and why.
pub fn parse(text: &str) -> Result<Vec<&str>, String> {
    let mut lines = Vec::new();
    for (index, line) in text.split('\n').enumerate() {
        let line = line.trim_matches([' ', '\t', '\r']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Err(why) = check(line) {
            let shown = crate::names::shortened(line);
            return Err(format!("line {} ({shown:?}): {why}", index + 1));
        }
        lines.push(line);
    }
    Ok(lines)
}

/// Checks the value of one of these keys.
///
/// # Errors
/// As [`parse`], and with an action that liblxc refuses in a list of this kind.
pub(super) fn check_value(key: &str, text: &str) -> Result<(), String> {
    let lines = parse(text)?;
    let allowing = |line: &&str| line.split_ascii_whitespace().nth(1) == Some("allow");
    match lines.into_iter().find(|line| DENY.contains(&key) && allowing(line)) {
        Some(line) => Err(format!("{line:?}: all that is not in this list is allowed anyhow; leave the line out")),
        None => Ok(()),
    }
}

/// What the keys of an instance say.
#[derive(Debug, PartialEq, Eq)]
pub enum Filter<'a> {
    /// This text is the whole policy.
    Raw(&'a str),
    /// Only these.
    Allow(Vec<&'a str>),
    /// All but these, and the usual ones, and those of programs for another architecture.
    Deny {
        /// These.
        lines: Vec<&'a str>,
        /// Those that are denied unless somebody says otherwise.
        usual: bool,
        /// [`COMPAT`].
        compat: bool,
    },
}

fn value<'a>(config: &'a Config, keys: [&str; 2]) -> Option<(String, &'a str)> {
    let set = |key: &str| config.get(key).filter(|text| !text.is_empty()).map(|text| (key.to_owned(), text.as_str()));
    keys.into_iter().find_map(set)
}

fn flag(config: &Config, keys: [&str; 2]) -> Option<(String, bool)> {
    value(config, keys).and_then(|(key, text)| Some((key, super::parse_bool(text)?)))
}

impl<'a> Filter<'a> {
    /// Reads a checked configuration.
    pub fn of(config: &'a Config) -> Self {
        let lines = |keys| value(config, keys).and_then(|(_, text)| parse(text).ok());
        match (config.get(RAW).filter(|text| !text.is_empty()), lines(ALLOW)) {
            (Some(raw), _) => Self::Raw(raw),
            (None, Some(lines)) => Self::Allow(lines),
            (None, None) => Self::Deny {
                lines: lines(DENY).unwrap_or_default(),
                usual: flag(config, DENY_DEFAULT).is_none_or(|(_, on)| on),
                compat: flag(config, DENY_COMPAT).is_some_and(|(_, on)| on),
            },
        }
    }
}

fn raw_set(config: &Config) -> bool {
    config.get(RAW).is_some_and(|text| !text.is_empty())
}

/// Two keys that cannot both count.
pub(super) fn exclusive(config: &Config) -> Option<(String, String)> {
    let allow = value(config, ALLOW).map(|(key, _)| key);
    let deny = value(config, DENY).map(|(key, _)| key);
    let on = |keys| flag(config, keys).filter(|(_, on)| *on).map(|(key, _)| key);
    let other = deny.or_else(|| on(DENY_COMPAT)).or_else(|| on(DENY_DEFAULT));
    let other = other.or_else(|| super::intercept::first(config).filter(|_| raw_set(config)).map(str::to_owned));
    let raw = config.get(RAW).filter(|text| !text.is_empty()).map(|_| RAW.to_owned());
    let (first, second) = match (raw, allow, other) {
        (Some(raw), Some(other), _) | (Some(raw), None, Some(other)) => (raw, other),
        (_, Some(allow), Some(other)) => (allow, other),
        _ => return None,
    };
    Some((first, second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_sorted_so_that_they_are_found() {
        assert!(COMPAT.is_sorted() && OTHERS.is_sorted());
        assert!(["read", "mseal", "keyctl", "newfstatat", "socketcall"].into_iter().all(known));
    }

    #[test]
    fn lines_are_checked_and_named() {
        let text =
            "# keys\nkeyctl errno 38\n\n  ptrace\nsocket errno 97 [0,17,SCMP_CMP_EQ] [1,3,SCMP_CMP_MASKED_EQ,7]\n";
        assert_eq!(parse(text).unwrap().len(), 3);
        for (bad, word) in [
            ("read\nreed", "line 2 (\"reed\"): there is no system call \"reed\""),
            ("READ", "READ"),
            ("[all]", "line 1"),
            ("read errno", "number"),
            ("read errno 4095", "number"),
            ("read log", "log"),
            ("read [1,511,SCMP_CMP_EQ]", "before a condition"),
            ("read errno 1 [6,1,SCMP_CMP_EQ]", "condition"),
            ("read errno 1 [0,1,SCMP_CMP_FOO]", "condition"),
            ("read errno 1 [0,foo,SCMP_CMP_EQ]", "condition"),
            ("read errno 1 [0,1,SCMP_CMP_EQ,7]", "condition"),
            ("read errno 5000", "number"),
            ("read notify", "notify"),
            ("read kill kill", "kill"),
            ("read kill [0,1]", "condition"),
            ("read\x0bwrite", "line 1"),
        ] {
            assert!(parse(bad).unwrap_err().contains(word), "{bad:?}: {:?}", parse(bad));
        }
    }

    #[test]
    fn lists_of_both_kinds_cannot_be_together() {
        let config = |keys: &[(&str, &str)]| -> Config {
            keys.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let both = |keys| exclusive(&config(keys)).is_some();
        assert!(both(&[(ALLOW[0], "read"), (DENY[1], "write")]));
        assert!(both(&[(ALLOW[1], "read"), (DENY_COMPAT[0], "true")]));
        assert!(both(&[(RAW, "2"), (DENY[0], "read")]));
        assert!(!both(&[(ALLOW[0], "read"), (DENY_DEFAULT[0], "false")]));
        assert!(!both(&[(DENY[0], "read"), (DENY_COMPAT[0], "true"), (DENY_DEFAULT[0], "true")]));
        let usual = config(&[(DENY[1], "read")]);
        assert_eq!(Filter::of(&usual), Filter::Deny { lines: vec!["read"], usual: true, compat: false });
    }
}
