//! `/1.0/storage-pools/<pool>/volumes`: custom volumes, and, to be looked at, the roots of instances and images.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use serde_json::json;

use super::call::{Call, blocking};
use super::error::Error;
use super::response::{self, Response};
use super::wire::{self, StorageVolume};
use crate::config;
use crate::db::{Feature, Instance, Model, Phase, Volume, rfc3339};
use crate::instance::{self, RootVolume};
use crate::names::{
    Fingerprint, InstanceKey, InstanceName, PoolName, ProjectName, Projects, SnapshotName, VolumeKey, VolumeName,
};
use crate::ops::Spec;
use crate::storage::VolumeId;
use crate::volume::{self, CopyOf, Definition, User, Users};

type Result<T> = std::result::Result<T, Error>;

/// The types of volumes that LXD's API knows, in its order.
const TYPES: &[&str] = &["container", "virtual-machine", "custom", "image"];
const CONTAINER: &str = "container";
const IMAGE: &str = "image";
pub(super) const CUSTOM: &str = "custom";
const FILES: &str = "filesystem";

impl Call {
    pub(super) fn pool_name(&self) -> Result<PoolName> {
        let name = self.named("name", "Storage pool", PoolName::new)?;
        if self.app.db.model().pools.contains_key(&name) { Ok(name) } else { Err(Error::NotFound("Storage pool")) }
    }

    /// The type of volumes that the path names.
    fn volume_type(&self) -> Result<&'static str> {
        let kind = self.param("type");
        TYPES.iter().copied().find(|known| *known == kind).ok_or_else(|| Error::Field {
            name: "type",
            reason: format!(
                "Invalid storage volume type name {:?}: use {}",
                crate::names::shortened(kind),
                TYPES.join(", ")
            ),
        })
    }

    /// The project whose custom volumes the request is about.
    pub(super) fn volume_project(&self) -> Result<ProjectName> {
        let project = self.project()?;
        Ok(self.app.db.model().project_of_volumes(&project))
    }

    /// The custom volume that the path names, which is there. `doing` is for what only those have.
    pub(super) fn custom_volume(&self, doing: &str) -> Result<(Arc<Model>, Arc<Volume>)> {
        let pool = self.pool_name()?;
        let kind = self.volume_type()?;
        if kind != CUSTOM {
            let model = self.app.db.model();
            let name = self.param("volume");
            if kind == CONTAINER && !roots(&model, &pool, &self.project()?).iter().any(|root| root.name == name) {
                return Err(Error::NotFound("Storage pool volume"));
            }
            // LXD's words, which programs look for.
            let reason = format!(
                "Storage volumes of type {kind:?} cannot be {doing} with the storage API: use /1.0/instances or /1.0/images"
            );
            return Err(Error::Field { name: "type", reason });
        }
        let name = self.named("volume", "Storage pool volume", VolumeName::new)?;
        let key = VolumeKey { pool, project: self.volume_project()?, name };
        let model = self.app.db.model();
        let record = volume::find(&model, &key)?.clone();
        Ok((model, record))
    }
}

/// What of a volume a client can change, for its ETag.
fn modifiable(record: &Volume) -> impl Serialize {
    (record.key.name.clone(), record.description.clone(), record.config.clone())
}

fn to_wire(record: &Volume, users: &[User]) -> StorageVolume {
    StorageVolume {
        config: record.config.clone(),
        description: record.description.clone(),
        name: record.key.name.to_string(),
        kind: CUSTOM.to_owned(),
        used_by: users.iter().map(User::url).collect(),
        location: "none".to_owned(),
        content_type: FILES.to_owned(),
        project: record.key.project.to_string(),
        created_at: rfc3339(record.created_at),
    }
}

fn other(kind: &str, project: &ProjectName, name: String, used_by: String, created_at: i64) -> StorageVolume {
    StorageVolume {
        name,
        kind: kind.to_owned(),
        used_by: vec![used_by],
        location: "none".to_owned(),
        content_type: FILES.to_owned(),
        project: project.to_string(),
        created_at: rfc3339(created_at),
        ..StorageVolume::default()
    }
}

fn root(instance: &Instance) -> StorageVolume {
    let key = &instance.key;
    let url = key.project.url(format_args!("/1.0/instances/{}", key.name));
    let RootVolume { description, config } = RootVolume::of(instance);
    let shown = other(CONTAINER, &key.project, key.name.to_string(), url, instance.created_at);
    StorageVolume { description, config, ..shown }
}

