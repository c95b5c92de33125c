//! `/1.0/projects`: only `default` exists yet.

use serde_json::{Value, json};

use super::call::Call;
use super::error::Error;
use super::response::{self, Response};
use crate::db::{Model, Project};
use crate::names::ProjectName;

fn used_by(model: &Model, project: &ProjectName) -> Vec<String> {
    let mut urls = Vec::new();
    urls.extend(model.instances.keys().filter(|k| k.project == *project).map(|k| format!("/1.0/instances/{}", k.name)));
    urls.extend(
        model.profiles.keys().filter(|(p, _)| p == project).map(|(_, n)| format!("/1.0/profiles/{}", n.in_url())),
    );
    urls.extend(model.images.keys().filter(|(p, _)| p == project).map(|(_, f)| format!("/1.0/images/{f}")));
    urls
}

fn object(model: &Model, project: &Project) -> Value {
    json!({
        "name": project.name, "description": project.description, "config": project.config,
        "used_by": used_by(model, &project.name),
    })
}

/// `GET /1.0/projects`.
pub async fn list(call: Call) -> Result<Response, Error> {
    let model = call.app.db.model();
    let projects = model.projects.values();
    call.list(projects, |project| format!("/1.0/projects/{}", project.name.in_url()), |project| object(&model, project))
}

/// `GET /1.0/projects/<name>`.
pub async fn get(call: Call) -> Result<Response, Error> {
    let model = call.app.db.model();
    let name = call.named("name", "Project", ProjectName::new)?;
    let project = model.projects.get(&name).ok_or(Error::NotFound("Project"))?;
    Ok(response::tagged(object(&model, project), &response::etag((&project.description, &project.config))))
}
