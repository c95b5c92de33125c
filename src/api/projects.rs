//! `/1.0/projects`.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::call::Call;
use super::error::Error;
use super::response::{self, Response};
use super::wire;
use crate::config;
use crate::db::{Feature, Model, Project, Tx};
use crate::events::lifecycle::Lifecycle;
use crate::names::{ProfileName, ProjectName};
use crate::ops::Spec;
use crate::project;

type Result<T> = std::result::Result<T, Error>;

fn to_wire(model: &Model, record: &Project) -> wire::Project {
    wire::Project {
        config: project::shown_config(record),
        description: record.description.clone(),
        name: record.name.to_string(),
        used_by: project::used_by(model, &record.name),
    }
}

/// The modifiable part, for the ETag.
fn modifiable(record: &Project) -> (&String, wire::Config) {
    (&record.description, project::shown_config(record))
}

fn url(name: &ProjectName) -> String {
    format!("/1.0/projects/{}", name.in_url())
}

fn find(call: &Call) -> Result<(Arc<Model>, Arc<Project>)> {
    let model = call.app.db.model();
    let name = call.named("name", "Project", ProjectName::new)?;
    call.check_reach(&name)?;
    let record = model.projects.get(&name).cloned().ok_or(Error::NotFound("Project"))?;
    Ok((model, record))
}

/// Tells everyone, as an event of the project itself.
fn told(call: &Call, action: &'static str, name: &ProjectName, context: Map<String, Value>) {
    let requestor = call.requestor();
    let source = url(name);
    call.app.bus.lifecycle(Lifecycle { action, source, project: name, context, requestor: Some(&requestor) });
}

/// `GET /1.0/projects`.
pub async fn list(call: Call) -> Result<Response> {
    let model = call.app.db.model();
    let shown = model.projects.values().filter(|record| call.trust.reaches(&record.name));
    call.list(shown, |record| url(&record.name), |record| to_wire(&model, record))
}

/// `GET /1.0/projects/<name>`.
pub async fn get(call: Call) -> Result<Response> {
    let (model, record) = find(&call)?;
    Ok(response::tagged(to_wire(&model, &record), &response::etag(modifiable(&record))))
}

/// `GET /1.0/projects/<name>/state`: limits, and what of them is used.
pub async fn state(call: Call) -> Result<Response> {
    let (model, record) = find(&call)?;
    let all = project::resources(&model, &record).into_iter();
    let shown: Map<String, Value> =
        all.map(|(name, of)| (name.to_owned(), json!({"Limit": of.limit, "Usage": of.usage}))).collect();
    Ok(response::sync(json!({"resources": shown})))
}

/// Makes or removes the profile `default` where the project has, or has no more, profiles of its own.
fn own_default_profile(tx: &mut Tx<'_>, name: &ProjectName, wanted: bool) -> Result<()> {
    let default = ProfileName::new("default")?;
    let is_there = tx.model().profiles.contains_key(&(name.clone(), default.clone()));
    match (wanted, is_there) {
        (true, false) => Ok(tx.put_profile(project::default_profile(name)?)?),
        (false, true) => Ok(tx.delete_profile(name, &default)?),
        (true, true) | (false, false) => Ok(()),
    }
}

/// `POST /1.0/projects`.
pub async fn create(mut call: Call) -> Result<Response> {
    let body: wire::Project = call.json().await?;
    let mut record = Project { name: ProjectName::new(body.name)?, description: body.description, config: body.config };
    for feature in Feature::ALL {
        let default = config::project_row(feature.key()).map_or("", |row| row.default);
        if config::parse_bool(default) == Some(true) {
            record.config.entry(feature.key().to_owned()).or_insert_with(|| default.to_owned());
        }
    }
    config::validate_project(&record.config)?;
    let name = record.name.clone();
    call.app
        .db
        .write(move |tx| {
            if tx.model().projects.contains_key(&record.name) {
                return Err(Error::Exists { what: "Project", name: record.name.to_string() });
            }
            tx.put_project(record.clone())?;
            own_default_profile(tx, &record.name, record.has(Feature::Profiles))?;
            Ok::<_, Error>(project::check(tx.model(), &record)?)
        })
        .await?;
    told(&call, "project-created", &name, Map::new());
    Ok(response::created(&url(&name)))
}

