//! A call: the request with everything the edge finds out about it, once.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::task::JoinError;

use super::app::App;
use super::body::BodyStream;
use super::change::{IfMatch, Named};
use super::entry::Peer;
use super::error::Error;
use super::filter::Filter;
use super::response::{self, Response};
pub use crate::auth::Trust;
use crate::db::Feature;
use crate::events::lifecycle::{Requestor, Who};
use crate::names::{InstanceKey, InstanceName, NameError, ProjectName, Projects};

/// JSON bodies are at most this long, bytes.
pub const MAX_JSON: usize = 4 * 1024 * 1024;

/// From an untrusted caller, who sends a certificate and a password, at most so many bytes…
const STRANGER_JSON: usize = 64 * 1024;
/// …in this time: what strangers can make the daemon hold is bounded.
const STRANGER_TIME: Duration = Duration::from_secs(30);

/// Which of the two trees of instances the client walks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tree {
    /// `/1.0/instances`.
    Instances,
    /// `/1.0/containers`, of LXD 2.0 and its clients.
    Containers,
}

impl Tree {
    /// Its URL.
    pub fn url(self) -> &'static str {
        match self {
            Self::Instances => "/1.0/instances",
            Self::Containers => "/1.0/containers",
        }
    }
}

/// A parsed request.
pub struct Call {
    /// The daemon.
    pub app: Arc<App>,
    /// Parameters of the path, decoded.
    pub params: BTreeMap<String, String>,
    /// Parameters of the query, decoded; of equal ones the first counts, as in LXD.
    pub query: BTreeMap<String, String>,
    /// The query as it came.
    pub raw_query: String,
    /// What is to be done.
    pub method: Method,
    /// Header fields.
    pub headers: HeaderMap,
    /// Who.
    pub peer: Peer,
    /// How far trusted.
    pub trust: Trust,
    /// Which tree.
    pub tree: Tree,
    /// Present when the client asks for an upgrade.
    pub upgrade: Option<hyper::upgrade::OnUpgrade>,
    /// The body, unread.
    pub body: BodyStream,
}

impl Call {
    /// A parameter of the path. The routes guarantee that it is there.
    pub fn param(&self, name: &str) -> &str {
        self.params.get(name).map_or("", String::as_str)
    }

    /// A parameter of the query.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// `?dry-run=1`: tell what would happen, and do nothing. Ours.
    pub fn is_dry_run(&self) -> bool {
        self.query("dry-run").is_some_and(|text| crate::config::parse_bool(text) == Some(true))
    }

    /// `?forget=1`: what lies in a pool that is away is left where it is. Ours.
    pub fn is_forget(&self) -> bool {
        self.query("forget").is_some_and(|text| crate::config::parse_bool(text) == Some(true))
    }

