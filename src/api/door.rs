//! The unix socket: who may open it, and as what.
//!
//! ```text
//!   root, the socket's owner and group ─────> trusted
//!   a group of core.unix_roles ── an access list lets it connect ──> its role
//!   anybody else that got in (the role was taken back) ──> a stranger
//! ```
//! Who it is, the kernel has said when it connected; what that may do is looked up for each request.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::Error;
use super::wire::Config;
use crate::auth::Trust;
use crate::config::roles::{self, Line, Role};
use crate::db::Model;
use crate::sys::{acl, peercred};

/// The key.
pub(super) const ROLES: &str = "core.unix_roles";

/// A socket as it was when the daemon came up, before it was opened to anybody else.
#[derive(Debug, Clone)]
pub struct Door {
    path: Option<PathBuf>,
    owner: u32,
    group: u32,
    mode: u32,
}

impl Door {
    /// Of a listener that lies at `path`; one that was handed over knows where it lies. One without a file is for root only.
    pub fn of(listener: &UnixListener, path: Option<PathBuf>) -> Self {
        let bound = || listener.local_addr().ok()?.as_pathname().map(PathBuf::from);
        match path.or_else(bound).and_then(|path| Some((std::fs::metadata(&path).ok()?, path))) {
            Some((found, path)) => {
                Self { path: Some(path), owner: found.uid(), group: found.gid(), mode: found.mode() & 0o777 }
            }
            None => Self { path: None, owner: 0, group: 0, mode: 0o600 },
        }
    }

    /// Whether the permissions themselves let this user in, who is then trusted: connecting takes writing (unix(7)).
    pub(super) fn admits(&self, uid: u32, groups: &[u32]) -> bool {
        let bits = |bit| self.mode & bit != 0;
        uid == 0 || (uid == self.owner && bits(0o200)) || (groups.contains(&self.group) && bits(0o020)) || bits(0o002)
    }

    /// Lets exactly these groups in, too.
    fn open_to(&self, groups: &BTreeSet<u32>) -> io::Result<()> {
        match &self.path {
            Some(path) => acl::open_to(path, self.mode, groups),
            None => Ok(()),
        }
    }
}

/// The roles of a configuration, which was checked when it was set.
fn lines(config: &Config) -> Vec<Line> {
    config.get(ROLES).and_then(|text| roles::parse(text).ok()).unwrap_or_default()
}

/// Checks that all groups and projects exist.
///
/// # Errors
/// Names what does not.
pub(super) fn check(model: &Model, config: &Config) -> Result<(), Error> {
    for Line { group, role } in lines(config) {
        let wrong = |reason: String| Error::Field { name: ROLES, reason };
        peercred::group_id(&group).map_err(|error| wrong(error.to_string()))?;
        if let Role::Project(project) = role
            && !model.projects.contains_key(&project)
        {
            return Err(wrong(format!("there is no project {:?}: create it first", project.as_str())));
        }
    }
    Ok(())
}

/// Opens the sockets to the groups that have roles, and to no others.
///
/// # Errors
/// Of a file system that keeps no access lists.
pub fn follow(doors: &[Door], config: &Config) -> io::Result<()> {
    // One that is no more lets nobody in.
    let groups = lines(config).iter().filter_map(|line| peercred::group_id(&line.group).ok()).collect();
    doors.iter().try_for_each(|door| door.open_to(&groups))
}

/// How far the members of these groups are trusted: by the first role that one of them has; projects add up.
pub(super) fn trust_of(model: &Model, groups: &[u32]) -> Trust {
    let mine = lines(&model.config)
        .into_iter()
        .filter(|line| peercred::group_id(&line.group).is_ok_and(|group| groups.contains(&group)))
        .map(|line| line.role);
    let mut projects = BTreeSet::new();
    for role in mine {
        match role {
            Role::ReadOnly if projects.is_empty() => return Trust::ReadOnly,
            Role::ReadOnly => {}
            Role::Project(project) => {
                projects.insert(project);
            }
        }
    }
    if projects.is_empty() { Trust::Untrusted } else { Trust::Restricted(Arc::new(projects)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_permissions_say_who_is_trusted() {
        let door = |mode| Door { path: None, owner: 7, group: 40, mode };
        for (mode, uid, groups, may) in [
            (0o660, 0, &[][..], true),
            (0o660, 7, &[], true),
            (0o660, 8, &[40], true),
            (0o660, 8, &[41], false),
            (0o600, 8, &[40], false),
            (0o666, 8, &[41], true),
        ] {
            assert_eq!(door(mode).admits(uid, groups), may, "{mode:o} {uid} {groups:?}");
        }
    }
}
