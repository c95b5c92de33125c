//! `/1.0/storage-pools/<pool>/volumes/custom/<volume>/snapshots`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::call::Call;
use super::error::Error;
use super::instance_snapshots::{NO_TIME, moment};
use super::response::{self, Response};
use super::storage_volumes::spec;
use super::wire::{self, StorageVolumeSnapshot};
use crate::db::{Phase, VolumeSnapshot, rfc3339};
use crate::names::SnapshotName;
use crate::project;
use crate::volume::{self, NewSnapshot, SnapshotChange};

type Result<T> = std::result::Result<T, Error>;

/// Body of `POST …/snapshots`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SnapshotsPost {
    #[serde(deserialize_with = "wire::null_default")]
    name: String,
    #[serde(deserialize_with = "wire::null_default")]
    description: String,
    expires_at: Option<String>,
}

/// Body of `PUT` and `PATCH …/snapshots/<snapshot>`: all else of a snapshot stays as it is.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SnapshotPut {
    #[serde(deserialize_with = "wire::null_default")]
    description: String,
    expires_at: Option<String>,
}

/// Body of `POST …/snapshots/<snapshot>`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SnapshotPost {
    #[serde(deserialize_with = "wire::null_default")]
    name: String,
}

fn to_wire(record: &VolumeSnapshot, name: String) -> StorageVolumeSnapshot {
    StorageVolumeSnapshot {
        config: record.config.clone(),
        description: record.description.clone(),
        expires_at: (record.expires_at != 0).then(|| rfc3339(record.expires_at)),
        name,
        content_type: "filesystem".to_owned(),
        created_at: rfc3339(record.created_at),
    }
}

fn modifiable(record: &VolumeSnapshot) -> impl Serialize {
    (record.key.name.clone(), record.description.clone(), record.expires_at)
}

impl Call {
    fn volume_snapshot_name(&self) -> Result<SnapshotName> {
        self.named("snapshot", "Storage volume snapshot", SnapshotName::new)
    }
}

/// `GET …/snapshots?recursion=`.
pub async fn list(call: Call) -> Result<Response> {
    let (model, record) = call.custom_volume("listed")?;
    let (pool, name) = (&record.key.pool, &record.key.name);
    let whole = model.snapshots_of_volume(&record.key).into_iter().filter(|one| one.phase == Phase::Ready);
    let url = |one: &&Arc<VolumeSnapshot>| {
        let snapshot = one.key.name.in_url();
        format!("/1.0/storage-pools/{}/volumes/custom/{}/snapshots/{snapshot}", pool.in_url(), name.in_url())
    };
    // As with LXD: in a list, with the volume's name.
    call.list(whole, url, |one| to_wire(one, format!("{name}/{}", one.key.name)))
}

/// `GET …/snapshots/<snapshot>`.
pub async fn get(call: Call) -> Result<Response> {
    let (model, record) = call.custom_volume("read")?;
    let snapshot = volume::find_snapshot(&model, &record.key, &call.volume_snapshot_name()?)?;
    let tag = response::etag(modifiable(snapshot));
    let mut shown = to_wire(snapshot, snapshot.key.name.to_string());
    // As with LXD: never is no time in a list, and the zero time here.
    shown.expires_at.get_or_insert_with(|| NO_TIME.to_owned());
    Ok(response::tagged(shown, &tag))
}

/// `POST …/snapshots`.
pub async fn create(mut call: Call) -> Result<Response> {
    let body: SnapshotsPost = call.json().await?;
    let (model, record) = call.custom_volume("snapshotted")?;
    project::may_make_snapshots(&model, &record.key.project)?;
    let name = if body.name.is_empty() { None } else { Some(SnapshotName::new(body.name)?) };
    if let Some(name) = &name
        && volume::find_snapshot(&model, &record.key, name).is_ok()
    {
        return Err(Error::Volume(volume::Error::SnapshotExists { name: name.clone() }));
    }
    let expires_at = body.expires_at.as_deref().map(moment).transpose()?;
    let new = NewSnapshot { name, description: body.description, expires_at };
    let (app, requestor, key) = (Arc::clone(&call.app), call.requestor(), record.key.clone());
    let spec = spec(&call, &record.key, "Creating storage volume snapshot");
    let operation = call.app.ops.task(spec, async move |_| {
        volume::create_snapshot(&app.instances, &key, new, Some(&requestor)).await.map(drop)
    });
    Ok(response::accepted(&operation))
}

/// `POST …/snapshots/<snapshot>`: another name.
pub async fn rename(mut call: Call) -> Result<Response> {
    let body: SnapshotPost = call.json().await?;
    let (model, record) = call.custom_volume("renamed")?;
    let from = call.volume_snapshot_name()?;
    volume::find_snapshot(&model, &record.key, &from)?;
    let to = SnapshotName::new(body.name)?;
    if volume::find_snapshot(&model, &record.key, &to).is_ok() {
        return Err(Error::Volume(volume::Error::SnapshotExists { name: to }));
    }
    let (app, requestor, key) = (Arc::clone(&call.app), call.requestor(), record.key.clone());
    let spec = spec(&call, &record.key, "Renaming storage volume snapshot");
    let operation = call
        .app
        .ops
        .task(spec, async move |_| volume::rename_snapshot(&app.instances, &key, &from, &to, Some(&requestor)).await);
    Ok(response::accepted(&operation))
}

/// `DELETE …/snapshots/<snapshot>`.
pub async fn delete(call: Call) -> Result<Response> {
    let (model, record) = call.custom_volume("deleted")?;
    let name = call.volume_snapshot_name()?;
    volume::find_snapshot(&model, &record.key, &name)?;
    let (app, requestor, key) = (Arc::clone(&call.app), call.requestor(), record.key.clone());
    let spec = spec(&call, &record.key, "Deleting storage volume snapshot");
    let operation = call
        .app
        .ops
        .task(spec, async move |_| volume::delete_snapshot(&app.instances, &key, &name, Some(&requestor)).await);
    Ok(response::accepted(&operation))
}

/// `PUT …/snapshots/<snapshot>`: description, and when it expires.
pub async fn put(mut call: Call) -> Result<Response> {
    let body: SnapshotPut = call.json().await?;
    // Without the field it never expires.
    let expires_at = body.expires_at.as_deref().map_or(Ok(0), moment)?;
    update(call, SnapshotChange { description: Some(body.description), expires_at: Some(expires_at) }).await
}

/// `PATCH …/snapshots/<snapshot>`: only what the body names.
pub async fn patch(mut call: Call) -> Result<Response> {
    let (body, named): (SnapshotPut, _) = call.json_part().await?;
    let description = named.has("description").then_some(body.description);
    let expires_at = body.expires_at.as_deref().map(moment).transpose()?;
    update(call, SnapshotChange { description, expires_at }).await
}

async fn update(call: Call, change: SnapshotChange) -> Result<Response> {
    let (model, record) = call.custom_volume("changed")?;
    let name = call.volume_snapshot_name()?;
    volume::find_snapshot(&model, &record.key, &name)?;
    let wanted = call.if_match();
    let fits = move |record: &VolumeSnapshot| match wanted.differs(modifiable(record)) {
        Some(etag) => Err(volume::Error::Changed { etag }),
        None => Ok(()),
    };
    volume::update_snapshot(&call.app.instances, &record.key, &name, change, fits, Some(&call.requestor())).await?;
    Ok(response::empty())
}
