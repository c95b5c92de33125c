//! `/1.0/storage-pools/<pool>/volumes`: the roots of instances. Custom volumes are of a later version.

use super::call::Call;
use super::error::Error;
use super::response::{self, Response};
use super::wire::StorageVolume;
use crate::db::{Instance, Model, rfc3339};
use crate::names::PoolName;

type Result<T> = std::result::Result<T, Error>;

/// The types of volumes that LXD's API knows, in its order.
const TYPES: &[&str] = &["container", "virtual-machine", "custom", "image"];
const CONTAINER: &str = "container";

fn pool_of(call: &Call) -> Result<PoolName> {
    let name = call.named("name", "Storage pool", PoolName::new)?;
    if call.app.db.model().pools.contains_key(&name) { Ok(name) } else { Err(Error::NotFound("Storage pool")) }
}

fn roots<'a>(model: &'a Model, pool: &'a PoolName) -> impl Iterator<Item = &'a Instance> {
    model.instances.values().map(|instance| &**instance).filter(move |instance| instance.pool == *pool)
}

fn volume(instance: &Instance) -> StorageVolume {
    StorageVolume {
        name: instance.key.name.to_string(),
        kind: CONTAINER.to_owned(),
        used_by: vec![instance.key.url()],
        location: "none".to_owned(),
        content_type: "filesystem".to_owned(),
        project: instance.key.project.to_string(),
        created_at: rfc3339(instance.created_at),
        ..StorageVolume::default()
    }
}

fn listed(call: &Call, pool: &PoolName, kind: Option<&str>) -> Result<Response> {
    let model = call.app.db.model();
    let project = call.scope()?;
    let wanted = |instance: &&Instance| {
        kind.is_none_or(|kind| kind == CONTAINER) && project.as_ref().is_none_or(|of| instance.key.project == *of)
    };
    let url = |instance: &&Instance| {
        let path = format!("/1.0/storage-pools/{}/volumes/{CONTAINER}/{}", pool.in_url(), instance.key.name);
        instance.key.project.url(path)
    };
    call.list(roots(&model, pool).filter(wanted), url, |instance| volume(instance))
}

/// `GET /1.0/storage-pools/<pool>/volumes`.
pub async fn list(call: Call) -> Result<Response> {
    let pool = pool_of(&call)?;
    listed(&call, &pool, None)
}

/// `GET /1.0/storage-pools/<pool>/volumes/<type>`.
pub async fn list_type(call: Call) -> Result<Response> {
    let pool = pool_of(&call)?;
    let kind = call.param("type");
    if !TYPES.contains(&kind) {
        let reason = format!("{kind:?} is not known: use {}", TYPES.join(", "));
        return Err(Error::Field { name: "type", reason });
    }
    listed(&call, &pool, Some(kind))
}

/// `GET /1.0/storage-pools/<pool>/volumes/<type>/<volume>`.
pub async fn get(call: Call) -> Result<Response> {
    let pool = pool_of(&call)?;
    let model = call.app.db.model();
    let (kind, name, project) = (call.param("type"), call.param("volume"), call.project()?);
    let found = roots(&model, &pool)
        .find(|instance| kind == CONTAINER && instance.key.name.as_str() == name && instance.key.project == project);
    found.map(|instance| response::sync(volume(instance))).ok_or(Error::NotFound("Storage volume"))
}

/// `POST /1.0/storage-pools/<pool>/volumes[/<type>]`.
pub async fn create(call: Call) -> Result<Response> {
    pool_of(&call)?;
    Err(Error::Unsupported { what: "custom storage volumes".to_owned() })
}