/// The roots of instances of a project in a pool, with their snapshots.
fn roots(model: &Model, pool: &PoolName, project: &ProjectName) -> Vec<StorageVolume> {
    let here = model.instances.values().filter(|i| i.pool == *pool && i.key.project == *project);
    let mut found = Vec::new();
    for instance in here {
        found.push(root(instance));
        let name = &instance.key.name;
        let snapshots = model.snapshots_of(&instance.key).into_iter().filter(|one| one.phase == Phase::Ready);
        found.extend(snapshots.map(|one| {
            let snapshot = &one.key.name;
            let url = format_args!("/1.0/instances/{name}/snapshots/{}", snapshot.in_url());
            let url = instance.key.project.url(url);
            other(CONTAINER, &instance.key.project, format!("{name}/{snapshot}"), url, one.created_at)
        }));
    }
    found
}

/// The custom volumes of a project in a pool, with their snapshots.
fn customs(model: &Model, pool: &PoolName, project: &ProjectName) -> Vec<StorageVolume> {
    let users = Users::of(model);
    let here = |key: &VolumeKey| key.pool == *pool && key.project == *project;
    let mut found = Vec::new();
    for record in model.volumes.values().filter(|record| here(&record.key) && record.phase == Phase::Ready) {
        found.push(to_wire(record, users.get(&record.key)));
        let snapshots = model.snapshots_of_volume(&record.key).into_iter().filter(|one| one.phase == Phase::Ready);
        found.extend(snapshots.map(|one| StorageVolume {
            config: one.config.clone(),
            description: one.description.clone(),
            name: format!("{}/{}", record.key.name, one.key.name),
            created_at: rfc3339(one.created_at),
            ..to_wire(record, &[])
        }));
    }
    found
}

/// The images of a project that lie ready in a pool.
async fn images(call: &Call, model: &Model, pool: &PoolName, project: &ProjectName) -> Result<Vec<StorageVolume>> {
    let Ok(open) = call.app.instances.context().pools.get(pool) else { return Ok(Vec::new()) };
    let here = blocking(move || Ok::<_, Error>(open.images())).await?;
    let known = here.into_iter().filter_map(|fingerprint| model.image(project, &fingerprint).cloned());
    let shown = |image: Arc<crate::db::Image>| {
        let name = image.fingerprint.to_string();
        let url = project.url(format_args!("/1.0/images/{name}"));
        other(IMAGE, project, name, url, image.uploaded_at)
    };
    Ok(known.map(shown).collect())
}

/// The URL of a volume or a snapshot of one.
fn url_of(pool: &PoolName, volume: &StorageVolume) -> String {
    let part = |text: &str| percent_encoding::utf8_percent_encode(text, crate::names::IN_URL).to_string();
    let name = match volume.name.split_once('/') {
        None => part(&volume.name),
        Some((name, snapshot)) => format!("{}/snapshots/{}", part(name), part(snapshot)),
    };
    let url = format!("/1.0/storage-pools/{}/volumes/{}/{name}", pool.in_url(), volume.kind);
    // It was one.
    ProjectName::new(volume.project.as_str()).map_or_else(|_| url.clone(), |project| project.url(&url))
}

async fn listed(call: &Call, kind: Option<&str>) -> Result<Response> {
    let pool = call.pool_name()?;
    let model = call.app.db.model();
    let projects: Vec<ProjectName> = match call.scope()? {
        Projects::Only(these) => these.into_iter().collect(),
        Projects::All => model.projects.keys().cloned().collect(),
    };
    let wanted = |one: &str| kind.is_none_or(|kind| kind == one);
    let mut found = Vec::new();
    for project in projects.iter().filter(|_| wanted(CONTAINER)) {
        found.extend(roots(&model, &pool, project));
    }
    let holders = |feature| projects.iter().map(|project| model.holder(project, feature)).collect::<BTreeSet<_>>();
    for project in holders(Feature::Volumes).iter().filter(|_| wanted(CUSTOM)) {
        found.extend(customs(&model, &pool, project));
    }
    for project in holders(Feature::Images).iter().filter(|_| wanted(IMAGE)) {
        found.extend(images(call, &model, &pool, project).await?);
    }
    for volume in &mut found {
        volume.used_by = call.visible(std::mem::take(&mut volume.used_by));
    }
    call.list(found, |volume| url_of(&pool, volume), Clone::clone)
}

/// `GET /1.0/storage-pools/<pool>/volumes`.
pub async fn list(call: Call) -> Result<Response> {
    listed(&call, None).await
}

/// `GET /1.0/storage-pools/<pool>/volumes/<type>`.
pub async fn list_type(call: Call) -> Result<Response> {
    call.pool_name()?;
    let kind = call.volume_type()?;
    listed(&call, Some(kind)).await
}

