//! The table of routes: path to resource, method to handler.
//!
//! An unknown path is 404, a method that a known path does not have 501, an untrusted caller of anything that is not
//! public 403. Handlers return `Result`; nothing is rejected and nothing falls through.

use std::net::IpAddr;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::Method;
use matchit::Router as Matcher;

use super::access::{Access, Asked};
use super::app::App;
use super::call::{Call, Tree, Trust, parse_query};
use super::cors::{self, Cors};
use super::entry::{Handler, Peer, Request};
use super::error::Error;
use super::response::{self, Response};
use super::{
    certificates, console, events, exec, files, image_aliases, image_sources, image_upload, images, instance_metadata,
    instance_snapshots, instance_state, instances, internal, logs, metrics, network_acls, network_forwards, networks,
    operations, profiles, projects, resources, server_config, standing, storage_pools, storage_volume_snapshots,
    storage_volumes, streams, warnings,
};
use crate::auth::{ClientCertificate, metrics_trust_of};
use crate::config;
use crate::db::Model;

type Result<T> = std::result::Result<T, Error>;
type Endpoint = fn(Call) -> BoxFuture<'static, Result<Response>>;

/// The methods of a path.
#[derive(Default, Clone)]
struct Resource {
    methods: Vec<(Method, Access, Endpoint)>,
    containers_tree: bool,
}

macro_rules! endpoint {
    ($handler:path) => {
        |call: Call| -> BoxFuture<'static, Result<Response>> { $handler(call).boxed() }
    };
}

macro_rules! resource {
    ($($method:ident $access:ident $handler:path),* $(,)?) => {
        Resource {
            methods: vec![$((Method::$method, Access::$access, endpoint!($handler) as Endpoint)),*],
            containers_tree: false,
        }
    };
}

