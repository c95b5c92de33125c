//! `/1.0/warnings`.

use std::sync::Arc;

use super::call::Call;
use super::error::Error;
use super::response::{self, Response};
use super::wire;
use crate::db::{Warning, WarningStatus, rfc3339};

type Result<T> = std::result::Result<T, Error>;

fn to_wire(warning: &Warning) -> wire::Warning {
    wire::Warning {
        status: warning.status.as_str().to_owned(),
        uuid: warning.uuid.to_string(),
        location: "none".to_owned(),
        project: warning.project.as_ref().map(ToString::to_string).unwrap_or_default(),
        kind: warning.kind.as_str().to_owned(),
        count: warning.count,
        first_seen_at: rfc3339(warning.first_seen),
        last_seen_at: rfc3339(warning.last_seen),
        last_message: warning.message.clone(),
        severity: warning.kind.severity().as_str().to_owned(),
        entity_url: warning.entity.clone(),
    }
}

fn url(warning: &Warning) -> String {
    format!("/1.0/warnings/{}", warning.uuid)
}

fn find(call: &Call) -> Result<Arc<Warning>> {
    let uuid = call.param("uuid").parse().map_err(|_| Error::NotFound("Warning"))?;
    call.app.db.model().warnings.get(&uuid).cloned().ok_or(Error::NotFound("Warning"))
}

/// `GET /1.0/warnings`: all, or with `?project=` those of a project and those of none.
pub async fn list(call: Call) -> Result<Response> {
    let model = call.app.db.model();
    let project = call.query("project").map(|_| call.project()).transpose()?;
    let shown = model.warnings.values().filter(|w| project.is_none() || w.project.is_none() || w.project == project);
    call.list(shown, |warning| url(warning), |warning| to_wire(warning))
}

/// `GET /1.0/warnings/<uuid>`.
pub async fn get(call: Call) -> Result<Response> {
    let warning = find(&call)?;
    Ok(response::tagged(to_wire(&warning), &response::etag(warning.status.as_str())))
}

/// `PUT` and `PATCH /1.0/warnings/<uuid>`: only the status can be changed, to `acknowledged` or back to `new`.
pub async fn put(mut call: Call) -> Result<Response> {
    let body: wire::Warning = call.json().await?;
    let warning = find(&call)?;
    let wanted = call.if_match();
    let (status, action) = match WarningStatus::parse(&body.status) {
        Some(WarningStatus::Acknowledged) => (WarningStatus::Acknowledged, "warning-acknowledged"),
        Some(WarningStatus::New) => (WarningStatus::New, "warning-reset"),
        Some(WarningStatus::Resolved) | None => {
            let reason = "Status may only be set to \"acknowledged\" or \"new\"".to_owned();
            return Err(Error::Field { name: "status", reason });
        }
    };
    let uuid = warning.uuid;
    call.app
        .db
        .write(move |tx| {
            let now = tx.model().warnings.get(&uuid).cloned().ok_or(Error::NotFound("Warning"))?;
            wanted.check(now.status.as_str())?;
            Ok::<_, Error>(tx.put_warning(Warning { status, ..(*now).clone() })?)
        })
        .await?;
    call.lifecycle(action, &url(&warning));
    Ok(response::empty())
}

/// `DELETE /1.0/warnings/<uuid>`. What is still so is told again.
pub async fn delete(call: Call) -> Result<Response> {
    let warning = find(&call)?;
    let uuid = warning.uuid;
    call.app.db.write(move |tx| Ok::<_, Error>(tx.delete_warning(uuid)?)).await?;
    call.lifecycle("warning-deleted", &url(&warning));
    Ok(response::empty())
}
