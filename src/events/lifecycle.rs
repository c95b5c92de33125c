//! Lifecycle events: who did what to which object.

use serde_json::{Map, Value, json};

use super::{About, Bus, Kind};
use crate::names::ProjectName;

/// Who asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requestor {
    /// Fingerprint of the certificate, or name (else number) of the local user.
    pub username: String,
    /// `unix`, `tls`.
    pub protocol: String,
    /// Address and port, or `@` for the socket.
    pub address: String,
    /// Beside what LXD tells: the number of the local user, or the name of the certificate.
    pub more: Option<Who>,
}

/// Who somebody is besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Number of a user of this host.
    Uid(u32),
    /// Name in the trust store.
    Certificate(String),
}

impl Requestor {
    /// As it stands in an event.
    pub fn to_json(&self) -> Value {
        let mut told = json!({"username": self.username, "protocol": self.protocol, "address": self.address});
        match &self.more {
            Some(Who::Uid(uid)) => told["uid"] = json!(uid),
            Some(Who::Certificate(name)) => told["certificate"] = json!(name),
            None => {}
        }
        told
    }
}

/// One thing that happened, e.g. action `instance-started` to `/1.0/instances/c1`.
pub struct Lifecycle<'a> {
    /// The specification's name, e.g. `instance-started`.
    pub action: &'static str,
    /// Path of the object; the project is added.
    pub source: String,
    /// Its project.
    pub project: &'a ProjectName,
    /// Details.
    pub context: Map<String, Value>,
    /// Who asked; nobody when the daemon or the container itself did it.
    pub requestor: Option<&'a Requestor>,
}

/// Whether the object at this path is the server's, not a project's.
fn is_of_server(path: &str) -> bool {
    let mut parts = path.trim_start_matches("/1.0").trim_start_matches('/').split('/');
    match (parts.next(), parts.nth(1)) {
        (Some("" | "certificates" | "projects" | "warnings"), _) | (Some("storage-pools"), None) => true,
        (_, _) => false,
    }
}

impl Bus {
    /// Publishes a lifecycle event.
    pub fn lifecycle(&self, event: Lifecycle<'_>) {
        let mut metadata = Map::new();
        metadata.insert("action".to_owned(), event.action.into());
        let of_project = !event.source.starts_with("/1.0/projects/");
        let of_server = is_of_server(&event.source);
        let source = if of_project { event.project.url(event.source) } else { event.source };
        metadata.insert("source".to_owned(), source.into());
        if !event.context.is_empty() {
            metadata.insert("context".to_owned(), event.context.into());
        }
        if let Some(requestor) = event.requestor {
            metadata.insert("requestor".to_owned(), requestor.to_json());
        }
        let about = About { project: Some(event.project), of_server };
        self.publish(Kind::Lifecycle, about, metadata.into());
    }
}
