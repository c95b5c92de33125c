//! `warren query`: any request.

use clap::Args;
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::Value;

use super::Error;
use super::client::Client;
use super::connection::{Connection, is_json, lost};
use super::output;

/// A raw request.
#[derive(Debug, Args)]
pub(super) struct Query {
    /// Method
    #[arg(short = 'X', long = "request", default_value = "GET")]
    method: String,
    /// JSON body
    #[arg(short, long)]
    data: Option<String>,
    /// Wait for the end of the operation
    #[arg(long)]
    wait: bool,
    /// Print the whole answer
    #[arg(long)]
    raw: bool,
    /// Path, e.g. /1.0/instances
    path: String,
}

/// Sends it and prints what is answered.
pub(super) async fn run(client: &Client, query: Query) -> Result<(), Error> {
    let method: Method =
        query.method.to_uppercase().parse().map_err(|_| Error::Usage(format!("{:?} is no method", query.method)))?;
    let (connection, path) =
        if query.path.starts_with('/') { (client.remote(None)?, query.path) } else { client.at(&query.path)? };
    if !path.starts_with('/') {
        return Err(Error::Usage(format!("{:?} is no path: it begins with /, as in /1.0/instances", path)));
    }
    let body: Option<Value> = match query.data {
        None => None,
        Some(text) => Some(serde_json::from_str(&text).map_err(|e| Error::Usage(format!("--data is no JSON: {e}")))?),
    };
    let response = connection.begin(Connection::json(method, &path, body.as_ref(), None)?).await?;
    if response.status().is_success() && !is_json(response.headers()) {
        return file(response.into_body()).await;
    }
    let envelope = connection.read(response).await?.0.json()?;
    let text = if query.raw {
        indented(&envelope)?
    } else if query.wait && !envelope.operation.is_empty() {
        indented(&connection.wait(&envelope.operation).await?)?
    } else if envelope.metadata.is_null() {
        return Ok(());
    } else {
        indented(&envelope.metadata)?
    };
    // An empty line ends it, as in `lxc`.
    output::json(&format!("{text}\n\n"))
}

/// As `lxc` prints it: fields in the order that the API has them, and tabs.
fn indented(value: &impl Serialize) -> Result<String, Error> {
    let mut text = Vec::new();
    let shape = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut writer = serde_json::Serializer::with_formatter(&mut text, shape);
    value.serialize(&mut writer).map_err(|e| Error::Broken(e.to_string()))?;
    String::from_utf8(text).map_err(|e| Error::Broken(e.to_string()))
}

/// Prints a file, a log or an image, as it comes.
async fn file(mut body: Incoming) -> Result<(), Error> {
    while let Some(frame) = body.frame().await {
        if let Ok(chunk) = frame.map_err(|e| lost(&e))?.into_data() {
            output::log(&chunk)?;
        }
    }
    Ok(())
}
