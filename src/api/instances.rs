//! `/1.0/instances` and, for clients of LXD 2.0, `/1.0/containers`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;

use super::app::App;
use super::call::{Call, Tree};
use super::error::Error;
use super::instance_source::{Loading, copy_of, image_of, profiles_of, remote_of};
use super::response::{self, Response};
use super::wire;
use super::{instance_snapshots, instance_state, rendered};
use crate::config;
use crate::db::{self, Feature, Model, rfc3339};
use crate::events::lifecycle::Requestor;
use crate::instance::{
    self, Asked as AskedOfCopy, CopyOf, Definition, NewInstance, RootSource, Snapshot, SnapshotVerb, Target,
};
use crate::names::{InstanceKey, InstanceName, PoolName, ProfileName, ProjectName, SnapshotName};
use crate::ops::{Handle, Spec};
use crate::profile;
use crate::project;

type Result<T> = std::result::Result<T, Error>;

/// An instance as the API shows it, without what belongs to a moment.
pub(super) fn to_wire(model: &Model, record: &db::Instance, snapshot: Snapshot) -> wire::Instance {
    let expanded = profile::expand_instance(model, record);
    wire::Instance {
        architecture: record.architecture.clone(),
        config: record.config.clone(),
        devices: record.devices.clone(),
        ephemeral: record.ephemeral,
        profiles: record.profiles.iter().map(ToString::to_string).collect(),
        stateful: false,
        description: record.description.clone(),
        created_at: rfc3339(record.created_at),
        expanded_config: expanded.config,
        expanded_devices: expanded.devices,
        name: record.key.name.to_string(),
        status: snapshot.status.word().to_owned(),
        status_code: snapshot.status.code(),
        last_used_at: rfc3339(record.last_used_at),
        location: "none".to_owned(),
        kind: "container".to_owned(),
        project: record.key.project.to_string(),
        backups: None,
        state: None,
        snapshots: None,
    }
}

/// An operation on one instance.
pub(super) fn spec(call: &Call, key: &InstanceKey, description: &'static str) -> Spec {
    Spec {
        description,
        project: key.project.clone(),
        resources: resources(key),
        metadata: None,
        requestor: Some(call.requestor()),
        may_cancel: false,
    }
}

/// The operation's `resources`: LXD 5 names an instance in both words.
fn resources(key: &InstanceKey) -> BTreeMap<String, Vec<String>> {
    let url = |tree: Tree| vec![format!("{}/{}", tree.url(), key.name)];
    [("instances".to_owned(), url(Tree::Instances)), ("containers".to_owned(), url(Tree::Containers))].into()
}

/// The instance that a call names.
pub(super) fn find(call: &Call) -> Result<(Arc<Model>, Arc<db::Instance>)> {
    let model = call.app.db.model();
    let record = model.instances.get(&call.instance_key()?).cloned().ok_or(Error::NotFound("Instance"))?;
    Ok((model, record))
}

/// `GET /1.0/instances?recursion=`.
pub async fn list(call: Call) -> Result<Response> {
    let model = call.app.db.model();
    let project = call.scope()?;
    let filter = call.filter()?;
    let wanted_kind = match call.query("instance-type").unwrap_or_default() {
        "" | "container" => true,
        // There are none.
        "virtual-machine" => false,
        _ => return Err(Error::Query { name: "instance-type", expected: "container or virtual-machine" }),
    };
    let shown: Vec<(&Arc<db::Instance>, Snapshot)> = model
        .instances
        .values()
        .filter(|record| wanted_kind && project.holds(&record.key.project))
        .map(|record| (record, call.app.instances.snapshot(&record.key)))
        .filter(|(record, snapshot)| filter.is_empty() || filter.passes(&json!(to_wire(&model, record, *snapshot))))
        .collect();
    if call.recursion() == 0 {
        let url = |key: &InstanceKey| key.project.url(format_args!("{}/{}", call.tree.url(), key.name));
        let urls = shown.iter().map(|(record, _)| url(&record.key));
        return Ok(response::sync(urls.collect::<Vec<_>>()));
    }
    let pieces: Vec<_> =
        shown.iter().map(|(record, snapshot)| call.app.rendered.piece(&model, record, *snapshot)).collect();
    let texts: Vec<Bytes> = if call.recursion() == 1 {
        pieces.iter().map(|piece| piece.json.clone()).collect()
    } else {
        let root = |record: &db::Instance| instance_state::root_of(&call, &model, record);
        let wanted = shown.iter().map(|(record, snapshot)| (&record.key, *snapshot, root(record))).collect();
        let states = call.app.rendered.states(wanted).await?;
        pieces.iter().zip(&states).map(|(piece, state)| piece.full(state)).collect()
    };
    Ok(response::sync_json(&rendered::join(&texts)))
}