/// Replaces the modifiable part by what `change` makes of it.
async fn update(call: Call, change: impl FnOnce(&Project) -> Project + Send + 'static) -> Result<Response> {
    let (_, old) = find(&call)?;
    let (wanted, name) = (call.if_match(), old.name.clone());
    call.app
        .db
        .write(move |tx| {
            let old = tx.model().projects.get(&old.name).cloned().ok_or(Error::NotFound("Project"))?;
            wanted.check(modifiable(&old))?;
            let new = change(&old);
            config::validate_project(&new.config)?;
            project::check_features(tx.model(), &old, &new.config)?;
            tx.put_project(new.clone())?;
            if !new.name.is_default() {
                own_default_profile(tx, &new.name, new.has(Feature::Profiles))?;
            }
            Ok::<_, Error>(project::check(tx.model(), &new)?)
        })
        .await?;
    told(&call, "project-updated", &name, Map::new());
    Ok(response::empty())
}

/// `PUT /1.0/projects/<name>`.
pub async fn put(mut call: Call) -> Result<Response> {
    let body: wire::Project = call.json().await?;
    update(call, |old| Project { description: body.description, config: body.config, ..old.clone() }).await
}

/// `PATCH /1.0/projects/<name>`: only what the body names.
pub async fn patch(mut call: Call) -> Result<Response> {
    let (part, named): (wire::Project, _) = call.json_part().await?;
    update(call, move |old| {
        let mut new = Project { config: project::shown_config(old), ..old.clone() };
        new.config.extend(part.config);
        if named.has("description") {
            new.description = part.description;
        }
        new
    })
    .await
}

/// A project that is not `default`, and empty.
fn check_empty(model: &Model, name: &ProjectName, verb: &'static str) -> Result<()> {
    project::require(model, name)?;
    match project::content(model, name) {
        Some(by) => Err(project::Error::NotEmpty { verb, by }.into()),
        None => Ok(()),
    }
}

/// `POST /1.0/projects/<name>`: another name.
pub async fn rename(mut call: Call) -> Result<Response> {
    let body: wire::Project = call.json().await?;
    let new = ProjectName::new(body.name)?;
    let (model, record) = find(&call)?;
    if record.name.is_default() {
        return Err(project::Error::DefaultProject { verb: "renamed" }.into());
    }
    let old = record.name.clone();
    let check = move |model: &Model, old: &ProjectName, new: &ProjectName| {
        if model.projects.contains_key(new) {
            let reason = format!("A project named {:?} already exists", new.as_str());
            return Err(Error::Field { name: "name", reason });
        }
        check_empty(model, old, "renamed")
    };
    check(&model, &old, &new)?;
    let spec = Spec {
        description: "Renaming project",
        project: ProjectName::default(),
        resources: [("projects".to_owned(), vec![url(&old)])].into(),
        metadata: None,
        requestor: Some(call.requestor()),
        may_cancel: false,
    };
    let (from, to) = (old.clone(), new.clone());
    // Before the answer: there is nothing to wait for, and pylxd asks for the new name at once.
    call.app
        .db
        .write(move |tx| {
            check(tx.model(), &from, &to)?;
            let record = tx.model().projects.get(&from).cloned().ok_or(Error::NotFound("Project"))?;
            Ok::<_, Error>(tx.rename_project(&from, Project { name: to, ..(*record).clone() })?)
        })
        .await?;
    told(&call, "project-renamed", &new, Map::from_iter([("old_name".to_owned(), old.as_str().into())]));
    Ok(response::accepted(&call.app.ops.task(spec, async |_| Ok::<(), Error>(()))))
}

/// `DELETE /1.0/projects/<name>`.
pub async fn delete(call: Call) -> Result<Response> {
    let (_, record) = find(&call)?;
    if record.name.is_default() {
        return Err(project::Error::DefaultProject { verb: "deleted" }.into());
    }
    let name = record.name.clone();
    call.app
        .db
        .write(move |tx| {
            check_empty(tx.model(), &name, "removed")?;
            own_default_profile(tx, &name, false)?;
            Ok::<_, Error>(tx.delete_project(&name)?)
        })
        .await?;
    told(&call, "project-deleted", &record.name, Map::new());
    Ok(response::empty())
}
