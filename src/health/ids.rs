//! The range of ids for containers without privilege.

use std::path::Path;

use super::About;
use crate::api::wire::health::Check;
use crate::security::idmap;

pub(super) fn look() -> Vec<Check> {
    [("subuid", "/etc/subuid"), ("subgid", "/etc/subgid")]
        .into_iter()
        .map(|(name, file)| {
            let about = About {
                group: "ids",
                name,
                needed: true,
                cost: "no unprivileged container starts",
                mend: "add the line \"root:1000000:1000000000\" to /etc/subuid and to /etc/subgid",
            };
            let range = idmap::range_in(Path::new(file));
            about.check(match range {
                Ok(range) => Ok(format!("{file}: {} ids from {} on", range.size, range.base)),
                Err(error) => Err(error.to_string()),
            })
        })
        .collect()
}
