//! `/1.0/instances/<name>/snapshots`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Call, blocking};
use super::error::Error;
use super::instances::{find, spec};
use super::response::{self, Response};
use super::wire;
use crate::db::{self, Instance, InstanceSnapshot, Model, Phase, rfc3339};
use crate::instance::{self, NewSnapshot, SnapshotVerb};
use crate::names::{InstanceKey, SnapshotName};
use crate::ops::Handle;
use crate::profile;
use crate::project;
use crate::storage::VolumeId;

type Result<T> = std::result::Result<T, Error>;

/// How LXD writes that there is no time.
pub(super) const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// Body of `POST …/snapshots`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SnapshotsPost {
    #[serde(deserialize_with = "wire::null_default")]
    name: String,
    #[serde(deserialize_with = "wire::null_default")]
    stateful: bool,
    expires_at: Option<String>,
}

/// Body of `PUT` and `PATCH …/snapshots/<snapshot>`: all else of a snapshot stays as it is.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SnapshotPut {
    expires_at: Option<String>,
}

/// Body of `POST …/snapshots/<snapshot>`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SnapshotPost {
    #[serde(deserialize_with = "wire::null_default")]
    name: String,
    #[serde(deserialize_with = "wire::null_default")]
    migration: bool,
    #[serde(deserialize_with = "wire::null_default")]
    live: bool,
}

/// What the snapshots of an instance have that nothing else has, bytes: by what the file system of its pool counts.
type Sizes = BTreeMap<SnapshotName, u64>;

/// Those of `names`; without those that nothing is counted of.
async fn sizes(call: &Call, instance: &Instance, names: Vec<SnapshotName>) -> Result<Sizes> {
    // A pool that is away counts nothing.
    let Ok(pool) = call.app.instances.context().pools.get(&instance.pool) else { return Ok(Sizes::new()) };
    let volume = VolumeId::of(&instance.key);
    blocking(move || {
        if !pool.counts() {
            return Ok(Sizes::new());
        }
        let size = |name: SnapshotName| {
            let counted = pool.usage(&volume.at(&name)).ok().flatten()?;
            Some((name, counted.used))
        };
        Ok::<_, Error>(names.into_iter().filter_map(size).collect())
    })
    .await
}

/// A snapshot as the API shows it, with its size.
fn sized(model: &Model, record: &InstanceSnapshot, sizes: &Sizes) -> Value {
    let mut shown = to_wire(model, record);
    if let (Some(size), Some(shown)) = (sizes.get(&record.key.name), shown.get_mut("size")) {
        *shown = json!(size);
    }
    shown
}

/// A snapshot as the API shows it in its instance: as with LXD, without its size.
fn to_wire(model: &Model, record: &InstanceSnapshot) -> Value {
    let project = &record.key.instance.project;
    // Profiles may be gone: then what is left of it is shown.
    let expanded = profile::expand_known(model, project, &record.profiles, &record.config, &record.devices);
    let time = |at: db::Seconds| if at == 0 { NO_TIME.to_owned() } else { rfc3339(at) };
    json!({
        "architecture": record.architecture,
        "config": record.config,
        "created_at": rfc3339(record.created_at),
        "devices": record.devices,
        "ephemeral": record.ephemeral,
        "expanded_config": expanded.config,
        "expanded_devices": expanded.devices,
        "expires_at": time(record.expires_at),
        "last_used_at": time(record.last_used_at),
        "name": record.key.name,
        "profiles": record.profiles,
        "size": -1,
        "stateful": false,
    })
}

/// The snapshots of an instance as its own object shows them with recursion 2.
pub(super) fn all(model: &Model, key: &InstanceKey) -> Vec<Value> {
    whole(model, key).map(|record| to_wire(model, record)).collect()
}

fn whole<'a>(model: &'a Model, key: &InstanceKey) -> impl Iterator<Item = &'a InstanceSnapshot> {
    model.snapshots_of(key).into_iter().map(|record| &**record).filter(|record| record.phase == Phase::Ready)
}

/// A point in time that a client names; none or LXD's zero time is never.
pub(super) fn moment(text: &str) -> Result<db::Seconds> {
    if text.is_empty() || text == NO_TIME {
        return Ok(0);
    }
    db::seconds(text).map(|at| at.max(0)).ok_or_else(|| Error::Field {
        name: "expires_at",
        reason: format!("{:?} is no time; write one as 2030-12-31T23:59:59Z", crate::names::shortened(text)),
    })
}

fn new_name(text: String) -> Result<SnapshotName> {
    Ok(SnapshotName::new(text)?)
}

impl Call {
    fn snapshot_name(&self) -> Result<SnapshotName> {
        self.named("snapshot", "Snapshot", SnapshotName::new)
    }
}

