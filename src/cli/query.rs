//! `warren query`: any request.

use clap::Args;
use http::Method;
use serde_json::Value;

use super::Error;
use super::client::Client;
use super::connection::Answer;
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
    let envelope = match connection.ask(method, &path, body.as_ref()).await? {
        // A file: a log, an image.
        Answer::Other(bytes) => return output::bytes(&bytes),
        Answer::Json(envelope) => envelope,
    };
    let shown = if query.raw {
        serde_json::to_value(&envelope).map_err(|e| Error::Broken(e.to_string()))?
    } else if query.wait && !envelope.operation.is_empty() {
        serde_json::to_value(connection.wait(&envelope.operation).await?).map_err(|e| Error::Broken(e.to_string()))?
    } else {
        envelope.metadata
    };
    if shown.is_null() {
        return Ok(());
    }
    let text = serde_json::to_string_pretty(&shown).map_err(|e| Error::Broken(e.to_string()))?;
    output::print(&format!("{text}\n"))
}
