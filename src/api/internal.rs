//! `/internal/…`: what scripts and the daemon's own verbs use, over the unix socket only.

use serde_json::json;

use super::call::Call;
use super::error::Error;
use super::response::{self, Response};

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

/// `GET /1.0/cluster`: not one.
pub async fn cluster(_: Call) -> Result<Response, Error> {
    Ok(response::sync(json!({"server_name": "", "enabled": false, "member_config": []})))
}