/// What of an instance a client can change, for its ETag.
pub(super) fn modifiable(record: &db::Instance) -> impl serde::Serialize {
    let config: BTreeMap<_, _> = record.config.iter().filter(|(key, _)| !instance::is_own(key)).collect();
    (&record.architecture, config, &record.devices, record.ephemeral, &record.profiles, &record.description)
}

/// `GET /1.0/instances/<name>?recursion=1`.
pub async fn get(call: Call) -> Result<Response> {
    let (model, record) = find(&call)?;
    let snapshot = call.app.instances.snapshot(&record.key);
    let piece = call.app.rendered.piece(&model, &record, snapshot);
    let json = if call.recursion() == 0 {
        piece.json.clone()
    } else {
        let root = instance_state::root_of(&call, &model, &record);
        piece.full(&call.app.rendered.state(&record.key, snapshot, root).await?)
    };
    Ok(response::with_etag(response::sync_json(&json), &piece.etag))
}

fn profile_names(names: Vec<String>) -> Result<Vec<ProfileName>> {
    let mut profiles = Vec::with_capacity(names.len());
    for name in names {
        let name = ProfileName::new(name)?;
        if profiles.contains(&name) {
            return Err(Error::Field { name: "profiles", reason: format!("{:?} stands there twice", name.as_str()) });
        }
        profiles.push(name);
    }
    Ok(profiles)
}

/// `GET /1.0/instances/<name>/backups`: this version makes none.
pub async fn none_of(call: Call) -> Result<Response> {
    find(&call)?;
    Ok(response::sync(Vec::<String>::new()))
}

/// A project by the name in a body.
pub(super) fn seen_project(call: &Call, model: &Model, name: &str) -> Result<ProjectName> {
    let project = ProjectName::new(name).map_err(|_| project::Error::NotFound)?;
    call.check_reach(&project)?;
    project::require(model, &project)?;
    Ok(project)
}