    /// `?recursion=`, 0 when absent.
    pub fn recursion(&self) -> u8 {
        self.query("recursion").and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// The project: `?project=`, empty or absent is `default`.
    ///
    /// # Errors
    /// 404 when there is no such project, 403 when the caller is limited to others.
    pub fn project(&self) -> Result<ProjectName, Error> {
        let name = match self.query("project") {
            None => ProjectName::default(),
            Some(text) => ProjectName::new(text).map_err(|_| Error::NotFound("Project"))?,
        };
        self.check_reach(&name)?;
        if self.app.db.model().projects.contains_key(&name) { Ok(name) } else { Err(Error::NotFound("Project")) }
    }

    /// Refuses a project that the caller may not see; also one that a body names. Strangers are shown what is public of
    /// any.
    ///
    /// # Errors
    /// 403, whether there is such a project or not.
    pub fn check_reach(&self, project: &ProjectName) -> Result<(), Error> {
        let refused = matches!(self.trust, Trust::Restricted(_)) && !self.trust.reaches(project);
        if refused { Err(Error::Forbidden) } else { Ok(()) }
    }

    /// Of the URLs that say who uses an object, those that the caller may see.
    pub fn visible(&self, urls: Vec<String>) -> Vec<String> {
        visible(&self.trust, urls)
    }

    /// The project that holds what this call sees of a kind.
    ///
    /// # Errors
    /// 404 when there is no such project.
    pub fn holder(&self, feature: Feature) -> Result<ProjectName, Error> {
        Ok(self.app.db.model().holder(&self.project()?, feature))
    }

    /// The projects that a list is of: with `?all-projects=true` all that the caller may see.
    ///
    /// # Errors
    /// 404 when there is no such project, 400 for both parameters.
    pub fn scope(&self) -> Result<Projects, Error> {
        let all = self.query("all-projects").is_some_and(|text| crate::config::parse_bool(text) == Some(true));
        match (all, self.query("project")) {
            (true, None) => Ok(match self.trust {
                // Their handlers show nothing but what is public.
                Trust::Untrusted => Projects::All,
                Trust::Trusted | Trust::ReadOnly | Trust::Restricted(_) => self.trust.projects(),
            }),
            (true, Some(_)) => {
                let reason = "Cannot specify a project when requesting all projects".to_owned();
                Err(Error::Field { name: "project", reason })
            }
            (false, _) => Ok(self.project()?.into()),
        }
    }

    /// The same of a kind that projects share: the projects that hold it.
    ///
    /// # Errors
    /// As of [`Self::scope`].
    pub fn scope_of(&self, feature: Feature) -> Result<Projects, Error> {
        Ok(match self.scope()? {
            Projects::All => Projects::All,
            Projects::Only(these) => {
                let model = self.app.db.model();
                Projects::Only(these.iter().map(|project| model.holder(project, feature)).collect())
            }
        })
    }

    /// `?filter=` of a list.
    ///
    /// # Errors
    /// 400 that says what is wrong with it.
    pub fn filter(&self) -> Result<Filter, Error> {
        Ok(Filter::parse(self.query("filter").unwrap_or_default())?)
    }

    /// Answers a list: URLs, or with `?recursion=` the objects themselves; those that `?filter=` lets pass.
    ///
    /// # Errors
    /// 400 for a filter that is not understood.
    pub fn list<I, T: serde::Serialize>(
        &self,
        items: impl IntoIterator<Item = I>,
        url: impl Fn(&I) -> String,
        object: impl Fn(&I) -> T,
    ) -> Result<Response, Error> {
        let filter = self.filter()?;
        let recursive = self.recursion() > 0;
        let mut list = Vec::new();
        for item in items {
            if !recursive && filter.is_empty() {
                list.push(Value::String(url(&item)));
                continue;
            }
            let object = serde_json::to_value(object(&item)).unwrap_or_default();
            if filter.passes(&object) {
                list.push(if recursive { object } else { Value::String(url(&item)) });
            }
        }
        Ok(response::sync(list))
    }

    /// The instance that path and query name. It need not exist.
    ///
    /// # Errors
    /// 404: what is no name of an instance cannot exist.
    pub fn instance_key(&self) -> Result<InstanceKey, Error> {
        let project = self.project()?;
        let name = InstanceName::new(self.param("name")).map_err(|_| Error::NotFound("Instance"))?;
        Ok(InstanceKey { project, name })
    }

    /// A name out of the path that need not exist.
    ///
    /// # Errors
    /// 404 naming `what`.
    pub fn named<T>(
        &self,
        param: &str,
        what: &'static str,
        parse: impl FnOnce(String) -> Result<T, NameError>,
    ) -> Result<T, Error> {
        parse(self.param(param).to_owned()).map_err(|_| Error::NotFound(what))
    }

    /// Reads a JSON body; an absent or `null` one is the default.
    ///
    /// # Errors
    /// 400 that names the place where the JSON is wrong, for one that is too long, and for a PUT or PATCH without any.
    pub async fn json<T: DeserializeOwned + Default>(&mut self) -> Result<T, Error> {
        let bytes = self.given().await?;
        parse(&bytes)
    }

    /// The body. One that replaces something must be there: lost on its way, it would take everything away.
    async fn given(&mut self) -> Result<bytes::Bytes, Error> {
        let bytes = self.bytes().await?;
        let replaces = matches!(self.method, Method::PUT | Method::PATCH);
        if replaces && bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(Error::Json("it is empty; send {} for an object without fields".to_owned()));
        }
        Ok(bytes)
    }

