//! `/1.0/network-acls`: access control lists, which networks name in `security.acls`.
//!
//! As with forwards, the row is written first and the networks follow it.

use std::sync::Arc;

use super::call::Call;
use super::error::Error;
use super::response::{self, Response};
use super::wire;
use crate::db::{Acl, Feature, Model, Tx};
use crate::instance::network_spec;
use crate::names::AclName;
use crate::network::{self, Direction};
use crate::project;

type Result<T> = std::result::Result<T, Error>;

fn invalid(reason: String) -> Error {
    network::Error::Invalid { reason }.into()
}

fn users(model: &Model, acl: &Acl) -> Vec<Arc<crate::db::Network>> {
    let uses = |network: &&Arc<crate::db::Network>| {
        let names = network::acl_names(&network.config);
        network.project == acl.project && names.iter().any(|name| name == acl.name.as_str())
    };
    model.networks.values().filter(uses).cloned().collect()
}

fn used_by(model: &Model, acl: &Acl) -> Vec<String> {
    users(model, acl).iter().map(|network| acl.project.url(format_args!("/1.0/networks/{}", network.name))).collect()
}

fn to_wire(call: &Call, model: &Model, acl: &Acl) -> wire::NetworkAcl {
    wire::NetworkAcl {
        name: acl.name.to_string(),
        description: acl.description.clone(),
        egress: acl.egress.clone(),
        ingress: acl.ingress.clone(),
        config: acl.config.clone(),
        used_by: call.visible(used_by(model, acl)),
    }
}

fn modifiable(acl: &Acl) -> (&String, &wire::Config, &Vec<wire::AclRule>, &Vec<wire::AclRule>) {
    (&acl.description, &acl.config, &acl.egress, &acl.ingress)
}

fn url(name: &AclName) -> String {
    format!("/1.0/network-acls/{name}")
}

fn find(call: &Call) -> Result<(Arc<Model>, Arc<Acl>)> {
    let model = call.app.db.model();
    let name = call.named("name", "Network ACL", AclName::new)?;
    let acl = model.acl(&call.project()?, &name).cloned().ok_or(Error::NotFound("Network ACL"))?;
    Ok((model, acl))
}

fn check(acl: &Acl) -> Result<()> {
    crate::config::bounded(&acl.config)?;
    if let Some(key) = acl.config.keys().find(|key| !key.starts_with("user.")) {
        return Err(invalid(format!("Invalid config option {key:?} of a network ACL: only user.* is known")));
    }
    network::check_rules(Direction::Ingress, acl.name.as_str(), &acl.ingress)?;
    network::check_rules(Direction::Egress, acl.name.as_str(), &acl.egress)?;
    Ok(())
}

/// `GET /1.0/network-acls`.
pub async fn list(call: Call) -> Result<Response> {
    let (model, project) = (call.app.db.model(), call.scope_of(Feature::Networks)?);
    let acls = model.acls.values().filter(|acl| project.holds(&acl.project));
    call.list(acls, |acl| acl.project.url(url(&acl.name)), |acl| to_wire(&call, &model, acl))
}

/// `GET /1.0/network-acls/<name>`.
pub async fn get(call: Call) -> Result<Response> {
    let (model, acl) = find(&call)?;
    Ok(response::tagged(to_wire(&call, &model, &acl), &response::etag(modifiable(&acl))))
}

/// `GET /1.0/network-acls/<name>/log`.
pub async fn log(call: Call) -> Result<Response> {
    let (_, acl) = find(&call)?;
    let what =
        format!("the log of a network ACL: the kernel's log has its lines, beginning with \"warren {} \"", acl.name);
    Err(Error::Unsupported { what })
}

/// `POST /1.0/network-acls`.
pub async fn create(mut call: Call) -> Result<Response> {
    let body: wire::NetworkAcl = call.json().await?;
    if body.name.is_empty() {
        return Err(invalid("Name is required: give the network ACL a name".to_owned()));
    }
    let acl = Acl {
        project: call.holder(Feature::Networks)?,
        name: AclName::new(body.name)?,
        description: body.description,
        config: body.config,
        egress: body.egress,
        ingress: body.ingress,
    };
    check(&acl)?;
    let (url, shown) = (url(&acl.name), acl.project.url(url(&acl.name)));
    call.app
        .db
        .write(move |tx| {
            project::require(tx.model(), &acl.project)?;
            if tx.model().acls.contains_key(&(acl.project.clone(), acl.name.clone())) {
                // LXD's status, 400, counts here.
                return Err(invalid(format!("The network ACL {:?} already exists", acl.name.as_str())));
            }
            Ok(tx.put_acl(acl)?)
        })
        .await?;
    call.lifecycle("network-acl-created", &url);
    Ok(response::created(&shown))
}

