//! `/internal/…`: what scripts and the daemon's own verbs use, over the unix socket only.

use std::collections::BTreeMap;

use serde_json::json;

use super::call::Call;
use super::error::Error;
use super::response::{self, Response};
use crate::events::LogLevel;

/// `GET /internal/ready`: answers when the daemon is ready; before, the socket does not answer.
pub async fn ready(call: Call) -> Result<Response, Error> {
    call.app.ready().await;
    Ok(response::empty())
}

/// `GET /internal/gc`: there is no collector to run; kept for scripts that call it.
pub async fn gc(_: Call) -> Result<Response, Error> {
    Ok(response::empty())
}

/// `PUT /internal/shutdown[?force=]`: stops the containers and ends the daemon. The answer comes when the containers
/// are stopped; the socket closes when the daemon is gone.
pub async fn shutdown(call: Call) -> Result<Response, Error> {
    let force = call.query("force").is_some_and(|text| crate::config::parse_bool(text) == Some(true));
    call.app.shutdown(force).await;
    Ok(response::empty())
}

/// `GET /internal/log-level`, ours.
pub async fn log_level(call: Call) -> Result<Response, Error> {
    Ok(response::sync(json!({"level": call.app.log.level().as_str()})))
}

/// `PUT /internal/log-level`, ours: `{"level": "debug"}`; holds until the daemon ends.
pub async fn set_log_level(mut call: Call) -> Result<Response, Error> {
    let body: BTreeMap<String, String> = call.json().await?;
    let word = body.get("level").map_or("", String::as_str);
    let level = LogLevel::parse(word).ok_or_else(|| Error::Field {
        name: "level",
        reason: format!("{word:?} is no log level: use {}", LogLevel::WORDS),
    })?;
    call.app.log.set_level(level);
    Ok(response::empty())
}

/// `POST /internal/sql`, ours: `{"query": "…"}` runs as one change by the daemon's own writer. What it does to the
/// database is seen at once; what lies outside of it (mounts, interfaces, running containers) does not follow.
pub async fn sql(mut call: Call) -> Result<Response, Error> {
    let body: BTreeMap<String, String> = call.json().await?;
    let script = body.get("query").cloned().unwrap_or_default();
    tracing::warn!(%script, "a change of the database by hand");
    let answers = call.app.db.write(move |tx| Ok::<_, Error>(tx.sql(&script)?)).await?;
    Ok(response::sync(answers))
}

/// `PUT /internal/schedule`, ours: `{"at": "2030-01-02T03:04:00Z"}` does what the schedules of snapshots and the keys
/// about images of servers want at that time, and answers when it is done.
pub async fn schedule(mut call: Call) -> Result<Response, Error> {
    let body: BTreeMap<String, String> = call.json().await?;
    let text = body.get("at").map_or("", String::as_str);
    let at = crate::db::seconds(text).ok_or_else(|| Error::Field {
        name: "at",
        reason: format!("{:?} is no time; write one as 2030-12-31T23:59:00Z", crate::names::shortened(text)),
    })?;
    call.app.instances.snapshot_round(at).await;
    crate::volume::round(&call.app.instances, at).await;
    call.app.remotes.round(at).await;
    Ok(response::empty())
}

/// `GET /1.0/cluster`: not one.
pub async fn cluster(_: Call) -> Result<Response, Error> {
    Ok(response::sync(json!({"server_name": "", "enabled": false, "member_config": []})))
}