/// `POST /1.0/instances`.
pub async fn create(mut call: Call) -> Result<Response> {
    let body: wire::InstancesPost = call.json().await?;
    let project = call.project()?;
    if call.query("target").is_some_and(|target| !target.is_empty()) {
        return Err(Error::Query { name: "target", expected: "empty: Target only allowed when clustered" });
    }
    let model = call.app.db.model();
    if !matches!(body.kind.as_str(), "" | "container") {
        let reason = format!("{:?} is not supported: Warren runs containers", body.kind);
        return Err(Error::Field { name: "type", reason });
    }
    let mut config = match body.instance_type.as_str() {
        "" => wire::Config::new(),
        size => config::limits_of(size).ok_or_else(|| {
            let reason = format!("{size:?} is not known: write processors and GiB of memory, such as c2-m4");
            Error::Field { name: "instance_type", reason }
        })?,
    };
    let set = body.config.clone();
    // What is said itself goes before what a size stands for.
    config.extend(body.config);
    if body.stateful {
        return Err(Error::Unsupported { what: "the field \"stateful\"".to_owned() });
    }
    let (mut profiles, mut devices) = (body.profiles, body.devices);
    let own_profiles = profiles.is_some();
    let mut architecture = body.architecture;
    let remote = remote_of(&body.source)?;
    let source = match body.source.kind.as_str() {
        // Which image it is, is found out by the operation; nothing stands in for it until then.
        "image" if remote.is_some() => RootSource::Empty,
        "image" => {
            let image = image_of(&call, &model, &project, &body.source)?;
            profiles.get_or_insert_with(|| profiles_of(&model, &project, &image));
            RootSource::Image { project: image.project.clone(), fingerprint: image.fingerprint.clone() }
        }
        "none" => RootSource::Empty,
        "copy" => {
            let mut copy = copy_of(&call, &model, &project, &body.source)?;
            let there =
                InstanceName::new(body.name.as_str()).ok().map(|name| InstanceKey { project: project.clone(), name });
            if let Some(key) = there.filter(|key| body.source.refresh && model.instances.contains_key(key)) {
                return refresh(&call, copy, key);
            }
            let asked = profiles.take().map(profile_names).transpose()?;
            copy.asked = AskedOfCopy { config, devices, profiles: asked, architecture };
            let definition = instance::definition_of_copy(&model, &copy)?;
            (config, devices, architecture) = (definition.config, definition.devices, definition.architecture);
            profiles = Some(definition.profiles.iter().map(ToString::to_string).collect());
            RootSource::Copy(copy)
        }
        "migration" | "backup" => {
            return Err(Error::Unsupported { what: format!("instances from a {}", body.source.kind) });
        }
        other => {
            let reason = format!("the type {other:?} is not known: use \"image\", \"copy\" or \"none\"");
            return Err(Error::Field { name: "source", reason });
        }
    };
    let name =
        if body.name.is_empty() { call.app.instances.fresh_name(&project)? } else { InstanceName::new(body.name)? };
    let key = InstanceKey { project, name };
    project::check_own_keys(&model, &key, &wire::Config::new(), &set)?;
    let new = NewInstance {
        key: key.clone(),
        architecture,
        profiles: profile_names(profiles.unwrap_or_else(|| vec!["default".to_owned()]))?,
        config,
        devices,
        ephemeral: body.ephemeral,
        description: body.description,
        source: source.clone(),
    };
    call.app.instances.context().check_raw(&wire::Config::new(), &new.config).await?;
    if call.is_dry_run() {
        call.app.instances.check_new(new)?;
        return Ok(response::empty());
    }
    let spec = spec(&call, &key, "Creating instance");
    let (app, requestor, start) = (Arc::clone(&call.app), call.requestor(), body.start);
    if let Some(remote) = remote {
        call.app.instances.check_new(new.clone())?;
        let spec = Spec { may_cancel: true, ..spec };
        let loading = Loading { remote, project: call.holder(Feature::Images)?, alias: body.source.alias };
        let operation = app.clone().ops.task(spec, async move |handle| {
            let hold = loading.load(&app, &requestor, &handle).await?;
            handle.forbid_cancel().await;
            let source = RootSource::Image { project: hold.0.project.clone(), fingerprint: hold.0.fingerprint.clone() };
            let mut new = NewInstance { source: source.clone(), ..new };
            if !own_profiles {
                let names = profiles_of(&app.db.model(), &new.key.project, &hold.0);
                new.profiles = profile_names(names)?;
            }
            let record = app.instances.reserve(new).await?;
            build(&app, record, source, start, requestor, &handle).await
        });
        return Ok(response::accepted(&operation));
    }
    // It stays until the instance has what it needs of it.
    let hold = match &source {
        RootSource::Image { fingerprint, .. } => Some(call.app.instances.context().images.hold(fingerprint)),
        RootSource::Empty | RootSource::Copy(_) => None,
    };
    let record = call.app.instances.reserve(new).await?;
    let operation = app.clone().ops.task(spec, async move |handle| {
        let _hold = hold;
        build(&app, record, source, start, requestor, &handle).await
    });
    Ok(response::accepted(&operation))
}

/// Makes an instance whose name is taken, and starts it if that is wanted.
async fn build(
    app: &Arc<App>,
    record: db::Instance,
    source: RootSource,
    start: bool,
    requestor: Requestor,
    handle: &Handle,
) -> Result<()> {
    let stages = app.instances.build(&record, &source, Some(&requestor)).await?;
    handle.add_metadata("stages", stages.to_json());
    if start {
        let start = app.instances.change(&record.key, Target::Start, None, false, Some(requestor));
        let stages = instance_state::telling_shift(app, &record.key, handle, start).await?;
        handle.add_metadata("start_stages", stages.to_json());
    }
    Ok(())
}

/// Brings an earlier copy up to date.
fn refresh(call: &Call, of: CopyOf, key: InstanceKey) -> Result<Response> {
    if call.app.instances.snapshot(&key).status.is_up() {
        return Err(Error::Instance(instance::Error::Running));
    }
    if call.is_dry_run() {
        return Err(Error::Unsupported { what: "a dry run of a refresh".to_owned() });
    }
    let (app, requestor) = (Arc::clone(&call.app), call.requestor());
    let operation = call.app.ops.task(spec(call, &key, "Creating instance"), async move |handle| {
        let stages = app.instances.refresh(&of, &key, Some(&requestor)).await?;
        handle.add_metadata("stages", stages.to_json());
        Ok::<(), instance::Error>(())
    });
    Ok(response::accepted(&operation))
}

