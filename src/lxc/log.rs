//! liblxc's log: the ERROR lines of an operation are the only words it has about a failure.
//!
//! Line: `prefix [name] YYYYmmddHHMMSS.mmm LEVEL category - file:function:line - message`; the name is missing in lines
//! that belong to no container.

use std::path::Path;

/// At most so many messages are told; the first ones are the causes.
const MAX: usize = 4;
/// At most so many bytes of the end of a log are looked at.
const TAIL: usize = 64 * 1024;

/// The message of an ERROR line, `None` for any other line.
pub fn error_message(line: &str) -> Option<&str> {
    let mut words = line.split_ascii_whitespace();
    let _prefix = words.next()?;
    let time =
        |word: &str| word.len() == 18 && word.as_bytes()[14] == b'.' && word[..14].bytes().all(|b| b.is_ascii_digit());
    let first = words.next()?;
    if !time(first) && !time(words.next()?) {
        return None;
    }
    if words.next()? != "ERROR" {
        return None;
    }
    line.splitn(3, " - ").nth(2).map(str::trim)
}

/// The messages of the ERROR lines in `text`, first ones first, each once.
pub fn excerpt(text: &str) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    for message in text.lines().filter_map(error_message) {
        if messages.len() < MAX && !messages.iter().any(|known| known == message) {
            messages.push(message.to_owned());
        }
    }
    messages
}

/// [`excerpt`] of the end of a file; empty when it cannot be read.
pub fn excerpt_of(path: &Path) -> Vec<String> {
    let bytes = std::fs::read(path).unwrap_or_default();
    excerpt(&String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TAIL)..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_lines_are_found_with_and_without_a_name() {
        let text = "\
lxc c1 20261124120000.123 ERROR    conf - ../src/lxc/conf.c:mount_entry:100 - No such file - Failed to mount
lxc 20261124120000.124 ERROR    start - ../src/lxc/start.c:run:7 - Failed to start
lxc c1 20261124120000.125 WARN     conf - ../src/lxc/conf.c:x:1 - Only a warning
lxc c1 20261124120000.126 ERROR    start - ../src/lxc/start.c:run:7 - Failed to start
nonsense
";
        assert_eq!(excerpt(text), ["No such file - Failed to mount", "Failed to start"]);
    }

    #[test]
    fn odd_lines_do_no_harm() {
        for line in ["", "lxc", "lxc ä 20261124120000.123 ERROR x", "a b c ERROR - - -"] {
            let _ = error_message(line);
        }
    }
}