/// A volume of another type than custom.
async fn get_other(call: &Call, kind: &str) -> Result<StorageVolume> {
    let (pool, project, model) = (call.pool_name()?, call.project()?, call.app.db.model());
    let all = match kind {
        CONTAINER => roots(&model, &pool, &project),
        IMAGE => images(call, &model, &pool, &project).await?,
        _ => Vec::new(),
    };
    let name = call.param("volume");
    all.into_iter().find(|volume| volume.name == name).ok_or(Error::NotFound("Storage pool volume"))
}

/// `GET /1.0/storage-pools/<pool>/volumes/<type>/<volume>`.
pub async fn get(call: Call) -> Result<Response> {
    call.pool_name()?;
    let kind = call.volume_type()?;
    if kind != CUSTOM {
        let volume = get_other(&call, kind).await?;
        let tag = response::etag((&volume.name, &volume.description, &volume.config));
        return Ok(response::tagged(volume, &tag));
    }
    let (model, record) = call.custom_volume("read")?;
    let users = Users::of_one(&model, &record.key);
    let mut volume = to_wire(&record, &users);
    volume.used_by = call.visible(volume.used_by);
    Ok(response::tagged(volume, &response::etag(modifiable(&record))))
}

/// `GET …/<volume>/state`: what it uses, where that is known without looking at every file, and what it may have.
pub async fn state(call: Call) -> Result<Response> {
    let pool = call.pool_name()?;
    let kind = call.volume_type()?;
    let id = if kind == CUSTOM {
        VolumeId::custom(&call.custom_volume("read")?.1.key)
    } else {
        let volume = get_other(&call, kind).await?;
        match (kind, volume.name.split_once('/')) {
            (CONTAINER, None) => VolumeId::container(&call.project()?.prefixed(&volume.name)),
            _ => return Ok(response::sync(json!({"usage": null}))),
        }
    };
    let open = call.app.instances.context().pools.get(&pool)?;
    let used = call.app.instances.context().pools.usage().of(&open, &id).await;
    // As with LXD, 0 is no limit.
    let total = blocking(move || Ok::<_, Error>(open.limit_of(&id).unwrap_or(0))).await?;
    let used = used.map(|used| ("used", used));
    let usage: BTreeMap<_, _> = used.into_iter().chain([("total", total)]).collect();
    Ok(response::sync(json!({"usage": usage})))
}

/// An operation on a volume.
pub(super) fn spec(call: &Call, key: &VolumeKey, description: &'static str) -> Spec {
    let url = format!("/1.0/storage-pools/{}/volumes/custom/{}", key.pool.in_url(), key.name.in_url());
    Spec {
        description,
        project: key.project.clone(),
        resources: BTreeMap::from([("storage_volumes".to_owned(), vec![url])]),
        metadata: None,
        requestor: Some(call.requestor()),
        may_cancel: false,
    }
}

/// Where the volumes of a project lie that a body names.
fn volumes_of(call: &Call, model: &Model, project: ProjectName) -> Result<ProjectName> {
    call.check_reach(&project)?;
    Ok(model.project_of_volumes(&project))
}

/// What a source of type `copy` names.
fn copy_of(call: &Call, source: &wire::StorageVolumeSource) -> Result<CopyOf> {
    let model = call.app.db.model();
    let pool = match source.pool.as_str() {
        "" => call.pool_name()?,
        name => PoolName::new(name).map_err(|_| Error::NotFound("Storage pool"))?,
    };
    if !model.pools.contains_key(&pool) {
        return Err(Error::NotFound("Storage pool"));
    }
    let project = match source.project.as_str() {
        "" => call.volume_project()?,
        name => volumes_of(call, &model, ProjectName::new(name)?)?,
    };
    let (name, snapshot) = match source.name.split_once('/') {
        None => (source.name.as_str(), None),
        Some((name, snapshot)) => (name, Some(SnapshotName::new(snapshot)?)),
    };
    if name.is_empty() {
        let reason = "its field \"name\" names no volume to copy".to_owned();
        return Err(Error::Field { name: "source", reason });
    }
    let name = VolumeName::new(name).map_err(|_| Error::NotFound("Storage pool volume"))?;
    let key = VolumeKey { pool, project, name };
    volume::find(&model, &key)?;
    if let Some(snapshot) = &snapshot {
        volume::find_snapshot(&model, &key, snapshot)?;
    }
    Ok(CopyOf { volume: key, snapshot, snapshots: !source.volume_only })
}

