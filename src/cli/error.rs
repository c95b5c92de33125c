//! Why a command of the client failed, and what its user can do about it.

use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;

/// A refusal by the daemon.
#[derive(Debug, Default)]
pub(crate) struct Refusal {
    /// What was attempted, e.g. "Cannot delete web"; empty when the reason says it all.
    pub(super) what: String,
    /// The daemon's message.
    pub(super) reason: String,
    /// What to do about it; empty when nothing is known.
    pub(super) hint: String,
}

/// Why a command failed. Up to three lines: what, why, what to do.
#[derive(Debug)]
pub(crate) enum Error {
    /// No daemon answers.
    Connect { socket: PathBuf, error: std::io::Error },
    /// A remote does not answer.
    Unreachable { remote: String, url: String, reason: String },
    /// A remote shows another certificate than it did before.
    Changed { remote: String, known: String, shown: String },
    /// The connection broke.
    Lost(String),
    /// The answer makes no sense.
    Broken(String),
    /// The daemon refused.
    Refused(Refusal),
    /// Something on this side.
    Local { doing: String, error: std::io::Error },
    /// The command line makes no sense.
    Usage(String),
    /// Ended by this signal, as from the keyboard, and what was waited for cancelled.
    Interrupted { signal: i32, cancelled: bool },
    /// Of several instances some made trouble.
    Several(Vec<Error>),
}

impl Error {
    /// A refusal with the daemon's message.
    pub(super) fn refused(reason: impl Into<String>) -> Self {
        Self::Refused(Refusal { reason: reason.into(), ..Refusal::default() })
    }

    /// What there is none of here, and why.
    pub(super) fn absent(what: &str, why: &str) -> Self {
        Self::Usage(format!("There are no {what} here\n{why}"))
    }

    /// Says of a refusal what was attempted.
    pub(super) fn doing(self, what: String) -> Self {
        match self {
            Self::Refused(refusal) => {
                let known = refusal.hint.is_empty() && refusal.reason == "Instance not found";
                let hint =
                    if known { "\"warren list\" shows the instances that there are".to_owned() } else { refusal.hint };
                Self::Refused(Refusal { what, hint, ..refusal })
            }
            other => other,
        }
    }

    /// Says of a refusal for which nothing is known yet what to do.
    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        match self {
            Self::Refused(refusal) if refusal.hint.is_empty() => {
                Self::Refused(Refusal { hint: hint.into(), ..refusal })
            }
            other => other,
        }
    }

    /// The errors that this one is made of.
    pub(super) fn each(&self) -> impl Iterator<Item = &Self> {
        match self {
            Self::Several(errors) => errors.iter(),
            one => std::slice::from_ref(one).iter(),
        }
    }

    /// The exit code of a client that failed so.
    pub(super) fn code(&self) -> u8 {
        match self {
            // As a shell tells it of a program that the signal ended.
            Self::Interrupted { signal, .. } => u8::try_from(128 + signal).unwrap_or(1),
            _ => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { socket, error } => {
                writeln!(f, "Cannot reach the daemon")?;
                writeln!(f, "Nothing answers at {}: {error}", socket.display())?;
                f.write_str(match error.kind() {
                    ErrorKind::PermissionDenied => "Be root, or join the group that warrend was given",
                    _ => "Start warrend, or name its socket by WARREN_SOCKET or its directory by WARREN_DIR",
                })
            }
            Self::Unreachable { remote, url, reason } => write!(
                f,
                "Cannot reach {url}\n{reason}\nIs the server running, and is it the right address? \"warren remote set-url {remote} <URL>\" sets another"
            ),
            Self::Changed { remote, known, shown } => write!(
                f,
                "The server behind {remote}: shows another certificate than it did before\nKnown: {known}\nShown: {shown}\nSomebody may be in between. If the server's certificate was renewed on purpose: \"warren remote remove {remote}\", then \"warren remote add\" it again"
            ),
            Self::Lost(reason) => write!(
                f,
                "The connection to the daemon broke\n{}\nSee whether warrend still runs, and with \"warren list\" what it did",
                // TLS's own words for it lead to a manual for programmers.
                if reason.contains("close_notify") { "The server closed it without a word" } else { reason.as_str() }
            ),
            Self::Broken(reason) => {
                write!(f, "The daemon's answer makes no sense\n{reason}\nAre warren and warrend of the same version?")
            }
            Self::Refused(Refusal { what, reason, hint }) => {
                let lines = [what, reason, hint].into_iter().filter(|line| !line.is_empty());
                f.write_str(&lines.map(String::as_str).collect::<Vec<_>>().join("\n"))
            }
            Self::Usage(message) => f.write_str(message),
            Self::Local { doing, error } => write!(f, "Cannot {doing}: {error}"),
            Self::Interrupted { cancelled: false, .. } => f.write_str("Interrupted"),
            Self::Interrupted { .. } => {
                f.write_str("Interrupted; what the daemon was doing was cancelled where it can be")
            }
            Self::Several(errors) => {
                let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
                f.write_str(&lines.join("\n"))
            }
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_why_and_what_to_do() {
        let bare = Error::refused("Instance not found");
        assert_eq!(bare.to_string(), "Instance not found");
        let text = bare.doing("Cannot stop web".to_owned()).hint("not this").to_string();
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            ["Cannot stop web", "Instance not found", "\"warren list\" shows the instances that there are"]
        );
        let text = Error::refused("no").doing("Cannot x".to_owned()).hint("do y").to_string();
        assert_eq!(text, "Cannot x\nno\ndo y");
    }
}