/// Has the networks that use it follow.
async fn follow(call: &Call, acl: &Acl) -> Result<()> {
    let context = call.app.instances.context();
    let model = context.db.model();
    for network in users(&model, acl) {
        context.network_up(&network_spec(&model, &network)?).await?;
    }
    Ok(())
}

async fn update(call: Call, change: impl FnOnce(&Acl) -> Acl) -> Result<Response> {
    let context = Arc::clone(call.app.instances.context());
    let _turn = context.networks.turn().await;
    let (_, old) = find(&call)?;
    call.if_match().check(modifiable(&old))?;
    let new = change(&old);
    check(&new)?;
    let put = |acl: Acl| call.app.db.write(move |tx: &mut Tx<'_>| Ok::<_, Error>(tx.put_acl(acl)?));
    put(new).await?;
    if let Err(error) = follow(&call, &old).await {
        if let Err(error) = async { put((*old).clone()).await.and(follow(&call, &old).await) }.await {
            tracing::error!(acl = %old.name, %error, "going back to the rules that were");
        }
        return Err(error);
    }
    call.lifecycle("network-acl-updated", &url(&old.name));
    Ok(response::empty())
}

/// `PUT /1.0/network-acls/<name>`.
pub async fn put(mut call: Call) -> Result<Response> {
    let body: wire::NetworkAcl = call.json().await?;
    update(call, |old| Acl {
        description: body.description,
        config: body.config,
        egress: body.egress,
        ingress: body.ingress,
        ..old.clone()
    })
    .await
}

/// `PATCH /1.0/network-acls/<name>`: only what the body names.
pub async fn patch(mut call: Call) -> Result<Response> {
    let (part, named): (wire::NetworkAcl, _) = call.json_part().await?;
    update(call, |old| {
        let mut new = old.clone();
        new.config.extend(part.config);
        if named.has("description") {
            new.description = part.description;
        }
        if named.has("egress") {
            new.egress = part.egress;
        }
        if named.has("ingress") {
            new.ingress = part.ingress;
        }
        new
    })
    .await
}

fn unused(tx: &Tx<'_>, acl: &Acl, verb: &str) -> Result<()> {
    match used_by(tx.model(), acl).first() {
        None => Ok(()),
        Some(by) => {
            Err(invalid(format!("Cannot {verb} an ACL that is in use: by {by}; take it out of security.acls first")))
        }
    }
}

/// `POST /1.0/network-acls/<name>`: another name.
pub async fn rename(mut call: Call) -> Result<Response> {
    let body: wire::NetworkAcl = call.json().await?;
    let (_, old) = find(&call)?;
    let new = Acl { name: AclName::new(body.name)?, ..(*old).clone() };
    let (name, before) = (new.name.clone(), Arc::clone(&old));
    call.app
        .db
        .write(move |tx| {
            unused(tx, &before, "rename")?;
            if tx.model().acls.contains_key(&(new.project.clone(), new.name.clone())) {
                return Err(invalid(format!("The network ACL {:?} already exists", new.name.as_str())));
            }
            tx.delete_acl(&before.project, &before.name)?;
            Ok(tx.put_acl(new)?)
        })
        .await?;
    let url = url(&name);
    call.lifecycle_with("network-acl-renamed", &url, &[("old_name", old.name.as_str().into())]);
    Ok(response::created(&old.project.url(url)))
}

/// `DELETE /1.0/network-acls/<name>`.
pub async fn delete(call: Call) -> Result<Response> {
    let (_, old) = find(&call)?;
    let gone = Arc::clone(&old);
    call.app
        .db
        .write(move |tx| {
            unused(tx, &gone, "delete")?;
            Ok::<_, Error>(tx.delete_acl(&gone.project, &gone.name)?)
        })
        .await?;
    call.lifecycle("network-acl-deleted", &url(&old.name));
    Ok(response::empty())
}
