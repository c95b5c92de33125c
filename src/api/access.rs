//! Who may call what. Asked once, at the door, so that no handler can forget it.

use std::collections::BTreeMap;

use http::Method;

use super::entry::Peer;
use super::error::Error;
use crate::auth::Trust;
use crate::db::{Feature, Model};
use crate::names::ProjectName;

/// Who may call a method of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Anyone; the handler tells apart who it is.
    Public,
    /// Images: anyone, but who may not see the project is a stranger there, to whom only public ones are shown.
    Published,
    /// Who is trusted; the handler shows to a restricted caller only what lies in its projects.
    Trusted,
    /// The same, and who has a certificate for metrics, or anyone with `core.metrics_authentication=false`.
    Metrics,
    /// Who may see the project of the call: instances, and all that a project never shares.
    Instances,
    /// The same about what is inside instances, which is not for those who may only look at what the API tells.
    Inside,
    /// The same about images. To change what lies in another project, because this one has none of its own, takes a caller
    /// who may see that, too.
    Images,
    /// The same about profiles.
    Profiles,
    /// The same about networks.
    Networks,
    /// The same about volumes.
    Volumes,
    /// Only who is trusted with the whole server.
    Admin,
    /// Only over the unix socket, and trusted.
    Local,
}

/// A call as far as it matters who may make it.
pub(super) struct Asked<'a> {
    pub(super) model: &'a Model,
    pub(super) method: &'a Method,
    pub(super) peer: &'a Peer,
    pub(super) params: &'a BTreeMap<String, String>,
    pub(super) query: &'a BTreeMap<String, String>,
}

impl Asked<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// The project that the call names; `None` for a list of all, of which its handler shows a part.
    fn project(&self) -> Result<Option<ProjectName>, Error> {
        let all = self.text("all-projects").is_some_and(|text| crate::config::parse_bool(text) == Some(true));
        match self.text("project") {
            None if all && self.method.is_safe() => Ok(None),
            None => Ok(Some(ProjectName::default())),
            Some(text) => ProjectName::new(text).map(Some).map_err(|_| Error::Forbidden),
        }
    }

    /// What kind of object, that projects may share, the call is about.
    fn feature(&self, access: Access) -> Option<Feature> {
        match access {
            Access::Images | Access::Published => Some(Feature::Images),
            Access::Profiles => Some(Feature::Profiles),
            Access::Networks => Some(Feature::Networks),
            Access::Volumes => match self.params.get("type").map(String::as_str) {
                Some("image" | "images") => Some(Feature::Images),
                Some("custom") | None => Some(Feature::Volumes),
                // The root of an instance.
                Some(_) => None,
            },
            Access::Public
            | Access::Trusted
            | Access::Metrics
            | Access::Instances
            | Access::Inside
            | Access::Admin
            | Access::Local => None,
        }
    }

    /// Whether a restricted caller may do this in the project that it names.
    fn within(&self, access: Access, trust: &Trust) -> Result<(), Error> {
        let Some(project) = self.project()? else { return Ok(()) };
        if !trust.reaches(&project) {
            return Err(Error::Forbidden);
        }
        let holder = match self.feature(access) {
            Some(feature) if !self.method.is_safe() => self.model.holder(&project, feature),
            Some(_) | None => return Ok(()),
        };
        if trust.reaches(&holder) { Ok(()) } else { Err(Error::OfAnother { project: holder }) }
    }
}

impl Access {
    /// With how much trust the call is to be handled.
    ///
    /// # Errors
    /// 403.
    pub(super) fn check(self, trust: Trust, asked: &Asked<'_>) -> Result<Trust, Error> {
        match (self, &trust) {
            (Self::Local, Trust::Trusted) if matches!(asked.peer, Peer::Unix { .. }) => Ok(trust),
            (Self::Local, _) => Err(Error::Forbidden),
            (_, Trust::ReadOnly) if self == Self::Inside || !asked.method.is_safe() => Err(Error::ReadOnly),
            (_, Trust::ReadOnly) => Ok(trust),
            (Self::Public, _) | (_, Trust::Trusted) | (Self::Published, Trust::Untrusted) => Ok(trust),
            (_, Trust::Untrusted) | (Self::Admin, Trust::Restricted(_)) => Err(Error::Forbidden),
            (Self::Trusted | Self::Metrics, Trust::Restricted(_)) => Ok(trust),
            (Self::Published, Trust::Restricted(_)) => match asked.within(self, &trust) {
                Ok(()) => Ok(trust),
                Err(_) => Ok(Trust::Untrusted),
            },
            (
                Self::Instances | Self::Inside | Self::Images | Self::Profiles | Self::Networks | Self::Volumes,
                Trust::Restricted(_),
            ) => asked.within(self, &trust).map(|()| trust),
        }
    }
}
