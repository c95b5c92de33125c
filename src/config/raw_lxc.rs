//! `raw.lxc`: lines of lxc.container.conf(5) of the administrator's own.
//!
//! They are read into keys and values here, and what goes to liblxc is written anew from these: what is checked is what
//! counts. What the daemon itself lives by cannot be set: the logs, interfaces (but for their addresses), ephemerality,
//! and other files.

/// A key begins so, in any case: it is refused, and why.
const REFUSED: &[(&str, &str)] = &[
    ("lxc.log", "the log is the daemon's"),
    ("lxc.syslog", "the log is the daemon's"),
    ("lxc.ephemeral", "make the instance ephemeral instead"),
    ("lxc.include", "write the lines themselves"),
];

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Of letters, digits, `.`, `_`, `-` and `/`; begins with `lxc.`.
    pub key: String,
    /// Without control characters.
    pub value: String,
}

/// `lxc.net.N.ipv4.address` and the like.
fn is_address(key: &str) -> bool {
    let parts: Vec<&str> = key.split('.').collect();
    let [_, _, number, family, field] = parts.as_slice() else { return false };
    !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
        && matches!(*family, "ipv4" | "ipv6")
        && matches!(*field, "address" | "gateway")
}

fn line(text: &str) -> Result<Option<Line>, String> {
    let text = text.trim_matches([' ', '\t', '\r']);
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return Err("control characters are not allowed".to_owned());
    }
    let Some((key, value)) = text.split_once('=') else { return Err("it must be KEY = VALUE".to_owned()) };
    let (key, value) = (key.trim_matches([' ', '\t']), value.trim_matches([' ', '\t']));
    let lower = key.to_ascii_lowercase();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    if !lower.starts_with("lxc.") || !key.chars().all(plain) {
        return Err(format!("{key:?} is no key of lxc.container.conf(5)"));
    }
    if value.ends_with('\\') {
        return Err("a value cannot end in a backslash".to_owned());
    }
    if let Some((_, why)) = REFUSED.iter().find(|(start, _)| lower.starts_with(start)) {
        return Err(format!("Setting {key} is not allowed: {why}"));
    }
    if lower.starts_with("lxc.net") && !is_address(key) {
        return Err(format!(
            "Only interface-specific ipv4/ipv6 lxc.net. keys are allowed, such as lxc.net.0.ipv4.address, not {key}: use a nic device"
        ));
    }
    // An empty value takes back what came before: also the daemon's own hooks, without which it would not hear of a stop.
    let kept = !(value.is_empty() && lower.starts_with("lxc.hook"));
    Ok(kept.then(|| Line { key: key.to_owned(), value: value.to_owned() }))
}

/// Reads the lines; blank ones and remarks (`#`) do not count.
///
/// # Errors
/// With the line that is wrong, and why.
pub fn parse(text: &str) -> Result<Vec<Line>, String> {
    let mut lines = Vec::new();
    for (index, one) in text.split('\n').enumerate() {
        match line(one) {
            Ok(line) => lines.extend(line),
            Err(why) => {
                let shown = crate::names::shortened(one.trim());
                return Err(format!("line {} ({shown:?}): {why}", index + 1));
            }
        }
    }
    Ok(lines)
}

/// Whether one of these lines says anything about the id map, also that there is none, or about whose namespaces it has.
pub fn maps_ids(text: &str) -> bool {
    let says = |line: &Line| {
        let key = line.key.to_ascii_lowercase();
        key.starts_with("lxc.id") || key.starts_with("lxc.namespace")
    };
    parse(text).unwrap_or_default().iter().any(says)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_become_keys_and_values() {
        let text = "# mine\r\nlxc.cap.drop =\n\tlxc.hook.start = /x a=b\r\n\nlxc.net.0.ipv4.address=10.0.0.2/24\nlxc.hook.post-stop =\n";
        let lines = parse(text).unwrap();
        let pairs: Vec<(&str, &str)> = lines.iter().map(|line| (line.key.as_str(), line.value.as_str())).collect();
        let wanted = [("lxc.cap.drop", ""), ("lxc.hook.start", "/x a=b"), ("lxc.net.0.ipv4.address", "10.0.0.2/24")];
        assert_eq!(pairs, wanted);
        assert!(maps_ids("lxc.idmap =") && maps_ids("lxc.id_map=u 0 0 1") && !maps_ids(text));
        assert!(maps_ids("lxc.namespace.keep = user") && maps_ids("LXC.namespace.share.user=1"));
    }

    const BAD: &[&str] = &[
        "lxc.log.file",
        "lxc.log.level",
        "lxc.log",
        "lxc.log.syslog",
        "lxc.logfile",
        "lxc.loglevel",
        "lxc.syslog",
        "lxc.ephemeral",
        "lxc.include",
        "lxc.net",
        "lxc.net.0",
        "lxc.net.0.type",
        "lxc.net.0.link",
        "lxc.net.0.script.up",
        "lxc.net.x.ipv4.address",
        "lxc.net.0.ipv4.address.x",
        "lxc.net.0.ipv4.method",
        "lxc.network.type",
        "lxc.network.0.ipv4",
    ];

    #[test]
    fn what_the_daemon_lives_by_is_refused_with_the_line() {
        for key in BAD {
            let error = parse(&format!("lxc.cap.drop =\n{key} = x")).unwrap_err();
            assert!(error.starts_with("line 2") && error.contains("allowed"), "{key}: {error}");
        }
        for text in ["nonsense", "lxc.cap.drop", "mount = x", "lxc.a b = c", "lxc.cap.drop = a \\", "lxc.x = \u{1}"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        /// However it is written, a refused key does not come through: neither by case nor blanks, nor other ends of lines.
        #[test]
        fn nothing_is_smuggled(
            key in proptest::sample::select(BAD),
            upper in proptest::collection::vec(any::<bool>(), 40),
            before in "[ \t\r\x0b\x0c\u{a0}\u{2028}\\\\#]{0,3}",
            after in "[ \t\r\x0b\x0c\u{a0}\u{feff}\\\\]{0,3}",
            earlier in "(lxc.cap.drop = a[ \\\\\r\x0b\x0c]{0,2}[\n\r\x0b\x0c\u{85}\u{2028}])?",
            equals in "(=|==| = |=\n)",
        ) {
            let key: String = key.chars().zip(upper).map(|(c, up)| if up { c.to_ascii_uppercase() } else { c }).collect();
            let text = format!("{earlier}{before}{key}{after}{equals}x");
            if let Ok(lines) = parse(&text) {
                for line in &lines {
                    let lower = line.key.to_ascii_lowercase();
                    prop_assert!(!BAD.iter().any(|bad| lower == bad.to_ascii_lowercase()), "{text:?}: {lines:?}");
                    // What is written anew is one line, and reads back as itself.
                    let again = format!("{} = {}", line.key, line.value);
                    prop_assert!(!again.contains(['\n', '\r', '\0', '\x0b', '\x0c']));
                    prop_assert_eq!(parse(&again).unwrap(), vec![line.clone()]);
                }
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(lxc|\\.|net|log|=| |\n|\r|\\\\|include|[ -~]){0,30}") {
            for line in parse(&text).unwrap_or_default() {
                let lower = line.key.to_ascii_lowercase();
                prop_assert!(!REFUSED.iter().any(|(start, _)| lower.starts_with(start)));
                prop_assert!(!lower.starts_with("lxc.net") || is_address(&lower));
            }
        }
    }
}