fn table() -> Vec<(String, Resource)> {
    let mut table: Vec<(String, Resource)> = [
        ("/", resource!(GET Public server_config::versions)),
        (
            "/1.0",
            resource!(
                GET Public server_config::get, PUT Admin server_config::put, PATCH Admin server_config::patch,
            ),
        ),
        ("/1.0/certificates", resource!(GET Trusted certificates::list, POST Public certificates::add)),
        (
            "/1.0/certificates/{fingerprint}",
            resource!(
                GET Trusted certificates::get, PUT Trusted certificates::put, PATCH Trusted certificates::patch,
                DELETE Admin certificates::delete,
            ),
        ),
        ("/1.0/events", resource!(GET Instances events::stream)),
        ("/1.0/health", resource!(GET Admin resources::health)),
        ("/1.0/images", resource!(GET Published images::list, POST Published image_upload::create)),
        (
            "/1.0/images/{fingerprint}",
            resource!(
                GET Published images::get, PUT Images images::put, PATCH Images images::patch,
                DELETE Images images::delete,
            ),
        ),
        (
            "/1.0/images/{fingerprint}/export",
            resource!(GET Published images::export, POST Images image_sources::push),
        ),
        ("/1.0/images/{fingerprint}/refresh", resource!(POST Images image_sources::refresh)),
        ("/1.0/images/{fingerprint}/secret", resource!(POST Images image_sources::secret)),
        ("/1.0/images/aliases", resource!(GET Images image_aliases::list, POST Images image_aliases::add)),
        (
            "/1.0/images/aliases/{*name}",
            resource!(
                GET Published image_aliases::get, PUT Images image_aliases::put, PATCH Images image_aliases::patch,
                POST Images image_aliases::rename, DELETE Images image_aliases::delete,
            ),
        ),
        ("/1.0/metrics", resource!(GET Metrics metrics::get)),
        ("/1.0/metadata/configuration", resource!(GET Trusted resources::configuration)),
        ("/1.0/networks", resource!(GET Networks networks::list, POST Networks networks::create)),
        (
            "/1.0/networks/{name}",
            resource!(
                GET Networks networks::get, PUT Networks networks::put, PATCH Networks networks::patch,
                POST Networks networks::rename, DELETE Networks networks::delete,
            ),
        ),
        (
            "/1.0/networks/{name}/forwards",
            resource!(GET Networks network_forwards::list, POST Networks network_forwards::create),
        ),
        (
            "/1.0/networks/{name}/forwards/{address}",
            resource!(
                GET Networks network_forwards::get, PUT Networks network_forwards::put,
                PATCH Networks network_forwards::patch, DELETE Networks network_forwards::delete,
            ),
        ),
        ("/1.0/network-acls", resource!(GET Networks network_acls::list, POST Networks network_acls::create)),
        (
            "/1.0/network-acls/{name}",
            resource!(
                GET Networks network_acls::get, PUT Networks network_acls::put, PATCH Networks network_acls::patch,
                POST Networks network_acls::rename, DELETE Networks network_acls::delete,
            ),
        ),
        ("/1.0/network-acls/{name}/log", resource!(GET Networks network_acls::log)),
        ("/1.0/networks/{name}/leases", resource!(GET Networks networks::leases)),
        ("/1.0/networks/{name}/state", resource!(GET Networks networks::state)),
        ("/1.0/operations", resource!(GET Instances operations::list)),
        ("/1.0/operations/{id}", resource!(GET Trusted operations::get, DELETE Trusted operations::cancel)),
        ("/1.0/operations/{id}/wait", resource!(GET Public operations::wait)),
        ("/1.0/operations/{id}/websocket", resource!(GET Public operations::websocket)),
        ("/1.0/profiles", resource!(GET Profiles profiles::list, POST Profiles profiles::create)),
        (
            "/1.0/profiles/{name}",
            resource!(
                GET Profiles profiles::get, PUT Profiles profiles::put, PATCH Profiles profiles::patch,
                POST Profiles profiles::rename, DELETE Profiles profiles::delete,
            ),
        ),
        ("/1.0/projects", resource!(GET Trusted projects::list, POST Admin projects::create)),
        (
            "/1.0/projects/{name}",
            resource!(
                GET Trusted projects::get, PUT Admin projects::put, PATCH Admin projects::patch,
                POST Admin projects::rename, DELETE Admin projects::delete,
            ),
        ),
        ("/1.0/projects/{name}/state", resource!(GET Trusted projects::state)),
        ("/1.0/resources", resource!(GET Trusted resources::get)),
        ("/1.0/storage-pools", resource!(GET Trusted storage_pools::list, POST Admin storage_pools::create)),
        (
            "/1.0/storage-pools/{name}",
            resource!(
                GET Trusted storage_pools::get, PUT Admin storage_pools::put, PATCH Admin storage_pools::patch,
                DELETE Admin storage_pools::delete,
            ),
        ),
        ("/1.0/storage-pools/{name}/resources", resource!(GET Trusted storage_pools::resources)),
        (
            "/1.0/storage-pools/{name}/volumes",
            resource!(GET Volumes storage_volumes::list, POST Volumes storage_volumes::create),
        ),
        (
            "/1.0/storage-pools/{name}/volumes/{type}",
            resource!(GET Volumes storage_volumes::list_type, POST Volumes storage_volumes::create),
        ),
        (
            "/1.0/storage-pools/{name}/volumes/{type}/{volume}",
            resource!(
                GET Volumes storage_volumes::get, PUT Volumes storage_volumes::put, PATCH Volumes storage_volumes::patch,
                POST Volumes storage_volumes::rename, DELETE Volumes storage_volumes::delete,
            ),
        ),
        ("/1.0/storage-pools/{name}/volumes/{type}/{volume}/state", resource!(GET Volumes storage_volumes::state)),
        (
            "/1.0/storage-pools/{name}/volumes/{type}/{volume}/snapshots",
            resource!(GET Volumes storage_volume_snapshots::list, POST Volumes storage_volume_snapshots::create),
        ),
        (
            "/1.0/storage-pools/{name}/volumes/{type}/{volume}/snapshots/{snapshot}",
            resource!(
                GET Volumes storage_volume_snapshots::get, PUT Volumes storage_volume_snapshots::put,
                PATCH Volumes storage_volume_snapshots::patch, POST Volumes storage_volume_snapshots::rename,
                DELETE Volumes storage_volume_snapshots::delete,
            ),
        ),
        ("/1.0/warnings", resource!(GET Admin warnings::list)),
        (
            "/1.0/warnings/{uuid}",
            resource!(
                GET Admin warnings::get, PUT Admin warnings::put, PATCH Admin warnings::put,
                DELETE Admin warnings::delete,
            ),
        ),
        ("/1.0/cluster", resource!(GET Trusted internal::cluster)),
        ("/streams/v1/index.json", resource!(GET Public streams::index, HEAD Public streams::index)),
        ("/streams/v1/images.json", resource!(GET Public streams::products, HEAD Public streams::products)),
        ("/images/{fingerprint}/{file}", resource!(GET Public streams::file, HEAD Public streams::file)),
        ("/internal/ready", resource!(GET Local internal::ready)),
        ("/internal/gc", resource!(GET Local internal::gc)),
        ("/internal/log-level", resource!(GET Local internal::log_level, PUT Local internal::set_log_level)),
        ("/internal/schedule", resource!(PUT Local internal::schedule)),
        ("/internal/sql", resource!(POST Local internal::sql)),
        ("/internal/shutdown", resource!(PUT Local internal::shutdown)),
    ]
    .into_iter()
    .map(|(path, resource)| (path.to_owned(), resource))
    .collect();
    for tree in [Tree::Instances, Tree::Containers] {
        for (path, mut resource) in [
            (
                "",
                resource!(
                    GET Instances instances::list, POST Instances instances::create, PUT Instances instance_state::put_all,
                ),
            ),
            (
                "/{name}",
                resource!(
                    GET Instances instances::get, PUT Instances instances::put, PATCH Instances instances::patch,
                    POST Instances instances::rename, DELETE Instances instances::delete,
                ),
            ),
            ("/{name}/state", resource!(GET Instances instance_state::get, PUT Instances instance_state::put)),
            (
                "/{name}/metadata",
                resource!(
                    GET Instances instance_metadata::get, PUT Instances instance_metadata::put,
                    PATCH Instances instance_metadata::patch,
                ),
            ),
            (
                "/{name}/metadata/templates",
                resource!(
                    GET Instances instance_metadata::get_templates, POST Instances instance_metadata::post_template,
                    DELETE Instances instance_metadata::delete_template,
                ),
            ),
            ("/{name}/exec", resource!(POST Instances exec::start)),
            (
                "/{name}/files",
                resource!(
                    GET Inside files::get, HEAD Inside files::head, POST Instances files::push,
                    DELETE Instances files::delete,
                ),
            ),
            ("/{name}/sftp", resource!(GET Inside files::sftp)),
            (
                "/{name}/console",
                resource!(
                    POST Instances console::attach, GET Inside console::log, DELETE Instances console::clear_log,
                ),
            ),
            (
                "/{name}/snapshots",
                resource!(GET Instances instance_snapshots::list, POST Instances instance_snapshots::create),
            ),
            (
                "/{name}/snapshots/{snapshot}",
                resource!(
                    GET Instances instance_snapshots::get, PUT Instances instance_snapshots::put,
                    PATCH Instances instance_snapshots::patch, POST Instances instance_snapshots::rename,
                    DELETE Instances instance_snapshots::delete,
                ),
            ),
            ("/{name}/backups", resource!(GET Instances instances::none_of)),
            ("/{name}/logs", resource!(GET Instances logs::list)),
            ("/{name}/logs/{file}", resource!(GET Inside logs::get, DELETE Instances logs::delete)),
        ] {
            resource.containers_tree = tree == Tree::Containers;
            table.push((format!("{}{path}", tree.url()), resource));
        }
    }
    table
}