    /// The same for a PATCH, with the fields that it names.
    ///
    /// # Errors
    /// As of [`Self::json`].
    pub async fn json_part<T: DeserializeOwned + Default>(&mut self) -> Result<(T, Named), Error> {
        let bytes = self.given().await?;
        Ok((parse(&bytes)?, Named::of(&bytes)))
    }

    /// Reads a whole small body.
    ///
    /// # Errors
    /// 400 when it is too long, breaks off, or, from an untrusted caller, takes too long.
    pub async fn bytes(&mut self) -> Result<bytes::Bytes, Error> {
        let body = std::mem::replace(&mut self.body, BodyStream::empty());
        let read = match self.trust {
            Trust::Trusted | Trust::ReadOnly | Trust::Restricted(_) => body.read_limited(MAX_JSON).await,
            Trust::Untrusted => body.read_within(STRANGER_JSON, STRANGER_TIME).await,
        };
        read.map_err(Error::Body)
    }

    /// The state of the object that this change stands on.
    pub fn if_match(&self) -> IfMatch {
        IfMatch::of(&self.headers)
    }

    /// `?timeout=` of a wait: absent or negative waits for ever.
    ///
    /// # Errors
    /// 400 when it is no number.
    pub fn timeout(&self) -> Result<Option<Duration>, Error> {
        match self.query("timeout") {
            None => Ok(None),
            Some(text) => match text.parse::<i64>() {
                Ok(seconds) => Ok(u64::try_from(seconds).ok().map(Duration::from_secs)),
                Err(_) => Err(Error::Query { name: "timeout", expected: "a whole number of seconds" }),
            },
        }
    }

    /// Who asks, for events.
    pub fn requestor(&self) -> Requestor {
        match &self.peer {
            Peer::Unix { uid, .. } => Requestor {
                username: crate::sys::peercred::user_name(*uid).unwrap_or_else(|| uid.to_string()),
                protocol: "unix".to_owned(),
                address: "@".to_owned(),
                more: Some(Who::Uid(*uid)),
            },
            Peer::Tls { address, certificate } => {
                // As in LXD, of whom nobody trusts there is only the address.
                let known = certificate.as_ref().filter(|_| self.trust != Trust::Untrusted);
                let entry = known.and_then(|known| self.app.db.model().certificates.get(&known.fingerprint).cloned());
                Requestor {
                    username: known.map(|known| known.fingerprint.to_string()).unwrap_or_default(),
                    protocol: if known.is_some() { "tls".to_owned() } else { String::new() },
                    address: address.to_string(),
                    more: entry.map(|entry| Who::Certificate(entry.name.clone())),
                }
            }
        }
    }
}

/// Of the URLs of objects, those that lie in projects that the caller may see.
pub(super) fn visible(trust: &Trust, urls: Vec<String>) -> Vec<String> {
    if trust.sees_all() {
        return urls;
    }
    let project = |url: &str| {
        let query = url.split_once('?').map_or("", |(_, query)| query);
        let named = parse_query(query).remove("project");
        named.map_or_else(|| Some(ProjectName::default()), |name| ProjectName::new(name).ok())
    };
    urls.into_iter().filter(|url| project(url).is_some_and(|project| trust.reaches(&project))).collect()
}

fn parse<T: DeserializeOwned + Default>(bytes: &[u8]) -> Result<T, Error> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(T::default());
    }
    // Said here: serde would read a list as an object without its names.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Error::Json("an object is expected, not a list".to_owned()));
    }
    serde_json::from_slice::<Option<T>>(bytes)
        .map(Option::unwrap_or_default)
        .map_err(|error| Error::Json(place(bytes, &error, PhantomData::<T>)))
}

