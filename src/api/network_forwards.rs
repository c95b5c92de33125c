//! `/1.0/networks/<name>/forwards`: what comes for an address is handed on into a managed bridge.
//!
//! The row is written first and the host follows it, so a crash in between is mended by the next start, which brings networks
//! up by their rows.

use std::net::IpAddr;
use std::sync::Arc;

use super::call::Call;
use super::error::Error;
use super::networks::seen;
use super::response::{self, Response};
use super::wire;
use crate::db::{Forward, ForwardKey, Model, Network, Tx};
use crate::instance::network_spec;
use crate::names::NetworkName;
use crate::network::{self, NetworkKind};

type Result<T> = std::result::Result<T, Error>;

fn to_wire(forward: &Forward) -> wire::NetworkForward {
    wire::NetworkForward {
        description: forward.description.clone(),
        config: forward.config.clone(),
        ports: forward.ports.clone(),
        listen_address: forward.listen.to_string(),
        location: "none".to_owned(),
    }
}

fn url(forward: &Forward) -> String {
    format!("/1.0/networks/{}/forwards/{}", forward.network, forward.listen)
}

fn modifiable(forward: &Forward) -> (&String, &wire::Config, &Vec<wire::ForwardPort>) {
    (&forward.description, &forward.config, &forward.ports)
}

fn network(call: &Call, model: &Model) -> Result<Arc<Network>> {
    let name = call.named("name", "Network", NetworkName::new)?;
    let network = model.network(&seen(call, name.as_str())?, &name).cloned().ok_or(Error::NotFound("Network"))?;
    if network.kind != NetworkKind::Bridge.as_str() {
        let what = format!("forwards of a network of the type {}: only bridges have them", network.kind);
        return Err(Error::Unsupported { what });
    }
    Ok(network)
}

fn find(call: &Call, model: &Model) -> Result<Arc<Forward>> {
    let network = network(call, model)?;
    let listen: IpAddr = call.param("address").parse().map_err(|_| Error::NotFound("Network forward"))?;
    let key = (network.project.clone(), network.name.clone(), listen);
    model.forwards.get(&key).cloned().ok_or(Error::NotFound("Network forward"))
}

/// `GET /1.0/networks/<name>/forwards`.
pub async fn list(call: Call) -> Result<Response> {
    let model = call.app.db.model();
    let network = network(&call, &model)?;
    let own = |forward: &&Arc<Forward>| forward.project == network.project && forward.network == network.name;
    call.list(model.forwards.values().filter(own), |forward| url(forward), |forward| to_wire(forward))
}

/// `GET /1.0/networks/<name>/forwards/<address>`.
pub async fn get(call: Call) -> Result<Response> {
    let forward = find(&call, &call.app.db.model())?;
    Ok(response::tagged(to_wire(&forward), &response::etag(modifiable(&forward))))
}

/// Writes, has the host follow, and when it does not, writes what was.
async fn apply(
    call: &Call,
    key: ForwardKey,
    write: impl FnOnce(&mut Tx<'_>) -> Result<()> + Send + 'static,
) -> Result<()> {
    let context = call.app.instances.context();
    let was = context.db.model().forwards.get(&key).cloned();
    let (project, name) = (key.0.clone(), key.1.clone());
    let up = async || {
        let model = context.db.model();
        let network = model.network(&project, &name).ok_or(Error::NotFound("Network"))?;
        Ok::<_, Error>(context.network_up(&network_spec(&model, network)?).await?)
    };
    let checked = (project.clone(), name.clone());
    context
        .db
        .write(move |tx| {
            write(tx)?;
            // The whole network must still fit, with all its forwards.
            let network = tx.model().network(&checked.0, &checked.1).cloned().ok_or(Error::NotFound("Network"))?;
            network_spec(tx.model(), &network)?;
            Ok::<_, Error>(())
        })
        .await?;
    let Err(error) = up().await else { return Ok(()) };
    let back = context.db.write(move |tx| match was {
        Some(was) => Ok::<_, Error>(tx.put_forward((*was).clone())?),
        None => Ok(tx.delete_forward(&key)?),
    });
    if let Err(error) = async { back.await.and(up().await) }.await {
        tracing::error!(network = %name, %error, "going back to the forwards that were");
    }
    Err(error)
}

/// `POST /1.0/networks/<name>/forwards`.
pub async fn create(mut call: Call) -> Result<Response> {
    let body: wire::NetworkForward = call.json().await?;
    let context = Arc::clone(call.app.instances.context());
    let _turn = context.networks.turn().await;
    let network = network(&call, &call.app.db.model())?;
    let forward = Forward {
        project: network.project.clone(),
        network: network.name.clone(),
        listen: network::listen_address(&body.listen_address)?,
        description: body.description,
        config: body.config,
        ports: body.ports,
    };
    crate::config::bounded(&forward.config)?;
    let (key, row, url) = (forward.key(), forward.clone(), url(&forward));
    apply(&call, key, move |tx| {
        // Of two networks only one would get what comes.
        if let Some(other) = tx.model().forwards.values().find(|other| other.listen == row.listen) {
            let name = format!("{} of network {}", other.listen, other.network);
            return Err(Error::Exists { what: "Network forward", name });
        }
        Ok(tx.put_forward(row)?)
    })
    .await?;
    call.lifecycle("network-forward-created", &url);
    Ok(response::created(&url))
}

async fn update(call: Call, change: impl FnOnce(&Forward) -> Forward + Send + 'static) -> Result<Response> {
    let context = Arc::clone(call.app.instances.context());
    let _turn = context.networks.turn().await;
    let old = find(&call, &call.app.db.model())?;
    call.if_match().check(modifiable(&old))?;
    let new = change(&old);
    crate::config::bounded(&new.config)?;
    apply(&call, old.key(), move |tx| Ok(tx.put_forward(new)?)).await?;
    call.lifecycle("network-forward-updated", &url(&old));
    Ok(response::empty())
}

/// `PUT /1.0/networks/<name>/forwards/<address>`.
pub async fn put(mut call: Call) -> Result<Response> {
    let body: wire::NetworkForward = call.json().await?;
    update(call, move |old| Forward {
        description: body.description,
        config: body.config,
        ports: body.ports,
        ..old.clone()
    })
    .await
}

/// `PATCH /1.0/networks/<name>/forwards/<address>`: only what the body names.
pub async fn patch(mut call: Call) -> Result<Response> {
    let (part, named): (wire::NetworkForward, _) = call.json_part().await?;
    update(call, move |old| {
        let mut new = old.clone();
        new.config.extend(part.config);
        if named.has("description") {
            new.description = part.description;
        }
        if named.has("ports") {
            new.ports = part.ports;
        }
        new
    })
    .await
}

/// `DELETE /1.0/networks/<name>/forwards/<address>`.
pub async fn delete(call: Call) -> Result<Response> {
    let context = Arc::clone(call.app.instances.context());
    let _turn = context.networks.turn().await;
    let old = find(&call, &call.app.db.model())?;
    let key = old.key();
    apply(&call, old.key(), move |tx| Ok(tx.delete_forward(&key)?)).await?;
    call.lifecycle("network-forward-deleted", &url(&old));
    Ok(response::empty())
}