/// Every path with its methods, as in the table: for the documentation and for tests that walk it.
pub fn routes() -> Vec<(String, Vec<Method>)> {
    let methods = |resource: Resource| resource.methods.into_iter().map(|(method, ..)| method).collect();
    table().into_iter().map(|(path, resource)| (path, methods(resource))).collect()
}

/// The handler of every request.
pub struct Router {
    app: Arc<App>,
    routes: Matcher<Resource>,
}

impl Router {
    /// The routes over `app`.
    ///
    /// # Errors
    /// When two routes conflict, which a test rules out.
    pub fn new(app: Arc<App>) -> std::result::Result<Self, matchit::InsertError> {
        let mut routes = Matcher::new();
        for (path, resource) in table() {
            routes.insert(path, resource)?;
        }
        Ok(Self { app, routes })
    }

    fn route(&self, request: Request) -> std::result::Result<(Endpoint, Call), Error> {
        let path = match request.path.as_str() {
            "/" => "/",
            other => other.trim_end_matches('/'),
        };
        // `/1.0/images/aliases/a/` names the alias `a/`: aliases may end in a slash.
        let path = if path.starts_with("/1.0/images/aliases/") { request.path.as_str() } else { path };
        let found = self.routes.at(path).map_err(|_| Error::UnknownPath)?;
        let resource = found.value;
        let decode =
            |text: &str| percent_encoding::percent_decode_str(text).decode_utf8().map(std::borrow::Cow::into_owned);
        let mut params = std::collections::BTreeMap::new();
        for (name, value) in found.params.iter() {
            params.insert(name.to_owned(), decode(value).map_err(|_| Error::UnknownPath)?);
        }
        let model = self.app.db.model();
        let Some((_, access, endpoint)) = resource.methods.iter().find(|(method, ..)| *method == request.method) else {
            let is_stranger = self.trust(&model, &request.peer) == Trust::Untrusted;
            return Err(if is_stranger { Error::Forbidden } else { Error::NotImplemented });
        };
        let trust = match access {
            Access::Metrics => self.metrics_trust(&model, &request.peer),
            _ => self.trust(&model, &request.peer),
        };
        let query = parse_query(&request.query);
        let asked =
            Asked { model: &model, method: &request.method, peer: &request.peer, params: &params, query: &query };
        let trust = access.check(trust, &asked)?;
        check_dry_run(&request.method, path, query.get("dry-run").map(String::as_str))?;
        let call = Call {
            app: Arc::clone(&self.app),
            params,
            query,
            raw_query: request.query,
            method: request.method,
            headers: request.headers,
            peer: request.peer,
            trust,
            tree: if resource.containers_tree { Tree::Containers } else { Tree::Instances },
            upgrade: request.upgrade,
            body: request.body,
        };
        Ok((*endpoint, call))
    }

