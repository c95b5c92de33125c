//! `core.unix_roles`: what groups of this host may do over the unix socket. Ours.
//!
//! ```text
//!   monitor=read-only, web=project:web, web=project:test
//! ```

use crate::names::{ProjectName, shortened};

/// What the members of a group may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// See everything that the API shows, but nothing inside instances; change nothing.
    ReadOnly,
    /// Do everything in this project, as with a certificate that is restricted to it.
    Project(ProjectName),
}

/// A group, by name or number, and its role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// As it was written.
    pub group: String,
    /// What its members may do.
    pub role: Role,
}

/// Reads a value; an empty one is none.
///
/// # Errors
/// In words, what is wrong with it.
pub fn parse(text: &str) -> Result<Vec<Line>, String> {
    super::names_of(text).map(line).collect()
}

fn line(text: &str) -> Result<Line, String> {
    let shown = shortened(text);
    let (group, role) = text
        .split_once('=')
        .map(|(group, role)| (group.trim(), role.trim()))
        .filter(|(group, _)| !group.is_empty() && !group.contains([':', '/']) && !group.contains(char::is_whitespace))
        .ok_or_else(|| {
            format!("{shown:?} is not GROUP=read-only or GROUP=project:NAME; several are separated by commas")
        })?;
    let role = match role.split_once(':') {
        None if role == "read-only" => Role::ReadOnly,
        Some(("project", name)) => {
            Role::Project(ProjectName::new(name.trim()).map_err(|error| format!("{shown:?}: {error}"))?)
        }
        _ => return Err(format!("{shown:?}: the role must be read-only or project:NAME")),
    };
    Ok(Line { group: group.to_owned(), role })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_read() {
        let line = |group: &str, role| Line { group: group.to_owned(), role };
        let web = Role::Project(ProjectName::new("web").unwrap());
        let wanted = [line("monitor", Role::ReadOnly), line("1000", web)];
        assert_eq!(parse("monitor=read-only, 1000 = project:web").unwrap(), wanted);
        assert_eq!(parse("").unwrap(), []);
    }

    #[test]
    fn what_is_no_role_is_refused() {
        for text in [
            "monitor",
            "=read-only",
            "a=admin",
            "a=project:",
            "a=project",
            "a=project:a/b",
            "a b=read-only",
            "a=read-only:x",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