/// `POST /1.0/storage-pools/<pool>/volumes[/<type>]`.
pub async fn create(mut call: Call) -> Result<Response> {
    let body: wire::StorageVolumesPost = call.json().await?;
    let pool = call.pool_name()?;
    let kind = if call.param("type").is_empty() { body.kind.as_str() } else { call.volume_type()? };
    match kind {
        CUSTOM => {}
        "" => {
            let reason = "it is missing: You must provide a storage volume type of the storage volume".to_owned();
            return Err(Error::Field { name: "type", reason });
        }
        other => {
            let other = crate::names::shortened(other);
            let reason = format!("Currently not allowed to create storage volumes of type {other:?}: use \"custom\"");
            return Err(Error::Field { name: "type", reason });
        }
    }
    match body.content_type.as_str() {
        "" | FILES => {}
        "block" | "iso" => {
            let what = format!("volumes of content type {:?}: they are disks of virtual machines", body.content_type);
            return Err(Error::Unsupported { what });
        }
        other => {
            let reason =
                format!("Invalid volume content type name {:?}: use filesystem", crate::names::shortened(other));
            return Err(Error::Field { name: "content_type", reason });
        }
    }
    if body.name.is_empty() {
        return Err(Error::Field { name: "name", reason: "No name provided".to_owned() });
    }
    let key = VolumeKey { pool, project: call.volume_project()?, name: VolumeName::new(body.name)? };
    config::validate_volume(&body.config)?;
    let asked = Definition { description: body.description, config: body.config };
    let there = volume::find(&call.app.db.model(), &key).is_ok();
    match body.source.kind.as_str() {
        "" | "none" => {
            volume::create(&call.app.instances, &key, asked, Some(&call.requestor())).await?;
            Ok(response::empty())
        }
        "copy" => {
            let of = copy_of(&call, &body.source)?;
            let refresh = body.source.refresh;
            if there && !refresh {
                return Err(Error::Volume(volume::Error::Exists { name: key.name }));
            }
            let (app, requestor, projects) = (Arc::clone(&call.app), call.requestor(), call.trust.projects());
            let operation = call.app.ops.task(spec(&call, &key, "Copying storage volume"), async move |_| {
                let done = if refresh {
                    volume::refresh(&app.instances, &of, &key, asked, Some(&requestor)).await
                } else {
                    volume::copy(&app.instances, &of, &key, asked, Some(&requestor)).await
                };
                done.map_err(|error| error.seen_by(&projects))
            });
            Ok(response::accepted(&operation))
        }
        "migration" | "backup" => Err(Error::Unsupported { what: format!("volumes from a {}", body.source.kind) }),
        other => {
            let reason = format!("the type {:?} is not known: use \"copy\" or none", crate::names::shortened(other));
            Err(Error::Field { name: "source", reason })
        }
    }
}

/// `PUT /1.0/storage-pools/<pool>/volumes/custom/<volume>`; with `restore` back to a snapshot.
pub async fn put(mut call: Call) -> Result<Response> {
    let body: wire::StorageVolumePut = call.json().await?;
    if call.volume_type()? == CONTAINER && body.restore.is_empty() {
        return update_root(call, |_| RootVolume { description: body.description, config: body.config }).await;
    }
    let (_, record) = call.custom_volume("changed")?;
    if !body.restore.is_empty() {
        call.if_match().check(modifiable(&record))?;
        let name = SnapshotName::new(body.restore)?;
        volume::restore(&call.app.instances, &record.key, &name, Some(&call.requestor())).await?;
        return Ok(response::empty());
    }
    update(call, &record, move |_| Definition { description: body.description, config: body.config }).await
}

/// `PATCH /1.0/storage-pools/<pool>/volumes/custom/<volume>`: only what the body names.
pub async fn patch(mut call: Call) -> Result<Response> {
    let (part, named): (wire::StorageVolumePut, _) = call.json_part().await?;
    if call.volume_type()? == CONTAINER && part.restore.is_empty() {
        let change = move |mut old: RootVolume| {
            old.config.extend(part.config);
            let description = if named.has("description") { part.description } else { old.description };
            RootVolume { description, config: old.config }
        };
        return update_root(call, change).await;
    }
    let (_, record) = call.custom_volume("changed")?;
    if !part.restore.is_empty() {
        return Err(Error::Field { name: "restore", reason: "only PUT restores a snapshot".to_owned() });
    }
    update(call, &record, move |old| {
        let mut config = old.config.clone();
        config.extend(part.config);
        let description = if named.has("description") { part.description } else { old.description.clone() };
        Definition { description, config }
    })
    .await
}