    fn answer(&self, request: Request) -> BoxFuture<'static, Response> {
        let method = request.method.clone();
        let path = request.path.clone();
        match self.route(request) {
            Err(error) => {
                tracing::debug!(%method, %path, %error, "refused");
                std::future::ready(response::error(&error)).boxed()
            }
            Ok((endpoint, call)) => {
                let (is_safe, trust) = (method.is_safe(), call.trust.clone());
                let work = async move {
                    if !is_safe {
                        // A daemon that is just starting answers questions at once; a change may need what is not up
                        // yet.
                        call.app.ready().await;
                    }
                    match endpoint(call).await {
                        Ok(answer) => {
                            tracing::debug!(%method, %path, status = answer.status().as_u16(), "answered");
                            answer
                        }
                        Err(error) => {
                            tracing::debug!(%method, %path, %error, "refused");
                            response::error(&error.seen_by(&trust))
                        }
                    }
                };
                if is_safe { work.boxed() } else { to_its_end(work).boxed() }
            }
        }
    }

    fn trust(&self, model: &Model, peer: &Peer) -> Trust {
        standing::trust(&self.app, model, peer)
    }
}

impl Router {
    /// How far a peer is trusted with metrics.
    fn metrics_trust(&self, model: &Model, peer: &Peer) -> Trust {
        let known = match peer {
            Peer::Unix { .. } => return self.trust(model, peer),
            Peer::Tls { certificate: Some(shown), .. } => {
                metrics_trust_of(model, &self.app.authority, shown, crate::db::now())
            }
            Peer::Tls { certificate: None, .. } => Trust::Untrusted,
        };
        let is_open = !config::bool_of(&model.config, "core.metrics_authentication");
        if known == Trust::Untrusted && is_open { Trust::ReadOnly } else { known }
    }
}