/// What `change` makes of an instance that still is what the client saw.
fn definition(call: &Call, change: impl Fn(&db::Instance) -> Definition + Send + Sync + 'static) -> instance::Change {
    let (wanted, app) = (call.if_match(), Arc::clone(&call.app));
    Box::new(move |record| {
        if let Some(etag) = wanted.differs(modifiable(record)) {
            return Err(instance::Error::Changed { etag });
        }
        let new = change(record);
        project::check_own_keys(&app.db.model(), &record.key, &record.config, &new.config)?;
        Ok(new)
    })
}

/// `PUT /1.0/instances/<name>`.
pub async fn put(mut call: Call) -> Result<Response> {
    let body: wire::InstancePut = call.json().await?;
    let (model, record) = find(&call)?;
    if !body.restore.is_empty() {
        return restore(&call, &model, &record, &body);
    }
    let new = Definition {
        config: body.config,
        devices: body.devices,
        architecture: body.architecture,
        // As in LXD, none named is none.
        profiles: profile_names(body.profiles.unwrap_or_default())?,
        ephemeral: body.ephemeral,
        description: body.description,
    };
    // Checked here as well, so that a wrong request is refused at once and not by its operation.
    call.if_match().check(modifiable(&record))?;
    config::validate_instance(&new.config, config::Scope::Instance)?;
    crate::device::validate(&new.devices)?;
    call.app.instances.context().check_raw(&record.config, &new.config).await?;
    let key = record.key.clone();
    profile::expand(&model, &key.project, &new.profiles, &new.config, &new.devices)?;
    project::check_own_keys(&model, &key, &record.config, &new.config)?;
    let wanted = db::Instance {
        config: new.config.clone(),
        devices: new.devices.clone(),
        profiles: new.profiles.clone(),
        ..(*record).clone()
    };
    project::check_instance(&model, &wanted)?;
    let change = definition(&call, move |_| new.clone());
    if call.is_dry_run() {
        return Ok(response::sync(call.app.instances.preview(&key, &change)?));
    }
    let (app, requestor) = (Arc::clone(&call.app), call.requestor());
    let spec = spec(&call, &key, "Updating instance");
    let operation =
        app.clone().ops.task(spec, async move |_| app.instances.update(&key, change, Some(requestor)).await);
    Ok(response::accepted(&operation))
}

/// `PUT` with `restore`: back to a snapshot.
fn restore(call: &Call, model: &Model, record: &db::Instance, body: &wire::InstancePut) -> Result<Response> {
    // The stock client names it with its instance.
    let name = body.restore.strip_prefix(&format!("{}/", record.key.name)).unwrap_or(&body.restore);
    let name = SnapshotName::new(name)?;
    instance::find_snapshot(model, &record.key, &name)?;
    if body.stateful {
        return Err(Error::Unsupported { what: "the field \"stateful\": no snapshot has a running state".to_owned() });
    }
    if call.is_dry_run() {
        return Err(Error::Unsupported { what: "a dry run of a restore".to_owned() });
    }
    instance_snapshots::act(call, &record.key, "Restoring snapshot", SnapshotVerb::Restore(name))
}

/// `PATCH /1.0/instances/<name>`: only what the body names. Answered when it is done.
pub async fn patch(mut call: Call) -> Result<Response> {
    let (part, named): (wire::InstancePut, _) = call.json_part().await?;
    let (_, record) = find(&call)?;
    if !part.restore.is_empty() {
        return Err(Error::Field { name: "restore", reason: "only PUT restores a snapshot".to_owned() });
    }
    let profiles = part.profiles.map(profile_names).transpose()?;
    let config = record.config.clone().into_iter().chain(part.config.clone()).collect();
    call.app.instances.context().check_raw(&record.config, &config).await?;
    let change = definition(&call, move |record| {
        let mut new = Definition {
            config: record.config.clone(),
            devices: record.devices.clone(),
            profiles: profiles.clone().unwrap_or_else(|| record.profiles.clone()),
            architecture: part.architecture.clone(),
            ephemeral: if named.has("ephemeral") { part.ephemeral } else { record.ephemeral },
            description: if named.has("description") { &part.description } else { &record.description }.clone(),
        };
        new.config.extend(part.config.clone());
        new.devices.extend(part.devices.clone());
        new
    });
    if call.is_dry_run() {
        return Ok(response::sync(call.app.instances.preview(&record.key, &change)?));
    }
    call.app.instances.update(&record.key, change, Some(call.requestor())).await?;
    Ok(response::empty())
}

