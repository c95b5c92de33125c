//! `raw.seccomp`: a whole policy in liblxc's format (lxc.container.conf(5), SECCOMP CONFIGURATION).
//!
//! ```text
//!  1                          2
//!  allowlist                  allowlist | denylist [ACTION]
//!  <number of a call>         [ARCHITECTURE]
//!  …                          NAME [ACTION] [CONDITION …] | reject_force_umount
//! ```
//! Only the form is looked at, so that a policy that liblxc cannot read is refused when it is set, not when the instance
//! starts next. Which calls and architectures there are, liblxc and libseccomp know.

use super::syscalls;

/// The words for a list of each kind, the older ones too.
const LISTS: [&str; 4] = ["allowlist", "denylist", "whitelist", "blacklist"];

/// What liblxc takes besides the names of calls.
const SPECIAL: &str = "reject_force_umount";

fn plain(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A line below the head of version 2.
fn rule(line: &str) -> Result<(), String> {
    if let Some(architecture) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
        return if plain(architecture) { Ok(()) } else { Err(format!("{architecture:?} is no architecture")) };
    }
    let mut words = line.split_ascii_whitespace();
    let name = words.next().unwrap_or_default();
    if !plain(name) {
        return Err(format!("{name:?} is no system call"));
    }
    if name == SPECIAL {
        return Ok(());
    }
    syscalls::check_action(words, true)
}

/// Checks a policy.
///
/// # Errors
/// With the line that is wrong, and why.
pub fn check(text: &str) -> Result<(), String> {
    let mut lines = text.lines().map(|line| line.trim_matches([' ', '\t', '\r'])).enumerate();
    let at = |(index, line): (usize, &str), why: String| {
        format!("line {} ({:?}): {why}", index + 1, crate::names::shortened(line))
    };
    let first = lines.next().unwrap_or_default();
    if !matches!(first.1, "1" | "2") {
        return Err(at(first, "a policy begins with its version, 1 or 2".to_owned()));
    }
    let head = lines.next().unwrap_or((1, ""));
    let mut words = head.1.split_ascii_whitespace();
    if !words.next().is_some_and(|word| LISTS.contains(&word)) {
        return Err(at(head, "after the version stands allowlist or denylist".to_owned()));
    }
    if first.1 == "1" && head.1 != "allowlist" && head.1 != "whitelist" {
        return Err(at(head, "version 1 has allowlist only".to_owned()));
    }
    if words.clone().next() == Some("notify") {
        return Err(at(head, "who would have all calls answered by somebody else could not even start".to_owned()));
    }
    syscalls::check_action(words, true).map_err(|why| at(head, why))?;
    for (index, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let fits = match first.1 {
            "1" if line.bytes().all(|b| b.is_ascii_digit()) => Ok(()),
            "1" => Err("version 1 lists system calls by their numbers".to_owned()),
            _ => rule(line),
        };
        fits.map_err(|why| at((index, line), why))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_of_both_versions_are_taken() {
        for good in [
            "1\nallowlist\n0\n1\n",
            "2\ndenylist\nmknod errno 0\nioctl notify\n",
            "2\nallowlist errno 1\n[all]\nread\n# rem\n\nsocket errno 97 [0,17,SCMP_CMP_EQ]\n[x86_64]\nwrite kill",
            "2\nblacklist\nreject_force_umount # comment\n[all]\nkexec_load errno 1\n",
            "2\r\ndenylist\r\n",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_liblxc_could_not_read_is_refused_with_its_line() {
        for (bad, line) in [
            ("garbage", "line 1"),
            ("3\ndenylist\n", "line 1"),
            ("2", "line 2"),
            ("2\nlist\n", "line 2"),
            ("1\ndenylist\n1", "line 2"),
            ("2\ndenylist bogus\n", "line 2"),
            ("2\ndenylist notify\n", "line 2"),
            ("1\nallowlist\nread\n", "line 3"),
            ("2\ndenylist\nread errno\n", "line 3"),
            ("2\ndenylist\n\nre-ad\n", "line 4"),
            ("2\ndenylist\n[x y]\n", "line 3"),
        ] {
            let said = check(bad).unwrap_err();
            assert!(said.starts_with(line), "{bad:?}: {said}");
        }
    }
}