/// Says where a body is wrong, with the field's name where the fault lies in one.
fn place<T: DeserializeOwned>(bytes: &[u8], error: &serde_json::Error, _: PhantomData<T>) -> String {
    if !error.is_data() {
        return error.to_string();
    }
    // Read once more: keeping the path costs time that good requests need not spend.
    let mut body = serde_json::Deserializer::from_slice(bytes);
    match serde_path_to_error::deserialize::<_, Option<T>>(&mut body) {
        Err(found) if found.path().iter().next().is_some() => format!("field {:?}: {error}", found.path().to_string()),
        Ok(_) | Err(_) => error.to_string(),
    }
}

/// A parameter of a query string, decoded to bytes, which need be no text; of equal ones the first counts.
pub fn query_bytes(query: &str, name: &str) -> Option<Vec<u8>> {
    let decode = |text: &str| percent_encoding::percent_decode_str(&text.replace('+', " ")).collect::<Vec<u8>>();
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| decode(key) == name.as_bytes())
        .map(|(_, value)| decode(value))
}

/// Splits a query string into decoded pairs; of equal names the first counts.
pub fn parse_query(query: &str) -> BTreeMap<String, String> {
    parse_pairs(query).into_iter().rev().collect()
}

/// Splits a query string into decoded pairs, in their order.
pub fn parse_pairs(query: &str) -> Vec<(String, String)> {
    let decode =
        |text: &str| percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

impl Call {
    /// Tells everyone what this call did to the object at `url`.
    pub fn lifecycle(&self, action: &'static str, url: &str) {
        self.lifecycle_with(action, url, &[]);
    }

    /// The project in which the object at `url` lies.
    fn lies_in(&self, url: &str) -> ProjectName {
        let (model, project) = (self.app.db.model(), self.project().unwrap_or_default());
        let mut parts = url.trim_start_matches("/1.0/").split('/');
        let feature = match (parts.next(), parts.nth(1)) {
            (Some("instances"), _) => return project,
            (Some("images"), _) => Feature::Images,
            (Some("profiles"), _) => Feature::Profiles,
            (Some("networks" | "network-acls"), _) => Feature::Networks,
            (Some("storage-pools"), Some("volumes")) => Feature::Volumes,
            // Of the whole server.
            _ => return ProjectName::default(),
        };
        model.holder(&project, feature)
    }

    /// The same with details, by the names that LXD gives them.
    pub fn lifecycle_with(&self, action: &'static str, url: &str, details: &[(&str, serde_json::Value)]) {
        let project = self.lies_in(url);
        self.app.bus.lifecycle(crate::events::lifecycle::Lifecycle {
            action,
            source: url.to_owned(),
            project: &project,
            context: details.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            requestor: Some(&self.requestor()),
        });
    }
}

/// Runs blocking work off the workers.
///
/// # Errors
/// Of the work.
pub async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Error>
where
    T: Send + 'static,
    E: Into<Error> + Send + 'static,
{
    joined(tokio::task::spawn_blocking(work).await)
}

/// Runs work to its end, also when the client goes away meanwhile.
///
/// # Errors
/// Of the work.
pub async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    joined(tokio::spawn(work).await)
}

fn joined<T, E: Into<Error>>(result: Result<Result<T, E>, JoinError>) -> Result<T, Error> {
    match result {
        Ok(result) => result.map_err(Into::into),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Db(crate::db::Error::Closed)),
        },
    }
}

/// For [`crate::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(text: &str) {
    parse_query(text);
    query_bytes(text, "path");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_decoded() {
        let query = parse_query("project=&recursion=2&filter=name+eq%20c1&flag&&x=a=b");
        assert_eq!(query["project"], "");
        assert_eq!(query["recursion"], "2");
        assert_eq!(query["filter"], "name eq c1");
        assert_eq!(query["flag"], "");
        assert_eq!(query["x"], "a=b");
        assert_eq!(parse_query("a=1&a=2")["a"], "1");
        assert_eq!(query_bytes("path=%2Fb%ff+c&path=/a", "path").unwrap(), b"/b\xff c");
        assert_eq!(query_bytes("path", "path"), None);
    }
}