impl Handler for Router {
    fn trusts_proxy(&self, address: IpAddr) -> bool {
        let model = self.app.db.model();
        let known = model.config.get("core.https_trusted_proxy").map_or("", String::as_str);
        known.split(',').any(|one| one.trim().parse().is_ok_and(|one: IpAddr| one.to_canonical() == address))
    }

    fn knows(&self, peer: &Peer) -> bool {
        let model = self.app.db.model();
        let scrapes = |shown: &ClientCertificate| {
            metrics_trust_of(&model, &self.app.authority, shown, crate::db::now()) != Trust::Untrusted
        };
        self.trust(&model, peer) != Trust::Untrusted
            || matches!(peer, Peer::Tls { certificate: Some(shown), .. } if scrapes(shown))
    }

    fn handle(&self, request: Request) -> BoxFuture<'static, Response> {
        let cors = Cors::of(&self.app.db.model().config, &request.headers);
        let preflight = cors::is_preflight(&request.method, &request.headers);
        let answer = if preflight { std::future::ready(response::bare()).boxed() } else { self.answer(request) };
        if cors.is_empty() { answer } else { cors.add(answer).boxed() }
    }
}

/// Refuses a dry run where there is none: the request must not be taken for a real one. Nothing else of a query changes what
/// is done, so this one is not left to be overlooked.
fn check_dry_run(method: &Method, path: &str, asked: Option<&str>) -> std::result::Result<(), Error> {
    let Some(asked) = asked else { return Ok(()) };
    match config::parse_bool(asked) {
        None => return Err(Error::Query { name: "dry-run", expected: "1 or 0" }),
        Some(false) => return Ok(()),
        Some(true) if method.is_safe() => return Ok(()),
        Some(true) => {}
    }
    // Behind the version.
    let mut parts = path.split('/').skip(2);
    let tree = matches!(parts.next(), Some("instances" | "containers" | "profiles"));
    let can = match (parts.next(), parts.next()) {
        (None, _) => *method == Method::POST,
        (Some(_), None) => *method == Method::PUT || *method == Method::PATCH,
        _ => false,
    };
    if tree && can { Ok(()) } else { Err(Error::Unsupported { what: "a dry run of this request".to_owned() }) }
}

/// Runs a change to its end, also when the client goes away meanwhile: hyper then drops what it was waiting for, which
/// would leave the change half done.
async fn to_its_end(work: impl Future<Output = Response> + Send + 'static) -> Response {
    match tokio::spawn(work).await {
        Ok(answer) => answer,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Cancelled: the runtime is ending.
            Err(_) => response::error(&Error::Db(crate::db::Error::Closed)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_routes_do_not_conflict() {
        let mut routes = Matcher::new();
        for (path, resource) in table() {
            routes.insert(path, resource).unwrap();
        }
        assert!(routes.at("/1.0/images/aliases").is_ok());
        assert!(routes.at("/1.0/images/aliases/debian/12/").is_ok());
        assert!(routes.at("/1.0/containers/c1/exec").is_ok());
        assert!(routes.at("/1.0/nothing").is_err());
    }

    #[test]
    fn strangers_may_call_exactly_this() {
        let open: Vec<String> = table()
            .iter()
            .flat_map(|(path, resource)| resource.methods.iter().map(move |entry| (path, entry)))
            .filter(|(_, (_, access, _))| matches!(access, Access::Public | Access::Published))
            .map(|(path, (method, ..))| format!("{method} {path}"))
            .collect();
        let wanted = [
            "GET /",
            "GET /1.0",
            "POST /1.0/certificates",
            "GET /1.0/images",
            "POST /1.0/images",
            "GET /1.0/images/{fingerprint}",
            "GET /1.0/images/{fingerprint}/export",
            "GET /1.0/images/aliases/{*name}",
            "GET /1.0/operations/{id}/wait",
            "GET /1.0/operations/{id}/websocket",
            "GET /streams/v1/index.json",
            "HEAD /streams/v1/index.json",
            "GET /streams/v1/images.json",
            "HEAD /streams/v1/images.json",
            "GET /images/{fingerprint}/{file}",
            "HEAD /images/{fingerprint}/{file}",
        ];
        assert_eq!(open, wanted);
    }
}
