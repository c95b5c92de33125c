//! `/1.0/storage-pools`.

use std::sync::Arc;

use serde_json::json;

use super::call::{Call, blocking};
use super::error::{Error, Users};
use super::response::{self, Response};
use super::wire;
use crate::db::{Model, Phase, Pool};
use crate::device;
use crate::names::PoolName;
use crate::storage::DriverKind;

type Result<T> = std::result::Result<T, Error>;

fn used_by(model: &Model, name: &PoolName) -> Vec<String> {
    let instances = model.instances.values().filter(|i| i.pool == *name);
    let profiles = model.profiles.values().filter(|p| device::pools(&p.devices).contains(name));
    instances
        .flat_map(|i| {
            let url = |rest: &str| i.key.project.url(format_args!("/1.0/instances/{}{rest}", i.key.name));
            let of = model.snapshots_of(&i.key).into_iter().filter(|s| s.phase == Phase::Ready);
            let snapshots: Vec<_> = of.map(|s| url(&format!("/snapshots/{}", s.key.name.in_url()))).collect();
            std::iter::once(url("")).chain(snapshots)
        })
        .chain(profiles.map(|p| p.project.url(format_args!("/1.0/profiles/{}", p.name.in_url()))))
        .chain(volumes(model, name))
        .collect()
}

/// The custom volumes of a pool, with their snapshots.
fn volumes<'a>(model: &'a Model, pool: &'a PoolName) -> impl Iterator<Item = String> + 'a {
    let here = model.volumes.values().filter(move |volume| volume.key.pool == *pool);
    here.flat_map(|volume| {
        let key = &volume.key;
        let project = if key.project.is_default() { String::new() } else { format!("?project={}", key.project) };
        let url = format!("/1.0/storage-pools/{}/volumes/custom/{}", key.pool.in_url(), key.name.in_url());
        let of = model.snapshots_of_volume(key).into_iter().filter(|s| s.phase == Phase::Ready);
        let snapshots: Vec<_> = of.map(|s| format!("{url}/snapshots/{}{project}", s.key.name.in_url())).collect();
        std::iter::once(format!("{url}{project}")).chain(snapshots)
    })
}

fn to_wire(call: &Call, model: &Model, pool: &Pool) -> wire::StoragePool {
    let open = call.app.instances.context().pools.get(&pool.name).is_ok();
    let mut config = pool.config.clone();
    let place = call.app.instances.context().dir.root().join("storage-pools").join(pool.name.as_str());
    config.entry("source".to_owned()).or_insert_with(|| place.display().to_string());
    if !call.trust.sees_all() {
        // Where things lie on the host is the host's business.
        config.clear();
    }
    wire::StoragePool {
        config,
        description: pool.description.clone(),
        name: pool.name.to_string(),
        driver: pool.driver.clone(),
        used_by: call.visible(used_by(model, &pool.name)),
        status: if open { "Created" } else { "Unavailable" }.to_owned(),
        locations: vec!["none".to_owned()],
    }
}

fn find(call: &Call) -> Result<(Arc<Model>, Arc<Pool>)> {
    let model = call.app.db.model();
    let name = call.named("name", "Storage pool", PoolName::new)?;
    let pool = model.pools.get(&name).cloned().ok_or(Error::NotFound("Storage pool"))?;
    Ok((model, pool))
}

/// `GET /1.0/storage-pools`.
pub async fn list(call: Call) -> Result<Response> {
    let model = call.app.db.model();
    let url = |pool: &&Arc<Pool>| format!("/1.0/storage-pools/{}", pool.name.in_url());
    call.list(model.pools.values(), url, |pool| to_wire(&call, &model, pool))
}

/// `GET /1.0/storage-pools/<name>`.
pub async fn get(call: Call) -> Result<Response> {
    let (model, pool) = find(&call)?;
    Ok(response::tagged(to_wire(&call, &model, &pool), &response::etag((&pool.description, &pool.config))))
}

/// `POST /1.0/storage-pools`.
pub async fn create(mut call: Call) -> Result<Response> {
    let body: wire::StoragePool = call.json().await?;
    let name = PoolName::new(body.name)?;
    add(&call, name.clone(), body.driver, body.description, body.config).await?;
    let url = format!("/1.0/storage-pools/{}", name.in_url());
    call.lifecycle("storage-pool-created", &url);
    Ok(response::created(&url))
}

/// Makes a pool: row (phase `creating`), directories, phase `ready`.
async fn add(call: &Call, name: PoolName, driver: String, description: String, config: wire::Config) -> Result<()> {
    let kind = DriverKind::parse(&driver)?;
    let spec = call.app.instances.context().pools.spec(&name, kind, &config);
    // Decided before anything is made, and written down with the row: a crash leaves nothing that it does not name.
    let config = blocking(move || spec.complete()).await?;
    let mut record = Pool { name: name.clone(), phase: Phase::Creating, driver, description, config: config.clone() };
    let row = record.clone();
    let db = &call.app.db;
    db.write(move |tx| {
        if tx.model().pools.contains_key(&row.name) {
            return Err(Error::Exists { what: "Storage pool", name: row.name.to_string() });
        }
        Ok(tx.put_pool(row)?)
    })
    .await?;
    let pools = Arc::clone(&call.app.instances.context().pools);
    let made = {
        let name = name.clone();
        blocking(move || pools.create(&name, kind, &config)).await
    };
    if let Err(error) = made {
        db.write(move |tx| Ok::<_, Error>(tx.delete_pool(&name)?)).await?;
        return Err(error);
    }
    record.phase = Phase::Ready;
    db.write(move |tx| Ok::<_, Error>(tx.put_pool(record)?)).await
}

