//! `/1.0/images/aliases`: names of images; they may contain slashes and end in one.

use std::sync::Arc;

use super::call::Call;
use super::error::Error;
use super::images::{by_fingerprint, visible};
use super::response::{self, Response};
use super::wire;
use crate::db::{Alias, Feature, Model};
use crate::names::{AliasName, Fingerprint, ProjectName};

type Result<T> = std::result::Result<T, Error>;

fn to_wire(alias: &Alias) -> wire::ImageAlias {
    wire::ImageAlias {
        name: alias.name.to_string(),
        description: alias.description.clone(),
        target: Some(alias.target.to_string()),
        kind: Some("container".to_owned()),
    }
}

/// `GET /1.0/images/aliases`.
pub async fn list(call: Call) -> Result<Response> {
    let (model, project) = (call.app.db.model(), call.scope_of(Feature::Images)?);
    let aliases = model.aliases.values().filter(|alias| project.holds(&alias.project));
    let url = |alias: &&Arc<Alias>| alias.project.url(format_args!("/1.0/images/aliases/{}", alias.name.in_url()));
    call.list(aliases, url, |alias| to_wire(alias))
}

fn find(call: &Call) -> Result<Arc<Alias>> {
    let model = call.app.db.model();
    let name = call.named("name", "Image alias", AliasName::new)?;
    let alias = model.alias(&call.project()?, &name).ok_or(Error::NotFound("Image alias"))?;
    let image = model.image(&alias.project, &alias.target);
    if image.is_some_and(|image| visible(call, image)) {
        Ok(Arc::clone(alias))
    } else {
        Err(Error::NotFound("Image alias"))
    }
}

/// `GET /1.0/images/aliases/<name>`.
pub async fn get(call: Call) -> Result<Response> {
    let alias = find(&call)?;
    Ok(response::tagged(to_wire(&alias), &response::etag((&alias.description, &alias.target))))
}

fn target(model: &Model, project: &ProjectName, wanted: Option<&str>) -> Result<Fingerprint> {
    let wanted = wanted.filter(|text| !text.is_empty());
    let wanted = wanted.ok_or_else(|| Error::Field { name: "target", reason: "it must name an image".to_owned() })?;
    Ok(by_fingerprint(model, project, wanted)?.fingerprint.clone())
}

/// `POST /1.0/images/aliases`.
pub async fn add(mut call: Call) -> Result<Response> {
    let body: wire::ImageAlias = call.json().await?;
    let project = call.holder(Feature::Images)?;
    let name = AliasName::new(body.name)?;
    let alias = Alias {
        target: target(&call.app.db.model(), &project, body.target.as_deref())?,
        project: project.clone(),
        name: name.clone(),
        description: body.description,
    };
    let told = alias.target.to_string();
    call.app
        .db
        .write(move |tx| {
            if tx.model().alias(&alias.project, &alias.name).is_some() {
                return Err(Error::Exists { what: "Image alias", name: alias.name.to_string() });
            }
            Ok(tx.put_alias(alias)?)
        })
        .await?;
    let url = format!("/1.0/images/aliases/{}", name.in_url());
    call.lifecycle_with("image-alias-created", &url, &[("target", told.into())]);
    Ok(response::created(&project.url(url)))
}

/// Changes target and description, or only what is named.
async fn update(call: Call, body: wire::ImageAlias, has_target: bool, has_description: bool) -> Result<Response> {
    let old = find(&call)?;
    let wanted = call.if_match();
    let url = format!("/1.0/images/aliases/{}", old.name.in_url());
    call.app
        .db
        .write(move |tx| {
            // It may have been deleted meanwhile; an update must not bring it back.
            let old = tx.model().alias(&old.project, &old.name).cloned().ok_or(Error::NotFound("Image alias"))?;
            wanted.check((&old.description, &old.target))?;
            let mut new = (*old).clone();
            if has_target {
                new.target = target(tx.model(), &old.project, body.target.as_deref())?;
            }
            if has_description {
                new.description = body.description;
            }
            Ok::<_, Error>(tx.put_alias(new)?)
        })
        .await?;
    call.lifecycle("image-alias-updated", &url);
    Ok(response::empty())
}

/// `PUT /1.0/images/aliases/<name>`.
pub async fn put(mut call: Call) -> Result<Response> {
    let body = call.json().await?;
    update(call, body, true, true).await
}

/// `PATCH /1.0/images/aliases/<name>`.
pub async fn patch(mut call: Call) -> Result<Response> {
    let (body, named) = call.json_part().await?;
    update(call, body, named.has("target"), named.has("description")).await
}

/// `POST /1.0/images/aliases/<name>`: renames.
pub async fn rename(mut call: Call) -> Result<Response> {
    let body: wire::ImageAlias = call.json().await?;
    let old = find(&call)?;
    let new = AliasName::new(body.name)?;
    let url = format!("/1.0/images/aliases/{}", new.in_url());
    let (old_name, project) = (old.name.to_string(), old.project.clone());
    call.app
        .db
        .write(move |tx| {
            let old = tx.model().alias(&old.project, &old.name).cloned().ok_or(Error::NotFound("Image alias"))?;
            if tx.model().alias(&old.project, &new).is_some() {
                return Err(Error::Exists { what: "Image alias", name: new.to_string() });
            }
            tx.delete_alias(&old.project, &old.name)?;
            Ok(tx.put_alias(Alias { name: new, ..(*old).clone() })?)
        })
        .await?;
    call.lifecycle_with("image-alias-renamed", &url, &[("old_name", old_name.into())]);
    Ok(response::created(&project.url(url)))
}

/// `DELETE /1.0/images/aliases/<name>`.
pub async fn delete(call: Call) -> Result<Response> {
    let alias = find(&call)?;
    let url = format!("/1.0/images/aliases/{}", alias.name.in_url());
    call.app
        .db
        .write(move |tx| {
            tx.model().alias(&alias.project, &alias.name).ok_or(Error::NotFound("Image alias"))?;
            Ok::<_, Error>(tx.delete_alias(&alias.project, &alias.name)?)
        })
        .await?;
    call.lifecycle("image-alias-deleted", &url);
    Ok(response::empty())
}