/// Of the volume of an instance's root, what clients write on it.
async fn update_root(call: Call, change: impl FnOnce(RootVolume) -> RootVolume + Send + 'static) -> Result<Response> {
    let (pool, project) = (call.pool_name()?, call.project()?);
    let key = InstanceKey { project, name: call.named("volume", "Storage pool volume", InstanceName::new)? };
    if call.app.db.model().instances.get(&key).is_none_or(|record| record.pool != pool) {
        return Err(Error::NotFound("Storage pool volume"));
    }
    let (wanted, name) = (call.if_match(), key.name.to_string());
    let change = move |old: RootVolume| match wanted.differs((&name, &old.description, &old.config)) {
        Some(etag) => Err(instance::Error::Changed { etag }),
        None => Ok(change(old)),
    };
    call.app.instances.change_root_volume(&key, change, Some(&call.requestor())).await?;
    Ok(response::empty())
}

async fn update(
    call: Call,
    record: &Volume,
    change: impl FnOnce(&Volume) -> Definition + Send + 'static,
) -> Result<Response> {
    let wanted = call.if_match();
    let change = move |old: &Volume| match wanted.differs(modifiable(old)) {
        Some(etag) => Err(volume::Error::Changed { etag }),
        None => Ok(change(old)),
    };
    volume::update(&call.app.instances, &record.key, change, Some(&call.requestor())).await?;
    Ok(response::empty())
}

/// `POST /1.0/storage-pools/<pool>/volumes/custom/<volume>`: another name, pool or project.
pub async fn rename(mut call: Call) -> Result<Response> {
    let body: wire::StorageVolumePost = call.json().await?;
    let (model, record) = call.custom_volume("renamed")?;
    if body.migration {
        return Err(Error::Unsupported { what: "moving volumes to another host".to_owned() });
    }
    let from = record.key.clone();
    let mut to = VolumeKey { name: VolumeName::new(body.name)?, ..from.clone() };
    if !body.pool.is_empty() {
        to.pool = PoolName::new(body.pool).map_err(|_| Error::NotFound("Storage pool"))?;
    }
    if !body.project.is_empty() {
        to.project = volumes_of(&call, &model, ProjectName::new(body.project)?)?;
    }
    if !model.pools.contains_key(&to.pool) {
        return Err(Error::NotFound("Storage pool"));
    }
    if !model.projects.contains_key(&to.project) {
        return Err(Error::NotFound("Project"));
    }
    if volume::find(&model, &to).is_ok() {
        return Err(Error::Volume(volume::Error::Exists { name: to.name }));
    }
    if (&to.pool, &to.project) == (&from.pool, &from.project) {
        volume::rename(&call.app.instances, &from, &to, Some(&call.requestor())).await?;
        let url = format!("/1.0/storage-pools/{}/volumes/custom/{}", to.pool.in_url(), to.name.in_url());
        return Ok(response::created(&url));
    }
    let (app, requestor, projects) = (Arc::clone(&call.app), call.requestor(), call.trust.projects());
    let operation = call.app.ops.task(spec(&call, &from, "Moving storage volume"), async move |_| {
        let moved = volume::move_to(&app.instances, &from, &to, Some(&requestor)).await;
        moved.map_err(|error| error.seen_by(&projects))
    });
    Ok(response::accepted(&operation))
}

/// The files of an image go from the pool; the next instance of it there brings them again.
async fn delete_image(call: &Call) -> Result<Response> {
    let volume = get_other(call, IMAGE).await?;
    let fingerprint = Fingerprint::new(volume.name).map_err(|_| Error::NotFound("Storage pool volume"))?;
    let pool = call.pool_name()?;
    let open = call.app.instances.context().pools.get(&pool)?;
    let url = format!("/1.0/storage-pools/{}/volumes/images/{fingerprint}", pool.in_url());
    blocking(move || Ok::<_, Error>(open.delete_image(&fingerprint)?)).await?;
    call.lifecycle("storage-volume-deleted", &url);
    Ok(response::empty())
}

/// `DELETE /1.0/storage-pools/<pool>/volumes/<type>/<volume>`.
pub async fn delete(call: Call) -> Result<Response> {
    if call.volume_type()? == IMAGE {
        return delete_image(&call).await;
    }
    let (_, record) = call.custom_volume("deleted")?;
    // What is lost may be unset in the server's configuration.
    let _guard = if call.is_forget() { Some(call.app.config_lock.lock().await) } else { None };
    volume::delete(&call.app.instances, &record.key, call.is_forget(), Some(&call.requestor())).await?;
    Ok(response::empty())
}