/// What a pool keeps though a whole new configuration does not name it: it cannot be another one.
const KEPT: &[&str] = &["source", "size", "volatile.initial_source"];

async fn update(call: Call, change: impl FnOnce(&Pool) -> Pool + Send + 'static) -> Result<Response> {
    let (_, old) = find(&call)?;
    let wanted = call.if_match();
    let shown = to_wire(&call, &call.app.db.model(), &old).config.get("source").cloned();
    let url = format!("/1.0/storage-pools/{}", old.name.in_url());
    let pools = Arc::clone(&call.app.instances.context().pools);
    let checking = Arc::clone(&pools);
    let (before, after) = call
        .app
        .db
        .write(move |tx| {
            let old = tx.model().pools.get(&old.name).cloned().ok_or(Error::NotFound("Storage pool"))?;
            wanted.check((&old.description, &old.config))?;
            let mut new = change(&old);
            new.config.retain(|_, value| !value.is_empty());
            for key in KEPT {
                if let (false, Some(value)) = (new.config.contains_key(*key), old.config.get(*key)) {
                    new.config.insert((*key).to_owned(), value.clone());
                }
            }
            if new.config.get("source") == shown.as_ref() && !old.config.contains_key("source") {
                // The source that is shown for a pool without one came back in a whole object.
                new.config.remove("source");
            }
            checking.may_change(&old, &new.config)?;
            tx.put_pool(new.clone())?;
            Ok::<_, Error>((old, new))
        })
        .await?;
    let is = after.config.clone();
    // The row first: what a crash interrupts here, the next start does.
    if let Err(error) = blocking(move || pools.follow(&after)).await {
        let pools = Arc::clone(&call.app.instances.context().pools);
        let undone = call.app.db.write(move |tx| {
            match tx.model().pools.get(&before.name) {
                // Somebody else has changed it meanwhile, and it was followed.
                Some(now) if now.config != is => Ok(None),
                None => Ok(None),
                Some(now) => {
                    let old = Pool { config: before.config.clone(), ..(**now).clone() };
                    tx.put_pool(old.clone())?;
                    Ok::<_, Error>(Some(old))
                }
            }
        });
        if let Some(old) = undone.await? {
            blocking(move || pools.follow(&old)).await?;
        }
        return Err(error);
    }
    call.lifecycle("storage-pool-updated", &url);
    Ok(response::empty())
}

/// `PUT /1.0/storage-pools/<name>`.
pub async fn put(mut call: Call) -> Result<Response> {
    let body: wire::StoragePool = call.json().await?;
    update(call, move |old| Pool { description: body.description, config: body.config, ..old.clone() }).await
}

/// `PATCH /1.0/storage-pools/<name>`.
pub async fn patch(mut call: Call) -> Result<Response> {
    let (part, named): (wire::StoragePool, _) = call.json_part().await?;
    update(call, move |old| {
        let mut new = old.clone();
        new.config.extend(part.config);
        if named.has("description") {
            new.description = part.description;
        }
        new
    })
    .await
}

/// `DELETE /1.0/storage-pools/<name>`.
pub async fn delete(call: Call) -> Result<Response> {
    let (_, pool) = find(&call)?;
    let mut record = (*pool).clone();
    record.phase = Phase::Deleting;
    let db = &call.app.db;
    db.write(move |tx| {
        // Somebody else may be deleting it, or have done so.
        if !tx.model().pools.get(&record.name).is_some_and(|now| now.phase == Phase::Ready) {
            return Err(Error::NotFound("Storage pool"));
        }
        if let Some(by) = Users::of(used_by(tx.model(), &record.name)) {
            return Err(Error::InUse { what: "Storage pool", name: record.name.to_string(), by });
        }
        Ok(tx.put_pool(record)?)
    })
    .await?;
    let pools = Arc::clone(&call.app.instances.context().pools);
    let name = pool.name.clone();
    if let Err(error) = blocking(move || pools.delete(&name)).await {
        let record = (*pool).clone();
        db.write(move |tx| Ok::<_, Error>(tx.put_pool(record)?)).await?;
        return Err(error);
    }
    let name = pool.name.clone();
    db.write(move |tx| Ok::<_, Error>(tx.delete_pool(&name)?)).await?;
    db.forget_warnings(Some(&format!("/1.0/storage-pools/{}", pool.name.in_url()))).await;
    call.lifecycle("storage-pool-deleted", &format!("/1.0/storage-pools/{}", pool.name.in_url()));
    Ok(response::empty())
}

/// `GET /1.0/storage-pools/<name>/resources`.
pub async fn resources(call: Call) -> Result<Response> {
    let (_, pool) = find(&call)?;
    let open = call.app.instances.context().pools.get(&pool.name)?;
    let found = blocking(move || open.resources()).await?;
    Ok(response::sync(json!({
        "space": {"used": found.space_used, "total": found.space_total},
        "inodes": {"used": found.inodes_used, "total": found.inodes_total},
    })))
}