/// `GET …/snapshots?recursion=`.
pub async fn list(call: Call) -> Result<Response> {
    let (model, record) = find(&call)?;
    let url = |snapshot: &&InstanceSnapshot| {
        let path = format!("{}/{}/snapshots/{}", call.tree.url(), record.key.name, snapshot.key.name.in_url());
        record.key.project.url(path)
    };
    let names = whole(&model, &record.key).map(|snapshot| snapshot.key.name.clone());
    let sizes = if call.recursion() > 0 { sizes(&call, &record, names.collect()).await? } else { Sizes::new() };
    call.list(whole(&model, &record.key), url, |snapshot| sized(&model, snapshot, &sizes))
}

/// `GET …/snapshots/<snapshot>`.
pub async fn get(call: Call) -> Result<Response> {
    let (model, record) = find(&call)?;
    let snapshot = instance::find_snapshot(&model, &record.key, &call.snapshot_name()?)?;
    let tag = response::etag(modifiable(snapshot));
    let sizes = sizes(&call, &record, vec![snapshot.key.name.clone()]).await?;
    Ok(response::tagged(sized(&model, snapshot, &sizes), &tag))
}

fn modifiable(record: &InstanceSnapshot) -> impl serde::Serialize {
    (record.key.name.clone(), record.expires_at)
}

/// `POST …/snapshots`.
pub async fn create(mut call: Call) -> Result<Response> {
    let body: SnapshotsPost = call.json().await?;
    let (model, record) = find(&call)?;
    project::may_make_snapshots(&model, &record.key.project)?;
    if body.stateful {
        return Err(Error::Unsupported {
            what: "snapshots of the running state (\"stateful\"); a snapshot without it has the files".to_owned(),
        });
    }
    let name = if body.name.is_empty() { None } else { Some(new_name(body.name)?) };
    if let Some(name) = &name
        && instance::find_snapshot(&model, &record.key, name).is_ok()
    {
        return Err(Error::Instance(instance::Error::SnapshotExists { name: name.clone() }));
    }
    let expires_at = body.expires_at.as_deref().map(moment).transpose()?;
    let verb = SnapshotVerb::Create(NewSnapshot { name, expires_at });
    act(&call, &record.key, "Snapshotting instance", verb)
}

/// `DELETE …/snapshots/<snapshot>`.
pub async fn delete(call: Call) -> Result<Response> {
    let (model, record) = find(&call)?;
    let name = call.snapshot_name()?;
    instance::find_snapshot(&model, &record.key, &name)?;
    act(&call, &record.key, "Deleting snapshot", SnapshotVerb::Delete(name))
}

/// `POST …/snapshots/<snapshot>`: another name.
pub async fn rename(mut call: Call) -> Result<Response> {
    let body: SnapshotPost = call.json().await?;
    let (model, record) = find(&call)?;
    let from = call.snapshot_name()?;
    instance::find_snapshot(&model, &record.key, &from)?;
    if body.migration || body.live {
        return Err(Error::Unsupported { what: "moving snapshots to another host".to_owned() });
    }
    let to = new_name(body.name)?;
    if instance::find_snapshot(&model, &record.key, &to).is_ok() {
        return Err(Error::Instance(instance::Error::SnapshotExists { name: to }));
    }
    act(&call, &record.key, "Renaming snapshot", SnapshotVerb::Rename { from, to })
}

/// `PUT …/snapshots/<snapshot>`: when it expires.
pub async fn put(mut call: Call) -> Result<Response> {
    let body: SnapshotPut = call.json().await?;
    expire(call, body).await
}

/// `PATCH …/snapshots/<snapshot>`.
pub async fn patch(mut call: Call) -> Result<Response> {
    let (body, _) = call.json_part().await?;
    expire(call, body).await
}

async fn expire(call: Call, body: SnapshotPut) -> Result<Response> {
    let (model, record) = find(&call)?;
    let name = call.snapshot_name()?;
    let snapshot = instance::find_snapshot(&model, &record.key, &name)?;
    call.if_match().check(modifiable(snapshot))?;
    let expires_at = body.expires_at.as_deref().map(moment).transpose()?;
    let (app, requestor, wanted) = (call.app.clone(), call.requestor(), call.if_match());
    let key = record.key.clone();
    let operation = call.app.ops.task(spec(&call, &record.key, "Updating snapshot"), async move |_: Handle| {
        // Without the field nothing changes, as in LXD.
        let Some(expires_at) = expires_at else { return Ok(()) };
        let fits = move |record: &InstanceSnapshot| match wanted.differs(modifiable(record)) {
            Some(etag) => Err(instance::Error::Changed { etag }),
            None => Ok(()),
        };
        app.instances.expire_snapshot(&key, &name, expires_at, fits, Some(requestor)).await
    });
    Ok(response::accepted(&operation))
}

/// Does it in an operation.
pub(super) fn act(call: &Call, key: &InstanceKey, description: &'static str, verb: SnapshotVerb) -> Result<Response> {
    let (app, requestor, of) = (call.app.clone(), call.requestor(), key.clone());
    let operation = call.app.ops.task(spec(call, key, description), async move |handle: Handle| {
        let stages = app.instances.on_snapshots(&of, verb, Some(requestor)).await?;
        handle.add_metadata("stages", stages.to_json());
        Ok::<(), instance::Error>(())
    });
    Ok(response::accepted(&operation))
}