/// `POST /1.0/instances/<name>`: another name, or another project.
pub async fn rename(mut call: Call) -> Result<Response> {
    let body: wire::InstancePost = call.json().await?;
    let (model, record) = find(&call)?;
    let from = record.key.clone();
    let project = match body.project.as_str() {
        "" => from.project.clone(),
        name => seen_project(&call, &model, name)?,
    };
    let moves = project != from.project;
    if !body.pool.is_empty() && (!moves || body.pool != record.pool.as_str()) {
        return move_to(&call, &model, &record, project, body);
    }
    if !moves && body.migration {
        return Err(Error::Unsupported { what: "moving instances to another host".to_owned() });
    }
    let to = InstanceKey { project, name: InstanceName::new(body.name)? };
    if model.instances.contains_key(&to) {
        return Err(Error::Instance(instance::Error::Exists { key: to }));
    }
    let spec = spec(&call, &from, if moves { "Migrating instance" } else { "Renaming instance" });
    let (app, requestor) = (Arc::clone(&call.app), call.requestor());
    let operation = app.clone().ops.task(spec, async move |_| app.instances.rename(&from, to, Some(requestor)).await);
    Ok(response::accepted(&operation))
}

/// To another pool, perhaps by another name and to another project: that first, since it is what may be refused and easily
/// undone. A daemon that dies between the two leaves it in its old pool.
fn move_to(
    call: &Call,
    model: &Model,
    record: &db::Instance,
    project: ProjectName,
    body: wire::InstancePost,
) -> Result<Response> {
    let from = record.key.clone();
    let name = if body.name.is_empty() { from.name.clone() } else { InstanceName::new(body.name)? };
    let to = InstanceKey { project, name };
    let pool = PoolName::new(body.pool.clone()).map_err(|_| Error::NotFound("Storage pool"))?;
    if !model.pools.contains_key(&pool) {
        return Err(Error::NotFound("Storage pool"));
    }
    if to != from && model.instances.contains_key(&to) {
        return Err(Error::Instance(instance::Error::Exists { key: to }));
    }
    if call.app.instances.snapshot(&from).status.is_up() {
        return Err(Error::Instance(instance::Error::MoveRunning));
    }
    let verb = SnapshotVerb::Move { pool, snapshots: !(body.instance_only || body.container_only) };
    let (app, requestor) = (Arc::clone(&call.app), call.requestor());
    let operation = call.app.ops.task(spec(call, &from, "Migrating instance"), async move |handle| {
        if to != from {
            app.instances.rename(&from, to.clone(), Some(requestor.clone())).await?;
        }
        match app.instances.on_snapshots(&to, verb, Some(requestor.clone())).await {
            Ok(stages) => {
                handle.add_metadata("stages", stages.to_json());
                Ok(())
            }
            Err(cause) if to == from => Err(cause),
            Err(cause) => Err(match app.instances.rename(&to, from, Some(requestor)).await {
                Ok(()) => cause,
                Err(failure) => instance::Error::Undo { cause: Box::new(cause), failures: vec![failure] },
            }),
        }
    });
    Ok(response::accepted(&operation))
}

/// `DELETE /1.0/instances/<name>`; with `?forget=1` also when its pool is away (ours).
pub async fn delete(call: Call) -> Result<Response> {
    let (_, record) = find(&call)?;
    if call.app.instances.snapshot(&record.key).status.is_up() {
        return Err(Error::Instance(instance::Error::Running));
    }
    let (requestor, forget) = (call.requestor(), call.is_forget());
    let key = record.key.clone();
    let spec = spec(&call, &key, "Deleting instance");
    let app = Arc::clone(&call.app);
    let operation =
        app.clone().ops.task(spec, async move |_| app.instances.delete(&key, forget, Some(requestor)).await);
    Ok(response::accepted(&operation))
}
