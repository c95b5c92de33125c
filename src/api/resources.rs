//! `/1.0/resources`: the hardware of the host. And `/1.0/health`, ours: what of it works for containers.

use super::call::{Call, blocking};
use super::error::Error;
use super::response::{self, Response};
use crate::health::{self, PoolView};
use crate::sys::hardware;

/// `GET /1.0/resources`.
pub async fn get(call: Call) -> Result<Response, Error> {
    let architecture = call.app.instances.context().host.architecture();
    let found = blocking(move || Ok::<_, Error>(hardware::resources(architecture))).await?;
    Ok(response::sync(found))
}

/// `GET /1.0/metadata/configuration`: every key of the configuration, with what it does. Of later versions of LXD.
pub async fn configuration(_: Call) -> Result<Response, Error> {
    let mut all = crate::config::reference::json();
    if let Some(configs) = all.get_mut("configs").and_then(serde_json::Value::as_object_mut) {
        configs.extend(crate::network::keys_json().into_iter().map(|(kind, keys)| (kind.to_owned(), keys)));
    }
    Ok(response::sync(all))
}

/// `GET /1.0/health`.
pub async fn health(call: Call) -> Result<Response, Error> {
    let context = std::sync::Arc::clone(call.app.instances.context());
    let model = call.app.db.model();
    let view = |pool: &std::sync::Arc<crate::db::Pool>| PoolView {
        name: pool.name.clone(),
        driver: pool.driver.clone(),
        path: context.dir.pool(&pool.name),
        problem: context.pools.get(&pool.name).err().map(|error| error.to_string()),
    };
    let pools: Vec<PoolView> = model.pools.values().map(view).collect();
    let found = blocking(move || Ok::<_, Error>(health::look(context.pools.probes(), &pools))).await?;
    Ok(response::sync(found))
}
