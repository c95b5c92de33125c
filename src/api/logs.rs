//! `/1.0/instances/<name>/logs`: what liblxc logged, the console, recorded output of commands.

use futures_util::StreamExt;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue};

use super::call::Call;
use super::entry::Body;
use super::error::Error;
use super::response::{self, Response};
use crate::instance::LogName;

type Result<T> = std::result::Result<T, Error>;

fn log_name(call: &Call) -> Result<LogName> {
    let name = call.param("file");
    LogName::parse(name).ok_or_else(|| Error::Field {
        name: "log file",
        reason: format!("{name:?} is not the name of a log; GET the list of them"),
    })
}

/// `GET /1.0/instances/<name>/logs`.
pub async fn list(call: Call) -> Result<Response> {
    let key = call.instance_key()?;
    let logs = call.app.instances.logs(&key).await?;
    let url = |name: &LogName| format!("{}/{}/logs/{}", call.tree.url(), key.name, name.as_str());
    Ok(response::sync(logs.iter().map(url).collect::<Vec<_>>()))
}

/// `GET /1.0/instances/<name>/logs/<file>`: the file itself.
pub async fn get(call: Call) -> Result<Response> {
    let name = log_name(&call)?;
    let key = call.instance_key()?;
    let files = call.app.instances.open_log(&key, name.clone()).await?;
    call.lifecycle("instance-log-retrieved", &format!("/1.0/instances/{}/logs/{}", key.name, name.as_str()));
    Ok(of_files(files, name.as_str()))
}

/// The contents of files, one after the other, as one called `name`.
pub(super) fn of_files(files: Vec<std::fs::File>, name: &str) -> Response {
    let files = futures_util::stream::iter(files.into_iter().map(tokio::fs::File::from_std));
    let body = Body::Stream(Box::pin(files.flat_map(|file| Box::pin(response::pieces(file)))));
    let mut response = http::Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if let Ok(value) = HeaderValue::from_str(&format!("inline;filename={name}")) {
        headers.insert(CONTENT_DISPOSITION, value);
    }
    response
}

/// `DELETE /1.0/instances/<name>/logs/<file>`.
pub async fn delete(call: Call) -> Result<Response> {
    let (key, name) = (call.instance_key()?, log_name(&call)?);
    let url = format!("/1.0/instances/{}/logs/{}", key.name, name.as_str());
    call.app.instances.delete_log(&key, name).await?;
    call.lifecycle("instance-log-deleted", &url);
    Ok(response::empty())
}
